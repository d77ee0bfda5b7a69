//! The tables of keys in `docs/JOBS.md` are made from the JSON Schema, and the schema's defaults, bounds and examples are held
//! against `check`. After a change of the schema, `UPDATE=1 cargo test --test it documentation::keys` writes the tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use chrono::Utc;
use serde_json::Value as Json;
use tempo_harvest::job::{
    self, LoadOptions, ProcessEnv, duration::format, job_schema, parse_duration, sources_schema,
};

use super::{document, top};
use crate::support::harvest::start_in;

const FILE: &str = "docs/JOBS.md";

/// A key of a table.
struct Key {
    /// The table's name in the schema; empty: the top level of a job file.
    table: String,
    name: String,
    schema: Json,
    required: bool,
}

/// A schema with its definitions.
struct Schema(Json);

impl Schema {
    fn definition(&self, reference: &Json) -> Option<(String, &Json)> {
        let name = reference["$ref"].as_str()?.strip_prefix("#/$defs/")?;
        Some((name.to_owned(), &self.0["$defs"][name]))
    }

    /// The keys of a table, in the order in which the worked examples have them.
    fn keys(&self, table: &str, definition: &Json) -> Vec<Key> {
        let required = definition["required"].as_array();
        let is_required = |name: &str| required.is_some_and(|names| names.contains(&name.into()));
        let properties = definition["properties"].as_object().unwrap();
        let mut keys: Vec<Key> = properties
            .iter()
            .map(|(name, schema)| Key {
                table: table.to_owned(),
                name: name.clone(),
                schema: schema.clone(),
                required: is_required(name),
            })
            .collect();
        let examples = document(FILE).blocks_of("toml");
        let examples: Vec<&str> = examples.iter().map(|block| block.text.as_str()).collect();
        let examples = examples.join("\n");
        // The table's head, or where it stands in one line.
        let of_source = table.strip_prefix("source.").unwrap_or("prod");
        let heads = [
            format!("[{table}]"),
            format!("{of_source} = {{"),
            format!("[{of_source}]"),
        ];
        let head = heads.iter().find_map(|head| examples.find(head));
        let head = head.unwrap_or_default();
        keys.sort_by_key(|key| {
            let key = examples[head..].find(&format!("{} = ", key.name));
            key.unwrap_or(usize::MAX)
        });
        keys
    }

    /// What a value is, its bounds included.
    fn kind(&self, schema: &Json) -> String {
        if let Some((_, definition)) = self.definition(schema) {
            return self.kind(definition);
        }
        if let Some(alternatives) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
            let kinds: Vec<String> = alternatives.iter().map(|one| self.kind(one)).collect();
            return kinds.join(" or ");
        }
        if let Some(value) = schema["const"].as_str() {
            return format!("`\"{value}\"`");
        }
        if let Some((least, most)) = bounds(schema) {
            return format!("duration, {least} to {most}");
        }
        let range = match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
            (Some(least), Some(most)) => format!(", {least} to {most}"),
            _ => String::new(),
        };
        if schema["examples"][0]
            .as_str()
            .is_some_and(|text| text.contains("* * *"))
        {
            return "schedule".to_owned();
        }
        match schema["type"].as_str().unwrap() {
            "string" if schema["format"] == "date-time" => "date and time".to_owned(),
            "string" => "text".to_owned(),
            "boolean" => "`true` or `false`".to_owned(),
            "integer" => format!("whole number{range}"),
            "number" => format!("number{range}"),
            "array" => "list of texts".to_owned(),
            "object" if schema["properties"].is_null() => "table of texts".to_owned(),
            "object" => "table".to_owned(),
            other => panic!("{other}"),
        }
    }

    /// What it means, with what each of its values does. Bounds have a column of their own.
    fn meaning(&self, schema: &Json) -> String {
        let mut text = schema["description"].as_str().unwrap().to_owned();
        if bounds(schema).is_some() {
            text.truncate(text.rfind(" From ").unwrap());
        }
        if let Some((_, definition)) = self.definition(schema)
            && let Some(values) = definition["oneOf"].as_array()
        {
            for value in values {
                let (name, what) = (&value["const"], &value["description"]);
                text += &format!(" `{name}`: {}", what.as_str().unwrap());
            }
        }
        text.replace('\n', " ").replace('|', "\\|")
    }

    fn rows(&self, keys: &[Key]) -> String {
        let mut text =
            "| key | value | default | example | means |\n| --- | --- | --- | --- | --- |\n"
                .to_owned();
        for key in keys {
            let default = match (&key.schema["default"], key.required) {
                (_, true) => "required".to_owned(),
                (Json::Null, false) => String::new(),
                (default, false) => format!("`{}`", toml_text(&key.schema, default)),
            };
            let kind = self.kind(&key.schema);
            let example = match kind.as_str() {
                "table" => String::new(),
                _ => format!("`{} = {}`", key.name, toml_text(&key.schema, &example(key))),
            };
            text += &format!(
                "| `{}` | {kind} | {default} | {example} | {} |\n",
                key.name,
                self.meaning(&key.schema)
            );
        }
        text
    }
}

