//! `plan`: what `run` would fetch.

use std::io::Write;

use chrono::Utc;

use super::{
    Exit,
    database::{self, Database, Otherwise},
    jobs::{self, Target},
};
use crate::{
    plan::Plan,
    store::{self, Holder, retention::Kept},
    submit,
    window::{Window, WindowSet, rfc3339},
};

/// Show what `run` would fetch; writes nothing and asks Tempo nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    jobs: jobs::JobArgs,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let now = Utc::now();
    let targets = match args.jobs.targets(now)? {
        Ok(targets) => targets,
        Err(exit) => return Ok(exit),
    };
    let plans = if database::exists(&args.database)? {
        let database = Database::open_as_it_is(&args.database, Otherwise::Local, 2).await?;
        let plans = plans(&database, &targets).await;
        database.close().await;
        plans?
    } else {
        targets.iter().map(everything).collect()
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        let reports: Vec<serde_json::Value> = targets
            .iter()
            .zip(&plans)
            .map(|(target, plan)| as_json(target, plan))
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&reports)?)?;
        return Ok(Exit::Complete);
    }
    for (target, plan) in targets.iter().zip(&plans) {
        let windows: WindowSet = plan.windows.iter().copied().collect();
        writeln!(out, "{}: {}", target.job.name, target.requested)?;
        writeln!(
            out,
            "  to fetch          {:>12} s in {} windows of at most {} s",
            windows.seconds(),
            plan.windows.len(),
            target.window_s
        )?;
        for (what, set) in [
            ("covered", &plan.covered),
            ("in flight", &plan.in_flight),
            ("too young", &plan.too_young),
            ("beyond retention", &plan.beyond_retention),
        ] {
            writeln!(out, "  {what:<17} {:>12} s", set.seconds())?;
        }
        for window in windows.iter() {
            writeln!(out, "  fetch {window}")?;
        }
    }
    Ok(Exit::Complete)
}

/// The plan for a database that does not exist or was never used: nothing is covered.
fn everything(target: &Target) -> Plan {
    let holder = Holder::of_this_process();
    let submission = target.submission("run", &holder, Utc::now());
    let kept = Kept {
        retention_s: submit::retention_s(&target.job),
        deleted_before: None,
    };
    submit::planned(
        &submission,
        &WindowSet::default(),
        &WindowSet::default(),
        kept,
    )
}

async fn plans(database: &Database, targets: &[Target]) -> anyhow::Result<Vec<Plan>> {
    let mut conn = database.pool.acquire().await?;
    let (_, applied) = store::migrations_applied(&mut conn).await?;
    let holder = Holder::of_this_process();
    let mut plans = Vec::new();
    for target in targets {
        let submission = target.submission("run", &holder, Utc::now());
        plans.push(if applied == 0 {
            everything(target)
        } else {
            submit::preview(&mut conn, &submission)
                .await
                .map_err(|error| target.refused(error))?
        });
    }
    Ok(plans)
}

fn as_json(target: &Target, plan: &Plan) -> serde_json::Value {
    let pairs = |windows: Vec<Window>| -> Vec<[String; 2]> {
        windows
            .into_iter()
            .map(|window| [rfc3339(window.start()), rfc3339(window.end())])
            .collect()
    };
    let set = |set: &WindowSet| pairs(set.iter().collect());
    serde_json::json!({
        "job": target.job.name, "dataset": target.job.dataset,
        "requested": [rfc3339(target.requested.start()), rfc3339(target.requested.end())],
        "windows": pairs(plan.windows.clone()), "covered": set(&plan.covered), "in_flight": set(&plan.in_flight),
        "too_young": set(&plan.too_young), "beyond_retention": set(&plan.beyond_retention),
    })
}
