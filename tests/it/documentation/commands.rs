//! Every command in the documentation is run, in the order in which it stands there, in a folder of its own with the repository's
//! `jobs/`, a simulated Tempo and a database; and every query. What cannot be run here is in [`NOT_RUN`], and parsed like the rest.
//!
//! Before a document's first command a job `shop` has been collected, which the examples are about. A command ends with exit code 0,
//! unless a comment behind it says another: `# exit code 3`.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use chrono::Utc;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Executor as _};
use tempo_harvest::{cli, simulator::GenerateSettings};

use super::{Block, document, documents, top};
use crate::support::{
    harvest::{HOUR_S, Scene, at, start_in, tempo},
    local_postgres::Place,
};

/// Lines that are not run, and why.
const NOT_RUN: [(&str, &str); 4] = [
    ("cargo test", "it would run this test"),
    (
        "cargo run --release -- demo",
        "builds for minutes; `demo` has tests of its own",
    ),
    (
        "tempo-harvest demo --listen 127.0.0.1:8080",
        "collects 100,000 traces; `demo --listen` has a test of its own",
    ),
    (
        "tempo-harvest work jobs --listen 0.0.0.0:8080 --listen-token-file /etc/tempo-harvest/listen-token",
        "tests listen on this machine only; tokens have tests of their own",
    ),
];

/// Shell that is not run but parsed: it needs a container engine, makes a release, or measures for minutes.
const SHELL_NOT_RUN: [&str; 5] = ["COMMIT=", "just ", "TEMPO_URL=", "DEBFULLNAME=", ".ci/"];

/// A line of a console block: the command, and how it is to end.
struct Line {
    command: String,
    code: i32,
    place: String,
}

fn lines(block: &Block) -> Vec<Line> {
    let lines = block.text.lines().map(|line| {
        let command = line.strip_prefix("$ ");
        let command = command.unwrap_or_else(|| panic!("{}: `{line}` is no command", block.place));
        let (command, code) = match command.split_once("# exit code ") {
            Some((command, code)) => (command, code[..1].parse().unwrap()),
            None => (command, 0),
        };
        Line {
            command: command.trim().to_owned(),
            code,
            place: block.place.clone(),
        }
    });
    lines.collect()
}

/// The arguments of a command line, its redirection left out; a quoted value is one argument.
fn arguments(line: &str) -> Vec<String> {
    let line = line.split(" > ").next().unwrap();
    let mut arguments = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == ' ' => arguments.push(String::new()),
            _ => arguments.last_mut().unwrap().push(c),
        }
    }
    arguments.retain(|argument| !argument.is_empty());
    arguments
}

/// Panics unless the program takes this line.
fn parses(line: &str, place: &str) {
    let line = match line.strip_prefix("cargo run --release -- ") {
        Some(rest) => format!("tempo-harvest {rest}"),
        None => line.to_owned(),
    };
    if let Err(error) = cli::command().try_get_matches_from(arguments(&line)) {
        panic!("{place}: `{line}`: {error}");
    }
}

#[test]
fn every_command_is_one_that_the_program_has() {
    let mut commands = 0;
    let mut not_run = BTreeSet::new();
    for document in documents() {
        for block in document.blocks_of("console") {
            for Line { command, place, .. } in lines(&block) {
                let known = NOT_RUN.iter().find(|(line, _)| *line == command);
                not_run.extend(known.map(|(line, _)| *line));
                if command.starts_with("tempo-harvest ") || command.contains(" -- ") {
                    parses(&command, &place);
                    commands += 1;
                } else {
                    assert!(
                        known.is_some() || command.starts_with("export DATABASE_URL="),
                        "{place}: `{command}` is not looked at by any test"
                    );
                }
            }
        }
        // In prose, with placeholders in capitals, and in crontabs.
        let crontabs = document.blocks_of("text");
        let crontabs = crontabs.iter().flat_map(|block| block.text.lines());
        let crontabs = crontabs.filter_map(|line| Some(&line[line.find(" tempo-harvest ")? + 1..]));
        let quoted = document.quoted();
        let quoted = quoted.iter().map(String::as_str);
        for command in quoted.chain(crontabs) {
            let Some(rest) = command.strip_prefix("tempo-harvest ") else {
                continue;
            };
            // A command may be named without what it takes.
            if cli::command().find_subcommand(rest).is_none() {
                parses(command, &document.name);
            }
            commands += 1;
        }
    }
    assert!(commands > 50, "{commands}");
    assert_eq!(not_run.len(), NOT_RUN.len(), "{not_run:?}");
}

