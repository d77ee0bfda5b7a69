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
use sqlx::{Connection, PgPool};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    job::{Diagnostics, Job, Loaded},
    meter::Meter,
    store::{self, Holder, polls},
    submit::{self, Submission, SubmitError},
    verify::nightly,
    worker::AtHand,
};

mod folder;
pub mod tick;

use self::folder::Folder;

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

/// A job that is scheduled.
#[derive(Debug)]
struct Entry {
    job: Job,
    /// When its poll ticks next; `None`: it has none.
    poll_at: Option<DateTime<Utc>>,
    /// When its backfill is submitted next; `None`: never again.
    backfill_at: Option<DateTime<Utc>>,
    /// Its file has gone: it rests, and is not cancelled.
    absent: bool,
    paused: bool,
    /// Its backfill is being submitted.
    submitting: bool,
    /// When it is verified next; `None`: never again.
    verify_at: Option<DateTime<Utc>>,
    /// It is being verified.
    verifying: bool,
}

/// What is known of a job when it is recorded.
struct Registered {
    /// The database's clock.
    now: DateTime<Utc>,
    /// The last tick of its backfill's schedule.
    scheduled_at: Option<DateTime<Utc>>,
    /// The last tick of its [verify].
    verified_at: Option<DateTime<Utc>>,
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

    /// Takes over what the files hold now: a job that is new or changed if it is accepted, else the last good version
    /// stays; a job whose file has gone rests until it is back.
    async fn take_over(&mut self, loaded: Loaded) {
        let invalid_before = std::mem::take(&mut self.invalid);
        for problem in loaded.problems.iter() {
            let file = problem.file.display().to_string();
            let wrong = self.invalid.entry(file).or_default();
            wrong.push_str(&problem.to_string());
        }
        self.say_problems(&loaded.problems);
        let mut present: Vec<String> = Vec::new();
        let twice = defined_twice(&loaded);
        for (file, job) in loaded.files {
            let Some(job) = job else {
                // Something is wrong with it now: what it held before goes on.
                present.extend(
                    self.entries
                        .iter()
                        .filter(|entry| entry.job.file == file && file.exists())
                        .map(|entry| entry.job.name.clone()),
                );
                continue;
            };
            present.push(job.name.clone());
            let known = self
                .entries
                .iter_mut()
                .find(|entry| entry.job.name == job.name);
            if let Some(entry) = known {
                if entry.absent {
                    tracing::warn!(job = job.name, file = %file.display(), "the job's file is back; it goes on");
                    entry.absent = false;
                }
                let same = entry.job.text == job.text && entry.job.source.is_same(&job.source);
                if same && entry.job.source_spec == job.source_spec && entry.job.file == job.file {
                    continue;
                }
            }
            match twice.get(&job.name) {
                Some(other) => {
                    let why = format!(
                        "source `{}` is defined differently for job `{other}`",
                        job.source.name
                    );
                    self.say_refused(&job, &why);
                }
                None => self.accept(job).await,
            }
        }
        for entry in &mut self.entries {
            if !entry.absent && !present.contains(&entry.job.name) {
                tracing::warn!(job = entry.job.name, file = %entry.job.file.display(),
                    "the job's file has gone: nothing more is planned for it until it is back; `cancel` ends it");
                entry.absent = true;
            }
        }
        let invalid = self.invalid.iter();
        let anew = invalid.filter(|(file, wrong)| invalid_before.get(*file) != Some(*wrong));
        let anew = anew.count() > 0;
        self.meter
            .note_invalid_job_files(self.invalid.keys().cloned(), anew);
    }

    async fn accept(&mut self, job: Job) {
        match register(&self.pool, &job).await {
            Ok(registered) => {
                tracing::warn!(job = job.name, file = %job.file.display(), "took over a new or changed job");
                self.refused.remove(&job.name);
                if job.enabled {
                    self.at_hand.put(job.source.clone());
                }
                let mut entry = Entry::new(job, registered.now);
                entry.start(&registered);
                self.entries
                    .retain(|known| known.job.name != entry.job.name);
                self.entries.push(entry);
            }
            Err(SubmitError::Database(error)) => {
                tracing::warn!(job = job.name, %error, "cannot record a changed job; trying again");
                self.folder.read_again();
            }
            Err(error) => self.say_refused(&job, &error.to_string()),
        }
    }

