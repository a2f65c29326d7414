//! What happens in a run: one loop that owns all of its state and waits for whatever comes next.
//!
//! Workers talk to it through [`talk`](crate::shards::talk), marketplaces through [`Leases`]; it
//! alone decides who gets which prompt, and when the run is over. Its methods are in files of their
//! own: [`renting`] and [`losing`] machines, [`hearing`] what workers say, [`feeding`] them, [`ticking`]
//! what is looked after all the time, [`watching`] and [`reviewing`] what they cost,
//! [`succeeding`] one by another, and [`telling`] how it all goes.

mod feeding;
mod hearing;
mod losing;
mod renting;
mod reviewing;
mod succeeding;
mod telling;
mod ticking;
mod watching;

use super::{
    Setting,
    guard::Guard,
    lookout::{Lookout, Sights},
    meter::{Meter, Stopwatch},
    slot::{Held, Slot},
    state::{Facts, RunState},
    stop::{Ladder, Stop},
    why::Why,
};
use crate::{
    catalog::Catalog,
    clock,
    cost::Measurement,
    event::{Event, Events, SlotPhase},
    leases::{LeaseError, Leases},
    prompts::{Entry, PromptsError, Reader},
    remote::{Pins, RunKey},
    shards::{Durable, Queue, ResultsError, Resumed, Said, Say, Sink, Ticket, WorkerId},
    shortlist::unable,
};
use jiff::Timestamp;
use providers::Recall;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{MissedTickBehavior, interval},
};
use wire::Completion;

/// How often progress is reported, and deadline and budget are looked at.
const TICK: Duration = Duration::from_millis(500);

/// Bytes of prompts that wait beside them.
const AHEAD_BYTES: usize = 8 << 20;

/// Messages from workers that wait to be handled.
const INBOX: usize = 4;

/// How long a lease runs at most where no deadline was given.
pub const LEASE_LIMIT: Duration = Duration::from_hours(24);

/// How much longer a lease runs than the run: to finish what was begun, and to give it back.
pub const LEASE_MARGIN: Duration = Duration::from_mins(10);

/// What the work came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) tokens_in: u64,
    pub(super) tokens_out: u64,
    /// Tokens of this session alone.
    session_tokens: u64,
    /// When this session's first engine was up.
    ready: Option<Instant>,
    /// When this session's first completion was on disk.
    pub(super) first: Option<Instant>,
    last: Option<Instant>,
}

impl Tally {
    /// Tokens a second, in and out, from when this session's first engine was up to its last completion.
    /// The first completions may come all at once, and be the last.
    pub(super) fn tokens_per_second(&self) -> f64 {
        let (Some(ready), Some(last)) = (self.ready.or(self.first), self.last) else {
            return 0.0;
        };
        let seconds = last.duration_since(ready).as_secs_f64();
        if seconds < 0.001 { 0.0 } else { self.session_tokens as f64 / seconds }
    }
}

/// How the work ended.
#[derive(Debug)]
pub(super) struct Worked {
    pub(super) tally: Tally,
    pub(super) why: Option<Why>,
    /// How fast machines were.
    pub(super) measured: Vec<Measurement>,
}

impl Worked {
    /// The work of a run that was over before.
    pub(super) fn nothing(prompts: u64) -> Self {
        Self::ended(Tally { done: prompts, ..Tally::default() }, None)
    }

    /// Work that ended in a panic.
    pub(super) fn crashed() -> Self {
        Self::ended(Tally::default(), Some(Why::Crashed))
    }

    /// It was told to stop before it began.
    pub(super) fn stopped() -> Self {
        Self::ended(Tally::default(), Some(Why::Stopped("stopped".to_owned())))
    }

