//! Baselines: held against what the simulator knows to be true, and against being counted anew, whatever became of the traces
//! in between.

use std::{collections::BTreeMap, time::Duration};

use chrono::Utc;
use serde_json::Value;
use tempo_harvest::simulator::{
    Config, Control, GenerateSettings, Population, Span, SpanStatus, TraceFragment, TraceTruth,
    Version,
};

use crate::support::harvest::{DAY_S, HOUR_S, Job, Process, Scene, at, hours, job, rfc3339, tempo};

const SECOND_NS: u64 = 1_000_000_000;
/// A Tuesday; at the end of this week Berlin sets its clocks forward, on 2026-03-29 at 01:00 UTC.
const WEEK_S: i64 = 1_774_310_400;
const WEEK: (i64, i64) = (WEEK_S, WEEK_S + 7 * 24 * HOUR_S);
const CLOCKS_FORWARD_S: i64 = 1_774_746_000;
/// What is said of the error of percentiles.
const ERROR: f64 = 1.0 / 256.0;

/// Traces of a week, of three operations.
fn week(traces: usize) -> Config {
    let settings = GenerateSettings::new(3, at(WEEK.0), at(WEEK.1), traces);
    let text = Population::generate(&settings).to_tsv();
    let few = text.lines().enumerate().map(|(index, line)| {
        let mut fields: Vec<&str> = line.split('\t').collect();
        (fields[4], fields[5]) =
            [("shop", "GET /"), ("shop", "POST /buy"), ("mail", "send")][index % 3];
        fields.join("\t") + "\n"
    });
    let population = Population::from_tsv(&few.collect::<String>()).unwrap();
    Config::new(Version::V3_0_3, population)
}

/// The hour that a trace belongs to in Berlin, worked out by hand: (day type, hour).
fn hour_in_berlin(start_ns: u64) -> (&'static str, i64) {
    let start_s = (start_ns / SECOND_NS) as i64;
    let local_s = start_s + if start_s < CLOCKS_FORWARD_S { 1 } else { 2 } * HOUR_S;
    // 1970 began on a Thursday.
    let day = match (local_s / 86_400 + 3) % 7 {
        5 | 6 => "weekend",
        _ => "weekday",
    };
    (day, local_s % 86_400 / HOUR_S)
}

/// The smallest that so great a share does not exceed.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[(share * sorted.len() as f64).ceil() as usize - 1]
}

/// Holds a baseline, as JSON, against the traces it is of.
#[track_caller]
fn agrees(baseline: &Value, traces: &[&TraceTruth], with_errors: bool) {
    assert_eq!(baseline["samples"], traces.len(), "{baseline}");
    let failed = traces.iter().filter(|trace| trace.errors > 0).count();
    match baseline["error_rate"].as_f64() {
        Some(rate) => {
            assert!(with_errors && (rate - failed as f64 / traces.len() as f64).abs() < 1e-9)
        }
        None => assert!(!with_errors, "{baseline}"),
    }
    // Searches tell whole milliseconds.
    let mut ms: Vec<f64> = traces
        .iter()
        .map(|trace| ((trace.end_ns - trace.start_ns) / 1_000_000) as f64)
        .collect();
    ms.sort_unstable_by(f64::total_cmp);
    for (name, share) in [("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)] {
        let (is, right) = (baseline[name].as_f64().unwrap(), quantile(&ms, share));
        assert!(
            (is - right).abs() <= right * ERROR + 0.001,
            "{name} is {is}, not {right}"
        );
    }
    let median = quantile(&ms, 0.5);
    let mut distances: Vec<f64> = ms.iter().map(|ms| (ms - median).abs()).collect();
    distances.sort_unstable_by(f64::total_cmp);
    let (is, right) = (
        baseline["mad_ms"].as_f64().unwrap(),
        quantile(&distances, 0.5),
    );
    let most = (2.0 * median + is.max(right)) * ERROR + 0.001;
    assert!((is - right).abs() <= most, "the MAD is {is}, not {right}");
    let instant = |name: &str| -> u64 {
        let at: chrono::DateTime<Utc> = baseline[name].as_str().unwrap().parse().unwrap();
        at.timestamp_nanos_opt().unwrap() as u64
    };
    let starts = || traces.iter().map(|trace| trace.start_ns);
    assert_eq!(
        (instant("first_at"), instant("last_at")),
        (starts().min().unwrap(), starts().max().unwrap())
    );
}

/// What `baseline` says of `shop`, without when it was computed.
async fn baselines(scene: &Scene, arguments: &[&str]) -> Value {
    let all = [&["baseline", "--json"], arguments].concat();
    let mut said = scene.command(&all).await.expect(0).json();
    let said = said.as_array_mut().unwrap();
    assert_eq!(said.len(), 1);
    said[0].as_object_mut().unwrap().remove("computed_at");
    said[0].take()
}

/// What was added up from changes is what counting everything anew says.
async fn equals_a_recount(scene: &Scene) -> Value {
    let mut last = Value::Null;
    for subject in [&[][..], &["--spans"]] {
        let added_up = baselines(scene, subject).await;
        let anew = baselines(scene, &[subject, &["--recount"]].concat()).await;
        assert_eq!(added_up, anew);
        if subject.is_empty() {
            last = anew;
        }
    }
    last
}

fn of<'a>(said: &'a Value, operation: &str, level: &str) -> Option<&'a Value> {
    let baselines = said["baselines"].as_array().unwrap();
    baselines
        .iter()
        .find(|baseline| baseline["operation"] == operation && baseline["level"] == level)
}

