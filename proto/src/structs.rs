//! `google.protobuf.Struct` as JSON text, and back.
//!
//! A `Struct` knows one kind of number, the double. Whole numbers that a double counts exactly come
//! out without a fraction, so that 7 stays `7`; digits beyond that are lost on the way in, as they
//! are for everyone who speaks `Struct`. Keys come out in order.
//!
//! Depth is bounded on both ways, so that no text and no message can exhaust the stack. A received
//! `Struct` is shallower still: prost stops at 100 nested messages, of which a level takes three.

use std::fmt;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde_json::{Map, Number};

/// Nested objects and arrays, the outermost counted.
pub const DEPTH_MAX: usize = 64;

/// Up to here, on both sides of zero, a double counts whole numbers one by one.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Why a `Struct` has no JSON text.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ToJsonError {
    /// NaN or infinite.
    #[error("{key} is {number}, which is no number in JSON")]
    NotFinite {
        /// Where, as in `a.b[2]`.
        key: String,
        /// The number.
        number: f64,
    },
    /// Over [`DEPTH_MAX`].
    #[error("{key} nests deeper than {DEPTH_MAX} levels")]
    TooDeep {
        /// Where, as in `a.b[2]`.
        key: String,
    },
}

/// Why a JSON text is no `Struct`.
#[derive(Debug, thiserror::Error)]
pub enum FromJsonError {
    /// Not JSON at all.
    #[error("not valid JSON")]
    Syntax(#[from] serde_json::Error),
    /// JSON, but an array, a text, a number ….
    #[error("not a JSON object")]
    NotAnObject,
    /// Over [`DEPTH_MAX`].
    #[error("{key} nests deeper than {DEPTH_MAX} levels")]
    TooDeep {
        /// Where, as in `a.b[2]`.
        key: String,
    },
}

/// Writes a `Struct` as compact JSON text. A value without a kind is `null`.
///
/// # Errors
/// [`ToJsonError`], which names the key.
pub fn to_json(object: &Struct) -> Result<String, ToJsonError> {
    let mut out = String::new();
    write_object(object, &Place::ROOT, &mut out)?;
    Ok(out)
}

/// Reads a JSON text that holds an object.
///
/// # Errors
/// [`FromJsonError`].
pub fn from_json(text: &str) -> Result<Struct, FromJsonError> {
    from_value(&serde_json::from_str(text)?)
}

/// Takes over a JSON object that was parsed before.
///
/// # Errors
/// [`FromJsonError`], never `Syntax`.
pub fn from_value(value: &serde_json::Value) -> Result<Struct, FromJsonError> {
    match value {
        serde_json::Value::Object(entries) => read_object(entries, &Place::ROOT),
        _ => Err(FromJsonError::NotAnObject),
    }
}

fn write_object(object: &Struct, place: &Place, out: &mut String) -> Result<(), ToJsonError> {
    out.push('{');
    for (i, (key, value)) in object.fields.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_text(key, out);
        out.push(':');
        write_value(value, &place.under(Step::Key(key)), out)?;
    }
    out.push('}');
    Ok(())
}

fn write_list(list: &ListValue, place: &Place, out: &mut String) -> Result<(), ToJsonError> {
    out.push('[');
    for (i, value) in list.values.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_value(value, &place.under(Step::Index(i)), out)?;
    }
    out.push(']');
    Ok(())
}

fn write_value(
    value: &prost_types::Value,
    place: &Place,
    out: &mut String,
) -> Result<(), ToJsonError> {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => out.push_str("null"),
        Some(Kind::BoolValue(truth)) => out.push_str(if *truth { "true" } else { "false" }),
        Some(Kind::StringValue(text)) => write_text(text, out),
        Some(Kind::NumberValue(number)) => match number_of(*number) {
            Some(exact) => out.push_str(&exact.to_string()),
            None => {
                return Err(ToJsonError::NotFinite { key: place.to_string(), number: *number });
            }
        },
        Some(Kind::StructValue(_) | Kind::ListValue(_)) if !place.may_nest() => {
            return Err(ToJsonError::TooDeep { key: place.to_string() });
        }
        Some(Kind::StructValue(object)) => write_object(object, place, out)?,
        Some(Kind::ListValue(list)) => write_list(list, place, out)?,
    }
    Ok(())
}

