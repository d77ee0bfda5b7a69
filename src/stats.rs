//! Query statistics: what was asked of Tempo, what it cost, what of it was for nothing, and what each look added.
//!
//! Everything is summed up from rows that [`crate::store::stats`] reads; nothing here asks anyone. Percentiles come from
//! geometric classes, four to each doubling, so that they can be added up after the log of requests is pruned: each is within
//! 9 % of the exact one, give or take the millisecond that durations are rounded to.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::PgConnection;

use crate::store::{
    report,
    stats::{self, LookFigures, Requests, Within},
};

/// What is said of one dataset.
#[derive(Debug, Clone, Serialize)]
pub struct Statistics {
    /// The dataset.
    pub dataset: String,
    /// The Tempo it is collected from.
    pub source: String,
    /// The jobs that fill it.
    pub jobs: Vec<String>,
    /// All requests.
    pub total: Sums,
    /// The same by job and kind of run.
    pub runs: Vec<OfRuns>,
    /// What each look added.
    pub looks: Vec<LookFigures>,
}

/// Requests for runs of one kind of one job.
#[derive(Debug, Clone, Serialize)]
pub struct OfRuns {
    /// The job; null: for no run, but to plan one, or to verify.
    pub job: Option<String>,
    /// backfill, poll, repair or refetch; null: for no run.
    pub kind: Option<String>,
    /// The requests.
    #[serde(flatten)]
    pub sums: Sums,
}

/// Sums over requests.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sums {
    /// How many.
    pub requests: i64,
    /// Of these, searches.
    pub searches: i64,
    /// Of these, counts.
    pub counts: i64,
    /// Of these, look-ups of a trace by its ID.
    pub lookups: i64,
    /// Searches whose answer did not count.
    pub thrown_away: i64,
    /// The same as a share of all searches; null without searches.
    pub thrown_away_share: Option<f64>,
    /// Requests for windows at which an attempt had failed before.
    pub retries: i64,
    /// Requests that were refused with the limit they went over, which is kept to from then on: that is how a limit is learned,
    /// and no error.
    pub limits_learned: i64,
    /// Requests that failed, by class: too_large, timeout, throttled, passing, access, query.
    pub errors: BTreeMap<String, i64>,
    /// Traces in the answers to searches that counted, each as often as it came.
    pub traces: i64,
    /// Bytes of all answers, decompressed.
    pub bytes: i64,
    /// Bytes Tempo said it read; null: it never said.
    pub inspected_bytes: Option<i64>,
    /// Requests of which it said so.
    pub inspected_requests: i64,
    /// The greatest share of the most traces a search could ask for that one brought whose answer counted; null: none did.
    pub fullest: Option<f64>,
    /// How long requests took, by kind: search, count, trace.
    pub duration: BTreeMap<String, Durations>,
}

/// How long requests of one kind took.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Durations {
    /// The middle one, milliseconds.
    pub p50_ms: i64,
    /// 95 of a hundred took no longer, milliseconds.
    pub p95_ms: i64,
    /// 99 of a hundred took no longer, milliseconds.
    pub p99_ms: i64,
    /// On average, milliseconds.
    pub mean_ms: i64,
    #[serde(skip)]
    classes: BTreeMap<i16, i64>,
    #[serde(skip)]
    sum_ms: i64,
}

impl Durations {
    fn add(&mut self, row: &Requests) {
        *self.classes.entry(row.duration_class).or_default() += row.requests;
        self.sum_ms += row.duration_ms;
    }

    fn finish(&mut self) {
        self.p50_ms = self.quantile(0.5);
        self.p95_ms = self.quantile(0.95);
        self.p99_ms = self.quantile(0.99);
        let requests: i64 = self.classes.values().sum();
        self.mean_ms = self.sum_ms.checked_div(requests).unwrap_or(0);
    }

    /// The middle of the class that the quantile lies in, milliseconds.
    fn quantile(&self, share: f64) -> i64 {
        let requests: i64 = self.classes.values().sum();
        let rank = (share * requests as f64).ceil().max(1.0) as i64;
        let mut below = 0;
        for (class, count) in &self.classes {
            below += count;
            if below >= rank {
                return ((f64::from(*class) + 0.5) / 4.0).exp2().round() as i64;
            }
        }
        0
    }
}

impl Sums {
    fn add(&mut self, row: &Requests) {
        self.requests += row.requests;
        match row.kind.as_str() {
            "search" => self.searches += row.requests,
            "count" => self.counts += row.requests,
            _ => self.lookups += row.requests,
        }
        let is_search = row.kind == "search";
        match row.outcome.as_str() {
            "complete" if is_search => self.traces += row.returned,
            "complete" => {}
            "cut" | "unusable" if is_search => self.thrown_away += row.requests,
            "cut" | "unusable" => {}
            "limit" => self.limits_learned += row.requests,
            failure => {
                *self.errors.entry(failure.to_owned()).or_default() += row.requests;
                if is_search && failure == "too_large" {
                    self.thrown_away += row.requests;
                }
            }
        }
        self.retries += row.retries;
        self.bytes += row.bytes;
        if row.inspected_requests > 0 {
            *self.inspected_bytes.get_or_insert(0) += row.inspected_bytes;
        }
        self.inspected_requests += row.inspected_requests;
        if let Some(share) = row.fullest.filter(|_| row.outcome == "complete") {
            self.fullest = Some(self.fullest.map_or(share, |fullest| fullest.max(share)));
        }
        self.duration.entry(row.kind.clone()).or_default().add(row);
    }

