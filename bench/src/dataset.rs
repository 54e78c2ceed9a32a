//! A log as a large installation may have it: words that come often and words that come once, two
//! years of claims, attributes of several types. The same seed makes the same claims.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use axwatch_ats::{Batch, SqliteStore, StoreWriter, plan};
use axwatch_model::{Attributes, DefaultActor, Defaults, Draft, Incoming, Seq, Timestamp};

use crate::random::{Random, Zipf};

/// Words that claims are about.
pub const SUBJECTS: usize = 100_000;
/// Contexts.
pub const CONTEXTS: usize = 5_000;
/// People who claim.
pub const ACTORS: usize = 1_000;
/// What is claimed, the most frequent first.
pub const PREDICATES: [&str; 36] = [
    "deployed",
    "built",
    "tested",
    "reviewed",
    "author",
    "committer",
    "released",
    "failed",
    "merged",
    "opened",
    "closed",
    "assigned",
    "commented",
    "approved",
    "rejected",
    "blocked",
    "member",
    "maintainer",
    "owner",
    "follows",
    "depends_on",
    "uses",
    "measured",
    "paid",
    "worked_on",
    "located",
    "speaks",
    "certified",
    "joined",
    "left",
    "moved",
    "renamed",
    "archived",
    "restored",
    "flagged",
    "draft",
];
const LANGUAGES: [&str; 12] = [
    "rust",
    "python",
    "go",
    "typescript",
    "java",
    "c",
    "c++",
    "ruby",
    "kotlin",
    "swift",
    "haskell",
    "zig",
];
const LABELS: [&str; 16] = [
    "bug",
    "urgent",
    "docs",
    "good first issue",
    "help wanted",
    "performance",
    "security",
    "api",
    "ui",
    "breaking",
    "blocked",
    "wontfix",
    "duplicate",
    "question",
    "release",
    "flaky",
];

/// When the last claim is made, and now for the questions: 2026-01-01T00:00:00Z.
const END_MS: i64 = 1_767_225_600_000;
/// How long before the first one is.
const SPAN_MS: i64 = 2 * 365 * 86_400_000;
/// How long after the fact a late claim comes at most.
const LATE_MS: usize = 30 * 86_400_000;

/// The subject of this rank, from 0, which is the most frequent.
#[must_use]
pub fn subject(rank: usize) -> String {
    format!("Thing-{rank}")
}

/// The context of this rank.
#[must_use]
pub fn context(rank: usize) -> String {
    format!("Team-{rank}")
}

/// The actor of this rank.
#[must_use]
pub fn actor(rank: usize) -> String {
    format!("person-{rank}@example.com")
}

/// Makes the claims in the order in which they were appended.
#[derive(Debug)]
pub struct Dataset {
    random: Random,
    subjects: Zipf,
    predicates: Zipf,
    contexts: Zipf,
    actors: Zipf,
    languages: Zipf,
    defaults: Defaults,
    made: u64,
    claims: u64,
}

impl Dataset {
    /// The claims of this seed, `claims` of them over the two years.
    #[must_use]
    pub fn new(seed: u64, claims: u64) -> Dataset {
        Dataset {
            random: Random::new(seed),
            subjects: Zipf::new(SUBJECTS),
            predicates: Zipf::new(PREDICATES.len()),
            contexts: Zipf::new(CONTEXTS),
            actors: Zipf::new(ACTORS),
            languages: Zipf::new(LANGUAGES.len()),
            defaults: Defaults { actor: DefaultActor::OwnId, source: "axwatch-bench".into() },
            made: 0,
            claims,
        }
    }

    /// When the questions about it are asked.
    #[must_use]
    pub fn end() -> Timestamp {
        Timestamp::from_ms_clamped(END_MS)
    }

    /// When the last claim so far was appended.
    fn now(&self) -> Timestamp {
        let share = self.made as f64 / self.claims.max(1) as f64;
        Timestamp::from_ms_clamped(END_MS - SPAN_MS + (SPAN_MS as f64 * share) as i64)
    }

    /// The next claim.
    pub fn claim(&mut self) -> Incoming {
        self.made += 1;
        let draft = Draft {
            subjects: self.some_subjects(),
            predicates: vec![PREDICATES[self.predicates.rank(&mut self.random)].to_owned()],
            contexts: vec![context(self.contexts.rank(&mut self.random))],
            actors: vec![actor(self.actors.rank(&mut self.random))],
            timestamp: Some(self.timestamp()),
            attributes: self.attributes(),
            ..Draft::default()
        };
        let (now, entropy) = (self.now(), self.random.number());
        draft.complete(&self.defaults, "user", now, entropy).expect("this is a good claim")
    }

