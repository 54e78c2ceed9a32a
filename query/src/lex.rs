//! From characters to words: blanks, quotes, keywords and what is none of them.
//!
//! The lexer knows no grammar but one thing: after `so` a word holds any character that is neither
//! blank nor a quote. What is wrong inside a quote it reports itself; whether a token stands in its
//! right place is for [`crate::parse`].

use std::borrow::Cow;
use std::ops::Range;

use nom::branch::alt;
use nom::bytes::complete::{take_till, take_while, take_while1};
use nom::character::complete::{anychar, char, one_of, satisfy};
use nom::combinator::{consumed, map, recognize, value};
use nom::sequence::{delimited, pair};
use nom::{IResult, Parser};

use crate::error::{Mistake, MistakeKind};

/// A word that means more than itself, whatever its case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keyword {
    Is,
    Of,
    By,
    Since,
    Until,
    On,
    Between,
    Over,
    Where,
    So,
    And,
    Or,
    Not,
}

impl Keyword {
    /// The keyword that a bare word is.
    pub(crate) fn of(word: &str) -> Option<Keyword> {
        let mut lower = [0; 9];
        let lower = lower.get_mut(..word.len())?;
        lower.copy_from_slice(word.as_bytes());
        lower.make_ascii_lowercase();
        Some(match &*lower {
            b"is" | b"are" => Keyword::Is,
            b"of" | b"from" => Keyword::Of,
            b"by" | b"via" => Keyword::By,
            b"since" => Keyword::Since,
            b"until" => Keyword::Until,
            b"on" => Keyword::On,
            b"between" => Keyword::Between,
            b"over" => Keyword::Over,
            b"where" => Keyword::Where,
            b"so" | b"therefore" => Keyword::So,
            b"and" => Keyword::And,
            b"or" => Keyword::Or,
            b"not" => Keyword::Not,
            _ => return None,
        })
    }
}

/// What a piece of the query is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A bare word that is no keyword.
    Word,
    /// A bare word that is one.
    Keyword(Keyword),
    /// A quoted word, without its quotes and escapes.
    Quoted(Cow<'a, str>),
    /// A quote that is not closed.
    Unclosed,
    /// A comma or semicolon.
    Separator,
    /// `|`, once or more.
    Pipe,
    /// Some of `* ^ % $`.
    Wildcard,
    /// Other characters that stand for nothing.
    Stray,
}

/// A piece of the query and its place.
#[derive(Debug, Clone)]
pub(crate) struct Lexeme<'a> {
    pub(crate) token: Token<'a>,
    /// As written.
    pub(crate) text: &'a str,
    /// The first byte.
    pub(crate) start: usize,
}

impl Lexeme<'_> {
    pub(crate) fn span(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }
}

/// Whether a term can be written without quotes, keywords aside.
pub(crate) fn is_bare(term: &str) -> bool {
    bare(term).is_ok_and(|(rest, _)| rest.is_empty())
}

/// Whether an action can be written without quotes, keywords aside.
pub(crate) fn is_bare_action(action: &str) -> bool {
    !action.is_empty() && action.chars().all(continues_action)
}

/// Hands out a query piece by piece.
pub(crate) struct Lexer<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, rest: text }
    }

    /// The next piece of anything before `so`.
    pub(crate) fn next(&mut self, mistakes: &mut Vec<Mistake>) -> Option<Lexeme<'a>> {
        self.piece(|rest| alt((bare, misfit)).parse(rest), mistakes)
    }

    /// The next piece of what follows `so`.
    pub(crate) fn next_action(&mut self, mistakes: &mut Vec<Mistake>) -> Option<Lexeme<'a>> {
        self.piece(action, mistakes)
    }

    /// A quoted word or whatever `unquoted` takes; `None` at the end.
    fn piece(
        &mut self,
        unquoted: impl FnOnce(&'a str) -> IResult<&'a str, Lexed<'a>>,
        mistakes: &mut Vec<Mistake>,
    ) -> Option<Lexeme<'a>> {
        self.rest = self.rest.trim_ascii_start();
        let start = self.text.len() - self.rest.len();
        let mark = self.rest.chars().next()?;
        let (rest, (text, token)) = if is_quote(mark) {
            quoted(self.rest, start, mistakes)
        } else {
            unquoted(self.rest).expect("every character is some token's first")
        };
        self.rest = rest;
        Some(Lexeme { token, text, start })
    }
}

/// A piece as written, and what it is.
type Lexed<'a> = (&'a str, Token<'a>);

fn is_quote(c: char) -> bool {
    c == '\'' || c == '"'
}

fn begins_bare(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(c, '_' | '-' | '.' | ':' | '@' | '/' | '+')
        || !c.is_ascii()
}

fn continues_bare(c: char) -> bool {
    begins_bare(c) || c == '#'
}

fn continues_action(c: char) -> bool {
    !c.is_ascii_whitespace() && !is_quote(c)
}

fn is_wildcard(c: char) -> bool {
    matches!(c, '*' | '^' | '%' | '$')
}

fn is_stray(c: char) -> bool {
    let fits = begins_bare(c) || is_quote(c) || is_wildcard(c) || matches!(c, ',' | ';' | '|');
    !fits && !c.is_ascii_whitespace()
}

fn word_or_keyword(text: &str) -> Lexed<'_> {
    (text, Keyword::of(text).map_or(Token::Word, Token::Keyword))
}

fn bare(input: &str) -> IResult<&str, Lexed<'_>> {
    map(recognize(pair(satisfy(begins_bare), take_while(continues_bare))), word_or_keyword)
        .parse(input)
}

