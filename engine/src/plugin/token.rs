//! Tokens: how a plugin's process shows that it is the one that we started.
//!
//! A token is made for one process, told to it in Initialize, kept here only as a hash, and dead when
//! the process is. Who calls is decided by the token alone, never by what a request says.
//!
//! With it goes what else must not be seen in the plugin's words: the secrets of its configuration.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use axwatch_model::PluginName;
use axwatch_model::bounds::{ERROR_BYTES_MAX, cut};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::caller::Caller;
use super::output::without_controls;
use super::settings::hex;

/// What stands where a token stood.
const REDACTED: &str = "[redacted]";
/// Secrets of a configuration that are shorter are not looked for: they would be found everywhere.
const SECRET_BYTES_MIN: usize = 6;

/// The secret of one process: 256 random bits, in hex.
///
/// It can be told and looked for, and nothing else: no `Debug`, no `Display`, no comparison.
pub(crate) struct Token {
    secret: String,
    /// What else is taken out of the process's words, each as it may be written, the longest first.
    others: RwLock<Vec<String>>,
}

impl Token {
    /// A new one.
    pub(crate) fn random() -> Token {
        Token { secret: hex(&rand::random::<[u8; 32]>()), others: RwLock::default() }
    }

    /// From now on these are redacted too.
    pub(crate) fn hide(&self, secrets: &BTreeSet<String>) {
        // Whoever reads one from a file may leave its last line end away, and a log has lines, so that a key
        // in several comes in pieces.
        let whole = secrets.iter().flat_map(|secret| [secret.as_str(), secret.trim()]);
        let lines = secrets.iter().flat_map(|secret| secret.lines().map(str::trim));
        let ways = whole.chain(lines).flat_map(ways_to_write);
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.extend(ways.filter(|way| way.len() >= SECRET_BYTES_MIN));
        // One may begin another, whose rest would be left.
        others.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        others.dedup();
    }

    /// A known one, for tests.
    #[cfg(test)]
    pub(crate) fn known(secret: &str) -> Token {
        Token { secret: secret.to_owned(), others: RwLock::default() }
    }

    /// The same text without this token in it: plugins have been seen to print what they are told.
    pub(crate) fn redact(&self, mut text: String) -> String {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        for secret in others.iter().chain([&self.secret]) {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REDACTED);
            }
        }
        text
    }

    /// What a plugin says as it may be kept and shown: as `wire::shown`, without secrets. They are
    /// looked for before anything is cut off, or a part of one would stay.
    pub(crate) fn shown(&self, text: &str) -> String {
        let window = 2 * ERROR_BYTES_MAX + self.longest();
        let clean = self.redact(without_controls(cut(text, window)));
        let clean = if text.len() > window { self.without_part(&clean) } else { &clean };
        cut(clean.trim_end(), ERROR_BYTES_MAX).to_owned()
    }

    /// Bytes of the longest secret.
    pub(crate) fn longest(&self) -> usize {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.first().map_or(0, String::len).max(self.secret.len())
    }

    /// A text that was cut off, without the beginning of a secret at its end.
    pub(crate) fn without_part<'a>(&self, text: &'a str) -> &'a str {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        let part = |secret: &String| {
            let beginnings = (SECRET_BYTES_MIN..secret.len()).rev();
            let mut beginnings = beginnings.filter_map(|end| secret.get(..end));
            beginnings.find(|beginning| text.ends_with(beginning)).map(str::len)
        };
        let longest = others.iter().chain([&self.secret]).filter_map(part).max();
        &text[..text.len() - longest.unwrap_or(0)]
    }

    /// The text that the process gets, and that must not be seen anywhere else.
    pub(crate) fn expose(&self) -> &str {
        &self.secret
    }
}

/// A secret as logging libraries write it: as it is, on one line, and in JSON, of which some escape
/// slashes, what means something in HTML, or all that is not ASCII.
fn ways_to_write(secret: &str) -> BTreeSet<String> {
    let json = serde_json::Value::from(secret).to_string();
    let json = json[1..json.len() - 1].to_owned();
    let html = json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let dotnet = html.replace("\\u003c", "\\u003C").replace("\\u003e", "\\u003E");
    let ascii = |text: &str| -> String {
        let mut units = [0; 2];
        let escaped = |c: char| match c {
            c if c.is_ascii() => c.to_string(),
            c => c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
        };
        text.chars().map(escaped).collect()
    };
    let slashes = json.replace('/', "\\/");
    let escaped = [ascii(&json), ascii(&html), ascii(&slashes), html, dotnet, slashes, json];
    [secret.to_owned(), without_controls(secret)].into_iter().chain(escaped).collect()
}

/// What we keep of a token.
struct TokenHash([u8; 32]);

impl TokenHash {
    fn of(text: &str) -> TokenHash {
        TokenHash(Sha256::digest(text.as_bytes()).into())
    }
}

/// The processes whose tokens are alive.
#[derive(Default)]
pub(crate) struct Callers(Mutex<Vec<(TokenHash, Arc<Caller>)>>);