/// The samples that everything of an operation has.
fn samples(said: &Value, operation: &str) -> i64 {
    of(said, operation, "everything").map_or(0, |baseline| baseline["samples"].as_i64().unwrap())
}

#[tokio::test]
async fn after_a_backfill_of_a_week_all_48_hours_are_as_the_truth_has_them() {
    let scene = Scene::new(week(30_000)).await;
    let mut week = job(0).services().range(WEEK.0, WEEK.1);
    week.top = "timezone = \"Europe/Berlin\"".to_owned();
    scene.run(&week).await.expect(0);
    // The run has computed them: nothing is left to do.
    assert_eq!(
        scene
            .number("SELECT count(*) FROM harvest.baseline_changes")
            .await,
        0
    );
    let hours = "SELECT count(DISTINCT (day_type, hour)) FROM harvest.baselines WHERE level = 'hour' AND samples >= 30";
    assert_eq!(scene.number(hours).await, 48);
    assert_eq!(
        scene.number("SELECT count(*) FROM harvest.baselines").await,
        3 * 51
    );

    // The view says the same in SQL, to the microsecond.
    let exact = "SELECT count(*) FROM harvest.baselines b
        JOIN (SELECT root_name, count(*) AS samples, min(started_at) AS first_at, max(started_at) AS last_at FROM harvest.traces GROUP BY 1) t
          ON (b.operation, b.samples, b.first_at, b.last_at) = (t.root_name, t.samples, t.first_at, t.last_at)
        WHERE b.level = 'everything'";
    assert_eq!(scene.number(exact).await, 3);

    let truth = scene.control.truth();
    let mut expected: BTreeMap<(String, String, String), Vec<&TraceTruth>> = BTreeMap::new();
    for trace in &truth {
        let (day, hour) = hour_in_berlin(trace.start_ns);
        let name = trace.root_name.as_deref().unwrap();
        for slot in [
            (day.to_owned(), hour.to_string()),
            (day.to_owned(), "null".to_owned()),
            ("null".to_owned(), "null".to_owned()),
        ] {
            let key = (name.to_owned(), slot.0, slot.1);
            expected.entry(key).or_default().push(trace);
        }
    }
    let said = baselines(&scene, &[]).await;
    assert_eq!(said["timezone"], "Europe/Berlin");
    assert_eq!(said["counted_from"], rfc3339(WEEK.0));
    assert_eq!(said["counted_to"], rfc3339(WEEK.1));
    for baseline in said["baselines"].as_array().unwrap() {
        let key = (
            baseline["operation"].as_str().unwrap().to_owned(),
            baseline["day_type"].as_str().unwrap_or("null").to_owned(),
            baseline["hour"].to_string(),
        );
        agrees(baseline, &expected.remove(&key).unwrap(), true);
        assert_eq!(baseline["enough"], true, "{baseline}");
    }
    assert_eq!(expected.len(), 0);
    let coverage = scene
        .command(&["baseline", "--coverage", "--json"])
        .await
        .expect(0)
        .json();
    for operation in coverage[0]["operations"].as_array().unwrap() {
        assert_eq!(operation["slots_with_enough"], 48);
        assert_eq!(operation["slots"].as_array().unwrap().len(), 48);
    }
    assert_eq!(equals_a_recount(&scene).await, said);

    // By other clocks the same samples belong to other hours; a shorter history drops some, a longer one finds them again.
    week.top = "timezone = \"Asia/Kathmandu\"".to_owned();
    let file = scene.write(&week.clone().backfill("[baseline]\nhistory = \"24h\""));
    scene.command(&["submit", &file]).await.expect(0);
    let day = equals_a_recount(&scene).await;
    assert_eq!(day["timezone"], "Asia/Kathmandu");
    assert_eq!(day["counted_from"], rfc3339(WEEK.1 - 24 * HOUR_S));
    let since = (WEEK.1 - 24 * HOUR_S) as u64 * SECOND_NS;
    let of_a_day = truth.iter().filter(|trace| trace.start_ns >= since);
    let said_of_a_day = ["GET /", "POST /buy", "send"].map(|name| samples(&day, name));
    assert_eq!(said_of_a_day.iter().sum::<i64>(), of_a_day.count() as i64);
    let file = scene.write(&week);
    scene.command(&["submit", &file]).await.expect(0);
    let week = equals_a_recount(&scene).await;
    assert_eq!(samples(&week, "send"), samples(&said, "send"));
    assert_ne!(of(&week, "send", "day type"), of(&said, "send", "day type"));
}

