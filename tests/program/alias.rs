//! `axwatch alias`: words that are one, what they are one for, and from when on.

use crate::support::{Home, Server, Zoo, keys, number, text};
use serde_json::{Value, json};

/// The words of each class that `alias list` shows, and since when.
fn listed(home: &Home) -> Vec<(u64, String)> {
    let classes = home.json(&["alias", "list"]);
    let class = |class: &Value| {
        assert_eq!(keys(class), ["links", "since", "words"]);
        (number(class, "since"), words(&class["words"]))
    };
    classes.iter().map(class).collect()
}

fn words(list: &Value) -> String {
    let words = list.as_array().expect("words are a list");
    words.iter().map(|word| word.as_str().expect("words are texts")).collect::<Vec<_>>().join("|")
}

fn changed(home: &Home, args: &[&str]) -> Value {
    let changed = home.object(&[&["alias"], args].concat());
    assert_eq!(keys(&changed), ["classes", "fires", "id", "seq"]);
    changed
}

/// A claim about a context, by its id; answers how many fires it caused.
fn claim(home: &Home, id: &str, context: &str) -> u64 {
    number(&home.object(&["as", &format!("X is seen of '{context}' by ann"), "--id", id]), "fires")
}

fn found(home: &Home, query: &str) -> Vec<String> {
    let claims = home.json(&["ax", query, "--all"]);
    claims.iter().map(|claim| text(claim, "id").to_owned()).collect()
}

fn fired(home: &Home, watcher: &str) -> Vec<String> {
    let fires = home.json(&["fires", "--watcher", watcher, "--all"]);
    fires.iter().rev().map(|fire| text(fire, "attestation_id").to_owned()).collect()
}

fn watch(home: &Home, id: &str, when: &str) {
    home.object(&["watch", "create", id, "--when", when, "--run", "work"]);
}

#[test]
fn words_become_one_and_two_again() {
    let home = Home::new("classes");
    let check = |server: Option<&Server>| {
        let deferred = if server.is_some() { json!(0) } else { json!("deferred") };
        let one = changed(&home, &["add", "NY", "New York"]);
        assert_eq!((words(&one["classes"][0]), &one["fires"]), ("New York|NY".into(), &deferred));
        let seq = number(&one, "seq");
        assert_eq!(listed(&home), [(seq, "New York|NY".to_owned())]);
        // The same again appends nothing.
        for again in [["add", "ny", "new york"], ["add", "New York", "NY"]] {
            let again = changed(&home, &again);
            assert_eq!((&again["id"], &again["seq"]), (&Value::Null, &Value::Null));
            assert_eq!(again["classes"], one["classes"]);
        }
        // One of its words brings all others; a cycle does no harm, and no class gets newer by it.
        let three = changed(&home, &["add", "NYC", "ny"]);
        let since = number(&three, "seq");
        assert_eq!((since, words(&three["classes"][0])), (seq + 1, "New York|ny|NYC".to_owned()));
        let cycle = changed(&home, &["add", "nyc", "new york"]);
        assert_eq!(number(&cycle, "seq"), seq + 2);
        assert_eq!(listed(&home), [(since, "new york|ny|nyc".to_owned())]);
        let other = changed(&home, &["add", "a b", "c,d", "e'f"]);
        assert_eq!(listed(&home)[0], (number(&other, "seq"), "a b|c,d|e'f".to_owned()));
        assert_eq!(home.json(&["alias", "list", "C,D"]).len(), 1);

        // Without one link of a cycle the words are still one; without two they are not.
        let still = changed(&home, &["rm", "nyc", "ny"]);
        assert_eq!(words(&still["classes"][0]), "new york|ny|nyc");
        home.run(&["alias", "rm", "nyc", "ny"]).expect(1).says(&["by way of others"]);
        let two = changed(&home, &["rm", "new york", "nyc"]);
        assert_eq!(two["classes"], json!([["new york", "ny"]]));
        home.run(&["alias", "rm", "nyc"]).expect(1).says(&["nyc has no alias", "did you mean"]);
        let none = changed(&home, &["rm", "C,D"]);
        assert_eq!(none["classes"], json!([["a b", "e'f"]]));
        for word in ["ny", "a b"] {
            assert_eq!(changed(&home, &["rm", word])["classes"], json!([]));
        }
        assert_eq!(listed(&home), []);
        home.run_plain(&["alias", "list"]).expect(0).says(&["no aliases yet", "axwatch alias add"]);
    };
    check(None);
    let server = home.serve();
    check(Some(&server));

    // It is a claim like any other, and the API tells it too.
    let told = home.run_plain(&["alias", "add", "NY", "New York"]).expect(0);
    let lines: Vec<_> = told.out.lines().collect();
    assert_eq!(lines[0], "New York, NY are one now");
    assert!(lines[1].starts_with("AS-") && lines[1].ends_with("0 fires"), "{lines:?}");
    let claim = home.json(&["ax", "axwatch is axwatch:alias", "--limit", "1"]).remove(0);
    assert!(lines[1].contains(&format!("{} seq {}", text(&claim, "id"), number(&claim, "seq"))));
    assert_eq!(claim["attributes"], json!({ "words": ["NY", "New York"] }));
    assert_eq!((&claim["contexts"], &claim["source"]), (&json!(["_"]), &json!("axwatch-cli")));
    let again = home.run_plain(&["alias", "add", "NY", "New York"]).expect(0);
    assert_eq!(again.out, "New York, NY are one already; nothing was changed\n");
    assert_eq!(server.get("/api/v1/aliases"), home.json(&["alias", "list"]));
    home.run_plain(&["alias", "list", "ny"]).expect(0).says(&["SINCE", "New York, NY"]);
    home.run_plain(&["alias", "list", "New Yorc"]).expect(0).says(&["did you mean New York?"]);
    let two = home.run_plain(&["alias", "rm", "NY"]).expect(0);
    assert_eq!(two.out.lines().next(), Some("NY is one with nothing now"));
}

