//! The work queue: the only file that names apalis.
//!
//! It carries "look at window N, from time T, at priority P" and nothing else. What a window's state is, whether it is
//! due and who holds it stand in the ledger ([`crate::store::windows`], [`crate::store::lease`]); an item that is delivered twice, late or for a
//! window that is done is dropped there. So the handler always tells apalis "ok", and nothing that apalis loses or
//! doubles loses or doubles a window: [`crate::worker`] puts windows back that are due and have no item.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use apalis::prelude::*;
use apalis_postgres::{Config, PostgresStorage};
use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use sqlx::{PgConnection, PgPool, migrate::Migrator, postgres::PgListener};
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often the queue is looked at when no notification comes.
const POLL: Duration = Duration::from_millis(500);
/// Shorter heartbeats than this killed workers when PostgreSQL restarted.
const HEARTBEAT: Duration = Duration::from_secs(10);
const MISSED_HEARTBEATS: usize = 12;
/// How long to wait before a consumer that died is built anew.
const REBUILD_AFTER: Duration = Duration::from_secs(1);
/// How long apalis may take to end when nothing is in hand any more: it sometimes never does.
const END_WITHIN: Duration = Duration::from_secs(1);

/// What is called with the number of a window that may be due.
pub type Handler = Arc<dyn Fn(i64) -> BoxFuture<'static, ()> + Send + Sync>;

/// A work item.
#[derive(Debug, Clone, Copy)]
pub struct Item {
    /// The window to look at.
    pub window_id: i64,
    /// Higher goes first.
    pub priority: i32,
    /// Not before; among items that are due, earlier goes first.
    pub run_at: DateTime<Utc>,
}

/// Creates or upgrades the queue's own tables (schema `apalis`).
///
/// # Errors
/// If they cannot be made. The queue's migration lock then stays held until this process ends: end it.
pub async fn setup(pool: &PgPool) -> Result<(), apalis_postgres::Error> {
    PostgresStorage::setup(pool).await?;
    // Items come and go all the time: vacuumed after a fiftieth has changed, not a fifth.
    sqlx::query(
        "ALTER TABLE apalis.jobs SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
                                      autovacuum_analyze_scale_factor = 0.02)",
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The queue's own migrations.
pub fn migrations() -> Migrator {
    PostgresStorage::migrations()
}

/// Items of this priority and above are live: they wait in a queue of their own, so that consumers busy with long windows
/// do not make them wait.
pub const LIVE_PRIORITY: i32 = 100;

/// Which of a source's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Items below [`LIVE_PRIORITY`].
    Background,
    /// The others.
    Live,
}

impl Lane {
    /// The lane of items of this priority.
    pub fn of(priority: i32) -> Self {
        if priority >= LIVE_PRIORITY {
            Self::Live
        } else {
            Self::Background
        }
    }
}

/// The queue of a source's windows. Whatever a source is called, no two queues have one name.
pub fn name_of(source: &str, lane: Lane) -> String {
    match lane {
        Lane::Background => format!("tempo-harvest/{source}"),
        Lane::Live => format!("tempo-harvest-live/{source}"),
    }
}