#[test]
fn every_recipe_is_one_of_the_justfile() {
    let justfile = fs::read_to_string(top().join("Justfile")).unwrap();
    let recipe = regex_lite::Regex::new(r"\bjust ([a-z][a-z-]*)").unwrap();
    let mut recipes = 0;
    for document in documents() {
        let shell = document.blocks_of("sh").into_iter();
        let shell = shell.map(|block| block.text);
        let shell = shell.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
        for text in document.quoted().into_iter().chain(shell) {
            for found in recipe.captures_iter(&text) {
                let name = &found[1];
                let there = justfile.lines().any(|line| {
                    line.strip_prefix(name)
                        .is_some_and(|rest| rest.starts_with([' ', ':']))
                });
                assert!(there, "{}: there is no recipe `{name}`", document.name);
                recipes += 1;
            }
        }
    }
    assert!(recipes > 3);
}

#[test]
fn every_job_file_is_accepted() {
    for document in documents() {
        let blocks = document.blocks_of("toml");
        if blocks.is_empty() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        for (index, block) in blocks.iter().enumerate() {
            // A job has a name at the top, a source has an address in its table.
            let is_job = block.text.starts_with("name = ");
            let name = match is_job {
                true => format!("{index}.toml"),
                false => "sources.toml".to_owned(),
            };
            let file = folder.path().join(name);
            assert!(!file.exists(), "{}: a second sources.toml", block.place);
            fs::write(file, &block.text).unwrap();
        }
        let checked = Command::new(env!("CARGO_BIN_EXE_tempo-harvest"))
            .args(["check", "--no-env"])
            .arg(folder.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{}: {errors}", document.name);
    }
}

/// A folder with `jobs/`, a Tempo, and a database that holds `shop`.
struct Stage {
    place: Place,
    scene: Scene,
    /// What commands find in DATABASE_URL: nothing, until the document sets it.
    database_url: Option<String>,
}

impl Stage {
    async fn new() -> Self {
        let now = Utc::now().timestamp() / HOUR_S * HOUR_S;
        let settings = GenerateSettings::new(7, at(now - 36 * HOUR_S), at(now - 60), 2_000);
        let stage = Self {
            place: Place::new(),
            scene: Scene::new(tempo(&settings)).await,
            database_url: None,
        };
        let jobs = stage.folder().join("jobs");
        fs::create_dir(&jobs).unwrap();
        for file in fs::read_dir(top().join("jobs")).unwrap() {
            let file = file.unwrap().path();
            let text = fs::read_to_string(&file).unwrap();
            fs::write(jobs.join(file.file_name().unwrap()), stage.here(&text)).unwrap();
        }
        let shop = "name = \"shop\"\nsource = { url = \"http://localhost:3200\" }\n[select]\ndetail = \"services\"\n\
                    [backfill]\nlast = \"30h\"\n[retention]\ntraces = \"30d\"\n";
        fs::write(jobs.join("shop.toml"), stage.here(shop)).unwrap();
        let run = ["run", "jobs/shop.toml"];
        let url = stage.scene.database.url();
        let said = start_in(stage.folder(), &run, &[("DATABASE_URL", &url)]);
        said.end().await.expect(0);
        stage
    }

    fn folder(&self) -> &Path {
        self.place.root.path()
    }

    /// A text with what is here in place of what the documentation names.
    fn here(&self, text: &str) -> String {
        text.replace("http://localhost:3200", &self.scene.simulator.url())
            .replace("127.0.0.1:8080", "127.0.0.1:0")
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        let url = self.database_url.as_deref();
        url.map(|url| ("DATABASE_URL", url)).into_iter().collect()
    }

    /// Runs a text in bash, as somebody would who has the program on the PATH.
    fn bash(&self, text: &str) -> Output {
        let program = Path::new(env!("CARGO_BIN_EXE_tempo-harvest"));
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", program.parent().unwrap().display());
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", &self.here(text)])
            .current_dir(self.folder())
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.folder())
            .envs(self.environment())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    async fn run(&mut self, line: &Line) {
        let Line {
            command,
            code,
            place,
        } = line;
        if NOT_RUN.iter().any(|(line, _)| line == command) {
            return;
        }
        if command.starts_with("export DATABASE_URL=") {
            self.database_url = Some(self.scene.database.url());
            return;
        }
        let words = arguments(&self.here(command));
        // What stays is stopped once it works.
        let stays = words[1] == "work" && !words.iter().any(|word| word == "--drain");
        if stays {
            let words: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            let mut process = start_in(self.folder(), &words, &self.environment());
            process.says("working as").await;
            process.signal(Signal::TERM);
            process.end().await.expect(*code);
            return;
        }
        let said = self.bash(command);
        assert_eq!(
            said.status.code(),
            Some(*code),
            "{place}: `{command}`\n{}\n{}",
            String::from_utf8_lossy(&said.stdout),
            String::from_utf8_lossy(&said.stderr)
        );
    }

    /// Runs everything of a document in order, and returns how many commands that were.
    async fn play(&mut self, name: &str) -> usize {
        let mut count = 0;
        for block in document(name).blocks() {
            match block.language.as_str() {
                "console" => {
                    for line in lines(&block) {
                        self.run(&line).await;
                        count += 1;
                    }
                }
                "sql" => {
                    self.query(&block).await;
                    count += 1;
                }
                "sh" => {
                    self.shell(&block);
                    count += 1;
                }
                _ => {}
            }
        }
        count
    }

    /// Runs the statements of a block; what is selected has rows.
    async fn query(&self, block: &Block) {
        for statement in block.text.split(';').map(str::trim) {
            // A role belongs to the whole cluster, and may be there from an earlier run: `roles` makes one under another name.
            if statement.is_empty() || statement.starts_with("CREATE ROLE") {
                continue;
            }
            let rows = self
                .scene
                .pool
                .fetch_all(AssertSqlSafe(statement.to_owned()))
                .await;
            let rows = rows.unwrap_or_else(|error| panic!("{}: {statement}: {error}", block.place));
            // Nothing is missing here, and hours do not hold much.
            let is_empty = statement.contains("missing_from") || !statement.starts_with("SELECT");
            assert!(
                rows.is_empty() == is_empty || statement.contains("samples >="),
                "{}: {statement}",
                block.place
            );
        }
    }

    /// Shell that has no exit code of its own to tell: it is run, or parsed where it cannot be.
    fn shell(&self, block: &Block) {
        let not_run = |line: &str| SHELL_NOT_RUN.iter().any(|begin| line.starts_with(begin));
        let text = match block.text.lines().any(not_run) {
            true => format!("false && {{\n{}\n}} || true", block.text),
            false => block.text.clone(),
        };
        let said = self.bash(&text);
        let errors = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{}: {errors}", block.place);
    }
}

#[tokio::test]
async fn everything_in_the_readme_runs() {
    let mut stage = Stage::new().await;
    assert!(stage.play("README.md").await > 20);
    // The private PostgreSQL is where the README says, and was used before there was a DATABASE_URL.
    assert!(stage.folder().join(".tempo-harvest").is_dir());
    assert!(stage.folder().join("certificate.json").is_file());
}

#[tokio::test]
async fn everything_in_operations_runs() {
    let mut stage = Stage::new().await;
    stage.database_url = Some(stage.scene.database.url());
    assert!(stage.play("docs/OPERATIONS.md").await > 20);
}

#[tokio::test]
async fn everything_in_the_other_documents_runs() {
    let mut stage = Stage::new().await;
    stage.database_url = Some(stage.scene.database.url());
    let mut count = 0;
    for document in documents() {
        if document.name != "README.md" && document.name != "docs/OPERATIONS.md" {
            count += stage.play(&document.name).await;
        }
    }
    assert!(count > 10, "{count}");
}
