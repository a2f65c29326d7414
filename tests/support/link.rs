//! A link that is long and narrow: what is sent arrives later, and no more than so much a second. It
//! is one for all machines behind it, as the line of whoever runs the program is.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, sleep_until},
};

/// Bytes that are put on the line at once.
const CHUNK: usize = 4 << 10;

/// How much a socket before the line holds, in bytes.
const BUFFER: u32 = 64 << 10;

/// One way of a link.
#[derive(Debug)]
pub(crate) struct Way {
    delay: Duration,
    bytes_per_second: f64,
    /// When the line has sent what it was given.
    free: Mutex<Instant>,
    /// Bytes that it was given.
    pub(crate) bytes: AtomicU64,
}

impl Way {
    fn new(delay: Duration, megabits: f64) -> Self {
        let (free, bytes) = (Mutex::new(Instant::now()), AtomicU64::new(0));
        Self { delay, bytes_per_second: megabits * 1e6 / 8.0, free, bytes }
    }

    /// Puts bytes on the line: when it has sent them.
    fn send(&self, bytes: usize) -> Instant {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        let mut free = self.free.lock().expect("nobody panics with it");
        *free = Instant::now().max(*free) + takes;
        *free
    }
}

/// A link.
#[derive(Debug)]
pub(crate) struct Link {
    /// From here to the machines.
    pub(crate) up: Way,
    /// From the machines to here.
    pub(crate) down: Way,
}

impl Link {
    /// A link with this round trip, and so many Mbit/s up and down.
    pub(crate) fn new(round_trip: Duration, up: f64, down: f64) -> Self {
        Self { up: Way::new(round_trip / 2, up), down: Way::new(round_trip / 2, down) }
    }

    /// A port of this computer from which the link leads to another.
    pub(crate) fn before(self: &Arc<Self>, target: u16) -> u16 {
        let listener = narrow().and_then(|socket| {
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            socket.listen(64)
        });
        let listener = listener.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        tokio::spawn(self.clone().pass(listener, target));
        port
    }

    async fn pass(self: Arc<Self>, listener: TcpListener, target: u16) {
        while let Ok((near, _)) = listener.accept().await {
            let link = self.clone();
            tokio::spawn(async move {
                // Who connects to a machine that is gone hears of it at once.
                let Ok(far) = connect(target).await else { return };
                let ((near_in, near_out), (far_in, far_out)) =
                    (near.into_split(), far.into_split());
                tokio::join!(
                    carry(near_in, far_out, &link.up),
                    carry(far_in, near_out, &link.down)
                );
            });
        }
    }
}

async fn connect(target: u16) -> io::Result<TcpStream> {
    let stream = narrow()?.connect((Ipv4Addr::LOCALHOST, target).into()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn narrow() -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER)?;
    Ok(socket)
}

/// Carries bytes one way until either end is closed.
async fn carry(mut from: OwnedReadHalf, to: OwnedWriteHalf, way: &Way) {
    let (line, far_end) = unbounded_channel();
    let arriving = tokio::spawn(arrive(far_end, to));
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        let sent = way.send(count);
        if line.send((sent + way.delay, chunk[..count].to_vec())).is_err() {
            break;
        }
        // Whoever sends is held up by a line that is busy, not by one that is long.
        sleep_until(sent).await;
    }
    drop(line);
    drop(arriving.await);
}

async fn arrive(mut line: UnboundedReceiver<(Instant, Vec<u8>)>, mut to: OwnedWriteHalf) {
    while let Some((at, bytes)) = line.recv().await {
        sleep_until(at).await;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
