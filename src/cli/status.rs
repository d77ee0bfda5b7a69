//! `status`: what is collected and what is being collected.

use std::io::Write;

use chrono::{SecondsFormat, Utc};
use serde::Serialize;

use super::{
    Exit, UsageError,
    database::{self, Database, Otherwise},
};
use crate::{
    status::{self, DatasetStatus},
    window::rfc3339,
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
    requested_s: i64,
    covered_s: i64,
    missing_s: i64,
    covered: Vec<[String; 2]>,
    complete: bool,
    windows_queued: i64,
    windows_running: i64,
    windows_failed: usize,
    last_done_at: Option<String>,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let database = Database::open(&args.database, Otherwise::Refuse, 2).await?;
    let statuses = async {
        let mut conn = database.pool.acquire().await?;
        status::datasets(&mut conn, args.name.as_deref(), Utc::now()).await
    }
    .await;
    database.close().await;
    let statuses = statuses?;
    if let Some(name) = args.name.as_ref().filter(|_| statuses.is_empty()) {
        return Err(UsageError(format!(
            "there is no job and no dataset `{name}`; `tempo-harvest status` lists them"
        ))
        .into());
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let all: Vec<Json> = statuses.iter().map(as_json).collect();
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
    }
    Ok(Exit::Complete)
}

fn as_json(status: &DatasetStatus) -> Json {
    let state = &status.state;
    Json {
        dataset: state.name.clone(),
        jobs: state.jobs.clone(),
        source: state.source.clone(),
        tenant: state.tenant.clone(),
        query: state.query.clone(),
        detail: state.detail.clone(),
        traces: state.traces,
        requested_s: status.requested.seconds(),
        covered_s: status.covered.seconds(),
        missing_s: status.missing_s(),
        covered: status
            .covered
            .iter()
            .map(|w| [rfc3339(w.start()), rfc3339(w.end())])
            .collect(),
        complete: status.missing_s() == 0,
        windows_queued: state.queued,
        windows_running: state.running,
        windows_failed: status.failed_windows,
        last_done_at: state
            .last_done_at
            .map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)),
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
    let requested = status.requested.seconds();
    let there = requested - status.missing_s();
    let percent = if requested > 0 {
        there as f64 * 100.0 / requested as f64
    } else {
        100.0
    };
    writeln!(
        out,
        "  {} traces; {percent:.1} % of the {} h asked for collected",
        state.traces,
        requested / 3_600
    )?;
    for window in status.covered.iter().take(5) {
        writeln!(out, "  collected  {window}")?;
    }
    if status.covered.iter().count() > 5 {
        writeln!(
            out,
            "  collected  and {} more stretches",
            status.covered.iter().count() - 5
        )?;
    }
    if state.queued + state.running > 0 {
        writeln!(
            out,
            "  {} windows queued, {} being fetched",
            state.queued, state.running
        )?;
    }
    if status.missing_s() > 0 {
        writeln!(
            out,
            "  {} s missing, {} windows failed: tempo-harvest gaps {}",
            status.missing_s(),
            status.failed_windows,
            state.name
        )?;
    }
    Ok(())
}
