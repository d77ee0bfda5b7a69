//! Tempo's own counts of root spans, hour by hour.
//!
//! Asked for in stretches of up to a day, never for an hour alone: an hour without traces is a missing sample beside others, and
//! means zero, while an answer without any series means nothing (a Tempo 2 whose metrics path is not set up answers so). Tempo's
//! intervals include their last instant and not their first; what is stored is counted alike.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};

use super::{Request, YOUNG_S};
use crate::{
    gaps::Ledger,
    harvest::listing::Lister,
    plan::density::Histogram,
    store,
    tempo::{Class, Failure},
    window::Window,
};

/// Tempo's default: what one count may span, seconds.
const METRICS_MAX_DURATION_S: i64 = 86_400;
/// Tempo gives at most 10,000 steps; this leaves room for the edges.
const MOST_STEPS: i64 = 9_600;
/// The steps in which stretches are counted, seconds: the longest at whose edges they begin and end.
const STEPS_S: [i64; 3] = [1_800, 60, 1];
/// How often stretches are cut anew because the server named a limit.
const LIMITS_LEARNED: usize = 3;

/// What Tempo says of a stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counted {
    /// So many root spans start in it.
    So(i64),
    /// It returned no series.
    NoSeries,
    /// It would not, and why.
    Failed(String),
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// What the server counts at once, seconds.
    most_s: i64,
    cells: Vec<Cell>,
}

/// What is counted at once.
#[derive(Debug)]
struct Cell {
    window: Window,
    step_s: i64,
    answer: Result<Option<Histogram>, String>,
}

/// The edges are rounded to the step first, one step is put in front, and what is as long as allowed then is refused: a little less
/// than that is asked for.
fn at_once_s(most_s: i64) -> i64 {
    (most_s * 23 / 24).max(1)
}

/// The step that a window is counted in, seconds.
fn step_of(window: Window, most_s: i64) -> i64 {
    let fits = |&step: &i64| {
        2 * step <= at_once_s(most_s) && window.start() % step == 0 && window.end() % step == 0
    };
    STEPS_S.into_iter().find(fits).unwrap_or(1)
}

/// The stretches to ask for, so that each window lies in them: as long as the server counts at once.
fn cells(windows: &[Window], most_s: i64, now_s: i64) -> Vec<(Window, i64)> {
    // By step and start: of what overlaps each second would count twice.
    let mut cells: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for &window in windows {
        let step_s = step_of(window, most_s);
        let length_s = (at_once_s(most_s) / step_s - 1).clamp(1, MOST_STEPS) * step_s;
        let latest = (now_s.div_euclid(step_s) * step_s).max(window.end());
        let mut start = window.start().div_euclid(length_s) * length_s;
        while start < window.end() {
            let end = (start + length_s).min(latest);
            let known = cells.entry((step_s, start)).or_insert(end);
            *known = end.max(*known);
            start += length_s;
        }
    }
    let cells = cells.into_iter();
    cells
        .filter_map(|((step_s, start), end)| Some((Window::new(start, end)?, step_s)))
        .collect()
}

impl Counts {
    /// Has these windows counted.
    pub async fn ask(lister: &Lister<'_>, windows: &[Window], now: DateTime<Utc>) -> Self {
        for _ in 0..LIMITS_LEARNED {
            let most_s = lister.count_at_most_s().unwrap_or(METRICS_MAX_DURATION_S);
            if let Some(counts) = Self::ask_in(lister, windows, most_s, now).await {
                return counts;
            }
        }
        let most_s = lister.count_at_most_s().unwrap_or(METRICS_MAX_DURATION_S);
        let cell = |&window| Cell {
            window,
            step_s: step_of(window, most_s),
            answer: Err("it refuses what it says it allows".to_owned()),
        };
        Self {
            most_s,
            cells: windows.iter().map(cell).collect(),
        }
    }

    /// The same in stretches of so many seconds; `None`: the server named another limit.
    async fn ask_in(
        lister: &Lister<'_>,
        windows: &[Window],
        most_s: i64,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let cells = cells(windows, most_s, now.timestamp());
        let ask = |(window, step_s)| async move {
            let answer = lister.count(window, step_s).await;
            let limit = |failure: &Failure| matches!(failure.class, Class::Limit(_));
            let refused = answer.as_ref().err().is_some_and(limit);
            let answer = answer.map_err(|failure| failure.to_string());
            let cell = Cell {
                window,
                step_s,
                answer,
            };
            (cell, refused)
        };
        let Some((&first, rest)) = cells.split_first() else {
            return Some(Self::default());
        };
        // The first one alone tells what the server allows.
        let (first, refused) = ask(first).await;
        if refused {
            return None;
        }
        let rest = stream::iter(rest.to_vec()).map(ask);
        let mut rest = rest.buffer_unordered(lister.at_once());
        let mut cells = vec![first];
        while let Some((cell, _)) = rest.next().await {
            cells.push(cell);
        }
        Some(Self { most_s, cells })
    }

