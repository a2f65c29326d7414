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

/// An instance that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Where it answers.
    pub endpoint: Endpoint,
    /// What an hour of it costs, where the listing tells.
    pub price: Option<UsdPerHour>,
}

/// Waits until the marketplace says where the instance `id` answers, for as long as that
/// marketplace's instances may take.
///
/// A listing that fails says nothing, and is asked for again.
pub async fn ready(market: &dyn Marketplace, id: &InstanceId) -> Result<Ready, NotReady> {
    let begin = Instant::now();
    let capabilities = market.capabilities();
    let mut pause = PAUSES.0;
    while begin.elapsed() < capabilities.boot_limit {
        if let Ok(instances) = market.instances().await {
            match instances.into_iter().find(|instance| instance.id == *id) {
                Some(instance) => match instance.state {
                    InstanceState::Running(endpoint) => {
                        return Ok(Ready { endpoint, price: instance.price });
                    }
                    InstanceState::Pending | InstanceState::Unknown(_) => {}
                    lost @ (InstanceState::Interrupted
                    | InstanceState::Stopped
                    | InstanceState::Failed(_)
                    | InstanceState::Terminating) => return Err(NotReady::Lost(lost)),
                },
                None if capabilities.listing_lag < begin.elapsed() => return Err(NotReady::Gone),
                None => {}
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
    Err(NotReady::TooSlow(begin.elapsed()))
}
