//! Windows tile what was cut, none is over-full, and bands are used where they are worth it.

use proptest::prelude::*;

use super::*;
use crate::window::Window;

fn window(start: i64, end: i64) -> Window {
    Window::new(start, end).unwrap()
}

fn every(seconds: i64, counts: &[u64]) -> Histogram {
    let steps = (0i64..).zip(counts).filter(|(_, n)| **n > 0);
    Histogram {
        steps: steps
            .map(|(i, &count)| Step {
                start: i * seconds,
                seconds,
                count,
            })
            .collect(),
    }
}

fn sizing(histogram: Histogram, budget: u64) -> Sizing {
    Sizing {
        histogram,
        counted: window(0, 1_000_000).into(),
        budget,
        band_budget: None,
        mean_duration_s: 0.0,
        longest_s: 86_400,
        at_once: 1,
        worth_a_window: 10_000,
    }
}

proptest! {
    #[test]
    fn windows_tile_the_stretch_and_none_is_over_full(
        start in 0i64..500, length in 1i64..2_000, step_s in 1i64..60, counts in prop::collection::vec(0u64..300, 0..200),
        budget in 300u64..5_000, longest_s in 50i64..5_000, at_once in 1u64..6, mean in 0.0f64..0.5, in_bands: bool,
    ) {
        let stretch = window(start, start + length);
        let band_budget = in_bands.then_some(budget * 9 / 10);
        let sizing = Sizing { longest_s, at_once, worth_a_window: 100, mean_duration_s: mean, band_budget, ..sizing(every(step_s, &counts), budget) };
        let pieces = sizing.cut(stretch);
        prop_assert_eq!(pieces[0].window.start(), stretch.start());
        prop_assert_eq!(pieces[pieces.len() - 1].window.end(), stretch.end());
        prop_assert!(pieces.windows(2).all(|pair| pair[0].window.end() == pair[1].window.start()));
        for piece in &pieces {
            prop_assert!(piece.window.seconds() <= longest_s);
            let most = match band_budget {
                Some(band) if piece.window.seconds() > 1 => MOST_BANDS * band,
                _ => budget,
            };
            prop_assert!(piece.expected.is_none_or(|n| n <= most), "{piece:?}");
            prop_assert!(piece.expected.is_none_or(|n| n <= budget) || piece.window.seconds() <= LONGEST_IN_BANDS_S, "{piece:?}");
        }
    }
}

proptest! {
    #[test]
    fn counts_of_parts_add_up(start in 0i64..60, lengths in prop::collection::vec(1i64..40, 1..6), step_s in 1i64..20, counts in prop::collection::vec(0u64..300, 0..20)) {
        let histogram = every(step_s, &counts);
        let whole = window(start, start + lengths.iter().sum::<i64>());
        let mut from = start;
        let mut parts = 0.0;
        for length in &lengths {
            let part = window(from, from + length);
            // A second holds its share of the step that it lies in.
            let share = |second: i64| counts.get((second / step_s) as usize).map_or(0.0, |&n| n as f64 / step_s as f64);
            let expected: f64 = (part.start()..part.end()).map(share).sum();
            prop_assert!((histogram.count_in(part) as f64 - expected).abs() <= 1.5 + length.div_euclid(step_s) as f64 * 0.5);
            parts += expected;
            from += length;
        }
        prop_assert!((histogram.count_in(whole) as f64 - parts).abs() <= 3.0);
    }

    /// Windows by count take no more requests than windows that are each filled as far as may be.
    #[test]
    fn even_windows_cost_no_more_than_full_ones(
        step_s in 1i64..20, counts in prop::collection::vec(0u64..300, 1..120), budget in 300u64..5_000, mean in 0.0f64..0.5, in_bands: bool,
    ) {
        let band_budget = in_bands.then_some(budget * 9 / 10);
        let sizing = Sizing { mean_duration_s: mean, band_budget, ..sizing(every(step_s, &counts), budget) };
        let stretch = window(0, step_s * counts.len() as i64);
        let (cut, full) = (sizing.cut(stretch), sizing.fill(stretch));
        prop_assert!(sizing.requests(&cut) <= sizing.requests(&full));
        // A window that could have taken the next second or step as well is none that is full.
        if band_budget.is_none() && mean == 0.0 {
            for pair in full.windows(2) {
                let next = window(pair[1].window.start(), (pair[1].window.start() + step_s).min(stretch.end()));
                prop_assert!(pair[0].expected.unwrap() + sizing.histogram.count_in(next) > budget);
            }
        }
    }

    /// As many windows as are needed, or as may be asked for at once if there is enough for each; all about as full.
    #[test]
    fn even_windows_are_as_many_as_are_wanted(rate in 1u64..50, seconds in 200i64..2_000, budget in 1_000u64..20_000, at_once in 1u64..8, worth in 500u64..5_000) {
        let total = rate * seconds as u64;
        let wanted = total.div_ceil(budget).max(at_once.min(total / worth)).max(1);
        prop_assume!(wanted <= 16 && wanted * rate * 4 < budget);
        let sizing = Sizing { at_once, worth_a_window: worth, ..sizing(every(1, &vec![rate; seconds as usize]), budget) };
        let pieces = sizing.cut(window(0, seconds));
        let number = pieces.len() as u64;
        prop_assert!(number == wanted || number == wanted + 1, "{number}, not {wanted}");
        let held = || pieces.iter().filter_map(|piece| piece.expected);
        prop_assert_eq!(held().sum::<u64>(), total);
        prop_assert!(held().max().unwrap() - held().min().unwrap() <= (number + 2) * rate, "{pieces:?}");
    }

    #[test]
    fn bands_are_worth_it_whatever_the_budget(rate in 50u64..900, budget in 500u64..1_500, mean in 0.0f64..1.0) {
        bands_are_worth_it(rate, budget, mean);
    }
}

