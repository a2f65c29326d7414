//! A run whose prompts are too much for its inference server: each bad one is told with its reason, and
//! all others are answered. The server is the stand-in of the worker's own tests.

use crate::{
    program::{User, conversation, ids, json_lines, numbered_ids},
    standin::{CONTEXT, description},
};
use std::{collections::BTreeMap, fmt::Write as _, fs};

#[test]
fn a_run_with_poison_in_it_answers_everything_else_and_tells_why_not() {
    let (count, bad) = (200, BTreeMap::from([(20, "long"), (77, "CRASH"), (150, "HANG")]));
    let user = User::new();
    let text = |index: usize| match bad.get(&index) {
        Some(&"long") => "long ".repeat(CONTEXT + 1),
        Some(word) => format!("{word} {index}"),
        None => format!("good prompt {index}"),
    };
    let prompts = (0..count).fold(String::new(), |mut lines, index| {
        writeln!(lines, "{{\"id\":\"q{index}\",\"prompt\":\"{}\"}}", text(index)).unwrap();
        lines
    });
    user.file("prompts.jsonl", prompts);
    let mut server = description(&[]);
    server.patience.silent = 1;
    user.file("server.toml", toml::to_string(&server).expect("a server is a table"));
    let model = user.folder().join("model");
    fs::create_dir(&model).expect("it is new");
    // As much of a model as is looked at before a server loads it.
    for (name, content) in [
        ("config.json", r#"{"max_position_embeddings": 100}"#),
        ("tokenizer.json", "{}"),
        ("chat_template.jinja", ""),
        ("model.safetensors", ""),
    ] {
        fs::write(model.join(name), content).expect("the folder is there");
    }
    let output = user.run(&[
        "run",
        "prompts.jsonl",
        "--model",
        "./model",
        "--server",
        "server.toml",
        "--out",
        "out.jsonl",
        "--yes",
    ]);
    let told = conversation(&output);
    assert_eq!(output.status.code(), Some(5), "{told}");
    assert!(told.contains("out.errors.jsonl"), "{told}");

    let good = numbered_ids(count).into_iter().enumerate();
    let good: Vec<String> =
        good.filter(|(index, _)| !bad.contains_key(index)).map(|(_, id)| id).collect();
    assert_eq!(ids(&user.folder().join("out.jsonl")), good);
    let errors = json_lines(&user.folder().join("out.errors.jsonl"));
    let said = |error: &serde_json::Value, part: &str| {
        error["reason"].as_str().is_some_and(|reason| reason.contains(part))
    };
    let expected = [
        ("q20", "too_long", "exceed the available context size"),
        ("q77", "engine", "can't stand CRASH 77"),
        ("q150", "engine", "said nothing for"),
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:?}");
    for (error, (id, failure, reason)) in errors.iter().zip(expected) {
        assert!(error["custom_id"] == id && error["failure"] == failure, "{error}");
        assert!(said(error, reason), "{error}");
    }
    let report = user.done(&["report", "last"]).stdout;
    let report = String::from_utf8_lossy(&report);
    assert!(report.contains("exceed the available context size"), "{report}");
    user.assert_nothing_left();
}
