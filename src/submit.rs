//! Submitting a job: what is left of its range is planned, recorded in the ledger and put on the queue, in one
//! transaction. Submitting again plans what is missing then, which is nothing if nothing is.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, PgPool};

use crate::{
    harvest::survey::{Survey, Surveyor},
    job::{Job, duration},
    pace::Together,
    plan::{self, Plan, density::Sizing},
    store::{
        Holder, Look, baselines,
        control::{self, Paused},
        datasets::{self, Fingerprint, Match},
        polls, report,
        retention::{self, Kept, Outcome},
        runs::{self, Kind, NewRun},
        sources,
        windows::{self, Origin},
    },
    tempo::{Client, gate::Pace},
    window::{Window, WindowSet},
};

/// Why a job cannot be submitted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The dataset's name stands for something else.
    #[error(
        "dataset `{dataset}` was collected with another {what} (`{was}`; this job has `{is}`): give it a new name with `dataset = \"…\"`, or \
         forget what was collected with `tempo-harvest dataset reset {dataset} --yes`"
    )]
    Conflict {
        /// The dataset.
        dataset: String,
        /// source, tenant, query, detail or attributes.
        what: &'static str,
        /// As it was collected.
        was: String,
        /// As the job has it.
        is: String,
    },
    /// The source's name stands for another tenant.
    #[error(
        "source `{source_name}` is known with tenant `{was}` (dataset `{dataset}`); this job has `{is}`: a source is its name, so give each \
         tenant's a `name` of its own"
    )]
    Tenant {
        /// The source.
        source_name: String,
        /// A dataset that is collected from it.
        dataset: String,
        /// Its tenant.
        was: String,
        /// As the job has it.
        is: String,
    },
    /// It would wait for ever.
    #[error(
        "job `{job}` is paused since {} by {}: `tempo-harvest resume {job}` first",
        crate::control::at(.paused),
        .paused.by
    )]
    Paused {
        /// The job.
        job: String,
        /// Since when, and by whom.
        paused: Paused,
    },
    /// The database refuses.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Who submits what.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    /// The job.
    pub job: &'a Job,
    /// The range to collect.
    pub requested: Window,
    /// Length of the windows it is cut into, seconds.
    pub window_s: i64,
    /// The longest that one becomes where there is little in it, seconds.
    pub longest_s: i64,
    /// How far behind the present it stays, seconds.
    pub settle_s: i64,
    /// The present.
    pub now: DateTime<Utc>,
    /// `run`, `submit`, `work` or `demo`.
    pub command: &'a str,
    /// Priority on the queue.
    pub priority: i32,
    /// This process.
    pub holder: &'a Holder,
    /// How to cut windows where Tempo has counted ([`survey`]).
    pub sizing: Option<&'a Sizing>,
}

impl<'a> Submission<'a> {
    /// The submission of what the job's [backfill] says at the time `now`, in the background; `None` without one.
    pub fn of_backfill(job: &'a Job, now: DateTime<Utc>, holder: &'a Holder) -> Option<Self> {
        let backfill = job.backfill.as_ref()?;
        let seconds = |duration: std::time::Duration| i64::try_from(duration.as_secs()).ok();
        let (start, end) = backfill.resolve(now);
        Some(Self {
            job,
            requested: Window::new(start, end)?,
            window_s: seconds(backfill.window)?,
            longest_s: seconds(backfill.longest_window)?,
            settle_s: seconds(backfill.settle)?,
            now,
            command: "work",
            priority: windows::BACKFILL_PRIORITY,
            holder,
            sizing: None,
        })
    }
}

/// A job's fingerprint: what its dataset is a collection of.
pub fn fingerprint(job: &Job) -> Fingerprint {
    Fingerprint {
        source: job.source.name.clone(),
        tenant: job.source.tenant.clone(),
        query: job.select.query.clone(),
        detail: job.select.detail.name().to_owned(),
        attributes: job.select.attributes.clone(),
    }
}

/// What submitting would do, without doing it.
///
/// # Errors
/// If the dataset was collected with something else, or the database refuses.
pub async fn preview(
    conn: &mut PgConnection,
    submission: &Submission<'_>,
) -> Result<Plan, SubmitError> {
    let restart = compare(conn, submission.job).await? != Match::Same;
    let (covered, in_flight) = if restart {
        Default::default()
    } else {
        ledger(conn, &submission.job.dataset).await?
    };
    let job = submission.job;
    let outcome = retention::preview(
        conn,
        &job.dataset,
        &job.name,
        retention_s(job),
        submission.now,
    )
    .await?;
    Ok(planned(submission, &covered, &in_flight, outcome.kept))
}

