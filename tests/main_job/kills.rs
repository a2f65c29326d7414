//! Runs that are killed: the program, the worker, the instance.

use crate::program::{
    User, conversation, eventually, ids, json_lines, numbered, numbered_ids, pids_in, signal,
};
use std::{
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const PROMPTS: usize = 400;
const RUN: [&str; 8] =
    ["run", "prompts.jsonl", "--engine", "echo", "--echo-pace", "300", "--out", "out.jsonl"];

/// Kills the program at this moment of a run; tells whether it was still at it.
fn killed_after(user: &User, moment: Duration) -> bool {
    let mut program = user.start(&RUN);
    let begin = Instant::now();
    while begin.elapsed() < moment {
        if program.try_wait().expect("it can be asked").is_some() {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    program.kill().expect("it can be killed");
    program.wait().expect("it ends");
    true
}

/// Moments all over a run, the same in every test run.
fn moments(count: u64) -> impl Iterator<Item = Duration> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Duration::from_millis(state % 1_800)
    })
}

/// A run whose program is killed once it has an instance.
fn begun_and_killed(user: &User) {
    user.file("prompts.jsonl", numbered(PROMPTS));
    let mut program = user.start(&RUN);
    user.only_instance();
    program.kill().expect("it can be killed");
    program.wait().expect("it ends");
}

#[test]
fn a_run_killed_at_any_moment_is_resumed_with_every_prompt_exactly_once() {
    let mut killed = 0;
    for moment in moments(20) {
        let user = User::new();
        user.file("prompts.jsonl", numbered(PROMPTS));
        if killed_after(&user, moment) {
            killed += 1;
            let plan = std::fs::read_dir(user.folder().join("home/runs"));
            let begun = plan.ok().and_then(|mut runs| runs.next()?.ok());
            if begun.is_none_or(|run| !run.path().join("plan.json").exists()) {
                // Killed before the run was begun, and so before anything was rented.
                user.assert_nothing_left();
                continue;
            }
            user.done(&["resume", "last"]);
        }
        let case = format!("killed after {moment:?}");
        assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS), "{case}");
        user.assert_nothing_left();
    }
    assert!(10 < killed, "only {killed} of 20 runs were still going on");
}

#[test]
fn a_resume_that_is_killed_is_resumed() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    assert!(killed_after(&user, Duration::from_millis(800)));
    for _ in 0..3 {
        let mut program = user.start(&["resume", "last"]);
        sleep(Duration::from_millis(150));
        program.kill().expect("it can be killed");
        program.wait().expect("it ends");
    }
    user.done(&["resume", "last"]);
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
    user.assert_nothing_left();
}

#[test]
fn an_instance_that_nobody_resumes_is_found_and_ended_by_cleanup() {
    let user = User::new();
    begun_and_killed(&user);

    let ps = user.done(&["ps", "--json"]);
    assert!(String::from_utf8_lossy(&ps.stdout).contains(r#""kind":"orphaned""#));
    // Nobody was asked, so nothing is ended, and the exit code says so.
    let shown = user.run(&["cleanup"]);
    assert_eq!(shown.status.code(), Some(70), "{}", conversation(&shown));
    user.done(&["cleanup", "--yes"]);
    user.assert_nothing_left();
    user.done(&["resume", "last"]);
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
    user.assert_nothing_left();
}

#[test]
fn a_live_run_is_shown_and_not_cleaned_up() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    let mut program = user.start(&RUN);
    user.only_instance();
    let ps = user.done(&["ps", "--json"]);
    assert!(String::from_utf8_lossy(&ps.stdout).contains(r#""kind":"in_use""#));
    user.done(&["cleanup", "--yes"]);
    let second = user.run(&["resume", "last"]);
    assert_eq!(second.status.code(), Some(1), "{}", conversation(&second));
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(told.contains("the run is in use by process"), "{told}");
    assert!(program.wait().expect("it ends").success());
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
}

#[test]
fn a_worker_that_dies_is_started_again_and_loses_nothing() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    let program = user.start(&RUN);
    let instance = user.only_instance();
    for _ in 0..3 {
        let worker = eventually("a worker", || pids_in(&instance, "\0serve\0").into_iter().next());
        sleep(Duration::from_millis(200));
        signal(&worker, "9");
    }
    let output = program.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", conversation(&output));
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
    user.assert_nothing_left();
}

#[test]
fn an_instance_that_dies_is_replaced() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    let program = user.start(&RUN);
    let instance = user.only_instance();
    let partial = user.only_run().join("completions.partial.jsonl");
    eventually("a completion", || {
        partial.metadata().is_ok_and(|about| 0 < about.len()).then_some(())
    });
    for pid in pids_in(&instance, "local-instance") {
        signal(&pid, "9");
    }
    let output = program.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", conversation(&output));
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("machine 0: lost"), "{told}");
    user.assert_nothing_left();
}

