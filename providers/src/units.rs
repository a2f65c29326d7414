//! Quantities as integers, so that the cheapest of anything is always one thing.

use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

const MICROS: u64 = 1_000_000;
const MILLIS_PER_HOUR: u128 = 3_600_000;

/// Dollars as millionths, if they are an amount that somebody could owe.
fn micros(dollars: f64) -> Option<u64> {
    let micros = (dollars * MICROS as f64).round();
    // Beyond 2^53 a float no longer counts in ones; nobody owes nine billion dollars.
    let sane = (0.0..=9e15).contains(&micros);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    sane.then_some(micros as u64)
}

/// An amount of money, in millionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Usd(pub u64);

impl Usd {
    /// An amount that came as dollars, to the nearest millionth. `None` if it is no amount.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        micros(dollars).map(Self)
    }
}

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
    /// A price that came as dollars, to the nearest millionth. `None` if it is no price: not a
    /// number, or below zero.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        micros(dollars).map(Self)
    }

    /// A price that came as cents.
    pub const fn from_cents(cents: u64) -> Self {
        Self(cents.saturating_mul(MICROS / 100))
    }

    /// The price as a number of dollars, for a marketplace that wants it so.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / MICROS as f64
    }

    /// The price of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What it comes to in this time, rounded up to the next millionth.
    pub fn over(self, time: Duration) -> Usd {
        let micros = (u128::from(self.0) * time.as_millis()).div_ceil(MILLIS_PER_HOUR);
        Usd(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for UsdPerHour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}.{:04}/h", self.0 / MICROS, self.0 % MICROS / 100)
    }
}

/// A price in millionths of a US dollar for 10⁹ bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UsdPerGb(pub u64);

impl UsdPerGb {
    /// A price that came as dollars, to the nearest millionth. `None` if it is no price.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        micros(dollars).map(Self)
    }

    /// What this many bytes come to, rounded up to the next millionth.
    pub fn over(self, bytes: u64) -> Usd {
        let micros = (u128::from(self.0) * u128::from(bytes)).div_ceil(1_000_000_000);
        Usd(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for UsdPerGb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}.{:04}/GB", self.0 / MICROS, self.0 % MICROS / 100)
    }
}

/// A size in mebibytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mib(pub u64);

impl Mib {
    /// A size that came as gibibytes, which is what marketplaces mean by GB of memory.
    pub const fn from_gib(gib: u64) -> Self {
        Self(gib.saturating_mul(1024))
    }

    /// The size in whole gibibytes, rounded up: what to ask for to get at least this.
    pub const fn to_gib(self) -> u64 {
        self.0.div_ceil(1024)
    }
}

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
    fn prices_come_as_dollars_or_cents_and_never_as_nonsense() {
        assert_eq!(UsdPerHour::from_dollars(0.31), Some(UsdPerHour(310_000)));
        assert_eq!(UsdPerHour::from_cents(199), UsdPerHour(1_990_000));
        for nonsense in [-0.01, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(UsdPerHour::from_dollars(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn traffic_is_rounded_up() {
        assert_eq!(UsdPerGb(20_000).over(1_500_000_000), Usd(30_000));
        assert_eq!(UsdPerGb(20_000).over(1), Usd(1));
    }

    #[test]
    fn quantities_read_as_people_write_them() {
        assert_eq!(Usd(1_234_567).to_string(), "$1.24");
        assert_eq!(UsdPerHour(310_000).to_string(), "$0.3100/h");
        assert_eq!(Mib(512).to_string(), "512 MiB");
        assert_eq!(Mib(24_564).to_string(), "23.9 GiB");
    }
}
