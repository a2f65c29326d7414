//! One command that a client runs: its three streams, its end, and the client's hanging up.

use russh::{
    Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig,
    server::{Handle, Msg},
};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    ffi::OsStr,
    future::pending,
    io,
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::Path,
    process::{ExitStatus, Stdio},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy, sink},
    process::{Child, ChildStdin, Command},
    sync::oneshot,
};

/// As much as a pipe holds.
const CHUNK: usize = 64 << 10;

/// The extended data that SSH calls standard error (RFC 4254, 5.2).
const STDERR: u32 = 1;

/// Starts `command` under a shell, in `home`, in a process group of its own.
pub(super) fn start(command: &[u8], home: &Path) -> io::Result<Child> {
    Command::new("/bin/sh")
        .arg("-c")
        .arg(OsStr::from_bytes(command))
        .current_dir(home)
        .env("HOME", home)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Joins the command to its channel until it is over, or `hang_up` says that the client is gone.
///
/// Then its process group is told by SIGHUP, as a terminal would. What was detached stays.
pub(super) async fn attend(
    mut child: Child,
    channel: Channel<Msg>,
    session: Handle,
    hang_up: oneshot::Receiver<()>,
) {
    let group = child.id().and_then(|number| Pid::from_raw(number.cast_signed()));
    let (inbound, outbound) = channel.split();
    let stdin = child.stdin.take().expect("stdin was piped");
    let mut stdout = child.stdout.take().expect("stdout was piped");
    let mut stderr = child.stderr.take().expect("stderr was piped");
    let output = async {
        tokio::join!(
            send(&mut stdout, &outbound, None),
            send(&mut stderr, &outbound, Some(STDERR))
        );
        child.wait().await
    };
    let ended = tokio::select! {
        ended = output => Some(ended),
        () = receive(inbound, stdin, group) => None,
        _ = hang_up => None,
    };
    match ended {
        // Nobody is there to be told if this fails.
        Some(Ok(status)) => drop(report(&session, &outbound, status).await),
        Some(Err(_)) => drop(outbound.close().await),
        None => {
            signal(group, Signal::HUP);
            // Its last words are heard, if by nobody: a closed pipe would kill it at its cleaning.
            let unheard = async {
                let (mut one, mut two) = (sink(), sink());
                let _ = tokio::join!(copy(&mut stdout, &mut one), copy(&mut stderr, &mut two));
                pending::<()>().await;
            };
            tokio::select! {
                _ = child.wait() => {}
                () = unheard => {}
            }
        }
    }
}

async fn send(from: &mut (impl AsyncRead + Unpin), to: &ChannelWriteHalf<Msg>, kind: Option<u32>) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        // A pipe fails only by being closed.
        let Ok(1..) = from.read_buf(&mut chunk).await else { return };
        let sent = match kind {
            None => to.data_bytes(chunk).await,
            Some(kind) => to.extended_data_bytes(kind, chunk).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Returns when the client closes the channel.
async fn receive(mut from: ChannelReadHalf, to: ChildStdin, group: Option<Pid>) {
    let mut to = Some(to);
    while let Some(message) = from.wait().await {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign list that grows")]
        match message {
            ChannelMsg::Data { data } => {
                if let Some(stdin) = &mut to
                    && stdin.write_all(&data).await.is_err()
                {
                    // The command reads no more; what comes is dropped, as by a closed pipe.
                    to = None;
                }
            }
            ChannelMsg::Eof => to = None,
            ChannelMsg::Signal { signal: Sig::HUP } => signal(group, Signal::HUP),
            ChannelMsg::Signal { signal: Sig::INT } => signal(group, Signal::INT),
            ChannelMsg::Signal { signal: Sig::KILL } => signal(group, Signal::KILL),
            ChannelMsg::Signal { signal: Sig::TERM } => signal(group, Signal::TERM),
            ChannelMsg::Close => return,
            _ => {}
        }
    }
}

async fn report(
    session: &Handle,
    channel: &ChannelWriteHalf<Msg>,
    status: ExitStatus,
) -> Result<(), russh::Error> {
    channel.eof().await?;
    if let Some(number) = status.signal() {
        let (name, dumped) = (signal_name(number), status.core_dumped());
        let sent =
            session.exit_signal_request(channel.id(), name, dumped, String::new(), String::new());
        sent.await.map_err(|()| russh::Error::SendError)?;
    } else {
        let code = status.code().unwrap_or_default().cast_unsigned();
        channel.exit_status(code).await?;
    }
    channel.close().await
}

fn signal_name(number: i32) -> Sig {
    let known = [
        (Signal::ABORT, Sig::ABRT),
        (Signal::ALARM, Sig::ALRM),
        (Signal::FPE, Sig::FPE),
        (Signal::HUP, Sig::HUP),
        (Signal::ILL, Sig::ILL),
        (Signal::INT, Sig::INT),
        (Signal::KILL, Sig::KILL),
        (Signal::PIPE, Sig::PIPE),
        (Signal::QUIT, Sig::QUIT),
        (Signal::SEGV, Sig::SEGV),
        (Signal::TERM, Sig::TERM),
        (Signal::USR1, Sig::USR1),
    ];
    let found = known.into_iter().find(|(signal, _)| signal.as_raw() == number);
    found.map_or_else(|| Sig::Custom(number.to_string()), |(_, name)| name)
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // A group that is gone needs no signal.
        let _ = kill_process_group(group, signal);
    }
}
