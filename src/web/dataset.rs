//! A dataset's page: its coverage hour by hour, how it keeps up, and what is in it.

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use sqlx::PgConnection;

use super::{
    coverage,
    format::{count, duration, milliseconds, percent, stretch},
    heat::{self, DAY_S},
    overview,
    parts::{self, Mood, Steps, Tile},
};
use crate::{
    status::DatasetStatus,
    store::dashboard::{self, Asked, Operation, RunState, SourceState, Stored, UsualHour, Wrong},
    warnings::{self, Warning},
};

/// How far back the plots reach: a day, in quarters of an hour.
const PLOTTED: (TimeDelta, usize) = (TimeDelta::minutes(15), 96);
/// Days shown of the coverage at once, and if that is asked for.
const DAYS: i64 = 30;
const MOST_DAYS: i64 = 90;
/// The most runs and gaps shown.
const MOST_RUNS: i64 = 20;
const MOST_GAPS: usize = 50;
/// Slow operations are looked for among so many traces, the newest.
const NEWEST_TRACES: i64 = 20_000;
const MOST_OPERATIONS: i64 = 10;
/// Small multiples: the operations with the most traces.
const USUAL_OPERATIONS: i64 = 12;

/// What is shown.
pub(super) struct Seen {
    now: DateTime<Utc>,
    status: DatasetStatus,
    source: Option<SourceState>,
    stored: Vec<Stored>,
    asked: Vec<Asked>,
    wrong: Vec<Wrong>,
    runs: Vec<RunState>,
    slowest: Vec<Operation>,
    usual: Vec<UsualHour>,
    usual_since: Option<(String, DateTime<Utc>)>,
    warnings: Vec<Warning>,
    /// The last day of the coverage shown, any second of it.
    last_s: i64,
    /// The most days shown.
    days: i64,
}

fn steps(now: DateTime<Utc>) -> Steps {
    Steps::until(now, PLOTTED.0, PLOTTED.1)
}

impl Seen {
    /// Reads it.
    pub async fn read(
        conn: &mut PgConnection,
        status: DatasetStatus,
        now: DateTime<Utc>,
        (until_s, days): (Option<i64>, Option<i64>),
    ) -> sqlx::Result<Self> {
        let steps = steps(now);
        let name = status.state.name.clone();
        let sources = dashboard::sources(conn).await?;
        Ok(Self {
            source: sources
                .into_iter()
                .find(|source| source.name == status.state.source),
            stored: dashboard::stored(conn, Some(&name), steps.since, steps.step).await?,
            asked: dashboard::asked(conn, Some(&name), steps.since, steps.step).await?,
            wrong: dashboard::wrong(conn, Some(&name), steps.since).await?,
            runs: dashboard::runs(conn, Some(&name), MOST_RUNS).await?,
            slowest: dashboard::slowest(conn, &name, NEWEST_TRACES, MOST_OPERATIONS).await?,
            usual: dashboard::usual_hours(conn, &name, USUAL_OPERATIONS).await?,
            usual_since: dashboard::usual_since(conn, &name).await?,
            warnings: warnings::of_statuses(conn, std::slice::from_ref(&status), now).await?,
            last_s: until_s
                .unwrap_or(i64::MAX)
                .min(heat::last_asked(&status, now.timestamp())),
            days: days.unwrap_or(DAYS).clamp(1, MOST_DAYS),
            now,
            status,
        })
    }
}

/// Draws it.
pub(super) fn draw(seen: &Seen, unusable: &[(String, String)]) -> Markup {
    let status = &seen.status;
    let why_unusable = |name: &str| {
        unusable
            .iter()
            .find(|(source, _)| source == name)
            .map(|(_, why)| why.clone())
    };
    let notices = overview::notices(
        &seen.warnings,
        seen.source.as_slice(),
        std::slice::from_ref(status),
        &why_unusable,
        seen.now,
    );
    html! {
        h1 { (status.state.name) " " (overview::standing(status)) }
        p.lead { (overview::what(status)) "; jobs: " (status.state.jobs.join(", ")) }
        (tiles(seen))
        (overview::attention(&notices))
        section aria-labelledby="coverage" {
            h2 id="coverage" { "Coverage" }
            (heat_map(seen))
        }
        section aria-labelledby="lately" {
            h2 id="lately" { "The last day" }
            div.plots {
                (parts::throughput(&seen.stored, steps(seen.now)))
                (parts::share_of_limit(&seen.asked, steps(seen.now)))
            }
            (live(seen))
        }
        section aria-labelledby="gaps" {
            h2 id="gaps" { "Not complete" }
            (gaps(status))
        }
        section aria-labelledby="verified" {
            h2 id="verified" { "Verification" }
            (verified(seen))
        }
        section aria-labelledby="usual" {
            h2 id="usual" { "Baselines" }
            (usual(seen))
        }
        section aria-labelledby="slowest" {
            h2 id="slowest" { "Slowest operations" }
            (slowest(&seen.slowest))
        }
        section aria-labelledby="runs" {
            h2 id="runs" { "Runs" }
            (parts::runs(&seen.runs, seen.now))
        }
        section aria-labelledby="queue" {
            h2 id="queue" { "Queue and source" }
            (parts::queue(seen.source.as_slice(), |_| status.pace.clone(), why_unusable, seen.now))
        }
        section aria-labelledby="errors" {
            h2 id="errors" { "Errors by class" }
            (parts::errors(&seen.wrong, "the last 24 hours", seen.now))
        }
    }
}

