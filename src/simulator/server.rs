//! From a request to bytes on the wire: credentials, tenant, path, form of the answer - and the faults that spoil it.

use std::io;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE,
    DATE, LOCATION, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::Stream;
use prost::Message as _;
use secrecy::ExposeSecret as _;
use tokio::sync::mpsc;

use super::answer::{Answer, JSON, PROTOBUF, Refusal};
use super::clock::http_date;
use super::control::{SINGLE_TENANT, Shared};
use super::faults::{Misbehaviour, RetryAfter};
use super::metrics::{Kind, count};
use super::params::{Params, strip_base_path};
use super::random::Random;
use super::request_log::InFlight;
use super::search::{Conditions, search};
use super::trace_by_id::{Api, trace_by_id};
use super::{Credentials, json};

const TENANT_HEADER: &str = "x-scope-orgid";
const HTML: &str = "text/html; charset=utf-8";
const LOGIN_PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form action=\"/login\" method=\"post\"><input name=\"user\"></form></body></html>\n";
/// No protobuf: field 0 does not exist.
const GARBAGE: &[u8] = &[0x07, 0xff, 0xff, 0x00, 0xde, 0xad, 0xbe, 0xef, 0x07];

/// Answers a request, or spoils its answer.
pub(super) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let headers = request.headers();
    let uri = request.uri();
    let in_flight = shared.log.arrive(
        uri.path(),
        uri.query().unwrap_or(""),
        noted(headers),
        shared.clock.now(),
    );
    let base_path = shared.settings(|settings| settings.base_path.clone());
    let path = strip_base_path(&base_path, uri.path());
    let params = Params::parse(uri.query());
    let fault = path
        .as_ref()
        .and_then(|path| shared.faults.meet(path, window_s(&params)));
    if let Some(fault) = &fault {
        in_flight.meets(fault.name());
    }
    if let Some(flood @ Misbehaviour::Flood { .. }) = fault {
        return flooded(flood, &http_date(shared.clock.now()), in_flight);
    }
    let instead = match &fault {
        Some(fault) => before_answering(fault, &shared).await,
        None => None,
    };
    let proper = || match &path {
        Some(path) => answer(&shared, path, &params, headers),
        None => not_found(),
    };
    let replaced = instead.is_some();
    let mut answer = instead.unwrap_or_else(proper);
    let accepts_gzip = header(headers, &ACCEPT_ENCODING).contains("gzip");
    let truncated = matches!(fault, Some(Misbehaviour::TruncatedGzip));
    if truncated || (accepts_gzip && answer.status == StatusCode::OK && !answer.body.is_empty()) {
        answer.body = gzip(&answer.body);
        answer = answer
            .with_header(CONTENT_ENCODING, "gzip")
            .with_header(VARY, "Accept-Encoding");
    }
    if truncated {
        answer.body.truncate(answer.body.len() * 3 / 4);
    }
    if let Some(Misbehaviour::ContentType(content_type)) = &fault {
        answer.content_type.clone_from(content_type);
    }
    in_flight.answered(answer.status.as_u16(), answer.body.len());
    let date = http_date(shared.clock.now());
    match fault {
        Some(Misbehaviour::SlowBody { pieces, pause }) if !replaced => {
            in_pieces(answer, &date, in_flight, pieces, pause)
        }
        Some(Misbehaviour::CutConnection { sent }) => cut(answer, &date, in_flight, sent),
        _ => {
            let length = answer.body.len();
            let body = Body::from(std::mem::take(&mut answer.body));
            response(&answer, &date, length, body)
        }
    }
}

/// What a fault does before there is an answer, and the answer that it puts in place of the proper one.
async fn before_answering(fault: &Misbehaviour, shared: &Shared) -> Option<Answer> {
    match fault {
        Misbehaviour::TooManyRequests(retry_after) => {
            let answer = Answer::text(StatusCode::TOO_MANY_REQUESTS, "job queue full");
            Some(match retry_after {
                RetryAfter::Absent => answer,
                RetryAfter::Seconds(seconds) => {
                    answer.with_header(RETRY_AFTER, seconds.to_string())
                }
                RetryAfter::Date(time) => answer.with_header(RETRY_AFTER, http_date(*time)),
            })
        }
        Misbehaviour::LargerThan => {
            let most_bytes = shared.settings(|settings| settings.limits.max_response_bytes);
            Some(Refusal::larger_than(most_bytes + 4_138_129, most_bytes).into())
        }
        Misbehaviour::Status(status) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let reason = status.canonical_reason().unwrap_or("error").to_lowercase();
            Some(Answer::text(status, format!("{reason}\n")))
        }
        Misbehaviour::GatewayTimeout { after: wait }
        | Misbehaviour::GatewayTimeoutByCost { allowed: wait, .. } => {
            tokio::time::sleep(*wait).await;
            let page = "<html><body><h1>504 Gateway Time-out</h1></body></html>\n";
            Some(Answer {
                status: StatusCode::GATEWAY_TIMEOUT,
                ..Answer::ok(HTML, page)
            })
        }
        Misbehaviour::Slow { delay } => {
            tokio::time::sleep(*delay).await;
            None
        }
        Misbehaviour::Garbage => Some(Answer::ok(PROTOBUF, GARBAGE)),
        Misbehaviour::LoginPage => Some(Answer::ok(HTML, LOGIN_PAGE)),
        Misbehaviour::Redirect { location } => Some(
            Answer {
                status: StatusCode::FOUND,
                ..Answer::ok(HTML, "<a href=\"/login\">Found</a>.\n")
            }
            .with_header(LOCATION, location.as_str()),
        ),
        Misbehaviour::LowerLimit(max_result_limit) => {
            shared.change_settings(|settings| settings.limits.max_result_limit = *max_result_limit);
            None
        }
        Misbehaviour::Hold(gate) => {
            let _held = Held::new(shared);
            gate.clone().pass().await;
            None
        }
        Misbehaviour::SlowBody { .. }
        | Misbehaviour::CutConnection { .. }
        | Misbehaviour::ContentType(_)
        | Misbehaviour::TruncatedGzip
        | Misbehaviour::Flood { .. } => None,
    }
}

