//! A story's lines → its sessions, and the trace that each machine left in them. Pure.

use crate::event::{Event, Latency, Line, MachineProgress};
use jiff::Timestamp;
use providers::{InstanceId, Label};
use serde::Serialize;
use std::collections::BTreeMap;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Its run was over.
    Complete,
    /// It was stopped, or something kept it from going on.
    Stopped,
    /// Nobody knows: its program died.
    Died,
    /// It goes on.
    Running,
}

/// From when a program took a run up to when it was last heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// When it began.
    pub begun: Timestamp,
    /// When it was last heard of.
    pub end: Timestamp,
    /// How it ended.
    pub ending: Ending,
}

/// What was counted on a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) prompts: u64,
    pub(super) tokens_in: u64,
    pub(super) tokens_out: u64,
}

impl Count {
    pub(super) const fn tokens(self) -> u64 {
        self.tokens_in + self.tokens_out
    }
}

/// What is heard of a machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Trace {
    /// What was rented, for people.
    pub(super) what: String,
    /// The marketplace's name for it.
    pub(super) id: Option<InstanceId>,
    /// What it was at from then on.
    pub(super) marks: Vec<(Timestamp, &'static str)>,
    /// What it had done by then, over all sessions.
    pub(super) readings: Vec<(Timestamp, Count)>,
    /// Why it was given up.
    pub(super) lost: Option<String>,
    /// What it had done when the session began.
    before: Count,
}

/// A story, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Traces {
    pub(super) sessions: Vec<Session>,
    pub(super) machines: BTreeMap<Label, Trace>,
    pub(super) latency: Latency,
}

/// What a machine is at whose link broke.
pub(super) const RECONNECTING: &str = "reconnecting";
/// What a machine is at that is of no more use.
pub(super) const RELEASING: &str = "releasing";

/// Follows a story's lines. Time never goes back in it, whatever the computer's clock did.
pub(super) fn follow(lines: &[Line<Event>]) -> Traces {
    let mut follower = Follower::default();
    let mut now = Timestamp::MIN;
    for line in lines {
        now = now.max(line.at);
        follower.hear(now, &line.event);
    }
    follower.end_of_session();
    follower.traces
}

#[derive(Default)]
struct Follower {
    traces: Traces,
    /// What was chosen for each machine, and which lease it has now.
    chosen: BTreeMap<u32, String>,
    current: BTreeMap<u32, Label>,
    /// Of this session.
    latency: Latency,
}

impl Follower {
    fn hear(&mut self, at: Timestamp, event: &Event) {
        if let Event::RunStarted { .. } = event {
            self.end_of_session();
            self.traces.sessions.push(Session { begun: at, end: at, ending: Ending::Died });
        }
        if let Some(session) = self.traces.sessions.last_mut()
            && session.ending == Ending::Died
        {
            session.end = at;
        }
        match event {
            Event::OfferChosen { slot, what, .. } => {
                self.chosen.insert(*slot, what.clone());
                self.current.remove(slot);
            }
            Event::Rented { slot, label, id } | Event::Adopted { slot, label, id } => {
                self.current.insert(*slot, label.clone());
                let trace = self.traces.machines.entry(label.clone()).or_default();
                trace.id = Some(id.clone());
                // One that was adopted was chosen in an earlier session.
                if let Some(what) = self.chosen.remove(slot) {
                    trace.what = what;
                }
            }
            Event::Phase { slot, phase } => self.mark(*slot, at, phase.name()),
            Event::Reconnecting { slot, .. } => self.mark(*slot, at, RECONNECTING),
            Event::Lost { slot, reason } | Event::Exchanged { slot, reason } => {
                self.mark(*slot, at, RELEASING);
                if let Some(label) = self.current.remove(slot) {
                    let trace = self.traces.machines.entry(label).or_default();
                    trace.lost = Some(reason.clone());
                }
            }
            Event::Settling { .. } => {
                let slots: Vec<u32> = self.current.keys().copied().collect();
                for slot in slots {
                    self.mark(slot, at, RELEASING);
                }
            }
            Event::Progress(progress) => {
                self.latency = progress.latency.clone();
                progress.machines.iter().for_each(|machine| self.count(at, machine));
            }
            Event::Finished(summary) => {
                if let Some(session) = self.traces.sessions.last_mut() {
                    let complete = summary.complete;
                    session.ending = if complete { Ending::Complete } else { Ending::Stopped };
                }
            }
            Event::RunStarted { .. }
            | Event::Stopping { .. }
            | Event::Released { .. }
            | Event::Stray { .. }
            | Event::EndedOverdue { .. }
            | Event::StillOwed { .. }
            | Event::LeftBehind { .. }
            | Event::GuardReplaced
            | Event::Unguarded { .. }
            | Event::Ordering
            | Event::Sending { .. } => {}
        }
    }

    fn mark(&mut self, slot: u32, at: Timestamp, phase: &'static str) {
        if let Some(label) = self.current.get(&slot) {
            let trace = self.traces.machines.entry(label.clone()).or_default();
            if trace.marks.last().is_none_or(|(_, last)| *last != phase) {
                trace.marks.push((at, phase));
            }
        }
    }

    fn count(&mut self, at: Timestamp, machine: &MachineProgress) {
        let trace = self.traces.machines.entry(machine.label.clone()).or_default();
        let count = Count {
            prompts: trace.before.prompts + machine.prompts,
            tokens_in: trace.before.tokens_in + machine.tokens_in,
            tokens_out: trace.before.tokens_out + machine.tokens_out,
        };
        trace.readings.push((at, count));
    }

    /// Counters begin anew in the next one.
    fn end_of_session(&mut self) {
        self.traces.latency.extend(&std::mem::take(&mut self.latency));
        (self.chosen, self.current) = (BTreeMap::new(), BTreeMap::new());
        for trace in self.traces.machines.values_mut() {
            trace.before = trace.readings.last().map_or(Count::default(), |(_, count)| *count);
        }
    }
}
