//! Times as AX writes them, and what they are once now is known.
//!
//! A few words are read as a [`Point`]; what a clause makes of it is a [`Moment`], a function of now.
//! Everything is reckoned in milliseconds since the Unix epoch, in UTC, and checked: a time outside the
//! years 0 to 9999 is none. No clock is asked here: now is handed in, and [`can_hold`] answers for
//! every now at once.

use nom::bytes::complete::{tag_no_case, take_while_m_n};
use nom::character::complete::{char, digit1, one_of};
use nom::combinator::{all_consuming, map_res, opt, value, verify};
use nom::sequence::preceded;
use nom::{IResult, Parser};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;
const MONTH: i64 = 30 * DAY;
const YEAR: i64 = 365 * DAY;

/// The first millisecond of year 0 and the last of year 9999: what four digits of a year can write.
const MS_MIN: i64 = -62_167_219_200_000;
const MS_MAX: i64 = 253_402_300_799_999;

/// Which of the days of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Which {
    /// The nearest before today.
    Last,
    /// The one of the present week, Monday to Sunday.
    This,
    /// The nearest after today.
    Next,
}

/// What some words name, before a clause makes a moment of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Point {
    /// The present UTC day: its start, or now, whichever is wider.
    Today,
    /// Now and so much more. `is_day`: whether the words name a day as well.
    FromNow { shift_ms: i64, is_day: bool },
    /// A weekday, counted from Monday as 0, at the present time of day.
    Weekday(Which, u8),
    /// The start of a UTC day: a date.
    Date(i64),
    /// A date with a time.
    Instant(i64),
}

/// A time that is known once now is: a fixed one, or so much before or after now.
///
/// Source: a clause of AX, or [`crate::Filter::within`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Moment {
    base: Base,
    /// Whether the start of the base's UTC day is meant.
    floors: bool,
    /// Added last; far outside what can be written where the arithmetic left it.
    shift_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Base {
    Epoch,
    Now,
    Weekday(Which, u8),
}

impl Moment {
    /// Reads a time as AX writes one, in at most three words: `yesterday`, `3 days ago`,
    /// `2024-01-15T14:30`. `None` if it is none.
    #[must_use]
    pub fn read(text: &str) -> Option<Moment> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        read(&words).or_else(|| read_spaced(&words)).map(Point::starts)
    }

    /// A time that does not depend on now: milliseconds since the Unix epoch.
    #[must_use]
    pub const fn fixed(ms: i64) -> Moment {
        Moment { base: Base::Epoch, floors: false, shift_ms: ms }
    }

    /// Milliseconds since the Unix epoch, if they do not depend on now.
    #[must_use]
    pub fn as_fixed(self) -> Option<i64> {
        (self.base == Base::Epoch).then_some(self.shift_ms)
    }

    /// Now and so much more.
    pub(crate) const fn from_now(shift_ms: i64) -> Moment {
        Moment { base: Base::Now, floors: false, shift_ms }
    }

    /// How many milliseconds after now it is, if that is the same at each.
    pub(crate) fn as_shift(self) -> Option<i64> {
        (self.base == Base::Now && !self.floors).then_some(self.shift_ms)
    }

    /// The time at this `now`, both in milliseconds since the Unix epoch; `None` where that cannot be
    /// written. A fixed one is always what it is.
    #[must_use]
    pub fn at(self, now_ms: i64) -> Option<i64> {
        let base = match self.base {
            Base::Epoch => return Some(self.shift_ms),
            Base::Now => now_ms,
            Base::Weekday(which, weekday) => {
                let days = days_to(which, weekday, weekday_of(now_ms.div_euclid(DAY)));
                now_ms.checked_add(days * DAY)?
            }
        };
        let base = if self.floors { base.div_euclid(DAY) * DAY } else { base };
        base.checked_add(self.shift_ms).filter(|ms| (MS_MIN..=MS_MAX).contains(ms))
    }

    /// Whether there is a now at which it can be written.
    pub(crate) fn can_be(self) -> bool {
        // Days of weekdays and the like are too few to matter to the quick answer.
        self.shift_ms.unsigned_abs() < (MS_MAX - MS_MIN).unsigned_abs() / 2
            || can_hold(&[self], &[])
    }

    fn plus(self, ms: i64) -> Moment {
        Moment { shift_ms: self.shift_ms.saturating_add(ms), ..self }
    }

    /// What this is at all nows of one weekday.
    fn line(self, weekday_of_now: u8) -> Line {
        let shift = i128::from(self.shift_ms);
        match self.base {
            Base::Epoch => Line { follows: Follows::Nothing, offset: shift },
            Base::Now => Line { follows: self.follows(), offset: shift },
            Base::Weekday(which, weekday) => {
                let days = days_to(which, weekday, weekday_of_now);
                Line { follows: self.follows(), offset: shift + i128::from(days * DAY) }
            }
        }
    }

    fn follows(self) -> Follows {
        if self.floors { Follows::Day } else { Follows::Now }
    }
}

