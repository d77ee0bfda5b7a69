//! Spans in JSON, which comes where something on the way does not pass on what is accepted.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;

use super::{
    Builder, DEEPEST, Kind, List, NIL, Otlp, Scope, Span, Status, TraceSpans, duration_ns,
    nanoseconds, otlp_span, parent, span_id, write_double, write_text,
};
use crate::tempo::wire::{
    DecodeError, JsonMetrics, SearchBody, TraceSummary, number, rooted, trace_id_of,
};

/// A search answer, its spans as they come.
pub(super) fn search(body: &[u8], builder: &mut Builder<'_>) -> Result<SearchBody, DecodeError> {
    let answer: JsonSearch<'_> = serde_json::from_slice(body)?;
    let metrics = answer.metrics.ok_or(DecodeError::NoMetrics)?;
    let (mut traces, mut spans) = (Vec::new(), Vec::new());
    for trace in answer.traces.unwrap_or_default() {
        let (service, name) = (&trace.root_service_name, &trace.root_trace_name);
        let summary = TraceSummary {
            trace_id: trace_id_of(trace.trace_id.as_bytes())?,
            start_ns: nanoseconds(trace.start_time_unix_nano),
            duration_ms: trace.duration_ms,
            ..rooted(&mut builder.names, service.as_bytes(), name.as_bytes())
        };
        let mut of_trace = TraceSpans {
            trace_id: summary.trace_id,
            spans: Vec::new(),
            cut: false,
            partial: None,
        };
        for set in trace.span_sets {
            of_trace.cut |= set.matched as usize > set.spans.len();
            for span in set.spans {
                of_trace.spans.push(span_json(&span, builder)?);
            }
        }
        traces.push(summary);
        spans.push(of_trace);
    }
    Ok(SearchBody {
        traces,
        spans: Some(spans),
        inspected_bytes: metrics.inspected_bytes,
        completed_jobs: metrics.completed_jobs,
        total_jobs: metrics.total_jobs,
    })
}

fn span_json(span: &JsonSpan<'_>, builder: &mut Builder<'_>) -> Result<Span, DecodeError> {
    builder.clear(None);
    let (mut service, mut parent_id) = (&[][..], &[][..]);
    let (mut kind, mut status) = (Kind::default(), Status::default());
    for attribute in &span.attributes {
        let text = attribute.value.text();
        match attribute.key.as_ref() {
            "service.name" => service = text,
            "kind" => kind = Kind::of_name(text),
            "status" => status = Status::of_name(text),
            "span:parentID" => parent_id = text,
            key => {
                if let Some(place) = builder.place(None, key.as_bytes()) {
                    place.clear();
                    attribute.value.write(place, 0);
                }
            }
        }
    }
    let start_ns = nanoseconds(span.start_time_unix_nano);
    Ok(Span {
        span_id: span_id(span.span_id.as_bytes())?,
        parent_span_id: match parent_id {
            [] | NIL => None,
            hex => parent(span_id(hex)?),
        },
        service: builder.service(service),
        name: builder.name(span.name.as_bytes()),
        kind,
        status,
        start_ns,
        duration_ns: duration_ns(start_ns, span.duration_nanos),
        attributes: builder.attributes(),
    })
}

/// The spans of an answer to a look-up, and whether they are part of what there is.
pub(super) fn trace_by_id(
    body: &[u8],
    builder: &mut Builder<'_>,
) -> Result<(Vec<Span>, bool), DecodeError> {
    let answer: JsonTraceById<'_> = serde_json::from_slice(body)?;
    let mut spans = Vec::new();
    for of_resource in answer.trace.resource_spans {
        builder.clear(None);
        let mut service = None;
        for attribute in &of_resource.resource.attributes {
            if attribute.key == "service.name" {
                service = builder.service(attribute.value.text());
            }
            note_json(builder, Scope::Resource, attribute);
        }
        for span in of_resource.scope_spans.iter().flat_map(|of| &of.spans) {
            builder.clear(Some(Scope::Span));
            for attribute in &span.attributes {
                note_json(builder, Scope::Span, attribute);
            }
            let bytes = |text: &str| {
                let decoded = BASE64_STANDARD.decode(text);
                decoded.map_err(|_| DecodeError::SpanId(text.chars().take(64).collect()))
            };
            let otlp = Otlp {
                id: &bytes(&span.span_id)?,
                parent_id: &bytes(&span.parent_span_id)?,
                name: span.name.as_bytes(),
                kind: span
                    .kind
                    .as_ref()
                    .map_or_else(Kind::default, JsonEnum::kind),
                status: span
                    .status
                    .code
                    .as_ref()
                    .map_or_else(Status::default, JsonEnum::status),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
            };
            spans.push(otlp_span(builder, service.clone(), otlp)?);
        }
    }
    let partial = matches!(&answer.status, Some(JsonEnum::Name(name)) if name == "PARTIAL")
        || matches!(answer.status, Some(JsonEnum::Number(1)));
    Ok((spans, partial))
}

fn note_json(builder: &mut Builder<'_>, scope: Scope, attribute: &JsonKeyValue<'_>) {
    if let Some(place) = builder.place(Some(scope), attribute.key.as_bytes()) {
        place.clear();
        attribute.value.write(place, 0);
    }
}

#[derive(Deserialize)]
struct JsonSearch<'a> {
    #[serde(borrow)]
    traces: Option<Vec<JsonTrace<'a>>>,
    metrics: Option<JsonMetrics>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonTrace<'a> {
    #[serde(rename = "traceID", borrow)]
    trace_id: Cow<'a, str>,
    #[serde(default)]
    root_service_name: String,
    #[serde(default)]
    root_trace_name: String,
    #[serde(default, deserialize_with = "number")]
    start_time_unix_nano: u64,
    #[serde(default)]
    duration_ms: u32,
    #[serde(default, borrow)]
    span_sets: Vec<JsonSpanSet<'a>>,
}

