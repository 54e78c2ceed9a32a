//! What a copy of a store holds.

use std::path::Path;

use axwatch_ats::Contents;
use axwatch_core::audit::{Head, Tree};
use axwatch_model::{Seq, Timestamp};
use serde::{Deserialize, Serialize};

/// What a copy holds, and so a store that was restored from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which store it is of.
    pub store_id: String,
    /// The schema.
    pub schema: i64,
    /// The last claim; 0 without any.
    pub seq: Seq,
    /// Records in the audit.
    pub records: u64,
    /// The head of the audit: its size and the hash over all of it.
    pub head: String,
    /// When the last commit with a record in the audit was made.
    pub last_at: Option<Timestamp>,
}

impl Held {
    /// What these contents are shown as.
    pub fn of(contents: &Contents) -> Held {
        let head = contents.audit_head.map(|(size, root)| Head { size, root });
        let head = head.unwrap_or_else(|| Tree::new().head());
        Held {
            store_id: contents.opened.store_id.to_string(),
            schema: contents.opened.schema,
            seq: contents.opened.head,
            records: head.size,
            head: head.to_string(),
            last_at: contents.last_at,
        }
    }
}

/// A copy that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its file.
    pub path: String,
    /// How long that is.
    pub bytes: u64,
    /// What it holds.
    #[serde(flatten)]
    pub held: Held,
}

impl Backup {
    /// What this copy is shown as.
    pub fn of(backup: &axwatch_ats::Backup) -> Backup {
        Backup {
            path: backup.path.display().to_string(),
            bytes: backup.bytes,
            held: Held::of(&backup.contents),
        }
    }
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupProgress {
    /// Bytes that are written.
    pub bytes: u64,
    /// Bytes that there will be, about.
    pub of_bytes: u64,
}

/// A line of the answer to the request for a copy: any number that tell how far it is, then what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupLine {
    /// How far.
    Progress(BackupProgress),
    /// It is whole.
    Backup(Backup),
}

/// A store that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The store.
    pub path: String,
    /// The file that it was restored from.
    pub from: String,
    /// Where what was there before is now; null when nothing was.
    pub aside: Option<String>,
    /// Its next opening for writing gets the number after this one.
    pub epoch: u64,
    /// Whether the file carried a checksum, which was right.
    pub checksum: bool,
    /// What it holds.
    #[serde(flatten)]
    pub held: Held,
}

impl Restored {
    /// What this is shown as.
    pub fn of(from: &Path, restored: &axwatch_ats::Restored, held: Held, checksum: bool) -> Self {
        Restored {
            path: restored.path.display().to_string(),
            from: from.display().to_string(),
            aside: restored.aside.as_ref().map(|aside| aside.display().to_string()),
            epoch: restored.epoch,
            checksum,
            held,
        }
    }
}
