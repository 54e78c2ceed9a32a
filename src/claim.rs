//! The words of `axwatch as`: one claim as people write it, with every mistake and its place.
//!
//! `ALICE BOB is author of GitHub by HR on 2024-01-15`: the words of a question, but a claim says and
//! does not ask, so each clause stands at most once, words stay as they are written, and what only a
//! question has (`not`, `where`, `since`, `so` …) is a mistake.
//!
//! Not here: what fills the gaps of a claim (`axwatch_model::Draft`), what a question means
//! (`axwatch_query`).

use std::fmt;
use std::ops::Range;

use axwatch_model::Timestamp;
use axwatch_query::Moment;

/// A claim as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claim {
    /// Words before the first clause.
    pub subjects: Vec<String>,
    /// Words after `is`.
    pub predicates: Vec<String>,
    /// Words after `of`.
    pub contexts: Vec<String>,
    /// Words after `by`.
    pub actors: Vec<String>,
    /// The time after `on`.
    pub on: Option<Timestamp>,
}

/// Something in a claim that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mistake {
    /// Bytes of the text; empty where something is missing.
    span: Range<usize>,
    /// What is wrong.
    reason: String,
    /// What would be right.
    suggestion: Option<String>,
}

/// Every mistake of one claim, in order of place, shown with its places underlined.
///
/// Invariant: at least one mistake, each within `text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidClaim {
    text: String,
    mistakes: Vec<Mistake>,
}

impl InvalidClaim {
    /// What is wrong, as one line.
    pub fn one_line(&self) -> String {
        let lines: Vec<_> =
            self.mistakes.iter().map(|m| format!("at {}: {}", m.span.start, m.reason)).collect();
        lines.join("; ")
    }
}

