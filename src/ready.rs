//! Waits until a rented instance can be reached.

use providers::{Endpoint, InstanceId, InstanceState, Marketplace, UsdPerHour};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The shortest and the longest pause between two looks at the listing.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// Why an instance will not become ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// It took too long.
    #[error("it wasn't ready after {}", crate::report::words::time(*.0))]
    TooSlow(Duration),
    /// The marketplace has given it up or away.
    #[error("the marketplace says that it is {0}")]
    Lost(InstanceState),
    /// It isn't in the listing any more.
    #[error("the marketplace doesn't list it any more")]
    Gone,
}

/// What is new of an instance in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What an hour of it costs, in whatever state it is: it is billed while it boots.
    pub price: Option<UsdPerHour>,
    /// Where it answers, if it runs.
    pub endpoint: Option<Endpoint>,
}

/// A wait until the marketplace says where an instance answers, for as long as that marketplace's
/// instances may take.
#[derive(Debug)]
pub struct Waiting<'a> {
    market: &'a dyn Marketplace,
    id: &'a InstanceId,
    begin: Instant,
    pause: Duration,
    /// The price that was seen last.
    price: Option<UsdPerHour>,
}

impl<'a> Waiting<'a> {
    /// Begins to wait for the instance `id`.
    pub fn new(market: &'a dyn Marketplace, id: &'a InstanceId) -> Self {
        Self { market, id, begin: Instant::now(), pause: PAUSES.0, price: None }
    }

    /// Waits until the instance runs, or costs something else than was seen before.
    ///
    /// A listing that fails says nothing, and is asked for again.
    pub async fn next(&mut self) -> Result<Seen, NotReady> {
        let capabilities = self.market.capabilities();
        while self.begin.elapsed() < capabilities.boot_limit {
            if let Ok(instances) = self.market.instances().await {
                match instances.into_iter().find(|instance| instance.id == *self.id) {
                    Some(instance) => {
                        let price = instance.price.filter(|price| self.price != Some(*price));
                        self.price = price.or(self.price);
                        let endpoint = running(instance.state, price.is_some())?;
                        if price.is_some() || endpoint.is_some() {
                            return Ok(Seen { price, endpoint });
                        }
                    }
                    None if capabilities.listing_lag < self.begin.elapsed() => {
                        return Err(NotReady::Gone);
                    }
                    None => {}
                }
            }
            sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSES.1);
        }
        Err(NotReady::TooSlow(self.begin.elapsed()))
    }
}

/// Where an instance in this state answers, if it runs. With `more` to say of it, what is lost is
/// left to the next look.
fn running(state: InstanceState, more: bool) -> Result<Option<Endpoint>, NotReady> {
    match state {
        InstanceState::Running(endpoint) => Ok(Some(endpoint)),
        InstanceState::Pending | InstanceState::Unknown(_) => Ok(None),
        lost @ (InstanceState::Interrupted
        | InstanceState::Stopped
        | InstanceState::Failed(_)
        | InstanceState::Terminating) => {
            if more {
                Ok(None)
            } else {
                Err(NotReady::Lost(lost))
            }
        }
    }
}
