//! How many machines, which, what it may cost, and whether to rent at all.
//!
//! [`make`] puts the pure parts together: offers are chosen from, searched among, and set beside
//! the prices of hosted APIs. What it makes prints itself ([`show`]), which is `--dry-run`.

mod hourly;
pub mod search;
mod show;

pub use hourly::Hourly;
pub use search::{Goal, Rank};

use crate::{
    choose::{Candidate, Job, Listed, Reason, Rejected, choose},
    cost::{Share, cost, finish},
    hosted::{Price, Quote, quotes},
    lengths::Lengths,
    model::Weights,
    need::{Unfit, Workload},
};
use providers::{Mib, Usd, UsdPerHour};
use search::{Choice, Solution, search};
use std::time::Duration;

/// Plans that are shown, at most.
const SHOWN: usize = 5;

/// Some machines of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What they are.
    pub candidate: Candidate,
    /// How many.
    pub count: u32,
}

/// A way to do the job.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The machines. Nearly always all of one kind.
    pub parts: Vec<Part>,
    /// From renting to the last answer.
    pub time: Duration,
    /// What it should cost.
    pub cost: Usd,
    /// What it costs if every machine is as slow as it may be.
    pub worst: Usd,
}

/// The best ways to do a job, and what else there is to know before renting.
#[derive(Clone, Debug)]
pub struct Plans {
    /// The model's name.
    pub model: String,
    /// The engine's name.
    pub engine: String,
    /// How many prompts, and how long.
    pub work: Workload,
    /// How it is known how long they are, where that is to be said.
    pub lengths: Option<Lengths>,
    /// What is best, and what was to be kept to.
    pub goal: Goal,
    /// The best ways, the best first. Never empty.
    pub plans: Vec<Plan>,
    /// How many offers could do the job.
    pub candidates: usize,
    /// The other offers.
    pub rejected: Vec<Rejected>,
    /// What the job would cost at hosted APIs.
    pub hosted: Vec<Quote>,
}

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
            Self::TooLate { soonest, .. } => {
                let hours = soonest.as_secs().div_ceil(3600);
                Some(format!("give it `--deadline {hours}h`"))
            }
            Self::TooDear { cheapest, .. } => {
                let dollars = cheapest.0.div_ceil(1_000_000);
                Some(format!("give it `--budget {dollars}`, fewer prompts, or shorter answers"))
            }
            Self::TooFew { available, .. } => Some(format!("take `--machines {available}`")),
        }
    }
}

/// Plans a job. `own` are the user's own prices of hosted APIs.
pub fn make(
    job: &Job<'_>,
    goal: &Goal,
    offers: Vec<Listed>,
    own: &[Price],
) -> Result<Plans, PlanError> {
    let (candidates, rejected) = choose(job, offers);
    if candidates.is_empty() {
        return Err(no_offer(job, rejected));
    }
    let choices: Vec<Choice> = candidates.iter().map(|c| (c.share, c.available)).collect();
    let found = search(&choices, &job.work, goal);
    if found.is_empty() {
        return Err(unkept(&choices, &job.work, goal));
    }
    let mut plans: Vec<Plan> = Vec::new();
    for solution in found {
        let next = plan(&solution, &candidates, &job.work);
        if !plans.iter().any(|plan| plan.looks_like(&next)) {
            plans.push(next);
        }
        if plans.len() == SHOWN {
            break;
        }
    }
    Ok(Plans {
        model: job.model.to_owned(),
        engine: job.engine.to_owned(),
        work: job.work,
        lengths: None,
        goal: *goal,
        plans,
        candidates: candidates.len(),
        rejected,
        hosted: quotes(job.model, Some(job.shape), &job.work, own),
    })
}

fn plan(solution: &Solution, candidates: &[Candidate], work: &Workload) -> Plan {
    let part =
        |pick: &search::Pick| Part { candidate: candidates[pick.offer].clone(), count: pick.count };
    let parts: Vec<_> = solution.picks.iter().map(part).collect();
    let slow = |part: &Part| {
        let Candidate { share, rate, .. } = &part.candidate;
        let share = Share { rate: share.rate / rate.error, ..*share };
        std::iter::repeat_n(share, part.count as usize)
    };
    let worst = cost(&parts.iter().flat_map(slow).collect::<Vec<_>>(), work);
    Plan { parts, time: duration(solution.seconds), cost: solution.cost, worst }
}

