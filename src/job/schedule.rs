//! Cron schedules: when a backfill is submitted again, when a poll ticks.
//!
//! The `cron` crate reads and computes them, seconds first. In front of it stands what people bring from crontab: five
//! fields and `@daily` mean what they mean there, and what means something else there is refused rather than guessed.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;

use super::diagnostics::{closest, quoted};

/// A cron schedule, known to be well formed.
#[derive(Clone, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    cron: Box<cron::Schedule>,
}

/// Why a text is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Too few fields, or too many.
    #[error(
        "is not a cron schedule: {} has {fields} fields, not 5, 6 or 7",
        quoted(text)
    )]
    FieldCount {
        /// The text.
        text: String,
        /// How many fields it has.
        fields: usize,
    },
    /// An `@…` that is not known.
    #[error("is not a cron schedule: {}", quoted(text))]
    Nickname {
        /// The text.
        text: String,
    },
    /// A field that says nothing possible.
    #[error("is not a cron schedule: {} is not a possible {field}", quoted(text))]
    Field {
        /// The field's text.
        text: String,
        /// What the field stands for.
        field: &'static str,
    },
    /// Weekdays as numbers.
    #[error("has a weekday as a number: {}", quoted(text))]
    NumericWeekday {
        /// The field's text.
        text: String,
    },
    /// Day of month and day of week, both restricted, in the crontab form.
    #[error(
        "restricts both the day of the month ({}) and the day of the week ({})",
        quoted(day_of_month),
        quoted(day_of_week)
    )]
    TwoKindsOfDays {
        /// The field for the day of the month.
        day_of_month: String,
        /// The field for the day of the week.
        day_of_week: String,
    },
    /// A schedule that has no tick from now on.
    #[error("never comes: {}", quoted(text))]
    Never {
        /// The text.
        text: String,
    },
}

impl ScheduleError {
    /// What to do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::FieldCount { .. } | Self::Field { .. } => {
                "write second minute hour day-of-month month day-of-week, e.g. `0 15 3 * * *` for 03:15:00 every day"
            }
            Self::Nickname { .. } => "write @hourly, @daily, @weekly, @monthly or @yearly",
            Self::NumericWeekday { .. } => {
                "write MON: cron counts weekdays from Sunday = 0, the cron crate from Sunday = 1"
            }
            Self::TwoKindsOfDays { .. } => {
                "crontab would fire when either matches, here both must: \
                 write six fields, with the second in front, if both is meant, else two jobs"
            }
            Self::Never { .. } => "choose a day that exists and has not passed",
        }
    }
}

/// What the fields stand for, seconds first.
const FIELDS: [&str; 7] = [
    "second (0-59)",
    "minute (0-59)",
    "hour (0-23)",
    "day of the month (1-31)",
    "month (1-12 or JAN-DEC)",
    "day of the week (SUN-SAT)",
    "year (1970-2100)",
];
const DAY_OF_MONTH: usize = 3;
const DAY_OF_WEEK: usize = 5;

impl Schedule {
    /// Reads `text`: six or seven fields with the seconds first, five as in crontab, or `@daily` and the like.
    ///
    /// # Errors
    /// Anything else, and a schedule that has no tick after `now` in the timezone `timezone`.
    pub fn parse(text: &str, timezone: Tz, now: DateTime<Utc>) -> Result<Self, ScheduleError> {
        let fields = fields(text)?;
        let day_of_week = &fields[DAY_OF_WEEK];
        if day_of_week.contains(|c: char| c.is_ascii_digit()) {
            return Err(ScheduleError::NumericWeekday {
                text: day_of_week.clone(),
            });
        }
        let cron = cron::Schedule::from_str(&fields.join(" ")).map_err(|_| bad_field(&fields))?;
        let schedule = Self {
            text: text.trim().to_owned(),
            cron: Box::new(cron),
        };
        if schedule.next_after(now, timezone).is_none() {
            return Err(ScheduleError::Never {
                text: text.to_owned(),
            });
        }
        Ok(schedule)
    }

