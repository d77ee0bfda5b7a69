//! What a verified range is worth to others: what is covered and at which look, which requests covered it, how many traces there
//! are, and digests that tell later whether anything was lost or changed.
//!
//! A day's digest is SHA-256 over its rows as PostgreSQL's COPY writes them as text: a line for each trace that starts in the part of
//! the day (UTC) that lies in the range, ascending by trace ID; ID (32 hexadecimal digits), start and end (Unix nanoseconds), root
//! service and root name, separated by tabs, ended by a line feed; `\N` for NULL, and backslash, tab, line feed and carriage return
//! written `\\`, `\t`, `\n`, `\r`. The digest over all is SHA-256 over a line for each day, `2026-03-01<TAB>traces<TAB>digest<LF>`,
//! ascending. So the rows of a day piped from psql into `sha256sum` give the same.

use std::{collections::HashMap, fmt::Write as _};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use super::{Hour, Report, standing::NotYet};
use crate::{
    gaps::Ledger,
    store::{self, report::DatasetState, verify::RunSums},
    window::{Window, WindowSet, rfc3339},
};

const DAY_S: i64 = 86_400;
/// How much is said about what is no certificate, characters.
const LONGEST_REASON: usize = 400;

/// What a certificate claims.
pub const CLAIMS: &str = "every trace that search could reach when it was verified is stored";

/// What it cannot claim.
pub const DOES_NOT_CLAIM: [&str; 5] = [
    "traces, or parts of them, that reached Tempo after they were fetched, or so late that Tempo finds them by ID only",
    "durations, ends and counts of traces: those that are not `exact` are lower bounds until Tempo has compacted their fragments",
    "roots of traces whose root span Tempo had not received: they are stored without one",
    "what Tempo never received, dropped, or had deleted before it was fetched",
    "hours that are not `equal` here: those beyond retention cannot be compared with anything any more",
];

/// A day of the range, or the part of it that lies in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// The day, UTC: `2026-03-01`.
    pub day: String,
    /// Traces that start in it.
    pub traces: u64,
    /// SHA-256 over its rows, hexadecimal.
    pub sha256: String,
}

/// What is covered at a look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// sealed is complete; settled and fresh are provisional.
    pub look: String,
    /// From the first second of a stretch to the first after it.
    pub stretches: Vec<[String; 2]>,
}

/// Hours in a row with the same verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// Its first second.
    pub from: String,
    /// The first second after it.
    pub to: String,
    /// The verdict.
    pub verdict: String,
    /// Hours; of the first and the last there may be a part only.
    pub hours: usize,
    /// Seconds.
    #[serde(default)]
    pub seconds: i64,
}

/// What is collected after the range, or beside it, and was not verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotVerified {
    /// Its first second.
    pub from: String,
    /// The first second after it.
    pub to: String,
    /// Why.
    pub reason: String,
    /// From when on it can be; `None`: that depends on when it is sealed.
    pub until: Option<String>,
}

impl From<&NotYet> for NotVerified {
    fn from(not_yet: &NotYet) -> Self {
        Self {
            from: rfc3339(not_yet.window.start()),
            to: rfc3339(not_yet.window.end()),
            reason: not_yet.reason().to_owned(),
            until: not_yet.until.map(rfc3339),
        }
    }
}

/// What the dataset is a collection of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Of {
    /// Its name.
    pub dataset: String,
    /// The source.
    pub source: String,
    /// Its tenant.
    pub tenant: Option<String>,
    /// The filter; `None`: every trace.
    pub query: Option<String>,
    /// The detail.
    pub detail: String,
}

/// The digests of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// First second of the range.
    pub from: String,
    /// First second after it.
    pub to: String,
    /// Traces in it.
    pub traces: u64,
    /// SHA-256 over the days' lines, hexadecimal.
    pub sha256: String,
    /// The days, ascending.
    pub days: Vec<Day>,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The form of this document.
    pub tempo_harvest_certificate: u32,
    /// What was collected.
    pub of: Of,
    /// Whether every hour is equal, or beyond retention.
    pub holds: bool,
    /// What it claims, if it holds.
    pub claims: String,
    /// What it does not claim.
    pub does_not_claim: Vec<String>,
    /// When everything had been listed again.
    pub verified_at: DateTime<Utc>,
    /// Requests to Tempo that this took.
    pub verified_by_requests: u32,
    /// The verdicts.
    pub verdicts: Vec<Stretch>,
    /// What is covered, by look.
    pub covered: Vec<Covered>,
    /// What is collected and was not verified, and why.
    #[serde(default)]
    pub not_verified_yet: Vec<NotVerified>,
    /// The runs that had to do with the range, with the sums over all of each.
    pub collected_by: Vec<RunSums>,
    /// The digests.
    pub digests: Digests,
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The digests of what is stored of a range.
///
/// # Errors
/// If the database refuses.
pub async fn digests(pool: &PgPool, dataset: &str, range: Window) -> sqlx::Result<Digests> {
    let mut conn = pool.acquire().await?;
    let mut days = Vec::new();
    let mut all = Sha256::new();
    for part in range.cut_at_edges(DAY_S) {
        let statement = store::verify::rows_statement(&mut conn, dataset, part).await?;
        let (mut digest, mut traces) = (Sha256::new(), 0);
        store::verify::copy_out(&mut conn, &statement, |piece| {
            digest.update(piece);
            // A line feed in a name is written with a backslash.
            traces += piece.iter().filter(|&&byte| byte == b'\n').count() as u64;
        })
        .await?;
        let day = Day {
            day: rfc3339(part.start()).chars().take(10).collect(),
            traces,
            sha256: hex(&digest.finalize()),
        };
        all.update(format!("{}\t{}\t{}\n", day.day, day.traces, day.sha256));
        days.push(day);
    }
    Ok(Digests {
        from: rfc3339(range.start()),
        to: rfc3339(range.end()),
        traces: days.iter().map(|day| day.traces).sum(),
        sha256: hex(&all.finalize()),
        days,
    })
}

