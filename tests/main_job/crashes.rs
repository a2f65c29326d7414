//! The program ends at every place of a run where it can, and one net alone catches what falls.

use crate::{
    cloud::Cloud,
    program::{User, conversation, eventually, ids, numbered_ids, pids_in, signal},
};
use providers::{PROVIDERS, crash};
use serde_json::json;
use std::{
    collections::BTreeMap,
    env, fs,
    process::Output,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

const PROMPTS: usize = 24;

/// How many cases are under way at once. They mostly wait.
const AT_ONCE: usize = 4;

/// What is left to end what the run has rented. All others are taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Net {
    /// The second process, without any other word from anybody.
    Guard,
    /// `resume`.
    Resume,
    /// `cleanup`.
    Cleanup,
    /// The machine itself, which hears nothing any more.
    Watchdog,
    /// The run's own way out: the program isn't killed, but a task of it panics.
    Bracket,
}

impl Net {
    const ALL: [Self; 5] =
        [Self::Guard, Self::Resume, Self::Cleanup, Self::Watchdog, Self::Bracket];

    /// Whether there is such a net at a marketplace.
    fn is_at(self, market: &str) -> bool {
        self != Self::Watchdog || ["vast", "runpod", "shadeform"].contains(&market)
    }
}

/// One place, at one marketplace, with one net.
#[derive(Clone, Copy, Debug)]
struct Case {
    market: &'static str,
    net: Net,
    place: usize,
}

/// What became of one.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The run came to its end before the place.
    NotReached,
    /// It was struck before it had rented anything, or with nothing left to pay for.
    NothingOwed,
    /// It left this many instances, which the net has ended.
    Caught(usize),
}

fn run(cloud: &Cloud, user: &User, case: Case, crash: &str) -> Output {
    let more = ["--yes", "--out", "out.jsonl", "--echo-pace", "200"];
    let mut command = cloud.run(user, case.market, PROMPTS, &more);
    command.env(crash::VARIABLE, crash);
    command.env("PIECEWORK_GUARD_GRACE", if case.net == Net::Guard { "1" } else { "9999" });
    let patience = if case.net == Net::Watchdog { "20,5" } else { "9999,9999" };
    command.env("PIECEWORK_WATCHDOG", patience);
    command.output().expect("it runs")
}

impl Case {
    fn strike(self) -> Option<End> {
        let cloud = Cloud::start(&format!("{self:?}"))?;
        let user = User::new();
        let how = if self.net == Net::Bracket { "panic" } else { "abort" };
        let struck = run(&cloud, &user, self, &format!("{how}:{}", self.place));
        if self.net != Net::Bracket && struck.status.success() {
            self.check(&cloud, &user, &struck);
            return Some(End::NotReached);
        }
        let left = cloud.world(self.market)["billed"].as_u64().expect("it is a number");
        let left = usize::try_from(left).expect("they are few");
        if self.net != Net::Guard {
            end_the_guard(&user);
        }
        match self.net {
            Net::Guard | Net::Watchdog => cloud.wait_until_nothing_is_billed(self.market),
            Net::Cleanup => {
                let cleanup = cloud.piecework(&user, self.market, &["cleanup", "--yes"]).output();
                let cleanup = cleanup.expect("it runs");
                assert!(cleanup.status.success(), "{self:?}\n{}", conversation(&cleanup));
            }
            Net::Bracket => assert_eq!(left, 0, "{self:?}\n{}", conversation(&struck)),
            Net::Resume => {}
        }
        if self.net != Net::Resume {
            assert_eq!(cloud.world(self.market)["billed"], 0, "{self:?}");
        }
        if self.net == Net::Bracket && struck.status.success() {
            self.check(&cloud, &user, &struck);
        } else {
            let done = self.go_on(&cloud, &user);
            self.check(&cloud, &user, &done);
        }
        Some(if left == 0 { End::NothingOwed } else { End::Caught(left) })
    }

    /// Does what is left of the run, or all of it where it never began.
    fn go_on(self, cloud: &Cloud, user: &User) -> Output {
        let runs = fs::read_dir(user.folder().join("home/runs")).into_iter().flatten().flatten();
        if runs.into_iter().any(|run| run.path().join("plan.json").exists()) {
            let resume = ["resume", "last", "--yes"];
            return cloud.piecework(user, self.market, &resume).output().expect("it runs");
        }
        run(cloud, user, self, "")
    }