    /// The first tick after `after`, by the clocks of `timezone`; `None` when there is none before 2101.
    ///
    /// A tick in the hour that a timezone skips in spring is left out that day; one in the hour that it repeats in autumn
    /// comes twice.
    pub fn next_after(&self, after: DateTime<Utc>, timezone: Tz) -> Option<DateTime<Utc>> {
        // The cron crate goes back in time in a repeated hour, so it is only given clocks that never change.
        let shown = after.with_timezone(&timezone).naive_local();
        let ahead = self
            .ticks_after(shown)
            .find_map(|tick| first_after(timezone.from_local_datetime(&tick), after));
        // In an hour that will be repeated, times that the clocks have shown already come again.
        let repeated = match timezone.from_local_datetime(&shown) {
            LocalResult::Ambiguous(earlier, later) => self
                .ticks_after(shown - (later - earlier))
                .take_while(|tick| *tick <= shown)
                .find_map(|tick| first_after(timezone.from_local_datetime(&tick), after)),
            _ => None,
        };
        match (ahead, repeated) {
            (Some(ahead), Some(repeated)) => Some(ahead.min(repeated)),
            (ahead, repeated) => ahead.or(repeated),
        }
    }

    /// The ticks after `shown`, as clocks show them.
    fn ticks_after(&self, shown: NaiveDateTime) -> impl Iterator<Item = NaiveDateTime> {
        self.cron
            .after_owned(shown.and_utc())
            .map(|tick| tick.naive_utc())
    }
}

/// The first of the times at which clocks show something that is after `after`.
fn first_after(times: LocalResult<DateTime<Tz>>, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let earliest = times.earliest().map(|time| time.to_utc());
    let latest = times.latest().map(|time| time.to_utc());
    earliest
        .filter(|time| *time > after)
        .or(latest.filter(|time| *time > after))
}

/// The text as it was written.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({:?})", self.text)
    }
}

/// The six or seven fields that `text` amounts to.
fn fields(text: &str) -> Result<Vec<String>, ScheduleError> {
    let text = text.trim();
    let written = if text.starts_with('@') {
        nickname(text)?
    } else {
        text
    };
    let mut fields: Vec<String> = written.split_whitespace().map(str::to_owned).collect();
    match fields.len() {
        5 => {
            fields.insert(0, "0".to_owned());
            // In crontab a field that begins with a star restricts nothing.
            let is_restricted = |field: &str| !field.starts_with(['*', '?']);
            if is_restricted(&fields[DAY_OF_MONTH]) && is_restricted(&fields[DAY_OF_WEEK]) {
                return Err(ScheduleError::TwoKindsOfDays {
                    day_of_month: fields[DAY_OF_MONTH].clone(),
                    day_of_week: fields[DAY_OF_WEEK].clone(),
                });
            }
            Ok(fields)
        }
        6 | 7 => Ok(fields),
        count => Err(ScheduleError::FieldCount {
            text: text.to_owned(),
            fields: count,
        }),
    }
}

fn nickname(text: &str) -> Result<&'static str, ScheduleError> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "@yearly" | "@annually" => "0 0 0 1 1 *",
        "@monthly" => "0 0 0 1 * *",
        "@weekly" => "0 0 0 * * SUN",
        "@daily" | "@midnight" => "0 0 0 * * *",
        "@hourly" => "0 0 * * * *",
        _ => {
            return Err(ScheduleError::Nickname {
                text: text.to_owned(),
            });
        }
    })
}

/// The first of `fields` that is impossible by itself: the cron crate's own messages do not name it.
fn bad_field(fields: &[String]) -> ScheduleError {
    let is_possible = |index: usize| {
        let mut alone = vec!["*"; fields.len()];
        alone[index] = &fields[index];
        cron::Schedule::from_str(&alone.join(" ")).is_ok()
    };
    let index = (0..fields.len())
        .find(|index| !is_possible(*index))
        .unwrap_or(0);
    ScheduleError::Field {
        text: fields[index].clone(),
        field: FIELDS[index],
    }
}

