//! HTTP to one Tempo: requests in, typed answers or classified failures out.
//!
//! Redirects are never followed (they would carry credentials to another host, and lead to login pages). Bodies are read
//! into a bounded buffer, large ones one at a time, and decoded into bounded memory. Nothing here retries;
//! [`crate::harvest`] decides that.

use std::{
    borrow::Cow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use reqwest::{
    Response,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, DATE, HeaderValue, LOCATION, RETRY_AFTER},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use super::{
    error::{Class, Failure, Refusal},
    gate::{Alone, Gate, Pace, Urgency},
    limits::{Learned, Limits},
    secrets::Secrets,
    setup::{SetupError, chain, default_headers, is_loopback, no_client, root, tls_hint, with_tls},
    wire::{self, DecodeError, Format, SearchBody, spans::Wanted},
};
use crate::{
    container,
    job::{Auth, Compression, Source},
    plan::density::Histogram,
    window::Window,
};

/// The largest answer to a search that is read, bytes: several times what Tempo's parts send each other (16 MiB), for it may be
/// allowed to send more, and writes the same larger as JSON.
const LARGEST_SEARCH: usize = 64 << 20;
/// The largest trace that is read, bytes: one that is too large for this cannot be asked for in parts.
pub(super) const LARGEST_TRACE: usize = 192 << 20;
/// The largest answer to a count that is read, bytes: 10,000 steps, a hundred bytes each, and as much again for what is not read.
const LARGEST_COUNT: usize = 2 << 20;
/// The largest answer that is read of anything else, refusals among it, bytes.
const LARGEST_OTHER: usize = 64 << 10;
/// Answers that are larger than this, bytes, are read one at a time: all others fit into memory beside each other.
const LARGE: usize = 24 << 20;
/// How much of a refusal's text is kept, characters.
const LONGEST_TEXT: usize = 400;
/// How much of a body is looked at for a message, bytes.
const READ_FOR_MESSAGES: usize = 64 << 10;
/// What no server allows a search to ask for, or it has no limit at all.
const MORE_THAN_ALLOWED: u32 = u32::MAX;
/// Refused by every server as no TraceQL, after it has looked at the limit: nothing is ever searched for it.
const NO_QUERY: &str = "{";
/// Spans that may share an ID, and still come in one answer.
const SPANS_A_SET: u32 = 8;
/// How long a server that would not count is not asked to.
const COUNT_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A search to send.
#[derive(Debug, Clone)]
pub struct Search {
    /// The window; Tempo takes both its edges as inclusive, so a little more than the window comes.
    pub window: Window,
    /// TraceQL, or `None` for a search without a query (cheaper; no `serviceStats`).
    pub query: Option<String>,
    /// Most traces to answer.
    pub limit: u32,
    /// Who waits for it.
    pub urgency: Urgency,
    /// What to ask of each span, if the query is one that brings spans ([`Wanted::query`]).
    pub spans: Option<Arc<Wanted>>,
}

/// An answer to a search.
#[derive(Debug)]
pub struct Answer {
    /// What came.
    pub body: SearchBody,
    /// HTTP status.
    pub status: u16,
    /// Size of the body, bytes, decompressed.
    pub bytes: u64,
    /// The server's clock when it answered; `None` if it did not say.
    pub server_time: Option<DateTime<Utc>>,
    /// From sending to the end of the body.
    pub elapsed: Duration,
    /// The format the server chose.
    pub format: Format,
}

/// What to count.
#[derive(Debug, Clone, Copy)]
pub struct Count<'a> {
    /// The window.
    pub window: Window,
    /// Length of the steps, seconds. Tempo refuses more than 10,000 steps.
    pub step_s: i64,
    /// TraceQL whose matching spans are counted, or `None` for root spans.
    pub query: Option<&'a str>,
    /// Who waits for it.
    pub urgency: Urgency,
}

impl Count<'_> {
    /// Steps that there are, and a few more for its edges.
    fn most_samples(&self) -> usize {
        let steps = self.window.seconds() / self.step_s.max(1);
        usize::try_from(steps)
            .unwrap_or(usize::MAX)
            .saturating_add(4)
    }
}

