//! What was asked of Tempo, summed up, and what is warned of: in `stats`, in `status`, in the log of `work`, as a metric.

use chrono::{TimeDelta, Utc};
use rustix::process::Signal;
use serde_json::Value;
use tempo_harvest::simulator::{
    Config, Fault, GenerateSettings, Misbehaviour, Population, Version,
};

use crate::support::harvest::{Scene, hours, job, tempo};
use crate::support::http;

/// The warnings of `status`, by name.
async fn warnings(scene: &Scene) -> Vec<String> {
    let status = scene.command(&["status", "--json"]).await.expect(0).json();
    names(&status[0]["warnings"])
}

fn names(warnings: &Value) -> Vec<String> {
    let warnings = warnings.as_array().unwrap().iter();
    warnings
        .map(|warning| warning["name"].as_str().unwrap().to_owned())
        .collect()
}

/// A job `live` that polls every five seconds.
fn polling(scene: &Scene) {
    let url = scene.simulator.url();
    let text = format!(
        "name = \"live\"\ndataset = \"shop\"\n[source]\nname = \"simulator\"\nurl = \"{url}\"\nlimits = {{ requests_per_second = 1000 }}\n\
         [select]\ndetail = \"services\"\n[poll]\nevery = \"5s\"\ndelay = \"32s\"\nlookback = \"60s\"\nseal_after = \"120s\"\n"
    );
    scene.write_file("live.toml", &text);
}

#[tokio::test]
async fn requests_are_summed_up_by_job_kind_and_class_and_the_sums_survive_pruning() {
    let scene = Scene::new(tempo(&hours(3, 4_000))).await;
    // What is not counted is cut when it turns out to be full; and two searches are refused, of windows that are small enough.
    let uncounted = Fault::forever(Misbehaviour::Status(500)).on_path("/api/metrics");
    scene.control.add_fault(uncounted);
    let refused = Fault::next(2, Misbehaviour::Status(503))
        .on_path("/api/search")
        .after(8);
    scene.control.add_fault(refused);
    scene.run(&job(3)).await.expect(0);
    let asked = scene.control.requests();
    let searches = asked
        .iter()
        .filter(|request| request.path.ends_with("/api/search"))
        .count();

    let stats = async |arguments: &[&str]| {
        let arguments = [&["stats", "shop", "--json"], arguments].concat();
        scene.command(&arguments).await.expect(0).json()
    };
    let before = stats(&[]).await;
    let total = &before["datasets"][0]["total"];
    assert_eq!(total["requests"], asked.len(), "{before:#}");
    assert_eq!(total["searches"], searches, "{before:#}");
    assert_eq!(
        total["errors"]["passing"],
        asked.len() - searches + 2,
        "{before:#}"
    );
    assert!(total["retries"].as_i64().unwrap() >= 1, "{before:#}");
    // What was cut was as full as it gets, and did not count.
    let fullest = total["fullest"].as_f64().unwrap();
    assert!(fullest > 0.0 && fullest < 1.0, "{before:#}");
    let thrown_away = total["thrown_away"].as_i64().unwrap();
    let share = thrown_away as f64 / searches as f64;
    let said = total["thrown_away_share"].as_f64().unwrap();
    assert!(thrown_away > 0 && (said - share).abs() < 1e-9, "{before:#}");
    assert!(total["inspected_bytes"].as_i64().unwrap() > 0, "{before:#}");
    let runs = before["datasets"][0]["runs"].as_array().unwrap();
    let backfill = runs.iter().find(|runs| runs["kind"] == "backfill").unwrap();
    assert_eq!(backfill["job"], "shop");
    assert_eq!(backfill["thrown_away"], thrown_away);
    let looks = before["datasets"][0]["looks"].as_array().unwrap();
    let stored = scene.number("SELECT count(*) FROM harvest.traces").await;
    assert_eq!(looks.len(), 1);
    assert_eq!(looks[0]["new"], stored);
    let logged = "SELECT count(*) FROM harvest.fetches WHERE thrown_away AND limit_share <= 1";
    assert_eq!(scene.number(logged).await, thrown_away);

    let said = scene.command(&["stats"]).await.expect(0).stdout;
    assert!(
        said.contains("of the searches") && said.contains("passing"),
        "{said}"
    );

    // Eight days later the rows are gone, and the sums are not.
    scene
        .execute("UPDATE harvest.windows SET created_at = created_at - interval '8 days', finished_at = finished_at - interval '8 days'")
        .await;
    scene
        .execute("UPDATE harvest.fetches SET at = at - interval '8 days'")
        .await;
    let aged = stats(&[]).await;
    scene.execute("DELETE FROM harvest.housekeeping").await;
    scene.command(&["work", "--drain"]).await.expect(0);
    assert_eq!(
        scene.number("SELECT count(*) FROM harvest.fetches").await,
        0
    );
    assert_eq!(stats(&[]).await, aged);
    assert_eq!(aged["datasets"], before["datasets"]);
    let lately = stats(&["--last", "7d"]).await;
    assert_eq!(lately["datasets"][0]["total"]["requests"], 0);
    let then = stats(&["--from", "10d ago", "--to", "7d ago"]).await;
    assert_eq!(then["datasets"], before["datasets"]);
    scene
        .command(&["dataset", "rm", "shop", "--yes"])
        .await
        .expect(0);
    let left = scene
        .number("SELECT count(*) FROM harvest.pruned_fetches")
        .await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn stats_of_what_is_not_there_says_so() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let said = scene.command(&["stats", "nothing"]).await.expect(2);
    assert!(
        said.stderr.contains("no job and no dataset `nothing`"),
        "{said:?}"
    );
    let said = scene.command(&["stats", "--last", "0s"]).await.expect(2);
    assert!(said.stderr.contains("--last `0s` is empty"), "{said:?}");
}

