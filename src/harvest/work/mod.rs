//! Asking for one window: which request comes next. `requests` sends it and writes it down, `judge` says what its answer is
//! worth.

use std::sync::Arc;

use chrono::Utc;

use super::{
    Harvester, Outcome,
    bands::{self, Durations},
    spans::{self, Large},
    survey::{self, QUERYLESS_MARGIN},
};
use crate::{
    job::{Detail, TracesPerRequest},
    plan::density::{LONGEST_IN_BANDS_S, MOST_BANDS},
    split::{self, Decision, Density, OverLimit},
    store::{
        found::Found,
        lease::{Claimed, Figures},
        sources, windows,
    },
    tempo::{
        Class, Client, Failure, Learned,
        wire::{TraceSummary, spans::Wanted},
    },
    window::Window,
};

mod judge;
mod requests;

pub(super) use self::judge::Verdict;

/// Asked for when nothing is known.
const FIRST_LIMIT: u32 = 10_000;
/// The fewest asked for when the number is known: what reaches into a short window may be more than what starts in it.
const LEAST_LIMIT: u32 = 2_000;
/// Only older windows are searched without a query: young blocks may cut such an answer below the limit.
const QUERYLESS_AGE_S: i64 = 3_600;
/// An answer larger than is read costs as many attempts: Tempo's are not, unless it is allowed to send very much, and then those
/// of a few ever narrower windows are.
const ATTEMPTS_FOR_TOO_MUCH: u32 = 2;
/// How far around a window its density is looked up, seconds: the neighbours may still be under way.
const DENSITY_REACH_S: [i64; 2] = [3_600, 86_400];

/// Work on one window.
pub(super) struct Work<'a> {
    pub(super) harvester: &'a Harvester,
    pub(super) claimed: &'a Claimed,
    /// Requests made so far.
    pub(super) requests: i32,
    /// The last search, as it was written down.
    searched: Option<i64>,
    /// What is asked of each span; `None` unless the detail is spans.
    pub(super) wanted: Option<Arc<Wanted>>,
    /// Traces that came in parts, where these are listed and not stored.
    pub(super) listed: Option<Vec<TraceSummary>>,
}

impl<'a> Work<'a> {
    /// Nothing is asked yet.
    pub(super) fn new(harvester: &'a Harvester, claimed: &'a Claimed) -> Self {
        let attributes = claimed.attributes.iter().map(String::as_str);
        Self {
            harvester,
            claimed,
            requests: 0,
            searched: None,
            wanted: (claimed.detail == Detail::Spans.name())
                .then(|| Arc::new(Wanted::new(attributes))),
            listed: None,
        }
    }

    /// The same, for a list of the traces: nothing is stored, and no search is sent without a query.
    pub(super) fn listing(harvester: &'a Harvester, claimed: &'a Claimed) -> Self {
        Self {
            listed: Some(Vec::new()),
            ..Self::new(harvester, claimed)
        }
    }

    /// Whether searches bring spans. With a filter they would bring only those that match: then traces are searched for, and
    /// looked up one by one.
    pub(super) fn in_bulk(&self) -> bool {
        self.wanted.is_some() && self.claimed.query.is_none()
    }

    fn client(&self) -> &Client {
        &self.harvester.client
    }

    /// The largest limit that can be asked with.
    pub(super) fn ceiling(&self) -> u32 {
        survey::ceiling(self.client())
    }

    /// How much to ask for first, of a window that is known, or guessed from those near it, to hold so many.
    fn first_limit(&self, expected: Option<u64>) -> u32 {
        let ceiling = self.ceiling();
        let wanted = match (self.client().source().limits.traces_per_request, expected) {
            (TracesPerRequest::Fixed(limit), _) => limit,
            (TracesPerRequest::Auto, Some(expected)) => {
                u32::try_from(expected.saturating_mul(9) / 4)
                    .unwrap_or(u32::MAX)
                    .max(LEAST_LIMIT)
            }
            (TracesPerRequest::Auto, None) => FIRST_LIMIT,
        };
        wanted.min(ceiling)
    }

    /// Whether the window may be searched without a query, which is cheaper for Tempo: whether such an answer could be
    /// vouched for.
    fn may_be_queryless(&self) -> bool {
        let room = u64::from(self.ceiling()) / QUERYLESS_MARGIN as u64;
        self.listed.is_none()
            && survey::prefers_queryless(
                self.client(),
                self.claimed.query.as_deref(),
                &self.claimed.detail,
            )
            && self.claimed.expected.is_none_or(|expected| expected < room)
            && self.client().may_count()
    }

