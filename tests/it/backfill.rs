//! Backfills where everything goes well: what is stored equals the truth, and what is there is not fetched again.

use chrono::{DateTime, Utc};
use tempo_harvest::simulator::{
    Burst, Config, GenerateSettings, Population, Span, TraceFragment, Version,
};

use tempo_harvest::worker::STORING;

use crate::support::harvest::{
    DAY_S, HOUR_S, Scene, hour_edge_before, hours, job, provokes_the_limit, rfc3339, searched,
    tempo,
};

/// A day with a second that holds three times what an answer may bring, long traces, and traces without a root.
fn busy_day() -> GenerateSettings {
    GenerateSettings {
        bursts: vec![Burst {
            at_s: DAY_S + 13 * HOUR_S + 1_234,
            traces: 1_500,
        }],
        long_traces: 20,
        rootless_traces: 60,
        ..hours(24, 6_000)
    }
}

const DAY: (i64, i64) = (DAY_S, DAY_S + 24 * HOUR_S);

#[tokio::test]
async fn a_day_with_an_over_full_second_equals_the_truth_and_is_not_fetched_twice() {
    let scene = Scene::new(tempo(&busy_day())).await;
    let job = job(24).services();
    let said = scene.run(&job).await.expect(0);
    assert!(
        said.stdout.starts_with("shop: complete "),
        "{}",
        said.stdout
    );
    scene.equals_truth(DAY, true).await;
    let leading_zeros = scene
        .number("SELECT count(*) FROM harvest.traces WHERE encode(trace_id, 'hex') LIKE '0%'")
        .await;
    assert!(leading_zeros > 100, "{leading_zeros}");
    let rows = scene
        .number("SELECT count(*) FROM harvest.traces WHERE NOT exact AND services IS NOT NULL")
        .await;
    assert_eq!(
        rows,
        scene
            .number("SELECT trace_count FROM harvest.datasets")
            .await
    );
    // Every request is on record, and every window's figures agree.
    let requests = scene.new_requests();
    assert_eq!(
        scene.number("SELECT count(*) FROM harvest.fetches").await,
        requests.len() as i64
    );
    assert_eq!(
        scene
            .number(
                "SELECT (SELECT sum(requests) FROM harvest.windows)::bigint
                      + (SELECT count(*) FROM harvest.fetches WHERE window_id IS NULL)"
            )
            .await,
        requests.len() as i64
    );
    assert!(requests.len() < 60, "{} requests", requests.len());

    let begun = std::time::Instant::now();
    let again = scene.run(&job).await.expect(0);
    assert_eq!(
        again.stdout,
        format!(
            "shop: already complete ({} … {})\n",
            rfc3339(DAY.0),
            rfc3339(DAY.1)
        )
    );
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    assert_eq!(scene.new_requests().len(), 0);
}

#[tokio::test]
async fn the_least_detail_has_no_counts_and_sends_no_query() {
    let mut config = tempo(&GenerateSettings {
        bursts: vec![Burst {
            at_s: DAY_S + 100,
            traces: 2_400,
        }],
        long_traces: 5,
        rootless_traces: 30,
        ..hours(6, 2_000)
    });
    // More than twice what an hour holds: only then can such an answer be vouched for.
    config.limits.max_result_limit = 2_000;
    let scene = Scene::new(config).await;
    scene.run(&job(6)).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 6 * HOUR_S), false).await;
    let unlike = scene
        .number("SELECT count(*) FROM harvest.traces WHERE services IS NOT NULL OR error_count IS NOT NULL")
        .await;
    assert_eq!(
        unlike, 0,
        "NULL where the detail does not bring them, never 0"
    );
    // Only the over-full second needs queries.
    let requests = scene.control.requests();
    let queried = requests
        .iter()
        .filter(|request| request.path == "/api/search" && request.param("q").is_some())
        .filter(|request| !provokes_the_limit(request))
        .map(|request| request.window_s());
    let widths: Vec<u64> = queried.collect();
    assert!(
        !widths.is_empty() && widths.iter().all(|width_s| *width_s == 1),
        "{widths:?}"
    );
}

