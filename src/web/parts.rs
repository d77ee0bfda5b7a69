//! Pieces of pages.

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, PreEscaped, html};

use super::{
    format::{ago, count, duration, milliseconds, minute, percent, second, stretch},
    plot::{self, Axes},
};
use crate::{
    store::{
        dashboard::{Asked, RATE_OF, RunState, SourceState, Stored, UsualHour, Wrong},
        pace::Pace,
    },
    words::many,
};

/// How full a poll's window may be before a little more would be cut off: the share of the limit that is warned of. What is sized by
/// counts is fuller on purpose.
pub(super) const FULL: f64 = 0.8;

/// How something stands, in a word with a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Good,
    Busy,
    Warning,
    Bad,
    Plain,
}

impl Mood {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Warning => "warning",
            Self::Bad => "bad",
            Self::Plain => "plain",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Busy => "▸",
            Self::Warning => "!",
            Self::Bad => "✕",
            Self::Plain => "",
        }
    }
}

/// A word about how something stands.
pub(super) fn mark(mood: Mood, text: &str) -> Markup {
    html! {
        span class={ "mark " (mood.class()) } {
            @if !mood.sign().is_empty() { span aria-hidden="true" { (mood.sign()) } " " }
            (text)
        }
    }
}

/// A figure that is seen first.
pub(super) struct Tile {
    pub name: &'static str,
    pub value: String,
    pub more: String,
    pub mood: Mood,
}

/// The figures that are seen first.
pub(super) fn tiles(tiles: &[Tile]) -> Markup {
    html! {
        dl.tiles {
            @for tile in tiles {
                div class={ "tile " (tile.mood.class()) } {
                    dt { (tile.name) }
                    dd {
                        span.value { (tile.value) }
                        span.more { (tile.more) }
                    }
                }
            }
        }
    }
}

/// What is too wide for a narrow screen, and can be scrolled with the keyboard.
pub(super) fn scrolling(name: &str, inner: Markup) -> Markup {
    html! { div.scrolling role="region" aria-label=(name) tabindex="0" { (inner) } }
}

/// A moment, with how long ago it was.
pub(super) fn moment(at: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    html! {
        time datetime=(at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)) title={ (second(at)) " UTC" } { (ago(at, now)) }
    }
}

/// A plot with its figures in a table behind it.
pub(super) fn figure(
    title: &str,
    says: &str,
    svg: Option<String>,
    keys: &[(&str, &str)],
    table: Markup,
) -> Markup {
    html! {
        figure.plot {
            figcaption {
                strong { (title) }
                span.says { (says) }
                @for (class, name) in keys { span class={ "key " (class) } { (name) } }
            }
            @if let Some(svg) = svg { div.picture aria-hidden="true" { (PreEscaped(svg)) } }
            details {
                summary { "Figures" span.unseen { " of " (title) } }
                (scrolling(&format!("Figures: {title}"), table))
            }
        }
    }
}

/// A stretch of time in equal steps, for a plot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    pub since: DateTime<Utc>,
    pub step: TimeDelta,
    pub many: usize,
}

impl Steps {
    /// So many steps, the last of which has `now` in it.
    pub fn until(now: DateTime<Utc>, step: TimeDelta, many: usize) -> Self {
        let step_s = step.num_seconds().max(1);
        let end_s = now.timestamp().div_euclid(step_s) * step_s + step_s;
        let start_s = end_s - step_s * i64::try_from(many).unwrap_or(0);
        Self {
            since: DateTime::from_timestamp(start_s, 0).unwrap_or(now),
            step,
            many,
        }
    }

    fn at(&self, place: usize) -> DateTime<Utc> {
        self.since + self.step * i32::try_from(place).unwrap_or(i32::MAX)
    }

    fn place(&self, at: DateTime<Utc>) -> usize {
        let steps = (at - self.since).num_seconds() / self.step.num_seconds().max(1);
        usize::try_from(steps).unwrap_or(0)
    }

    fn spread<T, V: Clone>(
        &self,
        found: &[T],
        nothing: V,
        of: impl Fn(&T) -> (DateTime<Utc>, V),
    ) -> Vec<V> {
        let mut all = vec![nothing; self.many];
        for (at, value) in found.iter().map(of) {
            if let Some(place) = all.get_mut(self.place(at)) {
                *place = value;
            }
        }
        all
    }

    fn clock(&self, place: usize) -> String {
        self.at(place).format("%H:%M").to_string()
    }
}

