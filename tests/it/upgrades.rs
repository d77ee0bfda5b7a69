//! Databases of every earlier version, filled as a program of then would have left them, and what the present one makes of them.
//!
//! `tests/fixtures/upgrades/NNNN.sql` fills what migration NNNN brought; `NNNN_to_MMMM.sql` holds for versions up to MMMM only. A
//! database of version N is filled by all files up to N. Traces, and what baselines note of them, are inserted here, because they
//! have to be those that the simulated Tempo has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures::StreamExt as _;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool, query, query_scalar, raw_sql};
use tempo_harvest::baseline::Subject;
use tempo_harvest::baseline::changes::{Changes, Sample};
use tempo_harvest::baseline::sketch::{Counts, Sketch};
use tempo_harvest::queue;
use tempo_harvest::simulator::TraceTruth;

use crate::support::harvest::{DAY_S, HOUR_S, Scene, hours, job, tempo};
use crate::support::postgres;

/// What the fixtures say is covered: two hours of six.
const COVERED: (i64, i64) = (DAY_S, DAY_S + 2 * HOUR_S);
const SIX_HOURS: (i64, i64) = (DAY_S, DAY_S + 6 * HOUR_S);
/// Versions whose upgrade is looked at with every command: the first, and those that brought sums, baselines and statistics.
const THOROUGHLY: [i64; 4] = [1, 5, 8, 9];
/// The version that brought baselines.
const BASELINES: i64 = 8;

/// The fixtures of a database of this version, in order.
fn fixtures(version: i64) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/upgrades");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let holds = |file: &std::path::PathBuf| {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let (from, to) = name.split_once("_to_").unwrap_or((name, "9999"));
        (from.parse().unwrap()..=to.parse().unwrap()).contains(&version)
    };
    let read = |file: std::path::PathBuf| std::fs::read_to_string(file).unwrap();
    files.into_iter().filter(holds).map(read).collect()
}

/// A scene on a database of this version, with nothing in it.
async fn scene_of(version: i64) -> Scene {
    let mut settings = hours(6, 600);
    settings.long_traces = 10;
    settings.rootless_traces = 10;
    let scene = Scene::on(postgres::database().await, tempo(&settings)).await;
    queue::setup(&scene.pool).await.unwrap();
    let migrations = sqlx::migrate!();
    migrations.run_to(version, &scene.pool).await.unwrap();
    scene
}

/// Fills it.
async fn fill(scene: &Scene, version: i64) {
    let mut durations = Counts::default();
    durations.add(Sketch::default().bucket(50_000), 1);
    let durations: String = durations
        .encode()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    for sql in fixtures(version) {
        let sql = sql
            .replace("SIMULATOR", &scene.simulator.url())
            .replace("DURATIONS", &format!("\\x{durations}"));
        raw_sql(AssertSqlSafe(sql))
            .execute(&scene.pool)
            .await
            .unwrap();
    }
    let ns = |second: i64| second as u64 * 1_000_000_000;
    let mut changes = Changes::default();
    let mut count = 0;
    for trace in scene.control.truth() {
        if trace.start_ns < ns(COVERED.1) && trace.end_ns >= ns(COVERED.0) {
            insert(&scene.pool, &trace, &mut changes).await;
            count += 1;
        }
    }
    query("UPDATE harvest.datasets SET trace_count = $1 WHERE name = 'shop'")
        .bind(count)
        .execute(&scene.pool)
        .await
        .unwrap();
    if version >= BASELINES {
        query("INSERT INTO harvest.baseline_changes (dataset, changes) VALUES ('shop', $1)")
            .bind(changes.encode())
            .execute(&scene.pool)
            .await
            .unwrap();
    }
}

/// Inserts a trace as every version has stored what a search says.
async fn insert(pool: &PgPool, trace: &TraceTruth, changes: &mut Changes) {
    let start_ns: i64 = trace.start_ns.try_into().unwrap();
    let duration_ns = ((trace.end_ns - trace.start_ns) / 1_000_000 * 1_000_000) as i64;
    let services: BTreeMap<&str, Value> = trace
        .services
        .iter()
        .map(|(name, counts)| {
            (
                &**name,
                json!({ "spans": counts.spans, "errors": counts.errors }),
            )
        })
        .collect();
    let started_at = chrono::DateTime::from_timestamp_micros(start_ns / 1_000).unwrap();
    query(
        "INSERT INTO harvest.traces (dataset, trace_id, started_at, start_ns, end_ns, root_service, root_name, span_count, error_count, services,
                                     first_stored_at, updated_at)
         VALUES ('shop', $1, $2, $3, $4, $5, $6, $7, $8, $9, now() - interval '9 days', now() - interval '9 days')",
    )
    .bind(trace.trace_id.as_slice())
    .bind(started_at)
    .bind(start_ns)
    .bind(start_ns + duration_ns)
    .bind(trace.root_service.as_deref())
    .bind(trace.root_name.as_deref())
    .bind(trace.spans as i32)
    .bind(trace.errors as i32)
    .bind(json!(services))
    .execute(pool)
    .await
    .unwrap();
    changes.add(&Sample {
        subject: Subject::Trace,
        service: trace
            .root_service
            .clone()
            .map(|name| name.to_string().into()),
        operation: trace.root_name.clone().map(|name| name.to_string().into()),
        start_ns,
        duration_ns,
        failed: Some(trace.errors > 0),
    });
}

