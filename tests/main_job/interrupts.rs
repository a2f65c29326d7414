//! Runs that are told to stop.

use crate::{
    cloud::{Cloud, kill_with_guard},
    program::{User, conversation, eventually, ids, numbered, numbered_ids, pids_in, signal},
};
use rustix::fs::OFlags;
use serde_json::json;
use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PROMPTS: usize = 400;
const RUN: [&str; 8] =
    ["run", "prompts.jsonl", "--engine", "echo", "--echo-pace", "100", "--out", "out.jsonl"];

/// A run that has answered something.
fn working(user: &User) -> Child {
    user.file("prompts.jsonl", numbered(PROMPTS));
    let program = user.start(&RUN);
    user.only_instance();
    let partial = user.only_run().join("completions.partial.jsonl");
    eventually("a completion", || has_some(&partial).then_some(()));
    program
}

fn has_some(path: &Path) -> bool {
    path.metadata().is_ok_and(|about| 0 < about.len())
}

#[test]
fn one_interrupt_finishes_what_was_begun_and_gives_everything_back() {
    let user = User::new();
    let program = working(&user);
    signal(&program.id().to_string(), "INT");
    let output = program.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(6), "{}", conversation(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("nothing is left running"), "{told}");
    assert!(told.contains("go on with: piecework resume"), "{told}");
    user.assert_nothing_left();
    user.done(&["resume", "last"]);
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
}

