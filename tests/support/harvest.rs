//! A backfill through the front door: a simulated Tempo, a database, a folder with job files, and the real program.
//!
//! What is stored is compared with the simulator's own truth. Nothing here sleeps for an event that can be awaited.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot have what it needs has failed"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool, Row, query, query_scalar};
use tempfile::TempDir;
use tempo_harvest::simulator::{
    Config, Control, GenerateSettings, Population, RequestRecord, Simulator, TraceTruth, Version,
};
use tempo_harvest::store;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::postgres::{self, TestDatabase};

/// Longer than any command takes here, on a busy machine too.
const DEADLINE: Duration = Duration::from_secs(120);

/// The first second of the day that most tests collect, long settled: 2026-03-01T00:00:00Z.
pub const DAY_S: i64 = 1_772_323_200;
pub const HOUR_S: i64 = 3_600;

pub fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap()
}

pub fn rfc3339(second: i64) -> String {
    at(second).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Ordinary traces over some hours from [`DAY_S`] on.
pub fn hours(hours: i64, traces: usize) -> GenerateSettings {
    GenerateSettings::new(7, at(DAY_S), at(DAY_S + hours * HOUR_S), traces)
}

/// A Tempo 3 with a population made up, which answers at most 500 traces a search.
pub fn tempo(settings: &GenerateSettings) -> Config {
    let mut config = Config::new(Version::V3_0_3, Population::generate(settings));
    config.limits.max_result_limit = 500;
    config
}

/// A new database with the program's tables.
pub async fn database() -> TestDatabase {
    postgres::migrated_database(async |options| {
        let pool = store::connect(&options, 2).await.unwrap();
        store::migrate(&pool).await.unwrap();
        pool.close().await;
    })
    .await
}

/// A job file, part by part.
#[derive(Debug, Clone)]
pub struct Job {
    pub name: String,
    /// The top level, after the name.
    pub top: String,
    /// More of `[source]`.
    pub source: String,
    /// More of the source's `limits`, beginning with a comma.
    pub limits: String,
    pub select: String,
    /// `[backfill]` without its range.
    pub backfill: String,
    /// `from` and `to`, Unix seconds; `None` leaves them to `backfill`.
    pub range: Option<(i64, i64)>,
}

/// Every trace of some hours from [`DAY_S`] on, in windows of an hour.
pub fn job(hours: i64) -> Job {
    Job {
        name: "shop".to_owned(),
        top: String::new(),
        source: String::new(),
        limits: String::new(),
        select: String::new(),
        backfill: String::new(),
        range: Some((DAY_S, DAY_S + hours * HOUR_S)),
    }
}

impl Job {
    pub fn services(mut self) -> Self {
        self.select += "detail = \"services\"\n";
        self
    }

    /// Every span, with these attributes: TOML strings with their quotes, separated by commas.
    pub fn spans(mut self, attributes: &str) -> Self {
        self.select += &format!("detail = \"spans\"\nattributes = [{attributes}]\n");
        self
    }

    pub fn query(mut self, query: &str) -> Self {
        self.select += &format!("query = '{query}'\n");
        self
    }

    pub fn limits(mut self, limits: &str) -> Self {
        self.limits += &format!(", {limits}");
        self
    }

    pub fn source(mut self, lines: &str) -> Self {
        self.source += &format!("{lines}\n");
        self
    }

    pub fn backfill(mut self, lines: &str) -> Self {
        self.backfill += &format!("{lines}\n");
        self
    }

    pub fn range(mut self, from_s: i64, to_s: i64) -> Self {
        self.range = Some((from_s, to_s));
        self
    }

    /// The last one to call: the table stands behind [backfill].
    pub fn retention(self, traces: &str) -> Self {
        self.backfill(&format!("[retention]\ntraces = \"{traces}\""))
    }

    fn text(&self, url: &str) -> String {
        let Self {
            name,
            top,
            source,
            limits,
            select,
            backfill,
            range,
        } = self;
        // Windows of an hour, whatever is in them, but where a test is about that.
        let window = match backfill.contains("window") {
            true => "",
            false => "window = \"1h\"\n",
        };
        let range = range.map_or_else(String::new, |(from_s, to_s)| {
            format!("from = {}\nto = {}\n", rfc3339(from_s), rfc3339(to_s))
        });
        format!(
            "name = \"{name}\"\n{top}\n[source]\nname = \"simulator\"\nurl = \"{url}\"\n\
             limits = {{ requests_per_second = 1000{limits} }}\n{source}\n[select]\n{select}\n[backfill]\n{range}{window}{backfill}"
        )
    }
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Its report in JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The same, for a command that was to end with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// The program at work.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Stream,
    stderr: Stream,
}

/// What came on one stream so far.
#[derive(Debug)]
struct Stream {
    text: watch::Receiver<String>,
    reader: JoinHandle<()>,
}

impl Stream {
    fn new(mut pipe: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let (sender, text) = watch::channel(String::new());
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 8192];
            let mut bytes = Vec::new();
            while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
                bytes.extend_from_slice(&buffer[..count]);
                sender.send_replace(String::from_utf8_lossy(&bytes).into_owned());
            }
        });
        Self { text, reader }
    }
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// What is on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text.borrow().clone()
    }

    /// Waits until stderr has this text.
    pub async fn says(&mut self, text: &str) {
        let said = self.stderr.text.wait_for(|said| said.contains(text));
        let said = tokio::time::timeout(DEADLINE, said).await;
        let said = said.map(|said| said.is_ok());
        assert!(
            matches!(said, Ok(true)),
            "never said `{text}`, but:\n{}",
            self.stderr()
        );
    }

    /// Waits until it has ended.
    pub async fn end(self) -> Said {
        self.end_within(DEADLINE).await
    }

    /// The same, for one that may take longer.
    pub async fn end_within(mut self, deadline: Duration) -> Said {
        let Ok(status) = tokio::time::timeout(deadline, self.child.wait()).await else {
            let stdout = self.stdout.text.borrow().clone();
            panic!(
                "still running after {deadline:?}:\n{stdout}\n{}",
                self.stderr()
            );
        };
        self.stdout.reader.await.unwrap();
        self.stderr.reader.await.unwrap();
        Said {
            code: status.unwrap().code(),
            stdout: self.stdout.text.borrow().clone(),
            stderr: self.stderr.text.borrow().clone(),
        }
    }
}

