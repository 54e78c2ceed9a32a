//! `axwatch trace`: that the tree is what happened, with a server and without one, and however much of it
//! is asked for.

use crate::support::{Home, Server, Zoo, keys, number, text, until};
use serde_json::{Value, json};

const TRACE: &[&str] = &["above", "asked", "is_whole", "nodes", "summary"];
const NODE: &[&str] = &[
    "attestation",
    "is_asked",
    "is_matched",
    "job",
    "kind",
    "left_out",
    "lineage",
    "parent",
    "stopped",
];
const LINEAGE: &[&str] = &["by", "chain", "depth", "kind", "root"];

fn nodes(trace: &Value) -> &[Value] {
    trace["nodes"].as_array().expect("nodes are a list")
}

/// A node in few words: what it is, and of which claim or watcher.
fn name(node: &Value) -> String {
    match text(node, "kind") {
        "attestation" => node["attestation"]["predicates"][0].as_str().expect("a term").to_owned(),
        "job" => format!("job {}", node["job"]["watcher"].as_str().unwrap_or("-")),
        stopped => format!("{stopped} {}", text(&node["stopped"], "watcher")),
    }
}

/// The tree, each node as its depth and its name; the one that was asked about is marked.
fn shape(trace: &Value) -> Vec<String> {
    let nodes = nodes(trace);
    let mut depths: Vec<usize> = Vec::new();
    for node in nodes {
        let depth = node["parent"].as_u64().map_or(0, |parent| {
            let parent = usize::try_from(parent).unwrap();
            assert!(parent < depths.len(), "a cause stands before its effects: {trace}");
            depths[parent] + 1
        });
        depths.push(depth);
    }
    let line = |(node, depth): (&Value, &usize)| {
        let mark = if node["is_asked"] == true { " <" } else { "" };
        let more = match number(node, "left_out") {
            0 => String::new(),
            more => format!(" +{more}"),
        };
        format!("{depth} {}{more}{mark}", name(node))
    };
    nodes.iter().zip(&depths).map(line).collect()
}

/// `ask` is made into two `answer`s; one watcher of a person waits for each of these too. `turn` is a loop.
fn serve(home: &Home) -> Server {
    let makes = json!([
        { "handler": "asks", "predicate": "answer", "copies": 2 },
        { "handler": "turns", "predicate": "turn" },
        { "handler": "shy", "predicate": "told", "names": "nothing" },
    ]);
    let zoo = Zoo::new("zoo", "relays")
        .handlers(&["asks", "turns", "shy", "end"])
        .own("makes", makes)
        .own("gate", home.path("gate").display().to_string())
        .watcher(json!({ "id": "asks", "predicates": ["ask"], "handler_name": "asks" }))
        .watcher(json!({ "id": "turns", "predicates": ["turn"], "handler_name": "turns" }))
        .watcher(json!({ "id": "shy", "predicates": ["hint"], "handler_name": "shy" }));
    home.configure_zoo(&[zoo]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["watch", "create", "ends", "--when", "is answer", "--run", "end"]);
    server
}

fn open_gate(home: &Home) {
    std::fs::write(home.path("gate"), "").expect("a file can be written");
}

