//! Whether what a machine has still to do would cost less on another. Pure.

use crate::{
    cost::{Share, money},
    model::whole,
};
use providers::Usd;

/// By how much the other must be cheaper: what is thought of it may be wrong.
const GAIN: f64 = 1.25;

/// How often a slot's machine is exchanged in a session, at most.
pub const EXCHANGES: u32 = 3;

/// What the rest of a machine's work costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// On the machine.
    pub stay: Usd,
    /// On another, its start included.
    pub go: Usd,
}

/// What an exchange would bring, where it is worth it. `own` has the speed that was seen; `left` is
/// what it would still answer, in prompts, and `until` in how many seconds all must be over.
pub fn worth(own: &Share, other: &Share, left: f64, until: f64) -> Option<Exchange> {
    let (stays, goes) = (left / own.rate, other.startup + left / other.rate);
    // What is charged in blocks ends with a whole one, which is small beside the rest.
    let stay = own.price * stays / 3600.0;
    let go = money(other, goes);
    let in_time = goes <= until.max(stays);
    let usd = |micros: f64| Usd(whole(micros.ceil()));
    (in_time && go * GAIN < stay).then(|| Exchange { stay: usd(stay), go: usd(go) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use providers::Billing;

    /// A dollar an hour and a prompt a second.
    fn share(rate: f64, startup: f64) -> Share {
        let billing = Billing::default();
        Share { price: 1e6, rate, startup, billing, fixed: 0.0, each: 0.0 }
    }

    const HOUR: f64 = 3600.0;

    #[test]
    fn a_machine_goes_when_another_does_the_rest_for_clearly_less_and_in_time() {
        let slow = share(0.5, 0.0);
        let two_hours = Exchange { stay: Usd(2_000_000), go: Usd(1_100_000) };
        let other = share(1.0, HOUR / 10.0);
        assert_eq!(worth(&slow, &other, 3_600.0, 10.0 * HOUR), Some(two_hours));
        assert_eq!(worth(&slow, &other, 3_600.0, 0.0), Some(two_hours), "late, but less so");
        // So little is left that the start costs more than it brings.
        assert_eq!(worth(&slow, &other, 360.0, HOUR), None);
        // A fifth faster isn't enough.
        assert_eq!(worth(&slow, &share(0.6, 0.0), 36_000.0, 100.0 * HOUR), None);
        // A quarter is what it takes, and a little.
        assert_eq!(worth(&slow, &share(0.625, 0.0), 36_000.0, 100.0 * HOUR), None);
        assert!(worth(&slow, &share(0.63, 0.0), 36_000.0, 100.0 * HOUR).is_some());
        let cheap_and_slow = Share { price: 1e5, ..share(0.1, 0.0) };
        assert!(worth(&slow, &cheap_and_slow, 3_600.0, 10.0 * HOUR).is_some());
        assert_eq!(worth(&slow, &cheap_and_slow, 3_600.0, 9.0 * HOUR), None, "too late");
        let minimum = Billing { minimum: std::time::Duration::from_hours(3), ..Billing::default() };
        assert_eq!(worth(&slow, &Share { billing: minimum, ..other }, 3_600.0, 10.0 * HOUR), None);
    }

    #[test]
    fn one_that_answers_nothing_is_worth_any_other_that_does() {
        assert!(worth(&share(0.0, 0.0), &share(1.0, 0.0), 3_600.0, HOUR).is_some());
        assert_eq!(worth(&share(1.0, 0.0), &share(0.0, 0.0), 3_600.0, HOUR), None);
    }
}
