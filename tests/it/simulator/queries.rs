//! TraceQL: what is understood, and how the rest is refused.

use tempo_harvest::simulator::{
    Attribute, AttributeScope, AttributeValue, Population, Simulator, Span, SpanKind, SpanStatus,
    TraceFragment,
};

use super::{at, http, id, ids, search, search_reply, start, traces};

const START_S: i64 = 1_795_200_000;
const WINDOW: (i64, i64) = (START_S - 10, START_S + 10);

/// Three traces: 1 is `shop` calling `stock` with an error, 2 is `shop` alone, 3 is a client span of `mail` without a root.
fn simulator() -> Simulator {
    let start_ns = START_S as u64 * 1_000_000_000;
    let span = |span_id, service, name, duration_ms: u64| {
        Span::root(
            span_id,
            service,
            name,
            start_ns,
            start_ns + duration_ms * 1_000_000,
        )
    };
    let stock = Span {
        parent_id: 1_u64.to_be_bytes(),
        status: SpanStatus::Error,
        kind: SpanKind::Client,
        http_status_code: Some(503),
        attributes: vec![Attribute {
            scope: AttributeScope::Resource,
            key: "k8s.namespace.name".into(),
            value: AttributeValue::Text("blue".into()),
        }],
        ..span(2, "stock", "GET /stock", 30)
    };
    let mail = Span {
        parent_id: [7; 8],
        kind: SpanKind::Client,
        ..span(4, "mail", "send", 5)
    };
    let population = Population::from_traces(vec![
        TraceFragment::new(id(1), vec![span(1, "shop", "GET /cart", 100), stock]),
        TraceFragment::new(id(2), vec![span(3, "shop", "GET /", 80)]),
        TraceFragment::new(id(3), vec![mail]),
    ]);
    start(population, at(START_S + 10_000))
}

/// The numbers of the traces that a query finds.
fn found(simulator: &Simulator, query: &str) -> Vec<u8> {
    let answer = search(simulator, Some(query), WINDOW, 10);
    ids(&answer)
        .iter()
        .map(|id| u8::from_str_radix(&id[30..], 16).unwrap())
        .collect()
}

