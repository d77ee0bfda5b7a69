//! `db`: psql, or any other command, on the database that this program would use. It keeps a private PostgreSQL up for
//! as long as the command runs.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use url::Url;

use crate::local_postgres::{LocalPostgres, default_folder};

/// Variables of libpq that would overrule the ones set here.
const OVERRULING_VARIABLES: [&str; 3] = ["PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE"];

/// Run psql, or another command, on the database that tempo-harvest would use.
///
/// The command finds the database by DATABASE_URL and by libpq's variables (PGHOST, PGUSER, PGPASSWORD …). A private
/// PostgreSQL in `.tempo-harvest` is started if need be, and stays up until the command ends. The exit code is the
/// command's own.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Use the private PostgreSQL in `.tempo-harvest`, even if DATABASE_URL is set
    #[arg(long)]
    local: bool,

    /// The command and its arguments, after `--` [default: psql]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command, and returns its exit code (128 plus the signal's number, if one killed it, as shells do).
///
/// # Errors
/// When DATABASE_URL is not an URL of a PostgreSQL, the private PostgreSQL does not start, or the command cannot be run.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let url = env::var("DATABASE_URL")
        .ok()
        .filter(|url| !args.local && !url.is_empty());
    let (variables, local) = match url {
        Some(url) => (libpq_variables(&url)?, None),
        None => {
            let executable = env::current_exe().context("finding this program's own file")?;
            let local = LocalPostgres::start(&default_folder()?, &executable).await?;
            (local.environment(), Some(local))
        }
    };
    let psql = local
        .as_ref()
        .map(|local| local.binaries().join("psql"))
        .filter(|psql| psql.is_file())
        .unwrap_or_else(|| PathBuf::from("psql"));
    let (program, arguments) = args
        .command
        .split_first()
        .map_or((psql.as_os_str(), &[][..]), |(program, arguments)| {
            (program.as_os_str(), arguments)
        });
    let mut command = Command::new(program);
    command.args(arguments).envs(variables);
    for name in OVERRULING_VARIABLES {
        command.env_remove(name);
    }
    let status = wait_for(command)
        .await
        .with_context(|| format!("running `{}`", program.display()));
    if let Some(local) = local {
        local.stop().await;
    }
    Ok(exit_code(status?))
}

/// Runs a command to its end. Ctrl-C is the command's business (psql only drops its query): the terminal sends it to
/// both. SIGTERM is sent to us alone, and ends both.
async fn wait_for(mut command: Command) -> std::io::Result<ExitStatus> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut child = command.spawn()?;
    loop {
        tokio::select! {
            status = child.wait() => return status,
            _ = interrupted.recv() => {}
            _ = quit.recv() => {}
            _ = terminated.recv() => child.start_kill()?,
            _ = hung_up.recv() => child.start_kill()?,
        }
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// What a PostgreSQL URL says, as libpq's variables (`psql` does not read DATABASE_URL). What it does not say is left
/// to the variables that are set already, as sqlx does.
fn libpq_variables(database_url: &str) -> anyhow::Result<Vec<(String, String)>> {
    // The URL holds a password: no message shows it.
    let url = Url::parse(database_url).context(
        "DATABASE_URL is not an URL; it should read postgres://USER:PASSWORD@HOST/DATABASE",
    )?;
    anyhow::ensure!(
        matches!(url.scheme(), "postgres" | "postgresql"),
        "DATABASE_URL is not the URL of a PostgreSQL, which is what is supported: postgres://USER:PASSWORD@HOST/DATABASE"
    );
    let decode = |text: &str| percent_decode(text);
    let mut variables = vec![("DATABASE_URL".to_owned(), database_url.to_owned())];
    let mut set = |name: &str, value: String| {
        if !value.is_empty() {
            variables.push((name.to_owned(), value));
        }
    };
    set("PGHOST", decode(url.host_str().unwrap_or_default()));
    set(
        "PGPORT",
        url.port().map_or_else(String::new, |port| port.to_string()),
    );
    set("PGUSER", decode(url.username()));
    set("PGPASSWORD", decode(url.password().unwrap_or_default()));
    set("PGDATABASE", decode(url.path().trim_start_matches('/')));
    for (key, value) in url.query_pairs() {
        let name = match &*key {
            "host" | "hostaddr" => "PGHOST",
            "port" => "PGPORT",
            "user" => "PGUSER",
            "password" => "PGPASSWORD",
            "dbname" => "PGDATABASE",
            "sslmode" | "ssl-mode" => "PGSSLMODE",
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => "PGSSLROOTCERT",
            "sslcert" | "ssl-cert" => "PGSSLCERT",
            "sslkey" | "ssl-key" => "PGSSLKEY",
            "application_name" => "PGAPPNAME",
            "options" => "PGOPTIONS",
            _ => continue,
        };
        set(name, value.into_owned());
    }
    Ok(variables)
}

/// Undoes `%20` and the like; what is not UTF-8 afterwards is replaced.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(url: &str) -> Vec<String> {
        libpq_variables(url)
            .unwrap()
            .into_iter()
            .skip(1)
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn a_url_is_taken_apart_for_libpq() {
        assert_eq!(
            variables("postgres://me:a%2Fb%20c@db.example.net:6432/traces?sslmode=require"),
            [
                "PGHOST=db.example.net",
                "PGPORT=6432",
                "PGUSER=me",
                "PGPASSWORD=a/b c",
                "PGDATABASE=traces",
                "PGSSLMODE=require"
            ]
        );
        assert_eq!(
            variables("postgresql:///traces?host=%2Frun%2Fpostgresql"),
            ["PGDATABASE=traces", "PGHOST=/run/postgresql"]
        );
    }

    #[test]
    fn a_wrong_url_is_refused_without_showing_it() {
        for url in ["mysql://me:secret@host/db", "secret"] {
            let message = format!("{:#}", libpq_variables(url).unwrap_err());
            assert!(!message.contains("secret"), "{message}");
            assert!(
                message.contains("postgres://USER:PASSWORD@HOST/DATABASE"),
                "{message}"
            );
        }
    }
}
