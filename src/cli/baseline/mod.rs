//! `baseline`: what is usual, in which hours enough is known to say so, and whether a duration is normal.

use std::{collections::BTreeMap, io::Write};

use chrono::{DateTime, SecondsFormat, Utc};

use super::{
    Exit, UsageError,
    database::{self, Database, Otherwise},
    terminal,
};
use crate::{
    baseline::{ENOUGH_SAMPLES, Subject, changes::Operation, figures::Figures, pass, slot::Slot},
    store::{
        self,
        baselines::{self, Standing},
        report,
    },
};

mod check;
mod coverage;

/// Show what is usual: durations and errors of each operation, by hour of day and kind of day.
///
/// Without SERVICE a line for each operation; with it all hours. They are brought up to date first.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Only operations of this service
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Show which hours have enough samples
    #[arg(long)]
    coverage: bool,
    /// Count everything anew from the stored traces first: after rows were changed by hand
    #[arg(long)]
    recount: bool,
    #[command(flatten)]
    of: OfArgs,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say whether a duration is normal: exit code 0 if it is, 3 if not, 1 if too little is known
    Check(check::Args),
}

/// Which baselines.
#[derive(Debug, clap::Args)]
struct OfArgs {
    /// Only this dataset, or the one that this job fills
    #[arg(long, value_name = "JOB", alias = "dataset")]
    job: Option<String>,
    /// Single spans by their service and name (detail spans), not whole traces by their root
    #[arg(long)]
    spans: bool,
}

impl OfArgs {
    fn subject(&self) -> Subject {
        match self.spans {
            true => Subject::Span,
            false => Subject::Trace,
        }
    }

    /// The datasets meant.
    async fn datasets(&self, database: &Database) -> anyhow::Result<Vec<String>> {
        let mut conn = database.pool.acquire().await?;
        let named = report::datasets(&mut conn, self.job.as_deref()).await?;
        if let Some(name) = self.job.as_ref().filter(|_| named.is_empty()) {
            return Err(crate::cli::unknown(name).into());
        }
        Ok(named.into_iter().map(|dataset| dataset.name).collect())
    }
}

/// The baselines of a dataset, up to date where this user may bring them there.
struct Known {
    dataset: String,
    standing: Standing,
    operations: BTreeMap<Operation, BTreeMap<Slot, Figures>>,
}

impl Known {
    async fn of(
        database: &Database,
        dataset: String,
        subject: Subject,
        service: Option<&str>,
    ) -> anyhow::Result<Option<Self>> {
        let mut conn = database.pool.acquire().await?;
        if store::rights(&mut conn).await?.write {
            pass::bring_up_to_date(&database.pool, &dataset).await?;
        } else {
            tracing::warn!(
                dataset,
                "this user may only read: baselines are as they were last brought up to date"
            );
        }
        let Some(standing) = baselines::standing(&mut conn, &dataset).await? else {
            return Ok(None);
        };
        let mut operations: BTreeMap<Operation, BTreeMap<Slot, Figures>> = BTreeMap::new();
        for baseline in baselines::list(&mut conn, &dataset, service).await? {
            if baseline.operation.subject == subject {
                operations
                    .entry(baseline.operation)
                    .or_default()
                    .insert(baseline.slot, baseline.figures);
            }
        }
        Ok(Some(Self {
            dataset,
            standing,
            operations,
        }))
    }