/// An answer to a count.
#[derive(Debug)]
pub struct CountAnswer {
    /// Spans by their start; `None` if the server returned no series at all, which says nothing (it may not count).
    pub histogram: Option<Histogram>,
    /// HTTP status.
    pub status: u16,
    /// Size of the body, bytes.
    pub bytes: u64,
    /// From sending to the end of the body.
    pub elapsed: Duration,
}

/// A client of one source.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    source: Source,
    pub(super) gate: Gate,
    limits: Mutex<Limits>,
    /// When a count was last not to be had.
    uncounted: Mutex<Option<Instant>>,
    /// Whether it was said that the server does not answer.
    silent: AtomicBool,
    secrets: Secrets,
    /// Who reads a large answer.
    large: Arc<Semaphore>,
}

/// A whole answer in memory, and the place that a large one has there.
pub(super) struct Body {
    pub(super) status: u16,
    pub(super) content_type: String,
    server_time: Option<DateTime<Utc>>,
    pub(super) bytes: Vec<u8>,
    pub(super) elapsed: Duration,
    _large: Option<OwnedSemaphorePermit>,
}

impl Body {
    /// The beginning of it as text; more is never shown.
    fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(READ_FOR_MESSAGES)])
    }
}

impl Client {
    /// A client for the source, with the limits that were learned before, which keeps the source's pace by itself.
    ///
    /// # Errors
    /// If a certificate or key file cannot be read or used.
    pub fn new(source: Source, limits: Limits) -> Result<Self, SetupError> {
        let alone = Alone::new(source.limits.concurrency, source.limits.requests_per_second);
        Self::at_pace(source, limits, Arc::new(alone))
    }

