//! The database: whether it can be reached, what its user may do, and which tables it has.

use sqlx::PgPool;

use super::{Findings, State};
use crate::store::{self, OpenError, schema};

pub(super) async fn check(
    findings: &mut Findings,
    about: &str,
    options: &sqlx::postgres::PgConnectOptions,
) -> Option<PgPool> {
    let pool = match store::connect(options, 2).await {
        Ok(pool) => pool,
        Err(error) => {
            let fix = "check host, port, user and password in DATABASE_URL, and that the server accepts connections from here";
            findings.add(
                about,
                "reachable",
                State::Fail,
                error.to_string(),
                Some(fix),
            );
            return None;
        }
    };
    match database_findings(findings, about, &pool).await {
        Ok(()) => Some(pool),
        Err(error) => {
            findings.add(about, "reachable", State::Fail, error.to_string(), None);
            None
        }
    }
}

async fn database_findings(
    findings: &mut Findings,
    about: &str,
    pool: &PgPool,
) -> sqlx::Result<()> {
    let mut conn = pool.acquire().await?;
    let (_, version) = store::server_version(&mut conn).await?;
    findings.add(
        about,
        "reachable",
        State::Ok,
        format!("PostgreSQL {version}"),
        None,
    );
    let rights = store::rights(&mut conn).await?;
    rights_finding(findings, about, &rights);
    if !rights.read {
        return Ok(());
    }
    if !rights.missing_extensions.is_empty() {
        let names = rights.missing_extensions.join(", ");
        let fix = "install PostgreSQL's contrib extensions on the server (`postgresql-contrib`)";
        findings.add(
            about,
            "extensions",
            State::Fail,
            format!("not available: {names}"),
            Some(fix),
        );
    }
    let behind = match (&rights.owner, rights.migrate) {
        (Some(owner), false) => format!("run `tempo-harvest migrate` as `{owner}`"),
        _ => "the next run applies them, or `tempo-harvest migrate` now".to_owned(),
    };
    let standing = match schema::standing(&mut conn).await {
        Ok(standing) => standing,
        Err(OpenError::Database(error)) => return Err(error),
        Err(error) => {
            findings.add(about, "tables", State::Fail, error.to_string(), None);
            return Ok(());
        }
    };
    let (ours, queue) = (standing.ours, standing.queue);
    let (state, detail, fix) = if standing.is_current() {
        (
            State::Ok,
            format!(
                "up to date ({} migrations, and {} of the queue)",
                ours.applied, queue.applied
            ),
            None,
        )
    } else if standing.is_empty() {
        (
            State::Ok,
            "no tables yet; the first run creates them".to_owned(),
            None,
        )
    } else {
        let detail = format!(
            "{} of {} migrations applied, {} of {} of the queue",
            ours.applied, ours.known, queue.applied, queue.known
        );
        (State::Warn, detail, Some(behind.as_str()))
    };
    findings.add(about, "tables", state, detail, fix);
    Ok(())
}

fn rights_finding(findings: &mut Findings, about: &str, rights: &store::Rights) {
    let user = &rights.user;
    let (state, may, fix) = match &rights.owner {
        None if rights.migrate => (State::Ok, "may create schemas", None),
        None => (
            State::Fail,
            "may not create schemas",
            Some(format!(
                "ALTER DATABASE … OWNER TO \"{user}\", or run `tempo-harvest migrate` once as the owner"
            )),
        ),
        Some(_) if rights.migrate => (State::Ok, "owns the tables", None),
        Some(_) if rights.write => (State::Ok, "may read and write the tables", None),
        Some(owner) if rights.read => (
            State::Warn,
            "may only read the tables",
            Some(format!(
                "enough for `status` and the like; to collect, GRANT harvest_worker TO \"{user}\" as `{owner}`"
            )),
        ),
        Some(owner) => (
            State::Fail,
            "may not read the tables",
            Some(format!(
                "GRANT harvest_worker TO \"{user}\"; `tempo-harvest migrate --roles`, run as `{owner}`, makes that role"
            )),
        ),
    };
    let detail = format!("user `{user}` {may}");
    findings.add(about, "rights", state, detail, fix.as_deref());
}
