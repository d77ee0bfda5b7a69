//! How fast a source is asked by several processes together, and who goes first.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempo_harvest::plan::density::Piece;
use tempo_harvest::simulator::{Fault, Misbehaviour, RequestRecord, RetryAfter};
use tempo_harvest::store::Look;
use tempo_harvest::store::windows::{self, LIVE_PRIORITY, Origin};
use tempo_harvest::window::Window;

use crate::support::harvest::{DAY_S, HOUR_S, Process, Scene, hours, job, tempo};

/// What polls look at begins here, after everything that the backfill looks at.
const LIVE_FROM_S: i64 = DAY_S + 30 * HOUR_S;

fn slowly(delay_ms: u64) -> Fault {
    let delay = Duration::from_millis(delay_ms);
    Fault::forever(Misbehaviour::Slow { delay }).on_path("/api")
}

/// Submits a backfill of 24 windows of an hour and more; returns the file's name.
async fn submit(scene: &Scene, per_second: &str, limits: &str, backfill: &str) -> String {
    let file = scene.write(&job(24).services().limits(limits).backfill(backfill));
    let path = scene.folder.path().join(&file);
    let text = std::fs::read_to_string(&path).unwrap();
    let rate = format!("requests_per_second = {per_second}");
    scene.write_file(&file, &text.replace("requests_per_second = 1000", &rate));
    scene.command(&["submit", &file]).await.expect(0);
    file
}

/// Has the job polled, as far as the ledger knows.
async fn polled(scene: &Scene) {
    scene
        .execute(
            "INSERT INTO harvest.runs (job, dataset, requested, settle_s, command, submitted_by, kind)
             SELECT name, dataset, tstzrange('2026-03-02', now()), 0, 'work', 'test', 'poll' FROM harvest.jobs",
        )
        .await;
}

