//! The Grafana dashboard and the alert rules in `contrib/grafana`, held against a filled database and a process' metrics.

use std::collections::BTreeSet;
use std::process::Command;

use regex_lite::Regex;
use rustix::process::Signal;
use serde_json::Value;
use sqlx::{AssertSqlSafe, raw_sql};

use super::metrics::at_work;
use crate::support::harvest::{HOUR_S, Scene, hour_edge_before, job, tempo};
use crate::support::http;

const DASHBOARD: &str = include_str!("../../contrib/grafana/dashboards/tempo-harvest.json");
const RULES: &str = include_str!("../../contrib/grafana/tempo-harvest.rules.yaml");

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

/// What the panels ask of data sources of a type: the panel's title, and the query.
fn queries(of: &str, key: &str) -> Vec<(String, String)> {
    let dashboard = dashboard();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap_or(&Vec::new()) {
            let source = &target["datasource"];
            // A data source is a variable, so that the dashboard fits any Grafana.
            let uid = source["uid"].as_str().unwrap();
            assert!(
                ["${prometheus}", "${postgres}"].contains(&uid),
                "{title}: {uid}"
            );
            if source["type"] == of {
                queries.push((title.to_owned(), target[key].as_str().unwrap().to_owned()));
            }
        }
    }
    queries
}

/// A query with Grafana's macros and variables as Grafana would write them.
fn expanded(query: &str) -> String {
    let (from, to) = (hour_edge_before(48), hour_edge_before(-1));
    let replace = |query: &str, pattern: &str, by: &str| {
        let pattern = Regex::new(pattern).unwrap();
        pattern.replace_all(query, by).into_owned()
    };
    let query = replace(
        query,
        r"\$__timeFilter\(([^()]+)\)",
        &format!("${{1}} BETWEEN to_timestamp({from}) AND to_timestamp({to})"),
    );
    let query = replace(
        &query,
        r"\$__timeGroupAlias\(([^(),]+), *\$__interval\)",
        "floor(extract(epoch from ${1})/60)*60 AS \"time\"",
    );
    let query = query
        .replace("${dataset:sqlstring}", "'shop'")
        .replace("$__rate_interval", "1m")
        .replace("$dataset", "shop|other");
    assert!(!query.contains('$'), "not expanded: {query}");
    query
}

#[tokio::test]
async fn every_panel_on_postgresql_shows_something_of_a_filled_database() {
    let end = hour_edge_before(2);
    let settings = tempo_harvest::simulator::GenerateSettings::new(
        7,
        crate::support::harvest::at(end - 2 * HOUR_S),
        crate::support::harvest::at(end),
        600,
    );
    let scene = Scene::new(tempo(&settings)).await;
    let recent = job(2).range(end - 2 * HOUR_S, end).services();
    scene.run(&recent).await.expect(0);
    scene
        .execute(
            "INSERT INTO harvest.windows (run_id, dataset, source, look, span, state, priority, queue_at, settle_s, error_class, last_error, finished_at)
             SELECT id, dataset, 'simulator', 'sealed', requested, 'failed', 0, now(), 0, 'passing', 'gone', now() FROM harvest.runs",
        )
        .await;
    let panels = queries("grafana-postgresql-datasource", "rawSql");
    assert!(panels.len() >= 6);
    for (title, query) in panels {
        let sql = expanded(&query);
        let shown = sqlx::query(AssertSqlSafe(sql.clone()))
            .fetch_all(&scene.pool)
            .await
            .unwrap_or_else(|error| panic!("{title}: {sql}: {error}"));
        assert!(!shown.is_empty(), "{title} shows nothing: {sql}");
    }
    for variable in dashboard()["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            let sql = variable["query"].as_str().unwrap().to_owned();
            raw_sql(AssertSqlSafe(sql))
                .execute(&scene.pool)
                .await
                .unwrap();
        }
    }
}

/// The expressions of the rules, each on a line of its own.
fn rules() -> Vec<String> {
    let lines = RULES
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: '"));
    lines
        .map(|line| line.strip_suffix('\'').unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn every_metric_that_the_dashboard_and_the_rules_name_is_there() {
    let (scene, mut running, address) = at_work().await;
    // A file that is no job: what is said of such is there only while there is one.
    scene.write_file("bad.toml", "no job");
    running.says("job files have problems").await;
    let mut shown = http::metrics(&address).await;
    while !shown.contains("tempo_harvest_job_file_invalid{") {
        tokio::task::yield_now().await;
        shown = http::metrics(&address).await;
    }
    running.signal(Signal::TERM);
    running.end().await.expect(0);
    let shown: BTreeSet<&str> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let name = Regex::new("(?:tempo_harvest|process)_[a-z_]+").unwrap();
    let panels = queries("prometheus", "expr");
    let rules = rules();
    assert!(panels.len() >= 15 && rules.len() >= 8);
    let expressions = panels.into_iter().map(|(_, query)| expanded(&query));
    let expressions: Vec<String> = expressions.chain(rules).collect();
    // What promtool takes as rules is PromQL.
    let recorded = expressions.iter().enumerate();
    let recorded: String = recorded
        .map(|(index, expression)| {
            format!("  - record: expression_{index}\n    expr: '{expression}'\n")
        })
        .collect();
    promtool_accepts_rules(&format!("groups:\n- name: all\n  rules:\n{recorded}"));
    for expression in &expressions {
        let names: Vec<&str> = name.find_iter(expression).map(|it| it.as_str()).collect();
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(name);
            assert!(
                shown.contains(name) || shown.contains(family),
                "{expression}: there is no {name}"
            );
        }
    }
}

#[test]
fn every_warning_has_a_rule() {
    for kind in tempo_harvest::warnings::Kind::ALL {
        let named = format!("warning=\"{}\"", kind.name());
        assert!(RULES.contains(&named), "{named}");
    }
}

/// Has promtool check rules, where it is installed.
fn promtool_accepts_rules(rules: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    std::fs::write(&file, rules).unwrap();
    let mut promtool = Command::new("promtool");
    match promtool.args(["check", "rules"]).arg(&file).output() {
        Ok(said) => assert!(said.status.success(), "{said:?}\n{rules}"),
        Err(_) => eprintln!("promtool is not installed: `promtool check rules` is left out"),
    }
}

#[test]
fn the_rules_are_rules() {
    promtool_accepts_rules(RULES);
}

#[test]
fn the_dashboard_can_be_provisioned() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "tempo-harvest");
    let mut seen = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(seen.insert(panel["id"].as_i64().unwrap()), "{panel:#}");
        if panel["type"] != "row" {
            assert!(
                !panel["description"].as_str().unwrap().is_empty(),
                "{panel:#}"
            );
        }
    }
}
