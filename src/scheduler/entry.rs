//! A job that is scheduled, and when each of its parts is due next.

use chrono::{DateTime, Utc};

use crate::job::Job;

/// A job that is scheduled.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) job: Job,
    /// When its poll ticks next; `None`: it has none.
    pub(super) poll_at: Option<DateTime<Utc>>,
    /// When its backfill is submitted next; `None`: never again.
    pub(super) backfill_at: Option<DateTime<Utc>>,
    /// Its file has gone: it rests, and is not cancelled.
    pub(super) absent: bool,
    pub(super) paused: bool,
    /// Its backfill is being submitted.
    pub(super) submitting: bool,
    /// When it is verified next; `None`: never again.
    pub(super) verify_at: Option<DateTime<Utc>>,
    /// It is being verified.
    pub(super) verifying: bool,
}

/// What is known of a job when it is recorded.
pub(super) struct Registered {
    /// The database's clock.
    pub(super) now: DateTime<Utc>,
    /// The last tick of its backfill's schedule.
    pub(super) scheduled_at: Option<DateTime<Utc>>,
    /// The last tick of its [verify].
    pub(super) verified_at: Option<DateTime<Utc>>,
}

impl Entry {
    pub(super) fn new(job: Job, now: DateTime<Utc>) -> Self {
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
    pub(super) fn start(&mut self, registered: &Registered) {
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

    pub(super) fn next_backfill(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let schedule = self.job.backfill.as_ref()?.schedule.as_ref()?;
        schedule.next_after(after, self.job.timezone)
    }

    pub(super) fn next_verify(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let schedule = &self.job.verify.as_ref()?.schedule;
        schedule.next_after(after, self.job.timezone)
    }

    pub(super) fn next(&self) -> Option<DateTime<Utc>> {
        let rests = self.absent || !self.job.enabled;
        let times = [self.poll_at, self.backfill_at, self.verify_at];
        times.into_iter().flatten().min().filter(|_| !rests)
    }
}
