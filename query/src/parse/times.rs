//! The temporal clauses: `since`, `until`, `on`, `between` and `over`.
//!
//! A time without quotes is as many words as read as one; what is left over is a mistake of its own.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

use crate::ast::{Temporal, Time};
use crate::lex::{Keyword, Kind, Lexeme};
use crate::over::{Lack, Over};
use crate::time::{self, Moment, Point};

use super::complaints::*;
use super::{Parser, Purpose};

/// What an element of a temporal clause is called.
const TEMPORAL: &str = "temporal";

/// Some words of a temporal clause, their place, and what they were read as.
struct Words<'a, T> {
    /// With single blanks, without quotes.
    text: Cow<'a, str>,
    span: Range<usize>,
    value: Option<T>,
}

/// How words are read: those of a quote, or some that stand side by side without quotes.
trait Reader {
    type Value;
    /// The most words that make sense together.
    const WORDS_MAX: usize;
    fn read(words: &[&str], is_quoted: bool) -> Option<Self::Value>;
}

/// A time, which has a form with a blank that needs quotes.
struct OfTime;

impl Reader for OfTime {
    type Value = Point;
    const WORDS_MAX: usize = time::WORDS_MAX;

    fn read(words: &[&str], is_quoted: bool) -> Option<Point> {
        time::read(words).or_else(|| time::read_spaced(words).filter(|_| is_quoted))
    }
}

/// A length of time: a number with its unit, or a number and a unit.
struct OfOver;

impl Reader for OfOver {
    type Value = Over;
    const WORDS_MAX: usize = 2;

    fn read(words: &[&str], _is_quoted: bool) -> Option<Over> {
        match words {
            [word] => Over::read(word).ok(),
            words => Over::read(&words.join(" ")).ok(),
        }
    }
}

