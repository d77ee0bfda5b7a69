//! The traces that a simulated Tempo holds, and the truth about them.
//!
//! A trace is kept as the few facts that `truth.tsv` has too - identity, start, end, counts, root - and its spans are made from them
//! whenever they are asked for, always the same ones, from a random source that belongs to the trace. So a million traces fit in
//! 80 MB, and a population loaded from a file answers span queries as readily as a generated one. Traces given span by span are kept
//! as given. Making facts up is left to `generate`, finding traces by time to `time_index`.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::generate;
use super::random::Random;
use super::span::{ServiceCounts, Span, SpanKind, SpanStatus, Text, TraceFragment, service_counts};
use super::time_index::TimeIndex;

/// The parent that rootless traces point to, and that never arrives.
pub(super) const MISSING_PARENT: [u8; 8] = [1; 8];

/// Everything true about one trace, for comparison with what was collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceTruth {
    /// Identity, leading zeros included.
    pub trace_id: [u8; 16],
    /// Earliest start of a span, in nanoseconds since 1970.
    pub start_ns: u64,
    /// Latest end of a span, in nanoseconds since 1970.
    pub end_ns: u64,
    /// Number of spans.
    pub spans: u32,
    /// Number of spans with status error.
    pub errors: u32,
    /// Service of the root; `None` when there is no root or its service is not known.
    pub root_service: Option<Text>,
    /// Operation of the root; `None` when there is no root.
    pub root_name: Option<Text>,
    /// Spans and errors by service.
    pub services: BTreeMap<Text, ServiceCounts>,
}

/// Why a population could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PopulationError {
    /// The file could not be read.
    #[error("reading the population `{path}`: {source}; check the path")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line does not say what a trace is.
    #[error(
        "line {line} of the population: {problem} in `{text}`; write trace_id, start_ns, end_ns, spans, root_service, root_name and errors, separated by tabs"
    )]
    Line {
        /// Line number, from 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
        /// The line.
        text: String,
    },
}

/// The facts kept of each trace.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) trace_id: [u8; 16],
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    pub(super) spans: u32,
    pub(super) errors: u32,
    /// Index into the vocabulary's operations; `None` for a rootless trace.
    pub(super) root: Option<u32>,
    /// Index into the traces given span by span.
    pub(super) given: Option<u32>,
}

/// A service's operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Operation {
    pub(super) service: Option<Text>,
    pub(super) name: Text,
}

/// Traces at rest, ordered by start.
#[derive(Debug)]
pub struct Population {
    records: Vec<Record>,
    operations: Vec<Operation>,
    given: Vec<TraceFragment>,
    index: TimeIndex,
    by_id: OnceLock<HashMap<[u8; 16], u32>>,
}

impl Population {
    /// Makes a population up; equal settings make equal populations.
    pub fn generate(settings: &generate::Settings) -> Self {
        Self::from_records(
            generate::records(settings),
            generate::operations(),
            Vec::new(),
        )
    }

    /// A population of no traces.
    pub fn empty() -> Self {
        Self::from_traces(Vec::new())
    }

    /// A population of traces given span by span. Fragments of one trace are joined.
    pub fn from_traces(traces: Vec<TraceFragment>) -> Self {
        let mut joined: BTreeMap<[u8; 16], Vec<Span>> = BTreeMap::new();
        for fragment in traces {
            joined
                .entry(fragment.trace_id)
                .or_default()
                .extend(fragment.spans);
        }
        let given: Vec<TraceFragment> = joined
            .into_iter()
            .map(|(trace_id, spans)| TraceFragment::new(trace_id, spans))
            .collect();
        let mut vocabulary = Vocabulary::default();
        let records = given
            .iter()
            .enumerate()
            .map(|(position, trace)| Record {
                trace_id: trace.trace_id,
                start_ns: trace.start_ns(),
                end_ns: trace.end_ns(),
                spans: trace.spans.len() as u32,
                errors: trace
                    .spans
                    .iter()
                    .filter(|span| span.status == SpanStatus::Error)
                    .count() as u32,
                root: trace
                    .root()
                    .map(|span| vocabulary.index_of(span.service.clone(), &span.name)),
                given: Some(position as u32),
            })
            .collect();
        Self::from_records(records, vocabulary.operations, given)
    }

    /// Reads a population from a file of the form of [`Self::to_tsv`].
    ///
    /// # Errors
    /// When the file cannot be read or a line is not a trace.
    pub fn load_tsv(path: &Path) -> Result<Self, PopulationError> {
        let text = std::fs::read_to_string(path).map_err(|source| PopulationError::Unreadable {
            path: path.display().to_string(),
            source,
        })?;
        Self::from_tsv(&text)
    }

