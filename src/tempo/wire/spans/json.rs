//! Spans in JSON, which comes where something on the way does not pass on what is accepted.

use std::{borrow::Cow, fmt, fmt::Write as _, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    Builder, DEEPEST, Kind, List, NIL, Otlp, Scope, Span, Status, TraceSpans, duration_ns,
    nanoseconds, otlp_span, parent, span_id, write_double, write_text,
};
use crate::tempo::wire::{
    DecodeError, SearchBody, TraceSummary,
    json::{self, Each, Elements, Members, Number, Object, Text, ignore},
    kept::Kept,
    messages::SearchMetrics,
    summaries::Told,
};

/// The longest text that an ID is read from.
const LONGEST_ID: usize = 64;

/// A search answer, its spans as they come.
pub(super) fn search(body: &[u8], builder: &mut Builder<'_>) -> Result<SearchBody, DecodeError> {
    let mut answer = Answer {
        traces: Traces {
            summaries: Vec::new(),
            spans: Vec::new(),
            builder,
        },
        metrics: None,
    };
    let read = json::read(body, &mut answer);
    let Answer { traces, metrics } = answer;
    read.map_err(|stopped| traces.builder.kept.why(stopped))?;
    Ok(SearchBody {
        traces: traces.summaries,
        spans: Some(traces.spans),
        ..SearchBody::at_cost(metrics.ok_or(DecodeError::NoMetrics)?)
    })
}

struct Answer<'b, 'w> {
    traces: Traces<'b, 'w>,
    metrics: Option<SearchMetrics>,
}

struct Traces<'b, 'w> {
    summaries: Vec<TraceSummary>,
    spans: Vec<TraceSpans>,
    builder: &'b mut Builder<'w>,
}

impl<'de> Members<'de> for Answer<'_, '_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "traces" => value.next_value_seed(Each(&mut self.traces)),
            "metrics" => {
                let mut metrics = SearchMetrics::default();
                let is_there = value.next_value_seed(Object(&mut metrics))?;
                self.metrics = is_there.then_some(metrics);
                Ok(())
            }
            _ => ignore(value),
        }
    }
}

/// The value, or the reader of JSON stops, and this is why.
fn or_stop<T, E: de::Error>(kept: &mut Kept, read: Result<T, DecodeError>) -> Result<T, E> {
    read.map_err(|wrong| kept.stop(wrong))
}

impl<'de> Elements<'de> for Traces<'_, '_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        let kept = &mut self.builder.kept;
        let room = kept.take_trace::<(TraceSummary, TraceSpans)>();
        or_stop(kept, room)?;
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
        let summary = or_stop(kept, summary)?;
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
    told: Told<'de>,
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
        or_stop(&mut self.builder.kept, room)?;
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
        self.spans.push(or_stop(&mut self.builder.kept, read)?);
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
                or_stop(&mut self.builder.kept, noted)?;
            }
        }
        Ok(())
    }
}

fn note(
    builder: &mut Builder<'_>,
    scope: Option<Scope>,
    key: &str,
    value: &Any<'_>,
) -> Result<(), DecodeError> {
    if let Some(place) = builder.place(scope, key.as_bytes()) {
        place.clear();
        value.write(place, 0)?;
    }
    Ok(())
}

/// An OpenTelemetry attribute.
#[derive(Default)]
struct KeyValue<'a> {
    key: Text<'a>,
    value: Any<'a>,
}

impl<'de> Members<'de> for KeyValue<'de> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "key" => self.key = value.next_value()?,
            "value" => {
                let mut any = AnyOf::at(0);
                value.next_value_seed(Object(&mut any))?;
                self.value = any.value;
            }
            _ => ignore(value)?,
        }
        Ok(())
    }
}

/// A value of one of OpenTelemetry's types.
#[derive(Default)]
enum Any<'a> {
    #[default]
    None,
    Text(Cow<'a, str>),
    Bool(bool),
    Int(i64),
    Double(f64),
    /// As it is stored, but for its brackets: these depend on how many elements it has.
    List(Elementwise),
}

