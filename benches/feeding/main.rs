//! Whether engines ever wait for prompts: `cargo bench --bench feeding [MACHINESxPACE ...] [SECONDS]`.
//!
//! Real runs on local machines behind one long, narrow link. Each machine has an echo with the pace of
//! an H100 (30 prompts a second, 1,000 tokens in and 200 out, in words that compress as English does)
//! or of a machine with eight. The engines themselves count the time in which they could have begun
//! a prompt and had none.
#![expect(clippy::print_stdout, reason = "its figures are its output")]

mod text;

#[path = "../../tests/support/elsewhere.rs"]
mod elsewhere;

#[path = "../../tests/support/link.rs"]
mod link;

use link::Link;
use piecework::{
    event::{Event, Events, SlotPhase},
    run::{Ladder, run},
};
use std::{
    collections::BTreeMap,
    env,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::sync::mpsc::unbounded_channel;

const ROUND_TRIP: Duration = Duration::from_millis(150);

/// Mbit/s from here to the machines, and back.
const RATE: (f64, f64) = (20.0, 50.0);

/// Bytes of a prompt, which are 1,000 tokens of English, and tokens of its answer.
const PROMPT: (usize, u32) = (4400, 200);

/// Seconds after a machine's first answer that belong to the start.
const START: Duration = Duration::from_secs(5);

fn main() {
    let arguments: Vec<String> =
        env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let seconds = arguments.iter().find_map(|word| word.parse().ok()).unwrap_or(75);
    let mut fleets: Vec<(u32, u32)> = arguments.iter().filter_map(|word| fleet(word)).collect();
    if fleets.is_empty() {
        fleets = vec![(1, 30), (8, 30), (1, 240)];
    }
    println!(
        "link: {} ms there and back, {} Mbit/s up, {} down; {} bytes in, {} tokens out",
        ROUND_TRIP.as_millis(),
        RATE.0,
        RATE.1,
        PROMPT.0,
        PROMPT.1,
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("there is room for a few threads");
    for (machines, pace) in fleets {
        runtime.block_on(measure(machines, pace, seconds));
    }
}

fn fleet(word: &str) -> Option<(u32, u32)> {
    let (machines, pace) = word.split_once('x')?;
    Some((machines.parse().ok()?, pace.parse().ok()?))
}

/// What was seen at a moment.
#[derive(Clone, Copy, Debug)]
struct Sight {
    at: Instant,
    /// Seconds that the engine had been hungry for.
    hungry: f64,
    /// Prompts that it and the machine held.
    held: u64,
}

/// All that was seen of a run.
struct Seen {
    begun: Instant,
    /// Of each machine, when its engine was up and what it said from then on.
    machines: BTreeMap<u32, Vec<Sight>>,
    /// Prompts that were over by then, and bytes that had gone up and down.
    progress: Vec<(Instant, u64, [u64; 2])>,
}

async fn measure(machines: u32, pace: u32, seconds: u64) {
    let total = u64::from(machines * pace) * seconds;
    let prompts = text::prompts(total, PROMPT.0, PROMPT.1);
    let size = prompts.len() as f64 / total as f64;
    let packed = zstd::bulk::compress(&prompts.as_bytes()[..prompts.len().min(1 << 20)], 1);
    let packed =
        packed.expect("a buffer takes all").len() as f64 / prompts.len().min(1 << 20) as f64;
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let link = Arc::new(Link::new(ROUND_TRIP, RATE.0, RATE.1));
    let shared = link.clone();
    let setting = elsewhere::setting(folder.path(), &prompts, (machines, pace), move |port| {
        shared.before(port)
    });
    drop(prompts);
    let (events, mut heard) = unbounded_channel();
    let running = run(setting, Events::to(events), Ladder::default());
    tokio::pin!(running);
    let mut seen = Seen { begun: Instant::now(), machines: BTreeMap::new(), progress: Vec::new() };
    let outcome = loop {
        tokio::select! {
            outcome = &mut running => break outcome.expect("it can be begun"),
            Some(event) = heard.recv() => seen.hear(&event, &link),
        }
    };
    assert!(outcome.summary.complete && outcome.summary.failed == 0, "{outcome:?}");
    println!(
        "\n{machines}x{pace} prompts/s, {total} prompts of {size:.0} bytes, {:.0} if packed for themselves",
        size * packed
    );
    seen.tell(machines * pace, total);
}

impl Seen {
    fn hear(&mut self, event: &Event, link: &Link) {
        let at = Instant::now();
        if let Event::Phase { slot, phase } = event
            && let SlotPhase::Working { hungry, waiting, running, .. } = phase
        {
            let sight = Sight { at, hungry: *hungry, held: waiting + running };
            self.machines.entry(*slot).or_default().push(sight);
        }
        if let Event::Progress(progress) = event {
            let bytes = [&link.up, &link.down].map(|way| way.bytes.load(Relaxed));
            self.progress.push((at, progress.done, bytes));
        }
        if let Event::Lost { reason, .. } | Event::Reconnecting { reason, .. } = event {
            println!("it went wrong: {reason}");
        }
    }

    fn tell(&self, pace: u32, total: u64) {
        let since = |at: Instant| at.duration_since(self.begun).as_secs_f64();
        let all = || self.machines.values();
        let up = all().filter_map(|sights| sights.first()).map(|sight| sight.at).max();
        let up = up.expect("engines came up");
        let first = self.progress.iter().find(|(_, done, _)| 0 < *done).expect("some were done");
        let end = self.progress.iter().find(|(_, done, _)| *done == total).expect("all were done");
        // The tail begins when every prompt is with some machine.
        let tail = self.progress.iter().find(|(at, done, _)| {
            let held = all().filter_map(|sights| sights.iter().rfind(|sight| sight.at <= *at));
            total <= done + held.map(|sight| sight.held).sum::<u64>()
        });
        let tail = tail.expect("there was one");
        let begin = up.max(first.0) + START;
        let steady = self.progress.iter().find(|(at, ..)| begin <= *at).expect("it took longer");
        let shares: Vec<f64> = all().map(|sights| busy(sights, steady.0, tail.0)).collect();
        let (took, done) = (since(tail.0) - since(steady.0), (tail.1 - steady.1) as f64);
        let least = shares.iter().copied().fold(1.0, f64::min) * 100.0;
        let mean = shares.iter().sum::<f64>() / shares.len() as f64 * 100.0;
        println!(
            "  start  all engines up after {:.1} s, first answer after {:.1} s; hungry since they were up: {:.2} s at most",
            since(up),
            since(first.0),
            all().map(|sights| before(sights, steady.0).hungry).fold(0.0, f64::max),
        );
        println!(
            "  steady {took:.1} s, {:.1} prompts/s: engines had work {mean:.2} % of the time, the least busy {least:.2} %",
            done / took,
        );
        let bytes = |way: usize| (tail.2[way] - steady.2[way]) as f64;
        for (way, name, of, rate) in
            [(0, "up", "prompt", RATE.0), (1, "down", "completion", RATE.1)]
        {
            let megabits = bytes(way) * 8.0 / 1e6 / took;
            println!(
                "         {name}: {:.0} bytes a {of}, {megabits:.2} Mbit/s; the link would do for {:.0} prompts/s",
                bytes(way) / done,
                done / took / megabits * rate,
            );
        }
        let (left, took) = ((total - tail.1) as f64, since(end.0) - since(tail.0));
        println!(
            "  tail   {left:.0} prompts in {took:.1} s, of which all machines together need {:.1} s",
            left / f64::from(pace),
        );
        let whole = since(end.0) - since(up);
        let needed = total as f64 / f64::from(pace);
        println!(
            "  whole  {whole:.1} s since all engines were up, {needed:.1} s of work: {:.2} %",
            needed / whole * 100.0,
        );
    }
}

/// What was seen last before a moment.
fn before(sights: &[Sight], at: Instant) -> Sight {
    *sights.iter().rfind(|sight| sight.at <= at).expect("something was seen by then")
}

/// The part of the time between two moments in which an engine had work.
fn busy(sights: &[Sight], from: Instant, to: Instant) -> f64 {
    let (first, last) = (before(sights, from), before(sights, to));
    1.0 - (last.hungry - first.hungry) / last.at.duration_since(first.at).as_secs_f64()
}
