//! The claims that benchmarks append: each about a thing of its own, a few predicates, some contexts,
//! and attributes that bring a row to about 400 bytes.

use axwatch_model::{Attributes, DefaultActor, Defaults, Draft, Incoming, Timestamp};

use crate::random::Random;

/// Predicates in use, each watched by a watcher of its own.
pub const PREDICATES: u64 = 8;
const CONTEXTS: u64 = 100;
const PEOPLE: u64 = 500;

/// By whom the claims are. A figure is taken with those that are harder for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actors {
    /// One of some people: three of a claim's four terms are then common, and a plain index is fast.
    People,
    /// The claim's own id, as when nobody is named: half of all terms are then found once only, and an
    /// index has them all over the file.
    OwnId,
}

/// Makes claims, no two of them alike. Two makers with the same number make the same claims.
#[derive(Debug)]
pub struct Maker {
    random: Random,
    actors: Actors,
    defaults: Defaults,
}

impl Maker {
    /// A maker whose claims are its own, as long as no other has its number.
    #[must_use]
    pub fn new(number: u64, actors: Actors) -> Maker {
        let defaults = Defaults { actor: DefaultActor::OwnId, source: "axwatch-bench".into() };
        Maker { random: Random::new(number), actors, defaults }
    }

    /// The next claim.
    pub fn claim(&mut self) -> Incoming {
        let (about, entropy) = (self.random.number(), self.random.number());
        let actors = match self.actors {
            Actors::People => vec![format!("person-{}@example.com", entropy % PEOPLE)],
            Actors::OwnId => Vec::new(),
        };
        let draft = Draft {
            actors,
            subjects: vec![format!("{about:016x}")],
            predicates: vec![predicate(about % PREDICATES)],
            contexts: vec![format!("team-{}", about / PREDICATES % CONTEXTS)],
            attributes: Attributes::parse(&attributes(about)).expect("this is an object"),
            ..Draft::default()
        };
        let now = Timestamp::from_ms_clamped(1_700_000_000_000);
        draft.complete(&self.defaults, "user", now, entropy).expect("this is a good claim")
    }

    /// The next claims.
    pub fn claims(&mut self, count: usize) -> Vec<Incoming> {
        (0..count).map(|_| self.claim()).collect()
    }
}

/// The predicate that a watcher waits for.
#[must_use]
pub fn predicate(watcher: u64) -> String {
    format!("is_measured_{watcher}")
}

fn attributes(about: u64) -> String {
    format!(
        r#"{{"hash":"{about:016x}{about:016x}{about:08x}","message":"measure the road from end to end, and say what was seen","lines":{}}}"#,
        about % 1_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_one_maker_and_of_two_differ_in_their_ids() {
        let mut ids = std::collections::HashSet::new();
        for number in 0..2 {
            ids.extend(
                Maker::new(number, Actors::People)
                    .claims(1_000)
                    .into_iter()
                    .map(|claim| claim.attestation.id),
            );
        }
        assert_eq!(ids.len(), 2_000);
    }
}
