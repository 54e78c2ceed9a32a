//! What a plugin in mode `serves` answers to browsers: HTTP and sockets, by their paths.

use std::pin::Pin;

use axwatch_proto::protocol::web_socket_message::Type;
use axwatch_proto::protocol::{HttpHeader, HttpRequest, HttpResponse, WebSocketMessage};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Status, Streaming};

/// What a socket of this plugin is for the wire.
pub type Frames = Pin<Box<dyn Stream<Item = Result<WebSocketMessage, Status>> + Send>>;

/// Answers a request. `/echo` tells what came, and the others are named by what they do.
pub async fn http(request: HttpRequest) -> Result<HttpResponse, Status> {
    let path = request.path.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let plain = |status_code: i32, body: Vec<u8>| HttpResponse {
        status_code,
        headers: vec![header("Content-Type", &["text/plain"])],
        body: body.into(),
    };
    Ok(match parts[..] {
        ["echo", ..] | [""] => {
            let headers: serde_json::Map<_, _> = request
                .headers
                .iter()
                .map(|header| (header.name.clone(), json!(header.values)))
                .collect();
            let told = json!({
                "method": request.method,
                "path": request.path,
                "headers": headers,
                "body": String::from_utf8_lossy(&request.body),
            });
            HttpResponse {
                status_code: 201,
                headers: vec![
                    header("Content-Type", &["application/json"]),
                    header("Set-Cookie", &["a=1", "axwatch_session_1=stolen", "b=2"]),
                    header("Connection", &["x-hop"]),
                    header("X-Hop", &["1"]),
                    header("X-Kept", &["1"]),
                ],
                body: told.to_string().into_bytes().into(),
            }
        }
        ["length"] => plain(200, request.body.len().to_string().into_bytes()),
        ["api", _, "prefixed"] => plain(200, b"prefixed".to_vec()),
        ["status", number] => plain(number.parse().unwrap_or(0), b"<h1>so</h1>".to_vec()),
        ["told-length", bytes] => HttpResponse {
            status_code: 200,
            headers: vec![header("Content-Length", &[bytes])],
            ..HttpResponse::default()
        },
        ["large", bytes] => plain(200, vec![b'x'; bytes.parse().unwrap_or(0)]),
        ["bad-header"] => HttpResponse {
            status_code: 200,
            headers: vec![header("bad header", &["x"])],
            ..HttpResponse::default()
        },
        ["bad-value"] => HttpResponse {
            status_code: 200,
            headers: vec![header("X-Split", &["a\r\nSet-Cookie: b=c"])],
            ..HttpResponse::default()
        },
        ["many-headers"] => HttpResponse {
            status_code: 200,
            headers: (0..300).map(|number| header(&format!("x-{number}"), &["y"])).collect(),
            ..HttpResponse::default()
        },
        ["hang"] => std::future::pending().await,
        ["exit"] => std::process::exit(9),
        ["unimplemented"] => return Err(Status::unimplemented("not this")),
        ["broken"] => return Err(Status::internal("it broke")),
        _ => plain(404, b"<h1>nothing here</h1>".to_vec()),
    })
}

fn header(name: &str, values: &[&str]) -> HttpHeader {
    let values = values.iter().map(|&value| value.to_owned()).collect();
    HttpHeader { name: name.to_owned(), values }
}

/// Serves a socket as its CONNECT says in `path`, and echoes by default.
pub fn socket(frames: Streaming<WebSocketMessage>, room: String) -> Frames {
    let (sink, sent) = mpsc::channel(1);
    tokio::spawn(async move {
        // Without a reader there is nobody to serve.
        let _ = serve(frames, sink, room).await;
    });
    Box::pin(ReceiverStream::new(sent))
}

type Sink = mpsc::Sender<Result<WebSocketMessage, Status>>;

async fn serve(
    mut frames: Streaming<WebSocketMessage>,
    sink: Sink,
    room: String,
) -> Result<(), mpsc::error::SendError<Result<WebSocketMessage, Status>>> {
    let Some(Ok(connect)) = frames.next().await else { return Ok(()) };
    if connect.r#type() != Type::Connect {
        return sink.send(Ok(message(Type::Error, b"CONNECT did not come first"))).await;
    }
    let path = connect.headers.get("path").cloned().unwrap_or_default();
    match path.split('?').next().unwrap_or_default() {
        "/close" => return sink.send(Ok(message(Type::Close, b"enough"))).await,
        "/error" => return sink.send(Ok(message(Type::Error, b"it broke"))).await,
        "/status" => return sink.send(Err(Status::internal("it broke"))).await,
        "/large" => return sink.send(Ok(message(Type::Data, &vec![1; 17 << 20]))).await,
        "/flood" => loop {
            tokio::select! {
                sent = sink.send(Ok(message(Type::Data, &[b'x'; 64 * 1024]))) => sent?,
                Some(Ok(frame)) = frames.next() => if frame.r#type() == Type::Close {
                    closed(&frame);
                    return Ok(());
                },
            }
        },
        _ => {}
    }
    let answers_pings = path != "/mute";
    sink.send(Ok(message(Type::Data, format!("in {room}").as_bytes()))).await?;
    while let Some(Ok(frame)) = frames.next().await {
        match frame.r#type() {
            Type::Data => sink.send(Ok(frame)).await?,
            Type::Ping if answers_pings => {
                let pong = WebSocketMessage { r#type: Type::Pong.into(), ..frame };
                sink.send(Ok(pong)).await?;
            }
            Type::Close => {
                closed(&frame);
                return Ok(());
            }
            _ => {}
        }
    }
    println!("socket ended");
    Ok(())
}

/// Tells the log how a socket was closed.
fn closed(frame: &WebSocketMessage) {
    println!("socket closed: {}", String::from_utf8_lossy(&frame.data));
}

fn message(kind: Type, data: &[u8]) -> WebSocketMessage {
    let data = data.to_vec().into();
    WebSocketMessage { r#type: kind.into(), data, ..WebSocketMessage::default() }
}