    fn finish(&mut self) {
        self.thrown_away_share =
            (self.searches > 0).then(|| self.thrown_away as f64 / self.searches as f64);
        self.duration.values_mut().for_each(Durations::finish);
    }
}

/// The statistics of all datasets, or of the one of this name, or of the one that a job of this name fills.
///
/// # Errors
/// If the database refuses.
pub async fn of(
    conn: &mut PgConnection,
    name: Option<&str>,
    within: Within,
) -> sqlx::Result<Vec<Statistics>> {
    let states = report::datasets(&mut *conn, name).await?;
    let names: Vec<String> = states.iter().map(|state| state.name.clone()).collect();
    let requests = stats::requests(&mut *conn, &names, within).await?;
    let looks = stats::looks(conn, &names, within).await?;
    Ok(states
        .into_iter()
        .map(|state| Statistics {
            looks: looks
                .iter()
                .filter(|look| look.dataset == state.name)
                .cloned()
                .collect(),
            ..summed_up(state.name, state.source, state.jobs, &requests)
        })
        .collect())
}

fn summed_up(dataset: String, source: String, jobs: Vec<String>, rows: &[Requests]) -> Statistics {
    let mut total = Sums::default();
    let mut runs: BTreeMap<(Option<String>, Option<String>), Sums> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.dataset == dataset) {
        total.add(row);
        let of = runs.entry((row.job.clone(), row.run_kind.clone()));
        of.or_default().add(row);
    }
    total.finish();
    Statistics {
        dataset,
        source,
        jobs,
        total,
        runs: runs
            .into_iter()
            .map(|((job, kind), mut sums)| {
                sums.finish();
                OfRuns { job, kind, sums }
            })
            .collect(),
        looks: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(kind: &str, outcome: &str, class: i16, requests: i64) -> Requests {
        Requests {
            dataset: "shop".to_owned(),
            kind: kind.to_owned(),
            outcome: outcome.to_owned(),
            duration_class: class,
            requests,
            ..Requests::default()
        }
    }

    #[test]
    fn requests_are_summed_up_by_what_became_of_them() {
        let rows = [
            Requests {
                returned: 900,
                bytes: 10,
                inspected_bytes: 70,
                inspected_requests: 2,
                fullest: Some(0.9),
                job: Some("live".to_owned()),
                run_kind: Some("poll".to_owned()),
                ..row("search", "complete", 20, 2)
            },
            Requests {
                returned: 500,
                fullest: Some(1.0),
                ..row("search", "cut", 20, 1)
            },
            Requests {
                retries: 1,
                ..row("search", "timeout", 60, 1)
            },
            row("search", "too_large", 30, 1),
            row("count", "unusable", 10, 3),
            row("trace", "throttled", 10, 1),
            row("count", "limit", 10, 1),
        ];
        let sums = summed_up("shop".to_owned(), "prod".to_owned(), Vec::new(), &rows);
        let total = &sums.total;
        assert_eq!(
            (total.requests, total.searches, total.counts, total.lookups),
            (10, 5, 4, 1)
        );
        assert_eq!((total.thrown_away, total.thrown_away_share), (2, Some(0.4)));
        assert_eq!(
            (total.traces, total.bytes, total.retries, total.fullest),
            (900, 10, 1, Some(0.9))
        );
        assert_eq!(
            (total.inspected_bytes, total.inspected_requests),
            (Some(70), 2)
        );
        let errors: Vec<(&str, i64)> = total
            .errors
            .iter()
            .map(|(class, count)| (class.as_str(), *count))
            .collect();
        assert_eq!(errors, [("throttled", 1), ("timeout", 1), ("too_large", 1)]);
        assert_eq!(total.limits_learned, 1);
        assert_eq!(sums.runs.len(), 2);
        assert_eq!(sums.runs[0].sums.inspected_bytes, None);
        assert_eq!(sums.runs[1].kind.as_deref(), Some("poll"));
        assert_eq!(sums.runs[1].sums.thrown_away_share, Some(0.0));
    }

    /// As harvest.duration_class.
    fn class(duration_ms: i64) -> i16 {
        (4.0 * (duration_ms.max(1) as f64).log2() + 1e-9).floor() as i16
    }

    proptest! {
        #[test]
        fn percentiles_are_within_nine_percent_of_the_exact_ones(
            mut durations in prop::collection::vec(1i64..120_000, 1..300), share in 0.01f64..1.0
        ) {
            let mut summed = Durations::default();
            for &duration_ms in &durations {
                summed.add(&Requests { duration_class: class(duration_ms), requests: 1, duration_ms, ..Requests::default() });
            }
            durations.sort_unstable();
            let rank = ((share * durations.len() as f64).ceil() as usize).max(1);
            let exact = durations[rank - 1] as f64;
            let told = summed.quantile(share) as f64;
            prop_assert!((told - exact).abs() <= exact * 0.0906 + 0.5, "{told} {exact}");
        }
    }
}
