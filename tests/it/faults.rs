//! A Tempo, a gateway or a network that misbehaves: what passes is survived, what does not is named, and nothing is
//! marked that is not there.

use std::time::Duration;

use chrono::Utc;
use tempo_harvest::simulator::{
    Burst, Config, Fault, GenerateSettings, Misbehaviour, Population, RetryAfter, Simulator,
    Version,
};

use crate::support::harvest::{DAY_S, HOUR_S, Job, Said, Scene, hours, job, rfc3339, tempo};

const SIX_HOURS: (i64, i64) = (DAY_S, DAY_S + 6 * HOUR_S);

fn six_busy_hours() -> GenerateSettings {
    GenerateSettings {
        bursts: vec![Burst {
            at_s: DAY_S + HOUR_S + 100,
            traces: 700,
        }],
        long_traces: 10,
        rootless_traces: 20,
        ..hours(6, 900)
    }
}

/// Collects six hours from a Tempo with these faults, and holds what is stored against the truth.
async fn survives(faults: impl IntoIterator<Item = Fault>, job: Job) -> (Scene, Said) {
    let scene = Scene::new(tempo(&six_busy_hours())).await;
    for fault in faults {
        scene.control.add_fault(fault);
    }
    let said = scene.run(&job).await.expect(0);
    scene.equals_truth(SIX_HOURS, true).await;
    (scene, said)
}

#[tokio::test]
async fn an_outage_in_the_middle_is_waited_for() {
    let scene = Scene::new(tempo(&six_busy_hours())).await;
    let file = scene.write(&job(6).services());
    let mut running = scene.start(&["-v", "run", &file]);
    scene.answers(3).await;
    // Requests under way are cut, and new ones find nobody.
    let held = scene.control.hold("/api/search");
    scene.held(2).await;
    scene.simulator.take_down().await;
    drop(held);
    running.says("the connection to Tempo at 127.0.0.1").await;
    running.says("cannot connect to Tempo at 127.0.0.1").await;
    scene.simulator.bring_up().unwrap();
    running.end().await.expect(0);
    scene.equals_truth(SIX_HOURS, true).await;
}

#[tokio::test]
async fn half_of_all_answers_may_be_429() {
    let bears = async |retry_after| {
        let throttled = Misbehaviour::TooManyRequests(retry_after);
        let fault = Fault::with_probability(0.5, throttled);
        let (scene, said) = survives([fault], job(6).services()).await;
        assert!(!said.stdout.contains(" 0 retries"), "{}", said.stdout);
        let counted = "SELECT count(*) FROM harvest.windows WHERE attempts > 0";
        assert_eq!(scene.number(counted).await, 0, "as failed attempts");
    };
    tokio::join!(bears(RetryAfter::Absent), bears(RetryAfter::Seconds(1)));
}

#[tokio::test]
async fn retry_after_is_honoured() {
    for in_seconds in [true, false] {
        let scene = Scene::new(tempo(&hours(2, 200))).await;
        let date = Utc::now() + chrono::TimeDelta::seconds(5);
        let retry_after = match in_seconds {
            true => RetryAfter::Seconds(2),
            false => RetryAfter::Date(date),
        };
        let throttled = Misbehaviour::TooManyRequests(retry_after);
        scene.control.add_fault(Fault::next(1, throttled));
        scene.run(&job(2).services()).await.expect(0);
        let requests = scene.control.requests();
        let refused = requests
            .iter()
            .find(|request| request.status == Some(429))
            .unwrap();
        // Those that were on their way already do not count.
        let refused_at = refused.at + refused.took.unwrap();
        let next = requests
            .iter()
            .map(|request| request.at.saturating_duration_since(refused_at))
            .find(|wait| *wait > Duration::from_millis(200));
        let least = match retry_after {
            RetryAfter::Date(_) => (date - refused.server_time).to_std().unwrap(),
            _ => Duration::from_secs(2),
        };
        let wait = next.unwrap();
        // A date is in whole seconds.
        assert!(
            wait + Duration::from_secs(1) > least,
            "{wait:?}, not {least:?}"
        );
        scene.equals_truth((DAY_S, DAY_S + 2 * HOUR_S), true).await;
    }
}

