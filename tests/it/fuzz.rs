//! The inputs that fuzzing begins with, and those with which it once found something: each is given to every fuzz target.
//!
//! libFuzzer itself makes up inputs for hours (`just fuzz`); here nothing is made up.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

#[expect(
    clippy::expect_used,
    reason = "a body that cannot go on has found something"
)]
#[path = "../fuzz/src/lib.rs"]
mod bodies;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder; none if there is no such folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Gives a file to a target, and says which one it was that did not get through.
fn give(target: &str, file: &Path, input: &[u8]) {
    let given = std::panic::catch_unwind(|| bodies::run(target, input));
    assert!(given.is_ok(), "{target}: {}", file.display());
}

#[test]
fn recordings_and_examples_are_taken_by_every_target() {
    let folders = [
        "tests/fixtures/tempo",
        "tests/fuzz/seeds",
        "jobs",
        "contrib",
    ];
    let mut files: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| files_below(&root().join(folder)))
        .collect();
    // Of the recorded versions many answers are the same.
    let mut known = BTreeSet::new();
    files.retain(|file| known.insert(fs::read(file).unwrap()));
    assert!(files.len() > 60, "{}", files.len());
    std::thread::scope(|scope| {
        for (target, _) in bodies::TARGETS {
            let files = &files;
            scope.spawn(move || {
                for file in files {
                    give(target, file, &fs::read(file).unwrap());
                }
            });
        }
    });
}

#[test]
fn what_was_found_once_is_not_found_again() {
    let targets: Vec<&str> = bodies::TARGETS.iter().map(|(name, _)| *name).collect();
    for file in files_below(&root().join("tests/fuzz/regressions")) {
        let folder = file.parent().and_then(Path::file_name).unwrap();
        let target = folder.to_str().unwrap();
        assert!(targets.contains(&target), "{}", file.display());
        give(target, &file, &fs::read(&file).unwrap());
    }
}

#[test]
fn every_target_has_a_program() {
    let manifest = fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let named = manifest["bin"].as_array().unwrap().iter();
    let named: BTreeSet<&str> = named.map(|bin| bin["name"].as_str().unwrap()).collect();
    let known: BTreeSet<&str> = bodies::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(named, known);
}
