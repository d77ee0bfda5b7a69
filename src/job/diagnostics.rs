//! What is wrong with a job file, said so that it can be put right in one go.
//!
//! The checks report [`Problem`]s: which key, what is wrong, what to do. Here they get their place in the file and become
//! [`Diagnostic`]s, which print as `file:line:column: message; fix`. Nothing here knows what a job is.
//!
//! A message never holds a secret: whoever words one leaves out the values of the keys that `super::secrets` names.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The path of a key in a TOML file, such as `backfill.window`; empty for the file itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPath(Vec<String>);

impl KeyPath {
    /// The file itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// The path of the key `key` in this table.
    pub fn child(&self, key: &str) -> Self {
        let mut segments = self.0.clone();
        segments.push(key.to_owned());
        Self(segments)
    }

    /// The path of the element `index` (from 0) of this array.
    pub fn element(&self, index: usize) -> Self {
        let mut segments = self.0.clone();
        let last = segments.pop().unwrap_or_default();
        segments.push(format!("{last}[{index}]"));
        Self(segments)
    }

    /// The table this key stands in; `None` for the file itself.
    pub fn table(&self) -> Option<Self> {
        let (_, table) = self.0.split_last()?;
        Some(Self(table.to_vec()))
    }

    /// The keys on the way, outermost first.
    pub fn segments(&self) -> &[String] {
        &self.0
    }

    /// The key itself, without its table; empty for the file itself.
    pub fn leaf(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// The key as messages name it: `` `window` in [backfill] ``.
    pub fn subject(&self) -> String {
        match self.table() {
            Some(table) if !table.0.is_empty() => format!("`{}` in [{table}]", self.leaf()),
            _ => format!("`{}`", self.leaf()),
        }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            f.write_str(segment)?;
        }
        Ok(())
    }
}

/// A place in a file. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Position {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Which half of `key = value` a problem points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The key: it should not be there, or not together with another.
    Key,
    /// The value: it is not a possible one.
    Value,
}

/// Something wrong with a key, not yet placed in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The keys concerned. Of several that do not go together the one that comes last in the file is pointed at.
    pub keys: Vec<KeyPath>,
    /// Key or value.
    pub at: At,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Problem {
    /// The value of `key` is impossible; `what` continues the sentence that the key begins: `must be …`.
    pub fn value(key: &KeyPath, what: impl fmt::Display) -> Self {
        Self {
            keys: vec![key.clone()],
            at: At::Value,
            message: format!("{} {what}", key.subject()),
            fix: None,
        }
    }

    /// The presence or absence of `key` is wrong; `message` is the whole sentence.
    pub fn key(key: &KeyPath, message: impl Into<String>) -> Self {
        Self {
            keys: vec![key.clone()],
            at: At::Key,
            message: message.into(),
            fix: None,
        }
    }

    /// `first` and `second` do not go together; `message` is the whole sentence.
    pub fn conflict(first: &KeyPath, second: &KeyPath, message: impl Into<String>) -> Self {
        Self {
            keys: vec![first.clone(), second.clone()],
            at: At::Key,
            message: message.into(),
            fix: None,
        }
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.fix {
            Some(fix) => write!(f, "; {fix}"),
            None => Ok(()),
        }
    }
}

/// One thing wrong with a file, at its place.
///
/// Displays as `file:line:column: message; fix`; serializes with the same parts as fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file or folder, as it was named.
    pub file: PathBuf,
    /// The line, from 1; `None` when the file as a whole is meant.
    pub line: Option<usize>,
    /// The column, from 1, in characters.
    pub column: Option<usize>,
    /// The key, such as `backfill.window`.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Diagnostic {
    /// Something wrong with `file` as a whole.
    pub fn file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            column: None,
            key: None,
            message: message.into(),
            fix: None,
        }
    }

    /// Something wrong at `position`.
    pub fn at(position: &Position, message: impl Into<String>) -> Self {
        Self {
            line: Some(position.line),
            column: Some(position.column),
            ..Self::file(&position.file, message)
        }
    }

    /// The same, naming the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.message)?;
        match &self.fix {
            Some(fix) => write!(f, "; {fix}"),
            None => Ok(()),
        }
    }
}

/// Everything wrong with a set of job files: never empty when it is returned as an error.
///
/// Displays one diagnostic a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Adds `diagnostic`, unless the very same is there already (two jobs may share a faulty source).
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if !self.0.contains(&diagnostic) {
            self.0.push(diagnostic);
        }
    }

    /// Adds the others after these.
    pub fn append(&mut self, others: Self) {
        for diagnostic in others.0 {
            self.push(diagnostic);
        }
    }

    /// Adds the problems of one file in the order of their places.
    pub fn extend_sorted(&mut self, mut diagnostics: Vec<Diagnostic>) {
        diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        self.append(Self(diagnostics));
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One after the other, file by file, in the order of the files.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Where the lines of a text begin, to turn byte offsets into lines and columns.
#[derive(Debug)]
pub struct Lines<'a> {
    file: &'a Path,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// The lines of `text`, which is what `file` holds.
    pub fn new(file: &'a Path, text: &'a str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(offset, _)| offset + 1))
            .collect();
        Self { file, text, starts }
    }

    /// The place of the byte at `offset`; past the end, the place just after the last character.
    pub fn position(&self, offset: usize) -> Position {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        Position {
            file: self.file.to_owned(),
            line,
            column: self.text[start..offset].chars().count() + 1,
        }
    }
}

