//! `verify`: what is stored is what Tempo has, or it is said what is not, and mended.

use chrono::Utc;
use serde_json::Value;
use sqlx::query_scalar;
use tempo_harvest::simulator::{Burst, Config, Fault, GenerateSettings, Misbehaviour};

use crate::support::harvest::{
    DAY_S, HOUR_S, Said, Scene, at, hours, job, redacted, rfc3339, tempo,
};

/// The verdicts of a report, hour by hour.
fn verdicts(report: &Value) -> Vec<&str> {
    let hours = report["hours"].as_array().unwrap().iter();
    hours
        .map(|hour| hour["verdict"].as_str().unwrap())
        .collect()
}

/// All IDs that a report names under a key, ascending.
fn named(report: &Value, key: &str) -> Vec<String> {
    let hours = report["hours"].as_array().unwrap().iter();
    let ids = hours.flat_map(|hour| hour[key].as_array().unwrap().clone());
    let mut ids: Vec<String> = ids
        .map(|id| id.as_str().or(id["trace_id"].as_str()).unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

impl Scene {
    async fn verify(&self, arguments: &[&str]) -> Said {
        self.command(&[&["verify", "shop"], arguments].concat())
            .await
    }

    async fn verify_json(&self, arguments: &[&str], code: i32) -> Value {
        let arguments = [arguments, &["--json"]].concat();
        self.verify(&arguments).await.expect(code).json()
    }

    /// Deletes seven traces of the second hour by hand, and inserts seven that Tempo never had; returns the IDs of both.
    async fn tamper(&self) -> [Vec<String>; 2] {
        let second_hour = "dataset = 'shop' AND started_at >= '2026-03-01T01:00:00Z' AND started_at < '2026-03-01T02:00:00Z' AND root_name IS NOT NULL";
        let inserted = format!(
            "INSERT INTO harvest.traces (dataset, trace_id, started_at, start_ns, end_ns, root_service, root_name)
             SELECT dataset, decode(md5(encode(trace_id, 'hex')), 'hex'), started_at, start_ns, end_ns, root_service, root_name
             FROM harvest.traces WHERE {second_hour} ORDER BY trace_id DESC LIMIT 7 RETURNING encode(trace_id, 'hex')"
        );
        let deleted = format!(
            "DELETE FROM harvest.traces WHERE (dataset, trace_id) IN (
                 SELECT dataset, trace_id FROM harvest.traces WHERE {second_hour} ORDER BY trace_id LIMIT 7) RETURNING encode(trace_id, 'hex')"
        );
        let mut ids = [Vec::new(), Vec::new()];
        for (ids, sql) in ids.iter_mut().zip([deleted, inserted]) {
            *ids = query_scalar(sqlx::AssertSqlSafe(sql))
                .fetch_all(&self.pool)
                .await
                .unwrap();
            ids.sort();
            assert_eq!(ids.len(), 7);
        }
        // What was to be deleted must not be what was inserted.
        assert!(ids[0].iter().all(|id| !ids[1].contains(id)));
        ids
    }
}

/// Traces in three of five hours, over the limit here and there: one second has more than an answer may bring, some last over an
/// hour's edge, and the last hours are empty.
fn crowded() -> Config {
    let mut settings = hours(3, 2_400);
    settings.long_traces = 40;
    settings.bursts = vec![Burst {
        at_s: DAY_S + HOUR_S + 1_799,
        traces: 1_200,
    }];
    tempo(&settings)
}

#[tokio::test]
async fn what_is_all_there_is_equal_hour_by_hour_and_empty_hours_too() {
    let scene = Scene::new(crowded()).await;
    scene.run(&job(5)).await.expect(0);
    scene.control.forget_requests();

    let report = scene.verify_json(&[], 0).await;
    assert_eq!(verdicts(&report), ["equal"; 5]);
    assert_eq!(report["depth"], "counts");
    let counted: i64 = report["hours"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hour| hour["in_tempo"].as_i64().unwrap())
        .sum();
    assert_eq!(counted, 3_640);
    assert_eq!(report["hours"][4]["in_tempo"], 0);
    // None was asked for alone.
    assert!(scene.new_requests().len() <= 2);
    let (from, to) = (rfc3339(DAY_S + 4 * HOUR_S), rfc3339(DAY_S + 5 * HOUR_S));
    let empty = scene.verify_json(&["--from", &from, "--to", &to], 0).await;
    assert_eq!(verdicts(&empty), ["equal"]);
    // Not even from the middle of an hour on.
    let from = rfc3339(DAY_S + 3 * HOUR_S + 1_861);
    let part = scene.verify_json(&["--from", &from], 0).await;
    assert_eq!(verdicts(&part), ["equal"; 2]);

    let deep = scene.verify_json(&["--deep"], 0).await;
    assert_eq!(verdicts(&deep), ["equal"; 5]);
    assert_eq!(deep["hours"][1]["here"], deep["hours"][1]["in_tempo"]);
    assert_eq!(deep["verdicts"]["equal"], 5);
    // Everything was listed with a query, and in other windows than it was collected in.
    let searches: Vec<_> = scene
        .new_requests()
        .into_iter()
        .filter(|request| request.path == "/api/search")
        .collect();
    assert!(searches.iter().all(|request| request.param("q").is_some()));
    let collected = |second: i64| (second - DAY_S) % HOUR_S == 0;
    let edges = |request: &tempo_harvest::simulator::RequestRecord| {
        let edge = |name| request.param(name).unwrap().parse().unwrap();
        collected(edge("start")) && collected(edge("end"))
    };
    assert!(!searches.is_empty() && !searches.iter().any(edges));

    let kept = scene
        .number("SELECT count(*) FROM harvest.verdicts WHERE verdict = 'equal' AND span = tstzrange(hour, hour + interval '1 hour')")
        .await;
    assert_eq!(kept, 10);
    let status = scene.command(&["status"]).await.expect(0).stdout;
    assert!(
        redacted(&status)
            .contains("  verified deep: 5 h equal (TIME); by counts: 5 h equal (TIME)\n"),
        "{status}"
    );
    // Verification has added nothing to what requests of windows tell.
    let of_windows = "SELECT count(*) FROM harvest.fetches WHERE window_id = 0";
    assert_eq!(scene.number(of_windows).await, 0);
}

#[tokio::test]
async fn deleted_and_inserted_traces_fool_counts_and_not_a_list() {
    let scene = Scene::new(crowded()).await;
    scene.run(&job(3).services()).await.expect(0);
    let [deleted, inserted] = scene.tamper().await;

    let fooled = scene.verify_json(&[], 0).await;
    assert_eq!(verdicts(&fooled), ["equal"; 3]);
    let deep = scene.verify_json(&["--deep"], 3).await;
    assert_eq!(verdicts(&deep), ["equal", "missing and more here", "equal"]);
    assert_eq!(named(&deep, "missing_ids"), deleted);
    assert_eq!(named(&deep, "more_here_ids"), inserted);
    assert_eq!(
        deep["hours"][1]["more_here_ids"][0]["standing"],
        "not in Tempo"
    );
    let said = scene.verify(&["--deep"]).await.expect(3).stdout;
    for id in deleted.iter().chain(&inserted) {
        assert!(said.contains(id), "{id}: {said}");
    }
    assert!(said.contains("missing 7, more here 7"), "{said}");

    // Somebody has to say yes.
    let refused = scene.verify(&["--deep", "--repair"]).await.expect(2);
    insta::assert_snapshot!(refused.stderr, @"error: shop: 3600 s to fetch again, 0 hours not completely collected, 7 traces to take out that Tempo does not have: this fetches from Tempo, and moves what is taken out to harvest.removed_traces; say --yes");
    let repaired = scene.verify_json(&["--deep", "--repair", "--yes"], 0).await;
    assert_eq!(verdicts(&repaired), ["equal"; 3]);
    assert_eq!(repaired["repair"]["removed"], 7);
    assert_eq!(repaired["repair"]["fetched_again"]["windows"], 1);
    scene.equals_truth((DAY_S, DAY_S + 3 * HOUR_S), true).await;
    let again = scene.verify_json(&["--deep"], 0).await;
    assert_eq!(verdicts(&again), ["equal"; 3]);
    let removed =
        "SELECT count(*) FROM harvest.removed_traces WHERE trace->>'root_name' IS NOT NULL";
    assert_eq!(scene.number(removed).await, 7);
    let runs = scene.command(&["runs", "--json"]).await.expect(0).json();
    assert_eq!(runs[0]["command"], "verify");
}

#[tokio::test]
async fn what_is_missing_by_counts_is_fetched_again() {
    let scene = Scene::new(tempo(&hours(3, 600))).await;
    scene.run(&job(3).services()).await.expect(0);
    scene
        .execute("DELETE FROM harvest.traces WHERE trace_id IN (SELECT trace_id FROM harvest.traces WHERE started_at >= '2026-03-01T02:10:00Z' LIMIT 3)")
        .await;
    let report = scene.verify(&[]).await.expect(3).stdout;
    assert!(report.contains("  missing 3\n"), "{report}");
    assert!(report.contains("3 hours: 2 equal, 1 missing;"), "{report}");
    let repaired = scene.verify_json(&["--repair", "--yes"], 0).await;
    assert_eq!(verdicts(&repaired), ["equal"; 3]);
    scene.equals_truth((DAY_S, DAY_S + 3 * HOUR_S), true).await;
    let unneeded = scene.verify_json(&["--repair"], 0).await;
    assert_eq!(unneeded["repair"], Value::Null);
}

#[tokio::test]
async fn a_tempo_that_does_not_count_is_unknown_and_never_equal() {
    let scene = Scene::new(tempo(&hours(2, 100))).await;
    scene.run(&job(3)).await.expect(0);
    scene.control.enable_metrics(false);
    let report = scene.verify_json(&[], 3).await;
    assert_eq!(verdicts(&report), ["unknown"; 3]);
    let reason = report["hours"][2]["reason"].as_str().unwrap();
    assert!(reason.contains("no series at all"), "{reason}");
    assert_eq!(report["hours"][0]["in_tempo"], Value::Null);
    let deep = scene.verify_json(&["--deep"], 0).await;
    assert_eq!(verdicts(&deep), ["equal"; 3]);
}

#[tokio::test]
async fn a_tempo_that_fails_is_unknown_with_its_own_words() {
    let scene = Scene::new(tempo(&hours(2, 100))).await;
    scene.run(&job(2)).await.expect(0);
    let down = Fault::forever(Misbehaviour::Status(403));
    scene.control.add_fault(down);
    for depth in [&[][..], &["--deep"]] {
        let report = scene.verify_json(depth, 3).await;
        assert_eq!(verdicts(&report), ["unknown"; 2]);
        let reason = report["hours"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("403"), "{reason}");
    }
}

#[tokio::test]
async fn ranges_are_counted_in_parts_where_the_server_allows_less() {
    let mut config = tempo(&hours(7, 700));
    config.limits.metrics_max_duration = std::time::Duration::from_secs(3 * 3_600);
    let scene = Scene::new(config).await;
    scene.run(&job(7)).await.expect(0);
    let report = scene.verify_json(&[], 0).await;
    assert_eq!(verdicts(&report), ["equal"; 7]);
}

#[tokio::test]
async fn a_filtered_query_is_answered_by_a_list_only() {
    let scene = Scene::new(tempo(&hours(2, 400))).await;
    let job = job(2).query("{ resource.service.name = \"cart\" }");
    scene.run(&job).await.expect(0);
    let report = scene.verify_json(&[], 3).await;
    assert_eq!(verdicts(&report), ["unknown"; 2]);
    let reason = report["hours"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("only --deep answers"), "{reason}");
    let deep = scene.verify_json(&["--deep"], 0).await;
    assert_eq!(verdicts(&deep), ["equal"; 2]);
    assert!(deep["hours"][0]["here"].as_i64().unwrap() > 0);
    scene.tamper().await;
    let deep = scene.verify_json(&["--deep"], 3).await;
    assert_eq!(verdicts(&deep), ["equal", "missing and more here"]);
}

#[tokio::test]
async fn whole_spans_are_verified_too() {
    let scene = Scene::new(tempo(&hours(2, 200))).await;
    scene.run(&job(2).spans("")).await.expect(0);
    let [deleted, inserted] = scene.tamper().await;
    let deep = scene.verify_json(&["--deep"], 3).await;
    assert_eq!(named(&deep, "missing_ids"), deleted);
    assert_eq!(named(&deep, "more_here_ids"), inserted);
    let repaired = scene.verify_json(&["--deep", "--repair", "--yes"], 0).await;
    assert_eq!(verdicts(&repaired), ["equal"; 2]);
}

#[tokio::test]
async fn what_has_no_root_is_unverified_by_counts() {
    let mut settings = hours(2, 200);
    settings.rootless_traces = 9;
    let scene = Scene::new(tempo(&settings)).await;
    scene.run(&job(2)).await.expect(0);
    let report = scene.verify_json(&[], 0).await;
    assert_eq!(report["rootless_unverified"], 9);
    let said = scene.verify(&[]).await.expect(0).stdout;
    assert!(
        said.ends_with(
            "shop: 9 traces without a root are unverified: counts do not see them, --deep does\n"
        ),
        "{said}"
    );
    scene
        .execute("DELETE FROM harvest.traces WHERE trace_id = (SELECT trace_id FROM harvest.traces WHERE root_service IS NULL LIMIT 1)")
        .await;
    scene.verify(&[]).await.expect(0);
    let deep = scene.verify_json(&["--deep"], 3).await;
    assert_eq!(named(&deep, "missing_ids").len(), 1);
}

#[tokio::test]
async fn what_is_not_collected_is_a_gap_and_repaired() {
    let scene = Scene::new(tempo(&hours(4, 400))).await;
    let file = scene.write(&job(4));
    let to = rfc3339(DAY_S + 2 * HOUR_S + 600);
    let part = ["run", &file, "--from", &rfc3339(DAY_S), "--to", &to];
    scene.command(&part).await.expect(0);
    scene.command(&["submit", &file]).await.expect(0);
    scene
        .execute("DELETE FROM harvest.windows WHERE state = 'queued'")
        .await;
    scene.execute("DELETE FROM apalis.jobs").await;
    let report = scene.verify_json(&[], 3).await;
    assert_eq!(verdicts(&report), ["equal", "equal", "gap", "gap"]);
    assert_eq!(
        report["hours"][2]["reason"],
        "not collected: never tried 50m"
    );
    let there = report["hours"][3]["in_tempo"].as_i64().unwrap();
    assert!(there > 0 && report["hours"][3]["here"] == 0, "{report}");
    // Nor is what nobody asked for.
    let (from, to) = (rfc3339(DAY_S - HOUR_S), rfc3339(DAY_S));
    let range = ["--from", from.as_str(), "--to", to.as_str()];
    let before = scene.verify_json(&range, 3).await;
    assert_eq!(
        before["hours"][0]["reason"],
        "not collected: never asked for 1h"
    );

    let repaired = scene.verify_json(&["--repair", "--yes"], 0).await;
    assert_eq!(verdicts(&repaired), ["equal"; 4]);
    scene.equals_truth((DAY_S, DAY_S + 4 * HOUR_S), false).await;
}

#[tokio::test]
async fn what_is_beyond_retention_or_too_young_is_said() {
    let scene = Scene::new(tempo(&hours(2, 100))).await;
    scene.run(&job(2)).await.expect(0);
    let young = ["--from", "1h ago", "--to", "10m ago"];
    let report = scene.verify_json(&young, 3).await;
    assert!(
        verdicts(&report)
            .iter()
            .all(|verdict| *verdict == "too young"),
        "{report}"
    );
    let file = scene.write(&job(2).source("retention = \"14d\""));
    scene.command(&["submit", &file]).await.expect(0);
    scene.control.forget_requests();
    let report = scene.verify_json(&["--deep"], 0).await;
    assert_eq!(verdicts(&report), ["beyond retention"; 2]);
    assert_eq!(scene.new_requests().len(), 0);
}

#[tokio::test]
async fn what_is_collected_and_not_due_is_named_and_stubs_are_no_hours() {
    // Where the hour's edge is near, the next hour is as good as begun.
    let edge = (Utc::now().timestamp() - HOUR_S + 300) / HOUR_S * HOUR_S;
    let (from, to) = (edge - HOUR_S - 4_205, edge + 600);
    let settings = GenerateSettings::new(7, at(from), at(to), 300);
    let scene = Scene::new(tempo(&settings)).await;
    let job = job(0).range(from, to).backfill("settle = \"10m\"");
    scene.run(&job).await.expect(0);
    let report = scene.verify_json(&[], 0).await;
    let not_yet = &report["not_verified_yet"][0];
    assert_eq!(not_yet["to"], rfc3339(to));
    assert_eq!(not_yet["reason"], "too young");
    assert_eq!(not_yet["until"], rfc3339(edge + 2 * HOUR_S));
    let said = scene.verify(&[]).await.expect(0).stdout;
    let ending = format!(
        " … {}: too young until {}\n",
        rfc3339(to),
        rfc3339(edge + 2 * HOUR_S)
    );
    assert!(said.contains("\nshop: not verified yet: "), "{said}");
    assert!(said.ends_with(&ending), "{said}");
    let short = [
        "1 h 10 min 5 s in 2 hours: 2 equal;",
        "2 h 10 min 5 s in 3 hours: 3 equal;",
    ];
    assert!(short.iter().any(|short| said.contains(short)), "{said}");
    let certified = scene.verify_json(&["--deep", "--certificate"], 0).await;
    assert_eq!(certified["not_verified_yet"], report["not_verified_yet"]);
    let certified = scene.verify(&["--deep", "--certificate"]).await.expect(0);
    assert!(
        certified.stdout.contains("\nnot yet     "),
        "{}",
        certified.stdout
    );
    assert!(
        certified.stdout.contains(" h 10 min 5 s in "),
        "{}",
        certified.stdout
    );
    // What was not asked about is not missed.
    let range = ["--from", &rfc3339(from), "--to", &rfc3339(from + 60)];
    let report = scene.verify_json(&range, 0).await;
    assert_eq!(report["not_verified_yet"], serde_json::json!([]));
}

#[tokio::test]
async fn what_tempo_has_lost_is_not_taken_out() {
    let scene = Scene::new(tempo(&hours(2, 20))).await;
    scene.run(&job(2)).await.expect(0);
    scene
        .execute(
            "INSERT INTO harvest.traces (dataset, trace_id, started_at, start_ns, end_ns, root_service, root_name)
             SELECT 'shop', decode(md5(n::text), 'hex'), '2026-03-01T00:30:00Z', 1772325000000000000, 1772325000000000000, 'a', 'b'
             FROM generate_series(1, 150) n",
        )
        .await;
    let report = scene.verify_json(&["--deep", "--repair", "--yes"], 3).await;
    assert_eq!(report["repair"]["removed"], 0);
    assert_eq!(report["repair"]["kept"][0]["traces"], 150);
    assert_eq!(report["hours"][0]["more_here"], 150);
    let said = scene.verify(&["--deep"]).await.expect(3).stdout;
    assert!(
        said.contains("  and 130 more: --json names all\n"),
        "{said}"
    );
}

#[tokio::test]
async fn an_unknown_job_and_impossible_arguments_are_refused() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let said = scene.verify(&[]).await.expect(2);
    insta::assert_snapshot!(said.stderr, @"error: there is no job and no dataset `shop`; `tempo-harvest status` lists them");
    scene.verify(&["--certificate"]).await.expect(2);
    scene.verify(&["--yes"]).await.expect(2);
    let file = scene.write(&job(1));
    scene.command(&["submit", &file]).await.expect(0);
    let backwards = ["--from", "1d ago", "--to", "2d ago"];
    scene.verify(&backwards).await.expect(2);
    scene.verify(&["--check", "nothing.json"]).await.expect(2);
    scene.verify(&["--check", &file]).await.expect(2);
}

