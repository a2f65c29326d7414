//! What is listed under our labels and nobody has in hand: an order that was carried out twice, or
//! although it was refused, or what has come back.

use super::{LAST_LOOK, LeaseError, Leases, giving_back::let_go};
use crate::{
    event::Event,
    label::twin,
    ledger::{Books, Entry, LeaseState, LedgerError},
};
use providers::{Instance, InstanceId, Label};
use std::collections::BTreeSet;
use tokio::time::timeout;

/// Such an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// The lease whose label it has.
    label: Label,
    /// Where that stands.
    state: LeaseState,
    /// The instance.
    id: InstanceId,
}

/// What a marketplace's whole listing shows of them. Pure.
///
/// `books` are of before the listing was asked for: what is given back meanwhile is none. Nor is what
/// has another id than its lease while that one isn't listed, for it may be the same.
pub fn strays(books: &Books, provider: &str, listed: &[Instance]) -> Vec<Stray> {
    let is_listed = |id: &InstanceId| listed.iter().any(|found| found.id == *id);
    let mut strays = Vec::new();
    for found in listed {
        let label = found.label.as_ref();
        let Some((label, lease)) = label.and_then(|label| Some((label, books.lease(label)?)))
        else {
            continue;
        };
        let is_stray = match &lease.state {
            LeaseState::Held(own) => {
                let known = books.lease(&twin(label, &found.id));
                *own != found.id
                    && is_listed(own)
                    && !known.is_some_and(|twin| twin.state.is_owed())
            }
            LeaseState::Refused | LeaseState::Released => true,
            // Whoever is about to know what became of it sees to all that is listed.
            LeaseState::Absent
            | LeaseState::Ordered
            | LeaseState::Releasing(_)
            | LeaseState::Gone(_) => false,
        };
        if is_stray && lease.terms.provider == provider {
            let (label, state) = (label.clone(), lease.state.clone());
            strays.push(Stray { label, state, id: found.id.clone() });
        }
    }
    strays
}

impl Leases {
    /// Begins to give back an instance that nobody has in hand, unless somebody has by now.
    pub fn give_back(&mut self, stray: &Stray) -> Result<(), LeaseError> {
        let Stray { label, state, id } = stray;
        let Some(lease) = self.books().lease(label).filter(|lease| lease.state == *state) else {
            return Ok(());
        };
        let twin = twin(label, id);
        let known = self.books().lease(&twin).map(|lease| lease.state.is_owed());
        let market = self.markets.get(&lease.terms.provider).cloned();
        let noted = match (state.is_owed(), known) {
            (true, Some(true)) => return Ok(()),
            // It costs as much as the lease that it was ordered with, and for as long.
            (true, None) => {
                let (terms, since) = (lease.terms.clone(), lease.since);
                self.ledger.record(&twin, Entry::Doubled { terms, id: id.clone(), since })
            }
            (true, Some(false)) => self.owe_again(&twin, id),
            (false, _) => self.owe_again(label, id),
        };
        if let (Err(_), Some(market)) = (&noted, market) {
            // With a full disk nobody would know of it. It is given back all the same, once.
            let id = id.clone();
            tokio::spawn(async move { let_go(&*market, &id).await });
        }
        noted?;
        self.events.send(Event::Stray { label: label.clone(), id: id.clone() });
        self.release(if state.is_owed() { &twin } else { label })
    }

    /// Notes that what is over is listed after all.
    fn owe_again(&mut self, label: &Label, id: &InstanceId) -> Result<(), LedgerError> {
        self.ledger.record(label, Entry::Releasing)?;
        self.ledger.record(label, Entry::Listed(id.clone()))
    }

    /// Looks once more for what is over: an order may be carried out later than any listing should
    /// be, and what has gone may be listed again. What is there is owed again.
    pub async fn look_again(&mut self) -> Result<(), LedgerError> {
        let providers: BTreeSet<_> =
            self.books().leases().map(|(_, lease)| lease.terms.provider.clone()).collect();
        for provider in providers {
            let Some(market) = self.markets.get(&provider).cloned() else { continue };
            // All of it was shown to be gone, from which a listing that fails takes nothing.
            let listed = timeout(LAST_LOOK, market.instances()).await;
            let listed = listed.ok().and_then(Result::ok).unwrap_or_default();
            for Stray { label, id, .. } in strays(self.books(), &provider, &listed) {
                // Several may have one label, and its lease finds them all.
                if self.books().lease(&label).is_some_and(|lease| !lease.state.is_owed()) {
                    let noted = self.owe_again(&label, &id);
                    if noted.is_err() {
                        // With a full disk nobody would know of it: it goes first.
                        let_go(&*market, &id).await;
                    }
                    noted?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Entry, Ledger, Terms};
    use jiff::Timestamp;
    use providers::{InstanceState, UsdPerHour};

    /// What is a stray of these, after these entries about the lease `a`.
    fn found(entries: &[Entry], listed: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let run = "nov26-7kq3".parse().expect("a run");
        let mut ledger = Ledger::open(&folder.path().join("ledger"), &run).expect("it opens");
        for entry in entries {
            ledger.record(&Label("a".into()), entry.clone()).expect("it may follow");
        }
        let pending = |(label, id): &(&str, &str)| {
            let (label, id) = (Label((*label).into()), InstanceId((*id).into()));
            Instance::new(id, Some(label), InstanceState::Pending)
        };
        let listed: Vec<_> = listed.iter().map(pending).collect();
        assert_eq!(strays(ledger.books(), "elsewhere", &listed), []);
        strays(ledger.books(), "anywhere", &listed).into_iter().map(|found| found.id.0).collect()
    }

    #[test]
    fn what_nobody_has_in_hand_is_told_from_what_somebody_sees_to() {
        let terms = Terms::example("anywhere", UsdPerHour(1), Timestamp::UNIX_EPOCH);
        let ordered = [Entry::Ordered(terms)];
        let after = |entries: &[Entry]| [&ordered[..], entries].concat();
        let held = after(&[Entry::Rented(InstanceId("1".into()))]);
        let both = [("a", "1"), ("a", "2"), ("b", "3")];
        assert_eq!(found(&[], &both), [""; 0], "it is none of ours");
        assert_eq!(found(&ordered, &both), [""; 0], "it is looked for");
        assert_eq!(found(&held, &both), ["2"]);
        assert_eq!(found(&held, &both[1..]), [""; 0], "it may have another id now");
        assert_eq!(found(&[&held[..], &[Entry::Releasing]].concat(), &both), [""; 0]);
        assert_eq!(found(&after(&[Entry::Refused]), &both), ["1", "2"]);
        let over = [&held[..], &[Entry::Releasing, Entry::Released]].concat();
        assert_eq!(found(&over, &both[1..]), ["2"]);
    }
}
