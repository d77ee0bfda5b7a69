//! `gaps`: what was asked for and is not collected, with reasons.

use std::io::Write;

use chrono::Utc;

use super::{
    Exit,
    database::{self, Database, Otherwise},
    terminal::{self, say},
};
use crate::{
    gaps::{Gap, Reason},
    status::{self, DatasetStatus},
    window::rfc3339,
};

/// List what was asked for and is not collected, with reasons. Exit code 3 if there is anything that could be.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this dataset, or the one that this job fills
    #[arg(value_name = "JOB")]
    name: Option<String>,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let database = Database::open(&args.database, Otherwise::LookOnly, 2).await?;
    let statuses = async {
        let mut conn = database.pool.acquire().await?;
        status::datasets(&mut conn, args.name.as_deref(), Utc::now()).await
    }
    .await;
    database.close().await;
    let statuses = statuses?;
    if let Some(name) = args.name.as_ref().filter(|_| statuses.is_empty()) {
        return Err(super::unknown(name).into());
    }
    let mut out = terminal::stdout();
    if args.json {
        let all: Vec<serde_json::Value> = statuses
            .iter()
            .flat_map(|status| status.gaps.iter().map(|gap| as_json(status, gap)))
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    } else {
        for status in &statuses {
            let none = match status.was_submitted {
                true => "no gaps in what was asked for",
                false => "nothing was asked for yet",
            };
            if status.gaps.is_empty() {
                writeln!(out, "{}: {none}", status.state.name)?;
            }
            for gap in &status.gaps {
                let why = match &gap.reason {
                    Reason::Failed {
                        error, attempts: 0, ..
                    } => format!(", given up untried with the rest of its run: {error}"),
                    Reason::Failed {
                        error, attempts, ..
                    } => format!(" after {attempts} attempts: {error}"),
                    Reason::InFlight if is_abandoned(status) => {
                        format!(
                            ": queued, and nobody works on it: tempo-harvest work{}, or run FILE",
                            database::option()
                        )
                    }
                    _ => String::new(),
                };
                writeln!(
                    out,
                    "{}: {}: {}{why}",
                    status.state.name,
                    gap.window,
                    gap.reason.name()
                )?;
            }
        }
    }
    for status in &statuses {
        if status.gaps.iter().any(|gap| gap.reason.is_repairable()) {
            say!(
                "to fetch what could be there: tempo-harvest repair {}{}",
                status.state.name,
                database::option()
            );
        }
    }
    let missing = statuses.iter().any(|status| status.missing_s() > 0);
    Ok(if missing { Exit::Gaps } else { Exit::Complete })
}

/// Whether what is on the queue waits for somebody to work, and for nothing else.
fn is_abandoned(status: &DatasetStatus) -> bool {
    !status.worked_on && status.paused.is_empty()
}

fn as_json(status: &DatasetStatus, gap: &Gap) -> serde_json::Value {
    let mut json = serde_json::json!({
        "dataset": status.state.name, "from": rfc3339(gap.window.start()), "to": rfc3339(gap.window.end()),
        "seconds": gap.window.seconds(), "reason": gap.reason.name(),
    });
    if gap.reason == Reason::InFlight {
        json["worked_on"] = status.worked_on.into();
    }
    if let Reason::Failed {
        class,
        error,
        attempts,
    } = &gap.reason
    {
        json["error_class"] = class.as_str().into();
        json["error"] = error.as_str().into();
        json["attempts"] = (*attempts).into();
    }
    json
}
