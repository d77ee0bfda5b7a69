//! A search answer, but for what is wanted of each trace beside its summary: services are read by [`summaries`], spans by [`spans`].
//!
//! An answer is taken apart trace by trace, out of the bytes that came.
//!
//! [`summaries`]: super::summaries
//! [`spans`]: super::spans

use prost::Message as _;
use serde::de::MapAccess;

use super::{
    DecodeError, ROOT_NOT_RECEIVED, Services, TraceSummary,
    json::{self, Each, Elements, Members, Number, Object, Text, ignore},
    kept::Kept,
    messages::SearchMetrics,
    nanoseconds, parse_trace_id,
    reader::{Fields, Malformed, Value},
};

/// Reads an answer in protobuf, trace by trace, and returns what the search cost.
pub(super) fn protobuf<'a>(
    body: &'a [u8],
    mut trace: impl FnMut(&'a [u8]) -> Result<(), DecodeError>,
) -> Result<SearchMetrics, DecodeError> {
    let mut metrics = None;
    for field in Fields::of(body) {
        match field? {
            (1, value) => trace(value.bytes()?)?,
            (2, value) => metrics = Some(SearchMetrics::decode(value.bytes()?)?),
            _ => {}
        }
    }
    metrics.ok_or(DecodeError::NoMetrics)
}

/// Reads an answer in JSON, whose traces go to `traces`, and returns what the search cost, if the answer is whole.
pub(super) fn json<'a>(
    body: &'a [u8],
    traces: &mut impl Elements<'a>,
) -> serde_json::Result<Option<SearchMetrics>> {
    let mut answer = Answer {
        traces,
        metrics: None,
    };
    json::read(body, &mut answer)?;
    Ok(answer.metrics)
}

struct Answer<'t, T> {
    traces: &'t mut T,
    metrics: Option<SearchMetrics>,
}

impl<'de, T: Elements<'de>> Members<'de> for Answer<'_, T> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "traces" => value.next_value_seed(Each(&mut *self.traces)),
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

/// What a search tells of every trace, as it stands in the answer.
#[derive(Default)]
pub(super) struct Told<T> {
    trace_id: T,
    root_service: T,
    root_name: T,
    start: u64,
    duration_ms: u32,
}

impl<T: AsRef<[u8]>> Told<T> {
    /// The trace of these services.
    pub(super) fn trace(
        &self,
        services: Option<Box<Services>>,
        kept: &mut Kept,
    ) -> Result<TraceSummary, DecodeError> {
        let (service, name) = (self.root_service.as_ref(), self.root_name.as_ref());
        let rooted =
            service != ROOT_NOT_RECEIVED.as_bytes() && !(service.is_empty() && name.is_empty());
        let mut kept_if = |is_told: bool, text| is_told.then(|| kept.name(text)).transpose();
        Ok(TraceSummary {
            trace_id: trace_id_of(self.trace_id.as_ref())?,
            start_ns: nanoseconds(self.start),
            duration_ms: self.duration_ms,
            root_service: kept_if(rooted, service)?,
            root_name: kept_if(rooted && !name.is_empty(), name)?,
            services,
        })
    }
}

fn trace_id_of(text: &[u8]) -> Result<[u8; 16], DecodeError> {
    let text = String::from_utf8_lossy(text);
    parse_trace_id(&text).ok_or_else(|| DecodeError::TraceId(text.chars().take(64).collect()))
}

impl<'a> Told<&'a [u8]> {
    /// Takes a field of the trace's message, if it is one of these.
    pub(super) fn field(&mut self, number: u64, value: Value<'a>) -> Result<(), Malformed> {
        match number {
            1 => self.trace_id = value.bytes()?,
            2 => self.root_service = value.bytes()?,
            3 => self.root_name = value.bytes()?,
            4 => self.start = value.number()?,
            5 => self.duration_ms = value.small_number()?,
            _ => {}
        }
        Ok(())
    }
}

impl<'de> Members<'de> for Told<Text<'de>> {
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
