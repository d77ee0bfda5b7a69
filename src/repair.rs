//! `repair` and `refetch`: planning again what is missing, or what is there.
//!
//! Both plan windows of the sealed look for a dataset that was submitted before, cut at the edges of hours, newest first,
//! under the dataset's planning lock. Neither needs a job file: a dataset, its source and its jobs are in the database. What
//! is missing, and why, is decided in [`crate::gaps`].

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};

use crate::{
    gaps::{Ledger, Reason},
    plan::density::Piece,
    status,
    store::{
        Holder, Look,
        control::{JobRow, Paused},
        datasets, report,
        runs::{self, Kind, NewRun},
        traces,
        windows::{self, Origin},
    },
    window::{Window, WindowSet},
};

/// Windows are cut at multiples of this, seconds.
const WINDOW_S: i64 = 3_600;

/// Why nothing can be planned.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// Its windows would wait.
    #[error(
        "job `{job}` is paused since {} by {}: `tempo-harvest resume {job}` first",
        crate::control::at(.paused),
        .paused.by
    )]
    Paused {
        /// The job.
        job: String,
        /// Since when, and by whom.
        paused: Paused,
    },
    /// Nobody asks for it any more.
    #[error("no job fills dataset `{0}` any more: submit one that does")]
    NoJob(String),
    /// The database refuses.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What is to be planned again.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The dataset.
    pub dataset: &'a str,
    /// Its source.
    pub source: &'a str,
    /// The name that was asked for: the job's, if it is one.
    pub job: Option<&'a str>,
    /// Only what lies in here.
    pub within: Option<Window>,
    /// The present.
    pub now: DateTime<Utc>,
    /// This process.
    pub holder: &'a Holder,
}

/// What was planned.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The job that it was planned for, and the run, if there is anything to fetch.
    pub run: Option<(String, i64)>,
    /// Windows put on the queue.
    pub windows: Vec<Window>,
    /// Seconds put on the queue, by why they were missing.
    pub queued_s: BTreeMap<&'static str, i64>,
    /// Seconds left as they are, by why.
    pub left_s: BTreeMap<&'static str, i64>,
}

impl Request<'_> {
    fn bounds(&self) -> WindowSet {
        let everything = Window::new(i64::MIN / 4, i64::MAX / 4);
        self.within.or(everything).into_iter().collect()
    }

    async fn ledger(&self, conn: &mut PgConnection) -> sqlx::Result<Ledger> {
        let polls = report::polls(conn, self.dataset).await?;
        status::ledger(conn, self.dataset, self.source, &polls, self.now).await
    }

    /// The job that a run for this dataset belongs to: the one that was named, else one that is not paused.
    async fn job(&self, conn: &mut PgConnection) -> Result<String, RepairError> {
        match runs::job_for(conn, self.dataset, self.job).await? {
            None => Err(RepairError::NoJob(self.dataset.to_owned())),
            Some(JobRow {
                name,
                paused: Some(paused),
                ..
            }) => Err(RepairError::Paused { job: name, paused }),
            Some(job) => Ok(job.name),
        }
    }

    /// Records a run with these windows and puts them on the queue.
    async fn put_on_queue(
        &self,
        conn: &mut PgConnection,
        (kind, command): (Kind, &str),
        settle_s: i64,
        windows: &[Window],
    ) -> Result<Option<(String, i64)>, RepairError> {
        let Some(requested) = hull(windows) else {
            return Ok(None);
        };
        let job = self.job(conn).await?;
        let run = NewRun {
            job: &job,
            dataset: self.dataset,
            kind,
            requested,
            settle_s,
            command,
            holder: self.holder,
        };
        let run_id = runs::insert(conn, &run).await?;
        let origin = Origin {
            run_id,
            dataset: self.dataset,
            source: self.source,
            look: Look::Sealed,
            // What a refetch adds says nothing about a poll's looks.
            earlier_look: None,
            priority: windows::BACKFILL_PRIORITY,
            settle_s,
        };
        let pieces: Vec<Piece> = windows.iter().copied().map(Piece::uncounted).collect();
        windows::insert_planned(conn, &origin, &pieces).await?;
        Ok(Some((job, run_id)))
    }
}

/// From the first second of all of these to the last.
fn hull(windows: &[Window]) -> Option<Window> {
    windows.iter().copied().reduce(Window::until)
}

/// Cut at the edges of hours, newest first.
fn cut(seconds: &WindowSet) -> Vec<Window> {
    let mut windows: Vec<Window> = seconds
        .iter()
        .flat_map(|window| window.cut_at_edges(WINDOW_S))
        .collect();
    windows.reverse();
    windows
}

