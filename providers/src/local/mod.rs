//! This computer as a marketplace: an instance is a detached process with its own SSH server, its
//! own folder and its own host key. It outlives the program, as a rented machine would.

mod computer;
mod exec;
mod folder;
mod processes;
mod serve;
mod state;

pub use serve::serve_local_instance;
#[cfg(feature = "testkit")]
pub(crate) use serve::serve_with_host_key;

use crate::{
    Capabilities, Error, ErrorKind, Host, Instance, InstanceId, InstanceState, Marketplace, Need,
    Offer, Order, Result, UsdPerHour,
};
use folder::{Facts, Folder};
use russh::keys::PublicKey;
use state::{BOOT_LIMIT, Process};
use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

const NAME: &str = "local";
const LABEL_LIMIT: usize = 200;

/// The instance's process looks for this file in its folder, which is the home of its commands.
const SELF_RELEASE: &str = r#"[ -n "${CHECK:-}" ] || : > "$HOME/release""#;

/// What an instance inherits of the environment. The rest may hold secrets of the account, which
/// have no place on a machine.
const INHERITED: &[&str] = &[
    "PATH",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    // What fetches models is of this computer, and so are its settings and its user's token.
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_TOKEN",
    "RAYON_NUM_THREADS",
    "RUST_BACKTRACE",
    "LLVM_PROFILE_FILE",
    "PIECEWORK_CACHE",
];

/// This computer as a marketplace.
#[derive(Clone, Debug)]
pub struct Local {
    folder: PathBuf,
    program: Vec<OsString>,
    cache: Option<PathBuf>,
}

impl Local {
    /// A marketplace that keeps one sub-folder for each instance in `folder`.
    ///
    /// An instance is `program` with the sub-folder as one more argument. It must call
    /// [`serve_local_instance`] with that.
    pub fn new(folder: PathBuf, program: Vec<OsString>) -> Self {
        Self { folder, program, cache: None }
    }

    /// The same, with instances that keep in `cache` what outlives them, such as models.
    #[must_use]
    pub fn caching_in(self, cache: PathBuf) -> Self {
        Self { cache: Some(cache), ..self }
    }

    fn rent_blocking(&self, order: &Order) -> Result<Instance> {
        let fault = |kind| move |source| failed("rent", kind, source);
        if order.standing.is_called_off() {
            return Err(Error { source: None, ..fault(ErrorKind::CalledOff)(not_found()) });
        }
        if order.offer.id.0 != computer::OFFER {
            return Err(Error { source: None, ..fault(ErrorKind::OfferGone)(not_found()) });
        }
        check(order).map_err(fault(ErrorKind::Unexpected))?;
        let id = InstanceId(format!("{NAME}-{:016x}", rand::random::<u64>()));
        let folder =
            Folder::create(&self.folder, &id, order).map_err(fault(ErrorKind::Unavailable))?;
        // From here on the instance is listed under its label, whatever happens to this process.
        if let Err(source) = self.start(&id, &folder) {
            let undone = folder.remove().is_ok();
            let kind = if undone { ErrorKind::Unavailable } else { ErrorKind::Uncertain };
            return Err(fault(kind)(source));
        }
        // Only litter is at stake, and the next rental tries again.
        drop(Folder::sweep(&self.folder));
        Ok(Instance {
            price: Some(UsdPerHour(0)),
            since: Some(SystemTime::now()),
            ..Instance::new(id, Some(order.label.clone()), InstanceState::Pending)
        })
    }

