//! What is wanted, and what is for rent.

use crate::{Host, Mib, UsdPerGb, UsdPerHour};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// What a job demands of one instance. A marketplace may use it to list less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Memory of one GPU, at least. Zero where none is needed.
    pub vram: Mib,
    /// Price of the whole instance, at most.
    pub ceiling: Option<UsdPerHour>,
    /// Disk, at least. Offers are priced with this much of it.
    pub disk: Mib,
    /// How many GPUs exactly, or any number.
    pub gpus: Option<u32>,
    /// Whether offers that can be taken back are of use too.
    pub interruptible: bool,
}

/// A marketplace's own name for an offer.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OfferId(pub String);

impl fmt::Display for OfferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The terms on which an instance is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rental {
    /// Ours until released.
    #[default]
    OnDemand,
    /// Ours until somebody bids more, or the marketplace wants it back.
    Interruptible {
        /// The lowest bid that would win now; where nobody bids, the price.
        floor: UsdPerHour,
    },
}

/// The GPUs of an offer, all of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpus {
    /// The model, as the marketplace spells it.
    pub name: String,
    /// How many.
    pub count: u32,
    /// Memory of each.
    pub vram: Mib,
}

/// A processor's instruction set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Arch {
    /// Intel and AMD.
    #[default]
    X86_64,
    /// ARM, as in GH200 and GB200.
    Aarch64,
}

/// How far a host's owner has been checked. Ordered: later is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Trust {
    /// Anybody's computer.
    #[default]
    Anyone,
    /// Tested by the marketplace.
    Verified,
    /// In a data centre that the marketplace runs or vouches for.
    Datacenter,
}

/// What traffic costs beside the hourly price. Zero where it is included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Into the instance.
    pub inbound: UsdPerGb,
    /// Out of the instance.
    pub outbound: UsdPerGb,
}

/// How fast the instance reaches the internet, as the marketplace measured it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Into the instance, in Mbit/s.
    pub down: Option<u32>,
    /// Out of the instance, in Mbit/s.
    pub up: Option<u32>,
}

/// A version of CUDA. Ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cuda {
    /// 12 of 12.4.
    pub major: u16,
    /// 4 of 12.4.
    pub minor: u16,
}

impl Cuda {
    /// Reads `12.4`, or `12`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// How time becomes money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Billing {
    /// Charged even if released sooner.
    pub minimum: Duration,
    /// Time is rounded up to a multiple of this. Zero where it isn't rounded.
    pub step: Duration,
}

impl Billing {
    /// The time that is charged for a rental that lasted `held`.
    pub fn charged(self, held: Duration) -> Duration {
        let held = held.max(self.minimum);
        match self.step.as_nanos() {
            0 => held,
            step => {
                let steps = u32::try_from(held.as_nanos().div_ceil(step)).unwrap_or(u32::MAX);
                self.step.saturating_mul(steps)
            }
        }
    }
}

/// Something for rent at the moment of asking. Offers spoil within seconds.
///
/// What a marketplace doesn't tell is `None`, or the default; an offer without a price is
/// never listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Handed back in an [`Order`](crate::Order).
    pub id: OfferId,
    /// What else the marketplace wants back in an order, in its own words; often nothing.
    pub terms: String,
    /// Its GPUs, if it has any.
    pub gpus: Option<Gpus>,
    /// The processors' instruction set.
    pub arch: Arch,
    /// Processor cores.
    pub cores: u32,
    /// Main memory. Zero where it isn't told.
    pub memory: Mib,
    /// Disk that may be had. Zero where it isn't told.
    pub disk: Mib,
    /// All that an hour of the whole instance costs, with the disk that was asked for.
    pub price: UsdPerHour,
    /// What traffic costs beside that.
    pub traffic: Traffic,
    /// How time becomes money.
    pub billing: Billing,
    /// On-demand, or interruptible.
    pub rental: Rental,
    /// What the instance will be. Aggregators rent out several kinds.
    pub host: Host,
    /// Where it stands, in the marketplace's words.
    pub region: String,
    /// Who runs the hardware, where the marketplace only passes it on.
    pub seller: Option<String>,
    /// The physical machine, where it has a name, so that a bad one is not rented twice.
    pub machine: Option<String>,
    /// How fast it reaches the internet.
    pub network: Network,
    /// The newest CUDA that its driver can run.
    pub cuda: Option<Cuda>,
    /// The GPU driver, in the marketplace's words.
    pub driver: Option<String>,
    /// The share of time that the host is up, in thousandths.
    pub reliability: Option<u16>,
    /// How far its owner has been checked.
    pub trust: Trust,
    /// When the marketplace said all this.
    pub quoted_at: SystemTime,
}

impl Default for Offer {
    /// An offer of nothing, to fill in what a marketplace tells.
    fn default() -> Self {
        Self {
            id: OfferId::default(),
            terms: String::new(),
            gpus: None,
            arch: Arch::default(),
            cores: 0,
            memory: Mib(0),
            disk: Mib(0),
            price: UsdPerHour(0),
            traffic: Traffic::default(),
            billing: Billing::default(),
            rental: Rental::OnDemand,
            host: Host::Container,
            region: String::new(),
            seller: None,
            machine: None,
            network: Network::default(),
            cuda: None,
            driver: None,
            reliability: None,
            trust: Trust::default(),
            quoted_at: SystemTime::UNIX_EPOCH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_charged_by_the_step_and_at_least_the_minimum() {
        let minute = Duration::from_mins(1);
        let by_the_minute = Billing { minimum: minute * 10, step: minute };
        assert_eq!(by_the_minute.charged(Duration::from_secs(1)), minute * 10);
        assert_eq!(by_the_minute.charged(minute * 10 + Duration::from_secs(1)), minute * 11);
        assert_eq!(Billing::default().charged(Duration::from_secs(7)), Duration::from_secs(7));
    }

    #[test]
    fn versions_of_cuda_are_compared_as_numbers() {
        assert!(Cuda::parse("12.4") < Cuda::parse("12.10"));
        assert_eq!(Cuda::parse("13"), Some(Cuda { major: 13, minor: 0 }));
        assert_eq!(Cuda::parse("new"), None);
        assert_eq!(Cuda::parse("12.8").expect("it is a version").to_string(), "12.8");
    }
}