    /// The same, asking at this pace.
    ///
    /// # Errors
    /// If a certificate or key file cannot be read or used.
    pub fn at_pace(
        source: Source,
        limits: Limits,
        pace: Arc<dyn Pace>,
    ) -> Result<Self, SetupError> {
        // A second installation is an error that changes nothing: there is one provider.
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let loopback = is_loopback(&source.url);
        let mut headers = default_headers(&source).map_err(|reason| SetupError::Http {
            source_name: source.name.clone(),
            reason,
        })?;
        let plain = match source.compression {
            Compression::Auto => loopback,
            Compression::Gzip => false,
            Compression::None => true,
        };
        if plain {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("tempo-harvest/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(source.limits.timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            // What comes compressed is read, also where it was not asked for.
            .gzip(true)
            .default_headers(headers);
        if loopback {
            builder = builder.no_proxy();
        }
        builder = with_tls(builder, &source)?;
        let http = builder
            .build()
            .map_err(|error| no_client(&source, &error))?;
        Ok(Self {
            http,
            gate: Gate::new(pace, &source.limits),
            limits: Mutex::new(limits),
            uncounted: Mutex::new(None),
            silent: AtomicBool::new(false),
            secrets: Secrets::of(&source),
            large: Arc::new(Semaphore::new(1)),
            source,
        })
    }

    /// The source it talks to.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What the server is known to allow.
    pub fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what the server is known to allow.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Remembers a limit that a refusal named.
    pub fn learn(&self, learned: Learned) {
        self.limits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .learn(learned);
    }

    /// Forgets how many traces a search may ask for: the next one that asks for more meets it anew.
    pub fn forget_result_limit(&self) {
        self.limits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .max_result_limit = None;
    }

    /// How many rounds of requests in a row were refused for want of access.
    pub fn rounds_shut_out(&self) -> u32 {
        self.gate.rounds_shut_out()
    }

    /// Whether counting is worth a try: not for a while after the server would not count what is there.
    pub fn may_count(&self) -> bool {
        let uncounted = *self
            .uncounted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        uncounted.is_none_or(|at| at.elapsed() > COUNT_AGAIN_AFTER)
    }

    /// Notes that the server would not count traces that are there.
    pub fn cannot_count(&self) {
        *self
            .uncounted
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Notes whether the server answers; returns whether that is news.
    pub fn note_silent(&self, silent: bool) -> bool {
        self.silent.swap(silent, Ordering::Relaxed) != silent
    }

    /// Sends a search.
    ///
    /// # Errors
    /// A [`Failure`] with its class. An answer that is not provably a whole search answer is a failure.
    pub async fn search(&self, search: &Search) -> Result<Answer, Failure> {
        let mut url = self.url("api/search");
        {
            let mut pairs = url.query_pairs_mut();
            pairs
                .append_pair("start", &search.window.start().to_string())
                .append_pair("end", &search.window.end().to_string())
                .append_pair("limit", &search.limit.to_string());
            if let Some(query) = &search.query {
                pairs
                    .append_pair("q", query)
                    .append_pair("spss", &self.spans_a_set(search).to_string());
            }
        }
        let body = self
            .get(url, "application/protobuf", search.urgency, LARGEST_SEARCH)
            .await?;
        let format = Format::of(&body.content_type).ok_or_else(|| self.strange(&body))?;
        let most = search.limit as usize;
        let decoded = match &search.spans {
            Some(wanted) => wire::spans::decode_spans(format, &body.bytes, wanted, most),
            None => wire::decode_search(format, &body.bytes, most),
        };
        let decoded = decoded.map_err(|error| self.unreadable(&body, "Tempo's answer", &error))?;
        self.gate.answered(body.elapsed).await;
        Ok(Answer {
            body: decoded,
            status: body.status,
            bytes: body.bytes.len() as u64,
            server_time: body.server_time,
            elapsed: body.elapsed,
            format,
        })
    }

    /// Spans asked for of each set: only where spans are wanted more than one, in case several were sent with one ID.
    fn spans_a_set(&self, search: &Search) -> u32 {
        if search.spans.is_none() {
            return 1;
        }
        let allowed = self.limits().max_spans_per_span_set;
        allowed.map_or(SPANS_A_SET, |most| most.clamp(1, SPANS_A_SET))
    }

    /// Counts spans in the window by their start, in steps of so many seconds: root spans, or those that match a query. The
    /// window is to begin and end at multiples of the step: Tempo widens it to them.
    ///
    /// # Errors
    /// A [`Failure`] with its class.
    pub async fn count(&self, count: &Count<'_>) -> Result<CountAnswer, Failure> {
        let spans = count.query.unwrap_or("{nestedSetParent<0}");
        let query = format!("{spans} | count_over_time() with(exemplars=false)");
        let body = self.query_range(count, &query).await?;
        let histogram = wire::decode_count(&body.bytes, count.step_s, count.most_samples())
            .map_err(|error| self.unreadable(&body, "Tempo's count", &error))?;
        self.gate.answered(body.elapsed).await;
        Ok(CountAnswer {
            histogram,
            status: body.status,
            bytes: body.bytes.len() as u64,
            elapsed: body.elapsed,
        })
    }

    /// How long root spans in the window last on average, seconds; `None` if the server has nothing to say.
    ///
    /// # Errors
    /// A [`Failure`] with its class.
    pub async fn mean_duration_s(&self, count: &Count<'_>) -> Result<Option<f64>, Failure> {
        let query = "{nestedSetParent<0} | avg_over_time(duration) with(exemplars=false)";
        let body = self.query_range(count, query).await?;
        let mean = wire::decode_average(&body.bytes, count.most_samples())
            .map_err(|error| self.unreadable(&body, "Tempo's average", &error))?;
        self.gate.answered(body.elapsed).await;
        Ok(mean)
    }

    async fn query_range(&self, count: &Count<'_>, query: &str) -> Result<Body, Failure> {
        let mut url = self.url("api/metrics/query_range");
        url.query_pairs_mut()
            .append_pair("q", query)
            .append_pair("start", &count.window.start().to_string())
            .append_pair("end", &count.window.end().to_string())
            .append_pair("step", &format!("{}s", count.step_s));
        self.get(url, "application/json", count.urgency, LARGEST_COUNT)
            .await
    }

    /// Asks for more traces than any server allows, and for no query at all: a refusal that names the most a search may ask
    /// for, and costs the server nothing. In both Tempo 2.10 and 3.0 (`newCombiner` in `search_handlers.go`) the limit is
    /// looked at before the query is read, and where there is no limit the query is refused. Returns the refusal.
    pub async fn provoke_result_limit(&self, window: Window) -> Failure {
        let search = Search {
            window,
            query: Some(NO_QUERY.to_owned()),
            limit: MORE_THAN_ALLOWED,
            urgency: Urgency::Background,
            spans: None,
        };
        match self.search(&search).await {
            Ok(answer) => Failure::of_answer(
                Class::Query,
                answer.status,
                "Tempo answered what is no TraceQL",
            ),
            Err(failure) => failure,
        }
    }

    /// The server's version, if it tells one (`/api/status/buildinfo`).
    ///
    /// # Errors
    /// A [`Failure`] with its class.
    pub async fn version(&self) -> Result<Option<String>, Failure> {
        let body = self
            .get(
                self.url("api/status/buildinfo"),
                "application/json",
                Urgency::Background,
                LARGEST_OTHER,
            )
            .await?;
        let info: Option<serde_json::Value> = serde_json::from_slice(&body.bytes).ok();
        let version = info.as_ref().and_then(|info| info["version"].as_str());
        Ok(version
            .map(|version| self.excerpt(version, false))
            .filter(|version| !version.is_empty()))
    }

    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.source.url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        url
    }

    /// Asks for an answer of so many bytes at most.
    pub(super) async fn get(
        &self,
        url: Url,
        accept: &'static str,
        urgency: Urgency,
        largest: usize,
    ) -> Result<Body, Failure> {
        let _place = self.gate.enter(urgency).await;
        let sent = Instant::now();
        match self.send(url, accept, sent, largest).await {
            Ok(body) => Ok(body),
            Err(mut failure) => {
                failure.elapsed = sent.elapsed();
                self.gate.failed(&failure).await;
                Err(failure)
            }
        }
    }

    async fn send(
        &self,
        url: Url,
        accept: &'static str,
        sent: Instant,
        largest: usize,
    ) -> Result<Body, Failure> {
        tracing::trace!(source = self.source.name, %url, "request");
        let response = self
            .http
            .get(url)
            .header(ACCEPT, accept)
            .send()
            .await
            .map_err(|error| self.transport(error))?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text_of = |name| {
            headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
                .unwrap_or("")
        };
        let content_type = text_of(CONTENT_TYPE).to_ascii_lowercase();
        let server_time = DateTime::parse_from_rfc2822(text_of(DATE))
            .ok()
            .map(|at| at.with_timezone(&Utc));
        let read = if status == 200 && Format::of(&content_type).is_some() {
            self.read(response, largest).await
        } else {
            self.read_beginning(response).await
        };
        let (bytes, large) = match read {
            Ok(read) => read,
            // Here the status says enough; what else is refused says why in its body.
            Err(_) if matches!(status, 401..=408 | 429 | 500..) => (Vec::new(), None),
            Err(failure) => return Err(failure),
        };
        let body = Body {
            status,
            content_type,
            server_time,
            bytes,
            elapsed: sent.elapsed(),
            _large: large,
        };
        if body.status != 200 {
            let retry_after = retry_after(text_of(RETRY_AFTER), body.server_time);
            return Err(self.refused(&body, text_of(LOCATION), retry_after));
        }
        if is_html(&body) {
            return Err(self.refused(&body, "", None));
        }
        Ok(body)
    }

    /// Reads a whole answer. One that is large waits until no other is in memory; its place is held as long as it is.
    async fn read(
        &self,
        mut response: Response,
        largest: usize,
    ) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Failure> {
        let too_large = || {
            let most = match largest >> 20 {
                0 => format!("{} KiB", largest >> 10),
                most => format!("{most} MiB"),
            };
            let message = format!("Tempo's answer is larger than {most}, the most that is read");
            Failure::new(Class::TooLarge, message)
        };
        let announced = response.content_length().unwrap_or(0);
        if announced > largest as u64 {
            return Err(too_large());
        }
        let announced = usize::try_from(announced).unwrap_or(0);
        let mut bytes = Vec::with_capacity(announced.min(LARGE));
        let mut large = None;
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.transport(error))?
        {
            let length = bytes.len() + chunk.len();
            if length > largest {
                return Err(too_large());
            }
            if length > LARGE && large.is_none() {
                // Never closed, so this is always a permit.
                large = Arc::clone(&self.large).acquire_owned().await.ok();
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes, large))
    }

    /// Reads what a refusal says, and no more of it than says enough.
    async fn read_beginning(
        &self,
        mut response: Response,
    ) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Failure> {
        let mut bytes = Vec::new();
        while bytes.len() < LARGEST_OTHER
            && let Some(chunk) = response
                .chunk()
                .await
                .map_err(|error| self.transport(error))?
        {
            bytes.extend_from_slice(&chunk);
        }
        bytes.truncate(LARGEST_OTHER);
        Ok((bytes, None))
    }

    fn refused(&self, body: &Body, location: &str, retry_after: Option<Duration>) -> Failure {
        let html = is_html(body);
        let text = self.excerpt(&body.text(), html);
        let location = (300..400)
            .contains(&body.status)
            .then(|| self.excerpt(&without_query(location), false));
        let refusal = Refusal {
            status: body.status,
            html,
            text: &text,
            location: location.as_deref(),
            tenant_sent: self.source.tenant.is_some(),
            credentials_sent: !matches!(self.source.auth, Auth::None),
        };
        let class = if body.status == 200 {
            Class::Access
        } else {
            refusal.class()
        };
        Failure {
            retry_after,
            ..Failure::of_answer(class, body.status, self.scrub(&refusal.message()))
        }
    }

    /// An answer that is not what it should be, or more than can be taken.
    pub(super) fn unreadable(&self, body: &Body, what: &str, error: &DecodeError) -> Failure {
        let class = match error.is_of_size() {
            true => Class::TooLarge,
            false => Class::Passing,
        };
        // It may say back what was wrong, however long that is.
        let said: String = error.to_string().chars().take(READ_FOR_MESSAGES).collect();
        let message = format!("{what} cannot be read: {}", self.excerpt(&said, false));
        Failure {
            class,
            ..self.broken(body, message)
        }
    }

    /// An answer that is not what it should be, and may be next time.
    fn broken(&self, body: &Body, message: String) -> Failure {
        Failure {
            elapsed: body.elapsed,
            ..Failure::of_answer(Class::Passing, body.status, self.scrub(&message))
        }
    }

    pub(super) fn strange(&self, body: &Body) -> Failure {
        let said = self.excerpt(&body.text(), false);
        let kind = self.excerpt(&body.content_type, false);
        let message = match kind.is_empty() {
            true => format!("Tempo's answer does not say what it is (no Content-Type): `{said}`"),
            false => format!("Tempo's answer is neither protobuf nor JSON but `{kind}`: `{said}`"),
        };
        self.broken(body, message)
    }

    fn transport(&self, error: reqwest::Error) -> Failure {
        let address = host_and_port(&self.source.url);
        let (class, what) = if error.is_timeout() && !error.is_connect() {
            let seconds = self.source.limits.timeout.as_secs_f64();
            (
                Class::Timeout,
                format!(
                    "no whole answer from Tempo at {address} within {seconds} s (`limits.timeout`)"
                ),
            )
        } else if error.is_connect() {
            (
                Class::Passing,
                format!("cannot connect to Tempo at {address}"),
            )
        } else {
            (
                Class::Passing,
                format!("the connection to Tempo at {address} broke off"),
            )
        };
        let error = error.without_url();
        // What the layers in between say of a connection that is not made only hides why.
        let why = match error.is_connect() {
            true => root(&error),
            false => chain(&error),
        };
        let why = match why.contains("InvalidContentType") {
            true => format!(
                "{why}: this is no TLS; if it speaks plain HTTP there, write `http://` in `url`"
            ),
            false => why,
        };
        let (class, hint) = match tls_hint(&error) {
            // No certificate becomes another one by asking again.
            Some(hint) => (Class::Access, hint.to_owned()),
            None => {
                let host = self.source.url.host_str().unwrap_or_default();
                let hint = container::hint(host, &error, container::is_inside());
                (class, hint)
            }
        };
        Failure::new(class, self.scrub(&format!("{what}: {why}{hint}")))
    }

    /// A server may say back what it was sent: none of it is a secret afterwards.
    fn scrub(&self, text: &str) -> String {
        self.secrets.scrub(text)
    }

    /// What is shown of a server's words. Scrubbed before they are cut, so that no part of a secret is left at the end, and
    /// afterwards, when nothing stands between its parts any more.
    fn excerpt(&self, text: &str, html: bool) -> String {
        self.scrub(&shorten(&self.scrub(text), html))
    }
}

fn is_html(body: &Body) -> bool {
    let start = body.bytes[..body.bytes.len().min(256)]
        .trim_ascii_start()
        .to_ascii_lowercase();
    body.content_type.starts_with("text/html")
        || start.starts_with(b"<!doctype html")
        || start.starts_with(b"<html")
}

fn host_and_port(url: &Url) -> String {
    format!(
        "{}:{}",
        url.host_str().unwrap_or("?"),
        url.port_or_known_default().unwrap_or_default()
    )
}

/// A redirect's target without what may carry state or tokens.
fn without_query(location: &str) -> String {
    let target = location.split(['?', '#']).next().unwrap_or("");
    match target.split_once("//") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit('@').next().unwrap_or("");
            format!("{scheme}//{host}{path}")
        }
        None => target.to_owned(),
    }
}

