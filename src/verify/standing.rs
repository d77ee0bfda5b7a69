//! Whether an hour can be verified, or what stands against it. Pure: the ledger is passed in.

use std::{collections::BTreeMap, time::Duration};

use super::{HOUR_S, Verdict, YOUNG_S};
use crate::{
    gaps::{Gap, Ledger, Reason},
    job::duration,
    window::{Window, WindowSet},
};

/// How an hour stands in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is completely collected, and old enough.
    Ready,
    /// It is not to be compared, and why.
    Not(Verdict, String),
}

/// What is verified unless a range is given: everything that was asked for, as far as whole hours of it are old enough. Hours that a
/// poll has yet to look at again, or a backfill will collect later, are not due.
pub fn asked_for(ledger: &Ledger) -> WindowSet {
    let old = (ledger.now - YOUNG_S).div_euclid(HOUR_S) * HOUR_S;
    let old = WindowSet::before(old);
    let young = ledger.gaps().into_iter().filter(is_young);
    let young = young.flat_map(|gap| {
        let hours = gap.window.cut_at_edges(HOUR_S).into_iter();
        hours.filter_map(|part| {
            let hour = part.start().div_euclid(HOUR_S) * HOUR_S;
            Window::new(hour, hour + HOUR_S)
        })
    });
    let young: WindowSet = young.collect();
    ledger.requested().intersection(&old).minus(&young)
}

fn is_young(gap: &Gap) -> bool {
    matches!(gap.reason, Reason::TooYoung | Reason::Provisional)
}

/// A stretch that is collected and that was not verified, as its hours are not due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotYet {
    /// The stretch.
    pub window: Window,
    /// From when on all of it is due by its age, Unix seconds; `None`: when what is left of its hours is sealed.
    pub until: Option<i64>,
}

impl NotYet {
    /// Why it was not, in words.
    pub fn reason(&self) -> &'static str {
        match self.until {
            Some(_) => "too young",
            None => "its hours are not all sealed yet",
        }
    }
}

/// What is collected within some bounds, and not among what is asked for.
pub fn not_yet(ledger: &Ledger, within: Window, asked: &WindowSet) -> Vec<NotYet> {
    let [fresh, settled] = &ledger.provisional;
    let collected = ledger.sealed.union(settled).union(fresh);
    let left = collected
        .intersection(&ledger.requested())
        .intersection(&within.into())
        .minus(asked);
    let mut all: Vec<NotYet> = Vec::new();
    for part in left.iter().flat_map(|window| window.cut_at_edges(HOUR_S)) {
        let due_at = part.start().div_euclid(HOUR_S) * HOUR_S + HOUR_S + YOUNG_S;
        let until = (due_at > ledger.now).then_some(due_at);
        match all.last_mut() {
            Some(last)
                if last.window.end() == part.start() && last.until.is_some() == until.is_some() =>
            {
                last.window = last.window.until(part);
                last.until = until;
            }
            _ => all.push(NotYet {
                window: part,
                until,
            }),
        }
    }
    all
}

