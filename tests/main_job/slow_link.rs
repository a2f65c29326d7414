//! Runs that are told to finish while a slow link keeps prompts back, or a broken one answers.

use crate::{
    elsewhere::setting,
    link::Link,
    program::{User, answers, ids, numbered_ids},
    proxy::{Mood, Proxy},
};
use piecework::{
    event::{Event, Events, SlotPhase},
    run::{Ladder, Stop, Why, run},
};
use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc::unbounded_channel, time::interval};

const PROMPTS: usize = 160;

/// Bytes of a prompt. A machine holds a hundred and more of them, which take the link a quarter of a minute.
const PROMPT: usize = 100_000;

/// Mbit/s from here to the machine, and back.
const RATE: (f64, f64) = (4.0, 100.0);

/// Bytes that may go up after the word to finish: what SSH has taken, the message under way, and what it
/// takes to hear the rest out.
const SENT: u64 = (2 << 20) + (1 << 20) + (1 << 19);

/// Text that hardly gets smaller, so that it takes its time.
fn texts(count: usize, bytes: usize) -> Vec<String> {
    let mut random = StdRng::seed_from_u64(1);
    let letters: Vec<char> = ('0'..='9').chain('A'..='Z').chain('a'..='z').collect();
    let mut letter = || letters[random.random_range(..letters.len())];
    (0..count).map(|_| (0..bytes).map(|_| letter()).collect()).collect()
}

/// The real worker, which takes the link no time.
fn worker(user: &User) -> std::path::PathBuf {
    let real = Path::new(env!("CARGO_BIN_EXE_piecework")).with_file_name("piecework-worker");
    let worker = user.file("worker", format!("#!/bin/sh\nexec '{}' \"$@\"\n", real.display()));
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).expect("it is ours");
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_told_to_finish_gives_up_at_once_what_waits_for_a_slow_link() {
    let (user, texts) = (User::new(), texts(PROMPTS, PROMPT));
    let entry = |(at, text)| format!("{{\"id\":\"q{at}\",\"prompt\":\"{text}\"}}\n");
    let prompts: String = texts.iter().enumerate().map(entry).collect();
    let link = Arc::new(Link::new(Duration::from_millis(50), RATE.0, RATE.1));
    let shared = link.clone();
    let mut setting = setting(user.folder(), &prompts, (1, 1000), move |port| shared.before(port));
    setting.worker = worker(&user);
    setting.folder.keep(&setting.plan).expect("there is room");
    let up = || link.up.bytes.load(Relaxed);

    let (events, mut heard) = unbounded_channel();
    let ladder = Ladder::default();
    let running = run(setting, Events::to(events), ladder.clone());
    tokio::pin!(running);
    let mut asked = None;
    let outcome = loop {
        tokio::select! {
            outcome = &mut running => break outcome.expect("it can be begun"),
            Some(event) = heard.recv() => {
                let answered = matches!(event, Event::Progress(progress) if 0 < progress.done);
                if answered && asked.is_none() {
                    asked = Some((Instant::now(), up()));
                    ladder.raise(Stop::Drain);
                }
            }
        }
    };
    let (asked, before) = asked.expect("something was answered");
    let (since, done) = (up() - before, outcome.summary.done);
    assert!(matches!(outcome.why, Some(Why::Stopped(_))) && outcome.owed.is_empty(), "{outcome:?}");
    assert!(since < SENT, "{since} bytes went up after it was told to finish, {before} before");
    assert!(asked.elapsed() < Duration::from_mins(1), "it took {:?}", asked.elapsed());
    let kept = ids(&user.only_run().join("completions.partial.jsonl"));
    assert_eq!((kept.len() as u64, outcome.summary.failed), (done, 0));

    let resumed = user.done(&["resume", "last", "--json"]).stdout;
    let events = String::from_utf8(resumed).expect("it is JSON");
    let mut events = events.lines().map(|line| serde_json::from_str(line).expect("it is JSON"));
    let progress = events.rfind(|event: &Value| event["event"] == "progress");
    let answered = progress.expect("it goes on")["machines"][0]["prompts"].as_u64();
    assert_eq!(answered, Some(PROMPTS as u64 - done), "what was kept isn't done again");
    let out = user.folder().join("out.jsonl");
    assert_eq!(ids(&out), numbered_ids(PROMPTS));
    for (id, answer) in answers(&out) {
        let at: usize = id[1..].parse().expect("a number");
        assert!(answer["message"]["content"] == texts[at].as_str(), "{id}");
    }
    user.assert_nothing_left();
}

/// The link breaks, the machine answers all that it holds meanwhile, the run is told to finish, and the link
/// comes back. What was answered is paid for.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_wait_behind_a_broken_link_are_taken_before_a_run_that_is_told_to_finish_ends()
{
    let user = User::new();
    let lines = texts(400, PROMPT / 5).into_iter();
    let lines: Vec<_> = lines.map(|text| format!("{{\"prompt\":\"{text}\"}}\n")).collect();
    let prompts = lines.concat();
    let proxies = Arc::new(Mutex::new(Vec::new()));
    let all = proxies.clone();
    // The answers that wait take it seconds.
    let link = Arc::new(Link::new(Duration::from_millis(50), 100.0, 4.0));
    let setting = setting(user.folder(), &prompts, (1, 20), move |port| {
        let proxy = Proxy::before(link.before(port));
        let before = proxy.port;
        all.lock().expect("nobody panics").push(proxy);
        before
    });
    let set = |mood| {
        proxies.lock().expect("nobody panics").iter().for_each(|proxy: &Proxy| proxy.set(mood));
    };
    let (events, mut heard) = unbounded_channel();
    let ladder = Ladder::default();
    let running = run(setting, Events::to(events), ladder.clone());
    tokio::pin!(running);
    let mut look = interval(Duration::from_secs(2));
    let (mut done, mut holds, mut spooled) = (0, 0, 0);
    let (mut is_cut, mut asked) = (false, None);
    let outcome = loop {
        tokio::select! {
            outcome = &mut running => break outcome.expect("it can be begun"),
            Some(event) = heard.recv() => {
                if let Event::Progress(progress) = &event {
                    done = progress.done;
                }
                if let Event::Phase { phase, .. } = event
                    && let SlotPhase::Working { waiting, running, .. } = phase
                {
                    holds = waiting + running;
                }
            }
            _ = look.tick(), if asked.is_none() => {
                if !is_cut && 10 <= done {
                    set(Mood::CutAfter(1));
                    is_cut = true;
                } else if is_cut {
                    // It has answered all that it holds once nothing more is kept.
                    let before = std::mem::replace(&mut spooled, kept_by_the_worker(user.folder()));
                    if 0 < spooled && before == spooled {
                        asked = Some((done, holds));
                        ladder.raise(Stop::Drain);
                        set(Mood::Pass);
                    }
                }
            }
        }
    };
    let ((before, held), done) = (asked.expect("it was told to finish"), outcome.summary.done);
    assert!(matches!(outcome.why, Some(Why::Stopped(_))) && outcome.owed.is_empty(), "{outcome:?}");
    // What was on its way when the link broke is counted twice or not at all.
    assert!(
        before + held * 3 / 4 <= done,
        "{before} were done, {held} held, and {done} done in the end"
    );
}

/// Bytes of answers that a worker keeps below a folder.
fn kept_by_the_worker(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| {
        let path = entry.path();
        match entry.metadata() {
            Ok(found) if found.is_dir() => kept_by_the_worker(&path),
            Ok(found) if path.ends_with("spool") => found.len(),
            _ => 0,
        }
    });
    sizes.sum()
}
