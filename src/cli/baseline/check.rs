//! `baseline check`: whether a duration is normal, how far out it is, and what that was held against.

use std::io::Write;

use chrono::{DateTime, Utc};

use super::super::terminal::{self, say};
use super::{Known, OfArgs, duration, figures_json, instant, share, title};
use crate::{
    baseline::{
        ENOUGH_SAMPLES,
        changes::Operation,
        figures::Figures,
        slot::Slot,
        verdict::{self, Answer, Verdict},
    },
    cli::{
        Exit, UsageError,
        database::{self, Database, Otherwise},
    },
    job,
    store::baselines,
};

/// Durations are known to this unless spans are stored, microseconds.
const MILLISECOND_US: i64 = 1_000;

/// Say whether a duration is normal for an operation at this hour.
///
/// It is held against the baseline of the hour; where that has fewer than 30 samples, against that of all hours of the same
/// kind of day, and then against everything. Not normal is what one in a hundred exceeds (or falls short of) and what is more
/// than three median absolute deviations from the median.
///
/// Exit codes: 0 normal, 3 not normal, 1 too little is known.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Service of the root (with --spans: of the span)
    service: String,
    /// Name of the root (with --spans: of the span)
    operation: String,
    /// The duration: 250ms, 1.5s
    duration: String,
    /// When it happened: 2026-11-01T00:00:00Z, `2h ago`
    #[arg(long, value_name = "TIME", default_value = "now")]
    at: String,
    #[command(flatten)]
    of: OfArgs,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// What a duration was held against, and what came of it.
struct Checked {
    slot: Slot,
    figures: Figures,
    verdict: Verdict,
}

pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let at = job::parse_instant(&args.at, Utc::now())
        .map_err(|error| UsageError(format!("--at {error}")))?;
    let us = job::parse_duration(&args.duration)
        .map_err(|error| UsageError(format!("DURATION {error}")))
        .map(|duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))?;
    let database = Database::open(&args.database, Otherwise::LookOnly, 2).await?;
    let checked = check(&database, &args, at, us).await;
    database.close().await;
    let (known, hour, checked) = checked?;
    let mut out = terminal::stdout();
    if args.json {
        let json = as_json(&args, &known, at, us, hour, checked.as_ref());
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
    } else {
        print(&mut out, &args, &known, us, hour, checked.as_ref())?;
    }
    Ok(match checked.map(|checked| checked.verdict.answer) {
        Some(Answer::Normal) => Exit::Complete,
        Some(Answer::Slow | Answer::Fast) => Exit::Gaps,
        None => Exit::Failed,
    })
}

async fn check(
    database: &Database,
    args: &Args,
    at: DateTime<Utc>,
    us: u64,
) -> anyhow::Result<(Known, Slot, Option<Checked>)> {
    let mut datasets = args.of.datasets(database).await?;
    let dataset = match (datasets.pop(), datasets.is_empty()) {
        (Some(dataset), true) => dataset,
        (None, _) => return Err(UsageError("nothing has been submitted yet".to_owned()).into()),
        (Some(last), false) => {
            datasets.push(last);
            return Err(UsageError(format!(
                "there are several datasets, `{}`: say which with --job",
                datasets.join("`, `")
            ))
            .into());
        }
    };
    let subject = args.of.subject();
    let known = Known::of(database, dataset, subject, None)
        .await?
        .ok_or_else(|| UsageError("the dataset has just been removed".to_owned()))?;
    let timezone = known.standing.timezone.parse().unwrap_or(chrono_tz::UTC);
    let hour = Slot::at(at, timezone);
    let operation = Operation {
        subject,
        service: args.service.as_str().into(),
        name: args.operation.as_str().into(),
    };
    let narrowest = known
        .operations
        .get(&operation)
        .and_then(|slots| verdict::narrowest(slots, hour, ENOUGH_SAMPLES));
    let Some((slot, figures)) = narrowest.map(|(slot, figures)| (slot, *figures)) else {
        return Ok((known, hour, None));
    };
    let mut conn = database.pool.acquire().await?;
    let durations = baselines::durations(&mut conn, &known.dataset, &operation, slot).await?;
    let resolution_us = match known.standing.detail.as_str() {
        "spans" => 1,
        _ => MILLISECOND_US,
    };
    let checked = durations.map(|durations| Checked {
        slot,
        figures,
        verdict: verdict::judge(&figures, &durations, us, resolution_us),
    });
    Ok((known, hour, checked))
}

