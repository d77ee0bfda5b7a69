//! Made-up traces: busy days, bursts, long traces, traces whose root never arrives.
//!
//! The shape follows what was loaded into a real Tempo to learn its habits: twice as busy by day as by night, 1 to 7 spans over ten
//! services, log-normal durations around 80 ms, one span in 33 failed. Only facts are made here; the spans follow from them in
//! `population`.

use chrono::{DateTime, Utc};

use super::population::{Operation, Record};
use super::random::Random;
use super::span::Text;

const SERVICES: [&str; 10] = [
    "gateway", "checkout", "cart", "catalog", "payments", "search", "auth", "shipping", "email",
    "ledger",
];
const ACTIONS: [(&str, &str); 4] = [
    ("GET", "list"),
    ("GET", "item"),
    ("POST", "create"),
    ("PUT", "update"),
];
const MOST_SPANS: u64 = 7;
const MEDIAN_DURATION_NS: f64 = 80e6;
const DURATION_SIGMA: f64 = 1.0;
const ERROR_RATE: f64 = 0.03;
/// Least and most duration of a long trace.
const LONG_DURATION_NS: (f64, f64) = (60e9, 400e9);

/// Traces that all start within one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// The second, since 1970.
    pub at_s: i64,
    /// How many traces.
    pub traces: usize,
}

/// What to make up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Equal seeds make equal populations.
    pub seed: u64,
    /// No trace starts before.
    pub start: DateTime<Utc>,
    /// Every trace starts before.
    pub end: DateTime<Utc>,
    /// Ordinary traces.
    pub traces: usize,
    /// Further traces, crowded into single seconds.
    pub bursts: Vec<Burst>,
    /// Further traces that last 60 to 400 s.
    pub long_traces: usize,
    /// Further traces whose root never arrives.
    pub rootless_traces: usize,
}

impl Settings {
    /// Ordinary traces only.
    pub fn new(seed: u64, start: DateTime<Utc>, end: DateTime<Utc>, traces: usize) -> Self {
        Self {
            seed,
            start,
            end,
            traces,
            bursts: Vec::new(),
            long_traces: 0,
            rootless_traces: 0,
        }
    }
}

/// The operations that traces are made of.
pub(super) fn operations() -> Vec<Operation> {
    SERVICES
        .iter()
        .flat_map(|service| {
            let shared: Text = Text::from(*service);
            ACTIONS.iter().map(move |(method, page)| Operation {
                service: Some(shared.clone()),
                name: Text::from(format!("{method} /{service}/{page}")),
            })
        })
        .collect()
}

/// The facts of each trace, in no particular order. Roots index into [`operations`].
pub(super) fn records(settings: &Settings) -> Vec<Record> {
    let mut random = Random::new(settings.seed);
    let start_ns = nanoseconds(settings.start);
    let range_ns = nanoseconds(settings.end).saturating_sub(start_ns);
    let mut records = Vec::with_capacity(settings.traces);
    for _ in 0..settings.traces {
        let trace_start_ns = start_ns + diurnal(&mut random, start_ns, range_ns);
        records.push(ordinary(&mut random, trace_start_ns));
    }
    for burst in &settings.bursts {
        let burst_ns = u64::try_from(burst.at_s).unwrap_or(0) * 1_000_000_000;
        for _ in 0..burst.traces {
            let trace_start_ns = burst_ns + random.below(1_000_000_000);
            records.push(ordinary(&mut random, trace_start_ns));
        }
    }
    for _ in 0..settings.long_traces {
        let trace_start_ns = start_ns + random.below(range_ns);
        let mut record = ordinary(&mut random, trace_start_ns);
        let (least, most) = LONG_DURATION_NS;
        record.end_ns = trace_start_ns + (least + random.unit() * (most - least)) as u64;
        records.push(record);
    }
    for _ in 0..settings.rootless_traces {
        let trace_start_ns = start_ns + random.below(range_ns);
        let mut record = ordinary(&mut random, trace_start_ns);
        record.root = None;
        records.push(record);
    }
    records
}

fn ordinary(random: &mut Random, start_ns: u64) -> Record {
    let spans = 1 + random.below(MOST_SPANS) as u32;
    let errors = (0..spans).filter(|_| random.unit() < ERROR_RATE).count() as u32;
    let duration_ns = random.log_normal(MEDIAN_DURATION_NS, DURATION_SIGMA) as u64;
    let operations = SERVICES.len() * ACTIONS.len();
    Record {
        trace_id: random.bytes(),
        start_ns,
        end_ns: start_ns + duration_ns,
        spans,
        errors,
        root: Some(random.index(operations) as u32),
        given: None,
    }
}

/// An offset into the range; those at noon are twice as likely as those at midnight.
fn diurnal(random: &mut Random, start_ns: u64, range_ns: u64) -> u64 {
    const DAY_NS: u64 = 86_400_000_000_000;
    loop {
        let offset_ns = random.below(range_ns);
        let day_fraction = ((start_ns + offset_ns) % DAY_NS) as f64 / DAY_NS as f64;
        let likelihood = 0.5 + 0.5 * (std::f64::consts::PI * day_fraction).sin();
        if random.unit() < likelihood {
            return offset_ns;
        }
    }
}

fn nanoseconds(time: DateTime<Utc>) -> u64 {
    let since_1970_ns = time.timestamp_nanos_opt().unwrap_or(0);
    u64::try_from(since_1970_ns).unwrap_or(0)
}
