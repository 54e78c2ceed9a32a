//! What the configuration's table `[notify]` says, checked.
//!
//! In come keys joined with dots and their values as text; out go the settings of each handler, or the
//! first mistake with its key, its value and what would be right. Values that are secret are not shown.
//!
//! Not here: what a watcher's parameters say, which come first (`params`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axwatch_sdk::ConfigField;
use reqwest::header::{HeaderName, HeaderValue};

use crate::exec::{self, ExecSettings};
use crate::file::FileSettings;
use crate::log::{self, LEVELS, LogSettings};
use crate::nearest::nearest;
use crate::webhook::address::{Policy, Rule};
use crate::webhook::signature::Secret;
use crate::webhook::{self, WebhookSettings};

/// The keys, but for those of the tables below.
const KEYS: [&str; 13] = [
    "log.level",
    "log.prefix",
    "file.path",
    "file.folder",
    "file.fsync",
    "webhook.url",
    "webhook.secret",
    "webhook.timeout_secs",
    "webhook.allow",
    "webhook.allow_private",
    "exec.command",
    "exec.timeout_secs",
    "exec.retry_after_secs",
];
/// Tables whose keys are names of somebody's choice.
const HEADERS: &str = "webhook.headers.";
const SECRETS: &str = "webhook.secrets.";
const COMMANDS: &str = "exec.commands.";

/// What is meant.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Settings {
    pub log: LogSettings,
    pub file: FileSettings,
    pub webhook: WebhookSettings,
    pub exec: ExecSettings,
}

/// A mistake in the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSetting {
    /// Nobody knows the key.
    #[error("[notify] has no key {key}; {hint}")]
    Unknown { key: String, hint: String },
    /// The value is of no use.
    #[error("[notify] {key} = {value:?} is wrong: it must be {right}")]
    Value { key: String, value: String, right: String },
    /// The same for a value that is not shown.
    #[error("[notify] {key} is wrong: {right}")]
    Hidden { key: String, right: String },
}

impl Settings {
    /// Reads the table.
    pub(crate) fn read<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Settings, BadSetting> {
        let mut settings = Settings::default();
        let mut policy = Policy::default();
        for (key, value) in pairs {
            settings.put(&mut policy, Entry { key, value })?;
        }
        settings.webhook.policy = Arc::new(policy);
        settings.check()?;
        Ok(settings)
    }

    fn put(&mut self, policy: &mut Policy, entry: Entry<'_>) -> Result<(), BadSetting> {
        match entry.key {
            "log.level" => {
                self.log.level = log::level(entry.value).ok_or_else(|| entry.wrong(LEVELS))?;
            }
            "log.prefix" => self.log.prefix = entry.value.to_owned(),
            "file.path" => self.file.path = Some(entry.text()?.into()),
            "file.folder" => self.file.folder = Some(entry.absolute()?),
            "file.fsync" => self.file.fsync = entry.flag()?,
            "webhook.url" => {
                let url = webhook::parse_url(entry.value)
                    .map_err(|right| entry.hidden(&format!("it must be {right}")))?;
                self.webhook.url = Some(url);
            }
            "webhook.secret" => self.webhook.secret = Some(entry.secret()?),
            "webhook.timeout_secs" => {
                self.webhook.timeout = entry.seconds(webhook::TIMEOUT_SECS_MAX)?;
            }
            "webhook.allow" => policy.allow = entry.rules()?,
            "webhook.allow_private" => policy.allow_private = entry.flag()?,
            "exec.command" => self.exec.command = Some(entry.text()?.to_owned()),
            "exec.timeout_secs" => self.exec.timeout = entry.seconds(exec::TIMEOUT_SECS_MAX)?,
            "exec.retry_after_secs" => {
                self.exec.retry_after = entry.seconds(exec::RETRY_AFTER_SECS_MAX)?;
            }
            _ => self.put_named(entry)?,
        }
        Ok(())
    }