/// The shortest and the longest duration.
fn bounds(schema: &Json) -> Option<(&str, &str)> {
    let bounds = &schema["x-bounds"];
    Option::zip(bounds["least"].as_str(), bounds["most"].as_str())
}

/// A value as it is written in a job file.
fn toml_text(schema: &Json, value: &Json) -> String {
    if schema["format"] == "date-time" {
        return value.as_str().unwrap().to_owned();
    }
    match value {
        Json::Object(table) => {
            let pairs: Vec<String> = table
                .iter()
                .map(|(key, value)| format!("{key} = {value}"))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Json::Array(values) => {
            let values: Vec<String> = values.iter().map(Json::to_string).collect();
            format!("[{}]", values.join(", "))
        }
        Json::String(text) if text.contains('"') => format!("'{text}'"),
        value => value.to_string(),
    }
}

fn example(key: &Key) -> Json {
    let example = key.schema["examples"][0].clone();
    match example.is_null() {
        true => key.schema["default"].clone(),
        false => example,
    }
}

/// Every table of job files, and then those of a source: heading, what it is for, keys.
fn tables() -> [Vec<(String, String, Vec<Key>)>; 2] {
    let (job, sources) = (Schema(job_schema()), Schema(sources_schema()));
    let mut of_jobs = vec![("At the top".to_owned(), String::new(), job.keys("", &job.0))];
    for (name, schema) in job.0["properties"].as_object().unwrap() {
        if let Some((_, definition)) = job.definition(schema)
            && definition["properties"].is_object()
        {
            let what = definition["description"].as_str().unwrap().to_owned();
            let keys = job.keys(name, definition);
            of_jobs.push((format!("`[{name}]`"), what, keys));
        }
    }
    let (_, source) = sources
        .definition(&sources.0["additionalProperties"])
        .unwrap();
    let mut keys = sources.keys("source", source);
    // A source in a job file has the same keys, and a name.
    let inline = job.keys("source", &job.0["$defs"]["InlineSourceSpec"]);
    let of_inline: BTreeMap<&str, &Json> = inline
        .iter()
        .map(|key| (key.name.as_str(), &key.schema))
        .collect();
    for key in &keys {
        assert_eq!(of_inline[key.name.as_str()], &key.schema, "{}", key.name);
    }
    assert_eq!(of_inline.len(), keys.len() + 1);
    let mut of_sources = Vec::new();
    for key in &keys {
        if let Some((_, definition)) = sources.definition(&key.schema)
            && definition["properties"].is_object()
        {
            let what = definition["description"].as_str().unwrap().to_owned();
            let table = format!("source.{}", key.name);
            let keys = sources.keys(&table, definition);
            of_sources.push((format!("`{}`", key.name), what, keys));
        }
    }
    keys.extend(
        inline
            .into_iter()
            .filter(|key| key.name == "name")
            .map(|mut key| {
                let text = key.schema["description"].as_str().unwrap().to_owned();
                key.schema["description"] = format!("Only in a job file. {text}").into();
                key
            }),
    );
    of_sources.insert(0, ("Of a source".to_owned(), String::new(), keys));
    [of_jobs, of_sources]
}

/// The tables of keys as they belong into the document.
fn rendered() -> [String; 2] {
    let schemas = [Schema(job_schema()), Schema(sources_schema())];
    let mut tables = tables().into_iter();
    schemas.map(|schema| {
        let mut text = String::new();
        for (heading, what, keys) in tables.next().unwrap() {
            text += &format!("\n### {heading}\n\n");
            if !what.is_empty() {
                text += &format!("{}\n\n", what.replace('\n', " "));
            }
            text += &schema.rows(&keys);
        }
        text
    })
}

#[test]
fn the_tables_of_keys_are_those_of_the_schema() {
    let path = top().join(FILE);
    let written = fs::read_to_string(&path).unwrap();
    let mut right = written.clone();
    for (what, tables) in ["the job file", "sources.toml"].iter().zip(rendered()) {
        let (begin, end) = (
            format!("<!-- keys of {what} -->\n"),
            format!("\n<!-- end of keys of {what} -->"),
        );
        let from = right.find(&begin).unwrap() + begin.len();
        let to = right.find(&end).unwrap();
        right.replace_range(from..to, &tables);
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &right).unwrap();
    }
    assert!(
        right == written || std::env::var_os("UPDATE").is_some(),
        "{FILE} is not what the schema says: UPDATE=1 cargo test --test it documentation::keys"
    );
}

