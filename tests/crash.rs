//! Killed with -9 at random moments while claims are piped in: nothing acknowledged is lost, nothing
//! due is not fired, nothing fired is unaudited, and memory stays flat.
//!
//! Three witnesses: the acks that `axwatch as -` printed, the plugin's ledger, and the store. What is
//! due is computed here, with nothing of the engine's matching.
//!
//! `AXWATCH_TEST_SEED` repeats the kills of a run, `AXWATCH_TEST_CLAIMS` and `AXWATCH_TEST_KILLS` make
//! it longer.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::ledger::Delivery;
use support::{Dice, Home, Server, Zoo, ledger, number, processes, text};

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

/// A watcher as shown, its owner and local id, and for which claims it is due.
type Due = (&'static str, &'static str, fn(u64) -> bool);

/// The watchers. They say the same in AX, or in a registration, below.
const WATCHERS: [Due; 3] = [
    ("zoo-even", "zoo/even", |n| n.is_multiple_of(2)),
    ("user-tenth", "user/tenth", |n| n % 10 == 3),
    ("user-both", "user/both", |n| n % 2 == 1 && n % 97 < 20),
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
    support::until("acks come", || {
        (acks.count.load(Ordering::Relaxed) >= goal || piping.is_over()).then_some(())
    });
}

#[test]
fn nothing_is_lost_whenever_it_is_killed() {
    let claims = from_environment("AXWATCH_TEST_CLAIMS", 20_000);
    let kills = from_environment("AXWATCH_TEST_KILLS", 25);
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
        if dice.below(4) == 0 {
            kill_plugin(&home, &mut dice);
        }
        peak_kib = peak_kib.max(running.peak_memory_kib());
        running.kill();
        let went_well = piping.finish();
        println!(
            "kill {}: {} acks, the last command went well: {went_well}",
            kill + 1,
            acks.count.load(Ordering::Relaxed)
        );
        if dice.below(3) == 0 {
            kill_at_start(&home, &mut dice);
        }
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
    let deliveries = ledger::read(&Zoo::ledger_of(&home, "zoo"));
    check_ledger(&deliveries, &jobs);
    check_audit(&home, &deliveries, &jobs);
    let peak_mib = peak_kib / 1024;
    println!(
        "{claims} claims, {kills} kills, {} jobs, {} deliveries ({} more than jobs), peak {peak_mib} MiB",
        jobs.len(),
        deliveries.len(),
        deliveries.len() - jobs.len()
    );
    assert!(peak_mib < 200, "{peak_mib} MiB");
}

/// Kills the plugin alone; the engine goes the same way a moment later.
fn kill_plugin(home: &Home, dice: &mut Dice) {
    let plugin = processes::tagged(home.tag()).into_iter().find(|pid| {
        processes::describe(*pid).contains("--port")
            && !processes::describe(*pid).contains("plugin-launcher")
    });
    if let Some(pid) = plugin {
        processes::signal(pid, Signal::KILL);
        std::thread::sleep(Duration::from_micros(1 << dice.below(14)));
    }
}

