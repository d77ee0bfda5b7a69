//! `pause`, `resume`, `cancel` and `runs`: what is stopped stops soon and everywhere, goes on where it was, and leaves
//! nothing behind when it is given up.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempo_harvest::simulator::{Fault, Misbehaviour};

use crate::support::harvest::{
    DAY_S, HOUR_S, Job, Process, Scene, hours, job, redacted, rfc3339, searched, tempo,
};

/// No new request is made later than this after `pause`.
const PAUSED_WITHIN: Duration = Duration::from_secs(5);

const NONE_IN_HAND: &str =
    "SELECT NOT EXISTS (SELECT FROM harvest.windows WHERE state = 'running')";
const OPEN_OF_SHOP: &str = "SELECT count(*) FROM harvest.windows WHERE dataset = 'shop' AND state IN ('queued', 'running')";
/// Items on the queue, in whatever state, for windows of the dataset.
const NO_ITEMS_OF_SHOP: &str = "SELECT NOT EXISTS (
         SELECT FROM apalis.jobs i JOIN harvest.windows w ON i.job = w.id::text::bytea WHERE w.dataset = 'shop')";

/// Another job on the same Tempo, whose being done shows that a worker has been at work meanwhile.
fn other(from_h: i64) -> Job {
    let mut other = job(1).services();
    other.name = "other".to_owned();
    other.range(DAY_S + from_h * HOUR_S, DAY_S + (from_h + 1) * HOUR_S)
}

/// Has the worker that runs collect an hour of the other job.
async fn collects_another_hour(scene: &Scene, from_h: i64) {
    let file = scene.write(&other(from_h));
    scene.command(&["submit", &file]).await.expect(0);
    scene
        .until("SELECT NOT EXISTS (SELECT FROM harvest.windows WHERE dataset = 'other' AND state IN ('queued', 'running'))")
        .await;
}

async fn stop(worker: Process) {
    worker.signal(Signal::TERM);
    worker.end().await.expect(0);
}

#[tokio::test]
async fn a_paused_job_is_asked_nothing_for_until_it_is_resumed() {
    let scene = Scene::new(tempo(&hours(24, 1_200))).await;
    let file = scene.write(&job(12).services().limits("concurrency = 2"));
    scene.command(&["submit", &file]).await.expect(0);
    let worker = scene.start(&["work"]);
    scene.answers(3).await;
    // In the middle: two windows are in hand, and their answers do not come.
    let held = scene.control.hold("/api/search");
    scene.held(2).await;
    scene.control.forget_requests();
    let said = scene.command(&["pause", "shop"]).await.expect(0);
    let paused_at = Instant::now();
    assert!(
        said.stdout.starts_with("job `shop` is paused: "),
        "{}",
        said.stdout
    );
    scene.until(NONE_IN_HAND).await;
    held.release();
    // The worker is alive, and passes over what is paused; so does one that starts now.
    collects_another_hour(&scene, 20).await;
    stop(worker).await;
    let drained = scene.command(&["work", "--drain"]).await.expect(3);
    assert!(
        drained.stderr.contains("windows are paused"),
        "{}",
        drained.stderr
    );
    let worker = scene.start(&["work"]);
    collects_another_hour(&scene, 21).await;
    let mut late = scene.control.requests();
    late.retain(|request| request.at > paused_at + PAUSED_WITHIN);
    let mut late = searched(&late);
    late.retain(|(start, _)| *start < DAY_S + 12 * HOUR_S);
    assert_eq!(late, []);
    let attempts = "SELECT sum(attempts) + sum(throttled) FROM harvest.windows";
    assert_eq!(scene.number(attempts).await, 0, "untouched");
    let open = scene.number(OPEN_OF_SHOP).await;
    assert!(open > 2, "{open}");
    let status = scene.command(&["status", "shop", "--json"]).await.expect(0);
    assert_eq!(status.json()[0]["paused"][0]["job"], "shop");

    let said = scene.command(&["resume", "shop"]).await.expect(0);
    assert!(
        said.stdout
            .starts_with(&format!("job `shop` goes on: {open} windows on the queue")),
        "{}",
        said.stdout
    );
    scene
        .until(
            "SELECT NOT EXISTS (SELECT FROM harvest.windows WHERE state IN ('queued', 'running'))",
        )
        .await;
    stop(worker).await;
    scene.equals_truth((DAY_S, DAY_S + 12 * HOUR_S), true).await;
    let once = "SELECT count(*) FROM harvest.windows WHERE dataset = 'shop' AND lease_token > 2";
    assert_eq!(scene.number(once).await, 0);
}

