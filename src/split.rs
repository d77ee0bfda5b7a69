//! What to do with a window whose answer was not complete: ask for more, cut the window, or cut by duration.
//!
//! An answer of `limit` traces is an arbitrary subset (`Tempo` says nothing when it cuts), so it never counts; what it is
//! good for is an estimate of how many there are. Pure: [`crate::harvest`] asks, [`crate::store`] keeps the pieces.

use crate::{
    plan::density::{Histogram, MOST_PIECES, Piece, Sizing},
    window::{Window, WindowSet},
};

/// The share of the largest usable limit that a piece is filled to when its traces were counted. A search also brings
/// the traces that started before the piece, which a count does not see.
const FILL_COUNTED: f64 = 0.8;
/// The same when their number is only estimated.
const FILL_ESTIMATED: f64 = 0.6;
/// A band may hold this much more than it was to hold, for its border to stand at a whole millisecond.
const TOO_MUCH: f64 = 1.05;
/// Into how many pieces a window is cut when nothing is known but that it is too full.
const BLIND_PIECES: i64 = 4;

/// What is known about how many traces a window holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Density {
    /// The server counted.
    Counted(Histogram),
    /// Windows near it held this many traces per second.
    PerSecond(f64),
    /// Nothing is known.
    Unknown,
}

impl Density {
    /// Traces counted that start in a window; `None` unless they were counted.
    pub fn of(&self, window: Window) -> Option<u64> {
        match self {
            Self::Counted(histogram) => Some(histogram.count_in(window)),
            Self::PerSecond(_) | Self::Unknown => None,
        }
    }
}

/// What to do next about a window that was over the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Ask for the same window again, for this many.
    AskAgain {
        /// The limit to ask with.
        limit: u32,
    },
    /// Cut it into these, which tile it, in ascending order.
    Pieces(Vec<Piece>),
    /// It is one second: cut by trace duration.
    Bands,
}

/// An answer that was over the limit.
#[derive(Debug, Clone)]
pub struct OverLimit<'a> {
    /// The window asked for.
    pub window: Window,
    /// The limit asked with.
    pub limit: u32,
    /// The largest limit that can be asked with.
    pub ceiling: u32,
    /// What is known about the number of traces.
    pub density: &'a Density,
}

/// Decides what to do about a window that holds more than an answer may bring.
pub fn over_limit(over: &OverLimit<'_>) -> Decision {
    if over.limit < over.ceiling {
        let wanted = match over.density {
            // As for a first request: a little more than twice the count, which leaves room for what a count does not see. An
            // estimate below what was seen is no estimate.
            Density::Counted(histogram) => histogram.count_in(over.window).saturating_mul(9) / 4,
            Density::PerSecond(rate) => (rate * over.window.seconds() as f64 * 2.0) as u64,
            // One guess, and not several small ones: each answer that is cut is thrown away.
            Density::Unknown => u64::from(over.limit) * 10,
        };
        let wanted = wanted.max(u64::from(over.limit) * 2);
        if wanted <= u64::from(over.ceiling)
            || over.limit < over.ceiling / 2 && over.window.seconds() == 1
        {
            return Decision::AskAgain {
                limit: u32::try_from(wanted).unwrap_or(u32::MAX).min(over.ceiling),
            };
        }
    }
    if over.window.seconds() == 1 {
        return Decision::Bands;
    }
    Decision::Pieces(match over.density {
        Density::Counted(histogram) => cut_counted(over.window, histogram, over.ceiling),
        Density::PerSecond(rate) => {
            let expected = (rate * over.window.seconds() as f64).max(f64::from(over.limit) * 1.2);
            let pieces = (expected / (f64::from(over.ceiling) * FILL_ESTIMATED)).ceil() as i64;
            cut_evenly(over.window, pieces)
        }
        Density::Unknown => cut_evenly(over.window, BLIND_PIECES),
    })
}

/// Cuts a window whose answers take too long, or are too large in bytes whatever their number.
pub fn too_large(window: Window) -> Decision {
    if window.seconds() == 1 {
        Decision::Bands
    } else {
        Decision::Pieces(cut_evenly(window, BLIND_PIECES))
    }
}

