//! Secrets stay where they were given: not in logs, not in reports, not in the database, not on the command line.

use std::path::Path;

use base64::{Engine as _, prelude::BASE64_STANDARD as STANDARD};
use rustix::process::Signal;
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, query};
use tempo_harvest::simulator::{Credentials, Fault, Misbehaviour};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use url::Url;

use crate::support::harvest::{DAY_S, HOUR_S, Job, Scene, hours, job, rfc3339, tempo};
use crate::support::http::{address, get};

/// What the server accepts.
const ACCEPTED: &str = "canary-8f3a1c-accepted";
/// What it does not.
const REFUSED: &str = "canary-8f3a1c-refused";
/// The beginning of both, which is found nowhere else.
const CANARY: &str = "canary-8f3a1c";
/// The beginning of both as basic authentication sends them, after `collector:`.
const CANARY_IN_BASE64: &str = "Y29sbGVjdG9yOmNhbmFyeS04ZjNhMWMt";

fn bearer() -> Credentials {
    Credentials::Bearer(SecretString::from(ACCEPTED))
}

fn basic() -> Credentials {
    Credentials::Basic {
        username: "collector".to_owned(),
        password: SecretString::from(ACCEPTED),
    }
}

#[track_caller]
fn assert_hidden(place: &str, text: &str) {
    for canary in [CANARY, CANARY_IN_BASE64] {
        if let Some(at) = text.find(canary) {
            let from = text.floor_char_boundary(at.saturating_sub(200));
            panic!(
                "a secret is in {place}: …{}",
                &text[from..at + canary.len()]
            );
        }
    }
}

/// As many hours, with these lines in `[source]`, each window tried once.
fn secret_job(hours: i64, source: &str) -> Job {
    job(hours).source(source).limits("max_attempts = 1")
}

/// A server that wants these credentials, and traces of three hours.
async fn scene(credentials: Credentials) -> Scene {
    let mut config = tempo(&hours(3, 150));
    config.credentials = credentials;
    Scene::new(config).await
}

/// Runs the job with a secret in the environment and in a file, as talkative as can be, and looks for it everywhere.
async fn look_everywhere(
    scene: &Scene,
    job: &Job,
    secret: &str,
    spoilt: Option<Misbehaviour>,
    code: i32,
) -> String {
    scene.write_file("secret.txt", &format!("{secret}\n"));
    let file = scene.write(job);
    let url = scene.database.url();
    let environment = [
        ("DATABASE_URL", url.as_str()),
        ("CANARY", secret),
        ("RUST_LOG", "trace"),
    ];
    let arguments = ["--log-format", "json", "-vv", "run", &file];
    let is_spoilt = spoilt.is_some();
    // Faults are met in this order: what is to be spoilt is not held.
    if let Some(answer) = spoilt {
        scene.control.add_fault(Fault::forever(answer));
    }
    let hold = scene.control.hold("/api");
    let process = scene.start_with(&arguments, &environment);
    if !is_spoilt {
        scene.held(1).await;
        let command_line = std::fs::read(format!("/proc/{}/cmdline", process.id())).unwrap();
        let command_line = String::from_utf8_lossy(&command_line);
        assert!(command_line.contains(&file));
        assert_hidden("its arguments", &command_line);
    }
    hold.release();
    let said = process.end().await.expect(code);
    scene.control.clear_faults();
    assert!(said.stderr.contains("\"level\":\"TRACE\""));
    assert_hidden("stdout", &said.stdout);
    assert_hidden("stderr", &said.stderr);
    assert_hidden("the database", &scene.dump().await);
    said.stderr
}

/// With these lines in `[source]`: let in, refused for another secret, and sent to a login page.
async fn stays_hidden(credentials: Credentials, source: &str) {
    // What stands in a header of its own is judged by a gateway, and the simulator has none.
    let gateway = matches!(credentials, Credentials::None).then_some(Misbehaviour::Status(401));
    let scene = scene(credentials).await;
    look_everywhere(&scene, &secret_job(1, source), ACCEPTED, None, 0).await;
    let refused = look_everywhere(&scene, &secret_job(2, source), REFUSED, gateway, 1).await;
    assert!(refused.contains("401"), "{refused}");
    let login = Some(Misbehaviour::LoginPage);
    look_everywhere(&scene, &secret_job(3, source), ACCEPTED, login, 1).await;
    if source.starts_with("headers") {
        let sent = ("x-api-key".to_owned(), ACCEPTED.to_owned());
        let requests = scene.control.requests();
        assert!(requests[0].headers.contains(&sent), "{requests:?}");
    }
}

#[tokio::test]
async fn a_bearer_token_from_the_environment_stays_hidden() {
    stays_hidden(bearer(), "bearer_token = '${CANARY}'").await;
}

