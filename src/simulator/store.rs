//! Where a tenant's spans are, as Tempo keeps them, and so which of them a search can find.
//!
//! Traces of a population are **settled**: one whole row each, in compacted blocks, always found. Spans pushed while the simulator runs
//! take Tempo's way instead:
//!
//! 1. They **wait** for `search_delay`, found by ID only. What arrives for a trace meanwhile joins it.
//! 2. A **flush** writes all that waits into the head block, one row a trace. A trace that gets more spans later has several rows:
//!    fragments.
//! 3. The head block is **sealed** after `block_duration`, which joins its rows by trace, but not with those of other blocks. Until
//!    then it is a WAL block, whose flushes a query-less search reads one after the other.
//! 4. The sealed block enters the **block list** `block_list_delay` later. Search looks in the live store for what is younger than
//!    `query_backend_after` and in the block list for what is older: a block that is late on the list leaves a hole.
//! 5. **Compaction** joins all rows of a trace, which settles it.
//!
//! What a query makes of the rows is left to `search` and `metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::Timing;
use super::population::Population;
use super::span::{Span, Text, TraceFragment};

/// Some spans of one trace in one block.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) fragment: TraceFragment,
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    /// Whether a search by time can find it: spans far from the time they arrive at are left out of their block's time range.
    pub(super) in_time_range: bool,
}

impl Row {
    fn new(fragment: TraceFragment, in_time_range: bool) -> Self {
        Self {
            start_ns: fragment.start_ns(),
            end_ns: fragment.end_ns(),
            fragment,
            in_time_range,
        }
    }

    /// Whether any part lies in `[start_ns, end_ns]`, both inclusive.
    pub(super) fn overlaps(&self, start_ns: u64, end_ns: u64) -> bool {
        self.in_time_range && self.start_ns <= end_ns && self.end_ns >= start_ns
    }

    /// Service and operation of the root among these spans.
    pub(super) fn root(&self) -> (Option<&Text>, Option<&Text>) {
        let root = self.fragment.root();
        (
            root.and_then(|span| span.service.as_ref()),
            root.map(|span| &span.name),
        )
    }
}

/// Rows that were written together; a sealed block has a single flush.
#[derive(Debug, Clone, Default)]
pub(super) struct Block {
    pub(super) flushes: Vec<Vec<Row>>,
    sealed: Option<Vec<Row>>,
    began_at: DateTime<Utc>,
    listed_at: Option<DateTime<Utc>>,
}

impl Block {
    /// The flushes of a WAL block, or the joined rows of a sealed one.
    pub(super) fn live_flushes(&self) -> Vec<&[Row]> {
        match &self.sealed {
            Some(rows) => vec![rows],
            None => self.flushes.iter().map(Vec::as_slice).collect(),
        }
    }

    /// The joined rows, once the block is on the block list.
    pub(super) fn listed_rows(&self, now: DateTime<Utc>) -> Option<&[Row]> {
        let listed = self.listed_at.is_some_and(|listed_at| listed_at <= now);
        self.sealed.as_deref().filter(|_| listed)
    }

    fn seal(&mut self, sealed_at: DateTime<Utc>, timing: &Timing) {
        if self.sealed.is_some() {
            return;
        }
        let rows = std::mem::take(&mut self.flushes).into_iter().flatten();
        self.sealed = Some(join(rows));
        self.listed_at = Some(sealed_at + delta(timing.block_list_delay));
    }
}

#[derive(Debug)]
struct Waiting {
    row: Row,
    flush_at: DateTime<Utc>,
}

/// One tenant's spans.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) settled: Arc<Population>,
    /// Traces settled by compaction.
    pub(super) compacted: Vec<Row>,
    pub(super) blocks: Vec<Block>,
    waiting: Vec<Waiting>,
}

