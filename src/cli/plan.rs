//! `plan`: what `run` would fetch, and what that would cost.

use std::io::Write;

use anyhow::bail;
use chrono::Utc;
use indicatif::HumanBytes;

use super::{
    Exit,
    database::{self, Database, Otherwise},
    jobs::{self, Later, Target},
    terminal,
};
use crate::{
    harvest::survey::Uncounted,
    job::{Detail, Job},
    plan::Plan,
    store::{Holder, retention::Kept, schema, sources, spans, traces},
    submit::{self, Submission},
    tempo::{Client, Limits},
    window::{Window, WindowSet, rfc3339},
    words::{length, many},
};

/// Show what `run` would fetch, and what it would cost; writes nothing.
///
/// Tempo is asked to count, which is cheap: from its counts come the windows that `run` would make, the requests and the
/// room on disk. What it does not count is said to be unknown.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    jobs: jobs::JobArgs,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Do not ask Tempo to count: windows are cut at edges
    #[arg(long)]
    no_count: bool,
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
        let plans = plans(&database, &targets, args.no_count).await;
        database.close().await;
        plans?
    } else {
        let mut plans = Vec::new();
        for target in &targets {
            plans.push(everything(target, args.no_count).await);
        }
        plans
    };
    let mut out = terminal::stdout();
    if args.json {
        let reports: Vec<serde_json::Value> = targets
            .iter()
            .zip(&plans)
            .map(|(target, (plan, estimate))| as_json(target, plan, estimate.as_ref().ok()))
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&reports)?)?;
        return Ok(Exit::Complete);
    }
    for (target, (plan, estimate)) in targets.iter().zip(&plans) {
        let windows = plan.to_fetch();
        writeln!(out, "{}: {}", target.job.name, target.requested)?;
        writeln!(
            out,
            "  to fetch          {} in {}",
            length(windows.seconds()),
            many(plan.windows.len(), "window", "windows")
        )?;
        match estimate {
            Ok(estimate) => writeln!(
                out,
                "  expected          {}; about {} ({} of them to count), {} on disk",
                many(estimate.traces, "trace", "traces"),
                many(estimate.requests, "request", "requests"),
                estimate.counts,
                HumanBytes(estimate.bytes_on_disk)
            )?,
            Err(_) if windows.is_empty() => {}
            Err(why) => writeln!(
                out,
                "  expected          {why}; windows are cut at edges, and cut further where they are full"
            )?,
        }
        for (what, set) in [
            ("covered", &plan.covered),
            ("in flight", &plan.in_flight),
            ("too young", &plan.too_young),
            ("beyond retention", &plan.beyond_retention),
        ] {
            writeln!(out, "  {what:<17} {}", length(set.seconds()))?;
        }
        for later in target.later(plan) {
            writeln!(out, "  later: {later}")?;
        }
        for window in windows.iter() {
            writeln!(out, "  fetch {window}")?;
        }
    }
    Ok(Exit::Complete)
}

/// What a plan will cost, or why that is not known.
type Estimated = Result<Estimate, Uncounted>;

/// What a plan will cost.
#[derive(Debug, Clone, serde::Serialize)]
struct Estimate {
    /// Traces that start in what is to be fetched. A few more come: those that reach into it.
    traces: u64,
    /// Requests in all.
    requests: u64,
    /// Of these, questions for counts.
    counts: u32,
    /// Room that the traces will take in the database, indexes included, bytes.
    bytes_on_disk: u64,
}

