//! What a server allows, learned from its refusals.
//!
//! Tempo has no endpoint that tells its limits; it names one when it refuses a request that is over it. The texts are
//! those of Tempo 2.10 and 3.0, and each is held against a recording.

use std::{fmt, time::Duration};

/// Limits that are known. `None`: not met yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Most traces one search may ask for (`max_result_limit`).
    pub max_result_limit: Option<u32>,
    /// Longest range of one search, seconds (`max_duration`).
    pub max_duration_s: Option<i64>,
    /// Most spans per span set (`max_spans_per_span_set`).
    pub max_spans_per_span_set: Option<u32>,
    /// Longest range of one metrics query, seconds (`metrics.max_duration`).
    pub metrics_max_duration_s: Option<i64>,
}

/// One limit, as a refusal named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// `limit 300000 exceeds max limit 262144`
    MaxResultLimit(u32),
    /// `range specified by start and end exceeds 168h0m0s. …`
    MaxDuration(i64),
    /// `spans per span set exceeds 100. …`
    MaxSpansPerSpanSet(u32),
    /// `metrics query time range exceeds the maximum allowed duration of 24h0m0s`
    MetricsMaxDuration(i64),
}

impl Learned {
    /// Reads the limit out of a refusal's text; `None` if the text names none.
    pub fn from_refusal(text: &str) -> Option<Self> {
        let after = |marker: &str| text.split_once(marker).map(|(_, rest)| rest.trim());
        let positive = |rest: &str| first_number(rest).filter(|&n| n > 0);
        if let Some(rest) = after("exceeds max limit ") {
            positive(rest).map(Self::MaxResultLimit)
        } else if let Some(rest) = after("range specified by start and end exceeds ") {
            go_duration_s(rest).map(Self::MaxDuration)
        } else if let Some(rest) = after("spans per span set exceeds ") {
            positive(rest).map(Self::MaxSpansPerSpanSet)
        } else {
            after("exceeds the maximum allowed duration of ")
                .and_then(go_duration_s)
                .map(Self::MetricsMaxDuration)
        }
    }

    /// The limit's name in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxResultLimit(_) => "max_result_limit",
            Self::MaxDuration(_) => "max_duration_s",
            Self::MaxSpansPerSpanSet(_) => "max_spans_per_span_set",
            Self::MetricsMaxDuration(_) => "metrics_max_duration_s",
        }
    }

    /// Its value; durations in seconds.
    pub fn value(self) -> i64 {
        match self {
            Self::MaxResultLimit(n) | Self::MaxSpansPerSpanSet(n) => i64::from(n),
            Self::MaxDuration(s) | Self::MetricsMaxDuration(s) => s,
        }
    }

    /// The limit back from its name and value.
    pub fn from_parts(name: &str, value: i64) -> Option<Self> {
        let count = || u32::try_from(value).ok();
        match name {
            "max_result_limit" => count().map(Self::MaxResultLimit),
            "max_duration_s" => Some(Self::MaxDuration(value.min(LONGEST_S))),
            "max_spans_per_span_set" => count().map(Self::MaxSpansPerSpanSet),
            "metrics_max_duration_s" => Some(Self::MetricsMaxDuration(value.min(LONGEST_S))),
            _ => None,
        }
    }
}

impl fmt::Display for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MaxResultLimit(n) => write!(f, "at most {n} traces a search"),
            Self::MaxDuration(s) => write!(f, "at most {} a search", human(s)),
            Self::MaxSpansPerSpanSet(n) => write!(f, "at most {n} spans per span set"),
            Self::MetricsMaxDuration(s) => write!(f, "at most {} a metrics query", human(s)),
        }
    }
}

