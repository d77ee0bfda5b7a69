//! `GET /api/metrics/query_range` and `/api/metrics/query`: counting root spans over time, and how long they last.
//!
//! Intervals are closed at their right end and samples stamped there; the edges of a range are first rounded outward to the step and one
//! interval is put in front, which is why a range of exactly the maximum is refused. Sources:
//! `modules/frontend/metrics_query_range_handler.go`, `metrics_query_range_sharder.go`, `pkg/traceql/engine_metrics.go`.

use super::answer::{Answer, JSON, Refusal};
use super::json::{Exemplar, Sample, Series, query_range_response, query_response};
use super::params::{Params, go_duration, parse_step_ns, parse_timestamp_ns, trace_id_in_search};
use super::search::Conditions;
use super::span::Span;
use super::store::{Row, Store, delta, nanoseconds};
use super::traceql::evaluate::{TraceFacts, key_value};
use super::traceql::parser::parse;
use super::traceql::{OverTime, Query, QueryError};
use crate::tempo::wire::messages::{SearchMetrics, any_value};

/// At most this many examples are given with a count, and this many for one interval.
const MOST_EXEMPLARS: (usize, usize) = (100, 5);
/// Without `start`, this much before the end is counted.
const DEFAULT_RANGE_NS: i64 = 3_600_000_000_000;

/// Which of the two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One count for each step.
    Range,
    /// One count for the whole range.
    Instant,
}

/// A range, in nanoseconds since 1970, cut into intervals.
struct Intervals {
    kind: Kind,
    start_ns: u64,
    end_ns: u64,
    step_ns: u64,
}

/// One counted span.
struct Counted {
    start_ns: u64,
    duration_ns: u64,
    trace_id: [u8; 16],
}

/// Answers a count.
///
/// # Errors
/// With Tempo's status and words, when it would refuse.
pub(super) fn count(
    kind: Kind,
    params: &Params,
    store: &Store,
    conditions: &Conditions<'_>,
    metrics_enabled: bool,
) -> Result<Answer, Refusal> {
    let query = params
        .get("q")
        .or_else(|| params.get("query"))
        .unwrap_or("");
    let intervals = Intervals::check(kind, params, conditions)?;
    let query = parse(query).map_err(|error| match (&error, kind) {
        // The handler for ranges reads the hints first, and passes on the parser's words as they are.
        (QueryError::Syntax { .. }, Kind::Range) => error.to_string(),
        _ => format!("compiling query: {error}"),
    })?;
    let Some(over_time) = query.over_time else {
        return Err(Refusal::bad_request("not a metrics query"));
    };
    let intervals = intervals.aligned(conditions)?;
    let (series, metrics) = if metrics_enabled {
        intervals.count(&query, over_time, store, conditions)
    } else {
        let metrics = SearchMetrics {
            completed_jobs: 1,
            ..Default::default()
        };
        (Vec::new(), metrics)
    };
    let body = match kind {
        Kind::Range => query_range_response(&series, &metrics),
        Kind::Instant => query_response(&series, &metrics),
    };
    Ok(Answer::ok(JSON, body))
}

impl Intervals {
    fn check(kind: Kind, params: &Params, conditions: &Conditions<'_>) -> Result<Self, Refusal> {
        let now_ns = nanoseconds(conditions.now) as i64;
        let end_ns = match params.get("end") {
            Some(text) => parse_timestamp_ns("end", text)?,
            None => now_ns,
        };
        let start_ns = match params.get("start") {
            Some(text) => parse_timestamp_ns("start", text)?,
            None => end_ns.min(now_ns).saturating_sub(DEFAULT_RANGE_NS),
        };
        if start_ns > end_ns || (kind == Kind::Instant && start_ns == end_ns) {
            return Err(Refusal::bad_request("end must be greater than start"));
        }
        let (start_ns, end_ns) = (start_ns.max(0) as u64, end_ns.max(0) as u64);
        let range_ns = end_ns - start_ns;
        let step_ns = match (kind, params.get("step")) {
            (Kind::Instant, _) => range_ns,
            (Kind::Range, Some(text)) => parse_step_ns(text)?,
            (Kind::Range, None) => default_step_ns(range_ns),
        };
        let most_intervals = conditions.limits.metrics_max_intervals;
        if kind == Kind::Range
            && most_intervals != 0
            && range_ns
                .checked_div(step_ns)
                .is_none_or(|count| count > most_intervals)
        {
            return Err(Refusal::bad_request(format!(
                "step of {} is too small, minimum step for given range is {}",
                go_duration(step_ns),
                go_duration(range_ns / most_intervals)
            )));
        }
        if step_ns == 0 {
            return Err(Refusal::bad_request("step must be greater than 0"));
        }
        Ok(Self {
            kind,
            start_ns,
            end_ns,
            step_ns,
        })
    }

