//! `/healthz` and `/readyz`: whether this process lives, and whether it can do its work.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use chrono::Utc;
use serde::Serialize;
use sqlx::PgPool;

use super::{Access, Shared};
use crate::{
    store::{self, OpenError, schema, warnings::SourceState},
    warnings,
    window::rfc3339,
};

/// The database is not waited for longer than this: who asks has little patience.
const PATIENCE: Duration = Duration::from_secs(3);

/// `/healthz` and `/readyz`. Monitors ask them without a token, and are then told nothing that must not be known.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
}

/// What `/readyz` says.
#[derive(Debug, Serialize)]
struct Readiness {
    /// The database is reachable and its tables are current.
    ready: bool,
    /// reachable or unreachable.
    database: &'static str,
    /// current, behind, newer, or unfit (another program's, or changed by hand); null: not known.
    migrations: Option<&'static str>,
    /// How sources answer: reported, not required. Null: not known, or not to be told to who asks.
    sources: Option<Vec<SourceReport>>,
}

/// How a source answers.
#[derive(Debug, Serialize)]
struct SourceReport {
    name: String,
    /// answers, silent (windows wait for it in vain), or idle (it has never answered, and nothing waits for it).
    state: &'static str,
    last_success_at: Option<String>,
}

async fn readyz(
    State(shared): State<Shared>,
    Extension(access): Extension<Arc<Access>>,
    headers: HeaderMap,
) -> Response {
    let readiness = tokio::time::timeout(PATIENCE, readiness(&shared.pool)).await;
    let readiness = readiness.ok().and_then(|read| {
        read.inspect_err(|error| tracing::debug!(%error, "not ready"))
            .ok()
    });
    let mut readiness = readiness.unwrap_or(Readiness {
        ready: false,
        database: "unreachable",
        migrations: None,
        sources: None,
    });
    // Names of sources say where a Tempo is, and of which tenant.
    if !access.admits(&headers) {
        readiness.sources = None;
    }
    let code = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    match serde_json::to_string_pretty(&readiness) {
        Ok(body) => {
            let json = [(header::CONTENT_TYPE, "application/json")];
            (code, json, body + "\n").into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn readiness(pool: &PgPool) -> sqlx::Result<Readiness> {
    let mut conn = pool.acquire().await?;
    let migrations = match schema::standing(&mut conn).await {
        Ok(standing) if standing.is_current() => "current",
        Ok(_) => "behind",
        Err(OpenError::Newer { .. }) => "newer",
        Err(OpenError::Database(error)) => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "not ready");
            "unfit"
        }
    };
    let sources = match migrations {
        "current" => Some(store::warnings::sources(&mut conn).await?),
        _ => None,
    };
    let report = |source: SourceState| SourceReport {
        state: if warnings::is_silent(&source, Utc::now()) {
            "silent"
        } else if source.last_success_at.is_some() {
            "answers"
        } else {
            "idle"
        },
        last_success_at: source.last_success_at.map(|at| rfc3339(at.timestamp())),
        name: source.name,
    };
    Ok(Readiness {
        ready: migrations == "current",
        database: "reachable",
        migrations: Some(migrations),
        sources: sources.map(|sources| sources.into_iter().map(report).collect()),
    })
}
