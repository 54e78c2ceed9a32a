//! The `where` clause: conditions with `and` between them.

use std::borrow::Cow;

use smallvec::smallvec;

use crate::attribute::{Comparison, Literal, Op, Path, ROOT};
use crate::lex::{Keyword, Kind, Lexeme};

use super::Parser;
use super::complaints::*;

/// What an element of the clause is called.
const CONDITION: &str = "condition";

impl<'a> Parser<'_, 'a> {
    pub(super) fn conditions(&mut self, opened: Lexeme) {
        let (mut has_any, mut and) = (false, None);
        while !self.here.ends_clause() {
            if self.is_joint() {
                self.dangling(self.here);
                self.bump();
                continue;
            }
            has_any = true;
            self.condition(opened);
            and = self.joint();
        }
        match and {
            Some(and) => self.dangling(and),
            None if !has_any => self.missing(opened, "", CONDITION),
            None => {}
        }
    }

    /// Reads what stands between two conditions; an `and` that should.
    fn joint(&mut self) -> Option<Lexeme> {
        let joint = Some(self.here).filter(|_| self.is_joint())?;
        self.bump();
        if joint.is_keyword(Keyword::And) {
            return Some(joint);
        }
        self.mistakes.push(no_joint(self.text(joint), joint));
        None
    }

    fn is_joint(&self) -> bool {
        matches!(self.here.kind, Kind::Separator | Kind::Keyword(Keyword::And | Keyword::Or))
    }

    /// Whether a condition ends here.
    fn ends_condition(&self) -> bool {
        self.here.ends_clause() || self.is_joint()
    }

    /// Reads a condition, and all before the next one.
    fn condition(&mut self, opened: Lexeme) {
        let first = self.here;
        let is_sound = self.comparison(opened).is_some();
        if is_sound && !self.ends_condition() {
            match self.here.kind {
                Kind::Wildcard | Kind::Pipe | Kind::Unclosed => self.pass_over(CONDITION),
                _ => self.mistakes.push(no_joint(self.text(self.here), self.here)),
            }
            self.bump();
        }
        while !self.ends_condition() {
            self.pass_over(CONDITION);
            self.bump();
        }
        if is_sound {
            self.counts(first);
        }
    }

    /// Reads a path, its operator and its value, up to the first mistake. What was read goes into its
    /// place at once, because it is large.
    fn comparison(&mut self, opened: Lexeme) -> Option<()> {
        let path = self.path()?;
        let op = self.op(opened, &path)?;
        let value = match op {
            Op::Exists => None,
            _ => Some(self.value(opened, op)?),
        };
        self.query.conditions.push(Comparison { path, op, value });
        Some(())
    }

    fn op(&mut self, opened: Lexeme, path: &Path<'_>) -> Option<Op> {
        if self.ends_condition() {
            let expected = format!("=, !=, <, <=, >, >=, contains or exists after {path}");
            self.incomplete(opened, expected);
            return None;
        }
        let text = self.text(self.here);
        let op = match self.here.kind {
            Kind::Operator => {
                Op::SIGNS.into_iter().find(|(sign, _)| *sign == text).map(|(_, op)| op)
            }
            Kind::Word => word_op(text),
            _ => None,
        };
        match op {
            Some(_) => self.bump(),
            None => self.unexpected_in_condition(no_operator(text, self.here)),
        }
        op
    }

    fn value(&mut self, opened: Lexeme, op: Op) -> Option<Literal<'a>> {
        if self.ends_condition() {
            self.incomplete(opened, format!("a value after \"{}\"", op.sign()));
            return None;
        }
        let text = self.text(self.here);
        let value = match self.here.kind {
            Kind::Quoted | Kind::Escaped => self.quoted(self.here).map(Literal::Text),
            Kind::Word => {
                let value = Literal::read(text);
                if value.is_none() {
                    self.mistakes.push(no_value(text, self.here));
                }
                value
            }
            _ => {
                self.unexpected_in_condition(no_value(text, self.here));
                return None;
            }
        };
        self.bump();
        value
    }

    fn incomplete(&mut self, opened: Lexeme, expected: String) {
        let found = self.text(self.here);
        self.mistakes.push(incomplete_condition(self.text(opened), opened, expected, found));
    }

    /// Notes a piece that does not fit, with the mistake that it is anywhere, if it is one.
    fn unexpected_in_condition(&mut self, mistake: crate::Mistake) {
        match self.here.kind {
            Kind::Wildcard | Kind::Pipe | Kind::Unclosed => self.pass_over(CONDITION),
            _ => self.mistakes.push(mistake),
        }
        self.bump();
    }

    /// Reads a path: keys with dots between them, some perhaps quoted.
    fn path(&mut self) -> Option<Path<'a>> {
        let first = self.here;
        let text = self.text(first);
        match first.kind {
            Kind::Word if word_op(text).is_some() => {
                self.unexpected_in_condition(no_path(text, first));
                return None;
            }
            // Most are a single key.
            Kind::Word if !text.contains('.') => {
                self.bump();
                return Some(Path(smallvec![Cow::Borrowed(text)]));
            }
            Kind::Word | Kind::Quoted | Kind::Escaped => {}
            Kind::Keyword(_) => {
                self.unexpected_in_condition(not_in_where(text, first));
                return None;
            }
            _ => {
                self.unexpected_in_condition(no_path(text, first));
                return None;
            }
        }
        let mut path = PathSoFar { path: Path::default(), wants_key: true };
        let mut is_sound = true;
        while path.goes_on(self.here, self.text(self.here), self.passed, first) {
            is_sound &= match self.here.kind {
                Kind::Quoted | Kind::Escaped => match self.quoted(self.here) {
                    Some(key) => path.key(key),
                    None => return self.broken_path(),
                },
                _ => path.keys(self.text(self.here)),
            };
            self.bump();
        }
        if !is_sound || path.wants_key {
            let span = Lexeme::new(Kind::Word, first.start(), self.passed);
            self.mistakes.push(no_path(self.text(span), span));
            return None;
        }
        Some(path.without_root(text))
    }

    /// Goes on after a key that was noted as wrong.
    fn broken_path(&mut self) -> Option<Path<'a>> {
        self.bump();
        None
    }
}

