//! Misbehaviour on request: what servers, gateways and networks do to a client.
//!
//! Faults are asked one after the other, the first that applies to a request is met, and the request is answered properly where none
//! does. Which answers are spoilt is decided here; how, in `server`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::random::Random;

/// What a `429` says about when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// Nothing, as Tempo itself.
    Absent,
    /// In so many seconds.
    Seconds(u64),
    /// At this time.
    Date(DateTime<Utc>),
}

/// Something that goes wrong.
#[derive(Debug, Clone)]
pub enum Misbehaviour {
    /// 429 `job queue full`.
    TooManyRequests(RetryAfter),
    /// 500 `response larger than the max`: the window holds more than an answer can.
    LargerThan,
    /// This status with a short text: 401, 403, 404, 500, 502, 503.
    Status(u16),
    /// A gateway's 504, after waiting.
    GatewayTimeout {
        /// How long it waits.
        after: Duration,
    },
    /// A gateway's 504 for every request that would take longer than is allowed; others are answered at once.
    GatewayTimeoutByCost {
        /// What a request takes for each second of the window it asks for.
        per_window_second: Duration,
        /// What the gateway allows, and waits.
        allowed: Duration,
    },
    /// A proper answer, after waiting.
    Slow {
        /// How long it waits.
        delay: Duration,
    },
    /// A proper answer in pieces.
    SlowBody {
        /// How many pieces.
        pieces: usize,
        /// The pause before each.
        pause: Duration,
    },
    /// A proper beginning, then the connection is cut.
    CutConnection {
        /// Which part of the body is still sent: 0.0 none, 0.5 half.
        sent: f64,
    },
    /// 200 with the content type of protobuf, but no protobuf.
    Garbage,
    /// 200 with a login page in HTML.
    LoginPage,
    /// 302 to this address.
    Redirect {
        /// Where to.
        location: String,
    },
    /// A proper answer under a wrong content type.
    ContentType(String),
    /// A proper answer, compressed, whose last quarter is missing although the connection ends properly.
    TruncatedGzip,
    /// An answer under this status and content type whose body is a beginning, and then one part over and over.
    Flood {
        /// Its status.
        status: u16,
        /// Its content type.
        content_type: String,
        /// What its body begins with.
        beginning: Vec<u8>,
        /// What comes after that.
        part: Vec<u8>,
        /// So many times; `u64::MAX` is without end.
        times: u64,
        /// Whether it is compressed.
        compressed: bool,
    },
    /// From now on the server allows no more than this many traces a search; answered accordingly.
    LowerLimit(u32),
    /// A proper answer, once released; made by [`super::Control::hold`].
    Hold(Gate),
}

impl Misbehaviour {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::TooManyRequests(_) => "too many requests",
            Self::LargerThan => "larger than",
            Self::Status(_) => "status",
            Self::GatewayTimeout { .. } => "gateway timeout",
            Self::GatewayTimeoutByCost { .. } => "gateway timeout by cost",
            Self::Slow { .. } => "slow",
            Self::SlowBody { .. } => "slow body",
            Self::CutConnection { .. } => "cut connection",
            Self::Garbage => "garbage",
            Self::LoginPage => "login page",
            Self::Redirect { .. } => "redirect",
            Self::ContentType(_) => "content type",
            Self::TruncatedGzip => "truncated gzip",
            Self::Flood { .. } => "flood",
            Self::LowerLimit(_) => "lower limit",
            Self::Hold(_) => "hold",
        }
    }
}

/// Closed until it is opened.
#[derive(Debug, Clone)]
pub struct Gate {
    open: watch::Receiver<bool>,
}

impl Gate {
    /// A closed gate and what opens it; dropping that opens it too.
    pub(super) fn closed() -> (watch::Sender<bool>, Self) {
        let (sender, open) = watch::channel(false);
        (sender, Self { open })
    }

    pub(super) async fn pass(mut self) {
        // An error means that the other end is gone, which opens the gate as well.
        let _ = self.open.wait_for(|open| *open).await;
    }
}

