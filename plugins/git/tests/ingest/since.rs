//! The three forms of `since`, held to what git leaves away.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{Sandbox, read_payload, refusal};

/// Which commits a `since` leaves, compared with those that git lists with `args`.
async fn check_since(sandbox: &Sandbox, since: &str, expected: BTreeSet<String>) {
    let payload = json!({ "repository_source": sandbox.path(), "since": since });
    let read = read_payload(&payload).await;
    assert_eq!(read.commits().into_iter().collect::<BTreeSet<_>>(), expected, "since {since}");
    assert_eq!(read.result()["since"], json!(since));
    assert_eq!(read.with("points_to").len(), 3, "references are told in any case");
}

fn list<const N: usize>(sandbox: &Sandbox, args: [&str; N]) -> BTreeSet<String> {
    sandbox.git(args).lines().map(str::to_owned).collect()
}

fn branched() -> Sandbox {
    let sandbox = Sandbox::linear(5);
    sandbox.git(["checkout", "-q", "-b", "side", "main~3"]);
    sandbox.commit_file("side/file", "1");
    sandbox.commit_file("side/file", "2");
    sandbox.git(["tag", "-a", "-m", "x", "v1", "side~1"]);
    sandbox
}

#[tokio::test]
async fn a_commit_leaves_what_does_not_come_before_it() {
    let sandbox = branched();
    let whole = sandbox.git(["rev-parse", "main~2"]);
    let names =
        ["main", "main~2", "side", "v1", "HEAD", &whole, &whole[..7], &whole.to_uppercase()];
    for name in names {
        let hash = sandbox.git(["rev-parse", &name.to_lowercase().replace("head", "HEAD")]);
        let since = if name == "main~2" { &hash } else { name };
        let expected =
            list(&sandbox, ["rev-list", "--all", "HEAD", "--not", &format!("{hash}^{{commit}}")]);
        check_since(&sandbox, since, expected).await;
    }
}

#[tokio::test]
async fn a_commit_that_no_reference_names_any_more() {
    let sandbox = branched();
    let gone = sandbox.commit_file("side/file", "3");
    sandbox.git(["reset", "-q", "--hard", "HEAD~1"]);
    let expected = list(&sandbox, ["rev-list", "--all", "HEAD", "--not", &gone]);
    assert!(!expected.is_empty());
    check_since(&sandbox, &gone, expected).await;
}

#[tokio::test]
async fn a_time_leaves_what_was_committed_at_it_or_later() {
    let sandbox = branched();
    let cases = [
        "2023-11-14T22:15:20Z",
        "2023-11-14T22:15:20.5Z",
        "2023-11-15T00:15:21+02:00",
        "2023-11-14",
        "2023-11-15",
        "1969-01-01",
    ];
    for since in cases {
        let asked = match since.len() {
            10 => format!("{since}T00:00:00Z"),
            // Git knows whole seconds only.
            _ => since.replace("20.5Z", "21Z"),
        };
        let filter = format!("--since-as-filter={asked}");
        let expected = match since {
            "1969-01-01" => list(&sandbox, ["rev-list", "--all", "HEAD"]),
            _ => list(&sandbox, ["rev-list", "--all", "HEAD", &filter]),
        };
        check_since(&sandbox, since, expected).await;
    }
}

#[tokio::test]
async fn what_is_no_since_is_refused_with_the_three_forms() {
    let sandbox = branched();
    sandbox.git(["tag", "tree", "main^{tree}"]);
    let tree = sandbox.git(["rev-parse", "main^{tree}"]);
    let cases = [
        ("yesterday", "neither a time nor a commit"),
        ("abc123", "neither a time nor a commit"),
        ("2024-13-45", "neither a time nor a commit"),
        ("main~2", "neither a time nor a commit"),
        ("0000000", "begins the hash of no commit"),
        (&tree, "begins the hash of no commit"),
        ("tree", "a reference that names no commit"),
    ];
    for (since, why) in cases {
        let reason = refusal(&json!({ "repository_source": sandbox.path(), "since": since })).await;
        for part in [since, why, "2024-05-15T14:30:00Z", "2024-05-15,", "7 to 40 hex digits"] {
            assert!(reason.contains(part), "{since}: {reason:?} should say {part:?}");
        }
    }
}
