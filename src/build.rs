//! Build script: finds out which commit is built, for `src/version.rs`.
//!
//! In this order: what a packager says in `TEMPO_HARVEST_COMMIT`, what git says of this folder, what `cargo package` noted. Where
//! nobody knows, as in an archive of the sources, the version stands alone. Nothing depends on when or where it is built. A debug build
//! says so instead: looking for the commit would compile everything anew after each.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

const VARIABLE: &str = "TEMPO_HARVEST_COMMIT";
/// Digits of a commit that are shown.
const DIGITS: usize = 9;
/// What the program is made of: a change to these that is not committed makes it `-dirty`.
const INPUTS: [&str; 7] = [
    ".cargo",
    ".sqlx",
    "Cargo.lock",
    "Cargo.toml",
    "migrations",
    "sqlx.toml",
    "src",
];

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=src/build.rs");
    let release = env::var("CARGO_PKG_VERSION").map_err(|error| error.to_string())?;
    let told = env::var(VARIABLE).ok().filter(|told| !told.is_empty());
    let commit = match told {
        Some(told) => checked(&told)?,
        None if env::var("PROFILE").as_deref() == Ok("debug") => "debug".to_owned(),
        None => {
            let folder = Path::new(".");
            for path in watched(folder) {
                println!("cargo::rerun-if-changed={path}");
            }
            from_git(folder)
                .or_else(|| from_package(folder))
                .unwrap_or_default()
        }
    };
    let version = match commit.is_empty() {
        true => release,
        false => format!("{release} ({commit})"),
    };
    println!("cargo::rustc-env={VARIABLE}={commit}");
    println!("cargo::rustc-env=TEMPO_HARVEST_VERSION={version}");
    Ok(())
}

/// What a packager said; a whole commit is cut to what is shown.
pub fn checked(told: &str) -> Result<String, String> {
    if !told
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".+~_-".contains(&byte))
    {
        return Err(format!(
            "{VARIABLE} is `{}`, but may hold letters, digits and . + ~ _ - only",
            told.escape_default()
        ));
    }
    let digits = told
        .bytes()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    Ok(match digits {
        40 | 64 => format!("{}{}", &told[..DIGITS], &told[digits..]),
        _ => told.to_owned(),
    })
}

/// The commit of a working copy, with `-dirty` where it is not exactly that.
pub fn from_git(folder: &Path) -> Option<String> {
    let top = git(folder, &["rev-parse", "--show-toplevel"])?;
    // An archive that was unpacked somewhere in another working copy is no part of that.
    if fs::canonicalize(top).ok()? != fs::canonicalize(folder).ok()? {
        return None;
    }
    let commit = git(folder, &["rev-parse", "--verify", "HEAD"])?;
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(INPUTS);
    let dirty = match git(folder, &status)?.is_empty() {
        true => "",
        false => "-dirty",
    };
    Some(format!("{}{dirty}", commit.get(..DIGITS)?))
}

/// The commit that `cargo package` notes in what it packs.
pub fn from_package(folder: &Path) -> Option<String> {
    let note = fs::read_to_string(folder.join(".cargo_vcs_info.json")).ok()?;
    let note: String = note.split_whitespace().collect();
    let (_, rest) = note.split_once("\"sha1\":\"")?;
    let commit = rest.get(..DIGITS)?;
    let dirty = match note.contains("\"dirty\":true") {
        true => "-dirty",
        false => "",
    };
    commit
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then(|| format!("{commit}{dirty}"))
}

/// What there is of the files that tell when the commit, or what differs from it, may have changed.
pub fn watched(folder: &Path) -> Vec<String> {
    let mut questions = vec!["rev-parse".to_owned()];
    let branch = git(folder, &["symbolic-ref", "--quiet", "HEAD"]);
    let files = ["HEAD", "logs/HEAD", "packed-refs"].map(str::to_owned);
    for file in files.into_iter().chain(branch) {
        questions.extend(["--git-path".to_owned(), file]);
    }
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    let Some(paths) = git(folder, &questions) else {
        return Vec::new();
    };
    paths
        .lines()
        .chain(INPUTS)
        // What does not exist would count as changed each time.
        .filter(|path| folder.join(path).exists())
        .map(str::to_owned)
        .collect()
}

/// What git says; `None` without git, outside a working copy, or in one that git does not trust.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command
        .arg("--no-optional-locks")
        .args(arguments)
        .current_dir(folder);
    // A hook that builds has these set, perhaps for another repository.
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(variable);
    }
    let output = command.output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim_end().to_owned())
}
