//! A whole session with another key at each marketplace: whatever goes wrong, none of them is in
//! anything that is said, kept, or started. Whole runs that rent are in `tests/main_job/secrets.rs`.

use crate::shopper::{Said, Shopper};
use providers::{
    PROVIDERS,
    testkit::cloud::{Call, Fault},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A key for a marketplace, which is nowhere else in the world.
fn key_of(name: &str) -> String {
    format!("k3y-{}-of-{name}-{}", std::process::id(), "7f".repeat(12))
}

fn keys() -> Vec<String> {
    PROVIDERS.iter().map(|provider| key_of(provider.name)).collect()
}

fn holds(content: &[u8]) -> bool {
    let found = |key: &String| content.windows(key.len()).any(|window| window == key.as_bytes());
    keys().iter().any(found)
}

/// Somebody with a key for every marketplace, in the environment or nowhere.
async fn shopper(in_environment: bool) -> Shopper {
    let mut shopper = Shopper::new().await;
    for provider in PROVIDERS {
        let key = key_of(provider.name);
        shopper.cloud.set_key(provider.name, &key);
        for credential in provider.credentials.iter().filter(|_| in_environment) {
            shopper.set(credential.variables[0], &key);
        }
    }
    for (name, value) in [("RUST_LOG", "trace"), ("RUST_BACKTRACE", "full")] {
        shopper.set(name, value);
    }
    fs::create_dir_all(shopper.folder().join("tmp")).unwrap();
    let temporary = shopper.folder().join("tmp").to_string_lossy().into_owned();
    shopper.set("TMPDIR", &temporary);
    shopper
}

/// Runs the program to its end, and looks through what it has said.
fn run(shopper: &Shopper, arguments: &[&str], input: &str) -> Said {
    let said = shopper.run_with(arguments, input);
    let all = said.all();
    assert!(!holds(all.as_bytes()), "{arguments:?} shows a key:\n{all}");
    said
}

fn files_with_keys(shopper: &Shopper) -> Vec<PathBuf> {
    shopper.files_that(holds)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_keys_from_the_environment_leaves_none_anywhere() {
    let shopper = shopper(true).await;
    for arguments in [
        &["offers", "--json", "--explain"][..],
        &["offers"],
        &["providers"],
        &["providers", "--json"],
        &["ps", "--json"],
        &["cleanup", "--yes"],
        &["logout", "vast"],
        // Where clap would repeat what was typed.
        &["offers", "--no-such-option"],
    ] {
        let code = run(&shopper, arguments, "").code;
        let wanted = if arguments[1..] == ["--no-such-option"] { 2 } else { 0 };
        assert_eq!(code, Some(wanted), "{arguments:?}");
    }
    assert_eq!(files_with_keys(&shopper), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marketplace_that_repeats_the_key_in_its_error_is_not_repeated() {
    let shopper = shopper(true).await;
    for provider in PROVIDERS {
        let offers = ["offers", "--provider", provider.name, "--timeout", "1s"];
        let login = ["login", provider.name];
        let mut repeated = false;
        for (call, code, arguments) in [
            (Call::Offers, 400, &offers[..]),
            (Call::Offers, 500, &offers),
            (Call::Token, 400, &offers),
            (Call::List, 401, &login),
            (Call::Other, 400, &login),
        ] {
            shopper.strike(provider.name, call, Fault::Echo { code });
            let input = format!("{0}\n{0}\n", key_of(provider.name));
            repeated |= run(&shopper, arguments, &input).err.contains("can't do");
        }
        assert!(repeated, "what {} answered is never shown, and so not tested", provider.name);
    }
    assert_eq!(files_with_keys(&shopper), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_typed_is_where_it_was_to_be_kept_and_nowhere_else() {
    let shopper = shopper(false).await;
    for provider in PROVIDERS {
        let input = format!("{}\n", key_of(provider.name)).repeat(provider.credentials.len());
        // Without a keyring, and without leave to use a file.
        assert_eq!(run(&shopper, &["login", provider.name], &input).code, Some(1));
        assert_eq!(files_with_keys(&shopper), Vec::<PathBuf>::new(), "{}", provider.name);
        assert_eq!(run(&shopper, &["login", provider.name, "--file"], &input).code, Some(0));
        assert_eq!(run(&shopper, &["offers", "--provider", provider.name], "").code, Some(0));
        assert_eq!(files_with_keys(&shopper), [shopper.keys()], "the search finds what is there");
        assert_eq!(run(&shopper, &["logout", provider.name], "").code, Some(0));
        assert_eq!(files_with_keys(&shopper), Vec::<PathBuf>::new(), "{}", provider.name);
    }
}

/// What can be seen of a process from outside.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    command: String,
    key_on_command_line: bool,
    key_in_environment: bool,
}

/// Every process of ours that works under this folder.
fn processes_under(folder: &Path) -> Vec<Seen> {
    let folder = folder.canonicalize().expect("it is there");
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let works_there = processes.filter(|process| {
        fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder))
    });
    let seen = works_there.map(|process| {
        let read = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
        let command = read("cmdline");
        Seen {
            key_on_command_line: holds(&command),
            key_in_environment: holds(&read("environ")),
            command: String::from_utf8_lossy(&command).replace('\0', " "),
        }
    });
    seen.collect()
}

/// A started program, which is ended with its test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_mins(1), "{what} never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_of_a_run_shows_a_key_and_no_instance_is_given_one() {
    let shopper = shopper(true).await;
    let prompts = "{\"prompt\":\"hello\"}\n".repeat(40);
    fs::write(shopper.folder().join("prompts.jsonl"), prompts).unwrap();
    let run = ["run", "prompts.jsonl", "--engine", "echo", "--echo-pace", "20", "--json"];
    let mut command = shopper.piecework(&run);
    let output = |name: &str| fs::File::create(shopper.folder().join(name)).unwrap();
    command.stdout(output("said")).stderr(output("told"));
    let mut program = Started(command.spawn().unwrap());

    let instances = shopper.home().join("instances");
    let worker = |seen: &Seen| seen.command.contains("piecework-worker");
    let inside = eventually("a worker", || {
        let seen = instances.exists().then(|| processes_under(&instances))?;
        seen.iter().any(worker).then_some(seen)
    });
    let all = processes_under(shopper.folder());
    assert!(all.iter().any(|seen| seen.command.contains("guard")), "no guard: {all:?}");
    let shown: Vec<_> = all.iter().filter(|seen| seen.key_on_command_line).collect();
    assert!(shown.is_empty(), "{shown:?}");
    let given: Vec<_> = inside.iter().filter(|seen| seen.key_in_environment).collect();
    assert!(given.is_empty(), "{given:?}");

    let ended = program.0.wait().unwrap();
    let told = fs::read_to_string(shopper.folder().join("told")).unwrap();
    assert!(ended.success(), "{told}");
    assert_eq!(files_with_keys(&shopper), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_search_would_find_a_key() {
    let shopper = shopper(true).await;
    let key = &keys()[0];
    let hidden = shopper.folder().join("tmp/.deep");
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("core"), format!("\0\u{1}{key}\0")).unwrap();
    assert_eq!(files_with_keys(&shopper), [hidden.join("core")]);

    let mut command = Command::new("sh");
    command.args(["-c", "read line", key]).env("SECRET", key).current_dir(&hidden);
    let _shell = Started(command.stdin(Stdio::piped()).spawn().unwrap());
    let seen = eventually("the shell", || {
        processes_under(&hidden).into_iter().find(|seen| seen.command.contains("read line"))
    });
    assert!(seen.key_on_command_line && seen.key_in_environment, "{seen:?}");
}
