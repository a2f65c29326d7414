//! What happens in a run: one loop that owns all of its state and waits for whatever comes next.
//!
//! Workers talk to it through [`talk`], marketplaces through
//! [`Leases`]; it alone decides who gets which prompt, and when the run is over.

use super::{
    Setting,
    guard::Guard,
    meter::Meter,
    slot::{Ack, Held, Slot, Stand, portion},
    state::{Facts, RunState},
    stop::{Ladder, Stop},
};
use crate::{
    catalog, clock,
    event::{Event, Events, Progress, SlotPhase},
    label::Stamp,
    leases::{LeaseError, Leases, News, describe},
    ledger::Terms,
    prompts::{Entry, PromptsError, Reader},
    remote::{Pins, RunKey},
    shards::{
        Cause, Durable, Finish, Item, Loss, Queue, Record, ResultsError, Resumed, Said, Say, Sink,
        Talk, Ticket, WorkerId, talk,
    },
};
use providers::{Instance, Label, Offer, Order};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel, unbounded_channel},
    time::{MissedTickBehavior, interval, sleep},
};
use wire::{Completion, Outcome};

/// How often progress is reported, and deadline and budget are looked at.
const TICK: Duration = Duration::from_millis(500);

/// Bytes of prompts that a worker holds, and that all together may hold at least: ten seconds of
/// the fastest GPU there is, and enough for one worker alone to be kept busy without a model.
const HELD_BYTES: (usize, usize) = (2 << 20, 16 << 20);

/// Bytes of prompts that wait beside them.
const AHEAD_BYTES: usize = 8 << 20;

/// Messages from workers that wait to be handled.
const INBOX: usize = 4;

/// How long prompts that were begun are waited for after a stop.
const DRAIN_LIMIT: Duration = Duration::from_mins(2);

/// How often an instance is rented for one slot before it is left vacant.
const ATTEMPTS: u32 = 3;

/// How long a lease runs at most where no deadline was given.
pub const LEASE_LIMIT: Duration = Duration::from_hours(24);

/// How much longer a lease runs than the run: to finish what was begun, and to give it back.
pub const LEASE_MARGIN: Duration = Duration::from_mins(10);

/// Why a run's work ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// Somebody stopped it, or its deadline or budget did.
    #[error("{0}")]
    Stopped(String),
    /// No instance could be had or kept.
    #[error("no instance could be had: {0}")]
    NoInstance(String),
    /// No offer fits.
    #[error(transparent)]
    NoOffer(#[from] catalog::NoOffer),
    /// The work can't be done anywhere.
    #[error(transparent)]
    Work(Loss),
    /// Results can't be kept.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// Prompts can't be read any more.
    #[error(transparent)]
    Prompts(#[from] PromptsError),
    /// The ledger can't be written.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A bug.
    #[error("piecework crashed; please report it")]
    Crashed,
}

/// What the work came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) tokens_in: u64,
    pub(super) tokens_out: u64,
    /// Tokens of this session alone.
    session_tokens: u64,
    /// When this session's first completion was on disk.
    pub(super) first: Option<Instant>,
    last: Option<Instant>,
}

impl Tally {
    /// Tokens a second, in and out, from this session's first completion to its last.
    pub(super) fn tokens_per_second(&self) -> f64 {
        let (Some(first), Some(last)) = (self.first, self.last) else {
            return 0.0;
        };
        let seconds = last.duration_since(first).as_secs_f64();
        if seconds < 0.001 { 0.0 } else { self.session_tokens as f64 / seconds }
    }
}

/// How the work ended.
#[derive(Debug)]
pub(super) struct Worked {
    pub(super) tally: Tally,
    pub(super) why: Option<Why>,
}

impl Worked {
    /// The work of a run that was over before.
    pub(super) fn nothing(prompts: u64) -> Self {
        Self { tally: Tally { done: prompts, ..Tally::default() }, why: None }
    }

    /// Work that ended in a panic.
    pub(super) fn crashed() -> Self {
        Self { tally: Tally::default(), why: Some(Why::Crashed) }
    }
}

/// What a runner works with.
pub(super) struct Tools<'a> {
    pub(super) setting: &'a Setting,
    pub(super) generation: u64,
    pub(super) guard: Option<Guard>,
    pub(super) key: RunKey,
    pub(super) pins: Arc<Pins>,
    pub(super) events: Events,
    pub(super) ladder: Ladder,
    pub(super) begun: Instant,
}

/// The answer to a search for an offer for the slot of this number.
type Quote = (u32, Result<Offer, Why>);

