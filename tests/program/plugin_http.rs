//! Plugins that answer browsers, through the real program: what arrives, what comes back, and who may
//! ask at all.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::browser::{Answer, ask};
use crate::support::{Home, PATIENCE, Server, Zoo, number, text, until};
use rustix::process::Signal;
use serde_json::{Value, json};

const MIB: usize = 1024 * 1024;

/// A server with a plugin `web` that serves, and what is given beside it.
fn serve(home: &Home, others: Vec<Zoo>) -> Server {
    let zoo: Vec<_> = [Zoo::new("web", "serves")].into_iter().chain(others).collect();
    home.configure_zoo(&zoo);
    let server = home.serve();
    server.until_ready(&["web"]);
    server
}

/// Asks with the token.
#[track_caller]
fn asked(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let bearer = format!("Bearer {}", server.token());
    let mut all = vec![("Host", server.address()), ("Authorization", bearer.as_str())];
    all.extend_from_slice(headers);
    ask(server.address(), method, path, &all, body)
}

#[track_caller]
fn get(server: &Server, path: &str) -> Answer {
    asked(server, "GET", path, &[], b"")
}

/// The cookie that a browser gets for the token, name and value.
#[track_caller]
fn session_cookie(server: &Server) -> String {
    let answer = get(server, &format!("/api/v1/session?token={}", server.token())).expect(303);
    answer.all("set-cookie")[0].split(';').next().unwrap().to_owned()
}

#[test]
fn a_request_arrives_as_it_is_but_for_what_is_not_the_plugins() {
    let home = Home::new("web");
    let server = serve(&home, vec![]);
    // The cookie of another server of this host is not for a plugin either.
    let cookie = format!("s=1; {}; axwatch_session_1=x; t=2", session_cookie(&server));
    let headers = [
        ("X-Twice", "1"),
        ("X-Twice", "2"),
        ("Connection", "close, X-Drop"),
        ("X-Drop", "1"),
        ("TE", "trailers"),
        ("X-Axwatch-Token", server.token()),
        ("Cookie", &cookie),
    ];
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"] {
        let answer = asked(&server, method, "/api/web/echo/%20a/..?x=%2F&y", &headers, b"{}");
        let answer = answer.expect(201);
        let told = answer.json();
        assert_eq!(text(&told, "method"), method);
        assert_eq!(text(&told, "path"), "/echo/%20a/..?x=%2F&y");
        assert_eq!(text(&told, "body"), "{}");
        let seen = &told["headers"];
        assert_eq!(seen["x-twice"], json!(["1", "2"]));
        assert_eq!(seen["cookie"], json!(["s=1; t=2"]));
        assert_eq!(seen["content-length"], json!(["2"]));
        for gone in ["authorization", "x-axwatch-token", "x-drop", "te", "connection"] {
            assert_eq!(seen[gone], Value::Null, "{gone}: {told}");
        }
        assert!(!answer.text().contains(server.token()));
        assert!(!answer.text().contains("axwatch_session"), "{}", answer.text());
        // Nor does all that a plugin answers go out.
        assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
        assert_eq!((answer.all("x-kept"), answer.all("x-hop")), (vec!["1"], vec![]));
    }
    let head = asked(&server, "HEAD", "/api/web/echo", &[], b"").expect(201);
    assert!(head.body.is_empty());
    // The length that GET has, as far as the plugin says or shows it.
    let lengths = [
        ("HEAD", "told-length/4711", vec!["4711"]),
        ("HEAD", "large/7", vec!["7"]),
        ("HEAD", "large/0", vec![]),
        ("GET", "large/0", vec!["0"]),
        ("GET", "told-length/4711", vec!["0"]),
        ("GET", "status/304", vec![]),
        ("HEAD", "status/204", vec![]),
    ];
    for (method, path, expected) in lengths {
        let answer = asked(&server, method, &format!("/api/web/{path}"), &[], b"");
        assert_eq!(answer.all("content-length"), expected, "{method} {path}");
    }
    assert_eq!(text(&get(&server, "/api/web").expect(201).json(), "path"), "/");
    assert_eq!(text(&get(&server, "/api/web/?q").expect(201).json(), "path"), "/?q");
    // A credential that is not ours is the plugin's to judge.
    let own = [
        ("Host", server.address()),
        ("X-Axwatch-Token", server.token()),
        ("Authorization", "Basic eDp5"),
    ];
    let told = ask(server.address(), "GET", "/api/web/echo", &own, b"").expect(201).json();
    assert_eq!(told["headers"]["authorization"], json!(["Basic eDp5"]));
}

