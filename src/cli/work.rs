//! `work`: fetch what is on the queue, and schedule the jobs of a folder, until stopped.

use std::{
    path::PathBuf,
    sync::PoisonError,
    time::{Duration, Instant},
};

use anyhow::bail;
use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::{
    Exit,
    database::{self, Database, Otherwise},
    jobs, listen, run,
    terminal::say,
};
use crate::{
    job::Job,
    meter::Meter,
    scheduler::Scheduler,
    store::{
        Holder, OpenError, control, sources,
        windows::{self, Done},
    },
    version, warnings,
    web::Door,
    words::many,
    worker::{AtHand, Unusable, Worker},
};

/// Connections of a worker: enough for several sources at their default concurrency.
const CONNECTIONS: u32 = 32;
/// How often `--drain` looks whether anything is left.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long a daemon waits for a database that is not there yet.
const WAIT_FOR_DATABASE: Duration = Duration::from_secs(60);

/// Fetch what is on the queue and keep the jobs given up to date, until stopped (Ctrl-C or SIGTERM).
///
/// Given job files, their polls tick and their backfills are submitted, on schedule or once. Files that are changed, added
/// or removed are taken over without a restart. Any number of these may work on one database.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job files, or folders of them, to schedule
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Plan once what is due now, and stop when nothing is left to fetch
    #[arg(long)]
    drain: bool,
    #[command(flatten)]
    listen: listen::ListenArgs,
    #[command(flatten)]
    database: database::DatabaseArgs,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let door = args.listen.open().await?;
    let jobs = match args.files.is_empty() {
        true => Vec::new(),
        false => match jobs::to_schedule(&args.files, Utc::now(), !args.drain)? {
            Ok(jobs) => jobs,
            Err(exit) => return Ok(exit),
        },
    };
    let database = open(&args).await?;
    database.must_be_writable().await?;
    let outcome = work(&database, &args, jobs, door).await;
    database.close().await;
    outcome
}

/// Opens the database. A daemon may have been started along with it, or while it restarts: that is waited for.
async fn open(args: &Args) -> anyhow::Result<Database> {
    let begun = Instant::now();
    let mut said = false;
    loop {
        let error = match Database::open(&args.database, Otherwise::Refuse, CONNECTIONS).await {
            Ok(database) => return Ok(database),
            Err(error) => error,
        };
        let passes = error
            .downcast_ref::<OpenError>()
            .is_some_and(OpenError::may_pass);
        if args.drain || !passes || begun.elapsed() > WAIT_FOR_DATABASE {
            return Err(error);
        }
        if !said {
            say!("{error:#}; waiting for it for a minute");
            said = true;
        }
        tokio::time::sleep(WAIT_FOR_DATABASE / 60).await;
    }
}

async fn work(
    database: &Database,
    args: &Args,
    jobs: Vec<Job>,
    door: Option<Door>,
) -> anyhow::Result<Exit> {
    let holder = Holder::of_this_process();
    let at_hand = AtHand::default();
    let meter = Meter::default();
    let mut scheduler = Scheduler::new(
        database.pool.clone(),
        holder.clone(),
        at_hand.clone(),
        args.files.clone(),
        jobs,
    )
    .metered(meter.clone());
    let begun = Instant::now();
    let refused = loop {
        match scheduler.register().await {
            Ok(refused) => break refused,
            Err(error) if args.drain || begun.elapsed() > WAIT_FOR_DATABASE => {
                return Err(error.into());
            }
            Err(_) => tokio::time::sleep(WAIT_FOR_DATABASE / 60).await,
        }
    };
    let goes_on = !args.drain && scheduler.has_jobs();
    for (job, error) in refused {
        let refused = jobs::refused(&job, error);
        if !goes_on {
            return Err(refused);
        }
        say!(
            "error: {refused}\njob `{}` is left out until its file is changed",
            job.name
        );
    }
    let since = Utc::now();
    if args.drain {
        scheduler
            .once()
            .await
            .map_err(|(job, error)| jobs::refused(&job, error))?;
    }
    let stop = CancellationToken::new();
    let worker = Worker::new(database.pool.clone(), holder.clone(), at_hand).metered(meter.clone());
    let unusable = worker.unusable();
    let serving = door.map(|door| {
        say!("dashboard on {}", door.url());
        listen::serve(
            door,
            &database.pool,
            &holder,
            Unusable::clone(&unusable),
            meter.clone(),
            &stop,
        )
    });
    let mut exit = Exit::Complete;
    let mut working = tokio::spawn(worker.run(stop.clone()));
    let mut scheduling = if args.drain || args.files.is_empty() {
        let stop = stop.clone();
        tokio::spawn(async move { stop.cancelled().await })
    } else {
        tokio::spawn(scheduler.run(stop.clone()))
    };
    // A process that ends soon says how it went at its end.
    let watching =
        (!args.drain).then(|| tokio::spawn(warnings::watch(database.pool.clone(), stop.clone())));
    // Before it is said that a signal stops it in order.
    let mut interrupts = run::Interrupts::new()?;
    say!(
        "tempo-harvest {}, working as {holder}; Ctrl-C or SIGTERM stops in order",
        version::FULL
    );
    tokio::select! {
        () = interrupts.next() => {
            say!("stopping: what is in hand goes back on the queue");
        }
        left = drained(database, &unusable), if args.drain => {
            if !left.is_empty() {
                say!("windows of `{}` stay on the queue: this process cannot work on them", left.join("`, `"));
                exit = Exit::Gaps;
            }
        }
        ended = &mut working => match ended {
            Ok(Err(newer)) => return Err(run::given_back(newer)),
            ended => bail!("the worker ended badly: {ended:?}"),
        },
        ended = &mut scheduling => bail!("the scheduler ended badly: {ended:?}"),
    }
    stop.cancel();
    tokio::select! {
        ended = working => ended?.map_err(run::given_back)?,
        () = interrupts.next() => say!("stopped at once; what was in hand is taken up again within a minute"),
    }
    scheduling.await?;
    if let Some(serving) = serving {
        serving.await?;
    }
    if let Some(watching) = watching {
        watching.await?;
    }
    if args.drain {
        let mut conn = database.pool.acquire().await?;
        // By whoever works beside it, too: the windows are nobody's own.
        match windows::done_since(&mut conn, since).await? {
            Done {
                windows: 0,
                requests: 0,
                ..
            } => say!("nothing was fetched meanwhile"),
            done => say!(
                "fetched meanwhile: {}, {}, {}",
                many(done.windows, "window", "windows"),
                many(done.traces, "trace", "traces"),
                many(done.requests, "request", "requests")
            ),
        }
        let paused = control::paused_windows(&mut conn).await?;
        let local = database::option();
        if paused > 0 {
            let paused = many(paused, "window is", "windows are");
            say!("{paused} paused: tempo-harvest status{local} says since when, and by whom");
            exit = Exit::Gaps;
        }
        let failed = windows::failed_since(&mut conn, since).await?;
        if failed > 0 {
            let failed = many(failed, "window", "windows");
            say!("{failed} failed: tempo-harvest gaps{local} says why");
            exit = Exit::Gaps;
        }
    }
    Ok(exit)
}

/// Returns when no window is queued or being fetched, by anyone, except those of sources that cannot be used here.
async fn drained(database: &Database, unusable: &Unusable) -> Vec<String> {
    loop {
        let open = async { sources::with_open_windows(&mut *database.pool.acquire().await?).await };
        if let Ok(open) = open.await {
            let unusable = unusable.lock().unwrap_or_else(PoisonError::into_inner);
            if open.iter().all(|source| unusable.contains_key(source)) {
                return open;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
