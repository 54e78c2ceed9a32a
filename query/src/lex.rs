//! From bytes to words: blanks, quotes, keywords and what is none of them.
//!
//! A lexeme is a kind and a place, and copies no text, because most of a parse's time is spent here.
//! One table says what a byte may be part of; it decides on ASCII alone, so a scan never stops inside a
//! character. What stands in the wrong place is for [`crate::parse`], which also says in which [`Mode`]
//! to go on: inside `where` there are operators, and after `so` a word holds nearly anything.

use std::borrow::Cow;
use std::ops::Range;

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
    /// Those that begin a clause, as a misspelt one may be meant.
    pub(crate) const CLAUSES: [&str; 14] = [
        "is",
        "are",
        "of",
        "from",
        "by",
        "via",
        "since",
        "until",
        "on",
        "between",
        "over",
        "where",
        "so",
        "therefore",
    ];

    /// The keyword that a bare word is. Told apart by length first, since most words are none.
    pub(crate) fn of(word: &str) -> Option<Keyword> {
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
        Some(match *word.as_bytes() {
            [a, b] => match &[lower(a), lower(b)] {
                b"is" => Keyword::Is,
                b"of" => Keyword::Of,
                b"by" => Keyword::By,
                b"on" => Keyword::On,
                b"so" => Keyword::So,
                b"or" => Keyword::Or,
                _ => return None,
            },
            [a, b, c] => match &[lower(a), lower(b), lower(c)] {
                b"are" => Keyword::Is,
                b"via" => Keyword::By,
                b"and" => Keyword::And,
                b"not" => Keyword::Not,
                _ => return None,
            },
            [a, b, c, d] => match &[lower(a), lower(b), lower(c), lower(d)] {
                b"from" => Keyword::Of,
                b"over" => Keyword::Over,
                _ => return None,
            },
            [a, _, _, _, _] => match lower(a) {
                b's' if is("since") => Keyword::Since,
                b'u' if is("until") => Keyword::Until,
                b'w' if is("where") => Keyword::Where,
                _ => return None,
            },
            [_, _, _, _, _, _, _] if is("between") => Keyword::Between,
            [_, _, _, _, _, _, _, _, _] if is("therefore") => Keyword::So,
            _ => return None,
        })
    }

    /// Whether it begins a clause, and so ends the one before.
    pub(crate) fn opens_clause(self) -> bool {
        !matches!(self, Keyword::And | Keyword::Or | Keyword::Not)
    }
}

/// An ASCII letter made small. The bit that does it makes no letter of anything else.
fn lower(byte: u8) -> u8 {
    byte | 0x20
}

/// What a piece of the query is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A bare word that is no keyword.
    Word,
    /// A bare word that is one.
    Keyword(Keyword),
    /// A quoted word without a backslash.
    Quoted,
    /// A quoted word with one.
    Escaped,
    /// A quote that is not closed.
    Unclosed,
    /// A comma or semicolon.
    Separator,
    /// `|`, once or more.
    Pipe,
    /// Some of `* ^ % $`.
    Wildcard,
    /// Inside `where`: some of `= ! < >`.
    Operator,
    /// Other characters that stand for nothing.
    Stray,
    /// The end of the query.
    End,
}

/// Bytes of a text that can be read: more than a query may have.
pub(crate) const TEXT_BYTES_MAX: usize = u16::MAX as usize;

/// A piece of the query: its kind and its bytes. Small, so that it is handed on in one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lexeme {
    pub(crate) kind: Kind,
    start: u16,
    end: u16,
}

impl Lexeme {
    pub(crate) fn new(kind: Kind, start: usize, end: usize) -> Lexeme {
        Lexeme { kind, start: start as u16, end: end as u16 }
    }

    pub(crate) fn start(self) -> usize {
        usize::from(self.start)
    }

    pub(crate) fn end(self) -> usize {
        usize::from(self.end)
    }

    pub(crate) fn span(self) -> Range<usize> {
        self.start()..self.end()
    }

    pub(crate) fn is_keyword(self, keyword: Keyword) -> bool {
        self.kind == Kind::Keyword(keyword)
    }

    /// Whether the clause before it ends here.
    pub(crate) fn ends_clause(self) -> bool {
        match self.kind {
            Kind::End => true,
            Kind::Keyword(keyword) => keyword.opens_clause(),
            _ => false,
        }
    }
}

/// Where in the grammar the lexer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Before `so`.
    Words,
    /// Inside `where`, where there are operators.
    Where,
    /// After `so`, where a word ends only at a blank or a quote.
    Actions,
}

const BLANK: u8 = 1;
const QUOTE: u8 = 2;
/// May begin a bare word, and stand in one.
const BEGINS: u8 = 4;
/// May stand in a bare word.
const BARE: u8 = 8;
const WILDCARD: u8 = 16;
const OPERATOR: u8 = 32;
const SEPARATOR: u8 = 64;
const PIPE: u8 = 128;