/// One line, at most 400 characters; of an HTML page only its title.
pub fn shorten(text: &str, html: bool) -> String {
    let lower = text.to_ascii_lowercase();
    let title = lower
        .find("<title>")
        .zip(lower.find("</title>"))
        .and_then(|(from, to)| text.get(from + 7..to));
    let text = if html { title.unwrap_or("") } else { text };
    let one_line: Vec<&str> = text.split_whitespace().collect();
    one_line
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_TEXT)
        .collect()
}

/// `Retry-After` in seconds or as an HTTP date, which is measured by the server's own clock.
pub fn retry_after(value: &str, server_time: Option<DateTime<Utc>>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(value)
        .ok()?
        .with_timezone(&Utc);
    (until - server_time?).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = DateTime::parse_from_rfc2822("Sun, 22 Nov 2026 10:00:00 GMT")
            .unwrap()
            .with_timezone(&Utc);
        assert_eq!(retry_after("7", None), Some(Duration::from_secs(7)));
        assert_eq!(
            retry_after("Sun, 22 Nov 2026 10:00:09 GMT", Some(now)),
            Some(Duration::from_secs(9))
        );
        assert_eq!(
            retry_after("Sun, 22 Nov 2026 09:00:00 GMT", Some(now)),
            None
        );
        assert_eq!(retry_after("soon", Some(now)), None);
    }

    #[test]
    fn a_redirect_is_shown_without_what_may_be_secret() {
        for (location, shown) in [
            ("/login?state=x#y", "/login"),
            (
                "https://me:secret@sso.example/a/b?token=x",
                "https://sso.example/a/b",
            ),
            ("https://me:secret@sso.example", "https://sso.example"),
            ("//me:secret@sso.example/", "//sso.example/"),
            ("", ""),
        ] {
            assert_eq!(without_query(location), shown);
        }
    }

    #[test]
    fn a_page_is_shortened_to_its_title() {
        assert_eq!(
            shorten("<html><head><TITLE>Sign in</TITLE></head>…", true),
            "Sign in"
        );
        assert_eq!(shorten("a\n  b\tc", false), "a b c");
    }

    #[tokio::test]
    async fn a_refused_connection_is_known_as_one() {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let error = client
            .get(format!("http://{closed}"))
            .send()
            .await
            .unwrap_err()
            .without_url();
        assert_ne!(container::hint("127.0.0.1", &error, true), "");
    }
}
