//! Which machines, and how many of each: the best under the model of [`crate::cost`].
//!
//! Plans of one kind of machine are all tried. Where a deadline or a number of machines asks for
//! more of them than one offer has, a mixture is built from those that cost the least for a
//! prompt, and improved by leaving out and exchanging machines until nothing helps.

use crate::{
    cost::{Share, finish, money},
    model::whole,
    need::Workload,
};
use clap::ValueEnum;
use providers::Usd;
use serde::{Deserialize, Serialize};

/// What the best plan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rank {
    /// The whole job costs the least.
    #[default]
    Job,
    /// An hour costs the least.
    Hour,
    /// The job is over soonest.
    Time,
}

/// What a plan has to keep to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Goal {
    /// Which of the plans that keep to the rest is the best.
    pub rank: Rank,
    /// Seconds until the last answer, at most.
    pub deadline: Option<f64>,
    /// What the job may cost.
    pub budget: Option<Usd>,
    /// How many machines, exactly.
    pub machines: Option<u32>,
}

/// Some machines of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    /// Which of the offers.
    pub offer: usize,
    /// How many of it.
    pub count: u32,
}

/// A plan without its words.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The machines. Each offer is there once.
    pub picks: Vec<Pick>,
    /// Seconds from renting to the last answer.
    pub seconds: f64,
    /// What it costs.
    pub cost: Usd,
    hourly: f64,
}

/// An offer to search among: as a part of the job, and how often it may be rented.
pub type Choice = (Share, u32);

/// Machines in a plan, at most.
pub const MOST: u32 = 64;
/// Offers that a mixture is made from: those that cost the least for a prompt.
const MIXED_FROM: usize = 200;
/// Offers that a machine of a mixture may be exchanged for: the next ones on that list.
const EXCHANGED_FOR: usize = 30;
/// How often a mixture is improved, at most. It is rarely more than twice.
const ROUNDS: usize = 10;

impl Goal {
    fn allows(&self, solution: &Solution) -> bool {
        solution.seconds.is_finite()
            && self.deadline.is_none_or(|deadline| solution.seconds <= deadline)
            && self.budget.is_none_or(|budget| solution.cost <= budget)
    }

    /// Smaller is better.
    fn order(&self, solution: &Solution) -> (f64, f64) {
        let (cost, time) = (solution.cost.0 as f64, solution.seconds);
        match self.rank {
            Rank::Job => (cost, time),
            Rank::Hour => (solution.hourly, cost),
            Rank::Time => (time, cost),
        }
    }

    /// Whether the first is better than the second.
    pub fn prefers(&self, first: &Solution, second: &Solution) -> bool {
        let (a, b) = (self.order(first), self.order(second));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).is_lt()
    }

    /// How many machines of one kind to try.
    fn counts(&self, available: u32) -> std::ops::Range<u32> {
        let most = available.min(MOST);
        match self.machines {
            Some(machines) if machines <= most => machines..machines + 1,
            Some(_) => 0..0,
            // With nothing to keep to, the fastest would be as many as there are.
            None if self.rank == Rank::Time
                && self.deadline.or(self.budget.map(|_| 0.0)).is_none() =>
            {
                1..2
            }
            None => 1..most + 1,
        }
    }
}

/// The best plan of each offer by itself, and the best mixture if it beats them; the best first.
pub fn search(choices: &[Choice], work: &Workload, goal: &Goal) -> Vec<Solution> {
    let mut found: Vec<_> = choices
        .iter()
        .enumerate()
        .filter_map(|(offer, (share, available))| {
            let counts = goal.counts(*available);
            let plans = counts.map(|count| of_one_kind(offer, share, count, work));
            plans
                .filter(|plan| goal.allows(plan))
                .reduce(|best, next| if goal.prefers(&next, &best) { next } else { best })
        })
        .collect();
    let order = |a: &Solution, b: &Solution| {
        let (first, second) = (goal.order(a), goal.order(b));
        first.0.total_cmp(&second.0).then(first.1.total_cmp(&second.1))
    };
    found.sort_by(order);
    if let Some(mixture) = mixture(choices, work, goal)
        && found.first().is_none_or(|best| goal.prefers(&mixture, best))
    {
        found.insert(0, mixture);
    }
    found
}

fn of_one_kind(offer: usize, share: &Share, count: u32, work: &Workload) -> Solution {
    let machines = f64::from(count);
    let seconds = work.prompts as f64 / (machines * share.rate) + share.startup;
    let cost = Usd(whole((machines * money(share, seconds)).ceil()));
    let picks = vec![Pick { offer, count }];
    Solution { picks, seconds, cost, hourly: machines * share.price }
}

