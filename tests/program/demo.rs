//! `axwatch demo` on repositories that git made: what it counts, that a kill changes none of it, and
//! what it says when there is nothing to show.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::repository::Repository;
use crate::support::{Dice, Home, Ran, Running, number, processes, text, until};
use serde_json::Value;

/// A demo of this repository, with `--json`.
fn demo(home: &Home, repository: &Path) -> Running {
    home.start(&["demo", "--repo", repository.to_str().expect("a test's path is text")])
}

/// What has to come out the same whatever happened on the way.
fn counts(told: &Value) -> BTreeMap<String, Value> {
    const SAME: [&str; 8] = [
        "attestations",
        "matches",
        "fires",
        "commit_fires",
        "completed",
        "dead",
        "audit_ok",
        "commits",
    ];
    SAME.iter().map(|key| ((*key).to_owned(), told[key].clone())).collect()
}

/// The jobs that a demo's file tells of, each with how often.
fn delivered(home: &Home, file: &str) -> BTreeMap<String, usize> {
    let lines = std::fs::read_to_string(home.path(file)).expect("the demo writes its fires down");
    let mut jobs = BTreeMap::new();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("each line is one object");
        *jobs.entry(text(&line, "job_id").to_owned()).or_default() += 1;
    }
    jobs
}

#[test]
fn a_demo_counts_what_git_counts() {
    let home = Home::new("demo-counts");
    let repository = Repository::with_commits(home.path("repo"), 300);
    let told = demo(&home, repository.path()).finish().expect(0).object();
    assert_eq!(number(&told, "commits"), repository.commits());
    assert_eq!(number(&told, "commit_fires"), repository.commits());
    assert_eq!(number(&told, "dead"), 0);
    assert_eq!(told["audit_ok"], true);
    assert_eq!(number(&told, "completed"), number(&told, "fires"));
    assert_eq!(number(&told, "matches"), number(&told, "fires"));
    assert_eq!(delivered(&home, "demo-commits.jsonl").len() as u64, repository.commits());

    // What git says that each commit changed against its first parent, by top-level folder.
    let log = repository.git(&[
        "log",
        "--all",
        "--diff-merges=first-parent",
        "--format=tformat:commit",
        "--name-only",
    ]);
    let mut changed = 0;
    for commit in log.split("commit\n") {
        let folders = commit.lines().filter_map(|path| path.split_once('/').map(|(top, _)| top));
        changed += folders.collect::<std::collections::BTreeSet<_>>().len();
    }
    assert_eq!(delivered(&home, "demo-directories.jsonl").len(), changed);

    // Again: nothing is new, and nothing is counted twice.
    let again = demo(&home, repository.path()).finish().expect(0).object();
    assert_eq!(counts(&again), counts(&told));

    // One more commit is one more fire.
    repository.git(&["checkout", "--quiet", "--force", "main"]);
    repository.git(&["commit", "--quiet", "--allow-empty", "--message", "one more"]);
    let more = demo(&home, repository.path()).finish().expect(0).object();
    assert_eq!(number(&more, "commit_fires"), number(&told, "commit_fires") + 1);
}

#[test]
fn the_commands_to_try_next_work() {
    let home = Home::new("demo-next");
    let repository = Repository::with_commits(home.path("repo"), 20);
    // As a person types it: from within the repository, and with no store of one's own.
    let mut command = home.command(["demo"]);
    command.current_dir(repository.path()).env("TMPDIR", home.path(""));
    let ran = Running::start(command).finish().expect(0);
    assert!(ran.out.contains("of them 20 of demo-commits"), "{}", ran.out);
    let next: Vec<_> =
        ran.out.lines().skip_while(|line| *line != "Try next:").skip(1).map(str::trim).collect();
    assert_eq!(next.len(), 3, "{}", ran.out);
    for line in next {
        let words: Vec<_> = line.split(' ').skip(1).collect();
        let tried = home.run_bare(&words).expect(0);
        assert!(!tried.out.is_empty(), "{line} says nothing");
    }
}

