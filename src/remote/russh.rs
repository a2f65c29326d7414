//! The SSH client: dial a machine, and run commands on it.

use super::{
    channel::{self, Channel, Ended, Ending, Status},
    error::RemoteError,
    key::RunKey,
    link::Link,
    pin::{PinError, Pins},
};
use providers::{Endpoint, Label};
use russh::{
    Channel as SshChannel, ChannelMsg, Disconnect, Preferred, cipher,
    client::{self, DisconnectReason, Handle, Msg},
    keys::{Algorithm, PrivateKeyWithHashAlg, PublicKeyOrCertificate},
};
use std::{borrow::Cow, fmt, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// The most that SSH allows in one packet.
const PACKET: u32 = 65_535;

/// How many bytes the other side may send on a channel before it must hear from us.
const WINDOW: u32 = 8 << 20;

/// How many packets of one channel are held for a slow reader before the connection waits for it.
const HELD_PACKETS: usize = 1024;

/// How long to wait for room for another command, each time that there is none.
const CROWDED_PAUSES: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
];

/// Best first: AES in hardware is several times faster than the others.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_128_CTR,
];

/// How patient a session is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a TCP connection.
    pub connect: Duration,
    /// For the key exchange, and again for authentication.
    pub handshake: Duration,
    /// Between signs of life of a quiet link.
    pub keepalive: Duration,
    /// How many of them may stay unanswered. The next one due ends the session.
    pub unanswered: usize,
}

impl Default for Patience {
    /// A dead link is noticed after 28 seconds.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            handshake: Duration::from_secs(20),
            keepalive: Duration::from_secs(7),
            unanswered: 3,
        }
    }
}

/// How to reach one instance, as often as it takes.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Whose host key to expect.
    pub label: Label,
    /// Where it answers.
    pub endpoint: Endpoint,
    /// What lets us in.
    pub key: RunKey,
    /// Where host keys are remembered.
    pub pins: Arc<Pins>,
    /// How long to wait for what.
    pub patience: Patience,
}

impl Dial {
    /// Connects, checks the host key, and logs in.
    pub async fn connect(&self) -> Result<Session, RemoteError> {
        let (stream, link) = Link::new(self.tcp().await?);
        let ending = Ending::default();
        let client = Client { dial: self.clone(), ending: Arc::clone(&ending) };
        let handshake = client::connect_stream(Arc::new(self.config()), stream, client);
        let mut handle = match timeout(self.patience.handshake, handshake).await {
            Ok(Ok(handle)) => handle,
            Ok(Err(ClientError::Pin(PinError::Changed(changed)))) => return Err(changed.into()),
            Ok(Err(ClientError::Pin(PinError::NotYet))) => {
                return Err(RemoteError::HostKeyNotYet(self.endpoint.clone()));
            }
            Ok(Err(ClientError::Pin(PinError::File(error)))) => {
                return Err(RemoteError::Pins(error));
            }
            Ok(Err(ClientError::Ssh(source))) => return Err(self.no_ssh(source)),
            Err(_) => return Err(self.no_ssh(russh::Error::ConnectionTimeout)),
        };
        let key = PrivateKeyWithHashAlg::new(self.key.private(), None);
        let login = handle.authenticate_publickey(&self.endpoint.user, key);
        match timeout(self.patience.handshake, login).await {
            Ok(Ok(answer)) if answer.success() => Ok(Session { handle, ending, _link: link }),
            Ok(Ok(_)) => Err(RemoteError::Rejected(self.endpoint.clone())),
            Ok(Err(error)) => Err(lost(&ending, &error)),
            Err(_) => Err(lost(&ending, &russh::Error::ConnectionTimeout)),
        }
    }

    async fn tcp(&self) -> Result<TcpStream, RemoteError> {
        let Endpoint { host, port, .. } = &self.endpoint;
        let connecting = TcpStream::connect((host.as_str(), *port));
        let connected = timeout(self.patience.connect, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        connected
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|source| RemoteError::Unreachable { endpoint: self.endpoint.clone(), source })
    }

    fn no_ssh(&self, source: russh::Error) -> RemoteError {
        RemoteError::KeyExchange { endpoint: self.endpoint.clone(), source: Box::new(source) }
    }

    fn config(&self) -> client::Config {
        let mut keys = Preferred::DEFAULT.key.into_owned();
        if let Some(pinned) = self.pins.pinned(&self.label) {
            // Ask for the kind that is pinned, or a server with several would seem to have changed.
            let rank = |known: &Algorithm| !is_same_kind(known, &pinned.algorithm());
            keys.sort_by_key(rank);
        }
        client::Config {
            window_size: WINDOW,
            maximum_packet_size: PACKET,
            channel_buffer_size: HELD_PACKETS,
            keepalive_interval: Some(self.patience.keepalive),
            keepalive_max: self.patience.unanswered,
            nodelay: true,
            preferred: Preferred {
                key: Cow::Owned(keys),
                cipher: Cow::Borrowed(CIPHERS),
                ..Preferred::DEFAULT
            },
            ..client::Config::default()
        }
    }
}