/// Counts a held request for as long as it is held, also when its client leaves.
struct Held<'shared>(&'shared Shared);

impl<'shared> Held<'shared> {
    fn new(shared: &'shared Shared) -> Self {
        shared.log.held(1);
        Self(shared)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.log.held(-1);
    }
}

/// The proper answer.
fn answer(shared: &Shared, path: &str, params: &Params, headers: &HeaderMap) -> Answer {
    if !shared.settings(|settings| accepted(&settings.credentials, headers)) {
        return Answer::text(StatusCode::UNAUTHORIZED, "Unauthorized\n")
            .with_header(WWW_AUTHENTICATE, "Basic realm=\"tempo\"");
    }
    match path {
        "/ready" => return Answer::ok(super::answer::PLAIN_TEXT, "ready\n"),
        "/api/echo" => return Answer::ok(super::answer::PLAIN_TEXT, "echo\n"),
        "/api/status/buildinfo" => {
            let version = shared.settings(|settings| settings.reported_version.clone());
            let body = format!(
                "{{\"version\":\"{version}\",\"revision\":\"\",\"branch\":\"\",\"buildUser\":\"\",\"buildDate\":\"\",\"goVersion\":\"go1.27.3\"}}\n"
            );
            return Answer::ok(JSON, body);
        }
        _ => {}
    }
    let by_id = path
        .strip_prefix("/api/v2/traces/")
        .map(|id| (Api::V2, id))
        .or_else(|| path.strip_prefix("/api/traces/").map(|id| (Api::V1, id)))
        .filter(|(_, id)| !id.is_empty() && !id.contains('/'));
    let known = matches!(
        path,
        "/api/search" | "/api/metrics/query_range" | "/api/metrics/query"
    );
    if !known && by_id.is_none() {
        return not_found();
    }
    let tenant = header(headers, TENANT_HEADER);
    let tenant = match (shared.multi_tenant, tenant) {
        (true, "") => return Answer::text(StatusCode::UNAUTHORIZED, "no org id\n"),
        (true, tenant) => tenant,
        (false, _) => SINGLE_TENANT,
    };
    let now = shared.clock.now();
    let settings = shared.settings(Clone::clone);
    shared.with_store(tenant, |store| store.catch_up(now, &settings.timing));
    let stores = shared.stores.read().unwrap_or_else(PoisonError::into_inner);
    let Some(store) = stores.get(tenant) else {
        return not_found();
    };
    let protobuf = settings.protobuf && header(headers, &ACCEPT).contains(PROTOBUF);
    if let Some((api, id)) = by_id {
        return trace_by_id(api, id, store, settings.limits.max_trace_bytes, protobuf);
    }
    let conditions = Conditions {
        limits: &settings.limits,
        timing: &settings.timing,
        settled_blocks: settings.settled_blocks,
        now,
    };
    let kind = match path {
        "/api/metrics/query_range" => Kind::Range,
        "/api/metrics/query" => Kind::Instant,
        _ => {
            let mut random = Random::new(shared.next_random());
            return match search(params, store, &conditions, &mut random) {
                Ok(response) if protobuf => Answer::ok(PROTOBUF, response.encode_to_vec()),
                Ok(response) => Answer::ok(JSON, json::search_response(&response)),
                Err(refusal) => refusal.into(),
            };
        }
    };
    count(kind, params, store, &conditions, settings.metrics_enabled).unwrap_or_else(Answer::from)
}

