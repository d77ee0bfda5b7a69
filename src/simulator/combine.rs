//! What a search keeps of the traces it meets: how the fragments of one trace become one row, and which traces stay when
//! there are more than were asked for.
//!
//! The habits are those that were measured and recorded, faults included, because the faults are what a client has to live
//! with. Of two fragments each figure is the greater one, never the sum. Without `most_recent` the first traces met stay;
//! with it the newest, ranked by the start each had when it was first met: a start that a later fragment lowers changes
//! the row and not its rank.

use std::collections::{BTreeSet, HashMap};

use crate::tempo::wire::messages::{KeyValue, SpanSet, TraceSearchMetadata};

/// Collects the traces of one answer.
#[derive(Debug)]
pub(super) struct Combiner {
    limit: usize,
    most_recent: bool,
    rows: HashMap<String, Row>,
    /// With `most_recent` every row's rank, the oldest first; among equals the one met first.
    ranks: BTreeSet<Rank>,
    met: u64,
}

#[derive(Debug)]
struct Row {
    trace: TraceSearchMetadata,
    /// Its start when it was first met.
    ranked_ns: u64,
    met: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    start_ns: u64,
    met: u64,
    trace_id: String,
}

impl Combiner {
    /// A combiner for at most `limit` traces.
    pub(super) fn new(limit: usize, most_recent: bool) -> Self {
        Self {
            limit,
            most_recent,
            rows: HashMap::new(),
            ranks: BTreeSet::new(),
            met: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.limit
    }

    /// Whether looking further is pointless. With `most_recent` it never is.
    pub(super) fn is_complete(&self) -> bool {
        self.is_full() && !self.most_recent
    }

    /// Whether a fragment of this trace would be taken; saves making one up that is not.
    pub(super) fn wants(&self, trace_id: &str, start_ns: u64) -> bool {
        !self.is_full() || self.rows.contains_key(trace_id) || self.displaces(start_ns)
    }

    /// Whether a trace that starts then would take the place of the oldest row.
    fn displaces(&self, start_ns: u64) -> bool {
        let oldest = self.ranks.first();
        self.most_recent && oldest.is_some_and(|oldest| oldest.start_ns <= start_ns)
    }

    /// Adds what was found of a trace in one place.
    pub(super) fn add(&mut self, fragment: TraceSearchMetadata) {
        if let Some(row) = self.rows.get_mut(&fragment.trace_id) {
            widen(&mut row.trace, fragment);
            return;
        }
        if self.is_full() {
            if !self.displaces(fragment.start_time_unix_nano) {
                return;
            }
            if let Some(oldest) = self.ranks.pop_first() {
                self.rows.remove(&oldest.trace_id);
            }
        }
        self.met += 1;
        let (trace_id, ranked_ns) = (fragment.trace_id.clone(), fragment.start_time_unix_nano);
        if self.most_recent {
            self.ranks.insert(Rank {
                start_ns: ranked_ns,
                met: self.met,
                trace_id: trace_id.clone(),
            });
        }
        let row = Row {
            trace: fragment,
            ranked_ns,
            met: self.met,
        };
        self.rows.insert(trace_id, row);
    }

    /// The traces kept, newest first: by their starts, with `most_recent` by their ranks.
    pub(super) fn into_traces(self) -> Vec<TraceSearchMetadata> {
        let mut rows: Vec<Row> = self.rows.into_values().collect();
        rows.sort_unstable_by(|a, b| {
            let by_start = b
                .trace
                .start_time_unix_nano
                .cmp(&a.trace.start_time_unix_nano);
            let by_rank = b.ranked_ns.cmp(&a.ranked_ns);
            let first = if self.most_recent { by_rank } else { by_start };
            first.then(a.met.cmp(&b.met))
        });
        rows.into_iter().map(|row| row.trace).collect()
    }
}

/// Makes a row cover a further fragment of its trace.
fn widen(row: &mut TraceSearchMetadata, fragment: TraceSearchMetadata) {
    let fill = |known: &mut String, other: String| {
        if known.is_empty() {
            *known = other;
        }
    };
    fill(&mut row.root_service_name, fragment.root_service_name);
    fill(&mut row.root_trace_name, fragment.root_trace_name);
    row.duration_ms = row.duration_ms.max(fragment.duration_ms);
    row.start_time_unix_nano = row.start_time_unix_nano.min(fragment.start_time_unix_nano);
    for (service, counts) in fragment.service_stats {
        let known = row.service_stats.entry(service).or_insert(counts);
        known.error_count = known.error_count.max(counts.error_count);
        known.span_count = known.span_count.max(counts.span_count);
    }
    for spans in fragment.span_sets {
        let group: Vec<&KeyValue> = grouping(&spans);
        let alike = row
            .span_sets
            .iter()
            .position(|known| grouping(known) == group);
        match alike {
            None => row.span_sets.push(spans),
            Some(place) if row.span_sets[place].matched < spans.matched => {
                row.span_sets[place] = spans
            }
            Some(_) => {}
        }
    }
}

/// What a span set was grouped by: two sets of one group are the same set, seen twice.
fn grouping(spans: &SpanSet) -> Vec<&KeyValue> {
    let of_by = |attribute: &&KeyValue| attribute.key.starts_with("by");
    spans.attributes.iter().filter(of_by).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(id: &str, start_ns: u64, duration_ms: u32) -> TraceSearchMetadata {
        TraceSearchMetadata {
            trace_id: id.to_owned(),
            start_time_unix_nano: start_ns,
            duration_ms,
            ..Default::default()
        }
    }

    #[test]
    fn fragments_are_combined_by_maximum() {
        let mut combiner = Combiner::new(10, false);
        combiner.add(trace("a", 20, 5));
        combiner.add(trace("a", 10, 3));
        let found = combiner.into_traces();
        assert_eq!(
            (found[0].start_time_unix_nano, found[0].duration_ms),
            (10, 5)
        );
    }

    #[test]
    fn most_recent_keeps_the_newest_and_does_not_reorder_a_lowered_start() {
        let mut combiner = Combiner::new(2, true);
        for (id, start_ns) in [("a", 10), ("b", 30), ("c", 20)] {
            combiner.add(trace(id, start_ns, 1));
        }
        combiner.add(trace("b", 5, 1));
        let found: Vec<(String, u64)> = combiner
            .into_traces()
            .into_iter()
            .map(|trace| (trace.trace_id, trace.start_time_unix_nano))
            .collect();
        assert_eq!(found, [("b".to_owned(), 5), ("c".to_owned(), 20)]);
    }
}
