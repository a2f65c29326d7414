//! What was rented with one key, and is looked for with another.

use crate::{
    cloud::{Cloud, kill_with_guard, only_rental},
    program::{User, conversation, eventually, numbered, pids_in},
};
use serde_json::json;
use std::process::{Child, Output, Stdio};

/// A run that has a machine for a while.
fn at_work(cloud: &Cloud, user: &User) -> Child {
    let program = cloud
        .run(user, "vast", 600, &["--echo-pace", "1", "--yes"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    eventually("a rental", || (cloud.world("vast")["billed"] == 1).then_some(()));
    eventually("its id", || ledger_of(user).contains("rented").then_some(()));
    program
}

fn ledger_of(user: &User) -> String {
    std::fs::read_to_string(user.only_run().join("ledger")).expect("there is one")
}

/// The label of the only lease.
fn label_of(user: &User) -> String {
    let ledger = ledger_of(user);
    let (_, rest) = ledger.split_once("\"label\":\"").expect("there is a lease");
    rest.split('"').next().expect("it ends").to_owned()
}

/// What the program says and does with the key of an account.
fn with_key_of(cloud: &Cloud, user: &User, arguments: &[&str]) -> Output {
    let mut command = cloud.piecework(user, "vast", arguments);
    command.env("PIECEWORK_GUARD_GRACE", "0").output().expect("it runs")
}

#[test]
fn the_key_of_another_account_neither_settles_a_run_nor_goes_on_with_it() {
    let name = "the key of another account";
    let (Some(one), Some(other)) = (Cloud::start(name), Cloud::start(name)) else { return };
    let user = User::new();
    kill_with_guard(&user, &mut at_work(&one, &user));
    let label = label_of(&user);
    let hint = format!("say `piecework cleanup --forget {label}`");
    for arguments in [&["cleanup", "--yes"][..], &["resume", "last"]] {
        let output = with_key_of(&other, &user, arguments);
        let said = conversation(&output);
        assert_eq!(output.status.code(), Some(70), "{arguments:?}\n{said}");
        assert!(said.contains("at vast with another key") && said.contains(&hint), "{said}");
        assert!(!said.contains("ended 1 instance"), "{said}");
        assert_eq!(other.world("vast")["rentals"], json!([]), "{arguments:?}\n{said}");
        assert_eq!(one.world("vast")["billed"], 1, "{arguments:?}\n{said}");
        assert!(!ledger_of(&user).contains("\"released\""), "{arguments:?}\n{said}");
    }
    // Nor does the guard try for ever.
    eventually("the end of the guard", || {
        pids_in(&user.only_run(), "guard").is_empty().then_some(())
    });
    let ended = with_key_of(&one, &user, &["cleanup", "--yes"]);
    assert_eq!(ended.status.code(), Some(0), "{}", conversation(&ended));
    assert_eq!(only_rental(&one.world("vast"))["ended_by"], "account");
}

#[test]
fn what_only_its_person_can_see_is_forgotten_on_request() {
    let name = "what is forgotten";
    let (Some(one), Some(other)) = (Cloud::start(name), Cloud::start(name)) else { return };
    let user = User::new();
    let mut program = at_work(&one, &user);
    let label = label_of(&user);
    let forget = ["cleanup", "--forget", &label, "--yes"];
    let told = |cloud: &Cloud, arguments: &[&str], code: i32, words: &str| {
        let output = with_key_of(cloud, &user, arguments);
        let said = conversation(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{said}");
        assert!(said.contains(words), "{arguments:?}\n{said}");
    };
    told(&other, &forget, 70, "the run is in use by process");
    kill_with_guard(&user, &mut program);
    told(&one, &forget, 70, "is still listed");
    told(&other, &forget[..3], 70, "is owed as before; give `--yes`");
    told(&other, &["cleanup", "--forget", "pw-nobody", "--yes"], 2, "knows of `pw-nobody`");
    told(&other, &forget, 0, &format!("forgot {label}: it counts as given back"));
    told(&other, &forget, 0, "is over already");
    told(&other, &["cleanup", "--yes"], 0, "nothing to clean up");
    // What was forgotten and is there all the same is found by its label.
    told(&one, &["cleanup", "--yes"], 0, "ended 1 instance");
    assert_eq!(one.world("vast")["billed"], 0);
}

#[test]
fn an_owner_that_no_label_can_name_rents_nothing_and_keeps_nobody_from_looking() {
    let user = User::new();
    std::fs::create_dir(user.folder().join("home")).expect("it is new");
    let owner = user.file("home/owner", "my-laptop\n");
    user.file("prompts.jsonl", numbered(5));
    let run = ["run", "prompts.jsonl", "--engine", "echo"];
    let refused = user.run(&run);
    let said = conversation(&refused);
    assert!(said.contains("`my-laptop` in") && said.contains("then remove the file"), "{said}");
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert_eq!(user.done(&["ps", "--json"]).stdout, b"");
    user.done(&["cleanup", "--yes"]);
    std::fs::remove_file(owner).expect("it is there");
    user.done(&run);
}
