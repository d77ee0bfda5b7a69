//! What verification reads and keeps: what is stored hour by hour, verdicts, and traces that were taken out.

use chrono::{DateTime, Utc};
use futures::StreamExt;
use sqlx::{PgConnection, postgres::types::PgRange};

use super::{Holder, at, baselines, range};
use crate::window::Window;

/// What is stored of a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// Traces that start in it.
    pub traces: i64,
    /// Of these, traces without a root.
    pub rootless: i64,
    /// Traces with a root, as Tempo counts: its intervals include their last instant and not their first.
    pub counted_alike: i64,
}

/// What is stored of each of these windows, in their order.
///
/// # Errors
/// If the database refuses.
pub async fn stored(
    conn: &mut PgConnection,
    dataset: &str,
    windows: &[Window],
) -> sqlx::Result<Vec<Stored>> {
    let (starts, ends): (Vec<i64>, Vec<i64>) = windows
        .iter()
        .map(|window| (window.start(), window.end()))
        .unzip();
    sqlx::query_as!(
        Stored,
        r#"SELECT count(t.trace_id) FILTER (WHERE t.start_ns < w.end_s * 1000000000) AS "traces!",
                  count(t.trace_id) FILTER (WHERE t.start_ns < w.end_s * 1000000000 AND t.root_service IS NULL AND t.root_name IS NULL)
                      AS "rootless!",
                  count(t.trace_id) FILTER (WHERE t.start_ns > w.start_s * 1000000000 AND t.start_ns <= w.end_s * 1000000000
                                              AND (t.root_service IS NOT NULL OR t.root_name IS NOT NULL)) AS "counted_alike!"
           FROM unnest($2::bigint[], $3::bigint[]) WITH ORDINALITY AS w (start_s, end_s, place)
           LEFT JOIN harvest.traces t ON t.dataset = $1 AND t.started_at >= to_timestamp(w.start_s) AND t.started_at <= to_timestamp(w.end_s)
           GROUP BY w.place ORDER BY w.place"#,
        dataset,
        &starts,
        &ends
    )
    .fetch_all(conn)
    .await
}

/// The IDs of the traces stored that start in a window.
///
/// # Errors
/// If the database refuses.
pub async fn ids(
    conn: &mut PgConnection,
    dataset: &str,
    window: Window,
) -> sqlx::Result<Vec<[u8; 16]>> {
    let ids = sqlx::query_scalar!(
        "SELECT trace_id FROM harvest.traces WHERE dataset = $1 AND started_at >= $2 AND started_at < $3",
        dataset,
        at(window.start()),
        at(window.end())
    )
    .fetch_all(conn)
    .await?;
    Ok(ids
        .into_iter()
        .filter_map(|id| id.try_into().ok())
        .collect())
}

/// Of these traces the ones that are not stored, whatever their start.
///
/// # Errors
/// If the database refuses.
pub async fn absent(
    conn: &mut PgConnection,
    dataset: &str,
    ids: &[[u8; 16]],
) -> sqlx::Result<Vec<[u8; 16]>> {
    let ids: Vec<Vec<u8>> = ids.iter().map(|id| id.to_vec()).collect();
    let absent = sqlx::query_scalar!(
        r#"SELECT asked.trace_id AS "trace_id!" FROM unnest($2::bytea[]) AS asked (trace_id)
           WHERE NOT EXISTS (SELECT FROM harvest.traces t WHERE t.dataset = $1 AND t.trace_id = asked.trace_id)"#,
        dataset,
        &ids
    )
    .fetch_all(conn)
    .await?;
    Ok(absent
        .into_iter()
        .filter_map(|id| id.try_into().ok())
        .collect())
}

/// A moment at which a trace with a root starts that is stored, the nearest before another moment, or the first after it.
///
/// # Errors
/// If the database refuses.
pub async fn near(
    conn: &mut PgConnection,
    dataset: &str,
    second: i64,
    oldest: i64,
    youngest: i64,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(
               (SELECT t.started_at FROM harvest.traces t
                WHERE t.dataset = $1 AND t.started_at < $2 AND t.started_at >= $3 AND t.root_service IS NOT NULL
                ORDER BY t.started_at DESC LIMIT 1),
               (SELECT t.started_at FROM harvest.traces t
                WHERE t.dataset = $1 AND t.started_at >= $2 AND t.started_at < $4 AND t.root_service IS NOT NULL
                ORDER BY t.started_at LIMIT 1)) AS started_at"#,
        dataset,
        at(second),
        at(oldest),
        at(youngest)
    )
    .fetch_one(conn)
    .await
}

/// A verdict on an hour, or a part of one.
#[derive(Debug, Clone)]
pub struct Verdict<'a> {
    /// What was verified; it lies within one hour.
    pub window: Window,
    /// The verdict.
    pub verdict: &'a str,
    /// Traces stored.
    pub stored: i64,
    /// Traces stored without a root.
    pub rootless: i64,
    /// Traces in Tempo.
    pub in_tempo: Option<i64>,
    /// Traces in Tempo and not here.
    pub missing: i64,
    /// Traces here and not in Tempo.
    pub more_here: i64,
    /// Why it is no more than that.
    pub reason: Option<&'a str>,
}

