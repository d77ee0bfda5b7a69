//! Tempo's answers: searches, look-ups, counts.

use std::collections::{BTreeMap, HashSet};

use prost::Message as _;
use tempo_harvest::{
    plan::density::Sizing,
    simulator::json,
    tempo::wire::{
        DecodeError, Format, SearchBody, decode_average, decode_count, decode_search,
        messages::{
            AnyValue, KeyValue, SearchMetrics, SearchResponse, ServiceStats, TraceByIdMetrics,
            TraceByIdResponse, TraceSearchMetadata, any_value,
        },
        spans::{TraceSpans, Wanted, decode_spans, decode_trace},
    },
    window::{Window, WindowSet},
};

/// Traces that were asked for.
const MOST: usize = 2_000;
/// Samples that were asked for.
const MOST_SAMPLES: usize = 10_000;
/// What Tempo says instead of a root that it has not received.
const ROOT_NOT_RECEIVED: &str = "<root span not yet received>";

/// Lengths that an answer is cut to: of a short one many, of a long one those near its end and a few before.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    let (before, near) = match length {
        0..4_096 => (24, 12),
        _ => (3, 3),
    };
    let step = (length / before).max(1);
    (0..length).filter(move |at| at % step == 0 || length - at <= near)
}

/// What was read, as Tempo would write it.
fn written(body: &SearchBody) -> SearchResponse {
    let traces = body.traces.iter().map(|trace| {
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().unwrap_or("").to_owned();
        let services = trace.services.iter().flatten();
        TraceSearchMetadata {
            trace_id: format!("{:x}", u128::from_be_bytes(trace.trace_id)),
            root_service_name: match &trace.root_service {
                Some(service) => service.to_string(),
                None => ROOT_NOT_RECEIVED.to_owned(),
            },
            root_trace_name: text(&trace.root_name),
            start_time_unix_nano: u64::try_from(trace.start_ns).expect("no start is before 1970"),
            duration_ms: trace.duration_ms,
            service_stats: services
                .map(|(service, counts)| {
                    let counts = ServiceStats {
                        span_count: counts.spans,
                        error_count: counts.errors,
                    };
                    (service.to_string(), counts)
                })
                .collect(),
            ..Default::default()
        }
    });
    SearchResponse {
        traces: traces.collect(),
        metrics: Some(SearchMetrics {
            inspected_bytes: body.inspected_bytes,
            completed_jobs: body.completed_jobs,
            total_jobs: body.total_jobs,
            ..Default::default()
        }),
    }
}

/// What was read of traces reads as the same once it is written down, in either form, and no part of that is taken for an answer.
fn holds(body: &SearchBody) {
    let traces = &body.traces;
    assert!(traces.len() <= MOST);
    for services in traces.iter().flat_map(|trace| &trace.services) {
        assert!(!services.is_empty() && services.is_sorted_by(|a, b| a.0 < b.0));
    }
    let message = written(body);
    let protobuf = message.encode_to_vec();
    let again = decode_search(Format::Protobuf, &protobuf, MOST).expect("it was read");
    assert_eq!(again, *body);
    let text = json::search_response(&message);
    let again = decode_search(Format::Json, text.as_bytes(), MOST).expect("it was read");
    assert_eq!(again, *body);
    refused_in_parts(&protobuf, |part| {
        decode_search(Format::Protobuf, part, MOST)
    });
    refused_in_parts(text.as_bytes(), |part| {
        decode_search(Format::Json, part, MOST)
    });
    if let Some(fewer) = traces.len().checked_sub(1) {
        for (format, whole) in [
            (Format::Protobuf, &protobuf[..]),
            (Format::Json, text.as_bytes()),
        ] {
            let asked_for_fewer = decode_search(format, whole, fewer);
            assert!(matches!(asked_for_fewer, Err(DecodeError::MoreThanAsked(n)) if n == fewer));
        }
    }
}

fn refused_in_parts<T>(whole: &[u8], read: impl Fn(&[u8]) -> Result<T, DecodeError>) {
    for length in cuts(whole.len()) {
        assert!(
            read(&whole[..length]).is_err(),
            "{length} bytes of {}",
            whole.len()
        );
    }
}

