//! The least it could cost: the bytes fetched and thrown away, then the rows copied and merged, one after the other.
//!
//! The plan is fixed, whatever the program does: one search an hour at the limit that a Tempo allows by default, without a
//! query where the detail needs none, and for spans six an hour. So are the tables: the columns and indexes that the
//! program's own tables had when this was written, without their checks and triggers. Rows are those that the program has
//! just stored, in the order in which it stored them, so both bring the same ones.

use std::process::{Command, Stdio};
use std::time::Instant;

use chrono::TimeDelta;
use futures::{StreamExt as _, stream};
use reqwest::header::ACCEPT;
use tempfile::TempDir;

use crate::Detail;
use crate::harvester::CONCURRENCY;
use crate::ledger::Ledger;
use crate::source::Source;

/// What a Tempo allows by default.
const LIMIT: u32 = 262_144;

/// A search each of whose spans is a set of its own: the one that brings all of them.
const SPANS_QUERY: &str = "{ } | by(span:id) | select(span:parentID, span:name, span:status, span:kind, resource.service.name)";

/// A table, and what is copied into it.
struct Table {
    /// In the program's schema.
    name: &'static str,
    /// What is copied: everything that is not computed.
    columns: &'static str,
    /// The columns of the key.
    key: &'static str,
    /// The same table as `floor`.
    definition: &'static str,
}

const TRACES: Table = Table {
    name: "harvest.traces",
    columns: "dataset, trace_id, started_at, start_ns, end_ns, exact, root_service, root_name, span_count, error_count, services, first_stored_at, updated_at",
    key: "dataset, trace_id",
    definition: "
        CREATE TABLE floor (
            dataset         text NOT NULL,
            trace_id        bytea NOT NULL,
            started_at      timestamptz NOT NULL,
            start_ns        bigint NOT NULL,
            end_ns          bigint NOT NULL,
            duration_ms     bigint NOT NULL GENERATED ALWAYS AS ((end_ns - start_ns) / 1000000) STORED,
            exact           boolean NOT NULL DEFAULT false,
            root_service    text,
            root_name       text,
            span_count      integer,
            error_count     integer,
            services        jsonb,
            first_stored_at timestamptz NOT NULL DEFAULT now(),
            updated_at      timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (dataset, trace_id)
        );
        CREATE INDEX ON floor (dataset, started_at);",
};

const SPANS: Table = Table {
    name: "harvest.spans",
    columns: "dataset, trace_id, span_id, parent_span_id, service, name, kind, status, started_at, start_ns, duration_ns, attributes",
    key: "dataset, trace_id, span_id",
    definition: "
        CREATE TABLE floor (
            dataset        text NOT NULL,
            trace_id       bytea NOT NULL,
            span_id        bytea NOT NULL,
            parent_span_id bytea,
            service        text,
            name           text NOT NULL,
            kind           text NOT NULL,
            status         text NOT NULL,
            started_at     timestamptz NOT NULL,
            start_ns       bigint NOT NULL,
            duration_ns    bigint NOT NULL,
            attributes     jsonb,
            PRIMARY KEY (dataset, trace_id, span_id)
        );",
};

/// Seconds of each part.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    pub fetch_s: f64,
    pub copy_s: f64,
    pub merge_s: f64,
}

impl Parts {
    pub fn sum_s(self) -> f64 {
        self.fetch_s + self.copy_s + self.merge_s
    }
}

/// The floor of one source and detail.
pub struct Floor<'a> {
    source: &'a Source,
    detail: Detail,
    client: reqwest::Client,
    /// Where the exported rows lie.
    folder: TempDir,
}

impl<'a> Floor<'a> {
    pub fn new(source: &'a Source, detail: Detail) -> Self {
        Self {
            source,
            detail,
            client: client(),
            folder: TempDir::new().unwrap(),
        }
    }

