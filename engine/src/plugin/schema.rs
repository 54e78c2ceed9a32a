//! What a plugin says can be configured, and whether what is configured fits it.
//!
//! In: a plugin's answer to ConfigSchema, and the values of its own table. Out: what is wrong with
//! them, for people, and a view of both. Checked before Initialize, so that a mistake is told by the key
//! that it stands under and not by whatever the plugin makes of it. Defaults are the plugin's to fill
//! in, and only shown. Values that came from the environment are never shown, wherever they stand.
//!
//! A schema is as much text from outside as everything a plugin says: it is shown without secrets, and what
//! of it cannot be understood (an unknown type, a pattern that is none) checks nothing.
//!
//! Not here: asking for it (`super::calls`), the text of `am.toml` (`axwatch`'s `config`).

use std::collections::BTreeMap;

use axwatch_model::PluginName;
use axwatch_model::bounds::cut;
use axwatch_proto::protocol;
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::settings::PluginSettings;

/// Fields of one schema that are kept.
const FIELDS_MAX: usize = 1_000;
/// Bytes of a value that a complaint shows.
const VALUE_BYTES_MAX: usize = 80;
/// Bytes that a pattern may take once it is compiled, which it is only for a value that is configured.
const PATTERN_BYTES_MAX: usize = 1024 * 1024;

/// What can be configured for a plugin.
pub(crate) struct Schema {
    /// By the name that the plugin gave, by which it is looked for and never shown.
    fields: BTreeMap<String, Field>,
}

/// One key of a plugin's table. Its texts are as they may be shown.
struct Field {
    name: String,
    kind: String,
    description: String,
    default: String,
    required: bool,
    min: String,
    max: String,
    pattern: String,
    /// The pattern is as the plugin gave it. What is left of one that held a secret is another, which the
    /// right value need not match.
    has_its_pattern: bool,
    element_type: String,
}

/// What may be configured for a plugin, and what is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigView {
    /// Whether the plugin said what may be configured, this time or the last time that it ran.
    pub has_schema: bool,
    /// What may be, by name.
    pub fields: Vec<ConfigField>,
    /// Keys that are configured and that the schema lacks.
    pub unknown: Vec<String>,
    /// All that is configured, by key, as the plugin gets it; `(from env:NAME)` for what the environment
    /// holds.
    pub values: BTreeMap<String, String>,
}

/// One key that may be configured. Texts are empty where the schema says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigField {
    /// The key below the plugin's table, nested ones joined with dots.
    pub name: String,
    /// `string`, `number`, `boolean` or `array`, or whatever the plugin says.
    #[serde(rename = "type")]
    pub kind: String,
    /// One line for people.
    pub description: String,
    /// What the plugin takes when it is not configured.
    pub default: String,
    /// Whether it has to be configured.
    pub required: bool,
    /// The least number.
    pub min: String,
    /// The greatest number.
    pub max: String,
    /// A regular expression that a text must match.
    pub pattern: String,
    /// The type of an array's elements.
    pub element_type: String,
    /// What is configured, or `(from env:NAME)`.
    pub value: Option<String>,
    /// What is wrong with that.
    pub problem: Option<String>,
}

impl ConfigView {
    pub(crate) fn of(settings: &PluginSettings, schema: Option<&Schema>) -> ConfigView {
        let field = |(key, field): (&String, &Field)| ConfigField {
            name: field.name.clone(),
            kind: field.kind.clone(),
            description: field.description.clone(),
            default: field.default.clone(),
            required: field.required,
            min: field.min.clone(),
            max: field.max.clone(),
            pattern: field.pattern.clone(),
            element_type: field.element_type.clone(),
            value: shown_value(settings, key),
            problem: field.problem(key, settings),
        };
        let unknown = schema.map(|schema| schema.unknown(settings)).unwrap_or_default();
        let keys = settings.config.keys();
        ConfigView {
            has_schema: schema.is_some(),
            fields: schema.iter().flat_map(|schema| &schema.fields).map(field).collect(),
            unknown,
            values: keys
                .filter_map(|key| Some((key.clone(), shown_value(settings, key)?)))
                .collect(),
        }
    }
}

/// What is configured under a key, without secrets.
fn shown_value(settings: &PluginSettings, key: &str) -> Option<String> {
    match settings.from_env.get(key) {
        Some(written) => Some(format!("(from {written})")),
        None => settings.config.get(key).cloned(),
    }
}

