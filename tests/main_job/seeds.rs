//! Runs over four instances that are struck at random, by seed: the program, a worker, an instance
//! or a link, again and again.

use crate::{
    program::{User, conversation, ids, numbered, numbered_ids, pids_in, signal},
    proxy::{Mood, Proxy},
};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Child,
    thread::sleep,
    time::{Duration, Instant},
};

const PROMPTS: usize = 20_000;
const RUN: [&str; 10] = [
    "run",
    "prompts.jsonl",
    "--engine",
    "echo",
    "--echo-pace",
    "1500",
    "--machines",
    "4",
    "--out",
    "out.jsonl",
];

/// How often a run is struck.
const BLOWS: usize = 6;

/// How many seeds are tried, where the environment doesn't say it.
const SEEDS: u64 = 2;

/// Numbers that are the same for the same seed (xorshift64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds would begin alike, and 0 would never end.
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A number under `bound`.
    pub(crate) fn roll(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }

    pub(crate) fn choose<T>(&mut self, of: &[T]) -> Option<usize> {
        (!of.is_empty()).then(|| usize::try_from(self.roll(of.len() as u64)).expect("an index"))
    }
}

/// The local instances of a user, each behind a proxy.
#[derive(Default)]
struct Links(BTreeMap<PathBuf, Proxy>);

impl Links {
    /// Puts a proxy before every instance that has none yet. Who was quicker talks past it until
    /// its link breaks.
    fn join(&mut self, instances: &Path) {
        for instance in fs::read_dir(instances).into_iter().flatten().flatten() {
            let (path, draft) = (instance.path(), instance.path().join("port.draft"));
            let port =
                fs::read_to_string(path.join("port")).ok().and_then(|p| p.trim().parse().ok());
            if let Some(port) = port
                && !self.0.contains_key(&path)
            {
                let proxy = Proxy::before(port);
                // An instance may be gone at any moment, and its folder with it.
                drop(fs::write(&draft, proxy.port.to_string()));
                drop(fs::rename(&draft, path.join("port")));
                self.0.insert(path, proxy);
            }
        }
        self.0.retain(|path, _| path.exists());
    }
}

/// What the blows of all seeds came to.
#[derive(Debug, Default)]
struct Struck {
    programs: u64,
    workers: u64,
    instances: u64,
    links: u64,
}

/// A run that is struck.
struct Victim {
    user: User,
    program: Child,
    links: Links,
    dice: Dice,
}

impl Victim {
    fn begin(seed: u64) -> Self {
        let user = User::new();
        user.file("prompts.jsonl", numbered(PROMPTS));
        let program = user.start(&RUN);
        Self { user, program, links: Links::default(), dice: Dice::new(seed) }
    }

    fn instances(&self) -> PathBuf {
        self.user.folder().join("home/instances")
    }

    /// Whether its run has something in this file.
    fn has_some(&self, file: &str) -> bool {
        let runs = fs::read_dir(self.user.folder().join("home/runs"));
        let mut runs = runs.into_iter().flatten().flatten();
        runs.any(|run| run.path().join(file).metadata().is_ok_and(|about| 0 < about.len()))
    }

    fn is_over(&mut self) -> bool {
        self.program.try_wait().expect("it can be asked").is_some()
    }

    /// Lets the run go on for a while; tells whether it still does.
    fn wait(&mut self, time: Duration) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.links.join(&self.instances());
            if self.is_over() {
                return false;
            }
            sleep(Duration::from_millis(2));
        }
        true
    }

    /// Kills the process with this word in its command line, in one of the instances that have it.
    fn kill(&mut self, word: &str) -> u64 {
        // A folder that is gone has no processes either.
        let there = self.links.0.keys().filter(|path| path.exists());
        let pids: Vec<Vec<String>> =
            there.map(|path| pids_in(path, word)).filter(|pids| !pids.is_empty()).collect();
        let Some(chosen) = self.dice.choose(&pids) else { return 0 };
        for pid in &pids[chosen] {
            signal(pid, "9");
        }
        1
    }

    fn strike(&mut self, struck: &mut Struck) {
        match self.dice.roll(5) {
            0 => {
                self.program.kill().expect("it can be killed");
                self.program.wait().expect("it ends");
                self.program = self.user.start(&["resume", "last"]);
                struck.programs += 1;
            }
            1 => struck.workers += self.kill("\0serve\0"),
            2 => struck.instances += self.kill("local-instance"),
            _ => {
                let (mood, pause) = (self.dice.roll(50_000), self.dice.roll(200));
                let links: Vec<&Proxy> = self.links.0.values().collect();
                let Some(chosen) = self.dice.choose(&links) else { return };
                links[chosen].set(Mood::CutAfter(mood));
                sleep(Duration::from_millis(pause));
                links[chosen].set(Mood::Pass);
                struck.links += 1;
            }
        }
    }

    /// Waits for the end. Returns how many prompts are missing and how many are there twice.
    fn end(mut self, seed: u64) -> (usize, usize) {
        while self.wait(Duration::from_mins(1)) {}
        let output = self.program.wait_with_output().expect("it ends");
        assert!(output.status.success(), "seed {seed}\n{}", conversation(&output));
        let mut found = ids(&self.user.folder().join("out.jsonl"));
        let in_order = found == numbered_ids(PROMPTS);
        let lines = found.len();
        found.sort_unstable();
        found.dedup();
        let (missing, doubled) = (PROMPTS - found.len().min(PROMPTS), lines - found.len());
        assert!(in_order || 0 < missing + doubled, "seed {seed}: not in order");
        self.user.assert_nothing_left();
        (missing, doubled)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "figures for whoever runs many of them")]
async fn runs_that_are_struck_at_random_lose_and_double_nothing() {
    let seeds =
        env::var("PIECEWORK_TEST_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number"));
    let first = env::var("PIECEWORK_TEST_SEED").map_or(0, |text| text.parse().expect("a number"));
    let (mut struck, mut missing, mut doubled) = (Struck::default(), 0, 0);
    for seed in first..first + seeds {
        let mut victim = Victim::begin(seed);
        // Some are struck from the start, and some once their workers have answered something.
        let begun = if seed.is_multiple_of(2) { "plan.json" } else { "completions.partial.jsonl" };
        while !victim.has_some(begun) {
            assert!(victim.wait(Duration::from_millis(2)), "seed {seed}: it ended at once");
        }
        for _ in 0..BLOWS {
            let pause = Duration::from_millis(100 + victim.dice.roll(500));
            if !victim.wait(pause) {
                break;
            }
            victim.strike(&mut struck);
        }
        let (lost, twice) = victim.end(seed);
        (missing, doubled) = (missing + lost, doubled + twice);
        println!("seed {seed}: {lost} missing, {twice} doubled; so far {struck:?}");
    }
    assert_eq!((missing, doubled), (0, 0));
    assert!(0 < struck.programs + struck.workers + struck.instances + struck.links);
}
