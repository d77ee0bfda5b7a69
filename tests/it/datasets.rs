//! What a dataset is collected with is part of it: another query, tenant or server is refused, more detail improves it.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::query_scalar;
use tempo_harvest::simulator::{Config, Population, Tenancy, Version};

use crate::support::harvest::{DAY_S, HOUR_S, Scene, hours, job, searched, tempo};

const CHECKOUT: &str = r#"{ trace:rootService = "checkout" }"#;
const CART: &str = r#"{ trace:rootService = "cart" }"#;

/// The root services stored of `shop`.
async fn services(scene: &Scene) -> Vec<String> {
    let sql = "SELECT DISTINCT root_service FROM harvest.traces WHERE dataset = 'shop' ORDER BY 1";
    query_scalar(sql).fetch_all(&scene.pool).await.unwrap()
}

#[tokio::test]
async fn an_edited_query_is_refused_until_the_dataset_is_reset() {
    let scene = Scene::new(tempo(&hours(2, 300))).await;
    scene.run(&job(2).query(CHECKOUT)).await.expect(0);
    scene.new_requests();
    let before = scene.dump().await;
    let edited = job(2).query(CART);
    for command in ["run", "submit", "plan"] {
        let file = scene.write(&edited);
        let said = scene.command(&[command, &file]).await.expect(2);
        let place = scene.place(&file, &format!("'{CART}'"));
        assert!(said.stderr.contains(&place), "{place}\n{}", said.stderr);
        let advice = "tempo-harvest dataset reset shop --yes";
        assert!(said.stderr.contains(advice), "{}", said.stderr);
    }
    assert_eq!(scene.new_requests().len(), 0);
    assert_eq!(scene.dump().await, before);

    // Without a terminal nobody can be asked.
    for command in ["reset", "rm"] {
        let said = scene.command(&["dataset", command, "shop"]).await.expect(2);
        assert!(said.stderr.contains("say --yes"), "{}", said.stderr);
        let other = scene.command(&["dataset", command, "shopp", "--yes"]).await;
        let said = other.expect(2).stderr;
        let known = "there is no dataset `shopp`; there are `shop`";
        assert!(said.contains(known), "{said}");
    }
    assert_eq!(scene.dump().await, before);

    let reset = ["dataset", "reset", "shop", "--yes"];
    scene.command(&reset).await.expect(0);
    assert!(scene.stored("shop").await.is_empty());
    assert!(scene.covered("shop").await.is_empty());
    scene.run(&edited).await.expect(0);
    assert_eq!(services(&scene).await, ["cart"]);
    assert_eq!(scene.covered("shop").await, [(DAY_S, DAY_S + 2 * HOUR_S)]);

    let rm = ["dataset", "rm", "shop", "--yes"];
    scene.command(&rm).await.expect(0);
    let left =
        "SELECT (SELECT count(*) FROM harvest.datasets) + (SELECT count(*) FROM harvest.jobs)
        + (SELECT count(*) FROM harvest.traces) + (SELECT count(*) FROM harvest.coverage)
        + (SELECT count(*) FROM harvest.windows) + (SELECT count(*) FROM harvest.runs)";
    assert_eq!(scene.number(left).await, 0);
    scene.run(&job(2).query(CHECKOUT)).await.expect(0);
    assert_eq!(services(&scene).await, ["checkout"]);
}

