//! The roles `harvest_worker` and `harvest_reader`: what they are enough for, and what they are refused.

use chrono::Utc;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, PgPool, raw_sql};
use tempo_harvest::web::{Access, Context, Door};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::support::harvest::{DAY_S, HOUR_S, Said, Scene, hours, job, rfc3339, tempo};
use crate::support::http::{address, get, metrics};

const DATA: &str = include_str!("../../docs/DATA.md");

/// A login that is a member of a role and has no other rights; its DATABASE_URL.
async fn login(scene: &Scene, role: &str) -> String {
    let name = format!("{role}_{:016x}", rand());
    let statement = format!("CREATE ROLE {name} LOGIN PASSWORD 'secret' IN ROLE {role}");
    raw_sql(AssertSqlSafe(statement))
        .execute(&scene.pool)
        .await
        .unwrap();
    let mut url = Url::parse(&scene.database.url()).unwrap();
    url.set_username(&name).unwrap();
    url.set_password(Some("secret")).unwrap();
    url.into()
}

fn rand() -> u64 {
    getrandom::u64().unwrap()
}

/// A Tempo and a database whose roles are made, and a login of one.
async fn scene_for(role: &str) -> (Scene, String) {
    let scene = Scene::new(tempo(&hours(3, 300))).await;
    for _ in 0..2 {
        let said = scene.command(&["migrate", "--roles"]).await.expect(0);
        insta::allow_duplicates! {
            insta::assert_snapshot!(said.stdout, @r"
            the tables are up to date
            the roles harvest_worker and harvest_reader may use them
            ");
        }
    }
    let url = login(&scene, role).await;
    (scene, url)
}

async fn pool(url: &str) -> PgPool {
    PgPool::connect(url).await.unwrap()
}

/// What PostgreSQL refuses, whoever asks through whatever.
async fn are_refused(pool: &PgPool, statements: &[&'static str]) {
    for statement in statements {
        let error = raw_sql(*statement).execute(pool).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
    }
}

#[tokio::test]
async fn a_worker_needs_no_more_than_its_role() {
    let (scene, url) = scene_for("harvest_worker").await;
    scene
        .execute("CREATE SCHEMA others CREATE TABLE others.secrets (t text)")
        .await;
    let as_worker = async |arguments: &[&str], code: i32| -> Said {
        let said = scene
            .command_with(arguments, &[("DATABASE_URL", &url)])
            .await;
        assert!(
            !said.stderr.contains("denied"),
            "{arguments:?}: {}",
            said.stderr
        );
        said.expect(code)
    };
    let file = scene.write(&job(3).services());
    let spans = scene.write(&{
        let mut job = job(1).spans("\"span.http.status_code\"");
        job.name = "spans".to_owned();
        job
    });
    let (from, to) = (rfc3339(DAY_S), rfc3339(DAY_S + HOUR_S));
    as_worker(&["migrate"], 0).await;
    as_worker(&["-v", "run", &file], 0).await;
    scene.equals_truth((DAY_S, DAY_S + 3 * HOUR_S), true).await;
    as_worker(&["submit", &spans], 0).await;
    as_worker(&["-v", "work", "--drain"], 0).await;
    as_worker(
        &["refetch", "shop", "--from", &from, "--to", &to, "--yes"],
        0,
    )
    .await;
    as_worker(&["pause", "shop"], 0).await;
    as_worker(&["resume", "shop"], 0).await;
    as_worker(&["cancel", "shop", "--yes"], 0).await;
    as_worker(&["repair", "shop"], 0).await;
    as_worker(&["verify", "shop"], 0).await;
    as_worker(&["verify", "shop", "--deep", "--repair", "--yes"], 0).await;
    as_worker(&["verify", "shop", "--deep", "--certificate"], 0).await;
    as_worker(&["plan", &file], 0).await;
    as_worker(&["baseline", "--recount"], 0).await;
    for report in ["status", "gaps", "runs", "stats", "baseline"] {
        as_worker(&[report], 0).await;
    }
    let said = as_worker(&["doctor"], 0).await;
    assert!(
        said.stdout.contains("may read and write the tables"),
        "{}",
        said.stdout
    );

    let mut running = scene.start_with(
        &["-v", "work", &file, "--listen", "127.0.0.1:0"],
        &[("DATABASE_URL", &url)],
    );
    let at = address(&mut running).await;
    assert_eq!(get(&at, "/", "").await.status, 200);
    assert_eq!(get(&at, "/readyz", "").await.status, 200);
    assert!(metrics(&at).await.contains("tempo_harvest_"));
    running.signal(Signal::TERM);
    let said = running.end().await.expect(0);
    assert!(!said.stderr.contains("denied"), "{}", said.stderr);

    scene.write(&job(3).services().retention("1d"));
    as_worker(&["submit", &file], 0).await;
    as_worker(&["prune", "shop", "--yes"], 0).await;
    as_worker(&["dataset", "reset", "spans", "--yes"], 0).await;
    as_worker(&["dataset", "rm", "spans", "--yes"], 0).await;

    are_refused(
        &pool(&url).await,
        &[
            "DROP TABLE harvest.traces",
            "DROP SCHEMA harvest CASCADE",
            "CREATE TABLE harvest.more (n int)",
            "CREATE TABLE apalis.more (n int)",
            "CREATE SCHEMA more",
            "CREATE EXTENSION pg_trgm",
            "CREATE ROLE more",
            "ALTER TABLE harvest.traces ADD more int",
            "CREATE INDEX ON harvest.traces (dataset)",
            "CREATE OR REPLACE FUNCTION harvest.merge_services(a jsonb, b jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT a'",
            "TRUNCATE harvest.traces",
            "DELETE FROM harvest._sqlx_migrations",
            "UPDATE apalis._sqlx_migrations SET success = false",
            "SELECT * FROM others.secrets",
            "SELECT pg_read_file('/etc/passwd')",
            "COPY harvest.traces TO PROGRAM 'true'",
        ],
    )
    .await;
}

#[tokio::test]
async fn who_may_not_upgrade_the_tables_is_told_who_may() {
    let (scene, url) = scene_for("harvest_worker").await;
    let refused = async |arguments: &[&str]| {
        let environment = [("DATABASE_URL", url.as_str())];
        scene.command_with(arguments, &environment).await.expect(1)
    };
    let said = refused(&["migrate", "--roles"]).await;
    assert!(
        said.stderr
            .contains("cannot make the roles harvest_worker and harvest_reader"),
        "{}",
        said.stderr
    );
    scene
        .execute("DELETE FROM harvest._sqlx_migrations WHERE version = (SELECT max(version) FROM harvest._sqlx_migrations)")
        .await;
    let name = Url::parse(&url).unwrap().username().to_owned();
    for arguments in [&["status"][..], &["work", "--drain"], &["migrate"]] {
        let said = refused(arguments).await.stderr.replace(&name, "NAME");
        insta::allow_duplicates! {
            insta::assert_snapshot!(said, @"error: the database's tables are not those of this tempo-harvest, and user `NAME` may not change them: run `tempo-harvest migrate` as `tempo_harvest`, who owns them");
        }
    }
    let said = scene
        .command_with(&["doctor"], &[("DATABASE_URL", &url)])
        .await
        .expect(0);
    assert!(
        said.stdout
            .contains("-> run `tempo-harvest migrate` as `tempo_harvest`"),
        "{}",
        said.stdout
    );

    raw_sql(AssertSqlSafe(format!("REVOKE harvest_worker FROM {name}")))
        .execute(&scene.pool)
        .await
        .unwrap();
    let said = refused(&["status"]).await.stderr.replace(&name, "NAME");
    insta::assert_snapshot!(said, @r#"error: user `NAME` may not use tempo-harvest's tables: GRANT harvest_worker TO "NAME", or harvest_reader to read only (`tempo-harvest migrate --roles`, run as `tempo_harvest`, makes these roles)"#);
    let said = refused(&["doctor"]).await;
    assert!(
        said.stdout.contains("may not read the tables"),
        "{}",
        said.stdout
    );

    scene.execute("DROP SCHEMA harvest, apalis CASCADE").await;
    let said = refused(&["status"]).await.stderr.replace(&name, "NAME");
    insta::assert_snapshot!(said, @r#"error: there are no tables yet, and user `NAME` may not create them: make it the database's owner (ALTER DATABASE … OWNER TO "NAME"), or run `tempo-harvest migrate` once as the owner"#);
}

#[tokio::test]
async fn a_reader_sees_everything_and_changes_nothing() {
    let (scene, url) = scene_for("harvest_reader").await;
    let file = scene.write(&job(3).services());
    scene.command(&["run", &file]).await.expect(0);
    let before = scene.dump().await;
    let environment = [("DATABASE_URL", url.as_str())];
    let reports: [&[&str]; 9] = [
        &["status"],
        &["gaps"],
        &["runs"],
        &["stats"],
        &["baseline"],
        &["baseline", "--coverage"],
        &["plan", &file],
        &["migrate"],
        &["doctor", &file],
    ];
    for arguments in reports {
        let said = scene.command_with(arguments, &environment).await.expect(0);
        assert!(!said.stderr.contains("denied"), "{}", said.stderr);
    }
    let (from, to) = (rfc3339(DAY_S), rfc3339(DAY_S + HOUR_S));
    let writing: [&[&str]; 9] = [
        &["run", &file],
        &["submit", &file],
        &["work", &file],
        &["work", "--drain"],
        &["refetch", "shop", "--from", &from, "--to", &to, "--yes"],
        &["verify", "shop"],
        &["pause", "shop"],
        &["baseline", "--recount"],
        &["dataset", "rm", "shop", "--yes"],
    ];
    for arguments in writing {
        let said = scene.command_with(arguments, &environment).await.expect(1);
        assert!(
            said.stderr.contains("harvest_worker"),
            "{arguments:?}: {}",
            said.stderr
        );
    }

    let reading = pool(&url).await;
    let queries = DATA.split("```sql\n").skip(1);
    let queries = queries.map(|rest| rest.split("```").next().unwrap());
    let queries: Vec<&'static str> = queries.filter(|sql| !sql.contains("CREATE ROLE")).collect();
    assert!(queries.len() >= 4);
    for query in queries {
        raw_sql(query)
            .execute(&reading)
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"));
    }
    are_refused(
        &reading,
        &[
            "INSERT INTO harvest.datasets (name) VALUES ('x')",
            "UPDATE harvest.traces SET root_name = 'x'",
            "DELETE FROM harvest.windows",
            "DELETE FROM apalis.jobs",
            "TRUNCATE harvest.traces",
            "DROP TABLE harvest.traces",
            "CREATE TABLE harvest.more (n int)",
            "DO $$ BEGIN LOCK TABLE harvest.traces IN ACCESS EXCLUSIVE MODE; END $$",
            "SELECT FROM harvest.datasets FOR UPDATE",
        ],
    )
    .await;

    // The dashboard and the metrics, on such a login's connections.
    let door = Door::open("127.0.0.1:0".parse().unwrap(), Access::ThisMachine)
        .await
        .unwrap();
    let at = door.url().replace("http://", "").replace('/', "");
    let context = Context::new(
        reading.clone(),
        "test".to_owned(),
        Default::default(),
        Default::default(),
        Utc::now(),
    );
    let stop = CancellationToken::new();
    let serving = tokio::spawn(door.serve(context.into(), stop.clone()));
    for path in [
        "/",
        "/datasets/shop",
        "/datasets/shop/2026-03-01T00",
        "/metrics",
        "/readyz",
    ] {
        let answer = get(&at, path, "").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    stop.cancel();
    serving.await.unwrap();
    assert_eq!(scene.dump().await, before);
}

/// The statement in docs/DATA.md, with a name of its own: a role belongs to the whole server.
#[tokio::test]
async fn the_role_in_the_documentation_is_one() {
    let (scene, _) = scene_for("harvest_reader").await;
    let block = DATA
        .split("```sql\n")
        .find(|block| block.contains("CREATE ROLE"));
    let statement = block.unwrap().split("```").next().unwrap();
    let name = format!("grafana_{:016x}", rand());
    raw_sql(AssertSqlSafe(statement.replace("grafana_reader", &name)))
        .execute(&scene.pool)
        .await
        .unwrap();
    let may: bool = sqlx::query_scalar(
        "SELECT has_table_privilege($1, 'harvest.traces', 'SELECT') AND NOT has_table_privilege($1, 'harvest.traces', 'INSERT')",
    )
    .bind(&name)
    .fetch_one(&scene.pool)
    .await
    .unwrap();
    assert!(may);
}
