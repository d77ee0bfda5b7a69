//! Backups: what `pg_dump` takes is one moment of the ledger, and the program goes on from it in another database as if nothing
//! had happened.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, query, query_scalar};
use tokio::process::Command;

use crate::support::harvest::{DAY_S, HOUR_S, Scene, hours, job, tempo};

const EIGHT_HOURS: (i64, i64) = (DAY_S, DAY_S + 8 * HOUR_S);

/// Runs a program of PostgreSQL's client package; `false` where it is not installed.
async fn client(program: &str, arguments: &[&str]) -> bool {
    let output = match Command::new(program)
        .args(arguments)
        .env_remove("PGOPTIONS")
        .output()
        .await
    {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: there is no {program}");
            return false;
        }
        output => output.unwrap(),
    };
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    true
}

/// Another database with another owner, who is nobody special.
struct Elsewhere {
    url: String,
    pool: PgPool,
    owner: String,
    name: String,
    admin: PgPool,
}

impl Elsewhere {
    async fn new(scene: &Scene, name: &str) -> Self {
        let ours: String = query_scalar("SELECT current_database()")
            .fetch_one(&scene.pool)
            .await
            .unwrap();
        let (name, owner) = (format!("{ours}_{name}"), format!("owner_{ours}_{name}"));
        for statement in [
            format!("CREATE ROLE {owner} LOGIN PASSWORD 'restored'"),
            format!("CREATE DATABASE {name} OWNER {owner}"),
        ] {
            query(AssertSqlSafe(statement))
                .execute(&scene.pool)
                .await
                .unwrap();
        }
        let url = scene
            .database
            .url()
            .replace(&format!("/{ours}?"), &format!("/{name}?"));
        let (_, behind) = url.split_once('@').unwrap();
        let url = format!("postgres://{owner}:restored@{behind}");
        let options = scene.database.options().database(&name);
        let pool = PgPoolOptions::new()
            .max_connections(3)
            .connect_with(options)
            .await
            .unwrap();
        Self {
            url,
            pool,
            owner,
            name,
            admin: scene.pool.clone(),
        }
    }

    /// Puts a dump in the place of whatever is there.
    async fn restore(&self, dump: &Path) {
        let file = dump.to_str().unwrap();
        if dump.extension().is_some_and(|extension| extension == "sql") {
            client(
                "psql",
                &[
                    "--quiet",
                    "--set",
                    "ON_ERROR_STOP=1",
                    "--output",
                    "/dev/null",
                    "--file",
                    file,
                    &self.url,
                ],
            )
            .await;
        } else {
            client(
                "pg_restore",
                &["--no-owner", "--exit-on-error", "--dbname", &self.url, file],
            )
            .await;
        }
    }

    /// Removes the database with its owner, so that no role is left.
    async fn end(self) {
        self.pool.close().await;
        for statement in [
            format!("DROP DATABASE {} WITH (FORCE)", self.name),
            format!("DROP ROLE {}", self.owner),
        ] {
            query(AssertSqlSafe(statement))
                .execute(&self.admin)
                .await
                .unwrap();
        }
    }
}

/// Dumps the scene's database: in the custom format, or as SQL without owners. `None`: pg_dump is not installed.
async fn dump(scene: &Scene, name: &str) -> Option<PathBuf> {
    let file = scene.folder.path().join(name);
    let to = file.to_str().unwrap();
    let url = scene.database.url();
    let format: &[&str] = match name.ends_with(".sql") {
        true => &["--format", "plain", "--no-owner"],
        false => &["--format", "custom"],
    };
    let done = client("pg_dump", &[format, &["--file", to, &url]].concat()).await;
    done.then_some(file)
}

/// What a command says of the restored database.
async fn said(scene: &Scene, elsewhere: &Elsewhere, arguments: &[&str], code: i32) -> String {
    let said = scene
        .command_with(arguments, &[("DATABASE_URL", &elsewhere.url)])
        .await;
    said.expect(code).stdout
}

/// The sum over everything that is stored, IDs, names and counts.
async fn sum(pool: &PgPool) -> String {
    let sum = "SELECT md5(string_agg(t::text, ',' ORDER BY trace_id)) FROM
               (SELECT trace_id, start_ns, end_ns, root_service, root_name, span_count, error_count, services FROM harvest.traces) t";
    query_scalar(sum).fetch_one(pool).await.unwrap()
}

async fn covered(pool: &PgPool) -> Vec<(i64, i64)> {
    let covered = "SELECT extract(epoch FROM lower(range))::bigint, extract(epoch FROM upper(range))::bigint
                   FROM harvest.coverage, unnest(covered) AS range WHERE dataset = 'shop' ORDER BY 1";
    sqlx::query_as(covered).fetch_all(pool).await.unwrap()
}

/// Writes a certificate of what is collected: certificate.json.
async fn certify(scene: &Scene) {
    let certified = scene
        .command(&["verify", "shop", "--deep", "--certificate", "--json"])
        .await
        .expect(0);
    scene.write_file("certificate.json", &certified.stdout);
}

