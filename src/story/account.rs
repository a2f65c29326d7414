//! What a run did and what it cost: everything that a report says. Pure.

use super::{
    axis::Axis,
    life::{Phase, PhaseTotal, cost_by, end, in_all, is_work, phases},
    series::{Speed, speed, steps},
    trace::{Ending, Session, Trace, follow},
};
use crate::{
    clock,
    event::{Event, Latency, Line},
    hosted::{Likeness, Quote},
    label::{RunId, Stamp},
    ledger::{Books, Lease, LeaseState},
    run::{Plan, engine_of},
    shards::{Ordered, Reason},
};
use jiff::Timestamp;
use providers::{InstanceId, Label, Usd, UsdPerHour};
use serde::Serialize;

/// The version of the account's shape, as `report --json` prints it.
const VERSION: u32 = 1;

/// What an account is made of.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    /// What was asked for.
    pub plan: &'a Plan,
    /// What was rented.
    pub books: &'a Books,
    /// What was heard.
    pub story: &'a [Line<Event>],
    /// What is done.
    pub results: Ordered,
    /// Why prompts failed, where that can be read.
    pub failures: Option<Vec<Reason>>,
    /// What others would have taken.
    pub quotes: Vec<Quote>,
    /// Whether a program works on the run.
    pub running: bool,
    /// Now.
    pub now: Timestamp,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A program works on it.
    Running,
    /// Every prompt is done or failed, and the results are in order.
    Complete,
    /// `piecework resume` goes on.
    Stopped,
}

/// What a run did and what it cost. Money is in millionths of a US dollar, time in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Account {
    /// The version of this shape.
    pub v: u32,
    /// The run.
    pub run: RunId,
    /// When it was begun.
    pub begun: Timestamp,
    /// How it stands.
    pub state: State,
    /// The model.
    pub model: String,
    /// The engine.
    pub engine: String,
    /// Its prompts.
    pub prompts: Prompts,
    /// Their tokens.
    pub tokens: Tokens,
    /// Seconds in which a session of it went on or something was rented.
    pub seconds: f64,
    /// How long it was thought to take, where that was known.
    pub predicted_seconds: Option<f64>,
    /// Its sessions.
    pub sessions: Vec<SessionAccount>,
    /// Seconds from its begin to where time in which nothing of it was there is left out.
    pub seams: Vec<f64>,
    /// What it cost.
    pub money: Money,
    /// How fast it was, in steps of [`Account::step_seconds`].
    pub speed: Speed,
    /// The length of a step of a series.
    pub step_seconds: f64,
    /// How long its prompts took, if that was noted.
    pub latency: Option<LatencyAccount>,
    /// What its machines were at, all together.
    pub phases_in_all: Vec<PhaseTotal>,
    /// What it rented, in the order of renting.
    pub machines: Vec<Machine>,
    /// Orders that a marketplace refused.
    pub refused_orders: u64,
    /// Why prompts failed, the most frequent first. None where that can't be read any more.
    pub failures: Option<Vec<Reason>>,
    /// What the same tokens would have cost elsewhere.
    pub elsewhere: Vec<Elsewhere>,
}

/// How many prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Prompts {
    /// In all.
    pub total: u64,
    /// Answered.
    pub done: u64,
    /// That can't be answered.
    pub failed: u64,
    /// Not yet either.
    pub left: u64,
}

/// How many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Tokens {
    /// Of answered prompts.
    #[serde(rename = "in")]
    pub inbound: u64,
    /// Of their answers.
    #[serde(rename = "out")]
    pub outbound: u64,
}

/// A session, on the run's time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SessionAccount {
    /// When it began.
    pub begun: Timestamp,
    /// Seconds of the run until then.
    pub begins: f64,
    /// Seconds that it took.
    pub seconds: f64,
    /// How it ended.
    pub ending: Ending,
}

/// What was paid, and what was thought to be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Money {
    /// Paid for machines, at most.
    pub paid: Usd,
    /// Of it, for time in which they didn't answer prompts.
    pub not_working: Usd,
    /// For a million tokens, in and out.
    pub per_million_tokens: Option<Usd>,
    /// What it might cost.
    pub budget: Option<Usd>,
    /// What it was thought to cost, where that was known.
    pub predicted: Option<Usd>,
    /// What it could cost at most, as was said when it was begun.
    pub at_most: Option<Usd>,
    /// What was paid by the begin of each step, and by the end.
    pub by_step: Vec<Usd>,
}

