//! How often one source may be asked by this process: so many requests at once, so many a second, none while it has
//! asked us to wait.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until},
};

use crate::retry;

/// The gate every request to one source passes.
#[derive(Debug)]
pub struct Gate {
    places: Semaphore,
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the next request may start.
    next: Instant,
    /// Refusals as "too many requests" since the last answer.
    refusals: u32,
    /// Rounds of requests that were not let in since the last answer, and until when what comes belongs to the latest.
    shut_out: u32,
    round_ends: Instant,
}

impl Gate {
    /// At most `concurrency` requests under way, and at most `per_second` begun in a second, evenly spaced.
    pub fn new(concurrency: usize, per_second: f64) -> Self {
        Self {
            places: Semaphore::new(concurrency.max(1)),
            interval: Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::ZERO),
            state: Mutex::new(State {
                next: Instant::now(),
                refusals: 0,
                shut_out: 0,
                round_ends: Instant::now(),
            }),
        }
    }

    /// Waits for a place and for the next moment a request may begin. The place is held until the permit is dropped.
    pub async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed, so this is always a permit.
        let permit = self.places.acquire().await.ok();
        loop {
            let now = Instant::now();
            let start = {
                let mut state = self.lock();
                if state.next <= now {
                    state.next = now + self.interval;
                    return permit;
                }
                state.next
            };
            sleep_until(start).await;
        }
    }

    /// Holds back every request to this source until `wait` has passed.
    pub fn pause(&self, wait: Duration) {
        let mut state = self.lock();
        if let Some(until) = Instant::now().checked_add(wait) {
            state.next = state.next.max(until);
        }
    }

    /// Counts a refusal as too many requests; returns how many there were in a row.
    pub fn refused(&self) -> u32 {
        let mut state = self.lock();
        state.refusals = state.refusals.saturating_add(1);
        state.refusals
    }

    /// Counts a refusal for want of access, and holds everything back for a while: what is refused to one request is
    /// refused to all. Requests that were under way together are refused in one round.
    pub fn shut_out(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        if now < state.round_ends {
            return;
        }
        state.shut_out = state.shut_out.saturating_add(1);
        state.round_ends = now + retry::wait(state.shut_out, None);
        state.next = state.next.max(state.round_ends);
    }

    /// How many rounds of requests in a row were refused for want of access.
    pub fn rounds_shut_out(&self) -> u32 {
        self.lock().shut_out
    }

    /// An answer came: the server bears what it is given, and lets it in.
    pub fn answered(&self) {
        let mut state = self.lock();
        (state.refusals, state.shut_out) = (0, 0);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_are_spaced_and_paused() {
        let gate = Gate::new(8, 5.0);
        let begin = Instant::now();
        for _ in 0..6 {
            gate.enter().await;
        }
        assert_eq!(
            begin.elapsed().as_millis() / 10,
            100,
            "six at five a second begin within a second"
        );
        gate.pause(Duration::from_secs(3));
        gate.enter().await;
        assert!(begin.elapsed() >= Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_refused_together_are_one_round_and_hold_back_the_next() {
        let gate = Gate::new(8, 1_000.0);
        gate.shut_out();
        gate.shut_out();
        assert_eq!(gate.rounds_shut_out(), 1);
        let begin = Instant::now();
        gate.enter().await;
        assert!(begin.elapsed() >= Duration::from_millis(200));
        gate.shut_out();
        assert_eq!(gate.rounds_shut_out(), 2);
        gate.answered();
        assert_eq!(gate.rounds_shut_out(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_under_way_than_allowed() {
        let gate = Gate::new(1, 1_000.0);
        let held = gate.enter().await;
        let second = tokio::time::timeout(Duration::from_secs(1), gate.enter()).await;
        assert!(second.is_err());
        drop(held);
        assert!(gate.enter().await.is_some());
    }
}
