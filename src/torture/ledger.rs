//! The plugin of a run: it notes each job on the disk before it does anything else about it.
//!
//! One thread writes for all jobs, so that many share one wait for the disk. What a job then does
//! follows from its handler and its id: done at once, done after a while, failed at first, put off, given
//! up, or a claim made on its behalf.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axwatch_sdk::{About, Claim, Done, Failure, Job, Plugin, Start, Watcher};
use tokio::sync::oneshot;

use super::dice::mix;
use super::folder::Folder;
use super::records::{Journal, LedgerLine};
use super::watchers::{ECHO, ECHOED, FLIPPED, PLUGIN, QUICK, REGISTERED, SHAKY, SLOW};
use super::{monotonic_ns, watchers};

/// Serves the plugin of a run until it is told to stop.
pub fn serve(folder: &Folder, port: u16) -> ExitCode {
    match Ledger::open(folder) {
        Ok(ledger) => axwatch_sdk::serve_at(ledger, SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Ledger {
    folder: Folder,
    notes: mpsc::Sender<Note>,
}

/// A line, and who waits until it is on the disk.
struct Note {
    line: LedgerLine,
    written: oneshot::Sender<()>,
}

impl Ledger {
    fn open(folder: &Folder) -> Result<Ledger> {
        let mut journal = Journal::open(&folder.ledger())?;
        // Ends a line that the end of an earlier process cut off.
        journal.write(b"\n").context("cannot write the ledger")?;
        let pid = std::process::id();
        journal.add(&[LedgerLine::Up { pid, at: monotonic_ns() }])?;
        std::fs::write(folder.plugin_pid(), pid.to_string()).context("cannot tell our process")?;
        let (notes, waiting) = mpsc::channel();
        std::thread::spawn(move || write_down(journal, &waiting));
        Ok(Ledger { folder: folder.clone(), notes })
    }

    async fn note(&self, line: LedgerLine) -> Result<(), Failure> {
        let (written, is_written) = oneshot::channel();
        let gone = |_| Failure::retry("the ledger cannot be written");
        self.notes.send(Note { line, written }).map_err(|_| gone(()))?;
        is_written.await.map_err(|_| gone(()))
    }
}

/// Writes what has come, waits for the disk once, and says so to all who wait. Ends when the disk fails,
/// and with it every answer.
fn write_down(mut journal: Journal, waiting: &mpsc::Receiver<Note>) {
    while let Ok(first) = waiting.recv() {
        let notes: Vec<Note> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let (lines, written): (Vec<_>, Vec<_>) =
            notes.into_iter().map(|note| (note.line, note.written)).unzip();
        if journal.add(&lines).is_err() || journal.sync().is_err() {
            return;
        }
        for written in written {
            // Whoever was given up meanwhile does not wait any more.
            let _ = written.send(());
        }
    }
}

impl Plugin for Ledger {
    fn about(&self) -> About {
        About::new(PLUGIN, env!("CARGO_PKG_VERSION"), "notes each job before it answers")
    }

    async fn initialize(&self, _start: Start) -> Result<(), Failure> {
        Ok(())
    }

    fn handlers(&self) -> Vec<String> {
        [QUICK, SLOW, SHAKY, ECHO].map(str::to_owned).to_vec()
    }

    fn watchers(&self) -> Vec<Watcher> {
        let limit = std::fs::read_to_string(self.folder.registration()).unwrap_or_default();
        let limit: Option<u32> = serde_json::from_str(&limit).unwrap_or_default();
        let flipped = FLIPPED.iter().filter(|form| limit.is_some() && form.limit == limit);
        REGISTERED.iter().chain(flipped).map(registration).collect()
    }

    async fn execute(&self, job: Job) -> Result<Done, Failure> {
        self.note(LedgerLine::Delivery {
            job: job.id().to_owned(),
            attempt: job.attempt(),
            watcher: job.watcher().unwrap_or_default().to_owned(),
            handler: job.handler().to_owned(),
            claim: job.attestation()?.id,
            at: monotonic_ns(),
        })
        .await?;
        let drawn = drawn_for(job.id());
        match job.handler() {
            SLOW => tokio::time::sleep(Duration::from_millis(20 + drawn % 780)).await,
            SHAKY => shake(drawn, job.attempt())?,
            ECHO => self.echo(&job).await?,
            _ => {}
        }
        Ok(Done::new())
    }
}

impl Ledger {
    async fn echo(&self, job: &Job) -> Result<(), Failure> {
        let about = job.attestation()?;
        let claim =
            Claim::new(about.subject(), ECHOED, "ledger").attribute("of", about.id.as_str());
        let made = job.attest(claim).await?;
        let seq = u64::try_from(made.seq).unwrap_or(0);
        let (job, claim) = (job.id().to_owned(), made.id);
        self.note(LedgerLine::Made { job, claim, seq, at: monotonic_ns() }).await
    }
}

fn registration(watcher: &watchers::Watcher) -> Watcher {
    let shape = watcher.shape;
    Watcher::new(watcher.local, watcher.handlers[0])
        .subjects(shape.subjects.iter().copied())
        .predicates(shape.predicates.iter().copied())
        .contexts(shape.contexts.iter().copied())
        .actors(shape.actors.iter().copied())
        .max_fires_per_second(watcher.limit.unwrap_or(0))
}

/// Fails some jobs for good, and others once in two ways.
fn shake(drawn: u64, attempt: u32) -> Result<(), Failure> {
    match drawn % 10 {
        0 => Err(Failure::permanent("this one is never done")),
        1..4 if attempt <= 1 => Err(Failure::retry("not at the first attempt")),
        4..7 if attempt <= 1 => {
            Err(Failure::not_now(Duration::from_millis(100 + drawn % 300), "a little later"))
        }
        _ => Ok(()),
    }
}

/// A number that follows from a job's id.
fn drawn_for(job: &str) -> u64 {
    mix(job.bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte))))
}
