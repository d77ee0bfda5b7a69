//! `${VAR}`, `${VAR:-default}` and `$${`: what the strings of job files take from the environment.
//!
//! Expansion happens after parsing, inside strings only, so that a value can never change the structure of a file.
//! `${VAR:-default}` gives the default where the variable is unset or empty, as in a shell. Braces inside a default pair
//! up, so that a query can be one: `${QUERY:-{ span.kind = server }}`. `$${` stands for `${` itself; a `$` before anything
//! else is just a `$` (regular expressions are full of them). Which strings are expanded, and when, is left to others.

use std::collections::BTreeMap;

/// What this program is let in with and others at its own door: whoever writes a job file says where its values are sent.
const OWN: [&str; 3] = ["DATABASE_URL", "PGPASSWORD", "TEMPO_HARVEST_LISTEN_TOKEN"];

/// Where variables come from.
pub trait Env {
    /// The value of the variable `name`; `None` when it is unset.
    fn var(&self, name: &str) -> Option<String>;
}

/// The environment of this process. A value that is not UTF-8 counts as unset.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl Env for BTreeMap<String, String> {
    fn var(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }
}

/// Why a string cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// The variable is not set, and no default is given.
    #[error("needs the environment variable `{name}`, which is not set")]
    Unset {
        /// The variable.
        name: String,
    },
    /// A `${` without its `}`.
    #[error("has a `${{` without its `}}`")]
    Unclosed,
    /// What stands between the braces is not a variable.
    #[error("refers to `${{{reference}}}`, which is not a variable's name")]
    BadName {
        /// What stands there.
        reference: String,
    },
    /// A secret of this program's own.
    #[error("refers to `{name}`, which is a secret of tempo-harvest's own and goes to no Tempo")]
    Own {
        /// The variable.
        name: String,
    },
    /// A reference inside another one's default.
    #[error("has a `${{…}}` inside the default of `{name}`")]
    Nested {
        /// The variable whose default it is.
        name: String,
    },
}

impl EnvError {
    /// What to do about it.
    pub fn fix(&self) -> String {
        match self {
            Self::Unset { name } => format!("set it, or give a default: `${{{name}:-…}}`"),
            Self::Unclosed => "close it, or write `$${` for a literal `${`".to_owned(),
            Self::BadName { .. } => {
                "write `${VAR}` or `${VAR:-default}`, with letters, digits and `_`, or `$${` for a literal `${`".to_owned()
            }
            Self::Own { .. } => "use a variable of another name".to_owned(),
            Self::Nested { .. } => "a default is taken as it stands: references cannot be nested".to_owned(),
        }
    }
}

/// A piece of a string: text, or a reference to a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Reference {
        name: &'a str,
        default: Option<&'a str>,
    },
}

/// Takes `text` apart.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, EnvError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            pieces.push(Piece::Text(&rest[..at - 1]));
            pieces.push(Piece::Text("${"));
            rest = &rest[at + 2..];
            continue;
        }
        pieces.push(Piece::Text(&rest[..at]));
        let inside = &rest[at + 2..];
        let end = closing_brace(inside).ok_or(EnvError::Unclosed)?;
        pieces.push(reference(&inside[..end])?);
        rest = &inside[end + 1..];
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

/// Where the brace closes that was open before `text`.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn reference(inside: &str) -> Result<Piece<'_>, EnvError> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        // The default may be a secret: only what stands in the name's place is shown.
        return Err(EnvError::BadName {
            reference: name.to_owned(),
        });
    }
    if OWN.contains(&name) {
        return Err(EnvError::Own {
            name: name.to_owned(),
        });
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(EnvError::Nested {
            name: name.to_owned(),
        });
    }
    Ok(Piece::Reference { name, default })
}

