//! What the lines of a ledger come to.

use super::{
    Entry, IllegalEntry, LeaseState, LedgerError, Terms,
    file::{self, Fact, Holder, Line},
};
use crate::clock;
use jiff::Timestamp;
use providers::{Label, Usd};
use std::{collections::BTreeMap, path::Path, time::Duration};

/// How long after its time an instance may still be on its way out.
pub const OVERTIME: Duration = Duration::from_secs(30);

/// One lease and its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What was ordered.
    pub terms: Terms,
    /// Where it stands.
    pub state: LeaseState,
    /// When it was ordered: billing may have begun then.
    pub since: Timestamp,
    /// When it was last heard of: if it is gone, when it was found to be.
    pub until: Timestamp,
    /// Whether its machine has shown that it can't run the engine.
    pub unable: bool,
}

impl Lease {
    /// Until when it costs something: `now`, while it may.
    pub fn end(&self, now: Timestamp) -> Timestamp {
        // It was found to be over somewhere in the second that is written there.
        let gone = clock::after(self.until, Duration::from_secs(1));
        // A clock that was put back since doesn't make what was heard of it unheard.
        if self.state.costs() { now.max(self.until) } else { gone }
    }

    /// Whether it should have been given back by now.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.state.costs() && clock::after(self.terms.expires, OVERTIME) < now
    }

    /// What it has cost, at most, by `now`, without traffic.
    pub fn cost(&self, now: Timestamp) -> Usd {
        match self.state {
            LeaseState::Refused => Usd(0),
            LeaseState::Absent
            | LeaseState::Ordered
            | LeaseState::Held(_)
            | LeaseState::Releasing(_)
            | LeaseState::Gone(_)
            | LeaseState::Released => {
                let held = clock::between(self.since, self.end(now));
                self.terms.price.over(self.terms.billing.charged(held))
            }
        }
    }
}

/// The leases of a run, as far as its ledger tells.
#[derive(Clone, Debug, Default)]
pub struct Books {
    leases: BTreeMap<Label, Lease>,
    opened: u64,
    holder: Option<Holder>,
    /// When the last line was written.
    pub(super) latest: Option<Timestamp>,
}

impl Books {
    /// Reads the ledger at `path` without taking it. None if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, LedgerError> {
        file::read(path)?.map(Self::replay).transpose()
    }

    pub(super) fn replay(lines: Vec<Line>) -> Result<Self, LedgerError> {
        let mut books = Self::default();
        for line in lines {
            books.enter(&line)?;
        }
        Ok(books)
    }

    pub(super) fn enter(&mut self, line: &Line) -> Result<(), IllegalEntry> {
        self.latest = self.latest.max(Some(line.at));
        match &line.fact {
            Fact::Opened(holder) => {
                self.opened += 1;
                self.holder = Some(holder.clone());
            }
            Fact::Lease { label, entry } => {
                let next = self.state(label).next(entry)?;
                if let Some((terms, since)) = entry.ordered(line.at) {
                    let terms = terms.clone();
                    let (until, unable) = (line.at, false);
                    let lease = Lease { terms, state: next, since, until, unable };
                    self.leases.insert(label.clone(), lease);
                } else if let Some(lease) = self.leases.get_mut(label) {
                    // What only confirms that it is gone doesn't make it last longer.
                    if lease.state.costs() || next.costs() {
                        lease.until = line.at;
                    }
                    lease.state = next;
                    match entry {
                        Entry::Priced(price) => lease.terms.price = *price,
                        Entry::Unable => lease.unable = true,
                        Entry::Login(login) => lease.terms.login = Some(login.clone()),
                        Entry::Shortened { expires, worst } => {
                            (lease.terms.expires, lease.terms.worst) = (*expires, *worst);
                        }
                        Entry::Ordered(_)
                        | Entry::Doubled { .. }
                        | Entry::Rented(_)
                        | Entry::Listed(_)
                        | Entry::Refused
                        | Entry::Releasing
                        | Entry::Gone
                        | Entry::Released => {}
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn state(&self, label: &Label) -> LeaseState {
        self.leases.get(label).map_or(LeaseState::Absent, |lease| lease.state.clone())
    }

    /// Every lease that was ever ordered.
    pub fn leases(&self) -> impl Iterator<Item = (&Label, &Lease)> {
        self.leases.iter()
    }

    /// The lease under this label.
    pub fn lease(&self, label: &Label) -> Option<&Lease> {
        self.leases.get(label)
    }

    /// The leases that may still cost money.
    pub fn owed(&self) -> impl Iterator<Item = (&Label, &Lease)> {
        self.leases.iter().filter(|(_, lease)| lease.state.is_owed())
    }

    /// What everything has cost, at most, by `now`.
    pub fn cost(&self, now: Timestamp) -> Usd {
        Usd(self.leases.values().map(|lease| lease.cost(now).0).sum())
    }

    /// Who took the ledger up last.
    pub fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// How often the ledger was taken up: the generation of whoever has it.
    pub fn generation(&self) -> u64 {
        self.opened
    }
}