#[tokio::test]
async fn what_would_wait_for_a_paused_job_is_refused() {
    let scene = Scene::new(tempo(&hours(2, 100))).await;
    let file = scene.write(&job(2));
    scene.command(&["submit", &file]).await.expect(0);
    let ada = [
        ("DATABASE_URL", scene.database.url()),
        ("USER", "ada".to_owned()),
    ];
    let ada: Vec<(&str, &str)> = ada
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let said = scene.command_with(&["pause", "shop"], &ada).await.expect(0);
    insta::assert_snapshot!(redacted(&said.stdout), @"job `shop` is paused: 2 windows wait, no new request is made for it after 5 s; `tempo-harvest resume shop` lets it go on");
    let again = scene.command(&["pause", "shop"]).await.expect(0);
    insta::assert_snapshot!(redacted(&again.stdout), @"job `shop` is paused already, since TIME by ada@PROCESS");
    let again = scene.command(&["pause", "shop", "--json"]).await;
    let again = again.expect(0).json();
    assert_eq!(
        (&again["job"], &again["paused"]),
        (&"shop".into(), &true.into())
    );
    assert_eq!(
        (&again["run"], &again["windows"]),
        (&Value::Null, &2.into())
    );
    let by = again["was_paused"]["by"].as_str().unwrap();
    assert!(by.starts_with("ada@"), "{by}");
    for command in ["run", "submit"] {
        let said = scene.command(&[command, &file]).await.expect(2);
        insta::allow_duplicates! {
            insta::assert_snapshot!(redacted(&said.stderr), @"error: job `shop` is paused since TIME by ada@PROCESS: `tempo-harvest resume shop` first");
        }
    }
    let run = scene.command(&["resume", "1"]).await.expect(2);
    insta::assert_snapshot!(redacted(&run.stderr), @"error: run 1 belongs to job `shop`, which is paused since TIME by ada@PROCESS: `tempo-harvest resume shop` lets all of it go on");
    let status = scene.command(&["status"]).await.expect(0);
    insta::assert_snapshot!(redacted(&status.stdout), @r"
    shop  (every trace; detail trace; from simulator; jobs: shop)
      0 traces; 0 % of the 2.0 h due complete
      2 windows queued, 0 being fetched
      job shop is paused since TIME by ada@PROCESS
      2h missing: tempo-harvest gaps shop
    ");
    let runs = scene.command(&["runs"]).await.expect(0);
    insta::assert_snapshot!(redacted(&runs.stdout), @r"
    run 1  shop  backfill  open, paused  2026-03-01T00:00:00Z … 2026-03-01T02:00:00Z
      submitted TIME with `submit` by PROCESS
      paused since TIME by ada@PROCESS
      windows 0 done, 2 open, 0 failed; 0 traces, 0 new, 0 improved; 0 requests, 0 splits, 0 retries
    ");
    let waiting = "SELECT count(*) FROM apalis.jobs WHERE status = 'Pending'";
    assert_eq!(scene.number(waiting).await, 0);
    let said = scene.command(&["resume", "shop"]).await.expect(0);
    // At once, before anything has swept.
    assert_eq!(scene.number(waiting).await, 2);
    insta::assert_snapshot!(redacted(&said.stdout), @"job `shop` goes on: 2 windows on the queue (it was paused since TIME by ada@PROCESS)");
    let said = scene.command(&["resume", "shop"]).await.expect(0);
    insta::assert_snapshot!(said.stdout, @"job `shop` was not paused");
    let said = scene.command(&["resume", "shop", "--json"]).await;
    let said = said.expect(0).json();
    assert_eq!(
        (&said["paused"], &said["was_paused"]),
        (&false.into(), &Value::Null)
    );
    for command in ["pause", "resume", "cancel"] {
        let said = scene.command(&[command, "shopp"]).await.expect(2);
        insta::allow_duplicates! {
            insta::assert_snapshot!(said.stderr, @"error: there is no job and no run `shopp`; there are the jobs `shop`; `tempo-harvest runs` lists the runs");
        }
    }
    scene.command(&["run", &file]).await.expect(0);
    for command in ["pause", "resume", "cancel"] {
        let said = scene.command(&[command, "1"]).await.expect(2);
        insta::allow_duplicates! {
            insta::assert_snapshot!(said.stderr, @"error: run 1 is complete already");
        }
    }
}

#[tokio::test]
async fn a_paused_run_rests_while_its_job_goes_on() {
    let scene = Scene::new(tempo(&hours(4, 200))).await;
    let early = scene.write(&job(2).services());
    scene.command(&["submit", &early]).await.expect(0);
    scene.command(&["pause", "1"]).await.expect(0);
    // `run` would wait for it.
    let said = scene.command(&["run", &early]).await.expect(2);
    insta::assert_snapshot!(redacted(&said.stderr), @"error: job `shop`: windows of this range wait for run 1, which is paused since TIME by PROCESS: `tempo-harvest resume 1` first");
    let (from, to) = (rfc3339(DAY_S + 2 * HOUR_S), rfc3339(DAY_S + 4 * HOUR_S));
    let later = ["run", &early, "--from", &from, "--to", &to];
    scene.command(&later).await.expect(0);
    let late = (DAY_S + 2 * HOUR_S, DAY_S + 4 * HOUR_S);
    assert_eq!(scene.covered("shop").await, [late]);
    assert_eq!(scene.number(OPEN_OF_SHOP).await, 2);
    let status = scene.command(&["status", "--json"]).await.expect(0).json();
    assert_eq!(status[0]["paused"][0]["run"], 1);
    scene.command(&["resume", "1"]).await.expect(0);
    scene.command(&["work", "--drain"]).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 4 * HOUR_S), true).await;
}

