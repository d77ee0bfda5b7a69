//! Misbehaviour on request.

use std::time::Instant;

use tempo_harvest::simulator::{
    Fault, GenerateSettings, Misbehaviour, Population, RetryAfter, Simulator,
};
use tempo_harvest::tempo::wire::messages::SearchResponse;

use super::http::{self, Reply};
use super::{at, seconds, start};
use prost::Message as _;
use std::time::Duration;

const SEARCH: &str = "/api/search?start=1795230000&end=1795240000&limit=1000&q=%7B%7D";
const NARROW: &str = "/api/search?start=1795230000&end=1795230050&limit=1000&q=%7B%7D";

fn simulator() -> Simulator {
    let settings = GenerateSettings::new(2, at(1_795_230_000), at(1_795_240_000), 300);
    start(Population::generate(&settings), at(1_795_250_000))
}

/// What the first of two requests meets; the second must be answered properly.
fn met(misbehaviour: Misbehaviour) -> Reply {
    let simulator = simulator();
    let control = simulator.control();
    control.add_fault(Fault::next(1, misbehaviour));
    let reply = http::get(&simulator.url(), SEARCH);
    let proper = http::get(&simulator.url(), SEARCH);
    assert_eq!(proper.status, 200);
    assert_eq!(super::traces(&proper.json()).len(), 300);
    let requests = control.requests();
    assert!(requests[0].fault.is_some() && requests[1].fault.is_none());
    reply
}

#[test]
fn refusals_of_gateways() {
    let reply = met(Misbehaviour::TooManyRequests(RetryAfter::Absent));
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (429, "job queue full")
    );
    assert_eq!(reply.header("retry-after"), None);
    let reply = met(Misbehaviour::TooManyRequests(RetryAfter::Seconds(7)));
    assert_eq!(reply.header("retry-after"), Some("7"));
    let reply = met(Misbehaviour::TooManyRequests(RetryAfter::Date(at(86_400))));
    assert_eq!(
        reply.header("retry-after"),
        Some("Fri, 02 Jan 1970 00:00:00 GMT")
    );
    let reply = met(Misbehaviour::LargerThan);
    assert_eq!(reply.status, 500);
    assert_eq!(
        reply.text(),
        "response larger than the max (20915345 vs 16777216)"
    );
    for status in [401, 403, 404, 500, 502, 503] {
        assert_eq!(met(Misbehaviour::Status(status)).status, status);
    }
}

#[test]
fn pages_and_bytes_that_are_no_answers() {
    let reply = met(Misbehaviour::LoginPage);
    assert_eq!(
        (reply.status, reply.content_type()),
        (200, "text/html; charset=utf-8")
    );
    let reply = met(Misbehaviour::Redirect {
        location: "http://login.example/".to_owned(),
    });
    assert_eq!(
        (reply.status, reply.header("location")),
        (302, Some("http://login.example/"))
    );
    let reply = met(Misbehaviour::Garbage);
    assert_eq!(reply.content_type(), "application/protobuf");
    assert!(SearchResponse::decode(reply.body.as_slice()).is_err());
    let reply = met(Misbehaviour::ContentType("text/plain".to_owned()));
    assert_eq!(reply.content_type(), "text/plain");
    assert_eq!(super::traces(&reply.json()).len(), 300);
}

#[test]
fn connections_that_are_cut() {
    for sent in [0.0, 0.5, 1.0] {
        let simulator = simulator();
        let whole = http::get(&simulator.url(), SEARCH);
        assert!(whole.is_whole());
        let fault = Fault::next(1, Misbehaviour::CutConnection { sent });
        simulator.control().add_fault(fault);
        match http::try_get(&simulator.url(), SEARCH, &[]) {
            Some(reply) => assert!(!reply.is_whole() && reply.body.len() < whole.body.len()),
            None => assert_eq!(sent, 0.0, "the beginning arrives"),
        }
    }
    let reply = met(Misbehaviour::TruncatedGzip);
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    assert!(reply.is_whole(), "the connection ends properly");
    let mut unpacked = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(reply.body.as_slice());
    assert!(std::io::Read::read_to_end(&mut decoder, &mut unpacked).is_err());
}

#[test]
fn slowness() {
    let wait = Duration::from_millis(60);
    let timed = |misbehaviour| {
        let simulator = simulator();
        let fault = Fault::next(1, misbehaviour);
        simulator.control().add_fault(fault);
        let began = Instant::now();
        let reply = http::get(&simulator.url(), SEARCH);
        assert!(began.elapsed() >= wait);
        reply
    };
    assert!(timed(Misbehaviour::Slow { delay: wait }).is_whole());
    let in_pieces = Misbehaviour::SlowBody {
        pieces: 4,
        pause: wait / 4,
    };
    assert!(timed(in_pieces).is_whole());
    let reply = timed(Misbehaviour::GatewayTimeout { after: wait });
    assert_eq!(
        (reply.status, reply.content_type()),
        (504, "text/html; charset=utf-8")
    );
}

