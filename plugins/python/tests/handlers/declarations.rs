//! What decorators say, read without running anything.

use serde_json::{Value, json};

use crate::support::{post, start};

#[tokio::test]
async fn decorators_are_read_from_the_text() {
    let harness = start(&[("workers", "1")]).await;
    let cases: [(&str, Value); 15] = [
        (r#"@watch("is commit")"#, json!([{"ax": "is commit"}])),
        (
            r#"@watch(ax="is commit", max_fires_per_second=5)"#,
            json!([{"ax": "is commit", "max_fires_per_second": 5}]),
        ),
        (r#"@watch(predicate="commit")"#, json!([{"predicates": ["commit"]}])),
        (
            r#"@watch(predicates=["a", "b"], context="ci", subject="s", actors=("x",))"#,
            json!([{"subjects": ["s"], "predicates": ["a", "b"], "contexts": ["ci"], "actors": ["x"]}]),
        ),
        (r#"@watch(predicate="a", predicates=["b"])"#, json!([{"predicates": ["a", "b"]}])),
        (
            r#"@watch("is " "commit", since="2024-05-15")"#,
            json!([{"ax": "is commit", "since": "2024-05-15"}]),
        ),
        (
            "@watch('a')\n@watch('b')\n@watch('c')",
            json!([{"ax": "a"}, {"ax": "b", "id": "h-f-2"}, {"ax": "c", "id": "h-f-3"}]),
        ),
        ("@other\n@watch('a')", json!([{"ax": "a"}])),
        ("import axwatch\n@axwatch.watch('a')", json!([{"ax": "a"}])),
        ("import axwatch as ax\n@ax.watch('a')", json!([{"ax": "a"}])),
        ("from axwatch import watch as on\n@on('a')", json!([{"ax": "a"}])),
        ("from elsewhere import watch\n@watch(1, 2, 3)", json!([])),
        (
            "try: from axwatch import watch as w\nexcept ImportError: w = print\n@w('a')",
            json!([{"ax": "a"}]),
        ),
        (
            "try: from axwatch import watch\nexcept ImportError:\n  def watch(ax): pass\n@watch('a')",
            json!([{"ax": "a"}]),
        ),
        ("watch = print\n@watch('a')", json!([])),
    ];
    for ax in ["is commit", "a", "b", "c"] {
        harness.answer_ax(ax, []);
    }
    for (decorators, expected) in cases {
        let code = format!("{decorators}\ndef f(upstream): 1 / 0\nraise SystemExit");
        let (status, mut answer) =
            post(&harness, "/check", json!({"name": "h", "code": code})).await;
        assert_eq!((status, &answer["ok"]), (200, &json!(true)), "{decorators}: {answer}");
        assert_eq!(answer["functions"], json!(["f"]), "{decorators}");
        let found = answer["watchers"].take();
        let found = found.as_array().cloned().unwrap_or_default();
        assert_eq!(found.len(), expected.as_array().unwrap().len(), "{decorators}: {found:?}");
        for (mut found, expected) in found.into_iter().zip(expected.as_array().unwrap()) {
            let fields = found.as_object_mut().unwrap();
            assert!(fields.remove("line").is_some_and(|line| line.as_u64() > Some(0)));
            assert_eq!(fields.remove("function"), Some(json!("f")));
            let mut whole = json!({"id": "h-f", "max_fires_per_second": 0});
            whole.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
            assert_eq!(found, whole, "{decorators}");
        }
    }
}

#[tokio::test]
async fn a_decorator_is_ours_until_its_name_is_a_functions() {
    let harness = start(&[("workers", "1")]).await;
    let code =
        "@schedule(every='1h')\ndef schedule(): pass\n@schedule(every='1h')\ndef f(): pass\n";
    let (_, answer) = post(&harness, "/check", json!({"name": "h", "code": code})).await;
    let ids: Vec<&Value> =
        answer["schedules"].as_array().unwrap().iter().map(|said| &said["id"]).collect();
    assert_eq!(ids, ["h-schedule"], "{answer}");
}

#[tokio::test]
async fn schedules_are_read_from_the_text() {
    let harness = start(&[("workers", "1")]).await;
    let cases = [
        ("every=90", 90),
        ("every='90s'", 90),
        ("every='5m'", 300),
        ("'1h30m'", 5_400),
        ("every='1d'", 86_400),
        ("every=60.0", 60),
        ("every='2 h'", 7_200),
        ("every=2 + 3", 0),
    ];
    for (arguments, every_secs) in cases {
        let code = format!("@schedule({arguments})\ndef tick():\n  \"\"\"Counts.\n  More.\"\"\"\n");
        let (_, answer) = post(&harness, "/check", json!({"name": "h", "code": code})).await;
        if every_secs == 0 {
            assert_eq!(answer["ok"], false, "{arguments}");
            continue;
        }
        let expected = json!([{
            "id": "h-tick", "function": "tick", "line": 1, "every_secs": every_secs, "description": "Counts."
        }]);
        assert_eq!(answer["schedules"], expected, "{arguments}: {answer}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_line() {
    let harness = start(&[("workers", "1")]).await;
    harness.answer_ax("is commit", []);
    let cases = [
        ("x = (\n", 1, "was never closed"),
        (
            "\n\n@watch\ndef f(u): pass",
            3,
            "@watch says nothing; write for example @watch(\"is commit\")",
        ),
        ("@schedule\ndef f(u): pass", 1, "@schedule says nothing"),
        (
            "q = 'is commit'\n@watch(q)\ndef f(u): pass",
            2,
            "ax must be written out as text, a number or a list",
        ),
        ("@watch()\ndef f(u): pass", 1, "it would watch everything"),
        ("@watch('')\ndef f(u): pass", 1, "the query is ''; it must be AX text"),
        ("@watch('is x', predicate='y')\ndef f(u): pass", 1, "AX text and predicates together"),
        (
            "@watch(\n  'is x',\n  max_fires_per_second=0)\ndef f(u): pass",
            3,
            "max_fires_per_second is 0; it must be a whole number",
        ),
        (
            "@watch(predicates=['a', 3])\ndef f(u): pass",
            1,
            "predicates has 3 in it; it must be a list of texts",
        ),
        ("@watch(predicate=['a'])\ndef f(u): pass", 1, "predicate is ['a']; it must be a text"),
        ("@watch('a', 'b')\ndef f(u): pass", 1, "only ax comes without a name"),
        ("@watch(**{'ax': 'a'})\ndef f(u): pass", 1, "** is not read here"),
        ("@watch(wen='a')\ndef f(u): pass", 1, "wen is unknown; known are ax, subject, subjects"),
        ("@watch('a', since=5)\ndef f(u): pass", 1, "since is 5; it must be a time as text"),
        ("@schedule()\ndef f(u): pass", 1, "every is missing"),
        ("@schedule(every='soon')\ndef f(u): pass", 1, "every is 'soon'; it must be whole seconds"),
        ("@schedule(every=0.5)\ndef f(u): pass", 1, "every is 0.5; it must be whole seconds"),
        ("@schedule(every=True)\ndef f(u): pass", 1, "every is True; it must be whole seconds"),
        ("@watch('a')\ndef f(u): pass\ndef f(u): pass", 3, "f is defined more than once"),
        ("\n@watch('is of of')\ndef f(u): pass", 2, "@watch: ax: the harness does not speak AX"),
        ("x = '\0'", 0, "null bytes"),
    ];
    for (code, line, says) in cases {
        let (status, answer) = post(&harness, "/check", json!({"name": "h", "code": code})).await;
        assert_eq!((status, &answer["ok"]), (200, &json!(false)), "{code}: {answer}");
        let error = &answer["error"];
        assert!(error["message"].as_str().unwrap().contains(says), "{code}: {error}");
        assert_eq!(error["line"].as_u64().unwrap_or(0), line, "{code}: {error}");
    }
    let deep = format!("x = {}{}", "(".repeat(50_000), ")".repeat(50_000));
    let (status, answer) = post(&harness, "/check", json!({"name": "h", "code": deep})).await;
    assert_eq!((status, &answer["ok"]), (200, &json!(false)), "{answer}");
    let (_, answer) = post(&harness, "/check", json!({"name": "script", "code": ""})).await;
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("is a handler of the plugin itself")
    );
    let (_, answer) = post(&harness, "/check", json!({"name": "a b", "code": ""})).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("is no name for a handler"));
}

#[tokio::test]
async fn a_request_that_does_not_do_is_an_error() {
    let harness = start(&[("workers", "1")]).await;
    let large = "x".repeat(1024 * 1024 + 1);
    let cases = [
        (400, json!({"name": "h"}), "missing field `code`"),
        (400, json!({"name": "h", "code": "", "cod": 1}), "unknown field `cod`"),
        (413, json!({"name": "h", "code": large}), "1048577 bytes; at most 1048576 are run"),
    ];
    for (expected, body, says) in cases {
        let (status, answer) = post(&harness, "/check", body).await;
        assert_eq!(status, expected);
        assert!(answer["error"].as_str().unwrap().contains(says), "{answer}");
    }
    let (status, _) = post(&harness, "/nothing", json!({})).await;
    assert_eq!(status, 404);
    let get = harness.http(axwatch_sdk::HttpRequest::new("GET", "/check", "")).await;
    assert_eq!(get.status(), 405);
}