fn write_text(text: &str, out: &mut String) {
    let quoted = serde_json::to_string(text).expect("a text is always JSON");
    out.push_str(&quoted);
}

fn number_of(number: f64) -> Option<Number> {
    if number.fract() == 0.0 && number.abs() <= WHOLE_MAX {
        return Some(Number::from(number as i64));
    }
    Number::from_f64(number)
}

fn read_object(
    entries: &Map<String, serde_json::Value>,
    place: &Place,
) -> Result<Struct, FromJsonError> {
    let fields = entries
        .iter()
        .map(|(key, value)| Ok((key.clone(), read_value(value, &place.under(Step::Key(key)))?)))
        .collect::<Result<_, FromJsonError>>()?;
    Ok(Struct { fields })
}

fn read_value(
    value: &serde_json::Value,
    place: &Place,
) -> Result<prost_types::Value, FromJsonError> {
    use serde_json::Value;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(truth) => Kind::BoolValue(*truth),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Number(number) => {
            Kind::NumberValue(number.as_f64().expect("serde_json keeps 64 bits, or a double"))
        }
        Value::Array(_) | Value::Object(_) if !place.may_nest() => {
            return Err(FromJsonError::TooDeep { key: place.to_string() });
        }
        Value::Array(items) => {
            let values = items
                .iter()
                .enumerate()
                .map(|(i, item)| read_value(item, &place.under(Step::Index(i))))
                .collect::<Result<_, _>>()?;
            Kind::ListValue(ListValue { values })
        }
        Value::Object(entries) => Kind::StructValue(read_object(entries, place)?),
    };
    Ok(prost_types::Value { kind: Some(kind) })
}

/// Where in a value we are: a list on the stack, turned into text only when there is something to
/// complain about.
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
    /// Objects and arrays around this value.
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Place<'static> {
    const ROOT: Place<'static> = Place { parent: None, step: Step::Key(""), depth: 0 };
}