impl Limits {
    /// Those that are known.
    pub fn known(&self) -> Vec<Learned> {
        [
            self.max_result_limit.map(Learned::MaxResultLimit),
            self.max_duration_s.map(Learned::MaxDuration),
            self.max_spans_per_span_set.map(Learned::MaxSpansPerSpanSet),
            self.metrics_max_duration_s.map(Learned::MetricsMaxDuration),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Remembers a limit.
    pub fn learn(&mut self, learned: Learned) {
        match learned {
            Learned::MaxResultLimit(n) => self.max_result_limit = Some(n),
            Learned::MaxDuration(s) => self.max_duration_s = Some(s),
            Learned::MaxSpansPerSpanSet(n) => self.max_spans_per_span_set = Some(n),
            Learned::MetricsMaxDuration(s) => self.metrics_max_duration_s = Some(s),
        }
    }
}

fn human(seconds: i64) -> String {
    humantime::format_duration(Duration::from_secs(seconds.unsigned_abs())).to_string()
}

fn first_number(text: &str) -> Option<u32> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// A longer range than this is none, seconds: a hundred years.
const LONGEST_S: i64 = 100 * 365 * 86_400;

/// A duration as Go prints it (`168h0m0s`, `1m30s`) at the start of the text, in whole seconds; fractions are dropped.
fn go_duration_s(text: &str) -> Option<i64> {
    let mut total = 0i64;
    let mut rest = text;
    loop {
        let digits = rest.chars().take_while(char::is_ascii_digit).count();
        if digits == 0 {
            break;
        }
        let number: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        if let Some(fraction) = rest.strip_prefix('.') {
            rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        let unit = if rest.starts_with("ms") {
            rest = &rest[2..];
            continue;
        } else {
            match rest.chars().next()? {
                'h' => 3_600,
                'm' => 60,
                's' => 1,
                _ => return None,
            }
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[1..];
    }
    (total > 0).then_some(total.min(LONGEST_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_their_limit() {
        let learned = Learned::from_refusal;
        assert_eq!(
            learned("limit 300000 exceeds max limit 262144"),
            Some(Learned::MaxResultLimit(262_144))
        );
        assert_eq!(
            learned(
                "range specified by start and end exceeds 168h0m0s. received start=1794391200 end=1795168800"
            ),
            Some(Learned::MaxDuration(604_800))
        );
        assert_eq!(
            learned("spans per span set exceeds 100. received 1000"),
            Some(Learned::MaxSpansPerSpanSet(100))
        );
        assert_eq!(
            learned("metrics query time range exceeds the maximum allowed duration of 3h0m0s"),
            Some(Learned::MetricsMaxDuration(10_800))
        );
        assert_eq!(learned("invalid TraceQL query: parse error"), None);
        assert_eq!(learned("limit 5 exceeds max limit 0"), None);
        assert_eq!(
            learned("range specified by start and end exceeds 1m30.5s. x"),
            Some(Learned::MaxDuration(90))
        );
        for (text, seconds) in [
            ("1h", Some(3_600)),
            ("300ms2s", Some(2)),
            ("0s", None),
            ("9", None),
            ("5d", None),
            ("99999999999999999999s", None),
        ] {
            let text = format!("range specified by start and end exceeds {text}");
            assert_eq!(learned(&text), seconds.map(Learned::MaxDuration), "{text}");
        }
    }

    #[test]
    fn a_limit_survives_the_ledger() {
        let mut limits = Limits::default();
        assert_eq!(limits.known(), []);
        let mut learned = Vec::new();
        for (limit, words) in [
            (Learned::MaxResultLimit(5), "at most 5 traces a search"),
            (Learned::MaxDuration(604_860), "at most 7days 1m a search"),
            (
                Learned::MaxSpansPerSpanSet(7),
                "at most 7 spans per span set",
            ),
            (Learned::MetricsMaxDuration(8), "at most 8s a metrics query"),
        ] {
            assert_eq!(
                Learned::from_parts(limit.name(), limit.value()),
                Some(limit)
            );
            assert_eq!(limit.to_string(), words);
            limits.learn(limit);
            learned.push(limit);
            assert_eq!(limits.known(), learned);
        }
        assert_eq!(Learned::from_parts("max_bytes", 1), None);
        assert_eq!(Learned::from_parts("max_result_limit", -1), None);
    }
}
