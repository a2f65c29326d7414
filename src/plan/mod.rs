//! How many machines, which, what it may cost, and whether to rent at all.
//!
//! [`make`] puts the pure parts together: offers are chosen from, searched among, and set beside
//! the prices of hosted APIs. What it makes prints itself ([`show`]), which is `--dry-run`.

mod error;
mod hourly;
pub mod search;
mod show;

pub use error::PlanError;
pub use hourly::Hourly;
pub use search::{Goal, Rank};

use crate::{
    choose::{Candidate, Job, Listed, Rejected, choose},
    cost::{Share, cost},
    hosted::{Price, Quote, quotes},
    lengths::Lengths,
    need::Workload,
};
use error::{no_offer, unkept};
use providers::{Usd, UsdPerHour};
use search::{Choice, Solution, search};
use std::time::Duration;

/// The longest that a run goes on to which nobody gave a deadline. Estimates can be far off, and under
/// `--yes` nobody has seen this one; what isn't done by then `resume` goes on with.
pub const LONGEST: Duration = Duration::from_hours(7 * 24);

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
