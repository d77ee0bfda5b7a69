//! What a tick plans, and what a history of ticks brings.

use proptest::prelude::*;

use super::{cut::missed_width_s, *};
use crate::job::{Poll, Ticks};

const RULES: Rules = Rules {
    every_s: 15,
    edge_s: 15,
    delay_s: 35,
    lookback_s: 120,
    seal_after_s: 3_600,
    catch_up_s: None,
};

fn set(start: i64, end: i64) -> WindowSet {
    Window::new(start, end).into_iter().collect()
}

fn tick(from_s: i64, now_s: i64) -> Tick {
    Tick {
        from_s,
        now_s,
        kept_from_s: None,
        last: false,
    }
}

/// Everything planned is done at once.
fn finish(state: &mut State, planned: &[Planned]) {
    for planned in planned {
        state.covered.add(planned.look, &planned.window.into());
    }
}

#[test]
fn an_hour_of_ticks_asks_for_a_fresh_window_each_a_settled_one_each_lookback_and_a_sealed_one() {
    let mut state = State {
        density: Some(10.0),
        ..State::default()
    };
    let start = 1_000_800_i64;
    // Two hours to get under way, then one to count.
    let mut counted: [Vec<Planned>; 3] = Default::default();
    for now_s in (start + 35 + 15..start + 3 * 3_600 + 50).step_by(15) {
        let planned = plan(&RULES, &tick(start, now_s), &state);
        if now_s >= start + 2 * 3_600 + 50 {
            for planned in &planned {
                counted[planned.look as usize].push(*planned);
            }
        }
        finish(&mut state, &planned);
    }
    let counts = counted.each_ref().map(Vec::len);
    assert_eq!(counts, [240, 30, 1]);
    assert!(counted[0].iter().all(|p| p.urgency == Urgency::Live
        && p.window.seconds() == 15
        && p.earlier_look.is_none()));
    assert!(
        counted[1]
            .iter()
            .all(|p| p.window.seconds() == 120 && p.earlier_look == Some(Look::Fresh))
    );
    assert!(
        counted[2]
            .iter()
            .all(|p| p.earlier_look == Some(Look::Settled))
    );
}

#[test]
fn after_ten_minutes_of_downtime_the_newest_goes_first_and_the_rest_is_a_few_windows() {
    let mut state = State {
        density: Some(20.0),
        ..State::default()
    };
    let last = Tick {
        last: true,
        ..tick(100_000, 103_605)
    };
    let planned = plan(&RULES, &last, &state);
    finish(&mut state, &planned);
    let planned = plan(&RULES, &tick(100_000, 104_205), &state);
    assert_eq!(planned[0].urgency, Urgency::Live);
    assert_eq!(planned[0].window.end(), RULES.edge(104_205));
    let missed = planned
        .iter()
        .filter(|planned| planned.earlier_look.is_none() && planned.urgency == Urgency::Behind);
    assert!(missed.count() <= 6, "{planned:?}");
}

#[test]
fn what_was_missed_longer_ago_than_catch_up_is_left_but_what_was_looked_at_is_sealed() {
    let rules = Rules {
        catch_up_s: Some(1_000),
        ..RULES
    };
    let mut state = State::default();
    state.covered.add(Look::Fresh, &set(0, 3_600));
    let planned = plan(&rules, &tick(0, 100_000), &state);
    let all: WindowSet = planned.iter().map(|planned| planned.window).collect();
    assert_eq!(all, set(0, 3_600).union(&set(99_000, rules.edge(100_000))));
}

#[test]
fn a_source_that_does_not_answer_is_not_flooded() {
    let mut state = State {
        live_open: 4,
        ..State::default()
    };
    state.in_flight.add(Look::Fresh, &set(1_000, 1_060));
    let planned = plan(&RULES, &tick(1_000, 1_000 + 3_000), &state);
    assert!(
        planned.iter().all(|planned| planned.look != Look::Fresh),
        "{planned:?}"
    );
}

fn sets() -> impl Strategy<Value = ByLook> {
    prop::collection::vec((0usize..3, 0i64..9_000, 1i64..2_000), 0..6).prop_map(|parts| {
        let mut by_look = ByLook::default();
        for (look, start, length) in parts {
            by_look.add(Look::ALL[look], &set(start, start + length));
        }
        by_look
    })
}

