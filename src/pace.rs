//! The pace that all processes keep together: [`crate::tempo::gate::Pace`] on top of [`crate::store::pace`].
//!
//! A request costs one statement, which lets it in and gives back the places of those that ended since; what is left over
//! is given back a moment later. While no place is free, one request of each process and urgency asks, and the others
//! wait for it here. Places are leases: a killed process costs each of its places for ten seconds, a frozen one loses
//! them. When the database cannot be asked, no request is made until it can.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use sqlx::PgPool;
use tokio::{
    sync::{Mutex as Turn, Notify},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    job::Limits,
    store::{
        Holder,
        pace::{self, Caller, Entry, RENEW_EVERY, Signal},
    },
    tempo::gate::{Pace, Permit, Sign, Urgency},
};

/// How long a request waits before it asks again for a place, at first.
const ASK_AGAIN: Duration = Duration::from_millis(40);
/// How long it waits at most while it is not the next.
const ASK_AGAIN_AT_MOST: Duration = Duration::from_millis(250);
/// No wait is longer than this: what holds requests back may be gone.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long to wait after the database could not be asked.
const AFTER_ERROR: Duration = Duration::from_millis(500);
/// A request that begins later than this after it was to is let in anew: this process was frozen, and its place is gone.
const LATEST: Duration = Duration::from_secs(5);
/// How long places that were given back wait for a request that takes the news along.
const LINGER: Duration = Duration::from_millis(10);
/// How often the share is raised while answers are good.
const RAISE_EVERY: Duration = Duration::from_secs(1);
/// How long the end waits for places in use.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// What "too many requests" multiplies the share by, and how low it can bring it.
const THROTTLED: (f64, f64) = (0.5, 0.05);
/// The same of slow answers: they may have other reasons.
const SLOW: (f64, f64) = (0.7, 0.25);
/// How much of a reason is kept, characters.
const LONGEST_REASON: usize = 200;

/// How fast one source is asked by all processes together, as seen by this one.
#[derive(Debug)]
pub struct Together {
    shared: Arc<Shared>,
    keeping: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    pool: PgPool,
    caller: Caller,
    /// Whose turn it is to ask, in the background and live.
    turns: [Turn<()>; 2],
    places: Mutex<Places>,
    /// Places were given back.
    given_back: Notify,
    /// The share was whole when last seen.
    whole: AtomicBool,
    /// Answers came in good time since the share was last raised.
    good: AtomicBool,
}

/// Permits by number.
#[derive(Debug, Default)]
struct Places {
    in_use: Vec<i64>,
    given_back: Vec<i64>,
    /// Requests that are asking for one.
    asking: usize,
}

/// A place in use.
struct Place {
    shared: Arc<Shared>,
    permit: i64,
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut places = self.shared.places();
            places.in_use.retain(|permit| *permit != self.permit);
            places.given_back.push(self.permit);
        }
        self.shared.given_back.notify_waiters();
    }
}

impl Together {
    /// A source's pace for this process, which was told these limits.
    pub fn new(pool: PgPool, holder: &Holder, source: &str, limits: &Limits) -> Self {
        let shared = Arc::new(Shared {
            pool,
            caller: Caller::new(source, holder.as_str(), limits),
            turns: Default::default(),
            places: Mutex::default(),
            given_back: Notify::new(),
            // Unknown: asking to raise it once does no harm.
            whole: AtomicBool::new(false),
            good: AtomicBool::new(false),
        });
        let (keeping, stop) = (TaskTracker::new(), CancellationToken::new());
        keeping.spawn(keep(Arc::clone(&shared), stop.clone()));
        keeping.close();
        Self {
            shared,
            keeping,
            stop,
        }
    }

    /// Waits a moment until no place is in use and all are given back.
    pub async fn close(&self) {
        self.stop.cancel();
        if tokio::time::timeout(CLOSE_WITHIN, self.keeping.wait())
            .await
            .is_err()
        {
            tracing::debug!(
                source = self.shared.caller.source,
                "places are left to expire"
            );
        }
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Pace for Together {
    fn enter(&self, urgency: Urgency) -> BoxFuture<'_, Permit> {
        Box::pin(async move {
            loop {
                let (place, begin) = self.shared.enter(urgency).await;
                tokio::time::sleep_until(begin).await;
                if begin.elapsed() < LATEST {
                    return Permit::new(place);
                }
            }
        })
    }

    fn notes(&self, sign: Sign) -> BoxFuture<'_, ()> {
        let ((by, floor), sent_ago, hold, why) = match sign {
            Sign::Good => {
                self.shared.good.store(true, Ordering::Relaxed);
                return Box::pin(std::future::ready(()));
            }
            Sign::Slow { sent_ago, why } => (SLOW, sent_ago, Duration::ZERO, why),
            Sign::Throttled {
                sent_ago,
                wait,
                why,
            } => (THROTTLED, sent_ago, wait, why),
        };
        Box::pin(async move {
            let signal = Signal {
                by,
                floor,
                sent_ago,
                hold,
                why: why.chars().take(LONGEST_REASON).collect(),
            };
            self.shared.lower(&signal).await;
        })
    }
}

