//! What bringing baselines up to date costs after 2,000 new traces, with 10,000,000 stored and with 10,000, side by side.
//!
//! `cargo bench --bench baseline` prints, for new traces that came at the live edge and for such that are spread over the whole
//! week, the median and the longest of both, and their ratio; and what counting everything anew costs. The last hour of the
//! big history holds 400,000 traces more. `-- --traces N` takes another big history. New traces are stored as a worker stores
//! them. It starts a PostgreSQL of its own, as the tests do, which takes 4 GB of disk.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot have what it needs has failed"
)]

#[path = "../tests/support/postgres.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod postgres;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgPool, query};
use tempo_harvest::{
    baseline::pass,
    store::{self, baselines, traces},
    tempo::wire::{ServiceCounts, TraceSummary},
    window::Window,
};

const NEW: usize = 2_000;
const ROUNDS: usize = 15;
const OPERATIONS: usize = 24;
const WEEK_S: i64 = 7 * 86_400;
/// 2026-03-08T00:00:00Z
const END_S: i64 = 1_772_928_000;
const BUSY_HOUR: i64 = 400_000;

/// Traces evenly spread from one second to another.
const STORED: &str = "
    INSERT INTO harvest.traces (dataset, trace_id, started_at, start_ns, end_ns, root_service, root_name, span_count, error_count)
    SELECT $1, int8send($5) || int8send(i), 'epoch'::timestamptz + start_ns / 1000 * interval '1 microsecond', start_ns,
           start_ns + (exp(3.5 + 1.2 * (((i * 7919) % 1000) / 500.0 - 1)))::bigint * 1000000, 'service-' || i % 6, 'operation ' || i % 24, 5,
           (i % 33 = 0)::int
    FROM generate_series(1, $2) i, LATERAL (SELECT ($3 + ($4 - $3)::float8 * i / ($2 + 1)) * 1e9) AS at (ns),
         LATERAL (SELECT at.ns::bigint AS start_ns) AS starts";

fn number(name: &str, otherwise: i64) -> i64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments
        .nth(1)
        .map_or(otherwise, |number| number.parse().unwrap())
}

struct History {
    dataset: &'static str,
    pool: PgPool,
    next_id: u64,
}

impl History {
    async fn new(dataset: &'static str, pool: &PgPool, stored: i64, busy: i64) -> Self {
        query("INSERT INTO harvest.datasets (name, source, detail, trace_count) VALUES ($1, 'prod', 'services', $2)")
            .bind(dataset)
            .bind(stored + busy)
            .execute(pool)
            .await
            .unwrap();
        for (part, traces, from) in [(0i64, stored, END_S - WEEK_S), (1, busy, END_S - 3_600)] {
            query(STORED)
                .bind(dataset)
                .bind(traces)
                .bind(from)
                .bind(END_S)
                .bind(part)
                .execute(pool)
                .await
                .unwrap();
        }
        let mut conn = pool.acquire().await.unwrap();
        baselines::ask_for_recount(&mut conn, dataset)
            .await
            .unwrap();
        Self {
            dataset,
            pool: pool.clone(),
            next_id: 0,
        }
    }

    /// Stores new traces within a window, as a worker does.
    async fn store(&mut self, from: i64, to: i64) {
        let length_ns = (to - from) * 1_000_000_000;
        let found: Vec<TraceSummary> = (0..NEW)
            .map(|index| {
                self.next_id += 1;
                let mut trace_id = [0xff; 16];
                trace_id[8..].copy_from_slice(&self.next_id.to_be_bytes());
                let service: Arc<str> = format!("service-{}", index % 6).into();
                let counts = ServiceCounts {
                    spans: 5,
                    errors: u32::from(index % 33 == 0),
                };
                TraceSummary {
                    trace_id,
                    start_ns: from * 1_000_000_000
                        + length_ns / NEW as i64 * i64::try_from(index).unwrap(),
                    duration_ms: u32::try_from(10 + index * 37 % 400).unwrap(),
                    root_service: Some(Arc::clone(&service)),
                    root_name: Some(format!("operation {}", index % OPERATIONS).into()),
                    services: Some(Box::new([(service, counts)])),
                }
            })
            .collect();
        let mut conn = self.pool.acquire().await.unwrap();
        let mut tx = conn.begin().await.unwrap();
        let window = Window::new(from, to).unwrap();
        let merged = traces::store(&mut tx, self.dataset, window, found)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(merged.new, NEW as i64);
    }

    /// Brings the baselines up to date; returns how long it took.
    async fn pass(&self) -> (Duration, pass::Passed) {
        let begun = Instant::now();
        let passed = pass::bring_up_to_date(&self.pool, self.dataset)
            .await
            .unwrap();
        (begun.elapsed(), passed.unwrap())
    }
}

#[tokio::main]
async fn main() {
    let stored = number("--traces", 10_000_000);
    let database = postgres::migrated_database(async |options| {
        let pool = store::connect(&options, 2).await.unwrap();
        store::migrate(&pool).await.unwrap();
        pool.close().await;
    })
    .await;
    let pool = database.pool().await;
    query("INSERT INTO harvest.sources (name, spec) VALUES ('prod', '{}')")
        .execute(&pool)
        .await
        .unwrap();
    let mut small = History::new("small", &pool, 10_000, 0).await;
    let mut big = History::new("big", &pool, stored, BUSY_HOUR).await;
    query("VACUUM ANALYZE harvest.traces")
        .execute(&pool)
        .await
        .unwrap();
    for history in [&small, &big] {
        let (took, passed) = history.pass().await;
        assert!(passed.recounted);
        println!(
            "{:>5}: counting everything anew   {took:>9.2?}   {} cells, {} baselines",
            history.dataset, passed.cells, passed.baselines
        );
    }
    for (name, length_s) in [
        ("of the last 15 s", 15),
        ("of the last hour", 3_600),
        ("spread over a week", WEEK_S),
    ] {
        let mut spent: [Vec<Duration>; 2] = Default::default();
        // In turns, so that whatever else the machine does meets both.
        for _ in 0..ROUNDS {
            for (history, spent) in [&mut small, &mut big].into_iter().zip(&mut spent) {
                history.store(END_S - length_s, END_S).await;
                let (took, passed) = history.pass().await;
                assert!(passed.notes == 1 && !passed.recounted, "{passed:?}");
                spent.push(took);
            }
        }
        let [small, big] = spent.map(|mut spent| {
            spent.sort_unstable();
            (spent[ROUNDS / 2], spent[ROUNDS - 1])
        });
        println!("\na pass after {NEW} new traces {name}, {ROUNDS} times   median   longest");
        println!("with 10,000 stored    {:>9.2?} {:>9.2?}", small.0, small.1);
        println!(
            "with {:>10} stored {:>9.2?} {:>9.2?}",
            stored + BUSY_HOUR,
            big.0,
            big.1
        );
        println!(
            "ratio of the medians  {:>9.2}",
            big.0.as_secs_f64() / small.0.as_secs_f64()
        );
    }
}