fn not_found() -> Answer {
    Answer::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn accepted(credentials: &Credentials, headers: &HeaderMap) -> bool {
    let given = header(headers, &AUTHORIZATION);
    match credentials {
        Credentials::None => true,
        Credentials::Bearer(token) => given.strip_prefix("Bearer ") == Some(token.expose_secret()),
        Credentials::Basic { username, password } => {
            let pair = format!("{username}:{}", password.expose_secret());
            given.strip_prefix("Basic ") == Some(json::base64(pair.as_bytes()).as_str())
        }
    }
}

fn header(headers: &HeaderMap, name: impl axum::http::header::AsHeaderName) -> &str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
}

/// Headers for the log, without the secrets.
fn noted(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let shown = if name == AUTHORIZATION || name == COOKIE {
                "(withheld)".to_owned()
            } else {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            };
            (name.as_str().to_owned(), shown)
        })
        .collect()
}

/// Width of the window a request asks for, in seconds.
fn window_s(params: &Params) -> u64 {
    let bound_ns = |name| {
        params
            .get(name)
            .and_then(|text| super::params::parse_timestamp_ns(name, text).ok())
    };
    match (bound_ns("start"), bound_ns("end")) {
        (Some(start_ns), Some(end_ns)) => {
            u64::try_from(end_ns.saturating_sub(start_ns) / 1_000_000_000).unwrap_or(0)
        }
        _ => 0,
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory cannot fail.
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default()
}

fn response(answer: &Answer, date: &str, length: usize, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let texts = [(CONTENT_TYPE, answer.content_type.as_str()), (DATE, date)];
    let further = answer
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str()));
    for (name, value) in texts.into_iter().chain(further) {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response
}

/// A body that comes from elsewhere, piece by piece.
struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// How much of a flood is written at once, bytes.
const FLOOD_PIECE: usize = 64 << 10;

fn flooded(flood: Misbehaviour, date: &str, in_flight: InFlight) -> Response<Body> {
    let Misbehaviour::Flood {
        status,
        content_type,
        beginning,
        part,
        times,
        compressed,
    } = flood
    else {
        return Response::default();
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let mut answer = Answer {
        status,
        ..Answer::ok(&content_type, "")
    };
    if compressed {
        answer = answer.with_header(CONTENT_ENCODING, "gzip");
    }
    in_flight.answered(status.as_u16(), 0);
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let at_once = (FLOOD_PIECE / part.len().max(1)).max(1);
        let many = Bytes::from(part.repeat(at_once));
        let mut encoder = compressed.then(|| GzEncoder::new(Vec::new(), Compression::best()));
        let mut next = Bytes::from(beginning);
        let mut left = times;
        loop {
            let piece = match &mut encoder {
                Some(encoder) => {
                    // Writing into memory cannot fail.
                    let _ = encoder.write_all(&next);
                    Bytes::from(std::mem::take(encoder.get_mut()))
                }
                None => next,
            };
            if !piece.is_empty() && sender.send(Ok(piece)).await.is_err() {
                break;
            }
            if left == 0 {
                break;
            }
            let now = left.min(at_once as u64);
            left = match left {
                u64::MAX => left,
                left => left - now,
            };
            next = many.slice(..part.len() * usize::try_from(now).unwrap_or(0));
        }
        if let Some(rest) = encoder.and_then(|encoder| encoder.finish().ok()) {
            let _ = sender.send(Ok(rest.into())).await;
        }
        drop(in_flight);
    });
    let mut response = response(&answer, date, 0, Body::from_stream(Pieces(receiver)));
    response.headers_mut().remove(CONTENT_LENGTH);
    response
}

fn in_pieces(
    mut answer: Answer,
    date: &str,
    in_flight: InFlight,
    pieces: usize,
    pause: Duration,
) -> Response<Body> {
    let body = Bytes::from(std::mem::take(&mut answer.body));
    let length = body.len();
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let piece = length.div_ceil(pieces.max(1)).max(1);
        for from in (0..length).step_by(piece) {
            tokio::time::sleep(pause).await;
            let part = body.slice(from..(from + piece).min(length));
            if sender.send(Ok(part)).await.is_err() {
                break;
            }
        }
        drop(in_flight);
    });
    response(&answer, date, length, Body::from_stream(Pieces(receiver)))
}

fn cut(mut answer: Answer, date: &str, in_flight: InFlight, sent: f64) -> Response<Body> {
    let body = Bytes::from(std::mem::take(&mut answer.body));
    let length = body.len();
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        // Never all of it, or nothing would be missing.
        let kept = ((length as f64 * sent.clamp(0.0, 1.0)) as usize).min(length.saturating_sub(1));
        let part = body.slice(..kept);
        if !part.is_empty() && sender.send(Ok(part)).await.is_ok() {
            // Sent before the error is, so that the client gets it.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let error = io::Error::new(io::ErrorKind::ConnectionReset, "cut on request");
        let _ = sender.send(Err(error)).await;
        drop(in_flight);
    });
    // An empty body would be over before it could be cut.
    response(
        &answer,
        date,
        length.max(1),
        Body::from_stream(Pieces(receiver)),
    )
}
