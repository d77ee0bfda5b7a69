//! `pause`: no new request for a job or a run, anywhere, until `resume`.

use std::io::Write;

use super::{
    Exit,
    database::{self, Database, Otherwise},
    terminal, usage,
};
use crate::{control, store::Holder, words::many};

/// Stop fetching for a job or a run, on every machine, until `resume`: no new request is made after 5 seconds.
///
/// Nothing is lost: what was in hand goes back, and waits.
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
    let outcome = pause(&database, &args).await;
    database.close().await;
    outcome.map(|()| Exit::Complete)
}

async fn pause(database: &Database, args: &Args) -> anyhow::Result<()> {
    let name = args.name.as_str();
    let mut conn = database.pool.acquire().await?;
    let subject = control::find(&mut conn, name).await.map_err(usage)?;
    let by = Holder::of_this_process().who();
    let changed = control::pause(&mut conn, &subject, &by)
        .await
        .map_err(usage)?;
    let mut out = terminal::stdout();
    if args.json {
        let json = changed.report(true);
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
        return Ok(());
    }
    match &changed.was_paused {
        Some(before) => writeln!(
            out,
            "{} is paused already, since {} by {}",
            changed.subject,
            control::at(before),
            before.by
        )?,
        None => writeln!(
            out,
            "{} is paused: {}, no new request is made for it after 5 s; `tempo-harvest resume {name}{}` lets it go on",
            changed.subject,
            many(changed.windows, "window waits", "windows wait"),
            database::option()
        )?,
    }
    Ok(())
}
