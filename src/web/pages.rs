//! The pages and their addresses.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
};
use chrono::Utc;
use maud::html;

use super::{Shared, page::Page};
use crate::status;

/// The pages.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/", get(overview))
        .fallback(async || (StatusCode::NOT_FOUND, "404\n").into_response())
}

async fn overview(State(shared): State<Shared>) -> Response {
    let read = async {
        let mut conn = shared.pool.acquire().await?;
        status::datasets(&mut conn, None, Utc::now()).await
    };
    match read.await {
        Ok(datasets) => Page {
            title: "Overview".to_owned(),
            trail: Vec::new(),
            main: html! { h1 { "Overview" } ul { @for dataset in &datasets { li { (dataset.state.name) } } } },
            refresh_s: None,
            foot: html! { (shared.holder) },
        }
        .answer(StatusCode::OK),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}
