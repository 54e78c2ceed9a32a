//! What a text says in the plainest reading of the language's page.
//!
//! It is written beside the parser to be held against it: it shares no code with it, explains no
//! mistake, borrows nothing and is not quick. Of times it takes the words; whether they name a time is
//! not decided here.

use axwatch_query::{QUERY_BYTES_MAX, QUERY_TERMS_MAX};
use serde_json::Value;

/// A query without a mistake, as words in their places.
#[derive(Debug, Default, PartialEq)]
pub struct Plain {
    /// Subjects, and the words of `is`, `of` and `by`.
    pub any: [Vec<String>; 4],
    /// The same after `not`; subjects have none.
    pub none: [Vec<String>; 4],
    /// Each temporal clause: its keyword, and the words of its times with single blanks.
    pub times: Vec<(&'static str, Vec<String>)>,
    /// The conditions after `where`.
    pub conditions: Vec<Condition>,
    /// The words after `so`.
    pub actions: Vec<String>,
    /// Where each piece before `so` begins.
    pub starts: Vec<usize>,
}

/// A condition after `where`.
#[derive(Debug, PartialEq)]
pub struct Condition {
    pub path: Vec<String>,
    pub op: String,
    /// `None` only under `exists`.
    pub value: Option<Value>,
}

/// Reads a text; `None` if there is a mistake in it.
pub fn read(text: &str) -> Option<Plain> {
    if text.len() > QUERY_BYTES_MAX {
        return None;
    }
    let pieces = pieces(text)?;
    let first = pieces.first()?;
    let mut plain = Plain::default();
    let is_before_so = |piece: &&Piece| piece.keyword() != Some("so");
    plain.starts = pieces.iter().take_while(is_before_so).map(|piece| piece.start).collect();
    if !first.opens_clause() {
        plain.clause("", &pieces[..end_of_clause(&pieces, 0)])?;
    }
    for (at, piece) in pieces.iter().enumerate().filter(|(_, piece)| piece.opens_clause()) {
        plain.clause(piece.keyword()?, &pieces[at + 1..end_of_clause(&pieces, at + 1)])?;
    }
    (plain.terms() <= QUERY_TERMS_MAX).then_some(plain)
}

fn end_of_clause(pieces: &[Piece], from: usize) -> usize {
    let opens_clause = pieces[from..].iter().position(Piece::opens_clause);
    opens_clause.map_or(pieces.len(), |count| from + count)
}

impl Plain {
    /// Words, actions and conditions, as the limit counts them.
    pub fn terms(&self) -> usize {
        let words: usize = self.any.iter().chain(&self.none).map(Vec::len).sum();
        words + self.actions.len() + self.conditions.len()
    }

