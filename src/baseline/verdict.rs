//! Whether a duration is normal: held against the narrowest baseline that has enough samples.

use std::collections::BTreeMap;

use super::{
    figures::Figures,
    sketch::{Counts, ERROR, Sketch},
    slot::Slot,
};

/// Beyond so great a share of the samples, on either side, and so many deviations from the median, a duration is not normal.
const TAIL: f64 = 0.01;
/// See [`TAIL`].
const DEVIATIONS: f64 = 3.0;

/// Whether a duration is normal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is.
    Normal,
    /// Longer than usual.
    Slow,
    /// Shorter than usual.
    Fast,
}

impl Answer {
    /// The word that messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Slow => "slow",
            Self::Fast => "fast",
        }
    }
}

/// How a duration compares with a baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Whether it is normal.
    pub answer: Answer,
    /// The share of the samples that it exceeds, 0 to 1.
    pub rank: f64,
    /// Its distance from the median, in median absolute deviations; negative if it is shorter.
    pub deviations: f64,
}

/// The slot of the narrowest baseline that takes in this hour and has enough samples.
pub fn narrowest(
    baselines: &BTreeMap<Slot, Figures>,
    hour: Slot,
    enough: i64,
) -> Option<(Slot, &Figures)> {
    std::iter::successors(Some(hour), |slot| slot.fallback()).find_map(|slot| {
        let figures = baselines.get(&slot)?;
        (figures.samples >= enough).then_some((slot, figures))
    })
}

