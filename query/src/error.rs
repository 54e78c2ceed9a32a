//! What is wrong with a query: every mistake with its place, what was expected and what was found.
//!
//! A mistake is data first (it goes into JSON as it is), one line of a log second ([`fmt::Display`])
//! and a picture for people third ([`Mistakes::render`]).

use std::fmt;
use std::ops::Range;

use serde::{Serialize, Serializer};

use crate::columns::columns;

/// What kind of mistake it is: a stable name for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MistakeKind {
    /// There is nothing in the query.
    EmptyQuery,
    /// A clause without what it is for.
    MissingElement,
    /// `between` without its `and`.
    MissingAnd,
    /// A duration without its unit.
    MissingUnit,
    /// A duration without its number.
    MissingNumber,
    /// A word or character that fits nothing.
    UnexpectedToken,
    /// A quote that is not closed.
    UnterminatedQuote,
    /// Quotes with nothing between them.
    EmptyLiteral,
    /// `*`, `^`, `%` or `$` outside quotes.
    Wildcard,
    /// `|` outside quotes.
    Pipe,
    /// A time that is none, or lies outside what can be written.
    TemporalUnresolvable,
    /// Times that leave no moment.
    EmptyTimeRange,
    /// More bytes than a query may have.
    TooLong,
    /// More terms than a query may have.
    TooManyTerms,
}

/// One mistake in a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// What kind it is.
    pub kind: MistakeKind,
    /// Where: bytes of the query, on character boundaries. Empty where something is missing.
    pub span: Range<usize>,
    /// What would have been right there, in words.
    pub expected: String,
    /// What stands there, as written; empty at the end of the query.
    pub found: String,
    /// What the author may have meant.
    pub suggestion: Option<String>,
    /// Of [`MistakeKind::MissingElement`]: the keyword that lacks something, in lower case.
    pub keyword: Option<String>,
    /// Of [`MistakeKind::MissingElement`]: what it lacks (`predicate`, `temporal`, `action` …).
    pub element: Option<&'static str>,
    /// Of [`MistakeKind::Wildcard`]: the field in which it stands (`subject`, `actor` …).
    pub field: Option<&'static str>,
    /// Of a mistake in a time: its words as written.
    pub expr: Option<String>,
}

impl Mistake {
    pub(crate) fn new(
        kind: MistakeKind,
        span: Range<usize>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Mistake {
        Mistake {
            kind,
            span,
            expected: expected.into(),
            found: found.into(),
            suggestion: None,
            keyword: None,
            element: None,
            field: None,
            expr: None,
        }
    }

    pub(crate) fn suggest(self, suggestion: impl Into<String>) -> Mistake {
        Mistake { suggestion: Some(suggestion.into()), ..self }
    }

    pub(crate) fn lacks(self, keyword: &str, element: &'static str) -> Mistake {
        let keyword = Some(keyword.to_ascii_lowercase());
        Mistake { keyword, element: Some(element), ..self }
    }

    pub(crate) fn within(self, field: &'static str) -> Mistake {
        Mistake { field: Some(field), ..self }
    }

    pub(crate) fn of_time(self, expr: &str) -> Mistake {
        Mistake { expr: Some(expr.to_owned()), ..self }
    }

    /// Why it is one, for where the place is shown: `expected a context after "of", found "by"`.
    #[must_use]
    pub fn reason(&self) -> String {
        let found = match self.kind {
            MistakeKind::TooLong | MistakeKind::TooManyTerms => self.found.clone(),
            _ if self.found.is_empty() => "the end of the query".to_owned(),
            _ => format!("\"{}\"", one_line(&self.found)),
        };
        format!("expected {}, found {found}", self.expected.replace(char::is_control, " "))
    }

    /// Where it begins: a byte of the query.
    #[must_use]
    pub fn position(&self) -> usize {
        self.span.start
    }
}

/// One line: `at 12: expected a context after "of", found "by"`.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}: {}", self.span.start, self.reason())
    }
}

/// The candidate that a word may be a misspelling of: the nearest, if it is near enough for the word's
/// length. Case does not matter.
pub(crate) fn near<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    const WORD_BYTES_MAX: usize = 24;
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = word.to_lowercase();
    // In a short word every letter counts: only two that changed places are a slip.
    let slips_max = match word.chars().count() {
        0..=1 => 0,
        2..=4 => 1,
        _ => 2,
    };
    let slips = |candidate: &&&str| strsim::osa_distance(&word, candidate);
    let nearest = candidates.iter().min_by_key(slips)?;
    let is_slip = word.len() > 2 || same_letters(&word, nearest);
    (slips(&nearest) <= slips_max && is_slip).then_some(*nearest)
}