    /// Puts the pieces of a clause into their places. Only those of `so` may follow some of `so`.
    fn clause(&mut self, keyword: &'static str, pieces: &[Piece]) -> Option<()> {
        let is_after_so = !self.actions.is_empty();
        match keyword {
            "so" => self.actions.extend(words(pieces)?),
            _ if is_after_so => return None,
            "" => self.any[0] = list(pieces)?,
            "is" | "of" | "by" => {
                let dimension = ["", "is", "of", "by"].iter().position(|name| *name == keyword)?;
                match pieces {
                    [not, rest @ ..] if not.keyword() == Some("not") => {
                        self.none[dimension].extend(list(rest)?);
                    }
                    _ => self.any[dimension].extend(list(pieces)?),
                }
            }
            "between" => {
                let and = pieces.iter().position(|piece| piece.keyword() == Some("and"))?;
                let times = vec![time(&pieces[..and])?, time(&pieces[and + 1..])?];
                self.times.push((keyword, times));
            }
            "where" => self.conditions.extend(conditions(pieces)?),
            _ => self.times.push((keyword, vec![time(pieces)?])),
        }
        Some(())
    }
}

/// At least one word, with at most one separator between two.
fn list(pieces: &[Piece]) -> Option<Vec<String>> {
    let mut list = Vec::new();
    let mut wants_word = true;
    for piece in pieces {
        if !piece.separates() {
            list.push(piece.word()?);
        } else if wants_word {
            return None;
        }
        wants_word = piece.separates();
    }
    (!wants_word).then_some(list)
}

/// At least one word, and nothing else.
fn words(pieces: &[Piece]) -> Option<Vec<String>> {
    let words: Option<Vec<String>> = pieces.iter().map(Piece::word).collect();
    words.filter(|words| !words.is_empty())
}

/// The words of a time, which are one quote or all without quotes.
fn time(pieces: &[Piece]) -> Option<String> {
    let words = words(pieces)?;
    match pieces {
        [Piece { kind: Kind::Quoted, .. }] => {
            Some(words[0].split_ascii_whitespace().collect::<Vec<_>>().join(" "))
        }
        _ if pieces.iter().all(|piece| piece.kind == Kind::Bare) => Some(words.join(" ")),
        _ => None,
    }
}

/// Conditions with `and` between them.
fn conditions(pieces: &[Piece]) -> Option<Vec<Condition>> {
    pieces.split(|piece| piece.keyword() == Some("and")).map(condition).collect()
}

fn condition(pieces: &[Piece]) -> Option<Condition> {
    let length = length_of_path(pieces)?;
    let (first, path) = (pieces.first()?, path(&pieces[..length])?);
    let is_operator = |name| first.kind == Kind::Bare && first.text.eq_ignore_ascii_case(name);
    if is_operator("contains") || is_operator("exists") {
        return None;
    }
    let (op, value) = match &pieces[length..] {
        [op] if op.kind == Kind::Bare && op.text.eq_ignore_ascii_case("exists") => (op, None),
        [op, value] => (op, Some(value.value()?)),
        _ => return None,
    };
    let op = match (op.kind, op.text.to_ascii_lowercase()) {
        (Kind::Bare, op) if op == "contains" || op == "exists" => op,
        (Kind::Sign, op) if ["=", "!=", "<", "<=", ">", ">="].contains(&&*op) => op,
        _ => return None,
    };
    (value.is_none() == (op == "exists")).then_some(Condition { path, op, value })
}

/// How many pieces are the path: those that a dot joins without a blank.
fn length_of_path(pieces: &[Piece]) -> Option<usize> {
    let (first, rest) = pieces.split_first()?;
    let mut ends_with_dot = first.kind == Kind::Bare && first.text.ends_with('.');
    let joined = rest.iter().take_while(|piece| {
        let is_joined = match piece.kind {
            Kind::Quoted => ends_with_dot,
            Kind::Bare => !ends_with_dot && piece.text.starts_with('.'),
            Kind::Sign => false,
        };
        ends_with_dot = piece.kind == Kind::Bare && piece.text.ends_with('.');
        is_joined && piece.is_glued
    });
    Some(1 + joined.count())
}

fn path(pieces: &[Piece]) -> Option<Vec<String>> {
    let mut keys: Vec<String> = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        let (is_first, is_last) = (i == 0, i + 1 == pieces.len());
        if piece.kind != Kind::Bare {
            keys.push(piece.word()?);
            continue;
        }
        let text = piece.word()?;
        // One dot alone joins two quotes, and is no key between them.
        if text == "." && !is_first && !is_last {
            continue;
        }
        let text = if is_first { &text } else { text.strip_prefix('.')? };
        let text = if is_last { text } else { text.strip_suffix('.')? };
        keys.extend(text.split('.').map(str::to_owned));
    }
    if pieces[0].kind == Kind::Bare && keys.len() > 1 && keys[0] == "attributes" {
        keys.remove(0);
    }
    keys.iter().all(|key| !key.is_empty()).then_some(keys)
}

// ---- pieces ----

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Bare,
    Quoted,
    /// A comma, a semicolon, or some of the characters of operators.
    Sign,
}

#[derive(Debug)]
struct Piece {
    kind: Kind,
    /// Without quotes and escapes.
    text: String,
    start: usize,
    /// Whether nothing lies between it and the piece before.
    is_glued: bool,
}

