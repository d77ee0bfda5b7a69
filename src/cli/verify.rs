//! `verify`: what is stored against what Tempo has, hour by hour.

use std::{collections::BTreeMap, io::Write, path::PathBuf};

use chrono::{DateTime, Utc};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    Exit, UsageError, certificate,
    confirm::confirmed,
    database::{self, Database, Otherwise},
    jobs, run,
    terminal::{self, say},
    usage,
};
use crate::{
    job::Detail,
    repair::{self, Planned},
    store::{
        self, Holder, control,
        report::{self, DatasetState},
    },
    verify::{
        self, Depth, HOUR_S, Hour, Report, Request,
        certificate::NotVerified,
        deep::Foreign,
        mend::Mending,
        source::Opened,
        standing::{self, NotYet},
    },
    window::{Window, WindowSet, rfc3339},
    worker::{AtHand, Worker},
};

/// IDs that are named for each hour; --json names all.
const NAMED: usize = 20;
/// Connections: two for each window in hand, and some to look around with.
const CONNECTIONS: u32 = 24;
/// How often the ledger is looked at while waiting.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// Compare what is stored with what Tempo has, hour by hour. Exit code 0 only if every hour is equal, or beyond retention; 3
/// otherwise.
///
/// Without --deep by Tempo's own counts: cheap, and no more than evidence. With --deep everything is listed again and IDs are
/// compared both ways.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The dataset, or a job that fills it
    #[arg(value_name = "JOB")]
    name: String,
    /// From here: 2026-11-01T00:00:00Z, `7d ago`; else from where collecting began
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Up to here: 2026-11-08T00:00:00Z, `1d ago`; else up to what is due
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// List everything again, and compare IDs both ways
    #[arg(long)]
    deep: bool,
    /// Fetch again what disagrees or was never collected; with --deep also take out what Tempo does not have
    #[arg(long)]
    repair: bool,
    /// Do not ask before repairing
    #[arg(long, requires = "repair")]
    yes: bool,
    /// Print a certificate: what is covered, what verified it, and a digest for each day
    #[arg(long, requires = "deep", conflicts_with = "repair")]
    certificate: bool,
    /// Hold an earlier certificate (its JSON) against what is stored now; Tempo is not asked
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to", "deep", "repair"])]
    check: Option<PathBuf>,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout, with all IDs
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let database = Database::open(&args.database, Otherwise::LookOnly, CONNECTIONS).await?;
    // What keeps the pace of requests writes, and so do verdicts.
    database.must_be_writable().await?;
    let outcome = tokio::select! {
        outcome = of_job(&database, &args) => outcome,
        interrupted = run::until_interrupted() => {
            interrupted?;
            say!("stopped; what is on the queue stays there");
            Ok(Exit::Failed)
        }
    };
    database.close().await;
    outcome
}

async fn of_job(database: &Database, args: &Args) -> anyhow::Result<Exit> {
    let now = Utc::now();
    let dataset = dataset(database, &args.name).await?;
    if let Some(path) = &args.check {
        return certificate::check(database, &dataset.name, path, args.json).await;
    }
    let ledger = verify::ledger(&database.pool, &dataset, now).await?;
    let (within, asked) = asked(args, standing::asked_for(&ledger), now)?;
    let not_yet = standing::not_yet(&ledger, within, &asked);
    let holder = Holder::of_this_process();
    let opened = Opened::open(&database.pool, &holder, &dataset.source, None)
        .await
        .map_err(usage)?;
    let request = Request {
        pool: &database.pool,
        harvester: &opened.harvester,
        dataset: &dataset,
        depth: match args.deep {
            true => Depth::Deep,
            false => Depth::Counts,
        },
        gently: false,
        now,
    };
    let outcome = async {
        let mut report = verify::verify(&request, &ledger, &asked).await?;
        let mut repaired = None;
        if args.repair && !report.is_in_order() {
            repaired = repair(database, args, &request, &opened, &mut report).await?;
        }
        anyhow::Ok((report, repaired))
    };
    let outcome = outcome.await;
    opened.close().await;
    let (report, repaired) = outcome?;
    let certified = match args.certificate {
        true => {
            verify::certificate::certify(&database.pool, &dataset, &ledger, &report, &not_yet)
                .await?
        }
        false => None,
    };
    let mut out = terminal::stdout();
    match args.json {
        true if certified.is_some() => {
            writeln!(out, "{}", serde_json::to_string_pretty(&certified)?)?;
        }
        true => {
            let json = as_json(&dataset, &report, &not_yet, repaired.as_ref());
            writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
        }
        false => match &certified {
            Some(certified) => certificate::print(&mut out, certified)?,
            None => print(&mut out, &dataset, &report, &not_yet, repaired.as_ref())?,
        },
    }
    Ok(match report.is_in_order() {
        true => Exit::Complete,
        false => Exit::Gaps,
    })
}

