//! What it costs not to know how fast machines are: a run as it is played, by a plan that learns as
//! it goes, against one that knew.
//!
//! Each kind of GPU is up to three times as fast or as slow as is thought, and another is seen only
//! by renting it. Interruptions are left out, and so is traffic.

use crate::{market::offers, shape};
use piecework::{
    choose::{Candidate, Job, Listed, choose},
    cost::{Measurement, Share},
    model::{Shape, Weights},
    need::Workload,
    plan::{Goal, make},
    run::{EXCHANGES, worth},
};
use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use std::collections::{BTreeMap, BTreeSet};

/// How far from what is thought a speed may be, either way.
const APART: f64 = 3.0;

/// Seconds of work until a machine's speed is known, generously.
const SEEN_AFTER: f64 = 300.0;

const PROMPTS: f64 = 1e6;

/// A job, and how fast each GPU does it in truth, over how fast it is thought to.
struct World<'a> {
    job: Job<'a>,
    listed: &'a [Listed],
    factors: BTreeMap<String, f64>,
}

impl World<'_> {
    fn measured(&self, candidate: &Candidate) -> Measurement {
        let gpu = candidate.gpu.as_ref().expect("each has one").name.clone();
        Measurement {
            engine: self.job.engine.to_owned(),
            model: self.job.model.to_owned(),
            factor: self.factors[&gpu],
            gpu,
            split: candidate.fit.split,
            weights: candidate.fit.weights,
        }
    }

    /// What a machine does in truth.
    fn truth(&self, candidate: &Candidate) -> Share {
        let gpu = &candidate.gpu.as_ref().expect("each has one").name;
        Share { rate: candidate.share.rate * self.factors[gpu], ..candidate.share }
    }

    /// The machine that a plan takes for so many prompts.
    fn taken(&self, measured: &[Measurement], prompts: f64) -> Candidate {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is a count"
        )]
        let work = Workload { prompts: prompts as u64, ..self.job.work };
        let job = Job { work, measured, ..self.job.clone() };
        let goal = Goal { machines: Some(1), ..Goal::default() };
        let made = make(&job, &goal, self.listed.to_vec(), &[]).expect("there is a plan");
        made.plans[0].parts[0].candidate.clone()
    }

    /// What the job costs without a word of the truth before it is seen, and how many machines it
    /// takes one after the other, if they may be exchanged so often.
    fn played(&self, exchanges: u32) -> (f64, u32) {
        let (mut known, mut left, mut paid) = (Vec::new(), PROMPTS, 0.0);
        let mut machine = self.taken(&known, left);
        for taken in 1.. {
            let share = self.truth(&machine);
            let seen = (left / share.rate).min(SEEN_AFTER);
            paid += share.price * (share.startup + seen) / 3600.0;
            left -= seen * share.rate;
            // What was thought of it was thought without its being measured.
            let new = self.measured(&machine);
            known.retain(|old: &Measurement| old.gpu != new.gpu);
            known.push(new);
            let next = self.taken(&known, left.max(1.0));
            if taken > exchanges || worth(&share, &next.share, left, f64::MAX).is_none() {
                return (paid + share.price * left / share.rate / 3600.0, taken);
            }
            machine = next;
        }
        unreachable!("it ends with the exchanges")
    }

    /// What it costs who knows all.
    fn best(&self) -> f64 {
        let (candidates, _) = choose(&self.job, self.listed.to_vec());
        let cost = |candidate: &Candidate| {
            let share = self.truth(candidate);
            share.price * (share.startup + PROMPTS / share.rate) / 3600.0
        };
        candidates.iter().map(cost).fold(f64::MAX, f64::min)
    }
}

fn job<'a>(model: &'a str, shape: &'a Shape) -> Job<'a> {
    Job {
        model,
        shape,
        work: Workload { prompts: 1_000_000, input: 1_000.0, output: 200.0 },
        engine: "vllm",
        allowed: &[Weights::Bf16, Weights::Fp8],
        ceiling: None,
        interruptible: false,
        measured: &[],
    }
}

/// The middle, the ninth in ten and the last of these, in percent above zero.
fn spread(mut regrets: Vec<f64>) -> [f64; 3] {
    regrets.sort_by(f64::total_cmp);
    let at = |share: usize| regrets[(regrets.len() - 1) * share / 10] * 100.0;
    [at(5), at(9), at(10)]
}

#[test]
#[expect(clippy::print_stdout, reason = "what was measured is said")]
fn a_run_that_learns_as_it_goes_costs_little_more_than_one_that_knew() {
    let (listed, mut random) = (offers(400), StdRng::seed_from_u64(1));
    for model in ["Llama-3.1-8B-Instruct", "Qwen3-32B"] {
        let shape = shape(model);
        let job = job(model, &shape);
        let (candidates, _) = choose(&job, listed.clone());
        let names =
            candidates.iter().filter_map(|candidate| Some(candidate.gpu.as_ref()?.name.clone()));
        let names: BTreeSet<_> = names.collect();
        let (mut learns, mut stays, mut machines) = (Vec::new(), Vec::new(), 0);
        for _ in 0..40 {
            let mut factor = || APART.powf(random.random_range(-1.0..=1.0));
            let factors = names.iter().map(|name| (name.clone(), factor())).collect();
            let world = World { job: job.clone(), listed: &listed, factors };
            let best = world.best();
            let (paid, taken) = world.played(EXCHANGES);
            learns.push(paid / best - 1.0);
            stays.push(world.played(0).0 / best - 1.0);
            machines += taken;
        }
        let (learns, stays) = (spread(learns), spread(stays));
        println!(
            "{model}: {learns:.0?} % above one that knew (median, 9 in 10, worst), {stays:.0?} % \
             without an exchange; {:.1} machines a run",
            f64::from(machines) / 40.0
        );
        assert!(learns[0] <= stays[0] && learns[1] < stays[1] && learns[2] < stays[2]);
    }
}
