//! From words to a query, or to every mistake in it at once.
//!
//! The grammar is a sequence of lists, so there is one loop: a clause's keyword closes the list that
//! is open and opens its own. A mistake is noted and passed over; it never ends the parse, and a
//! query with one is never returned.
//!
//! Not yet here: times, `where` and `over`. Their keywords are known, so that such a query is refused
//! at the right place instead of meaning something wider.

use std::borrow::Cow;

use crate::ast::{Query, Terms};
use crate::error::{Mistake, MistakeKind, Mistakes};
use crate::lex::{Keyword, Lexeme, Lexer, Token};
use crate::{Clause, Dimension};

/// Bytes of a query.
pub const QUERY_BYTES_MAX: usize = 4 * 1024;
/// Words of a query, actions among them.
pub const QUERY_TERMS_MAX: usize = 256;

/// Reads a query in AX.
///
/// Shape: words as written, borrowed from `text` unless they hold an escape.
///
/// # Errors
/// [`Mistakes`]: all of them, in order of place. Of a text over [`QUERY_BYTES_MAX`] only that.
pub fn parse(text: &str) -> Result<Query<'_>, Mistakes> {
    let mut parser = Parser {
        lexer: Lexer::new(text),
        query: Query::default(),
        mistakes: Vec::new(),
        terms: 0,
        seen_so: false,
        list: List::new(Place::Terms(Dimension::Subject), None),
    };
    if text.len() > QUERY_BYTES_MAX {
        parser.mistakes.push(too_long(text));
    } else {
        parser.read(text.len());
    }
    match Mistakes::sorted(parser.mistakes) {
        None => Ok(parser.query),
        Some(mistakes) => Err(mistakes),
    }
}

fn too_long(text: &str) -> Mistake {
    let span = text.floor_char_boundary(QUERY_BYTES_MAX)..text.len();
    let (expected, found) =
        (format!("at most {QUERY_BYTES_MAX} bytes"), format!("{} bytes", text.len()));
    Mistake::new(MistakeKind::TooLong, span, expected, found)
}

/// What a list of words is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Subjects, or the words of `is`, `of` or `by`.
    Terms(Dimension),
    /// The words of `so`.
    Actions,
    /// The words of a clause that is not understood yet: passed over.
    NotYet(&'static str),
    /// The words of a clause that has no business here: passed over.
    Astray,
}

/// The list of words that is being read.
struct List<'a> {
    place: Place,
    /// The keyword that opened it; subjects have none.
    keyword: Option<Lexeme<'a>>,
    /// Whether `not` came right after the keyword.
    excludes: bool,
    /// Whether anything that is or should have been a word has come.
    has_words: bool,
    /// A separator that waits for its second word.
    separator: Option<Lexeme<'a>>,
    /// Whether nothing at all has come since the keyword, so that `not` may come.
    is_fresh: bool,
}

impl<'a> List<'a> {
    fn new(place: Place, keyword: Option<Lexeme<'a>>) -> List<'a> {
        let is_fresh = keyword.is_some();
        List { place, keyword, excludes: false, has_words: false, separator: None, is_fresh }
    }

    fn is_passed_over(&self) -> bool {
        matches!(self.place, Place::NotYet(_) | Place::Astray)
    }

    /// What the list lacks when it is empty, as AX.md names it.
    fn element(&self) -> &'static str {
        match self.place {
            Place::Terms(dimension) => dimension.name(),
            Place::NotYet(element) => element,
            Place::Actions | Place::Astray => "action",
        }
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    query: Query<'a>,
    mistakes: Vec<Mistake>,
    terms: usize,
    seen_so: bool,
    list: List<'a>,
}

impl<'a> Parser<'a> {
    fn read(&mut self, end: usize) {
        let mut is_empty = true;
        while let Some(lexeme) = self.next() {
            is_empty = false;
            self.take(lexeme);
        }
        self.close(None);
        if is_empty {
            let empty = Mistake::new(MistakeKind::EmptyQuery, 0..end, "at least one word", "");
            self.mistakes.push(empty);
        }
    }

    fn next(&mut self) -> Option<Lexeme<'a>> {
        if self.seen_so {
            self.lexer.next_action(&mut self.mistakes)
        } else {
            self.lexer.next(&mut self.mistakes)
        }
    }

    fn take(&mut self, lexeme: Lexeme<'a>) {
        let is_first = std::mem::take(&mut self.list.is_fresh);
        match lexeme.token {
            Token::Keyword(keyword) => match place_of(keyword) {
                Some(place) => self.open(place, lexeme),
                None if self.list.is_passed_over() => self.list.has_words = true,
                None if keyword == Keyword::Not => self.not(&lexeme, is_first),
                None => self.separator(lexeme),
            },
            Token::Separator if !self.list.is_passed_over() => self.separator(lexeme),
            _ => self.word(lexeme),
        }
    }

