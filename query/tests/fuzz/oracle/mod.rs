//! What has to hold for any text at all, asked of the parser: the same of the random texts of this
//! folder and of those that the fuzz target in `fuzz/` is fed with.
//!
//! - Nothing panics, and nothing takes long.
//! - A text that parses holds nothing but what its query says, each word in one place: it reads as
//!   [`plain::read`] reads it. So nothing was lost, and nothing became wider in silence.
//! - What is printed parses to the same query. Bounds hold.
//! - A text that does not parse has its mistakes told with their places, and is one that the plain
//!   reading refuses as well, times aside. With those places taken out, what is left is read as itself.
//! - A watcher's and a question's text are read alike, but for `over` and for what depends on now.

pub mod plain;

use std::time::{Duration, Instant};

use axwatch_model::Timestamp;
use axwatch_query::{
    Comparison, Dimension, Mistake, MistakeKind, Mistakes, QUERY_BYTES_MAX, QUERY_TERMS_MAX, Query,
    Temporal, parse, parse_at, parse_watcher,
};
use plain::Plain;

/// What was seen of a text for which all holds.
#[derive(Debug)]
pub struct Seen {
    /// The kinds of its mistakes; none if it parsed.
    pub mistakes: Vec<MistakeKind>,
    /// How long one parse took.
    pub took: Duration,
}

/// The promise that a text breaks, in words.
type Broken = String;

/// Some nows: the cases' own, the first and the last that there are.
const NOWS_MS: [i64; 3] = [1_718_461_800_000, i64::MIN, i64::MAX];

/// How long one parse may take, an optimised build on a busy machine allowed for. The worst texts take
/// some milliseconds.
const PARSE_MAX: Duration = Duration::from_millis(100);

/// Asks everything of one text.
///
/// # Errors
/// What does not hold.
pub fn check(text: &str) -> Result<Seen, Broken> {
    let start = Instant::now();
    let parsed = parse(text);
    let took = time_to_parse(text, start.elapsed())?;
    let mistakes = match parsed {
        Ok(query) => {
            check_query(text, &query)?;
            Vec::new()
        }
        Err(mistakes) => {
            check_mistakes(text, &mistakes)?;
            mistakes.all().iter().map(|mistake| mistake.kind).collect()
        }
    };
    Ok(Seen { mistakes, took })
}

/// Other work on the machine may hold up one parse, but hardly each of several.
fn time_to_parse(text: &str, took: Duration) -> Result<Duration, Broken> {
    const TRIES: usize = 5;
    let mut quickest = took;
    for _ in 0..TRIES {
        if quickest <= PARSE_MAX {
            return Ok(quickest);
        }
        let start = Instant::now();
        drop(parse(text));
        quickest = quickest.min(start.elapsed());
    }
    Err(format!("takes {quickest:?} to parse"))
}

fn ensure(holds: bool, broken: impl FnOnce() -> Broken) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(broken()) }
}

// ---- texts that parse ----

fn check_query(text: &str, query: &Query<'_>) -> Result<(), Broken> {
    let plain = check_meaning(text, query)?;
    ensure(text.len() <= QUERY_BYTES_MAX && plain.terms() <= QUERY_TERMS_MAX, || {
        format!("{} bytes with {} terms parse", text.len(), plain.terms())
    })?;
    check_print(query)?;
    check_watcher_of_query(text, query)?;
    for now in NOWS_MS.map(Timestamp::from_ms_clamped) {
        check_question_of_query(text, query, now)?;
    }
    check_misfit(text, &plain)
}

/// Holds the query to the plain reading of its text.
fn check_meaning(text: &str, query: &Query<'_>) -> Result<Plain, Broken> {
    let plain = plain::read(text).ok_or("parses, though it has a mistake")?;
    let same_words = Dimension::ALL.into_iter().all(|dimension| {
        let place = dimension.index();
        query.any(dimension) == plain.any[place] && query.none(dimension) == plain.none[place]
    });
    let same_times = query.temporal.len() == plain.times.len()
        && query.temporal.iter().zip(&plain.times).all(|(temporal, (keyword, words))| {
            words_of(temporal) == (*keyword, words.iter().map(String::as_str).collect())
        });
    let same_conditions = query.conditions.len() == plain.conditions.len()
        && query.conditions.iter().zip(&plain.conditions).all(is_same_condition);
    let same_actions = *query.so_actions == *plain.actions;
    ensure(same_words && same_times && same_conditions && same_actions, || {
        format!("means {query:?} and says {plain:?}")
    })?;
    Ok(plain)
}

fn words_of<'q>(temporal: &'q Temporal<'_>) -> (&'static str, Vec<&'q str>) {
    match temporal {
        Temporal::Since(time) => ("since", vec![time.words()]),
        Temporal::Until(time) => ("until", vec![time.words()]),
        Temporal::On(time) => ("on", vec![time.words()]),
        Temporal::Between(start, end) => ("between", vec![start.words(), end.words()]),
        Temporal::Over { words, .. } => ("over", vec![words]),
    }
}