    /// Rounds the edges, trims the newest data off, and then holds the range against the maximum.
    fn aligned(mut self, conditions: &Conditions<'_>) -> Result<Self, Refusal> {
        let cutoff = delta(conditions.timing.query_end_cutoff);
        let latest_ns = nanoseconds(conditions.now - cutoff);
        if self.kind == Kind::Range {
            self.start_ns -= self.start_ns % self.step_ns;
            self.end_ns = self.end_ns.next_multiple_of(self.step_ns);
            if self.start_ns > self.step_ns {
                self.start_ns -= self.step_ns;
            }
            if latest_ns < self.end_ns {
                self.end_ns = latest_ns - latest_ns % self.step_ns;
            }
        } else {
            self.end_ns = self.end_ns.min(latest_ns);
        }
        let most_ns = conditions.limits.metrics_max_duration.as_nanos() as u64;
        if most_ns != 0 && self.end_ns.saturating_sub(self.start_ns) > most_ns {
            return Err(Refusal::bad_request(format!(
                "metrics query time range exceeds the maximum allowed duration of {}",
                go_duration(most_ns)
            )));
        }
        Ok(self)
    }

    fn interval_count(&self) -> usize {
        match self.kind {
            Kind::Instant => 1,
            Kind::Range => (self.end_ns.saturating_sub(self.start_ns) / self.step_ns) as usize,
        }
    }

    /// Which interval a span that starts then is counted in.
    fn interval_of(&self, start_ns: u64) -> Option<usize> {
        match self.kind {
            Kind::Instant => (self.start_ns..=self.end_ns)
                .contains(&start_ns)
                .then_some(0),
            Kind::Range => (start_ns > self.start_ns && start_ns <= self.end_ns)
                .then(|| ((start_ns - self.start_ns - 1) / self.step_ns) as usize),
        }
    }

    fn count(
        &self,
        query: &Query,
        over_time: OverTime,
        store: &Store,
        conditions: &Conditions<'_>,
    ) -> (Vec<Series>, SearchMetrics) {
        let counted = self.matching(query, store, conditions);
        let mut metrics = SearchMetrics::default();
        let settled_overlaps = store
            .settled
            .range_ns()
            .is_some_and(|(first_ns, last_ns)| first_ns <= self.end_ns && last_ns >= self.start_ns);
        if settled_overlaps {
            metrics.total_blocks = conditions.settled_blocks;
            metrics.total_jobs = conditions.settled_blocks;
            metrics.completed_jobs = conditions.settled_blocks;
            metrics.inspected_bytes = store.settled.len() as u64 * 58;
            metrics.total_block_bytes = store.settled.len() as u64 * 350;
        }
        metrics.inspected_spans = counted.len() as u64;
        let mut counts = vec![0_u64; self.interval_count()];
        let mut durations_ns = vec![0_u64; counts.len()];
        for span in &counted {
            if let Some(interval) = self.interval_of(span.start_ns)
                && interval < counts.len()
            {
                counts[interval] += 1;
                durations_ns[interval] += span.duration_ns;
            }
        }
        if counts.iter().all(|count| *count == 0) {
            return (Vec::new(), metrics);
        }
        let label = any_value::Value::String(over_time.name().to_owned());
        let exemplars = if query.without_exemplars() || self.kind == Kind::Instant {
            Vec::new()
        } else {
            self.exemplars(query, &counted, &counts)
        };
        let series = Series {
            labels: vec![key_value("__name__", label)],
            samples: counts
                .iter()
                .zip(&durations_ns)
                .enumerate()
                .map(|(interval, (count, sum_ns))| Sample {
                    timestamp_ms: (self.start_ns + (interval as u64 + 1) * self.step_ns)
                        / 1_000_000,
                    value: match over_time {
                        OverTime::Count => *count as f64,
                        OverTime::AverageDuration => *sum_ns as f64 / 1e9 / *count as f64,
                    },
                })
                .filter(|sample| !sample.value.is_nan())
                .collect(),
            exemplars,
        };
        (vec![series], metrics)
    }