#[test]
fn the_tree_goes_up_to_the_first_cause_and_down_to_the_last_effect() {
    let home = Home::new("tree");
    let server = serve(&home);
    open_gate(&home);
    home.object(&["as", "X is ask of here by ann", "--id", "first"]);
    server.until_settled();
    let answers = home.json(&["ax", "is answer"]);
    let answer = text(&answers[1], "id").to_owned();
    let asked = text(&home.json(&["fires", "--watcher", "zoo-asks"])[0], "job_id").to_owned();
    let ended = home.json(&["fires", "--watcher", "ends"]);
    let of_answer = ended.iter().find(|fire| fire["attestation_id"] == answers[1]["id"]).unwrap();
    let ended = text(of_answer, "job_id").to_owned();

    let below = ["2 answer", "3 job user-ends", "2 answer", "3 job user-ends"];
    let check = |served: &str| {
        let trace = |args: &[&str]| home.object(&[&["trace"], args].concat());
        let whole = trace(&["first"]);
        assert_eq!(keys(&whole), TRACE, "{served}");
        assert_eq!(
            shape(&whole),
            [&["0 ask <", "1 job zoo-asks"], &below[..]].concat(),
            "{served}"
        );
        assert_eq!((&whole["is_whole"], &whole["above"]), (&json!(true), &json!(0)), "{served}");
        assert_eq!(
            text(&whole, "summary"),
            "first (seq 1): no job made it; 3 jobs and 2 claims came of it",
            "{served}"
        );
        for node in nodes(&whole) {
            assert_eq!(keys(node), NODE, "{served}");
            let is_claim = node["kind"] == "attestation";
            assert_eq!(node["attestation"].is_object(), is_claim, "{node}");
            assert_eq!(node["lineage"].is_object(), is_claim, "{node}");
            assert_eq!(node["is_matched"] == true, is_claim, "{node}");
            assert_eq!(node["job"].is_object(), !is_claim, "{node}");
        }
        let first = &nodes(&whole)[0];
        assert_eq!(keys(&first["lineage"]), LINEAGE, "{served}");
        let made = &nodes(&whole)[2]["lineage"];
        let expected = json!({
            "by": "zoo", "kind": "sure", "root": "first", "depth": 1, "chain": ["zoo-asks"],
        });
        assert_eq!(*made, expected, "{served}");
        assert_eq!(first["lineage"]["by"], "user", "{served}");

        // From a job, by its beginning; upwards all causes, and how many other effects they had.
        let from_job = trace(&[&asked[..12]]);
        assert_eq!(shape(&from_job), [&["0 ask", "1 job zoo-asks <"], &below[..]].concat());
        assert_eq!(text(&from_job, "asked"), asked, "{served}");
        let last = trace(&[&ended]);
        let expected =
            ["0 ask", "1 job zoo-asks +1", "2 answer", "3 job user-ends <"].map(str::to_owned);
        assert_eq!(shape(&last), expected, "{served}");
        assert_eq!(last["is_whole"], false, "{served}");
        assert!(text(&last, "summary").ends_with("nothing came of it"), "{served}: {last}");
        let middle = trace(&[&answer]);
        let expected = ["0 ask", "1 job zoo-asks +1", "2 answer <", "3 job user-ends"];
        assert_eq!(shape(&middle), expected, "{served}");
        let says = format!("{answer} (seq 2): 1 step away from first; 1 job came of it");
        assert_eq!(text(&middle, "summary"), says, "{served}");

        // Less of it.
        let one = trace(&["first", "--limit", "1"]);
        let expected = ["0 ask <", "1 job zoo-asks +1", "2 answer", "3 job user-ends"];
        assert_eq!(shape(&one), expected, "{served}");
        assert!(text(&one, "summary").ends_with("at least 2 jobs and 1 claim came of it"), "{one}");
        let near = trace(&["first", "--depth", "1"]);
        let expected = ["0 ask <", "1 job zoo-asks", "2 answer +1", "2 answer +1"];
        assert_eq!(shape(&near), expected, "{served}");
        let near = trace(&[&ended, "--depth", "1"]);
        assert_eq!(
            shape(&near),
            ["0 job zoo-asks +1", "1 answer", "2 job user-ends <"],
            "{served}"
        );
        assert_eq!(number(&near, "above"), 1, "{served}");

        let plain = home.run_plain(&["trace", &answer]).expect(0);
        let lines: Vec<_> = plain.out.lines().collect();
        assert_eq!(lines[0], says, "{served}");
        assert!(lines[1].starts_with("first  X is ask of here by ann  (seq 1, "), "{plain:?}");
        assert!(lines[2].starts_with(&format!("└─ job {asked}  zoo-asks → asks  completed")));
        assert!(
            lines[3].starts_with("   ├─ AS-") && lines[3].contains("lineage sure"),
            "{plain:?}"
        );
        assert!(lines[3].ends_with("◀"), "{plain:?}");
        assert!(lines[4].starts_with("   │  └─ job ") && lines[4].contains("user-ends"));
        assert_eq!(&lines[5..], ["   └─ … and 1 more"], "{served}");
    };
    check("with a server:");
    let by_http = server.get("/api/v1/trace/first?limit=1").remove(0);
    assert_eq!(by_http, home.object(&["trace", "first", "--limit", "1"]));
    server.stop();
    check("without one:");
}

