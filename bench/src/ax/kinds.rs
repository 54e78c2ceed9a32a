//! What is asked: kinds of questions that find little, of each many, and some that find much.

use crate::dataset::{ACTORS, CONTEXTS, PREDICATES, SUBJECTS, actor, context, subject};
use crate::random::Random;

/// A kind of question.
pub struct Kind<Q> {
    /// Its name in the output.
    pub name: &'static str,
    /// One of them, by chance; or the one that there is.
    pub question: Q,
}

/// A question by chance.
type Chance = fn(&mut Random) -> String;

/// Those that name a word which narrows them down, or a time.
pub const SELECTIVE: [Kind<Chance>; 11] = [
    Kind { name: "ax_rare_subject", question: |chance| subject(chance.within(10_000..SUBJECTS)) },
    Kind { name: "ax_busy_subject", question: |chance| subject(chance.within(0..10)) },
    Kind {
        name: "ax_subject_and_predicate",
        question: |chance| format!("{} is {}", some_subject(chance), some_predicate(chance)),
    },
    Kind {
        name: "ax_rare_context_busy_predicate",
        question: |chance| {
            let context = context(chance.within(1_000..CONTEXTS));
            format!("is {} of {context}", PREDICATES[chance.within(0..3)])
        },
    },
    Kind {
        name: "ax_context_and_actor",
        question: |chance| {
            let actor = actor(chance.within(10..ACTORS));
            format!("of {} by {actor}", context(chance.within(10..1_000)))
        },
    },
    Kind {
        name: "ax_several_subjects",
        question: |chance| {
            let subjects: Vec<String> = (0..5).map(|_| some_subject(chance)).collect();
            format!("{} is {} {}", subjects.join(" "), PREDICATES[0], some_predicate(chance))
        },
    },
    Kind {
        name: "ax_subject_since",
        question: |chance| {
            format!("{} since {} days ago", some_subject(chance), chance.within(1..700))
        },
    },
    Kind {
        name: "ax_busy_predicate_since",
        question: |chance| format!("is {} since {} hours ago", PREDICATES[0], chance.within(1..12)),
    },
    Kind {
        name: "ax_since",
        question: |chance| format!("since {} minutes ago", chance.within(10..100)),
    },
    Kind {
        name: "ax_subject_where",
        question: |chance| {
            let stars = chance.within(0..4_000);
            format!("{} where stars >= {stars} and lang != 'rust'", some_subject(chance))
        },
    },
    Kind {
        name: "ax_subject_not",
        question: |chance| {
            let (subject, predicate) = (some_subject(chance), some_predicate(chance));
            format!("{subject} is not {predicate} by not {}", actor(chance.within(0..ACTORS)))
        },
    },
];

/// Those that find much of the log.
pub const BROAD: [Kind<&str>; 5] = [
    Kind { name: "a busy predicate", question: "is deployed" },
    Kind { name: "a condition", question: "where stars >= 0" },
    Kind { name: "a time", question: "since 3 years ago" },
    Kind { name: "all but one predicate", question: "is not draft" },
    Kind { name: "all but one actor", question: "by not person-999@example.com" },
];

/// One that is named some ten times to a thousand times in a million claims.
fn some_subject(chance: &mut Random) -> String {
    subject(chance.within(100..10_000))
}

fn some_predicate(chance: &mut Random) -> &'static str {
    PREDICATES[chance.within(0..PREDICATES.len())]
}

impl Kind<Chance> {
    /// So many of them, the same in each run.
    pub fn questions(&self, count: usize) -> Vec<String> {
        let mut chance = Random::new(2);
        (0..count).map(|_| (self.question)(&mut chance)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_query::{Filter, Mistakes};

    use crate::dataset::Dataset;

    #[test]
    fn every_kind_is_a_question() -> Result<(), Mistakes> {
        let selective = SELECTIVE.iter().flat_map(|kind| kind.questions(50));
        let broad = BROAD.iter().map(|kind| kind.question.to_owned());
        for question in selective.chain(broad) {
            Filter::asked(&question, Dataset::end())?;
        }
        Ok(())
    }
}
