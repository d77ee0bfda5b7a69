//! `repair`: what is missing and could be there goes on the queue again.

use std::{collections::BTreeMap, io::Write};

use chrono::Utc;

use super::{
    Exit,
    database::{self, Database, Otherwise},
    jobs,
    terminal::{self, say},
    usage,
};
use crate::{
    repair::{self, Planned, Request},
    store::{Holder, report},
    words::{length, many},
};

/// Put what is missing on the queue again, for `work` to fetch: what failed, was never tried, was not caught up or waits
/// too long to be sealed. `gaps` lists it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this dataset, or the one that this job fills
    #[arg(value_name = "JOB")]
    name: Option<String>,
    /// Only from here: 2026-11-01T00:00:00Z, `7d ago`
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only up to here: 2026-11-08T00:00:00Z, `1d ago`
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only what failed
    #[arg(long)]
    failed_only: bool,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let database = Database::open(&args.database, Otherwise::LookOnly, 2).await?;
    let outcome = repair_all(&database, &args).await;
    database.close().await;
    outcome
}

async fn repair_all(database: &Database, args: &Args) -> anyhow::Result<Exit> {
    let now = Utc::now();
    let within = match (&args.from, &args.to) {
        (None, None) => None,
        (from, to) => Some(jobs::bounds(from.as_deref(), to.as_deref(), now)?),
    };
    let mut conn = database.pool.acquire().await?;
    let name = args.name.as_deref();
    let datasets = report::datasets(&mut conn, name).await?;
    if let Some(name) = name.filter(|_| datasets.is_empty()) {
        return Err(super::unknown(name).into());
    }
    let holder = Holder::of_this_process();
    let (mut exit, mut reports) = (Exit::Complete, Vec::new());
    for dataset in &datasets {
        let request = Request {
            dataset: &dataset.name,
            source: &dataset.source,
            job: name,
            within,
            now,
            holder: &holder,
        };
        match repair::repair(&mut conn, &request, args.failed_only).await {
            Ok(planned) if args.json => reports.push(as_json(&dataset.name, &planned)),
            Ok(planned) => print(&dataset.name, &planned)?,
            Err(error) if name.is_some() => return Err(usage(error)),
            // The other datasets are not to suffer for one.
            Err(error) => {
                say!("{}: {error}", dataset.name);
                exit = Exit::Failed;
            }
        }
    }
    if args.json {
        let reports = serde_json::to_string_pretty(&reports)?;
        writeln!(terminal::stdout(), "{reports}")?;
    }
    Ok(exit)
}

/// What was planned, as `--json` has it.
pub(super) fn as_json(dataset: &str, planned: &Planned) -> serde_json::Value {
    serde_json::json!({
        "dataset": dataset,
        "job": planned.run.as_ref().map(|(job, _)| job),
        "run": planned.run.as_ref().map(|(_, run)| run),
        "windows": planned.windows.len(),
        "queued_s": planned.queued_s,
        "left_s": planned.left_s,
    })
}

/// Seconds by reason, in words: `failed 2h, never tried 15m`.
pub(super) fn in_words(seconds: &BTreeMap<&'static str, i64>) -> String {
    let parts: Vec<String> = seconds
        .iter()
        .map(|(why, seconds)| format!("{why} {}", length(*seconds)))
        .collect();
    parts.join(", ")
}

fn print(dataset: &str, planned: &Planned) -> std::io::Result<()> {
    let mut out = terminal::stdout();
    match &planned.run {
        Some((_, run)) => writeln!(
            out,
            "{dataset}: {} on the queue (run {run}): {}; `tempo-harvest work{}` fetches them",
            many(planned.windows.len(), "window", "windows"),
            in_words(&planned.queued_s),
            database::option()
        )?,
        None => writeln!(out, "{dataset}: nothing to repair")?,
    }
    if !planned.left_s.is_empty() {
        writeln!(out, "{dataset}: left: {}", in_words(&planned.left_s))?;
    }
    Ok(())
}
