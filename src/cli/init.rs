//! `init`: prints a commented job file for a Tempo, to begin with.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Exit, UsageError};
use crate::job::Template;

/// Print a commented job file that collects the traces of a Tempo.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The URL of Tempo, such as http://localhost:3200. A base path is kept.
    #[arg(long)]
    url: String,

    /// The job's name.
    #[arg(long, default_value = "traces")]
    name: String,

    /// The tenant, where Tempo has several.
    #[arg(long)]
    tenant: Option<String>,

    /// How far back to collect.
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    last: String,

    /// Write it to this file, which must not exist yet, instead of stdout.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// An option is not possible, or the file is there already: [`UsageError`]. The file cannot be written.
pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let template = Template {
        url: args.url,
        name: args.name,
        tenant: args.tenant,
        last: args.last,
    };
    let text = template
        .render()
        .map_err(|error| UsageError(error.to_string()))?;
    let Some(file) = args.output else {
        print!("{text}");
        return Ok(Exit::Complete);
    };
    create(&file, &text)?;
    Ok(Exit::Complete)
}

/// Writes `text` to `file`. A file that is there already stays as it is.
fn create(file: &Path, text: &str) -> anyhow::Result<()> {
    let doing = || format!("cannot write `{}`", file.display());
    let mut created = match OpenOptions::new().write(true).create_new(true).open(file) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let message = format!(
                "`{}` exists already; name another file, or remove it first",
                file.display()
            );
            return Err(UsageError(message).into());
        }
        opened => opened.with_context(doing)?,
    };
    created.write_all(text.as_bytes()).with_context(doing)
}