/// How a window stands. `gaps` are the ledger's.
pub fn of(ledger: &Ledger, gaps: &[Gap], window: Window) -> Standing {
    let not = |verdict, reason: &str| Standing::Not(verdict, reason.to_owned());
    if ledger.kept_from.is_some_and(|from| window.start() < from) {
        return not(
            Verdict::BeyondRetention,
            "older than the `retention` of the source: Tempo does not have it any more",
        );
    }
    if ledger
        .deleted_before
        .is_some_and(|before| window.start() < before)
    {
        return not(
            Verdict::BeyondRetention,
            "deleted here, as [retention] says",
        );
    }
    if window.end() > ledger.now - YOUNG_S {
        return not(
            Verdict::TooYoung,
            "under an hour old: it may be on its way into Tempo's blocks",
        );
    }
    let all = WindowSet::from(window);
    let lacking = all.minus(&ledger.sealed);
    if lacking.is_empty() {
        return Standing::Ready;
    }
    let mut reasons: BTreeMap<&str, i64> = BTreeMap::new();
    let mut only_young = true;
    for gap in gaps {
        let part = lacking.intersection(&gap.window.into()).seconds();
        if part > 0 {
            *reasons.entry(gap.reason.name()).or_default() += part;
            only_young &= is_young(gap);
        }
    }
    let never = lacking.minus(&ledger.requested()).seconds();
    if never > 0 {
        *reasons.entry("never asked for").or_default() += never;
        only_young = false;
    }
    let words = reasons.into_iter().map(|(why, seconds)| {
        let length = Duration::from_secs(seconds.unsigned_abs());
        format!("{why} {}", duration::format(length))
    });
    let words: Vec<String> = words.collect();
    let verdict = match only_young {
        true => Verdict::TooYoung,
        false => Verdict::Gap,
    };
    Standing::Not(verdict, format!("not collected: {}", words.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gaps::Polled;

    fn window(start: i64, end: i64) -> Window {
        Window::new(start, end).unwrap()
    }

    fn ledger() -> Ledger {
        Ledger {
            backfilled: window(0, 100 * HOUR_S).into(),
            polls: Vec::new(),
            provisional: Default::default(),
            sealed: window(0, 90 * HOUR_S).into(),
            in_flight: WindowSet::default(),
            failed: Vec::new(),
            deleted_before: Some(HOUR_S),
            kept_from: Some(2 * HOUR_S + 1),
            settled_until: 98 * HOUR_S,
            now: 100 * HOUR_S + 5,
        }
    }

    #[test]
    fn each_hour_has_its_standing() {
        let ledger = ledger();
        let gaps = ledger.gaps();
        let verdict = |hour: i64| {
            let window = window(hour * HOUR_S, (hour + 1) * HOUR_S);
            match of(&ledger, &gaps, window) {
                Standing::Ready => Verdict::Equal,
                Standing::Not(verdict, _) => verdict,
            }
        };
        // The border of retention lies in the third hour.
        assert_eq!(verdict(0), Verdict::BeyondRetention);
        assert_eq!(verdict(2), Verdict::BeyondRetention);
        assert_eq!(verdict(3), Verdict::Equal);
        assert_eq!(verdict(90), Verdict::Gap);
        assert_eq!(verdict(98), Verdict::TooYoung);
        assert_eq!(verdict(99), Verdict::TooYoung);
        assert_eq!(verdict(200), Verdict::TooYoung);
        // The hour after that is not settled: a backfill collects it later.
        assert_eq!(
            asked_for(&ledger).iter().next_back().unwrap().end(),
            98 * HOUR_S
        );
    }

    #[test]
    fn what_a_poll_has_yet_to_seal_is_not_due() {
        let mut ledger = ledger();
        ledger.polls = vec![Polled {
            requested: window(0, 100 * HOUR_S),
            seal_after_s: 3 * HOUR_S,
            catch_up_s: None,
            young_s: 95,
        }];
        ledger.backfilled = WindowSet::default();
        ledger.provisional = [window(0, 100 * HOUR_S).into(), WindowSet::default()];
        ledger.sealed = window(0, 95 * HOUR_S + 600).into();
        let due = asked_for(&ledger);
        assert_eq!(due.iter().next_back().unwrap().end(), 95 * HOUR_S);
        let gaps = ledger.gaps();
        let asked = of(&ledger, &gaps, window(96 * HOUR_S, 97 * HOUR_S));
        assert!(matches!(asked, Standing::Not(Verdict::TooYoung, _)));
    }

    #[test]
    fn what_is_collected_and_not_due_is_said_with_when_it_will_be() {
        let mut ledger = ledger();
        let all = window(0, 200 * HOUR_S);
        assert_eq!(not_yet(&ledger, all, &asked_for(&ledger)), []);
        ledger.sealed = window(0, 98 * HOUR_S + 600).into();
        ledger.now = 100 * HOUR_S - 5;
        let young = NotYet {
            window: window(98 * HOUR_S, 98 * HOUR_S + 600),
            until: Some(100 * HOUR_S),
        };
        assert_eq!(not_yet(&ledger, all, &asked_for(&ledger)), [young]);
        // What was sealed of an hour waits for the rest of it.
        ledger.settled_until = 97 * HOUR_S + 600;
        ledger.sealed = window(0, ledger.settled_until).into();
        let waits = NotYet {
            window: window(97 * HOUR_S, 97 * HOUR_S + 600),
            until: None,
        };
        assert_eq!(not_yet(&ledger, all, &asked_for(&ledger)), [waits]);
        assert_eq!(not_yet(&ledger, all, &ledger.sealed), []);
    }

    #[test]
    fn what_nobody_asked_for_is_a_gap_that_says_so() {
        let mut ledger = ledger();
        ledger.backfilled = window(10 * HOUR_S, 20 * HOUR_S).into();
        ledger.sealed = window(10 * HOUR_S, 19 * HOUR_S).into();
        let gaps = ledger.gaps();
        let standing = of(&ledger, &gaps, window(19 * HOUR_S, 20 * HOUR_S));
        let reason = "not collected: never tried 1h".to_owned();
        assert_eq!(standing, Standing::Not(Verdict::Gap, reason));
        let standing = of(&ledger, &gaps, window(30 * HOUR_S, 31 * HOUR_S));
        let reason = "not collected: never asked for 1h".to_owned();
        assert_eq!(standing, Standing::Not(Verdict::Gap, reason));
    }
}
