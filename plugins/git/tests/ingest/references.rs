//! Branches, tags and every other reference.

use std::collections::BTreeSet;

use axwatch_sdk::testing::Harness;
use serde_json::{Value, json};

use crate::support::{Sandbox, check, read, run, text};

#[tokio::test]
async fn every_reference_counts_and_branches_and_tags_are_told() {
    let sandbox = Sandbox::linear(3);
    sandbox.git(["branch", "feature/x", "main~1"]);
    sandbox.git(["tag", "light", "main~2"]);
    sandbox.git(["tag", "-a", "-m", "note", "annotated", "main~1"]);
    sandbox.git(["tag", "-a", "-m", "note", "nested", "annotated"]);
    sandbox.git(["tag", "tree", "main^{tree}"]);
    sandbox.git(["tag", "-a", "-m", "note", "blob", "main:src/file"]);
    // A branch and a tag of one name.
    sandbox.git(["branch", "same", "main"]);
    sandbox.git(["tag", "same", "main~1"]);
    sandbox.git(["notes", "add", "-m", "a note", "main"]);
    std::fs::write(sandbox.path().join("src/file"), "to be stashed").unwrap();
    sandbox.git(["stash", "-q"]);
    sandbox.git(["update-ref", "refs/elsewhere/kept", "main"]);
    sandbox.git(["checkout", "-q", "--detach"]);
    for packed in [false, true] {
        if packed {
            sandbox.git(["pack-refs", "--all"]);
        }
        let read = check(&sandbox, sandbox.path()).await;
        let hash = |name: &str| sandbox.git(["rev-parse", name])[..7].to_owned();
        let expected: BTreeSet<_> = [
            ("main", hash("main")),
            ("feature/x", hash("main~1")),
            ("light", hash("main~2")),
            ("annotated", hash("main~1")),
            ("nested", hash("main~1")),
            ("tree", hash("main^{tree}")),
            ("blob", hash("main:src/file")),
            ("same", hash("main")),
            ("same", hash("main~1")),
        ]
        .map(|(name, hash)| (name.to_owned(), hash))
        .into();
        assert_eq!(read.pairs("points_to"), expected, "packed: {packed}");
        let blob =
            read.with("points_to").into_iter().find(|claim| claim.subjects == ["blob"]).unwrap();
        assert_eq!(
            (text(blob, "kind"), text(blob, "target")),
            ("tag".to_owned(), "blob".to_owned())
        );
        assert_eq!(
            (text(blob, "ref"), blob.actors[0].as_str()),
            ("refs/tags/blob".to_owned(), "ixgest-git@repo")
        );
        assert_eq!((&read.result()["branches"], &read.result()["tags"]), (&json!(3), &json!(6)));
        let kinds = read.pairs("node_type");
        for kind in ["branch", "tag"] {
            assert!(kinds.contains(&("same".to_owned(), kind.to_owned())), "{kind}");
        }
    }
}

#[tokio::test]
async fn a_clone_says_the_same_and_its_remotes() {
    let sandbox = Sandbox::linear(2);
    sandbox.git(["tag", "v1"]);
    let clone = sandbox.beside("clone");
    sandbox.git(["clone", "-q", ".", clone.to_str().unwrap()]);
    let harness = Harness::start(axwatch_plugin_git::plugin()).await;
    run(&harness, &json!({ "repository_source": sandbox.path() })).await.expect_done();
    let before = harness.claims().len();
    let outcome = run(&harness, &json!({ "repository_source": clone })).await.expect_done();
    let added: Vec<_> =
        harness.claims()[before..].iter().map(|claim| claim.subjects[0].clone()).collect();
    assert_eq!(added, ["origin/HEAD", "origin/HEAD", "origin/main", "origin/main"]);
    assert_eq!(outcome.result_as::<Value>()["branches"], json!(3));
    check(&sandbox, &clone).await;
}

#[tokio::test]
async fn a_branch_that_moves_is_told_again() {
    let sandbox = Sandbox::linear(1);
    let harness = Harness::start(axwatch_plugin_git::plugin()).await;
    let payload = json!({ "repository_source": sandbox.path() });
    run(&harness, &payload).await.expect_done();
    sandbox.commit_file("src/file", "next");
    run(&harness, &payload).await.expect_done();
    let claims = harness.claims();
    let told: Vec<_> = claims.iter().filter(|claim| claim.predicates == ["points_to"]).collect();
    assert_eq!(told.len(), 2);
    assert_eq!(told[1].contexts[0], sandbox.git(["rev-parse", "main"])[..7]);
}

#[tokio::test]
async fn references_that_lead_nowhere_are_passed_over() {
    let sandbox = Sandbox::linear(2);
    let heads = sandbox.path().join(".git/refs/heads");
    std::fs::write(heads.join("missing"), "1234567812345678123456781234567812345678\n").unwrap();
    std::fs::write(heads.join("dangling"), "ref: refs/heads/nobody\n").unwrap();
    std::fs::write(heads.join("empty"), "").unwrap();
    let read = read(sandbox.path()).await;
    assert_eq!(read.commits().len(), 2);
    assert_eq!(read.result()["branches"], json!(1));
    assert!(read.log().contains("3 references lead nowhere"), "{}", read.log());
}

#[tokio::test]
async fn head_may_name_a_branch_without_commits() {
    let sandbox = Sandbox::linear(2);
    sandbox.git(["symbolic-ref", "HEAD", "refs/heads/unborn"]);
    let read = read(sandbox.path()).await;
    assert_eq!(read.commits().len(), 2);
    assert_eq!(read.log(), "");
}
