//! The aliases in force, from the changes that the log holds.

use std::sync::{Arc, Mutex};

use axwatch_model::Seq;
use axwatch_query::{AliasChange, Aliases};

use crate::store::{Store, StoreError};

/// The aliases in force for the claim with this number: what all changes before it left.
///
/// # Errors
/// [`StoreError`] when the store does not answer.
pub async fn aliases_before(store: &dyn Store, seq: Seq) -> Result<Aliases, StoreError> {
    let mut aliases = AliasesOnTheWay::new(store.alias_changes(Seq(0)).await?);
    aliases.before(seq);
    Ok(aliases.aliases)
}

/// The aliases at one claim after the other.
#[derive(Debug)]
pub struct AliasesOnTheWay {
    /// All changes, rising.
    changes: Vec<(Seq, AliasChange)>,
    /// How many of them have been made.
    made: usize,
    aliases: Aliases,
}

impl AliasesOnTheWay {
    /// Those that these changes make, of which none has been made yet. See [`Store::alias_changes`].
    #[must_use]
    pub fn new(changes: Vec<(Seq, AliasChange)>) -> AliasesOnTheWay {
        AliasesOnTheWay { changes, made: 0, aliases: Aliases::default() }
    }

    /// All changes, those that are yet to be made too.
    #[must_use]
    pub fn changes(&self) -> &[(Seq, AliasChange)] {
        &self.changes
    }

    /// Those in force at this number, which is never lower than the one before: what all changes before
    /// it left.
    pub fn before(&mut self, seq: Seq) -> &Aliases {
        while let Some((_, change)) = self.changes.get(self.made).filter(|(at, _)| *at < seq) {
            self.aliases.apply(change);
            self.made += 1;
        }
        &self.aliases
    }
}

/// The aliases at the head of one store, kept: each time it is asked it reads only what changed since.
#[derive(Debug, Default)]
pub struct AliasBook {
    /// Up to which change, and what it left.
    known: Mutex<(Seq, Arc<Aliases>)>,
}

impl AliasBook {
    /// A book that knows of nothing yet.
    #[must_use]
    pub fn new() -> AliasBook {
        AliasBook::default()
    }

    /// A head of the log, and the aliases that all changes up to it left, and none after it. Ask the
    /// same store each time.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn at_head(&self, store: &dyn Store) -> Result<(Seq, Arc<Aliases>), StoreError> {
        // The head first: whatever was changed up to it is among the changes then.
        let head = store.head().await?;
        let (upto, known) = self.known();
        let changes = store.alias_changes(upto).await?;
        let Some((last, _)) = changes.last() else { return Ok((head.max(upto), known)) };
        let mut aliases = Aliases::clone(&known);
        for (_, change) in &changes {
            aliases.apply(change);
        }
        let (last, aliases) = (*last, Arc::new(aliases));
        let mut known = self.known.lock().expect("no holder of the aliases panics");
        // Another question may have come further meanwhile.
        if known.0 < last {
            *known = (last, aliases.clone());
        }
        Ok((head.max(last), aliases))
    }

    fn known(&self) -> (Seq, Arc<Aliases>) {
        self.known.lock().expect("no holder of the aliases panics").clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_query::AliasChangeKind;

    #[test]
    fn a_change_of_aliases_is_in_force_after_its_number() {
        let change = |kind, words: &str| AliasChange {
            kind,
            words: words.split(' ').map(str::to_owned).collect(),
        };
        let changes = vec![
            (Seq(2), change(AliasChangeKind::Link, "a b")),
            (Seq(4), change(AliasChangeKind::Link, "b c")),
            (Seq(5), change(AliasChangeKind::Unlink, "a")),
        ];
        let mut aliases = AliasesOnTheWay::new(changes);
        let class_at = |seq: u64| aliases.before(Seq(seq)).class_of("b").join(" ");
        let classes = [1, 2, 3, 4, 4, 5, 6, 9].map(class_at);
        assert_eq!(classes, ["", "", "a b", "a b", "a b", "a b c", "b c", "b c"]);
    }
}