#[tokio::test]
async fn more_detail_improves_what_is_stored() {
    let scene = Scene::new(tempo(&hours(2, 300))).await;
    let first_stored = async || {
        let sql = "SELECT string_agg(encode(trace_id, 'hex') || first_stored_at, ',' ORDER BY trace_id) FROM harvest.traces";
        query_scalar::<_, String>(sql)
            .fetch_one(&scene.pool)
            .await
            .unwrap()
    };
    let range = (DAY_S, DAY_S + 2 * HOUR_S);
    scene.run(&job(2)).await.expect(0);
    scene.equals_truth(range, false).await;
    let before = first_stored().await;
    scene.new_requests();

    scene.run(&job(2).services()).await.expect(0);
    let middle = DAY_S + HOUR_S;
    assert_eq!(
        searched(&scene.new_requests()),
        [(range.0, middle), (middle, range.1)]
    );
    scene.equals_truth(range, true).await;
    assert_eq!(first_stored().await, before);

    // Less would be a loss.
    let file = scene.write(&job(2));
    let said = scene.command(&["run", &file]).await.expect(2);
    assert!(said.stderr.contains("another detail"), "{}", said.stderr);
    assert_eq!(scene.new_requests().len(), 0);
}

#[tokio::test]
async fn a_source_has_one_tenant() {
    let population = |seed| {
        let mut settings = hours(1, 100);
        settings.seed = seed;
        Arc::new(Population::generate(&settings))
    };
    let mut config = Config::new(Version::V3_0_3, Population::generate(&hours(1, 1)));
    config.tenancy = Tenancy::Multi(BTreeMap::from([
        ("blue".to_owned(), population(1)),
        ("green".to_owned(), population(2)),
    ]));
    let scene = Scene::new(config).await;
    let blue = job(1).source("tenant = \"blue\"");
    scene.run(&blue).await.expect(0);
    let truth = scene.control.tenant("blue").truth().len();
    assert_eq!(scene.stored("shop").await.len(), truth);
    scene.new_requests();

    let mut green = job(1).source("tenant = \"green\"");
    green.name = "other".to_owned();
    let said = scene.run(&green).await.expect(2);
    let place = scene.place("other.toml", "\"green\"");
    assert!(said.stderr.contains(&place), "{place}\n{}", said.stderr);
    let known = "source `simulator` is known with tenant `blue` (dataset `shop`)";
    assert!(said.stderr.contains(known), "{}", said.stderr);
    assert_eq!(scene.new_requests().len(), 0);
    assert!(scene.stored("other").await.is_empty());
}

#[tokio::test]
async fn two_files_must_not_mean_two_sources_by_one_name() {
    let scene = Scene::new(tempo(&hours(1, 100))).await;
    let mut other = job(1).source("retention = \"365d\"");
    other.name = "other".to_owned();
    let files = [scene.write(&job(1)), scene.write(&other)];
    for command in ["run", "submit"] {
        let said = scene.command(&[command, &files[0], &files[1]]).await;
        let said = said.expect(2).stderr;
        assert!(said.contains("other.toml:"), "{said}");
        let message = "source `simulator` is defined twice, and differently";
        assert!(said.contains(message), "{said}");
    }
    assert_eq!(scene.new_requests().len(), 0);
    assert_eq!(
        scene.number("SELECT count(*) FROM harvest.datasets").await,
        0
    );
}

#[tokio::test]
async fn a_query_that_tempo_refuses_is_refused_in_its_words_and_can_be_corrected() {
    let scene = Scene::new(tempo(&hours(2, 300))).await;
    let query = "{ trace:rootService == nonsense }";
    let said = scene.run(&job(2).query(query)).await.expect(2);
    let words: String =
        query_scalar("SELECT error FROM harvest.fetches WHERE outcome = 'query' AND kind = 'search' AND window_id IS NOT NULL LIMIT 1")
            .fetch_one(&scene.pool)
            .await
            .unwrap();
    assert!(words.contains("invalid TraceQL query"), "{words}");
    assert!(said.stderr.contains(&words), "{words}\n{}", said.stderr);
    let place = scene.place("shop.toml", &format!("'{query}'"));
    assert!(said.stderr.contains(&place), "{place}\n{}", said.stderr);

    scene.run(&job(2).query(CHECKOUT)).await.expect(0);
    assert_eq!(services(&scene).await, ["checkout"]);
    assert_eq!(scene.covered("shop").await, [(DAY_S, DAY_S + 2 * HOUR_S)]);
}
