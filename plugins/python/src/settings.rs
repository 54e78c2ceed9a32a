//! What the configuration's table `[python]` says, checked.
//!
//! In come keys and their values as text; out go the settings, or the first mistake with its key, its
//! value and what would be right.

use std::path::PathBuf;
use std::time::Duration;

use axwatch_sdk::ConfigField;

/// The keys.
const KEYS: [&str; 5] = ["python", "workers", "timeout_secs", "memory_mb", "python_paths"];
/// The interpreter when nobody says otherwise: looked for in `PATH`.
const PYTHON: &str = "python3";
/// Workers when nobody says otherwise: one a processor, between these.
const WORKERS_DEFAULT: (usize, usize) = (2, 8);
/// The most that can be asked for.
const WORKERS_MAX: usize = 64;
/// How long a job may take when nobody says otherwise.
const TIMEOUT_SECS_DEFAULT: u64 = 60;
/// The longest that can be asked for.
const TIMEOUT_SECS_MAX: u64 = 86_400;
/// Memory of a worker when nobody says otherwise.
const MEMORY_MB_DEFAULT: u64 = 1_024;
/// The least and the most that can be asked for. An interpreter that does nothing needs the half of the
/// least.
const MEMORY_MB: (u64, u64) = (64, 1_048_576);
/// Folders of `python_paths`.
const PATHS_MAX: usize = 100;

/// What is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The interpreter: a name that is looked for in `PATH`, or a path.
    pub python: String,
    /// How many jobs run at once.
    pub workers: usize,
    /// How long one may take.
    pub timeout: Duration,
    /// Bytes of address space of a worker; 0 for as many as there are.
    pub memory_bytes: u64,
    /// Folders in which modules are looked for first.
    pub python_paths: Vec<PathBuf>,
}

impl Default for Settings {
    fn default() -> Settings {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Settings {
            python: PYTHON.to_owned(),
            workers: cores.clamp(WORKERS_DEFAULT.0, WORKERS_DEFAULT.1),
            timeout: Duration::from_secs(TIMEOUT_SECS_DEFAULT),
            memory_bytes: MEMORY_MB_DEFAULT << 20,
            python_paths: Vec::new(),
        }
    }
}

/// A mistake in the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSetting {
    /// Nobody knows the key.
    #[error("[python] has no key {key}; {hint}")]
    Unknown {
        /// As it was written.
        key: String,
        /// What may be meant.
        hint: String,
    },
    /// The value is of no use.
    #[error("[python] {key} = {value:?} is wrong: it must be {right}")]
    Value {
        /// Which.
        key: &'static str,
        /// As it was written.
        value: String,
        /// What would do.
        right: String,
    },
}

impl Settings {
    /// Reads the table.
    pub(crate) fn read<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Settings, BadSetting> {
        let mut settings = Settings::default();
        for (key, value) in pairs {
            settings.put(key, value)?;
        }
        Ok(settings)
    }

    fn put(&mut self, key: &str, value: &str) -> Result<(), BadSetting> {
        match key {
            "python" => self.python = python(value)?,
            "workers" => {
                self.workers = number("workers", value, (1, WORKERS_MAX as u64), "")? as usize;
            }
            "timeout_secs" => {
                let secs = number("timeout_secs", value, (1, TIMEOUT_SECS_MAX), "")?;
                self.timeout = Duration::from_secs(secs);
            }
            "memory_mb" if value == "0" => self.memory_bytes = 0,
            "memory_mb" => {
                let unlimited = ", or 0 for no limit";
                self.memory_bytes = number("memory_mb", value, MEMORY_MB, unlimited)? << 20;
            }
            "python_paths" => self.python_paths = paths(value)?,
            _ => return Err(unknown(key)),
        }
        Ok(())
    }
}

/// What may stand in the table.
pub(crate) fn schema() -> Vec<ConfigField> {
    let (cores, _) = WORKERS_DEFAULT;
    vec![
        ConfigField::string("python", "the interpreter: a name in PATH or an absolute path, such as that of a virtual environment")
            .default_value(PYTHON),
        ConfigField::number("workers", format!("how many jobs run at once; by default one a processor, at least {cores}"))
            .min("1")
            .max(WORKERS_MAX.to_string()),
        ConfigField::number("timeout_secs", "how long a job may take")
            .default_value(TIMEOUT_SECS_DEFAULT.to_string())
            .min("1")
            .max(TIMEOUT_SECS_MAX.to_string()),
        ConfigField::number("memory_mb", "MiB of address space of a worker; 0 for no limit")
            .default_value(MEMORY_MB_DEFAULT.to_string())
            .min("0")
            .max(MEMORY_MB.1.to_string()),
        ConfigField::array("python_paths", "string", "folders in which modules are looked for first")
            .default_value("[]"),
    ]
}

