//! What is wanted, and what is for rent.

use crate::{Mib, UsdPerHour};
use serde::{Deserialize, Serialize};

/// What a job demands of one instance. A marketplace may use it to list less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Memory of one GPU, at least. Zero where none is needed.
    pub vram: Mib,
    /// Price of the whole instance, at most.
    pub ceiling: Option<UsdPerHour>,
    /// Disk, at least.
    pub disk: Mib,
}

/// A marketplace's own name for an offer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OfferId(pub String);

/// The terms on which an instance is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rental {
    /// Ours until released.
    OnDemand,
    /// Ours until somebody bids more.
    Interruptible {
        /// The lowest bid that would win now.
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

/// Something for rent at the moment of asking. Offers spoil within seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Handed back in an [`Order`](crate::Order).
    pub id: OfferId,
    /// Its GPUs, if it has any.
    pub gpus: Option<Gpus>,
    /// Processor cores.
    pub cores: u32,
    /// Main memory.
    pub memory: Mib,
    /// Disk.
    pub disk: Mib,
    /// All that an hour costs, storage included.
    pub price: UsdPerHour,
    /// On-demand, or interruptible.
    pub rental: Rental,
    /// Where it stands, in the marketplace's words.
    pub region: String,
}
