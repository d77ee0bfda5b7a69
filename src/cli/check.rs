//! `check`: says everything that is wrong with job files, without touching a database or a Tempo.

use std::path::PathBuf;

use chrono::Utc;
use serde_json::{Value as Json, json};

use super::{Exit, terminal::say};
use crate::job::{CheckOptions, CheckedFile, Content, ProcessEnv, Report, check};

/// Check job files: all that is wrong with them, each with file, line, column and fix.
///
/// Exit code 0 when nothing is wrong, else 2.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job files, or folders with job files and a sources.toml.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Leave ${VAR} unexpanded and look at no other file, as in CI, where the secrets are missing.
    #[arg(long)]
    no_env: bool,

    /// Report as JSON on stdout: {"ok", "files", "problems"}.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// None of its own: what is wrong with the files is its result.
pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let env = ProcessEnv;
    let report = check(
        &args.paths,
        &CheckOptions {
            env: if args.no_env { None } else { Some(&env) },
            now: Utc::now(),
        },
    );
    let is_ok = report.problems.is_empty();
    if args.json {
        println!("{:#}", report_json(&report));
    } else {
        for checked in &report.files {
            println!("{}: ok: {}", checked.file.display(), summary(checked));
            for warning in warnings(checked) {
                say!("{}: {warning}", checked.file.display());
            }
        }
        if !is_ok {
            say!("{}", report.problems);
        }
    }
    Ok(if is_ok { Exit::Complete } else { Exit::Usage })
}

fn summary(checked: &CheckedFile) -> String {
    match &checked.content {
        Content::Job(Some(outline)) => outline.summary.clone(),
        Content::Job(None) => "a job that depends on the environment".to_owned(),
        Content::Sources(names) => format!("sources {}", names.join(", ")),
    }
}

/// What may not be meant, of a job that is known.
fn warnings(checked: &CheckedFile) -> &[String] {
    match &checked.content {
        Content::Job(Some(outline)) => &outline.warnings,
        _ => &[],
    }
}

fn report_json(report: &Report) -> Json {
    let files: Vec<Json> = report
        .files
        .iter()
        .map(|checked| {
            let (kind, outline) = match &checked.content {
                Content::Job(outline) => ("job", outline.as_ref()),
                Content::Sources(_) => ("sources", None),
            };
            json!({
                "file": checked.file,
                "kind": kind,
                "name": outline.map(|outline| &outline.name),
                "dataset": outline.map(|outline| &outline.dataset),
                "source": outline.and_then(|outline| outline.source.as_ref()),
                "summary": summary(checked),
                "warnings": warnings(checked),
            })
        })
        .collect();
    json!({ "ok": report.problems.is_empty(), "files": files, "problems": report.problems })
}