impl<'a> Any<'a> {
    /// The text that it is; empty if it is something else.
    fn into_text(self) -> Cow<'a, str> {
        match self {
            Self::Text(text) => text,
            _ => Cow::default(),
        }
    }

    fn write(&self, json: &mut String, depth: u8) -> Result<(), DecodeError> {
        match self {
            Self::None => {}
            Self::Text(text) => {
                if depth > 0 || text.as_bytes() != NIL {
                    write_text(json, text.as_bytes())?;
                }
            }
            Self::Bool(value) => json.push_str(if *value { "true" } else { "false" }),
            Self::Int(number) => {
                let _ = write!(json, "{number}");
            }
            Self::Double(number) => write_double(json, *number),
            Self::List(list) => list.write(json, depth),
        }
        Ok(())
    }
}

/// The elements of a list, written one after the other.
#[derive(Default)]
struct Elementwise {
    json: String,
    elements: usize,
}

impl Elementwise {
    fn write(&self, json: &mut String, depth: u8) {
        let mut list = List::begin(json);
        json.push_str(&self.json);
        list.add(self.elements);
        list.end(json, depth);
    }
}

/// A value that is read at this depth.
struct AnyOf<'a> {
    value: Any<'a>,
    depth: u8,
}

impl AnyOf<'_> {
    fn at(depth: u8) -> Self {
        Self {
            value: Any::None,
            depth,
        }
    }
}

impl<'de> Members<'de> for AnyOf<'de> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        let any = match name {
            "stringValue" => value
                .next_value::<Option<Text<'de>>>()?
                .map(|text| Any::Text(text.0)),
            "boolValue" => value.next_value::<Option<bool>>()?.map(Any::Bool),
            "intValue" => value.next_value::<Figure>()?.int(),
            "doubleValue" => value.next_value::<Figure>()?.double(),
            "arrayValue" if self.depth < DEEPEST => {
                let mut array = Array(ArrayOf {
                    list: Elementwise::default(),
                    depth: self.depth + 1,
                });
                let is_there = value.next_value_seed(Object(&mut array))?;
                is_there.then_some(Any::List(array.0.list))
            }
            _ => return ignore(value),
        };
        if let Some(any) = any {
            self.value = any;
        }
        Ok(())
    }
}

struct Array(ArrayOf);

struct ArrayOf {
    list: Elementwise,
    /// Of the elements.
    depth: u8,
}

impl<'de> Members<'de> for Array {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "values" => value.next_value_seed(Each(&mut self.0)),
            _ => ignore(value),
        }
    }
}

impl<'de> Elements<'de> for ArrayOf {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        let mut any = AnyOf::at(self.depth);
        Object(&mut any).deserialize(element)?;
        let list = &mut self.list;
        if list.elements > 0 {
            list.json.push(',');
        }
        list.elements += 1;
        let before = list.json.len();
        any.value
            .write(&mut list.json, self.depth)
            .map_err(de::Error::custom)?;
        if list.json.len() == before {
            list.json.push_str("null");
        }
        Ok(())
    }
}

/// A number as JSON carries it: itself, or a text that is one. What is not finite comes as text.
enum Figure {
    Whole(i64),
    Large(u64),
    Double(f64),
    /// Not an integer that fits, and what it is as a number.
    Text(Option<i64>, f64),
    Absent,
}

impl Figure {
    fn int<'a>(self) -> Option<Any<'a>> {
        match self {
            Self::Whole(number) | Self::Text(Some(number), _) => Some(Any::Int(number)),
            _ => None,
        }
    }

    fn double<'a>(self) -> Option<Any<'a>> {
        match self {
            Self::Whole(number) => Some(Any::Double(number as f64)),
            Self::Large(number) => Some(Any::Double(number as f64)),
            Self::Double(number) | Self::Text(_, number) => Some(Any::Double(number)),
            Self::Absent => None,
        }
    }
}

