//! `db`, on the private PostgreSQL and on the environment's.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Pid;
use tempo_harvest::local_postgres::FOLDER_NAME;

use crate::support::local_postgres::{PROGRAM, Place, text};

#[test]
fn db_gives_the_command_its_database_and_passes_on_its_exit_code() {
    let place = Place::new();
    let by_variables = "psql -Atc 'SELECT current_user, current_database()'";
    let by_url = r#"psql "$DATABASE_URL" -Atc 'SELECT current_user, current_database()'"#;
    let script = format!("{by_variables} && {by_url} && exit 7");
    let output = place
        .db(&["sh", "-c", &script])
        // What would lead psql elsewhere.
        .envs([
            ("PGPORT", "1"),
            ("PGHOSTADDR", "192.0.2.1"),
            ("PGSERVICE", "none"),
            ("PGUSER", "x"),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    let line = "tempo_harvest|tempo_harvest\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), line.repeat(2));
    place.assert_stopped();

    let killed = place.db(&["sh", "-c", "kill -9 $$"]).status().unwrap();
    assert_eq!(killed.code(), Some(137));
    let missing = place.db(&["no-such-command"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing).contains("running `no-such-command`"));
    place.assert_stopped();
}

#[tokio::test]
async fn db_uses_the_database_url_of_the_environment_unless_told_otherwise() {
    let place = Place::new();
    let server = place.start().await;
    server.create_database("other").await.unwrap();
    let url = server
        .environment()
        .remove(0)
        .1
        .replace("/tempo_harvest?", "/other?");
    let asked = |arguments: &[&str], directory: &Path| {
        let output = Command::new(PROGRAM)
            .args(arguments)
            .args(["--", "psql", "-Atc", "SELECT current_database()"])
            .env("DATABASE_URL", &url)
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(asked(&["db"], elsewhere.path()), "other\n");
    assert!(!elsewhere.path().join(FOLDER_NAME).exists());
    assert_eq!(
        asked(&["db", "--local"], place.root.path()),
        "tempo_harvest\n"
    );
    server.stop().await;
}

/// What a message tells to do next works as it stands.
#[tokio::test]
async fn messages_name_the_database_that_was_used() {
    let place = Place::new();
    let server = place.start().await;
    let said = |arguments: &[&str], url: Option<&str>| {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).current_dir(place.root.path());
        match url {
            Some(url) => command.env("DATABASE_URL", url),
            None => command.env_remove("DATABASE_URL"),
        };
        text(&command.output().unwrap())
    };
    let migrated = said(&["migrate", "--local"], None);
    assert!(migrated.contains("up to date"), "{migrated}");
    let url = server.environment().remove(0).1;
    for command in [
        ["status", "shop"],
        ["gaps", "shop"],
        ["runs", "shop"],
        ["stats", "shop"],
        ["repair", "shop"],
        ["verify", "shop"],
        ["prune", "shop"],
        ["baseline", "--job=shop"],
    ] {
        let local = said(&[&command[..], &["--local"]].concat(), None);
        assert!(
            local.contains("`tempo-harvest status --local` lists them"),
            "{command:?}: {local}"
        );
        let other = said(&command, Some(&url));
        assert!(
            other.contains("`tempo-harvest status` lists them"),
            "{command:?}: {other}"
        );
    }
    server.stop().await;
}

/// A secret shows in nobody's process list, and none of ours reaches the server's processes.
#[tokio::test]
async fn command_lines_and_environments_hold_no_secrets() {
    let place = Place::new();
    let mut child = place
        .db(&["sh", "-c", "echo $$; cat"])
        .env("TEMPO_TOKEN", "a-secret-of-the-users")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    let command = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    let password = fs::read_to_string(place.folder().join("password")).unwrap();
    let contains = |pid: Pid, file: &str, secret: &str| {
        let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
        // Elsewhere than on Linux there is no such file, and nothing to see.
        let bytes = fs::read(path).unwrap_or_default();
        bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes())
    };
    let user = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    for process in [user, command, place.supervisor(), place.postmaster()] {
        assert!(!contains(process, "cmdline", &password));
    }
    assert!(contains(command, "environ", "a-secret") || !Path::new("/proc/self/environ").exists());
    for process in [place.supervisor(), place.postmaster()] {
        assert!(!contains(process, "environ", "a-secret-of-the-users"));
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_temp_folder_with_a_long_or_odd_path_does_no_harm() {
    let place = Place::new();
    let long = place.root.path().join("x".repeat(90));
    let odd = place.root.path().join("a b+c%20");
    for folder in [&long, &odd] {
        fs::create_dir(folder).unwrap();
        let output = place
            .db(&[
                "sh",
                "-c",
                r#"psql "$DATABASE_URL" -Atc 'SELECT 1' && echo "$PGHOST""#,
            ])
            .env("TMPDIR", folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let (answer, host) = std::str::from_utf8(&output.stdout)
            .unwrap()
            .split_once('\n')
            .unwrap();
        assert_eq!(answer, "1");
        assert_eq!(
            Path::new(host).starts_with(folder),
            folder.file_name() == Some(OsStr::new("a b+c%20"))
        );
        assert_eq!(
            fs::read_dir(folder).unwrap().count(),
            0,
            "something is left"
        );
    }
}
