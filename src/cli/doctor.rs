//! `doctor`: is everything there that collecting needs, and if not, what to do.

use std::{fmt, io::Write, path::PathBuf};

use chrono::Utc;
use serde::Serialize;
use sqlx::PgPool;

use super::{
    Exit,
    database::{self, Otherwise},
    jobs, terminal,
};
use crate::{
    job::{Auth, Job, Source},
    store::{
        self, OpenError,
        schema::{self, Standing},
        sources,
    },
    tempo::{Client, Count, Failure, Lacks, Limits, Search, Urgency},
    version,
    window::Window,
};

/// Check the database, and the Tempo of each job file given, and say what to do about what is wrong.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job files, or folders of them
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    database: database::DatabaseArgs,
    /// Report as JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

#[derive(Debug, Serialize)]
struct Finding {
    about: String,
    check: &'static str,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        about: &str,
        check: &'static str,
        state: State,
        detail: impl Into<String>,
        fix: Option<&str>,
    ) {
        self.0.push(Finding {
            about: about.to_owned(),
            check,
            state,
            detail: detail.into(),
            fix: fix.map(str::to_owned),
        });
    }
}

/// Runs the command.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let jobs = if args.files.is_empty() {
        Vec::new()
    } else {
        match jobs::load(&args.files, Utc::now()) {
            Ok(jobs) => jobs,
            Err(exit) => return Ok(exit),
        }
    };
    let mut findings = Findings::default();
    findings.add("program", "version", State::Ok, version::FULL, None);
    let (options, local) = database::locate(&args.database, Otherwise::Local).await?;
    let about = match &local {
        // Its socket's folder is another each time.
        Some(local) => format!("private PostgreSQL in {}", local.folder().display()),
        None => format!("database at {}", store::address_of(&options)),
    };
    let pool = check_database(&mut findings, &about, &options).await;
    let mut seen: Vec<&str> = Vec::new();
    for job in &jobs {
        if !seen.contains(&job.source.name.as_str()) {
            seen.push(&job.source.name);
            let limits = known_limits(pool.as_ref(), &job.source).await;
            check_source(&mut findings, job, limits).await;
        }
    }
    if let Some(pool) = pool {
        pool.close().await;
    }
    if let Some(local) = local {
        local.stop().await;
    }
    let mut out = terminal::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings.0)?)?;
    } else {
        for finding in &findings.0 {
            writeln!(
                out,
                "{:<5} {}: {}: {}",
                finding.state, finding.about, finding.check, finding.detail
            )?;
            if let Some(fix) = &finding.fix {
                writeln!(out, "      -> {fix}")?;
            }
        }
        if jobs.is_empty() {
            writeln!(
                out,
                "give a job file to check its Tempo too: tempo-harvest doctor FILE"
            )?;
        }
    }
    let failed = findings
        .0
        .iter()
        .any(|finding| finding.state == State::Fail);
    Ok(if failed { Exit::Failed } else { Exit::Complete })
}

