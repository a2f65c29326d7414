//! Runs with a budget, drawn at random by seed: prices, speeds, machines, bids that are lost, prices
//! that turn out higher, and answers that get lost. None is ever billed more than its budget.
//!
//! A few seeds are tried each time, `PIECEWORK_TEST_BUDGETS=200` tries so many. Each takes as long
//! as its budget lasts, some minutes, and waits nearly all of it.

use crate::{
    cloud::{Cloud, only_rental},
    program::{User, conversation},
    seeds::Dice,
};
use serde_json::{Value, json};
use std::{
    env,
    fmt::{self, Write},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// How many seeds are tried, where the environment doesn't say it.
const SEEDS: u64 = 6;

/// Runs at once.
const AT_ONCE: u64 = 6;

/// Marketplaces, by how often they are drawn: most bill by the second.
const MARKETS: [&str; 10] =
    ["vast", "runpod", "lambda", "vast", "verda", "prime", "shadeform", "lambda", "vast", "runpod"];

/// A run, as it was drawn.
struct Draw {
    seed: u64,
    market: &'static str,
    /// How many times as dear as usual everything is.
    factor: u64,
    machines: u64,
    /// How long the budget pays for all machines.
    seconds: u64,
    pace: u64,
    prompts: usize,
    is_interruptible: bool,
    faults: Value,
}

impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, market, factor, machines, seconds, pace, prompts, .. } = self;
        write!(
            f,
            "seed {seed}: {market} x{factor}, {machines} machines for {seconds} s, {prompts} \
             prompts at {pace}/s each"
        )
    }
}

impl Draw {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let market = MARKETS[dice.choose(&MARKETS).expect("there are some")];
        let factor = 200 + dice.roll(4_000);
        let machines = 1 + dice.roll(3);
        // From a little more than the least for which anything is rented; at Verda, which charges
        // by ten minutes, up to some such blocks.
        let seconds = match market {
            "verda" => 300 + dice.roll(1_600),
            _ => 126 + dice.roll(90),
        };
        let pace = 2 + dice.roll(30);
        let work = match market {
            "verda" => 10 + dice.roll(80),
            _ => seconds * (20 + dice.roll(130)) / 100,
        };
        let is_bidden_for = matches!(market, "vast" | "verda" | "shadeform" | "prime");
        let is_interruptible = is_bidden_for && dice.roll(3) == 0;
        let prompts = usize::try_from(pace * machines * work).expect("there are not so many");
        let faults = (0..dice.roll(4)).map(|_| fault(&mut dice, market)).collect();
        Self { seed, market, factor, machines, seconds, pace, prompts, is_interruptible, faults }
    }
}

fn fault(dice: &mut Dice, market: &str) -> Value {
    let outbid = 2_000 + dice.roll(60_000);
    let dearer = 1 + dice.roll(50);
    let rental = |mishap: Value| ("rent", json!({ "rental": mishap }));
    let (call, fault) = match dice.roll(12) {
        0..3 => rental(json!({ "outbid": { "millis": outbid } })),
        3 => rental(json!({ "dearer": { "percent": 2 } })),
        // What is billed before anybody can say no is out of anybody's hands: ten minutes at Verda.
        4..6 if market != "verda" => rental(json!({ "dearer": { "percent": dearer } })),
        6 => ("rent", json!("lose_reply")),
        7 => {
            let code = [502, 409, 307][dice.choose(&[(); 3]).expect("there are some")];
            ("rent", json!({ "late5xx": { "code": code } }))
        }
        8 => ("release", json!("lose_reply")),
        9 => ("release", json!({ "status": { "code": 500, "retry_after": null } })),
        10 => ("list", json!("garble")),
        _ => ("list", json!({ "slow": { "millis": 3_000 } })),
    };
    let (after, times) = (dice.roll(3), 1 + dice.roll(3));
    json!({ "provider": market, "call": call, "after": after, "times": times, "fault": fault })
}

/// What a run came to.
struct Came {
    /// Its share of the budget.
    share: f64,
    /// Whether the budget ended it.
    is_bound: bool,
    line: String,
}

