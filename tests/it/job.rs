//! Job files through the library: what a valid one amounts to, and what of it may be stored and resolved elsewhere.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tempo_harvest::job::spec::SourceSpec;
use tempo_harvest::job::{
    Auth, Backfill, BackfillRange, Baseline, Detail, Diagnostics, Job, LoadOptions, Order, Poll,
    Ticks, TracesPerRequest, job_schema, load,
};

fn now() -> DateTime<Utc> {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn env(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// A folder with `job.toml` and, unless it is empty, `sources.toml`.
fn folder(job: &str, sources: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("job.toml"), job).unwrap();
    if !sources.is_empty() {
        std::fs::write(folder.path().join("sources.toml"), sources).unwrap();
    }
    folder
}

fn load_from(folder: &TempDir, variables: &[(&str, &str)]) -> Result<Job, Diagnostics> {
    let env = env(variables);
    let options = LoadOptions {
        env: &env,
        now: now(),
    };
    let jobs = load(&[folder.path().to_owned()], &options)?;
    assert_eq!(jobs.len(), 1);
    Ok(jobs.into_iter().next().unwrap())
}

const MINIMAL: &str = "name = \"shop\"\nsource = { url = \"http://localhost:3200\" }\n[backfill]\nlast = \"1d\"\n[poll]\n[baseline]\n";

#[test]
fn defaults() {
    let job = load_from(&folder(MINIMAL, ""), &[]).unwrap();
    assert_eq!(
        (job.name.as_str(), job.dataset.as_str(), job.enabled),
        ("shop", "shop", true)
    );
    assert_eq!(job.timezone, chrono_tz::UTC);
    assert_eq!((job.select.query, job.select.detail), (None, Detail::Trace));
    assert_eq!(
        job.backfill,
        Some(Backfill {
            range: BackfillRange::Last(Duration::from_secs(86_400)),
            window: Duration::from_secs(3_600),
            longest_window: Duration::from_secs(86_400),
            settle: Duration::from_secs(3_600),
            order: Order::NewestFirst,
            schedule: None,
        })
    );
    assert_eq!(
        job.poll,
        Some(Poll {
            ticks: Ticks::Every(Duration::from_secs(15)),
            delay: Duration::from_secs(35),
            lookback: Duration::from_secs(120),
            lookback_max: Duration::from_secs(600),
            seal_after: Duration::from_secs(3_600),
            catch_up: None,
        })
    );
    assert_eq!(
        job.baseline,
        Some(Baseline {
            every: Duration::from_secs(30),
            history: Duration::from_secs(604_800),
        })
    );
    let source = job.source;
    assert_eq!(
        (source.name.as_str(), source.url.as_str()),
        ("localhost:3200", "http://localhost:3200/")
    );
    assert!(
        matches!(source.auth, Auth::None) && source.tenant.is_none() && source.headers.is_empty()
    );
    let limits = source.limits;
    assert_eq!(
        (
            limits.concurrency,
            limits.requests_per_second,
            limits.max_attempts
        ),
        (4, 20.0, 10)
    );
    assert_eq!(
        (limits.traces_per_request, limits.timeout),
        (TracesPerRequest::Auto, Duration::from_secs(60))
    );
}

/// The defaults that the schema tells editors, written out, make the same job.
#[test]
fn the_schema_tells_the_real_defaults() {
    let schema = job_schema();
    let defaults = |table: &serde_json::Value| -> Vec<String> {
        let properties = table["properties"].as_object().unwrap();
        let defaults = properties
            .iter()
            .filter_map(|(key, property)| Some((key, property.get("default")?)));
        defaults
            .map(|(key, default)| format!("{key} = {default}\n"))
            .collect()
    };
    let tables = ["select", "backfill", "poll", "baseline", "source.limits"];
    let types = [
        "SelectSpec",
        "BackfillSpec",
        "PollSpec",
        "BaselineSpec",
        "LimitsSpec",
    ];
    let mut text = format!(
        "name = \"shop\"\n{}\n[source]\nurl = \"http://localhost:3200\"\n",
        defaults(&schema).concat()
    );
    let mut count = 0;
    for (table, name) in tables.into_iter().zip(types) {
        let defaults = defaults(&schema["$defs"][name]);
        count += defaults.len();
        text.push_str(&format!("[{table}]\n{}", defaults.concat()));
        if table == "backfill" {
            text.push_str("last = \"1d\"\n");
        }
    }
    assert!(count >= 15, "{text}");
    let written = load_from(&folder(&text, ""), &[]).unwrap();
    let implied = load_from(&folder(MINIMAL, ""), &[]).unwrap();
    assert_eq!(
        format!("{:?}", written.source),
        format!("{:?}", implied.source)
    );
    assert_eq!(
        (written.enabled, written.timezone),
        (implied.enabled, implied.timezone)
    );
    assert_eq!(
        (written.select, written.backfill),
        (implied.select, implied.backfill)
    );
    assert_eq!(
        (written.poll, written.baseline),
        (implied.poll, implied.baseline)
    );
}

const SOURCES: &str = "[prod]\nurl = \"https://traces.example.net/tempo\"\ntenant = \"${TENANT:-team-a}\"\n\
    basic_auth = { username = 12345, password_file = \"secrets/password\" }\n\
    headers = { X-Team = \"shop\" }\nretention = \"14d\"\nlimits = { traces_per_request = 500, requests_per_second = 5 }\n";

#[test]
fn a_named_source() {
    let folder = folder(
        &MINIMAL.replace("{ url = \"http://localhost:3200\" }", "\"prod\""),
        SOURCES,
    );
    std::fs::create_dir(folder.path().join("secrets")).unwrap();
    std::fs::write(folder.path().join("secrets/password"), "hunter2\r\n").unwrap();
    let job = load_from(&folder, &[]).unwrap();
    let source = &job.source;
    assert_eq!(
        (source.name.as_str(), source.url.as_str()),
        ("prod", "https://traces.example.net/tempo/")
    );
    assert_eq!(source.tenant.as_deref(), Some("team-a"));
    assert_eq!(source.retention, Some(Duration::from_secs(14 * 86_400)));
    assert_eq!(
        (
            source.limits.traces_per_request,
            source.limits.requests_per_second
        ),
        (TracesPerRequest::Fixed(500), 5.0)
    );
    let Auth::Basic { username, password } = &source.auth else {
        unreachable!("{:?}", source.auth)
    };
    assert_eq!(
        (username.as_str(), password.expose_secret()),
        ("12345", "hunter2")
    );
    assert!(!format!("{job:?}").contains("hunter2"));

    // Another host resolves what was stored, from the same absolute path.
    let stored = serde_json::to_value(job.source_spec.storable()).unwrap();
    let path = stored["basic_auth"]["password_file"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        path,
        folder.path().join("secrets/password").to_str().unwrap()
    );
    let spec: SourceSpec = serde_json::from_value(stored).unwrap();
    let there = spec.resolve("prod", &env(&[("TENANT", "team-b")])).unwrap();
    assert_eq!(
        (there.name.as_str(), there.tenant.as_deref()),
        ("prod", Some("team-b"))
    );
    std::fs::remove_file(folder.path().join("secrets/password")).unwrap();
    let problems = spec.resolve("prod", &env(&[])).unwrap_err();
    let said = problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
        .replace(&path, "PATH");
    insta::assert_snapshot!(said, @"`password_file` in [prod.basic_auth] cannot be read: `PATH`: No such file or directory; create the file, or correct the path");

    let position = job.position_of("source.url").unwrap();
    assert!(
        position.to_string().ends_with("sources.toml:2:7"),
        "{position}"
    );
    let position = job.position_of("source").unwrap();
    assert!(
        position.to_string().ends_with("job.toml:2:10"),
        "{position}"
    );
}

#[test]
fn a_tenant_in_a_header_is_the_tenant() {
    let job = MINIMAL.replace(
        "3200\" }",
        "3200\", headers = { x-scope-orgid = \"team-a\", X-Team = \"shop\" } }",
    );
    let job = load_from(&folder(&job, ""), &[]).unwrap();
    assert_eq!(job.source.tenant.as_deref(), Some("team-a"));
    let names: Vec<&str> = job
        .source
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["X-Team"]);
}

