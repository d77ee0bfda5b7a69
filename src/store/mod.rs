//! PostgreSQL: the ledger and the traces. Every statement of ours stands in a file here, one file a table family.
//!
//! Functions take a connection, so that the caller says what is one transaction. Checked macros throughout; COPY, and
//! what touches the temporary table it fills, are the exceptions.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{
    AssertSqlSafe, Connection, PgPool, Row,
    migrate::MigrateError,
    postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgSslMode, types::PgRange},
};

pub use self::rights::{Rights, create_roles, rights};
pub use self::schema::migrate;
pub use crate::plan::Look;
use crate::{container, window::Window};

pub mod baselines;
pub mod control;
mod copy;
pub mod dashboard;
pub mod datasets;
pub mod fetches;
pub mod found;
pub mod history;
pub mod housekeeping;
pub mod lease;
pub mod metrics;
pub mod pace;
pub mod polls;
pub mod report;
pub mod retention;
mod rights;
pub mod runs;
pub mod schema;
pub mod sources;
pub mod spans;
pub mod stats;
pub mod traces;
pub mod verify;
pub mod warnings;
pub mod windows;

/// What transactions see of each other, unless one says otherwise.
const READ_COMMITTED: &str = "read committed";

/// The oldest PostgreSQL that has multiranges.
pub const OLDEST_SERVER: i32 = 140_000;

/// A moment of the ledger, from Unix seconds.
fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// A window as a range of the ledger.
fn range(window: Window) -> PgRange<DateTime<Utc>> {
    (at(window.start())..at(window.end())).into()
}

/// A range of the ledger as a window.
fn window_of(start: DateTime<Utc>, end: DateTime<Utc>) -> Option<Window> {
    Window::new(start.timestamp(), end.timestamp())
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No connection.
    #[error("cannot connect to PostgreSQL at {address}: {error}{hint}")]
    Connect {
        /// Host and port, or socket.
        address: String,
        /// What the driver says. Part of the message, so no cause of it.
        error: sqlx::Error,
        /// What else may help, to be read on from the rest; often empty.
        hint: String,
    },
    /// Too old.
    #[error(
        "PostgreSQL at {address} is version {version}; tempo-harvest needs 14 or newer (it keeps coverage in multiranges)"
    )]
    TooOld {
        /// Host and port, or socket.
        address: String,
        /// As it calls itself.
        version: String,
    },
    /// Not every name can be stored.
    #[error(
        "the database at {address} has encoding {encoding}; create it with ENCODING 'UTF8', so that every name can be stored"
    )]
    Encoding {
        /// Host and port, or socket.
        address: String,
        /// Its encoding.
        encoding: String,
    },
    /// The tables were made, or upgraded, by a later version of this program, or of the queue.
    #[error(
        "the database's tables (schema `{schema}`) were made or upgraded by a newer program: they have migration {version}, and this \
         tempo-harvest ({}) knows migrations up to {known}: use the newer tempo-harvest here, or another database",
        crate::version::RELEASE
    )]
    Newer {
        /// harvest or apalis.
        schema: &'static str,
        /// The newest migration that the database has.
        version: i64,
        /// The newest that this program has.
        known: i64,
    },
    /// A migration stands in the record that is not as this program has it.
    #[error(
        "the database's record of migrations ({schema}._sqlx_migrations) does not fit this program: migration {version} was applied in another \
         form or order, by a build that was never released, or the record was changed by hand; nothing was touched: use the program that made \
         the tables, or restore a backup"
    )]
    Changed {
        /// harvest or apalis.
        schema: &'static str,
        /// The migration.
        version: i64,
    },
    /// A migration was begun and not ended.
    #[error(
        "migration {version} of the database's tables (schema `{schema}`) was applied in part only, as {schema}._sqlx_migrations says; nothing was \
         touched: restore the backup from before it"
    )]
    HalfApplied {
        /// harvest or apalis.
        schema: &'static str,
        /// The migration.
        version: i64,
    },
    /// A schema of the name is there, and is not ours.
    #[error(
        "the database has a schema `{schema}` that tempo-harvest did not make: `{schema}.{table}` stands in it, and no record of migrations; nothing \
         was touched: use another database"
    )]
    Foreign {
        /// harvest or apalis.
        schema: &'static str,
        /// One of its tables.
        table: String,
    },
    /// This user may not read the tables.
    #[error(
        "user `{user}` may not use tempo-harvest's tables: GRANT harvest_worker TO \"{user}\", or harvest_reader to read only \
         (`tempo-harvest migrate --roles`, run as `{owner}`, makes these roles)"
    )]
    NoAccess {
        /// The connected user.
        user: String,
        /// Who owns the tables.
        owner: String,
    },
    /// The tables are not this version's, and this user may not change that.
    #[error(
        "the database's tables are not those of this tempo-harvest, and user `{user}` may not change them: run `tempo-harvest migrate` \
         as `{owner}`, who owns them"
    )]
    MayNotUpgrade {
        /// The connected user.
        user: String,
        /// Who owns the tables.
        owner: String,
    },
    /// There are no tables, and this user may not make them.
    #[error(
        "there are no tables yet, and user `{user}` may not create them: make it the database's owner (ALTER DATABASE … OWNER TO \"{user}\"), \
         or run `tempo-harvest migrate` once as the owner"
    )]
    MayNotCreate {
        /// The connected user.
        user: String,
    },
    /// A table could not be made.
    #[error("cannot create or upgrade tempo-harvest's tables: {0}{hint}", hint = rights_hint(.0))]
    Migrate(#[from] MigrateError),
    /// The queue's tables could not be made.
    #[error("cannot create or upgrade the queue's tables (schema `apalis`): {0}")]
    Queue(String),
    /// Something else.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl OpenError {
    /// Whether the server may be about to start: nobody answers, or it says so.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect { error, .. } | Self::Database(error) => match error {
                sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
                // admin_shutdown, crash_shutdown, cannot_connect_now
                sqlx::Error::Database(error) => {
                    matches!(error.code().as_deref(), Some("57P01" | "57P02" | "57P03"))
                }
                _ => false,
            },
            _ => false,
        }
    }
}

