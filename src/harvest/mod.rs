//! One window, fetched to completion: asks Tempo, decides whether the answer is everything, stores it, or says why not.
//!
//! What is decided here: an answer counts only if it is provably whole (under its limit, not stopped early, about the
//! window that was asked for, old enough by the server's own clock). Everything else is thrown away, and the window is
//! asked for again, cut, or tried later. Which request comes next is decided in [`work`]; how a full second is cut by
//! duration in [`bands`]; how whole traces are brought in [`spans`]; here a window is taken, and how work on it ended is recorded.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use chrono::Utc;
use futures::FutureExt;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    meter::Meter,
    plan::density::Piece,
    retry,
    store::{
        Holder, Look,
        found::Found,
        lease::{self, Claimed, ErrorClass, Figures, FinishError, Renewal, Setback},
        runs::Kind,
        sources, traces, windows,
    },
    tempo::{Class, Client, Failure},
};

mod bands;
pub mod listing;
mod log;
mod spans;
pub mod survey;
mod work;

use self::work::Work;

/// How often access is tried at a source that has not answered lately, before the whole run is given up.
const ACCESS_ATTEMPTS: u32 = 3;
/// A window's own waits after "too many requests" grow up to the one after so many failures: four seconds, more or less.
/// While the server refuses everything, all requests to it are held back anyway.
const LONGEST_THROTTLED_WAIT: u32 = 4;
/// Refusals as "too many requests" that are borne for each attempt allowed.
const THROTTLED_PER_ATTEMPT: u32 = 10;
/// Leases on a window that may run out in a row: more, and the window itself is what ends its workers.
const MOST_LAPSES: u32 = 10;
/// While the source answers other windows, a window that fails is tried this many times as often.
const ALIVE_FACTOR: u32 = 3;

/// How long data may be on the way from Tempo's live store to its block list; then it is looked for again.
const HANDED_OVER_AFTER: Duration = Duration::from_secs(60);
/// Data that is older, seconds, is not on the way any more.
const LONGEST_ON_THE_WAY_S: i64 = 86_400;
/// So many traces, and all of them, have to be gone from a filtered answer before it is not believed.
const FEWEST_GONE: i64 = 10;

/// What works on windows of one source.
#[derive(Debug, Clone)]
pub struct Harvester {
    /// The database.
    pub pool: PgPool,
    /// The source.
    pub client: Arc<Client>,
    /// The name of this process.
    pub holder: Holder,
    /// Where this process counts what it asks.
    pub meter: Meter,
}

/// How work on a window ended.
enum Outcome {
    /// Everything in it is in `found`, or was stored before (`before`); then `seen` are the IDs of that, as far as they are known.
    Done {
        found: Found,
        before: Figures,
        seen: Vec<[u8; 16]>,
    },
    /// It is to be replaced by these, which have spent so many of their attempts already.
    Split(Vec<Piece>, u32),
    /// It failed.
    Failed(Failure),
    /// More traces in one nanosecond of duration, root service and root name than an answer may bring.
    Irreducible(String),
    /// Tempo no longer has what it once showed.
    Vanished(String),
    /// Its answers do not count yet.
    NotYet { wait: Duration, why: String },
    /// This process is to stop, or the window is paused.
    Stopped,
    /// Somebody else has it now, or it was cancelled.
    Lost,
    /// The database fails.
    Database(sqlx::Error),
}

impl From<FinishError> for Outcome {
    fn from(error: FinishError) -> Self {
        match error {
            FinishError::LeaseLost(_) => Self::Lost,
            FinishError::Database(error) => Self::Database(error),
        }
    }
}