impl Draw {
    /// Runs it. The error is what is wrong with what it was billed.
    fn run(&self, test: &str) -> Result<Option<Came>, String> {
        let Some(cloud) = Cloud::start(test) else { return Ok(None) };
        let user = User::new();
        cloud.raise_prices(self.market, self.factor);
        let price = self.cheapest(&cloud, &user);
        let budget = price * (self.machines * self.seconds) as f64 / 3_600.0;
        cloud.plan(&self.faults);
        let (pace, machines) = (self.pace.to_string(), self.machines.to_string());
        let budget_text = format!("{budget:.6}");
        let mut command = cloud.run(&user, self.market, self.prompts, &["--yes"]);
        command.args(["--echo-pace", &pace, "--machines", &machines, "--max-price", "1000000"]);
        command.args(["--budget", &budget_text]);
        if self.is_interruptible {
            command.arg("--interruptible");
        }
        let output = command.output().expect("it runs");
        let world = cloud.world(self.market);
        let billed = world["cost"].as_f64().expect("it is a number");
        let share = billed / budget;
        let code = output.status.code().expect("it ends by itself");
        let rentals = world["rentals"].as_array().map_or(0, Vec::len);
        let mut line = self.to_string();
        write!(
            line,
            "; ${billed:.4} of ${budget:.4} ({:.1} %), {rentals} rentals, exit {code}",
            share * 100.0
        )
        .expect("a string can be written to");
        if budget < billed || world["billed"] != 0 || code == 70 {
            let faults = &self.faults;
            return Err(format!("{line}\n{faults:#}\n{}\n{world:#}", conversation(&output)));
        }
        // Refused, or stopped, which nobody but the budget does.
        Ok(Some(Came { share, is_bound: matches!(code, 4 | 6) && 0 < rentals, line }))
    }

    /// What an hour of the cheapest machine costs.
    fn cheapest(&self, cloud: &Cloud, user: &User) -> f64 {
        let arguments = ["offers", "--provider", self.market, "--json"];
        let mut command = cloud.piecework(user, self.market, &arguments);
        if self.is_interruptible {
            command.arg("--interruptible");
        }
        let output = command.output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let prices = rows.filter_map(|row| row["micro_usd_per_hour"].as_f64());
        let cheapest = prices.fold(f64::INFINITY, f64::min);
        assert!(cheapest.is_finite(), "{}", conversation(&output));
        cheapest / 1e6
    }
}

#[test]
fn a_machine_that_turns_out_dearer_counts_at_what_it_was_billed() {
    let Some(cloud) = Cloud::start("a machine that turns out dearer") else { return };
    let user = User::new();
    let dearer = json!({ "rental": { "dearer": { "percent": 200 } } });
    cloud.plan(&json!([{ "call": "rent", "times": 2, "fault": dearer }]));
    // Four minutes of the cheapest: three are gone with the first, which charges whole ones.
    let mut command = cloud.run(&user, "lambda", 12, &["--yes", "--budget", "0.088"]);
    let output = command.output().expect("it runs");
    let world = cloud.world("lambda");
    let billed = world["cost"].as_f64().expect("it is a number");
    assert!(0.0 < billed && billed <= 0.088, "{}\n{world:#}", conversation(&output));
    assert_eq!(output.status.code(), Some(4), "{}", conversation(&output));
    only_rental(&world);
}

#[test]
fn what_is_left_of_a_budget_is_not_told_as_more_than_it_was() {
    let Some(cloud) = Cloud::start("what is left of a budget") else { return };
    let user = User::new();
    let mut command = cloud.run(&user, "lambda", 12, &["--yes", "--budget", "0.001"]);
    let output = command.output().expect("it runs");
    let said = conversation(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("$0.001 of the budget are left"), "{said}");
}

#[test]
#[expect(clippy::print_stdout, reason = "figures for whoever runs many of them")]
fn no_run_is_billed_more_than_its_budget() {
    let test = "runs with a budget";
    let number = |name, or| env::var(name).map_or(or, |text| text.parse().expect("a number"));
    let first: u64 = number("PIECEWORK_TEST_SEED", 0);
    let end = first + number("PIECEWORK_TEST_BUDGETS", SEEDS);
    let next = AtomicU64::new(first);
    let (came, failed) = (Mutex::<Vec<Came>>::default(), Mutex::<Vec<u64>>::default());
    thread::scope(|scope| {
        for _ in 0..number("PIECEWORK_TEST_AT_ONCE", AT_ONCE) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if end <= seed {
                        break;
                    }
                    match Draw::new(seed).run(test) {
                        Ok(one) => {
                            if let Some(one) = &one {
                                println!("{}", one.line);
                            }
                            came.lock().expect("whole").extend(one);
                        }
                        Err(why) => {
                            println!("FAILED {why}");
                            failed.lock().expect("whole").push(seed);
                        }
                    }
                }
            });
        }
    });
    let (came, failed) = (came.into_inner().expect("whole"), failed.into_inner().expect("whole"));
    let bound = came.iter().filter(|came| came.is_bound).map(|came| came.share * 100.0);
    let mut bound: Vec<f64> = bound.collect();
    bound.sort_by(f64::total_cmp);
    let most = came.iter().map(|came| came.share * 100.0).fold(0.0, f64::max);
    println!(
        "{} runs, {} above their budget, the most {most:.1} % of it; {} were ended by it",
        came.len() + failed.len(),
        failed.len(),
        bound.len(),
    );
    if let (Some(least), Some(most)) = (bound.first(), bound.last()) {
        let median = bound[bound.len() / 2];
        println!(
            "they used {least:.1} % at least, {median:.1} % in the middle, {most:.1} % at most"
        );
    }
    assert!(failed.is_empty(), "{failed:?}");
}
