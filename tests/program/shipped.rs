//! The plugins that ship, through the real program: nothing is configured and they are there; what a
//! watcher's parameters say reaches them; a receiver that is ill, busy or forbidden is dealt with as
//! the engine promises.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::support::repository::Repository;
use crate::support::{Home, number, processes, text, until};
use serde_json::{Value, json};

#[test]
fn a_first_watcher_fires_with_nothing_configured() {
    let home = Home::new("shipped-first");
    let server = home.serve();
    server.until_ready(&["git", "notify", "python"]);
    let created = home.object(&[
        "watch",
        "create",
        "failures",
        "--when",
        "is failed of ci",
        "--run",
        "notify.log",
    ]);
    assert_eq!(text(&created, "state"), "live");
    let claim = home.object(&["as", "build-42 is failed of ci by github-actions"]);
    assert_eq!(number(&claim, "fires"), 1);
    server.until_settled();
    let fires = home.json(&["fires"]);
    assert_eq!(text(&fires[0], "state"), "completed");
    until("the claim is in the log", || home.log().contains("build-42").then_some(()));
    home.run_plain(&["why", text(&fires[0], "job_id")])
        .expect(0)
        .says(&["user-failures", "build-42"]);

    let misspelt = ["watch", "create", "w", "--when", "is x", "--run", "notify.lgo"];
    home.run_plain(&misspelt).expect(0).says(&["waiting for handler", "did you mean notify.log?"]);

    // A plugin that dies takes nothing with it, and comes back.
    let pid = number(&server.plugin("notify"), "pid");
    let pid = u32::try_from(pid).expect("a pid is no large number");
    processes::signal(pid, rustix::process::Signal::KILL);
    home.object(&["as", "build-43 is failed of ci by github-actions"]);
    server.until_settled();
    until("the second claim is done", || {
        home.json(&["fires"]).iter().all(|fire| fire["state"] == "completed").then_some(())
    });
    server.stop();
}

#[test]
fn a_repository_is_read_by_a_job() {
    let home = Home::new("shipped-git");
    let repository = Repository::with_commits(home.path("repo"), 30);
    let server = home.serve();
    server.until_ready(&["git"]);
    let payload = json!({ "repository_source": repository.path() }).to_string();
    let read = || home.object(&["jobs", "run", "ixgest.git", "--payload", &payload, "--wait"]);
    let job = read();
    assert_eq!(text(&job, "state"), "completed", "{job}");
    let claims = home.json(&["ax", "is is_commit", "--all"]);
    assert_eq!(claims.len() as u64, repository.commits());
    assert!(claims.iter().all(|claim| claim["attributes"]["full_hash"].is_string()), "{claims:?}");
    let all = || -> i64 {
        let count = "SELECT count(*) FROM attestations";
        home.database().query_row(count, [], |row| row.get(0)).expect("the store can be asked")
    };
    let before = all();
    read();
    assert_eq!(all(), before, "reading it again adds nothing");

    let nothing = json!({ "repository_source": home.path("nothing") }).to_string();
    let refused =
        home.run(&["jobs", "run", "ixgest.git", "--payload", &nothing, "--wait"]).expect(1);
    let job = refused.object();
    assert_eq!((text(&job, "state"), number(&job, "attempts")), ("failed", 1), "{job}");
    assert!(text(&job, "error").contains("nothing"), "{job}");
    server.stop();
}

/// A receiver of webhooks that answers what it is told to, one call after the other.
struct Hook {
    address: SocketAddr,
    calls: Receiver<Call>,
}

/// What it was sent.
struct Call {
    headers: Vec<String>,
    body: Value,
}

impl Call {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Hook {
    /// Gives each answer once, and the last one from then on.
    fn answering(answers: &'static [&'static str]) -> Hook {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (told, calls) = channel();
        thread::spawn(move || {
            let mut answers = answers.iter().copied();
            let mut last = "";
            for stream in listener.incoming() {
                last = answers.next().unwrap_or(last);
                let Ok(stream) = stream else { return };
                if answer(stream, last, &told).is_none() {
                    return;
                }
            }
        });
        Hook { address, calls }
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn next(&self) -> Call {
        self.calls.recv_timeout(crate::support::PATIENCE).expect("the receiver is called")
    }
}

fn answer(stream: TcpStream, answer: &str, told: &Sender<Call>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        headers.push(line.trim().to_owned());
    }
    let mut call = Call { headers, body: Value::Null };
    let length = call.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    call.body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let reply = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _ = (&stream).write_all(reply.as_bytes());
    told.send(call).ok()
}

#[test]
fn a_webhook_is_retried_put_off_and_kept_from_where_it_must_not_go() {
    let home = Home::new("shipped-webhook");
    let hook = Hook::answering(&[
        "500 Internal Server Error",
        "429 Too Many Requests\r\nRetry-After: 1",
        "200 OK",
        "307 Temporary Redirect\r\nLocation: http://169.254.169.254/latest",
        "404 Not Found",
    ]);
    home.configure(&format!("[notify.webhook]\nallow = ['{}']\n", hook.address));
    let server = home.serve();
    server.until_ready(&["notify"]);
    let params = json!({ "url": hook.url() }).to_string();
    home.object(&[
        "watch",
        "create",
        "hooked",
        "--when",
        "is failed",
        "--run",
        "notify.webhook",
        "--params",
        &params,
    ]);
    let fire_of = |subject: &str| {
        home.object(&["as", &format!("{subject} is failed of ci")]);
        home.json(&["fires", "--limit", "1"]).remove(0)
    };
    let ended = |job: &str| {
        until("the job ends", || {
            let job = home.object(&["jobs", "show", job]);
            let is_over = ["completed", "failed"].contains(&text(&job, "state"));
            is_over.then_some(job)
        })
    };

    let fire = fire_of("first");
    let id = text(&fire, "job_id");
    for _ in 0..3 {
        let call = hook.next();
        assert_eq!(call.header("webhook-id"), Some(id), "one delivery id for one job");
        assert_eq!(call.body["data"]["attestation"]["subjects"], json!(["first"]));
    }
    let job = ended(id);
    assert_eq!((text(&job, "state"), number(&job, "attempts")), ("completed", 3), "{job}");
    // One that failed, one that was put off and burned nothing, one that went well.
    let why = home.object(&["why", id]);
    let outcomes: Vec<_> =
        why["attempts"].as_array().unwrap().iter().map(|made| text(made, "outcome")).collect();
    assert_eq!(outcomes, ["failed", "not_now", "succeeded"]);

    for (subject, says) in [("second", "169.254.169.254"), ("third", "404")] {
        let fire = fire_of(subject);
        let job = ended(text(&fire, "job_id"));
        assert_eq!((text(&job, "state"), number(&job, "attempts")), ("failed", 1), "{job}");
        assert!(text(&job, "error").contains(says), "{job}");
    }

    // Where the configuration says nothing, loopback is private.
    let forbidden = json!({ "url": "http://127.0.0.2/hook" }).to_string();
    home.object(&[
        "watch",
        "create",
        "inside",
        "--when",
        "is secret",
        "--run",
        "notify.webhook",
        "--params",
        &forbidden,
    ]);
    home.object(&["as", "x is secret of ci"]);
    let fire = home.json(&["fires", "--watcher", "inside"]).remove(0);
    let job = ended(text(&fire, "job_id"));
    assert_eq!(text(&job, "state"), "failed");
    assert!(text(&job, "error").contains("127.0.0.2"), "{job}");
    server.stop();
}
