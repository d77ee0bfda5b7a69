//! What is about to go wrong, or goes wrong, said in one place: for the log of `work`, for `status`, `stats`, `/metrics` and
//! the dashboard.
//!
//! The rules are pure, over what [`crate::status`] and [`crate::store::warnings`] have read; every process on a database finds
//! the same. A warning holds as long as its rule does. What is missing, and why, is said by [`crate::gaps`]; here only that
//! something is.

use std::{collections::HashMap, fmt, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::{
    status::{self, DatasetStatus, GROWTH_OF, SEALED_STRETCHES},
    store::{
        polls,
        warnings::{self, LiveWindows, SourceState},
    },
    words::{length, many},
};

/// A live window may hold this share of what one search may bring.
pub const NEAR_LIMIT: f64 = 0.8;
/// Live windows of the last hour count.
const LIVE_WINDOWS_OF: TimeDelta = TimeDelta::hours(1);
/// How much further than its job file says an edge may lie behind the present, seconds.
const EDGE_SLACK_S: i64 = 60;
/// A backlog may grow by so many seconds while [`GROWTH_OF`] pass: a third of them.
const MOST_GROWTH_S: i64 = 300;
/// How long a source may leave failing windows without an answer.
const SILENCE: TimeDelta = TimeDelta::minutes(1);
/// How long a source may be asked less than its limits allow.
const HELD_BACK: TimeDelta = TimeDelta::minutes(10);
/// How often `work` looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is warned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A poll's window holds nearly as much as one search may bring.
    NearLimit,
    /// More comes due than is collected.
    BacklogGrowing,
    /// A poll's newest window lies further behind the present than it should.
    EdgeBehind,
    /// Traces keep coming later than `lookback` looks.
    LateTraces,
    /// Something is missing that nobody is fetching.
    Gaps,
    /// A source fails, and has not answered for a while.
    SourceSilent,
    /// A source has been asked less than its limits allow for a while.
    SourceHeldBack,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::NearLimit,
        Self::BacklogGrowing,
        Self::EdgeBehind,
        Self::LateTraces,
        Self::Gaps,
        Self::SourceSilent,
        Self::SourceHeldBack,
    ];

    /// Its name in logs, metrics and JSON; it never changes.
    pub fn name(self) -> &'static str {
        match self {
            Self::NearLimit => "near_limit",
            Self::BacklogGrowing => "backlog_growing",
            Self::EdgeBehind => "edge_behind",
            Self::LateTraces => "late_traces",
            Self::Gaps => "gaps",
            Self::SourceSilent => "source_silent",
            Self::SourceHeldBack => "source_held_back",
        }
    }
}

/// A warning.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Warning {
    /// What is warned of.
    pub name: Kind,
    /// The dataset; `None`: the source as a whole.
    pub dataset: Option<String>,
    /// The job; `None`: no single one.
    pub job: Option<String>,
    /// The source.
    pub source: String,
    /// Since when, as far as the ledger tells.
    pub since: Option<DateTime<Utc>>,
    /// What is seen, with its figures.
    pub summary: String,
    /// What to do.
    pub remedy: String,
}

impl Warning {
    /// What it is about: warnings of one key are one warning that goes on.
    pub fn key(&self) -> (Kind, Option<&str>, Option<&str>, &str) {
        (
            self.name,
            self.dataset.as_deref(),
            self.job.as_deref(),
            &self.source,
        )
    }

    /// Whether it is about this dataset, or about the source that it comes from.
    pub fn is_about(&self, dataset: &str, source: &str) -> bool {
        match &self.dataset {
            Some(name) => name == dataset,
            None => self.source == source,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.name.name(), self.summary, self.remedy)
    }
}

