//! `GET /api/search`: what it refuses, in which order and words, and what it finds.
//!
//! The order of the checks is Tempo's: form of the parameters, limit, query, then - after the window has been trimmed to the query end
//! cutoff - its width and the spans per span set. Sources: `modules/frontend/search_handlers.go`, `search_sharder.go`,
//! `modules/livestore/instance_search.go`, `tempodb/encoding/vparquet*/wal_block.go`, `pkg/api/http.go`.

mod rows;
mod window;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use prost::Message as _;

use super::answer::Refusal;
use super::combine::Combiner;
use super::params::{Params, go_duration, span_id_in_search, trace_id_in_search};
use super::random::Random;
use super::span::{Span, service_counts};
use super::store::{Store, delta};
use super::traceql::evaluate::{Spanset, TraceFacts, answer_value, key_value};
use super::traceql::parser::parse;
use super::traceql::{Field, Query};
use super::{Limits, Timing};
use crate::tempo::wire::messages::{
    SearchMetrics, SearchResponse, ServiceStats, SpanSet, TraceSearchMetadata,
};
use rows::{Candidate, Shuffled};
use window::{Window, seconds};

/// What stands in an answer for the service of a root that has not arrived.
const ROOT_NOT_RECEIVED: &str = "<root span not yet received>";
/// A search without a limit answers with this many traces.
const DEFAULT_LIMIT: u32 = 20;
/// A search without `spss`, or with 0, answers with this many spans a span set.
const DEFAULT_SPANS_PER_SPAN_SET: u32 = 3;
/// About what a row costs in a block, and what of it a search reads without and with a query.
const ROW_BYTES: u64 = 350;
const INSPECTED_ROW_BYTES: (u64, u64) = (73, 174);

/// What the server is like, as far as queries depend on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditions<'server> {
    pub(super) limits: &'server Limits,
    pub(super) timing: &'server Timing,
    /// Number of blocks the settled traces are said to be in.
    pub(super) settled_blocks: u32,
    pub(super) now: DateTime<Utc>,
}

/// A search that nothing speaks against.
struct Search {
    window: Window,
    limit: usize,
    spans_per_span_set: usize,
    query: Option<Query>,
    fetched: Vec<Field>,
}

/// Answers a search.
///
/// # Errors
/// With Tempo's status and words, when it would refuse.
pub(super) fn search(
    params: &Params,
    store: &Store,
    conditions: &Conditions<'_>,
    random: &mut Random,
) -> Result<SearchResponse, Refusal> {
    let search = Search::check(params, conditions)?;
    let mut response = search.run(store, conditions, random);
    for trace in &mut response.traces {
        if trace.root_service_name.is_empty() {
            trace.root_service_name = ROOT_NOT_RECEIVED.to_owned();
        }
        trace.span_set = trace.span_sets.first().cloned();
    }
    let bytes = response.encoded_len();
    let most_bytes = conditions.limits.max_response_bytes;
    if bytes > most_bytes {
        return Err(Refusal::larger_than(bytes, most_bytes));
    }
    Ok(response)
}

impl Search {
    fn check(params: &Params, conditions: &Conditions<'_>) -> Result<Self, Refusal> {
        let limits = conditions.limits;
        let start_s = params.get_u32("start")?.unwrap_or(0);
        let end_s = params.get_u32("end")?.unwrap_or(0);
        let limit = params.get_u32("limit")?;
        if limit == Some(0) {
            return Err(Refusal::bad_request(
                "invalid limit: must be a positive number",
            ));
        }
        let spans_per_span_set = params
            .get_u32("spss")?
            .unwrap_or(DEFAULT_SPANS_PER_SPAN_SET);
        let asked = Window { start_s, end_s };
        if asked.end_s != 0 || asked.start_s != 0 {
            asked.check()?;
        }
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if limits.max_result_limit != 0 && limit > limits.max_result_limit {
            return Err(Refusal::bad_request(format!(
                "limit {limit} exceeds max limit {}",
                limits.max_result_limit
            )));
        }
        let query = match params.get("q") {
            Some(query) => {
                Some(parse(query).map_err(|error| format!("invalid TraceQL query: {error}"))?)
            }
            None => None,
        };
        let window = asked.clamped(conditions)?;
        window.check()?;
        let most_s = limits.max_duration.as_secs();
        if most_s != 0 && u64::from(window.end_s - window.start_s) > most_s {
            return Err(Refusal::bad_request(format!(
                "range specified by start and end exceeds {}. received start={} end={}",
                go_duration(limits.max_duration.as_nanos() as u64),
                window.start_s,
                window.end_s
            )));
        }
        let most_spans = limits.max_spans_per_span_set;
        if most_spans != 0 && spans_per_span_set > most_spans {
            return Err(Refusal::bad_request(format!(
                "spans per span set exceeds {most_spans}. received {spans_per_span_set}"
            )));
        }
        Ok(Self {
            window,
            limit: limit as usize,
            spans_per_span_set: match spans_per_span_set {
                0 => DEFAULT_SPANS_PER_SPAN_SET as usize,
                asked => asked as usize,
            },
            fetched: query.as_ref().map(Query::fetched).unwrap_or_default(),
            query,
        })
    }

