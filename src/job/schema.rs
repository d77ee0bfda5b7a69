//! The JSON Schemas of job files and of `sources.toml`, made from the literal types.
//!
//! For editors, which complete and check with them, and for [`super::structure`], which holds files against them.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value as Json;

use super::spec::{JobSpec, SourcesSpec};

/// The JSON Schema (draft 2020-12) of a job file.
pub fn job_schema() -> Json {
    schema::<JobSpec>()
}

/// The JSON Schema (draft 2020-12) of `sources.toml`.
pub fn sources_schema() -> Json {
    schema::<SourcesSpec>()
}

fn schema<T: JsonSchema>() -> Json {
    SchemaSettings::draft2020_12()
        .with_transform(RecursiveTransform(simplify))
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// Takes out what only makes sense for JSON and Rust: TOML has no null, and nobody who edits a file cares for `int64`.
fn simplify(schema: &mut schemars::Schema) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    if let Some(Json::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Json::Array(alternatives)) = object.get_mut("anyOf") {
        alternatives.retain(|alternative| alternative.get("type") != Some(&Json::from("null")));
        if let [only] = alternatives.as_slice()
            && let Some(only) = only.as_object().cloned()
        {
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
    if let Some(bounds) = object.get("x-bounds")
        && let (Some(least), Some(most)) = (bounds["least"].as_str(), bounds["most"].as_str())
    {
        let whole = match bounds["whole_seconds"] == true {
            true => ", in whole seconds",
            false => "",
        };
        let bounds = format!("From {least} to {most}{whole}.");
        if let Some(Json::String(description)) = object.get_mut("description")
            && !description.ends_with(&bounds)
        {
            *description = format!("{description} {bounds}");
        }
    }
    if object
        .get("format")
        .is_some_and(|format| format != "date-time")
    {
        object.remove("format");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `visit` with every object of `schema`.
    fn each(schema: &Json, visit: &mut dyn FnMut(&Json)) {
        visit(schema);
        match schema {
            Json::Array(elements) => elements.iter().for_each(|element| each(element, visit)),
            Json::Object(object) => object.values().for_each(|value| each(value, visit)),
            _ => {}
        }
    }

    #[test]
    fn every_key_is_described_and_every_table_closed() {
        for schema in [job_schema(), sources_schema()] {
            assert_eq!(
                schema["$schema"],
                "https://json-schema.org/draft/2020-12/schema"
            );
            assert!(schema["title"].is_string());
            each(&schema, &mut |part| {
                assert_ne!(part, &Json::from("null"), "TOML has no null");
                if let Some(properties) = part.get("properties").and_then(Json::as_object) {
                    assert_eq!(part["additionalProperties"], false);
                    for (key, property) in properties {
                        assert!(
                            property["description"].is_string(),
                            "{key} has no description"
                        );
                    }
                }
            });
        }
    }

    #[test]
    fn a_key_says_what_an_editor_needs() {
        let schema = job_schema();
        insta::assert_snapshot!(schema["$defs"]["BackfillSpec"]["properties"]["window"], @r#"{"description":"The longest window. Without it, hours that hold little are fetched together, up to a day, where Tempo counts. Windows\nthat hold too much for one answer are cut in any case. From 1s to 7d, in whole seconds.","examples":["1h"],"pattern":"^([0-9]+(\\.[0-9]+)? ?[a-z]+ ?)+$|\\$\\{","type":"string","x-bounds":{"least":"1s","most":"7d","whole_seconds":true}}"#);
        insta::assert_snapshot!(schema["$defs"]["LimitsSpec"]["properties"]["concurrency"], @r#"{"default":4,"description":"Requests at once.","maximum":64,"minimum":1,"type":"integer"}"#);
        insta::assert_snapshot!(schema["properties"]["name"], @r#"{"description":"The job's name: 1 to 63 lower-case letters, digits, `_` and `-`, beginning with a letter or digit. No other job may have it.","examples":["shop"],"pattern":"^[a-z0-9][a-z0-9_-]{0,62}$|\\$\\{","type":"string"}"#);
        insta::assert_snapshot!(schema["$defs"]["DetailSpec"], @r#"{"description":"How much of each trace is collected.","oneOf":[{"const":"trace","description":"ID, root, start and duration: the cheapest for Tempo.","type":"string"},{"const":"services","description":"Also spans and errors per service.","type":"string"},{"const":"spans","description":"Also every span, with the attributes named; start, end and counts of each trace are then exact.","type":"string"}]}"#);
    }
}
