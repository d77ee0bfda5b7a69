//! A PostgreSQL for tests: one private cluster for all test processes and threads of a run, one database a test.
//!
//! It is the program's own private PostgreSQL (`local_postgres`), in the target folder, so it needs nothing running and
//! ends by itself with the last test process. The next run uses the cluster again; databases are not dropped one by one
//! (each drop waits for a checkpoint, several times the cost of creating one), but once there are more than a few, and
//! nobody uses them, the next run begins with a new cluster.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot have its database has failed"
)]

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, query, query_scalar};
use tempo_harvest::local_postgres::{FOLDER_NAME, LocalPostgres};
use tokio::sync::OnceCell;

/// How many databases may be left over from earlier runs, PostgreSQL's own four included. About 8 MB each.
const LEFT_OVER_LIMIT: usize = 24;
/// Any number, the same in all test processes.
const TEMPLATE_LOCK: i64 = 0x7465_6d70_6c61_7465;

/// The cluster, for as long as this process lives.
static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
/// The name of this process's migrated template.
static TEMPLATE: OnceCell<String> = OnceCell::const_new();
static NEXT: AtomicU64 = AtomicU64::new(0);

struct Cluster {
    server: LocalPostgres,
    /// Held shared by every test process that uses the cluster.
    _used: File,
}

/// A database of one test's own.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    url: String,
    options: PgConnectOptions,
}

impl TestDatabase {
    /// A DATABASE_URL for a process that the test starts.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// How to connect from within the test.
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// A small pool of connections.
    pub async fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(5)
            .connect_with(self.options())
            .await
            .unwrap_or_else(|error| panic!("connecting to `{}`: {error}", self.name))
    }
}

/// A new database with nothing in it.
pub async fn database() -> TestDatabase {
    create("template1").await
}

/// A new database as `migrate` makes it: a copy of a template that it has made once for this build of the tests.
///
/// All calls of a test binary must pass the same `migrate`.
pub async fn migrated_database(migrate: impl AsyncFnOnce(PgConnectOptions)) -> TestDatabase {
    create(template(migrate).await).await
}

/// The migrated template's name. Templates are kept from run to run under the identity of the test executable, into
/// which the migrations are compiled.
pub async fn template(migrate: impl AsyncFnOnce(PgConnectOptions)) -> &'static str {
    TEMPLATE
        .get_or_init(async || {
            let executable = std::env::current_exe().unwrap();
            let built = fs::metadata(&executable).unwrap();
            let mut hasher = DefaultHasher::new();
            (executable, built.len(), built.modified().unwrap()).hash(&mut hasher);
            let name = format!("template_{:016x}", hasher.finish());
            // Other test processes may want it at the same time. The lock goes with the connection.
            let mut admin = admin().await;
            query("SELECT pg_advisory_lock($1)")
                .bind(TEMPLATE_LOCK)
                .execute(&mut admin)
                .await
                .unwrap();
            let exists: bool =
                query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
                    .bind(&name)
                    .fetch_one(&mut admin)
                    .await
                    .unwrap();
            if !exists {
                let unfinished = format!("{name}_new");
                execute(&mut admin, format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await;
                execute(&mut admin, format!("CREATE DATABASE {unfinished}")).await;
                migrate(cluster().await.server.connect_options_for(&unfinished)).await;
                // Nobody may be connected to a database that is copied or renamed.
                execute(&mut admin, format!("ALTER DATABASE {unfinished} ALLOW_CONNECTIONS false")).await;
                query("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1")
                    .bind(&unfinished)
                    .execute(&mut admin)
                    .await
                    .unwrap();
                execute(&mut admin, format!("ALTER DATABASE {unfinished} RENAME TO {name}")).await;
            }
            admin.close().await.unwrap();
            name
        })
        .await
}

/// A new database of another encoding.
pub async fn database_of_encoding(encoding: &str) -> TestDatabase {
    create(&format!(
        "template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    ))
    .await
}

async fn create(template: &str) -> TestDatabase {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let name = format!(
        "test_{}_{}_{}",
        since_epoch.as_micros(),
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let mut admin = admin().await;
    execute(
        &mut admin,
        format!("CREATE DATABASE {name} TEMPLATE {template}"),
    )
    .await;
    admin.close().await.unwrap();
    let server = &cluster().await.server;
    let (_, default_url) = server
        .environment()
        .into_iter()
        .find(|(variable, _)| variable == "DATABASE_URL")
        .unwrap();
    TestDatabase {
        url: default_url.replace("/tempo_harvest?", &format!("/{name}?")),
        options: server.connect_options_for(&name),
        name,
    }
}

/// A connection for creating databases. Not from a pool: those belong to the runtime of one test.
async fn admin() -> PgConnection {
    let options = cluster().await.server.connect_options_for("postgres");
    options.connect().await.unwrap()
}

/// Runs a statement on names that are made here.
async fn execute(connection: &mut PgConnection, statement: String) {
    query(AssertSqlSafe(statement.clone()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("`{statement}`: {error}"));
}

async fn cluster() -> &'static Cluster {
    CLUSTER
        .get_or_init(async || {
            let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres");
            fs::create_dir_all(&target).unwrap();
            let folder = target.join(FOLDER_NAME);
            // One process at a time, from looking whether the old cluster can go until it is using it.
            let gate = File::create(target.join("gate.lock")).unwrap();
            locked(|| gate.try_lock().is_ok()).await;
            let used = File::create(target.join("used.lock")).unwrap();
            if used.try_lock().is_ok() && left_over(&folder) > LEFT_OVER_LIMIT {
                remove(&folder).await;
            }
            used.unlock().unwrap();
            used.lock_shared().unwrap();
            let executable = Path::new(env!("CARGO_BIN_EXE_tempo-harvest"));
            let server = LocalPostgres::start(&folder, executable)
                .await
                .unwrap_or_else(|error| panic!("starting the tests' PostgreSQL: {error}"));
            Cluster {
                server,
                _used: used,
            }
        })
        .await
}

/// Where the cluster lies: elsewhere, when root's server cannot enter the target folder.
fn data_folder(folder: &Path) -> PathBuf {
    fs::read_to_string(folder.join("data-folder")).map_or_else(
        |_| folder.to_owned(),
        |elsewhere| PathBuf::from(elsewhere.trim_end()),
    )
}

/// How many databases there are.
fn left_over(folder: &Path) -> usize {
    fs::read_dir(data_folder(folder).join("data/base")).map_or(0, Iterator::count)
}

/// Removes the cluster, once the server of an earlier run has ended. A run that was killed meanwhile may have begun to.
async fn remove(folder: &Path) {
    if let Ok(supervisor) = File::open(folder.join("supervisor.lock")) {
        locked(|| supervisor.try_lock().is_ok()).await;
    }
    let data_folder = data_folder(folder);
    if data_folder != folder && data_folder.exists() {
        fs::remove_dir_all(data_folder).unwrap();
    }
    fs::remove_dir_all(folder).unwrap();
}

/// Waits until a lock is had, which others have for seconds at most.
async fn locked(attempt: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(120), async {
        while !attempt() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("another test process holds a lock of the tests' PostgreSQL for two minutes");
}
