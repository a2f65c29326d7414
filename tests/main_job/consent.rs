//! What going on with a run may cost is said, and asked, before it does.

use crate::{
    cloud::{Cloud, kill_with_guard},
    program::{User, conversation, eventually, ids, numbered_ids},
};
use serde_json::json;
use std::process::{Output, Stdio};

const PROMPTS: usize = 60;
const MORE: [&str; 5] = ["--yes", "--out", "out.jsonl", "--echo-pace", "10"];

/// A run whose program and guard are killed once it has rented.
fn begun_and_killed(cloud: &Cloud, user: &User, market: &str, more: &[&str]) {
    let mut command = cloud.run(user, market, PROMPTS, &[&MORE[..], more].concat());
    command.env("PIECEWORK_GUARD_GRACE", "9999").stdout(Stdio::null()).stderr(Stdio::null());
    let mut program = command.spawn().expect("it runs");
    let partial = eventually("a completion", || {
        let mut runs = std::fs::read_dir(user.folder().join("home/runs")).ok()?;
        let partial = runs.next()?.ok()?.path().join("completions.partial.jsonl");
        partial.metadata().is_ok_and(|about| 0 < about.len()).then_some(partial)
    });
    kill_with_guard(user, &mut program);
    assert!(partial.exists() && cloud.world(market)["billed"] == 1);
}

fn resumed(cloud: &Cloud, user: &User, market: &str, more: &[&str]) -> (Output, String) {
    let arguments = [&["resume", "last"], more].concat();
    let output = cloud.piecework(user, market, &arguments).output().expect("it runs");
    let said = conversation(&output);
    (output, said)
}

#[test]
fn a_run_that_nobody_says_yes_to_is_not_gone_on_with_and_gives_back_what_it_rents() {
    let Some(cloud) = Cloud::start("a run that nobody says yes to") else { return };
    let user = User::new();
    begun_and_killed(&cloud, &user, "lambda", &["--deadline", "1h"]);
    let (output, said) = resumed(&cloud, &user, "lambda", &[]);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("still rented from lambda at $"), "{said}");
    assert!(said.contains(" so far; at most $") && said.contains("within 1 h 0 min"), "{said}");
    assert!(said.contains("what was still rented is given back"), "{said}");
    assert_eq!(cloud.world("lambda")["billed"], 0, "{said}");

    // Nothing is rented any more, and going on would rent.
    let (output, said) = resumed(&cloud, &user, "lambda", &["--budget", "0.50"]);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("nothing was rented") && said.contains("--yes"), "{said}");
    assert!(said.contains("at most $0."), "no more than the budget: {said}");

    let (output, said) = resumed(&cloud, &user, "lambda", &["--yes"]);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains(" so far; at most $"), "said also where nobody is asked: {said}");
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));

    // Nothing is left to do, and nothing asked.
    let (output, said) = resumed(&cloud, &user, "lambda", &[]);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("at most"), "{said}");
}

/// The sum after these words.
fn dollars_after(said: &str, words: &str) -> f64 {
    let (_, rest) = said.split_once(words).unwrap_or_else(|| panic!("no `{words}`: {said}"));
    let number = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next();
    number.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no sum: {said}"))
}

#[test]
fn a_run_without_a_budget_costs_no_more_than_was_said_whatever_is_taken_back() {
    let Some(cloud) = Cloud::start("a run without a budget") else { return };
    let user = User::new();
    // Each of them is charged ten minutes.
    cloud.raise_prices("verda", 100);
    let outbid = json!({ "rental": { "outbid": { "millis": 3_000 } } });
    cloud.plan(&json!([{ "provider": "verda", "call": "rent", "times": 200, "fault": outbid }]));
    let more = ["--yes", "--interruptible", "--deadline", "2m", "--echo-pace", "20"];
    let mut command = cloud.run(&user, "verda", 20_000, &more);
    let output = command.output().expect("it runs");
    let (said, world) = (conversation(&output), cloud.world("verda"));
    let (most, billed) = (dollars_after(&said, "at most $"), world["cost"].as_f64().unwrap());
    assert!(0.0 < billed && billed <= most, "${billed} of at most ${most}: {said}");
    assert_eq!((output.status.code(), &world["billed"]), (Some(4), &json!(0)), "{said}");
    assert!(said.contains("that was agreed to at most") && said.contains("asks anew"), "{said}");

    // What goes on is agreed to anew, and kept to again.
    let (output, said) = resumed(&cloud, &user, "verda", &["--yes"]);
    let (more, all) = (dollars_after(&said, "at most $"), cloud.world("verda")["cost"].as_f64());
    let spent = all.expect("it is a number") - billed;
    assert!(0.0 < spent && spent <= more, "${spent} of at most ${more} more: {said}");
    assert_eq!(output.status.code(), Some(4), "{said}");
}

#[test]
fn a_budget_that_a_lost_machine_still_holds_is_waited_for() {
    let Some(cloud) = Cloud::start("a budget that a lost machine still holds") else { return };
    let user = User::new();
    let outbid = json!({ "rental": { "outbid": { "millis": 6000 } } });
    cloud.plan(&json!([{ "provider": "lambda", "call": "rent", "fault": outbid }]));
    // Enough for one machine until its end, and not for two.
    let more = [
        "--yes",
        "--out",
        "out.jsonl",
        "--echo-pace",
        "20",
        "--budget",
        "0.60",
        "--max-price",
        "50",
    ];
    let output = cloud.run(&user, "lambda", 200, &more).output().expect("it runs");
    let said = conversation(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(200));
    let world = cloud.world("lambda");
    let rentals = world["rentals"].as_array().map(Vec::len);
    assert_eq!((rentals, &world["billed"]), (Some(2), &json!(0)), "{said}");
}

#[test]
fn a_yes_goes_on_with_the_machine_that_is_still_rented() {
    let Some(cloud) = Cloud::start("a yes to a machine that is still rented") else { return };
    let user = User::new();
    begun_and_killed(&cloud, &user, "vast", &[]);
    let (output, said) = resumed(&cloud, &user, "vast", &["--yes"]);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("still rented from vast") && said.contains("still there"), "{said}");
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS));
    assert_eq!(cloud.world("vast")["billed"], 0);
}

#[test]
fn the_traffic_of_the_prompts_counts_as_well_when_a_run_is_gone_on_with() {
    let Some(cloud) = Cloud::start("the traffic of a resumed run") else { return };
    let user = User::new();
    begun_and_killed(&cloud, &user, "vast", &["--deadline", "1h"]);
    let (output, said) = resumed(&cloud, &user, "vast", &[]);
    assert_eq!(output.status.code(), Some(4), "given back: {said}");
    let (output, said) = resumed(&cloud, &user, "vast", &["--yes"]);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let ledger = std::fs::read_to_string(user.only_run().join("ledger")).expect("it can be read");
    let traffic: Vec<_> = ledger
        .split("\"traffic\":")
        .skip(1)
        .filter_map(|rest| rest.split(',').next()?.parse::<u64>().ok())
        .collect();
    let [first, second] = traffic[..] else { panic!("two were rented: {ledger}") };
    assert_eq!(first, second, "in millionths of a dollar");
}
