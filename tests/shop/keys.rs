//! API keys on a computer without a keyring.

use crate::shopper::{Shopper, squeezed};
use providers::{
    PROVIDERS,
    testkit::cloud::{Call, Fault, KEY},
};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

const NOWHERE: &[PathBuf] = &[];

#[tokio::test(flavor = "multi_thread")]
async fn without_a_keyring_login_says_so_and_offers_a_file() {
    let shopper = Shopper::new().await;
    let said = shopper.run_with(&["login", "lambda"], &format!("{KEY}\n"));
    insta::with_settings!({ filters => vec![(r"answers: .*", "answers: [WHY]")] }, {
        insta::assert_snapshot!(said.all(), @r"
    exit: Some(1)
    --- stdout
    --- stderr
    keys of Lambda Cloud are made at https://cloud.lambda.ai/api-keys
    Lambda Cloud accepts the key: 0 instances
    error: this computer has no keyring that answers: [WHY]
    hint: nothing was kept; `--file` keeps it in `[FOLDER]/home/keys.json`, which only you can read, or set it in the environment
    ");
    });
    assert_eq!(shopper.files_with_key(), NOWHERE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_file_is_its_owners_only_and_works_until_logout() {
    let shopper = Shopper::new().await;
    let said = shopper.run_with(&["login", "lambda", "--file"], &format!("{KEY}\n"));
    insta::assert_snapshot!(said.all(), @r"
    exit: Some(0)
    --- stdout
    --- stderr
    keys of Lambda Cloud are made at https://cloud.lambda.ai/api-keys
    Lambda Cloud accepts the key: 0 instances
    kept in `[FOLDER]/home/keys.json`
    ");
    assert_eq!(shopper.files_with_key(), [shopper.keys()]);
    let mode = fs::metadata(shopper.keys()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let offers = shopper.run(&["offers", "--provider", "lambda", "--json"]).json();
    assert!(!offers.is_empty() && offers.iter().all(|offer| offer["provider"] == "lambda"));
    insta::assert_snapshot!(squeezed(&shopper.run(&["providers"]).all()), @r"
    exit: Some(0)
    --- stdout
    marketplace  key  account
    local  needs none  this computer
    vast  none; offers are open  keys are made at https://cloud.vast.ai/manage-keys/
    runpod  none  keys are made at https://console.runpod.io/user/settings
    lambda  `[FOLDER]/home/keys.json`  accepted
    verda  none  keys are made at https://console.verda.com/dashboard/keys
    shadeform  none; offers are open  keys are made at https://platform.shadeform.ai/settings/api
    prime  none  keys are made at https://app.primeintellect.ai/dashboard/tokens
    --- stderr
    ");

    insta::assert_snapshot!(shopper.run(&["logout", "lambda"]).all(), @r"
    exit: Some(0)
    --- stdout
    --- stderr
    forgotten, in `[FOLDER]/home/keys.json`
    ");
    assert_eq!(shopper.files_with_key(), NOWHERE);
    insta::assert_snapshot!(shopper.run(&["logout", "lambda"]).all(), @r"
    exit: Some(0)
    --- stdout
    --- stderr
    no key of lambda was kept
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_two_parts_is_asked_for_in_two_parts() {
    let shopper = Shopper::new().await;
    let said = shopper.run_with(&["login", "verda", "--file"], &format!("{KEY}\n{KEY}\n"));
    assert_eq!(said.code, Some(0), "{}", said.all());
    let said = shopper.run_with(&["login", "verda", "--file"], &format!("{KEY}\n"));
    assert_eq!(said.code, Some(2), "{}", said.all());
    assert!(said.err.contains("error: no client secret was given"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_marketplace_does_not_accept_is_not_kept() {
    let shopper = Shopper::new().await;
    for provider in PROVIDERS {
        let wrong = "a-wrong-one\n".repeat(provider.credentials.len());
        let said = shopper.run_with(&["login", provider.name, "--file"], &wrong);
        assert_eq!(said.code, Some(1), "{}", said.all());
        assert!(said.err.contains("the API key was rejected"), "{}", said.all());
        assert!(!said.all().contains("a-wrong-one"), "{}", said.all());
        assert!(!shopper.keys().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_kept_while_the_marketplace_can_not_list_what_runs() {
    let shopper = Shopper::new().await;
    shopper.strike("lambda", Call::List, Fault::Truncate);
    let said = shopper.run_with(&["login", "lambda", "--file"], &format!("{KEY}\n"));
    assert_eq!(said.code, Some(1), "{}", said.all());
    assert!(said.err.contains("hint: nothing was kept; try again later"), "{}", said.err);
    assert!(!shopper.keys().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_wins_and_that_is_said() {
    let mut shopper = Shopper::new().await;
    shopper.set("LAMBDA_API_KEY", "another-key");
    let said = shopper.run_with(&["login", "lambda", "--file"], &format!("{KEY}\n"));
    let warning =
        "warning: there is a key in LAMBDA_API_KEY in the environment, which is used instead";
    assert!(said.err.contains(warning), "{}", said.err);
    let lines = shopper.run(&["providers", "--json"]).json();
    let lambda = lines.iter().find(|line| line["provider"] == "lambda").expect("it is there");
    assert_eq!(lambda["key"]["variable"], "LAMBDA_API_KEY");
    assert_eq!(lambda["accepted"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_marketplace_says_what_the_account_has() {
    let shopper = Shopper::with_all_keys().await;
    insta::assert_snapshot!(shopper.run(&["providers"]).all(), @r"
    exit: Some(0)
    --- stdout
    marketplace  key                                   account
    local        needs none                            this computer
    vast         VAST_API_KEY in the environment       tester, $25.00 left
    runpod       RUNPOD_API_KEY in the environment     tester@example.com, $25.00 left
    lambda       LAMBDA_API_KEY in the environment     accepted
    verda        VERDA_CLIENT_ID in the environment    $25.00 left
    shadeform    SHADEFORM_API_KEY in the environment  accepted
    prime        PRIME_API_KEY in the environment      $25.00 left
    --- stderr
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_keys_that_others_may_read_is_not_used() {
    let shopper = Shopper::new().await;
    shopper.run_with(&["login", "lambda", "--file"], &format!("{KEY}\n"));
    fs::set_permissions(shopper.keys(), fs::Permissions::from_mode(0o644)).unwrap();
    let said = shopper.run(&["ps"]);
    insta::assert_snapshot!(said.all(), @r"
    exit: Some(0)
    --- stdout
    --- stderr
    warning: `[FOLDER]/home/keys.json` may be read by others, so its keys aren't used; say `chmod 600` to it
    nothing is running
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_in_anything_that_is_shown_or_kept() {
    // `run` looks for one in all that is said.
    let shopper = Shopper::with_all_keys().await;
    for arguments in [
        &["offers", "--json", "--explain"][..],
        &["offers", "--csv"],
        &["providers", "--json"],
        &["ps", "--json"],
        &["cleanup", "--yes"],
        &["logout", "vast"],
    ] {
        let said = shopper.run(arguments);
        assert_eq!(said.code, Some(0), "{arguments:?} {}", said.all());
    }
    for fault in [Fault::Garble, Fault::Truncate, Fault::Status { code: 500, retry_after: None }] {
        for call in [Call::Offers, Call::List, Call::Token, Call::Other] {
            for provider in PROVIDERS {
                shopper.strike(provider.name, call, fault.clone());
                shopper.run(&["offers", "--provider", provider.name, "--timeout", "1s"]);
            }
        }
    }
    assert_eq!(shopper.files_with_key(), NOWHERE);
}