    /// A clause begins, and with it ends the one before.
    fn open(&mut self, place: Place, keyword: Lexeme<'a>) {
        self.close(Some(&keyword));
        if place == Place::Actions {
            self.seen_so = true;
        } else if self.seen_so {
            self.mistakes.push(clause_after_so(&keyword));
            self.list = List::new(Place::Astray, Some(keyword));
            return;
        }
        self.list = List::new(place, Some(keyword));
    }

    /// Notes what the list that ends here lacks; `next` is the keyword after it.
    fn close(&mut self, next: Option<&Lexeme<'a>>) {
        if let Some(separator) = self.list.separator.take() {
            self.mistakes.push(dangling(&separator));
        }
        let Some(keyword) = &self.list.keyword else { return };
        match self.list.place {
            Place::Astray => {}
            _ if !self.list.has_words => self.mistakes.push(missing(&self.list, keyword, next)),
            Place::NotYet(_) => self.mistakes.push(not_yet(keyword)),
            Place::Terms(_) | Place::Actions => {}
        }
    }

    /// `not`, which belongs right after a clause's keyword.
    fn not(&mut self, lexeme: &Lexeme<'a>, is_first: bool) {
        if is_first && matches!(self.list.place, Place::Terms(_)) {
            self.list.excludes = true;
        } else {
            self.mistakes.push(misplaced_not(lexeme, self.list.place));
        }
    }

    /// `and`, `or`, a comma or a semicolon, which belong between two words.
    fn separator(&mut self, lexeme: Lexeme<'a>) {
        if self.list.place == Place::Actions {
            self.mistakes.push(keyword_among_actions(&lexeme));
        } else if self.list.has_words && self.list.separator.is_none() {
            self.list.separator = Some(lexeme);
        } else {
            self.mistakes.push(dangling(&lexeme));
        }
    }

    /// A word, or something in the place of one.
    fn word(&mut self, lexeme: Lexeme<'a>) {
        self.list.has_words = true;
        self.list.separator = None;
        if self.list.is_passed_over() {
            return;
        }
        let field = self.list.element();
        let mistake = match lexeme.token {
            Token::Word => return self.keep(lexeme.start, Cow::Borrowed(lexeme.text), lexeme.text),
            Token::Quoted(ref text) if text.is_empty() => empty_literal(&lexeme),
            Token::Quoted(text) => return self.keep(lexeme.start, text, lexeme.text),
            Token::Wildcard => wildcard(&lexeme, field),
            Token::Pipe => pipe(&lexeme),
            Token::Stray => stray(&lexeme, field, &self.query),
            // The lexer has reported it.
            Token::Unclosed => return,
            Token::Keyword(_) | Token::Separator => unreachable!("no word"),
        };
        self.mistakes.push(mistake);
    }

    /// Puts a word into its list, or counts it when there are too many.
    fn keep(&mut self, start: usize, word: Cow<'a, str>, written: &str) {
        self.terms += 1;
        if self.terms <= QUERY_TERMS_MAX {
            self.words().push(word);
        } else if self.terms == QUERY_TERMS_MAX + 1 {
            let expected = format!("at most {QUERY_TERMS_MAX} words");
            let span = start..start + written.len();
            let found = "one more";
            self.mistakes.push(Mistake::new(MistakeKind::TooManyTerms, span, expected, found));
        }
    }

    /// The list of the query that is being filled.
    fn words(&mut self) -> &mut Terms<'a> {
        let clause: &mut Clause<'a> = match self.list.place {
            Place::Terms(Dimension::Predicate) => &mut self.query.predicates,
            Place::Terms(Dimension::Context) => &mut self.query.contexts,
            Place::Terms(Dimension::Actor) => &mut self.query.actors,
            Place::Terms(Dimension::Subject) => return &mut self.query.subjects,
            _ => return &mut self.query.so_actions,
        };
        if self.list.excludes { &mut clause.none } else { &mut clause.any }
    }
}

/// The list that a keyword opens; `not`, `and` and `or` open none.
fn place_of(keyword: Keyword) -> Option<Place> {
    Some(match keyword {
        Keyword::Is => Place::Terms(Dimension::Predicate),
        Keyword::Of => Place::Terms(Dimension::Context),
        Keyword::By => Place::Terms(Dimension::Actor),
        Keyword::So => Place::Actions,
        Keyword::Where => Place::NotYet("condition"),
        Keyword::Since | Keyword::Until | Keyword::On | Keyword::Between | Keyword::Over => {
            Place::NotYet("temporal")
        }
        Keyword::And | Keyword::Or | Keyword::Not => return None,
    })
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with('a') { "an" } else { "a" };
    format!("{article} {noun}")
}

fn unexpected(lexeme: &Lexeme<'_>, expected: impl Into<String>) -> Mistake {
    Mistake::new(MistakeKind::UnexpectedToken, lexeme.span(), expected, lexeme.text)
}

