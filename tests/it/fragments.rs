//! Traces that Tempo holds in pieces: found, and stored right or as the lower bound that Tempo's own answer is.

use std::time::Duration;

use chrono::Utc;
use tempo_harvest::simulator::{Config, Control, Population, Span, TraceFragment, Version};

use crate::support::harvest::{Scene, job};

const SECOND_NS: u64 = 1_000_000_000;

/// A Tempo whose data stays in young blocks for hours, as while its hand-over lags; at most 100 traces a search.
fn lagging() -> Config {
    let mut config = Config::new(Version::V3_0_3, Population::empty());
    let long = Duration::from_secs(10 * 3_600);
    config.timing.ingestion_slack = long;
    config.timing.query_backend_after = long;
    config.timing.block_duration = long;
    config.limits.max_result_limit = 100;
    config
}

fn id(number: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    id
}

/// The beginning of a trace: its root, 10 ms long.
fn beginning(number: u64, start_ns: u64) -> TraceFragment {
    let root = Span::root(1, "shop", "GET /", start_ns, start_ns + 10_000_000);
    TraceFragment::new(id(number), vec![root])
}

/// What comes of the same trace later, without its root: 50 ms that begin a second after the beginning.
fn rest(number: u64, start_ns: u64) -> TraceFragment {
    let from_ns = start_ns + SECOND_NS;
    let span = Span::child(2, 1, "cart", "add", from_ns, from_ns + 50_000_000);
    TraceFragment::new(id(number), vec![span])
}

/// 90 traces around this second, 60 of them in two flushes: a search without a query for at most 100 brings 60.
fn push_ninety(control: &Control, second: i64) {
    let start_ns = |number: u64| second as u64 * SECOND_NS + number * 1_000_000;
    (0..60).for_each(|number| control.push(beginning(number, start_ns(number))));
    control.flush();
    (0..60).for_each(|number| control.push(rest(number, start_ns(number))));
    control.flush();
    (60..90).for_each(|number| control.push(beginning(number, start_ns(number))));
    control.flush();
}

/// 900 traces around this second, 400 of them in four flushes: a search without a query for at most 2,000 brings 800.
fn push_nine_hundred(control: &Control, second: i64) {
    let start_ns = |number: u64| second as u64 * SECOND_NS + number * 100_000;
    (0..400).for_each(|number| control.push(beginning(number, start_ns(number))));
    control.flush();
    for later in 0..3 {
        let late_ns = later * SECOND_NS / 10;
        (0..400).for_each(|number| control.push(rest(number, start_ns(number) + late_ns)));
        control.flush();
    }
    (400..900).for_each(|number| control.push(beginning(number, start_ns(number))));
    control.flush();
}

#[tokio::test]
async fn a_silently_short_answer_without_a_query_is_not_believed() {
    let mut config = lagging();
    config.limits.max_result_limit = 2_000;
    let scene = Scene::new(config).await;
    let from = Utc::now().timestamp() - 3 * 3_600;
    push_nine_hundred(&scene.control, from + 100);
    scene.run(&job(0).range(from, from + 600)).await.expect(0);
    // It was asked without a query first, for the window is old enough; what that brought is not all there is.
    let requests = scene.control.requests();
    let short = requests
        .iter()
        .find(|request| request.param("limit").as_deref() == Some("2000"));
    assert_eq!(short.unwrap().param("q"), None);
    assert_eq!(scene.stored("shop").await.len(), 900);
}

#[tokio::test]
async fn young_windows_are_searched_with_a_query() {
    let scene = Scene::new(lagging()).await;
    let from = Utc::now().timestamp() - 1_800;
    push_ninety(&scene.control, from + 100);
    let young = job(0).range(from, from + 600).backfill("settle = \"2m\"");
    scene.run(&young).await.expect(0);
    assert_eq!(scene.stored("shop").await.len(), 90);
    let searches = scene.control.requests();
    let searches = searches
        .iter()
        .filter(|request| request.path == "/api/search");
    assert!(searches.clone().count() > 0);
    assert!(searches.clone().all(|request| request.param("q").is_some()));
}

#[tokio::test]
async fn fragments_in_several_blocks_are_stored_as_the_lower_bound_that_search_tells() {
    let scene = Scene::new(lagging()).await;
    let from = Utc::now().timestamp() - 3 * 3_600;
    let start_ns = (from + 100) as u64 * SECOND_NS;
    let control = &scene.control;
    // One in two blocks, one in two flushes of one block that is sealed, one whose root never comes.
    (0..2).for_each(|number| control.push(beginning(number, start_ns)));
    control.push(rest(2, start_ns));
    control.flush();
    control.push(rest(1, start_ns));
    control.flush();
    control.seal();
    control.push(rest(0, start_ns));
    control.flush();

    let job = job(0).services().range(from, from + 600);
    scene.run(&job).await.expect(0);
    let stored = scene.stored("shop").await;
    assert_eq!(stored.len(), 3);
    let truth = control.truth();
    for trace in &truth {
        let row = &stored[trace.trace_id.as_slice()];
        let duration_ms = ((trace.end_ns - trace.start_ns) / 1_000_000) as i64;
        assert!(row.duration_ms <= duration_ms);
        assert!(row.counts.unwrap().0 <= trace.spans as i32);
        assert_eq!(row.start_ns as u64, trace.start_ns);
        assert_eq!(row.root_service.as_deref(), trace.root_service.as_deref());
    }
    let durations: Vec<i64> = stored.values().map(|row| row.duration_ms).collect();
    assert_eq!(durations, [50, 1_050, 50]);
    let counts: Vec<(i32, i32)> = stored.values().map(|row| row.counts.unwrap()).collect();
    // Of each service the fragment with most spans: nothing is lost where they are of different services.
    assert_eq!(counts, [(2, 0), (2, 0), (1, 0)]);
    let exact = scene
        .number("SELECT count(*) FROM harvest.traces WHERE exact")
        .await;
    assert_eq!(exact, 0, "these are lower bounds, and said to be");

    // After compaction Tempo knows better, and a second collection only improves what is stored.
    control.compact();
    scene.execute("DELETE FROM harvest.coverage").await;
    scene.run(&job).await.expect(0);
    scene.equals_truth((from, from + 600), true).await;
}

#[tokio::test]
async fn a_fragment_seen_in_one_window_only_improves_what_others_told() {
    // A root in the first minute, a child in the third, in different blocks: every window tells a part.
    let scene = Scene::new(lagging()).await;
    let from = (Utc::now().timestamp() - 3 * 3_600) / 60 * 60;
    let start_ns = (from + 30) as u64 * SECOND_NS;
    scene.control.push(beginning(1, start_ns));
    scene.control.flush();
    scene.control.seal();
    let late_ns = start_ns + 120 * SECOND_NS;
    let late = Span::child(2, 1, "cart", "add", late_ns, late_ns + 5_000_000_000);
    scene.control.push(TraceFragment::new(id(1), vec![late]));
    scene.control.flush();
    for order in ["newest-first", "oldest-first"] {
        let mut job = job(0)
            .services()
            .range(from, from + 300)
            .backfill(&format!("window = \"1m\"\norder = \"{order}\""))
            .limits("concurrency = 1");
        job.top = format!("dataset = \"{order}\"");
        scene.run(&job).await.expect(0);
        let stored = scene.stored(order).await;
        let row = stored.values().next().unwrap();
        assert_eq!(row.start_ns as u64, start_ns);
        assert_eq!(row.duration_ms, 125_000);
        assert_eq!(row.root_name.as_deref(), Some("GET /"));
        assert_eq!(row.counts, Some((2, 0)));
    }
}