#[test]
fn a_demo_that_is_killed_goes_on_to_the_same_counts() {
    const KILLS: u32 = 10;
    let undisturbed = Home::new("demo-undisturbed");
    let repository = Repository::with_commits(undisturbed.path("repo"), 4_000);
    let began = Instant::now();
    let expected = demo(&undisturbed, repository.path()).finish().expect(0).object();
    let whole = began.elapsed();

    let home = Home::new("demo-killed");
    let mut dice = Dice::roll_seed();
    let within_ms = u64::try_from(whole.as_millis()).expect("a test is short") / 2;
    for _ in 0..KILLS {
        let running = demo(&home, repository.path());
        std::thread::sleep(Duration::from_millis(20 + dice.below(within_ms)));
        // Dropped is killed, with -9.
        drop(running);
    }
    let told = demo(&home, repository.path()).finish().expect(0).object();
    assert_eq!(counts(&told), counts(&expected));
    let jobs = delivered(&home, "demo-commits.jsonl");
    assert_eq!(jobs.len() as u64, number(&expected, "commit_fires"));
    // None began to read while an earlier job of reading was still open.
    let beside = "SELECT count(*) FROM jobs one JOIN jobs later ON later.number > one.number
        WHERE one.handler = 'git/ixgest.git' AND later.handler = one.handler
        AND later.created_at < one.completed_at";
    let beside: i64 = home.database().query_row(beside, [], |row| row.get(0)).expect("it is there");
    assert_eq!(beside, 0);
    until_nobody_is_left(&home);
}

/// The processes of killed demos end with them.
fn until_nobody_is_left(home: &Home) {
    until("no process of the demo is left", || {
        processes::tagged(home.tag()).is_empty().then_some(())
    });
}

#[test]
fn an_interrupted_demo_says_how_to_go_on() {
    let home = Home::new("demo-interrupted");
    let repository = Repository::with_commits(home.path("repo"), 4_000);
    let running = demo(&home, repository.path());
    until("fires are written down", || {
        std::fs::metadata(home.path("demo-commits.jsonl")).ok().filter(|file| file.len() > 0)
    });
    processes::signal(running.pid(), rustix::process::Signal::INT);
    let ran = running.finish().expect(1);
    assert!(text(&ran.error(), "message").contains("axwatch demo --repo"), "{ran:?}");
    let told = demo(&home, repository.path()).finish().expect(0).object();
    assert_eq!(number(&told, "commit_fires"), repository.commits());
}

#[test]
fn what_cannot_be_shown_is_refused_before_anything_is_made() {
    let home = Home::new("demo-refused");
    let empty = Repository::empty(home.path("empty"));
    std::fs::create_dir(home.path("folder")).expect("a folder can be made");
    std::fs::write(home.path("file"), "x").expect("a file can be written");
    let refused = |path: &Path| -> Ran { demo(&home, path).finish().expect(1) };
    for (path, says) in [
        (home.path("absent"), "absent"),
        (home.path("file"), "file"),
        (home.path("folder"), "repository"),
        (empty.path().to_owned(), "no commit"),
    ] {
        let ran = refused(&path);
        let message = ran.error();
        let message = text(&message, "message").to_owned();
        assert!(message.contains(says) && message.contains("--repo"), "{path:?}: {message}");
        assert!(!home.store().exists(), "{path:?} made a store");
    }
}

#[test]
fn a_demo_works_on_no_store_of_somebody_else() {
    let home = Home::new("demo-store");
    let repository = Repository::with_commits(home.path("repo"), 10);
    let server = home.serve();
    home.object(&["watch", "create", "mine", "--when", "is mine", "--run", "notify.log"]);
    let ran = demo(&home, repository.path()).finish().expect(3);
    assert!(text(&ran.error(), "message").contains("in use"), "{ran:?}");
    server.stop();
    let ran = demo(&home, repository.path()).finish().expect(1);
    assert!(text(&ran.error(), "message").contains("user-mine"), "{ran:?}");

    let folder = home.path("folder");
    std::fs::create_dir(&folder).expect("a folder can be made");
    let folder = folder.to_str().expect("a test's path is text");
    home.run_bare(&["demo", "--store", folder]).expect(2).says(&["is a folder"]);
    home.run_bare(&["demo", "--config", "am.toml"]).expect(2).says(&["reads no configuration"]);
}
