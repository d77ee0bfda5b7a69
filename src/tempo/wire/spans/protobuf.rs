//! Spans in protobuf, read where they stand.

use std::{fmt::Write as _, sync::Arc};

use super::{
    Builder, DEEPEST, Kind, List, NIL, Otlp, Scope, Span, Status, TraceSpans, duration_ns,
    otlp_span, parent, span_id, write_double, write_text,
};
use crate::tempo::wire::{
    DecodeError, SearchBody, TraceSummary,
    answer::{self, Told},
    nanoseconds,
    reader::{Fields, Malformed, Value},
};

/// A search answer, its spans as they come.
pub(super) fn search(body: &[u8], builder: &mut Builder<'_>) -> Result<SearchBody, DecodeError> {
    let (mut traces, mut spans) = (Vec::new(), Vec::new());
    let metrics = answer::protobuf(body, |trace| {
        builder.kept.take_trace::<(TraceSummary, TraceSpans)>()?;
        let mut told = Told::default();
        let (mut of_trace, mut cut) = (Vec::new(), false);
        for field in Fields::of(trace) {
            match field? {
                (7, value) => cut |= span_set_protobuf(value.bytes()?, builder, &mut of_trace)?,
                (number, value) => told.field(number, value)?,
            }
        }
        let summary = told.trace(None, &mut builder.kept)?;
        spans.push(TraceSpans {
            trace_id: summary.trace_id,
            spans: of_trace,
            cut,
            partial: None,
        });
        traces.push(summary);
        Ok(())
    })?;
    Ok(SearchBody {
        traces,
        spans: Some(spans),
        ..SearchBody::at_cost(metrics)
    })
}

/// Adds a set's spans; returns whether it has more than the answer brings.
fn span_set_protobuf(
    message: &[u8],
    builder: &mut Builder<'_>,
    spans: &mut Vec<Span>,
) -> Result<bool, DecodeError> {
    let before = spans.len();
    let mut matched = 0;
    for field in Fields::of(message) {
        match field? {
            (1, value) => spans.push(span_protobuf(value.bytes()?, builder)?),
            (2, value) => matched = value.number()?,
            _ => {}
        }
    }
    Ok(matched > (spans.len() - before) as u64)
}

fn span_protobuf(message: &[u8], builder: &mut Builder<'_>) -> Result<Span, DecodeError> {
    let (mut id, mut name, mut service) = (&[][..], &[][..], &[][..]);
    let (mut parent_id, mut kind, mut status) = (&[][..], Kind::default(), Status::default());
    let (mut start, mut duration) = (0, 0);
    builder.kept.take_for::<Span>()?;
    builder.clear(None);
    for field in Fields::of(message) {
        match field? {
            (1, value) => id = value.bytes()?,
            (2, value) => name = value.bytes()?,
            (3, value) => start = value.number()?,
            (4, value) => duration = value.number()?,
            (5, value) => {
                let (key, value) = key_value(value.bytes()?)?;
                match key {
                    b"service.name" => service = text_value(value)?,
                    b"kind" => kind = Kind::of_name(text_value(value)?),
                    b"status" => status = Status::of_name(text_value(value)?),
                    b"span:parentID" => parent_id = text_value(value)?,
                    key => {
                        if let Some(place) = builder.place(None, key) {
                            place.clear();
                            write_value(place, value, 0)?;
                        }
                    }
                }
            }
            _ => {}
        }
    }
    let start_ns = nanoseconds(start);
    Ok(Span {
        span_id: span_id(id)?,
        parent_span_id: match parent_id {
            [] | NIL => None,
            hex => parent(span_id(hex)?),
        },
        service: builder.service(service)?,
        name: builder.name(name)?,
        kind,
        status,
        start_ns,
        duration_ns: duration_ns(start_ns, duration),
        attributes: builder.attributes()?,
    })
}

