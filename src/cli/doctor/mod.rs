//! `doctor`: is everything there that collecting needs, and if not, what to do.

mod postgres;
mod source;

use std::{fmt, io::Write, path::PathBuf};

use chrono::Utc;
use serde::Serialize;

use super::{
    Exit,
    database::{self, Otherwise},
    jobs, terminal,
};
use crate::{store, version};

/// Check the database, and the Tempo of each job file given, and say what to do about what is wrong.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job files, or folders of them
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

#[derive(Debug, Serialize)]
struct Finding {
    about: String,
    check: &'static str,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        about: &str,
        check: &'static str,
        state: State,
        detail: impl Into<String>,
        fix: Option<&str>,
    ) {
        self.0.push(Finding {
            about: about.to_owned(),
            check,
            state,
            detail: detail.into(),
            fix: fix.map(str::to_owned),
        });
    }
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let jobs = if args.files.is_empty() {
        Vec::new()
    } else {
        match jobs::load(&args.files, Utc::now()) {
            Ok(jobs) => jobs,
            Err(exit) => return Ok(exit),
        }
    };
    let mut findings = Findings::default();
    findings.add("program", "version", State::Ok, version::FULL, None);
    let (options, local) = database::locate(&args.database, Otherwise::Local).await?;
    let about = match &local {
        // Its socket's folder is another each time.
        Some(local) => format!("private PostgreSQL in {}", local.folder().display()),
        None => format!("database at {}", store::address_of(&options)),
    };
    let pool = postgres::check(&mut findings, &about, &options).await;
    let mut seen: Vec<&str> = Vec::new();
    for job in &jobs {
        if !seen.contains(&job.source.name.as_str()) {
            seen.push(&job.source.name);
            let limits = source::known_limits(pool.as_ref(), &job.source).await;
            source::check(&mut findings, job, limits).await;
        }
    }
    if let Some(pool) = pool {
        pool.close().await;
    }
    if let Some(local) = local {
        local.stop().await;
    }
    let mut out = terminal::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings.0)?)?;
    } else {
        for finding in &findings.0 {
            writeln!(
                out,
                "{:<5} {}: {}: {}",
                finding.state, finding.about, finding.check, finding.detail
            )?;
            if let Some(fix) = &finding.fix {
                writeln!(out, "      -> {fix}")?;
            }
        }
        if jobs.is_empty() {
            writeln!(
                out,
                "give a job file to check its Tempo too: tempo-harvest doctor FILE"
            )?;
        }
    }
    let failed = findings
        .0
        .iter()
        .any(|finding| finding.state == State::Fail);
    Ok(if failed { Exit::Failed } else { Exit::Complete })
}
