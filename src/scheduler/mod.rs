//! The clockwork of `work`: polls tick, schedules fire, and job files that change are taken over, without a restart.
//!
//! It only plans and submits ([`tick`], [`crate::submit`]); [`crate::worker`] fetches. Any number of schedulers may run on
//! one database: planning is exclusive and plans only what is missing, so what two of them do at one tick is done once.
//! Time is the database's, so that schedulers on several machines agree; a local clock that jumps moves no tick for longer
//! than it takes to ask.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    job::Job,
    meter::Meter,
    store::{Holder, polls},
    submit::{self, Submission, SubmitError},
    verify::nightly,
    worker::AtHand,
};

mod entry;
mod folder;
mod take_over;
pub mod tick;

use self::{entry::Entry, folder::Folder, take_over::register};

/// The longest sleep: files are looked at and jumps of the clock noticed this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// A tick waits this long, so that the database's clock has passed it too.
const AFTER_TICK: TimeDelta = TimeDelta::milliseconds(30);
/// How long to wait after the database failed.
const AFTER_FAILURE: TimeDelta = TimeDelta::seconds(1);
/// How long to wait before a paused job's backfill is tried again.
const WHILE_PAUSED: TimeDelta = TimeDelta::seconds(15);
/// How long to wait after a job was refused.
const AFTER_REFUSAL: TimeDelta = TimeDelta::seconds(60);

/// Plans the polls and backfills of jobs when they are due.
#[derive(Debug)]
pub struct Scheduler {
    pool: PgPool,
    holder: Holder,
    at_hand: AtHand,
    folder: Folder,
    entries: Vec<Entry>,
    /// What was last said to be wrong with the files.
    said: String,
    /// Changed jobs that were refused, and why.
    refused: HashMap<String, String>,
    /// Files that cannot be taken over as they are now, each with what is wrong.
    invalid: BTreeMap<String, String>,
    meter: Meter,
    clock: Clock,
    /// Backfills that are being submitted.
    submissions: JoinSet<(Job, Result<bool, SubmitError>)>,
    /// Names of jobs that are being verified.
    verifications: JoinSet<String>,
}

/// The database's clock, told by the local one.
#[derive(Debug, Default)]
struct Clock {
    ahead: TimeDelta,
    seen: Option<DateTime<Utc>>,
}

impl Clock {
    /// What the database's clock shows, and whether it went back since the last time.
    fn now(&mut self) -> (DateTime<Utc>, bool) {
        let now = Utc::now() + self.ahead;
        let went_back = self
            .seen
            .is_some_and(|seen| now + TimeDelta::seconds(2) < seen);
        self.seen = Some(now);
        (now, went_back)
    }

    /// The database's clock shows this.
    fn set(&mut self, now: DateTime<Utc>) {
        self.ahead = now - Utc::now();
    }
}

impl Scheduler {
    /// A scheduler of `jobs`, which were just read from `paths`. Their sources are put `at_hand` for the worker.
    pub fn new(
        pool: PgPool,
        holder: Holder,
        at_hand: AtHand,
        paths: Vec<PathBuf>,
        jobs: Vec<Job>,
    ) -> Self {
        let entries = jobs.into_iter().map(|job| Entry::new(job, Utc::now()));
        Self {
            pool,
            holder,
            at_hand,
            folder: Folder::new(paths),
            entries: entries.collect(),
            said: String::new(),
            refused: HashMap::new(),
            invalid: BTreeMap::new(),
            meter: Meter::default(),
            clock: Clock::default(),
            submissions: JoinSet::new(),
            verifications: JoinSet::new(),
        }
    }

    /// Shows in this meter which job files cannot be taken over.
    #[must_use]
    pub fn metered(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }

