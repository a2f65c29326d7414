//! What a run tells the outside. Events may be lost without harm; the ledger may not.

use crate::{clock, label::RunId};
use jiff::Timestamp;
use providers::{InstanceId, Label, Usd, UsdPerHour};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf, sync::mpsc::SyncSender};
use tokio::sync::mpsc::UnboundedSender;

/// The version of the events' shape, as `--json` prints them.
pub const VERSION: u32 = 1;

/// Something a person or a program may want to see.
///
/// `--json` prints each as one line: these fields, with `v` (the [`VERSION`]), `at` (RFC 3339) and
/// `event` (the variant's name in snake case) before them. Money is in millionths of a US dollar,
/// time in seconds, sizes in bytes. New events and fields may come with any version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// An instance that an earlier session rented is worked with again.
    Adopted {
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
    /// An instance answers, and the rest of its work costs less on another. It is given back, and the
    /// other takes its place.
    Exchanged {
        /// Which of the run's machines.
        slot: u32,
        /// What was found.
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
    /// An instance is listed as ours that nobody asked for: an order was carried out twice, or although
    /// it was refused. It is given back.
    Stray {
        /// The label that it has.
        label: Label,
        /// The marketplace's name for it.
        id: InstanceId,
    },
    /// An instance could not be given back yet. Unless it was rented with another key, it is tried
    /// again.
    StillOwed {
        /// Our name for it.
        label: Label,
        /// What happened.
        reason: String,
    },
    /// An instance was past its time, in the hands of a program that doesn't end it, and is ended.
    EndedOverdue {
        /// Our name for it.
        label: Label,
    },
    /// Instances and their disks are gone, and the run's public key could not be taken off the
    /// account. It costs nothing.
    LeftBehind {
        /// Why not.
        reason: String,
    },
    /// The run's guard had died, and there is another.
    GuardReplaced,
    /// The run's guard has died, and no other can be started: nobody gives back what is rented, should
    /// the program die. It is tried again, and `guard_replaced` says that it came to be.
    Unguarded {
        /// Why not.
        reason: String,
    },
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
        /// Seconds since the engine came up in which it could have begun a prompt and there was none.
        #[serde(default)]
        hungry: f64,
    },
}

impl SlotPhase {
    /// What it is called where it is written down.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Renting => "renting",
            Self::Booting => "booting",
            Self::Connecting => "connecting",
            Self::Testing => "testing",
            Self::Uploading { .. } => "uploading",
            Self::Fetching { .. } => "fetching",
            Self::Loading { .. } => "loading",
            Self::Working { .. } => "working",
        }
    }
}

/// How a run is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    // Not read back: numbers as keys don't survive it, and a story does without.
    #[serde(skip_deserializing)]
    pub waiting: BTreeMap<u32, Usd>,
    /// Seconds until the end: by what was seen of each machine, else by what was thought of it. None
    /// where neither is known.
    pub seconds_left: Option<f64>,
    /// What the run will have cost by then, at most.
    #[serde(default)]
    pub expected: Option<Usd>,
    /// Seconds since the session began.
    pub seconds: f64,
    /// What each machine that works now has answered.
    #[serde(default)]
    pub machines: Vec<MachineProgress>,
    /// How long this session's prompts took.
    #[serde(default)]
    pub latency: Latency,
}

/// What a machine has answered in this session. An answer that another machine gave first doesn't
/// count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineProgress {
    /// Which of the run's machines.
    pub slot: u32,
    /// Our name for it.
    pub label: Label,
    /// Prompts, answered or found to be impossible.
    pub prompts: u64,
    /// Tokens of answered prompts.
    pub tokens_in: u64,
    /// Tokens of their answers.
    pub tokens_out: u64,
}

/// How long prompts took, from when they were handed to a machine, where they may wait, until their
/// answers were here. Where very many are on their way, some stand for all.
///
/// How many prompts took at most so many milliseconds, and more than the entry before. There are
/// four entries to a doubling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Latency(pub BTreeMap<u64, u64>);

