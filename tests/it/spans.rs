//! Datasets of whole spans: each span as it is, and traces computed from them.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use serde_json::{Value, json};
use sqlx::Row as _;
use tempo_harvest::simulator::{
    Attribute, AttributeScope, AttributeValue, Config, Fault, GenerateSettings, Misbehaviour,
    Population, Span, SpanKind, SpanStatus, TraceFragment, Version,
};

use crate::support::harvest::{DAY_S, HOUR_S, Scene, hour_edge_before, hours, job, tempo};

const SECOND_NS: u64 = 1_000_000_000;

/// A span as it is stored: parent, service, name, kind, status, start, duration, attributes.
type Row = (
    Option<Vec<u8>>,
    Option<String>,
    String,
    String,
    String,
    i64,
    i64,
    Option<Value>,
);

/// By trace and span.
type Rows = BTreeMap<(Vec<u8>, Vec<u8>), Row>;

async fn stored(scene: &Scene, dataset: &str) -> Rows {
    let rows = sqlx::query(
        "SELECT trace_id, span_id, parent_span_id, service, name, kind, status, start_ns, duration_ns, attributes,
                started_at = 'epoch'::timestamptz + start_ns / 1000 * interval '1 microsecond' AS at_start
         FROM harvest.spans WHERE dataset = $1",
    )
    .bind(dataset)
    .fetch_all(&scene.pool)
    .await
    .unwrap();
    let read = |row: &sqlx::postgres::PgRow| {
        assert!(row.get::<bool, _>("at_start"));
        let span = (
            row.get(2),
            row.get(3),
            row.get(4),
            row.get(5),
            row.get(6),
            row.get(7),
            row.get(8),
            row.get(9),
        );
        ((row.get(0), row.get(1)), span)
    };
    rows.iter().map(read).collect()
}

/// What is true of these traces, with these attributes.
fn truth(traces: &[TraceFragment], attributes: &[&str]) -> Rows {
    let spans = traces.iter().flat_map(|trace| {
        let trace_id = trace.trace_id.to_vec();
        trace.spans.iter().map(move |span| (trace_id.clone(), span))
    });
    spans
        .map(|(trace_id, span)| {
            let mut found = serde_json::Map::new();
            for name in attributes {
                found.extend(value(span, name).map(|value| ((*name).to_owned(), value)));
            }
            let row = (
                (!span.is_root()).then(|| span.parent_id.to_vec()),
                span.service.as_deref().map(str::to_owned),
                span.name.as_ref().to_owned(),
                span.kind.keyword().to_owned(),
                span.status.keyword().to_owned(),
                span.start_ns as i64,
                span.duration_ns() as i64,
                (!found.is_empty()).then_some(Value::Object(found)),
            );
            ((trace_id, span.span_id.to_vec()), row)
        })
        .collect()
}

fn value(span: &Span, name: &str) -> Option<Value> {
    if name == "span.http.status_code" {
        return span.http_status_code.map(Value::from);
    }
    let (scope, key) = name.split_once('.').unwrap();
    let scope = match scope {
        "span" => AttributeScope::Span,
        _ => AttributeScope::Resource,
    };
    let found = span
        .attributes
        .iter()
        .find(|attribute| attribute.scope == scope && attribute.key.as_ref() == key)?;
    Some(match &found.value {
        AttributeValue::Text(text) => json!(text.as_ref()),
        AttributeValue::Int(number) => json!(number),
        AttributeValue::Float(number) => json!(number),
        AttributeValue::Bool(value) => json!(value),
    })
}

