//! The part of a search answer that is used, and nothing else: spans are skipped unread.
//!
//! An answer is taken apart trace by trace, out of the bytes that came: nothing is copied but what is kept, and a name
//! that many traces have is kept once ([`Names`]). Text is read as bytes. Tempo passes on what it was sent and does not
//! check that it is UTF-8; one bad name must not make the answer unreadable for ever.

use std::{collections::HashSet, sync::Arc};

use prost::bytes::Bytes;

use super::messages::{SearchMetrics, ServiceStats};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SearchResponse {
    /// Each of them a [`Trace`], not decoded yet.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) traces: Vec<Bytes>,
    #[prost(message, optional, tag = "2")]
    pub(super) metrics: Option<SearchMetrics>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Trace {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) trace_id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) root_service_name: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) root_trace_name: Bytes,
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
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) service: Bytes,
    #[prost(message, optional, tag = "2")]
    pub(super) stats: Option<ServiceStats>,
}

/// The names met in an answer, each kept once.
#[derive(Default)]
pub(super) struct Names(HashSet<Arc<str>>);

impl Names {
    /// The name; what is not UTF-8 in it becomes U+FFFD.
    pub(super) fn of(&mut self, bytes: &[u8]) -> Arc<str> {
        let name = String::from_utf8_lossy(bytes);
        if let Some(known) = self.0.get(&*name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.0.insert(Arc::clone(&name));
        name
    }
}
