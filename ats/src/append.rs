//! What becomes of claims that want into the log: a new row, a repeat, or a conflict.
//!
//! An id stands for one content. The same claim again gets the number that it has already, so a
//! caller who saw no answer may ask again; another claim under the same id is refused by itself and
//! the rest goes on.

use std::collections::HashMap;
use std::sync::Arc;

use axwatch_model::{Attestation, AttestationId, Filled, Incoming, Seq, Stored, Timestamp};

use crate::{Batch, StoreError, StoreWriter};

/// Where a claim stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its number.
    pub seq: Seq,
    /// It was there before; nothing is written and nothing follows from it.
    pub repeated: bool,
}

/// The id is in the log with other content, so this is not a repeat of an earlier call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("attestation {id} is already in the log as seq {seq} and differs")]
pub struct AppendConflict {
    /// The id.
    pub id: AttestationId,
    /// The number of the attestation that has it.
    pub seq: Seq,
}

/// What the log holds under an id, or held.
#[derive(Debug, Clone, PartialEq)]
pub enum Known {
    /// The claim is there.
    Here(Box<Stored>),
    /// It was there.
    Removed(Removed),
}

impl Known {
    /// The claim's number.
    #[must_use]
    pub fn seq(&self) -> Seq {
        match self {
            Known::Here(stored) => stored.seq,
            Known::Removed(removed) => removed.seq,
        }
    }

    /// Whether a claim under the same id says the same.
    #[must_use]
    pub fn is_said_by(&self, claim: &Incoming) -> bool {
        match self {
            Known::Here(standing) => {
                claim.attestation.same_content(claim.filled, &standing.attestation, standing.filled)
            }
            Known::Removed(removed) => removed.is_said_by(claim),
        }
    }
}

/// What stays of a claim that is not in the log any more: enough to know a repeat of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Its number.
    pub seq: Seq,
    /// Its id.
    pub id: AttestationId,
    /// Which of its fields the store had filled in.
    pub filled: Filled,
    /// What it said, if that could be read: 32 bytes for what always counts, and then 32 for each of
    /// timestamp, actors and source that was not filled in, as [`Attestation::content_hash`] makes them.
    /// Any content is taken for the same as one that could not be read.
    pub content: Option<Vec<u8>>,
}

impl Removed {
    /// What stays of a claim.
    #[must_use]
    pub fn of(stored: &Stored) -> Removed {
        Removed {
            seq: stored.seq,
            id: stored.attestation.id.clone(),
            filled: stored.filled,
            content: Some(hashes(&stored.attestation, stored.filled).concat()),
        }
    }

    fn is_said_by(&self, claim: &Incoming) -> bool {
        let Some(content) = &self.content else { return true };
        let told = hashes(&claim.attestation, self.filled);
        let counts = [true, !claim.filled.timestamp, !claim.filled.actors, !claim.filled.source];
        let given = [true, !self.filled.timestamp, !self.filled.actors, !self.filled.source];
        let counts = counts.into_iter().zip(given).filter(|(_, given)| *given);
        let mut parts = content.chunks(32).zip(told).zip(counts);
        parts.all(|((stands, told), (counts, _))| !counts || stands == told)
    }

    /// Bytes that `content` has.
    pub(crate) fn content_bytes(filled: Filled) -> usize {
        let Filled { timestamp, actors, source } = filled;
        32 * (4 - [timestamp, actors, source].into_iter().filter(|filled| *filled).count())
    }
}

/// A hash of what always counts, and of that with each field that was not filled in.
fn hashes(attestation: &Attestation, filled: Filled) -> Vec<[u8; 32]> {
    let none = Filled { timestamp: true, actors: true, source: true };
    let with = [
        (!filled.timestamp).then_some(Filled { timestamp: false, ..none }),
        (!filled.actors).then_some(Filled { actors: false, ..none }),
        (!filled.source).then_some(Filled { source: false, ..none }),
    ];
    let parts = [Some(none)].into_iter().chain(with).flatten();
    parts.map(|filled| attestation.content_hash(filled)).collect()
}

/// What to write, and what to answer once it is written.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// One for each incoming claim, in order.
    pub outcomes: Vec<Result<Appended, AppendConflict>>,
    /// The new rows, numbered from the head on.
    pub rows: Vec<Arc<Stored>>,
}

/// Decides about claims that arrive together.
///
/// `known` holds for each of them what the log has under its id. An id that comes twice is judged
/// against its first coming. New rows are stamped with `now`, and so is a timestamp that was filled in.
///
/// # Panics
/// When `known` is shorter than `incoming`.
#[must_use]
pub fn plan(head: Seq, incoming: Vec<Incoming>, known: Vec<Option<Known>>, now: Timestamp) -> Plan {
    assert!(known.len() >= incoming.len(), "every incoming claim was looked up");
    let mut plan = Plan::default();
    let mut new_ids: HashMap<AttestationId, usize> = HashMap::with_capacity(incoming.len());
    for (claim, known) in incoming.into_iter().zip(known) {
        let id = &claim.attestation.id;
        let outcome = if let Some(known) = known {
            judge(&claim, known.is_said_by(&claim), known.seq())
        } else if let Some(&row) = new_ids.get(id) {
            let first = &plan.rows[row];
            let same =
                claim.attestation.same_content(claim.filled, &first.attestation, first.filled);
            judge(&claim, same, first.seq)
        } else {
            new_ids.insert(id.clone(), plan.rows.len());
            let seq = plan.rows.last().map_or(head, |row| row.seq).next();
            plan.rows.push(Arc::new(admit(claim, seq, now)));
            Ok(Appended { seq, repeated: false })
        };
        plan.outcomes.push(outcome);
    }
    plan
}

