//! Conditions on attributes: what `where` asks, and how JSON values compare.
//!
//! Values compare by type: a number with a number, by value; a text with a text, exactly. Values of two
//! types are never equal and have no order. What stands under no path is equal to nothing, so only
//! `!=` holds for it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Number, Value};
use smallvec::SmallVec;

use crate::lex::{Keyword, continues_bare, is_bare};

/// How a condition compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Op {
    /// `=`: a value of the same type, and the same.
    #[serde(rename = "=")]
    Equal,
    /// `!=`: anything else, or nothing at all.
    #[serde(rename = "!=")]
    NotEqual,
    /// `<`: a smaller number, or a text that comes before by code points.
    #[serde(rename = "<")]
    Less,
    /// `<=`
    #[serde(rename = "<=")]
    AtMost,
    /// `>`
    #[serde(rename = ">")]
    Greater,
    /// `>=`
    #[serde(rename = ">=")]
    AtLeast,
    /// `contains`: a text with this in it, or an array with this value.
    #[serde(rename = "contains")]
    Contains,
    /// `exists`: any value, `null` too.
    #[serde(rename = "exists")]
    Exists,
}

impl Op {
    /// All that compare with a value, as they are written.
    pub(crate) const SIGNS: [(&str, Op); 6] = [
        ("=", Op::Equal),
        ("!=", Op::NotEqual),
        ("<", Op::Less),
        ("<=", Op::AtMost),
        (">", Op::Greater),
        (">=", Op::AtLeast),
    ];

    /// As it is written.
    #[must_use]
    pub fn sign(self) -> &'static str {
        match self {
            Op::Contains => "contains",
            Op::Exists => "exists",
            _ => Op::SIGNS[self as usize].0,
        }
    }
}

/// The keys from the attributes down to a value.
#[derive(Debug, Clone, Eq, Default)]
pub struct Path<'a>(pub SmallVec<[Cow<'a, str>; 1]>);

// Written out, because the derived one compares only paths that borrow from one text.
impl<'b> PartialEq<Path<'b>> for Path<'_> {
    fn eq(&self, other: &Path<'b>) -> bool {
        self.0.as_slice() == other.0.as_slice()
    }
}

/// The key that may stand before a path and means the attributes themselves.
pub(crate) const ROOT: &str = "attributes";

impl Path<'_> {
    /// Its keys with dots between them, each quoted where `is_plain` says that it must be.
    fn write(&self, out: &mut dyn fmt::Write, is_plain: fn(&str, bool) -> bool) -> fmt::Result {
        let is_root = self.0.len() > 1 && self.0[0] == ROOT;
        for (i, key) in self.0.iter().enumerate() {
            if i > 0 {
                out.write_char('.')?;
            }
            if is_plain(key, i == 0) && !(i == 0 && is_root) {
                out.write_str(key)?;
            } else {
                out.write_str(&quoted(key))?;
            }
        }
        Ok(())
    }

    /// As JSON has it: a key is quoted only where it could be taken for several, or for a quoted one.
    #[must_use]
    pub fn dotted(&self) -> String {
        let mut text = String::new();
        let is_plain = |key: &str, _: bool| !key.contains('.') && !key.starts_with(['\'', '"']);
        self.write(&mut text, is_plain).expect("a string takes any text");
        text
    }
}

/// As a query has it.
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, |key, is_first| {
            let is_part = !key.is_empty() && key.chars().all(|c| c != '.' && continues_bare(c));
            is_part && (!is_first || is_bare(key)) && !is_keyword(key)
        })
    }
}

/// Whether a bare word means something of its own inside `where`.
fn is_keyword(word: &str) -> bool {
    let is_op = |op: Op| word.eq_ignore_ascii_case(op.sign());
    Keyword::of(word).is_some() || is_op(Op::Contains) || is_op(Op::Exists)
}

