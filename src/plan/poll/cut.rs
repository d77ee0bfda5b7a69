//! How what is due is cut into windows: the newest at ticks, what was missed as wide as density allows, later looks in whole
//! widths.

use super::{LONGEST_S, Planned, Rules, Tick, Urgency, floor};
use crate::{
    plan::Look,
    window::{Window, WindowSet},
};

/// So many of the newest windows are live: they go before everything else. What is older was missed.
const LIVE_WINDOWS: i64 = 2;
/// What was missed is fetched in windows of about so many traces.
const TRACES_A_WINDOW: f64 = 5_000.0;
/// The length of such a window when nothing is known, seconds.
const UNKNOWN_WIDTH_S: i64 = 300;

/// Cuts one part into windows.
pub(super) fn cut(
    rules: &Rules,
    tick: &Tick,
    density: Option<f64>,
    look: Look,
    earlier_look: Option<Look>,
    part: &WindowSet,
) -> Vec<Planned> {
    let with = |urgency| {
        move |window| Planned {
            window,
            look,
            earlier_look,
            urgency,
        }
    };
    let pieces = |set: &WindowSet, anchor_s: i64, width_s: i64| -> Vec<Window> {
        set.iter()
            .flat_map(|window| cut_from(window, anchor_s, width_s))
            .collect()
    };
    match (look, earlier_look) {
        (Look::Sealed, _) => pieces(part, 0, rules.sealed_width_s())
            .into_iter()
            .map(with(Urgency::Behind))
            .collect(),
        (Look::Settled, Some(_)) => pieces(part, 0, rules.settled_width_s())
            .into_iter()
            .map(with(Urgency::Settling))
            .collect(),
        _ => {
            let edge = rules.edge(tick.now_s);
            let live = WindowSet::since(edge - LIVE_WINDOWS * rules.every_s);
            let live = match look {
                Look::Fresh => part.intersection(&live),
                _ => WindowSet::default(),
            };
            let missed = part.minus(&live);
            let mut planned: Vec<Planned> = pieces(&live, edge, rules.every_s)
                .into_iter()
                .map(with(Urgency::Live))
                .collect();
            planned.extend(
                pieces(&missed, 0, missed_width_s(rules, density))
                    .into_iter()
                    .map(with(Urgency::Behind)),
            );
            planned
        }
    }
}

/// How long windows of what was missed are: as wide as density allows.
pub(super) fn missed_width_s(rules: &Rules, density: Option<f64>) -> i64 {
    let width_s = match density {
        Some(density) if density > 0.0 => {
            (TRACES_A_WINDOW / density).clamp(1.0, LONGEST_S as f64) as i64
        }
        Some(_) => LONGEST_S,
        None => UNKNOWN_WIDTH_S,
    };
    floor(width_s, rules.every_s).max(rules.every_s)
}

/// Cut at every multiple of `step_s` counted from `anchor_s`.
fn cut_from(window: Window, anchor_s: i64, step_s: i64) -> impl Iterator<Item = Window> {
    let offset_s = anchor_s.rem_euclid(step_s.max(1));
    Window::new(window.start() - offset_s, window.end() - offset_s)
        .into_iter()
        .flat_map(move |shifted| shifted.cut_at_edges(step_s))
        .filter_map(move |piece| Window::new(piece.start() + offset_s, piece.end() + offset_s))
}
