//! The part of a search answer that tells traces, and nothing else: spans are read over.
//!
//! An answer is taken apart trace by trace, out of the bytes that came.

use std::sync::Arc;

use prost::Message as _;
use serde::{
    Deserializer,
    de::{DeserializeSeed as _, MapAccess},
};

use super::{
    DecodeError, ServiceCounts, TraceSummary, by_service,
    json::{Each, Elements, Members, Number, Object, Text, ignore},
    kept::Kept,
    messages::SearchMetrics,
    reader::{Fields, Value},
    rooted, start_ns_of, trace_id_of,
};

/// Traces, and what the search cost.
pub(super) type Found = (Vec<TraceSummary>, SearchMetrics);

/// Services of the trace that is being read; emptied for the next one, so that each is stored at its own size.
type Services = Vec<(Arc<str>, ServiceCounts)>;

/// Reads an answer in protobuf.
pub(super) fn protobuf(body: &[u8], kept: &mut Kept) -> Result<Found, DecodeError> {
    let mut traces = Vec::new();
    let mut metrics = None;
    let mut services = Services::new();
    for field in Fields::of(body) {
        match field? {
            (1, trace) => {
                kept.take_trace::<TraceSummary>()?;
                traces.push(trace_protobuf(trace.bytes()?, kept, &mut services)?);
            }
            (2, value) => metrics = Some(SearchMetrics::decode(value.bytes()?)?),
            _ => {}
        }
    }
    Ok((traces, metrics.ok_or(DecodeError::NoMetrics)?))
}

fn trace_protobuf(
    message: &[u8],
    kept: &mut Kept,
    services: &mut Services,
) -> Result<TraceSummary, DecodeError> {
    let (mut trace_id, mut root_service, mut root_name) = (&[][..], &[][..], &[][..]);
    let (mut start, mut duration_ms) = (0, 0);
    for field in Fields::of(message) {
        match field? {
            (1, value) => trace_id = value.bytes()?,
            (2, value) => root_service = value.bytes()?,
            (3, value) => root_name = value.bytes()?,
            (4, value) => start = value.number()?,
            (5, value) => duration_ms = value.small_number()?,
            (8, value) => services.push(service_protobuf(value.bytes()?, kept)?),
            _ => {}
        }
    }
    Ok(TraceSummary {
        trace_id: trace_id_of(trace_id)?,
        start_ns: start_ns_of(start),
        duration_ms,
        services: by_service(services),
        ..rooted(kept, root_service, root_name)?
    })
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

impl Value<'_> {
    /// A number of 32 bits; the greatest there is for what is greater.
    pub(super) fn small_number(self) -> Result<u32, super::reader::Malformed> {
        Ok(u32::try_from(self.number()?).unwrap_or(u32::MAX))
    }
}

/// Reads an answer in JSON.
pub(super) fn json(body: &[u8], kept: &mut Kept) -> Result<Found, DecodeError> {
    let mut answer = Answer {
        traces: Traces {
            found: Vec::new(),
            services: Services::new(),
            kept,
        },
        metrics: None,
    };
    let read = super::json::read(body, &mut answer);
    let Answer { traces, metrics } = answer;
    read.map_err(|stopped| traces.kept.why(stopped))?;
    Ok((traces.found, metrics.ok_or(DecodeError::NoMetrics)?))
}

struct Answer<'k> {
    traces: Traces<'k>,
    metrics: Option<SearchMetrics>,
}

struct Traces<'k> {
    found: Vec<TraceSummary>,
    services: Services,
    kept: &'k mut Kept,
}

impl<'de> Members<'de> for Answer<'_> {
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

impl<'de> Elements<'de> for Traces<'_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        if let Err(wrong) = self.kept.take_trace::<TraceSummary>() {
            return Err(self.kept.stop(wrong));
        }
        let mut told = Told::default();
        Object(&mut Trace {
            told: &mut told,
            services: ServicesOf {
                services: &mut self.services,
                kept: self.kept,
            },
        })
        .deserialize(element)?;
        let trace = told.trace(by_service(&mut self.services), self.kept);
        self.found
            .push(trace.map_err(|wrong| self.kept.stop(wrong))?);
        Ok(())
    }
}

/// What a search tells of each trace, as it stands in JSON.
#[derive(Default)]
pub(super) struct Told<'a> {
    trace_id: Text<'a>,
    root_service: Text<'a>,
    root_name: Text<'a>,
    start: u64,
    duration_ms: u32,
}

impl<'de> Told<'de> {
    pub(super) fn trace(
        &self,
        services: Option<Box<super::Services>>,
        kept: &mut Kept,
    ) -> Result<TraceSummary, DecodeError> {
        Ok(TraceSummary {
            trace_id: trace_id_of(self.trace_id.bytes())?,
            start_ns: start_ns_of(self.start),
            duration_ms: self.duration_ms,
            services,
            ..rooted(kept, self.root_service.bytes(), self.root_name.bytes())?
        })
    }
}

impl<'de> Members<'de> for Told<'de> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "traceID" => self.trace_id = value.next_value()?,
            "rootServiceName" => self.root_service = value.next_value()?,
            "rootTraceName" => self.root_name = value.next_value()?,
            "startTimeUnixNano" => self.start = value.next_value::<Number>()?.0,
            "durationMs" => self.duration_ms = value.next_value()?,
            _ => ignore(value)?,
        }
        Ok(())
    }
}

struct Trace<'t, 'de> {
    told: &'t mut Told<'de>,
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
        let service = service.map_err(|wrong| kept.stop(wrong))?;
        self.services.push((service, counts));
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

impl<'de> Members<'de> for SearchMetrics {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "inspectedBytes" => self.inspected_bytes = value.next_value::<Number>()?.0,
            "completedJobs" => self.completed_jobs = value.next_value()?,
            "totalJobs" => self.total_jobs = value.next_value()?,
            _ => ignore(value)?,
        }
        Ok(())
    }
}
