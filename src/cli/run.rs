//! `run`: submit, work, wait, report.

use std::{io::Write, time::Instant};

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    Exit, UsageError,
    database::{self, Database, Otherwise},
    jobs::{self, Later, Target},
    progress::Display,
    terminal::{self, say},
};
use crate::{
    baseline::pass,
    control,
    plan::Plan,
    store::{
        self, Holder, Look, OpenError, datasets, retention,
        runs::{self, Progress},
        windows,
    },
    submit,
    window::{Window, WindowSet, rfc3339},
    worker::{STORING, Worker},
};

/// How often the ledger is looked at while waiting.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// Fetch what is missing of each job's range, wait for it, and report.
///
/// Running again fetches only what is still missing: nothing, if nothing is.
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

/// What became of a job's range.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    job: String,
    dataset: String,
    /// complete, already complete, nothing to collect, gaps, failed, interrupted
    pub(super) outcome: &'static str,
    requested: [String; 2],
    seconds: f64,
    traces_per_second: f64,
    #[serde(flatten)]
    progress: Progress,
    /// Stretches that are not collected though they should be.
    gaps: Vec<[String; 2]>,
    /// Stretches too young to be sealed.
    too_young: Vec<[String; 2]>,
    /// These, and the window after a range that ends with what is settled, with when they can be collected.
    #[serde(serialize_with = "as_json")]
    later: Vec<Later>,
    /// Stretches older than what the source keeps.
    beyond_retention: Vec<[String; 2]>,
}

fn as_json<S: serde::Serializer>(later: &[Later], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(later.iter().map(|later| later.as_json()))
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let now = Utc::now();
    let targets = match args.jobs.targets(now)? {
        Ok(targets) => targets,
        Err(exit) => return Ok(exit),
    };
    let mut interrupts = Interrupts::new()?;
    let opening = Database::open(&args.database, Otherwise::Local, connections(&targets));
    let database = tokio::select! {
        opened = opening => opened?,
        () = interrupts.next() => {
            say!("stopped before anything was asked for");
            return finish(None, args.json);
        }
    };
    let outcome = run_targets(&database, &targets, "run", now, args.json, &mut interrupts).await;
    database.close().await;
    finish(outcome?, args.json)
}

/// Says in JSON what became of it, if that is wanted, and tells the exit code. `None`: it was stopped before anything was.
fn finish(reports: Option<Vec<Report>>, json: bool) -> anyhow::Result<Exit> {
    let otherwise = match reports {
        None => Exit::Gaps,
        Some(_) => Exit::Complete,
    };
    let reports = reports.unwrap_or_default();
    if json {
        writeln!(
            terminal::stdout(),
            "{}",
            serde_json::to_string_pretty(&reports)?
        )?;
    }
    Ok(reports.iter().map(Report::exit).max().unwrap_or(otherwise))
}

/// Connections for working on these: two for each window in hand, and some to look around with.
pub(super) fn connections(targets: &[Target]) -> u32 {
    let in_hand: usize = targets
        .iter()
        .map(|target| target.job.source.limits.concurrency + STORING)
        .sum();
    u32::try_from(in_hand * 2 + 6).unwrap_or(64).min(64)
}

/// What was planned for a target.
struct Submitted {
    plan: Plan,
    /// Requests that it took to have it counted.
    counts: u32,
}

impl Submitted {
    /// Whether there is anything to wait for.
    fn needs_work(&self) -> bool {
        !self.plan.windows.is_empty() || !self.plan.in_flight.is_empty()
    }
}

