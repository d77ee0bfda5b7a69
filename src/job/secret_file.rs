//! The files that a source names: certificates, which must exist, and secrets, which are read.
//!
//! They are looked at where the source is used, never where there is no environment.

use std::path::PathBuf;

use super::diagnostics::{KeyPath, Problem, quoted};
use super::files::{io_reason, read_limited};
use super::reader::Reader;

/// The largest file that is read for a secret, in bytes.
const LARGEST_SECRET_FILE: u64 = 64 * 1024;

/// The path of a file that exists.
pub(super) fn read_path(key: &KeyPath, written: &str, reader: &mut Reader<'_>) -> Option<PathBuf> {
    let text = reader.text(key, written)?;
    let problem = |what: String, fix: &str| Problem::value(key, what).fix(fix);
    let path = PathBuf::from(&text);
    if text.starts_with('~') {
        let what = format!("begins with `~`, which is not expanded: {}", quoted(&text));
        reader.refuse(problem(what, "write `${HOME}` instead"));
        return None;
    }
    if path.is_relative() {
        // What it expands to is not shown: it may be the secret itself, where its file was asked for.
        let what = format!("is not an absolute path: {}", quoted(written));
        reader.refuse(problem(
            what,
            "a path that begins with a reference must expand to an absolute one",
        ));
        return None;
    }
    if !reader.reads_files() {
        return None;
    }
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => {
            reader.refuse(problem(
                format!("is a folder, not a file: {}", quoted(&text)),
                "name the file",
            ));
            None
        }
        // A pipe would be waited for, and can be read only once.
        Ok(metadata) if !metadata.is_file() => {
            reader.refuse(problem(
                format!("is not a regular file: {}", quoted(&text)),
                "name one",
            ));
            None
        }
        Ok(_) => Some(path),
        Err(error) => {
            reader.refuse(problem(
                format!("cannot be read: {}: {}", quoted(&text), io_reason(&error)),
                "create the file, or correct the path",
            ));
            None
        }
    }
}

/// The secret in a file, without the line end after it.
pub(super) fn read_secret_file(
    key: &KeyPath,
    written: &str,
    reader: &mut Reader<'_>,
) -> Option<String> {
    let path = read_path(key, written, reader)?;
    let shown = quoted(&path.to_string_lossy());
    let content = match read_limited(&path, LARGEST_SECRET_FILE) {
        Ok(content) => content,
        Err(error) => {
            let what = format!("cannot be read: {shown}: {}", io_reason(&error));
            reader.refuse(Problem::value(key, what).fix("let this user read the file"));
            return None;
        }
    };
    let refusal = match content.map(String::from_utf8) {
        None => "is too large for a secret",
        Some(Err(_)) => "is not text",
        Some(Ok(text)) if text.trim_end_matches(['\r', '\n']).is_empty() => "is empty",
        Some(Ok(text)) => return Some(text.trim_end_matches(['\r', '\n']).to_owned()),
    };
    let problem = Problem::value(key, format!("names a file that {refusal}: {shown}"));
    reader.refuse(problem.fix("put the secret in it, and nothing else"));
    None
}