#[tokio::test]
async fn a_certificate_made_twice_is_the_same_and_a_changed_row_shows_as_its_day() {
    let from = DAY_S + 22 * HOUR_S;
    let range = (from, from + 4 * HOUR_S);
    let scene = Scene::new(tempo(&hours(28, 1_400))).await;
    scene.run(&job(1).range(range.0, range.1)).await.expect(0);
    let certify = ["--deep", "--certificate"];
    let first = scene.verify_json(&certify, 0).await;
    let second = scene.verify_json(&certify, 0).await;
    assert_eq!(first["digests"], second["digests"]);
    assert_eq!(first["holds"], true);
    assert_eq!(first["verdicts"][0]["hours"], 4);
    assert_eq!(first["covered"][0]["look"], "sealed");
    assert!(first["collected_by"][0]["requests"].as_i64().unwrap() > 0);
    let days = first["digests"]["days"].as_array().unwrap();
    assert_eq!(days.len(), 2);
    assert_eq!(days[0]["day"], "2026-03-01");
    assert_eq!(days[1]["day"], "2026-03-02");
    // Anyone can compute it.
    let computed: String = query_scalar(
        r"SELECT encode(sha256(convert_to(string_agg(encode(trace_id, 'hex') || E'\t' || start_ns || E'\t' || end_ns || E'\t'
                 || coalesce(root_service, '\N') || E'\t' || coalesce(root_name, '\N') || E'\n', '' ORDER BY trace_id), 'UTF8')), 'hex')
          FROM harvest.traces WHERE started_at >= '2026-03-01T22:00:00Z' AND started_at < '2026-03-02T00:00:00Z'",
    )
    .fetch_one(&scene.pool)
    .await
    .unwrap();
    assert_eq!(days[0]["sha256"], computed);

    scene.write_file("then.json", &first.to_string());
    let same = scene.verify(&["--check", "then.json"]).await.expect(0);
    assert_eq!(
        same.stdout,
        "shop: 2026-03-01T22:00:00Z … 2026-03-02T02:00:00Z: nothing was lost or changed since\n"
    );
    scene
        .execute("UPDATE harvest.traces SET root_name = 'another' WHERE trace_id = (SELECT trace_id FROM harvest.traces WHERE started_at >= '2026-03-02' LIMIT 1)")
        .await;
    let changed = scene.verify_json(&certify, 0).await;
    assert_eq!(changed["digests"]["days"][0], days[0]);
    assert_ne!(changed["digests"]["days"][1], days[1]);
    assert_ne!(changed["digests"]["sha256"], first["digests"]["sha256"]);
    let check = scene.verify_json(&["--check", "then.json"], 3).await;
    assert_eq!(check["differences"].as_array().unwrap().len(), 1);
    assert_eq!(check["differences"][0]["day"], "2026-03-02");
    assert_eq!(check["same"], false);

    scene
        .execute("DELETE FROM harvest.traces WHERE trace_id = (SELECT trace_id FROM harvest.traces WHERE started_at >= '2026-03-02' LIMIT 1)")
        .await;
    let broken = scene.verify(&certify).await.expect(3).stdout;
    assert!(
        broken.starts_with("NO CERTIFICATE: it does not hold\n"),
        "{broken}"
    );
    assert!(!broken.contains("\nclaims "), "{broken}");
    assert!(
        broken.contains("\ndoes not claim: hours that are not `equal` here"),
        "{broken}"
    );
}

#[tokio::test]
async fn a_job_is_verified_on_schedule_while_it_works() {
    let scene = Scene::new(tempo(&hours(2, 200))).await;
    let job =
        job(2).backfill("[verify]\nschedule = \"* * * * * *\"\nlast = \"3650d\"\ndeep = true");
    let file = scene.write(&job);
    scene.command(&["run", &file]).await.expect(0);
    let checked = scene.command(&["check", &file]).await.expect(0);
    let summary = "the last 3650d verified deeply at `* * * * * *` UTC";
    assert!(checked.stdout.contains(summary), "{}", checked.stdout);
    scene
        .execute("DELETE FROM harvest.traces WHERE trace_id = (SELECT trace_id FROM harvest.traces WHERE started_at < '2026-03-01T01:00:00Z' LIMIT 1)")
        .await;
    let mut working = scene.start(&["work", &file]);
    working
        .says("verification disagrees: `tempo-harvest verify shop` says where")
        .await;
    let found = "SELECT count(*) = 2 AND bool_or(verdict = 'missing') FROM harvest.verdicts WHERE depth = 'deep'";
    scene.until(found).await;
    working.signal(rustix::process::Signal::TERM);
    working.end().await.expect(0);
}
