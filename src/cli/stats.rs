//! `stats`: what was asked of Tempo, what it cost, what of it was for nothing, and what each look added.

use std::io::Write;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{
    Exit, UsageError,
    database::{self, Database, Otherwise},
    jobs, terminal,
};
use crate::{
    job,
    stats::{self, Durations, Statistics, Sums},
    store::stats::{LookFigures, Within},
    warnings::{self, Warning},
    window::rfc3339,
    words::many,
};

/// Sum up what was asked of Tempo, what it cost, and what each look added.
///
/// Requests count by when they were made. Those older than a week are kept as sums by day (UTC): of the days at the edges of
/// a range all of them count.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this dataset, or the one that this job fills
    #[arg(value_name = "JOB")]
    name: Option<String>,
    /// What was asked since: 2026-11-01T00:00:00Z, `7d ago`
    #[arg(long, value_name = "TIME", conflicts_with = "last")]
    from: Option<String>,
    /// What was asked until: 2026-11-08T00:00:00Z, `1d ago`
    #[arg(long, value_name = "TIME", conflicts_with = "last")]
    to: Option<String>,
    /// What was asked in this time: 15m, 24h, 7d
    #[arg(long, value_name = "DURATION")]
    last: Option<String>,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Json<'a> {
    /// Null: from the beginning.
    from: Option<String>,
    /// Null: up to the present.
    to: Option<String>,
    datasets: &'a [Statistics],
    /// What holds now, whatever the range.
    warnings: &'a [Warning],
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let now = Utc::now();
    let within = within(&args, now)?;
    let database = Database::open(&args.database, Otherwise::LookOnly, 2).await?;
    let read = async {
        let mut conn = database.pool.acquire().await?;
        let statistics = stats::of(&mut conn, args.name.as_deref(), within).await?;
        let mut warnings = warnings::current(&mut conn, now).await?;
        warnings.retain(|warning| {
            let mut about = statistics.iter();
            about.any(|of| warning.is_about(&of.dataset, &of.source))
        });
        Ok::<_, sqlx::Error>((statistics, warnings))
    }
    .await;
    database.close().await;
    let (statistics, warnings) = read?;
    if let Some(name) = args.name.as_ref().filter(|_| statistics.is_empty()) {
        return Err(super::unknown(name).into());
    }
    let mut out = terminal::stdout();
    if args.json {
        let second = |at: Option<DateTime<Utc>>| at.map(|at| rfc3339(at.timestamp()));
        let report = Json {
            from: second(within.from),
            to: second(within.to),
            datasets: &statistics,
            warnings: &warnings,
        };
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(Exit::Complete);
    }
    if statistics.is_empty() {
        writeln!(
            out,
            "nothing has been submitted yet: tempo-harvest run FILE"
        )?;
    }
    for of in &statistics {
        print(&mut out, of)?;
    }
    for warning in &warnings {
        let about = warning.dataset.as_deref().unwrap_or(&warning.source);
        writeln!(out, "warning: {about}: {warning}")?;
    }
    Ok(Exit::Complete)
}

fn within(args: &Args, now: DateTime<Utc>) -> Result<Within, UsageError> {
    if let Some(last) = &args.last {
        let length = job::parse_duration(last)
            .map_err(|error| UsageError(format!("--last {error}")))
            .map(jobs::seconds)?;
        if length == 0 {
            return Err(UsageError(format!("--last `{last}` is empty")));
        }
        let from = TimeDelta::try_seconds(length).and_then(|length| now.checked_sub_signed(length));
        return Ok(Within { from, to: None });
    }
    let bounds = jobs::bounds(args.from.as_deref(), args.to.as_deref(), now)?;
    let at = |written: &Option<String>, second| {
        written
            .as_ref()
            .and_then(|_| DateTime::from_timestamp(second, 0))
    };
    Ok(Within {
        from: at(&args.from, bounds.start()),
        to: at(&args.to, bounds.end()),
    })
}

