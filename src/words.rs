//! Numbers in the words that people read them in, the same on every page and in every command.

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
