//! Time as a value: milliseconds since the Unix epoch, and the clock as an argument.

use std::fmt;

/// An instant in UTC, to the millisecond. Shown and read as ISO 8601 (`2026-05-01T10:23:18.114Z`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The instant `millis` milliseconds after 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970-01-01T00:00:00Z, rounded down.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The instant `span` later; stops at the largest one that can be told.
    #[must_use]
    pub fn after(self, span: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The instant `span` earlier.
    #[must_use]
    pub fn before(self, span: std::time::Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The day in UTC that it lies in.
    #[must_use]
    pub fn day(self) -> Day {
        // Days within what an i64 of milliseconds can hold fit by far; damage must not wrap around.
        Day(i32::try_from(self.0.div_euclid(DAY_MILLIS)).unwrap_or(if self.0 < 0 { i32::MIN } else { i32::MAX }))
    }

    /// Reads an ISO 8601 / RFC 3339 instant with an offset (`Z` or `±hh:mm`). Finer digits than milliseconds are cut.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|t| Self(t.as_millisecond()))
    }
}

/// Milliseconds of a day.
const DAY_MILLIS: i64 = 86_400_000;

/// A day in UTC, counted from 1970-01-01. Shown and read as `2026-05-01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i32);

impl Day {
    /// Its first instant.
    #[must_use]
    pub fn start(self) -> Timestamp {
        Timestamp(i64::from(self.0) * DAY_MILLIS)
    }

    /// The day so many days later, or earlier.
    #[must_use]
    pub const fn plus(self, days: i32) -> Self {
        Self(self.0.saturating_add(days))
    }

    /// Reads `2026-05-01`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 10 {
            return None;
        }
        Timestamp::parse(&format!("{text}T00:00:00Z")).map(Timestamp::day)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(i64::from(self.0));
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl serde::Serialize for Day {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.0.div_euclid(86_400_000), self.0.rem_euclid(86_400_000));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        if !(0..10_000).contains(&year) {
            return write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000);
        }
        // Every answer has such a time in it, so it is written digit by digit and not by the formatting machinery.
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let numbers = [(year, 0..4), (month, 5..7), (day, 8..10), (hour, 11..13), (minute, 14..16), (second, 17..19), (ms % 1000, 20..23)];
        for (mut number, place) in numbers {
            for digit in text[place].iter_mut().rev() {
                *digit += u8::try_from(number % 10).unwrap_or_default();
                number /= 10;
            }
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The proleptic Gregorian date of a day counted from 1970-01-01, by whole 400-year cycles that start in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Where the present comes from. The binary passes the system's clock, tests one that they step.
pub trait Clock: Send + Sync + 'static {
    /// The present instant.
    fn now(&self) -> Timestamp;
}

/// Is `name` a time zone of the IANA database (`Africa/Nairobi`)?
#[must_use]
pub fn is_time_zone(name: &str) -> bool {
    jiff::tz::TimeZone::get(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_reads_back_what_it_shows() {
        for ms in [0, 1, -1, 951_782_400_000, 1_777_631_098_114, 4_107_542_399_999, -62_135_596_800_000] {
            let shown = Timestamp::from_millis(ms).to_string();
            assert_eq!(Timestamp::parse(&shown), Some(Timestamp::from_millis(ms)), "{shown}");
        }
        assert_eq!(Timestamp::from_millis(1_777_631_098_114).to_string(), "2026-05-01T10:24:58.114Z");
        assert_eq!(Timestamp::parse("2026-05-01T13:24:58.114999+03:00"), Some(Timestamp::from_millis(1_777_631_098_114)));
        assert_eq!(Timestamp::parse("2026-05-01"), None);
        assert_eq!(Timestamp::parse("2026-02-30T00:00:00Z"), None);
    }

    #[test]
    fn zones_are_those_of_the_iana_database() {
        assert!(is_time_zone("Africa/Nairobi"));
        assert!(!is_time_zone("Africa/Atlantis"));
    }
}
