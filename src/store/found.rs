//! What a window was found to hold, and storing it by its kind.

use sqlx::PgConnection;

use super::{
    spans,
    traces::{self, Merged},
};
use crate::{
    tempo::wire::{TraceSummary, spans::TraceSpans},
    window::Window,
};

/// Traces that were found, as far as the dataset's detail goes.
#[derive(Debug)]
pub enum Found {
    /// As a search tells them.
    Summaries(Vec<TraceSummary>),
    /// Span by span.
    Spans(Vec<TraceSpans>),
}

impl Found {
    /// Number of traces.
    pub fn len(&self) -> usize {
        match self {
            Self::Summaries(traces) => traces.len(),
            Self::Spans(traces) => traces.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their IDs.
    pub fn ids(&self) -> Vec<[u8; 16]> {
        match self {
            Self::Summaries(traces) => traces.iter().map(|trace| trace.trace_id).collect(),
            Self::Spans(traces) => traces.iter().map(|trace| trace.trace_id).collect(),
        }
    }
}

/// Stores what was found in a window, inside the caller's transaction.
///
/// # Errors
/// If the database refuses.
pub async fn store(
    conn: &mut PgConnection,
    dataset: &str,
    window: Window,
    found: Found,
) -> sqlx::Result<Merged> {
    match found {
        Found::Summaries(traces) => traces::store(conn, dataset, window, traces).await,
        Found::Spans(traces) => spans::merge(conn, dataset, traces).await,
    }
}
