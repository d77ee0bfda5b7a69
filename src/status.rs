//! What is collected, what is not, and why not: the ledger read for people and monitors.
//!
//! Which second has which reason is decided in [`crate::gaps`]; here the ledger is read for it.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use crate::{
    gaps::{Gap, Ledger, Polled, Reason},
    job::{self, SourceSpec},
    queue,
    store::{
        Look,
        control::{self, PausedHere},
        datasets,
        pace::{self, Pace},
        report::{self, DatasetState, LaterLooks, Poll},
        retention,
        runs::Kind,
        sources,
        verify::{self, Verified},
        warnings::{self, SealedStretch},
        windows,
    },
    window::{Window, WindowSet},
};

/// How many sealed stretches are looked at for what their settled looks had missed.
pub const SEALED_STRETCHES: usize = 3;
/// Over how long is told how the backlog grows.
pub const GROWTH_OF: TimeDelta = TimeDelta::minutes(15);
/// The longest window that seals what a poll has collected, seconds.
const LONGEST_SEALING_S: i64 = 3_600;
/// How far back is added up what later looks found.
const LATER_LOOKS_OF: TimeDelta = TimeDelta::hours(24);
/// How many ticks a poll may be behind before that is a gap.
const TICKS_BEHIND: i64 = 4;
/// How old a second is when a poll looks at it, and how often it looks, unless its job file says so, seconds.
const DELAY_S: i64 = 35;
const EVERY_S: i64 = 15;

/// A dataset: what was asked for, and what of it is there.
#[derive(Debug, Clone)]
pub struct DatasetStatus {
    /// What it is.
    pub state: DatasetState,
    /// Everything that was ever asked for.
    pub requested: WindowSet,
    /// What is completely collected.
    pub covered: WindowSet,
    /// What is not, with reasons, in ascending order.
    pub gaps: Vec<Gap>,
    /// Failed windows that leave a gap.
    pub failed_windows: usize,
    /// How its polls keep up; `None` without any.
    pub live: Option<Live>,
    /// Paused jobs and runs.
    pub paused: Vec<PausedHere>,
    /// How fast its source is asked, by all processes; `None` if it was never asked.
    pub pace: Option<Pace>,
    /// What is still to be collected.
    pub backlog: Backlog,
    /// How its hours stood when they were last verified.
    pub verified: Vec<Verified>,
    /// Whether anything was ever submitted for it.
    pub was_submitted: bool,
    /// Whether somebody works on what is on its source's queue.
    pub worked_on: bool,
}

/// What should be collected by now, at any look, and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Seconds of it.
    pub seconds: i64,
    /// By how many seconds it has grown in the last [`GROWTH_OF`], what was submitted since then left out; below 0 where it has
    /// shrunk.
    pub grown_s: i64,
    /// Its first second, Unix seconds; `None` where there is none.
    pub oldest_s: Option<i64>,
}

/// How polls keep up.
#[derive(Debug, Clone)]
pub struct Live {
    /// How far the end of what is collected lies behind the present, seconds; `None` before the first look.
    pub behind_s: Option<i64>,
    /// What the later looks of the last 24 hours found that an earlier look had missed.
    pub later_looks: Vec<LaterLooks>,
    /// Polls whose `lookback` was widened.
    pub widened: Vec<Widened>,
    /// Polls that go on: neither ended nor paused.
    pub living: Vec<LivePoll>,
    /// The stretches sealed last within these 24 hours, at most three, the latest first.
    pub sealed: Vec<SealedStretch>,
}

/// A poll that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivePoll {
    /// Its job.
    pub job: String,
    /// How far its edge may lie behind the present, seconds: its `delay` and a few ticks.
    pub young_s: i64,
    /// The first second it was to collect, Unix seconds.
    pub from_s: i64,
}

/// A poll that looks back further than its job file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Widened {
    /// Its job.
    pub job: String,
    /// How far it looks back, seconds.
    pub lookback_s: i64,
    /// Since when.
    pub at: Option<DateTime<Utc>>,
}

impl DatasetStatus {
    /// Seconds asked for and not collected though they should be.
    pub fn missing_s(&self) -> i64 {
        self.seconds(Reason::is_missing)
    }

