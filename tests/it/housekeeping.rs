//! What keeps the tables small: history that is summed up and deleted, and nothing that is still needed with it.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool, query, query_scalar, raw_sql};
use tempo_harvest::housekeeping::{self, Deleted};
use tempo_harvest::simulator::{Fault, Misbehaviour};
use tempo_harvest::store;

use crate::support::harvest::{HOUR_S, Scene, database, hours, job, tempo};
use crate::support::local_postgres::Place;

/// The beginning of the year of the simulated ticks.
const YEAR: &str = "2027-01-01T00:00:00Z";

async fn execute(pool: &PgPool, sql: impl Into<String>) {
    let sql = sql.into();
    let done = raw_sql(AssertSqlSafe(sql.clone())).execute(pool).await;
    assert!(done.is_ok(), "{done:?}\n{sql}");
}

async fn number(pool: &PgPool, sql: &'static str) -> i64 {
    query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// A dataset `shop` with two polls, one cancelled, and two backfills, one still open: runs 1 to 4.
async fn ledger(pool: &PgPool) {
    execute(
        pool,
        "INSERT INTO harvest.sources (name, spec) VALUES ('prod', '{}');
         INSERT INTO harvest.datasets (name, source, detail) VALUES ('shop', 'prod', 'trace');
         INSERT INTO harvest.jobs (name, dataset, spec, file) VALUES ('shop', 'shop', '', 'shop.toml');",
    )
    .await;
    for (kind, state) in [
        ("poll", "open"),
        ("poll", "cancelled"),
        ("backfill", "failed"),
        ("backfill", "open"),
    ] {
        let finished = if state == "open" {
            "NULL"
        } else {
            "'2027-01-01'"
        };
        execute(
            pool,
            format!(
                "INSERT INTO harvest.runs (job, dataset, requested, settle_s, command, submitted_by, kind, state, submitted_at, finished_at)
                 VALUES ('shop', 'shop', '[2027-01-01,2027-01-02)', 0, 'work', 'here', '{kind}', '{state}', '2027-01-01', {finished})"
            ),
        )
        .await;
    }
}

/// Adds a window over these hours of 2027-01-01, planned and finished at that hour's beginning; returns its number.
async fn window(pool: &PgPool, run: i64, look: &str, state: &str, (from, to): (i64, i64)) -> i64 {
    let open = matches!(state, "queued" | "running");
    let day = YEAR.parse::<DateTime<Utc>>().unwrap();
    let hour = |hour| day + TimeDelta::hours(hour);
    query_scalar(
        "INSERT INTO harvest.windows (run_id, dataset, source, look, span, state, priority, queue_at, settle_s, created_at, finished_at,
                                      attempts, requests, returned, stored_new, improved)
         VALUES ($1, 'shop', 'prod', $2, tstzrange($4, $5), $3, 0, $4, 0, $4, CASE WHEN NOT $6 THEN $4 END, 2, 3, 10, 4, 1)
         RETURNING id",
    )
    .bind(run)
    .bind(look)
    .bind(state)
    .bind(hour(from))
    .bind(hour(to))
    .bind(open)
    .fetch_one(pool)
    .await
    .unwrap()
}

