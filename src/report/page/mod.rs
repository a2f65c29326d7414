//! The account of a run as one page that needs nothing else.
//!
//! Each number on it says where `--json` has it, so that they can be compared.

mod chart;

use super::{
    account::{likeness, moment, state},
    words::{self, small},
};
use crate::{
    clock,
    story::{Account, Machine, PhaseTotal},
};
use chart::{Chart, Key, Lines, Scale, bars, short, speed, spent};
use minijinja::{Environment, value::Serde};
use providers::Usd;
use serde::Serialize;

/// Reasons of failures that are shown.
const REASONS: usize = 50;

/// Pieces of a machine's life that are drawn one by one; of more, what took the most of each of as
/// many columns.
const PIECES: usize = 200;

/// Entries of a latency that are drawn.
const BUCKETS: usize = 32;

/// What the template puts in.
#[derive(Debug, Serialize)]
struct Page<'a> {
    version: &'static str,
    style: &'static str,
    script: &'static str,
    run: String,
    state: &'static str,
    model: &'a str,
    engine: &'a str,
    begun: String,
    now: String,
    sessions: String,
    tiles: Vec<Tile>,
    speed: Option<[Chart; 2]>,
    spent: Option<Chart>,
    refused: String,
    phases: Vec<PhaseFacts>,
    machines: Vec<MachineFacts>,
    latency: Option<LatencyFacts>,
    failures: Vec<FailureFacts>,
    batch: bool,
    elsewhere: Vec<ElsewhereFacts>,
}

/// A number, and where the account has it.
#[derive(Clone, Debug, Serialize)]
struct Fact {
    at: String,
    kind: &'static str,
    value: String,
    text: String,
}

/// A number with others below it.
#[derive(Debug, Serialize)]
struct Tile {
    name: &'static str,
    fact: Fact,
    beside: Vec<Beside>,
}

#[derive(Debug, Serialize)]
struct Beside {
    before: &'static str,
    fact: Fact,
    after: String,
}

fn money(at: &str, usd: Usd) -> Fact {
    Fact { at: at.into(), kind: "usd", value: usd.0.to_string(), text: small(usd) }
}

fn count(at: &str, number: u64) -> Fact {
    Fact { at: at.into(), kind: "count", value: number.to_string(), text: words::count(number) }
}

fn seconds(at: &str, seconds: f64) -> Fact {
    let text = words::seconds(seconds);
    Fact { at: at.into(), kind: "seconds", value: seconds.to_string(), text }
}

fn beside(before: &'static str, fact: Fact, after: impl Into<String>) -> Beside {
    Beside { before, fact, after: after.into() }
}

/// Makes the page.
pub fn page(account: &Account) -> String {
    let mut environment = Environment::new();
    let template = include_str!("../../../templates/report.html");
    // Its name says that what is put in is escaped.
    environment.add_template("report.html", template).expect("a test renders it");
    let template = environment.get_template("report.html").expect("it was just added");
    let scale = Scale {
        seconds: account.seconds,
        step: account.step_seconds,
        seams: account.seams.clone(),
    };
    let sessions = match account.sessions.len() {
        0 | 1 => String::new(),
        several => format!("{several} sessions"),
    };
    let refused = match account.refused_orders {
        0 => String::new(),
        refused => format!("and {} that were refused", words::plural(refused, "order")),
    };
    let some_speed = !account.machines.is_empty();
    let machines = account.machines.iter().enumerate();
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        style: include_str!("../../../templates/report.css"),
        script: include_str!("../../../templates/report.js"),
        run: account.run.to_string(),
        state: state(account.state),
        model: &account.model,
        engine: &account.engine,
        begun: moment(account.begun),
        now: moment(clock::now()),
        sessions,
        tiles: tiles(account),
        speed: some_speed.then(|| speeds(&scale, "", &account.speed)),
        spent: some_speed.then(|| paid(&scale, account)),
        refused,
        phases: phases("", &account.phases_in_all),
        machines: machines.map(|(at, machine)| one(&scale, at, machine)).collect(),
        latency: latency(account),
        failures: failures(account),
        batch: account.elsewhere.iter().any(|quote| quote.batch),
        elsewhere: elsewhere(account),
    };
    template.render(Serde(page)).expect("a test renders it")
}