#[test]
fn the_examples_have_every_key() {
    let document = document(FILE);
    let mut written = BTreeSet::new();
    for block in document.blocks_of("toml") {
        let line =
            regex_lite::Regex::new(r#"(?m)([A-Za-z_]+) = |^\[([a-z.]+)\]|"([^"]*)""#).unwrap();
        for found in line.captures_iter(&block.text) {
            if let Some(key) = found.get(1).or(found.get(2)) {
                written.insert(key.as_str().to_owned());
            }
        }
        // What stands in comments as another way to say it.
        for word in block.text.split(|c: char| !c.is_alphanumeric() && c != '_') {
            written.insert(word.to_owned());
        }
    }
    for (_, _, keys) in tables().into_iter().flatten() {
        for key in keys {
            assert!(written.contains(&key.name), "{}", key.name);
        }
    }
}

/// The lines of a job file, by table.
type Lines = BTreeMap<String, BTreeMap<String, String>>;

/// A job in which this key may have this value: other keys are set to what goes with it.
fn job_with(key: &Key, value: &str) -> String {
    let mut lines = Lines::new();
    let mut set = |table: &str, key: &str, value: &str| {
        let table = lines.entry(table.to_owned()).or_default();
        table.insert(key.to_owned(), value.to_owned());
    };
    set("", "name", "\"job\"");
    set("source", "url", "\"http://localhost:3200\"");
    set("backfill", "last", "\"7d\"");
    let path = format!("{}.{}", key.table, key.name);
    match path.as_str() {
        // At least a window, and not of more windows than a plan may have.
        "backfill.last" if value == "\"1s\"" => set("backfill", "window", "\"1s\""),
        "backfill.from" => set("backfill", "to", "2026-11-02T00:00:00Z"),
        "backfill.to" => set("backfill", "from", "2026-10-01T00:00:00Z"),
        "poll.delay" | "poll.lookback" => {
            set("poll", "delay", "\"30s\"");
            set("poll", "lookback", "\"7d\"");
            set("poll", "lookback_max", "\"7d\"");
            set("poll", "seal_after", "\"7d\"");
        }
        "poll.lookback_max" | "poll.seal_after" => {
            set("poll", "delay", "\"30s\"");
            set("poll", "lookback", "\"30s\"");
        }
        "verify.last" | "verify.deep" => set("verify", "schedule", "\"@daily\""),
        "select.attributes" => set("select", "detail", "\"spans\""),
        "source.basic_auth.username" => set("source.basic_auth", "password", "\"${P}\""),
        "source.basic_auth.password" | "source.basic_auth.password_file" => {
            set("source.basic_auth", "username", "\"u\"");
        }
        "source.tls.cert_file" => set("source.tls", "key_file", "\"/k.pem\""),
        "source.tls.key_file" => set("source.tls", "cert_file", "\"/c.pem\""),
        _ => {}
    }
    set(&key.table, &key.name, value);
    match path.as_str() {
        ".source" => {
            lines.remove("source");
        }
        "backfill.from" | "backfill.to" => {
            lines.get_mut("backfill").unwrap().remove("last");
        }
        "retention.traces" => {
            // What is kept shorter than it is collected is refused for that.
            lines
                .get_mut("backfill")
                .unwrap()
                .insert("last".to_owned(), "\"1h\"".to_owned());
        }
        _ => {}
    }
    text_of(&lines)
}

fn text_of(lines: &Lines) -> String {
    let mut text = String::new();
    for (table, keys) in lines {
        if !table.is_empty() {
            text += &format!("[{table}]\n");
        }
        for (key, value) in keys {
            text += &format!("{key} = {value}\n");
        }
    }
    text
}

/// Values at the bounds, and beyond them.
fn at_and_beyond(schema: &Json) -> [Vec<String>; 2] {
    let numbers = match schema["anyOf"].as_array() {
        Some(alternatives) => alternatives.iter().find(|one| one["minimum"].is_number()),
        None => Some(schema).filter(|schema| schema["minimum"].is_number()),
    };
    if let Some(numbers) = numbers {
        let (least, most) = (&numbers["minimum"], &numbers["maximum"]);
        let beyond = match numbers["type"] == "integer" {
            true => vec![
                (least.as_i64().unwrap() - 1).to_string(),
                (most.as_i64().unwrap() + 1).to_string(),
            ],
            false => vec![
                format!("{:?}", least.as_f64().unwrap() / 2.0),
                format!("{:?}", most.as_f64().unwrap() + 0.5),
            ],
        };
        return [vec![least.to_string(), most.to_string()], beyond];
    }
    let Some((least, most)) = bounds(schema) else {
        return [Vec::new(), Vec::new()];
    };
    let text = |duration: Duration| format!("\"{}\"", format(duration));
    let mut at = vec![format!("\"{least}\""), format!("\"{most}\"")];
    let (least, most) = (
        parse_duration(least).unwrap(),
        parse_duration(most).unwrap(),
    );
    let whole = schema["x-bounds"]["whole_seconds"] == true;
    let step = match whole {
        true => Duration::from_secs(1),
        false => Duration::from_millis(1),
    };
    let mut beyond = vec![text(most + step)];
    beyond.extend(least.checked_sub(step).map(text));
    let part = text(least + Duration::from_millis(500));
    match whole {
        true => beyond.push(part),
        false => at.push(part),
    }
    [at, beyond]
}

#[tokio::test]
async fn values_are_taken_at_the_bounds_and_refused_beyond_them() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    fs::create_dir(&good).unwrap();
    fs::create_dir(&bad).unwrap();
    fs::write(
        good.join("sources.toml"),
        "[prod]\nurl = \"http://localhost:3200\"\n",
    )
    .unwrap();
    let mut refused = BTreeMap::new();
    let mut count = 0;
    for (_, _, keys) in tables().into_iter().flatten() {
        for key in keys {
            let [mut at, beyond] = at_and_beyond(&key.schema);
            let examples = key.schema["examples"].as_array().into_iter().flatten();
            at.extend(examples.map(|value| toml_text(&key.schema, value)));
            for value in at {
                let job = job_with(&key, &value);
                let job = job.replace("\"job\"", &format!("\"job-{count}\""));
                fs::write(good.join(format!("{count}.toml")), job).unwrap();
                count += 1;
            }
            for value in beyond {
                let name = format!("{}.toml", refused.len());
                fs::write(bad.join(&name), job_with(&key, &value)).unwrap();
                refused.insert(name, (key.name.clone(), value));
            }
        }
    }
    assert!(
        count > 60 && refused.len() > 30,
        "{count} {}",
        refused.len()
    );
    let said = start_in(folder.path(), &["check", "--no-env", "good"], &[]);
    said.end().await.expect(0);
    let said = start_in(folder.path(), &["check", "--no-env", "--json", "bad"], &[]);
    let report = said.end().await.expect(2).json();
    assert_eq!(
        report["files"].as_array().unwrap().len(),
        0,
        "{}",
        report["files"]
    );
    for (name, (key, value)) in refused {
        let file = format!("bad/{name}");
        let mut problems = report["problems"].as_array().unwrap().iter();
        let found = problems.any(|problem| {
            let message = problem["message"].as_str().unwrap();
            problem["file"] == file
                && message.starts_with(&format!("`{key}`"))
                && message.contains("must be ")
        });
        assert!(found, "{key} = {value}: {:#}", report["problems"]);
    }
}

