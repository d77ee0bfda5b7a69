//! What commands that start work have in common: job files, and the range to collect.

use std::{fmt, path::PathBuf};

use chrono::{DateTime, Utc};

use super::{Exit, UsageError, terminal::say};
use crate::{
    job::{self, BackfillRange, Job, LONGEST_RANGE_S, LoadOptions, MOST_WINDOWS, ProcessEnv},
    plan::Plan,
    store::{Holder, windows},
    submit::{Submission, SubmitError},
    tempo::{Client, Limits},
    window::{Window, rfc3339},
};

/// Job files and a range.
#[derive(Debug, clap::Args)]
pub(super) struct JobArgs {
    /// Job files, or folders of them
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Collect from here instead of what [backfill] says: 2026-11-01T00:00:00Z, `7d ago`
    #[arg(long, value_name = "TIME", conflicts_with = "last")]
    pub from: Option<String>,
    /// Collect up to here: 2026-11-08T00:00:00Z, `1d ago`; without it up to what is settled
    #[arg(long, value_name = "TIME", requires = "from")]
    pub to: Option<String>,
    /// Collect this much, ending at the last settled window edge: 24h, 7d
    #[arg(long, value_name = "DURATION")]
    pub last: Option<String>,
}

/// The default length of a window when the job has no [backfill], seconds.
const WINDOW_S: i64 = 3_600;
/// The default distance from the present, seconds.
const SETTLE_S: i64 = 3_600;

/// A job and the range of it to collect.
pub(super) struct Target {
    /// The job.
    pub job: Job,
    /// The range.
    pub requested: Window,
    /// Whether it ends where what is settled does, and so further on another time.
    pub moves_on: bool,
    /// Length of a window, seconds.
    pub window_s: i64,
    /// The longest that one becomes where there is little in it, seconds.
    pub longest_s: i64,
    /// Distance from the present, seconds.
    pub settle_s: i64,
}

/// Reads job files, or prints everything that is wrong with them.
pub(super) fn load(files: &[PathBuf], now: DateTime<Utc>) -> Result<Vec<Job>, Exit> {
    let options = LoadOptions {
        env: &ProcessEnv,
        now,
    };
    job::load(files, &options).map_err(|diagnostics| {
        say!("{diagnostics}");
        Exit::Usage
    })
}

impl JobArgs {
    /// The jobs that are enabled, each with its range.
    pub fn targets(&self, now: DateTime<Utc>) -> Result<Result<Vec<Target>, Exit>, UsageError> {
        let jobs = match load(&self.files, now) {
            Ok(jobs) => jobs,
            Err(exit) => return Ok(Err(exit)),
        };
        let mut targets = Vec::new();
        let several = jobs
            .iter()
            .filter(|job| job.enabled && job.backfill.is_some())
            .count()
            > 0;
        for job in jobs {
            if !job.enabled {
                say!("job `{}` is not enabled; left out", job.name);
                continue;
            }
            let ranged = self.last.is_some() || self.from.is_some();
            if job.backfill.is_none() && !ranged && several {
                say!(
                    "job `{}` has no [backfill]; left out, `work` polls it",
                    job.name
                );
                continue;
            }
            refuse_another_definition(targets.iter().map(|target: &Target| &target.job), &job)?;
            refuse_unusable_source(&job)?;
            warn_of_early_sealing(&job);
            let (window_s, longest_s, settle_s) = job.backfill.as_ref().map_or(
                (WINDOW_S, seconds(job::LONGEST_WINDOW), SETTLE_S),
                |backfill| {
                    (
                        seconds(backfill.window),
                        seconds(backfill.longest_window),
                        seconds(backfill.settle),
                    )
                },
            );
            let requested = self.range(&job, window_s, settle_s, now)?;
            if requested.seconds() > LONGEST_RANGE_S {
                return Err(UsageError(format!(
                    "job `{}`: {requested} is {} days; a range is 3650 days at most",
                    job.name,
                    requested.seconds() / 86_400
                )));
            }
            if requested.seconds() / window_s > MOST_WINDOWS {
                return Err(UsageError(format!(
                    "job `{}`: {requested} in windows of {window_s} s is {} windows, more than {MOST_WINDOWS}: take longer \
                     windows (`window` in [backfill]; full ones are cut by themselves), or a shorter range",
                    job.name,
                    requested.seconds() / window_s
                )));
            }
            let moves_on = match (&self.last, &self.from) {
                (Some(_), _) => true,
                (None, Some(_)) => self.to.is_none(),
                (None, None) => job
                    .backfill
                    .as_ref()
                    .is_some_and(|backfill| matches!(backfill.range, BackfillRange::Last(_))),
            };
            targets.push(Target {
                job,
                requested,
                moves_on,
                window_s,
                longest_s,
                settle_s,
            });
        }
        Ok(Ok(targets))
    }

