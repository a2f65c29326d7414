//! Plans as they are printed: the article's job, and what can't be done.

use crate::{
    market::{PRICES, at_list_price, offers},
    shape,
};
use insta::assert_snapshot;
use piecework::{
    choose::{Job, Listed},
    model::Weights,
    need::Workload,
    plan::{Goal, PlanError, Plans, Rank, make},
};
use providers::{Rental, Usd, UsdPerHour};

const ARTICLE: Workload = Workload { prompts: 4_000_000, input: 1_000.0, output: 200.0 };
const EXACT: [Weights; 2] = [Weights::Bf16, Weights::Fp8];

fn planned(
    model: &str,
    allowed: &[Weights],
    goal: &Goal,
    offers: Vec<Listed>,
    change: impl FnOnce(&mut Job<'_>),
) -> Result<Plans, PlanError> {
    let shape = shape(model);
    let mut job = Job {
        model,
        shape: &shape,
        work: ARTICLE,
        engine: "vllm",
        allowed,
        ceiling: None,
        interruptible: false,
        measured: &[],
    };
    change(&mut job);
    make(&job, goal, offers, &[])
}

/// Every GPU at its list price.
fn list_prices() -> Vec<Listed> {
    let one = PRICES.map(|(name, ..)| at_list_price(name, 1));
    let several = PRICES.map(|(name, ..)| at_list_price(name, 4));
    one.into_iter().chain(several).collect()
}

fn printed(model: &str, allowed: &[Weights]) -> String {
    planned(model, allowed, &Goal::default(), list_prices(), |_| ()).unwrap().to_string()
}

#[test]
fn the_articles_job_with_8b() {
    assert_snapshot!(printed("Llama-3.1-8B-Instruct", &EXACT), @"
    Llama-3.1-8B-Instruct on vllm: 4,000,000 prompts of 1,000 + 200 tokens, 4.8 billion tokens in all

         cost if slow machines                        from      as    batch  rate/s   time  $/Mtok roof
    1  $61.73  $86.39 1 × RTX PRO 6000 at $0.89/h     runpod    FP8     512   ~16.0   69 h  0.0129  29%
    2  $62.00  $86.65 1 × 4×RTX PRO 6000 at $3.56/h   runpod    FP8     512   ~64.2   17 h  0.0129  29%
    3  $64.60  $90.42 1 × RTX 4090 at $0.34/h         runpod    FP8      79    ~5.9  190 h  0.0135  33%
    4  $64.70  $90.52 1 × 4×RTX 4090 at $1.36/h       runpod    FP8      79   ~23.4   48 h  0.0135  33%
    5  $90.69    $127 1 × L40S at $0.79/h             runpod    FP8     208    ~9.7  115 h  0.0189  41%

    ~ modelled: a factor of 1.4 either way, which `if slow` reckons with
    what a run may cost at most it says before it rents; with `--budget` that is the most
    a run without `--deadline` stops after a week at the latest; `resume` goes on with it
    hosted: $89.60 for Llama 3.1 8B Turbo of DeepInfra, in batch mode (2026-11-05)
    hosted: $120 for an 8B model of Novita (2026-11-05; which model is not certain)
    hosted: $125 for Mistral 7B v0.3 of DeepInfra, in batch mode (2026-11-05)
    hosted: $260 for GPT-5 nano of OpenAI, in batch mode (2026-09-30)
    hosted: $540 for GPT-4o mini of OpenAI, in batch mode (2026-09-30; the day is not certain)
    renting costs 31% less than the cheapest who sells it
    ");
}

#[test]
fn the_articles_job_with_14b() {
    assert_snapshot!(printed("Qwen3-14B", &EXACT), @"
    Qwen3-14B on vllm: 4,000,000 prompts of 1,000 + 200 tokens, 4.8 billion tokens in all

         cost if slow machines                        from      as    batch  rate/s   time  $/Mtok roof
    1  $98.97    $139 1 × RTX PRO 6000 at $0.89/h     runpod    FP8     378   ~10.0  111 h  0.0206  34%
    2  $99.27    $139 1 × 4×RTX PRO 6000 at $3.56/h   runpod    FP8     378   ~40.0   28 h  0.0207  34%
    3    $132    $185 1 × 4×RTX 4090 at $1.36/h       runpod    FP8     356   ~11.5   97 h  0.0274  30%
    4    $144    $201 1 × RTX 4090 at $0.34/h         runpod    FP8      26    ~2.6   18 d  0.0298  39%
    5    $153    $214 1 × L40S at $0.79/h             runpod    FP8     129    ~5.7  193 h  0.0318  39%

    ~ modelled: a factor of 1.4 either way, which `if slow` reckons with
    what a run may cost at most it says before it rents; with `--budget` that is the most
    a run without `--deadline` stops after a week at the latest; `resume` goes on with it
    hosted: $538 for Qwen3 14B of DeepInfra, in batch mode (2026-11-05; 8-bit weights)
    hosted: $576 for Qwen3 14B int4 of NextBit (2026-10-07; 4-bit weights)
    hosted: $260 for GPT-5 nano of OpenAI, in batch mode (2026-09-30)
    hosted: $540 for GPT-4o mini of OpenAI, in batch mode (2026-09-30; the day is not certain)
    renting costs 82% less than the cheapest who sells it
    ");
}

#[test]
fn the_articles_job_with_32b() {
    assert_snapshot!(printed("Qwen3-32B", &EXACT), @"
    Qwen3-32B on vllm: 4,000,000 prompts of 1,000 + 200 tokens, 4.8 billion tokens in all

         cost if slow machines                        from      as    batch  rate/s   time  $/Mtok roof
    1    $214    $300 1 × RTX PRO 6000 at $0.89/h     runpod    FP8     179    ~4.6   10 d  0.0445  36%
    2    $215    $300 1 × 4×RTX PRO 6000 at $3.56/h   runpod    FP8     179   ~18.5   60 h  0.0446  36%
    3    $286    $400 1 × 4×RTX 4090 at $1.36/h       runpod    FP8     165    ~5.3  210 h  0.0595  31%
    4    $340    $476 1 × B200 at $5.98/h             runpod    FP8     435   ~19.6   57 h  0.0708  34%
    5    $343    $479 1 × 4×B200 at $23.92/h          runpod    FP8     435   ~78.4   14 h  0.0714  34%

    ~ modelled: a factor of 1.4 either way, which `if slow` reckons with
    what a run may cost at most it says before it rents; with `--budget` that is the most
    a run without `--deadline` stops after a week at the latest; `resume` goes on with it
    hosted: $1,392 for Qwen3.8 27B of OpenRouter (2026-10-07; the lowest of several sellers)
    hosted: $260 for GPT-5 nano of OpenAI, in batch mode (2026-09-30)
    hosted: $540 for GPT-4o mini of OpenAI, in batch mode (2026-09-30; the day is not certain)
    renting costs 85% less than the cheapest who sells one like it
    3 offers can't do it: 3 too small; `--explain` lists them
    ");
}

#[test]
fn the_articles_job_with_70b() {
    assert_snapshot!(printed("Llama-3.3-70B-Instruct", &Weights::ALL), @"
    Llama-3.3-70B-Instruct on vllm: 4,000,000 prompts of 1,000 + 200 tokens, 4.8 billion tokens in all

         cost if slow machines                        from      as    batch  rate/s   time  $/Mtok roof
    1    $296    $414 1 × RTX PRO 6000 at $0.89/h     runpod    FP4     122    ~3.3   14 d  0.0616  28%
    2    $297    $415 1 × 4×RTX PRO 6000 at $3.56/h   runpod    FP4     122   ~13.4   83 h  0.0617  28%
    3    $445    $623 1 × B200 at $5.98/h             runpod    FP4     327   ~15.0   74 h  0.0927  28%
    4    $448    $626 1 × 4×B200 at $23.92/h          runpod    FP4     327   ~59.9   19 h  0.0933  28%
    5    $579    $810 1 × 4×RTX 5090 at $2.76/h       runpod    FP4     188    ~5.3  209 h  0.1204  27%

    ~ modelled: a factor of 1.4 either way, which `if slow` reckons with
    what a run may cost at most it says before it rents; with `--budget` that is the most
    INT4 and FP4 need the model to be published like that, and answer a little worse
    a run without `--deadline` stops after a week at the latest; `resume` goes on with it
    hosted: $525 for Llama 3.3 70B Turbo of DeepInfra, in batch mode (2026-11-05)
    hosted: $260 for GPT-5 nano of OpenAI, in batch mode (2026-09-30)
    hosted: $540 for GPT-4o mini of OpenAI, in batch mode (2026-09-30; the day is not certain)
    renting costs 44% less than the cheapest who sells it
    3 offers can't do it: 3 too small; `--explain` lists them
    ");
}

#[test]
fn the_articles_job_with_a_mixture_of_experts() {
    assert_snapshot!(printed("Qwen3-30B-A3B", &Weights::ALL), @"
    Qwen3-30B-A3B on vllm: 4,000,000 prompts of 1,000 + 200 tokens, 4.8 billion tokens in all

         cost if slow machines                        from      as    batch  rate/s   time  $/Mtok roof
    1  $34.27  $47.94 1 × RTX PRO 6000 at $0.89/h     runpod    FP4     512   ~28.9   39 h  0.0071  46%
    2  $34.59  $48.26 1 × 4×RTX PRO 6000 at $3.56/h   runpod    FP4     512    ~116  9.7 h  0.0072  46%
    3  $52.16  $72.94 1 × 4×RTX 4090 at $1.36/h       runpod    FP8     467   ~29.1   38 h  0.0109  25%
    4  $52.53  $73.50 1 × RTX 5090 at $0.69/h         runpod    FP4      94   ~14.6   76 h  0.0109  48%
    5  $52.77  $73.75 1 × 4×RTX 5090 at $2.76/h       runpod    FP4      94   ~58.5   19 h  0.0110  48%

    ~ modelled: a factor of 1.4 either way, which `if slow` reckons with
    what a run may cost at most it says before it rents; with `--budget` that is the most
    INT4 and FP4 need the model to be published like that, and answer a little worse
    hosted: $89.60 for Llama 3.1 8B Turbo of DeepInfra, in batch mode (2026-11-05)
    hosted: $120 for an 8B model of Novita (2026-11-05; which model is not certain)
    hosted: $260 for GPT-5 nano of OpenAI, in batch mode (2026-09-30)
    hosted: $540 for GPT-4o mini of OpenAI, in batch mode (2026-09-30; the day is not certain)
    renting costs 62% less than the cheapest who sells one like it
    ");
}

#[test]
fn a_deadline_on_a_crowded_market_is_kept_with_whatever_there_is() {
    let goal = Goal { deadline: Some(6.0 * 3600.0), ..Goal::default() };
    let willing = |job: &mut Job<'_>| job.interruptible = true;
    let plans = planned("Llama-3.1-8B-Instruct", &EXACT, &goal, offers(3_000), willing).unwrap();
    assert!(plans.plans[0].time.as_secs() <= 6 * 3600);
    assert_snapshot!(plans.to_string(), @"
    Llama-3.1-8B-Instruct on vllm: 4,000,000 prompts of 1,000 + 200 tokens, 4.8 billion tokens in all

         cost if slow machines                        from      as    batch  rate/s   time  $/Mtok roof
    1  $31.74  $43.84 3 × 8×RTX 4090 at ≤$1.2865/h*   vast      FP8      79    ~140  6.0 h  0.0066  33%
                      1 × 2×RTX 4090 at $0.2772/h*    vast      FP8      79   ~11.7                 33%
                      2 × RTX 4090 at ≤$0.1522/h*     vast      FP8      79   ~11.7                 33%
                      1 × 2×RTX PRO 600 at $0.9866/h* vast      FP8     512   ~32.1                 29%
                      7 machines, $5.2393/h together
    2  $47.27  $65.84 21 × 2×RTX 4090 at $0.4823/h    verda     FP8      79    ~246  4.6 h  0.0098  33%
    3  $49.70  $68.78 9 × 4×RTX 4090 at $1.0099/h     lambda    FP8      79    ~211  5.5 h  0.0104  33%
    4  $50.13  $69.42 17 × 2×RTX 4090 at $0.508/h     runpod    FP8      79    ~199  5.8 h  0.0104  33%
    5  $51.01  $70.66 33 × RTX 4090 at $0.2587/h      runpod    FP8      79    ~193  6.0 h  0.0106  33%

    ~ modelled: a factor of 1.4 either way, which `if slow` reckons with
    what a run may cost at most it says before it rents; with `--budget` that is the most
    * can be taken back; one such hour in ten is expected to be
    hosted: $89.60 for Llama 3.1 8B Turbo of DeepInfra, in batch mode (2026-11-05)
    hosted: $120 for an 8B model of Novita (2026-11-05; which model is not certain)
    hosted: $125 for Mistral 7B v0.3 of DeepInfra, in batch mode (2026-11-05)
    hosted: $260 for GPT-5 nano of OpenAI, in batch mode (2026-09-30)
    hosted: $540 for GPT-4o mini of OpenAI, in batch mode (2026-09-30; the day is not certain)
    renting costs 65% less than the cheapest who sells it
    1,026 offers can't do it: 1,026 short of disk; `--explain` lists them
    ");
}

#[test]
fn no_line_is_wider_than_100_columns() {
    for model in ["Llama-3.1-8B-Instruct", "Llama-3.3-70B-Instruct", "SmolLM2-135M-Instruct"] {
        for rank in [Rank::Job, Rank::Hour, Rank::Time] {
            for machines in [None, Some(7), Some(64)] {
                let goal = Goal { rank, machines, ..Goal::default() };
                let willing = |job: &mut Job<'_>| job.interruptible = true;
                let plans = planned(model, &Weights::ALL, &goal, offers(3_000), willing).unwrap();
                for line in plans.to_string().lines() {
                    assert!(line.chars().count() <= 100, "{line}");
                }
            }
        }
    }
}

#[test]
fn a_program_is_told_all_of_it() {
    let plans = planned("Qwen3-14B", &EXACT, &Goal::default(), list_prices(), |_| ()).unwrap();
    let json = plans.to_json();
    assert_eq!(json["plans"][0]["cost"], plans.plans[0].cost.0);
    assert_eq!(json["plans"][0]["machines"][0]["basis"], "modelled");
    assert_eq!(json["hosted"].as_array().unwrap().len(), plans.hosted.len());
    let rejected = json["rejected"].as_array().unwrap();
    assert!(rejected.iter().all(|line| !line["reason"].as_str().unwrap().is_empty()));
    assert_eq!(plans.explain().lines().count(), rejected.len());
}

#[test]
fn what_can_not_be_done_says_what_could() {
    let told = |made: Result<Plans, PlanError>| {
        let error = made.unwrap_err();
        format!("{error}\nhint: {}", error.hint().unwrap_or_default())
    };
    let small = || vec![at_list_price("RTX 4090", 1), at_list_price("RTX PRO 6000", 1)];
    let llama = "Llama-3.3-70B-Instruct";
    let bf16 = &[Weights::Bf16][..];
    let goal = Goal::default();
    assert_snapshot!(told(planned(llama, bf16, &goal, small(), |_| ())), @"
    no offer fits `Llama-3.3-70B-Instruct`: 148.0 GiB of memory wanted, 95.5 GiB is the most there is
    hint: keep the weights in fewer bits with `--weights fp4`
    ");
    let cheap = |job: &mut Job<'_>| job.ceiling = Some(UsdPerHour(500_000));
    assert_snapshot!(told(planned(llama, &EXACT, &goal, small(), cheap)), @"
    no offer fits `Llama-3.3-70B-Instruct`: 77.2 GiB of memory wanted, 23.9 GiB is the most there is
    hint: raise `--max-price` to 0.89
    ");
    let mut spot = at_list_price("H200", 1);
    spot.offer.rental = Rental::Interruptible { floor: spot.offer.price };
    assert_snapshot!(told(planned(llama, &EXACT, &goal, vec![spot], |_| ())), @"
    no offer fits `Llama-3.3-70B-Instruct`: interruptible, which --interruptible would allow
    hint: take machines that can be taken back, with `--interruptible`
    ");
    assert_snapshot!(told(planned(llama, &EXACT, &goal, Vec::new(), |_| ())), @"
    no offer fits `Llama-3.3-70B-Instruct`: the marketplaces have none at the moment
    hint: ask more marketplaces, with `--provider all`, or again later
    ");
    let long = |job: &mut Job<'_>| job.work.input = 500_000.0;
    assert_snapshot!(told(planned(llama, &EXACT, &goal, small(), long)), @"
    no offer fits `Llama-3.3-70B-Instruct`: prompt and answer have 500200 tokens, and the model takes 131072
    hint: shorten the prompts or the answers, or take a model with a longer context
    ");
    let tiny = || vec![at_list_price("RTX 4090", 1)];
    assert_snapshot!(told(planned(llama, &EXACT, &goal, tiny(), |_| ())), @"
    no offer fits `Llama-3.3-70B-Instruct`: 77.2 GiB of memory wanted, 23.9 GiB is the most there is
    hint: take 8 GPUs of 12 GiB or more (`piecework offers --count 8 --vram 12`), or a smaller model
    ");
    let soon = Goal { deadline: Some(1_800.0), ..goal };
    assert_snapshot!(told(planned(llama, &EXACT, &soon, small(), |_| ())), @"
    no plan ends within 30 min: the soonest takes 10 h, on 64 machines, for $575.75
    hint: give it `--deadline 11h`
    ");
    let poor = Goal { budget: Some(Usd(10_000_000)), ..goal };
    assert_snapshot!(told(planned(llama, &EXACT, &poor, small(), |_| ())), @"
    no plan costs $10.00 or less: the cheapest costs $562.31 and takes 26 d
    hint: give it `--budget 563`, fewer prompts, or shorter answers
    ");
    let few = Goal { deadline: Some(36_000.0), machines: Some(2), ..goal };
    let eight = "Llama-3.1-8B-Instruct";
    let error = told(planned(eight, &EXACT, &few, small(), |_| ()));
    assert!(error.contains(", or take `--machines "), "{error}");
    let both = Goal { deadline: Some(36_000.0), budget: Some(Usd(62_000_000)), ..goal };
    let error = told(planned(eight, &EXACT, &both, small(), |_| ()));
    assert!(error.contains(", more time (`--deadline "), "{error}");
    let mut mine = at_list_price("H200", 1);
    mine.offer.machine = Some("m1".to_owned());
    let many = Goal { machines: Some(3), ..goal };
    assert_snapshot!(told(planned(llama, &EXACT, &many, vec![mine], |_| ())), @"
    there are not 3 machines that fit at the moment, but 1
    hint: take `--machines 1`
    ");
}
