//! `/metrics`, `/healthz` and `/readyz`: what monitors read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use chrono::{TimeDelta, Utc};
use rustix::process::Signal;
use serde_json::Value;
use tempo_harvest::simulator::GenerateSettings;

use crate::support::harvest::{Process, Scene, hours, job, tempo};
use crate::support::http::{self, metrics, value};

/// A scene with a finished backfill, a poll at work, and a process that shows its metrics.
pub async fn at_work() -> (Scene, Process, String) {
    let now = Utc::now();
    let (from, to) = (now - TimeDelta::minutes(20), now + TimeDelta::minutes(10));
    let scene = Scene::new(tempo(&GenerateSettings::new(7, from, to, 1_200))).await;
    let url = scene.simulator.url();
    let text = format!(
        "name = \"live\"\n[source]\nname = \"simulator\"\nurl = \"{url}\"\nlimits = {{ requests_per_second = 1000 }}\n\
         [select]\ndetail = \"services\"\n[poll]\nevery = \"1s\"\ndelay = \"32s\"\nlookback = \"60s\"\nseal_after = \"120s\"\n"
    );
    scene.write_file("live.toml", &text);
    let mut running = scene.start(&["work", "--listen", "127.0.0.1:0", "."]);
    let address = http::address(&mut running).await;
    scene
        .until("SELECT count(*) >= 3 FROM harvest.windows WHERE state = 'done'")
        .await;
    (scene, running, address)
}

/// What is wrong with an exposition by Prometheus' conventions: what `promtool check metrics` finds, and a unit where a name
/// has one.
fn lint(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helps: BTreeSet<&str> = BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap_or((help, ""));
            if help.len() < 10 {
                problems.push(format!("{name}: no help"));
            }
            if !helps.insert(name) {
                problems.push(format!("{name}: twice"));
            }
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            types.insert(name, kind);
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|base| types.get(base) == Some(&"histogram"))
                .unwrap_or(name);
            if !types.contains_key(family) || !helps.contains(family) {
                problems.push(format!("{name}: no TYPE or HELP"));
            }
        }
    }
    for (name, kind) in &types {
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        if !name.chars().all(plain)
            || !(name.starts_with("tempo_harvest_") || *name == "process_start_time_seconds")
        {
            problems.push(format!("{name}: not a name of ours"));
        }
        if (*kind == "counter") != name.ends_with("_total") {
            problems.push(format!("{name}: a {kind}"));
        }
        if !["counter", "gauge", "histogram"].contains(kind) {
            problems.push(format!("{name}: a {kind}"));
        }
        let base = name.strip_suffix("_total").unwrap_or(name);
        for unit in ["seconds", "bytes", "ratio"] {
            if base.split('_').any(|word| word == unit) && !base.ends_with(unit) {
                problems.push(format!("{name}: the unit is its end"));
            }
        }
        let strange = [
            "ms",
            "milliseconds",
            "minutes",
            "hours",
            "days",
            "kb",
            "mb",
            "percent",
            "s",
        ];
        if base.split('_').any(|word| strange.contains(&word)) {
            problems.push(format!("{name}: not a base unit"));
        }
    }
    problems
}

/// What promtool says of an exposition; `None` where it is not installed.
fn promtool(arguments: &[&str], input: &str) -> Option<Result<(), String>> {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let said = child.wait_with_output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    Some(if said.status.success() {
        Ok(())
    } else {
        Err(text)
    })
}

#[test]
fn the_linter_finds_what_it_is_there_for() {
    let bad = "# HELP tempo_harvest_bytes_read Bytes that were read.\n# TYPE tempo_harvest_bytes_read counter\ntempo_harvest_bytes_read 1\n\
               tempo_harvest_more 2\n# HELP tempo_harvest_wait_ms Time that was waited.\n# TYPE tempo_harvest_wait_ms gauge\n";
    assert_eq!(
        lint(bad),
        [
            "tempo_harvest_more: no TYPE or HELP",
            "tempo_harvest_bytes_read: a counter",
            "tempo_harvest_bytes_read: the unit is its end",
            "tempo_harvest_wait_ms: not a base unit",
        ]
    );
}

