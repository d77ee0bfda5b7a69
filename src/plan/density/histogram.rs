//! Traces counted in a stretch of time.

use crate::window::Window;

/// Traces counted in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Its start, Unix seconds.
    pub start: i64,
    /// Its length, seconds.
    pub seconds: i64,
    /// Traces that start in it.
    pub count: u64,
}

impl Step {
    fn window(self) -> Option<Window> {
        Window::new(self.start, self.start + self.seconds)
    }
}

/// Counted trace starts. Sparse: stretches that counted nothing may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    /// Ascending, and none overlaps another.
    pub steps: Vec<Step>,
}

impl Histogram {
    /// What was counted in and around a window, from the first step that reaches into it.
    pub(super) fn within(&self, window: Window) -> impl Iterator<Item = (Window, u64)> + '_ {
        let first = self
            .steps
            .partition_point(|step| step.start + step.seconds <= window.start());
        self.steps[first..]
            .iter()
            .take_while(move |step| step.start < window.end())
            .filter_map(move |step| {
                let common = step.window()?.intersection(window)?;
                let share = common.seconds() as f64 / step.seconds as f64;
                Some((common, (step.count as f64 * share).round() as u64))
            })
    }

    /// Traces that start in the window; steps that straddle its edge count in proportion.
    pub fn count_in(&self, window: Window) -> u64 {
        self.within(window).map(|(_, count)| count).sum()
    }

    /// Takes finer counts in the place of these where there are any.
    pub fn refine(&mut self, finer: Self, where_: Window) {
        let inside = |step: &Step| step.start >= where_.start() && step.start < where_.end();
        self.steps.retain(|step| !inside(step));
        self.steps.extend(finer.steps.into_iter().filter(inside));
        self.steps.sort_unstable_by_key(|step| step.start);
    }
}