impl<'de> Deserialize<'de> for Figure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Figure;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a text that is one")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Figure, E> {
                Ok(Figure::Whole(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Figure, E> {
                Ok(i64::try_from(number).map_or(Figure::Large(number), Figure::Whole))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Figure, E> {
                Ok(Figure::Double(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Figure, E> {
                Ok(Figure::Text(
                    text.parse().ok(),
                    text.parse().unwrap_or(f64::NAN),
                ))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Figure, E> {
                Ok(Figure::Absent)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The spans of an answer to a look-up, and whether they are part of what there is.
pub(super) fn trace_by_id(
    body: &[u8],
    builder: &mut Builder<'_>,
) -> Result<(Vec<Span>, bool), DecodeError> {
    let mut answer = TraceById {
        partial: false,
        is_whole: false,
        resources: Resources {
            spans: Vec::new(),
            builder,
        },
    };
    let read = json::read(body, &mut answer);
    let TraceById {
        partial,
        is_whole,
        resources,
    } = answer;
    read.map_err(|stopped| resources.builder.kept.why(stopped))?;
    match is_whole {
        true => Ok((resources.spans, partial)),
        false => Err(DecodeError::NoMetrics),
    }
}

struct TraceById<'b, 'w> {
    partial: bool,
    is_whole: bool,
    resources: Resources<'b, 'w>,
}

/// The spans of all services.
struct Resources<'b, 'w> {
    spans: Vec<Span>,
    builder: &'b mut Builder<'w>,
}

impl<'de> Members<'de> for TraceById<'_, '_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "trace" => value.next_value_seed(Object(&mut self.resources)).map(drop),
            "metrics" => {
                let mut metrics = SearchMetrics::default();
                self.is_whole = value.next_value_seed(Object(&mut metrics))?;
                Ok(())
            }
            "status" => {
                self.partial = match value.next_value()? {
                    Some(Named::Number(number)) => number == 1,
                    Some(Named::Name(name)) => name.0 == "PARTIAL",
                    None => false,
                };
                Ok(())
            }
            _ => ignore(value),
        }
    }
}

impl<'de> Members<'de> for Resources<'_, '_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "resourceSpans" | "batches" => value.next_value_seed(Each(self)),
            _ => ignore(value),
        }
    }
}

impl<'de> Elements<'de> for Resources<'_, '_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        self.builder.clear(None);
        let mut resource = Resource {
            service: None,
            scope_spans: None,
            builder: self.builder,
        };
        Object(&mut resource).deserialize(element)?;
        let Resource {
            service,
            scope_spans,
            ..
        } = resource;
        // Whatever the order of the members, the service is known now.
        if let Some(scopes) = scope_spans {
            let mut reader = serde_json::Deserializer::from_str(scopes.get());
            let mut scopes = Scopes {
                service,
                spans: &mut self.spans,
                builder: self.builder,
            };
            let read = Each(&mut scopes).deserialize(&mut reader);
            if let Err(stopped) = read {
                let wrong = self.builder.kept.why(stopped);
                return Err(self.builder.kept.stop(wrong));
            }
        }
        Ok(())
    }
}

/// What sent spans, and these, unread.
struct Resource<'de, 'b, 'w> {
    service: Option<Arc<str>>,
    scope_spans: Option<&'de RawValue>,
    builder: &'b mut Builder<'w>,
}

impl<'de> Members<'de> for Resource<'de, '_, '_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "resource" => value
                .next_value_seed(Object(&mut ResourceAttributes(self)))
                .map(drop),
            "scopeSpans" => {
                self.scope_spans = Some(value.next_value()?);
                Ok(())
            }
            _ => ignore(value),
        }
    }
}

struct ResourceAttributes<'r, 'de, 'b, 'w>(&'r mut Resource<'de, 'b, 'w>);

impl<'de> Members<'de> for ResourceAttributes<'_, 'de, '_, '_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "attributes" => value.next_value_seed(Each(self)),
            _ => ignore(value),
        }
    }
}

impl<'de> Elements<'de> for ResourceAttributes<'_, 'de, '_, '_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        let mut attribute = KeyValue::default();
        Object(&mut attribute).deserialize(element)?;
        let builder = &mut *self.0.builder;
        let key = attribute.key.0.as_ref();
        let noted = note(builder, Some(Scope::Resource), key, &attribute.value);
        or_stop(&mut builder.kept, noted)?;
        if key == "service.name" {
            let service = builder.service(attribute.value.into_text().as_bytes());
            self.0.service = or_stop(&mut builder.kept, service)?;
        }
        Ok(())
    }
}

/// The spans of one service, by instrumentation library.
struct Scopes<'s, 'w> {
    service: Option<Arc<str>>,
    spans: &'s mut Vec<Span>,
    builder: &'s mut Builder<'w>,
}

impl<'de> Elements<'de> for Scopes<'_, '_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        Object(self).deserialize(element).map(drop)
    }
}

impl<'de> Members<'de> for Scopes<'_, '_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "spans" => value.next_value_seed(Each(&mut OtlpSpans(self))),
            _ => ignore(value),
        }
    }
}

struct OtlpSpans<'a, 's, 'w>(&'a mut Scopes<'s, 'w>);

