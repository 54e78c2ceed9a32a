//! What may not be said aloud of a plugin's words.
//!
//! The core writes what it refuses into rows and the audit, and says why in words of its own that quote
//! the plugin's. Which of these are secrets only the plugin's host knows, and brings it along with what the
//! plugin announced.

use std::fmt;
use std::sync::Arc;

use axwatch_model::Declared;

use crate::event::{Declaration, RouteDeclaration, ScheduleDeclaration, Since};

/// Why something is refused that would stand without its secrets.
pub(crate) const UNSAID: &str = "what is wrong with it cannot be said without its secrets";

/// Takes a plugin's secrets out of a text. By default it has none.
#[derive(Clone, Default)]
pub struct Redaction(Option<Arc<Redact>>);

type Redact = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Redaction {
    /// `redact` gives a text without the secrets in it; `None` when it holds none.
    pub fn new(redact: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Redaction {
        Redaction(Some(Arc::new(redact)))
    }

    /// A text without the secrets in it.
    pub(crate) fn of(&self, mut text: String) -> String {
        self.hide(&mut text);
        text
    }

    /// A watcher without the secrets in it, if there are any. Its id stays: by that it is known.
    pub(crate) fn of_watcher(&self, declaration: &Declaration) -> Option<Declaration> {
        self.0.as_ref()?;
        let mut told = declaration.clone();
        let mut has_secrets = false;
        told.for_each_text(&mut |text| has_secrets |= self.hide(text));
        has_secrets.then_some(told)
    }

    /// A schedule without the secrets in it.
    pub(crate) fn of_schedule(&self, mut declaration: ScheduleDeclaration) -> ScheduleDeclaration {
        self.hide(&mut declaration.id);
        self.hide(&mut declaration.handler);
        self.hide(&mut declaration.description);
        self.hide(&mut declaration.ats_code);
        declaration
    }

    /// A route without the secrets in it.
    pub(crate) fn of_route(&self, mut declaration: RouteDeclaration) -> RouteDeclaration {
        self.hide(&mut declaration.method);
        self.hide(&mut declaration.path);
        self.hide(&mut declaration.description);
        declaration
    }

    /// Whether there was one in it.
    fn hide(&self, text: &mut String) -> bool {
        let told = self.0.as_ref().and_then(|redact| redact(text));
        let had_secrets = told.is_some();
        *text = told.unwrap_or(std::mem::take(text));
        had_secrets
    }
}

impl Declaration {
    /// Each of its texts but its id.
    pub fn for_each_text(&mut self, each: &mut dyn FnMut(&mut String)) {
        match &mut self.declared {
            Declared::Ax(text) => each(text),
            Declared::Structural(lists) => {
                let (subjects, predicates) = (&mut lists.subjects, &mut lists.predicates);
                let lists = [subjects, predicates, &mut lists.contexts, &mut lists.actors];
                lists.into_iter().flatten().for_each(&mut *each);
            }
        }
        self.handlers.iter_mut().for_each(&mut *each);
        if let Some(Since::Written(text) | Since::Nowhere(text)) = &mut self.since {
            each(text);
        }
        if let Some(params) = &mut self.params {
            let mut text = params.to_string();
            each(&mut text);
            if text != **params {
                *params = text.into();
            }
        }
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redaction")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_schedule_or_a_route_keeps_a_secret() {
        let redact = |text: &str| text.contains("hunter2").then(|| text.replace("hunter2", "*"));
        let redaction = Redaction::new(redact);
        let secret = || "a hunter2".to_owned();
        let schedule = redaction.of_schedule(ScheduleDeclaration {
            id: secret(),
            handler: secret(),
            interval_secs: 60,
            enabled_by_default: true,
            description: secret(),
            ats_code: secret(),
        });
        let texts = [schedule.id, schedule.handler, schedule.description, schedule.ats_code];
        assert_eq!(texts, ["a *"; 4]);
        let route = RouteDeclaration { method: secret(), path: secret(), description: secret() };
        let route = redaction.of_route(route);
        assert_eq!([route.method, route.path, route.description], ["a *"; 3]);
    }
}
