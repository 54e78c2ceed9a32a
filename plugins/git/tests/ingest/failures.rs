//! What cannot be read: each failure is for good, names what is wrong and says what would be right.

use std::path::Path;

use axwatch_plugin_git::{count_commits, find_repository};
use serde_json::json;

use crate::support::{Sandbox, refusal};

/// Reads `path`, which fails, through the plugin and through the functions that say it early.
async fn check_refused(path: &Path, parts: &[&str]) {
    let reason = refusal(&json!({ "repository_source": path })).await;
    let early = count_commits(path).unwrap_err().chain();
    assert_eq!(reason, early);
    let shown = path.display().to_string();
    for part in parts.iter().copied().chain([shown.as_str()]) {
        assert!(reason.contains(part), "{reason:?} should say {part:?}");
    }
}

#[tokio::test]
async fn paths_that_are_no_repository() {
    let sandbox = Sandbox::without_repository();
    let file = sandbox.path().join("file");
    std::fs::write(&file, "x").unwrap();
    check_refused(&sandbox.path().join("nothing"), &["does not exist"]).await;
    check_refused(&file.join("below"), &["does not exist"]).await;
    check_refused(&file, &["is a file", "folder of a repository"]).await;
    check_refused(sandbox.path(), &["is not a git repository", "clone"]).await;
    check_refused(Path::new("no/such/place"), &["does not exist", "relative paths begin at"]).await;
}

#[tokio::test]
async fn a_repository_without_commits() {
    let sandbox = Sandbox::new();
    check_refused(sandbox.path(), &["has no commits yet"]).await;
    assert_eq!(find_repository(sandbox.path()).unwrap(), sandbox.path().canonicalize().unwrap());
    let blob = sandbox.git_in(sandbox.path(), ["hash-object", "-w", "--stdin"], &[], b"x");
    sandbox.git(["tag", "blob", &blob]);
    check_refused(sandbox.path(), &["has no commits yet"]).await;
}

#[tokio::test]
async fn formats_that_are_not_read() {
    let sandbox = Sandbox::without_repository();
    sandbox.git(["init", "-q", "--object-format=sha256"]);
    sandbox.commit_file("file", "1");
    check_refused(sandbox.path(), &["SHA-1", "--object-format=sha1"]).await;

    // As `git init --ref-format=reftable` says it, which older ones do not know.
    let sandbox = Sandbox::without_repository();
    sandbox.git(["init", "-q"]);
    sandbox.commit_file("file", "1");
    let config = sandbox.path().join(".git/config");
    let mut text = std::fs::read_to_string(&config).unwrap();
    text.push_str("[core]\n\trepositoryformatversion = 1\n[extensions]\n\trefStorage = reftable\n");
    std::fs::write(config, text).unwrap();
    check_refused(sandbox.path(), &["references as reftable", "--ref-format=files"]).await;
}

#[tokio::test]
async fn objects_that_are_gone_or_damaged() {
    let sandbox = Sandbox::linear(3);
    let victim = sandbox.git(["rev-parse", "main~1"]);
    let file = sandbox.path().join(".git/objects").join(&victim[..2]).join(&victim[2..]);
    std::fs::remove_file(&file).unwrap();
    let reason = refusal(&json!({ "repository_source": sandbox.path() })).await;
    let child = sandbox.git(["rev-parse", "main"]);
    for part in [&victim, &child, "is missing", "git fsck"] {
        assert!(reason.contains(part), "{reason:?} should say {part:?}");
    }
    std::fs::write(&file, b"no zlib at all").unwrap();
    let reason = refusal(&json!({ "repository_source": sandbox.path() })).await;
    for part in [&victim, "git fsck"] {
        assert!(reason.contains(part), "{reason:?} should say {part:?}");
    }
}

#[tokio::test]
async fn a_commit_whose_bytes_are_none() {
    let sandbox = Sandbox::linear(1);
    let bad = sandbox.raw_commit("bad", b"tree 12\n\nx");
    let reason = refusal(&json!({ "repository_source": sandbox.path() })).await;
    for part in [&bad, "is corrupt", "without a tree"] {
        assert!(reason.contains(part), "{reason:?} should say {part:?}");
    }
    sandbox.git(["branch", "-q", "-D", "bad"]);
    let tree = sandbox.git(["rev-parse", "main^{tree}"]);
    let head = sandbox.git(["rev-parse", "main"]);
    // A tree as a parent, and a commit as a tree.
    for (line, user) in [
        (format!("tree {tree}\nparent {tree}"), "the history"),
        (format!("tree {head}"), "a commit"),
    ] {
        sandbox.raw_commit(
            "wrong",
            format!("{line}\nauthor A <a> 1 +0000\ncommitter A <a> 1 +0000\n\nx").as_bytes(),
        );
        let reason = refusal(&json!({ "repository_source": sandbox.path() })).await;
        assert!(reason.contains(user) && reason.contains("git fsck"), "{reason:?}");
    }
}
