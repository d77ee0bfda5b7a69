//! The commands around a backfill: submitting, working, looking, checking, and what they refuse.

use chrono::Utc;
use rustix::process::Signal;
use serde_json::Value;
use tempo_harvest::simulator::{
    ClockSetting, Config, Credentials, Fault, GenerateSettings, Misbehaviour, Tenancy,
};

use crate::support::harvest::{
    DAY_S, HOUR_S, Scene, at, hours, job, rfc3339, searched, start_in, tempo,
};

#[tokio::test]
async fn what_is_submitted_is_worked_off() {
    let scene = Scene::new(tempo(&hours(3, 300))).await;
    let file = scene.write(&job(3).services());
    scene.command(&["submit", &file]).await.expect(0);
    assert!(searched(&scene.new_requests()).is_empty());
    let status = scene.command(&["status", "--json"]).await.expect(0).json();
    assert_eq!(status[0]["windows_queued"], 3);
    assert_eq!(status[0]["complete"], false);
    let gaps = scene.command(&["gaps", "--json"]).await.expect(3).json();
    assert_eq!(gaps[0]["reason"], "in flight");

    let drained = scene.command(&["work", "--drain"]).await.expect(0);
    let traces = scene
        .number("SELECT sum(returned)::bigint FROM harvest.windows")
        .await;
    let done = format!("fetched meanwhile: 3 windows, {traces} traces, 3 requests\n");
    assert!(drained.stderr.ends_with(&done), "{}", drained.stderr);
    let drained = scene.command(&["work", "--drain"]).await.expect(0);
    let said = drained.stderr;
    assert!(said.ends_with("nothing was fetched meanwhile\n"), "{said}");
    scene.equals_truth((DAY_S, DAY_S + 3 * HOUR_S), true).await;
    let status = scene.command(&["status", "--json"]).await.expect(0).json();
    assert_eq!(status[0]["dataset"], "shop");
    assert_eq!(status[0]["complete"], true);
    assert_eq!(status[0]["missing_s"], 0);
    assert_eq!(status[0]["traces"], scene.stored("shop").await.len());
    let gaps = scene.command(&["gaps", "--json"]).await.expect(0).json();
    assert_eq!(gaps, Value::Array(Vec::new()));
}

#[tokio::test]
async fn what_waits_for_nobody_is_told_from_what_is_being_fetched() {
    let scene = Scene::new(tempo(&hours(3, 300))).await;
    let file = scene.write(&job(3));
    scene.command(&["submit", &file]).await.expect(0);
    let held = scene.control.hold("/api/search");
    let running = scene.start(&["run", &file]);
    scene.held(1).await;
    let gaps = scene.command(&["gaps", "--json"]).await.expect(3).json();
    assert_eq!(gaps[0]["reason"], "in flight");
    assert_eq!(gaps[0]["worked_on"], true);
    let gaps = scene.command(&["gaps"]).await.expect(3).stdout;
    assert!(gaps.ends_with(": in flight\n"), "{gaps}");

    running.signal(Signal::TERM);
    running.end().await.expect(3);
    held.release();
    let gaps = scene.command(&["gaps", "--json"]).await.expect(3).json();
    assert_eq!(gaps[0]["reason"], "in flight");
    assert_eq!(gaps[0]["worked_on"], false);
    let gaps = scene.command(&["gaps"]).await.expect(3).stdout;
    insta::assert_snapshot!(gaps, @"shop: 2026-03-01T00:00:00Z … 2026-03-01T03:00:00Z: in flight: queued, and nobody works on it: tempo-harvest work, or run FILE");
    // What is paused waits for something else.
    scene.command(&["pause", "shop"]).await.expect(0);
    let gaps = scene.command(&["gaps"]).await.expect(3).stdout;
    assert!(!gaps.contains("nobody works"), "{gaps}");
}

#[tokio::test]
async fn what_was_killed_before_it_asked_for_anything_leaves_nothing_asked_for() {
    let scene = Scene::new(tempo(&hours(3, 300))).await;
    let file = scene.write(&job(3));
    let held = scene.control.hold("/api/metrics/query_range");
    let running = scene.start(&["run", &file]);
    scene.held(1).await;
    running.signal(Signal::KILL);
    running.end().await;
    held.release();
    let gaps = scene.command(&["gaps"]).await.expect(0).stdout;
    assert_eq!(gaps, "shop: nothing was asked for yet\n");
    let status = scene.command(&["status"]).await.expect(0).stdout;
    let expected = "\n  0 traces; nothing was asked for yet\n";
    assert!(status.contains(expected), "{status}");
}

