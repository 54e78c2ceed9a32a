//! Holding a watcher's text to what is expected of it: for CI.
//!
//! In: a file with a claim and yes or no on each line, or as JSON. Out: those that differ, each with what
//! decided, and an exit code. Every mistake of the file is told with its line.

use std::collections::HashMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;

use anstyle::AnsiColor;
use anyhow::{Context as _, Result};
use axwatch_model::AttestationId;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{junit, told_condition};
use crate::answers::ON_MAX;
use crate::cli::Context;
use crate::fault::{Fault, InvalidQuery};
use crate::output::{Output, counted};
use crate::source::{Source, parse};
use crate::views::{Condition, Trial, TrialVerdict};

/// Mistakes of a file that are told.
const MISTAKES_MAX: usize = 10;

/// Holds a text to a file, and writes what came of it as JUnit XML as well.
pub async fn run(
    context: &mut Context,
    query: &str,
    file: &Path,
    junit: Option<&Path>,
) -> Result<()> {
    let judged = judge(context, query, file).await;
    if let Some(report) = junit {
        let xml = match &judged {
            Ok(cases) => junit::report(query, cases),
            // A report that an earlier run left must not be taken for this one's.
            Err(error) => junit::report_of_failure(query, &format!("{error:#}")),
        };
        std::fs::write(report, xml)
            .with_context(|| format!("cannot write {}", report.display()))?;
    }
    tell(&mut context.out, &judged?)
}

async fn judge(context: &Context, query: &str, file: &Path) -> Result<Vec<Case>> {
    InvalidQuery::check_watcher(query)?;
    let named =
        if file == Path::new("-") { "standard input".into() } else { file.display().to_string() };
    let text = read(file).with_context(|| format!("cannot read {named}"))?;
    let expected =
        expectations(&text).map_err(|problem| Fault::Usage(format!("{named}: {problem}")))?;
    let source = Source::find(&context.config()?.store).await?;
    let mut cases = Vec::with_capacity(expected.len());
    for expected in expected.chunks(ON_MAX) {
        let on = expected.iter().map(|one| one.id.clone()).collect();
        let trial = Trial { query: query.to_owned(), on, ..Trial::default() };
        let mut lines = source.try_on_history(&trial).await?;
        let mut expected = expected.iter();
        while let Some(page) = lines.next().await? {
            for (line, expected) in page.iter().zip(&mut expected) {
                let verdict: TrialVerdict = parse(line)?;
                cases.push(Case { expected: expected.fires, verdict });
            }
        }
    }
    Ok(cases)
}

fn read(file: &Path) -> std::io::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}

/// What was expected of a claim, and what the text says of it.
pub struct Case {
    /// Whether it was to fire.
    pub expected: bool,
    /// What the text says.
    pub verdict: TrialVerdict,
}

impl Case {
    /// Whether it is as expected.
    pub fn is_well(&self) -> bool {
        self.verdict.fires == Some(self.expected)
    }

    /// What is not as expected, and why, in one line.
    pub fn told(&self) -> String {
        let expected = if self.expected { "expected yes" } else { "expected no" };
        let found = match self.verdict.fires {
            None => "is not in the store",
            Some(true) => "would fire",
            Some(false) => "would not fire",
        };
        let decided: Vec<_> = self.deciding().map(told_condition).collect();
        let mark = if decided.is_empty() { "" } else { ": " };
        format!("{expected}, {found}{mark}{}", decided.join("; "))
    }

    /// The conditions that decided: those that failed, or all if none did.
    fn deciding(&self) -> impl Iterator<Item = &Condition> {
        let held = self.verdict.fires == Some(true);
        self.verdict.conditions.iter().filter(move |condition| condition.held == held)
    }
}

/// One that is not as expected, for programs.
#[derive(Serialize)]
struct Differing<'a> {
    id: &'a AttestationId,
    seq: Option<axwatch_model::Seq>,
    expected: bool,
    fires: Option<bool>,
    decided_by: Vec<&'a Condition>,
}

#[derive(Serialize)]
struct End {
    summary: Summary,
}

#[derive(Serialize)]
struct Summary {
    tests: usize,
    as_expected: usize,
    differ: usize,
    missing: usize,
}

/// Says what is not as expected. That there is something is the exit code.
fn tell(out: &mut Output, cases: &[Case]) -> Result<()> {
    for case in cases.iter().filter(|case| !case.is_well()) {
        let Case { expected, verdict } = case;
        if out.json {
            out.object(&Differing {
                id: &verdict.id,
                seq: verdict.seq,
                expected: *expected,
                fires: verdict.fires,
                decided_by: case.deciding().collect(),
            })?;
        } else {
            let red = AnsiColor::Red.on_default();
            out.line(&format!("{red}{}{red:#}  {}", verdict.id, case.told()))?;
        }
    }
    let as_expected = cases.iter().filter(|case| case.is_well()).count();
    let missing = cases.iter().filter(|case| case.verdict.fires.is_none()).count();
    let tests = cases.len();
    if out.json {
        let summary =
            Summary { tests, as_expected, differ: tests - as_expected - missing, missing };
        out.object(&End { summary })?;
    } else {
        let claims = counted(tests as u64, "claim");
        let style = super::held_style(as_expected == tests);
        out.line(&format!("{style}{as_expected} of {claims} as expected{style:#}"))?;
    }
    if as_expected == tests { Ok(()) } else { Err(Fault::NotOk.into()) }
}

