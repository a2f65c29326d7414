//! Links that are cut, or go silent.

use crate::{
    machine::{LIMIT, Machine},
    proxy::{Mood, Proxy},
    sessions::noise,
};
use piecework::remote::{Dial, Patience, RemoteError};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// A machine behind a proxy, dialled with little patience.
async fn behind_proxy() -> (Machine, Proxy, Dial) {
    let machine = Machine::rent("run-1").await;
    let proxy = Proxy::before(machine.endpoint.port);
    let mut dial = machine.dial();
    dial.endpoint.port = proxy.port;
    dial.patience = Patience {
        keepalive: Duration::from_millis(200),
        unanswered: 2,
        handshake: Duration::from_secs(2),
        ..Patience::default()
    };
    (machine, proxy, dial)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_cut_anywhere_is_temporary_and_another_dial_works() {
    let (_machine, proxy, dial) = behind_proxy().await;
    let sent = noise(4 << 20);
    // From amid the key exchange to amid the command's output.
    let chosen = [1, 100, 1_500, 3_000, 5_000, 60_000, 1 << 20, 7 << 20];
    let anywhere = noise(12 * 3)
        .chunks(3)
        .map(|at| u64::from_le_bytes([at[0], at[1], at[2] / 4, 0, 0, 0, 0, 0]))
        .collect::<Vec<_>>();
    for bytes in chosen.into_iter().chain(anywhere) {
        proxy.set(Mood::CutAfter(bytes));
        let attempt = async { dial.connect().await?.run("cat", &sent).await };
        let error = timeout(LIMIT, attempt).await.expect("no hang").unwrap_err();
        assert!(error.is_temporary(), "cut after {bytes}: {error:?}");
        proxy.set(Mood::Pass);
        let session = dial.connect().await.unwrap();
        assert!(session.run("true", b"").await.unwrap().status.is_success());
    }
}

#[tokio::test]
async fn a_silent_link_is_noticed_while_nothing_is_said() {
    let (_machine, proxy, dial) = behind_proxy().await;
    let session = dial.connect().await.unwrap();
    let mut channel = session.exec("echo up; sleep 300").await.unwrap();
    let mut said = [0; 3];
    channel.stdout.read_exact(&mut said).await.unwrap();
    proxy.set(Mood::Swallow);
    let read = timeout(LIMIT, channel.stdout.read(&mut said)).await.expect("it is noticed");
    assert!(read.is_err(), "a lost link is no clean end");
    let error = channel.exit.wait().await.unwrap_err();
    assert!(matches!(&error, RemoteError::Lost(why) if why.contains("silent")), "{error}");
    assert!(session.is_closed());
}

#[tokio::test]
async fn a_silent_link_is_noticed_while_it_is_written_to() {
    let (_machine, proxy, dial) = behind_proxy().await;
    let session = dial.connect().await.unwrap();
    let mut channel = session.exec("cat > /dev/null").await.unwrap();
    let chunk = noise(1 << 20);
    channel.stdin.write_all(&chunk).await.unwrap();
    proxy.set(Mood::Swallow);
    let fill = async { while channel.stdin.write_all(&chunk).await.is_ok() {} };
    timeout(LIMIT, fill).await.expect("it is noticed");
    let error = channel.exit.wait().await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_at_once_pass_a_narrow_link() {
    let (_machine, _proxy, dial) = behind_proxy().await;
    let session = dial.connect().await.unwrap();
    let sent = noise(32 << 20);
    let echo = timeout(LIMIT, session.run("cat", &sent)).await.expect("no hang").unwrap();
    assert!(echo.stdout == sent, "what came back differs");
}

#[tokio::test]
async fn a_port_where_nobody_speaks_is_given_up_on() {
    let (_machine, proxy, dial) = behind_proxy().await;
    proxy.set(Mood::Swallow);
    let error = timeout(LIMIT, dial.connect()).await.expect("it is given up").unwrap_err();
    assert!(matches!(error, RemoteError::KeyExchange { .. }), "{error}");
    assert!(error.is_temporary());
}