const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let (mut classes, mut byte) = ([0; 256], 0);
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | b'\x0C' => BLANK,
            b'\'' | b'"' => QUOTE,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | 128.. => BEGINS | BARE,
            b'_' | b'-' | b'.' | b':' | b'@' | b'/' | b'+' => BEGINS | BARE,
            b'#' => BARE,
            b'*' | b'^' | b'%' | b'$' => WILDCARD,
            b'=' | b'!' | b'<' | b'>' => OPERATOR,
            b',' | b';' => SEPARATOR,
            b'|' => PIPE,
            _ => 0,
        };
        byte += 1;
    }
    classes
}

fn class(byte: u8) -> u8 {
    CLASSES[usize::from(byte)]
}

/// Whether a character may stand in a bare word.
pub(crate) fn continues_bare(c: char) -> bool {
    u8::try_from(c).is_ok_and(|byte| class(byte) & BARE != 0) || !c.is_ascii()
}

/// Whether a term can be written without quotes, keywords aside.
pub(crate) fn is_bare(term: &str) -> bool {
    let mut bytes = term.bytes();
    bytes.next().is_some_and(|byte| class(byte) & BEGINS != 0)
        && bytes.all(|byte| class(byte) & BARE != 0)
}

/// Whether an action can be written without quotes, keywords aside.
pub(crate) fn is_bare_action(action: &str) -> bool {
    !action.is_empty() && action.bytes().all(|byte| class(byte) & (BLANK | QUOTE) == 0)
}

/// Hands out a query piece by piece.
#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    /// What stands in the query there, as written.
    pub(crate) fn text(&self, lexeme: Lexeme) -> &'a str {
        &self.text[lexeme.span()]
    }

    pub(crate) fn slice(&self, span: Range<usize>) -> &'a str {
        &self.text[span]
    }

    /// Goes on from another place.
    pub(crate) fn go_to(&mut self, at: usize) {
        self.at = at;
    }

    /// The next piece; at the end, again and again, [`Kind::End`].
    pub(crate) fn next(&mut self, mode: Mode) -> Lexeme {
        debug_assert!(self.text.len() <= TEXT_BYTES_MAX, "whoever reads a text has looked");
        let bytes = self.text.as_bytes();
        let start = self.scan(self.at, |class| class & BLANK != 0);
        let Some(&first) = bytes.get(start) else {
            self.at = start;
            return Lexeme::new(Kind::End, start, start);
        };
        let begins = class(first);
        let (kind, end) = if begins & QUOTE != 0 {
            self.quote(start, first)
        } else if mode == Mode::Actions {
            let end = self.scan(start, |class| class & (BLANK | QUOTE) == 0);
            (self.word_or_keyword(start, end), end)
        } else if begins & BEGINS != 0 {
            let end = self.scan(start, |class| class & BARE != 0);
            (self.word_or_keyword(start, end), end)
        } else {
            self.misfit(start, begins, mode)
        };
        self.at = end;
        Lexeme::new(kind, start, end)
    }

    /// The first byte from `at` on whose class is not `within`.
    fn scan(&self, at: usize, within: impl Fn(u8) -> bool) -> usize {
        let rest = self.text.as_bytes().get(at..).unwrap_or_default();
        at + rest.iter().position(|&byte| !within(class(byte))).unwrap_or(rest.len())
    }

    fn word_or_keyword(&self, start: usize, end: usize) -> Kind {
        Keyword::of(&self.text[start..end]).map_or(Kind::Word, Kind::Keyword)
    }

    fn quote(&self, start: usize, mark: u8) -> (Kind, usize) {
        let bytes = self.text.as_bytes();
        let (mut at, mut kind) = (start + 1, Kind::Quoted);
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            if byte == mark {
                return (kind, at);
            }
            if byte == b'\\' {
                kind = Kind::Escaped;
                at += 1;
            }
        }
        (Kind::Unclosed, bytes.len())
    }

    /// What is neither a word nor a quote. Equal kinds side by side are one piece, so that they are one
    /// mistake; separators are not, because each must stand between two words.
    fn misfit(&self, start: usize, begins: u8, mode: Mode) -> (Kind, usize) {
        let operator = if mode == Mode::Where { OPERATOR } else { 0 };
        let run = |of: u8| self.scan(start, |class| class & of != 0);
        if begins & SEPARATOR != 0 {
            (Kind::Separator, start + 1)
        } else if begins & PIPE != 0 {
            (Kind::Pipe, run(PIPE))
        } else if begins & WILDCARD != 0 {
            (Kind::Wildcard, run(WILDCARD))
        } else if begins & operator != 0 {
            (Kind::Operator, run(OPERATOR))
        } else {
            let known = BLANK | QUOTE | BEGINS | WILDCARD | SEPARATOR | PIPE | operator;
            (Kind::Stray, self.scan(start, |class| class & known == 0))
        }
    }
}

/// The inside of a quote that is closed; and the bytes of each escape in it that means nothing, which
/// are counted from the quote's first.
pub(crate) fn unquote(written: &str) -> (Cow<'_, str>, Vec<Range<usize>>) {
    let inside = &written[1..written.len() - 1];
    if !inside.contains('\\') {
        return (Cow::Borrowed(inside), Vec::new());
    }
    let mut text = String::with_capacity(inside.len());
    let unknown = unescape(inside, &mut text);
    (Cow::Owned(text), unknown)
}