    /// How exact the durations are that a dataset holds.
    fn exactness(&self) -> &'static str {
        match self.standing.detail.as_str() {
            "spans" => "percentiles within 0.4 %",
            _ => {
                "durations are whole milliseconds, lower bounds until Tempo has compacted; percentiles within 0.4 %"
            }
        }
    }
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    if let Some(Action::Check(args)) = args.action {
        return check::run(args).await;
    }
    let database = Database::open(&args.database, Otherwise::LookOnly, 2).await?;
    let known = all(&database, &args).await;
    database.close().await;
    let known = known?;
    let mut out = terminal::stdout();
    if args.json {
        let all: Vec<serde_json::Value> = known
            .iter()
            .map(|known| match args.coverage {
                true => coverage::as_json(known),
                false => as_json(known),
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(Exit::Complete);
    }
    if known.is_empty() {
        writeln!(out, "nothing has been submitted yet")?;
    }
    for known in &known {
        heading(&mut out, known)?;
        match (args.coverage, args.service.is_some()) {
            (true, _) => coverage::print(&mut out, known)?,
            (false, true) => hours(&mut out, known)?,
            (false, false) => overview(&mut out, known)?,
        }
    }
    Ok(Exit::Complete)
}

async fn all(database: &Database, args: &Args) -> anyhow::Result<Vec<Known>> {
    let mut all = Vec::new();
    for dataset in args.of.datasets(database).await? {
        if args.recount {
            let mut conn = database.pool.acquire().await?;
            baselines::ask_for_recount(&mut conn, &dataset).await?;
        }
        let (subject, service) = (args.of.subject(), args.service.as_deref());
        all.extend(Known::of(database, dataset, subject, service).await?);
    }
    if let Some(service) = &args.service
        && !all.is_empty()
        && all.iter().all(|known| known.operations.is_empty())
    {
        return Err(UsageError(format!(
            "nothing is known of a service `{service}`; `tempo-harvest baseline{}` lists what is{}",
            database::option(),
            match args.of.spans {
                true => " with --spans",
                false => " (roots of traces; --spans for all, with detail spans)",
            }
        ))
        .into());
    }
    Ok(all)
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn instant_ns(ns: i64) -> String {
    DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// A duration in three digits or so: `870 µs`, `12.3 ms`, `1.50 s`.
fn duration(us: i64) -> String {
    match us {
        ..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..100_000 => format!("{:.1} ms", us as f64 / 1e3),
        100_000..1_000_000 => format!("{:.0} ms", us as f64 / 1e3),
        1_000_000..10_000_000 => format!("{:.2} s", us as f64 / 1e6),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

fn share(rate: Option<f64>) -> String {
    match rate {
        None => "unknown".to_owned(),
        Some(rate) => format!("{:.2} %", rate * 100.0),
    }
}

fn heading(out: &mut impl Write, known: &Known) -> std::io::Result<()> {
    let standing = &known.standing;
    let range = match standing.counted_from.zip(standing.counted_to) {
        None => "nothing is collected yet".to_owned(),
        Some((from, to)) => format!("{} … {}", instant(from), instant(to)),
    };
    writeln!(
        out,
        "{}  ({range}; hours of {}; detail {})",
        known.dataset, standing.timezone, standing.detail
    )?;
    if known.operations.is_empty() {
        return writeln!(out, "  no baselines");
    }
    writeln!(out, "  {}", known.exactness())
}

const COLUMNS: [&str; 6] = ["samples", "errors", "p50", "p95", "p99", "MAD"];

fn columns(out: &mut impl Write, width: usize) -> std::io::Result<()> {
    write!(out, "  {:width$}", "")?;
    for name in COLUMNS {
        write!(out, " {name:>9}")?;
    }
    writeln!(out)
}

fn line(
    out: &mut impl Write,
    name: &str,
    width: usize,
    figures: &Figures,
    more: &str,
) -> std::io::Result<()> {
    let texts = [
        figures.samples.to_string(),
        share(figures.error_rate()),
        duration(figures.p50_us),
        duration(figures.p95_us),
        duration(figures.p99_us),
        duration(figures.mad_us),
    ];
    write!(out, "  {name:width$}")?;
    for text in texts {
        write!(out, " {text:>9}")?;
    }
    writeln!(out, "{more}")
}

fn title(operation: &Operation) -> String {
    format!(
        "{}: {}",
        terminal::in_line(&operation.service),
        terminal::in_line(&operation.name)
    )
}

/// A line for each operation.
fn overview(out: &mut impl Write, known: &Known) -> std::io::Result<()> {
    let width = known
        .operations
        .keys()
        .map(|operation| title(operation).chars().count())
        .max()
        .unwrap_or(0);
    if width > 0 {
        columns(out, width)?;
    }
    for (operation, slots) in &known.operations {
        if let Some(figures) = slots.get(&Slot::EVERYTHING) {
            line(out, &title(operation), width, figures, few(figures))?;
        }
    }
    Ok(())
}

fn few(figures: &Figures) -> &'static str {
    match figures.samples < ENOUGH_SAMPLES {
        true => "  too few",
        false => "",
    }
}

/// All that is known of each operation.
fn hours(out: &mut impl Write, known: &Known) -> std::io::Result<()> {
    for (operation, slots) in &known.operations {
        writeln!(out)?;
        let seen = slots
            .get(&Slot::EVERYTHING)
            .map_or_else(String::new, |figures| {
                format!(
                    "  ({} … {})",
                    instant_ns(figures.first_ns),
                    instant_ns(figures.last_ns)
                )
            });
        writeln!(out, "  {}{seen}", title(operation))?;
        columns(out, 11)?;
        // What takes most together first.
        let (hours, levels): (Vec<_>, Vec<_>) =
            slots.iter().partition(|(slot, _)| slot.hour().is_some());
        for (slot, figures) in levels.into_iter().rev().chain(hours) {
            let more = match (few(figures), slot.fallback()) {
                ("", _) => String::new(),
                (few, None) => few.to_owned(),
                (few, Some(next)) if next == Slot::EVERYTHING => {
                    format!("{few}, everything is used")
                }
                (few, Some(next)) => format!("{few}, {next} are used"),
            };
            line(out, &slot.to_string(), 11, figures, &more)?;
        }
    }
    Ok(())
}

fn as_json(known: &Known) -> serde_json::Value {
    let baselines: Vec<serde_json::Value> = known
        .operations
        .iter()
        .flat_map(|(operation, slots)| {
            slots.iter().map(|(slot, figures)| {
                let mut json = figures_json(figures);
                json["service"] = (*operation.service).into();
                json["operation"] = (*operation.name).into();
                json["level"] = slot.level().name().into();
                json["day_type"] = slot.day_type().map(|day| day.name()).into();
                json["hour"] = slot.hour().into();
                json["enough"] = (figures.samples >= ENOUGH_SAMPLES).into();
                json
            })
        })
        .collect();
    let mut json = standing_json(known);
    json["baselines"] = baselines.into();
    json
}

fn standing_json(known: &Known) -> serde_json::Value {
    let standing = &known.standing;
    serde_json::json!({
        "dataset": known.dataset, "detail": standing.detail, "timezone": standing.timezone,
        "counted_from": standing.counted_from.map(instant), "counted_to": standing.counted_to.map(instant),
        "computed_at": standing.computed_at.map(instant), "enough_samples": ENOUGH_SAMPLES,
        "durations_are_lower_bounds": standing.detail != "spans",
    })
}

fn figures_json(figures: &Figures) -> serde_json::Value {
    let ms = |us: i64| us as f64 / 1e3;
    serde_json::json!({
        "samples": figures.samples, "error_rate": figures.error_rate(), "p50_ms": ms(figures.p50_us),
        "p95_ms": ms(figures.p95_us), "p99_ms": ms(figures.p99_us), "mad_ms": ms(figures.mad_us),
        "first_at": instant_ns(figures.first_ns), "last_at": instant_ns(figures.last_ns),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let texts = [0, 999, 1_000, 12_340, 870_400, 1_500_000, 61_000_000].map(duration);
        assert_eq!(
            texts,
            [
                "0 µs", "999 µs", "1.00 ms", "12.3 ms", "870 ms", "1.50 s", "61.0 s"
            ]
        );
        assert_eq!(share(Some(0.0123)), "1.23 %");
        assert_eq!(share(None), "unknown");
    }
}
