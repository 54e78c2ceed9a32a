//! The claims that the driver makes: each follows from the seed and its number alone, so that the
//! checker knows what was sent without being told.

use serde_json::{Value, json};

use super::dice::{Dice, mix};

/// One claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub id: String,
    pub subjects: Vec<String>,
    pub predicates: Vec<String>,
    pub contexts: Vec<String>,
    pub actors: Vec<String>,
}

/// What is claimed, and of [`OF`] claims how many claim it. What is left says nothing. Limits are closed for
/// a second after each start, and a start is seldom older: what waits for one is rare, so that little is left
/// to be fired when the last kill is done.
const PREDICATES: [(&str, u64); 11] = [
    ("lost", 3),
    ("late", 16),
    ("sold", 70),
    ("moved", 360),
    ("asked", 200),
    ("broken", 120),
    ("dialled", 40),
    ("held", 120),
    ("passing", 120),
    ("flipped", 120),
    (FREE, 2_600),
];

/// What most claim.
const FREE: &str = "seen";
/// The sum of [`PREDICATES`], and those that claim nothing.
const OF: u64 = 4_000;

/// Of so many claims the last [`FLOOD`] come all at once.
const TURN: u64 = 4_000;
/// So many claims fill whole batches of the engine.
const FLOOD: u64 = 1_000;

/// The flood that begins with this claim: the first number that is no part of it.
pub fn flood_from(number: u64) -> Option<u64> {
    (number % TURN == TURN - FLOOD).then_some(number + FLOOD)
}

/// Whether a claim comes in a flood.
pub fn is_in_flood(number: u64) -> bool {
    number % TURN >= TURN - FLOOD
}

impl Claim {
    /// The claim with this number. Those of a flood are for watchers that no limit holds back.
    pub fn numbered(seed: u64, number: u64) -> Claim {
        let mut dice = Dice::new(mix(seed), number);
        let predicates =
            if is_in_flood(number) { vec![FREE.to_owned()] } else { predicates(&mut dice) };
        Claim {
            id: format!("torture-{number}"),
            subjects: subjects(&mut dice),
            predicates,
            contexts: contexts(&mut dice),
            actors: actors(&mut dice),
        }
    }

    /// As it is sent: what it leaves out is left to the store.
    pub fn to_json(&self) -> Value {
        let mut json = json!({ "id": self.id, "subjects": self.subjects });
        let lists = [
            ("predicates", &self.predicates),
            ("contexts", &self.contexts),
            ("actors", &self.actors),
        ];
        for (key, list) in lists {
            if !list.is_empty() {
                json[key] = json!(list);
            }
        }
        json
    }
}

fn subjects(dice: &mut Dice) -> Vec<String> {
    let first = format!("item-{}", dice.below(40));
    if dice.percent(15) { vec![first, format!("lot-{}", dice.below(5))] } else { vec![first] }
}

fn predicates(dice: &mut Dice) -> Vec<String> {
    let mut drawn = dice.below(OF);
    for (word, share) in PREDICATES {
        if drawn < share {
            return vec![word.to_owned()];
        }
        drawn -= share;
    }
    Vec::new()
}

fn contexts(dice: &mut Dice) -> Vec<String> {
    let one = |dice: &mut Dice| {
        let word = format!("place-{}", dice.below(10));
        // AX does not mind; the lists of a plugin do.
        if dice.percent(20) { word.to_uppercase() } else { word }
    };
    match dice.below(10) {
        0 => Vec::new(),
        1 => {
            let (first, second) = (one(dice), one(dice));
            if first.eq_ignore_ascii_case(&second) { vec![first] } else { vec![first, second] }
        }
        _ => vec![one(dice)],
    }
}

fn actors(dice: &mut Dice) -> Vec<String> {
    if dice.percent(10) { Vec::new() } else { vec![format!("clerk-{}", dice.below(5))] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_follows_from_its_number() {
        assert_eq!(Claim::numbered(7, 1), Claim::numbered(7, 1));
        assert_ne!(Claim::numbered(7, 1).to_json(), Claim::numbered(8, 1).to_json());
    }

    #[test]
    fn every_predicate_is_drawn_as_often_as_it_says() {
        assert!(PREDICATES.iter().map(|(_, share)| share).sum::<u64>() < OF);
        let claims: Vec<_> = (0..20_000).map(|n| Claim::numbered(3, n * TURN)).collect();
        for (word, share) in PREDICATES {
            let drawn = claims.iter().filter(|claim| claim.predicates == [word]).count() as u64;
            let expected = share * 5;
            assert!(drawn > expected / 2 && drawn < expected * 2, "{word}: {drawn}");
        }
    }
}
