//! `migrate`: create or upgrade the tables.

use std::io::Write;

use anyhow::Context;

use super::{
    Exit,
    database::{self, Database, Otherwise},
    terminal,
};
use crate::store;

/// Create or upgrade the tables (schemas `harvest` and `apalis`). Every command that writes does this too; this one is for
/// doing it once, as the database's owner.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Make the roles harvest_worker and harvest_reader too, and let them use the tables
    ///
    /// harvest_worker may do all that collecting needs, and not create or change tables; harvest_reader may read. Logins are made
    /// members of them: CREATE ROLE … LOGIN … IN ROLE harvest_worker.
    #[arg(long)]
    roles: bool,
    #[command(flatten)]
    database: database::DatabaseArgs,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let database = Database::open(&args.database, Otherwise::Refuse, 2).await?;
    let roles = match args.roles {
        true => make_roles(&database).await,
        false => Ok(()),
    };
    database.close().await;
    writeln!(terminal::stdout(), "the tables are up to date")?;
    roles?;
    if args.roles {
        writeln!(
            terminal::stdout(),
            "the roles harvest_worker and harvest_reader may use them"
        )?;
    }
    Ok(Exit::Complete)
}

async fn make_roles(database: &Database) -> anyhow::Result<()> {
    let mut conn = database.pool.acquire().await?;
    store::create_roles(&mut conn)
        .await
        .context("cannot make the roles harvest_worker and harvest_reader, which needs CREATEROLE; or have whoever may say \"CREATE ROLE harvest_worker; CREATE ROLE harvest_reader\"")
}
