//! What real Tempos answered, and what the simulator answers with the same data.
//!
//! Two populations: the truth that was ingested, which does not say what single spans were like, so that answers are compared in what it
//! does say; and the whole spans of the first hour, as they were recorded, so that answers are compared in everything.

use std::collections::BTreeMap;
use std::path::PathBuf;

use prost::Message as _;
use serde_json::Value;
use tempo_harvest::simulator::{
    Attribute, AttributeScope, AttributeValue, ClockSetting, Config, Population, Simulator, Span,
    SpanKind, SpanStatus, Text, TraceFragment, Version,
};
use tempo_harvest::tempo::wire::Format;
use tempo_harvest::tempo::wire::messages::{SearchResponse, TraceByIdResponse};
use tempo_harvest::tempo::wire::spans::{self, Wanted};

use super::at;
use super::http::{self, Reply};

const VERSIONS: [(Version, &str); 2] = [(Version::V3_0_3, "3.0.3"), (Version::V2_10_8, "2.10.8")];

/// Answers that do not depend on the data, or are determined by it to the byte.
const EXACT: [&str; 15] = [
    "buildinfo",
    "echo",
    "ready",
    "not-found",
    "error-bad-traceql",
    "error-limit-above-max",
    "error-limit-zero",
    "error-range-above-max",
    "error-spss-above-max",
    "error-start-after-end",
    "error-start-equals-end",
    "metrics-error-range-above-max",
    "search-empty-window",
    "trace-bad-id",
    "trace-not-found",
];

/// Searches answered in full, whose traces the truth determines.
const WHOLE_SEARCHES: [&str; 12] = [
    "search-all-json",
    "search-all-protobuf",
    "search-noquery-json",
    "search-noquery-protobuf",
    "search-half-json",
    "search-otherhalf-json",
    "search-burst-second",
    "search-burst-long",
    "search-burst-short",
    "search-rooted",
    "search-rootless",
    "search-spans-json",
];

/// Searches that were cut.
const CUT_SEARCHES: [&str; 4] = [
    "error-bad-hint",
    "search-burst-overlimit",
    "search-overlimit-any",
    "search-spans-truncated",
];

struct Recording {
    path: String,
    accept: String,
    status: u16,
    content_type: String,
    body: Vec<u8>,
}

impl Recording {
    fn load(version: &str, name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tempo");
        // 2.10.8 holds only what differs.
        let own = folder.join(version).join(format!("{name}.json"));
        let file = if own.exists() {
            own
        } else {
            folder.join("3.0.3").join(format!("{name}.json"))
        };
        let about: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            path: text(&about["request"]["path"]),
            accept: text(&about["request"]["accept"]),
            status: about["status"].as_u64().unwrap() as u16,
            content_type: text(&about["content_type"]),
            body: std::fs::read(file.with_extension("body")).unwrap(),
        }
    }

    /// The simulator's answer to the same request, which must be of the same status and type.
    fn replay(&self, simulator: &Simulator) -> Reply {
        let reply = http::get_with(&simulator.url(), &self.path, &[("accept", &self.accept)]);
        assert_eq!(reply.status, self.status, "{}: {}", self.path, reply.text());
        assert_eq!(reply.content_type(), self.content_type, "{}", self.path);
        reply
    }
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/tempo")
        .join(name)
}

fn simulator(version: Version, population: Population) -> Simulator {
    let mut config = Config::new(version, population);
    config.clock = ClockSetting::Fixed(at(1_795_250_000));
    Simulator::start(config).unwrap()
}

fn truth_simulator(version: Version) -> Simulator {
    let population = Population::load_tsv(&fixture("truth.tsv")).unwrap();
    simulator(version, population)
}

/// A trace of an answer, in either form, as far as the truth determines it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    trace_id: String,
    root_service: String,
    root_name: String,
    start_ns: u64,
    duration_ms: u64,
    matched: Vec<u64>,
    spans: Option<u64>,
    errors: Option<u64>,
}