/// How long prompts took, from when they were handed to a machine until their answers were here.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatencyAccount {
    /// Prompts that were timed.
    pub timed: u64,
    /// Seconds in which half of them were answered.
    pub p50: f64,
    /// Seconds in which 90 of 100 were.
    pub p90: f64,
    /// Seconds in which 99 of 100 were.
    pub p99: f64,
    /// All of them.
    pub buckets: Vec<Bucket>,
}

/// Prompts that took about as long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bucket {
    /// Seconds that they took at most, and more than those of the bucket before.
    pub seconds: f64,
    /// How many.
    pub prompts: u64,
}

/// Something that was rented.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Which of the run's machines it was.
    pub slot: u32,
    /// Our name for it.
    pub label: Label,
    /// The marketplace's name for it.
    pub id: Option<InstanceId>,
    /// The marketplace.
    pub provider: String,
    /// What it was, for people. Empty where nobody noted it.
    pub what: String,
    /// What an hour of it cost.
    pub price: UsdPerHour,
    /// When it was ordered.
    pub ordered: Timestamp,
    /// When it was gone. None while it may cost money.
    pub released: Option<Timestamp>,
    /// Seconds of the run until it was ordered.
    pub begins: f64,
    /// Seconds that it was there.
    pub seconds: f64,
    /// What it cost, at most.
    pub micro_usd: Usd,
    /// Prompts that it answered.
    pub prompts: u64,
    /// Their tokens, in and out.
    pub tokens: u64,
    /// What it was at, from its order to its end.
    pub phases: Vec<Phase>,
    /// The same, each put together.
    pub phases_in_all: Vec<PhaseTotal>,
    /// How fast it was.
    pub speed: Speed,
    /// Why it was given up, where it was.
    pub lost: Option<String>,
}

/// What the same tokens would have cost at an API.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Elsewhere {
    /// Whose.
    pub service: String,
    /// Which model.
    pub model: String,
    /// How that compares with the run's.
    pub likeness: Likeness,
    /// What they would have cost, in batch mode where there is one.
    pub micro_usd: Usd,
    /// Whether that is batch mode.
    pub batch: bool,
    /// The day of the price.
    pub date: String,
    /// Who says so.
    pub source: String,
}

/// Makes the account of a run.
pub fn account(source: Source<'_>) -> Account {
    let Source { plan, books, now, results, .. } = source;
    let mut traces = follow(source.story);
    if let Some(session) = traces.sessions.last_mut()
        && source.running
    {
        (session.end, session.ending) = (now.max(session.begun), Ending::Running);
    }
    let leases = || books.leases().filter(|(_, lease)| lease.state != LeaseState::Refused);
    let rented = leases().map(|(_, lease)| (lease.since, end(lease, now)));
    let axis = Axis::over(traces.sessions.iter().map(|s| (s.begun, s.end)).chain(rented));
    let unheard = Trace::default();
    let machine = |(label, lease): (&Label, &Lease)| {
        let trace = traces.machines.get(label).unwrap_or(&unheard);
        machine(label, lease, trace, &traces.sessions, &axis, now)
    };
    let mut machines: Vec<Machine> = leases().map(machine).collect();
    machines.sort_by(|a, b| (a.ordered, a.slot, &a.label).cmp(&(b.ordered, b.slot, &b.label)));
    let (step_seconds, steps) = steps(&axis);
    let by_step = |edge: usize| {
        let at =
            if edge == steps { Timestamp::MAX } else { axis.moment(edge as f64 * step_seconds) };
        Usd(leases().map(|(_, lease)| cost_by(lease, at, now).0).sum())
    };
    let paid = books.cost(now);
    let idle = machines.iter().flat_map(|machine| &machine.phases).filter(|phase| !is_work(phase));
    let tokens = results.tokens_in + results.tokens_out;
    let each = |paid: u64| u128::from(paid) * 1_000_000 / u128::from(tokens.max(1));
    let failed = results.failed;
    let complete = results.completed + failed == plan.prompts;
    let estimate = plan.estimate;
    Account {
        v: VERSION,
        run: plan.run.clone(),
        begun: plan.begun,
        state: match () {
            () if source.running => State::Running,
            () if complete => State::Complete,
            () => State::Stopped,
        },
        model: plan.job.model.name.clone(),
        engine: engine_of(&plan.job).to_owned(),
        prompts: Prompts {
            total: plan.prompts,
            done: results.completed,
            failed,
            left: plan.prompts.saturating_sub(results.completed + failed),
        },
        tokens: Tokens { inbound: results.tokens_in, outbound: results.tokens_out },
        seconds: axis.length(),
        predicted_seconds: estimate.map(|estimate| estimate.seconds),
        sessions: traces.sessions.iter().map(|session| on_axis(session, &axis)).collect(),
        seams: axis.seams(),
        money: Money {
            paid,
            not_working: Usd(idle.map(|phase| phase.micro_usd.0).sum()),
            per_million_tokens: (tokens != 0)
                .then(|| Usd(u64::try_from(each(paid.0)).unwrap_or(u64::MAX))),
            budget: plan.budget,
            predicted: estimate.map(|estimate| estimate.cost),
            at_most: plan.at_most,
            by_step: (0..=steps).map(by_step).collect(),
        },
        speed: total(&machines, steps),
        step_seconds,
        latency: latency(&traces.latency),
        phases_in_all: in_all(machines.iter().flat_map(|machine| &machine.phases)),
        refused_orders: (books.leases().count() - machines.len()) as u64,
        machines,
        failures: source.failures,
        elsewhere: source.quotes.into_iter().map(Elsewhere::from).collect(),
    }
}