/// Cuts a window that is longer than one search may be into as few pieces as will do.
pub fn too_long(window: Window, most_s: i64) -> Vec<Piece> {
    let most_s = most_s.max(1);
    cut_evenly(window, (window.seconds() + most_s - 1) / most_s)
}

/// Cuts a window that holds so many traces into pieces of equal length, as few as are likely to do.
pub fn counted_evenly(window: Window, expected: u64, ceiling: u64) -> Vec<Piece> {
    let pieces = expected as f64 / (ceiling.max(1) as f64 * FILL_COUNTED);
    cut_evenly(window, pieces.ceil() as i64)
}

/// Cuts a window into so many pieces of equal length, at least two.
pub fn evenly(window: Window, pieces: i64) -> Vec<Piece> {
    cut_evenly(window, pieces)
}

fn cut_evenly(window: Window, pieces: i64) -> Vec<Piece> {
    let pieces = window.cut_into(pieces.clamp(2, MOST_PIECES)).into_iter();
    pieces.map(Piece::uncounted).collect()
}

/// Pieces filled to [`FILL_COUNTED`] of the ceiling by what was counted. Always at least two: the answer was over the
/// limit, whatever the count says.
fn cut_counted(window: Window, histogram: &Histogram, ceiling: u32) -> Vec<Piece> {
    let sizing = Sizing {
        histogram: histogram.clone(),
        counted: WindowSet::from(window),
        budget: (f64::from(ceiling) * FILL_COUNTED).max(1.0) as u64,
        band_budget: None,
        mean_duration_s: 0.0,
        longest_s: i64::MAX,
        at_once: 1,
        worth_a_window: 1,
    };
    let pieces = sizing.cut(window);
    if pieces.len() < 2 {
        // More came than was counted: long traces, rootless ones. The count is no guide here.
        return cut_evenly(window, 2);
    }
    pieces
}

/// Cuts a window that is known to hold more than one answer may bring, before it is asked for; `None`: it is to be asked for
/// as it is.
pub fn over_full(window: Window, ceiling: u32, density: &Density) -> Option<Vec<Piece>> {
    if window.seconds() == 1 {
        return None;
    }
    match density {
        Density::Counted(histogram) => (histogram.count_in(window) >= u64::from(ceiling))
            .then(|| cut_counted(window, histogram, ceiling)),
        Density::PerSecond(rate) => {
            let expected = rate * window.seconds() as f64;
            (expected > f64::from(ceiling)).then(|| {
                let pieces = (expected / (f64::from(ceiling) * FILL_ESTIMATED)).ceil() as i64;
                cut_evenly(window, pieces)
            })
        }
        Density::Unknown => None,
    }
}

/// A slice of one second by trace duration, `[from_ns, to_ns)`; without an upper bound it takes all the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Band {
    /// Shortest duration in it, nanoseconds.
    pub from_ns: u64,
    /// First duration above it, nanoseconds.
    pub to_ns: Option<u64>,
}

impl Band {
    /// Every duration.
    pub const ALL: Self = Self {
        from_ns: 0,
        to_ns: None,
    };

    /// The band as a TraceQL spanset, or `None` if it takes every duration.
    pub fn traceql(self) -> Option<String> {
        match (self.from_ns, self.to_ns) {
            (0, None) => None,
            (0, Some(to)) => Some(format!("{{ trace:duration < {to}ns }}")),
            (from, None) => Some(format!("{{ trace:duration >= {from}ns }}")),
            (from, Some(to)) => Some(format!(
                "{{ trace:duration >= {from}ns && trace:duration < {to}ns }}"
            )),
        }
    }