#[tokio::test]
async fn the_ledger_and_the_process_are_shown_by_the_conventions() {
    let (scene, running, address) = at_work().await;
    let shown = metrics(&address).await;
    assert_eq!(lint(&shown), Vec::<String>::new());
    match promtool(&["check", "metrics"], &shown) {
        Some(outcome) => assert_eq!(outcome, Ok(())),
        None => eprintln!("promtool is not installed: `promtool check metrics` is left out"),
    }
    let of = "{dataset=\"live\",source=\"simulator\"}";
    let traces = value(&shown, &format!("tempo_harvest_traces{of}")).unwrap();
    assert!(traces >= 0.0);
    assert_eq!(value(&shown, "tempo_harvest_ledger_up"), Some(1.0));
    assert_eq!(
        value(&shown, "tempo_harvest_source_up{source=\"simulator\"}"),
        Some(1.0)
    );
    let lag =
        "tempo_harvest_live_edge_lag_seconds{dataset=\"live\",source=\"simulator\",job=\"live\"}";
    assert!(
        (32.0..60.0).contains(&value(&shown, lag).unwrap()),
        "{shown}"
    );
    let requests = "tempo_harvest_requests_total{source=\"simulator\",dataset=\"live\",kind=\"search\",outcome=\"complete\"}";
    assert!(value(&shown, requests).unwrap() >= 3.0, "{shown}");
    let took = "tempo_harvest_request_duration_seconds_count{source=\"simulator\",kind=\"search\"}";
    assert!(value(&shown, took).unwrap() >= 3.0, "{shown}");
    let began = value(&shown, "process_start_time_seconds").unwrap();
    assert!((Utc::now().timestamp() as f64 - began).abs() < 120.0);

    // As Prometheus asks for it.
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.3\r\n";
    let open = http::get(&address, "/metrics", accept).await;
    assert!(
        open.head.contains("application/openmetrics-text"),
        "{}",
        open.head
    );
    assert!(open.body.ends_with("# EOF\n"));
    assert!(
        open.body
            .contains("# UNIT tempo_harvest_response_bytes bytes\n"),
        "{}",
        open.body
    );

    // The database goes away: what it knows is missing, not 0.
    scene.pool.close().await;
    let answer = http::get(&address, "/healthz", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    running.signal(Signal::TERM);
    running.end().await.expect(0);
}

#[tokio::test]
async fn readiness_is_the_database_and_its_tables_and_tempo_is_only_reported() {
    let (scene, running, address) = at_work().await;
    let ready = async || {
        let answer = http::get(&address, "/readyz", "").await;
        (
            answer.status,
            serde_json::from_str::<Value>(&answer.body).unwrap(),
        )
    };
    let (status, body) = ready().await;
    assert_eq!(status, 200);
    assert_eq!(body["migrations"], "current");
    assert_eq!(body["sources"][0]["state"], "answers", "{body}");
    scene
        .execute("UPDATE harvest.sources SET last_success_at = now() - interval '1 hour'; ")
        .await;
    scene
        .execute("DELETE FROM harvest._sqlx_migrations WHERE version = (SELECT max(version) FROM harvest._sqlx_migrations)")
        .await;
    let (status, body) = ready().await;
    assert_eq!((status, &body["migrations"]), (503, &Value::from("behind")));
    running.signal(Signal::TERM);
    running.end().await;
}

#[tokio::test]
async fn an_edit_that_does_not_validate_shows_in_metrics_until_it_is_mended() {
    let (scene, mut running, address) = at_work().await;
    let file = scene.folder.path().join("live.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let invalid = |shown: &str| {
        shown.lines().any(|line| {
            line.starts_with("tempo_harvest_job_file_invalid{file=\"") && line.ends_with(" 1")
        })
    };
    assert!(!invalid(&metrics(&address).await));
    scene.write_file("live.toml", &good.replace("every", "evry"));
    running.says("job files have problems").await;
    let mut shown = metrics(&address).await;
    while !invalid(&shown) {
        tokio::task::yield_now().await;
        shown = metrics(&address).await;
    }
    assert_eq!(
        value(&shown, "tempo_harvest_job_file_rejected_edits_total"),
        Some(1.0)
    );
    scene.write_file("live.toml", &(good + "# mended\n"));
    running.says("took over a new or changed job").await;
    while invalid(&shown) {
        tokio::task::yield_now().await;
        shown = metrics(&address).await;
    }
    assert_eq!(
        value(&shown, "tempo_harvest_job_file_rejected_edits_total"),
        Some(1.0)
    );
    running.signal(Signal::TERM);
    running.end().await.expect(0);
}

#[tokio::test]
async fn a_storm_of_scrapes_reads_the_database_once_a_second() {
    let scene = Scene::new(tempo(&hours(1, 100))).await;
    scene.run(&job(1)).await.expect(0);
    let mut running = scene.start(&["work", "--listen", "127.0.0.1:0"]);
    let address = http::address(&mut running).await;
    let scrapes = (0..40).map(|_| metrics(&address));
    let begun = std::time::Instant::now();
    let shown = futures::future::join_all(scrapes).await;
    let reading = |shown: &String| {
        let took = value(shown, "tempo_harvest_ledger_read_duration_seconds");
        took.unwrap().to_bits()
    };
    // Each reading takes another time, to the nanosecond.
    let readings: BTreeSet<u64> = shown.iter().map(reading).collect();
    let most = begun.elapsed().as_secs() as usize + 2;
    assert!(readings.len() <= most, "{} readings", readings.len());
    running.signal(Signal::TERM);
    running.end().await.expect(0);
}
