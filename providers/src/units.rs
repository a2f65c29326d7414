//! Quantities as integers, so that the cheapest of anything is always one thing.

use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

const MICROS: u64 = 1_000_000;

/// An amount of money, in millionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Usd(pub u64);

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded up: an amount is never shown smaller than it is.
        let cents = self.0.div_ceil(MICROS / 100);
        write!(f, "${}.{:02}", cents / 100, cents % 100)
    }
}

/// A price in millionths of a US dollar for one hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UsdPerHour(pub u64);

impl UsdPerHour {
    /// What it comes to in this time, rounded up to the next millionth.
    pub fn over(self, time: Duration) -> Usd {
        let hour = u128::from(Duration::from_hours(1).as_millis().max(1) as u64);
        let micros = (u128::from(self.0) * time.as_millis()).div_ceil(hour);
        Usd(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for UsdPerHour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}.{:04}/h", self.0 / MICROS, self.0 % MICROS / 100)
    }
}

/// A size in mebibytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mib(pub u64);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            small if small < 1024 => write!(f, "{small} MiB"),
            large => write!(f, "{}.{} GiB", large / 1024, large % 1024 * 10 / 1024),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_over_a_time_is_rounded_up() {
        let price = UsdPerHour(310_000);
        assert_eq!(price.over(Duration::from_hours(2)), Usd(620_000));
        assert_eq!(price.over(Duration::from_millis(1)), Usd(1));
        assert_eq!(price.over(Duration::ZERO), Usd(0));
    }

    #[test]
    fn quantities_read_as_people_write_them() {
        assert_eq!(Usd(1_234_567).to_string(), "$1.24");
        assert_eq!(UsdPerHour(310_000).to_string(), "$0.3100/h");
        assert_eq!(Mib(512).to_string(), "512 MiB");
        assert_eq!(Mib(24_564).to_string(), "23.9 GiB");
    }
}