#[test]
fn words_that_cannot_be_one_are_refused() {
    let home = Home::new("refused");
    home.run(&["alias", "rm", "a"]).expect(1).says(&["no store at"]);
    let long = "x".repeat(1_001);
    let cases: [(&[&str], i32, &str); 9] = [
        (&["add", "a"], 2, ""),
        (&["add"], 2, ""),
        (&["rm"], 2, ""),
        (&["rm", "a", "b", "c"], 2, ""),
        (&["add", "a", ""], 2, "word 2: 0 bytes; a word has 1 to 1000"),
        (&["add", &long, "a"], 2, "word 1: 1001 bytes"),
        (&["add", "a", "b", "a"], 2, "a is there twice"),
        (&["add", "Straße", "STRASSE"], 2, "the same word to AX"),
        (&["rm", ""], 2, "word 1: 0 bytes"),
    ];
    for (args, code, says) in cases {
        home.run(&[&["alias"], args].concat()).expect(code).says(&[says]);
    }
    assert!(!home.store().exists(), "nothing of it makes a store");

    let many: Vec<String> = (0..256).map(|n| format!("w{n}")).collect();
    let mut size = 0;
    for words in many[1..].chunks(31) {
        let mut args = vec!["alias", "add", "w0"];
        args.extend(words.iter().map(String::as_str));
        size = home.object(&args)["classes"][0].as_array().map_or(0, Vec::len);
    }
    assert_eq!(size, 256);
    let mut args = vec!["alias", "add"];
    args.extend(many[..33].iter().map(String::as_str));
    home.run(&args).expect(2).says(&["33 words", "at most 32"]);
    let refused = home.run(&["alias", "add", "w7", "one more"]).expect(1);
    refused.says(&["257 words would be one", "at most 256"]);
    home.run(&["alias", "add", "w9", "w8", "w256"]).expect(1).says(&["257 words"]);
    // Others are free to be one, and those of the class still are.
    home.object(&["alias", "add", "a", "b"]);
    let listed = listed(&home);
    assert_eq!((listed.len(), listed[1].0), (2, 9));
    for (args, says) in [
        (&["rm", "w1", "a"][..], "w1 and a are not one"),
        (&["rm", "wx"], "wx has no alias (did you mean w"),
    ] {
        let ran = home.run(&[&["alias"], args].concat()).expect(1);
        assert_eq!(ran.error()["kind"], "not_found");
        ran.says(&[says]);
    }
}