#[tokio::test]
async fn broken_answers_are_asked_for_again() {
    let cut = |sent| Misbehaviour::CutConnection { sent };
    let slowly = Misbehaviour::SlowBody {
        pieces: 5,
        pause: Duration::from_millis(20),
    };
    let faults = [
        cut(0.5),
        cut(0.0),
        cut(0.99),
        Misbehaviour::Garbage,
        Misbehaviour::TruncatedGzip,
        Misbehaviour::ContentType("text/plain".to_owned()),
        Misbehaviour::Status(500),
        Misbehaviour::Status(502),
        Misbehaviour::Status(503),
        slowly,
    ];
    let total = faults.len();
    let faults = faults.map(|fault| Fault::next(1, fault).on_path("/api/search"));
    // No refusal of a limit is among the answers.
    let job = job(6).services().limits("traces_per_request = 500");
    let (scene, _) = survives(faults, job).await;
    let met: std::collections::BTreeSet<&str> = scene
        .control
        .requests()
        .iter()
        .filter_map(|request| request.fault)
        .collect();
    assert_eq!(met.len(), total - 4, "{met:?}");
    let broken = scene
        .number(
            "SELECT count(*) FROM harvest.fetches WHERE outcome = 'passing' AND error IS NOT NULL",
        )
        .await;
    assert_eq!(broken, 9);
}

#[tokio::test]
async fn answers_cut_short_are_no_answers_in_json_either() {
    let mut config = tempo(&six_busy_hours());
    config.protobuf = false;
    let scene = Scene::new(config).await;
    for sent in [0.3, 0.9] {
        scene
            .control
            .add_fault(Fault::next(2, Misbehaviour::CutConnection { sent }));
    }
    scene.run(&job(6).services()).await.expect(0);
    scene.equals_truth(SIX_HOURS, true).await;
}

#[tokio::test]
async fn windows_whose_answer_is_larger_than_it_may_be_are_cut_at_once() {
    let larger = Fault::forever(Misbehaviour::LargerThan)
        .on_path("/api/search")
        .on_windows_wider_than_s(1_000);
    let (_, said) = survives([larger], job(6).services()).await;
    assert!(said.stdout.contains(" 0 retries"), "{}", said.stdout);
}

#[tokio::test]
async fn windows_that_take_a_gateway_too_long_are_cut() {
    let slow = Misbehaviour::GatewayTimeoutByCost {
        per_window_second: Duration::from_millis(1),
        allowed: Duration::from_millis(1_000),
    };
    let (scene, _) = survives([Fault::forever(slow)], job(6).services()).await;
    let refused = scene
        .number("SELECT count(*) FROM harvest.fetches WHERE outcome = 'timeout' AND status = 504 AND kind = 'search'")
        .await;
    assert_eq!(refused, 12, "each window twice, and none of its pieces");
}

#[tokio::test]
async fn windows_that_take_longer_than_the_timeout_are_cut() {
    let slow = Misbehaviour::Slow {
        delay: Duration::from_secs(20),
    };
    let slow = Fault::forever(slow)
        .on_path("/api/search")
        .on_windows_wider_than_s(1_000);
    let job = job(6).services().limits("timeout = \"1s\"");
    let (scene, _) = survives([slow], job).await;
    let named = scene
        .number("SELECT count(*) FROM harvest.fetches WHERE outcome = 'timeout' AND error LIKE '%`limits.timeout`%'")
        .await;
    assert_eq!(named, 12);
}

#[tokio::test]
async fn a_server_that_fails_to_count_is_not_needed_to() {
    for fault in [Misbehaviour::Status(500), Misbehaviour::Garbage] {
        let fault = Fault::forever(fault).on_path("/api/metrics");
        let (_, said) = survives([fault], job(6).services()).await;
        assert!(said.stdout.contains(" 0 retries"), "{}", said.stdout);
    }
}

