//! Reads single values: expands them, holds them against their bounds, and collects what is wrong.
//!
//! Which bounds belong to which key is left to [`super::validate`] and [`super::source`].

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::diagnostics::{KeyPath, Problem, quoted};
use super::duration;
use super::env::{self, Env, EnvError};
use super::secrets;
use super::spec::DurationText;

/// What becomes of `${VAR}` in the strings that are read.
#[derive(Clone, Copy)]
pub(super) enum Expansion<'a> {
    /// It is replaced from this environment.
    With(&'a dyn Env),
    /// There is no environment: a string with a reference is not known, and no file is looked at.
    Without,
    /// That has been done before.
    Done,
}

/// Reads the values of one table after the other.
pub(super) struct Reader<'a> {
    expansion: Expansion<'a>,
    unusable: &'a BTreeSet<KeyPath>,
    pub problems: Vec<Problem>,
}

/// Which durations are possible.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    least: Duration,
    most: Duration,
    is_whole_seconds: bool,
    why: Option<&'static str>,
}

impl Bounds {
    /// Whole seconds, from `least_s` to `most_s`.
    pub(super) const fn seconds(least_s: u64, most_s: u64) -> Self {
        Self {
            is_whole_seconds: true,
            ..Self::between(Duration::from_secs(least_s), Duration::from_secs(most_s))
        }
    }

    /// From `least` to `most`.
    pub(super) const fn between(least: Duration, most: Duration) -> Self {
        Self {
            least,
            most,
            is_whole_seconds: false,
            why: None,
        }
    }

    /// The same, with what is said to somebody who goes beyond them.
    pub(super) const fn because(self, why: &'static str) -> Self {
        Self {
            why: Some(why),
            ..self
        }
    }
}

/// For the JSON Schema, which knows no durations: as people write them.
impl Serialize for Bounds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bounds = serializer.serialize_struct("Bounds", 3)?;
        bounds.serialize_field("least", &duration::format(self.least))?;
        bounds.serialize_field("most", &duration::format(self.most))?;
        bounds.serialize_field("whole_seconds", &self.is_whole_seconds)?;
        bounds.end()
    }
}

impl<'a> Reader<'a> {
    /// Reads values as `expansion` says. Of the keys in `unusable`, and what is below them, nothing more is said; whoever
    /// reads a table sees to it that nothing is made of one with such keys.
    pub(super) fn new(expansion: Expansion<'a>, unusable: &'a BTreeSet<KeyPath>) -> Self {
        Self {
            expansion,
            unusable,
            problems: Vec::new(),
        }
    }

    /// Whether files may be looked at.
    pub(super) fn reads_files(&self) -> bool {
        !matches!(self.expansion, Expansion::Without)
    }

    /// Whether the value of `key` is not known, though something was written.
    pub(super) fn is_unusable(&self, key: &KeyPath) -> bool {
        let mut path = Some(key.clone());
        while let Some(key) = path {
            if self.unusable.contains(&key) {
                return true;
            }
            path = key.table();
        }
        false
    }

    /// Whether the value of `table`, or of any key below it, is not known.
    pub(super) fn has_unusable(&self, table: &KeyPath) -> bool {
        self.is_unusable(table)
            || self
                .unusable
                .iter()
                .any(|key| key.segments().starts_with(table.segments()))
    }

    /// Collects `problem`.
    pub(super) fn refuse(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// The value that was read from `key`; an error is the end of a sentence that the key begins, and a fix.
    pub(super) fn accept<T>(
        &mut self,
        key: &KeyPath,
        read: Result<T, (String, String)>,
    ) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err((what, fix)) => {
                self.refuse(Problem::value(key, what).fix(fix));
                None
            }
        }
    }

    /// What `text` expands to; `None` when that is wrong or not known.
    pub(super) fn text(&mut self, key: &KeyPath, text: &str) -> Option<String> {
        if self.is_unusable(key) {
            return None;
        }
        let expanded = match self.expansion {
            Expansion::With(env) => env::expand(text, env).map(Some),
            Expansion::Without => env::without_references(text),
            Expansion::Done => Ok(Some(text.to_owned())),
        };
        expanded.unwrap_or_else(|error| {
            let fix = match error {
                // A default would put the secret into the file.
                EnvError::Unset { .. } if secrets::is_secret_key(key) => "set it".to_owned(),
                _ => error.fix(),
            };
            self.refuse(Problem::value(key, error).fix(fix));
            None
        })
    }

    /// The duration of `key`, or `default` when it is not written.
    pub(super) fn duration(
        &mut self,
        key: &KeyPath,
        written: Option<&DurationText>,
        default: Duration,
        bounds: Bounds,
    ) -> Option<Duration> {
        self.optional_duration(key, written, bounds)
            .map(|duration| duration.unwrap_or(default))
    }

    /// The duration of `key`; `Some(None)` when it is not there.
    pub(super) fn optional_duration(
        &mut self,
        key: &KeyPath,
        written: Option<&DurationText>,
        bounds: Bounds,
    ) -> Option<Option<Duration>> {
        let Some(DurationText(text)) = written else {
            return Some(None);
        };
        let text = self.text(key, text)?;
        let duration = match duration::parse(&text) {
            Ok(duration) => duration,
            Err(error) => {
                self.refuse(Problem::value(key, error));
                return None;
            }
        };
        let Bounds { least, most, .. } = bounds;
        if duration < least || duration > most {
            let (least, most) = (duration::format(least), duration::format(most));
            let what = format!("must be from {least} to {most}, not {}", quoted(&text));
            let problem = Problem::value(key, what);
            self.refuse(match bounds.why {
                Some(why) => problem.fix(why),
                None => problem,
            });
            return None;
        }
        if bounds.is_whole_seconds && duration.subsec_nanos() != 0 {
            self.refuse(Problem::value(
                key,
                format!("must be whole seconds, not {}", quoted(&text)),
            ));
            return None;
        }
        Some(Some(duration))
    }

    /// The number of `key`, or `default` when it is not written.
    pub(super) fn number<T: PartialOrd + Display + Copy>(
        &mut self,
        key: &KeyPath,
        written: Option<T>,
        default: T,
        (least, most): (T, T),
    ) -> Option<T> {
        let number = written.unwrap_or(default);
        if number >= least && number <= most {
            return Some(number);
        }
        self.refuse(Problem::value(
            key,
            format!(
                "must be from {least} to {most}, not {}",
                quoted(&number.to_string())
            ),
        ));
        None
    }
}
