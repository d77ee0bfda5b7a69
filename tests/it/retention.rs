//! `[retention]`: what is older is deleted, is no gap, and is never collected again; a shortened one waits for `prune`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use tempo_harvest::job::duration;

use crate::support::harvest::{DAY_S, HOUR_S, Scene, Stored, hours, job, rfc3339, tempo};

const RANGE: (i64, i64) = (DAY_S, DAY_S + 4 * HOUR_S);

/// A retention that ends at this second, or a little later.
fn kept_from(second: i64) -> String {
    let kept_s = Utc::now().timestamp() - second;
    duration::format(std::time::Duration::from_secs(kept_s.unsigned_abs()))
}

/// A process that works, and whose turn it is to keep house.
async fn keep_house(scene: &Scene) {
    scene.execute("DELETE FROM harvest.housekeeping").await;
    scene.command(&["work", "--drain"]).await.expect(0);
}

async fn deleted_before(scene: &Scene) -> i64 {
    let sql = "SELECT extract(epoch FROM deleted_before)::bigint FROM harvest.datasets WHERE name = 'shop'";
    scene.number(sql).await
}

/// Seconds that `shop` keeps; 0: for ever.
async fn in_force(scene: &Scene) -> i64 {
    let sql = "SELECT coalesce(retention_s, 0) FROM harvest.datasets WHERE name = 'shop'";
    scene.number(sql).await
}

/// What was stored, less what started before.
fn since(stored: &BTreeMap<Vec<u8>, Stored>, second: i64) -> BTreeMap<Vec<u8>, Stored> {
    let mut stored = stored.clone();
    stored.retain(|_, trace| trace.start_ns >= second * 1_000_000_000);
    stored
}

#[tokio::test]
async fn what_is_older_is_deleted_and_is_no_gap_and_is_not_collected_again() {
    // More than a batch deletes at once.
    let scene = Scene::new(tempo(&hours(4, 12_000))).await;
    let whole = job(4).retention(&kept_from(DAY_S - HOUR_S));
    scene.run(&whole).await.expect(0);
    scene.equals_truth(RANGE, false).await;
    let before = scene.stored("shop").await;

    // Time passes: what was kept until now is older than that.
    let middle = DAY_S + 2 * HOUR_S + 1_800;
    let passed = kept_from(middle);
    let passed_s = duration::parse(&passed).unwrap().as_secs();
    sqlx::query("UPDATE harvest.datasets SET retention_s = $1")
        .bind(i64::try_from(passed_s).unwrap())
        .execute(&scene.pool)
        .await
        .unwrap();
    keep_house(&scene).await;
    let deleted = deleted_before(&scene).await;
    assert!((middle..middle + 600).contains(&deleted), "{deleted}");
    let left = scene.stored("shop").await;
    assert_eq!(left, since(&before, deleted));
    assert!(left.len() > 1_000 && before.len() - left.len() > 5_000);
    let counted = "SELECT trace_count FROM harvest.datasets";
    assert_eq!(scene.number(counted).await, left.len() as i64);
    assert_eq!(scene.covered("shop").await, [(deleted, RANGE.1)]);

    let gaps = scene.command(&["gaps", "shop", "--json"]).await.expect(0);
    let gaps = gaps.json();
    assert_eq!(gaps.as_array().unwrap().len(), 1, "{gaps}");
    assert_eq!(gaps[0]["reason"], "deleted by retention");
    assert_eq!(gaps[0]["seconds"], deleted - DAY_S);
    let status = scene.command(&["status", "--json"]).await.expect(0).json();
    assert_eq!(status[0]["missing_s"], 0);

    // Not by a longer retention either: it is gone for Tempo's other users only if Tempo dropped it, but gone for us.
    scene.new_requests();
    scene.run(&whole).await.expect(0);
    assert_eq!(scene.new_requests().len(), 0);
    let plan = scene
        .command(&["plan", "shop.toml", "--json"])
        .await
        .expect(0);
    let beyond = [DAY_S, deleted].map(rfc3339);
    assert_eq!(
        plan.json()[0]["beyond_retention"],
        serde_json::json!([beyond])
    );
    assert_eq!(scene.stored("shop").await, left);

    // A reset forgets what was deleted, too.
    let reset = ["dataset", "reset", "shop", "--yes"];
    scene.command(&reset).await.expect(0);
    scene.run(&whole).await.expect(0);
    scene.equals_truth(RANGE, false).await;
}

#[tokio::test]
async fn a_first_submission_collects_no_more_than_is_kept() {
    let scene = Scene::new(tempo(&hours(4, 400))).await;
    let middle = DAY_S + 2 * HOUR_S;
    let file = scene.write(&job(4).retention(&kept_from(middle)));
    let plan = scene.command(&["plan", "--json", &file]).await.expect(0);
    let beyond = &plan.json()[0]["beyond_retention"];
    let second = |end: usize| {
        let told = beyond[0][end].as_str().unwrap();
        told.parse::<DateTime<Utc>>().unwrap().timestamp()
    };
    assert!(
        second(0) == DAY_S && (middle..middle + 600).contains(&second(1)),
        "{beyond}"
    );
    scene.command(&["run", &file]).await.expect(0);
    let covered = scene.covered("shop").await;
    assert!(
        matches!(covered[..], [(from, to)] if (middle..middle + 600).contains(&from) && to == RANGE.1),
        "{covered:?}"
    );
}

