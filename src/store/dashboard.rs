//! What the dashboard reads beside [`super::report`]: what was done lately, what waits, and what went wrong.
//!
//! Every statement here is bounded by an index or a limit: the ledger keeps a week of windows and requests, which may be a
//! million of each.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::range;
use crate::window::Window;

/// A transaction that sees one moment of the ledger, and can change nothing.
///
/// # Errors
/// If the database refuses.
pub async fn read(pool: &PgPool) -> sqlx::Result<Transaction<'static, Postgres>> {
    let mut tx = pool
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    // Compiling these statements takes longer than running them.
    sqlx::query("SET LOCAL jit = off").execute(&mut *tx).await?;
    Ok(tx)
}

/// What was stored in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stored {
    /// When the stretch began.
    pub at: DateTime<Utc>,
    /// Windows that were done in it.
    pub windows: i64,
    /// Traces that were stored for the first time.
    pub new: i64,
    /// Traces in the answers.
    pub returned: i64,
}

/// What was stored from `since` on, of all datasets or of one, in stretches of `step`; those without anything left out.
///
/// # Errors
/// If the database refuses.
pub async fn stored(
    conn: &mut PgConnection,
    dataset: Option<&str>,
    since: DateTime<Utc>,
    step: TimeDelta,
) -> sqlx::Result<Vec<Stored>> {
    sqlx::query_as!(
        Stored,
        r#"SELECT date_bin(make_interval(secs => $3), w.finished_at, $2) AS "at!", count(*) AS "windows!",
                  sum(w.stored_new)::bigint AS "new!", sum(w.returned)::bigint AS "returned!"
           FROM harvest.datasets d
           JOIN harvest.windows w ON w.dataset = d.name AND w.state = 'done' AND w.finished_at >= $2
           WHERE $1::text IS NULL OR d.name = $1
           GROUP BY 1 ORDER BY 1"#,
        dataset,
        since,
        step.num_seconds() as f64
    )
    .fetch_all(conn)
    .await
}

/// What was asked in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked {
    /// When the stretch began.
    pub at: DateTime<Utc>,
    /// Requests that were over in it.
    pub requests: i64,
    /// Of these, such that failed. A refusal that names a limit is no failure, but how limits are learned.
    pub failed: i64,
    /// Of these, searches whose answer did not count, as `stats` and `/metrics` have it.
    pub thrown_away: i64,
    /// The fullest answer to a search that counted: its traces as a share of the most that one may bring, whatever was asked
    /// for; `None` without any.
    pub fullest: Option<f64>,
    /// The median of that share.
    pub usual: Option<f64>,
    /// The median of how long a request took, milliseconds.
    pub usual_ms: Option<i32>,
}

/// What was asked from `since` on, for all datasets or for one, in stretches of `step`; those without requests left out.
///
/// # Errors
/// If the database refuses.
pub async fn asked(
    conn: &mut PgConnection,
    dataset: Option<&str>,
    since: DateTime<Utc>,
    step: TimeDelta,
) -> sqlx::Result<Vec<Asked>> {
    sqlx::query_as!(
        Asked,
        r#"SELECT date_bin(make_interval(secs => $3), f.at, $2) AS "at!", count(*) AS "requests!",
                  count(*) FILTER (WHERE f.outcome NOT IN ('complete', 'cut', 'limit', 'too_large', 'unusable')) AS "failed!",
                  count(*) FILTER (WHERE f.thrown_away) AS "thrown_away!",
                  max(share.of_limit) AS fullest,
                  percentile_disc(0.5) WITHIN GROUP (ORDER BY share.of_limit) AS usual,
                  percentile_disc(0.5) WITHIN GROUP (ORDER BY f.duration_ms) AS usual_ms
           FROM harvest.datasets d
           JOIN harvest.fetches f ON f.dataset = d.name AND f.at >= $2
           CROSS JOIN LATERAL (SELECT CASE WHEN NOT f.thrown_away THEN f.limit_share END AS of_limit) share
           WHERE $1::text IS NULL OR d.name = $1
           GROUP BY 1 ORDER BY 1"#,
        dataset,
        since,
        step.num_seconds() as f64
    )
    .fetch_all(conn)
    .await
}

/// Answers of one class that did not count.
#[derive(Debug, Clone, PartialEq)]
pub struct Wrong {
    /// The Tempo asked.
    pub source: String,
    /// The outcome, as the ledger calls it.
    pub outcome: String,
    /// How many.
    pub requests: i64,
    /// When the last came.
    pub last_at: DateTime<Utc>,
    /// What went wrong then.
    pub last_error: Option<String>,
}