#[tokio::test]
async fn a_bearer_token_from_a_file_stays_hidden() {
    stays_hidden(bearer(), "bearer_token_file = 'secret.txt'").await;
}

#[tokio::test]
async fn a_password_from_the_environment_stays_hidden() {
    let source = "basic_auth = { username = 'collector', password = '${CANARY}' }";
    stays_hidden(basic(), source).await;
}

#[tokio::test]
async fn a_password_from_a_file_stays_hidden() {
    let source = "basic_auth = { username = 'collector', password_file = 'secret.txt' }";
    stays_hidden(basic(), source).await;
}

#[tokio::test]
async fn a_secret_header_stays_hidden() {
    stays_hidden(Credentials::None, "headers = { X-Api-Key = '${CANARY}' }").await;
}

#[tokio::test]
async fn a_literal_secret_is_used_but_not_stored_and_not_submitted() {
    let literal = [
        (
            bearer(),
            format!("bearer_token = '{ACCEPTED}'"),
            "bearer_token",
        ),
        (
            basic(),
            format!("basic_auth = {{ username = 'collector', password = '{ACCEPTED}' }}"),
            "basic_auth.password",
        ),
        (
            Credentials::None,
            format!("headers = {{ X-Api-Key = '{ACCEPTED}' }}"),
            "headers.X-Api-Key",
        ),
    ];
    for (credentials, source, key) in literal {
        let scene = scene(credentials).await;
        let job = secret_job(1, &source);
        let file = scene.write(&job);
        let said = scene.command(&["submit", &file]).await.expect(2);
        let place = scene.place(&file, &format!("'{ACCEPTED}'"));
        assert!(said.stderr.contains(&place), "{place}\n{}", said.stderr);
        assert!(said.stderr.contains(&format!("`{key}`")), "{}", said.stderr);
        assert_hidden("the refusal", &said.stderr);
        assert_eq!(
            scene.number("SELECT count(*) FROM harvest.windows").await,
            0
        );

        look_everywhere(&scene, &job, ACCEPTED, None, 0).await;
        scene.equals_truth(job.range.unwrap(), false).await;
    }
}