fn judge(claim: &Incoming, same: bool, seq: Seq) -> Result<Appended, AppendConflict> {
    if same {
        Ok(Appended { seq, repeated: true })
    } else {
        Err(AppendConflict { id: claim.attestation.id.clone(), seq })
    }
}

fn admit(claim: Incoming, seq: Seq, now: Timestamp) -> Stored {
    let Incoming { mut attestation, filled, appended_by, lineage } = claim;
    attestation.created_at = now;
    if filled.timestamp {
        attestation.timestamp = now;
    }
    Stored { seq, attestation, appended_by, filled, lineage }
}

/// Appends without an engine: looks up, decides, commits. Nothing is matched.
///
/// # Errors
/// [`StoreError`] when the store fails; then nothing of these claims was written.
pub async fn append(
    writer: &mut dyn StoreWriter,
    incoming: Vec<Incoming>,
    now: Timestamp,
) -> Result<Vec<Result<Appended, AppendConflict>>, StoreError> {
    let ids: Vec<_> = incoming.iter().map(|claim| claim.attestation.id.clone()).collect();
    let known = writer.known(&ids).await?;
    let head = writer.reader().head().await?;
    let Plan { outcomes, rows } = plan(head, incoming, known, now);
    if !rows.is_empty() {
        writer.commit(&Batch { attestations: rows, ..Batch::default() }).await?;
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::{DefaultActor, Defaults, Draft};

    fn incoming(id: &str, subject: &str) -> Incoming {
        let draft = Draft {
            id: Some(id.to_owned()),
            subjects: vec![subject.to_owned()],
            ..Draft::default()
        };
        let defaults = Defaults { actor: DefaultActor::OwnId, source: "test".into() };
        draft.complete(&defaults, "user", at(1), 0).unwrap()
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms).unwrap()
    }

    #[test]
    fn repeats_get_the_standing_number_and_conflicts_are_refused_alone() {
        let standing =
            plan(Seq(6), vec![incoming("old", "x")], vec![None], at(5)).rows[0].as_ref().clone();
        let cases = [
            ("old", "x", Some(Known::Here(Box::new(standing.clone())))),
            ("old", "y", Some(Known::Here(Box::new(standing.clone())))),
            ("old", "x", Some(Known::Removed(Removed::of(&standing)))),
            ("old", "y", Some(Known::Removed(Removed::of(&standing)))),
            ("new", "x", None),
            ("new", "x", None),
            ("new", "y", None),
            ("other", "y", None),
        ];
        let (claims, known) =
            cases.into_iter().map(|(id, subject, known)| (incoming(id, subject), known)).unzip();
        let Plan { outcomes, rows } = plan(Seq(7), claims, known, at(9));
        let told: Vec<_> = outcomes
            .iter()
            .map(|outcome| match outcome {
                Ok(appended) => format!("{} {}", appended.seq, appended.repeated),
                Err(conflict) => conflict.to_string(),
            })
            .collect();
        let expected = [
            "7 true",
            "attestation old is already in the log as seq 7 and differs",
            "7 true",
            "attestation old is already in the log as seq 7 and differs",
            "8 false",
            "8 true",
            "attestation new is already in the log as seq 8 and differs",
            "9 false",
        ];
        assert_eq!(told, expected);
        assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [Seq(8), Seq(9)]);
    }

    /// What stays of a claim judges as the claim itself did, whatever was filled in for either.
    #[test]
    fn a_removed_claim_judges_as_it_did_before() {
        type Edit = fn(&mut Incoming);
        let edits: [Edit; 5] = [
            |_| {},
            |claim| claim.attestation.timestamp = at(77),
            |claim| claim.attestation.actors = vec!["other".into()],
            |claim| claim.attestation.source = "other".into(),
            |claim| claim.attestation.contexts = vec!["other".into()],
        ];
        let codes = (0..8).map(Filled::from_code);
        for (filled, again) in
            codes.clone().flat_map(|one| codes.clone().map(move |two| (one, two)))
        {
            let standing = Incoming { filled, ..incoming("a", "x") };
            let stored = plan(Seq(0), vec![standing.clone()], vec![None], at(1)).rows[0].clone();
            let removed = Known::Removed(Removed::of(&stored));
            let bytes = Removed::content_bytes(filled);
            assert!(
                matches!(&removed, Known::Removed(row) if row.content.as_ref().unwrap().len() == bytes)
            );
            let here = Known::Here(Box::new(stored.as_ref().clone()));
            for edit in edits {
                let mut claim = Incoming { filled: again, ..standing.clone() };
                claim.attestation = stored.attestation.clone();
                edit(&mut claim);
                let said = here.is_said_by(&claim);
                assert_eq!(removed.is_said_by(&claim), said, "{filled:?} {again:?} {claim:?}");
            }
        }
        let unread = Removed {
            seq: Seq(1),
            id: "a".parse().unwrap(),
            filled: Filled::default(),
            content: None,
        };
        assert!(Known::Removed(unread).is_said_by(&incoming("a", "y")));
    }

    #[test]
    fn rows_are_stamped_by_our_clock() {
        let mut given = incoming("a", "x");
        given.filled.timestamp = false;
        given.attestation.timestamp = at(3);
        let rows = plan(Seq(0), vec![given, incoming("b", "x")], vec![None, None], at(9)).rows;
        let times = rows.iter().map(|row| (row.attestation.timestamp, row.attestation.created_at));
        assert_eq!(times.collect::<Vec<_>>(), [(at(3), at(9)), (at(9), at(9))]);
    }
}