#[tokio::test]
async fn what_fails_is_listed_with_its_reason() {
    let scene = Scene::new(tempo(&hours(2, 200))).await;
    let file = scene.write(&job(2).limits("max_attempts = 1"));
    scene.command(&["submit", &file]).await.expect(0);
    let refusal = Fault::forever(Misbehaviour::Status(403)).on_path("/api/search");
    scene.control.add_fault(refusal);
    let said = scene.command(&["work", "--drain"]).await.expect(3);
    assert!(said.stderr.contains("2 windows failed"), "{}", said.stderr);

    let status = scene.command(&["status", "--json"]).await.expect(0).json();
    assert_eq!(status[0]["complete"], false);
    assert_eq!(status[0]["missing_s"], 2 * HOUR_S);
    assert_eq!(status[0]["windows_failed"], 2);
    let gaps = scene.command(&["gaps", "shop", "--json"]).await.expect(3);
    let gaps = gaps.json();
    assert_eq!(gaps[0]["from"], rfc3339(DAY_S));
    for gap in gaps.as_array().unwrap() {
        assert_eq!(gap["reason"], "failed");
        assert_eq!(gap["error_class"], "access");
        assert!(gap["error"].as_str().unwrap().contains("403"), "{gap}");
    }

    // A worker that is given the job file submits it again.
    scene.control.clear_faults();
    let again = ["work", "--drain", &file];
    scene.command(&again).await.expect(0);
    scene.equals_truth((DAY_S, DAY_S + 2 * HOUR_S), false).await;
}

/// A Tempo that has traces up to a minute ago.
fn fresh() -> Config {
    let now = Utc::now().timestamp();
    tempo(&GenerateSettings::new(
        7,
        at(now - HOUR_S),
        at(now - 60),
        200,
    ))
}

/// What `doctor` finds, and how it ends.
async fn findings(scene: &Scene, code: i32) -> Vec<Value> {
    let file = scene.write(&job(1));
    let said = scene.command(&["doctor", &file, "--json"]).await;
    said.expect(code).json().as_array().unwrap().clone()
}

/// The state of a finding about the source.
#[track_caller]
fn state(findings: &[Value], check: &str) -> String {
    let finding = findings.iter().find(|finding| {
        finding["check"] == check && finding["about"].as_str().unwrap().starts_with("source")
    });
    let state = finding.unwrap_or_else(|| panic!("no {check}: {findings:?}"))["state"].clone();
    state.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_doctor_finds_nothing_where_nothing_is() {
    let scene = Scene::new(fresh()).await;
    let findings = findings(&scene, 0).await;
    let not_ok = findings.iter().find(|finding| finding["state"] != "ok");
    assert_eq!(not_ok, None);
    for check in [
        "search",
        "version",
        "format",
        "clock",
        "limits",
        "newest trace",
        "count",
    ] {
        state(&findings, check);
    }
}

#[tokio::test]
async fn the_doctor_finds_a_tempo_that_is_not_there() {
    let scene = Scene::new(fresh()).await;
    scene.simulator.take_down().await;
    let findings = findings(&scene, 1).await;
    assert_eq!(state(&findings, "search"), "fail");
    let failed = findings.iter().find(|finding| finding["state"] == "fail");
    assert!(failed.unwrap()["fix"].as_str().unwrap().contains("`url`"));
}

#[tokio::test]
async fn the_doctor_warns_of_what_only_slows_down() {
    let mut config = fresh();
    config.protobuf = false;
    config.metrics_enabled = false;
    config.clock = ClockSetting::Offset(chrono::TimeDelta::hours(1));
    let scene = Scene::new(config).await;
    let findings = findings(&scene, 0).await;
    for (check, expected) in [
        ("search", "ok"),
        ("format", "warn"),
        ("count", "warn"),
        ("clock", "warn"),
    ] {
        assert_eq!(state(&findings, check), expected, "{findings:?}");
    }
}

/// What `doctor` says of a check of the source, for a job whose source has these lines.
async fn said_of(scene: &Scene, lines: &str, check: &str) -> (String, String) {
    let file = scene.write(&job(1).source(lines));
    let said = scene.command(&["doctor", &file, "--json"]).await.expect(0);
    let said = said.json();
    let finding = said.as_array().unwrap().iter();
    let finding = finding.clone().find(|finding| finding["check"] == check);
    let finding = finding.unwrap_or_else(|| panic!("no {check}: {said}"));
    let text = |key: &str| finding[key].as_str().unwrap().to_owned();
    (text("state"), text("detail"))
}

#[tokio::test]
async fn the_doctor_says_whether_tenant_and_credentials_are_looked_at() {
    const BOTH: &str = "tenant = \"team-a\"\nbearer_token = \"sesame-sesame\"";
    let open = Scene::new(fresh()).await;
    let (state, said) = said_of(&open, BOTH, "tenant").await;
    assert_eq!(state, "warn");
    insta::assert_snapshot!(said, @"answers without a tenant as well: it has one tenant only, or does not look at it");
    let (state, said) = said_of(&open, BOTH, "credentials").await;
    assert_eq!(state, "warn");
    insta::assert_snapshot!(said, @"answers without credentials as well: they are not looked at");

    let mut config = fresh();
    let Tenancy::Single(population) = config.tenancy else {
        unreachable!("one tenant, unless said otherwise");
    };
    config.tenancy = Tenancy::Multi([("team-a".to_owned(), population)].into());
    config.credentials = Credentials::Bearer("sesame-sesame".into());
    let strict = Scene::new(config).await;
    let needed = ("ok".to_owned(), "accepted, and needed".to_owned());
    assert_eq!(said_of(&strict, BOTH, "tenant").await, needed);
    assert_eq!(said_of(&strict, BOTH, "credentials").await, needed);
    // Once without the tenant, and once without the credentials, each time.
    let refused = strict
        .new_requests()
        .into_iter()
        .filter(|request| request.status == Some(401));
    assert_eq!(refused.count(), 4);
}

#[tokio::test]
async fn migrate_makes_the_tables_once() {
    let database = crate::support::postgres::database().await;
    let folder = tempfile::tempdir().unwrap();
    let url = database.url();
    for _ in 0..2 {
        let environment = [("DATABASE_URL", url.as_str())];
        let said = start_in(folder.path(), &["migrate"], &environment)
            .end()
            .await;
        assert_eq!(said.expect(0).stdout, "the tables are up to date\n");
    }
    let made = "SELECT to_regclass('harvest.traces') IS NOT NULL AND to_regclass('apalis.jobs') IS NOT NULL";
    let made: bool = sqlx::query_scalar(made)
        .fetch_one(&database.pool().await)
        .await
        .unwrap();
    assert!(made);
}

#[tokio::test]
async fn completions_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let said = start_in(folder.path(), &["completions", shell], &[]);
        let script = said.end().await.expect(0).stdout;
        assert!(script.contains("tempo-harvest"), "{shell}");
        assert!(script.contains("doctor"), "{shell}");
    }
}

