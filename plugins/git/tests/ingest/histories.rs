//! Histories of every shape, and commits of every content.

use std::collections::BTreeSet;

use axwatch_sdk::testing::Harness;
use serde_json::{Value, json};

use crate::support::{FIRST_COMMIT, Sandbox, check, read, run, text};

#[tokio::test]
async fn a_commit_of_more_directories_than_a_batch_takes() {
    const DIRECTORIES: usize = 2_500;
    let sandbox = Sandbox::new();
    for number in 0..DIRECTORIES {
        std::fs::create_dir(sandbox.path().join(format!("d{number}"))).unwrap();
        std::fs::write(sandbox.path().join(format!("d{number}/file")), "1").unwrap();
    }
    sandbox.commit("all at once");
    let read = check(&sandbox, sandbox.path()).await;
    assert_eq!(read.pairs("modified_in").len(), DIRECTORIES);
}

#[tokio::test]
async fn a_row_of_commits_with_everything_that_is_claimed() {
    let sandbox = Sandbox::new();
    let root = sandbox.commit_file("src/main.rs", "1");
    let second = sandbox.commit_file("docs/page.md", "2");
    let read = check(&sandbox, sandbox.path()).await;
    assert_eq!(read.commits(), [root.clone(), second.clone()]);

    let claim = read.commit(&second);
    let short = &second[..7];
    assert_eq!(
        (claim.subjects[0].as_str(), claim.contexts[0].as_str()),
        (short, "commit_metadata")
    );
    assert_eq!((claim.actors[0].as_str(), claim.source.as_str()), (short, "ixgest-git"));
    assert_eq!(claim.timestamp, "2023-11-14T22:14:20Z");
    assert_eq!(
        Value::Object(claim.attributes.clone()),
        json!({
            "full_hash": second,
            "message": "write docs/page.md",
            "author": "Ada",
            "author_email": "ada@example.org",
            "committer": "Carl",
            "committer_email": "carl@example.org",
            "parents": [root],
            "authored_at": "2023-11-15T00:14:20+02:00",
            "committed_at": "2023-11-15T00:14:20+02:00",
        })
    );
    let pair = |subject: &str, context: &str| (subject.to_owned(), context.to_owned());
    assert!(read.pairs("authored_by").contains(&pair(short, "Ada")));
    assert!(read.pairs("has_message").contains(&pair(short, "commit_metadata")));
    assert!(read.pairs("committed_at").contains(&pair(short, "commit_metadata")));
    let kinds = BTreeSet::from([
        pair(&root[..7], "commit"),
        pair(short, "commit"),
        pair("Ada", "author"),
        pair("main", "branch"),
    ]);
    assert_eq!(read.pairs("node_type"), kinds);
    assert_eq!(read.pairs("points_to"), BTreeSet::from([pair("main", short)]));
    let modified = BTreeSet::from([pair("src", &root[..7]), pair("docs", short)]);
    assert_eq!(read.pairs("modified_in"), modified);
    let result = read.result();
    assert_eq!(result["claims"], read.claims.len());
    assert_eq!((&result["branches"], &result["tags"]), (&json!(1), &json!(0)));
    assert_eq!((&result["shallow"], &result["since"]), (&json!(false), &Value::Null));
    assert_eq!(read.log(), "");
}

#[tokio::test]
async fn merges_octopuses_orphans_and_clocks_that_were_wrong() {
    let sandbox = Sandbox::linear(2);
    for branch in ["a", "b", "c"] {
        sandbox.git(["checkout", "-q", "-b", branch, "main"]);
        sandbox.commit_file(&format!("{branch}/file"), "1");
    }
    sandbox.git(["merge", "-q", "--no-ff", "-m", "octopus", "a", "b"]);
    // Criss-cross: each side merges the other, and one clock is a day behind.
    sandbox.git(["checkout", "-q", "-b", "left", "a"]);
    sandbox.tick(-86_400);
    let left = sandbox.commit_file("left/file", "1");
    sandbox.git(["checkout", "-q", "-b", "right", "b"]);
    sandbox.tick(200_000);
    sandbox.commit_file("right/file", "1");
    sandbox.git(["merge", "-q", "-m", "cross", &left]);
    sandbox.git(["checkout", "-q", "left"]);
    sandbox.tick(-400_000);
    sandbox.git(["merge", "-q", "-m", "criss", "right~1"]);
    sandbox.git(["checkout", "-q", "--orphan", "alone"]);
    sandbox.commit_file("alone/file", "1");
    let read = check(&sandbox, sandbox.path()).await;
    assert!(read.with("is_child_of").len() > read.commits().len(), "there are merges");
}

