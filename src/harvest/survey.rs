//! Having Tempo count before anything is fetched, so that windows can be cut to hold what one answer should bring.
//!
//! A few counting queries (one for each stretch that the server counts at once, finer ones where it is dense) say how full
//! windows will be; a refusal that is provoked says how much one search may ask for. Whatever cannot be had is left out:
//! then windows are cut at edges, and what they turn out to hold decides.

use std::time::Duration;

use futures::{StreamExt, stream};
use sqlx::PgPool;

use super::{
    bands,
    log::{Log, describe_failure},
};
use crate::{
    job::TracesPerRequest,
    plan::density::{Histogram, Piece, Sizing},
    store::{Holder, fetches, sources},
    tempo::{Class, Client, Count, Failure, Learned, Urgency},
    window::{Window, WindowSet},
};

/// The most traces asked for without being told to: Tempo allocates for the limit, about 1 MB for a thousand.
const AUTO_CEILING: u32 = 100_000;
/// A search without a query has to stay below half of its limit to be believed. Where that would make for many more
/// requests, because the server allows few traces a search, the dearer search with a query costs less.
const QUERYLESS_CEILING: u32 = 2_000;
/// In a young block fragments count towards the limit of a search without a query, and traces without a root are not
/// counted by the server: such an answer has to be smaller than its limit by this factor, whatever the count says.
pub(super) const QUERYLESS_MARGIN: usize = 2;

/// The share of the limit that a search with a query is planned to fill, and one without, which asks for 9/4 of it.
const FILL: f64 = 0.97;
const FILL_QUERYLESS: f64 = 4.0 / 9.0;
/// What an answer should not be larger than, bytes: Tempo's own parts send each other 16 MiB at most.
const ANSWER_BYTES: f64 = 8.0 * 1_048_576.0;
/// Smallest range worth a question of its own, seconds.
const WORTH_COUNTING_S: i64 = 300;
/// Windows that are to be no longer than this, seconds, are not sized by counts.
const SHORT_WINDOW_S: i64 = 60;
/// Tempo's default: what one count may span, seconds.
const METRICS_MAX_DURATION_S: i64 = 86_400;
/// Tempo gives at most 10,000 steps; this leaves room for the edges.
const MOST_STEPS: i64 = 9_600;
/// The coarse count's steps, seconds, or longer ones where the range is too long for these.
const COARSE_STEP_S: i64 = 10;
/// A step that holds more than this share of what a window may is counted anew, second by second.
const FINE_FROM: u64 = 24;
/// As many traces are worth a window of their own, so that several are fetched at once.
const WORTH_A_WINDOW: u64 = 10_000;
/// Assumed where the server does not say how long traces last, seconds.
const MEAN_DURATION_S: f64 = 0.25;
/// How long all questions together may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest limit that a search is asked with.
pub(super) fn ceiling(client: &Client) -> u32 {
    let allowed = client.limits().max_result_limit.unwrap_or(u32::MAX);
    match client.source().limits.traces_per_request {
        TracesPerRequest::Auto => allowed.min(AUTO_CEILING),
        TracesPerRequest::Fixed(limit) => allowed.min(limit),
    }
    .max(1)
}

/// Whether a search without a query, which is cheaper for Tempo, is the one to try where the windows are old enough.
pub(super) fn prefers_queryless(client: &Client, query: Option<&str>, detail: &str) -> bool {
    query.is_none() && detail == "trace" && ceiling(client) >= QUERYLESS_CEILING
}

/// Bytes of an answer for each trace, before any answer is known. Measured on traces of four spans.
fn usual_bytes_per_trace(detail: &str) -> f64 {
    match detail {
        "trace" => 90.0,
        "spans" => 1_500.0,
        _ => 210.0,
    }
}

/// Why nothing is known of how much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Uncounted {
    /// Nobody wanted to know.
    #[error("unknown: --no-count")]
    NotWanted,
    /// Less than is worth a question.
    #[error("not asked: the range is too short to be worth counting")]
    TooShort,
    /// Windows are to be so short that they are seldom full.
    #[error("not asked: windows of a minute or less are not cut by counts")]
    ShortWindows,
    /// The server was found not to count what is there.
    #[error("not asked: this Tempo did not count what is there when it was last asked")]
    DoesNotCount,
    /// No series at all.
    #[error(
        "unknown: Tempo counted no traces in this range (it says the same where it does not count)"
    )]
    Nothing,
    /// Refused, or no answer.
    #[error("unknown: Tempo refused to count, or did not answer")]
    Failed,
    /// Out of patience.
    #[error("unknown: counting takes longer than a minute")]
    TooSlow,
}

