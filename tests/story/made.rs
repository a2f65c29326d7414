//! A run of a day and a half, as it would be found: three machines at once, one of them taken away
//! and replaced, a night's pause, and a session that died. Its story is kept by the program's own
//! code, only that nobody waits for the time to pass.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a day has few seconds"
)]

use crate::program::{User, numbered};
use jiff::Timestamp;
use piecework::{
    event::{Event, Latency, MachineProgress, Progress, SlotPhase, Summary},
    story,
};
use providers::{InstanceId, Label, Usd, UsdPerHour};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::mpsc::SyncSender,
    time::Duration,
};

/// Prompts of the made run.
pub(crate) const PROMPTS: u64 = 4_000_000;

const HOUR: f64 = 3600.0;

/// 2026-11-24T08:00:00Z.
const BEGIN: i64 = 1_795_507_200;

fn at(seconds: f64) -> Timestamp {
    let begin = Timestamp::from_second(BEGIN).unwrap();
    begin.checked_add(Duration::from_secs_f64(seconds)).unwrap()
}

/// A machine of the made run.
struct Machine {
    slot: u32,
    attempt: u32,
    /// Dollars an hour, times a million.
    price: u64,
    what: &'static str,
    provider: &'static str,
    rate: f64,
    /// Ordered and released, in seconds from the begin.
    life: (f64, f64),
    /// Why it was given up.
    lost: Option<&'static str>,
    done: BTreeMap<u32, u64>,
}

impl Machine {
    fn label(&self) -> Label {
        Label(format!(
            "pw-7kq3f-nov24-made-{}-{}-zzzzzz-abcde{}",
            self.slot, self.attempt, self.slot
        ))
    }

    /// When it begins to work, having been ordered.
    fn ready(&self) -> f64 {
        self.life.0 + 380.0
    }
}

/// The machines, for as many slots as there are to be: the first three are the ones to look at.
fn machines(slots: u32) -> Vec<Machine> {
    let make = |slot, attempt, life, lost| {
        let (what, provider, price, rate) = match slot % 3 {
            0 => ("1 × RTX 4090, 16 cores, 62.9 GiB, Sweden", "vast", 310_000, 9.6),
            1 => ("1 × RTX 4090, 24 cores, 125.7 GiB, Oregon, US", "runpod", 340_000, 10.4),
            _ => ("1 × L40S, 12 cores, 96.0 GiB, Finland", "verda", 790_000, 13.1),
        };
        let rate = rate * 3.0 / f64::from(slots);
        Machine { slot, attempt, price, what, provider, rate, life, lost, done: BTreeMap::new() }
    };
    let taken = Some("the marketplace has taken the instance back: it was outbid");
    let mut all = vec![
        make(0, 0, (12.0, 9.2 * HOUR), taken),
        make(0, 1, (9.2 * HOUR + 4.0, 14.1 * HOUR), None),
        // The session died at the fourteenth hour, and the guard came after it.
        make(1, 0, (12.0, 14.1 * HOUR), None),
        make(2, 0, (14.0, 14.1 * HOUR), None),
    ];
    all.extend((0..3).map(|slot| make(slot, 2, (23.0 * HOUR + 15.0, 47.0 * HOUR), None)));
    for slot in 3..slots {
        all.push(make(slot, 0, (15.0, 14.1 * HOUR), None));
        all.push(make(slot, 2, (23.0 * HOUR + 15.0, 47.0 * HOUR), None));
    }
    all
}

/// Sessions: begin and end in seconds, and whether the end was its own.
const SESSIONS: [(f64, f64, bool); 2] =
    [(0.0, 14.0 * HOUR, false), (23.0 * HOUR, 47.0 * HOUR + 30.0, true)];

