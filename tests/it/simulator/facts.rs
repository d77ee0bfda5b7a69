//! The hard facts about a real Tempo: what makes a careless client lose traces.

use serde_json::Value;
use tempo_harvest::simulator::{
    Burst, GenerateSettings, Population, Simulator, Span, SpanStatus, TraceFragment,
};

use super::{
    ROOTS, at, count_reply, http, id, ids, search, search_reply, seconds, start, start_with, trace,
    traces,
};

const NOW_S: i64 = 1_795_250_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Spans number `numbers` of a trace, one every 100 ms from two minutes ago; number 0 is the root.
fn part(numbers: std::ops::Range<u64>) -> TraceFragment {
    let begin_ns = (NOW_S - 120) as u64 * SECOND_NS;
    let spans = numbers.map(|number| {
        let start_ns = begin_ns + number * 100_000_000;
        let end_ns = start_ns + 50_000_000;
        if number == 0 {
            Span::root(1, "shop", "GET /", start_ns, end_ns)
        } else {
            Span::child(number + 1, 1, "shop", "work", start_ns, end_ns)
        }
    });
    TraceFragment::new(id(1), spans.collect())
}

fn recent() -> (i64, i64) {
    (NOW_S - 300, NOW_S - 31)
}

#[test]
fn fragments_are_combined_by_maximum_until_they_are_joined() {
    let simulator = start(Population::empty(), at(NOW_S));
    let control = simulator.control();
    control.push(part(0..100));
    control.flush();
    control.push(part(100..160));
    control.flush();

    let only = |answer: &Value| traces(answer)[0].clone();
    let found = only(&search(&simulator, Some("{}"), recent(), 10));
    assert_eq!(found["spanSets"][0]["matched"], 100);
    assert_eq!(found["spanSets"][0]["spans"].as_array().unwrap().len(), 100);
    assert_eq!(found["serviceStats"]["shop"]["spanCount"], 100);
    assert_eq!(found["durationMs"], 9_950, "the longest fragment's");
    assert_eq!(found["rootServiceName"], "shop");

    // Every span a set of its own: nothing is combined away.
    let query = "{} | by(span:id) | select(span:name)";
    let found = only(&search(&simulator, Some(query), recent(), 10));
    let sets = found["spanSets"].as_array().unwrap();
    assert_eq!(sets.len(), 160);
    assert!(sets.iter().all(|set| set["matched"] == 1));
    assert_eq!(sets[0]["attributes"][0]["key"], "by(span:id)");

    control.compact();
    let found = only(&search(&simulator, Some("{}"), recent(), 10));
    assert_eq!(found["spanSets"][0]["matched"], 160);
    assert_eq!(found["durationMs"], 15_950);
    assert_eq!(control.truth()[0].spans, 160);
}

#[test]
fn sealing_a_block_joins_the_fragments_within_it_but_not_those_of_another() {
    let simulator = start(Population::empty(), at(NOW_S));
    let control = simulator.control();
    control.push(part(0..10));
    control.flush();
    control.push(part(10..20));
    control.flush();
    control.seal();
    control.push(part(20..25));
    control.flush();
    let found = search(&simulator, Some("{}"), recent(), 10);
    assert_eq!(traces(&found)[0]["spanSets"][0]["matched"], 20);
}

#[test]
fn a_query_less_search_of_young_blocks_is_silently_short() {
    let simulator = start(Population::empty(), at(NOW_S));
    let control = simulator.control();
    let second_half = |number: u8| {
        let mut late = trace(number, NOW_S - 59, 10);
        late.spans[0].span_id = [number; 8];
        late.spans[0].parent_id = [7; 8];
        late
    };
    // 60 traces in two flushes each, then 30 in one: rows 60, 120, 150.
    (0..60).for_each(|number| control.push(trace(number, NOW_S - 60, 10)));
    control.flush();
    (0..60).for_each(|number| control.push(second_half(number)));
    control.flush();
    (60..90).for_each(|number| control.push(trace(number, NOW_S - 58, 10)));
    control.flush();

    assert_eq!(traces(&search(&simulator, None, recent(), 100)).len(), 60);
    assert_eq!(
        traces(&search(&simulator, Some("{}"), recent(), 100)).len(),
        90
    );
    assert_eq!(traces(&search(&simulator, None, recent(), 200)).len(), 90);
    control.compact();
    assert_eq!(traces(&search(&simulator, None, recent(), 100)).len(), 90);
}

