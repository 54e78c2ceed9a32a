//! Killed with -9 at random moments while claims are piped in as fast as they are taken: what the command
//! said was appended is, everything due is fired and done, and memory stays flat. Killing at every other
//! moment, and holding all records to each other, is what `torture.rs` does.
//!
//! `AXWATCH_TEST_SEED` repeats the kills of a run, `AXWATCH_TEST_CLAIMS` and `AXWATCH_TEST_KILLS` make
//! it longer.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Dice, Home, Zoo, ledger, number, text};
use serde_json::{Value, json};

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a whole number"))
}

/// The claim with this number. Its id is given, so that it may be sent again.
fn claim(number: u64) -> Value {
    let predicate = if number.is_multiple_of(2) { "even" } else { "odd" };
    json!({
        "id": format!("claim-{number}"),
        "subjects": [format!("subject-{}", number % 97)],
        "predicates": [predicate],
        "contexts": [format!("context-{}", number % 10)],
    })
}

/// A watcher as shown, and for which claims it is due.
type Due = (&'static str, fn(u64) -> bool);

/// The watchers. They say the same in AX, or in a registration, below.
const WATCHERS: [Due; 3] = [
    ("zoo-even", |n| n.is_multiple_of(2)),
    ("user-tenth", |n| n % 10 == 3),
    ("user-both", |n| n % 2 == 1 && n % 97 < 20),
];

/// Acks that came back, and how many, for whoever waits for a moment.
#[derive(Default)]
struct Acks {
    seqs: Mutex<HashMap<String, u64>>,
    count: AtomicU64,
}

impl Acks {
    fn take(&self, line: &str) {
        let answer: Value = serde_json::from_str(line).expect("an answer is JSON");
        let seq = number(&answer, "seq");
        let mut seqs = self.seqs.lock().unwrap();
        let before = seqs.insert(text(&answer, "id").to_owned(), seq);
        assert!(before.is_none_or(|before| before == seq), "one id, two numbers: {answer}");
        drop(seqs);
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// `axwatch as - --json`, fed with claims by one thread and read by another.
struct Piping {
    child: Child,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Piping {
    fn start(home: &Home, numbers: Vec<u64>, acks: &Arc<Acks>) -> Piping {
        let mut command = home.command(["as", "-", "--json", "--store"]);
        command
            .arg(home.store())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("the program can be started");
        let mut input = child.stdin.take().expect("it is piped");
        let feeding = std::thread::spawn(move || {
            for batch in numbers.chunks(100) {
                let text: String = batch.iter().map(|n| format!("{}\n", claim(*n))).collect();
                // The command ends when its server does.
                if input.write_all(text.as_bytes()).is_err() {
                    return;
                }
            }
        });
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let acks = Arc::clone(acks);
        let reading = std::thread::spawn(move || {
            out.lines().map_while(Result::ok).for_each(|line| acks.take(&line));
        });
        Piping { child, threads: vec![feeding, reading] }
    }

    fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Waits for its end and answers whether all went well.
    fn finish(mut self) -> bool {
        let status = self.child.wait().expect("a child can be waited for");
        self.threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
        status.success()
    }
}

/// Waits until so many more acks came than there are, or the command ends.
fn until_more_acks(acks: &Acks, more: u64, piping: &mut Piping) {
    let goal = acks.count.load(Ordering::Relaxed) + more;
    crate::support::until("acks come", || {
        (acks.count.load(Ordering::Relaxed) >= goal || piping.is_over()).then_some(())
    });
}

#[test]
fn nothing_is_lost_whenever_it_is_killed() {
    let claims = from_environment("AXWATCH_TEST_CLAIMS", 10_000);
    let kills = from_environment("AXWATCH_TEST_KILLS", 8);
    let mut dice = Dice::roll_seed();
    let home = Home::new("crash");
    home.configure_zoo(&[
        // Slow enough that a kill finds work under way, and fast again while nobody kills.
        Zoo::new("zoo", "slow-first-n")
            .own("n", 2_000)
            .own("ms", 10)
            .host("max_in_flight", 256)
            .watcher(json!({ "id": "even", "predicates": ["even"] })),
    ]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["watch", "create", "tenth", "--when", "of CONTEXT-3", "--run", "work"]);
    let subjects: String = (0..20).fold(String::new(), |mut words, n| {
        write!(words, "subject-{n} ").unwrap();
        words
    });
    home.object(&[
        "watch",
        "create",
        "both",
        "--when",
        &format!("{subjects} is odd"),
        "--run",
        "work",
    ]);

    let acks = Arc::new(Acks::default());
    let mut peak_kib = 0;
    let mut server = Some(server);
    for kill in 0..kills {
        let running = server.take().unwrap_or_else(|| home.serve());
        // What has an ack is not sent again, but for a few: a repeat must be harmless too.
        let seqs = acks.seqs.lock().unwrap();
        let unsent = |n: &u64| !seqs.contains_key(&format!("claim-{n}")) || n.is_multiple_of(501);
        let mut left: Vec<u64> = (0..claims).filter(unsent).collect();
        drop(seqs);
        // So that there is something to do until the last kill.
        let share = claims * (kill + 1) / kills;
        left.retain(|n| *n < share);
        let mut piping = Piping::start(&home, left, &acks);
        if dice.below(4) > 0 {
            until_more_acks(&acks, 1 + dice.below(claims / kills), &mut piping);
        }
        // A moment within a batch: part of the chance, not something that is waited for.
        std::thread::sleep(Duration::from_micros(1 << dice.below(16)));
        peak_kib = peak_kib.max(running.peak_memory_kib());
        running.kill();
        let went_well = piping.finish();
        println!(
            "kill {}: {} acks, the last command went well: {went_well}",
            kill + 1,
            acks.count.load(Ordering::Relaxed)
        );
    }

    let server = home.serve();
    let seqs = acks.seqs.lock().unwrap().clone();
    let rest: Vec<u64> =
        (0..claims).filter(|n| !seqs.contains_key(&format!("claim-{n}"))).collect();
    assert!(Piping::start(&home, rest, &acks).finish(), "without a kill all goes well");
    server.until_ready(&["zoo"]);
    server.until_settled();
    peak_kib = peak_kib.max(server.peak_memory_kib());
    server.stop();

    let seqs = acks.seqs.lock().unwrap();
    assert_eq!(seqs.len() as u64, claims);
    check_log(&home, claims, &seqs);
    let jobs = check_fires(&home, claims);
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
    let deliveries = ledger::read(&Zoo::ledger_of(&home, "zoo"));
    let delivered: HashSet<&str> = deliveries.iter().map(|d| d.job_id.as_str()).collect();
    assert_eq!(delivered.len(), jobs, "jobs that the plugin has seen");
    let peak_mib = peak_kib / 1024;
    println!(
        "{claims} claims, {kills} kills, {} jobs, {} deliveries ({} more than jobs), peak {peak_mib} MiB",
        jobs,
        deliveries.len(),
        deliveries.len() - jobs
    );
    assert!(peak_mib < 200, "{peak_mib} MiB");
}

/// Every claim is there once, under the number that its ack said.
fn check_log(home: &Home, claims: u64, acked: &HashMap<String, u64>) {
    let log = home.json(&["ax", "is even odd", "--all"]);
    assert_eq!(log.len() as u64, claims, "claims in the log");
    let numbers: BTreeSet<u64> = log.iter().map(|claim| number(claim, "seq")).collect();
    assert_eq!(numbers.len() as u64, claims, "each with a number of its own");
    for claim in &log {
        let id = text(claim, "id");
        assert_eq!(acked.get(id), Some(&number(claim, "seq")), "{id}");
    }
}

/// What is due has been fired, once each, and is done. Answers how many jobs these are.
fn check_fires(home: &Home, claims: u64) -> usize {
    let fires = home.json(&["fires", "--all"]);
    let mut fired: HashSet<(String, String)> = HashSet::new();
    for fire in &fires {
        let of = |key| text(fire, key).to_owned();
        let is_new = fired.insert((of("watcher"), of("attestation_id")));
        assert!(is_new, "two jobs for one match: {fire}");
        assert_eq!(text(fire, "state"), "completed", "{fire}");
    }
    for (watcher, is_due) in WATCHERS {
        for number in (0..claims).filter(|number| is_due(*number)) {
            let wanted = (watcher.to_owned(), format!("claim-{number}"));
            assert!(fired.remove(&wanted), "due and not fired: {wanted:?}");
        }
    }
    assert!(fired.is_empty(), "fires that nobody waited for: {:?}", fired.iter().next());
    fires.len()
}