    pub(super) async fn fetch(&mut self) -> Outcome {
        let window = self.claimed.window;
        if let Some(most_s) = self
            .client()
            .limits()
            .max_duration_s
            .filter(|&most| window.seconds() > most)
        {
            return Outcome::Split(split::too_long(window, most_s), 0);
        }
        let ceiling = u64::from(self.ceiling());
        if let Some(expected) = self.claimed.expected.filter(|&n| n >= ceiling) {
            let near = bands::durations_near(self).await;
            if window.seconds() == 1 {
                return bands::harvest(self, near, Some(expected)).await;
            }
            // As it was planned, unless the limit has been lowered since then.
            let planned_so = window.seconds() <= LONGEST_IN_BANDS_S
                && expected <= ceiling.saturating_mul(MOST_BANDS);
            if planned_so && near.is_telling() {
                return bands::harvest(self, near, Some(expected)).await;
            }
            if planned_so {
                return Outcome::Split(split::counted_evenly(window, expected, ceiling), 0);
            }
        }
        let near = match self.claimed.expected {
            Some(_) => None,
            None => self.density_near().await,
        };
        if let Some(rate) = near
            && let Some(pieces) =
                split::over_full(window, self.ceiling(), &Density::PerSecond(rate))
        {
            return Outcome::Split(pieces, 0);
        }
        let estimated = near.map(|rate| (rate * window.seconds() as f64).ceil() as u64);
        let mut limit = self.first_limit(self.claimed.expected.or(estimated));
        let mut queryless =
            self.may_be_queryless() && window.end() <= Utc::now().timestamp() - QUERYLESS_AGE_S;
        let mut density = None;
        if queryless && self.claimed.expected.is_none() {
            // Such an answer could not be vouched for without a count: it is no use to ask for one before there is one.
            match self.count().await {
                Some(Some(histogram)) => {
                    let counted = Density::Counted(histogram);
                    if let Some(pieces) = split::over_full(window, self.ceiling(), &counted) {
                        return Outcome::Split(pieces, 0);
                    }
                    limit = self.first_limit(counted.of(window));
                    density = Some(counted);
                }
                // Where nothing is, no series come either, but then any search is cheap; and this server may not count at all.
                Some(None) | None => queryless = false,
            }
        }
        loop {
            let query = if queryless {
                None
            } else {
                Some(
                    self.claimed
                        .query
                        .clone()
                        .unwrap_or_else(|| "{ }".to_owned()),
                )
            };
            let answer = match self.search(query, limit).await {
                Ok(answer) => answer,
                Err(failure) => match self.after_failure(failure, &mut limit).await {
                    Some(outcome) => return outcome,
                    None => continue,
                },
            };
            if let Some(outcome) = self.too_young(answer.server_time, answer.elapsed) {
                return outcome;
            }
            if queryless && !self.is_old(answer.server_time) {
                self.throw_away("too young, by Tempo's clock, for a search without a query")
                    .await;
                queryless = false;
                continue;
            }
            match self.judge(answer, limit) {
                Err(failure) => return Outcome::Failed(failure),
                Ok(Verdict::Whole(found)) => {
                    if queryless
                        && let Found::Summaries(traces) = &found
                        && !self.is_vouched_for(traces, limit, density.as_ref())
                    {
                        self.throw_away(
                            "a search without a query that Tempo's count does not vouch for",
                        )
                        .await;
                        queryless = false;
                        continue;
                    }
                    return match spans::complete(self, &[], found).await {
                        Ok((found, before)) => whole(found, before),
                        Err(outcome) => outcome,
                    };
                }
                Ok(Verdict::Cut(sample)) => {
                    let known = match density.take() {
                        Some(known) => known,
                        None => self.density().await,
                    };
                    let known = believable(known, window, sample.len());
                    let over = OverLimit {
                        window,
                        limit,
                        ceiling: self.ceiling(),
                        density: &known,
                    };
                    match split::over_limit(&over) {
                        Decision::AskAgain { limit: more } => limit = more,
                        Decision::Pieces(pieces) => return Outcome::Split(pieces, 0),
                        Decision::Bands => {
                            let counted = known.of(window);
                            return bands::harvest(self, Durations::of(&sample), counted).await;
                        }
                    }
                    density = Some(known);
                }
            }
        }
    }

