//! The simulator, held to recordings of real Tempos and to the facts that a client has to live with.

mod facts;
mod faults;
mod http;
mod queries;
mod recordings;
mod server;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tempo_harvest::simulator::{
    ClockSetting, Config, Population, Simulator, Span, TraceFragment, Version,
};

use http::Reply;

/// A simulator of Tempo 3.0.3 with its clock at a standstill.
fn start(population: Population, now: DateTime<Utc>) -> Simulator {
    start_with(population, now, |_| {})
}

fn start_with(
    population: Population,
    now: DateTime<Utc>,
    change: impl FnOnce(&mut Config),
) -> Simulator {
    let mut config = Config::new(Version::V3_0_3, population);
    config.clock = ClockSetting::Fixed(now);
    change(&mut config);
    Simulator::start(config).unwrap()
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A trace of one span of `duration_ms` in service `shop`, identified by a small number.
fn trace(number: u8, start_s: i64, duration_ms: u64) -> TraceFragment {
    let start_ns = start_s as u64 * 1_000_000_000;
    let span = Span::root(
        u64::from(number),
        "shop",
        "GET /",
        start_ns,
        start_ns + duration_ms * 1_000_000,
    );
    TraceFragment::new(id(number), vec![span])
}

fn id(number: u8) -> [u8; 16] {
    let mut id = [0xab; 16];
    id[15] = number;
    id
}

/// A search, its answer in JSON; `query` absent is a query-less one.
fn search(simulator: &Simulator, query: Option<&str>, window: (i64, i64), limit: u32) -> Value {
    let reply = search_reply(simulator, query, window, limit);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn search_reply(
    simulator: &Simulator,
    query: Option<&str>,
    (start_s, end_s): (i64, i64),
    limit: u32,
) -> Reply {
    let query = query
        .map(|query| format!("&q={}", http::encoded(query)))
        .unwrap_or_default();
    let path = format!("/api/search?start={start_s}&end={end_s}&limit={limit}&spss=100{query}");
    http::get(&simulator.url(), &path)
}

fn count_reply(
    simulator: &Simulator,
    query: &str,
    (start_s, end_s): (i64, i64),
    step: &str,
) -> Reply {
    let query = http::encoded(query);
    let path =
        format!("/api/metrics/query_range?start={start_s}&end={end_s}&step={step}&q={query}");
    http::get(&simulator.url(), &path)
}

fn traces(answer: &Value) -> &Vec<Value> {
    answer["traces"].as_array().unwrap()
}

/// The trace IDs of an answer, padded, sorted.
fn ids(answer: &Value) -> Vec<String> {
    let mut ids: Vec<String> = traces(answer)
        .iter()
        .map(|trace| format!("{:0>32}", trace["traceID"].as_str().unwrap()))
        .collect();
    ids.sort();
    ids
}

/// Counts root spans.
const ROOTS: &str = "{nestedSetParent<0} | count_over_time() with(exemplars=false)";
