//! Asking again without storing: which traces a window has, how many Tempo counts, and whether it knows a trace at all.
//!
//! For [`crate::verify`]. A list is got as a window is fetched, with the same rules about what counts as whole, down to bands of
//! one second; but never without a query, and what comes is only compared.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{
    Harvester, Outcome,
    log::{Log, describe_failure},
    work::Work,
};
use crate::{
    plan::density::{Histogram, Piece},
    retry, split,
    store::{found::Found, lease::Claimed, sources},
    tempo::{Class, Count, Failure, Urgency, wire::spans::Wanted},
    window::Window,
};

/// How often a request is made that fails, while the source is known to answer.
const TRIES: u32 = 5;
/// Traces that one search is to bring: about half of what Tempo's parts can send each other.
const TRACES_A_SEARCH: u64 = 30_000;
/// A window is never cut into more pieces than this before it is asked for.
const MOST_PIECES: u64 = 1_024;

/// Who asks, and for what.
#[derive(Debug)]
pub struct Lister<'a> {
    harvester: &'a Harvester,
    dataset: &'a str,
    query: Option<&'a str>,
    settle_s: i64,
    at_once: usize,
    requests: AtomicU32,
    /// Whether a request has failed for good: the source may be gone, and each window is then tried once only.
    failing: AtomicBool,
}

/// A trace that was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// All 16 bytes.
    pub trace_id: [u8; 16],
    /// Its start, Unix nanoseconds.
    pub start_ns: i64,
}

/// What Tempo knows of a trace by its ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Not,
    /// From its first span's start to its last span's end, Unix nanoseconds.
    Between(i64, i64),
}

impl<'a> Lister<'a> {
    /// Asks for a dataset, whose filter is `query`, at the harvester's source. Windows whose end is not this far behind the server's
    /// clock, seconds, are refused. So many requests are made at once as the source's limits say, or, `gently`, one after the other.
    pub fn new(
        harvester: &'a Harvester,
        dataset: &'a str,
        query: Option<&'a str>,
        settle_s: i64,
        gently: bool,
    ) -> Self {
        let at_once = match gently {
            true => 1,
            false => harvester.client.source().limits.concurrency.max(1),
        };
        Self {
            at_once,
            harvester,
            dataset,
            query,
            settle_s,
            requests: AtomicU32::new(0),
            failing: AtomicBool::new(false),
        }
    }

    /// Requests made so far.
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// So many windows may well be asked for at once.
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    fn asked(&self, requests: i32) {
        let requests = u32::try_from(requests).unwrap_or(0);
        self.requests.fetch_add(requests, Ordering::Relaxed);
    }

    fn tries(&self) -> u32 {
        match self.failing.load(Ordering::Relaxed) {
            true => 1,
            false => TRIES,
        }
    }