fn machine(
    label: &Label,
    lease: &Lease,
    trace: &Trace,
    sessions: &[Session],
    axis: &Axis,
    now: Timestamp,
) -> Machine {
    let done = trace.readings.last().map(|(_, count)| *count).unwrap_or_default();
    let working = trace.marks.iter().find(|(_, phase)| *phase == "working");
    let begin = working.map_or(lease.since, |(at, _)| *at);
    let phases = phases(lease, trace, sessions, axis, now);
    Machine {
        slot: Stamp::read(label).map_or(0, |stamp| stamp.slot),
        label: label.clone(),
        id: lease.state.id().or(trace.id.as_ref()).cloned(),
        provider: lease.terms.provider.clone(),
        what: trace.what.clone(),
        price: lease.terms.price,
        ordered: lease.since,
        released: (!lease.state.is_owed()).then_some(lease.until),
        begins: axis.seconds(lease.since),
        seconds: clock::between(lease.since, end(lease, now)).as_secs_f64(),
        micro_usd: lease.cost(now),
        prompts: done.prompts,
        tokens: done.tokens(),
        phases_in_all: in_all(&phases),
        phases,
        speed: speed(axis, begin, &trace.readings),
        lost: trace.lost.clone(),
    }
}

fn on_axis(session: &Session, axis: &Axis) -> SessionAccount {
    SessionAccount {
        begun: session.begun,
        begins: axis.seconds(session.begun),
        seconds: clock::between(session.begun, session.end).as_secs_f64(),
        ending: session.ending,
    }
}

/// All machines together.
fn total(machines: &[Machine], steps: usize) -> Speed {
    let sum = |of: fn(&Speed) -> &Vec<f64>| {
        let at = |step| machines.iter().map(|machine| of(&machine.speed)[step]).sum::<f64>();
        (0..steps).map(|step| super::series::rounded(at(step))).collect()
    };
    Speed {
        prompts_per_second: sum(|speed| &speed.prompts_per_second),
        tokens_per_second: sum(|speed| &speed.tokens_per_second),
    }
}

fn latency(latency: &Latency) -> Option<LatencyAccount> {
    let seconds = |milliseconds: u64| milliseconds as f64 / 1e3;
    let quantile = |share| latency.quantile(share).map(seconds);
    let bucket =
        |(bound, count): (&u64, &u64)| Bucket { seconds: seconds(*bound), prompts: *count };
    Some(LatencyAccount {
        timed: latency.count(),
        p50: quantile(0.5)?,
        p90: quantile(0.9)?,
        p99: quantile(0.99)?,
        buckets: latency.0.iter().map(bucket).collect(),
    })
}

impl From<Quote> for Elsewhere {
    fn from(quote: Quote) -> Self {
        let Quote { price, likeness, cost } = quote;
        let batch = price.batch.is_some();
        let (service, model, date, source) = (price.service, price.model, price.date, price.source);
        Self { service, model, likeness, micro_usd: cost, batch, date, source }
    }
}