impl Shared {
    /// A place, and when the request in it is to begin: within a fraction of a second.
    async fn enter(self: &Arc<Self>, urgency: Urgency) -> (Place, Instant) {
        let turns = match urgency {
            Urgency::Background => &self.turns[0],
            Urgency::Live => &self.turns[1],
        };
        // While others wait, it is not overtaken; while nobody does, several ask at once.
        let mut turn = match turns.try_lock() {
            Ok(_free) => None,
            Err(_) => Some(turns.lock().await),
        };
        let mut refusals = 0u32;
        let mut silent = false;
        loop {
            let given_back = self.given_back.notified();
            tokio::pin!(given_back);
            given_back.as_mut().enable();
            // To its end, also when nobody waits for it any more: a place that nobody knows of would be lost for a while.
            let asked = tokio::spawn(Arc::clone(self).ask(urgency)).await;
            let wait = match asked {
                Ok(Ok(Answer::Granted(place, begin))) => {
                    if silent {
                        tracing::info!(source = self.caller.source, "the database answers again");
                    }
                    return (place, begin);
                }
                Ok(Ok(Answer::NotBefore(wait))) => wait.min(LOOK_AGAIN),
                Ok(Ok(Answer::Full { next: true })) => with_jitter(ASK_AGAIN),
                Ok(Ok(Answer::Full { next: false })) => {
                    refusals += 1;
                    with_jitter(ASK_AGAIN.saturating_mul(refusals).min(ASK_AGAIN_AT_MOST))
                }
                Ok(Err(error)) => {
                    if !silent {
                        tracing::warn!(source = self.caller.source, %error, "cannot ask the database for a place; no request is made until it answers");
                    }
                    silent = true;
                    AFTER_ERROR
                }
                Err(error) => {
                    tracing::error!(source = self.caller.source, %error, "asking for a place failed");
                    AFTER_ERROR
                }
            };
            let waited = Instant::now();
            if turn.is_none() {
                turn = Some(turns.lock().await);
            }
            tokio::select! {
                () = tokio::time::sleep_until(waited + wait) => {}
                () = given_back => {}
            }
        }
    }

    async fn ask(self: Arc<Self>, urgency: Urgency) -> sqlx::Result<Answer> {
        self.places().asking += 1;
        let answer = self.ask_database(urgency).await;
        self.places().asking -= 1;
        answer
    }

    async fn ask_database(self: &Arc<Self>, urgency: Urgency) -> sqlx::Result<Answer> {
        let mut conn = self.pool.acquire().await?;
        let given_back = std::mem::take(&mut self.places().given_back);
        let live = urgency == Urgency::Live;
        match pace::enter(&mut conn, &self.caller, live, &given_back).await {
            Ok((entry, whole)) => {
                self.whole.store(whole, Ordering::Relaxed);
                Ok(match entry {
                    Entry::Granted { permit, wait } => {
                        let begin = Instant::now() + wait;
                        self.places().in_use.push(permit);
                        let shared = Arc::clone(self);
                        Answer::Granted(Place { shared, permit }, begin)
                    }
                    Entry::NotBefore(wait) => Answer::NotBefore(wait),
                    Entry::Full { next } => Answer::Full { next },
                })
            }
            Err(error) => {
                self.places().given_back.extend(given_back);
                Err(error)
            }
        }
    }

    async fn lower(&self, signal: &Signal) {
        let lowered = async {
            pace::lower(
                &mut *self.pool.acquire().await?,
                &self.caller.source,
                signal,
            )
            .await
        };
        self.whole.store(false, Ordering::Relaxed);
        match lowered.await {
            Ok(None) => {}
            Ok(Some(pace)) => {
                tracing::info!(
                    source = self.caller.source,
                    requests_per_second = pace.present_per_second(),
                    concurrency = pace.present_concurrency(),
                    why = signal.why,
                    "asking less of a source"
                );
            }
            Err(error) => {
                tracing::debug!(source = self.caller.source, %error, "cannot record that a source bears less");
            }
        }
    }

    /// Gives back what no request has taken along.
    async fn leave(&self) {
        let given_back = std::mem::take(&mut self.places().given_back);
        if given_back.is_empty() {
            return;
        }
        if let Err(error) = pace::leave(&self.pool, &given_back).await {
            tracing::debug!(source = self.caller.source, %error, "cannot give places back yet");
            self.places().given_back.extend(given_back);
        }
    }

    async fn renew(&self) {
        let in_use = self.places().in_use.clone();
        if in_use.is_empty() {
            return;
        }
        if let Err(error) = pace::renew(&self.pool, &in_use).await {
            tracing::debug!(source = self.caller.source, %error, "cannot renew places");
        }
    }

    async fn raise(&self) {
        if self.whole.load(Ordering::Relaxed) || !self.good.swap(false, Ordering::Relaxed) {
            return;
        }
        let raised =
            async { pace::raise(&mut *self.pool.acquire().await?, &self.caller.source).await };
        match raised.await {
            Ok(None) => {}
            Ok(Some(share)) => {
                tracing::debug!(
                    source = self.caller.source,
                    share,
                    "asking more of a source again"
                );
            }
            Err(error) => {
                tracing::debug!(source = self.caller.source, %error, "cannot record that a source bears more");
            }
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Answer {
    Granted(Place, Instant),
    NotBefore(Duration),
    Full { next: bool },
}

/// Renews what is in use, gives back what is not, and raises the share, until told to stop and nothing is left to do.
async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    let mut renew = tokio::time::interval(RENEW_EVERY);
    let mut raise = tokio::time::interval(RAISE_EVERY);
    loop {
        let given_back = shared.given_back.notified();
        tokio::pin!(given_back);
        given_back.as_mut().enable();
        let (in_use, waiting) = {
            let places = shared.places();
            (
                !places.in_use.is_empty() || places.asking > 0,
                !places.given_back.is_empty(),
            )
        };
        if stop.is_cancelled() && !in_use && !waiting {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LINGER), if waiting => shared.leave().await,
            () = given_back => {}
            () = stop.cancelled(), if !stop.is_cancelled() => {}
            _ = renew.tick() => shared.renew().await,
            _ = raise.tick() => shared.raise().await,
        }
    }
}

/// A wait, give or take a quarter, so that processes do not ask in step.
fn with_jitter(wait: Duration) -> Duration {
    let random = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    wait.mul_f64(0.75 + random / 2.0)
}
