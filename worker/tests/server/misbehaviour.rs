//! Servers that die, hang, fail and lie while they work: nothing is lost, and whoever is at fault is named.

use crate::{
    harness::{Bench, Starts, body, failure, good, send_signal},
    standin::description,
    starting::two_gpus,
};
use wire::{Failure, Fault};

/// `count` good prompts, with bad ones in these places.
fn with(count: usize, bad: &[(usize, &str)]) -> Vec<String> {
    let mut texts = good(count);
    for (index, text) in bad {
        (*text).clone_into(&mut texts[*index]);
    }
    texts
}

#[tokio::test]
async fn a_server_killed_ten_times_loses_no_prompt() {
    let starts = Starts::new();
    let mut bench = Bench::new(description(&[("STARTS", starts.path())])).await;
    bench.ready().await.expect("it comes up");
    bench.ask(&good(2200)).await;
    let mut kills = 0;
    let outcomes = bench
        .outcomes(2200, |done| {
            if kills < 10 && kills * 200 < done && starts.all().len() == kills + 1 {
                starts.signal("-9");
                kills += 1;
            }
        })
        .await;
    assert_eq!((kills, starts.all().len()), (10, 11));
    assert!(outcomes.values().all(|outcome| body(outcome)["usage"]["prompt_tokens"] == 3));
}

#[tokio::test]
async fn a_server_that_is_stopped_is_started_anew() {
    let starts = Starts::new();
    let mut bench = Bench::new(description(&[("STARTS", starts.path())])).await;
    bench.ready().await.expect("it comes up");
    bench.ask(&good(400)).await;
    let mut stopped = false;
    let outcomes = bench
        .outcomes(400, |_| {
            if !std::mem::replace(&mut stopped, true) {
                starts.signal("-STOP");
            }
        })
        .await;
    assert!(outcomes.values().all(|outcome| body(outcome)["usage"]["prompt_tokens"] == 3));
    assert_eq!(starts.all().len(), 2);
    assert!(bench.notes().contains("said nothing for"), "{}", bench.notes());
}

#[tokio::test]
async fn a_prompt_that_gets_no_answer_while_others_do_is_given_up() {
    let mut bench = Bench::new(description(&[])).await;
    bench.ready().await.expect("it comes up");
    let outcomes = bench.answer(&with(100, &[(40, "STUCK")])).await;
    let (fault, reason) = failure(&outcomes[&40]);
    assert_eq!(fault, Failure::Engine);
    assert!(reason.contains("no answer after 4 seconds"), "{reason}");
    assert_eq!(outcomes.values().filter(|o| matches!(o, wire::Outcome::Done { .. })).count(), 99);
}

#[tokio::test]
async fn what_fails_at_one_prompt_alone_is_that_prompts_error() {
    let mut bench = Bench::new(description(&[])).await;
    bench.ready().await.expect("it comes up");
    let bad = [(5, "FAIL"), (40, "CLOSE"), (70, "CUT")];
    let outcomes = bench.answer(&with(100, &bad)).await;
    for (index, said) in [(5, "the stand-in fails"), (40, "gave no answer"), (70, "gave no answer")]
    {
        let (fault, reason) = failure(&outcomes[&index]);
        assert_eq!(fault, Failure::Engine);
        assert!(reason.contains(said), "{reason}");
    }
    assert_eq!(outcomes.values().filter(|o| matches!(o, wire::Outcome::Done { .. })).count(), 97);
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let mut bench = Bench::new(description(&[])).await;
    bench.ready().await.expect("it comes up");
    let texts: Vec<String> = (0..40).map(|index| format!("BUSY {index}")).collect();
    let outcomes = bench.answer(&texts).await;
    assert!(outcomes.values().all(|outcome| body(outcome)["usage"]["prompt_tokens"] == 2));
}

#[tokio::test]
async fn a_server_that_dies_of_everything_is_of_no_use_and_nothing_is_blamed_on_prompts() {
    let starts = Starts::new();
    let manners = [("HOLDS", "0"), ("STARTS", starts.path())];
    let mut bench = Bench::new(description(&manners)).await;
    let reason = bench.ready().await.expect_err("it answers nothing");
    assert!(reason.contains("CUDA out of memory"), "{reason}");
    // For fewer each time, beginning with half of what it was to be asked at once; then thrice for one.
    let tried: Vec<u32> = starts.all().iter().map(|start| start.parallel).collect();
    assert_eq!(tried, [16, 4, 2, 1, 1, 1]);
}

#[tokio::test]
async fn a_server_that_stalls_at_a_plain_prompt_is_of_no_use() {
    let starts = Starts::new();
    let mut server = description(&[("STALLS", ""), ("STARTS", starts.path())]);
    server.patience.stalled = 1;
    let mut bench = Bench::new(server).await;
    let reason = bench.ready().await.expect_err("it answers nothing");
    assert!(reason.contains("no answer to a plain prompt after 1 seconds"), "{reason}");
    // Another try would take as long.
    assert_eq!(starts.all().len(), 1);
}

#[tokio::test]
async fn a_server_that_fails_at_a_plain_prompt_is_of_no_use() {
    let mut bench = Bench::new(description(&[("FAILS", "")])).await;
    let reason = bench.ready().await.expect_err("it answers nothing");
    assert!(reason.contains("status 500: the stand-in fails"), "{reason}");
}

