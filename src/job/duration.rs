//! Durations as job files write them: `15s`, `90m`, `1h 30m`, `7d`.
//!
//! Read with `humantime`, less what is easily misread (`M`, its month, beside `m`, the minute). Which durations are
//! sensible where is left to the validation.

use std::time::Duration;

/// What a duration looks like, for the JSON Schema: a number and a unit, repeated, or a reference to the environment.
pub(super) const PATTERN: &str = r"^([0-9]+(\.[0-9]+)? ?[a-z]+ ?)+$|\$\{";

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a duration: {}; {fix}", super::diagnostics::quoted(text))]
pub struct DurationError {
    /// The text.
    pub text: String,
    /// What to write instead.
    pub fix: &'static str,
}

/// Reads `text`, such as `90m` or `1h 30m`.
///
/// # Errors
/// Anything that is not a number with a unit, repeated.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let error = |fix| DurationError {
        text: text.to_owned(),
        fix,
    };
    if text.contains(|c: char| c.is_ascii_uppercase()) {
        return Err(error("units are in lower case: `s`, `m`, `h`, `d`, `w`"));
    }
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
        return Err(error("add a unit, such as `s`, `m`, `h` or `d`"));
    }
    humantime::parse_duration(text)
        .map_err(|_| error("write for example `15s`, `90m`, `1h 30m` or `7d`"))
}

/// `duration` in the fewest words that [`parse`] reads back as the same: `7d`, `1h 30m`, `0s`.
pub fn format(duration: Duration) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let mut rest = duration.as_secs();
    let mut parts = Vec::new();
    for (unit, seconds) in UNITS {
        if rest >= seconds {
            parts.push(format!("{}{unit}", rest / seconds));
            rest %= seconds;
        }
    }
    match duration.subsec_nanos() {
        0 => {}
        nanos if nanos % 1_000_000 == 0 => parts.push(format!("{}ms", nanos / 1_000_000)),
        nanos => parts.push(format!("{nanos}ns")),
    }
    if parts.is_empty() {
        return "0s".to_owned();
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        for (text, seconds) in [
            ("15s", 15),
            ("90m", 5_400),
            ("1h 30m", 5_400),
            ("1h30m", 5_400),
            ("1.5h", 5_400),
            ("7d", 604_800),
            ("2w", 1_209_600),
            ("7days", 604_800),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn formats_in_the_fewest_words() {
        for (text, duration) in [
            ("0s", Duration::ZERO),
            ("1d 1h 1m 1s", Duration::from_secs(90_061)),
            ("1s 500ms", Duration::from_millis(1_500)),
            ("1500001ns", Duration::from_nanos(1_500_001)),
        ] {
            assert_eq!(format(duration), text);
        }
    }

    #[test]
    fn refuses_the_rest_with_advice() {
        let said = |text| parse(text).unwrap_err().to_string();
        insta::assert_snapshot!(said("90"), @"is not a duration: `90`; add a unit, such as `s`, `m`, `h` or `d`");
        insta::assert_snapshot!(said("5M"), @"is not a duration: `5M`; units are in lower case: `s`, `m`, `h`, `d`, `w`");
        insta::assert_snapshot!(said("-1s"), @"is not a duration: `-1s`; write for example `15s`, `90m`, `1h 30m` or `7d`");
        insta::assert_snapshot!(said(""), @"is not a duration: ``; write for example `15s`, `90m`, `1h 30m` or `7d`");
        assert!(parse("999999999999999y").is_err());
    }

    proptest! {
        #[test]
        fn formatted_durations_read_back(seconds in 0_u64..400_000_000, nanos in 0_u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,20}") {
            let _ = parse(&text);
        }
    }
}