/// A trace as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub start_ns: i64,
    pub duration_ms: i64,
    pub root_service: Option<String>,
    pub root_name: Option<String>,
    /// Spans and errors; `None` where the detail does not bring them.
    pub counts: Option<(i32, i32)>,
}

impl Stored {
    fn of(truth: &TraceTruth, with_counts: bool) -> Self {
        Self {
            start_ns: truth.start_ns.try_into().unwrap(),
            duration_ms: ((truth.end_ns - truth.start_ns) / 1_000_000)
                .try_into()
                .unwrap(),
            root_service: truth.root_service.as_deref().map(str::to_owned),
            root_name: truth.root_name.as_deref().map(str::to_owned),
            counts: with_counts.then_some((truth.spans as i32, truth.errors as i32)),
        }
    }
}

/// A Tempo, a database, and a folder: all of a test's own.
pub struct Scene {
    pub simulator: Simulator,
    pub control: Control,
    pub database: TestDatabase,
    pub pool: PgPool,
    pub folder: TempDir,
}

impl Scene {
    pub async fn new(config: Config) -> Self {
        Self::on(database().await, config).await
    }

    /// The same on a database that is there.
    pub async fn on(database: TestDatabase, config: Config) -> Self {
        let simulator = Simulator::start(config).unwrap();
        Self {
            control: simulator.control(),
            pool: database.pool().await,
            simulator,
            database,
            folder: TempDir::new().unwrap(),
        }
    }

    /// Writes a job file for the simulator, under its name; returns its name in the folder.
    pub fn write(&self, job: &Job) -> String {
        let file = format!("{}.toml", job.name);
        self.write_file(&file, &job.text(&self.simulator.url()));
        file
    }

    pub fn write_file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Where a text that is found only once stands in a job file: `shop.toml:9:9`.
    pub fn place(&self, file: &str, text: &str) -> String {
        let content = std::fs::read_to_string(self.folder.path().join(file)).unwrap();
        let before = content.split(text).next().unwrap();
        assert_ne!(before, content, "`{text}` is not in {file}");
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
        format!("{file}:{line}:{column}")
    }

