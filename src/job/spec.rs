//! The job file and `sources.toml` as they are written: the literal types.
//!
//! The JSON Schema is made from these types, the structure of a file is held against that schema, and the values are then
//! read into these types: so the three cannot disagree. What the values mean, and whether they are possible, is decided
//! in `super::validate` and `super::source`. Strings are still unexpanded here where a source is concerned.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::reader::Bounds;
use super::{duration, env};

/// What a name looks like, for the JSON Schema: [`super::validate`] says it in words.
const NAME_PATTERN: &str = r"^[a-z0-9][a-z0-9_-]{0,62}$|\$\{";

pub(super) const DEFAULT_TIMEZONE: &str = "UTC";
pub(super) const DEFAULT_BACKFILL_WINDOW: Duration = Duration::from_secs(3_600);
pub(super) const DEFAULT_BACKFILL_SETTLE: Duration = Duration::from_secs(3_600);
pub(super) const DEFAULT_POLL_EVERY: Duration = Duration::from_secs(15);
pub(super) const DEFAULT_POLL_DELAY: Duration = Duration::from_secs(35);
pub(super) const DEFAULT_POLL_LOOKBACK: Duration = Duration::from_secs(120);
pub(super) const DEFAULT_POLL_LOOKBACK_MAX: Duration = Duration::from_secs(600);
pub(super) const DEFAULT_POLL_SEAL_AFTER: Duration = Duration::from_secs(3_600);
pub(super) const DEFAULT_BASELINE_EVERY: Duration = Duration::from_secs(30);
pub(super) const DEFAULT_BASELINE_HISTORY: Duration = Duration::from_secs(7 * 86_400);
pub(super) const DEFAULT_VERIFY_LAST: Duration = Duration::from_secs(86_400);
pub(super) const DEFAULT_CONCURRENCY: i64 = 4;
pub(super) const DEFAULT_REQUESTS_PER_SECOND: f64 = 20.0;
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const DEFAULT_MAX_ATTEMPTS: i64 = 10;

const DAY_S: u64 = 86_400;
const TEN_YEARS_S: u64 = 3_650 * DAY_S;

/// How far back a backfill reaches; no less than a window of it.
pub(super) const BACKFILL_LAST: Bounds = Bounds::seconds(1, TEN_YEARS_S);
/// How long a backfill's windows are.
pub(super) const BACKFILL_WINDOW: Bounds = Bounds::seconds(1, 7 * DAY_S);
/// How far behind now a backfill ends.
pub(super) const BACKFILL_SETTLE: Bounds = Bounds::seconds(0, 365 * DAY_S);
/// How often a poll looks.
pub(super) const POLL_EVERY: Bounds = Bounds::seconds(1, 3_600);
/// How far a poll's newest edge stays behind now.
pub(super) const POLL_DELAY: Bounds =
    Bounds::seconds(30, 3_600).because("Tempo hides the last 30 s from search");
/// How old a second is at a poll's later looks: no less than at its first.
pub(super) const POLL_LOOKBACK: Bounds = Bounds::seconds(30, 7 * DAY_S);
/// How far back a poll catches up.
pub(super) const POLL_CATCH_UP: Bounds = Bounds::seconds(1, TEN_YEARS_S);
/// How often baselines are computed.
pub(super) const BASELINE_EVERY: Bounds = Bounds::seconds(1, DAY_S);
/// How far back baselines look.
pub(super) const BASELINE_HISTORY: Bounds = Bounds::seconds(3_600, 365 * DAY_S);
/// How long traces are kept.
pub(super) const RETENTION_TRACES: Bounds = Bounds::seconds(3_600, TEN_YEARS_S);
/// How far back a verification reaches.
pub(super) const VERIFY_LAST: Bounds = Bounds::seconds(3_600, TEN_YEARS_S);
/// How long a Tempo keeps traces.
pub(super) const SOURCE_RETENTION: Bounds = Bounds::seconds(1, TEN_YEARS_S);
/// How long an answer is waited for.
pub(super) const TIMEOUT: Bounds =
    Bounds::between(Duration::from_millis(100), Duration::from_secs(3_600));

/// The fewest and the most requests to a source at once.
pub(super) const CONCURRENCY: (i64, i64) = (1, 64);
/// The slowest and the fastest rate of requests to a source.
pub(super) const REQUESTS_PER_SECOND: (f64, f64) = (0.001, 10_000.0);
/// The fewest and the most traces asked for in one request.
pub(super) const TRACES_PER_REQUEST: (i64, i64) = (1, 1_000_000);
/// The fewest and the most attempts at a window.
pub(super) const MAX_ATTEMPTS: (i64, i64) = (1, 100);

