//! A window that holds more traces than an answer may bring, fetched by duration: one second, or a few of them where whole
//! seconds would leave much of each answer empty ([`crate::plan::density`]).
//!
//! All bands of a window are fetched by the one worker that holds it, in ascending order: on young data a trace's
//! duration only grows, so a trace that changes while this goes on is met again in a later band, never missed. Each
//! band's traces are stored as they come, under the window's lease; the window is done when the last band is in. A band
//! of a single nanosecond that is still too full is cut by root service, then by root name; if that does not narrow it,
//! the window is irreducible.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Outcome,
    spans::{self, Large},
    work::{Verdict, Work},
};
use crate::{
    retry,
    split::Band,
    store::{
        found::Found,
        lease::{self, Figures},
        traces,
    },
    tempo::{Class, Failure, wire::TraceSummary},
};

/// The share of the limit that a band is meant to fill where all that is known is what an answer brought that was cut.
const FILL: f64 = 0.6;
/// The same where the traces were counted, and the durations of traces near them are known; the last band takes what is
/// left, and that is known to be the rest.
pub(super) const FILL_COUNTED: f64 = 0.9;
const FILL_LAST: f64 = 0.98;
/// Of such a band that was over the limit all the same, this much of what was expected in it is asked for next.
const KEEP_COUNTED: f64 = 0.75;
/// Durations of stored traces that say how those of a window are spread: enough of them, the fewest that do, and how far away
/// they may have started, seconds.
const NEAR: i64 = 10_000;
const FEWEST_NEAR: usize = 2_000;
const NEAR_S: i64 = 3_600;
/// If less than this share of what was expected is found, fewer match than were counted.
const OVERSTATED: f64 = 0.7;
/// Durations kept for estimates.
const SAMPLE: usize = 50_000;
/// So often an answer may be larger than is read, however narrow the band.
const MOST_TOO_MUCH: u32 = 3;
/// A window needs no more requests than this, or something is wrong.
const MOST_REQUESTS: i32 = 20_000;

/// A trace's value of a field.
type ValueOf = fn(&TraceSummary) -> Option<&Arc<str>>;

/// How often a failed request is made again before the window is given back: then it begins anew, and one of many
/// bands would never get through where some of all requests fail.
const TRIES_IN_PLACE: u32 = 6;
/// The window is not held for longer than this because the server asks to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What traces can be told apart by when their durations are equal.
const FIELDS: [(&str, ValueOf); 2] = [
    ("trace:rootService", |trace| trace.root_service.as_ref()),
    ("trace:rootName", |trace| trace.root_name.as_ref()),
];

/// How fetching a part of the window ended.
enum Part {
    /// It is stored.
    Stored(usize),
    /// It is over the limit; with the traces it brought.
    Over(Vec<TraceSummary>),
}

/// Durations of traces, nanoseconds, by which a window is cut into bands.
#[derive(Debug, Default)]
pub(super) struct Durations {
    ns: Vec<u64>,
    /// Whether they are of stored traces, all that there are in some stretch near the window: not of those that an answer
    /// happened to bring.
    near: bool,
}

impl Durations {
    /// Of traces that an answer brought.
    pub(super) fn of(traces: &[TraceSummary]) -> Self {
        let ns = durations(traces);
        Self { ns, near: false }
    }

    /// Whether they say how the traces of the window are likely to be spread.
    pub(super) fn is_telling(&self) -> bool {
        self.near && self.ns.len() >= FEWEST_NEAR
    }
}

/// Durations of what is stored near the window.
pub(super) async fn durations_near(work: &Work<'_>) -> Durations {
    let near = async {
        let mut conn = work.harvester.pool.acquire().await?;
        let claimed = work.claimed;
        traces::durations_near(&mut conn, &claimed.dataset, claimed.window, NEAR_S, NEAR).await
    };
    let durations_ms = near.await.unwrap_or_else(|error: sqlx::Error| {
        tracing::debug!(%error, "cannot look up how long traces take");
        Vec::new()
    });
    let ns = durations_ms.into_iter();
    let ns = ns.filter_map(|ms| u64::try_from(ms).ok()?.checked_mul(1_000_000));
    Durations {
        ns: ns.collect(),
        near: true,
    }
}

/// Fetches a full window band by band. `counted` is how many traces there are.
pub(super) async fn harvest(
    work: &mut Work<'_>,
    durations: Durations,
    counted: Option<u64>,
) -> Outcome {
    let mut full = Full {
        counted: counted.filter(|_| durations.is_telling()).map(|n| n as f64),
        durations_ns: if durations.near && !durations.is_telling() {
            Vec::new()
        } else {
            durations.ns
        },
        figures: Figures::default(),
        seen: Vec::new(),
        too_much: 0,
        work,
    };
    match full.all_bands(counted).await {
        Ok(()) => Outcome::Done {
            found: Found::Summaries(Vec::new()),
            before: full.figures,
            seen: full.seen,
        },
        Err(outcome) => outcome,
    }
}

