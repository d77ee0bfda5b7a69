//! What the ledger must say, worked out with sets of seconds and a few flags instead of SQL.

use std::collections::{BTreeMap, BTreeSet};

use tempo_harvest::store::Look;

/// A window is open in the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Queued,
    Running,
    Split,
    Done,
    Failed,
    Cancelled,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Split => "split",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Since when a queued window may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Not yet.
    Later,
    /// Since just now: too short a time for the sweep to care.
    Now,
    /// Long since.
    Long,
}

#[derive(Debug, Clone)]
pub struct Window {
    pub id: i64,
    pub run: usize,
    pub look: Look,
    pub seconds: std::ops::Range<i64>,
    pub parent: Option<usize>,
    pub state: State,
    pub due: Due,
    /// How often it was taken.
    pub token: i64,
    /// Who took it last, and whether that holds.
    pub holder: Option<usize>,
    pub expired: bool,
    /// Whether an item waits for it on the queue.
    pub item: bool,
    pub attempts: i32,
    pub throttled: i32,
    pub timeouts: i32,
    pub lapsed: i32,
}

#[derive(Debug, Clone)]
pub struct Run {
    pub id: i64,
    pub job: usize,
    pub poll: bool,
    pub state: &'static str,
    pub paused: bool,
}

/// A lease that somebody has, or once had, in hand.
#[derive(Debug, Clone, Copy)]
pub struct Hand {
    pub window: usize,
    pub token: i64,
}

#[derive(Debug, Default)]
pub struct Model {
    pub jobs_paused: [bool; 2],
    pub runs: Vec<Run>,
    pub windows: Vec<Window>,
    /// Seconds that are covered, by look.
    pub covered: BTreeMap<&'static str, BTreeSet<i64>>,
    /// Whether what was covered was forgotten.
    pub restarted: bool,
    pub traces: BTreeSet<u8>,
}

impl Model {
    pub fn is_open(&self, window: usize) -> bool {
        matches!(self.windows[window].state, State::Queued | State::Running)
    }

    pub fn is_paused(&self, run: usize) -> bool {
        let run = &self.runs[run];
        run.state == "open" && (run.paused || self.jobs_paused[run.job])
    }

    /// Whether somebody who asks for the window now gets it.
    pub fn is_free(&self, window: usize) -> bool {
        let of = &self.windows[window];
        let free = match of.state {
            State::Queued => of.due != Due::Later,
            State::Running => of.expired,
            _ => false,
        };
        free && !self.is_paused(of.run)
    }

    /// Whether a lease is good for anything.
    pub fn is_live(&self, hand: Hand) -> bool {
        let of = &self.windows[hand.window];
        of.state == State::Running && of.token == hand.token && !of.expired
    }

    /// Whether a planner may add a window here: none that is open may be in its way.
    pub fn has_room(&self, look: Look, seconds: &std::ops::Range<i64>) -> bool {
        (0..self.windows.len())
            .filter(|&window| self.is_open(window) && self.windows[window].look == look)
            .all(|window| {
                let other = &self.windows[window].seconds;
                other.end <= seconds.start || seconds.end <= other.start
            })
    }

    pub fn add(&mut self, id: i64, run: usize, look: Look, seconds: std::ops::Range<i64>) {
        self.windows.push(Window {
            id,
            run,
            look,
            seconds,
            parent: None,
            state: State::Queued,
            due: Due::Now,
            token: 0,
            holder: None,
            expired: false,
            item: true,
            attempts: 0,
            throttled: 0,
            timeouts: 0,
            lapsed: 0,
        });
    }

    pub fn take(&mut self, window: usize, holder: usize) -> Hand {
        let of = &mut self.windows[window];
        if of.state == State::Running {
            of.lapsed += 1;
        }
        of.state = State::Running;
        of.token += 1;
        of.holder = Some(holder);
        of.expired = false;
        Hand {
            window,
            token: of.token,
        }
    }

    /// Ends work on a window; whoever held it does so no longer.
    pub fn end(&mut self, window: usize, state: State) {
        let of = &mut self.windows[window];
        of.state = state;
        of.holder = None;
        of.expired = false;
    }

    pub fn done(&mut self, window: usize) {
        self.end(window, State::Done);
        let of = &self.windows[window];
        let covered = self.covered.entry(of.look.name()).or_default();
        covered.extend(of.seconds.clone());
    }

    /// Puts a window back to be taken again.
    pub fn put_back(&mut self, window: usize, due: Due) {
        self.end(window, State::Queued);
        self.windows[window].due = due;
        self.windows[window].item = true;
    }

    /// The open windows of a run.
    pub fn open_of(&self, run: usize) -> Vec<usize> {
        (0..self.windows.len())
            .filter(|&window| self.windows[window].run == run && self.is_open(window))
            .collect()
    }

    pub fn open_runs(&self, job: usize) -> Vec<usize> {
        (0..self.runs.len())
            .filter(|&run| self.runs[run].job == job && self.runs[run].state == "open")
            .collect()
    }

    pub fn drop_items(&mut self, run: usize) {
        let of_run = self.windows.iter_mut().filter(|window| window.run == run);
        of_run.for_each(|window| window.item = false);
    }

    pub fn items_for_queued(&mut self, run: usize) {
        let of_run = self.windows.iter_mut();
        let queued = of_run.filter(|window| window.run == run && window.state == State::Queued);
        queued.for_each(|window| window.item = true);
    }

    /// The windows that nobody would ever look at again without the sweep.
    pub fn lost(&self) -> Vec<usize> {
        (0..self.windows.len())
            .filter(|&window| {
                let of = &self.windows[window];
                let due = match of.state {
                    State::Queued => of.due == Due::Long,
                    State::Running => of.expired,
                    _ => false,
                };
                due && !of.item && !self.is_paused(of.run)
            })
            .collect()
    }

    /// How a run ends that has nothing left to do; `None`: it goes on.
    pub fn ending(&self, run: usize) -> Option<&'static str> {
        let of = &self.runs[run];
        if of.state != "open" || of.poll || !self.open_of(run).is_empty() {
            return None;
        }
        let has = |state| {
            let mut all = self.windows.iter();
            all.any(|window| window.run == run && window.state == state)
        };
        Some(if has(State::Failed) {
            "failed"
        } else if has(State::Cancelled) {
            "cancelled"
        } else {
            "complete"
        })
    }

    /// Whether everything that a window was cut into, down to the last piece, is done.
    pub fn is_whole(&self, window: usize) -> bool {
        match self.windows[window].state {
            State::Done => true,
            State::Split => (0..self.windows.len())
                .filter(|&piece| self.windows[piece].parent == Some(window))
                .all(|piece| self.is_whole(piece)),
            _ => false,
        }
    }
}
