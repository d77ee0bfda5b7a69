//! What is asked of Tempo, written down request by request.

use std::time::Duration;

use sqlx::PgPool;

use super::survey;
use crate::{
    meter::Meter,
    plan::density::Histogram,
    store::{
        Holder,
        fetches::{self, Fetch},
    },
    tempo::{Class, Client, Count, Failure},
    window::Window,
};

/// For whom requests are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Log<'a> {
    /// `None`: nothing is written down.
    pub(super) pool: Option<&'a PgPool>,
    pub(super) holder: &'a Holder,
    pub(super) client: &'a Client,
    pub(super) dataset: &'a str,
    /// `None`: for a plan.
    pub(super) window_id: Option<i64>,
    /// Attempts at the window that had failed before.
    pub(super) retry: u32,
    /// Where this process counts what it asks; `None`: it is not counted.
    pub(super) meter: Option<&'a Meter>,
}

impl<'a> Log<'a> {
    /// A request that was answered, to be filled in.
    pub(super) fn row<'b>(
        &'b self,
        kind: &'static str,
        span: Window,
        query: Option<&'b str>,
        duration: Duration,
    ) -> Fetch<'b> {
        Fetch {
            source: &self.client.source().name,
            dataset: self.dataset,
            window_id: self.window_id,
            kind,
            span,
            query,
            traces_limit: None,
            server_limit: (kind == "search").then(|| survey::ceiling(self.client)),
            retry: self.retry,
            returned: None,
            outcome: "complete",
            status: None,
            bytes: None,
            inspected_bytes: None,
            duration,
            error: None,
        }
    }

    /// The log of requests is for people: nothing is given up because it cannot be written. Returns the number of what was.
    pub(super) async fn keep(&self, fetch: Fetch<'_>) -> Option<i64> {
        if let Some(meter) = self.meter {
            meter.note(&fetch);
        }
        let pool = self.pool?;
        let written = async {
            let mut conn = pool.acquire().await?;
            fetches::record(&mut conn, self.holder, &fetch).await
        };
        let written = written.await;
        if let Err(error) = &written {
            tracing::warn!(%error, "cannot log a request");
        }
        written.ok()
    }

    /// The answer to a search that was written down as complete does not count after all.
    pub(super) async fn throw_away(&self, fetch_id: Option<i64>, why: &str) {
        if let Some(meter) = self.meter {
            meter.note_thrown_away(&self.client.source().name, self.dataset);
        }
        let (Some(pool), Some(id)) = (self.pool, fetch_id) else {
            return;
        };
        let written = async { fetches::throw_away(&mut *pool.acquire().await?, id, why).await };
        if let Err(error) = written.await {
            tracing::warn!(%error, "cannot log that an answer did not count");
        }
    }

    /// Has spans counted. `None`: the server returned no series, which says nothing.
    pub(super) async fn count(&self, count: &Count<'_>) -> Result<Option<Histogram>, Failure> {
        let result = self.client.count(count).await;
        let elapsed = match &result {
            Ok(answer) => answer.elapsed,
            Err(failure) => failure.elapsed,
        };
        let mut fetch = self.row("count", count.window, count.query, elapsed);
        match &result {
            Ok(answer) => {
                fetch.status = Some(answer.status);
                // No series is an answer, though one of no intervals: nothing is there, or the server does not count.
                let steps = answer.histogram.as_ref().map(|counted| counted.steps.len());
                fetch.returned = Some(steps.unwrap_or(0));
                fetch.bytes = Some(answer.bytes);
            }
            Err(failure) => describe_failure(&mut fetch, failure),
        }
        self.keep(fetch).await;
        result.map(|answer| answer.histogram)
    }
}

/// Fills in how a request failed.
pub(super) fn describe_failure<'a>(fetch: &mut Fetch<'a>, failure: &'a Failure) {
    fetch.outcome = match failure.class {
        Class::Limit(_) => "limit",
        Class::TooLarge => "too_large",
        Class::Timeout => "timeout",
        Class::Throttled => "throttled",
        Class::Passing => "passing",
        Class::Access => "access",
        Class::Query => "query",
    };
    fetch.status = failure.status;
    fetch.error = Some(&failure.message);
}
