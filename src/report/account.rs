//! The account of a run, for a terminal.

use super::{Cell, Column, Table, Tone, out, words, words::small};
use crate::{
    hosted::Likeness,
    story::{Account, Elsewhere, Machine, State},
};
use providers::Usd;

/// Reasons of failures that are shown.
const REASONS: usize = 8;

/// Machines that are shown; all are in the page and in the JSON.
const MACHINES: usize = 20;

/// Prints it.
pub fn account(account: &Account) {
    for line in head(account) {
        out(&line);
    }
    for (title, table) in tables(account) {
        out("");
        out(&title);
        table.print();
    }
}

/// What a state is called.
pub(super) const fn state(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Complete => "complete",
        State::Stopped => "stopped",
    }
}

/// What there is to say without a table.
fn head(account: &Account) -> Vec<String> {
    let Account { prompts, tokens, money, .. } = account;
    let mut lines = vec![format!(
        "run {}: {}, {}, {} engine, begun {}",
        account.run,
        state(account.state),
        account.model,
        account.engine,
        moment(account.begun)
    )];
    let mut line = |name: &str, text: String| lines.push(format!("{name:<10}{text}"));
    let some = |count: u64, word| (count != 0).then(|| format!(", {} {word}", words::count(count)));
    line(
        "prompts",
        format!(
            "{} of {} done{}{}",
            words::count(prompts.done),
            words::count(prompts.total),
            some(prompts.failed, "failed").unwrap_or_default(),
            some(prompts.left, "left").unwrap_or_default()
        ),
    );
    let (inbound, outbound) = (words::count(tokens.inbound), words::count(tokens.outbound));
    line("tokens", format!("{inbound} in, {outbound} out"));
    let sessions = match account.sessions.len() {
        0 | 1 => String::new(),
        several => format!(" in {several} sessions"),
    };
    let predicted = account.predicted_seconds.map(words::seconds);
    let predicted = predicted.map_or_else(String::new, |time| format!("; {time} predicted"));
    line("time", format!("{}{sessions}{predicted}", words::seconds(account.seconds)));
    line("paid", paid(account));
    if money.not_working != Usd(0) {
        line("", format!("{} of it while machines did not answer prompts", money.not_working));
    }
    if let Some(latency) = &account.latency {
        let [p50, p90, p99] = [latency.p50, latency.p90, latency.p99].map(words::seconds);
        let text = format!("half within {p50}, 90 % within {p90}, 99 % within {p99}");
        line("answers", format!("{text}, waiting on the machine included"));
    }
    lines
}

fn paid(account: &Account) -> String {
    let money = &account.money;
    let each = money.per_million_tokens.map(small);
    let each = each.map_or_else(String::new, |each| format!(", {each} for a million tokens"));
    let mut beside = Vec::new();
    beside.extend(money.predicted.map(|usd| format!("{usd} predicted")));
    beside.extend(money.budget.map(|usd| format!("{usd} budget")));
    beside.extend(money.at_most.map(|usd| format!("{usd} at most")));
    let beside = if beside.is_empty() { String::new() } else { format!("; {}", beside.join(", ")) };
    format!("{}{each}{beside}", money.paid)
}

fn tables(account: &Account) -> Vec<(String, Table)> {
    let mut tables = Vec::new();
    if !account.machines.is_empty() {
        let refused = match account.refused_orders {
            0 => String::new(),
            refused => format!(", {} refused", words::plural(refused, "order")),
        };
        let hidden = match account.machines.len().saturating_sub(MACHINES) {
            0 => String::new(),
            hidden => format!(", {hidden} more with --html or --json"),
        };
        tables.push((format!("machines{refused}{hidden}"), machines(&account.machines)));
    }
    match account.failures.as_deref() {
        None => tables.push(("failures: their file is gone".to_owned(), Table::new(&[]))),
        Some([]) => {}
        Some(reasons) => {
            let columns =
                [Column::numbers("prompts"), Column::words("fault"), Column::words("why")];
            let mut table = Table::with(columns);
            for reason in reasons.iter().take(REASONS) {
                let count = words::count(reason.prompts);
                table.row([count, reason.failure.replace('_', " "), reason.reason.clone()]);
            }
            tables.push(("failures".to_owned(), table));
        }
    }
    if !account.elsewhere.is_empty() {
        let title = "the same tokens elsewhere".to_owned();
        tables.push((title, elsewhere(&account.elsewhere, account.money.paid)));
    }
    tables
}

fn machines(machines: &[Machine]) -> Table {
    let mut table = Table::with([
        Column::numbers("machine"),
        Column::words("from"),
        Column::words("what").spare(2),
        Column::numbers("price"),
        Column::numbers("kept"),
        Column::numbers("working"),
        Column::numbers("prompts"),
        Column::numbers("tokens/s").spare(1),
        Column::numbers("paid"),
        Column::words("given up since").spare(3),
    ]);
    for machine in machines.iter().take(MACHINES) {
        let working = seconds_of_work(machine);
        let rate = if 0.0 < working { machine.tokens as f64 / working } else { 0.0 };
        table.row([
            machine.slot.to_string(),
            machine.provider.clone(),
            machine.what.clone(),
            machine.price.to_string(),
            words::seconds(machine.seconds),
            words::seconds(working),
            words::count(machine.prompts),
            words::rate(rate),
            machine.micro_usd.to_string(),
            machine.lost.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// Seconds in which a machine answered prompts.
pub(super) fn seconds_of_work(machine: &Machine) -> f64 {
    let work = machine.phases.iter().filter(|phase| phase.phase == "working");
    work.map(|phase| phase.seconds).fold(0.0, |sum, seconds| sum + seconds)
}

fn elsewhere(quotes: &[Elsewhere], paid: Usd) -> Table {
    let mut table = Table::with([
        Column::numbers("cost"),
        Column::words("service"),
        Column::words("model"),
        Column::words("it is"),
        Column::words("price of"),
    ]);
    for quote in quotes {
        let tone = if quote.micro_usd < paid { Tone::Careful } else { Tone::Plain };
        let batch = if quote.batch { " in batch mode" } else { "" };
        table.row([
            Cell::new(small(quote.micro_usd), tone),
            quote.service.clone().into(),
            format!("{}{batch}", quote.model).into(),
            likeness(quote.likeness).to_owned().into(),
            quote.date.clone().into(),
        ]);
    }
    table
}

/// How a model elsewhere compares.
pub(super) const fn likeness(likeness: Likeness) -> &'static str {
    match likeness {
        Likeness::Same => "the same",
        Likeness::Alike => "of its size",
        Likeness::Closed => "closed",
    }
}

/// A moment, to the minute.
pub(super) fn moment(at: jiff::Timestamp) -> String {
    let text = at.to_string();
    format!("{} {} UTC", &text[..10], &text[11..16])
}