/// RSA keys are one kind, whatever they are signed with.
fn is_same_kind(one: &Algorithm, other: &Algorithm) -> bool {
    one == other || matches!((one, other), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
}

/// A login on a machine. Commands run in it side by side, and end with it when it is dropped.
pub struct Session {
    handle: Handle<Client>,
    ending: Ending,
    _link: Link,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}

/// All that a command said, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: Status,
    /// Everything on its standard output.
    pub stdout: Vec<u8>,
    /// The last 64 KiB of its standard error.
    pub stderr: String,
}

impl Session {
    /// Starts `command` under the user's login shell.
    pub async fn exec(&self, command: &str) -> Result<Channel, RemoteError> {
        let mut channel = self.open().await?;
        channel.exec(true, command).await.map_err(|error| lost(&self.ending, &error))?;
        self.accepted(&mut channel).await?;
        let (inbound, outbound) = channel.split();
        Ok(channel::join(inbound, outbound, Arc::clone(&self.ending)))
    }

    /// A channel for one command. A server that allows one at a time (`MaxSessions 1`) may count the
    /// last one for a moment after it has said that it is over.
    async fn open(&self) -> Result<SshChannel<Msg>, RemoteError> {
        let mut pauses = CROWDED_PAUSES.iter();
        loop {
            match self.handle.channel_open_session().await {
                Err(russh::Error::ChannelOpenFailure(_)) => {
                    sleep(*pauses.next().ok_or(RemoteError::Crowded)?).await;
                }
                channel => return channel.map_err(|error| lost(&self.ending, &error)),
            }
        }
    }

    async fn accepted(&self, channel: &mut SshChannel<Msg>) -> Result<(), RemoteError> {
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => return Ok(()),
                Some(ChannelMsg::Failure) => return Err(RemoteError::NoShell),
                Some(ChannelMsg::Close) | None => {
                    return Err(lost(&self.ending, &russh::Error::Disconnect));
                }
                Some(_) => {}
            }
        }
    }

    /// Runs `command` to its end, with `stdin` as its input.
    ///
    /// A command that fails is no error here: see [`Output::status`].
    pub async fn run(&self, command: &str, stdin: &[u8]) -> Result<Output, RemoteError> {
        let Channel { stdin: mut input, stdout: mut output, exit } = self.exec(command).await?;
        let mut stdout = Vec::new();
        let feed = async move {
            // A command need not want all of its input.
            drop(input.write_all(stdin).await);
        };
        // A link that breaks here is also what `exit` reports.
        let drain = async { drop(output.read_to_end(&mut stdout).await) };
        let ((), (), ended) = tokio::join!(feed, drain, exit.wait());
        let Ended { status, stderr } = ended?;
        Ok(Output { status, stdout, stderr })
    }

    /// Whether the link is known to be gone.
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Says goodbye. Commands that are still attached are hung up on.
    pub async fn close(self) {
        // If the link is gone there is nobody to say goodbye to.
        drop(self.handle.disconnect(Disconnect::ByApplication, "", "").await);
        drop(timeout(Duration::from_secs(1), self.handle).await);
    }
}

fn lost(ending: &Ending, error: &russh::Error) -> RemoteError {
    let why = ending.lock().expect("nothing panics while holding it").clone();
    RemoteError::Lost(why.unwrap_or_else(|| error.to_string()))
}

/// What the SSH library asks us, and tells us.
struct Client {
    dial: Dial,
    ending: Ending,
}

/// Why the library stopped.
#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error(transparent)]
    Pin(#[from] PinError),
}

impl client::Handler for Client {
    type Error = ClientError;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, ClientError> {
        match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                self.dial.pins.check(&self.dial.label, key)?;
                Ok(true)
            }
            // We trust no authority, and ask for none.
            PublicKeyOrCertificate::Certificate(_) => Ok(false),
        }
    }

    async fn disconnected(
        &mut self,
        reason: DisconnectReason<ClientError>,
    ) -> Result<(), ClientError> {
        let why = match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                format!("the machine ended it ({})", info.message)
            }
            DisconnectReason::Error(ClientError::Ssh(russh::Error::KeepaliveTimeout)) => {
                "the machine is silent".into()
            }
            DisconnectReason::Error(error) => error.to_string().to_lowercase(),
        };
        *self.ending.lock().expect("nothing panics while holding it") = Some(why);
        Ok(())
    }
}
