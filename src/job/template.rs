//! The commented job file that `init` prints: a first backfill, and what can be added to it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::diagnostics::{KeyPath, Problem};
use super::duration;
use super::reader::{Bounds, Expansion, Reader};
use super::source::read_url;
use super::spec::{DEFAULT_BACKFILL_WINDOW, DurationText};
use super::validate::{TEN_YEARS_S, read_name};

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
        let tenant = match &self.tenant {
            Some(tenant) => format!("tenant = {}", string(tenant)),
            None => "# tenant = \"team-a\"                  # X-Scope-OrgID, where Tempo has several tenants".to_owned(),
        };
        Ok(TEXT
            .replace("@NAME@", &string(&self.name))
            .replace("@TENANT@", &tenant)
            .replace("@WINDOW@", &string(&duration::format(window)))
            .replace("@LAST@", &string(&self.last))
            .replace("@URL@", &string(&self.url)))
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
        let last = reader.optional_duration(
            &option("--last"),
            Some(&last),
            Bounds::seconds(1, TEN_YEARS_S),
        );
        if !reader.problems.is_empty() {
            return Err(TemplateError(reader.problems));
        }
        Ok(last
            .flatten()
            .unwrap_or(DEFAULT_BACKFILL_WINDOW)
            .min(DEFAULT_BACKFILL_WINDOW))
    }
}

const TEXT: &str = r##"# A tempo-harvest job: what to collect from a Grafana Tempo into PostgreSQL.
# `tempo-harvest check FILE` says whether it is right, `tempo-harvest run FILE` runs it.
# Strings may take values from the environment: "${VAR}" or "${VAR:-default}".

name = @NAME@                            # unique among your jobs; also the dataset's name, unless `dataset` says another
# timezone = "Europe/Berlin"            # by whose clocks `schedule` ticks; UTC by default

[source]                                # or, shared by several jobs: source = "prod", and a [prod] table in sources.toml
url = @URL@
@TENANT@
# bearer_token = "${TEMPO_TOKEN}"       # or bearer_token_file = "/run/secrets/tempo-token"
# basic_auth = { username = "12345", password = "${TEMPO_PASSWORD}" }
# retention = "14d"                     # how long Tempo keeps traces: what is older is reported as a gap
# limits = { concurrency = 4, requests_per_second = 20 }

[select]
# query = '{ resource.service.name = "shop" }'   # TraceQL; without one every trace is collected
detail = "trace"                        # "services" adds spans and errors per service, and costs Tempo more

[backfill]
last = @LAST@                            # or from = 2026-11-01T00:00:00Z and to = 2026-11-08T00:00:00Z
window = @WINDOW@                          # fetched as one; windows that hold too much are split
# schedule = "0 15 3 * * *"             # cron, seconds first: fill in what is missing every day at 03:15:00

# [poll]                                # keep up with new traces
# every = "15s"
"##;

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
        insta::assert_snapshot!(wrong.render().unwrap_err(), @"");
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
