//! The truth of one marketplace: what it has, and what was rented and left there.

use super::{
    fault::Mishap,
    rental::{Ender, Rental, Wish},
};
use crate::{Billing, Usd, UsdPerHour};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::SystemTime};

/// Something for rent.
#[derive(Clone, Debug)]
pub(super) struct Ware {
    /// The marketplace's own name for it, as an order brings it back.
    pub(super) id: String,
    /// The GPU as the marketplace spells it.
    pub(super) gpu: String,
    /// Memory of one GPU, in GiB.
    pub(super) vram: u64,
    /// How many GPUs.
    pub(super) count: u32,
    /// For all of it, without disk.
    pub(super) price: UsdPerHour,
    /// The same, while nobody else wants it.
    pub(super) spot: Option<UsdPerHour>,
    /// Where it is.
    pub(super) region: String,
    /// How many more can be rented.
    pub(super) free: u32,
}

/// Why nothing was rented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Gone,
    Outbid,
    Unpaid,
}

/// A public key on the account.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) public: String,
}

/// The disk of a rental that is over.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) price: UsdPerHour,
    since: SystemTime,
    removed: Option<SystemTime>,
}

impl Disk {
    fn to_json(&self) -> Value {
        let held = self.removed.unwrap_or_else(SystemTime::now).duration_since(self.since);
        json!({
            "id": self.id,
            "name": self.name,
            "cost": self.price.over(held.unwrap_or_default()).0 as f64 / 1e6,
            "billed": self.removed.is_none(),
        })
    }
}

/// One marketplace.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// The key of the account.
    pub(super) key: String,
    pub(super) wares: Vec<Ware>,
    pub(super) rentals: Vec<Rental>,
    pub(super) keys: Vec<Key>,
    /// How many keys were ever put on it.
    pub(super) keys_made: u64,
    /// What rentals have left, ever.
    pub(super) disks: Vec<Disk>,
    /// How often it was asked for what.
    pub(super) requests: BTreeMap<&'static str, u32>,
    /// What happens to the order that is being dealt with.
    pub(super) mishap: Option<Mishap>,
    /// Whether rentals have real machines, which take their time.
    pub(super) machines: bool,
    /// How time becomes money here.
    pub(super) billing: Billing,
}

impl Books {
    /// Rents, or says why not. Only here does anything begin to be billed.
    pub(super) fn rent(&mut self, id: String, wish: Wish) -> Result<&Rental, Refusal> {
        let mishap = self.mishap.take();
        match mishap {
            Some(Mishap::OfferGone) => return Err(Refusal::Gone),
            Some(Mishap::OutOfFunds) => return Err(Refusal::Unpaid),
            Some(Mishap::BidTooLow) if !wish.kept_if_outbid => return Err(Refusal::Outbid),
            _ => {}
        }
        let ware = self.wares.iter_mut().find(|ware| ware.id == wish.ware && 0 < ware.free);
        let ware = ware.ok_or(Refusal::Gone)?;
        ware.free -= 1;
        let percent = match mishap {
            Some(Mishap::Dearer { percent }) => 100 + u64::from(percent),
            _ => 100,
        };
        self.rentals.push(Rental {
            own_key: format!("own-key-of-{id}"),
            id,
            price: UsdPerHour(wish.price.0 * percent / 100),
            ware: ware.clone(),
            wish,
            since: SystemTime::now(),
            ended: None,
            port: None,
            halted: None,
            stopped: mishap == Some(Mishap::BidTooLow),
            mishaps: mishap.clone().into_iter().collect(),
        });
        let rental = self.rentals.last().expect("it was pushed just now");
        if mishap == Some(Mishap::BidTooLow) { Err(Refusal::Outbid) } else { Ok(rental) }
    }

    /// Asks this many times as much for everything from now on.
    pub(super) fn raise_prices(&mut self, factor: u32) {
        let raised = |price: UsdPerHour| UsdPerHour(price.0.saturating_mul(factor.into()));
        for ware in &mut self.wares {
            ware.price = raised(ware.price);
            ware.spot = ware.spot.map(raised);
        }
    }

    /// Ends a rental. `false`: there is none of this name that hasn't ended.
    pub(super) fn end(&mut self, id: &str, by: Ender) -> bool {
        self.end_at(id, by, SystemTime::now())
    }

    fn end_at(&mut self, id: &str, by: Ender, at: SystemTime) -> bool {
        match self.rentals.iter_mut().find(|rental| rental.id == id && rental.ended.is_none()) {
            Some(rental) => {
                rental.end(by, at);
                let ware = self.wares.iter_mut().find(|ware| ware.id == rental.ware.id);
                if let Some(ware) = ware {
                    ware.free += 1;
                }
                true
            }
            None => false,
        }
    }