#[tokio::test]
async fn a_poll_near_the_limit_is_warned_of_once_and_taken_back_when_it_is_no_longer_so() {
    // Dense until a moment ago, and nothing after.
    let now = Utc::now();
    let (from, to) = (now - TimeDelta::minutes(3), now - TimeDelta::seconds(20));
    let population = Population::generate(&GenerateSettings::new(7, from, to, 960));
    let mut config = Config::new(Version::V3_0_3, population);
    config.limits.max_result_limit = 12;
    let scene = Scene::new(config).await;
    polling(&scene);
    let mut running = scene.start(&["work", "--listen", "127.0.0.1:0", "live.toml"]);
    let address = http::address(&mut running).await;
    running.says("near_limit").await;
    assert!(
        running
            .stderr()
            .contains("of the 12 traces that one search may bring"),
        "{}",
        running.stderr()
    );
    assert!(warnings(&scene).await.contains(&"near_limit".to_owned()));
    let stats = scene
        .command(&["stats", "live", "--json"])
        .await
        .expect(0)
        .json();
    assert!(names(&stats["warnings"]).contains(&"near_limit".to_owned()));
    let active = "tempo_harvest_warning_active{warning=\"near_limit\",dataset=\"shop\",job=\"live\",source=\"simulator\"}";
    let metrics = http::metrics(&address).await;
    assert_eq!(http::value(&metrics, active), Some(1.0), "{metrics}");
    let share = http::value(
        &metrics,
        "tempo_harvest_live_limit_share_ratio{dataset=\"shop\"}",
    );
    assert!(share.is_some_and(|share| share > 0.8), "{metrics}");

    // Two hours pass, as far as what was dense goes; what is polled since is empty.
    scene
        .until("SELECT count(*) > 0 FROM harvest.windows WHERE look = 'fresh' AND state = 'done' AND returned = 0")
        .await;
    scene
        .execute("UPDATE harvest.windows SET finished_at = finished_at - interval '2 hours' WHERE returned > 0 OR state = 'split'")
        .await;
    running.says("no longer so").await;
    let metrics = http::metrics(&address).await;
    assert_eq!(http::value(&metrics, active), None);
    let count = "tempo_harvest_warnings{warning=\"near_limit\"}";
    assert_eq!(http::value(&metrics, count), Some(0.0));
    running.signal(Signal::TERM);
    let said = running.end().await.expect(0);
    assert_eq!(
        said.stderr.matches("near_limit").count(),
        2,
        "{}",
        said.stderr
    );
}

