//! Every kind of request that a run makes, struck by every fault: whatever is billed when the
//! program is over has been named by its last words, and can be ended.
//!
//! A few cases are tried each time. `PIECEWORK_TEST_STRUCK=1` tries all of them, and another
//! number one of so many; `PIECEWORK_TEST_CASE` only those whose names have this text.

use crate::{
    cloud::Cloud,
    program::{User, conversation, ids, numbered_ids, signal},
};
use providers::PROVIDERS;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    env, fmt,
    fs::{self, File},
    path::Path,
    process::Output,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const PROMPTS: usize = 12;

/// Beside what every run has.
const MORE: [&str; 5] = ["--yes", "--out", "out.jsonl", "--max-price", "50"];

/// One of how many cases is tried, where the environment doesn't say it. It shares no factor with
/// the numbers of faults, kinds of requests and marketplaces, so that all of them have their turn.
const STRIDE: usize = 97;

/// Cases at once: they wait most of the time.
const AT_ONCE: usize = 8;

/// How long a run may take that nobody interrupts.
const LIMIT: Duration = Duration::from_mins(2);

/// How often a fault strikes that never ends.
const ALWAYS: u64 = 1_000_000;

/// What requests are for.
const CALLS: [&str; 8] = ["offers", "rent", "list", "show", "release", "keys", "token", "other"];

/// Something that goes wrong, and what else goes wrong with what is rented.
#[derive(Clone)]
struct Blow {
    fault: Value,
    with: Value,
    /// One that would keep the run waiting for as long as a machine may take to boot.
    is_endless: bool,
}

impl Blow {
    fn new(fault: Value) -> Self {
        Self { fault, with: Value::Null, is_endless: false }
    }

    fn rental(mishap: &Value) -> Self {
        Self::new(json!({ "rental": mishap }))
    }

    fn with(fault: Value, mishap: Value) -> Self {
        Self { with: mishap, ..Self::new(fault) }
    }
}

/// What can go wrong with any request.
fn blows() -> Vec<Blow> {
    let status = |code| json!({ "status": { "code": code, "retry_after": null } });
    let mut blows = vec![
        json!("lose_reply"),
        json!("drop"),
        json!({ "status": { "code": 429, "retry_after": 1 } }),
        json!({ "late5xx": { "code": 502 } }),
        json!("truncate"),
        json!("garble"),
        json!({ "echo": { "code": 400 } }),
        json!({ "echo": { "code": 500 } }),
        json!({ "slow": { "millis": 300 } }),
        // Longer than anybody waits for a listing.
        json!({ "slow": { "millis": 6_000 } }),
    ];
    blows.extend([400, 401, 403, 404, 409, 429, 500, 503].map(status));
    blows.into_iter().map(Blow::new).collect()
}

/// What can go wrong with what is rented.
fn mishaps(market: &str) -> Vec<Blow> {
    let late = || json!({ "late": { "millis": 700 } });
    let dearer = |percent| json!({ "dearer": { "percent": percent } });
    let outbid = |millis| json!({ "outbid": { "millis": millis } });
    let mut blows = vec![
        Blow::rental(&json!("offer_gone")),
        Blow::rental(&json!("out_of_funds")),
        Blow::rental(&json!("bid_too_low")),
        Blow::new(json!("twice")),
        Blow::with(json!({ "late5xx": { "code": 404 } }), late()),
        Blow::rental(&late()),
        Blow::rental(&json!({ "boot": { "millis": 1_500 } })),
        Blow::rental(&outbid(0)),
        Blow::rental(&outbid(1_200)),
        Blow::rental(&dearer(1)),
        Blow::rental(&dearer(40)),
        Blow { is_endless: true, ..Blow::rental(&json!("never_ready")) },
        Blow { is_endless: true, ..Blow::rental(&json!({ "state": { "word": "pondering" } })) },
        Blow::with(json!("lose_reply"), late()),
        Blow::with(json!({ "late5xx": { "code": 502 } }), late()),
        Blow::with(json!("truncate"), late()),
        Blow::with(json!("garble"), late()),
        Blow::with(json!("lose_reply"), outbid(0)),
        Blow::with(json!("lose_reply"), dearer(40)),
    ];
    if market == "verda" {
        blows.push(Blow::rental(&json!("leaves_disk")));
        blows.push(Blow::with(json!("lose_reply"), json!("leaves_disk")));
    }
    blows
}