#[test]
fn queries_find_what_they_describe() {
    let simulator = simulator();
    for (query, expected) in [
        ("{}", vec![1, 2, 3]),
        ("{ }", vec![1, 2, 3]),
        ("{ true }", vec![1, 2, 3]),
        ("{ false }", vec![]),
        ("{nestedSetParent<0}", vec![1, 2]),
        ("{nestedSetParent = -1}", vec![1, 2]),
        ("{trace:duration >= 80ms}", vec![1, 2]),
        ("{traceDuration > 80ms}", vec![1]),
        ("{80ms < trace:duration}", vec![1]),
        ("{duration < 50ms}", vec![1, 3]),
        ("{span:duration = 5ms}", vec![3]),
        (r#"{name = "send"}"#, vec![3]),
        (r#"{span:name =~ "GET /.+"}"#, vec![1]),
        (r#"{span:name =~ "GET"}"#, vec![]),
        (r#"{name !~ "GET.*"}"#, vec![3]),
        ("{status = error}", vec![1]),
        ("{status != error}", vec![1, 2, 3]),
        ("{span:kind = client}", vec![1, 3]),
        (r#"{resource.service.name = "stock"}"#, vec![1]),
        (r#"{.service.name = "mail"}"#, vec![3]),
        (r#"{resource.service.name != "shop"}"#, vec![1, 3]),
        (r#"{resource.k8s.namespace.name = "blue"}"#, vec![1]),
        ("{span.http.status_code >= 500}", vec![1]),
        ("{span.http.status_code != nil}", vec![1]),
        ("{span.http.status_code = nil}", vec![1, 2, 3]),
        (r#"{trace:rootService = "shop"}"#, vec![1, 2]),
        (r#"{rootServiceName = ""}"#, vec![3]),
        (r#"{trace:rootName = "GET /"}"#, vec![2]),
        (r#"{rootName != "GET /"}"#, vec![1, 3]),
        (
            r#"{status = error && resource.service.name = "stock"}"#,
            vec![1],
        ),
        (
            r#"{status = error && resource.service.name = "shop"}"#,
            vec![],
        ),
        (
            r#"{status = error} && {resource.service.name = "shop"}"#,
            vec![1],
        ),
        (r#"{name = "send"} || {name = "GET /"}"#, vec![2, 3]),
        ("({status = error}) && ({nestedSetParent<0})", vec![1]),
        (
            r#"{(name = "send" || status = error) && kind = client}"#,
            vec![1, 3],
        ),
        // Both bind equally, from the left.
        (
            r#"{name = "send" || status = error && kind = server}"#,
            vec![],
        ),
        ("{} | count() > 1", vec![1]),
        ("{} | count() = 1", vec![2, 3]),
        ("({} | count() > 1) || ({kind = client})", vec![1, 3]),
        ("{} | by(span:id) | count() = 1", vec![1, 2, 3]),
        ("{} with (nope=1)", vec![1, 2, 3]),
    ] {
        assert_eq!(found(&simulator, query), expected, "{query}");
    }
}

#[test]
fn matched_spans_come_with_what_the_query_mentions() {
    let simulator = simulator();
    let query =
        r#"{status = error} | select(resource.service.name, span:parentID, name, span.none)"#;
    let answer = search(&simulator, Some(query), WINDOW, 10);
    let set = &traces(&answer)[0]["spanSets"][0];
    let span = &set["spans"][0];
    assert_eq!(set["matched"], 1);
    assert_eq!(span["name"], "GET /stock");
    let attributes: Vec<(&str, &str)> = span["attributes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attribute| {
            (
                attribute["key"].as_str().unwrap(),
                attribute["value"]["stringValue"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("status", "error"),
        ("service.name", "stock"),
        ("span:parentID", "0000000000000001"),
    ];
    assert_eq!(attributes, expected);
    // The stats are the whole trace's all the same.
    assert_eq!(traces(&answer)[0]["serviceStats"]["shop"]["spanCount"], 1);
}

#[test]
fn spans_per_span_set_bounds_the_spans_but_not_the_count() {
    let simulator = simulator();
    let path = |spss: &str| {
        format!(
            "/api/search?start={}&end={}&q=%7B%7D{spss}",
            WINDOW.0, WINDOW.1
        )
    };
    let first = |spss: &str| {
        let answer = http::get(&simulator.url(), &path(spss)).json();
        let mut found = traces(&answer).clone();
        found.retain(|trace| trace["rootTraceName"] == "GET /cart");
        let set = &found[0]["spanSets"][0];
        (
            set["spans"].as_array().unwrap().len(),
            set["matched"].as_u64().unwrap(),
        )
    };
    assert_eq!(first("&spss=1"), (1, 2));
    assert_eq!(first(""), (2, 2));
}

#[test]
fn what_cannot_be_parsed_is_refused_in_tempos_words() {
    let simulator = simulator();
    // Positions and words as in the tests of Tempo's own parser.
    for (query, message) in [
        (
            "{ duration > }",
            "parse error at line 1, col 14: syntax error: unexpected }",
        ),
        (
            "{ .a | .b }",
            "parse error at line 1, col 6: syntax error: unexpected |",
        ),
        (
            "{ true } &&",
            "parse error at line 1, col 12: syntax error: unexpected $end, expecting { or (",
        ),
        (
            "({ true } | { true }",
            "parse error at line 1, col 21: syntax error: unexpected $end, expecting ) or |",
        ),
        (
            "wharblgarbl",
            "parse error at line 1, col 1: syntax error: unexpected IDENTIFIER",
        ),
        (
            "{ + }",
            "parse error at line 1, col 3: syntax error: unexpected +",
        ),
        (
            "{ 2 = .b ",
            "parse error at line 1, col 10: syntax error: unexpected $end",
        ),
        (
            "{ . foo }",
            "parse error at line 1, col 3: syntax error: unexpected END_ATTRIBUTE, expecting IDENTIFIER",
        ),
        (
            "{ .foo .bar }",
            "parse error at line 1, col 8: syntax error: unexpected .",
        ),
        (
            "by()",
            "parse error at line 1, col 4: syntax error: unexpected )",
        ),
        (
            "select()",
            "parse error at line 1, col 8: syntax error: unexpected )",
        ),
        (
            "count(avg)",
            "parse error at line 1, col 7: syntax error: unexpected avg, expecting )",
        ),
        (
            "coalesce()",
            "parse error at line 1, col 1: syntax error: unexpected coalesce",
        ),
        // A token of several parts has no line.
        (
            "by(.a) && { .b }",
            "parse error at line 0, col 8: syntax error: unexpected &&, expecting with",
        ),
        (
            "{ duration = wrong }",
            "parse error at line 1, col 14: unknown identifier: wrong",
        ),
        (
            "{ name = 3 }",
            "binary operations must operate on the same type: name = 3",
        ),
        (
            "{ status > error }",
            "illegal operation for the given types: status > error",
        ),
        (r#"{ name =~ "(" }"#, "invalid regex: `(`"),
        (
            "{ resource.service.name = nil }",
            "resource.service.name=nil is not valid because resource.service.name cannot be nil",
        ),
        (
            "{ name = nil }",
            "name=nil is not valid because intrinsics cannot be nil",
        ),
    ] {
        let reply = search_reply(&simulator, Some(query), WINDOW, 10);
        assert_eq!(reply.status, 400, "{query}");
        assert_eq!(
            reply.text(),
            format!("invalid TraceQL query: {message}"),
            "{query}"
        );
        assert_eq!(reply.content_type(), "text/plain; charset=utf-8");
    }
}

#[test]
fn a_search_query_is_no_metrics_query() {
    let reply = super::count_reply(&simulator(), "{}", WINDOW, "10s");
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (400, "not a metrics query")
    );
}