    fn range(
        &self,
        job: &Job,
        window_s: i64,
        settle_s: i64,
        now: DateTime<Utc>,
    ) -> Result<Window, UsageError> {
        let settled_edge = (now.timestamp() - settle_s).div_euclid(window_s) * window_s;
        if let Some(last) = &self.last {
            let length = job::parse_duration(last)
                .map_err(|error| UsageError(format!("--last {error}")))
                .map(seconds)?;
            if !(1..=LONGEST_RANGE_S).contains(&length) {
                return Err(UsageError(format!(
                    "--last must be from 1s to 3650d, not `{last}`"
                )));
            }
            // As many whole windows as it takes, as in [backfill].
            let whole = (length + window_s - 1) / window_s * window_s;
            return Window::new(settled_edge - whole, settled_edge)
                .ok_or_else(|| UsageError(format!("--last `{last}` is empty")));
        }
        if let Some(from) = &self.from {
            let start = instant("--from", from, now)?;
            let end = match &self.to {
                Some(to) => instant("--to", to, now)?,
                None => settled_edge,
            };
            if end > now.timestamp() {
                return Err(UsageError(format!(
                    "--to is {}, but it is only {}: the future holds no traces yet",
                    rfc3339(end),
                    rfc3339(now.timestamp())
                )));
            }
            return Window::new(start, end).ok_or_else(|| {
                let to = self.to.as_deref().unwrap_or("the last settled window edge");
                UsageError(format!(
                    "--from must be before --to, but `{from}` is {} and `{to}` is {}",
                    rfc3339(start),
                    rfc3339(end)
                ))
            });
        }
        let Some(backfill) = &job.backfill else {
            return Err(UsageError(format!(
                "job `{}` ({}) has no [backfill]: say what to collect with --last, or --from and --to; `work` polls it",
                job.name,
                job.file.display()
            )));
        };
        let (start, end) = backfill.resolve(now);
        Window::new(start, end)
            .ok_or_else(|| UsageError(format!("the [backfill] of job `{}` is empty", job.name)))
    }
}

/// Certificates and keys are read now, not when the first window is due.
fn refuse_unusable_source(job: &Job) -> Result<(), UsageError> {
    Client::new(job.source.clone(), Limits::default())
        .map(|_client| ())
        .map_err(|error| UsageError(job.refusal("source", error.to_string()).to_string()))
}

fn warn_of_early_sealing(job: &Job) {
    for warning in job.warnings() {
        say!("{warning}");
    }
}

/// The jobs of these files that are to be scheduled, or all that is wrong with them. Those that are not enabled are among
/// them: they may be, later. With `goes_on` the good ones are enough: a daemon that starts again after somebody's bad edit
/// goes on with the rest.
pub(super) fn to_schedule(
    files: &[PathBuf],
    now: DateTime<Utc>,
    goes_on: bool,
) -> Result<Result<Vec<Job>, Exit>, UsageError> {
    let options = LoadOptions {
        env: &ProcessEnv,
        now,
    };
    let loaded = job::load_each(files, &options);
    let jobs: Vec<Job> = loaded
        .files
        .into_iter()
        .filter_map(|(_, job)| job)
        .collect();
    if !loaded.problems.is_empty() {
        say!("{}", loaded.problems);
        if !goes_on || !jobs.iter().any(|job| job.enabled) {
            return Ok(Err(Exit::Usage));
        }
        say!("these files are left out until they are changed");
    }
    for (index, job) in jobs.iter().enumerate() {
        if !job.enabled {
            say!("job `{}` is not enabled; left out", job.name);
            continue;
        }
        refuse_another_definition(jobs[..index].iter().filter(|job| job.enabled), job)?;
        refuse_unusable_source(job)?;
        warn_of_early_sealing(job);
    }
    Ok(Ok(jobs))
}

