//! Why there is no plan, and what would make one possible. Pure.

use super::{
    duration,
    search::{self, Choice, Goal, Rank, Solution, search},
    show,
};
use crate::{
    choose::{Job, Listed, Reason, Rejected, choose},
    cost::{Share, cost, finish},
    engines::Engine,
    model::Weights,
    need::{Unfit, Workload, least},
};
use providers::{Mib, Usd};
use std::time::Duration;

/// Why there is no plan. Each says what would make one possible.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// No offer can do the job.
    #[error("no offer fits `{model}`: {why}")]
    NoOffer {
        /// The model.
        model: String,
        /// What is missing.
        why: String,
        /// What would help.
        hint: Option<String>,
    },
    /// The job can't be done in time.
    #[error("no plan ends within {}: the soonest takes {}, on {machines} machines, for {cost}", show::time(*wanted), show::time(*soonest))]
    TooLate {
        /// The deadline.
        wanted: Duration,
        /// The shortest time that can be had.
        soonest: Duration,
        /// On how many machines.
        machines: u32,
        /// At what cost.
        cost: Usd,
        /// Where it was said how many machines to take: as many as would do.
        enough: Option<u32>,
    },
    /// The job costs more than the budget.
    #[error("no plan costs {budget} or less: the cheapest costs {cheapest} and takes {}", show::time(*time))]
    TooDear {
        /// The budget.
        budget: Usd,
        /// The least that it costs.
        cheapest: Usd,
        /// How long that takes.
        time: Duration,
        /// Where there is a deadline: how long a plan takes that the budget pays for.
        later: Option<Duration>,
    },
    /// No offer has as many machines.
    #[error("there are not {machines} machines that fit at the moment, but {available}")]
    TooFew {
        /// As many as were wanted.
        machines: u32,
        /// As many as there are.
        available: u32,
    },
}

impl PlanError {
    /// What would make a plan possible, to follow the error.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoOffer { hint, .. } => hint.clone(),
            Self::TooLate { soonest, enough, .. } => {
                let more = enough.map(|machines| format!(", or take `--machines {machines}`"));
                Some(format!("give it {}{}", deadline(*soonest), more.unwrap_or_default()))
            }
            Self::TooDear { cheapest, later, .. } => {
                let dollars = cheapest.0.div_ceil(1_000_000);
                let more = later.map(|time| format!("more time ({}), ", deadline(time)));
                let more = more.unwrap_or_default();
                Some(format!(
                    "give it `--budget {dollars}`, {more}fewer prompts, or shorter answers"
                ))
            }
            Self::TooFew { available, .. } => Some(format!("take `--machines {available}`")),
        }
    }
}

/// Which of the things to keep to can't be kept to.
pub(super) fn unkept(choices: &[Choice], work: &Workload, goal: &Goal) -> PlanError {
    let free = Goal { deadline: None, budget: None, ..*goal };
    let best = |goal: &Goal| search(choices, work, goal).into_iter().next();
    if let Some(machines) = goal.machines
        && search(choices, work, &free).is_empty()
    {
        let available = choices.iter().map(|(_, available)| *available).sum::<u32>();
        return PlanError::TooFew { machines, available: available.min(search::MOST) };
    }
    let cheapest = best(&Goal { rank: Rank::Job, budget: None, ..*goal });
    if let (Some(budget), Some(cheapest)) = (goal.budget, cheapest) {
        let (time, cheapest) = (duration(cheapest.seconds), cheapest.cost);
        let later = goal.deadline.and_then(|_| best(&Goal { deadline: None, ..*goal }));
        let later = later.map(|later| duration(later.seconds));
        return PlanError::TooDear { budget, cheapest, time, later };
    }
    let enough = goal.machines.and_then(|_| {
        let solutions = search(choices, work, &Goal { machines: None, ..*goal });
        solutions.iter().map(machines).min()
    });
    // A budget without a bound lets it take as many machines as there are.
    let soonest = Goal { rank: Rank::Time, budget: Some(Usd(u64::MAX)), deadline: None, ..*goal };
    let by_kind = best(&soonest);
    let all: Vec<Share> = choices
        .iter()
        .flat_map(|(share, available)| std::iter::repeat_n(*share, *available as usize))
        .take(search::MOST as usize)
        .collect();
    let together = finish(&all, work.prompts);
    let wanted = duration(goal.deadline.unwrap_or_default());
    match by_kind {
        Some(best) if goal.machines.is_some() || best.seconds <= together => PlanError::TooLate {
            wanted,
            soonest: duration(best.seconds),
            machines: machines(&best),
            cost: best.cost,
            enough,
        },
        _ => PlanError::TooLate {
            wanted,
            soonest: duration(together),
            machines: u32::try_from(all.len()).unwrap_or(search::MOST),
            cost: cost(&all, work),
            enough,
        },
    }
}