#[tokio::test]
async fn without_errors_the_error_rate_is_unknown_and_a_higher_detail_tells_it() {
    let scene = Scene::new(tempo(&hours(2, 600))).await;
    scene.run(&job(2)).await.expect(0);
    let said = baselines(&scene, &[]).await;
    let rates = |said: &Value| -> Vec<Value> {
        let baselines = said["baselines"].as_array().unwrap();
        baselines
            .iter()
            .map(|one| one["error_rate"].clone())
            .collect()
    };
    assert!(rates(&said).len() > 40 && rates(&said).iter().all(Value::is_null));
    let text = scene.command(&["baseline"]).await.expect(0).stdout;
    assert!(
        text.contains("unknown") && text.contains("lower bounds"),
        "{text}"
    );
    scene.run(&job(2).services()).await.expect(0);
    let said = equals_a_recount(&scene).await;
    assert!(rates(&said).iter().all(Value::is_number));
    scene.run(&job(2).spans("")).await.expect(0);
    let said = equals_a_recount(&scene).await;
    assert_eq!(said["durations_are_lower_bounds"], false);
    let spans = baselines(&scene, &["--spans"]).await;
    let counted: i64 = spans["baselines"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|baseline| baseline["level"] == "everything")
        .map(|baseline| baseline["samples"].as_i64().unwrap())
        .sum();
    assert_eq!(
        counted,
        scene.number("SELECT count(*) FROM harvest.spans").await
    );
    assert!(counted > 1_500);
}

/// A Tempo whose data stays in young blocks for hours.
fn lagging() -> Config {
    let mut config = Config::new(Version::V3_0_3, Population::empty());
    let long = Duration::from_secs(10 * 3_600);
    config.timing.ingestion_slack = long;
    config.timing.query_backend_after = long;
    config.timing.block_duration = long;
    config
}

/// The part of a trace that has its root, or another part.
fn part(number: u64, root: bool, start_ns: u64, ms: u64, failed: bool) -> TraceFragment {
    let end_ns = start_ns + ms * 1_000_000;
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let mut span = match root {
        true => Span::root(1, "shop", "GET /", start_ns, end_ns),
        false => Span::child(2, 1, "cart", "add", start_ns, end_ns),
    };
    if failed {
        span.status = SpanStatus::Error;
    }
    TraceFragment::new(id, vec![span])
}

fn push(control: &Control, parts: impl IntoIterator<Item = TraceFragment>) {
    parts.into_iter().for_each(|part| control.push(part));
    control.flush();
}