/// Both ends of a channel: one to hand out, one to listen to.
type Pipe<T> = (Sender<T>, Receiver<T>);

/// The loop and its state.
pub(super) struct Runner<'a> {
    tools: Tools<'a>,
    leases: &'a mut Leases,
    queue: Queue,
    sink: Sink,
    durable: Durable,
    reader: Option<Reader>,
    /// Answers to prompts that this session hasn't read yet.
    early: Vec<(WorkerId, Completion)>,
    slots: Vec<Slot>,
    workers: u32,
    state: RunState,
    tally: Tally,
    prompts: Meter,
    tokens: Meter,
    why: Option<Why>,
    /// Why the last instance was lost.
    last_loss: Option<String>,
    draining_since: Option<Instant>,
    said: Pipe<(WorkerId, Said)>,
    quotes: Pipe<Quote>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        tools: Tools<'a>,
        leases: &'a mut Leases,
        sink: Sink,
        resumed: &Resumed,
        reader: Reader,
    ) -> Self {
        let tally = Tally {
            done: resumed.completed.count(),
            failed: resumed.failed.count(),
            tokens_in: resumed.tokens_in,
            tokens_out: resumed.tokens_out,
            ..Tally::default()
        };
        Self {
            tools,
            leases,
            queue: Queue::new(resumed.done()),
            durable: sink.durable(),
            sink,
            reader: Some(reader),
            early: Vec::new(),
            slots: Vec::new(),
            workers: 0,
            state: RunState::Planned,
            tally,
            prompts: Meter::default(),
            tokens: Meter::default(),
            why: None,
            last_loss: None,
            draining_since: None,
            said: channel(INBOX),
            quotes: channel(INBOX),
        }
    }

    /// Works until there is nothing left to do or to do it with. Whatever is still rented then
    /// is left for the caller to give back.
    pub(super) async fn work(mut self) -> Worked {
        if let Err(why) = self.go().await {
            self.why = Some(why);
        }
        self.progress();
        // Hangs up on the workers.
        self.slots.clear();
        if let Err(error) = self.sink.close().await
            && self.why.is_none()
        {
            self.why = Some(error.into());
        }
        Worked { tally: self.tally, why: self.why }
    }

    async fn go(&mut self) -> Result<(), Why> {
        // With nothing to do nothing is rented.
        while self.queue.counts().done < self.queue.counts().total && self.queue.counts().held == 0
        {
            if self.queue.counts().waiting != 0 {
                break;
            }
            match self.next_entries().await {
                Some(entries) => self.take_in(entries?).await?,
                None => break,
            }
        }
        if self.is_done() {
            return Ok(());
        }
        self.adopt().await?;
        for number in 0..self.tools.setting.plan.machines {
            if self.slots.iter().all(|slot| slot.number != number) {
                self.slots.push(Slot { number, attempt: 0, stand: Stand::Vacant });
                self.seek(number);
            }
        }
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut level = Stop::No;
        loop {
            self.feed();
            self.state = self.state.next(self.facts());
            if self.state == RunState::Settling {
                return self.reason_to_end();
            }
            let hungry = self.queue.bytes() < self.held_bytes() + AHEAD_BYTES && level == Stop::No;
            let ticket = self.slots.iter().filter_map(Slot::held).filter_map(next_ticket).min();
            let harder = self.tools.ladder.clone();
            tokio::select! {
                Some((worker, said)) = self.said.1.recv() => self.hear(worker, said).await?,
                Some(entries) = next(&mut self.reader), if hungry => {
                    match entries {
                        Some(entries) => self.take_in(entries?).await?,
                        None => self.end_of_prompts().await?,
                    }
                }
                synced = wait(&mut self.durable, ticket) => {
                    synced?;
                    self.acknowledge();
                }
                Some(news) = self.leases.news() => {
                    self.learn(news.map_err(LeaseError::from)?)?;
                }
                Some((number, quote)) = self.quotes.1.recv() => self.order(number, quote)?,
                () = harder.at_least(level.harder()), if level < Stop::Leave => {
                    level = self.tools.ladder.level();
                    self.stop(level);
                }
                _ = tick.tick() => self.tick(),
            }
        }
    }

    /// Takes over what an earlier session rented, and gives back what is of no use.
    async fn adopt(&mut self) -> Result<(), Why> {
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
    fn seek(&mut self, number: u32) {
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
    fn order(&mut self, number: u32, quote: Result<Offer, Why>) -> Result<(), Why> {
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
    fn learn(&mut self, news: News) -> Result<(), Why> {
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
    fn hold(&mut self, number: u32, label: Label, instance: Instance) -> Result<(), Why> {
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
    fn not_rented(&mut self, number: u32, why: Why) -> Result<(), Why> {
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

    async fn hear(&mut self, worker: WorkerId, said: Said) -> Result<(), Why> {
        let is_it = |slot: &Slot| slot.held().is_some_and(|held| held.worker == worker);
        // Somebody that was given up may still be heard.
        let Some(at) = self.slots.iter().position(is_it) else {
            return Ok(());
        };
        let number = self.slots[at].number;
        let held = self.slots[at].held_mut().expect("it was just found");
        match said {
            Said::Phase(phase) => self.phase(number, phase),
            Said::Attached { conversation, held: kept } => {
                held.conversation = Some(conversation);
                // Whatever it answered before comes again in this conversation.
                held.acks.clear();
                self.early.retain(|(from, _)| *from != worker);
                self.queue.claim(worker, &kept);
                let lost = self.queue.held_by(worker).filter(|i| kept.binary_search(i).is_err());
                let lost: Vec<u64> = lost.collect();
                let again = lost.iter().filter_map(|index| self.queue.held(*index));
                let again: Vec<_> = again.map(|item| item.prompt.clone()).collect();
                if !again.is_empty() {
                    held.say(Say::Prompts(again));
                }
                if self.tools.ladder.level() != Stop::No {
                    held.say(Say::Drain);
                }
            }
            Said::Ready(facts) => {
                let engine = facts.name.clone();
                held.engine = Some(facts);
                let phase =
                    SlotPhase::Working { engine, waiting: 0, running: 0, tokens_per_second: 0.0 };
                self.phase(number, phase);
            }
            Said::Status(status) => {
                held.tokens.note(Instant::now(), (status.tokens_in + status.tokens_out) as f64);
                let phase = SlotPhase::Working {
                    engine: held.engine.as_ref().map_or_else(String::new, |e| e.name.clone()),
                    waiting: status.waiting,
                    running: status.running,
                    tokens_per_second: held.tokens.rate(),
                };
                if held.engine.is_some() {
                    self.phase(number, phase);
                }
            }
            Said::Completions { conversation, through, completions } => {
                self.take(at, conversation, through, completions).await?;
            }
            Said::GivenUp(indices) => {
                self.queue.give_back(worker, &indices);
            }
            Said::Reconnecting(reason) => {
                held.conversation = None;
                self.tools.events.send(Event::Reconnecting { slot: number, reason });
            }
            Said::Lost(loss) => self.lose(at, loss)?,
        }
        Ok(())
    }

    /// Gives up a machine, and looks for another unless that would fail as well.
    fn lose(&mut self, at: usize, loss: Loss) -> Result<(), Why> {
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

    /// Takes answers in.
    async fn take(
        &mut self,
        at: usize,
        conversation: u64,
        through: u64,
        completions: Vec<Completion>,
    ) -> Result<(), Why> {
        let worker = self.slots[at].held().expect("it was just found").worker;
        let mut records = Vec::with_capacity(completions.len());
        let count = completions.len() as u64;
        let early = self.early.len();
        for completion in completions {
            match self.queue.finish(completion.index) {
                Finish::First(item) => records.push(self.record(item, completion.outcome)),
                Finish::Early => self.early.push((worker, completion)),
                // Nobody waits for those.
                Finish::Again | Finish::Unknown => {}
            }
        }
        let ticket = self.sink.put(records).await?;
        let ticket = (early == self.early.len()).then_some(ticket);
        let held = self.slots[at].held_mut().expect("nothing has come between");
        held.acks.push_back(Ack { conversation, through, ticket });
        held.answered += count;
        held.prompts.note(Instant::now(), held.answered as f64);
        Ok(())
    }

    /// Counts an answer, and makes what is kept of it.
    fn record(&mut self, item: Item, outcome: Outcome) -> Record {
        let (index, line, custom_id) = (item.prompt.index, item.line, item.custom_id);
        match outcome {
            Outcome::Done { body, tokens_in, tokens_out } => {
                self.tally.done += 1;
                self.tally.tokens_in += u64::from(tokens_in);
                self.tally.tokens_out += u64::from(tokens_out);
                self.tally.session_tokens += u64::from(tokens_in) + u64::from(tokens_out);
                Record::Done { index, custom_id, body }
            }
            Outcome::Failed { failure, reason } => {
                self.tally.failed += 1;
                let (custom_id, cause) = (Some(custom_id), failure.into());
                Record::Failed { index, line, custom_id, cause, reason }
            }
        }
    }

    /// Takes prompts in.
    async fn take_in(&mut self, entries: Vec<Entry>) -> Result<(), Why> {
        let mut records = Vec::new();
        for entry in entries {
            match entry {
                Entry::Good { prompt, custom_id, line } => {
                    self.queue.push(Item { prompt, custom_id, line });
                }
                Entry::Bad { index, line, custom_id, reason } => {
                    if self.queue.refuse(index) {
                        self.tally.failed += 1;
                        let (cause, reason) = (Cause::BadLine, reason.to_string());
                        records.push(Record::Failed { index, line, custom_id, cause, reason });
                    }
                }
            }
        }
        let finished = self.early.len();
        for (worker, completion) in std::mem::take(&mut self.early) {
            match self.queue.finish(completion.index) {
                Finish::First(item) => records.push(self.record(item, completion.outcome)),
                Finish::Early => self.early.push((worker, completion)),
                Finish::Again | Finish::Unknown => {}
            }
        }
        if records.is_empty() && finished == self.early.len() {
            return Ok(());
        }
        let ticket = self.sink.put(records).await?;
        for held in self.slots.iter_mut().filter_map(Slot::held_mut) {
            if self.early.iter().all(|(worker, _)| *worker != held.worker) {
                for ack in held.acks.iter_mut().filter(|ack| ack.ticket.is_none()) {
                    ack.ticket = Some(ticket);
                }
            }
        }
        Ok(())
    }

    async fn end_of_prompts(&mut self) -> Result<(), Why> {
        self.reader = None;
        self.queue.end();
        // What is early now has no prompt.
        self.take_in(Vec::new()).await
    }

    /// Lets workers forget what is on disk.
    fn acknowledge(&mut self) {
        let latest = self.durable.latest();
        for held in self.slots.iter_mut().filter_map(Slot::held_mut) {
            let mut last = None;
            while held.acks.front().is_some_and(|ack| ack.ticket.is_some_and(|t| t <= latest)) {
                last = held.acks.pop_front();
            }
            if let Some(Ack { conversation, through, .. }) = last {
                held.say(Say::Forget { conversation, through });
                self.tally.last = Some(Instant::now());
                if 0 < self.tally.session_tokens {
                    self.tally.first.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    /// Hands prompts to workers that can do with more.
    fn feed(&mut self) {
        if self.tools.ladder.level() != Stop::No {
            return;
        }
        let all_bytes = self.held_bytes();
        // Those still on their way will want their share.
        let sharers = self.slots.iter().filter(|slot| !matches!(slot.stand, Stand::Vacant)).count();
        let linked = |held: &&mut Held| held.conversation.is_some();
        let workers = self.slots.iter_mut().filter_map(Slot::held_mut).filter(linked).count();
        let counts = self.queue.counts();
        let left = counts.total.saturating_sub(counts.done + counts.held);
        for held in self.slots.iter_mut().filter_map(Slot::held_mut).filter(linked) {
            let load = self.queue.load(held.worker);
            let prompts = portion(held.window(), load, left, sharers);
            let bytes = all_bytes / workers.max(1) / 4;
            if 0 < prompts && self.queue.held_bytes(held.worker) < bytes * 3 {
                let prompts = self.queue.take(held.worker, prompts, bytes);
                if !prompts.is_empty() {
                    held.say(Say::Prompts(prompts));
                }
            }
            if self.reader.is_none() && self.queue.load(held.worker) == 0 {
                // Nothing is left but what others hold: the first answer counts.
                let most = self.queue.largest_load().div_ceil(2).min(held.window());
                let stolen = self.queue.steal(held.worker, most, bytes);
                if !stolen.is_empty() {
                    held.say(Say::Prompts(stolen));
                }
            }
        }
    }

    /// Bytes of prompts that all workers together may hold.
    fn held_bytes(&self) -> usize {
        HELD_BYTES.1.max(self.slots.len() * HELD_BYTES.0)
    }

    fn facts(&self) -> Facts {
        let held = || self.slots.iter().filter_map(Slot::held);
        Facts {
            stop: self.tools.ladder.level(),
            any_instance: self.slots.iter().any(|slot| !matches!(slot.stand, Stand::Vacant)),
            any_attached: held().any(|held| held.conversation.is_some()),
            any_begun: held().any(|held| 0 < self.queue.load(held.worker)),
            all_done: self.is_done(),
        }
    }

    fn is_done(&self) -> bool {
        let counts = self.queue.counts();
        counts.done == counts.total
    }

    fn reason_to_end(&mut self) -> Result<(), Why> {
        if self.is_done() {
            return Ok(());
        }
        if self.tools.ladder.level() != Stop::No {
            // Perhaps the loop saw it before the branch that says so did.
            self.why.get_or_insert_with(|| Why::Stopped("stopped".to_owned()));
            return Ok(());
        }
        Err(Why::NoInstance(self.last_loss.take().unwrap_or_default()))
    }

    fn stop(&mut self, level: Stop) {
        let reason = match level {
            Stop::No => return,
            Stop::Drain => "finishing the prompts that were begun; once more to hang up",
            Stop::Kill => "hanging up; once more to leave at once",
            Stop::Leave => "leaving",
        };
        self.tools.events.send(Event::Stopping { reason: reason.to_owned() });
        self.why.get_or_insert_with(|| Why::Stopped("stopped".to_owned()));
        self.draining_since.get_or_insert_with(Instant::now);
        for held in self.slots.iter().filter_map(Slot::held) {
            held.say(Say::Drain);
        }
    }

    fn tick(&mut self) {
        self.progress();
        self.see_to_the_guard();
        let plan = &self.tools.setting.plan;
        let spent = self.leases.books().cost(clock::now());
        let mut limit = |stop: Stop, reason: &str| {
            self.why.get_or_insert_with(|| Why::Stopped(reason.to_owned()));
            self.tools.ladder.raise(stop);
        };
        if plan.deadline.unwrap_or(LEASE_LIMIT) <= self.tools.begun.elapsed() {
            limit(Stop::Drain, "the deadline has come");
        }
        // A budget of nothing is kept by what costs nothing.
        if let Some(budget) = plan.budget.filter(|_| 0 < spent.0) {
            if budget.0 * 95 / 100 <= spent.0 {
                limit(Stop::Drain, "the budget is spent");
            }
            if budget <= spent {
                limit(Stop::Kill, "the budget is spent");
            }
        }
        if self.draining_since.is_some_and(|since| DRAIN_LIMIT <= since.elapsed()) {
            limit(Stop::Kill, "stopped");
        }
    }

    fn see_to_the_guard(&mut self) {
        if let Some(guard) = &mut self.tools.guard
            // One that can't be started now is tried again at the next tick.
            && guard.ensure().is_ok_and(|stood| !stood)
        {
            self.tools.events.send(Event::GuardReplaced);
        }
    }

    fn progress(&mut self) {
        let now = Instant::now();
        let tally = &self.tally;
        let over = tally.done + tally.failed;
        self.prompts.note(now, over as f64);
        self.tokens.note(now, (tally.tokens_in + tally.tokens_out) as f64);
        let (rate, total) = (self.prompts.rate(), self.tools.setting.plan.prompts);
        let left = total.saturating_sub(over) as f64;
        self.tools.events.send(Event::Progress(Progress {
            done: tally.done,
            failed: tally.failed,
            total,
            tokens_in: tally.tokens_in,
            tokens_out: tally.tokens_out,
            prompts_per_second: rate,
            tokens_per_second: self.tokens.rate(),
            spent: self.leases.books().cost(clock::now()),
            seconds_left: (0.0 < rate).then(|| left / rate),
            seconds: self.tools.begun.elapsed().as_secs_f64(),
        }));
    }

    fn phase(&self, slot: u32, phase: SlotPhase) {
        self.tools.events.send(Event::Phase { slot, phase });
    }

    async fn next_entries(&mut self) -> Option<Result<Vec<Entry>, PromptsError>> {
        let entries = self.reader.as_mut()?.next().await;
        if entries.is_none() {
            self.reader = None;
            self.queue.end();
        }
        entries
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn next_ticket(held: &Held) -> Option<Ticket> {
    held.acks.front().and_then(|ack| ack.ticket)
}

/// The next entries, or the end of them; none where there is no reader.
async fn next(reader: &mut Option<Reader>) -> Option<Option<Result<Vec<Entry>, PromptsError>>> {
    match reader {
        Some(reader) => Some(reader.next().await),
        None => None,
    }
}

async fn wait(durable: &mut Durable, ticket: Option<Ticket>) -> Result<(), ResultsError> {
    match ticket {
        Some(ticket) => durable.wait(ticket).await,
        None => std::future::pending().await,
    }
}
