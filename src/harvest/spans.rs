//! Datasets of whole spans: what a search for spans brought is completed, and what it cannot bring is looked up by ID.
//!
//! Looked up are traces of many spans, for which a search span by span costs too much; traces of which an answer left spans out;
//! and with a filter every trace that matches, because a search brings of those only what matches, and only from the parts of
//! the trace that do. A look-up costs about 25 ms of Tempo's time.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt, stream};

use super::{
    Outcome,
    work::{Verdict, Work},
};
use crate::{
    plan::density::Piece,
    retry, split,
    store::{
        found::Found,
        lease::{self, Figures},
    },
    tempo::{
        Class, Failure,
        wire::{
            TraceSummary,
            spans::{TraceSpans, Wanted, many},
        },
    },
    window::Window,
};

/// So few traces are looked up one by one when their spans are too large for an answer.
const FEW: usize = 250;
/// Spans that an answer may well bring: about half of the 16 MiB that Tempo can send.
const SPANS_AN_ANSWER: u64 = 30_000;
/// Into how many a window is cut that has more traces of many spans than an answer may bring.
const PIECES: i64 = 4;
/// Spans of looked-up traces that are held before they are stored.
const SPANS_AT_ONCE: usize = 20_000;
/// How often a look-up that failed, found nothing, or brought a part, is made again.
const TRIES: u32 = 4;
/// A window is not held for longer than this because the server asks to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Makes of what a search for these conditions found what is stored: with detail spans, whole traces. What is much is stored on
/// the way.
pub(super) async fn complete(
    work: &mut Work<'_>,
    conditions: &[String],
    found: Found,
) -> Result<(Found, Figures), Outcome> {
    let Some(wanted) = work.wanted.clone() else {
        return Ok((found, Figures::default()));
    };
    let (mut traces, ids) = match found {
        Found::Spans(traces) => {
            let Some(many) = listed(work, many(&all_of(conditions))).await? else {
                let window = work.claimed.window;
                return Err(if window.seconds() > 1 {
                    Outcome::Split(split::evenly(window, PIECES), 0)
                } else {
                    Outcome::Irreducible(format!(
                        "more than {} traces of many spans in one second: one answer may not bring them; raise Tempo's max_result_limit",
                        work.ceiling()
                    ))
                });
            };
            let cut = traces.iter().filter(|trace| trace.cut);
            let ids: HashSet<[u8; 16]> = cut
                .map(|trace| trace.trace_id)
                .chain(many.iter().map(|trace| trace.trace_id))
                .collect();
            (traces, ids)
        }
        Found::Summaries(traces) => {
            let ids = traces.iter().map(|trace| trace.trace_id).collect();
            (Vec::new(), ids)
        }
    };
    // What is looked up comes whole.
    traces.retain(|trace| !ids.contains(&trace.trace_id));
    let (looked_up, before) = look_up(work, &wanted, ids.into_iter().collect()).await?;
    traces.extend(looked_up);
    Ok((Found::Spans(traces), before))
}

/// What became of a part of a window whose spans are more than an answer can bring.
pub(super) enum Large {
    /// It was brought trace by trace.
    Found(Found, Figures),
    /// It is to be narrowed; with its traces, unless these are too many as well.
    Over(Vec<TraceSummary>),
}

/// Asks which traces meet these conditions, their spans being more than an answer can bring. The few of one second are looked
/// up, for narrowing it further would cost more.
pub(super) async fn too_large(
    work: &mut Work<'_>,
    conditions: &[String],
) -> Result<Large, Outcome> {
    let (Some(wanted), true) = (work.wanted.clone(), work.in_bulk()) else {
        return Ok(Large::Over(Vec::new()));
    };
    let traces = listed(work, all_of(conditions)).await?.unwrap_or_default();
    if traces.is_empty() || traces.len() > FEW || work.claimed.window.seconds() > 1 {
        return Ok(Large::Over(traces));
    }
    let ids = traces.iter().map(|trace| trace.trace_id).collect();
    let (looked_up, before) = look_up(work, &wanted, ids).await?;
    Ok(Large::Found(Found::Spans(looked_up), before))
}

/// Looks up every trace that meets these conditions: what is left when nothing narrows them. `None`: there are more than can be
/// listed.
pub(super) async fn one_by_one(
    work: &mut Work<'_>,
    conditions: &[String],
) -> Result<Option<(Found, Figures)>, Outcome> {
    let (Some(wanted), true) = (work.wanted.clone(), work.in_bulk()) else {
        return Ok(None);
    };
    let Some(traces) = listed(work, all_of(conditions)).await? else {
        return Ok(None);
    };
    let ids = traces.iter().map(|trace| trace.trace_id).collect();
    let (looked_up, before) = look_up(work, &wanted, ids).await?;
    Ok(Some((Found::Spans(looked_up), before)))
}

/// Spans of a trace, as far as its services tell.
fn spans_of(trace: &TraceSummary) -> u64 {
    let services = trace.services.iter().flatten();
    services.map(|(_, counts)| u64::from(counts.spans)).sum()
}