#[test]
fn watchers_and_questions_know_aliases_from_their_place_on() {
    let home = Home::new("places");
    let structural = json!({ "id": "exact", "contexts": ["NY"] });
    home.configure_zoo(&[Zoo::good("zoo").watcher(structural)]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    watch(&home, "ny", "is seen of NY");
    watch(&home, "york", "is seen of 'new york'");
    watch(&home, "not", "is seen of not NY");
    watch(&home, "predicate", "is ny");
    // The claim that says so is about `axwatch`, so it is nobody's who waits for one of the words.
    assert_eq!(claim(&home, "before", "NYC"), 1, "only `not`");
    assert_eq!(changed(&home, &["add", "NY", "New York"])["fires"], 0);
    changed(&home, &["add", "NYC", "New York"]);
    assert_eq!(claim(&home, "one", "NYC"), 2);
    assert_eq!(claim(&home, "two", "NY"), 3, "and the one that compares exactly");
    assert_eq!(number(&home.object(&["as", "X is NYC of _", "--id", "three"]), "fires"), 0);
    assert_eq!(claim(&home, "boston", "Boston"), 1);
    // A kill changes nothing about it.
    server.kill();
    let appended = home.object(&["as", "X is seen of nyc by ann", "--id", "alone"]);
    assert_eq!(appended["fires"], "deferred");
    changed(&home, &["rm", "NYC"]);
    home.object(&["as", "X is seen of nyc by ann", "--id", "late"]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    assert_eq!(claim(&home, "after", "NYC"), 1, "only `not`");
    server.until_settled();
    assert_eq!(fired(&home, "ny"), ["one", "two", "alone"]);
    assert_eq!(fired(&home, "york"), ["one", "two", "alone"]);
    assert_eq!(fired(&home, "not"), ["before", "boston", "late", "after"]);
    assert_eq!(fired(&home, "zoo-exact"), ["two"]);
    assert_eq!(fired(&home, "predicate"), [""; 0]);

    // A watcher is told by what was in force at the claim, a question by what is now.
    let by_alias = |claim: &str| {
        let answer = home.object(&["why-not", "ny", claim]);
        (text(&answer, "verdict").to_owned(), answer["conditions"][1]["by_alias"].clone())
    };
    assert_eq!(by_alias("before"), ("does_not_match".to_owned(), Value::Null));
    assert_eq!(by_alias("one"), ("fired".to_owned(), json!([["NYC", "ny"]])));
    assert_eq!(by_alias("two"), ("fired".to_owned(), Value::Null));
    assert_eq!(by_alias("late"), ("does_not_match".to_owned(), Value::Null));
    let not = home.object(&["why-not", "not", "alone"]);
    assert_eq!(not["conditions"][1]["by_alias"], json!([["nyc", "ny"]]));
    assert!(text(&not, "summary").ends_with("(nyc is one with ny)"), "{not}");
    let check = |served: &str| {
        assert_eq!(found(&home, "is seen of 'New York'"), ["two"], "{served}");
        assert_eq!(found(&home, "is seen of NYC"), ["after", "late", "alone", "one", "before"]);
    };
    check("with a server:");
    changed(&home, &["add", "nyc", "ny"]);
    assert_eq!(found(&home, "of ny").len(), 6);
    assert_eq!(found(&home, "is seen of not 'new york'"), ["boston"]);
    assert_eq!(found(&home, "is ny"), [""; 0]);
    assert_eq!(found(&home, "is nyc"), ["three"]);
    changed(&home, &["rm", "nyc"]);
    server.stop();
    check("without one:");
}

#[test]
fn subjects_and_actors_have_aliases_too() {
    let home = Home::new("actors");
    home.configure_zoo(&[Zoo::good("zoo")]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    changed(&home, &["add", "alice@example.com", "Alice Liddell", "ALICE"]);
    watch(&home, "about", "'alice liddell' is seen");
    watch(&home, "by", "by alice");
    watch(&home, "not-by", "is seen by not Alice");
    let fires = |claim: &str, id: &str| number(&home.object(&["as", claim, "--id", id]), "fires");
    assert_eq!(fires("alice@example.com is seen by bob", "about"), 2);
    assert_eq!(fires("X is seen by ALICE@EXAMPLE.COM", "by"), 1);
    assert_eq!(fires("X is seen by bob", "neither"), 1);
    assert_eq!(
        (fired(&home, "about"), fired(&home, "by")),
        (vec!["about".into()], vec!["by".into()])
    );
    assert_eq!(fired(&home, "not-by"), ["about", "neither"]);
    assert_eq!(found(&home, "ALICE"), ["about"]);
    assert_eq!(found(&home, "by 'Alice Liddell'"), ["by"]);
    // Words that are one with each other are told once each.
    watch(&home, "liddell", "by 'alice liddell'");
    home.object(&["as", "Y is seen by ALICE 'alice@example.com'", "--id", "both"]);
    let by = home.object(&["why-not", "liddell", "both"])["conditions"][0].clone();
    assert_eq!(by["decided_by"], json!(["ALICE", "alice@example.com"]));
    let asked = "alice liddell";
    assert_eq!(by["by_alias"], json!([["ALICE", asked], ["alice@example.com", asked]]));
}
