//! What planning a poll's tick costs in a ledger as it is after a year, side by side with an empty one.
//!
//! `cargo bench --bench ticks` prints the median and the 99th percentile of both, and their ratio. The full ledger has what
//! housekeeping leaves of a year of 15-second polls (a week of windows and requests, coverage back to the beginning), and
//! 10,000 windows of a backfill that is under way. It starts a PostgreSQL of its own, as the tests do.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot have what it needs has failed"
)]

#[path = "../tests/support/postgres.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod postgres;

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, raw_sql};
use tempo_harvest::{
    job::{self, Job, LoadOptions, ProcessEnv},
    scheduler::tick,
    store::{self, Holder},
};

/// When the ticks happen.
const NOW: &str = "2027-12-31T00:00:50Z";
const TICKS: usize = 240;

const JOB: &str =
    "name = \"shop\"\n[source]\nname = \"prod\"\nurl = \"http://tempo.invalid\"\n[poll]\n";

/// A year of ticks, of which housekeeping has left a week, and a backfill in the middle.
const YEAR: &str = "
    UPDATE harvest.runs SET requested = tstzrange('2027-01-01', upper(requested));
    INSERT INTO harvest.windows (run_id, dataset, source, look, span, state, priority, queue_at, settle_s, earlier_look, returned, finished_at)
    SELECT r.id, 'shop', 'prod', look, tstzrange(at, at + width), 'done', 100, '2000-01-01', 31, earlier, 300, at + age
    FROM harvest.runs r,
         (VALUES ('fresh', interval '15 seconds', NULL, interval '50 seconds'),
                 ('settled', interval '2 minutes', 'fresh', interval '4 minutes'),
                 ('sealed', interval '1 hour', 'settled', interval '2 hours')) looks (look, width, earlier, age),
         generate_series(timestamptz '2027-12-24', timestamptz '2027-12-31' - age, width) at;
    INSERT INTO harvest.fetches (at, source, dataset, window_id, kind, outcome, duration_ms, holder)
    SELECT finished_at, source, dataset, id, 'search', 'complete', 20, 'here:1:1' FROM harvest.windows;
    INSERT INTO harvest.coverage (dataset, look, covered)
    SELECT 'shop', look, tstzmultirange(tstzrange('2027-01-01', timestamptz '2027-12-31' - age))
    FROM (VALUES ('fresh', interval '0 seconds'), ('settled', interval '2 minutes'), ('sealed', interval '1 hour')) looks (look, age);
    INSERT INTO harvest.runs (job, dataset, requested, settle_s, command, submitted_by)
    VALUES ('shop', 'shop', '[2025-01-01,2026-12-31)', 3600, 'work', 'here:1:1');
    INSERT INTO harvest.windows (run_id, dataset, source, look, span, priority, queue_at, settle_s)
    SELECT r.id, 'shop', 'prod', 'sealed', tstzrange(at, at + interval '1 hour'), 0, timestamptz '2000-01-01' + (at - '2025-01-01') / 3600000, 3600
    FROM harvest.runs r, generate_series(timestamptz '2025-01-01', timestamptz '2025-01-01' + interval '9999 hours', interval '1 hour') at
    WHERE r.kind = 'backfill';
    ANALYZE harvest.windows, harvest.fetches, harvest.coverage, harvest.runs;
";

/// What was planned has been fetched.
const FETCHED: &str = "
    INSERT INTO harvest.coverage AS c (dataset, look, covered)
    SELECT dataset, look, range_agg(span) FROM harvest.windows WHERE state = 'queued' AND lower(span) >= '2027-12-24' GROUP BY dataset, look
    ON CONFLICT (dataset, look) DO UPDATE SET covered = c.covered + excluded.covered;
    UPDATE harvest.windows SET state = 'done', returned = 300, finished_at = now() WHERE state = 'queued' AND lower(span) >= '2027-12-24';
";

#[tokio::main]
async fn main() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("shop.toml");
    std::fs::write(&file, JOB).unwrap();
    let options = LoadOptions {
        env: &ProcessEnv,
        now: Utc::now(),
    };
    let job = job::load(&[file], &options).unwrap().remove(0);
    let [mut empty, mut full] = [ledger(&job, false).await, ledger(&job, true).await];
    let mut spent: [Vec<Duration>; 2] = Default::default();
    let now: DateTime<Utc> = NOW.parse().unwrap();
    // In turns, so that whatever else the machine does meets both.
    for index in 0..TICKS {
        let now = now + TimeDelta::seconds(15 * i64::try_from(index).unwrap());
        for (conn, spent) in [&mut empty, &mut full].into_iter().zip(&mut spent) {
            let planned = tick(conn, &job, now, Some(spent)).await;
            assert!(planned <= 4, "{planned} windows at {now}");
        }
    }
    let [empty, full] = spent.map(|mut spent| {
        spent.sort_unstable();
        (spent[TICKS / 2], spent[TICKS * 99 / 100])
    });
    println!("planning a tick, {TICKS} times   median      99 %");
    println!(
        "an empty ledger              {:>9.2?} {:>9.2?}",
        empty.0, empty.1
    );
    println!(
        "a ledger after a year        {:>9.2?} {:>9.2?}",
        full.0, full.1
    );
    println!(
        "ratio of the medians         {:>9.2}",
        full.0.as_secs_f64() / empty.0.as_secs_f64()
    );
}

async fn ledger(job: &Job, after_a_year: bool) -> PgConnection {
    let database = postgres::migrated_database(async |options| {
        let pool = store::connect(&options, 2).await.unwrap();
        store::migrate(&pool).await.unwrap();
        pool.close().await;
    })
    .await;
    let mut conn = database.pool().await.acquire().await.unwrap().detach();
    let before: DateTime<Utc> = NOW.parse().unwrap();
    tick(&mut conn, job, before - TimeDelta::seconds(15), None).await;
    if after_a_year {
        raw_sql("DELETE FROM harvest.windows; DELETE FROM harvest.coverage")
            .execute(&mut conn)
            .await
            .unwrap();
        raw_sql(YEAR).execute(&mut conn).await.unwrap();
    }
    raw_sql(FETCHED).execute(&mut conn).await.unwrap();
    conn
}

/// Plans a tick, and fetches what it planned; returns how many windows that was.
async fn tick(
    conn: &mut PgConnection,
    job: &Job,
    now: DateTime<Utc>,
    spent: Option<&mut Vec<Duration>>,
) -> usize {
    let poll = job.poll.as_ref().unwrap();
    let begun = Instant::now();
    let ticked = tick::tick_at(conn, job, poll, &Holder::of_this_process(), false, now).await;
    if let Some(spent) = spent {
        spent.push(begun.elapsed());
    }
    raw_sql(FETCHED).execute(conn).await.unwrap();
    ticked.unwrap().planned.len()
}