/// Asks a Tempo that does this for ever: the reason is named, nothing is marked, and not much is asked.
async fn fails(misbehaviour: Misbehaviour, job: Job, most_requests: usize) -> Said {
    let scene = Scene::new(tempo(&hours(6, 600))).await;
    let fault = scene.control.add_fault(Fault::forever(misbehaviour));
    let file = scene.write(&job);
    let said = scene.command(&["run", &file]).await.expect(1);
    assert!(said.stdout.starts_with("shop: failed "), "{}", said.stdout);
    // Two more to have it counted.
    let asked = scene.new_requests().len();
    assert!(asked <= most_requests + 2, "{asked} requests");
    assert!(scene.covered("shop").await.is_empty());
    let states = scene
        .number("SELECT count(*) FROM harvest.windows WHERE state <> 'failed'")
        .await;
    assert_eq!(states, 0);
    let gaps = scene
        .command(&["gaps", "shop", "--json"])
        .await
        .expect(3)
        .json();
    assert_eq!(gaps[0]["reason"], "failed");
    let reason = gaps[0]["error"].as_str().unwrap();
    assert!(said.stderr.contains(reason), "{}\n{reason}", said.stderr);
    // Once it is over, running again completes it.
    scene.control.withdraw_fault(fault);
    scene.command(&["run", &file]).await.expect(0);
    scene.equals_truth(SIX_HOURS, true).await;
    said
}

#[tokio::test]
async fn no_access_is_given_up_soon_with_the_reason() {
    let job = job(6).services().limits("concurrency = 2");
    let refused = async |status: u16, reason| {
        let said = fails(Misbehaviour::Status(status), job.clone(), 9).await;
        assert!(said.stderr.contains(reason), "{}", said.stderr);
        assert!(said.stderr.contains(&status.to_string()), "{}", said.stderr);
    };
    tokio::join!(
        refused(401, "set `basic_auth` or `bearer_token` in the source"),
        refused(403, "check `basic_auth`, `bearer_token` and `tenant`"),
        refused(404, "check the path in `url`"),
        async {
            let said = fails(Misbehaviour::LoginPage, job.clone(), 9).await;
            assert!(said.stderr.contains("login"), "{}", said.stderr);
        }
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_its_target_named_without_its_query() {
    let elsewhere = Simulator::start(tempo(&hours(1, 10))).unwrap();
    let location = format!("{}/login?state=canary", elsewhere.url());
    let job = job(6)
        .services()
        .source("bearer_token = \"hush-hush\"")
        .limits("concurrency = 2");
    let said = fails(Misbehaviour::Redirect { location }, job, 9).await;
    let named = format!("a redirect to `{}/login`", elsewhere.url());
    assert!(said.stderr.contains(&named), "{}", said.stderr);
    assert!(!said.stderr.contains("canary"), "{}", said.stderr);
    assert_eq!(elsewhere.control().requests().len(), 0);
}

#[tokio::test]
async fn what_does_not_pass_is_given_up_after_the_attempts_allowed() {
    let job = job(6).services().limits("max_attempts = 2");
    let given_up = async |misbehaviour, reason| {
        let said = fails(misbehaviour, job.clone(), 12).await;
        assert!(said.stderr.contains(reason), "{}", said.stderr);
    };
    tokio::join!(
        given_up(Misbehaviour::Garbage, "cannot be read"),
        given_up(Misbehaviour::Status(503), "service unavailable"),
        given_up(Misbehaviour::CutConnection { sent: 0.5 }, "broke off"),
    );
}

#[tokio::test]
async fn a_tempo_that_is_not_there_is_named() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    scene.simulator.take_down().await;
    let job = job(6).limits("max_attempts = 2");
    let said = scene.run(&job).await.expect(1);
    let address = scene.simulator.url().replace("http://", "");
    let named = format!("cannot connect to Tempo at {address}");
    assert!(said.stderr.contains(&named), "{}", said.stderr);
    assert!(scene.covered("shop").await.is_empty());
}

#[tokio::test]
async fn access_lost_in_the_middle_leaves_gaps_that_a_later_run_fills() {
    let scene = Scene::new(tempo(&hours(8, 800))).await;
    let lost = Fault::forever(Misbehaviour::Status(403)).after(4);
    let lost = scene.control.add_fault(lost);
    let job = job(8)
        .services()
        .limits("concurrency = 1, max_attempts = 3");
    let said = scene.run(&job).await.expect(3);
    assert!(said.stdout.starts_with("shop: gaps "), "{}", said.stdout);
    let covered = scene.covered("shop").await;
    assert!(!covered.is_empty());
    scene.control.withdraw_fault(lost);
    scene.new_requests();
    scene.run(&job).await.expect(0);
    for request in scene.new_requests() {
        let start: i64 = request.param("start").unwrap().parse().unwrap();
        let was_there = |&(from, to): &(i64, i64)| from <= start && start < to;
        assert!(!covered.iter().any(was_there), "asked for {start} again");
    }
    scene.equals_truth((DAY_S, DAY_S + 8 * HOUR_S), true).await;
}

#[tokio::test]
async fn a_window_that_tempo_moved_is_not_marked() {
    // A Tempo that hides its newest three hours, and so answers for other hours than it was asked for.
    let now = Utc::now().timestamp();
    let settings = GenerateSettings::new(4, at(now - 6 * HOUR_S), at(now - HOUR_S), 500);
    let mut config = Config::new(Version::V3_0_3, Population::generate(&settings));
    config.timing.query_end_cutoff = Duration::from_secs(3 * 3_600);
    config.timing.query_backend_after = Duration::from_secs(6 * 3_600);
    let scene = Scene::new(config).await;
    let from = now - 2 * HOUR_S;
    let job = job(0)
        .services()
        .range(from, from + 600)
        .limits("max_attempts = 2");
    let said = scene.run(&job).await.expect(1);
    assert!(
        said.stderr.contains("it moved the range asked for"),
        "{}",
        said.stderr
    );
    assert!(scene.covered("shop").await.is_empty());
    assert!(scene.stored("shop").await.is_empty());
}

#[tokio::test]
async fn a_query_that_tempo_refuses_is_refused_in_its_words_and_corrected_under_the_same_name() {
    let scene = Scene::new(tempo(&hours(3, 300))).await;
    let wrong = job(3).services().query("{ span.foo > }");
    let file = scene.write(&wrong);
    scene.command(&["check", &file]).await.expect(0);
    let said = scene.command(&["run", &file]).await.expect(2);
    assert!(said.stderr.contains("shop.toml:10:9: "), "{}", said.stderr);
    assert!(
        said.stderr
            .contains("invalid TraceQL query: parse error at line 1"),
        "{}",
        said.stderr
    );
    let asked = scene.control.requests().len();
    // To have it counted, and what was under way when the first window was refused.
    assert!(asked <= 10, "{asked} requests");
    assert!(scene.covered("shop").await.is_empty());
    let right = job(3)
        .services()
        .query("{ trace:rootService != \"nobody\" }");
    scene.run(&right).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 3 * HOUR_S), true).await;
    let said = scene.command(&["gaps"]).await.expect(0);
    assert_eq!(said.stdout, "shop: no gaps in what was asked for\n");
}

