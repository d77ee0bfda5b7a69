//! HTTP to one Tempo: requests in, typed answers or classified failures out.
//!
//! Here is what can be asked; `exchange` sends it and reads the answer, `failures` says what an answer that is none means.
//! Nothing here retries; [`crate::harvest`] decides that.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use reqwest::header::{ACCEPT_ENCODING, HeaderValue};
use tokio::sync::Semaphore;
use url::Url;

use super::{
    error::{Class, Failure},
    gate::{Alone, Gate, Pace, Urgency},
    limits::{Learned, Limits},
    secrets::Secrets,
    setup::{SetupError, default_headers, is_loopback, no_client, with_tls},
    wire::{self, Format, SearchBody, spans::Wanted},
};
use crate::{
    job::{Auth, Compression, Source},
    plan::density::Histogram,
    window::Window,
};

mod exchange;
mod failures;

use self::exchange::Body;
pub use self::failures::{retry_after, shorten};

/// The largest answer to a search that is read, bytes: several times what Tempo's parts send each other (16 MiB), for it may be
/// allowed to send more, and writes the same larger as JSON.
const LARGEST_SEARCH: usize = 64 << 20;
/// The largest trace that is read, bytes: one that is too large for this cannot be asked for in parts.
pub(super) const LARGEST_TRACE: usize = 192 << 20;
/// The largest answer to a count that is read, bytes: 10,000 steps, a hundred bytes each, and as much again for what is not read.
const LARGEST_COUNT: usize = 2 << 20;
/// The largest answer that is read of anything else, refusals among it, bytes.
const LARGEST_OTHER: usize = 64 << 10;
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

/// What a client is to do without, of what its source has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    /// The tenant.
    Tenant,
    /// Basic or bearer authentication; other headers and certificates it keeps.
    Credentials,
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

    /// A client that lacks something the source has, to see whether the server minds. It knows the source's secrets all the same: the
    /// server may have seen them before, and say them.
    ///
    /// # Errors
    /// If a certificate or key file cannot be read or used.
    pub fn lacking(source: &Source, limits: Limits, lacks: Lacks) -> Result<Self, SetupError> {
        let mut less = source.clone();
        match lacks {
            Lacks::Tenant => less.tenant = None,
            Lacks::Credentials => less.auth = Auth::None,
        }
        let mut client = Self::new(less, limits)?;
        client.secrets = Secrets::of(source);
        Ok(client)
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
}
