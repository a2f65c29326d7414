//! Machines whose speed is not what was thought: how soon a run knows what it will cost, what it does
//! about it, and what later plans make of it.
//!
//! A case is tried each time; `PIECEWORK_TEST_ESTIMATES` is how many are, from
//! `PIECEWORK_TEST_SEED` on. Each of those is run again by a plan that knows the truth, to see what
//! not knowing it has cost.

use crate::{
    cloud::Cloud,
    program::{User, conversation, ids, numbered_ids},
};
use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::{collections::BTreeMap, env, fs, process::Output};

/// How far from what is thought a speed may be, either way.
const APART: f64 = 3.0;

/// About how long a run takes, in seconds, if it is as fast as it is thought to be.
const SECONDS: f64 = 50.0;

/// And how long those work at least, in seconds, of which something is asked: some are faster than
/// was thought.
const LITTLE: f64 = 30.0;

/// What a run may be off by for its estimate to count as right.
const RIGHT: f64 = 0.1;

/// The size of a popular model: nothing else of it is looked at.
const CONFIG: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
    "max_position_embeddings": 131072, "tie_word_embeddings": false
}"#;

/// A marketplace whose machines have `vllm`, and a user with a model.
struct Scene {
    user: User,
    cloud: Cloud,
    /// Prompts a second that each GPU is thought to answer.
    thought: BTreeMap<String, f64>,
}

impl Scene {
    fn new(test: &str) -> Option<Self> {
        let user = User::new();
        let model = user.folder().join("eight-b");
        fs::create_dir(&model).expect("it is new");
        for (name, text) in [
            ("config.json", CONFIG),
            ("tokenizer.json", "{}"),
            ("chat_template.jinja", ""),
            ("model.safetensors", ""),
        ] {
            fs::write(model.join(name), text).expect("it is written");
        }
        let cloud = Cloud::showing(test, &[&model])?;
        let mut scene = Self { user, cloud, thought: BTreeMap::new() };
        scene.prompts(1_000);
        scene.thought = scene.plan().into_iter().map(|(gpu, (rate, _))| (gpu, rate)).collect();
        assert!(4 <= scene.thought.len(), "{:?}", scene.thought);
        Some(scene)
    }

    fn prompts(&self, count: usize) {
        let line = |number| {
            let prompt =
                format!("Say something about {number}, {}", "and something else, ".repeat(9));
            json!({ "id": format!("q{number}"), "prompt": prompt }).to_string() + "\n"
        };
        self.user.file("prompts.jsonl", (0..count).map(line).collect::<String>());
    }

    fn run(&self, more: &[&str]) -> Output {
        let run = ["run", "prompts.jsonl", "--provider", "vast", "--model", "eight-b", "--json"];
        let mut command = self.cloud.piecework(&self.user, "vast", &run);
        command.args(["--max-tokens", "20"]).args(more).output().expect("it runs")
    }

    /// How fast each GPU is thought to be now, and whether that was measured.
    fn plan(&self) -> BTreeMap<String, (f64, bool)> {
        let output = self.run(&["--dry-run"]);
        let plan: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", conversation(&output)));
        let plans = plan["plans"].as_array().expect("there are some");
        let machines = plans.iter().flat_map(|plan| plan["machines"].as_array().expect("some"));
        let known = machines.map(|machine| {
            let rate = machine["prompts_per_second"].as_f64().expect("a number");
            let gpu = machine["gpu"].as_str().expect("it has one").to_owned();
            (gpu, (rate, machine["basis"] == "measured"))
        });
        known.collect()
    }
}

impl Scene {
    /// Has later plans know how fast each GPU is, as if all had been measured before.
    fn tell(&self, truth: &BTreeMap<String, f64>) {
        let path = self.user.folder().join("home/measured.jsonl");
        let text = fs::read_to_string(&path).expect("something was measured");
        let first = text.lines().next().expect("something was measured");
        let sample: Value = serde_json::from_str(first).expect("it is JSON");
        let lines = truth.iter().map(|(gpu, rate)| {
            let mut told = sample.clone();
            told["gpu"] = gpu.as_str().into();
            told["factor"] = (rate / self.thought[gpu]).into();
            format!("{told}\n")
        });
        fs::write(path, lines.collect::<String>()).expect("it can be written");
    }
}

/// What came of a run.
#[derive(Debug)]
struct Found {
    /// Seconds from the first answer until the expected cost is right and stays so, and what it was.
    right_after: f64,
    #[expect(dead_code, reason = "it is printed")]
    expected: f64,
    /// Seconds from the first answer to the last.
    worked: f64,
    billed: f64,
    exchanged: bool,
}

fn found(output: &Output) -> Found {
    let text = String::from_utf8_lossy(&output.stdout);
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let finished = events.iter().find(|event| event["event"] == "finished").expect("it ends");
    let billed = finished["cost"].as_f64().expect("a number");
    let number = |event: &Value, name: &str| event[name].as_f64();
    let progress = || events.iter().filter(|event| event["event"] == "progress");
    let at_work = || progress().filter(|event| event["done"] != 0);
    let seconds = |event: &Value| number(event, "seconds").expect("a number");
    let begun = at_work().next().map(seconds).expect("it has answered");
    let is_right = |event: &&Value| {
        number(event, "expected").is_some_and(|cost| (cost / billed - 1.0).abs() <= RIGHT)
    };
    let wrong = at_work().rfind(|event| !is_right(event)).map_or(begun, seconds);
    let right = at_work().find(|event| wrong < seconds(event)).unwrap_or(finished);
    Found {
        right_after: seconds(right) - begun,
        expected: number(right, "expected").unwrap_or(0.0) / 1e6,
        worked: at_work().next_back().map_or(0.0, seconds) - begun,
        billed: billed / 1e6,
        exchanged: events.iter().any(|event| event["event"] == "exchanged"),
    }
}