/// The answer as Tempo's own messages have it, written and read again: it must be the same in both forms.
fn both_forms(message: &SearchResponse) {
    let mut message = message.clone();
    message.metrics.get_or_insert_default();
    for trace in &mut message.traces {
        for set in &mut trace.span_sets {
            set.spans
                .iter_mut()
                .for_each(|span| tame(&mut span.attributes));
        }
    }
    let protobuf = message.encode_to_vec();
    let text = json::search_response(&message);
    let either = [
        (Format::Protobuf, &protobuf[..]),
        (Format::Json, text.as_bytes()),
    ];
    let [a, b] = either.map(|(format, body)| decode_search(format, body, MOST));
    same(a, b);
    let wanted = wanted();
    let [a, b] = either.map(|(format, body)| decode_spans(format, body, &wanted, MOST));
    if let Ok(body) = &a {
        spans_hold(body.spans.as_deref().expect("they were asked for"), &wanted);
    }
    same(a, b);
}

/// Both were read as the same, or neither was.
fn same<T: PartialEq + std::fmt::Debug>(a: Result<T, DecodeError>, b: Result<T, DecodeError>) {
    match (a, b) {
        (Ok(a), Ok(b)) => assert_eq!(a, b),
        (Err(_), Err(_)) => {}
        (a, b) => panic!("one form was read, the other was not: {a:?}\n{b:?}"),
    }
}

/// Of numbers that are not whole, only those that their decimal form gives back to the last bit.
fn tame(attributes: &mut [KeyValue]) {
    for attribute in attributes {
        if let Some(AnyValue {
            value: Some(any_value::Value::Double(number)),
        }) = &mut attribute.value
            && number.is_finite()
        {
            *number = f64::from(*number as i32) + 0.5;
        }
    }
}

fn wanted() -> Wanted {
    Wanted::new([
        "span.http.status_code",
        "span.x",
        "resource.x",
        "resource.pod",
        "span.\"é \\ \u{1}",
    ])
}

/// What spans are stored with must be storable.
fn spans_hold(traces: &[TraceSpans], wanted: &Wanted) {
    let names = [
        "span.http.status_code",
        "span.x",
        "resource.x",
        "resource.pod",
        "span.\"é \\ \u{1}",
    ];
    assert_eq!(*wanted, self::wanted());
    for trace in traces {
        assert!(trace.spans.is_sorted_by(|a, b| a.span_id < b.span_id));
        for span in &trace.spans {
            assert!(span.start_ns >= 0 && span.duration_ns >= 0);
            assert!(span.start_ns.checked_add(span.duration_ns).is_some());
            let texts = [
                Some(&span.name),
                span.service.as_ref(),
                span.attributes.as_ref(),
            ];
            assert!(texts.into_iter().flatten().all(|text| !text.contains('\0')));
            assert!(
                span.service
                    .as_deref()
                    .is_none_or(|service| !service.is_empty())
            );
            if let Some(attributes) = &span.attributes {
                let object: BTreeMap<String, serde_json::Value> =
                    serde_json::from_str(attributes).expect("it is a JSON object");
                assert!(!object.is_empty());
                assert!(object.keys().all(|key| names.contains(&key.as_str())));
                assert!(!attributes.contains("\\u0000"), "PostgreSQL takes no NUL");
            }
        }
    }
}

/// A search answer in protobuf.
pub fn search_protobuf(input: &[u8]) {
    if let Ok(body) = decode_search(Format::Protobuf, input, MOST) {
        holds(&body);
    }
    if let Ok(message) = SearchResponse::decode(input) {
        both_forms(&message);
    }
}

/// A search answer in JSON.
pub fn search_json(input: &[u8]) {
    let Ok(body) = decode_search(Format::Json, input, MOST) else {
        return;
    };
    refused_in_parts(input.trim_ascii_end(), |part| {
        decode_search(Format::Json, part, MOST)
    });
    holds(&body);
}

fn spans(format: Format, input: &[u8]) {
    let wanted = wanted();
    let Ok(body) = decode_spans(format, input, &wanted, MOST) else {
        return;
    };
    let spans = body.spans.as_deref().expect("they were asked for");
    let ids = |trace: &TraceSpans| trace.trace_id;
    assert!(
        body.traces
            .iter()
            .map(|trace| trace.trace_id)
            .eq(spans.iter().map(ids))
    );
    spans_hold(spans, &wanted);
    if format == Format::Json {
        refused_in_parts(input.trim_ascii_end(), |part| {
            decode_spans(format, part, &wanted, MOST)
        });
    }
    // What it tells of the traces themselves a search without spans reads alike; it also reads the services.
    let Ok(summaries) = decode_search(format, input, MOST) else {
        return;
    };
    let plain = |body: &SearchBody| {
        let traces = body.traces.iter().cloned().map(|mut trace| {
            trace.services = None;
            trace
        });
        traces.collect::<Vec<_>>()
    };
    assert_eq!(plain(&summaries), plain(&body));
}