async fn check_database(
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

async fn known_limits(pool: Option<&PgPool>, source: &Source) -> Limits {
    let Some(pool) = pool else {
        return Limits::default();
    };
    let known = async {
        let mut conn = pool.acquire().await?;
        match schema::standing(&mut conn).await? {
            Standing { ours, .. } if ours.applied == 0 => Ok(Limits::default()),
            _ => Ok(sources::limits(&mut conn, &source.name).await?),
        }
    };
    known.await.unwrap_or_else(|error: OpenError| {
        tracing::warn!(%error, "cannot read the limits learned");
        Limits::default()
    })
}

async fn check_source(findings: &mut Findings, job: &Job, limits: Limits) {
    let about = format!("source `{}` ({})", job.source.name, job.source.url);
    let client = match Client::new(job.source.clone(), limits) {
        Ok(client) => client,
        Err(error) => {
            findings.add(
                &about,
                "configuration",
                State::Fail,
                error.to_string(),
                None,
            );
            return;
        }
    };
    let now = Utc::now().timestamp();
    // Wider and wider, until there is a trace.
    let since = |seconds: i64| Window::new(now - seconds, now);
    let reaches = [3_600, 86_400, 7 * 86_400 - 3_600]
        .into_iter()
        .filter_map(since);
    let mut newest = Err(None);
    let mut answered = None;
    for window in reaches {
        let probe = Search {
            spans: None,
            window,
            query: Some("{ } with (most_recent=true)".to_owned()),
            limit: 1,
            urgency: Urgency::Background,
        };
        match client.search(&probe).await {
            Ok(answer) => {
                let found = !answer.body.traces.is_empty();
                newest = Ok(answer);
                answered = Some(probe);
                if found {
                    break;
                }
            }
            Err(failure) => {
                // A server that does not allow so wide a search has answered narrower ones.
                newest = newest.map_err(|_| Some(failure));
                break;
            }
        }
    }
    let answer = match newest {
        Ok(answer) => answer,
        Err(failure) => {
            let detail = failure
                .as_ref()
                .map_or_else(|| "no answer".to_owned(), ToString::to_string);
            findings.add(
                &about,
                "search",
                State::Fail,
                detail,
                failure.as_ref().and_then(access_fix),
            );
            return;
        }
    };
    let unneeded = match (&job.source.auth, &job.source.tenant) {
        (Auth::None, None) => ", no credentials and no tenant needed",
        (Auth::None, Some(_)) => ", no credentials needed",
        (_, None) => ", no tenant needed",
        (_, Some(_)) => "",
    };
    findings.add(
        &about,
        "search",
        State::Ok,
        format!("answered in {} ms{unneeded}", answer.elapsed.as_millis()),
        None,
    );
    if let Some(probe) = &answered {
        access_findings(findings, &about, &job.source, probe, client.limits()).await;
    }
    match client.version().await {
        Ok(Some(version)) => findings.add(&about, "version", State::Ok, version, None),
        Ok(None) => findings.add(
            &about,
            "version",
            State::Ok,
            "not told by Tempo; 2.10 or 3.x is needed",
            None,
        ),
        Err(failure) => findings.add(
            &about,
            "version",
            State::Warn,
            format!("not told: {failure}"),
            None,
        ),
    }
    match answer.format {
        crate::tempo::wire::Format::Protobuf => {
            findings.add(&about, "format", State::Ok, "protobuf", None)
        }
        crate::tempo::wire::Format::Json => findings.add(
            &about,
            "format",
            State::Warn,
            "JSON though protobuf was asked for: about three times the bytes",
            Some("something between here and Tempo drops the Accept header; it works all the same"),
        ),
    }
    clock_finding(findings, &about, answer.server_time);
    let limits = client.limits();
    let known: Vec<String> = limits.known().iter().map(ToString::to_string).collect();
    let detail = if known.is_empty() {
        "none known yet; they are learned from what Tempo refuses".to_owned()
    } else {
        known.join(", ")
    };
    findings.add(&about, "limits", State::Ok, detail, None);
    let newest_s = answer
        .body
        .traces
        .iter()
        .map(|trace| trace.start_ns / 1_000_000_000)
        .max();
    newest_finding(
        findings,
        &about,
        newest_s,
        answer.server_time.unwrap_or_else(Utc::now).timestamp(),
    );
    count_finding(findings, &about, &client, newest_s).await;
}

/// Whether Tempo looks at the tenant and the credentials that it is sent: the same search is asked once more without each.
async fn access_findings(
    findings: &mut Findings,
    about: &str,
    source: &Source,
    probe: &Search,
    limits: Limits,
) {
    let has_credentials = !matches!(source.auth, Auth::None);
    let both = [
        (
            Lacks::Tenant,
            "tenant",
            source.tenant.is_some(),
            "answers without a tenant as well: it has one tenant only, or does not look at it",
            "whatever `tenant` says, the same traces come; leave it out, or see that Tempo (or what stands before it) asks for it",
        ),
        (
            Lacks::Credentials,
            "credentials",
            has_credentials,
            "answers without credentials as well: they are not looked at",
            "leave them out, or see that Tempo (or what stands before it) asks for them",
        ),
    ];
    for (lacks, check, _, ignored, fix) in both.into_iter().filter(|(_, _, is_set, ..)| *is_set) {
        let client = match Client::lacking(source, limits, lacks) {
            Ok(client) => client,
            Err(error) => {
                findings.add(about, check, State::Warn, error.to_string(), None);
                continue;
            }
        };
        match client.search(probe).await {
            Ok(_) => findings.add(about, check, State::Warn, ignored, Some(fix)),
            Err(failure) if failure.class == crate::tempo::Class::Access => {
                findings.add(about, check, State::Ok, "accepted, and needed", None);
            }
            Err(_) => findings.add(
                about,
                check,
                State::Ok,
                "accepted; whether it is needed is unknown",
                None,
            ),
        }
    }
}

fn access_fix(failure: &Failure) -> Option<&'static str> {
    match (failure.class, failure.status) {
        (crate::tempo::Class::Passing, None) => Some(
            "check `url`, and that Tempo (its query-frontend) is running and can be reached from here",
        ),
        (crate::tempo::Class::Access, _) => {
            Some("check `url`, `tenant` and the credentials of this source")
        }
        _ => None,
    }
}

