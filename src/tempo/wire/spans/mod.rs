//! Whole spans: the answers to `{ … } | by(span:id) | select(…)`, and to a look-up by ID.
//!
//! A span comes in a set of its own, so that fragments of a trace are not combined away. Tempo names attributes without their scope, tells an intrinsic as an attribute too, and
//! writes the text `nil` where a column of its own is empty: so that text counts as absent. Texts are read as bytes, for nobody
//! has checked that they are UTF-8, and each is kept once an answer.

use std::{borrow::Cow, fmt::Write as _, sync::Arc};

use super::{
    DecodeError, Format, SearchBody,
    kept::{Kept, not_too_long},
    nanoseconds,
};

mod json;
mod protobuf;
#[cfg(test)]
mod tests;

/// How Tempo writes that there is nothing.
const NIL: &[u8] = b"nil";
/// A trace of so many spans is not searched for span by span: combining the sets of one trace costs Tempo the square of their
/// number, a microsecond and more for each pair (26 s for 5,000 spans). From here on a look-up by ID is cheaper.
const MANY: u32 = 200;
/// How deep lists may be nested in an attribute; what is deeper is left out.
const DEEPEST: u8 = 4;

/// What an attribute belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The service that sent the span.
    Resource,
    /// The span itself.
    Span,
}

/// An attribute that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attribute {
    /// What it belongs to.
    pub scope: Scope,
    /// Its name, without scope and quotes.
    pub key: String,
}

impl Attribute {
    /// The attribute from its name with scope; `None` if that has no scope that spans are stored with.
    pub fn parse(name: &str) -> Option<Self> {
        let (scope, key) = name.split_once('.')?;
        let scope = match scope {
            "span" => Scope::Span,
            "resource" => Scope::Resource,
            _ => return None,
        };
        (!key.is_empty()).then(|| Self {
            scope,
            key: key.to_owned(),
        })
    }

    /// Its name with scope, under which it is stored.
    pub fn name(&self) -> String {
        let scope = match self.scope {
            Scope::Span => "span",
            Scope::Resource => "resource",
        };
        format!("{scope}.{}", self.key)
    }

    /// How TraceQL writes it: what is not a plain name is quoted, and what could begin a comment.
    pub fn traceql(&self) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        if self.key.chars().all(is_plain) && !self.key.contains("//") {
            return self.name();
        }
        let mut quoted = String::with_capacity(self.key.len() + 2);
        for c in self.key.chars() {
            if matches!(c, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        let scope = match self.scope {
            Scope::Span => "span",
            Scope::Resource => "resource",
        };
        format!("{scope}.\"{quoted}\"")
    }
}

/// What is asked of each span beyond what every span has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Sorted, each once; no two of one name.
    attributes: Vec<Attribute>,
    /// The members of the JSON object they are stored in, up to the value: `"span.x":`.
    members: Vec<String>,
}

impl Wanted {
    /// These attributes, given with scope. Those without a known one are left out.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut attributes: Vec<Attribute> =
            names.into_iter().filter_map(Attribute::parse).collect();
        attributes.sort_unstable();
        attributes.dedup();
        let member = |attribute: &Attribute| {
            let name = attribute.name().replace('\0', "\u{fffd}");
            format!("{}:", serde_json::Value::from(name))
        };
        Self {
            members: attributes.iter().map(member).collect(),
            attributes,
        }
    }

    /// The query that brings the spans of whatever these spansets match, each with its attributes, but for traces that have
    /// many in one place. Those [`many`] finds, asked afterwards: a trace that grows meanwhile is then found twice, not never.
    pub fn query(&self, spansets: &str) -> String {
        let mut query = format!(
            "{spansets} | count() < {MANY} | by(span:id) | select(span:parentID, span:name, span:status, span:kind, resource.service.name"
        );
        for attribute in &self.attributes {
            query.push_str(", ");
            query.push_str(&attribute.traceql());
        }
        query.push(')');
        query
    }
}

/// The query that finds the traces whose spans [`Wanted::query`] does not bring.
pub fn many(spansets: &str) -> String {
    format!("{spansets} | count() >= {MANY}")
}

/// OpenTelemetry's kinds of span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Not said.
    #[default]
    Unspecified,
    /// Work inside a service.
    Internal,
    /// An incoming request.
    Server,
    /// An outgoing request.
    Client,
    /// A message sent.
    Producer,
    /// A message received.
    Consumer,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Unspecified,
        Self::Internal,
        Self::Server,
        Self::Client,
        Self::Producer,
        Self::Consumer,
    ];

    /// Its name in the store, which is TraceQL's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Internal => "internal",
            Self::Server => "server",
            Self::Client => "client",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }

    fn of_name(name: &[u8]) -> Self {
        let named = |kind: &Self| kind.name().as_bytes() == name;
        Self::ALL.into_iter().find(named).unwrap_or_default()
    }

    fn of_number(number: u64) -> Self {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        Self::ALL.get(index).copied().unwrap_or_default()
    }
}

