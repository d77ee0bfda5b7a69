//! `pause`, `resume` and `cancel`: what each changes together, in one transaction.
//!
//! All three hold the dataset's planning lock, so that no planner adds windows meanwhile. Nobody is told: who fetches
//! notices when a lease is renewed, and no paused or cancelled window is claimed any more. A pause takes the windows'
//! items off the queue, resuming puts them back; between the two the ledger alone knows of them.

use serde_json::{Value as Json, json};
use sqlx::{Connection, PgConnection};

use crate::{
    queue,
    store::{
        control::{self, JobRow, Paused, RunRow},
        datasets,
    },
};

/// What is controlled.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A job, with all its runs.
    Job(JobRow),
    /// One run.
    Run(RunRow),
}

impl Subject {
    fn dataset(&self) -> &str {
        match self {
            Self::Job(job) => &job.dataset,
            Self::Run(run) => &run.dataset,
        }
    }
}

impl Subject {
    /// The job that it is, or belongs to.
    pub fn job(&self) -> &str {
        match self {
            Self::Job(job) => &job.name,
            Self::Run(run) => &run.job,
        }
    }

    /// The run that it is; `None`: a job with all its runs.
    pub fn run(&self) -> Option<i64> {
        match self {
            Self::Job(_) => None,
            Self::Run(run) => Some(run.id),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Job(job) => write!(f, "job `{}`", job.name),
            Self::Run(run) => write!(f, "run {} (job `{}`, {})", run.id, run.job, run.kind),
        }
    }
}

/// Why something cannot be paused, resumed or cancelled.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Neither a job nor a run.
    #[error("there is no job and no run `{name}`; {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// It has ended.
    #[error("run {id} is {state} already")]
    Ended {
        /// The run.
        id: i64,
        /// How it ended.
        state: String,
    },
    /// A run cannot go on while its job is paused.
    #[error(
        "run {id} belongs to job `{job}`, which is paused since {} by {}: `tempo-harvest resume {job}` lets all of it go on",
        at(.paused),
        .paused.by
    )]
    JobPaused {
        /// The run.
        id: i64,
        /// Its job.
        job: String,
        /// Since when, and by whom.
        paused: Paused,
    },
    /// The database refuses.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Since when something is paused, to the second.
pub fn at(paused: &Paused) -> String {
    crate::window::rfc3339(paused.since.timestamp())
}

/// The job of this name, or else the run of this number.
///
/// # Errors
/// If there is neither.
pub async fn find(conn: &mut PgConnection, name: &str) -> Result<Subject, ControlError> {
    if let Some(job) = control::job(conn, name).await? {
        return Ok(Subject::Job(job));
    }
    if let Ok(id) = name.parse()
        && let Some(run) = control::run(conn, id).await?
    {
        return Ok(Subject::Run(run));
    }
    let jobs = control::job_names(conn).await?;
    let known = if jobs.is_empty() {
        "no job has been submitted yet".to_owned()
    } else {
        format!(
            "there are the jobs `{}`; `tempo-harvest runs` lists the runs",
            jobs.join("`, `")
        )
    };
    Err(ControlError::Unknown {
        name: name.to_owned(),
        known,
    })
}

/// Takes the right to plan for the subject's dataset, and looks at the subject again under it.
async fn lock(
    tx: &mut PgConnection,
    subject: &Subject,
) -> Result<(Subject, Vec<RunRow>), ControlError> {
    datasets::lock_for_planning(tx, subject.dataset()).await?;
    let subject = match subject {
        Subject::Job(job) => find(tx, &job.name).await?,
        Subject::Run(run) => control::run(tx, run.id)
            .await?
            .map(Subject::Run)
            .ok_or_else(|| ControlError::Unknown {
                name: run.id.to_string(),
                known: "it was removed just now".to_owned(),
            })?,
    };
    let runs = match &subject {
        Subject::Job(job) => control::open_runs(tx, &job.name).await?,
        Subject::Run(run) if run.state == "open" => vec![run.clone()],
        Subject::Run(run) => {
            return Err(ControlError::Ended {
                id: run.id,
                state: run.state.clone(),
            });
        }
    };
    Ok((subject, runs))
}

fn ids(runs: &[RunRow]) -> Vec<i64> {
    runs.iter().map(|run| run.id).collect()
}

/// What pausing or resuming came upon.
#[derive(Debug, Clone)]
pub struct Changed {
    /// As it was before.
    pub subject: Subject,
    /// Since when it, or a run of it, was paused before.
    pub was_paused: Option<Paused>,
    /// Windows that wait, or go on.
    pub windows: i64,
}

impl Changed {
    /// For `--json`: what it is about, whether it is paused now, since when and by whom it was before, windows that wait or go on.
    pub fn report(&self, is_paused: bool) -> Json {
        json!({
            "job": self.subject.job(),
            "run": self.subject.run(),
            "paused": is_paused,
            "was_paused": self.was_paused,
            "windows": self.windows,
        })
    }
}

