//! Job files that change: what they hold now is taken over if it is accepted, else the last good version stays.

use std::collections::HashMap;

use sqlx::{Connection, PgPool};

use super::{
    Scheduler,
    entry::{Entry, Registered},
};
use crate::{
    job::{Diagnostics, Job, Loaded},
    store::{self, polls},
    submit::{self, SubmitError},
};

impl Scheduler {
    /// Takes over what the files hold now: a job that is new or changed if it is accepted, else the last good version
    /// stays; a job whose file has gone rests until it is back.
    pub(super) async fn take_over(&mut self, loaded: Loaded) {
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
pub(super) async fn register(pool: &PgPool, job: &Job) -> Result<Registered, SubmitError> {
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