impl Store {
    /// A store that holds a settled population and nothing else.
    pub(super) fn new(settled: Arc<Population>) -> Self {
        Self {
            settled,
            compacted: Vec::new(),
            blocks: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Takes in spans that arrive now.
    pub(super) fn push(&mut self, fragment: TraceFragment, now: DateTime<Utc>, timing: &Timing) {
        let now_ns = nanoseconds(now);
        let slack_ns = timing.ingestion_slack.as_nanos() as u64;
        let in_time_range = fragment.end_ns() >= now_ns.saturating_sub(slack_ns)
            && fragment.start_ns() <= now_ns + slack_ns;
        let known = self
            .waiting
            .iter_mut()
            .find(|waiting| waiting.row.fragment.trace_id == fragment.trace_id);
        match known {
            Some(waiting) => {
                let mut whole = std::mem::take(&mut waiting.row.fragment.spans);
                whole.extend(fragment.spans);
                let found_by_time = waiting.row.in_time_range || in_time_range;
                waiting.row = Row::new(TraceFragment::new(fragment.trace_id, whole), found_by_time);
            }
            None => self.waiting.push(Waiting {
                row: Row::new(fragment, in_time_range),
                flush_at: now + delta(timing.search_delay),
            }),
        }
    }

    /// Does all that time alone brings about.
    pub(super) fn catch_up(&mut self, now: DateTime<Utc>, timing: &Timing) {
        let (due, waiting): (Vec<Waiting>, Vec<Waiting>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| waiting.flush_at <= now);
        self.waiting = waiting;
        let mut flushes: BTreeMap<DateTime<Utc>, Vec<Row>> = BTreeMap::new();
        for waiting in due {
            flushes
                .entry(waiting.flush_at)
                .or_default()
                .push(waiting.row);
        }
        for (flush_at, rows) in flushes {
            self.seal_when_due(flush_at, timing);
            self.write(rows, flush_at);
        }
        self.seal_when_due(now, timing);
    }

    /// Writes what waits at once, as one flush of the head block.
    pub(super) fn flush(&mut self, now: DateTime<Utc>) {
        let rows: Vec<Row> = std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|waiting| waiting.row)
            .collect();
        if !rows.is_empty() {
            self.write(rows, now);
        }
    }

    /// Seals the head block at once.
    pub(super) fn seal(&mut self, now: DateTime<Utc>, timing: &Timing) {
        if let Some(head) = self.blocks.last_mut() {
            head.seal(now, timing);
        }
    }

    /// Joins all rows of each trace, in all blocks, into settled ones.
    pub(super) fn compact(&mut self) {
        let rows = std::mem::take(&mut self.blocks)
            .into_iter()
            .flat_map(|block| {
                block
                    .sealed
                    .into_iter()
                    .chain(block.flushes)
                    .flatten()
                    .collect::<Vec<Row>>()
            })
            .chain(std::mem::take(&mut self.compacted));
        self.compacted = join(rows);
    }

    /// Every span of a trace that has arrived, found or not by search.
    pub(super) fn spans_by_id(&self, trace_id: &[u8; 16]) -> Vec<Span> {
        let mut spans: Vec<Span> = self
            .settled
            .find(trace_id)
            .map(|record| self.settled.spans_of(record).into_owned())
            .unwrap_or_default();
        let blocks = self
            .blocks
            .iter()
            .flat_map(|block| block.live_flushes().into_iter().flatten());
        let waiting = self.waiting.iter().map(|waiting| &waiting.row);
        for row in self.compacted.iter().chain(blocks).chain(waiting) {
            if row.fragment.trace_id == *trace_id {
                spans.extend(row.fragment.spans.iter().cloned());
            }
        }
        // A span sent twice is shown once.
        let mut seen = std::collections::HashSet::new();
        spans.retain(|span| seen.insert((span.span_id, span.kind as u8)));
        spans
    }

    /// Everything pushed and everything settled, whole.
    pub(super) fn everything(&self) -> Vec<TraceFragment> {
        let pushed = self
            .blocks
            .iter()
            .flat_map(|block| block.live_flushes().into_iter().flatten())
            .chain(self.waiting.iter().map(|waiting| &waiting.row))
            .chain(&self.compacted)
            .map(|row| row.fragment.clone());
        self.settled.fragments().chain(pushed).collect()
    }

    fn write(&mut self, rows: Vec<Row>, at: DateTime<Utc>) {
        let head_is_open = self.blocks.last().is_some_and(|head| head.sealed.is_none());
        if !head_is_open {
            self.blocks.push(Block {
                began_at: at,
                ..Block::default()
            });
        }
        if let Some(head) = self.blocks.last_mut() {
            head.flushes.push(rows);
        }
    }

    fn seal_when_due(&mut self, now: DateTime<Utc>, timing: &Timing) {
        if let Some(head) = self.blocks.last_mut() {
            let due = head.began_at + delta(timing.block_duration);
            if due <= now {
                head.seal(due, timing);
            }
        }
    }
}

/// Joins the rows of each trace.
fn join(rows: impl Iterator<Item = Row>) -> Vec<Row> {
    let mut joined: BTreeMap<[u8; 16], (Vec<Span>, bool)> = BTreeMap::new();
    for row in rows {
        let (spans, in_time_range) = joined.entry(row.fragment.trace_id).or_default();
        spans.extend(row.fragment.spans);
        *in_time_range |= row.in_time_range;
    }
    joined
        .into_iter()
        .map(|(trace_id, (spans, in_time_range))| {
            Row::new(TraceFragment::new(trace_id, spans), in_time_range)
        })
        .collect()
}

/// Nanoseconds since 1970.
pub(super) fn nanoseconds(time: DateTime<Utc>) -> u64 {
    u64::try_from(time.timestamp_nanos_opt().unwrap_or(0)).unwrap_or(0)
}

/// The same length of time, signed.
pub(super) fn delta(duration: std::time::Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
