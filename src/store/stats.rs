//! What `stats` sums up: requests that are still logged and those that were pruned, and what windows of each look added.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

/// A stretch of time in which requests were made and windows finished; half-open.
#[derive(Debug, Clone, Copy, Default)]
pub struct Within {
    /// From here; `None`: from the beginning.
    pub from: Option<DateTime<Utc>>,
    /// Up to here; `None`: up to the present.
    pub to: Option<DateTime<Utc>>,
}

impl Within {
    /// The moments that the log of requests is cut by.
    fn moments(self) -> (DateTime<Utc>, DateTime<Utc>) {
        (
            self.from.unwrap_or(DateTime::UNIX_EPOCH),
            self.to.unwrap_or(FAR),
        )
    }

    /// The days that sums are cut by: every day that lies in it in whole or in part.
    fn days(self) -> (NaiveDate, NaiveDate) {
        let (from, to) = self.moments();
        let last = to - chrono::TimeDelta::microseconds(1);
        (from.date_naive(), last.date_naive())
    }
}

/// Later than anything that was ever recorded: 2200-01-01T00:00:00Z.
const FAR: DateTime<Utc> = match DateTime::from_timestamp(7_258_118_400, 0) {
    Some(far) => far,
    None => DateTime::<Utc>::MAX_UTC,
};

/// Requests that have everything in common that they are told apart by.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    /// For which dataset.
    pub dataset: String,
    /// The Tempo asked.
    pub source: String,
    /// The job of their run; `None`: they were for no run.
    pub job: Option<String>,
    /// The kind of their run.
    pub run_kind: Option<String>,
    /// search, count or trace.
    pub kind: String,
    /// How they ended, as in `harvest.fetches`.
    pub outcome: String,
    /// How long they took: from 2^(n/4) up to 2^((n+1)/4) milliseconds.
    pub duration_class: i16,
    /// How many.
    pub requests: i64,
    /// Of these, requests for windows at which an attempt had failed before.
    pub retries: i64,
    /// Traces (counted intervals, spans) in their answers.
    pub returned: i64,
    /// Bytes of their answers.
    pub bytes: i64,
    /// Bytes Tempo said it read.
    pub inspected_bytes: i64,
    /// Requests of which it said so.
    pub inspected_requests: i64,
    /// How long they took together, milliseconds.
    pub duration_ms: i64,
    /// The greatest share of the server's limit that one brought.
    pub fullest: Option<f64>,
}

/// Requests of these datasets. Sums of what was pruned count for every day that lies in the stretch in whole or in part.
///
/// # Errors
/// If the database refuses.
pub async fn requests(
    conn: &mut PgConnection,
    datasets: &[String],
    within: Within,
) -> sqlx::Result<Vec<Requests>> {
    let (from, to) = within.moments();
    let (first, last) = within.days();
    sqlx::query_as!(
        Requests,
        r#"WITH figures AS (
               SELECT coalesce(dataset, '') AS dataset, source, run_id, kind, outcome, harvest.duration_class(duration_ms) AS duration_class,
                      count(*) AS requests, count(*) FILTER (WHERE retry > 0) AS retries, coalesce(sum(returned), 0) AS returned,
                      coalesce(sum(bytes), 0) AS bytes, coalesce(sum(inspected_bytes), 0) AS inspected_bytes,
                      count(inspected_bytes) AS inspected_requests, sum(duration_ms) AS duration_ms, max(limit_share) AS fullest
               FROM harvest.fetches WHERE dataset = ANY($1) AND at >= $2 AND at < $3
               GROUP BY 1, 2, 3, 4, 5, 6
               UNION ALL
               SELECT dataset, source, run_id, kind, outcome, duration_class, requests, retries, returned, bytes, inspected_bytes,
                      inspected_requests, duration_ms, fullest
               FROM harvest.pruned_fetches WHERE dataset = ANY($1) AND day BETWEEN $4 AND $5
           )
           SELECT f.dataset AS "dataset!", f.source AS "source!", r.job AS "job?", r.kind AS "run_kind?", f.kind AS "kind!",
                  f.outcome AS "outcome!", f.duration_class AS "duration_class!", sum(f.requests)::bigint AS "requests!",
                  sum(f.retries)::bigint AS "retries!", sum(f.returned)::bigint AS "returned!", sum(f.bytes)::bigint AS "bytes!",
                  sum(f.inspected_bytes)::bigint AS "inspected_bytes!", sum(f.inspected_requests)::bigint AS "inspected_requests!",
                  sum(f.duration_ms)::bigint AS "duration_ms!", max(f.fullest) AS fullest
           FROM figures f LEFT JOIN harvest.runs r ON r.id = f.run_id
           GROUP BY 1, 2, 3, 4, 5, 6, 7"#,
        datasets,
        from,
        to,
        first,
        last
    )
    .fetch_all(conn)
    .await
}

/// What windows of one look brought.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LookFigures {
    /// For which dataset.
    #[serde(skip)]
    pub dataset: String,
    /// fresh, settled or sealed.
    pub look: String,
    /// Whether an earlier look had covered them: `new` and `improved` are then what that had missed.
    pub looked_at_before: bool,
    /// Windows done.
    pub windows: i64,
    /// Seconds done.
    pub seconds: i64,
    /// Traces in the answers that counted.
    pub traces: i64,
    /// Of these, stored for the first time.
    pub new: i64,
    /// Of these, stored before and made more complete.
    pub improved: i64,
}

/// What each look at these datasets added, fresh looks first. Sums of what was pruned count for every day that lies in the
/// stretch in whole or in part.
///
/// # Errors
/// If the database refuses.
pub async fn looks(
    conn: &mut PgConnection,
    datasets: &[String],
    within: Within,
) -> sqlx::Result<Vec<LookFigures>> {
    let (from, to) = within.moments();
    let (first, last) = within.days();
    sqlx::query_as!(
        LookFigures,
        r#"SELECT dataset AS "dataset!", look AS "look!", looked_at_before AS "looked_at_before!", sum(windows)::bigint AS "windows!",
                  sum(seconds)::bigint AS "seconds!", sum(traces)::bigint AS "traces!", sum(new)::bigint AS "new!",
                  sum(improved)::bigint AS "improved!"
           FROM (SELECT dataset, look, earlier_look IS NOT NULL AS looked_at_before, count(*) AS windows,
                        sum(extract(epoch FROM upper(span) - lower(span))) AS seconds, sum(returned) AS traces, sum(stored_new) AS new,
                        sum(improved) AS improved
                 FROM harvest.windows
                 WHERE dataset = ANY($1) AND state = 'done' AND finished_at >= $2 AND finished_at < $3
                 GROUP BY 1, 2, 3
                 UNION ALL
                 SELECT r.dataset, p.look, p.looked_at_before, p.windows_done, p.done_s, p.traces_returned, p.traces_new, p.traces_improved
                 FROM harvest.pruned_windows p JOIN harvest.runs r ON r.id = p.run_id
                 WHERE r.dataset = ANY($1) AND p.day BETWEEN $4 AND $5 AND p.windows_done > 0) AS figures
           GROUP BY 1, 2, 3
           ORDER BY 1, array_position(ARRAY['fresh', 'settled', 'sealed'], look), 3"#,
        datasets,
        from,
        to,
        first,
        last
    )
    .fetch_all(conn)
    .await
}
