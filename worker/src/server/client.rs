//! Requests to a server on this machine, over HTTP/1.1.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use std::{error::Error, net::Ipv4Addr, pin::pin};
use tokio::net::TcpStream;

/// Bytes of an answer, at most.
const LIMIT: usize = 256 << 20;

/// The server that listens on a port of this machine, and the key that it knows the worker by.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// The port.
    pub(super) port: u16,
    /// The key.
    pub(super) key: String,
}

/// What a server answers.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// The HTTP status.
    pub(super) status: u16,
    /// The body.
    pub(super) body: Bytes,
}

/// Why there is no answer, for people.
#[derive(Debug)]
pub(super) struct NoReply(pub(super) String);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for NoReply {
    fn from(error: E) -> Self {
        let error = error.into();
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self(text)
    }
}

impl Address {
    /// Asks for a page.
    pub(super) async fn get(&self, path: &str) -> Result<Reply, NoReply> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// Sends a JSON body. Dropping the future hangs up, by which servers know that nobody wants
    /// the answer any more.
    pub(super) async fn post(&self, path: &str, body: Bytes) -> Result<Reply, NoReply> {
        self.send(Method::POST, path, body).await
    }

    /// A connection of its own for each request: on this machine one costs microseconds, and none
    /// is ever found to be closed half-way.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Reply, NoReply> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1")
            .header(header::CONNECTION, "close")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key))
            .body(Full::new(body))?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LIMIT).collect().await?.to_bytes();
            Ok(Reply { status, body })
        };
        let (mut answer, connection) = (pin!(answer), pin!(connection));
        tokio::select! {
            answer = &mut answer => answer,
            // What had come before its end is with the answer already.
            _ = connection => answer.await,
        }
    }
}