#[test]
fn spans_are_searchable_only_after_a_while_but_found_by_id_at_once() {
    let simulator = start(Population::empty(), at(NOW_S));
    let control = simulator.control();
    control.push(trace(1, NOW_S - 60, 10));
    assert!(traces(&search(&simulator, Some("{}"), recent(), 10)).is_empty());
    assert!(has_trace(&simulator, 1));
    control.advance(seconds(10));
    assert_eq!(
        traces(&search(&simulator, Some("{}"), recent(), 10)).len(),
        1
    );
}

fn has_trace(simulator: &Simulator, number: u8) -> bool {
    let path = format!("/api/v2/traces/{:032x}", u128::from_be_bytes(id(number)));
    let answer = http::get(&simulator.url(), &path).json();
    answer["trace"]["resourceSpans"].is_array()
}

#[test]
fn between_live_store_and_block_list_there_is_a_hole() {
    let simulator = start(Population::empty(), at(NOW_S));
    let control = simulator.control();
    control.push(trace(1, NOW_S - 30, 10));
    let window = (NOW_S - 60, NOW_S - 1);
    let found = || traces(&search(&simulator, Some("{}"), window, 10)).len();
    let counted = || {
        let reply = count_reply(&simulator, ROOTS, window, "1m");
        reply.json()["series"].as_array().unwrap().len()
    };
    // Age by age: live store, the hole, the block list.
    control.advance(seconds(60));
    assert_eq!((found(), counted()), (1, 1));
    control.advance(seconds(13 * 60));
    assert_eq!((found(), counted()), (1, 1));
    control.advance(seconds(2 * 60));
    assert_eq!((found(), counted()), (0, 0), "the hand-over hole");
    assert!(has_trace(&simulator, 1));
    control.advance(seconds(10 * 60));
    assert_eq!((found(), counted()), (1, 1));
}

#[test]
fn a_window_reaching_into_the_newest_data_is_trimmed_and_one_inside_is_moved() {
    let population = Population::from_traces(vec![
        trace(1, NOW_S - 200, 10),
        trace(2, NOW_S - 40, 10),
        trace(3, NOW_S - 20, 10),
    ]);
    let simulator = start(population, at(NOW_S));
    let found = |window| ids(&search(&simulator, Some("{}"), window, 10)).len();
    assert_eq!(found((NOW_S - 60, NOW_S)), 1, "trimmed to the cutoff");
    // Wholly inside: answered with what is up to 15 minutes old, none of which overlaps.
    assert_eq!(found((NOW_S - 12, NOW_S - 2)), 2);
    simulator.control().advance(seconds(60));
    assert_eq!(found((NOW_S - 60, NOW_S)), 2);
}

#[test]
fn spans_that_arrive_too_late_are_found_by_id_only() {
    let simulator = start(Population::empty(), at(NOW_S));
    let control = simulator.control();
    control.push(trace(1, NOW_S - 121 - 10, 10));
    control.push(trace(2, NOW_S - 60, 10));
    control.flush();
    control.compact();
    let found = search(&simulator, Some("{}"), (NOW_S - 300, NOW_S - 31), 10);
    assert_eq!(traces(&found).len(), 1);
    assert!(has_trace(&simulator, 1) && has_trace(&simulator, 2));
}

/// An hour with a burst, long traces and traces without a root, long settled.
fn busy_hour() -> (Population, (i64, i64)) {
    let begin_s = NOW_S - 10_000;
    let settings = GenerateSettings {
        bursts: vec![Burst {
            at_s: begin_s + 1_800,
            traces: 300,
        }],
        long_traces: 10,
        rootless_traces: 20,
        ..GenerateSettings::new(11, at(begin_s), at(begin_s + 3_600), 1_000)
    };
    (Population::generate(&settings), (begin_s, begin_s + 3_600))
}

#[test]
fn a_cut_answer_is_full_carries_no_flag_and_differs_from_call_to_call() {
    let (population, window) = busy_hour();
    let simulator = start(population, at(NOW_S));
    let cut = || ids(&search(&simulator, Some("{}"), window, 50));
    let (first, second) = (cut(), cut());
    assert_eq!((first.len(), second.len()), (50, 50));
    assert_ne!(first, second);
    let query_less = ids(&search(&simulator, None, window, 50));
    assert_eq!(query_less.len(), 50);
}

