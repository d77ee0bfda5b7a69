//! What is left to do: the range requested, minus what is covered, minus what is in flight, cut into windows.
//!
//! Submitting again, catching up and repairing gaps are all this one operation. Pure: the clock, the coverage and the
//! windows in flight are passed in ([`crate::store`] reads them), and nothing is written.

pub mod poll;

use crate::{
    job::Order,
    window::{Window, WindowSet},
};

/// How far a look at a window is from the present, and so what its being done is worth. Later looks are worth more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// At a poll's tick, `delay` behind the present: what is there so far.
    Fresh,
    /// `lookback` after its end: late spans have come.
    Settled,
    /// `seal_after` or `settle` after its end: complete.
    Sealed,
}

impl Look {
    /// All of them, the earliest first.
    pub const ALL: [Self; 3] = [Self::Fresh, Self::Settled, Self::Sealed];

    /// Its name in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Settled => "settled",
            Self::Sealed => "sealed",
        }
    }

    /// The look of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|look| look.name() == name)
    }
}

/// What a plan is made from.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The range asked for.
    pub requested: Window,
    /// What is completely collected already.
    pub covered: &'a WindowSet,
    /// What open windows of the ledger will collect.
    pub in_flight: &'a WindowSet,
    /// Seconds before this are older than what the source keeps (its `retention`), or the dataset (the job's).
    pub kept_from: Option<i64>,
    /// Seconds from this on are too young to be sealed.
    pub settled_until: i64,
    /// Windows are cut at multiples of this many seconds since the epoch.
    pub window_s: i64,
    /// Which end comes first.
    pub order: Order,
}

/// Every second of the requested range is in exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What to fetch, in the order to fetch it.
    pub windows: Vec<Window>,
    /// Collected already.
    pub covered: WindowSet,
    /// Being collected already.
    pub in_flight: WindowSet,
    /// Too young to be sealed; a later run collects it.
    pub too_young: WindowSet,
    /// Older than what the source keeps, a gap that nothing can fill, or than what the dataset keeps.
    pub beyond_retention: WindowSet,
}

/// Plans what is left of a request.
pub fn plan(request: &Request<'_>) -> Plan {
    let requested = WindowSet::from(request.requested);
    let covered = requested.intersection(request.covered);
    let open = requested.minus(&covered);
    let in_flight = open.intersection(request.in_flight);
    let open = open.minus(&in_flight);
    let before = |second: i64| WindowSet::from_iter(Window::new(i64::MIN / 4, second));
    let too_young = open.minus(&before(request.settled_until));
    let open = open.minus(&too_young);
    let beyond_retention = request.kept_from.map_or_else(WindowSet::default, |second| {
        open.intersection(&before(second))
    });
    let open = open.minus(&beyond_retention);
    let mut windows: Vec<Window> = open
        .iter()
        .flat_map(|window| window.cut_at_edges(request.window_s))
        .collect();
    if request.order == Order::NewestFirst {
        windows.reverse();
    }
    Plan {
        windows,
        covered,
        in_flight,
        too_young,
        beyond_retention,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set() -> impl Strategy<Value = WindowSet> {
        prop::collection::vec((0i64..300, 1i64..60), 0..8).prop_map(|pairs| {
            pairs
                .into_iter()
                .filter_map(|(s, n)| Window::new(s, s + n))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn every_requested_second_is_in_exactly_one_part(
            start in 0i64..200, length in 1i64..200, covered in set(), in_flight in set(),
            kept_from in prop::option::of(0i64..300), settled_until in 0i64..400, window_s in 1i64..40, newest in any::<bool>(),
        ) {
            let requested = Window::new(start, start + length).unwrap();
            let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
            let plan = plan(&Request { requested, covered: &covered, in_flight: &in_flight, kept_from, settled_until, window_s, order });
            for second in requested.start()..requested.end() {
                let one = WindowSet::from(Window::new(second, second + 1).unwrap());
                let in_windows = plan.windows.iter().filter(|w| w.start() <= second && second < w.end()).count();
                let parts = [&plan.covered, &plan.in_flight, &plan.too_young, &plan.beyond_retention]
                    .iter().filter(|set| !set.intersection(&one).is_empty()).count();
                prop_assert_eq!(in_windows + parts, 1);
                if in_windows == 1 {
                    prop_assert!(second < settled_until && kept_from.is_none_or(|kept| second >= kept));
                }
            }
            let total: i64 = plan.windows.iter().map(|w| w.seconds()).sum();
            prop_assert!(total <= requested.seconds());
            prop_assert!(plan.windows.iter().all(|w| w.start().div_euclid(window_s) == (w.end() - 1).div_euclid(window_s)));
            prop_assert!(plan.windows.windows(2).all(|pair| (pair[0] > pair[1]) == newest));
        }
    }
}
