//! The requests for one window, each of which is written down.

use std::sync::Arc;

use super::{
    Work,
    judge::{about_another_window, is_cut},
};
use crate::{
    harvest::log::{Log, describe_failure},
    plan::density::Histogram,
    store::windows,
    tempo::{
        Answer, Class, Count, Failure, Search, Urgency,
        wire::spans::{TraceSpans, Wanted},
    },
    window::Window,
};

/// Most steps of one count.
const MOST_STEPS: i64 = 3_600;

impl<'a> Work<'a> {
    fn log(&self) -> Log<'a> {
        Log {
            pool: Some(&self.harvester.pool),
            holder: &self.harvester.holder,
            client: &self.harvester.client,
            dataset: &self.claimed.dataset,
            window_id: match self.listed {
                Some(_) => None,
                None => Some(self.claimed.lease.window_id),
            },
            retry: self.claimed.attempts + self.claimed.throttled,
            meter: Some(&self.harvester.meter),
        }
    }

    fn urgency(&self) -> Urgency {
        if self.claimed.priority >= windows::LIVE_PRIORITY {
            Urgency::Live
        } else {
            Urgency::Background
        }
    }

    /// Sends one search for the window and records it. It brings spans where these are searched for.
    pub(in crate::harvest) async fn search(
        &mut self,
        query: Option<String>,
        limit: u32,
    ) -> Result<Answer, Failure> {
        match (query, self.wanted.clone().filter(|_| self.in_bulk())) {
            (Some(spansets), Some(wanted)) => {
                let query = wanted.query(&spansets);
                self.send(Some(query), limit, Some(wanted)).await
            }
            (query, _) => self.send(query, limit, None).await,
        }
    }

    /// The same, but it never brings spans.
    pub(in crate::harvest) async fn search_summaries(
        &mut self,
        query: String,
        limit: u32,
    ) -> Result<Answer, Failure> {
        self.send(Some(query), limit, None).await
    }

    async fn send(
        &mut self,
        query: Option<String>,
        limit: u32,
        spans: Option<Arc<Wanted>>,
    ) -> Result<Answer, Failure> {
        let search = Search {
            window: self.claimed.window,
            query,
            limit,
            urgency: self.urgency(),
            spans,
        };
        self.requests += 1;
        let result = self.client().search(&search).await;
        let elapsed = match &result {
            Ok(answer) => answer.elapsed,
            Err(failure) => failure.elapsed,
        };
        let log = self.log();
        let mut fetch = log.row("search", search.window, search.query.as_deref(), elapsed);
        fetch.traces_limit = Some(limit);
        match &result {
            Ok(answer) => {
                let cut = is_cut(answer, limit);
                fetch.outcome = if cut {
                    "cut"
                } else if about_another_window(answer, search.window)
                    || self.too_young(answer.server_time, answer.elapsed).is_some()
                {
                    "unusable"
                } else {
                    "complete"
                };
                fetch.status = Some(answer.status);
                fetch.returned = Some(answer.body.traces.len());
                fetch.bytes = Some(answer.bytes);
                fetch.inspected_bytes = Some(answer.body.inspected_bytes);
            }
            Err(failure) => describe_failure(&mut fetch, failure),
        }
        self.searched = log.keep(fetch).await;
        result
    }

    /// Records that the answer to the last search, whole as it seemed, does not count.
    pub(in crate::harvest) async fn throw_away(&self, why: &str) {
        self.log().throw_away(self.searched, why).await;
    }

    /// Looks one trace up by its ID and records that.
    pub(in crate::harvest) async fn look_up(
        &mut self,
        trace_id: [u8; 16],
        wanted: &Wanted,
    ) -> Result<TraceSpans, Failure> {
        self.requests += 1;
        let result = self.client().trace(trace_id, wanted, self.urgency()).await;
        let elapsed = match &result {
            Ok(answer) => answer.elapsed,
            Err(failure) => failure.elapsed,
        };
        let log = self.log();
        let id = format!("{:032x}", u128::from_be_bytes(trace_id));
        let mut fetch = log.row("trace", self.claimed.window, Some(&id), elapsed);
        match &result {
            Ok(answer) => {
                if answer.trace.spans.is_empty() {
                    fetch.outcome = "unusable";
                } else if answer.trace.partial == Some(true) {
                    fetch.outcome = "cut";
                }
                fetch.status = Some(answer.status);
                fetch.returned = Some(answer.trace.spans.len());
                fetch.bytes = Some(answer.bytes);
            }
            Err(failure) => describe_failure(&mut fetch, failure),
        }
        log.keep(fetch).await;
        result.map(|answer| answer.trace)
    }

    /// The server's own count of root spans in the window: no series, or a histogram; `None` if it cannot be had.
    pub(super) async fn count(&mut self) -> Option<Option<Histogram>> {
        let window = self.claimed.window;
        if !self.client().may_count() {
            return None;
        }
        if self
            .client()
            .limits()
            .metrics_max_duration_s
            .is_some_and(|most| window.seconds() >= most)
        {
            return None;
        }
        self.requests += 1;
        let step_s = (window.seconds() + MOST_STEPS - 1) / MOST_STEPS;
        let to_step = |second: i64| second.div_euclid(step_s) * step_s;
        let count = Count {
            window: Window::new(to_step(window.start()), to_step(window.end() + step_s - 1))
                .unwrap_or(window),
            step_s,
            query: self.claimed.query.as_deref(),
            urgency: self.urgency(),
        };
        match self.log().count(&count).await {
            Ok(histogram) => Some(histogram),
            Err(Failure {
                class: Class::Limit(learned),
                ..
            }) => {
                self.learn(learned).await;
                None
            }
            Err(failure) => {
                tracing::debug!(error = %failure, "no count to be had");
                None
            }
        }
    }
}