/// An answer to a search for spans, in protobuf.
pub fn spans_protobuf(input: &[u8]) {
    spans(Format::Protobuf, input);
    if let Ok(message) = SearchResponse::decode(input) {
        both_forms(&message);
    }
}

/// An answer to a search for spans, in JSON.
pub fn spans_json(input: &[u8]) {
    spans(Format::Json, input);
}

fn trace(format: Format, input: &[u8]) {
    let wanted = wanted();
    let read = |input: &[u8]| decode_trace(format, input, [7; 16], &wanted);
    let Ok(whole) = read(input) else {
        return;
    };
    spans_hold(std::slice::from_ref(&whole), &wanted);
    let ids: HashSet<_> = whole.spans.iter().map(|span| span.span_id).collect();
    match format {
        Format::Json => refused_in_parts(input.trim_ascii_end(), read),
        // A trace has no end of its own; what is cut must not bring what the whole does not.
        Format::Protobuf => {
            for part in cuts(input.len()).filter_map(|length| read(&input[..length]).ok()) {
                assert!(part.spans.iter().all(|span| ids.contains(&span.span_id)));
            }
        }
    }
}

/// An answer to a look-up by ID, in protobuf.
pub fn trace_protobuf(input: &[u8]) {
    trace(Format::Protobuf, input);
    let Ok(mut message) = TraceByIdResponse::decode(input) else {
        return;
    };
    message.metrics = Some(TraceByIdMetrics::default());
    for resource in message
        .trace
        .iter_mut()
        .flat_map(|trace| &mut trace.resource_spans)
    {
        if let Some(resource) = &mut resource.resource {
            tame(&mut resource.attributes);
        }
        let spans = resource
            .scope_spans
            .iter_mut()
            .flat_map(|scope| &mut scope.spans);
        spans.for_each(|span| tame(&mut span.attributes));
    }
    let wanted = wanted();
    let protobuf = message.encode_to_vec();
    let text = json::trace_by_id_response(&message);
    let either = [
        (Format::Protobuf, &protobuf[..]),
        (Format::Json, text.as_bytes()),
    ];
    let [a, b] = either.map(|(format, body)| decode_trace(format, body, [7; 16], &wanted));
    same(a, b);
}

/// An answer to a look-up by ID, in JSON.
pub fn trace_json(input: &[u8]) {
    trace(Format::Json, input);
}

/// An answer to a count, or to a question for an average.
pub fn counts(input: &[u8]) {
    if let Ok(Some(mean)) = decode_average(input, MOST_SAMPLES) {
        assert!(mean > 0.0);
    }
    for step_s in [1, 10, 3_600] {
        let Ok(counted) = decode_count(input, step_s, MOST_SAMPLES) else {
            continue;
        };
        refused_in_parts(input.trim_ascii_end(), |part| {
            decode_count(part, step_s, MOST_SAMPLES)
        });
        let Some(histogram) = counted else {
            continue;
        };
        assert!(histogram.steps.len() <= MOST_SAMPLES);
        assert!(histogram.steps.is_sorted_by(|a, b| a.start < b.start));
        let Some(first) = histogram.steps.first() else {
            continue;
        };
        assert!(decode_count(input, step_s, histogram.steps.len() - 1).is_err());
        // Whatever was counted, the windows that are cut by it tile what is to be fetched.
        let start = first.start - 7;
        let stretch = Window::new(start, start + 700).expect("it has seconds");
        let sizing = Sizing {
            counted: WindowSet::from(stretch),
            histogram,
            budget: 900,
            band_budget: Some(800),
            mean_duration_s: 0.3,
            longest_s: 300,
            at_once: 4,
            worth_a_window: 100,
        };
        let mut end = stretch.start();
        for piece in sizing.cut(stretch) {
            assert_eq!(piece.window.start(), end);
            end = piece.window.end();
        }
        assert_eq!(end, stretch.end());
    }
}
