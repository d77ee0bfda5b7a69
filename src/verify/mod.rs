//! Whether what is stored is what Tempo has: hour by hour, by counts or by listing everything again.
//!
//! Counts ([`counts`]) are cheap, and evidence only. `deep` lists each hour again, in windows that begin and end elsewhere than those
//! it was collected in, and compares the IDs both ways. What is to be verified at all is decided in [`standing`], what is done about a
//! difference in [`mend`], what the result is worth to others in [`certificate`]. Verdicts are kept in the ledger.

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgPool};

use crate::{
    gaps::Ledger,
    harvest::{Harvester, listing::Lister},
    status,
    store::{
        self, Holder,
        report::{self, DatasetState},
        verify::Stored,
    },
    window::{Window, WindowSet},
};

pub mod certificate;
pub mod counts;
pub mod deep;
pub mod mend;
pub mod nightly;
pub mod source;
pub mod standing;

use self::{
    counts::{Counted, Counts},
    deep::{Compared, Foreign},
    standing::Standing,
};

/// Verdicts are given on hours, seconds.
pub const HOUR_S: i64 = 3_600;
/// What is younger proves nothing: it may be on the way from Tempo's live store to its blocks, seconds.
pub const YOUNG_S: i64 = 3_600;

/// How thoroughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// By Tempo's own counts.
    Counts,
    /// By listing everything again.
    Deep,
}

impl Depth {
    /// Its name in the ledger and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counts => "counts",
            Self::Deep => "deep",
        }
    }
}

/// What was found of an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The same is here and there.
    Equal,
    /// Tempo has more.
    Missing,
    /// More is here.
    MoreHere,
    /// Some is missing, and something else is more.
    Both,
    /// Not all of it is collected.
    Gap,
    /// Older than what the source, or the dataset, keeps.
    BeyondRetention,
    /// Under an hour old.
    TooYoung,
    /// Tempo would not say.
    Unknown,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Equal,
        Self::Missing,
        Self::MoreHere,
        Self::Both,
        Self::Gap,
        Self::BeyondRetention,
        Self::TooYoung,
        Self::Unknown,
    ];

    /// Its name in the ledger and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Missing => "missing",
            Self::MoreHere => "more here",
            Self::Both => "missing and more here",
            Self::Gap => "gap",
            Self::BeyondRetention => "beyond retention",
            Self::TooYoung => "too young",
            Self::Unknown => "unknown",
        }
    }

    /// Whether there is nothing to be done about it.
    pub fn is_in_order(self) -> bool {
        matches!(self, Self::Equal | Self::BeyondRetention)
    }

    fn of(missing: i64, more_here: i64) -> Self {
        match (missing > 0, more_here > 0) {
            (false, false) => Self::Equal,
            (true, false) => Self::Missing,
            (false, true) => Self::MoreHere,
            (true, true) => Self::Both,
        }
    }
}

/// An hour, or the part of one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hour {
    /// The stretch.
    pub window: Window,
    /// What was found.
    pub verdict: Verdict,
    /// Traces stored that start in it; by counts only those with a root.
    pub here: i64,
    /// Traces stored without a root: a count says nothing about them.
    pub rootless: i64,
    /// The same in Tempo; `None`: not to be had.
    pub in_tempo: Option<i64>,
    /// Traces in Tempo and not here.
    pub missing: i64,
    /// Traces here and not in Tempo.
    pub more_here: i64,
    /// Why it is no more than that.
    pub reason: Option<String>,
    /// The traces missing here, ascending; by counts nobody knows which.
    pub missing_ids: Vec<[u8; 16]>,
    /// The traces here that Tempo does not have, ascending.
    pub foreign: Vec<Foreign>,
    /// Traces here that searches do not bring, though Tempo knows them by ID.
    pub by_id_only: i64,
}

impl Hour {
    fn new(window: Window, verdict: Verdict, reason: Option<String>) -> Self {
        Self {
            window,
            verdict,
            here: 0,
            rootless: 0,
            in_tempo: None,
            missing: 0,
            more_here: 0,
            reason,
            missing_ids: Vec::new(),
            foreign: Vec::new(),
            by_id_only: 0,
        }
    }

    /// The verdict with its numbers: `missing 7, more here 7`.
    pub fn in_words(&self) -> String {
        match self.verdict {
            Verdict::Missing => format!("missing {}", self.missing),
            Verdict::MoreHere => format!("more here {}", self.more_here),
            Verdict::Both => format!("missing {}, more here {}", self.missing, self.more_here),
            verdict => verdict.name().to_owned(),
        }
    }
}

/// What is to be verified.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The database.
    pub pool: &'a PgPool,
    /// Who asks the source.
    pub harvester: &'a Harvester,
    /// The dataset.
    pub dataset: &'a DatasetState,
    /// How thoroughly.
    pub depth: Depth,
    /// One request after the other, so that what is collected meanwhile is not held up.
    pub gently: bool,
    /// The present.
    pub now: DateTime<Utc>,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Report {
    /// How thoroughly.
    pub depth: Depth,
    /// The hours, ascending.
    pub hours: Vec<Hour>,
    /// Requests made to Tempo.
    pub requests: u32,
    /// When it was begun.
    pub began_at: DateTime<Utc>,
    /// When it was over.
    pub ended_at: DateTime<Utc>,
}

