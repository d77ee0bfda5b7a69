//! `resume`: what `pause` stopped goes on.

use std::io::Write;

use super::{
    Exit,
    database::{self, Database, Otherwise},
    terminal, usage,
};
use crate::{control, words::many};

/// Let a paused job, with all its runs, or a paused run go on where it was.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job's name, or the run's number
    #[arg(value_name = "JOB|RUN")]
    name: String,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let database = Database::open(&args.database, Otherwise::LookOnly, 2).await?;
    let outcome = resume(&database, &args).await;
    database.close().await;
    outcome.map(|()| Exit::Complete)
}

async fn resume(database: &Database, args: &Args) -> anyhow::Result<()> {
    let name = args.name.as_str();
    let mut conn = database.pool.acquire().await?;
    let subject = control::find(&mut conn, name).await.map_err(usage)?;
    let changed = control::resume(&mut conn, &subject).await.map_err(usage)?;
    let mut out = terminal::stdout();
    if args.json {
        let json = changed.report(false);
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
        return Ok(());
    }
    match &changed.was_paused {
        Some(before) => writeln!(
            out,
            "{} goes on: {} on the queue (it was paused since {} by {})",
            changed.subject,
            many(changed.windows, "window", "windows"),
            control::at(before),
            before.by
        )?,
        None => writeln!(out, "{} was not paused", changed.subject)?,
    }
    Ok(())
}