/// What is expected of one claim.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    id: AttestationId,
    fires: bool,
}

/// Reads a file of expectations, each claim once.
///
/// # Errors
/// Every mistake with its line, and what would be right.
fn expectations(text: &str) -> Result<Vec<Expected>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader::default();
    match whole_object(text) {
        Some(entries) => {
            for (id, says) in entries? {
                reader.add("", &id, &says);
            }
        }
        None => {
            for (number, line) in (1..).zip(text.lines()) {
                reader.line(number, line.trim());
            }
        }
    }
    reader.finish()
}

/// The entries of a text that is one JSON object `{ID: "yes", …}`; `None` when it is something else.
fn whole_object(text: &str) -> Option<Result<Entries, String>> {
    let first = serde_json::Deserializer::from_str(text).into_iter::<Line>().next();
    if !text.trim_start().starts_with('{') || matches!(first, Some(Ok(_))) {
        return None;
    }
    let entries = serde_json::from_str::<Object>(text);
    Some(entries.map(|Object(entries)| entries).map_err(|error| format!("it is no JSON: {error}")))
}

/// `{"attestation": ID, "expect": "yes"}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    attestation: String,
    expect: serde_json::Value,
}

type Entries = Vec<(String, serde_json::Value)>;

/// An object with all its entries, those that have the same key too.
struct Object(Entries);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        struct EntriesOf;
        impl<'de> Visitor<'de> for EntriesOf {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of ids with yes or no")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut entries = Vec::new();
                while let Some((id, says)) = map.next_entry()? {
                    entries.push((id, says));
                }
                if entries.is_empty() {
                    return Err(A::Error::custom("it has no entries"));
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(EntriesOf)
    }
}

/// What has been read.
#[derive(Default)]
struct Reader {
    expected: Vec<Expected>,
    /// Where each claim is in `expected`, and where it stood.
    known: HashMap<AttestationId, (usize, String)>,
    mistakes: Vec<String>,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) {
        if line.is_empty() || line.starts_with('#') {
            return;
        }
        let place = format!("line {number}: ");
        if line.starts_with('{') {
            match serde_json::from_str::<Line>(line) {
                Ok(Line { attestation, expect }) => self.add(&place, &attestation, &expect),
                Err(error) => {
                    let error = error.to_string();
                    // It knows of this line only, and would call it the first.
                    let error = error.split(" at line ").next().unwrap_or_default();
                    self.mistakes.push(format!(
                        r#"{place}{error}; say {{"attestation": "AS-1", "expect": "yes"}}"#
                    ));
                }
            }
            return;
        }
        match id_and_word(line).or_else(|| id_and_word(without_comment(line))) {
            Some((id, says)) => self.add(&place, id, &says.into()),
            None => self.mistakes.push(format!(
                "{place}{:?} is not an id and yes or no; say for example: AS-1 yes",
                crate::output::cut(line, 80)
            )),
        }
    }

    fn add(&mut self, place: &str, id: &str, says: &serde_json::Value) {
        let fires = match says {
            serde_json::Value::Bool(fires) => Some(*fires),
            serde_json::Value::String(word) => fires_of(word),
            _ => None,
        };
        let Some(fires) = fires else {
            let told =
                format!("{place}what is expected of {id:?} is {says}; say \"yes\" or \"no\"");
            return self.mistakes.push(told);
        };
        let id: AttestationId = match id.parse() {
            Ok(id) => id,
            Err(error) => return self.mistakes.push(format!("{place}{error}")),
        };
        match self.known.get(&id) {
            None => {
                self.known.insert(id.clone(), (self.expected.len(), place.to_owned()));
                self.expected.push(Expected { id, fires });
            }
            Some((at, _)) if self.expected[*at].fires == fires => {}
            Some((_, before)) => {
                let before = before.trim_end_matches(": ");
                let before = if before.is_empty() { "it says" } else { &format!("{before} says") };
                self.mistakes.push(format!(
                    "{place}{before} the opposite of {id} as well; say one of the two"
                ));
            }
        }
    }

    fn finish(mut self) -> Result<Vec<Expected>, String> {
        if self.mistakes.is_empty() && self.expected.is_empty() {
            return Err("nothing is expected in it; say for example: AS-1 yes".to_owned());
        }
        let more = self.mistakes.len().saturating_sub(MISTAKES_MAX);
        self.mistakes.truncate(MISTAKES_MAX);
        match &self.mistakes[..] {
            [] => Ok(self.expected),
            [one] => Err(one.clone()),
            several => {
                let rest = if more > 0 { format!("\n  and {more} more") } else { String::new() };
                Err(format!("\n  {}{rest}", several.join("\n  ")))
            }
        }
    }
}

