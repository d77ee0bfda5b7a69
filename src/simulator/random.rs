//! A small seeded random source, so that a population, a cut answer and a fault repeat exactly for one seed.
//!
//! SplitMix64 (Steele, Lea and Flood, 2014): eight bytes of state, so cheap that every trace can have a source of its own. Not for
//! secrets.

/// A stream of pseudo-random numbers that depends on nothing but its seed.
#[derive(Debug, Clone)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// The stream that belongs to `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The stream that belongs to a trace, whatever population it is in.
    pub(super) fn of_trace(trace_id: &[u8; 16]) -> Self {
        let (high, low) = trace_id.split_at(8);
        let fold = |half: &[u8]| {
            half.iter()
                .fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte))
        };
        Self::new(fold(high) ^ fold(low).rotate_left(32))
    }

    /// The next 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..bound`, or 0 when `bound` is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        // The bias of a plain modulo is 2^-40 at the sizes used here.
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// An index into something of length `length`, or 0 when it is empty.
    pub(super) fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// A number in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A log-normal number with this median and this sigma.
    pub(super) fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        // Box-Muller; `1 - unit` keeps the logarithm's argument above zero.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.unit();
        median * (sigma * radius * angle.cos()).exp()
    }

    /// A random identifier of `N` bytes.
    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_be_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        bytes
    }
}