/// A tempo-harvest job: what to collect from a Grafana Tempo into PostgreSQL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "tempo-harvest job file")]
pub struct JobSpec {
    /// The job's name: 1 to 63 lower-case letters, digits, `_` and `-`, beginning with a letter or digit. No other job may have it.
    #[schemars(extend("pattern" = NAME_PATTERN, "examples" = ["shop"]))]
    pub name: String,
    /// The dataset that the traces and their coverage belong to; the job's name by default. Jobs with the same source, query and
    /// detail may share one.
    #[schemars(extend("pattern" = NAME_PATTERN, "examples" = ["shop"]))]
    pub dataset: Option<String>,
    /// Whether the job runs at all.
    #[schemars(extend("default" = true))]
    pub enabled: Option<bool>,
    /// The timezone of the IANA database by whose clocks schedules tick, and the baseline's hours and weekends are counted.
    #[schemars(extend("default" = DEFAULT_TIMEZONE, "examples" = ["Europe/Berlin"]))]
    pub timezone: Option<String>,
    /// The Tempo to collect from: the name of one in `sources.toml` in the same folder, or a table with the same keys.
    #[schemars(extend("examples" = ["prod"]))]
    pub source: SourceField,
    /// Which traces, and how much of them; without it, every trace with detail `trace`.
    pub select: Option<SelectSpec>,
    /// Collecting what lies in the past, once or on a schedule.
    pub backfill: Option<BackfillSpec>,
    /// Keeping up with new traces.
    pub poll: Option<PollSpec>,
    /// What is usual, computed from the traces collected; without it the defaults hold.
    pub baseline: Option<BaselineSpec>,
    /// How long what was collected is kept; without it, for ever.
    pub retention: Option<RetentionSpec>,
    /// Comparing what was collected with what Tempo has, on a schedule.
    pub verify: Option<VerifySpec>,
}

/// A source by its name, or written out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SourceField {
    /// The name of a source in `sources.toml` in the same folder.
    Named(String),
    /// The source itself.
    Inline(Box<InlineSourceSpec>),
}

/// A source written out in the job file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = false))]
pub struct InlineSourceSpec {
    /// The source's name, which is its identity: a changed URL is still the same source. By default tenant, host, port and path of
    /// the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["prod"]))]
    pub name: Option<String>,
    /// The source.
    #[serde(flatten)]
    pub spec: SourceSpec,
}

/// Which traces, and how much of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectSpec {
    /// A TraceQL query; without one every trace is collected. No hints and no metrics functions.
    #[schemars(extend("examples" = ["{ resource.service.name != \"healthcheck\" }"]))]
    pub query: Option<String>,
    /// How much of each trace.
    #[schemars(extend("default" = "trace"))]
    pub detail: Option<DetailSpec>,
    /// Attributes to store with each span, each with its scope, `span.` or `resource.`. They need `detail = "spans"`.
    #[schemars(extend("examples" = [["span.http.status_code", "resource.k8s.namespace.name"]]))]
    pub attributes: Option<Vec<String>>,
}

/// How much of each trace is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DetailSpec {
    /// ID, root, start and duration: the cheapest for Tempo.
    Trace,
    /// Also spans and errors per service.
    Services,
    /// Also every span, with the attributes named; start, end and counts of each trace are then exact.
    Spans,
}

/// Collecting what lies in the past: `last`, or `from` and `to`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillSpec {
    /// How far back from now; rounded up to whole windows, and at least one of them (`window`, or an hour), ending at the last
    /// window edge that is `settle` ago.
    #[schemars(extend("x-bounds" = BACKFILL_LAST, "examples" = ["7d"]))]
    pub last: Option<DurationText>,
    /// The first second, with an offset and without quotes. Together with `to`.
    #[schemars(extend("examples" = ["2026-11-01T00:00:00Z"]))]
    pub from: Option<DatetimeText>,
    /// The end, which is not part of the range, with an offset and without quotes.
    #[schemars(extend("examples" = ["2026-11-08T00:00:00Z"]))]
    pub to: Option<DatetimeText>,
    /// The longest window. Without it, hours that hold little are fetched together, up to a day, where Tempo counts. Windows
    /// that hold too much for one answer are cut in any case.
    #[schemars(extend("x-bounds" = BACKFILL_WINDOW, "examples" = ["1h"]))]
    pub window: Option<DurationText>,
    /// How far behind now the range of `last` ends: nothing younger can be sealed. Under an hour, Tempo may still hide traces from
    /// every search.
    #[schemars(extend("x-bounds" = BACKFILL_SETTLE, "default" = duration::format(DEFAULT_BACKFILL_SETTLE)))]
    pub settle: Option<DurationText>,
    /// Which windows come first.
    #[schemars(extend("default" = "newest-first"))]
    pub order: Option<OrderSpec>,
    /// When to fill in what is missing, again and again: cron, seconds first. Without one the backfill is submitted once.
    #[schemars(extend("examples" = ["0 15 3 * * *", "@daily"]))]
    pub schedule: Option<String>,
}