    /// Starts the program in the folder, with this database.
    pub fn start(&self, arguments: &[&str]) -> Process {
        self.start_with(arguments, &[("DATABASE_URL", &self.database.url())])
    }

    /// The same with this environment, and nothing else of the test's own.
    pub fn start_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
        start_in(self.folder.path(), arguments, environment)
    }

    /// Runs the program in the folder, with this database.
    pub async fn command(&self, arguments: &[&str]) -> Said {
        self.start(arguments).end().await
    }

    pub async fn command_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Said {
        self.start_with(arguments, environment).end().await
    }

    /// Writes the job file and runs it.
    pub async fn run(&self, job: &Job) -> Said {
        let file = self.write(job);
        self.command(&["run", &file]).await
    }

    /// The requests since the last call, or the beginning.
    pub fn new_requests(&self) -> Vec<RequestRecord> {
        let requests = self.control.requests();
        self.control.forget_requests();
        requests
    }

    /// Waits until this many requests have been answered since they were last forgotten.
    pub async fn answers(&self, count: usize) {
        let answers = tokio::time::timeout(DEADLINE, self.control.wait_for_answers(count)).await;
        let so_far = self.control.requests().len();
        assert!(answers.is_ok(), "never {count} answers, but {so_far}");
    }

    /// Waits until this many requests are held back at once.
    pub async fn held(&self, count: usize) {
        let held = tokio::time::timeout(DEADLINE, self.control.wait_for_held(count)).await;
        assert!(held.is_ok(), "never {count} requests held");
    }

    /// Everything stored of a dataset.
    pub async fn stored(&self, dataset: &str) -> BTreeMap<Vec<u8>, Stored> {
        let rows = query(
            "SELECT trace_id, start_ns, duration_ms, root_service, root_name, span_count, error_count
             FROM harvest.traces WHERE dataset = $1",
        )
        .bind(dataset)
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let read = |row: &sqlx::postgres::PgRow| Stored {
            start_ns: row.get(1),
            duration_ms: row.get(2),
            root_service: row.get(3),
            root_name: row.get(4),
            counts: Option::zip(row.get(5), row.get(6)),
        };
        rows.iter().map(|row| (row.get(0), read(row))).collect()
    }

    /// Holds what is stored of `shop` against the truth about the range: nothing missing, nothing wrong, nothing more;
    /// and exactly the range is covered.
    #[track_caller]
    pub fn equals_truth(
        &self,
        (from_s, to_s): (i64, i64),
        with_counts: bool,
    ) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let mut stored = self.stored("shop").await;
            let truth = self.control.truth();
            let (mut expected, mut missing, mut wrong) = (0, Vec::new(), Vec::new());
            let ns = |second: i64| second as u64 * 1_000_000_000;
            for trace in &truth {
                if trace.start_ns > ns(to_s) || trace.end_ns < ns(from_s) {
                    continue;
                }
                // Tempo's windows include their last instant, ours do not: such a trace may be there or not.
                let on_the_edge = trace.start_ns == ns(to_s);
                let row = stored.remove(trace.trace_id.as_slice());
                let right = Stored::of(trace, with_counts);
                expected += usize::from(!on_the_edge);
                match row {
                    None if !on_the_edge => missing.push(right),
                    Some(row) if row != right => wrong.push((row, right)),
                    _ => {}
                }
            }
            assert!(
                missing.is_empty() && wrong.is_empty() && stored.is_empty(),
                "{caller}: of {expected} traces {} are missing, {} wrong, and {} are too many\nmissing {:?}\nwrong {:?}\ntoo many {:?}",
                missing.len(),
                wrong.len(),
                stored.len(),
                missing.first(),
                wrong.first(),
                stored.iter().next(),
            );
            assert!(expected > 0, "{caller}: there is nothing to collect");
            assert_eq!(
                self.covered("shop").await,
                [(from_s, to_s)],
                "{caller}: covered"
            );
        }
    }

    /// What is covered of a dataset: stretches in Unix seconds, ascending.
    pub async fn covered(&self, dataset: &str) -> Vec<(i64, i64)> {
        let rows = query(
            "SELECT extract(epoch FROM lower(range))::bigint, extract(epoch FROM upper(range))::bigint
             FROM harvest.coverage CROSS JOIN LATERAL unnest(covered) AS range WHERE dataset = $1 ORDER BY 1",
        )
        .bind(dataset)
        .fetch_all(&self.pool)
        .await
        .unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// A single number.
    pub async fn number(&self, sql: &'static str) -> i64 {
        query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Runs a statement.
    pub async fn execute(&self, sql: &'static str) {
        query(sql).execute(&self.pool).await.unwrap();
    }

    /// Waits until a query of a single truth value says yes.
    pub async fn until(&self, sql: &'static str) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while !query_scalar::<_, bool>(sql)
            .fetch_one(&self.pool)
            .await
            .unwrap()
        {
            assert!(tokio::time::Instant::now() < deadline, "never: {sql}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every row of a table, as text.
    pub async fn dump_of(&self, table: &str) -> Vec<String> {
        let sql = format!("SELECT t::text FROM {table} t ORDER BY 1");
        query_scalar(AssertSqlSafe(sql))
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    /// Every row of every table of the program and its queue, as text.
    pub async fn dump(&self) -> String {
        let tables: Vec<(String, String)> = sqlx::query_as(
            "SELECT table_schema::text, table_name::text FROM information_schema.tables
             WHERE table_schema NOT IN ('information_schema', 'pg_catalog') AND table_type = 'BASE TABLE' ORDER BY 1, 2",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let mut text = String::new();
        for (schema, table) in tables {
            // Bytes as text, where they are: a work item's payload.
            let rows: Vec<String> = query_scalar(AssertSqlSafe(format!(
                "SELECT t::text || coalesce((SELECT string_agg(encode(decode(substr(value, 3), 'hex'), 'escape'), ' ')
                     FROM json_each_text(to_json(t)) WHERE value ~ '^\\\\x([0-9a-f]{{2}})+$'), '')
                 FROM \"{schema}\".\"{table}\" t ORDER BY 1"
            )))
            .fetch_all(&self.pool)
            .await
            .unwrap();
            text += &format!("{schema}.{table}\n{}\n", rows.join("\n"));
        }
        text
    }
}

/// Starts the program in a folder with this environment, and nothing else of the test's own.
pub fn start_in(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tempo-harvest"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    Process {
        stdout: Stream::new(child.stdout.take().unwrap()),
        stderr: Stream::new(child.stderr.take().unwrap()),
        child,
    }
}

/// A text without what differs each time: times of now, and names of processes.
pub fn redacted(text: &str) -> String {
    let replace = |text: &str, pattern: &str, by: &str| {
        let pattern = regex_lite::Regex::new(pattern).unwrap();
        pattern.replace_all(text, by).into_owned()
    };
    let text = replace(text, r"[^ @`]+:[0-9]+:[0-9a-f]{8}", "PROCESS");
    let text = replace(&text, r"127\.0\.0\.1:[0-9]+", "ADDRESS");
    let day = "2026-03-01T";
    replace(
        &text.replace(day, "DAY "),
        r"20[0-9-]{8}T[0-9:]{8}Z",
        "TIME",
    )
    .replace("DAY ", day)
}

/// The windows that were searched, each once, ascending.
pub fn searched(requests: &[RequestRecord]) -> Vec<(i64, i64)> {
    let second = |request: &RequestRecord, name| request.param(name).unwrap().parse().unwrap();
    let mut windows: Vec<(i64, i64)> = requests
        .iter()
        .filter(|request| request.path.ends_with("/api/search"))
        .filter(|request| !provokes_the_limit(request))
        .map(|request| (second(request, "start"), second(request, "end")))
        .collect();
    windows.sort_unstable();
    windows.dedup();
    windows
}

/// Whether a request is made to be refused, so that the refusal tells how much may be asked for.
pub fn provokes_the_limit(request: &RequestRecord) -> bool {
    request.param("q").as_deref() == Some("{")
}

/// The last edge of an hour that lies this many hours back, Unix seconds.
pub fn hour_edge_before(hours: i64) -> i64 {
    (Utc::now() - TimeDelta::hours(hours)).timestamp() / HOUR_S * HOUR_S
}
