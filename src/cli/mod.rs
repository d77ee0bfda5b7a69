//! The command line: one file a command. Data goes to stdout, logs and diagnostics to stderr.
//!
//! Exit codes: 0 complete, 1 failed, 2 wrong usage or job file, 3 gaps remain.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use sqlx::error::DatabaseError;

use self::terminal::say;
use crate::{control::ControlError, repair::RepairError, verify::source::SourceError};

mod baseline;
mod cancel;
mod certificate;
mod check;
mod completions;
mod confirm;
mod database;
mod dataset;
mod db;
mod demo;
mod doctor;
mod gaps;
mod init;
mod jobs;
mod listen;
mod local_postgres_supervisor;
mod logging;
mod man;
mod memory;
mod migrate;
mod pause;
mod plan;
mod progress;
mod prune;
mod refetch;
mod repair;
mod resume;
mod run;
mod runs;
mod schema;
mod stats;
mod status;
mod submit;
mod terminal;
mod verify;
mod work;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Everything asked for is there.
    Complete = 0,
    /// It failed.
    Failed = 1,
    /// The arguments or a job file are wrong.
    Usage = 2,
    /// Something is missing that should be there.
    Gaps = 3,
}

impl Exit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Complete, Self::Failed, Self::Usage, Self::Gaps];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A wrong argument or job file: printed as it is, exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// There is nothing of this name.
fn unknown(name: &str) -> UsageError {
    UsageError(format!(
        "there is no job and no dataset `{name}`; `tempo-harvest status{}` lists them",
        database::option()
    ))
}

/// An error that is the user's to mend, unless it is the database's.
trait Refusal: std::error::Error + Send + Sync + 'static {
    fn is_of_database(&self) -> bool;
}

impl Refusal for ControlError {
    fn is_of_database(&self) -> bool {
        matches!(self, Self::Database(_))
    }
}

impl Refusal for RepairError {
    fn is_of_database(&self) -> bool {
        matches!(self, Self::Database(_))
    }
}

impl Refusal for SourceError {
    fn is_of_database(&self) -> bool {
        matches!(self, Self::Database(_))
    }
}

fn usage(error: impl Refusal) -> anyhow::Error {
    match error.is_of_database() {
        true => error.into(),
        false => UsageError(error.to_string()).into(),
    }
}

const EXIT_CODES: &str = "Exit codes: 0 complete, 1 failed, 2 wrong usage or job file, 3 gaps remain.\n\
    The database is DATABASE_URL; `run`, `plan`, `doctor` and `db` fall back on a private local PostgreSQL, the rest uses it with --local.";

/// Brings every trace of a time range out of Grafana Tempo into PostgreSQL, and knows which seconds it has.
#[derive(Debug, Parser)]
#[command(name = "tempo-harvest", version = crate::version::FULL, after_help = EXIT_CODES, max_term_width = 120)]
struct Cli {
    /// Log more: -v what is done, -vv every request (RUST_LOG overrides)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Form of the log on stderr
    #[arg(long, global = true, value_enum, default_value_t = logging::Format::Text)]
    log_format: logging::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a commented job file for a Tempo
    Init(init::Args),
    /// Check job files; touches nothing
    Check(check::Args),
    /// Print the JSON Schema of job files, for editors
    Schema(schema::Args),
    /// Check the database and the Tempo, and say what to do about what is wrong
    Doctor(doctor::Args),
    /// Show what `run` would fetch; writes nothing
    Plan(plan::Args),
    /// Put what is missing on the queue, for `work` to fetch
    Submit(submit::Args),
    /// Fetch what is on the queue, until stopped
    Work(work::Args),
    /// Fetch what is missing, wait for it, and report
    Run(run::Args),
    /// Show what is collected and what is being collected
    Status(status::Args),
    /// List what was asked for and is not collected, with reasons
    Gaps(gaps::Args),
    /// Sum up what was asked of Tempo, what it cost, and what each look added
    Stats(stats::Args),
    /// Show what is usual, hour by hour, and say whether a duration is
    Baseline(baseline::Args),
    /// Show what was submitted, by whom and when, and what came of it
    Runs(runs::Args),
    /// Put what is missing on the queue again
    Repair(repair::Args),
    /// Fetch again what is covered
    Refetch(refetch::Args),
    /// Compare what is stored with what Tempo has, hour by hour
    Verify(verify::Args),
    /// Stop fetching for a job or a run, until `resume`
    Pause(pause::Args),
    /// Let a paused job or run go on
    Resume(resume::Args),
    /// Give up what is left of a run, or of all runs of a job
    Cancel(cancel::Args),
    /// Remove a dataset, or forget what it holds
    #[command(subcommand)]
    Dataset(dataset::Command),
    /// Delete the traces that are older than what [retention] says
    Prune(prune::Args),
    /// Create or upgrade the tables
    Migrate(migrate::Args),
    /// Open psql, or run any command, on the database that is used
    Db(db::Args),
    /// See it all on a simulated Tempo and a private PostgreSQL
    Demo(demo::Args),
    /// Print completions for a shell
    Completions(completions::Args),
    /// Write man pages into a folder
    Man(man::Args),
    /// Keeps the private PostgreSQL running while anyone uses it; started by the other commands.
    #[command(name = crate::local_postgres::SUPERVISOR_COMMAND, hide = true)]
    LocalPostgresSupervisor(local_postgres_supervisor::Args),
}

