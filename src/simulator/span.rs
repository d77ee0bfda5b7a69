//! A span as the simulator keeps it, and what follows from the spans of one trace.
//!
//! How spans come to be is left to `population`, how they arrive to `store`, what is asked of them to `traceql`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::population::TraceTruth;

/// Text shared by many spans.
pub type Text = Arc<str>;

/// What the kind of a span says about it, numbered as OpenTelemetry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpanKind {
    /// Not said.
    Unspecified = 0,
    /// Work inside a service.
    Internal = 1,
    /// An incoming request.
    #[default]
    Server = 2,
    /// An outgoing request.
    Client = 3,
    /// A message sent.
    Producer = 4,
    /// A message received.
    Consumer = 5,
}

impl SpanKind {
    /// TraceQL's word for it.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Internal => "internal",
            Self::Server => "server",
            Self::Client => "client",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
}

/// Outcome of a span, numbered as OpenTelemetry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpanStatus {
    /// Not said, which is what successful spans usually carry.
    #[default]
    Unset = 0,
    /// Said to be successful.
    Ok = 1,
    /// Failed.
    Error = 2,
}

impl SpanStatus {
    /// TraceQL's word for it.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Unset => "unset",
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }
}

/// A value of a span attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum AttributeValue {
    /// Text.
    Text(Text),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A truth value.
    Bool(bool),
}

/// What an attribute belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeScope {
    /// The service that sent the span.
    Resource,
    /// The span itself.
    Span,
}

/// An attribute other than `resource.service.name` and `span.http.status_code`, which have fields of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute {
    /// What it belongs to.
    pub scope: AttributeScope,
    /// Name, without the scope.
    pub key: Text,
    /// Value.
    pub value: AttributeValue,
}

/// A span.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Identity within the trace.
    pub span_id: [u8; 8],
    /// The caller; all zero for a root.
    pub parent_id: [u8; 8],
    /// `resource.service.name`.
    pub service: Option<Text>,
    /// Operation.
    pub name: Text,
    /// Kind.
    pub kind: SpanKind,
    /// Outcome.
    pub status: SpanStatus,
    /// Start, in nanoseconds since 1970.
    pub start_ns: u64,
    /// End, in nanoseconds since 1970.
    pub end_ns: u64,
    /// `span.http.status_code`.
    pub http_status_code: Option<i64>,
    /// Further attributes.
    pub attributes: Vec<Attribute>,
}

impl Span {
    /// A server span of `service` without a parent, status or attributes: a starting point for struct update syntax.
    pub fn root(span_id: u64, service: &str, name: &str, start_ns: u64, end_ns: u64) -> Self {
        Self {
            span_id: span_id.to_be_bytes(),
            parent_id: [0; 8],
            service: Some(service.into()),
            name: name.into(),
            kind: SpanKind::Server,
            status: SpanStatus::Unset,
            start_ns,
            end_ns,
            http_status_code: None,
            attributes: Vec::new(),
        }
    }

    /// The same, called by the span `parent_id`.
    pub fn child(
        span_id: u64,
        parent_id: u64,
        service: &str,
        name: &str,
        start_ns: u64,
        end_ns: u64,
    ) -> Self {
        Self {
            parent_id: parent_id.to_be_bytes(),
            ..Self::root(span_id, service, name, start_ns, end_ns)
        }
    }

    /// Whether nothing called it.
    pub fn is_root(&self) -> bool {
        self.parent_id == [0; 8]
    }

    /// Its duration in nanoseconds.
    pub fn duration_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

/// Some spans of one trace: what a push brings, and what Tempo keeps as one row.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceFragment {
    /// Identity of the trace.
    pub trace_id: [u8; 16],
    /// The spans, at least one.
    pub spans: Vec<Span>,
}

impl TraceFragment {
    /// A fragment of these spans.
    pub fn new(trace_id: [u8; 16], spans: Vec<Span>) -> Self {
        Self { trace_id, spans }
    }

    /// Earliest start of a span, in nanoseconds since 1970.
    pub fn start_ns(&self) -> u64 {
        self.spans
            .iter()
            .map(|span| span.start_ns)
            .min()
            .unwrap_or(0)
    }

    /// Latest end of a span, in nanoseconds since 1970.
    pub fn end_ns(&self) -> u64 {
        self.spans.iter().map(|span| span.end_ns).max().unwrap_or(0)
    }

    /// The earliest of the spans that nothing called.
    pub fn root(&self) -> Option<&Span> {
        self.spans
            .iter()
            .filter(|span| span.is_root())
            .min_by_key(|span| span.start_ns)
    }

    /// What these spans are, in the terms of the truth.
    pub fn truth(&self) -> TraceTruth {
        let services = service_counts(&self.spans);
        let root = self.root();
        TraceTruth {
            trace_id: self.trace_id,
            start_ns: self.start_ns(),
            end_ns: self.end_ns(),
            spans: self.spans.len() as u32,
            errors: services.values().map(|counts| counts.errors).sum(),
            root_service: root.and_then(|span| span.service.clone()),
            root_name: root.map(|span| span.name.clone()),
            services,
        }
    }
}

/// Spans and errors of one service in one trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceCounts {
    /// Spans.
    pub spans: u32,
    /// Spans with status error.
    pub errors: u32,
}

/// Spans and errors by service; spans without a service count under the empty name.
pub(super) fn service_counts(spans: &[Span]) -> BTreeMap<Text, ServiceCounts> {
    let mut counts: BTreeMap<Text, ServiceCounts> = BTreeMap::new();
    for span in spans {
        let service = span.service.clone().unwrap_or_else(|| Text::from(""));
        let entry = counts.entry(service).or_default();
        entry.spans += 1;
        entry.errors += u32::from(span.status == SpanStatus::Error);
    }
    counts
}
