//! What has been rented.

use crate::{Mib, Offer, UsdPerHour};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, net::SocketAddr, time::SystemTime};
use tokio::sync::watch;

/// The name we give an instance before it exists, by which it is found again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Label(pub String);

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an instance is started with.
///
/// Where [`Capabilities::start_script`](crate::Capabilities::start_script) is zero, `start` is
/// not run and has to be brought over SSH; where the host is a virtual machine, `image` is the
/// marketplace's own choice unless it is named here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// A container image with its tag, or a virtual machine's system image. Empty: the
    /// marketplace's usual one with a GPU driver.
    pub image: String,
    /// A POSIX shell script, run as root at every start, before anybody can log in.
    pub start: String,
    /// Disk to rent.
    pub disk: Mib,
    /// Environment of `start`. Readable back at most marketplaces: nothing secret.
    pub env: BTreeMap<String, String>,
}

/// All that a marketplace must know to rent an offer to us.
#[derive(Clone, Debug)]
pub struct Order {
    /// Which offer, as it was listed.
    pub offer: Offer,
    /// Fresh for every order, and written to the ledger first.
    pub label: Label,
    /// What we pay at most, on interruptible offers.
    pub bid: Option<UsdPerHour>,
    /// An OpenSSH public key to let in.
    pub public_key: String,
    /// What it is started with.
    pub setup: Setup,
    /// When the marketplace itself should end it, where
    /// [`Capabilities::expiry`](crate::Capabilities::expiry) says that it can.
    pub expires: Option<SystemTime>,
    /// Whether it is still wanted, which is asked right before it is sent.
    pub standing: Standing,
}

impl Order {
    /// An order for an offer under a label, letting a key in; the rest by default.
    pub fn new(offer: Offer, label: Label, public_key: impl Into<String>) -> Self {
        Self {
            offer,
            label,
            bid: None,
            public_key: public_key.into(),
            setup: Setup::default(),
            expires: None,
            standing: Standing::default(),
        }
    }
}

/// Whoever may call orders off that aren't sent yet. Without it they are called off as well.
#[derive(Debug)]
pub struct Recall(watch::Sender<bool>);

impl Default for Recall {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Recall {
    /// For an order.
    pub fn standing(&self) -> Standing {
        Standing(Some(self.0.subscribe()))
    }

    /// Calls off all orders that aren't sent yet.
    pub fn call_off(&self) {
        self.0.send_replace(true);
    }
}

/// Whether an order still stands, as it does by default.
#[derive(Clone, Debug, Default)]
pub struct Standing(Option<watch::Receiver<bool>>);

impl Standing {
    /// Whether it was called off.
    pub fn is_called_off(&self) -> bool {
        self.0.as_ref().is_some_and(|ear| *ear.borrow() || ear.has_changed().is_err())
    }

    /// Waits until it is called off, which may be for ever. Cancel-safe.
    pub async fn called_off(&self) {
        match &self.0 {
            // That nobody is left who could say so says it as well.
            Some(ear) => drop(ear.clone().wait_for(|off| *off).await),
            None => std::future::pending().await,
        }
    }
}

/// A marketplace's own name for an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceId(pub String);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an instance answers SSH.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// A host name or an address.
    pub host: String,
    /// Rarely 22: container hosts map it.
    pub port: u16,
    /// Who to log in as.
    pub user: String,
}

impl Endpoint {
    /// Where a virtual machine answers: at port 22, unless the address brings another.
    pub(crate) fn of_machine(address: &str, user: &str) -> Self {
        let (host, port) = match address.parse::<SocketAddr>() {
            Ok(address) => (address.ip().to_string(), address.port()),
            Err(_) => (address.to_owned(), 22),
        };
        Self { host, port, user: user.to_owned() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}", self.user, self.host, self.port)
    }
}

/// An instance's state, in our words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// Being prepared.
    Pending,
    /// Up, and reachable here.
    Running(Endpoint),
    /// Taken back by the marketplace: outbid, or preempted.
    Interrupted,
    /// Down, with its disk kept, and billed.
    Stopped,
    /// Never going to run, and why.
    Failed(String),
    /// On its way out.
    Terminating,
    /// A word this version doesn't know, kept as it came.
    Unknown(String),
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => f.write_str("pending"),
            Self::Running(_) => f.write_str("running"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Stopped => f.write_str("stopped"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Terminating => f.write_str("terminating"),
            Self::Unknown(word) => write!(f, "unknown ({word})"),
        }
    }
}

/// One line of a marketplace's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The marketplace's name for it.
    pub id: InstanceId,
    /// Our name for it, if it has one.
    pub label: Option<Label>,
    /// What it is doing.
    pub state: InstanceState,
    /// All that an hour of it costs, where the listing says so.
    pub price: Option<UsdPerHour>,
    /// When it was rented, where the listing says so.
    pub since: Option<SystemTime>,
    /// A second way in, for when the first is closed.
    pub fallback: Option<Endpoint>,
    /// The marketplace's own remark: how far it is, or what went wrong.
    pub note: Option<String>,
}

impl Instance {
    /// A line that says no more than this.
    pub const fn new(id: InstanceId, label: Option<Label>, state: InstanceState) -> Self {
        Self { id, label, state, price: None, since: None, fallback: None, note: None }
    }
}