    /// Reads a population from lines of `trace_id start_ns end_ns spans root_service root_name errors`, separated by tabs.
    ///
    /// # Errors
    /// When a line is not a trace.
    pub fn from_tsv(text: &str) -> Result<Self, PopulationError> {
        let mut vocabulary = Vocabulary::default();
        let mut records = Vec::new();
        for (position, line) in text.lines().enumerate() {
            let record =
                parse_line(line, &mut vocabulary).map_err(|problem| PopulationError::Line {
                    line: position + 1,
                    problem,
                    text: line.to_owned(),
                })?;
            records.push(record);
        }
        if vocabulary.operations.is_empty() {
            vocabulary.operations = generate::operations();
        }
        Ok(Self::from_records(
            records,
            vocabulary.operations,
            Vec::new(),
        ))
    }

    pub(super) fn from_records(
        mut records: Vec<Record>,
        operations: Vec<Operation>,
        given: Vec<TraceFragment>,
    ) -> Self {
        records.sort_unstable_by_key(|record| (record.start_ns, record.trace_id));
        let index = TimeIndex::new(
            records
                .iter()
                .map(|record| (record.start_ns, record.end_ns)),
        );
        Self {
            records,
            operations,
            given,
            index,
            by_id: OnceLock::new(),
        }
    }

    /// Number of traces.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no traces.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The truth about each trace, by start.
    pub fn traces(&self) -> impl Iterator<Item = TraceTruth> + '_ {
        self.records.iter().map(|record| self.truth_of(record))
    }

    /// Every trace that overlaps the half-open window, by start: what a complete collection of it holds.
    pub fn overlapping(&self, start_s: i64, end_s: i64) -> Vec<TraceTruth> {
        let start_ns = u64::try_from(start_s).unwrap_or(0) * 1_000_000_000;
        let end_ns = u64::try_from(end_s).unwrap_or(0) * 1_000_000_000;
        let mut found = self.overlapping_records(start_ns, end_ns.saturating_sub(1));
        found.sort_unstable();
        found
            .into_iter()
            .map(|position| self.truth_of(&self.records[position as usize]))
            .collect()
    }

    /// One line a trace: `trace_id start_ns end_ns spans root_service root_name errors`, separated by tabs.
    pub fn to_tsv(&self) -> String {
        let mut text = String::with_capacity(self.len() * 96);
        for record in &self.records {
            let (service, name) = self.root_of(record);
            for byte in record.trace_id {
                let _ = write!(text, "{byte:02x}");
            }
            let _ = writeln!(
                text,
                "\t{}\t{}\t{}\t{}\t{}\t{}",
                record.start_ns,
                record.end_ns,
                record.spans,
                service.map_or("", |text| text),
                name.map_or("", |text| text),
                record.errors
            );
        }
        text
    }

    /// Whole traces, span by span, in the order of [`Self::traces`].
    pub fn fragments(&self) -> impl Iterator<Item = TraceFragment> + '_ {
        self.records
            .iter()
            .map(|record| TraceFragment::new(record.trace_id, self.spans_of(record).into_owned()))
    }

    /// Positions of the traces with any part in `[start_ns, end_ns]`, both inclusive, in no particular order.
    pub(super) fn overlapping_records(&self, start_ns: u64, end_ns: u64) -> Vec<u32> {
        self.index.overlapping(start_ns, end_ns)
    }

    /// Earliest start and latest end of any trace; `None` without traces.
    pub(super) fn range_ns(&self) -> Option<(u64, u64)> {
        let first = self.records.first()?;
        Some((first.start_ns, self.index.latest_end_ns()))
    }

    pub(super) fn record(&self, position: u32) -> &Record {
        &self.records[position as usize]
    }

    pub(super) fn find(&self, trace_id: &[u8; 16]) -> Option<&Record> {
        let by_id = self.by_id.get_or_init(|| {
            self.records
                .iter()
                .enumerate()
                .map(|(position, record)| (record.trace_id, position as u32))
                .collect()
        });
        by_id.get(trace_id).map(|position| self.record(*position))
    }

    /// Service and operation of a trace's root.
    pub(super) fn root_of(&self, record: &Record) -> (Option<&Text>, Option<&Text>) {
        match record.root {
            Some(root) => {
                let operation = &self.operations[root as usize];
                (operation.service.as_ref(), Some(&operation.name))
            }
            None => (None, None),
        }
    }

    /// All spans of a trace: the given ones, or those made from its facts, the same at every call.
    pub(super) fn spans_of(&self, record: &Record) -> std::borrow::Cow<'_, [Span]> {
        match record.given {
            Some(given) => std::borrow::Cow::Borrowed(&self.given[given as usize].spans),
            None => std::borrow::Cow::Owned(self.make_spans(record, record.spans)),
        }
    }

    /// The roots of a trace, without the cost of its other spans.
    pub(super) fn roots_of(&self, record: &Record) -> Vec<Span> {
        match record.given {
            Some(given) => self.given[given as usize]
                .spans
                .iter()
                .filter(|span| span.is_root())
                .cloned()
                .collect(),
            None if record.root.is_some() => self.make_spans(record, 1),
            None => Vec::new(),
        }
    }

    /// The first `count` spans. The first of all is as long as the trace; every other lies within it and is its child.
    fn make_spans(&self, record: &Record, count: u32) -> Vec<Span> {
        let mut random = Random::of_trace(&record.trace_id);
        let head_id = random.bytes();
        let duration_ns = record.end_ns - record.start_ns;
        let mut errors_left = u64::from(record.errors);
        (0..count)
            .map(|position| {
                let spans_left = u64::from(record.spans - position);
                let is_error = random.below(spans_left) < errors_left;
                errors_left -= u64::from(is_error);
                let head = position == 0;
                let random_operation = random.index(self.operations.len());
                let operation = match record.root {
                    Some(root) if head => &self.operations[root as usize],
                    _ => &self.operations[random_operation],
                };
                let offset_ns = random.below(duration_ns / 2 + 1);
                let length_ns = random.below(duration_ns - offset_ns + 1);
                let (start_ns, end_ns) = if head {
                    (record.start_ns, record.end_ns)
                } else {
                    let start_ns = record.start_ns + offset_ns;
                    (start_ns, start_ns + length_ns)
                };
                Span {
                    span_id: if head { head_id } else { random.bytes() },
                    parent_id: match (head, record.root) {
                        (true, Some(_)) => [0; 8],
                        (true, None) => MISSING_PARENT,
                        (false, _) => head_id,
                    },
                    service: operation.service.clone(),
                    name: operation.name.clone(),
                    kind: SpanKind::Server,
                    status: if is_error {
                        SpanStatus::Error
                    } else {
                        SpanStatus::Unset
                    },
                    start_ns,
                    end_ns,
                    http_status_code: Some(if is_error { 500 } else { 200 }),
                    attributes: Vec::new(),
                }
            })
            .collect()
    }

    fn truth_of(&self, record: &Record) -> TraceTruth {
        let (root_service, root_name) = self.root_of(record);
        TraceTruth {
            trace_id: record.trace_id,
            start_ns: record.start_ns,
            end_ns: record.end_ns,
            spans: record.spans,
            errors: record.errors,
            root_service: root_service.cloned(),
            root_name: root_name.cloned(),
            services: service_counts(&self.spans_of(record)),
        }
    }
}

