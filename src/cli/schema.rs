//! `schema`: prints the JSON Schema that editors complete and check job files with.

use super::Exit;
use crate::job::{job_schema, sources_schema};

/// Print the JSON Schema of a job file, for editors.
///
/// With Taplo or Even Better TOML, save it beside the job files and begin each with: #:schema ./job.schema.json
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The schema of sources.toml instead.
    #[arg(long)]
    sources: bool,
}

/// Runs the command.
///
/// # Errors
/// None.
pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let schema = if args.sources {
        sources_schema()
    } else {
        job_schema()
    };
    println!("{schema:#}");
    Ok(Exit::Complete)
}
