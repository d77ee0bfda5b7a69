//! The commented job file that `init` prints: a first backfill, and what can be added to it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::diagnostics::{KeyPath, Problem};
use super::duration;
use super::reader::{Expansion, Reader};
use super::source::read_url;
use super::spec::{BACKFILL_LAST, DEFAULT_BACKFILL_WINDOW, DurationText};
use super::validate::read_name;

/// What goes into a new job file. References such as `${TEMPO_URL}` stay as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The URL of Tempo.
    pub url: String,
    /// The job's name.
    pub name: String,
    /// The tenant, if Tempo has several.
    pub tenant: Option<String>,
    /// How far back to collect.
    pub last: String,
}

/// Options that would make a job file that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError(Vec<Problem>);

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    /// The job file.
    ///
    /// # Errors
    /// Every option that is not possible, named as it is on the command line.
    pub fn render(&self) -> Result<String, TemplateError> {
        let window = self.check()?;
        let string = |text: &str| toml::Value::from(text).to_string();
        let (name, url, last) = (string(&self.name), string(&self.url), string(&self.last));
        // Without one Tempo's counts decide, which is less to ask; a range of less than an hour needs one.
        let commented = match window < DEFAULT_BACKFILL_WINDOW {
            true => "",
            false => "# ",
        };
        let window = string(&duration::format(window));
        let tenant = match &self.tenant {
            Some(tenant) => format!("tenant = {}", string(tenant)),
            None => "# tenant = \"team-a\"".to_owned(),
        };
        let lines = [
            (
                "",
                "A tempo-harvest job: what to collect from a Grafana Tempo into PostgreSQL.",
            ),
            (
                "",
                "`tempo-harvest check FILE` says whether it is right, `tempo-harvest run FILE` runs it.",
            ),
            (
                "",
                "Strings may take values from the environment: \"${VAR}\" or \"${VAR:-default}\".",
            ),
            ("", ""),
            (
                &format!("name = {name}"),
                "unique among your jobs; also the dataset's name, unless `dataset` says another",
            ),
            (
                "# timezone = \"Europe/Berlin\"",
                "by whose clocks `schedule` ticks; UTC by default",
            ),
            ("", ""),
            (
                "[source]",
                "or, shared by several jobs: source = \"prod\", and a [prod] table in sources.toml",
            ),
            (&format!("url = {url}"), ""),
            (
                &tenant,
                "sent as X-Scope-OrgID, where Tempo has several tenants",
            ),
            (
                "# bearer_token = \"${TEMPO_TOKEN}\"",
                "or bearer_token_file = \"/run/secrets/tempo-token\"",
            ),
            (
                "# basic_auth = { username = \"12345\", password = \"${TEMPO_PASSWORD}\" }",
                "",
            ),
            (
                "# retention = \"14d\"",
                "how long Tempo keeps traces: what is older is reported as a gap",
            ),
            (
                "# compression = \"auto\"",
                "\"gzip\" or \"none\"; auto: gzip, but for a Tempo on this machine",
            ),
            (
                "# limits = { concurrency = 4, requests_per_second = 20 }",
                "",
            ),
            ("", ""),
            ("[select]", ""),
            (
                "# query = '{ status = error }'",
                "TraceQL; without one every trace is collected",
            ),
            (
                "detail = \"trace\"",
                "\"services\" adds spans and errors per service, \"spans\" every span, with the `attributes` named; each costs Tempo more",
            ),
            ("", ""),
            ("[backfill]", ""),
            (
                &format!("last = {last}"),
                "or from = 2026-11-01T00:00:00Z and to = 2026-11-08T00:00:00Z",
            ),
            (
                &format!("{commented}window = {window}"),
                "the longest window; without it what Tempo counts decides, up to a day",
            ),
            (
                "# schedule = \"0 15 3 * * *\"",
                "cron, seconds first: fill in what is missing every day at 03:15:00",
            ),
            ("", ""),
            ("# [poll]", "keep up with new traces"),
            ("# every = \"15s\"", ""),
            ("", ""),
            ("# [retention]", "without it traces are kept for ever"),
            ("# traces = \"30d\"", "deleted so long after their start"),
            ("", ""),
            (
                "# [verify]",
                "`work` compares what is stored with what Tempo has",
            ),
            ("# schedule = \"0 30 4 * * *\"", "every day at 04:30:00"),
            ("# last = \"1d\"", ""),
            (
                "# deep = true",
                "lists everything again; else by Tempo's counts",
            ),
        ];
        Ok(lines
            .into_iter()
            .map(|(code, comment)| aligned(code, comment))
            .collect())
    }

    /// The window for so short or long a backfill.
    fn check(&self) -> Result<Duration, TemplateError> {
        let nothing = BTreeSet::new();
        let mut reader = Reader::new(Expansion::Without, &nothing);
        let option = |name: &str| KeyPath::root().child(name);
        read_name(&option("--name"), &self.name, &mut reader, true);
        if let Some(url) = reader.text(&option("--url"), &self.url) {
            reader.accept(&option("--url"), read_url(&url));
        }
        if self.tenant.as_deref() == Some("") {
            reader.refuse(Problem::value(&option("--tenant"), "is empty").fix("leave it out"));
        }
        let last = DurationText(self.last.clone());
        let last = reader.optional_duration(&option("--last"), Some(&last), BACKFILL_LAST);
        if !reader.problems.is_empty() {
            return Err(TemplateError(reader.problems));
        }
        Ok(last
            .flatten()
            .unwrap_or(DEFAULT_BACKFILL_WINDOW)
            .min(DEFAULT_BACKFILL_WINDOW))
    }
}

/// A line of the file: TOML and a comment, of which either may be missing.
fn aligned(code: &str, comment: &str) -> String {
    match (code, comment) {
        ("", "") => "\n".to_owned(),
        ("", comment) => format!("# {comment}\n"),
        (code, "") => format!("{code}\n"),
        (code, comment) => format!("{code:<39} # {comment}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Template {
        Template {
            url: "http://localhost:3200".to_owned(),
            name: "shop".to_owned(),
            tenant: None,
            last: "24h".to_owned(),
        }
    }

    #[test]
    fn values_are_quoted_as_toml() {
        let odd = Template {
            tenant: Some("a\"b\\c".to_owned()),
            ..template()
        };
        let table: toml::Table = odd.render().unwrap().parse().unwrap();
        assert_eq!(table["source"]["tenant"].as_str(), Some("a\"b\\c"));
    }

    #[test]
    fn impossible_options_are_refused_together() {
        let wrong = Template {
            url: "localhost:3200".to_owned(),
            name: "Shop!".to_owned(),
            tenant: Some(String::new()),
            last: "0s".to_owned(),
        };
        insta::assert_snapshot!(wrong.render().unwrap_err(), @r#"
        `--name` must be 1 to 63 lower-case letters, digits, `_` and `-`, beginning with a letter or digit, not `Shop!`
        `--url` is not an http or https URL: `localhost:3200`; write `http://localhost:3200`
        `--tenant` is empty; leave it out
        `--last` must be from 1s to 3650d, not `0s`
        "#);
    }

    #[test]
    fn a_short_backfill_has_a_short_window() {
        let short = Template {
            last: "10m".to_owned(),
            ..template()
        };
        assert!(short.render().unwrap().contains("window = \"10m\""));
    }
}
