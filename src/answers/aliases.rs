//! Aliases: which words are one and the same, with the words as people wrote them.
//!
//! In: the changes of aliases that the log holds, or the classes that a server tells. Out: [`Known`],
//! which answers what is one with what, and what a further change would do. What a change means is for
//! `axwatch_query::Aliases` to say; here is only who wrote which word how, and since when.

use std::collections::{BTreeMap, BTreeSet};

use axwatch_ats::StoreError;
use axwatch_model::Seq;
use axwatch_query::{AliasChange, AliasChangeKind, Aliases, fold};

use super::Answers;
use crate::config::nearest;
use crate::views::AliasClass;

/// The words of a class in the form in which they compare, in byte order.
type Class = Vec<Box<str>>;

impl Answers {
    /// The words that are one for claims that come now, the newest class first.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn aliases(&self) -> Result<Vec<AliasClass>, StoreError> {
        let mut known = Known::default();
        for (seq, change) in self.store().alias_changes(Seq(0)).await? {
            known.apply(seq, &change);
        }
        Ok(known.classes())
    }
}

/// Aliases, with each word as it was last written and the change that made its class what it is.
#[derive(Debug, Clone, Default)]
pub struct Known {
    aliases: Aliases,
    /// By folded word: as written, and since when its class is what it is.
    words: BTreeMap<String, (String, Seq)>,
}

impl Known {
    /// What these classes say.
    pub fn of(classes: &[AliasClass]) -> Known {
        let mut known = Known::default();
        for class in classes {
            for (one, other) in &class.links {
                let words = [one, other].map(|place| class.words.get(*place).cloned());
                let words = words.into_iter().flatten().collect();
                known.aliases.apply(&AliasChange { kind: AliasChangeKind::Link, words });
            }
            let words = class.words.iter();
            let told = words.map(|word| (fold(word).into_owned(), (word.clone(), class.since)));
            known.words.extend(told);
        }
        known
    }

    /// Does what the change with this number says. Says whether anything changed.
    pub fn apply(&mut self, seq: Seq, change: &AliasChange) -> bool {
        let folded: Vec<String> = change.words.iter().map(|word| fold(word).into_owned()).collect();
        let before = self.classes_of(folded.iter().map(String::as_str));
        if !self.aliases.apply(change) {
            return false;
        }
        if change.kind == AliasChangeKind::Link {
            for (folded, word) in folded.iter().zip(&change.words) {
                let entry = self.words.entry(folded.clone()).or_insert_with(|| (word.clone(), seq));
                entry.0.clone_from(word);
            }
        }
        let touched = before.iter().flatten().map(|word| &**word);
        let after = self.classes_of(touched.chain(folded.iter().map(String::as_str)));
        for word in after.difference(&before).flatten() {
            if let Some((_, since)) = self.words.get_mut(&**word) {
                *since = seq;
            }
        }
        true
    }

