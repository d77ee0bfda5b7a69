//! A stand-in that answers like Grafana Tempo, for the demonstration, the tests and the benchmarks.
//!
//! It serves HTTP on a port of the loopback interface, holds a population of traces that it knows the truth about, and answers searches,
//! counts and look-ups as Tempo 3.0.3 or 2.10.8 does - held to recordings of both by a test - down to the faults that a client has to
//! live with: answers cut without a word, fragments, data that cannot be found for a while. On request it misbehaves ([`Fault`]).
//!
//! What it is not: it receives no spans over the network ([`Control::push`] brings them), and it understands only the part of TraceQL
//! that harvesting needs.
//!
//! ```text
//! server ── search, metrics, trace_by_id ── traceql, combine ── store ── population ── generate
//!    └──── faults, request_log, clock, json
//! ```

mod answer;
mod clock;
mod combine;
mod control;
mod faults;
mod generate;
pub mod json;
mod metrics;
mod params;
mod population;
mod random;
mod request_log;
mod search;
mod server;
mod span;
mod store;
mod time_index;
mod trace_by_id;
mod traceql;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use secrecy::SecretString;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use control::Shared;

pub use clock::ClockSetting;
pub use control::{Control, Hold};
pub use faults::{Fault, FaultId, Gate, Misbehaviour, RetryAfter};
pub use generate::{Burst, Settings as GenerateSettings};
pub use population::{Population, PopulationError, TraceTruth};
pub use request_log::RequestRecord;
pub use span::{
    Attribute, AttributeScope, AttributeValue, ServiceCounts, Span, SpanKind, SpanStatus, Text,
    TraceFragment,
};
pub use traceql::understands;

/// Which Tempo is simulated. They differ in the defaults of [`Config::new`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// 3.0.3.
    #[default]
    V3_0_3,
    /// 2.10.8.
    V2_10_8,
}

/// What the server allows. 0 means no limit, as in Tempo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `query_frontend.search.max_result_limit`: traces a search.
    pub max_result_limit: u32,
    /// `query_frontend.search.max_duration`: width of a search's window.
    pub max_duration: Duration,
    /// `query_frontend.search.max_spans_per_span_set`.
    pub max_spans_per_span_set: u32,
    /// `query_frontend.metrics.max_duration`: width of a count's range, edges rounded.
    pub metrics_max_duration: Duration,
    /// `query_frontend.metrics.max_intervals`: steps a count.
    pub metrics_max_intervals: u64,
    /// `server.grpc_server_max_send_msg_size`: bytes a search answer, as protobuf.
    pub max_response_bytes: usize,
    /// `overrides.max_bytes_per_trace`: bytes a look-up by ID, as protobuf.
    pub max_trace_bytes: Option<usize>,
}

/// When pushed spans can be found, and by what. The traces of a population are settled and always found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// `query_frontend.query_end_cutoff`: a window is trimmed to end this far behind now, and moved if it lies wholly inside.
    pub query_end_cutoff: Duration,
    /// `query_frontend.search.query_backend_after`: what is older is looked for in the block list only.
    pub query_backend_after: Duration,
    /// From a span's arrival to the flush that makes it searchable.
    pub search_delay: Duration,
    /// From a block's first flush until it is sealed.
    pub block_duration: Duration,
    /// From then until it is on the block list: building it, and `blocklist_poll`. Data is in the hand-over hole while it is older than
    /// `query_backend_after` and its block not on the list.
    pub block_list_delay: Duration,
    /// `ingestion_time_range_slack`: spans that arrive later than this are found by ID only.
    pub ingestion_slack: Duration,
}

/// Who may ask.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// Everyone.
    #[default]
    None,
    /// Who sends this token.
    Bearer(SecretString),
    /// Who sends this name and password.
    Basic {
        /// Name.
        username: String,
        /// Password.
        password: SecretString,
    },
}

/// Whose traces there are.
#[derive(Debug, Clone)]
pub enum Tenancy {
    /// One tenant, whatever header is sent.
    Single(Arc<Population>),
    /// Several, told apart by `X-Scope-OrgID`, without which requests are refused. Others are empty.
    Multi(BTreeMap<String, Arc<Population>>),
}

/// How to simulate.
#[derive(Debug, Clone)]
pub struct Config {
    /// The settled traces.
    pub tenancy: Tenancy,
    /// Decides which traces a cut answer keeps and which requests meet a fault of some probability.
    pub seed: u64,
    /// What is allowed.
    pub limits: Limits,
    /// When pushed spans can be found.
    pub timing: Timing,
    /// Who may ask.
    pub credentials: Credentials,
    /// What stands before `/api`; with a leading slash, empty for nothing.
    pub base_path: String,
    /// The server's clock.
    pub clock: ClockSetting,
    /// Whether counting works. A Tempo 2 that is not set up for it answers 200 with no series.
    pub metrics_enabled: bool,
    /// Whether protobuf is answered to who accepts it. `false` is a proxy that ignores `Accept`.
    pub protobuf: bool,
    /// How many blocks the settled traces are said to be in. Shows in the metrics of answers only.
    pub settled_blocks: u32,
    /// What `/api/status/buildinfo` says; a Tempo that was not built for release says nothing.
    pub reported_version: String,
}

