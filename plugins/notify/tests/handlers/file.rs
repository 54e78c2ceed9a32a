//! `notify.file`.

use std::collections::BTreeSet;
use std::future::{Future as _, poll_fn};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::task::Poll;

use axwatch_plugin_notify::plugin;
use axwatch_sdk::testing::{Harness, Outcome, TestJob};
use serde_json::{Value, json};

use crate::{fire, permanent, retry};

fn to(path: &Path) -> TestJob {
    fire("notify.file").params_json(json!({ "path": path }))
}

/// Each line, read as JSON.
#[track_caller]
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has its end");
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[track_caller]
fn ids(path: &Path) -> Vec<String> {
    lines(path).iter().map(|line| line["job_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_fire_is_one_line_with_the_claim_as_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("claims.jsonl");
    let harness = Harness::start(plugin()).await;
    // Keys in no order that a map would give them.
    let claim = r#"{"subjects":["A"],"id":"x","attributes":{"z":1.50,"a":9007199254740993}}"#;
    let job = fire("notify.file").payload(claim).params_json(json!({ "path": path })).attempt(3);
    let id = job.id().to_owned();
    harness.execute(job).await.expect_done();

    let text = std::fs::read_to_string(&path).unwrap();
    let line = &lines(&path)[0];
    let at: &str = line["at"].as_str().unwrap();
    assert_eq!(
        text,
        format!(
            "{{\"job_id\":\"{id}\",\"attempt\":3,\"watcher\":\"user-hr\",\"handler\":\"notify.file\",\"at\":\"{at}\",\"payload\":{claim}}}\n"
        )
    );
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "others do not read it: {mode:o}");
}

#[tokio::test]
async fn any_payload_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.jsonl");
    let harness = Harness::start_with(plugin(), [("file.path", path.to_str().unwrap())]).await;
    for payload in [&b"{\n  \"a\": [\r\n1]\n}"[..], b"", b"\xff\xfe"] {
        harness.execute(TestJob::new("notify.file").payload(payload)).await.expect_done();
    }
    let lines = lines(&path);
    assert_eq!(lines[0]["payload"], json!({"a": [1]}));
    assert_eq!((&lines[0]["watcher"], lines[1].get("payload")), (&Value::Null, Some(&Value::Null)));
    assert_eq!((lines[2].get("payload"), &lines[2]["payload_base64"]), (None, &json!("//4=")));
}

#[tokio::test]
async fn where_the_line_goes_has_to_be_clear() {
    let folder = tempfile::tempdir().unwrap();
    let harness = Harness::start(plugin()).await;
    let cases = [
        (json!({}), "give the watcher --params"),
        (json!({"path": "x.jsonl"}), "must be absolute, or set [notify.file] folder"),
        (json!({"pth": "/tmp/x"}), "did you mean \"path\"?"),
        (json!({"path": folder.path()}), "it is a folder and no regular file"),
        (json!({"path": "/dev/null"}), "it is a device or pipe and no regular file"),
        (json!({"path": "/dev/null/x"}), "Not a directory"),
        (json!({"path": "/tmp/\u{0}"}), "cannot open it"),
    ];
    for (params, says) in cases {
        let job = fire("notify.file").params_json(&params);
        let reason = permanent(harness.execute(job).await.expect_failure());
        assert!(reason.contains(says), "{params}: {reason}");
    }

    let settings = [("file.folder", folder.path().to_str().unwrap())];
    let harness = Harness::start_with(plugin(), settings).await;
    harness.execute(to(Path::new("x.jsonl"))).await.expect_done();
    assert_eq!(ids(&folder.path().join("x.jsonl")).len(), 1);
}

#[tokio::test]
async fn a_folder_that_is_not_there_yet_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later/x.jsonl");
    let harness = Harness::start(plugin()).await;
    let reason = retry(harness.execute(to(&path)).await.expect_failure());
    assert!(reason.contains("later does not exist"), "{reason}");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    harness.execute(to(&path)).await.expect_done();
    assert_eq!(ids(&path).len(), 1);
}

#[tokio::test]
async fn a_line_that_a_crash_cut_stays_and_later_ones_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    std::fs::write(&path, "{\"job_id\":\"a\"}\n{\"job_").unwrap();
    let harness = Harness::start(plugin()).await;
    for _ in 0..2 {
        harness.execute(to(&path)).await.expect_done();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let torn: Vec<bool> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).is_err()).collect();
    assert_eq!(torn, [false, true, false, false], "{text}");
}