fn durations(traces: &[TraceSummary]) -> Vec<u64> {
    traces
        .iter()
        .map(|trace| u64::from(trace.duration_ms) * 1_000_000)
        .collect()
}

/// A window with more traces than an answer may bring.
struct Full<'a, 'w> {
    work: &'a mut Work<'w>,
    durations_ns: Vec<u64>,
    /// How many traces there are, as long as that has proved to be a guide.
    counted: Option<f64>,
    figures: Figures,
    /// IDs of what was stored.
    seen: Vec<[u8; 16]>,
    /// Answers that were larger than is read.
    too_much: u32,
}

impl Full<'_, '_> {
    async fn all_bands(&mut self, counted: Option<u64>) -> Result<(), Outcome> {
        let limit = f64::from(self.work.ceiling());
        // The whole window is known to be over the limit: begin with a part of it, if there is anything to judge by.
        let mut keep = match (self.counted, counted) {
            (Some(n), _) => 1.0 / (n / (FILL_COUNTED * limit)).ceil().max(1.0),
            _ if self.durations_ns.is_empty() => 1.0,
            (None, Some(n)) => FILL * limit / (n.max(1) as f64),
            (None, None) => 0.5,
        };
        let mut rest = Some(Band::ALL);
        while let Some(remaining) = rest {
            let part = match self.counted {
                _ if keep >= 1.0 => None,
                Some(_) => remaining.lower_share(&self.durations_ns, keep),
                None => remaining.lower_part(&self.durations_ns, keep),
            };
            let mut band = part.unwrap_or(remaining);
            let mut over = 0;
            let found = loop {
                let conditions: Vec<String> = band.traceql().into_iter().collect();
                match self.part(&conditions).await? {
                    Part::Stored(found) => break found,
                    Part::Over(sample) => {
                        over += 1;
                        // Once may be chance; then what came is no fair sample of the whole.
                        let keep = match self.counted {
                            Some(_) if over == 1 => KEEP_COUNTED,
                            _ => {
                                self.counted = None;
                                self.durations_ns.extend(durations(&sample));
                                self.durations_ns.truncate(SAMPLE);
                                0.5
                            }
                        };
                        match band.lower_part(&self.durations_ns, keep) {
                            Some(part) => band = part,
                            None => {
                                self.by_root(conditions, 0, sample).await?;
                                break self.work.ceiling() as usize;
                            }
                        }
                    }
                }
            };
            rest = band.above();
            if let Some(above) = rest {
                keep = self.share_of_rest(band, above, found, limit);
            }
        }
        Ok(())
    }

    /// Which share of what remains fits a request, judged by how many traces were counted, or the last band brought.
    fn share_of_rest(&self, band: Band, above: Band, found: usize, limit: f64) -> f64 {
        let inside = |of: Band| {
            let within = |&&d: &&u64| d >= of.from_ns && of.to_ns.is_none_or(|to| d < to);
            self.durations_ns.iter().filter(within).count() as f64
        };
        let (here, rest) = (inside(band), inside(above));
        if here == 0.0 {
            // Nothing to judge by: if the rest is too much, its answer is.
            return 1.0;
        }
        let expected = found as f64 / here * rest;
        if let Some(counted) = self.counted {
            let returned = self.figures.returned as f64;
            let below = 1.0 - rest / self.durations_ns.len() as f64;
            let left = if returned < OVERSTATED * counted * below {
                expected / FILL_COUNTED
            } else {
                (counted - returned).max(0.0)
            };
            return 1.0 / (left / (FILL_LAST * limit)).ceil().max(1.0);
        }
        if expected <= FILL * limit {
            1.0
        } else {
            FILL * limit / expected
        }
    }

    /// Asks for the part of the window that meets all conditions, and stores it if that is under the limit.
    async fn part(&mut self, conditions: &[String]) -> Result<Part, Outcome> {
        let conditions = self.with_filter(conditions);
        let query = spans::all_of(&conditions);
        let mut limit = self.work.ceiling();
        let mut failures = 0;
        loop {
            if self.work.requests > MOST_REQUESTS {
                return Err(Outcome::Irreducible(format!(
                    "it needed more than {MOST_REQUESTS} requests"
                )));
            }
            let answer = match self.work.search(Some(query.clone()), limit).await {
                Ok(answer) => answer,
                Err(failure) if failure.class == Class::TooLarge => {
                    self.too_much += u32::from(failure.is_more_than_read());
                    if self.too_much > MOST_TOO_MUCH {
                        return Err(Outcome::Failed(failure));
                    }
                    return match spans::too_large(self.work, &conditions).await? {
                        Large::Over(sample) => Ok(Part::Over(sample)),
                        Large::Found(found, before) => {
                            let number = found.len();
                            self.figures.add(before);
                            self.store(found).await?;
                            Ok(Part::Stored(number))
                        }
                    };
                }
                Err(failure) if failures < TRIES_IN_PLACE && passes_soon(&failure) => {
                    failures += 1;
                    // After too many requests the gate holds back the next one.
                    if failure.class != Class::Throttled {
                        tokio::time::sleep(retry::wait(failures, failure.retry_after)).await;
                    }
                    continue;
                }
                Err(failure) => {
                    limit = self.lower_limit(failure, limit).await?;
                    continue;
                }
            };
            if let Some(outcome) = self.work.too_young(answer.server_time, answer.elapsed) {
                return Err(outcome);
            }
            return match self.work.judge(answer, limit).map_err(Outcome::Failed)? {
                Verdict::Cut(sample) => Ok(Part::Over(sample)),
                Verdict::Whole(found) => {
                    let number = found.len();
                    let (found, before) = spans::complete(self.work, &conditions, found).await?;
                    self.figures.add(before);
                    self.store(found).await?;
                    Ok(Part::Stored(number))
                }
            };
        }
    }