/// Key and value of an OpenTelemetry attribute, both as they stand on the wire.
fn key_value(message: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut key, mut value) = (&[][..], &[][..]);
    for field in Fields::of(message) {
        match field? {
            (1, bytes) => key = bytes.bytes()?,
            (2, bytes) => value = bytes.bytes()?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// The text that a value is; empty if it is something else.
fn text_value(message: &[u8]) -> Result<&[u8], Malformed> {
    let mut text = &[][..];
    for field in Fields::of(message) {
        if let (1, value) = field? {
            text = value.bytes()?;
        }
    }
    Ok(text)
}

/// Writes an attribute's value as JSON; nothing for an absent one, and for maps and bytes, which no search tells.
fn write_value(json: &mut String, message: &[u8], depth: u8) -> Result<(), DecodeError> {
    let begin = json.len();
    for field in Fields::of(message) {
        // One of them is there; the last one counts, should there be more.
        json.truncate(begin);
        match field? {
            (1, value) => match value.bytes()? {
                NIL if depth == 0 => {}
                text => write_text(json, text)?,
            },
            (2, value) => json.push_str(if value.number()? == 0 {
                "false"
            } else {
                "true"
            }),
            (3, value) => {
                let _ = write!(json, "{}", value.number()?.cast_signed());
            }
            (4, Value::Fixed64(bits)) => write_double(json, f64::from_bits(bits)),
            (5, value) if depth < DEEPEST => {
                let mut list = List::begin(json);
                for element in Fields::of(value.bytes()?) {
                    if let (1, element) = element? {
                        list.element(json, |json| write_value(json, element.bytes()?, depth + 1))?;
                    }
                }
                list.end(json, depth);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The spans of an answer to a look-up, and whether they are part of what there is.
pub(super) fn trace_by_id(
    body: &[u8],
    builder: &mut Builder<'_>,
) -> Result<(Vec<Span>, bool), DecodeError> {
    let mut spans = Vec::new();
    let (mut partial, mut whole) = (false, false);
    for field in Fields::of(body) {
        match field? {
            (1, trace) => {
                for field in Fields::of(trace.bytes()?) {
                    if let (1, resource_spans) = field? {
                        resource_spans_protobuf(resource_spans.bytes()?, builder, &mut spans)?;
                    }
                }
            }
            (2, metrics) => {
                metrics.bytes()?;
                whole = true;
            }
            (3, status) => partial = status.number()? == 1,
            _ => {}
        }
    }
    match whole {
        true => Ok((spans, partial)),
        false => Err(DecodeError::NoMetrics),
    }
}

fn resource_spans_protobuf(
    message: &[u8],
    builder: &mut Builder<'_>,
    spans: &mut Vec<Span>,
) -> Result<(), DecodeError> {
    let mut service = &[][..];
    builder.clear(None);
    for field in Fields::of(message) {
        if let (1, resource) = field? {
            for field in Fields::of(resource.bytes()?) {
                if let (1, attribute) = field? {
                    let (key, value) = key_value(attribute.bytes()?)?;
                    if key == b"service.name" {
                        service = text_value(value)?;
                    }
                    note(builder, Scope::Resource, key, value)?;
                }
            }
        }
    }
    let service = builder.service(service)?;
    for field in Fields::of(message) {
        if let (2, scope_spans) = field? {
            for field in Fields::of(scope_spans.bytes()?) {
                if let (2, span) = field? {
                    spans.push(otlp_span_protobuf(span.bytes()?, service.clone(), builder)?);
                }
            }
        }
    }
    Ok(())
}

fn note(
    builder: &mut Builder<'_>,
    scope: Scope,
    key: &[u8],
    value: &[u8],
) -> Result<(), DecodeError> {
    if let Some(place) = builder.place(Some(scope), key) {
        place.clear();
        write_value(place, value, 0)?;
    }
    Ok(())
}

fn otlp_span_protobuf(
    message: &[u8],
    service: Option<Arc<str>>,
    builder: &mut Builder<'_>,
) -> Result<Span, DecodeError> {
    let (mut id, mut parent_id, mut name) = (&[][..], &[][..], &[][..]);
    let (mut kind, mut status) = (Kind::default(), Status::default());
    let (mut start, mut end) = (0, 0);
    builder.kept.take_for::<Span>()?;
    builder.clear(Some(Scope::Span));
    for field in Fields::of(message) {
        match field? {
            (2, value) => id = value.bytes()?,
            (4, value) => parent_id = value.bytes()?,
            (5, value) => name = value.bytes()?,
            (6, value) => kind = Kind::of_number(value.number()?),
            (7, value) => start = value.number()?,
            (8, value) => end = value.number()?,
            (9, value) => {
                let (key, value) = key_value(value.bytes()?)?;
                note(builder, Scope::Span, key, value)?;
            }
            (15, value) => {
                for field in Fields::of(value.bytes()?) {
                    if let (3, code) = field? {
                        status = Status::of_number(code.number()?);
                    }
                }
            }
            _ => {}
        }
    }
    otlp_span(
        builder,
        service,
        Otlp {
            id,
            parent_id,
            name,
            kind,
            status,
            start,
            end,
        },
    )
}
