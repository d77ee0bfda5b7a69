//! How far each dataset's baselines are, and how its job wants them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{begin_of, quarter_at};
use crate::baseline::slot::QUARTER_S;

/// How a job wants its dataset's baselines computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish<'a> {
    /// By whose clocks.
    pub timezone: &'a str,
    /// How far back, and how often, seconds; `None` without [baseline].
    pub history_and_every_s: Option<(i64, i64)>,
}

/// Records how a job wants its dataset's baselines computed.
///
/// # Errors
/// If the database refuses.
pub async fn record(conn: &mut PgConnection, job: &str, wish: &Wish<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.jobs SET baseline_timezone = $2, baseline_history_s = $3, baseline_every_s = $4 WHERE name = $1",
        job,
        wish.timezone,
        wish.history_and_every_s.map(|(history_s, _)| history_s),
        wish.history_and_every_s.map(|(_, every_s)| every_s)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Datasets whose baselines are behind what is stored or deleted, or computed in another way than is wished, and were last
/// computed as long ago as is to lie between.
///
/// # Errors
/// If the database refuses.
pub async fn due(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"SELECT d.dataset AS "dataset!"
           FROM harvest.baseline_settings d JOIN harvest.datasets kept ON kept.name = d.dataset
           LEFT JOIN harvest.baseline_states s ON s.dataset = d.dataset
           WHERE (s.computed_at IS NULL OR s.computed_at <= clock_timestamp() - make_interval(secs => d.every_s)
                  OR s.computed_at > clock_timestamp())
             AND (s.recount OR (s.timezone, s.history_s) IS DISTINCT FROM (d.timezone, d.history_s)
                  OR s.counted_from < kept.deleted_before
                  OR EXISTS (SELECT FROM harvest.baseline_changes c WHERE c.dataset = d.dataset))
           ORDER BY d.dataset"#
    )
    .fetch_all(conn)
    .await
}

/// Where a dataset's baselines stand, and how they are to be computed.
#[derive(Debug, Clone)]
pub struct State {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// By whose clocks they are to be computed.
    pub timezone: String,
    /// How far back they are to look, seconds.
    pub history_s: i64,
    /// By whose clocks they are computed.
    pub timezone_before: Option<String>,
    /// How far back they look, seconds.
    pub history_before_s: Option<i64>,
    /// Everything is to be counted anew.
    pub recount: bool,
    /// The first quarter of an hour that is counted.
    pub counted_from: Option<i64>,
    /// The first quarter of an hour of which retention has deleted nothing.
    pub kept_from: Option<i64>,
    /// Whether spans are stored.
    pub has_spans: bool,
}

/// Where a dataset's baselines stand; `None` if there is no such dataset.
///
/// # Errors
/// If the database refuses.
pub async fn state(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Option<State>> {
    let row = sqlx::query!(
        r#"SELECT clock_timestamp() AS "now!", w.timezone AS "timezone!", w.history_s AS "history_s!", s.timezone AS "timezone_before?",
                  s.history_s AS "history_before_s?", coalesce(s.recount, false) AS "recount!", s.counted_from AS "counted_from?",
                  d.deleted_before, d.span_count > 0 AS "has_spans!"
           FROM harvest.datasets d
           JOIN harvest.baseline_settings w ON w.dataset = d.name
           LEFT JOIN harvest.baseline_states s ON s.dataset = d.name
           WHERE d.name = $1"#,
        dataset
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| State {
        now: row.now,
        timezone: row.timezone,
        history_s: row.history_s,
        timezone_before: row.timezone_before,
        history_before_s: row.history_before_s,
        recount: row.recount,
        counted_from: row.counted_from.map(quarter_at),
        kept_from: row
            .deleted_before
            .map(|before| -(-before.timestamp()).div_euclid(QUARTER_S)),
        has_spans: row.has_spans,
    }))
}

/// Notes where a dataset's baselines stand now. `counted` are the first quarter of an hour counted and the one after the last.
///
/// # Errors
/// If the database refuses.
pub async fn put_state(
    conn: &mut PgConnection,
    dataset: &str,
    state: &State,
    counted: Option<(i64, i64)>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO harvest.baseline_states (dataset, recount, timezone, history_s, counted_from, counted_to, computed_at)
         VALUES ($1, false, $2, $3, $4, $5, $6)
         ON CONFLICT (dataset) DO UPDATE SET recount = false, timezone = excluded.timezone, history_s = excluded.history_s,
             counted_from = excluded.counted_from, counted_to = excluded.counted_to, computed_at = excluded.computed_at",
        dataset,
        state.timezone,
        state.history_s,
        counted.map(|(from, _)| begin_of(from)),
        counted.map(|(_, to)| begin_of(to)),
        state.now
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Has everything counted anew by the next pass.
///
/// # Errors
/// If the database refuses.
pub async fn ask_for_recount(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO harvest.baseline_states (dataset, recount) VALUES ($1, true) ON CONFLICT (dataset) DO UPDATE SET recount = true",
        dataset
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What the baselines of a dataset are computed from.
#[derive(Debug, Clone)]
pub struct Standing {
    /// `trace`, `services` or `spans`.
    pub detail: String,
    /// By whose clocks hours and weekends are counted.
    pub timezone: String,
    /// What started earlier is not counted; `None`: nothing is.
    pub counted_from: Option<DateTime<Utc>>,
    /// End of the quarter of an hour that the newest of them started in.
    pub counted_to: Option<DateTime<Utc>>,
    /// When they were last brought up to date.
    pub computed_at: Option<DateTime<Utc>>,
}

/// What the baselines of a dataset are computed from; `None` if there is no such dataset or they were never computed.
///
/// # Errors
/// If the database refuses.
pub async fn standing(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Option<Standing>> {
    sqlx::query_as!(
        Standing,
        r#"SELECT d.detail, coalesce(s.timezone, 'UTC') AS "timezone!", s.counted_from, s.counted_to, s.computed_at
           FROM harvest.datasets d JOIN harvest.baseline_states s ON s.dataset = d.name WHERE d.name = $1"#,
        dataset
    )
    .fetch_optional(conn)
    .await
}
