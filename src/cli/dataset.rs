//! `dataset rm` and `dataset reset`: besides `prune` the only commands that delete traces.

use std::io::Write;

use sqlx::Connection;

use super::{
    Exit, UsageError,
    confirm::confirmed,
    database::{self, Database, Otherwise},
    terminal::{self, say},
};
use crate::{
    store::datasets,
    words::{length, many},
};

/// Remove a dataset, or forget what it holds
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Delete a dataset: its traces, its coverage, its history, its jobs
    Rm(Args),
    /// Delete a dataset's traces and coverage, so that it can be collected again, also with another query
    Reset(Args),
}

/// Which dataset.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The dataset
    name: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    database: database::DatabaseArgs,
}

/// Runs the command.
pub(super) async fn run(command: Command) -> anyhow::Result<Exit> {
    let (args, definition) = match command {
        Command::Rm(args) => (args, true),
        Command::Reset(args) => (args, false),
    };
    let database = Database::open(&args.database, Otherwise::LookOnly, 2).await?;
    let outcome = delete(&database, &args, definition).await;
    database.close().await;
    outcome
}

async fn delete(database: &Database, args: &Args, definition: bool) -> anyhow::Result<Exit> {
    let mut conn = database.pool.acquire().await?;
    let name = args.name.as_str();
    let Some(contents) = datasets::contents(&mut conn, name).await? else {
        let names = datasets::names(&mut conn).await?;
        let known = if names.is_empty() {
            "there are none".to_owned()
        } else {
            format!("there are `{}`", names.join("`, `"))
        };
        return Err(UsageError(format!("there is no dataset `{name}`; {known}")).into());
    };
    let spans = match contents.spans {
        0 => String::new(),
        spans => format!(" with {}", many(spans, "span", "spans")),
    };
    let what = format!(
        "dataset `{name}`: {}{spans}, {} covered, {} open",
        many(contents.traces, "trace", "traces"),
        length(contents.covered_s),
        many(contents.open_windows, "window", "windows")
    );
    if !confirmed(&what, "this deletes them", args.yes)? {
        say!("nothing deleted");
        return Ok(Exit::Failed);
    }
    let mut tx = conn.begin().await?;
    datasets::lock_for_planning(&mut tx, name).await?;
    datasets::restart_coverage(&mut tx, name).await?;
    datasets::delete(&mut tx, name, definition).await?;
    tx.commit().await?;
    writeln!(terminal::stdout(), "{what}: deleted")?;
    Ok(Exit::Complete)
}
