//! API keys on a computer with a keyring: a D-Bus session of its own, and GNOME's keyring.

use crate::shopper::Shopper;
use providers::testkit::cloud::KEY;
use std::{env, fs, process::Stdio};

/// Unlocks a keyring in an empty home, then does what is in the first argument.
const SESSION: &str = r"
    printf 'pass\n' | gnome-keyring-daemon --unlock --components=secrets >/dev/null
    . ./words
";

/// Whether a keyring can be started here. Says so if not.
#[expect(clippy::print_stderr, reason = "a skipped test says so to whoever reads the run")]
fn can_be_started(test: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    for program in ["dbus-run-session", "gnome-keyring-daemon"] {
        if !env::split_paths(&paths).any(|folder| folder.join(program).is_file()) {
            eprintln!("{test}: skipped, there is no {program}");
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_kept_in_the_keyring_found_there_and_forgotten() {
    if !can_be_started("a_key_is_kept_in_the_keyring_found_there_and_forgotten") {
        return;
    }
    let shopper = Shopper::new().await;
    let program = env!("CARGO_BIN_EXE_piecework");
    let words = format!(
        "echo {KEY} | {program} login lambda\n{program} providers --json\n\
         {program} offers --provider lambda --json >offers\n\
         {program} logout lambda\n{program} logout lambda\n"
    );
    fs::write(shopper.folder().join("words"), words).unwrap();
    fs::create_dir(shopper.folder().join("no-bus")).unwrap();
    let mut session = shopper.command("dbus-run-session");
    session.env_remove("DBUS_SESSION_BUS_ADDRESS").args(["--", "sh", "-c", SESSION]);
    let output = session.stderr(Stdio::piped()).output().expect("dbus-run-session is there");
    fs::remove_file(shopper.folder().join("words")).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let said: Vec<_> =
        err.lines().filter(|line| line.contains("forgotten") || line.contains("kept")).collect();
    let expected = [
        "kept in the system's keyring",
        "forgotten, in the system's keyring",
        "no key of lambda was kept",
    ];
    assert_eq!(said, expected, "{err}");
    assert!(out.contains(r#""key":{"kind":"keyring"},"accepted":true"#), "{out}\n{err}");
    assert!(fs::read_to_string(shopper.folder().join("offers")).unwrap().contains("lambda"));
    assert!(!err.contains(KEY) && !out.contains(KEY));
    assert!(shopper.files_with_key().is_empty(), "it is kept encrypted");
}
