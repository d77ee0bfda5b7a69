//! `/metrics`: what the ledger knows, and what this process counts, for Prometheus.
//!
//! The ledger's part is read from the database, at most once a second however often it is asked for, and is alike in every
//! process: queries take `max by (…)` of it. The process' own part comes from [`crate::meter`]. If the database cannot be
//! read, its part is missing and `tempo_harvest_ledger_up` says so: a number that could not be had is not 0.

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
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};
use sqlx::PgPool;
use tokio::sync::Mutex;

use super::Shared;
use crate::{
    gaps::Reason,
    job::Detail,
    meter::Meter,
    status::{self, DatasetStatus},
    store::{
        metrics::{self, LastRequest, Runs, SourcePace, Windows},
        polls,
    },
    version,
    warnings::{self, Signs, Warning},
};

/// What every name begins with.
const PREFIX: &str = "tempo_harvest";
/// So long what was read is shown again: many may ask, and one reading serves them.
const FRESH: Duration = Duration::from_secs(1);
/// The database is not waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(8);
/// A source that was not asked for so long is neither up nor down.
const ASKED_WITHIN: TimeDelta = TimeDelta::minutes(5);
/// Labels and what is measured.
type Row = (Vec<(&'static str, String)>, f64);

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

/// The two forms that Prometheus reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    OpenMetrics,
    /// What everything else reads, `promtool check metrics` among it.
    Text,
}

impl Form {
    fn accepted(accepts: &str) -> Self {
        match accepts.contains("application/openmetrics-text") {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// An exposition in OpenMetrics in this form: the older one names counters and infos by their samples, and knows neither
    /// infos, units nor an end.
    fn of(self, exposition: String) -> String {
        if self == Self::OpenMetrics {
            return exposition;
        }
        let mut text = String::with_capacity(exposition.len());
        let mut lines = exposition.lines().peekable();
        while let Some(line) = lines.next() {
            let Some(comment) = line.strip_prefix("# ") else {
                text.push_str(line);
                text.push('\n');
                continue;
            };
            // HELP stands before TYPE, and is named by it.
            if let Some((name, help)) = comment
                .strip_prefix("HELP ")
                .and_then(|rest| rest.split_once(' '))
            {
                let kind = lines
                    .peek()
                    .and_then(|line| line.rsplit(' ').next())
                    .unwrap_or("untyped");
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    kind => ("", kind),
                };
                text.push_str(&format!(
                    "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"
                ));
            }
        }
        text
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

/// The ledger's metrics.
#[derive(Debug)]
struct FromLedger(Option<Arc<Snapshot>>);

impl Collector for FromLedger {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families(encoder);
        let up = f64::from(u8::from(self.0.is_some()));
        out.single(
            "ledger_up",
            "1 if the database could be read for this; 0: everything that stands in it is missing here",
            None,
            up,
        )?;
        let Some(ledger) = &self.0 else {
            return Ok(());
        };
        out.single(
            "ledger_read_duration",
            "How long reading the database for this took",
            Some(Unit::Seconds),
            ledger.took.as_secs_f64(),
        )?;
        datasets(&mut out, ledger)?;
        progress(&mut out, ledger)?;
        live(&mut out, ledger)?;
        verified(&mut out, ledger)?;
        sources(&mut out, ledger)?;
        alarms(&mut out, ledger)
    }
}

/// Writes families.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn single(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) -> fmt::Result {
        let help = format!("{help}.");
        let metric = self
            .0
            .encode_descriptor(name, &help, unit.as_ref(), MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        rows: impl IntoIterator<Item = Row>,
    ) -> fmt::Result {
        // The registry ends its own with a full stop.
        let help = format!("{help}.");
        let mut family = self
            .0
            .encode_descriptor(name, &help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in rows {
            let gauge = ConstGauge::new(value);
            gauge.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The labels of a dataset.
fn of_dataset(status: &DatasetStatus) -> Vec<(&'static str, String)> {
    vec![
        ("dataset", status.state.name.clone()),
        ("source", status.state.source.clone()),
    ]
}

/// One row for each dataset that has a value.
fn by_dataset(ledger: &Snapshot, value: impl Fn(&DatasetStatus) -> Option<f64>) -> Vec<Row> {
    let statuses = ledger.statuses.iter();
    statuses
        .filter_map(|status| Some((of_dataset(status), value(status)?)))
        .collect()
}

fn datasets(out: &mut Families<'_>, ledger: &Snapshot) -> fmt::Result {
    let all = |value: fn(&DatasetStatus) -> i64| {
        by_dataset(ledger, move |status| Some(value(status) as f64))
    };
    out.gauge(
        "traces",
        "Traces stored",
        None,
        all(|status| status.state.traces),
    )?;
    out.gauge(
        "spans",
        "Spans stored, of datasets of detail spans",
        None,
        by_dataset(ledger, |status| {
            (status.state.detail == Detail::Spans.name()).then_some(status.state.spans as f64)
        }),
    )?;
    let seconds = Some(Unit::Seconds);
    out.gauge(
        "requested",
        "Seconds of traces asked for, of all submissions together",
        seconds.clone(),
        all(|status| status.requested.seconds()),
    )?;
    out.gauge(
        "covered",
        "Seconds of traces completely collected: sealed",
        seconds.clone(),
        all(|status| status.covered.seconds()),
    )?;
    out.gauge(
        "missing",
        "Seconds of traces that should be completely collected by now, and are not",
        seconds.clone(),
        all(DatasetStatus::missing_s),
    )?;
    let mut gaps = Vec::new();
    for status in &ledger.statuses {
        let mut by_reason: std::collections::BTreeMap<&str, i64> =
            Reason::NAMES.iter().map(|name| (*name, 0)).collect();
        for gap in &status.gaps {
            *by_reason.entry(gap.reason.name()).or_default() += gap.window.seconds();
        }
        for (reason, sum) in by_reason {
            let mut labels = of_dataset(status);
            labels.push(("reason", reason.to_owned()));
            gaps.push((labels, sum as f64));
        }
    }
    out.gauge(
        "gap",
        "Seconds of traces asked for and not sealed, by reason as in `gaps`; provisional, too young and in flight are no cause for alarm",
        seconds.clone(),
        gaps,
    )?;
    out.gauge(
        "last_window_done_timestamp",
        "When a window of the dataset was last done, seconds since 1970",
        seconds,
        by_dataset(ledger, |status| {
            status
                .state
                .last_done_at
                .map(|at| at.timestamp_millis() as f64 / 1_000.0)
        }),
    )
}

fn progress(out: &mut Families<'_>, ledger: &Snapshot) -> fmt::Result {
    let seconds = Some(Unit::Seconds);
    let labels = |windows: &Windows| {
        vec![
            ("dataset", windows.dataset.clone()),
            ("look", windows.look.clone()),
            ("state", windows.state.clone()),
        ]
    };
    let windows = ledger.windows.iter();
    out.gauge(
        "windows",
        "Windows queued, being fetched (running), paused, and resting as failed",
        None,
        windows
            .clone()
            .map(|windows| (labels(windows), windows.windows as f64)),
    )?;
    out.gauge(
        "oldest_window_age",
        "How long ago the oldest of these windows was planned",
        seconds.clone(),
        windows.map(|windows| (labels(windows), ledger.age_s(windows.oldest))),
    )?;
    out.gauge(
        "backlog",
        "Seconds of traces that should be collected by now, at any look, and are not",
        seconds.clone(),
        by_dataset(ledger, |status| Some(status.backlog.seconds as f64)),
    )?;
    out.gauge(
        "backlog_growth",
        "By how much the backlog has grown in 15 minutes, what was submitted in them left out; below 0 where it shrinks",
        seconds.clone(),
        by_dataset(ledger, |status| Some(status.backlog.grown_s as f64)),
    )?;
    out.gauge(
        "backlog_age",
        "How long ago the oldest second of the backlog was; 0 without a backlog",
        seconds.clone(),
        by_dataset(ledger, |status| {
            let oldest = status.backlog.oldest_s;
            Some(oldest.map_or(0.0, |oldest_s| (ledger.now.timestamp() - oldest_s) as f64))
        }),
    )?;
    let run = |runs: &Runs| vec![("job", runs.job.clone()), ("kind", runs.kind.clone())];
    out.gauge(
        "runs",
        "Runs of the last year, by state; open ones are not bound to it",
        None,
        ledger.runs.iter().map(|runs| {
            let mut labels = run(runs);
            labels.push(("state", runs.state.clone()));
            (labels, runs.runs as f64)
        }),
    )?;
    out.gauge(
        "last_run_complete_timestamp",
        "When the last run of this kind ended that is complete, seconds since 1970",
        seconds,
        ledger
            .runs
            .iter()
            .filter(|runs| runs.state == "complete")
            .filter_map(|runs| Some((run(runs), runs.finished_at?.timestamp() as f64))),
    )
}

fn live(out: &mut Families<'_>, ledger: &Snapshot) -> fmt::Result {
    let seconds = Some(Unit::Seconds);
    let mut edges = Vec::new();
    let mut usual = Vec::new();
    let (mut added, mut improved) = (Vec::new(), Vec::new());
    let mut paused = Vec::new();
    for status in &ledger.statuses {
        for here in status.paused.iter().filter(|here| here.run.is_none()) {
            let mut labels = of_dataset(status);
            labels.push(("job", here.job.clone()));
            paused.push((labels, 1.0));
        }
        let Some(live) = &status.live else { continue };
        for poll in &live.living {
            let mut labels = of_dataset(status);
            labels.push(("job", poll.job.clone()));
            if let Some(behind_s) = live.behind_s {
                edges.push((labels.clone(), behind_s as f64));
            }
            usual.push((labels, poll.young_s as f64));
        }
        for looks in &live.later_looks {
            let mut labels = of_dataset(status);
            labels.push(("after", looks.after.clone()));
            added.push((labels.clone(), looks.new as f64));
            improved.push((labels, looks.improved as f64));
        }
    }
    out.gauge(
        "live_edge_lag",
        "How far the end of what is collected lies behind the present, for polls that go on",
        seconds.clone(),
        edges,
    )?;
    out.gauge(
        "live_edge_lag_usual",
        "How far it may lie behind by the job file: `delay` and four ticks",
        seconds,
        usual,
    )?;
    out.gauge(
        "later_looks_new_traces",
        "Traces that later looks found in 24 hours and the look before (after) had missed",
        None,
        added,
    )?;
    out.gauge(
        "later_looks_improved_traces",
        "Traces that later looks completed in 24 hours",
        None,
        improved,
    )?;
    out.gauge(
        "job_paused",
        "1 while the job is paused; absent otherwise",
        None,
        paused,
    )?;
    let live = ledger.signs.live.iter();
    let labels = |dataset: &str| vec![("dataset", dataset.to_owned())];
    out.gauge(
        "search_limit_traces",
        "The most traces that a search for the dataset may bring",
        None,
        live.clone()
            .map(|live| (labels(&live.dataset), live.limit as f64)),
    )?;
    out.gauge(
        "live_limit_share",
        "What the fullest live window of the last hour held, as a share of what one search may bring",
        Some(Unit::Other("ratio".to_owned())),
        live.map(|live| {
            let share = live.fullest as f64 / live.limit as f64;
            (labels(&live.dataset), share)
        }),
    )
}

fn verified(out: &mut Families<'_>, ledger: &Snapshot) -> fmt::Result {
    let (mut hours, mut last) = (Vec::new(), Vec::new());
    for status in &ledger.statuses {
        for verified in &status.verified {
            let mut labels = of_dataset(status);
            labels.push(("depth", verified.depth.clone()));
            labels.push(("verdict", verified.verdict.clone()));
            hours.push((labels.clone(), verified.hours as f64));
            last.push((labels, verified.last_at.timestamp_millis() as f64 / 1_000.0));
        }
    }
    out.gauge(
        "verdicts",
        "Hours of traces that were verified, by depth and latest verdict",
        None,
        hours,
    )?;
    out.gauge(
        "last_verified_timestamp",
        "When an hour was last found to be so, seconds since 1970",
        Some(Unit::Seconds),
        last,
    )
}

fn sources(out: &mut Families<'_>, ledger: &Snapshot) -> fmt::Result {
    let labels = |source: &str| vec![("source", source.to_owned())];
    out.gauge(
        "source_up",
        "Whether the source answered the last request, be it with a refusal; absent if none was made in 5 minutes",
        None,
        ledger
            .last_requests
            .iter()
            .map(|last| (labels(&last.source), f64::from(u8::from(last.answered)))),
    )?;
    let sources = ledger.signs.sources.iter();
    out.gauge(
        "source_last_success_timestamp",
        "When the source last answered a search with what counted, seconds since 1970",
        Some(Unit::Seconds),
        sources.clone().filter_map(|source| {
            Some((
                labels(&source.name),
                source.last_success_at?.timestamp() as f64,
            ))
        }),
    )?;
    out.gauge(
        "source_failing_windows",
        "Windows of the source that wait for another attempt",
        None,
        sources.map(|source| (labels(&source.name), source.failing as f64)),
    )?;
    let paces = ledger.paces.iter();
    out.gauge(
        "source_pace",
        "The share of its limits that the source is asked at: falls when it refuses, is slow or times out",
        Some(Unit::Other("ratio".to_owned())),
        paces.clone().map(|pace| (labels(&pace.source), pace.factor)),
    )?;
    out.gauge(
        "source_allowed_requests_per_second",
        "Requests a second that the source's limits allow",
        None,
        paces
            .clone()
            .map(|pace| (labels(&pace.source), pace.requests_per_second)),
    )?;
    out.gauge(
        "source_allowed_requests_at_once",
        "Requests at once that the source's limits allow",
        None,
        paces
            .clone()
            .map(|pace| (labels(&pace.source), f64::from(pace.concurrency))),
    )?;
    out.gauge(
        "source_requests_under_way",
        "Requests to the source under way, of all processes",
        None,
        paces.map(|pace| (labels(&pace.source), pace.under_way as f64)),
    )
}

fn alarms(out: &mut Families<'_>, ledger: &Snapshot) -> fmt::Result {
    let counts = warnings::Kind::ALL.map(|kind| {
        let of_kind = ledger
            .warnings
            .iter()
            .filter(|warning| warning.name == kind);
        let labels = vec![("warning", kind.name().to_owned())];
        (labels, of_kind.count() as f64)
    });
    out.gauge("warnings", "Warnings that hold, by name", None, counts)?;
    out.gauge(
        "warning_active",
        "1 for each warning that holds; absent otherwise. `status` says what it means and what to do",
        None,
        ledger.warnings.iter().map(|warning| {
            let labels = vec![
                ("warning", warning.name.name().to_owned()),
                ("dataset", warning.dataset.clone().unwrap_or_default()),
                ("job", warning.job.clone().unwrap_or_default()),
                ("source", warning.source.clone()),
            ];
            (labels, 1.0)
        }),
    )
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

    #[test]
    fn who_asks_for_openmetrics_gets_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert_eq!(Form::accepted(prometheus), Form::OpenMetrics);
        assert_eq!(Form::accepted("text/plain"), Form::Text);
        assert_eq!(Form::accepted(""), Form::Text);
    }
}
