//! `runs`: who submitted what, when, and what came of it.

use std::io::Write;

use chrono::{DateTime, SecondsFormat, Utc};

use super::{
    Exit,
    database::{self, Database, Otherwise},
    terminal,
};
use crate::{
    store::{
        control, datasets,
        history::{self, Run},
    },
    window::rfc3339,
    words::many,
};

/// Show what was submitted, by whom and when, and what came of it; the latest first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only runs of this job, or for this dataset
    #[arg(value_name = "JOB")]
    name: Option<String>,
    /// The most runs to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let database = Database::open(&args.database, Otherwise::LookOnly, 2).await?;
    let runs = runs(&database, &args).await;
    database.close().await;
    let runs = runs?;
    let mut out = terminal::stdout();
    if args.json {
        let runs: Vec<serde_json::Value> = runs.iter().map(as_json).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&runs)?)?;
        return Ok(Exit::Complete);
    }
    if runs.is_empty() {
        writeln!(out, "nothing has been submitted yet")?;
    }
    for run in &runs {
        print(&mut out, run)?;
    }
    Ok(Exit::Complete)
}

async fn runs(database: &Database, args: &Args) -> anyhow::Result<Vec<Run>> {
    let mut conn = database.pool.acquire().await?;
    let name = args.name.as_deref();
    let runs = history::runs(&mut conn, name, args.limit).await?;
    if let Some(name) = name.filter(|_| runs.is_empty())
        && control::job(&mut conn, name).await?.is_none()
        && datasets::find(&mut conn, name).await?.is_none()
    {
        return Err(super::unknown(name).into());
    }
    Ok(runs)
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn as_json(run: &Run) -> serde_json::Value {
    serde_json::json!({
        "run": run.id, "job": run.job, "dataset": run.dataset, "kind": run.kind, "state": run.state,
        "paused_at": run.paused.as_ref().map(|paused| rfc3339(paused.since.timestamp())),
        "paused_by": run.paused.as_ref().map(|paused| &paused.by),
        "from": instant(run.from), "to": instant(run.to), "command": run.command, "submitted_by": run.submitted_by,
        "submitted_at": instant(run.submitted_at), "finished_at": run.finished_at.map(instant),
        "windows_done": run.windows_done, "windows_open": run.windows_open, "windows_failed": run.windows_failed,
        "traces": run.traces, "new": run.new, "improved": run.improved, "requests": run.requests, "splits": run.splits,
        "retries": run.retries, "error": run.error,
    })
}

fn print(out: &mut impl Write, run: &Run) -> std::io::Result<()> {
    let paused = match &run.paused {
        Some(_) => ", paused",
        None => "",
    };
    writeln!(
        out,
        "run {}  {}  {}  {}{paused}  {} … {}",
        run.id,
        run.job,
        run.kind,
        run.state,
        instant(run.from),
        instant(run.to)
    )?;
    let ended = run
        .finished_at
        .map_or_else(String::new, |at| format!(", ended {}", instant(at)));
    writeln!(
        out,
        "  submitted {} with `{}` by {}{ended}",
        instant(run.submitted_at),
        run.command,
        run.submitted_by
    )?;
    if let Some(paused) = &run.paused {
        writeln!(
            out,
            "  paused since {} by {}",
            rfc3339(paused.since.timestamp()),
            paused.by
        )?;
    }
    writeln!(
        out,
        "  windows {} done, {} open, {} failed; {}, {} new, {} improved; {}, {}, {}",
        run.windows_done,
        run.windows_open,
        run.windows_failed,
        many(run.traces, "trace", "traces"),
        run.new,
        run.improved,
        many(run.requests, "request", "requests"),
        many(run.splits, "split", "splits"),
        many(run.retries, "retry", "retries")
    )?;
    if let Some(error) = &run.error {
        writeln!(out, "  {error}")?;
    }
    Ok(())
}
