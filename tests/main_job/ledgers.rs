//! Ledgers that are taken away from under a run, or can't be written: what they owe is given back.

use crate::{
    bad_input::SmallDisk,
    cloud::Cloud,
    program::{User, conversation, eventually, pids_in, signal},
};
use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
};

/// A run that goes on with one rental.
fn running(cloud: &Cloud, command: &mut Command, market: &str) -> Child {
    let program = command.args(["--echo-pace", "1", "--yes"]).stdout(Stdio::null());
    let program = program.stderr(Stdio::piped()).spawn().expect("it runs");
    eventually("a rental", || (cloud.world(market)["billed"] == 1).then_some(()));
    program
}

fn guard_of(user: &User) -> String {
    let run = user.only_run();
    eventually("its guard", || pids_in(&run, "guard").pop())
}

/// A run that is stopped while it goes on with one rental, and its guard, which waits no time.
fn stopped(cloud: &Cloud, user: &User) -> (Child, String) {
    let mut command = cloud.run(user, "lambda", 600, &[]);
    command.env("PIECEWORK_GUARD_GRACE", "1");
    let program = running(cloud, &mut command, "lambda");
    let guard = guard_of(user);
    signal(&program.id().to_string(), "STOP");
    (program, guard)
}

/// Waits until a guard whose run's folder may be gone has seen that nothing is owed.
fn ends(guard: &str) {
    let process = format!("/proc/{guard}");
    eventually("the guard's end", || (!Path::new(&process).exists()).then_some(()));
}

#[test]
#[expect(clippy::print_stdout, reason = "what is skipped is said by name")]
fn a_disk_that_turns_read_only_keeps_nobody_from_giving_back() {
    for with_guard in [true, false] {
        let Some(cloud) = Cloud::start("a disk that turns read-only") else { return };
        let user = User::new();
        let Some(disk) = SmallDisk::mount(&user.folder().join("home"), "16m") else {
            println!("skipped: a disk that turns read-only: no permission to mount one");
            return;
        };
        let mut command = cloud.run(&user, "lambda", 600, &[]);
        command.env("PIECEWORK_GUARD_GRACE", if with_guard { "1" } else { "9999" });
        let mut program = running(&cloud, &mut command, "lambda");
        let guard = guard_of(&user);
        signal(&program.id().to_string(), "STOP");
        // Lines are written while it is stopped only by whoever else has it open.
        let remount = |how: &str| {
            let done = Command::new("mount").args(["-o", how]).arg(disk.at()).output();
            done.is_ok_and(|output| output.status.success())
        };
        // What is open for writing keeps a file system from that: it is bound over.
        let bound = Command::new("mount").arg("--bind").args([disk.at(), disk.at()]).status();
        assert!(bound.expect("mount runs").success() && remount("remount,bind,ro"));
        program.kill().expect("it is ours");
        program.wait().expect("it is over");
        if with_guard {
            cloud.wait_until_nothing_is_billed("lambda");
            ends(&guard);
        } else {
            signal(&guard, "KILL");
            let output = cloud.piecework(&user, "lambda", &["cleanup", "--yes"]).output();
            let output = output.expect("it runs");
            let said = conversation(&output);
            assert_eq!(cloud.world("lambda")["billed"], 0, "{said}");
            assert!(said.contains("can't be read or written"), "{said}");
        }
        drop(Command::new("umount").arg("-l").arg(disk.at()).output());
    }
}

#[test]
fn a_ledger_that_is_taken_away_ends_the_run_and_nothing_more_is_rented() {
    for replaced in [false, true] {
        let Some(cloud) = Cloud::start("a ledger that is taken away") else { return };
        let user = User::new();
        let mut command = cloud.run(&user, "lambda", 600, &[]);
        let program = running(&cloud, &mut command, "lambda");
        let guard = guard_of(&user);
        let ledger = user.only_run().join("ledger");
        let text = fs::read(&ledger).expect("it is there");
        fs::remove_file(&ledger).expect("it is ours");
        if replaced {
            fs::write(&ledger, text).expect("there is room");
        }
        let output = program.wait_with_output().expect("it ends");
        let said = conversation(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("was moved, replaced or removed"), "{said}");
        let world = cloud.world("lambda");
        let rentals = world["rentals"].as_array().map(Vec::len);
        assert_eq!((&world["billed"], rentals), (&0.into(), Some(1)), "{said}");
        ends(&guard);
    }
}

#[test]
fn what_a_damaged_ledger_owes_is_given_back_by_the_guard_too() {
    let Some(cloud) = Cloud::start("a damaged ledger under a guard") else { return };
    let user = User::new();
    let (mut program, guard) = stopped(&cloud, &user);
    let ledger = user.only_run().join("ledger");
    let mut bytes = fs::read(&ledger).expect("there is one");
    bytes[20] ^= 1;
    // In place: the guard has it open.
    let mut file = fs::OpenOptions::new().write(true).open(&ledger).expect("it is ours");
    file.write_all(&bytes).expect("it can be damaged");
    program.kill().expect("it is ours");
    program.wait().expect("it is over");
    cloud.wait_until_nothing_is_billed("lambda");
    ends(&guard);
    let log = fs::read_to_string(user.only_run().join("guard.log")).expect("there is one");
    assert!(log.contains("error: line 1 of the ledger"), "{log}");
}

#[test]
fn a_home_that_is_removed_is_still_known_to_the_guard() {
    let Some(cloud) = Cloud::start("a home that is removed") else { return };
    let user = User::new();
    let (mut program, guard) = stopped(&cloud, &user);
    fs::remove_dir_all(user.folder().join("home")).expect("it is ours");
    program.kill().expect("it is ours");
    program.wait().expect("it is over");
    cloud.wait_until_nothing_is_billed("lambda");
    ends(&guard);
}