impl Schema {
    /// What a plugin answered, as far as it can be understood. What cannot is said in the log. `shown`: how
    /// its words may be kept.
    pub(crate) fn read(
        plugin: &PluginName,
        reply: protocol::ConfigSchemaResponse,
        shown: &dyn Fn(&str) -> String,
    ) -> Schema {
        // In order before it is cut, so that it is the same ones each time.
        let mut given: Vec<_> = reply.fields.into_iter().collect();
        given.sort_by(|(one, _), (other, _)| one.cmp(other));
        given.truncate(FIELDS_MAX);
        let mut fields = BTreeMap::new();
        for (name, given) in given {
            let field = Field::read(&name, given, shown);
            if let Some(doubt) = field.doubt() {
                let key = &field.name;
                tracing::warn!(%plugin, key, "of the ConfigSchema of plugin {plugin}: {doubt}");
            }
            fields.insert(name, field);
        }
        Schema { fields }
    }

    /// What is wrong with a configuration: key, value and what was expected, one each.
    pub(crate) fn problems(&self, settings: &PluginSettings) -> Vec<String> {
        let plugin = &settings.name;
        for (key, field) in &self.fields {
            let is_used = !field.pattern.is_empty() && settings.config.contains_key(key);
            if is_used && field.regex().is_none() {
                let (key, pattern) = (&field.name, &field.pattern);
                let why = if field.has_its_pattern { "is none" } else { "is not all of it" };
                tracing::warn!(%plugin, key, "the pattern {pattern:?} for [{plugin}] {key} {why}, so that it is not checked");
            }
        }
        for key in self.unknown(settings) {
            tracing::warn!(%plugin, key, "[{plugin}] {key} is configured, and plugin {plugin} does not know it");
        }
        self.fields.iter().filter_map(|(key, field)| field.problem(key, settings)).collect()
    }

    /// Keys that are configured and not in here. One that lies below a field, or above one, is in here.
    fn unknown(&self, settings: &PluginSettings) -> Vec<String> {
        let is_known = |key: &str| {
            self.fields.keys().any(|field| field == key || below(key, field) || below(field, key))
        };
        // Without a field the plugin says nothing rather than that nothing can be configured.
        let keys = settings.config.keys().filter(|_| !self.fields.is_empty());
        keys.filter(|key| !is_known(key)).cloned().collect()
    }
}

/// Whether a dotted key lies below another.
fn below(key: &str, above: &str) -> bool {
    key.strip_prefix(above).is_some_and(|rest| rest.starts_with('.'))
}

impl Field {
    fn read(
        name: &str,
        given: protocol::ConfigFieldSchema,
        shown: &dyn Fn(&str) -> String,
    ) -> Field {
        let pattern = shown(&given.pattern);
        Field {
            name: shown(name),
            kind: shown(&given.r#type),
            description: shown(&given.description),
            default: shown(&given.default_value),
            required: given.required,
            min: shown(&given.min_value),
            max: shown(&given.max_value),
            has_its_pattern: pattern == given.pattern,
            pattern,
            element_type: shown(&given.element_type),
        }
    }

    /// Its pattern, if that is one.
    fn regex(&self) -> Option<Regex> {
        if !self.has_its_pattern {
            return None;
        }
        let mut builder = RegexBuilder::new(&self.pattern);
        builder.size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX).build().ok()
    }

    /// What of it is not understood, and so not checked.
    fn doubt(&self) -> Option<String> {
        let kinds = [&self.kind, &self.element_type];
        if let Some(kind) =
            kinds.into_iter().find(|kind| !kind.is_empty() && Kind::of(kind).is_none())
        {
            return Some(format!("{kind:?} is no type, so that it is not checked"));
        }
        let limits = [&self.min, &self.max];
        if let Some(limit) =
            limits.into_iter().find(|limit| !limit.is_empty() && number(limit).is_none())
        {
            return Some(format!("the limit {limit:?} is no number, so that it is not checked"));
        }
        None
    }

    /// What is wrong with what is configured under `key`, the name that the plugin gave.
    fn problem(&self, key: &str, settings: &PluginSettings) -> Option<String> {
        let (plugin, name) = (&settings.name, &self.name);
        let Some(value) = settings.config.get(key) else {
            // A table that the plugin describes as one field.
            let has_parts = settings.config.keys().any(|part| below(part, key));
            let is_missing = self.required && self.default.is_empty() && !has_parts;
            return is_missing.then(|| format!("[{plugin}] {name} is not set, and has to be"));
        };
        let expected = self.expectation(value)?;
        let shown = match settings.from_env.get(key) {
            Some(written) => format!("(from {written})"),
            None => format!("{:?}", cut(value, VALUE_BYTES_MAX)),
        };
        Some(format!("[{plugin}] {name} = {shown}: must {expected}"))
    }