fn is_same_condition((condition, plain): (&Comparison<'_>, &plain::Condition)) -> bool {
    *condition.path.0 == *plain.path
        && condition.op.sign() == plain.op
        && condition.value.as_ref().map(|value| value.to_value()) == plain.value
}

/// What is printed is the same query, and prints as the same.
fn check_print(query: &Query<'_>) -> Result<(), Broken> {
    let printed = query.to_string();
    // Blanks that the author left out may make a print longer than a query may be.
    if printed.len() > QUERY_BYTES_MAX {
        return Ok(());
    }
    let again = parse(&printed).map_err(|mistakes| format!("prints as {printed:?}: {mistakes}"))?;
    let same_print = again.to_string() == printed;
    ensure(again == *query && same_print && json(query) == json(&again), || {
        format!("prints as {printed:?}, which is {again:?} instead of {query:?}")
    })
}

fn json(query: &Query<'_>) -> String {
    let now = Timestamp::from_ms_clamped(NOWS_MS[0]);
    serde_json::to_string(&query.at(now)).expect("a query is always JSON")
}

/// A watcher is read in the same way, and has no `over`.
fn check_watcher_of_query(text: &str, query: &Query<'_>) -> Result<(), Broken> {
    match (parse_watcher(text), query.over()) {
        (Ok(watcher), None) => {
            ensure(watcher == *query, || format!("means {watcher:?} as a watcher"))
        }
        (Err(mistakes), Some(_)) => {
            let is_over = |mistake: &Mistake| is_over(text, mistake);
            ensure(mistakes.all().iter().all(is_over), || format!("as a watcher: {mistakes}"))
        }
        (Ok(_), Some(_)) => Err("is a watcher with over".to_owned()),
        (Err(mistakes), None) => Err(format!("is no watcher: {mistakes}")),
    }
}

fn is_over(text: &str, mistake: &Mistake) -> bool {
    mistake.kind == MistakeKind::UnexpectedToken
        && text[mistake.span.clone()].eq_ignore_ascii_case("over")
}

/// A question is read in the same way, unless its times make no sense at that now.
fn check_question_of_query(text: &str, query: &Query<'_>, now: Timestamp) -> Result<(), Broken> {
    let question = match parse_at(text, now) {
        Ok(question) => question,
        Err(mistakes) => {
            let of_now = [MistakeKind::TemporalUnresolvable, MistakeKind::EmptyTimeRange];
            let is_of_now = |mistake: &Mistake| of_now.contains(&mistake.kind);
            let all = mistakes.all().iter().all(is_of_now) && !query.temporal.is_empty();
            return ensure(all, || format!("at {now}: {mistakes}"));
        }
    };
    ensure(question == *query, || format!("means {question:?} at {now}"))?;
    let parsed = serde_json::to_value(question.at(now)).expect("a query is always JSON");
    let temporal = &parsed["temporal"];
    let [start, end] = ["start_ms", "end_ms"].map(|key| temporal[key].as_i64());
    let has_bounds = temporal.is_null() || temporal["kind"] == "over" || start.or(end).is_some();
    let is_range = start.is_none_or(|start| end.is_none_or(|end| start <= end));
    ensure(has_bounds && is_range, || format!("has the range {temporal} at {now}"))
}

/// With something in it that fits nowhere, the text is not a query any more.
fn check_misfit(text: &str, plain: &Plain) -> Result<(), Broken> {
    let misfits = ["* ", " | ", "(", "= = ", " , or ", "'' "];
    // A place by chance, and the same for the same text.
    let chance = text.bytes().fold(0, |sum: usize, byte| sum.wrapping_mul(31) + usize::from(byte));
    let Some(at) = plain.starts.get(chance % plain.starts.len().max(1)) else { return Ok(()) };
    let misfit = misfits[chance % misfits.len()];
    let spoilt = [&text[..*at], misfit, &text[*at..]].concat();
    ensure(parse(&spoilt).is_err(), || format!("still parses as {spoilt:?}"))
}

// ---- texts that do not ----

fn check_mistakes(text: &str, mistakes: &Mistakes) -> Result<(), Broken> {
    for mistake in mistakes.all() {
        check_place(text, mistake)?;
    }
    ensure(mistakes.all().is_sorted_by_key(Mistake::position), || {
        format!("has mistakes out of order: {mistakes}")
    })?;
    check_bounds(text, mistakes)?;
    check_refusal(text, mistakes)?;
    check_words(text, mistakes)?;
    check_others_refuse(text, mistakes)?;
    check_mended(text, mistakes)
}

/// The place of a mistake is one of the text, and what was found is what stands there.
fn check_place(text: &str, mistake: &Mistake) -> Result<(), Broken> {
    let Some(there) = text.get(mistake.span.clone()) else {
        return Err(format!("has a mistake out of place: {mistake:?}"));
    };
    let found = mistake.found.as_str();
    let is_there = match mistake.kind {
        // What lacks something is told with what stands in its place, further on.
        MistakeKind::MissingElement => {
            let after = &text[mistake.span.end..];
            let keyword = mistake.keyword.as_deref();
            keyword.is_some_and(|keyword| there.eq_ignore_ascii_case(keyword))
                && mistake.element.is_some()
                && after.contains(found)
        }
        MistakeKind::TemporalUnresolvable
        | MistakeKind::MissingNumber
        | MistakeKind::MissingUnit => single_blanks(there) == found,
        MistakeKind::EmptyQuery => found.is_empty() && there == text,
        MistakeKind::TooLong | MistakeKind::TooManyTerms => !found.is_empty(),
        _ => found == there,
    };
    let is_told = !mistake.expected.is_empty() && mistake.suggestion.as_deref() != Some("");
    ensure(is_there && is_told, || format!("has {mistake:?} at {there:?}"))
}

/// The words of a time as a mistake tells them: without quotes and escapes.
fn single_blanks(time: &str) -> String {
    let mut inside = String::new();
    match time.strip_prefix(['\'', '"']) {
        Some(rest) => {
            let mut chars = rest[..rest.len() - 1].chars();
            while let Some(c) = chars.next() {
                inside.extend(if c == '\\' { chars.next() } else { Some(c) });
            }
        }
        None => inside.push_str(time),
    }
    inside.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn check_bounds(text: &str, mistakes: &Mistakes) -> Result<(), Broken> {
    let count = |kind| mistakes.all().iter().filter(|mistake| mistake.kind == kind).count();
    let is_long = text.len() > QUERY_BYTES_MAX;
    let holds = (count(MistakeKind::TooLong) == usize::from(is_long))
        && (!is_long || mistakes.all().len() == 1)
        && count(MistakeKind::TooManyTerms) <= 1
        && mistakes.all().len() <= text.len() + 1;
    ensure(holds, || format!("breaks its bounds with {mistakes}"))
}

/// What is refused has a mistake in the plain reading, too, or in a time.
fn check_refusal(text: &str, mistakes: &Mistakes) -> Result<(), Broken> {
    let Some(plain) = plain::read(text) else { return Ok(()) };
    let is_of_time = |mistake: &Mistake| {
        matches!(
            mistake.kind,
            MistakeKind::TemporalUnresolvable
                | MistakeKind::EmptyTimeRange
                | MistakeKind::MissingAnd
                | MistakeKind::MissingNumber
                | MistakeKind::MissingUnit
                | MistakeKind::UnexpectedToken
        )
    };
    let holds = !plain.times.is_empty() && mistakes.all().iter().all(is_of_time);
    ensure(holds, || format!("is refused for {mistakes}, and says {plain:?}"))
}

/// Mistakes are told in lines, in a picture and in JSON.
fn check_words(text: &str, mistakes: &Mistakes) -> Result<(), Broken> {
    let (line, picture) = (mistakes.to_string(), mistakes.render(text));
    let is_plain = |text: &str| !text.contains(char::is_control);
    ensure(is_plain(&line) && picture.lines().all(is_plain), || format!("is told as {picture:?}"))?;
    for mistake in mistakes.all() {
        let reason = mistake.to_string();
        ensure(picture.contains(&reason), || format!("has {reason:?} missing in {picture}"))?;
    }
    let json = serde_json::to_value(mistakes).expect("mistakes are always JSON");
    let all = json["errors"].as_array().map_or(0, Vec::len);
    ensure(all == mistakes.all().len() && json["error"] == json["errors"][0]["error"], || {
        format!("is {json} as data")
    })
}

/// Nobody else takes what is no query: a watcher has the same mistakes, `over` aside.
fn check_others_refuse(text: &str, mistakes: &Mistakes) -> Result<(), Broken> {
    let Err(of_watcher) = parse_watcher(text) else {
        return Err(format!("is a watcher, and no query: {mistakes}"));
    };
    let aside_over = |mistakes: &Mistakes| -> Vec<Mistake> {
        mistakes.all().iter().filter(|mistake| !is_over(text, mistake)).cloned().collect()
    };
    ensure(aside_over(mistakes) == aside_over(&of_watcher), || {
        format!("has {mistakes}; and as a watcher {of_watcher}")
    })?;
    let now = Timestamp::from_ms_clamped(NOWS_MS[0]);
    ensure(parse_at(text, now).is_err(), || format!("is a question, and no query: {mistakes}"))
}

/// With the places of its mistakes taken out, what is left means what it says, no less.
fn check_mended(text: &str, mistakes: &Mistakes) -> Result<(), Broken> {
    const ROUNDS: usize = 4;
    let mut text = without_places(text, mistakes);
    for _ in 0..ROUNDS {
        let mended = match parse(&text) {
            Ok(query) => {
                let told = check_meaning(&text, &query).map(drop);
                return told.map_err(|broken| format!("mended to {text:?} {broken}"));
            }
            Err(mistakes) => without_places(&text, &mistakes),
        };
        text = mended;
    }
    Ok(())
}

fn without_places(text: &str, mistakes: &Mistakes) -> String {
    let mut left = String::with_capacity(text.len());
    let mut at = 0;
    for mistake in mistakes.all() {
        let (start, end) = (mistake.span.start.max(at), mistake.span.end.max(at));
        left.push_str(&text[at..start]);
        left.push(' ');
        at = end;
    }
    left + &text[at..]
}
