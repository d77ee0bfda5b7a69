//! `migrate`: create or upgrade the tables.

use std::io::Write;

use super::{
    Exit,
    database::{self, Database, Otherwise},
};

/// Create or upgrade the tables (schemas `harvest` and `apalis`). Every command that writes does this too; this one is for
/// doing it once, as the database's owner.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    database: database::DatabaseArgs,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let database = Database::open(&args.database, Otherwise::Refuse, 2).await?;
    database.close().await;
    writeln!(std::io::stdout(), "the tables are up to date")?;
    Ok(Exit::Complete)
}
