//! Around the queries: tenants, credentials, limits, forms of answers, the clock, the population.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

use flate2::read::GzDecoder;
use prost::Message as _;
use tempo_harvest::simulator::{
    Burst, Credentials, GenerateSettings, Population, PopulationError, Tenancy,
};
use tempo_harvest::tempo::wire::messages::SearchResponse;

use super::{at, http, search, seconds, start, start_with, trace, traces};

const NOW_S: i64 = 1_795_250_000;
const SEARCH: &str = "/api/search?start=1795230000&end=1795240000&limit=1000&q=%7B%7D";

fn population(traces: usize) -> Population {
    let settings = GenerateSettings::new(9, at(1_795_230_000), at(1_795_240_000), traces);
    Population::generate(&settings)
}

#[test]
fn answers_come_compressed_where_accepted() {
    let simulator = start(population(200), at(NOW_S));
    let plain = http::get(&simulator.url(), SEARCH);
    let packed = http::get_with(&simulator.url(), SEARCH, &[("accept-encoding", "gzip, br")]);
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert!(packed.is_whole() && packed.body.len() * 2 < plain.body.len());
    let mut unpacked = Vec::new();
    GzDecoder::new(packed.body.as_slice())
        .read_to_end(&mut unpacked)
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&unpacked).unwrap();
    assert_eq!(traces(&answer).len(), 200);
}

#[test]
fn protobuf_is_answered_where_accepted_unless_a_proxy_drops_it() {
    let accept = [("accept", "application/protobuf")];
    let simulator = start(population(200), at(NOW_S));
    let reply = http::get_with(&simulator.url(), SEARCH, &accept);
    assert_eq!(reply.content_type(), "application/protobuf");
    let decoded = SearchResponse::decode(reply.body.as_slice()).unwrap();
    assert_eq!(decoded.traces.len(), 200);

    let behind_proxy = start_with(population(200), at(NOW_S), |config| config.protobuf = false);
    let reply = http::get_with(&behind_proxy.url(), SEARCH, &accept);
    assert_eq!(reply.content_type(), "application/json");
}

#[test]
fn tenants_are_told_apart_and_needed() {
    let simulator = start_with(Population::empty(), at(NOW_S), |config| {
        config.tenancy = Tenancy::Multi(BTreeMap::from([
            ("blue".to_owned(), Arc::new(population(7))),
            ("red".to_owned(), Arc::new(population(3))),
        ]));
    });
    let refused = http::get(&simulator.url(), SEARCH);
    assert_eq!(
        (refused.status, refused.text().as_str()),
        (401, "no org id\n")
    );
    assert_eq!(refused.content_type(), "text/plain; charset=utf-8");
    for (tenant, expected) in [("blue", 7), ("red", 3), ("green", 0)] {
        let reply = http::get_with(&simulator.url(), SEARCH, &[("X-Scope-OrgID", tenant)]);
        assert_eq!(traces(&reply.json()).len(), expected, "{tenant}");
    }
    assert_eq!(simulator.control().tenant("red").truth().len(), 3);
    assert_eq!(http::get(&simulator.url(), "/ready").status, 200);
}

#[test]
fn credentials_are_checked_and_kept_out_of_the_log() {
    let basic = Credentials::Basic {
        username: "Aladdin".to_owned(),
        password: "open sesame".to_owned().into(),
    };
    let bearer = Credentials::Bearer("hush".to_owned().into());
    for (credentials, header) in [
        (basic, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        (bearer, "Bearer hush"),
    ] {
        assert!(!format!("{credentials:?}").contains("hush"));
        let simulator = start_with(population(1), at(NOW_S), |config| {
            config.credentials = credentials;
        });
        assert_eq!(http::get(&simulator.url(), SEARCH).status, 401);
        let wrong = [("authorization", "Bearer wrong")];
        assert_eq!(http::get_with(&simulator.url(), SEARCH, &wrong).status, 401);
        let right = [("authorization", header)];
        assert_eq!(http::get_with(&simulator.url(), SEARCH, &right).status, 200);
        let requests = simulator.control().requests();
        assert_eq!(requests[0].header("authorization"), None);
        assert_eq!(requests[2].header("authorization"), Some("(withheld)"));
    }
}

#[test]
fn a_base_path_is_needed_where_there_is_one() {
    let simulator = start_with(population(1), at(NOW_S), |config| {
        config.base_path = "/tempo".to_owned();
    });
    assert!(simulator.url().ends_with("/tempo"));
    assert_eq!(http::get(&simulator.url(), "/api/echo").text(), "echo\n");
    let bare = simulator.url().replace("/tempo", "");
    let reply = http::get(&bare, "/api/echo");
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (404, "404 page not found\n")
    );
    assert_eq!(http::get(&bare, "/tempore/api/echo").status, 404);
}

#[test]
fn the_date_is_that_of_the_servers_own_clock() {
    let simulator = start(Population::empty(), at(0));
    let date = || {
        let reply = http::get(&simulator.url(), "/ready");
        reply.header("date").unwrap().to_owned()
    };
    assert_eq!(date(), "Thu, 01 Jan 1970 00:00:00 GMT");
    simulator.control().advance(seconds(86_461));
    assert_eq!(date(), "Fri, 02 Jan 1970 00:01:01 GMT");
}

#[test]
fn limits_can_be_changed_while_it_runs() {
    let simulator = start(population(5), at(NOW_S));
    simulator
        .control()
        .change_limits(|limits| limits.max_result_limit = 500);
    let reply = http::get(&simulator.url(), SEARCH);
    assert_eq!(reply.text(), "limit 1000 exceeds max limit 500");
    simulator
        .control()
        .change_limits(|limits| limits.max_result_limit = 0);
    assert_eq!(http::get(&simulator.url(), SEARCH).status, 200);
}

