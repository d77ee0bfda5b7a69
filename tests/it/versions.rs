//! Two versions of the program on one database: an older one refuses before it touches anything, and one that is at work when the
//! tables are upgraded stores nothing more, gives back what it holds and ends.

use sqlx::{AssertSqlSafe, query, raw_sql};

use crate::support::harvest::{DAY_S, HOUR_S, Process, Scene, hours, job, start_in, tempo};
use crate::support::postgres;

/// The record of an upgrade that only a later version knows.
const NEXT: &str =
    "INSERT INTO harvest._sqlx_migrations (version, description, success, checksum, execution_time)
                    VALUES (9999, 'of a later version', true, '\\x00', 1)";
const BACK: &str = "DELETE FROM harvest._sqlx_migrations WHERE version = 9999";

/// The newest migration of this program.
fn known() -> i64 {
    let migrations = sqlx::migrate!();
    migrations.iter().map(|m| m.version).max().unwrap()
}

fn newer() -> String {
    format!(
        "the database's tables (schema `harvest`) were made or upgraded by a newer program: they have migration 9999, and this tempo-harvest ({}) \
         knows migrations up to {}: use the newer tempo-harvest here, or another database",
        env!("CARGO_PKG_VERSION"),
        known()
    )
}

#[tokio::test]
async fn an_older_program_refuses_a_newer_database_whatever_it_is_told_to_do() {
    let scene = Scene::new(tempo(&hours(2, 100))).await;
    let file = scene.write(&job(1).services());
    scene.command(&["run", &file]).await.expect(0);
    let file = scene.write(&job(2).services());
    raw_sql(NEXT).execute(&scene.pool).await.unwrap();
    scene.new_requests();
    let before = scene.dump().await;
    let commands: [&[&str]; 20] = [
        &["run", &file],
        &["submit", &file],
        &["work"],
        &["work", "--drain", &file],
        &["plan", &file],
        &["status"],
        &["gaps"],
        &["stats"],
        &["baseline"],
        &["baseline", "check", "shop", "GET /", "10ms"],
        &["runs"],
        &["repair", "shop"],
        &["refetch", "shop", "--from", "2d ago", "--to", "1d ago"],
        &["verify", "shop"],
        &["pause", "shop"],
        &["resume", "shop"],
        &["cancel", "shop", "--yes"],
        &["dataset", "reset", "shop", "--yes"],
        &["prune", "shop", "--yes"],
        &["migrate"],
    ];
    for command in commands {
        let said = scene.command(command).await;
        // On a busy machine it is said before that a connection was long in coming.
        let refused = said.stderr.ends_with(&format!("error: {}\n", newer()));
        assert!(refused, "{command:?}: {}", said.stderr);
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (Some(1), ""),
            "{command:?}"
        );
    }
    let said = scene.command(&["doctor"]).await.expect(1);
    assert!(said.stdout.contains(&newer()), "{}", said.stdout);
    assert_eq!(scene.dump().await, before);
    assert_eq!(scene.new_requests().len(), 0);
}

#[tokio::test]
async fn a_record_of_migrations_that_does_not_fit_is_refused() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let file = scene.write(&job(1));
    let changed = |schema: &str, version: &str| {
        format!(
            "the database's record of migrations ({schema}._sqlx_migrations) does not fit this program: migration {version} was applied in another \
             form or order, by a build that was never released, or the record was changed by hand; nothing was touched: use the program that made \
             the tables, or restore a backup"
        )
    };
    let half = "migration 3 of the database's tables (schema `harvest`) was applied in part only, as harvest._sqlx_migrations says; nothing was \
                touched: restore the backup from before it";
    let queue = "the database's tables (schema `apalis`) were made or upgraded by a newer program: they have migration 99999999999999, and this \
                 tempo-harvest";
    let cases = [
        (
            "UPDATE harvest._sqlx_migrations SET checksum = '\\x00' WHERE version = 3",
            changed("harvest", "3"),
        ),
        (
            "DELETE FROM harvest._sqlx_migrations WHERE version = 2",
            changed("harvest", "3"),
        ),
        (
            "UPDATE harvest._sqlx_migrations SET version = 0 WHERE version = 1",
            changed("harvest", "2"),
        ),
        (
            "UPDATE harvest._sqlx_migrations SET success = false WHERE version = 3",
            half.to_owned(),
        ),
        (
            "UPDATE apalis._sqlx_migrations SET version = 99999999999999 WHERE version = 20260902075949",
            queue.to_owned(),
        ),
        (
            "UPDATE apalis._sqlx_migrations SET checksum = '\\x00' WHERE version = 20220530084123",
            changed("apalis", "20220530084123"),
        ),
    ];
    for (change, message) in cases {
        scene.execute("CREATE SCHEMA kept").await;
        for schema in ["harvest", "apalis"] {
            let keep = format!("CREATE TABLE kept.{schema} AS TABLE {schema}._sqlx_migrations");
            query(AssertSqlSafe(keep))
                .execute(&scene.pool)
                .await
                .unwrap();
        }
        scene.execute(change).await;
        let before = scene.dump().await;
        for command in [&["run", file.as_str()][..], &["status"], &["migrate"]] {
            let said = scene.command(command).await.expect(1);
            assert!(
                said.stderr.starts_with(&format!("error: {message}")),
                "{change}\n{}",
                said.stderr
            );
        }
        assert_eq!(scene.dump().await, before, "{change}");
        for schema in ["harvest", "apalis"] {
            let back = format!(
                "TRUNCATE {schema}._sqlx_migrations; INSERT INTO {schema}._sqlx_migrations TABLE kept.{schema}"
            );
            raw_sql(AssertSqlSafe(back))
                .execute(&scene.pool)
                .await
                .unwrap();
        }
        scene.execute("DROP SCHEMA kept CASCADE").await;
    }
    scene.command(&["run", &file]).await.expect(0);
}

