//! Machines that aren't what was offered.

use crate::{
    cloud::Cloud,
    program::{User, conversation, ids, numbered_ids},
};
use piecework::smoke::{Fault, Promise, Seen, judge, script};
use providers::Mib;
use serde_json::json;
use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread::{self, sleep},
    time::Duration,
};
use wire::{Model, Source};

/// Bytes of the model that the hub below has.
const MODEL: usize = 6 << 20;

/// Answers as a hub with one model does, at this many bytes in a tenth of a second.
fn hub(pace: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        // Whoever asks for no more hangs up, which is no error.
        listener.incoming().flatten().for_each(|stream| drop(answer(stream, pace)));
    });
    format!("http://{address}")
}

fn answer(mut stream: TcpStream, pace: usize) -> std::io::Result<()> {
    let lines: Vec<String> = BufReader::new(stream.try_clone()?)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let whole = match path {
        "/acme/small/resolve/main/model.safetensors.index.json" => {
            br#"{"weight_map":{"a":"model-00001-of-00002.safetensors"}}"#.to_vec()
        }
        "/acme/small/resolve/main/model-00001-of-00002.safetensors" => vec![7; MODEL],
        _ => return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    };
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n")?;
    write!(stream, "Content-Length: {}\r\n\r\n", whole.len())?;
    for part in whole.chunks(pace) {
        stream.write_all(part)?;
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// What this computer shows when it is asked as a rented machine is.
fn shown(hub: &str, repo: &str) -> Seen {
    shown_from(tempfile::tempdir().expect("a folder").path(), hub, repo)
}

/// The same, with this folder as its user's home.
fn shown_from(home: &Path, hub: &str, repo: &str) -> Seen {
    let (repo, revision) = (repo.to_owned(), "main".to_owned());
    let source = Source::Hub { repo, revision, file: None, sha256: None };
    let script = script(&Model { name: "m".to_owned(), sources: vec![source] });
    let mut shell = Command::new("/bin/sh")
        .env("HF_ENDPOINT", hub)
        .env("HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is a shell");
    let mut stdin = shell.stdin.take().expect("it is piped");
    stdin.write_all(script.as_bytes()).expect("it reads");
    drop(stdin);
    let output = shell.wait_with_output().expect("it ends");
    Seen::read(&String::from_utf8_lossy(&output.stdout))
}

#[test]
#[expect(clippy::print_stdout, reason = "what is skipped is said by name")]
fn a_machine_shows_how_fast_it_gets_the_model() {
    if !Command::new("curl").arg("--version").output().is_ok_and(|said| said.status.success()) {
        println!("skipped: how fast a machine gets the model: there is no curl");
        return;
    }
    let slow = shown(&hub(256 << 10), "acme/small");
    let (bytes, time) = slow.fetched.expect("it has fetched some");
    assert_eq!(bytes, MODEL as u64);
    assert!(Duration::from_secs(2) < time, "{time:?}");
    let fault = judge(&Promise::default(), &slow);
    assert!(matches!(fault, Err(Fault::Slow { least: 40, .. })), "{fault:?}");
    let fast = shown(&hub(MODEL), "acme/small");
    assert_eq!(judge(&Promise::default(), &fast), Ok(()), "{fast:?}");
    assert!(Mib(0) < fast.disk.expect("there is a disk"));
    // What the hub doesn't give tells nothing about the machine.
    assert_eq!(shown(&hub(MODEL), "acme/unknown").fetched, None);
}

#[test]
fn a_machine_that_a_run_has_filled_is_taken_up_again_by_the_next_session() {
    let home = tempfile::tempdir().expect("a folder");
    let more_than_there_is = Promise { disk: Mib(u64::MAX / 2), ..Promise::default() };
    let judged = || judge(&more_than_there_is, &shown_from(home.path(), "", "acme/none"));
    assert!(matches!(judged(), Err(Fault::Disk { .. })));
    std::fs::create_dir(home.path().join(".piecework")).expect("it is new");
    assert_eq!(judged(), Ok(()));
}

#[test]
fn a_machine_that_is_not_what_was_offered_is_given_back_and_another_taken() {
    let Some(cloud) = Cloud::start("a machine that isn't what was offered") else { return };
    for (defect, words) in [
        ("no_gpu", "it failed its test: 1 GPU was promised, and its driver lists none"),
        ("less_memory", "it failed its test: GPUs of 23.9 GiB were promised, and one has 12.0 GiB"),
        ("old_driver", "it failed its test: a driver for CUDA"),
        ("full_disk", "it failed its test: the work takes 2.0 GiB of disk, and 1 MiB are free"),
    ] {
        let before = cloud.world("vast")["rentals"].as_array().map_or(0, Vec::len);
        cloud.plan(&json!([
            { "provider": "vast", "call": "rent", "fault": { "rental": { "faulty": defect } } }
        ]));
        let user = User::new();
        let more = ["--yes", "--gpu", "RTX 3090", "--out", "out.jsonl"];
        let output = cloud.run(&user, "vast", 20, &more).output().expect("it runs");
        let told = conversation(&output);
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(20));
        assert!(told.contains(words), "{defect}: {told}");
        let world = cloud.world("vast");
        let rentals = &world["rentals"].as_array().expect("it lists them")[before..];
        assert_eq!((rentals.len(), &world["billed"]), (2, &json!(0)), "{world:#}");
        assert_ne!(rentals[0]["ware"], rentals[1]["ware"], "it isn't taken again");
    }
}

#[test]
fn a_machine_of_each_marketplace_shows_what_was_offered() {
    for provider in providers::PROVIDERS {
        let Some(cloud) = Cloud::start("a machine shows what was offered") else { return };
        let user = User::new();
        let output = cloud.run(&user, provider.name, 5, &["--yes"]).output().expect("it runs");
        let told = conversation(&output);
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert!(told.contains("machine 0: being tested") && !told.contains("lost"), "{told}");
    }
}
