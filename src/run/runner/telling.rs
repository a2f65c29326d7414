//! How the run goes: what is told of it, what is expected, and what was seen of machines.

use super::Runner;
use crate::{
    clock,
    cost::{Measurement, Share, finish},
    event::{Event, MachineProgress, Progress},
    run::slot::{Held, Score, Slot, Stand},
};
use providers::Usd;
use std::time::{Duration, Instant};

impl Runner<'_> {
    pub(super) fn progress(&mut self) {
        let now = Instant::now();
        for held in self.slots.iter_mut().filter_map(Slot::held_mut) {
            // Without a link it may be at work, and what it answers comes later and all at once.
            let linked = held.conversation.is_some();
            let load = if linked { self.queue.load(held.worker) } else { 0 };
            held.pace.note(now, held.score, load, held.at_once());
        }
        let tally = &self.tally;
        let over = tally.done + tally.failed;
        self.prompts.note(now, over as f64);
        self.tokens.note(now, (tally.tokens_in + tally.tokens_out) as f64);
        let (rate, total) = (self.prompts.rate(), self.tools.setting.plan.prompts);
        let left = total.saturating_sub(over);
        let seconds_left = self.seconds_left(left, rate);
        self.tools.events.send(Event::Progress(Progress {
            done: tally.done,
            failed: tally.failed,
            total,
            tokens_in: tally.tokens_in,
            tokens_out: tally.tokens_out,
            prompts_per_second: rate,
            tokens_per_second: self.tokens.rate(),
            spent: self.leases.books().cost(self.leases.now()),
            waiting: self.slots.iter().filter_map(|slot| self.waiting(slot)).collect(),
            seconds_left,
            expected: seconds_left.map(|seconds| self.cost_after(seconds)),
            seconds: self.tools.begun.elapsed().as_secs_f64(),
            machines: self.slots.iter().filter_map(machine).collect(),
            latency: self.stopwatch.latency.clone(),
        }));
    }

    /// Seconds until the last prompt is answered: by what was seen of each machine, and until that can
    /// be told by what was thought of it; else by how fast the whole run is of late.
    fn seconds_left(&self, left: u64, rate: f64) -> Option<f64> {
        let shares = self.slots.iter().map(|slot| self.share(slot)).collect::<Option<Vec<_>>>();
        let seconds = shares.map(|shares| finish(&shares.concat(), left));
        let by_rate = (0.0 < rate).then(|| left as f64 / rate);
        seconds.filter(|seconds| seconds.is_finite()).or(by_rate)
    }

    /// A machine's part in what is left. None where that can't be told, and empty where it has none.
    pub(super) fn share(&self, slot: &Slot) -> Option<Vec<Share>> {
        let (label, candidate) = match &slot.stand {
            Stand::Quoting | Stand::Unclear(_) | Stand::Leaving(_) | Stand::Vacant => {
                return Some(Vec::new());
            }
            Stand::Renting(label, pick) => (label, pick.candidate.as_ref()),
            Stand::Held(held) => (&held.label, held.candidate.as_ref()),
        };
        let share = candidate?.share;
        let held = slot.held();
        let since = self.leases.books().lease(label)?.since;
        let gone = clock::between(since, self.leases.now()).as_secs_f64();
        let startup = match held.and_then(|held| held.engine.as_ref()) {
            Some(_) => 0.0,
            None => (share.startup - gone).max(0.0),
        };
        let seen = held.and_then(|held| held.pace.found(held.at_once()));
        let rate = seen.map_or(share.rate, |seen| seen.prompts);
        Some(vec![Share { rate, startup, ..share }])
    }

    /// What the run will have cost after so many more seconds with what is rented now.
    fn cost_after(&self, seconds: f64) -> Usd {
        let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.leases.books().cost(clock::after(self.leases.now(), time))
    }

    /// What was seen of a machine, for later plans.
    pub(super) fn measure(&self, held: &Held) -> Option<Measurement> {
        let setting = self.tools.setting;
        let pace = held.pace.found(held.at_once())?;
        let (model, engine) = (&setting.plan.job.model.name, &setting.plan.search.engine);
        held.candidate.as_ref()?.measured(model, setting.plan.shape.as_ref()?, engine, &pace)
    }

    /// What was seen of all machines in this session.
    pub(super) fn all_seen(&self) -> Vec<Measurement> {
        let held = self.slots.iter().filter_map(Slot::held);
        let now = held.filter_map(|held| self.measure(held));
        self.measured.iter().cloned().chain(now).collect()
    }

    /// The same, after what earlier runs have seen.
    pub(super) fn all_measured(&self) -> Vec<Measurement> {
        let earlier = self.tools.setting.measured.iter().cloned();
        earlier.chain(self.all_seen()).collect()
    }

    /// What a machine has cost so far that has answered nothing yet.
    fn waiting(&self, slot: &Slot) -> Option<(u32, Usd)> {
        let label = match &slot.stand {
            Stand::Renting(label, _) | Stand::Unclear(label) => label,
            Stand::Held(held) if held.answered == 0 => &held.label,
            Stand::Held(_) | Stand::Quoting | Stand::Leaving(_) | Stand::Vacant => return None,
        };
        let lease = self.leases.books().lease(label)?;
        Some((slot.number, lease.cost(self.leases.now())))
    }
}

fn machine(slot: &Slot) -> Option<MachineProgress> {
    let Held { label, score, .. } = slot.held()?;
    let Score { prompts, tokens_in, tokens_out } = *score;
    Some(MachineProgress {
        slot: slot.number,
        label: label.clone(),
        prompts,
        tokens_in,
        tokens_out,
    })
}