/// Puts a poll's window on the queue, after so many before.
async fn tick(scene: &Scene, before: i64) {
    let mut tx = scene.pool.begin().await.unwrap();
    let origin = Origin {
        run_id: scene.number("SELECT max(id) FROM harvest.runs").await,
        dataset: "shop",
        source: "simulator",
        look: Look::Fresh,
        earlier_look: None,
        priority: LIVE_PRIORITY,
        settle_s: 0,
    };
    let from_s = LIVE_FROM_S + before * 15;
    let window = Window::new(from_s, from_s + 15).unwrap();
    windows::insert_planned(&mut tx, &origin, &[Piece::uncounted(window)])
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

fn is_live(request: &RequestRecord) -> bool {
    let start = request.param("start").unwrap();
    start.parse::<i64>().unwrap() >= LIVE_FROM_S
}

#[tokio::test]
async fn three_processes_ask_no_more_than_one_may() {
    let scene = Scene::new(tempo(&hours(24, 1_200))).await;
    // At first there are too few places for the rate, then the rate is too low for the places.
    let delay = Duration::from_millis(1_500);
    let slow = Fault::next(9, Misbehaviour::Slow { delay }).on_path("/api");
    scene.control.add_fault(slow);
    scene.control.add_fault(slowly(100));
    submit(&scene, "5", "concurrency = 3", "").await;
    let workers: Vec<Process> = (0..3).map(|_| scene.start(&["work", "--drain"])).collect();
    for worker in workers {
        worker.end().await.expect(0);
    }
    scene.equals_truth((DAY_S, DAY_S + 24 * HOUR_S), true).await;
    let (at_once, within) = (
        scene.control.most_in_flight(),
        scene.control.most_within(Duration::from_secs(1)),
    );
    assert_eq!(at_once, 3, "at once");
    assert!((4..=5).contains(&within), "{within} within a second");
    let holders = scene
        .number("SELECT count(DISTINCT holder) FROM harvest.fetches WHERE window_id IS NOT NULL")
        .await;
    assert_eq!(holders, 3, "each had its share");
    assert_eq!(
        scene
            .number("SELECT count(*) FROM harvest.source_permits")
            .await,
        0,
        "places are given back"
    );
}

#[tokio::test]
async fn a_refusal_lowers_the_pace_and_answers_raise_it_again() {
    let scene = Scene::new(tempo(&hours(24, 1_200))).await;
    let file = submit(&scene, "20", "concurrency = 4", "window = \"10m\"").await;
    let refusals = Misbehaviour::TooManyRequests(RetryAfter::Seconds(1));
    scene
        .control
        .add_fault(Fault::next(1, refusals).on_path("/api").after(4));
    let mut working = scene.start(&["-v", "work"]);
    working.says("asking less of a source").await;
    let pace = async || {
        let said = scene.command(&["status", "--json"]).await.expect(0);
        said.json()[0]["source_pace"].clone()
    };
    let lowered = pace().await;
    assert_eq!(lowered["source"], "simulator");
    assert_eq!(lowered["requests_per_second"], 20.0);
    assert_eq!(lowered["concurrency"], 4);
    let share = |pace: &serde_json::Value| pace["present_requests_per_second"].as_f64().unwrap();
    assert!((10.0..12.0).contains(&share(&lowered)), "{lowered}");
    assert_eq!(lowered["present_concurrency"], 2);
    assert!(lowered["held_back_since"].is_string(), "{lowered}");
    let said = scene.command(&["status", &file.replace(".toml", "")]).await;
    let line = said.stdout.lines().last().unwrap();
    assert!(
        line.starts_with("source simulator: 1")
            && line.contains(" of 20 requests/s, 2 of 4 at once, held back since 2")
            && line.contains("by \"Tempo answered 429"),
        "{line}"
    );
    scene
        .until("SELECT factor > 0.55 FROM harvest.source_pace")
        .await;
    assert!(share(&pace().await) > share(&lowered));
    // The rest of the way takes half a minute.
    scene
        .execute("UPDATE harvest.source_pace SET factor = 0.995")
        .await;
    scene
        .until("SELECT factor = 1 FROM harvest.source_pace")
        .await;
    let whole = pace().await;
    assert_eq!(share(&whole), 20.0);
    assert!(whole["held_back_since"].is_null(), "{whole}");
    working.signal(Signal::TERM);
    working.end().await.expect(0);
}

#[tokio::test]
async fn slow_answers_lower_the_pace_too() {
    let scene = Scene::new(tempo(&hours(24, 1_200))).await;
    submit(&scene, "20", "concurrency = 4, timeout = \"900ms\"", "").await;
    let slow = scene.control.add_fault(slowly(400));
    let mut working = scene.start(&["-v", "work", "--drain"]);
    working.says("asking less of a source").await;
    scene.control.withdraw_fault(slow);
    working.end().await.expect(0);
    let why = "SELECT count(*) FROM harvest.source_pace WHERE why LIKE 'an answer took 0.% s'";
    assert_eq!(scene.number(why).await, 1);
}

#[tokio::test]
async fn the_smaller_of_two_limits_holds() {
    let scene = Scene::new(tempo(&hours(24, 1_200))).await;
    let file = submit(&scene, "1000", "concurrency = 2", "").await;
    let held = scene.control.hold("/api");
    let working = scene.start(&["work"]);
    scene.held(2).await;
    // A process that knows the source with more.
    let text = std::fs::read_to_string(scene.folder.path().join(&file)).unwrap();
    scene.write_file(
        "more.toml",
        &text.replace("concurrency = 2", "concurrency = 9"),
    );
    let more = scene.start(&["run", "more.toml"]);
    scene
        .until("SELECT waiter IS NOT NULL FROM harvest.source_pace")
        .await;
    held.release();
    more.end().await.expect(0);
    assert_eq!(scene.control.most_in_flight(), 2);
    working.signal(Signal::TERM);
    working.end().await.expect(0);
}

#[tokio::test]
async fn places_of_a_killed_process_are_free_after_a_while() {
    let scene = Scene::new(tempo(&hours(24, 1_200))).await;
    submit(&scene, "1000", "concurrency = 3", "").await;
    let held = scene.control.hold("/api");
    let killed = scene.start(&["work"]);
    scene.held(3).await;
    killed.signal(Signal::KILL);
    killed.end().await;
    held.release();
    scene.control.forget_requests();
    let begun = Instant::now();
    let other = scene.start(&["work"]);
    scene.control.wait_for_requests(1).await;
    let waited = begun.elapsed();
    assert!(
        waited > Duration::from_secs(4) && waited < Duration::from_secs(15),
        "{waited:?}"
    );
    other.signal(Signal::TERM);
    other.end().await.expect(0);
}

#[tokio::test]
async fn a_poll_has_a_place_while_a_backfill_takes_all_others() {
    let scene = Scene::new(tempo(&hours(24, 1_200))).await;
    submit(&scene, "1000", "concurrency = 3", "").await;
    polled(&scene).await;
    scene.control.forget_requests();
    let held = scene.control.hold("/api");
    let workers: Vec<Process> = (0..2).map(|_| scene.start(&["work"])).collect();
    scene.held(2).await;
    // Nobody gets the third.
    scene
        .until("SELECT count(*) = 10 FROM harvest.windows WHERE state = 'running'")
        .await;
    scene
        .until(
            "SELECT waits_since < clock_timestamp() - interval '1 second' FROM harvest.source_pace",
        )
        .await;
    assert_eq!(scene.control.requests().len(), 2);
    let begun = Instant::now();
    tick(&scene, 0).await;
    scene.held(3).await;
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    let requests = scene.control.requests();
    let live: BTreeSet<usize> = requests
        .iter()
        .filter(|request| is_live(request))
        .map(|request| request.number)
        .collect();
    assert_eq!(live, BTreeSet::from([2]));
    held.release();
    for worker in workers {
        worker.signal(Signal::TERM);
        worker.end().await.expect(0);
    }
    assert_eq!(scene.control.most_in_flight(), 3);
}

#[tokio::test]
async fn where_there_is_one_place_a_poll_is_the_next() {
    let scene = Scene::new(tempo(&hours(24, 1_200))).await;
    submit(&scene, "1000", "concurrency = 1", "").await;
    let held = scene.control.hold("/api");
    let workers: Vec<Process> = (0..2).map(|_| scene.start(&["work"])).collect();
    scene.held(1).await;
    // The other process waits for the place as well.
    scene
        .until(
            "SELECT waits_since < clock_timestamp() - interval '1 second' FROM harvest.source_pace",
        )
        .await;
    let mut held = Some(held);
    for before in 0..5 {
        let held = held.take().unwrap_or_else(|| scene.control.hold("/api"));
        scene.held(1).await;
        let asked = scene.control.requests().len();
        tick(&scene, before).await;
        scene
            .until("SELECT live_waits_until > clock_timestamp() FROM harvest.source_pace")
            .await;
        held.release();
        scene.control.wait_for_requests(asked + 1).await;
        let next = &scene.control.requests()[asked];
        assert!(is_live(next), "{before}: {next:?}");
    }
    for worker in workers {
        worker.signal(Signal::TERM);
        worker.end().await.expect(0);
    }
    assert_eq!(scene.control.most_in_flight(), 1);
}
