//! The watchers of a run: how each is declared, and what that means, told once more in a form that
//! needs no parser.

use serde_json::{Value, json};

/// The plugin, and the owner of the watchers that it registers.
pub const PLUGIN: &str = "ledger";
/// The owner of the others.
pub const USER: &str = "user";

/// Answers at once.
pub const QUICK: &str = "ledger.quick";
/// Takes its time.
pub const SLOW: &str = "ledger.slow";
/// Fails at first, puts off, or gives up.
pub const SHAKY: &str = "ledger.shaky";
/// Makes a claim on behalf of its job.
pub const ECHO: &str = "ledger.echo";

/// What the claim that [`ECHO`] makes says.
pub const ECHOED: &str = "echoed";

/// Which claims a watcher waits for. An empty list is not asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub subjects: &'static [&'static str],
    pub predicates: &'static [&'static str],
    pub contexts: &'static [&'static str],
    pub not_contexts: &'static [&'static str],
    pub actors: &'static [&'static str],
    /// Compared byte for byte; else upper and lower case are one.
    pub exact: bool,
}

const NOTHING: Shape = Shape {
    subjects: &[],
    predicates: &[],
    contexts: &[],
    not_contexts: &[],
    actors: &[],
    exact: false,
};

const fn is(predicates: &'static [&'static str]) -> Shape {
    Shape { predicates, ..NOTHING }
}

const fn exactly(predicates: &'static [&'static str]) -> Shape {
    Shape { predicates, exact: true, ..NOTHING }
}

/// The terms of a claim, as the log has them.
pub struct Terms<'a> {
    pub subjects: &'a [String],
    pub predicates: &'a [String],
    pub contexts: &'a [String],
    pub actors: &'a [String],
}

impl Shape {
    /// Whether a claim is one of those.
    pub fn holds_for(&self, terms: &Terms<'_>) -> bool {
        let any = |asked: &[&str], there: &[String]| {
            asked.iter().any(|asked| there.iter().any(|there| self.same(asked, there)))
        };
        let dimensions = [
            (self.subjects, terms.subjects),
            (self.predicates, terms.predicates),
            (self.contexts, terms.contexts),
            (self.actors, terms.actors),
        ];
        dimensions.iter().all(|(asked, there)| asked.is_empty() || any(asked, there))
            && !any(self.not_contexts, terms.contexts)
    }

    fn same(&self, asked: &str, there: &str) -> bool {
        if self.exact { asked == there } else { asked.eq_ignore_ascii_case(there) }
    }

    /// As the store keeps what a plugin registered.
    fn structural(&self) -> Value {
        let mut lists = json!({});
        let dimensions = [
            ("subjects", self.subjects),
            ("predicates", self.predicates),
            ("contexts", self.contexts),
            ("actors", self.actors),
        ];
        for (key, list) in dimensions.iter().filter(|(_, list)| !list.is_empty()) {
            lists[*key] = json!(list);
        }
        json!({ "structural": lists })
    }
}

/// A watcher as it is declared. One that changes during the run has several under one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watcher {
    pub owner: &'static str,
    pub local: &'static str,
    /// Its AX; empty for lists.
    pub when: &'static str,
    pub shape: Shape,
    pub handlers: &'static [&'static str],
    /// Fires a second; `None` is no limit.
    pub limit: Option<u32>,
}

impl Watcher {
    /// What the store keeps of its declaration.
    pub fn declared(&self) -> Value {
        if self.when.is_empty() { self.shape.structural() } else { json!({ "ax": self.when }) }
    }
}

const fn user(
    local: &'static str,
    when: &'static str,
    shape: Shape,
    handlers: &'static [&'static str],
    limit: Option<u32>,
) -> Watcher {
    Watcher { owner: USER, local, when, shape, handlers, limit }
}

const fn registered(
    local: &'static str,
    shape: Shape,
    handlers: &'static [&'static str],
    limit: Option<u32>,
) -> Watcher {
    Watcher { owner: PLUGIN, local, when: "", shape, handlers, limit }
}

