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
        slot::{Held, Slot, Stand},
        stop::Stop,
        why::Why,
    },
    shortlist::{Pick, machine_key},
};
use providers::Usd;
use std::time::{Duration, Instant};

/// How often it is asked what else there is. One that proves slow is reason to ask before.
const REVIEW: Duration = Duration::from_mins(10);

/// A machine is slow that is slower than it was thought to be by more than this.
const SLOW: f64 = 1.25;

/// A machine that may be exchanged, and for what.
struct Judged {
    slot: u32,
    /// Prompts a second: as seen, and as was thought.
    seen: f64,
    thought: f64,
    exchange: Exchange,
    pick: Box<Pick>,
    /// Whether the other may be rented before this one is given back.
    is_beside: bool,
}

/// A slot that may be exchanged: its share with the speed that was seen, and the one that was thought.
fn seen(slot: &Slot) -> Option<(&Slot, Share, f64)> {
    let held = slot.held()?;
    let seen = held.pace.found(held.at_once())?.prompts;
    let candidate = held.candidate.as_ref()?;
    let own = Share { rate: seen, startup: 0.0, ..candidate.share };
    let may = slot.exchanges < EXCHANGES && slot.successor.is_none();
    may.then_some((slot, own, candidate.rate.prompts))
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
        for judged in self.judge(catalog) {
            let Judged { slot, seen, thought, exchange: Exchange { stay, go }, .. } = judged;
            let Some(at) = self.slots.iter().position(|known| known.number == slot) else {
                continue;
            };
            let reason = format!(
                "it answers {} prompts/s where {} were expected, and another does the rest for {go} \
                 instead of {stay}",
                words::rate(seen),
                words::rate(thought),
            );
            if judged.is_beside {
                self.order_successor(at, judged.pick, reason)?;
                continue;
            }
            let Some(label) = self.part_with(at)? else { continue };
            let terms = self.leases.books().lease(&label).map(|lease| &lease.terms);
            let key = terms.and_then(|terms| {
                let machine = terms.machine.as_ref()?;
                Some(machine_key(&terms.provider, machine))
            });
            self.slots[at].parted = key;
            self.slots[at].exchanges += 1;
            self.slots[at].attempt += 1;
            self.stand(slot, Stand::Leaving(label));
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
        let (mut judged, mut beside) = (Vec::new(), 0);
        for (slot, own, thought) in machines {
            let Some(pick) = picks.as_slice().first() else { break };
            let Some(other) = pick.candidate.as_ref().map(|candidate| candidate.share) else {
                break;
            };
            let part = left * own.rate / together.max(own.rate);
            let Some(exchange) = worth(&own, &other, part, until) else { continue };
            let worst = self.worst_for(pick, other.startup + part / other.rate);
            let is_beside = self.fits(Usd(worst.0.saturating_add(beside)), None);
            if is_beside || self.fits(worst, slot.held()) {
                beside += if is_beside { worst.0 } else { 0 };
                let (slot, seen, pick) = (slot.number, own.rate, Box::new(pick.clone()));
                judged.push(Judged { slot, seen, thought, exchange, pick, is_beside });
                picks.next();
            }
        }
        judged
    }

    /// What a machine comes to at most that is kept for so many seconds.
    fn worst_for(&self, pick: &Pick, seconds: f64) -> Usd {
        let offer = &pick.listed.offer;
        let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let kept = time.saturating_add(LEASE_MARGIN);
        purse::worst(offer.price, offer.billing, kept, self.traffic(offer))
    }

    /// Whether what the run may cost allows for so much more: beside all that is rented, or in the
    /// place of a machine.
    fn fits(&self, more: Usd, instead: Option<&Held>) -> bool {
        let Some(limit) = self.tools.setting.plan.limit() else { return true };
        let (books, now) = (self.leases.books(), self.leases.now());
        let left = match instead {
            Some(held) => purse::left_without(books, &held.label, limit.usd(), now),
            None => purse::left(books, limit.usd(), now),
        };
        more <= left
    }
}