/// What is to be surveyed.
#[derive(Debug, Clone, Copy)]
pub struct Surveyor<'a> {
    /// The database; `None`: nothing is looked up, written down or remembered.
    pub pool: Option<&'a PgPool>,
    /// This process.
    pub holder: &'a Holder,
    /// The source.
    pub client: &'a Client,
    /// The dataset.
    pub dataset: &'a str,
    /// Its TraceQL filter.
    pub query: Option<&'a str>,
    /// Its detail.
    pub detail: &'a str,
}

/// What a survey found.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// How windows are to be cut.
    pub sizing: Sizing,
    /// Traces that one search may bring; a second that holds as many is fetched in bands.
    pub ceiling: u32,
    /// Requests that it took.
    pub requests: u32,
}

impl Survey {
    /// Searches that these windows will take: one each, but for a second that is fuller than one may bring.
    pub fn searches(&self, windows: &[Piece]) -> u64 {
        let ceiling = u64::from(self.ceiling);
        let searches = windows.iter().map(|piece| match piece.expected {
            Some(expected) if expected >= ceiling => {
                (expected as f64 / (bands::FILL_COUNTED * ceiling as f64)).ceil() as u64
            }
            _ => 1,
        });
        searches.sum()
    }
}

impl Surveyor<'_> {
    /// Has the open stretches counted. Takes a minute at most.
    ///
    /// # Errors
    /// If the server would not, or nothing is worth it.
    pub async fn survey(&self, open: &WindowSet, longest_s: i64) -> Result<Survey, Uncounted> {
        // They would have to be counted one by one.
        if longest_s <= SHORT_WINDOW_S {
            return Err(Uncounted::ShortWindows);
        }
        if open.seconds() < WORTH_COUNTING_S {
            return Err(Uncounted::TooShort);
        }
        if !self.client.may_count() {
            return Err(Uncounted::DoesNotCount);
        }
        let surveyed = tokio::time::timeout(PATIENCE, self.ask(open, longest_s)).await;
        surveyed.unwrap_or_else(|_| {
            let source = &self.client.source().name;
            tracing::info!(source, "counting takes too long; windows are cut at edges");
            Err(Uncounted::TooSlow)
        })
    }

    async fn ask(&self, open: &WindowSet, longest_s: i64) -> Result<Survey, Uncounted> {
        let mut requests = 0;
        let (mut histogram, counted) = self.coarse(open, &mut requests).await?;
        self.learn_result_limit(open, &mut requests).await;
        let ceiling = ceiling(self.client);
        let (budget, band_budget) = self.budget(ceiling).await;
        let mean_duration_s = self
            .fine(&mut histogram, &counted, budget, &mut requests)
            .await;
        let sizing = Sizing {
            histogram,
            counted,
            budget,
            band_budget,
            mean_duration_s,
            longest_s,
            at_once: self.client.source().limits.concurrency as u64,
            worth_a_window: WORTH_A_WINDOW,
        };
        Ok(Survey {
            sizing,
            ceiling,
            requests,
        })
    }

    fn log(&self) -> Log<'_> {
        Log {
            pool: self.pool,
            holder: self.holder,
            client: self.client,
            dataset: self.dataset,
            window_id: None,
            retry: 0,
            meter: None,
        }
    }

    /// Traces that a window may hold, and those that a band of one may; none where windows are not worth being cut into bands.
    async fn budget(&self, ceiling: u32) -> (u64, Option<u64>) {
        let learned = async {
            let Some(pool) = self.pool else {
                return Ok(None);
            };
            fetches::bytes_per_trace(&mut *pool.acquire().await?, self.dataset).await
        };
        let bytes = learned.await.unwrap_or_else(|error: sqlx::Error| {
            tracing::debug!(%error, "cannot look up how large answers are");
            None
        });
        let bytes = bytes.unwrap_or_else(|| usual_bytes_per_trace(self.detail));
        let queryless = prefers_queryless(self.client, self.query, self.detail);
        let fill = if queryless { FILL_QUERYLESS } else { FILL };
        let by_limit = f64::from(ceiling) * fill;
        let by_bytes = ANSWER_BYTES / bytes.max(1.0);
        // A search by duration is one with a query, and brings as much as the limit allows.
        let bands = !queryless && by_limit <= by_bytes;
        let band_budget = bands.then(|| (f64::from(ceiling) * bands::FILL_COUNTED).max(1.0) as u64);
        (by_limit.min(by_bytes).max(1.0) as u64, band_budget)
    }

    /// Counts all of it in steps as short as the server gives for as much as it counts at once.
    async fn coarse(
        &self,
        open: &WindowSet,
        requests: &mut u32,
    ) -> Result<(Histogram, WindowSet), Uncounted> {
        let mut counts = self.count_all(open, requests).await;
        if let Err(Failure {
            class: Class::Limit(learned @ Learned::MetricsMaxDuration(_)),
            ..
        }) = counts
        {
            self.learn(learned).await;
            counts = self.count_all(open, requests).await;
        }
        match counts {
            Ok(counted) => counted.ok_or(Uncounted::Nothing),
            Err(failure) => {
                tracing::debug!(error = %failure, "no count to be had; windows are cut at edges");
                Err(Uncounted::Failed)
            }
        }
    }

    /// One count after the other would take long for months; the first one alone tells what the server allows.
    async fn count_all(
        &self,
        open: &WindowSet,
        requests: &mut u32,
    ) -> Result<Option<(Histogram, WindowSet)>, Failure> {
        let most_s = self.client.limits().metrics_max_duration_s;
        // The edges are rounded to the step first, and then refused: a little less than is allowed.
        let most_s = most_s.unwrap_or(METRICS_MAX_DURATION_S) * 23 / 24;
        let step_s = COARSE_STEP_S.min(most_s).max(most_s / MOST_STEPS).max(1);
        let chunks = chunks(open, most_s.max(step_s), step_s);
        let count = |window| async move {
            let result = self.count(window, step_s).await;
            result.map(|histogram| (window, histogram))
        };
        let Some((&first, rest)) = chunks.split_first() else {
            return Ok(None);
        };
        *requests += 1;
        let mut counts = vec![count(first).await?];
        *requests += u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let at_once = self.client.source().limits.concurrency.max(1);
        let mut others = stream::iter(rest.to_vec())
            .map(count)
            .buffer_unordered(at_once);
        while let Some(counted) = others.next().await {
            match counted {
                Ok(counted) => counts.push(counted),
                Err(failure) => tracing::debug!(error = %failure, "a stretch was not counted"),
            }
        }
        if counts.iter().all(|(_, histogram)| histogram.is_none()) {
            // No series at all is no zero: this server may not count.
            return Ok(None);
        }
        let counted = counts.iter().map(|(window, _)| *window).collect();
        let steps = counts.into_iter().filter_map(|(_, histogram)| histogram);
        let mut steps: Vec<_> = steps.flat_map(|histogram| histogram.steps).collect();
        steps.sort_unstable_by_key(|step| step.start);
        steps.dedup_by_key(|step| step.start);
        Ok(Some((Histogram { steps }, counted)))
    }

    async fn count(&self, window: Window, step_s: i64) -> Result<Option<Histogram>, Failure> {
        let count = Count {
            window,
            step_s,
            query: self.query,
            urgency: Urgency::Background,
        };
        match self.log().count(&count).await {
            // Not everything that can be searched for can be counted: at most as many match as there are.
            Err(failure) if failure.class == Class::Query && self.query.is_some() => {
                let all = Count {
                    query: None,
                    ..count
                };
                self.log().count(&all).await
            }
            counted => counted,
        }
    }

    /// Counts what is dense second by second; returns how long a trace lasts, for there it matters.
    async fn fine(
        &self,
        histogram: &mut Histogram,
        counted: &WindowSet,
        budget: u64,
        requests: &mut u32,
    ) -> f64 {
        let dense = histogram
            .steps
            .iter()
            .filter(|step| step.seconds > 1 && step.count.saturating_mul(FINE_FROM) > budget);
        let dense: WindowSet = dense
            .filter_map(|step| Window::new(step.start, step.start + step.seconds))
            .collect();
        let dense = dense.intersection(counted);
        let mut mean = MEAN_DURATION_S;
        let chunks = chunks(&dense, MOST_STEPS, 1);
        if let Some(&first) = chunks.first() {
            *requests += 1;
            mean = self.mean_duration_s(first).await.unwrap_or(mean);
        }
        let count = |window| async move { (window, self.count(window, 1).await) };
        *requests += u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let at_once = self.client.source().limits.concurrency.max(1);
        let mut counts = stream::iter(chunks).map(count).buffer_unordered(at_once);
        while let Some((window, finer)) = counts.next().await {
            match finer {
                Ok(Some(finer)) => histogram.refine(finer, window),
                Ok(None) => {}
                Err(failure) => tracing::debug!(error = %failure, "no finer count to be had"),
            }
        }
        mean
    }

    async fn mean_duration_s(&self, window: Window) -> Option<f64> {
        let count = Count {
            window,
            step_s: window.seconds(),
            query: None,
            urgency: Urgency::Background,
        };
        let log = self.log();
        let asked = std::time::Instant::now();
        let result = self.client.mean_duration_s(&count).await;
        let mut fetch = log.row(
            "count",
            window,
            Some("avg_over_time(duration)"),
            asked.elapsed(),
        );
        if let Err(failure) = &result {
            describe_failure(&mut fetch, failure);
        }
        log.keep(fetch).await;
        result.ok().flatten()
    }

    /// How much one search may ask for, where that decides how windows are cut.
    async fn learn_result_limit(&self, open: &WindowSet, requests: &mut u32) {
        let Some(window) = open.iter().next() else {
            return;
        };
        let fixed = self.client.source().limits.traces_per_request != TracesPerRequest::Auto;
        if fixed || self.client.limits().max_result_limit.is_some() {
            return;
        }
        *requests += 1;
        let second = Window::new(window.start(), window.start() + 1).unwrap_or(window);
        let refusal = self.client.provoke_result_limit(second).await;
        let log = self.log();
        let mut fetch = log.row("search", second, None, refusal.elapsed);
        describe_failure(&mut fetch, &refusal);
        log.keep(fetch).await;
        if let Class::Limit(learned @ Learned::MaxResultLimit(_)) = refusal.class {
            self.learn(learned).await;
        }
    }

    async fn learn(&self, learned: Learned) {
        let source = &self.client.source().name;
        tracing::debug!(source, limit = %learned, "learned a limit");
        self.client.learn(learned);
        let Some(pool) = self.pool else {
            return;
        };
        let kept = async { sources::learn(&mut *pool.acquire().await?, source, learned).await };
        if let Err(error) = kept.await {
            tracing::debug!(%error, "cannot remember a learned limit");
        }
    }
}

