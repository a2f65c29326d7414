//! Machines that are to take another's place, which works on until they are there.

use super::{Runner, renting::is_closed};
use crate::{
    event::Event,
    leases::LeaseError,
    run::{
        purse,
        slot::{Slot, Successor},
        stop::Stop,
        why::Why,
    },
    shortlist::{self, Pick},
};
use providers::{ErrorKind, Instance, Label};

impl Runner<'_> {
    /// Orders a machine that is to take the place of a slot's. Where that can't be, nothing has changed.
    pub(super) fn order_successor(
        &mut self,
        at: usize,
        pick: Box<Pick>,
        reason: String,
    ) -> Result<(), Why> {
        self.slots[at].attempt += 1;
        let number = self.slots[at].number;
        let Ok((order, terms)) = self.draw_up(number, &pick.listed) else { return Ok(()) };
        let label = order.label.clone();
        if pick.listed.offer.machine.is_some() {
            self.avoid.insert(shortlist::key(&pick.listed));
        }
        self.leases.order(order, terms)?;
        self.slots[at].successor = Some(Successor { label, pick, reason });
        Ok(())
    }

    /// The slot that a machine of this label is to work for once it is there.
    pub(super) fn succeeds(&self, label: &Label) -> Option<usize> {
        let is_for = |slot: &Slot| slot.successor.as_ref().is_some_and(|next| next.label == *label);
        self.slots.iter().position(is_for)
    }

    /// What became of that order. Only now that it is there the other is given back; after an error
    /// the other is kept, and nothing is tried again before the next review.
    pub(super) fn succeed(
        &mut self,
        at: usize,
        answer: Result<Box<Instance>, LeaseError>,
    ) -> Result<(), Why> {
        let Some(Successor { label, pick, reason }) = self.slots[at].successor.take() else {
            return Ok(());
        };
        let Pick { listed, candidate, .. } = *pick;
        let slot = self.slots[at].number;
        let error = match answer {
            Ok(instance) => {
                let quoted = listed.offer.price;
                let price = instance.price.filter(|price| purse::is_dearer(*price, quoted));
                if let Some(price) = price {
                    self.avoid.insert(shortlist::key(&listed));
                    self.leases.priced(&label, price)?;
                }
                let is_wanted = self.slots[at].held().is_some()
                    && self.tools.ladder.level() == Stop::No
                    && price.is_none();
                if !is_wanted {
                    return Ok(self.leases.release(&label)?);
                }
                self.part_with(at)?;
                self.slots[at].exchanges += 1;
                self.tools.events.send(Event::Exchanged { slot, reason });
                let id = instance.id.clone();
                self.tools.events.send(Event::Rented { slot, label: label.clone(), id });
                return self.hold(slot, label, *instance, candidate);
            }
            Err(error) => error,
        };
        if matches!(&error, LeaseError::Market(error) if error.kind == ErrorKind::OfferGone) {
            self.avoid.insert(shortlist::key(&listed));
        }
        if is_closed(&error) {
            self.closed.insert(listed.market);
        }
        // Perhaps there is an instance all the same. What isn't owed is left alone.
        Ok(self.leases.release(&label)?)
    }
}
