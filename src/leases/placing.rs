//! Renting, until it is clear whether that was done.

use super::{LOOK_EVERY, LOOKS};
use providers::{ErrorKind, Instance, Marketplace, Order};
use tokio::time::{Instant, sleep};

/// What came of an order.
#[derive(Debug)]
pub(super) enum Placed {
    Rented(Box<Instance>),
    /// The marketplace has nothing of ours. After no answer it may have had for a while.
    Refused(providers::Error),
    /// It can't be told.
    Unknown(providers::Error),
}

/// Rents, and where no answer came, looks until it is clear what happened.
pub(super) async fn place(market: &dyn Marketplace, order: &Order) -> Placed {
    let error = match market.rent(order).await {
        Ok(instance) if !instance.id.0.trim().is_empty() => {
            return Placed::Rented(Box::new(instance));
        }
        // Something was rented, and isn't told apart by that.
        Ok(_) => providers::Error {
            provider: market.capabilities().name,
            operation: "rent",
            kind: ErrorKind::Uncertain,
            source: Some("it named none".into()),
        },
        Err(error) if error.kind != ErrorKind::Uncertain => return Placed::Refused(error),
        Err(error) => error,
    };
    let shows = Instant::now() + market.capabilities().listing_lag;
    let mut looks = 0;
    while looks < LOOKS {
        let late = shows <= Instant::now();
        let listed = market.instances().await;
        let found = listed.as_ref().ok().and_then(|instances| {
            instances.iter().find(|found| found.label.as_ref() == Some(&order.label))
        });
        match (found, late) {
            (Some(instance), _) => return Placed::Rented(Box::new(instance.clone())),
            // A whole listing, taken late enough to show it, doesn't.
            (None, true) if listed.is_ok() => return Placed::Refused(error),
            (None, _) => {
                // Those that can't show it yet don't count.
                looks += u32::from(late);
                sleep(LOOK_EVERY).await;
            }
        }
    }
    Placed::Unknown(error)
}
