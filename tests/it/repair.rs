//! `gaps`, `repair` and `refetch`: what is missing is fetched again and nothing else, and what is there is improved.

use sqlx::query;
use tempo_harvest::simulator::{Fault, Misbehaviour};

use crate::support::harvest::{
    DAY_S, HOUR_S, Scene, hours, job, redacted, rfc3339, searched, tempo,
};

/// A time in this many hours of the day.
fn hour(hours: i64) -> i64 {
    DAY_S + hours * HOUR_S
}

/// Six hours asked for: the first two collected, the next two failed, the last two never tried.
async fn half_collected() -> Scene {
    let scene = Scene::new(tempo(&hours(6, 600))).await;
    let file = scene.write(&job(6).services().limits("max_attempts = 1"));
    let range = async |from_h, to_h, code| {
        let (from, to) = (rfc3339(hour(from_h)), rfc3339(hour(to_h)));
        let command = ["run", &file, "--from", &from, "--to", &to];
        scene.command(&command).await.expect(code);
    };
    range(0, 2, 0).await;
    scene
        .execute("UPDATE harvest.sources SET last_success_at = now() - interval '1 hour'")
        .await;
    let refusal = Fault::forever(Misbehaviour::Status(500)).on_path("/api/search");
    let refusal = scene.control.add_fault(refusal);
    range(2, 4, 1).await;
    scene.control.withdraw_fault(refusal);
    scene.command(&["submit", &file]).await.expect(0);
    // Nobody has come to fetch what the last submission planned, and nobody will.
    scene
        .execute("DELETE FROM harvest.windows WHERE state = 'queued'")
        .await;
    scene.execute("DELETE FROM apalis.jobs").await;
    scene.control.forget_requests();
    scene
}

fn hourly(from_h: i64, to_h: i64) -> Vec<(i64, i64)> {
    // Tempo's end is inclusive, so a search says what the window says.
    (from_h..to_h).map(|h| (hour(h), hour(h + 1))).collect()
}

