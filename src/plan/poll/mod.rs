//! What a poll's tick plans: the newest windows, what was missed before them, and the later looks that are due.
//!
//! A second is looked at up to three times: fresh at the tick, settled `lookback` after, sealed `seal_after` after. What was
//! never looked at and is old enough goes straight to the later look. So a tick, catching up after a downtime and the looks
//! that are due are one operation: what should be covered by now, minus what is covered or being fetched. Into which windows
//! that is cut, is said in `cut`; what the numbers are, in `rules`.
//!
//! Pure: the clock and the ledger's state are passed in ([`crate::scheduler`] reads them), and nothing is written.

use crate::{
    plan::Look,
    window::{Window, WindowSet},
};

mod cut;
mod rules;
#[cfg(test)]
mod tests;

use self::cut::cut;
pub use self::rules::Rules;

/// A later look is planned so much after it is due: the server's clock shows whole seconds.
const MARGIN_S: i64 = 2;
/// While so many live windows are open, the source does not answer: more would be a flood when it does again.
const MOST_LIVE_OPEN: usize = 4;
/// The longest window, seconds.
const LONGEST_S: i64 = 3_600;

fn floor(second: i64, step_s: i64) -> i64 {
    second.div_euclid(step_s) * step_s
}

/// What the ledger says of a dataset, by look.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Covered at exactly this look.
    pub covered: ByLook,
    /// Being fetched at this look.
    pub in_flight: ByLook,
    /// Failed at this look, and to be left alone until it is repaired.
    pub resting: ByLook,
    /// Open live windows.
    pub live_open: usize,
    /// Traces a second in what was collected lately.
    pub density: Option<f64>,
}

/// A set of seconds for each look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByLook([WindowSet; 3]);

impl From<[WindowSet; 3]> for ByLook {
    fn from(sets: [WindowSet; 3]) -> Self {
        Self(sets)
    }
}

impl ByLook {
    /// The seconds at this look.
    pub fn at(&self, look: Look) -> &WindowSet {
        &self.0[look as usize]
    }

    /// The seconds at this look or a later one.
    pub fn at_least(&self, look: Look) -> WindowSet {
        self.0[look as usize..]
            .iter()
            .fold(WindowSet::default(), |all, set| all.union(set))
    }

    /// Adds seconds at a look.
    pub fn add(&mut self, look: Look, windows: &WindowSet) {
        let set = &mut self.0[look as usize];
        *set = set.union(windows);
    }
}

/// How urgent a planned window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// One of the newest: before everything else.
    Live,
    /// A settled look: before backfills.
    Settling,
    /// A sealing look, or what was missed: among the backfills.
    Behind,
}

/// A window to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Its span.
    pub window: Window,
    /// What being done will count as.
    pub look: Look,
    /// The latest look that covers all of it already.
    pub earlier_look: Option<Look>,
    /// How urgent it is.
    pub urgency: Urgency,
}

/// When a tick happens, and of what.
#[derive(Debug, Clone, Copy)]
pub struct Tick {
    /// The first second that the poll is to collect.
    pub from_s: i64,
    /// The present.
    pub now_s: i64,
    /// The source has dropped what is older.
    pub kept_from_s: Option<i64>,
    /// Later looks are planned as far as they are due, not only in whole widths: there will be no later tick.
    pub last: bool,
}

/// Plans a tick, in the order in which to fetch: newest first.
pub fn plan(rules: &Rules, tick: &Tick, state: &State) -> Vec<Planned> {
    let Some(mine) = Window::new(tick.from_s, rules.edge(tick.now_s)).map(WindowSet::from) else {
        return Vec::new();
    };
    let looked_at = state.covered.at_least(Look::Fresh);
    // What was looked at is looked at again however long ago that was; what was missed has limits.
    let mut wanted = match rules.catch_up_s {
        Some(catch_up_s) => mine.intersection(&WindowSet::since(tick.now_s - catch_up_s)),
        None => mine.clone(),
    }
    .union(&mine.intersection(&looked_at));
    if let Some(kept_from_s) = tick.kept_from_s {
        wanted = wanted.intersection(&WindowSet::since(kept_from_s));
    }
    let mut planned = Vec::new();
    let mut busy = state.in_flight.clone();
    for look in [Look::Sealed, Look::Settled, Look::Fresh] {
        let due = match look {
            Look::Sealed => due(
                tick,
                rules.seal_after_s,
                rules.sealed_width_s(),
                rules.edge_s,
            ),
            Look::Settled => due(
                tick,
                rules.lookback_s,
                rules.settled_width_s(),
                rules.edge_s,
            ),
            Look::Fresh if state.live_open >= MOST_LIVE_OPEN => continue,
            Look::Fresh => rules.edge(tick.now_s),
        };
        let mut need = wanted
            .intersection(&WindowSet::before(due))
            .minus(&state.covered.at_least(look))
            .minus(&busy.at_least(look))
            .minus(state.resting.at(look));
        if look == Look::Settled {
            // It waits for the fresh look that is under way, or the same traces come twice.
            need = need.minus(busy.at(Look::Fresh));
        }
        for (earlier_look, part) in by_earlier_look(&need, look, &state.covered) {
            planned.extend(cut(rules, tick, state.density, look, earlier_look, &part));
        }
        busy.add(look, &need);
    }
    planned
        .sort_by_key(|planned| std::cmp::Reverse((planned.window.end(), planned.window.start())));
    planned
}

/// Up to where a look is due.
fn due(tick: &Tick, age_s: i64, width_s: i64, edge_s: i64) -> i64 {
    let width_s = if tick.last { edge_s } else { width_s };
    floor(tick.now_s - age_s - MARGIN_S, width_s)
}

/// Parts that were covered alike before: what a look adds is then the measure of one earlier look.
fn by_earlier_look(
    need: &WindowSet,
    look: Look,
    covered: &ByLook,
) -> Vec<(Option<Look>, WindowSet)> {
    let mut parts = Vec::new();
    let mut left = need.clone();
    for earlier in Look::ALL
        .into_iter()
        .rev()
        .filter(|&earlier| earlier < look)
    {
        let part = left.intersection(&covered.at_least(earlier));
        left = left.minus(&part);
        parts.push((Some(earlier), part));
    }
    parts.push((None, left));
    parts
}
