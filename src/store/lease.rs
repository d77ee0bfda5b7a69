//! Taking a window of the ledger, and ending work on it: done, split, set back, released.
//!
//! A lease is a number that grows each time the window is taken. Whoever finishes a window shows it; a worker that was
//! frozen past its lease finds that it no longer matches, or has expired, and stores nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Acquire, PgConnection, postgres::types::PgRange};

use super::{
    Holder, Look, datasets,
    found::{self, Found},
    range,
    runs::Kind,
    schema,
    traces::Merged,
    window_of, windows,
};
use crate::{
    job::Detail,
    plan::density::Piece,
    queue::{self, Item},
    window::Window,
};

/// How long a lease lasts unless it is renewed.
pub const LEASE: Duration = Duration::from_secs(20);

/// How often it is renewed, and so how soon a pause is noticed.
pub const RENEW_EVERY: Duration = Duration::from_secs(2);

/// The right to finish a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The window.
    pub window_id: i64,
    token: i64,
}

/// A window that was taken, with what is needed to fetch it.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The right to finish it.
    pub lease: Lease,
    /// Its span.
    pub window: Window,
    /// What being done will count as.
    pub look: Look,
    /// The latest look that had covered all of it when it was planned.
    pub earlier_look: Option<Look>,
    /// What it was planned for.
    pub kind: Kind,
    /// The dataset it fills.
    pub dataset: String,
    /// The dataset's TraceQL filter.
    pub query: Option<String>,
    /// The dataset's detail.
    pub detail: String,
    /// The attributes that the dataset's spans are stored with.
    pub attributes: Vec<String>,
    /// Traces counted or estimated in it.
    pub expected: Option<u64>,
    /// Higher goes first.
    pub priority: i32,
    /// How far its end must lie behind the server's clock, seconds.
    pub settle_s: i64,
    /// Attempts that failed before.
    pub attempts: u32,
    /// Attempts refused as too many requests.
    pub throttled: u32,
    /// Timeouts in a row before.
    pub timeouts: u32,
    /// Leases on it that ran out.
    pub lapsed: u32,
}

impl Claimed {
    /// A window that stands in no ledger: nobody can finish it, and nothing is stored for it.
    pub fn of_no_ledger(
        window: Window,
        dataset: &str,
        query: Option<&str>,
        expected: Option<u64>,
        settle_s: i64,
    ) -> Self {
        Self {
            // Windows of the ledger are numbered from 1 on, and their leases too.
            lease: Lease {
                window_id: 0,
                token: 0,
            },
            window,
            look: Look::Sealed,
            earlier_look: None,
            kind: Kind::Repair,
            dataset: dataset.to_owned(),
            query: query.map(str::to_owned),
            detail: Detail::Trace.name().to_owned(),
            attributes: Vec::new(),
            expected,
            priority: windows::BACKFILL_PRIORITY,
            settle_s,
            attempts: 0,
            throttled: 0,
            timeouts: 0,
            lapsed: 0,
        }
    }
}

/// A window's end cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// Somebody else has the window now, or it was cancelled.
    #[error("the lease on window {0} was lost")]
    LeaseLost(i64),
    /// The database refuses.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What kind of failure a window rests or waits with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// Tempo refuses the query.
    Query,
    /// Credentials, tenant or URL.
    Access,
    /// An outage or a broken answer.
    Passing,
    /// Too many requests.
    Throttled,
    /// No answer in time.
    Timeout,
    /// More traces in one second, duration and root than one answer may bring.
    Irreducible,
}

impl ErrorClass {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Query,
        Self::Access,
        Self::Passing,
        Self::Throttled,
        Self::Timeout,
        Self::Irreducible,
    ];

    /// Its name in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Access => "access",
            Self::Passing => "passing",
            Self::Throttled => "throttled",
            Self::Timeout => "timeout",
            Self::Irreducible => "irreducible",
        }
    }
}

/// What finishing a window counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Requests made since it was taken.
    pub requests: i32,
    /// Traces in the answer, or answers, that finished it.
    pub returned: i64,
    /// Of these, stored for the first time.
    pub stored_new: i64,
    /// Of these, stored before and now more complete.
    pub improved: i64,
}

