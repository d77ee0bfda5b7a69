//! From the literal types to the validated ones: which values are possible, and which go together.
//!
//! Structure - unknown keys, wrong types - has been checked before; what was taken out then, or is not known without an
//! environment, is not missed here. The source is read in [`super::source`].

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::attributes;
use super::diagnostics::{KeyPath, Problem, quoted};
use super::reader::Reader;
use super::spec::{
    BACKFILL_LAST, BACKFILL_SETTLE, BACKFILL_WINDOW, BASELINE_EVERY, BASELINE_HISTORY,
    BackfillSpec, BaselineSpec, DEFAULT_BACKFILL_SETTLE, DEFAULT_BACKFILL_WINDOW,
    DEFAULT_BASELINE_EVERY, DEFAULT_BASELINE_HISTORY, DEFAULT_POLL_DELAY, DEFAULT_POLL_EVERY,
    DEFAULT_POLL_LOOKBACK, DEFAULT_POLL_LOOKBACK_MAX, DEFAULT_POLL_SEAL_AFTER, DEFAULT_TIMEZONE,
    DEFAULT_VERIFY_LAST, DatetimeText, DetailSpec, JobSpec, OrderSpec, POLL_CATCH_UP, POLL_DELAY,
    POLL_EVERY, POLL_LOOKBACK, PollSpec, RETENTION_TRACES, RetentionSpec, SelectSpec, VERIFY_LAST,
    VerifySpec,
};
use super::{
    Backfill, BackfillRange, Baseline, Detail, LONGEST_RANGE_S, LONGEST_WINDOW, MOST_WINDOWS,
    Order, Poll, Retention, Schedule, Select, Ticks, Verify, duration, instant, schedule, traceql,
};

/// A job without its source.
pub(super) struct Validated {
    pub dataset: String,
    pub enabled: bool,
    pub timezone: Tz,
    pub select: Select,
    pub backfill: Option<Backfill>,
    pub poll: Option<Poll>,
    pub baseline: Option<Baseline>,
    pub retention: Option<Retention>,
    pub verify: Option<Verify>,
}

/// Validates all of `spec` but its source and its name; problems go to `reader`. `None` when anything is wrong or not known.
pub(super) fn validate(
    spec: &JobSpec,
    now: DateTime<Utc>,
    reader: &mut Reader<'_>,
) -> Option<Validated> {
    let root = KeyPath::root();
    let dataset = read_name(
        &root.child("dataset"),
        spec.dataset.as_ref().unwrap_or(&spec.name),
        reader,
        spec.dataset.is_some(),
    );
    let timezone = read_timezone(&root.child("timezone"), spec.timezone.as_deref(), reader);
    // Schedules are looked at even if the timezone is not known: it decides when they tick, not whether.
    let clock = Clock {
        now,
        timezone: timezone.unwrap_or(Tz::UTC),
    };
    let select = read_select(spec.select.as_ref(), &root.child("select"), reader);
    let (at_backfill, at_poll) = (root.child("backfill"), root.child("poll"));
    let is_idle = spec.backfill.is_none() && spec.poll.is_none();
    if is_idle && !reader.is_unusable(&at_backfill) && !reader.is_unusable(&at_poll) {
        let problem = Problem::key(
            &root,
            "the job collects nothing: it has neither [backfill] nor [poll]",
        );
        reader.refuse(problem.fix("add a [backfill] with `last = \"7d\"`, or a [poll]"));
    }
    let backfill = spec
        .backfill
        .as_ref()
        .map(|backfill| read_backfill(backfill, &at_backfill, &clock, reader));
    let poll = spec
        .poll
        .as_ref()
        .map(|poll| read_poll(poll, &at_poll, &clock, reader));
    let baseline = spec
        .baseline
        .as_ref()
        .map(|baseline| read_baseline(baseline, &root.child("baseline"), reader));
    let retention = spec.retention.as_ref().map(|retention| {
        let backfill = backfill.as_ref().and_then(Option::as_ref);
        read_retention(retention, &root.child("retention"), backfill, reader)
    });
    let verify = spec
        .verify
        .as_ref()
        .map(|verify| read_verify(verify, &root.child("verify"), &clock, reader));
    Some(Validated {
        dataset: dataset?,
        enabled: spec.enabled.unwrap_or(true),
        timezone: timezone?,
        select: select?,
        backfill: all_or_none(backfill)?,
        poll: all_or_none(poll)?,
        baseline: all_or_none(baseline)?,
        retention: all_or_none(retention)?,
        verify: all_or_none(verify)?,
    })
}

