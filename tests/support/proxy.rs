//! A loopback proxy that misbehaves on command: cuts its connections, or swallows all they say.

use std::{net::Ipv4Addr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinHandle,
};

/// How much each of its sockets holds, in bytes.
const BUFFER: u32 = 16 << 10;

/// What the proxy does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Passes them on.
    Pass,
    /// Takes no more, and lets nothing through, as a pulled cable does.
    Swallow,
    /// Passes this many more on, over all connections, then cuts.
    CutAfter(u64),
}

/// A proxy before one address. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    mood: Arc<watch::Sender<Mood>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before a port of this computer.
    pub(crate) fn before(target: u16) -> Self {
        let socket = narrow();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(16).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mood = Arc::new(watch::Sender::new(Mood::Pass));
        let moods = Arc::clone(&mood);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let far = narrow().connect((Ipv4Addr::LOCALHOST, target).into()).await.unwrap();
                connections.spawn(join(near, far, Arc::clone(&moods)));
            }
        });
        Self { port, mood, task }
    }

    /// Changes its mind, at once and for the connections there are.
    pub(crate) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A socket that holds little, so that whoever writes to a silent proxy soon waits.
fn narrow() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(BUFFER).unwrap();
    socket.set_send_buffer_size(BUFFER).unwrap();
    socket
}

async fn join(near: TcpStream, far: TcpStream, mood: Arc<watch::Sender<Mood>>) {
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // Either end ends both.
    tokio::select! {
        () = pass(near_in, far_out, &mood) => {}
        () = pass(far_in, near_out, &mood) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mood: &watch::Sender<Mood>) {
    let (mut changes, mut chunk) = (mood.subscribe(), vec![0; 64 << 10]);
    loop {
        let now = *changes.borrow_and_update();
        if now == Mood::Swallow {
            changes.changed().await.unwrap();
            continue;
        }
        let read = tokio::select! {
            read = from.read(&mut chunk) => read,
            _ = changes.changed() => continue,
        };
        let Ok(count @ 1..) = read else { return };
        let mut cut = false;
        mood.send_if_modified(|mood| {
            if let Mood::CutAfter(left) = mood {
                *left = left.saturating_sub(count as u64);
                cut = *left == 0;
            }
            false
        });
        if cut || to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}