#[test]
fn what_is_not_sure_and_what_was_stopped_is_told() {
    let home = Home::new("unsure");
    let server = serve(&home);
    // Two jobs of one plugin are under way when its claims come.
    for id in ["one", "two"] {
        home.object(&["as", &format!("{id} is hint by ann"), "--id", id]);
    }
    until("both are under way", || {
        let running = home.json(&["jobs", "list", "--state", "running"]);
        (running.len() == 2).then_some(())
    });
    open_gate(&home);
    home.object(&["as", "X is turn by ann", "--id", "turn"]);
    server.until_settled();
    home.object(&["jobs", "run", "end", "--wait"]);
    let free = home.json(&["jobs", "list", "--limit", "1"]).remove(0);
    let stopped = home.json(&["ax", "is turn", "--limit", "1"]).remove(0);
    let told = home.json(&["ax", "is told"]);
    let check = |served: &str| {
        let trace = home.object(&["trace", "turn"]);
        let turns = |n: usize| [format!("{} turn", 2 * n), format!("{} job zoo-turns", 2 * n + 1)];
        let mut expected: Vec<String> = (0..4).flat_map(turns).collect();
        expected[0].push_str(" <");
        expected.extend(["8 turn".to_owned(), "9 loop_stopped zoo-turns".to_owned()]);
        assert_eq!(shape(&trace), expected, "{served}");
        let stop = &nodes(&trace)[9]["stopped"];
        assert_eq!(stop["chain"], json!(["zoo-turns", "zoo-turns", "zoo-turns", "zoo-turns"]));
        assert!(text(stop, "reason").contains("4 times"), "{served}: {stop}");
        assert!(text(&trace, "summary").ends_with("; stopped as a loop 1 time"), "{trace}");
        let plain = home.run_plain(&["trace", text(&stopped, "id")]).expect(0);
        plain.says(&["loop stopped: zoo-turns", "zoo-turns → zoo-turns → zoo-turns → zoo-turns"]);
        // The job that made the claim at which it was stopped tells of it too.
        let job = text(&nodes(&trace)[7]["job"], "job_id").to_owned();
        let why = home.object(&["why", &job]);
        assert_eq!(why["reasons"][0]["kind"], "loop_stopped", "{served}: {why}");

        for claim in &told {
            let trace = home.object(&["trace", text(claim, "id")]);
            let lineage = &nodes(&trace).last().unwrap()["lineage"];
            if lineage["kind"] == "unsure" {
                assert_eq!(shape(&trace), ["0 told <"], "{served}");
                assert_eq!((&lineage["root"], &lineage["depth"]), (&Value::Null, &json!(1)));
                assert!(text(&trace, "summary").contains("one of several jobs of zoo"), "{trace}");
            } else {
                // When the last came its job was the only one left.
                assert_eq!(shape(&trace), ["0 hint", "1 job zoo-shy", "2 told <"], "{served}");
            }
        }
        let kinds = told.iter().map(|claim| {
            let trace = home.object(&["trace", text(claim, "id")]);
            nodes(&trace).last().unwrap()["lineage"]["kind"].clone()
        });
        assert!(kinds.into_iter().any(|kind| kind == "unsure"), "{served}");

        // A job that nobody's claim caused is a first cause itself.
        let trace = home.object(&["trace", text(&free, "job_id")]);
        assert_eq!(shape(&trace), ["0 job - <"], "{served}");
        assert!(text(&trace, "summary").contains("somebody asked for it"), "{trace}");
    };
    check("with a server:");
    server.stop();
    check("without one:");
    // What nobody has matched has caused nothing yet.
    home.object(&["as", "X is ask by ann", "--id", "alone"]);
    let trace = home.object(&["trace", "alone"]);
    assert_eq!(nodes(&trace)[0]["is_matched"], false);
    home.run_plain(&["trace", "alone"]).expect(0).says(&["not matched yet", "nothing came of it"]);
}

#[test]
fn who_asks_for_nothing_is_told_what_there_is() {
    let home = Home::new("untraceable");
    let server = serve(&home);
    open_gate(&home);
    home.object(&["as", "X is ask by ann", "--id", "first"]);
    server.until_settled();
    let check = |served: &str| {
        // (what is asked, what the answer says)
        let cases: [(&str, &[&str]); 5] = [
            ("firs", &["no attestation or job firs", "did you mean first?"]),
            ("1", &["seq 1 is first"]),
            ("ends", &["it is a watcher", "axwatch fires --watcher ends"]),
            (
                "nothing-at-all",
                &["no attestation or job nothing-at-all in this store; `axwatch ax"],
            ),
            ("0123456789abcdef0123456789abcdef", &["no attestation or job 0123456789abcdef"]),
        ];
        for (id, expected) in cases {
            let ran = home.run(&["trace", id]).expect(1);
            assert_eq!(ran.error()["kind"], "not_found", "{served} {id}");
            ran.says(expected);
        }
        home.run(&["trace", ""]).expect(2).says(&["attestation id", "1 to 256 bytes"]);
    };
    check("with a server:");
    for (query, expected) in
        [("limit=0", "1 to 1000"), ("depth=1001", "1 to 1000"), ("deep=1", "unknown field")]
    {
        let path = format!("/api/v1/trace/first?{query}");
        let (status, body) = server.request("GET", &path, "").unwrap();
        assert!(status == 400 && body.contains(expected), "{query}: {status} {body}");
    }
    for args in [
        &["trace"][..],
        &["trace", "first", "second"],
        &["trace", "first", "--limit", "0"],
        &["trace", "first", "--depth", "1001"],
    ] {
        home.run(args).expect(2);
    }
    server.stop();
    check("without one:");
}
