//! Job files on disk, looked at again and again: which have changed, and what they hold now.

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use chrono::Utc;

use crate::job::{self, LoadOptions, Loaded, ProcessEnv};

/// How often the files' dates are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often they are read although no date has changed: a secret in another file may have.
const READ_EVERY: Duration = Duration::from_secs(60);

/// Job files, or folders of them.
#[derive(Debug)]
pub(super) struct Folder {
    paths: Vec<PathBuf>,
    dates: Vec<(PathBuf, Option<(SystemTime, u64)>)>,
    looked_at: Instant,
    read_at: Instant,
}

impl Folder {
    /// These paths, which have just been read.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let now = Instant::now();
        Self {
            dates: dates(&paths),
            paths,
            looked_at: now,
            read_at: now,
        }
    }

    /// What they hold, if that may have changed since the last time.
    pub(super) fn changed(&mut self) -> Option<Loaded> {
        if self.looked_at.elapsed() < LOOK_EVERY {
            return None;
        }
        self.looked_at = Instant::now();
        let dates = dates(&self.paths);
        if dates == self.dates && self.read_at.elapsed() < READ_EVERY {
            return None;
        }
        self.dates = dates;
        self.read_at = Instant::now();
        let options = LoadOptions {
            env: &ProcessEnv,
            now: Utc::now(),
        };
        Some(job::load_each(&self.paths, &options))
    }

    /// Reads them again the next time, whatever their dates.
    pub(super) fn read_again(&mut self) {
        self.dates.clear();
    }
}

fn dates(paths: &[PathBuf]) -> Vec<(PathBuf, Option<(SystemTime, u64)>)> {
    let date = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    job::files_of(paths)
        .into_iter()
        .map(|file| {
            let date = date(&file);
            (file, date)
        })
        .collect()
}