#[tokio::test]
async fn a_server_that_answers_json_serves_as_well() {
    let mut config = tempo(&GenerateSettings {
        long_traces: 5,
        rootless_traces: 30,
        ..hours(6, 2_000)
    });
    config.protobuf = false;
    config.base_path = "/behind/a/proxy".to_owned();
    let scene = Scene::new(config).await;
    scene.run(&job(6).services()).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 6 * HOUR_S), true).await;
}

#[tokio::test]
async fn a_server_that_does_not_count_serves_as_well() {
    for detail in [job(6), job(6).services()] {
        let mut config = Config::new(
            Version::V2_10_8,
            Population::generate(&GenerateSettings {
                bursts: vec![Burst {
                    at_s: DAY_S + 2 * HOUR_S,
                    traces: 1_200,
                }],
                rootless_traces: 30,
                ..hours(6, 2_000)
            }),
        );
        config.limits.max_result_limit = 500;
        let scene = Scene::new(config).await;
        scene.run(&detail).await.expect(0);
        let with_counts = !detail.select.is_empty();
        scene
            .equals_truth((DAY_S, DAY_S + 6 * HOUR_S), with_counts)
            .await;
        let counts = scene
            .number("SELECT count(*) FROM harvest.fetches WHERE kind = 'count'")
            .await;
        // Once to plan, and by whoever begins before it is known that it does not count.
        assert!(counts <= 12, "asked {counts} times to count");
    }
}

#[tokio::test]
async fn only_what_the_query_selects_is_collected() {
    let settings = GenerateSettings {
        bursts: vec![Burst {
            at_s: DAY_S + 100,
            traces: 3_000,
        }],
        ..hours(3, 1_500)
    };
    let mut config = tempo(&settings);
    config.limits.max_result_limit = 100;
    let scene = Scene::new(config).await;
    let query = r#"{ trace:rootService = "checkout" }"#;
    scene.run(&job(3).services().query(query)).await.expect(0);
    let truth = scene.control.truth();
    let wanted = truth
        .iter()
        .filter(|trace| trace.root_service.as_deref() == Some("checkout"));
    let stored = scene.stored("shop").await;
    assert_eq!(stored.len(), wanted.count());
    assert!(
        stored
            .values()
            .all(|row| row.root_service.as_deref() == Some("checkout"))
    );
    assert_eq!(scene.covered("shop").await, [(DAY_S, DAY_S + 3 * HOUR_S)]);
}

#[tokio::test]
async fn a_longer_range_fetches_only_what_is_new() {
    let scene = Scene::new(tempo(&hours(8, 2_000))).await;
    let hour = |number: i64| DAY_S + number * HOUR_S;
    let job = job(8).services();
    scene
        .run(&job.clone().range(hour(1), hour(4)))
        .await
        .expect(0);
    scene.new_requests();
    // An hour more at the end.
    scene
        .run(&job.clone().range(hour(1), hour(5)))
        .await
        .expect(0);
    assert_eq!(searched(&scene.new_requests()), [(hour(4), hour(5))]);
    // An overlapping range on the command line, and one whose edges are no edges of windows.
    let file = scene.write(&job);
    let (from, to) = (rfc3339(hour(3)), rfc3339(hour(6)));
    scene
        .command(&["run", &file, "--from", &from, "--to", &to])
        .await
        .expect(0);
    assert_eq!(searched(&scene.new_requests()), [(hour(5), hour(6))]);
    let (from, to) = (rfc3339(hour(5) + 7), rfc3339(hour(7) + 11));
    scene
        .command(&["run", &file, "--from", &from, "--to", &to])
        .await
        .expect(0);
    assert_eq!(
        searched(&scene.new_requests()),
        [(hour(6), hour(7)), (hour(7), hour(7) + 11)]
    );
    // Another job that fills the same dataset.
    let mut other = job.clone().range(hour(0), hour(8));
    other.name = "other".to_owned();
    other.top = "dataset = \"shop\"".to_owned();
    scene.run(&other).await.expect(0);
    assert_eq!(
        searched(&scene.new_requests()),
        [(hour(0), hour(1)), (hour(7) + 11, hour(8))]
    );
    scene.equals_truth((hour(0), hour(8)), true).await;
}