/// What schedules and ranges are held against.
struct Clock {
    now: DateTime<Utc>,
    timezone: Tz,
}

/// `None` when the table is there and wrong.
fn all_or_none<T>(table: Option<Option<T>>) -> Option<Option<T>> {
    match table {
        Some(None) => None,
        Some(value) => Some(value),
        None => Some(None),
    }
}

/// The name of a job or dataset. One that was taken over from elsewhere is reported there, not here.
pub(super) fn read_name(
    key: &KeyPath,
    name: &str,
    reader: &mut Reader<'_>,
    is_written: bool,
) -> Option<String> {
    if reader.is_unusable(key) {
        return None;
    }
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let is_possible = name.len() <= 63
        && name.chars().all(is_inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !is_possible && is_written {
        reader.refuse(Problem::value(
            key,
            format!(
                "must be 1 to 63 lower-case letters, digits, `_` and `-`, beginning with a letter or digit, not {}",
                quoted(name)
            ),
        ));
    }
    is_possible.then(|| name.to_owned())
}

fn read_timezone(key: &KeyPath, name: Option<&str>, reader: &mut Reader<'_>) -> Option<Tz> {
    if reader.is_unusable(key) {
        return None;
    }
    let name = name.unwrap_or(DEFAULT_TIMEZONE);
    let timezone = schedule::parse_timezone(name).map_err(|meant| {
        let fix = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "write a name of the IANA database, such as `Europe/Berlin`".to_owned(),
        };
        (format!("is not a known timezone: {}", quoted(name)), fix)
    });
    reader.accept(key, timezone)
}

fn read_select(spec: Option<&SelectSpec>, at: &KeyPath, reader: &mut Reader<'_>) -> Option<Select> {
    let none = SelectSpec::default();
    let spec = spec.unwrap_or(&none);
    let query = match &spec.query {
        None => Some(None),
        Some(query) => {
            let checked =
                traceql::check(query).map_err(|error| (error.to_string(), error.fix().to_owned()));
            reader
                .accept(&at.child("query"), checked)
                .map(|()| Some(query.trim().to_owned()))
        }
    };
    let detail = match spec.detail {
        None | Some(DetailSpec::Trace) => Detail::Trace,
        Some(DetailSpec::Services) => Detail::Services,
        Some(DetailSpec::Spans) => Detail::Spans,
    };
    let at_attributes = at.child("attributes");
    let written = spec.attributes.as_deref().unwrap_or_default();
    if spec.attributes.is_some()
        && detail != Detail::Spans
        && !reader.is_unusable(&at.child("detail"))
    {
        let what = format!(
            "{} needs `detail = \"spans\"`: only spans are stored with attributes",
            at_attributes.subject()
        );
        reader.refuse(
            Problem::key(&at_attributes, what).fix("set `detail = \"spans\"`, or remove it"),
        );
    }
    let attributes = read_attributes(written, &at_attributes, reader);
    Some(Select {
        query: query?,
        detail,
        attributes: attributes?,
    })
}

