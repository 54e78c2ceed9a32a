//! What a receiver's answer means for the job.
//!
//! In come a status, its headers and the time; out goes a verdict.
//!
//! Not here: following a redirect (`super`).

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::StatusCode;

/// The longest that a receiver may put a job off.
const PUT_OFF_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long it is put off by an answer that does not say.
const PUT_OFF_DEFAULT: Duration = Duration::from_secs(30);
/// The shortest, whatever the receiver says: "at once" is not "not now".
const PUT_OFF_MIN: Duration = Duration::from_secs(1);

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has it.
    Done,
    /// It will take it later, and this costs no attempt.
    NotNow(Duration),
    /// It may take it later.
    Retry,
    /// The same request belongs elsewhere.
    Redirect,
    /// It will never take it. The hint is what to do, where there is something to do.
    Never(Option<&'static str>),
}

/// Reads an answer. `retry_after` is that header's value, `now` what a date in it is measured from.
pub(crate) fn verdict(status: StatusCode, retry_after: Option<&str>, now: Timestamp) -> Verdict {
    let put_off = retry_after.and_then(|text| delay(text, now));
    match status.as_u16() {
        200..=299 => Verdict::Done,
        307 | 308 => Verdict::Redirect,
        408 | 429 => Verdict::NotNow(put_off.unwrap_or(PUT_OFF_DEFAULT)),
        410 => Verdict::Never(Some("the receiver is gone for good: remove the watcher")),
        503 => put_off.map_or(Verdict::Retry, Verdict::NotNow),
        500..=599 => Verdict::Retry,
        _ => Verdict::Never(None),
    }
}

/// Seconds, or the date of an HTTP header.
fn delay(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let asked = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are longer than the bound too.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let until = DateTimeParser::new().parse_timestamp(text).ok()?;
        Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO)
    };
    Some(asked.clamp(PUT_OFF_MIN, PUT_OFF_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_decides() {
        let not_now = |secs| Verdict::NotNow(Duration::from_secs(secs));
        let cases = [
            // (status, Retry-After, verdict)
            (200, None, Verdict::Done),
            (202, None, Verdict::Done),
            (204, Some("5"), Verdict::Done),
            (301, None, Verdict::Never(None)),
            (302, None, Verdict::Never(None)),
            (303, None, Verdict::Never(None)),
            (304, None, Verdict::Never(None)),
            (307, None, Verdict::Redirect),
            (308, None, Verdict::Redirect),
            (400, None, Verdict::Never(None)),
            (401, Some("9"), Verdict::Never(None)),
            (404, None, Verdict::Never(None)),
            (408, None, not_now(30)),
            (408, Some("7"), not_now(7)),
            (410, None, Verdict::Never(Some("the receiver is gone for good: remove the watcher"))),
            (422, None, Verdict::Never(None)),
            (429, None, not_now(30)),
            (429, Some("2"), not_now(2)),
            (429, Some("soon"), not_now(30)),
            (500, None, Verdict::Retry),
            (500, Some("9"), Verdict::Retry),
            (502, None, Verdict::Retry),
            (503, None, Verdict::Retry),
            (503, Some("soon"), Verdict::Retry),
            (503, Some("120"), not_now(120)),
            (504, None, Verdict::Retry),
            (599, None, Verdict::Retry),
            (600, None, Verdict::Never(None)),
        ];
        for (status, retry_after, expected) in cases {
            let answer =
                verdict(StatusCode::from_u16(status).unwrap(), retry_after, Timestamp::UNIX_EPOCH);
            assert_eq!(answer, expected, "{status} {retry_after:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let cases = [
            // (header, seconds)
            ("1", Some(1)),
            (" 90 ", Some(90)),
            ("0", Some(1)),
            ("86400", Some(86_400)),
            ("86401", Some(86_400)),
            ("99999999999999999999999999", Some(86_400)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:48:00 GMT", Some(1)),
            ("Mon, 06 Nov 2034 08:48:00 GMT", Some(86_400)),
            ("Sun, 06 Nov 1994", None),
            ("1.5", None),
            ("-1", None),
            ("", None),
            ("soon", None),
        ];
        for (text, seconds) in cases {
            assert_eq!(delay(text, now), seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
