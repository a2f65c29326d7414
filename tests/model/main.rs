//! Any order of events, rather than the few that somebody thought of: [`leases`] draws sequences at
//! random and tells them to the real code, [`protocol`] goes through all of them in a model.

mod bench;
mod leases;
mod protocol;