#[tokio::test]
async fn logs_in_json_are_json() {
    let scene = Scene::new(tempo(&hours(2, 200))).await;
    let busy = Fault::next(1, Misbehaviour::Status(503)).on_path("/api/search");
    scene.control.add_fault(busy);
    let file = scene.write(&job(2));
    let arguments = ["--log-format", "json", "-v", "run", &file, "--json"];
    let said = scene.command(&arguments).await.expect(0);
    assert_eq!(said.json()[0]["outcome"], "complete");
    assert!(said.stderr.lines().count() > 2, "{}", said.stderr);
    for line in said.stderr.lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(entry["level"].is_string() && entry["timestamp"].is_string());
    }
}

#[tokio::test]
async fn without_a_database_the_way_to_the_private_one_is_told() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let file = scene.write(&job(1));
    let commands: [&[&str]; 5] = [
        &["submit", &file],
        &["work", "--drain"],
        &["status"],
        &["gaps"],
        &["migrate"],
    ];
    for command in commands {
        for environment in [&[][..], &[("DATABASE_URL", "")]] {
            let said = scene.command_with(command, environment).await.expect(2);
            assert!(said.stderr.contains("--local"), "{}", said.stderr);
        }
    }
    assert!(!scene.folder.path().join(".tempo-harvest").exists());
}

#[tokio::test]
async fn a_password_in_a_database_url_is_never_repeated() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let file = scene.write(&job(1));
    let wrong = "postgres://me:canary-5d1e@127.0.0.1:port/harvest";
    let commands: [&[&str]; 4] = [
        &["run", &file],
        &["submit", &file],
        &["status"],
        &["doctor", &file],
    ];
    for command in commands {
        let environment = [("DATABASE_URL", wrong), ("RUST_LOG", "trace")];
        let said = scene.command_with(command, &environment).await.expect(2);
        assert!(said.stderr.contains("DATABASE_URL"), "{}", said.stderr);
        let all = said.stdout + &said.stderr;
        assert!(!all.contains("canary-5d1e"), "{all}");
    }
    assert_eq!(scene.new_requests().len(), 0);
}

#[tokio::test]
async fn what_the_source_no_longer_keeps_is_no_failure() {
    let scene = Scene::new(tempo(&hours(2, 100))).await;
    let said = scene.run(&job(2).source("retention = \"1d\"")).await;
    let said = said.expect(0);
    assert!(
        said.stdout.starts_with("shop: nothing to collect"),
        "{}",
        said.stdout
    );
    assert_eq!(scene.new_requests().len(), 0);
    let gaps = scene.command(&["gaps", "--json"]).await.expect(0).json();
    let expected = serde_json::json!([{
        "dataset": "shop", "from": rfc3339(DAY_S), "to": rfc3339(DAY_S + 2 * HOUR_S),
        "seconds": 2 * HOUR_S, "reason": "beyond retention",
    }]);
    assert_eq!(gaps, expected);
}
