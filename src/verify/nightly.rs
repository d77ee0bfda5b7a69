//! Verification on a schedule: what `[verify]` says, done by whichever process takes the tick.
//!
//! It asks gently, one request after the other, repairs nothing, and leaves its verdicts in the ledger and a line in the log.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::{
    Depth, HOUR_S, Report, Request, YOUNG_S,
    source::{Opened, SourceError},
    standing,
};
use crate::{
    job::{Job, Source, Verify},
    store::{self, Holder, polls, report},
    window::{Window, WindowSet},
};

/// Verifies what the job's `[verify]` says, unless another process has taken on this tick or the job is paused, and says in the log what
/// came of it.
pub async fn on_tick(
    pool: &PgPool,
    holder: &Holder,
    job: &Job,
    at_hand: Option<Source>,
    tick: DateTime<Utc>,
) {
    let verified = async {
        let now = {
            let mut conn = pool.acquire().await?;
            if !store::verify::take_on(&mut conn, &job.name, tick).await? {
                return Ok(None);
            }
            polls::clock(&mut conn).await?
        };
        verify(pool, holder, job, at_hand, now).await
    };
    match verified.await {
        Ok(Some(report)) => say(job, &report),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(job = job.name, %error, "cannot verify; the next tick tries again");
        }
    }
}

/// Verifies what the job's `[verify]` says; `None`: it has none, or its dataset is gone.
async fn verify(
    pool: &PgPool,
    holder: &Holder,
    job: &Job,
    at_hand: Option<Source>,
    now: DateTime<Utc>,
) -> Result<Option<Report>, SourceError> {
    let Some(schedule) = &job.verify else {
        return Ok(None);
    };
    let datasets = {
        let mut conn = pool.acquire().await?;
        report::datasets(&mut conn, Some(&job.dataset)).await?
    };
    let dataset = datasets
        .into_iter()
        .find(|dataset| dataset.name == job.dataset);
    let Some(dataset) = dataset else {
        return Ok(None);
    };
    let opened = Opened::open(pool, holder, &dataset.source, at_hand).await?;
    let request = Request {
        pool,
        harvester: &opened.harvester,
        dataset: &dataset,
        depth: match schedule.deep {
            true => Depth::Deep,
            false => Depth::Counts,
        },
        gently: true,
        now,
    };
    let verified = async {
        let ledger = super::ledger(pool, &dataset, now).await?;
        let asked = standing::asked_for(&ledger).intersection(&range(schedule, now));
        super::verify(&request, &ledger, &asked).await
    };
    let verified = verified.await;
    opened.close().await;
    Ok(Some(verified?))
}

/// The last whole hours, as far as they are old enough.
fn range(verify: &Verify, now: DateTime<Utc>) -> WindowSet {
    let last_s = i64::try_from(verify.last.as_secs()).unwrap_or(i64::MAX / 4);
    let to_hour = |second: i64| second.div_euclid(HOUR_S) * HOUR_S;
    let end = to_hour(now.timestamp() - YOUNG_S);
    WindowSet::from_iter(Window::new(to_hour(now.timestamp() - last_s), end))
}

/// Says in the log what was found: as a warning unless everything is in order.
fn say(job: &Job, report: &Report) {
    let tally: Vec<String> = report
        .tally()
        .into_iter()
        .map(|(verdict, hours)| format!("{hours} {}", verdict.name()))
        .collect();
    let (depth, hours, found) = (report.depth.name(), report.hours.len(), tally.join(", "));
    if report.is_in_order() {
        tracing::info!(job = job.name, depth, hours, found, "verified");
    } else {
        tracing::warn!(
            job = job.name,
            depth,
            hours,
            found,
            "verification disagrees: `tempo-harvest verify {}` says where",
            job.name
        );
    }
}