#[tokio::test]
async fn a_backlog_that_grows_and_a_silent_source_are_warned_of_until_tempo_is_back() {
    let now = Utc::now();
    let (from, to) = (now - TimeDelta::minutes(30), now + TimeDelta::minutes(10));
    let scene = Scene::new(tempo(&GenerateSettings::new(7, from, to, 2_000))).await;
    polling(&scene);
    scene
        .command(&["work", "--drain", "live.toml"])
        .await
        .expect(0);
    assert_eq!(warnings(&scene).await, Vec::<String>::new());

    // Tempo goes down, and a quarter of an hour passes: the poll was to collect it, and has nothing of it.
    let down = scene
        .control
        .add_fault(Fault::forever(Misbehaviour::Status(503)));
    scene.execute("DELETE FROM harvest.coverage").await;
    scene.execute("DELETE FROM harvest.windows").await;
    scene
        .execute("UPDATE harvest.sources SET last_success_at = now() - interval '17 minutes'")
        .await;
    scene
        .execute("UPDATE harvest.runs SET requested = tstzrange(date_trunc('second', now()) - interval '1000 seconds', upper(requested))")
        .await;
    let mut running = scene.start(&["work", "live.toml"]);
    for warning in ["backlog_growing", "edge_behind", "source_silent"] {
        running.says(warning).await;
    }
    let mut found = warnings(&scene).await;
    found.sort();
    assert_eq!(found, ["backlog_growing", "edge_behind", "source_silent"]);
    let stats = scene.command(&["stats", "--json"]).await.expect(0).json();
    assert!(
        stats["datasets"][0]["total"]["errors"]["passing"]
            .as_i64()
            .unwrap()
            > 0
    );

    scene.control.withdraw_fault(down);
    running.says("no longer so: the live edge").await;
    scene.until("SELECT count(*) = 0 FROM harvest.windows WHERE state IN ('queued', 'running') AND look <> 'fresh'").await;
    scene.until("SELECT coalesce((SELECT covered @> tstzrange(now() - interval '15 minutes', now() - interval '5 minutes') FROM harvest.coverage WHERE look = 'sealed'), false)").await;
    running.signal(Signal::TERM);
    running.end().await.expect(0);
    assert_eq!(warnings(&scene).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_lookback_that_keeps_finding_late_traces_is_warned_of_until_a_sealing_look_finds_none() {
    let now = Utc::now();
    let (from, to) = (now - TimeDelta::minutes(30), now + TimeDelta::minutes(10));
    let scene = Scene::new(tempo(&GenerateSettings::new(7, from, to, 500))).await;
    polling(&scene);
    scene
        .command(&["work", "--drain", "live.toml"])
        .await
        .expect(0);
    // Stretches sealed one after the other, the earliest first.
    let sealed = async |nth: i32, missed: i32| {
        sqlx::query(
            "INSERT INTO harvest.windows (run_id, dataset, source, look, span, state, priority, queue_at, settle_s, earlier_look, stored_new, finished_at)
             SELECT r.id, 'shop', 'simulator', 'sealed',
                    tstzrange(lower(r.requested) + $1 * interval '10 minutes', lower(r.requested) + $1 * interval '10 minutes' + interval '1 minute'),
                    'done', 0, now(), 120, 'settled', $2, clock_timestamp()
             FROM harvest.runs r WHERE r.kind = 'poll'",
        )
        .bind(f64::from(nth))
        .bind(i64::from(missed))
        .execute(&scene.pool)
        .await
        .unwrap();
    };
    for nth in 1..=2 {
        sealed(nth, 4).await;
    }
    assert!(!warnings(&scene).await.contains(&"late_traces".to_owned()));
    sealed(3, 1).await;
    assert!(warnings(&scene).await.contains(&"late_traces".to_owned()));
    let said = scene.command(&["status"]).await.expect(0).stdout;
    assert!(
        said.contains("found 9 traces that the settled look had missed"),
        "{said}"
    );
    sealed(4, 0).await;
    assert!(!warnings(&scene).await.contains(&"late_traces".to_owned()));
}
