//! The workloads: so many watchers of a shape, and attestations for them. The same seed makes the same.

use axwatch_model::{Attestation, Attributes, Declared, StructuralFilter, Timestamp};

use crate::random::{Random, Zipf};

/// How many words the predicates of the shapes [`Shape::A`] and [`Shape::E`] are taken from.
const PREDICATES: usize = 100_000;
/// How many contexts there are in these shapes.
const CONTEXTS: usize = 1_000;
/// How many watchers wait for the hot predicate of [`Shape::C`].
const HOT: usize = 10_000;
/// How many words each dimension of [`Shape::D`] has, and how many of them an attestation has: the most
/// that it may have.
const WORST_WORDS: usize = 1_000;
const WORST_TERMS: usize = 100;
/// 2025-01-01T00:00:00Z, and the two years after it: the times of [`Shape::E`].
const START_MS: i64 = 1_735_689_600_000;
const SPAN_HOURS: usize = 2 * 365 * 24;
const HOUR_MS: i64 = 3_600_000;

/// What the watchers wait for, and what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Each watcher one predicate, a few of them often; half with a context. One attestation in five has
    /// a predicate that watchers may use.
    A,
    /// Few predicates, many contexts; each watcher one of each. About six matches.
    B,
    /// Ten thousand watchers on one predicate that each attestation has, told apart by an attribute; the
    /// rest as A.
    C,
    /// Watchers with terms in any dimensions, and attestations with 100 terms in each.
    D,
    /// As A, but for 5 in 100 lists of three, 10 in 100 conditions on attributes, 5 in 100 exclusions and
    /// 1 in 100 that ask about an hour and nothing else.
    E,
}

impl Shape {
    /// As in the output.
    pub fn name(self) -> &'static str {
        match self {
            Shape::A => "a",
            Shape::B => "b",
            Shape::C => "c",
            Shape::D => "d",
            Shape::E => "e",
        }
    }

    /// Watchers with the numbers from 0.
    pub fn watchers(self, count: usize, seed: u64) -> Vec<Declared> {
        let (mut random, zipf) = (Random::new(seed), Zipf::new(PREDICATES));
        (0..count)
            .map(|number| match self {
                Shape::A => plain(&mut random, &zipf),
                Shape::B => {
                    let (predicates, contexts) = pairs(count);
                    let predicate = format!("p{}", random.within(0..predicates));
                    lists(&[], &[predicate], &[format!("c{}", random.within(0..contexts))], &[])
                }
                Shape::C if number < HOT => {
                    Declared::Ax(format!("is hot where repo = 'r{number}'"))
                }
                Shape::C => plain(&mut random, &zipf),
                Shape::D => worst(&mut random),
                Shape::E => mixed(&mut random, &zipf),
            })
            .collect()
    }

    /// Attestations for so many watchers.
    pub fn attestations(self, watchers: usize, count: usize, seed: u64) -> Vec<Attestation> {
        let mut random = Random::new(seed ^ 0x5eed);
        (0..count).map(|number| self.attestation(&mut random, watchers, number)).collect()
    }

    fn attestation(self, random: &mut Random, watchers: usize, number: usize) -> Attestation {
        let subject = vec![format!("subject-{}", random.number())];
        let actor = vec![format!("actor-{}@example.com", random.within(0..1_000_000))];
        let at = random.within(0..SPAN_HOURS * 3_600) as i64;
        let one = |predicate: String, context: String| {
            claim(number, [subject, vec![predicate], vec![context], actor], at)
        };
        match self {
            Shape::A => one(predicate(random), context(random)),
            Shape::B => {
                let (predicates, contexts) = pairs(watchers);
                let predicate = format!("p{}", random.within(0..predicates));
                one(predicate, format!("c{}", random.within(0..contexts)))
            }
            Shape::C => {
                let text = format!(r#"{{"repo":"r{}","stars":7}}"#, random.within(0..HOT));
                let attributes = Attributes::parse(&text).expect("an object");
                Attestation { attributes, ..one("hot".to_owned(), context(random)) }
            }
            Shape::D => {
                let lists = ["s", "p", "c", "a"].map(|letter| words(random, letter));
                claim(number, lists, at)
            }
            Shape::E => {
                let text = format!(
                    r#"{{"lang":"l{}","stars":{}}}"#,
                    random.within(0..1_000),
                    random.within(0..5_000)
                );
                let attributes = Attributes::parse(&text).expect("an object");
                let attributes = if random.one_in(3) { None } else { attributes };
                Attestation { attributes, ..one(predicate(random), context(random)) }
            }
        }
    }
}