    fn tables(&self) -> &'static [Table] {
        match self.detail {
            Detail::Trace | Detail::Services => &[TRACES],
            Detail::Spans => &[TRACES, SPANS],
        }
    }

    fn file(&self, table: &Table) -> String {
        let path = self.folder.path().join(table.name);
        path.display().to_string()
    }

    /// Writes the program's rows to files.
    pub async fn export(&self, ledger: &Ledger) {
        for table in self.tables() {
            let Table { name, columns, .. } = table;
            let file = self.file(table);
            let export =
                format!("\\copy (SELECT {columns} FROM {name}) TO '{file}' (FORMAT binary)");
            psql(&ledger.url(), &[&export]).await;
        }
    }

    /// Measures each part, in a database with nothing in it.
    pub async fn measure(&self) -> Parts {
        let begun = Instant::now();
        self.fetch().await;
        let mut parts = Parts {
            fetch_s: begun.elapsed().as_secs_f64(),
            ..Parts::default()
        };
        for table in self.tables() {
            let database = Ledger::empty().await;
            let Table {
                columns,
                key,
                definition,
                ..
            } = table;
            let file = self.file(table);
            let spent_s = psql(
                &database.url(),
                &[
                    definition,
                    &format!("CREATE TEMPORARY TABLE staged AS SELECT {columns} FROM floor"),
                    "\\timing on",
                    &format!("\\copy staged FROM '{file}' (FORMAT binary)"),
                    &format!(
                        "INSERT INTO floor ({columns}) SELECT {columns} FROM staged ORDER BY {key} ON CONFLICT DO NOTHING"
                    ),
                ],
            )
            .await;
            let [copy_s, merge_s] = spent_s[..] else {
                panic!("psql told {spent_s:?} seconds, not those of COPY and of the merge")
            };
            parts.copy_s += copy_s;
            parts.merge_s += merge_s;
            database.forget().await;
        }
        parts
    }

    /// Fetches everything, and keeps nothing.
    async fn fetch(&self) {
        let (query, width) = match self.detail {
            Detail::Trace => (None, TimeDelta::hours(1)),
            Detail::Services => (Some("{}"), TimeDelta::hours(1)),
            Detail::Spans => (Some(SPANS_QUERY), TimeDelta::minutes(10)),
        };
        let mut windows = Vec::new();
        let mut start = self.source.from;
        while start < self.source.to {
            let end = (start + width).min(self.source.to);
            windows.push((start, end));
            start = end;
        }
        let searches = windows.into_iter().map(|(start, end)| {
            let mut url = url::Url::parse(&format!("{}/api/search", self.source.url)).unwrap();
            let mut pairs = url.query_pairs_mut();
            pairs
                .append_pair("start", &start.timestamp().to_string())
                .append_pair("end", &end.timestamp().to_string())
                .append_pair("limit", &LIMIT.to_string());
            if let Some(query) = query {
                pairs.append_pair("q", query).append_pair("spss", "1");
            }
            drop(pairs);
            self.client
                .get(url)
                .header(ACCEPT, "application/protobuf")
                .send()
        });
        stream::iter(searches)
            .buffer_unordered(CONCURRENCY)
            .for_each_concurrent(CONCURRENCY, async |answer| {
                let mut answer = answer.unwrap();
                let status = answer.status();
                if !status.is_success() {
                    panic!(
                        "the fixed plan is refused, {status}: {}",
                        answer.text().await.unwrap()
                    );
                }
                while answer.chunk().await.unwrap().is_some() {}
            })
            .await;
    }
}

/// A client that asks for no compression, which no fixed plan needs on one machine.
pub fn client() -> reqwest::Client {
    // A second installation is an error that changes nothing: there is one provider.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .no_gzip()
        .build()
        .unwrap()
}

/// Runs commands in one session of psql; returns the seconds that it tells of each after `\timing on`.
async fn psql(url: &str, commands: &[&str]) -> Vec<f64> {
    let mut command = Command::new("psql");
    command
        .args([url, "-XqAt", "-v", "ON_ERROR_STOP=1"])
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    for text in commands {
        command.args(["-c", text]);
    }
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap_or_else(|error| {
            panic!("`psql` cannot be run ({error}): install PostgreSQL's client")
        });
    assert!(
        output.status.success(),
        "psql: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            line.strip_prefix("Time: ")?
                .split(' ')
                .next()?
                .parse::<f64>()
                .ok()
        })
        .map(|milliseconds| milliseconds / 1_000.0)
        .collect()
}