#[test]
fn a_gateway_gives_up_on_wide_windows_only() {
    let simulator = simulator();
    let control = simulator.control();
    let by_cost = control.add_fault(Fault::forever(Misbehaviour::GatewayTimeoutByCost {
        per_window_second: Duration::from_millis(1),
        allowed: Duration::from_millis(50),
    }));
    assert_eq!(http::get(&simulator.url(), SEARCH).status, 504);
    assert_eq!(http::get(&simulator.url(), NARROW).status, 200);
    control.withdraw_fault(by_cost);
    assert_eq!(http::get(&simulator.url(), SEARCH).status, 200);
    let fault = Fault::forever(Misbehaviour::Status(503)).on_windows_wider_than_s(50);
    control.add_fault(fault);
    assert_eq!(http::get(&simulator.url(), SEARCH).status, 503);
    assert_eq!(http::get(&simulator.url(), NARROW).status, 200);
    control.clear_faults();
    assert_eq!(http::get(&simulator.url(), SEARCH).status, 200);
}

#[test]
fn faults_are_met_as_often_as_was_said_and_where() {
    let simulator = simulator();
    let control = simulator.control();
    let statuses = |path: &str, count: usize| -> Vec<u16> {
        (0..count)
            .map(|_| http::get(&simulator.url(), path).status)
            .collect()
    };
    control.add_fault(
        Fault::next(2, Misbehaviour::Status(503))
            .on_path("/api/search")
            .after(1),
    );
    control.add_fault(Fault::next(1, Misbehaviour::Status(502)).on_path("/api/search"));
    assert_eq!(statuses("/ready", 2), [200, 200]);
    assert_eq!(statuses(SEARCH, 5), [502, 503, 503, 200, 200]);
    control.add_fault(Fault::with_probability(0.5, Misbehaviour::Status(429)));
    let refused = statuses("/ready", 200)
        .iter()
        .filter(|status| **status == 429)
        .count();
    assert!((60..140).contains(&refused), "{refused} of 200");
}

#[test]
fn a_limit_can_be_lowered_in_the_middle() {
    let simulator = simulator();
    let fault = Fault::next(1, Misbehaviour::LowerLimit(100)).after(1);
    simulator.control().add_fault(fault);
    assert_eq!(http::get(&simulator.url(), SEARCH).status, 200);
    for _ in 0..2 {
        let reply = http::get(&simulator.url(), SEARCH);
        assert_eq!(reply.text(), "limit 1000 exceeds max limit 100");
    }
}

#[tokio::test]
async fn answers_can_be_held_back() {
    let simulator = simulator();
    let control = simulator.control();
    let hold = control.hold("/api/search");
    let waiting: Vec<_> = (0..3)
        .map(|_| http::ask(&simulator.url(), SEARCH, &[]).unwrap())
        .collect();
    control.wait_for_held(3).await;
    assert_eq!(http::get(&simulator.url(), "/ready").status, 200);
    let requests = control.requests();
    assert_eq!(
        requests
            .iter()
            .filter(|request| request.status.is_none())
            .count(),
        3
    );
    assert_eq!(control.most_in_flight(), 4);
    assert_eq!(control.most_within(seconds(3_600)), 4);
    hold.release();
    for stream in waiting {
        assert_eq!(http::read(stream).unwrap().status, 200);
    }
    control.wait_for_answers(4).await;
    assert_eq!(http::get(&simulator.url(), SEARCH).status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_is_no_longer_under_way() {
    let simulator = simulator();
    let control = simulator.control();
    let hold = control.hold("/api/search");
    let stream = http::ask(&simulator.url(), SEARCH, &[]).unwrap();
    control.wait_for_held(1).await;
    drop(stream);
    let began = Instant::now();
    // The server notices on its own time.
    while http::get(&simulator.url(), "/ready").status == 200 {
        if control.requests().last().unwrap().in_flight == 1 {
            break;
        }
        assert!(began.elapsed() < seconds(10));
        tokio::task::yield_now().await;
    }
    assert_eq!(control.requests()[0].status, None);
    drop(hold);
}

#[tokio::test]
async fn it_can_go_down_and_come_back_with_its_data() {
    let simulator = simulator();
    let control = simulator.control();
    let _hold = control.hold("/api/search");
    let stream = http::ask(&simulator.url(), SEARCH, &[]).unwrap();
    control.wait_for_held(1).await;
    simulator.take_down().await;
    assert!(http::read(stream).is_none(), "the connection is cut");
    assert!(http::try_get(&simulator.url(), "/ready", &[]).is_none());
    drop(_hold);
    simulator.bring_up().unwrap();
    simulator.bring_up().unwrap();
    let reply = http::get(&simulator.url(), SEARCH);
    assert_eq!(super::traces(&reply.json()).len(), 300);
    let url = simulator.url();
    simulator.stop().await;
    assert!(http::try_get(&url, "/ready", &[]).is_none());
}