#[expect(clippy::print_stdout, reason = "what was measured is said")]
#[test]
fn a_run_soon_knows_what_it_will_cost_and_later_plans_know_how_fast_machines_are() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) = (number("PIECEWORK_TEST_SEED"), number("PIECEWORK_TEST_ESTIMATES"));
    let first = first.unwrap_or(1);
    for seed in first..first + count.unwrap_or(1) {
        let Some(scene) = Scene::new("machines that are not as fast as was thought") else {
            return;
        };
        let mut random = StdRng::seed_from_u64(seed);
        let truth: BTreeMap<String, f64> = scene
            .thought
            .iter()
            .map(|(gpu, rate)| (gpu.clone(), rate * APART.powf(random.random_range(-1.0..=1.0))))
            .collect();
        scene.cloud.pace(&truth);
        let best = scene.thought.values().copied().fold(0.0, f64::max);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is small")]
        let prompts = (best.min(100.0) * SECONDS) as usize;
        scene.prompts(prompts);
        let output = scene.run(&["--yes", "--max-price", "50", "--out", "out.jsonl"]);
        assert_eq!(output.status.code(), Some(0), "seed {seed}: {}", conversation(&output));
        assert_eq!(ids(&scene.user.folder().join("out.jsonl")).len(), prompts);
        let found = found(&output);
        let plan = scene.plan();
        let measured: Vec<_> = plan.iter().filter(|(_, (_, measured))| *measured).collect();
        println!(
            "seed {seed}: {prompts} prompts, {found:?}; of {truth:.1?} measured {measured:.1?}"
        );
        // From little no speed is told.
        if LITTLE <= found.worked {
            let (gpu, (rate, _)) = measured.first().expect("it has worked long enough to tell");
            assert!(
                (rate / truth[*gpu] - 1.0).abs() < RIGHT,
                "seed {seed}: {gpu}: {rate} of {truth:?}"
            );
            assert!(found.right_after <= 0.75 * found.worked, "seed {seed}: {found:?}");
        }
        assert_eq!(scene.cloud.world("vast")["billed"], 0);
        if count.is_some() {
            scene.tell(&truth);
            let output = scene.run(&["--yes", "--max-price", "50", "--out", "told.jsonl"]);
            assert_eq!(output.status.code(), Some(0), "seed {seed}: {}", conversation(&output));
            let told = self::found(&output);
            println!(
                "seed {seed}: {:.4} dollars, and {:.4} by a plan that knew: {:+.0} %",
                found.billed,
                told.billed,
                (found.billed / told.billed - 1.0) * 100.0
            );
        }
    }
}

#[test]
fn a_machine_is_kept_where_what_should_take_its_place_can_not_be_had() {
    let Some(scene) = Scene::new("an exchange that can't be had") else { return };
    let best = "RTX 4090";
    let slow = |(gpu, rate): (&String, &f64)| {
        (gpu.clone(), if gpu == best { rate / 10.0 } else { rate * 3.0 })
    };
    scene.cloud.pace(&scene.thought.iter().map(slow).collect());
    scene.prompts(20_000);
    let gone = json!({ "rental": "offer_gone" });
    let planned =
        json!({ "provider": "vast", "call": "rent", "after": 1, "times": 60, "fault": gone });
    scene.cloud.plan(&json!([planned]));
    let more = ["--yes", "--max-price", "50", "--machines", "1", "--deadline", "2m"];
    let output = scene.run(&more);
    let said = conversation(&output);
    // It has worked on until it was time.
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(!found(&output).exchanged, "{said}");
    let world = scene.cloud.world("vast");
    let rentals = world["rentals"].as_array().expect("it lists them");
    assert_eq!((rentals.len(), &world["requests"]["rent"]), (1, &json!(2)), "{said}\n{world:#}");
}

#[test]
fn a_machine_whose_work_costs_less_on_another_is_exchanged() {
    let Some(scene) = Scene::new("a machine that is exchanged") else { return };
    // What is thought the best is so slow that a whole new start costs less than to go on.
    let best = "RTX 4090";
    let slow = |(gpu, rate): (&String, &f64)| {
        (gpu.clone(), if gpu == best { rate / 30.0 } else { rate * 3.0 })
    };
    scene.cloud.pace(&scene.thought.iter().map(slow).collect());
    scene.prompts(9_000);
    let output = scene.run(&["--yes", "--max-price", "50", "--out", "out.jsonl"]);
    let said = conversation(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(ids(&scene.user.folder().join("out.jsonl")), numbered_ids(9_000));
    assert!(found(&output).exchanged, "{said}");
    let world = scene.cloud.world("vast");
    let rentals = world["rentals"].as_array().expect("it lists them");
    assert_eq!((rentals.len(), &world["billed"]), (2, &json!(0)), "{world:#}");
}