proptest! {
    #[test]
    fn nothing_is_asked_for_twice_and_everything_due_is_asked_for(
        covered in sets(), in_flight in sets(), now_s in 100i64..12_000, every_s in 1i64..60, lookback_s in 60i64..400,
        seal_after_s in 400i64..4_000, last in any::<bool>(), density in prop::option::of(0.0f64..5_000.0),
    ) {
        let rules = Rules { every_s, edge_s: every_s, delay_s: 35, lookback_s, seal_after_s, catch_up_s: None };
        let state = State { covered, in_flight, density, ..State::default() };
        let tick = Tick { last, ..tick(0, now_s) };
        let planned = plan(&rules, &tick, &state);
        for (index, one) in planned.iter().enumerate() {
            let span = WindowSet::from(one.window);
            let age_s = match one.look { Look::Fresh => 35, Look::Settled => lookback_s, Look::Sealed => seal_after_s };
            prop_assert!(one.window.end() <= now_s - age_s);
            prop_assert!(one.window.seconds() <= 3_600);
            prop_assert!(state.covered.at_least(one.look).intersection(&span).is_empty());
            prop_assert!(state.in_flight.at_least(one.look).intersection(&span).is_empty());
            if let Some(earlier) = one.earlier_look {
                prop_assert!(span.minus(&state.covered.at_least(earlier)).is_empty());
            }
            for other in &planned[index + 1..] {
                prop_assert!(one.window.intersection(other.window).is_none() || one.look != other.look);
            }
        }
        // Once all of it is done, a tick at the same time has nothing to do.
        let mut done = state.clone();
        finish(&mut done, &planned);
        for look in Look::ALL {
            done.covered.add(look, done.in_flight.clone().at(look));
        }
        done.in_flight = ByLook::default();
        let again = plan(&rules, &tick, &done);
        finish(&mut done, &again);
        prop_assert_eq!(plan(&rules, &tick, &done), vec![]);
        let due = set(0, rules.edge(now_s));
        prop_assert!(due.minus(&done.covered.at_least(Look::Fresh)).is_empty());
    }

    /// Ticks, downtimes, windows that take long, fail, or are never heard of again: each second is brought once at each look, and in
    /// the end all of it is sealed.
    #[test]
    fn whatever_the_downtime_no_second_is_lost_and_none_is_brought_twice(
        every_s in 1i64..120, by_cron: bool, lookback_s in 60i64..400, seal_after_s in 400i64..4_000, catch_up_s in prop::option::of(500i64..3_000),
        history in prop::collection::vec((prop_oneof![5 => 1i64..200, 1 => 1i64..6_000], any::<u64>()), 1..25), density in prop::option::of(0.0f64..5_000.0),
    ) {
        let rules = Rules { every_s, edge_s: if by_cron { 1 } else { every_s }, delay_s: 35, lookback_s, seal_after_s, catch_up_s };
        let (mut state, mut open, mut now_s) = (State { density, ..State::default() }, Vec::<Planned>::new(), 0);
        // By look, what was brought; and the seconds that were within reach of some tick.
        let mut brought: [WindowSet; 3] = Default::default();
        let mut within_reach = WindowSet::default();
        let ends = [(10_000, u64::MAX), (1, u64::MAX), (1, u64::MAX)];
        for (index, (gap_s, luck)) in history.iter().chain(&ends).enumerate() {
            now_s += gap_s;
            let last = index >= history.len();
            if last {
                // Somebody repairs what failed.
                state.resting = ByLook::default();
            }
            let reach_s = catch_up_s.map_or(0, |s| (now_s - s).max(0));
            within_reach = within_reach.union(&set(reach_s, rules.edge(now_s)));
            state.in_flight = ByLook::default();
            open.iter().for_each(|one| state.in_flight.add(one.look, &one.window.into()));
            state.live_open = open.iter().filter(|one| one.urgency == Urgency::Live).count();
            open.extend(plan(&rules, &Tick { last, ..tick(0, now_s) }, &state));
            for (place, one) in std::mem::take(&mut open).into_iter().enumerate() {
                match luck.rotate_left(place as u32 * 2) & 3 {
                    _ if last => {}
                    0 => { open.push(one); continue }
                    1 => { state.resting.add(one.look, &one.window.into()); continue }
                    _ => {}
                }
                state.covered.add(one.look, &one.window.into());
                let brought = &mut brought[one.look as usize];
                let again = brought.intersection(&one.window.into());
                prop_assert!(again.is_empty(), "{again:?} at {:?}", one.look);
                *brought = brought.union(&one.window.into());
            }
        }
        let looked_at = state.covered.at_least(Look::Fresh);
        // What no tick could reach is left, and nothing else.
        prop_assert!(looked_at.minus(&within_reach).is_empty());
        let old_enough = set(0, floor(now_s - seal_after_s - MARGIN_S, rules.edge_s));
        prop_assert!(looked_at.intersection(&old_enough).minus(state.covered.at(Look::Sealed)).is_empty());
        if catch_up_s.is_none() {
            prop_assert!(old_enough.minus(state.covered.at(Look::Sealed)).is_empty());
            prop_assert!(set(0, rules.edge(now_s)).minus(&looked_at).is_empty());
        }
    }
}

