//! Runs that have just been made, and what `report --json` says of them.

use crate::{
    made::{PROMPTS, make},
    program::{User, conversation, eventually, numbered},
};
use serde_json::Value;
use std::fs;

fn reported(user: &User, run: &str) -> Value {
    let output = user.done(&["report", run, "--json"]);
    serde_json::from_slice(&output.stdout).expect("it is one line of JSON")
}

fn sum(of: &Value, each: impl Fn(&Value) -> u64) -> u64 {
    of.as_array().expect("it is a list").iter().map(each).sum()
}

fn micros(value: &Value) -> u64 {
    value.as_u64().expect("money is an integer")
}

/// What must hold of every account.
fn assert_sound(account: &Value) {
    let machines = &account["machines"];
    let money = &account["money"];
    assert_eq!(sum(machines, |machine| micros(&machine["micro_usd"])), micros(&money["paid"]));
    assert_eq!(money["by_step"].as_array().unwrap().last().unwrap(), &money["paid"]);
    let mut waited = 0;
    for machine in machines.as_array().unwrap() {
        let phases = machine["phases"].as_array().unwrap();
        assert_eq!(
            sum(&machine["phases"], |p| micros(&p["micro_usd"])),
            micros(&machine["micro_usd"])
        );
        let mut end = machine["begins"].as_f64().unwrap();
        for phase in phases {
            assert!((phase["begins"].as_f64().unwrap() - end).abs() < 1e-6, "{phases:#?}");
            end += phase["seconds"].as_f64().unwrap();
            waited += if phase["phase"] == "working" { 0 } else { micros(&phase["micro_usd"]) };
        }
        let whole = machine["begins"].as_f64().unwrap() + machine["seconds"].as_f64().unwrap();
        assert!((end - whole).abs() < 1e-6, "{phases:#?}");
    }
    assert_eq!(waited, micros(&money["not_working"]));
}

#[test]
fn a_run_leaves_a_story_and_its_report_adds_up() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(400) + "no JSON\n{\"prompt\": 5}\n");
    let echo = ["--engine", "echo", "--machines", "2", "--echo-pace", "150"];
    let output = user.run(&[&["run", "prompts.jsonl"], &echo[..]].concat());
    assert_eq!(output.status.code(), Some(5), "{}", conversation(&output));
    let account = reported(&user, "last");
    assert_sound(&account);
    let prompts = &account["prompts"];
    assert_eq!([&prompts["total"], &prompts["done"], &prompts["failed"]], [402, 400, 2]);
    assert_eq!((&account["state"], &account["prompts"]["left"]), (&"complete".into(), &0.into()));
    // Every answer was some machine's.
    assert_eq!(sum(&account["machines"], |machine| micros(&machine["prompts"])), 400);
    assert_eq!(micros(&account["latency"]["timed"]), 400);
    let names = |machine: &Value| {
        let phases = machine["phases"].as_array().unwrap();
        phases.iter().map(|phase| phase["phase"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for machine in account["machines"].as_array().unwrap() {
        let names = names(machine);
        assert_eq!(names.first().unwrap(), "renting", "{names:?}");
        assert!(names.contains(&"working".to_owned()), "{names:?}");
        assert_eq!(names.last().unwrap(), "releasing", "{names:?}");
        assert!(!machine["released"].is_null() && machine["what"] != "", "{machine:#}");
    }
    assert_eq!(sum(&account["failures"], |reason| micros(&reason["prompts"])), 2);
    assert_eq!(account["sessions"][0]["ending"], "complete");
}

#[test]
fn a_run_can_be_reported_on_while_it_goes_on_and_once_it_was_killed_and_resumed() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(600));
    let echo = ["--engine", "echo", "--echo-pace", "100"];
    let mut program = user.start(&[&["run", "prompts.jsonl"], &echo[..]].concat());
    let account = eventually("an answer in a report", || {
        let told = user.run(&["report", "last", "--json"]);
        let account: Value = serde_json::from_slice(&told.stdout).ok()?;
        (account["machines"][0]["prompts"].as_u64()? != 0).then_some(account)
    });
    assert_sound(&account);
    assert_eq!(
        (&account["state"], &account["machines"][0]["released"]),
        (&"running".into(), &Value::Null)
    );
    program.kill().expect("it is ours");
    program.wait().expect("it is over");
    let account = reported(&user, "last");
    assert_eq!(
        (&account["state"], &account["sessions"][0]["ending"]),
        (&"stopped".into(), &"died".into())
    );
    user.done(&["resume", "last"]);
    let account = reported(&user, "last");
    assert_sound(&account);
    assert_eq!((&account["state"], &account["prompts"]["done"]), (&"complete".into(), &600.into()));
    let endings: Vec<_> =
        account["sessions"].as_array().unwrap().iter().map(|s| s["ending"].clone()).collect();
    assert_eq!(endings, ["died", "complete"]);
}

#[test]
fn a_story_that_cannot_be_kept_keeps_no_run_from_its_end() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(50));
    let run = ["run", "prompts.jsonl", "--engine", "echo", "--echo-pace", "20"];
    let mut program = user.start(&run);
    let story = eventually("a story", || {
        let runs = fs::read_dir(user.folder().join("home/runs")).ok()?.next()?.ok()?.path();
        Some(runs.join("story.jsonl")).filter(|story| story.exists())
    });
    fs::remove_file(&story).expect("it is there");
    fs::create_dir(&story).expect("it is gone");
    assert!(program.wait().expect("it ends").success());
    // Resumed once more, it can't even be opened.
    user.done(&["resume", "last"]);
    let output = user.done(&["report", "last"]);
    let said = conversation(&output);
    assert!(said.contains("50 of 50 done") && said.contains("story can't be read"), "{said}");
}

#[test]
fn the_report_of_four_million_prompts_is_small_and_adds_up() {
    let user = User::new();
    let folder = make(&user, 3);
    let account = reported(&user, &folder.to_string_lossy());
    assert_sound(&account);
    let story = fs::metadata(folder.join("story.jsonl")).unwrap().len();
    assert!(story < 16 << 20, "{story}");
    assert_eq!(account["machines"].as_array().unwrap().len(), 7);
    // All but what the session that died had not noted yet.
    let done = sum(&account["machines"], |machine| micros(&machine["prompts"]));
    assert!((PROMPTS - 37 - done) * 100 < PROMPTS, "{done}");
    let unwatched = |machine: &Value| {
        let phases = machine["phases"].as_array().unwrap();
        phases.iter().any(|phase| phase["phase"] == "unwatched")
    };
    let unwatched = account["machines"].as_array().unwrap().iter().filter(|m| unwatched(m)).count();
    assert_eq!(unwatched, 3, "the guard gave back three");
    // The night between the sessions isn't counted.
    let hours = account["seconds"].as_f64().unwrap() / 3600.0;
    assert!((38.0..38.3).contains(&hours), "{hours}");
    assert_eq!(account["seams"].as_array().unwrap().len(), 1);
}
