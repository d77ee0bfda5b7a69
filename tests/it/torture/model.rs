//! What must hold, whatever happened: while it happens, and when everything is over.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use chrono::Utc;
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool, Row as _, query, query_as, query_scalar,
};
use tempo_harvest::simulator::TraceTruth;

use super::script::Script;
use super::stage::Stage;
use crate::support::harvest::{Said, provokes_the_limit};

const SECOND_NS: i64 = 1_000_000_000;
/// How long everything may take to be collected once faults are over.
const COLLECTED_WITHIN: Duration = Duration::from_secs(300);
/// How far clocks are moved on, so that what is young becomes old enough to be sealed.
const LATER_S: i64 = 600;

/// Dataset, start and end of what is called complete, Unix seconds.
type Covered = (String, i64, i64);
/// Dataset and ID of a trace.
type Key = (String, Vec<u8>);

/// Looks once, in one moment of the database, whether what is called complete has everything.
pub async fn glance(connection: &mut PgConnection, stage: &Stage) -> sqlx::Result<Vec<String>> {
    let mut moment = connection.begin().await?;
    query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *moment)
        .await?;
    let covered = covered(&mut moment).await?;
    let stored: Vec<Key> = query_as("SELECT dataset, trace_id FROM harvest.traces")
        .fetch_all(&mut *moment)
        .await?;
    let uncovered: Vec<String> = query_scalar(
        "SELECT format('window %s %s is done and not covered', id, span) FROM harvest.windows w
         WHERE state = 'done' AND NOT EXISTS (SELECT FROM harvest.coverage c
             WHERE c.dataset = w.dataset AND c.look = w.look AND c.covered @> w.span)",
    )
    .fetch_all(&mut *moment)
    .await?;
    let undone: Vec<String> = query_scalar(
        "SELECT format('%s %s is covered and no window of it done: %s', dataset, look, covered - coalesce(done, '{}'))
         FROM harvest.coverage c LEFT JOIN LATERAL (SELECT range_agg(span) AS done FROM harvest.windows w
             WHERE w.dataset = c.dataset AND w.state = 'done'
               AND array_position('{fresh,settled,sealed}', w.look) >= array_position('{fresh,settled,sealed}', c.look)) w ON true
         WHERE NOT covered <@ coalesce(done, '{}')",
    )
    .fetch_all(&mut *moment)
    .await?;
    moment.rollback().await?;
    let mut wrong = uncovered;
    wrong.extend(undone);
    let stored: std::collections::HashSet<Key> = stored.into_iter().collect();
    let missing: Vec<String> = stage
        .control
        .truth()
        .iter()
        .flat_map(|trace| {
            let in_it = covered.iter().filter(|covered| belongs(trace, covered));
            in_it.map(move |(dataset, from, to)| (trace, dataset.clone(), *from, *to))
        })
        .filter(|(trace, dataset, ..)| {
            !stored.contains(&(dataset.clone(), trace.trace_id.to_vec()))
        })
        .map(|(trace, dataset, from, to)| {
            format!("{dataset} is complete from {from} to {to} without {trace:?}")
        })
        .collect();
    wrong.extend(missing);
    Ok(wrong)
}

/// Whether a trace is to be there because this is covered. Of live traffic only what starts in it: an earlier start, or a later
/// end, may have become known after it was sealed.
fn belongs(trace: &TraceTruth, (dataset, from, to): &Covered) -> bool {
    let (from_ns, to_ns) = (from * SECOND_NS, to * SECOND_NS);
    let (start_ns, end_ns) = (trace.start_ns as i64, trace.end_ns as i64);
    match dataset.as_str() {
        "live" => (from_ns..to_ns).contains(&start_ns),
        // Tempo's windows include their last instant, ours do not: such a trace may be there or not.
        _ => start_ns < to_ns && end_ns >= from_ns,
    }
}

