//! Keeping up: polls tick, later looks follow, what was missed is filled in, schedules fire, and job files are taken over
//! while `work` runs.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use rustix::process::Signal;
use sqlx::{query, query_as, query_scalar};
use tempo_harvest::simulator::{
    Config, Fault, GenerateSettings, Misbehaviour, Population, Span, TraceFragment, Version,
};

use crate::support::harvest::{DAY_S, HOUR_S, Scene, hours, rfc3339, tempo};

const SECOND_NS: u64 = 1_000_000_000;

/// A Tempo with ordinary traces from twenty minutes ago until ten minutes from now; at most 500 traces a search.
fn lively() -> Config {
    let now = Utc::now();
    let (from, to) = (now - TimeDelta::minutes(20), now + TimeDelta::minutes(10));
    tempo(&GenerateSettings::new(7, from, to, 6_000))
}

/// A job that polls every second, as close to the present as may be.
fn polling(scene: &Scene, name: &str, poll: &str) -> String {
    let file = format!("{name}.toml");
    let url = scene.simulator.url();
    scene.write_file(
        &file,
        &format!(
            "name = \"{name}\"\ndataset = \"shop\"\n[source]\nname = \"simulator\"\nurl = \"{url}\"\n\
             limits = {{ requests_per_second = 1000 }}\n[select]\ndetail = \"services\"\n[poll]\ndelay = \"30s\"\n{poll}\n"
        ),
    );
    file
}

/// Every second, looked at again after a minute, sealed after two.
const QUICK: &str = "every = \"1s\"\nlookback = \"60s\"\nseal_after = \"120s\"";

/// Asks the poll of a job that was registered to collect from so many seconds ago.
async fn asked_since(scene: &Scene, seconds: i64) {
    query("UPDATE harvest.runs SET requested = tstzrange(date_trunc('second', now()) - make_interval(secs => $1), upper(requested)) WHERE kind = 'poll'")
        .bind(seconds as f64)
        .execute(&scene.pool)
        .await
        .unwrap();
}

/// What is covered at a look: stretches in Unix seconds, ascending.
async fn covered(scene: &Scene, look: &str) -> Vec<(i64, i64)> {
    query_as(
        "SELECT extract(epoch FROM lower(part))::bigint, extract(epoch FROM upper(part))::bigint
         FROM harvest.coverage CROSS JOIN LATERAL unnest(covered) AS part WHERE dataset = 'shop' AND look = $1 ORDER BY 1",
    )
    .bind(look)
    .fetch_all(&scene.pool)
    .await
    .unwrap()
}

/// Every trace that starts in the range is stored, as it is.
async fn holds_truth(scene: &Scene, (from_s, to_s): (i64, i64)) {
    let stored = scene.stored("shop").await;
    let ns = |second: i64| second as u64 * SECOND_NS;
    let truth = scene.control.truth();
    let truth = truth
        .iter()
        .filter(|trace| (ns(from_s)..ns(to_s)).contains(&trace.start_ns));
    let mut expected = 0;
    for trace in truth {
        expected += 1;
        let row = stored.get(trace.trace_id.as_slice());
        let row = row
            .unwrap_or_else(|| panic!("a trace that starts at {} ns is missing", trace.start_ns));
        assert_eq!(row.start_ns as u64, trace.start_ns);
        assert_eq!(row.root_service.as_deref(), trace.root_service.as_deref());
        assert_eq!(row.counts.unwrap().0 as u32, trace.spans);
    }
    assert!(expected > 0, "there is nothing to collect");
}

