//! Tempo's wire formats: protobuf and JSON in, the same typed answer out.
//!
//! [`messages`] are the protobuf messages as they are, with which the simulator answers; the client reads the part of them that it
//! uses where it stands (`reader`), and JSON as it comes (`json`). What it takes in memory is bounded (`kept`). An answer that
//! ends before its `metrics` is refused: Tempo sends them last, so a body cut at a message's border would otherwise pass for a
//! smaller answer.

use std::sync::Arc;

mod answer;
mod counts;
mod json;
mod kept;
pub mod messages;
mod reader;
pub mod spans;
mod summaries;

pub use counts::{decode_average, decode_count};

use kept::Kept;
use messages::SearchMetrics;
use reader::Malformed;
use spans::TraceSpans;

/// What Tempo says instead of a root's service while the root span has not arrived.
const ROOT_NOT_RECEIVED: &str = "<root span not yet received>";

/// The format of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/protobuf`
    Protobuf,
    /// `application/json`
    Json,
}

impl Format {
    /// The format a `Content-Type` names; what was asked for does not matter, a proxy may not have passed it on.
    pub fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next()?.trim() {
            "application/protobuf" | "application/x-protobuf" => Some(Self::Protobuf),
            "application/json" => Some(Self::Json),
            _ => None,
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Protobuf => "protobuf",
            Self::Json => "JSON",
        }
    }
}

/// A trace as a search tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceSummary {
    /// All 16 bytes; Tempo leaves out leading zeros.
    pub trace_id: [u8; 16],
    /// Earliest start, Unix nanoseconds.
    pub start_ns: i64,
    /// Whole milliseconds, rounded down; of the longest fragment.
    pub duration_ms: u32,
    /// `service.name` of the root; `None` if the root has not been received.
    pub root_service: Option<Arc<str>>,
    /// Name of the root span; `None` if the root has not been received or has none.
    pub root_name: Option<Arc<str>>,
    /// Per service spans and errors, ascending by service; `None` if the answer brings none (a search without a query).
    pub services: Option<Box<Services>>,
}

/// Spans and errors per service, ascending by service.
pub type Services = [(Arc<str>, ServiceCounts)];

/// Spans of one service in one trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct ServiceCounts {
    /// Spans.
    pub spans: u32,
    /// Spans with status error.
    pub errors: u32,
}

impl ServiceCounts {
    /// Tempo combines fragments by maximum, so every answer is a lower bound: the greater of each count.
    #[must_use]
    pub fn max_of(self, other: Self) -> Self {
        Self {
            spans: self.spans.max(other.spans),
            errors: self.errors.max(other.errors),
        }
    }
}

impl TraceSummary {
    /// Latest end that is known, Unix nanoseconds: the start plus whole milliseconds.
    pub fn end_ns(&self) -> i64 {
        self.start_ns
            .saturating_add(i64::from(self.duration_ms) * 1_000_000)
    }
}

/// A decoded search answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SearchBody {
    /// The traces, in Tempo's order.
    pub traces: Vec<TraceSummary>,
    /// The spans of each, if they were asked for.
    pub spans: Option<Vec<TraceSpans>>,
    /// Bytes Tempo read.
    pub inspected_bytes: u64,
    /// Parts of the search that were done; fewer than `total_jobs` shows an early stop.
    pub completed_jobs: u32,
    /// Parts the search was cut into.
    pub total_jobs: u32,
}

impl SearchBody {
    /// What a search brought that cost so much: nothing yet.
    fn at_cost(metrics: SearchMetrics) -> Self {
        Self {
            inspected_bytes: metrics.inspected_bytes,
            completed_jobs: metrics.completed_jobs,
            total_jobs: metrics.total_jobs,
            ..Self::default()
        }
    }

    /// Whether Tempo stopped before it had searched everything.
    pub fn stopped_early(&self) -> bool {
        self.completed_jobs < self.total_jobs
    }
}

