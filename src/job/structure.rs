//! Holds a parsed file against the JSON Schema: unknown keys, wrong types, impossible words, missing keys - all of them.
//!
//! It knows nothing of jobs; the schema is made from the literal types ([`super::schema`]), so what is said here cannot
//! drift from what is read. What does not fit is taken out of the tree, so that the rest can be read and validated in the
//! same go; its path is remembered as unusable, so that its absence is not reported again.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::diagnostics::{KeyPath, Problem, alternatives, closest, quoted};
use super::secrets;
use super::tree::{Entry, Node, Value};

/// What the walk over a file found.
#[derive(Debug, Default)]
pub(super) struct Structure {
    pub problems: Vec<Problem>,
    /// Keys whose value is not known, though something was or should have been written: nothing further is to be said of them.
    pub unusable: BTreeSet<KeyPath>,
}

/// Holds `root` against `schema` and takes out of it what does not fit. Required strings that are missing become empty ones.
/// The keys in `unusable` were taken out before, so they are not missing.
pub(super) fn check(schema: &Json, root: &mut Node, unusable: BTreeSet<KeyPath>) -> Structure {
    let mut written = BTreeSet::new();
    collect_paths(root, &KeyPath::root(), &mut written);
    let mut walk = Walk {
        root: schema,
        written,
        found: Structure {
            problems: Vec::new(),
            unusable,
        },
    };
    walk.table(schema, root, &KeyPath::root());
    walk.found
}

struct Walk<'s> {
    root: &'s Json,
    /// The keys of the file, before anything was taken out.
    written: BTreeSet<KeyPath>,
    found: Structure,
}

impl<'s> Walk<'s> {
    /// Checks the value of the key `path`; whether it can be kept.
    fn value(&mut self, schema: &'s Json, node: &mut Node, path: &KeyPath) -> bool {
        let choices = self.choices(schema);
        let fitting: Vec<&Json> = choices
            .iter()
            .copied()
            .filter(|choice| fits(choice, &node.value))
            .collect();
        let Some(first) = fitting.first() else {
            self.refuse_kind(schema, &choices, node, path);
            return false;
        };
        match &mut node.value {
            Value::Table(_) => self.table(first, node, path),
            Value::Array(elements) => {
                if let Some(items) = first.get("items") {
                    let mut index = 0;
                    elements.retain_mut(|element| {
                        let path = path.element(index);
                        index += 1;
                        self.value(items, element, &path)
                    });
                    if elements.len() < index {
                        self.found.unusable.insert(path.clone());
                    }
                }
            }
            Value::String {
                text,
                has_reference,
            } => {
                let words: Vec<&str> = fitting.iter().flat_map(|choice| words(choice)).collect();
                let is_free = fitting.iter().any(|choice| words_of(choice).is_none());
                if !is_free && !*has_reference && !words.contains(&text.as_str()) {
                    self.refuse_word(&choices, text, path);
                    return false;
                }
            }
            Value::Integer(None) => {
                self.refuse(Problem::value(path, "is too large a number"));
                return false;
            }
            Value::Float(number) if !number.is_finite() => {
                self.refuse(Problem::value(
                    path,
                    format!("must be a finite number, not `{number}`"),
                ));
                return false;
            }
            _ => {}
        }
        true
    }

    /// Checks the keys of a table.
    fn table(&mut self, schema: &'s Json, node: &mut Node, path: &KeyPath) {
        let Value::Table(entries) = &mut node.value else {
            return;
        };
        let written: Vec<String> = entries.iter().map(|entry| entry.key.clone()).collect();
        let properties = schema.get("properties").and_then(Json::as_object);
        let others = schema
            .get("additionalProperties")
            .filter(|schema| schema.is_object());
        entries.retain_mut(|entry| {
            let path = path.child(&entry.key);
            let schema = properties
                .and_then(|properties| properties.get(&entry.key))
                .or(others);
            let is_kept = match schema {
                Some(schema) => self.value(schema, &mut entry.node, &path),
                None => {
                    let known = properties
                        .into_iter()
                        .flatten()
                        .map(|(key, _)| key.as_str());
                    let free = known
                        .filter(|key| !written.iter().any(|written| written == key))
                        .collect();
                    self.refuse_key(entry, &path, free);
                    false
                }
            };
            if !is_kept {
                self.found.unusable.insert(path);
            }
            is_kept
        });
        let required = schema
            .get("required")
            .and_then(Json::as_array)
            .into_iter()
            .flatten();
        for key in required.filter_map(Json::as_str) {
            if entries.iter().any(|entry| entry.key == key) {
                continue;
            }
            let path = path.child(key);
            if self.found.unusable.insert(path.clone()) {
                let example = properties.and_then(|properties| example(key, properties.get(key)?));
                let problem = Problem::key(&path, format!("{} is missing", path.subject()));
                self.found.problems.push(match example {
                    Some(example) => problem.fix(format!("add for example `{example}`")),
                    None => problem,
                });
            }
            entries.push(Entry {
                key: key.to_owned(),
                key_span: node.span.clone(),
                node: Node {
                    span: node.span.clone(),
                    value: Value::string(String::new()),
                },
            });
        }
    }

