//! What a process shows of itself over HTTP while it works: the dashboard, for people and for monitors.
//!
//! Read-only. What is shown is read from the database when it is asked for, so that any process on the database shows the
//! same. Who may ask is decided in [`access`]; statements stand in [`crate::store`].

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router, middleware};
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{meter::Meter, worker::Unusable};

pub mod access;
mod connections;
mod coverage;
mod dataset;
mod format;
mod health;
mod heat;
mod hour;
pub mod metrics;
mod overview;
mod page;
mod pages;
mod parts;
mod plot;

pub use access::{Access, Token};
use connections::Bounded;
pub use metrics::Ledger;

/// How long answers that are under way may take when the process is to end.
const FINISH_WITHIN: Duration = Duration::from_secs(3);

/// What handlers know.
#[derive(Debug)]
pub struct Context {
    /// The database.
    pub pool: PgPool,
    /// `host:process:number` of this process.
    pub holder: String,
    /// Sources that this process cannot work on, and why.
    pub unusable: Unusable,
    /// When this process began.
    pub since: DateTime<Utc>,
    /// What it counts of its own.
    pub meter: Meter,
    /// What `/metrics` has read of the database last.
    pub ledger: Ledger,
    latest: pages::Latest,
}

impl Context {
    /// What the handlers of a process that began at `since` know.
    pub fn new(
        pool: PgPool,
        holder: String,
        unusable: Unusable,
        meter: Meter,
        since: DateTime<Utc>,
    ) -> Self {
        Self {
            pool,
            holder,
            unusable,
            since,
            meter,
            ledger: Ledger::default(),
            latest: pages::Latest::default(),
        }
    }
}

/// What handlers share.
pub type Shared = Arc<Context>;

/// An address that is listened on, and whom it answers.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
    access: Access,
}

impl Door {
    /// Listens; connections wait until [`Door::serve`].
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn open(address: SocketAddr, access: Access) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            access,
        })
    }

    /// Where it is, the port as the system gave it.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Answers until `stop`, and ends what it is answering then.
    pub async fn serve(self, shared: Shared, stop: CancellationToken) {
        let serving = axum::serve(Bounded::new(self.listener), router(shared, self.access))
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(FINISH_WITHIN).await;
        };
        tokio::select! {
            ended = serving => if let Err(error) = ended {
                tracing::error!(%error, "the dashboard's server ended badly");
            },
            () = late => tracing::debug!("an answer was still under way; not waiting for it"),
        }
    }
}

/// Every page, each behind its guard.
pub fn router(shared: Shared, access: Access) -> Router {
    let access = Arc::new(access);
    let guarded = pages::routes()
        .merge(metrics::routes())
        .layer(middleware::from_fn_with_state(
            Arc::clone(&access),
            access::guard,
        ));
    health::routes()
        .layer(Extension(access))
        .merge(guarded)
        .with_state(shared)
        .layer(middleware::map_response(access::strict))
}

/// An hour's name in addresses: `2026-11-20T13`.
fn hour_name(second: i64) -> String {
    let at = DateTime::<Utc>::from_timestamp(second, 0).unwrap_or_default();
    at.format("%Y-%m-%dT%H").to_string()
}
