//! Places in the log as people name them: the number of a claim, the start, or a time.
//!
//! In: a text, and where it has to be resolved, the store and what time it is. Out: the number of a
//! claim. A time leads to the first claim whose `created_at` is not before it, so that a clock that was
//! set back never makes anybody miss one.

use axwatch_model::{Seq, Timestamp};
use axwatch_query::Moment;

use crate::store::{Store, StoreError};

/// From which claim on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// From the claim with this number on.
    Seq(Seq),
    /// From the first claim on that was not appended before this.
    Time(Timestamp),
}

/// Why a text names no place in the log.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPlace {
    /// It is no number and no time.
    #[error(
        "{text:?} is neither the number of a claim, nor start, nor a time such as yesterday, '3 days ago', 2024-01-15 or 2024-01-15T14:30"
    )]
    Unknown {
        /// What was written.
        text: String,
    },
    /// No number is that large.
    #[error("no claim has the number {text}")]
    TooLarge {
        /// What was written.
        text: String,
    },
    /// A time that no four digits of a year can write.
    #[error("{text:?} lies outside the years 0 to 9999")]
    OutsideTime {
        /// What was written.
        text: String,
    },
    /// The log is not as long.
    #[error("claim {seq} is not in the log yet: {}", last_one(*.head))]
    PastTheHead {
        /// The number that was asked for.
        seq: Seq,
        /// The last claim.
        head: Seq,
    },
    /// A time that has not come.
    #[error("{text:?} is {at}, which has not come yet; name a time that has been")]
    Ahead {
        /// What was written.
        text: String,
        /// When that is.
        at: Timestamp,
    },
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn last_one(head: Seq) -> String {
    match head {
        Seq(0) => "it is empty, and its first claim will be 1".to_owned(),
        head => format!("its last is {head}; {} is the next one that comes", head.next()),
    }
}

impl Since {
    /// Reads it as people write it. `now` is what relative times are told from.
    ///
    /// # Errors
    /// [`InvalidPlace`], but never for what only the store can tell.
    pub fn read(text: &str, now: Timestamp) -> Result<Since, InvalidPlace> {
        if text.eq_ignore_ascii_case("start") {
            return Ok(Since::Seq(Seq(1)));
        }
        let text_of = || text.to_owned();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let seq = text.parse().map_err(|_| InvalidPlace::TooLarge { text: text_of() })?;
            return Ok(Since::Seq(Seq(seq)));
        }
        let moment = Moment::read(text).ok_or_else(|| InvalidPlace::Unknown { text: text_of() })?;
        let time = moment.at(now.ms()).and_then(|ms| Timestamp::from_ms(ms).ok());
        time.map(Since::Time).ok_or_else(|| InvalidPlace::OutsideTime { text: text_of() })
    }

    /// As [`Since::read`], and refuses a time that has not come yet.
    ///
    /// # Errors
    /// [`InvalidPlace`], but never for what only the store can tell.
    pub fn read_past(text: &str, now: Timestamp) -> Result<Since, InvalidPlace> {
        match Since::read(text, now)? {
            Since::Time(at) if at > now => Err(InvalidPlace::Ahead { text: text.to_owned(), at }),
            since => Ok(since),
        }
    }
}

/// The first claim from `text` on; one after the last when all claims lie before it.
///
/// # Errors
/// [`InvalidPlace`].
pub async fn first_seq(text: &str, store: &dyn Store, now: Timestamp) -> Result<Seq, InvalidPlace> {
    match Since::read_past(text, now)? {
        Since::Seq(seq) => {
            let head = store.head().await?;
            if seq > head.next() {
                return Err(InvalidPlace::PastTheHead { seq, head });
            }
            Ok(seq.max(Seq(1)))
        }
        Since::Time(at) => first_at(store, at).await,
    }
}

/// The last claim up to `text`: that number, the last claim of the log (`now`), or the last one before the
/// first that was appended after a time.
///
/// # Errors
/// [`InvalidPlace`].
pub async fn last_seq(text: &str, store: &dyn Store, now: Timestamp) -> Result<Seq, InvalidPlace> {
    if text.eq_ignore_ascii_case("now") {
        return Ok(store.head().await?);
    }
    match Since::read_past(text, now)? {
        Since::Seq(seq) => {
            let head = store.head().await?;
            if seq > head {
                return Err(InvalidPlace::PastTheHead { seq, head });
            }
            Ok(seq)
        }
        Since::Time(at) => {
            let next = first_at(store, Timestamp::from_ms_clamped(at.ms() + 1)).await?;
            Ok(Seq(next.0 - 1))
        }
    }
}

