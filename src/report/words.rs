//! Numbers as people write them. Pure.

use providers::Usd;
use std::time::Duration;

/// A time: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=9 => format!("{:.1} s", time.as_secs_f64()),
        10..=59 => format!("{seconds} s"),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A number of seconds that may be any float.
pub fn seconds(seconds: f64) -> String {
    time(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// A size: `640 B`, `98.4 MB`, `1.2 GB`.
pub fn size(bytes: u64) -> String {
    scaled(bytes as f64, &["B", "kB", "MB", "GB", "TB"], " ")
}

/// A rate or a large count: `812`, `3.4k`, `1.2M`.
pub fn rate(count: f64) -> String {
    match count {
        small if small < 10.0 => format!("{small:.1}"),
        _ => scaled(count, &["", "k", "M", "G", "T"], ""),
    }
}

/// A count with thousands apart: `4,000,000`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if 0 < at && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 prompt`, `2 prompts`.
pub fn plural(number: u64, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {noun}{s}", count(number))
}

/// Money that may be less than a few cents: rounded up, as all money is.
pub fn small(usd: Usd) -> String {
    let (unit, decimals) = match usd.0 {
        0 | 100_000.. => return usd.to_string(),
        1_000.. => (100, 4),
        _ => (1, 6),
    };
    let text = format!("$0.{:0decimals$}", usd.0.div_ceil(unit));
    let spare = text.len() - text.trim_end_matches('0').len();
    text[..text.len() - spare.min(decimals - 2)].to_owned()
}

/// What is left of some money, as finely: rounded down, as nobody can spend more.
pub fn left(usd: Usd) -> String {
    let unit = match usd.0 {
        0..1_000 => 1,
        1_000..100_000 => 100,
        100_000.. => 10_000,
    };
    small(Usd(usd.0 / unit * unit))
}

fn scaled(mut number: f64, units: &[&str], gap: &str) -> String {
    let mut at = 0;
    while 999.5 <= number && at + 1 < units.len() {
        number /= 1000.0;
        at += 1;
    }
    let digits = usize::from(0 < at && number < 99.95);
    format!("{number:.digits$}{gap}{}", units[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_write_them() {
        for (millis, text) in [
            (0, "0.0 s"),
            (1_250, "1.2 s"),
            (59_999, "59 s"),
            (60_000, "1 min 0 s"),
            (7_500_000, "2 h 5 min"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(time(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn sizes_rates_and_counts_read_as_people_write_them() {
        assert_eq!((size(640), size(98_400_000)), ("640 B".into(), "98.4 MB".into()));
        assert_eq!(
            (rate(0.25), rate(812.4), rate(3_400.0)),
            ("0.2".into(), "812".into(), "3.4k".into())
        );
        assert_eq!((count(999), count(4_000_000)), ("999".into(), "4,000,000".into()));
        assert_eq!(
            (plural(1, "prompt"), plural(1200, "prompt")),
            ("1 prompt".into(), "1,200 prompts".into())
        );
    }

    #[test]
    fn money_under_a_few_cents_is_told_finely_and_never_as_less_than_it_is() {
        for (micros, text) in [
            (0, "$0.00"),
            (7, "$0.000007"),
            (680, "$0.00068"),
            (7_555, "$0.0076"),
            (11_401, "$0.0115"),
            (30_000, "$0.03"),
            (99_999, "$0.10"),
            (100_001, "$0.11"),
        ] {
            assert_eq!(small(Usd(micros)), text);
        }
    }

    #[test]
    fn what_is_left_is_never_told_as_more_than_it_is() {
        for (micros, text) in [
            (0, "$0.00"),
            (680, "$0.00068"),
            (1_000, "$0.001"),
            (7_555, "$0.0075"),
            (99_999, "$0.0999"),
            (109_999, "$0.10"),
        ] {
            assert_eq!(left(Usd(micros)), text);
        }
    }
}