/// An id, which may hold blanks and colons, and the last word.
fn id_and_word(line: &str) -> Option<(&str, &str)> {
    const BETWEEN: [char; 4] = [' ', '\t', ',', ':'];
    let (id, says) = line.trim_end().rsplit_once(BETWEEN)?;
    let id = id.trim_end_matches(BETWEEN);
    (fires_of(says).is_some() && !id.is_empty()).then_some((id, says))
}

/// What stands before a ` #`.
fn without_comment(line: &str) -> &str {
    let comment = line.match_indices('#').find(|(at, _)| line[..*at].ends_with([' ', '\t']));
    comment.map_or(line, |(at, _)| &line[..at])
}

fn fires_of(word: &str) -> Option<bool> {
    let is = |other: &str| word.eq_ignore_ascii_case(other);
    if is("yes") || is("true") {
        return Some(true);
    }
    (is("no") || is("false")).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, bool)>, String> {
        let expected = expectations(text)?.into_iter();
        Ok(expected.map(|one| (one.id.to_string(), one.fires)).collect())
    }

    #[test]
    fn expectations_are_read_in_every_form() {
        let two = [("AS-1", true), ("AS-2", false)];
        let cases: [(&str, &[(&str, bool)]); 16] = [
            ("AS-1 yes\nAS-2 no", &two),
            ("# all\n\nAS-1\tYES\r\n  AS-2: No  # why\n", &two),
            ("AS-1,true\nAS-2 , false", &two),
            ("\u{feff}AS-1:yes\nAS-2:no\n", &two),
            ("AS-1 yes\nAS-1 yes\nAS-2 no", &two),
            ("a b: c, yes", &[("a b: c", true)]),
            ("c#1 yes", &[("c#1", true)]),
            ("c #1 yes", &[("c #1", true)]),
            ("x no #yes no", &[("x no #yes", false)]),
            ("x no # it is not", &[("x", false)]),
            (r#"{"attestation":"AS-1","expect":"yes"}"#, &two[..1]),
            (
                "{\"attestation\":\"AS-1\",\"expect\":true}\n{\"expect\":\"no\",\"attestation\":\"AS-2\"}\n",
                &two,
            ),
            ("AS-1 yes\n{\"attestation\":\"AS-2\",\"expect\":false}", &two),
            (r#"{"AS-1": "yes", "AS-2": "no"}"#, &two),
            ("{\n  \"AS-1\": true,\n  \"AS-2\": false\n}\n", &two),
            (r#"{"attestation": "yes"}"#, &[("attestation", true)]),
        ];
        for (text, expected) in cases {
            let expected: Vec<_> =
                expected.iter().map(|(id, fires)| ((*id).to_owned(), *fires)).collect();
            assert_eq!(read(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn nonsense_is_told_with_its_line() {
        let cases: [(&str, &[&str]); 14] = [
            ("", &["nothing is expected", "AS-1 yes"]),
            ("# only this\n", &["nothing is expected"]),
            ("AS-1 yes\nAS-2 maybe\n", &["line 2: \"AS-2 maybe\"", "AS-1 yes"]),
            ("yes", &["line 1: \"yes\""]),
            ("AS-1", &["line 1: \"AS-1\""]),
            ("AS-1 yes\n\nx\ny", &["line 3: \"x\"", "line 4: \"y\""]),
            ("AS-1 yes\nAS-1 no", &["line 2: line 1 says the opposite of AS-1"]),
            ("{\"attestation\":\"AS-1\"}\n{}", &["no JSON", "line 2"]),
            ("AS-1 yes\n{\"attestation\":\"AS-1\"}", &["line 2: missing field `expect`"]),
            ("AS-1 yes\n{\"attestation\":\"AS-2\",\"expect\":1}", &["line 2", "\"AS-2\" is 1"]),
            (r#"{"AS-1": "maybe"}"#, &["\"AS-1\" is \"maybe\"", "\"yes\" or \"no\""]),
            (r#"{"AS-1": "yes", "AS-1": "no"}"#, &["it says the opposite of AS-1"]),
            ("{}", &["no JSON", "no entries"]),
            (r#"{"AS-1": "#, &["no JSON", "line 1"]),
        ];
        for (text, told) in cases {
            let problem = read(text).unwrap_err();
            for words in told {
                assert!(problem.contains(words), "{text:?}: no {words:?} in {problem:?}");
            }
        }
        let many = "x\n".repeat(30);
        let problem = read(&many).unwrap_err();
        assert!(problem.ends_with("and 20 more"), "{problem}");
        let long = format!("{} yes", "x".repeat(300));
        assert!(read(&long).unwrap_err().contains("line 1: attestation id"), "{long}");
    }
}