fn tiles(account: &Account) -> Vec<Tile> {
    let Account { prompts, tokens, money: paid, .. } = account;
    let total = words::count(prompts.total);
    let mut prompts_beside = vec![beside("of ", count("/prompts/total", prompts.total), "")];
    if prompts.failed != 0 {
        prompts_beside.push(beside("", count("/prompts/failed", prompts.failed), " failed"));
    }
    if prompts.left != 0 {
        let after = format!(" of {total} are left");
        prompts_beside.push(beside("", count("/prompts/left", prompts.left), after));
    }
    let mut time = Vec::new();
    if let Some(predicted) = account.predicted_seconds {
        time.push(beside("", seconds("/predicted_seconds", predicted), " predicted"));
    }
    let mut cost = Vec::new();
    // The most that a run costs is its budget, where that is less.
    let at_most = paid.at_most.filter(|usd| Some(*usd) != paid.budget);
    for (usd, at, after) in [
        (paid.per_million_tokens, "/money/per_million_tokens", " for a million tokens"),
        (paid.predicted, "/money/predicted", " predicted"),
        (paid.budget, "/money/budget", " budget"),
        (at_most, "/money/at_most", " at most"),
    ] {
        cost.extend(usd.map(|usd| beside("", money(at, usd), after)));
    }
    if paid.not_working != Usd(0) {
        let fact = money("/money/not_working", paid.not_working);
        cost.push(beside("", fact, " while not working"));
    }
    vec![
        Tile {
            name: "Prompts done",
            fact: count("/prompts/done", prompts.done),
            beside: prompts_beside,
        },
        Tile {
            name: "Tokens out",
            fact: count("/tokens/out", tokens.outbound),
            beside: vec![beside("", count("/tokens/in", tokens.inbound), " in")],
        },
        Tile { name: "Time", fact: seconds("/seconds", account.seconds), beside: time },
        Tile { name: "Paid", fact: money("/money/paid", paid.paid), beside: cost },
    ]
}

fn speeds(scale: &Scale, of: &str, rates: &crate::story::Speed) -> [Chart; 2] {
    let at = |name: &str| format!("{of}/speed/{name}");
    let prompts = &rates.prompts_per_second;
    let tokens = &rates.tokens_per_second;
    [
        speed(scale, "Prompts a second", "prompts/s", at("prompts_per_second"), prompts),
        speed(scale, "Tokens a second, in and out", "tokens/s", at("tokens_per_second"), tokens),
    ]
}

fn paid(scale: &Scale, account: &Account) -> Chart {
    let money = &account.money;
    let predicted = account.predicted_seconds.zip(money.predicted);
    let lines = Lines { predicted, budget: money.budget };
    let mut chart = spent(scale, "/money/by_step".to_owned(), &money.by_step, lines);
    let key = |class, name: String| Key { class, name };
    chart.legend.push(key("paid", format!("paid {}", small(money.paid))));
    if let Some((time, usd)) = predicted {
        let name = format!("predicted {} in {}", small(usd), words::seconds(time));
        chart.legend.push(key("predicted", name));
    }
    chart.legend.extend(money.budget.map(|usd| key("budget", format!("budget {usd}"))));
    "Over time".clone_into(&mut chart.title);
    chart
}

#[derive(Debug, Serialize)]
struct PhaseFacts {
    phase: &'static str,
    name: &'static str,
    seconds: Fact,
    cost: Fact,
}

fn phases(of: &str, totals: &[PhaseTotal]) -> Vec<PhaseFacts> {
    let facts = |(at, total): (usize, &PhaseTotal)| PhaseFacts {
        phase: total.phase,
        name: name(total.phase),
        seconds: seconds(&format!("{of}/phases_in_all/{at}/seconds"), total.seconds),
        cost: money(&format!("{of}/phases_in_all/{at}/micro_usd"), total.micro_usd),
    };
    totals.iter().enumerate().map(facts).collect()
}

