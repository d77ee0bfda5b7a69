//! Where a seed is played: a PostgreSQL of its own, a simulated Tempo, proxies before both, and processes that work.
//!
//! Whatever ends is started again, as a service manager would: the database by its keeper, workers by theirs.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::PgPoolOptions;
use sqlx::{ConnectOptions as _, PgConnection, PgPool};
use tempo_harvest::local_postgres::{LocalPostgres, SearchPlaces};
use tempo_harvest::simulator::{ClockSetting, Config, Control, Population, Simulator, Version};
use tokio::sync::{Mutex, RwLock};

use super::means::{Disk, Filler, Means, fake, move_to_a_disk, server_with_clock, set_clock};
use super::script::{Edit, Script};
use crate::support::harvest::{Process, Said, rfc3339, start_in};
use crate::support::local_postgres::{PROGRAM, Place, pid_in};
use crate::support::proxy::{Line, Proxy, Upstream};

/// How long anything may take to end, or to be there again, on a busy machine.
const ENDED_WITHIN: Duration = Duration::from_secs(300);

/// One process that works, and the clock that it sees.
struct Seat {
    clock: PathBuf,
    temp: PathBuf,
    process: Mutex<Option<Process>>,
}

pub struct Stage {
    pub control: Control,
    pub simulator: Simulator,
    pub tempo: Proxy,
    pub database: Proxy,
    pub means: Means,
    server: RwLock<Option<LocalPostgres>>,
    /// Held by who starts or kills the server.
    server_turn: Mutex<()>,
    /// Where the server listens is not known yet.
    server_sought: AtomicBool,
    /// Its programs.
    places: SearchPlaces,
    database_clock: PathBuf,
    seats: Vec<Seat>,
    /// What ended, and what it said.
    ended: StdMutex<Vec<(String, Said)>>,
    log: StdMutex<String>,
    begun: Instant,
    texts: Vec<(&'static str, String)>,
    over: AtomicBool,
    // In this order: the disk goes when its server has gone.
    place: Place,
    disk: Option<Disk>,
}

impl Stage {
    /// Sets everything up, with the tables made and nobody at work.
    pub async fn set(script: &Script, means: Means) -> Self {
        let place = Place::new();
        let root = place.root.path().to_owned();
        let database_clock = root.join("database.clock");
        set_clock(&database_clock, 0);
        let folder = place.folder();
        let mut server = place.start().await;
        let mut places = SearchPlaces::default();
        let mut disk = None;
        let has_data = place.data().exists();
        if means.faketime.is_some() || (means.disk && has_data) {
            let programs = server.binaries().to_owned();
            server.stop().await;
            if let Some(library) = means.faketime {
                let with_clock = root.join("postgres");
                server_with_clock(&programs, &with_clock, library, &database_clock);
                places = SearchPlaces {
                    path: None,
                    folders: vec![with_clock.display().to_string()],
                    download: false,
                };
            }
            disk = (means.disk && has_data).then(|| move_to_a_disk(&place.data()));
            server = LocalPostgres::start_with(&folder, Path::new(PROGRAM), &places)
                .await
                .unwrap_or_else(|error| panic!("{error}"));
        }

        let simulator = Simulator::start(tempo(script)).unwrap();
        let address = simulator
            .url()
            .trim_start_matches("http://")
            .parse()
            .unwrap();
        let tempo = Proxy::new(Upstream::Tcp(address)).await;
        let database = Proxy::new(Upstream::Nowhere).await;
        let seats = (0..script.workers)
            .map(|number| {
                let clock = root.join(format!("worker-{number}.clock"));
                set_clock(&clock, 0);
                let temp = root.join(format!("worker-{number}.tmp"));
                fs::create_dir(&temp).unwrap();
                Seat {
                    clock,
                    temp,
                    process: Mutex::new(None),
                }
            })
            .collect();
        let stage = Self {
            control: simulator.control(),
            texts: job_files(script, &format!("http://{}", tempo.address())),
            simulator,
            tempo,
            database,
            means,
            server: RwLock::new(None),
            server_turn: Mutex::new(()),
            server_sought: AtomicBool::new(false),
            places,
            database_clock,
            seats,
            ended: StdMutex::default(),
            log: StdMutex::default(),
            begun: Instant::now(),
            over: AtomicBool::new(false),
            place,
            disk,
        };
        stage.use_server(server).await;
        fs::create_dir(stage.jobs()).unwrap();
        for (name, text) in &stage.texts {
            fs::write(stage.jobs().join(name), text).unwrap();
        }
        stage.command(&["migrate"]).await.expect(0);
        stage
    }