#[tokio::test]
async fn a_rotated_file_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("x.jsonl"), folder.path().join("x.jsonl.1"));
    let harness = Harness::start(plugin()).await;
    let write = async || {
        let job = to(&path);
        let id = job.id().to_owned();
        harness.execute(job).await.expect_done();
        id
    };
    let first = write().await;
    std::fs::rename(&path, &old).unwrap();
    let second = write().await;
    assert_eq!((ids(&old), ids(&path)), (vec![first], vec![second]), "renamed");
    std::fs::remove_file(&path).unwrap();
    let third = write().await;
    assert_eq!(ids(&path), [third], "removed");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    let fourth = write().await;
    assert_eq!(ids(&path), [fourth], "emptied");
}

#[tokio::test]
async fn many_jobs_at_once_make_as_many_whole_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    let harness = Harness::start(plugin()).await;
    for fsync in [false, true] {
        let jobs = (0..200)
            .map(|_| fire("notify.file").params_json(json!({ "path": path, "fsync": fsync })));
        for outcome in all(&harness, jobs).await {
            outcome.expect_done();
        }
    }
    let found: BTreeSet<String> = ids(&path).into_iter().collect();
    assert_eq!((lines(&path).len(), found.len()), (400, 400));
}

/// Sends jobs at the same time.
async fn all(harness: &Harness, jobs: impl Iterator<Item = TestJob>) -> Vec<Outcome> {
    let mut under_way: Vec<_> = jobs.map(|job| Box::pin(harness.execute(job))).collect();
    let mut ended = Vec::new();
    poll_fn(|context| {
        under_way.retain_mut(|job| match job.as_mut().poll(context) {
            Poll::Ready(outcome) => {
                ended.push(outcome);
                false
            }
            Poll::Pending => true,
        });
        if under_way.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    ended
}

/// What the process that is killed writes to, and as which watcher's.
const PATH: &str = "NOTIFY_TEST_PATH";
const WATCHER: &str = "NOTIFY_TEST_WATCHER";

#[tokio::test]
async fn a_killed_plugin_loses_no_line_that_it_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    let harness = Harness::start(plugin()).await;
    let mut reported = BTreeSet::new();
    for round in ["first", "second", "third"] {
        reported
            .extend(killed_after(500, &path, round).into_iter().map(|id| (round.to_owned(), id)));
        // Whatever the kill left behind, this line is whole.
        let job = to(&path).watcher("after");
        reported.insert(("after".to_owned(), job.id().to_owned()));
        harness.execute(job).await.expect_done();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let read: Vec<Option<Value>> =
        text.lines().map(|line| serde_json::from_str(line).ok()).collect();
    let torn = read.iter().filter(|line| line.is_none()).count();
    assert!(torn <= 3, "a kill cuts one line at most, not {torn} of three kills");
    let word = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    let found: BTreeSet<(String, String)> =
        read.iter().flatten().map(|line| (word(line, "watcher"), word(line, "job_id"))).collect();
    assert_eq!(reported.len(), 3 * 501);
    assert_eq!(reported.difference(&found).count(), 0, "lines are lost");
}

/// Runs `dies_while_writing` until it has reported so many lines, and kills it. Returns their jobs.
fn killed_after(lines: usize, path: &Path, watcher: &str) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "file::dies_while_writing", "--ignored", "--nocapture"])
        .env(PATH, path)
        .env(WATCHER, watcher)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let done = said.filter_map(|line| line.strip_prefix("done ").map(str::to_owned));
    let reported = done.take(lines).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    reported
}

/// Writes for ever.
#[tokio::test]
#[ignore = "is started, and killed, by a_killed_plugin_loses_no_line_that_it_reported"]
async fn dies_while_writing() {
    let (Ok(path), Ok(watcher)) = (std::env::var(PATH), std::env::var(WATCHER)) else { return };
    let harness = Harness::start(plugin()).await;
    loop {
        let jobs: Vec<TestJob> =
            (0..16).map(|_| to(Path::new(&path)).watcher(watcher.as_str())).collect();
        let ids: Vec<String> = jobs.iter().map(|job| format!("done {}\n", job.id())).collect();
        for outcome in all(&harness, jobs.into_iter()).await {
            outcome.expect_done();
        }
        std::io::stdout().write_all(ids.concat().as_bytes()).unwrap();
    }
}
