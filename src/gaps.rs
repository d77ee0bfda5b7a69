//! Why a second that was asked for is not completely collected: each has one reason, the first that holds.
//!
//! Pure: the ledger and the clock are passed in ([`crate::status`] reads them). What can be done about a gap is decided in
//! [`crate::repair`].

use crate::{
    store::{Look, report::Failed},
    window::{Window, WindowSet},
};

/// The longest window that seals what a poll has collected, seconds: its first second waits that much longer.
const LONGEST_SEALING_S: i64 = 3_600;
/// How late sealing may be before it counts as missing, seconds.
const SEALING_LATE_S: i64 = 900;

/// A stretch that was asked for and is not completely collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The stretch.
    pub window: Window,
    /// Why.
    pub reason: Reason,
}

/// Why a stretch is not completely collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A poll has it, and will look again until it is sealed.
    Provisional,
    /// Too young: a later run, or the next ticks, collect it.
    TooYoung,
    /// It is queued or being fetched.
    InFlight,
    /// It was collected, and retention has deleted it.
    Deleted,
    /// Older than what the source keeps: nothing can fill it.
    BeyondRetention,
    /// The last attempt failed.
    Failed {
        /// The class of the error.
        class: String,
        /// The error.
        error: String,
        /// Attempts that failed.
        attempts: i32,
    },
    /// A poll has it, but it should have been sealed by now.
    ProvisionalTooLong,
    /// Missed by a poll, and older than what its `catch_up` fills in.
    NotCaughtUp,
    /// Nothing has tried since it was asked for: cancelled, or too young then.
    NeverTried,
}

impl Reason {
    /// All names.
    pub const NAMES: [&'static str; 10] = [
        "provisional",
        "too young",
        "in flight",
        "deleted by retention",
        "beyond retention",
        "irreducible",
        "failed",
        "provisional too long",
        "not caught up",
        "never tried",
    ];

    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Provisional => "provisional",
            Self::TooYoung => "too young",
            Self::InFlight => "in flight",
            Self::Deleted => "deleted by retention",
            Self::BeyondRetention => "beyond retention",
            Self::Failed { class, .. } if class == "irreducible" => "irreducible",
            Self::Failed { .. } => "failed",
            Self::ProvisionalTooLong => "provisional too long",
            Self::NotCaughtUp => "not caught up",
            Self::NeverTried => "never tried",
        }
    }

    /// Whether it should be there by now, and could be.
    pub fn is_missing(&self) -> bool {
        !matches!(
            self,
            Self::Provisional | Self::TooYoung | Self::Deleted | Self::BeyondRetention
        )
    }

    /// Whether planning it again is what it takes.
    pub fn is_repairable(&self) -> bool {
        self.is_missing() && *self != Self::InFlight
    }

    /// Whether an attempt failed.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// What a poll has taken on.
#[derive(Debug, Clone, Copy)]
pub struct Polled {
    /// What it asked for so far.
    pub requested: Window,
    /// How old a second is when it is sealed, seconds.
    pub seal_after_s: i64,
    /// How far back it fills in what was missed, seconds.
    pub catch_up_s: Option<i64>,
    /// How old a second may be without having been looked at, seconds: its `delay` and a few ticks.
    pub young_s: i64,
}

/// What the ledger knows of a dataset.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// What backfills asked for.
    pub backfilled: WindowSet,
    /// The polls.
    pub polls: Vec<Polled>,
    /// What is covered at the fresh and the settled look.
    pub provisional: [WindowSet; 2],
    /// What is sealed.
    pub sealed: WindowSet,
    /// What open windows of any look will cover.
    pub in_flight: WindowSet,
    /// Failed windows, the latest first.
    pub failed: Vec<Failed>,
    /// What is older was deleted here.
    pub deleted_before: Option<i64>,
    /// What is older the source has dropped.
    pub kept_from: Option<i64>,
    /// What is younger no backfill could collect yet.
    pub settled_until: i64,
    /// The present, Unix seconds.
    pub now: i64,
}

fn before(second: i64) -> WindowSet {
    WindowSet::from_iter(Window::new(i64::MIN / 4, second))
}

fn from(second: i64) -> WindowSet {
    WindowSet::from_iter(Window::new(second, i64::MAX / 4))
}

impl Ledger {
    /// What polls asked for.
    fn polled(&self) -> WindowSet {
        self.polls.iter().map(|poll| poll.requested).collect()
    }

