//! What an hour of a busy source costs piece by piece: answers decoded, a range planned, a full window cut, rows merged.
//!
//! `cargo bench --bench core`, and with `-- decode` only what is named so. Answers are a simulated Tempo's; the database
//! is a PostgreSQL of its own, as the tests have. All of it end to end: `cargo bench --bench end_to_end`.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot have what it needs has failed"
)]

#[path = "../tests/support/postgres.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod postgres;

use std::hint::black_box;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sqlx::{Connection as _, PgConnection, raw_sql};
use tempo_harvest::{
    job::Order,
    plan::{
        self, Request,
        density::{Histogram, Step},
    },
    simulator::{Config, GenerateSettings, Population, Simulator, Version},
    split::{self, Density, OverLimit},
    store,
    tempo::wire::{Format, decode_search},
    window::{Window, WindowSet},
};
use tokio::runtime::Runtime;

/// Traces in one answer: an hour of a million a day, and a little more.
const TRACES: usize = 50_000;
/// 2026-03-01T00:00:00Z
const HOUR: i64 = 1_772_323_200;
const DAY_S: i64 = 86_400;

/// The answer to a search for the hour.
fn answer(runtime: &Runtime, query: Option<&str>, accept: &str) -> reqwest::Body {
    let start: DateTime<Utc> = DateTime::from_timestamp(HOUR, 0).unwrap();
    let settings = GenerateSettings::new(1, start, start + TimeDelta::hours(1), TRACES);
    let config = Config::new(Version::V3_0_3, Population::generate(&settings));
    let simulator = Simulator::start(config).unwrap();
    let mut url = url::Url::parse(&format!("{}/api/search", simulator.url())).unwrap();
    url.query_pairs_mut()
        .append_pair("start", &HOUR.to_string())
        .append_pair("end", &(HOUR + 3_600).to_string())
        .append_pair("limit", "262144")
        .extend_pairs(query.map(|query| ("q", query)));
    // A second installation is an error that changes nothing: there is one provider.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .no_gzip()
        .build()
        .unwrap();
    runtime.block_on(async {
        let answer = client
            .get(url)
            .header("accept", accept)
            .send()
            .await
            .unwrap();
        answer
            .error_for_status()
            .unwrap()
            .bytes()
            .await
            .unwrap()
            .into()
    })
}

fn decode(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(TRACES as u64));
    for (format, accept) in [
        (Format::Protobuf, "application/protobuf"),
        (Format::Json, "application/json"),
    ] {
        for (detail, query) in [("trace", None), ("services", Some("{}"))] {
            let answer = answer(&runtime, query, accept);
            let bytes = answer.as_bytes().unwrap();
            let name = format!("{} {detail}", format.name());
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    let body = black_box(bytes).to_vec();
                    let decoded = decode_search(format, &body, TRACES).unwrap();
                    assert_eq!(decoded.traces.len(), TRACES);
                    decoded
                });
            });
        }
    }
}

/// Ninety days, of which every second hour is there already.
fn plan(criterion: &mut Criterion) {
    let requested = Window::new(HOUR, HOUR + 90 * DAY_S).unwrap();
    let covered: WindowSet = requested
        .cut_at_edges(3_600)
        .into_iter()
        .step_by(2)
        .collect();
    let in_flight = WindowSet::default();
    let mut group = criterion.benchmark_group("plan 90 days");
    for window_s in [3_600, 15] {
        let request = Request {
            requested,
            covered: &covered,
            in_flight: &in_flight,
            kept_from: None,
            settled_until: requested.end(),
            window_s,
            order: Order::NewestFirst,
            sizing: None,
        };
        group.bench_function(format!("windows of {window_s} s"), |bencher| {
            bencher.iter(|| plan::plan(black_box(&request)));
        });
    }
}

/// An hour, counted by the second, at a limit of 1,000.
fn split(criterion: &mut Criterion) {
    let window = Window::new(HOUR, HOUR + 3_600).unwrap();
    let steps = (0..3_600).map(|second| Step {
        start: HOUR + second,
        seconds: 1,
        count: TRACES as u64 / 3_600,
    });
    let counted = Density::Counted(Histogram {
        steps: steps.collect(),
    });
    let over = OverLimit {
        window,
        limit: 1_000,
        ceiling: 1_000,
        density: &counted,
    };
    criterion.bench_function("split a counted hour", |bencher| {
        bencher.iter(|| split::over_limit(black_box(&over)));
    });
}

/// Storing what an hour brought, with the transaction around it.
fn merge(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let window = Window::new(HOUR, HOUR + 3_600).unwrap();
    let mut conn = runtime.block_on(connection());
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Elements(TRACES as u64));
    group.sample_size(10);
    for (detail, query) in [("trace", None), ("services", Some("{}"))] {
        let answer = answer(&runtime, query, "application/protobuf");
        let body = answer.as_bytes().unwrap();
        let traces = decode_search(Format::Protobuf, body, TRACES)
            .unwrap()
            .traces;
        for (case, empty_first) in [("new", true), ("all known", false)] {
            group.bench_function(format!("{detail}, {case}"), |bencher| {
                bencher.iter_custom(|times| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..times {
                        let traces = traces.clone();
                        if empty_first {
                            let empty = raw_sql("TRUNCATE harvest.traces");
                            runtime.block_on(empty.execute(&mut conn)).unwrap();
                        }
                        let begun = Instant::now();
                        runtime.block_on(async {
                            let mut transaction = conn.begin().await.unwrap();
                            store::traces::store(&mut transaction, "bench", window, traces)
                                .await
                                .unwrap();
                            transaction.commit().await.unwrap();
                        });
                        spent += begun.elapsed();
                    }
                    spent
                });
            });
        }
    }
}

async fn connection() -> PgConnection {
    let database = postgres::migrated_database(async |options| {
        let pool = store::connect(&options, 2).await.unwrap();
        store::migrate(&pool).await.unwrap();
        pool.close().await;
    })
    .await;
    database.pool().await.acquire().await.unwrap().detach()
}

criterion_group!(benches, decode, plan, split, merge);
criterion_main!(benches);