fn print(out: &mut impl Write, of: &Statistics) -> std::io::Result<()> {
    writeln!(out, "{}  (from {})", of.dataset, of.source)?;
    let total = &of.total;
    if total.requests == 0 {
        writeln!(out, "  no requests in this range")?;
    } else {
        print_requests(out, total)?;
    }
    if of.runs.len() > 1 {
        for runs in &of.runs {
            let what = match (&runs.job, &runs.kind) {
                (Some(job), Some(kind)) => format!("{kind} of {job}"),
                _ => "outside runs".to_owned(),
            };
            writeln!(out, "  {what}: {}", in_short(&runs.sums))?;
        }
    }
    for look in &of.looks {
        writeln!(out, "  {}", added(look))?;
    }
    Ok(())
}

fn print_requests(out: &mut impl Write, sums: &Sums) -> std::io::Result<()> {
    let kinds = [
        (sums.searches, ("search", "searches")),
        (sums.counts, ("count", "counts")),
        (sums.lookups, ("look-up of a trace", "look-ups of a trace")),
    ];
    let kinds = kinds.iter().filter(|(count, _)| *count > 0);
    let kinds: Vec<String> = kinds
        .map(|(count, (one, more))| many(*count, one, more))
        .collect();
    writeln!(
        out,
        "  {}: {}; {} of them retries",
        many(sums.requests, "request", "requests"),
        kinds.join(", "),
        sums.retries
    )?;
    if let Some(share) = sums.thrown_away_share {
        writeln!(
            out,
            "  thrown away: {}, {:.1} % of the searches",
            many(sums.thrown_away, "answer", "answers"),
            share * 100.0
        )?;
    }
    if sums.limits_learned > 0 {
        let refused = many(sums.limits_learned, "refusal", "refusals");
        writeln!(out, "  limit learned: {refused}, no error")?;
    }
    if !sums.errors.is_empty() {
        writeln!(out, "  errors: {}", errors(sums))?;
    }
    let inspected = match sums.inspected_bytes {
        Some(bytes) => format!(
            "{} read by Tempo for the {} of which it said so",
            size(bytes),
            many(sums.inspected_requests, "request", "requests")
        ),
        None => "Tempo never said how much it read".to_owned(),
    };
    writeln!(
        out,
        "  {} in {}; {inspected}",
        many(sums.traces, "trace", "traces"),
        size(sums.bytes)
    )?;
    for (kind, took) in &sums.duration {
        let Durations {
            p50_ms,
            p95_ms,
            p99_ms,
            ..
        } = took;
        writeln!(
            out,
            "  {kind}: p50 {p50_ms} ms, p95 {p95_ms} ms, p99 {p99_ms} ms (within 9 %)"
        )?;
    }
    if let Some(fullest) = sums.fullest {
        writeln!(
            out,
            "  the fullest answer that counted brought {:.0} % of what one search may",
            fullest * 100.0
        )?;
    }
    Ok(())
}

fn in_short(sums: &Sums) -> String {
    let mut text = format!(
        "{}, {} thrown away, {}",
        many(sums.requests, "request", "requests"),
        sums.thrown_away,
        many(sums.retries, "retry", "retries")
    );
    if !sums.errors.is_empty() {
        text += &format!("; errors: {}", errors(sums));
    }
    text
}

fn errors(sums: &Sums) -> String {
    let errors = sums.errors.iter();
    let errors: Vec<String> = errors
        .map(|(class, count)| format!("{count} {class}"))
        .collect();
    errors.join(", ")
}

/// What a look added, in a sentence.
fn added(look: &LookFigures) -> String {
    let what = match (look.look.as_str(), look.looked_at_before) {
        ("fresh", _) => "the fresh look",
        ("settled", true) => "the settled look, again after the fresh one,",
        ("settled", false) => "the settled look, as the first,",
        (_, true) => "the sealing look, again after earlier ones,",
        (_, false) => "the only look",
    };
    format!(
        "{what} added {} and improved {}, of {} in {}",
        many(look.new, "trace", "traces"),
        look.improved,
        look.traces,
        many(look.windows, "window", "windows")
    )
}

/// Bytes with a unit.
fn size(bytes: i64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut size = bytes as f64;
    let mut unit = "bytes";
    for larger in UNITS {
        if size < 1_000.0 {
            break;
        }
        size /= 1_000.0;
        unit = larger;
    }
    match unit {
        "bytes" => format!("{bytes} bytes"),
        _ => format!("{size:.1} {unit}"),
    }
}