/// Pauses: no window is claimed any more, those in hand are given back when their leases are renewed.
///
/// # Errors
/// If a run has ended, or the database refuses.
pub async fn pause(
    conn: &mut PgConnection,
    subject: &Subject,
    by: &str,
) -> Result<Changed, ControlError> {
    let mut tx = conn.begin().await?;
    let (subject, runs) = lock(&mut tx, subject).await?;
    let was_paused = match &subject {
        Subject::Job(job) => {
            control::pause_job(&mut tx, &job.name, by).await?;
            job.paused.clone()
        }
        Subject::Run(run) => {
            control::pause_run(&mut tx, run.id, by).await?;
            run.paused.clone()
        }
    };
    let runs = ids(&runs);
    queue::remove(&mut tx, &runs).await?;
    let windows = control::open_windows(&mut tx, &runs).await?;
    tx.commit().await?;
    Ok(Changed {
        subject,
        was_paused,
        windows,
    })
}

/// Resumes: what is queued is on the queue again at once. A job's runs go on with it, those that were paused by
/// themselves too.
///
/// # Errors
/// If a run has ended or its job is paused, or the database refuses.
pub async fn resume(conn: &mut PgConnection, subject: &Subject) -> Result<Changed, ControlError> {
    let mut tx = conn.begin().await?;
    let (subject, runs) = lock(&mut tx, subject).await?;
    let was_paused = match &subject {
        Subject::Job(job) => {
            control::resume_job(&mut tx, &job.name).await?;
            let by_run = runs.iter().find_map(|run| run.paused.clone());
            job.paused.clone().or(by_run)
        }
        Subject::Run(run) => {
            if let Some(JobRow {
                name,
                paused: Some(paused),
                ..
            }) = control::job(&mut tx, &run.job).await?
            {
                return Err(ControlError::JobPaused {
                    id: run.id,
                    job: name,
                    paused,
                });
            }
            run.paused.clone()
        }
    };
    let runs = ids(&runs);
    control::resume_runs(&mut tx, &runs).await?;
    queue::put_back(&mut tx, &runs).await?;
    let windows = control::open_windows(&mut tx, &runs).await?;
    tx.commit().await?;
    Ok(Changed {
        subject,
        was_paused,
        windows,
    })
}

/// What cancelling would end.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The open runs.
    pub runs: Vec<RunRow>,
    /// Their open windows.
    pub windows: i64,
}

impl Ending {
    /// For `--json`: what it is about, the runs that were open, their windows, and whether the job is paused now.
    pub fn report(&self, subject: &Subject) -> Json {
        let runs = self.runs.iter();
        let runs: Vec<Json> = runs
            .map(|run| json!({ "run": run.id, "job": run.job, "kind": run.kind }))
            .collect();
        json!({
            "job": subject.job(),
            "run": subject.run(),
            "cancelled": runs,
            "windows": self.windows,
            "job_paused": self.polls(),
        })
    }

    /// Whether a poll is among them, so that its job is paused too: the next tick would begin it again.
    pub fn polls(&self) -> bool {
        self.runs.iter().any(|run| run.kind == "poll")
    }
}

/// What cancelling would end, without doing it.
///
/// # Errors
/// If a run has ended, or the database refuses.
pub async fn would_cancel(
    conn: &mut PgConnection,
    subject: &Subject,
) -> Result<Ending, ControlError> {
    let mut tx = conn.begin().await?;
    let (_, runs) = lock(&mut tx, subject).await?;
    let windows = control::open_windows(&mut tx, &ids(&runs)).await?;
    tx.rollback().await?;
    Ok(Ending { runs, windows })
}

/// Cancels the run, or all open runs of the job: their open windows are cancelled, nothing of them is left on the queue,
/// and their ranges are no longer asked for. The job of a poll is paused.
///
/// # Errors
/// If a run has ended, or the database refuses.
pub async fn cancel(
    conn: &mut PgConnection,
    subject: &Subject,
    by: &str,
) -> Result<Ending, ControlError> {
    let mut tx = conn.begin().await?;
    let (_, runs) = lock(&mut tx, subject).await?;
    let numbers = ids(&runs);
    let windows = control::cancel_windows(&mut tx, &numbers).await?;
    queue::remove(&mut tx, &numbers).await?;
    control::cancel_runs(&mut tx, &numbers, by).await?;
    let ending = Ending {
        runs,
        windows: i64::try_from(windows).unwrap_or(i64::MAX),
    };
    if let Some(run) = ending.runs.iter().find(|run| run.kind == "poll") {
        control::pause_job(&mut tx, &run.job, by).await?;
    }
    tx.commit().await?;
    Ok(ending)
}
