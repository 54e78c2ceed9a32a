//! Which claims a text may hold for, where its words lead to few of them.
//!
//! Most texts name words that few claims have, and a store finds those without reading the rest. This is
//! a shortcut and never a second opinion: what is found here is judged like any other claim, and what is
//! not found has none of the words that it would need, under all aliases that there ever were.

use std::collections::BTreeSet;
use std::sync::Arc;

use axwatch_ats::{Question, Store, StoreError};
use axwatch_model::{Declared, Seq};
use axwatch_query::{
    AliasChange, AliasChangeKind, Aliases, Clause, Filter, Query, fold, parse_watcher,
};

/// Where more than one claim in so many may match, reading all of them is quicker.
const ONE_IN: u64 = 20;
/// Numbers that are kept.
const KEPT_MAX: u64 = 100_000;
/// Claims of one page.
const PAGE_ROWS: usize = 200;

/// The numbers, rising, of the claims from `first` to `last` of which one of these declarations may hold;
/// `None` when all have to be read.
///
/// # Errors
/// [`StoreError`] when the store does not answer.
pub async fn candidates(
    store: &dyn Store,
    declared: &[&Declared],
    changes: &[(Seq, AliasChange)],
    first: Seq,
    last: Seq,
) -> Result<Option<Vec<Seq>>, StoreError> {
    let claims = (last.0 + 1).saturating_sub(first.0);
    let kept_max = (claims / ONE_IN).min(KEPT_MAX) as usize;
    let filters: Option<Vec<Filter>> = declared.iter().map(|one| words_of(one)).collect();
    let (Some(filters), Some(aliases)) = (filters, ever(changes)) else { return Ok(None) };
    let aliases = Arc::new(aliases);
    let mut found = BTreeSet::new();
    for filter in filters {
        let question =
            Question { filter, aliases: Arc::clone(&aliases), before: None, limit: PAGE_ROWS };
        if !collect(store, question, first, last, kept_max, &mut found).await? {
            return Ok(None);
        }
    }
    Ok(Some(found.into_iter().collect()))
}

/// Adds the numbers of all claims from `first` to `last` that a question finds; `false` as soon as there
/// are more than `kept_max`.
async fn collect(
    store: &dyn Store,
    mut question: Question,
    first: Seq,
    last: Seq,
    kept_max: usize,
    found: &mut BTreeSet<Seq>,
) -> Result<bool, StoreError> {
    question.before = Some(last.next());
    while question.before.is_some_and(|before| before > first) {
        let page = store.query(&question).await?;
        let seqs = page.rows.iter().map(|stored| stored.seq);
        found.extend(seqs.take_while(|seq| *seq >= first));
        if found.len() > kept_max {
            return Ok(false);
        }
        question.before = page.next;
    }
    Ok(true)
}

/// The words of which a claim must have one of each list, and nothing else of what is asked; `None` when
/// there are none.
fn words_of(declared: &Declared) -> Option<Filter> {
    let filter = match declared {
        Declared::Structural(lists) => Filter::structural(lists),
        Declared::Ax(text) => {
            let asked = parse_watcher(text).ok()?;
            Filter::from_ax(&Query {
                subjects: asked.subjects,
                predicates: Clause { any: asked.predicates.any, ..Clause::default() },
                contexts: Clause { any: asked.contexts.any, ..Clause::default() },
                actors: Clause { any: asked.actors.any, ..Clause::default() },
                ..Query::default()
            })
        }
    };
    (!filter.is_empty()).then_some(filter)
}