/// The dataset of this name, or the one that the job of this name fills.
async fn dataset(database: &Database, name: &str) -> anyhow::Result<DatasetState> {
    let mut conn = database.pool.acquire().await?;
    let mut datasets = report::datasets(&mut conn, Some(name)).await?;
    match (datasets.pop(), datasets.is_empty()) {
        (Some(dataset), true) => Ok(dataset),
        (None, _) => Err(super::unknown(name).into()),
        (Some(_), false) => Err(UsageError(format!(
            "`{name}` is a dataset and also a job that fills another: name the dataset by another of its jobs"
        ))
        .into()),
    }
}

/// The bounds, and what is to be verified: with both bounds all of it, else what was asked for on that side.
fn asked(
    args: &Args,
    by_default: WindowSet,
    now: DateTime<Utc>,
) -> Result<(Window, WindowSet), UsageError> {
    let (from, to) = (args.from.as_deref(), args.to.as_deref());
    let bounds = jobs::bounds(from, to, now)?;
    let asked = match (from, to) {
        (Some(_), Some(_)) => bounds.into(),
        _ => by_default.intersection(&bounds.into()),
    };
    Ok((bounds, asked))
}

/// `3 hours`, and where of one there is a part only `2 h 10 min in 3 hours`.
pub(super) fn in_hours(hours: usize, seconds: i64) -> String {
    if i64::try_from(hours).is_ok_and(|hours| hours * HOUR_S == seconds) || seconds == 0 {
        return format!("{hours} hours");
    }
    let parts = [
        (seconds / 3_600, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let parts = parts.into_iter().filter(|(number, _)| *number > 0);
    let parts: Vec<String> = parts
        .map(|(number, unit)| format!("{number} {unit}"))
        .collect();
    format!("{} in {hours} hours", parts.join(" "))
}

/// A stretch that was not verified, with why and until when.
pub(super) fn not_verified(not: &NotVerified) -> String {
    let until = not.until.as_ref();
    let until = until.map_or_else(String::new, |until| format!(" until {until}"));
    format!("{} … {}: {}{until}", not.from, not.to, not.reason)
}

/// What was done about a report.
struct Repaired {
    again: Option<Planned>,
    gaps: Option<Planned>,
    removed: i64,
    kept: Vec<(Window, usize, &'static str)>,
}

/// Does what a report asks for, and verifies the hours again. `None`: there was nothing to do, or it was not wanted.
async fn repair(
    database: &Database,
    args: &Args,
    request: &Request<'_>,
    opened: &Opened,
    report: &mut Report,
) -> anyhow::Result<Option<Repaired>> {
    let mending = Mending::of(report);
    let dataset = request.dataset;
    if mending.is_nothing() {
        return Ok(Some(Repaired {
            again: None,
            gaps: None,
            removed: 0,
            kept: mending.kept,
        }));
    }
    let what = format!(
        "{}: {} s to fetch again, {} hours not completely collected, {} traces to take out that Tempo does not have",
        dataset.name,
        mending.again.seconds(),
        mending.gaps.len(),
        mending.remove.len()
    );
    let consequence =
        "this fetches from Tempo, and moves what is taken out to harvest.removed_traces";
    if !confirmed(&what, consequence, args.yes)? {
        say!("nothing done");
        return Ok(None);
    }
    let holder = &request.harvester.holder;
    let mut conn = database.pool.acquire().await?;
    let mut removed = 0;
    if !mending.remove.is_empty() {
        let name = &dataset.name;
        removed = store::verify::set_aside(&mut conn, name, &mending.remove, holder).await?;
    }
    let mut plan = repair::Request {
        dataset: &dataset.name,
        source: &dataset.source,
        job: Some(&args.name),
        within: None,
        now: Utc::now(),
        holder,
    };
    let mut runs = Vec::new();
    let mut again = None;
    if !mending.again.is_empty() {
        let hours = report.hours.iter();
        let missing: Vec<[u8; 16]> = hours.flat_map(|hour| hour.missing_ids.clone()).collect();
        if dataset.detail == Detail::Spans.name() && !missing.is_empty() {
            store::verify::drop_orphans(&mut conn, &dataset.name, &missing).await?;
        }
        let planned = repair::fetch_again(&mut conn, &plan, &mending.again)
            .await
            .map_err(usage)?;
        runs.extend(planned.run.as_ref().map(|(_, run)| *run));
        again = Some(planned);
    }
    let mut gaps = None;
    let gap_hours = mending.gaps.iter().copied().reduce(Window::until);
    if gap_hours.is_some() {
        plan.within = gap_hours;
        let planned = repair::repair(&mut conn, &plan, false)
            .await
            .map_err(usage)?;
        runs.extend(planned.run.as_ref().map(|(_, run)| *run));
        gaps = Some(planned);
    }
    drop(conn);
    fetch(database, opened, holder, &runs).await?;
    let touched = report
        .hours
        .iter()
        .filter(|hour| !hour.verdict.is_in_order())
        .map(|hour| hour.window);
    let touched: WindowSet = touched.collect();
    let ledger = verify::ledger(&database.pool, dataset, request.now).await?;
    let second = verify::verify(request, &ledger, &touched).await?;
    report.replace(second);
    Ok(Some(Repaired {
        again,
        gaps,
        removed,
        kept: mending.kept,
    }))
}

/// Works until no window of these runs is open.
async fn fetch(
    database: &Database,
    opened: &Opened,
    holder: &Holder,
    runs: &[i64],
) -> anyhow::Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let stop = CancellationToken::new();
    let at_hand: AtHand = std::iter::once(opened.source.clone()).collect();
    let worker = Worker::new(database.pool.clone(), holder.clone(), at_hand)
        .only([opened.source.name.clone()]);
    let mut working = tokio::spawn(worker.run(stop.clone()));
    let waited = tokio::select! {
        waited = until_finished(database, runs) => waited,
        ended = &mut working => {
            ended?.map_err(run::given_back)?;
            anyhow::bail!("the worker ended before the work");
        }
    };
    stop.cancel();
    working.await?.map_err(run::given_back)?;
    Ok(waited?)
}

async fn until_finished(database: &Database, runs: &[i64]) -> sqlx::Result<()> {
    loop {
        {
            let mut conn = database.pool.acquire().await?;
            if control::open_windows(&mut conn, runs).await? == 0 {
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

fn foreign_as_json(foreign: &Foreign) -> serde_json::Value {
    json!({ "trace_id": hex(&foreign.trace_id), "standing": foreign.standing.name() })
}

fn hour_as_json(hour: &Hour, depth: Depth) -> serde_json::Value {
    let mut json = json!({
        "from": rfc3339(hour.window.start()), "to": rfc3339(hour.window.end()), "verdict": hour.verdict.name(),
        "here": hour.here, "in_tempo": hour.in_tempo, "difference": hour.in_tempo.map(|there| hour.here - there),
        "rootless": hour.rootless, "missing": hour.missing, "more_here": hour.more_here, "reason": hour.reason,
    });
    if depth == Depth::Deep {
        json["missing_ids"] = hour.missing_ids.iter().map(hex).collect();
        json["more_here_ids"] = hour.foreign.iter().map(foreign_as_json).collect();
        json["by_id_only"] = hour.by_id_only.into();
    }
    json
}

fn as_json(
    dataset: &DatasetState,
    report: &Report,
    not_yet: &[NotYet],
    repaired: Option<&Repaired>,
) -> serde_json::Value {
    let tally: BTreeMap<&str, usize> = report
        .tally()
        .into_iter()
        .map(|(verdict, hours)| (verdict.name(), hours))
        .collect();
    let hours = report.hours.iter();
    json!({
        "dataset": dataset.name,
        "depth": report.depth.name(),
        "in_order": report.is_in_order(),
        "verdicts": tally,
        "verified_at": rfc3339(report.ended_at.timestamp()),
        "seconds": (report.ended_at - report.began_at).as_seconds_f64(),
        "requests": report.requests,
        "rootless_unverified": match report.depth {
            Depth::Counts => Some(report.hours.iter().map(|hour| hour.rootless).sum::<i64>()),
            Depth::Deep => None,
        },
        "hours": hours.map(|hour| hour_as_json(hour, report.depth)).collect::<Vec<_>>(),
        "not_verified_yet": not_yet.iter().map(NotVerified::from).collect::<Vec<_>>(),
        "repair": repaired.map(|repaired| json!({
            "fetched_again": repaired.again.as_ref().map(|planned| super::repair::as_json(&dataset.name, planned)),
            "gaps": repaired.gaps.as_ref().map(|planned| super::repair::as_json(&dataset.name, planned)),
            "removed": repaired.removed,
            "kept": repaired.kept.iter().map(|(window, traces, why)| json!({
                "from": rfc3339(window.start()), "to": rfc3339(window.end()), "traces": traces, "why": why,
            })).collect::<Vec<_>>(),
        })),
    })
}

fn print(
    out: &mut impl Write,
    dataset: &DatasetState,
    report: &Report,
    not_yet: &[NotYet],
    repaired: Option<&Repaired>,
) -> std::io::Result<()> {
    let name = &dataset.name;
    if report.hours.is_empty() {
        writeln!(out, "{name}: nothing that was asked for is due yet")?;
        return print_not_yet(out, name, not_yet);
    }
    let (here, there) = match report.depth {
        Depth::Counts => ("here, with root", "counted"),
        Depth::Deep => ("here", "listed"),
    };
    writeln!(
        out,
        "{:<20}  {here:>15}  {there:>10}  {:>10}  verdict",
        "hour", "difference"
    )?;
    for hour in &report.hours {
        print_hour(out, hour)?;
    }
    if let Some(repaired) = repaired {
        print_repaired(out, name, repaired)?;
    }
    let tally: Vec<String> = report
        .tally()
        .into_iter()
        .map(|(verdict, hours)| format!("{hours} {}", verdict.name()))
        .collect();
    let by = match report.depth {
        Depth::Counts => "by counts",
        Depth::Deep => "deep",
    };
    writeln!(
        out,
        "{name}: verified {by}: {}: {}; {} requests, {:.1} s",
        in_hours(report.hours.len(), report.seconds()),
        tally.join(", "),
        report.requests,
        (report.ended_at - report.began_at).as_seconds_f64()
    )?;
    let rootless: i64 = report.hours.iter().map(|hour| hour.rootless).sum();
    if report.depth == Depth::Counts && rootless > 0 {
        writeln!(
            out,
            "{name}: {rootless} traces without a root are unverified: counts do not see them, --deep does"
        )?;
    }
    print_not_yet(out, name, not_yet)
}

fn print_not_yet(out: &mut impl Write, name: &str, not_yet: &[NotYet]) -> std::io::Result<()> {
    for not in not_yet {
        let not = not_verified(&not.into());
        writeln!(out, "{name}: not verified yet: {not}")?;
    }
    Ok(())
}

fn print_hour(out: &mut impl Write, hour: &Hour) -> std::io::Result<()> {
    let there = hour
        .in_tempo
        .map_or_else(|| "?".to_owned(), |there| there.to_string());
    let difference = hour
        .in_tempo
        .map_or_else(String::new, |there| match hour.here - there {
            0 => "0".to_owned(),
            difference => format!("{difference:+}"),
        });
    let part = match hour.window.seconds() {
        HOUR_S => String::new(),
        _ => format!(" (up to {})", rfc3339(hour.window.end())),
    };
    let reason = hour
        .reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(": {reason}"));
    writeln!(
        out,
        "{:<20}  {:>15}  {there:>10}  {difference:>10}  {}{part}{reason}",
        rfc3339(hour.window.start()),
        hour.here,
        hour.in_words()
    )?;
    for id in hour.missing_ids.iter().take(NAMED) {
        writeln!(out, "  missing here    {}", hex(id))?;
    }
    for foreign in hour.foreign.iter().take(NAMED) {
        writeln!(
            out,
            "  more here       {}  {}",
            hex(&foreign.trace_id),
            foreign.standing.name()
        )?;
    }
    let named = hour.missing_ids.len().min(NAMED) + hour.foreign.len().min(NAMED);
    let left = hour.missing_ids.len() + hour.foreign.len() - named;
    if left > 0 {
        writeln!(out, "  and {left} more: --json names all")?;
    }
    Ok(())
}

fn print_repaired(out: &mut impl Write, name: &str, repaired: &Repaired) -> std::io::Result<()> {
    for planned in [&repaired.again, &repaired.gaps].into_iter().flatten() {
        if let Some((_, run)) = &planned.run {
            writeln!(
                out,
                "{name}: repaired: {} windows fetched (run {run}): {}",
                planned.windows.len(),
                super::repair::in_words(&planned.queued_s)
            )?;
        }
    }
    if repaired.removed > 0 {
        writeln!(
            out,
            "{name}: repaired: {} traces that Tempo does not have moved to harvest.removed_traces",
            repaired.removed
        )?;
    }
    for (window, traces, why) in &repaired.kept {
        writeln!(out, "{name}: left: {traces} traces here of {window}: {why}")?;
    }
    Ok(())
}