impl Figures {
    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.returned += other.returned;
        self.stored_new += other.stored_new;
        self.improved += other.improved;
    }
}

/// Takes a window if it is due, nobody else has it, nobody has paused it, and its dataset is this tenant's. Once a newer
/// program has upgraded the tables, none is.
///
/// # Errors
/// If the database refuses.
pub async fn claim(
    conn: &mut PgConnection,
    window_id: i64,
    holder: &Holder,
    tenant: Option<&str>,
) -> sqlx::Result<Option<Claimed>> {
    let row = sqlx::query!(
        r#"UPDATE harvest.windows w
           SET state = 'running', lease_token = lease_token + 1, lease_holder = $2,
               lapsed = CASE WHEN w.state = 'running' THEN w.lapsed + 1 ELSE w.lapsed END,
               lease_expires_at = clock_timestamp() + make_interval(secs => $3)
           FROM harvest.datasets d, harvest.runs r
           WHERE w.id = $1 AND d.name = w.dataset AND r.id = w.run_id AND d.tenant IS NOT DISTINCT FROM $4
             AND ((w.state = 'queued' AND w.next_try_at <= clock_timestamp())
                  OR (w.state = 'running' AND w.lease_expires_at < clock_timestamp()))
             AND NOT EXISTS (SELECT FROM harvest.paused_runs p WHERE p.run_id = w.run_id)
             AND NOT EXISTS (SELECT FROM harvest._sqlx_migrations m WHERE m.version > $5)
           RETURNING lower(span) AS "start!", upper(span) AS "end!", w.look, w.earlier_look, r.kind, w.dataset, d.query, d.detail, d.attributes, w.expected,
                     w.priority, w.settle_s, w.attempts, w.throttled, w.timeouts, w.lapsed, w.lease_token"#,
        window_id,
        holder.as_str(),
        LEASE.as_secs_f64(),
        tenant,
        schema::known()
    )
    .fetch_optional(conn)
    .await?;
    let count = |n: i32| u32::try_from(n).unwrap_or(0);
    Ok(row.and_then(|row| {
        Some(Claimed {
            lease: Lease {
                window_id,
                token: row.lease_token,
            },
            window: window_of(row.start, row.end)?,
            look: Look::from_name(&row.look)?,
            earlier_look: row.earlier_look.as_deref().and_then(Look::from_name),
            kind: Kind::from_name(&row.kind)?,
            dataset: row.dataset,
            query: row.query,
            detail: row.detail,
            attributes: row.attributes,
            expected: row.expected.and_then(|n| u64::try_from(n).ok()),
            priority: row.priority,
            settle_s: row.settle_s,
            attempts: count(row.attempts),
            throttled: count(row.throttled),
            timeouts: count(row.timeouts),
            lapsed: count(row.lapsed),
        })
    }))
}

/// What renewing a lease finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It goes on.
    Held,
    /// It goes on, but the window's run, or its job, is paused: it is to be given back.
    Paused,
    /// Somebody else has the window now, or it was cancelled.
    Lost,
}

/// Extends a lease, and says whether it still held.
///
/// # Errors
/// If the database refuses.
pub async fn renew(conn: &mut PgConnection, lease: Lease) -> sqlx::Result<Renewal> {
    let paused = sqlx::query_scalar!(
        r#"UPDATE harvest.windows w SET lease_expires_at = clock_timestamp() + make_interval(secs => $3)
           WHERE id = $1 AND lease_token = $2 AND state = 'running' AND lease_expires_at > clock_timestamp()
           RETURNING EXISTS (SELECT FROM harvest.paused_runs p WHERE p.run_id = w.run_id) AS "paused!""#,
        lease.window_id,
        lease.token,
        LEASE.as_secs_f64()
    )
    .fetch_optional(conn)
    .await?;
    Ok(match paused {
        Some(false) => Renewal::Held,
        Some(true) => Renewal::Paused,
        None => Renewal::Lost,
    })
}

/// Locks the window's row if the lease on it still holds. Nothing is stored before this, nor once a newer program has upgraded
/// the tables.
async fn fence(conn: &mut PgConnection, lease: Lease) -> Result<(), FinishError> {
    fence_as(conn, lease, schema::known()).await
}