async fn late_improvements(job: impl Fn(Job) -> Job) {
    let scene = Scene::new(lagging()).await;
    // In a quarter of an hour of its own, and some in the one before.
    let from = (Utc::now().timestamp() - 3 * HOUR_S) / 900 * 900;
    let at_ns = |number: u64| from as u64 * SECOND_NS + 10 * SECOND_NS + number * 1_000_000;
    let control = &scene.control;
    push(
        control,
        (0..40).map(|number| part(number, true, at_ns(number), 10, false)),
    );
    push(
        control,
        (40..50).map(|number| part(number, false, at_ns(number), 10, false)),
    );
    let job = job(job_over(from));
    scene.run(&job).await.expect(0);
    let said = equals_a_recount(&scene).await;
    assert_eq!(samples(&said, "GET /"), 40);
    assert!(
        of(&said, "GET /", "everything").unwrap()["p99_ms"]
            .as_f64()
            .unwrap()
            < 11.0
    );

    // Durations grow, errors come, and roots: one of them before the quarter of an hour that its trace was in.
    push(
        control,
        (0..20).map(|number| part(number, false, at_ns(number) + 50_000_000, 150, number < 5)),
    );
    push(
        control,
        (40..48).map(|number| part(number, true, at_ns(number), 400, false)),
    );
    push(
        control,
        [part(49, true, (from - 5) as u64 * SECOND_NS, 20_000, false)],
    );
    let (from, to) = (rfc3339(from - 900), rfc3339(from + 900));
    let refetch = ["refetch", "shop", "--from", &from, "--to", &to, "--yes"];
    scene.command(&refetch).await.expect(0);
    scene.command(&["work", "--drain"]).await.expect(0);
    let said = equals_a_recount(&scene).await;
    assert_eq!(samples(&said, "GET /"), 49);
    let everything = of(&said, "GET /", "everything").unwrap();
    assert!(
        everything["p99_ms"].as_f64().unwrap() > 15_000.0,
        "{everything}"
    );
    assert!(
        everything["p50_ms"].as_f64().unwrap() > 100.0,
        "{everything}"
    );
    if let Some(rate) = everything["error_rate"].as_f64() {
        assert!((rate - 5.0 / 49.0).abs() < 1e-9, "{everything}");
    }
    let first = everything["first_at"].as_str().unwrap();
    assert_eq!(
        first,
        rfc3339(
            chrono::DateTime::parse_from_rfc3339(&from)
                .unwrap()
                .timestamp()
                + 895
        )
    );
}

fn job_over(from: i64) -> Job {
    job(0).range(from - 900, from + 900)
}

#[tokio::test]
async fn what_is_improved_later_counts_as_it_is_then() {
    late_improvements(|job| job).await;
}

#[tokio::test]
async fn what_is_improved_later_counts_as_it_is_then_with_services() {
    late_improvements(Job::services).await;
}

#[tokio::test]
async fn what_is_improved_later_counts_as_it_is_then_with_spans() {
    late_improvements(|job| job.spans("")).await;
}

#[tokio::test]
async fn the_newest_that_counts_says_where_history_begins() {
    let quarter_ns = DAY_S as u64 * SECOND_NS + 900 * SECOND_NS;
    let root = |start_ns| Span::root(1, "shop", "GET /", start_ns, start_ns + 20 * SECOND_NS);
    let child = |start_ns| Span::child(2, 1, "cart", "add", start_ns, start_ns + SECOND_NS);
    // A span in the quarter of an hour after its trace's, and a trace without a root in a later one.
    let traces = [
        TraceFragment::new(
            [1; 16],
            vec![root(quarter_ns - SECOND_NS), child(quarter_ns + SECOND_NS)],
        ),
        TraceFragment::new([2; 16], vec![child(quarter_ns + 1_000 * SECOND_NS)]),
    ];
    for (detail, counted_to) in [("services", DAY_S + 900), ("spans", DAY_S + 2_700)] {
        let population = Population::from_traces(traces.to_vec());
        let scene = Scene::new(Config::new(Version::V3_0_3, population)).await;
        let job = match detail {
            "spans" => job(1).spans(""),
            _ => job(1).services(),
        };
        scene.run(&job).await.expect(0);
        let said = equals_a_recount(&scene).await;
        assert_eq!(said["counted_to"], rfc3339(counted_to));
    }
}