    /// Seconds asked for that should be complete by now: old enough, and neither deleted nor beyond retention.
    pub fn due_s(&self) -> i64 {
        self.requested.seconds() - self.seconds(|reason| !reason.is_missing())
    }

    /// Seconds that a poll has, and will look at again.
    pub fn provisional_s(&self) -> i64 {
        self.seconds(|reason| *reason == Reason::Provisional)
    }

    fn seconds(&self, of: impl Fn(&Reason) -> bool) -> i64 {
        let gaps = self.gaps.iter().filter(|gap| of(&gap.reason));
        gaps.map(|gap| gap.window.seconds()).sum()
    }
}

/// All datasets, or the one of this name, or the one that a job of this name fills.
///
/// # Errors
/// If the database refuses.
pub async fn datasets(
    conn: &mut PgConnection,
    name: Option<&str>,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<DatasetStatus>> {
    let mut statuses = Vec::new();
    for state in report::datasets(conn, name).await? {
        statuses.push(of_dataset(conn, state, now).await?);
    }
    Ok(statuses)
}

async fn of_dataset(
    conn: &mut PgConnection,
    state: DatasetState,
    now: DateTime<Utc>,
) -> sqlx::Result<DatasetStatus> {
    let polls = report::polls(conn, &state.name).await?;
    let ledger = ledger(conn, &state.name, &state.source, &polls, now).await?;
    let requested = ledger.requested();
    let missing = requested.minus(&ledger.sealed);
    let failed_windows = ledger
        .failed
        .iter()
        .filter(|failed| !missing.intersection(&failed.window.into()).is_empty())
        .count();
    let live = if polls.is_empty() {
        None
    } else {
        let [fresh, settled] = &ledger.provisional;
        let there = fresh.union(settled).union(&ledger.sealed);
        let edge = there.iter().next_back().map(|window| window.end());
        let width_s = polls.iter().map(|poll| poll.seal_after_s).max();
        Some(Live {
            sealed: warnings::sealed_lately(
                &mut *conn,
                &state.name,
                width_s.unwrap_or(1).clamp(1, LONGEST_SEALING_S),
                now - LATER_LOOKS_OF,
                SEALED_STRETCHES as i64,
            )
            .await?,
            living: polls
                .iter()
                .filter(|poll| poll.living)
                .map(living)
                .collect(),
            behind_s: edge.map(|edge| now.timestamp() - edge),
            later_looks: report::later_looks(conn, &state.name, now - LATER_LOOKS_OF).await?,
            widened: polls.iter().filter_map(widened).collect(),
        })
    };
    let gaps = ledger.gaps();
    Ok(DatasetStatus {
        backlog: backlog(&mut *conn, &state.name, &ledger, &gaps).await?,
        paused: control::paused_of(conn, &state.name).await?,
        pace: pace::present(conn, &state.source).await?,
        gaps,
        verified: verify::verified(conn, &state.name).await?,
        was_submitted: report::was_submitted(conn, &state.name).await?,
        worked_on: queue::is_worked_on(conn, &state.source).await?,
        requested,
        covered: ledger.sealed,
        failed_windows,
        live,
        state,
    })
}

/// What of the gaps is still to be collected, and how that has changed: what was done since is added again, and what has come
/// due, or was submitted, since is taken off.
async fn backlog(
    conn: &mut PgConnection,
    dataset: &str,
    ledger: &Ledger,
    gaps: &[Gap],
) -> sqlx::Result<Backlog> {
    let is_behind =
        |gap: &&Gap| gap.reason.is_missing() && gap.reason != Reason::ProvisionalTooLong;
    let behind: WindowSet = gaps
        .iter()
        .filter(is_behind)
        .map(|gap| gap.window)
        .collect();
    let then_s = ledger.now - GROWTH_OF.num_seconds();
    let Some(then) = DateTime::from_timestamp(then_s, 0).filter(|_| !behind.is_empty()) else {
        return Ok(Backlog {
            seconds: behind.seconds(),
            grown_s: 0,
            oldest_s: None,
        });
    };
    let done = warnings::covered_since(&mut *conn, dataset, then).await?;
    let submitted = warnings::backfilled_since(conn, dataset, then_s).await?;
    let polled = ledger.polled_at(then_s);
    let asked_then = ledger.backfilled.minus(&submitted).union(&polled);
    let behind_then = behind.union(&done).intersection(&asked_then);
    let submitted = submitted.minus(&ledger.polled_at(ledger.now));
    Ok(Backlog {
        seconds: behind.seconds(),
        grown_s: behind.minus(&submitted).seconds() - behind_then.seconds(),
        oldest_s: behind.iter().next().map(|window| window.start()),
    })
}

fn living(poll: &Poll) -> LivePoll {
    LivePoll {
        job: poll.job.clone(),
        young_s: young_s(&poll.spec),
        from_s: poll.requested.start(),
    }
}

fn widened(poll: &Poll) -> Option<Widened> {
    Some(Widened {
        job: poll.job.clone(),
        lookback_s: poll.lookback_s?,
        at: poll.lookback_widened_at,
    })
}

/// What the ledger knows of a dataset. What is in flight is read first: a window that is finished between two reads then
/// shows as covered, and not as a gap.
///
/// # Errors
/// If the database refuses.
pub async fn ledger(
    conn: &mut PgConnection,
    dataset: &str,
    source: &str,
    polls: &[Poll],
    now: DateTime<Utc>,
) -> sqlx::Result<Ledger> {
    let now_s = now.timestamp();
    let mut in_flight = WindowSet::default();
    for look in Look::ALL {
        in_flight = in_flight.union(&windows::in_flight(conn, dataset, look).await?);
    }
    let backfills = [Kind::Backfill];
    Ok(Ledger {
        backfilled: report::requested_by(conn, dataset, &backfills).await?,
        polls: polls
            .iter()
            .map(|poll| Polled {
                requested: up_to_now(poll, now_s),
                seal_after_s: poll.seal_after_s,
                catch_up_s: poll.catch_up_s,
                young_s: young_s(&poll.spec),
            })
            .collect(),
        failed: report::failed(conn, dataset).await?,
        provisional: [
            datasets::covered(conn, dataset, Look::Fresh).await?,
            datasets::covered(conn, dataset, Look::Settled).await?,
        ],
        sealed: datasets::covered(conn, dataset, Look::Sealed).await?,
        in_flight,
        deleted_before: retention::of(conn, dataset)
            .await?
            .and_then(|kept| kept.deleted_before),
        kept_from: retention_s(conn, source)
            .await?
            .map(|kept_s| now_s - kept_s),
        settled_until: now_s - report::settle(conn, dataset).await?.backfills_s,
        now: now_s,
    })
}

/// What a poll has taken on by now, whether or not anybody ticked: without workers its gap grows all the same.
fn up_to_now(poll: &Poll, now_s: i64) -> Window {
    let asked = poll.requested;
    let by_now = match poll.living {
        true => (now_s - young_s(&poll.spec)).max(asked.end()),
        false => asked.end(),
    };
    Window::new(asked.start(), by_now).unwrap_or(asked)
}

/// How old a second may be before a poll has looked at it: the job file's `delay` and a few ticks.
fn young_s(spec: &str) -> i64 {
    let table: toml::Table = spec.parse().unwrap_or_default();
    let seconds = |key: &str| {
        let text = table.get("poll")?.get(key)?.as_str()?;
        i64::try_from(job::parse_duration(text).ok()?.as_secs()).ok()
    };
    seconds("delay").unwrap_or(DELAY_S) + seconds("every").unwrap_or(EVERY_S) * TICKS_BEHIND
}

async fn retention_s(conn: &mut PgConnection, source: &str) -> sqlx::Result<Option<i64>> {
    let spec = sources::spec(conn, source).await?;
    let spec: Option<SourceSpec> = spec.and_then(|spec| serde_json::from_value(spec).ok());
    Ok(spec
        .and_then(|spec| job::duration::parse(&spec.retention?.0).ok())
        .and_then(|kept| i64::try_from(kept.as_secs()).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_is_young_for_its_delay_and_a_few_ticks() {
        assert_eq!(
            young_s("name = \"live\"\n[poll]\nevery = \"1m\"\ndelay = \"50s\"\n"),
            290
        );
        assert_eq!(young_s("[poll]\ndelay = \"${DELAY}\"\n"), 95);
        assert_eq!(young_s("no TOML"), 95);
    }
}
