//! A real machine to log in to: a local instance, released when dropped.
//!
//! The test program is itself the process of the instance: it must have a test of this name that
//! calls [`be_an_instance`].

use piecework::remote::{Dial, Patience, Pins, RunKey, Session};
use providers::{
    Endpoint, Instance, InstanceState, Label, Local, Marketplace, Need, Order, serve_local_instance,
};
use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// How long anything here may take before it has failed.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// The test that is no test: `#[test] #[ignore = "…"] fn is_an_instance() { be_an_instance() }`.
const INSTANCE: &str = "is_an_instance";

/// Serves as a local instance, if this process was started to be one.
pub(crate) fn be_an_instance() {
    if env::var_os("PIECEWORK_INSTANCE").is_some() {
        let folder = PathBuf::from(env::args_os().next_back().unwrap());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(serve_local_instance(&folder)).unwrap();
    }
}

/// A running local instance and all that is needed to reach it.
pub(crate) struct Machine {
    pub(crate) local: Local,
    pub(crate) instance: Instance,
    pub(crate) endpoint: Endpoint,
    pub(crate) key: RunKey,
    pub(crate) pins: Arc<Pins>,
    folder: tempfile::TempDir,
}

impl Machine {
    /// Rents an instance and waits until it runs.
    pub(crate) async fn rent(label: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let me: OsString = env::current_exe().unwrap().into();
        let arguments = ["--exact", INSTANCE, "--ignored", "--nocapture"].map(OsString::from);
        let program = [me].into_iter().chain(arguments).collect();
        let local = Local::new(folder.path().join("instances"), program);
        let key = RunKey::open(&folder.path().join("key")).unwrap();
        let pins = Arc::new(Pins::open(&folder.path().join("hosts")).unwrap());
        let offer = local.offers(&Need::default()).await.unwrap().remove(0);
        let order = Order::new(offer, Label(label.into()), key.public_line());
        let rented = local.rent(&order).await.unwrap();
        let (instance, endpoint) = timeout(LIMIT, running(&local, &rented)).await.unwrap();
        Self { local, instance, endpoint, key, pins, folder }
    }

    /// How to reach it.
    pub(crate) fn dial(&self) -> Dial {
        Dial {
            label: self.instance.label.clone().unwrap(),
            endpoint: self.endpoint.clone(),
            key: self.key.clone(),
            pins: Arc::clone(&self.pins),
            patience: Patience::default(),
        }
    }

    /// A login on it.
    pub(crate) async fn session(&self) -> Session {
        self.dial().connect().await.unwrap()
    }

    /// The home of its commands.
    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("instances").join(&self.instance.id.0)
    }

    /// A folder of the test's own, outside of the machine.
    pub(crate) fn outside(&self) -> &Path {
        self.folder.path()
    }
}

async fn running(local: &Local, rented: &Instance) -> (Instance, Endpoint) {
    loop {
        for instance in local.instances().await.unwrap() {
            if let InstanceState::Running(endpoint) = &instance.state
                && instance.id == rented.id
            {
                let endpoint = endpoint.clone();
                return (instance, endpoint);
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let end = || {
            tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
                .block_on(self.local.release(&self.instance.id))
                .unwrap();
        };
        // The test's own runtime is still around here; another thread is free of it.
        thread::scope(|scope| scope.spawn(end).join().unwrap());
    }
}