#[test]
fn an_early_stop_may_show_in_the_metrics() {
    let (population, window) = busy_hour();
    let simulator = start_with(population, at(NOW_S), |config| config.settled_blocks = 8);
    let jobs = |limit| {
        let metrics = search(&simulator, Some("{}"), window, limit)["metrics"].clone();
        (
            metrics["completedJobs"].as_u64().unwrap(),
            metrics["totalJobs"].as_u64().unwrap(),
        )
    };
    assert_eq!(jobs(5_000), (8, 8));
    let (completed, total) = jobs(50);
    assert!(completed < total && total == 8);
}

#[test]
fn adjacent_windows_share_what_straddles_their_edge_and_together_hold_everything() {
    let (population, (begin_s, end_s)) = busy_hour();
    let expected = population.overlapping(begin_s, end_s).len();
    let simulator = start(population, at(NOW_S));
    let mut all = Vec::new();
    let mut answers = 0;
    for from_s in (begin_s..end_s).step_by(300) {
        let found = ids(&search(
            &simulator,
            Some("{}"),
            (from_s, from_s + 300),
            5_000,
        ));
        answers += found.len();
        all.extend(found);
    }
    all.sort();
    all.dedup();
    assert!(
        answers > all.len(),
        "long traces show up in several windows"
    );
    assert_eq!(all.len(), expected);
}

#[test]
fn bands_by_duration_partition_a_settled_second() {
    let (population, (begin_s, _)) = busy_hour();
    let simulator = start(population, at(NOW_S));
    let second = (begin_s + 1_800, begin_s + 1_801);
    let find = |query: &str| ids(&search(&simulator, Some(query), second, 5_000));
    let whole = find("{}");
    let mut bands = find("{trace:duration < 40ms}");
    let low = bands.len();
    bands.extend(find("{trace:duration >= 40ms && trace:duration < 80ms}"));
    let middle = bands.len();
    bands.extend(find("{trace:duration >= 80ms}"));
    assert!(whole.len() >= 300 && 0 < low && low < middle && middle < bands.len());
    bands.sort();
    assert_eq!(bands, whole);
}

#[test]
fn on_fresh_data_a_trace_leaves_a_band_as_it_grows() {
    let simulator = start(Population::empty(), at(NOW_S));
    let control = simulator.control();
    let in_band = |query| traces(&search(&simulator, Some(query), recent(), 10)).len();
    control.push(part(0..1));
    control.flush();
    assert_eq!(in_band("{trace:duration < 80ms}"), 1);
    control.push(part(1..5));
    control.flush();
    control.seal();
    assert_eq!(in_band("{trace:duration < 80ms}"), 0);
    assert_eq!(in_band("{trace:duration >= 80ms}"), 1);
}

/// Pages backwards by the oldest start seen, as a client would.
fn page(simulator: &Simulator, (begin_s, mut end_s): (i64, i64), limit: u32) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let query = Some("{} with (most_recent=true)");
        let answer = search(simulator, query, (begin_s, end_s), limit);
        all.extend(ids(&answer));
        all.sort();
        all.dedup();
        let start_s = |trace: &Value| {
            let start_ns: i64 = trace["startTimeUnixNano"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            start_ns / 1_000_000_000
        };
        let oldest_s = traces(&answer).iter().map(start_s).min();
        let full = traces(&answer).len() >= limit as usize;
        match oldest_s {
            Some(oldest_s) if full && oldest_s + 1 < end_s && oldest_s + 1 > begin_s => {
                end_s = oldest_s + 1;
            }
            _ => return all,
        }
    }
}

#[test]
fn paging_by_the_most_recent_finds_all_settled_traces() {
    let settings = GenerateSettings::new(3, at(NOW_S - 10_000), at(NOW_S - 9_000), 500);
    let population = Population::generate(&settings);
    let window = (NOW_S - 10_000, NOW_S - 9_000);
    let expected = population.overlapping(window.0, window.1).len();
    let simulator = start(population, at(NOW_S));
    assert_eq!(page(&simulator, window, 60).len(), expected);
}

#[test]
fn paging_by_the_most_recent_loses_fresh_traces() {
    let simulator = start(Population::empty(), at(NOW_S));
    let control = simulator.control();
    // A trace is kept for the late start of one fragment; then its start is lowered to that of another, below what was not returned.
    control.advance(seconds(240));
    let from_s = NOW_S + 240 - 300;
    let mut late = trace(1, from_s + 260, 10);
    late.spans[0].parent_id = [7; 8];
    control.push(late);
    (10..40).for_each(|number| control.push(trace(number, from_s + 181 + i64::from(number), 10)));
    control.flush();
    control.seal();
    control.push(trace(1, from_s + 181, 10));
    control.flush();
    let window = (from_s, from_s + 269);
    let fresh = page(&simulator, window, 5);
    assert!(fresh.len() < 10, "found {} of 31", fresh.len());
    control.compact();
    assert_eq!(page(&simulator, window, 5).len(), 31);
}

