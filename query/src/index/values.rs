//! What stands in an attestation's attributes where somebody asks: read once, when it is first wanted, by
//! passing over the text. What nobody asks about is never taken apart.

use std::cell::OnceCell;

use axwatch_model::Attributes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use serde_json::{Map, Value};

use crate::eval::Claim;

use super::cursor::Cursor;
use super::paths::{PathId, Paths, ROOT};
use super::sought::Found;
use super::whole::Whole;

/// The values of one attestation at all paths that somebody asks about.
pub(super) struct Values<'c> {
    text: Option<&'c str>,
    places: OnceCell<Vec<Place<'c>>>,
    /// Where in `places` a path stands, if they are more than some.
    by_path: OnceCell<HashMap<PathId, u32, RandomState>>,
}

/// A value, as it stands in the text.
pub(super) struct Place<'c> {
    pub(super) path: PathId,
    raw: &'c str,
    value: OnceCell<Value>,
    /// What it contains, where that is asked often.
    whole: OnceCell<Box<Whole>>,
}

/// Places up to which all are looked at for one.
const FEW: usize = 8;

impl<'c> Values<'c> {
    pub(super) fn new(claim: &Claim<'c>) -> Values<'c> {
        let text = claim.attributes_given().map(Attributes::as_str);
        Values { text, places: OnceCell::new(), by_path: OnceCell::new() }
    }

    /// All of them. It has to be the same tree of paths each time.
    pub(super) fn places(&self, paths: &Paths) -> &[Place<'c>] {
        self.places.get_or_init(|| self.text.map_or_else(Vec::new, |text| read(text, paths)))
    }

    /// What stands under a path that somebody asks about.
    pub(super) fn at(&self, paths: &Paths, path: PathId) -> Option<&Place<'c>> {
        let places = self.places(paths);
        if places.len() <= FEW {
            return places.iter().find(|place| place.path == path);
        }
        let by_path = self.by_path.get_or_init(|| {
            (0..).zip(places).map(|(number, place)| (place.path, number)).collect()
        });
        by_path.get(&path).map(|number| &places[*number as usize])
    }
}

fn read<'c>(text: &'c str, paths: &Paths) -> Vec<Place<'c>> {
    let mut reader = Reader { cursor: Cursor::new(text), paths, places: Vec::new() };
    if !paths.is_empty() {
        // What is no JSON says nothing.
        reader.value(ROOT);
    }
    reader.places
}

/// Walks a text and the tree of paths together.
struct Reader<'c, 'p> {
    cursor: Cursor<'c>,
    paths: &'p Paths,
    places: Vec<Place<'c>>,
}

impl Reader<'_, '_> {
    fn value(&mut self, path: PathId) -> Option<()> {
        self.cursor.peek();
        let before = self.cursor;
        if self.paths.children(path) > 0 && self.cursor.take(b'{') {
            self.object(path)?;
        } else {
            self.cursor.value()?;
        }
        if self.paths.is_asked(path) {
            let raw = self.cursor.since(before);
            self.places.push(Place { path, raw, value: OnceCell::new(), whole: OnceCell::new() });
        }
        Some(())
    }

    /// The entries of an object and its end.
    fn object(&mut self, path: PathId) -> Option<()> {
        if self.cursor.take(b'}') {
            return Some(());
        }
        let mut left = self.paths.children(path);
        loop {
            let key = self.cursor.key()?;
            match self.paths.child(path, &key) {
                Some(child) => {
                    self.value(child)?;
                    // Each key stands once.
                    left -= 1;
                }
                None => {
                    self.cursor.value()?;
                }
            }
            if left == 0 {
                // What else there is in the attributes themselves need not be passed over.
                return if path == ROOT { Some(()) } else { self.cursor.rest_of_nest() };
            }
            if !self.cursor.take(b',') {
                return self.cursor.take(b'}').then_some(());
            }
        }
    }
}