/// Puts items on a source's queue, in the caller's transaction.
///
/// # Errors
/// If the database refuses.
pub async fn enqueue(conn: &mut PgConnection, source: &str, items: &[Item]) -> sqlx::Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    let jobs: Vec<Vec<u8>> = items
        .iter()
        .map(|item| item.window_id.to_string().into_bytes())
        .collect();
    let run_at: Vec<DateTime<Utc>> = items.iter().map(|item| item.run_at).collect();
    let priority: Vec<i32> = items.iter().map(|item| item.priority).collect();
    sqlx::query!(
        "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
         SELECT apalis.generate_ulid(), CASE WHEN priority >= $6 THEN $5 ELSE $1 END, job, 'Pending', 0, 5, run_at, priority
         FROM unnest($2::bytea[], $3::timestamptz[], $4::int[]) AS item (job, run_at, priority)",
        name_of(source, Lane::Background),
        &jobs,
        &run_at,
        &priority,
        name_of(source, Lane::Live),
        LIVE_PRIORITY
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives the items of these windows that are still waiting another priority.
///
/// # Errors
/// If the database refuses.
pub async fn reprioritise(
    conn: &mut PgConnection,
    source: &str,
    windows: &[i64],
    priority: i32,
) -> sqlx::Result<()> {
    let jobs: Vec<Vec<u8>> = windows
        .iter()
        .map(|id| id.to_string().into_bytes())
        .collect();
    sqlx::query!(
        "UPDATE apalis.jobs SET priority = $3, job_type = $4 WHERE job_type = ANY($1) AND status = 'Pending' AND job = ANY($2)",
        &[Lane::Background, Lane::Live].map(|lane| name_of(source, lane)),
        &jobs,
        priority,
        name_of(source, Lane::of(priority))
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes everything off the queue that waits for windows of these runs. An item that a living consumer holds stays until
/// that is done with it, which is at once where the window is no longer to be fetched: a consumer whose items vanish takes
/// itself for dead, and drops what else it has in hand.
///
/// # Errors
/// If the database refuses.
pub async fn remove(conn: &mut PgConnection, runs: &[i64]) -> sqlx::Result<u64> {
    Ok(sqlx::query!(
        "DELETE FROM apalis.jobs i USING harvest.windows w
         WHERE w.run_id = ANY($1) AND i.job_type IN ('tempo-harvest/' || w.source, 'tempo-harvest-live/' || w.source)
           AND i.job = w.id::text::bytea
           AND (i.status NOT IN ('Queued', 'Running')
                OR NOT EXISTS (SELECT FROM apalis.workers k WHERE k.id = i.lock_by AND k.last_seen > now() - interval '30 seconds'))",
        runs
    )
    .execute(conn)
    .await?
    .rows_affected())
}

/// Puts every queued window of these runs that has no item waiting on the queue, for when it is due.
///
/// # Errors
/// If the database refuses.
pub async fn put_back(conn: &mut PgConnection, runs: &[i64]) -> sqlx::Result<u64> {
    Ok(sqlx::query!(
        "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
         SELECT apalis.generate_ulid(), w.queue, w.item, 'Pending', 0, 5,
                CASE WHEN w.next_try_at > now() THEN w.next_try_at ELSE least(w.queue_at, now()) END, w.priority
         FROM (SELECT run_id, state, next_try_at, queue_at, priority, id::text::bytea AS item,
                      CASE WHEN priority >= $2 THEN 'tempo-harvest-live/' ELSE 'tempo-harvest/' END || source AS queue
               FROM harvest.windows) w
         WHERE w.run_id = ANY($1) AND w.state = 'queued'
           AND NOT EXISTS (SELECT FROM apalis.jobs waiting
                           WHERE waiting.job_type = w.queue AND waiting.status = 'Pending' AND waiting.job = w.item)",
        runs,
        LIVE_PRIORITY
    )
    .execute(conn)
    .await?
    .rows_affected())
}

/// Puts back windows that are due, have nobody working on them and have no item waiting, unless another process is doing
/// that. Returns how many.
///
/// # Errors
/// If the database refuses.
pub async fn sweep(pool: &PgPool) -> sqlx::Result<u64> {
    let mut tx = pool.begin().await?;
    let alone = sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_xact_lock(hashtextextended('tempo-harvest/sweep', 0)) AS "alone!""#
    )
    .fetch_one(&mut *tx)
    .await?;
    if !alone {
        return Ok(0);
    }
    let put_back = sqlx::query!(
        "WITH due AS (
             SELECT id, priority, queue_at,
                    CASE WHEN priority >= $1 THEN 'tempo-harvest-live/' ELSE 'tempo-harvest/' END || source AS queue
             FROM harvest.windows w
             WHERE ((state = 'queued' AND next_try_at < now() - interval '2 seconds')
                    OR (state = 'running' AND lease_expires_at < now()))
               AND NOT EXISTS (SELECT FROM harvest.paused_runs p WHERE p.run_id = w.run_id)
         )
         INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
         SELECT apalis.generate_ulid(), due.queue, due.id::text::bytea, 'Pending', 0, 5,
                least(due.queue_at, now()), due.priority
         FROM due
         WHERE NOT EXISTS (
             SELECT FROM apalis.jobs waiting
             WHERE waiting.job_type = due.queue AND waiting.status = 'Pending' AND waiting.job = due.id::text::bytea
         )",
        LIVE_PRIORITY
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    // Items that were delivered are of no more use, nor are workers that left nothing behind.
    sqlx::query!(
        "DELETE FROM apalis.jobs
         WHERE job_type LIKE ANY ('{tempo-harvest/%,tempo-harvest-live/%}') AND status IN ('Done', 'Killed')"
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "DELETE FROM apalis.jobs
         WHERE job_type LIKE ANY ('{tempo-harvest/%,tempo-harvest-live/%}')
           AND status IN ('Queued', 'Running') AND lock_at < now() - interval '10 minutes'"
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "DELETE FROM apalis.workers w
         WHERE w.worker_type LIKE ANY ('{tempo-harvest/%,tempo-harvest-live/%}') AND w.last_seen < now() - interval '10 minutes'
           AND NOT EXISTS (SELECT FROM apalis.jobs j WHERE j.lock_by = w.id)"
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(put_back)
}

/// Deletes items that have waited for an hour and whose windows are no longer open: a source that nobody works on any more
/// has nobody to drop them. Returns how many.
///
/// # Errors
/// If the database refuses.
pub async fn drop_leftovers(conn: &mut PgConnection) -> sqlx::Result<u64> {
    Ok(sqlx::query!(
        "DELETE FROM apalis.jobs j
         WHERE j.job_type LIKE ANY ('{tempo-harvest/%,tempo-harvest-live/%}') AND j.status IN ('Pending', 'Failed')
           AND j.run_at < now() - interval '1 hour'
           AND NOT EXISTS (SELECT FROM harvest.windows w WHERE w.state IN ('queued', 'running') AND w.id::text::bytea = j.job)"
    )
    .execute(conn)
    .await?
    .rows_affected())
}

/// Whether a process lives that takes windows of this source, or has one in hand.
///
/// # Errors
/// If the database refuses.
pub async fn is_worked_on(conn: &mut PgConnection, source: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM apalis.workers
                          WHERE worker_type = ANY($1) AND last_seen > now() - interval '30 seconds')
                  OR EXISTS (SELECT FROM harvest.windows
                             WHERE source = $2 AND state = 'running' AND lease_expires_at > now()) AS "worked_on!""#,
        &[Lane::Background, Lane::Live].map(|lane| name_of(source, lane)),
        source
    )
    .fetch_one(conn)
    .await
}

/// Notes that a process takes no more items off a queue: nobody is to wait for its heartbeat.
async fn leave(pool: &PgPool, queue: &str, holder: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE apalis.workers SET last_seen = last_seen - interval '1 minute' WHERE worker_type = $1 AND starts_with(id, $2)",
        queue,
        format!("{holder}/")
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Where PostgreSQL tells of new items (apalis' trigger on its table).
const CHANNEL: &str = "apalis::job::insert";

/// Rings when an item comes that is due at once. All queues of a process share it, because it keeps a connection, and one
/// with a session of its own: behind a pooler in transaction mode it stays silent, and the timer has to do.
#[derive(Debug, Default)]
pub struct Bell {
    queues: Mutex<HashMap<String, Arc<Notify>>>,
}

impl Bell {
    /// Listens until `stop`; reopens the connection when it is lost.
    pub async fn listen(self: Arc<Self>, pool: PgPool, stop: CancellationToken) {
        let listening = async {
            loop {
                if let Err(error) = self.ring(&pool).await {
                    tracing::debug!(%error, "no news of the queue; looking at it now and then");
                }
                tokio::time::sleep(REBUILD_AFTER).await;
            }
        };
        tokio::select! {
            () = listening => {}
            () = stop.cancelled() => {}
        }
    }

    async fn ring(&self, pool: &PgPool) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        // An error, or nothing, is a lost connection.
        while let Some(news) = listener.try_recv().await? {
            let item: serde_json::Value = serde_json::from_str(news.payload()).unwrap_or_default();
            let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(queue) = item["job_type"].as_str().and_then(|name| queues.get(name)) {
                queue.notify_one();
            }
        }
        Ok(())
    }

    fn of(&self, queue: &str) -> Arc<Notify> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(queues.entry(queue.to_owned()).or_default())
    }
}

/// Which items are taken, and by whom.
#[derive(Debug, Clone)]
pub struct Consumption {
    /// The database.
    pub pool: PgPool,
    /// Tells of new items.
    pub bell: Arc<Bell>,
    /// The source.
    pub source: String,
    /// Which of its queues.
    pub lane: Lane,
    /// Names this process; each consumer gets a name of its own, for a name that is used twice hangs apalis.
    pub holder: String,
    /// How many at once.
    pub concurrency: usize,
}

/// Takes items off one of a source's queues until `stop`; then waits for those in hand.
pub async fn consume(consumption: Consumption, handler: Handler, stop: CancellationToken) {
    let Consumption {
        pool,
        bell,
        source,
        lane,
        holder,
        concurrency,
    } = consumption;
    let mut generation = 0u32;
    let left = (pool.clone(), name_of(&source, lane));
    while !stop.is_cancelled() {
        generation += 1;
        let queue = name_of(&source, lane);
        let worker_name = format!("{holder}/{queue}/{generation}");
        let config = Config::default()
            .queue(queue.as_str())
            // Windows are long: prefetching them is unfair, and unsafe while no heartbeat goes out for them.
            .batch_size(1)
            .heartbeat_interval(HEARTBEAT)
            .missed_heartbeats(MISSED_HEARTBEATS);
        let (rings, in_hand) = (bell.of(&queue), TaskTracker::new());
        let (pool, handler) = (pool.clone(), tracked(&handler, &in_hand));
        let monitor = Monitor::new().register(move |_| {
            WorkerBuilder::new(worker_name.clone())
                .backend(
                    PostgresStorage::<serde_json::Value>::new(&pool)
                        .with_config(config.clone())
                        .poll_with_strategy(Wake::new(Arc::clone(&rings))),
                )
                .data(Arc::clone(&handler))
                .concurrency(concurrency)
                .build(deliver)
        });
        let context = monitor.context();
        // apalis polls the handlers itself, so it is polled until the last of them has returned; it need not end by itself.
        let ended = async {
            stop.cancelled().await;
            // Fails only when the monitor has ended already.
            let _ended = context.shutdown();
            in_hand.close();
            in_hand.wait().await;
            tokio::time::sleep(END_WITHIN).await;
        };
        let outcome = tokio::select! {
            outcome = monitor.run() => outcome,
            () = ended => break,
        };
        if stop.is_cancelled() {
            break;
        }
        match outcome {
            Ok(()) => tracing::warn!(source, "the queue's consumer ended; starting it again"),
            Err(error) => {
                tracing::warn!(source, %error, "the queue's consumer died; starting it again")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(REBUILD_AFTER) => {}
            () = stop.cancelled() => {}
        }
    }
    let (pool, queue) = left;
    let left = tokio::time::timeout(END_WITHIN, leave(&pool, &queue, &holder)).await;
    if !matches!(left, Ok(Ok(()))) {
        tracing::debug!(source, "could not note that the queue's consumer has ended");
    }
}

/// The handler, with its calls counted until they have returned.
fn tracked(handler: &Handler, in_hand: &TaskTracker) -> Handler {
    let (handler, in_hand) = (Arc::clone(handler), in_hand.clone());
    Arc::new(move |window_id| Box::pin(in_hand.track_future(handler(window_id))))
}

/// Hands an item on. The payload is taken as any JSON value, because one that does not decode would kill the worker; a
/// panic is caught here, because apalis' own layer leaves the item running for ever.
async fn deliver(payload: serde_json::Value, handler: Data<Handler>) -> Result<(), BoxDynError> {
    let Some(window_id) = payload.as_i64() else {
        tracing::warn!(%payload, "an item on the queue names no window; dropped");
        return Ok(());
    };
    let work = std::panic::AssertUnwindSafe(handler(window_id)).catch_unwind();
    if work.await.is_err() {
        tracing::error!(
            window_id,
            "working on a window panicked; it is taken up again when its lease has run out"
        );
    }
    Ok(())
}

/// When to look at the queue: when the bell rings, and every [`POLL`] anyway. apalis' own interval stops after a while of
/// idleness, and its listener dies silently with its connection.
struct Wake {
    tick: Interval,
    bell: Arc<Notify>,
    rings: Pin<Box<OwnedNotified>>,
}

impl Wake {
    fn new(bell: Arc<Notify>) -> Self {
        let mut tick = interval(POLL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            tick,
            rings: Box::pin(Arc::clone(&bell).notified_owned()),
            bell,
        }
    }
}

impl PollStrategy for Wake {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        let mut fired = false;
        // Until both are pending: only then is the next wake-up armed.
        while self.tick.poll_tick(cx).is_ready() {
            fired = true;
        }
        while self.rings.as_mut().poll(cx).is_ready() {
            fired = true;
            self.rings = Box::pin(Arc::clone(&self.bell).notified_owned());
        }
        if fired {
            Poll::Ready(Some(()))
        } else {
            Poll::Pending
        }
    }
}