impl Point {
    /// What `since` and the first time of `between` make of it.
    pub(crate) fn starts(self) -> Moment {
        match self {
            Point::Today => Moment { base: Base::Now, floors: true, shift_ms: 0 },
            Point::FromNow { shift_ms, .. } => Moment::from_now(shift_ms),
            Point::Weekday(which, weekday) => {
                Moment { base: Base::Weekday(which, weekday), floors: false, shift_ms: 0 }
            }
            Point::Date(ms) | Point::Instant(ms) => Moment::fixed(ms),
        }
    }

    /// What `until` and the second time of `between` make of it.
    pub(crate) fn ends(self) -> Moment {
        match self {
            Point::Today => Moment::from_now(0),
            other => other.starts(),
        }
    }

    /// The first and the last millisecond of the UTC day that `on` makes of it; `None` if it names no
    /// day.
    pub(crate) fn day(self) -> Option<(Moment, Moment)> {
        let start = match self {
            Point::Instant(_) | Point::FromNow { is_day: false, .. } => return None,
            // A fixed date is the start of its day.
            Point::Date(_) => self.starts(),
            Point::Today | Point::FromNow { .. } | Point::Weekday(..) => {
                Moment { floors: true, ..self.starts() }
            }
        };
        Some((start, start.plus(DAY - 1)))
    }
}

/// The weekday of a day counted from 1970-01-01, which was a Thursday; Monday is 0.
fn weekday_of(day: i64) -> u8 {
    (day + 3).rem_euclid(7) as u8
}

/// How many days from a day with weekday `today` to the weekday that is meant.
fn days_to(which: Which, weekday: u8, today: u8) -> i64 {
    let ahead = i64::from(weekday) - i64::from(today);
    match which {
        Which::This => ahead,
        Which::Next => (ahead - 1).rem_euclid(7) + 1,
        Which::Last => (ahead).rem_euclid(7) - 7,
    }
}

// ---- reading ----

/// The most words that a time has.
pub(crate) const WORDS_MAX: usize = 3;