fn verdicts(hours: &[Hour]) -> Vec<Stretch> {
    let groups =
        hours.chunk_by(|a, b| a.in_words() == b.in_words() && a.window.end() == b.window.start());
    groups
        .filter_map(|group| {
            let (first, last) = (group.first()?, group.last()?);
            Some(Stretch {
                from: rfc3339(first.window.start()),
                to: rfc3339(last.window.end()),
                verdict: first.in_words(),
                hours: group.len(),
                seconds: group.iter().map(|hour| hour.window.seconds()).sum(),
            })
        })
        .collect()
}

/// The certificate of a range that was just verified deeply; `None`: nothing was.
///
/// # Errors
/// If the database refuses.
pub async fn certify(
    pool: &PgPool,
    dataset: &DatasetState,
    ledger: &Ledger,
    report: &Report,
    not_yet: &[NotYet],
) -> sqlx::Result<Option<Certificate>> {
    let range = report.hours.iter().map(|hour| hour.window);
    let Some(range) = range.reduce(Window::until) else {
        return Ok(None);
    };
    let collected_by = {
        let mut conn = pool.acquire().await?;
        store::verify::runs(&mut conn, &dataset.name, range).await?
    };
    let [fresh, settled] = &ledger.provisional;
    let within = |look: &str, windows: &WindowSet| Covered {
        look: look.to_owned(),
        stretches: windows
            .intersection(&range.into())
            .iter()
            .map(|window| [rfc3339(window.start()), rfc3339(window.end())])
            .collect(),
    };
    let settled = settled.minus(&ledger.sealed);
    let fresh = fresh.minus(&ledger.sealed).minus(&settled);
    let mut covered = vec![
        within("sealed", &ledger.sealed),
        within("settled", &settled),
        within("fresh", &fresh),
    ];
    covered.retain(|covered| !covered.stretches.is_empty());
    Ok(Some(Certificate {
        tempo_harvest_certificate: 1,
        of: Of {
            dataset: dataset.name.clone(),
            source: dataset.source.clone(),
            tenant: dataset.tenant.clone(),
            query: dataset.query.clone(),
            detail: dataset.detail.clone(),
        },
        holds: report.is_in_order(),
        claims: CLAIMS.to_owned(),
        does_not_claim: DOES_NOT_CLAIM.map(str::to_owned).to_vec(),
        verified_at: report.ended_at,
        verified_by_requests: report.requests,
        verdicts: verdicts(&report.hours),
        covered,
        not_verified_yet: not_yet.iter().map(NotVerified::from).collect(),
        collected_by,
        digests: digests(pool, &dataset.name, range).await?,
    }))
}

/// A day that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The day, UTC.
    pub day: String,
    /// Traces then.
    pub traces_then: u64,
    /// Traces now.
    pub traces_now: u64,
}

impl Digests {
    /// Those in a certificate, read back from its JSON, and the range they are of.
    ///
    /// # Errors
    /// Why it is no certificate, in a few words.
    pub fn of_certificate(text: &str) -> Result<(Self, Window), String> {
        let certificate: Certificate = serde_json::from_str(text).map_err(|error| {
            error
                .to_string()
                .chars()
                .take(LONGEST_REASON)
                .collect::<String>()
        })?;
        let digests = certificate.digests;
        let range = digests.range().ok_or("it has no range")?;
        // Days are counted, not listed: a range may claim any number of them.
        let days = (range.end() - 1).div_euclid(DAY_S) - range.start().div_euclid(DAY_S) + 1;
        if i64::try_from(digests.days.len()) != Ok(days) {
            return Err(format!(
                "its range has {days} days, it lists {}",
                digests.days.len()
            ));
        }
        Ok((digests, range))
    }

    /// The range they are of.
    pub fn range(&self) -> Option<Window> {
        let second = |text: &str| Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp());
        Window::new(second(&self.from)?, second(&self.to)?)
    }

    /// The days that differ now from what they were.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let by_day: HashMap<&str, &Day> =
            now.days.iter().map(|day| (day.day.as_str(), day)).collect();
        let of = |day: &str| by_day.get(day).copied();
        let days = self.days.iter().filter(|day| of(&day.day) != Some(*day));
        days.map(|day| Difference {
            day: day.day.clone(),
            traces_then: day.traces,
            traces_now: of(&day.day).map_or(0, |day| day.traces),
        })
        .collect()
    }
}
