//! The chosen plan against all others, under the model.

use crate::{market::offers, shape};
use piecework::{
    choose::{Candidate, Job, choose},
    cost::{cost, finish},
    model::Weights,
    need::Workload,
    plan::{Goal, make, search::MOST},
};
use providers::Usd;
use std::time::{Duration, Instant};

const MODELS: [&str; 8] = [
    "SmolLM2-1.7B-Instruct",
    "Qwen3-4B",
    "Llama-3.1-8B-Instruct",
    "Qwen3-14B",
    "Mistral-Small-24B-Instruct-2501",
    "Qwen3-32B",
    "Llama-3.3-70B-Instruct",
    "Qwen3-30B-A3B",
];
const LENGTHS: [(f64, f64); 3] = [(1_000.0, 200.0), (200.0, 1_000.0), (6_000.0, 300.0)];
const DEADLINES: [Option<u64>; 3] = [None, Some(24), Some(6)];

/// The cheapest of every offer taken every number of times, in time.
fn exhaustive(candidates: &[Candidate], work: &Workload, deadline: Option<f64>) -> Option<Usd> {
    let all = candidates.iter().flat_map(|candidate| {
        (1..=candidate.available.min(MOST)).map(move |count| vec![candidate.share; count as usize])
    });
    let in_time = |shares: &Vec<_>| deadline.is_none_or(|end| finish(shares, work.prompts) <= end);
    all.filter(in_time).map(|shares| cost(&shares, work)).min()
}

#[expect(clippy::print_stdout, reason = "what was measured is said")]
#[test]
fn no_offer_taken_any_number_of_times_is_cheaper_than_the_plan() {
    let listed = offers(3_000);
    let (mut cases, mut planned, mut times) = (0, 0, Vec::new());
    for model in MODELS {
        let shape = shape(model);
        for ((input, output), hours) in
            LENGTHS.iter().flat_map(|lengths| DEADLINES.map(|hours| (*lengths, hours)))
        {
            let work = Workload { prompts: 1_000_000, input, output };
            let job = Job {
                model,
                shape: &shape,
                work,
                engine: "vllm",
                allowed: &[Weights::Bf16, Weights::Fp8],
                ceiling: None,
                interruptible: false,
                measured: &[],
            };
            let deadline = hours.map(|hours| hours as f64 * 3_600.0);
            let goal = Goal { deadline, ..Goal::default() };
            let (candidates, _) = choose(&job, listed.clone());
            let best = exhaustive(&candidates, &work, deadline);
            let (offers, begun) = (listed.clone(), Instant::now());
            let made = make(&job, &goal, offers, &[]);
            times.push(begun.elapsed());
            planned += i32::from(made.is_ok());
            let case = format!("{model} {input}/{output} in {hours:?} h");
            match (best, made) {
                // A mixture may be cheaper than any number of one offer.
                (Some(best), Ok(plans)) => assert!(plans.plans[0].cost <= best, "{case}"),
                (None, _) => {}
                (Some(_), Err(error)) => panic!("{case}: {error}"),
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 72);
    times.sort();
    let [median, worst]: [Duration; 2] = [times[cases / 2], times[cases - 1]];
    println!(
        "{cases} cases, {planned} with a plan, none of which any number of one offer undercuts; planned in \
         {median:.0?} (median), {worst:.0?} (worst)"
    );
}