#[test]
fn literal_secrets_are_used_but_not_stored() {
    let text = "name = \"shop\"\nbackfill.last = \"1d\"\n[source]\nurl = \"http://localhost:3200\"\nbearer_token = 'hunter2' # why\n\
                headers = { X-Key = \"hunter3\", X-Other-Token = \"${TOKEN}\" }\n";
    let job = load_from(&folder(text, ""), &[("TOKEN", "hunter4")]).unwrap();
    assert!(matches!(&job.source.auth, Auth::Bearer(token) if token.expose_secret() == "hunter2"));
    assert_eq!(
        job.source_spec.has_literal_secret().unwrap().to_string(),
        "bearer_token"
    );
    assert_eq!(job.text, text);
    insta::assert_snapshot!(job.storable_text(), @r#"
        name = "shop"
        backfill.last = "1d"
        [source]
        url = "http://localhost:3200"
        bearer_token = "(a literal secret, not stored)" # why
        headers = { X-Key = "(a literal secret, not stored)", X-Other-Token = "${TOKEN}" }
        "#);
    let stored = serde_json::to_string(&job.source_spec.storable()).unwrap();
    assert!(!format!("{stored}{job:?}").contains("hunter"));
    let spec: SourceSpec = serde_json::from_str(&stored).unwrap();
    let problems = spec.resolve("localhost:3200", &env(&[])).unwrap_err();
    insta::assert_snapshot!(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"), @r#"
        `X-Key` in [localhost:3200.headers] is written literally in the job file and so is not kept in the database; use `${VAR}` or a `*_file` there
        `X-Other-Token` in [localhost:3200.headers] needs the environment variable `TOKEN`, which is not set; set it
        `bearer_token` in [localhost:3200] is written literally in the job file and so is not kept in the database; use `${VAR}` or a `*_file` there
        "#);
}

#[test]
fn paths_may_come_from_the_environment() {
    let text = MINIMAL.replace(
        "3200\" }",
        "3200\", bearer_token_file = \"${CREDENTIALS}/token\" }",
    );
    let folder = folder(&text, "");
    std::fs::write(folder.path().join("token"), "abc\n").unwrap();
    let job = load_from(&folder, &[("CREDENTIALS", folder.path().to_str().unwrap())]).unwrap();
    assert!(matches!(&job.source.auth, Auth::Bearer(token) if token.expose_secret() == "abc"));
    let refused = load_from(&folder, &[("CREDENTIALS", "hunter2")])
        .unwrap_err()
        .to_string();
    let (_, message) = refused.split_once("job.toml:").unwrap();
    insta::assert_snapshot!(message, @"2:63: `bearer_token_file` in [source] is not an absolute path: `${CREDENTIALS}/token`; a path that begins with a reference must expand to an absolute one");
}

#[test]
fn later_refusals_find_their_place() {
    let text = format!("{MINIMAL}[select]\nquery = \"{{ kind = server }}\"\n");
    let job = load_from(&folder(&text, ""), &[]).unwrap();
    let said = |key: &str| {
        job.refusal(key, "is refused")
            .to_string()
            .replace(job.file.to_str().unwrap(), "job.toml")
    };
    assert_eq!(said("select.query"), "job.toml:8:9: is refused");
    assert_eq!(said("dataset"), "job.toml: is refused");
    assert_eq!(job.position_of("dataset"), None);
}

#[test]
fn sources_are_no_job() {
    let folder = folder(MINIMAL, SOURCES);
    let env = env(&[]);
    let options = LoadOptions {
        env: &env,
        now: now(),
    };
    let file: PathBuf = folder.path().join("sources.toml");
    let said = load(&[file], &options).unwrap_err().to_string();
    assert!(
        said.ends_with("sources.toml: holds sources, not a job; name the job file that uses them"),
        "{said}"
    );
}

#[test]
fn what_lies_in_the_future_depends_on_the_clock() {
    let text = MINIMAL.replace(
        "last = \"1d\"",
        "from = 2026-11-22T13:00:01+01:00\nto = 2026-11-22T14:00:00Z",
    );
    let said = load_from(&folder(&text, ""), &[]).unwrap_err().to_string();
    let said: Vec<&str> = said
        .lines()
        .map(|line| line.split_once("job.toml:").unwrap().1)
        .collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
        4:8: `from` in [backfill] is in the future: 2026-11-22T12:00:01Z, and now is 2026-11-22T12:00:00Z
        5:6: `to` in [backfill] is in the future: 2026-11-22T14:00:00Z, and now is 2026-11-22T12:00:00Z
        "#);
    let text = text
        .replace("01+01", "00+01")
        .replace("14:00:00Z", "12:00:00.0Z");
    let said = load_from(&folder(&text, ""), &[]).unwrap_err().to_string();
    assert!(said.ends_with("must be after `from`, but `from` is 2026-11-22T12:00:00Z and `to` is 2026-11-22T12:00:00Z"), "{said}");
}
