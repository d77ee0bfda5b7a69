//! A database of one measurement's own, and what stands in it afterwards; and what the ledger alone costs.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, Row as _};
use tempo_harvest::store;

use crate::harvester::Harvester;
use crate::postgres::{self, TestDatabase};
use crate::{Detail, source};

/// A database with the program's tables.
pub struct Ledger(TestDatabase);

/// What was stored, and what was asked for it.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    pub traces: i64,
    /// `None` with a detail that does not bring them.
    pub spans: Option<i64>,
    pub requests: i64,
    /// Requests whose answers brought nothing that was kept: cut at their limit, too large, failed.
    pub thrown_away: i64,
    /// Of all answers' bodies, decompressed.
    pub bytes: i64,
}

impl Ledger {
    /// One that is new.
    pub async fn new() -> Self {
        let database = postgres::migrated_database(async |options| {
            let pool = store::connect(&options, 2).await.unwrap();
            store::migrate(&pool).await.unwrap();
            pool.close().await;
        })
        .await;
        let ledger = Self(database);
        ledger.settle().await;
        ledger
    }

    /// One without the program's tables.
    pub async fn empty() -> Self {
        let ledger = Self(postgres::database().await);
        ledger.settle().await;
        ledger
    }

    pub fn url(&self) -> String {
        self.0.url()
    }

    async fn connect(&self) -> PgConnection {
        self.0.options().connect().await.unwrap()
    }

    /// Writes what is to be written, so that a measurement does not pay for the one before.
    async fn settle(&self) {
        sqlx::query("CHECKPOINT")
            .execute(&mut self.connect().await)
            .await
            .unwrap();
    }

    /// What stands in it.
    pub async fn figures(&self) -> Figures {
        let row = sqlx::query(
            "SELECT traces, spans, requests, thrown_away, bytes
             FROM (SELECT count(*) AS traces, sum(span_count) AS spans FROM harvest.traces) stored,
                  (SELECT count(*) AS requests, count(*) FILTER (WHERE outcome NOT IN ('complete', 'limit')) AS thrown_away,
                          coalesce(sum(bytes), 0)::bigint AS bytes FROM harvest.fetches) asked",
        )
        .fetch_one(&mut self.connect().await)
        .await
        .unwrap();
        Figures {
            traces: row.get("traces"),
            spans: row.get("spans"),
            requests: row.get("requests"),
            thrown_away: row.get("thrown_away"),
            bytes: row.get("bytes"),
        }
    }

    /// Removes it.
    pub async fn forget(self) {
        let options = self.0.options();
        let name = options.get_database().unwrap().to_owned();
        let mut admin = options.database("postgres").connect().await.unwrap();
        sqlx::query(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)")))
            .execute(&mut admin)
            .await
            .unwrap();
    }
}

/// Runs a job of seven days twice, and plans ninety at a granularity of 15 seconds; prints how long the second and the
/// third of these took.
pub async fn week(traces_a_day: usize) {
    let from: DateTime<Utc> = "2026-03-02T00:00:00Z".parse().unwrap();
    let source = source::simulated_over(from, from + TimeDelta::days(7), traces_a_day * 7);
    let ledger = Ledger::new().await;
    let job = Harvester::new(&source, Detail::Trace, &ledger);
    job.run().await;
    let before = ledger.figures().await;
    let rerun = job.run().await;
    let after = ledger.figures().await;
    println!(
        "a rerun of a complete job of 7 days ({} traces): {:.3} s, {} requests",
        after.traces,
        rerun.seconds,
        after.requests - before.requests
    );
    let job = format!(
        "name = \"bench\"\n[source]\nname = \"bench\"\nurl = \"{}\"\n\
         [backfill]\nwindow = \"15s\"\nfrom = 2026-01-01T00:00:00Z\nto = 2026-04-01T00:00:00Z\n",
        source.url
    );
    let plan = Harvester::with_job(&job, &["plan", "bench.toml"], &ledger)
        .run()
        .await;
    println!(
        "planning 90 days in windows of 15 seconds: {:.3} s",
        plan.seconds
    );
    ledger.forget().await;
}
