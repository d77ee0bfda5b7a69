//! Points in time as the command line takes them (`--from`, `--to`) and as job files write them.
//!
//! Windows are whole seconds, so instants are too: a fraction that someone wrote is refused, one that comes from the clock
//! (`7d ago`) is cut off.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::diagnostics::quoted;
use super::duration::{self, DurationError};

/// Why a text is not a point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstantError {
    /// A date, or a date and time, that does not say where on Earth.
    #[error("has no offset: {}; add one, e.g. {example}", quoted(text))]
    NoOffset {
        /// The text.
        text: String,
        /// The text with an offset.
        example: String,
    },
    /// A fraction of a second.
    #[error(
        "has a fraction of a second: {}; windows are whole seconds",
        quoted(text)
    )]
    Fraction {
        /// The text.
        text: String,
    },
    /// A leap second.
    #[error(
        "is a leap second: {}; Unix time has none, so write the second after it",
        quoted(text)
    )]
    LeapSecond {
        /// The text.
        text: String,
    },
    /// Before 1970.
    #[error("is before 1970: {}", quoted(text))]
    TooOld {
        /// The text.
        text: String,
    },
    /// `… ago` with something that is not a duration.
    #[error("`… ago` {0}")]
    Ago(#[from] DurationError),
    /// Anything else where a date and time was to be written out.
    #[error(
        "is not a date and time with an offset: {}; write for example 2026-11-01T00:00:00Z",
        quoted(text)
    )]
    NotWritten {
        /// The text.
        text: String,
    },
    /// Anything else.
    #[error(
        "is not a time: {}; write for example `2026-11-01T00:00:00Z`, `now` or `7d ago`",
        quoted(text)
    )]
    Unknown {
        /// The text.
        text: String,
    },
}

/// Reads `text`: RFC 3339 with an offset, `now`, or a duration followed by `ago`.
///
/// # Errors
/// Anything else, a fraction of a second, and times before 1970.
pub fn parse(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, InstantError> {
    let words = text.trim();
    let now = now.with_nanosecond_cut();
    if words == "now" {
        return Ok(now);
    }
    if let Some(before) = words.strip_suffix("ago") {
        let ago = duration::parse(before.trim())?;
        return TimeDelta::from_std(ago)
            .ok()
            .and_then(|ago| now.checked_sub_signed(ago))
            .map(DateTime::with_nanosecond_cut)
            .filter(|instant| instant.timestamp() >= 0)
            .ok_or_else(|| InstantError::TooOld {
                text: text.to_owned(),
            });
    }
    parse_written(words).map_err(|error| match error {
        InstantError::NotWritten { text } => InstantError::Unknown { text },
        error => error,
    })
}

/// Reads a date and time with an offset, as RFC 3339 and TOML write it.
///
/// # Errors
/// Anything else, a fraction of a second, and times before 1970.
pub fn parse_written(text: &str) -> Result<DateTime<Utc>, InstantError> {
    let Ok(instant) = DateTime::parse_from_rfc3339(text) else {
        let example = [
            text.to_owned(),
            format!("{text}:00"),
            format!("{text}T00:00:00"),
        ]
        .into_iter()
        .map(|candidate| format!("{}Z", candidate.replacen(' ', "T", 1)))
        .find(|candidate| DateTime::parse_from_rfc3339(candidate).is_ok());
        return Err(match example {
            Some(example) => InstantError::NoOffset {
                text: text.to_owned(),
                example,
            },
            None => InstantError::NotWritten {
                text: text.to_owned(),
            },
        });
    };
    // chrono gives a leap second as :59 with more than a second of nanoseconds.
    if instant.timestamp_subsec_nanos() == 1_000_000_000 {
        return Err(InstantError::LeapSecond {
            text: text.to_owned(),
        });
    }
    if instant.timestamp_subsec_nanos() != 0 {
        return Err(InstantError::Fraction {
            text: text.to_owned(),
        });
    }
    if instant.timestamp() < 0 {
        return Err(InstantError::TooOld {
            text: text.to_owned(),
        });
    }
    Ok(instant.to_utc())
}

/// `instant` as messages show it: `2026-11-15T09:00:00Z`.
pub fn format(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Secs, true)
}

trait CutNanoseconds {
    fn with_nanosecond_cut(self) -> Self;
}

impl CutNanoseconds for DateTime<Utc> {
    /// The second that has begun.
    fn with_nanosecond_cut(self) -> Self {
        Self::from_timestamp(self.timestamp(), 0).unwrap_or(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-22T09:00:00.75Z".parse().unwrap()
    }

    #[test]
    fn reads_times() {
        for (text, expected) in [
            ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"),
            ("2026-11-01 00:00:00z", "2026-11-01T00:00:00Z"),
            ("2026-11-01T02:00:00+02:00", "2026-11-01T00:00:00Z"),
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            ("now", "2026-11-22T09:00:00Z"),
            ("7d ago", "2026-11-15T09:00:00Z"),
            (" 1h 30m ago", "2026-11-22T07:30:00Z"),
            ("1500ms ago", "2026-11-22T08:59:58Z"),
        ] {
            assert_eq!(
                parse(text, now()).map(format).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_the_rest_with_advice() {
        let said = |text| parse(text, now()).unwrap_err().to_string();
        insta::assert_snapshot!(said("2026-11-01T00:00:00"), @"has no offset: `2026-11-01T00:00:00`; add one, e.g. 2026-11-01T00:00:00Z");
        insta::assert_snapshot!(said("2026-11-01 10:30"), @"has no offset: `2026-11-01 10:30`; add one, e.g. 2026-11-01T10:30:00Z");
        insta::assert_snapshot!(said("2026-11-01"), @"has no offset: `2026-11-01`; add one, e.g. 2026-11-01T00:00:00Z");
        insta::assert_snapshot!(said("2026-11-01T00:00:00.5Z"), @"has a fraction of a second: `2026-11-01T00:00:00.5Z`; windows are whole seconds");
        insta::assert_snapshot!(said("2016-12-31T23:59:60Z"), @"is a leap second: `2016-12-31T23:59:60Z`; Unix time has none, so write the second after it");
        insta::assert_snapshot!(said("1969-12-31T23:59:59Z"), @"is before 1970: `1969-12-31T23:59:59Z`");
        insta::assert_snapshot!(said("60y ago"), @"is before 1970: `60y ago`");
        insta::assert_snapshot!(said("yesterday"), @"is not a time: `yesterday`; write for example `2026-11-01T00:00:00Z`, `now` or `7d ago`");
        insta::assert_snapshot!(said("7 ago"), @"`… ago` is not a duration: `7`; add a unit, such as `s`, `m`, `h` or `d`");
        assert!(parse("99999999999y ago", now()).is_err());
    }
}