impl Place<'_> {
    fn under<'a>(&'a self, step: Step<'a>) -> Place<'a> {
        Place { parent: Some(self), step, depth: self.depth + 1 }
    }

    fn may_nest(&self) -> bool {
        self.depth < DEPTH_MAX
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else { return Ok(()) };
        parent.fmt(f)?;
        match self.step {
            Step::Key(key) if parent.parent.is_none() => f.write_str(key),
            Step::Key(key) => write!(f, ".{key}"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn number(number: f64) -> prost_types::Value {
        prost_types::Value { kind: Some(Kind::NumberValue(number)) }
    }

    fn object(key: &str, value: prost_types::Value) -> Struct {
        Struct { fields: [(key.to_owned(), value)].into() }
    }

    fn list(values: Vec<prost_types::Value>) -> prost_types::Value {
        prost_types::Value { kind: Some(Kind::ListValue(ListValue { values })) }
    }

    /// `levels` objects, one within the other.
    fn nested(levels: usize) -> Struct {
        (1..levels).fold(Struct::default(), |inner, _| {
            object("a", prost_types::Value { kind: Some(Kind::StructValue(inner)) })
        })
    }

    #[test]
    fn numbers_are_written_as_short_as_they_are_exact() {
        let cases = [
            (7.0, "7"),
            (-0.0, "0"),
            (-3.0, "-3"),
            (0.1, "0.1"),
            (9_007_199_254_740_991.0, "9007199254740991"),
            (-9_007_199_254_740_992.0, "-9007199254740992"),
            (9_007_199_254_740_994.0, "9007199254740994.0"),
            (1e300, "1e+300"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        ];
        for (given, written) in cases {
            let json = to_json(&object("n", number(given))).unwrap();
            assert_eq!(json, format!(r#"{{"n":{written}}}"#), "{given:?}");
        }
    }

    #[test]
    fn what_json_cannot_hold_is_named() {
        let cases = [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf")];
        for (given, name) in cases {
            let inner = object("b", list(vec![number(1.0), number(given)]));
            let outer = object("a", prost_types::Value { kind: Some(Kind::StructValue(inner)) });
            assert_eq!(
                to_json(&outer).unwrap_err().to_string(),
                format!("a.b[1] is {name}, which is no number in JSON")
            );
        }
    }

    #[test]
    fn text_in_text_out() {
        let cases = [
            ("{}", "{}"),
            (
                r#" { "b" : 1.0, "a" : [ null, true, "x\n\"ü" ] } "#,
                r#"{"a":[null,true,"x\n\"ü"],"b":1}"#,
            ),
            (r#"{"":{"":[]}}"#, r#"{"":{"":[]}}"#),
            (r#"{"n":12345678901234567890}"#, r#"{"n":1.2345678901234567e+19}"#),
        ];
        for (given, expected) in cases {
            assert_eq!(to_json(&from_json(given).unwrap()).unwrap(), expected);
        }
        let kindless = object("a", prost_types::Value { kind: None });
        assert_eq!(to_json(&kindless).unwrap(), r#"{"a":null}"#);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["[]", "1", "null", "\"{}\""] {
            assert!(matches!(from_json(text), Err(FromJsonError::NotAnObject)), "{text}");
        }
        for text in ["", "{", "{}x", r#"{"n":1e999}"#, r#"{"n":NaN}"#] {
            assert!(matches!(from_json(text), Err(FromJsonError::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded_both_ways() {
        let deepest = to_json(&nested(DEPTH_MAX)).unwrap();
        assert_eq!(from_json(&deepest).unwrap(), nested(DEPTH_MAX));

        let key = vec!["a"; DEPTH_MAX].join(".");
        let beyond = format!(r#"{{"a":{deepest}}}"#);
        let error = from_json(&beyond).unwrap_err().to_string();
        assert_eq!(error, format!("{key} nests deeper than 64 levels"));
        assert_eq!(to_json(&nested(DEPTH_MAX + 1)), Err(ToJsonError::TooDeep { key }));

        // Arrays count as objects do.
        let arrays = |levels| format!(r#"{{"a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        assert!(from_json(&arrays(DEPTH_MAX - 1)).is_ok());
        assert!(matches!(from_json(&arrays(DEPTH_MAX)), Err(FromJsonError::TooDeep { .. })));
    }

    /// What the header says of prost. A change would show here first.
    #[test]
    fn a_received_struct_is_bounded_by_prost() {
        let arrives = |levels| Struct::decode(nested(levels).encode_to_vec().as_slice()).is_ok();
        assert!(arrives(34));
        assert!(!arrives(35));
    }

    fn any_value() -> impl Strategy<Value = prost_types::Value> {
        let scalar = prop_oneof![
            Just(Kind::NullValue(0)),
            any::<bool>().prop_map(Kind::BoolValue),
            any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Kind::NumberValue),
            any::<i32>().prop_map(|x| Kind::NumberValue(x.into())),
            any::<String>().prop_map(Kind::StringValue),
        ]
        .prop_map(|kind| prost_types::Value { kind: Some(kind) });
        scalar.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(list),
                any_fields(inner).prop_map(|object| prost_types::Value {
                    kind: Some(Kind::StructValue(object))
                }),
            ]
        })
    }

    fn any_fields(
        value: impl Strategy<Value = prost_types::Value>,
    ) -> impl Strategy<Value = Struct> {
        btree_map(any::<String>(), value, 0..6).prop_map(|fields| Struct { fields })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn nothing_changes_on_the_way_there_and_back(object in any_fields(any_value())) {
            let json = to_json(&object).unwrap();
            prop_assert_eq!(from_json(&json).unwrap(), object);
        }
    }
}