/// Keeps a verdict in the place of an earlier one, unless that was on more of the hour.
///
/// # Errors
/// If the database refuses.
pub async fn keep(
    conn: &mut PgConnection,
    dataset: &str,
    depth: &str,
    verdict: &Verdict<'_>,
    now: DateTime<Utc>,
    holder: &Holder,
) -> sqlx::Result<()> {
    let hour = at(verdict.window.start().div_euclid(3_600) * 3_600);
    sqlx::query!(
        "INSERT INTO harvest.verdicts AS v (dataset, hour, depth, span, verdict, stored, rootless, in_tempo, missing, more_here, reason,
                                            verified_at, verified_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT (dataset, hour, depth) DO UPDATE SET
             span = excluded.span, verdict = excluded.verdict, stored = excluded.stored, rootless = excluded.rootless,
             in_tempo = excluded.in_tempo, missing = excluded.missing, more_here = excluded.more_here, reason = excluded.reason,
             verified_at = excluded.verified_at, verified_by = excluded.verified_by
         WHERE excluded.span @> v.span",
        dataset,
        hour,
        depth,
        range(verdict.window) as PgRange<DateTime<Utc>>,
        verdict.verdict,
        verdict.stored,
        verdict.rootless,
        verdict.in_tempo,
        verdict.missing,
        verdict.more_here,
        verdict.reason,
        now,
        holder.as_str()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Hours of a dataset that were verified, by depth and verdict.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// counts or deep.
    pub depth: String,
    /// The verdict.
    pub verdict: String,
    /// Hours with it.
    pub hours: i64,
    /// When the last of them was verified.
    pub last_at: DateTime<Utc>,
}

/// How the hours of a dataset stand that were verified and are still kept here.
///
/// # Errors
/// If the database refuses.
pub async fn verified(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Vec<Verified>> {
    sqlx::query_as!(
        Verified,
        r#"SELECT v.depth, v.verdict, count(*) AS "hours!", max(v.verified_at) AS "last_at!"
           FROM harvest.verdicts v JOIN harvest.datasets d ON d.name = v.dataset
           WHERE v.dataset = $1 AND (d.deleted_before IS NULL OR lower(v.span) >= d.deleted_before)
           GROUP BY v.depth, v.verdict ORDER BY v.depth DESC, v.verdict"#,
        dataset
    )
    .fetch_all(conn)
    .await
}

/// Forgets the verdicts on a dataset: what it is a collection of has changed.
///
/// # Errors
/// If the database refuses.
pub async fn forget(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<()> {
    sqlx::query!("DELETE FROM harvest.verdicts WHERE dataset = $1", dataset)
        .execute(conn)
        .await?;
    Ok(())
}

/// Takes traces, with their spans, out of what is stored, and keeps them aside. Returns how many there were.
///
/// # Errors
/// If the database refuses.
pub async fn set_aside(
    conn: &mut PgConnection,
    dataset: &str,
    ids: &[[u8; 16]],
    holder: &Holder,
) -> sqlx::Result<i64> {
    let ids: Vec<Vec<u8>> = ids.iter().map(|id| id.to_vec()).collect();
    let removed = sqlx::query_scalar!(
        r#"WITH spans AS (
               DELETE FROM harvest.spans s WHERE s.dataset = $1 AND s.trace_id = ANY ($2) RETURNING s.*
           ), traces AS (
               DELETE FROM harvest.traces t WHERE t.dataset = $1 AND t.trace_id = ANY ($2) RETURNING t.*
           ), kept AS (
               INSERT INTO harvest.removed_traces (dataset, trace_id, removed_by, trace, spans)
               SELECT $1, traces.trace_id, $3, to_jsonb(traces),
                      (SELECT jsonb_agg(to_jsonb(spans)) FROM spans WHERE spans.trace_id = traces.trace_id)
               FROM traces
           ), counted AS (
               UPDATE harvest.datasets d
               SET trace_count = greatest(0, d.trace_count - (SELECT count(*) FROM traces)),
                   span_count = greatest(0, d.span_count - (SELECT count(*) FROM spans))
               WHERE d.name = $1
           )
           SELECT count(*) AS "removed!" FROM traces"#,
        dataset,
        &ids,
        holder.as_str()
    )
    .fetch_one(&mut *conn)
    .await?;
    if removed > 0 {
        baselines::ask_for_recount(conn, dataset).await?;
    }
    Ok(removed)
}

/// Deletes the spans of traces that are not stored themselves: they would stand in the way of storing the traces again. Returns how
/// many there were.
///
/// # Errors
/// If the database refuses.
pub async fn drop_orphans(
    conn: &mut PgConnection,
    dataset: &str,
    ids: &[[u8; 16]],
) -> sqlx::Result<i64> {
    let ids: Vec<Vec<u8>> = ids.iter().map(|id| id.to_vec()).collect();
    sqlx::query_scalar!(
        r#"WITH gone AS (
               DELETE FROM harvest.spans s
               WHERE s.dataset = $1 AND s.trace_id = ANY ($2)
                 AND NOT EXISTS (SELECT FROM harvest.traces t WHERE t.dataset = $1 AND t.trace_id = s.trace_id)
               RETURNING s.span_id
           ), counted AS (
               UPDATE harvest.datasets d SET span_count = greatest(0, d.span_count - (SELECT count(*) FROM gone)) WHERE d.name = $1
           )
           SELECT count(*) AS "gone!" FROM gone"#,
        dataset,
        &ids
    )
    .fetch_one(conn)
    .await
}

/// The statement that copies out the rows of a window as a digest takes them: tab-separated, ascending by ID, as text.
/// Anyone can run it in psql.
///
/// # Errors
/// If the database refuses.
pub async fn rows_statement(
    conn: &mut PgConnection,
    dataset: &str,
    window: Window,
) -> sqlx::Result<String> {
    sqlx::query_scalar!(
        r#"SELECT format('COPY (SELECT encode(trace_id, ''hex''), start_ns, end_ns, root_service, root_name FROM harvest.traces '
               'WHERE dataset = %L AND started_at >= to_timestamp(%s) AND started_at < to_timestamp(%s) ORDER BY trace_id) TO STDOUT',
               $1::text, $2::bigint, $3::bigint) AS "statement!""#,
        dataset,
        window.start(),
        window.end()
    )
    .fetch_one(conn)
    .await
}

