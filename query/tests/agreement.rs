//! The index against the meaning: random watchers come, change and go between random attestations, and for
//! each attestation the index finds just those whose filter holds.
//!
//! By default a million pairs of a watcher and an attestation, of the same seed each time. Longer, or others:
//! `AXWATCH_AGREEMENT_PAIRS=50000000 AXWATCH_AGREEMENT_SEED=7 cargo test -p axwatch-query --test agreement`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axwatch_model::{Attestation, Attributes, Declared, StructuralFilter, Timestamp};
use axwatch_query::{AliasChange, AliasChangeKind, Aliases, Filter, WatcherIndex, fold, matches};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

const PAIRS: u64 = 1_000_000;
/// Words of each dimension: few enough to meet, many enough for most to be rare.
const WORDS: u64 = 400;
/// Watchers at one time, for so many attestations: what few of them do not use is looked up differently.
const WATCHERS: [u32; 3] = [3, 30, 300];
const ATTESTATIONS: u64 = 50;
/// 2025-06-15T12:00:00Z, about which everything is claimed.
const NOON_MS: i64 = 1_749_988_800_000;
const HOUR_MS: i64 = 3_600_000;

struct Chance(TestRng);

impl Chance {
    fn new(seed: u64) -> Chance {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Chance(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end
    }

    fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    fn one_of<'a>(&mut self, some: &[&'a str]) -> &'a str {
        some[self.below(some.len() as u64) as usize]
    }

    /// A rank below `end`, each about as frequent as its number says: the first most.
    fn rank(&mut self, end: u64) -> u64 {
        let share = (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        ((end as f64).powf(share) as u64).clamp(1, end) - 1
    }

    /// A word, in one of several spellings that are one to AX and not byte for byte.
    fn word(&mut self) -> String {
        let rank = self.rank(WORDS);
        match (rank % 7, self.below(3)) {
            (0, 0) => format!("Straße {rank}"),
            (0, _) => format!("STRASSE {rank}"),
            (1, 0) => format!("e\u{301}-{rank}"),
            (1, _) => format!("É-{rank}"),
            (2, _) => format!("山田{rank}"),
            (3, 0) => format!("Word-{rank}"),
            _ => format!("word-{rank}"),
        }
    }

    /// Mostly one or two, sometimes as many as there may be.
    fn words(&mut self) -> Vec<String> {
        let count = match self.below(100) {
            0..70 => 1,
            70..94 => 1 + self.below(4),
            94..98 => 5 + self.below(20),
            _ => 100,
        };
        (0..count).map(|_| self.word()).collect()
    }

    fn maybe_words(&mut self, share: u64) -> Vec<String> {
        if self.percent(share) { self.words() } else { Vec::new() }
    }

    fn path(&mut self) -> &'static str {
        self.one_of(&["lang", "stars", "labels", "result.code", "result.'a.b'", "deep.er.still"])
    }

    fn value(&mut self) -> String {
        match self.below(8) {
            0..3 => format!("'l{}'", self.below(5)),
            3..6 => self.below(6).to_string(),
            6 => format!("{}.5", self.below(4)),
            _ => self.one_of(&["null", "true", "2.0", "-1", "1e3"]).to_owned(),
        }
    }

    fn condition(&mut self) -> String {
        let path = self.path();
        match self.one_of(&["=", "=", "=", "!=", "<", "<=", ">", ">=", "contains", "exists"]) {
            "exists" => format!("{path} exists"),
            op => format!("{path} {op} {}", self.value()),
        }
    }

    fn time(&mut self) -> String {
        let hours = self.below(96) as i64 - 48;
        let fixed = Timestamp::from_ms_clamped(NOON_MS + hours * HOUR_MS);
        let relative = ["yesterday", "today", "2 days ago", "last sunday", "now", "30 hours ago"];
        if self.percent(60) { fixed.to_string() } else { self.one_of(&relative).to_owned() }
    }

    fn ax(&mut self) -> Declared {
        let mut text = String::new();
        let mut clause = |before: &str, words: &[String]| {
            if !words.is_empty() {
                text.push_str(before);
            }
            for word in words {
                write!(text, " '{word}'").expect("a string takes any text");
            }
            text.push(' ');
        };
        // Most of their watchers ask about terms, some only about the rest.
        let share = if self.percent(85) { 40 } else { 0 };
        clause("", &self.maybe_words(share));
        for keyword in ["is", "of", "by"] {
            clause(keyword, &self.maybe_words(share));
            clause(&format!("{keyword} not"), &self.maybe_words(8));
        }
        let conditions: Vec<String> =
            (0..self.below(12).saturating_sub(8)).map(|_| self.condition()).collect();
        if !conditions.is_empty() {
            write!(text, "where {} ", conditions.join(" and ")).expect("a string takes any text");
        }
        for keyword in ["since", "until"] {
            if self.percent(12) {
                write!(text, "{keyword} {} ", self.time()).expect("a string takes any text");
            }
        }
        Declared::Ax(text)
    }

    fn structural(&mut self) -> Declared {
        let [subjects, predicates, contexts, actors] = [(); 4].map(|()| self.maybe_words(40));
        Declared::Structural(StructuralFilter { subjects, predicates, contexts, actors })
    }

    /// A watcher that can be registered.
    fn filter(&mut self) -> Filter {
        loop {
            let declared = if self.percent(60) { self.ax() } else { self.structural() };
            if let Ok((filter, _)) = Filter::declared(&declared) {
                let within = |chance: &mut Chance| {
                    chance.percent(5).then(|| NOON_MS + (chance.below(96) as i64 - 48) * HOUR_MS)
                };
                let (start, end) = (within(self), within(self));
                return filter.within(start, end);
            }
        }
    }

    fn attributes(&mut self) -> Option<Attributes> {
        if self.percent(30) {
            return None;
        }
        let mut value = serde_json::json!({});
        let mut put = |pointer: &[&str], one: String| {
            let one: serde_json::Value =
                serde_json::from_str(&one.replace('\'', "\"")).expect("a value of JSON");
            let mut place = &mut value;
            for key in pointer {
                place = &mut place[*key];
            }
            *place = one;
        };
        let paths: [&[&str]; 5] = [
            &["lang"],
            &["stars"],
            &["result", "code"],
            &["result", "a.b"],
            &["deep", "er", "still"],
        ];
        for path in paths {
            if self.percent(50) {
                put(path, self.value());
            }
        }
        if self.percent(30) {
            put(&["labels"], format!("[{}, {}]", self.value(), self.value()));
        }
        Attributes::parse(&value.to_string()).expect("it is an object")
    }

    fn attestation(&mut self) -> Attestation {
        let [subjects, predicates, contexts, actors] = [(); 4].map(|()| self.words());
        let hours = self.below(96) as i64 - 48;
        Attestation {
            id: "AS-1".parse().expect("an id"),
            subjects,
            predicates,
            contexts,
            actors,
            timestamp: Timestamp::from_ms_clamped(NOON_MS + hours * HOUR_MS),
            created_at: Timestamp::from_ms_clamped(NOON_MS + self.below(48) as i64 * HOUR_MS),
            source: "test".into(),
            attributes: self.attributes(),
            signature: None,
            signer_did: None,
        }
    }

    fn alias(&mut self) -> AliasChange {
        let words = (0..2).map(|_| fold(&self.word()).into_owned()).collect();
        let kinds = [AliasChangeKind::Link, AliasChangeKind::Unlink];
        AliasChange { kind: kinds[usize::from(self.percent(40))], words }
    }
}

