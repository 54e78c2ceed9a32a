//! From a claim to its fires.

use std::sync::Arc;

use axwatch_model::{JobId, JobOrigin, JobRow, Now, Seq, Stored, WatcherNumber};
use axwatch_query::AliasChange;
use sha2::{Digest, Sha256};

use crate::event::Effect;
use crate::record::{Fire, Matched, Record};
use crate::state::State;

/// The payload of a claim, made once however many watchers want it.
pub(crate) struct Payload {
    pub(crate) bytes: Arc<[u8]>,
    sha256: String,
}

impl State {
    /// Matches the next claim of the log against all watchers and makes a job of each fire. What it says
    /// of aliases and of stored handlers is in force for the claims after it.
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
        let effort = self.index.matching(&stored.attestation, &self.aliases, &mut found);
        self.matching_totals.add(effort, found.len());
        let mut payload = None;
        let mut fires = 0;
        for number in found {
            let number = WatcherNumber(u64::from(number));
            let generation = self.watchers[&number].row.generation;
            if self.has_room(number, generation) {
                fires += self.fire(number, generation, stored, &mut payload, now);
            } else {
                self.fall_behind(number, Seq(stored.seq.0 - 1), now);
            }
        }
        if let Some(Payload { bytes, .. }) = payload {
            effects.push(Effect::Payload { seq: stored.seq, bytes });
        }
        if let Some(change) = AliasChange::of(stored) {
            self.aliases.apply(&change);
        }
        // Unless it was when it was appended.
        if stored.seq > self.heeded_seq {
            self.heed(stored, now);
        }
        effects.push(Effect::Fired { seq: stored.seq, fires });
    }

    /// Makes the jobs of one match and says how many will run: those that are let go do not.
    pub(crate) fn fire(
        &mut self,
        number: WatcherNumber,
        generation: u32,
        stored: &Stored,
        payload: &mut Option<Payload>,
        now: Now,
    ) -> u32 {
        let watcher = &self.watchers[&number];
        let is_live = generation == watcher.row.generation;
        if is_live && stored.seq <= watcher.row.since_seq {
            return 0;
        }
        self.unwritten.counters.insert(number);
        self.watchers.get_mut(&number).expect("looked up above").counters.matches += 1;
        if self.stops_loop(number, stored, now) {
            return 0;
        }
        if is_live {
            self.count_for_loops(number, stored, now);
        }
        let row = &self.watchers[&number].row;
        let (revision, handlers) = (row.revision, row.handlers.clone());
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
        let payload = payload.get_or_insert_with(|| payload_of(stored));
        let let_go = self.why_let_go(number, generation, stored.seq);
        let watcher = self.watchers[&number].shown();
        let fires = handlers
            .iter()
            .zip(&ids)
            .map(|(handler, id)| Fire { handler: &handler.declared, job: *id });
        let leaf = self.record(&Record::Matched(Matched {
            at: now.wall,
            attestation: &stored.attestation.id,
            fires: fires.collect(),
            generation,
            let_go: let_go.map(|_| true),
            payload_sha256: &payload.sha256,
            revision,
            seq: stored.seq,
            r#type: "matched",
            watcher: &watcher,
        }));
        for (handler, id) in handlers.iter().zip(&ids) {
            self.last_job = self.last_job.next();
            let declared = handler.declared.clone();
            let row = JobRow::queued(self.last_job, *id, JobOrigin::Fire, declared, now.wall);
            let row = JobRow {
                watcher: Some(number),
                revision,
                generation,
                seq: Some(stored.seq),
                plugin: handler.plugin.clone(),
                leaves: vec![leaf],
                ..row
            };
            match let_go {
                None => self.add_job(row, now),
                Some(reason) => {
                    let row = self.cancelled(row, reason, now);
                    self.unwritten.released.insert(row.number, row);
                }
            }
        }
        if let_go.is_some() {
            return 0;
        }
        let counters = &mut self.watchers.get_mut(&number).expect("looked up above").counters;
        counters.fires += ids.len() as u64;
        counters.last_fired_at = Some(now.wall);
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