#[test]
fn a_late_root_takes_the_place_of_the_text() {
    let simulator = start(Population::empty(), at(NOW_S));
    let control = simulator.control();
    control.push(part(1..3));
    control.flush();
    let found = search(&simulator, Some("{}"), recent(), 10);
    assert_eq!(
        traces(&found)[0]["rootServiceName"],
        "<root span not yet received>"
    );
    assert_eq!(traces(&found)[0].get("rootTraceName"), None);
    control.push(part(0..1));
    control.flush();
    let found = search(&simulator, None, recent(), 10);
    assert_eq!(traces(&found)[0]["rootServiceName"], "shop");
    assert_eq!(traces(&found)[0]["rootTraceName"], "GET /");
}

#[test]
fn an_answer_over_16_mib_is_a_500() {
    let settings = GenerateSettings::new(5, at(NOW_S - 10_000), at(NOW_S - 9_000), 3_000);
    let population = Population::generate(&settings);
    let simulator = start_with(population, at(NOW_S), |config| {
        config.limits.max_response_bytes = 200_000;
    });
    let window = (NOW_S - 10_000, NOW_S - 9_000);
    let reply = search_reply(&simulator, Some("{}"), window, 5_000);
    assert_eq!(reply.status, 500);
    let text = reply.text();
    let bytes = text
        .strip_prefix("response larger than the max (")
        .and_then(|rest| rest.strip_suffix(" vs 200000)"))
        .unwrap();
    assert!(bytes.parse::<usize>().unwrap() > 200_000);
    assert_eq!(
        search_reply(&simulator, Some("{}"), window, 100).status,
        200
    );
}

/// Samples as seconds and counts.
fn samples(answer: &Value) -> Vec<(i64, u64)> {
    answer["series"][0]["samples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| {
            let timestamp_ms: i64 = sample["timestampMs"].as_str().unwrap().parse().unwrap();
            (timestamp_ms / 1_000, sample["value"].as_u64().unwrap_or(0))
        })
        .collect()
}

#[test]
fn counts_are_stamped_at_the_end_of_intervals_closed_on_the_right() {
    let hour_s = (NOW_S - 20_000) / 3_600 * 3_600;
    let population = Population::from_traces(vec![
        trace(1, hour_s, 10),
        trace(2, hour_s + 1, 10),
        trace(3, hour_s + 3_600, 10),
        trace(4, hour_s + 7_201, 10),
    ]);
    let simulator = start(population, at(NOW_S));
    // Edges are rounded outward, and one interval is put in front.
    let window = (hour_s + 10, hour_s + 10_700);
    let reply = count_reply(&simulator, ROOTS, window, "1h");
    let expected = [(0, 1), (3_600, 2), (7_200, 0), (10_800, 1)];
    let expected = expected.map(|(offset_s, count)| (hour_s + offset_s, count));
    assert_eq!(samples(&reply.json()), expected);
    assert!(!reply.text().contains("exemplars"));
    // An empty hour alone has no series; as part of a day it is a missing value.
    let empty = count_reply(&simulator, ROOTS, (hour_s + 14_400, hour_s + 14_500), "10s");
    assert_eq!(empty.json()["series"].as_array().unwrap().len(), 0);
}

#[test]
fn a_range_of_exactly_the_maximum_is_refused_because_edges_are_rounded_first() {
    let simulator = start(Population::empty(), at(NOW_S));
    let day_s = NOW_S / 86_400 * 86_400 - 86_400;
    let refused = count_reply(&simulator, ROOTS, (day_s, day_s + 86_400), "1h");
    assert_eq!(refused.status, 400);
    assert_eq!(
        refused.text(),
        "metrics query time range exceeds the maximum allowed duration of 24h0m0s"
    );
    let accepted = count_reply(&simulator, ROOTS, (day_s, day_s + 82_800), "1h");
    assert_eq!(accepted.status, 200);
}

