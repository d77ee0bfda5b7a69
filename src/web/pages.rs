//! The pages and their addresses. What is on them is read here, and drawn in the files of their names.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, RawQuery, State},
    http::StatusCode,
    response::Response,
    routing::get,
};
use chrono::{DateTime, NaiveDateTime, Utc};
use maud::{Markup, html};
use sqlx::PgConnection;
use tokio::sync::Mutex;
use url::form_urlencoded;

use super::{
    Shared, dataset,
    format::second,
    heat::HOUR_S,
    hour,
    overview::{self, Overview},
    page::Page,
};
use crate::{store::dashboard, version, window::Window};

/// How long the database may take for a page.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// How old what the overview shows may be: many who look cost no more than one.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// How often a browser may ask by itself, seconds.
const REFRESH_S: std::ops::RangeInclusive<u32> = 5..=3_600;

/// What the overview showed last, and when it was read.
pub(super) type Latest = Mutex<Option<(Instant, Arc<Overview>)>>;

/// The pages.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/", get(overview))
        .route("/datasets/{name}", get(dataset))
        .route("/datasets/{name}/{hour}", get(hour))
        .fallback(async |State(shared): State<Shared>| {
            let sorry = "There is no such page.";
            sorry_page(&shared, StatusCode::NOT_FOUND, "Not found", sorry)
        })
}

/// Why there is no page.
enum Refused {
    /// There is no such thing.
    NotFound(String),
    /// The database refuses.
    Database(sqlx::Error),
    /// The database takes too long.
    TooSlow,
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Parameters of a page.
#[derive(Debug, Default)]
struct Asked {
    refresh_s: Option<u32>,
    until_s: Option<i64>,
    days: Option<i64>,
}

impl Asked {
    /// What cannot be understood counts as not asked.
    fn of(query: Option<&str>) -> Self {
        let mut asked = Self::default();
        for (key, value) in form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
            match &*key {
                "refresh" => {
                    asked.refresh_s = value.parse().ok().filter(|s| REFRESH_S.contains(s));
                }
                "until" => {
                    let midnight =
                        NaiveDateTime::parse_from_str(&format!("{value}T00:00"), "%Y-%m-%dT%H:%M");
                    asked.until_s = midnight.ok().map(|at| at.and_utc().timestamp());
                }
                "days" => asked.days = value.parse().ok(),
                _ => {}
            }
        }
        asked
    }
}

fn foot(shared: &Shared, now: DateTime<Utc>) -> Markup {
    html! {
        p {
            "As of " time datetime=(now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)) { (second(now)) " UTC" }
            ", by " (shared.holder) ", which works since " (second(shared.since)) " UTC. tempo-harvest " (version::FULL) ". All times are UTC."
        }
    }
}

fn sorry_page(shared: &Shared, status: StatusCode, title: &str, sorry: &str) -> Response {
    let page = Page {
        title: title.to_owned(),
        trail: Vec::new(),
        main: html! { h1 { (title) } p.lead { (sorry) } p { a href="/" { "To the overview" } } },
        refresh_s: None,
        foot: foot(shared, Utc::now()),
    };
    page.answer(status)
}

async fn answer(
    shared: &Shared,
    asked: &Asked,
    page: impl Future<Output = Result<(String, Vec<(String, String)>, Markup), Refused>>,
) -> Response {
    let outcome = tokio::time::timeout(READ_WITHIN, page).await;
    match outcome.unwrap_or(Err(Refused::TooSlow)) {
        Ok((title, trail, main)) => Page {
            title,
            trail,
            main,
            refresh_s: asked.refresh_s,
            foot: foot(shared, Utc::now()),
        }
        .answer(StatusCode::OK),
        Err(Refused::NotFound(what)) => {
            sorry_page(shared, StatusCode::NOT_FOUND, "Not found", &what)
        }
        Err(Refused::Database(error)) => {
            tracing::warn!(%error, "cannot read a page of the dashboard from the database");
            let sorry = "The database does not answer. What is being collected goes on when it is back; the log of this process says more.";
            sorry_page(
                shared,
                StatusCode::SERVICE_UNAVAILABLE,
                "The database does not answer",
                sorry,
            )
        }
        Err(Refused::TooSlow) => {
            let sorry = "The database took too long. It may be busy: ask again in a moment.";
            sorry_page(
                shared,
                StatusCode::SERVICE_UNAVAILABLE,
                "The database took too long",
                sorry,
            )
        }
    }
}

async fn overview(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let asked = Asked::of(query.as_deref());
    let page = async {
        let mut latest = shared.latest.lock().await;
        let seen = match &*latest {
            Some((at, seen)) if at.elapsed() < FRESH_FOR => Arc::clone(seen),
            _ => {
                let mut tx = dashboard::read(&shared.pool).await?;
                let seen = Arc::new(Overview::read(&mut tx, Utc::now()).await?);
                *latest = Some((Instant::now(), Arc::clone(&seen)));
                seen
            }
        };
        drop(latest);
        Ok((
            "Overview".to_owned(),
            Vec::new(),
            overview::draw(&seen, &unusable(&shared)),
        ))
    };
    answer(&shared, &asked, page).await
}

/// Sources that cannot be worked on here, and why.
fn unusable(shared: &Shared) -> Vec<(String, String)> {
    let unusable = shared
        .unusable
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    unusable
        .iter()
        .map(|(source, why)| (source.clone(), why.clone()))
        .collect()
}

async fn status_of(
    conn: &mut PgConnection,
    name: &str,
    now: DateTime<Utc>,
) -> Result<crate::status::DatasetStatus, Refused> {
    let statuses = crate::status::datasets(conn, Some(name), now).await?;
    let found = statuses
        .into_iter()
        .find(|status| status.state.name == name);
    found.ok_or_else(|| Refused::NotFound(format!("There is no dataset `{name}`.")))
}

async fn dataset(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let asked = Asked::of(query.as_deref());
    let page = async {
        let now = Utc::now();
        let mut tx = dashboard::read(&shared.pool).await?;
        let status = status_of(&mut tx, &name, now).await?;
        let seen = dataset::Seen::read(&mut tx, status, now, (asked.until_s, asked.days)).await?;
        Ok((
            name.clone(),
            Vec::new(),
            dataset::draw(&seen, &unusable(&shared)),
        ))
    };
    answer(&shared, &asked, page).await
}

async fn hour(
    State(shared): State<Shared>,
    Path((name, hour)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let asked = Asked::of(query.as_deref());
    let page = async {
        let begins = NaiveDateTime::parse_from_str(&format!("{hour}:00"), "%Y-%m-%dT%H:%M");
        let stretch = begins.ok().and_then(|begins| {
            let start_s = begins.and_utc().timestamp();
            Window::new(start_s, start_s + HOUR_S)
        });
        let Some(stretch) = stretch else {
            return Err(Refused::NotFound(format!(
                "`{hour}` is no hour; write 2026-11-20T13."
            )));
        };
        let now = Utc::now();
        let mut tx = dashboard::read(&shared.pool).await?;
        let status = status_of(&mut tx, &name, now).await?;
        let windows = dashboard::windows_in(&mut tx, &name, stretch, hour::MOST + 1).await?;
        let above = vec![(name.clone(), format!("/datasets/{name}"))];
        Ok((
            hour.replace('T', " ") + ":00",
            above,
            hour::draw(&status, stretch, &windows, now),
        ))
    };
    answer(&shared, &asked, page).await
}
