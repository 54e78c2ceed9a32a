//! What the store keeps of plugins and the handlers they announced, so that a restart knows them
//! before they are up again.

use crate::{HandlerName, PluginName, Timestamp};

/// A handler that a plugin announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerRow {
    /// Who answers for it.
    pub plugin: PluginName,
    /// Its bare name.
    pub name: HandlerName,
}

/// A plugin that was up at least once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginRow {
    /// Its configured name.
    pub name: PluginName,
    /// The version that its Metadata said last.
    pub version: String,
    /// Its latest process: 1 for the first, one more for each start, over the whole life of the store.
    pub incarnation: u64,
    /// When it last came up.
    pub up_at: Timestamp,
}
