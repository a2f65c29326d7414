//! Whoever should give something back and can't: it is never called clean, and whoever can may.

use crate::{
    cloud::{Cloud, kill_with_guard, only_rental},
    program::{User, conversation, eventually, pids_in, signal},
    proxy::{Mood, Proxy},
};
use serde_json::json;
use std::{
    fs,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A run that goes on, and its rental.
fn running(cloud: &Cloud, command: &mut Command, market: &str) -> Child {
    let program = command.args(["--echo-pace", "1", "--yes"]).stdout(Stdio::null());
    let program = program.stderr(Stdio::null()).spawn().expect("it runs");
    eventually("a rental", || (cloud.world(market)["billed"] == 1).then_some(()));
    program
}

fn cleanup(cloud: &Cloud, user: &User, market: &str) -> Output {
    let mut command = cloud.piecework(user, market, &["cleanup", "--yes"]);
    command.output().expect("it runs")
}

fn kill(program: &mut Child) {
    program.kill().expect("it is ours");
    program.wait().expect("it is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guard_can_not_give_back_somebody_else_can() {
    let Some(cloud) = Cloud::start("a guard that can't give back") else { return };
    let user = User::new();
    let url = cloud.url("lambda").to_owned();
    let (host, path) = url["http://".len()..].split_once('/').expect("it has a path");
    let port = host.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let proxy = Proxy::before(port);
    let through = format!("http://127.0.0.1:{}/{path}", proxy.port);
    let mut command = cloud.run(&user, "lambda", 600, &[]);
    command.env("PIECEWORK_LAMBDA_URL", through).env("PIECEWORK_GUARD_GRACE", "1");
    let mut program = running(&cloud, &mut command, "lambda");
    proxy.set(Mood::CutAfter(0));
    kill(&mut program);
    let log = user.only_run().join("guard.log");
    eventually("a try of the guard's", || {
        fs::read_to_string(&log).ok()?.contains("could not be given back yet").then_some(())
    });
    assert_eq!(cloud.world("lambda")["billed"], 1);
    let output = cleanup(&cloud, &user, "lambda");
    let said = conversation(&output);
    assert!(said.contains("ended 1 instance"), "{said}");
    assert_eq!((output.status.code(), &cloud.world("lambda")["billed"]), (Some(0), &json!(0)));
    // And the guard sees that nothing is owed any more.
    eventually("the guard's end", || pids_in(&user.only_run(), "guard").is_empty().then_some(()));
}

#[test]
fn what_nobody_asked_for_is_given_back_while_the_run_goes_on() {
    let orders = [json!("twice"), json!({ "late5xx": { "code": 404 } })];
    for fault in orders {
        let Some(cloud) = Cloud::start("an order that is carried out wrongly") else { return };
        let user = User::new();
        cloud.plan(&json!([{ "call": "rent", "fault": fault }]));
        let mut command = cloud.run(&user, "lambda", 600, &["--echo-pace", "1", "--yes"]);
        let program = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut program = program.spawn().expect("it runs");
        let both = |world: &serde_json::Value| world["rentals"].as_array().map_or(0, Vec::len) == 2;
        eventually("two rentals", || both(&cloud.world("lambda")).then_some(()));
        eventually("the end of one", || (cloud.world("lambda")["billed"] == 1).then_some(()));
        assert!(program.try_wait().expect("it can be asked").is_none(), "it goes on");
        signal(&program.id().to_string(), "TERM");
        let output = program.wait_with_output().expect("it ends");
        let said = conversation(&output);
        assert!(said.contains("and nobody asked for it: giving it back"), "{said}");
        assert_eq!((output.status.code(), &cloud.world("lambda")["billed"]), (Some(6), &json!(0)));
        // Both are in the account of it, and in what it cost.
        let report = user.done(&["report", "last", "--json"]).stdout;
        let report: serde_json::Value = serde_json::from_slice(&report).expect("it is JSON");
        let machines = report["machines"].as_array().expect("there are some").len();
        assert_eq!(machines, 2, "{report:#}");
    }
}

#[test]
fn a_marketplace_that_rejects_the_key_keeps_nothing_elsewhere_from_being_ended() {
    let Some(cloud) = Cloud::start("a marketplace that rejects the key") else { return };
    let user = User::new();
    let key = cloud.key().to_owned();
    for market in ["vast", "lambda"] {
        let mut command = cloud.run(&user, market, 600, &[]);
        command.env("PIECEWORK_HOME", user.folder().join(market));
        let mut program = running(&cloud, &mut command, market);
        let run = fs::read_dir(user.folder().join(market).join("runs")).expect("it has begun");
        let run = run.flatten().next().expect("there is one").path();
        for guard in pids_in(&run, "guard") {
            signal(&guard, "STOP");
            program.kill().expect("it is ours");
            signal(&guard, "KILL");
        }
        program.wait().expect("it is over");
    }
    // Both are the same user's.
    let (one, other) = (user.folder().join("vast/runs"), user.folder().join("lambda/runs"));
    for run in fs::read_dir(other).expect("it is there").flatten() {
        fs::rename(run.path(), one.join(run.file_name())).expect("it is free");
    }
    let refused = json!({ "status": { "code": 401, "retry_after": null } });
    cloud.plan(&json!([{ "provider": "vast", "times": 999_999, "fault": refused }]));
    let begun = Instant::now();
    let mut command = cloud.piecework(&user, "vast", &["cleanup", "--yes"]);
    command.env("PIECEWORK_HOME", user.folder().join("vast")).env("LAMBDA_API_KEY", key);
    let output = command.output().expect("it runs");
    let said = conversation(&output);
    assert!(begun.elapsed() < Duration::from_mins(1), "{said}");
    assert!(said.contains("what runs on vast is unknown"), "{said}");
    assert_eq!(output.status.code(), Some(70), "{said}");
    assert_eq!(cloud.world("lambda")["billed"], 0, "{said}");
    assert_eq!(cloud.world("vast")["billed"], 1, "{said}");
}

#[test]
fn the_guard_needs_no_plan_to_give_back() {
    for damage in [|path| fs::write(path, "{"), |path: std::path::PathBuf| fs::remove_file(path)] {
        let Some(cloud) = Cloud::start("a guard without a plan") else { return };
        let user = User::new();
        let mut command = cloud.run(&user, "lambda", 600, &[]);
        command.env("PIECEWORK_GUARD_GRACE", "1");
        let mut program = running(&cloud, &mut command, "lambda");
        damage(user.only_run().join("plan.json")).expect("it is there");
        let run = user.only_run();
        let guard = eventually("its guard", || pids_in(&run, "guard").pop());
        signal(&guard, "STOP");
        kill(&mut program);
        let name = run.file_name().and_then(|name| name.to_str()).expect("it is a name");
        let resumed = cloud.piecework(&user, "lambda", &["resume", name]).output();
        let resumed = resumed.expect("it runs");
        let said = conversation(&resumed);
        assert_eq!(resumed.status.code(), Some(70), "{said}");
        assert!(said.contains("something may still be billed"), "{said}");
        signal(&guard, "CONT");
        cloud.wait_until_nothing_is_billed("lambda");
        assert_eq!(only_rental(&cloud.world("lambda"))["ended_by"], "account");
    }
}

#[test]
fn a_ledger_that_is_damaged_or_gone_is_never_called_clean_without_the_key() {
    let Some(cloud) = Cloud::start("a damaged ledger") else { return };
    let user = User::new();
    let mut program = running(&cloud, &mut cloud.run(&user, "lambda", 600, &[]), "lambda");
    kill_with_guard(&user, &mut program);
    let ledger = user.only_run().join("ledger");
    let text = fs::read_to_string(&ledger).expect("it is there");
    fs::write(&ledger, text.replacen("price", "prise", 1)).expect("it can be written");
    for word in ["can't be read", "is gone"] {
        for verb in ["ps", "cleanup"] {
            // With a key for another marketplace alone.
            let output = cloud.piecework(&user, "vast", &[verb]).output().expect("it runs");
            let said = conversation(&output);
            assert!(said.contains(word) && said.contains("lambda is unknown"), "{verb}: {said}");
            assert_eq!(output.status.code(), Some(70), "{verb}: {said}");
        }
        drop(fs::remove_file(&ledger));
    }
    let output = cleanup(&cloud, &user, "lambda");
    assert_eq!(cloud.world("lambda")["billed"], 0, "{}", conversation(&output));
    let output = cloud.piecework(&user, "lambda", &["ps"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", conversation(&output));
}

#[test]
fn a_disk_is_found_without_its_instance_and_its_ledger() {
    let Some(cloud) = Cloud::start("a disk without a ledger") else { return };
    let user = User::new();
    let refused = json!({ "status": { "code": 401, "retry_after": null } });
    cloud.plan(&json!([
        { "call": "rent", "fault": { "rental": "leaves_disk" } },
        { "call": "other", "since": "release", "times": 999_999, "fault": refused },
    ]));
    let mut command = cloud.run(&user, "verda", 5, &["--yes"]);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut program = command.spawn().expect("it runs");
    let billed = || cloud.world("verda")["billed"].as_u64();
    let gone = || cloud.world("verda")["rentals"][0]["ended_by"].is_string();
    eventually("a disk without its instance", || (gone() && billed() == Some(1)).then_some(()));
    kill_with_guard(&user, &mut program);
    cloud.plan(&json!([]));
    fs::remove_dir_all(user.only_run()).expect("it is ours");
    let shown = cloud.piecework(&user, "verda", &["ps"]).output().expect("it runs");
    assert!(conversation(&shown).contains("a disk"), "{}", conversation(&shown));
    let output = cleanup(&cloud, &user, "verda");
    assert!(conversation(&output).contains("ended 1 disk"), "{}", conversation(&output));
    assert_eq!((output.status.code(), billed()), (Some(0), Some(0)), "{}", conversation(&output));
}