/// An answer that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not the protobuf message, or cut off.
    #[error("not a whole protobuf search answer ({0})")]
    Protobuf(#[from] prost::DecodeError),
    /// Not the protobuf message, or cut off.
    #[error("not the protobuf message expected, or cut off")]
    Malformed,
    /// Not the JSON document, or cut off.
    #[error("not the JSON expected ({0})")]
    Json(#[from] serde_json::Error),
    /// The part that Tempo sends last is missing.
    #[error("it ends before its metrics, so it is not whole")]
    NoMetrics,
    /// A trace ID that is none.
    #[error("`{0}` is not a trace ID")]
    TraceId(String),
    /// A span ID that is none.
    #[error("`{0}` is not a span ID")]
    SpanId(String),
    /// More traces than were asked for.
    #[error("it brings more than the {0} traces that were asked for")]
    MoreThanAsked(usize),
    /// More samples than there are intervals.
    #[error("it brings more than the {0} samples that were asked for")]
    MoreSamples(usize),
    /// It would take more memory than an answer may.
    #[error("what is in it takes more memory than an answer may")]
    OutOfProportion,
}

impl DecodeError {
    /// Whether a part of what was asked for may well be read.
    pub fn is_of_size(&self) -> bool {
        matches!(self, Self::OutOfProportion)
    }
}

impl From<Malformed> for DecodeError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// A trace ID as Tempo prints it: hex without leading zeros.
pub fn parse_trace_id(text: &str) -> Option<[u8; 16]> {
    if text.len() > 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// Reads an answer to a search that asked for so many traces at most.
///
/// # Errors
/// If the body is not a whole search answer, or more than was asked for.
pub fn decode_search(format: Format, body: &[u8], most: usize) -> Result<SearchBody, DecodeError> {
    let mut kept = Kept::of(body, most);
    let (traces, metrics) = match format {
        Format::Protobuf => summaries::protobuf(body, &mut kept)?,
        Format::Json => summaries::json(body, &mut kept)?,
    };
    Ok(SearchBody {
        traces,
        ..SearchBody::at_cost(metrics)
    })
}

/// What a number of the wire is as a nanosecond. A span may claim any time; one that does not fit must not keep the others of its
/// window from being stored.
fn nanoseconds(claimed: u64) -> i64 {
    i64::try_from(claimed).unwrap_or(i64::MAX)
}

/// Ascending by service, each once: of one that comes twice the greater counts. `None` if there are none. Leaves nothing behind.
pub fn by_service(services: &mut Vec<(Arc<str>, ServiceCounts)>) -> Option<Box<Services>> {
    services.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    services.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            kept.1 = kept.1.max_of(later.1);
        }
        same
    });
    (!services.is_empty()).then(|| services.drain(..).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    #[test]
    fn trace_ids_get_their_leading_zeros_back() {
        assert_eq!(parse_trace_id("1").unwrap()[15], 1);
        assert_eq!(
            parse_trace_id("98a33b27aedf86e293196edc754524").unwrap()[0],
            0
        );
        for wrong in ["", "xyz", "+1", "123456789012345678901234567890123"] {
            assert_eq!(parse_trace_id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_format_is_what_the_answer_calls_itself() {
        for (content_type, format) in [
            ("application/protobuf", Some(Format::Protobuf)),
            ("application/x-protobuf", Some(Format::Protobuf)),
            ("application/json; charset=utf-8", Some(Format::Json)),
            ("text/html", None),
            ("", None),
        ] {
            assert_eq!(Format::of(content_type), format, "{content_type}");
        }
        assert_eq!(
            [Format::Protobuf, Format::Json].map(Format::name),
            ["protobuf", "JSON"]
        );
    }

    #[test]
    fn of_an_answer_that_takes_too_much_memory_a_part_may_be_read() {
        assert!(DecodeError::OutOfProportion.is_of_size());
        assert!(!DecodeError::Malformed.is_of_size());
    }

    #[test]
    fn what_is_null_is_not_there() {
        let whole = br#"{"traces": null, "metrics": {}}"#;
        let answer = decode_search(Format::Json, whole, 1).unwrap();
        assert!(answer.traces.is_empty());
        let cut = br#"{"traces": [], "metrics": null}"#;
        let refused = decode_search(Format::Json, cut, 1);
        assert!(matches!(refused, Err(DecodeError::NoMetrics)));
        for (wrong, expected) in [
            (&br#"{"traces": {}, "metrics": {}}"#[..], "expected a list"),
            (
                &br#"{"traces": [], "metrics": []}"#[..],
                "expected an object",
            ),
            (
                &br#"{"traces": [], "metrics": {"inspectedBytes": []}}"#[..],
                "expected a whole number, or a text that is one",
            ),
        ] {
            let Err(error) = decode_search(Format::Json, wrong, 1) else {
                panic!("{expected}");
            };
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    /// A trace as a search tells it, written by other means than it is read.
    fn traces() -> impl Strategy<Value = Vec<messages::TraceSearchMetadata>> {
        let root = prop_oneof![Just(ROOT_NOT_RECEIVED.to_owned()), "[a-c]{0,2}"];
        let stats =
            (0u32..9, 0u32..9).prop_map(|(span_count, error_count)| messages::ServiceStats {
                span_count,
                error_count,
            });
        let one = (
            any::<u128>(),
            root,
            "[a-c]{0,2}",
            any::<u64>(),
            any::<u32>(),
            prop::collection::btree_map("[a-c]{1,2}", stats, 0..4),
        );
        let one = one.prop_map(
            |(
                id,
                root_service_name,
                root_trace_name,
                start_time_unix_nano,
                duration_ms,
                service_stats,
            )| {
                messages::TraceSearchMetadata {
                    trace_id: format!("{id:x}"),
                    root_service_name,
                    root_trace_name,
                    start_time_unix_nano,
                    duration_ms,
                    service_stats,
                    ..Default::default()
                }
            },
        );
        prop::collection::vec(one, 0..4)
    }

    fn as_json(answer: &messages::SearchResponse) -> Vec<u8> {
        let traces = answer.traces.iter().map(|trace| {
            let stats = trace.service_stats.iter();
            let stats: serde_json::Map<_, _> = stats
                .map(|(service, stats)| (service.clone(), serde_json::json!({ "spanCount": stats.span_count, "errorCount": stats.error_count })))
                .collect();
            serde_json::json!({
                "traceID": trace.trace_id, "rootServiceName": trace.root_service_name, "rootTraceName": trace.root_trace_name,
                "startTimeUnixNano": trace.start_time_unix_nano.to_string(), "durationMs": trace.duration_ms, "serviceStats": stats,
            })
        });
        let metrics = answer.metrics.unwrap();
        let metrics = serde_json::json!({
            "inspectedBytes": metrics.inspected_bytes.to_string(), "completedJobs": metrics.completed_jobs, "totalJobs": metrics.total_jobs,
        });
        let traces: Vec<_> = traces.collect();
        serde_json::json!({ "traces": traces, "metrics": metrics })
            .to_string()
            .into()
    }

    proptest! {
        #[test]
        fn answers_are_read_as_they_were_sent(traces in traces(), inspected_bytes: u64, completed_jobs in 0u32..4, total_jobs in 0u32..4) {
            let metrics = messages::SearchMetrics { inspected_bytes, completed_jobs, total_jobs, ..Default::default() };
            let answer = messages::SearchResponse { traces, metrics: Some(metrics) };
            for (format, body) in [(Format::Protobuf, answer.encode_to_vec()), (Format::Json, as_json(&answer))] {
                let read = decode_search(format, &body, 4).unwrap();
                prop_assert_eq!((read.inspected_bytes, read.completed_jobs, read.total_jobs), (inspected_bytes, completed_jobs, total_jobs));
                prop_assert_eq!(read.stopped_early(), completed_jobs < total_jobs);
                prop_assert!(read.spans.is_none());
                prop_assert_eq!(read.traces.len(), answer.traces.len());
                for (read, sent) in read.traces.iter().zip(&answer.traces) {
                    prop_assert_eq!(format!("{:x}", u128::from_be_bytes(read.trace_id)), sent.trace_id.as_str());
                    prop_assert_eq!(read.start_ns, i64::try_from(sent.start_time_unix_nano).unwrap_or(i64::MAX));
                    prop_assert_eq!(read.duration_ms, sent.duration_ms);
                    let end_ns = i128::from(read.start_ns) + i128::from(sent.duration_ms) * 1_000_000;
                    prop_assert_eq!(i128::from(read.end_ns()), end_ns.min(i64::MAX.into()));
                    // No root is known while Tempo says so, or says nothing at all.
                    let (service, name) = (sent.root_service_name.as_str(), sent.root_trace_name.as_str());
                    let known = service != ROOT_NOT_RECEIVED && (service, name) != ("", "");
                    prop_assert_eq!(read.root_service.as_deref(), known.then_some(service));
                    prop_assert_eq!(read.root_name.as_deref(), (known && !name.is_empty()).then_some(name));
                    let services = sent.service_stats.iter();
                    let services: Vec<_> = services.map(|(service, stats)| {
                        (Arc::from(service.as_str()), ServiceCounts { spans: stats.span_count, errors: stats.error_count })
                    }).collect();
                    prop_assert_eq!(read.services.as_deref().unwrap_or_default(), services.as_slice());
                    prop_assert_eq!(read.services.is_some(), !services.is_empty());
                }
            }
        }

        #[test]
        fn of_a_service_that_comes_twice_the_greater_counts(all in prop::collection::vec(("[a-c]", 0u32..9, 0u32..9), 0..8)) {
            let counts = |spans, errors| ServiceCounts { spans, errors };
            let mut services = all.iter().map(|(service, spans, errors)| (Arc::from(service.as_str()), counts(*spans, *errors))).collect();
            let merged = by_service(&mut services).unwrap_or_default();
            prop_assert!(services.is_empty());
            let mut expected = BTreeMap::<&str, ServiceCounts>::new();
            for (service, spans, errors) in &all {
                let kept = expected.entry(service).or_insert(counts(0, 0));
                *kept = counts(kept.spans.max(*spans), kept.errors.max(*errors));
            }
            let expected: Vec<_> = expected.into_iter().map(|(service, counts)| (Arc::from(service), counts)).collect();
            prop_assert_eq!(&*merged, expected.as_slice());
        }
    }

    #[test]
    fn an_average_is_that_of_what_was_measured() {
        let average = |values: &str| {
            let body = format!(r#"{{"series":[{{"samples":[{values}]}}]}}"#);
            decode_average(body.as_bytes(), 9).unwrap()
        };
        let sample = |value: &str| format!(r#"{{"timestampMs":"1","value":{value}}}"#);
        assert_eq!(
            average(&[sample("1"), sample("2.5"), sample("0"), sample("-3")].join(",")),
            Some(1.75)
        );
        assert_eq!(average(&sample("0")), None);
        assert_eq!(average(""), None);
        assert_eq!(decode_average(b"{}", 9).unwrap(), None);
    }

    #[test]
    fn what_is_no_trace_id_is_named() {
        let longest = "f".repeat(32);
        assert_eq!(parse_trace_id(&longest), Some([0xff; 16]));
        let body = br#"{"traces":[{"traceID":"no ID"}],"metrics":{}}"#;
        let error = decode_search(Format::Json, body, 9).unwrap_err();
        assert!(matches!(error, DecodeError::TraceId(text) if text == "no ID"));
    }

    #[test]
    fn an_answer_without_metrics_is_not_whole() {
        let whole = messages::SearchResponse {
            traces: vec![messages::TraceSearchMetadata {
                trace_id: "a".to_owned(),
                ..Default::default()
            }],
            metrics: None,
        };
        let error = decode_search(Format::Protobuf, &whole.encode_to_vec(), 9).unwrap_err();
        assert!(matches!(error, DecodeError::NoMetrics));
        assert!(matches!(
            decode_search(Format::Json, b"{\"traces\":[]}", 9).unwrap_err(),
            DecodeError::NoMetrics
        ));
        assert!(matches!(
            decode_search(Format::Json, b"{\"error\":1}", 9).unwrap_err(),
            DecodeError::NoMetrics
        ));
    }
}
