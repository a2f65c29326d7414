//! Any order of events, rather than the few that somebody thought of: [`leases`] draws sequences at
//! random, and tells them to the real code.

mod bench;
mod leases;