/// Copies out what a statement says, piece by piece; returns how many bytes there were.
///
/// # Errors
/// If the database refuses.
pub async fn copy_out(
    conn: &mut PgConnection,
    statement: &str,
    mut take: impl FnMut(&[u8]),
) -> sqlx::Result<u64> {
    let mut stream = conn.copy_out_raw(statement).await?;
    let mut bytes = 0;
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        take(&piece);
        bytes += piece.len() as u64;
    }
    Ok(bytes)
}

/// A run that had to do with a range, and the sums over its windows, those that are deleted by now included.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunSums {
    /// Its number.
    pub run: i64,
    /// backfill, poll, repair or refetch.
    pub kind: String,
    /// When it was submitted.
    pub submitted_at: DateTime<Utc>,
    /// When its last window was done; `None`: none was.
    pub last_done_at: Option<DateTime<Utc>>,
    /// Windows fetched and stored.
    pub windows: i64,
    /// Windows that were cut into pieces.
    pub splits: i64,
    /// Requests to Tempo.
    pub requests: i64,
    /// Attempts that failed and were made again.
    pub retries: i64,
    /// Traces in the answers that counted.
    pub traces: i64,
}

/// The runs of a dataset whose range overlaps a window, by number.
///
/// # Errors
/// If the database refuses.
pub async fn runs(
    conn: &mut PgConnection,
    dataset: &str,
    window: Window,
) -> sqlx::Result<Vec<RunSums>> {
    sqlx::query_as!(
        RunSums,
        r#"SELECT r.id AS "run!", r.kind AS "kind!", r.submitted_at AS "submitted_at!", f.last_done_at, f.windows_done AS "windows!",
                  f.splits AS "splits!", f.requests AS "requests!", f.retries AS "retries!", f.traces_returned AS "traces!"
           FROM harvest.runs r JOIN harvest.run_figures f ON f.run_id = r.id
           WHERE r.dataset = $1 AND r.requested && $2 AND f.windows_done > 0
           ORDER BY r.id"#,
        dataset,
        range(window) as PgRange<DateTime<Utc>>
    )
    .fetch_all(conn)
    .await
}

/// The last tick of the job's [verify] that a process has taken on.
///
/// # Errors
/// If the database refuses.
pub async fn scheduled_at(
    conn: &mut PgConnection,
    job: &str,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        "SELECT verify_scheduled_at FROM harvest.jobs WHERE name = $1",
        job
    )
    .fetch_optional(conn)
    .await
    .map(Option::flatten)
}

/// Takes on a tick of the job's [verify], unless another process has taken on this one or a later one, or the job is paused.
/// Returns whether it is this process's.
///
/// # Errors
/// If the database refuses.
pub async fn take_on(
    conn: &mut PgConnection,
    job: &str,
    tick: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let taken = sqlx::query!(
        "UPDATE harvest.jobs SET verify_scheduled_at = $2
         WHERE name = $1 AND paused_at IS NULL AND (verify_scheduled_at IS NULL OR verify_scheduled_at < $2)",
        job,
        tick
    )
    .execute(conn)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Deletes what is kept aside, and the verdicts, of what started before a second.
///
/// # Errors
/// If the database refuses.
pub async fn forget_before(
    conn: &mut PgConnection,
    dataset: &str,
    before_s: i64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "DELETE FROM harvest.removed_traces WHERE dataset = $1 AND (trace->>'start_ns')::bigint < $2::bigint * 1000000000",
        dataset,
        before_s
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "DELETE FROM harvest.verdicts WHERE dataset = $1 AND upper(span) <= $2",
        dataset,
        at(before_s)
    )
    .execute(conn)
    .await?;
    Ok(())
}
