//! `status`: what is collected and what is being collected.

use std::{collections::BTreeMap, io::Write};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::{
    Exit,
    database::{self, Database, Otherwise},
    terminal,
};
use crate::{
    control,
    job::Detail,
    status::{self, DatasetStatus, Live},
    store::{pace::Pace, report::LaterLooks, verify::Verified},
    warnings::{self, Kind, Warning},
    window::rfc3339,
    words::{length, many, percent},
};

/// Show what is collected and what is being collected.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this dataset, or the one that this job fills
    #[arg(value_name = "JOB")]
    name: Option<String>,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Json {
    dataset: String,
    jobs: Vec<String>,
    source: String,
    tenant: Option<String>,
    query: Option<String>,
    detail: String,
    traces: i64,
    /// Null where the detail does not bring them.
    spans: Option<i64>,
    requested_s: i64,
    covered_s: i64,
    missing_s: i64,
    covered: Vec<[String; 2]>,
    complete: bool,
    windows_queued: i64,
    windows_running: i64,
    windows_failed: usize,
    last_done_at: Option<String>,
    /// How fast the source is asked, by all processes; null if it never was.
    source_pace: Option<PaceJson>,
    live: Option<LiveJson>,
    paused: Vec<serde_json::Value>,
    /// Of the dataset, and of its source.
    warnings: Vec<Warning>,
    /// Hours by depth and verdict, as they were last verified.
    verified: Vec<Verified>,
}

/// How polls keep up.
#[derive(Serialize)]
struct LiveJson {
    behind_s: Option<i64>,
    provisional_s: i64,
    later_looks_24h: Vec<LaterLooks>,
    lookback_widened: Vec<serde_json::Value>,
}