impl From<Vec<(u64, u64)>> for Latency {
    fn from(entries: Vec<(u64, u64)>) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl From<Latency> for Vec<(u64, u64)> {
    fn from(latency: Latency) -> Self {
        latency.0.into_iter().collect()
    }
}

impl Latency {
    /// Counts one prompt.
    pub fn note(&mut self, milliseconds: u64) {
        *self.0.entry(bound(milliseconds)).or_default() += 1;
    }

    /// Counts those that another counted.
    pub fn extend(&mut self, other: &Self) {
        for (bound, count) in &other.0 {
            *self.0.entry(*bound).or_default() += count;
        }
    }

    /// How many prompts were counted.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The milliseconds in which this share of the prompts was answered, to the next entry.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = share * self.count() as f64;
        let mut sum = 0;
        for (bound, count) in &self.0 {
            sum += count;
            if wanted <= sum as f64 {
                return Some(*bound);
            }
        }
        None
    }
}

/// The upper end of the entry that counts these milliseconds.
fn bound(milliseconds: u64) -> u64 {
    let step = milliseconds.max(1).next_power_of_two() / 8;
    milliseconds.max(1).next_multiple_of(step.max(1))
}

/// How a run, or a session of it, ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Tokens a second, in and out, from when this session's first engine was up to its last completion.
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

/// An event as it is written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line<E> {
    /// The [`VERSION`].
    pub v: u32,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: E,
}

/// The sending end. Nobody listening is not an error.
#[derive(Clone, Debug)]
pub struct Events {
    heard: Option<UnboundedSender<Event>>,
    kept: Option<SyncSender<(Timestamp, Event)>>,
}

impl Events {
    /// Events that somebody reads.
    pub fn to(sender: UnboundedSender<Event>) -> Self {
        Self { heard: Some(sender), kept: None }
    }

    /// Events that nobody reads.
    pub fn unheard() -> Self {
        Self { heard: None, kept: None }
    }

    /// The same, and they are written down too. What finds no room is left out.
    #[must_use]
    pub fn and_kept(self, sender: SyncSender<(Timestamp, Event)>) -> Self {
        Self { kept: Some(sender), ..self }
    }

    pub(crate) fn send(&self, event: Event) {
        if let Some(sender) = &self.kept {
            drop(sender.try_send((clock::exactly_now(), event.clone())));
        }
        if let Some(sender) = &self.heard {
            drop(sender.send(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entries_of_a_latency_are_four_to_a_doubling() {
        let bounds: Vec<_> = (0..=20).chain([1000, 1025, 86_400_000]).map(bound).collect();
        let small = [1, 1, 2, 3, 4, 5, 6, 7, 8, 10, 10, 12, 12, 14, 14, 16, 16];
        assert_eq!(bounds[..17], small);
        assert_eq!(bounds[17..], [20, 20, 20, 20, 1024, 1280, 100_663_296]);
    }

    #[test]
    fn a_quantile_is_never_less_than_what_was_measured() {
        let mut latency = Latency::default();
        (1..=100).for_each(|milliseconds| latency.note(milliseconds));
        let of = |share| latency.quantile(share);
        assert_eq!((of(0.5), of(0.9), of(1.0)), (Some(56), Some(96), Some(112)));
        assert_eq!(Latency::default().quantile(0.5), None);
    }

    #[test]
    fn an_event_is_read_back_as_it_was_written() {
        let machine = MachineProgress {
            slot: 1,
            label: Label("pw-a".into()),
            prompts: 3,
            tokens_in: 4,
            tokens_out: 5,
        };
        let mut latency = Latency::default();
        latency.note(20);
        let progress = Progress { machines: vec![machine], latency, ..Progress::default() };
        let phase = SlotPhase::Fetching { source: "a hub".into(), done: 1, total: 2 };
        for event in [Event::Progress(progress), Event::Phase { slot: 1, phase }, Event::Ordering] {
            let line = Line { v: VERSION, at: clock::exactly_now(), event: &event };
            let text = serde_json::to_string(&line).unwrap();
            let read: Line<Event> = serde_json::from_str(&text).unwrap();
            assert_eq!((read.at, read.event), (line.at, event), "{text}");
        }
    }
}
