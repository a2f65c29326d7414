//! Machines: looking for one, ordering it, talking to it, and giving it up.

use super::{ATTEMPTS, AbortOnDrop, LEASE_LIMIT, LEASE_MARGIN, Runner, Why};
use crate::{
    catalog, clock,
    event::{Event, SlotPhase},
    label::Stamp,
    leases::{LeaseError, News, describe},
    ledger::Terms,
    run::{
        meter::Meter,
        slot::{Held, Slot, Stand},
        stop::Stop,
    },
    shards::{Loss, Said, Talk, WorkerId, talk},
};
use providers::{Instance, Label, Offer, Order};
use std::{collections::VecDeque, time::Duration};
use tokio::{sync::mpsc::unbounded_channel, time::sleep};

impl Runner<'_> {
    /// Takes over what an earlier session rented, and gives back what is of no use.
    pub(super) async fn adopt(&mut self) -> Result<(), Why> {
        let owed: Vec<Label> = self.leases.books().owed().map(|(label, _)| label.clone()).collect();
        for label in owed {
            let stamp = Stamp::read(&label).filter(|stamp| {
                stamp.slot < self.tools.setting.plan.machines
                    && self.slots.iter().all(|slot| slot.number != stamp.slot)
            });
            let adopted = match &stamp {
                Some(_) => self.leases.adopt(&label).await?,
                None => None,
            };
            match (stamp, adopted) {
                (Some(stamp), Some(instance)) => {
                    let (number, attempt) = (stamp.slot, stamp.attempt);
                    self.slots.push(Slot { number, attempt, stand: Stand::Vacant });
                    self.hold(number, label, instance)?;
                }
                _ => self.leases.release(&label)?,
            }
        }
        Ok(())
    }

    /// Looks for an offer for a slot.
    pub(super) fn seek(&mut self, number: u32) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == number) else {
            return;
        };
        slot.stand = Stand::Quoting;
        let pause = Duration::from_secs(1) * slot.attempt;
        let plan = &self.tools.setting.plan;
        let market = self.tools.setting.markets.get(&plan.provider).cloned();
        let (provider, ceiling) = (plan.provider.clone(), plan.ceiling);
        let quotes = self.quotes.0.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            let quote = match market {
                None => Err(LeaseError::NoMarket(provider).into()),
                Some(market) => {
                    catalog::quote(&*market, ceiling).await.map_err(|error| match error {
                        catalog::QuoteError::NoOffer(none) => Why::NoOffer(none),
                        catalog::QuoteError::Market(error) => Why::Lease(error.into()),
                    })
                }
            };
            drop(quotes.send((number, quote)).await);
        });
    }

    /// Orders the offer that was found for a slot.
    pub(super) fn order(&mut self, number: u32, quote: Result<Offer, Why>) -> Result<(), Why> {
        let offer = match quote {
            Ok(offer) => offer,
            Err(why) => return self.not_rented(number, why),
        };
        let stopped = self.tools.ladder.level() != Stop::No;
        let setting = self.tools.setting;
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == number) else {
            return Ok(());
        };
        if stopped {
            slot.stand = Stand::Vacant;
            return Ok(());
        }
        // It is over some time after the run has been told to stop.
        let time = setting.plan.deadline.unwrap_or(LEASE_LIMIT) + LEASE_MARGIN;
        let expires = clock::after(clock::now(), time);
        let stamp = Stamp::new(&setting.owner, &setting.plan.run, number, slot.attempt, expires);
        let label = stamp.label();
        let terms = Terms {
            provider: setting.plan.provider.clone(),
            offer: offer.id.clone(),
            price: offer.price,
            worst: offer.price.over(time),
            expires,
        };
        let mut order = Order::new(offer, label.clone(), self.tools.key.public_line());
        order.expires = Some(clock::to_system(expires));
        self.leases.order(order, terms)?;
        slot.stand = Stand::Renting(label);
        self.phase(number, SlotPhase::Renting);
        Ok(())
    }

    /// What became of an order, or of a release.
    pub(super) fn learn(&mut self, news: News) -> Result<(), Why> {
        let News::Rented(label, answer) = news else {
            return Ok(());
        };
        let is_for = |slot: &&Slot| matches!(&slot.stand, Stand::Renting(l) if *l == label);
        let Some(number) = self.slots.iter().find(is_for).map(|slot| slot.number) else {
            return Ok(());
        };
        match answer {
            Ok(instance) => {
                let id = instance.id.clone();
                self.tools.events.send(Event::Rented { slot: number, label: label.clone(), id });
                self.hold(number, label, *instance)
            }
            Err(error) => {
                // Perhaps there is an instance all the same.
                self.leases.release(&label)?;
                self.not_rented(number, error.into())
            }
        }
    }

    /// Begins to talk to a machine that is ours.
    pub(super) fn hold(
        &mut self,
        number: u32,
        label: Label,
        instance: Instance,
    ) -> Result<(), Why> {
        let setting = self.tools.setting;
        let provider = self.leases.books().lease(&label).map(|lease| lease.terms.provider.clone());
        let provider = provider.unwrap_or_default();
        let market = setting.markets.get(&provider).cloned();
        let market = market.ok_or(LeaseError::NoMarket(provider))?;
        self.workers += 1;
        let worker = WorkerId(self.workers);
        let (orders, inbox) = unbounded_channel();
        let talking = talk(
            Talk {
                id: worker,
                generation: self.tools.generation,
                run: setting.plan.run.clone(),
                job: setting.plan.job.clone(),
                market,
                instance,
                label: label.clone(),
                key: self.tools.key.clone(),
                pins: self.tools.pins.clone(),
                worker: setting.worker.clone(),
            },
            inbox,
            self.said.0.clone(),
        );
        let said = self.said.0.clone();
        let task = tokio::spawn(async move {
            let talking = tokio::spawn(talking);
            let _ends_with_us = AbortOnDrop(talking.abort_handle());
            if talking.await.is_err_and(|error| error.is_panic()) {
                let loss = Loss::Instance("the conversation with it crashed".to_owned());
                drop(said.send((worker, Said::Lost(loss))).await);
            }
        });
        let held = Held {
            label,
            worker,
            orders,
            task: task.abort_handle(),
            conversation: None,
            engine: None,
            acks: VecDeque::new(),
            prompts: Meter::default(),
            tokens: Meter::default(),
            answered: 0,
        };
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == number) {
            slot.stand = Stand::Held(Box::new(held));
        }
        Ok(())
    }

    /// Tries again for a slot that got no instance, or leaves it vacant.
    pub(super) fn not_rented(&mut self, number: u32, why: Why) -> Result<(), Why> {
        let others = self.slots.iter().any(|slot| slot.number != number && slot.held().is_some());
        if let Why::Lease(LeaseError::Ledger(_)) = why {
            return Err(why);
        }
        let reason = describe(&why);
        self.tools.events.send(Event::Lost { slot: number, reason: reason.clone() });
        self.last_loss = Some(reason);
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == number) else {
            return Ok(());
        };
        slot.attempt += 1;
        slot.stand = Stand::Vacant;
        if let Why::NoOffer(_) = why
            && !others
        {
            return Err(why);
        }
        if slot.attempt < ATTEMPTS && self.tools.ladder.level() == Stop::No {
            self.seek(number);
        }
        Ok(())
    }

    /// Gives up a machine, and looks for another unless that would fail as well.
    pub(super) fn lose(&mut self, at: usize, loss: Loss) -> Result<(), Why> {
        let slot = &mut self.slots[at];
        let number = slot.number;
        let Stand::Held(held) = std::mem::replace(&mut slot.stand, Stand::Vacant) else {
            return Ok(());
        };
        self.queue.lost(held.worker);
        self.early.retain(|(from, _)| *from != held.worker);
        self.leases.release(&held.label)?;
        let reason = describe(&loss);
        self.tools.events.send(Event::Lost { slot: number, reason: reason.clone() });
        self.last_loss = Some(reason);
        let anybody_works = self.slots.iter().filter_map(Slot::held).any(|h| h.engine.is_some());
        match loss {
            Loss::Work(_) | Loss::Fenced if !anybody_works => return Err(Why::Work(loss)),
            Loss::Work(_) | Loss::Fenced => {}
            Loss::Instance(_) => {
                let slot = &mut self.slots[at];
                slot.attempt += 1;
                if slot.attempt < ATTEMPTS && self.tools.ladder.level() == Stop::No {
                    self.seek(number);
                }
            }
        }
        Ok(())
    }
}
