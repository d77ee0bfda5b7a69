//! What a seed draws: a population, jobs, and which faults come when. Equal seeds draw equal scripts, but for the hour of the day
//! that recent history is counted from.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use proptest::prelude::RngExt as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use tempo_harvest::simulator::{Burst, GenerateSettings, Misbehaviour, RetryAfter, Version};

use crate::support::harvest::{DAY_S, HOUR_S, at, hour_edge_before};

/// Everything that is decided before a seed is played.
#[derive(Debug)]
pub struct Script {
    pub seed: u64,
    /// How long faults go on.
    pub length: Duration,
    /// Whether there is a poll, and traffic for it, beside the backfill.
    pub live: bool,
    pub version: Version,
    /// Whether Tempo counts.
    pub metrics: bool,
    pub detail: &'static str,
    pub query: Option<&'static str>,
    /// Unix seconds.
    pub range: (i64, i64),
    pub population: GenerateSettings,
    pub max_result_limit: u32,
    /// `window` of the backfill, if it is written.
    pub window: Option<&'static str>,
    pub concurrency: u32,
    /// Processes that work, each with a scheduler of its own.
    pub workers: usize,
    /// Traces a second, pushed while faults go on.
    pub traffic: f64,
    /// When each begins.
    pub faults: Vec<(Duration, Fault)>,
}

/// Something that goes wrong, or is done meanwhile; for so long, where it ends by itself.
#[derive(Debug, Clone)]
pub enum Fault {
    /// SIGKILL; started again later.
    KillWorker(usize, Duration),
    /// SIGTERM; started again later.
    StopWorker(usize, Duration),
    /// SIGSTOP, then SIGCONT.
    FreezeWorker(usize, Duration),
    /// Its clock is wrong by so many seconds.
    WorkerClock(usize, i64, Duration),
    /// SIGKILL for all of the server's processes; started again later.
    CrashDatabase(Duration),
    /// An administrator ends all sessions.
    EndSessions,
    CutDatabase,
    SlowDatabase(Duration),
    /// Nothing moves; then it goes on, or is cut.
    StallDatabase(Duration, bool),
    BreakDatabase(usize, Duration),
    DatabaseClock(i64, Duration),
    FullDisk(Duration),
    CutTempo,
    RefuseTempo(Duration),
    SlowTempo(Duration),
    StallTempo(Duration, bool),
    BreakTempo(usize, Duration),
    /// Down as if killed, and up again.
    CrashTempo(Duration),
    TempoClock(i64, Duration),
    /// Answers are spoilt with some probability.
    Answers(Misbehaviour, f64, Duration),
    /// Fewer traces are allowed a search.
    LowerLimit(u32, Duration),
    Compact,
    Flush,
    Seal,
    /// A job file is changed; what is wrong with it is mended later.
    Edit(Edit, Duration),
    Pause(Duration),
    /// Somebody runs this.
    Command(&'static [&'static str]),
}

/// What is done to a job file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// It is no TOML any more.
    Broken,
    /// A key is wrong.
    Wrong,
    /// It is gone.
    Gone,
    /// Another rate and concurrency.
    Limits,
    /// The same job under the same name, written differently.
    Comment,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Bystanders: none of them may be in anybody's way.
const COMMANDS: [&[&str]; 9] = [
    &["status"],
    &["status", "--json"],
    &["gaps", "history"],
    &["runs"],
    &["stats", "--last", "1h"],
    &["repair", "history"],
    &["run", "jobs/history.toml"],
    &["verify", "history"],
    &["baseline"],
];