/// Submits the targets, works until each is finished, and prints what became of each. `None`: it was stopped before that.
pub(super) async fn run_targets(
    database: &Database,
    targets: &[Target],
    command: &str,
    now: DateTime<Utc>,
    quiet: bool,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Option<Vec<Report>>> {
    let holder = Holder::of_this_process();
    let begun = Instant::now();
    let mut plans = Vec::new();
    let mut runs = Vec::new();
    let submitting = async {
        let mut conn = database.pool.acquire().await?;
        let since = database_time(&mut conn).await?;
        for target in targets {
            refuse_paused(&mut conn, target).await?;
            let mut submission = target.submission(command, &holder, now);
            let survey = submit::survey(&database.pool, &submission)
                .await
                .map_err(|error| target.refused(error))?;
            submission.sizing = survey.as_ref().map(|survey| &survey.sizing);
            let (plan, run_id) = submit::submit(&mut conn, &submission)
                .await
                .map_err(|error| target.refused(error))?;
            plans.push(Submitted {
                plan,
                counts: survey.map_or(0, |survey| survey.requests),
            });
            runs.extend(run_id);
        }
        anyhow::Ok(since)
    };
    let since = tokio::select! {
        submitted = submitting => submitted?,
        () = interrupts.next() => {
            say!("stopped before anything was fetched; to go on, run again");
            send_to_background(database, runs).await?;
            return Ok(None);
        }
    };
    let stop = CancellationToken::new();
    let sources: Vec<String> = targets
        .iter()
        .map(|target| target.job.source.name.clone())
        .collect();
    let worker = Worker::new(
        database.pool.clone(),
        holder,
        targets
            .iter()
            .map(|target| target.job.source.clone())
            .collect(),
    )
    .only(sources);
    let needs_work = plans.iter().any(Submitted::needs_work);
    let mut working = needs_work.then(|| tokio::spawn(worker.run(stop.clone())));
    let span = Span { since, begun };
    let mut reports = Vec::new();
    let waited = tokio::select! {
        waited = wait_for_all(database, targets, &plans, span, interrupts, quiet, &mut reports) => waited,
        ended = ended(&mut working) => Err(ended),
    };
    // Whatever came of it, what is in hand is given back.
    stop.cancel();
    if let Some(working) = working {
        tokio::select! {
            ended = working => ended.context("the worker ended badly")??,
            () = interrupts.again() => say!("stopped at once; what was in hand is taken up again within a minute"),
        }
    }
    // A newer program has the tables now: nothing more is changed in them.
    if waited.as_ref().is_err_and(is_outdated) {
        return waited.map(|()| None);
    }
    if waited.is_ok() {
        // Of those that were stopped, with what was still finished.
        for (target, submitted) in targets.iter().zip(&plans).skip(reports.len()) {
            let progress = look(database, target, since).await?;
            let report = report(database, target, submitted, progress, begun, true).await?;
            reports.push(report.said(target, quiet));
        }
    }
    bring_baselines_up_to_date(database, targets).await;
    let finished = waited.is_ok() && reports.iter().all(|report| report.outcome != "interrupted");
    if !finished {
        send_to_background(database, runs).await?;
    }
    waited.map(|()| Some(reports))
}

/// Somebody waits no longer for what is left of these runs.
async fn send_to_background(database: &Database, runs: Vec<i64>) -> sqlx::Result<()> {
    let mut conn = database.pool.acquire().await?;
    for run_id in runs {
        windows::send_to_background(&mut conn, run_id).await?;
    }
    Ok(())
}

/// When it began.
#[derive(Clone, Copy)]
struct Span {
    /// By the database's clock.
    since: DateTime<Utc>,
    begun: Instant,
}

/// Once what was collected is stored, what it says is usual is to be had: there need be no `work` to compute it.
async fn bring_baselines_up_to_date(database: &Database, targets: &[Target]) {
    for target in targets {
        let dataset = &target.job.dataset;
        if let Err(error) = pass::bring_up_to_date(&database.pool, dataset).await {
            tracing::warn!(dataset, %error, "cannot bring the baselines up to date; `baseline` tries again");
        }
    }
}

/// Windows of a paused run in the range would be waited for in vain.
async fn refuse_paused(conn: &mut sqlx::PgConnection, target: &Target) -> anyhow::Result<()> {
    let dataset = &target.job.dataset;
    let Some(here) =
        store::control::paused_in(conn, dataset, Look::Sealed, target.requested).await?
    else {
        return Ok(());
    };
    let (what, name) = match here.run {
        Some(run) => (format!("run {run}"), run.to_string()),
        // Submitting refuses that by itself.
        None if here.job == target.job.name => return Ok(()),
        None => (format!("job `{}`", here.job), here.job),
    };
    Err(UsageError(format!(
        "job `{}`: windows of this range wait for {what}, which is paused since {} by {}: `tempo-harvest resume {name}{}` first",
        target.job.name,
        control::at(&here.paused),
        here.paused.by,
        database::option()
    ))
    .into())
}

/// Resolves only when the worker ends by itself, which it should not.
async fn ended(
    working: &mut Option<tokio::task::JoinHandle<Result<(), OpenError>>>,
) -> anyhow::Error {
    let Some(handle) = working.as_mut() else {
        return std::future::pending().await;
    };
    let outcome = handle.await;
    *working = None;
    match outcome {
        Ok(Ok(())) => anyhow::anyhow!("the worker ended before the work"),
        Ok(Err(newer)) => given_back(newer),
        Err(error) => anyhow::anyhow!("the worker ended badly: {error}"),
    }
}

/// What a worker says that has ended because its program is too old by now.
pub(super) fn given_back(newer: OpenError) -> anyhow::Error {
    anyhow::Error::new(newer)
        .context("stopped while at work; what was in hand is back on the queue")
}

/// Whether a newer program has upgraded the tables.
fn is_outdated(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(OpenError::Newer { .. }))
}

