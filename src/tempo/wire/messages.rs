//! Tempo's protobuf messages, field by field, as both ends of the wire need them.
//!
//! Written by derive instead of generated, so that building needs no `protoc`. Only the fields this project reads or writes are
//! declared: protobuf skips the rest. The client decodes with these and the simulator encodes with them; what an answer *means* is
//! left to the client, and the JSON form of the same answers to each side's own reader and writer.
//!
//! Field numbers: `pkg/tempopb/tempo.proto` of Tempo 2.10 and 3.0 (equal in both), and OpenTelemetry's `trace.proto` and
//! `common.proto` for what is nested in a trace.

use std::collections::BTreeMap;

/// Answer of `GET /api/search`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SearchResponse {
    /// The traces found, newest start first. A cut answer carries no flag: it has exactly `limit` of them.
    #[prost(message, repeated, tag = "1")]
    pub traces: Vec<TraceSearchMetadata>,
    /// What the search cost Tempo.
    #[prost(message, optional, tag = "2")]
    pub metrics: Option<SearchMetrics>,
}

/// One trace of a search answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TraceSearchMetadata {
    /// Hex, **without leading zeros**.
    #[prost(string, tag = "1")]
    pub trace_id: String,
    /// `<root span not yet received>` while the root is missing.
    #[prost(string, tag = "2")]
    pub root_service_name: String,
    /// Empty while the root is missing.
    #[prost(string, tag = "3")]
    pub root_trace_name: String,
    /// Earliest start of any fragment, in nanoseconds since 1970.
    #[prost(uint64, tag = "4")]
    pub start_time_unix_nano: u64,
    /// Duration of the longest fragment, truncated to whole milliseconds.
    #[prost(uint32, tag = "5")]
    pub duration_ms: u32,
    /// The first of `span_sets` once more; deprecated by Tempo, sent nevertheless.
    #[prost(message, optional, tag = "6")]
    pub span_set: Option<SpanSet>,
    /// Matching spans; absent from a search without a query.
    #[prost(message, repeated, tag = "7")]
    pub span_sets: Vec<SpanSet>,
    /// Spans and errors of the whole trace by service; absent from a search without a query.
    #[prost(btree_map = "string, message", tag = "8")]
    pub service_stats: BTreeMap<String, ServiceStats>,
}

/// Spans and errors of one service in one trace.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ServiceStats {
    /// Spans of this service, in the fragment that has most.
    #[prost(uint32, tag = "1")]
    pub span_count: u32,
    /// Spans of this service with status error, in the fragment that has most.
    #[prost(uint32, tag = "2")]
    pub error_count: u32,
}

/// Spans of a trace that matched a query together.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpanSet {
    /// At most `spss` of the spans that matched.
    #[prost(message, repeated, tag = "1")]
    pub spans: Vec<Span>,
    /// How many spans matched.
    #[prost(uint32, tag = "2")]
    pub matched: u32,
    /// What the set as a whole was grouped by or counted.
    #[prost(message, repeated, tag = "3")]
    pub attributes: Vec<KeyValue>,
}

/// A span in a search answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Span {
    /// 16 hex digits; other than a trace's, it keeps its leading zeros.
    #[prost(string, tag = "1")]
    pub span_id: String,
    /// Present only when the query mentions the name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Nanoseconds since 1970.
    #[prost(uint64, tag = "3")]
    pub start_time_unix_nano: u64,
    /// Duration in nanoseconds.
    #[prost(uint64, tag = "4")]
    pub duration_nanos: u64,
    /// The attributes that the query mentions, in no particular order.
    #[prost(message, repeated, tag = "5")]
    pub attributes: Vec<KeyValue>,
}

/// What a search cost Tempo. All zero, and so empty, when no block overlapped the window.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SearchMetrics {
    /// Traces looked at.
    #[prost(uint32, tag = "1")]
    pub inspected_traces: u32,
    /// Bytes read.
    #[prost(uint64, tag = "2")]
    pub inspected_bytes: u64,
    /// Blocks that overlap the window.
    #[prost(uint32, tag = "3")]
    pub total_blocks: u32,
    /// Jobs that were done; fewer than `total_jobs` shows an early stop.
    #[prost(uint32, tag = "4")]
    pub completed_jobs: u32,
    /// Jobs the search was cut into.
    #[prost(uint32, tag = "5")]
    pub total_jobs: u32,
    /// Size of those blocks.
    #[prost(uint64, tag = "6")]
    pub total_block_bytes: u64,
    /// Spans looked at.
    #[prost(uint64, tag = "7")]
    pub inspected_spans: u64,
}