/// The bytes of each unknown escape in a quote that is not closed, counted from the quote's first.
pub(crate) fn unknown_escapes(written: &str) -> Vec<Range<usize>> {
    unescape(&written[1..], &mut String::new())
}

fn unescape(inside: &str, text: &mut String) -> Vec<Range<usize>> {
    let mut unknown = Vec::new();
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, escaped @ ('\'' | '"' | '\\'))) => text.push(escaped),
                Some((_, escaped)) => {
                    text.push(escaped);
                    // The quote's first byte, and the backslash, come before.
                    unknown.push(at + 1..at + 2 + escaped.len_utf8());
                }
                None => {}
            },
            _ => text.push(c),
        }
    }
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lexed(text: &str, mode: Mode) -> Vec<(String, usize)> {
        let (mut lexer, mut found) = (Lexer::new(text), Vec::new());
        loop {
            let lexeme = lexer.next(mode);
            let shown = match lexeme.kind {
                Kind::End => return found,
                Kind::Word => lexer.text(lexeme).to_owned(),
                Kind::Quoted | Kind::Escaped => format!("'{}'", unquote(lexer.text(lexeme)).0),
                kind => format!("{kind:?}"),
            };
            found.push((shown, lexeme.start()));
        }
    }

    fn check(text: &str, mode: Mode, expected: &[(&str, usize)]) {
        let expected: Vec<_> = expected.iter().map(|(s, at)| ((*s).to_owned(), *at)).collect();
        assert_eq!(lexed(text, mode), expected, "{text}");
    }

    #[test]
    fn a_query_falls_into_pieces() {
        let cases: [(&str, &[(&str, usize)]); 10] = [
            ("  a\tIS b#1 ", &[("a", 2), ("Keyword(Is)", 4), ("b#1", 7)]),
            ("a,b;c", &[("a", 0), ("Separator", 1), ("b", 2), ("Separator", 3), ("c", 4)]),
            ("a||b", &[("a", 0), ("Pipe", 1), ("b", 3)]),
            ("#a(=%$", &[("Stray", 0), ("a", 1), ("Stray", 2), ("Wildcard", 4)]),
            ("'x y'z", &[("'x y'", 0), ("z", 5)]),
            (r#"'it\'s' "\\""#, &[("'it's'", 0), (r"'\'", 8)]),
            ("on-call 'on'", &[("on-call", 0), ("'on'", 8)]),
            ("山\u{a0}田 'x", &[("山\u{a0}田", 0), ("Unclosed", 9)]),
            (r"'\", &[("Unclosed", 0)]),
            ("'\\山'", &[("'山'", 0)]),
        ];
        for (text, expected) in cases {
            check(text, Mode::Words, expected);
        }
    }

    #[test]
    fn where_and_so_have_pieces_of_their_own() {
        check("a.b>=-1", Mode::Where, &[("a.b", 0), ("Operator", 3), ("-1", 5)]);
        check("a=='b'(", Mode::Where, &[("a", 0), ("Operator", 1), ("'b'", 3), ("Stray", 6)]);
        check("a=b|c;'d'e,", Mode::Actions, &[("a=b|c;", 0), ("'d'", 6), ("e,", 9)]);
        check("x so=1 so", Mode::Actions, &[("x", 0), ("so=1", 2), ("Keyword(So)", 7)]);
    }

    #[test]
    fn a_keyword_is_one_in_any_case_and_nothing_else() {
        for word in Keyword::CLAUSES.iter().chain(&["and", "or", "not"]) {
            let upper = word.to_uppercase();
            assert!(Keyword::of(word).is_some() && Keyword::of(&upper).is_some(), "{word}");
            let mut other = upper.into_bytes();
            for i in 0..other.len() {
                other[i] ^= 0x40;
                let text = String::from_utf8(other.clone()).unwrap();
                assert_eq!(Keyword::of(&text), None, "{text:?}");
                other[i] ^= 0x40;
            }
        }
        for word in ["", "i", "iss", "sinc", "therefores", "@s", "\u{e9}s"] {
            assert_eq!(Keyword::of(word), None, "{word}");
        }
    }

    proptest! {
        /// Nothing but blanks is passed over, whatever the text.
        #[test]
        fn pieces_cover_the_text(
            text in "([ -~\t山é]|\\PC){0,40}",
            mode in prop::sample::select(vec![Mode::Words, Mode::Where, Mode::Actions]),
        ) {
            let (mut lexer, mut covered) = (Lexer::new(&text), 0);
            loop {
                let lexeme = lexer.next(mode);
                prop_assert!(text[covered..lexeme.start()].trim_ascii().is_empty());
                if lexeme.kind == Kind::End {
                    break;
                }
                prop_assert!(!lexer.text(lexeme).is_empty());
                covered = lexeme.end();
            }
            prop_assert!(text[covered..].trim_ascii().is_empty());
        }
    }
}
