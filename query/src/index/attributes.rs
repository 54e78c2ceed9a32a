//! Conditions on attributes as terms, so that they can stand in keys beside those of the dimensions.
//!
//! A condition that one look-up decides is a term: that a value is there (`exists`), that it is this one
//! (`=`), or that it is a number on one side of another (`<`, `<=`, `>`, `>=`) or between two, whose
//! bounds are kept elsewhere ([`super::ranges`]). A term names the number of a path and what is asked there. An
//! attestation's terms are those of the values at paths that somebody asks about ([`super::values`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Number, Value};
use smallvec::SmallVec;

use crate::attribute::AttributeTest;
use crate::filter::Test;
use crate::{Filter, Op};

use super::paths::PathId;
use super::ranges;
use super::spans::Span;

/// Deeper than any value can lie (`ATTRIBUTES_DEPTH_MAX`).
const KEYS_MAX: usize = axwatch_model::bounds::ATTRIBUTES_DEPTH_MAX;

/// How a condition may be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// By the value itself.
    Equal,
    /// By there being one.
    Exists,
    /// By the bounds below a number.
    Above,
    /// By the bounds above a number.
    Below,
    /// By the bounds on both sides of a number.
    Between,
}

impl Asked {
    /// How many there are.
    pub(super) const COUNT: usize = 5;
    /// All, the most selective first.
    pub(super) const ALL: [Asked; Asked::COUNT] =
        [Asked::Equal, Asked::Between, Asked::Above, Asked::Below, Asked::Exists];

    /// How this condition by itself may be found; `None` if only by asking it.
    pub(super) fn of(test: &AttributeTest) -> Option<Asked> {
        if test.keys().len() > KEYS_MAX {
            return None;
        }
        match (test.op, &test.value) {
            (Op::Exists, _) => Some(Asked::Exists),
            (Op::Equal, _) => Some(Asked::Equal),
            (Op::Greater | Op::AtLeast, Value::Number(_)) => Some(Asked::Above),
            (Op::Less | Op::AtMost, Value::Number(_)) => Some(Asked::Below),
            _ => None,
        }
    }

    /// Whether it leads to bounds that have to be verified, and not to watchers.
    pub(super) fn is_range(self) -> bool {
        matches!(self, Asked::Above | Asked::Below | Asked::Between)
    }
}

/// A condition, or several on one number, by which a watcher may be found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Findable<'f> {
    pub(super) test: &'f AttributeTest,
    pub(super) asked: Asked,
    /// Where the number has to be, if a range is asked for: bounds as the nearest doubles, both within.
    pub(super) span: Option<Span>,
}

impl Findable<'_> {
    /// Those among the conditions of a filter. What bounds one number is told of several times.
    pub(super) fn of(filter: &Filter) -> SmallVec<[Findable<'_>; 2]> {
        let tests = filter.tests().iter().filter_map(|test| match test {
            Test::Attribute(test) => Some((&**test, Asked::of(test)?)),
            _ => None,
        });
        let spans = Bounds::of(tests.clone());
        tests
            .map(|(test, asked)| {
                let span = asked.is_range().then(|| spans.get(test)).flatten();
                // No bound of a number is at an end of all numbers.
                let is_bound = |span: &Span| span.start != 0 && span.end != u64::MAX;
                let asked =
                    if span.as_ref().is_some_and(is_bound) { Asked::Between } else { asked };
                Findable { test, asked, span }
            })
            .collect()
    }
}

/// Where numbers have to be, by their paths.
enum Bounds<'f> {
    One(Option<Span>),
    Some(BTreeMap<&'f [Box<str>], Span>),
}

