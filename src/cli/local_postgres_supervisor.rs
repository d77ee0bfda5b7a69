//! `local-postgres-supervisor`: the hidden command that this program runs itself as, to keep a private PostgreSQL up
//! for as long as anybody uses it. Not for people; `local_postgres` says what it does.

use std::path::PathBuf;

use super::Exit;
use crate::local_postgres::supervisor;

/// What `local_postgres` passes on when it starts a supervisor.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The `.tempo-harvest` folder whose server is kept
    folder: PathBuf,
    /// The folder with `postgres`
    binaries: PathBuf,
}

/// Keeps the server until its last user is gone.
///
/// # Errors
/// When the server does not start, or ends by itself. The text goes to the folder's log, which the waiting user shows.
pub async fn run(args: Args) -> anyhow::Result<Exit> {
    supervisor::supervise(&args.folder, &args.binaries).await?;
    Ok(Exit::Complete)
}