#[tokio::test]
async fn schemas_of_others_are_left_alone_and_empty_ones_are_used() {
    let foreign = |schema: &str, table: &str| {
        format!(
            "error: the database has a schema `{schema}` that tempo-harvest did not make: `{schema}.{table}` stands in it, and no record of migrations; \
             nothing was touched: use another database\n"
        )
    };
    let cases = [
        (
            "CREATE SCHEMA harvest; CREATE TABLE harvest.orders (id int)",
            Some(foreign("harvest", "orders")),
        ),
        (
            "CREATE SCHEMA harvest; CREATE VIEW harvest.jobs AS SELECT 1 AS one",
            Some(foreign("harvest", "jobs")),
        ),
        (
            "CREATE SCHEMA apalis; CREATE TABLE apalis.workers (id text)",
            Some(foreign("apalis", "workers")),
        ),
        ("CREATE SCHEMA harvest; CREATE SCHEMA apalis", None),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (made, message) in cases {
        let database = postgres::database().await;
        let pool = database.pool().await;
        raw_sql(made).execute(&pool).await.unwrap();
        let url = database.url();
        let said = start_in(folder.path(), &["migrate"], &[("DATABASE_URL", &url)])
            .end()
            .await;
        let Some(message) = message else {
            said.expect(0);
            continue;
        };
        let refused = said.code == Some(1) && said.stderr.ends_with(&message);
        assert!(refused, "{made}: {}", said.stderr);
        let tables = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
                      WHERE nspname IN ('harvest', 'apalis') AND relkind IN ('r', 'v')";
        let tables: i64 = sqlx::query_scalar(tables).fetch_one(&pool).await.unwrap();
        assert_eq!(tables, 1, "{made}");
    }
}

#[tokio::test]
async fn programs_that_start_at_once_make_the_tables_once() {
    let database = postgres::database().await;
    let folder = tempfile::tempdir().unwrap();
    let url = database.url();
    let environment = [("DATABASE_URL", url.as_str())];
    let all: Vec<Process> = (0..4)
        .map(|_| start_in(folder.path(), &["migrate"], &environment))
        .collect();
    for process in all {
        assert_eq!(
            process.end().await.expect(0).stdout,
            "the tables are up to date\n"
        );
    }
}

/// The database is upgraded while a process works on a window: it stores nothing of it, gives it back and ends.
async fn is_overtaken(arguments: &[&str], commit_before_the_answer: bool) {
    let scene = Scene::new(tempo(&hours(4, 200))).await;
    let file = scene.write(&job(4).services());
    scene.command(&["submit", &file]).await.expect(0);
    let hold = scene.control.hold("/api/search");
    let mut process = scene.start(&[arguments, &[&file]].concat());
    scene.held(2).await;
    // As an upgrade does it.
    let mut tx = scene.pool.begin().await.unwrap();
    query("LOCK TABLE harvest.windows IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *tx)
        .await
        .unwrap();
    query(NEXT).execute(&mut *tx).await.unwrap();
    if commit_before_the_answer {
        tx.commit().await.unwrap();
        process.says(&newer()).await;
        drop(hold);
    } else {
        // What was asked for is there and waits for the upgrade.
        drop(hold);
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'
                       AND (query LIKE 'INSERT INTO harvest.fetches%' OR query LIKE 'SELECT id FROM harvest.windows%')";
        scene.until(waits).await;
        tx.commit().await.unwrap();
    }
    let said = process.end().await.expect(1);
    let last = said.stderr.lines().last().unwrap();
    assert_eq!(
        last,
        format!(
            "error: stopped while at work; what was in hand is back on the queue: {}",
            newer()
        )
    );
    assert_eq!(scene.number("SELECT count(*) FROM harvest.traces").await, 0);
    assert!(scene.covered("shop").await.is_empty());
    assert_eq!(
        scene
            .number("SELECT count(*) FROM harvest.windows WHERE state = 'done'")
            .await,
        0
    );
    assert_eq!(
        scene
            .number("SELECT count(*) FROM harvest.source_permits")
            .await,
        0
    );
    if commit_before_the_answer {
        let given_back = "SELECT count(*) FROM harvest.windows WHERE state <> 'queued' OR lapsed > 0 OR attempts > 0";
        assert_eq!(scene.number(given_back).await, 0);
    }
    // What goes on is the newer program.
    scene.execute(BACK).await;
    scene.command(&["run", &file]).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 4 * HOUR_S), true).await;
}

#[tokio::test]
async fn a_program_at_work_that_is_overtaken_gives_back_what_it_holds_and_ends() {
    tokio::join!(
        is_overtaken(&["work"], true),
        is_overtaken(&["run"], true),
        is_overtaken(&["work"], false),
        is_overtaken(&["run"], false),
    );
}