/// `text` with its references replaced by what `env` has.
///
/// # Errors
/// A variable that is unset and has no default, or a reference that is not well formed.
pub fn expand(text: &str, env: &dyn Env) -> Result<String, EnvError> {
    let mut expanded = String::with_capacity(text.len());
    for piece in pieces(text)? {
        match piece {
            Piece::Text(text) => expanded.push_str(text),
            Piece::Reference { name, default } => match (env.var(name), default) {
                (Some(value), None) => expanded.push_str(&value),
                (Some(value), Some(_)) if !value.is_empty() => expanded.push_str(&value),
                (_, Some(default)) => expanded.push_str(default),
                (None, None) => {
                    return Err(EnvError::Unset {
                        name: name.to_owned(),
                    });
                }
            },
        }
    }
    Ok(expanded)
}

/// `text` where it can be known without an environment: `None` when it refers to a variable.
///
/// # Errors
/// A reference that is not well formed.
pub fn without_references(text: &str) -> Result<Option<String>, EnvError> {
    let mut known = String::with_capacity(text.len());
    for piece in pieces(text)? {
        match piece {
            Piece::Text(text) => known.push_str(text),
            Piece::Reference { .. } => return Ok(None),
        }
    }
    Ok(Some(known))
}

/// Whether `text` takes something from the environment, or means to and fails.
pub fn has_reference(text: &str) -> bool {
    !matches!(without_references(text), Ok(Some(_)))
}

/// Whether `text` is wholly or by default literal: it has no reference, or one with a default that is not empty.
///
/// A secret written so stands in the file itself.
pub fn is_literal(text: &str) -> bool {
    let Ok(pieces) = pieces(text) else {
        return true;
    };
    let mut defaults = pieces.iter().filter_map(|piece| match piece {
        Piece::Reference { default, .. } => Some(default.unwrap_or_default()),
        Piece::Text(_) => None,
    });
    match defaults.next() {
        None => true,
        Some(first) => !first.is_empty() || defaults.any(|default| !default.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> BTreeMap<String, String> {
        [("A", "alpha"), ("EMPTY", ""), ("SNEAKY", "${A}")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn expands() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${A}", "alpha"),
            ("x${A}y${A}z", "xalphayalphaz"),
            ("${NONE:-fallback}", "fallback"),
            ("${EMPTY:-fallback}", "fallback"),
            ("[${EMPTY}]", "[]"),
            ("${A:-fallback}", "alpha"),
            ("${NONE:-{ x = 1 }}", "{ x = 1 }"),
            ("${A:-{ x = 1 }}", "alpha"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("a$ $b foo$", "a$ $b foo$"),
            ("${SNEAKY}", "${A}"),
            ("${NONE:-}", ""),
        ] {
            assert_eq!(expand(text, &env()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses() {
        for (text, message) in [
            (
                "${NONE}",
                "needs the environment variable `NONE`, which is not set",
            ),
            ("a ${NONE", "has a `${` without its `}`"),
            ("${}", "refers to `${}`, which is not a variable's name"),
            ("${1A}", "refers to `${1A}`, which is not a variable's name"),
            (
                "${A-b}",
                "refers to `${A-b}`, which is not a variable's name",
            ),
            (
                "x${DATABASE_URL:-y}",
                "refers to `DATABASE_URL`, which is a secret of tempo-harvest's own and goes to no Tempo",
            ),
            ("${X:-${A}}", "has a `${…}` inside the default of `X`"),
        ] {
            let error = expand(text, &env()).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(has_reference(text));
        }
    }

    #[test]
    fn knows_what_is_literal() {
        for text in ["secret", "$${A}", "${A:-secret}", "${A}${B:-secret}", "${"] {
            assert!(is_literal(text), "{text}");
        }
        for text in ["${A}", "Bearer ${A}", "${A:-}"] {
            assert!(!is_literal(text), "{text}");
        }
        assert_eq!(without_references("$${x}"), Ok(Some("${x}".to_owned())));
        assert_eq!(without_references("${x:-1}"), Ok(None));
    }
}