/// The machines of these offers together. An offer that is there twice is rented twice.
fn of(machines: &[usize], choices: &[Choice], work: &Workload) -> Solution {
    let shares: Vec<_> = machines.iter().map(|&offer| choices[offer].0).collect();
    let seconds = finish(&shares, work.prompts);
    let cost = shares.iter().map(|share| money(share, seconds)).sum::<f64>();
    let hourly = shares.iter().map(|share| share.price).sum();
    let mut picks: Vec<Pick> = Vec::new();
    for &offer in machines {
        match picks.iter_mut().find(|pick| pick.offer == offer) {
            Some(pick) => pick.count += 1,
            None => picks.push(Pick { offer, count: 1 }),
        }
    }
    Solution { picks, seconds, cost: Usd(whole(cost.ceil())), hourly }
}

/// A good plan of several kinds of machines, where more than one machine is needed.
fn mixture(choices: &[Choice], work: &Workload, goal: &Goal) -> Option<Solution> {
    if goal.machines == Some(1) || goal.machines.or(goal.deadline.map(|_| 0)).is_none() {
        return None;
    }
    // Over which time a machine's start is spread.
    let span = goal.deadline.unwrap_or(f64::INFINITY);
    let ability = |share: &Share| {
        let hours = if span.is_finite() { span - share.startup } else { 1.0 };
        share.rate * hours.max(0.0)
    };
    let per_prompt = |offer: &usize| {
        let share = &choices[*offer].0;
        let price = if span.is_finite() { money(share, span) } else { share.price };
        price / ability(share)
    };
    let mut by_price: Vec<usize> = (0..choices.len()).collect();
    by_price.retain(|offer| 0.0 < ability(&choices[*offer].0));
    by_price.sort_by(|a, b| per_prompt(a).total_cmp(&per_prompt(b)));
    by_price.truncate(MIXED_FROM);
    let machines = take(&by_price, choices, work, goal, ability)?;
    let best = improve(machines, &by_price, choices, work, goal);
    goal.allows(&best).then_some(best)
}

/// As many as are wanted, or as can do the job in time, the best first.
fn take(
    by_price: &[usize],
    choices: &[Choice],
    work: &Workload,
    goal: &Goal,
    ability: impl Fn(&Share) -> f64,
) -> Option<Vec<usize>> {
    let (mut machines, mut done) = (Vec::new(), 0.0);
    let rentable = |&offer: &usize| std::iter::repeat_n(offer, choices[offer].1.min(MOST) as usize);
    for offer in by_price.iter().flat_map(rentable).take(MOST as usize) {
        machines.push(offer);
        done += ability(&choices[offer].0);
        let enough = match goal.machines {
            Some(wanted) => wanted as usize == machines.len(),
            None => work.prompts as f64 <= done,
        };
        if enough {
            return Some(machines);
        }
    }
    None
}

