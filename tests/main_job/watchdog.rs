//! Machines that end themselves when nobody is left to end them.

use crate::{
    cloud::{Cloud, kill_with_guard, only_rental},
    program::{User, conversation, eventually},
};
use jiff::{SignedDuration, Timestamp};
use piecework::{
    clock,
    template::{Machine, Patience},
};
use providers::{Access, Label, Mib, Need, Order, PROVIDERS, Provider, Remote, Timing, Transport};
use serde_json::json;
use std::{fs, process::Stdio, sync::Arc, time::Duration};

/// A run whose machine waits a few seconds for the next word, begun at this marketplace and left
/// once it has answers.
fn a_run_that_nobody_is_left_to_settle(cloud: &Cloud, user: &User, market: &str) {
    let mut program = cloud
        .run(user, market, 600, &["--echo-pace", "50", "--yes"])
        .env("PIECEWORK_WATCHDOG", "600,6")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    eventually("a first answer", || {
        let run = user.folder().join("home/runs").read_dir().ok()?.flatten().next()?.path();
        let partial = run.join("completions.partial.jsonl").metadata().ok()?;
        (0 < partial.len()).then_some(())
    });
    kill_with_guard(user, &mut program);
}

#[test]
fn a_machine_that_hears_nothing_any_more_ends_itself() {
    for (market, ender) in [("vast", "instance"), ("runpod", "instance"), ("shadeform", "expiry")] {
        let Some(cloud) = Cloud::start("a machine that hears nothing") else { return };
        let user = User::new();
        a_run_that_nobody_is_left_to_settle(&cloud, &user, market);
        assert_eq!(cloud.world(market)["billed"], 1, "it goes on for a while");
        cloud.wait_until_nothing_is_billed(market);
        let world = cloud.world(market);
        let rental = only_rental(&world);
        assert_eq!(rental["ended_by"], ender, "{rental:#}");

        // What it had answered is not lost, and the rest is done by another.
        let resume = cloud.piecework(&user, market, &["resume", "last", "--yes"]).output();
        let resume = resume.expect("it runs");
        assert_eq!(resume.status.code(), Some(0), "{}", conversation(&resume));
        assert_eq!(cloud.world(market)["billed"], 0);
    }
}

#[test]
fn a_machine_that_somebody_talks_to_is_left_alone() {
    let Some(cloud) = Cloud::start("a machine that somebody talks to") else { return };
    let user = User::new();
    for market in ["vast", "shadeform"] {
        let mut command = cloud.run(&user, market, 400, &["--echo-pace", "20", "--yes"]);
        // It works for longer than that, and is told every few seconds that it is needed.
        let output = command.env("PIECEWORK_WATCHDOG", "18,18").output().expect("it runs");
        assert_eq!(output.status.code(), Some(0), "{}", conversation(&output));
        assert_eq!(only_rental(&cloud.world(market))["ended_by"], "account");
    }
}

#[test]
fn a_machine_that_is_taken_over_is_over_as_early_as_the_session_that_takes_it() {
    let Some(cloud) = Cloud::start("a machine that is taken over") else { return };
    let user = User::new();
    a_run_that_nobody_is_left_to_settle(&cloud, &user, "vast");
    let ledger = user.only_run().join("ledger");
    let expires = |entry: &'static str| {
        let path = ledger.clone();
        move || {
            let books = fs::read_to_string(&path).ok()?;
            let (_, after) = books.split_once(entry)?;
            let (_, expires) = after.split_once("\"expires\":\"")?;
            expires.split_once('"')?.0.parse::<Timestamp>().ok()
        }
    };
    let within = |hours: i64| Timestamp::now() + SignedDuration::from_hours(hours);
    let first = expires("\"ordered\"")().expect("it was ordered");
    assert!(within(23) < first, "it was agreed to for a day: {first}");
    let arguments = ["resume", "last", "--yes", "--deadline", "5m"];
    let mut command = cloud.piecework(&user, "vast", &arguments);
    let command = command.env("PIECEWORK_WATCHDOG", "600,6");
    let program = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut program = program.spawn().expect("it runs");
    let second = eventually("an earlier one", expires("\"shortened\""));
    assert!(second < within(1), "five minutes, and what giving back takes: {second}");
    kill_with_guard(&user, &mut program);
    cloud.wait_until_nothing_is_billed("vast");
}

/// This marketplace, without the program.
fn connect(cloud: &Cloud, market: &str) -> Arc<dyn Remote> {
    let provider = Provider::find(market).expect("there is one");
    let secrets = provider.credentials.iter().map(|_| cloud.key().into()).collect();
    let transport = Transport::new().expect("there is a network");
    let (url, timing) = (Some(cloud.url(market).to_owned()), Timing::loopback());
    provider.connect(Access { transport, url, secrets, timing }).expect("it has a key")
}

#[tokio::test]
async fn a_machine_whose_time_is_over_ends_itself_whatever_else_is_there() {
    for (market, ender) in [("vast", "instance"), ("runpod", "instance"), ("shadeform", "expiry")] {
        let Some(cloud) = Cloud::start("a machine whose time is over") else { return };
        let remote = connect(&cloud, market);
        let offers = remote.offers(&Need::default()).await.expect("it has some");
        let offer = offers.into_iter().next().expect("it has some");
        let expires = clock::after(clock::now(), Duration::from_secs(8));
        let hours = Duration::from_hours(9);
        let capabilities = remote.capabilities();
        let machine = Machine {
            capabilities: &capabilities,
            host: offer.host,
            engine: "echo",
            disk: Mib(0),
            expires,
            // It would wait for a word for hours.
            patience: Patience { boot: hours, silence: hours, step: Duration::from_secs(1) },
        };
        // A key that nobody has: it is never talked to.
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
        let setup = machine.setup(None).expect("there is an image");
        let mut order = Order { setup, ..Order::new(offer, Label("pw-test".to_owned()), key) };
        order.expires = capabilities.expiry.then(|| clock::to_system(expires));
        remote.rent(&order).await.expect("it is for rent");
        assert_eq!(cloud.world(market)["billed"], 1);
        cloud.wait_until_nothing_is_billed(market);
        assert!(expires <= clock::now(), "it ended too soon");
        assert_eq!(only_rental(&cloud.world(market))["ended_by"], ender);
    }
}

#[test]
fn what_a_machine_can_do_about_itself_is_said_before_it_is_rented() {
    let Some(cloud) = Cloud::start("what a machine can do about itself") else { return };
    let user = User::new();
    let mut said = Vec::new();
    for provider in PROVIDERS {
        let output = cloud.run(&user, provider.name, 1, &[]).output().expect("it runs");
        let text = conversation(&output);
        assert!(text.contains("nothing was rented"), "{text}");
        assert_eq!(cloud.world(provider.name)["rentals"], json!([]));
        if text.contains("can't end themselves") {
            said.push(provider.name);
        }
    }
    assert_eq!(said, ["lambda", "verda", "prime"]);
}
