//! Sockets of plugins through the real program: frames both ways, every ending, and who may open one.

use std::time::{Duration, Instant};

use crate::support::browser::ask;
use crate::support::{Home, PATIENCE, Server, Zoo, number, text, until};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderName};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

const DATA: u64 = 1;
const PING: u64 = 3;
const PONG: u64 = 4;
const ERROR: u64 = 5;

fn serve(home: &Home, others: Vec<Zoo>) -> Server {
    let zoo: Vec<_> = [Zoo::new("web", "serves")].into_iter().chain(others).collect();
    home.configure_zoo(&zoo);
    let server = home.serve();
    server.until_ready(&["web"]);
    server
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(2 * PATIENCE, test).await.expect("it comes in time")
    })
}

/// A browser's socket.
struct Browser {
    socket: WebSocketStream<TcpStream>,
    headers: HeaderMap,
}

/// How a socket ended: the code, the reason, and the frames before.
struct Closed {
    code: u16,
    reason: String,
    frames: Vec<Value>,
}

impl Browser {
    /// Opens one with these headers, or answers the status that was said instead.
    async fn open(server: &Server, path: &str, headers: &[(&str, &str)]) -> Result<Browser, u16> {
        let address = server.address();
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(address).await.unwrap();
        let mut config = WebSocketConfig::default();
        config.max_message_size = None;
        config.max_frame_size = None;
        let opened =
            tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        match opened {
            Ok((socket, answer)) => Ok(Browser { socket, headers: answer.headers().clone() }),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Opens one as a program does.
    async fn with_token(server: &Server, path: &str) -> Browser {
        let bearer = format!("Bearer {}", server.token());
        let opened = Browser::open(server, path, &[("authorization", &bearer)]).await;
        opened.unwrap_or_else(|status| panic!("{path}: {status}"))
    }

    async fn send(&mut self, frame: &Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    async fn say(&mut self, words: &str) {
        let frame = json!({ "type": DATA, "data": STANDARD.encode(words), "timestamp": 5 });
        self.send(&frame).await;
    }

    async fn next(&mut self) -> Value {
        loop {
            match self.socket.next().await.expect("it is open").expect("it goes on") {
                Message::Text(text) => return serde_json::from_str(text.as_str()).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("no frame: {other:?}"),
            }
        }
    }

    async fn closed(mut self) -> Closed {
        let mut frames = Vec::new();
        loop {
            match self.socket.next().await.expect("it is closed first").expect("it goes on") {
                Message::Text(text) => frames.push(serde_json::from_str(text.as_str()).unwrap()),
                Message::Close(close) => {
                    let close = close.expect("a close says why");
                    let reason = close.reason.to_string();
                    return Closed { code: close.code.into(), reason, frames };
                }
                _ => {}
            }
        }
    }
}

fn words(frame: &Value) -> String {
    String::from_utf8(STANDARD.decode(text(frame, "data")).unwrap()).unwrap()
}

fn kind(frame: &Value) -> u64 {
    number(frame, "type")
}

#[test]
fn a_socket_carries_frames_both_ways() {
    let home = Home::new("socket");
    let server = serve(&home, vec![]);
    run(async {
        let protocols = format!("qntx-plugin-v1, axwatch.token.{}", server.token());
        let headers = [("sec-websocket-protocol", protocols.as_str())];
        let mut browser = Browser::open(&server, "/ws/web/x?room=7", &headers).await.ok().unwrap();
        assert_eq!(browser.headers["sec-websocket-protocol"], "qntx-plugin-v1");
        let first = browser.next().await;
        assert_eq!((kind(&first), words(&first).as_str()), (DATA, "in 7"));
        for round in 0..100 {
            browser.say(&format!("hello {round}")).await;
            let echo = browser.next().await;
            assert_eq!((kind(&echo), words(&echo)), (DATA, format!("hello {round}")));
            assert_eq!(echo["timestamp"], 5);
        }
        let with = json!({ "type": "DATA", "data": "", "headers": { "a": "b" } });
        browser.send(&with).await;
        assert_eq!(browser.next().await["headers"], json!({ "a": "b" }));
        browser.send(&json!({ "type": PING, "timestamp": 4711 })).await;
        let pong = browser.next().await;
        assert_eq!((kind(&pong), &pong["timestamp"]), (PONG, &json!(4711)));
        // What is no frame is answered, and the socket goes on.
        browser.socket.send(Message::text("hello")).await.unwrap();
        let error = browser.next().await;
        assert_eq!(kind(&error), ERROR);
        assert!(words(&error).contains("{type, data, headers, timestamp}"), "{error}");
        let large = "x".repeat(1 << 20);
        browser.say(&large).await;
        assert_eq!(words(&browser.next().await).len(), large.len());
        browser.send(&json!({ "type": 2, "data": STANDARD.encode("bye") })).await;
        let closed = browser.closed().await;
        assert_eq!((closed.code, closed.frames.len()), (1000, 0));
    });
    // The plugin heard it too.
    until("the plugin says that its socket is closed", || {
        home.log().contains("socket closed: bye").then_some(())
    });
    // A browser that is just gone is a CLOSE as well.
    run(async {
        let mut browser = Browser::with_token(&server, "/ws/web").await;
        assert_eq!(words(&browser.next().await), "in no room");
        drop(browser);
    });
    until("the plugin hears of it", || {
        home.log().contains("socket closed: the browser is gone").then_some(())
    });
}

#[test]
fn a_socket_ends_as_its_plugin_ends_it() {
    let home = Home::new("socket-ends");
    let server = serve(&home, vec![Zoo::good("plain")]);
    server.until_ready(&["plain"]);
    run(async {
        let cases: [(&str, u16, &str, Option<&str>); 5] = [
            // (path, code, reason, the words of an ERROR before it)
            ("/ws/web/close", 1000, "enough", None),
            ("/ws/web/error", 1011, "error", Some("it broke")),
            ("/ws/web/status", 1011, "it broke", Some("plugin web: internal: it broke")),
            ("/ws/web/large", 1009, "larger", None),
            ("/ws/plain", 1011, "serves no WebSocket", Some("plugin plain serves no WebSocket")),
        ];
        for (path, code, reason, error) in cases {
            let closed = Browser::with_token(&server, path).await.closed().await;
            assert_eq!(closed.code, code, "{path}: {}", closed.reason);
            assert!(closed.reason.contains(reason), "{path}: {}", closed.reason);
            let errors: Vec<_> =
                closed.frames.iter().filter(|frame| kind(frame) == ERROR).collect();
            assert_eq!(errors.len(), usize::from(error.is_some()), "{path}: {errors:?}");
            if let Some(error) = error {
                let said = words(errors[0]);
                assert!(said.to_lowercase().contains(&error.to_lowercase()), "{path}: {said}");
            }
        }
        let mut browser = Browser::with_token(&server, "/ws/web").await;
        browser.next().await;
        // Who is refused half-way may see the connection end before all is written.
        let _ = browser.socket.send(Message::text("x".repeat(24 << 20))).await;
        assert_eq!(browser.closed().await.code, 1009);
        // The plugin's process ends: the browser is told to come again.
        let mut browser = Browser::with_token(&server, "/ws/web").await;
        browser.next().await;
        let (status, _) = server.request("GET", "/api/web/exit", "").unwrap();
        assert_eq!(status, 503);
        assert_eq!(browser.closed().await.code, 1012);
        server.until_ready(&["web"]);
        // The server stops.
        let mut browser = Browser::with_token(&server, "/ws/web").await;
        browser.next().await;
        server.signal(rustix::process::Signal::TERM);
        assert_eq!(browser.closed().await.code, 1001);
    });
}

#[test]
fn only_who_may_opens_a_socket() {
    let home = Home::new("socket-names");
    let server = serve(&home, vec![]);
    run(async {
        let bearer = format!("Bearer {}", server.token());
        let token = ("authorization", bearer.as_str());
        let session = format!("/api/v1/session?token={}", server.token());
        let answer = ask(server.address(), "GET", &session, &[("Host", server.address())], b"");
        let cookie = answer.expect(303).all("set-cookie")[0].to_owned();
        let cookie = cookie.split(';').next().unwrap();
        let protocol = cookie.split_once('=').unwrap().1;
        let protocol = format!("axwatch.token.{protocol}");
        let cookie = ("cookie", cookie);
        let own = format!("http://{}", server.address());
        type Headers<'a> = &'a [(&'a str, &'a str)];
        let cases: [(Headers<'_>, Option<u16>); 10] = [
            (&[], Some(401)),
            (&[("sec-websocket-protocol", &protocol)], Some(401)),
            (&[("authorization", "Bearer wrong")], Some(401)),
            (&[("sec-websocket-protocol", "axwatch.token.wrong")], Some(401)),
            (&[token, ("origin", "http://evil.example")], Some(403)),
            (&[token, ("host", "evil.example")], Some(403)),
            (&[cookie], Some(403)),
            (&[cookie, ("origin", "http://127.0.0.1:3000")], Some(403)),
            (&[cookie, ("origin", &own)], None),
            (&[token, ("origin", &own)], None),
        ];
        for (headers, refused) in cases {
            let opened = Browser::open(&server, "/ws/web", headers).await;
            assert_eq!(opened.err(), refused, "{headers:?}");
        }
        let absent = Browser::open(&server, "/ws/nobody", &[token]).await;
        assert_eq!(absent.err(), Some(404));
    });
}

#[test]
fn a_browser_that_does_not_read_is_let_go_and_nobody_else_notices() {
    let home = Home::new("socket-slow");
    let server = serve(&home, vec![]);
    run(async {
        let mut other = Browser::with_token(&server, "/ws/web").await;
        other.next().await;
        let slow = Browser::with_token(&server, "/ws/web/flood").await;
        // The others go on meanwhile, and so does the plugin's HTTP.
        while !home.log().contains("socket closed: nothing was read for 10 s") {
            let sent = Instant::now();
            other.say("still there").await;
            other.next().await;
            assert!(sent.elapsed() < Duration::from_secs(5));
        }
        let (status, _) = server.request("GET", "/api/web/echo", "").unwrap();
        assert_eq!(status, 201);
        // It reads what was sent before, and then that it was too slow.
        let closed = slow.closed().await;
        assert_eq!(closed.code, 1013, "{}", closed.reason);
        assert!(!closed.frames.is_empty());
    });
    assert!(server.peak_memory_kib() < 256 * 1024, "{} KiB", server.peak_memory_kib());
}

#[test]
fn parameters_that_would_break_the_call_are_left_out() {
    let home = Home::new("socket-query");
    let server = serve(&home, vec![]);
    run(async {
        for name in ["content-length", "Content-Length", "keep-alive", "proxy-connection"] {
            let path = format!("/ws/web/x?{name}=7&room=5");
            let mut browser = Browser::with_token(&server, &path).await;
            assert_eq!(words(&browser.next().await), "in 5", "{name}");
            // The call goes on beyond its first bytes.
            browser.say("hello").await;
            assert_eq!(words(&browser.next().await), "hello", "{name}");
        }
    });
}

#[test]
fn a_close_is_answered() {
    let home = Home::new("socket-closes");
    let server = serve(&home, Vec::new());
    server.until_ready(&["web"]);
    run(async {
        for code in [1000, 1001] {
            let mut browser = Browser::with_token(&server, "/ws/web").await;
            browser.next().await;
            let close = CloseFrame { code: code.into(), reason: "enough".into() };
            browser.socket.send(Message::Close(Some(close))).await.unwrap();
            assert_eq!(browser.closed().await.code, code);
        }
    });
}

#[test]
fn sockets_without_the_token_leave_room_for_those_with_it() {
    let home = Home::new("socket-tokenless");
    let public = |name: &str| Zoo::new(name, "serves").host("open", true);
    let server = serve(&home, vec![public("one"), public("two")]);
    server.until_ready(&["one", "two"]);
    run(async {
        let mut open = Vec::new();
        for number in 0..300 {
            let path = if number % 2 == 0 { "/ws/one" } else { "/ws/two" };
            match Browser::open(&server, path, &[]).await {
                Ok(browser) => open.push(browser),
                Err(status) => assert_eq!(status, 429),
            }
        }
        assert_eq!(open.len(), 256);
        let mut known = Browser::with_token(&server, "/ws/one").await;
        assert_eq!(words(&known.next().await), "in no room");
        // One that is closed makes room.
        drop(open.pop());
        let room = async {
            while Browser::open(&server, "/ws/two", &[]).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), room).await.expect("room is made");
    });
}

#[test]
fn a_plugin_that_answers_no_ping_is_let_go() {
    let home = Home::new("socket-mute");
    let keepalive =
        "\n[plugin.websocket.keepalive]\nping_interval_secs = 1\npong_timeout_secs = 2\n";
    home.configure(&(home.zoo_toml(&[Zoo::new("web", "serves")]) + keepalive));
    let server = home.serve();
    server.until_ready(&["web"]);
    run(async {
        let mut lively = Browser::with_token(&server, "/ws/web").await;
        lively.next().await;
        let mut mute = Browser::with_token(&server, "/ws/web/mute").await;
        mute.next().await;
        let closed = mute.closed().await;
        assert_eq!((closed.code, closed.frames.len()), (1011, 0), "{}", closed.reason);
        lively.say("still there").await;
        assert_eq!(words(&lively.next().await), "still there");
    });
    let log = home.log();
    let line = log.lines().find(|line| line.contains("WebSocket pong timeout")).expect(&log);
    assert!(line.contains("plugin=web"), "{line}");
}

#[test]
fn a_thousand_sockets_leave_room_for_everything_else() {
    let home = Home::new("socket-many");
    let good = Zoo::good("good").watcher(json!({ "id": "seen", "predicates": ["seen"] }));
    let server = serve(&home, vec![good]);
    server.until_ready(&["good"]);
    run(async {
        let bearer = format!("Bearer {}", server.token());
        let (mut open, mut refused) = (Vec::new(), 0);
        for _ in 0..1_000 {
            match Browser::open(&server, "/ws/web", &[("authorization", &bearer)]).await {
                Ok(browser) => open.push(browser),
                Err(status) => {
                    assert_eq!(status, 429);
                    refused += 1;
                }
            }
        }
        assert_eq!((open.len(), refused), (256, 744));
        for browser in &mut open {
            assert_eq!(words(&browser.next().await), "in no room");
        }
        let appended = home.object(&["as", "X is seen"]);
        assert_eq!(number(&appended, "fires"), 1);
        server.until_settled();
        drop(open);
    });
    run(async {
        // Those that were closed make room.
        let bearer = format!("Bearer {}", server.token());
        loop {
            let opened = Browser::open(&server, "/ws/web", &[("authorization", &bearer)]).await;
            if opened.is_ok() {
                break;
            }
        }
    });
    assert!(server.peak_memory_kib() < 256 * 1024, "{} KiB", server.peak_memory_kib());
}
