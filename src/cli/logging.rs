//! Logs on stderr, above the progress bar if there is one.

use std::{
    io::{self, IsTerminal, Write},
    sync::OnceLock,
};

use indicatif::{MultiProgress, ProgressDrawTarget};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Form of the log.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// Where progress bars are drawn: on stderr, if that is a terminal.
pub(super) fn bars() -> &'static MultiProgress {
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
}

/// Starts logging.
pub(super) fn init(verbose: u8, format: Format) {
    let default = match verbose {
        // sqlx warns of every statement over a second; merging a hundred thousand traces takes that. And it passes on what PostgreSQL
        // remarks, such as that a transaction, given up the moment it was committed, needs no rollback.
        0 => "warn,sqlx::query=error,sqlx::postgres::notice=error",
        1 => "warn,sqlx::query=error,sqlx::postgres::notice=error,tempo_harvest=debug",
        _ => "info,tempo_harvest=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(AboveBars)
        .with_ansi(io::stderr().is_terminal());
    match format {
        Format::Text => builder.with_target(verbose > 1).init(),
        Format::Json => builder.json().init(),
    }
}

/// Writes to stderr without tearing a progress bar.
struct AboveBars;

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bars().suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
