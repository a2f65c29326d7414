//! Shopping and keys, by the real program against marketplaces on loopback.

mod failures;
mod hourly;
mod keyring;
mod keys;
mod offers;
mod secrets;
mod shopper;
mod terminal;
