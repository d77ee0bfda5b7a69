//! The server's own clock: what its `Date` header says, and what decides how old data is.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::store::delta;

/// Where a simulated server has its time from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockSetting {
    /// The machine's clock, wrong by this much: positive is fast.
    Offset(TimeDelta),
    /// A clock that stands still until it is set or advanced.
    Fixed(DateTime<Utc>),
}

impl Default for ClockSetting {
    fn default() -> Self {
        Self::Offset(TimeDelta::zero())
    }
}

#[derive(Debug)]
pub(super) struct Clock {
    setting: Mutex<ClockSetting>,
}

impl Clock {
    pub(super) fn new(setting: ClockSetting) -> Self {
        Self {
            setting: Mutex::new(setting),
        }
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        match *self.setting.lock().unwrap_or_else(PoisonError::into_inner) {
            ClockSetting::Offset(offset) => Utc::now() + offset,
            ClockSetting::Fixed(time) => time,
        }
    }

    pub(super) fn set(&self, setting: ClockSetting) {
        *self.setting.lock().unwrap_or_else(PoisonError::into_inner) = setting;
    }

    pub(super) fn advance(&self, by: Duration) {
        let mut setting = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *setting {
            ClockSetting::Offset(offset) => *offset += delta(by),
            ClockSetting::Fixed(time) => *time += delta(by),
        }
    }
}

/// A time as the `Date` and `Retry-After` headers write it.
pub(super) fn http_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
