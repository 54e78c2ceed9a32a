//! The language page's own cases: each line of `ax_cases.jsonl` is a query and its expected parse or
//! mistake. Terms compare without case there.
//!
//! Times, `where` and `over` are not understood yet: a case that uses them must be refused, at that
//! keyword or before it.

use axwatch_query::{fold, parse};
use serde_json::Value;

#[derive(serde::Deserialize)]
struct Case {
    query: String,
    expect: Value,
}

fn cases() -> impl Iterator<Item = Case> {
    include_str!("ax_cases.jsonl").lines().map(|line| serde_json::from_str(line).unwrap())
}

/// The place of the first clause that is not understood yet. After `so` no clause is.
fn not_yet(query: &str) -> Option<usize> {
    let mut words = query.split_ascii_whitespace().map(|word| (word, place(query, word)));
    let is_one_of = |word: &str, list: &[&str]| list.contains(&word.to_lowercase().as_str());
    words
        .by_ref()
        .take_while(|(word, _)| !is_one_of(word, &["so", "therefore"]))
        .find(|(word, _)| is_one_of(word, &["since", "until", "on", "between", "over", "where"]))
        .map(|(_, at)| at)
}

/// Where a word that was split off `query` stands in it.
fn place(query: &str, word: &str) -> usize {
    word.as_ptr() as usize - query.as_ptr() as usize
}

/// Both texts without case.
fn same(one: &Value, other: &Value) -> bool {
    fold(&one.to_string()) == fold(&other.to_string())
}

/// Whether a parse or mistake is what a case expects: a parse as a whole, a mistake in the fields
/// that the case names.
fn is_as_expected(found: &Value, expect: &Value) -> bool {
    if expect.get("error").is_none() {
        return same(found, expect);
    }
    let fields = expect.as_object().expect("an expectation is an object");
    fields.iter().all(|(name, value)| found.get(name).is_some_and(|found| same(found, value)))
}

#[test]
fn every_case_of_the_language_page_holds() {
    let mut refused = 0;
    for Case { query, expect } in cases() {
        let parsed = parse(&query);
        let found = match &parsed {
            Ok(query) => serde_json::to_value(query).unwrap(),
            Err(mistakes) => serde_json::to_value(mistakes).unwrap(),
        };
        if let Some(at) = not_yet(&query) {
            let mistakes = parsed.expect_err(&query);
            assert!(mistakes.first().position() <= at, "{query}: {found}");
            refused += 1;
        } else {
            assert!(is_as_expected(&found, &expect), "{query}: {found} is not {expect}");
        }
    }
    assert!(refused * 2 < cases().count(), "{refused} cases are not understood yet");
}

/// What is printed means the same, for every case that parses.
#[test]
fn every_parsed_case_survives_printing() {
    for case in cases() {
        let Ok(query) = parse(&case.query) else { continue };
        let printed = query.to_string();
        assert!(parse(&printed).is_ok_and(|again| again == query), "{} as {printed}", case.query);
    }
}
