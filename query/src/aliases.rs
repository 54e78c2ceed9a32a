//! Words that are one and the same: `NY`, `New York`, `NYC`.
//!
//! A change of aliases is a claim in the log ([`AliasChange`]), so that it has a place there: whoever
//! goes along the log applies each change when it comes to it, and has what was in force at every claim
//! after it. [`Aliases`] is what a run of changes left.
//!
//! Links go both ways and from one to the next, so words fall into classes. To AX a claim's subject,
//! context or actor counts as every word of its class; predicates and structural filters know nothing of
//! it. That is done on the claim's side ([`crate::matches()`]), so that no filter changes when an alias
//! does; only a store, which looks for a question's terms, asks [`Aliases::class_of`] for the others.
//!
//! Not here: where the changes are kept (`axwatch-ats`), and when each is applied (`axwatch-core`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use axwatch_model::{Attestation, Incoming, InvalidDraft, Owner, Stored, bounds};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::fold;

/// Words of one class at most; a link that would make it larger is not made.
pub const ALIAS_CLASS_MAX: usize = 256;
/// Words of one change at most.
pub const ALIAS_WORDS_MAX: usize = 32;

/// What a claim does to the aliases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasChange {
    /// What.
    pub kind: AliasChangeKind,
    /// To which words, as written.
    pub words: Vec<String>,
}

/// What a change of aliases does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AliasChangeKind {
    /// Every word is linked with every other.
    Link,
    /// The links among the words go; of a single word, all that it has.
    Unlink,
}

impl AliasChange {
    /// The predicate of a claim that links words.
    pub const LINK: &str = "axwatch:alias";
    /// The predicate of a claim that takes links away.
    pub const UNLINK: &str = "axwatch:unalias";
    /// The subject of both. The words themselves stand in the attributes, so that a watcher on one of
    /// them does not fire because it got an alias.
    pub const SUBJECT: &str = "axwatch";

    /// What this claim does to the aliases. Only people's claims do anything: a plugin may not widen
    /// others' watchers. One that has the form but no words, or too few, too many, or some that can be no
    /// term, does nothing.
    #[must_use]
    pub fn of(stored: &Stored) -> Option<AliasChange> {
        (stored.appended_by == Owner::User.as_str())
            .then(|| AliasChange::read(&stored.attestation))?
    }

    /// Looks at a person's new claim: one that would change aliases has to say how.
    ///
    /// # Errors
    /// [`InvalidDraft::Meaning`] for one that would change nothing.
    pub fn check(incoming: Incoming) -> Result<Incoming, InvalidDraft> {
        let claim = &incoming.attestation;
        let is_meant = claim.subjects.iter().any(|subject| subject == AliasChange::SUBJECT)
            && claim
                .predicates
                .iter()
                .any(|predicate| [AliasChange::LINK, AliasChange::UNLINK].contains(&&**predicate));
        if is_meant && AliasChange::read(claim).is_none() {
            return Err(InvalidDraft::Meaning(
                "a change of aliases has the one subject axwatch, the one predicate axwatch:alias or axwatch:unalias, and in attributes.words 2 to 32 texts of 1 to 1000 bytes (one is enough for axwatch:unalias); `axwatch alias` makes such claims",
            ));
        }
        Ok(incoming)
    }

    fn read(attestation: &Attestation) -> Option<AliasChange> {
        let [subject] = &attestation.subjects[..] else { return None };
        let [predicate] = &attestation.predicates[..] else { return None };
        let (kind, words_min) = match (&**subject, &**predicate) {
            (AliasChange::SUBJECT, AliasChange::LINK) => (AliasChangeKind::Link, 2),
            (AliasChange::SUBJECT, AliasChange::UNLINK) => (AliasChangeKind::Unlink, 1),
            _ => return None,
        };
        let attributes = attestation.attributes.as_ref()?.to_value();
        let words = attributes.get("words")?.as_array()?.iter();
        let words: Option<Vec<String>> =
            words.map(|word| Some(word.as_str()?.to_owned())).collect();
        let words = words?;
        let is_term = |word: &String| (1..=bounds::TERM_BYTES_MAX).contains(&word.len());
        let said = (words_min..=ALIAS_WORDS_MAX).contains(&words.len());
        (said && words.iter().all(is_term)).then_some(AliasChange { kind, words })
    }

