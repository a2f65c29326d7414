//! A run whose link is cut again and again.

use crate::{
    elsewhere::setting,
    program::{answers, ids, numbered, numbered_ids},
    proxy::{Mood, Proxy},
};
use piecework::{
    event::Events,
    run::{Ladder, run},
};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

/// Runs numbered prompts, cutting every link each `period`; returns how many cuts that were.
async fn run_cut_every(folder: &Path, prompts: usize, period: Option<Duration>) -> u32 {
    let proxies = Arc::new(Mutex::new(Vec::new()));
    let set = |mood| proxies.lock().unwrap().iter().for_each(|proxy: &Proxy| proxy.set(mood));
    let keep = proxies.clone();
    let before = move |port| {
        let proxy = Proxy::before(port);
        let before = proxy.port;
        keep.lock().unwrap().push(proxy);
        before
    };
    let setting = setting(folder, &numbered(prompts), (1, 100), before);
    let running = run(setting, Events::unheard(), Ladder::default());
    tokio::pin!(running);
    let mut cuts = 0;
    let outcome = loop {
        tokio::select! {
            outcome = &mut running => break outcome.expect("it can be begun"),
            () = tokio::time::sleep(period.unwrap_or(Duration::MAX)) => {
                set(Mood::CutAfter(1));
                cuts += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
                set(Mood::Pass);
            }
        }
    };
    assert!(outcome.summary.complete && outcome.owed.is_empty(), "{outcome:?}");
    cuts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_cut_every_second_changes_no_completion() {
    let (calm, rough) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("one"));
    run_cut_every(calm.path(), 500, None).await;
    let cuts = run_cut_every(rough.path(), 500, Some(Duration::from_secs(1))).await;
    assert!(3 <= cuts, "it was cut {cuts} times");
    let (calm, rough) = (calm.path().join("out.jsonl"), rough.path().join("out.jsonl"));
    assert_eq!(ids(&rough), numbered_ids(500));
    assert_eq!(answers(&rough), answers(&calm));
}
