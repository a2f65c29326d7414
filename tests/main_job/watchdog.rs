//! Machines that end themselves when nobody is left to end them.

use crate::{
    cloud::{Cloud, kill_with_guard, only_rental},
    program::{User, conversation, eventually},
};
use providers::PROVIDERS;
use serde_json::json;
use std::process::Stdio;

/// A run whose machine waits a few seconds for the next word, begun at this marketplace and left
/// once it has answers.
fn a_run_that_nobody_is_left_to_settle(cloud: &Cloud, user: &User, market: &str) {
    let mut program = cloud
        .run(user, market, 600, &["--echo-pace", "50", "--yes"])
        .env("PIECEWORK_WATCHDOG", "600,6")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    eventually("a first answer", || {
        let run = user.folder().join("home/runs").read_dir().ok()?.flatten().next()?.path();
        let partial = run.join("completions.partial.jsonl").metadata().ok()?;
        (0 < partial.len()).then_some(())
    });
    kill_with_guard(user, &mut program);
}

#[test]
fn a_machine_that_hears_nothing_any_more_ends_itself() {
    for market in ["vast", "runpod"] {
        let Some(cloud) = Cloud::start("a machine that hears nothing") else { return };
        let user = User::new();
        a_run_that_nobody_is_left_to_settle(&cloud, &user, market);
        assert_eq!(cloud.world(market)["billed"], 1, "it goes on for a while");
        cloud.wait_until_nothing_is_billed(market);
        let world = cloud.world(market);
        let rental = only_rental(&world);
        assert_eq!(rental["ended_by"], "instance", "{rental:#}");

        // What it had answered is not lost, and the rest is done by another.
        let resume = cloud.piecework(&user, market, &["resume", "last", "--yes"]).output();
        let resume = resume.expect("it runs");
        assert_eq!(resume.status.code(), Some(0), "{}", conversation(&resume));
        assert_eq!(cloud.world(market)["billed"], 0);
    }
}

#[test]
fn a_machine_that_somebody_talks_to_is_left_alone() {
    let Some(cloud) = Cloud::start("a machine that somebody talks to") else { return };
    let user = User::new();
    let mut command = cloud.run(&user, "vast", 400, &["--echo-pace", "20", "--yes"]);
    // It works for longer than that, and is told every few seconds that it is needed.
    let output = command.env("PIECEWORK_WATCHDOG", "18,18").output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", conversation(&output));
    assert_eq!(only_rental(&cloud.world("vast"))["ended_by"], "account");
}

#[test]
fn what_a_machine_can_do_about_itself_is_said_before_it_is_rented() {
    let Some(cloud) = Cloud::start("what a machine can do about itself") else { return };
    let user = User::new();
    let mut said = Vec::new();
    for provider in PROVIDERS {
        let output = cloud.run(&user, provider.name, 1, &[]).output().expect("it runs");
        let text = conversation(&output);
        assert!(text.contains("nothing was rented"), "{text}");
        assert_eq!(cloud.world(provider.name)["rentals"], json!([]));
        if text.contains("can't end themselves") {
            said.push(provider.name);
        }
    }
    assert_eq!(said, ["lambda", "verda", "prime"]);
}
