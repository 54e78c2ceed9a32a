//! `"since": "last_run"` in the payload of a schedule: filled in, or left out, and nothing else touched.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axwatch_model::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What a run gets as its payload: in a JSON object whose `since` is `"last_run"`, that is the nominal time of the
/// last run, and is left out while there was none. Any other payload is as it is.
pub(crate) fn since_last_run(payload: &Arc<[u8]>, last: Option<Timestamp>) -> Arc<[u8]> {
    let asks = |entry: &(Cow<'_, str>, &RawValue)| {
        entry.0 == "since" && serde_json::from_str::<&str>(entry.1.get()).ok() == Some("last_run")
    };
    let Ok(Entries(entries)) = serde_json::from_slice(payload) else { return payload.clone() };
    if !entries.iter().any(asks) {
        return payload.clone();
    }
    let last = last.map(|last| format!("\"{last}\""));
    let written = entries.iter().filter_map(|entry| {
        let value = if asks(entry) { last.as_deref()? } else { entry.1.get() };
        let key = serde_json::to_string(&entry.0).expect("a text can be written");
        Some(format!("{key}:{value}"))
    });
    let written: Vec<_> = written.collect();
    format!("{{{}}}", written.join(",")).into_bytes().into()
}

/// The entries of a JSON object, in its order, each value as it is written.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries<'a>, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    entries.push((key, value));
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Reader).map(Entries)
    }
}

/// A key, borrowed unless it is escaped.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_run_is_filled_in() {
        let last = "2024-01-15T14:30:00Z".parse().ok();
        // (payload, after a run, when there was none)
        let cases = [
            (r#"{"since":"last_run"}"#, r#"{"since":"2024-01-15T14:30:00Z"}"#, "{}"),
            (
                r#"{"b": 1.50, "since" : "last_run", "a":[1, {"since":"last_run"}], "é":"\u00e9"}"#,
                r#"{"b":1.50,"since":"2024-01-15T14:30:00Z","a":[1, {"since":"last_run"}],"é":"\u00e9"}"#,
                r#"{"b":1.50,"a":[1, {"since":"last_run"}],"é":"\u00e9"}"#,
            ),
            (r#"{"since":"yesterday"}"#, r#"{"since":"yesterday"}"#, r#"{"since":"yesterday"}"#),
            (r#"{"since":7}"#, r#"{"since":7}"#, r#"{"since":7}"#),
            (r#"["since","last_run"]"#, r#"["since","last_run"]"#, r#"["since","last_run"]"#),
            ("since=last_run", "since=last_run", "since=last_run"),
            ("", "", ""),
        ];
        for (payload, after, first) in cases {
            let payload: Arc<[u8]> = payload.as_bytes().into();
            let told = |last| String::from_utf8(since_last_run(&payload, last).to_vec()).unwrap();
            assert_eq!(told(last), after);
            assert_eq!(told(None), first);
        }
        let bytes: Arc<[u8]> = [0xff, 0x00].as_slice().into();
        assert_eq!(since_last_run(&bytes, last), bytes);
    }
}
