//! Why a job is not done, in the three words that a host understands: again, later, never.

use std::error::Error;
use std::fmt::{self, Display};
use std::time::Duration;

/// Why a job is not done.
///
/// It is no [`Error`] itself, so that `?` turns any error into [`Failure::Retry`] with its whole chain
/// of causes. What is not worth trying again has to be said: `.map_err(Failure::permanent)?`.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// Something that may be gone the next time. The host tries again, later and later, and gives up
    /// after a number of attempts or a day.
    Retry(String),
    /// Nothing is wrong, it is only too early or too much. Counts as no attempt.
    NotNow {
        /// When to ask again, at most 24 h from now; without it the host decides, and sends this
        /// plugin fewer jobs at a time.
        after: Option<Duration>,
        /// For people.
        reason: String,
    },
    /// Trying again would end the same way. The job is a dead letter at once.
    Permanent(String),
}

impl Failure {
    /// Worth another attempt.
    pub fn retry(reason: impl Display) -> Failure {
        Failure::Retry(text(&reason))
    }

    /// Too early, or too much at once: to be asked again after this time.
    pub fn not_now(after: Duration, reason: impl Display) -> Failure {
        Failure::NotNow { after: Some(after), reason: text(&reason) }
    }

    /// Not worth another attempt.
    pub fn permanent(reason: impl Display) -> Failure {
        Failure::Permanent(text(&reason))
    }

    /// What is wrong, for people.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Failure::Retry(reason)
            | Failure::NotNow { reason, .. }
            | Failure::Permanent(reason) => reason,
        }
    }

    /// The same failure, with where it happened before its reason: `where: reason`.
    #[must_use]
    pub fn at(self, place: impl Display) -> Failure {
        let placed = |reason: String| format!("{place}: {reason}");
        match self {
            Failure::Retry(reason) => Failure::Retry(placed(reason)),
            Failure::NotNow { after, reason } => Failure::NotNow { after, reason: placed(reason) },
            Failure::Permanent(reason) => Failure::Permanent(placed(reason)),
        }
    }
}

/// Its reason.
impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// Any error is worth another attempt, until its author knows better.
impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Retry(chain(&error))
    }
}

/// An error with all that caused it, in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        // Some errors tell their cause themselves.
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}

/// The long form of what has one, as errors of some libraries have for their chain of causes.
fn text(reason: &impl Display) -> String {
    format!("{reason:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the list")]
    struct Outer {
        source: Middle,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("line 7: {0}")]
    struct Middle(#[source] std::num::ParseIntError);

    fn count() -> Result<u32, Failure> {
        "x".parse::<u32>().map_err(|error| Outer { source: Middle(error) })?;
        Ok(1)
    }

    #[test]
    fn any_error_becomes_a_retry_with_its_chain() {
        let said = "cannot read the list: line 7: invalid digit found in string";
        assert_eq!(count(), Err(Failure::Retry(said.into())));
    }

    #[test]
    fn a_failure_says_its_reason_and_where() {
        let soon = Duration::from_secs(5);
        let cases = [
            (Failure::retry("busy"), Failure::Retry("git: busy".into())),
            (
                Failure::not_now(soon, 7),
                Failure::NotNow { after: Some(soon), reason: "git: 7".into() },
            ),
            (Failure::permanent("gone".to_owned()), Failure::Permanent("git: gone".into())),
        ];
        for (failure, placed) in cases {
            assert_eq!(placed.to_string(), format!("git: {failure}"));
            assert_eq!(failure.at("git"), placed);
        }
    }
}
