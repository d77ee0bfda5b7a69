//! Who is connected, and what that user may do: create the tables, write them, or read them only.
//!
//! The roles `harvest_worker` and `harvest_reader` are made by `roles.sql`. They belong to the whole server and making them is a
//! right of its own, so no migration does it.

use sqlx::postgres::PgConnection;

/// What makes the roles, and lets them use the tables.
const ROLES: &str = include_str!("roles.sql");

/// What the connected user may do, and what the server lacks.
#[derive(Debug, Clone)]
pub struct Rights {
    /// The user.
    pub user: String,
    /// Who owns the tables, where there are some.
    pub owner: Option<String>,
    /// Whether schemas and trusted extensions can be created.
    pub create_in_database: bool,
    /// Whether the tables can be read, or are not there.
    pub read: bool,
    /// Whether they can be written, or are not there.
    pub write: bool,
    /// Whether they can be created, or changed by an upgrade.
    pub migrate: bool,
    /// Extensions that are needed and not available on the server.
    pub missing_extensions: Vec<String>,
}

/// What the connected user may do.
///
/// # Errors
/// If the database cannot be asked.
pub async fn rights(conn: &mut PgConnection) -> sqlx::Result<Rights> {
    // Not by names: that of a table in a schema which the user may not use is an error.
    let row = sqlx::query!(
        r#"SELECT current_user::text AS "user!",
                  (SELECT pg_get_userbyid(c.relowner)::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = 'harvest' AND c.relname = '_sqlx_migrations') AS owner,
                  has_database_privilege(current_database(), 'CREATE') AS "create_in_database!",
                  bool_and(c.oid IS NULL OR (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))) AS "read!",
                  bool_and(c.oid IS NULL OR c.relname = '_sqlx_migrations' OR has_table_privilege(c.oid, 'INSERT')) AS "write!",
                  bool_and(CASE WHEN c.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE')
                                ELSE pg_has_role(c.relowner, 'USAGE') END) AS "migrate!",
                  ARRAY(SELECT needed FROM unnest(ARRAY['btree_gist', 'hstore', 'pgcrypto']) AS needed
                        WHERE needed NOT IN (SELECT name FROM pg_available_extensions)) AS "missing!"
           FROM (VALUES ('harvest', '_sqlx_migrations'), ('harvest', 'windows'), ('apalis', '_sqlx_migrations'), ('apalis', 'jobs'))
                AS wanted (schema_name, table_name)
           LEFT JOIN pg_namespace n ON n.nspname = wanted.schema_name
           LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.table_name"#
    )
    .fetch_one(conn)
    .await?;
    Ok(Rights {
        user: row.user,
        owner: row.owner,
        create_in_database: row.create_in_database,
        read: row.read,
        write: row.write,
        migrate: row.migrate,
        missing_extensions: row.missing,
    })
}

/// Makes the roles `harvest_worker` and `harvest_reader` where they are missing, and lets them use the tables of this database.
///
/// # Errors
/// If the connected user may not.
pub async fn create_roles(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql(ROLES).execute(conn).await?;
    Ok(())
}