    /// Says once why a changed job is not taken over.
    fn say_refused(&mut self, job: &Job, why: &str) {
        let file = job.file.display().to_string();
        self.invalid.insert(file, why.to_owned());
        let before = self.refused.insert(job.name.clone(), why.to_owned());
        if before.as_deref() != Some(why) {
            tracing::error!(job = job.name, file = %job.file.display(), "the changed job is not taken over, the last good version stays: {why}");
        }
    }

    fn say_problems(&mut self, problems: &Diagnostics) {
        let text = problems.to_string();
        if !problems.is_empty() && text != self.said {
            tracing::error!("job files have problems; what they held before goes on:\n{text}");
        }
        if !problems.is_empty() || !self.said.is_empty() {
            self.said = text;
        }
    }
}

impl Entry {
    fn new(job: Job, now: DateTime<Utc>) -> Self {
        Self {
            poll_at: job.poll.as_ref().map(|_| now),
            backfill_at: None,
            absent: false,
            paused: false,
            submitting: false,
            verify_at: None,
            verifying: false,
            job,
        }
    }

    /// Due at once: a poll, a backfill without a schedule, and what was scheduled for when nobody was there.
    fn start(&mut self, registered: &Registered) {
        let Registered {
            now,
            scheduled_at,
            verified_at,
        } = *registered;
        self.verify_at = self.next_verify(verified_at.unwrap_or(now));
        self.poll_at = self.job.poll.as_ref().map(|_| now);
        self.backfill_at = match self
            .job
            .backfill
            .as_ref()
            .map(|backfill| &backfill.schedule)
        {
            None => None,
            Some(None) => Some(now),
            Some(Some(schedule)) => {
                schedule.next_after(scheduled_at.unwrap_or(now), self.job.timezone)
            }
        };
    }

    fn next_backfill(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let schedule = self.job.backfill.as_ref()?.schedule.as_ref()?;
        schedule.next_after(after, self.job.timezone)
    }

    fn next_verify(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let schedule = &self.job.verify.as_ref()?.schedule;
        schedule.next_after(after, self.job.timezone)
    }

    fn next(&self) -> Option<DateTime<Utc>> {
        let rests = self.absent || !self.job.enabled;
        let times = [self.poll_at, self.backfill_at, self.verify_at];
        times.into_iter().flatten().min().filter(|_| !rests)
    }
}

/// Jobs whose source is defined differently for another job, with that one's name: a source is its name.
fn defined_twice(loaded: &Loaded) -> HashMap<String, String> {
    let jobs = || {
        loaded
            .files
            .iter()
            .filter_map(|(_, job)| job.as_ref())
            .filter(|job| job.enabled)
    };
    jobs()
        .filter_map(|job| {
            let other = jobs().find(|other| {
                other.source.name == job.source.name && other.source_spec != job.source_spec
            })?;
            Some((job.name.clone(), other.name.clone()))
        })
        .collect()
}

/// Records a job; returns the database's clock and the last ticks of its schedules. What is scheduled for the first time begins
/// now.
async fn register(pool: &PgPool, job: &Job) -> Result<Registered, SubmitError> {
    let mut conn = pool.acquire().await?;
    let mut tx = conn.begin().await?;
    if job.enabled {
        submit::register(&mut tx, job).await?;
    }
    if job.poll.is_none() || !job.enabled {
        polls::end(&mut tx, &job.name).await?;
    }
    let now = polls::clock(&mut tx).await?;
    let mut scheduled_at = polls::scheduled_at(&mut tx, &job.name).await?;
    if scheduled_at.is_none()
        && job
            .backfill
            .as_ref()
            .is_some_and(|backfill| backfill.schedule.is_some())
    {
        polls::record_tick(&mut tx, &job.name, now).await?;
        scheduled_at = Some(now);
    }
    let mut verified_at = store::verify::scheduled_at(&mut tx, &job.name).await?;
    if verified_at.is_none()
        && job.verify.is_some()
        && store::verify::take_on(&mut tx, &job.name, now).await?
    {
        verified_at = Some(now);
    }
    tx.commit().await?;
    Ok(Registered {
        now,
        scheduled_at,
        verified_at,
    })
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