#[test]
fn a_finished_run_can_be_resumed_and_nothing_happens() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(10));
    user.done(&RUN);
    let before = json_lines(&user.folder().join("out.jsonl"));
    let output = user.done(&["resume", "last"]);
    assert_eq!(json_lines(&user.folder().join("out.jsonl")), before);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("rented"));
}

#[test]
fn a_changed_input_is_refused_by_resume() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    assert!(killed_after(&user, Duration::from_millis(700)));
    user.file("prompts.jsonl", numbered(PROMPTS - 1));
    let output = user.run(&["resume", "last"]);
    assert_eq!(output.status.code(), Some(1), "{}", conversation(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has changed since the run began"));
    // The instance of the killed run is given back all the same.
    user.assert_nothing_left();
}

#[test]
fn what_failed_can_be_tried_again_after_the_run() {
    let user = User::new();
    user.file("prompts.jsonl", format!("{}{{\"id\":\"bad\"}}\n", numbered(5)));
    let output = user.run(&RUN);
    assert_eq!(output.status.code(), Some(5), "{}", conversation(&output));
    let output = user.run(&["resume", "last", "--retry-failed"]);
    assert_eq!(output.status.code(), Some(5), "{}", conversation(&output));
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(5));
    assert_eq!(json_lines(&user.folder().join("out.errors.jsonl")).len(), 1);
}

#[test]
fn the_guard_gives_back_what_a_killed_run_has_rented() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    let mut command = user.piecework(&RUN);
    let mut program = command.env("PIECEWORK_GUARD_GRACE", "1").spawn().expect("it runs");
    user.only_instance();
    program.kill().expect("it can be killed");
    program.wait().expect("it ends");
    user.wait_until_nothing_is_left();
    user.done(&["resume", "last"]);
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
}

#[test]
fn a_guard_that_dies_is_replaced() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    let program = user.start(&RUN);
    let run = eventually("a run", || {
        let mut runs = std::fs::read_dir(user.folder().join("home/runs")).ok()?;
        Some(runs.next()?.ok()?.path())
    });
    let guard = eventually("a guard", || pids_in(&run, "guard").into_iter().next());
    user.only_instance();
    signal(&guard, "9");
    let output = program.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", conversation(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("the guard had died; another stands in its place"), "{told}");
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
    user.assert_nothing_left();
}

#[test]
fn a_guard_that_is_told_to_end_stays_while_something_is_owed() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    let mut command = user.piecework(&RUN);
    command.env("PIECEWORK_GUARD_GRACE", "1").stdout(Stdio::null()).stderr(Stdio::null());
    let mut program = command.spawn().expect("it runs");
    user.only_instance();
    let guards = || pids_in(&user.only_run(), "guard");
    let guard = eventually("a guard", || guards().pop());
    program.kill().expect("it is ours");
    program.wait().expect("it is over");
    signal(&guard, "TERM");
    user.wait_until_nothing_is_left();
    eventually("the guard's end", || guards().is_empty().then_some(()));
}

#[test]
fn a_guard_that_can_not_be_replaced_is_told_of() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    let usual = user.piecework(&RUN);
    let beside = Path::new(usual.get_program()).with_file_name("piecework-worker");
    let moving = user.folder().join("piecework");
    std::fs::copy(usual.get_program(), &moving).expect("it can be copied");
    let mut command = Command::new(&moving);
    command.args(usual.get_args()).arg("--worker").arg(beside).current_dir(user.folder());
    for (name, value) in usual.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let program = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    user.only_instance();
    let guard = eventually("a guard", || pids_in(&user.only_run(), "guard").into_iter().next());
    std::fs::rename(&moving, user.folder().join("moved")).expect("it can be moved");
    signal(&guard, "9");
    let output = program.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", conversation(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told.matches("no other can be started").count(), 1, "{told}");
    user.assert_nothing_left();
}

#[test]
fn a_worker_that_keeps_dying_ends_the_run() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    let mut program = user.start(&["run", "prompts.jsonl", "--engine", "echo", "--echo-pace", "1"]);
    let home = user.folder().join("home");
    user.only_instance();
    let status = eventually("the end", || {
        for worker in pids_in(&home, "\0serve\0") {
            // Long enough to be talked to, and not to answer.
            sleep(Duration::from_millis(300));
            signal(&worker, "9");
        }
        program.try_wait().expect("it can be asked")
    });
    assert_eq!(status.code(), Some(1));
    let output = program.wait_with_output().expect("it has ended");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("no instance could be had"), "{told}");
    user.assert_nothing_left();
}

#[test]
fn what_a_damaged_ledger_has_rented_is_ended_by_its_label() {
    let user = User::new();
    begun_and_killed(&user);
    let ledger = user.only_run().join("ledger");
    let mut bytes = std::fs::read(&ledger).expect("there is one");
    bytes[20] ^= 1;
    std::fs::write(&ledger, bytes).expect("it can be damaged");
    let resume = user.run(&["resume", "last"]);
    assert_eq!(resume.status.code(), Some(70), "{}", conversation(&resume));
    user.done(&["cleanup", "--yes"]);
    user.assert_nothing_left();
}
