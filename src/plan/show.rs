//! Plans as text, at most 100 columns wide, and as JSON.

use super::{LONGEST, Part, Plan, Plans};
use crate::{
    choose::{Candidate, Reason},
    cost::Basis,
    hosted::{Likeness, Quote},
    lengths::Lengths,
    model::Weights,
    need::Workload,
    report::words,
};
use providers::{Rental, Usd, UsdPerHour};
use serde_json::{Value, json};
use std::{fmt, time::Duration};

/// Quotes of one kind that are shown, at most.
const QUOTES: usize = 2;

impl fmt::Display for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        head(f, &self.model, &self.engine, &self.work, self.lengths.as_ref())?;
        writeln!(
            f,
            "  {:>7} {:>7} {:<31} {:<9} {:<5} {:>5} {:>7} {:>6} {:>7} {:>4}",
            "cost",
            "if slow",
            "machines",
            "from",
            "as",
            "batch",
            "rate/s",
            "time",
            "$/Mtok",
            "roof",
        )?;
        for (plan, number) in self.plans.iter().zip(1..) {
            self.row(f, number, plan)?;
        }
        writeln!(f)?;
        self.notes(f)
    }
}

/// What is to be done, and an empty line.
pub(super) fn head(
    f: &mut fmt::Formatter<'_>,
    model: &str,
    engine: &str,
    work: &Workload,
    lengths: Option<&Lengths>,
) -> fmt::Result {
    writeln!(
        f,
        "{model} on {engine}: {} of {} + {} tokens, {} tokens in all",
        words::plural(work.prompts, "prompt"),
        length(work.input),
        length(work.output),
        tokens(work.tokens()),
    )?;
    if let Some(lengths) = lengths {
        write!(f, "{lengths}")?;
    }
    writeln!(f)
}

/// What hosted APIs would charge, the cheapest of each kind.
pub(super) fn hosted(f: &mut fmt::Formatter<'_>, quotes: &[Quote]) -> fmt::Result {
    for likeness in [Likeness::Same, Likeness::Alike, Likeness::Closed] {
        let alike = quotes.iter().filter(|quote| quote.likeness == likeness);
        for quote in alike.take(QUOTES) {
            writeln!(f, "hosted: {}", in_words(quote))?;
        }
    }
    Ok(())
}

impl Plans {
    fn row(&self, f: &mut fmt::Formatter<'_>, number: u32, plan: &Plan) -> fmt::Result {
        let per_million = plan.cost.0 as f64 / self.work.tokens().max(1.0);
        for (at, alike) in plan.kinds().iter().enumerate() {
            let candidate = &alike[0].candidate;
            let rate = alike.iter().map(|part| part.candidate.rate.prompts * f64::from(part.count));
            let (left, right) = if at == 0 {
                let left = format!("{number} {:>7} {:>7}", money(plan.cost), money(plan.worst));
                (left, format!("{:>6} {per_million:>7.4}", time(plan.time)))
            } else {
                (format!("{:17}", ""), format!("{:14}", ""))
            };
            writeln!(
                f,
                "{left} {:<31} {:<9.9} {:<5} {:>5} {:>7} {right} {:>3.0}%",
                machines(alike),
                candidate.listed.market,
                candidate.fit.weights,
                candidate.fit.batch,
                format!("{}{}", mark(candidate.rate.basis), significant(rate.sum())),
                candidate.rate.roofline * 100.0,
            )?;
        }
        if 1 < plan.parts.len() {
            writeln!(
                f,
                "{:17} {} machines, {} together",
                "",
                plan.machines(),
                hour(plan.hourly())
            )?;
        }
        Ok(())
    }

