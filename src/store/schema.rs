//! Which form the tables have, and whether this program may use them: the rules for two versions on one database.
//!
//! Looked at before anything is touched. A database that a newer program has upgraded is left alone: an older one refuses to
//! begin, and one that is at work when it happens stores nothing from that moment on - whoever takes, finishes or plans a
//! window looks at the record of migrations in the same transaction - gives back what it holds and ends
//! ([`crate::worker`]). An upgrade is one transaction that holds the ledger for itself, so no statement sees half of one.

use std::collections::BTreeMap;

use sqlx::{
    PgConnection,
    migrate::{MigrateError, Migrator},
};

use super::{OpenError, Rights, rights};
use crate::queue;

/// How often an upgrade is tried that PostgreSQL ends because others at work and it wait for each other.
const MOST_TRIES: u32 = 5;

/// Our migrations; the queue has its own.
fn ours() -> Migrator {
    let mut migrations = sqlx::migrate!();
    // An upgrade is one transaction, with a lock of its own.
    migrations.set_locking(false);
    migrations
}

/// The newest migration that this program has.
pub(super) fn known() -> i64 {
    newest(&ours())
}

fn newest(migrations: &Migrator) -> i64 {
    let versions = migrations.iter().map(|migration| migration.version);
    versions.max().unwrap_or_default()
}

/// How many migrations of one kind there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrations {
    /// In this program.
    pub known: usize,
    /// Of these, in the database.
    pub applied: usize,
}

impl Migrations {
    fn is_current(self) -> bool {
        self.known == self.applied
    }
}

/// How far the tables of a database are that this program may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Ours, schema `harvest`.
    pub ours: Migrations,
    /// The queue's, schema `apalis`.
    pub queue: Migrations,
}

impl Standing {
    /// Whether nothing is left to apply.
    pub fn is_current(self) -> bool {
        self.ours.is_current() && self.queue.is_current()
    }

    /// Whether there are no tables at all.
    pub fn is_empty(self) -> bool {
        self.ours.applied == 0 && self.queue.applied == 0
    }
}

/// How far the tables are.
///
/// # Errors
/// If they are not this program's to use: a newer one made them, they are not as a migration of ours makes them, or they are
/// somebody else's. Nothing is changed.
pub async fn standing(conn: &mut PgConnection) -> Result<Standing, OpenError> {
    Ok(Standing {
        ours: compare(&mut *conn, "harvest", &ours()).await?,
        queue: compare(conn, "apalis", &queue::migrations()).await?,
    })
}

/// Holds the record of migrations in a schema against those of this program.
async fn compare(
    conn: &mut PgConnection,
    schema: &'static str,
    migrations: &Migrator,
) -> Result<Migrations, OpenError> {
    let known = migrations.iter().count();
    let recorded: bool =
        // Not by its name: that of a table in a schema which the user may not use is an error.
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relname = '_sqlx_migrations')",
        )
        .bind(schema)
        .fetch_one(&mut *conn)
        .await?;
    if !recorded {
        let table: Option<String> = sqlx::query_scalar(
            "SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'p', 'v', 'm', 'f')
             ORDER BY 1 LIMIT 1",
        )
        .bind(schema)
        .fetch_optional(conn)
        .await?;
        return match table {
            Some(table) => Err(OpenError::Foreign { schema, table }),
            None => Ok(Migrations { known, applied: 0 }),
        };
    }
    let record = match schema {
        "apalis" => "SELECT version, checksum, success FROM apalis._sqlx_migrations",
        _ => "SELECT version, checksum, success FROM harvest._sqlx_migrations",
    };
    let rows: Vec<(i64, Vec<u8>, bool)> = sqlx::query_as(record).fetch_all(conn).await?;
    let mut applied: BTreeMap<i64, (Vec<u8>, bool)> = rows
        .into_iter()
        .map(|(version, checksum, success)| (version, (checksum, success)))
        .collect();
    let newest = newest(migrations);
    if let Some((&version, _)) = applied.last_key_value()
        && version > newest
    {
        return Err(OpenError::Newer {
            schema,
            version,
            known: newest,
        });
    }
    if let Some((&version, _)) = applied.iter().find(|(_, (_, success))| !success) {
        return Err(OpenError::HalfApplied { schema, version });
    }
    let (mut count, mut missing) = (0, false);
    for migration in migrations.iter() {
        let version = migration.version;
        match applied.remove(&version) {
            // Applied though one before it was not: somebody has changed the record.
            Some((checksum, _)) if missing || *checksum != *migration.checksum => {
                return Err(OpenError::Changed { schema, version });
            }
            Some(_) => count += 1,
            None => missing = true,
        }
    }
    match applied.first_key_value() {
        Some((&version, _)) => Err(OpenError::Changed { schema, version }),
        None => Ok(Migrations {
            known,
            applied: count,
        }),
    }
}