/// The same for tables of this form at most.
async fn fence_as(conn: &mut PgConnection, lease: Lease, newest: i64) -> Result<(), FinishError> {
    sqlx::query_scalar!(
        "SELECT id FROM harvest.windows
         WHERE id = $1 AND lease_token = $2 AND state = 'running' AND lease_expires_at > clock_timestamp()
           AND NOT EXISTS (SELECT FROM harvest._sqlx_migrations m WHERE m.version > $3) FOR UPDATE",
        lease.window_id,
        lease.token,
        newest
    )
    .fetch_optional(conn)
    .await?
    .map(|_| ())
    .ok_or(FinishError::LeaseLost(lease.window_id))
}

/// Stores traces of a window that is not finished with them.
///
/// # Errors
/// [`FinishError::LeaseLost`] if the window is no longer ours; then nothing is stored.
pub async fn store_part(
    conn: &mut PgConnection,
    claimed: &Claimed,
    found: Found,
) -> Result<Merged, FinishError> {
    let mut tx = conn.begin().await?;
    fence(&mut tx, claimed.lease).await?;
    let merged = found::store(&mut tx, &claimed.dataset, claimed.window, found).await?;
    datasets::add(&mut tx, &claimed.dataset, merged).await?;
    tx.commit().await?;
    Ok(merged)
}

/// Stores the traces of a window and marks it done, in one transaction. Returns the traces that were new, those of
/// earlier parts included.
///
/// # Errors
/// [`FinishError::LeaseLost`] if the window is no longer ours; then nothing is stored.
pub async fn mark_done(
    conn: &mut PgConnection,
    claimed: &Claimed,
    found: Found,
    before: Figures,
) -> Result<i64, FinishError> {
    let mut tx = conn.begin().await?;
    fence(&mut tx, claimed.lease).await?;
    let returned = before.returned + i64::try_from(found.len()).unwrap_or(i64::MAX);
    let merged = found::store(&mut tx, &claimed.dataset, claimed.window, found).await?;
    let stored_new = before.stored_new + merged.new;
    sqlx::query!(
        "UPDATE harvest.windows SET state = 'done', lease_holder = NULL, lease_expires_at = NULL, finished_at = clock_timestamp(),
             last_error = NULL, error_class = NULL, requests = requests + $2, returned = $3, stored_new = $4, improved = $5
         WHERE id = $1",
        claimed.lease.window_id,
        before.requests,
        returned,
        stored_new,
        before.improved + merged.improved
    )
    .execute(&mut *tx)
    .await?;
    datasets::cover(
        &mut tx,
        &claimed.dataset,
        claimed.look,
        claimed.lease.window_id,
    )
    .await?;
    datasets::add(&mut tx, &claimed.dataset, merged).await?;
    tx.commit().await?;
    Ok(stored_new)
}

/// Replaces a window by its pieces, which tile it, and puts them on the queue. `spent` are attempts that the pieces have
/// behind them already.
///
/// # Errors
/// [`FinishError::LeaseLost`] if the window is no longer ours; then nothing changes.
pub async fn split(
    conn: &mut PgConnection,
    claimed: &Claimed,
    pieces: &[Piece],
    spent: u32,
    requests: i32,
) -> Result<(), FinishError> {
    let mut tx = conn.begin().await?;
    fence(&mut tx, claimed.lease).await?;
    let parent = sqlx::query!(
        "UPDATE harvest.windows SET state = 'split', lease_holder = NULL, lease_expires_at = NULL, finished_at = clock_timestamp(),
             last_error = NULL, error_class = NULL, requests = requests + $2
         WHERE id = $1
         RETURNING source, priority",
        claimed.lease.window_id,
        requests
    )
    .fetch_one(&mut *tx)
    .await?;
    let spans: Vec<PgRange<DateTime<Utc>>> =
        pieces.iter().map(|piece| range(piece.window)).collect();
    let expected: Vec<Option<i64>> = pieces
        .iter()
        .map(|piece| piece.expected.and_then(|n| i64::try_from(n).ok()))
        .collect();
    let rows = sqlx::query!(
        r#"INSERT INTO harvest.windows (run_id, dataset, source, look, span, parent_id, priority, queue_at, settle_s, earlier_look, expected,
                                        attempts)
           SELECT p.run_id, p.dataset, p.source, p.look, piece.span, p.id, p.priority, p.queue_at, p.settle_s, p.earlier_look,
                  piece.expected, $4
           FROM harvest.windows p, unnest($2::tstzrange[], $3::bigint[]) AS piece (span, expected)
           WHERE p.id = $1
           RETURNING id, queue_at"#,
        claimed.lease.window_id,
        &spans,
        &expected as &[Option<i64>],
        i32::try_from(spent).unwrap_or(i32::MAX)
    )
    .fetch_all(&mut *tx)
    .await?;
    let items: Vec<Item> = rows
        .into_iter()
        .map(|row| Item {
            window_id: row.id,
            priority: parent.priority,
            run_at: row.queue_at,
        })
        .collect();
    queue::enqueue(&mut tx, &parent.source, &items).await?;
    tx.commit().await?;
    Ok(())
}

