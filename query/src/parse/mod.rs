//! From words to a query, or to every mistake in it at once.
//!
//! A query is a sequence of clauses, so there is one loop: a keyword opens a clause, and what the clause
//! holds is read up to the next keyword. A mistake is noted and passed over; it never ends the parse, and
//! a query with one is never returned.
//!
//! Words and actions are read here, times in [`times`], conditions in [`conditions`]; how a mistake is
//! put into words stands in [`complaints`].

mod complaints;
mod conditions;
mod times;

use std::borrow::Cow;

use axwatch_model::Timestamp;
use smallvec::SmallVec;

use crate::Dimension;
use crate::ast::{Query, Terms};
use crate::error::{Mistake, Mistakes};
use crate::lex::{Keyword, Kind, Lexeme, Lexer, Mode, TEXT_BYTES_MAX, unknown_escapes, unquote};
use complaints::*;

/// Bytes of a query.
pub const QUERY_BYTES_MAX: usize = 4 * 1024;
const _: () = assert!(QUERY_BYTES_MAX <= TEXT_BYTES_MAX);
/// Words of a query; actions and conditions count as well.
pub const QUERY_TERMS_MAX: usize = 256;

/// Reads a query in AX, whatever now is.
///
/// Shape: words as written, borrowed from `text` unless they hold an escape.
///
/// # Errors
/// [`Mistakes`]: all of them, in order of place. Of a text over [`QUERY_BYTES_MAX`] only that. A time
/// range is a mistake if it is empty at every now.
pub fn parse(text: &str) -> Result<Query<'_>, Mistakes> {
    read(text, Purpose::Any)
}

/// Reads a question that is asked now.
///
/// # Errors
/// As [`parse`]; and a time that cannot be reckoned at this now, or a range that is empty at it.
pub fn parse_at(text: &str, now: Timestamp) -> Result<Query<'_>, Mistakes> {
    read(text, Purpose::Question { now_ms: now.ms() })
}

/// Reads what a watcher waits for.
///
/// # Errors
/// As [`parse`]; and any `over`, because a watcher sees one claim at a time.
pub fn parse_watcher(text: &str) -> Result<Query<'_>, Mistakes> {
    read(text, Purpose::Watcher)
}

/// What a query is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Any,
    Question { now_ms: i64 },
    Watcher,
}

fn read(text: &str, purpose: Purpose) -> Result<Query<'_>, Mistakes> {
    let mut query = Query::default();
    let mut parser = Parser {
        lexer: Lexer::new(text),
        mode: Mode::Words,
        here: Lexeme::new(Kind::End, 0, 0),
        passed: 0,
        query: &mut query,
        time_clauses: SmallVec::new(),
        mistakes: Vec::new(),
        terms: 0,
        purpose,
    };
    if text.len() > QUERY_BYTES_MAX {
        parser.mistakes.push(too_long(text));
    } else {
        parser.query();
    }
    match Mistakes::sorted(parser.mistakes) {
        None => Ok(query),
        Some(mistakes) => Err(mistakes),
    }
}

struct Parser<'q, 'a> {
    lexer: Lexer<'a>,
    mode: Mode,
    /// The piece that is looked at.
    here: Lexeme,
    /// The end of the piece before it.
    passed: usize,
    /// Filled in its place, because it is large.
    query: &'q mut Query<'a>,
    /// Of each temporal clause of the query, its keyword and its end.
    time_clauses: SmallVec<[(Lexeme, usize); 2]>,
    mistakes: Vec<Mistake>,
    terms: usize,
    purpose: Purpose,
}