/// A path while its pieces come in.
struct PathSoFar<'a> {
    path: Path<'a>,
    /// Whether it ends with a dot, or has not begun.
    wants_key: bool,
}

impl<'a> PathSoFar<'a> {
    /// Whether the piece belongs to it: nothing lies between, and a dot parts it from the key before.
    fn goes_on(&self, piece: Lexeme, text: &str, passed: usize, first: Lexeme) -> bool {
        if piece == first {
            return true;
        }
        let is_quote = matches!(piece.kind, Kind::Quoted | Kind::Escaped);
        let is_word = piece.kind == Kind::Word;
        piece.start() == passed
            && if self.wants_key { is_quote } else { is_word && text.starts_with('.') }
    }

    fn key(&mut self, key: Cow<'a, str>) -> bool {
        self.path.0.push(key);
        self.wants_key = false;
        true
    }

    /// Takes a piece without quotes, which may hold several keys; whether each has a name.
    fn keys(&mut self, text: &'a str) -> bool {
        let inner = if self.wants_key { text } else { &text[1..] };
        let mut is_sound = true;
        let mut keys = inner.split('.').peekable();
        while let Some(key) = keys.next() {
            let is_last = keys.peek().is_none();
            if key.is_empty() && is_last {
                self.wants_key = true;
                return is_sound;
            }
            is_sound &= !key.is_empty();
            self.key(Cow::Borrowed(key));
        }
        is_sound
    }

    /// `attributes.` before a path means nothing more, unless it is quoted.
    fn without_root(mut self, first: &str) -> Path<'a> {
        if self.path.0.len() > 1 && first.split('.').next() == Some(ROOT) {
            self.path.0.remove(0);
        }
        self.path
    }
}

fn word_op(word: &str) -> Option<Op> {
    [Op::Contains, Op::Exists].into_iter().find(|op| word.eq_ignore_ascii_case(op.sign()))
}
