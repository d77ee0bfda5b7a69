//! A process that works: two consumers for each source that has windows, one of them for live ones, the sweep that puts
//! lost windows back on the queue, and the orderly end of all.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::PgPool;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    baseline::pass,
    harvest::Harvester,
    housekeeping,
    job::{ProcessEnv, Source, SourceSpec},
    meter::Meter,
    pace::Together,
    queue::{self, Bell, Consumption, Handler, Lane},
    store::{Holder, OpenError, runs, schema, sources},
    tempo::{Client, gate::Pace},
};

/// How often new sources are looked for.
const DISCOVER_EVERY: Duration = Duration::from_secs(1);
/// How often lost windows are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How often this process offers to keep house: whoever comes first when it is time does.
const OFFER_HOUSEKEEPING_EVERY: Duration = Duration::from_secs(60);
/// How long housekeeping that has begun may go on when the process is to end.
const FINISH_HOUSEKEEPING: Duration = Duration::from_secs(3);
/// How often the limits that any process has learned, and a day has forgotten, are read again.
const READ_LIMITS_EVERY: Duration = Duration::from_secs(60);
/// How long a source that cannot be used is left alone.
const UNUSABLE_FOR: Duration = Duration::from_secs(30);

/// How many live windows of a source one process works on at once: polls need not wait for windows that take long.
/// Requests stay bounded by the source's pace.
const LIVE_AT_ONCE: usize = 2;

/// So many windows more than may be asked for at once are worked on, so that the source need not wait while answers are
/// stored.
pub const STORING: usize = 2;

/// What one process works on.
#[derive(Debug)]
pub struct Worker {
    pool: PgPool,
    holder: Holder,
    /// Sources from job files at hand, which go before what the database has under their names: they may hold secrets
    /// that the database must not.
    at_hand: AtHand,
    /// Work on these sources only; `None`: on all.
    only: Option<HashSet<String>>,
    unusable: Unusable,
    bell: Arc<Bell>,
    meter: Meter,
}

/// Sources from job files at hand, by name. They may change while a worker works.
#[derive(Debug, Clone, Default)]
pub struct AtHand(Arc<Mutex<HashMap<String, Source>>>);

impl AtHand {
    /// Puts a source in the place of one of the same name.
    pub fn put(&self, source: Source) {
        self.lock().insert(source.name.clone(), source);
    }