/// A word in the quotes that need fewer escapes.
pub(crate) fn quoted(word: &str) -> String {
    let mark = if word.contains('\'') && !word.contains('"') { '"' } else { '\'' };
    let escaped = word.replace('\\', r"\\").replace(mark, &format!("\\{mark}"));
    format!("{mark}{escaped}{mark}")
}

/// A value as a condition writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal<'a> {
    /// A number of JSON, as written.
    Number(Cow<'a, str>),
    /// A quoted text.
    Text(Cow<'a, str>),
    /// `true` or `false`.
    Truth(bool),
    /// `null`.
    Null,
}

impl Literal<'_> {
    /// Reads a bare word that is a value.
    pub(crate) fn read(word: &str) -> Option<Literal<'_>> {
        let is = |name: &str| word.eq_ignore_ascii_case(name);
        if is("true") || is("false") {
            return Some(Literal::Truth(is("true")));
        }
        if is("null") {
            return Some(Literal::Null);
        }
        let is_number = is_short_whole(word) || number(word).is_some();
        is_number.then_some(Literal::Number(Cow::Borrowed(word)))
    }

    /// The value itself.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match self {
            Literal::Number(text) => number(text).map_or(Value::Null, Value::Number),
            Literal::Text(text) => Value::String(text.to_string()),
            Literal::Truth(truth) => Value::Bool(*truth),
            Literal::Null => Value::Null,
        }
    }
}

/// Whether it is surely a number: the usual ones need no parser.
fn is_short_whole(word: &str) -> bool {
    matches!(word.as_bytes(), [b'1'..=b'9', rest @ ..] if rest.len() < 15 && rest.iter().all(u8::is_ascii_digit))
}

fn number(text: &str) -> Option<Number> {
    serde_json::from_str(text).ok()
}

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Number(text) => f.write_str(text),
            Literal::Text(text) => f.write_str(&quoted(text)),
            Literal::Truth(truth) => write!(f, "{truth}"),
            Literal::Null => f.write_str("null"),
        }
    }
}

/// One condition of a `where` clause, as it was written.
#[derive(Debug, Clone, Eq)]
pub struct Comparison<'a> {
    /// Of which value.
    pub path: Path<'a>,
    /// How it compares.
    pub op: Op,
    /// With what; `None` only of [`Op::Exists`].
    pub value: Option<Literal<'a>>,
}

impl<'b> PartialEq<Comparison<'b>> for Comparison<'_> {
    fn eq(&self, other: &Comparison<'b>) -> bool {
        self.path == other.path && self.op == other.op && self.value == other.value
    }
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.op.sign())?;
        self.value.as_ref().map_or(Ok(()), |value| write!(f, " {value}"))
    }
}

/// `{path, op, value}`, without `value` under `exists`.
impl Serialize for Comparison<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("path", &self.path.dotted())?;
        map.serialize_entry("op", &self.op)?;
        if let Some(value) = &self.value {
            map.serialize_entry("value", &value.to_value())?;
        }
        map.end()
    }
}

/// A condition as a filter keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct AttributeTest {
    path: Box<[Box<str>]>,
    pub(crate) op: Op,
    /// `null` under `exists`, where it means nothing.
    pub(crate) value: Value,
}

impl AttributeTest {
    pub(crate) fn new(comparison: &Comparison<'_>) -> AttributeTest {
        AttributeTest {
            path: comparison.path.0.iter().map(|key| Box::from(&**key)).collect(),
            op: comparison.op,
            value: comparison.value.as_ref().map_or(Value::Null, Literal::to_value),
        }
    }

    /// The keys of its path.
    pub(crate) fn keys(&self) -> &[Box<str>] {
        &self.path
    }

    /// The path as JSON has it.
    pub(crate) fn path(&self) -> String {
        Path(self.path.iter().map(|key| Cow::Borrowed(&**key)).collect()).dotted()
    }