impl<'f> Bounds<'f> {
    fn of(tests: impl Iterator<Item = (&'f AttributeTest, Asked)> + Clone) -> Bounds<'f> {
        let mut ranges = tests.filter(|(_, asked)| asked.is_range());
        let all = Span { start: 0, end: u64::MAX };
        if ranges.clone().nth(1).is_none() {
            return Bounds::One(ranges.next().map(|(test, asked)| bounded(all, test, asked)));
        }
        let mut spans = BTreeMap::new();
        for (test, asked) in ranges {
            let span = spans.entry(test.keys()).or_insert(all);
            *span = bounded(*span, test, asked);
        }
        Bounds::Some(spans)
    }

    fn get(&self, test: &AttributeTest) -> Option<Span> {
        match self {
            Bounds::One(span) => *span,
            Bounds::Some(spans) => spans.get(test.keys()).copied(),
        }
    }
}

fn bounded(span: Span, test: &AttributeTest, asked: Asked) -> Span {
    let bound = ranges::ordered(nearest(&test.value));
    match asked {
        Asked::Above => Span { start: span.start.max(bound), ..span },
        _ => Span { end: span.end.min(bound), ..span },
    }
}

/// The text of a condition's term, written over what `text` held: two conditions have the same just if they ask
/// for the same.
pub(super) fn write_term(text: &mut String, path: PathId, asked: Asked, value: &Value) {
    text.clear();
    let sign = match asked {
        Asked::Equal => '=',
        Asked::Exists => '?',
        Asked::Above => '>',
        Asked::Below => '<',
        Asked::Between => '-',
    };
    let written = write!(text, "{path}{sign}");
    let written = written.and_then(|()| match (asked, value) {
        (Asked::Equal, Value::Number(number)) => match exact(number) {
            Exact::Whole(whole) => write!(text, "{whole}"),
            // The letter keeps it apart from whole numbers: half of all bits have none in hex.
            Exact::Double(bits) => write!(text, "x{bits:x}"),
        },
        (Asked::Equal, Value::String(value)) => write!(text, "'{value}"),
        (Asked::Equal, value) => write!(text, "{value}"),
        _ => Ok(()),
    });
    written.expect("a string takes any text");
}

/// A number, the same for all that are equal, whole or not; 2 and 2.0 are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Exact {
    Whole(i128),
    /// The bits of one that is not whole, or beyond all whole ones.
    Double(u64),
}

pub(super) fn exact(number: &Number) -> Exact {
    /// Above all whole numbers that JSON has here, so that no double from here on equals one.
    const WHOLE_END: f64 = u64::MAX as f64;
    let double = number.as_f64().unwrap_or_default();
    match number.as_i128() {
        Some(whole) => Exact::Whole(whole),
        None if double.fract() == 0.0 && double.abs() < WHOLE_END => Exact::Whole(double as i128),
        None => Exact::Double(double.to_bits()),
    }
}

/// The nearest double of a number: of two numbers, the larger never has the smaller one. 0 of what is
/// none.
pub(super) fn nearest(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use proptest::prelude::*;

    fn test(condition: &str) -> AttributeTest {
        let text = format!("where {condition}");
        AttributeTest::new(&parse(&text).expect(condition).conditions[0])
    }

    fn term_of(value: &Value) -> String {
        let mut text = String::new();
        write_term(&mut text, 0, Asked::Equal, value);
        text
    }

    fn any_scalar() -> impl Strategy<Value = Value> {
        let whole = prop_oneof![-3..3_i64, any::<i64>(), Just(1 << 53), Just((1 << 53) + 1)];
        let large = prop_oneof![Just(u64::MAX), Just(1 << 63), any::<u64>()];
        let doubles = [0.0, -0.0, 0.5, 2.0, -3.0, 9_007_199_254_740_992.0, 1.8446744073709552e19];
        prop_oneof![
            whole.prop_map(Value::from),
            large.prop_map(Value::from),
            proptest::sample::select(doubles.to_vec()).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            proptest::sample::select(vec!["", "2", "null", "true", "'"]).prop_map(Value::from),
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
        ]
    }

    proptest! {
        /// Values have one term just if a condition takes them for equal.
        #[test]
        fn a_term_is_a_value(one in any_scalar(), other in any_scalar()) {
            let mut equals = test("a = 1");
            equals.value = one.clone();
            let attributes = serde_json::json!({ "a": other });
            prop_assert_eq!(term_of(&one) == term_of(&other), equals.holds(&attributes));
        }

        /// What is on one side of a number is not on the other side of its double.
        #[test]
        fn doubles_keep_the_order(one in any_scalar(), other in any_scalar()) {
            let mut greater = test("a > 1");
            greater.value = other.clone();
            if let (true, true) = (one.is_number(), other.is_number())
                && greater.holds(&serde_json::json!({ "a": one }))
            {
                prop_assert!(nearest(&one) >= nearest(&other));
            }
        }
    }

    #[test]
    fn a_double_is_no_whole_number_whose_digits_are_its_bits() {
        let cases = [
            ("2.5", "4004000000000000"),
            ("100.5", "4059200000000000"),
            ("36893488147419103232", "4400000000000000"),
            ("2.5e-323", "5"),
        ];
        for (double, whole) in cases {
            let [double, whole] = [double, whole].map(|text| serde_json::from_str(text).unwrap());
            assert_ne!(term_of(&double), term_of(&whole), "{double} and {whole}");
        }
    }

    #[test]
    fn bounds_on_one_number_are_one_span() {
        let span =
            |start, end| Some(Span { start: ranges::ordered(start), end: ranges::ordered(end) });
        let cases = [
            ("a > 1 and a < 2 and a >= 0.5", Asked::Between, span(1.0, 2.0)),
            ("a < 3 and a <= 2", Asked::Below, Some(Span { start: 0, ..span(0.0, 2.0).unwrap() })),
            (
                "a > 1 and b < 2",
                Asked::Above,
                Some(Span { end: u64::MAX, ..span(1.0, 0.0).unwrap() }),
            ),
            (
                "a > 1 and a < 'x'",
                Asked::Above,
                Some(Span { end: u64::MAX, ..span(1.0, 0.0).unwrap() }),
            ),
            ("a = 1 and a < 2", Asked::Equal, None),
        ];
        for (conditions, asked, span) in cases {
            let filter = Filter::from_ax(&parse(&format!("where {conditions}")).unwrap());
            let first = Findable::of(&filter)[0];
            assert_eq!((first.asked, first.span), (asked, span), "{conditions}");
        }
    }

    #[test]
    fn only_what_a_look_up_decides_is_a_term() {
        let deep = vec!["a"; KEYS_MAX + 1].join(".");
        let cases = [
            ("a = 'x'", Some(Asked::Equal)),
            ("a = null", Some(Asked::Equal)),
            ("a exists", Some(Asked::Exists)),
            ("a >= 1", Some(Asked::Above)),
            ("a < 1", Some(Asked::Below)),
            ("a < 'x'", None),
            ("a != 1", None),
            ("a contains 'x'", None),
            (&format!("{deep} = 1"), None),
        ];
        for (condition, expected) in cases {
            assert_eq!(Asked::of(&test(condition)), expected, "{condition}");
        }
    }
}
