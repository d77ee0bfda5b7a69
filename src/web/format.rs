//! Numbers and times as people read them.

use chrono::{DateTime, Utc};

pub(super) use crate::words::percent;

/// A count with its thousands set apart: `1,007,500`.
pub(super) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push('-');
    }
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of seconds in its two greatest units: `2 h 5 min`.
pub(super) fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let parts = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let first = parts
        .iter()
        .position(|(unit, _)| seconds >= *unit)
        .unwrap_or(3);
    let (unit, name) = parts[first];
    let whole = format!("{} {name}", seconds / unit);
    match parts.get(first + 1) {
        Some((less, name)) if seconds % unit >= *less => {
            format!("{whole} {} {name}", seconds % unit / less)
        }
        _ => whole,
    }
}

/// How long ago something was.
pub(super) fn ago(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    match (now - at).num_seconds() {
        ..1 => "just now".to_owned(),
        seconds => format!("{} ago", duration(seconds)),
    }
}

/// Milliseconds, as seconds where that is shorter.
pub(super) fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{} ms", (ms * 10.0).round() / 10.0),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms if ms < 100_000.0 => format!("{:.1} s", ms / 1_000.0),
        ms => duration((ms / 1_000.0) as i64),
    }
}

/// A moment to the minute.
pub(super) fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M").to_string()
}

/// A moment to the second.
pub(super) fn second(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// A stretch, its day said once where that is enough.
pub(super) fn stretch(from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    let end = match from.date_naive() == to.date_naive() {
        true => to.format("%H:%M:%S"),
        false => to.format("%Y-%m-%d %H:%M:%S"),
    };
    format!("{} – {end}", second(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        let counts = [0, 7, 999, 1_000, 1_007_500, -12_345].map(count);
        assert_eq!(counts, ["0", "7", "999", "1,000", "1,007,500", "-12,345"]);
        let durations = [0, 59, 60, 3_599, 3_600, 7_500, 90_000, 86_400 * 3 + 59].map(duration);
        assert_eq!(
            durations,
            [
                "0 s",
                "59 s",
                "1 min",
                "59 min 59 s",
                "1 h",
                "2 h 5 min",
                "1 d 1 h",
                "3 d"
            ]
        );
        assert_eq!(
            [3.21, 250.4, 12_340.0, 3_700_000.0].map(milliseconds),
            ["3.2 ms", "250 ms", "12.3 s", "1 h 1 min"]
        );
    }
}