fn same_letters(one: &str, other: &str) -> bool {
    let sorted = |word: &str| {
        let mut letters: Vec<char> = word.chars().collect();
        letters.sort_unstable();
        letters
    };
    sorted(one) == sorted(other)
}

/// As much of a text as fits into a message, without control characters.
fn one_line(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut line: String = text.chars().take(CHARS_MAX).map(printable).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}

fn printable(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

#[derive(Serialize)]
struct MistakeJson<'a> {
    error: MistakeKind,
    span: &'a Range<usize>,
    position: usize,
    expected: &'a str,
    found: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    suggestion: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keyword: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    element: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expr: Option<&'a str>,
}

impl<'a> From<&'a Mistake> for MistakeJson<'a> {
    fn from(mistake: &'a Mistake) -> MistakeJson<'a> {
        MistakeJson {
            error: mistake.kind,
            span: &mistake.span,
            position: mistake.position(),
            expected: &mistake.expected,
            found: &mistake.found,
            suggestion: mistake.suggestion.as_deref(),
            keyword: mistake.keyword.as_deref(),
            element: mistake.element,
            field: mistake.field,
            expr: mistake.expr.as_deref(),
        }
    }
}

/// The kind is the key `error`; `span` is `{start, end}` in bytes and `position` its start.
impl Serialize for Mistake {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        MistakeJson::from(self).serialize(serializer)
    }
}

/// Every mistake of one query, in order of place.
///
/// Invariant: at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Puts mistakes into order of place; `None` if there are none.
    pub(crate) fn sorted(mut mistakes: Vec<Mistake>) -> Option<Mistakes> {
        mistakes.sort_by_key(Mistake::position);
        (!mistakes.is_empty()).then_some(Mistakes(mistakes))
    }

    /// The one that stands first in the query.
    #[must_use]
    pub fn first(&self) -> &Mistake {
        &self.0[0]
    }

    /// All of them, in order of place.
    #[must_use]
    pub fn all(&self) -> &[Mistake] {
        &self.0
    }

    /// The query with every wrong place underlined, and beneath it each reason with its suggestion.
    ///
    /// Shape: plain text without colours, each line ended. A query of several lines shows those with
    /// a mistake; one that is too long is not shown.
    #[must_use]
    pub fn render(&self, query: &str) -> String {
        let mut out = String::new();
        if self.first().kind == MistakeKind::TooLong {
            self.0.iter().for_each(|mistake| write_reason(&mut out, mistake));
            return out;
        }
        let mut start = 0;
        for line in query.split_inclusive('\n') {
            let end = start + line.len();
            let is_last = end == query.len();
            self.render_line(&mut out, line.trim_end_matches('\n'), start, end, is_last);
            start = end;
        }
        if query.is_empty() {
            self.render_line(&mut out, query, 0, 0, true);
        }
        out
    }

    /// One line of the query, which is bytes `start..end` of it, and the mistakes that begin in it.
    fn render_line(&self, out: &mut String, line: &str, start: usize, end: usize, is_last: bool) {
        let here = |mistake: &&Mistake| {
            let position = mistake.position();
            position >= start && (position < end || is_last)
        };
        if !self.0.iter().any(|mistake| here(&mistake)) {
            return;
        }
        out.extend(line.chars().map(printable));
        out.push('\n');
        let mut marks = Vec::new();
        for mistake in self.0.iter().filter(here) {
            let (from, to) = (mistake.span.start - start, mistake.span.end - start);
            underline(&mut marks, line, from.min(line.len())..to.min(line.len()));
        }
        out.push_str(std::str::from_utf8(&marks).expect("marks are ASCII"));
        out.push('\n');
        self.0.iter().filter(here).for_each(|mistake| write_reason(out, mistake));
    }
}

/// Marks the columns of a piece of `line`, at least one.
fn underline(marks: &mut Vec<u8>, line: &str, piece: Range<usize>) {
    let from = columns(&line[..piece.start]);
    let to = from + columns(&line[piece]).max(1);
    if marks.len() < to {
        marks.resize(to, b' ');
    }
    marks[from..to].fill(b'^');
}