    /// A narrower band that begins where this one does, given durations (whole milliseconds, in nanoseconds) that an
    /// over-full answer for it brought. `None` if it is a single nanosecond and cannot be narrowed.
    pub fn lower_part(self, sample_ns: &[u64], keep: f64) -> Option<Self> {
        let mut inside: Vec<u64> = sample_ns
            .iter()
            .copied()
            .filter(|&duration| {
                duration >= self.from_ns / 1_000_000 * 1_000_000
                    && self.to_ns.is_none_or(|to| duration < to)
            })
            .collect();
        inside.sort_unstable();
        let index = (inside.len() as f64 * keep.clamp(0.01, 0.9)) as usize;
        // A duration is known to the millisecond: a border on one keeps all of its traces on one side.
        let by_sample = inside
            .get(index)
            .map(|&duration| duration / 1_000_000 * 1_000_000)
            .filter(|&to| to > self.from_ns);
        let to_ns = by_sample.or_else(|| match self.to_ns {
            Some(to) => Some(self.from_ns + (to - self.from_ns) / 2),
            // All that is known lies in the first millisecond: the rest begins a millisecond on.
            None if !inside.is_empty() => Some((self.from_ns / 1_000_000 + 1) * 1_000_000),
            None => Some(self.from_ns.saturating_mul(2).max(1_000_000)),
        })?;
        (to_ns > self.from_ns && self.to_ns != Some(to_ns)).then_some(Self {
            from_ns: self.from_ns,
            to_ns: Some(to_ns),
        })
    }

    /// The same, but for a sample that shows how all that is in it is spread: its border is the whole millisecond that comes
    /// nearest to the share, and not above it by much.
    pub fn lower_share(self, sample_ns: &[u64], keep: f64) -> Option<Self> {
        let part = self.lower_part(sample_ns, keep)?;
        let inside = |to: u64| {
            let within =
                |&&d: &&u64| d >= self.from_ns && d < to && self.to_ns.is_none_or(|end| d < end);
            sample_ns.iter().filter(within).count() as f64
        };
        let wanted = keep * inside(u64::MAX);
        let next = part.to_ns? + 1_000_000;
        let (below, above) = (inside(next - 1_000_000), inside(next));
        let nearer = above - wanted < wanted - below && above <= wanted * TOO_MUCH;
        let to_ns = (nearer && self.to_ns.is_none_or(|end| next < end)).then_some(next);
        Some(Self {
            to_ns: to_ns.or(part.to_ns),
            ..part
        })
    }

