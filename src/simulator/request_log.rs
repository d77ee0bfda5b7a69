//! Every request that reached the simulator, so that a test can say what was asked, how often, and how much of it at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::params::Params;

/// One request.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// Its place in the log, from 0.
    pub number: usize,
    /// Path, with the base path.
    pub path: String,
    /// The query as it was sent, without the question mark.
    pub query: String,
    /// Headers by lower-case name. The values of `authorization` and `cookie` are withheld.
    pub headers: Vec<(String, String)>,
    /// When it arrived.
    pub at: Instant,
    /// When it arrived by the server's clock.
    pub server_time: DateTime<Utc>,
    /// Requests under way when it arrived, itself included.
    pub in_flight: usize,
    /// Status of the answer; `None` while it is under way, and for good if the client left.
    pub status: Option<u16>,
    /// How long the answer took; `None` as for `status`.
    pub took: Option<Duration>,
    /// Size of the answer's body in bytes, as sent.
    pub body_bytes: usize,
    /// Name of the misbehaviour it met.
    pub fault: Option<&'static str>,
}

impl RequestRecord {
    /// A parameter of the query, decoded; `None` when absent or empty.
    pub fn param(&self, name: &str) -> Option<String> {
        Params::parse(Some(&self.query))
            .get(name)
            .map(str::to_owned)
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Width of the window asked for, in seconds; 0 where there is none.
    pub fn window_s(&self) -> u64 {
        let bound = |name| self.param(name).and_then(|text| text.parse::<u64>().ok());
        match (bound("start"), bound("end")) {
            (Some(start_s), Some(end_s)) => end_s.saturating_sub(start_s),
            _ => 0,
        }
    }
}

/// How far things have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) arrived: usize,
    pub(super) answered: usize,
    pub(super) held: usize,
    in_flight: usize,
}

#[derive(Debug)]
pub(super) struct RequestLog {
    records: Mutex<Vec<RequestRecord>>,
    progress: watch::Sender<Progress>,
}

impl RequestLog {
    pub(super) fn new() -> Self {
        Self {
            records: Mutex::new(Vec::new()),
            progress: watch::Sender::new(Progress::default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RequestRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn records(&self) -> Vec<RequestRecord> {
        self.lock().clone()
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
        self.progress.send_modify(|progress| {
            progress.arrived = 0;
            progress.answered = 0;
        });
    }

    /// Takes down a request that has just arrived; it counts as under way for as long as the returned value lives.
    pub(super) fn arrive(
        self: &Arc<Self>,
        path: &str,
        query: &str,
        headers: Vec<(String, String)>,
        server_time: DateTime<Utc>,
    ) -> InFlight {
        let mut records = self.lock();
        let number = records.len();
        let in_flight = self.progress.borrow().in_flight + 1;
        let at = Instant::now();
        records.push(RequestRecord {
            number,
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            at,
            server_time,
            in_flight,
            status: None,
            took: None,
            body_bytes: 0,
            fault: None,
        });
        self.progress.send_modify(|progress| {
            progress.arrived += 1;
            progress.in_flight += 1;
        });
        drop(records);
        InFlight {
            log: Arc::clone(self),
            number,
            at,
        }
    }

    pub(super) fn held(&self, change: isize) {
        self.progress.send_modify(|progress| {
            progress.held = progress.held.saturating_add_signed(change);
        });
    }

    /// Waits until this holds.
    pub(super) async fn wait_until(&self, mut reached: impl FnMut(&Progress) -> bool) {
        let mut progress = self.progress.subscribe();
        // The sender lives as long as this log, so waiting cannot fail.
        let _ = progress.wait_for(|progress| reached(progress)).await;
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct InFlight {
    log: Arc<RequestLog>,
    number: usize,
    at: Instant,
}

impl InFlight {
    pub(super) fn meets(&self, fault: &'static str) {
        self.change(|record| record.fault = Some(fault));
    }

    pub(super) fn answered(&self, status: u16, body_bytes: usize) {
        let took = self.at.elapsed();
        self.change(|record| {
            record.status = Some(status);
            record.took = Some(took);
            record.body_bytes = body_bytes;
        });
        self.log
            .progress
            .send_modify(|progress| progress.answered += 1);
    }

    fn change(&self, change: impl FnOnce(&mut RequestRecord)) {
        // The log may have been cleared meanwhile.
        if let Some(record) = self
            .log
            .lock()
            .get_mut(self.number)
            .filter(|record| record.at == self.at)
        {
            change(record);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.log
            .progress
            .send_modify(|progress| progress.in_flight -= 1);
    }
}