/// Every keyword in each of its forms, and the form that stands for all.
const KEYWORDS: [(&str, &str); 17] = [
    ("is", "is"),
    ("are", "is"),
    ("of", "of"),
    ("from", "of"),
    ("by", "by"),
    ("via", "by"),
    ("since", "since"),
    ("until", "until"),
    ("on", "on"),
    ("between", "between"),
    ("over", "over"),
    ("where", "where"),
    ("so", "so"),
    ("therefore", "so"),
    ("and", "and"),
    ("or", "or"),
    ("not", "not"),
];

impl Piece {
    fn keyword(&self) -> Option<&'static str> {
        let is_it = |(form, _): &&(&str, &str)| self.text.eq_ignore_ascii_case(form);
        let (_, keyword) = KEYWORDS.iter().find(is_it).filter(|_| self.kind == Kind::Bare)?;
        Some(keyword)
    }

    fn opens_clause(&self) -> bool {
        self.keyword().is_some_and(|keyword| !["and", "or", "not"].contains(&keyword))
    }

    fn separates(&self) -> bool {
        matches!(self.keyword(), Some("and" | "or"))
            || (self.kind == Kind::Sign && [",", ";"].contains(&&*self.text))
    }

    fn word(&self) -> Option<String> {
        let is_word = self.kind != Kind::Sign && self.keyword().is_none();
        is_word.then(|| self.text.clone())
    }

    fn value(&self) -> Option<Value> {
        let word = self.word()?;
        if self.kind == Kind::Quoted {
            return Some(Value::String(word));
        }
        match &*word.to_ascii_lowercase() {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            "null" => Some(Value::Null),
            _ => serde_json::from_str(&word).ok().filter(Value::is_number),
        }
    }
}

/// The pieces of a text; `None` if a character of it fits nowhere.
fn pieces(text: &str) -> Option<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut at, mut end, mut is_after_so) = (0, 0, false);
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if first.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        let (kind, length, piece) = if first == '\'' || first == '"' {
            let (length, inside) = quote(rest, first)?;
            (Kind::Quoted, length, inside)
        } else {
            let kind = kind(first, is_after_so)?;
            let others = rest.chars().skip(1).take_while(|c| goes_on(first, *c, is_after_so));
            let length = first.len_utf8() + others.map(char::len_utf8).sum::<usize>();
            (kind, length, rest[..length].to_owned())
        };
        let is_glued = at == end && at > 0;
        pieces.push(Piece { kind, text: piece, start: at, is_glued });
        is_after_so |= pieces.last()?.keyword() == Some("so");
        at += length;
        end = at;
    }
    Some(pieces)
}

/// What a piece that begins so is.
fn kind(first: char, is_after_so: bool) -> Option<Kind> {
    if is_after_so || (is_bare(first) && first != '#') {
        Some(Kind::Bare)
    } else if is_operator(first) || [',', ';'].contains(&first) {
        Some(Kind::Sign)
    } else {
        None
    }
}

/// Whether this character goes on with a piece that begins so.
fn goes_on(first: char, c: char, is_after_so: bool) -> bool {
    if is_after_so {
        !c.is_ascii_whitespace() && c != '\'' && c != '"'
    } else {
        (is_bare(first) && is_bare(c)) || (is_operator(first) && is_operator(c))
    }
}

fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-.:@/+#".contains(c) || !c.is_ascii()
}

fn is_operator(c: char) -> bool {
    "=!<>".contains(c)
}

/// The length of a quote, and what stands in it, which is something.
fn quote(text: &str, mark: char) -> Option<(usize, String)> {
    let mut inside = String::new();
    let mut chars = text.char_indices().skip(1);
    loop {
        match chars.next()? {
            (at, c) if c == mark => {
                return (!inside.is_empty()).then_some((at + 1, inside));
            }
            (_, '\\') => {
                let (_, escaped) = chars.next()?;
                inside.push(Some(escaped).filter(|c| ['\'', '"', '\\'].contains(c))?);
            }
            (_, c) => inside.push(c),
        }
    }
}