impl Config {
    /// A Tempo of this version as it is by default, with these settled traces.
    pub fn new(version: Version, population: Population) -> Self {
        let hours = |count: u64| Duration::from_secs(count * 3_600);
        let minutes = |count: u64| Duration::from_secs(count * 60);
        let is_3 = version == Version::V3_0_3;
        Self {
            tenancy: Tenancy::Single(Arc::new(population)),
            seed: 1,
            limits: Limits {
                max_result_limit: 262_144,
                max_duration: hours(168),
                max_spans_per_span_set: 100,
                metrics_max_duration: hours(if is_3 { 24 } else { 3 }),
                metrics_max_intervals: 10_000,
                max_response_bytes: 16 * 1024 * 1024,
                max_trace_bytes: None,
            },
            timing: Timing {
                query_end_cutoff: Duration::from_secs(if is_3 { 30 } else { 0 }),
                query_backend_after: minutes(15),
                search_delay: Duration::from_secs(10),
                block_duration: minutes(5),
                block_list_delay: minutes(15),
                ingestion_slack: minutes(2),
            },
            credentials: Credentials::None,
            base_path: String::new(),
            clock: ClockSetting::default(),
            metrics_enabled: is_3,
            protobuf: true,
            settled_blocks: 1,
            reported_version: String::new(),
        }
    }
}

/// Why the simulator does not run.
#[derive(Debug, thiserror::Error)]
#[error(
    "starting the Tempo simulator on `{address}`: {source}; is the loopback interface up and the port free?"
)]
pub struct StartError {
    address: SocketAddr,
    source: io::Error,
}

/// A running simulator; dropping it stops it.
#[derive(Debug)]
pub struct Simulator {
    shared: Arc<Shared>,
    address: SocketAddr,
    base_path: String,
    server: Mutex<Option<Server>>,
}

/// The threads that serve, and word of their end.
#[derive(Debug)]
struct Server {
    runtime: Runtime,
    ended: watch::Receiver<()>,
}

impl Simulator {
    /// Starts serving on a free port of the loopback interface, on threads of its own.
    ///
    /// # Errors
    /// When no port can be had or no thread be started.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), config)
    }

    /// Serves at this address.
    ///
    /// # Errors
    /// When it cannot be listened on, or no thread be started.
    pub fn start_at(address: SocketAddr, config: Config) -> Result<Self, StartError> {
        let base_path = config.base_path.trim_end_matches('/').to_owned();
        let shared = Arc::new(Shared::new(config));
        let (server, address) = serve(address, &shared)?;
        Ok(Self {
            shared,
            address,
            base_path,
            server: Mutex::new(Some(server)),
        })
    }

    /// Where it serves, base path included, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.base_path)
    }

    /// A handle that can be given away.
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }

    /// Goes down as if killed: connections are cut and new ones refused, until [`Self::bring_up`]. Data and faults stay.
    pub async fn take_down(&self) {
        let server = self
            .server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Server { runtime, mut ended }) = server {
            runtime.shutdown_background();
            // Fails as soon as the listener is gone, which is what is waited for.
            while ended.changed().await.is_ok() {}
        }
    }

    /// Serves again, at the same address. Nothing happens when it does already.
    ///
    /// # Errors
    /// When the port has been taken meanwhile.
    pub fn bring_up(&self) -> Result<(), StartError> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if server.is_none() {
            *server = Some(serve(self.address, &self.shared)?.0);
        }
        Ok(())
    }

    /// Stops for good.
    pub async fn stop(self) {
        self.take_down().await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let server = self
            .server
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(server) = server {
            // Waiting for the threads would block whoever drops this, maybe inside another runtime.
            server.runtime.shutdown_background();
        }
    }
}

/// Serves on threads of its own, so that a caller that blocks or is busy does not slow the answers down.
fn serve(address: SocketAddr, shared: &Arc<Shared>) -> Result<(Server, SocketAddr), StartError> {
    let failed = |source| StartError { address, source };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tempo-simulator")
        .enable_all()
        .build()
        .map_err(failed)?;
    let listen = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        let _guard = runtime.enter();
        Ok((tokio::net::TcpListener::from_std(listener)?, bound))
    };
    let (listener, bound) = listen().map_err(failed)?;
    let router = Router::new()
        .fallback(server::handle)
        .with_state(Arc::clone(shared));
    let (alive, ended) = watch::channel(());
    runtime.spawn(async move {
        let _alive = alive;
        // Ends with the runtime only; failed accepts are tried again inside.
        let _ = axum::serve(listener, router).await;
    });
    Ok((Server { runtime, ended }, bound))
}
