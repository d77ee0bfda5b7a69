//! Killed, stopped, frozen and parallel workers: nothing is lost, nothing is stored twice, and it goes on where it was.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, query_as};
use tempo_harvest::simulator::{Burst, Fault, GenerateSettings, Misbehaviour};
use tempo_harvest::store;

use crate::support::harvest::{DAY_S, HOUR_S, Process, Scene, hours, job, searched, tempo};
use crate::support::proxy::{Line, Proxy, Upstream};

fn busy_hours(hours_: i64) -> GenerateSettings {
    GenerateSettings {
        bursts: vec![Burst {
            at_s: DAY_S + HOUR_S + 100,
            traces: 1_300,
        }],
        long_traces: 10,
        rootless_traces: 20,
        ..hours(hours_, 150 * hours_ as usize)
    }
}

/// Windows that were asked for again after an answer that finished them.
const ASKED_AFTER_DONE: &str =
    "SELECT count(*) FROM harvest.windows w JOIN harvest.fetches f ON f.window_id = w.id
     WHERE w.state IN ('done', 'split') AND f.at > w.finished_at";
/// Windows of the ledger, done, that have a second in common.
const DONE_TWICE: &str = "SELECT count(*) FROM harvest.windows a JOIN harvest.windows b
     ON a.dataset = b.dataset AND a.id < b.id AND a.span && b.span WHERE a.state = 'done' AND b.state = 'done'";

#[tokio::test]
async fn killed_three_times_it_completes_and_asks_for_nothing_again_that_was_done() {
    let scene = Scene::new(tempo(&busy_hours(16))).await;
    let job = job(16).services().backfill("window = \"30m\"");
    let file = scene.write(&job);
    for _ in 0..3 {
        scene.control.forget_requests();
        let running = scene.start(&["run", &file]);
        // Held in the middle, so that the kill finds windows in hand, and finds the run unfinished.
        scene.answers(8).await;
        let held = scene.control.hold("/api/search");
        scene.held(1).await;
        running.signal(Signal::KILL);
        assert_eq!(running.end().await.code, None);
        held.release();
    }
    let done = scene
        .number("SELECT count(*) FROM harvest.windows WHERE state = 'done'")
        .await;
    let left = scene
        .number("SELECT count(*) FROM harvest.windows WHERE state = 'running'")
        .await;
    assert!(done > 3 && left > 0, "{done} done, {left} in hand");
    // The leases of the killed run out within a minute: this is waited for, for real.
    scene.command(&["run", &file]).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 16 * HOUR_S), true).await;
    assert_eq!(scene.number(ASKED_AFTER_DONE).await, 0);
    assert_eq!(scene.number(DONE_TWICE).await, 0);
    let runs: Vec<(String, i64)> =
        query_as("SELECT state, count(*) FROM harvest.runs GROUP BY state")
            .fetch_all(&scene.pool)
            .await
            .unwrap();
    assert_eq!(runs, [("complete".to_owned(), 1)], "one submission");
}

#[tokio::test]
async fn told_to_stop_it_releases_what_is_in_hand_and_says_how_to_go_on() {
    for signal in [Signal::TERM, Signal::INT] {
        let scene = Scene::new(tempo(&busy_hours(8))).await;
        let file = scene.write(&job(8).services());
        let running = scene.start(&["run", &file]);
        scene.answers(3).await;
        let held = scene.control.hold("/api/search");
        scene.held(2).await;
        let told = std::time::Instant::now();
        running.signal(signal);
        let said = running.end().await.expect(3);
        assert!(told.elapsed().as_secs() < 5, "{:?}", told.elapsed());
        assert!(
            said.stdout.starts_with("shop: interrupted "),
            "{}",
            said.stdout
        );
        assert!(
            said.stderr
                .contains("To go on: tempo-harvest run shop.toml"),
            "{}",
            said.stderr
        );
        assert!(
            said.stderr
                .contains("stopping: what is in hand goes back on the queue"),
            "{}",
            said.stderr
        );
        drop(held);
        // What was still finished is in the sum.
        let done = "SELECT count(*) FROM harvest.windows WHERE state = 'done'";
        let done = format!("\n  {} window", scene.number(done).await);
        assert!(said.stdout.contains(&done), "{done}: {}", said.stdout);
        let running = "SELECT count(*) FROM harvest.windows WHERE state = 'running' OR lease_holder IS NOT NULL";
        assert_eq!(scene.number(running).await, 0);
        let queued = "SELECT count(*) FROM harvest.windows WHERE state = 'queued' AND next_try_at <= now() AND attempts = 0";
        assert!(scene.number(queued).await > 0);
        // At once, without waiting for a lease.
        let begun = std::time::Instant::now();
        scene.command(&["run", &file]).await.expect(0);
        assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
        scene.equals_truth((DAY_S, DAY_S + 8 * HOUR_S), true).await;
        assert_eq!(scene.number(ASKED_AFTER_DONE).await, 0);
    }
}