#[tokio::test]
async fn only_a_root_and_only_a_detached_head() {
    let sandbox = Sandbox::linear(1);
    check(&sandbox, sandbox.path()).await;
    sandbox.git(["checkout", "-q", "--detach"]);
    let detached = sandbox.commit_file("src/file", "detached");
    let read = check(&sandbox, sandbox.path()).await;
    assert!(read.commits().contains(&detached));
}

#[tokio::test]
async fn directories_that_come_change_and_go() {
    let sandbox = Sandbox::new();
    sandbox.commit_file("a/b/c/d/e/f/deep", "1");
    sandbox.commit_file("a/b/c/d/e/f/deep", "2");
    sandbox.commit_file("file-at-the-top", "1");
    sandbox.commit_file("src/one", "1");
    std::fs::remove_dir_all(sandbox.path().join("a")).unwrap();
    sandbox.commit_file("a", "a file where a folder was");
    std::fs::remove_file(sandbox.path().join("a")).unwrap();
    sandbox.commit_file("a/again", "1");
    sandbox.git(["mv", "src", "source"]);
    sandbox.commit("rename");
    sandbox.commit("nothing changed");
    let commit = sandbox.git(["rev-parse", "HEAD"]);
    sandbox.git(["update-index", "--add", "--cacheinfo", &format!("160000,{commit},module")]);
    sandbox.git(["commit", "-q", "-m", "a submodule"]);
    let read = check(&sandbox, sandbox.path()).await;
    assert!(!read.pairs("modified_in").iter().any(|(name, _)| name == "module"));
}

#[tokio::test]
async fn names_and_texts_of_every_kind() {
    let sandbox = Sandbox::linear(1);
    let tree = sandbox.git(["rev-parse", "HEAD^{tree}"]);
    let long = "\u{20ac}".repeat(500);
    let at = "1700000000 +0000";
    let cases: [(&str, Vec<u8>, &str); 7] = [
        // (branch, bytes after the tree, the author that is claimed)
        (
            "unicode",
            format!("author J\u{fc}rgen \u{1f600} <j@x> {at}\ncommitter C <c@x> {at}\n\nx").into(),
            "J\u{fc}rgen \u{1f600}",
        ),
        (
            "control",
            format!("author A\u{1}b\x1b[31m <j@x> {at}\ncommitter C <c@x> {at}\n\nx").into(),
            "A\u{fffd}b\u{fffd}[31m",
        ),
        ("empty", format!("author  <> {at}\ncommitter  <> {at}\n\n").into(), "unknown"),
        (
            "long",
            format!("author {long} <j@x> {at}\ncommitter C <c@x> {at}\n\nx").into(),
            &long[..999],
        ),
        ("missing", b"\nno author at all".to_vec(), "unknown"),
        (
            "broken",
            [&b"author \xff\xfe <j@x> soon\ncommitter C <c@x> "[..], at.as_bytes(), b"\n\n\xff"]
                .concat(),
            "\u{fffd}\u{fffd}",
        ),
        (
            "latin",
            [
                &b"author Andr\xe9 <j@x> "[..],
                at.as_bytes(),
                b"\ncommitter C <c@x> ",
                at.as_bytes(),
                b"\nencoding ISO-8859-1\n\nca\xef",
            ]
            .concat(),
            "Andr\u{e9}",
        ),
    ];
    let mut expected = Vec::new();
    for (branch, bytes, author) in cases {
        let bytes = [format!("tree {tree}\n").as_bytes(), &bytes].concat();
        expected.push((sandbox.raw_commit(branch, &bytes), author.to_owned()));
    }
    let read = check(&sandbox, sandbox.path()).await;
    for (hash, author) in expected {
        let claim = read.commit(&hash);
        assert_eq!(text(claim, "author"), author);
        assert!(read.pairs("authored_by").contains(&(hash[..7].to_owned(), author)));
    }
}

