//! A job's Tempo: whether it answers, to whom, how far its clock is off, and what it counts.

use chrono::Utc;
use sqlx::PgPool;

use super::{Findings, State};
use crate::{
    job::{Auth, Job, Source},
    store::{
        OpenError,
        schema::{self, Standing},
        sources,
    },
    tempo::{Class, Client, Count, Failure, Lacks, Limits, Search, Urgency},
    window::Window,
};

pub(super) async fn known_limits(pool: Option<&PgPool>, source: &Source) -> Limits {
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

pub(super) async fn check(findings: &mut Findings, job: &Job, limits: Limits) {
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
            Err(failure) if failure.class == Class::Access => {
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
        (Class::Passing, None) => Some(
            "check `url`, and that Tempo (its query-frontend) is running and can be reached from here",
        ),
        (Class::Access, _) => Some("check `url`, `tenant` and the credentials of this source"),
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