    fn ended(tally: Tally, why: Option<Why>) -> Self {
        Self { tally, why, measured: Vec::new() }
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

/// The answer to a search for offers.
type Quote = Result<Catalog, Why>;

/// Both ends of a channel: one to hand out, one to listen to.
type Pipe<T> = (Sender<T>, Receiver<T>);

/// The loop and its state.
pub(super) struct Runner<'a> {
    tools: Tools<'a>,
    /// When this session is to end.
    until: Timestamp,
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
    stopwatch: Stopwatch,
    why: Option<Why>,
    /// Why the last instance was lost.
    last_loss: Option<String>,
    draining_since: Option<Instant>,
    said: Pipe<(WorkerId, Said)>,
    /// Quotes, each for the slot of this number.
    quotes: Pipe<(u32, Quote)>,
    /// What else there is, to compare machines with.
    others: Pipe<Catalog>,
    /// When that was asked for last.
    reviewed: Option<Instant>,
    /// When marketplaces are asked about what works, and what they say.
    lookout: Lookout,
    sights: Pipe<Sights>,
    /// Machines and offers that are taken or have failed.
    avoid: BTreeSet<String>,
    /// Marketplaces that take no orders: they reject the key, or want money first.
    closed: BTreeSet<String>,
    /// Calls off the orders that aren't sent yet.
    recall: Recall,
    /// How many offers were gone when they were ordered.
    gone: u32,
    /// How fast machines were that are gone.
    measured: Vec<Measurement>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        tools: Tools<'a>,
        leases: &'a mut Leases,
        sink: Sink,
        resumed: &Resumed,
        reader: Reader,
    ) -> Self {
        let until = clock::after(clock::now(), tools.setting.plan.deadline);
        let avoid = unable(leases.books());
        let tally = Tally {
            done: resumed.completed.count(),
            failed: resumed.failed.count(),
            tokens_in: resumed.tokens_in,
            tokens_out: resumed.tokens_out,
            ..Tally::default()
        };
        Self {
            tools,
            until,
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
            stopwatch: Stopwatch::default(),
            why: None,
            last_loss: None,
            draining_since: None,
            said: channel(INBOX),
            quotes: channel(INBOX),
            others: channel(INBOX),
            reviewed: None,
            lookout: Lookout::default(),
            sights: channel(INBOX),
            avoid,
            closed: BTreeSet::new(),
            recall: Recall::default(),
            gone: 0,
            measured: Vec::new(),
        }
    }

    /// Works until there is nothing left to do or to do it with. Whatever is still rented then
    /// is left for the caller to give back.
    pub(super) async fn work(mut self) -> Worked {
        if let Err(why) = self.go().await {
            self.why = Some(why);
        }
        self.recall.call_off();
        self.progress();
        self.measured = self.all_seen();
        // Hangs up on the workers.
        self.slots.clear();
        // Not one after the other: what is rented is billed while a slow disk takes what is left.
        self.begin_to_release();
        if let Err(error) = self.sink.close().await
            && self.why.is_none()
        {
            self.why = Some(error.into());
        }
        Worked { tally: self.tally, why: self.why, measured: self.measured }
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
        let ladder = self.tools.ladder.clone();
        tokio::select! {
            adopted = self.adopt() => adopted?,
            // What isn't adopted by then is given back in the end like everything that is owed.
            () = ladder.at_least(Stop::Drain) => {}
        }
        for number in 0..self.tools.setting.plan.machines {
            if ladder.level() == Stop::No && self.slots.iter().all(|slot| slot.number != number) {
                self.slots.push(Slot::new(number, 0));
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
                Some(catalog) = self.others.1.recv() => self.exchange(catalog)?,
                Some(sights) = self.sights.1.recv() => self.see(sights)?,
                () = harder.at_least(level.harder()), if level < Stop::Leave => {
                    level = self.tools.ladder.level();
                    self.stop(level);
                }
                _ = tick.tick() => self.tick()?,
            }
        }
    }

    /// Asks for everything that is owed to be given back. Whoever settles waits for it, and tries
    /// again what can't be asked for here.
    fn begin_to_release(&mut self) {
        let owed: Vec<_> = self.leases.books().owed().map(|(label, _)| label.clone()).collect();
        for label in &owed {
            drop(self.leases.release(label));
        }
    }

    fn facts(&self) -> Facts {
        let held = || self.slots.iter().filter_map(Slot::held);
        Facts {
            stop: self.tools.ladder.level(),
            any_instance: self.slots.iter().any(Slot::is_busy),
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
        self.recall.call_off();
        self.tools.events.send(Event::Stopping { reason: reason.to_owned() });
        self.why.get_or_insert_with(|| Why::Stopped("stopped".to_owned()));
        self.draining_since.get_or_insert_with(Instant::now);
        for held in self.slots.iter().filter_map(Slot::held) {
            held.say(Say::Drain);
        }
    }

    fn phase(&self, slot: u32, phase: SlotPhase) {
        self.tools.events.send(Event::Phase { slot, phase });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_that_came_all_at_once_have_a_rate() {
        let ready = Instant::now();
        let at = Some(ready + Duration::from_secs(2));
        let tally = Tally { session_tokens: 600, first: at, last: at, ..Tally::default() };
        let known = Tally { ready: Some(ready), ..tally.clone() };
        assert!((known.tokens_per_second() - 300.0).abs() < 1e-6);
        assert!(tally.tokens_per_second().abs() < 1e-6, "nobody knows since when");
        assert!(Tally { last: None, ..known }.tokens_per_second().abs() < 1e-6);
    }
}