fn tiles(seen: &Seen) -> Markup {
    let status = &seen.status;
    let (due_s, missing_s) = (status.due_s(), status.missing_s());
    let behind = status.live.as_ref().and_then(|live| live.behind_s);
    let mut live = overview::live_tile(behind.map(|behind_s| (behind_s, &status.state.name)));
    if let Some(live_looks) = &status.live {
        live.more = match behind {
            Some(_) => format!(
                "{} provisional, to be looked at again",
                duration(status.provisional_s())
            ),
            None => "nothing polled yet".to_owned(),
        };
        if live_looks.behind_s.is_none() {
            live.value = "not yet".to_owned();
        }
    }
    let day: i64 = seen.stored.iter().map(|stored| stored.new).sum();
    parts::tiles(&[
        Tile {
            name: "Complete",
            value: percent(due_s - missing_s, due_s),
            more: format!("{} of {} due", duration(due_s - missing_s), duration(due_s)),
            mood: match (missing_s, status.failed_windows) {
                (0, _) if due_s > 0 => Mood::Good,
                (_, 0) => Mood::Busy,
                _ => Mood::Bad,
            },
        },
        Tile {
            name: "Traces",
            value: count(status.state.traces),
            more: match status.state.spans {
                0 => format!("{} new in 24 h", count(day)),
                spans => format!("{} spans; {} new traces in 24 h", count(spans), count(day)),
            },
            mood: Mood::Plain,
        },
        live,
        Tile {
            name: "Queue",
            value: count(status.state.queued),
            more: format!(
                "windows waiting, {} being fetched",
                count(status.state.running)
            ),
            mood: if status.state.queued + status.state.running > 0 {
                Mood::Busy
            } else {
                Mood::Plain
            },
        },
        Tile {
            name: "Failed",
            value: count(i64::try_from(status.failed_windows).unwrap_or(i64::MAX)),
            more: "windows that leave a gap".to_owned(),
            mood: if status.failed_windows > 0 {
                Mood::Bad
            } else {
                Mood::Good
            },
        },
    ])
}

fn heat_map(seen: &Seen) -> Markup {
    let status = &seen.status;
    let many = heat::days_asked(status, seen.last_s, seen.days);
    let days = heat::days(status, seen.last_s, many);
    let first_s = days.last().map_or(seen.last_s, |day| day.start_s);
    let earlier = status
        .requested
        .iter()
        .next()
        .is_some_and(|window| window.start() < first_s);
    let is_past = seen.last_s < heat::last_asked(status, seen.now.timestamp()) - DAY_S;
    let until = |second: i64| {
        super::hour_name(second)
            .split('T')
            .next()
            .unwrap_or("")
            .to_owned()
    };
    html! {
        p.skipping { a href="#lately" { "Past the hours" } }
        (coverage::by_hour(status, &days))
        (coverage::legend())
        @if earlier || is_past || seen.days > DAYS {
            nav.pager aria-label="Other days" {
                @if earlier {
                    a href={ "?until=" (until(first_s - DAY_S)) "&days=" (seen.days) "#coverage" } { "Earlier days" } " "
                    @if seen.days < MOST_DAYS { a href={ "?until=" (until(seen.last_s)) "&days=" (MOST_DAYS) "#coverage" } { (MOST_DAYS) " days" } " " }
                }
                @if is_past || seen.days > DAYS { a href="?#coverage" { "The latest " (DAYS) " days" } }
            }
        }
    }
}

fn live(seen: &Seen) -> Markup {
    let Some(live) = &seen.status.live else {
        return html! {};
    };
    html! {
        (parts::scrolling("Later looks", html! {
            table {
                caption { "What looking again found in the last 24 hours" }
                thead { tr { th scope="col" { "Look" } th.number scope="col" { "Windows" } th.number scope="col" { "Traces" } th.number scope="col" { "Missed before" } th.number scope="col" { "Improved" } } }
                tbody {
                    @for looks in &live.later_looks {
                        tr {
                            th scope="row" { @match looks.after.as_str() { "fresh" => "settled, after fresh", _ => "sealed, after settled" } }
                            td.number { (count(looks.windows)) } td.number { (count(looks.traces)) } td.number { (count(looks.new)) } td.number { (count(looks.improved)) }
                        }
                    }
                    @if live.later_looks.is_empty() { tr { td colspan="5" { "none yet" } } }
                }
            }
        }))
    }
}