/// Holds the spans stored of a dataset against those of all traces the Tempo holds, each trace's row against its spans, and the
/// dataset's numbers against both.
async fn equals_truth(scene: &Scene, dataset: &'static str, attributes: &[&str]) {
    let traces = scene.control.traces();
    let mut right = truth(&traces, attributes);
    assert!(!right.is_empty());
    for (key, row) in stored(scene, dataset).await {
        assert_eq!(Some(&row), right.remove(&key).as_ref(), "{key:02x?}");
    }
    assert!(right.is_empty(), "missing: {:02x?}", right.iter().next());

    let rows = sqlx::query(
        "SELECT trace_id, start_ns, end_ns, exact, root_service, root_name, span_count, error_count, services, incomplete_in_source,
                (SELECT (trace_count, span_count) = (SELECT count(*), sum(n.span_count) FROM harvest.traces n WHERE n.dataset = $1)
                 FROM harvest.datasets WHERE name = $1) AS counted
         FROM harvest.traces WHERE dataset = $1",
    )
    .bind(dataset)
    .fetch_all(&scene.pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), traces.len());
    for row in rows {
        let id: Vec<u8> = row.get("trace_id");
        let trace = traces.iter().find(|trace| trace.trace_id[..] == id[..]);
        let truth = trace.unwrap().truth();
        assert_eq!(row.get::<i64, _>("start_ns") as u64, truth.start_ns);
        assert_eq!(row.get::<i64, _>("end_ns") as u64, truth.end_ns);
        assert_eq!(
            row.get::<Option<String>, _>("root_service").as_deref(),
            truth.root_service.as_deref()
        );
        assert_eq!(
            row.get::<Option<String>, _>("root_name").as_deref(),
            truth.root_name.as_deref()
        );
        assert_eq!(row.get::<i32, _>("span_count"), truth.spans as i32);
        assert_eq!(row.get::<i32, _>("error_count"), truth.errors as i32);
        let services: serde_json::Map<String, Value> = truth
            .services
            .iter()
            .map(|(service, counts)| {
                let counts = json!({ "spans": counts.spans, "errors": counts.errors });
                (service.as_ref().to_owned(), counts)
            })
            .collect();
        assert_eq!(row.get::<Value, _>("services"), Value::Object(services));
        assert!(row.get::<bool, _>("exact") && !row.get::<bool, _>("incomplete_in_source"));
        assert!(row.get::<bool, _>("counted"), "the dataset's numbers");
    }
}

/// Traces of all kinds of spans and attributes, a second apart from the first one of the day on.
fn assorted() -> Vec<TraceFragment> {
    let attribute = |scope, key: &str, value| Attribute {
        scope,
        key: key.into(),
        value,
    };
    let start = |number: u64| (DAY_S as u64 + number) * SECOND_NS + 123_456_789;
    let mut traces = Vec::new();
    let kinds = [
        SpanKind::Unspecified,
        SpanKind::Internal,
        SpanKind::Server,
        SpanKind::Client,
        SpanKind::Producer,
        SpanKind::Consumer,
    ];
    let statuses = [SpanStatus::Unset, SpanStatus::Ok, SpanStatus::Error];
    for number in 0..12_u64 {
        let from_ns = start(number);
        let mut id = [0; 16];
        id[15] = number as u8 + 1;
        let mut root = Span::root(1, "shop", "GET \"/\"\n", from_ns, from_ns + 1_234_567);
        let mut child = Span::child(2, 1, "cart\u{0}", "zürich", from_ns + 5, from_ns + 6);
        root.kind = kinds[number as usize % 6];
        root.status = statuses[number as usize % 3];
        root.http_status_code = (number % 2 == 0).then_some(200 + number as i64);
        if number % 4 == 0 {
            // No service, and no root.
            child.service = None;
            root.parent_id = [9; 8];
        }
        let text = AttributeValue::Text("a \"b\" \\ \u{1}".into());
        let resource = AttributeScope::Resource;
        let span = AttributeScope::Span;
        root.attributes = vec![
            attribute(resource, "k8s.namespace.name", text),
            attribute(span, "retries", AttributeValue::Int(i64::MAX)),
            attribute(span, "share", AttributeValue::Float(0.25)),
            attribute(span, "two words", AttributeValue::Bool(number % 2 == 0)),
            attribute(span, "not.asked.for", AttributeValue::Bool(true)),
        ];
        traces.push(TraceFragment::new(id, vec![root, child]));
    }
    traces
}

const ASKED: [&str; 5] = [
    "span.http.status_code",
    "resource.k8s.namespace.name",
    "span.retries",
    "span.share",
    "span.two words",
];
const ASKED_IN_TOML: &str = r#""span.http.status_code", "resource.k8s.namespace.name", "span.retries", "span.share", 'span."two words"'"#;