async fn covered(connection: &mut PgConnection) -> sqlx::Result<Vec<Covered>> {
    query_as(
        "SELECT dataset, extract(epoch FROM lower(part))::bigint, extract(epoch FROM upper(part))::bigint
         FROM harvest.coverage CROSS JOIN LATERAL unnest(covered) AS part WHERE look = 'sealed' ORDER BY 1, 2",
    )
    .fetch_all(connection)
    .await
}

/// Waits until everything that was asked for is collected, as somebody would have it who runs it again. Returns what never was.
pub async fn collected(stage: &Stage, script: &Script) -> Vec<String> {
    let deadline = Instant::now() + COLLECTED_WITHIN;
    let mut wrong = Vec::new();
    stage.aside(&["resume", "history"]).await;
    loop {
        let said = stage.command(&["run", "jobs/history.toml"]).await;
        stage.note(format_args!("`run` ended: {:?}", said.code));
        if said.code == Some(0) {
            break;
        }
        if Instant::now() > deadline {
            wrong.push(format!("`run` never completes: {said:?}"));
            break;
        }
    }
    if script.live {
        wrong.extend(sealed(stage, deadline).await);
    }
    wrong
}

/// Waits until all that was sent so far is sealed.
async fn sealed(stage: &Stage, deadline: Instant) -> Option<String> {
    let until = Utc::now().timestamp();
    if stage.means.faketime.is_some() {
        stage.set_tempo_clock(LATER_S);
        stage.set_database_clock(LATER_S);
        (0..stage.workers()).for_each(|number| stage.set_worker_clock(number, LATER_S));
    }
    let sealed = "SELECT coalesce(bool_or(c.covered @> tstzrange(lower(r.requested), to_timestamp($1))), false)
         FROM harvest.runs r JOIN harvest.coverage c ON c.dataset = r.dataset AND c.look = 'sealed'
         WHERE r.dataset = 'live' AND r.kind = 'poll'";
    let mut repaired = Instant::now();
    loop {
        // A clock that jumps may end a connection that is being made.
        if let Ok(mut connection) = stage.connection().await {
            let done = query_scalar(sealed)
                .bind(until as f64)
                .fetch_one(&mut connection);
            if done.await.is_ok_and(|done: bool| done) {
                return None;
            }
        }
        if Instant::now() > deadline {
            let said = stage.command(&["gaps", "live"]).await;
            return Some(format!("the poll is never sealed up to {until}: {said:?}"));
        }
        // What has failed three times as a whole rests until somebody says so.
        if repaired.elapsed() > Duration::from_secs(10) {
            stage.aside(&["repair", "live"]).await;
            repaired = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Judges what is there when nobody works any more. Returns everything that is wrong.
pub async fn judge(stage: &Stage, script: &Script) -> Vec<String> {
    let pool = stage.pool().await.unwrap();
    let mut wrong = left_over(stage, &pool).await;
    wrong.extend(
        glance(&mut pool.acquire().await.unwrap(), stage)
            .await
            .unwrap(),
    );
    wrong.extend(history(stage, script, &pool).await);
    if script.live {
        wrong.extend(live(stage, &pool).await);
    }
    wrong.extend(again(stage).await);
    wrong.extend(queue(stage, &pool).await);
    pool.close().await;
    wrong
}

/// What processes, and the database of them, said that nobody is to hear.
pub fn manners(said: &[(String, Said)], postgres_log: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    // Somebody goes on with a transaction that somebody else has begun.
    if postgres_log.contains("already a transaction in progress") {
        wrong.push("a connection was passed on with a transaction open".to_owned());
    }
    for (name, said) in said {
        if said.stderr.contains("panicked at") {
            wrong.push(format!("{name} panicked:\n{}", said.stderr));
        }
        // None: killed. 2: its job file was being edited.
        if !matches!(said.code, None | Some(0..=3)) {
            wrong.push(format!(
                "{name} ended with {:?}:\n{}",
                said.code, said.stderr
            ));
        }
    }
    wrong
}

/// Counts that have to be zero.
async fn left_over(stage: &Stage, pool: &PgPool) -> Vec<String> {
    let zeros = [
        (
            "windows are open",
            "SELECT count(*) FROM harvest.windows WHERE state IN ('queued', 'running') AND upper(span) < now() - interval '3 minutes'",
        ),
        (
            "windows done are still leased",
            "SELECT count(*) FROM harvest.windows WHERE state <> 'running' AND (lease_holder IS NOT NULL OR lease_expires_at IS NOT NULL)",
        ),
        (
            "connections are left",
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tempo-harvest%'",
        ),
        (
            "prepared transactions are left",
            "SELECT count(*) FROM pg_prepared_xacts",
        ),
        (
            "locks are left",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        ),
        (
            "datasets count their traces wrongly",
            "SELECT count(*) FROM harvest.datasets d WHERE trace_count <> (SELECT count(*) FROM harvest.traces t WHERE t.dataset = d.name)",
        ),
        (
            "datasets count their spans wrongly",
            "SELECT count(*) FROM harvest.datasets d WHERE span_count <> (SELECT count(*) FROM harvest.spans s WHERE s.dataset = d.name)",
        ),
        (
            "spans have no trace",
            "SELECT count(*) FROM harvest.spans s WHERE NOT EXISTS (SELECT FROM harvest.traces t WHERE t.dataset = s.dataset AND t.trace_id = s.trace_id)",
        ),
        (
            "split windows are not tiled by their pieces",
            "SELECT count(*) FROM harvest.windows p WHERE state = 'split'
                 AND (SELECT range_agg(span) FROM harvest.windows c WHERE c.parent_id = p.id) <> tstzmultirange(p.span)",
        ),
    ];
    let mut wrong = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    for (what, sql) in zeros {
        loop {
            let count: i64 = query_scalar(sql).fetch_one(pool).await.unwrap();
            if count == 0 {
                break;
            }
            // A session whose client has gone ends by itself, within moments.
            if Instant::now() > deadline {
                wrong.push(format!("{count} {what}: {sql}"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    let files = stage.left_behind();
    if !files.is_empty() {
        wrong.push(format!("temporary files are left: {files:?}"));
    }
    wrong
}

/// Nothing is on the queue. What a database whose clock was fast has put there may not be due for a while, and what a killed worker
/// held is kept for it; housekeeping two hours later has removed both.
async fn queue(stage: &Stage, pool: &PgPool) -> Vec<String> {
    let mut of = "status IN ('Pending', 'Failed') AND run_at <= now()";
    if stage.means.faketime.is_some() {
        stage.set_database_clock(7_200);
        // What is done is deleted by a later sweep.
        of = "status <> 'Done'";
    }
    let drained = stage.command(&["work", "--drain"]).await;
    let items = format!(
        "SELECT format('%s %s for window %s, due at %s', status, job_type, convert_from(job, 'UTF8'), run_at) FROM apalis.jobs WHERE {of}"
    );
    let items: Vec<String> = query_scalar(AssertSqlSafe(items))
        .fetch_all(pool)
        .await
        .unwrap();
    match items.is_empty() {
        true => Vec::new(),
        false => vec![format!("left on the queue: {items:?} by {drained:?}")],
    }
}

/// A trace as it is stored or true: start, duration in milliseconds, root, counts.
type Facts = (i64, i64, Option<String>, Option<String>, Option<(i64, i64)>);

fn facts(trace: &TraceTruth, with_counts: bool) -> Facts {
    (
        trace.start_ns as i64,
        ((trace.end_ns - trace.start_ns) / 1_000_000) as i64,
        trace.root_service.as_deref().map(str::to_owned),
        trace.root_name.as_deref().map(str::to_owned),
        with_counts.then_some((i64::from(trace.spans), i64::from(trace.errors))),
    )
}

async fn stored(pool: &PgPool, dataset: &str) -> BTreeMap<Vec<u8>, Facts> {
    let rows = query(
        "SELECT trace_id, start_ns, duration_ms, root_service, root_name, span_count::bigint, error_count::bigint
         FROM harvest.traces WHERE dataset = $1",
    )
    .bind(dataset)
    .fetch_all(pool)
    .await
    .unwrap();
    rows.iter()
        .map(|row| {
            let counts = Option::zip(row.get(5), row.get(6));
            let facts = (row.get(1), row.get(2), row.get(3), row.get(4), counts);
            (row.get(0), facts)
        })
        .collect()
}

/// Settled history is stored as it is, exactly, and exactly its range is covered.
async fn history(stage: &Stage, script: &Script, pool: &PgPool) -> Vec<String> {
    let mut wrong = Vec::new();
    let (from, to) = script.range;
    let range = ("history".to_owned(), from, to);
    let covered = covered(&mut pool.acquire().await.unwrap()).await.unwrap();
    let covered: Vec<Covered> = covered
        .into_iter()
        .filter(|(dataset, ..)| dataset == "history")
        .collect();
    if covered != [range.clone()] {
        wrong.push(format!("covered is {covered:?}, not {range:?}"));
    }
    let mut stored = stored(pool, "history").await;
    let population = stage.control.population();
    for trace in population.traces() {
        let row = stored.remove(trace.trace_id.as_slice());
        let right = facts(&trace, script.detail != "trace");
        match row {
            None if belongs(&trace, &range) => wrong.push(format!("lost: {trace:?}")),
            Some(row) if row != right => wrong.push(format!("stored as {row:?}, but {right:?}")),
            _ => {}
        }
    }
    if !stored.is_empty() {
        wrong.push(format!(
            "{} traces that do not exist: {:?}",
            stored.len(),
            stored.first_key_value()
        ));
    }
    if script.detail == "spans" {
        wrong.extend(spans(stage, &range, pool).await);
    }
    wrong
}

/// Every span is stored, once and as it is.
async fn spans(stage: &Stage, range: &Covered, pool: &PgPool) -> Vec<String> {
    let rows: Vec<(Vec<u8>, Vec<u8>, i64, i64)> = query_as(
        "SELECT trace_id, span_id, start_ns, duration_ns FROM harvest.spans WHERE dataset = 'history'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut stored: HashMap<(Vec<u8>, Vec<u8>), (i64, i64)> = rows
        .into_iter()
        .map(|(trace, span, start, duration)| ((trace, span), (start, duration)))
        .collect();
    let mut wrong = Vec::new();
    let population = stage.control.population();
    for (trace, fragment) in population.traces().zip(population.fragments()) {
        for span in &fragment.spans {
            let key = (trace.trace_id.to_vec(), span.span_id.to_vec());
            let right = (span.start_ns as i64, span.duration_ns() as i64);
            match stored.remove(&key) {
                None if belongs(&trace, range) => {
                    wrong.push(format!("lost: {span:?} of {trace:?}"))
                }
                Some(row) if row != right => wrong.push(format!("stored as {row:?}, but {span:?}")),
                _ => {}
            }
        }
    }
    if !stored.is_empty() {
        wrong.push(format!("{} spans that do not exist", stored.len()));
    }
    wrong
}

/// Live traffic is stored whole; after compaction, and fetched again, as it is.
async fn live(stage: &Stage, pool: &PgPool) -> Vec<String> {
    let mut wrong = Vec::new();
    let covered = covered(&mut pool.acquire().await.unwrap()).await.unwrap();
    let live: Vec<&Covered> = covered
        .iter()
        .filter(|(dataset, ..)| dataset == "live")
        .collect();
    let truth = stage.control.truth();
    let is_due = |trace: &TraceTruth| live.iter().any(|covered| belongs(trace, covered));
    let before = stored(pool, "live").await;
    for trace in truth.iter().filter(|trace| is_due(trace)) {
        let Some(row) = before.get(trace.trace_id.as_slice()) else {
            wrong.push(format!("lost: {trace:?}"));
            continue;
        };
        let right = facts(trace, true);
        let is_lower_bound = row.1 <= right.1 && row.4 <= right.4;
        if (row.0, &row.2, &row.3) != (right.0, &right.2, &right.3) || !is_lower_bound {
            wrong.push(format!("stored as {row:?}, but {right:?}"));
        }
    }
    let known: std::collections::HashSet<&[u8]> = truth
        .iter()
        .map(|trace| trace.trace_id.as_slice())
        .collect();
    wrong.extend(
        before
            .keys()
            .filter(|id| !known.contains(id.as_slice()))
            .map(|id| format!("{id:02x?} does not exist")),
    );
    let (Some(first), Some(last)) = (live.first(), live.last()) else {
        wrong.push("nothing live is covered".to_owned());
        return wrong;
    };
    stage.control.compact();
    let (from, to) = (format!("@{}", first.1), format!("@{}", last.2));
    let (from, to) = (second(&from), second(&to));
    for arguments in [
        &["refetch", "live", "--from", &from, "--to", &to, "--yes"][..],
        &["work", "--drain"],
    ] {
        let said = stage.command(arguments).await;
        if said.code != Some(0) {
            wrong.push(format!("{arguments:?}: {said:?}"));
        }
    }
    let after = stored(pool, "live").await;
    for trace in truth.iter().filter(|trace| is_due(trace)) {
        let right = facts(trace, true);
        if after.get(trace.trace_id.as_slice()) != Some(&right) {
            wrong.push(format!(
                "after compaction stored as {:?}, but {right:?}",
                after.get(trace.trace_id.as_slice())
            ));
        }
    }
    wrong
}

fn second(at: &str) -> String {
    let second = at.trim_start_matches('@').parse().unwrap();
    crate::support::harvest::rfc3339(second)
}

/// Once more asks for nothing, finds nothing amiss, and counts baselines as they were counted bit by bit.
async fn again(stage: &Stage) -> Vec<String> {
    let mut wrong = Vec::new();
    stage.control.forget_requests();
    let run = stage.command(&["run", "jobs/history.toml"]).await;
    let requests = stage.control.requests();
    let searches = requests
        .iter()
        .filter(|request| request.path.ends_with("/api/search") && !provokes_the_limit(request));
    if run.code != Some(0) || searches.count() != 0 {
        wrong.push(format!("run again it asks again: {run:?}"));
    }
    let verified = stage.command(&["verify", "history", "--deep"]).await;
    if verified.code != Some(0) {
        wrong.push(format!("verify finds fault: {verified:?}"));
    }
    let kept = stage.command(&["baseline", "--json"]).await;
    let counted = stage.command(&["baseline", "--recount", "--json"]).await;
    let figures = |said: &Said| {
        let mut datasets = said.json();
        let all = datasets.as_array_mut().into_iter().flatten();
        all.for_each(|dataset| dataset["computed_at"] = Value::Null);
        datasets
    };
    if kept.code != Some(0) || counted.code != Some(0) {
        wrong.push(format!("baselines cannot be had: {kept:?} {counted:?}"));
    } else if let Some(difference) = first_difference(&figures(&kept), &figures(&counted)) {
        wrong.push(format!("baselines differ when counted anew: {difference}"));
    }
    wrong
}

/// The first place where two documents are not the same.
fn first_difference(a: &Value, b: &Value) -> Option<String> {
    let inside = |key: &dyn std::fmt::Display, a, b| {
        first_difference(a, b).map(|difference| format!("{key} {difference}"))
    };
    match (a, b) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(index, (a, b))| inside(&index, a, b)),
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().find_map(|(key, a)| inside(key, a, &b[key]))
        }
        _ => (a != b).then(|| format!("{a} and {b}")),
    }
}