/// What a server says back of what it was sent, in whatever form: in the error it is `***`.
#[tokio::test]
async fn what_a_server_says_back_stays_hidden() {
    const SECRET: &str = "canary-8f3a1c/+&\"=accepted";
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let encoded: String = url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    let json = serde_json::to_string(SECRET).unwrap();
    let in_base64 = STANDARD.encode(format!("Bearer {SECRET}"));
    // So that a cut after 400 characters would leave a part of it.
    let filler = "x".repeat(385);
    let bodies = [
        format!("text/plain\n{filler} {SECRET}"),
        format!(
            "application/json\n{{\"error\": {json}, \"header\": \"Bearer {}\"}}",
            &json[1..json.len() - 1]
        ),
        format!("text/plain\nsee /login?token={encoded} and {in_base64}"),
        format!(
            "text/html\n<html><title>{}</title>",
            SECRET.replace('&', "&amp;").replace('"', "&quot;")
        ),
    ];
    let heads = [
        "400 X",
        "500 X",
        "403 X",
        "200 OK",
        "302 X\r\nLocation: /sso/TOKEN",
    ];
    let answers: Vec<String> = heads
        .iter()
        .flat_map(|head| bodies.iter().map(move |body| (head, body)))
        .map(|(head, body)| {
            let (kind, body) = body.split_once('\n').unwrap();
            let head = head.replace("TOKEN", &encoded);
            format!(
                "HTTP/1.1 {head}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
        })
        .collect();
    let count = answers.len();
    let serving = tokio::spawn(async move {
        for answer in answers.into_iter().cycle() {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 8192];
            let length = stream.read(&mut request).await.unwrap();
            assert!(String::from_utf8_lossy(&request[..length]).contains(SECRET));
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let file = scene.write(&secret_job(
        1,
        "bearer_token = '${CANARY}'\nheaders = { X-Api-Key = 'Key ${CANARY}' }",
    ));
    let path = scene.folder.path().join(&file);
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace(&scene.simulator.url(), &format!("http://{at}"));
    std::fs::write(path, text).unwrap();
    let url = scene.database.url();
    let environment = [("DATABASE_URL", url.as_str()), ("CANARY", SECRET)];
    let mut hidden = 0;
    for _ in 0..count {
        let said = scene.command_with(&["doctor", &file], &environment).await;
        let said = said.expect(1);
        hidden += said.stdout.matches("***").count();
        assert_hidden("what doctor says", &said.stdout);
        assert_hidden("what doctor logs", &said.stderr);
    }
    assert!(hidden >= count / 2, "{hidden} of {count}");
    let said = scene
        .command_with(&["-vv", "run", &file], &environment)
        .await;
    assert_ne!(said.code, Some(0));
    assert_hidden("what run says", &said.stderr);
    assert_hidden("the database", &scene.dump().await);
    serving.abort();
}

/// What stands in every file of a folder, and of those in it; their names, too.
fn files_in(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        text += &format!("{}\n", path.display());
        if path.is_dir() {
            text += &files_in(&path);
        } else if let Ok(bytes) = std::fs::read(&path) {
            text += &String::from_utf8_lossy(&bytes);
        }
    }
    text
}

/// Every command as talkative as can be, with secrets wherever there can be some: in the environment, in files, in DATABASE_URL, at
/// the dashboard's door.
#[tokio::test]
async fn no_command_writes_a_secret_anywhere() {
    const DATABASE: &str = "canary-8f3a1c-database";
    const LISTEN: &str = "canary-8f3a1c-listening";
    let scene = scene(bearer()).await;
    scene.command(&["migrate", "--roles"]).await.expect(0);
    let login = format!("canary_{:016x}", getrandom::u64().unwrap());
    let statement =
        format!("CREATE ROLE {login} LOGIN PASSWORD '{DATABASE}' IN ROLE harvest_worker");
    query(AssertSqlSafe(statement))
        .execute(&scene.pool)
        .await
        .unwrap();
    let mut url = Url::parse(&scene.database.url()).unwrap();
    url.set_username(&login).unwrap();
    url.set_password(Some(DATABASE)).unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let token_file = secrets.path().join("listen");
    std::fs::write(&token_file, LISTEN).unwrap();
    let key_file = secrets.path().join("key");
    std::fs::write(&key_file, ACCEPTED).unwrap();
    let file = scene.write(&secret_job(
        2,
        &format!(
            "bearer_token = '${{CANARY}}'\nheaders = {{ X-Api-Key = 'key ${{CANARY}}', Cookie = 'a=b; session=${{CANARY}}' }}\n\
             # bearer_token_file = '{}'",
            key_file.display()
        ),
    ));
    let environment = [
        ("DATABASE_URL", url.as_str()),
        ("CANARY", ACCEPTED),
        ("RUST_LOG", "trace"),
        ("TMPDIR", scratch.path().to_str().unwrap()),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ];
    let (from, to) = (rfc3339(DAY_S), rfc3339(DAY_S + HOUR_S));
    // What `db` runs has DATABASE_URL in its environment, and nobody's arguments hold it.
    let arguments_of_all = "test -n \"$DATABASE_URL\" && test -n \"$PGPASSWORD\" && cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; true";
    let commands: [(&[&str], i32); 33] = [
        (&["check", &file], 0),
        (&["doctor", &file], 0),
        (&["doctor", &file, "--json"], 0),
        (&["plan", &file], 0),
        (&["plan", &file, "--json"], 0),
        (&["submit", &file, "--json"], 0),
        (&["work", &file, "--drain"], 0),
        (&["run", &file, "--json"], 0),
        (&["status"], 0),
        (&["status", "--json"], 0),
        (&["gaps", "--json"], 0),
        (&["runs", "--json"], 0),
        (&["stats", "--json"], 0),
        (&["baseline"], 0),
        (&["baseline", "--json"], 0),
        (&["baseline", "check", "nobody", "nothing", "1s"], 1),
        (
            &["refetch", "shop", "--from", &from, "--to", &to, "--yes"],
            0,
        ),
        (&["verify", "shop"], 0),
        (&["verify", "shop", "--deep", "--certificate", "--json"], 0),
        (&["repair", "shop"], 0),
        (&["pause", "shop"], 0),
        (&["run", &file], 2),
        (&["resume", "shop"], 0),
        (&["cancel", "shop", "--yes"], 0),
        (&["prune", "shop", "--yes"], 2),
        (&["migrate"], 0),
        (&["migrate", "--roles"], 1),
        (&["db", "--", "sh", "-c", arguments_of_all], 0),
        (&["dataset", "reset", "shop", "--yes"], 0),
        (&["dataset", "rm", "shop", "--yes"], 0),
        (&["completions", "bash"], 0),
        (&["schema"], 0),
        (&["status", "nobody"], 2),
    ];
    for (arguments, code) in commands {
        let mut all = vec!["-vv"];
        all.extend(arguments);
        let said = scene.command_with(&all, &environment).await;
        let place = arguments.join(" ");
        assert_hidden(&place, &said.stdout);
        assert_hidden(&place, &said.stderr);
        assert_eq!(
            said.code,
            Some(code),
            "{place}: {}{}",
            said.stdout,
            &said.stderr[said.stderr.len().saturating_sub(2_000)..]
        );
    }
    let listening = [
        "-vv",
        "work",
        &file,
        "--listen",
        "127.0.0.1:0",
        "--listen-token-file",
    ];
    let mut listening = listening.to_vec();
    let token_file = token_file.to_str().unwrap();
    listening.push(token_file);
    let mut running = scene.start_with(&listening, &environment);
    let at = address(&mut running).await;
    scene
        .until("SELECT count(*) = 2 FROM harvest.windows WHERE state = 'done'")
        .await;
    for path in [
        "/",
        "/datasets/shop",
        "/datasets/shop/2026-03-01T00",
        "/metrics",
        "/readyz",
        "/healthz",
        "/none",
    ] {
        let answer = get(&at, path, &format!("Authorization: Bearer {LISTEN}\r\n")).await;
        assert_hidden(path, &answer.head);
        assert_hidden(path, &answer.body);
        let answer = get(&at, path, &format!("Authorization: Bearer {LISTEN}x\r\n")).await;
        assert_hidden(path, &answer.head);
        assert_hidden(path, &answer.body);
    }
    running.signal(Signal::TERM);
    let said = running.end().await.expect(0);
    assert_hidden("the log of work", &said.stderr);
    assert_hidden("the database", &scene.dump().await);
    let queries = scene.dump_of("pg_stat_activity").await.join("\n");
    assert_hidden("the database's processes", &queries);
    assert_hidden("the folder", &files_in(scene.folder.path()));
    assert_hidden("the temp folder", &files_in(scratch.path()));
}

/// A secret where none belongs, or one that is not well formed, is not repeated by what says so.
#[tokio::test]
async fn a_secret_in_the_wrong_place_is_not_repeated() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let url = scene.database.url();
    for wrong in [
        "https://me:canary-8f3a1c-x@tempo.example/",
        "https://canary-8f3a1c-x@tempo.example/",
        "https://tempo.example/?token=canary-8f3a1c-x",
        "https://tempo.example/#canary-8f3a1c-x",
        "https://me:canary-8f3a1c-x @tempo.example/",
        "me:canary-8f3a1c-x@tempo.example",
    ] {
        let file = scene.write(&job(1));
        let path = scene.folder.path().join(&file);
        let text = std::fs::read_to_string(&path).unwrap();
        for (written, environment) in [(wrong, ""), ("${WRONG}", wrong)] {
            std::fs::write(&path, text.replace(&scene.simulator.url(), written)).unwrap();
            let environment = [
                ("DATABASE_URL", url.as_str()),
                ("WRONG", environment),
                ("RUST_LOG", "trace"),
            ];
            for command in [["check", &file], ["run", &file]] {
                let said = scene.command_with(&command, &environment).await.expect(2);
                assert_hidden(wrong, &said.stderr);
                assert!(said.stderr.contains("`url`"), "{}", said.stderr);
            }
        }
        let said = scene.command(&["init", "--url", wrong]).await.expect(2);
        assert_hidden(wrong, &(said.stdout + &said.stderr));
    }
    for (wrong, code) in [
        ("postgres://me:canary-8f3a1c-x@127.0.0.1:1/harvest", 1),
        (
            "postgres://me:x@127.0.0.1:1/harvest?password=canary-8f3a1c-x&sslpassword=canary-8f3a1c-y",
            1,
        ),
        ("postgres://me:1/canary-8f3a1c-x@127.0.0.1:1/harvest", 2),
        ("postgres://me:1#canary-8f3a1c-x@127.0.0.1:1/harvest", 2),
        ("postgres://me:1?canary-8f3a1c-x@127.0.0.1:1/harvest", 2),
        ("postgres://me:canary-8f3a1c-x", 2),
        ("canary-8f3a1c-x", 2),
        ("canary-8f3a1c-x://127.0.0.1/x", 2),
    ] {
        let environment = [("DATABASE_URL", wrong), ("RUST_LOG", "trace")];
        for command in [&["status"][..], &["doctor"], &["migrate"]] {
            let said = scene.command_with(command, &environment).await.expect(code);
            assert_hidden(wrong, &(said.stdout + &said.stderr));
        }
        let said = scene
            .command_with(&["db", "--", "true"], &environment)
            .await;
        assert_hidden(wrong, &(said.stdout + &said.stderr));
    }
    // The program's own secrets cannot be sent to a Tempo.
    let file = scene.write(&secret_job(1, "bearer_token = '${DATABASE_URL}'"));
    let said = scene.command(&["run", &file]).await.expect(2);
    assert!(
        said.stderr.contains("a secret of tempo-harvest's own"),
        "{}",
        said.stderr
    );
    assert_eq!(scene.new_requests().len(), 0);
}