    /// Records the jobs, their sources and datasets. A job that is refused is left out until its file is acceptable;
    /// returns those, and why.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn register(&mut self) -> sqlx::Result<Vec<(Job, SubmitError)>> {
        let mut refused = Vec::new();
        for entry in &mut self.entries {
            match register(&self.pool, &entry.job).await {
                Ok(registered) => {
                    self.clock.set(registered.now);
                    entry.start(&registered);
                    if entry.job.enabled {
                        self.at_hand.put(entry.job.source.clone());
                    }
                }
                Err(SubmitError::Database(error)) => return Err(error),
                Err(error) => refused.push((entry.job.clone(), error)),
            }
        }
        for (job, error) in &refused {
            self.entries.retain(|entry| entry.job.name != job.name);
            self.refused.insert(job.name.clone(), error.to_string());
            let file = job.file.display().to_string();
            self.invalid.insert(file, error.to_string());
        }
        self.meter
            .note_invalid_job_files(self.invalid.keys().cloned(), false);
        Ok(refused)
    }

    /// Whether there is a job to schedule.
    pub fn has_jobs(&self) -> bool {
        self.entries.iter().any(|entry| entry.job.enabled)
    }

    /// Plans and submits everything that is due now, later looks as far as they are due: there will be no later tick.
    ///
    /// # Errors
    /// The job that is refused, and why.
    pub async fn once(&mut self) -> Result<(), (Job, SubmitError)> {
        for entry in self.entries.iter().filter(|entry| entry.job.enabled) {
            let outcome = async {
                backfill(&self.pool, &entry.job, &self.holder).await?;
                let mut conn = self.pool.acquire().await?;
                if let Some(poll) = &entry.job.poll {
                    let ticked =
                        tick::tick(&mut conn, &entry.job, poll, &self.holder, true).await?;
                    say_ticked(&entry.job, &ticked);
                }
                Ok(())
            };
            outcome.await.map_err(|error| (entry.job.clone(), error))?;
        }
        Ok(())
    }

    /// Ticks until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            if let Some(loaded) = self.folder.changed() {
                self.take_over(loaded).await;
            }
            let (now, went_back) = self.clock.now();
            if went_back {
                tracing::warn!("the clock went back; ticks are reckoned anew");
            }
            for index in 0..self.entries.len() {
                if went_back {
                    let entry = &mut self.entries[index];
                    entry.backfill_at = entry.next_backfill(now).or(entry.backfill_at);
                    entry.verify_at = entry.next_verify(now);
                    self.entries[index].poll_at =
                        self.entries[index].job.poll.as_ref().map(|_| now);
                }
                self.act(index, now).await;
                if stop.is_cancelled() {
                    return;
                }
            }
            let next = self.entries.iter().filter_map(Entry::next).min();
            let sleep = next
                .and_then(|next| (next - self.clock.now().0).to_std().ok())
                .map_or(LONGEST_SLEEP, |sleep| sleep.min(LONGEST_SLEEP))
                .max(Duration::from_millis(1));
            let sleep = if next.is_some_and(|next| next <= now) {
                Duration::from_millis(1)
            } else {
                sleep
            };
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                Some(ended) = self.submissions.join_next() => match ended {
                    Ok((job, outcome)) => self.submitted(&job, outcome),
                    Err(error) => tracing::error!(%error, "submitting a backfill ended badly"),
                },
                Some(ended) = self.verifications.join_next() => self.verified(ended),
                () = stop.cancelled() => return,
            }
        }
    }

    /// Does what is due of one job.
    async fn act(&mut self, index: usize, now: DateTime<Utc>) {
        let entry = &mut self.entries[index];
        if entry.absent || !entry.job.enabled {
            return;
        }
        if !entry.submitting && entry.backfill_at.is_some_and(|at| at <= now) {
            // Having it counted may take a minute, and polls are not to wait for that.
            (entry.submitting, entry.backfill_at) = (true, None);
            let (pool, holder, job) = (self.pool.clone(), self.holder.clone(), entry.job.clone());
            self.submissions.spawn(async move {
                let outcome = backfill(&pool, &job, &holder).await;
                (job, outcome)
            });
        }
        if let Some(tick) = entry.verify_at.filter(|&at| !entry.verifying && at <= now) {
            (entry.verifying, entry.verify_at) = (true, None);
            let (pool, holder, job) = (self.pool.clone(), self.holder.clone(), entry.job.clone());
            let at_hand = self.at_hand.get(&entry.job.source.name);
            self.verifications.spawn(async move {
                nightly::on_tick(&pool, &holder, &job, at_hand, tick).await;
                job.name
            });
        }
        let Some(poll) = entry
            .job
            .poll
            .as_ref()
            .filter(|_| entry.poll_at.is_some_and(|at| at <= now))
        else {
            return;
        };
        let begun = std::time::Instant::now();
        let outcome = async {
            let mut conn = self.pool.acquire().await?;
            tick::tick(&mut conn, &entry.job, poll, &self.holder, false).await
        };
        match outcome.await {
            Ok(ticked) => {
                if ticked.paused != entry.paused {
                    let paused = ticked.paused;
                    tracing::info!(job = entry.job.name, paused, "polling is paused or resumed");
                    entry.paused = paused;
                }
                say_ticked(&entry.job, &ticked);
                entry.poll_at = tick::next(&entry.job, poll, ticked.now).map(|at| at + AFTER_TICK);
                self.clock.set(ticked.now + begun.elapsed());
            }
            Err(error) => entry.poll_at = Some(now + say_failed(&entry.job, &error)),
        }
    }

    /// Takes note of a backfill that was submitted, or could not be.
    fn submitted(&mut self, job: &Job, outcome: Result<bool, SubmitError>) {
        let (now, _) = self.clock.now();
        // Another version of the job that has come since is due by itself.
        let mut entries = self.entries.iter_mut();
        let Some(entry) = entries.find(|entry| entry.submitting && entry.job.name == job.name)
        else {
            return;
        };
        entry.submitting = false;
        entry.backfill_at = match outcome {
            Ok(true) => entry.next_backfill(now),
            Ok(false) => Some(now + WHILE_PAUSED),
            Err(error) => Some(now + say_failed(&entry.job, &error)),
        };
    }

    /// Takes note of a verification that is over.
    fn verified(&mut self, ended: Result<String, JoinError>) {
        let (now, _) = self.clock.now();
        let name = match ended {
            Ok(name) => Some(name),
            Err(error) => {
                tracing::error!(%error, "a verification ended badly");
                None
            }
        };
        for entry in self.entries.iter_mut().filter(|entry| entry.verifying) {
            if name.as_ref().is_none_or(|name| *name == entry.job.name) {
                entry.verifying = false;
                entry.verify_at = entry.next_verify(now);
            }
        }
    }
}