/// How often a fault is met.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Occurrence {
    Next(u32),
    Forever,
    Probability(f64),
}

/// A misbehaviour, and which requests meet it.
#[derive(Debug, Clone)]
pub struct Fault {
    misbehaviour: Misbehaviour,
    occurrence: Occurrence,
    path: Option<String>,
    window_wider_than_s: Option<u64>,
    skip: u32,
}

impl Fault {
    fn new(misbehaviour: Misbehaviour, occurrence: Occurrence) -> Self {
        Self {
            misbehaviour,
            occurrence,
            path: None,
            window_wider_than_s: None,
            skip: 0,
        }
    }

    /// The next `count` requests meet it.
    pub fn next(count: u32, misbehaviour: Misbehaviour) -> Self {
        Self::new(misbehaviour, Occurrence::Next(count))
    }

    /// Every request meets it, until it is withdrawn.
    pub fn forever(misbehaviour: Misbehaviour) -> Self {
        Self::new(misbehaviour, Occurrence::Forever)
    }

    /// Each request meets it with this probability, 0.0 to 1.0, until it is withdrawn.
    pub fn with_probability(probability: f64, misbehaviour: Misbehaviour) -> Self {
        Self::new(misbehaviour, Occurrence::Probability(probability))
    }

    /// Only requests whose path, without the base path, begins like this.
    pub fn on_path(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// Only requests for a window wider than this.
    pub fn on_windows_wider_than_s(mut self, seconds: u64) -> Self {
        self.window_wider_than_s = Some(seconds);
        self
    }

    /// Not the first `count` requests that it applies to.
    pub fn after(mut self, count: u32) -> Self {
        self.skip = count;
        self
    }
}

/// Names a fault, to withdraw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultId(u64);

#[derive(Debug)]
struct Pending {
    id: FaultId,
    fault: Fault,
}

#[derive(Debug)]
struct State {
    pending: Vec<Pending>,
    next_id: u64,
    random: Random,
}

#[derive(Debug)]
pub(super) struct Faults {
    state: Mutex<State>,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: Mutex::new(State {
                pending: Vec::new(),
                next_id: 0,
                random: Random::new(seed),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, fault: Fault) -> FaultId {
        let mut state = self.lock();
        let id = FaultId(state.next_id);
        state.next_id += 1;
        state.pending.push(Pending { id, fault });
        id
    }

    pub(super) fn withdraw(&self, id: FaultId) {
        self.lock().pending.retain(|pending| pending.id != id);
    }

    pub(super) fn clear(&self) {
        self.lock().pending.clear();
    }

    /// What a request meets, if anything.
    pub(super) fn meet(&self, path: &str, window_s: u64) -> Option<Misbehaviour> {
        let mut state = self.lock();
        let State {
            pending, random, ..
        } = &mut *state;
        for position in 0..pending.len() {
            let fault = &mut pending[position].fault;
            let applies = fault
                .path
                .as_ref()
                .is_none_or(|wanted| path.starts_with(wanted.as_str()))
                && fault
                    .window_wider_than_s
                    .is_none_or(|width_s| window_s > width_s)
                && match &fault.misbehaviour {
                    Misbehaviour::GatewayTimeoutByCost {
                        per_window_second,
                        allowed,
                    } => per_window_second.as_secs_f64() * window_s as f64 > allowed.as_secs_f64(),
                    _ => true,
                };
            if !applies {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            match &mut fault.occurrence {
                Occurrence::Next(0) => continue,
                Occurrence::Next(left) => *left -= 1,
                Occurrence::Forever => {}
                Occurrence::Probability(probability) => {
                    if random.unit() >= *probability {
                        continue;
                    }
                }
            }
            let misbehaviour = fault.misbehaviour.clone();
            pending.retain(|pending| pending.fault.occurrence != Occurrence::Next(0));
            return Some(misbehaviour);
        }
        None
    }
}