#[tokio::test]
async fn what_retention_has_deleted_does_not_count() {
    let scene = Scene::new(tempo(&hours(4, 4_000))).await;
    scene.run(&job(4).services()).await.expect(0);
    let before = equals_a_recount(&scene).await;
    // In the middle of a quarter of an hour.
    let kept_s = Utc::now().timestamp() - (DAY_S + 2 * HOUR_S + 400);
    let file = scene.write(&job(4).services().retention(&format!("{kept_s}s")));
    scene.command(&["submit", &file]).await.expect(0);
    scene.command(&["prune", "shop", "--yes"]).await.expect(0);
    let after = equals_a_recount(&scene).await;
    assert_eq!(after["counted_from"], rfc3339(DAY_S + 2 * HOUR_S + 900));
    let all = |said: &Value| -> i64 {
        let everything = said["baselines"].as_array().unwrap().iter();
        everything
            .filter(|baseline| baseline["level"] == "everything")
            .map(|baseline| baseline["samples"].as_i64().unwrap())
            .sum()
    };
    assert_eq!(all(&before), 4_000);
    let kept = "SELECT count(*) FROM harvest.traces WHERE started_at >= '2026-03-01T02:15:00Z'";
    assert_eq!(all(&after), scene.number(kept).await);

    // A reset leaves nothing behind, and what is collected again counts once.
    scene
        .command(&["dataset", "reset", "shop", "--yes"])
        .await
        .expect(0);
    assert_eq!(
        scene.number("SELECT count(*) FROM harvest.baselines").await,
        0
    );
    scene.run(&job(4).services()).await.expect(0);
    assert_eq!(equals_a_recount(&scene).await, before);
}

#[tokio::test]
async fn work_keeps_them_up_to_date_and_any_number_may_ask_at_once() {
    let scene = Scene::new(tempo(&hours(4, 2_000))).await;
    let file = scene.write(&job(4).backfill("[baseline]\nevery = \"1s\""));
    scene.command(&["submit", &file]).await.expect(0);
    let work = scene.start(&["work"]);
    scene
        .until("SELECT coalesce(sum(samples), 0) = 2000 FROM harvest.baselines WHERE level = 'everything'")
        .await;
    work.signal(rustix::process::Signal::TERM);
    work.end().await.expect(0);

    // Something to do for all of them, and only one can.
    scene
        .execute("UPDATE harvest.baseline_states SET recount = true")
        .await;
    let asked: Vec<Process> = (0..4)
        .map(|_| scene.start(&["baseline", "--json"]))
        .collect();
    for asked in asked {
        asked.end().await.expect(0);
    }
    let said = equals_a_recount(&scene).await;
    assert_eq!(said["baselines"].as_array().unwrap().len(), 40 * (4 + 2));
}

#[tokio::test]
async fn traces_deleted_by_hand_are_noticed_when_what_they_were_is_to_be_taken_away() {
    let scene = Scene::new(tempo(&hours(1, 400))).await;
    scene.run(&job(1)).await.expect(0);
    scene
        .execute("UPDATE harvest.baseline_cells SET samples = 1, judged = 0, errors = 0")
        .await;
    scene
        .execute("UPDATE harvest.traces SET end_ns = start_ns + 1000000")
        .await;
    // More is known of each trace now, and each is counted as it is instead of as it was.
    scene.run(&job(1).services()).await.expect(0);
    let said = equals_a_recount(&scene).await;
    assert!(said["baselines"].as_array().unwrap().len() > 40);
}