/// Creates or upgrades the tables, ours and the queue's. Does nothing if they are current.
///
/// # Errors
/// If they are not this program's to use, or a table cannot be made; then ours are as they were.
pub async fn migrate(pool: &sqlx::PgPool) -> Result<(), OpenError> {
    let mut conn = pool.acquire().await?;
    let Rights {
        user,
        owner,
        read,
        migrate,
        ..
    } = rights(&mut conn).await?;
    if !read {
        let owner = owner.unwrap_or_default();
        return Err(OpenError::NoAccess { user, owner });
    }
    if standing(&mut conn).await?.is_current() {
        return Ok(());
    }
    if !migrate {
        return Err(match owner {
            Some(owner) => OpenError::MayNotUpgrade { user, owner },
            None => OpenError::MayNotCreate { user },
        });
    }
    drop(conn);
    queue::setup(pool)
        .await
        .map_err(|error| OpenError::Queue(error.to_string()))?;
    let mut tries = 1;
    loop {
        match upgrade(pool).await {
            Err(OpenError::Migrate(error)) if is_deadlock(&error) && tries < MOST_TRIES => {
                tracing::debug!(%error, "the upgrade and others at work waited for each other; trying again");
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Applies what is missing of ours, all of it or nothing.
async fn upgrade(pool: &sqlx::PgPool) -> Result<(), OpenError> {
    let mut tx = pool.begin().await?;
    // Two programs that start at once would both create the schema that the record of migrations stands in.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('tempo-harvest/migrate', 0))")
        .execute(&mut *tx)
        .await?;
    let migrations = ours();
    let standing = compare(&mut tx, "harvest", &migrations).await?;
    if standing.is_current() {
        return Ok(());
    }
    if standing.applied > 0 {
        // Whoever is finishing a window is waited for; whoever comes next sees the new record.
        sqlx::query("LOCK TABLE harvest.windows IN ACCESS EXCLUSIVE MODE")
            .execute(&mut *tx)
            .await?;
    }
    migrations.run_direct(None, &mut *tx, false).await?;
    tx.commit().await?;
    Ok(())
}

fn is_deadlock(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("40P01")
}

/// What a newer program has made of the tables since this one began; `None`: nothing.
///
/// # Errors
/// If the database cannot be asked.
pub async fn outdated(conn: &mut PgConnection) -> sqlx::Result<Option<OpenError>> {
    // An upgrade that is under way is waited for: it holds this table, and a statement locks its tables before it looks.
    let newest = sqlx::query_scalar!(
        r#"SELECT coalesce(max(version), 0) AS "newest!" FROM harvest._sqlx_migrations
           WHERE NOT EXISTS (SELECT FROM harvest.windows WHERE false)"#
    )
    .fetch_one(conn)
    .await?;
    let known = known();
    Ok((newest > known).then_some(OpenError::Newer {
        schema: "harvest",
        version: newest,
        known,
    }))
}

/// Holds the form of the tables until the transaction ends.
///
/// # Errors
/// If a newer program has upgraded them: roll back then. Or if the database refuses.
pub async fn hold(tx: &mut PgConnection) -> sqlx::Result<()> {
    match outdated(tx).await? {
        None => Ok(()),
        Some(error) => Err(sqlx::Error::Configuration(error.into())),
    }
}