async fn windows(pool: &PgPool) -> Vec<i64> {
    query_scalar("SELECT id FROM harvest.windows ORDER BY id")
        .fetch_all(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn history_is_deleted_after_a_week_and_the_figures_stay() {
    let scene = Scene::new(tempo(&hours(3, 4_000))).await;
    // What is not counted is cut when it turns out to be full.
    let uncounted = Fault::forever(Misbehaviour::Status(500)).on_path("/api/metrics");
    scene.control.add_fault(uncounted);
    scene.run(&job(3)).await.expect(0);
    let figures = "SELECT to_json(f) FROM harvest.run_figures f";
    let figures = async || -> Value { query_scalar(figures).fetch_one(&scene.pool).await.unwrap() };
    let age = async |interval: &str| {
        execute(
            &scene.pool,
            format!(
                "UPDATE harvest.windows SET created_at = now() - interval '{interval}', finished_at = now() - interval '{interval}';
                 UPDATE harvest.fetches SET at = now() - interval '{interval}';
                 DELETE FROM harvest.housekeeping;"
            ),
        )
        .await;
        let before = figures().await;
        let status = scene.command(&["status", "--json"]).await.expect(0).stdout;
        scene.command(&["work", "--drain"]).await.expect(0);
        assert_eq!(figures().await, before);
        let after = scene.command(&["status", "--json"]).await.expect(0).stdout;
        assert_eq!(after, status);
    };
    let left =
        "SELECT (SELECT count(*) FROM harvest.windows) + (SELECT count(*) FROM harvest.fetches)";
    let rows = scene.number(left).await;
    assert!(
        scene
            .number("SELECT count(*) FROM harvest.windows WHERE state = 'split'")
            .await
            > 0
    );
    age("6 days 23 hours").await;
    assert_eq!(scene.number(left).await, rows);
    age("7 days 1 hour").await;
    assert_eq!(scene.number(left).await, 0);
    assert!(figures().await["splits"].as_i64().unwrap() > 0);

    // Everything is still known to be there.
    scene.new_requests();
    let said = scene.command(&["run", "shop.toml"]).await.expect(0);
    assert!(said.stdout.contains("already complete"), "{}", said.stdout);
    assert_eq!(scene.new_requests().len(), 0);

    // A range of a day more is collected, and both are summed up.
    let before = figures().await;
    scene.run(&job(4)).await.expect(0);
    assert_eq!(figures().await, before, "the first run's");
}

#[tokio::test]
async fn what_is_needed_is_kept() {
    let database = database().await;
    let pool = database.pool().await;
    ledger(&pool).await;
    let (poll, cancelled, failed_run, open_run) = (1, 2, 3, 4);
    let mut kept = Vec::new();
    let mut gone = Vec::new();
    gone.push(window(&pool, poll, "fresh", "done", (0, 1)).await);
    gone.push(window(&pool, poll, "settled", "split", (0, 1)).await);
    gone.push(window(&pool, cancelled, "fresh", "cancelled", (1, 2)).await);
    gone.push(window(&pool, failed_run, "sealed", "done", (0, 1)).await);
    kept.push(window(&pool, poll, "fresh", "queued", (1, 2)).await);
    kept.push(window(&pool, open_run, "sealed", "done", (2, 3)).await);
    kept.push(window(&pool, open_run, "sealed", "split", (2, 3)).await);
    // Failed: covered at a later look; covered only at an earlier one; not covered; failed thrice more as
    // a whole, without which it would not rest; failed again in part.
    gone.push(window(&pool, poll, "fresh", "failed", (4, 5)).await);
    kept.push(window(&pool, poll, "sealed", "failed", (5, 6)).await);
    kept.push(window(&pool, failed_run, "sealed", "failed", (7, 8)).await);
    gone.push(window(&pool, failed_run, "sealed", "failed", (9, 11)).await);
    for _ in 0..3 {
        kept.push(window(&pool, failed_run, "sealed", "failed", (9, 11)).await);
    }
    kept.push(window(&pool, failed_run, "sealed", "failed", (12, 14)).await);
    kept.push(window(&pool, failed_run, "sealed", "failed", (12, 13)).await);
    // A failure at an earlier look says nothing about a later one.
    kept.push(window(&pool, failed_run, "sealed", "failed", (15, 16)).await);
    kept.push(window(&pool, poll, "fresh", "failed", (15, 16)).await);
    execute(
        &pool,
        "INSERT INTO harvest.coverage (dataset, look, covered) VALUES
             ('shop', 'settled', '{[2027-01-01 04:00Z, 2027-01-01 06:00Z)}')",
    )
    .await;
    // Finished later than the others: not old enough.
    kept.push(window(&pool, failed_run, "sealed", "done", (20, 21)).await);
    let day = YEAR.parse::<DateTime<Utc>>().unwrap();
    let now = day + housekeeping::KEEP_HISTORY + TimeDelta::hours(20);
    let figures = "SELECT json_agg(f ORDER BY run_id) FROM harvest.run_figures f";
    let figures = async || -> Value { query_scalar(figures).fetch_one(&pool).await.unwrap() };
    let before = figures().await;
    let deleted = housekeeping::keep_house(&pool, now).await.unwrap();
    assert_eq!(windows(&pool).await, kept);
    assert_eq!(deleted.windows, gone.len() as i64);
    assert_eq!(figures().await, before);

    // Deleted by retention: nothing to explain any more.
    execute(
        &pool,
        "UPDATE harvest.datasets SET deleted_before = '2027-01-01 08:00Z'",
    )
    .await;
    let deleted = housekeeping::keep_house(&pool, now).await.unwrap();
    assert_eq!(deleted.windows, 2);
    // Summed up onto what was summed up before.
    assert_eq!(figures().await, before);
}

#[tokio::test]
async fn runs_of_a_year_ago_go_and_what_they_asked_for_stays_known() {
    let database = database().await;
    let pool = database.pool().await;
    ledger(&pool).await;
    execute(
        &pool,
        "UPDATE harvest.runs SET requested = '[2027-01-05,2027-01-06)' WHERE id = 2;
         UPDATE harvest.runs SET requested = '[2027-01-03,2027-01-04)' WHERE id = 3;",
    )
    .await;
    // A run of which a window is left is left.
    window(&pool, 3, "sealed", "failed", (7, 8)).await;
    let requested = "SELECT requested::text FROM harvest.requested";
    let requested = async || -> String { query_scalar(requested).fetch_one(&pool).await.unwrap() };
    let before = requested().await;
    let day = YEAR.parse::<DateTime<Utc>>().unwrap();
    let runs = async |days| {
        let now = day + TimeDelta::days(days);
        let deleted = housekeeping::keep_house(&pool, now).await.unwrap();
        (deleted.runs, requested().await)
    };
    assert_eq!(runs(364).await, (0, before.clone()));
    assert_eq!(runs(366).await, (1, before.clone()), "the cancelled one");
    execute(&pool, "DELETE FROM harvest.windows").await;
    assert_eq!(runs(366).await, (1, before));
    assert_eq!(number(&pool, "SELECT count(*) FROM harvest.runs").await, 2);
}

#[tokio::test]
async fn items_of_windows_that_are_over_are_dropped() {
    let database = database().await;
    let pool = database.pool().await;
    ledger(&pool).await;
    let open = window(&pool, 1, "fresh", "queued", (1, 2)).await;
    let done = window(&pool, 1, "fresh", "done", (2, 3)).await;
    for (window, age) in [(open, "2 hours"), (done, "2 hours"), (done, "1 minute")] {
        execute(
            &pool,
            format!(
                "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
                 VALUES (apalis.generate_ulid(), 'tempo-harvest/prod', '{window}'::text::bytea, 'Pending', 0, 5, now() - interval '{age}', 0)"
            ),
        )
        .await;
    }
    let deleted = housekeeping::keep_house(&pool, Utc::now()).await.unwrap();
    assert_eq!(deleted.items, 1);
    let left = "SELECT count(*) FROM apalis.jobs";
    assert_eq!(number(&pool, left).await, 2);
}

#[tokio::test]
async fn what_a_killed_process_had_taken_from_the_queue_goes_with_the_next_however_short_it_lives()
{
    let scene = Scene::new(tempo(&hours(1, 1))).await;
    for _ in 0..4 {
        scene
            .execute(
                "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, lock_at)
                 VALUES (apalis.generate_ulid(), 'tempo-harvest/prod', '7', 'Running', 1, 5, now() - interval '1 hour', 0,
                         now() - interval '11 minutes')",
            )
            .await;
        scene.command(&["work", "--drain"]).await.expect(0);
        assert_eq!(scene.number("SELECT count(*) FROM apalis.jobs").await, 0);
    }
}

#[tokio::test]
async fn one_process_keeps_house_and_the_next_after_ten_minutes() {
    let database = database().await;
    let pool = database.pool().await;
    let offers = || futures::future::join_all((0..5).map(|_| housekeeping::offer(&pool)));
    let taken = async || {
        let offers = offers().await.into_iter().map(Result::unwrap);
        offers.flatten().collect::<Vec<_>>()
    };
    assert_eq!(taken().await, [Deleted::default()]);
    assert_eq!(taken().await, []);
    let back = "UPDATE harvest.housekeeping SET begun_at = begun_at - interval '10 minutes'";
    execute(&pool, back).await;
    assert_eq!(taken().await.len(), 1);
    // The clock was set back by a year.
    let on = "UPDATE harvest.housekeeping SET begun_at = begun_at + interval '1 year'";
    execute(&pool, on).await;
    assert_eq!(taken().await.len(), 1);
}

/// One hour of ticks stands for two days: a 48th of a year's rows, and so of what is kept.
#[tokio::test]
async fn a_year_of_ticks_leaves_bounded_tables() {
    const HOURS_APART: i64 = 48;
    const HOURS_A_STEP: i64 = 14 * 24;
    const STEPS: i64 = 26;
    /// Windows, and requests, in an hour: fresh, settled, sealed.
    const AN_HOUR: i64 = 240 + 30 + 1;
    // A server of its own: VACUUM removes nothing that a session may still see, and on the shared one other tests' sessions may.
    let place = Place::new();
    let server = place.start().await;
    let pool = store::connect(&server.connect_options(), 2).await.unwrap();
    store::migrate(&pool).await.unwrap();
    ledger(&pool).await;
    let begin = YEAR.parse::<DateTime<Utc>>().unwrap();
    let mut sizes = Vec::new();
    for step in 0..STEPS {
        let from = begin + TimeDelta::hours(step * HOURS_A_STEP);
        let to = from + TimeDelta::hours(HOURS_A_STEP);
        // Some minutes of each simulated hour were missed, and sealed later.
        for (look, every_s, missed_s) in [
            ("fresh", 15, 300),
            ("settled", 120, 360),
            ("sealed", HOUR_S, 0),
        ] {
            query(
                "WITH ticks AS (
                     SELECT hour + second * interval '1 second' AS at, second
                     FROM generate_series($1, $2 - interval '1 hour', $3 * interval '1 hour') AS hour, generate_series(0, 3599, $5) AS second
                 ), planned AS (
                     INSERT INTO harvest.windows (run_id, dataset, source, look, span, state, priority, queue_at, settle_s, created_at,
                                                  finished_at, requests, returned, stored_new, earlier_look)
                     SELECT 1, 'shop', 'prod', $4, tstzrange(at, at + $5 * interval '1 second'), 'done', 0, at, 0, at + interval '1 minute',
                            at + interval '2 minutes', 1, 100, 10, CASE WHEN $4 <> 'fresh' THEN 'fresh' END
                     FROM ticks RETURNING id, finished_at, span
                 ), asked AS (
                     INSERT INTO harvest.fetches (at, source, dataset, window_id, kind, span, outcome, duration_ms, holder)
                     SELECT finished_at, 'prod', 'shop', id, 'search', span, 'complete', 10, 'here' FROM planned
                 )
                 INSERT INTO harvest.coverage AS c (dataset, look, covered)
                 SELECT 'shop', $4, range_agg(tstzrange(at, at + $5 * interval '1 second')) FROM ticks WHERE second NOT BETWEEN 1200 AND 1199 + $6
                 ON CONFLICT (dataset, look) DO UPDATE SET covered = c.covered + excluded.covered",
            )
            .bind(from)
            .bind(to)
            .bind(HOURS_APART as i32)
            .bind(look)
            .bind(every_s as i32)
            .bind(missed_s)
            .execute(&pool)
            .await
            .unwrap();
        }
        housekeeping::keep_house(&pool, to).await.unwrap();
        let rows = "SELECT greatest((SELECT count(*) FROM harvest.windows), (SELECT count(*) FROM harvest.fetches))";
        let rows = number(&pool, rows).await;
        let most = (housekeeping::KEEP_HISTORY.num_hours() / HOURS_APART + 1) * AN_HOUR;
        assert!(
            rows <= most,
            "step {step}: {rows} rows are left, not {most}"
        );
        // As autovacuum does meanwhile.
        execute(&pool, "VACUUM harvest.windows").await;
        execute(&pool, "VACUUM harvest.fetches").await;
        let size = "SELECT pg_total_relation_size('harvest.windows') + pg_total_relation_size('harvest.fetches')";
        sizes.push(number(&pool, size).await);
    }
    // A year would take as many times the first step's as there are steps.
    let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
    assert!(
        last <= first * STEPS / 6,
        "bytes after each step: {sizes:?}"
    );
    let hours = STEPS * HOURS_A_STEP / HOURS_APART;
    // A stretch for each simulated hour, and no hole in any: what was missed was sealed.
    let stretches = "SELECT max(stretches) FROM (
        SELECT count(*) AS stretches FROM harvest.coverage, unnest(covered) GROUP BY look) AS counted";
    assert!(number(&pool, stretches).await <= hours);
    let figures = "SELECT windows_done FROM harvest.run_figures WHERE run_id = 1";
    assert_eq!(number(&pool, figures).await, hours * AN_HOUR);
    // A sum for each look and day, for a year; then one for each look.
    let summed_up = "SELECT count(*) FROM harvest.pruned_windows";
    let days = STEPS * HOURS_A_STEP / HOURS_APART;
    assert!(number(&pool, summed_up).await <= 3 * days);
    let asked = "SELECT count(*) FROM harvest.pruned_fetches";
    assert!((1..=days).contains(&number(&pool, asked).await));
    let later = begin + TimeDelta::hours(STEPS * HOURS_A_STEP) + TimeDelta::days(400);
    housekeeping::keep_house(&pool, later).await.unwrap();
    assert_eq!(number(&pool, summed_up).await, 3);
    assert_eq!(number(&pool, asked).await, 0);
    assert_eq!(number(&pool, figures).await, hours * AN_HOUR);
}