/// Aliases in which all words are one that ever were; `None` when these are too many for one class.
fn ever(changes: &[(Seq, AliasChange)]) -> Option<Aliases> {
    let mut ever = Aliases::default();
    let links = changes.iter().filter(|(_, change)| change.kind == AliasChangeKind::Link);
    for (_, link) in links {
        ever.apply(link);
        let words: Vec<_> = link.words.iter().map(|word| fold(word)).collect();
        if !words.windows(2).all(|pair| ever.name_of(&pair[0]) == ever.name_of(&pair[1])) {
            return None;
        }
    }
    Some(ever)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_ats::AliasesOnTheWay;
    use axwatch_ats::{Batch, MemoryStore};
    use axwatch_model::{
        Attestation, Attributes, Filled, Lineage, StoreId, Stored, StructuralFilter, Timestamp,
    };
    use axwatch_query::matches;

    /// Numbers that are the same again for the same seed (SplitMix64).
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) % bound as u64) as usize
        }

        fn words(&mut self, most: usize) -> Vec<String> {
            const WORDS: [&str; 8] = ["a", "B", "Straße", "d", "E", "f", "g", "STRASSE"];
            (0..=self.below(most)).map(|_| WORDS[self.below(WORDS.len())].to_owned()).collect()
        }

        /// Any claim, or one in eight a change of aliases.
        fn claim(&mut self, seq: u64) -> Stored {
            let (subjects, predicates, attributes) = match self.below(16) {
                0 | 1 => {
                    let predicate = [AliasChange::LINK, AliasChange::UNLINK][self.below(2)];
                    let words = serde_json::json!({ "words": self.words(3) }).to_string();
                    let attributes = Attributes::parse(&words).unwrap();
                    (vec![AliasChange::SUBJECT.to_owned()], vec![predicate.to_owned()], attributes)
                }
                _ => (self.words(2), self.words(2), None),
            };
            let at = Timestamp::from_ms_clamped(seq as i64);
            let attestation = Attestation {
                id: format!("c-{seq}").parse().unwrap(),
                subjects,
                predicates,
                contexts: self.words(2),
                actors: self.words(1),
                timestamp: at,
                created_at: at,
                source: "test".into(),
                attributes,
                signature: None,
                signer_did: None,
            };
            Stored {
                seq: Seq(seq),
                attestation,
                appended_by: "user".into(),
                filled: Filled::default(),
                lineage: Lineage::default(),
            }
        }

        fn declared(&mut self) -> Declared {
            if self.below(5) == 0 {
                let lists = StructuralFilter { subjects: self.words(1), ..Default::default() };
                return Declared::Structural(lists);
            }
            let mut text = String::new();
            for (keyword, likely) in [("", 2), ("is", 3), ("of", 2), ("by", 2), ("by not", 4)] {
                if self.below(likely) == 0 {
                    text.push_str(&format!(" {keyword} {}", self.words(2).join(" ")));
                }
            }
            Declared::Ax(text)
        }
    }

    /// All that match are among the candidates, whatever was linked and unlinked on the way.
    #[tokio::test]
    async fn no_claim_that_matches_is_passed_over() {
        let mut narrowed = 0;
        for seed in 0..60 {
            let mut dice = Dice(seed);
            let log: Vec<Arc<Stored>> = (1..=150).map(|seq| Arc::new(dice.claim(seq))).collect();
            let mut writer = MemoryStore::new(StoreId([1; 16]));
            let batch = Batch { attestations: log.clone(), ..Batch::default() };
            writer.commit(&batch).await.unwrap();
            let store = writer.reader();
            let changes = store.alias_changes(Seq(0)).await.unwrap();
            for _ in 0..20 {
                let declared = dice.declared();
                let Some(words) = words_of(&declared) else { continue };
                let (filter, _) = Filter::declared(&declared).unwrap();
                let aliases = Arc::new(ever(&changes).unwrap());
                let (first, last) = (Seq(dice.below(80) as u64 + 1), Seq(140));
                let question = Question { filter: words, aliases, before: None, limit: 7 };
                let mut found = BTreeSet::new();
                let all = collect(&*store, question, first, last, 1_000, &mut found).await;
                assert!(all.unwrap());
                let mut aliases = AliasesOnTheWay::new(changes.clone());
                for stored in &log[first.0 as usize - 1..last.0 as usize] {
                    let holds = matches(&filter, &stored.attestation, aliases.before(stored.seq));
                    let seq = stored.seq;
                    assert!(!holds || found.contains(&seq), "seed {seed}: {declared:?} at {seq}");
                }
                assert!(found.iter().all(|seq| (first..=last).contains(seq)));
                narrowed += usize::from(found.len() < 100);
            }
        }
        assert!(narrowed > 300, "most texts are not about everything: {narrowed}");
    }

    #[tokio::test]
    async fn what_matches_often_is_read_from_the_log() {
        let mut dice = Dice(1);
        let log: Vec<Arc<Stored>> = (1..=200).map(|seq| Arc::new(dice.claim(seq))).collect();
        let mut writer = MemoryStore::new(StoreId([1; 16]));
        writer.commit(&Batch { attestations: log, ..Batch::default() }).await.unwrap();
        let store = writer.reader();
        let changes = store.alias_changes(Seq(0)).await.unwrap();
        // (text, whether its words lead to few claims)
        let cases = [
            ("is nothing", true),
            ("is nothing by not a", true),
            ("is a b d e f", false),
            ("is not a", false),
            ("where n = 1", false),
            ("since yesterday", false),
        ];
        for (text, few) in cases {
            let declared = Declared::Ax(text.to_owned());
            let found = candidates(&*store, &[&declared], &changes, Seq(1), Seq(200)).await;
            assert_eq!(found.unwrap().is_some(), few, "{text}");
        }
        let two = [Declared::Ax("is nothing".into()), Declared::Ax("is not a".into())];
        let found = candidates(&*store, &[&two[0], &two[1]], &changes, Seq(1), Seq(200)).await;
        assert_eq!(found.unwrap(), None, "both have to lead to few");
    }

    #[test]
    fn too_many_words_that_ever_were_one_are_no_shortcut() {
        let link =
            |words: Vec<String>| (Seq(1), AliasChange { kind: AliasChangeKind::Link, words });
        let words = |from: usize| (from..from + 200).map(|n| format!("w{n}")).collect::<Vec<_>>();
        assert!(ever(&[link(words(0)), link(words(200))]).is_some());
        assert!(ever(&[link(words(0)), link(words(100))]).is_none());
        assert!(
            ever(&[link(vec!["a".into(), "A".into()])]).is_some(),
            "one word is one with itself"
        );
    }
}