fn write_reason(out: &mut String, mistake: &Mistake) {
    out.push_str(&mistake.to_string());
    out.push('\n');
    if let Some(suggestion) = &mistake.suggestion {
        out.push_str("  try: ");
        out.extend(suggestion.chars().map(printable));
        out.push('\n');
    }
}

/// One line: all of them, separated by `; `.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            fmt::Display::fmt(mistake, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The fields of the first mistake, and all of them under `errors`.
impl Serialize for Mistakes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Failure<'a> {
            #[serde(flatten)]
            first: MistakeJson<'a>,
            errors: &'a [Mistake],
        }
        Failure { first: self.first().into(), errors: &self.0 }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use crate::parse;

    /// A query, and the picture of its mistakes, as lines.
    #[test]
    fn a_picture_shows_every_place() {
        let cases: [(&str, &[&str]); 6] = [
            (
                "is author and of GitHub | Linux",
                &[
                    "is author and of GitHub | Linux",
                    "          ^^^           ^",
                    r#"at 10: expected a word on both sides, found "and""#,
                    "  try: leave it out, or quote it: 'and'",
                    r#"at 24: expected a blank or "or" between two words, found "|""#,
                    "  try: leave it out: a list means any of its words; or quote the word",
                ],
            ),
            (
                "ALICE is of 山田 is",
                &[
                    "ALICE is of 山田 is",
                    "      ^^         ^^",
                    r#"at 6: expected a predicate after "is", found "of""#,
                    "  try: to mean the word itself, quote it: 'of'",
                    r#"at 19: expected a predicate after "is", found the end of the query"#,
                ],
            ),
            (
                "山田 is ''",
                &[
                    "山田 is ''",
                    "        ^^",
                    r#"at 10: expected at least one character between the quotes, found "''""#,
                ],
            ),
            ("", &["", "^", "at 0: expected at least one word, found the end of the query"]),
            (
                "ALICE\nis *\tof x",
                &[
                    "is * of x",
                    "   ^",
                    r#"at 9: expected a predicate, found "*""#,
                    "  try: to match any predicate, leave the clause out; to mean the character, quote the word",
                ],
            ),
            (
                "is 'a\nb",
                &[
                    "is 'a",
                    "   ^^",
                    r#"at 3: expected a closing ', found "'a b""#,
                    "  try: close the quote, or quote a word that holds a ' with \"",
                ],
            ),
        ];
        for (query, lines) in cases {
            let picture = parse(query).unwrap_err().render(query);
            assert_eq!(picture.lines().collect::<Vec<_>>(), lines, "{query}");
        }
    }

    #[test]
    fn json_is_the_first_mistake_and_all() {
        let mistakes = parse("ALICE is by * of").unwrap_err();
        let expected = serde_json::json!({
            "error": "missing_element", "span": {"start": 6, "end": 8}, "position": 6,
            "expected": "a predicate after \"is\"", "found": "by",
            "suggestion": "to mean the word itself, quote it: 'by'",
            "keyword": "is", "element": "predicate",
            "errors": [
                {
                    "error": "missing_element", "span": {"start": 6, "end": 8}, "position": 6,
                    "expected": "a predicate after \"is\"", "found": "by",
                    "suggestion": "to mean the word itself, quote it: 'by'",
                    "keyword": "is", "element": "predicate",
                },
                {
                    "error": "wildcard", "span": {"start": 12, "end": 13}, "position": 12,
                    "expected": "an actor", "found": "*", "field": "actor",
                    "suggestion": "to match any actor, leave the clause out; to mean the character, quote the word",
                },
                {
                    "error": "missing_element", "span": {"start": 14, "end": 16}, "position": 14,
                    "expected": "a context after \"of\"", "found": "",
                    "keyword": "of", "element": "context",
                },
            ],
        });
        assert_eq!(serde_json::to_value(&mistakes).unwrap(), expected);
    }

    #[test]
    fn a_log_line_is_one_line() {
        let cases = [
            (
                "ALICE is\nspecialist of by 'a\n",
                "at 20: expected a context after \"of\", found \"by\"; at 26: expected a closing ', found \"'a \"",
            ),
            (
                "where 'a\n\u{1b}b'",
                "at 0: expected =, !=, <, <=, >, >=, contains or exists after 'a  b', found the end of the query",
            ),
        ];
        for (query, line) in cases {
            assert_eq!(parse(query).unwrap_err().to_string(), line, "{query:?}");
        }
    }
}