#[tokio::test]
async fn exactly_the_gaps_are_fetched_again() {
    let scene = half_collected().await;
    let gaps = scene.command(&["gaps", "shop"]).await.expect(3);
    insta::assert_snapshot!(redacted(&gaps.stdout), @r"
    shop: 2026-03-01T02:00:00Z … 2026-03-01T04:00:00Z: failed after 1 attempts: Tempo answered 500 and said `internal server error`
    shop: 2026-03-01T04:00:00Z … 2026-03-01T06:00:00Z: never tried
    ");
    insta::assert_snapshot!(gaps.stderr, @"to fetch what could be there: tempo-harvest repair shop");

    let said = scene.command(&["repair", "shop", "--failed-only"]).await;
    insta::assert_snapshot!(said.expect(0).stdout, @r"
    shop: 2 windows on the queue (run 4): failed 2h; `tempo-harvest work` fetches them
    shop: left: never tried 2h
    ");
    scene.command(&["work", "--drain"]).await.expect(0);
    assert_eq!(searched(&scene.new_requests()), hourly(2, 4));

    // In part, cut where it is asked for.
    let (from, to) = (rfc3339(hour(4) + 600), rfc3339(hour(5) + 600));
    let part = ["repair", "shop", "--from", &from, "--to", &to];
    let said = scene.command(&part).await.expect(0);
    insta::assert_snapshot!(said.stdout, @"shop: 2 windows on the queue (run 5): never tried 1h; `tempo-harvest work` fetches them");
    let said = scene.command(&["repair", "--json"]).await.expect(0).json();
    assert_eq!(said[0]["queued_s"]["never tried"], HOUR_S);
    assert_eq!(said[0]["left_s"]["in flight"], HOUR_S);
    scene.command(&["work", "--drain"]).await.expect(0);
    let pieces = [
        (hour(4), hour(4) + 600),
        (hour(4) + 600, hour(5)),
        (hour(5), hour(5) + 600),
        (hour(5) + 600, hour(6)),
    ];
    assert_eq!(searched(&scene.new_requests()), pieces);
    scene.equals_truth((hour(0), hour(6)), true).await;

    let said = scene.command(&["repair"]).await.expect(0);
    assert_eq!(said.stdout, "shop: nothing to repair\n");
    let gaps = scene.command(&["gaps"]).await.expect(0);
    assert_eq!(gaps.stdout, "shop: no gaps in what was asked for\n");
    assert_eq!(gaps.stderr, "");
    let runs = scene.command(&["runs", "--json"]).await.expect(0).json();
    assert_eq!(runs[0]["kind"], "repair");
    assert_eq!(runs[0]["command"], "repair");
    assert_eq!(runs[0]["state"], "complete");
}

#[tokio::test]
async fn a_repair_of_a_paused_job_is_refused_and_an_unknown_one_named() {
    let scene = half_collected().await;
    scene.command(&["pause", "shop"]).await.expect(0);
    let said = scene.command(&["repair", "shop"]).await.expect(2);
    insta::assert_snapshot!(redacted(&said.stderr), @"error: job `shop` is paused since TIME by PROCESS: `tempo-harvest resume shop` first");
    // With the others it is passed over.
    let said = scene.command(&["repair"]).await.expect(1);
    insta::assert_snapshot!(redacted(&said.stderr), @"shop: job `shop` is paused since TIME by PROCESS: `tempo-harvest resume shop` first");
    let said = scene.command(&["repair", "shopp"]).await.expect(2);
    insta::assert_snapshot!(said.stderr, @"error: there is no job and no dataset `shopp`; `tempo-harvest status` lists them");
    let backwards = ["repair", "shop", "--from", "2d ago", "--to", "3d ago"];
    scene.command(&backwards).await.expect(2);
    assert_eq!(scene.number("SELECT count(*) FROM apalis.jobs").await, 0);
}

#[tokio::test]
async fn fetched_again_it_is_improved_and_stays_covered() {
    let scene = Scene::new(tempo(&hours(3, 300))).await;
    scene.run(&job(3).services()).await.expect(0);
    let (from, to) = (rfc3339(hour(1)), rfc3339(hour(2) + 60));
    let command = ["refetch", "shop", "--from", &from, "--to", &to];
    // As if Tempo had had less then.
    let spans = (hour(1), hour(2));
    let lost = query(
        "DELETE FROM harvest.traces WHERE trace_id IN (
             SELECT trace_id FROM harvest.traces WHERE extract(epoch FROM started_at) BETWEEN $1 + 10 AND $2 ORDER BY 1 LIMIT 3)",
    )
    .bind(spans.0)
    .bind(spans.1)
    .execute(&scene.pool)
    .await
    .unwrap();
    assert_eq!(lost.rows_affected(), 3);
    let poorer = query(
        "UPDATE harvest.traces SET root_service = NULL, root_name = NULL WHERE trace_id IN (
             SELECT trace_id FROM harvest.traces
             WHERE extract(epoch FROM started_at) BETWEEN $1 + 10 AND $2 AND root_service IS NOT NULL ORDER BY 1 LIMIT 5)",
    )
    .bind(spans.0)
    .bind(spans.1)
    .execute(&scene.pool)
    .await
    .unwrap();
    assert_eq!(poorer.rows_affected(), 5);
    scene.control.forget_requests();

    let refused = scene.command(&command).await.expect(2);
    assert!(
        refused
            .stderr
            .contains("this fetches all of it again; say --yes"),
        "{}",
        refused.stderr
    );
    let open = "SELECT count(*) FROM harvest.windows WHERE state IN ('queued', 'running')";
    assert_eq!(scene.number(open).await, 0);
    let said = scene
        .command(&[&command[..], &["--yes"]].concat())
        .await
        .expect(0);
    let counted = scene
        .number("SELECT count(*) FROM harvest.traces WHERE extract(epoch FROM started_at) >= 1772326800 AND extract(epoch FROM started_at) < 1772330460")
        .await;
    let expected = format!("{counted} traces stored there");
    assert!(said.stdout.contains(&expected), "{}", said.stdout);
    insta::assert_snapshot!(said.stdout.replace(&expected, "N traces stored there"), @r"
    shop: 2026-03-01T01:00:00Z … 2026-03-01T02:01:00Z: 2 windows, covered 1h 1m, N traces stored there
    shop: 2 windows on the queue (run 2); `tempo-harvest work` fetches them, `tempo-harvest runs` says what they added
    ");
    let status = scene.command(&["status", "--json"]).await.expect(0).json();
    assert_eq!(status[0]["complete"], true, "{status}");
    // What is on the queue is not put there twice.
    let again = scene
        .command(&[&command[..], &["--yes"]].concat())
        .await
        .expect(0);
    insta::assert_snapshot!(again.stdout, @"shop: nothing to fetch again in 2026-03-01T01:00:00Z … 2026-03-01T02:01:00Z; left out: in flight 1h 1m");

    scene.command(&["work", "--drain"]).await.expect(0);
    let windows = [(hour(1), hour(2)), (hour(2), hour(2) + 60)];
    assert_eq!(searched(&scene.new_requests()), windows);
    scene.equals_truth((hour(0), hour(3)), true).await;
    let runs = scene.command(&["runs", "--json"]).await.expect(0).json();
    assert_eq!(runs[0]["kind"], "refetch");
    assert_eq!(runs[0]["new"], 3);
    assert_eq!(runs[0]["improved"], 5);
    // It is no later look at what a poll had.
    let looks = "SELECT count(*) FROM harvest.windows WHERE earlier_look IS NOT NULL";
    assert_eq!(scene.number(looks).await, 0);
    let outside = [
        "refetch",
        "shop",
        "--from",
        "2026-01-01T00:00:00Z",
        "--to",
        "2026-01-02T00:00:00Z",
    ];
    let said = scene.command(&outside).await.expect(0);
    insta::assert_snapshot!(said.stdout, @"shop: nothing to fetch again in 2026-01-01T00:00:00Z … 2026-01-02T00:00:00Z; left out: not covered 1d");
}

#[tokio::test]
async fn a_refetch_that_fails_takes_nothing_away() {
    let scene = Scene::new(tempo(&hours(2, 100))).await;
    scene
        .run(&job(2).services().limits("max_attempts = 1"))
        .await
        .expect(0);
    scene
        .execute("UPDATE harvest.sources SET last_success_at = now() - interval '1 hour'")
        .await;
    let (from, to) = (rfc3339(hour(0)), rfc3339(hour(2)));
    let command = [
        "refetch", "shop", "--from", &from, "--to", &to, "--yes", "--json",
    ];
    let said = scene.command(&command).await.expect(0).json();
    assert_eq!(said["windows"], 2);
    scene
        .control
        .add_fault(Fault::forever(Misbehaviour::Status(500)));
    scene.command(&["work", "--drain"]).await.expect(0);
    scene.equals_truth((hour(0), hour(2)), true).await;
    scene.command(&["gaps"]).await.expect(0);
    let runs = scene.command(&["runs", "--json"]).await.expect(0).json();
    assert_eq!(runs[0]["state"], "failed");
}

/// A poll that has run for six hours, as the ledger has it, and what it has left behind.
const POLLED: &str = "
    WITH run AS (
        INSERT INTO harvest.runs (job, dataset, kind, requested, settle_s, catch_up_s, command, submitted_by)
        VALUES ('shop', 'shop', 'poll', tstzrange(edge() - interval '6 hours', edge()), 3600, 18000, 'work', 'x') RETURNING id
    ), looked AS (
        INSERT INTO harvest.windows (run_id, dataset, source, look, span, state, priority, queue_at, settle_s, finished_at, returned,
                                     stored_new, improved, earlier_look)
        SELECT id, 'shop', 'simulator', 'settled', tstzrange(edge() - interval '2 hours', edge() - interval '1 hour'), 'done', 0, now(), 0,
               now(), 400, 3, 12, 'fresh' FROM run
    )
    INSERT INTO harvest.coverage (dataset, look, covered) VALUES
        ('shop', 'fresh', tstzmultirange(tstzrange(edge() - interval '3 hours', edge() - interval '40 minutes'),
                                         tstzrange(edge() - interval '30 minutes', edge()))),
        ('shop', 'sealed', tstzmultirange(tstzrange(edge() - interval '4 hours', edge() - interval '3 hours')))";

#[tokio::test]
async fn what_a_poll_left_behind_is_told_from_what_it_will_look_at_again() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let file = scene.write(&job(1));
    scene.command(&["submit", &file]).await.expect(0);
    for statement in [
        "DELETE FROM harvest.runs",
        "CREATE FUNCTION edge() RETURNS timestamptz LANGUAGE sql AS $$ SELECT date_trunc('second', now()) - interval '1 minute' $$",
        POLLED,
        "UPDATE harvest.jobs SET lookback_s = 240, lookback_widened_at = '2026-03-01T00:00:00Z'",
    ] {
        scene.execute(statement).await;
    }
    let gaps = scene.command(&["gaps", "shop", "--json"]).await.expect(3);
    let gaps = gaps.json();
    let seen: Vec<(&str, i64)> = gaps
        .as_array()
        .unwrap()
        .iter()
        .map(|gap| {
            let minutes = (gap["seconds"].as_f64().unwrap() / 60.0).round();
            (gap["reason"].as_str().unwrap(), minutes as i64)
        })
        .collect();
    let [given_up, never, too_long, provisional, hole, newest] = seen.as_slice() else {
        panic!("{seen:?}");
    };
    assert_eq!(given_up.0, "not caught up");
    assert_eq!(never.0, "never tried");
    assert_eq!(given_up.1 + never.1, 120);
    assert_eq!(too_long.0, "provisional too long");
    assert_eq!(provisional.0, "provisional");
    assert_eq!(too_long.1 + provisional.1, 140);
    assert_eq!(*hole, ("never tried", 10));
    assert_eq!(*newest, ("provisional", 30));

    let status = scene.command(&["status", "--json"]).await.expect(0).json();
    let live = &status[0]["live"];
    assert!(
        (60..=240).contains(&live["behind_s"].as_i64().unwrap()),
        "{live}"
    );
    assert!(live["provisional_s"].as_i64().unwrap() > 3_600, "{live}");
    assert_eq!(live["lookback_widened"][0]["lookback_s"], 240);
    assert_eq!(live["later_looks_24h"][0]["new"], 3);
    let status = scene.command(&["status"]).await.expect(0).stdout;
    for line in [
        "  in 24 h the settled look found 3 traces that an earlier look had missed, and more of 12, of 400 in all\n",
        "  lookback of job shop is widened to 4m since 2026-03-01T00:00:00Z: late spans came later than it looked\n",
    ] {
        assert!(status.contains(line), "{status}");
    }
    assert!(status.contains("  live edge "), "{status}");

    // What can be sealed is planned; the hole is too young, and what is provisional is looked at anyway.
    let said = scene
        .command(&["repair", "shop", "--json"])
        .await
        .expect(0)
        .json();
    let queued = &said[0]["queued_s"];
    for reason in ["not caught up", "never tried", "provisional too long"] {
        assert!(queued[reason].as_i64().unwrap() > 0, "{said}");
    }
    assert_eq!(queued["provisional"], serde_json::Value::Null);
    assert!(
        said[0]["left_s"]["too young to be sealed"]
            .as_i64()
            .unwrap()
            >= 600,
        "{said}"
    );
}
