//! What is left to do: the range requested, minus what is covered, minus what is in flight, cut into windows.
//!
//! Submitting again, catching up and repairing gaps are all this one operation. Pure: the clock, the coverage and the
//! windows in flight are passed in ([`crate::store`] reads them), and nothing is written.

pub mod density;
pub mod poll;

use self::density::{Piece, Sizing};
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
    /// How to cut where the server has counted; elsewhere windows are cut at edges only.
    pub sizing: Option<&'a Sizing>,
}

/// Every second of the requested range is in exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What to fetch, in the order to fetch it.
    pub windows: Vec<Piece>,
    /// Collected already.
    pub covered: WindowSet,
    /// Being collected already.
    pub in_flight: WindowSet,
    /// Too young to be sealed; a later run collects it.
    pub too_young: WindowSet,
    /// Older than what the source keeps, a gap that nothing can fill, or than what the dataset keeps.
    pub beyond_retention: WindowSet,
}

impl Plan {
    /// Everything that is to be fetched.
    pub fn to_fetch(&self) -> WindowSet {
        self.windows.iter().map(|piece| piece.window).collect()
    }
}

/// Plans what is left of a request.
pub fn plan(request: &Request<'_>) -> Plan {
    let requested = WindowSet::from(request.requested);
    let covered = requested.intersection(request.covered);
    let open = requested.minus(&covered);
    let in_flight = open.intersection(request.in_flight);
    let open = open.minus(&in_flight);
    let too_young = open.intersection(&WindowSet::since(request.settled_until));
    let open = open.minus(&too_young);
    let beyond_retention = request.kept_from.map_or_else(WindowSet::default, |second| {
        open.intersection(&WindowSet::before(second))
    });
    let open = open.minus(&beyond_retention);
    let counted = request.sizing.map_or_else(WindowSet::default, |sizing| {
        open.intersection(&sizing.counted)
    });
    let by_count = counted.iter().flat_map(|stretch| {
        request
            .sizing
            .map_or_else(Vec::new, |sizing| sizing.cut(stretch))
    });
    let uncounted = open.minus(&counted);
    let at_edges = uncounted
        .iter()
        .flat_map(|window| window.cut_at_edges(request.window_s))
        .map(Piece::uncounted);
    let mut windows: Vec<Piece> = by_count.chain(at_edges).collect();
    windows.sort_unstable_by_key(|piece| piece.window);
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

    use super::{
        density::{Histogram, Step},
        *,
    };

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
            kept_from in prop::option::of(0i64..300), settled_until in 0i64..400, window_s in 1i64..40, newest in any::<bool>(), counted in prop::option::of(set()),
        ) {
            let requested = Window::new(start, start + length).unwrap();
            let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
            let sizing = counted.map(|counted| Sizing {
                histogram: Histogram { steps: (0..40).map(|i| Step { start: i * 10, seconds: 10, count: 100 }).collect() },
                counted, budget: 250, band_budget: None, mean_duration_s: 0.0, longest_s: window_s, at_once: 1, worth_a_window: 1,
            });
            let plan = plan(&Request { requested, covered: &covered, in_flight: &in_flight, kept_from, settled_until, window_s, order, sizing: sizing.as_ref() });
            for second in requested.start()..requested.end() {
                let one = WindowSet::from(Window::new(second, second + 1).unwrap());
                let in_windows = plan.windows.iter().filter(|w| w.window.start() <= second && second < w.window.end()).count();
                let parts = [&plan.covered, &plan.in_flight, &plan.too_young, &plan.beyond_retention]
                    .iter().filter(|set| !set.intersection(&one).is_empty()).count();
                prop_assert_eq!(in_windows + parts, 1);
                if in_windows == 1 {
                    prop_assert!(second < settled_until && kept_from.is_none_or(|kept| second >= kept));
                }
            }
            let total: i64 = plan.windows.iter().map(|w| w.window.seconds()).sum();
            prop_assert!(total <= requested.seconds());
            prop_assert!(plan.windows.iter().all(|w| w.window.start().div_euclid(window_s) == (w.window.end() - 1).div_euclid(window_s)));
            prop_assert!(plan.windows.windows(2).all(|pair| (pair[0].window > pair[1].window) == newest));
            prop_assert_eq!(plan.to_fetch().seconds(), total);
            // Coverage, what is in flight and what is planned are the request, less what no plan may hold.
            let there = plan.covered.union(&plan.in_flight).union(&plan.to_fetch());
            let outside = plan.too_young.union(&plan.beyond_retention);
            prop_assert_eq!(there.union(&outside), WindowSet::from(requested));
            prop_assert_eq!(&plan.covered, &covered.intersection(&requested.into()));
            prop_assert!(plan.in_flight.minus(&in_flight).is_empty());
        }

        /// Done or failed, what was planned is never planned again while it stands, and in the end nothing is left out.
        #[test]
        fn planning_again_plans_what_is_left(start in 0i64..200, length in 1i64..200, window_s in 1i64..40, rounds in prop::collection::vec(any::<u32>(), 1..6)) {
            let requested = Window::new(start, start + length).unwrap();
            let (mut covered, mut planned_s) = (WindowSet::default(), 0);
            let again = |covered: &WindowSet, in_flight: &WindowSet| plan(&Request {
                requested, covered, in_flight, kept_from: None, settled_until: 1_000, window_s, order: Order::OldestFirst, sizing: None,
            });
            for luck in rounds {
                let planned = again(&covered, &WindowSet::default());
                prop_assert!(planned.to_fetch().intersection(&covered).is_empty());
                // While these are under way nothing is planned.
                prop_assert_eq!(again(&covered, &planned.to_fetch()).windows, []);
                for (i, piece) in planned.windows.iter().enumerate() {
                    if luck >> (i % 32) & 1 == 1 {
                        planned_s += piece.window.seconds();
                        covered = covered.union(&piece.window.into());
                    }
                }
            }
            let rest = again(&covered, &WindowSet::default()).to_fetch();
            prop_assert_eq!(planned_s + rest.seconds(), requested.seconds());
            prop_assert_eq!(covered.union(&rest), WindowSet::from(requested));
        }
    }

    #[test]
    fn a_look_is_found_by_its_name() {
        assert_eq!(Look::ALL.map(Look::name), ["fresh", "settled", "sealed"]);
        for look in Look::ALL {
            assert_eq!(Look::from_name(look.name()), Some(look));
        }
        assert_eq!(Look::from_name("glance"), None);
    }
}