#[tokio::test]
async fn the_last_hours_are_not_fetched_twice_within_an_hour() {
    loop {
        let edge = hour_edge_before(1);
        let from = edge - 3 * HOUR_S;
        let settings = GenerateSettings::new(3, at(from), at(edge), 900);
        let scene = Scene::new(tempo(&settings)).await;
        let mut job = job(0).services().backfill("last = \"3h\"");
        job.range = None;
        let first = scene.run(&job).await;
        let requests = scene.new_requests();
        let file = scene.write(&job);
        let again = [
            scene.command(&["run", &file]).await,
            scene.command(&["run", &file, "--last", "3h"]).await,
            scene.command(&["run", &file, "--last", "1h"]).await,
        ];
        if hour_edge_before(1) != edge {
            continue;
        }
        first.expect(0);
        assert_eq!(searched(&requests).len(), 3);
        for said in again {
            assert!(said.expect(0).stdout.starts_with("shop: already complete"));
        }
        assert_eq!(scene.new_requests().len(), 0);
        scene.equals_truth((from, edge), true).await;
        return;
    }
}

#[tokio::test]
async fn the_newest_comes_first_unless_it_is_said_otherwise() {
    for (order, rising) in [("newest-first", false), ("oldest-first", true)] {
        let scene = Scene::new(tempo(&hours(6, 600))).await;
        let job = job(6)
            .backfill(&format!("order = \"{order}\""))
            .limits("concurrency = 1");
        scene.run(&job).await.expect(0);
        let starts: Vec<String> = scene
            .control
            .requests()
            .iter()
            .filter(|request| request.path == "/api/search" && !provokes_the_limit(request))
            .map(|request| request.param("start").unwrap())
            .collect();
        // They are taken in that order, and so many more may be in hand than are asked for: none is asked for before its turn
        // to be taken, however long one that was taken waits.
        let mut sorted = starts.clone();
        sorted.sort();
        if !rising {
            sorted.reverse();
        }
        let place = |start: &String| sorted.iter().position(|other| other == start).unwrap();
        for (asked, start) in starts.iter().enumerate() {
            assert!(place(start) <= asked + STORING, "{order}: {starts:?}");
        }
    }
}

#[tokio::test]
async fn a_plan_writes_nothing_and_asks_nothing_if_it_is_not_to() {
    let scene = Scene::new(tempo(&hours(4, 400))).await;
    let file = scene.write(&job(4).services());
    let before = scene.dump().await;
    let said = scene.command(&["plan", &file, "--json"]).await.expect(0);
    assert_eq!(said.json()[0]["expected"]["traces"], 400);
    assert_eq!(said.json()[0]["windows"].as_array().unwrap().len(), 4);
    assert_eq!(scene.dump().await, before);
    let two = rfc3339(DAY_S + 2 * HOUR_S);
    scene
        .command(&["run", &file, "--from", &rfc3339(DAY_S), "--to", &two])
        .await
        .expect(0);
    scene.new_requests();

    let before = scene.dump().await;
    let plan = scene
        .command(&["plan", &file, "--json", "--no-count"])
        .await
        .expect(0)
        .json();
    let windows = [2, 3].map(|hour| [hour, hour + 1].map(|hour| rfc3339(DAY_S + hour * HOUR_S)));
    assert_eq!(
        plan[0]["windows"],
        serde_json::json!([windows[1], windows[0]])
    );
    assert_eq!(
        plan[0]["covered"],
        serde_json::json!([[rfc3339(DAY_S), two]])
    );
    assert_eq!(scene.dump().await, before);
    assert_eq!(scene.new_requests().len(), 0);

    // A database that nothing was ever written to stays so.
    let empty = crate::support::postgres::database().await;
    let environment = [("DATABASE_URL", empty.url())];
    let environment = environment
        .each_ref()
        .map(|(name, url)| (*name, url.as_str()));
    scene
        .command_with(&["plan", &file], &environment)
        .await
        .expect(0);
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast')",
    )
    .fetch_one(&empty.pool().await)
    .await
    .unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn what_is_too_young_is_not_marked_and_comes_later() {
    // A range that reaches to the present: only what is settled is collected.
    let now = Utc::now().timestamp();
    let from = now - 600;
    let settings = GenerateSettings::new(5, at(from), at(now - 1), 300);
    let scene = Scene::new(tempo(&settings)).await;
    let job = job(0)
        .services()
        .range(from, now)
        .backfill("window = \"1m\"\nsettle = \"5m\"");
    let said = scene.run(&job).await.expect(0);
    let later = format!(
        " … {}: too young to be sealed; run again from {} on\n",
        rfc3339(now),
        rfc3339(now + 300)
    );
    assert!(said.stdout.contains(&later), "{}", said.stdout);
    let covered = scene.covered("shop").await;
    assert_eq!(covered.len(), 1);
    assert_eq!(covered[0].0, from);
    let age = Utc::now().timestamp() - covered[0].1;
    assert!((300..330).contains(&age), "covered up to {age} s ago");
}

