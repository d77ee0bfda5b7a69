//! Reads job files from disk, and says why one cannot be.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::diagnostics::{Diagnostic, Diagnostics, Lines};

/// The largest job file, in bytes.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Every `*.toml` in `folder` that is not hidden, sorted.
pub(super) fn toml_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.path();
        let is_hidden = file
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && !file.is_dir() && file.extension() == Some(OsStr::new("toml")) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// `file` cannot be read because of `error`.
pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::file(file, format!("cannot be read: {}", io_reason(error)))
}

/// What `file` holds, without a byte order mark.
pub(super) fn read_text(file: &Path) -> Result<String, Diagnostics> {
    let metadata = std::fs::metadata(file).map_err(|error| unreadable(file, &error))?;
    if !metadata.is_file() {
        return Err(Diagnostic::file(file, "is not a regular file").into());
    }
    let bytes = read_limited(file, LARGEST_FILE)
        .map_err(|error| unreadable(file, &error))?
        .ok_or_else(|| Diagnostic::file(file, "is larger than 1 MiB, so it is no job file"))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.trim_start_matches('\u{feff}').to_owned()),
        Err(error) => {
            Err(not_text(file, error.as_bytes(), error.utf8_error().valid_up_to()).into())
        }
    }
}

/// `bytes` are UTF-8 only up to `offset`.
fn not_text(file: &Path, bytes: &[u8], offset: usize) -> Diagnostic {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Diagnostic::file(file, "is UTF-16").fix("save it as UTF-8");
    }
    let before = String::from_utf8_lossy(&bytes[..offset]);
    let position = Lines::new(file, &before).position(offset);
    let message = format!(
        "not text: byte 0x{:02x} at offset {offset} is not UTF-8",
        bytes[offset]
    );
    Diagnostic::at(&position, message).fix("a job file is TOML, in UTF-8")
}

/// What `path` holds; `None` when that is more than `most` bytes.
pub(super) fn read_limited(path: &Path, most: u64) -> std::io::Result<Option<Vec<u8>>> {
    use std::io::Read;
    let mut content = Vec::new();
    let read = std::fs::File::open(path)?
        .take(most + 1)
        .read_to_end(&mut content)?;
    Ok((read as u64 <= most).then_some(content))
}

/// The reason of an I/O error in words, without the system's number.
pub(super) fn io_reason(error: &std::io::Error) -> String {
    let reason = error.to_string();
    match reason.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => reason,
    }
}