/// Reads words that stand without quotes, in any case. An amount that leaves what can be written is
/// read, and is a moment at no now.
pub(crate) fn read(words: &[&str]) -> Option<Point> {
    match words {
        [word] => read_word(word),
        [which, what] => {
            let (which, what) = (which_of(which)?, what);
            match weekday_named(what) {
                Some(weekday) => Some(Point::Weekday(which, weekday)),
                None => span_named(which, what),
            }
        }
        [count, unit, ago] if ago.eq_ignore_ascii_case("ago") => from_now(count, unit, -1),
        [r#in, count, unit] if r#in.eq_ignore_ascii_case("in") => from_now(count, unit, 1),
        _ => None,
    }
}

/// Reads what may stand only in quotes: a date and a time with a blank between them.
pub(crate) fn read_spaced(words: &[&str]) -> Option<Point> {
    let [day, clock] = words else { return None };
    instant(date(day, b'-')?, clock)
}

fn read_word(word: &str) -> Option<Point> {
    if word.as_bytes().first()?.is_ascii_digit() {
        return read_digits(word);
    }
    let shift = |shift_ms, is_day| Some(Point::FromNow { shift_ms, is_day });
    match word.len() {
        3 if word.eq_ignore_ascii_case("now") => shift(0, false),
        5 if word.eq_ignore_ascii_case("today") => Some(Point::Today),
        9 if word.eq_ignore_ascii_case("yesterday") => shift(-DAY, true),
        8 if word.eq_ignore_ascii_case("tomorrow") => shift(DAY, true),
        _ => None,
    }
}

/// `2024-01-15`, `2024/01/15`, `2024-01-15T14:30` or `3d`.
fn read_digits(word: &str) -> Option<Point> {
    let (unit, count) = all_digits(word)?;
    if unit.len() == 1 {
        return from_now(count, unit, -1);
    }
    let (day, rest) = word.split_at_checked(10)?;
    if rest.is_empty() {
        return date(day, b'-').or_else(|| date(day, b'/')).map(|day| Point::Date(day * DAY));
    }
    instant(date(day, b'-')?, rest.strip_prefix(['T', 't'])?)
}

/// What follows the digits at the beginning, and these.
fn all_digits(word: &str) -> Option<(&str, &str)> {
    digit1::<&str, nom::error::Error<&str>>(word).ok()
}

fn from_now(count: &str, unit: &str, sign: i64) -> Option<Point> {
    let unit_ms = unit_named(unit)?;
    let ("", digits) = all_digits(count)? else { return None };
    // Too large a number stands for one that can be written at no now.
    let count: i64 = digits.parse().unwrap_or(i64::MAX);
    let shift_ms = count.saturating_mul(unit_ms).saturating_mul(sign);
    Some(Point::FromNow { shift_ms, is_day: false })
}

fn span_named(which: Which, what: &str) -> Option<Point> {
    let spans = [("week", WEEK), ("month", MONTH), ("year", YEAR)];
    let (_, span) = spans.into_iter().find(|(name, _)| what.eq_ignore_ascii_case(name))?;
    let shift_ms = match which {
        Which::Last => -span,
        Which::Next => span,
        Which::This => return None,
    };
    Some(Point::FromNow { shift_ms, is_day: false })
}

fn which_of(word: &str) -> Option<Which> {
    let words = [("last", Which::Last), ("this", Which::This), ("next", Which::Next)];
    words.into_iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map(|(_, which)| which)
}

const WEEKDAYS: [&str; 7] =
    ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// The number of a weekday, whose name is written in full or in three letters.
fn weekday_named(word: &str) -> Option<u8> {
    let is = |name: &&str| word.eq_ignore_ascii_case(name) || word.eq_ignore_ascii_case(&name[..3]);
    WEEKDAYS.iter().position(is).map(|weekday| weekday as u8)
}

const UNITS: [(&str, &[&str], i64); 7] = [
    ("seconds", &["second", "sec", "secs", "s"], SECOND),
    ("minutes", &["minute", "min", "mins", "m"], MINUTE),
    ("hours", &["hour", "hr", "hrs", "h"], HOUR),
    ("days", &["day", "d"], DAY),
    ("weeks", &["week", "w"], WEEK),
    ("months", &["month"], MONTH),
    ("years", &["year", "y"], YEAR),
];

fn unit_named(word: &str) -> Option<i64> {
    let first = word.as_bytes().first()?.to_ascii_lowercase();
    let is = |name: &str| word.eq_ignore_ascii_case(name);
    let unit = UNITS.iter().find(|(name, others, _)| {
        name.as_bytes()[0] == first && (is(name) || others.iter().any(|other| is(other)))
    });
    unit.map(|(_, _, ms)| *ms)
}

/// The day of a date such as `2024-01-15`, counted from 1970-01-01. By hand, because dates are frequent.
fn date(text: &str, mark: u8) -> Option<i64> {
    let [y0, y1, y2, y3, first, m0, m1, second, d0, d1] = *text.as_bytes() else { return None };
    if (first, second) != (mark, mark)
        || ![y0, y1, y2, y3, m0, m1, d0, d1].iter().all(u8::is_ascii_digit)
    {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0'));
    let (year, month, day) = (number(&[y0, y1, y2, y3]), number(&[m0, m1]), number(&[d0, d1]));
    let is_date = (1..=12).contains(&month) && (1..=days_of_month(year, month)).contains(&day);
    is_date.then(|| day_of(year, month, day))
}

/// A time of a day such as `14:30`, `14:30:00.123Z` or `14:30+02:00`.
fn instant(day: i64, clock: &str) -> Option<Point> {
    let (_, (hour, _, minute, rest, zone)) =
        all_consuming((within(23), char(':'), within(59), opt(seconds), opt(offset)))
            .parse(clock)
            .ok()?;
    let clock_ms = hour * HOUR + minute * MINUTE + rest.unwrap_or(0);
    let ms = day * DAY + clock_ms - zone.unwrap_or(0);
    (MS_MIN..=MS_MAX).contains(&ms).then_some(Point::Instant(ms))
}

/// Two digits, at most so much.
fn within<'a>(most: i64) -> impl Parser<&'a str, Output = i64, Error = nom::error::Error<&'a str>> {
    let digits = take_while_m_n(2, 2, |c: char| c.is_ascii_digit());
    verify(map_res(digits, str::parse), move |number| *number <= most)
}

/// `:00` or `:00.123` in milliseconds. Digits beyond these are dropped, as in a claim's own time.
fn seconds(input: &str) -> IResult<&str, i64> {
    let (rest, (second, fraction)) =
        (preceded(char(':'), within(59)), opt(preceded(char('.'), fraction))).parse(input)?;
    Ok((rest, second * SECOND + fraction.unwrap_or(0)))
}

fn fraction(input: &str) -> IResult<&str, i64> {
    let (rest, digits) = take_while_m_n(1, 9, |c: char| c.is_ascii_digit()).parse(input)?;
    let ms =
        digits.bytes().chain(*b"00").take(3).fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0'));
    Ok((rest, ms))
}

/// `Z`, or how far ahead of UTC the clock is.
fn offset(input: &str) -> IResult<&str, i64> {
    if let Ok((rest, zero)) =
        value(0, tag_no_case::<_, _, nom::error::Error<&str>>("Z")).parse(input)
    {
        return Ok((rest, zero));
    }
    let (rest, (sign, hours, _, minutes)) =
        (one_of("+-"), within(23), char(':'), within(59)).parse(input)?;
    let ahead = hours * HOUR + minutes * MINUTE;
    Ok((rest, if sign == '-' { -ahead } else { ahead }))
}

fn days_of_month(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The day of a date of the proleptic Gregorian calendar, counted from 1970-01-01.
fn day_of(year: i64, month: i64, day: i64) -> i64 {
    // Counting from March puts the leap day last in its year, and 400 years are 146,097 days.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Whether a word looks like the time of a day, which belongs to a date.
pub(crate) fn is_clock(word: &str) -> bool {
    instant(0, word).is_some()
}

/// The last day of the month, for a date that lies after it.
fn last_day(text: &str) -> Option<String> {
    let month = text.get(..8)?;
    let day: u8 = text.get(8..)?.parse().ok().filter(|day| *day > 28)?;
    (28..day).rev().map(|day| format!("{month}{day}")).find(|text| read_word(text).is_some())
}

/// What may be meant by words that are no time.
pub(crate) fn suggestion(words: &[&str]) -> Option<String> {
    const WORDS: [&str; 12] = [
        "now",
        "today",
        "yesterday",
        "tomorrow",
        "last",
        "this",
        "next",
        "week",
        "month",
        "year",
        "ago",
        "in",
    ];
    if words.is_empty() || words.len() > WORDS_MAX {
        return None;
    }
    if let Some(date) = last_day(words[0]).filter(|_| words.len() == 1) {
        return Some(date);
    }
    let known: Vec<&str> = WORDS
        .into_iter()
        .chain(WEEKDAYS)
        .chain(
            UNITS
                .iter()
                .flat_map(|(name, others, _)| [*name].into_iter().chain(others.iter().copied())),
        )
        .collect();
    let near: Vec<&str> =
        words.iter().map(|word| crate::error::near(word, &known).unwrap_or(word)).collect();
    let near = near.join(" ");
    [near.clone(), format!("last {near}"), format!("{near} ago")]
        .into_iter()
        .find(|text| text.split(' ').count() <= WORDS_MAX && Moment::read(text).is_some())
}

// ---- every now at once ----

/// What a moment is at all nows of one weekday: an offset from nothing, from the start of now's day, or
/// from now.
#[derive(Debug, Clone, Copy)]
struct Line {
    follows: Follows,
    offset: i128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    Nothing,
    Day,
    Now,
}

/// Whether there is a now at which all these moments can be written and no start is later than an end.
pub(crate) fn can_hold(starts: &[Moment], ends: &[Moment]) -> bool {
    (0..7).any(|weekday| {
        let lines = |moments: &[Moment]| -> Vec<Line> {
            moments.iter().map(|moment| moment.line(weekday)).collect()
        };
        Nows::all().narrow(&lines(starts), &lines(ends)).is_some_and(|nows| nows.has(weekday))
    })
}

/// A set of nows: each is a day and a time of that day, which have bounds of their own and together.
#[derive(Debug, Clone, Copy)]
struct Nows {
    now: (i128, i128),
    day: (i128, i128),
    time_of_day: (i128, i128),
}

const WIDE_DAY: i128 = DAY as i128;

impl Nows {
    fn all() -> Nows {
        let now = (i128::from(MS_MIN), i128::from(MS_MAX));
        let day = (now.0.div_euclid(WIDE_DAY), now.1.div_euclid(WIDE_DAY));
        Nows { now, day, time_of_day: (0, WIDE_DAY - 1) }
    }

    fn narrow(mut self, starts: &[Line], ends: &[Line]) -> Option<Nows> {
        let can_be = [i128::from(MS_MIN), i128::from(MS_MAX)]
            .map(|offset| Line { follows: Follows::Nothing, offset });
        for line in starts.iter().chain(ends) {
            // A fixed moment was written, so it can be.
            if line.follows != Follows::Nothing {
                self.order(can_be[0], *line)?;
                self.order(*line, can_be[1])?;
            }
        }
        // Of those that follow the same, only the latest start and the earliest end matter.
        let kinds = [Follows::Nothing, Follows::Day, Follows::Now];
        let of = |kind: Follows| move |line: &&Line| line.follows == kind;
        let latest =
            kinds.map(|kind| starts.iter().filter(of(kind)).max_by_key(|line| line.offset));
        let first = kinds.map(|kind| ends.iter().filter(of(kind)).min_by_key(|line| line.offset));
        for start in latest.into_iter().flatten() {
            for end in first.into_iter().flatten() {
                self.order(*start, *end)?;
            }
        }
        Some(self)
    }

    /// Keeps only nows at which the one is no later than the other; `None` if that is not for nows to
    /// say, and not so.
    fn order(&mut self, one: Line, other: Line) -> Option<()> {
        let ahead = one.offset - other.offset;
        match (one.follows, other.follows) {
            (a, b) if a == b => return (ahead <= 0).then_some(()),
            (Follows::Nothing, Follows::Day) => {
                self.day.0 = self.day.0.max(-(-ahead).div_euclid(WIDE_DAY));
            }
            (Follows::Day, Follows::Nothing) => {
                self.day.1 = self.day.1.min((-ahead).div_euclid(WIDE_DAY));
            }
            (Follows::Nothing, _) => self.now.0 = self.now.0.max(ahead),
            (_, Follows::Nothing) => self.now.1 = self.now.1.min(-ahead),
            (Follows::Day, _) => self.time_of_day.0 = self.time_of_day.0.max(ahead),
            _ => self.time_of_day.1 = self.time_of_day.1.min(-ahead),
        }
        Some(())
    }

    /// Whether one of them falls on this weekday.
    fn has(self, weekday: u8) -> bool {
        if self.time_of_day.0 > self.time_of_day.1 || self.now.0 > self.now.1 {
            return false;
        }
        let first = -(self.time_of_day.1 - self.now.0).div_euclid(WIDE_DAY);
        let last = (self.now.1 - self.time_of_day.0).div_euclid(WIDE_DAY);
        let (first, last) = (first.max(self.day.0), last.min(self.day.1));
        // Day 0 was a Thursday, and weekdays count from Monday.
        first + (i128::from(weekday) - first - 3).rem_euclid(7) <= last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::{Date, Time, Weekday};
    use jiff::tz::TimeZone;
    use jiff::{SignedDuration, Timestamp, ToSpan as _};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn any_now() -> impl Strategy<Value = i64> {
        prop_oneof![MS_MIN..=jiff_max(), -WEEK..WEEK, 1_700_000_000_000..1_800_000_000_000_i64]
    }

    /// The last millisecond that jiff can hold as a timestamp.
    fn jiff_max() -> i64 {
        Timestamp::MAX.as_millisecond()
    }

    fn civil(ms: i64) -> jiff::civil::DateTime {
        TimeZone::UTC.to_datetime(Timestamp::from_millisecond(ms).unwrap())
    }

    fn ms_of(datetime: jiff::civil::DateTime) -> i64 {
        datetime.duration_since(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0)).as_millis() as i64
    }

    fn weekday(number: u8) -> Weekday {
        Weekday::from_monday_zero_offset(number as i8).unwrap()
    }

    proptest! {
        /// Every date that is one is read as the calendar library reads it, and no other is.
        #[test]
        fn a_date_is_what_jiff_says(
            year in 0..=9999_i16, month in 0..=13_i8, day in 0..=32_i8, mark in select(vec!['-', '/']),
        ) {
            let text = format!("{year:04}{mark}{month:02}{mark}{day:02}");
            let theirs = Date::new(year, month, day).ok().map(|date| ms_of(date.at(0, 0, 0, 0)));
            prop_assert_eq!(Moment::read(&text).and_then(Moment::as_fixed), theirs, "{}", text);
        }

        /// And every time of a day, with and without a zone.
        #[test]
        fn a_time_is_what_jiff_says(
            ms in MS_MIN + 2 * DAY..jiff_max() - 2 * DAY, precision in 0..4_usize,
            ahead in prop::option::of((0..24_i64, 0..60_i64, any::<bool>())), blank: bool,
        ) {
            let unit = [MINUTE, SECOND, 1, 1][precision];
            let ms = ms.div_euclid(unit) * unit;
            let format = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%3f", "%Y-%m-%dT%H:%M:%S.%9f"];
            let mut text = jiff::fmt::strtime::format(format[precision], civil(ms)).unwrap();
            let mut expected = ms;
            if let Some((hours, minutes, is_ahead)) = ahead {
                text += &format!("{}{hours:02}:{minutes:02}", if is_ahead { '+' } else { '-' });
                let shift = hours * HOUR + minutes * MINUTE;
                expected -= if is_ahead { shift } else { -shift };
            } else if precision > 1 {
                text.push('Z');
            }
            let text = if blank { text.replace('T', " ") } else { text };
            prop_assert_eq!(Moment::read(&text), Some(Moment::fixed(expected)), "{}", text);
        }

        /// Weekday forms are the days that the calendar library finds.
        #[test]
        fn a_weekday_is_what_jiff_says(now in any_now(), number in 0..7_u8, is_short: bool) {
            let (datetime, wanted) = (civil(now), weekday(number));
            let name = &WEEKDAYS[usize::from(number)][..if is_short { 3 } else { 6 }];
            let name = if is_short { name } else { WEEKDAYS[usize::from(number)] };
            let today = datetime.date();
            let monday = today.checked_sub(i64::from(today.weekday().to_monday_zero_offset()).days());
            let days = [
                ("last", today.nth_weekday(-1, wanted)),
                ("next", today.nth_weekday(1, wanted)),
                ("this", monday.and_then(|monday| monday.checked_add(i64::from(number).days()))),
            ];
            for (which, day) in days {
                let expected = day.map(|day| ms_of(day.to_datetime(datetime.time()))).ok();
                let expected = expected.filter(|ms| (MS_MIN..=MS_MAX).contains(ms));
                let text = format!("{which} {name}");
                prop_assert_eq!(Moment::read(&text).unwrap().at(now), expected, "{}", text);
                let (start, end) = read(&[which, name]).unwrap().day().unwrap();
                let day = expected.map(|ms| ms_of(civil(ms).date().to_datetime(Time::midnight())));
                prop_assert_eq!((start.at(now), end.at(now)), (day, day.map(|ms| ms + DAY - 1)));
            }
        }

        /// Amounts are added exactly, or not at all.
        #[test]
        fn an_amount_is_what_jiff_says(
            now in any_now(), count in prop_oneof![0..1_000_u64, any::<u64>()], unit in 0..7_usize,
            is_ahead: bool,
        ) {
            let (name, _, unit_ms) = UNITS[unit];
            let text = if is_ahead { format!("in {count} {name}") } else { format!("{count} {name} ago") };
            let shift = i64::try_from(count).ok().and_then(|count| count.checked_mul(unit_ms));
            let shift = shift.map(SignedDuration::from_millis);
            let then = shift.and_then(|shift| {
                let now = SignedDuration::from_millis(now);
                if is_ahead { now.checked_add(shift) } else { now.checked_sub(shift) }
            });
            let expected = then.map(|then| then.as_millis() as i64);
            let expected = expected.filter(|ms| (MS_MIN..=MS_MAX).contains(ms));
            prop_assert_eq!(Moment::read(&text).unwrap().at(now), expected, "{}", text);
        }

        /// A day that words name is the calendar day around what they name.
        #[test]
        fn a_day_is_the_calendar_day(now in any_now(), word in select(vec!["today", "yesterday", "tomorrow"])) {
            let point = read(&[word]).unwrap();
            let (start, end) = point.day().unwrap();
            let Some(within) = point.ends().at(now).filter(|ms| *ms <= jiff_max()) else { return Ok(()) };
            let midnight = ms_of(civil(within).date().to_datetime(Time::midnight()));
            prop_assert_eq!((start.at(now), end.at(now)), (Some(midnight), Some(midnight + DAY - 1)));
        }

        /// Any words at all are read without a panic, at any now.
        #[test]
        fn anything_may_be_read(
            text in "(last|next|this|in|ago|[0-9]{1,20}|[smhdwy]|mon|week|today|[0-9-]{8,12}|[T0-9:.+Z]{5,12}| |\\PC){0,6}",
            now in any::<i64>(),
        ) {
            if let Some(moment) = Moment::read(&text) {
                let at = moment.at(now);
                prop_assert!(at.is_none_or(|ms| (MS_MIN..=MS_MAX).contains(&ms)));
                let _ = moment.can_be();
            }
        }
    }

    /// Moments of all kinds, near enough to each other that order depends on now.
    fn any_moment() -> impl Strategy<Value = Moment> {
        let base = prop_oneof![
            3 => Just(Base::Epoch),
            4 => Just(Base::Now),
            2 => (select(vec![Which::Last, Which::This, Which::Next]), 0..7_u8)
                .prop_map(|(which, weekday)| Base::Weekday(which, weekday)),
        ];
        let shift = (-9..=9_i64, select(vec![0, 1, -1, HOUR, DAY - 1]))
            .prop_map(|(days, rest)| days * DAY + rest);
        (base, any::<bool>(), shift).prop_map(|(base, floors, shift_ms)| Moment {
            base,
            floors: floors && base != Base::Epoch,
            shift_ms,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// What is said of all nows at once is what trying them one by one shows: three weeks of them,
        /// at each moment at which an answer can change.
        #[test]
        fn every_now_at_once_is_each_of_them(
            starts in vec(any_moment(), 1..3), ends in vec(any_moment(), 1..3),
        ) {
            let holds = |now: i64| {
                let last = starts.iter().map(|start| start.at(now).unwrap()).max();
                let first = ends.iter().map(|end| end.at(now).unwrap()).min();
                last <= first
            };
            let steps = [0, 1, 2, HOUR - 1, HOUR, HOUR + 1, DAY - HOUR - 1, DAY - HOUR, DAY - 2, DAY - 1];
            let mut nows = (-40..=40_i64).flat_map(|day| steps.map(|step| day * DAY + step));
            prop_assert_eq!(can_hold(&starts, &ends), nows.any(holds));
        }
    }

    #[test]
    fn what_cannot_be_at_any_now_is_known() {
        let cases = [
            ("3000 years ago", true),
            ("9000 years ago", true),
            ("10001 years ago", true),
            ("10020 years ago", false),
            ("99999999999999999999 days ago", false),
            ("in 9999 years", true),
            ("in 99999 weeks", true),
            ("in 999999 weeks", false),
            ("9999-12-31", true),
            ("0000-01-01", true),
        ];
        for (text, expected) in cases {
            assert_eq!(Moment::read(text).unwrap().can_be(), expected, "{text}");
        }
    }

    #[test]
    fn what_may_be_meant_is_a_time() {
        let cases = [
            ("yesterdy", Some("yesterday")),
            ("3 dayz ago", Some("3 days ago")),
            ("3 days", Some("3 days ago")),
            ("3 dyas", Some("3 days ago")),
            ("last mondy", Some("last monday")),
            ("monday", Some("last monday")),
            ("week", Some("last week")),
            ("nxt month", Some("next month")),
            ("2023-02-29", Some("2023-02-28")),
            ("2024/04/31", Some("2024/04/30")),
            ("2024-13-31", None),
            ("2024-01-1é", None),
            ("2024", None),
            ("not-a-date", None),
            ("one two three four", None),
        ];
        for (text, expected) in cases {
            let words: Vec<&str> = text.split(' ').collect();
            assert_eq!(suggestion(&words).as_deref(), expected, "{text}");
        }
    }
}