/// The windows to have counted: all of what is open, in parts of at most so many seconds that begin and end at steps.
fn chunks(open: &WindowSet, most_s: i64, step_s: i64) -> Vec<Window> {
    let most_s = (most_s / step_s).max(1) * step_s;
    let mut chunks: Vec<Window> = Vec::new();
    for part in open.iter().flat_map(|stretch| stretch.cut_at_edges(most_s)) {
        let start = part.start().div_euclid(step_s) * step_s;
        let end = (part.end() + step_s - 1).div_euclid(step_s) * step_s;
        let cell = part.start().div_euclid(most_s);
        match chunks.last_mut() {
            Some(last) if last.start().div_euclid(most_s) == cell => {
                *last = Window::new(last.start(), end).unwrap_or(*last);
            }
            _ => chunks.extend(Window::new(start, end)),
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: i64, end: i64) -> Window {
        Window::new(start, end).unwrap()
    }

    #[test]
    fn what_is_open_is_counted_in_as_few_parts_as_will_do() {
        let open: WindowSet = [window(105, 300), window(420, 990), window(2_000, 3_500)]
            .into_iter()
            .collect();
        assert_eq!(
            chunks(&open, 1_000, 10),
            [window(100, 990), window(2_000, 3_000), window(3_000, 3_500)]
        );
    }
}