impl Part {
    /// Whether both are the same machines at the same marketplace, on the same terms, at whatever
    /// price.
    fn is_like(&self, other: &Self) -> bool {
        let kind = |part: &Self| {
            let Candidate { listed, gpus, fit, gpu, .. } = &part.candidate;
            let name = gpu.as_ref().map(|gpu| gpu.name.clone());
            let terms = std::mem::discriminant(&listed.offer.rental);
            (listed.market.clone(), name, *gpus, fit.weights, terms)
        };
        kind(self) == kind(other)
    }
}

impl Plan {
    /// Whether a reader would take the two for one.
    fn looks_like(&self, other: &Self) -> bool {
        let (own, others) = (self.kinds(), other.kinds());
        own.len() == others.len() && own.iter().zip(others).all(|(a, b)| a[0].is_like(b[0]))
    }

    /// The parts, those together that a reader would take for one kind.
    fn kinds(&self) -> Vec<Vec<&Part>> {
        let mut kinds: Vec<Vec<&Part>> = Vec::new();
        for part in &self.parts {
            match kinds.iter_mut().find(|kind| kind[0].is_like(part)) {
                Some(kind) => kind.push(part),
                None => kinds.push(vec![part]),
            }
        }
        kinds
    }

    /// How many machines.
    pub fn machines(&self) -> u32 {
        self.parts.iter().map(|part| part.count).sum()
    }

    /// Prompts a second, on all machines.
    pub fn rate(&self) -> f64 {
        self.parts.iter().map(|part| part.candidate.rate.prompts * f64::from(part.count)).sum()
    }

    /// What an hour of all machines costs.
    pub fn hourly(&self) -> UsdPerHour {
        let each = |part: &Part| part.candidate.listed.offer.price.0 * u64::from(part.count);
        UsdPerHour(self.parts.iter().map(each).sum())
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Which of the things to keep to can't be kept to.
fn unkept(choices: &[Choice], work: &Workload, goal: &Goal) -> PlanError {
    let free = Goal { deadline: None, budget: None, ..*goal };
    if let Some(machines) = goal.machines
        && search(choices, work, &free).is_empty()
    {
        let available = choices.iter().map(|(_, available)| *available).sum::<u32>();
        return PlanError::TooFew { machines, available: available.min(search::MOST) };
    }
    let cheapest = search(choices, work, &Goal { rank: Rank::Job, budget: None, ..*goal });
    if let (Some(budget), Some(cheapest)) = (goal.budget, cheapest.first()) {
        let (time, cheapest) = (duration(cheapest.seconds), cheapest.cost);
        return PlanError::TooDear { budget, cheapest, time };
    }
    // A budget without a bound lets it take as many machines as there are.
    let soonest = Goal { rank: Rank::Time, budget: Some(Usd(u64::MAX)), deadline: None, ..*goal };
    let by_kind = search(choices, work, &soonest).into_iter().next();
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
            machines: best.picks.iter().map(|pick| pick.count).sum(),
            cost: best.cost,
        },
        _ => PlanError::TooLate {
            wanted,
            soonest: duration(together),
            machines: u32::try_from(all.len()).unwrap_or(search::MOST),
            cost: cost(&all, work),
        },
    }
}

/// What no offer has, and what would help.
fn no_offer(job: &Job<'_>, rejected: Vec<Rejected>) -> PlanError {
    let model = job.model.to_owned();
    let why = what_is_missing(&rejected);
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
    let hint = (!remedies.is_empty()).then(|| remedies.join(", or "));
    PlanError::NoOffer { model, why, hint }
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
            Reason::TooDear(_) | Reason::Interruptible | Reason::NoGpu | Reason::Disk { .. } => {}
        }
    }
    match (small, rejected) {
        (Some((needed, most)), _) => {
            format!("{needed} of memory wanted, {most} is the most there is")
        }
        (None, [first, ..]) => first.reason.to_string(),
        (None, []) => "the marketplaces have none at the moment".to_owned(),
    }
}