/// One run, and what strikes it.
#[derive(Clone)]
struct Case {
    market: &'static str,
    call: &'static str,
    /// Only once something has been given back.
    settling: bool,
    times: u64,
    blow: Blow,
    /// Whether its machines leave their disks behind.
    leaves_disk: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { market, call, settling, times, blow, leaves_disk } = self;
        let when = if *settling { " while settling" } else { "" };
        let times = if *times == ALWAYS { "always".to_owned() } else { format!("x{times}") };
        write!(f, "{market} {call}{when} {times}: {}", blow.fault)?;
        if !blow.with.is_null() {
            write!(f, " with {}", blow.with)?;
        }
        if *leaves_disk { write!(f, ", disk left") } else { Ok(()) }
    }
}

/// How a case ended.
struct Ended {
    /// No such request was made.
    is_missed: bool,
    code: i32,
    is_interrupted: bool,
    /// How many rentals were billed when the program was over, all of which it had named.
    named: usize,
}

impl Case {
    fn plan(&self) -> Value {
        let since = self.settling.then_some("release");
        let mut plan = vec![json!({
            "provider": self.market, "call": self.call, "since": since, "times": self.times,
            "fault": self.blow.fault, "with": self.blow.with,
        })];
        if self.leaves_disk {
            let fault = json!({ "rental": "leaves_disk" });
            plan.push(json!({ "call": "rent", "times": ALWAYS, "fault": fault }));
        }
        plan.into()
    }

    /// Runs it. The error is what is wrong with how it ended.
    fn run(&self, test: &str) -> Result<Option<Ended>, String> {
        let Some(cloud) = Cloud::start(test) else { return Ok(None) };
        let user = User::new();
        cloud.plan(&self.plan());
        let struck = || self.times - cloud.planned()[0]["times"].as_u64().expect("a number");
        let (output, is_interrupted) = self.conduct(&cloud, &user, &struck);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Before it has anything to give back an interrupt ends it at once.
        let code = output.status.code().unwrap_or(-1);
        let fail = |why: &str, world: &Value| {
            format!("{self}: {why}\n{}\n{world:#}", conversation(&output))
        };

        let world = cloud.world(self.market);
        let billed = billed(&world);
        if let Some(label) = billed.iter().find(|label| !said.contains(label.as_str())) {
            return Err(fail(&format!("{label} is billed, and was not named"), &world));
        }
        let disks = billed_disks(&world);
        if code == -1 && world["rentals"] != json!([]) {
            return Err(fail("an interrupt has killed it", &world));
        }
        if (0 < billed.len() + disks) && code != 70 {
            return Err(fail(
                "something is billed, and its exit code says that nothing is",
                &world,
            ));
        }
        if code == 70 && !said.contains("something may still be billed") {
            return Err(fail("it says only by its exit code that something may be billed", &world));
        }
        if code == 70 && !is_interrupted && billed.is_empty() && disks == 0 {
            return Err(fail("nothing is billed, and it says that something may be", &world));
        }
        if has_doubled(&world) && self.blow.fault != json!("twice") {
            return Err(fail("two machines were rented under one label", &world));
        }
        let out = user.folder().join("out.jsonl");
        if code == 0 && (!out.exists() || ids(&out) != numbered_ids(PROMPTS)) {
            return Err(fail("it says that it is done, and the completions say otherwise", &world));
        }

        let is_missed = struck() == 0;
        self.see_to_the_rest(&cloud, &user, code, &billed).map_err(|why| fail(&why, &world))?;
        Ok(Some(Ended { is_missed, code, is_interrupted, named: billed.len() }))
    }