    /// The classes of these folded words, each once.
    fn classes_of<'a>(&self, folded: impl Iterator<Item = &'a str>) -> BTreeSet<Class> {
        let classes = folded.map(|word| self.aliases.class_of(word).to_vec());
        classes.filter(|class| !class.is_empty()).collect()
    }

    /// All words that are one with this one, itself included, as they were written; none for a word
    /// without aliases.
    pub fn class_of(&self, word: &str) -> Vec<String> {
        self.aliases.class_of(&fold(word)).iter().map(|word| self.written(word)).collect()
    }

    /// Whether two words are one.
    pub fn are_one(&self, one: &str, other: &str) -> bool {
        let other = fold(other);
        self.aliases.class_of(&fold(one)).iter().any(|word| **word == *other)
    }

    /// How many words would be one if these were.
    pub fn size_with(&self, words: &[String]) -> usize {
        let folded = words.iter().map(|word| fold(word).into_owned());
        let mut all: BTreeSet<Box<str>> = BTreeSet::new();
        for word in folded {
            all.extend(self.aliases.class_of(&word).iter().cloned());
            all.insert(word.into());
        }
        all.len()
    }

    /// The word with aliases that is most like this one, as it was written.
    pub fn nearest(&self, word: &str) -> Option<&str> {
        let known: Vec<&str> = self.aliases.classes().flatten().map(|word| &**word).collect();
        let near = nearest(&fold(word), &known)?;
        self.words.get(near).map(|(written, _)| written.as_str())
    }

    /// The classes, the newest first.
    pub fn classes(&self) -> Vec<AliasClass> {
        let mut links: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
        for (one, other) in self.aliases.links() {
            let class = self.aliases.class_of(one);
            let place = |word: &str| class.binary_search_by(|known| (**known).cmp(word));
            if let (Ok(one_at), Ok(other_at)) = (place(one), place(other)) {
                links.entry(self.aliases.name_of(one)).or_default().push((one_at, other_at));
            }
        }
        let mut classes: Vec<AliasClass> = self
            .aliases
            .classes()
            .map(|class| AliasClass {
                words: class.iter().map(|word| self.written(word)).collect(),
                since: self.words.get(&*class[0]).map_or(Seq(0), |(_, since)| *since),
                links: links.remove(&*class[0]).unwrap_or_default(),
            })
            .collect();
        classes.sort_by_key(|class| std::cmp::Reverse(class.since));
        classes
    }

    fn written(&self, folded: &str) -> String {
        self.words.get(folded).map_or_else(|| folded.to_owned(), |(word, _)| word.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: AliasChangeKind, words: &str) -> AliasChange {
        AliasChange { kind, words: words.split(' ').map(str::to_owned).collect() }
    }

    type Changes<'a> = &'a [(AliasChangeKind, &'a str)];

    fn known(changes: Changes<'_>) -> Known {
        let mut known = Known::default();
        for (seq, (kind, words)) in (1..).zip(changes) {
            known.apply(Seq(seq), &change(*kind, words));
        }
        known
    }

    fn shown(known: &Known) -> Vec<String> {
        let class = |class: &AliasClass| format!("{} {}", class.since, class.words.join(" "));
        known.classes().iter().map(class).collect()
    }

    use AliasChangeKind::{Link, Unlink};

    #[test]
    fn a_class_has_its_words_as_last_written_and_since_when() {
        let cases: [(Changes<'_>, &[&str]); 6] = [
            (&[], &[]),
            (&[(Link, "NY NYC")], &["1 NY NYC"]),
            (&[(Link, "NY NYC"), (Link, "x y"), (Link, "Ny nyc")], &["2 x y", "1 NY NYC"]),
            (&[(Link, "NY NYC"), (Link, "x y"), (Link, "Ny x")], &["3 Ny NYC x y"]),
            // One more link among words that are one already makes no other class.
            (&[(Link, "a b"), (Link, "b c"), (Link, "A c")], &["2 A b c"]),
            (&[(Link, "a b"), (Link, "b c"), (Link, "c d"), (Unlink, "B c")], &["4 a b", "4 c d"]),
        ];
        for (changes, expected) in cases {
            assert_eq!(shown(&known(changes)), expected, "{changes:?}");
        }
    }

    #[test]
    fn classes_tell_all_that_there_is_to_know() {
        let changes = [(Link, "a b"), (Link, "b c"), (Link, "x y z"), (Unlink, "x z")];
        let known = known(&changes);
        let read = Known::of(&known.classes());
        assert_eq!(read.aliases, known.aliases);
        assert_eq!(read.classes(), known.classes());
        assert!(!read.clone().apply(Seq(9), &change(Link, "B A")), "they are linked");
        assert!(read.clone().apply(Seq(9), &change(Link, "a c")), "these only by b");
        assert!(!read.clone().apply(Seq(9), &change(Unlink, "a c")));
    }

    #[test]
    fn a_word_is_known_by_what_it_is_like() {
        let known = known(&[(Link, "Lisboa Lisbon")]);
        assert_eq!(known.class_of("LISBON"), ["Lisboa", "Lisbon"]);
        assert_eq!(known.class_of("Porto"), [""; 0]);
        assert_eq!(known.nearest("lisbin"), Some("Lisbon"));
        assert_eq!(known.nearest("Porto"), None);
        assert!(known.are_one("lisboa", "LISBON") && !known.are_one("lisboa", "Porto"));
        let words = ["LISBON".to_owned(), "Olisipo".to_owned()];
        assert_eq!(known.size_with(&words), 3);
    }
}