    fn refuse(&mut self, problem: Problem) {
        self.found.problems.push(problem);
    }

    fn refuse_key(&mut self, entry: &Entry, path: &KeyPath, free: Vec<&str>) {
        let table = path.table().unwrap_or_default();
        let is_table = matches!(entry.node.value, Value::Table(_));
        let message = if is_table {
            format!("unknown table [{path}]")
        } else {
            format!("unknown key {}", path.subject())
        };
        let mut problem = Problem::key(path, message);
        let mut homes = Vec::new();
        self.homes(self.root, &KeyPath::root(), path, &mut homes);
        if !homes.is_empty() {
            let names: Vec<String> = homes
                .iter()
                .map(KeyPath::to_string)
                .map(|home| format!("[{home}]"))
                .collect();
            problem = if homes.iter().any(|home| home.segments().is_empty()) {
                problem.fix("it belongs at the top, above the first [table]")
            } else {
                problem.fix(format!("it belongs in {}", alternatives(&names)))
            };
            // Where the key is missing, it was probably meant to be there.
            for home in homes {
                let meant = home.child(&entry.key);
                if !self.written.contains(&meant) {
                    self.found.unusable.insert(meant);
                }
            }
        } else if let Some(meant) = closest(&entry.key, free) {
            let meant = table.child(meant);
            problem = if is_table {
                problem.fix(format!("did you mean [{meant}]?"))
            } else {
                problem.fix(format!("did you mean `{}`?", meant.leaf()))
            };
            self.found.unusable.insert(meant);
        }
        self.refuse(problem);
    }

    /// The tables below `path` in which the last key of `wanted` is known.
    fn homes(&self, schema: &'s Json, path: &KeyPath, wanted: &KeyPath, homes: &mut Vec<KeyPath>) {
        for choice in self.choices(schema) {
            if let Some(properties) = choice.get("properties").and_then(Json::as_object) {
                if properties.contains_key(wanted.leaf()) {
                    homes.push(path.clone());
                }
                for (key, property) in properties {
                    self.homes(property, &path.child(key), wanted, homes);
                }
            }
            // In a table with keys of one's own choice only the one that is being checked can be meant.
            let own = wanted.segments().get(path.segments().len());
            if let (Some(others), Some(own)) = (choice.get("additionalProperties"), own)
                && wanted.segments().starts_with(path.segments())
                && own != wanted.leaf()
            {
                self.homes(others, &path.child(own), wanted, homes);
            }
        }
    }

    fn refuse_kind(&mut self, schema: &Json, choices: &[&Json], node: &Node, path: &KeyPath) {
        let mut expected: Vec<String> = choices.iter().flat_map(|choice| kinds(choice)).collect();
        expected.dedup();
        let mut what = format!(
            "must be {}, not {}",
            alternatives(&expected),
            node.value.kind()
        );
        if let Some(shown) = node.value.shown().filter(|_| !secrets::is_secret_key(path)) {
            what.push_str(&format!(" ({})", quoted(&shown)));
        }
        let problem = Problem::value(path, what);
        let fix = match &node.value {
            Value::String { .. } if choices.iter().any(|choice| is_datetime(choice)) => {
                Some("write it without quotes".to_owned())
            }
            Value::Array(_) if expected == ["a table"] => Some(format!("write [{path}]")),
            _ => {
                example(path.leaf(), schema).map(|example| format!("write for example `{example}`"))
            }
        };
        self.refuse(match fix {
            Some(fix) => problem.fix(fix),
            None => problem,
        });
    }

