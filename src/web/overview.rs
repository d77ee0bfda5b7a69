//! The first page: all datasets, all sources, and what is wrong.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use sqlx::PgConnection;

use super::{
    coverage,
    format::{ago, count, duration, percent},
    heat,
    parts::{self, Mood, Steps, Tile, mark},
};
use crate::{
    status::{self, DatasetStatus},
    store::{
        dashboard::{self, Asked, RunState, SourceState, Stored, Wrong},
        pace::Pace,
    },
    warnings::{self, Kind, Warning},
    words::many,
};

/// How far back the plots reach: an hour, minute by minute.
const PLOTTED_MIN: usize = 60;
/// How far back errors are counted.
const ERRORS_OF: TimeDelta = TimeDelta::hours(24);
/// Days shown of the coverage, at most and at least.
const MOST_DAYS: i64 = 90;
const LEAST_DAYS: i64 = 14;
/// The most runs shown.
const MOST_RUNS: i64 = 15;
/// Notices that are not folded away.
const SEEN_AT_ONCE: usize = 6;

/// What is shown.
#[derive(Debug)]
pub(super) struct Overview {
    pub now: DateTime<Utc>,
    pub datasets: Vec<DatasetStatus>,
    pub warnings: Vec<Warning>,
    pub sources: Vec<SourceState>,
    pub stored: Vec<Stored>,
    pub asked: Vec<Asked>,
    pub wrong: Vec<Wrong>,
    pub runs: Vec<RunState>,
}

fn steps(now: DateTime<Utc>) -> Steps {
    Steps::until(now, TimeDelta::minutes(1), PLOTTED_MIN)
}