/// Pieces of a window of these traces, the spans of each of which an answer may well bring.
pub(super) fn pieces(window: Window, traces: &[TraceSummary]) -> Vec<Piece> {
    let spans: u64 = traces.iter().map(spans_of).sum();
    let pieces = i64::try_from(spans / SPANS_AN_ANSWER).unwrap_or(i64::MAX);
    split::evenly(window, pieces.saturating_add(1))
}

/// The spansets all of which a trace has to have.
pub(super) fn all_of(conditions: &[String]) -> String {
    match conditions {
        [] => "{ }".to_owned(),
        conditions => conditions.join(" && "),
    }
}

/// The traces that a query finds, with their spans by service; `None` if they are more than an answer may bring.
async fn listed(work: &mut Work<'_>, query: String) -> Result<Option<Vec<TraceSummary>>, Outcome> {
    let limit = work.ceiling();
    let mut tries = 0;
    let answer = loop {
        tries += 1;
        match work.search_summaries(query.clone(), limit).await {
            Ok(answer) => break answer,
            Err(failure) if failure.class == Class::TooLarge => return Ok(None),
            Err(failure) if tries < TRIES && passes_soon(&failure) => {
                tokio::time::sleep(pause(tries, &failure)).await;
            }
            Err(failure) => return Err(Outcome::Failed(failure)),
        }
    };
    if let Some(outcome) = work.too_young(answer.server_time, answer.elapsed) {
        return Err(outcome);
    }
    match work.judge(answer, limit).map_err(Outcome::Failed)? {
        Verdict::Whole(Found::Summaries(traces)) => Ok(Some(traces)),
        Verdict::Whole(Found::Spans(_)) | Verdict::Cut(_) => Ok(None),
    }
}

fn passes_soon(failure: &Failure) -> bool {
    matches!(
        failure.class,
        Class::Passing | Class::Throttled | Class::Timeout
    ) && failure.retry_after.is_none_or(|wait| wait <= LONGEST_WAIT)
}

/// How long to wait after a failure; after too many requests the gate holds back the next one.
fn pause(tries: u32, failure: &Failure) -> Duration {
    if failure.class == Class::Throttled {
        Duration::ZERO
    } else {
        retry::wait(tries, failure.retry_after)
    }
}

/// Looks traces up, several at once. What comes to more than [`SPANS_AT_ONCE`] is stored on the way.
async fn look_up(
    work: &mut Work<'_>,
    wanted: &Arc<Wanted>,
    ids: Vec<[u8; 16]>,
) -> Result<(Vec<TraceSpans>, Figures), Outcome> {
    let (harvester, claimed) = (work.harvester, work.claimed);
    let at_once = harvester.client.source().limits.concurrency.max(1);
    let mut answers = stream::iter(ids)
        .map(|id| async move {
            let mut one = Work::new(harvester, claimed);
            let answer = whole_trace(&mut one, wanted, id).await;
            (answer, one.requests)
        })
        .buffer_unordered(at_once);
    let mut held: Vec<TraceSpans> = Vec::new();
    let mut figures = Figures::default();
    let mut spans = 0;
    while let Some((answer, requests)) = answers.next().await {
        work.requests = work.requests.saturating_add(requests);
        let trace = answer.map_err(Outcome::Failed)?;
        spans += trace.spans.len();
        held.push(trace);
        if spans >= SPANS_AT_ONCE {
            spans = 0;
            let traces = std::mem::take(&mut held);
            figures.returned += i64::try_from(traces.len()).unwrap_or(0);
            let mut conn = harvester.pool.acquire().await.map_err(Outcome::Database)?;
            let merged = lease::store_part(&mut conn, claimed, Found::Spans(traces)).await?;
            figures.stored_new += merged.new;
            figures.improved += merged.improved;
        }
    }
    Ok((held, figures))
}

/// Looks one trace up, again if it cannot be had at once. A trace that stays partial is what Tempo gives out of it.
async fn whole_trace(
    work: &mut Work<'_>,
    wanted: &Wanted,
    id: [u8; 16],
) -> Result<TraceSpans, Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        let wait = match work.look_up(id, wanted).await {
            Ok(trace) if trace.spans.is_empty() => {
                if tries >= TRIES {
                    let message = format!(
                        "Tempo shows trace `{:032x}` in a search, but knows no span of it by its ID",
                        u128::from_be_bytes(id)
                    );
                    return Err(Failure::new(Class::Passing, message));
                }
                retry::wait(tries, None)
            }
            Ok(trace) if trace.partial == Some(true) && tries < TRIES => retry::wait(tries, None),
            Ok(trace) => {
                if trace.partial == Some(true) {
                    tracing::warn!(
                        trace = format!("{:032x}", u128::from_be_bytes(id)),
                        spans = trace.spans.len(),
                        "Tempo gives out a part of this trace only (max_bytes_per_trace); it is stored as incomplete"
                    );
                }
                return Ok(trace);
            }
            Err(failure) => {
                if !passes_soon(&failure) || tries >= TRIES {
                    return Err(failure);
                }
                pause(tries, &failure)
            }
        };
        tokio::time::sleep(wait).await;
    }
}
