//! The process that is an instance: an SSH server for one key, until its folder is gone.

use super::{
    exec,
    folder::Folder,
    processes::{self, ProcessId},
};
use russh::{
    Channel, ChannelId, MethodKind, MethodSet, Preferred, cipher,
    keys::{Algorithm, PrivateKey, PublicKey},
    server::{self, Auth, ChannelOpenHandle, Msg, Session, VerifiedPublicKey},
};
use std::{
    borrow::Cow, collections::HashMap, future::Future, io, net::Ipv4Addr, path::Path,
    path::PathBuf, sync::Arc, time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::{MissedTickBehavior, interval},
};

/// How often an instance looks whether it should end by itself.
const LOOK: Duration = Duration::from_secs(1);

/// How long a silent client is believed in: three unanswered keep-alives, this far apart.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The most that SSH allows in one packet.
const PACKET: u32 = 65_535;

/// How many packets of one channel are held for a command that is slow to read, before the whole
/// connection waits for it.
const HELD_PACKETS: usize = 1024;

/// Is a local instance until it is released: serves SSH on a free port of the loopback device.
///
/// `folder` is what [`Local`](super::Local) handed to this process. Everything a client starts
/// runs in it, and ends with it. Fails if the folder isn't one, or nothing can be served.
pub async fn serve_local_instance(folder: &Path) -> io::Result<()> {
    serve_with_host_key(folder, None, None).await
}

/// The same, showing the host key in the file `planted` as soon as there is one. `known` is which
/// process this is to the renter, in the words of [`ProcessId`], where it has other numbers here.
pub(crate) async fn serve_with_host_key(
    folder: &Path,
    planted: Option<&Path>,
    known: Option<&str>,
) -> io::Result<()> {
    // Fails only for a process that leads its own group, which no terminal can interrupt either.
    let _ = rustix::process::setsid();
    // A renter under `nohup` ignores SIGHUP, and so would all that we start. What is caught is back
    // to its default in them.
    let _hang_ups = signal(SignalKind::hangup())?;
    let folder = Folder::at(folder);
    let process = match known {
        Some(known) => known.parse().map_err(io::Error::other)?,
        None => ProcessId::current()?,
    };
    // This also fails if the instance was released before it began.
    folder.set_process(process)?;
    let guests = PublicKey::from_openssh(&folder.public_key()?).map_err(io::Error::other)?;
    let own_key =
        PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(io::Error::other)?;
    let mut config = Arc::new(config(own_key));
    let mut planted = planted;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    folder.set_port(listener.local_addr()?.port())?;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            connection = listener.accept() => {
                // One that was gone before it was taken is no reason to stop.
                let Ok((stream, _)) = connection else { continue };
                let guest = Guest::new(guests.clone(), folder.path().to_owned());
                if let Some(key) = planted.and_then(|path| PrivateKey::read_openssh_file(path).ok())
                {
                    (config, planted) = (Arc::new(self::config(key)), None);
                }
                tokio::spawn(serve(Arc::clone(&config), stream, guest));
            }
            _ = look.tick() => if folder.is_over() { break },
        }
    }
    let me = ProcessId::current()?;
    tokio::task::spawn_blocking(move || {
        processes::end_all(&folder.name(), Some(me))?;
        folder.remove()
    })
    .await
    .map_err(io::Error::other)?
}

async fn serve(config: Arc<server::Config>, stream: TcpStream, guest: Guest) {
    // Without it answers of a few bytes wait for the client's acknowledgements.
    drop(stream.set_nodelay(true));
    // How one client fares is its own affair; it sees the same error at its end.
    if let Ok(session) = server::run_stream(config, stream, guest).await {
        drop(session.await);
    }
}

fn config(host_key: PrivateKey) -> server::Config {
    server::Config {
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        keys: vec![host_key],
        // Only this computer can knock, and it may knock often.
        auth_rejection_time: Duration::from_millis(10),
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE),
        maximum_packet_size: PACKET,
        channel_buffer_size: HELD_PACKETS,
        event_buffer_size: 64,
        preferred: Preferred {
            cipher: Cow::Borrowed(&[cipher::AES_256_GCM, cipher::CHACHA20_POLY1305]),
            ..Preferred::DEFAULT
        },
        ..server::Config::default()
    }
}

/// One connection.
struct Guest {
    key: PublicKey,
    home: PathBuf,
    opened: HashMap<ChannelId, Channel<Msg>>,
    /// Dropped with the connection, which tells every command that its client is gone.
    attached: HashMap<ChannelId, oneshot::Sender<()>>,
}

impl Guest {
    fn new(key: PublicKey, home: PathBuf) -> Self {
        Self { key, home, opened: HashMap::new(), attached: HashMap::new() }
    }
}

impl server::Handler for Guest {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let known = key.public_key.key_data() == self.key.key_data();
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.opened.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(channel) = self.opened.remove(&id) else { return session.channel_failure(id) };
        let Ok(child) = exec::start(command, &self.home) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let (attached, hang_up) = oneshot::channel();
        self.attached.insert(id, attached);
        tokio::spawn(exec::attend(child, channel, session.handle(), hang_up));
        Ok(())
    }

    async fn channel_close(
        &mut self,
        id: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.opened.remove(&id);
        self.attached.remove(&id);
        Ok(())
    }

    // What isn't offered is refused, or its client would wait for an answer.
    fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> impl Future<Output = Result<(), Self::Error>> {
        std::future::ready(session.channel_failure(id))
    }

    fn subsystem_request(
        &mut self,
        id: ChannelId,
        _name: &str,
        session: &mut Session,
    ) -> impl Future<Output = Result<(), Self::Error>> {
        std::future::ready(session.channel_failure(id))
    }

    fn env_request(
        &mut self,
        id: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> impl Future<Output = Result<(), Self::Error>> {
        std::future::ready(session.channel_failure(id))
    }
}