/// A number from the environment.
fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, and should be a number"))
    })
}

#[test]
fn the_index_finds_what_asking_every_watcher_finds() {
    let pairs_wanted = number("AXWATCH_AGREEMENT_PAIRS", PAIRS);
    let seed = number("AXWATCH_AGREEMENT_SEED", 1);
    let mut chance = Chance::new(seed);
    let mut watchers: BTreeMap<u32, Filter> = BTreeMap::new();
    let (mut index, mut aliases) = (WatcherIndex::new(), Aliases::default());
    let (mut pairs, mut matched, mut found) = (0_u64, 0_u64, Vec::new());
    for round in 0.. {
        if pairs >= pairs_wanted {
            break;
        }
        let most = WATCHERS[(round / ATTESTATIONS % WATCHERS.len() as u64) as usize];
        let changes = if round % ATTESTATIONS == 0 {
            for id in std::mem::take(&mut watchers).into_keys() {
                index.remove(id);
            }
            assert!(index.is_empty());
            u64::from(most)
        } else {
            chance.below(6)
        };
        for _ in 0..changes {
            let id = chance.below(u64::from(most)) as u32;
            if chance.percent(75) {
                let filter = chance.filter();
                index.insert(id, &filter);
                watchers.insert(id, filter);
            } else {
                index.remove(id);
                watchers.remove(&id);
            }
        }
        if chance.percent(5) {
            aliases.apply(&chance.alias());
        }
        let attestation = chance.attestation();
        index.matching(&attestation, &aliases, &mut found);
        let holds = |filter: &Filter| matches(filter, &attestation, &aliases);
        let expected: Vec<u32> =
            watchers.iter().filter(|(_, filter)| holds(filter)).map(|(id, _)| *id).collect();
        if found != expected {
            let (_, filter) = watchers
                .iter()
                .find(|(id, _)| found.contains(id) != expected.contains(id))
                .expect("one of them differs, or one is found twice");
            let is = if matches(filter, &attestation, &aliases) { "not found" } else { "found" };
            panic!(
                "seed {seed}, pair {pairs}: {is} is {filter:#?}\nby {attestation:#?}\nand {aliases:?}"
            );
        }
        assert_eq!(index.len(), watchers.len());
        pairs += watchers.len() as u64;
        matched += expected.len() as u64;
    }
    // It would prove little if hardly any matched, or nearly all.
    assert!((pairs / 1_000..pairs / 4).contains(&matched), "{matched} of {pairs} matched");
}
