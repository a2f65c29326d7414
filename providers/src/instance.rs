//! What has been rented.

use crate::{Offer, UsdPerHour};
use serde::{Deserialize, Serialize};
use std::{fmt, time::SystemTime};

/// The name we give an instance before it exists, by which it is found again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Label(pub String);

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
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
}