    /// What stands there. A path leads through objects only.
    pub(crate) fn find<'v>(&self, attributes: &'v Value) -> Option<&'v Value> {
        self.path.iter().try_fold(attributes, |value, key| value.as_object()?.get(&**key))
    }

    pub(crate) fn holds(&self, attributes: &Value) -> bool {
        self.holds_of(self.find(attributes))
    }

    /// Whether it holds of what stands under its path.
    fn holds_of(&self, found: Option<&Value>) -> bool {
        holds(self.op, found, &self.value)
    }
}

/// Whether a value that is there, or is not, compares like this with another.
pub(crate) fn holds(op: Op, found: Option<&Value>, value: &Value) -> bool {
    let order = || found.and_then(|found| order(found, value));
    match op {
        Op::Equal => found.is_some_and(|found| equal(found, value)),
        Op::NotEqual => !found.is_some_and(|found| equal(found, value)),
        Op::Less => order().is_some_and(Ordering::is_lt),
        Op::AtMost => order().is_some_and(Ordering::is_le),
        Op::Greater => order().is_some_and(Ordering::is_gt),
        Op::AtLeast => order().is_some_and(Ordering::is_ge),
        Op::Contains => found.is_some_and(|found| contains(found, value)),
        Op::Exists => found.is_some(),
    }
}

pub(crate) fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => compare(one, other).is_eq(),
        _ => one == other,
    }
}

fn order(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => Some(compare(one, other)),
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

/// Whether a text or an array has this in it.
pub(crate) fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::String(whole), Value::String(part)) => whole.contains(&**part),
        (Value::Array(items), part) => items.iter().any(|item| equal(item, part)),
        _ => false,
    }
}

/// A number of JSON, whole or a double.
#[derive(Clone, Copy)]
enum Amount {
    Whole(i128),
    Double(f64),
}

/// By value, exactly: a whole number is not rounded to meet a double.
fn compare(one: &Number, other: &Number) -> Ordering {
    match (amount(one), amount(other)) {
        (Amount::Whole(one), Amount::Whole(other)) => one.cmp(&other),
        (Amount::Double(one), Amount::Double(other)) => doubles(one, other),
        (Amount::Whole(one), Amount::Double(other)) => whole_and_double(one, other),
        (Amount::Double(one), Amount::Whole(other)) => whole_and_double(other, one).reverse(),
    }
}

fn amount(number: &Number) -> Amount {
    match number.as_i128() {
        Some(whole) => Amount::Whole(whole),
        None => Amount::Double(number.as_f64().unwrap_or_default()),
    }
}

fn doubles(one: f64, other: f64) -> Ordering {
    one.partial_cmp(&other).expect("a number of JSON is never NaN")
}

