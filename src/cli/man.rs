//! `man`: a man page for the program and for each command.

use std::{fs, path::PathBuf};

use anyhow::Context as _;

use super::Exit;

/// Write man pages, one for the program and one for each command, into a folder, for example `tempo-harvest man ~/.local/share/man/man1`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder; it is made if it is not there
    folder: PathBuf,
}

/// Runs the command.
pub(super) fn run(args: Args, command: clap::Command) -> anyhow::Result<Exit> {
    let doing = || format!("cannot write man pages into `{}`", args.folder.display());
    fs::create_dir_all(&args.folder).with_context(doing)?;
    clap_mangen::generate_to(command, &args.folder).with_context(doing)?;
    Ok(Exit::Complete)
}
