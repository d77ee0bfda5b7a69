//! How Tempo joins what it finds of one trace in several places, and what it keeps when there is more than was asked for.
//!
//! Followed to the letter, faults included, because the faults are what a client has to live with: durations and counts of fragments
//! are combined by maximum and not by sum, and with `most_recent` a kept trace's start may be lowered without the order being mended.
//! Source: `pkg/traceql/combine.go`, equal in 2.10 and 3.0.

use std::collections::HashMap;

use crate::tempo::wire::messages::{KeyValue, SpanSet, TraceSearchMetadata};

/// Collects the traces of one answer.
#[derive(Debug)]
pub(super) struct Combiner {
    limit: usize,
    most_recent: bool,
    found: Vec<TraceSearchMetadata>,
    positions: HashMap<String, usize>,
    /// With `most_recent`: positions by start, newest first, as of when each was added.
    newest_first: Vec<usize>,
}

impl Combiner {
    /// A combiner for at most `limit` traces.
    pub(super) fn new(limit: usize, most_recent: bool) -> Self {
        Self {
            limit,
            most_recent,
            found: Vec::new(),
            positions: HashMap::new(),
            newest_first: Vec::new(),
        }
    }

    /// Whether looking further is pointless. With `most_recent` it never is.
    pub(super) fn is_complete(&self) -> bool {
        !self.most_recent && self.found.len() >= self.limit
    }

    /// Whether a fragment of this trace would be taken; saves making one up that is not.
    pub(super) fn wants(&self, trace_id: &str, start_ns: u64) -> bool {
        self.found.len() < self.limit
            || self.positions.contains_key(trace_id)
            || (self.most_recent && self.oldest_kept_ns() <= start_ns)
    }

    /// Adds what was found of a trace in one place.
    pub(super) fn add(&mut self, incoming: TraceSearchMetadata) {
        if let Some(position) = self.positions.get(&incoming.trace_id) {
            combine(&mut self.found[*position], incoming);
            return;
        }
        if self.is_complete() {
            return;
        }
        if !self.most_recent {
            self.positions
                .insert(incoming.trace_id.clone(), self.found.len());
            self.found.push(incoming);
            return;
        }
        let start_ns = incoming.start_time_unix_nano;
        let slot = if self.found.len() < self.limit {
            self.found.len()
        } else {
            if self.oldest_kept_ns() > start_ns {
                return;
            }
            match self.newest_first.pop() {
                Some(oldest) => oldest,
                None => return,
            }
        };
        self.positions.insert(incoming.trace_id.clone(), slot);
        if slot == self.found.len() {
            self.found.push(incoming);
        } else {
            let replaced = std::mem::replace(&mut self.found[slot], incoming);
            self.positions.remove(&replaced.trace_id);
        }
        let found = &self.found;
        let place = self
            .newest_first
            .partition_point(|kept| found[*kept].start_time_unix_nano > start_ns);
        self.newest_first.insert(place, slot);
    }

    fn oldest_kept_ns(&self) -> u64 {
        self.newest_first
            .last()
            .map_or(0, |kept| self.found[*kept].start_time_unix_nano)
    }

    /// The traces kept: by start, newest first - with `most_recent`, by the start each had when it was added.
    pub(super) fn into_traces(self) -> Vec<TraceSearchMetadata> {
        let mut found = self.found;
        if !self.most_recent {
            found.sort_by_key(|trace| std::cmp::Reverse(trace.start_time_unix_nano));
            return found;
        }
        self.newest_first
            .into_iter()
            .map(|kept| std::mem::take(&mut found[kept]))
            .collect()
    }
}

/// Lays one fragment over another.
fn combine(existing: &mut TraceSearchMetadata, incoming: TraceSearchMetadata) {
    if existing.root_service_name.is_empty() {
        existing.root_service_name = incoming.root_service_name;
    }
    if existing.root_trace_name.is_empty() {
        existing.root_trace_name = incoming.root_trace_name;
    }
    existing.start_time_unix_nano = existing
        .start_time_unix_nano
        .min(incoming.start_time_unix_nano);
    existing.duration_ms = existing.duration_ms.max(incoming.duration_ms);
    for (service, stats) in incoming.service_stats {
        let kept = existing.service_stats.entry(service).or_default();
        kept.span_count = kept.span_count.max(stats.span_count);
        kept.error_count = kept.error_count.max(stats.error_count);
    }
    for set in incoming.span_sets {
        match existing
            .span_sets
            .iter_mut()
            .find(|kept| group_of(kept).eq(group_of(&set)))
        {
            Some(kept) if kept.matched < set.matched => *kept = set,
            Some(_) => {}
            None => existing.span_sets.push(set),
        }
    }
}

/// What makes two span sets the same one: what they were grouped by, if anything.
fn group_of(set: &SpanSet) -> impl Iterator<Item = &KeyValue> {
    set.attributes
        .iter()
        .filter(|attribute| attribute.key.starts_with("by"))
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