fn short(value: f64) -> String {
    match value {
        value if value >= 10_000_000.0 => format!("{:.0} M", value / 1e6),
        value if value >= 1_000_000.0 => format!("{:.1} M", value / 1e6),
        value if value >= 10_000.0 => format!("{:.0} k", value / 1e3),
        value if value >= 1_000.0 => format!("{:.1} k", value / 1e3),
        value if value >= 10.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

/// How many traces were stored when.
pub(super) fn throughput(stored: &[Stored], steps: Steps) -> Markup {
    let new = steps.spread(stored, 0.0, |stored| (stored.at, stored.new as f64));
    let axes = Axes {
        size: (560, 150),
        at_least: 1.0,
        place: &|place| steps.clock(place),
        places: 6,
        value: &short,
        limit: None,
    };
    let total: i64 = stored.iter().map(|stored| stored.new).sum();
    let every = duration(steps.step.num_seconds());
    let all = duration(steps.step.num_seconds() * i64::try_from(steps.many).unwrap_or(0));
    figure(
        "Throughput",
        &format!("new traces every {every}: {} in {all}", count(total)),
        plot::bars(&new, &[], &axes),
        &[],
        html! {
            table {
                caption { "What was stored, every " (every) ", UTC; times without anything are left out" }
                thead { tr { th scope="col" { "From" } th.number scope="col" { "New traces" } th.number scope="col" { "Traces in answers" } th.number scope="col" { "Windows done" } } }
                tbody {
                    @for row in stored.iter().rev() {
                        tr { th scope="row" { (minute(row.at)) } td.number { (count(row.new)) } td.number { (count(row.returned)) } td.number { (count(row.windows)) } }
                    }
                    @if stored.is_empty() { tr { td colspan="4" { "nothing in this time" } } }
                }
            }
        },
    )
}

/// How full answers were.
pub(super) fn share_of_limit(asked: &[Asked], steps: Steps) -> Markup {
    let fullest = steps.spread(asked, 0.0, |asked| (asked.at, asked.fullest.unwrap_or(0.0)));
    let usual = steps.spread(asked, None, |asked| (asked.at, asked.usual));
    let axes = Axes {
        size: (560, 150),
        at_least: 1.0,
        place: &|place| steps.clock(place),
        places: 6,
        value: &|share| format!("{:.0} %", share * 100.0),
        limit: Some(FULL),
    };
    let most = asked
        .iter()
        .filter_map(|asked| asked.fullest)
        .fold(None, |most: Option<f64>, share| {
            Some(most.map_or(share, |most| most.max(share)))
        });
    let says = match most {
        Some(most) => format!(
            "the fullest answer that counted brought {:.0} % of what one search may",
            most * 100.0
        ),
        None => "no search was answered in this time".to_owned(),
    };
    figure(
        "Share of the limit",
        &says,
        plot::bars(&fullest, &usual, &axes),
        &[
            ("first", "fullest"),
            ("second", "median"),
            ("limit", "80 %, warned of in polls"),
        ],
        html! {
            table {
                caption { "Requests to Tempo, every " (duration(steps.step.num_seconds())) ", UTC; times without requests are left out" }
                thead { tr {
                    th scope="col" { "From" } th.number scope="col" { "Requests" } th.number scope="col" { "Failed" }
                    th.number scope="col" { "Thrown away" } th.number scope="col" { "Fullest" } th.number scope="col" { "Median share" } th.number scope="col" { "Median time" }
                } }
                tbody {
                    @for row in asked.iter().rev() {
                        tr {
                            th scope="row" { (minute(row.at)) }
                            td.number { (count(row.requests)) } td.number { (count(row.failed)) } td.number { (count(row.thrown_away)) }
                            td.number { (share(row.fullest)) } td.number { (share(row.usual)) }
                            td.number { @match row.usual_ms { Some(ms) => (milliseconds(f64::from(ms))), None => "unknown" } }
                        }
                    }
                    @if asked.is_empty() { tr { td colspan="7" { "nothing in this time" } } }
                }
            }
        },
    )
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// What is usual for an operation, hour by hour.
pub(super) fn usual(hours: &[UsualHour]) -> Markup {
    let Some(first) = hours.first() else {
        return html! {};
    };
    let of = |value: fn(&UsualHour) -> f64| -> Vec<Option<f64>> {
        let at = |slot| hours.iter().find(|hour| hour.slot == slot).map(value);
        (0..24).map(at).collect()
    };
    let axes = Axes {
        size: (300, 120),
        at_least: 1.0,
        place: &|place| format!("{place:02}"),
        places: 6,
        value: &milliseconds,
        limit: None,
    };
    let name = format!("{} · {}", first.service, first.operation);
    figure(
        &name,
        &format!("{} traces", count(first.traces)),
        plot::lines(&of(|hour| hour.p50_ms), &of(|hour| hour.p95_ms), &axes),
        &[],
        html! {
            table {
                caption { "Usual durations of " (name) ", by hour of the day" }
                thead { tr { th scope="col" { "Hour" } th.number scope="col" { "Traces" } th.number scope="col" { "p50" } th.number scope="col" { "p95" } } }
                tbody { @for hour in hours { tr {
                    th scope="row" { (format!("{:02}:00", hour.slot % 24)) @if hour.slot >= 24 { ", weekend" } }
                    td.number { (count(hour.samples)) } td.number { (milliseconds(hour.p50_ms)) } td.number { (milliseconds(hour.p95_ms)) }
                } } }
            }
        },
    )
}

/// What an outcome of a request means.
fn outcome(name: &str) -> &'static str {
    match name {
        "complete" => "answered",
        "cut" => "cut off at the limit, thrown away and asked for in pieces",
        "limit" => "limit learned: a refusal named it, and it is kept to from now on",
        "too_large" => "larger than Tempo may answer, asked for in pieces",
        "timeout" => "no answer in time",
        "throttled" => "refused: too many requests",
        "passing" => "no answer, or a broken one; tried again",
        "access" => "access refused: credentials, tenant or address",
        "query" => "Tempo refuses the query",
        "unusable" => {
            "answers of another window, too young, or without what is known to be there; not counted"
        }
        _ => "not counted",
    }
}

/// Whether it is a way to find out how much may be asked for, and no failure.
fn is_a_limit(outcome: &str) -> bool {
    matches!(outcome, "cut" | "too_large")
}

/// Errors by class.
pub(super) fn errors(wrong: &[Wrong], of: &str, now: DateTime<Utc>) -> Markup {
    let (learned, wrong): (Vec<&Wrong>, Vec<&Wrong>) =
        wrong.iter().partition(|row| row.outcome == "limit");
    html! {
        @if wrong.is_empty() {
            p.nothing { "Every answer counted, in " (of) "." }
        } @else {
            (scrolling("Errors by class", html! {
                table {
                    caption { "Answers that did not count, in " (of) ", by class" }
                    thead { tr { th scope="col" { "Class" } th scope="col" { "Source" } th.number scope="col" { "Requests" } th scope="col" { "Last" } th scope="col" { "What it said" } } }
                    tbody {
                        @for row in wrong {
                            tr {
                                th scope="row" {
                                    (mark(if is_a_limit(&row.outcome) { Mood::Plain } else { Mood::Warning }, &row.outcome))
                                    span.means { (outcome(&row.outcome)) }
                                }
                                td { (row.source) }
                                td.number { (count(row.requests)) }
                                td { (moment(row.last_at, now)) }
                                td.text { (row.last_error.as_deref().unwrap_or("–")) }
                            }
                        }
                    }
                }
            }))
        }
        @for row in learned {
            p.nothing {
                "Limit learned from " (row.source) " by " (many(row.requests, "refusal", "refusals")) ", the last " (moment(row.last_at, now))
                ", and kept to from now on: " (row.last_error.as_deref().unwrap_or("–"))
            }
        }
    }
}

/// How a source answers, by its last request.
pub(super) fn answers(
    source: &SourceState,
    unusable: Option<&str>,
    now: DateTime<Utc>,
) -> (Mood, String) {
    if unusable.is_some() {
        return (Mood::Bad, "not usable here".to_owned());
    }
    let Some(last) = &source.last else {
        return (Mood::Plain, "not asked yet".to_owned());
    };
    let since = source.last_success_at.map_or_else(
        || ", and never did".to_owned(),
        |at| format!(" since {}", duration((now - at).num_seconds())),
    );
    match last.outcome.as_str() {
        "passing" | "timeout" => (Mood::Bad, format!("does not answer{since}")),
        "access" => (Mood::Bad, format!("refuses access{since}")),
        "query" => (Mood::Bad, "refuses the query".to_owned()),
        "throttled" => (Mood::Warning, "refuses: too many requests".to_owned()),
        _ => (Mood::Good, "answers".to_owned()),
    }
}

/// Sources and what waits for them.
pub(super) fn queue(
    sources: &[SourceState],
    pace: impl Fn(&str) -> Option<Pace>,
    unusable: impl Fn(&str) -> Option<String>,
    now: DateTime<Utc>,
) -> Markup {
    html! {
        (scrolling("Sources and queue", html! {
            table {
                caption { "The queue, by Tempo" }
                thead { tr {
                    th scope="col" { "Source" } th scope="col" { "State" } th.number scope="col" { "Due" } th.number scope="col" { "Later" } th.number scope="col" { "Paused" }
                    th.number scope="col" { "Being fetched" } th.number scope="col" { "Workers" } th scope="col" { "Waits longest" } th scope="col" { "Asked" }
                } }
                tbody {
                    @for source in sources {
                        @let why = unusable(&source.name);
                        @let (mood, says) = answers(source, why.as_deref(), now);
                        tr {
                            th scope="row" { (source.name) }
                            td {
                                (mark(mood, &says))
                                @if let Some(why) = &why { span.means { (why) } }
                                @else if let Some(last) = source.last.as_ref().filter(|_| mood != Mood::Good) {
                                    span.means { (last.error.as_deref().unwrap_or(outcome(&last.outcome))) }
                                }
                            }
                            td.number { (count(source.due)) } td.number { (count(source.later)) } td.number { (count(source.paused)) }
                            td.number { (count(source.running)) } td.number { (count(source.holders)) }
                            td { @match source.waits_since { Some(at) => (moment(at, now)), None => "–" } }
                            td { @match pace(&source.name) {
                                None => "never",
                                Some(pace) => {
                                    (format!("{} of {} requests/s, {} of {} at once", rate(pace.present_per_second()), rate(pace.requests_per_second), pace.present_concurrency(), pace.concurrency))
                                    @if let Some(since) = pace.held_since {
                                        span.means { "held back since " (second(since)) ": " (pace.why.as_deref().unwrap_or("an earlier answer")) }
                                    }
                                }
                            } }
                        }
                    }
                    @if sources.is_empty() { tr { td colspan="9" { "no source yet" } } }
                }
            }
        }))
    }
}

fn rate(rate: f64) -> String {
    if rate >= 10.0 || rate.fract() == 0.0 {
        format!("{rate:.0}")
    } else {
        format!("{rate:.2}")
    }
}

/// Runs, with how far they are and when they will be done.
pub(super) fn runs(runs: &[RunState], now: DateTime<Utc>) -> Markup {
    html! {
        @if runs.is_empty() {
            p.nothing { "Nothing has been submitted yet." }
        } @else {
            (scrolling("Runs", html! {
                table {
                    caption { "Open runs, and the latest of the others" }
                    thead { tr {
                        th.number scope="col" { "Run" } th scope="col" { "Job" } th scope="col" { "Kind" } th scope="col" { "State" } th scope="col" { "Progress" }
                        th scope="col" { "Ready in" } th.number scope="col" { "New traces" } th scope="col" { "Asked for, UTC" } th scope="col" { "Submitted" }
                    } }
                    tbody { @for run in runs { (run_row(run, now)) } }
                }
            }))
        }
    }
}

fn run_row(run: &RunState, now: DateTime<Utc>) -> Markup {
    let mood = match run.state.as_str() {
        "complete" => Mood::Good,
        "failed" => Mood::Bad,
        "open" if run.paused => Mood::Warning,
        "open" => Mood::Busy,
        _ => Mood::Plain,
    };
    let state = match run.paused && run.state == "open" {
        true => "paused",
        false => &run.state,
    };
    html! {
        tr {
            th.number scope="row" { (run.id) }
            td { a href={ "/datasets/" (run.dataset) } { (run.job) } }
            td { (run.kind) }
            td { (mark(mood, state)) @if let Some(error) = &run.error { span.means { (error) } } }
            td { @match run.progress {
                None => "goes on",
                Some(progress) => {
                    @let all_s = progress.done_s + progress.open_s;
                    @let of = progress.windows_done + progress.windows_open + progress.windows_failed;
                    @let name = format!("{} of {} {}", count(progress.windows_done), count(of), if of == 1 { "window" } else { "windows" });
                    @if run.state == "open" {
                        progress max=(all_s.max(1)) value=(progress.done_s) aria-label={ "Progress of run " (run.id) } {}
                        span.means { (percent(progress.done_s, all_s)) ", " (name) @if progress.windows_failed > 0 { ", " (count(progress.windows_failed)) " failed" } }
                    } @else { (name) }
                }
            } }
            td { (ready(run, now)) }
            td.number { @match run.progress { Some(progress) => (count(progress.new)), None => "–" } }
            td { (stretch(run.from, run.to)) }
            td { (moment(run.submitted_at, now)) }
        }
    }
}

/// When a run will be done, if it goes on as in the last minutes.
fn ready(run: &RunState, now: DateTime<Utc>) -> String {
    match run.progress {
        Some(progress) if run.state == "open" && !run.paused && progress.open_s > 0 => {
            if progress.lately_s == 0 {
                return "unknown".to_owned();
            }
            let of_s = RATE_OF
                .num_seconds()
                .min((now - run.submitted_at).num_seconds())
                .max(1);
            let left_s = progress.open_s as f64 * of_s as f64 / progress.lately_s as f64;
            format!("about {}", duration(left_s.ceil() as i64))
        }
        _ => "–".to_owned(),
    }
}
