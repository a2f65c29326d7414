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
const ROOM: usize = 8 << 20;

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::Ipv4Addr, time::Duration};
    use tokio::{io::AsyncReadExt, net::TcpSocket, time::timeout};

    /// A link, and its other end, which holds little.
    async fn link() -> (DuplexStream, Link, TcpStream) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let (stream, link) = Link::new(near);
        (stream, link, far)
    }

    #[tokio::test]
    async fn a_write_does_not_wait_for_an_end_that_reads_nothing() {
        let (mut stream, _link, far) = link().await;
        let bytes = vec![7; ROOM];
        let write = stream.write_all(&bytes);
        timeout(Duration::from_secs(10), write).await.expect("there is room").unwrap();
        drop(far);
    }

    #[tokio::test]
    async fn what_was_written_arrives_and_then_the_end() {
        let (mut stream, _link, mut far) = link().await;
        stream.write_all(b"last words").await.unwrap();
        drop(stream);
        let mut heard = String::new();
        far.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "last words");
    }

    #[tokio::test]
    async fn a_dropped_link_closes_the_connection() {
        let (mut stream, link, mut far) = link().await;
        drop(link);
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
}