#[test]
fn counts_count_root_spans_and_not_traces() {
    let start_s = NOW_S - 20_000;
    let count = |change: fn(&mut TraceFragment)| {
        let mut fragment = trace(1, start_s, 10);
        change(&mut fragment);
        let simulator = start(Population::from_traces(vec![fragment]), at(NOW_S));
        let answer = count_reply(&simulator, ROOTS, (start_s - 10, start_s + 10), "10s").json();
        let total: u64 = if answer["series"] == serde_json::json!([]) {
            0
        } else {
            samples(&answer).iter().map(|(_, count)| count).sum()
        };
        let found = search(&simulator, Some("{}"), (start_s - 10, start_s + 10), 10);
        (total, traces(&found)[0]["rootServiceName"].clone())
    };
    assert_eq!(count(|_| {}), (1, "shop".into()));
    let two_roots = count(|fragment| {
        let mut second = fragment.spans[0].clone();
        second.span_id = [9; 8];
        fragment.spans.push(second);
    });
    assert_eq!(two_roots.0, 2);
    assert_eq!(
        count(|fragment| {
            let span = fragment.spans[0].clone();
            fragment.spans.extend([span.clone(), span]);
        })
        .0,
        0,
        "a root delivered three times"
    );
    assert_eq!(
        count(|fragment| fragment.spans[0].service = None),
        (1, "<root span not yet received>".into())
    );
    assert_eq!(count(|fragment| fragment.spans[0].parent_id = [7; 8]).0, 0);
}

#[test]
fn counts_can_be_filtered_by_service() {
    let (population, (begin_s, end_s)) = busy_hour();
    let truth: Vec<_> = population
        .traces()
        .filter(|trace| trace.root_service.as_deref() == Some("checkout"))
        .filter(|trace| trace.start_ns > begin_s as u64 * SECOND_NS)
        .collect();
    let simulator = start(population, at(NOW_S));
    let query = r#"{nestedSetParent<0 && resource.service.name="checkout"} | count_over_time()"#;
    let answer = count_reply(&simulator, query, (begin_s, end_s), "1m").json();
    let total: u64 = samples(&answer).iter().map(|(_, count)| count).sum();
    assert_eq!(total as usize, truth.len());
    let exemplar = &answer["series"][0]["exemplars"][0];
    assert_eq!(exemplar["labels"][0]["key"], "trace:id");
}

#[test]
fn a_trace_over_the_limit_stays_partial() {
    let mut fragment = part(0..50);
    fragment.spans[3].status = SpanStatus::Error;
    let population = Population::from_traces(vec![fragment]);
    let simulator = start_with(population, at(NOW_S), |config| {
        config.limits.max_trace_bytes = Some(2_000);
    });
    let path = format!("/api/v2/traces/{:x}", u128::from_be_bytes(id(1)));
    for _ in 0..2 {
        let answer = http::get(&simulator.url(), &path).json();
        assert_eq!(answer["status"], "PARTIAL");
        assert_eq!(
            answer["message"],
            "Trace exceeds maximum size of 2000 bytes, a partial trace is returned"
        );
    }
}

#[test]
fn a_look_up_shows_a_span_once_however_often_it_was_sent() {
    let simulator = start(Population::empty(), at(NOW_S));
    let control = simulator.control();
    control.push(trace(1, NOW_S - 60, 10));
    control.flush();
    control.push(trace(1, NOW_S - 60, 10));
    let path = format!("/api/v2/traces/{:x}", u128::from_be_bytes(id(1)));
    let answer = http::get(&simulator.url(), &path).json();
    let spans = &answer["trace"]["resourceSpans"][0]["scopeSpans"][0]["spans"];
    assert_eq!(spans.as_array().unwrap().len(), 1);
}

#[test]
fn trace_ids_lose_leading_zeros_in_search_and_are_found_without_them() {
    let mut fragment = trace(1, NOW_S - 20_000, 10);
    fragment.trace_id = [0; 16];
    fragment.trace_id[15] = 0x2a;
    fragment.trace_id[14] = 0x01;
    let simulator = start(Population::from_traces(vec![fragment]), at(NOW_S));
    let found = search(&simulator, None, (NOW_S - 20_001, NOW_S - 19_999), 10);
    assert_eq!(traces(&found)[0]["traceID"], "12a");
    let answer = http::get(&simulator.url(), "/api/v2/traces/12a").json();
    assert!(answer["trace"]["resourceSpans"].is_array());
    let query = r#"{trace:id = "0000012A"}"#;
    let found = search(
        &simulator,
        Some(query),
        (NOW_S - 20_001, NOW_S - 19_999),
        10,
    );
    assert_eq!(traces(&found).len(), 1);
}