#[derive(Serialize)]
struct PaceJson {
    source: String,
    requests_per_second: f64,
    present_requests_per_second: f64,
    concurrency: i32,
    present_concurrency: i32,
    under_way: i64,
    /// Since when it is asked less than its limits allow.
    held_back_since: Option<String>,
    /// No request begins before this.
    held_until: Option<String>,
    /// What it was last held back for.
    why: Option<String>,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let database = Database::open(&args.database, Otherwise::LookOnly, 2).await?;
    let statuses = async {
        let mut conn = database.pool.acquire().await?;
        let now = Utc::now();
        let statuses = status::datasets(&mut conn, args.name.as_deref(), now).await?;
        let warnings = warnings::of_statuses(&mut conn, &statuses, now).await?;
        Ok::<_, sqlx::Error>((statuses, warnings))
    }
    .await;
    database.close().await;
    let (statuses, warnings) = statuses?;
    if let Some(name) = args.name.as_ref().filter(|_| statuses.is_empty()) {
        return Err(super::unknown(name).into());
    }
    let mut out = terminal::stdout();
    if args.json {
        let all: Vec<Json> = statuses
            .iter()
            .map(|status| as_json(status, &warnings))
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(Exit::Complete);
    }
    if statuses.is_empty() {
        writeln!(
            out,
            "nothing has been submitted yet: tempo-harvest run FILE"
        )?;
    }
    for status in &statuses {
        print(&mut out, status)?;
        let of_dataset = warnings
            .iter()
            .filter(|warning| warning.dataset.as_ref() == Some(&status.state.name));
        for warning in of_dataset {
            writeln!(out, "  warning: {warning}")?;
        }
    }
    // Held back is said below, however short it is.
    let of_sources = warnings
        .iter()
        .filter(|warning| warning.dataset.is_none() && warning.name != Kind::SourceHeldBack);
    for warning in of_sources {
        writeln!(out, "warning: {warning}")?;
    }
    let sources: BTreeMap<&str, &Pace> = statuses
        .iter()
        .filter_map(|status| Some((status.state.source.as_str(), status.pace.as_ref()?)))
        .collect();
    for (source, pace) in sources {
        if let Some(line) = held_back(source, pace) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(Exit::Complete)
}

fn as_json(status: &DatasetStatus, warnings: &[Warning]) -> Json {
    let state = &status.state;
    Json {
        dataset: state.name.clone(),
        jobs: state.jobs.clone(),
        source: state.source.clone(),
        tenant: state.tenant.clone(),
        query: state.query.clone(),
        detail: state.detail.clone(),
        traces: state.traces,
        spans: (state.detail == Detail::Spans.name()).then_some(state.spans),
        requested_s: status.requested.seconds(),
        covered_s: status.covered.seconds(),
        missing_s: status.missing_s(),
        covered: status
            .covered
            .iter()
            .map(|w| [rfc3339(w.start()), rfc3339(w.end())])
            .collect(),
        complete: status.missing_s() == 0 && status.due_s() > 0,
        windows_queued: state.queued,
        windows_running: state.running,
        windows_failed: status.failed_windows,
        last_done_at: state
            .last_done_at
            .map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)),
        live: status.live.as_ref().map(|live| LiveJson {
            behind_s: live.behind_s,
            provisional_s: status.provisional_s(),
            later_looks_24h: live.later_looks.clone(),
            lookback_widened: live
                .widened
                .iter()
                .map(|widened| {
                    serde_json::json!({
                        "job": widened.job, "lookback_s": widened.lookback_s,
                        "at": widened.at.map(|at| rfc3339(at.timestamp())),
                    })
                })
                .collect(),
        }),
        paused: status
            .paused
            .iter()
            .map(|here| {
                serde_json::json!({
                    "job": here.job, "run": here.run, "since": control::at(&here.paused), "by": here.paused.by,
                })
            })
            .collect(),
        warnings: warnings
            .iter()
            .filter(|warning| warning.is_about(&state.name, &state.source))
            .cloned()
            .collect(),
        verified: status.verified.clone(),
        source_pace: status.pace.as_ref().map(|pace| PaceJson {
            source: state.source.clone(),
            requests_per_second: pace.requests_per_second,
            present_requests_per_second: rounded(pace.present_per_second()),
            concurrency: pace.concurrency,
            present_concurrency: pace.present_concurrency(),
            under_way: pace.under_way,
            held_back_since: pace.held_since.map(seconds),
            held_until: pace.held_until.map(seconds),
            why: pace.held_since.and(pace.why.clone()),
        }),
    }
}

/// What is said of a source that is asked less than its limits allow; nothing of others.
fn held_back(source: &str, pace: &Pace) -> Option<String> {
    let since = pace.held_since?;
    let until = pace.held_until.map_or_else(String::new, |until| {
        format!("; no request before {}", seconds(until))
    });
    Some(format!(
        "source {source}: {} of {} requests/s, {} of {} at once, held back since {} by \"{}\"{until}",
        rounded(pace.present_per_second()),
        pace.requests_per_second,
        pace.present_concurrency(),
        pace.concurrency,
        seconds(since),
        pace.why.as_deref().unwrap_or("an earlier answer")
    ))
}

