//! A watcher's parameters, as a handler reads them.
//!
//! In comes the JSON object of a job; out go values of the kinds that handlers take. Whatever does not
//! fit is a permanent failure that names the handler, the parameter and what would be right: no
//! retry mends a watcher's declaration.
//!
//! Not here: what a parameter means (each handler), what stands in when one is absent (`settings`).

use std::time::Duration;

use axwatch_sdk::{Failure, Job};
use serde_json::{Map, Value};

use crate::nearest::nearest;
use crate::{exec, file, log, webhook};

/// What any handler of this plugin takes. A watcher with two of them has one set of parameters, so each
/// passes over what another one takes.
const OF_ANY: [&[&str]; 4] = [log::PARAMS, file::PARAMS, webhook::PARAMS, exec::PARAMS];

/// The parameters of one job.
#[derive(Debug)]
pub(crate) struct Params {
    handler: &'static str,
    given: Map<String, Value>,
}

impl Params {
    /// Reads the job's parameters; `known` are all that the handler takes.
    pub(crate) fn of(
        job: &Job,
        handler: &'static str,
        known: &'static [&'static str],
    ) -> Result<Params, Failure> {
        Params::new(handler, known, job.params_as()?)
    }

    fn new(
        handler: &'static str,
        known: &'static [&'static str],
        given: Map<String, Value>,
    ) -> Result<Params, Failure> {
        let is_known =
            |key: &str| known.contains(&key) || OF_ANY.iter().any(|keys| keys.contains(&key));
        match given.keys().find(|key| !is_known(key)) {
            None => Ok(Params { handler, given }),
            Some(key) => {
                let takes = known.join(", ");
                let hint = match nearest(key, known.iter().copied()) {
                    Some(near) => format!("did you mean {near:?}? It takes {takes}"),
                    None => format!("it takes {takes}"),
                };
                Err(Failure::permanent(format!("{handler} has no parameter {key:?}; {hint}")))
            }
        }
    }

    /// A text that is not empty.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Failure> {
        match self.given.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(other) => Err(self.bad(key, other, "a text that is not empty")),
        }
    }

    /// True or false.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Failure> {
        match self.given.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.bad(key, other, "true or false")),
        }
    }

    /// Whole seconds from 1 to `max`.
    pub(crate) fn seconds(&self, key: &str, max: u64) -> Result<Option<Duration>, Failure> {
        match self.given.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(secs) if (1..=max).contains(&secs) => Ok(Some(Duration::from_secs(secs))),
                _ => Err(self.bad(key, value, &format!("a whole number of seconds, 1 to {max}"))),
            },
        }
    }

    /// An object of texts, in its order.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<(&str, &str)>, Failure> {
        let right = "an object of texts such as {\"X-Team\": \"hr\"}";
        let object = match self.given.get(key) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(object)) => object,
            // Not shown: values of headers are often secret.
            Some(_) => return Err(self.wrong(key, right)),
        };
        let text = |(name, value): (&'_ String, &'_ Value)| match value {
            Value::String(_) => Ok(()),
            _ => Err(self.wrong(&format!("{key}.{name}"), "a text")),
        };
        object.iter().try_for_each(text)?;
        Ok(object
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
            .collect())
    }

    /// The failure of a parameter whose value is of no use; `right` says what would be.
    pub(crate) fn bad(&self, key: &str, value: &Value, right: &str) -> Failure {
        let value: String = value.to_string().chars().take(200).collect();
        Failure::permanent(format!(
            "{}: parameter {key:?} is {value}; it must be {right}",
            self.handler
        ))
    }

    /// The same for a value that nobody should see.
    pub(crate) fn wrong(&self, key: &str, right: &str) -> Failure {
        Failure::permanent(format!("{}: parameter {key:?} must be {right}", self.handler))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn params(given: Value) -> Result<Params, Failure> {
        let Value::Object(given) = given else { panic!("an object") };
        Params::new("notify.file", &["path", "fsync", "timeout_secs", "headers"], given)
    }

    fn refused<T: std::fmt::Debug>(answer: Result<T, Failure>) -> String {
        match answer {
            Err(Failure::Permanent(why)) => why,
            other => panic!("a permanent failure, not {other:?}"),
        }
    }

    #[test]
    fn a_key_that_nobody_knows_names_the_nearest() {
        assert_eq!(
            refused(params(json!({"pth": "/tmp/x"}))),
            "notify.file has no parameter \"pth\"; did you mean \"path\"? It takes path, fsync, timeout_secs, headers"
        );
        assert_eq!(
            refused(params(json!({"colour": 1}))),
            "notify.file has no parameter \"colour\"; it takes path, fsync, timeout_secs, headers"
        );
    }

    #[test]
    fn a_key_of_another_handler_is_passed_over() {
        assert!(
            params(json!({"path": "/tmp/x", "url": "https://example.com", "level": "warn"}))
                .is_ok()
        );
    }

    #[test]
    fn a_value_of_another_kind_says_what_is_right() {
        let given = params(json!({
            "path": 7, "fsync": "yes", "timeout_secs": 0, "headers": {"X": 1}
        }))
        .unwrap();
        let texts = [
            refused(given.text("path")),
            refused(given.flag("fsync")),
            refused(given.seconds("timeout_secs", 300)),
            refused(given.texts("headers")),
        ];
        let expected = [
            "notify.file: parameter \"path\" is 7; it must be a text that is not empty",
            "notify.file: parameter \"fsync\" is \"yes\"; it must be true or false",
            "notify.file: parameter \"timeout_secs\" is 0; it must be a whole number of seconds, 1 to 300",
            "notify.file: parameter \"headers.X\" must be a text",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn what_is_absent_or_null_is_none() {
        let given = params(json!({"path": null})).unwrap();
        assert_eq!(given.text("path"), Ok(None));
        assert_eq!(given.flag("fsync"), Ok(None));
        assert_eq!(given.seconds("timeout_secs", 9), Ok(None));
        assert_eq!(given.texts("headers"), Ok(vec![]));
    }
}