impl<'a> Parser<'_, 'a> {
    pub(super) fn time_clause(&mut self, keyword: Keyword, opened: Lexeme) {
        let time = self.time(opened);
        self.left_over(opened);
        let Some((time, span)) = time else { return };
        let can_be = match keyword {
            Keyword::Since => self.can_be(&time, &span, time.point.starts()),
            Keyword::Until => self.can_be(&time, &span, time.point.ends()),
            _ => self.can_be_a_day(&time, &span),
        };
        if can_be {
            let temporal = match keyword {
                Keyword::Since => Temporal::Since(time),
                Keyword::Until => Temporal::Until(time),
                _ => Temporal::On(time),
            };
            self.keep(opened, temporal);
        }
    }

    pub(super) fn between(&mut self, opened: Lexeme) {
        let start = self.time(opened);
        let has_and = self.here.is_keyword(Keyword::And);
        let end = if has_and {
            let and = self.here;
            self.bump();
            let end = self.time(and);
            self.left_over(opened);
            end
        } else {
            self.missing_and(start.is_some());
            None
        };
        let start = start.filter(|(time, span)| self.can_be(time, span, time.point.starts()));
        let end = end.filter(|(time, span)| self.can_be(time, span, time.point.ends()));
        if let (Some((start, _)), Some((end, _))) = (start, end) {
            self.keep(opened, Temporal::Between(start, end));
        }
    }

    /// What follows the first time of `between` instead of `and`.
    fn missing_and(&mut self, has_start: bool) {
        // Where the first time is missing as well, that alone is told.
        if has_start || !self.here.ends_clause() {
            let place = match self.here.kind {
                Kind::End => Lexeme::new(Kind::End, self.passed, self.passed),
                _ => self.here,
            };
            self.mistakes.push(missing_and(self.text(place), place));
        }
        self.pass_over_clause();
    }

    pub(super) fn over(&mut self, opened: Lexeme) {
        let words = self.words::<OfOver>(opened);
        self.left_over(opened);
        let Some(words) = words else { return };
        match words.value {
            Some(over) => self.keep(opened, Temporal::Over { words: words.text, over }),
            None => {
                // What does not read in parts does not as a whole.
                let lack = Over::read(&words.text).err().unwrap_or(Lack::Unit);
                self.mistakes.push(lacking(&words.text, words.span, lack));
            }
        }
    }

    /// A temporal clause without a mistake of its own.
    fn keep(&mut self, opened: Lexeme, temporal: Temporal<'a>) {
        self.query.temporal.push(temporal);
        self.time_clauses.push((opened, self.passed));
    }

    /// Reads a time; what stands there is noted if it is none.
    fn time(&mut self, opened: Lexeme) -> Option<(Time<'a>, Range<usize>)> {
        let words = self.words::<OfTime>(opened)?;
        match words.value {
            Some(point) => Some((Time { words: words.text, point }, words.span)),
            None => {
                self.unresolvable(&words.text, &words.span, A_TIME);
                None
            }
        }
    }

    fn unresolvable(&mut self, expr: &str, span: &Range<usize>, expected: &str) {
        let mistake = unresolvable(expr, span.clone(), expected);
        let words: Vec<&str> = expr.split(' ').collect();
        self.mistakes.push(match time::suggestion(&words) {
            Some(meant) if meant != expr && expected == A_TIME => mistake.suggest(meant),
            _ => mistake,
        });
    }

    /// Whether the time can be reckoned: at the now of a question, else at any.
    fn can_be(&mut self, time: &Time<'_>, span: &Range<usize>, moment: Moment) -> bool {
        let can_be = match self.purpose {
            Purpose::Question { now_ms } => moment.at(now_ms).is_some(),
            Purpose::Any | Purpose::Watcher => moment.can_be(),
        };
        if !can_be {
            self.unresolvable(&time.words, span, "a time within the years 0 to 9999");
        }
        can_be
    }

    fn can_be_a_day(&mut self, time: &Time<'_>, span: &Range<usize>) -> bool {
        match time.point.day() {
            Some((start, end)) => self.can_be(time, span, start) && self.can_be(time, span, end),
            None => {
                let expected = "a day: a date without a time, today, yesterday, tomorrow or a weekday such as last monday";
                self.unresolvable(&time.words, span, expected);
                false
            }
        }
    }

    /// Reads the words of a time or of a length of time.
    fn words<R: Reader>(&mut self, opened: Lexeme) -> Option<Words<'a, R::Value>> {
        let mut is_missing = true;
        loop {
            match self.here.kind {
                Kind::Word => return Some(self.bare_words::<R>()),
                Kind::Quoted | Kind::Escaped => {
                    let (span, text) = (self.here.span(), self.quoted(self.here));
                    self.bump();
                    let text = single_blanks(text?);
                    let value = quoted_words::<R>(&text);
                    return Some(Words { text, span, value });
                }
                Kind::Keyword(Keyword::And) if opened.is_keyword(Keyword::Between) => break,
                Kind::Separator | Kind::Keyword(Keyword::And | Keyword::Or) => {
                    self.dangling(self.here);
                }
                Kind::Keyword(Keyword::Not) => {
                    is_missing = false;
                    let (text, here) = (self.text(self.here), self.here);
                    self.mistakes.push(unexpected(text, here, A_TIME));
                }
                _ if self.here.ends_clause() => break,
                _ => {
                    is_missing = false;
                    self.misfit();
                }
            }
            self.bump();
        }
        if is_missing {
            self.missing(opened, "", TEMPORAL);
        }
        None
    }

    fn bare_words<R: Reader>(&mut self) -> Words<'a, R::Value> {
        let first = self.here;
        self.bump();
        if self.here.kind == Kind::Word {
            return self.several_words::<R>(first);
        }
        let text = self.text(first);
        Words { text: Cow::Borrowed(text), span: first.span(), value: R::read(&[text], false) }
    }

    /// Reads as many words as make sense together, or if none do takes all that stand side by side.
    fn several_words<R: Reader>(&mut self, first: Lexeme) -> Words<'a, R::Value> {
        let mut lexemes: SmallVec<[Lexeme; 4]> = SmallVec::from_iter([first]);
        while self.here.kind == Kind::Word {
            lexemes.push(self.here);
            self.bump();
        }
        let texts: SmallVec<[&str; 4]> = lexemes.iter().map(|word| self.text(*word)).collect();
        let most = texts.len().min(R::WORDS_MAX);
        let longest = (1..=most)
            .rev()
            .find_map(|count| Some((count, Some(R::read(&texts[..count], false)?))));
        let (count, value) = longest.unwrap_or((texts.len(), None));
        let last = lexemes[count - 1];
        if count < lexemes.len() {
            self.lexer.go_to(last.end());
            self.here = last;
            self.bump();
        }
        let span = first.start()..last.end();
        let gaps = lexemes[..count].windows(2).map(|pair| pair[0].end()..pair[1].start());
        let text = if gaps.map(|gap| self.lexer.slice(gap)).all(|gap| gap == " ") {
            Cow::Borrowed(self.lexer.slice(span.clone()))
        } else {
            Cow::Owned(texts[..count].join(" "))
        };
        Words { text, span, value }
    }

    /// Notes the first piece after a time that is complete, and passes over the others.
    fn left_over(&mut self, opened: Lexeme) {
        if !self.here.ends_clause() {
            match self.here.kind {
                Kind::Wildcard | Kind::Pipe | Kind::Unclosed => self.misfit(),
                _ => {
                    let (text, here) = (self.text(self.here), self.here);
                    self.mistakes.push(left_over(text, here, self.text(opened)));
                }
            }
            self.bump();
        }
        self.pass_over_clause();
    }

    fn pass_over_clause(&mut self) {
        while !self.here.ends_clause() {
            self.pass_over(TEMPORAL);
            self.bump();
        }
    }

    fn misfit(&mut self) {
        let (text, here) = (self.text(self.here), self.here);
        match here.kind {
            Kind::Stray | Kind::Operator => self.mistakes.push(unexpected(text, here, A_TIME)),
            _ => self.pass_over(TEMPORAL),
        }
    }

    // ---- the clauses together ----

    /// Looks whether the temporal clauses leave a moment, and whether `over` may be here.
    pub(super) fn check_times(&mut self) {
        match self.query.temporal.as_slice() {
            // One bound leaves a moment, and so does one day.
            [] | [Temporal::Since(_) | Temporal::Until(_) | Temporal::On(_)] => return,
            _ => self.check_over(),
        }
        let clauses = 1..=self.query.temporal.len();
        let Some(why) = self.why_empty(*clauses.end()) else { return };
        // More clauses leave no more moments, so the first that left none can be searched for.
        let counts: Vec<usize> = clauses.collect();
        let first = counts.partition_point(|&count| self.why_empty(count).is_none());
        let (opened, end) = self.time_clauses[first];
        let text = self.lexer.slice(opened.start()..end);
        let is_alone = self.query.temporal.len() == 1;
        self.mistakes.push(empty_range(text, opened.start(), why, is_alone));
    }

    /// Why the first so many clauses leave no moment, if they leave none.
    fn why_empty(&self, count: usize) -> Option<&'static str> {
        let bounds = || self.query.temporal[..count].iter().map(Temporal::bounds);
        let starts: Moments = bounds().filter_map(|(start, _)| start).collect();
        let ends: Moments = bounds().filter_map(|(_, end)| end).collect();
        let Purpose::Question { now_ms } = self.purpose else {
            let can_hold = time::can_hold(&starts, &ends);
            return (!can_hold).then_some("these leave none, whatever now is");
        };
        // What cannot be reckoned has been noted.
        let start = starts.iter().filter_map(|start| start.at(now_ms)).max()?;
        let end = ends.iter().filter_map(|end| end.at(now_ms)).min()?;
        (start > end).then_some("at present the first lies after the last")
    }

    fn check_over(&mut self) {
        let is_over = |temporal: &Temporal<'_>| matches!(temporal, Temporal::Over { .. });
        let overs = self.query.temporal.iter().zip(&self.time_clauses);
        let overs: SmallVec<[Lexeme; 2]> = overs
            .filter(|(temporal, _)| is_over(temporal))
            .map(|(_, (opened, _))| *opened)
            .collect();
        let has_range = overs.len() < self.query.temporal.len();
        for (i, over) in overs.into_iter().enumerate() {
            let text = self.text(over);
            if self.purpose == Purpose::Watcher {
                self.mistakes.push(over_in_watcher(text, over));
            } else if has_range || i > 0 {
                self.mistakes.push(over_beside_another(text, over));
            }
        }
    }
}

/// Bounds of one side.
type Moments = SmallVec<[Moment; 2]>;

fn quoted_words<R: Reader>(text: &str) -> Option<R::Value> {
    let words: SmallVec<[&str; 4]> = text.split(' ').collect();
    R::read(&words, true)
}

/// The words of a quote with single blanks between them.
fn single_blanks(text: Cow<'_, str>) -> Cow<'_, str> {
    let words = || text.split_ascii_whitespace();
    let length = words().map(|word| word.len() + 1).sum::<usize>();
    if length == text.len() + 1 && !has_other_blanks(&text) {
        return text;
    }
    Cow::Owned(words().collect::<Vec<_>>().join(" "))
}

fn has_other_blanks(text: &str) -> bool {
    text.bytes().any(|byte| byte != b' ' && byte.is_ascii_whitespace())
}