/// Which windows of a backfill come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OrderSpec {
    /// The latest window first.
    NewestFirst,
    /// The earliest window first.
    OldestFirst,
}

/// Keeping up with new traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PollSpec {
    /// How often to look. Or `schedule`.
    #[schemars(extend("x-bounds" = POLL_EVERY, "default" = duration::format(DEFAULT_POLL_EVERY)))]
    pub every: Option<DurationText>,
    /// When to look, instead of `every`: cron, seconds first.
    #[schemars(extend("examples" = ["*/15 * * * * *"]))]
    pub schedule: Option<String>,
    /// How far the newest edge stays behind now: Tempo hides the last 30 s from search.
    #[schemars(extend("x-bounds" = POLL_DELAY, "default" = duration::format(DEFAULT_POLL_DELAY)))]
    pub delay: Option<DurationText>,
    /// How long after its end a window is looked at again, for late spans. No less than `delay`.
    #[schemars(extend("x-bounds" = POLL_LOOKBACK, "default" = duration::format(DEFAULT_POLL_LOOKBACK)))]
    pub lookback: Option<DurationText>,
    /// How far `lookback` may be widened where late spans are seen to come later. No less than `lookback`, which is its default
    /// where that is more.
    #[schemars(extend("x-bounds" = POLL_LOOKBACK, "default" = duration::format(DEFAULT_POLL_LOOKBACK_MAX)))]
    pub lookback_max: Option<DurationText>,
    /// How long after its end a window is looked at a last time, and sealed. No less than `lookback`. Under an hour, Tempo may still
    /// hide traces from every search.
    #[schemars(extend("x-bounds" = POLL_LOOKBACK, "default" = duration::format(DEFAULT_POLL_SEAL_AFTER)))]
    pub seal_after: Option<DurationText>,
    /// How far back what was missed while nothing ran is filled in; what is older is reported as a gap. Without it, everything.
    #[schemars(extend("x-bounds" = POLL_CATCH_UP, "examples" = ["24h"]))]
    pub catch_up: Option<DurationText>,
}

/// What is usual, computed from the traces collected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BaselineSpec {
    /// How often what has changed is computed again.
    #[schemars(extend("x-bounds" = BASELINE_EVERY, "default" = duration::format(DEFAULT_BASELINE_EVERY)))]
    pub every: Option<DurationText>,
    /// How far back it looks from the newest trace stored.
    #[schemars(extend("x-bounds" = BASELINE_HISTORY, "default" = duration::format(DEFAULT_BASELINE_HISTORY)))]
    pub history: Option<DurationText>,
}

/// How long what was collected is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionSpec {
    /// Traces are deleted so long after their start. No less than `last` in [backfill]. A shorter one than before waits for
    /// `prune`.
    #[schemars(extend("x-bounds" = RETENTION_TRACES, "examples" = ["30d"]))]
    pub traces: DurationText,
}

/// Comparing what was collected with what Tempo has, on a schedule: `work` does what `verify` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifySpec {
    /// When: cron, seconds first.
    #[schemars(extend("examples" = ["0 30 4 * * *", "@daily"]))]
    pub schedule: String,
    /// How far back from now; whole hours of the clock are verified.
    #[schemars(extend("x-bounds" = VERIFY_LAST, "default" = duration::format(DEFAULT_VERIFY_LAST)))]
    pub last: Option<DurationText>,
    /// Whether everything is listed again and IDs are compared, or only counts.
    #[schemars(extend("default" = false))]
    pub deep: Option<bool>,
}

/// `sources.toml`: what belongs to the Tempo servers, once for all jobs in the same folder. Each table is a source, by its name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(title = "tempo-harvest sources.toml")]
pub struct SourcesSpec(pub BTreeMap<String, SourceSpec>);

