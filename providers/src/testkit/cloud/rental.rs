//! One rental: what was asked for, what it is doing, and what it has cost.

use super::{books::Ware, fault::Mishap};
use crate::{Billing, Usd, UsdPerHour, json::rfc3339};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// Who ended a rental.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ender {
    /// Whoever holds the account's key.
    Account,
    /// The instance itself, with its own key.
    Instance,
    /// The marketplace, at the time it was told.
    Expiry,
}

impl Ender {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Instance => "instance",
            Self::Expiry => "expiry",
        }
    }
}

/// What an order asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    pub(super) ware: String,
    pub(super) label: String,
    /// What the whole of it costs an hour, disk included.
    pub(super) price: UsdPerHour,
    /// On terms on which it can be taken back.
    pub(super) spot: bool,
    pub(super) public_key: String,
    pub(super) script: String,
    pub(super) env: BTreeMap<String, String>,
    pub(super) image: String,
    pub(super) disk: u64,
    /// What its disk is called, where disks have names.
    pub(super) disk_name: String,
    pub(super) expires: Option<SystemTime>,
    /// What it may cost before the marketplace ends it.
    pub(super) most: Option<Usd>,
    /// Whether a bid that doesn't win leaves a stopped rental behind, which is billed.
    pub(super) kept_if_outbid: bool,
}

/// What a rental is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Booting,
    Running,
    Outbid,
    Stopped,
    /// In a state that no client knows yet.
    Odd(String),
    Ended,
}

/// One thing that somebody rented. It is never forgotten.
#[derive(Clone, Debug)]
pub(super) struct Rental {
    pub(super) id: String,
    pub(super) wish: Wish,
    pub(super) ware: Ware,
    /// What it is billed at, whatever was quoted.
    pub(super) price: UsdPerHour,
    pub(super) since: SystemTime,
    pub(super) ended: Option<(SystemTime, Ender)>,
    /// Its own key, with which it may end itself and do nothing else.
    pub(super) own_key: String,
    /// Where it answers SSH, once it does.
    pub(super) port: Option<u16>,
    pub(super) mishaps: Vec<Mishap>,
    pub(super) stopped: bool,
    /// When it was told to stop, which ends its cost and not the rental.
    pub(super) halted: Option<SystemTime>,
}

impl Rental {
    /// What it is doing now.
    pub(super) fn phase(&self, machines: bool) -> Phase {
        if self.ended.is_some() {
            return Phase::Ended;
        }
        let age = self.since.elapsed().unwrap_or_default();
        for mishap in &self.mishaps {
            match mishap {
                Mishap::NeverReady => return Phase::Booting,
                Mishap::Boot { millis } if age < Duration::from_millis(*millis) => {
                    return Phase::Booting;
                }
                Mishap::Outbid { millis } if Duration::from_millis(*millis) <= age => {
                    return Phase::Outbid;
                }
                Mishap::State { word } => return Phase::Odd(word.clone()),
                Mishap::OfferGone
                | Mishap::OutOfFunds
                | Mishap::BidTooLow
                | Mishap::Late { .. }
                | Mishap::Boot { .. }
                | Mishap::Outbid { .. }
                | Mishap::Dearer { .. }
                | Mishap::Faulty(_)
                | Mishap::LeavesDisk => {}
            }
        }
        match (self.stopped || self.is_halted(), machines && self.port.is_none()) {
            (true, _) => Phase::Stopped,
            (false, true) => Phase::Booting,
            (false, false) => Phase::Running,
        }
    }

    /// Whether it was told to stop.
    pub(super) fn is_halted(&self) -> bool {
        self.halted.is_some()
    }

    /// Whether a listing shows it yet.
    pub(super) fn is_listed(&self) -> bool {
        let age = self.since.elapsed().unwrap_or_default();
        self.ended.is_none()
            && self.mishaps.iter().all(|mishap| match mishap {
                Mishap::Late { millis } => Duration::from_millis(*millis) <= age,
                Mishap::OfferGone
                | Mishap::OutOfFunds
                | Mishap::BidTooLow
                | Mishap::NeverReady
                | Mishap::Boot { .. }
                | Mishap::Outbid { .. }
                | Mishap::Dearer { .. }
                | Mishap::Faulty(_)
                | Mishap::LeavesDisk
                | Mishap::State { .. } => true,
            })
    }

    pub(super) fn end(&mut self, by: Ender, at: SystemTime) {
        self.ended.get_or_insert((at, by));
    }

    /// When the marketplace itself ends it, as it was told: at a time, or at a cost.
    pub(super) fn expiry(&self) -> Option<SystemTime> {
        let spent = self.wish.most.filter(|_| 0 < self.price.0).and_then(|most| {
            let hours = most.0 as f64 / self.price.0 as f64;
            self.since.checked_add(Duration::from_secs_f64(hours * 3_600.0))
        });
        self.wish.expires.into_iter().chain(spent).min()
    }

    /// Whether its disk stays when it is ended.
    pub(super) fn leaves_disk(&self) -> bool {
        self.mishaps.contains(&Mishap::LeavesDisk)
    }

    pub(super) fn to_json(&self, machines: bool, billing: Billing) -> Value {
        let over = self.ended.map(|(at, _)| at).into_iter().chain(self.halted).min();
        let until = over.unwrap_or_else(SystemTime::now);
        let held = until.duration_since(self.since).unwrap_or_default();
        json!({
            "id": self.id,
            "label": self.wish.label,
            "ware": self.ware.id,
            "gpu": self.ware.gpu,
            "image": self.wish.image,
            "disk_gb": self.wish.disk,
            "spot": self.wish.spot,
            "price_per_hour": self.price.dollars(),
            "since": rfc3339(self.since),
            "seconds": held.as_secs_f64(),
            "cost": self.price.over(billing.charged(held)).0 as f64 / 1e6,
            "ended": self.ended.and_then(|(at, _)| rfc3339(at)),
            "ended_by": self.ended.map(|(_, by)| by.word()),
            "billed": self.ended.is_none() && !self.is_halted(),
            "state": format!("{:?}", self.phase(machines)),
        })
    }
}