#[test]
fn each_way_to_fail_has_its_status_and_its_words() {
    let home = Home::new("web-errors");
    let stuck = Zoo::new("stuck", "hang-in-initialize");
    let server = serve(&home, vec![Zoo::good("plain"), stuck]);
    server.until_ready(&["plain"]);
    get(&server, "/api/web/prefixed").expect(200).says(&["prefixed"]);
    // A refusal of the plugin's own is not made ours.
    let own = get(&server, "/api/web/status/418").expect(418);
    assert_eq!((own.text().as_str(), own.all("content-type")), ("<h1>so</h1>", vec!["text/plain"]));
    get(&server, "/api/web/absent").expect(404).says(&["<h1>nothing here</h1>"]);
    let cases: [(&str, u16, &[&str]); 12] = [
        ("/api/web/status/0", 502, &["plugin web", "status 0", "200 to 599"]),
        ("/api/web/status/101", 502, &["status 101"]),
        ("/api/web/status/700", 502, &["status 700"]),
        ("/api/web/bad-header", 502, &["plugin web", "bad header"]),
        ("/api/web/bad-value", 502, &["X-Split", "control characters"]),
        ("/api/web/many-headers", 502, &["more than 256 headers"]),
        ("/api/web/large/17900000", 502, &["plugin web", "a body of more than 16777216 bytes"]),
        ("/api/web/broken", 502, &["plugin web", "it broke"]),
        ("/api/web/unimplemented", 404, &["plugin web serves no HTTP"]),
        ("/api/plain/x", 404, &["plugin plain serves no HTTP"]),
        ("/api/nobody/x", 404, &["nobody", "plain", "web"]),
        ("/api/%77eb/x", 404, &["web"]),
    ];
    for (path, status, says) in cases {
        let answer = get(&server, path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let error = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        for words in says {
            assert!(error.contains(words), "{path}: no {words:?} in {error:?}");
        }
    }
    for path in ["/api/v1/nothing", "/api/plugins/x/nothing", "/api", "/ws", "/ws/"] {
        get(&server, path).expect(404).says(&["no such route"]);
    }
    let away = get(&server, "/api/stuck/x").expect(503).says(&["stuck", "starting"]);
    assert_eq!(away.all("retry-after"), ["1"]);
    // A disabled one is as good as none, until it is enabled.
    asked(&server, "POST", "/api/plugins/plain/disable", &[], b"").expect(200);
    until("it is disabled", || {
        (get(&server, "/api/plain/x").text().contains("is disabled")).then_some(())
    });
    get(&server, "/api/plain/x").expect(404).says(&["plain", "disabled", "web"]);
    asked(&server, "POST", "/api/plugins/plain/enable", &[], b"").expect(200);
    until("it answers again", || {
        get(&server, "/api/plain/x").text().contains("serves no HTTP").then_some(())
    });
    // A process that ends under a request.
    let away = get(&server, "/api/web/exit").expect(503);
    assert_eq!(away.all("retry-after"), ["1"]);
    until("the plugin answers again", || {
        (get(&server, "/api/web/echo").status == 201).then_some(())
    });
}

#[test]
fn bodies_are_bounded_and_what_is_bounded_passes() {
    let home = Home::new("web-bodies");
    let server = serve(&home, vec![]);
    let largest = vec![b'x'; 16 * MIB];
    let answer = asked(&server, "POST", "/api/web/length", &[], &largest).expect(200);
    assert_eq!(answer.text(), (16 * MIB).to_string());
    let large = get(&server, "/api/web/large/16777216").expect(200);
    assert_eq!(large.body.len(), 16 * MIB);
    let more = vec![b'x'; 16 * MIB + 1];
    asked(&server, "POST", "/api/web/length", &[], &more)
        .expect(413)
        .says(&["16777216", "body_max_mb"]);
    // One that does not say how long it is.
    let mut chunked = TcpStream::connect(server.address()).unwrap();
    chunked.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /api/web/length HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        server.address(),
        server.token()
    );
    chunked.write_all(head.as_bytes()).unwrap();
    for _ in 0..3 {
        chunked.write_all(b"5\r\nhello\r\n").unwrap();
    }
    chunked.write_all(b"0\r\n\r\n").unwrap();
    let mut answer = String::new();
    chunked.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\n15"), "{answer}");
    // Many large answers at once: each comes whole, or is put off.
    let statuses: Vec<_> = std::thread::scope(|scope| {
        let askers: Vec<_> =
            (0..32).map(|_| scope.spawn(|| get(&server, "/api/web/large/16777216"))).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    for answer in statuses {
        match answer.status {
            200 => assert_eq!(answer.body.len(), 16 * MIB),
            503 => assert_eq!(answer.all("retry-after"), ["1"]),
            other => panic!("{other}: {}", answer.text()),
        }
    }
    assert!(server.peak_memory_kib() < 400 * 1024, "{} KiB", server.peak_memory_kib());
    get(&server, "/api/web/large/16777216").expect(200);
}

#[test]
fn a_foreign_page_gets_nowhere() {
    let home = Home::new("web-names");
    let server = serve(&home, vec![Zoo::new("public", "serves").host("open", true)]);
    server.until_ready(&["public"]);
    let bearer = format!("Bearer {}", server.token());
    let session = format!("/api/v1/session?token={}", server.token());
    let here = server.address();
    let upgrade = [
        ("Connection", "upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let send = |method: &str, path: &str, names: &[(&str, &str)]| {
        let mut headers = vec![("Authorization", bearer.as_str())];
        headers.extend_from_slice(names);
        if path.starts_with("/ws/") {
            headers.extend_from_slice(&upgrade);
        }
        ask(here, method, path, &headers, b"").status
    };
    let mut routes = routes();
    assert!(routes.len() > 40, "{routes:?}");
    routes.extend(["/", "/ws/public/x", "/api/public/echo", &session].map(str::to_owned));
    for path in &routes {
        for method in ["GET", "POST", "DELETE"] {
            for foreign in ["evil.example", "127.0.0.1.evil.example", "evil.example:80", ""] {
                let status = send(method, path, &[("Host", foreign)]);
                assert_eq!(status, 403, "{method} {path} from Host {foreign}");
            }
            let foreign = [
                "http://evil.example",
                "null",
                "https://127.0.0.1",
                "http://localhost.evil.example",
                "file://",
            ];
            for foreign in foreign {
                let status = send(method, path, &[("Host", here), ("Origin", foreign)]);
                assert_eq!(status, 403, "{method} {path} from Origin {foreign}");
            }
            let headers = [("Host", here)];
            let status = ask(here, method, path, &headers, b"").status;
            let is_free = path.contains("public") || path.starts_with("/api/v1/session");
            assert_eq!(status == 401, !is_free, "{method} {path} without the token: {status}");
        }
    }
    let status = |path: &str| ask(here, "GET", path, &[("Host", here)], b"").status;
    assert_eq!(status("/api/public/echo"), 201);
    assert_eq!(status("/ws/public/x"), 426);
    // Images and links of foreign pages bear no Origin.
    for (site, open, closed) in
        [("none", 201, 401), ("same-origin", 201, 401), ("cross-site", 403, 401)]
    {
        let headers = [("Host", here), ("Sec-Fetch-Site", site)];
        let status = |path: &str| ask(here, "GET", path, &headers, b"").status;
        assert_eq!(status("/api/public/echo"), open, "{site}");
        assert_eq!(status("/ws/public/x"), if open == 201 { 426 } else { open }, "{site}");
        assert_eq!(status("/api/web/echo"), closed, "{site}");
        let with_token = send("GET", "/api/public/echo", &headers);
        assert_eq!(with_token, 201, "{site} with the token");
    }
    assert_eq!(status(&session), 303);
    assert_eq!(status("/api/v1/session?token=wrong"), 401);
}

/// Every path of the router, with something in each of its places: a new one is tested too.
fn routes() -> Vec<String> {
    let source = include_str!("../../src/api.rs");
    let (v1, whole) = source.split_once(".nest(\"/api/v1\", v1)").expect("the router nests v1");
    let paths = |text: &str, prefix: &str| {
        let quoted = text.split(".route(").skip(1).filter_map(|rest| rest.split('"').nth(1));
        let filled = quoted.map(|path| {
            let parts =
                path.split('/').map(|part| if part.starts_with('{') { "web" } else { part });
            format!("{prefix}{}", parts.collect::<Vec<_>>().join("/"))
        });
        filled.collect::<Vec<_>>()
    };
    [paths(v1, "/api/v1"), paths(whole, "")].concat()
}

#[test]
fn a_browser_gets_a_cookie_and_uses_it_from_our_pages() {
    let home = Home::new("web-session");
    let server = serve(&home, vec![]);
    let here = server.address();
    let host = ("Host", here);
    let session = |token: &str, rest: &str| {
        ask(here, "GET", &format!("/api/v1/session?token={token}{rest}"), &[host], b"")
    };
    session("wrong", "").expect(401);
    session(server.token(), "&next=//evil.example").expect(400);
    let answer = session(server.token(), "&next=/api/web/echo").expect(303);
    assert_eq!(answer.all("location"), ["/api/web/echo"]);
    let set = answer.all("set-cookie")[0].to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains(server.token()), "{set}");
    let pair = set.split(';').next().unwrap();
    let (name, secret) = pair.split_once('=').unwrap();
    assert_eq!(name, format!("axwatch_session_{}", here.rsplit_once(':').unwrap().1));
    // Whoever else on this host is sent it cannot make a token of it.
    let bearer = format!("Bearer {secret}");
    for header in [("Authorization", bearer.as_str()), ("X-Axwatch-Token", secret)] {
        ask(here, "GET", "/api/v1/server", &[host, header], b"").expect(401);
    }
    session(secret, "").expect(401);
    for name in [name, "axwatch_token"] {
        let token = format!("{name}={}", server.token());
        ask(here, "GET", "/api/v1/server", &[host, ("Cookie", &token)], b"").expect(401);
    }
    let cookie = ("Cookie", pair);
    let told = ask(here, "GET", "/api/web/echo", &[host, cookie], b"").expect(201);
    assert!(!told.text().contains(server.token()), "{}", told.text());
    let post = |more: &[(&str, &str)]| {
        let headers: Vec<_> = [host, cookie].iter().chain(more).copied().collect();
        ask(here, "POST", "/api/web/echo", &headers, b"").status
    };
    let own = format!("http://{here}");
    assert_eq!(post(&[]), 403);
    assert_eq!(post(&[("Origin", &own)]), 201);
    assert_eq!(post(&[("Sec-Fetch-Site", "same-origin")]), 201);
    assert_eq!(post(&[("Origin", "http://127.0.0.1:1")]), 403);
    assert_eq!(post(&[("Sec-Fetch-Site", "same-site")]), 403);
}

#[test]
fn a_log_can_be_read_along() {
    let home = Home::new("web-logs");
    let server = serve(&home, vec![]);
    // Ends when the plugin does, which is one of its last lines.
    let path = "/api/plugins/web/logs?follow=false";
    let events = get(&server, path).expect(200);
    assert_eq!(events.all("content-type"), ["text/event-stream"]);
    let first = events.text();
    assert!(first.contains("\"stream\":\"host\""), "{first}");
    get(&server, "/api/plugins/nobody/logs").expect(404);
    get(&server, "/api/v1/plugins/web/logs?unknown=1").expect(400);

    let mut following = TcpStream::connect(server.address()).unwrap();
    following.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET /api/v1/plugins/web/logs?lines=0 HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
        server.address(),
        server.token()
    );
    following.write_all(request.as_bytes()).unwrap();
    let mut told = Vec::new();
    let mut read_until = |words: &str| {
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&told).contains(words) {
            let read = following.read(&mut buffer).expect("more comes");
            assert!(read > 0, "it ended before {words:?}");
            told.extend_from_slice(&buffer[..read]);
        }
    };
    read_until("\r\n\r\n");
    let pid = u32::try_from(number(&server.plugin("web"), "pid")).unwrap();
    crate::support::processes::signal(pid, Signal::KILL);
    // The host says what it saw, and the reader sees it as it comes.
    read_until("data: ");
    read_until("signal: 9");
    let mut rest = Vec::new();
    server.signal(Signal::TERM);
    following.read_to_end(&mut rest).expect("the stream ends with the server");
    assert_eq!(server.end_within(Duration::from_secs(25)).code(), Some(0));
}