#[tokio::test]
async fn told_to_stop_while_it_still_counts_it_has_begun_nothing() {
    let scene = Scene::new(tempo(&busy_hours(8))).await;
    let file = scene.write(&job(8));
    let held = scene.control.hold("/api/metrics/query_range");
    let running = scene.start(&["run", "--json", &file]);
    scene.held(1).await;
    running.signal(Signal::INT);
    let said = running.end().await.expect(3);
    assert_eq!(said.json(), serde_json::json!([]));
    assert!(
        said.stderr
            .contains("stopped before anything was fetched; to go on, run again"),
        "{}",
        said.stderr
    );
    let runs = "SELECT count(*) FROM harvest.runs";
    assert_eq!(scene.number(runs).await, 0);
    drop(held);
    scene.command(&["run", &file]).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 8 * HOUR_S), false).await;
}

#[tokio::test]
async fn two_workers_share_the_work_and_store_no_window_twice() {
    let scene = Scene::new(tempo(&busy_hours(24))).await;
    let file = scene.write(&job(24).services());
    scene.command(&["submit", &file]).await.expect(0);
    // Nobody gets an answer until both are there; then each takes its time.
    let held = scene.control.hold("/api/search");
    let delay = std::time::Duration::from_millis(300);
    let slow = Fault::forever(Misbehaviour::Slow { delay }).on_path("/api/search");
    scene.control.add_fault(slow);
    let workers: Vec<Process> = (0..2).map(|_| scene.start(&["work", "--drain"])).collect();
    scene.held(4).await;
    scene
        .until(
            "SELECT count(DISTINCT lease_holder) = 2 FROM harvest.windows WHERE state = 'running'",
        )
        .await;
    held.release();
    for worker in workers {
        worker.end().await.expect(0);
    }
    scene.equals_truth((DAY_S, DAY_S + 24 * HOUR_S), true).await;
    assert_eq!(scene.number(ASKED_AFTER_DONE).await, 0);
    assert_eq!(scene.number(DONE_TWICE).await, 0);
    let by_holder: Vec<(String, i64)> = query_as(
        "SELECT holder, count(DISTINCT window_id) FROM harvest.fetches JOIN harvest.windows w ON w.id = window_id
         WHERE w.state = 'done' AND outcome = 'complete' AND kind = 'search' GROUP BY holder",
    )
    .fetch_all(&scene.pool)
    .await
    .unwrap();
    let shares: BTreeMap<_, _> = by_holder.into_iter().collect();
    let all: i64 = shares.values().sum();
    assert_eq!(shares.len(), 2);
    assert!(shares.values().all(|done| done * 6 >= all), "{shares:?}");
}

#[tokio::test]
async fn two_runs_of_one_job_at_once_fetch_nothing_twice() {
    let scene = Scene::new(tempo(&busy_hours(6))).await;
    let file = scene.write(&job(6).services());
    let runs: Vec<Process> = (0..2).map(|_| scene.start(&["run", &file])).collect();
    for run in runs {
        run.end().await.expect(0);
    }
    scene.equals_truth((DAY_S, DAY_S + 6 * HOUR_S), true).await;
    assert_eq!(scene.number(ASKED_AFTER_DONE).await, 0);
    assert_eq!(scene.number(DONE_TWICE).await, 0);
}

