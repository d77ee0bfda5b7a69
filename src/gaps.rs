//! Why a second that was asked for is not completely collected: each has one reason, the first that holds.
//!
//! Pure: the ledger and the clock are passed in ([`crate::status`] reads them). What can be done about a gap is decided in
//! [`crate::repair`].

use chrono::{DateTime, Utc};

use crate::{
    plan::Look,
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

/// A window that rests as failed.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Its span.
    pub window: Window,
    /// What its being done would have counted as.
    pub look: Look,
    /// The class of its error.
    pub class: String,
    /// Its error.
    pub error: String,
    /// Attempts that failed.
    pub attempts: i32,
    /// When it was given up.
    pub at: DateTime<Utc>,
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

impl Ledger {
    /// What polls asked for.
    fn polled(&self) -> WindowSet {
        self.polls.iter().map(|poll| poll.requested).collect()
    }

    /// What polls had taken on by a moment, Unix seconds, and what of it was old enough to be there then.
    pub fn polled_at(&self, moment: i64) -> WindowSet {
        self.of_polls(|poll| WindowSet::before(moment - poll.young_s))
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
        let awaited = self.of_polls(|poll| WindowSet::since(self.now - due(poll)));
        sorted.take(&awaited.intersection(&there), Reason::Provisional);
        // At the live edge something is always under way: that is no gap.
        let edge = self.of_polls(|poll| WindowSet::since(self.now - poll.young_s));
        sorted.take(&edge.minus(&there), Reason::TooYoung);
        sorted.take(&self.in_flight, Reason::InFlight);
        if let Some(second) = self.deleted_before {
            sorted.take(&WindowSet::before(second), Reason::Deleted);
        }
        if let Some(second) = self.kept_from {
            sorted.take(&WindowSet::before(second), Reason::BeyondRetention);
        }
        let young = WindowSet::since(self.settled_until).minus(&self.polled());
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
            Some(catch_up_s) => WindowSet::before(self.now - catch_up_s),
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

    /// The reason of one second, asked question by question.
    fn reason_of(ledger: &Ledger, second: i64) -> Option<&'static str> {
        let has = |set: &WindowSet| {
            set.iter()
                .any(|part| (part.start()..part.end()).contains(&second))
        };
        let in_window = |window: Window| (window.start()..window.end()).contains(&second);
        let polls: Vec<&Polled> = ledger
            .polls
            .iter()
            .filter(|poll| in_window(poll.requested))
            .collect();
        if has(&ledger.sealed) || !has(&ledger.backfilled) && polls.is_empty() {
            return None;
        }
        let age = ledger.now - second;
        let looked_at = |look| match look {
            Look::Fresh => ledger.provisional.iter().any(has),
            Look::Settled => has(&ledger.provisional[1]),
            Look::Sealed => false,
        };
        let is_there = looked_at(Look::Fresh);
        let failed = ledger
            .failed
            .iter()
            .any(|failed| in_window(failed.window) && !looked_at(failed.look));
        Some(
            if is_there
                && polls
                    .iter()
                    .any(|poll| age <= poll.seal_after_s + 3_600 + 900)
            {
                "provisional"
            } else if !is_there && polls.iter().any(|poll| age <= poll.young_s) {
                "too young"
            } else if has(&ledger.in_flight) {
                "in flight"
            } else if ledger.deleted_before.is_some_and(|border| second < border) {
                "deleted by retention"
            } else if ledger.kept_from.is_some_and(|border| second < border) {
                "beyond retention"
            } else if second >= ledger.settled_until && polls.is_empty() {
                "too young"
            } else if failed {
                "failed"
            } else if is_there {
                "provisional too long"
            } else if !has(&ledger.backfilled)
                && polls
                    .iter()
                    .any(|poll| poll.catch_up_s.is_some_and(|most| age > most))
            {
                "not caught up"
            } else {
                "never tried"
            },
        )
    }

    fn polls() -> impl Strategy<Value = Vec<Polled>> {
        let poll = (
            0i64..300,
            1i64..100,
            0i64..300,
            prop::option::of(0i64..300),
            0i64..300,
        );
        let poll = poll.prop_map(
            |(start, length, seal_after_s, catch_up_s, young_s)| Polled {
                requested: Window::new(start, start + length).unwrap(),
                seal_after_s,
                catch_up_s,
                young_s,
            },
        );
        prop::collection::vec(poll, 0..3)
    }

    fn failures() -> impl Strategy<Value = Vec<Failed>> {
        let one = (
            0usize..3,
            0i64..300,
            1i64..60,
            prop::sample::select(vec!["earlier", "later"]),
        );
        let one = one.prop_map(|(look, start, length, error)| {
            failure(Look::ALL[look], start, start + length, error)
        });
        prop::collection::vec(one, 0..4)
    }

    proptest! {
        #[test]
        fn gaps_tile_what_was_asked_for_and_is_not_sealed(
            backfilled in sets(), sealed in sets(), fresh in sets(), settled in sets(), in_flight in sets(), polls in polls(), failed in failures(),
            deleted_before in prop::option::of(0i64..100), kept_from in prop::option::of(0i64..200), settled_until in 0i64..400,
            now in prop_oneof![300i64..700, 4_500i64..5_500],
        ) {
            let provisional = [fresh, settled];
            let ledger = Ledger { backfilled, polls, provisional, sealed, in_flight, failed, deleted_before, kept_from, settled_until, now };
            let gaps = ledger.gaps();
            prop_assert!(gaps.windows(2).all(|pair| pair[0].window.end() < pair[1].window.start()
                || pair[0].window.end() == pair[1].window.start() && pair[0].reason != pair[1].reason));
            for second in -1..500 {
                let of_gap = gaps.iter().find(|gap| gap.window.start() <= second && second < gap.window.end());
                prop_assert_eq!(of_gap.map(|gap| gap.reason.name()), reason_of(&ledger, second), "{}", second);
                if let Some(Reason::Failed { error, .. }) = of_gap.map(|gap| &gap.reason) {
                    let latest = ledger.failed.iter().find(|failed| {
                        let at_look = ledger.covered_at(failed.look);
                        let one = WindowSet::from(Window::new(second, second + 1).unwrap());
                        !WindowSet::from(failed.window).minus(&at_look).intersection(&one).is_empty()
                    });
                    prop_assert_eq!(Some(error), latest.map(|failed| &failed.error));
                }
            }
            let all: WindowSet = gaps.iter().map(|gap| gap.window).collect();
            prop_assert_eq!(all, ledger.requested().minus(&ledger.sealed));
        }

        #[test]
        fn what_a_poll_had_taken_on_was_old_enough_for_it(polls in polls(), moment in 0i64..700) {
            let ledger = Ledger { polls, ..empty(1_000) };
            let old_enough = |second| ledger.polls.iter().any(|poll| {
                poll.requested.start() <= second && second < poll.requested.end() && moment - second > poll.young_s
            });
            let at: Vec<i64> = ledger.polled_at(moment).iter().flat_map(|part| part.start()..part.end()).collect();
            prop_assert_eq!(at, (0..500).filter(|second| old_enough(*second)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn neighbours_with_one_reason_are_one_gap() {
        let ledger = Ledger {
            backfilled: set(0, 30),
            failed: vec![
                failure(Look::Sealed, 0, 10, "same"),
                failure(Look::Sealed, 10, 20, "same"),
                failure(Look::Sealed, 20, 30, "another"),
            ],
            ..empty(1_000)
        };
        assert_eq!(seen(&ledger), [(0, 20, "failed"), (20, 30, "failed")]);
    }

    #[test]
    fn each_reason_says_what_it_calls_for() {
        let failed = |class: &str| Reason::Failed {
            class: class.to_owned(),
            error: String::new(),
            attempts: 1,
        };
        // Whether it should be there, whether planning it again helps, whether an attempt failed.
        let reasons = [
            (Reason::Provisional, [false, false, false]),
            (Reason::TooYoung, [false, false, false]),
            (Reason::InFlight, [true, false, false]),
            (Reason::Deleted, [false, false, false]),
            (Reason::BeyondRetention, [false, false, false]),
            (failed("irreducible"), [true, true, true]),
            (failed("passing"), [true, true, true]),
            (Reason::ProvisionalTooLong, [true, true, false]),
            (Reason::NotCaughtUp, [true, true, false]),
            (Reason::NeverTried, [true, true, false]),
        ];
        assert_eq!(
            reasons.each_ref().map(|(reason, _)| reason.name()),
            Reason::NAMES
        );
        for (reason, expected) in reasons {
            let said = [
                reason.is_missing(),
                reason.is_repairable(),
                reason.is_failure(),
            ];
            assert_eq!(said, expected, "{reason:?}");
        }
    }
}
