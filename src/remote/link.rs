//! A TCP connection with room in between, so that SSH can always write.
//!
//! russh reads nothing while it writes, and looks at no timer. Two such ends that both have more
//! to say than the kernel holds would wait for each other for ever, and a dead link that is being
//! written to would never be noticed. What may be under way is bounded by the channels' windows,
//! so with this much room a write never waits.

use tokio::{
    io::{AsyncWriteExt, DuplexStream, copy_bidirectional_with_sizes, duplex},
    net::TcpStream,
    task::JoinHandle,
};

/// Room each way, in bytes.
const ROOM: usize = 16 << 20;

/// How much is passed on at a time, in bytes.
const CHUNK: usize = 128 << 10;

/// The task that passes bytes on. Ends with the stream it serves, or when dropped.
#[derive(Debug)]
pub(super) struct Link(JoinHandle<()>);

impl Link {
    /// Puts room before `stream`.
    pub(super) fn new(mut stream: TcpStream) -> (DuplexStream, Self) {
        let (near, mut far) = duplex(ROOM);
        let task = tokio::spawn(async move {
            // Whoever reads the near end sees it end, and says why.
            drop(copy_bidirectional_with_sizes(&mut far, &mut stream, CHUNK, CHUNK).await);
            drop(stream.shutdown().await);
        });
        (near, Self(task))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.0.abort();
    }
}
