//! A parsed TOML file with the place of every key: what the checks of its structure walk over and prune.
//!
//! Parsing recovers from errors where it can, so that several are reported at once. What the keys mean is left to others.

use std::ops::Range;
use std::path::Path;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::Datetime;

use super::diagnostics::{Diagnostic, KeyPath, Lines, Positions};
use super::env;
use super::reader::Reader;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub span: Range<usize>,
    pub value: Value,
}

/// A TOML value. Numbers that do not fit are `None`.
#[derive(Debug, Clone)]
pub(super) enum Value {
    String {
        text: String,
        /// Whether what it will say depends on the environment.
        has_reference: bool,
    },
    Integer(Option<i64>),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    pub node: Node,
}

/// What a file holds, as far as it could be read.
#[derive(Debug)]
pub(super) struct Parsed {
    pub root: Node,
    pub positions: Positions,
    pub errors: Vec<Diagnostic>,
    /// Whether the tree is only half the truth, so that what else seems wrong may be a consequence.
    pub is_broken: bool,
}

/// Parses `text`, which is what `file` holds.
pub(super) fn parse(file: &Path, text: &str) -> Parsed {
    let lines = Lines::new(file, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let root = table_node(&table);
    let mut positions = Positions::default();
    collect_positions(&root, &KeyPath::root(), &lines, &mut positions);
    let mut is_broken = false;
    let errors = errors
        .iter()
        .map(|error| {
            let span = error.span().unwrap_or_default();
            let position = lines.position(span.start);
            if error.message().starts_with("string values must be quoted") {
                // The parser goes on with the text as if it had its quotes. The text is not shown: it may be a secret.
                return if span.is_empty() {
                    is_broken = true;
                    Diagnostic::at(&position, "a key without a value")
                        .fix("give it one, or remove the key")
                } else {
                    Diagnostic::at(&position, "a value without quotes")
                        .fix("write strings, durations too, as \"…\"")
                };
            }
            if error.message() == "duplicate key" {
                let key = text.get(span).unwrap_or_default();
                return Diagnostic::at(&position, format!("`{key}` is there twice"))
                    .fix("keep one of them");
            }
            is_broken = true;
            Diagnostic::at(&position, format!("not valid TOML: {}", error.message()))
        })
        .collect();
    Parsed {
        root,
        positions,
        errors,
        is_broken,
    }
}

fn table_node(table: &Spanned<DeTable<'_>>) -> Node {
    Node {
        span: table.span(),
        value: table_value(table.get_ref()),
    }
}

fn table_value(table: &DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            key_span: key.span(),
            node: node(value),
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    Value::Table(entries)
}

fn node(value: &Spanned<DeValue<'_>>) -> Node {
    Node {
        span: value.span(),
        value: match value.get_ref() {
            DeValue::String(text) => Value::string(text.to_string()),
            DeValue::Integer(integer) => {
                Value::Integer(i64::from_str_radix(integer.as_str(), integer.radix()).ok())
            }
            DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::INFINITY)),
            DeValue::Boolean(boolean) => Value::Boolean(*boolean),
            DeValue::Datetime(datetime) => Value::Datetime(datetime_text(*datetime)),
            DeValue::Array(array) => Value::Array(array.iter().map(node).collect()),
            DeValue::Table(table) => table_value(table),
        },
    }
}

/// A date and time as RFC 3339 writes it: TOML 1.1 lets the seconds be left out.
fn datetime_text(mut datetime: Datetime) -> String {
    if let Some(time) = &mut datetime.time {
        time.second.get_or_insert(0);
    }
    datetime.to_string()
}

fn collect_positions(node: &Node, path: &KeyPath, lines: &Lines<'_>, positions: &mut Positions) {
    match &node.value {
        Value::Table(entries) => {
            for entry in entries {
                let path = path.child(&entry.key);
                positions.insert(
                    lines,
                    path.clone(),
                    entry.key_span.clone(),
                    &entry.node.span,
                );
                collect_positions(&entry.node, &path, lines, positions);
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                let path = path.element(index);
                positions.insert(lines, path.clone(), element.span.clone(), &element.span);
                collect_positions(element, &path, lines, positions);
            }
        }
        _ => {}
    }
}

impl Value {
    /// A string as it is written.
    pub(super) fn string(text: String) -> Self {
        let has_reference = env::has_reference(&text);
        Self::String {
            text,
            has_reference,
        }
    }

    /// Its kind, with an article, as messages name it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::String { .. } => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::Datetime(_) => "a date or time",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }

    /// The value of a simple kind, as it would be written without quotes; `None` for arrays and tables.
    pub(super) fn shown(&self) -> Option<String> {
        match self {
            Self::String { text, .. } | Self::Datetime(text) => Some(text.clone()),
            Self::Integer(integer) => integer.map(|integer| integer.to_string()),
            Self::Float(float) => Some(float.to_string()),
            Self::Boolean(boolean) => Some(boolean.to_string()),
            Self::Array(_) | Self::Table(_) => None,
        }
    }
}

impl Node {
    /// The entries of a table; none for anything else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    /// The value of the key `key` of a table.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node)
    }

    /// What stands at `path` in the tables below.
    pub(super) fn at(&self, path: &[String]) -> Option<&Self> {
        match path {
            [] => Some(self),
            [first, rest @ ..] => self.get(first)?.at(rest),
        }
    }

    /// Expands the strings here and below, as `reader` says, except what stands below the key `except`. Those that are wrong or
    /// not known are taken out; their paths are returned.
    pub(super) fn expand(
        &mut self,
        path: &KeyPath,
        except: &KeyPath,
        reader: &mut Reader<'_>,
    ) -> Vec<KeyPath> {
        let mut unknown = Vec::new();
        if path == except && matches!(self.value, Value::Table(_)) {
            return unknown;
        }
        let mut keep = |node: &mut Self, path: &KeyPath, owner: &KeyPath| {
            if let Value::String { text, .. } = &node.value {
                let Some(expanded) = reader.text(path, text) else {
                    unknown.push(owner.clone());
                    return false;
                };
                node.value = Value::String {
                    text: expanded,
                    has_reference: false,
                };
            } else {
                unknown.extend(node.expand(path, except, reader));
            }
            true
        };
        match &mut self.value {
            Value::Table(entries) => entries.retain_mut(|entry| {
                let path = path.child(&entry.key);
                keep(&mut entry.node, &path, &path)
            }),
            Value::Array(elements) => {
                let mut index = 0;
                elements.retain_mut(|element| {
                    index += 1;
                    keep(element, &path.element(index - 1), path)
                });
            }
            _ => {}
        }
        unknown
    }

    /// The same as JSON, from which the literal types are read: dates become strings.
    pub(super) fn to_json(&self) -> Json {
        match &self.value {
            Value::String { text, .. } | Value::Datetime(text) => Json::from(text.as_str()),
            Value::Integer(integer) => Json::from(*integer),
            Value::Float(float) => Json::from(*float),
            Value::Boolean(boolean) => Json::from(*boolean),
            Value::Array(elements) => elements.iter().map(Self::to_json).collect(),
            Value::Table(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.node.to_json()))
                .collect(),
        }
    }
}
