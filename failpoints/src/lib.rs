//! Failpoints: named places on the way of a claim at which a developer makes the program fail, to see
//! what it does then.
//!
//! They are in every build and off, so that the very program that people run is the one that is
//! tested. `AXWATCH_FAILPOINTS` arms them: `commit.before=abort@3` ends the process, as a kill would,
//! at the third time that it comes to that place. `docs/failpoints.md` lists the places and what may be
//! done at each.
//!
//! A place that is off costs one relaxed load of an atomic.
//!
//! Not here: where the places are (a search for `Point::` finds them), and what follows from an error
//! at one of them.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Declares the places, in the order in which a claim comes to them.
macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $text:literal: $can_fail:literal,)*) => {
        /// A place.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $name,)*
        }

        impl Point {
            /// All places.
            pub const ALL: &[Point] = &[$(Point::$name,)*];

            /// Its name in `AXWATCH_FAILPOINTS`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Point::$name => $text,)*
                }
            }

            /// Its name in the source.
            #[must_use]
            pub fn variant(self) -> &'static str {
                match self {
                    $(Point::$name => stringify!($name),)*
                }
            }

            /// Whether an error can be told from there.
            #[must_use]
            pub fn can_fail(self) -> bool {
                match self {
                    $(Point::$name => $can_fail,)*
                }
            }
        }
    };
}

points! {
    /// The writer has its next messages, and nothing has been decided.
    BatchBegin = "batch.begin": true,
    /// The core has decided; nothing of it is on the disk.
    BatchDecided = "batch.decided": true,
    /// The statements of a commit are with the database, all but its COMMIT.
    CommitBefore = "commit.before": true,
    /// The commit is on the disk, and the writer has not been told.
    CommitAfter = "commit.after": true,
    /// Some effects of a commit are out, others are not.
    EffectsHalf = "effects.half": false,
    /// Some who appended have their answer, others have not.
    AcksHalf = "acks.half": false,
    /// An attempt is being handed to its plugin.
    RequestSending = "request.sending": true,
    /// The plugin has answered, and the writer has not been told.
    ResponseRead = "response.read": true,
    /// The end of an attempt is decided and not on the disk.
    Settle = "settle.commit": true,
    /// Claims were read for matching that is behind, or for watchers that catch up.
    SegmentRead = "segment.read": true,
    /// What follows from such claims is on the disk.
    SegmentCommitted = "segment.committed": true,
    /// A watcher that caught up is live, and that is not on the disk.
    GoLive = "live.commit": true,
    /// What a plugin announced is decided and not on the disk.
    Registration = "registration.commit": true,
    /// A chain of causes has been stopped, and that is not on the disk.
    LoopStop = "loop.stop": true,
    /// Claims that are too old are to be removed, and are not.
    Retention = "retention.commit": true,
    /// The write-ahead log is to be copied into the main file.
    Checkpoint = "checkpoint": true,
    /// A step of the schema is to be made; the last pass is before its COMMIT.
    Migration = "migration.step": true,
    /// A copy of the store is whole, and not in its place.
    Backup = "backup.place": true,
    /// A token for a new process of a plugin is made.
    TokenMint = "token.mint": false,
    /// A plugin's process is to be started.
    Spawn = "spawn": true,
    /// A plugin's process is to be initialized.
    Handshake = "handshake": true,
    /// Nothing starts any more, and what is under way is waited for.
    Drain = "drain": false,
}

impl fmt::Display for Point {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// What is done at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Abort,
    Error,
    Sleep(Duration),
    Panic,
}

/// The error that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failpoint {0}: an error was asked for here")]
pub struct Injected(Point);

impl From<Injected> for std::io::Error {
    fn from(injected: Injected) -> std::io::Error {
        std::io::Error::other(injected)
    }
}

