//! Handlers whose code is stored as claims: what the claims say, and what follows from them.
//!
//! A claim with predicate [`HANDLER`] has the code of a handler, one with predicate [`FAULTED`] says that it
//! does not load, or that somebody removed it. Those that took effect are [`HandlerChangeRow`]s; the
//! latest of a name says what the handler is now ([`StoredHandler`]).
//!
//! Not here: whose claims take effect (`axwatch-core`), and what the code means (the plugin that runs it).

use crate::{AttestationId, HandlerName, PluginName, Seq, Timestamp};

/// The predicate of a claim that has the code of a handler.
pub const HANDLER: &str = "handler";
/// The predicate of a claim that says that a handler does not load, or is removed.
pub const FAULTED: &str = "handler:faulted";
/// The reason in such a claim that removes the handler.
pub const REMOVED: &str = "removed";

/// The handlers that shipped plugins have by themselves. Nothing can be stored under their names, also
/// before the plugin has run for the first time.
const BUILT_IN: [(&str, &str); 2] = [("python", "python.script"), ("python", "python.sync")];

/// Whether a plugin has a handler, by the name that jobs have for it, in each of its versions.
#[must_use]
pub fn is_built_in(plugin: &PluginName, bare: &HandlerName) -> bool {
    BUILT_IN.contains(&(plugin.as_str(), bare.as_str()))
}

/// What a claim did to a stored handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandlerChangeKind {
    /// It has this code from then on.
    Stored,
    /// Its code is known not to load.
    Faulted,
    /// It is no handler any more.
    Removed,
}

impl HandlerChangeKind {
    /// Its name in rows and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            HandlerChangeKind::Stored => "stored",
            HandlerChangeKind::Faulted => "faulted",
            HandlerChangeKind::Removed => "removed",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<HandlerChangeKind> {
        let all =
            [HandlerChangeKind::Stored, HandlerChangeKind::Faulted, HandlerChangeKind::Removed];
        all.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// A claim that changed a stored handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerChangeRow {
    /// The number of the claim.
    pub seq: Seq,
    /// The plugin that runs the handler: the claim's context.
    pub plugin: PluginName,
    /// The handler's name: the claim's subject. Jobs say `{plugin}.{name}`.
    pub name: HandlerName,
    /// What it did.
    pub kind: HandlerChangeKind,
    /// The number of the version that it is about: 1 for the first code of the name, one more for each
    /// later one, those after a removal too.
    pub version_number: u64,
    /// The claim that has the code of that version.
    pub version: AttestationId,
    /// The number of that claim in the log.
    pub version_seq: Seq,
    /// Why it is faulted; empty of other kinds.
    pub reason: String,
    /// Who appended the claim: `user`, or a plugin's name.
    pub by: String,
    /// When it was appended, by our clock.
    pub at: Timestamp,
}

/// What a stored handler is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredHandlerState {
    /// Its code runs.
    InForce,
    /// Its code is known not to load: its jobs wait for a newer version.
    Broken {
        /// Why, as whoever tried says.
        reason: String,
    },
    /// Somebody removed it.
    Removed,
}

impl StoredHandlerState {
    /// Its name in answers.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            StoredHandlerState::InForce => "in_force",
            StoredHandlerState::Broken { .. } => "broken",
            StoredHandlerState::Removed => "removed",
        }
    }
}

/// A handler whose code is a claim, as the latest change left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHandler {
    /// The plugin that runs it.
    pub plugin: PluginName,
    /// Its name. Jobs say [`StoredHandler::bare_name`].
    pub name: HandlerName,
    /// What it is now.
    pub state: StoredHandlerState,
    /// The claim that has its code; of one that is removed, the last one.
    pub version: AttestationId,
    /// The number of that claim in the log.
    pub version_seq: Seq,
    /// The number of that version: 1 for the first code of the name.
    pub version_number: u64,
    /// The number of the claim that changed it last.
    pub changed_seq: Seq,
    /// Who appended that claim: `user`, or a plugin's name.
    pub changed_by: String,
    /// When.
    pub changed_at: Timestamp,
}

impl StoredHandler {
    /// As a change left it.
    #[must_use]
    pub fn after(row: HandlerChangeRow) -> StoredHandler {
        let state = match row.kind {
            HandlerChangeKind::Stored => StoredHandlerState::InForce,
            HandlerChangeKind::Faulted => StoredHandlerState::Broken { reason: row.reason },
            HandlerChangeKind::Removed => StoredHandlerState::Removed,
        };
        StoredHandler {
            plugin: row.plugin,
            name: row.name,
            state,
            version: row.version,
            version_seq: row.version_seq,
            version_number: row.version_number,
            changed_seq: row.seq,
            changed_by: row.by,
            changed_at: row.at,
        }
    }

    /// The bare name by which jobs and watchers know it: `{plugin}.{name}`.
    ///
    /// # Errors
    /// [`crate::InvalidId`] when the two together are too long.
    pub fn bare_name(
        plugin: &PluginName,
        name: &HandlerName,
    ) -> Result<HandlerName, crate::InvalidId> {
        format!("{plugin}.{name}").parse()
    }
}