/// The commands and their arguments, for completions and for holding the documentation against them.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the arguments, runs the command and returns its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Printing fails only when nobody reads.
            let _nobody_reads = error.print();
            return if error.use_stderr() {
                Exit::Usage.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    logging::init(cli.verbose, cli.log_format);
    memory::keep_to_itself();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            say!("error: cannot start: {error}");
            return Exit::Failed.into();
        }
    };
    let outcome = runtime.block_on(dispatch(cli.command));
    // Not waiting for lookups and idle connections that nobody needs any more.
    runtime.shutdown_background();
    match outcome {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<UsageError>() {
            Some(UsageError(message)) => {
                say!("error: {message}");
                Exit::Usage.into()
            }
            None => {
                say!("error: {}{}", in_words(&error), hint(&error));
                Exit::Failed.into()
            }
        },
    }
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    let exit = match command {
        Command::Init(args) => init::run(args)?,
        Command::Check(args) => check::run(args)?,
        Command::Schema(args) => schema::run(args)?,
        Command::Doctor(args) => doctor::run(args).await?,
        Command::Plan(args) => plan::run(args).await?,
        Command::Submit(args) => submit::run(args).await?,
        Command::Work(args) => work::run(args).await?,
        Command::Run(args) => run::run(args).await?,
        Command::Status(args) => status::run(args).await?,
        Command::Gaps(args) => gaps::run(args).await?,
        Command::Stats(args) => stats::run(args).await?,
        Command::Baseline(args) => baseline::run(args).await?,
        Command::Runs(args) => runs::run(args).await?,
        Command::Repair(args) => repair::run(args).await?,
        Command::Refetch(args) => refetch::run(args).await?,
        Command::Verify(args) => verify::run(args).await?,
        Command::Pause(args) => pause::run(args).await?,
        Command::Resume(args) => resume::run(args).await?,
        Command::Cancel(args) => cancel::run(args).await?,
        Command::Dataset(command) => dataset::run(command).await?,
        Command::Prune(args) => prune::run(args).await?,
        Command::Migrate(args) => migrate::run(args).await?,
        Command::Db(args) => return db::run(args).await,
        Command::Demo(args) => demo::run(args).await?,
        Command::Completions(args) => completions::run(args, &mut Cli::command())?,
        Command::Man(args) => man::run(args, Cli::command())?,
        Command::LocalPostgresSupervisor(args) => local_postgres_supervisor::run(args).await?,
    };
    Ok(exit.into())
}

/// An error and its causes, each said once: some say what caused them themselves.
fn in_words(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !words.contains(&cause) {
            let separator = if words.is_empty() { "" } else { ": " };
            words += separator;
            words += &cause;
        }
    }
    words
}

/// What to do about what PostgreSQL refuses, where it does not say so itself.
fn hint(error: &anyhow::Error) -> &'static str {
    let refusals = error
        .chain()
        .filter_map(|error| error.downcast_ref::<Box<dyn DatabaseError>>());
    let code = refusals.filter_map(|error| error.code()).next();
    match code.as_deref() {
        // insufficient_privilege
        Some("42501") => {
            "; what writes needs the rights of the role harvest_worker (`tempo-harvest migrate --roles` makes it)"
        }
        // read_only_sql_transaction
        Some("25006") => {
            "; the database is read-only: a replica, or `default_transaction_read_only` is set: name one that can be written"
        }
        // query_canceled
        Some("57014") => "; if `statement_timeout` is set for the user or the database, allow more",
        // undefined_table, undefined_column, undefined_function
        Some("42P01" | "42703" | "42883") => {
            "; the tables are not as tempo-harvest made them: restore a backup"
        }
        _ => "",
    }
}

/// `tempo-harvest … | head` is no error. Only our own writing counts: a database's broken connection is one.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
