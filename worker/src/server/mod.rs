//! The machine's own inference server: started, watched and driven.
//!
//! ```text
//! description + model + GPUs ─▶ plan ─▶ command ─▶ launch (process, keeper)          once a server
//! prompt ─▶ request ─▶ client ─▶ answer ─▶ completion                                drive
//!              concurrency: how many at once · watchdog: is it hung · backlog: whose fault was it
//! death ─▶ backlog ─▶ launch, or ─▶ source for the others                               replica
//! ```
//!
//! The worker knows no server by name: all differences are in the description that comes with the
//! job. Each GPU that a model fits has a server of its own; a model that is too large for one is
//! split by the server itself. Logs (`server-0.log`, …) and notes on what happened (`servers.log`)
//! are in the worker's folder. Servers end when the worker does, however it ends.

mod answer;
mod backlog;
mod client;
mod command;
mod concurrency;
mod drive;
mod gpus;
mod keeper;
mod launch;
mod model;
mod notes;
mod plan;
mod process;
mod replica;
mod request;
mod signs;
mod source;
mod watchdog;

pub use keeper::keep;

use crate::engine::{Engine, EngineError, Outlet, Prompts};
use model::Outline;
use plan::Plan;
use replica::Replica;
use source::Source;
use std::{path::Path, sync::Arc};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use wire::{EngineFacts, Fault, Job, Server};

/// Servers, of which one at least is ready.
#[derive(Debug)]
struct Servers {
    runtime: Runtime,
    first: Replica,
    starting: Starting,
    facts: EngineFacts,
}

/// Servers that aren't ready yet.
type Starting = JoinSet<Result<Replica, EngineError>>;

/// Starts servers for a model and waits until the first is ready. The others join it when they are,
/// and one that never is, is done without.
///
/// `progress` is told the bytes of the weights, none of which are loaded until all are.
pub fn start(
    server: &Server,
    model: &Path,
    job: &Job,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Box<dyn Engine>, EngineError> {
    let outline = Outline::of(model)?;
    progress(0, outline.weight_bytes);
    let shares = gpus::share_out(&gpus::list(), outline.weight_bytes);
    let plan = Arc::new(Plan::new(server, model, outline, job, &shares[0])?);
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| EngineError::work(format!("the servers can't be watched: {error}")))?;
    let facts = facts(&plan, shares.len(), shares[0].len());
    let (first, starting) = runtime.block_on(async {
        let mut starting = JoinSet::new();
        for (number, gpus) in shares.into_iter().enumerate() {
            starting.spawn(Replica::start(plan.clone(), number, gpus));
        }
        Ok::<_, EngineError>((first_of(&mut starting).await?, starting))
    })?;
    progress(outline.weight_bytes, outline.weight_bytes);
    Ok(Box::new(Servers { runtime, first, starting, facts }))
}

/// Waits for the first that is ready. If none ever is, the error of the last.
async fn first_of(starting: &mut Starting) -> Result<Replica, EngineError> {
    loop {
        let started = starting.join_next().await.expect("there is a server");
        match started.expect(UNDISTURBED) {
            Err(error) if starting.is_empty() => return Err(error),
            Err(_) => {}
            Ok(replica) => return Ok(replica),
        }
    }
}

const UNDISTURBED: &str = "none is aborted, and a panic is passed on";

fn facts(plan: &Plan, servers: usize, gpus: usize) -> EngineFacts {
    let name = &plan.server.name;
    let count = u32::try_from(servers).unwrap_or(u32::MAX);
    let place = match (servers, gpus) {
        (_, 0) => "CPU".to_owned(),
        (1, 1) => "1 GPU".to_owned(),
        (1, gpus) => format!("{gpus} GPUs"),
        (servers, 1) => format!("{servers} servers of 1 GPU"),
        (servers, gpus) => format!("{servers} servers of {gpus} GPUs"),
    };
    EngineFacts {
        name: format!("{name}, {place}"),
        context: plan.context.or(plan.outline.context).unwrap_or(u32::MAX),
        batch: plan.parallel.saturating_mul(count),
        weight_bytes: plan.outline.weight_bytes * servers as u64,
        kv_bytes: plan.kv_bytes * servers as u64,
    }
}

impl Engine for Servers {
    fn facts(&self) -> EngineFacts {
        self.facts.clone()
    }

    fn run(self: Box<Self>, prompts: Prompts, outlet: Outlet) -> Result<(), EngineError> {
        let Self { runtime, first, mut starting, .. } = *self;
        let source = Arc::new(Source::new(prompts));
        runtime.block_on(async {
            let mut running = JoinSet::new();
            let run = |replica: Replica| replica.run(source.clone(), outlet.clone());
            running.spawn(run(first));
            let (mut ready, mut failed) = (Vec::new(), None::<EngineError>);
            // Where one has shown that the work can be done, no other's failure speaks against it.
            let graver = |failed: Option<EngineError>, error| match failed {
                Some(failed) if failed.fault == Fault::Machine => Some(failed),
                _ => Some(error),
            };
            loop {
                tokio::select! {
                    Some(ran) = running.join_next() => match ran.expect(UNDISTURBED) {
                        Ok(replica) => ready.push(replica),
                        Err(error) => failed = graver(failed, error),
                    },
                    // Where one has nothing left to do, nobody waits for another.
                    Some(started) = starting.join_next(), if ready.is_empty() => {
                        match started.expect(UNDISTURBED) {
                            Ok(replica) => drop(running.spawn(run(replica))),
                            Err(error) => failed = graver(failed, error),
                        }
                    }
                    else => break,
                }
                if source.has_left() {
                    // Some had nothing left to do when another gave up.
                    for replica in ready.drain(..) {
                        running.spawn(run(replica));
                    }
                }
            }
            let is_lost = ready.is_empty();
            for replica in ready {
                replica.end().await;
            }
            // With one server left nothing is lost; with none, another machine gets the prompts.
            failed.filter(|_| is_lost).map_or(Ok(()), Err)
        })
    }
}