/// Reads the name of a timezone of the IANA database, such as `Europe/Berlin`.
///
/// # Errors
/// The name that was probably meant, if there is one.
pub(super) fn parse_timezone(name: &str) -> Result<Tz, Option<&'static str>> {
    name.parse().map_err(|_| {
        closest(
            name,
            chrono_tz::TZ_VARIANTS
                .iter()
                .map(|timezone| timezone.name()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn next(schedule: &str, timezone: Tz, after: &str) -> String {
        let schedule = Schedule::parse(schedule, timezone, at("2026-11-22T12:00:00Z")).unwrap();
        schedule
            .next_after(at(after), timezone)
            .unwrap()
            .to_rfc3339()
    }

    #[test]
    fn ticks() {
        for (schedule, expected) in [
            ("0 15 3 * * *", "2026-11-23T03:15:00+00:00"),
            ("15 3 * * *", "2026-11-23T03:15:00+00:00"),
            ("*/15 * * * * *", "2026-11-22T12:00:15+00:00"),
            ("0 0 3 * * MON-FRI", "2026-11-23T03:00:00+00:00"),
            ("0 3 * * sat,sun", "2026-11-28T03:00:00+00:00"),
            ("0 0 0 1 1 * 2028", "2028-01-01T00:00:00+00:00"),
            ("0 0 0 29 FEB *", "2028-02-29T00:00:00+00:00"),
            ("@hourly", "2026-11-22T13:00:00+00:00"),
            ("@daily", "2026-11-23T00:00:00+00:00"),
            ("@weekly", "2026-11-29T00:00:00+00:00"),
            ("@monthly", "2026-12-01T00:00:00+00:00"),
            ("@Yearly", "2027-01-01T00:00:00+00:00"),
            ("0 0 */2 * *", "2026-11-23T00:00:00+00:00"),
            // Six fields: both must match, Friday the 13th.
            ("0 0 0 13 * FRI", "2027-08-13T00:00:00+00:00"),
        ] {
            assert_eq!(
                next(schedule, Tz::UTC, "2026-11-22T12:00:00Z"),
                expected,
                "{schedule}"
            );
        }
    }

    #[test]
    fn is_told_as_it_was_written() {
        let schedule = Schedule::parse(" 15 3 * * * ", Tz::UTC, at("2026-11-22T12:00:00Z"));
        let schedule = schedule.unwrap();
        assert_eq!(schedule.to_string(), "15 3 * * *");
        assert_eq!(format!("{schedule:?}"), "Schedule(\"15 3 * * *\")");
    }

    #[test]
    fn ticks_by_local_clocks() {
        let berlin = Tz::Europe__Berlin;
        assert_eq!(
            next("0 30 3 * * *", berlin, "2026-07-01T00:00:00Z"),
            "2026-07-01T01:30:00+00:00"
        );
        assert_eq!(
            next("0 30 3 * * *", berlin, "2026-12-01T00:00:00Z"),
            "2026-12-01T02:30:00+00:00"
        );
        // 02:30 does not exist on 29 March 2026, and exists twice on 25 October.
        assert_eq!(
            next("0 30 2 * * *", berlin, "2026-03-28T12:00:00Z"),
            "2026-03-30T00:30:00+00:00"
        );
        assert_eq!(
            next("0 30 2 * * *", berlin, "2026-10-25T00:30:00Z"),
            "2026-10-25T01:30:00+00:00"
        );
    }

    #[test]
    fn ticks_go_on_through_a_repeated_hour() {
        for (timezone, start) in [
            (Tz::Europe__Berlin, "2026-10-24T23:30:00Z"),
            (Tz::Australia__Lord_Howe, "2026-04-04T14:00:00Z"),
            (Tz::America__New_York, "2026-11-01T04:30:00Z"),
        ] {
            let schedule = Schedule::parse("0 */15 * * * *", timezone, at(start)).unwrap();
            let mut tick = at(start);
            for _ in 0..16 {
                let next = schedule.next_after(tick, timezone).unwrap();
                assert_eq!((next - tick).num_minutes(), 15, "{timezone} after {tick}");
                tick = next;
            }
        }
    }

    proptest! {
        #[test]
        fn ticks_come_after_and_none_is_left_out(
            after_s in 1_700_000_000_i64..2_000_000_000,
            gap_s in 0_i64..200_000,
            text in prop::sample::select(vec!["0 */7 * * * *", "30 15 2 * * *", "0 0 0,1,2,3 * * SUN", "*/20 * * * * *"]),
            timezone in prop::sample::select(vec![Tz::UTC, Tz::Europe__Berlin, Tz::Australia__Lord_Howe, Tz::America__Havana]),
        ) {
            let start = at("2023-01-01T00:00:00Z");
            let schedule = Schedule::parse(text, timezone, start).unwrap();
            let after = DateTime::from_timestamp(after_s, 0).unwrap();
            let next = schedule.next_after(after, timezone).unwrap();
            prop_assert!(next > after);
            // From anywhere before the tick it is still the next one.
            let between = after + chrono::TimeDelta::seconds(gap_s % (next - after).num_seconds());
            prop_assert_eq!(schedule.next_after(between, timezone), Some(next));
            // What clocks show then is what the schedule says.
            let shown = next.with_timezone(&timezone).naive_local();
            let just_before = shown - chrono::TimeDelta::seconds(1);
            prop_assert_eq!(schedule.ticks_after(just_before).next(), Some(shown));
        }
    }

    /// What a crontab's fields say, asked of what the clocks show.
    #[derive(Debug, Clone)]
    struct Fields {
        minutes: std::collections::BTreeSet<u32>,
        hours: std::collections::BTreeSet<u32>,
        weekday: Option<chrono::Weekday>,
    }

    impl Fields {
        fn text(&self) -> String {
            let list = |numbers: &std::collections::BTreeSet<u32>| {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                numbers.join(",")
            };
            let weekday = self.weekday.map_or("*".to_owned(), |day| day.to_string());
            format!(
                "{} {} * * {weekday}",
                list(&self.minutes),
                list(&self.hours)
            )
        }

        fn tick_at(&self, shown: NaiveDateTime) -> bool {
            use chrono::{Datelike, Timelike};
            self.minutes.contains(&shown.minute())
                && self.hours.contains(&shown.hour())
                && self.weekday.is_none_or(|day| day == shown.weekday())
        }
    }

    proptest! {
        /// A scheduler that acts on the next tick, and is down now and then, meets each moment at which the clocks show what the schedule
        /// says, once: also where clocks are put forward or back.
        #[test]
        fn whatever_the_downtime_each_tick_comes_once(
            minutes in prop::collection::btree_set(0u32..60, 1..5), hours in prop::collection::btree_set(0u32..24, 1..12),
            weekday in prop::option::weighted(0.2, prop::sample::select(vec![chrono::Weekday::Sun, chrono::Weekday::Mon])),
            (timezone, change) in prop::sample::select(vec![
                (Tz::Europe__Berlin, "2026-03-29T01:00:00Z"), (Tz::Europe__Berlin, "2026-10-25T01:00:00Z"),
                (Tz::America__Havana, "2026-03-08T05:00:00Z"), (Tz::America__Havana, "2026-11-01T05:00:00Z"),
                (Tz::Australia__Lord_Howe, "2026-04-04T15:00:00Z"), (Tz::Australia__Lord_Howe, "2026-10-03T15:30:00Z"),
                (Tz::America__Sao_Paulo, "2018-11-04T03:00:00Z"), (Tz::Pacific__Apia, "2011-12-30T10:00:00Z"), (Tz::UTC, "2026-06-01T00:00:00Z"),
            ]),
            before_min in 0i64..2_000, downtimes_min in prop::collection::vec(1i64..400, 0..40),
        ) {
            let fields = Fields { minutes, hours, weekday };
            let begin = at(change) - chrono::TimeDelta::minutes(before_min);
            let end = begin + chrono::TimeDelta::days(3);
            let schedule = Schedule::parse(&fields.text(), timezone, at("2011-01-01T00:00:00Z")).unwrap();
            // Each minute of three days by the clocks on the wall.
            let all = (1..3 * 24 * 60).map(|minute| begin + chrono::TimeDelta::minutes(minute));
            let expected: Vec<DateTime<Utc>> = all.filter(|moment| fields.tick_at(moment.with_timezone(&timezone).naive_local())).collect();
            let (mut met, mut acted_on, mut now) = (Vec::new(), begin, begin);
            for downtime_min in downtimes_min.iter().chain(&[10_000]) {
                now += chrono::TimeDelta::minutes(*downtime_min);
                while let Some(tick) = schedule.next_after(acted_on, timezone).filter(|tick| *tick <= now && *tick < end) {
                    met.push(tick);
                    acted_on = tick;
                }
            }
            prop_assert_eq!(met, expected, "{} in {}", fields.text(), timezone);
        }
    }

    #[test]
    fn refuses_with_advice() {
        let said = |text| {
            let error = Schedule::parse(text, Tz::UTC, at("2026-11-22T12:00:00Z")).unwrap_err();
            format!("{error}; {}", error.fix())
        };
        insta::assert_snapshot!(said("61 * * * * *"), @"is not a cron schedule: `61` is not a possible second (0-59); write second minute hour day-of-month month day-of-week, e.g. `0 15 3 * * *` for 03:15:00 every day");
        insta::assert_snapshot!(said("0 0 25 * * *"), @"is not a cron schedule: `25` is not a possible hour (0-23); write second minute hour day-of-month month day-of-week, e.g. `0 15 3 * * *` for 03:15:00 every day");
        insta::assert_snapshot!(said("0 0 0 * * MOON"), @"is not a cron schedule: `MOON` is not a possible day of the week (SUN-SAT); write second minute hour day-of-month month day-of-week, e.g. `0 15 3 * * *` for 03:15:00 every day");
        insta::assert_snapshot!(said("* * * *"), @"is not a cron schedule: `* * * *` has 4 fields, not 5, 6 or 7; write second minute hour day-of-month month day-of-week, e.g. `0 15 3 * * *` for 03:15:00 every day");
        insta::assert_snapshot!(said(""), @"is not a cron schedule: `` has 0 fields, not 5, 6 or 7; write second minute hour day-of-month month day-of-week, e.g. `0 15 3 * * *` for 03:15:00 every day");
        insta::assert_snapshot!(said("@reboot"), @"is not a cron schedule: `@reboot`; write @hourly, @daily, @weekly, @monthly or @yearly");
        insta::assert_snapshot!(said("0 3 * * 1-5"), @"has a weekday as a number: `1-5`; write MON: cron counts weekdays from Sunday = 0, the cron crate from Sunday = 1");
        insta::assert_snapshot!(said("0 0 3 * * 1"), @"has a weekday as a number: `1`; write MON: cron counts weekdays from Sunday = 0, the cron crate from Sunday = 1");
        insta::assert_snapshot!(said("0 0 13 * FRI"), @"restricts both the day of the month (`13`) and the day of the week (`FRI`); crontab would fire when either matches, here both must: write six fields, with the second in front, if both is meant, else two jobs");
        insta::assert_snapshot!(said("0 0 0 30 2 *"), @"never comes: `0 0 0 30 2 *`; choose a day that exists and has not passed");
        insta::assert_snapshot!(said("0 0 0 1 1 * 2020"), @"never comes: `0 0 0 1 1 * 2020`; choose a day that exists and has not passed");
    }

    #[test]
    fn finds_timezones() {
        assert_eq!(parse_timezone("Europe/Berlin"), Ok(Tz::Europe__Berlin));
        assert_eq!(parse_timezone("europe/berlim"), Err(Some("Europe/Berlin")));
        assert_eq!(parse_timezone("Mars/Olympus_Mons"), Err(None));
    }
}
