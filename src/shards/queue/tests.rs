//! What the queue promises, by example and by chance.

use super::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use wire::Form;

const A: WorkerId = WorkerId(1);
const B: WorkerId = WorkerId(2);

fn item(index: u64) -> Item {
    let prompt = Prompt { index, form: Form::Auto, body: "x".repeat(100) };
    Item { prompt, custom_id: format!("prompt-{index}"), line: Place { file: 0, line: index + 1 } }
}

fn queue(total: u64) -> Queue {
    let mut queue = Queue::new(Bits::new(total));
    (0..total).for_each(|index| queue.push(item(index)));
    queue.end();
    queue
}

fn indices(prompts: &[Prompt]) -> Vec<u64> {
    prompts.iter().map(|prompt| prompt.index).collect()
}

#[test]
fn a_worker_gets_no_more_than_it_asks_for_but_never_nothing() {
    let mut queue = queue(9);
    assert_eq!(indices(&queue.take(A, 2, usize::MAX)), [0, 1]);
    let two = 2 * item(0).bytes();
    assert_eq!(indices(&queue.take(A, 9, two)), [2, 3]);
    assert_eq!(indices(&queue.take(A, 9, 0)), [4]);
    assert!(queue.take(A, 0, usize::MAX).is_empty());
}

#[test]
fn what_a_lost_worker_held_is_next_in_order() {
    let mut queue = queue(6);
    queue.take(A, 2, usize::MAX);
    queue.take(B, 2, usize::MAX);
    assert_eq!(queue.lost(A), 2);
    assert_eq!(indices(&queue.take(B, 4, usize::MAX)), [0, 1, 4, 5]);
}

#[test]
fn what_a_worker_has_not_begun_can_be_given_back() {
    let mut queue = queue(3);
    queue.take(A, 3, usize::MAX);
    assert_eq!(queue.give_back(A, &[1, 2, 7]), 2);
    assert_eq!(queue.give_back(A, &[1]), 0);
    assert_eq!(queue.held_by(A).collect::<Vec<_>>(), [0]);
    assert_eq!(indices(&queue.take(B, 9, usize::MAX)), [1, 2]);
}

#[test]
fn an_idle_worker_is_given_the_tail_of_the_one_that_holds_most() {
    let mut queue = queue(5);
    queue.take(A, 4, usize::MAX);
    queue.take(B, 1, usize::MAX);
    queue.finish(4);
    assert_eq!(indices(&queue.steal(B, 2, usize::MAX)), [3, 2]);
    assert_eq!(indices(&queue.steal(B, 1, usize::MAX)), [1]);
    assert_eq!(queue.finish(3), Finish::First(item(3)));
    assert_eq!(queue.finish(3), Finish::Again);
    assert_eq!(queue.lost(A), 1, "the others are still held");
    assert_eq!(queue.counts(), Counts { total: 5, waiting: 1, held: 2, done: 2 });
}

#[test]
fn an_answer_of_a_worker_taken_for_lost_counts() {
    let mut queue = queue(2);
    queue.take(A, 2, usize::MAX);
    queue.lost(A);
    assert_eq!(queue.finish(1), Finish::First(item(1)));
    assert_eq!(indices(&queue.take(B, 9, usize::MAX)), [0]);
}

#[test]
fn an_answer_to_no_prompt_is_told_from_one_that_comes_early() {
    let mut queue = Queue::new(Bits::new(3));
    queue.push(item(0));
    assert_eq!((queue.finish(2), queue.finish(3)), (Finish::Early, Finish::Unknown));
    queue.push(item(1));
    queue.push(item(2));
    assert_eq!(queue.finish(2), Finish::First(item(2)));
}

#[test]
fn what_a_worker_held_before_this_session_is_not_given_to_another() {
    let mut queue = Queue::new(Bits::new(4));
    queue.push(item(0));
    queue.push(item(1));
    queue.claim(A, &[1, 2]);
    queue.push(item(2));
    queue.push(item(3));
    assert_eq!(indices(&queue.take(B, 9, usize::MAX)), [0, 3]);
    assert_eq!(queue.lost(A), 2);
    assert_eq!(indices(&queue.take(B, 9, usize::MAX)), [1, 2]);
}

#[test]
fn what_a_restarted_worker_no_longer_holds_is_free() {
    let (mut queue, a, b) = (Queue::new(Bits::new(10)), WorkerId(1), WorkerId(2));
    queue.claim(a, &[5]);
    queue.claim(a, &[]);
    queue.push(item(5));
    assert_eq!(indices(&queue.take(b, 9, usize::MAX)), [5]);
}

#[test]
fn prompts_done_before_are_not_done_again() {
    let mut done = Bits::new(3);
    done.insert(1);
    let mut queue = Queue::new(done);
    (0..3).for_each(|index| queue.push(item(index)));
    assert_eq!(indices(&queue.take(A, 9, usize::MAX)), [0, 2]);
    assert_eq!(queue.finish(1), Finish::Again);
}

#[test]
fn a_run_is_over_when_the_input_ended_and_all_is_done() {
    let mut queue = Queue::new(Bits::new(2));
    queue.push(item(0));
    queue.take(A, 1, usize::MAX);
    queue.finish(0);
    assert!(!queue.is_over());
    assert!(queue.refuse(1) && !queue.refuse(1));
    queue.end();
    assert!(queue.is_over());
    assert_eq!((queue.bytes(), queue.counts().done), (0, 2));
}

#[test]
fn whatever_happens_each_prompt_ends_once() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let total = random.random_range(1..60);
        let mut queue = Queue::new(Bits::new(total));
        let (mut next, mut ended) = (0, vec![0; usize::try_from(total).expect("small")]);
        // What the workers would say they hold: an answer may come from a lost one too.
        let mut given: Vec<u64> = Vec::new();
        let mut steps = 0;
        while !queue.is_over() {
            steps += 1;
            assert!(steps < 1_000_000, "seed {seed} never ends");
            let worker = WorkerId(random.random_range(0..4));
            match random.random_range(0..12) {
                0 | 1 if next < total => {
                    if random.random_range(0..10) == 0 {
                        ended[usize::try_from(next).expect("small")] += 1;
                        assert!(queue.refuse(next), "seed {seed}");
                    } else {
                        queue.push(item(next));
                    }
                    next += 1;
                }
                2 if next == total => queue.end(),
                3 | 4 => {
                    let (count, bytes) = (random.random_range(0..5), random.random_range(0..2000));
                    given.extend(indices(&queue.take(worker, count, bytes)));
                }
                5 => {
                    given.extend(indices(&queue.steal(worker, random.random_range(0..4), 900)));
                }
                6 => {
                    queue.lost(worker);
                }
                7 => {
                    let held: Vec<u64> = queue.held_by(worker).skip(1).collect();
                    queue.give_back(worker, &held);
                }
                8 => queue.claim(worker, &[random.random_range(0..total)]),
                _ if !given.is_empty() => {
                    let index = given[random.random_range(0..given.len())];
                    if let Finish::First(item) = queue.finish(index) {
                        assert_eq!(item.prompt.index, index);
                        ended[usize::try_from(index).expect("small")] += 1;
                    }
                }
                _ => {}
            }
            let counts = queue.counts();
            assert!(counts.waiting + counts.held + counts.done <= total, "seed {seed}");
        }
        assert!(ended.iter().all(|times| *times == 1), "seed {seed}: {ended:?}");
        assert_eq!(queue.bytes(), 0, "seed {seed}");
    }
}
