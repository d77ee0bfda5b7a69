//! The 48 hours that are told apart, by the clocks of a timezone, and the levels above them.

use chrono::{DateTime, Datelike as _, Timelike as _, Utc, Weekday};
use chrono_tz::Tz;

/// Length of a cell, seconds. The clocks of no timezone differ from UTC by less than whole quarters of an hour.
pub const QUARTER_S: i64 = 900;

/// The quarter of an hour that an instant lies in, counted since 1970.
pub fn quarter_of(ns: i64) -> i64 {
    ns.div_euclid(QUARTER_S * 1_000_000_000)
}

/// Weekend is Saturday and Sunday.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DayType {
    /// Monday to Friday.
    Weekday,
    /// Saturday and Sunday.
    Weekend,
}

impl DayType {
    /// The word that views and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weekday => "weekday",
            Self::Weekend => "weekend",
        }
    }
}

/// How much a baseline takes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// One hour of day on one kind of day.
    Hour,
    /// All hours of one kind of day.
    DayType,
    /// Everything.
    Everything,
}

impl Level {
    /// The word that views and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::DayType => "day type",
            Self::Everything => "everything",
        }
    }
}

/// What a baseline takes together: an hour of a kind of day (0 to 47), a kind of day (48, 49) or everything (50).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// Number of hours that are told apart.
    pub const HOURS: usize = 48;
    /// Everything.
    pub const EVERYTHING: Self = Self(50);

    /// The hours, weekdays first.
    pub fn hours() -> impl Iterator<Item = Self> {
        (0..48).map(Self)
    }

    /// An hour, 0 to 23, of a kind of day.
    pub fn hour_of(day: DayType, hour: u8) -> Self {
        let hour = hour.min(23);
        match day {
            DayType::Weekday => Self(hour),
            DayType::Weekend => Self(24 + hour),
        }
    }

    /// The hour that an instant lies in.
    pub fn at(instant: DateTime<Utc>, timezone: Tz) -> Self {
        let local = instant.with_timezone(&timezone);
        let day = match local.weekday() {
            Weekday::Sat | Weekday::Sun => DayType::Weekend,
            _ => DayType::Weekday,
        };
        Self::hour_of(day, u8::try_from(local.hour()).unwrap_or(0))
    }

    /// The hour that a quarter of an hour lies in.
    pub fn of_quarter(quarter: i64, timezone: Tz) -> Self {
        let begins = DateTime::from_timestamp(quarter.saturating_mul(QUARTER_S), 0);
        Self::at(begins.unwrap_or(DateTime::UNIX_EPOCH), timezone)
    }

    /// Its number; `None` if none has it.
    pub fn from_number(number: i16) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| *n <= 50).map(Self)
    }

    /// Its number in the tables.
    pub fn number(self) -> i16 {
        i16::from(self.0)
    }

    /// How much it takes together.
    pub fn level(self) -> Level {
        match self.0 {
            0..48 => Level::Hour,
            48 | 49 => Level::DayType,
            _ => Level::Everything,
        }
    }

    /// Which kind of day; `None`: both.
    pub fn day_type(self) -> Option<DayType> {
        match self.0 {
            0..24 | 48 => Some(DayType::Weekday),
            24..48 | 49 => Some(DayType::Weekend),
            _ => None,
        }
    }

    /// Which hour of day; `None`: all.
    pub fn hour(self) -> Option<u8> {
        (self.level() == Level::Hour).then_some(self.0 % 24)
    }

    /// The next to ask when this one has too few samples; `None`: there is none.
    pub fn fallback(self) -> Option<Self> {
        match (self.level(), self.day_type()) {
            (Level::Hour, Some(DayType::Weekday)) => Some(Self(48)),
            (Level::Hour, _) => Some(Self(49)),
            (Level::DayType, _) => Some(Self::EVERYTHING),
            (Level::Everything, _) => None,
        }
    }

    /// Whether it takes an hour in.
    pub fn contains(self, hour: Self) -> bool {
        self == hour
            || hour
                .fallback()
                .is_some_and(|next| next == self || next.fallback() == Some(self))
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.day_type(), self.hour()) {
            (Some(day), Some(hour)) => write!(f, "{} {hour:02}h", day.name()),
            (Some(day), None) => f.write_str(match day {
                DayType::Weekday => "weekdays",
                DayType::Weekend => "weekends",
            }),
            (None, _) => f.write_str("everything"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot(instant: &str, timezone: &str) -> String {
        Slot::at(instant.parse().unwrap(), timezone.parse().unwrap()).to_string()
    }

    #[test]
    fn hours_and_weekends_are_those_of_the_timezone() {
        // A Friday.
        assert_eq!(slot("2026-03-06T22:59:59Z", "UTC"), "weekday 22h");
        assert_eq!(slot("2026-03-06T22:59:59Z", "Europe/Berlin"), "weekday 23h");
        assert_eq!(slot("2026-03-06T23:00:00Z", "Europe/Berlin"), "weekend 00h");
        assert_eq!(slot("2026-03-08T22:59:59Z", "Europe/Berlin"), "weekend 23h");
        assert_eq!(slot("2026-03-08T23:00:00Z", "Europe/Berlin"), "weekday 00h");
        assert_eq!(
            slot("2026-03-06T18:15:00Z", "Asia/Kathmandu"),
            "weekend 00h"
        );
        assert_eq!(
            slot("2026-03-06T18:14:59Z", "Asia/Kathmandu"),
            "weekday 23h"
        );
    }

    #[test]
    fn an_hour_that_the_clocks_show_twice_is_one() {
        assert_eq!(slot("2026-10-25T00:30:00Z", "Europe/Berlin"), "weekend 02h");
        assert_eq!(slot("2026-10-25T01:30:00Z", "Europe/Berlin"), "weekend 02h");
        assert_eq!(slot("2026-10-25T02:30:00Z", "Europe/Berlin"), "weekend 03h");
        // And one that they leave out has nothing.
        assert_eq!(slot("2026-03-29T00:59:59Z", "Europe/Berlin"), "weekend 01h");
        assert_eq!(slot("2026-03-29T01:00:00Z", "Europe/Berlin"), "weekend 03h");
    }

    #[test]
    fn levels_and_slots_have_their_words() {
        let levels = [Level::Hour, Level::DayType, Level::Everything];
        assert_eq!(levels.map(Level::name), ["hour", "day type", "everything"]);
        let slots = [48, 49, 50].map(|number| Slot::from_number(number).unwrap());
        let words = slots.map(|slot| (slot.to_string(), slot.level(), slot.hour()));
        let expected = [
            ("weekdays", Level::DayType),
            ("weekends", Level::DayType),
            ("everything", Level::Everything),
        ];
        assert_eq!(
            words,
            expected.map(|(word, level)| (word.to_owned(), level, None))
        );
        assert_eq!(Slot::from_number(51), None);
        assert_eq!(Slot::from_number(-1), None);
        assert_eq!(Slot::hours().count(), Slot::HOURS);
        assert!(Slot::hours().all(|slot| slot.level() == Level::Hour));
        let [weekdays, weekends, _] = slots;
        assert!(!weekdays.contains(Slot::hour_of(DayType::Weekend, 0)));
        assert!(!weekends.contains(Slot::hour_of(DayType::Weekday, 23)));
        assert!(!Slot::hour_of(DayType::Weekday, 1).contains(Slot::hour_of(DayType::Weekday, 2)));
    }

    proptest! {
        #[test]
        fn an_instant_lies_in_the_quarter_that_has_begun(ns in any::<i64>()) {
            let begins = i128::from(quarter_of(ns)) * 15 * 60 * 1_000_000_000;
            prop_assert!((begins..begins + 900_000_000_000).contains(&i128::from(ns)));
        }

        #[test]
        fn a_quarter_lies_in_one_hour_of_any_timezone(
            quarter in 1_700_000i64..2_200_000, into_s in 0..QUARTER_S, zone in prop::sample::select(chrono_tz::TZ_VARIANTS.to_vec())
        ) {
            let instant = DateTime::from_timestamp(quarter * QUARTER_S + into_s, 999_999_999).unwrap();
            prop_assert_eq!(Slot::at(instant, zone), Slot::of_quarter(quarter, zone));
        }

        #[test]
        fn each_hour_falls_back_on_its_kind_of_day_and_then_on_everything(number in 0i16..48) {
            let hour = Slot::from_number(number).unwrap();
            let day = hour.fallback().unwrap();
            prop_assert_eq!(day.day_type(), hour.day_type());
            prop_assert_eq!(day.fallback(), Some(Slot::EVERYTHING));
            prop_assert_eq!(Slot::EVERYTHING.fallback(), None);
            prop_assert!(day.contains(hour) && Slot::EVERYTHING.contains(hour) && hour.contains(hour));
            prop_assert_eq!(Slot::hour_of(hour.day_type().unwrap(), hour.hour().unwrap()), hour);
            prop_assert_eq!(Slot::from_number(hour.number()), Some(hour));
        }
    }
}
