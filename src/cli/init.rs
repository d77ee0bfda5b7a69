//! `init`: prints a commented job file for a Tempo, to begin with.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Exit;
use crate::job::Template;

/// Print a commented job file that collects the traces of a Tempo.
#[derive(Debug, clap::Args)]
pub struct Args {
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
/// The file cannot be written.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let template = Template {
        url: args.url,
        name: args.name,
        tenant: args.tenant,
        last: args.last,
    };
    let text = match template.render() {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{error}");
            return Ok(Exit::Usage);
        }
    };
    let Some(file) = args.output else {
        print!("{text}");
        return Ok(Exit::Complete);
    };
    if !create(&file, &text)? {
        eprintln!(
            "`{}` exists already; name another file, or remove it first",
            file.display()
        );
        return Ok(Exit::Usage);
    }
    Ok(Exit::Complete)
}

/// Writes `text` to `file`; `false` when there is such a file already, which stays as it is.
fn create(file: &Path, text: &str) -> anyhow::Result<bool> {
    let doing = || format!("cannot write `{}`", file.display());
    let mut created = match OpenOptions::new().write(true).create_new(true).open(file) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        opened => opened.with_context(doing)?,
    };
    created.write_all(text.as_bytes()).with_context(doing)?;
    Ok(true)
}
