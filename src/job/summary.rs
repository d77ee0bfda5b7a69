//! What a job collects, in one line: for `check`, which has no [`super::Job`] where the environment is missing.

use std::time::Duration;

use chrono_tz::Tz;

use super::diagnostics::quoted;
use super::validate::Validated;
use super::{Backfill, BackfillRange, Order, Poll, Ticks, Verify, duration, instant};

/// A job, as far as it is known without its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The job's name.
    pub name: String,
    /// The dataset that its traces belong to.
    pub dataset: String,
    /// Whether it runs at all.
    pub enabled: bool,
    /// The source's name, where it does not depend on an environment that was not given.
    pub source: Option<String>,
    /// All of it in one line.
    pub summary: String,
    /// What is possible and may not be meant.
    pub warnings: Vec<String>,
}

/// What is younger may be in the hole between Tempo's live store and its block list.
const SEALED_AFTER: Duration = Duration::from_secs(3_600);

/// What is possible and may not be meant: to call complete what Tempo may still hide.
pub(super) fn warnings(
    name: &str,
    backfill: Option<&Backfill>,
    poll: Option<&Poll>,
) -> Vec<String> {
    let settle = backfill.map(|backfill| ("settle", backfill.settle));
    let seal_after = poll.map(|poll| ("seal_after", poll.seal_after));
    let ages = settle.into_iter().chain(seal_after);
    let early = ages.filter(|(_, age)| *age < SEALED_AFTER);
    early
        .map(|(key, _)| {
            format!(
                "job `{name}`: `{key}` is under an hour: so young, Tempo can hide traces from every search for a while, and \
                 what is collected then counts as complete all the same"
            )
        })
        .collect()
}

impl Validated {
    /// The outline of the job `name` with this source.
    pub(super) fn outline(&self, name: &str, source: Option<&str>) -> Outline {
        let what = match &self.select.query {
            Some(query) => quoted(query),
            None => "every trace".to_owned(),
        };
        let from = match source {
            Some(source) => format!(" from `{source}`"),
            None => String::new(),
        };
        let mut parts = vec![format!(
            "{what}{from} into dataset `{}`, detail {}",
            self.dataset, self.select.detail
        )];
        if !self.select.attributes.is_empty() {
            let names: Vec<String> = self
                .select
                .attributes
                .iter()
                .map(|name| format!("`{name}`"))
                .collect();
            parts.push(format!("with the attributes {}", names.join(", ")));
        }
        parts.extend(
            self.backfill
                .as_ref()
                .map(|backfill| backfill_summary(backfill, self.timezone)),
        );
        parts.extend(
            self.poll
                .as_ref()
                .map(|poll| poll_summary(poll, self.timezone)),
        );
        parts.extend(
            self.retention
                .as_ref()
                .map(|retention| format!("kept for {}", duration::format(retention.traces))),
        );
        parts.extend(
            self.verify
                .as_ref()
                .map(|verify| verify_summary(verify, self.timezone)),
        );
        let disabled = if self.enabled { "" } else { " (disabled)" };
        Outline {
            name: name.to_owned(),
            dataset: self.dataset.clone(),
            enabled: self.enabled,
            source: source.map(str::to_owned),
            summary: format!("`{name}`{disabled}: {}", parts.join("; ")),
            warnings: warnings(name, self.backfill.as_ref(), self.poll.as_ref()),
        }
    }
}

fn backfill_summary(backfill: &Backfill, timezone: Tz) -> String {
    let range = match &backfill.range {
        BackfillRange::Last(last) => format!("the last {}", duration::format(*last)),
        BackfillRange::Between { from, to } => {
            format!("{} to {}", instant::format(*from), instant::format(*to))
        }
    };
    let order = match backfill.order {
        Order::NewestFirst => "newest first",
        Order::OldestFirst => "oldest first",
    };
    let when = match &backfill.schedule {
        Some(schedule) => format!(", at `{schedule}` {timezone}"),
        None => String::new(),
    };
    let window = match backfill.longest_window == backfill.window {
        true => format!("of {}", duration::format(backfill.window)),
        // None is written: what Tempo counts decides.
        false => format!("up to {}", duration::format(backfill.longest_window)),
    };
    format!("backfill of {range} in windows {window}, {order}{when}")
}

fn verify_summary(verify: &Verify, timezone: Tz) -> String {
    let depth = match verify.deep {
        true => "deeply",
        false => "by counts",
    };
    let (last, schedule) = (duration::format(verify.last), &verify.schedule);
    format!("the last {last} verified {depth} at `{schedule}` {timezone}")
}

fn poll_summary(poll: &Poll, timezone: Tz) -> String {
    let delay = duration::format(poll.delay);
    match &poll.ticks {
        Ticks::Every(every) => format!(
            "poll every {}, {delay} behind now",
            duration::format(*every)
        ),
        Ticks::Schedule(schedule) => format!("poll at `{schedule}` {timezone}, {delay} behind now"),
    }
}
