//! Windows cut by what was counted: evenly, as full as may be, or a few seconds of them to be fetched in bands.

use super::{Histogram, LONGEST_IN_BANDS_S, MOST_BANDS, MOST_PIECES, Piece};
use crate::window::{Window, WindowSet};

/// A stretch that needs no more windows than this is cut into windows of equal content; a longer one is filled window by
/// window, which costs the fewest requests.
const EVENLY_UP_TO: u64 = 16;
/// Windows that are filled to this share of what they may hold are not fetched in bands: little could be won.
const FULL_ENOUGH: f64 = 0.8;
/// Bands have to bring so many times more a request than whole windows do.
const WORTH_BANDS: f64 = 1.08;
/// And more of them have to bring so many times more than fewer: the fewer, the better is known where to cut.
const WORTH_A_BAND: f64 = 1.02;

/// How windows are to be cut by what was counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizing {
    /// What was counted.
    pub histogram: Histogram,
    /// What the counts are about: elsewhere nothing is known.
    pub counted: WindowSet,
    /// Traces that one window may hold, those that start before it included.
    pub budget: u64,
    /// Traces that one band of a window may hold; `None`: windows are not to be fetched in bands.
    pub band_budget: Option<u64>,
    /// How long a trace lasts on average, seconds: so many of a second's traces reach into the next.
    pub mean_duration_s: f64,
    /// The longest that a window may be, seconds.
    pub longest_s: i64,
    /// As many windows should there be, if there is enough to fetch for each.
    pub at_once: u64,
    /// What is enough for a window of its own.
    pub worth_a_window: u64,
}

impl Sizing {
    /// Cuts a stretch, all of which was counted, into windows that tile it, in ascending order.
    pub fn cut(&self, stretch: Window) -> Vec<Piece> {
        let days = stretch.cut_at_edges(self.longest_s.max(1)).into_iter();
        days.flat_map(|day| self.cut_one(day)).collect()
    }

    fn cut_one(&self, stretch: Window) -> Vec<Piece> {
        let total = self.histogram.count_in(stretch);
        let budget = self.budget.max(1);
        let least = total.div_ceil(budget);
        let at_once = self.at_once.min(total / self.worth_a_window.max(1));
        let evenly = least.max(at_once).max(1);
        if least <= EVENLY_UP_TO {
            // One more, should the steps be too coarse for the number that would just do.
            for pieces in [evenly, evenly + 1] {
                let pieces = self.cut_evenly(stretch, total.div_ceil(pieces).max(1));
                let fits = |piece: &Piece| {
                    piece
                        .expected
                        .is_some_and(|n| n + self.reaching_into(piece.window) <= budget)
                };
                if pieces.iter().all(fits) {
                    let filled = self.fill(stretch);
                    // Whole seconds may fit badly; windows that are to be fetched at once are no fewer for that.
                    return if filled.len() as u64 >= at_once
                        && self.requests(&filled) < pieces.len() as u64
                    {
                        filled
                    } else {
                        pieces
                    };
                }
            }
        }
        self.fill(stretch)
    }

    pub(super) fn requests(&self, pieces: &[Piece]) -> u64 {
        let requests = |piece: &Piece| match (piece.expected, self.band_budget) {
            (Some(expected), Some(band)) if expected > self.budget => {
                expected.div_ceil(band.max(1))
            }
            _ => 1,
        };
        pieces.iter().map(requests).sum()
    }