#[tokio::test]
async fn what_is_older_than_the_source_keeps_is_a_gap_and_not_asked_for() {
    let now = Utc::now().timestamp() / HOUR_S * HOUR_S;
    let (from, to) = (now - 9 * HOUR_S, now - 3 * HOUR_S);
    let settings = GenerateSettings::new(4, at(from), at(to), 500);
    let scene = Scene::new(tempo(&settings)).await;
    let job = job(0)
        .services()
        .source("retention = \"6h\"")
        .range(from, to);
    let said = scene.run(&job).await.expect(0);
    assert!(said.stdout.contains("beyond retention"), "{}", said.stdout);
    let covered = scene.covered("shop").await;
    assert_eq!(covered.len(), 1);
    assert_eq!(covered[0].1, to);
    let age_h = (Utc::now().timestamp() - covered[0].0) as f64 / HOUR_S as f64;
    assert!((5.9..=6.1).contains(&age_h), "{age_h} h");
    let gaps = scene.command(&["gaps", "--json"]).await.expect(0).json();
    assert_eq!(gaps[0]["reason"], "beyond retention");
    assert_eq!(gaps[0]["from"], rfc3339(from));
}

fn at(second: i64) -> chrono::DateTime<Utc> {
    crate::support::harvest::at(second)
}
