//! Runs that nothing disturbs.

use crate::program::{User, answers, conversation, ids, json_lines, numbered, numbered_ids};
use serde_json::Value;
use std::{
    io::Write,
    process::{Output, Stdio},
};

/// What is said, with what differs from run to run left out.
fn told(user: &User, output: &Output) -> String {
    let mut text = conversation(output);
    text = text.replace(&*user.folder().canonicalize().expect("there").to_string_lossy(), "[HOME]");
    let words = text.split_inclusive([' ', '\n', '/']).map(|word| {
        let bare = word.trim_end_matches([' ', '\n', '/', ':', ',']);
        let end = &word[bare.len()..];
        let (label, id) = (bare.starts_with("pw-"), bare.starts_with("local-"));
        let run = bare.len() == 10 && bare.as_bytes()[5] == b'-' && bare.is_ascii();
        match () {
            () if label => format!("[LABEL]{end}"),
            () if id => format!("[INSTANCE]{end}"),
            () if run => format!("[RUN]{end}"),
            () => word.to_owned(),
        }
    });
    words.collect()
}

#[test]
fn a_run_says_what_it_does_and_what_it_costs() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(20));
    let output = user.done(&["run", "prompts.jsonl", "--engine", "echo"]);
    insta::with_settings!({ filters => vec![
        (r"\d+ cores?, [\d.]+ GiB", "[COMPUTER]"),
        (r"in [\d.]+ s\b", "in [TIME]"),
        (r"[\d.]+[kM]?/s", "[RATE]/s"),
        (r"getting the worker, .*", "getting the worker, [SIZE]"),
        (r"echo: .*", "echo: [STATUS]"),
        // How it is doing is told after two seconds, which it may take or not.
        (r" *\d+ of 20 \(.*\n", ""),
    ] }, {
        insta::assert_snapshot!(told(&user, &output), @r"
            exit: Some(0)
            --- stdout
            --- stderr
            20 prompts, 660 B, for echo
            run [RUN]: 20 prompts, echo, echo engine
            machine 0: renting [COMPUTER], this computer from local at $0.0000/h
            machine 0: rented, [INSTANCE]
            machine 0: booting
            machine 0: connecting
            machine 0: getting the worker, [SIZE]
            machine 0: echo: [STATUS]
            giving back 1 instance
            released [LABEL]: $0.00
            putting the completions in order
            done: 20 of 20, in [TIME]
            tokens: 50 in, 50 out, [RATE]/s
            cost: $0.00
            completions: [HOME]/home/runs/[RUN]/completions.jsonl
            what it did: piecework report [RUN]
            nothing is left running
            ");
    });
}

#[test]
fn completions_come_in_the_order_of_the_prompts() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(500));
    user.done(&["run", "prompts.jsonl", "--engine", "echo", "--out", "out.jsonl"]);
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(500));
    let answers = answers(&user.folder().join("out.jsonl"));
    for (id, answer) in answers {
        assert_eq!(answer["message"]["content"], format!("number {}", &id[1..]));
    }
    user.assert_nothing_left();
}

#[test]
fn every_form_of_prompt_is_answered() {
    let user = User::new();
    let prompts = concat!(
        r#"{"prompt": "one"}"#,
        "\n",
        r#"{"id": 2, "messages": [{"role": "user", "content": "two"}]}"#,
        "\n\n",
        r#"{"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "three"}]}}"#,
        "\n",
        r#"{"custom_id": "d", "method": "POST", "url": "/v1/completions", "body": {"prompt": "four"}}"#,
    );
    user.file("prompts.jsonl", prompts);
    user.done(&["run", "prompts.jsonl", "--engine", "echo", "--out", "out.jsonl"]);
    let out = user.folder().join("out.jsonl");
    assert_eq!(ids(&out), ["prompt-0", "2", "c", "d"]);
    let said: Vec<_> = json_lines(&out)
        .iter()
        .map(|line| line["response"]["body"]["choices"][0]["message"]["content"].clone())
        .collect();
    assert_eq!(said, ["one", "two", "three", "four"]);
}

#[test]
fn prompts_come_in_and_completions_go_out_through_pipes() {
    let user = User::new();
    let arguments = ["run", "-", "--engine", "echo", "--out", "-"];
    let mut command = user.piecework(&arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(b"first\nsecond\n").expect("it listens");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", conversation(&output));
    let out = user.file("out.jsonl", &output.stdout);
    assert_eq!(ids(&out), ["prompt-0", "prompt-1"]);
}

#[test]
fn events_are_told_as_json() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(20));
    let output = user.done(&["run", "prompts.jsonl", "--engine", "echo", "--json"]);
    let events: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    assert!(events.iter().all(|event| event["v"] == 1 && event["at"].is_string()));
    let mut story: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    story.retain(|event| !matches!(*event, "progress" | "phase"));
    assert_eq!(
        story,
        ["run_started", "offer_chosen", "rented", "settling", "released", "ordering", "finished"]
    );
    let last = events.last().expect("there are some");
    assert_eq!(
        (&last["done"], &last["total"], &last["complete"]),
        (&20.into(), &20.into(), &true.into())
    );
}

#[test]
fn several_machines_share_the_work() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(2000));
    let arguments = ["run", "prompts.jsonl", "--engine", "echo", "--echo-pace", "1000"];
    let output = user.done(&[&arguments[..], &["--machines", "3", "--out", "out.jsonl"]].concat());
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(2000));
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told.matches("released ").count(), 3, "{told}");
    user.assert_nothing_left();
}

#[test]
fn a_dry_run_rents_nothing_and_leaves_nothing() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(5));
    let output = user.done(&["run", "prompts.jsonl", "--engine", "echo", "--dry-run"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("5 prompts"));
    let runs = user.folder().join("home/runs");
    assert_eq!(std::fs::read_dir(runs).expect("it is there").count(), 0);
    user.assert_nothing_left();
}