/// Where the keys of a file stand, and their values.
#[derive(Debug, Clone, Default)]
pub struct Positions {
    places: BTreeMap<KeyPath, Place>,
}

#[derive(Debug, Clone)]
struct Place {
    key: Position,
    value: Position,
}

impl Positions {
    /// Remembers the places of `path` and its value.
    pub fn insert(
        &mut self,
        lines: &Lines<'_>,
        path: KeyPath,
        key: Range<usize>,
        value: &Range<usize>,
    ) {
        let place = Place {
            key: lines.position(key.start),
            value: lines.position(value.start),
        };
        self.places.insert(path, place);
    }

    /// Where the value of the key `path`, such as `select.query`, begins.
    pub fn value(&self, path: &str) -> Option<&Position> {
        self.places
            .iter()
            .find(|(key, _)| key.to_string() == path)
            .map(|(_, place)| &place.value)
    }

    /// Takes over what stands below `from` in `other`, as if it stood below `to` here.
    pub fn adopt(&mut self, to: &KeyPath, other: &Self, from: &KeyPath) {
        let depth = from.0.len();
        for (path, place) in &other.places {
            if path.0.len() > depth && path.0.starts_with(&from.0) {
                let mut moved = to.0.clone();
                moved.extend_from_slice(&path.0[depth..]);
                self.places.insert(KeyPath(moved), place.clone());
            }
        }
    }

    /// Puts `problem` in its place: of the keys concerned the one that comes last in the file; for a key that is not
    /// there, the table it is missing from; else the beginning of `file`.
    pub fn place(&self, file: &Path, problem: Problem) -> Diagnostic {
        let written = problem
            .keys
            .iter()
            .filter_map(|key| self.places.get(key).map(|place| (key, place)))
            .max_by_key(|(_, place)| (place.key.line, place.key.column));
        let key = written.map_or_else(|| problem.keys.first(), |(key, _)| Some(key));
        let position = match written {
            Some((_, place)) if problem.at == At::Value => place.value.clone(),
            Some((_, place)) => place.key.clone(),
            None => self.nearest_table(file, key),
        };
        let diagnostic = Diagnostic {
            fix: problem.fix,
            ..Diagnostic::at(&position, problem.message)
        };
        match key {
            Some(key) if !key.0.is_empty() => diagnostic.key(key.to_string()),
            _ => diagnostic,
        }
    }

    fn nearest_table(&self, file: &Path, key: Option<&KeyPath>) -> Position {
        let mut table = key.and_then(KeyPath::table);
        while let Some(path) = table {
            if let Some(place) = self.places.get(&path) {
                return place.key.clone();
            }
            table = path.table();
        }
        Position {
            file: file.to_owned(),
            line: 1,
            column: 1,
        }
    }
}

/// `text` in backticks, on one line and short enough to read.
pub fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).flat_map(printable).collect();
    if text.chars().count() > LONGEST {
        shown.push('…');
    }
    format!("`{shown}`")
}

fn printable(character: char) -> Vec<char> {
    if character.is_control() {
        character.escape_debug().collect()
    } else {
        vec![character]
    }
}

/// The word among `candidates` that `word` was probably meant to be.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word, &plain(candidate)),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a`, `a or b`, `a, b or c`.
pub fn alternatives(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let text = "a = 1\nüß = \"x\"\r\nend";
        let lines = Lines::new(Path::new("f.toml"), text);
        let offset = text
            .find('=')
            .and_then(|first| text[first + 1..].find('=').map(|n| n + first + 1));
        assert_eq!(lines.position(offset.unwrap()).to_string(), "f.toml:2:4");
        assert_eq!(lines.position(text.len() + 9).to_string(), "f.toml:3:4");
        assert_eq!(lines.position(0).to_string(), "f.toml:1:1");
    }

    #[test]
    fn values_are_shown_on_one_short_line() {
        assert_eq!(quoted("a\nb\u{1b}"), "`a\\nb\\u{1b}`");
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), 83);
    }

    #[test]
    fn suggestions_are_near_or_none() {
        let keys = ["lookback", "lookback_max", "every"];
        assert_eq!(closest("lookbak", keys), Some("lookback"));
        assert_eq!(closest("Lookback-Max", keys), Some("lookback_max"));
        assert_eq!(closest("evrey", keys), Some("every"));
        assert_eq!(closest("colour", keys), None);
    }
}