#[test]
fn a_service_that_is_stopped_gives_back_before_it_would_be_killed() {
    let Some(cloud) = Cloud::start("a service that is stopped") else { return };
    let user = User::new();
    // A prompt takes a second, so that finishing those begun would take longer than there is.
    let mut command = cloud.run(&user, "lambda", PROMPTS, &["--yes", "--echo-pace", "1"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let program = command.spawn().expect("it runs");
    let partial = eventually("a run", || {
        let run = user.folder().join("home/runs").read_dir().ok()?.flatten().next()?;
        Some(run.path().join("completions.partial.jsonl"))
    });
    eventually("a completion", || has_some(&partial).then_some(()));
    let asked = Instant::now();
    // Whoever stops a service tells all of its processes, and kills them 10 seconds later.
    for guard in pids_in(&user.only_run(), "guard") {
        signal(&guard, "TERM");
    }
    signal(&program.id().to_string(), "TERM");
    cloud.wait_until_nothing_is_billed("lambda");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let output = program.wait_with_output().expect("it ends");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(output.status.code(), Some(6), "{}", conversation(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("nothing is left running"), "{told}");
    assert!(!told.contains("the guard had died"), "{told}");
    let guards = || pids_in(&user.only_run(), "guard");
    eventually("the guard's end", || guards().is_empty().then_some(()));
}

#[test]
fn a_second_interrupt_hangs_up_and_gives_everything_back() {
    let user = User::new();
    let program = working(&user);
    signal(&program.id().to_string(), "INT");
    signal(&program.id().to_string(), "HUP");
    let output = program.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(6), "{}", conversation(&output));
    user.assert_nothing_left();
    user.done(&["resume", "last"]);
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
}

#[test]
fn a_deadline_ends_a_run_that_can_be_resumed() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    let output = user.run(&[&RUN[..], &["--deadline", "1s"]].concat());
    assert_eq!(output.status.code(), Some(6), "{}", conversation(&output));
    user.assert_nothing_left();
    user.done(&["resume", "last", "--deadline", "10m"]);
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
}

#[test]
fn the_third_interrupt_leaves_and_says_what_is_owed_and_how_to_end_it() {
    let user = User::new();
    let program = working(&user);
    // A marketplace that can't be reached: the instance can neither be listed nor ended.
    let instances = user.folder().join("home/instances");
    let aside = user.folder().join("home/aside");
    std::fs::rename(&instances, &aside).expect("it can be moved");
    std::fs::write(&instances, "not a folder").expect("it can be written");
    for _ in 0..2 {
        signal(&program.id().to_string(), "INT");
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    signal(&program.id().to_string(), "INT");
    let output = program.wait_with_output().expect("it ends");
    std::fs::remove_file(&instances).expect("it is there");
    std::fs::rename(&aside, &instances).expect("it can be moved");
    assert_eq!(output.status.code(), Some(70), "{}", conversation(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("something may still be billed"), "{told}");
    assert!(told.contains("local: local-"), "{told}");
    assert!(told.contains("piecework cleanup --yes"), "{told}");
    user.done(&["cleanup", "--yes"]);
    user.assert_nothing_left();
}

#[test]
fn an_interrupt_is_heard_while_a_resumed_run_waits_for_a_listing() {
    let Some(cloud) = Cloud::start("an interrupt while a listing is waited for") else { return };
    let user = User::new();
    let mut command = cloud.run(&user, "lambda", PROMPTS, &["--yes", "--echo-pace", "20"]);
    command.env("PIECEWORK_GUARD_GRACE", "9999").stdout(Stdio::null()).stderr(Stdio::null());
    let mut program = command.spawn().expect("it runs");
    eventually("a rental", || (cloud.world("lambda")["billed"] == 1).then_some(()));
    kill_with_guard(&user, &mut program);
    let slow = json!({ "slow": { "millis": 60_000 } });
    let (list, many) = ("list", 1_000);
    cloud.plan(&json!([{ "provider": "lambda", "call": list, "times": many, "fault": slow }]));
    let said = user.folder().join("said");
    let mut command = cloud.piecework(&user, "lambda", &["resume", "last", "--yes"]);
    command.stdout(Stdio::null()).stderr(File::create(&said).expect("it can be written"));
    let mut program = command.spawn().expect("it runs");
    let is_asked = || cloud.planned()[0]["times"] != many;
    eventually("a listing that is waited for", || is_asked().then_some(()));
    let asked = Instant::now();
    signal(&program.id().to_string(), "INT");
    let said = || fs::read_to_string(&said).expect("it is text");
    eventually("an end", || said().contains("giving back 1 instance").then_some(()));
    // A listing is asked for again and again for 20 s before it has failed.
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    cloud.plan(&json!([]));
    let status = program.wait().expect("it ends");
    assert_eq!(status.code(), Some(6), "{}", said());
    assert_eq!(cloud.world("lambda")["billed"], 0);
}

#[test]
fn what_can_not_be_given_back_is_left_with_its_price_and_where_to_see_it() {
    let Some(cloud) = Cloud::start("what can't be given back") else { return };
    let user = User::new();
    let broken = json!({ "status": { "code": 503, "retry_after": null } });
    cloud.plan(
        &json!([{ "provider": "vast", "call": "release", "times": 999_999, "fault": broken }]),
    );
    let mut command = cloud.run(&user, "vast", PROMPTS, &["--yes", "--echo-pace", "20"]);
    command.env("PIECEWORK_GUARD_GRACE", "9999").stdout(Stdio::null()).stderr(Stdio::piped());
    let program = command.spawn().expect("it runs");
    eventually("a rental", || (cloud.world("vast")["billed"] == 1).then_some(()));
    // Drain, hang up, leave.
    for _ in 0..3 {
        signal(&program.id().to_string(), "INT");
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let output = program.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(70), "{}", conversation(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    let (_, last) = told.split_once("WARNING").expect("it warns");
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"pw-[a-z0-9-]+", "[label]");
    settings.bind(|| {
        insta::assert_snapshot!(format!("WARNING{last}"), @r"
        WARNING: something may still be billed:
          vast: 7835001, [label], $0.1711/h, https://cloud.vast.ai/instances/
        end it with: piecework cleanup --yes
        ");
    });
    cloud.plan(&json!([]));
    for guard in pids_in(&user.only_run(), "guard") {
        signal(&guard, "KILL");
    }
    let cleanup = cloud.piecework(&user, "vast", &["cleanup", "--yes"]).output().expect("it runs");
    assert_eq!(cleanup.status.code(), Some(0), "{}", conversation(&cleanup));
    assert_eq!(cloud.world("vast")["billed"], 0);
}

#[test]
fn an_interrupt_at_any_moment_is_told_by_the_exit_code() {
    for moment in [0, 20, 60, 150, 400] {
        let user = User::new();
        user.file("prompts.jsonl", numbered(PROMPTS));
        let program = user.start(&["run", "prompts.jsonl", "--engine", "echo", "--echo-pace", "5"]);
        user.only_instance();
        std::thread::sleep(std::time::Duration::from_millis(moment));
        signal(&program.id().to_string(), "HUP");
        let output = program.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(6), "{moment} ms\n{}", conversation(&output));
        user.assert_nothing_left();
    }
}

/// The program, begun by a shell that has it ignore a signal.
fn begun_ignoring(name: &str, program: &Command) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("trap '' {name}; exec \"$@\""), "sh"]);
    command.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(program.get_current_dir().expect("it has one")).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn what_whoever_began_a_run_has_it_ignore_does_not_stop_it_but_the_end_of_a_service_does() {
    // `nohup`, a script's `&`, and what is never meant.
    for (name, code) in [("HUP", 0), ("INT", 0), ("TERM", 6)] {
        let user = User::new();
        user.file("prompts.jsonl", numbered(PROMPTS));
        let mut program =
            begun_ignoring(name, &user.piecework(&RUN)).spawn().expect("the program runs");
        user.only_instance();
        let partial = user.only_run().join("completions.partial.jsonl");
        eventually("a completion", || has_some(&partial).then_some(()));
        assert_eq!(program.try_wait().expect("it can be asked"), None);
        signal(&program.id().to_string(), name);
        let output = program.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(code), "{name}\n{}", conversation(&output));
        user.assert_nothing_left();
    }
}

#[test]
fn interrupts_end_the_ordering_and_resume_does_it_again() {
    let user = User::new();
    user.file("prompts.jsonl", numbered(PROMPTS));
    // Nobody reads what is written, so that the ordering never ends.
    let mut program = user.start(&["run", "prompts.jsonl", "--engine", "echo", "--out", "-"]);
    user.only_instance();
    let offsets = user.only_run().join("completions.offsets");
    eventually("the ordering", || offsets.exists().then_some(()));
    let status = eventually("the end", || {
        signal(&program.id().to_string(), "INT");
        program.try_wait().expect("it can be asked")
    });
    let output = program.wait_with_output().expect("it has ended");
    assert_eq!(status.code(), Some(6), "{}", conversation(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("go on with: piecework resume"), "{told}");
    user.assert_nothing_left();
    let resumed = user.done(&["resume", "last"]);
    let path = user.file("resumed.jsonl", resumed.stdout);
    assert_eq!(ids(&path), numbered_ids(PROMPTS));
}

#[test]
fn one_interrupt_ends_the_look_through_the_prompts_of_a_resumed_run() {
    let user = User::new();
    let program = working(&user);
    signal(&program.id().to_string(), "HUP");
    program.wait_with_output().expect("it ends");
    // Prompts that never come to their end.
    let (prompts, aside) = (user.folder().join("prompts.jsonl"), user.folder().join("aside"));
    fs::rename(&prompts, &aside).expect("it can be moved");
    assert!(Command::new("mkfifo").arg(&prompts).status().expect("it runs").success());
    let program = user.start(&["resume", "last"]);
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag is small");
    let writer = eventually("a reader", || {
        File::options().write(true).custom_flags(nonblocking).open(&prompts).ok()
    });
    signal(&program.id().to_string(), "INT");
    let output = program.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(6), "{}", conversation(&output));
    user.assert_nothing_left();
    drop(writer);
    fs::rename(&aside, &prompts).expect("it can be moved back");
    user.done(&["resume", "last"]);
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
}

#[test]
fn a_run_killed_while_it_first_looks_through_its_prompts_is_in_nobodys_way() {
    let user = User::new();
    let mut command = user.piecework(&["run", "-", "--engine", "echo"]);
    let mut program = command.stdin(Stdio::piped()).spawn().expect("it runs");
    let runs = user.folder().join("home/runs");
    eventually("a run", || fs::read_dir(&runs).ok()?.next()?.ok());
    program.kill().expect("it can be killed");
    program.wait().expect("it ends");
    user.assert_nothing_left();
    let resumed = user.run(&["resume", "last"]);
    assert_eq!(resumed.status.code(), Some(1), "{}", conversation(&resumed));
    let told = String::from_utf8_lossy(&resumed.stderr);
    assert!(told.contains("there is no run `last`"), "{told}");
}

#[test]
fn two_runs_do_not_write_to_one_place() {
    let user = User::new();
    let program = working(&user);
    let second = ["run", "prompts.jsonl", "--engine", "echo", "--out", "out.jsonl", "--force"];
    let output = user.run(&second);
    let told = conversation(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("out.jsonl` is where the run "), "{told}");
    signal(&program.id().to_string(), "HUP");
    program.wait_with_output().expect("it ends");
    // One that is not under way any more is in nobody's way, nor is the run itself.
    user.done(&["resume", "last"]);
    user.done(&second);
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
}

#[test]
fn two_runs_do_not_write_their_errors_to_one_place() {
    let user = User::new();
    let program = working(&user);
    fs::create_dir(user.folder().join("down")).expect("it is new");
    for out in ["out.csv", "down/../out.jsonl.zst"] {
        let output = user.run(&["run", "prompts.jsonl", "--engine", "echo", "--out", out]);
        let told = conversation(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("out.errors.jsonl` is where the run "), "{told}");
    }
    signal(&program.id().to_string(), "HUP");
    program.wait_with_output().expect("it ends");
}

#[test]
fn a_run_that_is_gone_on_with_replaces_nothing_that_another_has_written() {
    let user = User::new();
    let program = working(&user);
    let first = user.only_run();
    let first = first.file_name().and_then(|name| name.to_str()).expect("it has a name");
    signal(&program.id().to_string(), "HUP");
    program.wait_with_output().expect("it ends");
    let (out, aside) = (user.folder().join("out.jsonl"), user.folder().join("aside.jsonl"));
    user.file("others.jsonl", numbered(3));
    user.done(&["run", "others.jsonl", "--engine", "echo", "--out", "out.jsonl"]);
    let refused = |arguments: &[&str]| {
        let output = user.run(arguments);
        let told = conversation(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("out.jsonl` was written by the run "), "{told}");
        assert_eq!(ids(&out), numbered_ids(3));
    };
    refused(&["resume", first]);
    fs::rename(&out, &aside).expect("it is there");
    user.done(&["resume", first]);
    assert_eq!((ids(&out), ids(&aside)), (numbered_ids(PROMPTS), numbered_ids(3)));
    // What it has written itself is in nobody's way, and what has replaced it since is.
    user.done(&["resume", first, "--retry-failed"]);
    user.done(&["run", "others.jsonl", "--engine", "echo", "--out", "out.jsonl", "--force"]);
    user.done(&["resume", first]);
    refused(&["resume", first, "--retry-failed"]);
}