    /// These conditions and the dataset's filter, each a spanset of its own.
    fn with_filter(&self, conditions: &[String]) -> Vec<String> {
        let filter = self.work.claimed.query.iter();
        filter
            .chain(conditions)
            .map(|spanset| format!("({spanset})"))
            .collect()
    }

    /// The limit to ask with after a refusal that named a lower one.
    async fn lower_limit(&mut self, failure: Failure, limit: u32) -> Result<u32, Outcome> {
        if let Class::Limit(learned) = failure.class {
            self.work.learn(learned).await;
            let allowed = self.work.ceiling();
            if allowed < limit {
                return Ok(allowed);
            }
        }
        Err(Outcome::Failed(failure))
    }

    async fn store(&mut self, found: Found) -> Result<usize, Outcome> {
        let number = found.len();
        if let Some(listed) = &mut self.work.listed {
            if let Found::Summaries(traces) = found {
                listed.extend(traces);
            }
            return Ok(number);
        }
        self.seen.extend(found.ids());
        let mut conn = self
            .work
            .harvester
            .pool
            .acquire()
            .await
            .map_err(Outcome::Database)?;
        let merged = lease::store_part(&mut conn, self.work.claimed, found).await?;
        self.figures.returned += i64::try_from(number).unwrap_or(0);
        self.figures.stored_new += merged.new;
        self.figures.improved += merged.improved;
        Ok(number)
    }

    /// Cuts what cannot be cut by duration: each value of the field that is seen, one by one, and then all the others.
    async fn by_root(
        &mut self,
        conditions: Vec<String>,
        level: usize,
        sample: Vec<TraceSummary>,
    ) -> Result<(), Outcome> {
        let Some(&(field, value_of)) = FIELDS.get(level) else {
            let all = self.with_filter(&conditions);
            if let Some((found, before)) = spans::one_by_one(self.work, &all).await? {
                self.figures.add(before);
                self.store(found).await?;
                return Ok(());
            }
            return Err(Outcome::Irreducible(format!(
                "more than {} traces in one window with the same duration, root service and root name: one answer may not bring them; \
                 raise Tempo's max_result_limit",
                self.work.ceiling()
            )));
        };
        let mut waiting: BTreeSet<Arc<str>> = sample.iter().filter_map(value_of).cloned().collect();
        let mut done: BTreeSet<Arc<str>> = BTreeSet::new();
        loop {
            while let Some(value) = waiting.pop_first() {
                let mut narrower = conditions.clone();
                narrower.push(format!("{{ {field} = {} }}", quoted(&value)));
                if let Part::Over(sample) = self.part(&narrower).await? {
                    Box::pin(self.by_root(narrower, level + 1, sample)).await?;
                }
                done.insert(value);
            }
            let mut others = conditions.clone();
            let unlike: Vec<String> = done
                .iter()
                .map(|value| format!("{field} != {}", quoted(value)))
                .collect();
            if !unlike.is_empty() {
                others.push(format!("{{ {} }}", unlike.join(" && ")));
            }
            match self.part(&others).await? {
                Part::Stored(_) => return Ok(()),
                Part::Over(sample) => {
                    waiting = sample
                        .iter()
                        .filter_map(value_of)
                        .filter(|value| !done.contains(*value))
                        .cloned()
                        .collect();
                    if waiting.is_empty() {
                        return Box::pin(self.by_root(others, level + 1, sample)).await;
                    }
                }
            }
        }
    }
}

/// Whether a failure may be over by the time the request is made again.
fn passes_soon(failure: &Failure) -> bool {
    matches!(
        failure.class,
        Class::Passing | Class::Throttled | Class::Timeout
    ) && failure.retry_after.is_none_or(|wait| wait <= LONGEST_WAIT)
}

/// A TraceQL string literal.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn names_are_quoted_for_traceql() {
        assert_eq!(quoted(r#"a "b" \ c"#), r#""a \"b\" \\ c""#);
        assert_eq!(quoted("x\ny"), r#""x\ny""#);
        assert_eq!(quoted("\u{1b}[2J\u{85}"), r#""\u001b[2J\u0085""#);
    }
}