    /// Runs the program to its end, which an interrupt brings about where nothing else would.
    fn conduct(&self, cloud: &Cloud, user: &User, struck: &dyn Fn() -> u64) -> (Output, bool) {
        let (out, err) = (user.folder().join("stdout"), user.folder().join("stderr"));
        let file = |path: &Path| File::create(path).expect("it can be written");
        let mut command = cloud.run(user, self.market, PROMPTS, &MORE);
        let mut program =
            command.stdout(file(&out)).stderr(file(&err)).spawn().expect("the program runs");
        let (begun, mut is_interrupted) = (Instant::now(), false);
        let status = loop {
            if let Some(status) = program.try_wait().expect("it can be asked") {
                break status;
            }
            let is_waited_for = LIMIT < begun.elapsed() || self.times == ALWAYS && 3 <= struck();
            if self.blow.is_endless && !is_interrupted && cloud.world(self.market)["billed"] == 1 {
                signal(&program.id().to_string(), "INT");
                is_interrupted = true;
            } else if is_waited_for {
                // Up the whole ladder, one rung at a time.
                signal(&program.id().to_string(), "INT");
                is_interrupted = true;
            }
            thread::sleep(Duration::from_millis(50));
        };
        let read = |path: &Path| fs::read(path).expect("it was written");
        (Output { status, stdout: read(&out), stderr: read(&err) }, is_interrupted)
    }