/// Every row of every table of the program and its queue, by table: columns and their values.
async fn rows(pool: &PgPool) -> BTreeMap<String, Vec<Value>> {
    let tables: Vec<String> = query_scalar(
        "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables
         WHERE table_schema IN ('harvest', 'apalis') AND table_type = 'BASE TABLE' AND table_name <> '_sqlx_migrations'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut all = BTreeMap::new();
    for table in tables {
        let sql = format!("SELECT to_jsonb(t) FROM {table} t ORDER BY t::text");
        let rows: Vec<Value> = query_scalar(AssertSqlSafe(sql))
            .fetch_all(pool)
            .await
            .unwrap();
        all.insert(table, rows);
    }
    all
}

/// Rows reduced to these columns, in an order that does not depend on others.
fn reduced(rows: &[Value], columns: &BTreeSet<String>) -> Vec<String> {
    let of = |row: &Value| {
        let kept = row.as_object().unwrap().iter();
        let kept = kept.filter(|(column, _)| columns.contains(*column));
        json!(kept.collect::<BTreeMap<_, _>>()).to_string()
    };
    let mut rows: Vec<String> = rows.iter().map(of).collect();
    rows.sort();
    rows
}

/// What is in the database is what was: no row and no value is lost or changed, nor is there one more.
fn assert_kept(
    version: i64,
    before: &BTreeMap<String, Vec<Value>>,
    after: &BTreeMap<String, Vec<Value>>,
) {
    for (table, rows) in before {
        let Some(first) = rows.first() else { continue };
        let columns: BTreeSet<String> = first.as_object().unwrap().keys().cloned().collect();
        let now = after
            .get(table)
            .unwrap_or_else(|| panic!("{version}: {table} is gone"));
        assert_eq!(
            reduced(now, &columns),
            reduced(rows, &columns),
            "{version}: {table}"
        );
    }
}

/// What has to be true of every ledger, each a query that finds what it is not true of.
const INVARIANTS: [(&str, &str); 7] = [
    (
        "a done window that is not covered",
        "SELECT count(*) FROM harvest.windows w LEFT JOIN harvest.coverage c USING (dataset, look)
         WHERE w.state = 'done' AND NOT coalesce(w.span <@ c.covered, false)",
    ),
    (
        "coverage beyond what was asked for",
        "SELECT count(*) FROM harvest.coverage c JOIN harvest.requested r USING (dataset)
         WHERE look = 'sealed' AND NOT c.covered <@ r.requested",
    ),
    (
        "a count of traces that is wrong",
        "SELECT count(*) FROM harvest.datasets d
         WHERE name = 'shop' AND trace_count <> (SELECT count(*) FROM harvest.traces t WHERE t.dataset = d.name)",
    ),
    (
        "a run whose figures cannot be had",
        "SELECT count(*) FROM harvest.runs r LEFT JOIN harvest.run_figures f ON f.run_id = r.id WHERE f.windows_done IS NULL",
    ),
    (
        "a sequence that is behind its table",
        "SELECT count(*) FROM (SELECT max(id) AS highest FROM harvest.runs) r, pg_sequences s
         WHERE s.schemaname = 'harvest' AND s.sequencename = 'runs_id_seq' AND coalesce(s.last_value, 0) < r.highest",
    ),
    (
        "a table or column without a comment",
        "SELECT count(*) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relnamespace = 'harvest'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname <> '_sqlx_migrations'
           AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)",
    ),
    (
        "a constraint that is not enforced",
        "SELECT count(*) FROM pg_constraint WHERE connamespace = 'harvest'::regnamespace AND NOT convalidated",
    ),
];

async fn assert_invariants(scene: &Scene, version: i64) {
    for (what, sql) in INVARIANTS {
        assert_eq!(scene.number(sql).await, 0, "{version}: {what}");
    }
}

/// What looks at a ledger finds in one that was upgraded, and completed, what it finds in others.
async fn everything_is_shown(scene: &Scene, version: i64) {
    for command in [
        &["gaps", "shop"][..],
        &["runs"],
        &["stats", "shop"],
        &["status"],
    ] {
        let said = scene.command(command).await.expect(0);
        assert!(
            said.stdout.contains("shop"),
            "{version}: {command:?}: {}",
            said.stdout
        );
        assert_eq!(said.stderr, "", "{version}: {command:?}");
    }
    let verified = scene
        .command(&["verify", "shop", "--json"])
        .await
        .expect(0)
        .json();
    assert_eq!(verified["in_order"], true, "{version}: {verified}");
    // What was added up is what counting everything anew says.
    let baselines = async |more: &[&str]| {
        let said = scene
            .command(&[&["baseline", "--json"], more].concat())
            .await;
        let mut said = said.expect(0).json();
        for dataset in said.as_array_mut().unwrap() {
            dataset.as_object_mut().unwrap().remove("computed_at");
        }
        said
    };
    let added_up = baselines(&[]).await;
    let of_shop = added_up
        .as_array()
        .unwrap()
        .iter()
        .find(|said| said["dataset"] == "shop");
    let some = of_shop.is_some_and(|said| !said["baselines"].as_array().unwrap().is_empty());
    assert!(some, "{version}: {added_up}");
    assert_eq!(added_up, baselines(&["--recount"]).await, "{version}");
}

