//! One tick of a job's poll: what is due by the database's clock is planned and put on the queue, in one transaction that
//! holds the dataset's planning lock. A second scheduler a moment later finds nothing left to plan.

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};

use crate::{
    job::{Job, Poll, Ticks},
    plan::density::Piece,
    plan::{
        Look,
        poll::{self, Planned, Rules, Urgency},
    },
    store::{
        Holder, polls, retention,
        windows::{self, Origin},
    },
    submit::{self, SubmitError},
    window::Window,
};

/// How far its end must lie behind Tempo's clock for a fresh window to count, seconds: Tempo hides the last 30, and its
/// clock shows whole seconds.
const FRESH_AGE_S: i64 = 31;

/// What a tick did.
#[derive(Debug)]
pub struct Ticked {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// Nothing was planned because the job is paused.
    pub paused: bool,
    /// What was planned.
    pub planned: Vec<Planned>,
    /// `lookback` was widened.
    pub widened: Option<Widened>,
}

/// How `lookback` was widened.
#[derive(Debug, Clone, Copy)]
pub struct Widened {
    /// Before, seconds.
    pub from_s: i64,
    /// Now, seconds.
    pub to_s: i64,
    /// Traces that sealing had found and the settled look had not.
    pub missed: i64,
}

/// Plans what is due of a job's poll. `last`: there will be no later tick, so later looks are planned as far as they are
/// due and not only in whole widths.
///
/// # Errors
/// If the dataset was collected with something else, or the database refuses; then nothing was changed.
pub async fn tick(
    conn: &mut PgConnection,
    job: &Job,
    poll: &Poll,
    holder: &Holder,
    last: bool,
) -> Result<Ticked, SubmitError> {
    let now = polls::clock(&mut *conn).await?;
    tick_at(conn, job, poll, holder, last, now).await
}

/// The same at another time, for tests and benchmarks.
///
/// # Errors
/// As [`tick`].
pub async fn tick_at(
    conn: &mut PgConnection,
    job: &Job,
    poll: &Poll,
    holder: &Holder,
    last: bool,
    now: DateTime<Utc>,
) -> Result<Ticked, SubmitError> {
    let mut ticked = Ticked {
        now,
        paused: false,
        planned: Vec::new(),
        widened: None,
    };
    let mut tx = conn.begin().await?;
    // Other jobs wait for their turn: whoever deletes a dataset holds its lock for minutes.
    polls::wait_briefly(&mut tx).await?;
    crate::store::datasets::lock_for_planning(&mut tx, &job.dataset).await?;
    if polls::is_paused(&mut tx, &job.name).await? {
        ticked.paused = true;
        return Ok(ticked);
    }
    let every_s = every_s(job, poll, now);
    let run = match polls::open_run(&mut tx, &job.name, &job.dataset).await? {
        Some(run) => run,
        None => {
            submit::register(&mut tx, job).await?;
            let edge_s = Rules::new(poll, None, every_s).edge(now.timestamp());
            let newest_s = edge_s - every_s;
            let from_s = match polls::goes_on_from(&mut tx, &job.dataset, now).await? {
                Some(from_s) => from_s.min(newest_s),
                None => begins(job, poll, now, newest_s),
            };
            let Some(requested) = Window::new(from_s, edge_s) else {
                return Ok(ticked);
            };
            polls::begin(&mut tx, &job.name, &job.dataset, requested, holder).await?
        }
    };
    let rules = Rules::new(poll, run.widened_s, every_s);
    let edge_s = rules.edge(now.timestamp());
    polls::advance(
        &mut tx,
        run.id,
        edge_s,
        rules.seal_after_s,
        rules.catch_up_s,
    )
    .await?;
    if let Some(within) = Window::new(run.from_s, edge_s) {
        let state = polls::state(&mut tx, &job.dataset, within).await?;
        let kept_s = job
            .source
            .retention
            .and_then(|kept| i64::try_from(kept.as_secs()).ok());
        let kept = retention::of(&mut tx, &job.dataset)
            .await?
            .unwrap_or_default();
        let at = poll::Tick {
            from_s: run.from_s,
            now_s: now.timestamp(),
            kept_from_s: kept_s
                .map(|kept_s| now.timestamp() - kept_s)
                .max(kept.from(now)),
            last,
        };
        ticked.planned = poll::plan(&rules, &at, &state);
        insert(&mut tx, job, run.id, &rules, &ticked.planned).await?;
    }
    ticked.widened = widen(&mut tx, job, poll, &rules).await?;
    tx.commit().await?;
    Ok(ticked)
}

