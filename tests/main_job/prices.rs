//! Prices that are not what was quoted, and offers that are gone.

use crate::{
    cloud::Cloud,
    program::{User, conversation, ids, numbered_ids},
};
use serde_json::json;

/// Beside what every run has.
const MORE: [&str; 5] = ["--yes", "--out", "out.jsonl", "--max-price", "50"];

#[test]
fn an_instance_that_is_dearer_than_it_was_quoted_is_given_back_at_once() {
    for market in ["vast", "runpod", "lambda", "verda", "shadeform", "prime"] {
        let Some(cloud) = Cloud::start("an instance that is dearer") else { return };
        let dearer = json!({ "rental": { "dearer": { "percent": 40 } } });
        cloud.plan(&json!([{ "provider": market, "call": "rent", "fault": dearer }]));
        let user = User::new();
        let output = cloud.run(&user, market, 20, &MORE).output().expect("it runs");
        let said = conversation(&output);
        assert_eq!(output.status.code(), Some(0), "{market}: {said}");
        assert!(said.contains("and was offered for"), "{market}: {said}");
        assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(20));
        let world = cloud.world(market);
        let rentals = world["rentals"].as_array().expect("it lists them");
        assert_eq!((rentals.len(), &world["billed"]), (2, &json!(0)), "{world:#}");
    }
}

#[test]
fn an_instance_that_is_dearer_is_given_back_while_it_boots() {
    for market in ["vast", "runpod", "lambda", "verda", "shadeform", "prime"] {
        let Some(cloud) = Cloud::start("an instance that is dearer while it boots") else { return };
        let dearer = json!({ "rental": { "dearer": { "percent": 40 } } });
        let boot = json!({ "boot": { "millis": 3_600_000 } });
        cloud.plan(&json!([{ "provider": market, "call": "rent", "fault": dearer, "with": boot }]));
        let user = User::new();
        let output = cloud.run(&user, market, 20, &MORE).output().expect("it runs");
        let said = conversation(&output);
        assert_eq!(output.status.code(), Some(0), "{market}: {said}");
        assert!(said.contains("and was offered for"), "{market}: {said}");
        let world = cloud.world(market);
        let rentals = world["rentals"].as_array().expect("it lists them");
        assert_eq!((rentals.len(), &world["billed"]), (2, &json!(0)), "{world:#}");
    }
}

#[test]
fn machines_that_are_taken_back_are_ended_and_replaced_as_often_as_it_takes() {
    let Some(cloud) = Cloud::start("machines that are taken back") else { return };
    let outbid = json!({ "rental": { "outbid": { "millis": 3000 } } });
    cloud.plan(&json!([{ "provider": "vast", "call": "rent", "times": 4, "fault": outbid }]));
    let user = User::new();
    let mut command = cloud.run(&user, "vast", 800, &MORE);
    let output = command.args(["--echo-pace", "50", "--interruptible"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", conversation(&output));
    assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(800));
    let world = cloud.world("vast");
    let rentals = world["rentals"].as_array().expect("it lists them");
    // More often than a machine that never works would be tried, and never the same one twice.
    let mut wares: Vec<_> = rentals.iter().map(|rental| rental["ware"].to_string()).collect();
    wares.sort();
    wares.dedup();
    assert_eq!((rentals.len(), wares.len(), &world["billed"]), (5, 5, &json!(0)), "{world:#}");
}

#[test]
fn what_is_rented_later_keeps_to_the_most_that_was_said() {
    let Some(cloud) = Cloud::start("what is rented later") else { return };
    let gone = json!({ "rental": "offer_gone" });
    cloud.plan(&json!([{ "provider": "vast", "call": "rent", "times": 19, "fault": gone }]));
    let user = User::new();
    let output = cloud.run(&user, "vast", 5, &["--yes"]).output().expect("it runs");
    // The cheapest go, and none of those that are left is as cheap as was said.
    let said = conversation(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("or less each") && said.contains("vast has no offer that fits"),
        "{said}"
    );
    assert_eq!(cloud.world("vast")["rentals"], json!([]));
}