/// Makes the folder of such a run, with so many machines at once.
pub(crate) fn make(user: &User, slots: u32) -> PathBuf {
    user.file("prompts.jsonl", numbered(1));
    user.done(&["run", "prompts.jsonl", "--engine", "echo"]);
    let folder = user.only_run();
    let plan = folder.join("plan.json");
    let mut text: Value = serde_json::from_slice(&fs::read(&plan).unwrap()).unwrap();
    text["run"] = "nov24-made".into();
    text["begun"] = at(0.0).to_string().into();
    text["prompts"] = PROMPTS.into();
    text["job"]["model"]["name"] = "Llama-3.1-8B-Instruct".into();
    text["budget"] = 70_000_000.into();
    text["estimate"] = json!({ "seconds": 33.5 * HOUR, "cost": 48_200_000 });
    text["at_most"] = 70_000_000.into();
    fs::write(&plan, text.to_string()).unwrap();
    let mut machines = machines(slots);
    ledger(&folder.join("ledger"), &machines);
    fs::remove_file(folder.join("story.jsonl")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut counts = Counts::default();
    for (number, session) in SESSIONS.into_iter().enumerate() {
        let (sender, scribe) = story::keep(folder.join("story.jsonl"));
        tell(&sender, session, u32::try_from(number).unwrap(), &mut machines, &mut counts);
        drop(sender);
        runtime.block_on(scribe.finish());
    }
    let (done, failed) = (PROMPTS - 37, 37);
    let ordered = json!({
        "completed": done, "failed": failed, "tokens_in": done * 1_012, "tokens_out": done * 187,
    });
    fs::write(folder.join("ordered.json"), ordered.to_string()).unwrap();
    fs::write(folder.join("errors.jsonl"), errors()).unwrap();
    folder
}

fn errors() -> String {
    let error = |index: u64, failure: &str, reason: String| {
        json!({ "id": format!("piecework-nov24-made-{index}"), "line": index + 1,
            "custom_id": null, "failure": failure, "reason": reason })
        .to_string()
            + "\n"
    };
    let long =
        |i| error(i, "too_long", format!("the prompt has {} tokens, and 8192 fit", 8200 + i));
    let bad = |i| error(i, "bad_line", format!("it is no JSON: a value is missing, column {i}"));
    let odd = |i| error(i, "engine", "the server died of it <twice> & for good".to_owned());
    (0..24).map(long).chain((40..51).map(bad)).chain((60..62).map(odd)).collect()
}

fn ledger(path: &Path, machines: &[Machine]) {
    let mut lines: Vec<(f64, Value)> = Vec::new();
    for (begin, ..) in SESSIONS {
        let opened = json!({ "run": "nov24-made", "pid": 4711, "host": "laptop" });
        lines.push((begin, json!({ "opened": opened })));
    }
    for machine in machines {
        let entry = |entry: Value| json!({ "lease": { "label": machine.label(), "entry": entry } });
        let terms = json!({
            "provider": machine.provider, "offer": "1", "price": machine.price,
            "worst": 9_000_000, "expires": at(60.0 * HOUR).to_string(),
        });
        let (begin, end) = machine.life;
        lines.push((begin, entry(json!({ "ordered": terms }))));
        lines.push((begin + 6.0, entry(json!({ "rented": format!("i-{}", machine.slot) }))));
        lines.push((end - 8.0, entry(json!("releasing"))));
        lines.push((end, entry(json!("released"))));
    }
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    let line = |(seconds, fact): (f64, Value)| {
        let mut text = json!({ "v": 1, "at": at(seconds.floor()).to_string() });
        text.as_object_mut().unwrap().extend(fact.as_object().unwrap().clone());
        let text = text.to_string();
        format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes()))
    };
    fs::write(path, lines.into_iter().map(line).collect::<String>()).unwrap();
}

/// What was counted, over all sessions.
#[derive(Default)]
struct Counts {
    done: u64,
}