#[tokio::test]
async fn cancelled_it_leaves_the_queue_and_nothing_of_it_is_stored_any_more() {
    let scene = Scene::new(tempo(&hours(24, 1_200))).await;
    let file = scene.write(&job(12).services().limits("concurrency = 2"));
    scene.command(&["submit", &file]).await.expect(0);
    let mut worker = scene.start(&["-v", "work"]);
    scene.answers(3).await;
    let held = scene.control.hold("/api/search");
    scene.held(2).await;
    let refused = scene.command(&["cancel", "shop"]).await.expect(2);
    assert!(refused.stderr.contains("say --yes"), "{}", refused.stderr);
    assert!(scene.number(OPEN_OF_SHOP).await > 2);

    let said = scene.command(&["cancel", "shop", "--yes"]).await.expect(0);
    assert!(
        said.stdout
            .starts_with("job `shop`: run 1 cancelled, with "),
        "{}",
        said.stdout
    );
    let (stored, covered) = (scene.stored("shop").await, scene.covered("shop").await);
    assert_eq!(scene.number(OPEN_OF_SHOP).await, 0);
    let waiting = "SELECT count(*) FROM apalis.jobs WHERE status = 'Pending'";
    assert_eq!(scene.number(waiting).await, 0);
    // Its answers come after all.
    held.release();
    worker.says("the lease was lost; nothing stored").await;
    scene.until(NO_ITEMS_OF_SHOP).await;
    collects_another_hour(&scene, 20).await;
    stop(worker).await;
    assert_eq!(scene.stored("shop").await, stored);
    assert_eq!(scene.covered("shop").await, covered);
    let gaps = scene.command(&["gaps", "shop"]).await.expect(0);
    assert_eq!(gaps.stdout, "shop: no gaps in what was asked for\n");
    let runs = scene
        .command(&["runs", "shop", "--json"])
        .await
        .expect(0)
        .json();
    assert_eq!(runs[0]["state"], "cancelled");
    let again = scene.command(&["cancel", "shop", "--yes"]).await.expect(0);
    assert_eq!(
        again.stdout,
        "job `shop` has no open run: nothing to cancel\n"
    );
    let again = scene.command(&["cancel", "shop", "--yes", "--json"]).await;
    let again = again.expect(0).json();
    assert_eq!(again["cancelled"], Value::Array(Vec::new()));
    // It can be asked for again.
    scene.command(&["run", &file]).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 12 * HOUR_S), true).await;
}