/// OpenTelemetry's outcomes of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// Not said.
    #[default]
    Unset,
    /// Said to be successful.
    Ok,
    /// Failed.
    Error,
}

impl Status {
    /// Its name in the store, which is TraceQL's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unset => "unset",
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }

    fn of_name(name: &[u8]) -> Self {
        match name {
            b"ok" => Self::Ok,
            b"error" => Self::Error,
            _ => Self::Unset,
        }
    }

    fn of_number(number: u64) -> Self {
        match number {
            1 => Self::Ok,
            2 => Self::Error,
            _ => Self::Unset,
        }
    }
}

/// A span. Texts have no NUL, which PostgreSQL does not take: it came out as U+FFFD.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Identity within the trace.
    pub span_id: [u8; 8],
    /// The caller; `None` for a root.
    pub parent_span_id: Option<[u8; 8]>,
    /// `service.name`; `None` if there is none.
    pub service: Option<Arc<str>>,
    /// Operation.
    pub name: Arc<str>,
    /// Kind.
    pub kind: Kind,
    /// Outcome.
    pub status: Status,
    /// Start, Unix nanoseconds.
    pub start_ns: i64,
    /// Duration, nanoseconds; start and duration together fit too.
    pub duration_ns: i64,
    /// Those of the attributes asked for that it has, as a JSON object; `None`: none.
    pub attributes: Option<Arc<str>>,
}

/// Spans of one trace: of all its parts that an answer saw.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSpans {
    /// All 16 bytes.
    pub trace_id: [u8; 16],
    /// By ID, each once.
    pub spans: Vec<Span>,
    /// Whether there are more that the answer left out: then these are not to be stored as they are.
    pub cut: bool,
    /// Whether these are part of what Tempo holds of the trace, or all of it; `None`: nothing was said about that.
    pub partial: Option<bool>,
}

impl Span {
    /// Whether it failed.
    pub fn is_error(&self) -> bool {
        self.status == Status::Error
    }
}

impl TraceSpans {
    /// Takes over what was found elsewhere of the same trace.
    pub fn absorb(&mut self, other: &mut Self) {
        self.spans.append(&mut other.spans);
        self.settle();
        self.cut |= other.cut;
        self.partial = match (self.partial, other.partial) {
            (Some(this), Some(that)) => Some(this && that),
            (this, that) => this.or(that),
        };
    }

    /// Puts the spans in order. Of several with one ID the one that starts first stays, and of these the longest.
    fn settle(&mut self) {
        self.spans
            .sort_unstable_by_key(|span| (span.span_id, span.start_ns, -span.duration_ns));
        self.spans.dedup_by_key(|span| span.span_id);
    }
}

/// What is not UTF-8, or NUL, becomes U+FFFD.
fn readable(bytes: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(bytes);
    if text.contains('\0') {
        return Cow::Owned(text.replace('\0', "\u{fffd}"));
    }
    text
}

/// A span on its way from either format.
struct Builder<'w> {
    wanted: &'w Wanted,
    kept: Kept,
    /// For each wanted attribute its value in JSON; empty: absent.
    values: Vec<String>,
    object: String,
}

impl<'w> Builder<'w> {
    fn new(wanted: &'w Wanted, kept: Kept) -> Self {
        Self {
            wanted,
            kept,
            values: vec![String::new(); wanted.attributes.len()],
            object: String::new(),
        }
    }

    fn clear(&mut self, scope: Option<Scope>) {
        for (attribute, value) in self.wanted.attributes.iter().zip(&mut self.values) {
            if scope.is_none_or(|scope| scope == attribute.scope) {
                value.clear();
            }
        }
    }

    /// Where the value of an attribute belongs; without a scope the name alone decides.
    fn place(&mut self, scope: Option<Scope>, key: &[u8]) -> Option<&mut String> {
        let index = self.wanted.attributes.iter().position(|attribute| {
            attribute.key.as_bytes() == key && scope.is_none_or(|scope| scope == attribute.scope)
        })?;
        self.values.get_mut(index)
    }

    /// The values noted since the last [`Self::clear`], as a JSON object.
    fn attributes(&mut self) -> Result<Option<Arc<str>>, DecodeError> {
        self.object.clear();
        for (member, value) in self.wanted.members.iter().zip(&self.values) {
            if !value.is_empty() {
                self.object
                    .push(if self.object.is_empty() { '{' } else { ',' });
                self.object.push_str(member);
                self.object.push_str(value);
            }
        }
        if self.object.is_empty() {
            return Ok(None);
        }
        self.object.push('}');
        self.kept.name(self.object.as_bytes()).map(Some)
    }

    fn name(&mut self, name: &[u8]) -> Result<Arc<str>, DecodeError> {
        not_too_long(name)?;
        self.kept.name(readable(name).as_bytes())
    }

    fn service(&mut self, name: &[u8]) -> Result<Option<Arc<str>>, DecodeError> {
        let is_told = !name.is_empty() && name != NIL;
        is_told.then(|| self.name(name)).transpose()
    }
}