#[tokio::test]
async fn a_shortened_retention_waits_for_prune_and_a_longer_one_does_not() {
    let scene = Scene::new(tempo(&hours(4, 2_000))).await;
    let long = kept_from(DAY_S - HOUR_S);
    scene.run(&job(4).retention(&long)).await.expect(0);
    let before = scene.stored("shop").await;
    let long_s = in_force(&scene).await;

    let short = kept_from(DAY_S + 2 * HOUR_S);
    let file = scene.write(&job(4).retention(&short));
    let advice = format!(
        "retention of `shop` was shortened from {long} to {short}: `tempo-harvest prune shop` applies it"
    );
    for command in ["submit", "run"] {
        let said = scene.command(&[command, &file]).await.expect(0);
        assert!(said.stderr.contains(&advice), "{advice}\n{}", said.stderr);
    }
    // A daemon says it when it changes, and not again.
    let said = scene.command(&["work", &file, "--drain"]).await.expect(0);
    assert!(!said.stderr.contains("shortened"), "{}", said.stderr);
    keep_house(&scene).await;
    assert_eq!(scene.stored("shop").await, before);
    assert_eq!(in_force(&scene).await, long_s);

    // Without a terminal nobody can be asked.
    let said = scene.command(&["prune", "shop"]).await.expect(2);
    assert!(said.stderr.contains("say --yes"), "{}", said.stderr);
    assert_eq!(scene.stored("shop").await, before);
    let prune = ["prune", "shop", "--yes", "--json"];
    let report = scene.command(&prune).await.expect(0).json();
    let left = since(&before, deleted_before(&scene).await);
    assert_eq!(scene.stored("shop").await, left);
    assert_eq!(report["traces_deleted"], before.len() - left.len());
    assert_eq!(report["retention_before_s"], long_s);
    assert_eq!(report["retention_s"], in_force(&scene).await);
    assert!(in_force(&scene).await < long_s && left.len() < before.len());

    // Longer, and then for ever: at once, and without a word.
    for (job, kept_s) in [(job(4).retention(&long), long_s), (job(4), 0)] {
        let file = scene.write(&job);
        let said = scene.command(&["submit", &file]).await.expect(0);
        assert!(!said.stderr.contains("retention"), "{}", said.stderr);
        assert_eq!(in_force(&scene).await, kept_s);
    }
    let said = scene.command(&prune).await.expect(2).stderr;
    let why = "dataset `shop` keeps its traces for ever: job `shop` has no [retention]";
    assert!(said.contains(why), "{said}");
    let said = scene.command(&["prune", "shopp"]).await.expect(2).stderr;
    assert!(said.contains("no job and no dataset `shopp`"), "{said}");
}

#[tokio::test]
async fn the_longest_retention_of_a_dataset_s_jobs_holds() {
    let scene = Scene::new(tempo(&hours(4, 400))).await;
    scene.run(&job(4)).await.expect(0);
    let before = scene.stored("shop").await;
    let mut other = job(4);
    other.name = "other".to_owned();
    other.top = "dataset = \"shop\"".to_owned();
    let short = kept_from(DAY_S + 2 * HOUR_S);
    let said = scene.run(&other.clone().retention(&short)).await.expect(0);
    let holds = format!(
        "dataset `shop` keeps its traces for ever, as job `shop` asks, not for {short}: the longest retention of its jobs holds"
    );
    assert!(said.stderr.contains(&holds), "{holds}\n{}", said.stderr);
    assert!(!said.stderr.contains("shortened"), "{}", said.stderr);
    assert_eq!(in_force(&scene).await, 0);
    let said = scene.command(&["prune", "other", "--yes"]).await.expect(2);
    let why = "job `shop` has no [retention]";
    assert!(said.stderr.contains(why), "{}", said.stderr);

    // When both ask for it, and it deletes something, it still waits for `prune`.
    let long = kept_from(DAY_S + HOUR_S);
    let said = scene.run(&job(4).retention(&long)).await.expect(0);
    let advice =
        format!("retention of `shop` was shortened to {long}: `tempo-harvest prune shop` applies");
    assert!(said.stderr.contains(&advice), "{advice}\n{}", said.stderr);
    scene.command(&["prune", "other", "--yes"]).await.expect(0);
    let deleted = deleted_before(&scene).await;
    let cut = DAY_S + HOUR_S;
    assert!((cut..cut + 600).contains(&deleted), "{deleted}");
    assert_eq!(scene.stored("shop").await, since(&before, deleted));
}