impl Harvester {
    /// Takes the window if it is due, works on it until it is done, split or put back, and records that. Returns early,
    /// with the window released, when `stop` is cancelled.
    pub async fn look_at(&self, window_id: i64, stop: &CancellationToken) {
        let claimed = match self.claim(window_id).await {
            Ok(Some(claimed)) => claimed,
            // Done, cancelled, not due or someone else's: the item is dropped.
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(window_id, %error, "cannot take a window; it is put back on the queue later");
                return;
            }
        };
        if claimed.lapsed > MOST_LAPSES {
            let why = format!(
                "given up: {} workers in a row died, or froze, while they worked on it",
                claimed.lapsed
            );
            let given_up = async {
                let mut conn = self.pool.acquire().await?;
                give_up(&mut conn, &claimed, ErrorClass::Passing, why, 0).await
            };
            if let Err(error) = given_up.await {
                tracing::warn!(window = %claimed.window, %error, "cannot give a window up");
            }
            return;
        }
        let mut work = Work::new(self, &claimed);
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => Outcome::Stopped,
            outcome = self.keep_lease(&claimed) => outcome,
            outcome = AssertUnwindSafe(work.fetch()).catch_unwind() => outcome.unwrap_or_else(|_| {
                Outcome::Failed(Failure::new(Class::Passing, "working on this window failed inside tempo-harvest; its log says more"))
            }),
        };
        let requests = work.requests;
        let outcome = match outcome {
            Outcome::Done {
                found,
                before,
                seen,
            } => {
                let outcome = self.believe(&claimed, found, before, seen).await;
                if let Outcome::Vanished(why) | Outcome::Failed(Failure { message: why, .. }) =
                    &outcome
                {
                    work.throw_away(why).await;
                }
                outcome
            }
            outcome => outcome,
        };
        let mut recorded = self.record(&claimed, outcome, requests).await;
        if let Err(FinishError::Database(error)) = &recorded
            && error.as_database_error().is_some()
        {
            // PostgreSQL refuses what came, and would refuse it again: that is a failed attempt.
            tracing::warn!(window = %claimed.window, %error, "PostgreSQL refuses how a window ended");
            let failure = Failure::new(
                Class::Passing,
                format!("PostgreSQL refused to store it: {error}"),
            );
            recorded = self
                .record(&claimed, Outcome::Failed(failure), requests)
                .await;
        }
        if let Err(error) = recorded {
            match error {
                FinishError::LeaseLost(_) => {
                    tracing::debug!(window = %claimed.window, "the lease was lost; nothing stored")
                }
                FinishError::Database(error) => {
                    tracing::warn!(window = %claimed.window, %error, "cannot record how a window ended; it is taken up again when its lease has run out");
                }
            }
        }
    }

    async fn claim(&self, window_id: i64) -> sqlx::Result<Option<Claimed>> {
        let tenant = self.client.source().tenant.as_deref();
        lease::claim(
            &mut *self.pool.acquire().await?,
            window_id,
            &self.holder,
            tenant,
        )
        .await
    }

    /// Renews the lease for as long as it is polled. Ends only when the lease is lost, or the window is paused: what is
    /// being asked for then is given up, and nothing more is asked.
    async fn keep_lease(&self, claimed: &Claimed) -> Outcome {
        loop {
            tokio::time::sleep(lease::RENEW_EVERY).await;
            let renewed =
                async { lease::renew(&mut *self.pool.acquire().await?, claimed.lease).await };
            match renewed.await {
                Ok(Renewal::Held) => {}
                Ok(Renewal::Paused) => return Outcome::Stopped,
                Ok(Renewal::Lost) => return Outcome::Lost,
                // The lease outlasts several renewals; storing checks it anyway.
                Err(error) => tracing::debug!(%error, "cannot renew a lease"),
            }
        }
    }

    /// A later look that does not bring what an earlier one brought is not believed: for a while, between the live store and
    /// the block list, Tempo answers as if there were nothing.
    async fn believe(
        &self,
        claimed: &Claimed,
        found: Found,
        before: Figures,
        mut seen: Vec<[u8; 16]>,
    ) -> Outcome {
        // What came in parts was stored part by part. A repair is somebody's decision to take what is there.
        let later = claimed.earlier_look.is_some() || claimed.look == Look::Sealed;
        let all_known = i64::try_from(seen.len()).is_ok_and(|seen| seen >= before.returned);
        if !later || !all_known || claimed.kind == Kind::Repair {
            return Outcome::Done {
                found,
                before,
                seen,
            };
        }
        seen.extend(found.ids());
        let unseen = async {
            let mut conn = self.pool.acquire().await?;
            traces::unseen(&mut conn, &claimed.dataset, claimed.window, &seen).await
        };
        let (stored, unseen) = match unseen.await {
            Ok(counts) => counts,
            Err(error) => return Outcome::Database(error),
        };
        let vanished = match claimed.query {
            None => unseen > 0,
            // A trace may well cease to match as it grows: only where all have gone is something amiss.
            Some(_) => unseen == stored && stored >= FEWEST_GONE,
        };
        if !vanished {
            return Outcome::Done {
                found,
                before,
                seen,
            };
        }
        let message = format!(
            "Tempo does not show {unseen} of the {stored} traces that are stored from here: they are on the way to its blocks, or \
             lost there; `repair` takes what it shows"
        );
        if claimed.window.end() < Utc::now().timestamp() - LONGEST_ON_THE_WAY_S {
            return Outcome::Vanished(message);
        }
        let mut failure = Failure::new(Class::Passing, message);
        failure.retry_after = Some(HANDED_OVER_AFTER);
        Outcome::Failed(failure)
    }

    async fn record(
        &self,
        claimed: &Claimed,
        outcome: Outcome,
        requests: i32,
    ) -> Result<(), FinishError> {
        let mut conn = match outcome {
            Outcome::Lost => return Err(FinishError::LeaseLost(claimed.lease.window_id)),
            Outcome::Database(error) => return Err(error.into()),
            _ => self.pool.acquire().await?,
        };
        let window = claimed.window;
        match outcome {
            Outcome::Done {
                found, mut before, ..
            } => {
                before.requests = requests;
                let returned = before.returned + i64::try_from(found.len()).unwrap_or(0);
                let new = lease::mark_done(&mut conn, claimed, found, before).await?;
                tracing::debug!(dataset = claimed.dataset, %window, traces = returned, new, requests, "window done");
                let source = &self.client.source().name;
                if self.client.note_silent(false) {
                    tracing::warn!(source, "the source answers again");
                }
                sources::answered(&mut conn, source).await?;
            }
            Outcome::Split(pieces, spent) => {
                lease::split(&mut conn, claimed, &pieces, spent, requests).await?;
                tracing::debug!(dataset = claimed.dataset, %window, pieces = pieces.len(), "window split");
            }
            Outcome::Failed(failure) => {
                self.set_back(&mut conn, claimed, &failure, requests)
                    .await?
            }
            Outcome::Irreducible(error) => {
                give_up(&mut conn, claimed, ErrorClass::Irreducible, error, requests).await?;
                // Once it has been raised, the next attempt is to notice.
                self.client.forget_result_limit();
                sources::forget_result_limit(&mut conn, &self.client.source().name).await?;
            }
            Outcome::Vanished(error) => {
                give_up(&mut conn, claimed, ErrorClass::Passing, error, requests).await?;
            }
            Outcome::NotYet { wait, why } => {
                tracing::info!(dataset = claimed.dataset, %window, why, "window waits");
                lease::release(&mut conn, claimed.lease, wait, Some(&why), requests).await?;
            }
            Outcome::Stopped => {
                lease::release(&mut conn, claimed.lease, Duration::ZERO, None, requests).await?
            }
            Outcome::Lost | Outcome::Database(_) => {}
        }
        Ok(())
    }

    async fn set_back(
        &self,
        conn: &mut sqlx::PgConnection,
        claimed: &Claimed,
        failure: &Failure,
        requests: i32,
    ) -> Result<(), FinishError> {
        let most = self.client.source().limits.max_attempts;
        let failed = claimed.attempts + 1;
        let (class, failed_before, give_up) = match failure.class {
            Class::Query => (ErrorClass::Query, 0, true),
            Class::Access => {
                // A source that has just answered is restarting, or its gateway is.
                let alive = sources::is_alive(&mut *conn, &self.client.source().name).await?;
                let most = if alive {
                    most
                } else {
                    most.min(ACCESS_ATTEMPTS)
                };
                // What is refused to this window is refused to all: none is tried for itself.
                let refused = failed.max(self.client.rounds_shut_out());
                (ErrorClass::Access, refused, refused >= most)
            }
            Class::Throttled => {
                let throttled = claimed.throttled + 1;
                (
                    ErrorClass::Throttled,
                    throttled.min(LONGEST_THROTTLED_WAIT),
                    throttled >= most.saturating_mul(THROTTLED_PER_ATTEMPT),
                )
            }
            Class::Timeout | Class::TooLarge | Class::Limit(_) | Class::Passing => {
                let class = if failure.class == Class::Timeout {
                    ErrorClass::Timeout
                } else {
                    ErrorClass::Passing
                };
                let alive = failed >= most
                    && sources::is_alive(&mut *conn, &self.client.source().name).await?;
                let most = if alive {
                    most.saturating_mul(ALIVE_FACTOR)
                } else {
                    most
                };
                (class, failed, failed >= most)
            }
        };
        let retry_in = (!give_up).then(|| retry::wait(failed_before, failure.retry_after));
        let window = claimed.window;
        let dataset = &claimed.dataset;
        match retry_in {
            Some(wait) => {
                let silent = matches!(
                    class,
                    ErrorClass::Passing | ErrorClass::Timeout | ErrorClass::Access
                );
                if silent && failed > 1 && self.client.note_silent(true) {
                    let source = &self.client.source().name;
                    tracing::warn!(source, error = %failure, "the source fails; its windows wait and are tried again, and `tempo-harvest doctor FILE` says what is wrong");
                }
                tracing::info!(dataset, %window, attempt = failed, wait_ms = wait.as_millis(), error = %failure, "attempt failed; trying again");
            }
            None => {
                tracing::warn!(dataset, %window, attempts = failed, error = %failure, "window failed")
            }
        }
        let setback = Setback {
            class,
            error: failure.message.clone(),
            retry_in,
            requests,
        };
        lease::set_back(&mut *conn, claimed.lease, &setback).await?;
        // A poll goes on: its next ticks ask again, and a stray refusal must not end what others have in hand.
        let all = claimed.kind != Kind::Poll;
        if give_up && all && matches!(class, ErrorClass::Query | ErrorClass::Access) {
            windows::fail_run(&mut *conn, claimed.lease.window_id, class, &failure.message).await?;
        }
        Ok(())
    }
}

/// Fails a window whose further attempts would end as this one did.
async fn give_up(
    conn: &mut sqlx::PgConnection,
    claimed: &Claimed,
    class: ErrorClass,
    error: String,
    requests: i32,
) -> Result<(), FinishError> {
    let class_name = class.name();
    tracing::warn!(dataset = claimed.dataset, window = %claimed.window, class = class_name, error, "window failed");
    let setback = Setback {
        class,
        error,
        retry_in: None,
        requests,
    };
    lease::set_back(conn, claimed.lease, &setback).await
}