    /// What polls had taken on by a moment, Unix seconds, and what of it was old enough to be there then.
    pub fn polled_at(&self, moment: i64) -> WindowSet {
        self.of_polls(|poll| before(moment - poll.young_s))
    }

    /// Everything that was asked for.
    pub fn requested(&self) -> WindowSet {
        self.backfilled.union(&self.polled())
    }

    /// What is covered at this look or a later one.
    fn covered_at(&self, look: Look) -> WindowSet {
        let [fresh, settled] = &self.provisional;
        match look {
            Look::Fresh => self.sealed.union(settled).union(fresh),
            Look::Settled => self.sealed.union(settled),
            Look::Sealed => self.sealed.clone(),
        }
    }

    /// Of each poll's range the part that is younger, or older, than an age.
    fn of_polls(&self, part: impl Fn(&Polled) -> WindowSet) -> WindowSet {
        self.polls
            .iter()
            .flat_map(|poll| {
                let part = WindowSet::from(poll.requested).intersection(&part(poll));
                part.iter().collect::<Vec<Window>>()
            })
            .collect()
    }

    /// Every second that was asked for and is not sealed, with its reason, in ascending order.
    pub fn gaps(&self) -> Vec<Gap> {
        let mut sorted = Sorted {
            left: self.requested().minus(&self.sealed),
            gaps: Vec::new(),
        };
        let there = self.covered_at(Look::Fresh);
        let due = |poll: &Polled| poll.seal_after_s + LONGEST_SEALING_S + SEALING_LATE_S;
        let awaited = self.of_polls(|poll| from(self.now - due(poll)));
        sorted.take(&awaited.intersection(&there), Reason::Provisional);
        // At the live edge something is always under way: that is no gap.
        let edge = self.of_polls(|poll| from(self.now - poll.young_s));
        sorted.take(&edge.minus(&there), Reason::TooYoung);
        sorted.take(&self.in_flight, Reason::InFlight);
        if let Some(second) = self.deleted_before {
            sorted.take(&before(second), Reason::Deleted);
        }
        if let Some(second) = self.kept_from {
            sorted.take(&before(second), Reason::BeyondRetention);
        }
        let young = from(self.settled_until).minus(&self.polled());
        sorted.take(&young, Reason::TooYoung);
        let [at_fresh, at_settled, at_sealed] = Look::ALL.map(|look| self.covered_at(look));
        for failure in &self.failed {
            if sorted.left.is_empty() {
                break;
            }
            let reason = Reason::Failed {
                class: failure.class.clone(),
                error: failure.error.clone(),
                attempts: failure.attempts,
            };
            // What a later look has is no longer what failed.
            let covered = match failure.look {
                Look::Fresh => &at_fresh,
                Look::Settled => &at_settled,
                Look::Sealed => &at_sealed,
            };
            sorted.take(&WindowSet::from(failure.window).minus(covered), reason);
        }
        sorted.take(&there, Reason::ProvisionalTooLong);
        let given_up = self.of_polls(|poll| match poll.catch_up_s {
            Some(catch_up_s) => before(self.now - catch_up_s),
            None => WindowSet::default(),
        });
        sorted.take(&given_up.minus(&self.backfilled), Reason::NotCaughtUp);
        let rest = sorted.left.clone();
        sorted.take(&rest, Reason::NeverTried);
        sorted.joined()
    }
}

/// Seconds by their reasons.
struct Sorted {
    /// Those without a reason yet.
    left: WindowSet,
    gaps: Vec<Gap>,
}

impl Sorted {
    fn take(&mut self, part: &WindowSet, reason: Reason) {
        let taken = self.left.intersection(part);
        self.left = self.left.minus(&taken);
        self.gaps.extend(taken.iter().map(|window| Gap {
            window,
            reason: reason.clone(),
        }));
    }

