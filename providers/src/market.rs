//! The contract of a marketplace.

use crate::{Instance, InstanceId, Leftover, Need, Offer, Order, Result};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// What kind of thing an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Host {
    /// A container on somebody's machine: fixed image, mapped ports, root.
    Container,
    /// A virtual machine: a system of its own, and a driver to check.
    Vm,
    /// A process on the computer that we run on: it sees our files, and costs nothing.
    ThisComputer,
}

/// What differs between marketplaces. The core reads these and never asks for a name.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// Its name: what a user types, and what is written into the ledger.
    pub name: &'static str,
    /// What its instances are.
    pub host: Host,
    /// Whether it takes bids.
    pub interruptible: bool,
    /// The longest label it keeps whole. Labels of letters, digits and dashes are kept as they are.
    pub label_limit: usize,
    /// The longest start script it runs, in bytes. Zero where it runs none.
    pub start_script: usize,
    /// Whether it ends instances by itself at [`Order::expires`].
    pub expiry: bool,
    /// How an instance ends its own rental: a POSIX shell command, run as root on it, that needs
    /// only what the marketplace puts inside. It exits with 0 once the marketplace has agreed; with
    /// `CHECK` set it ends nothing, and exits with 0 if it could.
    /// `None` where an instance holds no credential of its own.
    pub self_release: Option<&'static str>,
    /// How long an instance may take to run.
    pub boot_limit: Duration,
    /// How long a new instance may be missing from [`Marketplace::instances`], counted from when
    /// the request for it was sent, whether anybody waited for the answer or not.
    pub listing_lag: Duration,
    /// How far apart requests to end instances are sent, where many are to be ended at once.
    pub release_interval: Duration,
}

/// A place that rents instances by the hour.
#[async_trait::async_trait]
pub trait Marketplace: fmt::Debug + Send + Sync {
    /// What it can do. Never changes.
    fn capabilities(&self) -> Capabilities;

    /// A short name for the key that lets us in, by which an account can be told from another
    /// without asking. It gives nothing of the key away. Another key may be let in to the same
    /// account all the same. `None` where no key is needed.
    fn login(&self) -> Option<String> {
        None
    }

    /// Lists what is for rent.
    ///
    /// `need` may be used to ask for less, or ignored: the caller checks every offer again.
    async fn offers(&self, need: &Need) -> Result<Vec<Offer>>;

    /// Rents an offer, without waiting for the instance to run.
    ///
    /// After `Ok`, one instance has this label. After [`Uncertain`](crate::ErrorKind::Uncertain),
    /// one or none has. After any other error none has: an implementation that takes several
    /// requests undoes the earlier ones. It sends the request that rents only once.
    async fn rent(&self, order: &Order) -> Result<Instance>;

    /// Lists every instance on the account that may cost money, ours or not.
    ///
    /// Reads every page. Half an answer is an error, never a shorter list.
    async fn instances(&self) -> Result<Vec<Instance>>;

    /// Ends a rental, without waiting for it to be over. One that is already over is `Ok`.
    async fn release(&self, id: &InstanceId) -> Result<()>;

    /// Moves the end that the marketplace itself puts to an instance. `false`: it puts none, which
    /// is what [`Capabilities::expiry`] says as well.
    async fn extend(&self, id: &InstanceId, expires: SystemTime) -> Result<bool> {
        let _ = (id, expires);
        Ok(false)
    }

    /// Lists the disks of ours that have outlived their instances, and are billed by themselves. Not
    /// asked for where a disk goes with its instance.
    async fn disks(&self) -> Result<Vec<Leftover>> {
        Ok(Vec::new())
    }

    /// Lists what renting has put on the account beside instances and what instances have left
    /// there, of ours only. A run that is under way may need it still.
    async fn leftovers(&self) -> Result<Vec<Leftover>> {
        Ok(Vec::new())
    }

    /// Takes one of them off the account. One that is gone is `Ok`.
    async fn remove(&self, leftover: &Leftover) -> Result<()> {
        let _ = leftover;
        Ok(())
    }
}