/// Operations met so far, each once.
#[derive(Default)]
struct Vocabulary {
    operations: Vec<Operation>,
    index: HashMap<Operation, u32>,
    services: HashMap<String, Text>,
}

impl Vocabulary {
    fn index_of(&mut self, service: Option<Text>, name: &str) -> u32 {
        let operation = Operation {
            service,
            name: Arc::from(name),
        };
        if let Some(index) = self.index.get(&operation) {
            return *index;
        }
        let index = self.operations.len() as u32;
        self.operations.push(operation.clone());
        self.index.insert(operation, index);
        index
    }

    fn service(&mut self, name: &str) -> Text {
        self.services
            .entry(name.to_owned())
            .or_insert_with(|| Arc::from(name))
            .clone()
    }
}

fn parse_line(line: &str, vocabulary: &mut Vocabulary) -> Result<Record, &'static str> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [trace_id, start_ns, end_ns, spans, service, name, errors] = columns[..] else {
        return Err("there are not seven columns");
    };
    let start_ns: u64 = start_ns.parse().map_err(|_| "start_ns is not a number")?;
    let end_ns: u64 = end_ns.parse().map_err(|_| "end_ns is not a number")?;
    let spans: u32 = spans.parse().map_err(|_| "spans is not a number")?;
    let errors: u32 = errors.parse().map_err(|_| "errors is not a number")?;
    if end_ns < start_ns {
        return Err("end_ns is before start_ns");
    }
    if spans == 0 || errors > spans {
        return Err("spans is less than one or than errors");
    }
    let root = (!service.is_empty() || !name.is_empty()).then(|| {
        let service = (!service.is_empty()).then(|| vocabulary.service(service));
        vocabulary.index_of(service, name)
    });
    Ok(Record {
        trace_id: super::params::parse_trace_id_exactly(trace_id)
            .ok_or("trace_id is not 32 hex digits")?,
        start_ns,
        end_ns,
        spans,
        errors,
        root,
        given: None,
    })
}
