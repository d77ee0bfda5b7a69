//! The part of a search answer that tells traces, and nothing else: spans are read over.

use std::sync::Arc;

use serde::{
    Deserializer,
    de::{DeserializeSeed as _, MapAccess},
};

use super::{
    DecodeError, ServiceCounts, TraceSummary,
    answer::{self, Told},
    by_service,
    json::{Elements, Members, Object, Text, ignore},
    kept::Kept,
    messages::SearchMetrics,
    reader::Fields,
};

/// Traces, and what the search cost.
pub(super) type Found = (Vec<TraceSummary>, SearchMetrics);

/// Services of the trace that is being read; emptied for the next one, so that each is stored at its own size.
type Services = Vec<(Arc<str>, ServiceCounts)>;

/// Reads an answer in protobuf.
pub(super) fn protobuf(body: &[u8], kept: &mut Kept) -> Result<Found, DecodeError> {
    let mut traces = Vec::new();
    let mut services = Services::new();
    let metrics = answer::protobuf(body, |trace| {
        kept.take_trace::<TraceSummary>()?;
        let mut told = Told::default();
        for field in Fields::of(trace) {
            match field? {
                (8, value) => services.push(service_protobuf(value.bytes()?, kept)?),
                (number, value) => told.field(number, value)?,
            }
        }
        traces.push(told.trace(by_service(&mut services), kept)?);
        Ok(())
    })?;
    Ok((traces, metrics))
}

/// An entry of the map that tells services.
fn service_protobuf(
    message: &[u8],
    kept: &mut Kept,
) -> Result<(Arc<str>, ServiceCounts), DecodeError> {
    let mut service = &[][..];
    let mut counts = ServiceCounts {
        spans: 0,
        errors: 0,
    };
    for field in Fields::of(message) {
        match field? {
            (1, value) => service = value.bytes()?,
            (2, stats) => {
                for field in Fields::of(stats.bytes()?) {
                    match field? {
                        (1, value) => counts.spans = value.small_number()?,
                        (2, value) => counts.errors = value.small_number()?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    kept.take_for::<(Arc<str>, ServiceCounts)>()?;
    Ok((kept.name(service)?, counts))
}

/// Reads an answer in JSON.
pub(super) fn json(body: &[u8], kept: &mut Kept) -> Result<Found, DecodeError> {
    let mut traces = Traces {
        found: Vec::new(),
        services: Services::new(),
        kept,
    };
    let read = answer::json(body, &mut traces);
    let metrics = read.map_err(|stopped| traces.kept.why(stopped))?;
    Ok((traces.found, metrics.ok_or(DecodeError::NoMetrics)?))
}

struct Traces<'k> {
    found: Vec<TraceSummary>,
    services: Services,
    kept: &'k mut Kept,
}

impl<'de> Elements<'de> for Traces<'_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        let room = self.kept.take_trace::<TraceSummary>();
        self.kept.or_stop(room)?;
        let mut trace = Trace {
            told: Told::default(),
            services: ServicesOf {
                services: &mut self.services,
                kept: self.kept,
            },
        };
        Object(&mut trace).deserialize(element)?;
        let told = trace.told;
        let trace = told.trace(by_service(&mut self.services), self.kept);
        self.found.push(self.kept.or_stop(trace)?);
        Ok(())
    }
}

struct Trace<'t, 'de> {
    told: Told<Text<'de>>,
    services: ServicesOf<'t>,
}

impl<'de> Members<'de> for Trace<'_, 'de> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "serviceStats" => value.next_value_seed(Object(&mut self.services)).map(drop),
            name => self.told.member(name, value),
        }
    }
}

struct ServicesOf<'t> {
    services: &'t mut Services,
    kept: &'t mut Kept,
}

impl<'de> Members<'de> for ServicesOf<'_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        let mut counts = ServiceCounts {
            spans: 0,
            errors: 0,
        };
        value.next_value_seed(Object(&mut counts))?;
        let kept = &mut *self.kept;
        let taken = kept.take_for::<(Arc<str>, ServiceCounts)>();
        let service = taken.and_then(|()| kept.name(name.as_bytes()));
        self.services.push((kept.or_stop(service)?, counts));
        Ok(())
    }
}

impl<'de> Members<'de> for ServiceCounts {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "spanCount" => self.spans = value.next_value()?,
            "errorCount" => self.errors = value.next_value()?,
            _ => ignore(value)?,
        }
        Ok(())
    }
}
