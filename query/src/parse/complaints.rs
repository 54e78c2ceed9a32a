//! Mistakes in words: what was expected, what was found, and what may have been meant.

use std::ops::Range;

use crate::error::{Mistake, MistakeKind, near};
use crate::lex::{Keyword, Lexeme};
use crate::over::{Lack, UNIT_NAMES};
use crate::{Dimension, Op, Query, time};

use super::{QUERY_BYTES_MAX, QUERY_TERMS_MAX};

/// What stands in the place of a time, in a message.
pub(super) const A_TIME: &str = "a time such as 2024-01-15, 2024-01-15T14:30Z, yesterday, last monday, 3 days ago, in 2 weeks or 90m";

pub(super) fn empty_query(end: usize) -> Mistake {
    Mistake::new(MistakeKind::EmptyQuery, 0..end, "at least one word", "")
}

pub(super) fn too_long(text: &str) -> Mistake {
    let span = text.floor_char_boundary(QUERY_BYTES_MAX)..text.len();
    let (expected, found) =
        (format!("at most {QUERY_BYTES_MAX} bytes"), format!("{} bytes", text.len()));
    Mistake::new(MistakeKind::TooLong, span, expected, found)
}

pub(super) fn too_many_terms(lexeme: Lexeme) -> Mistake {
    let expected = format!("at most {QUERY_TERMS_MAX} words");
    Mistake::new(MistakeKind::TooManyTerms, lexeme.span(), expected, "one more")
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with('a') { "an" } else { "a" };
    format!("{article} {noun}")
}

fn quote_it(text: &str) -> String {
    format!("to mean the word itself, quote it: '{text}'")
}

pub(super) fn unexpected(text: &str, lexeme: Lexeme, expected: impl Into<String>) -> Mistake {
    Mistake::new(MistakeKind::UnexpectedToken, lexeme.span(), expected, text)
}

/// `next` is the keyword that ends the clause, if one does.
pub(super) fn missing_element(
    keyword: &str,
    opened: Lexeme,
    not: &str,
    element: &'static str,
    next: Option<&str>,
) -> Mistake {
    let noun = if element == "temporal" { "time" } else { element };
    let expected = format!("{} after \"{keyword}{not}\"", with_article(noun));
    let found = next.unwrap_or_default();
    let mistake = Mistake::new(MistakeKind::MissingElement, opened.span(), expected, found)
        .lacks(keyword, element);
    match next {
        Some(next) => mistake.suggest(quote_it(next)),
        None => mistake,
    }
}

pub(super) fn clause_after_so(text: &str, keyword: Lexeme) -> Mistake {
    unexpected(text, keyword, "only actions after so")
        .suggest(format!("put this clause before so; to mean the word itself, quote it: '{text}'"))
}

pub(super) fn keyword_among_actions(text: &str, lexeme: Lexeme) -> Mistake {
    unexpected(text, lexeme, "only actions after so")
        .suggest(format!("leave it out, or quote it: '{text}'"))
}

pub(super) fn misplaced_not(text: &str, lexeme: Lexeme, dimension: Dimension) -> Mistake {
    let clause = match dimension {
        Dimension::Subject => None,
        Dimension::Predicate => Some("is not …"),
        Dimension::Context => Some("of not …"),
        Dimension::Actor => Some("by not …"),
    };
    let mistake = unexpected(text, lexeme, "not only right after is, of or by");
    let quoted = quote_it(text);
    mistake.suggest(match clause {
        Some(clause) => {
            format!("write what to exclude as a clause of its own: {clause}; {quoted}")
        }
        None => quoted,
    })
}

pub(super) fn dangling(text: &str, separator: Lexeme) -> Mistake {
    unexpected(text, separator, "a word on both sides")
        .suggest(format!("leave it out, or quote it: '{text}'"))
}

pub(super) fn empty_literal(text: &str, lexeme: Lexeme) -> Mistake {
    let expected = "at least one character between the quotes";
    Mistake::new(MistakeKind::EmptyLiteral, lexeme.span(), expected, text)
}

