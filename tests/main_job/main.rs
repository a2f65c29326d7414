//! The main job, by the real program and the real worker with its echo: on this computer, and on
//! machines rented at marketplaces that answer as the real ones do.

mod accounts;
mod bad_input;
mod budgets;
mod cleanup;
mod consent;
mod crashes;
mod cuts;
mod estimates;
mod formats;
mod full_disk;
mod gated;
mod hostile;
mod interrupts;
mod kills;
mod ledgers;
mod links;
mod marketplaces;
mod objects;
mod poison;
mod prices;
mod secrets;
mod seeds;
mod slow_link;
mod smoke;
mod struck;
mod troubled;
mod unable;
mod watchdog;
mod whole;

#[path = "../support/program.rs"]
mod program;

#[path = "../support/cloud.rs"]
mod cloud;

#[path = "../support/elsewhere.rs"]
mod elsewhere;

#[path = "../support/link.rs"]
mod link;

// Tests start it, and it is this program.
#[path = "../../worker/tests/server/standin.rs"]
mod standin;

#[path = "../support/proxy.rs"]
mod proxy;