    /// The window from here that is best fetched in bands, where whole seconds would leave much of each answer empty: as many
    /// seconds as make for the most new traces a request. `None`: a window of its own is as good.
    pub(super) fn in_bands(&self, from: i64, stretch: Window) -> Option<Piece> {
        let band = self.band_budget?;
        let ahead = Window::new(from, stretch.end().min(from + LONGEST_IN_BANDS_S))?;
        let reaching = self.reaching_into(ahead);
        let (mut plain, mut best) = (0.0, None::<(f64, Piece)>);
        let (mut end, mut total) = (from, 0);
        for (step, count) in self.histogram.within(ahead) {
            // Second by second without a hole: elsewhere there is room, or no telling how much.
            if step.seconds() != 1 || step.start() != end {
                break;
            }
            (end, total) = (step.end(), total + count);
            let held = total + reaching;
            if held <= self.budget {
                plain = total as f64;
                continue;
            }
            let bands = held.div_ceil(band.max(1));
            if bands > MOST_BANDS {
                break;
            }
            let a_request = total as f64 / bands as f64;
            if bands > 1 && best.is_none_or(|(most, _)| a_request > most * WORTH_A_BAND) {
                let window = Window::new(from, end)?;
                let expected = Some(held);
                best = Some((a_request, Piece { window, expected }));
            }
        }
        if plain >= FULL_ENOUGH * self.budget as f64 {
            return None;
        }
        best.filter(|(a_request, piece)| {
            piece.window.seconds() > 1 && *a_request > plain * WORTH_BANDS
        })
        .map(|(_, piece)| piece)
    }

    /// Traces that started before a window and are expected to reach into it.
    pub(super) fn reaching_into(&self, window: Window) -> u64 {
        let before = Window::new(window.start() - 1, window.start());
        let near = [before, Window::new(window.start(), window.start() + 1)];
        let most = near
            .into_iter()
            .flatten()
            .map(|second| self.histogram.count_in(second))
            .max();
        (most.unwrap_or(0) as f64 * self.mean_duration_s).ceil() as u64
    }

    /// Windows of about so many traces each, cut at the nearest step's edge.
    fn cut_evenly(&self, stretch: Window, each: u64) -> Vec<Piece> {
        let mut cutter = Cutter::new(stretch);
        let mut passed = 0;
        for (step, count) in self.histogram.within(stretch) {
            let goal = each * (cutter.pieces.len() as u64 + 1);
            if passed > 0 && passed + count / 2 >= goal {
                cutter.close(step.start());
            }
            cutter.filled += count;
            passed += count;
        }
        cutter.finish()
    }

    /// Windows as full as may be.
    pub(super) fn fill(&self, stretch: Window) -> Vec<Piece> {
        let budget = self.budget.max(1);
        let mut cutter = Cutter::new(stretch);
        // However many reach into it, a window brings something of its own.
        let room_from = |step| {
            let reaching = self.reaching_into(step);
            budget.saturating_sub(reaching).max(budget / 4).max(1)
        };
        let mut room = room_from(stretch);
        for (step, count) in self.histogram.within(stretch) {
            if step.start() < cutter.start {
                continue;
            }
            if cutter.filled + count > room && cutter.start < step.start() {
                cutter.close(step.start());
                room = room_from(step);
            }
            if cutter.start == step.start()
                && let Some(piece) = self.in_bands(step.start(), stretch)
            {
                cutter.start = piece.window.end();
                cutter.pieces.push(piece);
                room = room_from(Window::new(cutter.start, cutter.start + 1).unwrap_or(step));
                continue;
            }
            if count <= room {
                cutter.filled += count;
                continue;
            }
            // Fuller than a window may be. Finer was not counted: cut evenly. A second stays as it is.
            let parts = i64::try_from(count.div_ceil(room)).unwrap_or(i64::MAX);
            let parts = step.cut_into(parts.min(step.seconds()).min(MOST_PIECES));
            let expected = (step.seconds() == 1).then_some(count);
            cutter
                .pieces
                .extend(parts.into_iter().map(|window| Piece { window, expected }));
            cutter.start = step.end();
            room = room_from(Window::new(step.end(), step.end() + 1).unwrap_or(step));
        }
        cutter.finish()
    }
}

/// A stretch that is being cut.
struct Cutter {
    pieces: Vec<Piece>,
    start: i64,
    filled: u64,
    end: i64,
}

impl Cutter {
    fn new(stretch: Window) -> Self {
        Self {
            pieces: Vec::new(),
            start: stretch.start(),
            filled: 0,
            end: stretch.end(),
        }
    }

    fn close(&mut self, at: i64) {
        let expected = Some(self.filled);
        self.pieces
            .extend(Window::new(self.start, at).map(|window| Piece { window, expected }));
        (self.start, self.filled) = (at, 0);
    }

    fn finish(mut self) -> Vec<Piece> {
        self.close(self.end);
        self.pieces
    }
}