/// Answers that did not count, from `since` on, by class, the latest first.
///
/// # Errors
/// If the database refuses.
pub async fn wrong(
    conn: &mut PgConnection,
    dataset: Option<&str>,
    since: DateTime<Utc>,
) -> sqlx::Result<Vec<Wrong>> {
    sqlx::query_as!(
        Wrong,
        r#"SELECT source, outcome, count(*) AS "requests!", max(at) AS "last_at!",
                  (array_agg(left(error, 500) ORDER BY at DESC))[1] AS last_error
           FROM harvest.fetches
           WHERE outcome <> 'complete' AND at >= $2 AND ($1::text IS NULL OR dataset = $1)
           GROUP BY source, outcome ORDER BY max(at) DESC"#,
        dataset,
        since
    )
    .fetch_all(conn)
    .await
}

/// A Tempo, as far as asking it goes.
#[derive(Debug, Clone)]
pub struct SourceState {
    /// Its name.
    pub name: String,
    /// When it last answered a search.
    pub last_success_at: Option<DateTime<Utc>>,
    /// What came of the last request to it; `None` if none is kept.
    pub last: Option<LastRequest>,
    /// Windows that could be fetched now.
    pub due: i64,
    /// Windows that wait until later.
    pub later: i64,
    /// Of both, such that a paused job or run holds back.
    pub paused: i64,
    /// Windows being fetched.
    pub running: i64,
    /// Processes that fetch them.
    pub holders: i64,
    /// Since when the window that has waited longest could be fetched.
    pub waits_since: Option<DateTime<Utc>>,
}

/// The last request to a Tempo.
#[derive(Debug, Clone)]
pub struct LastRequest {
    /// When it was over.
    pub at: DateTime<Utc>,
    /// The outcome, as the ledger calls it.
    pub outcome: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// Every source with what waits for it.
///
/// # Errors
/// If the database refuses.
pub async fn sources(conn: &mut PgConnection) -> sqlx::Result<Vec<SourceState>> {
    let rows = sqlx::query!(
        r#"SELECT s.name, s.last_success_at, last.at AS "last_at?", last.outcome AS "last_outcome?", last.error AS "last_error?",
                  coalesce(open.due, 0) AS "due!", coalesce(open.later, 0) AS "later!", coalesce(open.paused, 0) AS "paused!",
                  coalesce(open.running, 0) AS "running!", coalesce(open.holders, 0) AS "holders!", open.waits_since
           FROM harvest.sources s
           LEFT JOIN LATERAL (
               SELECT f.at, f.outcome, left(f.error, 500) AS error
               FROM harvest.datasets d
               CROSS JOIN LATERAL (SELECT at, outcome, error FROM harvest.fetches
                                   WHERE dataset = d.name AND source = s.name ORDER BY at DESC LIMIT 1) f
               WHERE d.source = s.name ORDER BY f.at DESC LIMIT 1
           ) last ON true
           LEFT JOIN (
               SELECT w.source, count(*) FILTER (WHERE state = 'queued' AND next_try_at <= now()) AS due,
                      count(*) FILTER (WHERE state = 'queued' AND next_try_at > now()) AS later,
                      count(*) FILTER (WHERE state = 'queued' AND p.run_id IS NOT NULL) AS paused,
                      count(*) FILTER (WHERE state = 'running') AS running,
                      count(DISTINCT lease_holder) FILTER (WHERE state = 'running') AS holders,
                      min(next_try_at) FILTER (WHERE state = 'queued' AND next_try_at <= now() AND p.run_id IS NULL) AS waits_since
               FROM harvest.windows w LEFT JOIN harvest.paused_runs p ON p.run_id = w.run_id
               WHERE w.state IN ('queued', 'running') GROUP BY w.source
           ) open ON open.source = s.name
           ORDER BY s.name"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| SourceState {
            name: row.name,
            last_success_at: row.last_success_at,
            last: row
                .last_at
                .zip(row.last_outcome)
                .map(|(at, outcome)| LastRequest {
                    at,
                    outcome,
                    error: row.last_error,
                }),
            due: row.due,
            later: row.later,
            paused: row.paused,
            running: row.running,
            holders: row.holders,
            waits_since: row.waits_since,
        })
        .collect())
}

