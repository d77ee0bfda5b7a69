//! The part of a search answer that is used, and nothing else: spans are skipped unread.
//!
//! Text is read as bytes. Tempo passes on what it was sent and does not check that it is UTF-8; one bad name must not make
//! the answer unreadable for ever.

use super::messages::{SearchMetrics, ServiceStats};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SearchResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) traces: Vec<Trace>,
    #[prost(message, optional, tag = "2")]
    pub(super) metrics: Option<SearchMetrics>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Trace {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) root_service_name: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) root_trace_name: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub(super) start_time_unix_nano: u64,
    #[prost(uint32, tag = "5")]
    pub(super) duration_ms: u32,
    /// A map, as it stands on the wire.
    #[prost(message, repeated, tag = "8")]
    pub(super) service_stats: Vec<ServiceEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ServiceEntry {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) service: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    pub(super) stats: Option<ServiceStats>,
}

/// What is not UTF-8 becomes U+FFFD.
pub(super) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