fn gaps(status: &DatasetStatus) -> Markup {
    let at = |second| DateTime::<Utc>::from_timestamp(second, 0).unwrap_or_default();
    let shown: Vec<_> = status.gaps.iter().rev().take(MOST_GAPS).collect();
    html! {
        @if shown.is_empty() {
            p.nothing { "Every second asked for is sealed." }
        } @else {
            (parts::scrolling("Gaps", html! {
                table {
                    caption { "What was asked for and is not sealed, the latest first" @if status.gaps.len() > MOST_GAPS { " (" (MOST_GAPS) " of " (status.gaps.len()) "; " code { "tempo-harvest gaps " (status.state.name) } " lists all)" } }
                    thead { tr { th scope="col" { "Stretch, UTC" } th.number scope="col" { "Length" } th scope="col" { "Reason" } th scope="col" { "What went wrong" } } }
                    tbody {
                        @for gap in shown {
                            tr {
                                th scope="row" { a href={ (status.state.name) "/" (super::hour_name(gap.window.start())) } { (stretch(at(gap.window.start()), at(gap.window.end()))) } }
                                td.number { (duration(gap.window.seconds())) }
                                td { (parts::mark(match () { () if gap.reason.is_failure() => Mood::Bad, () if gap.reason.is_repairable() => Mood::Warning, () if gap.reason.is_missing() => Mood::Busy, () => Mood::Plain }, gap.reason.name())) }
                                td.text { @match &gap.reason { crate::gaps::Reason::Failed { error, attempts, .. } => { (error) " (" (attempts) " attempts)" } _ => "–" } }
                            }
                        }
                    }
                }
            }))
        }
    }
}

fn verified(seen: &Seen) -> Markup {
    let verified = &seen.status.verified;
    let name = &seen.status.state.name;
    html! {
        @if verified.is_empty() {
            p.nothing { "Never verified. " code { "tempo-harvest verify " (name) } " holds what is stored against Tempo's own counts, " code { "--deep" } " against all it lists." }
        } @else {
            (parts::scrolling("Verification", html! {
                table {
                    caption { "Hours by what verifying them said last" }
                    thead { tr { th scope="col" { "Depth" } th scope="col" { "Verdict" } th.number scope="col" { "Hours" } th scope="col" { "Last" } } }
                    tbody { @for row in verified { tr {
                        th scope="row" { @match row.depth.as_str() { "counts" => "by counts", depth => (depth) } }
                        td { (parts::mark(match row.verdict.as_str() { "equal" => Mood::Good, "missing" | "more here" | "missing and more here" | "gap" => Mood::Bad, _ => Mood::Plain }, &row.verdict)) }
                        td.number { (count(row.hours)) }
                        td { (parts::moment(row.last_at, seen.now)) }
                    } } }
                }
            }))
        }
    }
}

fn usual(seen: &Seen) -> Markup {
    let operations: Vec<&[UsualHour]> = seen
        .usual
        .chunk_by(|a, b| (&a.service, &a.operation) == (&b.service, &b.operation))
        .collect();
    let name = &seen.status.state.name;
    match &seen.usual_since {
        Some((timezone, computed_at)) if !operations.is_empty() => html! {
            p.note {
                "Usual durations by hour of the day (" (timezone) "), on weekdays, of the " (operations.len()) " operations with the most traces; computed "
                (parts::moment(*computed_at, seen.now)) ". " span.key.first { "p50" } " " span.key.second { "p95" }
                " · " code { "tempo-harvest baseline " (name) } " prints all."
            }
            div.plots.small { @for hours in operations { (parts::usual(hours)) } }
        },
        _ => html! { p.nothing { "None are computed yet: that is done while traces come in." } },
    }
}

fn slowest(operations: &[Operation]) -> Markup {
    html! {
        @if operations.is_empty() {
            p.nothing { "No trace is stored yet." }
        } @else {
            (parts::scrolling("Slowest operations", html! {
                table {
                    caption { "By the 95th percentile of duration, among the " (count(NEWEST_TRACES)) " newest traces" }
                    thead { tr {
                        th scope="col" { "Root service" } th scope="col" { "Root operation" } th.number scope="col" { "Traces" } th.number scope="col" { "With errors" }
                        th.number scope="col" { "p50" } th.number scope="col" { "p95" } th.number scope="col" { "Usual p95" } th.number scope="col" { "Longest" }
                    } }
                    tbody {
                        @for operation in operations {
                            tr {
                                th scope="row" { (operation.service.as_deref().unwrap_or("root not received")) }
                                td.text { (operation.name.as_deref().unwrap_or("–")) }
                                td.number { (count(operation.traces)) }
                                td.number { @match operation.errors { Some(errors) => (percent(errors, operation.traces)), None => "unknown" } }
                                td.number { (milliseconds(operation.p50_ms as f64)) } td.number { (milliseconds(operation.p95_ms as f64)) } td.number { @match operation.usual_p95_ms { Some(ms) => (milliseconds(ms)), None => "unknown" } } td.number { (milliseconds(operation.longest_ms as f64)) }
                            }
                        }
                    }
                }
            }))
        }
    }
}
