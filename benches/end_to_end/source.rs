//! Which Tempo is measured: a simulated one with a day made up, or a real one with what it holds.

use std::env;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tempo_harvest::simulator::{Burst, Config, GenerateSettings, Population, Simulator, Version};

/// The simulated day: long settled, and on the edges of hours.
const DAY: &str = "2026-03-01T00:00:00Z";

/// A Tempo, and the range of it that is collected.
#[derive(Debug, Clone)]
pub struct Source {
    /// For people.
    pub name: String,
    pub url: String,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Stops when the last copy is dropped.
    _simulator: Option<Arc<Simulator>>,
}

/// The Tempo at `TEMPO_URL`, if that is set, from `BENCH_FROM` to `BENCH_TO`.
pub fn from_environment() -> Option<Source> {
    let url = env::var("TEMPO_URL").ok().filter(|url| !url.is_empty())?;
    Some(Source {
        name: url.clone(),
        url: url.trim_end_matches('/').to_owned(),
        from: time_in("BENCH_FROM"),
        to: time_in("BENCH_TO"),
        _simulator: None,
    })
}

/// Unix seconds, or RFC 3339.
fn time_in(variable: &str) -> DateTime<Utc> {
    let text = env::var(variable).unwrap_or_default();
    let seconds = text
        .parse()
        .ok()
        .and_then(|s| DateTime::from_timestamp(s, 0));
    seconds.or_else(|| text.parse().ok()).unwrap_or_else(|| {
        panic!("{variable} is `{text}`; with TEMPO_URL, set it to an edge of the range to collect: Unix seconds, or as in {DAY}")
    })
}

/// A simulated Tempo with a day of this many traces, and in one second of it 7,500 more for every million.
pub fn simulated(traces: usize) -> Source {
    let from: DateTime<Utc> = DAY.parse().unwrap();
    simulated_over(from, from + TimeDelta::days(1), traces)
}

/// The same from one time to another.
pub fn simulated_over(from: DateTime<Utc>, to: DateTime<Utc>, traces: usize) -> Source {
    let mut settings = GenerateSettings::new(1, from, to, traces);
    settings.bursts.push(Burst {
        at_s: (from + (to - from) / 2).timestamp(),
        traces: traces * 75 / 10_000,
    });
    let config = Config::new(Version::V3_0_3, Population::generate(&settings));
    let simulator = Simulator::start(config).unwrap();
    Source {
        name: format!("a simulated Tempo with {traces} traces and a burst"),
        url: simulator.url(),
        from,
        to,
        _simulator: Some(Arc::new(simulator)),
    }
}
