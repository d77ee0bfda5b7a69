//! `work`: fetch what is on the queue, until stopped.

use std::{path::PathBuf, sync::PoisonError};

use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::{
    Exit,
    database::{self, Database, Otherwise},
    jobs, run,
};
use crate::{
    store::{Holder, sources, windows},
    submit,
    worker::{Unusable, Worker},
};

/// Connections of a worker: enough for several sources at their default concurrency.
const CONNECTIONS: u32 = 32;
/// How often `--drain` looks whether anything is left.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(300);

/// Fetch what is on the queue, until stopped (Ctrl-C or SIGTERM).
///
/// Any number of these may work on one database. Given job files, their backfills are submitted first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job files, or folders of them, whose backfills are submitted first
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Stop when nothing is left to fetch
    #[arg(long)]
    drain: bool,
    #[command(flatten)]
    database: database::DatabaseArgs,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let now = Utc::now();
    let jobs = if args.files.is_empty() {
        Vec::new()
    } else {
        let files = jobs::JobArgs {
            files: args.files.clone(),
            from: None,
            to: None,
            last: None,
        };
        match files.targets_with_backfill(now)? {
            Ok(targets) => targets,
            Err(exit) => return Ok(exit),
        }
    };
    let database = Database::open(&args.database, Otherwise::Refuse, CONNECTIONS).await?;
    let outcome = work(&database, &jobs, args.drain).await;
    database.close().await;
    outcome
}

async fn work(database: &Database, targets: &[jobs::Target], drain: bool) -> anyhow::Result<Exit> {
    let holder = Holder::of_this_process();
    for target in targets {
        let submission = target.submission("work", &holder, Utc::now());
        let mut conn = database.pool.acquire().await?;
        let (plan, _run) = submit::submit(&mut conn, &submission)
            .await
            .map_err(|error| target.refused(error))?;
        eprintln!(
            "{}: {} windows submitted",
            target.job.name,
            plan.windows.len()
        );
    }
    let stop = CancellationToken::new();
    let worker = Worker::new(
        database.pool.clone(),
        holder.clone(),
        targets.iter().map(|target| target.job.source.clone()),
    );
    let since = Utc::now();
    let unusable = worker.unusable();
    let mut exit = Exit::Complete;
    let working = tokio::spawn(worker.run(stop.clone()));
    eprintln!("working as {holder}; Ctrl-C or SIGTERM stops in order");
    tokio::select! {
        interrupted = run::until_interrupted() => {
            interrupted?;
            eprintln!("stopping: what is in hand goes back on the queue");
        }
        left = drained(database, &unusable), if drain => {
            if !left.is_empty() {
                eprintln!("windows of `{}` stay on the queue: this process cannot work on them", left.join("`, `"));
                exit = Exit::Gaps;
            }
        }
    }
    stop.cancel();
    tokio::select! {
        ended = working => ended?,
        _ = run::until_interrupted() => eprintln!("stopped at once; what was in hand is taken up again within a minute"),
    }
    if drain {
        let failed = windows::failed_since(&mut *database.pool.acquire().await?, since).await?;
        if failed > 0 {
            eprintln!("{failed} windows failed: tempo-harvest gaps says why");
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