    fn run(
        &self,
        store: &Store,
        conditions: &Conditions<'_>,
        random: &mut Random,
    ) -> SearchResponse {
        let (start_ns, end_ns) = self.window.nanoseconds();
        let mut combiner = self.combiner();
        let mut metrics = SearchMetrics::default();
        let backend_until_s =
            seconds(conditions.now - delta(conditions.timing.query_backend_after));
        if self.window.end_s >= backend_until_s {
            let live = Window {
                start_s: self.window.start_s.max(backend_until_s),
                end_s: self.window.end_s,
            };
            if live.start_s != live.end_s {
                metrics.total_jobs += 1;
                metrics.completed_jobs += 1;
                for trace in self.live(store, live, random) {
                    combiner.add(trace);
                }
            }
        }
        let backend = Window {
            start_s: self.window.start_s.min(backend_until_s),
            end_s: self.window.end_s.min(backend_until_s),
        };
        if backend.start_s != backend.end_s {
            let (from_ns, until_ns) = backend.nanoseconds();
            let listed = store
                .blocks
                .iter()
                .filter_map(|block| block.listed_rows(conditions.now))
                .filter(|rows| rows.iter().any(|row| row.overlaps(from_ns, until_ns)));
            for rows in listed {
                // A block is chosen by the part of the window that belongs to the backend, but searched with all of it.
                self.block(
                    &mut combiner,
                    &mut metrics,
                    1,
                    rows.len(),
                    random,
                    |rows_wanted| {
                        rows_wanted.extend(
                            rows.iter()
                                .filter(|row| row.overlaps(start_ns, end_ns))
                                .map(Candidate::Row),
                        );
                    },
                );
            }
        }
        if !store.compacted.is_empty() {
            self.block(
                &mut combiner,
                &mut metrics,
                1,
                store.compacted.len(),
                random,
                |wanted| {
                    wanted.extend(
                        store
                            .compacted
                            .iter()
                            .filter(|row| row.overlaps(start_ns, end_ns))
                            .map(Candidate::Row),
                    );
                },
            );
        }
        let settled = store.settled.as_ref();
        if settled
            .range_ns()
            .is_some_and(|(first_ns, last_ns)| first_ns <= end_ns && last_ns >= start_ns)
        {
            let blocks = conditions.settled_blocks;
            self.block(
                &mut combiner,
                &mut metrics,
                blocks,
                settled.len(),
                random,
                |wanted| {
                    wanted.extend(
                        settled
                            .overlapping_records(start_ns, end_ns)
                            .into_iter()
                            .map(|position| Candidate::Settled(settled, settled.record(position))),
                    );
                },
            );
        }
        SearchResponse {
            traces: combiner.into_traces(),
            metrics: Some(metrics),
        }
    }

    fn combiner(&self) -> Combiner {
        let most_recent = self.query.as_ref().is_some_and(Query::most_recent);
        Combiner::new(self.limit, most_recent)
    }

    /// Searches a block and accounts for it. Once enough is found, blocks are no longer looked at.
    fn block<'store>(
        &self,
        combiner: &mut Combiner,
        metrics: &mut SearchMetrics,
        jobs: u32,
        rows: usize,
        random: &mut Random,
        collect: impl FnOnce(&mut Vec<Candidate<'store>>),
    ) {
        metrics.total_blocks += jobs;
        metrics.total_jobs += jobs;
        metrics.total_block_bytes += rows as u64 * ROW_BYTES;
        if combiner.is_complete() {
            return;
        }
        let (without_query, with_query) = INSPECTED_ROW_BYTES;
        let row_bytes = if self.query.is_some() {
            with_query
        } else {
            without_query
        };
        metrics.inspected_bytes += rows as u64 * row_bytes;
        let mut candidates = Vec::new();
        collect(&mut candidates);
        let candidates = Shuffled::new(candidates, random);
        let found = self.find(candidates.iter());
        for trace in found {
            combiner.add(trace);
        }
        let stopped_early = combiner.is_complete() && jobs > 1;
        metrics.completed_jobs += if stopped_early {
            1 + random.below(u64::from(jobs) - 1) as u32
        } else {
            jobs
        };
    }

