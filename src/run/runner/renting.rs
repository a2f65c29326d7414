//! Machines: looking for one, ordering it, talking to it, and giving it up.

use super::{AbortOnDrop, LEASE_MARGIN, Quote, Runner};
use crate::{
    catalog::{self, Catalog},
    choose::{Candidate, Listed, in_words},
    clock,
    event::{Event, SlotPhase},
    label::Stamp,
    leases::{LeaseError, News, describe},
    ledger::Terms,
    model::Weights,
    renewal::{self, renew},
    run::{
        engine_of,
        meter::Meter,
        pace::Pace,
        purse,
        slot::{Held, Score, Slot, Stand},
        stop::Stop,
        why::{NoOffer, Why},
    },
    shards::{Loss, Said, Talk, WorkerId, talk},
    shortlist::{self, Pick},
    smoke::Promise,
    template::{Machine, has_watchdog},
};
use providers::{ErrorKind, Host, Instance, Label, Offer, Order, Rental, Usd};
use std::{collections::VecDeque, time::Duration};
use tokio::{sync::mpsc::unbounded_channel, time::sleep};

/// For a shorter time than this nothing is rented: it would be over before the first answer.
const SHORTEST_LEASE: Duration = Duration::from_mins(2);

impl Runner<'_> {
    /// Takes over what an earlier session rented, and gives back what is of no use.
    pub(super) async fn adopt(&mut self) -> Result<(), Why> {
        // What was ordered may have been carried out twice, which nobody has seen to.
        self.lookout.look_soon();
        let owed: Vec<Label> = self.leases.books().owed().map(|(label, _)| label.clone()).collect();
        for label in &owed {
            // Before anything: nothing is rented in the place of what may still be there.
            self.leases.recognise(label).await?;
        }
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
                    self.slots.push(Slot::new(number, attempt));
                    let id = instance.id.clone();
                    let adopted = Event::Adopted { slot: number, label: label.clone(), id };
                    self.tools.events.send(adopted);
                    self.shorten(&label)?;
                    self.hold(number, label, instance, None)?;
                }
                _ => self.leases.release(&label)?,
            }
        }
        Ok(())
    }

    /// Has a machine of an earlier session be over as early as this one's promises say.
    fn shorten(&mut self, label: &Label) -> Result<(), Why> {
        let Some(lease) = self.leases.books().lease(label) else { return Ok(()) };
        let (terms, now) = (&lease.terms, self.leases.now());
        let mut kept = self.time_left().saturating_add(LEASE_MARGIN);
        let limit = self.tools.setting.plan.limit();
        let stays = limit.and_then(|l| purse::stays(self.leases.books(), label, l.usd(), now));
        if let Some(stays) = stays {
            kept = kept.min(stays.saturating_sub(purse::RELEASE));
        }
        let expires = clock::after(clock::shown(clock::now()), kept);
        if terms.expires <= expires {
            return Ok(());
        }
        let end = clock::after(now, kept.saturating_add(purse::RELEASE));
        let time = clock::between(lease.since, end);
        let worst = purse::worst(terms.price, terms.billing, time, terms.traffic);
        Ok(self.leases.shorten(label, expires, worst)?)
    }

    /// Looks for an offer for a slot.
    pub(super) fn seek(&mut self, number: u32) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == number) else {
            return;
        };
        slot.stand = Stand::Quoting;
        let pause = Duration::from_secs(1) * slot.failures;
        let setting = self.tools.setting;
        let search = &setting.plan.search;
        let markets = setting.markets.only(&self.open_markets()).map_err(str::to_owned);
        let need = search.need(setting.plan.shape.as_ref());
        let quotes = self.quotes.0.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            let quote = match markets {
                Err(name) => Err(LeaseError::NoMarket(name).into()),
                Ok(markets) => Ok(catalog::ask(&markets, &need, catalog::PATIENCE).await),
            };
            drop(quotes.send((number, quote)).await);
        });
    }

    /// The marketplaces that take orders, as far as is known; all of them where none does, for who
    /// has asked may have mended it since.
    pub(super) fn open_markets(&self) -> Vec<String> {
        let all = &self.tools.setting.plan.search.providers;
        let open: Vec<_> =
            all.iter().filter(|name| !self.closed.contains(*name)).cloned().collect();
        if open.is_empty() { all.clone() } else { open }
    }

    /// Orders the best offer that was found for a slot.
    pub(super) fn order(&mut self, number: u32, quote: Quote) -> Result<(), Why> {
        let pick = match quote.and_then(|catalog| self.best(catalog)) {
            Ok(pick) => pick,
            Err(why) => return self.not_rented(number, why),
        };
        let stopped = self.tools.ladder.level() != Stop::No;
        if stopped {
            self.stand(number, Stand::Vacant);
            return Ok(());
        }
        let (order, terms) = match self.draw_up(number, &pick.listed) {
            Ok(order) => order,
            Err(why) => return self.not_rented(number, why),
        };
        let listed = &pick.listed;
        let label = order.label.clone();
        self.tools.events.send(Event::OfferChosen {
            slot: number,
            provider: listed.market.clone(),
            what: in_words(&listed.offer),
            price: listed.offer.price,
        });
        if listed.offer.machine.is_some() {
            // It can be rented once, and once it has failed it isn't wanted again.
            self.avoid.insert(shortlist::key(listed));
        }
        self.leases.order(order, terms)?;
        self.stand(number, Stand::Renting(label, Box::new(pick)));
        self.phase(number, SlotPhase::Renting);
        Ok(())
    }

    /// The best of what the marketplaces have now.
    fn best(&self, catalog: Catalog) -> Result<Pick, Why> {
        let plan = &self.tools.setting.plan;
        let answered = catalog.answered;
        let silence = catalog.failed.into_iter().next();
        let (picks, unlike) = self.shortlist(catalog.listed);
        match (picks.into_iter().next(), silence) {
            (Some(pick), _) => Ok(pick),
            (None, Some(silence)) if answered == 0 => Err(Why::Silence(silence)),
            (None, _) => {
                let why = unlike.into_iter().next().map(|(_, why)| why);
                Err(NoOffer { providers: plan.search.providers.clone(), why }.into())
            }
        }
    }

    /// Offers for a machine's part of what is left, the best first, and why others aren't there.
    pub(super) fn shortlist(&self, offers: Vec<Listed>) -> (Vec<Pick>, Vec<(Listed, String)>) {
        let setting = self.tools.setting;
        let plan = &setting.plan;
        let left = plan.prompts.saturating_sub(self.queue.counts().done);
        let prompts = (left / u64::from(plan.machines.max(1))).max(1);
        let (shape, model) = (setting.plan.shape.as_ref(), &plan.job.model.name);
        let measured = self.all_measured();
        plan.search.shortlist(offers, shape, model, prompts, &self.avoid, &measured)
    }

    /// What a machine's traffic may cost at most.
    pub(super) fn traffic(&self, offer: &Offer) -> Usd {
        let setting = self.tools.setting;
        let model =
            setting.plan.shape.as_ref().map_or(0, |shape| shape.weight_bytes(Weights::Bf16));
        purse::traffic(offer.traffic, model, setting.plan.bytes)
    }

    /// An order for this offer, and what it may come to.
    pub(super) fn draw_up(&mut self, number: u32, listed: &Listed) -> Result<(Order, Terms), Why> {
        let setting = self.tools.setting;
        let (plan, offer) = (&setting.plan, &listed.offer);
        // It is over some time after the run has been told to stop.
        let mut kept = self.time_left().saturating_add(LEASE_MARGIN);
        let mut paid = kept;
        let traffic = self.traffic(offer);
        if let Some(limit) = plan.limit() {
            // This slot is one of them. What is vacant now stays so.
            let waiting = |slot: &&Slot| matches!(slot.stand, Stand::Quoting);
            let sharers = self.slots.iter().filter(waiting).count().max(1);
            let left = purse::left(self.leases.books(), limit.usd(), self.leases.now());
            let share = Usd(left.0 / sharers as u64);
            let lasts = purse::time_for(share, offer.price, offer.billing, traffic);
            if lasts < SHORTEST_LEASE && offer.price.0 != 0 {
                return Err(Why::Budget { limit, left, price: offer.price });
            }
            // To end itself takes it as long as it takes us, and is paid for too.
            (kept, paid) = (kept.min(lasts.saturating_sub(purse::RELEASE)), paid.min(lasts));
        }
        // As the computer's clock shows it: it is meant for others, whose clocks are right. Where that
        // clock was put back to what is wrong, a machine ends itself too early, and not too late.
        let now = clock::shown(clock::now());
        let expires = clock::after(now, kept);
        let attempt = self.slots.iter().find(|slot| slot.number == number).map_or(0, |s| s.attempt);
        let label = Stamp::new(&setting.owner, &plan.run, number, attempt, expires).label();
        let market = setting.markets.get(&listed.market);
        let market = market.ok_or_else(|| LeaseError::NoMarket(listed.market.clone()))?;
        let capabilities = market.capabilities();
        let machine = Machine {
            capabilities: &capabilities,
            host: offer.host,
            engine: engine_of(&plan.job),
            disk: plan.search.disk(setting.plan.shape.as_ref()),
            expires,
            patience: setting.patience,
        };
        let host_key = machine.takes_host_key().then(|| self.tools.pins.plant(&label)).transpose();
        let host_key = host_key.map_err(|error| Why::HostKeys(error.to_string()))?;
        let mut order = Order::new(offer.clone(), label, self.tools.key.public_line());
        order.standing = self.recall.standing();
        order.setup = machine.setup(host_key.as_deref())?;
        order.expires = capabilities.expiry.then(|| {
            // Near, and moved on while we live.
            clock::to_system(renewal::until(now, expires, setting.patience.silence))
        });
        if let Rental::Interruptible { floor } = offer.rental {
            // What wins now, and not more: outbid, it is cheaper to take another. The disk comes on
            // top of it, and is in the offer's price.
            order.bid = Some(floor);
        }
        let terms = Terms {
            provider: listed.market.clone(),
            login: None,
            offer: offer.id.clone(),
            machine: offer.machine.clone(),
            price: offer.price,
            billing: offer.billing,
            traffic,
            worst: purse::worst(offer.price, offer.billing, paid, traffic),
            expires,
            promise: Promise::of(offer, plan.search.room(setting.plan.shape.as_ref())),
        };
        Ok((order, terms))
    }

    /// What became of an order, or of a release.
    pub(super) fn learn(&mut self, news: News) -> Result<(), Why> {
        let (label, answer) = match news {
            News::Rented(label, answer) => {
                self.lookout.look_soon();
                (label, answer)
            }
            News::Kept(_, error) => return Err(error.into()),
            News::Released(label) => {
                let waits = |slot: &Slot| match &slot.stand {
                    Stand::Unclear(own) if *own == label => Some((slot.number, false)),
                    Stand::Leaving(own) if *own == label => Some((slot.number, true)),
                    Stand::Quoting
                    | Stand::Renting(..)
                    | Stand::Unclear(_)
                    | Stand::Held(_)
                    | Stand::Leaving(_)
                    | Stand::Vacant => None,
                };
                // Several may have waited for what it cost.
                for (number, is_left) in self.slots.iter().filter_map(waits).collect::<Vec<_>>() {
                    if is_left { self.seek(number) } else { self.try_again(number) }
                }
                return Ok(());
            }
        };
        if let Some(at) = self.succeeds(&label) {
            return self.succeed(at, answer);
        }
        let is_for = |slot: &Slot| matches!(&slot.stand, Stand::Renting(l, _) if *l == label);
        let Some(at) = self.slots.iter().position(is_for) else {
            return Ok(());
        };
        let number = self.slots[at].number;
        let Stand::Renting(_, pick) = std::mem::replace(&mut self.slots[at].stand, Stand::Vacant)
        else {
            return Ok(());
        };
        let Pick { listed, candidate, .. } = *pick;
        match answer {
            Ok(instance) => {
                let id = instance.id.clone();
                self.tools.events.send(Event::Rented { slot: number, label: label.clone(), id });
                let quoted = listed.offer.price;
                if let Some(price) = instance.price.filter(|price| purse::is_dearer(*price, quoted))
                {
                    // Nothing was agreed to at this price.
                    self.avoid.insert(shortlist::key(&listed));
                    self.leases.priced(&label, price)?;
                    self.leases.release(&label)?;
                    return self.not_rented(number, Why::Dearer { quoted, price });
                }
                self.slots[at].parted = None;
                self.hold(number, label, *instance, candidate)
            }
            Err(LeaseError::Market(error)) if error.kind == ErrorKind::CalledOff => Ok(()),
            Err(error) => {
                if matches!(&error, LeaseError::Market(e) if e.kind == ErrorKind::OfferGone) {
                    self.avoid.insert(shortlist::key(&listed));
                }
                if is_closed(&error) {
                    self.closed.insert(listed.market.clone());
                }
                let owed = self.leases.books().owed().any(|(owed, _)| *owed == label);
                if owed {
                    // Perhaps there is an instance all the same: until that is known, nothing else
                    // is rented in its place.
                    self.leases.release(&label)?;
                    self.stand(number, Stand::Unclear(label));
                    let reason = describe(&error);
                    self.tools.events.send(Event::Lost { slot: number, reason: reason.clone() });
                    self.last_loss = Some(reason);
                    return Ok(());
                }
                self.not_rented(number, error.into())
            }
        }
    }

    pub(super) fn stand(&mut self, number: u32, stand: Stand) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == number) {
            slot.stand = stand;
        }
    }

    /// Begins to talk to a machine that is ours.
    pub(super) fn hold(
        &mut self,
        number: u32,
        label: Label,
        instance: Instance,
        candidate: Option<Candidate>,
    ) -> Result<(), Why> {
        let setting = self.tools.setting;
        let terms = self.leases.books().lease(&label).map(|lease| lease.terms.clone());
        let Some(Terms { provider, machine, expires, promise, .. }) = terms else {
            return Ok(());
        };
        // From here on it comes nearer whatever becomes of the clock.
        let expires = clock::ours(expires);
        let market = setting.markets.get(&provider).cloned();
        let market = market.ok_or_else(|| LeaseError::NoMarket(provider.clone()))?;
        let capabilities = market.capabilities();
        let watched = has_watchdog(&capabilities);
        let promise = (capabilities.host != Host::ThisComputer).then_some(promise);
        // Also where an earlier session rented it.
        self.avoid.extend(machine.map(|machine| shortlist::machine_key(&provider, &machine)));
        let (renewed, id) = (market.clone(), instance.id.clone());
        self.workers += 1;
        let worker = WorkerId(self.workers);
        let (orders, inbox) = unbounded_channel();
        let talking = talk(
            Talk {
                id: worker,
                generation: self.tools.generation,
                run: setting.plan.run.clone(),
                job: setting.plan.job.clone(),
                access: setting.access.clone(),
                market,
                instance,
                label: label.clone(),
                key: self.tools.key.clone(),
                pins: self.tools.pins.clone(),
                worker: setting.worker.clone(),
                expires,
                watched,
                promise,
            },
            inbox,
            self.said.0.clone(),
        );
        let renewal = capabilities.expiry.then(|| {
            let silence = setting.patience.silence;
            tokio::spawn(async move { renew(&*renewed, &id, expires, silence).await })
        });
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
            renewal: renewal.map(|task| task.abort_handle()),
            conversation: None,
            engine: None,
            acks: VecDeque::new(),
            prompts: Meter::default(),
            tokens: Meter::default(),
            answered: 0,
            working: None,
            answered_bytes: 0,
            bytes: Meter::default(),
            score: Score::default(),
            candidate,
            most_running: 0,
            pace: Pace::default(),
            doubted: false,
        };
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == number) {
            slot.stand = Stand::Held(Box::new(held));
        }
        Ok(())
    }
}

/// Whether a marketplace that says so takes no other order either, until somebody sees to it.
pub(super) fn is_closed(error: &LeaseError) -> bool {
    matches!(error, LeaseError::Market(error)
        if matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::OutOfFunds))
}
