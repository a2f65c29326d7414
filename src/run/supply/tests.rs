//! What is handed to whom, and a run of machines that are only played.

use super::*;
use crate::{
    prompts::Place,
    run::meter::Meter,
    shards::{Bits, Finish, Item},
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use wire::Form;

fn appetite(batch: u32, prompts: f64) -> Appetite {
    Appetite { batch, running: batch, prompts, bytes: 4600.0 * prompts }
}

#[test]
fn when_a_machine_is_handed_more_ten_seconds_still_wait_for_its_engine() {
    for (batch, rate) in [(64, 30.0), (256, 30.0), (1024, 30.0), (8192, 240.0), (1, 0.5)] {
        let window = appetite(batch, rate).window();
        let waiting = window as f64 * REFILL - f64::from(batch);
        assert!(10.0 * rate <= waiting + 1.0, "{window} of {batch} at {rate}");
        assert!(2 * batch as usize <= window, "{window} of {batch} at {rate}");
    }
    assert_eq!((appetite(0, 0.0).window(), appetite(64, 0.0).window()), (32, 128));
    assert_eq!(appetite(64, 1e9).window(), 20_000);
}

#[test]
fn bytes_do_for_as_long_as_prompts_do() {
    // Eight machines of eight fast GPUs, and one with a small model and short prompts.
    for (machines, appetite) in [(8, appetite(2048, 240.0)), (1, appetite(64, 1500.0))] {
        let each = appetite.bytes / appetite.prompts;
        let prompts = appetite.bytes(machines) as f64 * REFILL / each;
        let waiting = prompts - f64::from(appetite.running);
        assert!(10.0 * appetite.prompts <= waiting + 1.0, "{waiting} of {appetite:?}");
    }
    let greedy = Appetite { bytes: 1e9, ..appetite(64, 10.0) };
    assert_eq!((greedy.bytes(1), greedy.bytes(16)), (256 << 20, 16 << 20));
    assert_eq!((greedy.bytes(1000), Appetite::default().bytes(8)), (2 << 20, 2 << 20));
}

#[test]
fn what_one_machine_holds_beyond_its_part_is_not_taken_from_the_others() {
    let mut queue = Queue::new(Bits::new(4000));
    for index in 0..4000 {
        let prompt = wire::Prompt { index, form: Form::Auto, body: "x".repeat(10 * BYTES) };
        queue.push(Item { prompt, custom_id: String::new(), line: Place { file: 0, line: 1 } });
    }
    let (alone, two) = (Crew { linked: 1, ..CREW }, Crew { linked: 2, ..CREW });
    let (first, second) = (WorkerId(1), WorkerId(2));
    let fast = Appetite { bytes: 1e7, ..appetite(64, 200.0) };
    loop {
        let taken = take(&mut queue, first, &fast, alone);
        let bytes: usize = taken.iter().map(|prompt| prompt.body.len()).sum();
        assert!(bytes < PORTION + 20 * BYTES, "{bytes} bytes at once");
        if taken.is_empty() {
            break;
        }
    }
    let held = queue.held_bytes(first);
    assert!(50 << 20 < held, "{held}");
    // It turned out slower, and has company.
    let slow = appetite(64, 1.0);
    let may: usize = [first, second].map(|one| may_hold(&queue, one, &slow, 2)).iter().sum();
    assert!(held + slow.bytes(2) <= may, "{may} bytes, and one holds {held}");
    assert!(!take(&mut queue, second, &slow, two).is_empty());
}

#[test]
fn a_machine_is_refilled_in_portions() {
    assert_eq!(portion(128, 0, 1000, 1), 128);
    assert_eq!(portion(128, 120, 1000, 1), 0);
    assert_eq!(portion(128, 96, 1000, 1), 32);
    assert_eq!(portion(128, 300, 1000, 1), 0, "it held more before");
}

#[test]
fn the_last_prompts_are_shared_out() {
    assert_eq!(portion(128, 0, 100, 4), 13);
    assert_eq!(portion(128, 0, 1, 4), 1);
    assert_eq!(portion(128, 128, 100, 4), 0);
}

const CREW: Crew = Crew { linked: 1, expected: 1, prompts: 0.0 };

/// A machine whose engine takes prompts one after the other, at a fixed pace.
struct Machine {
    worker: WorkerId,
    pace: f64,
    /// Until when it is at its last prompt.
    busy: f64,
    /// On their way, and there: when each came or will come.
    prompts: VecDeque<(f64, u64)>,
    answers: VecDeque<(f64, u64)>,
    answered: u64,
    meters: [Meter; 2],
    /// Seconds without a prompt, after its first and while there were any to be had.
    hungry: f64,
}

/// What became of a run.
struct Played {
    /// The largest part of its time that a machine had nothing to do, until no prompt was left.
    hungry: f64,
    /// Seconds that the run took, and those that it takes if nobody ever waits.
    seconds: (f64, f64),
}

const BYTES: usize = 4600;

/// Plays a run of machines with these paces at the other end of links with this round trip.
fn play(paces: &[f64], round_trip: f64, total: u64) -> Played {
    let mut queue = Queue::new(Bits::new(total));
    for index in 0..total {
        let prompt = wire::Prompt { index, form: Form::Auto, body: "x".repeat(BYTES) };
        queue.push(Item { prompt, custom_id: String::new(), line: Place { file: 0, line: 1 } });
    }
    queue.end();
    let machine = |(number, pace): (u32, &f64)| Machine {
        worker: WorkerId(number),
        pace: *pace,
        busy: 0.0,
        prompts: VecDeque::new(),
        answers: VecDeque::new(),
        answered: 0,
        meters: Default::default(),
        hungry: 0.0,
    };
    let mut machines: Vec<Machine> = (0..).zip(paces).map(machine).collect();
    let (begin, step, mut now, mut all_out) = (Instant::now(), 0.005, 0.0, 0.0);
    while !queue.is_over() {
        now += step;
        let prompts = machines.iter().map(|machine| machine.meters[0].rate()).sum();
        let crew = Crew { linked: paces.len(), expected: paces.len(), prompts };
        for machine in &mut machines {
            while machine.answers.front().is_some_and(|(at, _)| *at <= now) {
                let (_, index) = machine.answers.pop_front().unwrap();
                assert_ne!(queue.finish(index), Finish::Unknown);
                machine.answered += 1;
                let at = begin + Duration::from_secs_f64(now);
                machine.meters[0].note(at, machine.answered as f64);
                machine.meters[1].note(at, (machine.answered * BYTES as u64) as f64);
            }
            let [prompts, bytes] = [machine.meters[0].rate(), machine.meters[1].rate()];
            let appetite = Appetite { batch: 64, running: 1, prompts, bytes };
            let mut given = take(&mut queue, machine.worker, &appetite, crew);
            if given.is_empty() && queue.counts().waiting == 0 {
                given = steal(&mut queue, machine.worker, &appetite, crew);
            }
            let there = now + round_trip / 2.0;
            machine.prompts.extend(given.into_iter().map(|prompt| (there, prompt.index)));
            while machine.busy <= now && machine.prompts.front().is_some_and(|(at, _)| *at <= now) {
                let (at, index) = machine.prompts.pop_front().unwrap();
                let free = machine.busy;
                machine.busy = free.max(at) + 1.0 / machine.pace;
                if 0.0 < free && queue.counts().waiting != 0 {
                    machine.hungry += (at - free).max(0.0);
                }
                machine.answers.push_back((machine.busy + round_trip / 2.0, index));
            }
        }
        if queue.counts().waiting != 0 {
            all_out = now;
        }
    }
    let hungry = machines.iter().map(|machine| machine.hungry / all_out).fold(0.0, f64::max);
    Played { hungry, seconds: (now, round_trip + total as f64 / paces.iter().sum::<f64>()) }
}

#[test]
fn no_machine_waits_and_all_end_together() {
    let eight = [30.0; 8];
    let unlike = [240.0, 30.0, 30.0, 3.0, 0.5];
    for (paces, round_trip) in
        [(&eight[..1], 0.15), (&eight, 0.15), (&eight, 2.0), (&[240.0], 0.15), (&unlike, 0.3)]
    {
        let total = whole(paces.iter().sum::<f64>() * 100.0) as u64;
        let Played { hungry, seconds } = play(paces, round_trip, total);
        assert!(hungry < 0.005, "{paces:?} over {round_trip} s: hungry {hungry}");
        let late = seconds.0 - seconds.1;
        // A last prompt is begun at most a round trip and what it takes after the others.
        let allowed = 2.0 * round_trip + 2.5;
        assert!(late < allowed, "{paces:?} over {round_trip} s: {late} s late");
    }
}
