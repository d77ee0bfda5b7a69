//! An answer before it goes onto the wire.

use axum::http::{HeaderName, StatusCode};

/// Content type of Tempo's plain texts, refusals among them.
pub(super) const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
/// Content type of JSON answers.
pub(super) const JSON: &str = "application/json";
/// Content type of protobuf answers.
pub(super) const PROTOBUF: &str = "application/protobuf";

/// Status, headers and the whole body.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: String,
    /// Further headers.
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// A 200 with this body.
    pub(super) fn ok(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: content_type.to_owned(),
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// A plain text with this status.
    pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            ..Self::ok(PLAIN_TEXT, body.into())
        }
    }

    /// The same with one more header.
    pub(super) fn with_header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A request that Tempo would not answer: its status and its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl Refusal {
    /// A 400, the request's own fault.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
        }
    }

    /// The 500 that means: more than one answer can carry.
    pub(super) fn larger_than(bytes: usize, most_bytes: usize) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: format!("response larger than the max ({bytes} vs {most_bytes})"),
        }
    }
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self::bad_request(message)
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::text(refusal.status, refusal.message)
    }
}