    /// What the value would have to do and does not.
    fn expectation(&self, value: &str) -> Option<String> {
        match Kind::of(&self.kind)? {
            Kind::String => {
                let is_wrong = !self.pattern.is_empty()
                    && self.regex().is_some_and(|regex| !regex.is_match(value));
                is_wrong.then(|| format!("match the pattern {:?}", self.pattern))
            }
            Kind::Number => match number(value) {
                None => Some("be a number".to_owned()),
                Some(given) if number(&self.min).is_some_and(|min| given < min) => {
                    Some(format!("be at least {}", self.min))
                }
                Some(given) if number(&self.max).is_some_and(|max| given > max) => {
                    Some(format!("be at most {}", self.max))
                }
                Some(_) => None,
            },
            Kind::Boolean => {
                (!matches!(value, "true" | "false")).then(|| "be true or false".to_owned())
            }
            Kind::Array => {
                let Ok(Value::Array(items)) = serde_json::from_str(value) else {
                    return Some("be a list".to_owned());
                };
                let kind = Kind::of(&self.element_type)?;
                let is_wrong = items.iter().any(|item| !kind.is_of(item));
                is_wrong.then(|| format!("be a list of {}", kind.plural()))
            }
        }
    }
}

/// The types that the contract knows, and what else they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    String,
    Number,
    Boolean,
    Array,
}

impl Kind {
    fn of(name: &str) -> Option<Kind> {
        Some(match name {
            "string" => Kind::String,
            "number" | "integer" | "int" | "float" => Kind::Number,
            "boolean" | "bool" => Kind::Boolean,
            "array" | "list" => Kind::Array,
            _ => return None,
        })
    }

