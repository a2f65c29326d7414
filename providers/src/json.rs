//! What marketplaces write where others write a number or a string.

use serde::{Deserialize, Deserializer, de};
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// A number, whether it came as one or as text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Number(pub(crate) f64);

/// A name, whether it came as text or as a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) String);

impl Number {
    /// The whole part, where it is a count of something. Below zero counts as zero.
    pub(crate) fn count(self) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let count = self.0 as u64;
        count
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, perhaps as text")
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Number, E> {
                let number = value.trim().parse();
                number.map(Number).map_err(|_| E::invalid_value(de::Unexpected::Str(value), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or a number")
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Text, E> {
                Ok(Text(value.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A moment that came as seconds since 1970.
pub(crate) fn moment(seconds: Number) -> Option<SystemTime> {
    let since = Duration::try_from_secs_f64(seconds.0).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// A moment that came as `2026-10-20T09:07:10Z`, with or without a fraction, in any time zone.
pub(crate) fn timestamp(text: &str) -> Option<SystemTime> {
    text.parse::<jiff::Timestamp>().ok()?.try_into().ok()
}

/// A moment as `2026-10-20T09:07:10Z`.
pub(crate) fn rfc3339(moment: SystemTime) -> Option<String> {
    let moment = jiff::Timestamp::try_from(moment).ok()?;
    Some(moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_as_text_and_names_as_numbers() {
        let numbers: Vec<Number> = serde_json::from_str(r#"[1, "1.5", -2, " 3 "]"#).unwrap();
        assert_eq!(numbers, [Number(1.0), Number(1.5), Number(-2.0), Number(3.0)]);
        assert!(serde_json::from_str::<Number>(r#""many""#).is_err());
        let names: Vec<Text> = serde_json::from_str(r#"["a", 7]"#).unwrap();
        assert_eq!(names, [Text("a".into()), Text("7".into())]);
    }

    #[test]
    fn moments_come_as_seconds_or_as_text() {
        let moment = moment(Number(1_792_487_230.0)).unwrap();
        assert_eq!(timestamp("2026-10-20T09:07:10Z"), Some(moment));
        assert_eq!(timestamp("2026-10-20T11:07:10+02:00"), Some(moment));
        assert_eq!(rfc3339(moment).as_deref(), Some("2026-10-20T09:07:10Z"));
        assert_eq!(timestamp("yesterday"), None);
    }
}
