//! Spans as a look-up by ID brings them, in OpenTelemetry's own form.

use std::{borrow::Cow, fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::attribute::{KeyValue, note};
use crate::tempo::wire::{
    DecodeError,
    json::{self, Each, Elements, Members, Number, Object, Text, ignore},
    messages::SearchMetrics,
    spans::{Builder, Kind, Otlp, Scope, Span, Status, otlp_span},
};

/// The longest text that an ID is read from.
const LONGEST_ID: usize = 64;

/// The spans of an answer to a look-up, and whether they are part of what there is.
pub(in super::super) fn trace_by_id(
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
            let kept = &mut self.builder.kept;
            let read = read.map_err(|stopped| kept.why(stopped));
            kept.or_stop(read)?;
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
        builder.kept.or_stop(noted)?;
        if key == "service.name" {
            let service = builder.service(attribute.value.into_text().as_bytes());
            self.0.service = builder.kept.or_stop(service)?;
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
        of.builder.kept.or_stop(room)?;
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
        of.spans.push(of.builder.kept.or_stop(read)?);
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
        self.0.kept.or_stop(noted)
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