    /// Whatever was left is shown, is ended once nothing fails any more, and the run can be gone on
    /// with to its end.
    fn see_to_the_rest(
        &self,
        cloud: &Cloud,
        user: &User,
        code: i32,
        billed: &[String],
    ) -> Result<(), String> {
        let tell = |arguments: &[&str]| {
            cloud.piecework(user, self.market, arguments).output().expect("it runs")
        };
        let shows_all = |output: &Output| {
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            billed.iter().all(|label| shown.contains(label))
        };
        if code == 70 {
            let ps = tell(&["ps", "--json"]);
            if !shows_all(&ps) {
                return Err(format!("`ps` hides what is billed\n{}", conversation(&ps)));
            }
        }
        cloud.plan(&json!([]));
        if code == 70 {
            let ps = tell(&["ps", "--json"]);
            if !shows_all(&ps) {
                return Err(format!("`ps` hides what is billed\n{}", conversation(&ps)));
            }
        }
        let cleanup = tell(&["cleanup", "--yes"]);
        let world = cloud.world(self.market);
        if cleanup.status.code() != Some(0) || world["billed"] != 0 {
            return Err(format!("`cleanup` leaves it\n{}\n{world:#}", conversation(&cleanup)));
        }
        let has_plan = |run: &fs::DirEntry| run.path().join("plan.json").exists();
        let runs = fs::read_dir(user.folder().join("home/runs"));
        let is_kept = runs.into_iter().flatten().flatten().any(|run| has_plan(&run));
        if code != 0 && is_kept {
            let resumed = tell(&["resume", "last", "--yes"]);
            let out = user.folder().join("out.jsonl");
            if resumed.status.code() != Some(0) || ids(&out) != numbered_ids(PROMPTS) {
                return Err(format!("`resume` doesn't end it\n{}", conversation(&resumed)));
            }
        }
        let world = cloud.world(self.market);
        match (&world["billed"], &world["keys"]) {
            (billed, _) if *billed != 0 => Err(format!("it is billed after all\n{world:#}")),
            (_, keys) if *keys != json!([]) => {
                Err(format!("a key stays on the account\n{world:#}"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether two rentals have one label.
fn has_doubled(world: &Value) -> bool {
    let rentals = world["rentals"].as_array().expect("it lists them");
    let mut labels: Vec<_> = rentals.iter().map(|rental| rental["label"].to_string()).collect();
    labels.sort();
    labels.windows(2).any(|pair| pair[0] == pair[1])
}

/// The labels of what is billed.
fn billed(world: &Value) -> Vec<String> {
    let rows = world["rentals"].as_array().expect("it lists them").iter();
    let rows = rows.filter(|row| row["billed"] == true);
    rows.map(|row| row["label"].as_str().expect("it has one").to_owned()).collect()
}

fn billed_disks(world: &Value) -> usize {
    let disks = world["disks"].as_array().expect("it lists them").iter();
    disks.filter(|disk| disk["billed"] == true).count()
}

/// The kinds of requests that a run makes at a marketplace where nothing fails: in all, and after
/// the first that gave something back.
fn requests(market: &'static str, test: &str) -> Option<Vec<(&'static str, bool)>> {
    let cloud = Cloud::start(test)?;
    let user = User::new();
    let positions = [true, false].into_iter().flat_map(|late| CALLS.map(|call| (call, late)));
    let positions: Vec<_> = positions.collect();
    let probe = |(call, late): &(&str, bool)| {
        let since = late.then_some("release");
        let nothing = json!({ "slow": { "millis": 0 } });
        json!({ "call": call, "since": since, "times": ALWAYS, "fault": nothing })
    };
    cloud.plan(&positions.iter().map(probe).collect());
    let output = cloud.run(&user, market, PROMPTS, &MORE).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{market}: {}", conversation(&output));
    let planned = cloud.planned();
    let is_made = |at: &usize| planned[*at]["times"] != json!(ALWAYS);
    Some((0..positions.len()).filter(is_made).map(|at| positions[at]).collect())
}

/// Every case, or none where no fakecloud can be had.
fn cases(test: &str) -> Option<Vec<Case>> {
    let mut cases = Vec::new();
    // One whose end is told by its first answer, and one for each other way to go on for ever.
    let for_ever = [
        json!("drop"),
        json!("lose_reply"),
        json!("garble"),
        json!({ "status": { "code": 401, "retry_after": null } }),
        json!({ "status": { "code": 500, "retry_after": null } }),
    ];
    for market in PROVIDERS.iter().map(|provider| provider.name) {
        for (call, settling) in requests(market, test)? {
            let mut all = blows();
            if call == "rent" {
                all.extend(mishaps(market));
            }
            for blow in all {
                let mut times = vec![1];
                if !blow.is_endless {
                    times.push(2);
                }
                if for_ever.contains(&blow.fault) && blow.with.is_null() {
                    times.push(ALWAYS);
                }
                for times in times {
                    let blow = blow.clone();
                    let case = Case { market, call, settling, times, blow, leaves_disk: false };
                    // What looks after disks has something to do only where one is left.
                    if market == "verda" && settling {
                        cases.push(Case { leaves_disk: true, ..case.clone() });
                    }
                    cases.push(case);
                }
            }
        }
    }
    Some(cases)
}

#[test]
#[expect(clippy::print_stdout, reason = "figures for whoever runs all of them")]
fn whatever_fails_nothing_is_billed_that_was_not_named() {
    let test = "every request struck by every fault";
    let number = |name, or| env::var(name).map_or(or, |text| text.parse().expect("a number"));
    let stride = number("PIECEWORK_TEST_STRUCK", STRIDE);
    let at_once = number("PIECEWORK_TEST_AT_ONCE", AT_ONCE);
    let Some(all) = cases(test) else { return };
    let of = all.len();
    let only = env::var("PIECEWORK_TEST_CASE").unwrap_or_default();
    let named = all.into_iter().filter(|case| case.to_string().contains(&only));
    let chosen: Vec<Case> = named.step_by(stride.max(1)).collect();
    let next = AtomicUsize::new(0);
    let ended: Mutex<Vec<(&Case, Ended)>> = Mutex::default();
    let failed: Mutex<Vec<String>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = chosen.get(at) else { break };
                    if at.is_multiple_of(100) {
                        println!("{at} of {}: {case}", chosen.len());
                    }
                    match case.run(test) {
                        Ok(end) => ended.lock().expect("whole").extend(end.map(|end| (case, end))),
                        Err(why) => {
                            println!("FAILED {why}");
                            failed.lock().expect("whole").push(case.to_string());
                        }
                    }
                }
            });
        }
    });
    let ended = ended.into_inner().expect("whole");
    let failed = failed.into_inner().expect("whole");
    let mut tally: BTreeMap<(&str, i32), usize> = BTreeMap::new();
    let met = || ended.iter().filter(|(_, end)| !end.is_missed);
    for (case, end) in met() {
        *tally.entry((case.market, end.code)).or_default() += 1;
    }
    println!("ends by marketplace and exit code: {tally:?}");
    println!(
        "{} of {of} cases: {} struck, {} ended by interrupts, {} rentals billed at the end and \
         named, {} failed",
        chosen.len(),
        met().count(),
        met().filter(|(_, end)| end.is_interrupted).count(),
        met().map(|(_, end)| end.named).sum::<usize>(),
        failed.len(),
    );
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(0 < met().count() || chosen.is_empty());
}