#[derive(Deserialize)]
struct JsonSpanSet<'a> {
    #[serde(default, borrow)]
    spans: Vec<JsonSpan<'a>>,
    #[serde(default)]
    matched: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonSpan<'a> {
    #[serde(rename = "spanID", borrow)]
    span_id: Cow<'a, str>,
    #[serde(default, borrow)]
    name: Cow<'a, str>,
    #[serde(default, deserialize_with = "number")]
    start_time_unix_nano: u64,
    #[serde(default, deserialize_with = "number")]
    duration_nanos: u64,
    #[serde(default, borrow)]
    attributes: Vec<JsonKeyValue<'a>>,
}

#[derive(Deserialize)]
struct JsonKeyValue<'a> {
    #[serde(default, borrow)]
    key: Cow<'a, str>,
    #[serde(default, borrow)]
    value: JsonValue<'a>,
}

/// One of these is there.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonValue<'a> {
    #[serde(borrow)]
    string_value: Option<Cow<'a, str>>,
    bool_value: Option<bool>,
    int_value: Option<JsonInt>,
    double_value: Option<JsonDouble>,
    array_value: Option<JsonArray>,
}

/// A whole number, which JSON carries as a decimal string.
#[derive(Deserialize)]
#[serde(untagged)]
enum JsonInt {
    Number(i64),
    Text(String),
}

/// A number; what is not finite comes as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum JsonDouble {
    Number(f64),
    Text(String),
}

#[derive(Deserialize)]
struct JsonArray {
    #[serde(default)]
    values: Vec<BTreeMap<String, serde_json::Value>>,
}

impl JsonValue<'_> {
    fn text(&self) -> &[u8] {
        self.string_value
            .as_deref()
            .map_or(&[], |text| text.as_bytes())
    }

    fn write(&self, json: &mut String, depth: u8) {
        if let Some(text) = &self.string_value {
            if depth > 0 || text.as_bytes() != NIL {
                write_text(json, text.as_bytes());
            }
        } else if let Some(value) = self.bool_value {
            json.push_str(if value { "true" } else { "false" });
        } else if let Some(value) = &self.int_value {
            let number = match value {
                JsonInt::Number(number) => Some(*number),
                JsonInt::Text(text) => text.parse().ok(),
            };
            if let Some(number) = number {
                let _ = write!(json, "{number}");
            }
        } else if let Some(value) = &self.double_value {
            match value {
                JsonDouble::Number(number) => write_double(json, *number),
                JsonDouble::Text(text) => write_double(json, text.parse().unwrap_or(f64::NAN)),
            }
        } else if let Some(array) = &self.array_value
            && depth < DEEPEST
        {
            let mut list = List::begin(json);
            for element in &array.values {
                let text = serde_json::to_string(element).unwrap_or_default();
                let written = list.element(json, |json| {
                    if let Ok(element) = serde_json::from_str::<JsonValue<'_>>(&text) {
                        element.write(json, depth + 1);
                    }
                    Ok::<_, std::convert::Infallible>(())
                });
                let Ok(()) = written;
            }
            list.end(json, depth);
        }
    }
}

#[derive(Deserialize)]
struct JsonTraceById<'a> {
    #[serde(default, borrow)]
    trace: JsonTracesData<'a>,
    status: Option<JsonEnum>,
}

#[derive(Default, Deserialize)]
struct JsonTracesData<'a> {
    #[serde(default, rename = "resourceSpans", alias = "batches", borrow)]
    resource_spans: Vec<JsonResourceSpans<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonResourceSpans<'a> {
    #[serde(default, borrow)]
    resource: JsonResource<'a>,
    #[serde(default, borrow)]
    scope_spans: Vec<JsonScopeSpans<'a>>,
}

#[derive(Default, Deserialize)]
struct JsonResource<'a> {
    #[serde(default, borrow)]
    attributes: Vec<JsonKeyValue<'a>>,
}

#[derive(Deserialize)]
struct JsonScopeSpans<'a> {
    #[serde(default, borrow)]
    spans: Vec<JsonOtlpSpan<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonOtlpSpan<'a> {
    #[serde(borrow)]
    span_id: Cow<'a, str>,
    #[serde(default, borrow)]
    parent_span_id: Cow<'a, str>,
    #[serde(default, borrow)]
    name: Cow<'a, str>,
    kind: Option<JsonEnum>,
    #[serde(default, deserialize_with = "number")]
    start_time_unix_nano: u64,
    #[serde(default, deserialize_with = "number")]
    end_time_unix_nano: u64,
    #[serde(default, borrow)]
    attributes: Vec<JsonKeyValue<'a>>,
    #[serde(default)]
    status: JsonStatus,
}

#[derive(Default, Deserialize)]
struct JsonStatus {
    code: Option<JsonEnum>,
}

/// A value of an enum, by its name or by its number.
#[derive(Deserialize)]
#[serde(untagged)]
enum JsonEnum {
    Number(u64),
    Name(String),
}

impl JsonEnum {
    fn kind(&self) -> Kind {
        match self {
            Self::Number(number) => Kind::of_number(*number),
            Self::Name(name) => {
                let name = name.trim_start_matches("SPAN_KIND_").to_ascii_lowercase();
                Kind::of_name(name.as_bytes())
            }
        }
    }

    fn status(&self) -> Status {
        match self {
            Self::Number(number) => Status::of_number(*number),
            Self::Name(name) => {
                let name = name.trim_start_matches("STATUS_CODE_").to_ascii_lowercase();
                Status::of_name(name.as_bytes())
            }
        }
    }
}