fn seconds(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// To two digits after the point, or as many as make it more than nothing.
fn rounded(rate: f64) -> f64 {
    if rate < 0.01 {
        rate
    } else {
        (rate * 100.0).round() / 100.0
    }
}

fn print(out: &mut impl Write, status: &DatasetStatus) -> std::io::Result<()> {
    let state = &status.state;
    let query = state.query.as_deref().unwrap_or("every trace");
    let tenant = state
        .tenant
        .as_ref()
        .map_or_else(String::new, |tenant| format!(", tenant {tenant}"));
    writeln!(
        out,
        "{}  ({query}; detail {}; from {}{tenant}; jobs: {})",
        state.name,
        state.detail,
        state.source,
        state.jobs.join(", ")
    )?;
    // What is too young, deleted, or beyond retention is not due.
    let due_s = status.due_s();
    let complete = match due_s {
        0 if !status.was_submitted => "nothing was asked for yet".to_owned(),
        0 => "nothing is due to be complete yet".to_owned(),
        _ => {
            let there = percent(due_s - status.missing_s(), due_s);
            format!(
                "{there} of the {:.1} h due complete",
                due_s as f64 / 3_600.0
            )
        }
    };
    let spans = if state.detail == Detail::Spans.name() {
        format!(", {}", many(state.spans, "span", "spans"))
    } else {
        String::new()
    };
    let traces = many(state.traces, "trace", "traces");
    writeln!(out, "  {traces}{spans}; {complete}")?;
    for window in status.covered.iter().take(5) {
        writeln!(out, "  collected  {window}")?;
    }
    if status.covered.iter().count() > 5 {
        let more = many(
            status.covered.iter().count() - 5,
            "more stretch",
            "more stretches",
        );
        writeln!(out, "  collected  and {more}")?;
    }
    if state.queued + state.running > 0 {
        writeln!(
            out,
            "  {} queued, {} being fetched",
            many(state.queued, "window", "windows"),
            state.running
        )?;
    }
    if let Some(live) = &status.live {
        print_live(out, live, status.provisional_s())?;
    }
    if let Some(line) = verified(&status.verified) {
        writeln!(out, "  verified {line}")?;
    }
    for here in &status.paused {
        let what = match here.run {
            Some(run) => format!("run {run} of job {}", here.job),
            None => format!("job {}", here.job),
        };
        writeln!(
            out,
            "  {what} is paused since {} by {}",
            control::at(&here.paused),
            here.paused.by
        )?;
    }
    if status.missing_s() > 0 {
        let failed = match status.failed_windows {
            0 => String::new(),
            failed => format!(", {} failed", many(failed, "window", "windows")),
        };
        writeln!(
            out,
            "  {} missing{failed}: tempo-harvest gaps {}{}",
            length(status.missing_s()),
            state.name,
            database::option()
        )?;
    }
    Ok(())
}

/// How the hours of a dataset stand that were verified, by depth; nothing if none was.
fn verified(all: &[Verified]) -> Option<String> {
    let depths = all.chunk_by(|a, b| a.depth == b.depth);
    let words: Vec<String> = depths
        .filter_map(|of_depth| {
            let first = of_depth.first()?;
            let last_at = of_depth.iter().map(|verified| verified.last_at).max()?;
            let by = match first.depth.as_str() {
                "counts" => "by counts",
                depth => depth,
            };
            let hours: Vec<String> = of_depth
                .iter()
                .map(|verified| format!("{} h {}", verified.hours, verified.verdict))
                .collect();
            Some(format!("{by}: {} ({})", hours.join(", "), seconds(last_at)))
        })
        .collect();
    (!words.is_empty()).then(|| words.join("; "))
}

fn print_live(out: &mut impl Write, live: &Live, provisional_s: i64) -> std::io::Result<()> {
    match live.behind_s {
        Some(behind_s) => writeln!(
            out,
            "  live edge {} behind now; {} provisional, to be looked at again",
            length(behind_s),
            length(provisional_s)
        )?,
        None => writeln!(out, "  live edge: nothing polled yet")?,
    }
    let found = |looks: &&LaterLooks| looks.new + looks.improved > 0;
    for looks in live.later_looks.iter().filter(found) {
        let look = match looks.after.as_str() {
            "fresh" => "the settled look",
            _ => "the sealing look",
        };
        writeln!(
            out,
            "  in 24 h {look} found {} that an earlier look had missed, and more of {}, of {} in all",
            many(looks.new, "trace", "traces"),
            looks.improved,
            looks.traces
        )?;
    }
    for widened in &live.widened {
        let since = widened.at.map_or_else(String::new, |at| {
            format!(" since {}", rfc3339(at.timestamp()))
        });
        writeln!(
            out,
            "  lookback of job {} is widened to {}{since}: late spans came later than it looked",
            widened.job,
            length(widened.lookback_s)
        )?;
    }
    Ok(())
}
