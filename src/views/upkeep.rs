//! What keeps a store in order: what retention took away, what a doctor found.

use axwatch_ats::{Examined, Finding, Quarantined};
use axwatch_model::Timestamp;
use serde::{Deserialize, Serialize};

/// What retention took away, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// What was appended, and what ended, before this.
    pub before: Timestamp,
    /// Claims.
    pub claims: u64,
    /// Jobs.
    pub jobs: u64,
    /// Nothing was taken away.
    pub dry_run: bool,
}

/// A row that was put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PutAside {
    /// Its number in the table `quarantine`, which has its content.
    pub number: u64,
    /// The table that it was in.
    pub table: String,
    /// Its key there.
    pub row: String,
    /// Why it did not decode.
    pub reason: String,
}

/// What a doctor says of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Nothing is wrong with it now.
    pub ok: bool,
    /// What is wrong; after a repair, still.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more: u64,
    /// What was wrong before a repair, and is not any more; null when nothing was to be repaired.
    pub repaired: Option<Vec<Finding>>,
    /// Rows that were put aside, now or earlier.
    pub quarantined: Vec<PutAside>,
    /// Claims that were looked at.
    pub claims: u64,
    /// Jobs that were.
    pub jobs: u64,
}

impl Health {
    /// What an examination is shown as, after a repair of what `before` found.
    pub fn of(examined: Examined, before: Option<Examined>) -> Health {
        let Examined { findings, more, quarantined, claims, jobs } = examined;
        let repaired = before.map(|before| {
            before.findings.into_iter().filter(|finding| !findings.contains(finding)).collect()
        });
        let put_aside = |row: Quarantined| PutAside {
            number: row.number,
            table: row.table,
            row: row.row,
            reason: row.reason,
        };
        Health {
            ok: findings.is_empty() && more == 0,
            findings,
            more,
            repaired,
            quarantined: quarantined.into_iter().map(put_aside).collect(),
            claims,
            jobs,
        }
    }
}