fn machines(solution: &Solution) -> u32 {
    solution.picks.iter().map(|pick| pick.count).sum()
}

/// A deadline that a time keeps, as it is typed.
fn deadline(time: Duration) -> String {
    match time.as_secs() {
        short if short < 2 * 3600 => format!("`--deadline {}m`", short.div_ceil(60)),
        long => format!("`--deadline {}h`", long.div_ceil(3600)),
    }
}

/// What no offer has, and what would help.
pub(super) fn no_offer(job: &Job<'_>, rejected: Vec<Rejected>) -> PlanError {
    let model = job.model.to_owned();
    let why = what_is_missing(&rejected);
    let missing = rejected.iter().find_map(|rejected| match rejected.reason {
        Reason::Unfit(unfit) => Some(unfit),
        Reason::TooDear(_)
        | Reason::Interruptible
        | Reason::NoGpu
        | Reason::OldGpu
        | Reason::OldDriver { .. }
        | Reason::Disk { .. } => None,
    });
    let offers: Vec<_> = rejected.into_iter().map(|rejected| rejected.listed).collect();
    let cheapest = |job: &Job<'_>| {
        let (candidates, _) = choose(job, offers.clone());
        candidates.into_iter().min_by_key(|candidate| candidate.listed.offer.price)
    };
    let mut remedies = Vec::new();
    if let Some(found) = cheapest(&Job { ceiling: None, ..job.clone() }) {
        let dollars = found.listed.offer.price.0.div_ceil(10_000);
        remedies.push(format!("raise `--max-price` to {}.{:02}", dollars / 100, dollars % 100));
    }
    if let Some(found) = cheapest(&Job { allowed: &Weights::ALL, ..job.clone() }) {
        let weights = found.fit.weights.to_string().to_lowercase();
        remedies.push(format!("keep the weights in fewer bits with `--weights {weights}`"));
    }
    if !job.interruptible && cheapest(&Job { interruptible: true, ..job.clone() }).is_some() {
        remedies.push("take machines that can be taken back, with `--interruptible`".to_owned());
    }
    if remedies.is_empty() {
        remedies.extend(what_would_do(job, missing, &offers));
    }
    let hint = (!remedies.is_empty()).then(|| remedies.join(", or "));
    PlanError::NoOffer { model, why, hint }
}

/// What would do the job that none of these offers is.
fn what_would_do(job: &Job<'_>, missing: Option<Unfit>, offers: &[Listed]) -> Option<String> {
    match missing {
        Some(Unfit::TooSmall { .. }) => {
            let engine = Engine::named(job.engine, false)?;
            let (count, each) = least(job.shape, engine, job.allowed, &job.work)?;
            let gib = each.0.div_ceil(1024);
            let gpus = if count == 1 { "1 GPU".to_owned() } else { format!("{count} GPUs") };
            Some(format!(
                "take {gpus} of {gib} GiB or more (`piecework offers --count {count} --vram {gib}`), \
                 or a smaller model"
            ))
        }
        Some(Unfit::TooLong { .. }) => Some(
            "shorten the prompts or the answers, or take a model with a longer context".to_owned(),
        ),
        None if offers.iter().all(|listed| listed.offer.gpus.is_none()) => {
            Some("ask more marketplaces, with `--provider all`, or again later".to_owned())
        }
        Some(Unfit::NoPrecision) | None => None,
    }
}

/// What keeps the most promising offers from fitting.
fn what_is_missing(rejected: &[Rejected]) -> String {
    let mut small: Option<(Mib, Mib)> = None;
    for rejected in rejected {
        match rejected.reason {
            Reason::Unfit(Unfit::TooSmall { needed, available }) => {
                let (least, most) = small.unwrap_or((needed, available));
                small = Some((least.min(needed), most.max(available)));
            }
            Reason::Unfit(reason) => return reason.to_string(),
            Reason::TooDear(_)
            | Reason::Interruptible
            | Reason::NoGpu
            | Reason::OldGpu
            | Reason::OldDriver { .. }
            | Reason::Disk { .. } => {}
        }
    }
    match (small, rejected) {
        (Some((needed, most)), _) => {
            format!("{needed} of memory wanted, {most} is the most there is")
        }
        (None, [first, ..]) if first.reason == Reason::NoGpu => {
            "none has a GPU, which the engine needs".to_owned()
        }
        (None, [first, ..]) => first.reason.to_string(),
        (None, []) => "the marketplaces have none at the moment".to_owned(),
    }
}
