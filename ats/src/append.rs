//! What becomes of claims that want into the log: a new row, a repeat, or a conflict.
//!
//! An id stands for one content. The same claim again gets the number that it has already, so a
//! caller who saw no answer may ask again; another claim under the same id is refused by itself and
//! the rest goes on.

use std::collections::HashMap;
use std::sync::Arc;

use axwatch_model::{AttestationId, Incoming, Seq, Stored, Timestamp};

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
pub fn plan(
    head: Seq,
    incoming: Vec<Incoming>,
    known: Vec<Option<Stored>>,
    now: Timestamp,
) -> Plan {
    assert!(known.len() >= incoming.len(), "every incoming claim was looked up");
    let mut plan = Plan::default();
    let mut new_ids: HashMap<AttestationId, usize> = HashMap::with_capacity(incoming.len());
    for (claim, known) in incoming.into_iter().zip(known) {
        let id = &claim.attestation.id;
        let outcome = if let Some(standing) = known {
            judge(&claim, &standing)
        } else if let Some(&row) = new_ids.get(id) {
            judge(&claim, &plan.rows[row])
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

fn judge(claim: &Incoming, standing: &Stored) -> Result<Appended, AppendConflict> {
    let same = claim.attestation.same_content(claim.filled, &standing.attestation, standing.filled);
    if same {
        Ok(Appended { seq: standing.seq, repeated: true })
    } else {
        Err(AppendConflict { id: claim.attestation.id.clone(), seq: standing.seq })
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
            ("old", "x", Some(standing.clone())),
            ("old", "y", Some(standing)),
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
            "8 false",
            "8 true",
            "attestation new is already in the log as seq 8 and differs",
            "9 false",
        ];
        assert_eq!(told, expected);
        assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [Seq(8), Seq(9)]);
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