    fn jobs(&self) -> PathBuf {
        self.place.root.path().join("jobs")
    }

    pub fn workers(&self) -> usize {
        self.seats.len()
    }

    /// Notes what happens.
    pub fn note(&self, text: impl std::fmt::Display) {
        let seconds = self.begun.elapsed().as_secs_f64();
        writeln!(self.log.lock().unwrap(), "  {seconds:6.1} s  {text}").unwrap();
    }

    /// What happened so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Everything that processes which have ended said.
    pub fn said(&self) -> Vec<(String, Said)> {
        std::mem::take(&mut self.ended.lock().unwrap())
    }

    pub fn postgres_log(&self) -> String {
        fs::read_to_string(self.place.folder().join("postgres.log")).unwrap_or_default()
    }

    /// Starts whatever has ended by itself, until it is over.
    pub async fn keep(&self) {
        while !self.over.load(Ordering::Relaxed) {
            self.keep_database().await;
            for number in 0..self.seats.len() {
                self.keep_worker(number).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn keep_database(&self) {
        let Ok(_turn) = self.server_turn.try_lock() else {
            return;
        };
        if !self.place.is_free("supervisor.lock") && !self.server_sought.load(Ordering::Relaxed) {
            return;
        }
        self.server_sought.store(true, Ordering::Relaxed);
        let folder = self.place.folder();
        match LocalPostgres::start_with(&folder, Path::new(PROGRAM), &self.places).await {
            Ok(server) => {
                self.use_server(server).await;
                self.server_sought.store(false, Ordering::Relaxed);
                self.note("the database is up");
            }
            // While its disk is full, for example.
            Err(error) => {
                let error = error.to_string();
                let line = error.lines().next().unwrap_or_default();
                self.note(format_args!("the database does not start: {line}"));
            }
        }
    }

    async fn use_server(&self, server: LocalPostgres) {
        let socket = environment(&server, "PGHOST");
        self.database
            .lead_to(Upstream::Unix(Path::new(&socket).join(".s.PGSQL.5432")));
        *self.server.write().await = Some(server);
    }

    async fn keep_worker(&self, number: usize) {
        let seat = &self.seats[number];
        // Somebody has it in hand.
        let Ok(mut process) = seat.process.try_lock() else {
            return;
        };
        if process.as_mut().is_some_and(|process| process.has_ended()) {
            self.bury(number, process.take().unwrap()).await;
        }
        if process.is_none() && !self.over.load(Ordering::Relaxed) {
            *process = Some(self.start_worker(number).await);
        }
    }

    async fn start_worker(&self, number: usize) -> Process {
        let seat = &self.seats[number];
        let mut environment = vec![
            ("DATABASE_URL".to_owned(), self.url().await),
            ("TMPDIR".to_owned(), seat.temp.display().to_string()),
        ];
        environment.extend(self.means.faketime.into_iter().flat_map(|library| {
            fake(library, &seat.clock)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
        }));
        let environment: Vec<(&str, &str)> = environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        start_in(
            self.place.root.path(),
            &["-v", "work", "jobs"],
            &environment,
        )
    }

    async fn bury(&self, number: usize, process: Process) {
        let said = process.end_within(ENDED_WITHIN).await;
        self.note(format_args!("worker {number} ended: {:?}", said.code));
        let name = format!("worker {number}");
        self.ended.lock().unwrap().push((name, said));
    }

    /// The database through its proxy.
    async fn url(&self) -> String {
        let server = self.server.read().await;
        let password = environment(server.as_ref().unwrap(), "PGPASSWORD");
        format!(
            "postgres://tempo_harvest:{password}@{}/tempo_harvest?sslmode=disable",
            self.database.address()
        )
    }

    /// Connections past the proxy.
    pub async fn pool(&self) -> Result<PgPool, sqlx::Error> {
        let options = self.server.read().await.as_ref().unwrap().connect_options();
        PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(Duration::from_secs(5))
            .connect_with(options.application_name("torture"))
            .await
    }

    pub async fn connection(&self) -> Result<PgConnection, sqlx::Error> {
        let options = self.server.read().await.as_ref().unwrap().connect_options();
        let connecting = options.application_name("torture");
        let connecting = connecting.connect();
        tokio::time::timeout(Duration::from_secs(5), connecting)
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Runs the program beside the workers, its clock right.
    pub async fn command(&self, arguments: &[&str]) -> Said {
        let url = self.url().await;
        start_in(self.place.root.path(), arguments, &[("DATABASE_URL", &url)])
            .end_within(ENDED_WITHIN)
            .await
    }

    /// The same, for one whose success does not matter, but whose manners do.
    pub async fn aside(&self, arguments: &[&str]) {
        let said = self.command(arguments).await;
        let name = arguments.join(" ");
        self.note(format_args!("`{name}` ended: {:?}", said.code));
        self.ended.lock().unwrap().push((name, said));
    }

    /// Ends a worker, and starts it again later.
    pub async fn end_worker(&self, number: usize, signal: Signal, down: Duration) {
        let seat = &self.seats[number];
        let mut process = seat.process.lock().await;
        if let Some(process) = process.take() {
            process.signal(signal);
            self.bury(number, process).await;
        }
        tokio::time::sleep(down).await;
        if !self.over.load(Ordering::Relaxed) {
            *process = Some(self.start_worker(number).await);
        }
    }

    pub async fn freeze_worker(&self, number: usize, for_: Duration) {
        let process = self.seats[number].process.lock().await;
        let Some(process) = process.as_ref() else {
            return;
        };
        process.signal(Signal::STOP);
        tokio::time::sleep(for_).await;
        process.signal(Signal::CONT);
    }

    pub fn set_worker_clock(&self, number: usize, offset_s: i64) {
        set_clock(&self.seats[number].clock, offset_s);
    }

    pub fn set_database_clock(&self, offset_s: i64) {
        set_clock(&self.database_clock, offset_s);
    }

    pub fn set_tempo_clock(&self, offset_s: i64) {
        let offset = chrono::TimeDelta::seconds(offset_s);
        self.control.set_clock(ClockSetting::Offset(offset));
    }

    /// Kills all of the server's processes at once, as a power cut would.
    pub async fn crash_database(&self, down: Duration) {
        // Nobody starts it meanwhile, and it is killed once where two crashes overlap.
        let _turn = self.server_turn.lock().await;
        let file = self.place.data().join("postmaster.pid");
        while !self.place.is_free("supervisor.lock") {
            // Where it is still starting its file comes later.
            if fs::read_to_string(&file).is_ok_and(|text| text.lines().count() > 1) {
                let postmaster = pid_in(&file);
                // Stopped first, so that none of its children is replaced.
                let _gone = kill_process(postmaster, Signal::STOP);
                for process in children(postmaster).into_iter().chain([postmaster]) {
                    let _gone = kill_process(process, Signal::KILL);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(down).await;
    }

    /// Fills the database's disk; returns what frees it.
    pub fn fill_disk(&self) -> Option<Filler> {
        let disk = self.disk.as_ref()?;
        Filler::of(disk.folder())
    }

    /// Changes a job file; returns what mends it.
    pub fn edit(&self, edit: Edit) {
        let (name, text) = &self.texts[0];
        let path = self.jobs().join(name);
        let changed = match edit {
            Edit::Broken => format!("{text}\n[[[\n"),
            Edit::Wrong => format!("{text}\nlookbak = 1\n"),
            Edit::Limits => text.replace("requests_per_second = 200", "requests_per_second = 7"),
            Edit::Comment => format!("# once more\n{text}"),
            Edit::Gone => {
                let _gone_already = fs::remove_file(path);
                return;
            }
        };
        fs::write(path, changed).unwrap();
    }

    pub fn mend_jobs(&self) {
        let (name, text) = &self.texts[0];
        fs::write(self.jobs().join(name), text).unwrap();
    }

    /// Everything is as it should be again: faults end, clocks are right, the database is up, everybody works.
    pub async fn calm(&self) {
        self.control.clear_faults();
        self.simulator.bring_up().unwrap();
        for proxy in [&self.tempo, &self.database] {
            proxy.set(Line::Open);
        }
        self.set_tempo_clock(0);
        self.set_database_clock(0);
        (0..self.workers()).for_each(|number| self.set_worker_clock(number, 0));
        self.mend_jobs();
        let deadline = Instant::now() + ENDED_WITHIN;
        while self.connection().await.is_err() {
            assert!(Instant::now() < deadline, "the database is down for good");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Tells all workers to stop, and waits for them. They are not started again.
    pub async fn dismiss(&self) {
        self.over.store(true, Ordering::Relaxed);
        for (number, seat) in self.seats.iter().enumerate() {
            let process = seat.process.lock().await.take();
            if let Some(process) = process {
                process.signal(Signal::TERM);
                self.bury(number, process).await;
            }
        }
    }

    /// What workers have left in their folders for temporary files.
    pub fn left_behind(&self) -> Vec<PathBuf> {
        let folders = self.seats.iter().map(|seat| seat.temp.clone());
        let folders = folders.chain([self.place.data().join("base/pgsql_tmp")]);
        folders
            .filter_map(|folder| fs::read_dir(folder).ok())
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    /// Keeps what there is for whoever looks into a failure; returns where.
    pub fn keep_evidence(&self, said: &[(String, Said)]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("torture-{}", std::process::id()));
        let number = self.begun.elapsed().as_micros();
        let folder = folder.join(number.to_string());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("events"), self.log()).unwrap();
        fs::write(folder.join("postgres.log"), self.postgres_log()).unwrap();
        for (index, (name, said)) in said.iter().enumerate() {
            let name = name.replace(' ', "-");
            let text = format!("{:?}\n{}\n{}", said.code, said.stdout, said.stderr);
            fs::write(folder.join(format!("{index:03}-{name}")), text).unwrap();
        }
        folder
    }

    /// Ends the server and waits for that.
    pub async fn strike(self) {
        let Self {
            server, simulator, ..
        } = self;
        simulator.stop().await;
        if let Some(server) = server.into_inner() {
            server.stop().await;
        }
    }
}

fn environment(server: &LocalPostgres, name: &str) -> String {
    let found = server.environment().into_iter().find(|(it, _)| it == name);
    found.unwrap().1
}

fn children(of: Pid) -> Vec<Pid> {
    let path = format!("/proc/{0}/task/{0}/children", of.as_raw_nonzero());
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|number| Pid::from_raw(number.parse().ok()?))
        .collect()
}

/// A Tempo in which pushed spans go their whole way, from live store to block list, in a minute.
fn tempo(script: &Script) -> Config {
    let seconds = Duration::from_secs;
    let mut config = Config::new(script.version, Population::generate(&script.population));
    config.seed = script.seed;
    config.limits.max_result_limit = script.max_result_limit;
    config.metrics_enabled = script.metrics;
    config.timing.search_delay = seconds(2);
    config.timing.block_duration = seconds(15);
    config.timing.query_backend_after = seconds(45);
    config.timing.block_list_delay = seconds(15);
    config.settled_blocks = 3;
    if script.version == Version::V2_10_8 {
        config.timing.query_end_cutoff = seconds(0);
    }
    config
}

/// What the folder holds, the file that is edited first.
fn job_files(script: &Script, url: &str) -> Vec<(&'static str, String)> {
    let (from, to) = script.range;
    let source = |name: &str| {
        format!(
            "[source]\nname = \"{name}\"\nurl = \"{url}\"\nlimits = {{ requests_per_second = 200, concurrency = {}, timeout = \"4s\" }}\n",
            script.concurrency
        )
    };
    let query = script
        .query
        .map_or_else(String::new, |query| format!("query = '{query}'\n"));
    let window = script
        .window
        .map_or_else(String::new, |window| format!("window = \"{window}\"\n"));
    let history = format!(
        "name = \"history\"\n{}[select]\ndetail = \"{}\"\n{query}[backfill]\nfrom = {}\nto = {}\n{window}schedule = \"*/9 * * * * *\"\n",
        source("history"),
        script.detail,
        rfc3339(from),
        rfc3339(to),
    );
    let mut files = vec![("history.toml", history)];
    if script.live {
        let live = format!(
            "name = \"live\"\n{}[select]\ndetail = \"services\"\n[poll]\nevery = \"2s\"\ndelay = \"32s\"\nlookback = \"60s\"\nseal_after = \"120s\"\n",
            source("live"),
        );
        files.push(("live.toml", live));
    }
    files
}
