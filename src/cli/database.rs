//! Which database a command uses: DATABASE_URL, or the private local PostgreSQL.

use std::{
    env::VarError,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context;
use sqlx::{PgPool, postgres::PgConnectOptions};
use url::Url;

use super::UsageError;
use crate::{
    local_postgres::{self, LocalPostgres},
    store,
};

/// How long the connections may take to close. They end with the process anyway, and one that is not given back, or whose
/// server is gone, must not keep it.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Options of commands that need a database.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DatabaseArgs {
    /// Use the private local PostgreSQL in .tempo-harvest/, whatever DATABASE_URL says
    #[arg(long)]
    pub local: bool,
}

/// What to use when neither DATABASE_URL nor `--local` is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Otherwise {
    /// The private local PostgreSQL.
    Local,
    /// Nothing: a variable that was lost must not start an empty database on a server's ephemeral disk.
    Refuse,
    /// Nothing, and `--local` creates none: there would be nothing in it to look at or to steer.
    LookOnly,
}

/// Whether this process uses the private local PostgreSQL.
static IS_LOCAL: AtomicBool = AtomicBool::new(false);

/// What commands must be given to use the same database as this process, which only `run` and the like do by themselves: ` --local`,
/// or nothing.
pub(super) fn option() -> &'static str {
    match IS_LOCAL.load(Ordering::Relaxed) {
        true => " --local",
        false => "",
    }
}

/// An open database.
pub(super) struct Database {
    /// Connections to it.
    pub pool: PgPool,
    local: Option<LocalPostgres>,
}

/// The database's address and login, and the local server if that is it.
pub(super) async fn locate(
    args: &DatabaseArgs,
    otherwise: Otherwise,
) -> anyhow::Result<(PgConnectOptions, Option<LocalPostgres>)> {
    let url = match std::env::var("DATABASE_URL") {
        Ok(url) => Some(url).filter(|url| !url.is_empty()),
        Err(VarError::NotPresent) => None,
        // Not as if it were not set: that would be another database.
        Err(VarError::NotUnicode(_)) => Some("not UTF-8".to_owned()).filter(|_| !args.local),
    };
    match url {
        Some(url) if !args.local => {
            Ok((options_of(&url)?, None))
        }
        None if !args.local && otherwise != Otherwise::Local => Err(UsageError(
            "DATABASE_URL is not set: set it to postgres://USER:PASSWORD@HOST:5432/DATABASE, or say --local for the private PostgreSQL in .tempo-harvest/"
                .to_owned(),
        )
        .into()),
        _ if otherwise == Otherwise::LookOnly && !exists(args)? => Err(UsageError(
            "there is no private PostgreSQL here: neither this folder nor one above has a .tempo-harvest/; `tempo-harvest run FILE` makes one"
                .to_owned(),
        )
        .into()),
        _ => {
            let folder = local_postgres::default_folder()?;
            let executable = std::env::current_exe().context("cannot find the path of this program")?;
            let local = LocalPostgres::start(&folder, &executable).await?;
            IS_LOCAL.store(true, Ordering::Relaxed);
            Ok((local.connect_options(), Some(local)))
        }
    }
}

/// How to connect to what DATABASE_URL says. No message repeats it, nor a part of it: it may hold a password, and where it is not
/// well formed any part may be one.
fn options_of(url: &str) -> Result<PgConnectOptions, UsageError> {
    let refused = |what: &str| {
        UsageError(format!(
            "DATABASE_URL {what}; write postgres://USER:PASSWORD@HOST:5432/DATABASE, and in the password %2F for `/`, %23 for `#`, %3F for `?`, \
             %40 for `@`, %25 for `%`"
        ))
    };
    let mut parsed = Url::parse(url).map_err(|_| refused("is no PostgreSQL URL"))?;
    if !matches!(parsed.scheme(), "postgres" | "postgresql") {
        return Err(refused("is no PostgreSQL URL"));
    }
    // The rest of a password whose `/`, `?` or `#` has ended the host's name.
    let after_host = [Some(parsed.path()), parsed.query()];
    let holds_userinfo = after_host
        .into_iter()
        .flatten()
        .any(|part| part.contains('@'));
    if parsed.fragment().is_some() || holds_userinfo {
        return Err(refused("has a sign in it that must be escaped"));
    }
    // The driver would warn of these with their values.
    let (known, unknown): (Vec<_>, Vec<_>) = parsed
        .query_pairs()
        .into_owned()
        .partition(|(key, _)| is_known_parameter(key));
    for (key, _) in unknown {
        tracing::warn!(
            parameter = key,
            "DATABASE_URL has a parameter that means nothing here"
        );
    }
    match known.is_empty() {
        true => parsed.set_query(None),
        false => {
            parsed.query_pairs_mut().clear().extend_pairs(&known);
        }
    }
    PgConnectOptions::from_str(parsed.as_str()).map_err(|_| refused("is no PostgreSQL URL"))
}

/// Whether the driver knows a parameter of a URL.
fn is_known_parameter(key: &str) -> bool {
    key.starts_with("options[")
        || matches!(
            key,
            "sslmode"
                | "ssl-mode"
                | "sslrootcert"
                | "ssl-root-cert"
                | "ssl-ca"
                | "sslcert"
                | "ssl-cert"
                | "sslkey"
                | "ssl-key"
                | "statement-cache-capacity"
                | "host"
                | "hostaddr"
                | "port"
                | "dbname"
                | "user"
                | "password"
                | "application_name"
                | "options"
        )
}

/// Whether there is a database to look at without creating one: a private PostgreSQL is created when it is first used.
pub(super) fn exists(args: &DatabaseArgs) -> anyhow::Result<bool> {
    let named = std::env::var_os("DATABASE_URL").is_some_and(|url| !url.is_empty());
    let here = std::env::current_dir().context("cannot find the current folder")?;
    Ok(named && !args.local || local_postgres::find_folder(&here).is_some())
}

impl Database {
    /// Opens the database and brings its tables up to date.
    pub async fn open(
        args: &DatabaseArgs,
        otherwise: Otherwise,
        connections: u32,
    ) -> anyhow::Result<Self> {
        let database = Self::open_as_it_is(args, otherwise, connections).await?;
        store::migrate(&database.pool).await?;
        Ok(database)
    }

    /// Opens the database and creates nothing in it.
    pub async fn open_as_it_is(
        args: &DatabaseArgs,
        otherwise: Otherwise,
        connections: u32,
    ) -> anyhow::Result<Self> {
        let (options, local) = locate(args, otherwise).await?;
        let pool = store::connect(&options, connections).await?;
        Ok(Self { pool, local })
    }

    /// Refuses a user who may only read, before anything is begun that would fail again and again.
    pub async fn must_be_writable(&self) -> anyhow::Result<()> {
        let rights = store::rights(&mut *self.pool.acquire().await?).await?;
        anyhow::ensure!(
            rights.write,
            "user `{0}` may only read the tables: to collect, GRANT harvest_worker TO \"{0}\"",
            rights.user
        );
        Ok(())
    }

    /// Closes the connections; stops the local server if nobody else uses it.
    pub async fn close(self) {
        if tokio::time::timeout(CLOSE_WITHIN, self.pool.close())
            .await
            .is_err()
        {
            tracing::debug!("a connection to the database is still in use; not waiting for it");
        }
        if let Some(local) = self.local {
            local.stop().await;
        }
    }
}
