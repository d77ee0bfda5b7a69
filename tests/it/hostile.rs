//! Values that were written to do harm, in job files and in what Tempo has: they are values, and nothing else.

use std::collections::BTreeMap;

use rustix::process::Signal;
use tempo_harvest::simulator::{Config, Population, Span, TraceFragment, Version};

use crate::support::harvest::{DAY_S, HOUR_S, Job, Scene, hours, job, rfc3339, tempo};
use crate::support::http::{address, get, metrics};

/// Names of services and operations that mean something to SQL, TraceQL, HTML, terminals, logs, metrics or COPY.
const NAMES: [&str; 16] = [
    "'); DROP TABLE harvest.traces; --",
    "\" } || { } | rate() // /*",
    "a\\b\\",
    "\u{1b}[2J\u{1b}]0;owned\u{7}",
    "two\nlines",
    "\r\rback",
    "<script>alert(1)</script>&\"'",
    "\u{202e}drow",
    "%s%n{}${HOME}$1:x",
    "nul\0nul",
    "tab\tand \\N \\.",
    "\u{85}\u{9b}31m",
    "é日本🙂",
    " led",
    "\u{feff}bom",
    "` || \"\" ``",
];

/// As it is stored: PostgreSQL has no NUL.
fn stored(name: &str) -> String {
    name.replace('\0', "\u{fffd}")
}

