//! `cancel`: what is left of a run, or of all runs of a job, is not fetched any more.

use std::io::Write;

use super::{
    Exit,
    confirm::confirmed,
    database::{self, Database, Otherwise},
    terminal::{self, say},
    usage,
};
use crate::{control, store::Holder, words::many};

/// Give up what is left of a run, or of all open runs of a job. What is collected stays; the rest is asked for no longer.
///
/// Cancelling a poll also pauses its job, or the next tick would begin it again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job's name, or the run's number
    #[arg(value_name = "JOB|RUN")]
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

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let database = Database::open(&args.database, Otherwise::LookOnly, 2).await?;
    let outcome = cancel(&database, &args).await;
    database.close().await;
    outcome
}

async fn cancel(database: &Database, args: &Args) -> anyhow::Result<Exit> {
    let mut conn = database.pool.acquire().await?;
    let subject = control::find(&mut conn, &args.name).await.map_err(usage)?;
    let mut out = terminal::stdout();
    let ending = control::would_cancel(&mut conn, &subject)
        .await
        .map_err(usage)?;
    if ending.runs.is_empty() && args.json {
        return print_json(&ending, &subject);
    }
    if ending.runs.is_empty() {
        writeln!(out, "{subject} has no open run: nothing to cancel")?;
        return Ok(Exit::Complete);
    }
    let what = format!(
        "{subject}: {} open, {} left",
        runs(&ending),
        many(ending.windows, "window", "windows")
    );
    if !confirmed(&what, "this gives them up", args.yes)? {
        say!("nothing cancelled");
        return Ok(Exit::Failed);
    }
    let by = Holder::of_this_process().who();
    let ending = control::cancel(&mut conn, &subject, &by)
        .await
        .map_err(usage)?;
    if args.json {
        return print_json(&ending, &subject);
    }
    writeln!(
        out,
        "{subject}: {} cancelled, with {}",
        runs(&ending),
        many(ending.windows, "window", "windows")
    )?;
    for poll in ending.runs.iter().filter(|run| run.kind == "poll") {
        writeln!(
            out,
            "job `{}` is paused, or the next tick would begin its poll again: `tempo-harvest resume {}{}` begins it anew, from then on",
            poll.job,
            poll.job,
            database::option()
        )?;
    }
    Ok(Exit::Complete)
}

fn print_json(ending: &control::Ending, subject: &control::Subject) -> anyhow::Result<Exit> {
    let json = serde_json::to_string_pretty(&ending.report(subject))?;
    writeln!(terminal::stdout(), "{json}")?;
    Ok(Exit::Complete)
}

fn runs(ending: &control::Ending) -> String {
    let numbers: Vec<String> = ending.runs.iter().map(|run| run.id.to_string()).collect();
    match numbers.as_slice() {
        [] => "no run".to_owned(),
        [number] => format!("run {number}"),
        numbers => format!("runs {}", numbers.join(", ")),
    }
}
