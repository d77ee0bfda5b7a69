//! Request parameters as Tempo reads them, and times as Tempo's messages write them.
//!
//! Tempo is written in Go, and its refusals show Go's own words and forms of durations: those are reproduced here, so that a client
//! can learn limits from the simulator's texts exactly as from Tempo's. Source: `pkg/api/http.go`, `pkg/util/traceid.go`.

use std::borrow::Cow;

use chrono::DateTime;

/// The decoded query of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// Decodes `a=1&b=2`; `None` is an empty query.
    pub(super) fn parse(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or("").as_bytes())
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect();
        Self { pairs }
    }

    /// The first non-empty value; Tempo takes an empty parameter for an absent one.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// A whole number below 2^32.
    ///
    /// # Errors
    /// Tempo's message when it is not.
    pub(super) fn get_u32(&self, key: &str) -> Result<Option<u32>, String> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!(
                "invalid {key}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ));
        }
        text.parse().map(Some).map_err(|_| {
            format!("invalid {key}: strconv.ParseUint: parsing {text:?}: value out of range")
        })
    }
}

/// A point in time as metrics requests write it: seconds, nanoseconds when longer than ten digits, fractional seconds, or RFC 3339.
///
/// # Errors
/// A message in Tempo's form when it is none of these.
pub(super) fn parse_timestamp_ns(key: &str, text: &str) -> Result<i64, String> {
    if text.contains('.')
        && let Ok(seconds) = text.parse::<f64>()
    {
        return Ok((seconds * 1e3).round() as i64 * 1_000_000);
    }
    if let Ok(number) = text.parse::<i64>() {
        return Ok(if text.len() <= 10 {
            number.saturating_mul(1_000_000_000)
        } else {
            number
        });
    }
    DateTime::parse_from_rfc3339(text)
        .ok()
        .and_then(|time| time.timestamp_nanos_opt())
        .ok_or_else(|| {
            format!(
                "could not parse '{key}' parameter: strconv.ParseInt: parsing {text:?}: invalid syntax"
            )
        })
}

/// A step: a number of seconds, or a duration with units.
///
/// # Errors
/// Tempo's message when it is neither.
pub(super) fn parse_step_ns(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.is_finite()
    {
        return Ok((seconds * 1e9).max(0.0) as u64);
    }
    parse_duration_ns(text).ok_or_else(|| format!("cannot parse {text:?} to a valid duration"))
}

/// A duration with units, such as `80ms`, `1h30m` or `2d`; whole and decimal numbers, `None` for anything else.
pub(super) fn parse_duration_ns(text: &str) -> Option<u64> {
    let mut total_ns = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .filter(|length| *length > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(rest.len());
        let unit_ns = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3_600e9,
            "d" => 86_400e9,
            "w" => 604_800e9,
            "y" => 31_536_000e9,
            _ => return None,
        };
        total_ns += number * unit_ns;
        rest = &rest[letters..];
    }
    (!text.is_empty()).then_some(total_ns.round() as u64)
}

/// A duration in Go's form: `168h0m0s`, `1.5s`, `80ms`, `0s`.
pub(super) fn go_duration(duration_ns: u64) -> String {
    let fraction = |value_ns: u64, unit_ns: u64| {
        let text = format!(
            "{}.{:0width$}",
            value_ns / unit_ns,
            value_ns % unit_ns,
            width = unit_ns.ilog10() as usize
        );
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match duration_ns {
        0 => "0s".to_owned(),
        1..1_000 => format!("{duration_ns}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(duration_ns, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(duration_ns, 1_000_000)),
        _ => {
            let minutes = duration_ns / 60_000_000_000;
            let seconds = fraction(duration_ns % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// A trace ID in a path: up to 32 hex digits, leading zeros optional.
///
/// # Errors
/// Tempo's message when it is not.
pub(super) fn parse_trace_id(text: &str) -> Result<[u8; 16], String> {
    if let Some((position, wrong)) = text
        .char_indices()
        .find(|(_, letter)| !letter.is_ascii_hexdigit())
    {
        return Err(format!(
            "trace IDs can only contain hex characters: invalid character '{wrong}' at position {}",
            position + 1
        ));
    }
    let padded = format!("{text:0>32}");
    parse_trace_id_exactly(&padded)
        .ok_or_else(|| "trace IDs can't be larger than 128 bits".to_owned())
}

/// Exactly 32 hex digits.
pub(super) fn parse_trace_id_exactly(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// A trace ID as search answers write it: **without its leading zeros**.
pub(super) fn trace_id_in_search(trace_id: &[u8; 16]) -> String {
    format!("{:x}", u128::from_be_bytes(*trace_id))
}

/// A span ID as search answers write it: 16 hex digits.
pub(super) fn span_id_in_search(span_id: &[u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(*span_id))
}

/// Takes `base` off the front of `path`.
pub(super) fn strip_base_path<'path>(base: &str, path: &'path str) -> Option<Cow<'path, str>> {
    let rest = path.strip_prefix(base)?;
    if rest.is_empty() {
        return Some(Cow::Borrowed("/"));
    }
    rest.starts_with('/').then_some(Cow::Borrowed(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_writes_them() {
        for (duration_ns, text) in [
            (0, "0s"),
            (7, "7ns"),
            (1_500, "1.5µs"),
            (80_000_000, "80ms"),
            (1_050_000_000, "1.05s"),
            (60_000_000_000, "1m0s"),
            (86_400_000_000_000, "24h0m0s"),
            (604_800_000_000_000, "168h0m0s"),
        ] {
            assert_eq!(go_duration(duration_ns), text);
        }
    }

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(parse_duration_ns("80ms"), Some(80_000_000));
        assert_eq!(parse_duration_ns("1h30m"), Some(5_400_000_000_000));
        assert_eq!(parse_duration_ns("1.5s"), Some(1_500_000_000));
        assert_eq!(parse_duration_ns("80"), None);
        assert_eq!(parse_duration_ns("80qs"), None);
        assert_eq!(parse_duration_ns(""), None);
    }

    #[test]
    fn trace_ids_lose_their_leading_zeros_in_search_only() {
        let trace_id = parse_trace_id("1f").unwrap();
        assert_eq!(trace_id[15], 0x1f);
        assert_eq!(trace_id_in_search(&trace_id), "1f");
        assert_eq!(
            span_id_in_search(&[0, 0, 0, 0, 0, 0, 0, 1]),
            "0000000000000001"
        );
    }
}
