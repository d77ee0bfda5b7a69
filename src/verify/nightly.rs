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
    store::{Holder, report},
    window::{Window, WindowSet},
};

/// Verifies what the job's `[verify]` says; `None`: it has none, or its dataset is gone.
///
/// # Errors
/// If the source cannot be asked, or the database refuses. What Tempo refuses is a verdict.
pub async fn verify(
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
pub fn say(job: &Job, report: &Report) {
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