/// Where a dataset's first poll begins: at the newest window, or where the job's backfill of the last days ends, so that the
/// two meet - no further back than the poll catches up.
fn begins(job: &Job, poll: &Poll, now: DateTime<Utc>, newest_s: i64) -> i64 {
    use crate::job::BackfillRange;
    let from_s = match &job.backfill {
        Some(backfill) if matches!(backfill.range, BackfillRange::Last(_)) => {
            backfill.resolve(now).1.min(newest_s)
        }
        _ => newest_s,
    };
    let catch_up_s = poll
        .catch_up
        .and_then(|far| i64::try_from(far.as_secs()).ok());
    catch_up_s.map_or(from_s, |far_s| {
        from_s.max(now.timestamp() - far_s).min(newest_s)
    })
}

/// How far the ticks are apart, seconds; of a cron schedule, the next two.
fn every_s(job: &Job, poll: &Poll, now: DateTime<Utc>) -> i64 {
    match &poll.ticks {
        Ticks::Every(every) => i64::try_from(every.as_secs()).unwrap_or(i64::MAX / 4),
        Ticks::Schedule(schedule) => {
            let next = schedule.next_after(now, job.timezone);
            let after = next.and_then(|next| schedule.next_after(next, job.timezone));
            match (next, after) {
                (Some(next), Some(after)) => (after - next).num_seconds(),
                _ => i64::MAX / 4,
            }
        }
    }
}

/// When the poll ticks next after a moment.
pub(super) fn next(job: &Job, poll: &Poll, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    match &poll.ticks {
        Ticks::Every(_) => {
            let rules = Rules::new(poll, None, every_s(job, poll, after));
            let next_edge_s = rules.edge(after.timestamp()) + rules.edge_s;
            DateTime::from_timestamp(next_edge_s + rules.delay_s, 0)
        }
        Ticks::Schedule(schedule) => schedule.next_after(after, job.timezone),
    }
}

async fn insert(
    conn: &mut PgConnection,
    job: &Job,
    run_id: i64,
    rules: &Rules,
    planned: &[Planned],
) -> sqlx::Result<()> {
    let kind = |planned: &Planned| (planned.look, planned.earlier_look, planned.urgency);
    let mut kinds: Vec<_> = Vec::new();
    for planned in planned {
        if !kinds.contains(&kind(planned)) {
            kinds.push(kind(planned));
        }
    }
    for (look, earlier_look, urgency) in kinds {
        let windows: Vec<Piece> = planned
            .iter()
            .filter(|planned| kind(planned) == (look, earlier_look, urgency))
            .map(|planned| Piece::uncounted(planned.window))
            .collect();
        let origin = Origin {
            run_id,
            dataset: &job.dataset,
            source: &job.source.name,
            look,
            earlier_look,
            priority: match urgency {
                Urgency::Live => windows::LIVE_PRIORITY,
                Urgency::Settling => windows::SETTLING_PRIORITY,
                Urgency::Behind => windows::BACKFILL_PRIORITY,
            },
            settle_s: match look {
                Look::Fresh => FRESH_AGE_S,
                Look::Settled => rules.lookback_s,
                Look::Sealed => rules.seal_after_s,
            },
        };
        windows::insert_planned(&mut *conn, &origin, &windows).await?;
    }
    Ok(())
}

async fn widen(
    conn: &mut PgConnection,
    job: &Job,
    poll: &Poll,
    rules: &Rules,
) -> sqlx::Result<Option<Widened>> {
    let most_s = i64::try_from(poll.lookback_max.as_secs()).unwrap_or(i64::MAX / 4);
    let wider_s = (rules.lookback_s * 3 / 2 / rules.every_s + 1) * rules.every_s;
    let to_s = wider_s.min(most_s);
    if to_s <= rules.lookback_s {
        return Ok(None);
    }
    let missed = polls::widen(conn, &job.name, &job.dataset, rules.sealed_width_s(), to_s).await?;
    Ok(missed.map(|missed| Widened {
        from_s: rules.lookback_s,
        to_s,
        missed,
    }))
}
