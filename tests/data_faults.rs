//! A full disk and a killed process, for real: what was reported durable is there afterwards, and
//! the run goes on.
#![cfg(unix)]

use piecework::prompts::Place;
use piecework::shards::{Cause, Out, OutFormat, Record, ResultsError, RunFiles, Sink, order};
use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};
use tempfile::TempDir;

const FOLDER: &str = "PIECEWORK_TEST_FOLDER";
const REPORT: &str = "PIECEWORK_TEST_REPORT";
const PROMPTS: u64 = 4000;

fn run_files(folder: &Path, prompts: u64) -> RunFiles {
    RunFiles { folder: folder.to_owned(), run: "r1".into(), prompts, inputs: Vec::new() }
}

fn from_environment(name: &str) -> PathBuf {
    env::var_os(name).expect("the test that starts this one says where").into()
}

fn completion(index: u64) -> Record {
    let text = format!("{index} ").repeat(400);
    let body = format!("{{\"choices\":[{{\"text\":\"{text}\"}}]}}");
    Record::Done { index, custom_id: format!("prompt-{index}"), body }
}

fn failure(index: u64) -> Record {
    let (line, custom_id, reason) = (Place { file: 0, line: index + 1 }, None, "it is odd".into());
    Record::Failed { index, line, custom_id, cause: Cause::Engine, reason }
}

fn record(index: u64) -> Record {
    if index.is_multiple_of(10) { failure(index) } else { completion(index) }
}

/// The positions of the lines of a file, in their order.
fn lines(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).expect("it is there");
    let position = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("each line is whole");
        let id = line["id"].as_str().expect("each line has an id");
        id.strip_prefix("piecework-r1-").expect("it is of this run").parse().expect("a number")
    };
    text.lines().map(position).collect()
}

fn assert_in_order(out: &Path, errors: &Path, prompts: u64) {
    let (failed, done): (Vec<u64>, Vec<u64>) =
        (0..prompts).partition(|index| index.is_multiple_of(10));
    assert!(lines(out) == done && lines(errors) == failed);
}

/// Another test of this file, as a process of its own.
fn part(name: &str) -> String {
    let program = env::current_exe().expect("a test knows its program");
    format!("'{}' --exact {name} --ignored --nocapture", program.display())
}

fn shell(script: &str, folder: &Path, report: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).env(FOLDER, folder).env(REPORT, report);
    command
}

#[test]
#[ignore = "the part of the tests below in which there is no room"]
fn part_that_fills_the_disk() {
    let (folder, report) = (from_environment(FOLDER), from_environment(REPORT));
    let runtime = tokio::runtime::Runtime::new().expect("there is room for a runtime");
    let (error, durable) = runtime.block_on(async {
        let (sink, _) = Sink::open(&run_files(&folder, PROMPTS), false).expect("there is room yet");
        let (mut durable, mut tickets) = (sink.durable(), Vec::new());
        for index in 0..PROMPTS {
            let Ok(ticket) = sink.put(vec![record(index)]).await else { break };
            tickets.push((ticket, index));
            if index.is_multiple_of(100) && durable.wait(ticket).await.is_err() {
                break;
            }
        }
        let error = sink.close().await.expect_err("there is no room for all");
        let latest = durable.latest();
        let kept = tickets.into_iter().filter(|(ticket, _)| *ticket <= latest);
        (error, kept.map(|(_, index)| index.to_string()).collect::<Vec<_>>())
    });
    assert!(matches!(error, ResultsError::Full { .. }), "{error}");
    let error = error.to_string().replace(&folder.display().to_string(), "FOLDER");
    let start = "there is no more room for `FOLDER/completions.partial.jsonl`: about ";
    let end = " MB more are needed; make room there, then `piecework resume r1` goes on";
    assert!(error.starts_with(start) && error.ends_with(end), "{error}");
    assert!(!durable.is_empty());
    fs::write(report, durable.join("\n")).expect("there is room elsewhere");
}