/// Answer of `GET /api/v2/traces/{id}`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TraceByIdResponse {
    /// Empty for an unknown ID.
    #[prost(message, optional, tag = "1")]
    pub trace: Option<otlp::TracesData>,
    /// What the look-up cost.
    #[prost(message, optional, tag = "2")]
    pub metrics: Option<TraceByIdMetrics>,
    /// [`TraceByIdResponse::COMPLETE`] or [`TraceByIdResponse::PARTIAL`].
    #[prost(int32, tag = "3")]
    pub status: i32,
    /// Why the trace is partial.
    #[prost(string, tag = "4")]
    pub message: String,
}

impl TraceByIdResponse {
    /// `status` of a trace that is whole.
    pub const COMPLETE: i32 = 0;
    /// `status` of a trace that is larger than Tempo would return; for such a trace it stays so.
    pub const PARTIAL: i32 = 1;
}

/// What a look-up by ID cost Tempo.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct TraceByIdMetrics {
    /// Bytes read.
    #[prost(uint64, tag = "1")]
    pub inspected_bytes: u64,
}

/// A named value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// Name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// A value of one of OpenTelemetry's types; lists and maps are not read here.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    /// The value; `None` for a null and for the types not read here.
    #[prost(oneof = "any_value::Value", tags = "1, 2, 3, 4")]
    pub value: Option<any_value::Value>,
}

/// The types of an [`AnyValue`].
pub mod any_value {
    /// One value.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Value {
        /// Text.
        #[prost(string, tag = "1")]
        String(String),
        /// A truth value.
        #[prost(bool, tag = "2")]
        Bool(bool),
        /// A whole number.
        #[prost(int64, tag = "3")]
        Int(i64),
        /// A number.
        #[prost(double, tag = "4")]
        Double(f64),
    }
}

/// OpenTelemetry's own messages, in which whole traces come.
pub mod otlp {
    use super::KeyValue;

    /// A trace.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TracesData {
        /// Its spans by the service that sent them.
        #[prost(message, repeated, tag = "1")]
        pub resource_spans: Vec<ResourceSpans>,
    }

    /// The spans of one service.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ResourceSpans {
        /// The service.
        #[prost(message, optional, tag = "1")]
        pub resource: Option<Resource>,
        /// Its spans by instrumentation library.
        #[prost(message, repeated, tag = "2")]
        pub scope_spans: Vec<ScopeSpans>,
    }

    /// What sent the spans.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Resource {
        /// `service.name` and others.
        #[prost(message, repeated, tag = "1")]
        pub attributes: Vec<KeyValue>,
    }

    /// The spans of one instrumentation library.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ScopeSpans {
        /// The library.
        #[prost(message, optional, tag = "1")]
        pub scope: Option<InstrumentationScope>,
        /// The spans.
        #[prost(message, repeated, tag = "2")]
        pub spans: Vec<Span>,
    }

    /// An instrumentation library.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct InstrumentationScope {
        /// Name.
        #[prost(string, tag = "1")]
        pub name: String,
        /// Version.
        #[prost(string, tag = "2")]
        pub version: String,
    }

    /// A span.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Span {
        /// 16 bytes.
        #[prost(bytes = "vec", tag = "1")]
        pub trace_id: Vec<u8>,
        /// 8 bytes.
        #[prost(bytes = "vec", tag = "2")]
        pub span_id: Vec<u8>,
        /// 8 bytes; empty for a root.
        #[prost(bytes = "vec", tag = "4")]
        pub parent_span_id: Vec<u8>,
        /// Operation.
        #[prost(string, tag = "5")]
        pub name: String,
        /// 0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
        #[prost(int32, tag = "6")]
        pub kind: i32,
        /// Nanoseconds since 1970.
        #[prost(fixed64, tag = "7")]
        pub start_time_unix_nano: u64,
        /// Nanoseconds since 1970.
        #[prost(fixed64, tag = "8")]
        pub end_time_unix_nano: u64,
        /// Attributes.
        #[prost(message, repeated, tag = "9")]
        pub attributes: Vec<KeyValue>,
        /// Outcome.
        #[prost(message, optional, tag = "15")]
        pub status: Option<Status>,
    }

    /// Outcome of a span.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Status {
        /// What went wrong.
        #[prost(string, tag = "2")]
        pub message: String,
        /// 0 unset, 1 ok, 2 error.
        #[prost(int32, tag = "3")]
        pub code: i32,
    }
}