    /// The predicate of the claim that says so.
    #[must_use]
    pub fn predicate(&self) -> &'static str {
        match self.kind {
            AliasChangeKind::Link => AliasChange::LINK,
            AliasChangeKind::Unlink => AliasChange::UNLINK,
        }
    }

    /// The attributes of the claim that says so: a JSON object.
    #[must_use]
    pub fn attributes(&self) -> String {
        serde_json::json!({ "words": self.words }).to_string()
    }

    /// The words in the form in which they compare, each once.
    fn folded(&self) -> BTreeSet<Box<str>> {
        self.words.iter().map(|word| Box::from(&*fold(word))).collect()
    }
}

type Word = Arc<str>;

/// Which words are one.
#[derive(Debug, Clone, Default)]
pub struct Aliases {
    /// The words that each word is linked with directly; both ways.
    links: BTreeMap<Word, BTreeSet<Word>>,
    /// The class of each word that is linked at all.
    classes: HashMap<Word, Arc<[Box<str>]>, RandomState>,
}

/// The same links; what follows from them is the same then.
impl PartialEq for Aliases {
    fn eq(&self, other: &Aliases) -> bool {
        self.links == other.links
    }
}

impl Eq for Aliases {}

static NONE: LazyLock<Aliases> = LazyLock::new(Aliases::default);

impl Aliases {
    /// No aliases.
    #[must_use]
    pub fn none() -> &'static Aliases {
        &NONE
    }

    /// Whether every word is only itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// All words that are one with this one, itself included. The word and they are folded.
    ///
    /// Shape: in byte order, each once, at most [`ALIAS_CLASS_MAX`]; empty for a word without aliases.
    #[must_use]
    pub fn class_of(&self, folded: &str) -> &[Box<str>] {
        if self.classes.is_empty() {
            return &[];
        }
        self.classes.get(folded).map_or(&[], |class| class)
    }

    /// The word that stands for its class: the first of it, or the word itself. Folded.
    #[must_use]
    pub fn name_of<'a>(&'a self, folded: &'a str) -> &'a str {
        self.class_of(folded).first().map_or(folded, |first| first)
    }

    /// Each direct link once, folded, in byte order.
    pub fn links(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self
            .links
            .iter()
            .flat_map(|(one, others)| others.iter().map(move |other| (&**one, &**other)));
        pairs.filter(|(one, other)| one < other)
    }

    /// Each class once, in the order of their first words.
    pub fn classes(&self) -> impl Iterator<Item = &[Box<str>]> {
        let is_first =
            |word: &Word, class: &[Box<str>]| class.first().is_some_and(|first| **first == **word);
        self.links.keys().filter_map(move |word| {
            let class = self.class_of(word);
            is_first(word, class).then_some(class)
        })
    }

    /// Does what a change says, as far as classes stay within their bound. Says whether anything changed.
    pub fn apply(&mut self, change: &AliasChange) -> bool {
        let words: Vec<Word> = change.folded().iter().map(|word| Word::from(&**word)).collect();
        match (change.kind, &words[..]) {
            (AliasChangeKind::Link, words) => each_pair(words)
                .fold(false, |changed, (one, other)| self.link(one, other) | changed),
            (AliasChangeKind::Unlink, [word]) => {
                let linked: Vec<Word> =
                    self.links.get(word).into_iter().flatten().cloned().collect();
                self.unlink(linked.iter().map(|other| (word, other)))
            }
            (AliasChangeKind::Unlink, words) => self.unlink(each_pair(words)),
        }
    }

    fn link(&mut self, one: &Word, other: &Word) -> bool {
        let is_linked = self.links.get(one).is_some_and(|linked| linked.contains(other));
        let size = |word: &Word| self.class_of(word).len().max(1);
        let is_one_class = self.class_of(one).iter().any(|word| **word == **other);
        if is_linked || !is_one_class && size(one) + size(other) > ALIAS_CLASS_MAX {
            return false;
        }
        for (from, to) in [(one, other), (other, one)] {
            self.links.entry(from.clone()).or_default().insert(to.clone());
        }
        if !is_one_class {
            self.reckon_class(one);
        }
        true
    }

    fn unlink<'a>(&mut self, pairs: impl Iterator<Item = (&'a Word, &'a Word)>) -> bool {
        let mut touched = BTreeSet::new();
        for (one, other) in pairs {
            for (from, to) in [(one, other), (other, one)] {
                let Some(linked) = self.links.get_mut(from) else { continue };
                if linked.remove(to) {
                    touched.insert(from.clone());
                }
                if linked.is_empty() {
                    self.links.remove(from);
                }
            }
        }
        let changed = !touched.is_empty();
        // Each part that a class falls into has a touched word, and is walked once.
        while let Some(word) = touched.pop_first() {
            self.reckon_class(&word);
            for one in self.class_of(&word) {
                touched.remove(&**one);
            }
        }
        changed
    }

    /// Finds the class of a word anew, and lets all its words know it.
    fn reckon_class(&mut self, word: &Word) {
        let mut class: BTreeSet<Word> = BTreeSet::from([word.clone()]);
        let mut to_visit = vec![word.clone()];
        while let Some(word) = to_visit.pop() {
            for linked in self.links.get(&word).into_iter().flatten() {
                if class.insert(linked.clone()) {
                    to_visit.push(linked.clone());
                }
            }
        }
        if class.len() == 1 {
            self.classes.remove(word);
            return;
        }
        let words: Arc<[Box<str>]> = class.iter().map(|word| Box::from(&**word)).collect();
        for word in class {
            self.classes.insert(word, words.clone());
        }
    }
}