#[tokio::test]
async fn times_that_a_host_refuses_are_left_to_it() {
    let sandbox = Sandbox::linear(1);
    let tree = sandbox.git(["rev-parse", "HEAD^{tree}"]);
    let cases = [
        ("0", Some("1970-01-01T02:00:00+02:00")),
        ("86400", Some("1970-01-02T02:00:00+02:00")),
        ("4102444800", Some("2100-01-01T02:00:00+02:00")),
        ("99999999999999", None),
        ("99999999999999999999999", None),
    ];
    for (number, (seconds, _)) in cases.iter().enumerate() {
        let bytes = format!(
            "tree {tree}\nauthor A <a@x> {seconds} +0200\ncommitter A <a@x> {seconds} +0200\n\n{number}"
        );
        sandbox.raw_commit(&format!("branch-{number}"), bytes.as_bytes());
    }
    let read = check(&sandbox, sandbox.path()).await;
    for (number, (_, authored_at)) in cases.iter().enumerate() {
        let hash = sandbox.git(["rev-parse", &format!("branch-{number}")]);
        let found = read.commit(&hash).attributes.get("authored_at").and_then(Value::as_str);
        assert_eq!(found, *authored_at);
    }
    assert_eq!(
        read.commit(&sandbox.git(["rev-parse", "branch-2"])).timestamp,
        "2100-01-01T00:00:00Z"
    );
}

#[tokio::test]
async fn a_message_of_two_megabytes_is_cut() {
    let sandbox = Sandbox::new();
    let message = format!("title\n\n{}", "\u{e4} word ".repeat(300_000));
    sandbox.git_in(
        sandbox.path(),
        ["commit", "-q", "--allow-empty", "-F", "-"],
        &[],
        message.as_bytes(),
    );
    let read = check(&sandbox, sandbox.path()).await;
    let claim = read.with("is_commit")[0];
    let kept = text(claim, "message");
    assert!((65_530..=65_536).contains(&kept.len()), "{}", kept.len());
    assert!(message.starts_with(&kept));
    assert_eq!(claim.attributes["message_truncated"], json!(true));
    assert_eq!(text(read.with("has_message")[0], "message"), "title");
}