    /// What a failed request means for the window; `None`: a limit was learned, ask again.
    async fn after_failure(&mut self, failure: Failure, limit: &mut u32) -> Option<Outcome> {
        let window = self.claimed.window;
        match failure.class {
            Class::Limit(learned) => {
                self.learn(learned).await;
                match learned {
                    Learned::MaxResultLimit(most) if most < *limit => {
                        *limit = most;
                        None
                    }
                    Learned::MaxSpansPerSpanSet(_) if self.in_bulk() => None,
                    Learned::MaxDuration(most_s) if most_s < window.seconds() => {
                        Some(Outcome::Split(split::too_long(window, most_s), 0))
                    }
                    // It refuses what it says it allows.
                    _ => Some(Outcome::Failed(failure)),
                }
            }
            Class::TooLarge | Class::Timeout
                if failure.class == Class::TooLarge || self.claimed.timeouts >= 1 =>
            {
                // A server that never answers in time must not be asked for ever narrower windows: pieces go on with the
                // attempts that are left.
                let spent = match failure.class {
                    Class::Timeout => self.claimed.attempts + 1,
                    _ if failure.is_more_than_read() => {
                        let spent = self.claimed.attempts.saturating_add(ATTEMPTS_FOR_TOO_MUCH);
                        if spent >= self.client().source().limits.max_attempts {
                            return Some(Outcome::Failed(failure));
                        }
                        spent
                    }
                    _ => 0,
                };
                let mut decision = split::too_large(window);
                if failure.class == Class::TooLarge && self.in_bulk() {
                    let sample = match spans::too_large(self, &[]).await {
                        Ok(Large::Over(sample)) => sample,
                        Ok(Large::Found(found, before)) => {
                            return Some(whole(found, before));
                        }
                        Err(outcome) => return Some(outcome),
                    };
                    if window.seconds() == 1 {
                        return Some(bands::harvest(self, Durations::of(&sample), None).await);
                    }
                    if !sample.is_empty() {
                        decision = Decision::Pieces(spans::pieces(window, &sample));
                    }
                }
                Some(match decision {
                    Decision::Pieces(pieces) => Outcome::Split(pieces, spent),
                    Decision::Bands if failure.class == Class::TooLarge => {
                        bands::harvest(self, Durations::default(), None).await
                    }
                    _ => Outcome::Failed(failure),
                })
            }
            _ => Some(Outcome::Failed(failure)),
        }
    }

    pub(super) async fn learn(&self, learned: Learned) {
        let source = &self.client().source().name;
        tracing::info!(source, limit = %learned, "learned a limit");
        self.client().learn(learned);
        let kept = async {
            sources::learn(&mut *self.harvester.pool.acquire().await?, source, learned).await
        };
        if let Err(error) = kept.await {
            tracing::warn!(%error, "cannot remember a learned limit");
        }
    }

    async fn density(&mut self) -> Density {
        match self.count().await {
            Some(Some(histogram)) => return Density::Counted(histogram),
            Some(None) => self.client().cannot_count(),
            None => {}
        }
        self.density_near()
            .await
            .map_or(Density::Unknown, Density::PerSecond)
    }

    /// Traces per second in the windows done nearest to this one; `None` if there are none, or none was found in them.
    async fn density_near(&self) -> Option<f64> {
        let (dataset, window) = (&self.claimed.dataset, self.claimed.window);
        let mut conn = self.harvester.pool.acquire().await.ok()?;
        for reach_s in DENSITY_REACH_S {
            let near = windows::density_near(&mut conn, dataset, window, reach_s).await;
            if let Some(rate) = near.ok()?.filter(|&rate| rate > 0.0) {
                return Some(rate);
            }
        }
        None
    }
}

fn whole(found: Found, before: Figures) -> Outcome {
    Outcome::Done {
        found,
        before,
        seen: Vec::new(),
    }
}

/// A count that is far below what was seen is no guide.
fn believable(density: Density, window: Window, seen: usize) -> Density {
    match density {
        Density::Counted(histogram) if histogram.count_in(window) < seen as u64 / 2 => {
            Density::Unknown
        }
        known => known,
    }
}
