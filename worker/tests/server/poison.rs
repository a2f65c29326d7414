//! A few bad prompts among many: everyone else is answered, and each bad one has its reason.

use crate::{
    harness::{Bench, body, failure, good},
    standin::{CONTEXT, description},
};
use std::collections::BTreeMap;
use wire::Failure;

#[tokio::test]
async fn one_percent_too_long_some_that_kill_and_one_that_hangs_the_server() {
    let count = 2000;
    let mut texts = good(count);
    let mut bad = BTreeMap::new();
    for index in (7..count).step_by(100) {
        texts[index] = "long ".repeat(CONTEXT + 1);
        bad.insert(index as u64, (Failure::TooLong, "exceed the available context size"));
    }
    for index in [512, 1490] {
        texts[index] = format!("CRASH {index}");
        bad.insert(index as u64, (Failure::Engine, "died, twice at this prompt alone"));
    }
    texts[1000] = "HANG".to_owned();
    bad.insert(1000, (Failure::Engine, "said nothing for"));

    let mut bench = Bench::new(description(&[])).await;
    bench.ready().await.expect("it comes up");
    let outcomes = bench.answer(&texts).await;
    for (index, outcome) in &outcomes {
        match bad.get(index) {
            Some((fault, said)) => {
                let (failed, reason) = failure(outcome);
                assert_eq!(failed, *fault, "{index}: {reason}");
                assert!(reason.contains(said), "{index}: {reason}");
            }
            None => assert_eq!(
                body(outcome)["choices"][0]["message"]["content"],
                format!("reply to good prompt {index}")
            ),
        }
    }
    let (_, reason) = failure(&outcomes[&512]);
    assert!(reason.contains("can't stand CRASH 512"), "the log is quoted: {reason}");
    assert_eq!(bad.len(), 23);
}