impl Script {
    /// What this seed draws, with faults for so long. What is `short` leaves out what takes long to get over.
    pub fn draw(seed: u64, length: Duration, short: bool) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let mut draw = Draw {
            random: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
            length,
            short,
        };
        let live = !short && draw.one_in(2);
        let hours = draw.number(2..9);
        let from = match draw.one_in(2) {
            true => DAY_S,
            false => hour_edge_before(hours + 2 + draw.number(0..20)),
        };
        let range = (from, from + hours * HOUR_S);
        let max_result_limit = draw.number(60..600) as u32;
        let detail = draw.of(&["trace", "trace", "services", "services", "spans"]);
        let population = GenerateSettings {
            bursts: (0..draw.number(0..3))
                .map(|_| Burst {
                    at_s: from + draw.number(0..hours * HOUR_S - 1),
                    traces: draw.number(50..1_300) as usize,
                })
                .collect(),
            long_traces: draw.number(0..20) as usize,
            rootless_traces: draw.number(0..30) as usize,
            ..GenerateSettings::new(
                seed,
                at(range.0),
                at(range.1),
                draw.number(300..2_000) as usize,
            )
        };
        let workers = draw.number(2..4) as usize;
        let mut script = Self {
            seed,
            length,
            live,
            version: draw.of(&[Version::V3_0_3, Version::V2_10_8]),
            metrics: !draw.one_in(3),
            detail,
            // A filter that matches everything: with whole spans each trace is then looked up, which takes long.
            query: (detail != "spans" && draw.one_in(4))
                .then_some("{ resource.service.name != \"nobody\" }"),
            range,
            population,
            max_result_limit,
            window: draw.of(&[None, Some("15m"), Some("1h")]),
            concurrency: draw.number(1..5) as u32,
            workers,
            traffic: if live { draw.number(2..15) as f64 } else { 0.0 },
            faults: Vec::new(),
        };
        let mut at_ms = draw.number(500..3_000);
        while at_ms < length.as_millis() as i64 {
            let fault = draw.fault(&script);
            script
                .faults
                .push((Duration::from_millis(at_ms as u64), fault));
            at_ms += draw.number(200..4_000);
        }
        script
    }

    /// What it is about, in two words.
    pub fn kind(&self) -> String {
        let jobs = if self.live {
            "backfill and poll"
        } else {
            "backfill"
        };
        format!("{jobs}, detail {}", self.detail)
    }

    /// How many faults of each kind.
    pub fn counted(&self) -> String {
        let mut kinds = BTreeMap::new();
        for (_, fault) in &self.faults {
            let name = fault.to_string();
            let name = name.split(['(', ' ']).next().unwrap_or_default().to_owned();
            *kinds.entry(name).or_insert(0) += 1;
        }
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        kinds.join(", ")
    }

    /// What was drawn, fault by fault.
    pub fn told(&self) -> String {
        let mut text = format!(
            "seed {}: {} for {} s, {:?}, counts {}, {} h with {} traces, bursts {:?}, {} long, {} rootless, limit {}, window {:?}, \
             query {:?}, concurrency {}, {} workers, {} traces/s\n",
            self.seed,
            if self.live {
                "backfill and poll"
            } else {
                "backfill"
            },
            self.length.as_secs(),
            self.version,
            self.metrics,
            (self.range.1 - self.range.0) / HOUR_S,
            self.population.traces,
            self.population
                .bursts
                .iter()
                .map(|burst| burst.traces)
                .collect::<Vec<_>>(),
            self.population.long_traces,
            self.population.rootless_traces,
            self.max_result_limit,
            self.window,
            self.query,
            self.concurrency,
            self.workers,
            self.traffic,
        );
        for (at, fault) in &self.faults {
            text += &format!("  {:6.1} s  {fault}\n", at.as_secs_f64());
        }
        text
    }
}

struct Draw {
    random: TestRng,
    length: Duration,
    short: bool,
}

impl Draw {
    fn number(&mut self, range: std::ops::Range<i64>) -> i64 {
        self.random.random_range(range)
    }

