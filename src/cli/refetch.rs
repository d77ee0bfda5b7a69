//! `refetch`: what is covered is fetched again, to find what was not there then.

use std::io::Write;

use chrono::Utc;

use super::{
    Exit, UsageError,
    confirm::confirmed,
    database::{self, Database, Otherwise},
    jobs,
    repair::{as_json, in_words},
    terminal::{self, say},
    usage,
};
use crate::{
    repair::{self, Request},
    store::{Holder, report},
    words::many,
};

/// Fetch again what is covered, because Tempo has more by now. Stored traces are improved and none is lost, and what is
/// covered stays covered; `runs` says what it added.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The dataset, or a job that fills it
    #[arg(value_name = "JOB")]
    name: String,
    /// From here: 2026-11-01T00:00:00Z, `7d ago`
    #[arg(long, value_name = "TIME")]
    from: String,
    /// Up to here: 2026-11-08T00:00:00Z, `1d ago`
    #[arg(long, value_name = "TIME")]
    to: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let database = Database::open(&args.database, Otherwise::LookOnly, 2).await?;
    let outcome = refetch(&database, &args).await;
    database.close().await;
    outcome
}

async fn refetch(database: &Database, args: &Args) -> anyhow::Result<Exit> {
    let now = Utc::now();
    let window = jobs::bounds(Some(&args.from), Some(&args.to), now)?;
    let mut conn = database.pool.acquire().await?;
    let datasets = report::datasets(&mut conn, Some(&args.name)).await?;
    let [dataset] = datasets.as_slice() else {
        let message = match datasets.len() {
            0 => format!(
                "there is no job and no dataset `{}`; `tempo-harvest status` lists them",
                args.name
            ),
            _ => format!(
                "`{}` is a dataset and also a job that fills another: name the dataset by another of its jobs",
                args.name
            ),
        };
        return Err(UsageError(message).into());
    };
    let holder = Holder::of_this_process();
    let request = Request {
        dataset: &dataset.name,
        source: &dataset.source,
        job: Some(&args.name),
        within: Some(window),
        now,
        holder: &holder,
    };
    let (plan, stored) = repair::preview_refetch(&mut conn, &request).await?;
    let left = match plan.left_s.is_empty() {
        true => String::new(),
        false => format!("; left out: {}", in_words(&plan.left_s)),
    };
    if plan.windows.is_empty() {
        match args.json {
            true => {
                let report = serde_json::to_string_pretty(&as_json(&dataset.name, &plan))?;
                writeln!(terminal::stdout(), "{report}")?;
            }
            false => writeln!(
                terminal::stdout(),
                "{}: nothing to fetch again in {window}{left}",
                dataset.name
            )?,
        }
        return Ok(Exit::Complete);
    }
    let what = format!(
        "{}: {window}: {}, {}, {} stored there{left}",
        dataset.name,
        many(plan.windows.len(), "window", "windows"),
        in_words(&plan.queued_s),
        many(stored, "trace", "traces")
    );
    if !confirmed(&what, "this fetches all of it again", args.yes)? {
        say!("nothing done");
        return Ok(Exit::Failed);
    }
    let planned = repair::refetch(&mut conn, &request).await.map_err(usage)?;
    let mut out = terminal::stdout();
    if args.json {
        let mut report = as_json(&dataset.name, &planned);
        report["stored"] = stored.into();
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(Exit::Complete);
    }
    writeln!(out, "{what}")?;
    if let Some((_, run)) = &planned.run {
        writeln!(
            out,
            "{}: {} on the queue (run {run}); `tempo-harvest work` fetches them, `tempo-harvest runs` says what they added",
            dataset.name,
            many(planned.windows.len(), "window", "windows")
        )?;
    }
    Ok(Exit::Complete)
}
