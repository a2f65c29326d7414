//! Machines, once it is seen what they do: one whose rest costs less elsewhere is exchanged.

use super::Runner;
use crate::{
    catalog::{self, Catalog},
    cost::Share,
    event::Event,
    report::words,
    run::{
        LEASE_MARGIN,
        exchange::{EXCHANGES, Exchange, worth},
        purse,
        slot::{Slot, Stand},
        stop::Stop,
        why::Why,
    },
    shortlist::Pick,
};
use std::time::{Duration, Instant};

/// How often it is asked what else there is. One that proves slow is reason to ask before.
const REVIEW: Duration = Duration::from_mins(10);

/// A machine is slow that is slower than it was thought to be by more than this.
const SLOW: f64 = 1.25;

/// A machine that may be exchanged.
struct Judged {
    slot: u32,
    /// Prompts a second: as seen, and as was thought.
    seen: f64,
    thought: f64,
    exchange: Exchange,
}

/// A slot that may be exchanged: its share with the speed that was seen, and the one that was thought.
fn seen(slot: &Slot) -> Option<(&Slot, Share, f64)> {
    let held = slot.held()?;
    let seen = held.pace.found(held.at_once())?.prompts;
    let candidate = held.candidate.as_ref()?;
    let own = Share { rate: seen, startup: 0.0, ..candidate.share };
    (slot.exchanges < EXCHANGES).then_some((slot, own, candidate.rate.prompts))
}

impl Runner<'_> {
    /// Asks what else there is, when it may be worth it.
    pub(super) fn review(&mut self) {
        if self.tools.ladder.level() != Stop::No {
            return;
        }
        let mut proved_slow = false;
        for held in self.slots.iter_mut().filter_map(Slot::held_mut) {
            let seen = held.pace.found(held.at_once());
            let thought = held.candidate.as_ref().map(|candidate| candidate.rate.prompts);
            let slow =
                seen.zip(thought).is_some_and(|(seen, thought)| seen.prompts * SLOW < thought);
            proved_slow |= slow && !std::mem::replace(&mut held.doubted, slow);
        }
        let due = self.reviewed.is_none_or(|at| REVIEW <= at.elapsed());
        let costs = self.slots.iter().filter_map(Slot::held).any(|held| {
            let price = held.candidate.as_ref().map(|candidate| candidate.share.price);
            price.is_some_and(|price| 0.0 < price) && held.pace.found(held.at_once()).is_some()
        });
        if !costs || !(proved_slow || due) {
            return;
        }
        self.reviewed = Some(Instant::now());
        let setting = self.tools.setting;
        let Ok(markets) = setting.markets.only(&self.open_markets()) else { return };
        let need = setting.plan.search.need(setting.plan.shape.as_ref());
        let others = self.others.0.clone();
        tokio::spawn(async move {
            let catalog = catalog::ask(&markets, &need, catalog::PATIENCE).await;
            drop(others.send(catalog).await);
        });
    }

    /// Exchanges the machines whose part of what is left costs less on others.
    pub(super) fn exchange(&mut self, catalog: Catalog) -> Result<(), Why> {
        if self.tools.ladder.level() != Stop::No {
            return Ok(());
        }
        for Judged { slot, seen, thought, exchange: Exchange { stay, go } } in self.judge(catalog) {
            let Some(at) = self.slots.iter().position(|known| known.number == slot) else {
                continue;
            };
            let Some(label) = self.part_with(at)? else { continue };
            self.slots[at].exchanges += 1;
            self.slots[at].attempt += 1;
            self.stand(slot, Stand::Leaving(label));
            let reason = format!(
                "it answers {} prompts/s where {} were expected, and another does the rest for {go} \
                 instead of {stay}",
                words::rate(seen),
                words::rate(thought),
            );
            self.tools.events.send(Event::Exchanged { slot, reason });
        }
        Ok(())
    }

    /// Which machines are to be exchanged, the one that costs the most for a prompt first.
    fn judge(&self, catalog: Catalog) -> Vec<Judged> {
        let mut machines: Vec<_> = self.slots.iter().filter_map(seen).collect();
        machines.sort_by(|(_, a, _), (_, b, _)| (b.price / b.rate).total_cmp(&(a.price / a.rate)));
        let together: f64 = self
            .slots
            .iter()
            .filter_map(|slot| self.share(slot))
            .flatten()
            .map(|share| share.rate)
            .sum();
        let counts = self.queue.counts();
        let left = self.tools.setting.plan.prompts.saturating_sub(counts.done) as f64;
        let until = self.time_left().as_secs_f64();
        let (picks, _) = self.shortlist(catalog.listed);
        let mut picks = picks.iter();
        let mut judged = Vec::new();
        for (slot, own, thought) in machines {
            let Some(pick) = picks.as_slice().first() else { break };
            let Some(other) = pick.candidate.as_ref().map(|candidate| candidate.share) else {
                break;
            };
            let part = left * own.rate / together.max(own.rate);
            let Some(exchange) = worth(&own, &other, part, until) else { continue };
            if self.affords(slot, pick, other.startup + part / other.rate) {
                judged.push(Judged { slot: slot.number, seen: own.rate, thought, exchange });
                picks.next();
            }
        }
        judged
    }

    /// Whether what the run may cost allows for a machine for so many seconds in the place of a slot's.
    fn affords(&self, slot: &Slot, pick: &Pick, seconds: f64) -> bool {
        let setting = self.tools.setting;
        let (Some(limit), Some(held)) = (setting.plan.limit(), slot.held()) else { return true };
        let offer = &pick.listed.offer;
        let traffic = self.traffic(offer);
        let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let worst =
            purse::worst(offer.price, offer.billing, time.saturating_add(LEASE_MARGIN), traffic);
        let now = self.leases.now();
        worst <= purse::left_without(self.leases.books(), &held.label, limit.usd(), now)
    }
}
