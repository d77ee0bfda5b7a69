//! What is done about hours that disagree: what is missing is fetched again, and what Tempo does not have is taken out.
//!
//! A trace is taken out only when its hour was listed completely just now, is old enough and within retention, and a look-up by its
//! ID says that Tempo knows nothing of it either. Where that is much of an hour, it is rather Tempo that has lost something: then
//! nothing is taken out. What is taken out is kept in `harvest.removed_traces`.

use super::{Hour, Report, Verdict, deep::ForeignStanding};
use crate::window::{Window, WindowSet};

/// So many traces of an hour are taken out without further ado.
const FEW: usize = 100;
/// More of an hour's traces than one in so many are not.
const MOST_SHARE: i64 = 10;

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mending {
    /// What is to be fetched again.
    pub again: WindowSet,
    /// Hours of which something was never collected.
    pub gaps: Vec<Window>,
    /// Traces to take out.
    pub remove: Vec<[u8; 16]>,
    /// Hours whose foreign traces stay, with how many, and why.
    pub kept: Vec<(Window, usize, &'static str)>,
}

impl Mending {
    /// What a report asks for.
    pub fn of(report: &Report) -> Self {
        let mut mending = Self::default();
        let mut again = Vec::new();
        for hour in &report.hours {
            match hour.verdict {
                Verdict::Gap => mending.gaps.push(hour.window),
                Verdict::Missing | Verdict::Both => again.push(hour.window),
                _ => {}
            }
            mending.judge_foreign(hour);
        }
        mending.again = again.into_iter().collect();
        mending
    }

    fn judge_foreign(&mut self, hour: &Hour) {
        let not_in_tempo: Vec<[u8; 16]> = hour
            .foreign
            .iter()
            .filter(|foreign| foreign.standing == ForeignStanding::NotInTempo)
            .map(|foreign| foreign.trace_id)
            .collect();
        let others = hour.foreign.len() - not_in_tempo.len();
        if others > 0 {
            let why = "Tempo has them at another time, or did not say that it does not know them";
            self.kept.push((hour.window, others, why));
        }
        let number = i64::try_from(not_in_tempo.len()).unwrap_or(i64::MAX);
        if not_in_tempo.len() > FEW && number.saturating_mul(MOST_SHARE) > hour.here {
            let why = "so much of an hour has rather been lost by Tempo than come from elsewhere";
            self.kept.push((hour.window, not_in_tempo.len(), why));
        } else {
            self.remove.extend(not_in_tempo);
        }
    }

    /// Whether there is nothing to do.
    pub fn is_nothing(&self) -> bool {
        self.again.is_empty() && self.gaps.is_empty() && self.remove.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::{Depth, deep::Foreign};
    use chrono::DateTime;

    fn report(here: i64, foreign: usize, standing: ForeignStanding) -> Report {
        let mut hour = Hour::new(Window::new(0, 3_600).unwrap(), Verdict::MoreHere, None);
        hour.here = here;
        hour.foreign = (0..foreign)
            .map(|n| Foreign {
                trace_id: (n as u128).to_be_bytes(),
                standing,
            })
            .collect();
        Report {
            depth: Depth::Deep,
            hours: vec![hour],
            requests: 0,
            began_at: DateTime::UNIX_EPOCH,
            ended_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_tempo_may_have_lost_stays() {
        let few = Mending::of(&report(8, 7, ForeignStanding::NotInTempo));
        assert_eq!(few.remove.len(), 7);
        let many = Mending::of(&report(2_000, 201, ForeignStanding::NotInTempo));
        assert!(many.is_nothing());
        assert_eq!(many.kept[0].1, 201);
        let share = Mending::of(&report(2_010, 201, ForeignStanding::NotInTempo));
        assert_eq!(share.remove.len(), 201);
        for standing in [
            ForeignStanding::ElsewhereInTempo,
            ForeignStanding::NotLookedUp,
        ] {
            let kept = Mending::of(&report(8, 7, standing));
            assert!(kept.remove.is_empty());
            assert_eq!(kept.kept[0].1, 7);
        }
    }
}