fn whole_and_double(one: i128, other: f64) -> Ordering {
    // Beyond 128 bits the cast gives the nearest end, which is further than any whole number here.
    one.cmp(&(other.trunc() as i128)).then_with(|| doubles(0.0, other.fract()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn test(condition: &str) -> AttributeTest {
        let text = format!("where {condition}");
        AttributeTest::new(&parse(&text).expect(condition).conditions[0])
    }

    #[test]
    fn values_compare_by_type() {
        let attributes: Value = serde_json::from_str(
            r#"{
                "lang": "Rust", "stars": 100, "half": 0.5, "whole": 2.0, "none": null, "ok": true,
                "big": 9007199254740993, "labels": ["urgent", 7, null, 2.0, ["x"]], "empty": "",
                "result": {"exit code": 0, "a.b": 1, "attributes": 3, "x": {"y": [1]}},
                "attributes": {"lang": "C"}, "é": "é", "huge": 1e300, "small": -5
            }"#,
        )
        .unwrap();
        let cases = [
            ("lang = 'Rust'", true),
            ("lang = 'rust'", false),
            ("lang != 'rust'", true),
            ("lang contains 'us'", true),
            ("lang contains 'US'", false),
            ("lang contains 1", false),
            ("lang < 'Sust'", true),
            ("lang >= 'Rust'", true),
            ("lang > 'Rust'", false),
            ("lang < 5", false),
            ("lang != 5", true),
            ("Lang exists", false),
            ("stars = 100", true),
            ("stars = 100.0", true),
            ("stars = 1e2", true),
            ("stars = '100'", false),
            ("stars != '100'", true),
            ("stars > '1'", false),
            ("stars > 99.5", true),
            ("stars < 100.5", true),
            ("stars <= 100", true),
            ("half > 0", true),
            ("half < 1", true),
            ("half = 0.50", true),
            ("whole = 2", true),
            ("whole >= 2", true),
            ("big = 9007199254740993", true),
            ("big = 9007199254740992.0", false),
            ("big > 9007199254740992.0", true),
            ("big <= 1e300", true),
            ("huge > 170141183460469231731687303715884105727", true),
            ("small = -5.0", true),
            ("small < -4.5", true),
            ("small > -5.5", true),
            ("none = null", true),
            ("none exists", true),
            ("none != null", false),
            ("none <= null", false),
            ("missing = null", false),
            ("missing != null", true),
            ("missing != 1", true),
            ("missing < 1", false),
            ("missing contains 'x'", false),
            ("missing exists", false),
            ("ok = true", true),
            ("ok = TRUE", true),
            ("ok != false", true),
            ("ok = 'true'", false),
            ("ok >= true", false),
            ("labels contains 'urgent'", true),
            ("labels contains 'urg'", false),
            ("labels contains 7.0", true),
            ("labels contains 2", true),
            ("labels contains null", true),
            ("labels contains true", false),
            ("labels = 'urgent'", false),
            ("labels != 'urgent'", true),
            ("labels exists", true),
            ("labels.0 exists", false),
            ("result contains 'x'", false),
            ("result.'exit code' = 0", true),
            ("attributes.result.\"exit code\" = 0", true),
            ("result.'a.b' = 1", true),
            ("result.a.b exists", false),
            ("result.attributes = 3", true),
            ("result.x.y contains 1", true),
            ("lang.x exists", false),
            ("attributes exists", true),
            ("attributes.lang = 'Rust'", true),
            ("attributes.attributes.lang = 'C'", true),
            ("'attributes'.lang = 'C'", true),
            ("é = 'é'", true),
            ("é = 'e\u{301}'", false),
        ];
        for (condition, expected) in cases {
            assert_eq!(test(condition).holds(&attributes), expected, "{condition}");
            assert!(!test("x exists").holds(&Value::Null) && test("x != 1").holds(&Value::Null));
        }
    }

    #[test]
    fn a_path_is_printed_so_that_it_reads_as_the_same() {
        let cases = [
            ("a.b", "a.b", "a.b"),
            ("attributes.a", "a", "a"),
            ("'a'.\"b\"", "a.b", "a.b"),
            ("'a b'.c", "'a b'.c", "a b.c"),
            ("'a.b'.c", "'a.b'.c", "'a.b'.c"),
            ("x.'is'.of", "x.'is'.'of'", "x.is.of"),
            ("'exists'", "'exists'", "exists"),
            ("a.#b", "a.#b", "a.#b"),
            ("'#b'", "'#b'", "#b"),
            ("attributes.attributes.a", "'attributes'.a", "'attributes'.a"),
            ("attributes.attributes", "attributes", "attributes"),
            (r"'it\'s'.x", r#""it's".x"#, "it's.x"),
        ];
        for (written, printed, dotted) in cases {
            let text = format!("where {written} exists");
            let query = parse(&text).unwrap();
            let path = &query.conditions[0].path;
            assert_eq!(
                (path.to_string(), path.dotted()),
                (printed.into(), dotted.into()),
                "{text}"
            );
            let again = format!("where {printed} exists");
            assert_eq!(parse(&again).unwrap().conditions[0].path, *path, "{again}");
        }
    }
}
