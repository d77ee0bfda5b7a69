//! Listing everything again, and comparing IDs in both directions.
//!
//! Windows begin and end half an hour away from where hours do, are cut by their number of traces, and are always asked for with a
//! query: nothing that made the first collection miss a trace is repeated by design. They are listed in the order of time and
//! compared hour by hour, so that no more is held than what two neighbouring hours have.

use std::collections::{HashSet, VecDeque};

use futures::{StreamExt, stream};

use super::{HOUR_S, Request, counts::Counts};
use crate::{
    harvest::listing::{Known, Listed, Lister},
    store,
    window::{Window, WindowSet},
};

/// How many traces that a list does not have are looked up by ID.
const MOST_LOOK_UPS: usize = 10_000;

/// A trace that is here, and not in Tempo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// All 16 bytes.
    pub trace_id: [u8; 16],
    /// What a look-up by its ID said.
    pub standing: ForeignStanding,
}

/// What a look-up by ID said of a trace that no list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignStanding {
    /// Tempo knows no trace of this ID.
    NotInTempo,
    /// Tempo has it at another time.
    ElsewhereInTempo,
    /// It was not looked up: there were too many, or Tempo would not say.
    NotLookedUp,
}

impl ForeignStanding {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotInTempo => "not in Tempo",
            Self::ElsewhereInTempo => "in Tempo at another time",
            Self::NotLookedUp => "not looked up by ID",
        }
    }
}

/// An hour compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Traces here that start in it.
    pub here: usize,
    /// Traces in Tempo that start in it.
    pub in_tempo: usize,
    /// Traces in Tempo and not here, ascending.
    pub missing: Vec<[u8; 16]>,
    /// Traces here and not in Tempo, ascending.
    pub foreign: Vec<Foreign>,
    /// Traces here that no list has, though Tempo knows them by ID, at this time.
    pub by_id_only: usize,
}

/// A window that was listed, or why not.
struct Listing {
    window: Window,
    traces: Result<Vec<Listed>, String>,
}

/// The windows to list: those of an hour, shifted by half of one.
fn shifted(hours: &[Window]) -> Vec<Window> {
    let stretches: WindowSet = hours.iter().copied().collect();
    let half = HOUR_S / 2;
    let moved = |window: Window, by: i64| Window::new(window.start() + by, window.end() + by);
    let windows = stretches
        .iter()
        .filter_map(|stretch| moved(stretch, half))
        .flat_map(|stretch| stretch.cut_at_edges(HOUR_S));
    windows.filter_map(|window| moved(window, -half)).collect()
}

/// Compares these hours, ascending; in their order, each or why it could not be.
///
/// # Errors
/// If the database refuses.
pub async fn compare(
    request: &Request<'_>,
    lister: &Lister<'_>,
    hours: &[Window],
    counts: &Counts,
) -> sqlx::Result<Vec<Result<Compared, String>>> {
    let list = |window: Window| async move {
        let expected = counts.expected(window);
        let traces = lister.list(window, expected).await;
        Listing { window, traces }
    };
    let mut listings = stream::iter(shifted(hours))
        .map(list)
        .buffered(lister.at_once());
    let mut held: VecDeque<Listing> = VecDeque::new();
    let mut look_ups = MOST_LOOK_UPS;
    let mut compared = Vec::with_capacity(hours.len());
    // A trace that is missing may be listed in two hours, with the start of a fragment of it in each.
    let mut named: HashSet<[u8; 16]> = HashSet::new();
    for &hour in hours {
        while held.iter().all(|listing| listing.window.end() < hour.end()) {
            let Some(listing) = listings.next().await else {
                break;
            };
            held.push_back(listing);
        }
        while held
            .front()
            .is_some_and(|listing| listing.window.end() <= hour.start())
        {
            held.pop_front();
        }
        let mut result = of_hour(request, hour, &held).await?;
        if let Ok(result) = &mut result {
            result.missing.retain(|id| named.insert(*id));
            look_up(lister, hour, result, &mut look_ups).await;
        }
        compared.push(result);
    }
    Ok(compared)
}

async fn of_hour(
    request: &Request<'_>,
    hour: Window,
    held: &VecDeque<Listing>,
) -> sqlx::Result<Result<Compared, String>> {
    let starts_here = hour.start() * 1_000_000_000..hour.end() * 1_000_000_000;
    let mut listed: HashSet<[u8; 16]> = HashSet::new();
    let mut starting: HashSet<[u8; 16]> = HashSet::new();
    for listing in held {
        if listing.window.intersection(hour).is_none() {
            continue;
        }
        match &listing.traces {
            Err(why) => return Ok(Err(why.clone())),
            Ok(traces) => {
                for trace in traces {
                    listed.insert(trace.trace_id);
                    if starts_here.contains(&trace.start_ns) {
                        starting.insert(trace.trace_id);
                    }
                }
            }
        }
    }
    let mut conn = request.pool.acquire().await?;
    let dataset = &request.dataset.name;
    let here: HashSet<[u8; 16]> = store::verify::ids(&mut conn, dataset, hour)
        .await?
        .into_iter()
        .collect();
    let unseen: Vec<[u8; 16]> = starting.difference(&here).copied().collect();
    let mut missing = match unseen.is_empty() {
        true => Vec::new(),
        false => store::verify::absent(&mut conn, dataset, &unseen).await?,
    };
    missing.sort_unstable();
    let mut foreign: Vec<[u8; 16]> = here.difference(&listed).copied().collect();
    foreign.sort_unstable();
    let foreign = foreign.into_iter().map(|trace_id| Foreign {
        trace_id,
        standing: ForeignStanding::NotLookedUp,
    });
    Ok(Ok(Compared {
        here: here.len(),
        in_tempo: starting.len(),
        missing,
        foreign: foreign.collect(),
        by_id_only: 0,
    }))
}

/// Looks up by ID what is here and in no list. What Tempo knows, at this time, is not foreign: spans that arrived late are found by
/// ID only.
async fn look_up(lister: &Lister<'_>, hour: Window, compared: &mut Compared, left: &mut usize) {
    let number = compared.foreign.len().min(*left);
    *left -= number;
    let find = |foreign: Foreign| async move {
        (foreign.trace_id, lister.find(foreign.trace_id, hour).await)
    };
    let all = std::mem::take(&mut compared.foreign);
    let (asked, rest) = all.split_at(number);
    let mut answers = stream::iter(asked.to_vec())
        .map(find)
        .buffered(lister.at_once());
    while let Some((trace_id, known)) = answers.next().await {
        let standing = match known {
            Ok(Known::Not) => ForeignStanding::NotInTempo,
            Ok(Known::Between(start_ns, end_ns)) if hour.overlaps_ns(start_ns, end_ns) => {
                compared.by_id_only += 1;
                continue;
            }
            Ok(Known::Between(..)) => ForeignStanding::ElsewhereInTempo,
            Err(error) => {
                tracing::warn!(%error, "cannot look up a trace by its ID");
                ForeignStanding::NotLookedUp
            }
        };
        compared.foreign.push(Foreign { trace_id, standing });
    }
    compared.foreign.extend(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: i64, end: i64) -> Window {
        Window::new(start, end).unwrap()
    }

    #[test]
    fn windows_are_shifted_by_half_and_tile_what_is_asked_for() {
        let hours = [
            window(0, 3_600),
            window(3_600, 7_200),
            window(18_000, 21_600),
        ];
        assert_eq!(
            shifted(&hours),
            [
                window(0, 1_800),
                window(1_800, 5_400),
                window(5_400, 7_200),
                window(18_000, 19_800),
                window(19_800, 21_600)
            ]
        );
    }
}