#[tokio::test]
async fn a_poll_keeps_up_tick_after_tick_and_later_looks_seal_what_it_saw() {
    let scene = Scene::new(lively()).await;
    let file = polling(&scene, "live", QUICK);
    let begun = Utc::now().timestamp();
    let running = scene.start(&["work", "."]);
    scene
        .until("SELECT count(*) FILTER (WHERE state = 'done') >= 4 FROM harvest.windows")
        .await;
    running.signal(Signal::TERM);
    running.end().await.expect(0);
    let fresh = covered(&scene, "fresh").await;
    let [(from_s, to_s)] = fresh[..] else {
        panic!("{fresh:?}")
    };
    // It begins at the newest window, and its ticks take a second each.
    assert!(
        (begun - 36..=begun - 30).contains(&from_s),
        "{from_s} {begun}"
    );
    let lengths: i64 = query_scalar("SELECT max(extract(epoch FROM upper(span) - lower(span)))::bigint FROM harvest.windows WHERE look = 'fresh'")
        .fetch_one(&scene.pool)
        .await
        .unwrap();
    assert!(lengths <= 3, "{lengths}");
    holds_truth(&scene, (from_s, to_s)).await;

    // Nobody was there for ten minutes, as it were: what is due then is looked at again, and sealed.
    asked_since(&scene, 600).await;
    scene.command(&["work", "--drain", &file]).await.expect(0);
    let now = Utc::now().timestamp();
    let looked: Vec<(i64, i64)> = covered(&scene, "sealed").await;
    assert_eq!(looked.len(), 1, "{looked:?}");
    assert!(
        looked[0].0 <= now - 599 && looked[0].1 >= now - 125,
        "{looked:?} {now}"
    );
    let settled = covered(&scene, "settled").await;
    assert!(settled.last().unwrap().1 >= now - 65, "{settled:?} {now}");
    holds_truth(&scene, (now - 595, now - 36)).await;
    // Once more: nothing that was due is due again.
    scene.new_requests();
    scene.command(&["work", "--drain", &file]).await.expect(0);
    assert!(scene.new_requests().len() <= 6);
}

