//! Answers in JSON, byte for byte as Tempo's encoder writes them.
//!
//! Empty and zero fields are left out, 64-bit integers are strings, and `<`, `>` and `&` are escaped, as Go's encoder does.

use std::fmt::Write as _;

use crate::tempo::wire::messages::{
    KeyValue, SearchMetrics, SearchResponse, Span, SpanSet, TraceByIdResponse, TraceSearchMetadata,
    any_value, otlp,
};

/// A JSON object under construction.
struct Object<'text> {
    text: &'text mut String,
    empty: bool,
}

impl<'text> Object<'text> {
    fn begin(text: &'text mut String) -> Self {
        text.push('{');
        Self { text, empty: true }
    }

    /// Begins a member; the caller writes its value.
    fn key(&mut self, key: &str) -> &mut String {
        if !self.empty {
            self.text.push(',');
        }
        self.empty = false;
        string(self.text, key);
        self.text.push(':');
        self.text
    }

    fn text_member(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            string(self.key(key), value);
        }
    }

    fn number(&mut self, key: &str, value: u32) {
        if value != 0 {
            let _ = write!(self.key(key), "{value}");
        }
    }

    fn long(&mut self, key: &str, value: u64) {
        if value != 0 {
            let _ = write!(self.key(key), "\"{value}\"");
        }
    }

    fn list<T>(&mut self, key: &str, items: &[T], write_item: impl Fn(&mut String, &T)) {
        if !items.is_empty() {
            array(self.key(key), items, write_item);
        }
    }

    fn end(self) {
        self.text.push('}');
    }
}

fn array<T>(text: &mut String, items: &[T], write_item: impl Fn(&mut String, &T)) {
    text.push('[');
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        write_item(text, item);
    }
    text.push(']');
}

/// Writes a quoted string.
fn string(text: &mut String, value: &str) {
    text.push('"');
    for letter in value.chars() {
        match letter {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(text, "\\u{:04x}", u32::from(letter));
            }
            _ => text.push(letter),
        }
    }
    text.push('"');
}

/// A search answer; other than elsewhere, `traces` and `metrics` are written even when empty.
pub fn search_response(response: &SearchResponse) -> String {
    let mut text = String::with_capacity(64 + response.traces.len() * 400);
    let mut object = Object::begin(&mut text);
    array(object.key("traces"), &response.traces, trace);
    search_metrics(object.key("metrics"), &response.metrics.unwrap_or_default());
    object.end();
    text
}

/// The cost of a search or a count.
pub(super) fn search_metrics(text: &mut String, metrics: &SearchMetrics) {
    let mut object = Object::begin(text);
    object.number("inspectedTraces", metrics.inspected_traces);
    object.long("inspectedBytes", metrics.inspected_bytes);
    object.number("totalBlocks", metrics.total_blocks);
    object.number("completedJobs", metrics.completed_jobs);
    object.number("totalJobs", metrics.total_jobs);
    object.long("totalBlockBytes", metrics.total_block_bytes);
    object.long("inspectedSpans", metrics.inspected_spans);
    object.end();
}

fn trace(text: &mut String, trace: &TraceSearchMetadata) {
    let mut object = Object::begin(text);
    object.text_member("traceID", &trace.trace_id);
    object.text_member("rootServiceName", &trace.root_service_name);
    object.text_member("rootTraceName", &trace.root_trace_name);
    object.long("startTimeUnixNano", trace.start_time_unix_nano);
    object.number("durationMs", trace.duration_ms);
    if let Some(set) = &trace.span_set {
        span_set(object.key("spanSet"), set);
    }
    object.list("spanSets", &trace.span_sets, span_set);
    if !trace.service_stats.is_empty() {
        let mut services = Object::begin(object.key("serviceStats"));
        for (service, stats) in &trace.service_stats {
            let mut counts = Object::begin(services.key(service));
            counts.number("spanCount", stats.span_count);
            counts.number("errorCount", stats.error_count);
            counts.end();
        }
        services.end();
    }
    object.end();
}

fn span_set(text: &mut String, set: &SpanSet) {
    let mut object = Object::begin(text);
    object.list("spans", &set.spans, span);
    object.number("matched", set.matched);
    object.list("attributes", &set.attributes, key_value);
    object.end();
}

fn span(text: &mut String, span: &Span) {
    let mut object = Object::begin(text);
    object.text_member("spanID", &span.span_id);
    object.text_member("name", &span.name);
    object.long("startTimeUnixNano", span.start_time_unix_nano);
    object.long("durationNanos", span.duration_nanos);
    object.list("attributes", &span.attributes, key_value);
    object.end();
}

/// A named value.
pub(super) fn key_value(text: &mut String, attribute: &KeyValue) {
    let mut object = Object::begin(text);
    object.text_member("key", &attribute.key);
    let mut value = Object::begin(object.key("value"));
    match attribute.value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(any_value::Value::String(content)) => string(value.key("stringValue"), content),
        Some(any_value::Value::Bool(content)) => {
            let _ = write!(value.key("boolValue"), "{content}");
        }
        Some(any_value::Value::Int(content)) => {
            let _ = write!(value.key("intValue"), "\"{content}\"");
        }
        Some(any_value::Value::Double(content)) if content.is_finite() => {
            let _ = write!(value.key("doubleValue"), "{content}");
        }
        Some(any_value::Value::Double(content)) => {
            let _ = write!(value.key("doubleValue"), "\"{content}\"");
        }
        None => {}
    }
    value.end();
    object.end();
}