impl<'a> Parser<'_, 'a> {
    fn query(&mut self) {
        self.bump();
        if self.here.kind == Kind::End {
            self.mistakes.push(empty_query(self.here.end()));
            return;
        }
        self.terms(Dimension::Subject, None);
        while let Kind::Keyword(keyword) = self.here.kind {
            self.clause(keyword);
        }
        self.check_times();
    }

    /// Reads a clause: its keyword, and all before the next one.
    fn clause(&mut self, keyword: Keyword) {
        let opened = self.here;
        self.mode = match keyword {
            Keyword::Where => Mode::Where,
            Keyword::So => Mode::Actions,
            _ => Mode::Words,
        };
        self.bump();
        match keyword {
            Keyword::Is => self.terms(Dimension::Predicate, Some(opened)),
            Keyword::Of => self.terms(Dimension::Context, Some(opened)),
            Keyword::By => self.terms(Dimension::Actor, Some(opened)),
            Keyword::Where => self.conditions(opened),
            Keyword::So => self.actions(opened),
            Keyword::Over => self.over(opened),
            Keyword::Between => self.between(opened),
            Keyword::Since | Keyword::Until | Keyword::On => self.time_clause(keyword, opened),
            Keyword::And | Keyword::Or | Keyword::Not => unreachable!("these open no clause"),
        }
    }

    /// Goes on to the next piece.
    fn bump(&mut self) {
        self.passed = self.here.end();
        self.here = self.lexer.next(self.mode);
    }

    fn text(&self, lexeme: Lexeme) -> &'a str {
        self.lexer.text(lexeme)
    }

    /// Reads the words of a list; `opened` is the keyword before it, which subjects have not.
    fn terms(&mut self, dimension: Dimension, opened: Option<Lexeme>) {
        let excludes = opened.is_some() && self.here.is_keyword(Keyword::Not);
        if excludes {
            self.bump();
        }
        let (mut has_words, mut separator) = (false, None);
        loop {
            if !excludes && self.bare_terms(dimension) {
                (has_words, separator) = (true, None);
            }
            if self.here.ends_clause() {
                break;
            }
            match self.here.kind {
                Kind::Keyword(Keyword::Not) => {
                    self.mistakes.push(misplaced_not(self.text(self.here), self.here, dimension));
                }
                Kind::Separator | Kind::Keyword(_) if has_words && separator.is_none() => {
                    separator = Some(self.here);
                }
                Kind::Separator | Kind::Keyword(_) => self.dangling(self.here),
                _ => {
                    (has_words, separator) = (true, None);
                    self.term(dimension, excludes);
                }
            }
            self.bump();
        }
        if let Some(separator) = separator {
            self.dangling(separator);
        }
        if let Some(opened) = opened.filter(|_| !has_words) {
            let not = if excludes { " not" } else { "" };
            self.missing(opened, not, dimension.name());
        }
    }

    /// Reads bare words for as long as nothing else comes; whether any did. Most of a query is this.
    fn bare_terms(&mut self, dimension: Dimension) -> bool {
        let (list, before) = (any_of(self.query, dimension), self.terms);
        while self.here.kind == Kind::Word && self.terms < QUERY_TERMS_MAX {
            list.push(Cow::Borrowed(self.lexer.text(self.here)));
            self.terms += 1;
            self.passed = self.here.end();
            self.here = self.lexer.next(self.mode);
        }
        self.terms > before
    }

    /// A word, or something in the place of one.
    fn term(&mut self, dimension: Dimension, excludes: bool) {
        let lexeme = self.here;
        let Some(word) = self.word(dimension.name()) else { return };
        if !self.counts(lexeme) {
            return;
        }
        match none_of(self.query, dimension).filter(|_| excludes) {
            Some(none) => none.push(word),
            None => any_of(self.query, dimension).push(word),
        }
    }

    /// The text of a word, or `None` with what is wrong with it. `field` is where it stands.
    fn word(&mut self, field: &'static str) -> Option<Cow<'a, str>> {
        match self.here.kind {
            Kind::Word => Some(Cow::Borrowed(self.text(self.here))),
            Kind::Quoted | Kind::Escaped => self.quoted(self.here),
            Kind::Stray | Kind::Operator => {
                let complaint = stray(self.text(self.here), self.here, field, self.query);
                self.mistakes.push(complaint);
                None
            }
            _ => {
                self.pass_over(field);
                None
            }
        }
    }

    /// The text of a quote, or `None` if it is empty. Escapes that mean nothing are noted.
    fn quoted(&mut self, lexeme: Lexeme) -> Option<Cow<'a, str>> {
        let written = self.text(lexeme);
        let (text, unknown) = unquote(written);
        for span in unknown {
            self.mistakes.push(unknown_escape(&written[span.clone()], lexeme.start() + span.start));
        }
        if text.is_empty() {
            self.mistakes.push(empty_literal(written, lexeme));
            return None;
        }
        Some(text)
    }

    /// Notes what would be wrong with this piece anywhere before `so`.
    fn pass_over(&mut self, field: &'static str) {
        let (lexeme, text) = (self.here, self.text(self.here));
        match lexeme.kind {
            Kind::Quoted | Kind::Escaped => drop(self.quoted(lexeme)),
            Kind::Wildcard => self.mistakes.push(wildcard(text, lexeme, field)),
            Kind::Pipe => self.mistakes.push(pipe(text, lexeme, field)),
            Kind::Unclosed => {
                self.mistakes.push(unterminated(text, lexeme));
                for span in unknown_escapes(text) {
                    let escape = &text[span.clone()];
                    self.mistakes.push(unknown_escape(escape, lexeme.start() + span.start));
                }
            }
            _ => {}
        }
    }

    /// Counts a word; whether it is still one of those that a query may have.
    fn counts(&mut self, lexeme: Lexeme) -> bool {
        self.terms += 1;
        if self.terms == QUERY_TERMS_MAX + 1 {
            self.mistakes.push(too_many_terms(lexeme));
        }
        self.terms <= QUERY_TERMS_MAX
    }

    /// Notes that a clause ends without what it is for.
    fn missing(&mut self, opened: Lexeme, not: &str, element: &'static str) {
        let next = (self.here.kind != Kind::End).then(|| self.text(self.here));
        let mistake = missing_element(self.text(opened), opened, not, element, next);
        self.mistakes.push(mistake);
    }

    fn dangling(&mut self, separator: Lexeme) {
        self.mistakes.push(dangling(self.text(separator), separator));
    }

    /// Reads the actions of `so`, after which only more of them may come.
    fn actions(&mut self, mut opened: Lexeme) {
        loop {
            let has_actions = self.list_of_actions();
            if !has_actions {
                self.missing(opened, "", "action");
            }
            while let Kind::Keyword(keyword) = self.here.kind
                && keyword != Keyword::So
            {
                self.clause_after_so();
            }
            opened = self.here;
            if opened.kind == Kind::End {
                return;
            }
            self.bump();
        }
    }

    fn list_of_actions(&mut self) -> bool {
        let mut has_actions = false;
        while !self.here.ends_clause() {
            let lexeme = self.here;
            if let Kind::Keyword(_) = lexeme.kind {
                self.mistakes.push(keyword_among_actions(self.text(lexeme), lexeme));
            } else {
                has_actions = true;
                if let Some(action) = self.word("action")
                    && self.counts(lexeme)
                {
                    self.query.so_actions.push(action);
                }
            }
            self.bump();
        }
        has_actions
    }

    /// Passes over a clause that has no business after `so`.
    fn clause_after_so(&mut self) {
        self.mistakes.push(clause_after_so(self.text(self.here), self.here));
        self.bump();
        while !self.here.ends_clause() {
            self.pass_over("action");
            self.bump();
        }
    }
}

