//! From which claim on: a number, the start, or a time.

use axwatch_model::{Seq, Timestamp};
use axwatch_query::Moment;

/// From which claim on history is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// From the claim with this number on.
    Seq(Seq),
    /// From the first claim on that was not appended before this.
    Time(Timestamp),
}

impl Since {
    /// Reads it as people write it. `now` is what relative times are told from.
    ///
    /// # Errors
    /// What is wrong with it and what would be right.
    pub fn read(text: &str, now: Timestamp) -> Result<Since, String> {
        if text.eq_ignore_ascii_case("start") {
            return Ok(Since::Seq(Seq(1)));
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let seq = text.parse().map_err(|_| format!("no claim has the number {text}"))?;
            return Ok(Since::Seq(Seq(seq)));
        }
        let moment = Moment::read(text).ok_or_else(|| {
            format!(
                "{text:?} is neither the number of a claim, nor start, nor a time such as yesterday, '3 days ago', 2024-01-15 or 2024-01-15T14:30"
            )
        })?;
        let time = moment.at(now.ms()).and_then(|ms| Timestamp::from_ms(ms).ok());
        Ok(Since::Time(time.ok_or_else(|| format!("{text:?} lies outside the years 0 to 9999"))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_begins_at_a_number_or_a_time() {
        let now: Timestamp = "2024-05-15T14:30:00Z".parse().unwrap();
        let seq = |n| Ok(Since::Seq(Seq(n)));
        let time = |text: &str| Ok(Since::Time(text.parse().unwrap()));
        let cases = [
            ("start", seq(1)),
            ("0", seq(0)),
            ("2024", seq(2024)),
            ("yesterday", time("2024-05-14T14:30:00Z")),
            ("today", time("2024-05-15T00:00:00Z")),
            ("3 Days ago", time("2024-05-12T14:30:00Z")),
            ("90m", time("2024-05-15T13:00:00Z")),
            ("2024-01-15", time("2024-01-15T00:00:00Z")),
            ("2024-01-15 14:30", time("2024-01-15T14:30:00Z")),
        ];
        for (text, expected) in cases {
            assert_eq!(Since::read(text, now), expected, "{text}");
        }
        let wrong = [
            ("", "neither"),
            ("soon", "neither"),
            ("-3", "neither"),
            ("99999999999999999999", "no claim has the number"),
            ("9999 years ago", "outside the years"),
        ];
        for (text, told) in wrong {
            let reason = Since::read(text, now).unwrap_err();
            assert!(reason.contains(told), "{text}: {reason}");
        }
    }
}
