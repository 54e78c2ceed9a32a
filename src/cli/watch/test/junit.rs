//! What came of expectations as JUnit XML, which CI reads.

use std::fmt::Write as _;

use super::expect::Case;

/// What the suite is called.
const SUITE: &str = "axwatch watch test";

/// A test for each claim; one that is not as expected is a failure with what decided.
pub fn report(query: &str, cases: &[Case]) -> String {
    let failures = cases.iter().filter(|case| !case.is_well()).count();
    let mut tests = String::new();
    for case in cases {
        let says = if case.expected { "fires" } else { "does not fire" };
        let name = format!("{} {says}", case.verdict.id);
        let told = (!case.is_well()).then(|| case.told());
        add(&mut tests, query, &name, told.as_deref().map(|told| ("failure", told)));
    }
    suite(cases.len(), failures, 0, &tests)
}

/// One test that could not be made, and why.
pub fn report_of_failure(query: &str, reason: &str) -> String {
    let mut tests = String::new();
    add(&mut tests, query, "all", Some(("error", reason)));
    suite(1, 0, 1, &tests)
}

fn suite(tests: usize, failures: usize, errors: usize, cases: &str) -> String {
    let counts = format!(r#"tests="{tests}" failures="{failures}" errors="{errors}""#);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n  <testsuite name=\"{SUITE}\" {counts} skipped=\"0\">\n{cases}  </testsuite>\n</testsuites>\n"
    )
}

/// Adds a test; `wrong` is the kind of what is wrong with it, and the reason.
fn add(to: &mut String, query: &str, name: &str, wrong: Option<(&str, &str)>) {
    let (class, name) = (escaped(query), escaped(name));
    let _ = match wrong {
        None => writeln!(to, r#"    <testcase classname="{class}" name="{name}"/>"#),
        Some((kind, reason)) => {
            let reason = escaped(reason);
            writeln!(
                to,
                "    <testcase classname=\"{class}\" name=\"{name}\">\n      <{kind} message=\"{reason}\" type=\"{kind}\">{reason}</{kind}>\n    </testcase>"
            )
        }
    };
}

/// A text as XML takes it, in an attribute too. What XML has no place for becomes U+FFFD.
fn escaped(text: &str) -> String {
    let mut xml = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\'' => xml.push_str("&apos;"),
            '\t' | '\n' | '\r' => {
                let _ = write!(xml, "&#{};", u32::from(c));
            }
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => xml.push('\u{fffd}'),
            other => xml.push(other),
        }
    }
    xml
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::{Condition, TrialVerdict};
    use axwatch_model::Seq;

    fn case(id: &str, expected: bool, fires: Option<bool>) -> Case {
        let condition = Condition {
            field: "predicate".into(),
            rule: "any".into(),
            asked: vec!["<a & b>".into()],
            held: fires == Some(true),
            decided_by: vec!["\u{1}\"c\"".into()],
            by_alias: Vec::new(),
        };
        let verdict = TrialVerdict {
            id: id.parse().unwrap(),
            seq: fires.map(|_| Seq(1)),
            fires,
            conditions: fires.map(|_| condition).into_iter().collect(),
            compare: None,
        };
        Case { expected, verdict }
    }

    #[test]
    fn each_claim_is_a_test() {
        let cases = [
            case("AS-1", true, Some(true)),
            case("<2>", true, Some(false)),
            case("AS-3", false, None),
        ];
        let xml = report("is 'a'\nso x", &cases);
        for part in [
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
            "<testsuites tests=\"3\" failures=\"2\" errors=\"0\">",
            "<testcase classname=\"is &apos;a&apos;&#10;so x\" name=\"AS-1 fires\"/>\n",
            "name=\"&lt;2&gt; fires\">\n      <failure message=\"expected yes, would not fire: ",
            "&lt;a &amp; b&gt;",
            "name=\"AS-3 does not fire\">\n      <failure message=\"expected no, is not in the store\"",
        ] {
            assert!(xml.contains(part), "no {part} in {xml}");
        }
        assert!(!xml.contains('\u{1}'), "{xml}");
        assert_eq!(escaped("a\u{0}\u{ffff}\r\u{7f}é"), "a\u{fffd}\u{fffd}&#13;\u{7f}é");
        assert_eq!(xml.matches("<testcase").count(), 3);
        assert!(xml.ends_with("  </testsuite>\n</testsuites>\n"));
    }

    #[test]
    fn a_run_that_failed_is_one_test_with_an_error() {
        let xml = report_of_failure("is", "this is no AX");
        assert!(xml.contains("tests=\"1\" failures=\"0\" errors=\"1\""), "{xml}");
        assert!(
            xml.contains("<error message=\"this is no AX\" type=\"error\">this is no AX</error>")
        );
    }
}