/// Waits for each target in turn, and says what became of it; not of those that were still at work when it was interrupted.
async fn wait_for_all(
    database: &Database,
    targets: &[Target],
    plans: &[Submitted],
    Span { since, begun }: Span,
    interrupts: &mut Interrupts,
    quiet: bool,
    reports: &mut Vec<Report>,
) -> anyhow::Result<()> {
    for (target, submitted) in targets.iter().zip(plans) {
        let progress = if submitted.needs_work() {
            wait_for(database, target, since, interrupts, quiet).await?
        } else {
            Some(Progress::default())
        };
        let Some(progress) = progress else {
            say!("stopping: what is in hand goes back on the queue");
            break;
        };
        let report = report(database, target, submitted, progress, begun, false).await?;
        reports.push(report.said(target, quiet));
    }
    Ok(())
}

async fn database_time(conn: &mut sqlx::PgConnection) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#)
        .fetch_one(conn)
        .await
}

/// Waits until no window of the target is open. `None`: Ctrl-C came first.
async fn wait_for(
    database: &Database,
    target: &Target,
    since: DateTime<Utc>,
    interrupts: &mut Interrupts,
    quiet: bool,
) -> anyhow::Result<Option<Progress>> {
    let mut display = Display::new(&target.job.name, quiet);
    let mut finished = None;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while finished.is_none() && !interrupts.came {
        tokio::select! {
            _ = ticks.tick() => {}
            () = interrupts.next() => break,
        }
        match look(database, target, since).await {
            Ok(progress) => {
                display.show(&progress);
                finished = Some(progress).filter(|progress| progress.windows_open == 0);
            }
            Err(error) => {
                // The worker goes on by itself when the database is back.
                tracing::warn!(%error, "cannot see the ledger; trying again");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
    display.finish();
    Ok(finished)
}

/// How far the target's range is.
async fn look(
    database: &Database,
    target: &Target,
    since: DateTime<Utc>,
) -> sqlx::Result<Progress> {
    let mut conn = database.pool.acquire().await?;
    runs::progress(&mut conn, &target.job.dataset, target.requested, since).await
}

async fn report(
    database: &Database,
    target: &Target,
    Submitted { plan, counts }: &Submitted,
    mut progress: Progress,
    begun: Instant,
    interrupted: bool,
) -> anyhow::Result<Report> {
    progress.requests += i64::from(*counts);
    let mut conn = database.pool.acquire().await?;
    let in_flight = windows::in_flight(&mut conn, &target.job.dataset, Look::Sealed).await?;
    let covered = datasets::covered(&mut conn, &target.job.dataset, Look::Sealed).await?;
    // While it ran the border has moved on, and what lies behind it may have been deleted.
    let (job, now) = (&target.job, Utc::now());
    let kept_s = submit::retention_s(job);
    let kept = retention::preview(&mut conn, &job.dataset, &job.name, kept_s, now).await?;
    let border = kept.kept.from(now);
    let beyond = border.map_or_else(WindowSet::default, WindowSet::before);
    let gaps = WindowSet::from(target.requested)
        .minus(&covered)
        .minus(&plan.too_young)
        .minus(&plan.beyond_retention)
        .minus(&beyond);
    let outcome = if gaps.is_empty() {
        if !plan.windows.is_empty() || !plan.in_flight.is_empty() {
            "complete"
        } else if plan.too_young.is_empty() && plan.beyond_retention.is_empty() {
            "already complete"
        } else {
            "nothing to collect"
        }
    } else if interrupted || !gaps.intersection(&in_flight).is_empty() {
        "interrupted"
    } else if progress.windows_done == 0 {
        "failed"
    } else {
        "gaps"
    };
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Report {
        job: target.job.name.clone(),
        dataset: target.job.dataset.clone(),
        outcome,
        requested: pair(target.requested),
        seconds,
        traces_per_second: progress.traces_returned as f64 / seconds.max(0.001),
        progress,
        gaps: gaps.iter().map(pair).collect(),
        too_young: plan.too_young.iter().map(pair).collect(),
        later: target.later(plan),
        beyond_retention: plan.beyond_retention.iter().map(pair).collect(),
    })
}

fn pair(window: Window) -> [String; 2] {
    [rfc3339(window.start()), rfc3339(window.end())]
}

impl Report {
    /// The exit code that this outcome asks for.
    pub(super) fn exit(&self) -> Exit {
        match self.outcome {
            "complete" | "already complete" | "nothing to collect" => Exit::Complete,
            // Tempo refuses the query: the job file is wrong.
            _ if self.progress.error_class.as_deref() == Some("query") => Exit::Usage,
            "failed" => Exit::Failed,
            _ => Exit::Gaps,
        }
    }

    /// Has been said, unless nothing is to be.
    fn said(self, target: &Target, quiet: bool) -> Self {
        if !quiet {
            // A reader that has gone away changes nothing about the outcome.
            let _nobody_reads = self.print(target);
        }
        self
    }

    fn print(&self, target: &Target) -> std::io::Result<()> {
        let mut out = terminal::stdout();
        let Self { job, progress, .. } = self;
        let [from, to] = &self.requested;
        writeln!(out, "{job}: {} ({from} … {to})", self.outcome)?;
        if !matches!(self.outcome, "already complete" | "nothing to collect") {
            writeln!(
                out,
                "  {} windows, {} traces ({} new) in {:.1} s, {:.0} traces/s; {} requests, {} splits, {} retries",
                progress.windows_done,
                progress.traces_returned,
                progress.traces_new,
                self.seconds,
                self.traces_per_second,
                progress.requests,
                progress.splits,
                progress.retries
            )?;
        }
        let (too_young, next) = self.later.split_at(self.too_young.len());
        for later in too_young {
            writeln!(
                out,
                "  not collected: {}: too young to be sealed; run again from {} on",
                later.window,
                rfc3339(later.collectable_from)
            )?;
        }
        for [from, to] in &self.beyond_retention {
            writeln!(
                out,
                "  not collected: {from} … {to}: older than the `retention` of the source or of the job: beyond retention"
            )?;
        }
        for [from, to] in self.gaps.iter().take(10) {
            writeln!(out, "  missing: {from} … {to}")?;
        }
        if self.gaps.len() > 10 {
            writeln!(
                out,
                "  missing: and {} more stretches",
                self.gaps.len() - 10
            )?;
        }
        let local = database::option();
        let file = target.job.file.display();
        match self.outcome {
            "complete" | "already complete" | "nothing to collect" => {
                // Somebody may miss what came since.
                for later in next {
                    say!(
                        "{job}: {later}: what is younger is left out, because Tempo may still be moving it about. A later run brings it, \
                         and `work` with a [poll] keeps up"
                    );
                }
            }
            "interrupted" => say!(
                "{job}: stopped; what is left stays on the queue. To go on: tempo-harvest run {file} (with the same options)"
            ),
            _ => {
                if let Some(error) = &progress.last_error {
                    if progress.error_class.as_deref() == Some("query") {
                        say!("{}", target.job.refusal("select.query", error.clone()));
                    } else {
                        say!("{job}: {error}");
                    }
                }
                say!(
                    "{job}: reasons: tempo-harvest gaps {job}{local}; to fetch what is missing, run again"
                );
            }
        }
        Ok(())
    }
}

/// Ctrl-C and SIGTERM, from when this is made on.
pub(super) struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    came: bool,
}

impl Interrupts {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            came: false,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        self.came = true;
    }

    /// A second time, for whoever does not want to wait for the orderly end; never without a first.
    async fn again(&mut self) {
        self.next().await;
    }
}

/// The first Ctrl-C or SIGTERM.
pub(super) async fn until_interrupted() -> std::io::Result<()> {
    Interrupts::new()?.next().await;
    Ok(())
}