/// Names that are close to the ones given, if these are not known.
fn similar(args: &Args, known: &Known) -> Option<String> {
    let wanted = format!("{}: {}", args.service, args.operation);
    let close = known
        .operations
        .keys()
        .map(title)
        .map(|title| (strsim::jaro_winkler(&title, &wanted), title))
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    (close.0 > 0.8 && close.1 != wanted).then_some(close.1)
}

fn samples_of(args: &Args, known: &Known) -> i64 {
    known
        .operations
        .iter()
        .find(|(operation, _)| {
            *operation.service == *args.service && *operation.name == *args.operation
        })
        .and_then(|(_, slots)| slots.get(&Slot::EVERYTHING))
        .map_or(0, |figures| figures.samples)
}

fn print(
    out: &mut impl Write,
    args: &Args,
    known: &Known,
    us: u64,
    hour: Slot,
    checked: Option<&Checked>,
) -> std::io::Result<()> {
    let name = format!(
        "{}: {}",
        terminal::in_line(&args.service),
        terminal::in_line(&args.operation)
    );
    let us = i64::try_from(us).unwrap_or(i64::MAX);
    let Some(Checked {
        slot,
        figures,
        verdict,
    }) = checked
    else {
        writeln!(
            out,
            "unknown: of {name} there are {} samples, and it takes {ENOUGH_SAMPLES}",
            samples_of(args, known)
        )?;
        if let Some(similar) = similar(args, known).filter(|_| samples_of(args, known) == 0) {
            say!("did you mean `{similar}`?");
        }
        return Ok(());
    };
    writeln!(
        out,
        "{}: {} of {name} is {:+.1} MADs from the median, longer than {:.1} %",
        verdict.answer.name(),
        duration(us),
        verdict.deviations,
        verdict.rank * 100.0
    )?;
    let instead = match *slot == hour {
        true => String::new(),
        false => format!(" ({hour} has too few samples)"),
    };
    writeln!(
        out,
        "  held against {slot}{instead}, {}: {} samples, p50 {}, p95 {}, p99 {}, MAD {}, errors {}",
        known.standing.timezone,
        figures.samples,
        duration(figures.p50_us),
        duration(figures.p95_us),
        duration(figures.p99_us),
        duration(figures.mad_us),
        share(figures.error_rate())
    )?;
    writeln!(out, "  {}", known.exactness())
}

fn as_json(
    args: &Args,
    known: &Known,
    at: DateTime<Utc>,
    us: u64,
    hour: Slot,
    checked: Option<&Checked>,
) -> serde_json::Value {
    let mut json = serde_json::json!({
        "dataset": known.dataset, "service": args.service, "operation": args.operation, "at": instant(at),
        "timezone": known.standing.timezone, "duration_ms": us as f64 / 1e3, "verdict": "unknown",
        "samples": samples_of(args, known), "enough_samples": ENOUGH_SAMPLES,
        "slot": { "day_type": hour.day_type().map(|day| day.name()), "hour": hour.hour() },
    });
    if let Some(Checked {
        slot,
        figures,
        verdict,
    }) = checked
    {
        json["verdict"] = verdict.answer.name().into();
        json["deviations"] = verdict.deviations.into();
        json["percentile_rank"] = (verdict.rank * 100.0).into();
        json["level"] = slot.level().name().into();
        json["baseline"] = figures_json(figures);
    }
    json
}