/// What holds now.
///
/// # Errors
/// If the database refuses.
pub async fn current(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<Vec<Warning>> {
    let statuses = status::datasets(&mut *conn, None, now).await?;
    of_statuses(conn, &statuses, now).await
}

/// What holds now of datasets whose status was read.
///
/// # Errors
/// If the database refuses.
pub async fn of_statuses(
    conn: &mut PgConnection,
    statuses: &[DatasetStatus],
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Warning>> {
    let signs = signs(conn, statuses, now).await?;
    Ok(of(statuses, &signs, now))
}

/// What warnings rest on beside the status of datasets.
#[derive(Debug, Clone, Default)]
pub struct Signs {
    /// How full the live windows of the last hour were, by dataset.
    pub live: Vec<LiveWindows>,
    /// How sources answer.
    pub sources: Vec<SourceState>,
}

/// Reads what warnings about these datasets rest on.
///
/// # Errors
/// If the database refuses.
pub async fn signs(
    conn: &mut PgConnection,
    statuses: &[DatasetStatus],
    now: DateTime<Utc>,
) -> sqlx::Result<Signs> {
    let polled = statuses.iter().filter(|status| status.live.is_some());
    let polled: Vec<String> = polled.map(|status| status.state.name.clone()).collect();
    Ok(Signs {
        live: warnings::live_windows(&mut *conn, &polled, now - LIVE_WINDOWS_OF, NEAR_LIMIT)
            .await?,
        sources: warnings::sources(conn).await?,
    })
}

/// What holds, by dataset and source.
pub fn of(statuses: &[DatasetStatus], signs: &Signs, now: DateTime<Utc>) -> Vec<Warning> {
    let mut found = Vec::new();
    for status in statuses {
        let mut live = signs.live.iter();
        let live = live.find(|live| live.dataset == status.state.name);
        found.extend(live.and_then(|live| near_limit(status, live)));
        found.extend(edge_behind(status, now));
        found.extend(backlog_growing(status, now));
        found.extend(late_traces(status));
        found.extend(gaps(status));
    }
    for source in &signs.sources {
        let of_source = |status: &&DatasetStatus| status.state.source == source.name;
        let Some(status) = statuses.iter().find(of_source) else {
            continue;
        };
        found.extend(silent(source, now));
        found.extend(held_back(&source.name, status, now));
    }
    found
}

/// A warning about a dataset.
fn about(status: &DatasetStatus, name: Kind, summary: String, remedy: &str) -> Warning {
    let living = status.live.as_ref().map(|live| live.living.as_slice());
    Warning {
        name,
        dataset: Some(status.state.name.clone()),
        job: match living {
            Some([poll]) => Some(poll.job.clone()),
            _ => None,
        },
        source: status.state.source.clone(),
        since: None,
        summary,
        remedy: remedy.to_owned(),
    }
}

fn near_limit(status: &DatasetStatus, live: &LiveWindows) -> Option<Warning> {
    if live.over == 0 || living(status).is_none() {
        return None;
    }
    let summary = format!(
        "{} of {} polls of the last hour held more than 80 % of the {} traces that one search may bring, the fullest {:.0} % ({})",
        live.over,
        live.windows,
        live.limit,
        live.fullest as f64 * 100.0 / live.limit as f64,
        live.fullest
    );
    let remedy = "above 100 % each poll costs several searches: poll more often (`every`), or raise Tempo's \
                  query_frontend.search.max_result_limit";
    Some(Warning {
        since: live.since,
        ..about(status, Kind::NearLimit, summary, remedy)
    })
}

/// How polls that go on keep up.
fn living(status: &DatasetStatus) -> Option<&status::Live> {
    status.live.as_ref().filter(|live| !live.living.is_empty())
}

fn edge_behind(status: &DatasetStatus, now: DateTime<Utc>) -> Option<Warning> {
    let live = living(status)?;
    let young_s = live.living.iter().map(|poll| poll.young_s).min()?;
    let begun_s = live.living.iter().map(|poll| poll.from_s).min()?;
    let behind_s = live.behind_s.unwrap_or(now.timestamp() - begun_s);
    if behind_s <= young_s + EDGE_SLACK_S {
        return None;
    }
    let summary = format!(
        "the live edge lies {} behind the present; {} is usual",
        length(behind_s),
        length(young_s)
    );
    let remedy = "is `work` running with the job's file, and does Tempo answer? What is missed meanwhile is caught up with";
    Some(Warning {
        since: DateTime::from_timestamp(now.timestamp() - behind_s + young_s, 0),
        ..about(status, Kind::EdgeBehind, summary, remedy)
    })
}

fn backlog_growing(status: &DatasetStatus, now: DateTime<Utc>) -> Option<Warning> {
    let backlog = &status.backlog;
    // What is paused is to wait.
    living(status)?;
    if backlog.grown_s <= MOST_GROWTH_S {
        return None;
    }
    let summary = format!(
        "{} is still to be collected, {} more than {} minutes ago",
        length(backlog.seconds),
        length(backlog.grown_s),
        GROWTH_OF.num_minutes()
    );
    let remedy = "more comes due than is fetched: see whether Tempo answers and how fast (`status`, `stats`), start `work` on another \
                  machine, or raise the source's `limits`";
    Some(Warning {
        since: Some(now - GROWTH_OF),
        ..about(status, Kind::BacklogGrowing, summary, remedy)
    })
}

fn late_traces(status: &DatasetStatus) -> Option<Warning> {
    let live = living(status)?;
    let missed = live.sealed.iter().map(|stretch| stretch.missed);
    if live.sealed.len() < SEALED_STRETCHES || missed.clone().any(|missed| missed == 0) {
        return None;
    }
    let widened = match live.widened.iter().map(|widened| widened.lookback_s).max() {
        Some(lookback_s) => format!(", though `lookback` was widened to {}", length(lookback_s)),
        None => String::new(),
    };
    let summary = format!(
        "the last {SEALED_STRETCHES} sealing looks found {} traces that the settled look had missed{widened}",
        missed.sum::<i64>()
    );
    let remedy = "traces arrive later than `lookback`: nothing is lost, but they are stored only when they are sealed; raise `lookback` and \
                  `lookback_max`, or see who sends late";
    Some(Warning {
        since: live.sealed.last().map(|stretch| stretch.at),
        ..about(status, Kind::LateTraces, summary, remedy)
    })
}

fn gaps(status: &DatasetStatus) -> Option<Warning> {
    let mut seconds: Vec<(&'static str, i64)> = Vec::new();
    // A paused job's gaps are somebody's wish, and at the live edge of a poll that stands still they are its own warning.
    for gap in &status.gaps {
        let counts = match gap.reason.name() {
            "never tried" => living(status).is_none() && status.paused.is_empty(),
            _ => gap.reason.is_repairable(),
        };
        if !counts {
            continue;
        }
        match seconds
            .iter_mut()
            .find(|(name, _)| *name == gap.reason.name())
        {
            Some((_, sum)) => *sum += gap.window.seconds(),
            None => seconds.push((gap.reason.name(), gap.window.seconds())),
        }
    }
    if seconds.is_empty() {
        return None;
    }
    let parts: Vec<String> = seconds
        .iter()
        .map(|(name, sum)| format!("{} {name}", length(*sum)))
        .collect();
    let name = &status.state.name;
    let summary = format!("{} that nobody is fetching", parts.join(", "));
    let remedy = format!("`gaps {name}` says which and why, `repair {name}` plans them again");
    Some(about(status, Kind::Gaps, summary, &remedy))
}

/// Whether windows wait for the source in vain.
pub fn is_silent(source: &SourceState, now: DateTime<Utc>) -> bool {
    let answers = source.last_success_at.is_some_and(|at| at > now - SILENCE);
    source.failing > 0 && !answers
}

fn silent(source: &SourceState, now: DateTime<Utc>) -> Option<Warning> {
    let answered = source.last_success_at;
    if !is_silent(source, now) {
        return None;
    }
    let last = answered.map_or_else(
        || "it never did".to_owned(),
        |at| {
            format!(
                "the last answer came at {}",
                at.format("%Y-%m-%dT%H:%M:%SZ")
            )
        },
    );
    let error = source.error.as_deref().unwrap_or("no error is recorded");
    Some(Warning {
        name: Kind::SourceSilent,
        dataset: None,
        job: None,
        source: source.name.clone(),
        since: answered.max(source.failing_since),
        summary: format!(
            "{} of source {} for an answer, and {last}: {error}",
            many(source.failing, "window waits", "windows wait"),
            source.name
        ),
        remedy: "`doctor FILE` says what is wrong; windows are tried again by themselves"
            .to_owned(),
    })
}

fn held_back(source: &str, status: &DatasetStatus, now: DateTime<Utc>) -> Option<Warning> {
    let pace = status.pace.as_ref()?;
    let since = pace.held_since.filter(|since| *since < now - HELD_BACK)?;
    Some(Warning {
        name: Kind::SourceHeldBack,
        dataset: None,
        job: None,
        source: source.to_owned(),
        since: Some(since),
        summary: format!(
            "source {source} is asked {:.2} of {} requests a second, because of \"{}\"",
            pace.present_per_second(),
            pace.requests_per_second,
            pace.why.as_deref().unwrap_or("an earlier answer")
        ),
        remedy: "Tempo refuses, is slow or times out: give it room, or lower the source's `limits`"
            .to_owned(),
    })
}

/// Logs each warning once when it begins and once when it ends, until `stop` is cancelled.
pub async fn watch(pool: PgPool, stop: CancellationToken) {
    let mut standing = Standing::default();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        let found = async {
            let mut conn = pool.acquire().await?;
            let now = polls::clock(&mut conn).await?;
            current(&mut conn, now).await
        };
        match found.await {
            Ok(found) => standing.say(found),
            Err(error) => tracing::debug!(%error, "cannot look for warnings; trying again"),
        }
    }
}

/// Warnings that were logged and have not ended, by what they are about.
#[derive(Debug, Default)]
struct Standing(HashMap<String, Warning>);

impl Standing {
    fn say(&mut self, found: Vec<Warning>) {
        let (begun, ended) = self.change(found);
        for warning in begun {
            tracing::warn!(
                warning = warning.name.name(),
                dataset = warning.dataset,
                job = warning.job,
                source = warning.source,
                "{}; {}",
                warning.summary,
                warning.remedy
            );
        }
        for warning in ended {
            tracing::warn!(
                warning = warning.name.name(),
                dataset = warning.dataset,
                job = warning.job,
                source = warning.source,
                "no longer so: {}",
                warning.summary
            );
        }
    }

    /// Takes note of what holds now; returns what has begun, and what has ended.
    fn change(&mut self, found: Vec<Warning>) -> (Vec<Warning>, Vec<Warning>) {
        let mut before = std::mem::take(&mut self.0);
        let mut begun = Vec::new();
        for warning in found {
            let key = format!("{:?}", warning.key());
            // As it was when it began: that is what ends.
            let standing = before.remove(&key).unwrap_or_else(|| {
                begun.push(warning.clone());
                warning
            });
            self.0.insert(key, standing);
        }
        (begun, before.into_values().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        status::{Backlog, Live, LivePoll},
        store::{report::DatasetState, warnings::SealedStretch},
        window::WindowSet,
    };

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    /// A dataset whose poll keeps up.
    fn polled() -> DatasetStatus {
        DatasetStatus {
            state: DatasetState {
                name: "shop".to_owned(),
                source: "prod".to_owned(),
                tenant: None,
                query: None,
                detail: "trace".to_owned(),
                traces: 0,
                spans: 0,
                queued: 0,
                running: 0,
                jobs: vec!["live".to_owned()],
                last_done_at: None,
            },
            requested: WindowSet::default(),
            covered: WindowSet::default(),
            gaps: Vec::new(),
            failed_windows: 0,
            live: Some(Live {
                behind_s: Some(155),
                later_looks: Vec::new(),
                widened: Vec::new(),
                living: vec![LivePoll {
                    job: "live".to_owned(),
                    young_s: 95,
                    from_s: 0,
                }],
                sealed: vec![],
            }),
            paused: Vec::new(),
            verified: Vec::new(),
            was_submitted: true,
            worked_on: true,
            pace: None,
            backlog: Backlog {
                seconds: 400,
                grown_s: 300,
                oldest_s: None,
            },
        }
    }

    fn found(status: &DatasetStatus, signs: &Signs) -> Vec<Kind> {
        let found = of(std::slice::from_ref(status), signs, now());
        found.iter().map(|warning| warning.name).collect()
    }

    #[test]
    fn each_rule_holds_beyond_its_border_and_not_at_it() {
        let keeps_up = polled();
        let live = |over| LiveWindows {
            dataset: "shop".to_owned(),
            limit: 500,
            windows: 240,
            over,
            fullest: 460,
            since: None,
        };
        let signs = Signs {
            live: vec![live(0)],
            sources: vec![SourceState {
                name: "prod".to_owned(),
                last_success_at: Some(now() - TimeDelta::seconds(59)),
                failing: 4,
                error: None,
                failing_since: None,
            }],
        };
        assert_eq!(found(&keeps_up, &signs), []);
        let mut bad = signs.clone();
        bad.live = vec![live(3)];
        bad.sources[0].last_success_at = Some(now() - SILENCE);
        assert_eq!(
            found(&keeps_up, &bad),
            [Kind::NearLimit, Kind::SourceSilent]
        );
        let mut behind = polled();
        behind.backlog.grown_s = 301;
        behind.live.as_mut().unwrap().behind_s = Some(156);
        assert_eq!(
            found(&behind, &signs),
            [Kind::EdgeBehind, Kind::BacklogGrowing]
        );
        // Whose poll has ended, or is paused, is not expected to keep up.
        behind.live.as_mut().unwrap().living.clear();
        assert_eq!(found(&behind, &bad), [Kind::SourceSilent]);

        let mut late = polled();
        let sealed = |missed| SealedStretch { missed, at: now() };
        late.live.as_mut().unwrap().sealed = vec![sealed(2), sealed(1), sealed(7)];
        assert_eq!(found(&late, &signs), [Kind::LateTraces]);
        late.live.as_mut().unwrap().sealed = vec![sealed(0), sealed(1), sealed(7)];
        assert_eq!(found(&late, &signs), []);
    }

    #[test]
    fn a_warning_is_said_when_it_begins_and_when_it_ends() {
        let mut standing = Standing::default();
        let warning = |summary: &str| Warning {
            summary: summary.to_owned(),
            ..about(&polled(), Kind::NearLimit, String::new(), "")
        };
        let (begun, ended) = standing.change(vec![warning("81 %")]);
        assert_eq!((begun.len(), ended.len()), (1, 0));
        // Other figures are no other warning.
        let (begun, ended) = standing.change(vec![warning("82 %")]);
        assert_eq!((begun.len(), ended.len()), (0, 0));
        let (begun, ended) = standing.change(Vec::new());
        assert_eq!((begun.len(), ended.len()), (0, 1));
        assert_eq!(standing.change(Vec::new()).1, []);
    }
}