pub(super) fn unknown_escape(escape: &str, start: usize) -> Mistake {
    let span = start..start + escape.len();
    Mistake::new(MistakeKind::UnexpectedToken, span, r#"\', \" or \\ in quotes"#, escape)
        .suggest(r"to mean a backslash, write \\")
}

pub(super) fn unterminated(text: &str, lexeme: Lexeme) -> Mistake {
    let mark = if text.starts_with('"') { '"' } else { '\'' };
    let other = if mark == '"' { '\'' } else { '"' };
    let expected = format!("a closing {mark}");
    Mistake::new(MistakeKind::UnterminatedQuote, lexeme.span(), expected, text)
        .suggest(format!("close the quote, or quote a word that holds a {mark} with {other}"))
}

/// `field` is an element's name: of a list, where leaving out means any, or `temporal` or `condition`.
pub(super) fn wildcard(text: &str, lexeme: Lexeme, field: &'static str) -> Mistake {
    let suggestion = match field {
        "subject" => {
            "to match any subject, leave all out; to mean the character, quote the word".to_owned()
        }
        "predicate" | "context" | "actor" => format!(
            "to match any {field}, leave the clause out; to mean the character, quote the word"
        ),
        _ => "to mean the character, quote the word".to_owned(),
    };
    let noun = if field == "temporal" { "time" } else { field };
    Mistake::new(MistakeKind::Wildcard, lexeme.span(), with_article(noun), text)
        .within(field)
        .suggest(suggestion)
}

pub(super) fn pipe(text: &str, lexeme: Lexeme, field: &str) -> Mistake {
    let is_list = !matches!(field, "temporal" | "condition");
    let (expected, suggestion) = if is_list {
        (
            "a blank or \"or\" between two words",
            "leave it out: a list means any of its words; or quote the word",
        )
    } else {
        ("no |, which only a quoted word can hold", "leave it out, or quote the word")
    };
    Mistake::new(MistakeKind::Pipe, lexeme.span(), expected, text).suggest(suggestion)
}

/// A character that fits nothing. An operator makes it likely that `where` was meant.
pub(super) fn stray(text: &str, lexeme: Lexeme, field: &str, query: &Query<'_>) -> Mistake {
    let mistake = unexpected(text, lexeme, with_article(field));
    if !text.contains(['=', '<', '>']) {
        return mistake.suggest("quote a word that holds other characters");
    }
    match near_where(query) {
        Some(word) => mistake.suggest(format!("where instead of {word}")),
        None => mistake.suggest("put a condition after where"),
    }
}

/// A word that looks like a misspelt `where`, among the last ones.
fn near_where<'a>(query: &'a Query<'_>) -> Option<&'a str> {
    const WORDS_LOOKED_AT: usize = 8;
    Dimension::ALL
        .into_iter()
        .flat_map(|dimension| query.any(dimension).iter().rev().take(WORDS_LOOKED_AT))
        .map(|word| &**word)
        .find(|word| near(word, &["where"]).is_some())
}

/// A word after something that was complete without it.
pub(super) fn left_over(text: &str, lexeme: Lexeme, keyword: &str) -> Mistake {
    let expected = format!("a clause or the end after the time of {keyword}");
    let mistake = unexpected(text, lexeme, expected);
    match near(text, &Keyword::CLAUSES) {
        Some(keyword) => mistake.suggest(format!("{keyword} instead of {text}")),
        None if time::is_clock(text) => mistake.suggest("put a date with a blank in it in quotes"),
        None if text.eq_ignore_ascii_case("and") => {
            mistake.suggest("between … and … has two times; another clause needs no and")
        }
        None => mistake,
    }
}

pub(super) fn missing_and(text: &str, lexeme: Lexeme) -> Mistake {
    let expected = "and, and the second time of between";
    let mistake = Mistake::new(MistakeKind::MissingAnd, lexeme.span(), expected, text);
    match near(text, &["and"]) {
        Some(_) => mistake.suggest(format!("and instead of {text}")),
        None => mistake.suggest("write between TIME and TIME"),
    }
}

pub(super) fn unresolvable(expr: &str, span: Range<usize>, expected: &str) -> Mistake {
    Mistake::new(MistakeKind::TemporalUnresolvable, span, expected, expr).of_time(expr)
}

pub(super) fn lacking(expr: &str, span: Range<usize>, lack: Lack) -> Mistake {
    let (kind, expected) = match lack {
        Lack::Number => {
            (MistakeKind::MissingNumber, "a number before the unit, such as 5y or 1.5 months")
        }
        Lack::Unit => {
            (MistakeKind::MissingUnit, "a unit after the number: y, mo, w or d, or the word for it")
        }
    };
    let mistake = Mistake::new(kind, span, expected, expr).of_time(expr);
    let unit = expr.trim_start_matches(|c: char| !c.is_alphabetic());
    let names = UNIT_NAMES.map(|(name, _)| name);
    match near(unit, &names) {
        Some(name) if name != unit => mistake.suggest(format!("{name} instead of {unit}")),
        _ => mistake,
    }
}

/// `is_alone`: whether the clause is the only one about time, and so contradicts itself.
pub(super) fn empty_range(text: &str, start: usize, why: &str, is_alone: bool) -> Mistake {
    let expected = format!("times that leave a moment ({why})");
    let span = start..start + text.len();
    Mistake::new(MistakeKind::EmptyTimeRange, span, expected, text).suggest(if is_alone {
        "put the earlier time first"
    } else {
        "time clauses all have to hold; leave one out"
    })
}

pub(super) fn over_beside_another(text: &str, lexeme: Lexeme) -> Mistake {
    unexpected(text, lexeme, "over alone, without another time clause")
        .suggest("leave out the one or the other")
}

pub(super) fn over_in_watcher(text: &str, lexeme: Lexeme) -> Mistake {
    unexpected(
        text,
        lexeme,
        "no over in a watcher, which is asked about one claim at a time and has no sum to hold it against",
    )
    .suggest("ask it as a question: axwatch ax")
}

pub(super) fn no_operator(text: &str, lexeme: Lexeme) -> Mistake {
    let mistake = unexpected(text, lexeme, "=, !=, <, <=, >, >=, contains or exists");
    let words = [Op::Contains.sign(), Op::Exists.sign()];
    let meant = match text {
        "==" | "===" | "is" => Some("="),
        "<>" | "=!" | "!" => Some("!="),
        "=<" => Some("<="),
        "=>" => Some(">="),
        _ => near(text, &words),
    };
    match meant {
        Some(meant) => mistake.suggest(format!("{meant} instead of {text}")),
        None => mistake,
    }
}

pub(super) fn no_value(text: &str, lexeme: Lexeme) -> Mistake {
    let mistake = unexpected(text, lexeme, "a number, a text in quotes, true, false or null");
    match near(text, &["true", "false", "null"]) {
        Some(value) => mistake.suggest(format!("{value} instead of {text}")),
        None => mistake.suggest(format!("to mean the text, quote it: \"{text}\"")),
    }
}

pub(super) fn no_path(text: &str, lexeme: Lexeme) -> Mistake {
    unexpected(text, lexeme, "the name of an attribute, with a dot before each inner one")
        .suggest(format!("quote a name that holds other characters: '{text}'"))
}

pub(super) fn incomplete_condition(
    keyword: &str,
    opened: Lexeme,
    expected: String,
    found: &str,
) -> Mistake {
    Mistake::new(MistakeKind::MissingElement, opened.span(), expected, found)
        .lacks(keyword, "condition")
}

pub(super) fn no_joint(text: &str, lexeme: Lexeme) -> Mistake {
    let mistake = unexpected(text, lexeme, "and between two conditions, or the next clause");
    if text.eq_ignore_ascii_case("or") {
        return mistake.suggest("conditions all have to hold; make a watcher or question of each");
    }
    let words: Vec<&str> = Keyword::CLAUSES.into_iter().chain(["and"]).collect();
    match near(text, &words) {
        Some(meant) => mistake.suggest(format!("{meant} instead of {text}")),
        None => mistake.suggest("put and before the next condition"),
    }
}

pub(super) fn not_in_where(text: &str, lexeme: Lexeme) -> Mistake {
    unexpected(text, lexeme, "a condition, which has no not")
        .suggest(format!("write != instead of =; {}", quote_it(text)))
}
