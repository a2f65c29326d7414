//! What is left behind on rented machines, and who may end it.

use crate::{
    cloud::{Cloud, kill_with_guard, only_rental},
    program::{User, conversation, eventually, numbered, signal},
};
use serde_json::json;
use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

/// A rental whose program and guard are dead, and which doesn't end itself for a while.
fn left_behind(cloud: &Cloud, user: &User) {
    let mut program = cloud
        .run(user, "lambda", 600, &["--echo-pace", "1", "--yes"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    eventually("a rental", || (cloud.world("lambda")["billed"] == 1).then_some(()));
    kill_with_guard(user, &mut program);
}

#[test]
fn another_computers_instances_are_shown_and_ended_only_on_request() {
    let Some(cloud) = Cloud::start("another computer's instances") else { return };
    let (one, other) = (User::new(), User::new());
    left_behind(&cloud, &one);
    let cleanup = |user: &User, arguments: &[&str]| {
        let mut command = cloud.piecework(user, "lambda", &["cleanup", "--yes"]);
        command.args(arguments).output().expect("it runs")
    };
    let looked = cleanup(&other, &[]);
    let said = conversation(&looked);
    assert!(said.contains("another computer's") && said.contains("nothing to clean up"), "{said}");
    assert_eq!((looked.status.code(), &cloud.world("lambda")["billed"]), (Some(0), &1.into()));

    let ended = cleanup(&other, &["--all-owners"]);
    assert_eq!(ended.status.code(), Some(0), "{}", conversation(&ended));
    assert_eq!(only_rental(&cloud.world("lambda"))["ended_by"], "account");
    // And whose it was finds nothing that is still owed.
    let looked = cleanup(&one, &[]);
    assert_eq!(looked.status.code(), Some(0), "{}", conversation(&looked));
    assert_eq!(cloud.world("lambda")["keys"], serde_json::json!([]), "its key goes too");
}

#[test]
fn a_watching_cleanup_ends_what_is_left_behind() {
    let Some(cloud) = Cloud::start("a watching cleanup") else { return };
    let user = User::new();
    left_behind(&cloud, &user);
    let mut watching = cloud
        .piecework(&user, "lambda", &["cleanup", "--watch", "--yes"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    cloud.wait_until_nothing_is_billed("lambda");
    // Until it says that it has ended it, an interrupt is for what it is at.
    let told = BufReader::new(watching.stderr.take().expect("it is piped"));
    let ended = |line: std::io::Result<String>| line.is_ok_and(|l| l.contains("ended 1 instance"));
    assert!(told.lines().any(ended));
    assert!(watching.try_wait().expect("it can be asked").is_none(), "it goes on watching");
    signal(&watching.id().to_string(), "INT");
    let ended = eventually("its end", || watching.try_wait().expect("it can be asked"));
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn a_home_that_can_not_be_read_may_owe_anything_and_a_watch_goes_on() {
    let user = User::new();
    // Who we are can't be read.
    fs::create_dir_all(user.folder().join("home/owner")).expect("it is new");
    for verb in ["ps", "cleanup"] {
        let output = user.run(&[verb]);
        assert_eq!(output.status.code(), Some(70), "{}", conversation(&output));
    }
    let mut command = user.piecework(&["cleanup", "--watch", "--yes"]);
    let mut watching = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let told = BufReader::new(watching.stderr.take().expect("it is piped"));
    let is_error = |line: std::io::Result<String>| line.is_ok_and(|l| l.starts_with("error:"));
    assert!(told.lines().any(is_error));
    assert!(watching.try_wait().expect("it can be asked").is_none(), "it goes on watching");
    signal(&watching.id().to_string(), "INT");
    let ended = eventually("its end", || watching.try_wait().expect("it can be asked"));
    assert_eq!(ended.code(), Some(70));
}

#[test]
fn every_marketplace_with_a_key_is_asked_and_this_computer_is_none() {
    let Some(cloud) = Cloud::start("every marketplace with a key") else { return };
    let user = User::new();
    user.file("prompts.jsonl", numbered(5));
    let arguments = ["run", "prompts.jsonl", "--engine", "echo", "--provider", "all", "--yes"];
    let output = cloud.piecework(&user, "verda", &arguments).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", conversation(&output));
    assert_eq!(only_rental(&cloud.world("verda"))["ended_by"], "account");
    let none = user.run(&arguments);
    assert_eq!(none.status.code(), Some(2), "{}", conversation(&none));
}

#[test]
fn a_disk_that_its_machine_has_left_is_owed_like_the_machine() {
    let Some(cloud) = Cloud::start("a disk that its machine has left") else { return };
    let user = User::new();
    let refused = json!({ "status": { "code": 401, "retry_after": null } });
    cloud.plan(&json!([
        { "call": "rent", "fault": { "rental": "leaves_disk" } },
        // Asks for disks, and to end one.
        { "call": "other", "since": "release", "times": 2, "fault": refused },
    ]));
    let output = cloud.run(&user, "verda", 5, &["--yes"]).output().expect("it runs");
    let said = conversation(&output);
    assert!(said.contains("could not be given back yet"), "{said}");
    assert_eq!((output.status.code(), &cloud.world("verda")["billed"]), (Some(0), &json!(0)));
}

#[test]
fn a_key_that_a_run_could_not_take_off_the_account_is_taken_off_by_cleanup() {
    let Some(cloud) = Cloud::start("a key that stays on the account") else { return };
    let user = User::new();
    let refused = json!({ "status": { "code": 401, "retry_after": null } });
    cloud.plan(&json!([{ "call": "keys", "since": "release", "fault": refused }]));
    let output = cloud.run(&user, "lambda", 5, &["--yes"]).output().expect("it runs");
    let said = conversation(&output);
    assert!(said.contains("may be left on the account"), "{said}");
    assert_eq!((output.status.code(), cloud.keys("lambda")), (Some(0), 1));
    let cleanup = || cloud.piecework(&user, "lambda", &["cleanup", "--yes"]).output();
    let cleaned = cleanup().expect("it runs");
    let said = conversation(&cleaned);
    assert!(said.contains("took 1 key of dead runs off the accounts"), "{said}");
    assert_eq!((cleaned.status.code(), cloud.keys("lambda")), (Some(0), 0));
    let again = conversation(&cleanup().expect("it runs"));
    assert!(again.contains("nothing to clean up"), "{again}");
}