#[tokio::test]
async fn the_next_window_is_told_with_when_it_can_be_collected() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let mut moving = job(0).backfill("last = \"2h\"");
    moving.range = None;
    let file = scene.write(&moving);
    let plan = scene.command(&["plan", &file, "--json"]).await.expect(0);
    let plan = plan.json();
    let end = DateTime::parse_from_rfc3339(plan[0]["requested"][1].as_str().unwrap());
    let end = end.unwrap().timestamp();
    let next = serde_json::json!([{
        "from": rfc3339(end), "to": rfc3339(end + HOUR_S), "collectable_from": rfc3339(end + 2 * HOUR_S),
    }]);
    assert_eq!(plan[0]["later"], next);
    let said = scene.command(&["plan", &file]).await.expect(0).stdout;
    assert!(
        said.contains("\n  later: ") && said.contains(" can be collected from "),
        "{said}"
    );
    // Also when there is nothing left to do.
    for _ in 0..2 {
        let said = scene.command(&["run", &file]).await.expect(0).stderr;
        assert!(said.contains(" can be collected from "), "{said}");
    }
    // Where the end is fixed nothing is left out.
    let fixed = ["--from", &rfc3339(end - HOUR_S), "--to", &rfc3339(end)];
    let said = scene.command(&[&["run", &file][..], &fixed].concat()).await;
    let said = said.expect(0).stderr;
    assert!(!said.contains("can be collected"), "{said}");
    let report = scene.command(&["run", &file, "--json"]).await.expect(0);
    assert_eq!(report.json()[0]["later"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn ages_are_judged_by_the_servers_clock() {
    let now = Utc::now().timestamp();
    let from = now - 4_000;
    let settings = GenerateSettings::new(5, at(from), at(now - 3_700), 100);
    let scene = Scene::new({
        let mut config = tempo(&settings);
        // The server is three minutes behind: for it the last of the windows is too young.
        config.clock =
            tempo_harvest::simulator::ClockSetting::Offset(chrono::TimeDelta::seconds(-180));
        config
    })
    .await;
    let job = job(0)
        .services()
        .range(from, now - 3_700)
        .backfill("window = \"1m\"")
        .limits("concurrency = 1");
    let file = scene.write(&job);
    let mut running = scene.start(&["-v", "run", &file]);
    running.says("too young to be sealed").await;
    scene
        .until("SELECT count(*) FILTER (WHERE state = 'done') > 0 AND count(*) FILTER (WHERE last_error LIKE '%too young%') > 0 FROM harvest.windows")
        .await;
    running.signal(rustix::process::Signal::TERM);
    running.end().await.expect(3);
    let sealed_until = scene.control.now().timestamp() - HOUR_S;
    for (_, to) in scene.covered("shop").await {
        assert!(to <= sealed_until, "{to} is later than {sealed_until}");
    }
}

#[tokio::test]
async fn a_lone_trace_that_just_reaches_into_a_window_is_no_sign_of_another_window() {
    // It starts before the edge and ends less than a millisecond after its start, beyond the edge.
    let edge_ns = (DAY_S + HOUR_S) as u64 * 1_000_000_000;
    let span = Span::root(1, "shop", "GET /", edge_ns - 300_000, edge_ns + 300_000);
    let lone = Population::from_traces(vec![TraceFragment::new([0xab; 16], vec![span])]);
    let scene = Scene::new(Config::new(Version::V3_0_3, lone)).await;
    let range = (DAY_S + HOUR_S, DAY_S + 2 * HOUR_S);
    let job = job(0).range(range.0, range.1).limits("max_attempts = 1");
    scene.run(&job).await.expect(0);
    scene.equals_truth(range, false).await;
}

fn at(second: i64) -> chrono::DateTime<Utc> {
    crate::support::harvest::at(second)
}