/// A duration that, added to its start, fits.
fn duration_ns(start_ns: i64, duration: u64) -> i64 {
    nanoseconds(duration).min(i64::MAX - start_ns)
}

fn parent(id: [u8; 8]) -> Option<[u8; 8]> {
    (id != [0; 8]).then_some(id)
}

/// A span ID as Tempo prints it: 16 hex digits.
fn parse_span_id(hex: &[u8]) -> Option<[u8; 8]> {
    let text = std::str::from_utf8(hex).ok()?;
    if text.len() > 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(text, 16).ok().map(u64::to_be_bytes)
}

fn span_id(hex: &[u8]) -> Result<[u8; 8], DecodeError> {
    parse_span_id(hex)
        .ok_or_else(|| DecodeError::SpanId(String::from_utf8_lossy(hex).chars().take(64).collect()))
}

fn write_text(value: &mut String, bytes: &[u8]) -> Result<(), DecodeError> {
    not_too_long(bytes)?;
    let _ = write!(value, "{}", serde_json::Value::from(readable(bytes)));
    Ok(())
}

/// JSON has no number for what is not finite.
fn write_double(value: &mut String, number: f64) {
    match serde_json::Number::from_f64(number) {
        Some(number) => {
            let _ = write!(value, "{number}");
        }
        None => {
            let _ = write!(value, "\"{number}\"");
        }
    }
}

/// A list on its way into JSON. A search tells a list of one element as that element, and none of an empty one: so does a
/// look-up, then, and what is stored does not depend on which it was.
struct List {
    begin: usize,
    elements: usize,
}

impl List {
    fn begin(json: &mut String) -> Self {
        json.push('[');
        Self {
            begin: json.len() - 1,
            elements: 0,
        }
    }

    fn element<E>(
        &mut self,
        json: &mut String,
        write: impl FnOnce(&mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.elements > 0 {
            json.push(',');
        }
        self.elements += 1;
        let before = json.len();
        write(json)?;
        if json.len() == before {
            json.push_str("null");
        }
        Ok(())
    }

    /// Takes note of elements that were written already.
    fn add(&mut self, elements: usize) {
        self.elements += elements;
    }

    fn end(self, json: &mut String, depth: u8) {
        match self.elements {
            0 if depth == 0 => json.truncate(self.begin),
            1 if depth == 0 => {
                json.remove(self.begin);
            }
            _ => json.push(']'),
        }
    }
}

/// Reads the answer to a search for spans of so many traces at most. The traces' summaries have no counts.
///
/// # Errors
/// If the body is not a whole search answer, or more than was asked for.
pub fn decode_spans(
    format: Format,
    body: &[u8],
    wanted: &Wanted,
    most: usize,
) -> Result<SearchBody, DecodeError> {
    let mut builder = Builder::new(wanted, Kept::of(body, most));
    let mut decoded = match format {
        Format::Protobuf => protobuf::search(body, &mut builder)?,
        Format::Json => json::search(body, &mut builder)?,
    };
    if let Some(spans) = &mut decoded.spans {
        spans.iter_mut().for_each(TraceSpans::settle);
    }
    Ok(decoded)
}

/// Reads the answer to a look-up by ID: all spans, or, if `partial`, as many as Tempo gives out; none if it does not know the
/// trace.
///
/// # Errors
/// If the body is not a whole answer to one.
pub fn decode_trace(
    format: Format,
    body: &[u8],
    trace_id: [u8; 16],
    wanted: &Wanted,
) -> Result<TraceSpans, DecodeError> {
    let mut builder = Builder::new(wanted, Kept::of(body, 1));
    let (spans, partial) = match format {
        Format::Protobuf => protobuf::trace_by_id(body, &mut builder)?,
        Format::Json => json::trace_by_id(body, &mut builder)?,
    };
    let mut trace = TraceSpans {
        trace_id,
        spans,
        cut: false,
        partial: Some(partial),
    };
    trace.settle();
    Ok(trace)
}

/// The parts of a span of OpenTelemetry's own form.
struct Otlp<'a> {
    id: &'a [u8],
    parent_id: &'a [u8],
    name: &'a [u8],
    kind: Kind,
    status: Status,
    start: u64,
    end: u64,
}

fn otlp_span(
    builder: &mut Builder<'_>,
    service: Option<Arc<str>>,
    otlp: Otlp<'_>,
) -> Result<Span, DecodeError> {
    let identity = |bytes: &[u8]| {
        let id: Option<[u8; 8]> = bytes.try_into().ok();
        id.ok_or_else(|| DecodeError::SpanId(format!("{:02x?}", &bytes[..bytes.len().min(16)])))
    };
    let start_ns = nanoseconds(otlp.start);
    Ok(Span {
        span_id: identity(otlp.id)?,
        parent_span_id: match otlp.parent_id {
            [] => None,
            id => parent(identity(id)?),
        },
        service,
        name: builder.name(otlp.name)?,
        kind: otlp.kind,
        status: otlp.status,
        start_ns,
        duration_ns: duration_ns(start_ns, otlp.end.saturating_sub(otlp.start)),
        attributes: builder.attributes()?,
    })
}