/// Sends what is heard of a session, second by second, or nearly.
fn tell(
    sender: &SyncSender<(Timestamp, Event)>,
    (begin, end, ends_well): (f64, f64, bool),
    number: u32,
    machines: &mut [Machine],
    counts: &mut Counts,
) {
    let send = |seconds: f64, event| sender.send((at(seconds), event)).unwrap();
    send(
        begin,
        Event::RunStarted {
            run: "nov24-made".parse().unwrap(),
            folder: PathBuf::new(),
            model: "Llama-3.1-8B-Instruct".into(),
            engine: "echo".into(),
            prompts: PROMPTS,
            already: counts.done,
        },
    );
    let mut latency = Latency::default();
    let mut moment = begin;
    let mut told: BTreeMap<Label, usize> = BTreeMap::new();
    // The last of a session that ends well is the settling.
    while moment < end - 40.0 {
        for machine in machines.iter_mut() {
            let label = machine.label();
            let step = told.entry(label.clone()).or_default();
            for event in news(machine, step, begin, moment) {
                send(moment, event);
            }
            let goes = machine.ready() <= moment && moment < machine.life.1 - 8.0;
            if goes && counts.done < PROMPTS - 37 {
                // Not evenly: a machine has better and worse hours, and once its link broke.
                let wave = 1.0 + 0.12 * (moment / 4100.0 + f64::from(machine.slot)).sin();
                let broken = machine.slot == 1 && (20_000.0..20_900.0).contains(&moment);
                let rate = if broken { 0.0 } else { machine.rate * wave };
                let more = ((rate * 10.0) as u64).min(PROMPTS - 37 - counts.done);
                *machine.done.entry(number).or_default() += more;
                counts.done += more;
                for i in 0..more / 4 {
                    let spread = (moment as u64 * 31 + i * 977) % 1000;
                    latency.note(2_100 + spread * spread * spread / 90_000);
                }
            }
        }
        let of = |machine: &Machine| {
            let prompts = *machine.done.get(&number)?;
            let there = machine.ready() <= moment && moment < machine.life.1 - 8.0;
            there.then(|| MachineProgress {
                slot: machine.slot,
                label: machine.label(),
                prompts,
                tokens_in: prompts * 1_012,
                tokens_out: prompts * 187,
            })
        };
        let progress = Progress {
            done: counts.done,
            failed: 37,
            total: PROMPTS,
            seconds: moment - begin,
            spent: Usd(0),
            machines: machines.iter().filter_map(of).collect(),
            latency: latency.clone(),
            ..Progress::default()
        };
        send(moment, Event::Progress(progress));
        moment += 10.0;
    }
    if ends_well {
        send(end - 40.0, Event::Settling { instances: 3 });
        send(end, finished());
    }
}

/// What is heard of a machine by this moment and wasn't heard before.
fn news(machine: &Machine, step: &mut usize, begin: f64, moment: f64) -> Vec<Event> {
    let (slot, ordered) = (machine.slot, machine.life.0);
    if ordered < begin {
        return Vec::new();
    }
    let phase = |phase| Event::Phase { slot, phase };
    let (done, total, source) = (0, 16_100_000_000, "the hub".to_owned());
    let working = || {
        let engine = "vllm".to_owned();
        phase(SlotPhase::Working {
            engine,
            waiting: 9,
            running: 64,
            tokens_per_second: 1.0,
            hungry: 0.0,
        })
    };
    let (label, id) = (machine.label(), InstanceId(format!("i-{slot}")));
    let reason = || machine.lost.unwrap_or_default().to_owned();
    let (what, price) = (machine.what.to_owned(), UsdPerHour(machine.price));
    let provider = machine.provider.to_owned();
    let mut story: Vec<(f64, Event)> = vec![
        (0.0, Event::OfferChosen { slot, provider, what, price }),
        (0.0, phase(SlotPhase::Renting)),
        (6.0, Event::Rented { slot, label, id }),
        (6.0, phase(SlotPhase::Booting)),
        (95.0, phase(SlotPhase::Connecting)),
        (98.0, phase(SlotPhase::Uploading { done, total: 20_000_000 })),
        (110.0, phase(SlotPhase::Fetching { source, done, total })),
        (300.0, phase(SlotPhase::Loading { done, total })),
        (380.0, working()),
    ];
    if slot == 1 && machine.attempt == 0 {
        let reason = "nothing was heard of it for 30 s".to_owned();
        story.push((20_000.0 - ordered, Event::Reconnecting { slot, reason }));
        story.push((20_900.0 - ordered, working()));
    }
    if machine.lost.is_some() {
        story.push((machine.life.1 - 8.0 - ordered, Event::Lost { slot, reason: reason() }));
    }
    let new: Vec<Event> = story
        .into_iter()
        .skip(*step)
        .take_while(|(seconds, _)| ordered + seconds <= moment)
        .map(|(_, event)| event)
        .collect();
    *step += new.len();
    new
}

fn finished() -> Event {
    Event::Finished(Summary {
        run: "nov24-made".parse().unwrap(),
        complete: true,
        done: PROMPTS - 37,
        failed: 37,
        total: PROMPTS,
        tokens_in: 0,
        tokens_out: 0,
        seconds: 24.0 * HOUR + 30.0,
        seconds_to_first: None,
        tokens_per_second: 0.0,
        cost: Usd(0),
        completions: None,
        errors: None,
        owed: Vec::new(),
    })
}