impl<'c> Place<'c> {
    /// Whether it is an object or an array.
    pub(super) fn is_nest(&self) -> bool {
        self.raw.starts_with(['{', '['])
    }

    /// The value; of an object or an array an empty one, which is as different from all that a condition can
    /// name.
    pub(super) fn value(&self) -> &Value {
        self.value.get_or_init(|| match self.raw.as_bytes().first() {
            Some(b'{') => Value::Object(Map::new()),
            Some(b'[') => Value::Array(Vec::new()),
            _ => serde_json::from_str(self.raw).unwrap_or_default(),
        })
    }

    /// Whether this is a text that has that in it.
    pub(super) fn text_contains(&self, part: &Value) -> bool {
        match (self.value(), part) {
            (Value::String(text), Value::String(part)) => self.whole().text_contains(text, part),
            _ => false,
        }
    }

    /// The conditions that ask for something that is in this array, if it is one: `find` looks for all of them
    /// when it is first wanted.
    pub(super) fn found(&self, find: impl FnOnce(&str) -> Found) -> Option<&Found> {
        self.raw.starts_with('[').then(|| self.whole().found.get_or_init(|| find(self.raw)))
    }

    fn whole(&self) -> &Whole {
        self.whole.get_or_init(Box::default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(path: &str) -> Vec<Box<str>> {
        path.split('.').map(Box::from).collect()
    }

    fn any_object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a\"\\\\é]{0,4}".prop_map(Value::from),
        ];
        let object = |inner: BoxedStrategy<Value>| {
            let key = proptest::sample::select(vec!["a", "b", "c", "a\"", "é", "\\", "\u{1}", ""]);
            prop::collection::btree_map(key.prop_map(str::to_owned), inner, 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect()))
        };
        let inner = leaf.prop_recursive(3, 30, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                object(inner.boxed()),
            ]
        });
        object(inner.boxed())
    }

    proptest! {
        /// What is read beside a tree of paths is what stands at each of them, and nothing else.
        #[test]
        fn what_is_asked_for_is_found(
            object in any_object(),
            asked in prop::collection::vec(
                proptest::sample::select(vec!["a", "b", "a.b", "a.b.c", "b.a", "a\".é", "é", "\\.a", "c.\u{1}", "x", "a."]),
                0..9,
            ),
            is_pretty in any::<bool>(),
        ) {
            let mut paths = Paths::default();
            let numbers: Vec<PathId> = asked.iter().map(|path| paths.acquire(&keys(path))).collect();
            let text = if is_pretty { format!("{object:#}") } else { object.to_string() };
            let values = Values { text: Some(&text), places: OnceCell::new(), by_path: OnceCell::new() };
            for (path, number) in asked.iter().zip(numbers) {
                let expected = keys(path)
                    .iter()
                    .try_fold(&object, |value, key| value.as_object()?.get(&**key));
                let place = values.at(&paths, number);
                prop_assert_eq!(place.map(|place| place.raw.to_owned()).is_some(), expected.is_some());
                if let (Some(place), Some(expected)) = (place, expected) {
                    let found: Value = serde_json::from_str(place.raw).unwrap();
                    prop_assert_eq!(&found, expected);
                    prop_assert_eq!(place.is_nest(), found.is_array() || found.is_object());
                    prop_assert!(place.is_nest() || place.value() == expected);
                }
            }
            let mut different = asked.clone();
            different.sort_unstable();
            different.dedup();
            prop_assert!(values.places(&paths).len() <= different.len());
        }
    }

    #[test]
    fn what_is_no_object_has_no_places() {
        let mut paths = Paths::default();
        paths.acquire(&keys("a.b"));
        for text in [
            "",
            "{",
            "[1]",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":{"b"#,
            r#"{"a":{"b":"#,
            "null",
            r#"{"a":1"#,
        ] {
            assert!(read(text, &paths).is_empty(), "{text}");
        }
    }
}