#[test]
#[ignore = "the part of the tests below in which there is room again"]
fn part_that_resumes() {
    let (folder, report) = (from_environment(FOLDER), from_environment(REPORT));
    let files = run_files(&folder, PROMPTS);
    let (sink, resumed) = Sink::open(&files, false).expect("there is room");
    let done = resumed.done();
    for index in fs::read_to_string(&report).expect("it was written").lines() {
        assert!(done.contains(index.parse().expect("a number")), "{index} was durable");
    }
    assert!(done.count() < PROMPTS);
    let rest = (0..PROMPTS).filter(|index| !done.contains(*index)).map(record).collect();
    let runtime = tokio::runtime::Runtime::new().expect("there is room for a runtime");
    runtime.block_on(async {
        sink.put(rest).await.expect("there is room");
        sink.close().await.expect("there is room");
    });
    let (out, errors) = (folder.join("out.jsonl"), folder.join("errors.jsonl"));
    order(&files, Out::File(&out), OutFormat::default(), &errors).expect("all is there");
    assert_in_order(&out, &errors, PROMPTS);
    fs::write(report, "resumed").expect("there is room");
}

fn assert_survives(script: &str) {
    let (folder, report) = (TempDir::new().expect("room"), TempDir::new().expect("room"));
    let report = report.path().join("report");
    let ended = shell(script, folder.path(), &report).output().expect("there is a shell");
    assert!(
        ended.status.success(),
        "{}{}",
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
    assert_eq!(fs::read_to_string(report).expect("it was written"), "resumed");
}

#[test]
fn a_file_that_may_not_grow_loses_nothing_and_resumes() {
    let (fill, resume) = (part("part_that_fills_the_disk"), part("part_that_resumes"));
    // Between 1 and 2 MB, as shells count in blocks of 512 or 1024 bytes.
    assert_survives(&format!("trap '' XFSZ; (ulimit -f 2000; {fill}); {resume}"));
}

/// Needs to be allowed a mount of its own, which the kernel forgets with the process.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_loses_nothing_and_resumes_after_room_is_made() {
    let (fill, resume) = (part("part_that_fills_the_disk"), part("part_that_resumes"));
    let mount = format!("mount -t tmpfs -o size=2m none \"${FOLDER}\"");
    let unshare = |script: &str| {
        let script = script.replace('\'', "'\\''");
        format!("unshare --map-root-user --mount sh -ec '{script}'")
    };
    let folder = TempDir::new().expect("there is room for a folder");
    let allowed = shell(&unshare(&mount), folder.path(), folder.path()).output();
    if !allowed.expect("there is a shell").status.success() {
        // Where mounts are forbidden the test above stands for this one.
        return;
    }
    let room = format!("mount -o remount,size=64m \"${FOLDER}\"");
    assert_survives(&unshare(&format!("{mount}; {fill}; {room}; {resume}")));
}

#[test]
#[ignore = "the part of a test below that is killed while results come"]
fn part_that_keeps_results() {
    let files = run_files(&from_environment(FOLDER), 1_000_000);
    let runtime = tokio::runtime::Runtime::new().expect("there is room for a runtime");
    runtime.block_on(async {
        let (sink, resumed) = Sink::open(&files, false).expect("there is room");
        let mut durable = sink.durable();
        let done = resumed.done();
        // Completions and errors are two files, and a kill between their writes leaves a gap.
        for index in (0..).filter(|index| !done.contains(*index)) {
            let ticket = sink.put(vec![record(index)]).await.expect("there is room");
            if index.is_multiple_of(7) {
                durable.wait(ticket).await.expect("there is room");
                let told = io::stdout().write_all(format!("\ndurable {index}\n").as_bytes());
                told.expect("somebody listens");
            }
        }
    });
}

fn start(name: &str, folder: &Path) -> Child {
    let mut command = shell(&format!("exec {}", part(name)), folder, folder);
    command.stdout(Stdio::piped()).spawn().expect("there is a shell")
}

fn kill(mut child: Child) {
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
}

