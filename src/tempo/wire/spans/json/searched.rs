//! Spans as a search tells them.

use std::borrow::Cow;

use serde::{
    Deserializer,
    de::{DeserializeSeed as _, MapAccess},
};

use super::attribute::{KeyValue, note};
use crate::tempo::wire::{
    DecodeError, SearchBody, TraceSummary,
    answer::{self, Told},
    json::{Each, Elements, Members, Number, Object, Text, ignore},
    nanoseconds,
    spans::{Builder, Kind, NIL, Span, Status, TraceSpans, duration_ns, parent, span_id},
};

/// A search answer, its spans as they come.
pub(in super::super) fn search(
    body: &[u8],
    builder: &mut Builder<'_>,
) -> Result<SearchBody, DecodeError> {
    let mut traces = Traces {
        summaries: Vec::new(),
        spans: Vec::new(),
        builder,
    };
    let read = answer::json(body, &mut traces);
    let metrics = read.map_err(|stopped| traces.builder.kept.why(stopped))?;
    Ok(SearchBody {
        traces: traces.summaries,
        spans: Some(traces.spans),
        ..SearchBody::at_cost(metrics.ok_or(DecodeError::NoMetrics)?)
    })
}

struct Traces<'b, 'w> {
    summaries: Vec<TraceSummary>,
    spans: Vec<TraceSpans>,
    builder: &'b mut Builder<'w>,
}

impl<'de> Elements<'de> for Traces<'_, '_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        let kept = &mut self.builder.kept;
        let room = kept.take_trace::<(TraceSummary, TraceSpans)>();
        kept.or_stop(room)?;
        let mut trace = Trace {
            told: Told::default(),
            sets: Sets {
                spans: Vec::new(),
                cut: false,
                builder: self.builder,
            },
        };
        Object(&mut trace).deserialize(element)?;
        let Trace { told, sets } = trace;
        let (spans, cut) = (sets.spans, sets.cut);
        let kept = &mut self.builder.kept;
        let summary = told.trace(None, kept);
        let summary = kept.or_stop(summary)?;
        self.spans.push(TraceSpans {
            trace_id: summary.trace_id,
            spans,
            cut,
            partial: None,
        });
        self.summaries.push(summary);
        Ok(())
    }
}

struct Trace<'de, 'b, 'w> {
    told: Told<Text<'de>>,
    sets: Sets<'b, 'w>,
}

impl<'de> Members<'de> for Trace<'de, '_, '_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "spanSets" => value.next_value_seed(Each(&mut self.sets)),
            name => self.told.member(name, value),
        }
    }
}

/// The span sets of a trace.
struct Sets<'b, 'w> {
    spans: Vec<Span>,
    /// Whether one of them has more spans than the answer brings.
    cut: bool,
    builder: &'b mut Builder<'w>,
}

impl<'de> Elements<'de> for Sets<'_, '_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        let before = self.spans.len();
        let mut set = Set {
            matched: 0,
            spans: SearchedSpans {
                spans: &mut self.spans,
                builder: self.builder,
            },
        };
        Object(&mut set).deserialize(element)?;
        self.cut |= set.matched as usize > self.spans.len() - before;
        Ok(())
    }
}

struct Set<'s, 'w> {
    matched: u32,
    spans: SearchedSpans<'s, 'w>,
}

impl<'de> Members<'de> for Set<'_, '_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "spans" => value.next_value_seed(Each(&mut self.spans))?,
            "matched" => self.matched = value.next_value()?,
            _ => ignore(value)?,
        }
        Ok(())
    }
}

struct SearchedSpans<'s, 'w> {
    spans: &'s mut Vec<Span>,
    builder: &'s mut Builder<'w>,
}

impl<'de> Elements<'de> for SearchedSpans<'_, '_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        let room = self.builder.kept.take_for::<Span>();
        self.builder.kept.or_stop(room)?;
        self.builder.clear(None);
        let mut span = SearchedSpan {
            id: Text::default(),
            name: Text::default(),
            start: 0,
            duration: 0,
            attributes: SearchedAttributes {
                service: Cow::default(),
                parent_id: Cow::default(),
                kind: Kind::default(),
                status: Status::default(),
                builder: self.builder,
            },
        };
        Object(&mut span).deserialize(element)?;
        let read = span.read();
        self.spans.push(self.builder.kept.or_stop(read)?);
        Ok(())
    }
}

struct SearchedSpan<'de, 's, 'w> {
    id: Text<'de>,
    name: Text<'de>,
    start: u64,
    duration: u64,
    attributes: SearchedAttributes<'de, 's, 'w>,
}

/// What a search tells of a span as attributes.
struct SearchedAttributes<'de, 's, 'w> {
    service: Cow<'de, str>,
    parent_id: Cow<'de, str>,
    kind: Kind,
    status: Status,
    builder: &'s mut Builder<'w>,
}

impl SearchedSpan<'_, '_, '_> {
    fn read(self) -> Result<Span, DecodeError> {
        let of = self.attributes;
        let start_ns = nanoseconds(self.start);
        Ok(Span {
            span_id: span_id(self.id.bytes())?,
            parent_span_id: match of.parent_id.as_bytes() {
                [] | NIL => None,
                hex => parent(span_id(hex)?),
            },
            service: of.builder.service(of.service.as_bytes())?,
            name: of.builder.name(self.name.bytes())?,
            kind: of.kind,
            status: of.status,
            start_ns,
            duration_ns: duration_ns(start_ns, self.duration),
            attributes: of.builder.attributes()?,
        })
    }
}

impl<'de> Members<'de> for SearchedSpan<'de, '_, '_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "spanID" => self.id = value.next_value()?,
            "name" => self.name = value.next_value()?,
            "startTimeUnixNano" => self.start = value.next_value::<Number>()?.0,
            "durationNanos" => self.duration = value.next_value::<Number>()?.0,
            "attributes" => value.next_value_seed(Each(&mut self.attributes))?,
            _ => ignore(value)?,
        }
        Ok(())
    }
}

impl<'de> Elements<'de> for SearchedAttributes<'de, '_, '_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        let mut attribute = KeyValue::default();
        Object(&mut attribute).deserialize(element)?;
        let KeyValue { key, value } = attribute;
        match key.0.as_ref() {
            "service.name" => self.service = value.into_text(),
            "kind" => self.kind = Kind::of_name(value.into_text().as_bytes()),
            "status" => self.status = Status::of_name(value.into_text().as_bytes()),
            "span:parentID" => self.parent_id = value.into_text(),
            key => {
                let noted = note(self.builder, None, key, &value);
                self.builder.kept.or_stop(noted)?;
            }
        }
        Ok(())
    }
}