/// Kills a server within its first moments: recovery must survive that too.
fn kill_at_start(home: &Home, dice: &mut Dice) {
    let mut starting = Server::spawn(home);
    std::thread::sleep(Duration::from_millis(dice.below(50)));
    let _ = starting.kill();
    let _ = starting.wait();
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

/// What is due has been fired, once each, under the id that can be computed, and is done. Answers the
/// jobs.
fn check_fires(home: &Home, claims: u64) -> HashMap<String, (String, String)> {
    let fires = home.json(&["fires", "--all"]);
    let mut fired: BTreeMap<(String, String), &Value> = BTreeMap::new();
    for fire in &fires {
        let of = |key| text(fire, key).to_owned();
        let twice = fired.insert((of("watcher"), of("attestation_id")), fire);
        assert!(twice.is_none(), "two jobs for one match: {fire}");
        assert_eq!(text(fire, "state"), "completed", "{fire}");
    }
    let store_id = home.object(&["audit", "head"])["store_id"].as_str().unwrap().to_owned();
    let mut jobs = HashMap::new();
    for (watcher, key, is_due) in WATCHERS {
        for number in (0..claims).filter(|number| is_due(*number)) {
            let id = format!("claim-{number}");
            let fire = fired.remove(&(watcher.to_owned(), id.clone()));
            let fire = fire.unwrap_or_else(|| panic!("{id} was due for {watcher} and not fired"));
            assert_eq!(text(fire, "job_id"), job_id(&store_id, key, &id), "{fire}");
            jobs.insert(text(fire, "job_id").to_owned(), (watcher.to_owned(), id));
        }
    }
    assert!(fired.is_empty(), "fires that nobody waited for: {:?}", fired.keys().next());
    jobs
}

/// DESIGN.md, Words: the first 16 bytes of SHA-256 over these parts, each preceded by its length.
fn job_id(store_id: &str, key: &str, attestation: &str) -> String {
    let (owner, local) = key.split_once('/').unwrap();
    let mut hash = Sha256::new();
    for part in ["axwatch/job/1", store_id, owner, local, "0", attestation, "work"] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize()[..16].iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The plugin has seen every job, each under one id, and only these.
fn check_ledger(deliveries: &[Delivery], jobs: &HashMap<String, (String, String)>) {
    let mut seen: HashSet<&str> = HashSet::new();
    let mut attempts: HashSet<(&str, u64)> = HashSet::new();
    for delivery in deliveries {
        let (watcher, claim) = jobs
            .get(&delivery.job_id)
            .unwrap_or_else(|| panic!("delivered, and no job of ours: {delivery:?}"));
        assert_eq!((&delivery.watcher, &delivery.payload_id), (watcher, claim), "{delivery:?}");
        let is_new = attempts.insert((&delivery.job_id, delivery.attempt));
        assert!(is_new, "one attempt, delivered twice: {delivery:?}");
        seen.insert(&delivery.job_id);
    }
    assert_eq!(seen.len(), jobs.len(), "jobs that the plugin has seen");
}

/// Every delivery was recorded before, every attempt ended once, and none followed a success.
fn check_audit(home: &Home, deliveries: &[Delivery], jobs: &HashMap<String, (String, String)>) {
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
    let mut open: HashMap<String, u64> = HashMap::new();
    let mut started: HashSet<(String, u64)> = HashSet::new();
    let mut succeeded: HashSet<String> = HashSet::new();
    let mut matched: HashSet<String> = HashSet::new();
    let mut records = home.json(&["audit", "show", "--all"]);
    records.reverse();
    for record in &records {
        let job = || text(record, "job").to_owned();
        match text(record, "type") {
            "matched" => {
                let fires = record["fires"].as_array().expect("fires");
                matched.extend(fires.iter().map(|fire| text(fire, "job").to_owned()));
            }
            "attempt_started" => {
                let attempt = (job(), number(record, "attempt"));
                assert!(!succeeded.contains(&attempt.0), "after a success: {record}");
                let other = open.insert(attempt.0.clone(), attempt.1);
                assert!(other.is_none(), "two at once: {record}");
                assert!(started.insert(attempt), "started twice: {record}");
            }
            "attempt_ended" => {
                let attempt = (job(), number(record, "attempt"));
                let begun = open.remove(&attempt.0);
                assert_eq!(begun, Some(attempt.1), "it had not started, or had ended: {record}");
                if record["outcome"] == "succeeded" {
                    succeeded.insert(attempt.0);
                }
            }
            _ => {}
        }
    }
    assert!(open.is_empty(), "started and never ended: {:?}", open.iter().next());
    for delivery in deliveries {
        let attempt = (delivery.job_id.clone(), delivery.attempt);
        assert!(started.contains(&attempt), "fired and not audited: {delivery:?}");
    }
    for job in jobs.keys() {
        assert!(matched.contains(job) && succeeded.contains(job), "{job} is not in the audit");
    }
}