/// How many predicates and contexts [`Shape::B`] has, so that a pair of them has about six watchers.
fn pairs(watchers: usize) -> (usize, usize) {
    const PREDICATES: usize = 16;
    let predicates = PREDICATES.min((watchers / 6).max(1));
    (predicates, (watchers / (6 * predicates)).max(1))
}

fn plain(random: &mut Random, zipf: &Zipf) -> Declared {
    let predicates = [format!("predicate-{}", zipf.rank(random))];
    let contexts: Vec<String> = if random.one_in(2) { vec![context(random)] } else { Vec::new() };
    lists(&[], &predicates, &contexts, &[])
}

fn mixed(random: &mut Random, zipf: &Zipf) -> Declared {
    let rank = |random: &mut Random| zipf.rank(random);
    let kind = random.within(0..100);
    let text = match kind {
        0..5 => {
            let any: Vec<String> = (0..3).map(|_| format!("predicate-{}", rank(random))).collect();
            return lists(&[], &any, &[], &[]);
        }
        5..10 => {
            let lang = random.within(0..1_000);
            format!("is predicate-{} where lang = 'l{lang}'", rank(random))
        }
        10..15 => {
            let stars = random.within(0..5_000);
            format!("is predicate-{} where stars > {stars}", rank(random))
        }
        15..20 => {
            let (rank, other) = (rank(random), rank(random));
            format!("is predicate-{rank} is not predicate-{other} of {}", context(random))
        }
        20 => {
            let start = START_MS + random.within(0..SPAN_HOURS) as i64 * HOUR_MS;
            let end = Timestamp::from_ms_clamped(start + HOUR_MS);
            format!("since {} until {end}", Timestamp::from_ms_clamped(start))
        }
        _ => return plain(random, zipf),
    };
    Declared::Ax(text)
}

/// One word in each of some dimensions, at least one.
fn worst(random: &mut Random) -> Declared {
    let dimensions = random.within(1..16);
    let [subjects, predicates, contexts, actors] = [0, 1, 2, 3].map(|i| {
        let word = random.within(0..WORST_WORDS);
        let letter = ["s", "p", "c", "a"][i];
        if dimensions & 1 << i == 0 { Vec::new() } else { vec![format!("{letter}{word}")] }
    });
    lists(&subjects, &predicates, &contexts, &actors)
}

fn words(random: &mut Random, letter: &str) -> Vec<String> {
    // Words at one distance from each other, so that none comes twice.
    let first = random.within(0..WORST_WORDS);
    let word = |i| (first + i * (WORST_WORDS / WORST_TERMS)) % WORST_WORDS;
    (0..WORST_TERMS).map(|i| format!("{letter}{}", word(i))).collect()
}

/// One in five is a word that watchers may use, each as often.
fn predicate(random: &mut Random) -> String {
    if random.one_in(5) {
        format!("predicate-{}", random.within(0..PREDICATES))
    } else {
        format!("nobody-waits-for-{}", random.within(0..PREDICATES))
    }
}

fn context(random: &mut Random) -> String {
    format!("context-{}", random.within(0..CONTEXTS))
}

/// A structural watcher.
pub fn lists(
    subjects: &[String],
    predicates: &[String],
    contexts: &[String],
    actors: &[String],
) -> Declared {
    Declared::Structural(StructuralFilter {
        subjects: subjects.to_vec(),
        predicates: predicates.to_vec(),
        contexts: contexts.to_vec(),
        actors: actors.to_vec(),
    })
}

/// Claimed `at` seconds into the two years, and appended at their end.
pub fn claim(number: usize, lists: [Vec<String>; 4], at: i64) -> Attestation {
    let [subjects, predicates, contexts, actors] = lists;
    Attestation {
        id: format!("AS-{number}").parse().expect("an id"),
        subjects,
        predicates,
        contexts,
        actors,
        timestamp: Timestamp::from_ms_clamped(START_MS + at * 1_000),
        created_at: Timestamp::from_ms_clamped(START_MS + SPAN_HOURS as i64 * HOUR_MS),
        source: "axwatch-bench".to_owned(),
        attributes: None,
        signature: None,
        signer_did: None,
    }
}
