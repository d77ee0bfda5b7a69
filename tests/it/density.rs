//! Windows cut by what Tempo counts: few requests, none in vain, and a plan that says so beforehand.

use tempo_harvest::simulator::{Burst, Fault, GenerateSettings, Misbehaviour};

use crate::support::harvest::{DAY_S, HOUR_S, Job, Scene, at, hours, job, searched, tempo};

/// Half a day in which hardly anything happens, but for one busy hour.
fn busy_at_noon() -> GenerateSettings {
    GenerateSettings {
        bursts: (0..60)
            .map(|minute| Burst {
                at_s: DAY_S + 6 * HOUR_S + minute * 60,
                traces: 50,
            })
            .collect(),
        ..hours(12, 240)
    }
}

/// Windows as long as they get.
fn free(mut job: Job) -> Job {
    job.backfill += "# window is not said\n";
    job
}

#[tokio::test]
async fn sparse_hours_are_fetched_together_and_dense_ones_are_cut_before_the_first_search() {
    let mut config = tempo(&busy_at_noon());
    config.limits.max_result_limit = 1_000;
    let scene = Scene::new(config).await;
    let said = scene.run(&free(job(12).services())).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 12 * HOUR_S), true).await;
    assert!(said.stdout.contains(" 0 splits"), "{}", said.stdout);
    // 3,240 traces at most 1,000 at once, and nothing thrown away.
    let windows = searched(&scene.new_requests());
    assert!((4..=5).contains(&windows.len()), "{windows:?}");
    assert!(windows[0].1 - windows[0].0 > 3 * HOUR_S, "{windows:?}");
    let thrown_away = scene
        .number("SELECT count(*) FROM harvest.fetches WHERE kind = 'search' AND outcome NOT IN ('complete', 'limit')")
        .await;
    assert_eq!(thrown_away, 0);
}

#[tokio::test]
async fn a_plan_tells_the_requests_that_a_run_then_makes() {
    let mut config = tempo(&busy_at_noon());
    config.limits.max_result_limit = 400;
    let scene = Scene::new(config).await;
    let file = scene.write(&free(job(12)));
    let plan = scene.command(&["plan", &file, "--json"]).await.expect(0);
    let expected = &plan.json()[0]["expected"];
    assert_eq!(expected["traces"], 3_240);
    scene.new_requests();
    let run = scene.command(&["run", &file, "--json"]).await.expect(0);
    let requests = scene.new_requests().len() as f64;
    assert_eq!(run.json()[0]["requests"].as_f64().unwrap(), requests);
    let planned = expected["requests"].as_f64().unwrap();
    assert!(
        (planned - requests).abs() <= requests * 0.1,
        "{planned} planned, {requests} made"
    );
    // What the plan says of windows is what the ledger then has.
    let windows = plan.json()[0]["windows"].as_array().unwrap().len();
    let done = scene
        .number("SELECT count(*) FROM harvest.windows WHERE state = 'done'")
        .await;
    assert_eq!(windows as i64, done);
    let said = scene.command(&["plan", &file]).await.expect(0).stdout;
    assert!(!said.contains("expected"), "{said}");
}

#[tokio::test]
async fn where_whole_seconds_fit_badly_a_few_are_fetched_in_bands() {
    // Two seconds fill 0.7 of an answer, three are too many.
    let settings = GenerateSettings::new(7, at(DAY_S), at(DAY_S + 300), 300 * 350);
    let mut config = tempo(&settings);
    config.limits.max_result_limit = 1_000;
    let scene = Scene::new(config).await;
    let job = free(job(1).services().range(DAY_S, DAY_S + 300));
    let file = scene.write(&job);
    let plan = scene.command(&["plan", &file, "--json"]).await.expect(0);
    scene.new_requests();
    scene.command(&["run", &file]).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 300), true).await;
    let requests = scene.new_requests().len() as f64;
    assert!(requests <= 1.3 * 105.0, "{requests} requests");
    let planned = plan.json()[0]["expected"]["requests"].as_f64().unwrap();
    assert!(
        (planned - requests).abs() <= requests * 0.1,
        "{planned} planned, {requests} made"
    );
}

#[tokio::test]
async fn a_written_window_is_the_longest() {
    let scene = Scene::new(tempo(&hours(6, 60))).await;
    scene
        .run(&job(6).services().backfill("window = \"2h\""))
        .await
        .expect(0);
    let edges: Vec<(i64, i64)> = (0..3)
        .map(|n| (DAY_S + n * 2 * HOUR_S, DAY_S + (n + 1) * 2 * HOUR_S))
        .collect();
    assert_eq!(searched(&scene.new_requests()), edges);
}

#[tokio::test]
async fn without_counts_neighbours_tell_how_much_to_ask_for() {
    let mut config = tempo(&hours(48, 9_600));
    config.limits.max_result_limit = 150;
    let scene = Scene::new(config).await;
    let uncounted = Fault::forever(Misbehaviour::Status(404)).on_path("/api/metrics");
    scene.control.add_fault(uncounted);
    let job = job(48).services().limits("concurrency = 2");
    scene.run(&job).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 48 * HOUR_S), true).await;
    let cut = scene
        .number("SELECT 100 * count(*) FILTER (WHERE outcome = 'cut') / count(*) FROM harvest.fetches WHERE kind = 'search'")
        .await;
    assert!(cut <= 25, "{cut} % of the answers were thrown away");
}

#[tokio::test]
async fn what_was_not_new_after_all_is_merged() {
    let scene = Scene::new(tempo(&hours(2, 3_000))).await;
    scene.run(&job(2)).await.expect(0);
    // One is known from elsewhere, as a fragment that another window brought would be.
    scene
        .execute(
            "UPDATE harvest.traces SET started_at = started_at - interval '3 hours', start_ns = start_ns - 10800000000000,
                    end_ns = start_ns - 10800000000000, first_stored_at = '2026-01-01'
             WHERE trace_id = (SELECT trace_id FROM harvest.traces ORDER BY trace_id OFFSET 1000 LIMIT 1)",
        )
        .await;
    scene
        .execute("DELETE FROM harvest.traces WHERE first_stored_at > '2026-01-02'")
        .await;
    scene.execute("DELETE FROM harvest.coverage").await;
    scene.run(&job(2)).await.expect(0);
    let stored = scene.number("SELECT count(*) FROM harvest.traces").await;
    assert_eq!(stored, 3_000);
    let merged = scene
        .number("SELECT count(*) FROM harvest.traces WHERE first_stored_at = '2026-01-01' AND duration_ms >= 10700000")
        .await;
    assert_eq!(merged, 1);
}

#[tokio::test]
async fn compression_is_asked_for_where_the_source_says_so() {
    for (compression, expected) in [("gzip", true), ("none", false), ("auto", false)] {
        let scene = Scene::new(tempo(&hours(1, 50))).await;
        let job = job(1).source(&format!("compression = \"{compression}\""));
        scene.run(&job).await.expect(0);
        let requests = scene.control.requests();
        let searches = requests
            .iter()
            .filter(|request| request.path == "/api/search");
        for request in searches {
            let encodings = request.header("accept-encoding").unwrap_or_default();
            assert_eq!(
                encodings.contains("gzip"),
                expected,
                "{compression}: {encodings}"
            );
        }
    }
}
