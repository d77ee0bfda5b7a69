//! Short texts, from servers and from people.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tempo_harvest::{
    job::{self, traceql as checks},
    retry, simulator,
    tempo::{
        Class, Learned, Limits,
        client::{retry_after as read_retry_after, shorten},
        error::Refusal,
        wire::{self, spans::Attribute},
    },
    verify::certificate::Digests,
};

fn text(input: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(input)
}

/// The first line, and all the others.
fn lines(input: &[u8]) -> (String, String) {
    let text = text(input);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    (first.to_owned(), rest.to_owned())
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_339_200, 750_000_000).expect("it is a time")
}

/// A trace ID.
pub fn trace_id(input: &[u8]) {
    let text = text(input);
    let Some(id) = wire::parse_trace_id(&text) else {
        let is_id = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(!is_id);
        return;
    };
    let number = u128::from_be_bytes(id);
    assert_eq!(wire::parse_trace_id(&format!("{number:x}")), Some(id));
    assert_eq!(wire::parse_trace_id(&format!("{number:032X}")), Some(id));
    assert_eq!(wire::parse_trace_id(&format!("{number:033x}")), None);
}

/// A `Retry-After`, and in the lines after it a `Date`.
pub fn retry_after(input: &[u8]) {
    let (value, date) = lines(input);
    let server_time = DateTime::parse_from_rfc2822(&date).ok();
    let server_time = server_time.map(|at| at.with_timezone(&Utc));
    for server_time in [server_time, Some(now()), None] {
        let asked = read_retry_after(&value, server_time);
        // However long, and however often it was asked before, the wait is one that ends.
        for failures in [0, 1, 7, u32::MAX] {
            assert!(retry::wait(failures, asked) <= retry::LONGEST_ASKED);
        }
        if let Some(server_time) = server_time {
            let _ = server_time - Duration::from_secs(3_600);
        }
    }
    if let Ok(seconds) = value.trim().parse() {
        let asked = read_retry_after(&value, None);
        assert_eq!(asked, Some(Duration::from_secs(seconds)));
    }
}

/// A refused answer: in its first line the status and what else is told, then the body.
pub fn refusal(input: &[u8]) {
    let (first, body) = lines(input);
    let mut words = first.split(' ');
    let status = words.next().and_then(|word| word.parse().ok());
    let location = words.next();
    for html in [false, true] {
        let text = shorten(&body, html);
        assert!(text.chars().count() <= 400 && !text.contains(char::is_control));
        let refusal = Refusal {
            status: status.unwrap_or(400),
            html,
            text: &text,
            location,
            tenant_sent: first.len().is_multiple_of(2),
            credentials_sent: first.len().is_multiple_of(3),
        };
        let message = refusal.message();
        assert!(message.len() <= text.len() + location.map_or(0, str::len) + 400);
        if let Class::Limit(learned) = refusal.class() {
            assert!(learned.value() > 0);
            assert_eq!(
                Learned::from_parts(learned.name(), learned.value()),
                Some(learned)
            );
            let mut limits = Limits::default();
            limits.learn(learned);
            assert_eq!(limits.known(), [learned]);
            assert!(!learned.to_string().is_empty());
        }
    }
}

/// A duration, a point in time, or a schedule.
pub fn times(input: &[u8]) {
    let text = text(input);
    if let Ok(duration) = job::parse_duration(&text) {
        let again = job::duration::format(duration);
        assert_eq!(job::parse_duration(&again), Ok(duration), "{again}");
    }
    match job::parse_instant(&text, now()) {
        Ok(instant) => {
            assert!(instant.timestamp() >= 0 && instant.timestamp_subsec_nanos() == 0);
            let again = job::instant::format(instant);
            assert_eq!(job::instant::parse_written(&again), Ok(instant), "{again}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let zone = chrono_tz::Europe::Berlin;
    if let Ok(schedule) = job::Schedule::parse(&text, zone, now()) {
        let first = schedule.next_after(now(), zone);
        assert!(first.is_none_or(|first| first > now()));
        let second = first.and_then(|first| schedule.next_after(first, zone));
        assert!(second.is_none_or(|second| Some(second) > first));
    }
}

/// A query, and an attribute's name.
pub fn traceql(input: &[u8]) {
    let text = text(input);
    if let Err(error) = checks::check(&text) {
        assert!(!error.to_string().is_empty() && !error.fix().is_empty());
        // What the simulator understands is no typing error.
        let is_metrics = matches!(error, checks::TraceqlError::Metrics { .. });
        let has_hints = error == checks::TraceqlError::Hints;
        assert!(
            is_metrics || has_hints || !simulator::understands(&text),
            "{error}"
        );
    }
    // A name stays a name, whatever is in it.
    if let Some(attribute) = Attribute::parse(&text)
        && !text.contains(char::is_control)
        && !text.contains('\u{fffd}')
    {
        let query = format!("{{ }} | select({})", attribute.traceql());
        assert!(simulator::understands(&query), "{query}");
        assert_eq!(checks::check(&query), Ok(()));
    }
}

/// A certificate that is read back.
pub fn certificate(input: &[u8]) {
    let text = text(input);
    match Digests::of_certificate(&text) {
        Ok((digests, range)) => {
            assert_eq!(Some(range), digests.range());
            assert_eq!(digests.differences(&digests), []);
        }
        Err(error) => assert!(error.len() < 4_096, "{}", error.len()),
    }
}