/// How an attempt failed, and what comes next.
#[derive(Debug, Clone)]
pub struct Setback {
    /// What kind of failure.
    pub class: ErrorClass,
    /// What went wrong.
    pub error: String,
    /// When to try again; `None`: the window rests as failed.
    pub retry_in: Option<Duration>,
    /// Requests made since it was taken.
    pub requests: i32,
}

/// Records a failed attempt, and puts the window back on the queue for later if it is to be tried again.
///
/// # Errors
/// [`FinishError::LeaseLost`] if the window is no longer ours; then nothing changes.
pub async fn set_back(
    conn: &mut PgConnection,
    lease: Lease,
    setback: &Setback,
) -> Result<(), FinishError> {
    let mut tx = conn.begin().await?;
    fence(&mut tx, lease).await?;
    let throttled = i32::from(setback.class == ErrorClass::Throttled);
    let row = sqlx::query!(
        "UPDATE harvest.windows SET
             state = CASE WHEN $2::float8 IS NULL THEN 'failed' ELSE 'queued' END,
             finished_at = CASE WHEN $2::float8 IS NULL THEN clock_timestamp() END,
             next_try_at = clock_timestamp() + make_interval(secs => coalesce($2::float8, 0)),
             lease_holder = NULL, lease_expires_at = NULL,
             attempts = attempts + 1 - $3, throttled = throttled + $3,
             timeouts = CASE WHEN $4 = 'timeout' THEN timeouts + 1 ELSE 0 END,
             last_error = $5, error_class = $4, requests = requests + $6
         WHERE id = $1
         RETURNING state, source, priority, next_try_at",
        lease.window_id,
        setback.retry_in.map(|wait| wait.as_secs_f64()),
        throttled,
        setback.class.name(),
        setback.error,
        setback.requests
    )
    .fetch_one(&mut *tx)
    .await?;
    if row.state == "queued" {
        let item = Item {
            window_id: lease.window_id,
            priority: row.priority,
            run_at: row.next_try_at,
        };
        queue::enqueue(&mut tx, &row.source, &[item]).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Gives a window back untouched, for anyone to take at once or after `wait`; it counts as no attempt. Tables that a newer
/// program has upgraded take that too.
///
/// # Errors
/// [`FinishError::LeaseLost`] if the window is no longer ours; then nothing changes.
pub async fn release(
    conn: &mut PgConnection,
    lease: Lease,
    wait: Duration,
    why: Option<&str>,
    requests: i32,
) -> Result<(), FinishError> {
    let mut tx = conn.begin().await?;
    fence_as(&mut tx, lease, i64::MAX).await?;
    let row = sqlx::query!(
        "UPDATE harvest.windows SET state = 'queued', lease_holder = NULL, lease_expires_at = NULL,
             next_try_at = clock_timestamp() + make_interval(secs => $2), last_error = coalesce($3, last_error), requests = requests + $4
         WHERE id = $1
         RETURNING source, priority, queue_at, next_try_at",
        lease.window_id,
        wait.as_secs_f64(),
        why,
        requests
    )
    .fetch_one(&mut *tx)
    .await?;
    let item = Item {
        window_id: lease.window_id,
        priority: row.priority,
        run_at: if wait.is_zero() {
            row.queue_at
        } else {
            row.next_try_at
        },
    };
    queue::enqueue(&mut tx, &row.source, &[item]).await?;
    tx.commit().await?;
    Ok(())
}