    /// What was counted in a window that was asked for.
    pub fn of(&self, window: Window) -> Counted {
        let step_s = step_of(window, self.most_s);
        let mut total: i64 = 0;
        let mut series = false;
        let cells = self
            .cells
            .iter()
            .filter(|cell| cell.step_s == step_s && cell.window.intersection(window).is_some());
        for cell in cells {
            match &cell.answer {
                Err(why) => return Counted::Failed(why.clone()),
                Ok(None) => {}
                Ok(Some(histogram)) => {
                    series = true;
                    let common = cell.window.intersection(window).unwrap_or(window);
                    total += i64::try_from(histogram.count_in(common)).unwrap_or(i64::MAX);
                }
            }
        }
        match series {
            true => Counted::So(total),
            false => Counted::NoSeries,
        }
    }

    /// How many traces a window may be expected to hold.
    pub fn expected(&self, window: Window) -> Option<u64> {
        match self.of(window) {
            Counted::So(count) => u64::try_from(count).ok(),
            Counted::NoSeries | Counted::Failed(_) => None,
        }
    }

    /// Whether this server counts at all: it did, or it does where a trace is stored.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn is_proven(
        &self,
        request: &Request<'_>,
        lister: &Lister<'_>,
        ledger: &Ledger,
    ) -> sqlx::Result<bool> {
        if self
            .cells
            .iter()
            .any(|cell| matches!(cell.answer, Ok(Some(_))))
        {
            return Ok(true);
        }
        let Some(cell) = self.cells.iter().find(|cell| cell.answer.is_ok()) else {
            return Ok(false);
        };
        let second = cell.window.start();
        let oldest = ledger.kept_from.unwrap_or(0);
        let youngest = request.now.timestamp() - YOUNG_S;
        let near = {
            let mut conn = request.pool.acquire().await?;
            let dataset = &request.dataset.name;
            store::verify::near(&mut conn, dataset, second, oldest, youngest).await?
        };
        let minute = near.and_then(|at| {
            let start = at.timestamp().div_euclid(60) * 60;
            Window::new(start - 60, start + 120)
        });
        let Some(minute) = minute else {
            return Ok(false);
        };
        Ok(matches!(lister.count(minute, 60).await, Ok(Some(_))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: i64, end: i64) -> Window {
        Window::new(start, end).unwrap()
    }

    #[test]
    fn an_hour_is_never_asked_for_alone() {
        let day = 81_000;
        let hour = window(day + 7_200, day + 10_800);
        assert_eq!(
            cells(&[hour], 86_400, i64::MAX / 4),
            [(window(day, 2 * day), 1_800)]
        );
        // Nor beyond the present; and three hours at once allow a little less than that.
        assert_eq!(
            cells(&[hour], 86_400, day + 12_000),
            [(window(day, day + 10_800), 1_800)]
        );
        let three = cells(&[window(0, 3_600), window(3_600, 7_200)], 10_800, 86_400);
        assert_eq!(three, [(window(0, 7_200), 1_800)]);
        // What begins between the steps is counted in finer ones.
        let part = cells(&[window(61, 3_600)], 86_400, 86_400);
        assert_eq!(part, [(window(0, 9_600), 1)]);
    }

    #[test]
    fn what_is_counted_at_once_tiles_the_hours_whatever_they_straddle() {
        let hours: Vec<Window> = (0..60)
            .map(|n| window(n * 3_600, (n + 1) * 3_600))
            .collect();
        for most_s in [86_400, 10_800] {
            let cells = cells(&hours, most_s, i64::MAX / 4);
            let tiles = |pair: &[(Window, i64)]| pair[0].0.end() == pair[1].0.start();
            assert!(cells.windows(2).all(tiles), "{cells:?}");
            assert!(cells[0].0.start() <= 0 && cells[cells.len() - 1].0.end() >= 60 * 3_600);
        }
    }
}