#[tokio::test]
async fn bare_repositories_worktrees_subfolders_and_alternates() {
    let sandbox = Sandbox::linear(3);
    let bare = sandbox.beside("bare.git");
    sandbox.git(["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
    check(&sandbox, &bare).await;

    let worktree = sandbox.beside("worktree");
    sandbox.git(["worktree", "add", "-q", "--detach", worktree.to_str().unwrap()]);
    std::fs::write(worktree.join("new"), "1").unwrap();
    sandbox.git_in(&worktree, ["add", "-A"], &[], b"");
    sandbox.git_in(&worktree, ["commit", "-q", "-m", "on no branch"], &[], b"");
    assert_eq!(check(&sandbox, &worktree).await.commits().len(), 4);
    let main = check(&sandbox, sandbox.path()).await;
    assert_eq!(main.commits().len(), 4, "the HEAD of every worktree counts");

    let within = read(&sandbox.path().join("src")).await;
    assert_eq!(within.claims.len(), main.claims.len());
    assert_eq!(within.result(), main.result());

    let shared = sandbox.beside("shared");
    sandbox.git(["clone", "-q", "--shared", ".", shared.to_str().unwrap()]);
    check(&sandbox, &shared).await;
}

#[tokio::test]
async fn a_shallow_clone_tells_what_is_there_and_more_when_deepened() {
    let sandbox = Sandbox::linear(6);
    sandbox.git(["checkout", "-q", "-b", "side", "main~2"]);
    sandbox.commit_file("side/file", "1");
    sandbox.git(["checkout", "-q", "main"]);
    sandbox.git(["merge", "-q", "-m", "merge", "side"]);
    let shallow = sandbox.beside("shallow");
    let source = format!("file://{}", sandbox.path().display());
    sandbox.git(["clone", "-q", "--depth", "2", &source, shallow.to_str().unwrap()]);
    let part = check(&sandbox, &shallow).await;
    assert_eq!(part.result()["shallow"], json!(true));
    assert!(part.log().contains("shallow clone"), "{}", part.log());
    let boundary = part.commits()[0].clone();
    assert!(!part.pairs("modified_in").iter().any(|(_, commit)| *commit == boundary[..7]));

    // One log takes the shallow clone, the deepened one, a part and another clone.
    let harness = Harness::start(axwatch_plugin_git::plugin()).await;
    run(&harness, &json!({ "repository_source": shallow })).await.expect_done();
    sandbox.git_in(&shallow, ["fetch", "-q", "--unshallow"], &[], b"");
    let since = json!({ "repository_source": shallow, "since": boundary });
    run(&harness, &since).await.expect_done();
    let whole = json!({ "repository_source": shallow });
    let outcome = run(&harness, &whole).await.expect_done();
    assert_eq!(outcome.result_as::<Value>()["shallow"], json!(false));
    run(&harness, &json!({ "repository_source": sandbox.path() })).await.expect_done();
    let expected = check(&sandbox, &shallow).await;
    let modified = |claims: &[axwatch_sdk::Attestation]| {
        claims.iter().filter(|claim| claim.predicates == ["modified_in"]).count()
    };
    assert_eq!(modified(&harness.claims()), modified(&expected.claims));
}

#[tokio::test]
async fn a_partial_clone_tells_commits_without_directories() {
    let sandbox = Sandbox::linear(3);
    sandbox.git(["config", "uploadpack.allowFilter", "true"]);
    let partial = sandbox.beside("partial");
    let source = format!("file://{}", sandbox.path().display());
    let args =
        ["clone", "-q", "--no-checkout", "--filter=tree:0", &source, partial.to_str().unwrap()];
    sandbox.git(args);
    let read = read(&partial).await;
    assert_eq!(read.commits().len(), 3);
    assert_eq!(read.with("modified_in").len(), 0);
    assert!(
        read.log().contains("3 commits changed") && read.log().contains("partial clone"),
        "{}",
        read.log()
    );
}

#[tokio::test]
async fn packs_graphs_and_replacements() {
    let sandbox = Sandbox::linear(4);
    sandbox.git(["commit-graph", "write", "--reachable"]);
    sandbox.git(["repack", "-q", "-d"]);
    sandbox.commit_file("src/file", "new");
    sandbox.git(["repack", "-q", "-d"]);
    sandbox.git(["pack-refs", "--all"]);
    let last = sandbox.commit_file("src/file", "newer");
    let whole = check(&sandbox, sandbox.path()).await;
    assert_eq!(whole.commits().len(), 6);

    // The history is cut at its fourth commit, whose parents go.
    let cut = sandbox.git(["rev-parse", "main~2"]);
    sandbox.git(["replace", "--graft", &cut]);
    let harness = Harness::start(axwatch_plugin_git::plugin()).await;
    let payload = json!({ "repository_source": sandbox.path() });
    run(&harness, &payload).await.expect_done();
    let after = check(&sandbox, sandbox.path()).await;
    assert_eq!(after.commits().len(), 4, "three of the branch, and what replaces one of them");
    assert_eq!(after.commit(&cut).attributes["parents"], json!([]));
    assert!(after.commits().contains(&last));
    // The same log takes what the commit itself says.
    sandbox.git(["replace", "-d", &cut]);
    run(&harness, &payload).await.expect_done();

    sandbox.git(["config", "core.useReplaceRefs", "false"]);
    sandbox.git(["replace", "--graft", &cut]);
    assert_eq!(check(&sandbox, sandbox.path()).await.commits().len(), 7);
}

#[tokio::test]
async fn a_file_of_grafts_is_named() {
    let sandbox = Sandbox::linear(3);
    let cut = sandbox.git(["rev-parse", "main~1"]);
    std::fs::write(sandbox.path().join(".git/info/grafts"), format!("{cut}\n")).unwrap();
    let read = read(sandbox.path()).await;
    assert_eq!(read.commits().len(), 3);
    assert!(read.log().contains("info/grafts"), "{}", read.log());
}

#[tokio::test]
async fn many_claims_come_in_batches_and_progress_rises() {
    let sandbox = Sandbox::new();
    let mut stream = String::from("reset refs/heads/main\n");
    for number in 0..700 {
        let seconds = FIRST_COMMIT + number;
        stream.push_str(&format!(
            "commit refs/heads/main\ncommitter C <c@x> {seconds} +0000\ndata 1\nx\nM 644 inline d{}/f\ndata {}\n{number}\n",
            number % 50,
            number.to_string().len()
        ));
    }
    sandbox.git_in(sandbox.path(), ["fast-import", "--quiet"], &[], stream.as_bytes());
    let read = check(&sandbox, sandbox.path()).await;
    assert!(read.claims.len() > 4_000, "{}", read.claims.len());
}
