//! Workloads that were made to be dear: each the worst that somebody found in one direction, of watchers and
//! claims that are allowed. What they cost is told as a multiple of the bound (`formula_multiple`).

use axwatch_model::bounds::ATTRIBUTES_BYTES_MAX;
use axwatch_model::{Attestation, Attributes, Declared};

use crate::Workload;
use crate::random::Random;
use crate::shapes::{claim, lists};

/// Bytes of attributes that are called large here: near what is allowed.
const LARGE: usize = ATTRIBUTES_BYTES_MAX * 4 / 5;
/// Claims of a workload: they differ, but cost the same.
const CLAIMS: usize = 4;

/// What is asked and what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Hostile {
    /// Large attributes with many short entries, of which one watcher asks for one that is not there.
    LargeEntries,
    /// Large attributes that are one text.
    LargeText,
    /// Large attributes that are an array of numbers.
    LargeArray,
    /// Large attributes that are objects in objects, many of them small.
    LargeTree,
    /// Large attributes, and a watcher with long lists and a condition, none of whose terms is there.
    LargeUnasked,
    /// 3,000 different `contains` over an array of 400,000 digits.
    ContainsDigits,
    /// 3,000 different `contains` over an array of 60,000 different texts.
    ContainsTexts,
    /// A million that ask for two numbers above bounds: of half of them the first is, of none the second.
    TwoBounds,
    /// A million with bounds on 10,000 paths, and a claim that has all of them, below all bounds.
    ManyPaths,
    /// 300,000 different `since i seconds ago`, half of which hold.
    Ago,
    /// The same beside a term that is there, and a condition that does not hold.
    AgoAndMore,
    /// 300,000 short texts that another should contain, under one term.
    ContainsShort,
    /// 10,000 of them whose parts are all in the text, which is long, and they are not.
    ContainsNearly,
    /// A million exclusions alone, all different, and a claim with 100 terms.
    Exclusions,
    /// 75,000 with two lists of nine terms, and a claim with 100 of the one kind and one of the other.
    ListsOfNine,
    /// 6,000 with four lists of 100 terms, and a claim with 100 of three kinds and one of the last.
    ListsOfHundred,
    /// A million with three terms, and a claim that has two of them of each.
    ThreeTerms,
    /// 300,000 with `!=`, which does not hold, under one term.
    NotEqual,
    /// 300,000 with two of them, of which the second does not hold.
    NotEqualTwice,
}