/// The attributes by their names with scope, sorted.
fn read_attributes(
    written: &[String],
    key: &KeyPath,
    reader: &mut Reader<'_>,
) -> Option<Vec<String>> {
    let mut known: Vec<(usize, attributes::Attribute)> = Vec::new();
    let mut complete = true;
    for (index, written) in written.iter().enumerate() {
        let at = key.element(index);
        let read = attributes::parse(written).and_then(|attribute| {
            let alike = known
                .iter()
                .find(|(_, other)| !attribute.is_told_from(other));
            match alike {
                Some((first, other)) if *other == attribute => Err((
                    format!(
                        "names {} again, after `attributes[{first}]`",
                        quoted(written)
                    ),
                    "remove it".to_owned(),
                )),
                Some((_, other)) => Err((
                    format!(
                        "cannot be had together with `{}`: Tempo's answers name both alike: {}",
                        other.full_name(),
                        quoted(written)
                    ),
                    "keep one of them".to_owned(),
                )),
                None => Ok(attribute),
            }
        });
        match reader.accept(&at, read) {
            Some(attribute) => known.push((index, attribute)),
            None => complete = false,
        }
    }
    let mut names: Vec<String> = known
        .iter()
        .map(|(_, attribute)| attribute.full_name())
        .collect();
    names.sort_unstable();
    complete.then_some(names)
}

fn read_schedule(
    key: &KeyPath,
    text: Option<&str>,
    clock: &Clock,
    reader: &mut Reader<'_>,
) -> Option<Option<Schedule>> {
    if reader.is_unusable(key) {
        return None;
    }
    let Some(text) = text else {
        return Some(None);
    };
    let schedule = Schedule::parse(text, clock.timezone, clock.now)
        .map_err(|error| (error.to_string(), error.fix().to_owned()));
    reader.accept(key, schedule).map(Some)
}

fn read_backfill(
    spec: &BackfillSpec,
    at: &KeyPath,
    clock: &Clock,
    reader: &mut Reader<'_>,
) -> Option<Backfill> {
    let window = reader.duration(
        &at.child("window"),
        spec.window.as_ref(),
        DEFAULT_BACKFILL_WINDOW,
        BACKFILL_WINDOW,
    );
    let settle = reader.duration(
        &at.child("settle"),
        spec.settle.as_ref(),
        DEFAULT_BACKFILL_SETTLE,
        BACKFILL_SETTLE,
    );
    let schedule = read_schedule(
        &at.child("schedule"),
        spec.schedule.as_deref(),
        clock,
        reader,
    );
    let range = read_range(spec, at, window, clock.now, reader);
    if let (Some(range), Some(window)) = (&range, window) {
        refuse_too_much(range, window, at, reader);
    }
    Some(Backfill {
        range: range?,
        window: window?,
        longest_window: match spec.window {
            Some(_) => window?,
            None => LONGEST_WINDOW,
        },
        settle: settle?,
        order: match spec.order {
            None | Some(OrderSpec::NewestFirst) => Order::NewestFirst,
            Some(OrderSpec::OldestFirst) => Order::OldestFirst,
        },
        schedule: schedule?,
    })
}

/// A range that nobody means, and windows that would not fit into memory.
fn refuse_too_much(range: &BackfillRange, window: Duration, at: &KeyPath, reader: &mut Reader<'_>) {
    let width_s = match range {
        BackfillRange::Last(last) => last.as_secs(),
        BackfillRange::Between { from, to } => (*to - *from).num_seconds().unsigned_abs(),
    };
    if width_s > LONGEST_RANGE_S.unsigned_abs() {
        let what = format!(
            "lies {} after `from`; a range is 3650d at most",
            duration::format(Duration::from_secs(width_s))
        );
        reader.refuse(Problem::value(&at.child("to"), what));
        return;
    }
    let windows = width_s / window.as_secs().max(1);
    if windows > MOST_WINDOWS.unsigned_abs() {
        let what = format!("would cut the range into {windows} windows, more than {MOST_WINDOWS}");
        let fix = "take longer ones: full ones are cut by themselves";
        reader.refuse(Problem::value(&at.child("window"), what).fix(fix));
    }
}