    fn refuse_word(&mut self, choices: &[&Json], text: &str, path: &KeyPath) {
        let expected: Vec<String> = choices.iter().flat_map(|choice| kinds(choice)).collect();
        let what = format!("must be {}, not {}", alternatives(&expected), quoted(text));
        let problem = Problem::value(path, what);
        let meant = closest(text, choices.iter().flat_map(|choice| words(choice)));
        self.refuse(match meant {
            Some(meant) => problem.fix(format!("did you mean `{meant}`?")),
            None => problem,
        });
    }

    /// The schemas of which one must fit, behind references and `anyOf`.
    fn choices(&self, schema: &'s Json) -> Vec<&'s Json> {
        let reference = schema.get("$ref").and_then(Json::as_str);
        if let Some(target) =
            reference.and_then(|path| self.root.pointer(path.trim_start_matches('#')))
        {
            return self.choices(target);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(choices) = schema.get(key).and_then(Json::as_array) {
                return choices
                    .iter()
                    .flat_map(|choice| self.choices(choice))
                    .collect();
            }
        }
        vec![schema]
    }
}

fn collect_paths(node: &Node, path: &KeyPath, paths: &mut BTreeSet<KeyPath>) {
    for entry in node.entries() {
        let path = path.child(&entry.key);
        collect_paths(&entry.node, &path, paths);
        paths.insert(path);
    }
}

fn is_datetime(schema: &Json) -> bool {
    schema
        .get("format")
        .is_some_and(|format| format == "date-time")
}

fn fits(schema: &Json, value: &Value) -> bool {
    let name = schema
        .get("type")
        .and_then(Json::as_str)
        .unwrap_or_default();
    match value {
        Value::String { .. } => name == "string" && !is_datetime(schema),
        Value::Datetime(_) => name == "string" && is_datetime(schema),
        Value::Integer(_) => name == "integer" || name == "number",
        Value::Float(_) => name == "number",
        Value::Boolean(_) => name == "boolean",
        Value::Array(_) => name == "array",
        Value::Table(_) => name == "object",
    }
}

/// The words that a schema allows; `None` when it allows any.
fn words_of(schema: &Json) -> Option<Vec<&str>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(word), _) => Some(word.as_str().into_iter().collect()),
        (None, Some(Json::Array(words))) => Some(words.iter().filter_map(Json::as_str).collect()),
        _ => None,
    }
}

fn words(schema: &Json) -> Vec<&str> {
    words_of(schema).unwrap_or_default()
}

/// What a schema allows, in words.
fn kinds(schema: &Json) -> Vec<String> {
    if let Some(words) = words_of(schema) {
        return words.iter().map(|word| format!("`{word}`")).collect();
    }
    let kind = match schema
        .get("type")
        .and_then(Json::as_str)
        .unwrap_or_default()
    {
        "string" if is_datetime(schema) => "a date and time with an offset",
        "string" => "a string",
        "integer" => "an integer",
        "number" => "a number",
        "boolean" => "`true` or `false`",
        "array" => "an array",
        _ => "a table",
    };
    vec![kind.to_owned()]
}