#[tokio::test]
async fn what_somebody_else_holds_is_left_for_the_next_time() {
    let database = database().await;
    let pool = database.pool().await;
    ledger(&pool).await;
    for hour in 0..3 {
        window(&pool, 1, "fresh", "done", (hour, hour + 1)).await;
    }
    execute(
        &pool,
        "INSERT INTO harvest.traces (dataset, trace_id, started_at, start_ns, end_ns)
         SELECT 'shop', decode(lpad(to_hex(n), 32, '0'), 'hex'), '2027-01-01', 0, 0 FROM generate_series(1, 3) AS n;
         UPDATE harvest.datasets SET retention_s = 86400, trace_count = 3;",
    )
    .await;
    let now = YEAR.parse::<DateTime<Utc>>().unwrap() + TimeDelta::days(30);
    let mut other = pool.begin().await.unwrap();
    for held in [
        "SELECT FROM harvest.windows ORDER BY id LIMIT 1 FOR UPDATE",
        "SELECT FROM harvest.traces LIMIT 1 FOR UPDATE",
    ] {
        query(held).execute(&mut *other).await.unwrap();
    }
    let deleted = async || {
        let deleted = housekeeping::keep_house(&pool, now).await.unwrap();
        let left = "SELECT trace_count FROM harvest.datasets";
        (deleted.windows, deleted.traces, number(&pool, left).await)
    };
    let meanwhile = tokio::time::timeout(std::time::Duration::from_secs(60), deleted()).await;
    assert_eq!(meanwhile.unwrap(), (2, 2, 1));
    other.rollback().await.unwrap();
    assert_eq!(deleted().await, (1, 1, 0));
}