fn read_range(
    spec: &BackfillSpec,
    at: &KeyPath,
    window: Option<Duration>,
    now: DateTime<Utc>,
    reader: &mut Reader<'_>,
) -> Option<BackfillRange> {
    let (at_last, at_from, at_to) = (at.child("last"), at.child("from"), at.child("to"));
    let last = reader.optional_duration(&at_last, spec.last.as_ref(), BACKFILL_LAST);
    if let (Some(Some(last)), Some(window)) = (last, window)
        && last < window
    {
        let window = duration::format(window);
        let what = format!(
            "must be at least one window ({window}), not `{}`",
            duration::format(last)
        );
        reader.refuse(Problem::value(&at_last, what));
    }
    let from = spec
        .from
        .as_ref()
        .map(|text| read_datetime(&at_from, text, now, reader));
    let to = spec
        .to
        .as_ref()
        .map(|text| read_datetime(&at_to, text, now, reader));
    if let (Some(Some(from)), Some(Some(to))) = (from, to)
        && to <= from
    {
        let (from, to) = (instant::format(from), instant::format(to));
        reader.refuse(Problem::value(
            &at_to,
            format!("must be after `from`, but `from` is {from} and `to` is {to}"),
        ));
    }
    let is_there =
        |written: bool, key: &KeyPath, reader: &Reader<'_>| written || reader.is_unusable(key);
    let has_last = is_there(spec.last.is_some(), &at_last, reader);
    let has_from = is_there(spec.from.is_some(), &at_from, reader);
    let has_to = is_there(spec.to.is_some(), &at_to, reader);
    match (has_last, has_from, has_to) {
        (true, false, false) => Some(BackfillRange::Last(last??)),
        (false, true, true) => Some(BackfillRange::Between {
            from: from??,
            to: to??,
        }),
        (true, ..) => {
            let other = if has_from { &at_from } else { &at_to };
            let message = format!(
                "`last` and {} are two ways to say the range",
                other.subject()
            );
            reader.refuse(
                Problem::conflict(&at_last, other, message).fix("keep `last`, or `from` and `to`"),
            );
            None
        }
        (false, false, false) => {
            let problem = Problem::key(&at_last, format!("[{at}] does not say its range"));
            reader.refuse(problem.fix("add `last = \"7d\"`, or `from` and `to`"));
            None
        }
        (false, true, false) | (false, false, true) => {
            let (written, missing) = if has_from {
                (&at_from, &at_to)
            } else {
                (&at_to, &at_from)
            };
            let message = format!("{} needs `{}` beside it", written.subject(), missing.leaf());
            let fix = format!("add `{}`, or say `last = \"7d\"` instead", missing.leaf());
            reader.refuse(Problem::key(written, message).fix(fix));
            None
        }
    }
}

fn read_datetime(
    key: &KeyPath,
    DatetimeText(text): &DatetimeText,
    now: DateTime<Utc>,
    reader: &mut Reader<'_>,
) -> Option<DateTime<Utc>> {
    match instant::parse_written(text) {
        Ok(instant) if instant > now => {
            let (instant, now) = (instant::format(instant), instant::format(now));
            reader.refuse(Problem::value(
                key,
                format!("is in the future: {instant}, and now is {now}"),
            ));
            None
        }
        Ok(instant) => Some(instant),
        Err(error) => {
            reader.refuse(Problem::value(key, error));
            None
        }
    }
}