    fn one_in(&mut self, count: i64) -> bool {
        self.number(0..count) == 0
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.number(0..choices.len() as i64) as usize].clone()
    }

    /// A time between these, milliseconds.
    fn time(&mut self, range: std::ops::Range<i64>) -> Duration {
        let longest = self.length.as_millis() as i64 / 2;
        let range = range.start.min(longest - 1)..range.end.min(longest);
        Duration::from_millis(self.number(range) as u64)
    }

    /// Either way, up to so many seconds.
    fn offset(&mut self, most_s: i64) -> i64 {
        self.number(-most_s..most_s + 1)
    }

    fn fault(&mut self, script: &Script) -> Fault {
        let worker = self.number(0..script.workers as i64) as usize;
        // With live traffic clocks that are far off would make claims untrue that are true by the clock.
        let far_s = if script.live { 15 } else { 7_200 };
        match self.number(0..36) {
            0..=3 => Fault::KillWorker(worker, self.time(0..3_000)),
            4 => Fault::StopWorker(worker, self.time(0..2_000)),
            // A lease lasts for 20 s.
            5 | 6 => {
                let longest = if self.short { 4_000 } else { 28_000 };
                Fault::FreezeWorker(worker, self.time(500..longest))
            }
            7 => Fault::WorkerClock(worker, self.offset(86_400), self.time(1_000..15_000)),
            8..=10 => Fault::CrashDatabase(self.time(0..4_000)),
            11 => Fault::EndSessions,
            12 => Fault::CutDatabase,
            13 => Fault::SlowDatabase(self.time(500..6_000)),
            14 => {
                let longest = if self.short { 4_000 } else { 26_000 };
                Fault::StallDatabase(self.time(500..longest), self.one_in(2))
            }
            15 => Fault::BreakDatabase(self.number(1_000..60_000) as usize, self.time(500..5_000)),
            16 => Fault::DatabaseClock(self.offset(far_s.min(300)), self.time(1_000..12_000)),
            17 | 18 => Fault::FullDisk(self.time(500..8_000)),
            19 => Fault::CutTempo,
            20 => Fault::RefuseTempo(self.time(300..4_000)),
            21 => Fault::SlowTempo(self.time(500..6_000)),
            22 => Fault::StallTempo(self.time(500..6_000), self.one_in(2)),
            23 => Fault::BreakTempo(self.number(0..30_000) as usize, self.time(500..5_000)),
            24 => Fault::CrashTempo(self.time(0..4_000)),
            25 => Fault::TempoClock(self.offset(far_s), self.time(1_000..10_000)),
            26..=29 => {
                let misbehaviour = self.misbehaviour();
                let probability = self.of(&[0.1, 0.3, 0.6, 1.0]);
                Fault::Answers(misbehaviour, probability, self.time(500..6_000))
            }
            30 => Fault::LowerLimit(
                (script.max_result_limit / 2).max(40),
                self.time(1_000..8_000),
            ),
            31 => self.of(&[Fault::Compact, Fault::Flush, Fault::Seal]),
            32 | 33 => {
                let edit = self.of(&[
                    Edit::Broken,
                    Edit::Wrong,
                    Edit::Gone,
                    Edit::Limits,
                    Edit::Comment,
                ]);
                Fault::Edit(edit, self.time(2_500..8_000))
            }
            34 => Fault::Pause(self.time(500..5_000)),
            _ => Fault::Command(self.of(&COMMANDS)),
        }
    }

    fn misbehaviour(&mut self) -> Misbehaviour {
        let delay = self.time(50..1_500);
        let sent = self.number(0..100) as f64 / 100.0;
        let seconds = self.number(0..3) as u64;
        self.of(&[
            Misbehaviour::TooManyRequests(RetryAfter::Absent),
            Misbehaviour::TooManyRequests(RetryAfter::Seconds(seconds)),
            Misbehaviour::LargerThan,
            Misbehaviour::Status(500),
            Misbehaviour::Status(502),
            Misbehaviour::Status(503),
            Misbehaviour::Status(401),
            Misbehaviour::Status(404),
            Misbehaviour::GatewayTimeout { after: delay },
            Misbehaviour::Slow { delay },
            Misbehaviour::SlowBody {
                pieces: 5,
                pause: delay / 5,
            },
            Misbehaviour::CutConnection { sent },
            Misbehaviour::Garbage,
            Misbehaviour::LoginPage,
            Misbehaviour::Redirect {
                location: "http://127.0.0.1:1/login".to_owned(),
            },
            Misbehaviour::ContentType("text/plain".to_owned()),
            Misbehaviour::TruncatedGzip,
        ])
    }
}