#[tokio::test]
async fn a_server_whose_first_prompts_kill_it_is_not_given_up() {
    // All that it is asked at first, and more.
    for (start, bad) in [(2, &[0, 1, 2][..]), (1, &[0, 1, 2, 3, 4]), (8, &[3, 8, 9, 10])] {
        let mut server = description(&[]);
        server.parallel.start = start;
        let mut bench = Bench::new(server).await;
        bench.ready().await.expect("it comes up");
        let crashes: Vec<_> = bad.iter().map(|index| (*index, "CRASH")).collect();
        let outcomes = bench.answer(&with(100, &crashes)).await;
        for (index, outcome) in (0..).zip(outcomes.values()) {
            let failed = matches!(outcome, wire::Outcome::Failed { .. });
            assert_eq!(failed, bad.contains(&index), "{index}, beginning with {start} at once");
        }
    }
}

#[tokio::test]
async fn a_server_that_dies_at_all_prompts_but_plain_ones_is_given_up_in_the_end() {
    let mut bench = Bench::new(description(&[])).await;
    bench.ready().await.expect("it comes up");
    bench.ask(&(0..50).map(|index| format!("CRASH {index}")).collect::<Vec<_>>()).await;
    let (fault, reason) = bench.broken().await;
    assert_eq!(fault, Fault::Work);
    assert!(reason.contains("32 times without an answer in between"), "{reason}");
}

#[tokio::test]
async fn exhausted_memory_lowers_the_number_of_prompts_at_once() {
    let starts = Starts::new();
    // Dies of more than 3 at once.
    let mut bench = Bench::new(description(&[("HOLDS", "3"), ("STARTS", starts.path())])).await;
    bench.ready().await.expect("it comes up");
    let outcomes = bench.answer(&good(200)).await;
    assert!(outcomes.values().all(|outcome| body(outcome)["usage"]["prompt_tokens"] == 3));
    assert!(starts.all().last().is_some_and(|last| last.parallel <= 3), "{:?}", starts.all());
    // And without dying.
    let mut bench = Bench::new(description(&[])).await;
    bench.ready().await.expect("it comes up");
    let texts: Vec<String> = (0..60).map(|index| format!("OOM {index}")).collect();
    let outcomes = bench.answer(&texts).await;
    assert!(outcomes.values().all(|outcome| body(outcome)["usage"]["prompt_tokens"] == 2));
    assert!(bench.notes().contains("from now on 1 prompts at once"), "{}", bench.notes());
}

#[tokio::test]
async fn a_prompt_that_takes_all_the_memory_lowers_nothing_for_the_others() {
    let starts = Starts::new();
    let mut bench = Bench::new(description(&[("STARTS", starts.path())])).await;
    bench.ready().await.expect("it comes up");
    let outcomes = bench.answer(&with(300, &[(40, "HUGE")])).await;
    let (fault, reason) = failure(&outcomes[&40]);
    assert_eq!(fault, Failure::Engine);
    assert!(reason.contains("CUDA out of memory"), "{reason}");
    assert_eq!(outcomes.values().filter(|o| matches!(o, wire::Outcome::Done { .. })).count(), 299);
    assert!(starts.all().last().is_some_and(|last| last.parallel == 16), "{:?}", starts.all());
}

#[tokio::test]
async fn a_prompt_that_kills_the_server_is_told_of_though_no_other_comes() {
    let mut bench = Bench::new(description(&[])).await;
    bench.ready().await.expect("it comes up");
    let outcomes = bench.answer(&["CRASH".to_owned()]).await;
    let (fault, reason) = failure(&outcomes[&0]);
    assert_eq!(fault, Failure::Engine);
    assert!(reason.contains("twice at this prompt alone"), "{reason}");
}

#[tokio::test]
async fn a_server_that_answers_in_bursts_is_measured_all_the_same() {
    // All that are there at once are answered at once.
    let mut bench = Bench::new(description(&[("SLOW", "150")])).await;
    bench.ready().await.expect("it comes up");
    bench.answer(&good(300)).await;
    assert!(bench.notes().contains("8 prompts at once:"), "{}", bench.notes());
}

/// Kills the server on a device.
fn kill_on(starts: &Starts, device: &str) {
    let start = starts.all().into_iter().find(|start| start.devices == device);
    send_signal(start.expect("it was started").process, "-9");
}

#[tokio::test]
async fn one_server_that_cannot_be_started_again_leaves_its_prompts_to_the_others() {
    let (tools, starts) = (two_gpus(), Starts::new());
    let manners = [("STARTS", starts.path()), ("ONCE", "1"), ("SLOW", "20")];
    let mut bench = Bench::with_tools(description(&manners), tools.path()).await;
    bench.ready().await.expect("it comes up");
    bench.ask(&good(400)).await;
    let mut killed = false;
    let outcomes = bench
        .outcomes(400, |_| {
            if !std::mem::replace(&mut killed, true) {
                kill_on(&starts, "1");
            }
        })
        .await;
    assert!(outcomes.values().all(|outcome| body(outcome)["usage"]["prompt_tokens"] == 3));
    // Prompts that come once it is given up are answered as well.
    while !bench.notes().contains("it is given up") {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    bench.ask_from(400, &good(50)).await;
    assert_eq!(bench.outcomes(50, |_| {}).await.len(), 50);
}

#[tokio::test]
async fn the_engine_ends_when_no_server_is_left() {
    let (tools, starts) = (two_gpus(), Starts::new());
    let manners = [("STARTS", starts.path()), ("ONCE", "0 1"), ("SLOW", "20")];
    let mut bench = Bench::with_tools(description(&manners), tools.path()).await;
    bench.ready().await.expect("it comes up");
    bench.ask(&good(400)).await;
    bench.some_outcomes().await;
    kill_on(&starts, "0");
    kill_on(&starts, "1");
    let (fault, reason) = bench.broken().await;
    assert!(reason.contains("fallen off the bus"), "{reason}");
    // They have answered some: what there is to do can be done.
    assert_eq!(fault, Fault::Machine);
}