fn seen(content_type: &str, body: &[u8]) -> Vec<Seen> {
    if content_type == "application/protobuf" {
        return SearchResponse::decode(body)
            .unwrap()
            .traces
            .into_iter()
            .map(|trace| {
                let stats = trace.service_stats.values();
                let counted = !trace.service_stats.is_empty();
                Seen {
                    spans: counted.then(|| stats.clone().map(|s| u64::from(s.span_count)).sum()),
                    errors: counted.then(|| stats.map(|s| u64::from(s.error_count)).sum()),
                    matched: trace
                        .span_sets
                        .iter()
                        .map(|set| u64::from(set.matched))
                        .collect(),
                    trace_id: trace.trace_id,
                    root_service: trace.root_service_name,
                    root_name: trace.root_trace_name,
                    start_ns: trace.start_time_unix_nano,
                    duration_ms: u64::from(trace.duration_ms),
                }
            })
            .collect();
    }
    let answer: Value = serde_json::from_slice(body).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    answer["traces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|trace| {
            let stats = trace["serviceStats"].as_object();
            let sum = |key: &str| {
                stats.map(|services| {
                    services
                        .values()
                        .map(|counts| counts[key].as_u64().unwrap_or(0))
                        .sum()
                })
            };
            Seen {
                trace_id: text(&trace["traceID"]),
                root_service: text(&trace["rootServiceName"]),
                root_name: text(&trace["rootTraceName"]),
                start_ns: text(&trace["startTimeUnixNano"]).parse().unwrap(),
                duration_ms: trace["durationMs"].as_u64().unwrap_or(0),
                matched: trace["spanSets"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|set| set["matched"].as_u64().unwrap_or(0))
                    .collect(),
                spans: sum("spanCount"),
                errors: sum("errorCount"),
            }
        })
        .collect()
}

#[test]
fn refusals_and_small_answers_are_equal_to_the_byte() {
    for (version, name) in VERSIONS {
        let simulator = truth_simulator(version);
        for recording_name in EXACT {
            let recording = Recording::load(name, recording_name);
            let reply = recording.replay(&simulator);
            let recorded = String::from_utf8_lossy(&recording.body);
            assert_eq!(reply.text(), recorded, "{name} {recording_name}");
        }
    }
}

#[test]
fn whole_searches_find_the_same_traces_in_the_same_order() {
    for (version, name) in VERSIONS {
        let simulator = truth_simulator(version);
        for recording_name in WHOLE_SEARCHES {
            let recording = Recording::load(name, recording_name);
            let reply = recording.replay(&simulator);
            let recorded = seen(&recording.content_type, &recording.body);
            let simulated = seen(&recording.content_type, &reply.body);
            assert!(!recorded.is_empty());
            assert_eq!(simulated, recorded, "{name} {recording_name}");
        }
    }
}

#[test]
fn cut_searches_are_full_and_tell_nothing_but_the_truth() {
    for (version, name) in VERSIONS {
        let simulator = truth_simulator(version);
        let all = Recording::load(name, "search-all-json");
        let all: BTreeMap<String, Seen> = seen(&all.content_type, &all.body)
            .into_iter()
            .map(|trace| (trace.trace_id.clone(), trace))
            .collect();
        for recording_name in CUT_SEARCHES {
            let recording = Recording::load(name, recording_name);
            let reply = recording.replay(&simulator);
            let recorded = seen(&recording.content_type, &recording.body);
            let simulated = seen(&recording.content_type, &reply.body);
            assert_eq!(simulated.len(), recorded.len(), "{name} {recording_name}");
            for trace in &simulated {
                assert_eq!(trace, &all[&trace.trace_id], "{name} {recording_name}");
            }
        }
    }
}

