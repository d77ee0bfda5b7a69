//! Whole traces by their IDs: `GET /api/v2/traces/{id}`.
//!
//! A look-up finds every span that Tempo holds of a trace, whatever its time and block. It costs about 25 ms each, some 200 times
//! what the same spans cost in a search: it is for what a search cannot bring.

use std::{fmt::Write as _, time::Duration};

use super::{
    client::{Client, LARGEST_TRACE},
    error::Failure,
    gate::Urgency,
    wire::{
        self, Format,
        spans::{TraceSpans, Wanted},
    },
};

/// An answer to a look-up by ID.
#[derive(Debug)]
pub struct TraceAnswer {
    /// The trace; without spans if the server does not know it.
    pub trace: TraceSpans,
    /// HTTP status.
    pub status: u16,
    /// Size of the body, bytes, decompressed.
    pub bytes: u64,
    /// From sending to the end of the body.
    pub elapsed: Duration,
}

impl Client {
    /// Looks a trace up.
    ///
    /// # Errors
    /// A [`Failure`] with its class.
    pub async fn trace(
        &self,
        trace_id: [u8; 16],
        wanted: &Wanted,
        urgency: Urgency,
    ) -> Result<TraceAnswer, Failure> {
        let mut path = "api/v2/traces/".to_owned();
        for byte in trace_id {
            let _ = write!(path, "{byte:02x}");
        }
        let body = self
            .get(
                self.url(&path),
                "application/protobuf",
                urgency,
                LARGEST_TRACE,
            )
            .await?;
        let format = Format::of(&body.content_type).ok_or_else(|| self.strange(&body))?;
        let decoded = wire::spans::decode_trace(format, &body.bytes, trace_id, wanted);
        let trace = decoded.map_err(|error| self.unreadable(&body, "Tempo's trace", &error))?;
        self.gate.answered(body.elapsed).await;
        Ok(TraceAnswer {
            trace,
            status: body.status,
            bytes: body.bytes.len() as u64,
            elapsed: body.elapsed,
        })
    }
}
