//! From a claim to its fires.

use std::sync::Arc;

use axwatch_model::{JobId, JobOrigin, JobRow, Now, Stored, WatcherNumber, WatcherState};
use axwatch_query::AliasChange;
use sha2::{Digest, Sha256};

use crate::event::Effect;
use crate::record::{Fire, Matched, Record};
use crate::state::State;

/// The payload of a claim, made once however many watchers want it.
struct Payload {
    bytes: Arc<[u8]>,
    sha256: String,
}

impl State {
    /// Matches the next claim of the log against all watchers and makes a job of each fire. What it says
    /// of aliases is in force for the claims after it.
    pub(crate) fn match_claim(
        &mut self,
        stored: &Arc<Stored>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        self.head = self.head.max(stored.seq);
        self.matched_seq = stored.seq;
        self.unwritten.matched = true;
        let mut found = Vec::new();
        self.index.matching(&stored.attestation, &self.aliases, &mut found);
        let mut payload = None;
        let mut fires = 0;
        for number in found {
            let number = WatcherNumber(u64::from(number));
            fires += self.fire(number, stored, &mut payload, now);
        }
        if let Some(Payload { bytes, .. }) = payload {
            effects.push(Effect::Payload { seq: stored.seq, bytes });
        }
        if let Some(change) = AliasChange::of(stored) {
            self.aliases.apply(&change);
        }
        effects.push(Effect::Fired { seq: stored.seq, fires });
    }

    /// Makes the jobs of one match and says how many.
    fn fire(
        &mut self,
        number: WatcherNumber,
        stored: &Stored,
        payload: &mut Option<Payload>,
        now: Now,
    ) -> u32 {
        let Some(watcher) = self.watchers.get_mut(&number) else { return 0 };
        if stored.seq <= watcher.row.since_seq || watcher.row.state == WatcherState::Retired {
            return 0;
        }
        let payload = payload.get_or_insert_with(|| payload_of(stored));
        let row = &watcher.row;
        let (shown, generation, revision) = (watcher.shown.clone(), row.generation, row.revision);
        let handlers = row.handlers.clone();
        let ids: Vec<_> = handlers
            .iter()
            .map(|handler| {
                JobId::of_fire(
                    self.policy.store_id,
                    &row.key,
                    generation,
                    &stored.attestation.id,
                    &handler.declared,
                )
            })
            .collect();
        watcher.counters.matches += 1;
        watcher.counters.fires += ids.len() as u64;
        watcher.counters.last_fired_at = Some(now.wall);
        self.unwritten.counters.insert(number);
        let fires = handlers
            .iter()
            .zip(&ids)
            .map(|(handler, id)| Fire { handler: &handler.declared, job: *id });
        let leaf = self.record(&Record::Matched(Matched {
            at: now.wall,
            attestation: &stored.attestation.id,
            fires: fires.collect(),
            generation,
            payload_sha256: &payload.sha256,
            revision,
            seq: stored.seq,
            r#type: "matched",
            watcher: &shown,
        }));
        for (handler, id) in handlers.iter().zip(&ids) {
            self.last_job = self.last_job.next();
            let row = JobRow::queued(
                self.last_job,
                *id,
                JobOrigin::Fire,
                handler.declared.clone(),
                now.wall,
            );
            let row = JobRow {
                watcher: Some(number),
                revision,
                generation,
                seq: Some(stored.seq),
                plugin: handler.plugin.clone(),
                leaves: vec![leaf],
                ..row
            };
            self.add_job(row, now);
        }
        u32::try_from(ids.len()).unwrap_or(u32::MAX)
    }
}

fn payload_of(stored: &Stored) -> Payload {
    let bytes: Arc<[u8]> = stored.attestation.payload().into();
    let sha256 = sha256_hex(&bytes);
    Payload { bytes, sha256 }
}

/// SHA-256 as the audit writes it.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
        hex.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    hex
}