async fn first_at(store: &dyn Store, at: Timestamp) -> Result<Seq, InvalidPlace> {
    // The head before the search, so that no claim between the two is passed over.
    let head = store.head().await?;
    Ok(store.first_since(at).await?.unwrap_or(head.next()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, MemoryStore};
    use axwatch_model::{Attestation, Filled, Lineage, StoreId, Stored};
    use std::sync::Arc;

    #[test]
    fn history_begins_at_a_number_or_a_time() {
        let now: Timestamp = "2024-05-15T14:30:00Z".parse().unwrap();
        let seq = |n| Since::Seq(Seq(n));
        let time = |text: &str| Since::Time(text.parse().unwrap());
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
            assert_eq!(Since::read(text, now).unwrap(), expected, "{text}");
        }
        let wrong = [
            ("", "neither"),
            ("soon", "neither"),
            ("-3", "neither"),
            ("99999999999999999999", "no claim has the number"),
            ("9999 years ago", "outside the years"),
        ];
        for (text, told) in wrong {
            let reason = Since::read(text, now).unwrap_err().to_string();
            assert!(reason.contains(told), "{text}: {reason}");
        }
    }

    fn claim(seq: u64, at: &str) -> Arc<Stored> {
        let at: Timestamp = at.parse().unwrap();
        let attestation = Attestation {
            id: format!("c-{seq}").parse().unwrap(),
            subjects: vec!["X".into()],
            predicates: vec!["a".into()],
            contexts: vec!["_".into()],
            actors: vec!["me".into()],
            timestamp: at,
            created_at: at,
            source: "test".into(),
            attributes: None,
            signature: None,
            signer_did: None,
        };
        Arc::new(Stored {
            seq: Seq(seq),
            attestation,
            appended_by: "user".into(),
            filled: Filled::default(),
            lineage: Lineage::default(),
        })
    }

    #[tokio::test]
    async fn a_text_leads_to_a_claim() {
        let mut writer = MemoryStore::new(StoreId([1; 16]));
        // The clock was set back between the third and the fourth.
        let times = ["2024-05-10", "2024-05-11", "2024-05-13", "2024-05-12", "2024-05-14"];
        let attestations =
            (1..).zip(times).map(|(seq, day)| claim(seq, &format!("{day}T00:00:00Z"))).collect();
        let empty = MemoryStore::new(StoreId([2; 16])).reader();
        writer.commit(&Batch { attestations, ..Batch::default() }).await.unwrap();
        let store = writer.reader();
        let now: Timestamp = "2024-05-15T00:00:00Z".parse().unwrap();
        // (text, the first claim from there on, the last one up to there)
        type Expected = Result<u64, &'static str>;
        let cases: [(&str, Expected, Expected); 10] = [
            ("start", Ok(1), Ok(1)),
            ("3", Ok(3), Ok(3)),
            ("6", Ok(6), Err("its last is 5; 6 is the next")),
            ("7", Err("its last is 5; 6 is the next"), Err("claim 7 is not in the log")),
            ("2024-05-12", Ok(3), Ok(2)),
            ("2024-05-13", Ok(3), Ok(4)),
            ("3 days ago", Ok(3), Ok(2)),
            ("1h", Ok(6), Ok(5)),
            ("tomorrow", Err("has not come yet"), Err("has not come yet")),
            ("never", Err("neither the number"), Err("neither the number")),
        ];
        for (text, first, last) in cases {
            let found = [first_seq(text, &*store, now).await, last_seq(text, &*store, now).await];
            for (found, expected) in found.into_iter().zip([first, last]) {
                match (found, expected) {
                    (Ok(seq), Ok(expected)) => assert_eq!(seq, Seq(expected), "{text}"),
                    (Err(error), Err(told)) => {
                        assert!(error.to_string().contains(told), "{text}: {error}");
                    }
                    (found, _) => panic!("{text}: {found:?}, and not {expected:?}"),
                }
            }
        }
        assert_eq!(last_seq("now", &*store, now).await.unwrap(), Seq(5));
        assert_eq!(first_seq("start", &*empty, now).await.unwrap(), Seq(1));
        let refused = first_seq("2", &*empty, now).await.unwrap_err();
        assert!(refused.to_string().contains("it is empty"), "{refused}");
    }
}