    /// A key whose last part is a name of somebody's choice.
    fn put_named(&mut self, entry: Entry<'_>) -> Result<(), BadSetting> {
        if let Some(name) = entry.below(HEADERS) {
            let (name, value) = entry.header(name)?;
            self.webhook.headers.insert(name, value);
        } else if let Some(name) = entry.below(SECRETS) {
            self.webhook.secrets.insert(name.to_owned(), entry.secret()?);
        } else if let Some(name) = entry.below(COMMANDS) {
            self.exec.commands.insert(name.to_owned(), entry.command_line()?);
        } else {
            return Err(entry.unknown());
        }
        Ok(())
    }

    /// What only becomes wrong together.
    fn check(&self) -> Result<(), BadSetting> {
        if let Some(path) = &self.file.path
            && self.file.locate(path).is_none()
        {
            let value = path.display().to_string();
            let right = "absolute, or file.folder must be set".to_owned();
            return Err(BadSetting::Value { key: "file.path".to_owned(), value, right });
        }
        if let Some(value) = &self.exec.command
            && !self.exec.commands.contains_key(value)
        {
            let known: Vec<&str> = self.exec.commands.keys().map(String::as_str).collect();
            let right = match known.as_slice() {
                [] => "the name of a command, and [notify.exec.commands] has none".to_owned(),
                known => format!("one of [notify.exec.commands]: {}", known.join(", ")),
            };
            let (key, value) = ("exec.command".to_owned(), value.clone());
            return Err(BadSetting::Value { key, value, right });
        }
        Ok(())
    }
}

/// One key with its value.
#[derive(Clone, Copy)]
struct Entry<'a> {
    key: &'a str,
    value: &'a str,
}

impl<'a> Entry<'a> {
    /// What stands behind the table's name, when it is a key of that table.
    fn below(self, table: &str) -> Option<&'a str> {
        self.key.strip_prefix(table).filter(|name| !name.is_empty())
    }

    fn text(self) -> Result<&'a str, BadSetting> {
        if self.value.is_empty() {
            Err(self.wrong("a text that is not empty"))
        } else {
            Ok(self.value)
        }
    }

    fn flag(self) -> Result<bool, BadSetting> {
        self.value.parse().map_err(|_| self.wrong("true or false"))
    }

    fn seconds(self, max: u64) -> Result<Duration, BadSetting> {
        let secs = self.value.parse().ok().filter(|secs| (1..=max).contains(secs));
        let wrong = || self.wrong(&format!("a whole number of seconds, 1 to {max}"));
        secs.map(Duration::from_secs).ok_or_else(wrong)
    }

    fn absolute(self) -> Result<PathBuf, BadSetting> {
        let path = Path::new(self.value);
        if path.is_absolute() { Ok(path.to_owned()) } else { Err(self.wrong("an absolute path")) }
    }

    fn texts(self, right: &str) -> Result<Vec<String>, BadSetting> {
        serde_json::from_str(self.value).map_err(|_| self.wrong(right))
    }

    fn rules(self) -> Result<Vec<Rule>, BadSetting> {
        let right = "a list such as [\"127.0.0.1:9000\", \"10.0.0.0/8\", \"hooks.internal\"]";
        let rule = |text: &String| {
            text.parse().map_err(|problem| self.wrong(&format!("{right}, and {text:?} {problem}")))
        };
        self.texts(right)?.iter().map(rule).collect()
    }

    fn command_line(self) -> Result<Vec<String>, BadSetting> {
        let right = "a program and its arguments, such as [\"make\", \"-C\", \"/srv/site\"]";
        let line = self.texts(right)?;
        let is_good = line.first().is_some_and(|program| !program.is_empty())
            && line.iter().all(|word| !word.contains('\0'));
        if is_good { Ok(line) } else { Err(self.wrong(right)) }
    }

    fn secret(self) -> Result<Secret, BadSetting> {
        let form = "it must be whsec_ and base64, such as what \
                    `echo whsec_$(head -c 24 /dev/urandom | base64)` prints";
        Secret::parse(self.value).map_err(|problem| self.hidden(&format!("it {problem}; {form}")))
    }

    fn header(self, name: &str) -> Result<(HeaderName, HeaderValue), BadSetting> {
        webhook::parse_header(name, self.value)
            .map_err(|right| self.hidden(&format!("it must be {right}")))
    }

    fn wrong(self, right: &str) -> BadSetting {
        let value = self.value.chars().take(200).collect();
        BadSetting::Value { key: self.key.to_owned(), value, right: right.to_owned() }
    }

    fn hidden(self, right: &str) -> BadSetting {
        BadSetting::Hidden { key: self.key.to_owned(), right: right.to_owned() }
    }

    fn unknown(self) -> BadSetting {
        let tables = [HEADERS, SECRETS, COMMANDS];
        if tables.iter().any(|table| table.trim_end_matches('.') == self.key) {
            // Its value is not shown: headers and secrets are secret here too.
            return self.hidden(&format!("it must be a table: [notify.{}] NAME = …", self.key));
        }
        let tables = tables.map(|table| format!("{table}NAME"));
        let hint = match nearest(self.key, KEYS) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known are {}, {}", KEYS.join(", "), tables.join(", ")),
        };
        BadSetting::Unknown { key: self.key.to_owned(), hint }
    }
}