    /// All that lies above it; `None` if nothing does.
    pub fn above(self) -> Option<Self> {
        self.to_ns.map(|to| Self {
            from_ns: to,
            to_ns: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, test_runner::TestCaseError};

    use super::*;
    use crate::plan::density::Step;

    fn window(start: i64, end: i64) -> Window {
        Window::new(start, end).unwrap()
    }

    proptest! {
        #[test]
        fn pieces_of_a_split_cover_it_exactly(
            start in 0i64..10_000, length in 2i64..4_000, step_s in 1i64..120, counts in prop::collection::vec(0u64..3_000, 0..80),
            limit in 1u32..5_000, kind in 0..3,
        ) {
            let whole = window(start, start + length);
            let histogram = Histogram { steps: (0i64..).zip(&counts).map(|(i, &count)| Step { start: start / step_s * step_s + i * step_s, seconds: step_s, count }).collect() };
            let density = match kind { 0 => Density::Counted(histogram), 1 => Density::PerSecond(counts.len() as f64), _ => Density::Unknown };
            match over_limit(&OverLimit { window: whole, limit, ceiling: limit, density: &density }) {
                Decision::Pieces(pieces) => {
                    prop_assert!(pieces.len() >= 2);
                    prop_assert_eq!(pieces[0].window.start(), whole.start());
                    prop_assert_eq!(pieces[pieces.len() - 1].window.end(), whole.end());
                    prop_assert!(pieces.windows(2).all(|pair| pair[0].window.end() == pair[1].window.start()));
                    if step_s == 1 && let Density::Counted(histogram) = &density {
                        for piece in pieces.iter().filter(|piece| piece.window.seconds() > 1) {
                            let counted = histogram.count_in(piece.window);
                            prop_assert!(counted <= u64::from(limit) || pieces.len() == 2, "{counted} in {}", piece.window);
                        }
                    }
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }

        #[test]
        fn bands_narrow_until_a_nanosecond_and_leave_no_hole(durations_ms in prop::collection::vec(0u64..5_000, 1..60), keep in 0.05f64..0.9) {
            let sample: Vec<u64> = durations_ms.iter().map(|ms| ms * 1_000_000).collect();
            let mut band = Band::ALL;
            let mut steps = 0;
            while let Some(part) = band.lower_part(&sample, keep) {
                prop_assert_eq!(part.from_ns, band.from_ns);
                prop_assert!(part.to_ns.unwrap() > part.from_ns && band.to_ns.is_none_or(|to| part.to_ns.unwrap() < to));
                prop_assert_eq!(part.above().unwrap().from_ns, part.to_ns.unwrap());
                band = part;
                steps += 1;
                prop_assert!(steps < 200);
            }
            prop_assert_eq!(band.to_ns, Some(band.from_ns + 1));
        }
    }

    const MS: u64 = 1_000_000;

    fn counted(start: i64, counts: &[u64]) -> Histogram {
        let steps = (start..).zip(counts);
        let steps = steps.map(|(start, &count)| Step {
            start,
            seconds: 1,
            count,
        });
        Histogram {
            steps: steps.collect(),
        }
    }

    /// The fewest pieces that leave so great a share of the ceiling to each, two at least.
    fn fewest(expected: f64, share: f64, ceiling: u32) -> usize {
        let room = share * f64::from(ceiling);
        let mut pieces =
            (2..).skip_while(|&pieces| f64::from(pieces) * room < expected * 0.999_999_999);
        pieces.next().unwrap() as usize
    }

    proptest! {
        #[test]
        fn estimates_cut_into_as_few_pieces_as_will_do(length in 3_000i64..9_000, rate in 0.1f64..300.0, limit in 100u32..2_000, most_s in 10i64..3_000) {
            let whole = window(0, length);
            let expected = rate * length as f64;
            let density = Density::PerSecond(rate);
            let Decision::Pieces(pieces) = over_limit(&OverLimit { window: whole, limit, ceiling: limit, density: &density }) else {
                return Err(TestCaseError::fail("not cut"));
            };
            // An answer was over the limit: there are more than that, whatever is estimated.
            let wanted = expected.max(f64::from(limit) * 1.2);
            let most = usize::try_from(length.min(MOST_PIECES)).unwrap();
            prop_assert_eq!(pieces.len(), fewest(wanted, 0.6, limit).min(most));
            match over_full(whole, limit, &density) {
                Some(pieces) => prop_assert_eq!(pieces.len(), fewest(expected, 0.6, limit).min(most)),
                None => prop_assert!(expected <= f64::from(limit)),
            }
            let pieces = counted_evenly(whole, expected as u64, limit.into());
            prop_assert_eq!(pieces.len(), fewest(expected.floor(), 0.8, limit).min(most));
            let pieces = too_long(whole, most_s);
            prop_assert!(pieces.iter().all(|piece| piece.window.seconds() <= most_s));
            prop_assert!(pieces.len() == 2 || (pieces.len() as i64 - 1) * most_s < length);
            prop_assert_eq!(pieces.iter().map(|piece| piece.window.seconds()).sum::<i64>(), length);
            prop_assert_eq!(evenly(whole, most_s).len() as i64, most_s.max(2));
        }

        #[test]
        fn counted_pieces_leave_room_for_what_a_count_does_not_see(counts in prop::collection::vec(0u64..500, 2..60), limit in 700u32..5_000) {
            let whole = window(0, counts.len() as i64);
            let histogram = counted(0, &counts);
            let total: u64 = counts.iter().sum();
            let cut = over_full(whole, limit, &Density::Counted(histogram.clone()));
            prop_assert_eq!(cut.is_some(), total >= limit.into());
            for piece in cut.into_iter().flatten() {
                prop_assert_eq!(piece.expected, Some(histogram.count_in(piece.window)));
                prop_assert!(piece.expected <= Some(u64::from(limit) * 8 / 10), "{piece:?}");
            }
        }

        /// Below the border of the lower part lies no more than the share asked for, and a millisecond further on more.
        #[test]
        fn a_lower_part_keeps_the_share_asked_for(
            from_ns in prop_oneof![Just(0u64), 0u64..40 * MS, (0u64..40).prop_map(|ms| ms * MS)],
            length_ns in prop::option::of(prop_oneof![1u64..30 * MS, (1u64..30).prop_map(|ms| ms * MS)]),
            sample_ms in prop_oneof![3 => prop::collection::vec(0u64..60, 0..40), 1 => prop::collection::vec(Just(u64::MAX), 1..5)],
            keep in 0.05f64..0.9,
        ) {
            // Now and then all are in the band's first millisecond.
            let sample_ms: Vec<u64> = sample_ms.into_iter().map(|ms: u64| if ms == u64::MAX { from_ns / MS } else { ms }).collect();
            let band = Band { from_ns, to_ns: length_ns.map(|length| from_ns + length) };
            let sample: Vec<u64> = sample_ms.iter().map(|ms| ms * MS).collect();
            // Durations are cut off to the millisecond: one that begins in the first may be inside.
            let inside: Vec<u64> = sample.iter().copied().filter(|&d| d / MS >= from_ns / MS && band.to_ns.is_none_or(|to| d < to)).collect();
            let below = |border: u64| inside.iter().filter(|&&d| d < border).count();
            let kept = (inside.len() as f64 * keep) as usize;
            let by_sample = (0..70).map(|ms| ms * MS).find(|&border| {
                border > from_ns && band.to_ns.is_none_or(|to| border < to) && below(border) <= kept && below(border + MS) > kept
            });
            let expected = by_sample.or(match band.to_ns {
                // Nothing to go by: half of it, unless it cannot be halved.
                Some(to) => Some(from_ns + (to - from_ns) / 2).filter(|&border| border > from_ns),
                None if inside.is_empty() => Some((2 * from_ns).max(MS)),
                None => Some((from_ns / MS + 1) * MS),
            });
            let part = band.lower_part(&sample, keep);
            prop_assert_eq!(part, expected.map(|to| Band { from_ns, to_ns: Some(to) }));

            let Some(Band { to_ns: Some(lower), .. }) = part else { return Ok(()) };
            let count = |to: u64| sample.iter().filter(|&&d| d >= from_ns && d < to && band.to_ns.is_none_or(|end| d < end)).count() as f64;
            let (wanted, further) = (keep * count(u64::MAX), lower + MS);
            let is_nearer = count(further) - wanted < wanted - count(lower);
            let may_be = count(further) <= wanted * 1.05 && band.to_ns.is_none_or(|to| further < to);
            let share = if is_nearer && may_be { further } else { lower };
            prop_assert_eq!(band.lower_share(&sample, keep), Some(Band { from_ns, to_ns: Some(share) }));
        }
    }

    #[test]
    fn a_lower_share_ends_at_the_nearer_millisecond_inside_the_band() {
        let border = |to_ms: Option<u64>, by_ms: &[usize], keep| {
            let sample = by_ms.iter().enumerate();
            let sample = sample.flat_map(|(ms, &times)| vec![ms as u64 * MS; times]);
            let band = Band {
                from_ns: 0,
                to_ns: to_ms.map(|ms| ms * MS),
            };
            let part = band.lower_share(&sample.collect::<Vec<u64>>(), keep);
            part.unwrap().to_ns.unwrap() / MS
        };
        // 50 lie below the first millisecond and 53 below the second; 50.5 are wanted.
        assert_eq!(border(None, &[50, 3, 47], 0.505), 1);
        // Of 500 and 503 the latter is nearer to 501.9.
        assert_eq!(border(None, &[500, 3, 497], 0.501_9), 2);
        // It would be nearer here, but is the band's own end.
        assert_eq!(border(Some(2), &[1, 10], 0.96), 1);
        assert_eq!(border(Some(3), &[1, 10], 0.96), 2);
    }

    #[test]
    fn as_much_is_asked_for_as_is_likely_to_do() {
        let unknown = Density::Unknown;
        let of_count = |count| Density::Counted(counted(0, &[count]));
        let per_second = Density::PerSecond(10.0);
        let cut = None;
        for (seconds, limit, density, expected) in [
            // A count, a little more than twice; a rate, twice; without either ten times as many as before.
            (3_600, 10_000, &of_count(44_444), Some(99_999)),
            (3_600, 10_000, &of_count(44_445), cut),
            (4_000, 10_000, &per_second, Some(80_000)),
            (5_000, 10_000, &per_second, Some(100_000)),
            (5_001, 10_000, &per_second, cut),
            (3_600, 9_999, &unknown, Some(99_990)),
            (3_600, 10_001, &unknown, cut),
            // An estimate below what was seen is none: twice that.
            (3_600, 10_000, &of_count(100), Some(20_000)),
            (3_600, 50_000, &of_count(100), Some(100_000)),
            (3_600, 50_001, &of_count(100), cut),
            (10, 10_000, &per_second, Some(20_000)),
            // All that may be asked for, for one second.
            (1, 49_999, &unknown, Some(100_000)),
            (2, 49_999, &unknown, cut),
            (1, 50_000, &unknown, cut),
            (1, 100_000, &unknown, cut),
        ] {
            let over = OverLimit {
                window: window(0, seconds),
                limit,
                ceiling: 100_000,
                density,
            };
            match over_limit(&over) {
                Decision::AskAgain { limit } => assert_eq!(Some(limit), expected, "{over:?}"),
                Decision::Pieces(_) => assert!(expected.is_none() && seconds > 1, "{over:?}"),
                Decision::Bands => assert!(expected.is_none() && seconds == 1, "{over:?}"),
            }
        }
    }

    #[test]
    fn what_was_counted_is_cut_where_the_traces_are() {
        let histogram = counted(0, &[700, 0, 0, 0, 0, 0, 0, 0, 0, 700]);
        let density = Density::Counted(histogram);
        assert_eq!(density.of(window(5, 10)), Some(700));
        assert_eq!(Density::PerSecond(9.0).of(window(5, 10)), None);
        assert_eq!(Density::Unknown.of(window(5, 10)), None);
        let (before, after) = (window(0, 1), window(1, 10));
        let expected = Some(700);
        let pieces = [before, after].map(|window| Piece { window, expected });
        let cut = over_full(window(0, 10), 1_000, &density);
        assert_eq!(cut.as_deref(), Some(&pieces[..]));
        // One second is not cut by time, and nothing unknown before it was asked for.
        assert_eq!(over_full(window(9, 10), 600, &density), None);
        assert_eq!(over_full(window(0, 10), 600, &Density::Unknown), None);
        let per_second = Density::PerSecond(10.0);
        assert_eq!(over_full(window(0, 100), 1_000, &per_second), None);
        assert!(over_full(window(0, 101), 1_000, &per_second).is_some());
        assert_eq!(too_long(window(0, 100), 25).len(), 4);
        assert_eq!(too_long(window(0, 101), 25).len(), 5);
    }

    #[test]
    fn a_limit_that_may_be_raised_is_raised_before_anything_is_cut() {
        let decision = over_limit(&OverLimit {
            window: window(0, 3600),
            limit: 10_000,
            ceiling: 100_000,
            density: &Density::Counted(Histogram {
                steps: vec![Step {
                    start: 0,
                    seconds: 3600,
                    count: 40_000,
                }],
            }),
        });
        assert_eq!(decision, Decision::AskAgain { limit: 90_000 });
    }

    #[test]
    fn one_full_second_is_cut_by_duration() {
        let over = OverLimit {
            window: window(7, 8),
            limit: 500,
            ceiling: 500,
            density: &Density::Unknown,
        };
        assert_eq!(over_limit(&over), Decision::Bands);
        assert_eq!(too_large(window(7, 8)), Decision::Bands);
    }

    #[test]
    fn bands_say_it_in_traceql() {
        let band = Band {
            from_ns: 80_000_000,
            to_ns: Some(90_000_000),
        };
        assert_eq!(
            band.traceql().unwrap(),
            "{ trace:duration >= 80000000ns && trace:duration < 90000000ns }"
        );
        assert_eq!(
            band.above().unwrap().traceql().unwrap(),
            "{ trace:duration >= 90000000ns }"
        );
        assert_eq!(Band::ALL.traceql(), None);
    }
}