/// What is stored has no NUL.
fn without_nul(mut traces: Vec<TraceFragment>) -> Vec<TraceFragment> {
    let spans = traces.iter_mut().flat_map(|trace| &mut trace.spans);
    for span in spans {
        if let Some(service) = &mut span.service {
            *service = service.replace('\0', "").into();
        }
    }
    traces
}

fn of_traces(traces: Vec<TraceFragment>) -> Config {
    Config::new(Version::V3_0_3, Population::from_traces(traces))
}

#[tokio::test]
async fn every_span_is_stored_as_it_is() {
    for protobuf in [true, false] {
        let mut config = of_traces(without_nul(assorted()));
        config.protobuf = protobuf;
        let scene = Scene::new(config).await;
        scene.run(&job(1).spans(ASKED_IN_TOML)).await.expect(0);
        equals_truth(&scene, "shop", &ASKED).await;
        let status = scene.command(&["status"]).await.expect(0).stdout;
        assert!(status.contains("12 traces, 24 spans;"), "{status}");
    }
}

#[tokio::test]
async fn thousands_of_traces_in_several_windows() {
    let scene = Scene::new(tempo(&GenerateSettings {
        long_traces: 20,
        ..hours(2, 3_000)
    }))
    .await;
    let job = job(3).spans("\"span.http.status_code\"");
    scene.run(&job).await.expect(0);
    equals_truth(&scene, "shop", &["span.http.status_code"]).await;
    // Again, every row being there already: nothing changes.
    let before = scene.dump_of("harvest.traces").await;
    scene.execute("DELETE FROM harvest.coverage").await;
    scene.run(&job).await.expect(0);
    equals_truth(&scene, "shop", &["span.http.status_code"]).await;
    assert_eq!(scene.dump_of("harvest.traces").await, before);
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

fn id(number: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    id
}

/// A trace of a root in `shop` and children in `cart`, one a second; in as many parts, one after the other.
fn in_parts(number: u64, from_s: i64, spans: u64, parts: usize) -> Vec<TraceFragment> {
    let from_ns = from_s as u64 * SECOND_NS + number;
    let span = |position: u64| {
        let start_ns = from_ns + position * SECOND_NS;
        match position {
            0 => Span::root(1, "shop", "GET /", start_ns, start_ns + 10_000_000),
            _ => Span::child(
                position + 1,
                1,
                "cart",
                "add",
                start_ns,
                start_ns + 1_234_567,
            ),
        }
    };
    let spans: Vec<Span> = (0..spans).map(span).collect();
    spans
        .chunks(spans.len().div_ceil(parts))
        .map(|part| TraceFragment::new(id(number), part.to_vec()))
        .collect()
}

fn push_all(scene: &Scene, traces: &[Vec<TraceFragment>]) {
    let parts = traces.iter().map(Vec::len).max().unwrap();
    for part in 0..parts {
        for trace in traces.iter().filter_map(|trace| trace.get(part)) {
            scene.control.push(trace.clone());
        }
        scene.control.flush();
        scene.control.seal();
    }
}

#[tokio::test]
async fn traces_in_fragments_are_whole_whichever_window_saw_which_part() {
    let scene = Scene::new(lagging()).await;
    let from = (Utc::now().timestamp() - 3 * 3_600) / 60 * 60;
    // In one minute; over three; and one of which each minute tells a part.
    push_all(
        &scene,
        &[
            in_parts(1, from + 5, 20, 2),
            in_parts(2, from + 30, 120, 3),
            in_parts(3, from + 70, 12, 4),
        ],
    );
    for (order, name) in [("newest-first", "newest"), ("oldest-first", "oldest")] {
        let mut job = job(0)
            .spans("")
            .range(from, from + 300)
            .backfill(&format!("window = \"1m\"\norder = \"{order}\""))
            .limits("concurrency = 1");
        job.top = format!("dataset = \"{name}\"");
        scene.run(&job).await.expect(0);
        equals_truth(&scene, name, &[]).await;
    }
    // Nothing was looked up: searches bring it all.
    let looked_up = scene
        .number("SELECT count(*) FROM harvest.fetches WHERE kind = 'trace'")
        .await;
    assert_eq!(looked_up, 0);
}

#[tokio::test]
async fn traces_of_many_spans_are_looked_up_and_never_searched_for_span_by_span() {
    let mut traces: Vec<TraceFragment> = (1..=3)
        .flat_map(|number| in_parts(number, DAY_S + 10, 5_000, 1))
        .collect();
    traces.extend((4..30).flat_map(|number| in_parts(number, DAY_S + 10, number, 1)));
    for protobuf in [true, false] {
        let mut config = of_traces(traces.clone());
        config.protobuf = protobuf;
        let scene = Scene::new(config).await;
        scene.run(&job(1).spans("\"span.x\"")).await.expect(0);
        equals_truth(&scene, "shop", &["span.x"]).await;
        let looked_up = scene
            .number("SELECT sum(returned)::bigint FROM harvest.fetches WHERE kind = 'trace' AND outcome = 'complete'")
            .await;
        assert_eq!(looked_up, 15_000);
        let searches = scene.control.requests();
        let mut bulk = searches
            .iter()
            .filter_map(|request| request.param("q"))
            .filter(|query| query.contains("by(span:id)"));
        assert!(bulk.all(|query| query.contains("count() < 200")));
    }
}

#[tokio::test]
async fn a_filter_brings_whole_traces() {
    let scene = Scene::new(lagging()).await;
    let from = (Utc::now().timestamp() - 3 * 3_600) / 60 * 60;
    // Only the first part of the second has what is asked for; the others have it nowhere, or everywhere.
    let failed = |mut trace: Vec<TraceFragment>| {
        trace[0].spans[0].status = SpanStatus::Error;
        trace
    };
    let whole = [
        failed(in_parts(2, from + 5, 50, 3)),
        failed(in_parts(3, from + 6, 3, 1)),
    ];
    push_all(&scene, &whole);
    let truth_of_these = truth(&scene.control.traces(), &[]);
    push_all(&scene, &[in_parts(1, from + 5, 50, 3)]);
    let job = job(0)
        .spans("")
        .query("{ status = error }")
        .range(from, from + 300);
    scene.run(&job).await.expect(0);
    assert_eq!(stored(&scene, "shop").await, truth_of_these);
    let exact = scene
        .number("SELECT count(*) FROM harvest.traces WHERE exact")
        .await;
    assert_eq!(exact, 2);
}

#[tokio::test]
async fn what_is_too_large_is_cut_and_in_the_end_looked_up() {
    // One second of which an answer brings a small part; most traces are of one duration and root.
    let traces: Vec<TraceFragment> = (0..700)
        .map(|number| {
            let start_ns = (DAY_S as u64 + 10) * SECOND_NS + number;
            let duration_ns = 5_000_000 + number.saturating_sub(400) * 1_000_000;
            let root = Span::root(1, "shop", "GET /", start_ns, start_ns + duration_ns);
            let child = Span::child(2, 1, "cart", "add", start_ns + 1, start_ns + 2);
            TraceFragment::new(id(number + 1), vec![root, child])
        })
        .collect();
    let mut config = of_traces(traces);
    config.limits.max_response_bytes = 100_000;
    let scene = Scene::new(config).await;
    let said = scene.run(&job(1).spans("")).await.expect(0);
    assert!(said.stdout.contains(" 0 retries"), "{}", said.stdout);
    equals_truth(&scene, "shop", &[]).await;
    let looked_up = scene
        .number("SELECT count(*) FROM harvest.fetches WHERE kind = 'trace'")
        .await;
    assert!(looked_up > 0);
}

#[tokio::test]
async fn a_trace_that_tempo_gives_out_in_part_is_stored_and_said_to_be_incomplete() {
    let traces = [
        in_parts(1, DAY_S + 10, 600, 1),
        in_parts(2, DAY_S + 10, 6, 1),
    ]
    .concat();
    let mut config = of_traces(traces);
    config.limits.max_trace_bytes = Some(10_000);
    let scene = Scene::new(config).await;
    let said = scene.run(&job(1).spans("")).await.expect(0);
    assert!(
        said.stderr.contains("max_bytes_per_trace"),
        "{}",
        said.stderr
    );
    let rows: Vec<(bool, bool, i32, i64)> = sqlx::query_as(
        "SELECT exact, incomplete_in_source, span_count, (SELECT count(*) FROM harvest.spans s WHERE s.trace_id = t.trace_id)
         FROM harvest.traces t ORDER BY trace_id",
    )
    .fetch_all(&scene.pool)
    .await
    .unwrap();
    assert!(rows[0].2 > 10 && rows[0].2 < 600);
    assert_eq!(rows[0], (false, true, rows[0].2, i64::from(rows[0].2)));
    assert_eq!(rows[1], (true, false, 6, 6));
    let tries = scene
        .number("SELECT count(*) FROM harvest.fetches WHERE kind = 'trace' AND outcome = 'cut'")
        .await;
    assert_eq!(tries, 4);
    // Once Tempo gives it out, it is completed.
    scene
        .control
        .change_limits(|limits| limits.max_trace_bytes = None);
    scene.execute("DELETE FROM harvest.coverage").await;
    scene.run(&job(1).spans("")).await.expect(0);
    equals_truth(&scene, "shop", &[]).await;
}

#[tokio::test]
async fn more_detail_and_more_attributes_improve_what_is_stored() {
    let scene = Scene::new(of_traces(without_nul(assorted()))).await;
    scene.run(&job(1).services()).await.expect(0);
    scene.run(&job(1).spans("\"span.retries\"")).await.expect(0);
    equals_truth(&scene, "shop", &["span.retries"]).await;
    scene.run(&job(1).spans(ASKED_IN_TOML)).await.expect(0);
    equals_truth(&scene, "shop", &ASKED).await;
    // Less is another dataset.
    let said = scene.run(&job(1).spans("\"span.retries\"")).await.expect(2);
    assert!(
        said.stderr
            .contains("was collected with another attributes")
            || said.stderr.contains("other attributes"),
        "{}",
        said.stderr
    );
}

#[tokio::test]
async fn spans_of_one_id_are_stored_once_and_a_failed_answer_is_asked_for_again() {
    let mut trace = in_parts(1, DAY_S + 10, 4, 1).remove(0);
    let mut twin = trace.spans[2].clone();
    twin.kind = SpanKind::Client;
    twin.start_ns -= 5;
    trace.spans.push(twin);
    let scene = Scene::new(of_traces(vec![trace])).await;
    scene
        .control
        .add_fault(Fault::next(2, Misbehaviour::Status(503)));
    scene.run(&job(1).spans("")).await.expect(0);
    let rows = stored(&scene, "shop").await;
    assert_eq!(rows.len(), 4);
    let kinds: Vec<&str> = rows.values().map(|row| row.3.as_str()).collect();
    assert_eq!(kinds, ["server", "server", "client", "server"]);
}

#[tokio::test]
async fn spans_go_with_their_traces() {
    let edge = hour_edge_before(30);
    let traces = [
        in_parts(1, edge + 60, 6, 1),
        in_parts(2, edge + 3 * HOUR_S, 300, 1),
    ]
    .concat();
    let scene = Scene::new(of_traces(traces)).await;
    let whole = job(0).spans("").range(edge, edge + 4 * HOUR_S);
    scene.run(&whole.clone().retention("48h")).await.expect(0);
    equals_truth(&scene, "shop", &[]).await;
    let kept_h = (Utc::now().timestamp() - edge - 2 * HOUR_S) / HOUR_S;
    scene
        .run(&whole.clone().retention(&format!("{kept_h}h")))
        .await
        .expect(0);
    let pruned = scene.command(&["prune", "shop", "--yes"]).await.expect(0);
    assert!(pruned.stdout.contains("1 traces"), "{}", pruned.stdout);
    let numbers =
        "SELECT (count(*) * 1000000 + max(d.span_count) * 1000 + max(d.trace_count))::bigint
                   FROM harvest.spans, harvest.datasets d";
    assert_eq!(scene.number(numbers).await, 300_300_001);
    let reset = scene
        .command(&["dataset", "reset", "shop", "--yes"])
        .await
        .expect(0);
    assert!(
        reset.stdout.contains("1 trace with 300 spans"),
        "{}",
        reset.stdout
    );
    assert_eq!(
        scene
            .number("SELECT count(*) + sum(span_count)::bigint FROM harvest.datasets LEFT JOIN harvest.spans ON true")
            .await,
        1
    );
}
