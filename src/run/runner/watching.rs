//! Machines at work, and what their marketplaces say of them meanwhile.

use super::Runner;
use crate::{
    leases::describe,
    run::{
        lookout::{Sight, Sights, Watched, look},
        purse,
        slot::Slot,
        why::Why,
    },
    shards::Loss,
};
use providers::UsdPerHour;
use std::collections::BTreeMap;

impl Runner<'_> {
    /// Asks the marketplaces that anything was ever ordered from about what there is, when it is time:
    /// one listing for all machines of one.
    pub(super) fn look_out(&mut self) {
        if !self.lookout.is_due() {
            return;
        }
        let ordered = self.leases.books().leases();
        let mut at_each: BTreeMap<String, Vec<Watched>> =
            ordered.map(|(_, lease)| (lease.terms.provider.clone(), Vec::new())).collect();
        for held in self.slots.iter().filter_map(Slot::held) {
            let Some(lease) = self.leases.books().lease(&held.label) else { continue };
            let provider = &lease.terms.provider;
            let (label, id) = (held.label.clone(), lease.state.id().cloned());
            let watched = Watched { worker: held.worker, label, id };
            at_each.entry(provider.clone()).or_default().push(watched);
        }
        for (name, watched) in at_each {
            let Some(market) = self.tools.setting.markets.get(&name).cloned() else { continue };
            let (sights, books) = (self.sights.0.clone(), self.leases.books().clone());
            tokio::spawn(async move {
                drop(sights.send(look(&*market, &watched, &books).await).await);
            });
        }
    }

    /// Draws the conclusions.
    pub(super) fn see(&mut self, sights: Sights) -> Result<(), Why> {
        for stray in &sights.strays {
            self.leases.give_back(stray)?;
        }
        for Sight { worker, price, lost } in sights.machines {
            let is_it = |slot: &Slot| slot.held().is_some_and(|held| held.worker == worker);
            // It may have been given up since.
            let Some(at) = self.slots.iter().position(is_it) else { continue };
            if let Some(price) = price {
                self.priced(at, price)?;
            }
            if let Some(lost) = lost {
                // If it isn't for its price already.
                self.lose(at, Loss::Taken(describe(&lost)))?;
            }
        }
        Ok(())
    }

    /// What an hour of a slot's machine costs by now. Nothing was agreed to at a higher price than was
    /// quoted.
    pub(super) fn priced(&mut self, at: usize, price: UsdPerHour) -> Result<(), Why> {
        let Some(label) = self.slots[at].held().map(|held| held.label.clone()) else {
            return Ok(());
        };
        let quoted = self.leases.books().lease(&label).map(|lease| lease.terms.price);
        match quoted {
            Some(quoted) if purse::is_dearer(price, quoted) => {
                self.leases.priced(&label, price)?;
                self.lose(at, Loss::Instance(Why::Dearer { quoted, price }.to_string()))
            }
            Some(_) | None => Ok(()),
        }
    }
}
