//! An hour's page: its windows, and why what is not there is not.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{
    format::{count, duration, stretch},
    heat::{self, HOUR_S},
    parts::{self, Mood, mark},
};
use crate::{status::DatasetStatus, store::dashboard::WindowRow, window::Window};

/// The most windows shown.
pub(super) const MOST: i64 = 500;

/// Draws it.
pub(super) fn draw(
    status: &DatasetStatus,
    hour: Window,
    windows: &[WindowRow],
    now: DateTime<Utc>,
) -> Markup {
    let at = |second| DateTime::<Utc>::from_timestamp(second, 0).unwrap_or_default();
    let most = usize::try_from(MOST).unwrap_or(usize::MAX);
    let gaps: Vec<(Window, &crate::gaps::Gap)> = status
        .gaps
        .iter()
        .filter_map(|gap| Some((gap.window.intersection(hour)?, gap)))
        .collect();
    let day = heat::days(status, hour.start(), 1);
    let index = usize::try_from(hour.start().div_euclid(HOUR_S).rem_euclid(24)).unwrap_or(0);
    let words = day
        .first()
        .map_or_else(String::new, |day| day.hours[index].words());
    let to = |second| {
        format!(
            "/datasets/{}/{}",
            status.state.name,
            super::hour_name(second)
        )
    };
    html! {
        h1 { (status.state.name) ", " (stretch(at(hour.start()), at(hour.end()))) " UTC" }
        p.lead { "This hour: " (words) "." }
        nav.pager aria-label="Other hours" {
            a href=(to(hour.start() - HOUR_S)) { "The hour before" } " "
            @if hour.end() < now.timestamp() { a href=(to(hour.end())) { "The hour after" } }
        }
        section aria-labelledby="windows" {
            h2 id="windows" { "Windows" }
            @if windows.is_empty() {
                p.nothing { "The ledger has no window of this hour: either nobody asked for it, or it was done over a week ago, and only its coverage is kept." }
            } @else {
                (table(&windows[..windows.len().min(most)], windows.len() > most, now))
            }
        }
        section aria-labelledby="gaps" {
            h2 id="gaps" { "Not complete" }
            @if gaps.is_empty() {
                p.nothing { "Nothing of what was asked for is missing in this hour." }
            } @else {
                (parts::scrolling("Gaps of this hour", html! {
                    table {
                        caption { "What was asked for in this hour and is not sealed" }
                        thead { tr { th scope="col" { "Stretch, UTC" } th.number scope="col" { "Length" } th scope="col" { "Reason" } th scope="col" { "What went wrong" } } }
                        tbody { @for (part, gap) in &gaps { tr {
                            th scope="row" { (stretch(at(part.start()), at(part.end()))) }
                            td.number { (duration(part.seconds())) }
                            td { (gap.reason.name()) }
                            td.text { @match &gap.reason { crate::gaps::Reason::Failed { error, attempts, .. } => { (error) " (" (attempts) " attempts)" } _ => "–" } }
                        } } }
                    }
                }))
            }
        }
    }
}

fn table(windows: &[WindowRow], more: bool, now: DateTime<Utc>) -> Markup {
    html! {
        (parts::scrolling("Windows of this hour", html! {
            table {
                caption { "Windows of the ledger that reach into this hour" @if more { "; only the first " (MOST) " are shown" } }
                thead { tr {
                    th.number scope="col" { "Window" } th scope="col" { "Span, UTC" } th.number scope="col" { "Length" } th scope="col" { "Look" } th scope="col" { "State" } th.number scope="col" { "Traces" } th.number scope="col" { "New" }
                    th.number scope="col" { "Requests" } th.number scope="col" { "Failed attempts" } th scope="col" { "When" } th.number scope="col" { "Run" } th scope="col" { "Last error" }
                } }
                tbody { @for window in windows { tr {
                    th.number scope="row" { (window.id) @if let Some(parent) = window.parent_id { span.means { "piece of " (parent) } } }
                    td { (stretch(window.from, window.to)) }
                    td.number { (duration((window.to - window.from).num_seconds())) }
                    td { (window.look) }
                    td {
                        (mark(match window.state.as_str() { "done" => Mood::Good, "failed" => Mood::Bad, "running" | "queued" => Mood::Busy, _ => Mood::Plain }, &window.state))
                        @if let Some(holder) = &window.holder { span.means { "by " (holder) } }
                    }
                    td.number { @if window.state == "done" { (count(window.returned)) } @else { "–" } }
                    td.number { @if window.state == "done" { (count(window.new)) } @else { "–" } }
                    td.number { (window.requests) } td.number { (window.attempts) }
                    td {
                        @match window.finished_at {
                            Some(at) => (parts::moment(at, now)),
                            None if window.state == "queued" && window.next_try_at > now => { "in " (duration((window.next_try_at - now).num_seconds())) }
                            None => "now",
                        }
                    }
                    td.number { (window.run_id) }
                    td.text {
                        @if let Some(class) = &window.error_class { strong { (class) } ": " }
                        (window.error.as_deref().unwrap_or("–"))
                    }
                } } }
            }
        }))
    }
}
