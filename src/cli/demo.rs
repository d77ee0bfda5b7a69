//! `demo`: all of it at work, on a simulated Tempo and a private PostgreSQL.

use std::{collections::HashMap, io::Write, net::SocketAddr, time::Instant};

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use sqlx::Row;
use tokio_util::sync::CancellationToken;

use super::{
    Exit, UsageError,
    database::{self, Database, Otherwise},
    jobs, listen, run,
    terminal::{self, say},
};
use crate::{
    meter::Meter,
    simulator::{Burst, Config, GenerateSettings, Population, Simulator, TraceTruth, Version},
    store::{Holder, datasets},
    window::{Window, rfc3339},
    worker::Unusable,
};

const DATASET: &str = "demo";
const HOURS: i64 = 24;
/// Most traces the simulated Tempo answers: so low that hours are cut, and one second is too full for one answer.
const SERVER_LIMIT: u32 = 2_000;
const BURST: usize = 3_000;

/// See it all at work on a simulated Tempo and a private PostgreSQL: a backfill of a day, the proof that nothing is
/// missing, and the rerun that does nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many traces the simulated day has
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=2_000_000))]
    traces: u32,
    /// Only serve the simulated Tempo, such as at 127.0.0.1:3200, until stopped: for job files of your own
    ///
    /// It answers as one that has a day of traces, which ended an hour ago, and receives no more. This machine only.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen::address, conflicts_with_all = ["listen", "listen_token_file"])]
    serve: Option<SocketAddr>,
    #[command(flatten)]
    listen: listen::ListenArgs,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let door = args.listen.open().await?;
    let mut out = terminal::stdout();
    let now = Utc::now();
    let end_s = (now.timestamp() - 3_600).div_euclid(3_600) * 3_600;
    let day = Window::new(end_s - HOURS * 3_600, end_s).context("the day is empty")?;
    if let Some(address) = args.serve {
        return serve(address, simulated(&args, day, now), day).await;
    }
    writeln!(
        out,
        "This demo simulates its Tempo: made-up traces, answered over HTTP as Tempo 3.0 would, with its limits and quirks."
    )?;
    let begun = Instant::now();
    let simulator = Simulator::start(simulated(&args, day, now))?;
    let population = simulator.control().population();
    writeln!(
        out,
        "simulated Tempo on {}: {} traces from {day}; it answers at most {SERVER_LIMIT} a search,\n  and one second holds {BURST}, which are asked for by duration; some traces last minutes, some have lost their root",
        simulator.url(),
        population.len()
    )?;
    let database = Database::open(
        &database::DatabaseArgs { local: true },
        Otherwise::Local,
        16,
    )
    .await?;
    writeln!(
        out,
        "private PostgreSQL in .tempo-harvest/, started in {:.1} s with its tables",
        begun.elapsed().as_secs_f64()
    )?;
    let stop = CancellationToken::new();
    let dashboard = match door {
        Some(door) => {
            let url = door.url();
            writeln!(out, "dashboard on {url}")?;
            let (holder, unusable) = (Holder::of_this_process(), Unusable::default());
            let serving = listen::serve(
                door,
                &database.pool,
                &holder,
                unusable,
                Meter::default(),
                &stop,
            );
            Some((url, serving))
        }
        None => None,
    };
    let outcome = harvest_and_prove(&mut out, &database, &simulator, day, now).await;
    if let (Some((url, _)), Ok(_)) = (&dashboard, &outcome) {
        writeln!(out, "\nlook at {url}; Ctrl-C ends the demo")?;
        run::until_interrupted().await?;
    }
    stop.cancel();
    if let Some((_, serving)) = dashboard {
        serving.await?;
    }
    database.close().await;
    simulator.stop().await;
    let exit = outcome?;
    writeln!(out, "\nWhere to look next:")?;
    writeln!(
        out,
        "  tempo-harvest db                                       psql on what was just collected (dataset `demo`)"
    )?;
    writeln!(
        out,
        "  tempo-harvest status --local                           what is collected"
    )?;
    writeln!(
        out,
        "  tempo-harvest work --local --listen 127.0.0.1:8080     a dashboard of it"
    )?;
    writeln!(
        out,
        "  tempo-harvest init --url http://localhost:3200         a job file for a Tempo of your own"
    )?;
    writeln!(
        out,
        "  tempo-harvest run FILE                                 collect it"
    )?;
    writeln!(
        out,
        "  (from the source tree, `tempo-harvest` is `cargo run --release --`)"
    )?;
    Ok(exit)
}

/// The simulated Tempo alone, until Ctrl-C or SIGTERM.
async fn serve(address: SocketAddr, config: Config, day: Window) -> anyhow::Result<Exit> {
    if !address.ip().is_loopback() {
        let port = address.port();
        return Err(UsageError(format!(
            "--serve `{address}` can be reached from other machines, and made-up traces are for this one: serve on 127.0.0.1:{port}"
        ))
        .into());
    }
    let simulator = Simulator::start_at(address, config)?;
    let (url, traces) = (simulator.url(), simulator.control().population().len());
    say!(
        "simulated Tempo on {url}: {traces} traces from {day}; it answers at most {SERVER_LIMIT} a search\n\
         collect them with: tempo-harvest init --url {url} --output traces.toml && tempo-harvest run traces.toml\n\
         Ctrl-C ends it"
    );
    run::until_interrupted().await?;
    simulator.stop().await;
    Ok(Exit::Complete)
}