    fn notes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = || self.plans.iter().flat_map(|plan| &plan.parts);
        for (basis, meaning) in [
            (Basis::Nearby, "modelled, and corrected by a run of ours with another model"),
            (Basis::Modelled, "modelled"),
            (Basis::Guessed, "guessed, for a GPU that isn't known"),
        ] {
            let errors = parts().map(|part| part.candidate.rate);
            let error = errors.filter(|rate| rate.basis == basis).map(|rate| rate.error);
            if let Some(error) = error.reduce(f64::max) {
                let mark = mark(basis);
                writeln!(
                    f,
                    "{mark} {meaning}: a factor of {error} either way, which `if slow` reckons with"
                )?;
            }
        }
        if self.goal.budget.is_none() {
            writeln!(
                f,
                "what a run may cost at most it says before it rents; with `--budget` that is the most"
            )?;
        }
        if parts().any(|part| is_interruptible(&part.candidate)) {
            writeln!(f, "* can be taken back; one such hour in ten is expected to be")?;
        }
        let is_narrow =
            |part: &Part| matches!(part.candidate.fit.weights, Weights::Int4 | Weights::Fp4);
        if parts().any(is_narrow) {
            writeln!(
                f,
                "INT4 and FP4 need the model to be published like that, and answer a little worse"
            )?;
        }
        if self.goal.deadline.is_none() && self.plans.iter().any(|plan| LONGEST < plan.time) {
            writeln!(
                f,
                "a run without `--deadline` stops after a week at the latest; `resume` goes on with it"
            )?;
        }
        hosted(f, &self.hosted)?;
        if let Some(verdict) = self.verdict() {
            writeln!(f, "{verdict}")?;
        }
        if !self.rejected.is_empty() {
            let offers = words::plural(self.rejected.len() as u64, "offer");
            writeln!(f, "{offers} can't do it: {}; `--explain` lists them", self.reasons())?;
        }
        Ok(())
    }

    /// Whether to rent at all, if anybody sells the same model or its like.
    pub fn verdict(&self) -> Option<String> {
        let open = self.hosted.iter().filter(|quote| quote.likeness != Likeness::Closed);
        let cheapest = open.min_by_key(|quote| quote.cost)?;
        let rented = self.plans.first()?.cost;
        let Quote { price, likeness, cost } = cheapest;
        let what = if *likeness == Likeness::Same { "it" } else { "one like it" };
        Some(if *cost < rented {
            format!(
                "{} sells {what} for {}: don't rent, unless the prompts are private or the weights \
                 your own",
                price.service,
                money(*cost)
            )
        } else {
            let share = 100.0 * (1.0 - rented.0 as f64 / cost.0.max(1) as f64);
            format!("renting costs {share:.0}% less than the cheapest who sells {what}")
        })
    }

    /// Why offers were rejected, and how many for each reason.
    fn reasons(&self) -> String {
        let mut counts: Vec<(&str, u64)> = Vec::new();
        for rejected in &self.rejected {
            let kind = match rejected.reason {
                Reason::TooDear(_) => "too dear",
                Reason::Interruptible => "interruptible",
                Reason::NoGpu => "without a GPU",
                Reason::OldGpu => "with a GPU that won't do",
                Reason::OldDriver { .. } => "with an old driver",
                Reason::Disk { .. } => "short of disk",
                Reason::Unfit(_) => "too small",
            };
            match counts.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, count)) => *count += 1,
                None => counts.push((kind, 1)),
            }
        }
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let each = |(kind, count): &(&str, u64)| format!("{} {kind}", words::count(*count));
        counts.iter().map(each).collect::<Vec<_>>().join(", ")
    }

    /// Every rejected offer with its reason, one a line.
    pub fn explain(&self) -> String {
        self.rejected
            .iter()
            .fold(String::new(), |text, rejected| text + &rejected.to_string() + "\n")
    }

    /// All of it, for programs. Money in millionths of a dollar, times in seconds.
    pub fn to_json(&self) -> Value {
        let part = |part: &Part| {
            let Candidate { listed, gpu, gpus, fit, rate, startup, .. } = &part.candidate;
            json!({
                "market": listed.market,
                "offer": listed.offer,
                "count": part.count,
                "gpu": gpu.as_ref().map(|gpu| &gpu.name),
                "gpus": gpus,
                "weights": fit.weights,
                "split": fit.split,
                "copies": fit.copies,
                "batch": fit.batch,
                "prompts_per_second": rate.prompts,
                "basis": rate.basis,
                "error_factor": rate.error,
                "share_of_roofline": rate.roofline,
                "startup_seconds": startup.total().as_secs_f64(),
            })
        };
        let plan = |plan: &Plan| {
            json!({
                "cost": plan.cost,
                "worst": plan.worst,
                "seconds": plan.time.as_secs_f64(),
                "machines": plan.parts.iter().map(part).collect::<Vec<_>>(),
            })
        };
        let rejected = self.rejected.iter().map(|rejected| {
            json!({
                "market": rejected.listed.market,
                "offer": rejected.listed.offer,
                "reason": rejected.reason.to_string(),
            })
        });
        json!({
            "model": self.model,
            "engine": self.engine,
            "prompts": self.work.prompts,
            "input_tokens": self.work.input,
            "output_tokens": self.work.output,
            "lengths": self.lengths,
            "rank": self.goal.rank,
            "plans": self.plans.iter().map(plan).collect::<Vec<_>>(),
            "candidates": self.candidates,
            "rejected": rejected.collect::<Vec<_>>(),
            "hosted": self.hosted,
            "verdict": self.verdict(),
        })
    }
}

