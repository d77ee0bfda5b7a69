//! Windows that hold more than an answer may bring: cut until everything is there, or said to be irreducible.

use tempo_harvest::simulator::{
    Burst, Config, Fault, GenerateSettings, Misbehaviour, Population, Span, TraceFragment, Version,
};

use crate::support::harvest::{DAY_S, HOUR_S, Scene, hours, job, rfc3339, tempo};

const SECOND_NS: u64 = 1_000_000_000;

/// A trace of one span, in the tenth second of the day, some of its first bytes zero.
fn twin(number: u64, duration_ns: u64, service: &str, name: &str) -> TraceFragment {
    let mut id = [0; 16];
    id[7..15].copy_from_slice(&number.to_be_bytes());
    let start_ns = (DAY_S as u64 + 10) * SECOND_NS + number * 1_000;
    let span = Span::root(number + 1, service, name, start_ns, start_ns + duration_ns);
    TraceFragment::new(id, vec![span])
}

fn of_traces(traces: Vec<TraceFragment>, max_result_limit: u32) -> Config {
    let mut config = Config::new(Version::V3_0_3, Population::from_traces(traces));
    config.limits.max_result_limit = max_result_limit;
    config
}

const FIRST_HOUR: (i64, i64) = (DAY_S, DAY_S + HOUR_S);

#[tokio::test]
async fn equal_durations_are_told_apart_by_root() {
    // 40 traces for each root, all of the very same duration; one root's name is hard to write in TraceQL.
    let services = ["shop", "with \"quotes\" and \\", "zürich\tnew\nline"];
    let mut traces = Vec::new();
    for (service_number, service) in services.iter().enumerate() {
        for name_number in 0..4 {
            let name = format!("GET /{name_number} \"x\"");
            for number in 0..40 {
                let number = service_number as u64 * 1_000 + name_number * 100 + number;
                traces.push(twin(number, 5_000_000, service, &name));
            }
        }
    }
    // Some without a root.
    for number in 0..40 {
        let mut trace = twin(9_000 + number, 5_000_000, "shop", "GET /");
        trace.spans[0].parent_id = [7; 8];
        traces.push(trace);
    }
    // And some of other durations, down to the nanosecond.
    for number in 0..200 {
        traces.push(twin(20_000 + number, 5_000_000 + number, "shop", "GET /"));
    }
    for counting in [true, false] {
        let mut config = of_traces(traces.clone(), 50);
        config.metrics_enabled = counting;
        let scene = Scene::new(config).await;
        scene.run(&job(1).services()).await.expect(0);
        scene.equals_truth(FIRST_HOUR, true).await;
    }
}

#[tokio::test]
async fn what_cannot_be_narrowed_is_irreducible_and_never_marked_until_the_limit_is_raised() {
    let mut traces: Vec<TraceFragment> = (0..60)
        .map(|number| twin(number, 5_000_000, "shop", "GET /"))
        .collect();
    traces.extend((0..60).map(|number| twin(100 + number, 7_000_000 + number, "shop", "GET /")));
    let scene = Scene::new(of_traces(traces, 50)).await;
    let job = job(1).services();
    let said = scene.run(&job).await.expect(3);
    assert!(said.stdout.starts_with("shop: gaps "), "{}", said.stdout);
    assert!(
        said.stderr.contains("raise Tempo's max_result_limit"),
        "{}",
        said.stderr
    );
    let second = DAY_S + 10;
    assert_eq!(
        scene.covered("shop").await,
        [(DAY_S, second), (second + 1, DAY_S + HOUR_S)]
    );
    let gaps = scene.command(&["gaps", "--json"]).await.expect(3).json();
    assert_eq!(gaps.as_array().unwrap().len(), 1);
    assert_eq!(gaps[0]["reason"], "irreducible");
    assert_eq!(gaps[0]["from"], rfc3339(second));
    assert_eq!(gaps[0]["seconds"], 1);
    // Again: only that second, and it fails.
    let said = scene.run(&job).await.expect(1);
    assert!(said.stdout.starts_with("shop: failed "), "{}", said.stdout);
    // What the message advises helps.
    scene
        .control
        .change_limits(|limits| limits.max_result_limit = 1_000);
    scene.run(&job).await.expect(0);
    scene.equals_truth(FIRST_HOUR, true).await;
}

