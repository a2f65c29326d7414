//! One of a run's machines: where it stands, and how many prompts it is kept supplied with.

use super::{meter::Meter, pace::Pace};
use crate::{
    choose::Candidate,
    shards::{Say, Ticket, WorkerId},
    shortlist::Pick,
};
use providers::Label;
use std::collections::VecDeque;
use tokio::{sync::mpsc::UnboundedSender, task::AbortHandle};
use wire::{EngineFacts, Outcome};

/// How many seconds of work a worker is kept supplied with.
const SUPPLY_SECONDS: f64 = 10.0;

/// The least and the most prompts that a worker holds.
const BOUNDS: (usize, usize) = (32, 20_000);

/// Where a machine stands.
#[derive(Debug)]
pub(super) enum Stand {
    /// An offer is being looked for.
    Quoting,
    /// This offer was ordered.
    Renting(Label, Box<Pick>),
    /// It was ordered, and can't be told to be there or not. It is being looked for.
    Unclear(Label),
    /// It is ours.
    Held(Box<Held>),
    /// It is being given back, and another takes its place once it is gone.
    Leaving(Label),
    /// It is given up, and not replaced.
    Vacant,
}

/// A machine that is ours.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) label: Label,
    pub(super) worker: WorkerId,
    pub(super) orders: UnboundedSender<Say>,
    pub(super) task: AbortHandle,
    /// Tells the marketplace that it is still needed, where that ends it otherwise.
    pub(super) renewal: Option<AbortHandle>,
    /// The conversation that is going on. None while there is no link.
    pub(super) conversation: Option<u64>,
    pub(super) engine: Option<EngineFacts>,
    /// Answers that came and are not yet known to be on disk.
    pub(super) acks: VecDeque<Ack>,
    pub(super) prompts: Meter,
    pub(super) tokens: Meter,
    pub(super) answered: u64,
    /// Of them, those that count.
    pub(super) score: Score,
    /// How it was thought to do, where that could be told.
    pub(super) candidate: Option<Candidate>,
    /// The most prompts that it said it is at.
    pub(super) most_running: u32,
    /// How it does.
    pub(super) pace: Pace,
    /// Whether it was found to be slow.
    pub(super) doubted: bool,
}

/// What a machine did first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Score {
    pub(super) prompts: u64,
    pub(super) tokens_in: u64,
    pub(super) tokens_out: u64,
}

impl Score {
    /// Counts an answer.
    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.prompts += 1;
        if let Outcome::Done { tokens_in, tokens_out, .. } = outcome {
            self.tokens_in += u64::from(*tokens_in);
            self.tokens_out += u64::from(*tokens_out);
        }
    }

    /// Counts what was counted elsewhere.
    pub(super) fn extend(&mut self, other: Self) {
        self.prompts += other.prompts;
        self.tokens_in += other.tokens_in;
        self.tokens_out += other.tokens_out;
    }
}

/// A batch of answers that a worker may forget once they are on disk.
#[derive(Debug)]
pub(super) struct Ack {
    pub(super) conversation: u64,
    pub(super) through: u64,
    /// None while it holds answers to prompts that this session hasn't read yet.
    pub(super) ticket: Option<Ticket>,
}

/// A machine.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) number: u32,
    pub(super) attempt: u32,
    /// How often in a row it got no machine, or one that answered nothing.
    pub(super) failures: u32,
    /// How often its machine was exchanged.
    pub(super) exchanges: u32,
    pub(super) stand: Stand,
    /// What was ordered to take its machine's place.
    pub(super) successor: Option<Successor>,
    /// What it is avoided by that was given back for another, until that is there.
    pub(super) parted: Option<String>,
}

/// A machine that was ordered while another works, which it is to replace.
#[derive(Debug)]
pub(super) struct Successor {
    pub(super) label: Label,
    pub(super) pick: Box<Pick>,
    /// Why the other is replaced.
    pub(super) reason: String,
}