/// The answer of `/api/v2/traces/{id}`.
pub fn trace_by_id_response(response: &TraceByIdResponse) -> String {
    let mut text = String::new();
    let mut object = Object::begin(&mut text);
    let no_trace = otlp::TracesData::default();
    traces_data(
        object.key("trace"),
        response.trace.as_ref().unwrap_or(&no_trace),
        "resourceSpans",
    );
    let mut metrics = Object::begin(object.key("metrics"));
    metrics.long(
        "inspectedBytes",
        response.metrics.unwrap_or_default().inspected_bytes,
    );
    metrics.end();
    if response.status == TraceByIdResponse::PARTIAL {
        object.text_member("status", "PARTIAL");
    }
    object.text_member("message", &response.message);
    object.end();
    text
}

/// A whole trace, its list of services under the name that the version of the API has for it.
pub(super) fn traces_data(text: &mut String, trace: &otlp::TracesData, services_key: &str) {
    let mut object = Object::begin(text);
    object.list(services_key, &trace.resource_spans, |text, service| {
        let mut object = Object::begin(text);
        let mut resource = Object::begin(object.key("resource"));
        if let Some(known) = &service.resource {
            resource.list("attributes", &known.attributes, key_value);
        }
        resource.end();
        object.list("scopeSpans", &service.scope_spans, |text, scope| {
            let mut object = Object::begin(text);
            object.key("scope").push_str("{}");
            object.list("spans", &scope.spans, otlp_span);
            object.end();
        });
        object.end();
    });
    object.end();
}

fn otlp_span(text: &mut String, span: &otlp::Span) {
    const KINDS: [&str; 6] = [
        "UNSPECIFIED",
        "INTERNAL",
        "SERVER",
        "CLIENT",
        "PRODUCER",
        "CONSUMER",
    ];
    const CODES: [&str; 3] = ["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];
    let mut object = Object::begin(text);
    object.text_member("traceId", &base64(&span.trace_id));
    object.text_member("spanId", &base64(&span.span_id));
    object.text_member("parentSpanId", &base64(&span.parent_span_id));
    object.text_member("name", &span.name);
    if let Some(kind) = KINDS.get(span.kind as usize).filter(|_| span.kind > 0) {
        object.text_member("kind", &format!("SPAN_KIND_{kind}"));
    }
    object.long("startTimeUnixNano", span.start_time_unix_nano);
    object.long("endTimeUnixNano", span.end_time_unix_nano);
    object.list("attributes", &span.attributes, key_value);
    if let Some(outcome) = &span.status {
        let mut status = Object::begin(object.key("status"));
        status.text_member("message", &outcome.message);
        if let Some(code) = CODES
            .get(outcome.code as usize)
            .filter(|_| outcome.code > 0)
        {
            status.text_member("code", code);
        }
        status.end();
    }
    object.end();
}

/// One value and when it was stamped, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    pub(super) timestamp_ms: u64,
    pub(super) value: f64,
}

/// A trace named as an example of what was counted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exemplar {
    pub(super) labels: Vec<KeyValue>,
    pub(super) value: f64,
    pub(super) timestamp_ms: u64,
}

/// A count over time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) labels: Vec<KeyValue>,
    pub(super) samples: Vec<Sample>,
    pub(super) exemplars: Vec<Exemplar>,
}

/// The answer of `/api/metrics/query_range`: `series` is written even when empty.
pub(super) fn query_range_response(series: &[Series], metrics: &SearchMetrics) -> String {
    let mut text = String::new();
    let mut object = Object::begin(&mut text);
    array(object.key("series"), series, |text, series| {
        let mut object = Object::begin(text);
        object.list("labels", &series.labels, key_value);
        object.list("samples", &series.samples, |text, sample| {
            let mut object = Object::begin(text);
            object.long("timestampMs", sample.timestamp_ms);
            count(&mut object, sample.value);
            object.end();
        });
        object.list("exemplars", &series.exemplars, |text, exemplar| {
            let mut object = Object::begin(text);
            object.list("labels", &exemplar.labels, key_value);
            count(&mut object, exemplar.value);
            object.long("timestampMs", exemplar.timestamp_ms);
            object.end();
        });
        object.end();
    });
    search_metrics(object.key("metrics"), metrics);
    object.end();
    text
}

/// The answer of `/api/metrics/query`: `series` is left out when empty.
pub(super) fn query_response(series: &[Series], metrics: &SearchMetrics) -> String {
    let mut text = String::new();
    let mut object = Object::begin(&mut text);
    object.list("series", series, |text, series| {
        let mut object = Object::begin(text);
        object.list("labels", &series.labels, key_value);
        count(
            &mut object,
            series.samples.first().map_or(0.0, |sample| sample.value),
        );
        object.end();
    });
    search_metrics(object.key("metrics"), metrics);
    object.end();
    text
}

/// A zero is left out.
fn count(object: &mut Object<'_>, value: f64) {
    if value != 0.0 {
        let _ = write!(object.key("value"), "{value}");
    }
}

/// Base64 with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain([&0, &0])
            .take(3)
            .fold(0_u32, |word, byte| (word << 8) | u32::from(*byte));
        for position in 0..4 {
            if position <= chunk.len() {
                let index = (word >> (18 - 6 * position)) & 63;
                text.push(char::from(ALPHABET[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{base64, string};

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        let mut text = String::new();
        string(&mut text, "<a & \"b\">\n\u{1}");
        assert_eq!(text, r#""\u003ca \u0026 \"b\"\u003e\n\u0001""#);
    }

    #[test]
    fn base64_is_padded() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(base64(b"abc"), "YWJj");
    }
}