    /// Whether an element of a list is of this type. Numbers and truths in quotes are too: whoever reads
    /// a list out of text may well take them.
    fn is_of(self, item: &Value) -> bool {
        match (self, item) {
            (Kind::String, Value::String(_))
            | (Kind::Number, Value::Number(_))
            | (Kind::Boolean, Value::Bool(_))
            | (Kind::Array, Value::Array(_)) => true,
            (Kind::Number, Value::String(text)) => number(text).is_some(),
            (Kind::Boolean, Value::String(text)) => matches!(text.as_str(), "true" | "false"),
            _ => false,
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Kind::String => "strings",
            Kind::Number => "numbers",
            Kind::Boolean => "true or false",
            Kind::Array => "lists",
        }
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::super::token::Token;
    use super::super::wire;
    use super::*;

    fn field(kind: &str) -> protocol::ConfigFieldSchema {
        protocol::ConfigFieldSchema { r#type: kind.to_owned(), ..Default::default() }
    }

    fn schema(fields: Vec<(&str, protocol::ConfigFieldSchema)>) -> Schema {
        schema_shown(fields, &wire::shown)
    }

    fn schema_shown(
        fields: Vec<(&str, protocol::ConfigFieldSchema)>,
        shown: &dyn Fn(&str) -> String,
    ) -> Schema {
        let fields = fields.into_iter().map(|(name, field)| (name.to_owned(), field)).collect();
        Schema::read(&"greet".parse().unwrap(), protocol::ConfigSchemaResponse { fields }, shown)
    }

    fn settings(config: &[(&str, &str)]) -> PluginSettings {
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        PluginSettings { config: config.collect(), ..PluginSettings::new("greet".parse().unwrap()) }
    }

    #[test]
    fn a_value_is_held_against_its_field() {
        let limited = protocol::ConfigFieldSchema {
            min_value: "1".into(),
            max_value: "2.5".into(),
            ..field("number")
        };
        let matching = |pattern: &str| protocol::ConfigFieldSchema {
            pattern: pattern.into(),
            ..field("string")
        };
        let list_of = |element_type: &str| protocol::ConfigFieldSchema {
            element_type: element_type.into(),
            ..field("array")
        };
        let odd_limit = protocol::ConfigFieldSchema { min_value: "low".into(), ..field("number") };
        let cases = [
            (field("string"), "x", None),
            (field("string"), "", None),
            (field("number"), "3", None),
            (field("number"), "-2.5e3", None),
            (field("number"), "x", Some("\"x\": must be a number")),
            (field("number"), "inf", Some("\"inf\": must be a number")),
            (limited.clone(), "1", None),
            (limited.clone(), "2.5", None),
            (limited.clone(), "0", Some("\"0\": must be at least 1")),
            (limited, "3", Some("\"3\": must be at most 2.5")),
            (odd_limit, "-9", None),
            (field("boolean"), "true", None),
            (field("boolean"), "yes", Some("\"yes\": must be true or false")),
            (matching("^[a-z]+$"), "abc", None),
            (matching("^[a-z]+$"), "Abc", Some("\"Abc\": must match the pattern \"^[a-z]+$\"")),
            (matching("["), "anything", None),
            (matching("(a{1000}){1000}{1000}"), "anything", None),
            (list_of(""), "[1, \"x\"]", None),
            (list_of(""), "1, 2", Some("\"1, 2\": must be a list")),
            (list_of("string"), "[\"a\"]", None),
            (list_of("string"), "[1]", Some("\"[1]\": must be a list of strings")),
            (list_of("number"), "[1, \"2\"]", None),
            (
                list_of("boolean"),
                "[true, 1]",
                Some("\"[true, 1]\": must be a list of true or false"),
            ),
            (field("duration"), "soon", None),
            (field(""), "x", None),
        ];
        for (field, value, expected) in cases {
            let shown = format!("{field:?} {value:?}");
            let schema = schema(vec![("depth", field)]);
            let expected: Vec<_> =
                expected.iter().map(|problem| format!("[greet] depth = {problem}")).collect();
            assert_eq!(schema.problems(&settings(&[("depth", value)])), expected, "{shown}");
        }
    }

    #[test]
    fn what_has_to_be_set_is_missed_unless_there_is_a_default() {
        let required = || protocol::ConfigFieldSchema { required: true, ..field("string") };
        let with_default = protocol::ConfigFieldSchema { default_value: "x".into(), ..required() };
        let schema = schema(vec![
            ("url", required()),
            ("server", required()),
            ("mode", with_default),
            ("hint", field("string")),
        ]);
        let problems = schema.problems(&settings(&[("server.host", "h"), ("other", "1")]));
        assert_eq!(problems, ["[greet] url is not set, and has to be"]);
        assert_eq!(schema.problems(&settings(&[("url", ""), ("server", "s")])), [""; 0]);
    }

    #[test]
    fn a_view_shows_both_sides_and_no_secret() {
        let number =
            protocol::ConfigFieldSchema { description: "How deep.".into(), ..field("number") };
        let schema = schema(vec![("depth", number), ("key", field("number"))]);
        let mut settings = settings(&[("key", "hunter2"), ("depht", "3")]);
        settings.from_env.insert("key".into(), "env:KEY".into());
        let view = ConfigView::of(&settings, Some(&schema));
        assert!(!format!("{view:?}").contains("hunter2"));
        let fields: Vec<_> = view
            .fields
            .iter()
            .map(|field| (field.name.as_str(), field.value.as_deref(), field.problem.as_deref()))
            .collect();
        let problem = "[greet] key = (from env:KEY): must be a number";
        assert_eq!(fields, [("depth", None, None), ("key", Some("(from env:KEY)"), Some(problem))]);
        assert_eq!(view.unknown, ["depht"]);
        assert_eq!(view.values["key"], "(from env:KEY)");
        let bare = ConfigView::of(&settings, None);
        assert!(!bare.has_schema && bare.fields.is_empty() && bare.unknown.is_empty());
        assert_eq!(bare.values.len(), 2);
    }
    /// Wherever in a field a secret stands, and whatever it is held against.
    #[test]
    fn what_is_said_of_a_field_has_no_secret_in_it() {
        const SECRET: &str = "hunter22";
        let token = Token::random();
        token.hide(&[SECRET.to_owned()].into());
        let secret = || format!("a {SECRET}");
        let whole = protocol::ConfigFieldSchema {
            r#type: secret(),
            description: secret(),
            default_value: secret(),
            min_value: secret(),
            max_value: secret(),
            pattern: secret(),
            element_type: secret(),
            required: true,
        };
        let required = || protocol::ConfigFieldSchema { required: true, ..field("string") };
        let modes = protocol::ConfigFieldSchema {
            pattern: format!("^({SECRET}|other)$"),
            ..field("string")
        };
        let fields = vec![
            ("whole", whole),
            ("mode", modes),
            ("hunter22.absent", required()),
            ("hunter22.given", required()),
        ];
        let schema = schema_shown(fields, &|text| token.shown(text));
        let mut settings = settings(&[("mode", SECRET), ("hunter22.given", "x")]);
        settings.from_env.insert("mode".into(), "env:MODE".into());
        // What would be right is not made wrong by what is taken out.
        let problems = schema.problems(&settings);
        assert_eq!(problems, ["[greet] [redacted].absent is not set, and has to be"]);
        assert_eq!(schema.unknown(&settings), [""; 0]);
        let fields = ConfigView::of(&settings, Some(&schema)).fields;
        assert!(!format!("{fields:?}").contains(SECRET), "{fields:?}");
        let [absent, given, mode, whole] = &fields[..] else { panic!("{fields:?}") };
        assert_eq!((absent.name.as_str(), absent.value.as_deref()), ("[redacted].absent", None));
        assert_eq!((given.name.as_str(), given.value.as_deref()), ("[redacted].given", Some("x")));
        assert_eq!(mode.pattern, "^([redacted]|other)$");
        let texts = [&whole.kind, &whole.description, &whole.default, &whole.min, &whole.max];
        let texts = texts.into_iter().chain([&whole.pattern, &whole.element_type]);
        texts.for_each(|text| assert_eq!(text, "a [redacted]"));
    }
}
