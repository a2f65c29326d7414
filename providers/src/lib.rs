//! Places that rent GPU instances by the hour, behind one trait.
//!
//! The core speaks only the words exported here. Each provider's module is private, so no code
//! outside this crate can name one.

pub mod crash;
mod error;
mod http;
mod instance;
mod json;
mod keys;
mod lambda;
mod leftover;
mod local;
mod market;
mod offer;
mod prime;
mod registry;
mod runpod;
mod shadeform;
mod units;
mod vast;
mod verda;

#[cfg(any(test, feature = "testkit"))]
pub mod testkit;

pub use error::{Error, ErrorKind, Result};
pub use http::{Timing, Transport, use_ring};
pub use instance::{
    Endpoint, Instance, InstanceId, InstanceState, Label, Order, Recall, Setup, Standing,
};
pub use leftover::{Leftover, LeftoverKind};
pub use local::{Local, serve_local_instance};
pub use market::{Capabilities, Host, Marketplace};
pub use offer::{Arch, Billing, Cuda, Gpus, Need, Network, Offer, OfferId, Rental, Traffic, Trust};
pub use registry::{Access, Account, Credential, PROVIDERS, Provider, Remote};
pub use units::{Mib, Usd, UsdPerGb, UsdPerHour};
