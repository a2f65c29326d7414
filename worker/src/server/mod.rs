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
use wire::{EngineFacts, Job, Server};

/// Servers that are ready.
#[derive(Debug)]
struct Servers {
    runtime: Runtime,
    replicas: Vec<Replica>,
    facts: EngineFacts,
}

/// Starts servers for a model and waits until they are ready.
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
    let runtime =
        runtime.map_err(|error| EngineError(format!("the servers can't be watched: {error}")))?;
    let facts = facts(&plan, shares.len(), shares[0].len());
    let replicas = runtime.block_on(async {
        let mut starting = JoinSet::new();
        for (number, gpus) in shares.into_iter().enumerate() {
            starting.spawn(Replica::start(plan.clone(), number, gpus));
        }
        let mut replicas = Vec::new();
        while let Some(started) = starting.join_next().await {
            replicas.push(started.expect("none is aborted, and a panic is passed on")?);
        }
        Ok::<_, EngineError>(replicas)
    })?;
    progress(outline.weight_bytes, outline.weight_bytes);
    Ok(Box::new(Servers { runtime, replicas, facts }))
}

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
        let Self { runtime, replicas, .. } = *self;
        let source = Arc::new(Source::new(prompts));
        runtime.block_on(async {
            let mut running = JoinSet::new();
            let run = |replica: Replica| replica.run(source.clone(), outlet.clone());
            for replica in replicas {
                running.spawn(run(replica));
            }
            let (mut ready, mut failed) = (Vec::new(), None);
            while let Some(ran) = running.join_next().await {
                match ran.expect("none is aborted, and a panic is passed on") {
                    Ok(replica) => ready.push(replica),
                    Err(error) => failed = Some(error),
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
