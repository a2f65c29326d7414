//! What a run tells the outside. Events may be lost without harm; the ledger may not.

use crate::label::RunId;
use providers::{InstanceId, Label, Usd, UsdPerHour};
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf};
use tokio::sync::mpsc::UnboundedSender;

/// The version of the events' shape, as `--json` prints them.
pub const VERSION: u32 = 1;

/// Something a person or a program may want to see.
///
/// `--json` prints each as one line: these fields, with `v` (the [`VERSION`]), `at` (RFC 3339) and
/// `event` (the variant's name in snake case) before them. Money is in millionths of a US dollar,
/// time in seconds, sizes in bytes. New events and fields may come with any version.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run begins, or goes on.
    RunStarted {
        /// Its name.
        run: RunId,
        /// Its folder.
        folder: PathBuf,
        /// The model.
        model: String,
        /// The engine.
        engine: String,
        /// Prompts in the input, good and bad.
        prompts: u64,
        /// Of them: done or failed in an earlier session.
        already: u64,
    },
    /// An offer was chosen, and is being rented.
    OfferChosen {
        /// Which of the run's machines.
        slot: u32,
        /// The marketplace.
        provider: String,
        /// What is rented, for people.
        what: String,
        /// The price of the whole instance.
        price: UsdPerHour,
    },
    /// An instance is ours, and billed from now on.
    Rented {
        /// Which of the run's machines.
        slot: u32,
        /// Our name for it.
        label: Label,
        /// The marketplace's name for it.
        id: InstanceId,
    },
    /// An instance is at something.
    Phase {
        /// Which of the run's machines.
        slot: u32,
        /// What it is at.
        phase: SlotPhase,
    },
    /// The connection to an instance is lost, and being made again.
    Reconnecting {
        /// Which of the run's machines.
        slot: u32,
        /// What happened.
        reason: String,
    },
    /// An instance is of no more use. It is given back, and its prompts go to others.
    Lost {
        /// Which of the run's machines.
        slot: u32,
        /// What happened.
        reason: String,
    },
    /// How the run is doing. Sent every second.
    Progress(Progress),
    /// No more prompts are begun.
    Stopping {
        /// Why.
        reason: String,
    },
    /// Everything rented is being given back.
    Settling {
        /// How many instances.
        instances: u32,
    },
    /// An instance is gone from the listing, and billed no more.
    Released {
        /// Our name for it.
        label: Label,
        /// What it came to, at most.
        cost: Usd,
    },
    /// An instance could not be given back yet. It is tried again.
    StillOwed {
        /// Our name for it.
        label: Label,
        /// What happened.
        reason: String,
    },
    /// Instances and their disks are gone, and the run's public key could not be taken off the
    /// account. It costs nothing.
    LeftBehind {
        /// Why not.
        reason: String,
    },
    /// The run's guard had died, and there is another.
    GuardReplaced,
    /// The completions are being put into the input's order.
    Ordering,
    /// The completions are on their way to an object store.
    Sending {
        /// Where.
        to: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The run is over, or stopped.
    Finished(Summary),
}

/// What an instance is at.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum SlotPhase {
    /// Being rented.
    Renting,
    /// Rented, and not yet reachable.
    Booting,
    /// Reachable, and being logged in to.
    Connecting,
    /// Being asked whether it is what it was said to be.
    Testing,
    /// Getting the worker.
    Uploading {
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Getting the model.
    Fetching {
        /// From where.
        source: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all; 0 where that isn't known.
        total: u64,
    },
    /// Loading the model.
    Loading {
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Answering prompts.
    Working {
        /// The engine, for people.
        engine: String,
        /// Prompts that wait on the instance.
        waiting: u64,
        /// Prompts that the engine is at.
        running: u64,
        /// Tokens a second, in and out.
        tokens_per_second: f64,
    },
}

/// How a run is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Progress {
    /// Prompts answered and on disk.
    pub done: u64,
    /// Prompts that can't be answered.
    pub failed: u64,
    /// Prompts in all.
    pub total: u64,
    /// Tokens of answered prompts.
    pub tokens_in: u64,
    /// Tokens of their answers.
    pub tokens_out: u64,
    /// Prompts answered a second, of late.
    pub prompts_per_second: f64,
    /// Tokens a second, in and out, of late.
    pub tokens_per_second: f64,
    /// What the run has cost so far, at most.
    pub spent: Usd,
    /// What each machine that has not answered anything yet has cost so far, at most.
    pub waiting: BTreeMap<u32, Usd>,
    /// Seconds until the end, at the rate of late. None where there is no rate yet.
    pub seconds_left: Option<f64>,
    /// Seconds since the session began.
    pub seconds: f64,
}

/// How a run, or a session of it, ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The run's name.
    pub run: RunId,
    /// Whether every prompt is done or failed.
    pub complete: bool,
    /// Prompts answered.
    pub done: u64,
    /// Prompts that can't be answered.
    pub failed: u64,
    /// Prompts in all.
    pub total: u64,
    /// Tokens of answered prompts.
    pub tokens_in: u64,
    /// Tokens of their answers.
    pub tokens_out: u64,
    /// Seconds that this session took.
    pub seconds: f64,
    /// Seconds of it until the first completion was on disk.
    pub seconds_to_first: Option<f64>,
    /// Tokens a second, in and out, from the first completion of this session to its last.
    pub tokens_per_second: f64,
    /// What the whole run has cost, at most.
    pub cost: Usd,
    /// The completions, where the run is complete.
    pub completions: Option<PathBuf>,
    /// The prompts that can't be answered, where there are any.
    pub errors: Option<PathBuf>,
    /// What may still be billed.
    pub owed: Vec<Label>,
}

/// The sending end. Nobody listening is not an error.
#[derive(Clone, Debug)]
pub struct Events(Option<UnboundedSender<Event>>);

impl Events {
    /// Events that somebody reads.
    pub fn to(sender: UnboundedSender<Event>) -> Self {
        Self(Some(sender))
    }

    /// Events that nobody reads.
    pub fn unheard() -> Self {
        Self(None)
    }

    pub(crate) fn send(&self, event: Event) {
        if let Some(sender) = &self.0 {
            drop(sender.send(event));
        }
    }
}