impl Hostile {
    /// As in the output.
    pub fn name(self) -> &'static str {
        match self {
            Hostile::LargeEntries => "large-entries",
            Hostile::LargeText => "large-text",
            Hostile::LargeArray => "large-array",
            Hostile::LargeTree => "large-tree",
            Hostile::LargeUnasked => "large-unasked",
            Hostile::ContainsDigits => "contains-digits",
            Hostile::ContainsTexts => "contains-texts",
            Hostile::TwoBounds => "two-bounds",
            Hostile::ManyPaths => "many-paths",
            Hostile::Ago => "ago",
            Hostile::AgoAndMore => "ago-and-more",
            Hostile::ContainsShort => "contains-short",
            Hostile::ContainsNearly => "contains-nearly",
            Hostile::Exclusions => "exclusions",
            Hostile::ListsOfNine => "lists-of-nine",
            Hostile::ListsOfHundred => "lists-of-hundred",
            Hostile::ThreeTerms => "three-terms",
            Hostile::NotEqual => "not-equal",
            Hostile::NotEqualTwice => "not-equal-twice",
        }
    }

    /// The watchers and claims; `share` makes it so many times smaller.
    pub fn workload(self, share: usize, seed: u64) -> Workload {
        let mut random = Random::new(seed);
        let (watchers, attestations) = self.made(share, &mut random);
        Workload { name: self.name(), watchers, attestations }
    }

    fn made(self, share: usize, random: &mut Random) -> (Vec<Declared>, Vec<Attestation>) {
        let some = |count: usize| count.div_ceil(share);
        let hot = |attributes: &str| claims(&one(&["hot"]), Some(attributes));
        match self {
            Hostile::LargeEntries => {
                let entries = repeated(some(LARGE), |i| format!(r#""key{i}":{i},"#));
                (vec![ax("is hot where missing = 1")], hot(&object(&entries)))
            }
            Hostile::LargeText => {
                let text = repeated(some(LARGE), |i| format!("word {i} "));
                let attributes = format!(r#"{{"text":"{text}","number":1}}"#);
                (vec![ax("is hot where number = 2")], hot(&attributes))
            }
            Hostile::LargeArray => {
                let items = repeated(some(LARGE), |i| format!("{i},"));
                let attributes = format!(r#"{{"items":[{items}0],"number":1}}"#);
                (vec![ax("is hot where number = 2")], hot(&attributes))
            }
            Hostile::LargeTree => {
                let node = |i| format!(r#""n{i}":{{"a":{{"b":[{{}},{i}],"c":"\"x\""}}}},"#);
                let entries = repeated(some(LARGE), node);
                (vec![ax("is hot where missing.a.b = 1")], hot(&object(&entries)))
            }
            Hostile::LargeUnasked => {
                let entries = repeated(some(LARGE), |i| format!(r#""key{i}":{i},"#));
                let words = |letter: &str| {
                    (0..20).map(|i| format!("{letter}{i}")).collect::<Vec<String>>().join(" ")
                };
                let text = format!("is {} of {} where key7 = 7", words("p"), words("c"));
                (vec![ax(&text)], hot(&object(&entries)))
            }
            Hostile::ContainsDigits => {
                let items = repeated(some(800_000), |i| format!("{},", i % 10));
                let ask = |i| ax(&format!("is hot where items contains {}", 10 + i));
                (each(some(3_000), ask), hot(&format!(r#"{{"items":[{items}0]}}"#)))
            }
            Hostile::ContainsTexts => {
                let items = repeated(some(LARGE), |i| format!(r#""item{i}","#));
                let ask = |i| ax(&format!("is hot where items contains 'other{i}'"));
                (each(some(3_000), ask), hot(&format!(r#"{{"items":[{items}0]}}"#)))
            }
            Hostile::TwoBounds => {
                let count = some(1_000_000);
                let ask = |i| ax(&format!("where x > {i} and y > {i}"));
                let attributes = format!(r#"{{"x":{},"y":-1}}"#, count / 2);
                let reversed = format!(r#"{{"y":{},"x":-1}}"#, count / 2);
                let both = [attributes, reversed].map(|attributes| hot(&attributes));
                (each(count, ask), both.concat())
            }
            Hostile::ManyPaths => {
                let paths = some(10_000);
                let ask = |i| ax(&format!("where path{} > {}", i % paths, i / paths));
                let entries: String = (0..paths).map(|i| format!(r#""path{i}":-1,"#)).collect();
                (each(some(1_000_000), ask), hot(&object(&entries)))
            }
            Hostile::Ago => {
                let count = some(300_000);
                let ask = |i| ax(&format!("since {} seconds ago", i + 1));
                (each(count, ask), ago(claims(&one(&["hot"]), None), count / 2))
            }
            Hostile::AgoAndMore => {
                let count = some(300_000);
                let ask = |i| ax(&format!("is hot since {} seconds ago where x != 1", i + 1));
                (each(count, ask), ago(hot(r#"{"x":1}"#), count / 2))
            }
            Hostile::ContainsShort => {
                let ask = |i| ax(&format!("is hot where body contains 'w{i:06}'"));
                let words: String =
                    (0..25).map(|_| format!("w{:06} ", 300_000 + random.within(0..9))).collect();
                (each(some(300_000), ask), hot(&format!(r#"{{"body":"{words}"}}"#)))
            }
            Hostile::ContainsNearly => {
                let ask = |i| ax(&format!("is hot where body contains '{}'", letters(i, 14)));
                // All texts of four of these letters, one behind the other.
                let text: String = (0..4_usize.pow(4)).map(|i| letters(i, 4)).collect();
                (each(some(10_000), ask), hot(&format!(r#"{{"body":"{}"}}"#, text.repeat(40))))
            }
            Hostile::Exclusions => {
                let ask = |i| ax(&format!("is not w{i}"));
                (each(some(1_000_000), ask), claims(&words("other", 100), None))
            }
            Hostile::ListsOfNine => {
                let ask = |_: usize| {
                    let mut nine = |letter: &str| -> Vec<String> {
                        (0..9).map(|_| format!("{letter}{}", random.within(0..1_000))).collect()
                    };
                    lists(&[], &nine("p"), &nine("c"), &[])
                };
                (each(some(75_000), ask), claims(&words("p", 100), None))
            }
            Hostile::ListsOfHundred => {
                let ask = |_: usize| {
                    let mut hundred = |letter: &str| -> Vec<String> {
                        (0..100).map(|_| format!("{letter}{}", random.within(0..1_000))).collect()
                    };
                    lists(&hundred("s"), &hundred("p"), &hundred("c"), &hundred("a"))
                };
                let come = [words("s", 100), words("p", 100), words("c", 100), words("a", 1)];
                (each(some(6_000), ask), each(CLAIMS, |i| claim(i, come.clone(), 0)))
            }
            Hostile::ThreeTerms => {
                let ask = |i: usize| {
                    let word = |letter: &str, place: u32| {
                        [format!("{letter}{}", i / 100_usize.pow(place) % 100)]
                    };
                    lists(&word("s", 0), &word("p", 1), &word("c", 2), &[])
                };
                let come = [words("s", 100), words("p", 100), words("c", 1), words("a", 1)];
                (each(some(1_000_000), ask), each(CLAIMS, |i| claim(i, come.clone(), 0)))
            }
            Hostile::NotEqual | Hostile::NotEqualTwice => {
                const PATHS: usize = 1_000;
                let first = if self == Hostile::NotEqual { "" } else { "other != 1 and " };
                let ask = |i| ax(&format!("is hot where {first}path{} != {}", i % PATHS, i % PATHS));
                let entries: String = (0..PATHS).map(|i| format!(r#""path{i}":{i},"#)).collect();
                (each(some(300_000), ask), hot(&object(&entries)))
            }
        }
    }
}

fn each<T>(count: usize, make: impl FnMut(usize) -> T) -> Vec<T> {
    (0..count).map(make).collect()
}

fn ax(text: &str) -> Declared {
    Declared::Ax(text.to_owned())
}

fn one(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// `{letter}0`, `{letter}1` ….
fn words(letter: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{letter}{i}")).collect()
}

/// Parts until they are about so many bytes.
fn repeated(bytes: usize, part: impl Fn(usize) -> String) -> String {
    let mut text = String::with_capacity(bytes + 100);
    for i in 0.. {
        if text.len() >= bytes {
            break;
        }
        text.push_str(&part(i));
    }
    text
}

/// Entries that each end with a comma, as an object.
fn object(entries: &str) -> String {
    format!("{{{entries}\"last\":null}}")
}

/// A number in four letters.
fn letters(number: usize, count: u32) -> String {
    (0..count).map(|i| ['a', 'b', 'c', 'd'][number / 4_usize.pow(i) % 4]).collect()
}

/// Claims with these predicates.
fn claims(predicates: &[String], attributes: Option<&str>) -> Vec<Attestation> {
    let attributes = attributes.map(|text| Attributes::parse(text).expect("an object"));
    each(CLAIMS, |i| {
        let lists = [words("s", 1), predicates.to_vec(), words("c", 1), words("a", 1)];
        Attestation { attributes: attributes.clone().flatten(), ..claim(i, lists, 0) }
    })
}

/// The same claims, appended so many seconds after what they are about.
fn ago(claims: Vec<Attestation>, seconds: usize) -> Vec<Attestation> {
    let appended = |mut claim: Attestation| {
        let ms = claim.timestamp.ms() + seconds as i64 * 1_000;
        claim.created_at = axwatch_model::Timestamp::from_ms_clamped(ms);
        claim
    };
    claims.into_iter().map(appended).collect()
}
