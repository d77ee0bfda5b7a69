//! `submit`: put what is missing on the queue.

use std::io::Write;

use anyhow::bail;
use chrono::Utc;

use super::{
    Exit, UsageError,
    database::{self, Database, Otherwise},
    jobs::{self, Target},
    terminal,
};
use crate::{
    store::Holder,
    submit,
    words::{length, many},
};

/// Put what is missing of each job's range on the queue, for `work` to fetch.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    jobs: jobs::JobArgs,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let now = Utc::now();
    let targets = match args.jobs.targets(now)? {
        Ok(targets) => targets,
        Err(exit) => return Ok(exit),
    };
    refuse_literal_secrets(&targets)?;
    let database = Database::open(&args.database, Otherwise::Refuse, 2).await?;
    let outcome = submit_all(&database, &targets, args.json).await;
    database.close().await;
    outcome.map(|()| Exit::Complete)
}

/// Another process is to fetch this: what it needs must not stand in the job file only.
fn refuse_literal_secrets(targets: &[Target]) -> anyhow::Result<()> {
    for target in targets {
        if let Some(key) = target.job.source_spec.has_literal_secret() {
            bail!(UsageError(
                target
                    .job
                    .refusal(
                        &format!("source.{key}"),
                        format!("`{key}` is written literally, and so is not kept in the database for the processes that fetch; use a `${{…}}` reference or a `*_file` key"),
                    )
                    .to_string()
            ));
        }
    }
    Ok(())
}

async fn submit_all(database: &Database, targets: &[Target], json: bool) -> anyhow::Result<()> {
    let holder = Holder::of_this_process();
    let mut conn = database.pool.acquire().await?;
    let mut reports = Vec::new();
    for target in targets {
        let mut submission = target.submission("submit", &holder, Utc::now());
        let survey = submit::survey(&database.pool, &submission)
            .await
            .map_err(|error| target.refused(error))?;
        submission.sizing = survey.as_ref().map(|survey| &survey.sizing);
        let (plan, run_id) = submit::submit(&mut conn, &submission)
            .await
            .map_err(|error| target.refused(error))?;
        let to_fetch = plan.to_fetch().seconds();
        if json {
            reports.push(serde_json::json!({
                "job": target.job.name, "dataset": target.job.dataset, "run": run_id, "windows": plan.windows.len(),
                "to_fetch_s": to_fetch, "covered_s": plan.covered.seconds(), "in_flight_s": plan.in_flight.seconds(),
                "too_young_s": plan.too_young.seconds(), "beyond_retention_s": plan.beyond_retention.seconds(),
            }));
            continue;
        }
        match run_id {
            Some(run) => writeln!(
                terminal::stdout(),
                "{}: {} on the queue (run {run}); `tempo-harvest work{local}` fetches them, `tempo-harvest status {}{local}` shows how far it is",
                target.job.name,
                many(plan.windows.len(), "window", "windows"),
                target.job.name,
                local = database::option()
            )?,
            None if !plan.too_young.is_empty() || !plan.beyond_retention.is_empty() => writeln!(
                terminal::stdout(),
                "{}: nothing to collect: {} too young to be sealed, {} beyond retention",
                target.job.name,
                length(plan.too_young.seconds()),
                length(plan.beyond_retention.seconds())
            )?,
            None if plan.in_flight.is_empty() => {
                writeln!(terminal::stdout(), "{}: already complete", target.job.name)?;
            }

            None => writeln!(
                terminal::stdout(),
                "{}: nothing new; the rest is on the queue already",
                target.job.name
            )?,
        }
    }
    if json {
        writeln!(
            terminal::stdout(),
            "{}",
            serde_json::to_string_pretty(&reports)?
        )?;
    }
    Ok(())
}