impl Report {
    /// Whether every hour is equal or beyond retention.
    pub fn is_in_order(&self) -> bool {
        self.hours.iter().all(|hour| hour.verdict.is_in_order())
    }

    /// Seconds of the hours: of the first and the last a part may be meant.
    pub fn seconds(&self) -> i64 {
        self.hours.iter().map(|hour| hour.window.seconds()).sum()
    }

    /// How many hours have each verdict.
    pub fn tally(&self) -> Vec<(Verdict, usize)> {
        let mut verdicts: Vec<Verdict> = self.hours.iter().map(|hour| hour.verdict).collect();
        verdicts.sort_unstable();
        let groups = verdicts.chunk_by(|a, b| a == b);
        groups
            .filter_map(|group| Some((*group.first()?, group.len())))
            .collect()
    }

    /// Puts hours that were verified again in the place of what was found before.
    pub fn replace(&mut self, again: Report) {
        for hour in again.hours {
            let place = self.hours.iter_mut().find(|old| old.window == hour.window);
            if let Some(old) = place {
                *old = hour;
            }
        }
        self.requests += again.requests;
        self.ended_at = again.ended_at;
    }
}

/// What the ledger knows of a dataset now.
///
/// # Errors
/// If the database refuses.
pub async fn ledger(
    pool: &PgPool,
    dataset: &DatasetState,
    now: DateTime<Utc>,
) -> sqlx::Result<Ledger> {
    let mut conn = pool.acquire().await?;
    let polls = report::polls(&mut conn, &dataset.name).await?;
    status::ledger(&mut conn, &dataset.name, &dataset.source, &polls, now).await
}

/// Verifies these stretches, cut at hours, and keeps the verdicts in the ledger.
///
/// # Errors
/// If the database refuses. What Tempo refuses is a verdict.
pub async fn verify(
    request: &Request<'_>,
    ledger: &Ledger,
    asked: &WindowSet,
) -> sqlx::Result<Report> {
    let began_at = Utc::now();
    let dataset = request.dataset;
    let windows: Vec<Window> = asked
        .iter()
        .flat_map(|stretch| stretch.cut_at_edges(HOUR_S))
        .collect();
    let gaps = ledger.gaps();
    let standings: Vec<Standing> = windows
        .iter()
        .map(|&window| standing::of(ledger, &gaps, window))
        .collect();
    let stored = {
        let mut conn = request.pool.acquire().await?;
        store::verify::stored(&mut conn, &dataset.name, &windows).await?
    };
    let ready: Vec<Window> = std::iter::zip(&windows, &standings)
        .filter(|(_, standing)| matches!(standing, Standing::Ready))
        .map(|(&window, _)| window)
        .collect();
    let lister = Lister::new(
        request.harvester,
        &dataset.name,
        dataset.query.as_deref(),
        YOUNG_S,
        request.gently,
    );
    let counts = match dataset.query {
        Some(_) => Counts::default(),
        None => Counts::ask(&lister, &countable(&windows, &standings), request.now).await,
    };
    let mut compared = match request.depth {
        Depth::Counts => Vec::new(),
        Depth::Deep => deep::compare(request, &lister, &ready, &counts).await?,
    }
    .into_iter();
    let proven = match request.depth {
        Depth::Counts => counts.is_proven(request, &lister, ledger).await?,
        Depth::Deep => false,
    };
    let mut hours = Vec::with_capacity(windows.len());
    for ((window, standing), stored) in windows.into_iter().zip(standings).zip(stored) {
        let mut hour = match (standing, request.depth) {
            (Standing::Not(verdict, reason), _) => {
                let mut hour = Hour::new(window, verdict, Some(reason));
                hour.here = match request.depth {
                    Depth::Counts => stored.counted_alike,
                    Depth::Deep => stored.traces,
                };
                if let Counted::So(count) = counts.of(window)
                    && request.depth == Depth::Counts
                {
                    hour.in_tempo = Some(count);
                }
                hour
            }
            (Standing::Ready, Depth::Counts) if dataset.query.is_some() => {
                let why = "a filtered query's traces cannot be counted like with like: only --deep answers";
                let mut hour = Hour::new(window, Verdict::Unknown, Some(why.to_owned()));
                hour.here = stored.counted_alike;
                hour
            }
            (Standing::Ready, Depth::Counts) => judge(window, stored, counts.of(window), proven),
            (Standing::Ready, Depth::Deep) => match compared.next() {
                Some(Ok(compared)) => from_compared(window, compared),
                Some(Err(why)) => {
                    let mut hour = Hour::new(window, Verdict::Unknown, Some(why));
                    hour.here = stored.traces;
                    hour
                }
                None => Hour::new(window, Verdict::Unknown, Some("it was given up".to_owned())),
            },
        };
        hour.rootless = stored.rootless;
        hours.push(hour);
    }
    let report = Report {
        depth: request.depth,
        hours,
        requests: lister.requests(),
        began_at,
        ended_at: Utc::now(),
    };
    keep(request, &report).await?;
    Ok(report)
}

