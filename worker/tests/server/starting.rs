//! How servers come up, or don't, and how they end.

use crate::{
    harness::{Bench, Starts, body, gone, good},
    standin::description,
};
use std::{fs, os::unix::fs::PermissionsExt as _};
use wire::{ToController, ToWorker};

#[tokio::test]
async fn prompts_are_answered_by_the_server_with_what_they_and_the_job_say() {
    let mut bench = Bench::new(description(&[])).await;
    let facts = bench.ready().await.expect("it comes up");
    assert_eq!((facts.name.as_str(), facts.context, facts.batch), ("stand-in, CPU", 100, 16));
    let outcomes = bench.answer(&good(200)).await;
    let first = body(&outcomes[&0]);
    assert_eq!(first["choices"][0]["message"]["content"], "reply to good prompt 0");
    let asked = &first["asked"];
    assert_eq!((&asked["temperature"], &asked["max_tokens"]), (&0.5.into(), &256.into()));
    assert_eq!(first["model"], "tested");
    assert!(outcomes.values().all(|outcome| body(outcome)["usage"]["prompt_tokens"] == 3));
}

#[tokio::test]
async fn a_server_that_ends_at_once_is_tried_again_and_then_quoted() {
    let starts = Starts::new();
    let manners = [("ENDS", "no such quantisation: Q9"), ("STARTS", starts.path())];
    let mut bench = Bench::new(description(&manners)).await;
    let reason = bench.ready().await.expect_err("it can't come up");
    assert!(reason.contains("ended before it was ready"), "{reason}");
    assert!(reason.contains("no such quantisation: Q9"), "{reason}");
    assert_eq!(starts.all().len(), 3);
}

#[tokio::test]
async fn a_server_that_is_never_ready_is_given_up_and_ended() {
    let starts = Starts::new();
    let mut server = description(&[("NEVER_READY", ""), ("STARTS", starts.path())]);
    server.patience.load = 1;
    let mut bench = Bench::new(server).await;
    let reason = bench.ready().await.expect_err("it can't come up");
    assert!(reason.contains("was not ready after 1 seconds"), "{reason}");
    // Another try would take as long, and the machine is paid for meanwhile.
    let [start] = &starts.all()[..] else { panic!("{:?}", starts.all()) };
    gone(start.process).await;
}

#[tokio::test]
async fn the_first_server_that_is_ready_answers_while_another_loads() {
    let tools = two_gpus();
    let mut bench = Bench::with_tools(description(&[("NEVER_READY", "1")]), tools.path()).await;
    bench.ready().await.expect("one comes up");
    assert_eq!(bench.answer(&good(100)).await.len(), 100);
    assert!(!bench.notes().contains("was not ready"), "{}", bench.notes());
}

#[tokio::test]
async fn a_server_that_never_comes_up_is_done_without() {
    let (tools, starts) = (two_gpus(), Starts::new());
    let server = description(&[("BROKEN", "0"), ("STARTS", starts.path())]);
    let mut bench = Bench::with_tools(server, tools.path()).await;
    bench.ready().await.expect("one comes up");
    assert_eq!(bench.answer(&good(100)).await.len(), 100);
    while bench.notes().matches("the device can't be had").count() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    bench.ask_from(100, &good(50)).await;
    assert_eq!(bench.outcomes(50, |_| {}).await.len(), 50);
    let mut bench = Bench::with_tools(description(&[("BROKEN", "0 1")]), tools.path()).await;
    let reason = bench.ready().await.expect_err("none comes up");
    assert!(reason.contains("the device can't be had"), "{reason}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let mut server = description(&[]);
    server.command[0] = "no-such-inference-server".to_owned();
    let reason = Bench::new(server).await.ready().await.expect_err("it can't come up");
    assert!(
        reason.contains("no-such-inference-server") && reason.contains("--server-bin"),
        "{reason}"
    );
}

#[tokio::test]
async fn memory_that_lacks_at_the_start_halves_the_prompts_at_once() {
    let starts = Starts::new();
    let mut bench = Bench::new(description(&[("LOADS", "5"), ("STARTS", starts.path())])).await;
    bench.ready().await.expect("it comes up with fewer");
    let tried: Vec<u32> = starts.all().iter().map(|start| start.parallel).collect();
    assert_eq!(tried.first(), Some(&16));
    assert!(tried.last().is_some_and(|last| *last <= 5), "{tried:?}");
    assert_eq!(bench.answer(&good(30)).await.len(), 30);
}

#[tokio::test]
async fn a_server_ends_with_its_worker_however_that_ends() {
    for kill in [true, false] {
        let starts = Starts::new();
        let mut bench =
            Bench::new(description(&[("STARTS", starts.path()), ("SLOW", "100")])).await;
        bench.ready().await.expect("it comes up");
        bench.ask(&good(500)).await;
        bench.outcomes(1, |_| {}).await;
        if kill {
            // The daemon alone: what it has started must notice by itself.
            crate::harness::send_signal(daemon(&bench), "-9");
        } else {
            bench.controller.say(ToWorker::Quit).await;
        }
        for start in starts.all() {
            gone(start.process).await;
        }
    }
}

/// The process that holds the worker's socket.
fn daemon(bench: &Bench) -> u32 {
    let folder = bench.home.path().canonicalize().expect("it is there");
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let is_daemon = |process: &fs::DirEntry| {
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let serves = words.split(|byte| *byte == 0).nth(1) == Some(b"serve");
        serves && fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == folder)
    };
    let daemon = processes.into_iter().find(is_daemon).expect("the worker runs");
    daemon.file_name().to_string_lossy().parse().expect("a number")
}

/// Programs of a machine with two GPUs, for a worker to find before all others.
pub(crate) fn two_gpus() -> tempfile::TempDir {
    // The worker is started by this process, so it finds the driver's program where this one would.
    let tools = tempfile::tempdir().expect("a folder");
    let tool = tools.path().join("nvidia-smi");
    fs::write(&tool, "#!/bin/sh\nprintf '0, GPU-aa, 24576\\n1, GPU-bb, 24576\\n'\n")
        .expect("written");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("it is ours");
    tools
}

#[tokio::test]
async fn each_gpu_gets_a_server_of_its_own() {
    let tools = two_gpus();
    let starts = Starts::new();
    let server = description(&[("STARTS", starts.path())]);
    let mut bench = Bench::with_tools(server, tools.path()).await;
    let facts = bench.ready().await.expect("it comes up");
    assert_eq!((facts.name.as_str(), facts.batch), ("stand-in, 2 servers of 1 GPU", 32));
    let mut devices: Vec<String> = starts.all().into_iter().map(|start| start.devices).collect();
    devices.sort();
    assert_eq!(devices, ["0", "1"]);
    assert_eq!(bench.answer(&good(300)).await.len(), 300);
    bench.controller.say(ToWorker::Quit).await;
    while !matches!(bench.controller.hear().await, None | Some(ToController::Broken { .. })) {}
}
