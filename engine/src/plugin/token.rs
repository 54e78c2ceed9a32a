//! Tokens: how a plugin's process shows that it is the one that we started.
//!
//! A token is made for one process, told to it in Initialize, kept here only as a hash, and dead when
//! the process is. Who calls is decided by the token alone, never by what a request says.

use std::sync::Arc;
use std::sync::Mutex;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::caller::Caller;
use super::settings::hex;

/// What stands where a token stood.
const REDACTED: &str = "[redacted]";

/// The secret of one process: 256 random bits, in hex.
///
/// It can be told and looked for, and nothing else: no `Debug`, no `Display`, no comparison.
pub(crate) struct Token(String);

impl Token {
    /// A new one.
    pub(crate) fn random() -> Token {
        Token(hex(&rand::random::<[u8; 32]>()))
    }

    /// A known one, for tests.
    #[cfg(test)]
    pub(crate) fn known(secret: &str) -> Token {
        Token(secret.to_owned())
    }

    /// The same text without this token in it: plugins have been seen to print what they are told.
    pub(crate) fn redact(&self, text: String) -> String {
        if text.contains(self.0.as_str()) { text.replace(self.0.as_str(), REDACTED) } else { text }
    }

    /// The text that the process gets, and that must not be seen anywhere else.
    pub(crate) fn expose(&self) -> &str {
        &self.0
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