/// `key = …` with the schema's own example, or its default.
fn example(key: &str, schema: &Json) -> Option<String> {
    let value = schema
        .pointer("/examples/0")
        .or_else(|| schema.get("default"))?;
    Some(match value {
        Json::String(text) if is_datetime(schema) => format!("{key} = {text}"),
        value => format!("{key} = {value}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::schema::{job_schema, sources_schema};
    use crate::job::tree;
    use std::path::Path;

    /// What is said of `text`, a line a problem.
    fn said(schema: &Json, text: &str) -> String {
        let file = Path::new("f");
        let mut parsed = tree::parse(file, text);
        assert_eq!(parsed.errors, []);
        let found = check(schema, &mut parsed.root, BTreeSet::new());
        let place = |problem| parsed.positions.place(file, problem).to_string();
        found
            .problems
            .into_iter()
            .map(place)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn a_good_file_is_left_alone() {
        let text = "name = \"a\"\nsource = \"b\"\n[backfill]\nfrom = 2026-11-01T00:00:00Z\n";
        assert_eq!(said(&job_schema(), text), "");
    }

    #[test]
    fn unknown_keys() {
        let text = "nam = \"a\"\nsource = { url = \"http://x\", timeout = \"1s\" }\nwindow = \"1h\"\n\
                    [bakfill]\n[backfill]\nevery = \"1s\"\nlookbak = \"1s\"\ndataset = \"x\"\n\
                    [poll]\nlookbak = \"1s\"\nwindow = \"1h\"\ncolour = \"red\"\n";
        insta::assert_snapshot!(said(&job_schema(), text), @r#"
        f:1:1: unknown key `nam`; did you mean `name`?
        f:2:30: unknown key `timeout` in [source]; it belongs in [source.limits]
        f:3:1: unknown key `window`; it belongs in [backfill]
        f:4:2: unknown table [bakfill]
        f:6:1: unknown key `every` in [backfill]; it belongs in [baseline] or [poll]
        f:7:1: unknown key `lookbak` in [backfill]
        f:8:1: unknown key `dataset` in [backfill]; it belongs at the top, above the first [table]
        f:10:1: unknown key `lookbak` in [poll]; did you mean `lookback`?
        f:11:1: unknown key `window` in [poll]; it belongs in [backfill]
        f:12:1: unknown key `colour` in [poll]
        "#);
    }

    #[test]
    fn wrong_kinds_and_words() {
        let text = "name = 7\nsource = true\nenabled = \"yes\"\n[select]\ndetail = \"servics\"\nattributes = [\"span.a\", 1]\n\
                    [backfill]\nlast = 3600\nfrom = \"2026-11-01T00:00:00Z\"\norder = \"random\"\n[[poll]]\n";
        insta::assert_snapshot!(said(&job_schema(), text), @r#"
        f:1:8: `name` must be a string, not an integer (`7`); write for example `name = "shop"`
        f:2:10: `source` must be a string or a table, not a boolean (`true`); write for example `source = "prod"`
        f:3:11: `enabled` must be `true` or `false`, not a string (`yes`); write for example `enabled = true`
        f:5:10: `detail` in [select] must be `trace`, `services` or `spans`, not `servics`; did you mean `services`?
        f:6:25: `attributes[1]` in [select] must be a string, not an integer (`1`)
        f:8:8: `last` in [backfill] must be a string, not an integer (`3600`); write for example `last = "7d"`
        f:9:8: `from` in [backfill] must be a date and time with an offset, not a string (`2026-11-01T00:00:00Z`); write it without quotes
        f:10:9: `order` in [backfill] must be `newest-first` or `oldest-first`, not `random`
        f:11:1: `poll` must be a table, not an array; write [poll]
        "#);
    }

    #[test]
    fn sources() {
        let text = "url = \"http://x\"\n[prod]\ntenant = \"a\"\ntimeout = \"1s\"\nbearer_token = 12345\n[prod.headers]\nX-Key = 7\n\
                    [prod.basic_auth]\npassword = [\"x\"]\n\
                    [prod.limits]\nconcurrency = 99999999999999999999\nrequests_per_second = nan\ntraces_per_request = \"all\"\nurl = \"x\"\n";
        insta::assert_snapshot!(said(&sources_schema(), text), @r#"
        f:1:7: `url` must be a table, not a string (`http://x`)
        f:4:1: unknown key `timeout` in [prod]; it belongs in [prod.limits]
        f:5:16: `bearer_token` in [prod] must be a string, not an integer; write for example `bearer_token = "${TEMPO_TOKEN}"`
        f:7:9: `X-Key` in [prod.headers] must be a string, not an integer
        f:9:12: `password` in [prod.basic_auth] must be a string, not an array; write for example `password = "${TEMPO_PASSWORD}"`
        f:8:7: `username` in [prod.basic_auth] is missing; add for example `username = "12345"`
        f:11:15: `concurrency` in [prod.limits] is too large a number
        f:12:23: `requests_per_second` in [prod.limits] must be a finite number, not `NaN`
        f:13:22: `traces_per_request` in [prod.limits] must be `auto` or an integer, not `all`
        f:14:1: unknown key `url` in [prod.limits]; it belongs in [prod]
        "#);
    }

    #[test]
    fn what_is_taken_out_is_not_missed() {
        let mut parsed = tree::parse(
            Path::new("f"),
            "name = 7\nsource = \"b\"\n[poll]\nevry = \"1s\"\n",
        );
        let found = check(&job_schema(), &mut parsed.root, BTreeSet::new());
        let unusable: Vec<String> = found.unusable.iter().map(KeyPath::to_string).collect();
        assert_eq!(unusable, ["name", "poll.every", "poll.evry"]);
        assert_eq!(
            parsed.root.to_json(),
            serde_json::json!({"name": "", "source": "b", "poll": {}})
        );
    }
}