/// A trace that starts and ends in this second, its root among what is sent first or not.
fn spans(number: u64, second: i64, root: bool) -> TraceFragment {
    let start_ns = second as u64 * SECOND_NS + number;
    let mut id = [7; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let span = match root {
        true => Span::root(1, "shop", "GET /", start_ns, start_ns + 20_000_000),
        false => Span::child(
            2,
            1,
            "cart",
            "add",
            start_ns + 1_000_000,
            start_ns + 5_000_000,
        ),
    };
    TraceFragment::new(id, vec![span])
}

#[tokio::test]
async fn what_a_later_look_added_is_recorded_and_lookback_widened_when_sealing_keeps_finding_more()
{
    let mut config = Config::new(Version::V3_0_3, Population::empty());
    config.timing.ingestion_slack = Duration::from_secs(36_000);
    config.timing.query_backend_after = Duration::from_secs(36_000);
    config.timing.block_duration = Duration::from_secs(36_000);
    let scene = Scene::new(config).await;
    let file = polling(
        &scene,
        "live",
        "every = \"5s\"\nlookback = \"60s\"\nseal_after = \"120s\"\nlookback_max = \"80s\"",
    );
    scene.command(&["work", "--drain", &file]).await.expect(0);
    let [first] = covered(&scene, "fresh").await[..] else {
        panic!("one window")
    };
    // Spans come after the fresh look, a whole trace and the root of another.
    scene.control.push(spans(1, first.0, false));
    scene.control.flush();
    scene.execute("DELETE FROM harvest.coverage").await;
    asked_since(&scene, 55).await;
    scene.command(&["work", "--drain", &file]).await.expect(0);
    assert_eq!(scene.stored("shop").await.len(), 1);
    scene.control.push(spans(1, first.0, true));
    scene.control.push(spans(2, first.0, true));
    scene.control.flush();
    // A minute passes: as far as the ledger goes, everything is a minute older.
    scene
        .execute("DELETE FROM harvest.coverage WHERE look <> 'fresh'")
        .await;
    while Utc::now().timestamp() < first.1 + 64 {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    scene.command(&["work", "--drain", &file]).await.expect(0);
    let added: (i64, i64) = query_as(
        "SELECT sum(stored_new)::bigint, sum(improved)::bigint FROM harvest.windows WHERE look = 'settled' AND earlier_look = 'fresh'",
    )
    .fetch_one(&scene.pool)
    .await
    .unwrap();
    assert_eq!(
        added,
        (1, 1),
        "a trace that is new, and one that has its root now"
    );
    let stored = scene.stored("shop").await;
    assert!(
        stored
            .values()
            .all(|row| row.root_service.as_deref() == Some("shop"))
    );

    // Three sealing looks in a row found what the settled look had missed.
    let sealed = "INSERT INTO harvest.windows (run_id, dataset, source, look, span, state, priority, queue_at, settle_s, earlier_look, stored_new, finished_at)
         SELECT r.id, 'shop', 'simulator', 'sealed', tstzrange(lower(r.requested) - n * interval '10 minutes', lower(r.requested) - n * interval '10 minutes' + interval '1 minute'),
                'done', 0, now(), 120, 'settled', 2, clock_timestamp()
         FROM harvest.runs r, generate_series(1, 3) n WHERE r.kind = 'poll'";
    scene.execute(sealed).await;
    let said = scene.command(&["work", "--drain", &file]).await.expect(0);
    assert!(
        said.stderr
            .contains("`lookback` is widened from 60 s to 80 s"),
        "{}",
        said.stderr
    );
    assert_eq!(
        scene.number("SELECT lookback_s FROM harvest.jobs").await,
        80
    );
    let said = scene.command(&["work", "--drain", &file]).await.expect(0);
    assert!(!said.stderr.contains("widened"), "{}", said.stderr);
}

#[tokio::test]
async fn after_a_downtime_the_live_edge_comes_first_and_the_rest_in_a_few_requests() {
    let scene = Scene::new(lively()).await;
    polling(
        &scene,
        "live",
        "every = \"5s\"\nlookback = \"2m\"\nseal_after = \"15m\"",
    );
    scene
        .command(&["work", "--drain", "live.toml"])
        .await
        .expect(0);
    asked_since(&scene, 635).await;
    scene.new_requests();
    let running = scene.start(&["work", "live.toml"]);
    scene
        .until(
            "SELECT coalesce(range_agg(part) @> tstzmultirange(tstzrange(now() - interval '10 minutes', now() - interval '1 minute')), false)
             FROM (SELECT unnest(covered) AS part FROM harvest.coverage) parts",
        )
        .await;
    scene
        .until("SELECT count(*) >= 2 FROM harvest.windows WHERE priority = 100 AND state = 'done'")
        .await;
    let (live, behind): (i64, i64) = query_as(
        "SELECT count(*) FILTER (WHERE priority = 100), count(*) FILTER (WHERE priority < 100) FROM harvest.windows WHERE state IN ('done', 'split')",
    )
    .fetch_one(&scene.pool)
    .await
    .unwrap();
    running.signal(Signal::TERM);
    running.end().await.expect(0);
    assert!(live >= 2 && behind <= 12, "{live} live, {behind} behind");
    let live_waits = scene
        .number("SELECT count(*) FROM harvest.windows WHERE priority = 100 AND finished_at > created_at + interval '15 seconds'")
        .await;
    assert_eq!(
        live_waits, 0,
        "the live edge does not wait for what was missed"
    );
    let now = Utc::now().timestamp();
    holds_truth(&scene, (now - 600, now - 60)).await;
}

#[tokio::test]
async fn what_was_missed_longer_ago_than_catch_up_is_not_asked_for() {
    let scene = Scene::new(lively()).await;
    let file = polling(&scene, "live", &format!("{QUICK}\ncatch_up = \"3m\""));
    scene.command(&["work", "--drain", &file]).await.expect(0);
    asked_since(&scene, 600).await;
    scene.command(&["work", "--drain", &file]).await.expect(0);
    let now = Utc::now().timestamp();
    let sealed = covered(&scene, "sealed").await;
    assert_eq!(sealed.len(), 1);
    assert!(
        (now - 190..=now - 175).contains(&sealed[0].0),
        "{sealed:?} {now}"
    );
}

#[tokio::test]
async fn what_retention_deleted_is_not_caught_up_with() {
    let scene = Scene::new(lively()).await;
    let file = polling(&scene, "live", QUICK);
    scene.command(&["work", "--drain", &file]).await.expect(0);
    asked_since(&scene, 600).await;
    let deleted = "UPDATE harvest.datasets SET deleted_before = date_trunc('second', now()) - interval '4 minutes'";
    scene.execute(deleted).await;
    scene.command(&["work", "--drain", &file]).await.expect(0);
    let before = "SELECT extract(epoch FROM deleted_before)::bigint FROM harvest.datasets";
    let before = scene.number(before).await;
    let sealed = covered(&scene, "sealed").await;
    assert!(
        matches!(sealed[..], [(from, _)] if from == before),
        "{sealed:?} {before}"
    );
    let said = scene.command(&["gaps", "shop", "--json"]).await;
    let gaps = said.json();
    assert_eq!(gaps[0]["reason"], "deleted by retention", "{gaps}");
}

#[tokio::test]
async fn schedules_fire_and_a_backfill_without_one_is_submitted_when_work_starts() {
    let scene = Scene::new(tempo(&hours(3, 600))).await;
    let job = |name: &str, schedule: &str| {
        let (url, from, to) = (
            scene.simulator.url(),
            rfc3339(DAY_S),
            rfc3339(DAY_S + 3 * HOUR_S),
        );
        let text = format!(
            "name = \"{name}\"\n[source]\nname = \"simulator\"\nurl = \"{url}\"\n[select]\ndetail = \"services\"\n\
             [backfill]\nfrom = {from}\nto = {to}\n{schedule}\n"
        );
        scene.write_file(&format!("{name}.toml"), &text);
    };
    job("shop", "schedule = \"*/2 * * * * *\"");
    job("once", "");
    let running = scene.start(&["work", "."]);
    let complete = "SELECT count(*) = 2 FROM harvest.coverage WHERE look = 'sealed' AND covered @> tstzrange('2026-03-01T00:00:00Z', '2026-03-01T03:00:00Z')";
    scene.until(complete).await;
    // What goes missing is filled in at the next tick, by the job that has a schedule.
    scene.execute("UPDATE harvest.coverage SET covered = covered - tstzmultirange(tstzrange('2026-03-01T01:00:00Z', '2026-03-01T02:00:00Z'))").await;
    scene
        .until("SELECT covered @> tstzrange('2026-03-01T00:00:00Z', '2026-03-01T03:00:00Z') FROM harvest.coverage WHERE dataset = 'shop'")
        .await;
    let once = scene
        .number("SELECT count(*) FROM harvest.runs WHERE dataset = 'once'")
        .await;
    assert_eq!(once, 1);
    running.signal(Signal::TERM);
    running.end().await.expect(0);
    holds_truth(&scene, (DAY_S, DAY_S + 3 * HOUR_S)).await;
}

#[tokio::test]
async fn a_tick_that_was_missed_while_nothing_ran_is_made_up_for_at_the_start() {
    let scene = Scene::new(tempo(&hours(1, 100))).await;
    let (url, from, to) = (
        scene.simulator.url(),
        rfc3339(DAY_S),
        rfc3339(DAY_S + HOUR_S),
    );
    let text = format!(
        "name = \"shop\"\n[source]\nname = \"simulator\"\nurl = \"{url}\"\n[backfill]\nfrom = {from}\nto = {to}\nschedule = \"@yearly\"\n"
    );
    scene.write_file("shop.toml", &text);
    let mut running = scene.start(&["work", "."]);
    running.says("working as").await;
    scene
        .until("SELECT scheduled_at IS NOT NULL FROM harvest.jobs")
        .await;
    running.signal(Signal::TERM);
    running.end().await.expect(0);
    assert_eq!(
        scene.number("SELECT count(*) FROM harvest.windows").await,
        0
    );
    scene
        .execute("UPDATE harvest.jobs SET scheduled_at = scheduled_at - interval '400 days'")
        .await;
    let running = scene.start(&["work", "."]);
    scene
        .until("SELECT count(*) = 1 FROM harvest.windows WHERE state = 'done'")
        .await;
    running.signal(Signal::TERM);
    running.end().await.expect(0);
}

#[tokio::test]
async fn job_files_are_taken_over_while_work_runs() {
    let scene = Scene::new(lively()).await;
    polling(&scene, "live", QUICK);
    let mut running = scene.start(&["work", "."]);
    scene
        .until("SELECT count(*) > 0 FROM harvest.windows WHERE state = 'done'")
        .await;
    // A new one.
    let (url, from, to) = (
        scene.simulator.url(),
        rfc3339(DAY_S),
        rfc3339(DAY_S + HOUR_S),
    );
    let history = format!(
        "name = \"history\"\n[source]\nname = \"simulator\"\nurl = \"{url}\"\nlimits = {{ requests_per_second = 1000 }}\n[backfill]\nfrom = {from}\nto = {to}\n"
    );
    scene.write_file("history.toml", &history);
    scene
        .until(
            "SELECT count(*) > 0 FROM harvest.windows WHERE dataset = 'history' AND state = 'done'",
        )
        .await;
    // One that does not validate, and one whose query is another's: the last good versions go on.
    let good = std::fs::read_to_string(scene.folder.path().join("live.toml")).unwrap();
    scene.write_file("live.toml", &good.replace("lookback", "lookbak"));
    running.says("unknown key `lookbak`").await;
    scene.until("SELECT count(*) > 0 FROM harvest.windows WHERE dataset = 'shop' AND created_at > now() - interval '1 second'").await;
    scene.write_file(
        "live.toml",
        &good.replace("[select]", "[select]\nquery = '{ status = error }'"),
    );
    running.says("was collected with another query").await;
    scene.until("SELECT count(*) > 0 FROM harvest.windows WHERE dataset = 'shop' AND created_at > now() - interval '1 second'").await;
    // One that vanishes rests, and goes on when it is back.
    std::fs::remove_file(scene.folder.path().join("live.toml")).unwrap();
    running.says("the job's file has gone").await;
    scene.until("SELECT count(*) = 0 FROM harvest.windows WHERE dataset = 'shop' AND state IN ('queued', 'running')").await;
    let planned = scene
        .number("SELECT count(*) FROM harvest.windows WHERE dataset = 'shop'")
        .await;
    let state: String = query_scalar("SELECT state FROM harvest.runs WHERE kind = 'poll'")
        .fetch_one(&scene.pool)
        .await
        .unwrap();
    assert_eq!(state, "open", "not cancelled");
    scene.write_file("live.toml", &good);
    running.says("the job's file is back").await;
    while scene
        .number("SELECT count(*) FROM harvest.windows WHERE dataset = 'shop'")
        .await
        == planned
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.signal(Signal::TERM);
    running.end().await.expect(0);
}

#[tokio::test]
async fn while_tempo_is_down_nothing_piles_up_and_afterwards_everything_is_filled_in() {
    let scene = Scene::new(lively()).await;
    polling(&scene, "live", QUICK);
    let running = scene.start(&["work", "."]);
    scene
        .until("SELECT count(*) >= 2 FROM harvest.windows WHERE state = 'done'")
        .await;
    let down = scene
        .control
        .add_fault(Fault::forever(Misbehaviour::Status(503)));
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        let open = scene
            .number("SELECT count(*) FROM harvest.windows WHERE state IN ('queued', 'running')")
            .await;
        assert!(open <= 8, "{open} windows pile up");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    scene.control.withdraw_fault(down);
    scene
        .until(
            "SELECT max(upper(part)) > now() - interval '37 seconds' AND count(*) = 1
             FROM (SELECT unnest(range_agg(parts)) AS part FROM (SELECT unnest(covered) AS parts FROM harvest.coverage) p) u",
        )
        .await;
    running.signal(Signal::TERM);
    running.end().await.expect(0);
    let fresh = covered(&scene, "fresh").await;
    holds_truth(&scene, (fresh[0].0, fresh[0].0 + 10)).await;
}

#[tokio::test]
async fn two_schedulers_plan_a_tick_once_between_them() {
    let scene = Scene::new(lively()).await;
    polling(&scene, "live", QUICK);
    let workers: Vec<_> = (0..3).map(|_| scene.start(&["work", "."])).collect();
    scene
        .until("SELECT count(*) >= 8 FROM harvest.windows WHERE state = 'done' AND look = 'fresh'")
        .await;
    for worker in &workers {
        worker.signal(Signal::TERM);
    }
    for worker in workers {
        let said = worker.end().await.expect(0);
        assert!(!said.stderr.contains("cannot plan"), "{}", said.stderr);
    }
    let twice = scene
        .number(
            "SELECT count(*) FROM harvest.windows a JOIN harvest.windows b
             ON a.id < b.id AND a.look = b.look AND a.span && b.span AND a.state <> 'cancelled' AND b.state <> 'cancelled'",
        )
        .await;
    assert_eq!(twice, 0, "no stretch was planned twice");
    let polls = scene
        .number("SELECT count(*) FROM harvest.runs WHERE kind = 'poll'")
        .await;
    assert_eq!(polls, 1);
}

#[tokio::test]
async fn a_job_in_a_folder_that_is_not_enabled_may_lack_its_environment() {
    let scene = Scene::new(lively()).await;
    polling(&scene, "live", QUICK);
    scene.write_file(
        "later.toml",
        "name = \"later\"\nenabled = false\nsource = { url = \"http://tempo.invalid\", bearer_token = \"${NOT_SET}\" }\n[poll]\n",
    );
    scene.command(&["work", "--drain", "."]).await.expect(0);
    let said = scene.command(&["work", "--drain", "later.toml"]).await;
    assert!(
        said.expect(2).stderr.contains("NOT_SET"),
        "it is what was asked for"
    );
}

#[tokio::test]
async fn data_on_the_way_to_the_blocks_is_not_taken_for_nothing() {
    let mut config = Config::new(Version::V3_0_3, Population::empty());
    config.timing.ingestion_slack = Duration::from_secs(36_000);
    config.timing.block_duration = Duration::from_secs(1);
    config.timing.query_backend_after = Duration::from_secs(45);
    config.timing.block_list_delay = Duration::from_secs(36_000);
    let scene = Scene::new(config).await;
    // Live data at first, all of it found.
    let now = Utc::now().timestamp();
    (0..20).for_each(|number| scene.control.push(spans(number, now - 33, true)));
    scene.control.flush();
    let file = polling(
        &scene,
        "live",
        "every = \"1s\"\nlookback = \"46s\"\nseal_after = \"46s\"",
    );
    scene.command(&["work", "--drain", &file]).await.expect(0);
    asked_since(&scene, 60).await;
    scene.command(&["work", "--drain", &file]).await.expect(0);
    assert_eq!(scene.stored("shop").await.len(), 20);
    // Then it is nowhere: a search says nothing, and the later look does not believe it.
    scene
        .until("SELECT max(started_at) < now() - interval '50 seconds' FROM harvest.traces")
        .await;
    let mut running = scene.start(&["-v", "work", "--drain", &file]);
    running.says("does not show 20 of the 20 traces").await;
    running.signal(Signal::TERM);
    running.end().await.expect(0);
    let sealed = "SELECT count(*) FROM harvest.traces t JOIN harvest.coverage c ON c.look <> 'fresh' AND t.started_at <@ c.covered";
    assert_eq!(scene.number(sealed).await, 0);
}

#[tokio::test]
async fn a_daemon_waits_for_its_database_and_a_command_does_not() {
    let scene = Scene::new(lively()).await;
    let file = polling(&scene, "live", QUICK);
    // Nothing listens on port 1.
    let nowhere = [("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")];
    let mut running = scene.start_with(&["work", &file], &nowhere);
    running.says("waiting for it").await;
    running.signal(Signal::TERM);
    assert_ne!(running.end().await.code, Some(0));
    let said = scene
        .command_with(&["work", "--drain", &file], &nowhere)
        .await;
    assert!(!said.expect(1).stderr.contains("waiting"));
}

#[tokio::test]
async fn a_source_that_moves_and_a_job_that_is_renamed_lose_nothing() {
    let scene = Scene::new(lively()).await;
    let sources = |url: &str| {
        let text = format!("[tempo]\nurl = \"{url}\"\nlimits = {{ requests_per_second = 1000 }}\n");
        scene.write_file("sources.toml", &text);
    };
    let job = |file: &str, name: &str| {
        let text = format!(
            "name = \"{name}\"\ndataset = \"{file}\"\nsource = \"tempo\"\n[poll]\ndelay = \"30s\"\n{QUICK}\n"
        );
        scene.write_file(&format!("{file}.toml"), &text);
    };
    // Nothing listens on port 9.
    sources("http://127.0.0.1:9");
    job("one", "one");
    job("two", "two");
    let mut running = scene.start(&["work", "."]);
    running.says("the source fails").await;
    sources(&scene.simulator.url());
    running.says("took over a new or changed job").await;
    let both = "SELECT count(DISTINCT dataset) = 2 FROM harvest.windows WHERE state = 'done'";
    scene.until(both).await;
    running.signal(Signal::TERM);
    running.end().await.expect(0);
    let begun = "SELECT extract(epoch FROM min(lower(requested)))::bigint FROM harvest.runs WHERE dataset = 'one'";
    let begun_s = scene.number(begun).await;

    // Renamed while nothing runs: the new job goes on where the old one was, and is the only poll.
    job("one", "uno");
    scene.command(&["work", "--drain", "."]).await.expect(0);
    let covered: Vec<(i64, i64)> = query_as(
        "SELECT extract(epoch FROM lower(part))::bigint, extract(epoch FROM upper(part))::bigint
         FROM (SELECT unnest(range_agg(parts)) AS part FROM (SELECT unnest(covered) AS parts FROM harvest.coverage WHERE dataset = 'one') p) u",
    )
    .fetch_all(&scene.pool)
    .await
    .unwrap();
    assert_eq!(covered.len(), 1, "{covered:?}");
    assert_eq!(covered[0].0, begun_s);
    let open: Vec<String> = query_scalar(
        "SELECT job FROM harvest.runs WHERE kind = 'poll' AND state = 'open' AND dataset = 'one'",
    )
    .fetch_all(&scene.pool)
    .await
    .unwrap();
    assert_eq!(open, ["uno"]);
}

#[tokio::test]
async fn a_daemon_goes_on_with_the_good_files_and_a_single_bad_one_is_refused() {
    let scene = Scene::new(lively()).await;
    polling(&scene, "live", QUICK);
    scene.write_file("bad.toml", "name = \"bad\"\nsorce = \"x\"\n");
    let mut running = scene.start(&["work", "."]);
    running.says("these files are left out").await;
    scene
        .until("SELECT count(*) > 0 FROM harvest.windows WHERE state = 'done'")
        .await;
    running.signal(Signal::TERM);
    running.end().await.expect(0);
    scene.command(&["work", "bad.toml"]).await.expect(2);
    scene.command(&["work", "--drain", "."]).await.expect(2);
}

#[tokio::test]
async fn what_tempo_has_lost_is_not_sealed_by_a_backfill_but_by_a_repair() {
    let scene = Scene::new(tempo(&hours(2, 200))).await;
    let (url, from, to) = (
        scene.simulator.url(),
        rfc3339(DAY_S),
        rfc3339(DAY_S + 3 * HOUR_S),
    );
    let text = format!(
        "name = \"shop\"\n[source]\nname = \"simulator\"\nurl = \"{url}\"\n[backfill]\nfrom = {from}\nto = {to}\nwindow = \"1h\"\n"
    );
    scene.write_file("shop.toml", &text);
    scene.command(&["run", "shop.toml"]).await.expect(0);
    // As if coverage had to begin anew, and Tempo no longer had one of the traces.
    scene.execute("DELETE FROM harvest.coverage").await;
    scene
        .execute(
            "INSERT INTO harvest.traces (dataset, trace_id, started_at, start_ns, end_ns)
             VALUES ('shop', decode('ff00000000000000000000000000000f', 'hex'), '2026-03-01T00:30:00Z', 1772325000000000000, 1772325000000000000)",
        )
        .await;
    let said = scene.command(&["run", "shop.toml"]).await.expect(3);
    assert!(
        said.stderr.contains("does not show 1 of the"),
        "{}",
        said.stderr
    );
    let sealed = covered(&scene, "sealed").await;
    assert_eq!(sealed, [(DAY_S + HOUR_S, DAY_S + 3 * HOUR_S)]);
    scene.command(&["repair", "shop"]).await.expect(0);
    scene.command(&["work", "--drain"]).await.expect(0);
    assert_eq!(
        covered(&scene, "sealed").await,
        [(DAY_S, DAY_S + 3 * HOUR_S)]
    );
}