    /// Nothing is billed, nothing is left, and every prompt is there once.
    fn check(self, cloud: &Cloud, user: &User, last: &Output) {
        assert!(last.status.success(), "{self:?}\n{}", conversation(last));
        assert_eq!(ids(&user.folder().join("out.jsonl")), numbered_ids(PROMPTS), "{self:?}");
        let world = cloud.world(self.market);
        let left = json!([world["billed"], world["keys"], world["disks"]]);
        assert_eq!(left, json!([0, [], []]), "{self:?}\n{}\n{world:#}", conversation(last));
        eventually("the end of the guard", || guards(user).is_empty().then_some(()));
    }
}

fn guards(user: &User) -> Vec<String> {
    let home = user.folder().join("home");
    if home.exists() { pids_in(&home, "guard") } else { Vec::new() }
}

fn end_the_guard(user: &User) {
    eventually("the end of the guard", || {
        let guards = guards(user);
        for guard in &guards {
            signal(guard, "KILL");
        }
        guards.is_empty().then_some(())
    });
}

/// The names of the places that a run passes.
fn places(market: &'static str) -> Option<Vec<String>> {
    let cloud = Cloud::start(&format!("the places at {market}"))?;
    let user = User::new();
    let (file, case) = (user.folder().join("places"), Case { market, net: Net::Cleanup, place: 0 });
    let whole = run(&cloud, &user, case, &format!("note:{}", file.display()));
    case.check(&cloud, &user, &whole);
    let names = fs::read_to_string(file).expect("it passes some");
    Some(names.lines().map(str::to_owned).collect())
}

/// Strikes all of `cases`, several at once. What came of each, and what went wrong.
fn strike_all(cases: &[Case]) -> Vec<(Case, Result<End, String>)> {
    let (next, ends) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(&case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let struck = thread::spawn(move || case.strike()).join();
                    let end = match struck {
                        Ok(None) => return,
                        Ok(Some(end)) => Ok(end),
                        Err(panic) => Err(words(&*panic)),
                    };
                    ends.lock().unwrap_or_else(PoisonError::into_inner).push((case, end));
                }
            });
        }
    });
    ends.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

#[test]
#[expect(clippy::print_stdout, reason = "figures for whoever strikes every place")]
fn whatever_place_a_run_ends_at_one_net_alone_ends_what_it_has_rented() {
    // `all`, or the marketplaces whose every place is to be struck.
    let asked = env::var("PIECEWORK_TEST_CRASHES").unwrap_or_default();
    let mut cases = Vec::new();
    for (number, provider) in PROVIDERS.iter().enumerate() {
        let market = provider.name;
        let whole = asked == "all" || asked.split(',').any(|name| name == market);
        if !whole && !asked.is_empty() {
            continue;
        }
        let Some(places) = places(market) else { return };
        println!("{market}: {} places", places.len());
        for (shift, net) in Net::ALL.into_iter().enumerate().filter(|(_, net)| net.is_at(market)) {
            // A run of another time may pass more of them, as it asks more often.
            let last = places.len() + places.len() / 10;
            let some = (places.len() / 2, 7 * number + 3 * shift);
            let chosen = (1..=last).filter(|place| whole || place % some.0 == some.1 % some.0);
            cases.extend(chosen.map(|place| Case { market, net, place }));
        }
    }
    let ends = strike_all(&cases);
    let mut told: BTreeMap<_, [usize; 4]> = BTreeMap::new();
    for (case, end) in &ends {
        let column = match end {
            Ok(End::NotReached) => 0,
            Ok(End::NothingOwed) => 1,
            Ok(End::Caught(_)) => 2,
            Err(why) => {
                println!("FAILED {case:?}: {why}");
                3
            }
        };
        told.entry((case.market, format!("{:?}", case.net))).or_default()[column] += 1;
    }
    for ((market, net), [missed, nothing, caught, failed]) in &told {
        println!(
            "{market} {net}: {caught} left an instance that was caught, {nothing} left none, \
             {missed} were not reached, {failed} failed"
        );
    }
    assert_eq!(ends.len(), cases.len());
    assert!(ends.iter().all(|(_, end)| end.is_ok()), "see above");
    assert!(ends.iter().any(|(_, end)| matches!(end, Ok(End::Caught(_)))));
}
