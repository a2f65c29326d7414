//! Drives a server that is ready: prompts in, answers out, until there are no more or it is lost.

use super::{
    answer::{self, Meaning},
    backlog::{Attempt, Backlog, Next},
    client::{NoReply, Reply},
    concurrency::{Meter, Search},
    launch::Live,
    notes::note,
    plan::Plan,
    request,
    signs::{self, Seen},
    source::Source,
    watchdog::{Signs, hung, time_limit},
};
use crate::engine::Outlet;
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};
use wire::{Completion, Failure, Outcome, Prompt};

/// How long it is left open whether a prompt failed by itself or the server is dying.
const SETTLE: Duration = Duration::from_millis(500);

/// How often the server is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Failures in a row, without an answer in between, that are the server's and not the prompts'.
const FAILURES: usize = 8;

/// How the driving ended.
#[derive(Debug)]
pub(super) enum End {
    /// There are no more prompts.
    Over,
    /// The server died, or must be started again.
    Lost(Lost),
}

/// A server that is of no more use.
#[derive(Debug)]
pub(super) struct Lost {
    /// What it did, as a clause that follows its name.
    pub(super) why: String,
    /// The prompts that it was at.
    pub(super) there: Vec<Attempt>,
}

/// A prompt that is held to be at fault, and why.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The prompt.
    pub(super) prompt: Prompt,
    /// What it is told of.
    pub(super) reason: String,
}

/// A server, and what is known of it and of its prompts.
#[derive(Debug)]
pub(super) struct Drive<'a> {
    /// How it is to be driven.
    pub(super) plan: &'a Plan,
    /// Its number.
    pub(super) number: usize,
    /// The server.
    pub(super) live: &'a mut Live,
    /// How many prompts at once.
    pub(super) search: &'a mut Search,
    /// Prompts that came back.
    pub(super) backlog: &'a mut Backlog,
    /// What is held against prompts, until the server has shown that it can answer any.
    pub(super) verdicts: &'a mut Vec<Verdict>,
    /// Where answers go.
    pub(super) outlet: &'a Outlet,
}

type Replied = (u64, Result<Reply, NoReply>);

/// A prompt that the server is at.
struct Flight {
    attempt: Attempt,
    begun: Instant,
    request: AbortHandle,
}

/// A prompt that isn't answered, and of which it isn't clear yet what that means.
struct Open {
    attempt: Attempt,
    since: Instant,
    /// Why it failed; None if the server is only busy.
    failed: Option<String>,
}

struct Driving<'a> {
    drive: Drive<'a>,
    flights: BTreeMap<u64, Flight>,
    requests: JoinSet<Replied>,
    open: Vec<Open>,
    probes: JoinSet<Seen>,
    meter: Meter,
    begin: Instant,
    progress: Instant,
    alive: Instant,
    measure: Option<f64>,
    slowest: Duration,
    failures: usize,
    out_of_memory: Option<Instant>,
    answered: bool,
}

impl Drive<'_> {
    /// Drives it. Tells also whether it has answered anything.
    pub(super) async fn run(self, source: &Source) -> (End, bool) {
        let now = Instant::now();
        let mut driving = Driving {
            drive: self,
            flights: BTreeMap::new(),
            requests: JoinSet::new(),
            open: Vec::new(),
            probes: JoinSet::new(),
            meter: Meter::default(),
            begin: now,
            progress: now,
            alive: now,
            measure: None,
            slowest: Duration::ZERO,
            failures: 0,
            out_of_memory: None,
            answered: false,
        };
        let end = match driving.run(source).await {
            None => End::Over,
            Some(why) => End::Lost(Lost { why, there: driving.there() }),
        };
        (end, driving.answered)
    }
}