/// Has Tempo count what a submission would fetch, so that its windows can be cut to fit, at the pace that all processes keep
/// together. `None`: nothing is to be fetched, or nothing is known about it.
///
/// # Errors
/// If the dataset was collected with something else, or the database refuses.
pub async fn survey(
    pool: &PgPool,
    submission: &Submission<'_>,
) -> Result<Option<Survey>, SubmitError> {
    let job = submission.job;
    let (open, limits) = {
        let mut conn = pool.acquire().await?;
        let mut tx = conn.begin().await?;
        let outcome = record(&mut tx, job).await?;
        let paused = control::job(&mut tx, &job.name).await?;
        tx.commit().await?;
        if paused.is_some_and(|row| row.paused.is_some()) {
            return Ok(None);
        }
        let (covered, in_flight) = ledger(&mut conn, &job.dataset).await?;
        let open = planned(submission, &covered, &in_flight, outcome.kept).to_fetch();
        let limits = sources::limits(&mut conn, &job.source.name).await?;
        (open, limits)
    };
    if open.is_empty() {
        return Ok(None);
    }
    let source = job.source.clone();
    let pace = Together::new(
        pool.clone(),
        submission.holder,
        &source.name,
        &source.limits,
    );
    let pace = Arc::new(pace);
    let survey = match Client::at_pace(source, limits, Arc::clone(&pace) as Arc<dyn Pace>) {
        Ok(client) => {
            let surveyor = surveyor(submission, &client, Some(pool));
            surveyor.survey(&open, submission.longest_s).await.ok()
        }
        // Whoever fetches says it.
        Err(error) => {
            tracing::debug!(%error, "cannot have anything counted");
            None
        }
    };
    pace.close().await;
    Ok(survey)
}

/// Who has counted what a submission would fetch.
pub fn surveyor<'a>(
    submission: &Submission<'a>,
    client: &'a Client,
    pool: Option<&'a PgPool>,
) -> Surveyor<'a> {
    let job = submission.job;
    Surveyor {
        pool,
        holder: submission.holder,
        client,
        dataset: &job.dataset,
        query: job.select.query.as_deref(),
        detail: job.select.detail.name(),
    }
}

/// Plans what is left, records it and puts it on the queue. Returns the plan and, if it has windows, the run's number. What
/// was never asked for before is remembered as asked for even if there is nothing to fetch, so that its gaps are known.
///
/// # Errors
/// If the dataset was collected with something else, the job is paused, or the database refuses; then nothing was changed.
pub async fn submit(
    conn: &mut PgConnection,
    submission: &Submission<'_>,
) -> Result<(Plan, Option<i64>), SubmitError> {
    let job = submission.job;
    let dataset = job.dataset.as_str();
    let mut tx = conn.begin().await?;
    let outcome = record(&mut tx, job).await?;
    // A person who submits is told each time.
    if outcome.changed || submission.command != "work" {
        say(job, &outcome);
    }
    if let Some(paused) = control::job(&mut tx, &job.name)
        .await?
        .and_then(|row| row.paused)
    {
        return Err(SubmitError::Paused {
            job: job.name.clone(),
            paused,
        });
    }
    let (covered, in_flight) = ledger(&mut tx, dataset).await?;
    let plan = planned(submission, &covered, &in_flight, outcome.kept);
    let mut run_id = None;
    let asked = report::requested(&mut tx, dataset).await?;
    let remembered = WindowSet::from(submission.requested)
        .minus(&asked)
        .is_empty();
    if !plan.windows.is_empty() || !remembered {
        let run = NewRun {
            job: &job.name,
            dataset,
            kind: Kind::Backfill,
            requested: submission.requested,
            settle_s: submission.settle_s,
            command: submission.command,
            holder: submission.holder,
        };
        let id = runs::insert(&mut tx, &run).await?;
        let origin = Origin {
            run_id: id,
            dataset,
            source: &job.source.name,
            look: Look::Sealed,
            earlier_look: None,
            priority: submission.priority,
            settle_s: submission.settle_s,
        };
        windows::insert_planned(&mut tx, &origin, &plan.windows).await?;
        if !plan.windows.is_empty() {
            run_id = Some(id);
        }
    }
    tx.commit().await?;
    Ok((plan, run_id))
}

/// Takes the right to plan for the job's dataset until the transaction ends, and records the job, its source and its dataset
/// as they are now.
///
/// # Errors
/// If the dataset was collected with something else, or the database refuses; roll back then.
pub async fn register(tx: &mut PgConnection, job: &Job) -> Result<(), SubmitError> {
    let outcome = record(tx, job).await?;
    if outcome.changed {
        say(job, &outcome);
    }
    Ok(())
}