/// Fills a database of this version, upgrades it, and goes on with it.
async fn goes_on_from(version: i64) {
    let scene = scene_of(version).await;
    fill(&scene, version).await;
    let before = rows(&scene.pool).await;
    // A command that changes nothing says what to do; it does not fail in the middle.
    let file = scene.write(&job(6).services());
    let newest = sqlx::migrate!().iter().map(|m| m.version).max().unwrap();
    if version < newest {
        let said = scene.command(&["plan", &file]).await.expect(1);
        assert!(
            said.stderr
                .contains("`tempo-harvest migrate` upgrades them"),
            "{}",
            said.stderr
        );
        assert_eq!(rows(&scene.pool).await, before, "{version}");
    }
    scene.command(&["migrate"]).await.expect(0);
    assert_kept(version, &before, &rows(&scene.pool).await);
    assert_invariants(&scene, version).await;
    assert_eq!(scene.covered("shop").await, [COVERED], "{version}");

    // What is missing is known as it was.
    let status = scene
        .command(&["status", "shop", "--json"])
        .await
        .expect(0)
        .json();
    assert_eq!(status[0]["missing_s"], 4 * HOUR_S, "{version}: {status}");
    let gaps = scene
        .command(&["gaps", "shop", "--json"])
        .await
        .expect(3)
        .json();
    let reasons: BTreeSet<&str> = gaps
        .as_array()
        .unwrap()
        .iter()
        .map(|gap| gap["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        reasons,
        BTreeSet::from(["failed", "in flight"]),
        "{version}: {gaps}"
    );

    let said = scene.command(&["run", &file]).await.expect(0);
    assert!(
        said.stdout.starts_with("shop: complete "),
        "{version}: {}",
        said.stdout
    );
    scene.equals_truth(SIX_HOURS, true).await;
    assert_invariants(&scene, version).await;
    let start = |request: &tempo_harvest::simulator::RequestRecord| {
        request
            .param("start")
            .and_then(|start| start.parse::<i64>().ok())
    };
    for request in scene.new_requests() {
        let early = start(&request).is_some_and(|start| start < COVERED.1);
        assert!(
            !early || request.path.contains("metrics"),
            "{version}: {request:?}"
        );
    }

    let said = scene.command(&["run", &file]).await.expect(0);
    assert!(
        said.stdout.starts_with("shop: already complete"),
        "{version}: {}",
        said.stdout
    );
    if THOROUGHLY.contains(&version) || version == newest {
        everything_is_shown(&scene, version).await;
    }
    if version >= 2 {
        // Somebody has paused it, and nobody has resumed it.
        let paused =
            "SELECT count(*) FROM harvest.windows WHERE dataset = 'live' AND state = 'queued'";
        assert_eq!(scene.number(paused).await, 1, "{version}");
        scene.command(&["resume", "live"]).await.expect(0);
    }
    if version >= 7 {
        // What was taken aside goes with retention, as the traces it was taken from do.
        let left: Vec<String> = query_scalar(
            "SELECT trace->>'start_ns' FROM harvest.removed_traces WHERE dataset = 'kept'",
        )
        .fetch_all(&scene.pool)
        .await
        .unwrap();
        assert_eq!(left, ["4102444800000000000"], "{version}");
    }
}

#[tokio::test]
async fn a_filled_database_of_every_earlier_version_goes_on() {
    let versions: Vec<i64> = sqlx::migrate!().iter().map(|m| m.version).collect();
    // Each by itself, and not all at once: two processors are enough for this.
    futures::stream::iter(versions)
        .map(goes_on_from)
        .buffer_unordered(3)
        .collect::<Vec<()>>()
        .await;
}

#[tokio::test]
async fn an_upgrade_is_all_or_nothing() {
    let scene = scene_of(4).await;
    fill(&scene, 4).await;
    // What the last migration but two makes is there already, by somebody's hand.
    scene
        .execute("CREATE TABLE harvest.pruned_fetches (mine int)")
        .await;
    let before = rows(&scene.pool).await;
    let said = scene.command(&["migrate"]).await.expect(1);
    assert!(
        said.stderr
            .starts_with("error: cannot create or upgrade tempo-harvest's tables: "),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.contains("\"pruned_fetches\" already exists"),
        "{}",
        said.stderr
    );
    assert_eq!(rows(&scene.pool).await, before);
    let applied = "SELECT max(version) FROM harvest._sqlx_migrations";
    assert_eq!(scene.number(applied).await, 4);
    scene.execute("DROP TABLE harvest.pruned_fetches").await;
    scene.command(&["migrate"]).await.expect(0);
    assert_eq!(scene.covered("shop").await, [COVERED]);
}