/// What a phase is called.
fn name(phase: &'static str) -> &'static str {
    match phase {
        "uploading" => "getting the worker",
        "fetching" => "getting the model",
        "loading" => "loading the model",
        "reconnecting" => "connecting again",
        "releasing" => "being given back",
        other => other,
    }
}

#[derive(Debug, Serialize)]
struct MachineFacts {
    slot: String,
    what: String,
    provider: String,
    price: String,
    kept: Fact,
    cost: Fact,
    prompts: Fact,
    bar: Vec<Piece>,
    prompts_chart: Chart,
    tokens_chart: Chart,
    phases: Vec<PhaseFacts>,
    lost: Option<String>,
}

fn one(scale: &Scale, at: usize, machine: &Machine) -> MachineFacts {
    let of = format!("/machines/{at}");
    let [prompts_chart, tokens_chart] = speeds(scale, &of, &machine.speed);
    MachineFacts {
        slot: format!("Machine {}", machine.slot),
        what: machine.what.clone(),
        provider: machine.provider.clone(),
        price: machine.price.to_string(),
        kept: seconds(&format!("{of}/seconds"), machine.seconds),
        cost: money(&format!("{of}/micro_usd"), machine.micro_usd),
        prompts: count(&format!("{of}/prompts"), machine.prompts),
        bar: bar(scale, machine),
        prompts_chart,
        tokens_chart,
        phases: phases(&of, &machine.phases_in_all),
        lost: machine.lost.clone(),
    }
}

/// A piece of a machine's life, in hundredths of the run's time.
#[derive(Debug, Serialize)]
struct Piece {
    phase: &'static str,
    at: String,
    width: String,
    title: String,
}

fn bar(scale: &Scale, machine: &Machine) -> Vec<Piece> {
    let whole = scale.seconds.max(f64::MIN_POSITIVE);
    let all = machine.phases.iter();
    let mut pieces: Vec<(&'static str, f64, f64)> =
        all.map(|phase| (phase.phase, phase.begins, phase.seconds)).collect();
    if PIECES < pieces.len() {
        pieces = columns(machine, whole / PIECES as f64);
    }
    let piece = |(phase, begins, length): (&'static str, f64, f64)| Piece {
        phase,
        at: format!("{:.3}", begins / whole * 100.0),
        width: format!("{:.3}", length / whole * 100.0),
        title: format!("{}: {}", name(phase), words::seconds(length)),
    };
    pieces.into_iter().map(piece).collect()
}

/// What took the most of each column of so many seconds, neighbours together.
fn columns(machine: &Machine, width: f64) -> Vec<(&'static str, f64, f64)> {
    let mut pieces: Vec<(&'static str, f64, f64)> = Vec::new();
    for column in 0..=PIECES {
        let (begin, end) = (column as f64 * width, (column + 1) as f64 * width);
        let within = |phase: &&crate::story::Phase| {
            (phase.begins + phase.seconds).min(end) - phase.begins.max(begin)
        };
        let most = machine.phases.iter().max_by(|a, b| within(a).total_cmp(&within(b)));
        let Some(phase) = most.filter(|phase| 0.0 < within(phase)) else { continue };
        match pieces.last_mut() {
            Some((last, _, length)) if *last == phase.phase => *length += width,
            Some(_) | None => pieces.push((phase.phase, begin, width)),
        }
    }
    pieces
}

#[derive(Debug, Serialize)]
struct LatencyFacts {
    timed: Fact,
    tiles: Vec<Tile>,
    chart: Chart,
}

fn latency(account: &Account) -> Option<LatencyFacts> {
    let latency = account.latency.as_ref()?;
    let tile = |name, at, value| Tile { name, fact: seconds(at, value), beside: Vec::new() };
    let tiles = vec![
        tile("Half within", "/latency/p50", latency.p50),
        tile("90 % within", "/latency/p90", latency.p90),
        tile("99 % within", "/latency/p99", latency.p99),
    ];
    let together = latency.buckets.len().div_ceil(BUCKETS).max(1);
    let bucket = |some: &[crate::story::Bucket]| {
        let end = some.last().map_or(0.0, |bucket| bucket.seconds);
        let prompts = some.iter().map(|bucket| bucket.prompts).sum();
        (format!("≤ {}", brief(end)), prompts)
    };
    let counts: Vec<(String, u64)> = latency.buckets.chunks(together).map(bucket).collect();
    let at = if together == 1 { "/latency/buckets" } else { "" };
    let chart = bars("Prompts by time", at.to_owned(), &counts);
    Some(LatencyFacts { timed: count("/latency/timed", latency.timed), tiles, chart })
}

/// A time in few letters.
fn brief(seconds: f64) -> String {
    match seconds {
        less if less < 1.0 => format!("{} ms", short(less * 1e3)),
        some if some < 60.0 => format!("{} s", short(some)),
        more => words::seconds(more),
    }
}

#[derive(Debug, Serialize)]
struct FailureFacts {
    prompts: Fact,
    fault: String,
    why: String,
}

fn failures(account: &Account) -> Vec<FailureFacts> {
    let Some(reasons) = &account.failures else {
        let prompts = count("/prompts/failed", account.prompts.failed);
        let why = "the errors file is not where the run had put it".to_owned();
        return vec![FailureFacts { prompts, fault: "not known".to_owned(), why }];
    };
    let facts = |(at, reason): (usize, &crate::shards::Reason)| FailureFacts {
        prompts: count(&format!("/failures/{at}/prompts"), reason.prompts),
        fault: reason.failure.replace('_', " "),
        why: reason.reason.clone(),
    };
    reasons.iter().enumerate().take(REASONS).map(facts).collect()
}

#[derive(Debug, Serialize)]
struct ElsewhereFacts {
    cost: Fact,
    ratio: String,
    service: String,
    model: String,
    likeness: &'static str,
    date: String,
    source: String,
}

fn elsewhere(account: &Account) -> Vec<ElsewhereFacts> {
    let paid = account.money.paid.0;
    let facts = |(at, quote): (usize, &crate::story::Elsewhere)| ElsewhereFacts {
        cost: money(&format!("/elsewhere/{at}/micro_usd"), quote.micro_usd),
        ratio: match paid {
            0 => String::new(),
            paid => format!("{} ×", words::rate(quote.micro_usd.0 as f64 / paid as f64)),
        },
        service: quote.service.clone(),
        model: format!("{}{}", quote.model, if quote.batch { ", in batch mode" } else { "" }),
        likeness: likeness(quote.likeness),
        date: quote.date.clone(),
        source: quote.source.clone(),
    };
    account.elsewhere.iter().enumerate().map(facts).collect()
}
