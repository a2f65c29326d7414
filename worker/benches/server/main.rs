//! The engine that drives inference servers, with a real llama.cpp server, beside a plain client.
//!
//! `PIECEWORK_BENCH_LLAMA_SERVER=llama-server cargo bench -p worker --bench server -- MODEL.gguf [N]`
//! asks like prompts of the same server: by a plain client at fixed numbers of prompts at once; by the
//! worker, which must find the number itself; by both in turn at that number, five times; and by the
//! worker while the server is killed ten times. With N there are only turns, at N prompts at once.
//! `PIECEWORK_BENCH_PROMPTS` says how many prompts the worker answers where it must find the number (320).
//! `scripts/llama-bench-build` builds the server, and llama.cpp's own batched bench to set beside it.
#![expect(clippy::print_stdout, reason = "a bench's table is its output")]

#[path = "../../tests/support/llama.rs"]
mod llama_server;
mod plain;
mod steady;
#[path = "../../tests/support/mod.rs"]
mod support;

use llama_server::description;
use serde_json::json;
use std::{collections::BTreeSet, env, fs, path::Path, process::Command, time::Instant};
use steady::Steady;
use support::{Controller, Home};
use wire::{
    EngineKind, Form, Job, Limits, Model, Outcome, Prompt, Server, Source, ToController, ToWorker,
    server::Patience,
};

/// Slots of the server.
const SLOTS: u32 = 32;
/// Tokens of each slot.
const CONTEXT: u32 = 256;
const KILLS: u64 = 10;
const TURNS: usize = 5;
/// Prompts of a turn, for each that is under way at once, and those that a worker's search takes.
const TURN: u64 = 9;
const SEARCH: u64 = 6;

fn main() {
    // Cargo passes flags of its own.
    let mut arguments = env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let model = arguments.next();
    let (Some(model), Ok(program)) = (model, env::var("PIECEWORK_BENCH_LLAMA_SERVER")) else {
        println!("server: skipped, no model or no server is named");
        return;
    };
    let count = env::var("PIECEWORK_BENCH_PROMPTS").ok().and_then(|text| text.parse().ok());
    let bench = Bench { program, model, count: count.unwrap_or(320) };
    if let Some(at_once) = arguments.next().and_then(|text| text.parse().ok()) {
        bench.in_turn(at_once);
        return;
    }
    bench.plain();
    if let Some(found) = bench.search() {
        bench.in_turn(found);
    }
    bench.killed();
}

struct Bench {
    program: String,
    model: String,
    count: u64,
}

impl Bench {
    /// The plain client at several numbers.
    fn plain(&self) {
        let server = plain::Server::start(&self.program, &self.model, SLOTS, CONTEXT);
        for at_once in [1, 4, 8, 16, 32] {
            let rate = server.rate(at_once, (6 * u64::from(at_once)).max(16));
            println!("plain client, {at_once:>2} at once: {rate:>8.1} tokens/s");
        }
    }

    /// The worker, which looks for the number: the one it finds.
    fn search(&self) -> Option<u32> {
        let driven = self.drive((8, SLOTS), self.count, 0);
        for line in driven.notes.lines().filter(|line| line.contains("at once")) {
            println!("worker, {line}");
        }
        println!("worker, whole run with the search: {:.1} tokens/s", driven.rate);
        let found = found(&driven.notes);
        if found.is_none() {
            println!("worker: {} prompts were too few to find the number", self.count);
        }
        found
    }