#[tokio::test]
async fn a_duration_is_held_against_the_narrowest_baseline_that_knows_enough() {
    // Sunday, midnight to two o'clock: 40 traces of 100 to 139 ms in the first hour, five in the second.
    let start_ns = |s: i64| (DAY_S + s) as u64 * SECOND_NS;
    let traces = (0..45).map(|number| {
        let start_ns = start_ns(if number < 40 { 600 } else { 4_200 } + number as i64);
        part(number, true, start_ns, 100 + number, false)
    });
    let config = Config::new(Version::V3_0_3, Population::from_traces(traces.collect()));
    let scene = Scene::new(config).await;
    scene.run(&job(3)).await.expect(0);
    let check = async |duration: &str, at: &str, code: i32| {
        let arguments = [
            "baseline", "check", "shop", "GET /", duration, "--at", at, "--json",
        ];
        scene.command(&arguments).await.expect(code).json()
    };
    let first = "2026-03-08T00:30:00Z";
    let normal = check("120ms", first, 0).await;
    assert_eq!(
        (&normal["verdict"], &normal["level"]),
        (&"normal".into(), &"hour".into())
    );
    assert_eq!(normal["baseline"]["samples"], 40);
    let rank = normal["percentile_rank"].as_f64().unwrap();
    assert!((48.0..=53.0).contains(&rank), "{normal}");
    assert_eq!(check("1s", first, 3).await["verdict"], "slow");
    assert_eq!(check("1ms", first, 3).await["verdict"], "fast");
    // The second hour knows too little, weekdays nothing.
    let fallen_back = check("120ms", "2026-03-08T01:30:00Z", 0).await;
    assert_eq!(
        (&fallen_back["level"], &fallen_back["slot"]["hour"]),
        (&"day type".into(), &1.into())
    );
    let monday = check("120ms", "2026-03-02T00:30:00Z", 0).await;
    assert_eq!(monday["level"], "everything");
    assert_eq!(monday["baseline"]["samples"], 45);
    let unknown = ["baseline", "check", "shop", "GET /x", "120ms"];
    let unknown = scene.command(&unknown).await.expect(1);
    insta::assert_snapshot!(unknown.stdout, @"unknown: of shop: GET /x there are 0 samples, and it takes 30");
    insta::assert_snapshot!(unknown.stderr, @"did you mean `shop: GET /`?");
    let second = [
        "baseline",
        "check",
        "shop",
        "GET /",
        "1s",
        "--at",
        "2026-03-08T01:30:00Z",
    ];
    insta::assert_snapshot!(scene.command(&second).await.expect(3).stdout, @r"
    slow: 1.00 s of shop: GET / is +77.9 MADs from the median, longer than 100.0 %
      held against weekends (weekend 01h has too few samples), UTC: 45 samples, p50 122 ms, p95 142 ms, p99 144 ms, MAD 11.3 ms, errors unknown
      durations are whole milliseconds, lower bounds until Tempo has compacted; percentiles within 0.4 %
    ");
    insta::assert_snapshot!(scene.command(&["baseline", "shop"]).await.expect(0).stdout, @r"
    shop  (2026-02-22T01:15:00Z … 2026-03-01T01:15:00Z; hours of UTC; detail trace)
      durations are whole milliseconds, lower bounds until Tempo has compacted; percentiles within 0.4 %

      shop: GET /  (2026-03-01T00:10:00Z … 2026-03-01T01:10:44Z)
                    samples    errors       p50       p95       p99       MAD
      everything         45   unknown    122 ms    142 ms    144 ms   11.3 ms
      weekends           45   unknown    122 ms    142 ms    144 ms   11.3 ms
      weekend 00h        40   unknown    119 ms    137 ms    139 ms   9.73 ms
      weekend 01h         5   unknown    142 ms    144 ms    144 ms   1.02 ms  too few, weekends are used
    ");
    let coverage = scene.command(&["baseline", "--coverage"]).await.expect(0);
    insta::assert_snapshot!(coverage.stdout, @r"
    shop  (2026-02-22T01:15:00Z … 2026-03-01T01:15:00Z; hours of UTC; detail trace)
      durations are whole milliseconds, lower bounds until Tempo has compacted; percentiles within 0.4 %
      # at least 30 samples   + fewer   . none
      0 of 1 operations have enough in all 48 hours

      shop: GET /: 1 of 48
               0     6     12    18     hour of day
      weekday  ........................
      weekend  #+......................
    ");
    insta::assert_snapshot!(scene.command(&["baseline", "shpo"]).await.expect(2).stderr, @"error: nothing is known of a service `shpo`; `tempo-harvest baseline` lists what is (roots of traces; --spans for all, with detail spans)");
    let dataset = scene
        .command(&["baseline", "--job", "shpo"])
        .await
        .expect(2);
    insta::assert_snapshot!(dataset.stderr, @"error: there is no job and no dataset `shpo`; `tempo-harvest status` lists them");
    let wrong = ["baseline", "check", "shop", "GET /", "120"];
    insta::assert_snapshot!(scene.command(&wrong).await.expect(2).stderr, @"error: DURATION is not a duration: `120`; add a unit, such as `s`, `m`, `h` or `d`");
}