fn action(input: &str) -> IResult<&str, Lexed<'_>> {
    map(take_while1(continues_action), word_or_keyword).parse(input)
}

/// What is neither a word nor a quote. Equal kinds side by side are one piece, so that they are one
/// mistake; separators are not, because each must stand between two words.
fn misfit(input: &str) -> IResult<&str, Lexed<'_>> {
    consumed(alt((
        value(Token::Separator, one_of(",;")),
        value(Token::Pipe, take_while1(|c| c == '|')),
        value(Token::Wildcard, take_while1(is_wildcard)),
        value(Token::Stray, take_while1(is_stray)),
    )))
    .parse(input)
}

/// A quoted word. `start` is its place in the query.
fn quoted<'a>(input: &'a str, start: usize, mistakes: &mut Vec<Mistake>) -> (&'a str, Lexed<'a>) {
    match plainly_quoted('\'', input).or_else(|_| plainly_quoted('"', input)) {
        Ok((rest, (text, inner))) => (rest, (text, Token::Quoted(Cow::Borrowed(inner)))),
        Err(_) => escaped_quoted(input, start, mistakes),
    }
}

/// The usual case: a quote without escapes, which needs no copy.
fn plainly_quoted(mark: char, input: &str) -> IResult<&str, Lexed0<'_>> {
    consumed(delimited(char(mark), take_till(|c| c == mark || c == '\\'), char(mark))).parse(input)
}

type Lexed0<'a> = (&'a str, &'a str);

/// A quote with escapes, or without an end.
fn escaped_quoted<'a>(
    input: &'a str,
    start: usize,
    mistakes: &mut Vec<Mistake>,
) -> (&'a str, Lexed<'a>) {
    let mut chars = input.char_indices();
    let mark = chars.next().map_or('\'', |first| first.1);
    let mut inner = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, escaped)) if is_quote(escaped) || escaped == '\\' => inner.push(escaped),
                Some((_, escaped)) => {
                    inner.push(escaped);
                    mistakes.push(unknown_escape(&input[at..], start + at));
                }
                None => {}
            },
            _ if c == mark => {
                let (text, rest) = input.split_at(at + 1);
                return (rest, (text, Token::Quoted(Cow::Owned(inner))));
            }
            _ => inner.push(c),
        }
    }
    mistakes.push(unterminated(input, mark, start));
    ("", (input, Token::Unclosed))
}

fn unknown_escape(input: &str, at: usize) -> Mistake {
    let escape = recognize(pair(anychar::<&str, nom::error::Error<&str>>, anychar))
        .parse(input)
        .map_or(input, |(_, escape)| escape);
    let span = at..at + escape.len();
    Mistake::new(MistakeKind::UnexpectedToken, span, r#"\', \" or \\ in quotes"#, escape)
        .suggest(r"to mean a backslash, write \\")
}

fn unterminated(input: &str, mark: char, start: usize) -> Mistake {
    let (span, other) = (start..start + input.len(), if mark == '"' { '\'' } else { '"' });
    Mistake::new(MistakeKind::UnterminatedQuote, span, format!("a closing {mark}"), input)
        .suggest(format!("close the quote, or quote a word that holds a {mark} with {other}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lexed(text: &str) -> Vec<(String, usize)> {
        let (mut lexer, mut mistakes, mut found) = (Lexer::new(text), Vec::new(), Vec::new());
        while let Some(lexeme) = lexer.next(&mut mistakes) {
            let shown = match lexeme.token {
                Token::Word => lexeme.text.to_owned(),
                Token::Quoted(inner) => format!("'{inner}'"),
                token => format!("{token:?}"),
            };
            found.push((shown, lexeme.start));
        }
        found
    }

    #[test]
    fn a_query_falls_into_pieces() {
        let cases: [(&str, &[(&str, usize)]); 8] = [
            ("  a\tIS b#1 ", &[("a", 2), ("Keyword(Is)", 4), ("b#1", 7)]),
            ("a,b;c", &[("a", 0), ("Separator", 1), ("b", 2), ("Separator", 3), ("c", 4)]),
            ("a||b", &[("a", 0), ("Pipe", 1), ("b", 3)]),
            ("#a(=%$", &[("Stray", 0), ("a", 1), ("Stray", 2), ("Wildcard", 4)]),
            ("'x y'z", &[("'x y'", 0), ("z", 5)]),
            (r#"'it\'s' "\\""#, &[("'it's'", 0), (r"'\'", 8)]),
            ("on-call 'on'", &[("on-call", 0), ("'on'", 8)]),
            ("山\u{a0}田 'x", &[("山\u{a0}田", 0), ("Unclosed", 9)]),
        ];
        for (text, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(s, at)| ((*s).to_owned(), *at)).collect();
            assert_eq!(lexed(text), expected, "{text}");
        }
    }

    proptest! {
        /// Nothing but blanks is passed over, whatever the text.
        #[test]
        fn pieces_cover_the_text(text in "([ -~\t山é]|\\PC){0,40}", after_so: bool) {
            let (mut lexer, mut mistakes, mut covered) = (Lexer::new(&text), Vec::new(), 0);
            while let Some(lexeme) =
                if after_so { lexer.next_action(&mut mistakes) } else { lexer.next(&mut mistakes) }
            {
                prop_assert!(!lexeme.text.is_empty());
                prop_assert!(text[covered..lexeme.start].trim_ascii().is_empty());
                prop_assert_eq!(&text[lexeme.span()], lexeme.text);
                covered = lexeme.span().end;
            }
            prop_assert!(text[covered..].trim_ascii().is_empty());
        }
    }
}
