//! Machines that can't run the engine, though they are what was offered: none of those that are stood in
//! for here has the library of an NVIDIA driver.

use crate::{
    cloud::Cloud,
    program::{User, conversation},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
};

/// A model to load, where this computer has one and no GPU to load it on.
#[expect(clippy::print_stdout, reason = "what is skipped is said by name")]
fn model(test: &str) -> Option<PathBuf> {
    let Some(models) = env::var_os("PIECEWORK_TEST_MODELS") else {
        println!("skipped: {test}: PIECEWORK_TEST_MODELS isn't set");
        return None;
    };
    if Path::new("/dev/nvidiactl").exists() {
        println!("skipped: {test}: this computer has a GPU");
        return None;
    }
    Some(Path::new(&models).join("stories260K"))
}

const WHY: &str = "there is no NVIDIA driver on this machine";

fn run<'a>(model: &'a Path, provider: &'a str) -> Vec<&'a str> {
    let model = model.to_str().expect("its name is plain");
    let run = ["run", "prompts.txt", "--model", model, "--device", "cuda", "--engine", "native"];
    [&run[..], &["--provider", provider, "--yes"]].concat()
}

#[test]
fn machines_whose_gpus_are_of_no_use_are_given_back_and_others_taken_until_enough_have_failed() {
    let test = "machines whose GPUs are of no use";
    let Some(model) = model(test) else { return };
    let Some(cloud) = Cloud::showing(test, &[&model]) else { return };
    let user = User::new();
    user.file("prompts.txt", "Once\nThere was\n");
    let output = cloud.piecework(&user, "vast", &run(&model, "vast")).output().expect("it runs");
    let told = conversation(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("error: no instance could be had: {WHY}")), "{told}");
    assert_eq!(told.matches(&format!("lost, since {WHY}")).count(), 3, "{told}");
    let resume = ["resume", "last", "--yes"];
    let output = cloud.piecework(&user, "vast", &resume).output().expect("it runs");
    let told = conversation(&output);
    assert_eq!(told.matches(&format!("lost, since {WHY}")).count(), 3, "{told}");
    let world = cloud.world("vast");
    let rentals = world["rentals"].as_array().expect("it lists them");
    assert_eq!((rentals.len(), &world["billed"]), (6, &json!(0)), "{world:#}");
    let wares: BTreeSet<_> = rentals.iter().map(|rental| rental["ware"].to_string()).collect();
    assert_eq!(wares.len(), 6, "none is taken again, by whoever goes on either: {world:#}");
}

#[test]
fn this_computer_is_not_asked_again_for_a_gpu_that_it_does_not_have() {
    let Some(model) = model("this computer without a GPU") else { return };
    let user = User::new();
    user.file("prompts.txt", "Once\nThere was\n");
    let output = user.run(&run(&model, "local"));
    let told = conversation(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("error: {WHY}")), "{told}");
    assert_eq!(told.matches(&format!("lost, since {WHY}")).count(), 1, "{told}");
    // It may have been mended since.
    let told = conversation(&user.run(&["resume", "last", "--yes"]));
    assert_eq!(told.matches(&format!("lost, since {WHY}")).count(), 1, "{told}");
    user.assert_nothing_left();
}

#[test]
fn where_this_computer_has_no_gpu_a_marketplace_that_may_be_rented_from_is() {
    let test = "a marketplace beside this computer";
    let Some(model) = model(test) else { return };
    let Some(cloud) = Cloud::showing(test, &[&model]) else { return };
    let user = User::new();
    user.file("prompts.txt", "Once\nThere was\n");
    let mut arguments = run(&model, "local");
    arguments.extend(["--provider", "vast"]);
    let output = cloud.piecework(&user, "vast", &arguments).output().expect("it runs");
    let told = conversation(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let world = cloud.world("vast");
    let rentals = world["rentals"].as_array().expect("it lists them").len();
    assert_eq!((rentals, &world["billed"]), (2, &json!(0)), "this computer was the first: {told}");
    user.assert_nothing_left();
}
