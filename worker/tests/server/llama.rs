//! A real llama.cpp server, where `PIECEWORK_TEST_LLAMA_SERVER` and `PIECEWORK_TEST_SMOLLM2_GGUF` name
//! one and a model: started, killed, stopped and started again.

use crate::harness::{Bench, body, failure, send_signal};
use crate::llama_server::description;
use crate::support::Home;
use serde_json::json;
use std::{env, fs, path::PathBuf};
use wire::{Failure, Form, Limits, Prompt, ToWorker};

#[expect(clippy::print_stderr, reason = "what is skipped is said")]
async fn bench() -> Option<Bench> {
    let program = env::var("PIECEWORK_TEST_LLAMA_SERVER").ok();
    let model = env::var("PIECEWORK_TEST_SMOLLM2_GGUF").ok();
    let (Some(program), Some(model)) = (program, model) else {
        eprintln!(
            "skipped: PIECEWORK_TEST_LLAMA_SERVER or PIECEWORK_TEST_SMOLLM2_GGUF names nothing"
        );
        return None;
    };
    let limits = Limits { context: Some(256), ..Limits::default() };
    let keep = tempfile::tempdir().expect("a folder");
    let mut bench =
        Bench::with_model(Home::new(), description(&program), &PathBuf::from(model), limits, keep)
            .await;
    let facts = bench.ready().await.expect("it comes up");
    assert_eq!((facts.context, facts.batch), (256, 4));
    Some(bench)
}

/// The server's own process: the one whose parent is this worker's keeper.
fn server_process(bench: &Bench) -> u32 {
    let folder = bench.home.path().canonicalize().expect("it is there");
    let here = |process: &fs::DirEntry| {
        fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == folder)
    };
    let named = |process: &fs::DirEntry| {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        name.trim() == "llama-server"
    };
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let mut found = processes.filter(|process| here(process) && named(process));
    let process = found.next().expect("the server runs");
    process.file_name().to_string_lossy().parse().expect("a number")
}

fn prompts(count: u64) -> ToWorker {
    let prompt = |index| Prompt {
        index,
        form: Form::Auto,
        body: json!({"prompt": format!("What is {index} and 1?"), "max_tokens": 12}).to_string(),
    };
    ToWorker::Prompts((0..count).map(prompt).collect())
}

#[tokio::test]
async fn a_real_server_answers_chats_texts_schemas_and_refuses_what_is_too_long() {
    let Some(mut bench) = bench().await else { return };
    let schema =
        json!({"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]});
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    let bodies = [
        (
            Form::Auto,
            json!({"prompt": "What is the capital of France?", "max_tokens": 12, "temperature": 0}),
        ),
        (Form::Text, json!({"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0})),
        (
            Form::Chat,
            json!({"messages": [{"role": "user", "content": "A number?"}], "max_tokens": 80, "response_format": format}),
        ),
        (Form::Text, json!({"prompt": "word ".repeat(600)})),
        (Form::Chat, json!({"messages": "none"})),
    ];
    let prompts = (0..).zip(bodies).map(|(index, (form, body))| Prompt {
        index,
        form,
        body: body.to_string(),
    });
    bench.controller.say(ToWorker::Prompts(prompts.collect())).await;
    let outcomes = bench.outcomes(5, |_| {}).await;
    let chat = body(&outcomes[&0]);
    assert_eq!(chat["object"], "chat.completion");
    assert!(chat["choices"][0]["message"]["content"].as_str().is_some_and(|text| !text.is_empty()));
    let text = body(&outcomes[&1]);
    assert_eq!((&text["object"], &text["model"]), (&json!("text_completion"), &json!("tested")));
    assert_eq!(text["usage"]["completion_tokens"], 8);
    let content = body(&outcomes[&2])["choices"][0]["message"]["content"].to_string();
    let content: String = serde_json::from_str(&content).expect("a text");
    let value: serde_json::Value =
        serde_json::from_str(&content).expect("the schema was passed on");
    assert!(value["n"].is_boolean(), "{value}");
    assert_eq!(failure(&outcomes[&3]).0, Failure::TooLong, "{:?}", outcomes[&3]);
    assert_eq!(failure(&outcomes[&4]).0, Failure::BadRequest, "{:?}", outcomes[&4]);
}

#[tokio::test]
async fn a_real_server_that_is_killed_and_stopped_loses_no_prompt() {
    let Some(mut bench) = bench().await else { return };
    bench.controller.say(prompts(60)).await;
    let folder = bench.home.path().to_owned();
    let mut signals = vec![(24, "-STOP"), (8, "-9")];
    let mut strike = |process: &dyn Fn() -> u32, done: usize| {
        if signals.last().is_some_and(|(at, _)| *at <= done) {
            let (_, signal) = signals.pop().expect("it was looked at");
            send_signal(process(), signal);
        }
    };
    let mut outcomes = crate::harness::Outcomes::new();
    while outcomes.len() < 60 {
        let some = bench.some_outcomes().await;
        outcomes.extend(some);
        strike(&|| server_process(&bench), outcomes.len());
    }
    assert!(outcomes.values().all(|outcome| body(outcome)["choices"][0]["message"].is_object()));
    let notes = fs::read_to_string(folder.join("servers.log")).expect("something happened");
    assert!(notes.contains("llama-cpp died") && notes.contains("said nothing for"), "{notes}");
}