fn read_poll(
    spec: &PollSpec,
    at: &KeyPath,
    clock: &Clock,
    reader: &mut Reader<'_>,
) -> Option<Poll> {
    let (at_every, at_schedule) = (at.child("every"), at.child("schedule"));
    let every = reader.duration(
        &at_every,
        spec.every.as_ref(),
        DEFAULT_POLL_EVERY,
        POLL_EVERY,
    );
    let schedule = read_schedule(&at_schedule, spec.schedule.as_deref(), clock, reader);
    if spec.every.is_some() && spec.schedule.is_some() {
        let message = format!(
            "`every` and {} are two ways to say when",
            at_schedule.subject()
        );
        reader.refuse(Problem::conflict(&at_every, &at_schedule, message).fix("keep one of them"));
    }
    let at_delay = at.child("delay");
    let delay = reader.duration(
        &at_delay,
        spec.delay.as_ref(),
        DEFAULT_POLL_DELAY,
        POLL_DELAY,
    );
    let (at_lookback, at_most, at_seal) = (
        at.child("lookback"),
        at.child("lookback_max"),
        at.child("seal_after"),
    );
    let lookback = reader.duration(
        &at_lookback,
        spec.lookback.as_ref(),
        DEFAULT_POLL_LOOKBACK,
        POLL_LOOKBACK,
    );
    let widest = DEFAULT_POLL_LOOKBACK_MAX.max(lookback.unwrap_or_default());
    let lookback_max = reader.duration(&at_most, spec.lookback_max.as_ref(), widest, POLL_LOOKBACK);
    let seal_after = reader.duration(
        &at_seal,
        spec.seal_after.as_ref(),
        DEFAULT_POLL_SEAL_AFTER,
        POLL_LOOKBACK,
    );
    refuse_disorder((&at_delay, delay), (&at_lookback, lookback), reader);
    refuse_disorder((&at_lookback, lookback), (&at_most, lookback_max), reader);
    refuse_disorder((&at_lookback, lookback), (&at_seal, seal_after), reader);
    let catch_up =
        reader.optional_duration(&at.child("catch_up"), spec.catch_up.as_ref(), POLL_CATCH_UP);
    Some(Poll {
        ticks: match schedule? {
            Some(schedule) => Ticks::Schedule(schedule),
            None => Ticks::Every(every?),
        },
        delay: delay?,
        lookback: lookback?,
        lookback_max: lookback_max?,
        seal_after: seal_after?,
        catch_up: catch_up?,
    })
}

/// Two durations of which the first must not be the longer one; whichever is written last is pointed at.
fn refuse_disorder(
    (at_less, less): (&KeyPath, Option<Duration>),
    (at_more, more): (&KeyPath, Option<Duration>),
    reader: &mut Reader<'_>,
) {
    if let (Some(less), Some(more)) = (less, more)
        && less > more
    {
        let message = format!(
            "{} must be at least `{}`, but they are {} and {}",
            at_more.subject(),
            at_less.leaf(),
            duration::format(more),
            duration::format(less)
        );
        reader.refuse(Problem::conflict(at_less, at_more, message));
    }
}

fn read_baseline(spec: &BaselineSpec, at: &KeyPath, reader: &mut Reader<'_>) -> Option<Baseline> {
    let every = reader.duration(
        &at.child("every"),
        spec.every.as_ref(),
        DEFAULT_BASELINE_EVERY,
        BASELINE_EVERY,
    );
    let history = reader.duration(
        &at.child("history"),
        spec.history.as_ref(),
        DEFAULT_BASELINE_HISTORY,
        BASELINE_HISTORY,
    );
    Some(Baseline {
        every: every?,
        history: history?,
    })
}

fn read_verify(
    spec: &VerifySpec,
    at: &KeyPath,
    clock: &Clock,
    reader: &mut Reader<'_>,
) -> Option<Verify> {
    let schedule = read_schedule(&at.child("schedule"), Some(&spec.schedule), clock, reader);
    let last = reader.duration(
        &at.child("last"),
        spec.last.as_ref(),
        DEFAULT_VERIFY_LAST,
        VERIFY_LAST,
    );
    Some(Verify {
        schedule: schedule??,
        last: last?,
        deep: spec.deep.unwrap_or(false),
    })
}

/// A retention under which what a backfill collects would be deleted at once, and never be complete, is refused.
fn read_retention(
    spec: &RetentionSpec,
    at: &KeyPath,
    backfill: Option<&Backfill>,
    reader: &mut Reader<'_>,
) -> Option<Retention> {
    let at_traces = at.child("traces");
    let traces = reader.optional_duration(&at_traces, Some(&spec.traces), RETENTION_TRACES)??;
    if let Some(BackfillRange::Last(last)) = backfill.map(|backfill| &backfill.range)
        && traces < *last
    {
        let (kept, last) = (duration::format(traces), duration::format(*last));
        let what = format!(
            "{} keeps them for {kept}, but [backfill] collects the last {last}: the older ones would be deleted as they come",
            at_traces.subject()
        );
        let at_last = KeyPath::root().child("backfill").child("last");
        reader.refuse(
            Problem::conflict(&at_last, &at_traces, what)
                .fix(format!("keep them for at least {last}, or collect less")),
        );
        return None;
    }
    Some(Retention { traces })
}