    /// What the live store finds: blocks that are not sealed yet count a trace once for every flush it is in.
    fn live(&self, store: &Store, window: Window, random: &mut Random) -> Vec<TraceSearchMetadata> {
        let (start_ns, end_ns) = window.nanoseconds();
        let mut combiner = self.combiner();
        for block in &store.blocks {
            if combiner.is_complete() {
                break;
            }
            let flushes: Vec<Shuffled<Candidate<'_>>> = block
                .live_flushes()
                .into_iter()
                .map(|rows| {
                    let wanted = rows
                        .iter()
                        .filter(|row| row.overlaps(start_ns, end_ns))
                        .map(Candidate::Row)
                        .collect();
                    Shuffled::new(wanted, random)
                })
                .collect();
            let found = if self.query.is_some() {
                self.find(flushes.iter().flat_map(Shuffled::iter))
            } else {
                let mut rows = Vec::new();
                for flush in &flushes {
                    rows.extend(self.find(flush.iter()));
                    if rows.len() >= self.limit {
                        break;
                    }
                }
                rows
            };
            for trace in found {
                combiner.add(trace);
            }
        }
        combiner.into_traces()
    }

    /// What matches among these rows: without a query the first `limit` rows, with one the first - or newest - `limit` traces.
    fn find<'rows>(
        &self,
        rows: impl Iterator<Item = &'rows Candidate<'rows>>,
    ) -> Vec<TraceSearchMetadata> {
        let Some(query) = &self.query else {
            return rows
                .take(self.limit)
                .map(|row| metadata(&row.facts()))
                .collect();
        };
        let mut combiner = self.combiner();
        for row in rows {
            let facts = row.facts();
            if query.excludes(&facts) {
                continue;
            }
            if query.most_recent()
                && !combiner.wants(&trace_id_in_search(facts.trace_id), facts.start_ns)
            {
                continue;
            }
            let spans = row.spans();
            let sets = query.evaluate(&facts, &spans);
            if sets.is_empty() {
                continue;
            }
            combiner.add(self.with_spans(&facts, &spans, sets));
            if combiner.is_complete() {
                break;
            }
        }
        combiner.into_traces()
    }

    fn with_spans(
        &self,
        facts: &TraceFacts<'_>,
        spans: &[Span],
        sets: Vec<Spanset>,
    ) -> TraceSearchMetadata {
        let named = self.fetched.contains(&Field::SpanName);
        let span_sets = sets
            .into_iter()
            .map(|set| SpanSet {
                matched: set.spans.len() as u32,
                attributes: set.attributes,
                spans: set
                    .spans
                    .iter()
                    .take(self.spans_per_span_set)
                    .map(|position| self.span(facts, spans, &spans[*position], named))
                    .collect(),
            })
            .collect();
        let service_stats: BTreeMap<String, ServiceStats> = service_counts(spans)
            .into_iter()
            .map(|(service, counts)| {
                let stats = ServiceStats {
                    span_count: counts.spans,
                    error_count: counts.errors,
                };
                (service.as_ref().to_owned(), stats)
            })
            .collect();
        TraceSearchMetadata {
            span_sets,
            service_stats,
            ..metadata(facts)
        }
    }

    fn span(
        &self,
        facts: &TraceFacts<'_>,
        spans: &[Span],
        span: &Span,
        named: bool,
    ) -> crate::tempo::wire::messages::Span {
        let attributes = self
            .fetched
            .iter()
            .filter_map(|field| {
                let value = answer_value(field, facts, spans, span)?.value?;
                Some(key_value(field.answer_key()?, value))
            })
            .collect();
        crate::tempo::wire::messages::Span {
            span_id: span_id_in_search(&span.span_id),
            name: if named {
                span.name.as_ref().to_owned()
            } else {
                String::new()
            },
            start_time_unix_nano: span.start_ns,
            duration_nanos: span.duration_ns(),
            attributes,
        }
    }
}

fn metadata(facts: &TraceFacts<'_>) -> TraceSearchMetadata {
    TraceSearchMetadata {
        trace_id: trace_id_in_search(facts.trace_id),
        root_service_name: facts.root_service.unwrap_or("").to_owned(),
        root_trace_name: facts.root_name.unwrap_or("").to_owned(),
        start_time_unix_nano: facts.start_ns,
        duration_ms: (facts.end_ns.saturating_sub(facts.start_ns) / 1_000_000) as u32,
        ..Default::default()
    }
}