    /// The source of this name.
    pub fn get(&self, name: &str) -> Option<Source> {
        self.lock().get(name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FromIterator<Source> for AtHand {
    fn from_iter<I: IntoIterator<Item = Source>>(sources: I) -> Self {
        let at_hand = Self::default();
        sources.into_iter().for_each(|source| at_hand.put(source));
        at_hand
    }
}

/// Sources that cannot be worked on here, and why.
pub type Unusable = Arc<Mutex<HashMap<String, String>>>;

/// A source that is being worked on.
struct Consumer {
    stop: CancellationToken,
    spec: Option<serde_json::Value>,
    client: Arc<Client>,
    pace: Arc<Together>,
    limits_read: Instant,
}

/// Keeps house when it is time, first at once: processes that cron starts do not live long.
async fn keep_house(pool: PgPool, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match housekeeping::offer(&pool).await {
            Ok(Some(deleted)) => tracing::debug!(?deleted, "kept house"),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot delete what is no longer needed; trying again later")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(OFFER_HOUSEKEEPING_EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
}

impl Worker {
    /// Works on every source in the ledger.
    pub fn new(pool: PgPool, holder: Holder, at_hand: AtHand) -> Self {
        Self {
            pool,
            holder,
            at_hand,
            only: None,
            unusable: Unusable::default(),
            bell: Arc::default(),
            meter: Meter::default(),
        }
    }

    /// Counts what it asks in this meter.
    #[must_use]
    pub fn metered(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }

    /// Where the sources that cannot be worked on are noted.
    pub fn unusable(&self) -> Unusable {
        Arc::clone(&self.unusable)
    }

    /// Works on these sources only.
    #[must_use]
    pub fn only(mut self, sources: impl IntoIterator<Item = String>) -> Self {
        self.only = Some(sources.into_iter().collect());
        self
    }

    /// Works until `stop` is cancelled, then gives back what is in hand and returns.
    ///
    /// # Errors
    /// If a newer program has upgraded the tables: then this one gives back what is in hand by itself.
    pub async fn run(self, stop: CancellationToken) -> Result<(), OpenError> {
        let stop = stop.child_token();
        let mut consumers: HashMap<String, Consumer> = HashMap::new();
        let mut unusable: HashMap<String, Instant> = HashMap::new();
        let mut tasks = JoinSet::new();
        let mut outcome = Ok(());
        let bell = Arc::clone(&self.bell);
        tasks.spawn(bell.listen(self.pool.clone(), stop.clone()));
        let mut discover = tokio::time::interval(DISCOVER_EVERY);
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        let housekeeping = tokio::spawn(keep_house(self.pool.clone(), stop.clone()));
        let baselines = tokio::spawn(pass::keep(self.pool.clone(), stop.clone()));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = discover.tick() => {
                    if let Some(newer) = self.outdated().await {
                        outcome = Err(newer);
                        stop.cancel();
                        break;
                    }
                    if let Err(error) = self.discover(&mut consumers, &mut unusable, &mut tasks, &stop).await {
                        tracing::warn!(%error, "cannot look for work in the database; trying again");
                    }
                }
                _ = sweep.tick() => {
                    if let Err(error) = self.sweep().await {
                        tracing::warn!(%error, "cannot sweep the ledger; trying again");
                    }
                }
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a consumer ended badly; starting all of them anew");
                        for (_, consumer) in consumers.drain() {
                            consumer.stop.cancel();
                        }
                    }
                }
            }
        }
        while tasks.join_next().await.is_some() {}
        for consumer in consumers.values() {
            consumer.pace.close().await;
        }
        // A pass is one transaction: what is under way is as if it had never begun.
        baselines.abort();
        // What it has not deleted until then is left for the next time.
        let keeping = housekeeping.abort_handle();
        if tokio::time::timeout(FINISH_HOUSEKEEPING, housekeeping)
            .await
            .is_err()
        {
            keeping.abort();
        }
        // Once more, or at all: one that found nothing to do may have ended before the first sweep.
        if outcome.is_ok()
            && let Err(error) = self.sweep().await
        {
            tracing::debug!(%error, "cannot sweep the ledger at the end");
        }
        outcome
    }