fn any_of<'q, 'a>(query: &'q mut Query<'a>, dimension: Dimension) -> &'q mut Terms<'a> {
    match dimension {
        Dimension::Subject => &mut query.subjects,
        Dimension::Predicate => &mut query.predicates.any,
        Dimension::Context => &mut query.contexts.any,
        Dimension::Actor => &mut query.actors.any,
    }
}

/// Subjects have no words that are excluded.
fn none_of<'q, 'a>(
    query: &'q mut Query<'a>,
    dimension: Dimension,
) -> Option<&'q mut Vec<Cow<'a, str>>> {
    match dimension {
        Dimension::Subject => None,
        Dimension::Predicate => Some(&mut query.predicates.none),
        Dimension::Context => Some(&mut query.contexts.none),
        Dimension::Actor => Some(&mut query.actors.none),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MistakeKind::{self, *};

    /// The kinds and places of a query's mistakes.
    fn mistakes(query: &str) -> Vec<(MistakeKind, &str)> {
        let found = parse(query).expect_err(query);
        found.all().iter().map(|mistake| (mistake.kind, &query[mistake.span.clone()])).collect()
    }

    #[test]
    fn every_mistake_is_reported_in_order_of_place() {
        let cases: [(&str, &[(MistakeKind, &str)]); 36] = [
            (" \n", &[(EmptyQuery, " \n")]),
            (
                "is * of by 'x",
                &[(Wildcard, "*"), (MissingElement, "of"), (UnterminatedQuote, "'x")],
            ),
            ("'O'Brien' is author", &[(UnterminatedQuote, "' is author")]),
            ("is '' of \"\"", &[(EmptyLiteral, "''"), (EmptyLiteral, "\"\"")]),
            (r"is 'a\nb\'c'", &[(UnexpectedToken, r"\n")]),
            (r"is 'a\", &[(UnterminatedQuote, r"'a\")]),
            ("is a\\b", &[(UnexpectedToken, "\\")]),
            ("#tag is a", &[(UnexpectedToken, "#")]),
            ("A*B|C is %", &[(Wildcard, "*"), (Pipe, "|"), (Wildcard, "%")]),
            ("|", &[(Pipe, "|")]),
            (",", &[(UnexpectedToken, ",")]),
            ("and", &[(UnexpectedToken, "and")]),
            ("a,,b", &[(UnexpectedToken, ",")]),
            ("a, and b", &[(UnexpectedToken, "and")]),
            ("a, is b;", &[(UnexpectedToken, ","), (UnexpectedToken, ";")]),
            ("is and a", &[(UnexpectedToken, "and")]),
            ("is and of a", &[(MissingElement, "is"), (UnexpectedToken, "and")]),
            ("not a", &[(UnexpectedToken, "not")]),
            ("a not b", &[(UnexpectedToken, "not")]),
            ("is a not b", &[(UnexpectedToken, "not")]),
            ("is not not a", &[(UnexpectedToken, "not")]),
            ("is not", &[(MissingElement, "is")]),
            ("is not of a", &[(MissingElement, "is")]),
            ("is , not a", &[(UnexpectedToken, ","), (UnexpectedToken, "not")]),
            ("is is is", &[(MissingElement, "is"); 3]),
            ("so", &[(MissingElement, "so")]),
            ("so a therefore", &[(MissingElement, "therefore")]),
            (
                "so a is b of c so",
                &[(UnexpectedToken, "is"), (UnexpectedToken, "of"), (MissingElement, "so")],
            ),
            ("so since x", &[(MissingElement, "so"), (UnexpectedToken, "since")]),
            ("so a and not b", &[(UnexpectedToken, "and"), (UnexpectedToken, "not")]),
            ("so '' 'x", &[(EmptyLiteral, "''"), (UnterminatedQuote, "'x")]),
            ("since x yesterday", &[(TemporalUnresolvable, "x yesterday")]),
            ("a since of", &[(MissingElement, "since"), (MissingElement, "of")]),
            ("between 2024 and now is *", &[(TemporalUnresolvable, "2024"), (Wildcard, "*")]),
            ("where a != 'x' and not b by", &[(UnexpectedToken, "not"), (MissingElement, "by")]),
            (
                "is a, since x, of b |",
                &[
                    (UnexpectedToken, ","),
                    (TemporalUnresolvable, "x"),
                    (UnexpectedToken, ","),
                    (Pipe, "|"),
                ],
            ),
        ];
        for (query, expected) in cases {
            assert_eq!(mistakes(query), expected, "{query}");
        }
    }

    #[test]
    fn a_mistake_says_what_was_expected_and_found() {
        let cases = [
            ("is of x", r#"at 0: expected a predicate after "is", found "of""#),
            (
                "ARE not",
                r#"at 0: expected a predicate after "ARE not", found the end of the query"#,
            ),
            ("by", r#"at 0: expected an actor after "by", found the end of the query"#),
            ("x SINCE", r#"at 2: expected a time after "SINCE", found the end of the query"#),
            ("x,", r#"at 1: expected a word on both sides, found ",""#),
            ("where a =", r#"at 0: expected a value after "=", found the end of the query"#),
            (
                "since 3000000 years ago",
                r#"at 6: expected a time within the years 0 to 9999, found "3000000 years ago""#,
            ),
            ("so a or b", r#"at 5: expected only actions after so, found "or""#),
        ];
        for (query, line) in cases {
            assert_eq!(parse(query).unwrap_err().to_string(), line, "{query}");
        }
    }

    #[test]
    fn a_mistake_suggests_what_may_be_meant() {
        let cases = [
            ("is is x", "to mean the word itself, quote it: 'is'"),
            (
                "is a not b",
                "write what to exclude as a clause of its own: is not …; to mean the word itself, quote it: 'not'",
            ),
            ("is a wher lang = 'x'", "where instead of wher"),
            ("is a lang = 'x'", "put a condition after where"),
            ("*", "to match any subject, leave all out; to mean the character, quote the word"),
            ("since *", "to mean the character, quote the word"),
            ("since yesterdy", "yesterday"),
            ("since 3 dayz ago", "3 days ago"),
            ("since monday", "last monday"),
            ("on 2023-02-29", "2023-02-28"),
            ("is a since yesterday untl now", "until instead of untl"),
            ("since 2024-01-15 14:30", "put a date with a blank in it in quotes"),
            ("between yesterday adn now", "and instead of adn"),
            ("between now and yesterday", "put the earlier time first"),
            ("since now until yesterday", "time clauses all have to hold; leave one out"),
            ("over 5 yers", "years instead of yers"),
            ("where a == 1", "= instead of =="),
            ("where a contians 'x'", "contains instead of contians"),
            ("where a = ture", "true instead of ture"),
            ("where a = rust", "to mean the text, quote it: \"rust\""),
            ("where a = 1 nad b = 2", "and instead of nad"),
            (
                "where a = 1 or b = 2",
                "conditions all have to hold; make a watcher or question of each",
            ),
        ];
        for (query, suggestion) in cases {
            let mistakes = parse(query).unwrap_err();
            assert_eq!(mistakes.first().suggestion.as_deref(), Some(suggestion), "{query}");
        }
    }

    #[test]
    fn a_query_has_bounds() {
        let words = |n: usize| vec!["a"; n].join(" ");
        assert_eq!(parse(&words(QUERY_TERMS_MAX)).unwrap().subjects.len(), QUERY_TERMS_MAX);
        let many = parse(&words(QUERY_TERMS_MAX + 9)).unwrap_err();
        assert_eq!(many.to_string(), "at 512: expected at most 256 words, found one more");
        let text = "é".repeat(QUERY_BYTES_MAX / 2);
        assert!(parse(&text).is_ok());
        let long = format!("x{text}");
        let long = parse(&long).unwrap_err();
        assert_eq!(long.to_string(), "at 4095: expected at most 4096 bytes, found 4097 bytes");
    }

    /// Texts that repeat what costs most: none of them keeps a parser busy for long.
    #[test]
    fn no_text_takes_long() {
        let pieces = [
            "on today ",
            "since now until now ",
            "since today until now on 2024-06-15 ",
            "since tomorrow until yesterday ",
            "= wheer ",
            "where a = b ",
            "since x x x ",
            "'\\q' ",
            "over 5q ",
            "*\n",
        ];
        let start = std::time::Instant::now();
        for piece in pieces {
            let text = piece.repeat(QUERY_BYTES_MAX / piece.len());
            if let Err(mistakes) = parse(&text) {
                assert!(!mistakes.render(&text).is_empty());
            }
        }
        // Some milliseconds on a quiet machine.
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }

    #[test]
    fn words_are_borrowed_unless_escaped() {
        let query = parse(r"'New York' is 'it\'s'").unwrap();
        assert!(matches!(query.subjects[0], Cow::Borrowed("New York")));
        assert!(matches!(query.predicates.any[0], Cow::Owned(_)));
    }
}
