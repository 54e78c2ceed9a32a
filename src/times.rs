//! Times and spans of time as people write them on the command line and in requests: those of AX, and
//! what they mean where only the past, only the future, or no time of day at all makes sense.

use std::time::Duration;

use axwatch_model::Timestamp;
use axwatch_query::Moment;

/// A time that lies ahead: `in 2 hours`, `2h`, `tomorrow`, `2026-12-01`, `2026-12-01T08:00:00Z`.
///
/// # Errors
/// What is wrong with it and what would be right.
pub fn ahead(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let at = match amount(text) {
        // In AX `2h` is two hours ago, which is nothing that somebody waits for.
        Some((count, unit)) => read(&format!("in {count} {unit}"), now),
        None => read(text, now),
    };
    let at = at.map_err(|problem| match problem {
        Problem::Unknown => format!(
            "{text:?} is no time; write one that lies ahead, such as 2h, 'in 2 hours', tomorrow, 2026-12-01 or 2026-12-01T08:00:00Z"
        ),
        Problem::Outside => format!("{text:?} lies outside the years 0 to 9999"),
    })?;
    if at <= now {
        return Err(format!(
            "{text:?} is {at}, and it is {now} already; name a time that lies ahead, such as 2h or tomorrow"
        ));
    }
    Ok(at)
}

/// A time that has been: `1h`, `'2 days ago'`, `yesterday`, `2024-01-15`.
///
/// # Errors
/// What is wrong with it and what would be right.
pub fn past(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let at = read(text, now).map_err(|problem| match problem {
        Problem::Unknown => format!(
            "{text:?} is no time; write how long ago, such as 1h or '2 days ago', or a time such as yesterday or 2024-01-15"
        ),
        Problem::Outside => format!("{text:?} lies outside the years 0 to 9999"),
    })?;
    if at > now {
        return Err(format!("{text:?} is {at}, which has not come yet; name a time that has been"));
    }
    Ok(at)
}

/// The moment that lies so far back.
pub fn before(now: Timestamp, span: Duration) -> Timestamp {
    let ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_ms_clamped(now.ms().saturating_sub(ms))
}

/// How long: `90s`, `15m`, `2h`, `1d`, `'2 hours'`; at least a second.
///
/// # Errors
/// What is wrong with it and what would be right.
pub fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no span of time; write one such as 90s, 15m, 2h or 1d");
    let (count, unit) = amount(text).ok_or_else(wrong)?;
    let epoch = Timestamp::from_ms_clamped(0);
    let end = read(&format!("in {count} {unit}"), epoch).map_err(|problem| match problem {
        Problem::Unknown => wrong(),
        Problem::Outside => format!("{text:?} is longer than any time that can be written"),
    })?;
    match end.since(epoch) {
        Duration::ZERO => Err(format!("{text:?} is no time at all; the least is 1s")),
        span => Ok(span),
    }
}

/// A count and its unit: `2h`, `2 hours`.
fn amount(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).filter(|length| *length > 0)?;
    let (count, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    unit.chars().all(|c| c.is_ascii_alphabetic()).then_some((count, unit))
}

/// Why a text is no time.
enum Problem {
    Unknown,
    Outside,
}

fn read(text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    let moment = Moment::read(text).ok_or(Problem::Unknown)?;
    let at = moment.at(now.ms()).and_then(|ms| Timestamp::from_ms(ms).ok());
    at.ok_or(Problem::Outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2024-05-15T14:30:00Z".parse().unwrap()
    }

    #[track_caller]
    fn check(read: Result<Timestamp, String>, expected: Result<&str, &str>) {
        match (read, expected) {
            (Ok(at), Ok(expected)) => assert_eq!(at.to_string(), expected),
            (Err(reason), Err(told)) => assert!(reason.contains(told), "{reason}"),
            (read, expected) => panic!("{read:?}, and not {expected:?}"),
        }
    }

    #[test]
    fn what_lies_ahead_may_be_said_in_several_ways() {
        let cases = [
            ("2h", Ok("2024-05-15T16:30:00Z")),
            ("90 min", Ok("2024-05-15T16:00:00Z")),
            ("in 2 hours", Ok("2024-05-15T16:30:00Z")),
            ("tomorrow", Ok("2024-05-16T14:30:00Z")),
            ("next week", Ok("2024-05-22T14:30:00Z")),
            ("2026-12-01", Ok("2026-12-01T00:00:00Z")),
            ("2024-05-15T14:30:00.001Z", Ok("2024-05-15T14:30:00.001Z")),
            ("0s", Err("already")),
            ("now", Err("already")),
            ("today", Err("2024-05-15T00:00:00Z, and it is 2024-05-15T14:30:00Z already")),
            ("yesterday", Err("already")),
            ("2 hours ago", Err("already")),
            ("soon", Err("no time")),
            ("", Err("no time")),
            ("9999y", Err("outside the years")),
        ];
        for (text, expected) in cases {
            check(ahead(text, now()), expected);
        }
    }

    #[test]
    fn what_has_been_is_told_by_its_age_or_its_time() {
        let cases = [
            ("1h", Ok("2024-05-15T13:30:00Z")),
            ("2 days ago", Ok("2024-05-13T14:30:00Z")),
            ("yesterday", Ok("2024-05-14T14:30:00Z")),
            ("2024-01-15", Ok("2024-01-15T00:00:00Z")),
            ("tomorrow", Err("has not come yet")),
            ("long", Err("no time")),
        ];
        for (text, expected) in cases {
            check(past(text, now()), expected);
        }
    }

    #[test]
    fn a_span_is_an_amount_of_time() {
        let seconds = |text| span(text).map(|span| span.as_secs());
        for (text, expected) in [("90s", 90), ("2h", 7_200), ("1 day", 86_400), ("2W", 1_209_600)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "2", "h", "-2h", "2 fortnights", "0s", "1h30", "99999999999y", "tomorrow"]
        {
            assert!(span(text).is_err(), "{text}");
        }
    }
}
