//! Tokens: how a plugin's process shows that it is the one that we started.
//!
//! A token is made for one process, told to it in Initialize, kept here only as a hash, and dead when
//! the process is. Who calls is decided by the token alone, never by what a request says.
//!
//! With it goes what else must not be seen in the plugin's words: the secrets of its configuration.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::caller::Caller;
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
    /// What else is taken out of the process's words.
    others: RwLock<Vec<String>>,
}

impl Token {
    /// A new one.
    pub(crate) fn random() -> Token {
        Token { secret: hex(&rand::random::<[u8; 32]>()), others: RwLock::default() }
    }

    /// From now on these are redacted too.
    pub(crate) fn hide(&self, secrets: &BTreeSet<String>) {
        let secrets = secrets.iter().filter(|secret| secret.len() >= SECRET_BYTES_MIN).cloned();
        self.others.write().unwrap_or_else(PoisonError::into_inner).extend(secrets);
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

    /// The text that the process gets, and that must not be seen anywhere else.
    pub(crate) fn expose(&self) -> &str {
        &self.secret
    }
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(TokenHash, Arc<Caller>)>> {
        self.0.lock().expect("no holder of the tokens panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