/// Has Tempo count, and plans by it.
async fn counted(
    submission: &mut Submission<'_>,
    target: &Target,
    plan: Plan,
    limits: Limits,
    bytes_per_trace: Option<f64>,
    again: impl AsyncFnOnce(&Submission<'_>) -> anyhow::Result<Plan>,
) -> anyhow::Result<(Plan, Estimated)> {
    let source = target.job.source.clone();
    let Ok(client) = Client::new(source, limits) else {
        return Ok((plan, Err(Uncounted::Failed)));
    };
    let surveyor = submit::surveyor(submission, &client, None);
    let survey = match surveyor.survey(&plan.to_fetch(), target.longest_s).await {
        Ok(survey) => survey,
        Err(why) => return Ok((plan, Err(why))),
    };
    let sized = Submission {
        sizing: Some(&survey.sizing),
        ..*submission
    };
    let plan = again(&sized).await?;
    let traces = plan.windows.iter().filter_map(|piece| piece.expected).sum();
    let bytes = bytes_per_trace.unwrap_or_else(|| usual_bytes_on_disk(&target.job));
    let estimate = Estimate {
        traces,
        requests: searches(&target.job, survey.searches(&plan.windows), traces)
            + u64::from(survey.requests),
        counts: survey.requests,
        bytes_on_disk: (traces as f64 * bytes) as u64,
    };
    Ok((plan, Ok(estimate)))
}

/// Requests that windows of so many searches, and so many traces, take. With whole spans each window is asked a second time,
/// for the traces of many spans; with a filter as well every trace is looked up.
fn searches(job: &Job, searches: u64, traces: u64) -> u64 {
    match (job.select.detail, &job.select.query) {
        (Detail::Spans, None) => searches * 2,
        (Detail::Spans, Some(_)) => searches + traces,
        _ => searches,
    }
}

/// What a trace takes in the database, its indexes included, before there is one to measure; bytes.
fn usual_bytes_on_disk(job: &Job) -> f64 {
    match job.select.detail {
        Detail::Trace => 235.0,
        Detail::Services => 430.0,
        // Of four spans without attributes.
        Detail::Spans => 1_450.0,
    }
}

/// The plan for a database that does not exist or was never used: nothing is covered.
async fn everything(target: &Target, no_count: bool) -> (Plan, Estimated) {
    let holder = Holder::of_this_process();
    let mut submission = target.submission("run", &holder, Utc::now());
    let kept = Kept {
        retention_s: submit::retention_s(&target.job),
        deleted_before: None,
    };
    let nothing = WindowSet::default();
    let plan = submit::planned(&submission, &nothing, &nothing, kept);
    if no_count {
        return (plan, Err(Uncounted::NotWanted));
    }
    let again = async |submission: &Submission<'_>| {
        Ok(submit::planned(submission, &nothing, &nothing, kept))
    };
    let fallback = plan.clone();
    counted(
        &mut submission,
        target,
        plan,
        Limits::default(),
        None,
        again,
    )
    .await
    .unwrap_or((fallback, Err(Uncounted::Failed)))
}

async fn plans(
    database: &Database,
    targets: &[Target],
    no_count: bool,
) -> anyhow::Result<Vec<(Plan, Estimated)>> {
    let mut conn = database.pool.acquire().await?;
    let standing = schema::standing(&mut conn).await?;
    let empty = standing.ours.applied == 0;
    if !empty && !standing.is_current() {
        bail!(
            "the database's tables are older than this tempo-harvest, and `plan` changes nothing: `tempo-harvest migrate` upgrades them, \
             as every command does that writes"
        );
    }
    let holder = Holder::of_this_process();
    let mut plans = Vec::new();
    for target in targets {
        if empty {
            plans.push(everything(target, no_count).await);
            continue;
        }
        let mut submission = target.submission("run", &holder, Utc::now());
        let plan = submit::preview(&mut conn, &submission)
            .await
            .map_err(|error| target.refused(error))?;
        if no_count || plan.windows.is_empty() {
            plans.push((plan, Err(Uncounted::NotWanted)));
            continue;
        }
        let limits = sources::limits(&mut conn, &target.job.source.name).await?;
        let mut bytes = traces::bytes_on_disk(&mut conn).await?;
        if target.job.select.detail == Detail::Spans {
            let of_spans = spans::bytes_on_disk(&mut conn, &target.job.dataset).await?;
            bytes = Option::zip(bytes, of_spans).map(|(bytes, of_spans)| bytes + of_spans);
        }
        let again = async |submission: &Submission<'_>| {
            submit::preview(&mut conn, submission)
                .await
                .map_err(|error| target.refused(error))
        };
        plans.push(counted(&mut submission, target, plan, limits, bytes, again).await?);
    }
    Ok(plans)
}

fn as_json(target: &Target, plan: &Plan, estimate: Option<&Estimate>) -> serde_json::Value {
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
        "windows": pairs(plan.windows.iter().map(|piece| piece.window).collect()), "covered": set(&plan.covered), "in_flight": set(&plan.in_flight),
        "too_young": set(&plan.too_young), "beyond_retention": set(&plan.beyond_retention),
        "later": target.later(plan).into_iter().map(Later::as_json).collect::<Vec<_>>(),
        "expected": estimate,
    })
}
