//! How often one source may be asked: the gate every request to it passes.
//!
//! Here stands what a gate is asked and told ([`Pace`]), and a pace that this process keeps for itself ([`Alone`]). The
//! one that all processes share is [`crate::pace`]. What the gate counts for this process only: refusals in a row, and
//! rounds of requests that were not let in.

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};

use super::error::{Class, Failure};
use crate::{job, retry};

/// Who waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// A poll, which is to be a few seconds behind the present.
    Live,
    /// Anything that may take its time.
    Background,
}

/// The right to have one request under way; dropping it gives the place back.
pub struct Permit {
    _place: Box<dyn Any + Send + Sync>,
}

impl Permit {
    /// A permit that holds on to this.
    pub fn new(place: impl Any + Send + Sync) -> Self {
        Self {
            _place: Box::new(place),
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

/// What a request tells about how much the source bears.
#[derive(Debug, Clone)]
pub enum Sign {
    /// It answered in good time.
    Good,
    /// It took long to answer, or did not in time.
    Slow {
        /// How long ago the request was sent.
        sent_ago: Duration,
        /// What happened.
        why: String,
    },
    /// It refused as too many requests.
    Throttled {
        /// How long ago the request was sent.
        sent_ago: Duration,
        /// How long to wait before the next.
        wait: Duration,
        /// What it said.
        why: String,
    },
}

/// How fast a source is asked.
pub trait Pace: fmt::Debug + Send + Sync {
    /// Waits for a place and for the moment a request may begin.
    fn enter(&self, urgency: Urgency) -> BoxFuture<'_, Permit>;

    /// Takes note of what a request told.
    fn notes(&self, sign: Sign) -> BoxFuture<'_, ()>;
}

/// A pace of this process alone: so many requests at once, so many a second, evenly spaced.
#[derive(Debug)]
pub struct Alone {
    places: Arc<Semaphore>,
    interval: Duration,
    next: Mutex<Instant>,
}

impl Alone {
    /// At most `concurrency` requests under way, and at most `per_second` begun in a second.
    pub fn new(concurrency: usize, per_second: f64) -> Self {
        Self {
            places: Arc::new(Semaphore::new(concurrency.max(1))),
            interval: Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::ZERO),
            next: Mutex::new(Instant::now()),
        }
    }
}

impl Pace for Alone {
    fn enter(&self, _: Urgency) -> BoxFuture<'_, Permit> {
        Box::pin(async move {
            // Never closed, so this is always a permit.
            let place = Arc::clone(&self.places).acquire_owned().await.ok();
            loop {
                let now = Instant::now();
                let start = {
                    let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
                    if *next <= now {
                        *next = now + self.interval;
                        return Permit::new(place);
                    }
                    *next
                };
                sleep_until(start).await;
            }
        })
    }

    fn notes(&self, _: Sign) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The gate of one source in this process.
#[derive(Debug)]
pub struct Gate {
    pace: Arc<dyn Pace>,
    /// Requests of this process in the background queue here, first come, first served: a place is not asked for by more than
    /// there can be.
    turns: Arc<Semaphore>,
    /// An answer that takes longer is slow.
    slow: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// No request of this process begins before this.
    held_until: Instant,
    /// Refusals as "too many requests" since the last answer.
    refusals: u32,
    /// Rounds of requests that were not let in since the last answer, and until when what comes belongs to the latest.
    shut_out: u32,
    round_ends: Instant,
}

impl Gate {
    /// A gate that lets requests in at this pace.
    pub fn new(pace: Arc<dyn Pace>, limits: &job::Limits) -> Self {
        let now = Instant::now();
        Self {
            pace,
            turns: Arc::new(Semaphore::new(limits.concurrency.max(1))),
            slow: limits.timeout / 3,
            state: Mutex::new(State {
                held_until: now,
                refusals: 0,
                shut_out: 0,
                round_ends: now,
            }),
        }
    }

    /// Waits for a place and for the moment a request may begin. The place is held until the permit is dropped.
    pub async fn enter(&self, urgency: Urgency) -> Permit {
        let turn = match urgency {
            // Never closed, so this is always a turn.
            Urgency::Background => Arc::clone(&self.turns).acquire_owned().await.ok(),
            Urgency::Live => None,
        };
        loop {
            let until = self.lock().held_until;
            if until <= Instant::now() {
                return Permit::new((self.pace.enter(urgency).await, turn));
            }
            sleep_until(until).await;
        }
    }

    /// An answer came, after so long: the server bears what it is given, and lets it in.
    pub async fn answered(&self, elapsed: Duration) {
        {
            let mut state = self.lock();
            (state.refusals, state.shut_out) = (0, 0);
        }
        let sign = if elapsed < self.slow {
            Sign::Good
        } else {
            Sign::Slow {
                sent_ago: elapsed,
                why: format!("an answer took {:.1} s", elapsed.as_secs_f64()),
            }
        };
        self.pace.notes(sign).await;
    }

    /// A request failed. What that says about the next ones is noted before its place is given back.
    pub async fn failed(&self, failure: &Failure) {
        let sent_ago = failure.elapsed;
        let why = failure.message.clone();
        match failure.class {
            Class::Access => self.shut_out(),
            Class::Throttled => {
                let wait = {
                    let mut state = self.lock();
                    state.refusals = state.refusals.saturating_add(1);
                    let wait = match failure.retry_after {
                        Some(asked) => asked.min(retry::LONGEST_ASKED),
                        None => retry::wait(state.refusals.min(6), None) / 2,
                    };
                    if let Some(until) = Instant::now().checked_add(wait) {
                        state.held_until = state.held_until.max(until);
                    }
                    wait
                };
                let sign = Sign::Throttled {
                    sent_ago,
                    wait,
                    why,
                };
                self.pace.notes(sign).await;
            }
            Class::Timeout => self.pace.notes(Sign::Slow { sent_ago, why }).await,
            Class::Limit(_) | Class::TooLarge | Class::Passing | Class::Query => {}
        }
    }

    /// Counts a refusal for want of access, and holds everything back for a while: what is refused to one request is
    /// refused to all. Requests that were under way together are refused in one round.
    fn shut_out(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        if now < state.round_ends {
            return;
        }
        state.shut_out = state.shut_out.saturating_add(1);
        state.round_ends = now + retry::wait(state.shut_out, None);
        state.held_until = state.held_until.max(state.round_ends);
    }

    /// How many rounds of requests in a row were refused for want of access.
    pub fn rounds_shut_out(&self) -> u32 {
        self.lock().shut_out
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(concurrency: usize, requests_per_second: f64) -> Gate {
        let limits = job::Limits {
            concurrency,
            requests_per_second,
            traces_per_request: job::TracesPerRequest::Auto,
            timeout: Duration::from_secs(60),
            max_attempts: 10,
        };
        Gate::new(
            Arc::new(Alone::new(concurrency, requests_per_second)),
            &limits,
        )
    }

    fn refused(class: Class, retry_after: Option<Duration>) -> Failure {
        Failure {
            retry_after,
            ..Failure::new(class, "no")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_spaced_and_held_back() {
        let gate = gate(8, 5.0);
        let begin = Instant::now();
        for _ in 0..6 {
            gate.enter(Urgency::Background).await;
        }
        assert_eq!(
            begin.elapsed().as_millis() / 10,
            100,
            "six at five a second begin within a second"
        );
        gate.failed(&refused(Class::Throttled, Some(Duration::from_secs(3))))
            .await;
        gate.enter(Urgency::Live).await;
        assert!(begin.elapsed() >= Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_refused_together_are_one_round_and_hold_back_the_next() {
        let gate = gate(8, 1_000.0);
        let refused = refused(Class::Access, None);
        gate.failed(&refused).await;
        gate.failed(&refused).await;
        assert_eq!(gate.rounds_shut_out(), 1);
        let begin = Instant::now();
        gate.enter(Urgency::Background).await;
        assert!(begin.elapsed() >= Duration::from_millis(200));
        gate.failed(&refused).await;
        assert_eq!(gate.rounds_shut_out(), 2);
        gate.answered(Duration::ZERO).await;
        assert_eq!(gate.rounds_shut_out(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_under_way_than_allowed() {
        let gate = gate(1, 1_000.0);
        let held = gate.enter(Urgency::Background).await;
        let second =
            tokio::time::timeout(Duration::from_secs(1), gate.enter(Urgency::Background)).await;
        assert!(second.is_err());
        drop(held);
        gate.enter(Urgency::Background).await;
    }
}