    /// One claim in five is about two things.
    fn some_subjects(&mut self) -> Vec<String> {
        let count = if self.random.one_in(5) { 2 } else { 1 };
        (0..count).map(|_| subject(self.subjects.rank(&mut self.random))).collect()
    }

    /// One claim in twenty tells of something that was some days ago.
    fn timestamp(&mut self) -> Timestamp {
        let late_ms = if self.random.one_in(20) { self.random.within(0..LATE_MS) } else { 0 };
        self.now().minus(Duration::from_millis(late_ms as u64))
    }

    /// Two claims in three have some.
    fn attributes(&mut self) -> Option<Attributes> {
        if self.random.one_in(3) {
            return None;
        }
        let language = LANGUAGES[self.languages.rank(&mut self.random)];
        let stars = self.random.within(0..5_000) * self.random.within(0..5_000) / 5_000;
        let labels = self.random.within(0..4);
        let labels: Vec<&str> =
            (0..labels).map(|_| LABELS[self.random.within(0..LABELS.len())]).collect();
        let mut attributes =
            serde_json::json!({ "lang": language, "stars": stars, "labels": labels });
        if self.random.one_in(10) {
            let units = ["duration_days", "duration_months", "duration_years"];
            attributes[units[self.random.within(0..3)]] = self.random.within(1..20).into();
        }
        Attributes::parse(&attributes.to_string()).expect("this is an object")
    }
}

/// Appends all claims to a new store, and answers with its writer, which has not closed it: the newest
/// claims are then where those of a running server are.
///
/// # Errors
/// When the store fails.
pub async fn write(store: &Path, mut dataset: Dataset) -> Result<Box<dyn StoreWriter>> {
    const CLAIMS_PER_COMMIT: u64 = 1_000;
    let mut writer = SqliteStore::open_writer(store).await?;
    let mut head = Seq(0);
    while dataset.made < dataset.claims {
        let count = CLAIMS_PER_COMMIT.min(dataset.claims - dataset.made);
        let claims: Vec<_> = (0..count).map(|_| dataset.claim()).collect();
        let known = vec![None; claims.len()];
        let rows = plan(head, claims, known, dataset.now()).rows;
        head = rows.last().map_or(head, |row| row.seq);
        let batch = Batch { attestations: rows, matched_seq: Some(head), ..Batch::default() };
        writer.commit(&batch).await?;
    }
    Ok(writer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn claims(seed: u64, count: u64) -> Vec<Incoming> {
        let mut dataset = Dataset::new(seed, count);
        (0..count).map(|_| dataset.claim()).collect()
    }

    #[test]
    fn one_seed_makes_the_same_claims_and_another_others() {
        let attestations = |seed| -> Vec<_> {
            claims(seed, 500).into_iter().map(|claim| claim.attestation).collect()
        };
        assert_eq!(attestations(1), attestations(1));
        assert_ne!(attestations(1), attestations(2));
    }

    #[test]
    fn words_are_frequent_and_rare_and_times_rise_over_two_years() {
        let claims = claims(1, 20_000);
        let mut subjects: BTreeMap<&str, u32> = BTreeMap::new();
        let words = claims.iter().flat_map(|claim| &claim.attestation.subjects);
        words.for_each(|word| *subjects.entry(word).or_default() += 1);
        let once = subjects.values().filter(|count| **count == 1).count();
        let most = subjects.iter().max_by_key(|(_, count)| **count);
        assert_eq!(most.map(|(word, _)| *word), Some("Thing-0"));
        assert!(once > subjects.len() / 2, "{once} of {}", subjects.len());

        let created: Vec<_> = claims.iter().map(|claim| claim.attestation.created_at).collect();
        assert!(created.is_sorted());
        assert_eq!(created.last(), Some(&Dataset::end()));
        let first = Dataset::end().ms() - SPAN_MS;
        assert!((first..first + 86_400_000).contains(&created[0].ms()));
        let attributes = claims.iter().filter(|claim| claim.attestation.attributes.is_some());
        assert!((12_000..15_000).contains(&attributes.count()));
    }
}