fn is_interruptible(candidate: &Candidate) -> bool {
    matches!(candidate.listed.offer.rental, Rental::Interruptible { .. })
}

/// `3 × RTX 4090 at $0.34/h`, `2 × 4×RTX 4090 at ≤$1.36/h*`.
fn machines(alike: &[&Part]) -> String {
    let Candidate { listed, gpu, gpus, .. } = &alike[0].candidate;
    let name = gpu.as_ref().map_or("no GPU", |gpu| gpu.name.as_str());
    let several = if *gpus == 1 { String::new() } else { format!("{gpus}×") };
    let star = if is_interruptible(&alike[0].candidate) { "*" } else { "" };
    let prices = || alike.iter().map(|part| part.candidate.listed.offer.price);
    let most = prices().max().unwrap_or(listed.offer.price);
    let up_to = if prices().all(|price| price == most) { "" } else { "≤" };
    let price = format!(" at {up_to}{}{star}", hour(most));
    let count: u32 = alike.iter().map(|part| part.count).sum();
    let mut text = format!("{count} × {several}{name}");
    // A long name gives way to the price.
    while 31 < text.chars().count() + price.chars().count() {
        text.pop();
    }
    text + &price
}

fn in_words(quote: &Quote) -> String {
    let Quote { price, cost, .. } = quote;
    let batch = if price.batch.is_some() { ", in batch mode" } else { "" };
    let note = price.note.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
    let text = format!(
        "{} for {} of {}{batch} ({}{note})",
        money(*cost),
        price.model,
        price.service,
        price.date
    );
    match text.char_indices().nth(91) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn mark(basis: Basis) -> &'static str {
    match basis {
        Basis::Measured => "",
        Basis::Nearby => "≈",
        Basis::Modelled => "~",
        Basis::Guessed => "?",
    }
}

/// `$61.20`, `$1,033`. Rounded up, as an amount is never shown smaller than it is.
fn money(amount: Usd) -> String {
    if amount.0 < 100_000_000 {
        return amount.to_string();
    }
    format!("${}", words::count(amount.0.div_ceil(1_000_000)))
}

/// `$0.34/h`, `$0.345/h`.
pub(super) fn hour(price: UsdPerHour) -> String {
    let text = price.to_string();
    let number = text.trim_end_matches("/h");
    let point = number.find('.').map_or(number.len(), |at| at + 3);
    let (kept, rest) = number.split_at(point.min(number.len()));
    format!("{kept}{}/h", rest.trim_end_matches('0'))
}

/// `35 min`, `6.2 h`, `69 h`, `31 d`.
pub(super) fn time(time: Duration) -> String {
    let minutes = time.as_secs_f64() / 60.0;
    match minutes {
        short if short < 99.5 => format!("{short:.0} min"),
        hours if hours < 597.0 => format!("{:.1} h", hours / 60.0),
        days if days < 14_370.0 => format!("{:.0} h", days / 60.0),
        long => format!("{:.0} d", long / 1440.0),
    }
}

/// `4.8 billion`, `120 million`, `12,000`.
fn tokens(tokens: f64) -> String {
    match tokens {
        few if few < 1e6 => words::count(crate::model::whole(few)),
        some if some < 1e9 => format!("{} million", significant(some / 1e6)),
        many => format!("{} billion", significant(many / 1e9)),
    }
}

/// Three digits that count.
fn significant(number: f64) -> String {
    match number {
        small if small < 0.995 => format!("{small:.2}"),
        small if small < 99.95 => format!("{small:.1}"),
        large => format!("{large:.0}"),
    }
}

fn length(tokens: f64) -> String {
    words::count(crate::model::whole(tokens))
}