/// A Tempo server: where it is, how to be let in, and how much to ask of it.
///
/// Unexpanded: references such as `${TOKEN}` stand as they are written, so that this can be stored and resolved elsewhere.
/// Store only what [`SourceSpec::storable`] returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// The URL of Tempo, `http` or `https`. A base path is kept; credentials do not belong here.
    #[schemars(extend("examples" = ["http://localhost:3200", "https://traces.example.net/tempo"]))]
    pub url: String,
    /// The tenant, sent as `X-Scope-OrgID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["team-a"]))]
    pub tenant: Option<String>,
    /// Username and password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuthSpec>,
    /// A bearer token. Better `"${VAR}"`, or `bearer_token_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["${TEMPO_TOKEN}"]))]
    pub bearer_token: Option<SecretText>,
    /// A file with a bearer token; a relative path begins at this file's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["/run/secrets/tempo-token"]))]
    pub bearer_token_file: Option<String>,
    /// Further headers for every request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"X-Team": "shop"}]))]
    pub headers: Option<BTreeMap<String, SecretText>>,
    /// Certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// How long Tempo keeps traces. What is older is reported as a gap, beyond retention.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-bounds" = SOURCE_RETENTION, "examples" = ["14d"]))]
    pub retention: Option<DurationText>,
    /// Whether Tempo is to compress its answers. `auto`: with gzip, but for a Tempo on this very machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "auto"))]
    pub compression: Option<Compression>,
    /// How much to ask of this Tempo, by all processes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsSpec>,
}

/// Whether answers are to come compressed. Gzip makes them less than half as large, and costs both ends a fifth more time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// With gzip, but for a Tempo on this very machine.
    #[default]
    Auto,
    /// Always.
    Gzip,
    /// Never.
    None,
}

/// Username and password, the password from a file where possible.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicAuthSpec {
    /// The username; Grafana Cloud's are numbers.
    #[schemars(extend("examples" = ["12345"]))]
    pub username: UsernameSpec,
    /// The password. Better `"${VAR}"`, or `password_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["${TEMPO_PASSWORD}"]))]
    pub password: Option<SecretText>,
    /// A file with the password; a relative path begins at this file's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["/run/secrets/tempo"]))]
    pub password_file: Option<String>,
}

/// A username, with or without quotes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum UsernameSpec {
    /// As text.
    Text(String),
    /// As a number.
    Number(i64),
}

/// Certificates; relative paths begin at this file's folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsSpec {
    /// The certificate authority to trust, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["/etc/ssl/tempo-ca.pem"]))]
    pub ca_file: Option<String>,
    /// Our own certificate, in PEM. Together with `key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["/etc/ssl/harvest.pem"]))]
    pub cert_file: Option<String>,
    /// Our own certificate's key, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["/etc/ssl/harvest.key"]))]
    pub key_file: Option<String>,
}

/// How much to ask of a Tempo. Concurrency and rate hold for all processes on one database together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsSpec {
    /// Requests at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = CONCURRENCY.0, max = CONCURRENCY.1), extend("default" = DEFAULT_CONCURRENCY))]
    pub concurrency: Option<i64>,
    /// Requests per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = REQUESTS_PER_SECOND.0, max = REQUESTS_PER_SECOND.1), extend("default" = DEFAULT_REQUESTS_PER_SECOND))]
    pub requests_per_second: Option<f64>,
    /// How many traces to ask for in one request. `auto`: about twice what was counted, within what the server allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "auto"))]
    pub traces_per_request: Option<TracesPerRequestSpec>,
    /// How long to wait for an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-bounds" = TIMEOUT, "default" = duration::format(DEFAULT_TIMEOUT)))]
    pub timeout: Option<DurationText>,
    /// How often a window is tried before it counts as failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = MAX_ATTEMPTS.0, max = MAX_ATTEMPTS.1), extend("default" = DEFAULT_MAX_ATTEMPTS))]
    pub max_attempts: Option<i64>,
}

/// `auto` or a number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum TracesPerRequestSpec {
    /// `auto`.
    #[schemars(extend("const" = "auto"))]
    Text(String),
    /// So many.
    Number(#[schemars(range(min = TRACES_PER_REQUEST.0, max = TRACES_PER_REQUEST.1))] i64),
}

/// A duration as it is written: `15s`, `1h 30m`, `7d`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationText(pub String);

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": duration::PATTERN })
    }
}

/// A TOML date and time as it is written, without quotes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DatetimeText(pub String);

impl JsonSchema for DatetimeText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Datetime".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// Text that may be a secret: `Debug` shows it only where it is taken from the environment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(
    inline,
    description = "A text; better `\"${VAR}\"` where it is a secret."
)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if env::is_literal(&self.0) {
            f.write_str("[literal secret]")
        } else {
            fmt::Debug::fmt(&self.0, f)
        }
    }
}
