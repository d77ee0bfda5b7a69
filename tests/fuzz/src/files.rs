//! Files that people write: job files and `sources.toml`, loaded from a folder as the program does.

use std::{cell::RefCell, collections::BTreeMap, fs, path::Path};

use chrono::{DateTime, Utc};
use tempfile::TempDir;
use tempo_harvest::job::{CheckOptions, Content, LoadOptions, check, load, load_each};

const SOURCES: &str = r#"
[prod]
url = "https://traces.example.net/tempo"
tenant = "team-a"
bearer_token = "${TEMPO_TOKEN}"

[local]
url = "http://localhost:3200"
"#;

const JOB: &str = r#"
name = "shop"
source = "prod"

[backfill]
last = "7d"
"#;

/// What is said about one problem is a few lines long, whatever stands in the file.
const LONGEST_PROBLEM: usize = 4_096;

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// Has a folder with these two files looked at.
fn in_folder(job: &[u8], sources: &[u8], look: impl Fn(&Path)) {
    FOLDER.with_borrow_mut(|folder| {
        let memory = Path::new("/dev/shm");
        let folder = folder.get_or_insert_with(|| {
            let made = match memory.is_dir() {
                true => tempfile::tempdir_in(memory),
                false => tempfile::tempdir(),
            };
            made.expect("there is room for a folder")
        });
        fs::write(folder.path().join("job.toml"), job).expect("it is ours");
        fs::write(folder.path().join("sources.toml"), sources).expect("it is ours");
        look(folder.path());
    });
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_339_200, 0).expect("it is a time")
}

/// Whatever stands in them, checking, loading and loading one by one agree, and what is loaded can be worked with.
fn agree(folder: &Path) {
    let env = BTreeMap::from([
        ("TEMPO_TOKEN".to_owned(), "canary".to_owned()),
        ("EMPTY".to_owned(), String::new()),
        ("A".to_owned(), "1".to_owned()),
    ]);
    let options = LoadOptions {
        env: &env,
        now: now(),
    };
    let paths = [folder.to_owned()];
    let checked = check(
        &paths,
        &CheckOptions {
            env: Some(&env),
            now: now(),
        },
    );
    let without_env = check(
        &paths,
        &CheckOptions {
            env: None,
            now: now(),
        },
    );
    for problem in checked.problems.iter().chain(without_env.problems.iter()) {
        let said = problem.to_string();
        assert!(said.len() <= LONGEST_PROBLEM, "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
    let each = load_each(&paths, &options);
    let jobs = match load(&paths, &options) {
        Ok(jobs) => jobs,
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(!checked.problems.is_empty(), "{problems}");
            assert!(!each.problems.is_empty());
            return;
        }
    };
    assert!(each.problems.is_empty());
    for job in &jobs {
        assert!(!job.name.is_empty() && !job.dataset.is_empty());
        assert!(job.backfill.is_some() || job.poll.is_some());
        assert!(!job.storable_text().contains("canary"));
        if let Some(backfill) = &job.backfill {
            let (from, to) = backfill.resolve(now());
            assert!(from < to, "{from} {to}");
        }
        assert!(!format!("{job:?}").contains("canary"));
    }
    if checked.problems.is_empty() {
        let names = checked.files.iter().filter_map(|file| match &file.content {
            Content::Job(Some(outline)) => Some(&outline.name),
            _ => None,
        });
        assert!(
            jobs.iter()
                .all(|job| names.clone().any(|name| *name == job.name))
        );
    }
}

/// A job file.
pub fn job(input: &[u8]) {
    in_folder(input, SOURCES.as_bytes(), agree);
}

/// A `sources.toml`.
pub fn sources(input: &[u8]) {
    in_folder(JOB.as_bytes(), input, agree);
}
