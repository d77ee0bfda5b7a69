//! `harvest.source_pace` and `harvest.source_permits`: how fast a source is asked, by all processes together.
//!
//! All moments are by the database's clock, and no statement needs what an earlier one left in its session. Nothing here
//! waits for the disk: what a crash of the server loses is made up for within a lease.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::job::Limits;

/// How long a place is held unless it is renewed: so long a killed process keeps it.
pub const LEASE: Duration = Duration::from_secs(10);
/// How often places are renewed.
pub const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How long a share of nearly nothing takes to become whole again while answers come, seconds.
const RECOVERY_S: f64 = 60.0;
/// Answers further apart than this raise it no more than answers that are so far apart, seconds.
const LONGEST_CREDIT_S: f64 = 5.0;

/// Who asks for a place.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The source.
    pub source: String,
    /// `host:process:number` of the process.
    pub holder: String,
    /// Requests at once, as this process was told.
    pub concurrency: i32,
    /// Requests per second, as this process was told.
    pub per_second: f64,
}

impl Caller {
    /// A process that was told these limits.
    pub fn new(source: &str, holder: &str, limits: &Limits) -> Self {
        Self {
            source: source.to_owned(),
            holder: holder.to_owned(),
            concurrency: i32::try_from(limits.concurrency).unwrap_or(i32::MAX),
            per_second: limits.requests_per_second,
        }
    }
}

/// What became of asking for a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Entry {
    /// A request may begin after `wait`, a fraction of a second. The number gives the place back.
    Granted {
        /// Number of the permit.
        permit: i64,
        /// How long until it may begin.
        wait: Duration,
    },
    /// Not before so long: ask again then.
    NotBefore(Duration),
    /// No place is free, or another goes first.
    Full {
        /// The next place is this process's.
        next: bool,
    },
}

/// How a source's present pace stands.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Requests at once, as the source's limits say.
    pub concurrency: i32,
    /// Requests per second, as the source's limits say.
    pub requests_per_second: f64,
    /// The share of both that is used at present, above 0, at most 1.
    pub factor: f64,
    /// Why it fell last.
    pub why: Option<String>,
    /// Since when it is below 1.
    pub held_since: Option<DateTime<Utc>>,
    /// No request begins before this, if that lies ahead.
    pub held_until: Option<DateTime<Utc>>,
    /// Requests under way.
    pub under_way: i64,
}

impl Pace {
    /// Requests per second at present.
    pub fn present_per_second(&self) -> f64 {
        self.requests_per_second * self.factor
    }

    /// Requests at once at present.
    pub fn present_concurrency(&self) -> i32 {
        ((f64::from(self.concurrency) * self.factor + 1e-6).floor() as i32).max(1)
    }
}

/// Asks for a place, and gives back those in `given_back`. Returns also whether the source's share is whole.
///
/// # Errors
/// If the database refuses; then nothing is given back.
pub async fn enter(
    conn: &mut PgConnection,
    caller: &Caller,
    live: bool,
    given_back: &[i64],
) -> sqlx::Result<(Entry, bool)> {
    let row = sqlx::query!(
        r#"SELECT permit, wait_s, is_whole AS "is_whole!", is_next AS "is_next!" FROM harvest.enter_source($1, $2, $3, $4, $5, $6, $7)"#,
        caller.source,
        caller.holder,
        live,
        given_back,
        caller.concurrency,
        caller.per_second,
        LEASE.as_secs_f64()
    )
    .fetch_one(conn)
    .await?;
    let wait = row
        .wait_s
        .map(|wait_s| Duration::try_from_secs_f64(wait_s).unwrap_or_default());
    let entry = match (row.permit, wait) {
        (Some(permit), wait) => Entry::Granted {
            permit,
            wait: wait.unwrap_or_default(),
        },
        (None, Some(wait)) => Entry::NotBefore(wait),
        (None, None) => Entry::Full { next: row.is_next },
    };
    Ok((entry, row.is_whole))
}

