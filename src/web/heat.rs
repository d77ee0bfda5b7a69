//! How each hour stands: what of it is sealed, provisional, failed, missing. Pure; drawn in [`super::coverage`].

use std::collections::BTreeMap;

use crate::{
    gaps::Reason,
    status::DatasetStatus,
    window::{Window, WindowSet},
};

pub(super) const HOUR_S: i64 = 3_600;
pub(super) const DAY_S: i64 = 86_400;

/// How a second stands. The later ones matter more: what an hour holds most seriously is how the hour stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// Nobody asked for it.
    NotAsked,
    /// It was collected and deleted, or Tempo had dropped it before it was.
    Gone,
    /// Complete.
    Sealed,
    /// Too young to be collected.
    TooYoung,
    /// Polled, and to be looked at again.
    Provisional,
    /// Queued, or being fetched.
    InFlight,
    /// It should be there, and is not.
    Missing,
    /// An attempt to fetch it failed for good.
    Failed,
}

impl State {
    /// All, in the order of a legend.
    pub const ALL: [Self; 8] = [
        Self::Sealed,
        Self::Provisional,
        Self::InFlight,
        Self::Failed,
        Self::Missing,
        Self::TooYoung,
        Self::Gone,
        Self::NotAsked,
    ];

    fn of(reason: &Reason) -> Self {
        match reason {
            Reason::Provisional => Self::Provisional,
            Reason::TooYoung => Self::TooYoung,
            Reason::InFlight => Self::InFlight,
            Reason::Deleted | Reason::BeyondRetention => Self::Gone,
            Reason::Failed { .. } => Self::Failed,
            Reason::ProvisionalTooLong | Reason::NotCaughtUp | Reason::NeverTried => Self::Missing,
        }
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAsked => "not asked for",
            Self::Gone => "deleted or beyond retention",
            Self::Sealed => "sealed",
            Self::TooYoung => "too young",
            Self::Provisional => "provisional",
            Self::InFlight => "in flight",
            Self::Missing => "missing",
            Self::Failed => "failed",
        }
    }

    /// Its class in the style, one letter: there are thousands of cells.
    pub fn class(self) -> &'static str {
        match self {
            Self::NotAsked => "n",
            Self::Gone => "g",
            Self::Sealed => "s",
            Self::TooYoung => "y",
            Self::Provisional => "p",
            Self::InFlight => "q",
            Self::Missing => "m",
            Self::Failed => "f",
        }
    }

    /// What tells it from the others without its colour. What is as it should be has none.
    pub fn sign(self) -> &'static str {
        match self {
            Self::NotAsked | Self::Sealed => "",
            Self::Gone => "–",
            Self::TooYoung => "·",
            Self::Provisional => "◐",
            Self::InFlight => "▸",
            Self::Missing => "?",
            Self::Failed => "✕",
        }
    }
}

/// Seconds by how they stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cell(BTreeMap<State, i64>);

impl Cell {
    /// How it stands: what matters most of what is in it.
    pub fn state(&self) -> State {
        self.0
            .keys()
            .next_back()
            .copied()
            .unwrap_or(State::NotAsked)
    }

    /// In words: `sealed`, or what is in it.
    pub fn words(&self) -> String {
        match self.0.len() {
            0 => State::NotAsked.name().to_owned(),
            1 => self.state().name().to_owned(),
            _ => {
                let parts = self.0.iter().rev();
                let parts: Vec<String> = parts
                    .map(|(state, seconds)| {
                        format!("{} {}", state.name(), super::format::duration(*seconds))
                    })
                    .collect();
                parts.join(", ")
            }
        }
    }

    fn add(&mut self, other: &Self) {
        for (state, seconds) in &other.0 {
            *self.0.entry(*state).or_default() += seconds;
        }
    }
}

/// A day, hour by hour.
#[derive(Debug, Clone)]
pub(super) struct Day {
    /// Its first second.
    pub start_s: i64,
    /// Its hours.
    pub hours: [Cell; 24],
}

impl Day {
    /// All of it.
    pub fn whole(&self) -> Cell {
        let mut whole = Cell::default();
        self.hours.iter().for_each(|hour| whole.add(hour));
        whole
    }
}

/// So many days up to the one of `last_s`, the latest first.
pub(super) fn days(status: &DatasetStatus, last_s: i64, days: i64) -> Vec<Day> {
    let end = last_s.div_euclid(DAY_S) * DAY_S + DAY_S;
    let start = end - days.max(1) * DAY_S;
    let mut found: Vec<Day> = (0..days.max(1))
        .map(|day| Day {
            start_s: start + day * DAY_S,
            hours: std::array::from_fn(|_| Cell::default()),
        })
        .collect();
    let Some(shown) = Window::new(start, end) else {
        return found;
    };
    let mut put = |window: Window, state: State| {
        for piece in window
            .intersection(shown)
            .into_iter()
            .flat_map(|window| window.cut_at_edges(HOUR_S))
        {
            let hour = (piece.start() - start).div_euclid(HOUR_S);
            let (day, hour) = (hour.div_euclid(24), hour.rem_euclid(24));
            if let (Ok(day), Ok(hour)) = (usize::try_from(day), usize::try_from(hour)) {
                *found[day].hours[hour].0.entry(state).or_default() += piece.seconds();
            }
        }
    };
    let sealed = status.covered.intersection(&WindowSet::from(shown));
    sealed
        .intersection(&status.requested)
        .iter()
        .for_each(|window| put(window, State::Sealed));
    status
        .gaps
        .iter()
        .for_each(|gap| put(gap.window, State::of(&gap.reason)));
    found.reverse();
    found
}

/// The last second asked for that has begun by `now_s`: what was collected of long ago is not shown as the end of nothing.
pub(super) fn last_asked(status: &DatasetStatus, now_s: i64) -> i64 {
    let last = status.requested.iter().next_back();
    last.map_or(now_s, |window| now_s.min(window.end() - 1))
}

/// How many days it takes from the first second asked for to `now_s`, at most `most`.
pub(super) fn days_asked(status: &DatasetStatus, now_s: i64, most: i64) -> i64 {
    let first = status.requested.iter().next().map_or(now_s, Window::start);
    (now_s.div_euclid(DAY_S) - first.div_euclid(DAY_S) + 1).clamp(1, most)
}