    /// Stops a rental that hasn't ended, with which its cost ends. `false`: there is none.
    pub(super) fn halt(&mut self, id: &str) -> bool {
        let rental = self.rentals.iter_mut().find(|known| known.id == id && known.ended.is_none());
        let found = rental.is_some();
        if let Some(rental) = rental {
            rental.halted.get_or_insert_with(SystemTime::now);
        }
        found
    }

    /// Ends everything, as a marketplace does that closes.
    pub(super) fn end_all(&mut self) {
        let now = SystemTime::now();
        self.rentals.iter_mut().for_each(|rental| rental.end(Ender::Expiry, now));
    }

    /// Ends what was to end by now.
    pub(super) fn expire(&mut self) {
        let now = SystemTime::now();
        let over = |rental: &Rental| {
            let moment = rental.expiry().filter(|moment| *moment <= now)?;
            rental.ended.is_none().then(|| (rental.id.clone(), moment))
        };
        let over: Vec<_> = self.rentals.iter().filter_map(over).collect();
        for (id, moment) in over {
            self.end_at(&id, Ender::Expiry, moment);
        }
    }

    /// Changes when a rental is to end. `false`: there is none of this name.
    pub(super) fn extend(
        &mut self,
        id: &str,
        expires: Option<SystemTime>,
        most: Option<Usd>,
    ) -> bool {
        let rental = self.rentals.iter_mut().find(|known| known.id == id && known.ended.is_none());
        let found = rental.is_some();
        if let Some(rental) = rental {
            (rental.wish.expires, rental.wish.most) = (expires, most);
        }
        found
    }

    /// What a listing shows.
    pub(super) fn listed(&self) -> impl Iterator<Item = &Rental> {
        self.rentals.iter().filter(|rental| rental.is_listed())
    }

    /// A rental by its name, ended or not.
    pub(super) fn find(&self, id: &str) -> Option<&Rental> {
        self.rentals.iter().find(|rental| rental.id == id)
    }

    /// Puts a key on the account. `None`: its name is taken.
    pub(super) fn add_key(&mut self, name: &str, public: &str) -> Option<&Key> {
        if self.keys.iter().any(|key| key.name == name) {
            return None;
        }
        self.keys_made += 1;
        let id = uuid(self.keys_made + 0x5E_0000);
        let (name, public) = (name.to_owned(), public.to_owned());
        self.keys.push(Key { id, name, public });
        self.keys.last()
    }

    /// Takes a key off the account. `false`: there is none of this id.
    pub(super) fn remove_key(&mut self, id: &str) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.id != id);
        self.keys.len() < before
    }

    /// Keeps the disk of a rental that is over, and bills it.
    pub(super) fn keep_disk(&mut self, id: String, name: String, price: UsdPerHour) {
        self.disks.push(Disk { id, name, price, since: SystemTime::now(), removed: None });
    }

    /// The disks that are billed and belong to no rental.
    pub(super) fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.disks.iter().filter(|disk| disk.removed.is_none())
    }

    /// Ends a disk. `false`: there is none of this id.
    pub(super) fn remove_disk(&mut self, id: &str) -> bool {
        let disk = self.disks.iter_mut().find(|disk| disk.id == id && disk.removed.is_none());
        let found = disk.is_some();
        if let Some(disk) = disk {
            disk.removed = Some(SystemTime::now());
        }
        found
    }

    /// The public key of this id or name.
    pub(super) fn public_key(&self, key: &str) -> Option<String> {
        let key = self.keys.iter().find(|known| known.id == key || known.name == key);
        key.map(|key| key.public.clone())
    }

    /// A number that no rental has had.
    pub(super) fn next_number(&self) -> u64 {
        u64::try_from(self.rentals.len()).unwrap_or(u64::MAX) + 1
    }

    /// All of it, for people and tests.
    pub(super) fn to_json(&self) -> Value {
        let rentals: Vec<_> =
            self.rentals.iter().map(|rental| rental.to_json(self.machines, self.billing)).collect();
        let disks: Vec<_> = self.disks.iter().map(Disk::to_json).collect();
        let all = || rentals.iter().chain(&disks);
        json!({
            "billed": all().filter(|row| row["billed"] == true).count(),
            "cost": all().filter_map(|row| row["cost"].as_f64()).fold(0.0, |sum, cost| sum + cost),
            "requests": self.requests,
            "keys": self.keys.iter().map(|key| &key.name).collect::<Vec<_>>(),
            "disks": disks,
            "rentals": rentals,
        })
    }
}

/// An identifier in the usual shape, the same in every run.
pub(super) fn uuid(number: u64) -> String {
    format!("5eed0000-0000-4000-8000-{number:012x}")
}
