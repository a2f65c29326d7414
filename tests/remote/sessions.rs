//! Commands on a real local instance.

use crate::machine::{LIMIT, Machine};
use piecework::remote::{Channel, RemoteError, RunKey, Status};
use providers::Marketplace;
use sha2::{Digest, Sha256};
use std::{fs, process::Command, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

/// Bytes that compress badly and repeat late.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test]
async fn a_command_runs_in_its_home_and_says_how_it_ended() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    let output = session.run("pwd; cat; echo no >&2; exit 7", b"in\n").await.unwrap();
    let home = fs::canonicalize(machine.home()).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\nin\n", home.display()));
    assert_eq!((output.status, output.stderr.as_str()), (Status::Code(7), "no\n"));

    let killed = session.run("kill -TERM $$", b"").await.unwrap();
    assert_eq!(killed.status, Status::Signal("TERM".into()));
    let home = session.run("echo $HOME", b"").await.unwrap();
    assert_eq!(
        String::from_utf8(home.stdout).unwrap().trim_end(),
        machine.home().to_str().unwrap()
    );
}

#[tokio::test]
async fn no_secret_of_the_account_gets_onto_a_local_instance() {
    let machine = Machine::rent("run-1").await;
    let output = machine.session().await.run("env", b"").await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert!(names.contains(&"PATH") && names.contains(&"HOME"), "{text}");
    // Cargo sets these for a test as a user's shell sets API keys.
    let secret = |name: &str| name.starts_with("CARGO") || name.contains("KEY");
    assert!(!names.into_iter().any(secret), "{text}");
}

#[tokio::test]
async fn twenty_commands_run_side_by_side() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    let commands = (0..20).map(|number| {
        let session = &session;
        async move {
            // Each waits for all the others, so none may wait for its turn.
            let command = format!(
                "touch side-{number}; while [ $(ls side-* | wc -l) -lt 20 ]; do sleep 0.02; done; \
                 echo {number}"
            );
            let output = session.run(&command, b"").await.unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), number.to_string());
        }
    });
    timeout(LIMIT, join_all(commands)).await.expect("they run side by side");
}

/// Drives all at once, in this task.
async fn join_all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut left: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        left.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if left.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_go_each_way_whole() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    let sent = noise(50 << 20);
    let up = session.run("sha256sum", &sent).await.unwrap();
    let sum = hex::encode(Sha256::digest(&sent));
    assert!(String::from_utf8(up.stdout).unwrap().starts_with(&sum));

    fs::write(machine.home().join("big"), &sent).unwrap();
    let down = session.run("cat big", b"").await.unwrap();
    assert!(down.stdout == sent, "what came back differs");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_at_once_do_not_wait_for_each_other() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    let sent = noise(64 << 20);
    let echoed =
        timeout(LIMIT, session.run("cat", &sent)).await.expect("it does not hang").unwrap();
    assert!(echoed.stdout == sent, "what came back differs");
}

#[tokio::test]
async fn a_command_that_wants_no_input_ends_all_the_same() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    let sent = noise(20 << 20);
    let output = timeout(LIMIT, session.run("exit 3", &sent)).await.expect("no hang").unwrap();
    assert_eq!(output.status, Status::Code(3));
    assert!(session.run("true", b"").await.unwrap().status.is_success());
}

#[tokio::test]
async fn a_dropped_command_is_hung_up_on_and_a_detached_one_is_not() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    let mut channel = session
        .exec(
            "trap 'echo hung > hup; exit' HUP; \
             setsid sh -c 'echo $$ > detached; exec sleep 300' </dev/null >/dev/null 2>&1 & \
             while [ ! -s detached ]; do sleep 0.01; done; echo up; while :; do sleep 0.05; done",
        )
        .await
        .unwrap();
    let mut said = [0; 3];
    channel.stdout.read_exact(&mut said).await.unwrap();
    drop(channel);
    timeout(LIMIT, async {
        while !machine.home().join("hup").exists() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the command hears SIGHUP");
    let detached = fs::read_to_string(machine.home().join("detached")).unwrap();
    assert!(is_alive(detached.trim()));
    // What outlives its session does not outlive its machine.
    machine.local.release(&machine.instance.id).await.unwrap();
    assert!(!is_alive(detached.trim()));
}

#[tokio::test]
async fn a_release_ends_detached_commands_of_an_instance_that_was_killed() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    let started = session.run("setsid sleep 300 </dev/null >/dev/null 2>&1 & echo $!", b"").await;
    let detached = String::from_utf8(started.unwrap().stdout).unwrap();
    let process = fs::read_to_string(machine.home().join("process")).unwrap();
    let number = process.split(' ').next().unwrap();
    assert!(Command::new("kill").args(["-9", number]).status().unwrap().success());
    assert!(is_alive(detached.trim()));
    machine.local.release(&machine.instance.id).await.unwrap();
    assert!(!is_alive(detached.trim()));
}

fn is_alive(number: &str) -> bool {
    let state = Command::new("ps").args(["-o", "stat=", "-p", number]).output().unwrap().stdout;
    // A zombie has ended; its parent has only not heard.
    !state.is_empty() && !state.starts_with(b"Z")
}

#[tokio::test]
async fn input_and_output_alternate_as_in_a_conversation() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    let Channel { mut stdin, mut stdout, exit } =
        session.exec("while read line; do echo \"you said $line\"; done; exit 4").await.unwrap();
    for word in ["one", "two"] {
        stdin.write_all(format!("{word}\n").as_bytes()).await.unwrap();
        let wanted = format!("you said {word}\n");
        let mut said = vec![0; wanted.len()];
        stdout.read_exact(&mut said).await.unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), wanted);
    }
    stdin.shutdown().await.unwrap();
    assert_eq!(stdout.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(exit.wait().await.unwrap().status, Status::Code(4));
}

#[tokio::test]
async fn a_key_that_was_not_put_there_is_rejected() {
    let machine = Machine::rent("run-1").await;
    let mut dial = machine.dial();
    dial.key = RunKey::open(&machine.outside().join("another")).unwrap();
    let error = dial.connect().await.unwrap_err();
    assert!(matches!(error, RemoteError::Rejected(_)), "{error}");
    assert!(!error.is_temporary());
}

#[tokio::test]
async fn a_machine_in_anothers_place_is_refused_by_both_fingerprints() {
    let machine = Machine::rent("run-1").await;
    machine.session().await.close().await;
    let impostor = Machine::rent("run-2").await;
    let mut dial = machine.dial();
    dial.endpoint = impostor.endpoint.clone();
    dial.key = impostor.key.clone();
    let error = dial.connect().await.unwrap_err();
    assert!(!error.is_temporary());
    let RemoteError::HostKeyChanged(changed) = error else { panic!("{error}") };
    assert_eq!(changed.label.0, "run-1");
    let text = changed.to_string();
    assert_eq!(text.matches("SHA256:").count(), 2, "{text}");
    assert!(text.contains("must not be used"), "{text}");
}

#[tokio::test]
async fn a_machine_that_is_gone_is_unreachable_for_now() {
    let machine = Machine::rent("run-1").await;
    let session = machine.session().await;
    machine.local.release(&machine.instance.id).await.unwrap();
    let lost = timeout(LIMIT, session.run("true", b"")).await.expect("no hang").unwrap_err();
    assert!(matches!(lost, RemoteError::Lost(_)), "{lost}");
    let error = machine.dial().connect().await.unwrap_err();
    assert!(matches!(error, RemoteError::Unreachable { .. }), "{error}");
    assert!(error.is_temporary() && lost.is_temporary());
}
