//! `prune`: apply a retention that was shortened, and delete what is older at once.

use std::io::{BufRead, IsTerminal, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::{
    Exit, UsageError,
    database::{self, Database, Otherwise},
    terminal::{self, say},
};
use crate::{
    housekeeping,
    job::duration,
    store::{polls, retention},
    window::rfc3339,
};

/// Delete the traces that are older than what [retention] says.
///
/// A `work` process does so by itself, but for a retention that was shortened: that one waits for this command, which
/// shows what it would delete, and asks. The retention is that of the job file as it was last submitted.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job, or the dataset that it fills
    #[arg(value_name = "JOB")]
    name: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Json<'a> {
    dataset: &'a str,
    retention_s: i64,
    retention_before_s: Option<i64>,
    from: Option<String>,
    to: String,
    traces_deleted: i64,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let database = Database::open(&args.database, Otherwise::LookOnly, 2).await?;
    let outcome = prune(&database, &args).await;
    database.close().await;
    outcome
}

async fn prune(database: &Database, args: &Args) -> anyhow::Result<Exit> {
    let mut conn = database.pool.acquire().await?;
    let Some(subject) = retention::subject(&mut conn, &args.name).await? else {
        return Err(super::unknown(&args.name).into());
    };
    let dataset = subject.dataset.as_str();
    let Some((job, Some(retention_s))) = subject.asked else {
        let who = subject.asked.map_or_else(
            || "no job fills it".to_owned(),
            |(job, _)| format!("job `{job}` has no [retention]"),
        );
        return Err(UsageError(format!(
            "dataset `{dataset}` keeps its traces for ever: {who}; say `traces = \"30d\"` in [retention] of each of its job files, and \
             submit them"
        ))
        .into());
    };
    let kept = duration::format(std::time::Duration::from_secs(retention_s.unsigned_abs()));
    let before_s = polls::clock(&mut conn).await?.timestamp() - retention_s;
    let old = retention::older(&mut conn, dataset, before_s).await?;
    let what = format!(
        "dataset `{dataset}`: {} traces from {} to {} are older than {kept}, the retention of job `{job}`",
        old.traces,
        old.from.map_or_else(|| "…".to_owned(), second),
        rfc3339(before_s)
    );
    if old.traces > 0 && !args.yes {
        if !std::io::stdin().is_terminal() {
            return Err(UsageError(format!("{what}: this deletes them; say --yes")).into());
        }
        write!(terminal::stderr(), "{what}\ndelete? [y/N] ")?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            say!("nothing deleted");
            return Ok(Exit::Failed);
        }
    }
    retention::put_into_force(&mut conn, dataset, Some(retention_s)).await?;
    drop(conn);
    let deleted = housekeeping::delete_traces(&database.pool, dataset, before_s).await?;
    let mut out = terminal::stdout();
    if args.json {
        let json = Json {
            dataset,
            retention_s,
            retention_before_s: subject.kept.retention_s,
            from: old.from.map(second),
            to: rfc3339(before_s),
            traces_deleted: deleted,
        };
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
    } else {
        writeln!(
            out,
            "dataset `{dataset}`: {deleted} traces from before {} deleted; it keeps {kept}",
            rfc3339(before_s)
        )?;
    }
    Ok(Exit::Complete)
}

fn second(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