    /// In ascending order; neighbours with one reason are one gap.
    fn joined(mut self) -> Vec<Gap> {
        self.gaps.sort_by_key(|gap| gap.window);
        let mut joined: Vec<Gap> = Vec::with_capacity(self.gaps.len());
        for gap in self.gaps {
            match joined.last_mut() {
                Some(last)
                    if last.reason == gap.reason && last.window.end() == gap.window.start() =>
                {
                    last.window = last.window.until(gap.window);
                }
                _ => joined.push(gap),
            }
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;

    fn set(start: i64, end: i64) -> WindowSet {
        Window::new(start, end).into_iter().collect()
    }

    fn failure(look: Look, start: i64, end: i64, error: &str) -> Failed {
        Failed {
            window: Window::new(start, end).unwrap(),
            look,
            class: "passing".to_owned(),
            error: error.to_owned(),
            attempts: 10,
            at: DateTime::UNIX_EPOCH,
        }
    }

    fn empty(now: i64) -> Ledger {
        Ledger {
            backfilled: WindowSet::default(),
            polls: Vec::new(),
            provisional: Default::default(),
            sealed: WindowSet::default(),
            in_flight: WindowSet::default(),
            failed: Vec::new(),
            deleted_before: None,
            kept_from: None,
            settled_until: now,
            now,
        }
    }

    fn seen(ledger: &Ledger) -> Vec<(i64, i64, &'static str)> {
        ledger
            .gaps()
            .iter()
            .map(|gap| (gap.window.start(), gap.window.end(), gap.reason.name()))
            .collect()
    }

    #[test]
    fn every_missing_second_has_one_reason_and_the_latest_failure_counts() {
        let ledger = Ledger {
            backfilled: set(0, 100),
            sealed: set(60, 95),
            in_flight: set(30, 40),
            failed: vec![
                failure(Look::Sealed, 50, 60, "new"),
                failure(Look::Sealed, 40, 60, "old"),
            ],
            deleted_before: Some(5),
            kept_from: Some(10),
            settled_until: 97,
            ..empty(1_000)
        };
        assert_eq!(
            seen(&ledger),
            [
                (0, 5, "deleted by retention"),
                (5, 10, "beyond retention"),
                (10, 30, "never tried"),
                (30, 40, "in flight"),
                (40, 50, "failed"),
                (50, 60, "failed"),
                (95, 97, "never tried"),
                (97, 100, "too young"),
            ]
        );
        let gaps = ledger.gaps();
        assert!(matches!(&gaps[5].reason, Reason::Failed { error, .. } if error == "new"));
    }

    #[test]
    fn what_a_poll_has_is_provisional_until_it_should_be_sealed() {
        let now = 100_000;
        let due = now - 600 - LONGEST_SEALING_S - SEALING_LATE_S;
        let ledger = Ledger {
            polls: vec![Polled {
                requested: Window::new(0, now - 35).unwrap(),
                seal_after_s: 600,
                catch_up_s: Some(20_000),
                young_s: 95,
            }],
            provisional: [set(due - 100, now - 200), set(due - 100, now - 2_000)],
            sealed: set(1_000, due - 1_000),
            in_flight: set(now - 50, now - 35),
            failed: vec![
                // Settled since, and so of no more interest.
                failure(Look::Fresh, now - 5_000, now - 2_000, "then"),
                failure(Look::Sealed, due - 100, due - 50, "sealing"),
                failure(Look::Fresh, now - 200, now - 170, "now"),
            ],
            ..empty(now)
        };
        assert_eq!(
            seen(&ledger),
            [
                (0, 1_000, "not caught up"),
                (due - 1_000, due - 100, "never tried"),
                (due - 100, due - 50, "failed"),
                (due - 50, due, "provisional too long"),
                (due, now - 200, "provisional"),
                (now - 200, now - 170, "failed"),
                (now - 170, now - 95, "never tried"),
                (now - 95, now - 35, "too young"),
            ]
        );
    }

    fn sets() -> impl Strategy<Value = WindowSet> {
        prop::collection::vec((0i64..300, 1i64..60), 0..6).prop_map(|pairs| {
            pairs
                .into_iter()
                .filter_map(|(start, length)| Window::new(start, start + length))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn gaps_tile_what_was_asked_for_and_is_not_sealed(
            backfilled in sets(), sealed in sets(), fresh in sets(), settled in sets(), in_flight in sets(), poll in (0i64..200, 1i64..100),
            ages in (0i64..300, prop::option::of(0i64..300), 0i64..300), kept_from in prop::option::of(0i64..200), settled_until in 0i64..400,
        ) {
            let ledger = Ledger {
                backfilled,
                polls: vec![Polled {
                    requested: Window::new(poll.0, poll.0 + poll.1).unwrap(), seal_after_s: ages.0, catch_up_s: ages.1, young_s: ages.2,
                }],
                provisional: [fresh, settled],
                sealed,
                in_flight,
                kept_from,
                settled_until,
                ..empty(5_000)
            };
            let gaps = ledger.gaps();
            prop_assert!(gaps.windows(2).all(|pair| pair[0].window.end() <= pair[1].window.start()));
            let all: WindowSet = gaps.iter().map(|gap| gap.window).collect();
            prop_assert_eq!(all, ledger.requested().minus(&ledger.sealed));
        }
    }
}