/// The claim, a line that underlines each place, and beneath it each reason with its suggestion.
impl fmt::Display for InvalidClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String =
            self.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let columns = |at: usize| self.text[..at].chars().count();
        let mut marks: Vec<char> = Vec::new();
        for mistake in &self.mistakes {
            let from = columns(mistake.span.start);
            let to = columns(mistake.span.end).max(from + 1);
            marks.resize(marks.len().max(to), ' ');
            marks[from..to].fill('^');
        }
        write!(f, "this is no claim\n  {shown}\n  {}", marks.iter().collect::<String>())?;
        for mistake in &self.mistakes {
            write!(f, "\n  {}", mistake.reason)?;
            if let Some(suggestion) = &mistake.suggestion {
                write!(f, "\n    try: {suggestion}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for InvalidClaim {}

/// The text that command-line words make: one is the whole text, and of several each that holds a
/// blank counts as quoted.
pub fn text_of(words: &[String]) -> String {
    if let [whole] = words {
        return whole.clone();
    }
    let quoted = |word: &String| {
        if !word.is_empty() && !word.contains(char::is_whitespace) {
            return word.clone();
        }
        format!("'{}'", word.replace('\\', r"\\").replace('\'', r"\'"))
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Reads a claim. `now` is what its relative times are told from.
///
/// # Errors
/// [`InvalidClaim`], with every mistake.
pub fn parse(text: &str, now: Timestamp) -> Result<Claim, InvalidClaim> {
    let (tokens, mistakes) = lex(text);
    let mut reader =
        Reader { text, now, claim: Claim::default(), mistakes, list: List::subjects() };
    if let Some(words) = three_bare_words(&tokens) {
        reader.claim = words;
    } else {
        reader.read(&tokens);
    }
    let mut mistakes = reader.mistakes;
    if mistakes.is_empty() {
        return Ok(reader.claim);
    }
    mistakes.sort_by_key(|mistake| mistake.span.start);
    Err(InvalidClaim { text: text.to_owned(), mistakes })
}

/// A piece of a claim.
#[derive(Debug, Clone)]
struct Token {
    kind: Kind,
    span: Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// A word without quotes.
    Bare(String),
    /// A word in quotes, without them.
    Quoted(String),
    /// A comma or semicolon.
    Separator,
}

/// Exactly three bare words are subject, predicate and context.
fn three_bare_words(tokens: &[Token]) -> Option<Claim> {
    let plain = |token: &Token| match &token.kind {
        Kind::Bare(word) if Keyword::of(word).is_none() => Some(vec![word.clone()]),
        _ => None,
    };
    let [subject, predicate, context] = tokens else { return None };
    Some(Claim {
        subjects: plain(subject)?,
        predicates: plain(predicate)?,
        contexts: plain(context)?,
        ..Claim::default()
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keyword {
    Is,
    Of,
    By,
    On,
    /// `and`, `or`: between two words of one list.
    Between,
    /// A word that only a question has.
    Question,
}

impl Keyword {
    fn of(word: &str) -> Option<Keyword> {
        Some(match word.to_ascii_lowercase().as_str() {
            "is" | "are" => Keyword::Is,
            "of" | "from" => Keyword::Of,
            "by" | "via" => Keyword::By,
            "on" => Keyword::On,
            "and" | "or" => Keyword::Between,
            "not" | "where" | "since" | "until" | "between" | "over" | "so" | "therefore" => {
                Keyword::Question
            }
            _ => return None,
        })
    }
}

/// The list of words that is being read.
struct List {
    /// The keyword that opened it and its place; subjects have none.
    clause: Option<(Keyword, Range<usize>)>,
    words: Vec<(String, Range<usize>)>,
    /// A separator that waits for its second word.
    separator: Option<Range<usize>>,
}

impl List {
    fn subjects() -> List {
        List { clause: None, words: Vec::new(), separator: None }
    }

    fn is_time(&self) -> bool {
        matches!(self.clause, Some((Keyword::On, _)))
    }
}

struct Reader<'a> {
    text: &'a str,
    now: Timestamp,
    claim: Claim,
    mistakes: Vec<Mistake>,
    list: List,
}

impl Reader<'_> {
    fn read(&mut self, tokens: &[Token]) {
        let mut seen = Vec::new();
        for token in tokens {
            let keyword = match &token.kind {
                Kind::Quoted(word) => {
                    self.word(word, &token.span);
                    continue;
                }
                Kind::Separator => Some(Keyword::Between),
                Kind::Bare(word) => Keyword::of(word),
            };
            match keyword {
                None => self.word(&self.text[token.span.clone()], &token.span),
                Some(Keyword::Between) => self.separator(&token.span),
                Some(Keyword::Question) => {
                    self.question(&token.span);
                    return;
                }
                Some(clause) => {
                    self.close();
                    if seen.contains(&clause) {
                        let reason = format!("the clause {:?} stands twice", self.at(&token.span));
                        let suggestion = "put all its words behind the first one".to_owned();
                        self.mistake(&token.span, reason, Some(suggestion));
                    }
                    seen.push(clause);
                    self.list.clause = Some((clause, token.span.clone()));
                }
            }
        }
        self.close();
    }

    fn at(&self, span: &Range<usize>) -> String {
        self.text[span.clone()].to_owned()
    }

    fn mistake(&mut self, span: &Range<usize>, reason: String, suggestion: Option<String>) {
        self.mistakes.push(Mistake { span: span.clone(), reason, suggestion });
    }

    fn word(&mut self, word: &str, span: &Range<usize>) {
        self.list.separator = None;
        self.list.words.push((word.to_owned(), span.clone()));
    }

    fn separator(&mut self, span: &Range<usize>) {
        if self.list.words.is_empty() || self.list.separator.is_some() || self.list.is_time() {
            let reason = format!("{:?} may only stand between two words", self.at(span));
            let suggestion = format!("leave it out, or quote it: '{}'", self.at(span));
            self.mistake(span, reason, Some(suggestion));
        }
        self.list.separator = Some(span.clone());
    }

    fn question(&mut self, span: &Range<usize>) {
        // Right after a clause's keyword it is the one mistake, not also a missing word.
        if !self.list.words.is_empty() {
            self.close();
        }
        let word = self.at(span);
        let reason = format!("a claim has no {word:?}: that asks, and a claim says");
        self.mistake(span, reason, Some(format!("to mean the word itself, quote it: '{word}'")));
    }

    /// Ends the list that is open and puts its words where they belong.
    fn close(&mut self) {
        let list = std::mem::replace(&mut self.list, List::subjects());
        if let (Some(dangling), false) = (&list.separator, list.words.is_empty()) {
            let reason = format!("a word is missing after {:?}", self.at(dangling));
            self.mistake(dangling, reason, None);
        }
        let (keyword, place) = match &list.clause {
            None => (None, 0..0),
            Some((keyword, place)) => (Some(*keyword), place.clone()),
        };
        if list.words.is_empty() {
            let what = match keyword {
                None => "at least one subject is needed",
                Some(Keyword::Is) => "a predicate is missing here",
                Some(Keyword::Of) => "a context is missing here",
                Some(Keyword::By) => "an actor is missing here",
                Some(_) => "a time is missing here",
            };
            self.mistake(&place, what.to_owned(), None);
            return;
        }
        if list.is_time() {
            self.time(&list.words);
            return;
        }
        let words = list.words.into_iter().map(|(word, _)| word);
        match keyword {
            None => self.claim.subjects.extend(words),
            Some(Keyword::Is) => self.claim.predicates.extend(words),
            Some(Keyword::Of) => self.claim.contexts.extend(words),
            Some(_) => self.claim.actors.extend(words),
        }
    }

    fn time(&mut self, words: &[(String, Range<usize>)]) {
        let text = words.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join(" ");
        match moment(&text, self.now) {
            Ok(time) => self.claim.on = Some(time),
            Err(reason) => {
                let first = words.first().map_or(0, |(_, span)| span.start);
                let last = words.last().map_or(0, |(_, span)| span.end);
                let forms = "a time such as 2024-01-15, 2024-01-15T14:30:00Z, now, today, yesterday or `3 days ago`";
                self.mistake(&(first..last), reason, Some(forms.to_owned()));
            }
        }
    }
}

/// The moment that the words after `on` name: any time of AX, at this now.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let moment =
        Moment::read(text).ok_or_else(|| format!("{text:?} is no time that a claim can have"))?;
    let time = moment.at(now.ms()).and_then(|ms| Timestamp::from_ms(ms).ok());
    time.ok_or_else(|| format!("{text:?} lies outside the years 0 to 9999"))
}

/// Splits a claim into its pieces, with the mistakes in their spelling.
fn lex(text: &str) -> (Vec<Token>, Vec<Mistake>) {
    let (mut tokens, mut mistakes) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, end) = match c {
            _ if c.is_ascii_whitespace() => (None, at + c.len_utf8()),
            '\'' | '"' => quoted(text, at, c, &mut mistakes),
            ',' | ';' => (Some(Kind::Separator), at + 1),
            _ if begins_bare(c) => {
                let length = rest.find(|c| !continues_bare(c)).unwrap_or(rest.len());
                (Some(Kind::Bare(rest[..length].to_owned())), at + length)
            }
            _ => {
                let stray =
                    |c: char| !begins_bare(c) && !c.is_ascii_whitespace() && !"'\",;".contains(c);
                let length = rest.find(|c| !stray(c)).unwrap_or(rest.len());
                mistakes.push(Mistake {
                    span: at..at + length,
                    reason: format!("{:?} cannot stand outside quotes", &rest[..length]),
                    suggestion: Some("put the whole word into quotes".to_owned()),
                });
                // It stands where a word should, so that it is not also told to be missing.
                (Some(Kind::Quoted(rest[..length].to_owned())), at + length)
            }
        };
        if let Some(kind) = token {
            tokens.push(Token { kind, span: at..end });
        }
        at = end;
    }
    (tokens, mistakes)
}

fn begins_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-.:@/+".contains(c) || !c.is_ascii()
}

fn continues_bare(c: char) -> bool {
    begins_bare(c) || c == '#'
}

/// A word in quotes that begins at `start`, and where it ends.
fn quoted(
    text: &str,
    start: usize,
    mark: char,
    mistakes: &mut Vec<Mistake>,
) -> (Option<Kind>, usize) {
    let mut word = String::new();
    let mut chars = text[start + 1..].char_indices();
    while let Some((offset, c)) = chars.next() {
        let at = start + 1 + offset;
        match c {
            '\\' => match chars.next() {
                Some((_, escaped @ ('\'' | '"' | '\\'))) => word.push(escaped),
                Some((_, other)) => mistakes.push(Mistake {
                    span: at..at + 1 + other.len_utf8(),
                    reason: format!(
                        "\\{other} is no escape; in quotes there are \\', \\\" and \\\\"
                    ),
                    suggestion: Some(r"to mean a backslash, write \\".to_owned()),
                }),
                None => {}
            },
            _ if c == mark => {
                if word.is_empty() {
                    mistakes.push(Mistake {
                        span: start..at + 1,
                        reason: "there is nothing between these quotes".to_owned(),
                        suggestion: None,
                    });
                }
                return (Some(Kind::Quoted(word)), at + 1);
            }
            _ => word.push(c),
        }
    }
    mistakes.push(Mistake {
        span: start..text.len(),
        reason: format!("this quote is not closed: {mark} is missing"),
        suggestion: None,
    });
    (Some(Kind::Quoted(word)), text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2024-05-15T14:30:00.250Z".parse().unwrap()
    }

    fn claim(subjects: &[&str], predicates: &[&str], contexts: &[&str], actors: &[&str]) -> Claim {
        let owned = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect();
        Claim {
            subjects: owned(subjects),
            predicates: owned(predicates),
            contexts: owned(contexts),
            actors: owned(actors),
            on: None,
        }
    }

    #[test]
    fn a_claim_is_read_as_it_is_written() {
        let cases = [
            ("ALICE", claim(&["ALICE"], &[], &[], &[])),
            ("alice Author GitHub", claim(&["alice"], &["Author"], &["GitHub"], &[])),
            ("alice author", claim(&["alice", "author"], &[], &[], &[])),
            ("a, b; c", claim(&["a", "b", "c"], &[], &[], &[])),
            ("'a' b c", claim(&["a", "b", "c"], &[], &[], &[])),
            (
                "ALICE and BOB ARE author, editor from GitHub via hr",
                claim(&["ALICE", "BOB"], &["author", "editor"], &["GitHub"], &["hr"]),
            ),
            ("by x is y of z", claim(&[], &[], &[], &[])),
            (
                r#"'New York' is "it's \"big\"" of 'is'"#,
                claim(&["New York"], &["it's \"big\""], &["is"], &[]),
            ),
        ];
        for (text, expected) in cases {
            match parse(text, now()) {
                Ok(found) => assert_eq!(found, expected, "{text}"),
                Err(error) => {
                    assert_eq!(expected.subjects, Vec::<String>::new(), "{text}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_time_is_read_in_the_forms_that_a_claim_has() {
        let cases = [
            ("now", "2024-05-15T14:30:00.250Z"),
            ("TODAY", "2024-05-15T00:00:00Z"),
            ("yesterday", "2024-05-14T14:30:00.250Z"),
            ("tomorrow", "2024-05-16T14:30:00.250Z"),
            ("2 days ago", "2024-05-13T14:30:00.250Z"),
            ("90 min ago", "2024-05-15T13:00:00.250Z"),
            ("90m", "2024-05-15T13:00:00.250Z"),
            ("in 2 days", "2024-05-17T14:30:00.250Z"),
            ("last week", "2024-05-08T14:30:00.250Z"),
            ("last friday", "2024-05-10T14:30:00.250Z"),
            ("2024-01-15", "2024-01-15T00:00:00Z"),
            ("2024/01/15", "2024-01-15T00:00:00Z"),
            ("2024-01-15T14:30", "2024-01-15T14:30:00Z"),
            ("2024-01-15T14:30:05.123", "2024-01-15T14:30:05.123Z"),
            ("2024-01-15T14:30+02:00", "2024-01-15T12:30:00Z"),
            ("'2024-01-15 14:30:00Z'", "2024-01-15T14:30:00Z"),
        ];
        for (words, expected) in cases {
            let found = parse(&format!("x is y on {words}"), now()).unwrap().on.unwrap();
            assert_eq!(found.to_string(), expected, "{words}");
        }
    }

    #[test]
    fn what_is_no_claim_is_shown_with_its_place() {
        let cases = [
            ("", 0, "at least one subject"),
            ("is y", 0, "at least one subject"),
            ("x is", 2, "a predicate is missing"),
            ("x is y of", 7, "a context is missing"),
            ("x is y is z", 7, "stands twice"),
            ("x is not y", 5, "has no \"not\""),
            ("x is y where a = 1", 7, "has no \"where\""),
            ("x is y since yesterday", 7, "has no \"since\""),
            ("x is y so notify", 7, "has no \"so\""),
            ("x is y on someday", 10, "no time that a claim can have"),
            ("x is y on 3 fortnights ago", 10, "no time that a claim can have"),
            ("x is y on 99999999999 years ago", 10, "outside the years"),
            ("x is y on 2024-13-01", 10, "no time that a claim can have"),
            ("x is y on 2024-01-1é", 10, "no time that a claim can have"),
            ("x is y,", 6, "a word is missing"),
            ("and x", 0, "between two words"),
            ("x is 'y", 5, "not closed"),
            ("x is ''", 5, "nothing between"),
            (r"x is 'a\nb'", 7, "no escape"),
            ("x is y*", 6, "outside quotes"),
        ];
        for (text, place, reason) in cases {
            let error = parse(text, now()).unwrap_err();
            let first = &error.mistakes[0];
            assert_eq!(first.span.start, place, "{text}: {error}");
            assert!(first.reason.contains(reason), "{text}: {:?}", first.reason);
            assert!(error.to_string().contains('^'), "{text}");
        }
    }

    #[test]
    fn a_word_with_a_blank_counts_as_quoted() {
        let cases: [(&[&str], &str); 4] = [
            (&["ALICE is author"], "ALICE is author"),
            (&["ALICE", "is", "very good"], "ALICE is 'very good'"),
            (&["ALICE", "is", "it's so"], r"ALICE is 'it\'s so'"),
            (&["a", ""], "a ''"),
        ];
        for (words, text) in cases {
            let words: Vec<_> = words.iter().map(|&w| w.to_owned()).collect();
            assert_eq!(text_of(&words), text);
        }
    }
}