#[test]
fn looks_add_up_from_the_earliest_on() {
    let by_look = ByLook::from([set(0, 9), set(2, 4), set(3, 5)]);
    assert_eq!(
        Look::ALL.map(|look| by_look.at(look).clone()),
        [set(0, 9), set(2, 4), set(3, 5)]
    );
    assert_eq!(
        Look::ALL.map(|look| by_look.at_least(look)),
        [set(0, 9), set(2, 5), set(3, 5)]
    );
}

#[test]
fn what_was_missed_is_fetched_in_windows_as_wide_as_density_allows() {
    let width_s = |density| missed_width_s(&RULES, density);
    // 5,000 traces a window, in whole ticks, and an hour at most.
    assert_eq!(width_s(Some(10.0)), 495);
    assert_eq!(width_s(Some(100.0)), 45);
    assert_eq!(width_s(Some(5_000.0)), 15);
    assert_eq!(width_s(Some(0.1)), 3_600);
    assert_eq!(width_s(Some(0.0)), 3_600);
    assert_eq!(width_s(None), 300);
}

#[test]
fn a_polls_numbers_are_those_of_its_job() {
    use std::time::Duration;
    let seconds = Duration::from_secs;
    let poll = |ticks| Poll {
        ticks,
        delay: seconds(30),
        lookback: seconds(120),
        lookback_max: seconds(600),
        seal_after: seconds(1_800),
        catch_up: Some(seconds(86_400)),
    };
    let every = poll(Ticks::Every(seconds(15)));
    let rules = Rules::new(&every, None, 15);
    let expected = Rules {
        every_s: 15,
        edge_s: 15,
        delay_s: 32,
        lookback_s: 120,
        seal_after_s: 1_800,
        catch_up_s: Some(86_400),
    };
    assert_eq!(rules, expected);
    assert_eq!(
        (rules.settled_width_s(), rules.sealed_width_s()),
        (120, 1_800)
    );
    assert_eq!(rules.edge(1_000), 960);
    for (widened_s, lookback_s) in [(60, 120), (300, 300), (9_999, 600)] {
        assert_eq!(
            Rules::new(&every, Some(widened_s), 15).lookback_s,
            lookback_s
        );
    }
    let now = chrono::DateTime::UNIX_EPOCH;
    let hourly = crate::job::Schedule::parse("@hourly", chrono_tz::UTC, now).unwrap();
    let cron = Rules::new(&poll(Ticks::Schedule(hourly)), None, 7_200);
    assert_eq!((cron.every_s, cron.edge_s), (3_600, 1));
    assert_eq!(
        (cron.settled_width_s(), cron.sealed_width_s()),
        (3_600, 3_600)
    );
    let slow = Rules {
        seal_after_s: 90_000,
        ..rules
    };
    assert_eq!(slow.sealed_width_s(), 3_600);
}

#[test]
fn live_windows_go_first_and_few_of_them_are_open() {
    let mut state = State::default();
    // Two live windows, of a tick each, ending at the edge; older ones were missed.
    let planned = plan(&RULES, &tick(0, 100), &state);
    let live: Vec<(i64, i64)> = planned
        .iter()
        .filter(|one| one.urgency == Urgency::Live)
        .map(|one| (one.window.start(), one.window.end()))
        .collect();
    assert_eq!(live, [(45, 60), (30, 45)]);
    let missed = planned.iter().filter(|one| one.urgency == Urgency::Behind);
    assert_eq!(
        missed.map(|one| one.window).collect::<WindowSet>(),
        set(0, 30)
    );
    // While three are open more may come, with four none.
    state.live_open = 3;
    assert_eq!(plan(&RULES, &tick(0, 100), &state), planned);
    state.live_open = 4;
    assert_eq!(plan(&RULES, &tick(0, 100), &state), []);
    // A settled look is due two seconds late, and waits for a fresh one that is under way.
    state.covered.add(Look::Fresh, &set(0, 120));
    assert_eq!(plan(&RULES, &tick(0, 241), &state), []);
    let settled = plan(&RULES, &tick(0, 242), &state);
    assert_eq!(
        settled
            .iter()
            .map(|one| (one.window, one.look, one.urgency))
            .collect::<Vec<_>>(),
        [(
            Window::new(0, 120).unwrap(),
            Look::Settled,
            Urgency::Settling
        )]
    );
    state.in_flight.add(Look::Fresh, &set(60, 120));
    let settled = plan(&RULES, &tick(0, 242), &state);
    assert_eq!(
        settled.iter().map(|one| one.window).collect::<WindowSet>(),
        set(0, 60)
    );
}
