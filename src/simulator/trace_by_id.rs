//! `GET /api/v2/traces/{id}` and its predecessor `/api/traces/{id}`: whole traces.
//!
//! A look-up by ID finds every span that has arrived, searchable or not. An unknown ID is answered 200 with an empty trace, or 404 by the
//! predecessor. Source: `modules/frontend/combiner/trace_by_id_v2.go`.

use axum::http::StatusCode;
use prost::Message as _;

use super::answer::{Answer, JSON, PROTOBUF};
use super::json;
use super::params::parse_trace_id;
use super::span::{AttributeScope, AttributeValue, Span, SpanStatus, Text};
use super::store::Store;
use super::traceql::evaluate::key_value;
use crate::tempo::wire::messages::{
    KeyValue, TraceByIdMetrics, TraceByIdResponse, any_value, otlp,
};

/// Which form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    /// The trace alone, 404 when unknown.
    V1,
    /// With metrics and status.
    V2,
}

/// Answers a look-up. Traces over `max_trace_bytes` are cut and said to be partial.
pub(super) fn trace_by_id(
    api: Api,
    id: &str,
    store: &Store,
    max_trace_bytes: Option<usize>,
    protobuf: bool,
) -> Answer {
    let trace_id = match parse_trace_id(id) {
        Ok(trace_id) => trace_id,
        Err(message) => return Answer::text(StatusCode::BAD_REQUEST, message),
    };
    let mut spans = store.spans_by_id(&trace_id);
    let mut trace = traces_data(&trace_id, &spans);
    let inspected_bytes = trace.encoded_len() as u64;
    let mut partial = None;
    if let Some(most_bytes) = max_trace_bytes
        && trace.encoded_len() > most_bytes
    {
        while trace.encoded_len() > most_bytes && spans.len() > 1 {
            spans.truncate(spans.len() / 2);
            trace = traces_data(&trace_id, &spans);
        }
        partial = Some(format!(
            "Trace exceeds maximum size of {most_bytes} bytes, a partial trace is returned"
        ));
    }
    match api {
        Api::V1 if spans.is_empty() => Answer::text(StatusCode::NOT_FOUND, ""),
        Api::V1 if protobuf => Answer::ok(PROTOBUF, trace.encode_to_vec()),
        Api::V1 => {
            let mut text = String::new();
            json::traces_data(&mut text, &trace, "batches");
            Answer::ok(JSON, text)
        }
        Api::V2 => {
            let response = TraceByIdResponse {
                trace: Some(trace),
                metrics: Some(TraceByIdMetrics { inspected_bytes }),
                status: match partial {
                    Some(_) => TraceByIdResponse::PARTIAL,
                    None => TraceByIdResponse::COMPLETE,
                },
                message: partial.unwrap_or_default(),
            };
            if protobuf {
                Answer::ok(PROTOBUF, response.encode_to_vec())
            } else {
                Answer::ok(JSON, json::trace_by_id_response(&response))
            }
        }
    }
}

/// Spans by service, in order of first appearance.
fn traces_data(trace_id: &[u8; 16], spans: &[Span]) -> otlp::TracesData {
    let mut services: Vec<(Option<Text>, otlp::ResourceSpans)> = Vec::new();
    for span in spans {
        let position = services
            .iter()
            .position(|(service, _)| *service == span.service)
            .unwrap_or_else(|| {
                services.push((span.service.clone(), resource_spans(span)));
                services.len() - 1
            });
        if let Some(scope) = services[position].1.scope_spans.first_mut() {
            scope.spans.push(otlp_span(trace_id, span));
        }
    }
    otlp::TracesData {
        resource_spans: services.into_iter().map(|(_, spans)| spans).collect(),
    }
}

fn resource_spans(span: &Span) -> otlp::ResourceSpans {
    let name = span.service.iter().map(|service| {
        let value = any_value::Value::String(service.as_ref().to_owned());
        key_value("service.name", value)
    });
    otlp::ResourceSpans {
        resource: Some(otlp::Resource {
            attributes: name
                .chain(attributes(span, AttributeScope::Resource))
                .collect(),
        }),
        scope_spans: vec![otlp::ScopeSpans {
            scope: Some(otlp::InstrumentationScope::default()),
            spans: Vec::new(),
        }],
    }
}

fn otlp_span(trace_id: &[u8; 16], span: &Span) -> otlp::Span {
    let http = span
        .http_status_code
        .map(|code| key_value("http.status_code", any_value::Value::Int(code)));
    otlp::Span {
        trace_id: trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        parent_span_id: if span.is_root() {
            Vec::new()
        } else {
            span.parent_id.to_vec()
        },
        name: span.name.as_ref().to_owned(),
        kind: span.kind as i32,
        start_time_unix_nano: span.start_ns,
        end_time_unix_nano: span.end_ns,
        attributes: http
            .into_iter()
            .chain(attributes(span, AttributeScope::Span))
            .collect(),
        status: Some(otlp::Status {
            message: String::new(),
            code: match span.status {
                SpanStatus::Unset => 0,
                SpanStatus::Ok => 1,
                SpanStatus::Error => 2,
            },
        }),
    }
}

fn attributes(span: &Span, scope: AttributeScope) -> impl Iterator<Item = KeyValue> {
    span.attributes
        .iter()
        .filter(move |attribute| attribute.scope == scope)
        .map(|attribute| {
            let value = match &attribute.value {
                AttributeValue::Text(text) => any_value::Value::String(text.as_ref().to_owned()),
                AttributeValue::Int(number) => any_value::Value::Int(*number),
                AttributeValue::Float(number) => any_value::Value::Double(*number),
                AttributeValue::Bool(value) => any_value::Value::Bool(*value),
            };
            key_value(&attribute.key, value)
        })
}
