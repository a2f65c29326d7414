//! Runs that rent, answer everything, and give back.

use crate::{
    cloud::{Cloud, only_rental},
    program::{User, conversation, ids, json_lines, numbered, numbered_ids},
};
use serde_json::json;

/// The whole job at one marketplace.
fn the_main_job_at(market: &str) {
    let Some(cloud) = Cloud::start(&format!("the main job at {market}")) else { return };
    let user = User::new();
    let mut command = cloud.run(&user, market, 200, &["--yes", "--out", "out.jsonl", "--json"]);
    let output = command.output().expect("it runs");
    let events = user.file("events", &output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", conversation(&output));
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(200));

    let world = cloud.world(market);
    assert_eq!(world["billed"], 0, "{world:#}");
    let rental = only_rental(&world);
    assert_eq!(rental["ended_by"], "account");
    let finished = json_lines(&events).into_iter().find(|line| line["event"] == "finished");
    let said = finished.expect("it says how it ended")["cost"].as_f64().expect("it is a number");
    let (said, paid) = (said / 1e6, world["cost"].as_f64().expect("it is a number"));
    assert!(0.0 < said && (said - paid).abs() < 0.01, "{said} was said, and {paid} was paid");

    // Nothing of the run stays on the account.
    assert_eq!(world["keys"], json!([]), "{world:#}");
    assert_eq!(world["disks"], json!([]), "{world:#}");
    let ps = cloud.piecework(&user, market, &["ps", "--json"]).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&ps.stdout), "");
}

macro_rules! at_each_marketplace {
    ($($name:ident: $market:literal),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                the_main_job_at($market);
            }
        )*

        #[test]
        fn no_marketplace_is_left_out() {
            let here = [$($market),*];
            for provider in providers::PROVIDERS {
                assert!(here.contains(&provider.name), "{} has no main job", provider.name);
            }
        }
    };
}

at_each_marketplace! {
    the_whole_job_is_done_at_vast: "vast",
    the_whole_job_is_done_at_runpod: "runpod",
    the_whole_job_is_done_at_lambda: "lambda",
    the_whole_job_is_done_at_verda: "verda",
    the_whole_job_is_done_at_shadeform: "shadeform",
    the_whole_job_is_done_at_prime: "prime",
}

#[test]
fn several_machines_of_one_run_are_different_machines() {
    let Some(cloud) = Cloud::start("several machines") else { return };
    let user = User::new();
    let more = ["--echo-pace", "100", "--yes", "--machines", "3", "--out", "out.jsonl"];
    let output = cloud.run(&user, "vast", 600, &more).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", conversation(&output));
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(600));
    let world = cloud.world("vast");
    let rentals = world["rentals"].as_array().expect("it lists them");
    let mut wares: Vec<_> = rentals.iter().map(|rental| rental["ware"].to_string()).collect();
    wares.sort();
    wares.dedup();
    assert_eq!((rentals.len(), wares.len(), &world["billed"]), (3, 3, &0.into()), "{world:#}");
}

#[test]
fn a_marketplace_without_a_key_points_to_login() {
    let Some(cloud) = Cloud::start("a marketplace without a key") else { return };
    let user = User::new();
    user.file("prompts.jsonl", numbered(1));
    let arguments = ["run", "prompts.jsonl", "--engine", "echo", "--provider", "lambda"];
    let output = cloud.piecework(&user, "vast", &arguments).output().expect("it runs");
    insta::assert_snapshot!(conversation(&output), @r"
    exit: Some(2)
    --- stdout
    --- stderr
    error: there is no key for lambda
    hint: log in with `piecework login lambda`
    ");
}

#[test]
fn a_marketplace_that_takes_no_orders_leaves_the_run_to_the_others() {
    let Some(cloud) = Cloud::start("a marketplace that takes no orders") else { return };
    let run = ["run", "prompts.jsonl", "--engine", "echo", "--yes"];
    let two = ["--provider", "vast", "--provider", "runpod"];
    let no_money = json!({ "rental": "out_of_funds" });
    let wrong_key = json!({ "status": { "code": 401, "retry_after": null } });
    for (rentals, fault) in [(1, &no_money), (2, &wrong_key)] {
        cloud.plan(&json!([{ "provider": "vast", "call": "rent", "times": 99, "fault": fault }]));
        let user = User::new();
        user.file("prompts.jsonl", numbered(20));
        let mut command = cloud.piecework(&user, "vast", &run);
        let output = command.args(two).env("RUNPOD_API_KEY", cloud.key()).output();
        let output = output.expect("it runs");
        assert_eq!(output.status.code(), Some(0), "{}", conversation(&output));
        assert_eq!(cloud.world("vast")["rentals"], json!([]));
        let world = cloud.world("runpod");
        let rented = world["rentals"].as_array().expect("it lists them").len();
        assert_eq!((rented, &world["billed"]), (rentals, &json!(0)), "{world:#}");
    }

    // Where none of them does, there is nobody left to ask.
    cloud.plan(&json!([{ "call": "rent", "times": 99, "fault": no_money }]));
    let user = User::new();
    user.file("prompts.jsonl", numbered(20));
    let mut command = cloud.piecework(&user, "vast", &run);
    let output = command.args(two).env("RUNPOD_API_KEY", cloud.key()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{}", conversation(&output));
    assert_eq!(cloud.world("runpod")["billed"], 0);
}

#[test]
fn a_budget_that_is_too_small_for_all_machines_is_enough_for_some() {
    let Some(cloud) = Cloud::start("a budget for some machines") else { return };
    let user = User::new();
    let more = ["--yes", "--machines", "3", "--budget", "0.05"];
    let output = cloud.run(&user, "vast", 20, &more).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", conversation(&output));
    let world = cloud.world("vast");
    only_rental(&world);
    assert_eq!(world["billed"], 0);
}
