//! Random texts against the promises of the parser; see [`oracle`].
//!
//! The normal run tries the same texts each time. The long mode, `cargo xtask fuzz ax`, tries others,
//! as many as it is told to. The target in `fuzz/` asks the same of texts that libFuzzer finds.

mod generator;
mod oracle;
mod random;
mod shrink;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use generator::Generator;
use oracle::Seen;
use random::Random;

/// How long one text may keep us before it counts as endless.
const ENDLESS: Duration = Duration::from_secs(60);
/// How often a long run says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What a run has seen so far.
#[derive(Debug, Default, Clone)]
struct Totals {
    tried: u64,
    parsed: u64,
    /// Texts with a mistake of each kind.
    mistakes: BTreeMap<String, u64>,
    slowest: Duration,
    slowest_input: u64,
}

impl Totals {
    fn add(&mut self, input: u64, seen: Seen) {
        self.tried += 1;
        self.parsed += u64::from(seen.mistakes.is_empty());
        let mut kinds: Vec<String> = seen.mistakes.iter().map(|kind| format!("{kind:?}")).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            *self.mistakes.entry(kind).or_default() += 1;
        }
        if seen.took > self.slowest {
            (self.slowest, self.slowest_input) = (seen.took, input);
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { tried, parsed, slowest, slowest_input, .. } = self;
        let percent = 100 * parsed / (*tried).max(1);
        write!(f, "{percent}% parsed, the slowest took {slowest:?} (input {slowest_input})")
    }
}

/// Texts of one seed, which are the same in each run.
struct Campaign {
    generator: Generator,
    seed: u64,
    inputs: u64,
    /// The text that is being tried.
    at: AtomicU64,
}

impl Campaign {
    fn new(seed: u64, inputs: u64) -> Campaign {
        Campaign { generator: Generator::new(cases()), seed, inputs, at: AtomicU64::new(0) }
    }

    fn text(&self, input: u64) -> String {
        self.generator.text(&mut Random::of(self.seed, input))
    }

    /// Tries all texts; tells from time to time what was seen. The first that breaks a promise is shown
    /// in its shortest form.
    fn run(&self, mut tell: impl FnMut(&Totals)) -> Result<Totals, String> {
        std::thread::scope(|scope| {
            let (sender, progress) = mpsc::channel();
            let worker = scope.spawn(move || self.try_all(&sender));
            let mut last = (0, Instant::now());
            loop {
                match progress.recv_timeout(Duration::from_secs(1)) {
                    Ok(totals) => tell(&totals),
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => self.abort_if_endless(&mut last),
                }
            }
            worker.join().expect("a panic of the parser is caught")
        })
    }

    fn try_all(&self, progress: &mpsc::Sender<Totals>) -> Result<Totals, String> {
        let (mut totals, mut told) = (Totals::default(), Instant::now());
        for input in 0..self.inputs {
            self.at.store(input, Ordering::Relaxed);
            let text = self.text(input);
            match outcome(&text) {
                Ok(seen) => totals.add(input, seen),
                Err(broken) => return Err(self.failure(input, &text, &broken)),
            }
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                // Nobody listens any more only when this is to end.
                let _ = progress.send(totals.clone());
            }
        }
        Ok(totals)
    }

    /// A parse that does not come back cannot be stopped but with the process.
    fn abort_if_endless(&self, last: &mut (u64, Instant)) {
        let at = self.at.load(Ordering::Relaxed);
        if at != last.0 {
            *last = (at, Instant::now());
        } else if last.1.elapsed() > ENDLESS {
            eprintln!("input {at} of seed {} does not end: {:?}", self.seed, self.text(at));
            std::process::abort();
        }
    }

    fn failure(&self, input: u64, text: &str, broken: &str) -> String {
        let shrunk = shrink::shrink(text, |text| outcome(text).is_err());
        let broken_at_last = outcome(&shrunk).err().unwrap_or_default();
        format!(
            "input {input} of seed {} breaks a promise: {text:?} {broken}\n\
             in its shortest form: {shrunk:?} {broken_at_last}",
            self.seed
        )
    }
}