/// Whether nothing in a text commands a terminal, or pretends to be a line of its own.
#[track_caller]
fn assert_tame(what: &str, text: &str) {
    let commands = |c: char| {
        c.is_control() && c != '\n' && c != '\t'
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let found = text.chars().find(|c| commands(*c));
    assert_eq!(found, None, "{what}: {text:?}");
    let line = text.lines().find(|line| line.starts_with("lines"));
    assert_eq!(line, None, "{what}: {text:?}");
}

#[tokio::test]
async fn names_that_tempo_has_are_stored_and_shown_as_they_are() {
    // One second of equal durations, fuller than an answer: it is told apart by these names, in TraceQL.
    let mut traces = Vec::new();
    let mut expected: BTreeMap<Vec<u8>, (String, String)> = BTreeMap::new();
    for number in 0..96_u64 {
        let service = NAMES[number as usize % 16];
        let name = NAMES[number as usize * 7 / 16 % 16];
        let start_ns = (DAY_S as u64 + 1_800) * 1_000_000_000 + number;
        let span = Span::root(number + 1, service, name, start_ns, start_ns + 1_000_000);
        let mut trace_id = [0x5a; 16];
        trace_id[8..].copy_from_slice(&number.to_be_bytes());
        expected.insert(trace_id.to_vec(), (stored(service), stored(name)));
        traces.push(TraceFragment::new(trace_id, vec![span]));
    }
    let mut config = Config::new(Version::V3_0_3, Population::from_traces(traces));
    config.limits.max_result_limit = 10;
    let scene = Scene::new(config).await;
    let file = scene.write(&job(1));
    let said = scene.command(&["-vv", "run", &file]).await.expect(0);
    assert_tame("the log", &said.stderr);
    assert_tame("the report", &said.stdout);
    let found: BTreeMap<Vec<u8>, (String, String)> = scene
        .stored("shop")
        .await
        .into_iter()
        .map(|(id, trace)| {
            let root = (trace.root_service.unwrap(), trace.root_name.unwrap());
            (id, root)
        })
        .collect();
    assert_eq!(found, expected);

    // Whole spans, with names as they are.
    let mut whole = job(1).spans("\"span.http.status_code\"");
    whole.name = "whole".to_owned();
    let whole = scene.write(&whole);
    scene.command(&["run", &whole]).await.expect(0);
    let spans: Vec<(String, String)> =
        sqlx::query_as("SELECT DISTINCT service, name FROM harvest.spans ORDER BY 1, 2")
            .fetch_all(&scene.pool)
            .await
            .unwrap();
    let mut names: Vec<&(String, String)> = expected.values().collect();
    names.sort();
    names.dedup();
    assert_eq!(
        spans.iter().collect::<std::collections::BTreeSet<_>>(),
        names.into_iter().collect()
    );

    let reports: [&[&str]; 8] = [
        &["status"],
        &["baseline", "--job", "shop"],
        &["baseline", "--job", "shop", "--coverage"],
        &["baseline", "--job", "shop", NAMES[3]],
        &["baseline", "--job", "whole", "--spans"],
        &["gaps"],
        &["runs"],
        &["stats"],
    ];
    for arguments in reports {
        let said = scene.command(arguments).await.expect(0);
        assert_tame(&format!("{arguments:?}"), &said.stdout);
        assert_tame(&format!("{arguments:?}"), &said.stderr);
    }
    let arguments = [
        "baseline", "check", NAMES[4], NAMES[3], "1s", "--job", "shop",
    ];
    let said = scene.command(&arguments).await;
    assert_tame("baseline check", &said.stdout);
    assert_tame("baseline check", &said.stderr);
    let said = scene
        .command(&["baseline", "--job", "none\u{1b}[2J\u{202e}"])
        .await
        .expect(2);
    assert_tame("an error", &said.stderr);
    let verified = ["verify", "shop", "--deep", "--certificate"];
    let said = scene.command(&verified).await.expect(0);
    assert_tame("verify", &said.stdout);
    // In JSON they are what they are.
    let json = scene
        .command(&["baseline", "--job", "shop", "--json"])
        .await
        .expect(0)
        .json();
    let said = json[0]["baselines"].as_array().unwrap();
    let mut services: Vec<&str> = said
        .iter()
        .filter_map(|one| one["service"].as_str())
        .collect();
    services.sort_unstable();
    services.dedup();
    let mut wanted: Vec<String> = NAMES.iter().map(|name| stored(name)).collect();
    wanted.sort_unstable();
    assert_eq!(services, wanted, "{json}");

    let mut running = scene.start(&["work", "--listen", "127.0.0.1:0"]);
    let at = address(&mut running).await;
    for path in ["/", "/datasets/shop", "/datasets/shop/2026-03-01T00"] {
        let page = get(&at, path, "").await;
        assert_eq!(page.status, 200);
        assert!(!page.body.contains("<script"), "{path}");
    }
    running.signal(Signal::TERM);
    running.end().await.expect(0);
}

/// A job whose source, tenant, query and attributes are as bad as they are let in.
fn hostile_job(scene: &Scene) -> String {
    let file = scene.write(&Job {
        name: "bad".to_owned(),
        ..job(2)
            .services()
            .query(QUERY)
            .source("tenant = '''a'\"\\;{}%|&$1'''")
    });
    let path = scene.folder.path().join(&file);
    let text = std::fs::read_to_string(&path).unwrap();
    let named = text.replace("name = \"simulator\"", &format!("name = '''{SOURCE}'''"));
    std::fs::write(path, named).unwrap();
    file
}

const SOURCE: &str = "x');DROP/**/TABLE/**/harvest.traces;--%s_{}\"\\$1:1<b>\u{202e}";
const QUERY: &str = r#"{ name != "\"); DROP TABLE harvest.traces; -- } | rate() // %s $1" && name != `\" } || {` }"#;

#[tokio::test]
async fn what_a_job_file_says_is_passed_on_as_it_is() {
    let scene = Scene::new(tempo(&hours(2, 200))).await;
    let file = hostile_job(&scene);
    scene.command(&["check", &file]).await.expect(0);
    scene.command(&["submit", &file]).await.expect(0);
    scene.command(&["work", &file, "--drain"]).await.expect(0);
    assert_eq!(scene.covered("bad").await, [(DAY_S, DAY_S + 2 * HOUR_S)]);
    let requests = scene.new_requests();
    let tenant = ("x-scope-orgid".to_owned(), "a'\"\\;{}%|&$1".to_owned());
    let searches = requests
        .iter()
        .filter(|request| request.path.ends_with("/api/search"));
    let mut queries = 0;
    for request in searches {
        assert!(request.headers.contains(&tenant));
        queries += usize::from(request.param("q").as_deref() == Some(QUERY));
    }
    assert!(queries > 0);
    let stored: (String, String) = sqlx::query_as("SELECT query, source FROM harvest.datasets")
        .fetch_one(&scene.pool)
        .await
        .unwrap();
    assert_eq!(stored, (QUERY.to_owned(), SOURCE.to_owned()));
    let left = scene
        .number("SELECT count(*) FROM apalis.jobs WHERE status = 'Pending'")
        .await;
    assert_eq!(left, 0);

    let (from, to) = (rfc3339(DAY_S), rfc3339(DAY_S + HOUR_S));
    let commands: [&[&str]; 12] = [
        &["status"],
        &["status", "bad"],
        &["gaps"],
        &["runs"],
        &["stats"],
        &["plan", &file],
        &["doctor", &file],
        &["refetch", "bad", "--from", &from, "--to", &to, "--yes"],
        &["pause", "bad"],
        &["resume", "bad"],
        &["cancel", "bad", "--yes"],
        &["repair", "bad"],
    ];
    for arguments in commands {
        let said = scene.command(arguments).await.expect(0);
        assert_tame(&format!("{arguments:?}"), &said.stdout);
        assert_tame(&format!("{arguments:?}"), &said.stderr);
    }
    let mut running = scene.start(&["work", &file, "--listen", "127.0.0.1:0"]);
    let at = address(&mut running).await;
    let page = get(&at, "/", "").await.body;
    assert!(
        !page.contains("<b>") && page.contains("&lt;b&gt;"),
        "{page}"
    );
    for line in metrics(&at).await.lines() {
        let name = line
            .trim_start_matches("# HELP ")
            .trim_start_matches("# TYPE ");
        let is_known = ["tempo_harvest_", "process_"]
            .iter()
            .any(|begin| name.starts_with(begin));
        assert!(is_known || line == "# EOF", "{line}");
    }
    running.signal(Signal::TERM);
    running.end().await.expect(0);
}

#[tokio::test]
async fn what_cannot_be_a_name_is_refused_and_shown_harmlessly() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let refused = async |job: Job, part: &str| {
        let file = scene.write(&Job {
            name: "shop".to_owned(),
            ..job.clone()
        });
        let path = scene.folder.path().join(&file);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(
            &path,
            text.replace("name = \"shop\"", &format!("name = \"{}\"", job.name)),
        )
        .unwrap();
        for command in [&["check", &file][..], &["run", &file], &["submit", &file]] {
            let said = scene.command(command).await.expect(2);
            assert_tame(&job.name, &said.stderr);
            assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
        }
    };
    // Escapes of TOML: the values have the characters themselves.
    for name in [
        "a'b",
        "a;b",
        "a\\\\b",
        "a{b}",
        "a\\nb",
        "a\\u0000b",
        "\\u001b[2J",
        "ä",
        "a%b",
        "a:b",
        "../a",
        "-a",
        "",
    ] {
        refused(
            Job {
                name: name.to_owned(),
                ..job(1)
            },
            "must be 1 to 63 lower-case letters",
        )
        .await;
    }
    let with = |key: &str| Job {
        top: format!("{key}\n"),
        ..job(1)
    };
    refused(
        with("dataset = \"a'; --\""),
        "must be 1 to 63 lower-case letters",
    )
    .await;
    refused(
        with("timezone = \"UTC'; --\\u001b[2J\""),
        "is not a known timezone",
    )
    .await;
    refused(
        job(1).source("tenant = \"a\\r\\nX-Evil: 1\""),
        "is not a possible tenant",
    )
    .await;
    refused(
        job(1).source("headers = { X-A = \"a\\r\\nX-Evil: 1\" }"),
        "is not a possible header value",
    )
    .await;
    refused(
        job(1).source("headers = { \"X-A\\r\\nX-Evil\" = \"1\" }"),
        "is not a possible header name",
    )
    .await;
    refused(
        job(1).source("bearer_token = \"a\\r\\nb\""),
        "is not a possible bearer token",
    )
    .await;
    refused(job(1).query("{ } // all"), "has a comment").await;
    refused(job(1).query("{ } | rate()"), "is a metrics query").await;
    refused(job(1).query("{ } } | { "), "too many").await;
    refused(job(1).spans("\"span.a) | rate() //\""), "outside quotes").await;
    refused(job(1).spans("'span.\"a\\u0007\"'"), "escapes nothing").await;
    assert_eq!(scene.new_requests().len(), 0);
    assert_eq!(
        scene.number("SELECT count(*) FROM harvest.datasets").await,
        0
    );
}