/// Gives places back.
///
/// # Errors
/// If the database refuses.
pub async fn leave(conn: impl PgExecutor<'_>, permits: &[i64]) -> sqlx::Result<()> {
    sqlx::query!(
        "DELETE FROM harvest.source_permits
         WHERE id = ANY ($1) AND set_config('synchronous_commit', 'off', true) IS NOT NULL",
        permits
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Renews places. Those that have expired are lost, and stay so.
///
/// # Errors
/// If the database refuses.
pub async fn renew(conn: impl PgExecutor<'_>, permits: &[i64]) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.source_permits SET expires_at = clock_timestamp() + make_interval(secs => $2)
         WHERE id = ANY ($1) AND expires_at > clock_timestamp() + interval '1 second'
           AND set_config('synchronous_commit', 'off', true) IS NOT NULL",
        permits,
        LEASE.as_secs_f64()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Why the share falls, and by how much.
#[derive(Debug, Clone)]
pub struct Signal {
    /// What the share is multiplied by.
    pub by: f64,
    /// It falls no lower than this for this reason.
    pub floor: f64,
    /// How long ago the request was sent: of requests that were under way together one lowers the share.
    pub sent_ago: Duration,
    /// How long no request is to begin.
    pub hold: Duration,
    /// The reason.
    pub why: String,
}

/// Lowers a source's share, and holds its requests back. Returns how it stands then, if it fell.
///
/// # Errors
/// If the database refuses.
pub async fn lower(
    conn: &mut PgConnection,
    source: &str,
    signal: &Signal,
) -> sqlx::Result<Option<Pace>> {
    let row = sqlx::query!(
        r#"UPDATE harvest.source_pace p
           SET held_until = CASE WHEN $5::float8 > 0 THEN greatest(p.held_until, clock_timestamp() + make_interval(secs => $5)) ELSE p.held_until END,
               factor = CASE WHEN new.falls THEN new.factor ELSE p.factor END,
               lowered_at = CASE WHEN new.falls THEN clock_timestamp() ELSE p.lowered_at END,
               raised_at = CASE WHEN new.falls THEN clock_timestamp() ELSE p.raised_at END,
               held_since = CASE WHEN new.falls THEN coalesce(p.held_since, clock_timestamp()) ELSE p.held_since END,
               why = CASE WHEN new.falls THEN $6 ELSE p.why END
           FROM (SELECT source, least(factor, greatest(factor * $2, $3)) AS factor,
                        coalesce(lowered_at < clock_timestamp() - greatest(make_interval(secs => $4), interval '1 second'), true)
                        AND factor > $3 AS falls
                 FROM harvest.source_pace WHERE source = $1 FOR NO KEY UPDATE) AS new
           WHERE p.source = new.source
           RETURNING p.concurrency, p.requests_per_second, p.factor, p.why, p.held_since, nullif(p.held_until, '-infinity') AS held_until,
                     new.falls AS "falls!""#,
        source,
        signal.by,
        signal.floor,
        signal.sent_ago.as_secs_f64(),
        signal.hold.as_secs_f64(),
        signal.why
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.filter(|row| row.falls).map(|row| Pace {
        concurrency: row.concurrency,
        requests_per_second: row.requests_per_second,
        factor: row.factor,
        why: row.why,
        held_since: row.held_since,
        held_until: row.held_until,
        under_way: 0,
    }))
}

/// Raises a source's share after good answers, as much as the time since it was last raised allows. Returns the share, if
/// it rose.
///
/// # Errors
/// If the database refuses.
pub async fn raise(conn: &mut PgConnection, source: &str) -> sqlx::Result<Option<f64>> {
    sqlx::query_scalar!(
        "UPDATE harvest.source_pace p
         SET factor = new.factor, raised_at = clock_timestamp(), held_since = CASE WHEN new.factor < 1 THEN p.held_since END
         FROM (SELECT source, least(1, factor + least(extract(epoch FROM clock_timestamp() - raised_at)::float8, $3) / $2) AS factor
               FROM harvest.source_pace
               WHERE source = $1 AND factor < 1 AND held_until < clock_timestamp() AND raised_at < clock_timestamp() - interval '0.5 seconds'
               FOR NO KEY UPDATE) AS new
         WHERE p.source = new.source
         RETURNING p.factor",
        source,
        RECOVERY_S,
        LONGEST_CREDIT_S
    )
    .fetch_optional(conn)
    .await
}

/// How a source's pace stands; `None` if it was never asked.
///
/// # Errors
/// If the database refuses.
pub async fn present(conn: &mut PgConnection, source: &str) -> sqlx::Result<Option<Pace>> {
    let row = sqlx::query!(
        r#"SELECT concurrency, requests_per_second, factor, why, held_since,
                  CASE WHEN held_until > clock_timestamp() THEN held_until END AS held_until,
                  (SELECT count(*) FROM harvest.source_permits q WHERE q.source = p.source AND q.expires_at > clock_timestamp())
                  AS "under_way!"
           FROM harvest.source_pace p WHERE source = $1"#,
        source
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Pace {
        concurrency: row.concurrency,
        requests_per_second: row.requests_per_second,
        factor: row.factor,
        why: row.why,
        held_since: row.held_since,
        held_until: row.held_until,
        under_way: row.under_way,
    }))
}
