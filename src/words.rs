//! Numbers in the words that people read them in, the same on every page and in every command.

use std::{fmt::Display, time::Duration};

use crate::job;

/// A number of things: `1 window`, `2 windows`, `0 windows`.
pub fn many<N: Display + PartialEq + From<u8>>(number: N, one: &str, more: &str) -> String {
    let what = if number == N::from(1) { one } else { more };
    format!("{number} {what}")
}

/// A number of seconds, as job files write it: `59m 30s`, `23h`.
pub fn length(seconds: i64) -> String {
    job::duration::format(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// A share in percent, rounded down: what is not all never reads `100 %`, and what is not nothing never `0 %`.
pub fn percent(part: i64, whole: i64) -> String {
    if whole <= 0 {
        return "–".to_owned();
    }
    match i128::from(part) * 1_000 / i128::from(whole) {
        _ if part >= whole => "100 %".to_owned(),
        _ if part <= 0 => "0 %".to_owned(),
        permille => format!("{}.{} %", permille.max(1) / 10, permille.max(1) % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many_and_seconds_are_told_in_their_units() {
        let windows = [0, 1, 2].map(|number: i64| many(number, "window", "windows"));
        assert_eq!(windows, ["0 windows", "1 window", "2 windows"]);
        let lengths = [-5, 0, 30, 3_570, 82_800, 90_061].map(length);
        assert_eq!(
            lengths,
            ["0s", "0s", "30s", "59m 30s", "23h", "1d 1h 1m 1s"]
        );
    }

    #[test]
    fn a_share_is_rounded_down_and_what_is_missing_stays_visible() {
        let shares = [
            (0, 0),
            (0, 5),
            (1, 100_000),
            (1, 3),
            (2, 3),
            (104_755, 104_760),
            (99_999, 100_000),
            (i64::MAX - 1, i64::MAX),
            (5, 5),
        ];
        assert_eq!(
            shares.map(|(part, whole)| percent(part, whole)),
            [
                "–", "0 %", "0.1 %", "33.3 %", "66.6 %", "99.9 %", "99.9 %", "99.9 %", "100 %"
            ]
        );
    }
}