/// The seconds that are fetched in bands bring more new traces a request than whole seconds could, and hardly less than any others.
fn bands_are_worth_it(rate: u64, budget: u64, mean: f64) {
    let band = budget * 9 / 10;
    let sizing = Sizing {
        mean_duration_s: mean,
        band_budget: Some(band),
        ..sizing(every(1, &[rate; 100]), budget)
    };
    let reaching = (rate as f64 * mean).ceil() as u64;
    assert_eq!(sizing.reaching_into(window(10, 20)), reaching);
    let plain = (1..=60)
        .map(|seconds| seconds * rate)
        .take_while(|new| new + reaching <= budget)
        .last()
        .unwrap_or(0) as f64;
    let in_bands = |seconds: u64| {
        let bands = (seconds * rate + reaching).div_ceil(band);
        (bands, (seconds * rate) as f64 / bands as f64)
    };
    let over = |seconds: &u64| {
        seconds * rate + reaching > budget && (2..=MOST_BANDS).contains(&in_bands(*seconds).0)
    };
    // The fewer seconds, the better: more have to bring 2 % more.
    let best = (1..=60).filter(over).fold(None, |best, seconds| {
        let (_, a_request) = in_bands(seconds);
        match best {
            Some((_, most)) if a_request <= most * 1.02 => best,
            _ => Some((seconds, a_request)),
        }
    });
    // One second is a window of its own; others are to bring 8 % more than whole seconds, where these leave a fifth of the room.
    let expected = best.filter(|&(seconds, a_request)| {
        plain < 0.8 * budget as f64 && seconds > 1 && a_request > plain * 1.08
    });
    let found = sizing.in_bands(10, window(0, 100));
    let seconds = found.map(|piece| piece.window.seconds() as u64);
    assert_eq!(
        seconds,
        expected.map(|(seconds, _)| seconds),
        "{rate}/s, {mean} s, {budget}"
    );
    if let (Some(piece), Some(seconds)) = (found, seconds) {
        assert_eq!(piece.window.start(), 10);
        assert_eq!(piece.expected, Some(seconds * rate + reaching));
    }
}

#[test]
fn bands_are_worth_it_at_any_rate() {
    for rate in (50..900).step_by(3) {
        for mean in [0.0, 0.1, 0.25, 1.0] {
            bands_are_worth_it(rate, 970, mean);
        }
    }
}

#[test]
fn even_windows_end_at_the_nearest_step_and_none_is_empty() {
    let at_once = |histogram, at_once| Sizing {
        at_once,
        worth_a_window: 1,
        ..sizing(histogram, 1_000)
    };
    let two = at_once(every(1, &[10; 5]), 2).cut(window(0, 5));
    assert_eq!(two[0].window, window(0, 2));
    let mut counts = vec![0; 100];
    (counts[50], counts[60]) = (100, 1);
    let sparse = at_once(every(1, &counts), 4).cut(window(0, 100));
    assert!(
        sparse.iter().all(|piece| piece.expected > Some(0)),
        "{sparse:?}"
    );
}

#[test]
fn full_windows_are_filled_to_the_last_trace() {
    let mut sizing = sizing(every(1, &[100; 200]), 1_000);
    assert_eq!(sizing.cut(window(0, 200)).len(), 20);
    // However many reach into one, it brings a quarter of what it may hold.
    sizing.mean_duration_s = 20.0;
    assert_eq!(sizing.cut(window(0, 200)).len(), 100);
}