fn simulated(args: &Args, day: Window, now: DateTime<Utc>) -> Config {
    let at = |second| DateTime::from_timestamp(second, 0).unwrap_or(now);
    let mut settings = GenerateSettings::new(
        20_261_122,
        at(day.start()),
        at(day.end()),
        args.traces as usize,
    );
    settings.bursts = vec![Burst {
        at_s: day.start() + 13 * 3_600 + 1_234,
        traces: BURST,
    }];
    settings.long_traces = 50;
    settings.rootless_traces = 200;
    let mut config = Config::new(Version::V3_0_3, Population::generate(&settings));
    config.limits.max_result_limit = SERVER_LIMIT;
    config
}

async fn harvest_and_prove(
    out: &mut impl Write,
    database: &Database,
    simulator: &Simulator,
    day: Window,
    now: DateTime<Utc>,
) -> anyhow::Result<Exit> {
    // An earlier demo's Tempo is gone, and so is what its traces were compared with.
    datasets::forget(&mut *database.pool.acquire().await?, DATASET).await?;
    let folder =
        tempfile::tempdir().context("cannot make a temporary folder for the demo's job file")?;
    let file = folder.path().join("demo.toml");
    let text = job_file(&simulator.url(), day);
    std::fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    writeln!(out, "\nthe job file:\n")?;
    for line in text.lines() {
        writeln!(out, "  {line}")?;
    }
    writeln!(out, "\ncollecting …")?;
    let arguments = jobs::JobArgs {
        files: vec![file],
        from: None,
        to: None,
        last: None,
    };
    let Ok(targets) = arguments.targets(now)? else {
        bail!("the demo's own job file is refused");
    };
    let mut interrupts = run::Interrupts::new()?;
    let first = run::run_targets(database, &targets, "demo", now, false, &mut interrupts).await?;
    let Some(first) = first else {
        return Ok(Exit::Gaps);
    };
    if first.iter().any(|report| report.exit() != Exit::Complete) {
        return Ok(Exit::Gaps);
    }
    let compared = compare(database, &simulator.control().truth(), day).await?;
    writeln!(
        out,
        "\nthe proof: {} traces overlap the day, {} are stored: {} missing, {} with wrong ID, start, duration, root or counts",
        compared.expected, compared.stored, compared.missing, compared.wrong
    )?;
    let asked = simulator.control().requests().len();
    let begun = Instant::now();
    writeln!(out, "\nthe same again:")?;
    let again = run::run_targets(database, &targets, "demo", now, false, &mut interrupts).await?;
    let Some(again) = again else {
        return Ok(Exit::Gaps);
    };
    writeln!(
        out,
        "  {} requests to Tempo, {:.0} ms",
        simulator.control().requests().len() - asked,
        begun.elapsed().as_secs_f64() * 1_000.0
    )?;
    let complete = compared.missing == 0
        && compared.wrong == 0
        && again.iter().all(|report| report.exit() == Exit::Complete);
    Ok(if complete {
        Exit::Complete
    } else {
        Exit::Failed
    })
}

fn job_file(url: &str, day: Window) -> String {
    format!(
        r#"name = "{DATASET}"

[source]
name = "simulator"
url = "{url}"
limits = {{ requests_per_second = 1000 }}

[select]
detail = "services"

[backfill]
from = {}
to   = {}
"#,
        rfc3339(day.start()),
        rfc3339(day.end())
    )
}

struct Compared {
    expected: usize,
    stored: usize,
    missing: usize,
    wrong: usize,
}

/// Holds every stored row against the simulated Tempo's own records.
async fn compare(
    database: &Database,
    truth: &[TraceTruth],
    day: Window,
) -> anyhow::Result<Compared> {
    let rows = sqlx::query(
        "SELECT trace_id, start_ns, duration_ms, root_service, root_name, span_count, error_count FROM harvest.traces WHERE dataset = $1",
    )
    .bind(DATASET)
    .fetch_all(&database.pool)
    .await?;
    let mut stored = HashMap::with_capacity(rows.len());
    for row in &rows {
        let id: Vec<u8> = row.try_get(0)?;
        let start_ns: i64 = row.try_get(1)?;
        let duration_ms: i64 = row.try_get(2)?;
        let root: (Option<String>, Option<String>) = (row.try_get(3)?, row.try_get(4)?);
        let counts: (Option<i32>, Option<i32>) = (row.try_get(5)?, row.try_get(6)?);
        stored.insert(id, (start_ns, duration_ms, root, counts));
    }
    let ns = |second: i64| second.unsigned_abs() * 1_000_000_000;
    let day_ns = (ns(day.start()), ns(day.end()));
    let mut compared = Compared {
        expected: 0,
        stored: stored.len(),
        missing: 0,
        wrong: 0,
    };
    for trace in truth
        .iter()
        .filter(|trace| trace.start_ns < day_ns.1 && trace.end_ns >= day_ns.0)
    {
        compared.expected += 1;
        let expected = (
            i64::try_from(trace.start_ns).unwrap_or(i64::MAX),
            i64::try_from((trace.end_ns - trace.start_ns) / 1_000_000).unwrap_or(i64::MAX),
            (
                trace.root_service.as_deref().map(str::to_owned),
                trace.root_name.as_deref().map(str::to_owned),
            ),
            (
                i32::try_from(trace.spans).ok(),
                i32::try_from(trace.errors).ok(),
            ),
        );
        match stored.get(trace.trace_id.as_slice()) {
            None => compared.missing += 1,
            Some(found) if *found != expected => compared.wrong += 1,
            Some(_) => {}
        }
    }
    Ok(compared)
}