impl<'de> Elements<'de> for OtlpSpans<'_, '_, '_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        let of = &mut *self.0;
        let room = of.builder.kept.take_for::<Span>();
        or_stop(&mut of.builder.kept, room)?;
        of.builder.clear(Some(Scope::Span));
        let mut span = OtlpSpan {
            id: Text::default(),
            parent_id: Text::default(),
            name: Text::default(),
            kind: Kind::default(),
            status: Status::default(),
            start: 0,
            end: 0,
            builder: of.builder,
        };
        Object(&mut span).deserialize(element)?;
        let read = span.read(of.service.clone());
        of.spans.push(or_stop(&mut of.builder.kept, read)?);
        Ok(())
    }
}

struct OtlpSpan<'de, 's, 'w> {
    id: Text<'de>,
    parent_id: Text<'de>,
    name: Text<'de>,
    kind: Kind,
    status: Status,
    start: u64,
    end: u64,
    builder: &'s mut Builder<'w>,
}

impl OtlpSpan<'_, '_, '_> {
    fn read(self, service: Option<Arc<str>>) -> Result<Span, DecodeError> {
        let bytes = |text: &Text<'_>| {
            let decoded = match text.0.len() {
                0..=LONGEST_ID => BASE64_STANDARD.decode(text.bytes()).ok(),
                _ => None,
            };
            decoded.ok_or_else(|| DecodeError::SpanId(text.0.chars().take(LONGEST_ID).collect()))
        };
        let otlp = Otlp {
            id: &bytes(&self.id)?,
            parent_id: &bytes(&self.parent_id)?,
            name: self.name.bytes(),
            kind: self.kind,
            status: self.status,
            start: self.start,
            end: self.end,
        };
        otlp_span(self.builder, service, otlp)
    }
}

impl<'de> Members<'de> for OtlpSpan<'de, '_, '_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "spanId" => self.id = value.next_value()?,
            "parentSpanId" => self.parent_id = value.next_value()?,
            "name" => self.name = value.next_value()?,
            "kind" => {
                let named = value.next_value::<Option<Named<'de>>>()?;
                self.kind = named.map_or_else(Kind::default, |named| named.kind());
            }
            "startTimeUnixNano" => self.start = value.next_value::<Number>()?.0,
            "endTimeUnixNano" => self.end = value.next_value::<Number>()?.0,
            "attributes" => value.next_value_seed(Each(&mut OtlpAttributes(self.builder)))?,
            "status" => {
                value.next_value_seed(Object(&mut Outcome(&mut self.status)))?;
            }
            _ => ignore(value)?,
        }
        Ok(())
    }
}

struct OtlpAttributes<'b, 'w>(&'b mut Builder<'w>);

impl<'de> Elements<'de> for OtlpAttributes<'_, '_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        let mut attribute = KeyValue::default();
        Object(&mut attribute).deserialize(element)?;
        let noted = note(
            self.0,
            Some(Scope::Span),
            &attribute.key.0,
            &attribute.value,
        );
        or_stop(&mut self.0.kept, noted)
    }
}

struct Outcome<'s>(&'s mut Status);

impl<'de> Members<'de> for Outcome<'_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "code" => {
                let named = value.next_value::<Option<Named<'de>>>()?;
                *self.0 = named.map_or_else(Status::default, |named| named.status());
                Ok(())
            }
            _ => ignore(value),
        }
    }
}

/// A value of an enum, by its name or by its number.
enum Named<'a> {
    Number(u64),
    Name(Text<'a>),
}

impl Named<'_> {
    fn kind(&self) -> Kind {
        match self {
            Self::Number(number) => Kind::of_number(*number),
            Self::Name(name) => {
                let name = name.0.trim_start_matches("SPAN_KIND_").to_ascii_lowercase();
                Kind::of_name(name.as_bytes())
            }
        }
    }

    fn status(&self) -> Status {
        match self {
            Self::Number(number) => Status::of_number(*number),
            Self::Name(name) => {
                let name = name
                    .0
                    .trim_start_matches("STATUS_CODE_")
                    .to_ascii_lowercase();
                Status::of_name(name.as_bytes())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Named<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Named<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a number")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Named<'de>, E> {
                Ok(Named::Number(number))
            }

            fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Named<'de>, E> {
                Ok(Named::Name(Text(Cow::Borrowed(name))))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Named<'de>, E> {
                Ok(Named::Name(Text(Cow::Owned(name.to_owned()))))
            }
        }
        deserializer.deserialize_any(Either)
    }
}