#[test]
fn what_is_left_out_is_as_its_default() {
    let folder = tempfile::tempdir().unwrap();
    let load = |lines: &Lines| {
        let path = folder.path().join("job.toml");
        fs::write(&path, text_of(lines)).unwrap();
        let options = LoadOptions {
            env: &ProcessEnv,
            now: Utc::now(),
        };
        let job = job::load(&[path], &options).unwrap().remove(0);
        let source = (job.source.compression, job.source.limits);
        format!(
            "{:#?}",
            (
                (job.enabled, job.timezone, job.select, job.backfill),
                (job.poll, job.baseline, job.verify, source)
            )
        )
    };
    let mut lines = Lines::new();
    let mut set = |table: &str, key: &str, value: &str| {
        let table = lines.entry(table.to_owned()).or_default();
        table.insert(key.to_owned(), value.to_owned());
    };
    set("", "name", "\"job\"");
    set("source", "url", "\"http://localhost:3200\"");
    set("backfill", "last", "\"7d\"");
    set("verify", "schedule", "\"@daily\"");
    for table in ["poll", "baseline"] {
        lines.insert(table.to_owned(), BTreeMap::new());
    }
    let left_out = load(&lines);
    let mut defaults = 0;
    for (_, _, keys) in tables().into_iter().flatten() {
        for key in keys.iter().filter(|key| !key.schema["default"].is_null()) {
            let value = toml_text(&key.schema, &key.schema["default"]);
            let table = lines.entry(key.table.clone()).or_default();
            table.insert(key.name.clone(), value);
            defaults += 1;
        }
    }
    assert!(defaults >= 18, "{defaults}");
    assert_eq!(load(&lines), left_out);
}
