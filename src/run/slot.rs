//! One of a run's machines, and where it stands.

use super::{meter::Meter, pace::Pace, supply::Appetite};
use crate::{
    choose::Candidate,
    shards::{Say, Ticket, WorkerId},
    shortlist::Pick,
};
use providers::Label;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc::UnboundedSender, task::AbortHandle};
use wire::{EngineFacts, Outcome};

/// How often in a row a slot may fail to get a machine of use before it is left vacant.
const ATTEMPTS: u32 = 3;

/// How long a machine works before what befalls it is no sign of what befalls the next: a prompt that brings
/// machines down is handed to the next at once, and its answers before that prove nothing.
pub(super) const PROVEN: Duration = Duration::from_hours(1);

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
    /// When its first answers came, and its last.
    pub(super) working: Option<(Instant, Instant)>,
    /// Bytes of the prompts that it answered, and how fast they go.
    pub(super) answered_bytes: u64,
    pub(super) bytes: Meter,
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
    /// How often in a row it got no machine, or none of use.
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

    /// Counts that it got no machine, or has lost one. Whether it may look for another.
    pub(super) fn fail(&mut self) -> bool {
        self.attempt += 1;
        self.failures += 1;
        self.failures < ATTEMPTS
    }

    /// Its machine is gone, and has worked for so long, if it has answered at all. After `least` it was of use.
    pub(super) fn credit(&mut self, worked: Option<Duration>, least: Duration) {
        if worked.is_some_and(|worked| least <= worked) {
            self.failures = 0;
        }
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

    /// How long it has worked, if it has answered at all.
    pub(super) fn worked(&self) -> Option<Duration> {
        self.working.map(|(first, last)| last.duration_since(first))
    }

    /// What it takes to be kept busy.
    pub(super) fn appetite(&self) -> Appetite {
        let (batch, running) = (self.batch(), self.at_once());
        Appetite { batch, running, prompts: self.prompts.rate(), bytes: self.bytes.rate() }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How many machines a slot takes, up to 100, where each works for so long.
    fn taken(worked: Option<Duration>, least: Duration) -> usize {
        let mut slot = Slot::new(0, 0);
        let next = |_: &usize| {
            slot.credit(worked, least);
            slot.fail()
        };
        1 + (0..99).take_while(next).count()
    }

    #[test]
    fn a_slot_is_given_up_after_three_machines_in_a_row_of_which_none_has_worked_for_long() {
        assert_eq!(taken(None, PROVEN), 3, "they answered nothing");
        assert_eq!(taken(Some(Duration::from_mins(10)), PROVEN), 3, "a prompt may bring them down");
        assert_eq!(
            taken(Some(Duration::from_hours(24)), PROVEN),
            100,
            "they broke after good work"
        );
    }

    #[test]
    fn machines_that_are_taken_away_are_of_use_if_they_have_answered_anything() {
        assert_eq!(taken(None, Duration::ZERO), 3);
        assert_eq!(taken(Some(Duration::ZERO), Duration::ZERO), 100);
    }

    #[test]
    fn a_machine_of_use_between_those_that_are_not_begins_the_row_anew() {
        let mut slot = Slot::new(0, 0);
        assert!(slot.fail() && slot.fail());
        slot.credit(Some(PROVEN), PROVEN);
        assert!(slot.fail() && slot.fail());
        assert_eq!((slot.fail(), slot.attempt), (false, 5));
    }
}