fn each_pair(words: &[Word]) -> impl Iterator<Item = (&Word, &Word)> {
    let after = |i: usize| &words[i + 1..];
    words
        .iter()
        .enumerate()
        .flat_map(move |(i, one)| after(i).iter().map(move |other| (one, other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::{Attributes, Filled, Lineage, Seq, Timestamp};
    use proptest::prelude::*;

    fn change(kind: AliasChangeKind, words: &[&str]) -> AliasChange {
        AliasChange { kind, words: words.iter().map(|word| (*word).to_owned()).collect() }
    }

    fn link(words: &[&str]) -> AliasChange {
        change(AliasChangeKind::Link, words)
    }

    fn unlink(words: &[&str]) -> AliasChange {
        change(AliasChangeKind::Unlink, words)
    }

    fn class(aliases: &Aliases, word: &str) -> String {
        aliases.class_of(word).join(" ")
    }

    #[test]
    fn links_go_both_ways_and_on() {
        let mut aliases = Aliases::default();
        assert!(aliases.apply(&link(&["NY", "New York"])));
        assert!(aliases.apply(&link(&["nyc", "NEW YORK"])));
        assert!(!aliases.apply(&link(&["new york", "NYC"])), "it was linked already");
        for word in ["ny", "nyc", "new york"] {
            assert_eq!(class(&aliases, word), "new york ny nyc");
            assert_eq!(aliases.name_of(word), "new york");
        }
        assert_eq!((class(&aliases, "NY"), aliases.name_of("boston")), (String::new(), "boston"));
        assert!(aliases.apply(&link(&["ny", "nyc"])), "a cycle is harmless");
        assert_eq!(class(&aliases, "ny"), "new york ny nyc");
        assert_eq!(aliases.links().count(), 3);
        assert_eq!(aliases.classes().count(), 1);
    }

    #[test]
    fn what_is_unlinked_falls_apart() {
        let mut aliases = Aliases::default();
        aliases.apply(&link(&["a", "b"]));
        aliases.apply(&link(&["b", "c"]));
        aliases.apply(&link(&["c", "d"]));
        assert!(aliases.apply(&unlink(&["B", "C"])));
        assert_eq!((class(&aliases, "a"), class(&aliases, "d")), ("a b".into(), "c d".into()));
        assert!(!aliases.apply(&unlink(&["a", "d"])) && !aliases.apply(&unlink(&["x"])));
        assert!(aliases.apply(&unlink(&["a"])));
        assert_eq!((class(&aliases, "a"), class(&aliases, "b")), (String::new(), String::new()));
        assert!(aliases.apply(&unlink(&["d"])) && aliases.is_empty());
        assert_eq!(aliases, Aliases::default());
    }

    #[test]
    fn a_word_is_no_alias_of_itself() {
        let mut aliases = Aliases::default();
        assert!(!aliases.apply(&link(&["Straße", "STRASSE"])) && aliases.is_empty());
    }

    #[test]
    fn a_class_has_a_bound() {
        let words: Vec<String> = (0..ALIAS_CLASS_MAX + 9).map(|i| format!("w{i}")).collect();
        let mut aliases = Aliases::default();
        for pair in words.windows(2) {
            aliases.apply(&link(&[&pair[0], &pair[1]]));
        }
        assert_eq!(aliases.class_of("w0").len(), ALIAS_CLASS_MAX);
        // The link that was too much is missing; those after it make a class of their own.
        assert_eq!(aliases.class_of("w264").len(), 9);
        assert!(!aliases.apply(&link(&["w0", "w264"])));
    }

    #[test]
    fn only_claims_of_one_form_change_aliases() {
        let claim = |subjects: &[&str], predicates: &[&str], attributes: &str| {
            let attestation = Attestation {
                id: "AS-1".parse().unwrap(),
                subjects: subjects.iter().map(|term| (*term).to_owned()).collect(),
                predicates: predicates.iter().map(|term| (*term).to_owned()).collect(),
                contexts: vec!["_".to_owned()],
                actors: vec!["hr".to_owned()],
                timestamp: Timestamp::from_ms(0).unwrap(),
                created_at: Timestamp::from_ms(0).unwrap(),
                source: "test".into(),
                attributes: Attributes::parse(attributes).unwrap(),
                signature: None,
                signer_did: None,
            };
            Stored {
                seq: Seq(1),
                attestation,
                appended_by: "user".into(),
                filled: Filled::default(),
                lineage: Lineage::default(),
            }
        };
        for said in [link(&["NY", "New York"]), unlink(&["NY"])] {
            let claim = claim(&["axwatch"], &[said.predicate()], &said.attributes());
            assert_eq!(AliasChange::of(&claim), Some(said));
            let by_plugin = Stored { appended_by: "git".into(), ..claim };
            assert_eq!(AliasChange::of(&by_plugin), None);
        }
        let words = r#"{"words": ["a", "b"]}"#;
        let too_long = link(&["a", &"b".repeat(bounds::TERM_BYTES_MAX + 1)]).attributes();
        let too_many = (0..=ALIAS_WORDS_MAX).map(|i| i.to_string()).collect();
        let too_many = AliasChange { kind: AliasChangeKind::Link, words: too_many }.attributes();
        let cases = [
            (&["NY"][..], &["axwatch:alias"][..], words),
            (&["axwatch", "b"], &["axwatch:alias"], words),
            (&["axwatch"], &["alias"], words),
            (&["axwatch"], &["axwatch:alias", "x"], words),
            (&["axwatch"], &["axwatch:alias"], r#"{"words": ["a"]}"#),
            (&["axwatch"], &["axwatch:unalias"], r#"{"words": []}"#),
            (&["axwatch"], &["axwatch:alias"], r#"{"words": ["a", ""]}"#),
            (&["axwatch"], &["axwatch:alias"], r#"{"words": ["a", 1]}"#),
            (&["axwatch"], &["axwatch:alias"], &too_long),
            (&["axwatch"], &["axwatch:alias"], &too_many),
            (&["axwatch"], &["axwatch:alias"], r#"{"words": "a b"}"#),
            (&["axwatch"], &["axwatch:alias"], "{}"),
        ];
        for (subjects, predicates, attributes) in cases {
            let claim = claim(subjects, predicates, attributes);
            assert_eq!(AliasChange::of(&claim), None, "{subjects:?} {predicates:?} {attributes}");
        }
    }

    fn any_change() -> impl Strategy<Value = AliasChange> {
        let word = (0..12_u32).prop_map(|i| format!("w{i}"));
        let kind = prop_oneof![
            2 => Just(AliasChangeKind::Link),
            1 => Just(AliasChangeKind::Unlink),
        ];
        (kind, prop::collection::vec(word, 1..4))
            .prop_map(|(kind, words)| AliasChange { kind, words })
    }

    proptest! {
        /// After any changes a word's class is what a walk along the links finds.
        #[test]
        fn classes_follow_from_links(changes in prop::collection::vec(any_change(), 0..40)) {
            let mut aliases = Aliases::default();
            let mut links: BTreeSet<(String, String)> = BTreeSet::new();
            for change in &changes {
                aliases.apply(change);
                let linked = |one: &String, other: &String| {
                    let both = change.words.contains(one) && change.words.contains(other);
                    let alone = change.words.iter().all(|word| *word == change.words[0]);
                    both || alone && (change.words.contains(one) || change.words.contains(other))
                };
                if change.kind == AliasChangeKind::Unlink {
                    links.retain(|(one, other)| !linked(one, other));
                    continue;
                }
                for one in &change.words {
                    for other in change.words.iter().filter(|other| *other != one) {
                        links.insert((one.clone(), other.clone()));
                    }
                }
            }
            for word in (0..12).map(|i| format!("w{i}")) {
                let mut reached = BTreeSet::from([word.clone()]);
                while let Some(next) = links
                    .iter()
                    .find(|(one, other)| reached.contains(one) && !reached.contains(other))
                {
                    reached.insert(next.1.clone());
                }
                let expected = if reached.len() == 1 { BTreeSet::new() } else { reached };
                let found: BTreeSet<String> =
                    aliases.class_of(&word).iter().map(ToString::to_string).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