/// Compares a duration with a baseline. Deviations are reckoned as at least `resolution_us`, to which durations are known, and
/// as at least the error of the baseline itself: where nearly all samples are alike, nothing else would be normal.
pub fn judge(figures: &Figures, durations: &Counts, us: u64, resolution_us: i64) -> Verdict {
    let mut sketch = Sketch::default();
    sketch.add(durations);
    let rank = sketch.rank(us).unwrap_or(0.5);
    let finest = (figures.p50_us as f64 * 2.0 * ERROR).max(resolution_us.max(1) as f64);
    let deviations = (us as f64 - figures.p50_us as f64) / finest.max(figures.mad_us as f64);
    let answer = if rank > 1.0 - TAIL && deviations > DEVIATIONS {
        Answer::Slow
    } else if rank < TAIL && deviations < -DEVIATIONS {
        Answer::Fast
    } else {
        Answer::Normal
    };
    Verdict {
        answer,
        rank,
        deviations,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::baseline::{
        Subject,
        changes::{Changes, Sample},
        figures::Total,
        slot::DayType,
    };

    fn baseline(durations_us: impl IntoIterator<Item = i64>) -> (Figures, Counts) {
        let mut changes = Changes::default();
        for us in durations_us {
            changes.add(&Sample {
                subject: Subject::Trace,
                service: Some(Arc::from("a")),
                operation: Some(Arc::from("b")),
                start_ns: 0,
                duration_ns: us * 1_000,
                failed: Some(us % 2 == 0),
            });
        }
        let mut total = Total::default();
        for cell in changes.into_cells().values() {
            total.add(cell);
        }
        total.figures().unwrap()
    }

    fn answer(baseline: &(Figures, Counts), us: u64) -> Answer {
        judge(&baseline.0, &baseline.1, us, 1).answer
    }

    #[test]
    fn figures_are_those_of_the_samples() {
        let (figures, _) = baseline(1..=100);
        assert_eq!(
            (figures.p50_us, figures.p95_us, figures.p99_us),
            (50, 95, 99)
        );
        assert_eq!((figures.mad_us, figures.error_rate()), (25, Some(0.5)));
    }

    #[test]
    fn what_one_in_a_hundred_exceeds_and_lies_far_out_is_not_normal() {
        let usual = baseline((0..1_000).map(|n| 10_000 + n));
        assert_eq!(answer(&usual, 10_500), Answer::Normal);
        assert_eq!(answer(&usual, 11_050), Answer::Normal);
        assert_eq!(answer(&usual, 13_000), Answer::Slow);
        assert_eq!(answer(&usual, 8_000), Answer::Fast);
        let verdict = judge(&usual.0, &usual.1, 13_000, 1);
        assert_eq!(verdict.rank, 1.0);
        assert!((9.5..10.5).contains(&verdict.deviations), "{verdict:?}");
    }

    #[test]
    fn where_all_are_alike_what_cannot_be_told_apart_is_normal() {
        let usual = baseline((0..100).map(|_| 7_000));
        assert_eq!(
            judge(&usual.0, &usual.1, 7_900, 1_000).answer,
            Answer::Normal
        );
        assert_eq!(judge(&usual.0, &usual.1, 7_900, 1).answer, Answer::Slow);
    }

    /// What is far out by rank alone, or by distance alone, is normal.
    #[test]
    fn both_signs_are_needed() {
        assert_eq!(
            [Answer::Normal, Answer::Slow, Answer::Fast].map(Answer::name),
            ["normal", "slow", "fast"]
        );
        // Half of them within a second, the rest anywhere up to an hour: beyond all of them it is slow, and not before.
        let wide = baseline((0..200).map(|n| {
            if n < 120 {
                1_000_000 + n
            } else {
                40_000_000 * (n - 119)
            }
        }));
        assert_eq!(answer(&wide, 2_000_000_000), Answer::Normal);
        assert_eq!(answer(&wide, 3_300_000_000), Answer::Slow);
        assert_eq!(answer(&wide, 999_000), Answer::Normal);
        // Nobody was ever so fast, but by less than can be told.
        let narrow = baseline((0..200).map(|_| 1_000_000));
        for (us, expected) in [(995_000, Answer::Normal), (970_000, Answer::Fast)] {
            assert_eq!(answer(&narrow, us), expected, "{us}");
        }
        // Deviations are reckoned as twice the error of a median at least: 7,812 us here.
        let verdict = judge(&narrow.0, &narrow.1, 1_100_000, 1);
        assert!((12.0..13.5).contains(&verdict.deviations), "{verdict:?}");
        // Three deviations, exactly, are none too many, and one in a hundred is on neither side.
        let alike = baseline((0..100).map(|_| 100));
        for (us, resolution_us, deviations) in [(3_100, 1_000, 3.0), (70, 10, -3.0)] {
            let verdict = judge(&alike.0, &alike.1, us, resolution_us);
            assert_eq!(
                (verdict.answer, verdict.deviations),
                (Answer::Normal, deviations)
            );
        }
        let long = baseline((0..100).map(|n| if n < 98 { 1_000 } else { 1_000_000 }));
        assert_eq!(answer(&long, 1_000_000), Answer::Normal);
        let short = baseline((0..100).map(|n| if n < 98 { 1_000_000 } else { 1_000 }));
        assert_eq!(answer(&short, 1_000), Answer::Normal);
        let even = baseline((0..100).map(|n| 1_000 * (n + 1)));
        let shortest = judge(&even.0, &even.1, 1_000, 1);
        assert_eq!((shortest.answer, shortest.rank), (Answer::Normal, 0.005));
    }

    #[test]
    fn the_narrowest_with_enough_is_used() {
        let figures = |samples| Figures {
            samples,
            ..baseline([1]).0
        };
        let hour = Slot::hour_of(DayType::Weekend, 3);
        let day = hour.fallback().unwrap();
        let mut baselines = BTreeMap::from([(Slot::EVERYTHING, figures(100))]);
        let used = |baselines: &BTreeMap<Slot, Figures>, enough| {
            narrowest(baselines, hour, enough).map(|(slot, _)| slot)
        };
        assert_eq!(used(&baselines, 30), Some(Slot::EVERYTHING));
        baselines.insert(day, figures(30));
        assert_eq!(used(&baselines, 30), Some(day));
        baselines.insert(hour, figures(29));
        assert_eq!(used(&baselines, 30), Some(day));
        assert_eq!(used(&baselines, 29), Some(hour));
        assert_eq!(used(&baselines, 101), None);
    }
}