impl Overview {
    /// Reads it.
    pub async fn read(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<Self> {
        let steps = steps(now);
        let datasets = status::datasets(conn, None, now).await?;
        Ok(Self {
            warnings: warnings::of_statuses(conn, &datasets, now).await?,
            datasets,
            sources: dashboard::sources(conn).await?,
            stored: dashboard::stored(conn, None, steps.since, steps.step).await?,
            asked: dashboard::asked(conn, None, steps.since, steps.step).await?,
            wrong: dashboard::wrong(conn, None, now - ERRORS_OF).await?,
            runs: dashboard::runs(conn, None, MOST_RUNS).await?,
            now,
        })
    }

    fn paces(&self) -> BTreeMap<&str, &Pace> {
        let known = self.datasets.iter();
        known
            .filter_map(|status| Some((status.state.source.as_str(), status.pace.as_ref()?)))
            .collect()
    }
}

/// What somebody should look at.
pub(super) struct Notice {
    pub mood: Mood,
    pub text: Markup,
}

/// What is warned of, and what else should not be overlooked: the worst first.
pub(super) fn notices(
    warnings: &[Warning],
    sources: &[SourceState],
    datasets: &[DatasetStatus],
    why_unusable: &impl Fn(&str) -> Option<String>,
    now: DateTime<Utc>,
) -> Vec<Notice> {
    let link = |name: &str| html! { a href={ "/datasets/" (name) } { (name) } };
    let mut notices = Vec::new();
    for source in sources {
        let why = why_unusable(&source.name);
        let (mood, says) = parts::answers(source, why.as_deref(), now);
        if mood == Mood::Bad {
            let why = why.or_else(|| source.last.as_ref()?.error.clone());
            notices.push(Notice {
                mood,
                text: html! { "Tempo " strong { (source.name) } " " (says) "." @if let Some(why) = why { " " (why) } },
            });
        }
    }
    for warning in warnings {
        let of = datasets
            .iter()
            .find(|status| Some(&status.state.name) == warning.dataset.as_ref());
        let failed = of.is_some_and(|status| status.failed_windows > 0);
        notices.push(Notice {
            mood: match warning.name {
                Kind::SourceSilent => Mood::Bad,
                Kind::Gaps if failed => Mood::Bad,
                _ => Mood::Warning,
            },
            text: html! {
                @if let Some(dataset) = &warning.dataset { (link(dataset)) ": " }
                (warning.summary) span.means { (warning.remedy) }
            },
        });
    }
    for status in datasets {
        for here in &status.paused {
            let what = match here.run {
                Some(run) => format!("run {run} of job {}", here.job),
                None => format!("job {}", here.job),
            };
            notices.push(Notice {
                mood: Mood::Warning,
                text: html! { (link(&status.state.name)) ": " (what) " is paused, " (ago(here.paused.since, now)) " by " (here.paused.by) span.means { "tempo-harvest resume " (here.job) } },
            });
        }
    }
    notices.sort_by_key(|notice| notice.mood != Mood::Bad);
    notices
}

/// What somebody should look at.
pub(super) fn attention(notices: &[Notice]) -> Markup {
    html! {
        @if !notices.is_empty() {
            section.attention aria-labelledby="attention" {
                h2 id="attention" { "Attention" }
                @let (first, rest) = notices.split_at(notices.len().min(SEEN_AT_ONCE));
                (list(first))
                @if !rest.is_empty() {
                    details { summary { "And " (rest.len()) " more" } (list(rest)) }
                }
            }
        }
    }
}

fn list(notices: &[Notice]) -> Markup {
    html! {
        ul { @for notice in notices {
            li.bad[notice.mood == Mood::Bad] {
                (mark(notice.mood, if notice.mood == Mood::Bad { "Error" } else { "Warning" }))
                div { (notice.text) }
            }
        } }
    }
}

/// Draws it.
pub(super) fn draw(seen: &Overview, unusable: &[(String, String)]) -> Markup {
    let why_unusable = |name: &str| {
        unusable
            .iter()
            .find(|(source, _)| source == name)
            .map(|(_, why)| why.clone())
    };
    if seen.datasets.is_empty() {
        return empty();
    }
    let notices = notices(
        &seen.warnings,
        &seen.sources,
        &seen.datasets,
        &why_unusable,
        seen.now,
    );
    let paces = seen.paces();
    let now_s = seen.now.timestamp();
    let last_s = seen
        .datasets
        .iter()
        .map(|status| heat::last_asked(status, now_s));
    let last_s = last_s.max().unwrap_or(now_s);
    let asked_days = seen
        .datasets
        .iter()
        .map(|status| heat::days_asked(status, last_s, MOST_DAYS));
    let days = asked_days.max().unwrap_or(1).max(LEAST_DAYS);
    let rows: Vec<_> = seen
        .datasets
        .iter()
        .map(|status| (status, heat::days(status, last_s, days)))
        .collect();
    html! {
        h1 { (headline(seen)) }
        (tiles(seen))
        (attention(&notices))
        section aria-labelledby="coverage" {
            h2 id="coverage" { "Coverage" }
            (coverage::by_day(&rows))
            (coverage::legend())
        }
        section aria-labelledby="datasets" {
            h2 id="datasets" { "Datasets" }
            (datasets(seen))
        }
        section aria-labelledby="hour" {
            h2 id="hour" { "The last hour" }
            div.plots {
                (parts::throughput(&seen.stored, steps(seen.now)))
                (parts::share_of_limit(&seen.asked, steps(seen.now)))
            }
        }
        section aria-labelledby="runs" {
            h2 id="runs" { "Runs" }
            (parts::runs(&seen.runs, seen.now))
        }
        section aria-labelledby="queue" {
            h2 id="queue" { "Queue and sources" }
            (parts::queue(&seen.sources, |name| paces.get(name).map(|pace| (*pace).clone()), why_unusable, seen.now))
        }
        section aria-labelledby="errors" {
            h2 id="errors" { "Errors by class" }
            (parts::errors(&seen.wrong, "the last 24 hours", seen.now))
        }
    }
}

fn empty() -> Markup {
    html! {
        h1 { "Nothing has been submitted yet" }
        p.lead { "This page shows what is collected as soon as a job is there." }
        ol.start {
            li { code { "tempo-harvest init --url http://localhost:3200 > jobs/shop.toml" } span.means { "writes a job file for a Tempo" } }
            li { code { "tempo-harvest doctor jobs/shop.toml" } span.means { "says whether everything is in place" } }
            li { code { "tempo-harvest work jobs --listen 127.0.0.1:8080" } span.means { "collects it, and shows it here" } }
        }
    }
}

fn due(seen: &Overview) -> (i64, i64) {
    let due_s: i64 = seen.datasets.iter().map(DatasetStatus::due_s).sum();
    let missing_s: i64 = seen.datasets.iter().map(DatasetStatus::missing_s).sum();
    (due_s - missing_s, due_s)
}

fn headline(seen: &Overview) -> String {
    let (there_s, due_s) = due(seen);
    let short = seen
        .datasets
        .iter()
        .filter(|status| status.missing_s() > 0)
        .count();
    match (due_s, short) {
        (0, _) => "Nothing is due to be complete yet".to_owned(),
        (_, 0) => "Everything due is collected".to_owned(),
        (_, short) => format!(
            "{} of what is due is collected; {short} of {} {} some",
            percent(there_s, due_s),
            many(seen.datasets.len(), "dataset", "datasets"),
            if short == 1 { "lacks" } else { "lack" }
        ),
    }
}

fn tiles(seen: &Overview) -> Markup {
    let (there_s, due_s) = due(seen);
    let failed: usize = seen
        .datasets
        .iter()
        .map(|status| status.failed_windows)
        .sum();
    let traces: i64 = seen.datasets.iter().map(|status| status.state.traces).sum();
    let behind = seen
        .datasets
        .iter()
        .filter_map(|status| Some((status.live.as_ref()?.behind_s?, &status.state.name)))
        .max();
    let (due, later, running) =
        seen.sources
            .iter()
            .fold((0, 0, 0), |(due, later, running), source| {
                (
                    due + source.due,
                    later + source.later,
                    running + source.running,
                )
            });
    let lately: i64 = seen
        .stored
        .iter()
        .rev()
        .filter(|row| row.at > seen.now - TimeDelta::minutes(6))
        .map(|row| row.new)
        .sum();
    parts::tiles(&[
        Tile {
            name: "Complete",
            value: percent(there_s, due_s),
            more: format!("{} of {} due", duration(there_s), duration(due_s)),
            mood: match failed {
                0 if there_s == due_s && due_s > 0 => Mood::Good,
                0 => Mood::Busy,
                _ => Mood::Bad,
            },
        },
        Tile {
            name: "Traces",
            value: count(traces),
            more: format!("in {}", many(seen.datasets.len(), "dataset", "datasets")),
            mood: Mood::Plain,
        },
        live_tile(behind),
        Tile {
            name: "Throughput",
            value: format!("{}/min", count(lately / 5)),
            more: "new traces, last 5 minutes".to_owned(),
            mood: Mood::Plain,
        },
        Tile {
            name: "Queue",
            value: count(due + later),
            more: format!("windows waiting, {} being fetched", count(running)),
            mood: if due + later + running > 0 {
                Mood::Busy
            } else {
                Mood::Plain
            },
        },
        Tile {
            name: "Failed",
            value: count(i64::try_from(failed).unwrap_or(i64::MAX)),
            more: "windows that leave a gap".to_owned(),
            mood: if failed > 0 { Mood::Bad } else { Mood::Good },
        },
    ])
}

/// How far the live edge lies behind.
pub(super) fn live_tile(behind: Option<(i64, &String)>) -> Tile {
    match behind {
        Some((behind_s, name)) => Tile {
            name: "Live edge",
            value: format!("{} ago", duration(behind_s)),
            more: format!("the furthest behind: {name}"),
            mood: if behind_s > 300 {
                Mood::Warning
            } else {
                Mood::Good
            },
        },
        None => Tile {
            name: "Live edge",
            value: "–".to_owned(),
            more: "nothing is polled".to_owned(),
            mood: Mood::Plain,
        },
    }
}

fn datasets(seen: &Overview) -> Markup {
    html! {
        (parts::scrolling("Datasets", html! {
            table {
                caption { "What is collected" }
                thead { tr {
                    th scope="col" { "Dataset" } th scope="col" { "State" } th.number scope="col" { "Complete" } th.number scope="col" { "Missing" } th.number scope="col" { "Traces" }
                    th.number scope="col" { "Live edge" } th.number scope="col" { "Queued" } th.number scope="col" { "Fetching" } th.number scope="col" { "Failed" } th scope="col" { "Last window" } th scope="col" { "What" }
                } }
                tbody {
                    @for status in &seen.datasets {
                        @let state = &status.state;
                        tr {
                            th scope="row" { a href={ "/datasets/" (state.name) } { (state.name) } }
                            td { (standing(status)) }
                            td.number { (percent(status.due_s() - status.missing_s(), status.due_s())) }
                            td.number { @if status.missing_s() > 0 { (duration(status.missing_s())) } @else { "–" } }
                            td.number { (count(state.traces)) }
                            td.number { @match status.live.as_ref().map(|live| live.behind_s) { Some(Some(behind_s)) => (duration(behind_s)), Some(None) => "not yet", None => "–" } }
                            td.number { (count(state.queued)) } td.number { (count(state.running)) }
                            td.number { (status.failed_windows) }
                            td { @match state.last_done_at { Some(at) => (parts::moment(at, seen.now)), None => "–" } }
                            td.text { (what(status)) }
                        }
                    }
                }
            }
        }))
    }
}

/// What a dataset is a collection of.
pub(super) fn what(status: &DatasetStatus) -> String {
    let state = &status.state;
    let query = state.query.as_deref().unwrap_or("every trace");
    let tenant = state
        .tenant
        .as_ref()
        .map_or_else(String::new, |tenant| format!(", tenant {tenant}"));
    format!(
        "{query}, detail {}, from {}{tenant}",
        state.detail, state.source
    )
}

/// How a dataset stands, in a word.
pub(super) fn standing(status: &DatasetStatus) -> Markup {
    let open = status.state.queued + status.state.running;
    match () {
        () if status.failed_windows > 0 => mark(Mood::Bad, "failed windows"),
        () if !status.paused.is_empty() => mark(Mood::Warning, "paused"),
        () if status.missing_s() > 0 && open == 0 => mark(Mood::Warning, "gaps"),
        () if status.missing_s() > 0 => mark(Mood::Busy, "filling"),
        () if status.due_s() == 0 => mark(Mood::Plain, "nothing due yet"),
        () => mark(Mood::Good, "complete"),
    }
}
