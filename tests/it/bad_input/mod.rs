//! Bad input, and to the letter what is said of it: job files, arguments, answers of servers, states of the database.
//!
//! The items are data, `tests/fixtures/bad_input/*.toml`: one entry each, with what is given and what is said. Each file begins with how
//! many it has.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

mod answers;
mod database;

/// The beginning of a job that is right as far as it goes: lines 1 and 2.
const HEAD: &str = "name = \"shop\"\nsource = { url = \"http://localhost:3200\" }\n";
/// The same whose source goes on, from line 5.
const SOURCE: &str =
    "name = \"shop\"\nbackfill.last = \"1d\"\n[source]\nurl = \"http://localhost:3200\"\n";

/// The items of a group, as many as its file says.
fn items<T: for<'a> Deserialize<'a>>(group: &str) -> Vec<T> {
    #[derive(Deserialize)]
    struct Items<T> {
        items: usize,
        item: Vec<T>,
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bad_input");
    let text = std::fs::read_to_string(folder.join(format!("{group}.toml"))).unwrap();
    let all = toml::from_str::<Items<T>>(&text).unwrap();
    assert_eq!(
        all.item.len(),
        all.items,
        "{group}: how many it begins with"
    );
    all.item
}

/// Something that a command is given.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    what: String,
    /// shop.toml; else its lines after [`HEAD`], or after [`SOURCE`]; else there is none.
    job: Option<String>,
    lines: Option<String>,
    source: Option<String>,
    /// A shell's command that makes what cannot be written here.
    make: Option<String>,
    /// The arguments; `check shop.toml` unless something else is said.
    run: Option<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The exit code; 2 unless something else is said.
    code: Option<i32>,
    /// All of stderr, or its beginning if it ends in `…`. HERE is the folder, and NOW this second.
    says: String,
}

impl Given {
    /// What is wrong with what is said of it; `None`: nothing.
    fn what_is_wrong(&self) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().canonicalize().unwrap();
        let head = |head: &str, lines: &String| format!("{head}{lines}");
        let job = self.job.clone();
        let job = job.or(self.lines.as_ref().map(|lines| head(HEAD, lines)));
        let job = job.or(self.source.as_ref().map(|lines| head(SOURCE, lines)));
        if let Some(job) = job {
            std::fs::write(here.join("shop.toml"), job).unwrap();
        }
        if let Some(make) = &self.make {
            let made = Command::new("sh")
                .args(["-c", make])
                .current_dir(&here)
                .status();
            assert!(made.unwrap().success(), "{}", self.what);
        }
        let check = ["check".to_owned(), "shop.toml".to_owned()];
        let mut child = Command::new(env!("CARGO_BIN_EXE_tempo-harvest"))
            .args(self.run.as_deref().unwrap_or(&check))
            .current_dir(&here)
            .env_clear()
            .env("HOME", &here)
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = std::time::Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begun.elapsed() > std::time::Duration::from_secs(60) {
                child.kill().unwrap();
                return Some(format!("{}: hangs", self.what));
            }
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).replace(here.to_str().unwrap(), "HERE");
        let now = regex_lite::Regex::new(r"20[0-9-]{8}T[0-9:]{8}Z$").unwrap();
        let said = now.replace(said.trim_end(), "NOW").into_owned();
        let right = match self.says.strip_suffix('…') {
            Some(beginning) => said.starts_with(beginning),
            None => said == self.says,
        };
        let code = self.code.unwrap_or(2);
        // Whatever is refused has no result.
        let silent = output.stdout.is_empty() || code == 0 || self.says.contains("job");
        let is_right = right && output.status.code() == Some(code) && silent;
        (!is_right).then(|| format!("{}: {:?}\n{said}", self.what, output.status.code()))
    }
}

/// Holds each item against what is said of it.
fn all_are_said(group: &str) {
    let items: Vec<Given> = items(group);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let halves = items.chunks(items.len().div_ceil(2));
        let halves = halves.map(|half| {
            scope.spawn(move || {
                half.iter()
                    .filter_map(Given::what_is_wrong)
                    .collect::<Vec<_>>()
            })
        });
        let halves: Vec<_> = halves.collect();
        halves
            .into_iter()
            .flat_map(|half| half.join().unwrap())
            .collect()
    });
    assert!(
        wrong.is_empty(),
        "{} items:\n{}",
        wrong.len(),
        wrong.join("\n---\n")
    );
}

#[test]
fn job_files() {
    all_are_said("job_files");
}

#[test]
fn arguments() {
    all_are_said("arguments");
}
