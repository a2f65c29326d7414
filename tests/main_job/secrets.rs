//! Whole runs at marketplaces, also ones that crash: the account's key is in nothing that is said,
//! kept, started or put on a machine. What `tests/shop/secrets.rs` does without renting.

use crate::{
    cloud::Cloud,
    program::{User, conversation, eventually, json_lines, numbered, processes_in},
};
use providers::PROVIDERS;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Prompts that are answered over a few seconds, in which there is time to look around.
const PROMPTS: usize = 150;

fn holds(content: &[u8], key: &str) -> bool {
    content.windows(key.len()).any(|window| window == key.as_bytes())
}

/// Every file in this folder that has the key in it.
pub(crate) fn files_with(key: &str, folder: &Path) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        // An instance that ends takes its folder along.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type());
            if kind.as_ref().is_ok_and(fs::FileType::is_dir) {
                folders.push(path);
            } else if kind.is_ok_and(|kind| kind.is_file())
                && fs::read(&path).is_ok_and(|content| holds(&content, key))
            {
                found.push(path);
            }
        }
    }
    found
}

/// A process as it can be seen from outside.
struct Seen {
    command: Vec<u8>,
    environment: Vec<u8>,
}

impl Seen {
    fn all() -> Vec<Self> {
        let processes = fs::read_dir("/proc").expect("Linux").flatten();
        let read = |process: &fs::DirEntry, name| fs::read(process.path().join(name)).ok();
        let seen = processes.filter_map(|process| {
            let (command, environment) = (read(&process, "cmdline")?, read(&process, "environ")?);
            Some(Self { command, environment })
        });
        seen.collect()
    }

    fn is(&self, word: &str) -> bool {
        holds(&self.command, word)
    }
}

/// Processes on machines: those whose command line or environment names this fakecloud's folder,
/// and workers.
fn on_machines<'a>(seen: &'a [Seen], cloud: &Cloud) -> Vec<&'a Seen> {
    let folder = cloud.folder().to_string_lossy().into_owned();
    let is_there = |seen: &&Seen| {
        let named = seen.is(&folder) || holds(&seen.environment, &folder);
        // Not fakecloud itself.
        (named || seen.is("piecework-worker")) && !seen.is("--folder")
    };
    seen.iter().filter(is_there).collect()
}

/// A run with the account's key in its environment and everything said aloud.
fn a_run_at(cloud: &Cloud, user: &User, market: &str) -> Command {
    user.file("prompts.jsonl", numbered(PROMPTS));
    let run = ["run", "prompts.jsonl", "--engine", "echo", "--echo-pace", "50", "--yes"];
    let mut command = cloud.piecework(user, market, &run);
    command.args(["--json", "--provider", market]);
    let temporary = user.folder().join("tmp");
    fs::create_dir_all(&temporary).expect("it can be made");
    command.envs([("RUST_LOG", "trace"), ("RUST_BACKTRACE", "full")]).env("TMPDIR", temporary);
    command
}

/// Checks what was said, and every file of the user and of the machines.
fn assert_no_key(cloud: &Cloud, user: &User, said: &str) {
    assert!(!holds(said.as_bytes(), cloud.key()), "a key is shown:\n{said}");
    for folder in [user.folder(), cloud.folder()] {
        assert_eq!(files_with(cloud.key(), folder), Vec::<PathBuf>::new());
    }
}

fn a_run_shows_no_key_at(market: &str) {
    let Some(cloud) = Cloud::start(&format!("secrets of a run at {market}")) else { return };
    let user = User::new();
    let mut command = a_run_at(&cloud, &user, market);
    let program = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let program = program.expect("it runs");

    // While it works: the program and its guard, the machine, and what is on its disk.
    let seen = eventually("a worker on a machine", || {
        let seen = Seen::all();
        let worker = |seen: &Seen| seen.is("piecework-worker") && seen.is("attach");
        let folder = user.folder().join("home/runs").read_dir().ok()?.flatten().next()?;
        let partial = folder.path().join("completions.partial.jsonl").metadata().ok()?;
        (0 < partial.len() && seen.iter().any(worker)).then_some(seen)
    });
    let guards = processes_in(&user.only_run()).into_iter().filter(|line| line.contains("guard"));
    assert_eq!(guards.count(), 1);
    let open = seen.iter().filter(|seen| seen.is(cloud.key())).map(|seen| &seen.command);
    assert_eq!(open.collect::<Vec<_>>(), Vec::<&Vec<u8>>::new(), "it is on command lines");
    let machines = on_machines(&seen, &cloud);
    let servers = machines.iter().filter(|seen| seen.is("instance"));
    assert_ne!(servers.count(), 0, "the search finds no machine");
    for process in machines {
        let command = String::from_utf8_lossy(&process.command);
        assert!(!holds(&process.environment, cloud.key()), "{command} was given a key");
    }
    let scripts = cloud.folder().join(".scripts").read_dir().expect("it is there");
    assert_ne!(scripts.count(), 0, "the search finds no start script");
    assert_no_key(&cloud, &user, "");

    let output = program.wait_with_output().expect("it runs");
    let said = conversation(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(cloud.world(market)["billed"], 0);
    assert_no_key(&cloud, &user, &said);
}

#[test]
fn no_run_shows_a_key_or_puts_it_on_a_machine() {
    for provider in PROVIDERS {
        a_run_shows_no_key_at(provider.name);
    }
}

#[test]
fn a_task_that_panics_shows_no_key_and_leaves_nothing_billed() {
    for provider in PROVIDERS {
        let market = provider.name;
        let Some(cloud) = Cloud::start(&format!("a panic at {market}")) else { return };
        let user = User::new();
        let mut command = a_run_at(&cloud, &user, market);
        let output = command.env("PIECEWORK_CRASH", "talk").output().expect("it runs");
        let said = conversation(&output);
        // It has said all that the task knew, and where it was.
        assert!(said.contains("panicked at") && said.contains("PIECEWORK_CRASH"), "{said}");
        assert!(said.contains("Talk {") && said.contains("stack backtrace"), "{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
        let events = user.file("events", &output.stdout);
        let lost = json_lines(&events).into_iter().filter(|line| line["event"] == "lost");
        assert_eq!(lost.count(), 3, "each attempt is given up: {said}");
        assert_eq!(cloud.world(market)["billed"], 0, "{said}");
        assert_no_key(&cloud, &user, &said);
    }
}

#[test]
fn the_search_finds_a_key_that_is_there() {
    let Some(cloud) = Cloud::start("a search for a key") else { return };
    let user = User::new();
    let hidden = user.file("script.sh", format!("#!/bin/sh\nKEY={}\n", cloud.key()));
    assert_eq!(files_with(cloud.key(), user.folder()), [hidden]);

    let mut command = Command::new("sh");
    command.args(["-c", "read line", cloud.key()]).env("SECRET", cloud.key());
    command.env("PLACE", cloud.folder()).stdin(Stdio::piped()).current_dir(user.folder());
    let mut shell = command.spawn().expect("it runs");
    let found = eventually("the shell", || {
        let seen = Seen::all();
        let there = on_machines(&seen, &cloud);
        let mut shells = there.into_iter().filter(|seen| seen.is("read line"));
        shells.next().map(|shell| (shell.is(cloud.key()), holds(&shell.environment, cloud.key())))
    });
    drop(shell.stdin.take());
    shell.wait().expect("it is over");
    assert_eq!(found, (true, true));
}