/// Submits a job's backfill as it is due by the database's clock; `false`: the job is paused.
async fn backfill(pool: &PgPool, job: &Job, holder: &Holder) -> Result<bool, SubmitError> {
    let now = {
        let mut conn = pool.acquire().await?;
        if polls::is_paused(&mut conn, &job.name).await? {
            return Ok(false);
        }
        polls::clock(&mut conn).await?
    };
    let Some(mut submission) = Submission::of_backfill(job, now, holder) else {
        return Ok(true);
    };
    let survey = submit::survey(pool, &submission).await?;
    submission.sizing = survey.as_ref().map(|survey| &survey.sizing);
    let mut conn = pool.acquire().await?;
    let (plan, _run) = submit::submit(&mut conn, &submission).await?;
    polls::record_tick(&mut conn, &job.name, now).await?;
    tracing::info!(job = job.name, range = %submission.requested, windows = plan.windows.len(), "backfill submitted");
    Ok(true)
}

/// Says why a job's tick failed; returns how long to wait.
fn say_failed(job: &Job, error: &SubmitError) -> TimeDelta {
    match error {
        SubmitError::Database(error) => {
            tracing::warn!(job = job.name, %error, "cannot plan in the database; trying again");
            AFTER_FAILURE
        }
        error => {
            tracing::error!(job = job.name, file = %job.file.display(), "the job cannot be planned: {error}");
            AFTER_REFUSAL
        }
    }
}

fn say_ticked(job: &Job, ticked: &tick::Ticked) {
    if !ticked.planned.is_empty() {
        tracing::debug!(job = job.name, windows = ticked.planned.len(), "tick");
    }
    if let Some(widened) = ticked.widened {
        tracing::warn!(
            job = job.name,
            "`lookback` is widened from {} s to {} s: three sealing looks in a row found traces ({} in all) that the settled look had missed",
            widened.from_s,
            widened.to_s,
            widened.missed
        );
    }
}
