//! The driver of a run: a process that makes claims and notes each acknowledgement.
//!
//! In: the end of its standard input, which means that no new claims are wanted. Out: `driver.jsonl`. A
//! claim without an answer is sent again until it has one, some that have one are sent again all the
//! same, and it ends when each claim that it ever sent has been acknowledged.

use std::collections::VecDeque;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use hyper::Method;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::claims::{Claim, flood_from, is_in_flood};
use super::dice::Dice;
use super::folder::Folder;
use super::monotonic_ns;
use super::records::{DriverLine, Journal};
use crate::client::{Client, NDJSON};
use crate::runtime;

/// Claims a second, on average, while a server answers. Floods come beside them.
const CLAIMS_PER_SECOND: f64 = 300.0;
/// Claims of one request, as a power of two.
const BATCH_MAX_LOG: u64 = 8;
/// From one look for a server to the next.
const LOOK_EVERY: Duration = Duration::from_millis(3);
/// How long a request may take: a stopped engine stands still for less.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long it goes on without any answer when no new claims are wanted.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a refusal begins with that only came at a bad time.
const PASSING: &str = "resource_exhausted";

/// Makes claims until standard input ends, and waits for the last acknowledgements.
///
/// # Errors
/// The record cannot be written, or no acknowledgement comes any more.
pub async fn drive(folder: &Folder, seed: u64) -> Result<()> {
    let mut driver = Driver {
        store: folder.store(),
        seed,
        journal: Journal::open(&folder.acks())?,
        dice: Dice::new(seed, 2),
        next: 0,
        noted: 0,
        unanswered: VecDeque::new(),
    };
    let mut input_ends = input_ends();
    let mut last_answer = Instant::now();
    let mut server = None;
    loop {
        let is_ending = !matches!(input_ends.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        let numbers = driver.next_batch(is_ending);
        if numbers.is_empty() {
            return Ok(());
        }
        match Server::find(&driver.store, &mut server) {
            Some(client) => {
                driver.note_new(&numbers)?;
                if driver.send(client, &numbers).await? {
                    last_answer = Instant::now();
                } else {
                    server = None;
                }
            }
            None => driver.give_back(&numbers),
        }
        if server.is_none() {
            if is_ending && last_answer.elapsed() > PATIENCE {
                bail!("{} claims have no answer for {PATIENCE:?}", driver.unanswered.len());
            }
            sleep(LOOK_EVERY).await;
        } else if !is_ending {
            sleep(driver.pause(&numbers)).await;
        }
    }
}

/// Told when standard input ends: whoever started us wants no more, or is gone.
fn input_ends() -> oneshot::Receiver<()> {
    let (ended, input_ends) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    input_ends
}

/// A server that was found, and what its files said.
struct Server {
    said: (runtime::Runtime, String),
    client: Client,
}

impl Server {
    /// The server that runs now. Its files may be those of one that was killed, which shows when it is
    /// spoken to.
    fn find<'a>(store: &Path, known: &'a mut Option<Server>) -> Option<&'a Client> {
        let runtime = runtime::read(store)?;
        let token = runtime::read_token(store).ok()?;
        let said = (runtime, token);
        if known.as_ref().is_none_or(|known| known.said != said) {
            let address = said.0.http.strip_prefix("http://")?.parse().ok()?;
            *known = Some(Server { client: Client::new(address, said.1.clone()), said });
        }
        known.as_ref().map(|known| &known.client)
    }
}

struct Driver {
    store: std::path::PathBuf,
    seed: u64,
    journal: Journal,
    dice: Dice,
    /// The first claim that was never sent.
    next: u64,
    /// The first claim that was not noted as new.
    noted: u64,
    /// Claims that were sent and have no answer.
    unanswered: VecDeque<u64>,
}

impl Driver {
    /// The claims to send next: those without an answer first, then new ones.
    fn next_batch(&mut self, is_ending: bool) -> Vec<u64> {
        if let Some(end) = flood_from(self.next).filter(|_| !is_ending) {
            return (std::mem::replace(&mut self.next, end)..end).collect();
        }
        let order = self.dice.below(BATCH_MAX_LOG + 1);
        let size = 1 + self.dice.below(1 << order);
        let again = self.unanswered.len().min(size as usize);
        let mut numbers: Vec<u64> = self.unanswered.drain(..again).collect();
        if is_ending {
            return numbers;
        }
        let upto = self.next + size - again as u64;
        let new = self.next..(self.next..upto).find(|n| flood_from(*n).is_some()).unwrap_or(upto);
        self.next = new.end;
        numbers.extend(new);
        if self.next > 0 && self.dice.percent(20) {
            numbers.push(self.dice.below(self.next));
        }
        numbers
    }

    /// A pause after which these claims are what is wanted, on average; a flood is beside the count.
    fn pause(&mut self, numbers: &[u64]) -> Duration {
        let claims = numbers.iter().filter(|number| !is_in_flood(**number)).count();
        let usual = claims as f64 / CLAIMS_PER_SECOND;
        Duration::from_secs_f64(usual * (0.5 + self.dice.below(1_000) as f64 / 1_000.0))
    }

    /// Notes those that are sent for the first time.
    fn note_new(&mut self, numbers: &[u64]) -> Result<()> {
        let to = numbers.iter().max().map_or(0, |last| last + 1);
        if to > self.noted {
            let from = std::mem::replace(&mut self.noted, to);
            self.journal.add(&[DriverLine::New { from, to, at: monotonic_ns() }])?;
        }
        Ok(())
    }

    fn give_back(&mut self, numbers: &[u64]) {
        self.unanswered.extend(numbers);
    }

    /// Sends claims and notes the answers. Answers whether all were answered; the others are sent again.
    async fn send(&mut self, client: &Client, numbers: &[u64]) -> Result<bool> {
        let sent = monotonic_ns();
        let lines = numbers.iter().map(|number| Claim::numbered(self.seed, *number).to_json());
        let body: String = lines.map(|line| format!("{line}\n")).collect();
        let mut answered = 0;
        let path = "/api/v1/attestations?default_actor=driver";
        let asking = client.lines(Method::POST, path, NDJSON, Bytes::from(body));
        if let Ok(Ok(mut answers)) = tokio::time::timeout(ANSWER_WITHIN, asking).await {
            while let Ok(Ok(Some(lines))) =
                tokio::time::timeout(ANSWER_WITHIN, answers.next()).await
            {
                let now = numbers[answered..].iter().zip(&lines);
                let noted: Vec<_> =
                    now.filter_map(|(number, line)| self.note(*number, line, sent)).collect();
                self.journal.add(&noted)?;
                answered = (answered + lines.len()).min(numbers.len());
            }
        }
        self.give_back(&numbers[answered..]);
        Ok(answered == numbers.len())
    }

    /// What an answer says; one that only came at a bad time is asked for again.
    fn note(&mut self, number: u64, line: &str, sent: u64) -> Option<DriverLine> {
        let answer: Value = serde_json::from_str(line).unwrap_or_default();
        let at = monotonic_ns();
        if let Some(seq) = answer["seq"].as_u64() {
            return Some(DriverLine::Ack { number, seq, sent, at });
        }
        let error = answer["error"].as_str().unwrap_or(line).to_owned();
        if error.starts_with(PASSING) {
            self.give_back(&[number]);
            return None;
        }
        Some(DriverLine::Refused { number, error, at })
    }
}
