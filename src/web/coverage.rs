//! Coverage drawn: real tables, in which every cell says in words what its colour shows.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{
    heat::{Day, HOUR_S, State},
    parts,
};
use crate::status::DatasetStatus;

fn day_name(start_s: i64) -> String {
    let at = DateTime::<Utc>::from_timestamp(start_s, 0).unwrap_or_default();
    at.format("%Y-%m-%d").to_string()
}

fn day_short(start_s: i64) -> String {
    let at = DateTime::<Utc>::from_timestamp(start_s, 0).unwrap_or_default();
    at.format("%a %d %b").to_string()
}

/// What the colours and signs mean.
pub(super) fn legend() -> Markup {
    html! {
        ul.legend aria-label="What the cells mean" {
            @for state in State::ALL {
                li { span class={ "cell " (state.class()) } aria-hidden="true" { (state.sign()) } (state.name()) }
            }
        }
    }
}

/// Days by hours, each hour a way to its windows.
pub(super) fn by_hour(status: &DatasetStatus, days: &[Day]) -> Markup {
    let name = &status.state.name;
    html! {
        (parts::scrolling("Coverage, days by hours", html! {
            table.heat {
                caption { "Coverage of " (name) ", hour by hour, UTC. Each hour leads to its windows." }
                thead { tr {
                    th scope="col" { "Day" }
                    @for hour in 0..24 { th scope="col" { (format!("{hour:02}")) } }
                } }
                tbody {
                    @for day in days {
                        tr {
                            th scope="row" { time datetime=(day_name(day.start_s)) { (day_short(day.start_s)) } }
                            @for (hour, cell) in (0i64..).zip(&day.hours) {
                                @let state = cell.state();
                                @let at = super::hour_name(day.start_s + hour * HOUR_S);
                                @let words = format!("{} {hour:02}:00 {}", day_short(day.start_s), cell.words());
                                td class=(state.class()) {
                                    @if state == State::NotAsked {
                                        span.unseen { "not asked for" }
                                    } @else if state.sign().is_empty() {
                                        a href={ (name) "/" (at) } title=(words) {}
                                    } @else {
                                        a href={ (name) "/" (at) } title=(words) aria-label=(words) { (state.sign()) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }))
    }
}

/// Days only, a row a dataset.
pub(super) fn by_day(rows: &[(&DatasetStatus, Vec<Day>)]) -> Markup {
    let Some((_, columns)) = rows.first() else {
        return html! {};
    };
    html! {
        (parts::scrolling("Coverage, datasets by days", html! {
            table.heat.strips {
                caption { "Coverage of each dataset, day by day, UTC: how the worst hour of the day stands. Each day leads to its hours." }
                thead { tr {
                    th scope="col" { "Dataset" }
                    @for (place, day) in columns.iter().rev().enumerate() {
                        th scope="col" {
                            @let first = place == 0 || day_name(day.start_s).ends_with("-01");
                            @if first { span.month { (day_short(day.start_s)[4..].trim_start_matches('0')) } span.unseen { ", " (day_name(day.start_s)) } }
                            @else { span.unseen { (day_name(day.start_s)) } }
                        }
                    }
                    th scope="col" { "Due" }
                } }
                tbody {
                    @for (status, days) in rows {
                        @let name = &status.state.name;
                        tr {
                            th scope="row" { a href={ "/datasets/" (name) } { (name) } }
                            @for day in days.iter().rev() {
                                @let cell = day.whole();
                                @let state = cell.state();
                                @let words = format!("{} {}", day_name(day.start_s), cell.words());
                                td class=(state.class()) {
                                    @if state == State::NotAsked {
                                        span.unseen { "not asked for" }
                                    } @else {
                                        a href={ "/datasets/" (name) "#coverage" } title=(words) aria-label=(words) { (state.sign()) }
                                    }
                                }
                            }
                            td.number { (super::format::percent(status.due_s() - status.missing_s(), status.due_s())) }
                        }
                    }
                }
            }
        }))
    }
}