/// Leaves out and exchanges machines, one at a time, as long as that is better.
fn improve(
    mut machines: Vec<usize>,
    others: &[usize],
    choices: &[Choice],
    work: &Workload,
    goal: &Goal,
) -> Solution {
    let mut best = of(&machines, choices, work);
    for _ in 0..ROUNDS {
        let mut better = None;
        let mut judge = |trial: Vec<usize>| {
            let solution = of(&trial, choices, work);
            let stands = better.as_ref().map_or(&best, |(_, solution)| solution);
            // A plan that keeps to the goal beats any that doesn't.
            let rescues = goal.allows(&solution) && !goal.allows(stands);
            if rescues || goal.allows(&solution) && goal.prefers(&solution, stands) {
                better = Some((trial, solution));
            }
        };
        for at in 0..machines.len() {
            // Equal machines are exchanged alike.
            if machines[..at].contains(&machines[at]) {
                continue;
            }
            if goal.machines.is_none() && 1 < machines.len() {
                let mut trial = machines.clone();
                trial.remove(at);
                judge(trial);
            }
            let is_free = |other: &&usize| {
                let used = machines.iter().filter(|machine| machine == other).count();
                **other != machines[at] && used < choices[**other].1 as usize
            };
            for &other in others.iter().filter(is_free).take(EXCHANGED_FOR) {
                let mut trial = machines.clone();
                trial[at] = other;
                judge(trial);
            }
        }
        match better {
            Some((trial, solution)) => (machines, best) = (trial, solution),
            None => break,
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use providers::Billing;
    use std::time::Duration;

    const WORK: Workload = Workload { prompts: 1_000_000, input: 1_000.0, output: 200.0 };

    fn share(dollars: f64, rate: f64) -> Share {
        let billing = Billing::default();
        Share { price: dollars * 1e6, rate, startup: 600.0, billing, fixed: 0.0, each: 0.0 }
    }

    /// Numbers that look random and are always the same.
    fn noise(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    /// The best of all sets of machines.
    fn exhaustive(choices: &[Choice], goal: &Goal) -> Option<Solution> {
        let machines = |set: u32| (0..choices.len()).filter(move |at| set >> at & 1 == 1).collect();
        let plans = (1..1_u32 << choices.len()).map(|set| {
            let machines: Vec<usize> = machines(set);
            of(&machines, choices, &WORK)
        });
        plans
            .filter(|plan| goal.allows(plan))
            .reduce(|best, next| if goal.prefers(&next, &best) { next } else { best })
    }

    #[test]
    fn without_a_deadline_one_machine_is_best_and_it_is_the_cheapest_for_the_job() {
        let choices = [(share(0.22, 2.2), 9), (share(0.89, 16.0), 9), (share(0.34, 5.5), 9)];
        let best = &search(&choices, &WORK, &Goal::default())[0];
        assert_eq!(best.picks, [Pick { offer: 1, count: 1 }]);
        let goal = Goal { rank: Rank::Hour, ..Goal::default() };
        assert_eq!(search(&choices, &WORK, &goal)[0].picks, [Pick { offer: 0, count: 1 }]);
    }

    #[test]
    fn a_deadline_takes_as_many_machines_as_it_needs_and_no_more() {
        let choices = [(share(0.34, 5.5), 64)];
        let goal = Goal { deadline: Some(6.0 * 3600.0), ..Goal::default() };
        let best = &search(&choices, &WORK, &goal)[0];
        // 1,000,000 prompts at 5.5/s are 50.5 h; six hours less ten minutes are 5.83.
        assert_eq!(best.picks, [Pick { offer: 0, count: 9 }]);
        assert!(best.seconds <= 6.0 * 3600.0);
    }

    #[test]
    fn what_one_offer_has_not_enough_of_is_mixed() {
        let choices = [(share(0.34, 5.5), 2), (share(0.40, 5.5), 1), (share(0.89, 6.0), 5)];
        let goal = Goal { deadline: Some(17.5 * 3600.0), ..Goal::default() };
        let mut picks = search(&choices, &WORK, &goal)[0].picks.clone();
        picks.sort();
        assert_eq!(picks, [Pick { offer: 0, count: 2 }, Pick { offer: 1, count: 1 }]);
    }

    #[test]
    fn what_cannot_be_kept_to_has_no_plan() {
        let choices = [(share(0.34, 5.5), 2)];
        let late = Goal { deadline: Some(601.0), ..Goal::default() };
        assert!(search(&choices, &WORK, &late).is_empty());
        let poor = Goal { budget: Some(Usd(1_000_000)), ..Goal::default() };
        assert!(search(&choices, &WORK, &poor).is_empty());
        let many = Goal { machines: Some(3), ..Goal::default() };
        assert!(search(&choices, &WORK, &many).is_empty());
    }

    #[test]
    fn with_a_budget_the_soonest_takes_as_many_machines_as_it_pays_for() {
        let choices = [(share(0.34, 5.5), 64)];
        let goal = Goal { rank: Rank::Time, budget: Some(Usd(20_000_000)), ..Goal::default() };
        let best = &search(&choices, &WORK, &goal)[0];
        let (count, cost) = (best.picks[0].count, best.cost);
        assert!(10 < count && cost <= Usd(20_000_000));
        assert!(Usd(20_000_000) < of_one_kind(0, &choices[0].0, count + 1, &WORK).cost);
    }

    #[test]
    fn hours_that_are_rounded_up_are_counted() {
        let billing = Billing { minimum: Duration::ZERO, step: Duration::from_hours(1) };
        let choices = [(Share { billing, ..share(1.0, 50.0) }, 64)];
        // 5.56 h of work and a sixth to start: two machines take 2.94 h, and three 2.02.
        let goal = Goal { deadline: Some(3.5 * 3600.0), ..Goal::default() };
        let best = &search(&choices, &WORK, &goal)[0];
        assert_eq!((best.picks[0].count, best.cost), (2, Usd(6_000_000)));
    }

    #[test]
    fn a_mixture_is_the_best_of_all_sets_of_machines_nearly_always() {
        let (mut cases, mut exact) = (0, 0);
        for seed in 1..=150 {
            let mut next = noise(seed);
            let choices: Vec<Choice> = (0..10)
                .map(|_| {
                    let rate = 1.0 + 20.0 * next();
                    let dollars = 0.05 * rate * (0.6 + 0.8 * next());
                    (Share { startup: 300.0 + 900.0 * next(), ..share(dollars, rate) }, 1)
                })
                .collect();
            let goal = Goal { deadline: Some(3600.0 * (3.0 + 30.0 * next())), ..Goal::default() };
            let best = exhaustive(&choices, &goal);
            let found = search(&choices, &WORK, &goal).into_iter().next();
            assert_eq!(best.is_some(), found.is_some(), "seed {seed}");
            let (Some(best), Some(found)) = (best, found) else { continue };
            let regret = found.cost.0 as f64 / best.cost.0 as f64 - 1.0;
            assert!(regret < 0.03, "seed {seed}: {regret}");
            cases += 1;
            exact += u32::from(found.cost == best.cost);
        }
        assert!(100 < cases && cases * 9 < exact * 10, "{exact} of {cases} are the best");
    }
}
