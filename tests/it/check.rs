//! Job files through the front door: what `check`, `init` and `schema` say, to the letter, and their exit codes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// What a command said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A folder with files, in which commands are run with an environment of their own.
struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(TempDir::new().unwrap());
        for (name, content) in files {
            folder.write(name, content.as_bytes());
        }
        folder
    }

    fn write(&self, name: &str, content: &[u8]) {
        let file = self.0.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }

    fn run(&self, arguments: &[&str], env: &[(&str, &str)]) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_tempo-harvest"))
            .args(arguments)
            .current_dir(self.0.path())
            .env_clear()
            .envs(env.iter().copied())
            .output()
            .unwrap();
        Said {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What is refused with exit code 2 and nothing on stdout.
    fn refused(&self, arguments: &[&str]) -> String {
        let said = self.run(&[&["check"], arguments].concat(), &[]);
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (Some(2), ""),
            "{}",
            said.stderr
        );
        said.stderr
    }
}

/// What is said of a job file with `text`.
fn refused(text: &str) -> String {
    Folder::new(&[("shop.toml", text)]).refused(&["shop.toml"])
}

/// What is said of a job that is right but for `lines`, which begin on line 3.
fn refused_with(lines: &str) -> String {
    refused(&format!(
        "name = \"shop\"\nsource = {{ url = \"http://localhost:3200\" }}\n{lines}"
    ))
}

/// What is said of a backfill with `lines`, which begin on line 4.
fn refused_backfill(lines: &str) -> String {
    refused_with(&format!("[backfill]\n{lines}"))
}

/// What is said of a source with `lines`, which begin on line 5.
fn refused_source(lines: &str) -> String {
    refused(&format!(
        "name = \"shop\"\nbackfill.last = \"1d\"\n[source]\nurl = \"http://localhost:3200\"\n{lines}"
    ))
}

const GOOD: &str =
    "name = \"shop\"\nsource = { url = \"http://localhost:3200\" }\n[backfill]\nlast = \"1d\"\n";

