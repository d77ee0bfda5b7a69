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
            .filter(|&to| to > self.from_ns && self.to_ns.is_none_or(|old| to < old));
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
    use proptest::prelude::*;

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
