//! The real worker binary: started, attached to, killed, and started again.

mod support;

use std::process::Command as Plain;
use support::{Controller, Home, WORKER};
use tokio::process::Command;
use wire::{
    EngineKind, Form, Job, Limits, Model, Outcome, Prompt, ToController, ToWorker, VERSION,
};

/// Hears completions until it has all of these indices, in whatever order; returns the last
/// number.
async fn complete(controller: &mut Controller, mut indices: Vec<u64>) -> u64 {
    loop {
        if let Some(ToController::Completions { through, completions }) = controller.hear().await {
            for completion in completions {
                assert!(matches!(completion.outcome, Outcome::Done { .. }), "{completion:?}");
                let known = indices.iter().position(|index| *index == completion.index);
                indices.remove(known.expect("it was asked for, and once"));
            }
            if indices.is_empty() {
                return through;
            }
        }
    }
}

fn echo(pace: Option<u32>) -> ToWorker {
    let job = Job {
        engine: EngineKind::Echo { pace },
        model: Model { name: "echo".into(), sources: Vec::new() },
        precision: None,
        limits: Limits::default(),
        seed: 0,
        defaults: "{}".into(),
    };
    ToWorker::Work { job, access: None }
}

fn prompts(indices: std::ops::Range<u64>) -> ToWorker {
    let prompt = |index| Prompt { index, form: Form::Auto, body: r#"{"prompt":"hi"}"#.into() };
    ToWorker::Prompts(indices.map(prompt).collect())
}

#[tokio::test]
async fn prompts_are_answered_once_each() {
    let home = Home::new();
    let (mut controller, held) = Controller::greet(&home, 1).await;
    assert!(held.is_empty());
    controller.say(echo(None)).await;
    controller.say(prompts(0..1000)).await;
    controller.say(prompts(500..1500)).await;
    complete(&mut controller, (0..1500).collect()).await;
}

#[tokio::test]
async fn a_worker_whose_file_is_replaced_as_it_starts_is_started() {
    let bin = tempfile::tempdir().expect("a folder");
    let home = Home::new();
    home.kill();
    // The shell holds the file open, another takes its place, and the first is what is run.
    let script = "cp \"$1\" worker && exec 3<worker && cp worker other && mv other worker && shift \
                  && exec /proc/self/fd/3 \"$@\"";
    let mut command = Plain::new("sh");
    home.start_by(command.args(["-c", script, "sh", WORKER]).current_dir(bin.path()));
    let (mut controller, _) = Controller::greet(&home, 1).await;
    controller.say(echo(None)).await;
    controller.say(prompts(0..3)).await;
    complete(&mut controller, (0..3).collect()).await;
}

#[tokio::test]
async fn a_dropped_connection_stops_nothing_and_loses_nothing() {
    let home = Home::new();
    let (mut controller, _) = Controller::greet(&home, 1).await;
    controller.say(echo(Some(200))).await;
    controller.say(prompts(0..60)).await;
    while !matches!(controller.hear().await, Some(ToController::Completions { .. })) {}
    drop(controller);
    let (mut controller, held) = Controller::greet(&home, 1).await;
    assert!(!held.is_empty(), "it was cut in the middle");
    // Nothing was acknowledged, so everything comes again.
    let through = complete(&mut controller, (0..60).collect()).await;
    controller.say(ToWorker::Forget { through }).await;
    controller.say(prompts(60..61)).await;
    complete(&mut controller, vec![60]).await;
    drop(controller);
    // An answer that may not be on the controller's disk is held like a prompt.
    let (mut controller, held) = Controller::greet(&home, 1).await;
    assert_eq!(held, [60]);
    complete(&mut controller, vec![60]).await;
}

#[tokio::test]
async fn a_killed_worker_still_has_what_it_had_answered() {
    let home = Home::new();
    let (mut controller, _) = Controller::greet(&home, 1).await;
    controller.say(echo(None)).await;
    controller.say(prompts(0..100)).await;
    complete(&mut controller, (0..100).collect()).await;
    home.kill();
    while controller.hear().await.is_some() {}
    home.start_by(&mut Plain::new(WORKER));
    let (mut controller, held) = Controller::greet(&home, 1).await;
    assert_eq!(held, (0..100).collect::<Vec<_>>());
    complete(&mut controller, (0..100).collect()).await;
}

#[tokio::test]
async fn an_older_controller_is_fenced_out() {
    let home = Home::new();
    let (mut old, _) = Controller::greet(&home, 4).await;
    let (mut new, _) = Controller::greet(&home, 5).await;
    new.say(echo(None)).await;
    while old.hear().await.is_some() {}
    let mut late = Controller::attach(&home, 4).await;
    late.say(ToWorker::Hello { version: VERSION, run: "run".into() }).await;
    assert_eq!(late.hear().await, Some(ToController::Fenced { generation: 5 }));
    new.say(prompts(0..10)).await;
    complete(&mut new, (0..10).collect()).await;
}

#[tokio::test]
async fn a_drain_gives_up_what_was_not_begun() {
    let home = Home::new();
    let (mut controller, _) = Controller::greet(&home, 1).await;
    controller.say(echo(Some(50))).await;
    controller.say(prompts(0..500)).await;
    controller.say(ToWorker::Drain).await;
    let mut answered = Vec::new();
    let mut given_up = Vec::new();
    while given_up.is_empty() || answered.len() + given_up.len() < 500 {
        match controller.hear().await {
            Some(ToController::Completions { completions, .. }) => {
                answered.extend(completions.into_iter().map(|completion| completion.index));
            }
            Some(ToController::GivenUp(indices)) => given_up = indices,
            _ => {}
        }
    }
    assert!(400 < given_up.len(), "only {} were given up", given_up.len());
    answered.extend(given_up);
    answered.sort_unstable();
    assert_eq!(answered, (0..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stranger_and_another_version_are_turned_away() {
    let home = Home::new();
    drop(Controller::greet(&home, 1).await);
    let mut stranger = Controller::attach(&home, 1).await;
    stranger.say(ToWorker::Hello { version: VERSION, run: "another".into() }).await;
    assert!(matches!(stranger.hear().await, Some(ToController::Broken { .. })));
    let mut future = Controller::attach(&home, 1).await;
    future.say(ToWorker::Hello { version: VERSION + 1, run: "run".into() }).await;
    assert!(matches!(future.hear().await, Some(ToController::Hello { version: VERSION, .. })));
    assert!(future.hear().await.is_none());
}

#[tokio::test]
async fn quit_ends_the_worker() {
    let home = Home::new();
    let (mut controller, _) = Controller::greet(&home, 1).await;
    controller.say(ToWorker::Quit).await;
    while controller.hear().await.is_some() {}
    let status = Command::new(WORKER).arg("attach").arg("--folder").arg(home.path()).output();
    assert!(!status.await.expect("it runs").status.success(), "nobody is there");
}

#[test]
fn starting_twice_starts_one() {
    let home = Home::new();
    home.start_by(&mut Plain::new(WORKER));
}