#[test]
fn worked_examples_are_right() {
    let jobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs");
    let said = Folder::new(&[]).run(&["check", "--no-env", jobs.to_str().unwrap()], &[]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let stdout = said.stdout.replace(jobs.to_str().unwrap(), "jobs");
    insta::assert_snapshot!(stdout, @r#"
        jobs/filtered.toml: ok: `failed-checkouts` (disabled): `{ resource.service.name = "checkout" && status = error }` from `staging` into dataset `failed-checkouts`, detail services; backfill of 2026-11-01T00:00:00Z to 2026-11-08T00:00:00Z in windows up to 1d, oldest first
        jobs/grafana-cloud.toml: ok: `grafana-cloud` (disabled): `{ resource.deployment.environment = "production" }` from `grafana-cloud` into dataset `grafana-cloud`, detail trace; backfill of the last 7d in windows of 30m, newest first, at `0 20 4 * * *` UTC; poll every 1m, 1m behind now
        jobs/history.toml: ok: `history` (disabled): every trace from `prod` into dataset `shop`, detail trace; backfill of the last 7d in windows of 1h, newest first, at `0 15 3 * * *` Europe/Berlin
        jobs/live-with-repair.toml: ok: `live-with-repair` (disabled): `{ resource.service.name != "healthcheck" }` from `staging` into dataset `live-with-repair`, detail services; backfill of the last 3d in windows up to 1d, newest first, at `0 40 2 * * *` Europe/Berlin; poll every 15s, 35s behind now; the last 3d verified deeply at `0 40 5 * * *` Europe/Berlin
        jobs/live.toml: ok: `live` (disabled): every trace from `prod` into dataset `shop`, detail trace; poll every 15s, 35s behind now
        jobs/local.toml: ok: `local`: every trace from `localhost:3200` into dataset `local`, detail trace; backfill of the last 1d in windows up to 1d, newest first
        jobs/sources.toml: ok: sources grafana-cloud, prod, staging, tenant-payments, tenant-search
        jobs/spans.toml: ok: `spans` (disabled): every trace from `prod` into dataset `spans`, detail spans; with the attributes `resource.k8s.namespace.name`, `span.http.status_code`; backfill of the last 1d in windows of 10m, newest first, at `0 30 1 * * *` UTC; kept for 30d
        jobs/tenant-payments.toml: ok: `tenant-payments` (disabled): every trace from `tenant-payments` into dataset `tenant-payments`, detail trace; backfill of the last 1d in windows up to 1d, newest first; poll every 30s, 35s behind now
        jobs/tenant-search.toml: ok: `tenant-search` (disabled): every trace from `tenant-search` into dataset `tenant-search`, detail trace; backfill of the last 1d in windows up to 1d, newest first; poll every 30s, 35s behind now
        "#);
}

#[test]
fn everything_wrong_is_said_at_once() {
    let folder = Folder::new(&[
        (
            "jobs/shop.toml",
            "name = \"Shop\"\nsource = \"prd\"\n\n[select]\nquery = \"{ name = \"\ndetail = \"service\"\n\n[backfill]\nlast = 7d\nwindow = \"0s\"\n\
             schedule = \"0 0 3 * * 1\"\n\n[poll]\nlookbak = \"120s\"\nwindow = \"1h\"\ndelay = \"10s\"\n",
        ),
        (
            "jobs/sources.toml",
            "[prod]\nurl = \"ftp://x\"\nretention = 14\n",
        ),
    ]);
    insta::assert_snapshot!(folder.refused(&["jobs"]), @r#"
        jobs/sources.toml:2:7: `url` in [prod] is not an http or https URL: `ftp://x`; write for example `http://localhost:3200`
        jobs/sources.toml:3:13: `retention` in [prod] must be a string, not an integer (`14`); write for example `retention = "14d"`
        jobs/shop.toml:1:8: `name` must be 1 to 63 lower-case letters, digits, `_` and `-`, beginning with a letter or digit, not `Shop`
        jobs/shop.toml:2:10: `source` is `prd`, which jobs/sources.toml does not have; did you mean `prod`?
        jobs/shop.toml:5:9: `query` in [select] has a `{` that is not closed; pair the brackets
        jobs/shop.toml:6:10: `detail` in [select] must be `trace`, `services` or `spans`, not `service`; did you mean `services`?
        jobs/shop.toml:9:8: a value without quotes; write strings, durations too, as "…"
        jobs/shop.toml:10:10: `window` in [backfill] must be from 1s to 7d, not `0s`
        jobs/shop.toml:11:12: `schedule` in [backfill] has a weekday as a number: `1`; write MON: cron counts weekdays from Sunday = 0, the cron crate from Sunday = 1
        jobs/shop.toml:14:1: unknown key `lookbak` in [poll]; did you mean `lookback`?
        jobs/shop.toml:15:1: unknown key `window` in [poll]; it belongs in [backfill]
        jobs/shop.toml:16:9: `delay` in [poll] must be from 30s to 1h, not `10s`; Tempo hides the last 30 s from search
        "#);
}

#[test]
fn unknown_and_misspelt_keys() {
    insta::assert_snapshot!(refused(&format!("{GOOD}\n[poll]\nlookbak = \"120s\"\n")), @"shop.toml:7:1: unknown key `lookbak` in [poll]; did you mean `lookback`?");
    insta::assert_snapshot!(refused(&format!("{GOOD}\n[poll]\nwindow = \"1h\"\n")), @"shop.toml:7:1: unknown key `window` in [poll]; it belongs in [backfill]");
    insta::assert_snapshot!(refused(&format!("{GOOD}colour = \"red\"\n")), @"shop.toml:5:1: unknown key `colour` in [backfill]");
    insta::assert_snapshot!(refused(&format!("{GOOD}enabled = true\n")), @"shop.toml:5:1: unknown key `enabled` in [backfill]; it belongs at the top, above the first [table]");
    insta::assert_snapshot!(refused(&GOOD.replace("[backfill]", "[bakfill]")), @"shop.toml:3:2: unknown table [bakfill]; did you mean [backfill]?");
    insta::assert_snapshot!(refused(&GOOD.replace("url", "ulr")), @"shop.toml:2:12: unknown key `ulr` in [source]; did you mean `url`?");
    insta::assert_snapshot!(refused_source("concurrency = 4\n"), @"shop.toml:5:1: unknown key `concurrency` in [source]; it belongs in [source.limits]");
}

#[test]
fn missing_and_impossible_names() {
    insta::assert_snapshot!(refused("source = { url = \"http://localhost:3200\" }\n[poll]\n"), @r#"shop.toml:1:1: `name` is missing; add for example `name = "shop"`"#);
    insta::assert_snapshot!(refused("name = \"shop\"\n[poll]\n"), @r#"shop.toml:1:1: `source` is missing; add for example `source = "prod"`"#);
    insta::assert_snapshot!(refused(&GOOD.replace("\"shop\"", "\"My Shop\"")), @"shop.toml:1:8: `name` must be 1 to 63 lower-case letters, digits, `_` and `-`, beginning with a letter or digit, not `My Shop`");
    insta::assert_snapshot!(refused_with("dataset = \"-x\"\n[poll]\n"), @"shop.toml:3:11: `dataset` must be 1 to 63 lower-case letters, digits, `_` and `-`, beginning with a letter or digit, not `-x`");
    insta::assert_snapshot!(refused_with("timezone = \"Europe/Berlim\"\n[poll]\n"), @"shop.toml:3:12: `timezone` is not a known timezone: `Europe/Berlim`; did you mean `Europe/Berlin`?");
    insta::assert_snapshot!(refused_with(""), @r#"shop.toml:1:1: the job collects nothing: it has neither [backfill] nor [poll]; add a [backfill] with `last = "7d"`, or a [poll]"#);
}

#[test]
fn ranges() {
    insta::assert_snapshot!(refused_backfill("from = 2026-11-08T00:00:00Z\nto = 2026-11-01T00:00:00Z\n"), @"shop.toml:5:6: `to` in [backfill] must be after `from`, but `from` is 2026-11-08T00:00:00Z and `to` is 2026-11-01T00:00:00Z");
    insta::assert_snapshot!(refused_backfill("from = 2026-11-01T00:00:00Z\nto = 2026-11-01T00:00:00Z\n"), @"shop.toml:5:6: `to` in [backfill] must be after `from`, but `from` is 2026-11-01T00:00:00Z and `to` is 2026-11-01T00:00:00Z");
    insta::assert_snapshot!(refused_backfill("last = \"7d\"\nfrom = 2026-11-01T00:00:00Z\nto = 2026-11-08T00:00:00Z\n"), @"shop.toml:5:1: `last` and `from` in [backfill] are two ways to say the range; keep `last`, or `from` and `to`");
    insta::assert_snapshot!(refused_backfill("from = 2026-11-01T00:00:00Z\nto = 2026-11-08T00:00:00Z\nlast = \"7d\"\n"), @"shop.toml:6:1: `last` and `from` in [backfill] are two ways to say the range; keep `last`, or `from` and `to`");
    insta::assert_snapshot!(refused_backfill("to = 2026-11-08T00:00:00Z\n"), @r#"shop.toml:4:1: `to` in [backfill] needs `from` beside it; add `from`, or say `last = "7d"` instead"#);
    insta::assert_snapshot!(refused_backfill("from = 2026-11-01T00:00:00Z\n"), @r#"shop.toml:4:1: `from` in [backfill] needs `to` beside it; add `to`, or say `last = "7d"` instead"#);
    insta::assert_snapshot!(refused_backfill("window = \"1h\"\n"), @r#"shop.toml:3:2: [backfill] does not say its range; add `last = "7d"`, or `from` and `to`"#);
    insta::assert_snapshot!(refused_backfill("last = \"30m\"\n"), @"shop.toml:4:8: `last` in [backfill] must be at least one window (1h), not `30m`");
    insta::assert_snapshot!(refused_backfill("last = \"11y\"\n"), @"shop.toml:4:8: `last` in [backfill] must be from 1s to 3650d, not `11y`");
}

#[test]
fn a_future_range() {
    let said = refused_backfill("from = 2026-11-01T00:00:00Z\nto = 2999-01-01T00:00:00Z\n");
    let (said, now) = said.trim_end().rsplit_once(' ').unwrap();
    insta::assert_snapshot!(said, @"shop.toml:5:6: `to` in [backfill] is in the future: 2999-01-01T00:00:00Z, and now is");
    assert!(
        now.parse::<chrono::DateTime<chrono::Utc>>().is_ok(),
        "{now}"
    );
}

#[test]
fn times_without_an_offset() {
    insta::assert_snapshot!(refused_backfill("from = 2026-11-01T00:00:00\nto = 2026-11-08\n"), @r#"
        shop.toml:4:8: `from` in [backfill] has no offset: `2026-11-01T00:00:00`; add one, e.g. 2026-11-01T00:00:00Z
        shop.toml:5:6: `to` in [backfill] has no offset: `2026-11-08`; add one, e.g. 2026-11-08T00:00:00Z
        "#);
    insta::assert_snapshot!(refused_backfill("from = 00:00:00\nto = 2026-11-08T00:00:00.5Z\n"), @r#"
        shop.toml:4:8: `from` in [backfill] is not a date and time with an offset: `00:00:00`; write for example 2026-11-01T00:00:00Z
        shop.toml:5:6: `to` in [backfill] has a fraction of a second: `2026-11-08T00:00:00.5Z`; windows are whole seconds
        "#);
    insta::assert_snapshot!(refused_backfill("from = \"2026-11-01T00:00:00Z\"\nto = 2026-11-08T00:00:00Z\n"), @"shop.toml:4:8: `from` in [backfill] must be a date and time with an offset, not a string (`2026-11-01T00:00:00Z`); write it without quotes");
}

#[test]
fn windows_and_other_durations() {
    insta::assert_snapshot!(refused_backfill("last = \"1d\"\nwindow = \"0s\"\n"), @"shop.toml:5:10: `window` in [backfill] must be from 1s to 7d, not `0s`");
    insta::assert_snapshot!(refused_backfill("last = \"1d\"\nwindow = \"500ms\"\n"), @"shop.toml:5:10: `window` in [backfill] must be from 1s to 7d, not `500ms`");
    insta::assert_snapshot!(refused_backfill("last = \"1d\"\nwindow = \"1500ms\"\n"), @"shop.toml:5:10: `window` in [backfill] must be whole seconds, not `1500ms`");
    insta::assert_snapshot!(refused_backfill("last = \"90d\"\nwindow = \"8d\"\n"), @"shop.toml:5:10: `window` in [backfill] must be from 1s to 7d, not `8d`");
    insta::assert_snapshot!(refused_backfill("last = \"1d\"\nwindow = 3600\n"), @r#"shop.toml:5:10: `window` in [backfill] must be a string, not an integer (`3600`); write for example `window = "1h"`"#);
    insta::assert_snapshot!(refused_backfill("last = 1d\nwindow = \"60\"\n"), @r#"
        shop.toml:4:8: a value without quotes; write strings, durations too, as "…"
        shop.toml:5:10: `window` in [backfill] is not a duration: `60`; add a unit, such as `s`, `m`, `h` or `d`
        "#);
    insta::assert_snapshot!(refused_with("[poll]\nevery = \"2h\"\ndelay = \"20s\"\nlookback = \"20m\"\nlookback_max = \"10m\"\n"), @r#"
        shop.toml:4:9: `every` in [poll] must be from 1s to 1h, not `2h`
        shop.toml:5:9: `delay` in [poll] must be from 30s to 1h, not `20s`; Tempo hides the last 30 s from search
        shop.toml:7:1: `lookback_max` in [poll] must be at least `lookback`, but they are 10m and 20m
        "#);
    insta::assert_snapshot!(refused_with("[poll]\nevery = \"15s\"\nschedule = \"*/15 * * * * *\"\ndelay = \"3m\"\n"), @r#"
        shop.toml:5:1: `every` and `schedule` in [poll] are two ways to say when; keep one of them
        shop.toml:6:1: `lookback` in [poll] must be at least `delay`, but they are 2m and 3m
        "#);
    insta::assert_snapshot!(refused_with("[poll]\n[baseline]\nevery = \"0s\"\nhistory = \"1m\"\n"), @r#"
        shop.toml:5:9: `every` in [baseline] must be from 1s to 1d, not `0s`
        shop.toml:6:11: `history` in [baseline] must be from 1h to 365d, not `1m`
        "#);
}

#[test]
fn retentions() {
    insta::assert_snapshot!(refused_with("[poll]\n[retention]\ntraces = \"59m\"\n"), @"shop.toml:5:10: `traces` in [retention] must be from 1h to 3650d, not `59m`");
    insta::assert_snapshot!(refused_with("[poll]\n[retention]\ntraces = \"11y\"\n"), @"shop.toml:5:10: `traces` in [retention] must be from 1h to 3650d, not `11y`");
    insta::assert_snapshot!(refused_with("[poll]\n[retention]\n"), @r#"shop.toml:4:2: `traces` in [retention] is missing; add for example `traces = "30d"`"#);
    insta::assert_snapshot!(refused_backfill("last = \"7d\"\n[retention]\ntraces = \"6d\"\n"), @"shop.toml:6:1: `traces` in [retention] keeps them for 6d, but [backfill] collects the last 7d: the older ones would be deleted as they come; keep them for at least 7d, or collect less");
    insta::assert_snapshot!(refused_with("[retention]\ntraces = \"6d\"\n[backfill]\nlast = \"7d\"\n"), @"shop.toml:6:1: `traces` in [retention] keeps them for 6d, but [backfill] collects the last 7d: the older ones would be deleted as they come; keep them for at least 7d, or collect less");
}

#[test]
fn schedules() {
    insta::assert_snapshot!(refused_backfill("last = \"1d\"\nschedule = \"every day\"\n"), @"shop.toml:5:12: `schedule` in [backfill] is not a cron schedule: `every day` has 2 fields, not 5, 6 or 7; write second minute hour day-of-month month day-of-week, e.g. `0 15 3 * * *` for 03:15:00 every day");
    insta::assert_snapshot!(refused_backfill("last = \"1d\"\nschedule = \"0 0 25 * * *\"\n"), @"shop.toml:5:12: `schedule` in [backfill] is not a cron schedule: `25` is not a possible hour (0-23); write second minute hour day-of-month month day-of-week, e.g. `0 15 3 * * *` for 03:15:00 every day");
    insta::assert_snapshot!(refused_backfill("last = \"1d\"\nschedule = \"0 0 0 30 2 *\"\n"), @"shop.toml:5:12: `schedule` in [backfill] never comes: `0 0 0 30 2 *`; choose a day that exists and has not passed");
    insta::assert_snapshot!(refused_backfill("last = \"1d\"\nschedule = \"0 0 3 * * 1-5\"\n"), @"shop.toml:5:12: `schedule` in [backfill] has a weekday as a number: `1-5`; write MON: cron counts weekdays from Sunday = 0, the cron crate from Sunday = 1");
    insta::assert_snapshot!(refused_backfill("last = \"1d\"\nschedule = \"0 3 13 * FRI\"\n"), @"shop.toml:5:12: `schedule` in [backfill] restricts both the day of the month (`13`) and the day of the week (`FRI`); crontab would fire when either matches, here both must: write six fields, with the second in front, if both is meant, else two jobs");
}

#[test]
fn selections() {
    insta::assert_snapshot!(refused_with("[poll]\n[select]\nquery = \"\"\n"), @"shop.toml:5:9: `query` in [select] is empty; leave the key out to collect every trace");
    insta::assert_snapshot!(refused_with("[poll]\n[select]\nquery = '{ name = \"a }'\n"), @r#"shop.toml:5:9: `query` in [select] has a string without its closing `"`; close it"#);
    insta::assert_snapshot!(refused_with("[poll]\n[select]\nquery = '{} with (most_recent=true)'\n"), @"shop.toml:5:9: `query` in [select] has hints (`with (…)`): tempo-harvest sets its own; remove them");
    insta::assert_snapshot!(refused_with("[poll]\n[select]\nquery = '{} | rate()'\n"), @"shop.toml:5:9: `query` in [select] is a metrics query (`rate()`): search answers with traces, not with series; remove it and the `|` before it");
    insta::assert_snapshot!(refused_with("[poll]\n[select]\nattributes = [\"span.a\", \"http.method\"]\n"), @r#"
        shop.toml:5:1: `attributes` in [select] needs `detail = "spans"`: only spans are stored with attributes; set `detail = "spans"`, or remove it
        shop.toml:5:25: `attributes[1]` in [select] has no scope: `http.method`; begin it with `span.` or `resource.`
        "#);
    insta::assert_snapshot!(refused_with("[poll]\n[select]\ndetail = \"spans\"\nattributes = [\"span.a\", 'span.\"a\"', \"resource.a\", \"link.b\"]\n"), @r#"
        shop.toml:6:25: `attributes[1]` in [select] names `span."a"` again, after `attributes[0]`; remove it
        shop.toml:6:37: `attributes[2]` in [select] cannot be had together with `span.a`: Tempo's answers name both alike: `resource.a`; keep one of them
        shop.toml:6:51: `attributes[3]` in [select] is of the scope `link`, which is not collected: `link.b`; remove it: attributes of spans (`span.`) and of what sent them (`resource.`) can be stored
        "#);
    insta::assert_snapshot!(refused_with("[poll]\n[select]\ndetail = \"span\"\n"), @"shop.toml:5:10: `detail` in [select] must be `trace`, `services` or `spans`, not `span`; did you mean `spans`?");
}

#[test]
fn urls() {
    let said = |url: &str| refused(&GOOD.replace("http://localhost:3200", url));
    insta::assert_snapshot!(said("localhost:3200"), @"shop.toml:2:18: `url` in [source] is not an http or https URL: `localhost:3200`; write `http://localhost:3200`");
    insta::assert_snapshot!(said("tempo"), @"shop.toml:2:18: `url` in [source] is not an http or https URL: `tempo`; write `http://tempo`");
    insta::assert_snapshot!(said("ftp://localhost"), @"shop.toml:2:18: `url` in [source] is not an http or https URL: `ftp://localhost`; write for example `http://localhost:3200`");
    insta::assert_snapshot!(said("http://"), @"shop.toml:2:18: `url` in [source] is not an http or https URL: `http://`; write for example `http://localhost:3200`");
    insta::assert_snapshot!(said("http://local host"), @"shop.toml:2:18: `url` in [source] has a space in it: `http://local host`; remove it");
    insta::assert_snapshot!(said("http://me:hunter2@localhost"), @r#"shop.toml:2:18: `url` in [source] has credentials in it; use `basic_auth = { username = "…", password_file = "…" }`"#);
    insta::assert_snapshot!(said("me:hunter2@localhost"), @"shop.toml:2:18: `url` in [source] is not an http or https URL; write for example `http://localhost:3200`");
    insta::assert_snapshot!(said("http://localhost/api?x=1"), @"shop.toml:2:18: `url` in [source] has a query or a fragment; end it with the base path");
    insta::assert_snapshot!(said("http://localhost/#x"), @"shop.toml:2:18: `url` in [source] has a query or a fragment; end it with the base path");
}

#[test]
fn variables() {
    insta::assert_snapshot!(refused(&GOOD.replace("http://localhost:3200", "${TEMPO_URL}")), @"shop.toml:2:18: `url` in [source] needs the environment variable `TEMPO_URL`, which is not set; set it, or give a default: `${TEMPO_URL:-…}`");
    insta::assert_snapshot!(refused(&GOOD.replace("1d", "${LAST}").replace("\"shop\"", "\"${NAME\"")), @r#"
        shop.toml:1:8: `name` has a `${` without its `}`; close it, or write `$${` for a literal `${`
        shop.toml:4:8: `last` in [backfill] needs the environment variable `LAST`, which is not set; set it, or give a default: `${LAST:-…}`
        "#);
    let folder = Folder::new(&[(
        "a.toml",
        &GOOD
            .replace("http://localhost:3200", "${TEMPO_URL}")
            .replace("1d", "${LAST:-7d}"),
    )]);
    let said = folder.run(
        &["check", "a.toml"],
        &[("TEMPO_URL", "https://tempo.example.net/base/")],
    );
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    insta::assert_snapshot!(said.stdout, @"a.toml: ok: `shop`: every trace from `tempo.example.net:443/base` into dataset `shop`, detail trace; backfill of the last 7d in windows up to 1d, newest first");
    let said = folder.run(
        &["check", "a.toml"],
        &[("TEMPO_URL", "tempo"), ("LAST", "1")],
    );
    insta::assert_snapshot!(said.stderr, @r#"
        a.toml:2:18: `url` in [source] is not an http or https URL: `tempo`; write `http://tempo`
        a.toml:4:8: `last` in [backfill] is not a duration: `1`; add a unit, such as `s`, `m`, `h` or `d`
        "#);
    let env = [
        ("TEMPO_URL", "http://x"),
        ("LAST", "${OTHER}"),
        ("OTHER", "1d"),
    ];
    let said = folder.run(&["check", "a.toml"], &env);
    insta::assert_snapshot!(said.stderr, @"a.toml:4:8: `last` in [backfill] is not a duration: `${OTHER}`; units are in lower case: `s`, `m`, `h`, `d`, `w`");
    let said = folder.run(&["check", "--no-env", "a.toml"], &[]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    insta::assert_snapshot!(said.stdout, @"a.toml: ok: a job that depends on the environment");
}

#[test]
fn what_a_variable_holds_is_not_expanded_again() {
    let folder = Folder::new(&[(
        "a.toml",
        &GOOD.replace("1d\"", "1d\"\n[select]\nquery = \"${QUERY}\""),
    )]);
    let said = folder.run(&["check", "a.toml"], &[("QUERY", "{ name = \"${HOME}\" }")]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stdout.contains("${HOME}"), "{}", said.stdout);
}

#[test]
fn authentication() {
    insta::assert_snapshot!(refused_source("bearer_token = \"${TOKEN}\"\nbasic_auth = { username = 1, password = \"x\" }\n"), @"shop.toml:6:1: `basic_auth` in [source] and `bearer_token` in [source] are two kinds of authentication; keep one of them");
    insta::assert_snapshot!(refused_source("basic_auth = { username = 1, password = \"x\" }\nheaders = { authorization = \"x\" }\n"), @"shop.toml:6:13: `basic_auth` in [source] and `authorization` in [source.headers] are two kinds of authentication; keep one of them");
    insta::assert_snapshot!(refused_source("bearer_token = \"x\"\nbearer_token_file = \"/x\"\n"), @"shop.toml:6:1: `bearer_token` in [source] and `bearer_token_file` in [source] are two kinds of authentication; keep one of them");
    insta::assert_snapshot!(refused_source("basic_auth = { username = \"a:b\" }\n"), @r#"
        shop.toml:5:1: `password` in [source.basic_auth] is missing; add `password = "${VAR}"` or `password_file = "…"`
        shop.toml:5:27: `username` in [source.basic_auth] is not a possible username; it is not empty, and has no `:`
        "#);
    insta::assert_snapshot!(refused_source("basic_auth = { username = \"a\", password = \"x\", password_file = \"/x\" }\n"), @"shop.toml:5:48: `password` in [source.basic_auth] and `password_file` are two passwords; keep one of them");
    insta::assert_snapshot!(refused_source("basic_auth = \"me:hunter2\"\n"), @"shop.toml:5:14: `basic_auth` in [source] must be a table, not a string");
    insta::assert_snapshot!(refused_source("bearer_token = \"hun ter2\"\n"), @"shop.toml:5:16: `bearer_token` in [source] is not a possible bearer token; it is printable ASCII without spaces, and without the word `Bearer`");
    insta::assert_snapshot!(refused_source("bearer_token = hunter2\n"), @r#"shop.toml:5:16: a value without quotes; write strings, durations too, as "…""#);
    insta::assert_snapshot!(refused_source("tenant = \"a\"\nheaders = { x-scope-orgid = \"b\" }\n"), @"shop.toml:6:13: `tenant` in [source] and `x-scope-orgid` in [source.headers] both say the tenant; keep `tenant`");
    insta::assert_snapshot!(refused_source("headers = { \"X Y\" = \"a\", Host = \"b\", X-A = \"a\\nb\", x-a = \"c\" }\n"), @r#"
        shop.toml:5:13: `X Y` in [source.headers] is not a possible header name; use letters, digits and `-`
        shop.toml:5:26: `Host` in [source.headers] is a header that tempo-harvest sets itself; remove it
        shop.toml:5:44: `X-A` in [source.headers] is not a possible header value; use printable ASCII only
        shop.toml:5:52: `x-a` in [source.headers] is the same header as `X-A`; keep one of them
        "#);
}

#[test]
fn secret_files() {
    insta::assert_snapshot!(refused_source("bearer_token_file = \"/nowhere/token\"\n"), @"shop.toml:5:21: `bearer_token_file` in [source] cannot be read: `/nowhere/token`: No such file or directory; create the file, or correct the path");
    insta::assert_snapshot!(refused_source("bearer_token_file = \"~/token\"\n"), @"shop.toml:5:21: `bearer_token_file` in [source] begins with `~`, which is not expanded: `~/token`; write `${HOME}` instead");
    insta::assert_snapshot!(refused_source("tls = { ca_file = \"/nowhere/ca.pem\", cert_file = \"/nowhere/cert.pem\" }\n"), @r#"
        shop.toml:5:19: `ca_file` in [source.tls] cannot be read: `/nowhere/ca.pem`: No such file or directory; create the file, or correct the path
        shop.toml:5:38: `cert_file` in [source.tls] needs `key_file` beside it; add `key_file = "…"`
        shop.toml:5:50: `cert_file` in [source.tls] cannot be read: `/nowhere/cert.pem`: No such file or directory; create the file, or correct the path
        "#);
    let text = "name = \"shop\"\nbackfill.last = \"1d\"\nsource = { url = \"http://x\", bearer_token_file = \"secrets/token\" }\n";
    let folder = Folder::new(&[("jobs/a.toml", text), ("jobs/secrets/token", "\n")]);
    let absolute = folder.0.path().canonicalize().unwrap();
    let said = folder
        .refused(&["jobs/a.toml"])
        .replace(absolute.to_str().unwrap(), "HERE");
    insta::assert_snapshot!(said, @"jobs/a.toml:3:50: `bearer_token_file` in [source] names a file that is empty: `HERE/jobs/secrets/token`; put the secret in it, and nothing else");
    folder.write("jobs/secrets/token", b"abc\n");
    assert_eq!(folder.run(&["check", "jobs"], &[]).code, Some(0));
    assert_eq!(
        folder.run(&["check", "--no-env", "jobs"], &[]).code,
        Some(0)
    );
}

#[test]
fn limits() {
    let limits = "[source.limits]\nconcurrency = 0\nrequests_per_second = -1\ntraces_per_request = 1000001\ntimeout = \"2h\"\nmax_attempts = 101\n";
    insta::assert_snapshot!(refused_source(limits), @r#"
        shop.toml:6:15: `concurrency` in [source.limits] must be from 1 to 64, not `0`
        shop.toml:7:23: `requests_per_second` in [source.limits] must be from 0.001 to 10000, not `-1`
        shop.toml:8:22: `traces_per_request` in [source.limits] must be from 1 to 1000000, not `1000001`
        shop.toml:9:11: `timeout` in [source.limits] must be from 100ms to 1h, not `2h`
        shop.toml:10:16: `max_attempts` in [source.limits] must be from 1 to 100, not `101`
        "#);
}

#[test]
fn named_sources() {
    let job = GOOD.replace("{ url = \"http://localhost:3200\" }", "\"prod\"");
    let folder = Folder::new(&[("jobs/a.toml", &job)]);
    insta::assert_snapshot!(folder.refused(&["jobs/a.toml"]), @r#"jobs/a.toml:2:10: `source` is `prod`, but there is no jobs/sources.toml; create it with a [prod] table, or write the source here: source = { url = "…" }"#);
    folder.write("jobs/sources.toml", b"[prd]\nurl = \"http://x\"\n");
    insta::assert_snapshot!(folder.refused(&["jobs/a.toml"]), @"jobs/a.toml:2:10: `source` is `prod`, which jobs/sources.toml does not have; did you mean `prd`?");
    folder.write(
        "jobs/sources.toml",
        b"[staging]\nurl = \"http://x\"\n[test]\nurl = \"http://y\"\n",
    );
    insta::assert_snapshot!(folder.refused(&["jobs/a.toml"]), @"jobs/a.toml:2:10: `source` is `prod`, which jobs/sources.toml does not have; it has `staging`, `test`");
    folder.write(
        "jobs/sources.toml",
        b"[prod]\nurl = \"http://x\"\ntenant = \"${TENANT}\"\n[other]\nurl = \"${OTHER}\"\n",
    );
    folder.write("jobs/b.toml", job.replace("shop", "second").as_bytes());
    insta::assert_snapshot!(folder.refused(&["jobs"]), @"jobs/sources.toml:3:10: `tenant` in [prod] needs the environment variable `TENANT`, which is not set; set it, or give a default: `${TENANT:-…}`");
    folder.write(
        "jobs/sources.toml",
        b"[prod]\nurl = \"http://x\"\ntennant = \"a\"\n",
    );
    insta::assert_snapshot!(folder.refused(&["jobs"]), @"jobs/sources.toml:3:1: unknown key `tennant` in [prod]; did you mean `tenant`?");
    folder.write("jobs/sources.toml", b"[prod\nurl = 1\n");
    insta::assert_snapshot!(folder.refused(&["jobs"]), @"jobs/sources.toml:1:6: not valid TOML: unclosed table, expected `]`");
    folder.write(
        "jobs/sources.toml",
        b"[prod]\nurl = \"http://x\"\n[other]\nurl = \"nonsense\"\n",
    );
    insta::assert_snapshot!(folder.run(&["check", "jobs/a.toml"], &[]).stderr, @"jobs/sources.toml:4:7: `url` in [other] is not an http or https URL: `nonsense`; write `http://nonsense`");
}

#[test]
fn files_that_are_none() {
    let folder = Folder::new(&[
        ("empty.toml", "\n# nothing\n"),
        ("folder/sources.toml", "[a]\nurl = \"http://x\"\n"),
        ("none/readme.md", ""),
    ]);
    folder.write("binary.toml", b"name = \"a\"\nx = \"\xff\xfe\"\n");
    folder.write("utf16.toml", b"\xff\xfen\0");
    folder.write("large.toml", &[b'#'; 1024 * 1024 + 1]);
    insta::assert_snapshot!(folder.refused(&["empty.toml"]), @"empty.toml: is empty; `tempo-harvest init --url URL` prints a job file");
    insta::assert_snapshot!(folder.refused(&["binary.toml"]), @"binary.toml:2:6: not text: byte 0xff at offset 16 is not UTF-8; a job file is TOML, in UTF-8");
    insta::assert_snapshot!(folder.refused(&["utf16.toml"]), @"utf16.toml: is UTF-16; save it as UTF-8");
    insta::assert_snapshot!(folder.refused(&["large.toml"]), @"large.toml: is larger than 1 MiB, so it is no job file");
    insta::assert_snapshot!(folder.refused(&["none"]), @"none: there is no job file (*.toml) in this folder; `tempo-harvest init --url URL` prints one");
    insta::assert_snapshot!(folder.refused(&["nowhere.toml"]), @"nowhere.toml: cannot be read: No such file or directory");
    insta::assert_snapshot!(folder.refused(&["/dev/null"]), @"/dev/null: is not a regular file");
    let said = folder.run(&["check", "folder"], &[]);
    insta::assert_snapshot!(said.stderr, @"folder: there is no job file (*.toml) in this folder; `tempo-harvest init --url URL` prints one");
    assert_eq!(said.code, Some(2));
}

#[test]
fn two_jobs_with_one_name() {
    let folder = Folder::new(&[("jobs/a.toml", GOOD), ("jobs/b.toml", GOOD)]);
    let said = folder.run(&["check", "jobs"], &[]);
    assert_eq!(said.code, Some(2));
    insta::assert_snapshot!(said.stderr, @"jobs/b.toml:1:8: `name` is `shop`, but that is the job at jobs/a.toml:1:8; give one of them another name");
    // The same file twice is one file.
    assert_eq!(
        folder
            .run(&["check", "jobs/a.toml", "./jobs/../jobs/a.toml"], &[])
            .code,
        Some(0)
    );
}

#[test]
fn syntax() {
    insta::assert_snapshot!(refused("name = \"shop\nsource = \"x\"\n[backfill\nlast = \"1d\"\n"), @r#"
        shop.toml:1:13: not valid TOML: invalid basic string, expected `"`
        shop.toml:3:10: not valid TOML: unclosed table, expected `]`
        "#);
    insta::assert_snapshot!(refused(&format!("{GOOD}last = \"2d\"\nsettle = \n")), @r#"
        shop.toml:5:1: `last` is there twice; keep one of them
        shop.toml:6:10: a key without a value; give it one, or remove the key
        "#);
    insta::assert_snapshot!(refused(&format!("{GOOD}last = \"2d\"\nwindow = 2m\n")), @r#"
        shop.toml:5:1: `last` is there twice; keep one of them
        shop.toml:6:10: a value without quotes; write strings, durations too, as "…"
        "#);
}

#[test]
fn what_is_tolerated() {
    let folder = Folder::new(&[("bom.toml", &format!("\u{feff}{GOOD}"))]);
    folder.write(
        "crlf.toml",
        GOOD.replace('\n', "\r\n")
            .replace("shop", "crlf")
            .as_bytes(),
    );
    let without_seconds = "from = 2026-11-01T00:00Z\nto = 2026-11-02 00:00+01:00";
    let text = GOOD
        .replace("last = \"1d\"", without_seconds)
        .replace("shop", "minutes");
    folder.write("minutes.toml", text.as_bytes());
    folder.write(".hidden.toml", b"nonsense");
    folder.write("inner/x.toml", b"nonsense");
    let said = folder.run(&["check", "."], &[]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    insta::assert_snapshot!(said.stdout, @r#"
        ./bom.toml: ok: `shop`: every trace from `localhost:3200` into dataset `shop`, detail trace; backfill of the last 1d in windows up to 1d, newest first
        ./crlf.toml: ok: `crlf`: every trace from `localhost:3200` into dataset `crlf`, detail trace; backfill of the last 1d in windows up to 1d, newest first
        ./minutes.toml: ok: `minutes`: every trace from `localhost:3200` into dataset `minutes`, detail trace; backfill of 2026-11-01T00:00:00Z to 2026-11-01T23:00:00Z in windows up to 1d, newest first
        "#);
}

#[test]
fn a_byte_order_mark_takes_no_column() {
    let folder = Folder::new(&[(
        "bom.toml",
        &format!("\u{feff}{}", GOOD.replace("name", "nam")),
    )]);
    insta::assert_snapshot!(folder.refused(&["bom.toml"]), @"bom.toml:1:1: unknown key `nam`; did you mean `name`?");
}

#[cfg(unix)]
#[test]
fn links_are_followed() {
    let folder = Folder::new(&[("real/a.toml", GOOD)]);
    std::fs::create_dir(folder.0.path().join("jobs")).unwrap();
    std::os::unix::fs::symlink("../real/a.toml", folder.0.path().join("jobs/a.toml")).unwrap();
    std::os::unix::fs::symlink("missing.toml", folder.0.path().join("jobs/b.toml")).unwrap();
    let said = folder.run(&["check", "jobs", "real"], &[]);
    assert_eq!(said.code, Some(2));
    insta::assert_snapshot!(said.stderr, @"jobs/b.toml: cannot be read: No such file or directory");
    insta::assert_snapshot!(said.stdout, @"jobs/a.toml: ok: `shop`: every trace from `localhost:3200` into dataset `shop`, detail trace; backfill of the last 1d in windows up to 1d, newest first");
}

#[test]
fn what_seals_too_early_is_warned_of() {
    let folder = Folder::new(&[(
        "a.toml",
        &format!("{GOOD}settle = \"10m\"\n[poll]\nseal_after = \"30m\"\n"),
    )]);
    let said = folder.run(&["check", "a.toml"], &[]);
    assert_eq!(said.code, Some(0));
    insta::assert_snapshot!(said.stderr, @"
    a.toml: job `shop`: `settle` is under an hour: so young, Tempo can hide traces from every search for a while, and what is collected then counts as complete all the same
    a.toml: job `shop`: `seal_after` is under an hour: so young, Tempo can hide traces from every search for a while, and what is collected then counts as complete all the same
    ");
}

#[test]
fn json() {
    let folder = Folder::new(&[("a.toml", GOOD), ("b.toml", "nam = 1\n")]);
    let said = folder.run(&["check", "--json", "."], &[]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(2), ""));
    let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    insta::assert_json_snapshot!(report, @r#"
        {
          "files": [
            {
              "dataset": "shop",
              "file": "./a.toml",
              "kind": "job",
              "name": "shop",
              "source": "localhost:3200",
              "summary": "`shop`: every trace from `localhost:3200` into dataset `shop`, detail trace; backfill of the last 1d in windows up to 1d, newest first",
              "warnings": []
            }
          ],
          "ok": false,
          "problems": [
            {
              "column": 1,
              "file": "./b.toml",
              "fix": "did you mean `name`?",
              "key": "nam",
              "line": 1,
              "message": "unknown key `nam`"
            },
            {
              "column": 1,
              "file": "./b.toml",
              "fix": "add for example `source = \"prod\"`",
              "key": "source",
              "line": 1,
              "message": "`source` is missing"
            },
            {
              "column": 1,
              "file": "./b.toml",
              "fix": "add a [backfill] with `last = \"7d\"`, or a [poll]",
              "key": null,
              "line": 1,
              "message": "the job collects nothing: it has neither [backfill] nor [poll]"
            }
          ]
        }
        "#);
}

#[test]
fn secrets_are_not_shown() {
    let text = "name = \"shop\"\nbackfill.last = \"1d\"\n[source]\nurl = \"http://me:hunter2@x\"\nbearer_token = \"hunter2 \"\n\
                password = \"hunter2\"\nheaders = { X-Token = \"hunter2\\u0000\", Authorization = [\"hunter2\"] }\n\
                [source.basic_auth]\nusername = true\npassword = { a = \"hunter2\" }\n";
    for arguments in [
        &["check", "shop.toml"][..],
        &["check", "--json", "shop.toml"],
    ] {
        let said = Folder::new(&[("shop.toml", text)]).run(arguments, &[]);
        assert_eq!(said.code, Some(2));
        assert!(!format!("{said:?}").contains("hunter2"), "{said:?}");
    }
}

#[test]
fn init_prints_what_check_accepts() {
    let folder = Folder::new(&[]);
    let said = folder.run(
        &[
            "init",
            "--url",
            "http://localhost:3200/",
            "--name",
            "shop",
            "--output",
            "shop.toml",
        ],
        &[],
    );
    assert_eq!(
        (said.code, said.stdout.as_str(), said.stderr.as_str()),
        (Some(0), "", "")
    );
    insta::assert_snapshot!(folder.run(&["check", "shop.toml"], &[]).stdout, @"shop.toml: ok: `shop`: every trace from `localhost:3200` into dataset `shop`, detail trace; backfill of the last 1d in windows up to 1d, newest first");

    let again = folder.run(&["init", "--url", "http://x", "--output", "shop.toml"], &[]);
    assert_eq!(again.code, Some(2));
    insta::assert_snapshot!(again.stderr, @"error: `shop.toml` exists already; name another file, or remove it first");

    let printed = folder.run(
        &[
            "init", "--url", "${URL}", "--tenant", "a\"b", "--last", "30m",
        ],
        &[],
    );
    assert_eq!(printed.code, Some(0));
    folder.write("b.toml", printed.stdout.as_bytes());
    insta::assert_snapshot!(folder.run(&["check", "b.toml"], &[("URL", "http://x")]).stdout, @r#"b.toml: ok: `traces`: every trace from `a"b@x:80` into dataset `traces`, detail trace; backfill of the last 30m in windows of 30m, newest first"#);
    // What is commented out is right too, taken one by one.
    let comments = printed
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.contains(" = "));
    let mut tried = 0;
    // Those of tables that are commented out as a whole come next.
    let in_table = |line: &&str| {
        let later = ["every", "traces", "schedule = \"0 30", "last", "deep"];
        !later.iter().any(|key| line.starts_with(key))
    };
    for line in comments.filter(in_table) {
        let text = printed.stdout.replacen(&format!("# {line}"), line, 1);
        folder.write("b.toml", text.as_bytes());
        let said = folder.run(
            &["check", "b.toml"],
            &[
                ("URL", "http://x"),
                ("TEMPO_TOKEN", "t"),
                ("TEMPO_PASSWORD", "p"),
            ],
        );
        assert_eq!(said.code, Some(0), "{line}\n{}", said.stderr);
        tried += 1;
    }
    assert!(tried >= 6, "{tried}");
    for (table, line) in [
        ("[poll]", "every = "),
        ("[retention]", "traces = "),
        ("[verify]", "schedule = \"0 30"),
    ] {
        let text = printed.stdout.replacen(&format!("# {table}"), table, 1);
        let text = text.replacen(&format!("# {line}"), line, 1);
        folder.write("b.toml", text.as_bytes());
        let said = folder.run(&["check", "b.toml"], &[("URL", "http://x")]);
        assert_eq!(said.code, Some(0), "{table}\n{}", said.stderr);
    }

    let wrong = folder.run(&["init", "--url", "localhost", "--name", "A B"], &[]);
    assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(2), ""));
    insta::assert_snapshot!(wrong.stderr, @r#"
        error: `--name` must be 1 to 63 lower-case letters, digits, `_` and `-`, beginning with a letter or digit, not `A B`
        `--url` is not an http or https URL: `localhost`; write `http://localhost`
        "#);
}

#[test]
fn schemas_are_json() {
    for (arguments, title) in [
        (&["schema"][..], "tempo-harvest job file"),
        (&["schema", "--sources"], "tempo-harvest sources.toml"),
    ] {
        let said = Folder::new(&[]).run(arguments, &[]);
        assert_eq!(said.code, Some(0));
        let schema: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(schema["title"], title);
    }
}