/// What is seen of a text, or the promise that it breaks, a panic counted.
fn outcome(text: &str) -> Result<Seen, String> {
    catch_unwind(AssertUnwindSafe(|| oracle::check(text))).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panics: {}", said.unwrap_or("without a word")))
    })
}

/// The queries of the language page's cases and of ours.
fn cases() -> Vec<String> {
    let files = [include_str!("../ax_cases.jsonl"), include_str!("../own_cases.jsonl")];
    let query = |line: &str| {
        let case: serde_json::Value = serde_json::from_str(line).expect("a case is JSON");
        case["query"].as_str().expect("a case has a query").to_owned()
    };
    files.into_iter().flat_map(str::lines).map(query).collect()
}

#[test]
fn random_texts_keep_the_promises() {
    let totals = Campaign::new(1, 100_000).run(|_| {}).unwrap_or_else(|broken| panic!("{broken}"));
    // The texts are worth something: many parse, and every mistake is made.
    let is_varied = totals.parsed > totals.tried / 5 && totals.mistakes.len() == 14;
    assert!(is_varied, "{totals:?}");
}

#[test]
fn cases_keep_the_promises() {
    for query in cases() {
        outcome(&query).unwrap_or_else(|broken| panic!("{query:?} {broken}"));
    }
}

/// The long mode. `AXWATCH_FUZZ_INPUTS` and `AXWATCH_FUZZ_SEED` say how much of what.
#[test]
#[ignore = "as long as it is told to: cargo xtask fuzz ax"]
fn many_random_texts_keep_the_promises() {
    let number = |name: &str, default: u64| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
    };
    let inputs = number("AXWATCH_FUZZ_INPUTS", 1_000_000);
    let campaign = Campaign::new(number("AXWATCH_FUZZ_SEED", 2), inputs);
    let start = Instant::now();
    let tell = |totals: &Totals| {
        let rate = totals.tried as f64 / start.elapsed().as_secs_f64();
        eprintln!("{} of {inputs} inputs, {rate:.0} a second; {totals}", totals.tried);
    };
    match campaign.run(tell) {
        Ok(totals) => {
            tell(&totals);
            eprintln!("no promise was broken; texts with each mistake: {:?}", totals.mistakes);
        }
        Err(broken) => panic!("{broken}"),
    }
}

/// The reading that the parser is held to is right by itself: what it takes, and what it refuses.
#[test]
fn the_plain_reading_is_that_of_the_language_page() {
    use oracle::plain::{Plain, read};

    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let plain = read("ALICE, 'b c' are author of not x since '3  days ago' So a,b").expect("good");
    let expected = Plain {
        any: [vec!["ALICE".into(), "b c".into()], words("author"), vec![], vec![]],
        none: [vec![], vec![], words("x"), vec![]],
        times: vec![("since", vec!["3 days ago".into()])],
        actions: words("a,b"),
        starts: plain.starts.clone(),
        ..Plain::default()
    };
    assert_eq!(plain, expected);
    let path = |text: &str| read(text).map(|plain| plain.conditions[0].path.join("|"));
    assert_eq!(path("where attributes.a.'b c'.d=1").as_deref(), Some("a|b c|d"));
    let refused = [
        "",
        "is",
        "a,",
        "a,,b",
        "not a",
        "is not not a",
        "a*",
        "'a",
        "''",
        r"'\n'",
        "so",
        "so a is b",
        "so and",
        "between x",
        "between x and",
        "since x 'y'",
        "where a",
        "where a = b",
        "where a = 1 or",
        "where a..b = 1",
        "where a. = 1",
        "where 'a''b' = 1",
        "where = 1",
        "where exists exists",
    ];
    for text in refused {
        assert_eq!(read(text), None, "{text}");
    }
}
