//! The language page's own cases (`ax_cases.jsonl`), and ours in the same form (`own_cases.jsonl`): each
//! line is a query and its expected parse or mistake. Terms compare without case there.

use axwatch_model::Timestamp;
use axwatch_query::{fold, parse_at};
use serde_json::Value;

#[derive(serde::Deserialize)]
struct Case {
    query: String,
    expect: Value,
    #[serde(default = "saturday_in_june")]
    now_ms: i64,
}

/// 2024-06-15T14:30:00Z
fn saturday_in_june() -> i64 {
    1_718_461_800_000
}

impl Case {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.now_ms).unwrap()
    }
}

/// Every case with the name of its row.
fn cases() -> impl Iterator<Item = (String, Case)> {
    let files = [
        ("ax_cases.jsonl", include_str!("ax_cases.jsonl")),
        ("own_cases.jsonl", include_str!("own_cases.jsonl")),
    ];
    files.into_iter().flat_map(|(file, text)| {
        text.lines().enumerate().map(move |(row, line)| {
            let name = format!("{file}:{}: {line}", row + 1);
            let case = serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, case)
        })
    })
}

/// What `axwatch ax --parse --json` prints.
fn answer(case: &Case) -> Value {
    match parse_at(&case.query, case.now()) {
        Ok(query) => serde_json::to_value(query.at(case.now())).unwrap(),
        Err(mistakes) => serde_json::to_value(mistakes).unwrap(),
    }
}

/// Both texts without case.
fn same(one: &Value, other: &Value) -> bool {
    fold(&one.to_string()) == fold(&other.to_string())
}

/// Whether an answer is what a case expects: a parse as a whole, a mistake in the fields that the case
/// names, of `errors` each in the fields that it names.
fn is_as_expected(found: &Value, expect: &Value) -> bool {
    match expect.get("error") {
        Some(_) => has_fields(found, expect),
        None => same(found, expect),
    }
}

fn has_fields(found: &Value, expect: &Value) -> bool {
    let fields = expect.as_object().expect("an expectation is an object");
    fields.iter().all(|(name, value)| match (name.as_str(), &found[name], value) {
        ("errors", Value::Array(found), Value::Array(expect)) => {
            found.len() == expect.len()
                && found.iter().zip(expect).all(|(found, expect)| has_fields(found, expect))
        }
        (_, found, value) => same(found, value),
    })
}

#[test]
fn every_case_holds() {
    let failed: Vec<String> = cases()
        .map(|(name, case)| (name, answer(&case), case))
        .filter(|(_, found, case)| !is_as_expected(found, &case.expect))
        .map(|(name, found, _)| format!("{name}\n  gave {found}"))
        .collect();
    assert!(failed.is_empty(), "{} rows fail:\n{}", failed.len(), failed.join("\n"));
}

/// What is printed means the same, for every case that parses.
#[test]
fn every_parsed_case_survives_printing() {
    for (name, case) in cases() {
        let Ok(query) = parse_at(&case.query, case.now()) else { continue };
        let printed = query.to_string();
        let again = parse_at(&printed, case.now());
        assert!(
            again.as_ref().is_ok_and(|again| *again == query),
            "{name} as {printed}: {again:?}"
        );
        let once = serde_json::to_value(query.at(case.now())).unwrap();
        let twice = serde_json::to_value(again.unwrap().at(case.now())).unwrap();
        assert_eq!(once, twice, "{name} as {printed}");
    }
}