#[test]
fn wrong_parameters_are_refused_in_gos_words() {
    let simulator = start(population(1), at(NOW_S));
    for (query, message) in [
        (
            "start=x",
            r#"invalid start: strconv.ParseUint: parsing "x": invalid syntax"#,
        ),
        (
            "end=99999999999",
            r#"invalid end: strconv.ParseUint: parsing "99999999999": value out of range"#,
        ),
        (
            "start=5",
            "http parameter start must be before end. received start=5 end=0",
        ),
        (
            "end=5",
            "error parsing date range: only one of start and end provided: must provide both or neither",
        ),
    ] {
        let reply = http::get(&simulator.url(), &format!("/api/search?{query}"));
        assert_eq!((reply.status, reply.text().as_str()), (400, message));
    }
    for (query, message) in [
        (
            "start=1&end=200000&step=1s",
            "step of 1s is too small, minimum step for given range is 19.9999s",
        ),
        (
            "start=1&end=20&step=x",
            r#"cannot parse "x" to a valid duration"#,
        ),
        ("start=20&end=10&step=1s", "end must be greater than start"),
    ] {
        let path = format!(
            "/api/metrics/query_range?{query}&q={}",
            http::encoded(super::ROOTS)
        );
        let reply = http::get(&simulator.url(), &path);
        assert_eq!((reply.status, reply.text().as_str()), (400, message));
    }
}

#[test]
fn without_limit_an_answer_is_cut_at_20_and_without_a_window_only_recent_data_is_searched() {
    let now_s = 1_795_240_000 + 40;
    let simulator = start(population(500), at(now_s));
    let path = "/api/search?start=1795230000&end=1795240000";
    assert_eq!(traces(&http::get(&simulator.url(), path).json()).len(), 20);
    let recent = traces(&http::get(&simulator.url(), "/api/search?limit=1000").json()).len();
    assert!(0 < recent && recent < 100, "{recent}");
}

#[test]
fn a_population_repeats_with_its_seed_and_survives_being_written() {
    let settings = GenerateSettings {
        bursts: vec![Burst {
            at_s: 1_795_235_000,
            traces: 40,
        }],
        long_traces: 5,
        rootless_traces: 6,
        ..GenerateSettings::new(4, at(1_795_230_000), at(1_795_240_000), 100)
    };
    let population = Population::generate(&settings);
    let written = population.to_tsv();
    assert_eq!(population.len(), 151);
    assert_eq!(Population::generate(&settings).to_tsv(), written);
    let other = GenerateSettings {
        seed: 5,
        ..settings
    };
    assert_ne!(Population::generate(&other).to_tsv(), written);

    let read = Population::from_tsv(&written).unwrap();
    assert_eq!(read.to_tsv(), written);
    for truth in population.traces() {
        assert!((1..=7).contains(&truth.spans));
        let counts = truth.services.values();
        assert_eq!(
            counts.clone().map(|count| count.spans).sum::<u32>(),
            truth.spans
        );
        assert_eq!(counts.map(|count| count.errors).sum::<u32>(), truth.errors);
    }
    let rootless = population
        .traces()
        .filter(|trace| trace.root_service.is_none());
    assert_eq!(rootless.count(), 6);
    let long = population
        .traces()
        .filter(|trace| trace.end_ns - trace.start_ns >= 60_000_000_000);
    assert_eq!(long.count(), 5);
    assert!(population.overlapping(1_795_235_000, 1_795_235_001).len() >= 40);
}

#[test]
fn what_is_made_from_a_traces_facts_agrees_with_them() {
    let population = population(300);
    for (truth, fragment) in population.traces().zip(population.fragments()) {
        assert_eq!(fragment.truth(), truth);
    }
}

#[test]
fn a_line_that_is_no_trace_is_named() {
    let message = |text: &str| match Population::from_tsv(text) {
        Err(error @ PopulationError::Line { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(
        message("abc")
            .starts_with("line 1 of the population: there are not seven columns in `abc`")
    );
    let good = "1af3bda5ff21dd5a39d7c1402ce678fe\t1\t2\t1\tshop\tGET /\t0\n";
    let text = message(&format!("{good}{}", good.replace("\t1\t2", "\t2\t1")));
    assert!(
        text.starts_with("line 2 of the population: end_ns is before start_ns"),
        "{text}"
    );
}

#[test]
fn the_log_says_what_was_asked() {
    let simulator = start(
        Population::from_traces(vec![trace(1, 1_795_230_000, 5)]),
        at(NOW_S),
    );
    search(&simulator, Some("{}"), (1_795_230_000, 1_795_230_060), 7);
    let requests = simulator.control().requests();
    let request = &requests[0];
    assert_eq!(request.path, "/api/search");
    assert_eq!(request.param("q").as_deref(), Some("{}"));
    assert_eq!(request.window_s(), 60);
    assert_eq!((request.status, request.in_flight), (Some(200), 1));
    assert!(request.body_bytes > 0 && request.took.is_some());
    assert_eq!(request.server_time, at(NOW_S));
    simulator.control().forget_requests();
    assert!(simulator.control().requests().is_empty());
}

#[test]
fn the_predecessor_of_the_look_up_answers_too() {
    let population = Population::from_traces(vec![trace(1, 1_795_230_000, 5)]);
    let simulator = start(population, at(NOW_S));
    let path = format!("/api/traces/{:032x}", u128::from_be_bytes(super::id(1)));
    let answer = http::get(&simulator.url(), &path).json();
    assert_eq!(answer["batches"].as_array().unwrap().len(), 1);
    assert_eq!(http::get(&simulator.url(), "/api/traces/1").status, 404);
}
