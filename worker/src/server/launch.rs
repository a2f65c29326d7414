//! Starts a server and waits until it is ready.

use super::{client::Address, gpus::Gpu, plan::Plan, process::Process};
use std::{
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// How often a server is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// How long it may take to say so.
const ANSWER: Duration = Duration::from_secs(5);

/// A server that is ready.
#[derive(Debug)]
pub(super) struct Live {
    /// Its process.
    pub(super) process: Process,
    /// Where it listens.
    pub(super) address: Address,
}

/// Why a server isn't ready.
#[derive(Debug)]
pub(super) struct NotReady {
    /// The reason, as a sentence without a full stop.
    pub(super) reason: String,
    /// What it was for.
    pub(super) cause: Cause,
}

/// What keeps a server from getting ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It lacked memory.
    Memory,
    /// It had all the time that it may take. Another try would take as long.
    Time,
    /// Something else, perhaps only for once.
    Other,
}

/// Starts the server of this number for `parallel` prompts at once, and waits for it.
pub(super) async fn launch(
    plan: &Plan,
    number: usize,
    gpus: &[Gpu],
    parallel: u32,
) -> Result<Live, NotReady> {
    let name = &plan.server.name;
    let not_ready = |reason| NotReady { reason, cause: Cause::Other };
    let port = free_port()
        .map_err(|error| not_ready(format!("no port is free for the server {name}: {error}")))?;
    let key = format!("{:032x}", rand::random::<u128>());
    let command = plan.command_line(port, &key, parallel, gpus).map_err(not_ready)?;
    let devices: Vec<&str> = gpus.iter().map(|gpu| gpu.id.as_str()).collect();
    let devices = Some(devices.join(",")).filter(|devices| !devices.is_empty());
    let log = PathBuf::from(format!("server-{number}.log"));
    let mut process =
        Process::start(&plan.keeper, &plan.program, &command, devices.as_deref(), &log)
            .map_err(|error| not_ready(format!("the server {name} can't be started: {error}")))?;
    let address = Address { port, key };
    let load = plan.server.patience.load;
    let (why, cause) = tokio::select! {
        () = process.ended() => ("ended before it was ready".to_owned(), Cause::Other),
        ready = timeout(Duration::from_secs(load.into()), ready(plan, &address)) => match ready {
            Ok(()) => return Ok(Live { process, address }),
            Err(_) => (format!("was not ready after {load} seconds"), Cause::Time),
        },
    };
    process.end().await;
    let (words, out_of_memory) = process.last_words(&plan.server.out_of_memory);
    Err(NotReady {
        reason: format!("the server {name} {why}; its log ends: {words}"),
        cause: if out_of_memory { Cause::Memory } else { cause },
    })
}

async fn ready(plan: &Plan, address: &Address) {
    loop {
        let answer = timeout(ANSWER, address.get(&plan.server.ready)).await;
        if matches!(answer, Ok(Ok(reply)) if reply.status == 200) {
            return;
        }
        sleep(ASK_EVERY).await;
    }
}

/// A port that nobody listens on. Somebody may take it before the server does, which then ends and is
/// started again on another.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
