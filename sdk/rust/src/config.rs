//! The plugin's own table of `am.toml`, as the host hands it over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;

/// Bytes of a value that an error shows.
const VALUE_BYTES_SHOWN: usize = 80;

/// The plugin's own table: nested keys joined with dots, scalars as text, lists as JSON.
///
/// Cheap to clone. `{:?}` shows the keys only, since values may be secrets.
#[derive(Clone, Default, PartialEq)]
pub struct Config(Arc<BTreeMap<String, String>>);

impl Config {
    /// The text under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The value under a key, read as JSON and, where that does not fit, as text: so a number, a truth
    /// value, a list, a text, or a type of your own that derives `Deserialize`.
    ///
    /// # Errors
    /// [`Failure::Permanent`], which names the key, the value and what was expected.
    pub fn parsed<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Failure> {
        self.get(key).map(|value| read(key, value)).transpose()
    }

    /// As [`Config::parsed`], for a key that has to be there.
    ///
    /// # Errors
    /// [`Failure::Permanent`], also when nothing is set.
    pub fn required<T: DeserializeOwned>(&self, key: &str) -> Result<T, Failure> {
        let missing = || {
            Failure::permanent(format!(
                "config: {key} is not set; set it in the plugin's own table"
            ))
        };
        self.parsed(key)?.ok_or_else(missing)
    }

    /// All keys with their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The keys that begin with this prefix, without it, with their values, in order.
    pub fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value)))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Config {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Config {
        let entries = entries.into_iter().map(|(key, value)| (key.into(), value.into()));
        Config(Arc::new(entries.collect()))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn read<T: DeserializeOwned>(key: &str, value: &str) -> Result<T, Failure> {
    let as_json = match serde_json::from_str(value) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    serde_json::from_value(Value::String(value.to_owned())).map_err(|as_text| {
        // A text that is no JSON is what `as_text` complains about; a number that is too large is not.
        let error = if as_json.is_data() { as_json } else { as_text };
        let shown = &value[..value.floor_char_boundary(VALUE_BYTES_SHOWN)];
        Failure::permanent(format!("config: {key} = {shown:?} does not do: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Colour {
        Red,
    }

    fn config() -> Config {
        let entries = [
            ("colour", "red"),
            ("depth", "3"),
            ("fsync", "true"),
            ("hosts", r#"["a","b"]"#),
            ("webhook.secret", "s3cret"),
            ("webhook.url", "http://a"),
        ];
        entries.into_iter().collect()
    }

    #[track_caller]
    fn check<T: DeserializeOwned + Debug + PartialEq>(key: &str, expected: Option<T>) {
        assert_eq!(config().parsed::<T>(key), Ok(expected), "{key}");
    }

    #[test]
    fn a_value_is_read_as_what_is_asked_for() {
        check("depth", Some(3_u32));
        check("depth", Some(3.0));
        check("depth", Some("3".to_owned()));
        check("fsync", Some(true));
        check("fsync", Some("true".to_owned()));
        check("hosts", Some(vec!["a".to_owned(), "b".to_owned()]));
        check("colour", Some(Colour::Red));
        check("nothing", None::<u32>);
        assert_eq!(config().required("depth"), Ok(3));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let cases: [(Result<_, Failure>, &str); 4] = [
            (config().required::<u32>("colour"), r#"config: colour = "red" does not do: "#),
            (config().required::<u32>("colour"), r#"invalid type: string "red", expected u32"#),
            (config().required::<u32>("fsync"), "expected u32"),
            (config().required::<u32>("nothing"), "config: nothing is not set"),
        ];
        for (found, says) in cases {
            let Err(Failure::Permanent(reason)) = found else { panic!("{found:?}") };
            assert!(reason.contains(says), "no {says:?} in {reason:?}");
        }
    }

    #[test]
    fn keys_are_shown_and_values_are_not() {
        let shown = format!("{:?}", config());
        assert!(shown.contains("webhook.secret") && !shown.contains("s3cret"), "{shown}");
        let found: Vec<_> = config().with_prefix("webhook.").map(|(k, _)| k.to_owned()).collect();
        assert_eq!(found, ["secret", "url"]);
    }
}