fn clock_finding(findings: &mut Findings, about: &str, server_time: Option<chrono::DateTime<Utc>>) {
    match server_time {
        Some(at) => {
            let seconds = (at - Utc::now()).num_seconds();
            let state = if seconds.abs() > 5 {
                State::Warn
            } else {
                State::Ok
            };
            let fix = (state == State::Warn).then_some(
                "set the clocks by NTP; ages are judged by Tempo's clock, so nothing is lost",
            );
            findings.add(
                about,
                "clock",
                state,
                format!("{seconds} s ahead of this machine's"),
                fix,
            );
        }
        None => findings.add(
            about,
            "clock",
            State::Warn,
            "unknown: the answer has no Date header",
            Some("ages are judged by this machine's clock instead: keep it right"),
        ),
    }
}

async fn count_finding(
    findings: &mut Findings,
    about: &str,
    client: &Client,
    newest_s: Option<i64>,
) {
    let fix = "not needed, but windows are sized better with it: set up Tempo's metrics path (in 2.x the metrics-generator's local-blocks)";
    // The hour before the newest trace holds at least that one.
    let Some(window) = newest_s.and_then(|newest| Window::new(newest - 3_599, newest + 1)) else {
        findings.add(
            about,
            "count",
            State::Warn,
            "unknown: there is nothing to count",
            None,
        );
        return;
    };
    match client
        .count(&Count {
            window,
            step_s: 1,
            query: None,
            urgency: Urgency::Background,
        })
        .await
    {
        Ok(answer) => match answer.histogram {
            Some(histogram) => {
                let detail = format!(
                    "available: {} traces in the hour of the newest",
                    histogram.count_in(window)
                );
                findings.add(about, "count", State::Ok, detail, None);
            }
            None => findings.add(
                about,
                "count",
                State::Warn,
                "not available: no series, though there are traces",
                Some(fix),
            ),
        },
        Err(failure) => findings.add(
            about,
            "count",
            State::Warn,
            format!("not available: {failure}"),
            Some(fix),
        ),
    }
}

fn newest_finding(findings: &mut Findings, about: &str, newest_s: Option<i64>, now_s: i64) {
    let Some(newest_s) = newest_s else {
        let fix = "is anything being sent to this Tempo, and to this tenant?";
        findings.add(
            about,
            "newest trace",
            State::Warn,
            "none in the last seven days",
            Some(fix),
        );
        return;
    };
    let age_s = (now_s - newest_s).max(0);
    let age = humantime::format_duration(std::time::Duration::from_secs(age_s.unsigned_abs()));
    let (state, fix) = if age_s > 3_600 {
        (
            State::Warn,
            Some("is anything being sent to this Tempo, and to this tenant?"),
        )
    } else {
        (State::Ok, None)
    };
    findings.add(
        about,
        "newest trace",
        state,
        format!("started {age} ago"),
        fix,
    );
}