/// What is asked to be counted: what is younger, or older than what is kept, has nothing to compare with.
fn countable(windows: &[Window], standings: &[Standing]) -> Vec<Window> {
    let wanted =
        |standing: &Standing| matches!(standing, Standing::Ready | Standing::Not(Verdict::Gap, _));
    std::iter::zip(windows, standings)
        .filter(|(_, standing)| wanted(standing))
        .map(|(&window, _)| window)
        .collect()
}

/// What counts say of an hour that is collected.
fn judge(window: Window, stored: Stored, counted: Counted, proven: bool) -> Hour {
    let here = stored.counted_alike;
    let unknown = |reason: String| {
        let mut hour = Hour::new(window, Verdict::Unknown, Some(reason));
        hour.here = here;
        hour
    };
    let counted = match counted {
        Counted::So(count) => count,
        Counted::Failed(why) => return unknown(format!("Tempo would not count: {why}")),
        Counted::NoSeries if here == 0 && proven => 0,
        Counted::NoSeries if proven => {
            return unknown(format!(
                "Tempo returned no series here, though it counts elsewhere and {here} traces are stored: --deep tells"
            ));
        }
        Counted::NoSeries => {
            return unknown(
                "Tempo answered its count with no series at all: it does not count (its metrics path is not set up), or there is nothing \
                 anywhere near; --deep tells"
                    .to_owned(),
            );
        }
    };
    let missing = (counted - here).max(0);
    if missing > 0 && missing <= stored.rootless {
        let mut hour = unknown(format!(
            "Tempo counts {missing} more than are stored with a root, and {} are stored without one: --deep tells whether these are they",
            stored.rootless
        ));
        hour.in_tempo = Some(counted);
        return hour;
    }
    let more_here = (here - counted).max(0);
    let mut hour = Hour::new(window, Verdict::of(missing, more_here), None);
    (hour.here, hour.in_tempo) = (here, Some(counted));
    (hour.missing, hour.more_here) = (missing, more_here);
    hour
}

fn from_compared(window: Window, compared: Compared) -> Hour {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let missing = number(compared.missing.len());
    let more_here = number(compared.foreign.len());
    let reason = (compared.by_id_only > 0).then(|| {
        format!(
            "{} traces here are known to Tempo by ID only: searches do not bring them",
            compared.by_id_only
        )
    });
    let mut hour = Hour::new(window, Verdict::of(missing, more_here), reason);
    (hour.here, hour.in_tempo) = (number(compared.here), Some(number(compared.in_tempo)));
    (hour.missing, hour.more_here) = (missing, more_here);
    (hour.missing_ids, hour.foreign) = (compared.missing, compared.foreign);
    hour.by_id_only = number(compared.by_id_only);
    hour
}

async fn keep(request: &Request<'_>, report: &Report) -> sqlx::Result<()> {
    let holder: &Holder = &request.harvester.holder;
    let mut conn = request.pool.acquire().await?;
    let mut tx = conn.begin().await?;
    for hour in &report.hours {
        let verdict = store::verify::Verdict {
            window: hour.window,
            verdict: hour.verdict.name(),
            stored: hour.here,
            rootless: hour.rootless,
            in_tempo: hour.in_tempo,
            missing: hour.missing,
            more_here: hour.more_here,
            reason: hour.reason.as_deref(),
        };
        let depth = report.depth.name();
        let name = &request.dataset.name;
        store::verify::keep(&mut tx, name, depth, &verdict, report.ended_at, holder).await?;
    }
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(counted_alike: i64, rootless: i64) -> Stored {
        Stored {
            traces: counted_alike + rootless,
            rootless,
            counted_alike,
        }
    }

    fn verdict(stored: Stored, counted: Counted, proven: bool) -> String {
        let window = Window::new(0, 3_600).unwrap();
        judge(window, stored, counted, proven).in_words()
    }

    #[test]
    fn a_count_that_was_not_had_is_never_zero() {
        assert_eq!(verdict(stored(0, 0), Counted::NoSeries, false), "unknown");
        assert_eq!(verdict(stored(5, 0), Counted::NoSeries, true), "unknown");
        assert_eq!(verdict(stored(0, 0), Counted::NoSeries, true), "equal");
        let failed = Counted::Failed("503".to_owned());
        assert_eq!(verdict(stored(0, 0), failed, true), "unknown");
    }

    #[test]
    fn what_has_no_root_may_be_what_is_counted_more() {
        assert_eq!(verdict(stored(10, 3), Counted::So(13), true), "unknown");
        assert_eq!(verdict(stored(10, 3), Counted::So(14), true), "missing 4");
        assert_eq!(verdict(stored(10, 3), Counted::So(10), true), "equal");
        assert_eq!(verdict(stored(10, 3), Counted::So(8), true), "more here 2");
    }
}
