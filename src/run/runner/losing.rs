//! Machines that are given up, and slots that got none: whether another is looked for.

use super::{Runner, renting::is_closed};
use crate::{
    event::Event,
    leases::{LeaseError, describe},
    ledger::{Lease, LeaseState},
    run::{
        purse,
        slot::{Held, PROVEN, Slot, Stand, Successor},
        stop::Stop,
        why::Why,
    },
    shards::Loss,
};
use providers::{ErrorKind, Label, Usd};
use std::time::Duration;

/// How many offers may turn out to be gone before that counts as a failure.
const GONE_OFFERS: u32 = 20;

impl Runner<'_> {
    /// Tries again for a slot that got no instance, or leaves it vacant.
    pub(super) fn not_rented(&mut self, number: u32, why: Why) -> Result<(), Why> {
        if let Why::Lease(LeaseError::Ledger(_)) = why {
            return Err(why);
        }
        if let Why::Budget { limit, left, .. } = &why
            && let Some(label) = self.holds_money(limit.usd(), *left)
        {
            self.stand(number, Stand::Leaving(label));
            return Ok(());
        }
        let others = self.slots.iter().any(|slot| slot.number != number && slot.is_busy());
        // What would fail again for each slot; the last to hear of it says so.
        let is_final = matches!(
            why,
            Why::NoOffer(_) | Why::Budget { .. } | Why::Template(_) | Why::HostKeys(_)
        );
        let closed = matches!(&why, Why::Lease(error) if is_closed(error));
        let all = &self.tools.setting.plan.search.providers;
        let is_final = is_final || closed && all.iter().all(|name| self.closed.contains(name));
        let gone = matches!(&why, Why::Lease(LeaseError::Market(error))
            if error.kind == ErrorKind::OfferGone);
        let reason = describe(&why);
        self.tools.events.send(Event::Lost { slot: number, reason: reason.clone() });
        self.last_loss = Some(reason);
        self.stand(number, Stand::Vacant);
        let mut slots = self.slots.iter_mut().filter(|slot| slot.number == number);
        if let Some(key) = slots.find_map(|slot| slot.parted.take()) {
            // Better the machine that worked, though slower than was thought, than none.
            self.avoid.remove(&key);
            if is_final {
                self.seek(number);
                return Ok(());
            }
        }
        if is_final {
            return if others { Ok(()) } else { Err(why) };
        }
        if closed {
            self.seek(number);
            return Ok(());
        }
        // Offers spoil within seconds, and another is at hand.
        self.gone += u32::from(gone);
        if gone && self.gone < GONE_OFFERS {
            self.seek(number);
            return Ok(());
        }
        self.try_again(number);
        Ok(())
    }

    /// What is being given back and leaves more than is `left` once that is over: until then it counts
    /// as all that it may come to.
    fn holds_money(&self, limit: Usd, left: Usd) -> Option<Label> {
        let (books, now) = (self.leases.books(), self.leases.now());
        let frees = |(label, lease): &(&Label, &Lease)| {
            matches!(lease.state, LeaseState::Releasing(_) | LeaseState::Gone(_))
                && left < purse::left_without(books, label, limit, now)
        };
        books.leases().find(frees).map(|(label, _)| label.clone())
    }

    /// Looks for another offer, unless it was tried often enough.
    pub(super) fn try_again(&mut self, number: u32) {
        self.stand(number, Stand::Vacant);
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == number) {
            if let Some(Successor { label, pick, .. }) = slot.successor.take() {
                // It was to take its place anyway.
                slot.stand = Stand::Renting(label, pick);
                return;
            }
            if slot.fail() && self.tools.ladder.level() == Stop::No {
                self.seek(number);
            }
        }
    }

    /// Gives up a machine, and looks for another unless that would fail as well.
    pub(super) fn lose(&mut self, at: usize, loss: Loss) -> Result<(), Why> {
        let worked = self.slots[at].held().and_then(Held::worked);
        let number = self.slots[at].number;
        let Some(label) = self.part_with(at)? else {
            return Ok(());
        };
        if matches!(loss, Loss::Unable(_)) {
            // Whoever goes on with the run is not to pay for it again.
            self.leases.unable(&label)?;
        }
        if matches!(loss, Loss::Taken(_)) {
            // How often one that answers is taken away is no reason to give up.
            self.slots[at].credit(worked, Duration::ZERO);
        }
        let reason = describe(&loss);
        self.tools.events.send(Event::Lost { slot: number, reason: reason.clone() });
        self.last_loss = Some(reason);
        let anybody_works = self.slots.iter().filter_map(Slot::held).any(|h| h.engine.is_some());
        let is_final = match &loss {
            Loss::Work(_) | Loss::Fenced => true,
            Loss::Unable(_) => self.was_all_there_is(&label),
            Loss::Instance(_) | Loss::Taken(_) => false,
        };
        if !is_final {
            self.try_again(number);
        } else if !anybody_works {
            return Err(Why::Work(loss));
        }
        Ok(())
    }

    /// Whether a machine that can't run the engine was this computer, with no marketplace beside it: it
    /// would be the same again, and isn't asked for any more.
    fn was_all_there_is(&mut self, label: &Label) -> bool {
        let setting = self.tools.setting;
        let rented = setting.markets.rented();
        let lease = self.leases.books().lease(label);
        let here = lease.map(|lease| &lease.terms.provider).filter(|p| rented.get(p).is_none());
        let Some(here) = here else { return false };
        self.closed.insert(here.clone());
        setting.plan.search.providers.iter().all(|name| self.closed.contains(name))
    }

    /// Takes its prompts back from a slot's machine and gives it back, if there is one. Its label.
    pub(super) fn part_with(&mut self, at: usize) -> Result<Option<Label>, Why> {
        // The last that is heard of what it did.
        self.progress();
        let Some(held) = self.slots[at].take_held() else {
            return Ok(None);
        };
        self.slots[at].credit(held.worked(), PROVEN);
        self.measured.extend(self.measure(&held));
        self.queue.lost(held.worker);
        self.early.retain(|(from, _)| *from != held.worker);
        self.leases.release(&held.label)?;
        Ok(Some(held.label.clone()))
    }
}