/// Those of the user that stand throughout, as they are declared.
pub const STANDING: [Watcher; 8] = [
    user("steady", "is seen", is(&["seen"]), &[QUICK], None),
    user(
        "both",
        "is moved of place-1 place-2",
        Shape { contexts: &["place-1", "place-2"], ..is(&["moved"]) },
        &[QUICK, SLOW],
        None,
    ),
    user(
        "choosy",
        "item-1 item-2 lot-3 is seen sold of not place-3 by clerk-1 clerk-2 clerk-3",
        Shape {
            subjects: &["item-1", "item-2", "lot-3"],
            not_contexts: &["place-3"],
            actors: &["clerk-1", "clerk-2", "clerk-3"],
            ..is(&["seen", "sold"])
        },
        &[QUICK],
        None,
    ),
    user("echoes", "is echoed", is(&[ECHOED]), &[QUICK], None),
    user("one", "is lost", is(&["lost"]), &[QUICK], Some(1)),
    user("five", "is late", is(&["late"]), &[SHAKY], Some(5)),
    user("twenty", "is sold", is(&["sold"]), &[QUICK], Some(20)),
    user("hundred", "is moved", is(&["moved"]), &[QUICK], Some(100)),
];

/// One that is paused and goes on.
pub const HELD: Watcher = user("held", "is held", is(&["held"]), &[QUICK], None);
/// One that is removed and comes back.
pub const PASSING: Watcher = user("passing", "is passing", is(&["passing"]), &[QUICK, SLOW], None);
/// One whose limit and text change.
pub const DIAL: [Watcher; 4] = [
    user("dial", "is dialled", is(&["dialled"]), &[QUICK], Some(30)),
    user("dial", "is dialled", is(&["dialled"]), &[QUICK], Some(12)),
    user("dial", "is dialled of not place-9", NOT_NINE, &[QUICK], Some(30)),
    user("dial", "is dialled of not place-9", NOT_NINE, &[SLOW], Some(60)),
];
const NOT_NINE: Shape = Shape { not_contexts: &["place-9"], ..is(&["dialled"]) };

/// Those that the plugin always registers.
pub const REGISTERED: [Watcher; 3] = [
    registered("broken", exactly(&["broken"]), &[SHAKY], None),
    registered("asked", exactly(&["asked"]), &[ECHO], None),
    registered(
        "slow",
        Shape {
            subjects: &["item-7", "item-8"],
            contexts: &["place-1", "place-4", "_"],
            exact: true,
            ..NOTHING
        },
        &[SLOW],
        None,
    ),
];

/// One that the plugin registers so, or so, or not at all.
pub const FLIPPED: [Watcher; 2] = [
    registered("flipped", exactly(&["flipped"]), &[QUICK], Some(10)),
    registered("flipped", exactly(&["flipped"]), &[QUICK], Some(25)),
];

/// All of them, in every form.
pub fn all() -> impl Iterator<Item = Watcher> {
    let changing = [HELD, PASSING].into_iter().chain(DIAL).chain(FLIPPED);
    STANDING.into_iter().chain(REGISTERED).chain(changing)
}

/// Those whose fires nothing holds back: neither a limit nor a person.
pub fn is_free(owner: &str, local: &str) -> bool {
    STANDING
        .iter()
        .chain(&REGISTERED)
        .any(|w| (w.owner, w.local) == (owner, local) && w.limit.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_shape_says_which_claims() {
        let of = |local: &str| all().find(|watcher| watcher.local == local).unwrap().shape;
        let cases = [
            ("choosy", "item-1", "seen", "place-1", "clerk-1", true),
            ("choosy", "item-9 lot-3", "sold", "_", "clerk-2", true),
            ("choosy", "item-1", "seen", "place-1 PLACE-3", "clerk-1", false),
            ("choosy", "item-1", "seen", "place-1", "clerk-4", false),
            ("choosy", "item-3", "seen", "place-1", "clerk-1", false),
            ("both", "item-3", "moved", "PLACE-2", "x", true),
            ("slow", "item-7", "seen", "place-1", "x", true),
            ("slow", "item-7", "seen", "PLACE-1", "x", false),
            ("slow", "item-7", "seen", "_", "x", true),
        ];
        for (local, subjects, predicates, contexts, actors, expected) in cases {
            let lists = [subjects, predicates, contexts, actors].map(words);
            let terms = Terms {
                subjects: &lists[0],
                predicates: &lists[1],
                contexts: &lists[2],
                actors: &lists[3],
            };
            assert_eq!(of(local).holds_for(&terms), expected, "{local} for {subjects} {contexts}");
        }
    }
}
