//! What this process counts of its own: the requests it makes, and the job files it cannot take over.
//!
//! Everything else that `/metrics` shows is in the ledger, and alike in every process. These counters begin at zero with
//! the process, as Prometheus expects of counters. A meter is handed to whoever works; cloned, it stays the same meter.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::store::fetches::Fetch;

/// Upper bounds of the classes that durations are counted in: 5 ms, doubled up to 82 s.
const FIRST_BUCKET_S: f64 = 0.005;
const BUCKETS: u16 = 15;

/// What requests are told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    source: String,
    dataset: String,
    kind: &'static str,
    outcome: &'static str,
}

/// Requests of one kind to one source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    source: String,
    kind: &'static str,
}

/// A dataset and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Filled {
    source: String,
    dataset: String,
}

/// A job file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobFile {
    file: String,
}

/// Counters of one process.
#[derive(Debug, Clone)]
pub struct Meter {
    requests: Family<Request, Counter>,
    durations: Family<Asked, Histogram, fn() -> Histogram>,
    bytes: Family<Filled, Counter>,
    inspected_bytes: Family<Filled, Counter>,
    retries: Family<Filled, Counter>,
    thrown_away: Family<Filled, Counter>,
    invalid_job_files: Family<JobFile, Gauge>,
    rejected_edits: Counter,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(FIRST_BUCKET_S, 2.0, BUCKETS))
            }),
            bytes: Family::default(),
            inspected_bytes: Family::default(),
            retries: Family::default(),
            thrown_away: Family::default(),
            invalid_job_files: Family::default(),
            rejected_edits: Counter::default(),
        }
    }
}

impl Meter {
    /// Counts a request that was made.
    pub fn note(&self, fetch: &Fetch<'_>) {
        let filled = Filled {
            source: fetch.source.to_owned(),
            dataset: fetch.dataset.to_owned(),
        };
        self.requests
            .get_or_create(&Request {
                source: filled.source.clone(),
                dataset: filled.dataset.clone(),
                kind: fetch.kind,
                outcome: fetch.outcome,
            })
            .inc();
        self.durations
            .get_or_create(&Asked {
                source: filled.source.clone(),
                kind: fetch.kind,
            })
            .observe(fetch.duration.as_secs_f64());
        self.bytes
            .get_or_create(&filled)
            .inc_by(fetch.bytes.unwrap_or(0));
        self.inspected_bytes
            .get_or_create(&filled)
            .inc_by(fetch.inspected_bytes.unwrap_or(0));
        self.retries
            .get_or_create(&filled)
            .inc_by(u64::from(fetch.retry > 0));
        self.thrown_away
            .get_or_create(&filled)
            .inc_by(u64::from(fetch.is_thrown_away()));
    }

    /// Counts an answer that was whole and did not count all the same.
    pub fn note_thrown_away(&self, source: &str, dataset: &str) {
        let filled = Filled {
            source: source.to_owned(),
            dataset: dataset.to_owned(),
        };
        self.thrown_away.get_or_create(&filled).inc();
    }

    /// These job files cannot be taken over as they are now; `anew`: something else is wrong with them than before.
    pub fn note_invalid_job_files(&self, files: impl IntoIterator<Item = String>, anew: bool) {
        self.invalid_job_files.clear();
        let mut any = false;
        for file in files {
            self.invalid_job_files
                .get_or_create(&JobFile { file })
                .set(1);
            any = true;
        }
        if any && anew {
            self.rejected_edits.inc();
        }
    }

    /// Registers all of it for exposition.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "requests",
            "Requests this process has made to Tempo for windows, by how they ended; limit: refused, and a limit learned, which is no error",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "How long requests of this process took, from sending to the end of the body",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register_with_unit(
            "response",
            "Bytes of the answers to this process, decompressed",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register_with_unit(
            "inspected",
            "Bytes that Tempo says it read for this process; only searches tell",
            Unit::Bytes,
            self.inspected_bytes.clone(),
        );
        registry.register(
            "retried_requests",
            "Requests of this process for windows at which an attempt had failed before",
            self.retries.clone(),
        );
        registry.register(
            "thrown_away_answers",
            "Answers to searches of this process that did not count: at their limit, stopped early, too large, or not to be believed",
            self.thrown_away.clone(),
        );
        registry.register(
            "job_file_invalid",
            "1 while a job file of this process cannot be taken over as it is, and its last good version goes on; absent otherwise",
            self.invalid_job_files.clone(),
        );
        registry.register(
            "job_file_rejected_edits",
            "Times this process found job files changed and could not take them over",
            self.rejected_edits.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::window::Window;

    #[test]
    fn what_is_noted_is_exposed() {
        let meter = Meter::default();
        let fetch = Fetch {
            source: "prod",
            dataset: "shop",
            window_id: None,
            kind: "search",
            span: Window::new(0, 60).unwrap(),
            query: None,
            traces_limit: Some(500),
            server_limit: Some(500),
            retry: 1,
            returned: Some(500),
            outcome: "cut",
            status: Some(200),
            bytes: Some(1_000),
            inspected_bytes: None,
            duration: Duration::from_millis(40),
            error: None,
        };
        meter.note(&fetch);
        meter.note_thrown_away("prod", "shop");
        meter.note_invalid_job_files(["shop.toml".to_owned()], true);
        let exposed = || {
            let mut registry = Registry::default();
            meter.register(&mut registry);
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        let text = exposed();
        for line in [
            r#"requests_total{source="prod",dataset="shop",kind="search",outcome="cut"} 1"#,
            r#"request_duration_seconds_bucket{le="0.04",source="prod",kind="search"} 1"#,
            r#"response_bytes_total{source="prod",dataset="shop"} 1000"#,
            r#"retried_requests_total{source="prod",dataset="shop"} 1"#,
            r#"thrown_away_answers_total{source="prod",dataset="shop"} 2"#,
            r#"job_file_invalid{file="shop.toml"} 1"#,
            "job_file_rejected_edits_total 1",
        ] {
            assert!(
                text.lines().any(|it| it == line),
                "{line} is not in\n{text}"
            );
        }
        meter.note_invalid_job_files([], false);
        assert!(!exposed().contains("shop.toml"));
    }
}