/// The table for people and for checks from outside.
pub(crate) fn schema() -> Vec<ConfigField> {
    let secs = |key: &str, what: &str, default: Duration, max: u64| {
        let (default, max) = (default.as_secs().to_string(), max.to_string());
        ConfigField::number(key, what).default_value(default).min("1").max(max)
    };
    vec![
        ConfigField::string("log.level", format!("level of notify.log: {LEVELS}"))
            .default_value("info"),
        ConfigField::string("log.prefix", "what each line of notify.log begins with"),
        ConfigField::string("file.path", "file of notify.file for jobs that name none"),
        ConfigField::string("file.folder", "absolute folder in which relative paths lie"),
        ConfigField::boolean("file.fsync", "whether a line is on the disk before its job is done")
            .default_value("false"),
        ConfigField::string("webhook.url", "whom notify.webhook calls for jobs that name nobody"),
        ConfigField::string("webhook.headers.NAME", "a header of requests to webhook.url"),
        ConfigField::string("webhook.secret", "key of the signature for jobs that name none")
            .pattern("^whsec_"),
        ConfigField::string("webhook.secrets.NAME", "a key that jobs may name").pattern("^whsec_"),
        secs(
            "webhook.timeout_secs",
            "how long a receiver may take",
            webhook::TIMEOUT_DEFAULT,
            webhook::TIMEOUT_SECS_MAX,
        ),
        ConfigField::array(
            "webhook.allow",
            "string",
            "addresses, networks and hosts that may be called although they are not public",
        ),
        ConfigField::boolean("webhook.allow_private", "whether everything may be called")
            .default_value("false"),
        ConfigField::array(
            "exec.commands.NAME",
            "string",
            "a program and its arguments that notify.exec may run",
        ),
        ConfigField::string("exec.command", "which of them, for jobs that name none"),
        secs(
            "exec.timeout_secs",
            "how long a command may take",
            exec::TIMEOUT_DEFAULT,
            exec::TIMEOUT_SECS_MAX,
        ),
        secs(
            "exec.retry_after_secs",
            "how long exit code 75 puts a job off",
            exec::RETRY_AFTER_DEFAULT,
            exec::RETRY_AFTER_SECS_MAX,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    #[test]
    fn a_full_table_is_understood() {
        let settings = Settings::read([
            ("log.level", "warn"),
            ("log.prefix", "hr:"),
            ("file.path", "claims.jsonl"),
            ("file.folder", "/var/log"),
            ("file.fsync", "true"),
            ("webhook.url", "https://example.com/hook"),
            ("webhook.headers.X-Team", "hr"),
            ("webhook.secret", SECRET),
            ("webhook.secrets.main", SECRET),
            ("webhook.timeout_secs", "300"),
            ("webhook.allow", r#"["127.0.0.1:9000", "10.0.0.0/8"]"#),
            ("webhook.allow_private", "false"),
            ("exec.command", "build"),
            ("exec.commands.build", r#"["make", "-C", "/srv/x"]"#),
            ("exec.timeout_secs", "5"),
            ("exec.retry_after_secs", "7"),
        ])
        .unwrap();
        assert_eq!(settings.file.locate(Path::new("a")), Some("/var/log/a".into()));
        assert!(settings.file.fsync);
        assert_eq!(settings.webhook.headers["x-team"], "hr");
        assert!(settings.webhook.secret.is_some() && settings.webhook.secrets.contains_key("main"));
        assert_eq!(settings.webhook.policy.allow.len(), 2);
        assert_eq!(settings.exec.commands["build"], ["make", "-C", "/srv/x"]);
        assert_eq!(settings.exec.retry_after, Duration::from_secs(7));
        assert_eq!(Settings::read([]), Ok(Settings::default()));
    }

    #[test]
    fn a_mistake_is_named_with_what_is_right() {
        let cases = [
            // (key, value, error)
            ("webhook.alow", "[]", "[notify] has no key webhook.alow; did you mean webhook.allow?"),
            (
                "log.level",
                "loud",
                "[notify] log.level = \"loud\" is wrong: it must be debug, info, warn or error",
            ),
            (
                "file.fsync",
                "yes",
                "[notify] file.fsync = \"yes\" is wrong: it must be true or false",
            ),
            (
                "file.folder",
                "logs",
                "[notify] file.folder = \"logs\" is wrong: it must be an absolute path",
            ),
            (
                "file.path",
                "x",
                "[notify] file.path = \"x\" is wrong: it must be absolute, or file.folder must be set",
            ),
            (
                "webhook.timeout_secs",
                "301",
                "[notify] webhook.timeout_secs = \"301\" is wrong: it must be a whole number of seconds, 1 to 300",
            ),
            (
                "webhook.url",
                "ftp://user:pass@x",
                "[notify] webhook.url is wrong: it must be a URL that begins with https:// or http://",
            ),
            (
                "webhook.headers.Host",
                "x",
                "[notify] webhook.headers.Host is wrong: it must be left out: notify.webhook sets this header itself",
            ),
            (
                "webhook.allow",
                r#"["10.0.0.1/8"]"#,
                "[notify] webhook.allow = \"[\\\"10.0.0.1/8\\\"]\" is wrong: it must be a list such as \
                 [\"127.0.0.1:9000\", \"10.0.0.0/8\", \"hooks.internal\"], and \"10.0.0.1/8\" is no network: \
                 write 10.0.0.0/8 for the network, or the address alone",
            ),
            (
                "exec.commands.build",
                "make",
                "[notify] exec.commands.build = \"make\" is wrong: it must be a program and its arguments, \
                 such as [\"make\", \"-C\", \"/srv/site\"]",
            ),
            (
                "exec.commands",
                "[\"make\"]",
                "[notify] exec.commands is wrong: it must be a table: [notify.exec.commands] NAME = …",
            ),
            (
                "exec.command",
                "build",
                "[notify] exec.command = \"build\" is wrong: it must be the name of a command, \
                 and [notify.exec.commands] has none",
            ),
        ];
        for (key, value, error) in cases {
            assert_eq!(Settings::read([(key, value)]).unwrap_err().to_string(), error);
        }
        for value in ["[]", "[\"\"]", "[1]", "{}", "[\"a\\u0000\"]"] {
            assert!(Settings::read([("exec.commands.x", value)]).is_err(), "{value}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        for key in ["webhook.secret", "webhook.secrets.main"] {
            let error = Settings::read([(key, "hunter2")]).unwrap_err().to_string();
            assert!(error.contains("does not begin with whsec_"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    /// What is read and what is told of it are the same keys.
    #[test]
    fn the_schema_knows_every_key() {
        let known = format!("{:?}", schema());
        for key in KEYS {
            assert!(known.contains(&format!("\"{key}\"")), "{key}");
        }
        for table in [HEADERS, SECRETS, COMMANDS] {
            assert!(known.contains(&format!("\"{table}NAME\"")), "{table}");
        }
    }
}