impl Callers {
    /// Lets the bearer of `token` call as `caller`, until [`Callers::revoke`].
    pub(crate) fn admit(&self, token: &Token, caller: Arc<Caller>) {
        self.lock().push((TokenHash::of(token.expose()), caller));
    }

    /// Ends a token. Streams that it opened end too.
    pub(crate) fn revoke(&self, caller: &Arc<Caller>) {
        self.lock().retain(|(_, known)| !Arc::ptr_eq(known, caller));
        caller.kill();
    }

    /// Whose token this is. Looks at every hash whatever it finds, so that the time tells nothing.
    pub(crate) fn find(&self, presented: &str) -> Option<Arc<Caller>> {
        let presented = TokenHash::of(presented);
        let mut found = None;
        for (hash, caller) in self.lock().iter() {
            if bool::from(hash.0.ct_eq(&presented.0)) {
                found = Some(caller.clone());
            }
        }
        found
    }

    /// A call failed of which nobody knows whose it was: one of this plugin's processes, or any that has not
    /// made a call that could be read, as one that has is known by its connection.
    pub(crate) fn call_failed(&self, plugin: Option<&PluginName>) {
        for (_, caller) in self.lock().iter() {
            let may_be = match plugin {
                Some(plugin) => *plugin == caller.plugin,
                None => !caller.has_called(),
            };
            if may_be {
                caller.call_failed();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(TokenHash, Arc<Caller>)>> {
        self.0.lock().expect("no holder of the tokens panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_secret_is_left() {
        let token = Token::known(&"5ec2e7a0".repeat(8));
        let long = "caf\u{e9}/<\"hunter2\">&";
        let control = "\u{1}".repeat(SECRET_BYTES_MIN);
        let key = "-----BEGIN KEY-----\nMIIEabcdef/rest\n-----END KEY-----\n";
        let secrets = ["hunter2", "hunter2-long", long, "two\nlines", "of-a-file\n", &control, key];
        let secrets = secrets.map(str::to_owned).into();
        for _ in 0..3 {
            token.hide(&secrets);
        }
        let ways = token.others.read().unwrap().len();
        assert!(ways <= 48, "{ways}: the same ones once");
        assert_eq!(token.shown("short"), "short", "nothing is found everywhere");
        let cases = [
            "hunter2-long",
            long,
            r#"caf\u00e9\/<\"hunter2\">&"#,
            r#"caf\u00e9/\u003c\"hunter2\"\u003e\u0026"#,
            "caf\u{e9}/\\u003C\\\"hunter2\\\"\\u003E\\u0026",
            "of-a-file",
            "MIIEabcdef/rest",
            r#"caf\u00e9/<\"hunter2\">&"#,
            "caf\u{e9}/<\\\"hunter2\\\">&",
            "two\nlines",
            r"two\nlines",
            token.expose(),
        ];
        for case in cases {
            assert_eq!(token.shown(&format!("a {case}, b")), "a [redacted], b", "{case}");
        }
        // Wherever the bound falls.
        for before in (ERROR_BYTES_MAX - 80..ERROR_BYTES_MAX).chain([8_180, 8_200, 8_240]) {
            for secret in [token.expose(), "hunter2-long"] {
                let coloured: String = secret.chars().map(|c| format!("\x1b[1m{c}")).collect();
                for secret in [secret.to_owned(), coloured] {
                    let shown = token.shown(&format!(
                        "{}{secret}{}",
                        "x".repeat(before),
                        "y".repeat(9_999)
                    ));
                    assert!(shown.len() <= ERROR_BYTES_MAX);
                    assert!(!shown.contains("5ec2e7") && !shown.contains("hunter"), "{before}");
                }
            }
        }
    }

    #[test]
    fn a_token_is_its_process_until_it_is_revoked() {
        let callers = Callers::default();
        let (first, second) = (Token::random(), Token::random());
        let caller =
            |name: &str| Arc::new(Caller::new(name.parse().unwrap(), 1, false, Arc::default()));
        let (git, notify) = (caller("git"), caller("notify"));
        callers.admit(&first, git.clone());
        callers.admit(&second, notify.clone());

        assert_eq!(first.expose().len(), 64);
        let told = first.redact(format!("auth_token: {:?}, rest", first.expose()));
        assert_eq!(told, "auth_token: \"[redacted]\", rest");
        first.hide(&["hunter22", "on"].map(str::to_owned).into());
        let told = first.redact(format!("on with hunter22 and {}", first.expose()));
        assert_eq!(told, "on with [redacted] and [redacted]");
        assert!(Arc::ptr_eq(&callers.find(first.expose()).unwrap(), &git));
        assert!(Arc::ptr_eq(&callers.find(second.expose()).unwrap(), &notify));
        for wrong in ["", "x", &first.expose()[1..], &format!("{}0", first.expose())] {
            assert!(callers.find(wrong).is_none());
        }

        callers.revoke(&git);
        assert!(callers.find(first.expose()).is_none());
        assert!(!git.is_alive() && notify.is_alive());
    }
}
