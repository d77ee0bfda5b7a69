//! `/metrics`: what the ledger knows, and what this process counts, for Prometheus.
//!
//! The ledger's part is read from the database, at most once a second however often it is asked for, and is alike in every
//! process: queries take `max by (…)` of it; `families` names what is made of it. The process' own part comes from
//! [`crate::meter`]. If the database cannot be read, its part is missing and `tempo_harvest_ledger_up` says so: a number that
//! could not be had is not 0.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use chrono::{DateTime, TimeDelta, Utc};
use prometheus_client::{
    encoding::text,
    metrics::{gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};
use sqlx::PgPool;
use tokio::sync::Mutex;

use super::Shared;
use crate::{
    meter::Meter,
    status::{self, DatasetStatus},
    store::{
        metrics::{self, LastRequest, Runs, SourcePace, Windows},
        polls,
    },
    version,
    warnings::{self, Signs, Warning},
};

mod families;
mod form;

use self::{families::FromLedger, form::Form};

/// What every name begins with.
const PREFIX: &str = "tempo_harvest";
/// So long what was read is shown again: many may ask, and one reading serves them.
const FRESH: Duration = Duration::from_secs(1);
/// The database is not waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(8);
/// A source that was not asked for so long is neither up nor down.
const ASKED_WITHIN: TimeDelta = TimeDelta::minutes(5);

/// `/metrics`.
pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT);
    let accepts = accepts.and_then(|accepts| accepts.to_str().ok());
    let form = Form::accepted(accepts.unwrap_or(""));
    let ledger = shared.ledger.read(&shared.pool).await;
    match exposition(ledger, &shared.meter, shared.since) {
        Ok(text) => ([(header::CONTENT_TYPE, form.content_type())], form.of(text)).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// What was read of the ledger, and when.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Option<(Instant, Option<Arc<Snapshot>>)>>);

impl Ledger {
    /// What the ledger says now, or said within the last second; `None`: it cannot be read.
    async fn read(&self, pool: &PgPool) -> Option<Arc<Snapshot>> {
        // Whoever comes meanwhile waits here, and is served with what was read.
        let mut last = self.0.lock().await;
        if let Some((at, snapshot)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return snapshot.clone();
        }
        let snapshot = match tokio::time::timeout(PATIENCE, Snapshot::read(pool)).await {
            Ok(Ok(snapshot)) => Some(Arc::new(snapshot)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot read the ledger for /metrics");
                None
            }
            Err(_) => {
                tracing::warn!("the database does not answer in time for /metrics");
                None
            }
        };
        *last = Some((Instant::now(), snapshot.clone()));
        snapshot
    }
}

/// What the ledger says.
#[derive(Debug)]
pub struct Snapshot {
    now: DateTime<Utc>,
    statuses: Vec<DatasetStatus>,
    signs: Signs,
    warnings: Vec<Warning>,
    windows: Vec<Windows>,
    runs: Vec<Runs>,
    paces: Vec<SourcePace>,
    last_requests: Vec<LastRequest>,
    took: Duration,
}

impl Snapshot {
    /// Reads it.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn read(pool: &PgPool) -> sqlx::Result<Self> {
        let begun = Instant::now();
        let mut conn = pool.acquire().await?;
        let now = polls::clock(&mut conn).await?;
        let statuses = status::datasets(&mut conn, None, now).await?;
        let signs = warnings::signs(&mut conn, &statuses, now).await?;
        Ok(Self {
            now,
            warnings: warnings::of(&statuses, &signs, now),
            signs,
            statuses,
            windows: metrics::windows(&mut conn).await?,
            runs: metrics::runs(&mut conn).await?,
            paces: metrics::paces(&mut conn).await?,
            last_requests: metrics::last_requests(&mut conn, now - ASKED_WITHIN).await?,
            took: begun.elapsed(),
        })
    }

    fn age_s(&self, since: DateTime<Utc>) -> f64 {
        (self.now - since).as_seconds_f64()
    }
}

/// Everything, in OpenMetrics.
///
/// # Errors
/// If it cannot be written, which a string does not bring about.
pub fn exposition(
    ledger: Option<Arc<Snapshot>>,
    meter: &Meter,
    since: DateTime<Utc>,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    let build = Info::new([("version", version::RELEASE), ("revision", version::COMMIT)]);
    registry.register(
        "build",
        "The program's version, and the commit it was built from",
        build,
    );
    meter.register(&mut registry);
    registry.register_collector(Box::new(FromLedger(ledger)));
    let mut process = Registry::default();
    let started = ConstGauge::new(since.timestamp_millis() as f64 / 1_000.0);
    process.register_with_unit(
        "process_start_time",
        "When this process began, seconds since 1970",
        Unit::Seconds,
        started,
    );
    let mut out = String::new();
    text::encode_registry(&mut out, &process)?;
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_form_names_counters_by_their_samples() {
        let exposed = exposition(None, &Meter::default(), DateTime::UNIX_EPOCH).unwrap();
        assert!(exposed.contains("# TYPE tempo_harvest_job_file_rejected_edits counter\n"));
        assert!(exposed.ends_with("# EOF\n"));
        let text = Form::Text.of(exposed);
        assert!(text.contains("# TYPE tempo_harvest_job_file_rejected_edits_total counter\n"));
        assert!(text.contains("# TYPE tempo_harvest_build_info gauge\n"));
        assert!(text.contains("\ntempo_harvest_ledger_up 0.0\n"));
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
        assert!(!text.contains("tempo_harvest_traces"));
    }
}