impl Driving<'_> {
    /// Works until there are no more prompts, or until the server is lost: why, in that case.
    async fn run(&mut self, source: &Source) -> Option<String> {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut over = false;
        loop {
            let wants_more = self.begin_returned();
            if over && self.under_way() == 0 && self.drive.backlog.is_empty() {
                self.pass_verdicts();
                return None;
            }
            tokio::select! {
                // Prompts before the look: room that it finds is room for which there was none.
                biased;
                Some(replied) = self.requests.join_next() => {
                    // One that was called off has been dealt with.
                    if let Ok((index, reply)) = replied {
                        self.hear(index, reply);
                    }
                }
                prompt = source.next(), if wants_more && !over => match prompt {
                    Some(prompt) => self.begin(Attempt::new(prompt)),
                    None => over = true,
                },
                () = self.drive.live.process.ended() => return Some("died".to_owned()),
                Some(seen) = self.probes.join_next() => self.see(seen.unwrap_or_default()),
                _ = look.tick() => if let Some(why) = self.look() {
                    return Some(why);
                },
            }
        }
    }

    fn under_way(&self) -> usize {
        self.flights.len() + self.open.len()
    }

    /// Begins prompts that came back. Tells whether there is room for one that is new.
    fn begin_returned(&mut self) -> bool {
        while self.under_way() < self.drive.search.limit() {
            match self.drive.backlog.next(self.under_way()) {
                Next::Begin(attempt) => self.begin(attempt),
                Next::Wait => return false,
                Next::Fresh => return true,
            }
        }
        false
    }

    fn begin(&mut self, attempt: Attempt) {
        let index = attempt.prompt.index;
        let asked = match request::ask(&attempt.prompt, &self.drive.plan.common) {
            Ok(asked) => asked,
            Err(reason) => {
                self.fail(index, Failure::BadRequest, reason);
                return;
            }
        };
        let now = Instant::now();
        if self.under_way() == 0 {
            // It had nothing to get on with.
            self.progress = now;
        }
        let address = self.drive.live.address.clone();
        let request = async move { (index, address.post(asked.path, asked.body).await) };
        let request = self.requests.spawn(request);
        self.flights.insert(index, Flight { attempt, begun: now, request });
    }

    fn hear(&mut self, index: u64, reply: Result<Reply, NoReply>) {
        let Some(Flight { attempt, begun, .. }) = self.flights.remove(&index) else { return };
        let now = Instant::now();
        let meaning = match reply {
            Ok(reply) => answer::read(&reply, &self.drive.plan.server.out_of_memory),
            Err(NoReply(reason)) => Meaning::Failed(format!("the server gave no answer: {reason}")),
        };
        match meaning {
            Meaning::Over(outcome) => {
                self.progress = now;
                self.slowest = self.slowest.max(now - begun);
                self.over(index, outcome);
            }
            Meaning::Busy => self.open.push(Open { attempt, since: now, failed: None }),
            Meaning::Failed(why) => self.open.push(Open { attempt, since: now, failed: Some(why) }),
            Meaning::OutOfMemory(why) => self.out_of_memory(attempt, begun, why),
        }
    }

    fn over(&mut self, index: u64, outcome: Outcome) {
        if let Outcome::Done { tokens_in, tokens_out, .. } = &outcome {
            (self.answered, self.failures) = (true, 0);
            self.pass_verdicts();
            let tokens = (u64::from(*tokens_in), u64::from(*tokens_out));
            self.drive.outlet.count(tokens.0, tokens.1);
            self.measure_rate(tokens.0 + tokens.1);
        }
        self.drive.outlet.finish(Completion { index, outcome });
    }

    fn measure_rate(&mut self, tokens: u64) {
        let limit = self.drive.search.limit();
        if let Some(rate) = self.meter.answer(self.begin.elapsed(), limit, tokens)
            && !self.drive.search.found()
        {
            self.drive.search.measured(rate);
            let found = if self.drive.search.found() { ", the best" } else { "" };
            let next = self.drive.search.limit();
            let line = format!("{limit} prompts at once: {rate:.1} tokens/s; next {next}{found}");
            note(self.drive.number, &line);
        }
    }

    /// Memory lacked for a prompt. Those begun before the last halving say nothing new.
    fn out_of_memory(&mut self, attempt: Attempt, begun: Instant, why: String) {
        let now = Instant::now();
        let alone = self.drive.search.limit() == 1;
        if self.out_of_memory.is_none_or(|halved| halved < begun) {
            self.drive.search.out_of_memory();
            self.out_of_memory = Some(now);
            let limit = self.drive.search.limit();
            note(self.drive.number, &format!("{why}; from now on {limit} prompts at once"));
        }
        self.open.push(Open { attempt, since: now, failed: Some(why).filter(|_| alone) });
    }

    fn see(&mut self, seen: Seen) {
        let now = Instant::now();
        if seen.alive {
            self.alive = now;
        }
        if seen.measure.is_some() && seen.measure != self.measure {
            (self.progress, self.measure) = (now, seen.measure);
        }
    }

    /// Looks after what time has brought. Tells why the server is lost, if it is.
    fn look(&mut self) -> Option<String> {
        let patience = &self.drive.plan.server.patience;
        if self.probes.is_empty() && signs::due(self.alive.elapsed(), patience) {
            let (address, server) = (self.drive.live.address.clone(), &self.drive.plan.server);
            let (ready, metrics) = (server.ready.clone(), server.metrics.clone());
            let limit = signs::limit(patience);
            self.probes.spawn(async move { signs::see(&address, &ready, metrics, limit).await });
        }
        if let Some(why) = self.settle() {
            return Some(why);
        }
        self.call_off_late();
        let limit = self.drive.search.limit();
        if self.under_way() < limit {
            self.meter.restart(limit);
        }
        if self.under_way() == 0 {
            if self.drive.backlog.is_empty() {
                // Nothing is left that could show anything.
                self.pass_verdicts();
            }
            return None;
        }
        let signs =
            Signs { since_progress: self.progress.elapsed(), since_alive: self.alive.elapsed() };
        hung(signs, &self.drive.plan.server.patience)
    }

    /// Decides on prompts that failed a while ago, the server having lived on.
    fn settle(&mut self) -> Option<String> {
        let is_settled = |open: &Open| SETTLE <= open.since.elapsed();
        let failures = self.open.iter().filter(|o| o.failed.is_some() && is_settled(o)).count();
        if FAILURES <= self.failures + failures && 0 < failures {
            let why = self.open.iter().find_map(|open| open.failed.clone()).unwrap_or_default();
            return Some(format!("failed {} times in a row: {why}", self.failures + failures));
        }
        self.failures += failures;
        let (settled, open) = self.open.drain(..).partition(is_settled);
        self.open = open;
        for Open { attempt, failed, .. } in settled {
            match failed {
                None => self.drive.backlog.put_back(attempt),
                Some(why) => self.failed(attempt, 1, why),
            }
        }
        None
    }

    /// Calls off what takes far longer than anything else did.
    fn call_off_late(&mut self) {
        let limit = time_limit(self.slowest, &self.drive.plan.server.patience);
        let late: Vec<u64> = self
            .flights
            .iter()
            .filter(|(_, flight)| limit <= flight.begun.elapsed())
            .map(|(index, _)| *index)
            .collect();
        for index in late {
            let flight = self.flights.remove(&index).expect("it was there");
            flight.request.abort();
            let why = format!("the server had no answer after {} seconds", limit.as_secs());
            // Each try takes long, so there are fewer.
            self.failed(flight.attempt, 2, why);
        }
    }

    fn failed(&mut self, attempt: Attempt, failures: u32, why: String) {
        if let Some(given_up) = self.drive.backlog.failed(attempt, failures) {
            if self.out_of_memory.is_some() && self.drive.search.limit() == 1 {
                // Alone and again it lacked memory: the number of prompts wasn't to blame.
                self.drive.search.start_over();
            }
            self.fail(given_up.prompt.index, Failure::Engine, why);
        }
    }

    fn fail(&self, index: u64, failure: Failure, reason: String) {
        self.drive
            .outlet
            .finish(Completion { index, outcome: Outcome::Failed { failure, reason } });
    }

    fn pass_verdicts(&mut self) {
        for Verdict { prompt, reason } in std::mem::take(self.drive.verdicts) {
            self.fail(prompt.index, Failure::Engine, reason);
        }
    }

    /// The prompts that the server was at when it was lost.
    fn there(&mut self) -> Vec<Attempt> {
        self.requests.abort_all();
        let flights = std::mem::take(&mut self.flights).into_values().map(|flight| flight.attempt);
        flights.chain(self.open.drain(..).map(|open| open.attempt)).collect()
    }
}
