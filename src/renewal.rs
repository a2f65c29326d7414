//! Tells a marketplace, while this program lives, that an instance is still needed.
//!
//! Where the marketplace itself ends an instance at a time that it is told, that time is kept near and
//! moved on: what outlives the program is soon over. It is there what the heartbeat is to a machine
//! that can end itself.

use crate::clock;
use jiff::Timestamp;
use providers::{InstanceId, Marketplace};
use std::{convert::Infallible, time::Duration};
use tokio::time::sleep;

/// How many times it is told within the time that it waits: all but one may fail.
const TIMES: u32 = 4;

/// When an instance is over that nobody speaks of any more, and that is over at `expires` in any case.
pub fn until(now: Timestamp, expires: Timestamp, silence: Duration) -> Timestamp {
    clock::after(now, silence).min(expires)
}

/// Moves the end of an instance on, until this is dropped. What fails is made good by the next.
///
/// `expires` is a moment of ours, and so comes also under a clock that is put back; the marketplace
/// is told what the clock shows, as with the order.
pub async fn renew(
    market: &dyn Marketplace,
    id: &InstanceId,
    expires: Timestamp,
    silence: Duration,
) -> Infallible {
    loop {
        let end = clock::to_system(clock::shown(until(clock::now(), expires, silence)));
        drop(market.extend(id, end).await);
        sleep(silence / TIMES).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_moves_an_end_beyond_the_last_one() {
        let (minute, now) = (Duration::from_mins(1), Timestamp::UNIX_EPOCH);
        let expires = clock::after(now, 20 * minute);
        assert_eq!(until(now, expires, 15 * minute), clock::after(now, 15 * minute));
        let later = clock::after(now, 10 * minute);
        assert_eq!(until(later, expires, 15 * minute), expires);
    }
}
