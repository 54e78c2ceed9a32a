//! Time as it is handed around: wall time in milliseconds, monotonic time in nanoseconds, and the
//! [`Clock`] that tells both.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Wall time: milliseconds since the Unix epoch, within what RFC 3339 can write (from year 0 to 9999-12-30).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// The first millisecond of year 0, which RFC 3339 can just write, and the last that jiff can read.
const TIMESTAMP_MS_MIN: i64 = -62_167_219_200_000;
const TIMESTAMP_MS_MAX: i64 = 253_402_207_200_999;

/// A time that is not one: not RFC 3339, or outside the years 0 to 9999.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an RFC 3339 time between the years 0 and 9999, such as 2024-05-15T14:30:00Z")]
pub struct InvalidTimestamp(pub String);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`InvalidTimestamp`] outside the years 0 to 9999.
    pub fn from_ms(ms: i64) -> Result<Timestamp, InvalidTimestamp> {
        if (TIMESTAMP_MS_MIN..=TIMESTAMP_MS_MAX).contains(&ms) {
            Ok(Timestamp(ms))
        } else {
            Err(InvalidTimestamp(ms.to_string()))
        }
    }

    /// From milliseconds since the Unix epoch, moved to the nearest time that can be written.
    #[must_use]
    pub fn from_ms_clamped(ms: i64) -> Timestamp {
        Timestamp(ms.clamp(TIMESTAMP_MS_MIN, TIMESTAMP_MS_MAX))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn ms(self) -> i64 {
        self.0
    }

    /// This time and `span` more, no further than can be written.
    #[must_use]
    pub fn plus(self, span: Duration) -> Timestamp {
        let span_ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_ms_clamped(self.0.saturating_add(span_ms))
    }

    /// This time and `span` less, no further than can be written.
    #[must_use]
    pub fn minus(self, span: Duration) -> Timestamp {
        let span_ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_ms_clamped(self.0.saturating_sub(span_ms))
    }

    /// How long after `earlier` this is; zero when it is before.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        let span_ms = self.0.saturating_sub(earlier.0);
        Duration::from_millis(u64::try_from(span_ms).unwrap_or(0))
    }
}

/// RFC 3339 in UTC, with milliseconds left out when they are zero.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms_of_day) = (self.0.div_euclid(86_400_000), self.0.rem_euclid(86_400_000));
        let (year, month, day) = civil_from_days(days);
        let (hour, minute) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60);
        let (second, ms) = (ms_of_day / 1_000 % 60, ms_of_day % 1_000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if ms != 0 {
            write!(f, ".{ms:03}")?;
        }
        f.write_str("Z")
    }
}

/// The proleptic Gregorian date of a day counted from 1970-01-01. Written out because every payload
/// of every fire holds two times, and a calendar library's printer took a tenth of a fire's cost.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // Counting from 0000-03-01 puts the leap day last in its year, and 400 years are 146,097 days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Timestamp, InvalidTimestamp> {
        let parsed: jiff::Timestamp =
            text.parse().map_err(|_| InvalidTimestamp(text.to_owned()))?;
        Timestamp::from_ms(parsed.as_millisecond())
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Monotonic time: nanoseconds since some fixed moment of this process's life.
///
/// Limits, deadlines and back-off use it, so that a jump of the wall clock changes none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// This moment and `span` more.
    #[must_use]
    pub fn plus(self, span: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is before.
    #[must_use]
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The present moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For limits, deadlines and back-off.
    pub mono: Mono,
    /// For what is written down: `created_at`, due times, schedules.
    pub wall: Timestamp,
}

/// Who tells the time. The program has [`SystemClock`]; a test moves [`ManualClock`] by hand.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Now;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time begins now.
    #[must_use]
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let mono = Mono::default().plus(self.start.elapsed());
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |span| i64::try_from(span.as_millis()).unwrap_or(i64::MAX));
        Now { mono, wall: Timestamp::from_ms_clamped(wall) }
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub struct ManualClock(Mutex<Now>);

impl ManualClock {
    /// A clock that stands at `wall`, with one hour of monotonic time behind it.
    #[must_use]
    pub fn at(wall: Timestamp) -> ManualClock {
        ManualClock(Mutex::new(Now { mono: Mono(3_600_000_000_000), wall }))
    }

    /// Moves both clocks ahead.
    pub fn advance(&self, span: Duration) {
        let mut now = self.0.lock().expect("no holder of the manual clock panics");
        *now = Now { mono: now.mono.plus(span), wall: now.wall.plus(span) };
    }

    /// Sets the wall clock, ahead or back, and leaves the monotonic one alone.
    pub fn set_wall(&self, wall: Timestamp) {
        self.0.lock().expect("no holder of the manual clock panics").wall = wall;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        *self.0.lock().expect("no holder of the manual clock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_written_in_utc_without_empty_milliseconds() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (1_705_329_000_123, "2024-01-15T14:30:00.123Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (TIMESTAMP_MS_MIN, "0000-01-01T00:00:00Z"),
            (TIMESTAMP_MS_MAX, "9999-12-30T22:00:00.999Z"),
        ];
        for (ms, text) in cases {
            assert_eq!(Timestamp::from_ms(ms).unwrap().to_string(), text);
            assert_eq!(text.parse::<Timestamp>().unwrap().ms(), ms, "{text}");
        }
    }

    #[test]
    fn an_offset_is_read_and_nonsense_is_refused() {
        let parsed: Timestamp = "2024-01-15T16:30:00+02:00".parse().unwrap();
        assert_eq!(parsed.to_string(), "2024-01-15T14:30:00Z");
        for text in ["", "yesterday", "2024-01-15", "2024-13-01T00:00:00Z"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text:?}");
        }
        assert!(Timestamp::from_ms(TIMESTAMP_MS_MAX + 1).is_err());
    }

    proptest! {
        /// Our printer agrees with the calendar library, to the millisecond.
        #[test]
        fn printing_agrees_with_jiff(ms in TIMESTAMP_MS_MIN..=TIMESTAMP_MS_MAX) {
            let ours = Timestamp::from_ms(ms).unwrap().to_string();
            let theirs: jiff::Timestamp = ours.parse().unwrap();
            prop_assert_eq!(theirs.as_millisecond(), ms);
        }
    }
}