fn missing(list: &List<'_>, keyword: &Lexeme<'_>, next: Option<&Lexeme<'_>>) -> Mistake {
    let element = list.element();
    let not = if list.excludes { " not" } else { "" };
    let noun = if element == "temporal" { "time" } else { element };
    let expected = format!("{} after \"{}{not}\"", with_article(noun), keyword.text);
    let found = next.map_or("", |next| next.text);
    let mistake = Mistake::new(MistakeKind::MissingElement, keyword.span(), expected, found)
        .lacks(keyword.text, element);
    match next {
        Some(next) => {
            mistake.suggest(format!("to mean the word itself, quote it: '{}'", next.text))
        }
        None => mistake,
    }
}

fn not_yet(keyword: &Lexeme<'_>) -> Mistake {
    let text = keyword.text;
    unexpected(keyword, format!("is, of, by or so (a {text} clause is not understood yet)"))
}

fn clause_after_so(keyword: &Lexeme<'_>) -> Mistake {
    unexpected(keyword, "only actions after so").suggest(format!(
        "put this clause before so; to mean the word itself, quote it: '{}'",
        keyword.text
    ))
}

fn keyword_among_actions(lexeme: &Lexeme<'_>) -> Mistake {
    unexpected(lexeme, "only actions after so")
        .suggest(format!("leave it out, or quote it: '{}'", lexeme.text))
}

fn misplaced_not(lexeme: &Lexeme<'_>, place: Place) -> Mistake {
    let clause = match place {
        Place::Terms(Dimension::Predicate) => "is not …",
        Place::Terms(Dimension::Context) => "of not …",
        Place::Terms(Dimension::Actor) => "by not …",
        _ => {
            return unexpected(lexeme, "not only right after is, of or by")
                .suggest(format!("to mean the word itself, quote it: '{}'", lexeme.text));
        }
    };
    unexpected(lexeme, "not only right after is, of or by").suggest(format!(
        "write what to exclude as a clause of its own: {clause}; to mean the word itself, quote it: '{}'",
        lexeme.text
    ))
}

fn dangling(separator: &Lexeme<'_>) -> Mistake {
    unexpected(separator, "a word on both sides")
        .suggest(format!("leave it out, or quote it: '{}'", separator.text))
}

fn empty_literal(lexeme: &Lexeme<'_>) -> Mistake {
    let expected = "at least one character between the quotes";
    Mistake::new(MistakeKind::EmptyLiteral, lexeme.span(), expected, lexeme.text)
}

fn wildcard(lexeme: &Lexeme<'_>, field: &'static str) -> Mistake {
    let leave_out = if field == Dimension::Subject.name() { "all" } else { "the clause" };
    Mistake::new(MistakeKind::Wildcard, lexeme.span(), with_article(field), lexeme.text)
        .within(field)
        .suggest(format!(
            "to match any {field}, leave {leave_out} out; to mean the character, quote the word"
        ))
}

fn pipe(lexeme: &Lexeme<'_>) -> Mistake {
    let expected = "a blank or \"or\" between two words";
    Mistake::new(MistakeKind::Pipe, lexeme.span(), expected, lexeme.text)
        .suggest("leave it out: a list means any of its words; or quote the word")
}

/// A character that fits nothing. An operator makes it likely that `where` was meant.
fn stray(lexeme: &Lexeme<'_>, field: &str, query: &Query<'_>) -> Mistake {
    let mistake = unexpected(lexeme, with_article(field));
    if !lexeme.text.contains(['=', '<', '>']) {
        return mistake.suggest("quote a word that holds other characters");
    }
    match near_where(query) {
        Some(word) => mistake.suggest(format!("where instead of {word}")),
        None => mistake.suggest("put a condition after where"),
    }
}

/// A word that looks like a misspelt `where`.
fn near_where<'a>(query: &'a Query<'_>) -> Option<&'a str> {
    let near = |word: &&str| strsim::osa_distance(&word.to_lowercase(), "where") <= 2;
    Dimension::ALL
        .into_iter()
        .flat_map(|dimension| query.any(dimension))
        .map(|word| &**word)
        .filter(|word| (4..=6).contains(&word.len()))
        .find(near)
}

#[cfg(test)]
mod tests {
    use super::*;
    use MistakeKind::*;

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
            ("since yesterday", &[(UnexpectedToken, "since")]),
            ("a since of", &[(MissingElement, "since"), (MissingElement, "of")]),
            ("between 2024 and now is *", &[(UnexpectedToken, "between"), (Wildcard, "*")]),
            ("where a != 'x' and not b by", &[(UnexpectedToken, "where"), (MissingElement, "by")]),
            (
                "is a, since x, of b |",
                &[(UnexpectedToken, ","), (UnexpectedToken, "since"), (Pipe, "|")],
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
            (
                "x since now",
                r#"at 2: expected is, of, by or so (a since clause is not understood yet), found "since""#,
            ),
            ("x,", r#"at 1: expected a word on both sides, found ",""#),
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

    #[test]
    fn words_are_borrowed_unless_escaped() {
        let query = parse(r"'New York' is 'it\'s'").unwrap();
        assert!(matches!(query.subjects[0], Cow::Borrowed("New York")));
        assert!(matches!(query.predicates.any[0], Cow::Owned(_)));
    }
}