#[test]
fn most_recent_keeps_the_same_traces() {
    for (version, name) in VERSIONS {
        let recording = Recording::load(name, "search-overlimit-mostrecent");
        let reply = recording.replay(&truth_simulator(version));
        assert_eq!(
            seen(&recording.content_type, &reply.body),
            seen(&recording.content_type, &recording.body)
        );
    }
}

#[test]
fn a_filter_by_service_finds_every_trace_rooted_there() {
    for (version, name) in VERSIONS {
        let recording = Recording::load(name, "search-filter-service");
        let reply = recording.replay(&truth_simulator(version));
        let rooted = |body: &[u8]| {
            let mut found = seen(&recording.content_type, body);
            found.retain(|trace| trace.root_service == "checkout");
            found
                .into_iter()
                .map(|trace| trace.trace_id)
                .collect::<Vec<_>>()
        };
        assert!(!rooted(&recording.body).is_empty());
        assert_eq!(rooted(&reply.body), rooted(&recording.body));
    }
}

#[test]
fn counts_are_equal_in_every_sample() {
    let simulator = truth_simulator(Version::V3_0_3);
    for name in ["metrics-roots-range-json", "metrics-roots-range-protobuf"] {
        let recording = Recording::load("3.0.3", name);
        let simulated = recording.replay(&simulator).json();
        let recorded: Value = serde_json::from_slice(&recording.body).unwrap();
        let (simulated, recorded) = (&simulated["series"][0], &recorded["series"][0]);
        assert_eq!(simulated["labels"], recorded["labels"]);
        assert_eq!(simulated["samples"], recorded["samples"]);
        let first = &recorded["exemplars"][0];
        let kind = |value: &Value| {
            value
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(kind(&simulated["exemplars"][0]), kind(first));
    }
    let recording = Recording::load("3.0.3", "metrics-roots-instant");
    let simulated = recording.replay(&simulator).json();
    let recorded: Value = serde_json::from_slice(&recording.body).unwrap();
    assert_eq!(simulated["series"], recorded["series"]);
}

#[test]
fn a_tempo_2_without_metrics_answers_with_no_series() {
    let simulator = truth_simulator(Version::V2_10_8);
    for name in [
        "metrics-roots-range-json",
        "metrics-roots-range-protobuf",
        "metrics-roots-instant",
    ] {
        let recording = Recording::load("2.10.8", name);
        let reply = recording.replay(&simulator);
        assert_eq!(
            reply.text(),
            String::from_utf8_lossy(&recording.body),
            "{name}"
        );
    }
}

#[test]
fn a_look_up_by_id_brings_the_whole_trace() {
    for (version, name) in VERSIONS {
        let simulator = truth_simulator(version);
        let recording = Recording::load(name, "trace-protobuf");
        let reply = recording.replay(&simulator);
        let facts = |body: &[u8]| {
            let answer = TraceByIdResponse::decode(body).unwrap();
            assert_eq!(answer.status, TraceByIdResponse::COMPLETE);
            let spans: Vec<_> = answer
                .trace
                .unwrap()
                .resource_spans
                .into_iter()
                .flat_map(|service| service.scope_spans)
                .flat_map(|scope| scope.spans)
                .collect();
            let root = spans
                .iter()
                .find(|span| span.parent_span_id.is_empty())
                .unwrap();
            (
                root.trace_id.clone(),
                root.name.clone(),
                spans.len(),
                spans.iter().map(|span| span.start_time_unix_nano).min(),
                spans.iter().map(|span| span.end_time_unix_nano).max(),
            )
        };
        assert_eq!(facts(&reply.body), facts(&recording.body));
    }
}

/// The first hour's traces with their spans, as a search for all of them returned them.
fn first_hour(version: &str) -> Population {
    let recording = Recording::load(version, "search-spans-json");
    let answer: Value = serde_json::from_slice(&recording.body).unwrap();
    let traces = answer["traces"].as_array().unwrap().iter().map(|trace| {
        let set = &trace["spanSets"][0];
        assert_eq!(
            set["matched"].as_u64().unwrap() as usize,
            set["spans"].as_array().unwrap().len()
        );
        let id = format!("{:0>32}", trace["traceID"].as_str().unwrap());
        let id = u128::from_str_radix(&id, 16).unwrap().to_be_bytes();
        let spans = set["spans"].as_array().unwrap().iter().map(recorded_span);
        TraceFragment::new(id, spans.collect())
    });
    Population::from_traces(traces.collect())
}

fn recorded_span(span: &Value) -> Span {
    let attribute = |key: &str| {
        span["attributes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|attribute| attribute["key"] == key)
            .map(|attribute| &attribute["value"])
            .unwrap()
    };
    let number = |text: &Value| text.as_str().unwrap().parse::<u64>().unwrap();
    let hex = |text: &Value| {
        u64::from_str_radix(text.as_str().unwrap(), 16)
            .unwrap()
            .to_be_bytes()
    };
    let start_ns = number(&span["startTimeUnixNano"]);
    assert_eq!(attribute("kind")["stringValue"], "server");
    Span {
        span_id: hex(&span["spanID"]),
        parent_id: hex(&attribute("span:parentID")["stringValue"]),
        service: attribute("service.name")["stringValue"]
            .as_str()
            .map(Text::from),
        name: Text::from(span["name"].as_str().unwrap()),
        kind: SpanKind::Server,
        status: if attribute("status")["stringValue"] == "error" {
            SpanStatus::Error
        } else {
            SpanStatus::Unset
        },
        start_ns,
        end_ns: start_ns + number(&span["durationNanos"]),
        http_status_code: attribute("http.status_code")["intValue"]
            .as_str()
            .map(|code| code.parse().unwrap()),
        attributes: Vec::new(),
    }
}

/// Sorts what Tempo returns in no particular order.
fn in_order(mut answer: Value) -> Value {
    for trace in answer["traces"].as_array_mut().unwrap() {
        let sets = trace["spanSets"].as_array_mut().unwrap().iter_mut();
        let spans = sets.flat_map(|set| set["spans"].as_array_mut().unwrap());
        for span in spans {
            if let Some(attributes) = span["attributes"].as_array_mut() {
                attributes.sort_by_key(|attribute| attribute["key"].to_string());
            }
        }
        trace["spanSet"] = trace["spanSets"][0].clone();
    }
    answer
}

#[test]
fn with_the_same_spans_a_search_is_equal_to_the_byte() {
    for (version, name) in VERSIONS {
        let recording = Recording::load(name, "search-half-json");
        let reply = recording.replay(&simulator(version, first_hour(name)));
        let traces = |body: &[u8]| {
            let text = String::from_utf8(body.to_vec()).unwrap();
            text.split_once("],\"metrics\"").unwrap().0.to_owned()
        };
        assert_eq!(traces(&reply.body), traces(&recording.body));
    }
}

#[test]
fn with_the_same_spans_a_search_for_spans_returns_them_all() {
    for (version, name) in VERSIONS {
        let simulator = simulator(version, first_hour(name));
        let recording = Recording::load(name, "search-spans-json");
        let recorded = in_order(serde_json::from_slice(&recording.body).unwrap());
        let simulated = in_order(recording.replay(&simulator).json());
        assert_eq!(simulated["traces"], recorded["traces"]);

        let recording = Recording::load(name, "search-spans-protobuf");
        let decoded = |body: &[u8]| {
            let mut traces = SearchResponse::decode(body).unwrap().traces;
            for trace in &mut traces {
                for set in &mut trace.span_sets {
                    for span in &mut set.spans {
                        span.attributes
                            .sort_by(|left, right| left.key.cmp(&right.key));
                    }
                }
                trace.span_set = trace.span_sets.first().cloned();
            }
            traces
        };
        let simulated = decoded(&recording.replay(&simulator).body);
        assert_eq!(simulated, decoded(&recording.body));
    }
}

#[test]
fn with_the_same_spans_a_filter_by_service_is_equal() {
    for (version, name) in VERSIONS {
        let recording = Recording::load(name, "search-filter-service");
        let recorded = in_order(serde_json::from_slice(&recording.body).unwrap());
        let recorded: Vec<&Value> = recorded["traces"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|trace| trace["startTimeUnixNano"].as_str().unwrap() <= "1795165200000000000")
            .collect();
        let reply = recording.replay(&simulator(version, first_hour(name)));
        let simulated = in_order(reply.json());
        let simulated: Vec<&Value> = simulated["traces"].as_array().unwrap().iter().collect();
        assert_eq!(simulated, recorded);
    }
}

#[test]
fn with_the_same_spans_a_look_up_by_id_is_equal() {
    for (version, name) in VERSIONS {
        let recording = Recording::load(name, "trace-json");
        let reply = recording.replay(&simulator(version, first_hour(name)));
        let services = |body: &[u8]| {
            let answer: Value = serde_json::from_slice(body).unwrap();
            let mut services = answer["trace"]["resourceSpans"].as_array().unwrap().clone();
            services.sort_by_key(|service| service["resource"].to_string());
            for service in &mut services {
                let spans = service["scopeSpans"][0]["spans"].as_array_mut().unwrap();
                spans.sort_by_key(|span| span["spanId"].to_string());
            }
            services
        };
        assert_eq!(services(&reply.body), services(&recording.body));
    }
}

/// The traces of `spans.jsonl`: of each span trace, ID, parent, service, name, kind, status, start, duration, attributes.
fn whole_spans() -> Vec<TraceFragment> {
    let kinds = [
        SpanKind::Unspecified,
        SpanKind::Internal,
        SpanKind::Server,
        SpanKind::Client,
        SpanKind::Producer,
        SpanKind::Consumer,
    ];
    let statuses = [SpanStatus::Unset, SpanStatus::Ok, SpanStatus::Error];
    let text = std::fs::read_to_string(fixture("spans.jsonl")).unwrap();
    let fragment = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        let id = |place: usize| u128::from_str_radix(row[place].as_str().unwrap_or("0"), 16);
        let short = |place: usize| (id(place).unwrap() as u64).to_be_bytes();
        let start_ns = row[7].as_u64().unwrap();
        let mut http_status_code = None;
        let mut attributes = Vec::new();
        for (name, value) in row[9].as_object().unwrap() {
            if name == "span.http.status_code" {
                http_status_code = value.as_i64();
                continue;
            }
            let (scope, key) = name.split_once('.').unwrap();
            attributes.push(Attribute {
                scope: match scope {
                    "span" => AttributeScope::Span,
                    _ => AttributeScope::Resource,
                },
                key: key.into(),
                value: match value {
                    Value::Bool(value) => AttributeValue::Bool(*value),
                    Value::Number(number) => AttributeValue::Float(number.as_f64().unwrap()),
                    other => AttributeValue::Text(other.as_str().unwrap().into()),
                },
            });
        }
        let span = Span {
            span_id: short(1),
            parent_id: short(2),
            service: row[3].as_str().map(Text::from),
            name: row[4].as_str().unwrap().into(),
            kind: kinds[row[5].as_u64().unwrap() as usize],
            status: statuses[row[6].as_u64().unwrap() as usize],
            start_ns,
            end_ns: start_ns + row[8].as_u64().unwrap(),
            http_status_code,
            attributes,
        };
        TraceFragment::new(id(0).unwrap().to_be_bytes(), vec![span])
    };
    let joined = Population::from_traces(text.lines().map(fragment).collect());
    joined.fragments().collect()
}

const WANTED: [&str; 5] = [
    "resource.k8s.namespace.name",
    "span.cached",
    "span.http.status_code",
    "span.ratio",
    "span.user id",
];

/// A span without what its name says already, in words.
fn told(trace_id: [u8; 16], span: &spans::Span) -> String {
    let attributes: Value = span
        .attributes
        .as_deref()
        .map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
    format!(
        "{trace_id:02x?} {:02x?} {:02x?} {:?} {:?} {} {} {} {} {attributes}",
        span.span_id,
        span.parent_span_id,
        span.service,
        span.name,
        span.kind.name(),
        span.status.name(),
        span.start_ns,
        span.duration_ns
    )
}

fn told_of_all(found: &[spans::TraceSpans]) -> Vec<String> {
    assert!(found.iter().all(|trace| !trace.cut));
    let mut told: Vec<String> = found
        .iter()
        .flat_map(|trace| trace.spans.iter().map(|span| told(trace.trace_id, span)))
        .collect();
    told.sort();
    told
}

fn format_of(content_type: &str) -> Format {
    Format::of(content_type).unwrap()
}

#[test]
fn spans_are_read_as_they_were_sent_and_as_the_simulator_tells_them() {
    let wanted = Wanted::new(WANTED);
    let sent = whole_spans();
    for (version, folder) in VERSIONS {
        let simulator = simulator(version, Population::from_traces(sent.clone()));
        let mut first: Option<Vec<String>> = None;
        for form in ["protobuf", "json"] {
            let recording = Recording::load(folder, &format!("search-by-span-{form}"));
            let read = |content_type: &str, body: &[u8]| {
                let answer =
                    spans::decode_spans(format_of(content_type), body, &wanted, 2_000).unwrap();
                assert_eq!(answer.traces.len(), sent.len());
                told_of_all(&answer.spans.unwrap())
            };
            let recorded = read(&recording.content_type, &recording.body);
            let spans: usize = sent.iter().map(|trace| trace.spans.len()).sum();
            assert_eq!(recorded.len(), spans);
            let reply = recording.replay(&simulator);
            assert_eq!(read(reply.content_type(), &reply.body), recorded);
            assert_eq!(*first.get_or_insert(recorded.clone()), recorded);

            // What a look-up tells is the same.
            let recording = Recording::load(folder, &format!("trace-spans-{form}"));
            let id = recording.path.rsplit('/').next().unwrap();
            let id = u128::from_str_radix(id, 16).unwrap().to_be_bytes();
            let read = |content_type: &str, body: &[u8]| {
                let format = format_of(content_type);
                let trace = spans::decode_trace(format, body, id, &wanted).unwrap();
                assert_eq!(trace.partial, Some(false));
                told_of_all(&[trace])
            };
            let looked_up = read(&recording.content_type, &recording.body);
            assert!(looked_up.len() > 10);
            assert!(looked_up.iter().all(|span| recorded.contains(span)));
            let reply = recording.replay(&simulator);
            assert_eq!(read(reply.content_type(), &reply.body), looked_up);

            // Traces of many spans are those that have many in one place: one of two lay in two fragments when it was asked.
            let recording = Recording::load(folder, &format!("search-many-spans-{form}"));
            let ids = |content_type: &str, body: &[u8]| -> Vec<String> {
                let traces = seen(content_type, body).into_iter();
                traces.map(|trace| trace.trace_id).collect()
            };
            let recorded = ids(&recording.content_type, &recording.body);
            let reply = recording.replay(&simulator);
            let replayed = ids(reply.content_type(), &reply.body);
            assert_eq!((recorded.len(), replayed.len()), (1, 2));
            assert!(replayed.contains(&recorded[0]));
        }
        // Neither format is read when it is cut off.
        let recording = Recording::load(folder, "search-by-span-protobuf");
        for length in [0, 1, recording.body.len() / 2, recording.body.len() - 1] {
            let cut = &recording.body[..length];
            assert!(spans::decode_spans(Format::Protobuf, cut, &wanted, 2_000).is_err());
        }
    }
}