/// Plans exactly the gaps that can be collected, or only those that failed, and puts them on the queue.
///
/// # Errors
/// If there is something to fetch and its job is paused or gone, or the database refuses; then nothing was changed.
pub async fn repair(
    conn: &mut PgConnection,
    request: &Request<'_>,
    failed_only: bool,
) -> Result<Planned, RepairError> {
    let mut tx = conn.begin().await?;
    datasets::lock_for_planning(&mut tx, request.dataset).await?;
    let ledger = request.ledger(&mut tx).await?;
    let settle_s = report::settle(&mut tx, request.dataset).await?.all_s;
    let old_enough = WindowSet::before(request.now.timestamp() - settle_s);
    let bounds = request.bounds();
    let mut to_fetch = WindowSet::default();
    let (mut queued_s, mut left_s) = (BTreeMap::new(), BTreeMap::new());
    for gap in ledger.gaps() {
        let part = bounds.intersection(&gap.window.into());
        let wanted = gap.reason.is_repairable() && (gap.reason.is_failure() || !failed_only);
        let ready = if wanted {
            part.intersection(&old_enough)
        } else {
            WindowSet::default()
        };
        let left = part.minus(&ready);
        let add = |sums: &mut BTreeMap<_, i64>, name, seconds: &WindowSet| {
            if !seconds.is_empty() {
                *sums.entry(name).or_default() += seconds.seconds();
            }
        };
        add(&mut queued_s, gap.reason.name(), &ready);
        let why = match wanted {
            true => "too young to be sealed",
            false => gap.reason.name(),
        };
        add(&mut left_s, why, &left);
        to_fetch = to_fetch.union(&ready);
    }
    let windows = cut(&to_fetch);
    let run = request
        .put_on_queue(&mut tx, (Kind::Repair, "repair"), settle_s, &windows)
        .await?;
    tx.commit().await?;
    Ok(Planned {
        run,
        windows,
        queued_s,
        left_s,
    })
}

/// What fetching again would fetch, without doing it, and how many traces are stored there.
///
/// # Errors
/// If the database refuses.
pub async fn preview_refetch(
    conn: &mut PgConnection,
    request: &Request<'_>,
) -> sqlx::Result<(Planned, i64)> {
    let (windows, left_s) = refetchable(conn, request).await?;
    let stored = traces::count_in(conn, request.dataset, &windows).await?;
    let planned = Planned {
        run: None,
        queued_s: BTreeMap::from([(COVERED, total(&windows))]),
        windows,
        left_s,
    };
    Ok((planned, stored))
}

/// Puts what is covered on the queue, to be fetched again. It stays covered: what is fetched can only add to what is
/// stored.
///
/// # Errors
/// If there is something to fetch and its job is paused or gone, or the database refuses; then nothing was changed.
pub async fn refetch(
    conn: &mut PgConnection,
    request: &Request<'_>,
) -> Result<Planned, RepairError> {
    let mut tx = conn.begin().await?;
    datasets::lock_for_planning(&mut tx, request.dataset).await?;
    let (windows, left_s) = refetchable(&mut tx, request).await?;
    let settle_s = report::settle(&mut tx, request.dataset).await?.all_s;
    // It was old enough when it was sealed, perhaps by a run that stayed less far behind.
    let age_s = hull(&windows).map_or(0, |hull| request.now.timestamp() - hull.end());
    let settle_s = settle_s.min(age_s).max(0);
    let run = request
        .put_on_queue(&mut tx, (Kind::Refetch, "refetch"), settle_s, &windows)
        .await?;
    tx.commit().await?;
    Ok(Planned {
        run,
        queued_s: BTreeMap::from([(COVERED, total(&windows))]),
        windows,
        left_s,
    })
}

/// Puts what was found to disagree on the queue, to be fetched again as far as it is covered. It is a repair: what is fetched is
/// taken as it is, also where an earlier look brought more.
///
/// # Errors
/// If there is something to fetch and its job is paused or gone, or the database refuses; then nothing was changed.
pub async fn fetch_again(
    conn: &mut PgConnection,
    request: &Request<'_>,
    stretches: &WindowSet,
) -> Result<Planned, RepairError> {
    let mut tx = conn.begin().await?;
    datasets::lock_for_planning(&mut tx, request.dataset).await?;
    let (all, left_s) = refetchable(&mut tx, request).await?;
    let windows: Vec<Window> = all
        .into_iter()
        .flat_map(|window| {
            let common = stretches.intersection(&window.into());
            common.iter().collect::<Vec<Window>>()
        })
        .collect();
    let settle_s = report::settle(&mut tx, request.dataset).await?.all_s;
    let age_s = hull(&windows).map_or(0, |hull| request.now.timestamp() - hull.end());
    let settle_s = settle_s.min(age_s).max(0);
    let run = request
        .put_on_queue(&mut tx, (Kind::Repair, "verify"), settle_s, &windows)
        .await?;
    tx.commit().await?;
    Ok(Planned {
        run,
        queued_s: BTreeMap::from([("disagrees", total(&windows))]),
        windows,
        left_s,
    })
}

const COVERED: &str = "covered";

fn total(windows: &[Window]) -> i64 {
    windows.iter().map(|window| window.seconds()).sum()
}

/// The windows in which what is covered can be fetched again, and the seconds that cannot, by why.
async fn refetchable(
    conn: &mut PgConnection,
    request: &Request<'_>,
) -> sqlx::Result<(Vec<Window>, BTreeMap<&'static str, i64>)> {
    let ledger = request.ledger(conn).await?;
    let in_flight = windows::in_flight(conn, request.dataset, Look::Sealed).await?;
    let bounds = request.bounds();
    let covered = bounds.intersection(&ledger.sealed);
    let left = covered.minus(&in_flight);
    let gone = ledger.kept_from.max(ledger.deleted_before);
    let gone = gone.map_or_else(WindowSet::default, WindowSet::before);
    let to_fetch = left.minus(&gone);
    let left_s = [
        ("not covered", bounds.minus(&covered).seconds()),
        (
            Reason::InFlight.name(),
            covered.intersection(&in_flight).seconds(),
        ),
        (
            Reason::BeyondRetention.name(),
            left.intersection(&gone).seconds(),
        ),
    ];
    let left_s = left_s.into_iter().filter(|(_, seconds)| *seconds > 0);
    Ok((cut(&to_fetch), left_s.collect()))
}