#[tokio::test]
async fn a_backup_taken_while_work_is_done_goes_on_elsewhere() {
    let scene = Scene::new(tempo(&hours(8, 1_200))).await;
    let file = scene.write(&job(8).services().limits("concurrency = 2"));
    scene.command(&["submit", &file]).await.expect(0);
    let mut worker = scene.start(&["work"]);
    worker.says("working as").await;
    scene
        .until("SELECT count(*) >= 3 FROM harvest.windows WHERE state = 'done'")
        .await;
    // Some are being fetched from here on.
    let hold = scene.control.hold("/api/search");
    scene.held(1).await;
    let Some(custom) = dump(&scene, "at-work.dump").await else {
        return;
    };
    let Some(plain) = dump(&scene, "at-work.sql").await else {
        return;
    };
    drop(hold);
    scene
        .until("SELECT count(*) = 0 FROM harvest.windows WHERE state IN ('queued', 'running')")
        .await;
    worker.signal(rustix::process::Signal::TERM);
    worker.end().await.expect(0);
    scene.equals_truth(EIGHT_HOURS, true).await;
    certify(&scene).await;

    let goes_on = async |dump: &Path, name: &str| {
        let elsewhere = Elsewhere::new(&scene, name).await;
        elsewhere.restore(dump).await;
        let was = covered(&elsewhere.pool).await;
        let some: i64 = was.iter().map(|(from, to)| to - from).sum();
        assert!((3 * HOUR_S..8 * HOUR_S).contains(&some), "{was:?}");
        let unfounded =
            "SELECT count(*) FROM harvest.windows w JOIN harvest.coverage c USING (dataset, look)
                         WHERE (w.state = 'done') <> (w.span <@ c.covered) AND w.state <> 'split'";
        let unfounded: i64 = query_scalar(unfounded)
            .fetch_one(&elsewhere.pool)
            .await
            .unwrap();
        assert_eq!(unfounded, 0);
        // What a worker held when the backup was taken nobody renews there. Not waiting for its 20 seconds.
        let lapse = "UPDATE harvest.windows SET lease_expires_at = now() - interval '1 second' WHERE state = 'running'";
        let held = query(lapse).execute(&elsewhere.pool).await.unwrap();
        assert!(held.rows_affected() > 0);
        said(&scene, &elsewhere, &["status"], 0).await;
        said(&scene, &elsewhere, &["run", &file], 0).await;
        assert_eq!(covered(&elsewhere.pool).await, [EIGHT_HOURS]);
        assert_eq!(sum(&elsewhere.pool).await, sum(&scene.pool).await);
        let check = said(
            &scene,
            &elsewhere,
            &["verify", "shop", "--check", "certificate.json"],
            0,
        )
        .await;
        assert!(
            check.ends_with("nothing was lost or changed since\n"),
            "{check}"
        );
        let verified: Value =
            serde_json::from_str(&said(&scene, &elsewhere, &["verify", "shop", "--json"], 0).await)
                .unwrap();
        assert_eq!(verified["in_order"], true, "{verified}");
        let again = said(&scene, &elsewhere, &["run", &file], 0).await;
        assert!(again.starts_with("shop: already complete"), "{again}");
        let items =
            "SELECT count(*) FROM apalis.jobs j JOIN harvest.windows w ON w.id::text::bytea = j.job
                     WHERE w.state IN ('queued', 'running')";
        let items: i64 = query_scalar(items)
            .fetch_one(&elsewhere.pool)
            .await
            .unwrap();
        assert_eq!(items, 0);
        elsewhere.end().await;
    };
    goes_on(&custom, "custom").await;
    goes_on(&plain, "plain").await;
}

#[tokio::test]
async fn an_older_backup_takes_coverage_back_with_the_traces() {
    let scene = Scene::new(tempo(&hours(8, 800))).await;
    let first = scene.write(&job(4).services());
    scene.command(&["run", &first]).await.expect(0);
    certify(&scene).await;
    let Some(older) = dump(&scene, "older.dump").await else {
        return;
    };
    let all = scene.write(&job(8).services());
    scene.command(&["run", &all]).await.expect(0);
    scene.equals_truth(EIGHT_HOURS, true).await;
    let right = sum(&scene.pool).await;

    // Over what is there, as its owner may: schemas first, since `--clean` drops no more than the dump names.
    let url = scene.database.url();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    query("DROP SCHEMA harvest CASCADE")
        .execute(&mut conn)
        .await
        .unwrap();
    query("DROP SCHEMA apalis CASCADE")
        .execute(&mut conn)
        .await
        .unwrap();
    conn.close().await.unwrap();
    let file = older.to_str().unwrap();
    client(
        "pg_restore",
        &[
            "--clean",
            "--if-exists",
            "--no-owner",
            "--exit-on-error",
            "--dbname",
            &url,
            file,
        ],
    )
    .await;
    assert_eq!(scene.covered("shop").await, [(DAY_S, DAY_S + 4 * HOUR_S)]);
    scene
        .command(&["verify", "shop", "--check", "certificate.json"])
        .await
        .expect(0);
    scene.new_requests();
    scene.command(&["run", &all]).await.expect(0);
    scene.equals_truth(EIGHT_HOURS, true).await;
    assert_eq!(sum(&scene.pool).await, right);
    for request in scene.new_requests() {
        let start: Option<i64> = request.param("start").and_then(|start| start.parse().ok());
        assert!(
            start.is_none_or(|start| start >= DAY_S + 4 * HOUR_S),
            "{request:?}"
        );
    }
}
