//! What is collected, what is not, and why not: the ledger read for people and monitors.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::{
    job::{self, SourceSpec},
    store::{
        Look, datasets,
        report::{self, DatasetState, Failed},
        sources, windows,
    },
    window::{Window, WindowSet},
};

/// A dataset: what was asked for, and what of it is there.
#[derive(Debug, Clone)]
pub struct DatasetStatus {
    /// What it is.
    pub state: DatasetState,
    /// Everything that was ever asked for.
    pub requested: WindowSet,
    /// What is completely collected.
    pub covered: WindowSet,
    /// What is not, with reasons, in ascending order.
    pub gaps: Vec<Gap>,
    /// Failed windows that leave a gap.
    pub failed_windows: usize,
}

/// A stretch that was asked for and is not collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The stretch.
    pub window: Window,
    /// Why.
    pub reason: Reason,
}

/// Why a stretch is not collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is queued or being fetched.
    InFlight,
    /// The last attempt failed.
    Failed {
        /// The class of the error.
        class: String,
        /// The error.
        error: String,
        /// Attempts that failed.
        attempts: i32,
    },
    /// Older than what the source keeps: nothing can fill it.
    BeyondRetention,
    /// Too young to be sealed yet: a later run collects it.
    TooYoung,
    /// Nothing has tried since it was asked for: cancelled, or too young then.
    NeverTried,
}

impl Reason {
    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::InFlight => "in flight",
            Self::Failed { class, .. } if class == "irreducible" => "irreducible",
            Self::Failed { .. } => "failed",
            Self::BeyondRetention => "beyond retention",
            Self::TooYoung => "too young",
            Self::NeverTried => "never tried",
        }
    }
}

impl DatasetStatus {
    /// Seconds asked for and not collected though they should be: not those that are too young or beyond retention.
    pub fn missing_s(&self) -> i64 {
        let missing = self
            .gaps
            .iter()
            .filter(|gap| !matches!(gap.reason, Reason::BeyondRetention | Reason::TooYoung));
        missing.map(|gap| gap.window.seconds()).sum()
    }
}

/// All datasets, or the one of this name, or the one that a job of this name fills.
///
/// # Errors
/// If the database refuses.
pub async fn datasets(
    conn: &mut PgConnection,
    name: Option<&str>,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<DatasetStatus>> {
    let mut statuses = Vec::new();
    for state in report::datasets(conn, name).await? {
        let requested = report::requested(conn, &state.name).await?;
        let in_flight = windows::in_flight(conn, &state.name, Look::Sealed).await?;
        let covered = datasets::covered(conn, &state.name, Look::Sealed).await?;
        let failed = report::failed(conn, &state.name).await?;
        let kept_from = retention_s(conn, &state.source)
            .await?
            .map(|kept_s| now.timestamp() - kept_s);
        let settled_until = now.timestamp() - report::settle_s(conn, &state.name).await?;
        let limits = Limits {
            kept_from,
            settled_until,
        };
        let gaps = gaps(&requested, &covered, &in_flight, &failed, limits);
        let missing = requested.minus(&covered);
        let failed_windows = failed
            .iter()
            .filter(|failed| !missing.intersection(&failed.window.into()).is_empty())
            .count();
        statuses.push(DatasetStatus {
            state,
            requested,
            covered,
            gaps,
            failed_windows,
        });
    }
    Ok(statuses)
}

async fn retention_s(conn: &mut PgConnection, source: &str) -> sqlx::Result<Option<i64>> {
    let spec = sources::spec(conn, source).await?;
    let spec: Option<SourceSpec> = spec.and_then(|spec| serde_json::from_value(spec).ok());
    Ok(spec
        .and_then(|spec| job::duration::parse(&spec.retention?.0).ok())
        .and_then(|kept| i64::try_from(kept.as_secs()).ok()))
}

/// What can be collected at present.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// The source has dropped what is older.
    kept_from: Option<i64>,
    /// What is younger cannot be sealed yet.
    settled_until: i64,
}

/// Every second that was asked for and is not covered, with its reason. `failed` has the latest failure first.
fn gaps(
    requested: &WindowSet,
    covered: &WindowSet,
    in_flight: &WindowSet,
    failed: &[Failed],
    limits: Limits,
) -> Vec<Gap> {
    let mut left = requested.minus(covered);
    let mut gaps = Vec::new();
    let mut take = |left: &mut WindowSet, part: &WindowSet, reason: Reason| {
        let taken = left.intersection(part);
        *left = left.minus(&taken);
        gaps.extend(taken.iter().map(|window| Gap {
            window,
            reason: reason.clone(),
        }));
    };
    take(&mut left, in_flight, Reason::InFlight);
    if let Some(kept_from) = limits.kept_from {
        let old = WindowSet::from_iter(Window::new(i64::MIN / 4, kept_from));
        take(&mut left, &old, Reason::BeyondRetention);
    }
    let young = left.minus(&WindowSet::from_iter(Window::new(
        i64::MIN / 4,
        limits.settled_until,
    )));
    take(&mut left, &young, Reason::TooYoung);
    for failure in failed {
        if left.is_empty() {
            break;
        }
        let reason = Reason::Failed {
            class: failure.class.clone(),
            error: failure.error.clone(),
            attempts: failure.attempts,
        };
        take(&mut left, &failure.window.into(), reason);
    }
    let rest = left.clone();
    take(&mut left, &rest, Reason::NeverTried);
    gaps.sort_by_key(|gap| gap.window);
    // Neighbours with one reason are one gap.
    let mut joined: Vec<Gap> = Vec::with_capacity(gaps.len());
    for gap in gaps {
        match joined.last_mut() {
            Some(last) if last.reason == gap.reason && last.window.end() == gap.window.start() => {
                last.window = last.window.until(gap.window);
            }
            _ => joined.push(gap),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(start: i64, end: i64) -> WindowSet {
        Window::new(start, end).into_iter().collect()
    }

    #[test]
    fn every_missing_second_has_one_reason_and_the_latest_failure_counts() {
        let failure = |start, end, error: &str| Failed {
            window: Window::new(start, end).unwrap(),
            class: "passing".to_owned(),
            error: error.to_owned(),
            attempts: 10,
            at: DateTime::UNIX_EPOCH,
        };
        let failed = [failure(50, 60, "new"), failure(40, 60, "old")];
        let gaps = gaps(
            &set(0, 100),
            &set(60, 100),
            &set(30, 40),
            &failed,
            Limits {
                kept_from: Some(10),
                settled_until: 1_000,
            },
        );
        let seen: Vec<(i64, i64, &str)> = gaps
            .iter()
            .map(|gap| (gap.window.start(), gap.window.end(), gap.reason.name()))
            .collect();
        assert_eq!(
            seen,
            [
                (0, 10, "beyond retention"),
                (10, 30, "never tried"),
                (30, 40, "in flight"),
                (40, 50, "failed"),
                (50, 60, "failed")
            ]
        );
        assert!(matches!(&gaps[4].reason, Reason::Failed { error, .. } if error == "new"));
    }
}