#[test]
fn what_is_over_full_costs_a_request_for_each_band() {
    let mut sizing = sizing(Histogram::default(), 100);
    let piece = |expected| Piece {
        window: window(0, 10),
        expected,
    };
    let pieces = [
        piece(None),
        piece(Some(100)),
        piece(Some(101)),
        piece(Some(181)),
    ];
    assert_eq!(sizing.requests(&pieces), 4);
    sizing.band_budget = Some(90);
    assert_eq!(sizing.requests(&pieces), 1 + 1 + 2 + 3);
    assert_eq!(sizing.requests(&[]), 0);
}

#[test]
fn what_reaches_into_a_window_is_judged_by_the_seconds_at_its_start() {
    let mut sizing = sizing(every(1, &[5, 7, 2, 100]), 1_000);
    sizing.mean_duration_s = 0.5;
    let reaching = |start, end| sizing.reaching_into(window(start, end));
    assert_eq!(reaching(0, 1), 3);
    assert_eq!(reaching(1, 3), 4);
    assert_eq!(reaching(2, 3), 4);
    assert_eq!(reaching(9, 10), 0);
}

#[test]
fn seconds_without_counts_beside_each_other_are_not_put_into_bands() {
    let mut counts = vec![350; 30];
    let mut sizing = sizing(every(1, &counts), 970);
    sizing.band_budget = Some(900);
    let piece = sizing.in_bands(0, window(0, 30)).unwrap();
    assert_eq!((piece.window, piece.expected), (window(0, 5), Some(1_750)));
    // After a hole nothing is known, and three seconds are not worth it.
    counts[3] = 0;
    sizing.histogram = every(1, &counts);
    assert_eq!(sizing.in_bands(0, window(0, 30)), None);
    // And in coarser steps nothing is known of single seconds.
    sizing.histogram = every(2, &[700; 15]);
    assert_eq!(sizing.in_bands(0, window(0, 30)), None);
}

#[test]
fn sparse_hours_are_fetched_together_and_dense_ones_are_cut() {
    let mut counts = vec![10; 24];
    counts[12] = 90_000;
    let sizing = sizing(every(3_600, &counts), 40_000);
    let pieces = sizing.cut(window(0, 86_400));
    assert!(pieces.len() <= 5, "{pieces:?}");
    assert_eq!(pieces[0].window, window(0, 43_200));
    assert_eq!(pieces[0].expected, Some(120));
}

#[test]
fn what_reaches_into_a_window_takes_its_place() {
    // 400 a second and a limit of 1000: two seconds a window, and not three.
    let mut sizing = sizing(every(1, &[400; 120]), 1_000);
    sizing.mean_duration_s = 0.15;
    let pieces = sizing.cut(window(0, 120));
    assert_eq!(pieces.len(), 60);
    // At 245 a second four fill the limit so that nothing may reach into them: three.
    sizing.histogram = every(1, &[245; 120]);
    assert_eq!(sizing.cut(window(0, 120)).len(), 40);
    sizing.mean_duration_s = 0.0;
    assert_eq!(sizing.cut(window(0, 120)).len(), 30);
}

#[test]
fn where_whole_seconds_fit_badly_a_few_are_fetched_in_bands() {
    for (rate, mean) in (100..400)
        .step_by(7)
        .flat_map(|rate| [0.0, 0.1, 0.25, 1.0].map(|m| (rate, m)))
    {
        let mut sizing = sizing(every(1, &[rate; 600]), 970);
        (sizing.mean_duration_s, sizing.band_budget) = (mean, Some(900));
        let pieces = sizing.cut(window(0, 600));
        let requests = sizing.requests(&pieces) as f64;
        let ratio = requests / (600.0 * rate as f64 / 1_000.0);
        assert!(ratio < 1.32, "{rate}/s, {mean} s: {ratio}");
    }
}

#[test]
fn a_full_second_stays_one_window() {
    let pieces = sizing(every(1, &[10, 5_000, 0, 0, 10]), 1_000).cut(window(0, 5));
    let pieces: Vec<_> = pieces
        .iter()
        .map(|piece| (piece.window, piece.expected))
        .collect();
    let (before, full, after) = (window(0, 1), window(1, 2), window(2, 5));
    assert_eq!(
        pieces,
        [(before, Some(10)), (full, Some(5_000)), (after, Some(10))]
    );
}

#[test]
fn what_was_counted_finely_takes_the_place_of_what_was_not() {
    let mut histogram = every(10, &[100, 200, 300]);
    let finer = Histogram {
        steps: (10..20)
            .map(|start| Step {
                start,
                seconds: 1,
                count: 20,
            })
            .collect(),
    };
    histogram.refine(finer, window(10, 20));
    assert_eq!(histogram.steps.len(), 12);
    assert_eq!(histogram.count_in(window(0, 30)), 600);
    assert_eq!(histogram.count_in(window(12, 14)), 40);
    assert_eq!(histogram.count_in(window(20, 25)), 150);
}