    /// What a newer program has made of the tables; `None`: nothing, or it cannot be seen now.
    async fn outdated(&self) -> Option<OpenError> {
        let looked = async { schema::outdated(&mut *self.pool.acquire().await?).await };
        looked.await.unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot see which form the tables have");
            None
        })
    }

    async fn sweep(&self) -> sqlx::Result<()> {
        let put_back = queue::sweep(&self.pool).await?;
        if put_back > 0 {
            tracing::debug!(windows = put_back, "put back on the queue");
        }
        self.close_runs().await
    }

    async fn close_runs(&self) -> sqlx::Result<()> {
        runs::close_finished(&mut *self.pool.acquire().await?).await
    }

    /// Starts a consumer for each source with open windows that has none, and a new one where the source has changed.
    async fn discover(
        &self,
        consumers: &mut HashMap<String, Consumer>,
        unusable: &mut HashMap<String, Instant>,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> sqlx::Result<()> {
        let mut conn = self.pool.acquire().await?;
        for name in sources::with_open_windows(&mut conn).await? {
            if self.only.as_ref().is_some_and(|only| !only.contains(&name))
                || unusable
                    .get(&name)
                    .is_some_and(|until| *until > Instant::now())
            {
                continue;
            }
            let at_hand = self.at_hand.get(&name);
            let spec = match at_hand {
                Some(_) => None,
                None => sources::spec(&mut conn, &name).await?,
            };
            if let Some(consumer) = consumers.get_mut(&name)
                && consumer.spec == spec
                && at_hand
                    .as_ref()
                    .is_none_or(|source| source.is_same(consumer.client.source()))
            {
                if consumer.limits_read.elapsed() > READ_LIMITS_EVERY {
                    consumer
                        .client
                        .set_limits(sources::limits(&mut conn, &name).await?);
                    consumer.limits_read = Instant::now();
                }
                continue;
            }
            let limits = sources::limits(&mut conn, &name).await?;
            let client = self
                .source(&name, at_hand, spec.as_ref())
                .and_then(|source| {
                    let (pool, holder) = (self.pool.clone(), &self.holder);
                    let pace = Arc::new(Together::new(pool, holder, &name, &source.limits));
                    Client::at_pace(source, limits, Arc::clone(&pace) as Arc<dyn Pace>)
                        .map(|client| (client, pace))
                        .map_err(|error| error.to_string())
                });
            match client {
                Ok((client, pace)) => {
                    if let Some(before) = consumers.remove(&name) {
                        tracing::info!(
                            source = name,
                            "the source's definition has changed; using the new one"
                        );
                        before.stop.cancel();
                    }
                    let stop = stop.child_token();
                    let client = Arc::new(client);
                    for lane in [Lane::Background, Lane::Live] {
                        tasks.spawn(self.consume(Arc::clone(&client), lane, stop.clone()));
                    }
                    self.note_unusable(&name, None);
                    let consumer = Consumer {
                        stop,
                        spec,
                        client,
                        pace,
                        limits_read: Instant::now(),
                    };
                    consumers.insert(name, consumer);
                }
                Err(reason) => {
                    tracing::error!(
                        source = name,
                        host = self.holder.as_str(),
                        "cannot work on a source's windows, which stay queued: {reason}"
                    );
                    self.note_unusable(&name, Some(reason));
                    unusable.insert(name, Instant::now() + UNUSABLE_FOR);
                }
            }
        }
        Ok(())
    }

    fn source(
        &self,
        name: &str,
        at_hand: Option<Source>,
        spec: Option<&serde_json::Value>,
    ) -> Result<Source, String> {
        if let Some(source) = at_hand {
            return Ok(source);
        }
        let spec = spec.ok_or_else(|| "its definition is gone from the database".to_owned())?;
        let spec: SourceSpec = serde_json::from_value(spec.clone())
            .map_err(|error| format!("its definition in the database cannot be read: {error}"))?;
        spec.resolve(name, &ProcessEnv).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            problems.join("; ")
        })
    }

    fn note_unusable(&self, name: &str, reason: Option<String>) {
        let mut unusable = self.unusable.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => unusable.insert(name.to_owned(), reason),
            None => unusable.remove(name),
        };
    }

    fn consume(
        &self,
        client: Arc<Client>,
        lane: Lane,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let name = client.source().name.clone();
        let concurrency = match lane {
            Lane::Background => client.source().limits.concurrency + STORING,
            Lane::Live => LIVE_AT_ONCE,
        };
        let harvester = Arc::new(Harvester {
            pool: self.pool.clone(),
            client,
            holder: self.holder.clone(),
            meter: self.meter.clone(),
        });
        let stopped = stop.clone();
        let handler: Handler = Arc::new(move |window_id| {
            let (harvester, stop) = (Arc::clone(&harvester), stopped.clone());
            Box::pin(async move { harvester.look_at(window_id, &stop).await })
        });
        let consumption = Consumption {
            pool: self.pool.clone(),
            bell: Arc::clone(&self.bell),
            source: name,
            lane,
            holder: self.holder.to_string(),
            concurrency,
        };
        queue::consume(consumption, handler, stop)
    }
}
