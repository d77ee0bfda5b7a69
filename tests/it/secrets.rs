//! Secrets stay where they were given: not in logs, not in reports, not in the database, not on the command line.

use secrecy::SecretString;
use tempo_harvest::simulator::{Credentials, Fault, Misbehaviour};

use crate::support::harvest::{Job, Scene, hours, job, tempo};

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
