//! The program itself, as a process of its own: what it took of time, processor and memory.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chrono::SecondsFormat;
use tempfile::TempDir;

use crate::Detail;
use crate::ledger::Ledger;
use crate::source::Source;

/// How often the process is looked at. What it took of processor time is read once more after its end.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Requests to the source that may be under way at once: the program's default, and the floor's.
pub const CONCURRENCY: usize = 4;

/// A job file, and the program that runs it.
pub struct Harvester {
    folder: TempDir,
    arguments: Vec<String>,
    database_url: String,
}

/// What one process took.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub seconds: f64,
    /// User and system; `None` where the system does not say.
    pub cpu_seconds: Option<f64>,
    /// The most memory it ever had resident; `None` where the system does not say.
    pub peak_bytes: Option<u64>,
}

impl Harvester {
    pub fn new(source: &Source, detail: Detail, ledger: &Ledger) -> Self {
        let time = |time: chrono::DateTime<_>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let job = format!(
            "name = \"bench\"\n[source]\nname = \"bench\"\nurl = \"{}\"\n\
             limits = {{ concurrency = {CONCURRENCY}, requests_per_second = 1000 }}\n\
             [select]\ndetail = \"{}\"\n[backfill]\nfrom = {}\nto = {}\n",
            source.url,
            detail.name(),
            time(source.from),
            time(source.to)
        );
        Self::with_job(&job, &["run", "bench.toml"], ledger)
    }

    /// With this job file, and these arguments.
    pub fn with_job(job: &str, arguments: &[&str], ledger: &Ledger) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("bench.toml"), job).unwrap();
        Self {
            folder,
            arguments: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            database_url: ledger.url(),
        }
    }

    /// Runs it to its end, which has to be a good one.
    pub async fn run(&self) -> Measured {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tempo-harvest"));
        let said = self.folder.path().join("said");
        command
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .env("DATABASE_URL", &self.database_url)
            .env_remove("TEMPO_URL")
            .stdin(Stdio::null())
            .stdout(File::create(&said).unwrap())
            .stderr(File::options().append(true).open(&said).unwrap());
        let (measured, success) =
            tokio::task::spawn_blocking(move || process::measure(&mut command))
                .await
                .unwrap();
        if !success {
            let said = std::fs::read_to_string(said).unwrap();
            panic!("`tempo-harvest {}`: {said}", self.arguments.join(" "));
        }
        measured
    }
}

/// Waits for a process, and notes what it takes.
#[cfg(target_os = "linux")]
mod process {
    use std::fs;

    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

    use super::{Command, Instant, LOOK_EVERY, Measured};

    pub fn measure(command: &mut Command) -> (Measured, bool) {
        let begun = Instant::now();
        let mut child = command.spawn().unwrap();
        let pid = Pid::from_child(&child);
        let mut peak_bytes = None;
        // Its end is noted without taking the process away: what it used is still to be read.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        while waitid(WaitId::Pid(pid), ended).unwrap().is_none() {
            peak_bytes = peak_bytes.max(peak(child.id()));
            std::thread::sleep(LOOK_EVERY);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let cpu_seconds = cpu(child.id());
        let success = child.wait().unwrap().success();
        let measured = Measured {
            seconds,
            cpu_seconds,
            peak_bytes,
        };
        (measured, success)
    }

    fn peak(pid: u32) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kilobytes << 10)
    }

    fn cpu(pid: u32) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold anything; user and system time are the 14th and 15th field.
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks: u64 =
            fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(ticks as f64 / ticks_per_second()?)
    }

    fn ticks_per_second() -> Option<f64> {
        let told = Command::new("getconf").arg("CLK_TCK").output().ok()?;
        String::from_utf8(told.stdout).ok()?.trim().parse().ok()
    }
}

/// Waits for a process; what it takes is not to be had here.
#[cfg(not(target_os = "linux"))]
mod process {
    use super::{Command, Instant, LOOK_EVERY, Measured};

    pub fn measure(command: &mut Command) -> (Measured, bool) {
        let begun = Instant::now();
        let mut child = command.spawn().unwrap();
        let success = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.success();
            }
            std::thread::sleep(LOOK_EVERY);
        };
        let measured = Measured {
            seconds: begun.elapsed().as_secs_f64(),
            cpu_seconds: None,
            peak_bytes: None,
        };
        (measured, success)
    }
}