impl Slot {
    /// A slot that has no machine yet, and had so many before.
    pub(super) fn new(number: u32, attempt: u32) -> Self {
        let (failures, exchanges) = (0, 0);
        let (stand, successor, parted) = (Stand::Vacant, None, None);
        Self { number, attempt, failures, exchanges, stand, successor, parted }
    }

    /// Whether it has a machine, or may have one soon.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.stand, Stand::Vacant)
    }

    pub(super) fn held(&self) -> Option<&Held> {
        match &self.stand {
            Stand::Held(held) => Some(held),
            Stand::Quoting
            | Stand::Renting(..)
            | Stand::Unclear(_)
            | Stand::Leaving(_)
            | Stand::Vacant => None,
        }
    }

    /// Its machine, which it has no more.
    pub(super) fn take_held(&mut self) -> Option<Box<Held>> {
        let stand = std::mem::replace(&mut self.stand, Stand::Vacant);
        if let Stand::Held(held) = stand {
            return Some(held);
        }
        self.stand = stand;
        None
    }

    pub(super) fn held_mut(&mut self) -> Option<&mut Held> {
        match &mut self.stand {
            Stand::Held(held) => Some(held),
            Stand::Quoting
            | Stand::Renting(..)
            | Stand::Unclear(_)
            | Stand::Leaving(_)
            | Stand::Vacant => None,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(renewal) = &self.renewal {
            renewal.abort();
        }
    }
}

impl Held {
    /// Says something to the worker. Without a link it is said again when there is one.
    pub(super) fn say(&self, say: Say) {
        drop(self.orders.send(say));
    }

    /// How many prompts the worker is to hold.
    pub(super) fn window(&self) -> usize {
        window(self.batch(), self.prompts.rate())
    }

    /// How many prompts it may be at at once; 0 while that isn't known.
    fn batch(&self) -> u32 {
        self.engine.as_ref().map_or(0, |engine| engine.batch)
    }

    /// How many it was at at once, at most.
    pub(super) fn at_once(&self) -> u32 {
        self.most_running.min(self.batch())
    }
}

/// How many prompts keep an engine of this batch busy that answers so many a second: enough for
/// [`SUPPLY_SECONDS`], and for two batches.
fn window(batch: u32, rate: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is bounded")]
    let supply = (rate * SUPPLY_SECONDS).clamp(0.0, BOUNDS.1 as f64) as usize;
    supply.max(2 * batch as usize).clamp(BOUNDS.0, BOUNDS.1)
}

/// How many prompts to hand to a worker that holds `load`, of a window of `window`, when `left`
/// are held by nobody and `workers` share them. Few at the end, so that all end together.
pub(super) fn portion(window: usize, load: usize, left: u64, workers: usize) -> usize {
    let room = window.saturating_sub(load);
    // Not in dribs and drabs, as each portion is a message; but never let the worker run dry.
    if room * 4 < window && window / 2 < load {
        return 0;
    }
    if workers < 2 {
        return room;
    }
    let share = usize::try_from(left).unwrap_or(usize::MAX).div_ceil(2 * workers);
    room.min(share.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_ten_seconds_and_two_batches() {
        for (batch, rate, expected) in
            [(0, 0.0, 32), (64, 0.0, 128), (64, 30.0, 300), (256, 30.0, 512), (64, 1e9, 20_000)]
        {
            assert_eq!(window(batch, rate), expected, "batch {batch}, {rate} a second");
        }
    }

    #[test]
    fn a_worker_is_refilled_in_portions() {
        assert_eq!(portion(128, 0, 1000, 1), 128);
        assert_eq!(portion(128, 120, 1000, 1), 0);
        assert_eq!(portion(128, 96, 1000, 1), 32);
    }

    #[test]
    fn the_last_prompts_are_shared_out() {
        assert_eq!(portion(128, 0, 100, 4), 13);
        assert_eq!(portion(128, 0, 1, 4), 1);
        assert_eq!(portion(128, 128, 100, 4), 0);
    }
}