#[tokio::test]
async fn frozen_past_its_lease_a_worker_stores_nothing_late() {
    let scene = Scene::new(tempo(&hours(1, 200))).await;
    let file = scene.write(&job(1).services());
    scene.command(&["submit", &file]).await.expect(0);
    let held = scene.control.hold("/api/search");
    let mut frozen = scene.start(&["-v", "work"]);
    scene.held(1).await;
    frozen.signal(Signal::STOP);
    // Its lease runs out, and another does its work.
    let expired = "UPDATE harvest.windows SET lease_expires_at = now() - interval '1 second' WHERE state = 'running'";
    scene.execute(expired).await;
    held.release();
    scene.command(&["work", "--drain"]).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + HOUR_S), true).await;
    let finished = "SELECT lease_token FROM harvest.windows WHERE state = 'done'";
    assert_eq!(scene.number(finished).await, 2);
    // Whatever it stored now would be seen.
    scene.execute("DELETE FROM harvest.traces").await;
    frozen.signal(Signal::CONT);
    frozen.says("the lease was lost; nothing stored").await;
    frozen.signal(Signal::TERM);
    frozen.end().await.expect(0);
    assert_eq!(scene.number("SELECT count(*) FROM harvest.traces").await, 0);
    assert_eq!(scene.number(finished).await, 2);
}

#[tokio::test]
async fn a_lease_that_runs_out_between_answer_and_storing_stores_nothing() {
    let scene = Scene::new(tempo(&hours(1, 200))).await;
    let file = scene.write(&job(1).services());
    scene.command(&["submit", &file]).await.expect(0);
    let held = scene.control.hold("/api/search");
    let mut working = scene.start(&["-v", "work", "--drain"]);
    scene.held(1).await;
    // The window's row is locked while the answer comes, and its lease has run out when storing goes on.
    let mut lock = scene.pool.begin().await.unwrap();
    sqlx::query("SELECT id FROM harvest.windows FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    held.release();
    scene
        .until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() AND query LIKE '%FOR UPDATE%')")
        .await;
    let again = scene.control.hold("/api/search");
    sqlx::query(
        "UPDATE harvest.windows SET lease_expires_at = clock_timestamp() - interval '1 second'",
    )
    .execute(&mut *lock)
    .await
    .unwrap();
    lock.commit().await.unwrap();
    working.says("the lease was lost; nothing stored").await;
    // It is taken up again; nothing is there yet.
    scene.held(1).await;
    assert_eq!(scene.number("SELECT count(*) FROM harvest.traces").await, 0);
    assert!(scene.covered("shop").await.is_empty());
    again.release();
    working.end().await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + HOUR_S), true).await;
}

#[tokio::test]
async fn connections_cut_by_the_database_are_survived() {
    let scene = Scene::new(tempo(&busy_hours(10))).await;
    let file = scene.write(&job(10).services());
    let running = scene.start(&["run", &file]);
    for _ in 0..2 {
        let answered = scene.control.requests().len();
        scene.answers(answered + 3).await;
        let held = scene.control.hold("/api/search");
        scene.held(1).await;
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name LIKE 'tempo-harvest%'";
        assert!(scene.number(cut).await > 0);
        held.release();
    }
    // What was in hand then is taken up again when its lease has run out.
    scene
        .execute("UPDATE harvest.windows SET lease_expires_at = now() WHERE state = 'running'")
        .await;
    running.end().await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 10 * HOUR_S), true).await;
    assert_eq!(scene.number(DONE_TWICE).await, 0);
    assert!(searched(&scene.control.requests()).len() >= 10);
}

#[tokio::test]
async fn a_transaction_given_up_while_it_begins_is_not_gone_on_with() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let options = scene.database.options();
    let socket = options.get_socket().unwrap().join(".s.PGSQL.5432");
    let proxy = Proxy::new(Upstream::Unix(socket)).await;
    let url = scene.database.url();
    let (there, _socket) = url.split_once('?').unwrap();
    let through = there.replace("@localhost", &format!("@{}", proxy.address()));
    let through: PgConnectOptions = format!("{through}?sslmode=disable").parse().unwrap();
    let pool = store::connect(&through, 1).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    // Its beginning is on the way when it is given up.
    proxy.set(Line::Stalled);
    let beginning = tokio::time::timeout(Duration::from_millis(50), connection.begin());
    assert!(beginning.await.is_err());
    drop(connection);
    proxy.set(Line::Open);
    sqlx::query("CREATE TABLE kept ()")
        .execute(&pool)
        .await
        .unwrap();
    let kept = "SELECT count(*) FROM pg_class WHERE relname = 'kept'";
    assert_eq!(scene.number(kept).await, 1);
}