#[tokio::test]
async fn no_more_is_asked_for_than_the_source_says() {
    let scene = Scene::new(tempo(&GenerateSettings {
        bursts: vec![Burst {
            at_s: DAY_S + 100,
            traces: 300,
        }],
        ..hours(2, 600)
    }))
    .await;
    scene
        .run(&job(2).services().limits("traces_per_request = 100"))
        .await
        .expect(0);
    scene.equals_truth((DAY_S, DAY_S + 2 * HOUR_S), true).await;
    for request in scene.control.requests() {
        if let Some(limit) = request.param("limit") {
            assert!(limit.parse::<u32>().unwrap() <= 100);
        }
    }
}

#[tokio::test]
async fn a_limit_lowered_while_running_is_learned() {
    let scene = Scene::new(tempo(&hours(8, 2_400))).await;
    let lower = Fault::next(1, Misbehaviour::LowerLimit(60)).on_path("/api/search");
    scene.control.add_fault(lower.after(4));
    scene.run(&job(8).services()).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 8 * HOUR_S), true).await;
    let learned = scene
        .number("SELECT value FROM harvest.source_limits WHERE limit_name = 'max_result_limit'")
        .await;
    assert_eq!(learned, 60);
}

#[tokio::test]
async fn limits_are_learned_once() {
    let mut config = tempo(&hours(4, 1_000));
    config.limits.max_duration = std::time::Duration::from_secs(1_200);
    config.limits.metrics_max_duration = std::time::Duration::from_secs(300);
    let scene = Scene::new(config).await;
    let job = job(4).services();
    let two = DAY_S + 2 * HOUR_S;
    scene.run(&job.clone().range(DAY_S, two)).await.expect(0);
    let refused = |requests: Vec<tempo_harvest::simulator::RequestRecord>| {
        requests
            .iter()
            .filter(|request| request.status == Some(400))
            .count()
    };
    assert!(refused(scene.new_requests()) > 0);
    scene.run(&job).await.expect(0);
    assert_eq!(refused(scene.new_requests()), 0);
    scene.equals_truth((DAY_S, DAY_S + 4 * HOUR_S), true).await;
}

#[tokio::test]
async fn an_answer_too_large_in_bytes_is_cut_and_not_waited_for() {
    let mut config = tempo(&GenerateSettings {
        bursts: vec![Burst {
            at_s: DAY_S + 100,
            traces: 400,
        }],
        ..hours(2, 800)
    });
    config.limits.max_result_limit = 10_000;
    // About 150 traces.
    config.limits.max_response_bytes = 30_000;
    let scene = Scene::new(config).await;
    let said = scene.run(&job(2).services()).await.expect(0);
    assert!(said.stdout.contains(" 0 retries"), "{}", said.stdout);
    scene.equals_truth((DAY_S, DAY_S + 2 * HOUR_S), true).await;
}

#[tokio::test]
async fn seconds_filled_by_long_traces_that_started_before_are_cut_as_well() {
    // A hundred and some traces overlap every second, and hardly any starts in it: a count is no guide.
    let traces = (0..130)
        .map(|number: u64| {
            let start_ns = (DAY_S as u64 + number / 10) * SECOND_NS + number;
            let end_ns = start_ns + (60 + number) * SECOND_NS;
            let mut id = [0xcd; 16];
            id[15] = number as u8;
            let span = Span::root(number + 1, "batch", "job", start_ns, end_ns);
            TraceFragment::new(id, vec![span])
        })
        .collect();
    let scene = Scene::new(of_traces(traces, 100)).await;
    let range = (DAY_S, DAY_S + 240);
    scene
        .run(&job(0).services().range(range.0, range.1))
        .await
        .expect(0);
    scene.equals_truth(range, true).await;
}

#[tokio::test]
async fn long_traces_are_stored_once_with_their_whole_duration() {
    let scene = Scene::new(tempo(&GenerateSettings {
        long_traces: 60,
        ..hours(1, 300)
    }))
    .await;
    let said = scene
        .run(&job(1).services().backfill("window = \"1m\""))
        .await
        .expect(0);
    scene.equals_truth(FIRST_HOUR, true).await;
    let new = scene
        .number("SELECT sum(stored_new)::bigint FROM harvest.windows")
        .await;
    let returned = scene
        .number("SELECT sum(returned)::bigint FROM harvest.windows")
        .await;
    assert_eq!(new, 360, "{}", said.stdout);
    assert!(returned > new + 60, "they show up in several windows");
}