    /// Every matching span that starts in the range.
    fn matching(&self, query: &Query, store: &Store, conditions: &Conditions<'_>) -> Vec<Counted> {
        let mut counted = Vec::new();
        let settled = store.settled.as_ref();
        for position in settled.overlapping_records(self.start_ns, self.end_ns) {
            let record = settled.record(position);
            let (root_service, root_name) = settled.root_of(record);
            let facts = TraceFacts {
                trace_id: &record.trace_id,
                start_ns: record.start_ns,
                end_ns: record.end_ns,
                root_service: root_service.map(AsRef::as_ref),
                root_name: root_name.map(AsRef::as_ref),
            };
            if query.only_roots() {
                self.count_spans(query, &facts, &settled.roots_of(record), &mut counted);
            } else {
                self.count_spans(query, &facts, &settled.spans_of(record), &mut counted);
            }
        }
        // As for searches: young spans are counted in the live store, older ones in what the block list knows.
        let backend_until_ns =
            nanoseconds(conditions.now - delta(conditions.timing.query_backend_after));
        let live = store
            .blocks
            .iter()
            .flat_map(|block| block.live_flushes().into_iter().flatten());
        let listed = store
            .blocks
            .iter()
            .filter_map(|block| block.listed_rows(conditions.now))
            .flatten();
        let sources: [(&mut dyn Iterator<Item = &Row>, _); 3] = [
            (&mut store.compacted.iter(), 0..=u64::MAX),
            (&mut { live }, backend_until_ns..=u64::MAX),
            (&mut { listed }, 0..=backend_until_ns.saturating_sub(1)),
        ];
        for (rows, starts_ns) in sources {
            for row in rows.filter(|row| row.overlaps(self.start_ns, self.end_ns)) {
                let (root_service, root_name) = row.root();
                let facts = TraceFacts {
                    trace_id: &row.fragment.trace_id,
                    start_ns: row.start_ns,
                    end_ns: row.end_ns,
                    root_service: root_service.map(AsRef::as_ref),
                    root_name: root_name.map(AsRef::as_ref),
                };
                let before = counted.len();
                self.count_spans(query, &facts, &row.fragment.spans, &mut counted);
                let added = counted.split_off(before);
                counted.extend(
                    added
                        .into_iter()
                        .filter(|span| starts_ns.contains(&span.start_ns)),
                );
            }
        }
        counted.sort_unstable_by_key(|span| (span.start_ns, span.trace_id));
        counted
    }

    fn count_spans(
        &self,
        query: &Query,
        facts: &TraceFacts<'_>,
        spans: &[Span],
        counted: &mut Vec<Counted>,
    ) {
        if query.excludes(facts) {
            return;
        }
        for position in query
            .evaluate(facts, spans)
            .into_iter()
            .flat_map(|set| set.spans)
        {
            let start_ns = spans[position].start_ns;
            if self.interval_of(start_ns).is_some() {
                counted.push(Counted {
                    start_ns,
                    duration_ns: spans[position].duration_ns(),
                    trace_id: *facts.trace_id,
                });
            }
        }
    }

    fn exemplars(&self, query: &Query, counted: &[Counted], counts: &[u64]) -> Vec<Exemplar> {
        let (most, most_an_interval) = MOST_EXEMPLARS;
        let mut given = vec![0; counts.len()];
        let mut exemplars = Vec::new();
        for span in counted {
            let Some(interval) = self.interval_of(span.start_ns) else {
                continue;
            };
            if interval >= counts.len() || given[interval] == most_an_interval {
                continue;
            }
            given[interval] += 1;
            let trace_id = any_value::Value::String(trace_id_in_search(&span.trace_id));
            let mut labels = vec![key_value("trace:id", trace_id)];
            if query.only_roots() {
                labels.push(key_value("nestedSetParent", any_value::Value::Int(-1)));
            }
            exemplars.push(Exemplar {
                labels,
                value: counts[interval] as f64,
                timestamp_ms: span.start_ns / 1_000_000,
            });
            if exemplars.len() == most {
                break;
            }
        }
        exemplars
    }
}

/// About 240 intervals, in steps that people read easily.
fn default_step_ns(range_ns: u64) -> u64 {
    const SECOND_NS: u64 = 1_000_000_000;
    let baseline_ns = range_ns / 240;
    if range_ns < 60 * SECOND_NS {
        return (baseline_ns / 50_000_000).max(1) * 50_000_000;
    }
    [3_600, 300, 60, 15, 5, 1]
        .into_iter()
        .map(|granularity_s| granularity_s * SECOND_NS)
        .find(|granularity_ns| baseline_ns > *granularity_ns)
        .map_or(SECOND_NS, |granularity_ns| {
            baseline_ns / granularity_ns * granularity_ns
        })
}
