//! What a job of `ixgest.git` asks for: bytes in, a checked request out.

use std::path::PathBuf;

use serde_json::Value;

use crate::error::GitError;
use crate::history::Since;
use crate::repository::Repository;

const SHAPE: &str = r#"{"repository_source": "/path/of/a/clone", "since": "2024-05-15"}, where since may be left out"#;
const KEYS: [&str; 2] = ["repository_source", "since"];

/// A checked payload.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    /// Where the repository is.
    pub(crate) path: PathBuf,
    /// As it was given; whether it names a commit is known once the repository is open.
    pub(crate) since: Option<String>,
}

/// Why a payload is no request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidRequest {
    /// No JSON object.
    #[error("the payload is no JSON object ({0}); it must be {SHAPE}")]
    Json(String),
    /// Keys that mean nothing here.
    #[error("the payload has unknown keys: {0}; known are repository_source and since")]
    UnknownKeys(String),
    /// No `repository_source`.
    #[error("the payload has no repository_source; it must be {SHAPE}")]
    NoSource,
    /// A value that is no text.
    #[error("{0} must be a text; the payload must be {SHAPE}")]
    NotText(&'static str),
    /// A source that is no path.
    #[error("repository_source: {0}")]
    Source(#[from] GitError),
}

impl Request {
    /// Reads a job's payload.
    pub(crate) fn parse(payload: &[u8]) -> Result<Request, InvalidRequest> {
        let json = match serde_json::from_slice(payload) {
            Ok(Value::Object(json)) => json,
            Ok(_) => return Err(InvalidRequest::Json("it is another kind of JSON".to_owned())),
            Err(error) => return Err(InvalidRequest::Json(error.to_string())),
        };
        let unknown = json.keys().filter(|key| !KEYS.contains(&key.as_str()));
        let unknown: Vec<_> = unknown.map(|key| format!("{key:?}")).collect();
        if !unknown.is_empty() {
            return Err(InvalidRequest::UnknownKeys(unknown.join(", ")));
        }
        let text = |key: &'static str| match json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim().to_owned())),
            Some(_) => Err(InvalidRequest::NotText(key)),
        };
        let source = text("repository_source")?.ok_or(InvalidRequest::NoSource)?;
        let since = text("since")?.filter(|since| !since.is_empty());
        Ok(Request { path: local_path(&source)?, since })
    }
}

/// The path that a source names.
fn local_path(source: &str) -> Result<PathBuf, GitError> {
    if source.is_empty() {
        return Err(GitError::NoPath);
    }
    if source == "~" || source.starts_with("~/") {
        return Err(GitError::Home(source.to_owned()));
    }
    if let Some(rest) = source.strip_prefix("file://") {
        let path = rest.strip_prefix("localhost").unwrap_or(rest);
        return if path.starts_with('/') {
            Ok(percent_decoded(path).into())
        } else {
            Err(GitError::Remote(source.to_owned()))
        };
    }
    if is_address(source) {
        return Err(GitError::Remote(source.to_owned()));
    }
    Ok(source.into())
}

/// `scheme://…`, and `host:path` as ssh has it: a colon before the first slash, as git decides it,
/// unless there is such a file.
fn is_address(source: &str) -> bool {
    let first = source.split('/').next().unwrap_or_default();
    source.contains("://") || (first.contains(':') && !std::path::Path::new(source).exists())
}

/// What stands behind `%20` and the like in the path of an address. What is no such mark stays.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        let byte =
            hex.filter(|_| bytes[at] == b'%').and_then(|two| u8::from_str_radix(two, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// What a `since` means in this repository: a time, a day, or a commit, in this order. No reference
/// that people use looks like a time.
pub(crate) fn resolve(since: Option<&str>, repository: &Repository) -> Result<Since, GitError> {
    let Some(text) = since else { return Ok(Since::Beginning) };
    match moment(text) {
        Some(seconds) => Ok(Since::Seconds(seconds)),
        None => repository.named_commit(text).map(Since::Commit),
    }
}

/// The first whole second at or after an RFC 3339 time, or at the start of a day in UTC.
fn moment(text: &str) -> Option<i64> {
    let timestamp = match text.parse::<jiff::Timestamp>() {
        Ok(timestamp) => timestamp,
        Err(_) if is_day(text) => {
            let day: jiff::civil::Date = text.parse().ok()?;
            day.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()
        }
        Err(_) => return None,
    };
    let down = timestamp.as_second();
    // Before 1970 jiff counts the part of a second downwards, so that `down` is the later one already.
    Some(if timestamp.subsec_nanosecond() > 0 { down + 1 } else { down })
}

/// `2024-05-15`, and not `20240515`, which may begin a hash.
fn is_day(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_strictly() {
        let cases = [
            ("", "no JSON object"),
            ("[]", "no JSON object"),
            ("{}", "no repository_source"),
            (r#"{"repository_source": 5}"#, "repository_source must be a text"),
            (r#"{"repository_source": ""}"#, "no repository is named"),
            (r#"{"repository_source": "/x", "since": 5}"#, "since must be a text"),
            (r#"{"repo": "/x", "depth": 1}"#, r#"unknown keys: "depth", "repo"; known are"#),
            (r#"{"repository_source": "~/x"}"#, "`~` is not expanded"),
            (r#"{"repository_source": "https://example.org/x.git"}"#, "clone it first"),
            (r#"{"repository_source": "git@example.org:x/y.git"}"#, "clone it first"),
            (r#"{"repository_source": "file://example.org/x.git"}"#, "clone it first"),
        ];
        for (payload, reason) in cases {
            let error = Request::parse(payload.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
        }
    }

    #[test]
    fn a_source_is_a_path_or_a_file_address() {
        let cases = [
            (r#"{"repository_source": "/x"}"#, "/x", None),
            (r#"{"repository_source": "."}"#, ".", None),
            (r#"{"repository_source": "x/a:b"}"#, "x/a:b", None),
            (r#"{"repository_source": "file:///x%20y/%zz"}"#, "/x y/%zz", None),
            (r#"{"repository_source": "file://localhost/x"}"#, "/x", None),
            (r#"{"repository_source": "/x", "since": ""}"#, "/x", None),
            (r#"{"repository_source": "/x", "since": null}"#, "/x", None),
            (r#"{"repository_source": "/x", "since": "v1"}"#, "/x", Some("v1")),
        ];
        for (payload, path, since) in cases {
            let expected = Request { path: path.into(), since: since.map(str::to_owned) };
            assert_eq!(Request::parse(payload.as_bytes()).unwrap(), expected, "{payload}");
        }
    }

    #[test]
    fn a_moment_is_a_time_or_a_day() {
        let cases = [
            ("2024-05-15T14:30:00Z", Some(1_715_783_400)),
            ("2024-05-15T14:30:00.5Z", Some(1_715_783_401)),
            ("2024-05-15T16:30:00+02:00", Some(1_715_783_400)),
            ("2024-05-15", Some(1_715_731_200)),
            ("1969-12-31T23:59:58.5Z", Some(-1)),
            ("20240515", None),
            ("2024-13-45", None),
            ("2024-05-15T14:30:00", None),
            ("yesterday", None),
            ("main", None),
        ];
        for (text, expected) in cases {
            assert_eq!(moment(text), expected, "{text}");
        }
    }
}