#[tokio::test]
async fn a_window_that_is_being_split_is_cancelled_with_its_pieces() {
    let scene = Scene::new(tempo(&hours(2, 3_000))).await;
    // What is not counted is cut when it turns out to be full.
    let uncounted = Fault::forever(Misbehaviour::Status(500)).on_path("/api/metrics");
    scene.control.add_fault(uncounted);
    let file = scene.write(&job(2).services());
    scene.command(&["submit", &file]).await.expect(0);
    let worker = scene.start(&["work"]);
    scene
        .until("SELECT EXISTS (SELECT FROM harvest.windows WHERE state = 'split')")
        .await;
    scene.command(&["cancel", "1", "--yes"]).await.expect(0);
    assert_eq!(scene.number(OPEN_OF_SHOP).await, 0);
    scene.until(NO_ITEMS_OF_SHOP).await;
    stop(worker).await;
    assert_eq!(scene.number(OPEN_OF_SHOP).await, 0);
}

#[tokio::test]
async fn cancelling_a_poll_pauses_its_job() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let file = scene.write(&job(1));
    scene.command(&["run", &file]).await.expect(0);
    scene
        .execute(
            "INSERT INTO harvest.runs (job, dataset, kind, requested, settle_s, command, submitted_by)
             VALUES ('shop', 'shop', 'poll', tstzrange(now() - interval '10 minutes', now() - interval '1 minute'), 3600, 'work', 'x')",
        )
        .await;
    let said = scene.command(&["cancel", "2", "--yes"]).await.expect(0);
    insta::assert_snapshot!(said.stdout, @r"
    run 2 (job `shop`, poll): run 2 cancelled, with 0 windows
    job `shop` is paused, or the next tick would begin its poll again: `tempo-harvest resume shop` begins it anew, from then on
    ");
    let said = scene.command(&["submit", &file]).await.expect(2);
    assert!(said.stderr.contains("is paused since"), "{}", said.stderr);
    scene.command(&["resume", "shop"]).await.expect(0);
    scene.command(&["submit", &file]).await.expect(0);
    let open = "SELECT count(*) FROM harvest.runs WHERE state = 'open'";
    assert_eq!(scene.number(open).await, 0);
}

#[tokio::test]
async fn runs_say_who_submitted_what_and_what_came_of_it() {
    let scene = Scene::new(tempo(&hours(4, 200))).await;
    let none = scene.command(&["runs"]).await.expect(0);
    assert_eq!(none.stdout, "nothing has been submitted yet\n");
    let file = scene.write(
        &job(2)
            .services()
            .limits("max_attempts = 1, concurrency = 1"),
    );
    scene.command(&["run", &file]).await.expect(0);
    let refusal = Fault::forever(Misbehaviour::Status(500)).on_path("/api/search");
    scene.control.add_fault(refusal);
    let (from, to) = (rfc3339(DAY_S + 2 * HOUR_S), rfc3339(DAY_S + 3 * HOUR_S));
    scene
        .execute("UPDATE harvest.sources SET last_success_at = now() - interval '1 hour'")
        .await;
    let later = ["run", &file, "--from", &from, "--to", &to];
    scene.command(&later).await.expect(1);
    let said = scene.command(&["runs", "shop"]).await.expect(0);
    insta::assert_snapshot!(redacted(&said.stdout), @r"
    run 2  shop  backfill  failed  2026-03-01T02:00:00Z … 2026-03-01T03:00:00Z
      submitted TIME with `run` by PROCESS, ended TIME
      windows 0 done, 0 open, 1 failed; 0 traces, 0 new, 0 improved; 1 request, 0 splits, 0 retries
      Tempo answered 500 and said `internal server error`
    run 1  shop  backfill  complete  2026-03-01T00:00:00Z … 2026-03-01T02:00:00Z
      submitted TIME with `run` by PROCESS, ended TIME
      windows 2 done, 0 open, 0 failed; 86 traces, 86 new, 0 improved; 2 requests, 0 splits, 0 retries
    ");
    let one = scene
        .command(&["runs", "--limit", "1", "--json"])
        .await
        .expect(0)
        .json();
    assert_eq!(one.as_array().unwrap().len(), 1);
    assert_eq!(one[0]["run"], 2);
    assert_eq!(one[0]["windows_failed"], 1);
    scene.command(&["runs", "shopp"]).await.expect(2);
    assert_eq!(
        scene
            .number("SELECT count(*) FROM harvest.windows WHERE state = 'running'")
            .await,
        0
    );
}
