//! `harvest.sources` and `harvest.source_limits`: how a Tempo is reached, and what it is known to allow.

use sqlx::PgConnection;

use crate::tempo::{Learned, Limits};

/// Records a source's definition, unexpanded and without secrets. Without `replace` a definition that is there stays: one
/// that lacks a secret must not take the place of one that works.
///
/// # Errors
/// If the database refuses.
pub async fn record(
    conn: &mut PgConnection,
    name: &str,
    spec: &serde_json::Value,
    replace: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO harvest.sources (name, spec) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, updated_at = now()
         WHERE $3 AND sources.spec IS DISTINCT FROM excluded.spec",
        name,
        spec,
        replace
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A source's definition.
///
/// # Errors
/// If the database refuses.
pub async fn spec(conn: &mut PgConnection, name: &str) -> sqlx::Result<Option<serde_json::Value>> {
    sqlx::query_scalar!("SELECT spec FROM harvest.sources WHERE name = $1", name)
        .fetch_optional(conn)
        .await
}

/// Sources that have open windows, those that are paused left out.
///
/// # Errors
/// If the database refuses.
pub async fn with_open_windows(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "SELECT name FROM harvest.sources s
         WHERE EXISTS (SELECT FROM harvest.windows w
                       WHERE w.source = s.name AND w.state IN ('queued', 'running')
                         AND w.run_id NOT IN (SELECT run_id FROM harvest.paused_runs))"
    )
    .fetch_all(conn)
    .await
}

/// What the source is known to allow. A limit learned more than a day ago is forgotten: it may have been raised.
///
/// # Errors
/// If the database refuses.
pub async fn limits(conn: &mut PgConnection, name: &str) -> sqlx::Result<Limits> {
    let rows = sqlx::query!(
        "SELECT limit_name, value FROM harvest.source_limits WHERE source = $1 AND learned_at > now() - interval '1 day'",
        name
    )
    .fetch_all(conn)
    .await?;
    let mut limits = Limits::default();
    for learned in rows
        .into_iter()
        .filter_map(|row| Learned::from_parts(&row.limit_name, row.value))
    {
        limits.learn(learned);
    }
    Ok(limits)
}

/// Remembers a limit that the source named in a refusal.
///
/// # Errors
/// If the database refuses.
pub async fn learn(conn: &mut PgConnection, name: &str, learned: Learned) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO harvest.source_limits (source, limit_name, value) VALUES ($1, $2, $3)
         ON CONFLICT (source, limit_name) DO UPDATE SET value = excluded.value, learned_at = now()",
        name,
        learned.name(),
        learned.value()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets how many traces a search may ask for, so that it is met anew: a window that cannot be narrowed under it rests
/// until it is raised.
///
/// # Errors
/// If the database refuses.
pub async fn forget_result_limit(conn: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "DELETE FROM harvest.source_limits WHERE source = $1 AND limit_name = 'max_result_limit'",
        name
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes that the source answered, at most every few seconds.
///
/// # Errors
/// If the database refuses.
pub async fn answered(conn: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.sources SET last_success_at = now()
         WHERE name = $1 AND (last_success_at IS NULL OR last_success_at < now() - interval '5 seconds')",
        name
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether the source answered a search within the last minute.
///
/// # Errors
/// If the database refuses.
pub async fn is_alive(conn: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(last_success_at > now() - interval '1 minute', false) AS "alive!" FROM harvest.sources WHERE name = $1"#,
        name
    )
    .fetch_optional(conn)
    .await
    .map(|alive| alive.unwrap_or(false))
}
