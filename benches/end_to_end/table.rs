//! What was measured, as a table.

use crate::Detail;
use crate::floor::Parts;
use crate::harvester::Measured;
use crate::ledger::Figures;

/// One round of one row.
pub struct Round {
    pub measured: Measured,
    pub figures: Figures,
    pub rerun_s: f64,
    /// Requests that the rerun made: there is nothing to ask for.
    pub requests_again: i64,
    pub floor: Parts,
}

/// A size and a detail.
pub struct Row {
    detail: Detail,
    pub rounds: Vec<Round>,
}

const HEAD: [&str; 17] = [
    "detail",
    "traces",
    "spans",
    "requests",
    "thrown away",
    "MB",
    "s",
    "traces/s",
    "CPU s",
    "peak MB",
    "fetch s",
    "COPY s",
    "merge s",
    "floor s",
    "ratio",
    "CPU/floor",
    "rerun s",
];

impl Row {
    pub fn new(detail: Detail) -> Self {
        Self {
            detail,
            rounds: Vec::new(),
        }
    }

    fn cells(&self) -> [String; HEAD.len()] {
        let figures = self.rounds[self.rounds.len() - 1].figures;
        let show = |figure: fn(&Round) -> Option<f64>, decimals: usize, least_is_best: bool| {
            let known: Option<Vec<f64>> = self.rounds.iter().map(figure).collect();
            known.map_or_else(
                || "unknown".to_owned(),
                |figures| best_and_median(figures, decimals, least_is_best),
            )
        };
        let again: i64 = self.rounds.iter().map(|round| round.requests_again).sum();
        let rerun = show(|round| Some(round.rerun_s), 3, true);
        [
            self.detail.name().to_owned(),
            figures.traces.to_string(),
            figures
                .spans
                .map_or_else(|| "-".to_owned(), |spans| spans.to_string()),
            figures.requests.to_string(),
            figures.thrown_away.to_string(),
            format!("{:.1}", figures.bytes as f64 / 1e6),
            show(|round| Some(round.measured.seconds), 2, true),
            show(
                |round| Some(round.figures.traces as f64 / round.measured.seconds),
                0,
                false,
            ),
            show(|round| round.measured.cpu_seconds, 2, true),
            show(
                |round| Some(round.measured.peak_bytes? as f64 / 1e6),
                0,
                true,
            ),
            show(|round| Some(round.floor.fetch_s), 2, true),
            show(|round| Some(round.floor.copy_s), 2, true),
            show(|round| Some(round.floor.merge_s), 2, true),
            show(|round| Some(round.floor.sum_s()), 2, true),
            show(
                |round| Some(round.measured.seconds / round.floor.sum_s()),
                2,
                true,
            ),
            show(
                |round| Some(round.measured.cpu_seconds? / round.floor.sum_s()),
                2,
                true,
            ),
            if again == 0 {
                rerun
            } else {
                format!("{rerun} and {again} requests")
            },
        ]
    }
}

/// One figure, or the best of several and their median.
fn best_and_median(mut figures: Vec<f64>, decimals: usize, least_is_best: bool) -> String {
    figures.sort_by(f64::total_cmp);
    if !least_is_best {
        figures.reverse();
    }
    let (best, median) = (
        figures[0],
        (figures[(figures.len() - 1) / 2] + figures[figures.len() / 2]) / 2.0,
    );
    if figures.len() == 1 {
        format!("{best:.decimals$}")
    } else {
        format!("{best:.decimals$} / {median:.decimals$}")
    }
}

/// The table, as Markdown that reads well as it is.
pub fn render(rows: &[Row]) -> String {
    let cells: Vec<[String; HEAD.len()]> = rows.iter().map(Row::cells).collect();
    let widths: [usize; HEAD.len()] = std::array::from_fn(|column| {
        let longest = cells.iter().map(|row| row[column].len()).max();
        longest.unwrap_or(0).max(HEAD[column].len())
    });
    let line = |row: &[String; HEAD.len()]| {
        let padded: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!(" {cell:>width$} "))
            .collect();
        format!("|{}|", padded.join("|"))
    };
    let rule = widths.map(|width| format!("{}:", "-".repeat(width - 1)));
    let mut lines = vec![line(&HEAD.map(str::to_owned)), line(&rule)];
    lines.extend(cells.iter().map(line));
    lines.join("\n")
}
