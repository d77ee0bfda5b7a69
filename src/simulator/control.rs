//! The handle on a running simulator: its faults, its clock, its data, and what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::clock::{Clock, ClockSetting};
use super::faults::{Fault, FaultId, Faults, Gate, Misbehaviour};
use super::population::{Population, TraceTruth};
use super::random::Random;
use super::request_log::{RequestLog, RequestRecord};
use super::span::TraceFragment;
use super::store::Store;
use super::{Config, Limits, Tenancy};

/// The tenant of a Tempo without tenants.
pub(super) const SINGLE_TENANT: &str = "single-tenant";

/// What can be changed while the simulator runs.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) base_path: String,
    pub(super) limits: Limits,
    pub(super) timing: super::Timing,
    pub(super) credentials: super::Credentials,
    pub(super) metrics_enabled: bool,
    pub(super) protobuf: bool,
    pub(super) settled_blocks: u32,
    pub(super) reported_version: String,
}

/// Everything the server and its handles have in common.
#[derive(Debug)]
pub(super) struct Shared {
    settings: RwLock<Settings>,
    pub(super) multi_tenant: bool,
    pub(super) stores: RwLock<BTreeMap<String, Store>>,
    pub(super) clock: Clock,
    pub(super) faults: Faults,
    pub(super) log: Arc<RequestLog>,
    random: Mutex<Random>,
}

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        let (multi_tenant, populations) = match config.tenancy {
            Tenancy::Single(population) => (
                false,
                BTreeMap::from([(SINGLE_TENANT.to_owned(), population)]),
            ),
            Tenancy::Multi(populations) => (true, populations),
        };
        let stores = populations
            .into_iter()
            .map(|(tenant, population)| (tenant, Store::new(population)))
            .collect();
        Self {
            settings: RwLock::new(Settings {
                base_path: config.base_path.trim_end_matches('/').to_owned(),
                limits: config.limits,
                timing: config.timing,
                credentials: config.credentials,
                metrics_enabled: config.metrics_enabled,
                protobuf: config.protobuf,
                settled_blocks: config.settled_blocks,
                reported_version: config.reported_version,
            }),
            multi_tenant,
            stores: RwLock::new(stores),
            clock: Clock::new(config.clock),
            faults: Faults::new(config.seed),
            log: Arc::new(RequestLog::new()),
            random: Mutex::new(Random::new(config.seed)),
        }
    }

    pub(super) fn settings<T>(&self, read: impl FnOnce(&Settings) -> T) -> T {
        read(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        change(
            &mut self
                .settings
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Works on a tenant's store; a tenant not met before has an empty one.
    pub(super) fn with_store<T>(&self, tenant: &str, work: impl FnOnce(&mut Store) -> T) -> T {
        let mut stores = self.stores.write().unwrap_or_else(PoisonError::into_inner);
        let store = stores
            .entry(tenant.to_owned())
            .or_insert_with(|| Store::new(Arc::new(Population::empty())));
        work(store)
    }

    pub(super) fn next_random(&self) -> u64 {
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
    }
}

/// A handle on a running simulator. Clones are handles on the same one.
///
/// What concerns a tenant concerns the only one, or, with several, the one chosen by [`Control::tenant`].
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
    tenant: String,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            tenant: SINGLE_TENANT.to_owned(),
        }
    }

    /// A handle that works on this tenant's data.
    pub fn tenant(&self, tenant: &str) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            tenant: tenant.to_owned(),
        }
    }

    /// Has requests meet this fault, after the ones added before.
    pub fn add_fault(&self, fault: Fault) -> FaultId {
        self.shared.faults.add(fault)
    }

    /// Ends a fault; nothing happens when it has ended already.
    pub fn withdraw_fault(&self, id: FaultId) {
        self.shared.faults.withdraw(id);
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Holds back the answers to all requests whose path begins like this, until the returned value releases them.
    pub fn hold(&self, path: &str) -> Hold {
        let (open, gate) = Gate::closed();
        let fault = self.add_fault(Fault::forever(Misbehaviour::Hold(gate)).on_path(path));
        Hold {
            open,
            fault,
            shared: Arc::clone(&self.shared),
        }
    }

    /// Waits until `count` requests are held back at once.
    pub async fn wait_for_held(&self, count: usize) {
        self.shared
            .log
            .wait_until(|progress| progress.held >= count)
            .await;
    }

    /// All requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.shared.log.records()
    }

    /// Forgets all requests so far; counting starts again.
    pub fn forget_requests(&self) {
        self.shared.log.clear();
    }

    /// Waits until `count` requests have arrived since the start, or since the last [`Self::forget_requests`].
    pub async fn wait_for_requests(&self, count: usize) {
        self.shared
            .log
            .wait_until(|progress| progress.arrived >= count)
            .await;
    }

    /// Waits until `count` requests have been answered, likewise.
    pub async fn wait_for_answers(&self, count: usize) {
        self.shared
            .log
            .wait_until(|progress| progress.answered >= count)
            .await;
    }

    /// The most requests that were under way at once.
    pub fn most_in_flight(&self) -> usize {
        self.requests()
            .iter()
            .map(|request| request.in_flight)
            .max()
            .unwrap_or(0)
    }

    /// The most requests that arrived within any span of time of this length.
    pub fn most_within(&self, length: Duration) -> usize {
        let arrivals: Vec<_> = self.requests().iter().map(|request| request.at).collect();
        (0..arrivals.len())
            .map(|first| {
                arrivals[first..]
                    .iter()
                    .take_while(|at| at.duration_since(arrivals[first]) < length)
                    .count()
            })
            .max()
            .unwrap_or(0)
    }

    /// The server's time.
    pub fn now(&self) -> DateTime<Utc> {
        self.shared.clock.now()
    }

    /// Sets the server's clock.
    pub fn set_clock(&self, setting: ClockSetting) {
        self.shared.clock.set(setting);
    }

    /// Moves the server's clock on.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(by);
    }

    /// Changes what the server allows.
    pub fn change_limits(&self, change: impl FnOnce(&mut Limits)) {
        self.shared
            .change_settings(|settings| change(&mut settings.limits));
    }

    /// Switches counting on or off.
    pub fn enable_metrics(&self, enabled: bool) {
        self.shared
            .change_settings(|settings| settings.metrics_enabled = enabled);
    }

    /// Sends spans, which arrive now by the server's clock.
    pub fn push(&self, fragment: TraceFragment) {
        let (now, timing) = self.now_and_timing();
        self.shared.with_store(&self.tenant, |store| {
            store.catch_up(now, &timing);
            store.push(fragment, now, &timing);
        });
    }

    /// Writes all spans that wait into the head block, as one flush.
    pub fn flush(&self) {
        let (now, timing) = self.now_and_timing();
        self.shared.with_store(&self.tenant, |store| {
            store.catch_up(now, &timing);
            store.flush(now);
        });
    }

    /// Seals the head block, which joins the fragments in it; the next flush begins another.
    pub fn seal(&self) {
        let (now, timing) = self.now_and_timing();
        self.shared.with_store(&self.tenant, |store| {
            store.catch_up(now, &timing);
            store.seal(now, &timing);
        });
    }

    /// Joins all fragments of all blocks, and settles them.
    pub fn compact(&self) {
        let (now, timing) = self.now_and_timing();
        self.shared.with_store(&self.tenant, |store| {
            store.catch_up(now, &timing);
            store.compact();
        });
    }

    /// The settled population.
    pub fn population(&self) -> Arc<Population> {
        self.shared
            .with_store(&self.tenant, |store| Arc::clone(&store.settled))
    }

    /// The truth about every trace, the settled and the pushed ones, by start.
    pub fn truth(&self) -> Vec<TraceTruth> {
        let everything = self
            .shared
            .with_store(&self.tenant, |store| store.everything());
        Population::from_traces(everything).traces().collect()
    }

    /// Every trace whole, span by span.
    pub fn traces(&self) -> Vec<TraceFragment> {
        let everything = self
            .shared
            .with_store(&self.tenant, |store| store.everything());
        Population::from_traces(everything).fragments().collect()
    }

    fn now_and_timing(&self) -> (DateTime<Utc>, super::Timing) {
        let timing = self.shared.settings(|settings| settings.timing);
        (self.now(), timing)
    }
}

/// Answers held back; dropping it releases them.
#[derive(Debug)]
pub struct Hold {
    open: watch::Sender<bool>,
    fault: FaultId,
    shared: Arc<Shared>,
}

impl Hold {
    /// Lets the held requests be answered, and later ones pass.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.faults.withdraw(self.fault);
        self.open.send_replace(true);
    }
}