#[test]
fn who_does_not_come_to_the_point_keeps_nobody_waiting() {
    let home = Home::new("web-attacks");
    let server = serve(&home, vec![]);
    // Heads that never end, bodies that do not come, more of a head than there is room for.
    let mut silent = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let head = match number % 2 {
            0 => format!("POST /api/web/length HTTP/1.1\r\nHost: {}\r\nX-", server.address()),
            _ => format!(
                "POST /api/web/length HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: 1000000\r\n\r\nx",
                server.address(),
                server.token()
            ),
        };
        stream.write_all(head.as_bytes()).unwrap();
        silent.push(stream);
    }
    let flood = "x".repeat(500_000);
    let flooded = asked(&server, "GET", "/api/web/echo", &[("X-Flood", &flood)], b"");
    assert_eq!(flooded.status, 431);
    for _ in 0..20 {
        let began = std::time::Instant::now();
        get(&server, "/api/web/echo").expect(201);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    // A plugin that hangs in requests does its jobs, and answers others.
    let hang = || {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let head = format!(
            "GET /api/web/hang HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
            server.address(),
            server.token()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut hanging: Vec<_> = (0..70).map(|_| hang()).collect();
    let busy = until("the plugin has all the requests that it may have", || {
        let answer = get(&server, "/api/web/echo");
        // What was answered may have had the last place, so that the others were refused.
        hanging.push(hang());
        (answer.status == 429).then_some(answer)
    });
    assert_eq!(busy.all("retry-after"), ["1"]);
    let appended = home.object(&["as", "X is seen"]);
    assert_eq!(number(&appended, "fires"), 0);
    drop(hanging);
    until("requests that were given up make room", || {
        (get(&server, "/api/web/echo").status == 201).then_some(())
    });
    drop(silent);
}