/// A run, and how far it is.
#[derive(Debug, Clone)]
pub struct RunState {
    /// Its number.
    pub id: i64,
    /// Its job.
    pub job: String,
    /// The dataset it fills.
    pub dataset: String,
    /// backfill, poll, repair or refetch.
    pub kind: String,
    /// open, complete, failed or cancelled.
    pub state: String,
    /// Whether it or its job is paused.
    pub paused: bool,
    /// The first second asked for.
    pub from: DateTime<Utc>,
    /// The end of what was asked for; a poll's grows.
    pub to: DateTime<Utc>,
    /// When it was submitted.
    pub submitted_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The error it ended with.
    pub error: Option<String>,
    /// How far it is; `None` for a poll, which goes on for ever.
    pub progress: Option<RunProgress>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunProgress {
    /// Windows done.
    pub windows_done: i64,
    /// Windows queued or being fetched.
    pub windows_open: i64,
    /// Windows that rest as failed.
    pub windows_failed: i64,
    /// Seconds done.
    pub done_s: i64,
    /// Seconds open.
    pub open_s: i64,
    /// Traces that were stored for the first time.
    pub new: i64,
    /// Seconds done within the last [`RATE_OF`].
    pub lately_s: i64,
}

/// What is done in so long a time says when the rest will be.
pub const RATE_OF: TimeDelta = TimeDelta::minutes(5);

/// The open runs and the latest of the others, of all datasets or of one, the open and then the latest first.
///
/// # Errors
/// If the database refuses.
pub async fn runs(
    conn: &mut PgConnection,
    dataset: Option<&str>,
    most: i64,
) -> sqlx::Result<Vec<RunState>> {
    let rows = sqlx::query!(
        r#"SELECT r.id, r.job, r.dataset, r.kind, r.state, lower(r.requested) AS "from!", upper(r.requested) AS "to!",
                  r.submitted_at, r.finished_at, left(r.error, 500) AS error,
                  EXISTS (SELECT FROM harvest.paused_runs p WHERE p.run_id = r.id) AS "paused!"
           FROM harvest.runs r
           WHERE $1::text IS NULL OR r.dataset = $1
           ORDER BY r.state = 'open' DESC, r.kind = 'poll', r.id DESC LIMIT $2"#,
        dataset,
        most
    )
    .fetch_all(&mut *conn)
    .await?;
    let measured: Vec<i64> = rows
        .iter()
        .filter(|row| row.kind != "poll")
        .map(|row| row.id)
        .collect();
    let figures = sqlx::query!(
        r#"SELECT f.run_id AS "run_id!", f.windows_done AS "windows_done!", f.windows_open AS "windows_open!",
                  f.windows_failed AS "windows_failed!", f.done_s AS "done_s!", f.open_s AS "open_s!", f.traces_new AS "new!",
                  (SELECT coalesce(sum(extract(epoch FROM upper(w.span) - lower(w.span))), 0)::bigint FROM harvest.windows w
                   WHERE w.run_id = f.run_id AND w.state = 'done' AND w.finished_at > now() - make_interval(secs => $2)) AS "lately_s!"
           FROM harvest.run_figures f WHERE f.run_id = ANY($1)"#,
        &measured,
        RATE_OF.num_seconds() as f64
    )
    .fetch_all(conn)
    .await?;
    let progress_of = |id: i64| {
        let found = figures.iter().find(|figures| figures.run_id == id)?;
        Some(RunProgress {
            windows_done: found.windows_done,
            windows_open: found.windows_open,
            windows_failed: found.windows_failed,
            done_s: found.done_s,
            open_s: found.open_s,
            new: found.new,
            lately_s: found.lately_s,
        })
    };
    Ok(rows
        .into_iter()
        .map(|row| RunState {
            progress: progress_of(row.id),
            id: row.id,
            job: row.job,
            dataset: row.dataset,
            kind: row.kind,
            state: row.state,
            paused: row.paused,
            from: row.from,
            to: row.to,
            submitted_at: row.submitted_at,
            finished_at: row.finished_at,
            error: row.error,
        })
        .collect())
}

/// A window of the ledger.
#[derive(Debug, Clone)]
pub struct WindowRow {
    /// Its number.
    pub id: i64,
    /// Its run.
    pub run_id: i64,
    /// The window that it is a piece of.
    pub parent_id: Option<i64>,
    /// Its first second.
    pub from: DateTime<Utc>,
    /// Its end.
    pub to: DateTime<Utc>,
    /// fresh, settled or sealed.
    pub look: String,
    /// queued, running, split, done, failed or cancelled.
    pub state: String,
    /// Attempts that failed, refusals included.
    pub attempts: i32,
    /// Requests made for it.
    pub requests: i32,
    /// Traces in the answer that finished it.
    pub returned: i64,
    /// Of these, stored for the first time.
    pub new: i64,
    /// Not before.
    pub next_try_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Who holds it.
    pub holder: Option<String>,
    /// The class of its last error.
    pub error_class: Option<String>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// The windows of a dataset that have a second in a stretch, in order, at most so many.
///
/// # Errors
/// If the database refuses.
pub async fn windows_in(
    conn: &mut PgConnection,
    dataset: &str,
    stretch: Window,
    most: i64,
) -> sqlx::Result<Vec<WindowRow>> {
    sqlx::query_as!(
        WindowRow,
        r#"SELECT id, run_id, parent_id, lower(span) AS "from!", upper(span) AS "to!", look, state, attempts + throttled AS "attempts!",
                  requests, returned, stored_new AS new, next_try_at, finished_at, lease_holder AS holder, error_class,
                  left(last_error, 1000) AS error
           FROM harvest.windows WHERE dataset = $1 AND span && $2
           ORDER BY lower(span), upper(span) DESC, id LIMIT $3"#,
        dataset,
        range(stretch),
        most
    )
    .fetch_all(conn)
    .await
}

/// An operation, by how long its traces took.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Root service; `None`: the root was not received.
    pub service: Option<String>,
    /// Root operation.
    pub name: Option<String>,
    /// Traces.
    pub traces: i64,
    /// Of these, with an error; `None`: the detail does not tell.
    pub errors: Option<i64>,
    /// Median duration, milliseconds.
    pub p50_ms: i64,
    /// 95th percentile, milliseconds.
    pub p95_ms: i64,
    /// The longest, milliseconds.
    pub longest_ms: i64,
    /// Its 95th percentile by the baseline over everything, milliseconds; `None` without one.
    pub usual_p95_ms: Option<f64>,
}

/// The slowest root operations among the newest `traces` traces of a dataset, by their 95th percentile, at most so many.
///
/// # Errors
/// If the database refuses.
pub async fn slowest(
    conn: &mut PgConnection,
    dataset: &str,
    traces: i64,
    most: i64,
) -> sqlx::Result<Vec<Operation>> {
    sqlx::query_as!(
        Operation,
        r#"SELECT found.service, found.name, found.traces AS "traces!", found.errors, found.p50_ms AS "p50_ms!", found.p95_ms AS "p95_ms!",
                  found.longest_ms AS "longest_ms!", usual.p95_us / 1000.0::float8 AS usual_p95_ms
           FROM (SELECT root_service AS service, root_name AS name, count(*) AS traces,
                  count(*) FILTER (WHERE error_count > 0) * nullif(count(error_count) > 0, false)::int AS errors,
                  percentile_disc(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50_ms,
                  percentile_disc(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms,
                  max(duration_ms) AS longest_ms
           FROM (SELECT root_service, root_name, error_count, duration_ms FROM harvest.traces
                 WHERE dataset = $1 ORDER BY started_at DESC LIMIT $2) newest
           GROUP BY root_service, root_name ORDER BY p95_ms DESC, traces DESC LIMIT $3) found
           LEFT JOIN harvest.baseline_slots usual ON usual.dataset = $1 AND usual.subject = 'trace' AND usual.slot = 50
               AND usual.service = found.service AND usual.operation = found.name
           ORDER BY found.p95_ms DESC, found.traces DESC"#,
        dataset,
        traces,
        most
    )
    .fetch_all(conn)
    .await
}

/// What is usual for an operation in an hour of the day.
#[derive(Debug, Clone, PartialEq)]
pub struct UsualHour {
    /// Root service.
    pub service: String,
    /// Root operation.
    pub operation: String,
    /// Traces of the operation, of all hours.
    pub traces: i64,
    /// The hour, in the dataset's time zone: 0 to 23, and 24 to 47 for the weekend.
    pub slot: i16,
    /// Traces of this hour.
    pub samples: i64,
    /// Median duration, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, milliseconds.
    pub p95_ms: f64,
}

/// Baselines by hour of the day, of the operations of a dataset that have the most traces, in the order of these.
///
/// # Errors
/// If the database refuses.
pub async fn usual_hours(
    conn: &mut PgConnection,
    dataset: &str,
    operations: i64,
) -> sqlx::Result<Vec<UsualHour>> {
    sqlx::query_as!(
        UsualHour,
        r#"SELECT o.service, o.operation, o.samples AS traces, h.slot, h.samples,
                  h.p50_us / 1000.0::float8 AS "p50_ms!", h.p95_us / 1000.0::float8 AS "p95_ms!"
           FROM (SELECT service, operation, samples FROM harvest.baseline_slots
                 WHERE dataset = $1 AND subject = 'trace' AND slot = 50 ORDER BY samples DESC, service, operation LIMIT $2) o
           JOIN harvest.baseline_slots h ON h.dataset = $1 AND h.subject = 'trace' AND h.service = o.service
               AND h.operation = o.operation AND h.slot < 48
           ORDER BY o.samples DESC, o.service, o.operation, h.slot"#,
        dataset,
        operations
    )
    .fetch_all(conn)
    .await
}

/// By whose clocks a dataset's baselines are computed, and when they were; `None` before they are.
///
/// # Errors
/// If the database refuses.
pub async fn usual_since(
    conn: &mut PgConnection,
    dataset: &str,
) -> sqlx::Result<Option<(String, DateTime<Utc>)>> {
    let row = sqlx::query!(
        r#"SELECT timezone AS "timezone!", computed_at AS "computed_at!" FROM harvest.baseline_states
           WHERE dataset = $1 AND timezone IS NOT NULL AND computed_at IS NOT NULL"#,
        dataset
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.timezone, row.computed_at)))
}