    /// Both at the same number, with servers that are started alike. What the worker does until it has
    /// seen that fewer are no better doesn't count.
    fn in_turn(&self, at_once: u32) {
        let count = TURN * u64::from(at_once);
        let (mut rates, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
        for _ in 0..TURNS {
            let server = plain::Server::start(&self.program, &self.model, at_once, CONTEXT);
            let theirs = server.rate(at_once, count);
            drop(server);
            let ours =
                self.drive((at_once, at_once), count + SEARCH * u64::from(at_once), 0).steady;
            println!("  plain client {theirs:.1}, worker {ours:.1}");
            rates[0].push(theirs);
            rates[1].push(ours);
            ratios.push(ours / theirs * 100.0);
        }
        let [theirs, ours] = rates.map(median);
        println!(
            "in turn, {at_once} at once, {count} prompts, medians of {TURNS}: plain client {theirs:.1} \
             tokens/s, worker {ours:.1}, the ratio {:.1} %",
            median(ratios),
        );
    }

    fn killed(&self) {
        let Driven { kills, answered, failed, .. } = self.drive((8, SLOTS), self.count, KILLS);
        println!(
            "worker, server killed {kills} times: {answered} of {} prompts answered, {failed} failed, \
             {} lost",
            self.count,
            self.count - answered - failed,
        );
    }

    /// The worker, which begins with so many prompts at once and tries so many at most.
    fn drive(&self, (start, most): (u32, u32), count: u64, kills: u64) -> Driven {
        let mut server = description(&self.program);
        (server.parallel.start, server.parallel.most) = (start, most);
        if kills == 0 {
            // Tests are in a hurry, and ask more often how it is.
            server.patience = Patience::default();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let steady = Steady::new(most, count);
        runtime.block_on(drive(&server, &self.model, count, kills, steady))
    }
}

/// A prompt that no other begins like.
fn body(index: u64) -> serde_json::Value {
    let words = (0..25).map(|word| (index * 7919 + word * 104_729) % 9973);
    let text = words.map(|word| word.to_string()).collect::<Vec<_>>().join(" ");
    json!({"prompt": text, "max_tokens": 24, "temperature": 0, "ignore_eos": true})
}

struct Driven {
    rate: f64,
    /// The same, once the search is over and while all that may be are under way.
    steady: f64,
    answered: u64,
    failed: u64,
    kills: u64,
    notes: String,
}

/// Lets a worker answer prompts, and kills its server now and then.
async fn drive(server: &Server, model: &str, count: u64, kills: u64, mut steady: Steady) -> Driven {
    let home = Home::new();
    let (mut controller, _) = Controller::greet(&home, 1).await;
    controller.say(job(server, model)).await;
    while !matches!(controller.hear().await, Some(ToController::Ready(_))) {}
    let prompt = |index| Prompt { index, form: Form::Text, body: body(index).to_string() };
    let begin = Instant::now();
    controller.say(ToWorker::Prompts((0..count).map(prompt).collect())).await;
    let (mut done, mut answered, mut tokens, mut killed) = (BTreeSet::new(), 0, 0, 0);
    while (done.len() as u64) < count {
        let Some(message) = controller.hear().await else {
            println!("worker, the conversation ended early: {}", remains(home.path()));
            break;
        };
        if let ToController::Broken { reason, .. } = &message {
            println!("worker, the engine broke: {reason}");
        }
        let ToController::Completions { completions, .. } = message else { continue };
        let is_found = found(&notes(home.path())).is_some();
        for completion in completions {
            if let (Outcome::Done { tokens_in, tokens_out, .. }, true) =
                (completion.outcome, done.insert(completion.index))
            {
                (answered, tokens) = (answered + 1, tokens + u64::from(tokens_in + tokens_out));
                steady.answer(u64::from(tokens_in + tokens_out), is_found);
            }
        }
        if killed < kills && killed * count / (kills + 1) < done.len() as u64 {
            killed += u64::from(kill(home.path()));
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let notes = notes(home.path());
    Driven {
        rate: tokens as f64 / seconds,
        steady: steady.rate(),
        answered,
        failed: done.len() as u64 - answered,
        kills: killed,
        notes,
    }
}

fn job(server: &Server, model: &str) -> ToWorker {
    let job = Job {
        engine: EngineKind::Server(Box::new(server.clone())),
        model: Model { name: "measured".to_owned(), sources: vec![Source::Path(model.to_owned())] },
        precision: None,
        limits: Limits { context: Some(CONTEXT), ..Limits::default() },
        seed: 0,
        defaults: "{}".to_owned(),
    };
    ToWorker::Work { job, access: None }
}

/// What a worker notes on its servers.
fn notes(folder: &Path) -> String {
    fs::read_to_string(folder.join("servers.log")).unwrap_or_default()
}

/// The number of prompts at once that the worker notes that it found.
fn found(notes: &str) -> Option<u32> {
    let line = notes.lines().find(|line| line.ends_with(", the best"))?;
    line.rsplit_once("next ")?.1.split_once(',')?.0.parse().ok()
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// What is left of a worker whose conversation has ended: who still runs, and what was noted.
fn remains(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap();
    let lives_there = |process: &fs::DirEntry| {
        fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == folder)
    };
    let name = |process: fs::DirEntry| {
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        arguments.split('\0').take(2).collect::<Vec<_>>().join(" ")
    };
    let processes = fs::read_dir("/proc").unwrap().flatten().filter(lives_there);
    let names: Vec<String> = processes.map(name).collect();
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    let notes = notes(&folder);
    let last = notes.lines().last().unwrap_or_default();
    format!("{names:?} still run, its log is {log:?}, its last note is {last:?}")
}

/// Kills the server of the worker in a folder, if it runs.
fn kill(folder: &Path) -> bool {
    let folder = folder.canonicalize().unwrap();
    let is_server = |process: &fs::DirEntry| {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let cwd = fs::read_link(process.path().join("cwd"));
        name.trim() == "llama-server" && cwd.is_ok_and(|cwd| cwd == folder)
    };
    let Some(process) = fs::read_dir("/proc").unwrap().flatten().find(is_server) else {
        return false;
    };
    let process = process.file_name().to_string_lossy().into_owned();
    Command::new("kill").args(["-9", &process]).status().unwrap().success()
}
