//! Starts a server and waits until it is ready: it says so, and answers a plain prompt.
//!
//! The plain prompt tells servers from prompts: one that can't answer it is of no use, whatever it is asked,
//! and what a server dies of that has answered it is what it was asked since.

use super::{
    answer::{self, Meaning},
    client::{Address, NoReply},
    gpus::Gpu,
    plan::Plan,
    process::Process,
    request::{self, Common},
};
use std::{
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    time::Duration,
};
use tokio::time::{sleep, timeout};
use wire::{Form, Prompt, server::Patience};

/// How often a server is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// How long it may take to say so.
const ANSWER: Duration = Duration::from_secs(5);

/// A prompt that nothing can be held against.
const PLAIN: &str = r#"{"prompt":"Hello","max_tokens":1}"#;

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
    let (why, cause) = tokio::select! {
        () = process.ended() => ("ended before it was ready".to_owned(), Cause::Other),
        proven = prove(plan, &address) => match proven {
            Ok(()) => return Ok(Live { process, address }),
            Err(why) => why,
        },
    };
    process.end().await;
    let (words, out_of_memory) = process.last_words(&plan.server.out_of_memory);
    Err(NotReady {
        reason: format!("the server {name} {why}; its log ends: {words}"),
        cause: if out_of_memory { Cause::Memory } else { cause },
    })
}

/// Waits until the server says that it is ready and has answered a plain prompt. Fails with why it is of no
/// use, as a clause that follows its name.
async fn prove(plan: &Plan, address: &Address) -> Result<(), (String, Cause)> {
    let Patience { load, stalled, .. } = plan.server.patience;
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let ready = timeout(seconds(load), ready(plan, address)).await;
    ready.map_err(|_| (format!("was not ready after {load} seconds"), Cause::Time))?;
    let stalls = || format!("had no answer to a plain prompt after {stalled} seconds");
    let answered = timeout(seconds(stalled), answers(plan, address)).await;
    answered.unwrap_or_else(|_| Err((stalls(), Cause::Time)))
}

/// Asks the plain prompt. Whoever refuses it is well enough to read it.
async fn answers(plan: &Plan, address: &Address) -> Result<(), (String, Cause)> {
    let prompt = Prompt { index: 0, form: Form::Auto, body: PLAIN.to_owned() };
    let common = Common { defaults: serde_json::Map::new(), ..plan.common.clone() };
    let asked = request::ask(&prompt, &common).expect("it is a request");
    loop {
        let reply = address.post(asked.path, asked.body.clone()).await;
        let reply = reply.map_err(|NoReply(why)| {
            (format!("gave no answer to a plain prompt: {why}"), Cause::Other)
        })?;
        return match answer::read(&reply, &plan.server.out_of_memory) {
            Meaning::Busy => {
                sleep(ASK_EVERY).await;
                continue;
            }
            Meaning::OutOfMemory(why) => Err((why, Cause::Memory)),
            Meaning::Failed(why) if 500 <= reply.status => {
                Err((format!("failed at a plain prompt: {why}"), Cause::Other))
            }
            Meaning::Failed(_) | Meaning::Over(_) => Ok(()),
        };
    }
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