/// What was asked for cannot be armed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} in {VARIABLE}: {1}")]
pub struct InvalidPlan(String, &'static str);

/// The variable of the environment that arms failpoints.
pub const VARIABLE: &str = "AXWATCH_FAILPOINTS";

/// One place that is armed.
#[derive(Debug)]
struct Armed {
    point: Point,
    action: Action,
    /// Only at this pass; `None` is at every one.
    at: Option<u64>,
    passes: AtomicU64,
}

impl FromStr for Armed {
    type Err = InvalidPlan;

    fn from_str(text: &str) -> Result<Armed, InvalidPlan> {
        let invalid = |reason| InvalidPlan(text.to_owned(), reason);
        let (name, rest) = text
            .split_once('=')
            .ok_or_else(|| invalid("expected POINT=ACTION, such as commit.before=abort@3"))?;
        let point = Point::ALL.iter().copied().find(|point| point.name() == name.trim());
        let point = point.ok_or_else(|| invalid("there is no such failpoint"))?;
        let (action, at) = match rest.split_once('@') {
            None => (rest, None),
            Some((action, at)) => match at.trim().parse() {
                Ok(at @ 1..) => (action, Some(at)),
                _ => return Err(invalid("after @ comes the pass, from 1 on")),
            },
        };
        let action = match action.trim() {
            "abort" => Action::Abort,
            "panic" => Action::Panic,
            "error" if point.can_fail() => Action::Error,
            "error" => return Err(invalid("nobody can be told of an error there")),
            other => {
                let ms = other.strip_prefix("sleep(").and_then(|rest| rest.strip_suffix(')'));
                let ms = ms.and_then(|ms| ms.parse().ok());
                let ms = ms.ok_or_else(|| {
                    invalid("the actions are abort, error, panic and sleep(MILLISECONDS)")
                })?;
                Action::Sleep(Duration::from_millis(ms))
            }
        };
        Ok(Armed { point, action, at, passes: AtomicU64::new(0) })
    }
}

static IS_ARMED: AtomicBool = AtomicBool::new(false);
static PLAN: OnceLock<Vec<Armed>> = OnceLock::new();

fn parse(plan: &str) -> Result<Vec<Armed>, InvalidPlan> {
    plan.split(';').map(str::trim).filter(|one| !one.is_empty()).map(str::parse).collect()
}

/// Arms failpoints, once in the life of a process: `POINT=ACTION[@PASS]`, more of them after a `;`.
///
/// # Errors
/// [`InvalidPlan`] when the text is none.
pub fn arm(plan: &str) -> Result<(), InvalidPlan> {
    let armed = parse(plan)?;
    let any = !armed.is_empty();
    // A second plan would have come too late for what has passed already.
    if PLAN.set(armed).is_ok() && any {
        IS_ARMED.store(true, Ordering::Release);
    }
    Ok(())
}

/// Whether any failpoint is armed: what has to be looked up only for a failpoint is behind this.
#[inline]
#[must_use]
pub fn is_armed() -> bool {
    IS_ARMED.load(Ordering::Relaxed)
}

/// A place that can fail.
///
/// # Errors
/// [`Injected`] when that was asked for.
#[inline]
pub fn hit(point: Point) -> Result<(), Injected> {
    if is_armed() { act(point) } else { Ok(()) }
}

/// A place from which no error can be told.
#[inline]
pub fn pass(point: Point) {
    if is_armed() {
        // Arming refuses errors there.
        let _ = act(point);
    }
}

#[cold]
fn act(point: Point) -> Result<(), Injected> {
    for armed in PLAN.get().into_iter().flatten().filter(|armed| armed.point == point) {
        let pass = armed.passes.fetch_add(1, Ordering::Relaxed) + 1;
        if armed.at.is_none_or(|at| at == pass) {
            eprintln!("failpoint {point}: {:?} at pass {pass}", armed.action);
            armed.action.done_at(point)?;
        }
    }
    Ok(())
}

impl Action {
    fn done_at(self, point: Point) -> Result<(), Injected> {
        match self {
            Action::Abort => end_as_by_a_kill(),
            Action::Error => Err(Injected(point)),
            // The thread itself: a disk that does not answer holds it up no less.
            Action::Sleep(long) => {
                std::thread::sleep(long);
                Ok(())
            }
            Action::Panic => panic!("failpoint {point}: a panic was asked for here"),
        }
    }
}

/// Nothing is closed, flushed or handed over, and no core is written.
fn end_as_by_a_kill() -> ! {
    use rustix::process::{Signal, getpid, kill_process};
    // It cannot fail for a process's own id, and were it to, the next line ends it too.
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read() {
        let plan = parse("commit.before=abort@3; spawn = sleep(20) ;drain=panic;").unwrap();
        let read: Vec<_> = plan.iter().map(|one| (one.point, one.action, one.at)).collect();
        let expected = [
            (Point::CommitBefore, Action::Abort, Some(3)),
            (Point::Spawn, Action::Sleep(Duration::from_millis(20)), None),
            (Point::Drain, Action::Panic, None),
        ];
        assert_eq!(read, expected);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_armed_says_why() {
        let cases = [
            ("commit.before", "POINT=ACTION"),
            ("comit=abort", "no such failpoint"),
            ("commit.before=explode", "abort, error, panic"),
            ("commit.before=sleep(a)", "sleep(MILLISECONDS)"),
            ("commit.before=abort@0", "from 1 on"),
            ("drain=error", "nobody can be told"),
        ];
        for (plan, reason) in cases {
            let error = parse(plan).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(VARIABLE), "{plan}: {error}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        for (index, point) in Point::ALL.iter().enumerate() {
            assert!(Point::ALL[..index].iter().all(|other| other.name() != point.name()));
        }
    }
}