fn rights_hint(error: &MigrateError) -> &'static str {
    let text = error.to_string();
    if text.contains("permission denied") {
        "; the user needs the right to create schemas and trusted extensions: make it the database's owner (ALTER DATABASE … OWNER TO …), \
         or run `tempo-harvest migrate` once as the owner"
    } else if text.contains("is not available")
        || text.contains("could not open extension control file")
    {
        "; install PostgreSQL's contrib extensions (on Debian they are part of the postgresql package, elsewhere `postgresql-contrib`)"
    } else {
        ""
    }
}

/// Where a database is, for messages: never the password.
pub fn address_of(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => format!("{}", socket.display()),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

/// A pool on the database, its version checked; nothing is created.
///
/// # Errors
/// If it cannot be reached within ten seconds, or is too old.
pub async fn connect(options: &PgConnectOptions, connections: u32) -> Result<PgPool, OpenError> {
    let address = address_of(options);
    let options = options.clone().application_name("tempo-harvest");
    let host = match options.get_socket() {
        Some(_) => String::new(),
        None => options.get_host().to_owned(),
    };
    let connect_error = |error| OpenError::Connect {
        address: address.clone(),
        hint: container::hint(&host, &error, container::is_inside()),
        error,
    };
    let first = tokio::time::timeout(Duration::from_secs(10), first_connection(options, &host));
    let (mut first, options) = first
        .await
        .map_err(|_| connect_error(sqlx::Error::PoolTimedOut))?
        .map_err(connect_error)?;
    let (number, version) = server_version(&mut first).await?;
    let encoding: String = sqlx::query_scalar("SHOW server_encoding")
        .fetch_one(&mut first)
        .await?;
    if encoding != "UTF8" {
        return Err(OpenError::Encoding { address, encoding });
    }
    let isolation: String = sqlx::query_scalar("SHOW default_transaction_isolation")
        .fetch_one(&mut first)
        .await?;
    first.close().await?;
    if number < OLDEST_SERVER {
        return Err(OpenError::TooOld { address, version });
    }
    let mut pool = PgPoolOptions::new();
    // Somebody has set another for the database or the user: then those that wait for each other would fail instead.
    if isolation != READ_COMMITTED {
        pool = pool.after_connect(|conn, _| {
            let set = format!("SET default_transaction_isolation = '{READ_COMMITTED}'");
            Box::pin(async move {
                sqlx::query(AssertSqlSafe(set)).execute(conn).await?;
                Ok(())
            })
        });
    }
    pool.max_connections(connections)
        .acquire_timeout(Duration::from_secs(30))
        .after_release(|conn, _| Box::pin(has_no_transaction(conn)))
        .connect_with(options)
        .await
        .map_err(connect_error)
}

/// A connection, and how to make more like it. Where it is left open whether other machines may read along, a server that speaks TLS
/// is spoken to in TLS from then on, and that one speaks none is said: by itself the driver would go on without, each time anew.
async fn first_connection(
    options: PgConnectOptions,
    host: &str,
) -> sqlx::Result<(PgConnection, PgConnectOptions)> {
    let is_open = matches!(options.get_ssl_mode(), PgSslMode::Prefer)
        && options.get_socket().is_none()
        && !container::is_loopback(host);
    if !is_open {
        return Ok((PgConnection::connect_with(&options).await?, options));
    }
    let encrypted = options.clone().ssl_mode(PgSslMode::Require);
    match PgConnection::connect_with(&encrypted).await {
        Ok(connection) => return Ok((connection, encrypted)),
        Err(sqlx::Error::Tls(error)) if error.to_string().contains("does not support TLS") => {}
        Err(error) => return Err(error),
    }
    let plain = options.ssl_mode(PgSslMode::Disable);
    let connection = PgConnection::connect_with(&plain).await?;
    tracing::warn!(
        "the connection to PostgreSQL at {} is not encrypted, because the server speaks no TLS: if that is meant, say so with \
         `?sslmode=disable` in DATABASE_URL",
        address_of(&plain)
    );
    Ok((connection, plain))
}

/// Whether a connection may go back to its pool: not when a transaction is open on it. The driver rolls back what is dropped,
/// but for a transaction that is given up while it begins: what is done on such a connection later would never be committed, and
/// keep its locks. In a single statement, sent by itself, transaction and statement begin at the same moment.
async fn has_no_transaction(conn: &mut PgConnection) -> sqlx::Result<bool> {
    let row = sqlx::raw_sql("SELECT now() = statement_timestamp()")
        .fetch_one(conn)
        .await?;
    row.try_get(0)
}

/// The server's version as a number (150018 is 15.18) and in its own words.
///
/// # Errors
/// If it cannot be asked.
pub async fn server_version(conn: &mut PgConnection) -> sqlx::Result<(i32, String)> {
    let row = sqlx::query!(
        r#"SELECT current_setting('server_version_num')::int AS "number!", current_setting('server_version') AS "version!""#
    )
    .fetch_one(conn)
    .await?;
    Ok((row.number, row.version))
}

/// The name of this process in the ledger: `host:process:number`, the number being one that no later process of that
/// number has.
#[derive(Debug, Clone)]
pub struct Holder(String);

impl Holder {
    /// A name for this process.
    pub fn of_this_process() -> Self {
        let host = gethostname::gethostname();
        // Without randomness the time tells two processes with one pid apart.
        let number = getrandom::u32().unwrap_or_else(|_| {
            std::time::UNIX_EPOCH
                .elapsed()
                .map_or(0, |since| since.subsec_nanos())
        });
        Self(format!(
            "{}:{}:{:08x}",
            host.to_string_lossy(),
            std::process::id(),
            number
        ))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name with the user's before it, where the environment has one: who submitted, paused or cancelled something.
    pub fn who(&self) -> String {
        match std::env::var("USER") {
            Ok(user) if !user.is_empty() => format!("{user}@{}", self.0),
            _ => self.0.clone(),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_connection_is_known_as_one() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(closed.port());
        let Err(OpenError::Connect { error, .. }) = connect(&options, 1).await else {
            panic!("nothing listens there");
        };
        assert_ne!(container::hint("127.0.0.1", &error, true), "");
    }
}