    fn start(&self, id: &InstanceId, folder: &Folder) -> io::Result<()> {
        let (program, arguments) = self.program.split_first().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "no program was named for instances")
        })?;
        // The child may be started from its own folder, so a relative one would not be found.
        let path = std::path::absolute(folder.path())?;
        let log = folder.log()?;
        let child = Command::new(program)
            .args(arguments)
            .arg(&path)
            .current_dir(&path)
            .env_clear()
            .envs(env::vars_os().filter(|(name, _)| is_inherited(name)))
            .envs(self.cache.as_ref().map(|cache| ("PIECEWORK_CACHE", cache)))
            .env(processes::STAMP, &id.0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        // It outlives us or we collect it; a dead child that nobody waits for stays in the table.
        std::thread::spawn(move || {
            let mut child = child;
            drop(child.wait());
        });
        Ok(())
    }

    fn list_blocking(&self) -> Result<Vec<Instance>> {
        let folders = Folder::all(&self.folder)
            .map_err(|source| failed("list instances", ErrorKind::Unavailable, source))?;
        // One that vanished between the two looks has been released.
        let there = folders.into_iter().filter(|(_, folder)| folder.path().exists());
        Ok(there.map(|(id, folder)| instance(id, &folder)).collect())
    }

    fn release_blocking(&self, id: &InstanceId) -> Result<()> {
        let Some(folder) = Folder::of(&self.folder, id) else { return Ok(()) };
        let process = folder.facts().ok().and_then(|facts| facts.process);
        // Processes first: while any may run, the folder keeps the instance listed.
        processes::end_all(&id.0, process)
            .and_then(|()| folder.remove())
            .map_err(|source| failed("release", ErrorKind::Unavailable, source))
    }
}

#[async_trait::async_trait]
impl Marketplace for Local {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: NAME,
            host: Host::ThisComputer,
            interruptible: false,
            label_limit: LABEL_LIMIT,
            start_script: 0,
            expiry: true,
            self_release: Some(SELF_RELEASE),
            boot_limit: BOOT_LIMIT,
            listing_lag: Duration::ZERO,
            release_interval: Duration::ZERO,
        }
    }

    async fn offers(&self, _need: &Need) -> Result<Vec<Offer>> {
        let offer = computer::offer(&self.folder)
            .map_err(|source| failed("list offers", ErrorKind::Unavailable, source))?;
        Ok(vec![offer])
    }

    async fn rent(&self, order: &Order) -> Result<Instance> {
        let (local, order) = (self.clone(), order.clone());
        blocking(move || local.rent_blocking(&order)).await
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        let local = self.clone();
        blocking(move || local.list_blocking()).await
    }

    async fn release(&self, id: &InstanceId) -> Result<()> {
        let (local, id) = (self.clone(), id.clone());
        blocking(move || local.release_blocking(&id)).await
    }
}

fn instance(id: InstanceId, folder: &Folder) -> Instance {
    let (label, state, since) = match folder.facts().and_then(|facts| {
        let state = current_state(&facts)?;
        Ok((facts, state))
    }) {
        Ok((facts, state)) => (Some(facts.label), state, Some(facts.since)),
        // It may run all the same, so it is kept and shown.
        Err(error) => {
            (folder.label(), InstanceState::Unknown(format!("unreadable: {error}")), None)
        }
    };
    Instance { price: Some(UsdPerHour(0)), since, ..Instance::new(id, label, state) }
}

fn current_state(facts: &Facts) -> io::Result<InstanceState> {
    let process = match facts.process {
        None => Process::NotSeen,
        Some(id) if id.is_alive()? => Process::Alive,
        Some(_) => Process::Dead,
    };
    let age = facts.since.elapsed().unwrap_or_default();
    Ok(state::state(process, facts.port, age))
}

fn check(order: &Order) -> io::Result<()> {
    let label = &order.label.0;
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    if label.trim() != label
        || label.is_empty()
        || label.contains('\n')
        || LABEL_LIMIT < label.len()
    {
        return Err(invalid("the label is empty, too long, or not one plain line".to_owned()));
    }
    PublicKey::from_openssh(&order.public_key)
        .map(drop)
        .map_err(|error| invalid(format!("the public key can't be read: {error}")))
}

fn is_inherited(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        INHERITED.contains(&name) || name.starts_with("LC_") || name.starts_with("PIP_")
    })
}

fn failed(operation: &'static str, kind: ErrorKind, source: io::Error) -> Error {
    Error { provider: NAME, operation, kind, source: Some(Box::new(source)) }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(act).await.expect("no marketplace call panics")
}
