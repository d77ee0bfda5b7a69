//! What each metric of the ledger is called and says.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

use super::Snapshot;
use crate::{
    gaps::Reason,
    job::Detail,
    status::DatasetStatus,
    store::metrics::{Runs, Windows},
    warnings,
};

/// Labels and what is measured.
type Row = (Vec<(&'static str, String)>, f64);

/// The ledger's metrics.
#[derive(Debug)]
pub(super) struct FromLedger(pub(super) Option<Arc<Snapshot>>);

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
