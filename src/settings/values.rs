//! Values as people type them: times, money and sizes. Pure.

use super::SettingsError;
use providers::{Mib, Usd};
use std::time::Duration;

/// Reads a time such as `90m`, `6h` or `1h30m`.
pub fn time(text: &str) -> Result<Duration, SettingsError> {
    let wrong = || SettingsError::Value {
        value: text.to_owned(),
        what: "time",
        example: "`45s`, `90m`, `6h` or `1h30m`",
    };
    let (mut total, mut number) = (0_u64, String::new());
    for letter in text.trim().chars() {
        let unit = match letter {
            '0'..='9' => {
                number.push(letter);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let count: u64 = number.parse().map_err(|_| wrong())?;
        number.clear();
        total =
            count.checked_mul(unit).and_then(|more| total.checked_add(more)).ok_or_else(wrong)?;
    }
    if number.is_empty() && 0 < total { Ok(Duration::from_secs(total)) } else { Err(wrong()) }
}

/// Reads an amount of money such as `20` or `0.35`.
pub fn usd(text: &str) -> Result<Usd, SettingsError> {
    let amount = text.trim().trim_start_matches('$').parse().ok();
    amount.and_then(micros).ok_or_else(|| SettingsError::Value {
        value: text.to_owned(),
        what: "amount of dollars",
        example: "`20` or `0.35`",
    })
}

/// Reads a size of memory or disk such as `24GB`, `24` or `81559MiB`. GB are GiB, as everywhere
/// where memory is sold.
pub fn memory(text: &str) -> Result<Mib, SettingsError> {
    let wrong =
        || SettingsError::Value { value: text.to_owned(), what: "size", example: "`24GB` or `24`" };
    let digits = text.trim().trim_end_matches(char::is_alphabetic);
    let mib = match text.trim()[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "g" | "gb" | "gib" => 1024,
        "m" | "mb" | "mib" => 1,
        "t" | "tb" | "tib" => 1024 * 1024,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(mib).filter(|mib| *mib < 1 << 40).map(Mib).ok_or_else(wrong)
}

fn micros(usd: f64) -> Option<Usd> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
    (0.0..1e9).contains(&usd).then(|| Usd((usd * 1e6).round() as u64))
}

pub(super) fn size(text: &str) -> Result<u64, SettingsError> {
    let wrong = || SettingsError::Value {
        value: text.to_owned(),
        what: "size",
        example: "`500MB` or `2GB`",
    };
    let digits = text.trim().trim_end_matches(char::is_alphabetic);
    let unit = match text.trim()[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|bytes| 0 < *bytes).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read_as_people_write_them() {
        assert_eq!(time("1h30m").ok(), Some(Duration::from_mins(90)));
        assert_eq!(size("2GB").ok(), Some(2_000_000_000));
        assert_eq!(size("1 GiB").ok(), Some(1 << 30));
        assert_eq!(usd("$0.35").ok(), Some(Usd(350_000)));
        for (text, mib) in [
            ("24GB", Some(24_576)),
            ("24", Some(24_576)),
            ("81559 MiB", Some(81_559)),
            ("1TB", Some(1 << 20)),
            ("24 apples", None),
            ("GB", None),
            ("-1", None),
        ] {
            assert_eq!(memory(text).ok(), mib.map(Mib), "{text}");
        }
    }
}