fn python(value: &str) -> Result<String, BadSetting> {
    let right = if value.is_empty() {
        "a program such as python3 or /opt/venv/bin/python"
    } else if value.starts_with('~') {
        "a whole path, as ~ is not expanded here"
    } else if value.contains('/') && !value.starts_with('/') {
        "an absolute path, or a name that is looked for in PATH"
    } else if value.contains('\0') {
        "a path without null bytes"
    } else {
        return Ok(value.to_owned());
    };
    Err(wrong("python", value, right))
}

fn number(
    key: &'static str,
    value: &str,
    (least, most): (u64, u64),
    or: &str,
) -> Result<u64, BadSetting> {
    let found = value.parse().ok().filter(|number| (least..=most).contains(number));
    found.ok_or_else(|| wrong(key, value, &format!("a whole number from {least} to {most}{or}")))
}

fn paths(value: &str) -> Result<Vec<PathBuf>, BadSetting> {
    let key = "python_paths";
    let found: Vec<PathBuf> = serde_json::from_str(value)
        .map_err(|_| wrong(key, value, "a list of folders, such as [\"/srv/handlers\"]"))?;
    if found.len() > PATHS_MAX {
        return Err(wrong(key, value, &format!("a list of at most {PATHS_MAX} folders")));
    }
    match found.iter().find(|path| !path.is_absolute()) {
        Some(path) => Err(wrong(key, &path.to_string_lossy(), "a list of absolute paths")),
        None => Ok(found),
    }
}

fn wrong(key: &'static str, value: &str, right: &str) -> BadSetting {
    BadSetting::Value { key, value: value.to_owned(), right: right.to_owned() }
}

fn unknown(key: &str) -> BadSetting {
    let near = KEYS.iter().max_by(|a, b| {
        let likeness = |known: &str| strsim::jaro_winkler(key, known);
        likeness(a).total_cmp(&likeness(b))
    });
    let hint = match near {
        Some(near) if strsim::jaro_winkler(key, near) > 0.8 => format!("did you mean {near}?"),
        _ => format!("it knows {}", KEYS.join(", ")),
    };
    BadSetting::Unknown { key: key.to_owned(), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read() {
        let table = [
            ("python", "/opt/venv/bin/python"),
            ("workers", "4"),
            ("timeout_secs", "5"),
            ("memory_mb", "64"),
            ("python_paths", r#"["/srv/handlers"]"#),
        ];
        let settings = Settings::read(table).unwrap();
        let expected = Settings {
            python: "/opt/venv/bin/python".into(),
            workers: 4,
            timeout: Duration::from_secs(5),
            memory_bytes: 64 << 20,
            python_paths: vec!["/srv/handlers".into()],
        };
        assert_eq!(settings, expected);
        assert_eq!(Settings::read([("memory_mb", "0")]).unwrap().memory_bytes, 0);
        assert!(Settings::default().workers >= 2);
    }

    #[test]
    fn a_mistake_names_its_key_and_what_would_be_right() {
        let cases = [
            ("worker", "4", "[python] has no key worker; did you mean workers?"),
            (
                "colour",
                "red",
                "[python] has no key colour; it knows python, workers, timeout_secs, memory_mb, python_paths",
            ),
            (
                "workers",
                "0",
                "[python] workers = \"0\" is wrong: it must be a whole number from 1 to 64",
            ),
            ("workers", "many", "it must be a whole number from 1 to 64"),
            ("timeout_secs", "-1", "it must be a whole number from 1 to 86400"),
            ("memory_mb", "10", "it must be a whole number from 64 to 1048576, or 0 for no limit"),
            ("python", "", "it must be a program such as python3"),
            ("python", "~/venv/bin/python", "as ~ is not expanded here"),
            ("python", "venv/bin/python", "it must be an absolute path, or a name"),
            ("python_paths", "/srv", "it must be a list of folders, such as"),
            ("python_paths", r#"["srv"]"#, "\"srv\" is wrong: it must be a list of absolute paths"),
        ];
        for (key, value, says) in cases {
            let mistake = Settings::read([(key, value)]).unwrap_err().to_string();
            assert!(mistake.contains(says), "{key} = {value}: {mistake}");
        }
    }
}
