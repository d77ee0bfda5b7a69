//! How far a range is, while it is being collected: a bar on a terminal, a line every few seconds elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::{logging, terminal::say};
use crate::store::runs::Progress;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows progress on stderr.
pub(super) struct Display {
    name: String,
    begun: Instant,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Display {
    /// For a job; `quiet` shows nothing.
    pub fn new(name: &str, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = logging::bars().add(ProgressBar::new(1));
            // The template is fixed text, so the style cannot fail.
            if let Ok(style) =
                ProgressStyle::with_template("{prefix} {bar:20} {percent:>3}%  {wide_msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        let now = Instant::now();
        Self {
            name: name.to_owned(),
            begun: now,
            bar,
            last_line: if quiet {
                now + Duration::from_secs(u32::MAX.into())
            } else {
                now
            },
        }
    }

    /// Shows the present state.
    pub fn show(&mut self, progress: &Progress) {
        let line = self.line(progress);
        match &self.bar {
            Some(bar) => {
                // Seconds of the range, which only grow; windows are cut as their density becomes known.
                let length = u64::try_from(progress.done_s + progress.open_s).unwrap_or(0);
                // Of a length of zero everything is done.
                bar.set_length(length.max(1));
                bar.set_position(u64::try_from(progress.done_s).unwrap_or(0));
                bar.set_message(line);
            }
            None if self
                .last_line
                .checked_duration_since(Instant::now())
                .is_none()
                && self.last_line.elapsed() >= LINE_EVERY =>
            {
                self.last_line = Instant::now();
                let total = progress.done_s + progress.open_s;
                let percent = if total > 0 {
                    progress.done_s * 100 / total
                } else {
                    0
                };
                say!("{}: {percent}%, {line}", self.name);
            }
            None => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, progress: &Progress) -> String {
        let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
        let mut line = format!(
            "{} of {} windows, {} traces, {:.0} traces/s",
            progress.windows_done,
            progress.windows_done + progress.windows_open + progress.windows_failed,
            progress.traces_returned,
            progress.traces_returned as f64 / seconds,
        );
        // First what counts: a terminal may not have room for all.
        if progress.done_s > 0 && progress.open_s > 0 {
            let left = seconds * progress.open_s as f64 / progress.done_s as f64;
            line += &format!(
                ", about {} left",
                HumanDuration(Duration::from_secs_f64(left))
            );
        }
        line += &format!(", {} requests", progress.requests);
        if progress.splits > 0 {
            line += &format!(", {} splits", progress.splits);
        }
        if progress.retries > 0 {
            line += &format!(", {} retries", progress.retries);
        }
        if progress.windows_failed > 0 {
            line += &format!(", {} failed", progress.windows_failed);
        }
        if progress.windows_paused > 0 {
            line += &format!(
                ", {} paused until `tempo-harvest resume`",
                progress.windows_paused
            );
        }
        if progress.windows_open > 0
            && let Some(error) = &progress.last_error
        {
            line += &format!(" (waiting: {})", shortened(error));
        }
        line
    }
}

/// As much of a text as a line has room for.
fn shortened(text: &str) -> String {
    const MOST: usize = 120;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
