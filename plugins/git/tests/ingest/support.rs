//! Repositories to read, and the comparison of what was read with what git says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};

use axwatch_plugin_git::{count_commits, plugin};
use axwatch_sdk::testing::{Harness, Outcome, TestJob};
use axwatch_sdk::{Attestation, Failure};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A repository in a folder of its own, made without anybody's configuration.
pub struct Sandbox {
    home: TempDir,
    path: PathBuf,
    /// Of the next commit, in seconds since the Unix epoch.
    clock: AtomicI64,
}

/// The time of the first commit: 2023-11-14T22:13:20Z. Each later one is a minute after.
pub const FIRST_COMMIT: i64 = 1_700_000_000;

impl Sandbox {
    /// An empty repository with a work tree.
    pub fn new() -> Sandbox {
        let sandbox = Sandbox::without_repository();
        sandbox.git(["init", "-q", "-b", "main"]);
        sandbox
    }

    /// A folder that is no repository.
    pub fn without_repository() -> Sandbox {
        let home = TempDir::new().expect("a temporary folder can be made");
        let path = home.path().join("repository");
        std::fs::create_dir(&path).expect("a folder can be made");
        Sandbox { home, path, clock: AtomicI64::new(FIRST_COMMIT) }
    }

    /// One with `commits` commits in a row, each of which changes the folder `src`.
    pub fn linear(commits: usize) -> Sandbox {
        let sandbox = Sandbox::new();
        for number in 0..commits {
            sandbox.commit_file("src/file", &number.to_string());
        }
        sandbox
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path beside the repository, which ends with it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs git in the repository, and gives what it says without the last line's end.
    pub fn git<const N: usize>(&self, args: [&str; N]) -> String {
        self.git_in(&self.path, args, &[], b"")
    }

    /// Runs git in a folder, with more of an environment, and with this on its standard input.
    pub fn git_in<const N: usize>(
        &self,
        folder: &Path,
        args: [&str; N],
        environment: &[(&str, &str)],
        input: &[u8],
    ) -> String {
        let seconds = self.clock.load(Ordering::Relaxed);
        let date = format!("{seconds} +0200");
        let mut command = Command::new("git");
        for (key, _) in
            std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("GIT_"))
        {
            command.env_remove(key);
        }
        command
            .args(["-c", "protocol.file.allow=always", "-c", "core.quotePath=false"])
            .args(["-c", "advice.graftFileDeprecated=false"])
            .args(args)
            .current_dir(folder)
            .env("HOME", self.home.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs([("GIT_AUTHOR_NAME", "Ada"), ("GIT_AUTHOR_EMAIL", "ada@example.org")])
            .envs([("GIT_COMMITTER_NAME", "Carl"), ("GIT_COMMITTER_EMAIL", "carl@example.org")])
            .envs([("GIT_AUTHOR_DATE", &date), ("GIT_COMMITTER_DATE", &date)])
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program git is installed");
        let mut stdin = child.stdin.take().expect("its input is a pipe");
        let input = input.to_vec();
        // Beside the reading, since git may fill its output before it has read all of its input.
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().expect("git ends");
        let _ = writer.join();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {args:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
    }

    /// Writes a file of the work tree and commits all that changed; gives the commit's hash.
    pub fn commit_file(&self, file: &str, text: &str) -> String {
        let path = self.path.join(file);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).unwrap();
        std::fs::write(path, text).unwrap();
        self.commit(&format!("write {file}"))
    }

    /// Commits all that changed, or nothing, a minute after the last commit.
    pub fn commit(&self, message: &str) -> String {
        self.git(["add", "-A"]);
        self.git(["commit", "-q", "--allow-empty", "-m", message]);
        self.tick(60);
        self.git(["rev-parse", "HEAD"])
    }

    /// Moves the clock of the next commit.
    pub fn tick(&self, seconds: i64) {
        self.clock.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Writes a commit from its bytes and puts a branch there: for what `git commit` refuses.
    pub fn raw_commit(&self, branch: &str, bytes: &[u8]) -> String {
        let args = ["hash-object", "-t", "commit", "-w", "--stdin", "--literally"];
        let id = self.git_in(&self.path, args, &[], bytes);
        let file = self.path.join(".git/refs/heads").join(branch);
        std::fs::write(file, format!("{id}\n")).unwrap();
        id
    }

    /// Every commit of a repository from any reference or HEAD, as git has them.
    pub fn rev_list(&self, folder: &Path) -> BTreeSet<String> {
        let list = self.git_in(folder, ["rev-list", "--all", "HEAD"], &[], b"");
        list.lines().map(str::to_owned).collect()
    }
}

/// What came of reading a repository.
pub struct Read {
    pub outcome: Outcome,
    pub claims: Vec<Attestation>,
}

/// Reads the repository in `folder` with a host of its own.
pub async fn read(folder: &Path) -> Read {
    read_payload(&json!({ "repository_source": folder })).await
}

/// Runs one job with this payload. It must be done.
pub async fn read_payload(payload: &Value) -> Read {
    let harness = Harness::start(plugin()).await;
    let outcome = run(&harness, payload).await.expect_done();
    Read { outcome, claims: harness.claims() }
}

pub async fn run(harness: &Harness, payload: &Value) -> Outcome {
    harness.execute(TestJob::new("ixgest.git").payload_json(payload)).await
}

/// Why a job with this payload fails, which it must for good.
pub async fn refusal(payload: &Value) -> String {
    let harness = Harness::start(plugin()).await;
    match run(&harness, payload).await.expect_failure() {
        Failure::Permanent(reason) => reason,
        other => panic!("{payload}: {other:?} is not permanent"),
    }
}

impl Read {
    pub fn result(&self) -> Value {
        self.outcome.result_as()
    }

    /// The claims with this predicate, oldest first.
    pub fn with(&self, predicate: &str) -> Vec<&Attestation> {
        self.claims.iter().filter(|claim| claim.predicates == [predicate]).collect()
    }

    /// (subject, context) of each claim with this predicate.
    pub fn pairs(&self, predicate: &str) -> BTreeSet<(String, String)> {
        let pair = |claim: &&Attestation| (claim.subjects[0].clone(), claim.contexts[0].clone());
        self.with(predicate).iter().map(pair).collect()
    }

    /// The full hash of each commit, in the order in which they were claimed.
    pub fn commits(&self) -> Vec<String> {
        let hash = |claim: &&Attestation| text(claim, "full_hash");
        self.with("is_commit").iter().map(hash).collect()
    }

    /// The one `is_commit` claim of a commit.
    pub fn commit(&self, hash: &str) -> &Attestation {
        let all = self.with("is_commit");
        all.into_iter().find(|claim| text(claim, "full_hash") == hash).expect("it was read")
    }

    /// The warnings that people see.
    pub fn log(&self) -> String {
        self.outcome.log.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n")
    }
}

/// An attribute that must be a text.
pub fn text(claim: &Attestation, key: &str) -> String {
    let value = claim.attributes.get(key).and_then(Value::as_str);
    value.unwrap_or_else(|| panic!("{} has no {key}: {:?}", claim.id, claim.attributes)).to_owned()
}

/// Reads a repository twice and holds all that was read to what git says of it.
pub async fn check(sandbox: &Sandbox, folder: &Path) -> Read {
    let harness = Harness::start(plugin()).await;
    let payload = json!({ "repository_source": folder });
    let outcome = run(&harness, &payload).await.expect_done();
    let read = Read { outcome, claims: harness.claims() };
    run(&harness, &payload).await.expect_done();
    assert_eq!(harness.claims().len(), read.claims.len(), "a second run adds nothing");

    let commits = read.commits();
    let expected = sandbox.rev_list(folder);
    assert_eq!(commits.iter().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(commits.len(), expected.len(), "each once");
    assert_eq!(count_commits(folder).unwrap(), expected.len() as u64);
    assert_eq!(read.result()["commits"], expected.len());
    let progress = read.outcome.progress.expect("progress is told");
    assert_eq!(progress, (expected.len() as u64, expected.len() as u64));

    let parents = parents(sandbox, folder);
    check_order(&commits, &parents);
    check_parents(&read, &parents);
    check_directories(sandbox, folder, &read, &parents);
    read
}

/// Parents by commit, as the history is walked.
fn parents(sandbox: &Sandbox, folder: &Path) -> BTreeMap<String, Vec<String>> {
    let list = sandbox.git_in(folder, ["rev-list", "--parents", "--all", "HEAD"], &[], b"");
    let line = |line: &str| {
        let mut hashes = line.split(' ').map(str::to_owned);
        (hashes.next().expect("a line begins with a commit"), hashes.collect())
    };
    list.lines().map(line).collect()
}

fn check_order(commits: &[String], parents: &BTreeMap<String, Vec<String>>) {
    let place: HashMap<_, _> = commits.iter().enumerate().map(|(at, hash)| (hash, at)).collect();
    for (child, parents) in parents {
        for parent in parents {
            assert!(place[parent] < place[child], "{parent} stands before its child {child}");
        }
    }
}

/// Those beyond the boundary of a shallow clone are told as well, so that this asks for inclusion.
fn check_parents(read: &Read, parents: &BTreeMap<String, Vec<String>>) {
    let told = read.pairs("is_child_of");
    for (child, parents) in parents {
        let listed = &read.commit(child).attributes["parents"];
        for parent in parents {
            let pair = (child[..7].to_owned(), parent[..7].to_owned());
            assert!(told.contains(&pair), "{pair:?}");
            assert!(listed.as_array().unwrap().contains(&json!(parent)), "{child}: {listed}");
        }
    }
    let all = read
        .with("is_commit")
        .iter()
        .map(|claim| claim.attributes["parents"].as_array().unwrap().len())
        .sum::<usize>();
    assert_eq!(read.with("is_child_of").len(), all);
}

fn check_directories(
    sandbox: &Sandbox,
    folder: &Path,
    read: &Read,
    parents: &BTreeMap<String, Vec<String>>,
) {
    let mut asked = String::new();
    for (commit, parents) in parents {
        let first = parents.first().map_or(String::new(), |parent| format!(" {parent}"));
        asked.push_str(&format!("{commit}{first}\n"));
    }
    let args = ["diff-tree", "--stdin", "--root", "--raw", "--no-renames"];
    let answer = sandbox.git_in(folder, args, &[], asked.as_bytes());
    let boundary = std::fs::read_to_string(folder.join(".git/shallow")).unwrap_or_default();
    let (mut expected, mut commit) = (BTreeSet::new(), "");
    for line in answer.lines() {
        match line.strip_prefix(':') {
            None => commit = line,
            Some(_) if boundary.contains(commit) => {}
            Some(change) => {
                let (modes, name) = change.split_once('\t').expect("a name follows a tab");
                if modes.split(' ').take(2).any(|mode| mode == "040000") {
                    expected.insert((name.to_owned(), commit[..7].to_owned()));
                }
            }
        }
    }
    assert_eq!(read.pairs("modified_in"), expected);
}