    fn log(&self) -> Log<'_> {
        Log {
            pool: Some(&self.harvester.pool),
            holder: &self.harvester.holder,
            client: &self.harvester.client,
            dataset: self.dataset,
            window_id: None,
            retry: 0,
            meter: Some(&self.harvester.meter),
        }
    }

    /// Every trace that has a part in the window, each at least once.
    ///
    /// # Errors
    /// Why there is no complete list.
    pub async fn list(&self, window: Window, expected: Option<u64>) -> Result<Vec<Listed>, String> {
        let pieces = expected.map_or(1, |n| n.div_ceil(TRACES_A_SEARCH).clamp(1, MOST_PIECES));
        let mut waiting = match pieces {
            1 => vec![Piece { window, expected }],
            pieces => split::evenly(window, i64::try_from(pieces).unwrap_or(1)),
        };
        let mut listed = Vec::new();
        while let Some(piece) = waiting.pop() {
            match self.piece(piece).await? {
                Part::Listed(traces) => listed.extend(traces),
                Part::Pieces(pieces) => waiting.extend(pieces),
            }
        }
        Ok(listed)
    }

    async fn piece(&self, piece: Piece) -> Result<Part, String> {
        let mut claimed = Claimed::of_no_ledger(
            piece.window,
            self.dataset,
            self.query,
            piece.expected,
            self.settle_s,
        );
        let mut failures = 0;
        loop {
            let mut work = Work::listing(self.harvester, &claimed);
            let outcome = work.fetch().await;
            let in_parts = work.listed.take().unwrap_or_default();
            self.asked(work.requests);
            let failure = match outcome {
                Outcome::Done { found, .. } => {
                    self.failing.store(false, Ordering::Relaxed);
                    let whole = match found {
                        Found::Summaries(traces) => traces,
                        Found::Spans(_) => Vec::new(),
                    };
                    let traces = in_parts.iter().chain(&whole);
                    let traces = traces.map(|trace| Listed {
                        trace_id: trace.trace_id,
                        start_ns: trace.start_ns,
                    });
                    return Ok(Part::Listed(traces.collect()));
                }
                Outcome::Split(pieces, _) => return Ok(Part::Pieces(pieces)),
                Outcome::Failed(failure) => failure,
                Outcome::Irreducible(why) | Outcome::Vanished(why) => return Err(why),
                Outcome::NotYet { why, .. } => return Err(why),
                Outcome::Database(error) => return Err(format!("the database failed: {error}")),
                Outcome::Stopped | Outcome::Lost => {
                    return Err("it was given up".to_owned());
                }
            };
            failures += 1;
            claimed.timeouts = match failure.class {
                Class::Timeout => claimed.timeouts + 1,
                _ => 0,
            };
            self.wait_after(failures, &failure)
                .await
                .ok_or_else(|| failure.to_string())?;
        }
    }

    /// Waits before the next try; `None`: there is to be none.
    async fn wait_after(&self, failures: u32, failure: &Failure) -> Option<()> {
        let passes = matches!(
            failure.class,
            Class::Passing | Class::Throttled | Class::Timeout | Class::Limit(_)
        );
        if !passes || failures >= self.tries() {
            self.failing.store(true, Ordering::Relaxed);
            return None;
        }
        // After too many requests the gate holds back the next one.
        if !matches!(failure.class, Class::Throttled | Class::Limit(_)) {
            tokio::time::sleep(retry::wait(failures, failure.retry_after)).await;
        }
        Some(())
    }

    /// Has root spans counted; the window begins and ends at steps. `None`: the server returned no series, which says nothing.
    ///
    /// # Errors
    /// Why not; a limit that it names is learned.
    pub async fn count(&self, window: Window, step_s: i64) -> Result<Option<Histogram>, Failure> {
        let count = Count {
            window,
            step_s,
            query: None,
            urgency: Urgency::Background,
        };
        let mut failures = 0;
        loop {
            self.asked(1);
            let failure = match self.log().count(&count).await {
                Ok(histogram) => {
                    self.failing.store(false, Ordering::Relaxed);
                    return Ok(histogram);
                }
                Err(failure) => failure,
            };
            if let Class::Limit(learned) = failure.class {
                self.harvester.client.learn(learned);
                let source = &self.harvester.client.source().name;
                let kept = async {
                    let mut conn = self.harvester.pool.acquire().await?;
                    sources::learn(&mut conn, source, learned).await
                };
                if let Err(error) = kept.await {
                    tracing::debug!(%error, "cannot remember a learned limit");
                }
                return Err(failure);
            }
            failures += 1;
            if self.wait_after(failures, &failure).await.is_none() {
                return Err(failure);
            }
        }
    }

    /// How long a range may be that is counted at once, seconds; `None`: the server has not said.
    pub fn count_at_most_s(&self) -> Option<i64> {
        self.harvester.client.limits().metrics_max_duration_s
    }

    /// Looks a trace up by its ID.
    ///
    /// # Errors
    /// Why it cannot be said whether Tempo knows it.
    pub async fn find(&self, trace_id: [u8; 16], near: Window) -> Result<Known, String> {
        let wanted = Wanted::new(std::iter::empty());
        let id = format!("{:032x}", u128::from_be_bytes(trace_id));
        let mut failures = 0;
        loop {
            self.asked(1);
            let client = &self.harvester.client;
            let result = client.trace(trace_id, &wanted, Urgency::Background).await;
            let elapsed = match &result {
                Ok(answer) => answer.elapsed,
                Err(failure) => failure.elapsed,
            };
            let log = self.log();
            let mut fetch = log.row("trace", near, Some(&id), elapsed);
            match &result {
                Ok(answer) => {
                    fetch.status = Some(answer.status);
                    fetch.returned = Some(answer.trace.spans.len());
                    fetch.bytes = Some(answer.bytes);
                }
                Err(failure) => describe_failure(&mut fetch, failure),
            }
            log.keep(fetch).await;
            let failure = match result {
                Ok(answer) => {
                    if answer.trace.partial == Some(true) && answer.trace.spans.is_empty() {
                        return Err(
                            "Tempo gives out nothing of it, and says that there is more".to_owned()
                        );
                    }
                    let spans = answer.trace.spans.iter();
                    let starts = spans.clone().map(|span| span.start_ns).min();
                    let ends = spans.map(|span| span.start_ns + span.duration_ns).max();
                    return Ok(match (starts, ends) {
                        (Some(start_ns), Some(end_ns)) => Known::Between(start_ns, end_ns),
                        _ => Known::Not,
                    });
                }
                Err(failure) => failure,
            };
            failures += 1;
            if self.wait_after(failures, &failure).await.is_none() {
                return Err(failure.to_string());
            }
        }
    }
}

/// What became of a part of a window.
enum Part {
    /// Its traces.
    Listed(Vec<Listed>),
    /// It is to be asked for in these.
    Pieces(Vec<Piece>),
}