#[test]
fn what_was_durable_when_the_process_was_killed_is_there() {
    let folder = TempDir::new().expect("there is room for a folder");
    let files = run_files(folder.path(), 1_000_000);
    for round in 1..=5 {
        let mut child = start("part_that_keeps_results", folder.path());
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let told = output.lines().map_while(Result::ok);
        let told = told.filter_map(|line| line.strip_prefix("durable ")?.parse::<u64>().ok());
        let last = told.take(round).last().expect("it tells at once");
        kill(child);
        let (sink, resumed) = Sink::open(&files, false).expect("it is as it was left");
        drop(sink);
        let done = resumed.done();
        // They come in order, so all up to the last one told are there.
        assert!((0..=last).all(|index| done.contains(index)), "round {round}");
        assert_eq!((resumed.damaged, resumed.repeated), (0, 0), "round {round}");
    }
}

#[test]
#[ignore = "the part of a test below that is killed while it puts results in order"]
fn part_that_orders() {
    let folder = from_environment(FOLDER);
    let files = run_files(&folder, PROMPTS);
    let (out, errors) = (folder.join("out.jsonl"), folder.join("errors.jsonl"));
    order(&files, Out::File(&out), OutFormat::default(), &errors).expect("all is there");
}

#[test]
fn an_ordering_that_is_killed_anywhere_can_be_done_again() {
    let runtime = tokio::runtime::Runtime::new().expect("there is room for a runtime");
    let size = |path: &Path| fs::metadata(path).map_or(0, |data| data.len());
    // What is awaited before the kill: a file, and how far it has grown.
    let moments = [
        ("completions.offsets", 1),
        (".out.jsonl.r1.partial", 1),
        (".out.jsonl.r1.partial", 4 << 20),
        ("out.jsonl", 1),
        (".errors.jsonl.r1.partial", 1),
        ("errors.jsonl", 1),
        ("ordered.json", 1),
    ];
    for (awaited, bytes) in moments {
        let folder = TempDir::new().expect("there is room for a folder");
        let files = run_files(folder.path(), PROMPTS);
        runtime.block_on(async {
            let (sink, _) = Sink::open(&files, false).expect("there is room");
            sink.put((0..PROMPTS).rev().map(record).collect()).await.expect("there is room");
            sink.close().await.expect("there is room");
        });
        let (out, errors) = (folder.path().join("out.jsonl"), folder.path().join("errors.jsonl"));
        let mut child = start("part_that_orders", folder.path());
        while size(&folder.path().join(awaited)) < bytes {
            if child.try_wait().expect("it is ours").is_some() {
                break;
            }
            thread::yield_now();
        }
        kill(child);
        for path in [&out, &errors].into_iter().filter(|path| path.exists()) {
            let whole = if path == &out { PROMPTS / 10 * 9 } else { PROMPTS / 10 };
            assert_eq!(lines(path).len() as u64, whole, "killed at {awaited}");
        }
        order(&files, Out::File(&out), OutFormat::default(), &errors).expect("all is there");
        assert_in_order(&out, &errors, PROMPTS);
        let left: Vec<_> = fs::read_dir(folder.path())
            .expect("it is there")
            .map(|entry| entry.expect("it is there").file_name())
            .filter(|name| name.to_string_lossy().contains("partial"))
            .collect();
        assert!(left.is_empty(), "killed at {awaited}: {left:?}");
    }
}

#[test]
fn partial_files_that_outlived_the_ordering_are_removed_and_not_read() {
    let folder = TempDir::new().expect("there is room for a folder");
    let files = run_files(folder.path(), 1);
    let runtime = tokio::runtime::Runtime::new().expect("there is room for a runtime");
    runtime.block_on(async {
        let (sink, _) = Sink::open(&files, false).expect("there is room");
        sink.put(vec![completion(0)]).await.expect("there is room");
        sink.close().await.expect("there is room");
    });
    let (out, errors) = (folder.path().join("out"), folder.path().join("errors"));
    let first =
        order(&files, Out::File(&out), OutFormat::default(), &errors).expect("all is there");
    fs::write(files.errors(), "half a li").expect("there is room");
    assert_eq!(
        order(&files, Out::File(&out), OutFormat::default(), &errors).expect("it is done already"),
        first
    );
    assert!(out.exists() && !files.errors().exists());
}
