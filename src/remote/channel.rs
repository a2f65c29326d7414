//! A command that runs on the other side: what goes in, what comes out, and how it ends.

use super::error::RemoteError;
use bytes::Bytes;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig, client::Msg};
use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{mpsc, oneshot},
};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// How much of a command's standard error is kept, in bytes: its end, where the reason is.
const STDERR_KEPT: usize = 64 << 10;

/// How many packets wait for a slow reader of standard output beside those that SSH holds.
const STDOUT_HELD: usize = 16;

/// The extended data that SSH calls standard error (RFC 4254, 5.2).
const STDERR: u32 = 1;

/// A command that runs on the other side. Dropping all of its parts hangs up on it.
#[derive(Debug)]
pub struct Channel {
    /// What goes in.
    pub stdin: Stdin,
    /// What comes out. It must be read: a command that is not heard in the end keeps the whole
    /// connection waiting.
    pub stdout: Stdout,
    /// How it ends.
    pub exit: Exit,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this code.
    Code(u32),
    /// By this signal, without its `SIG`.
    Signal(String),
}

impl Status {
    /// Whether it is code 0.
    pub fn is_success(&self) -> bool {
        *self == Self::Code(0)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(name) => write!(f, "signal {name}"),
        }
    }
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub status: Status,
    /// The last 64 KiB of its standard error.
    pub stderr: String,
}

/// Why a session is over, once it is.
pub(super) type Ending = Arc<Mutex<Option<String>>>;

/// Waits for the end of a command.
#[derive(Debug)]
pub struct Exit {
    ended: oneshot::Receiver<Result<Ended, RemoteError>>,
    _open: Arc<DropGuard>,
}

impl Exit {
    /// Waits until the command has ended and its output has been read or dropped.
    ///
    /// Fails with [`RemoteError::Lost`] if the link broke first.
    pub async fn wait(self) -> Result<Ended, RemoteError> {
        let gone = || RemoteError::Lost("the session was closed".into());
        self.ended.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// The standard input of a command. Shutting it down, or dropping it, is its end of file.
pub struct Stdin {
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    /// Resolves once nobody reads any more, which the writer alone would not notice.
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    end: Option<DropGuard>,
    _open: Arc<DropGuard>,
}

impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdin").finish_non_exhaustive()
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let over = self.over.as_mut().poll(cx).is_ready();
        if over || self.end.is_none() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.writer.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end = None;
        Poll::Ready(Ok(()))
    }
}

/// The standard output of a command. A lost link is an error here, never a clean end.
#[derive(Debug)]
pub struct Stdout {
    packets: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    _open: Arc<DropGuard>,
}

impl AsyncRead for Stdout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(self.packets.poll_recv(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(packet) => self.current = packet?,
            }
        }
        let length = self.current.len().min(into.remaining());
        into.put_slice(&self.current.split_to(length));
        Poll::Ready(Ok(()))
    }
}

/// Puts a command's parts together out of its SSH channel.
pub(super) fn join(
    inbound: ChannelReadHalf,
    outbound: ChannelWriteHalf<Msg>,
    ending: Ending,
) -> Channel {
    let (hang_up, over, end) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let (packets, received) = mpsc::channel(STDOUT_HELD);
    let (ended, exit) = oneshot::channel();
    let open = Arc::new(hang_up.clone().drop_guard());
    let channel = Channel {
        stdin: Stdin {
            writer: Box::pin(outbound.make_writer()),
            over: Box::pin(over.clone().cancelled_owned()),
            end: Some(end.clone().drop_guard()),
            _open: Arc::clone(&open),
        },
        stdout: Stdout { packets: received, current: Bytes::new(), _open: Arc::clone(&open) },
        exit: Exit { ended: exit, _open: open },
    };
    let outbound = Arc::new(outbound);
    // The two go their own ways: a full connection must not keep us from reading it empty.
    tokio::spawn(close(outbound, end, hang_up, over.clone()));
    tokio::spawn(async move {
        let outcome = listen(inbound, packets, ending).await;
        over.cancel();
        // Nobody may be waiting.
        drop(ended.send(outcome));
    });
    channel
}

/// Says to the other side that nothing more comes in, and later that nobody listens.
async fn close(
    outbound: Arc<ChannelWriteHalf<Msg>>,
    end: CancellationToken,
    hang_up: CancellationToken,
    over: CancellationToken,
) {
    // A session that is gone needs no goodbye.
    tokio::select! {
        () = over.cancelled() => return,
        () = end.cancelled() => drop(outbound.eof().await),
    }
    tokio::select! {
        () = over.cancelled() => {}
        () = hang_up.cancelled() => drop(outbound.close().await),
    }
}

async fn listen(
    mut from: ChannelReadHalf,
    stdout: mpsc::Sender<io::Result<Bytes>>,
    ending: Ending,
) -> Result<Ended, RemoteError> {
    let (mut stdout, mut stderr, mut status) = (Some(stdout), Vec::new(), None);
    while let Some(message) = from.wait().await {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign list that grows")]
        match message {
            ChannelMsg::Data { data } => {
                if let Some(sender) = &stdout
                    && sender.send(Ok(data)).await.is_err()
                {
                    stdout = None;
                }
            }
            ChannelMsg::ExtendedData { data, ext: STDERR } => keep_end(&mut stderr, &data),
            ChannelMsg::Eof => stdout = None,
            ChannelMsg::ExitStatus { exit_status } => status = Some(Status::Code(exit_status)),
            ChannelMsg::ExitSignal { signal_name, .. } => {
                status = Some(Status::Signal(name(&signal_name)));
            }
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    if let Some(status) = status {
        return Ok(Ended { status, stderr: String::from_utf8_lossy(&stderr).into_owned() });
    }
    let why = ending.lock().expect("nothing panics while holding it").clone();
    let why = why.unwrap_or_else(|| "the command was cut off".into());
    if let Some(stdout) = stdout {
        let error = io::Error::new(io::ErrorKind::ConnectionReset, why.clone());
        // Nobody may be reading.
        drop(stdout.send(Err(error)).await);
    }
    Err(RemoteError::Lost(why))
}

fn keep_end(kept: &mut Vec<u8>, more: &[u8]) {
    kept.extend_from_slice(more);
    // Twice the length before it is cut, so that bytes are moved rarely.
    if 2 * STDERR_KEPT < kept.len() {
        kept.drain(..kept.len() - STDERR_KEPT);
    }
}

fn name(signal: &Sig) -> String {
    match signal {
        Sig::Custom(name) => name.clone(),
        Sig::ABRT
        | Sig::ALRM
        | Sig::FPE
        | Sig::HUP
        | Sig::ILL
        | Sig::INT
        | Sig::KILL
        | Sig::PIPE
        | Sig::QUIT
        | Sig::SEGV
        | Sig::TERM
        | Sig::USR1 => format!("{signal:?}"),
    }
}
