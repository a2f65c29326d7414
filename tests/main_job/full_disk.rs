//! A run whose folder and completions are on a disk that is full at every page of what it writes:
//! its plan, its ledger, its key, its story, its results, their order.

use crate::{
    bad_input::SmallDisk,
    program::{User, conversation, eventually, ids, numbered_ids, processes_in},
};
use std::{collections::BTreeMap, env, fs, process::Command};

const PROMPTS: usize = 60;

/// Between the sizes that are tried every time, in pages.
const STRIDE: usize = 6;

/// Bytes of a page, which is what such a disk is made of.
const PAGE: usize = 4096;

const RUN: [&str; 7] =
    ["run", "prompts.jsonl", "--engine", "echo", "--out", "home/runs/out.jsonl", "--force"];

/// What became of a run on a disk of so many pages: its exit code, and what it could not write.
fn outcome(user: &User) -> (i32, String) {
    let output = user.run(&RUN);
    let said = conversation(&output);
    let code = output.status.code().unwrap_or_else(|| panic!("it was struck down: {said}"));
    // Done; failed; or the ledger could not be told that nothing is billed any more.
    assert!([0, 1, 70].contains(&code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    let error = said.lines().find(|line| line.starts_with("error:")).unwrap_or_default();
    let file = error.split('`').nth(1).or(error.split(' ').find(|word| word.contains('/')));
    let file = file.and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let is_run = file.len() == 10 && file.as_bytes()[5] == b'-';
    (code, if is_run { "a run's folder".to_owned() } else { file.to_owned() })
}

/// Runs on a disk of so many pages, makes room, and goes on.
fn fill(pages: usize, outcomes: &mut BTreeMap<(i32, String), usize>) -> bool {
    let user = User::new();
    let disk = user.folder().join("home/runs");
    let size = (pages * PAGE).to_string();
    let disk = SmallDisk::mount(&disk, &size).expect("it was allowed before");
    let long = |i| format!("{{\"id\":\"q{i}\",\"prompt\":\"number {i} {}\"}}\n", "x".repeat(600));
    user.file("prompts.jsonl", (0..PROMPTS).map(long).collect::<String>());
    let outcome = outcome(&user);
    let done = outcome.0 == 0;
    // Nothing is left at work, whatever the ledger could be told; only a guard may wait for room.
    eventually("the end of all instances", || {
        let left = processes_in(&user.folder().join("home"));
        left.iter().all(|process| process.contains("guard")).then_some(())
    });
    *outcomes.entry(outcome).or_default() += 1;
    let more = Command::new("mount").args(["-o", "remount,size=64m"]).arg(disk.at()).status();
    assert!(more.expect("mount runs").success());
    if !done {
        let resumed = user.run(&["resume", "last"]);
        // One that never had a plan is begun anew.
        if resumed.status.code() != Some(0) {
            let said = conversation(&resumed);
            assert!(said.contains("there is no run"), "{pages} pages: {said}");
            user.done(&RUN);
        }
    }
    let out = disk.at().join("out.jsonl");
    assert_eq!(ids(&out), numbered_ids(PROMPTS), "{pages} pages");
    user.assert_nothing_left();
    done
}

#[test]
#[expect(clippy::print_stdout, reason = "what was tried is counted, and what is skipped named")]
fn a_disk_that_is_full_at_any_page_ends_a_run_so_that_resume_completes_it() {
    let trial = tempfile::tempdir().expect("a folder");
    if SmallDisk::mount(&trial.path().join("disk"), "64k").is_none() {
        println!("skipped a_disk_that_is_full_at_any_page…: no permission to mount a small disk");
        return;
    }
    let all = env::var_os("PIECEWORK_TEST_EVERY_PAGE").is_some();
    let stride = if all { 1 } else { STRIDE };
    let mut outcomes = BTreeMap::new();
    let mut tried = 0;
    for pages in (1..).step_by(stride) {
        tried += 1;
        // Once there is room for everything, there is with more.
        if fill(pages, &mut outcomes) {
            break;
        }
        assert!(pages < 400, "a run of {PROMPTS} prompts takes no more");
    }
    println!("disks of 1 to {} pages: {tried} runs", 1 + (tried - 1) * stride);
    for ((code, file), count) in &outcomes {
        println!("  exit {code} {count} times {}", if file.is_empty() { "" } else { file });
    }
    let failed: usize =
        outcomes.iter().filter(|((code, _), _)| *code != 0).map(|(_, count)| count).sum();
    assert_eq!(failed + 1, tried);
    assert!(2 < outcomes.len(), "several files were the one that found no room: {outcomes:?}");
    drop(fs::remove_dir(trial.path().join("disk")));
}
