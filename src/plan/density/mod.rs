//! How many traces a stretch holds (`histogram`), and windows cut so that each holds about as many as one answer should bring
//! (`sizing`).
//!
//! What the server counts says where windows are to be cut and how much to ask for, never what is complete. Pure:
//! [`crate::harvest::survey`] has it counted.

use crate::window::Window;

mod histogram;
mod sizing;
#[cfg(test)]
mod tests;

pub use self::histogram::{Histogram, Step};
pub use self::sizing::Sizing;

/// A window is never cut into more pieces than this at once.
pub const MOST_PIECES: i64 = 4_096;
/// A window that is fetched in bands of trace duration has at most so many.
pub const MOST_BANDS: u64 = 6;
/// And it is no longer than this, seconds: all of it is one worker's, and asked for again if that dies.
pub const LONGEST_IN_BANDS_S: i64 = 60;

/// A window, and what it is expected to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Its span.
    pub window: Window,
    /// How many traces the server counted that start in it, and for one that is to be fetched in bands also those that are
    /// likely to reach into it; `None` if that is only estimated, or unknown.
    pub expected: Option<u64>,
}

impl Piece {
    /// A window of which nothing is known.
    pub fn uncounted(window: Window) -> Self {
        Self {
            window,
            expected: None,
        }
    }
}