async fn record(tx: &mut PgConnection, job: &Job) -> Result<Outcome, SubmitError> {
    let dataset = job.dataset.as_str();
    datasets::lock_for_planning(tx, dataset).await?;
    let matched = compare(tx, job).await?;
    one_tenant_a_source(tx, job).await?;
    let replace = job.source_spec.has_literal_secret().is_none();
    sources::record(tx, &job.source.name, &storable_source(job)?, replace).await?;
    if matched != Match::Same {
        datasets::record(tx, dataset, &fingerprint(job)).await?;
        datasets::restart_coverage(tx, dataset).await?;
    }
    let file = job.file.display().to_string();
    datasets::record_job(tx, &job.name, dataset, job.storable_text(), &file).await?;
    let wish = baselines::Wish {
        timezone: job.timezone.name(),
        history_and_every_s: job
            .baseline
            .as_ref()
            .map(|baseline| (whole_s(baseline.history), whole_s(baseline.every))),
    };
    baselines::record(tx, &job.name, &wish).await?;
    let now = polls::clock(tx).await?;
    Ok(retention::record(tx, dataset, &job.name, retention_s(job), now).await?)
}

/// Whoever fetches a dataset's windows goes by the source's name: one name must not stand for two tenants, or the traces
/// of one would be stored as the other's.
async fn one_tenant_a_source(conn: &mut PgConnection, job: &Job) -> Result<(), SubmitError> {
    let tenant = job.source.tenant.as_deref();
    let other = datasets::of_another_tenant(conn, &job.source.name, tenant).await?;
    other.map_or(Ok(()), |(dataset, was)| {
        Err(SubmitError::Tenant {
            source_name: job.source.name.clone(),
            dataset,
            was: was.unwrap_or_else(|| "none".to_owned()),
            is: tenant.unwrap_or("none").to_owned(),
        })
    })
}

async fn compare(conn: &mut PgConnection, job: &Job) -> Result<Match, SubmitError> {
    let Some((collected, used)) = datasets::find(conn, &job.dataset).await? else {
        return Ok(Match::New);
    };
    let matched = fingerprint(job).compare(&collected);
    match matched {
        Match::Conflict { what, was, is } if used => Err(SubmitError::Conflict {
            dataset: job.dataset.clone(),
            what,
            was,
            is,
        }),
        Match::Conflict { .. } => Ok(Match::New),
        other => Ok(other),
    }
}

/// What is covered and what is in flight. In flight first: a window that is finished between the two reads then shows
/// as covered, and is not planned again.
async fn ledger(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<(WindowSet, WindowSet)> {
    let in_flight = windows::in_flight(&mut *conn, dataset, Look::Sealed).await?;
    let covered = datasets::covered(&mut *conn, dataset, Look::Sealed).await?;
    Ok((covered, in_flight))
}

/// The job's source as the database may keep it: unexpanded, without secrets.
fn storable_source(job: &Job) -> Result<serde_json::Value, SubmitError> {
    serde_json::to_value(job.source_spec.storable())
        .map_err(|error| SubmitError::Database(sqlx::Error::Encode(error.into())))
}

fn whole_s(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4)
}

/// A job's retention in seconds; `None`: its traces are kept for ever.
pub fn retention_s(job: &Job) -> Option<i64> {
    let retention = job.retention.as_ref()?;
    i64::try_from(retention.traces.as_secs()).ok()
}

/// Says what of a job's retention is not in force.
fn say(job: &Job, outcome: &Outcome) {
    if let Some((other, theirs_s)) = &outcome.longer {
        let words = |kept_s: Option<i64>| match kept_s {
            Some(kept_s) => format!("for {}", in_words(kept_s)),
            None => "for ever".to_owned(),
        };
        tracing::warn!(
            "dataset `{}` keeps its traces {}, as job `{other}` asks, not {}: the longest retention of its jobs holds",
            job.dataset,
            words(*theirs_s),
            words(retention_s(job))
        );
    }
    if let Some(shorter_s) = outcome.shortened_to_s {
        let before = outcome.kept.retention_s;
        tracing::warn!(
            "retention of `{}` was shortened {}to {}: `tempo-harvest prune {}` applies it",
            job.dataset,
            before.map_or_else(String::new, |before_s| format!(
                "from {} ",
                in_words(before_s)
            )),
            in_words(shorter_s),
            job.name
        );
    }
}

fn in_words(seconds: i64) -> String {
    duration::format(Duration::from_secs(seconds.unsigned_abs()))
}

/// The plan, given what is covered, what is in flight, and what the dataset keeps.
pub fn planned(
    submission: &Submission<'_>,
    covered: &WindowSet,
    in_flight: &WindowSet,
    kept_here: Kept,
) -> Plan {
    let now_s = submission.now.timestamp();
    let kept = submission.job.source.retention;
    let kept_there = kept.map(|kept| now_s - i64::try_from(kept.as_secs()).unwrap_or(i64::MAX / 4));
    plan::plan(&plan::Request {
        requested: submission.requested,
        covered,
        in_flight,
        kept_from: kept_there.max(kept_here.from(submission.now)),
        settled_until: now_s - submission.settle_s,
        window_s: submission.window_s,
        order: submission
            .job
            .backfill
            .as_ref()
            .map_or(crate::job::Order::NewestFirst, |backfill| backfill.order),
        sizing: submission.sizing,
    })
}