/// An instant on the command line, Unix seconds.
fn instant(name: &str, text: &str, now: DateTime<Utc>) -> Result<i64, UsageError> {
    let instant = job::parse_instant(text, now);
    instant
        .map(|at| at.timestamp())
        .map_err(|error| UsageError(format!("{name} {error}")))
}

/// The range between two instants on the command line; without one it is open there.
pub(super) fn bounds(
    from: Option<&str>,
    to: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Window, UsageError> {
    let bound = |name, text: Option<&str>, open: i64| match text {
        Some(text) => instant(name, text, now),
        None => Ok(open),
    };
    let start = bound("--from", from, i64::MIN / 4)?;
    let end = bound("--to", to, i64::MAX / 4)?;
    Window::new(start, end).ok_or_else(|| {
        UsageError(format!(
            "--from must be before --to, but --from is {} and --to is {}",
            rfc3339(start),
            rfc3339(end)
        ))
    })
}

/// A source is its name: two jobs must not mean two servers by one.
fn refuse_another_definition<'a>(
    mut others: impl Iterator<Item = &'a Job>,
    job: &Job,
) -> Result<(), UsageError> {
    match others.find(|other| other.source.name == job.source.name) {
        Some(other) if other.source_spec != job.source_spec => {
            let message = format!(
                "source `{}` is defined twice, and differently: here and for job `{}` ({}); give one of them another name",
                job.source.name,
                other.name,
                other.file.display()
            );
            Err(UsageError(job.refusal("source", message).to_string()))
        }
        _ => Ok(()),
    }
}

pub(super) fn seconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4)
}

/// A stretch that is too young to be collected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Later {
    /// The stretch.
    pub window: Window,
    /// From when on all of it can be collected, Unix seconds.
    pub collectable_from: i64,
}

impl Later {
    pub(super) fn as_json(self) -> serde_json::Value {
        serde_json::json!({
            "from": rfc3339(self.window.start()), "to": rfc3339(self.window.end()),
            "collectable_from": rfc3339(self.collectable_from),
        })
    }
}

impl fmt::Display for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = rfc3339(self.collectable_from);
        write!(f, "{} can be collected from {from} on", self.window)
    }
}

impl Target {
    /// What of the range is too young; and where it ends with what is settled, the window after it.
    pub(super) fn later(&self, plan: &Plan) -> Vec<Later> {
        let end = self.requested.end();
        let next = Window::new(end, end + self.window_s).filter(|_| self.moves_on);
        let stretches = plan.too_young.iter().chain(next);
        let later = stretches.map(|window| Later {
            window,
            collectable_from: window.end() + self.settle_s,
        });
        later.collect()
    }

    /// The submission of this target by a command. What a person waits for goes before what is done in the background.
    pub fn submission<'a>(
        &'a self,
        command: &'a str,
        holder: &'a Holder,
        now: DateTime<Utc>,
    ) -> Submission<'a> {
        Submission {
            job: &self.job,
            requested: self.requested,
            window_s: self.window_s,
            longest_s: self.longest_s,
            settle_s: self.settle_s,
            now,
            command,
            priority: match command {
                "run" | "demo" => windows::FOREGROUND_PRIORITY,
                _ => windows::BACKFILL_PRIORITY,
            },
            holder,
            sizing: None,
        }
    }

    /// A refused submission as the user sees it: at the key in the job file that it is about.
    pub fn refused(&self, error: SubmitError) -> anyhow::Error {
        refused(&self.job, error)
    }
}

/// A refused job as the user sees it: at the key in the job file that it is about.
pub(super) fn refused(job: &Job, error: SubmitError) -> anyhow::Error {
    match error {
        SubmitError::Conflict { what, .. } => {
            let key = match what {
                "source" => "source",
                "tenant" => "source.tenant",
                "query" => "select.query",
                "detail" => "select.detail",
                _ => "select.attributes",
            };
            let key = if job.position_of(key).is_some() {
                key
            } else {
                "name"
            };
            UsageError(job.refusal(key, error.to_string()).to_string()).into()
        }
        SubmitError::Tenant { .. } => {
            let key = if job.position_of("source.tenant").is_some() {
                "source.tenant"
            } else {
                "source"
            };
            UsageError(job.refusal(key, error.to_string()).to_string()).into()
        }
        SubmitError::Paused { .. } => UsageError(error.to_string()).into(),
        SubmitError::Database(error) => error.into(),
    }
}
