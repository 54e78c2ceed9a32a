//! A small plugin: it appends one JSON line to a file for each fire it gets.
//!
//! It knows nothing of axwatch but the protocol: it listens on the port it is given, says so on
//! standard output, answers `Metadata` and `Initialize`, and does `ExecuteJob`. The line is on the
//! disk before the answer leaves, so that a fire which counts as done is in the file, and a fire that
//! is delivered twice (after a crash, say) is there twice under one `job_id`.
//!
//! Configuration, in the plugin's own table: `file`, the path of that file. `examples/history.sh`
//! shows all of it.

use std::error::Error;
use std::sync::OnceLock;

use axwatch_proto::protocol::domain_plugin_service_server::{
    DomainPluginService, DomainPluginServiceServer,
};
use axwatch_proto::protocol::*;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tonic::codegen::BoxStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// The one handler.
const HANDLER: &str = "history.file";

type Reply<T> = Result<Response<T>, Status>;

struct HistoryPlugin {
    name: String,
    /// Open from Initialize on.
    file: OnceLock<Mutex<File>>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = argument("--port").ok_or("usage: example_plugin --port N [--name NAME]")?;
    let name = argument("--name").unwrap_or_else(|| "history".to_owned());
    let listener = TcpListener::bind(("127.0.0.1", port.parse::<u16>()?)).await?;
    println!("QNTX_PLUGIN_PORT={}", listener.local_addr()?.port());

    let plugin = HistoryPlugin { name, file: OnceLock::new() };
    tonic::transport::Server::builder()
        .add_service(DomainPluginServiceServer::new(plugin))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

/// The word after `flag` on the command line.
fn argument(flag: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != flag).nth(1)
}

impl HistoryPlugin {
    /// Writes one fire down, for good.
    async fn record(&self, job: &ExecuteJobRequest) -> Result<(), Box<dyn Error + Send + Sync>> {
        let file = self.file.get().ok_or("not initialized")?;
        let payload: serde_json::Value = serde_json::from_slice(&job.payload)?;
        let line = serde_json::json!({
            "job_id": job.job_id,
            "attempt": job.attempt,
            "watcher": job.watcher,
            "payload": payload,
        });
        let mut file = file.lock().await;
        file.write_all(format!("{line}\n").as_bytes()).await?;
        file.sync_data().await?;
        Ok(())
    }
}

#[tonic::async_trait]
impl DomainPluginService for HistoryPlugin {
    async fn metadata(&self, _: Request<Empty>) -> Reply<MetadataResponse> {
        Ok(Response::new(MetadataResponse {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            qntx_version: ">=0.1.0".to_owned(),
            description: "appends each fire to a file".to_owned(),
            ..Default::default()
        }))
    }

    async fn initialize(&self, request: Request<InitializeRequest>) -> Reply<InitializeResponse> {
        let config = request.into_inner().config;
        let path = config
            .get("file")
            .ok_or_else(|| Status::invalid_argument("set `file` in the plugin's own table"))?;
        let opened = OpenOptions::new().create(true).append(true).open(path).await;
        let file = opened
            .map_err(|error| Status::failed_precondition(format!("cannot open {path}: {error}")))?;
        self.file.get_or_init(|| Mutex::new(file));
        let handler_names = vec![HANDLER.to_owned()];
        Ok(Response::new(InitializeResponse { handler_names, ..Default::default() }))
    }

    async fn execute_job(&self, request: Request<ExecuteJobRequest>) -> Reply<ExecuteJobResponse> {
        let job = request.into_inner();
        if job.handler_name != HANDLER {
            return Err(Status::not_found(format!("no handler {:?}", job.handler_name)));
        }
        let done = self.record(&job).await;
        Ok(Response::new(ExecuteJobResponse {
            success: done.is_ok(),
            error: done.err().map(|error| error.to_string()).unwrap_or_default(),
            ..Default::default()
        }))
    }

    async fn health(&self, _: Request<Empty>) -> Reply<HealthResponse> {
        Ok(Response::new(HealthResponse { healthy: true, ..Default::default() }))
    }

    /// Nothing to put in order: every line is on the disk already.
    async fn shutdown(&self, _: Request<Empty>) -> Reply<Empty> {
        Ok(Response::new(Empty {}))
    }

    // What follows need not be served: a plugin that says so is a whole plugin.

    async fn config_schema(&self, _: Request<Empty>) -> Reply<ConfigSchemaResponse> {
        Err(Status::unimplemented("no schema"))
    }

    async fn register_glyphs(&self, _: Request<Empty>) -> Reply<GlyphDefResponse> {
        Err(Status::unimplemented("no glyphs"))
    }

    async fn parse_ax_query(&self, _: Request<ParseAxQueryRequest>) -> Reply<ParseAxQueryResponse> {
        Err(Status::unimplemented("no parser"))
    }

    async fn handle_http(&self, _: Request<HttpRequest>) -> Reply<HttpResponse> {
        Err(Status::unimplemented("no HTTP"))
    }

    type HandleWebSocketStream = BoxStream<WebSocketMessage>;

    async fn handle_web_socket(
        &self,
        _: Request<Streaming<WebSocketMessage>>,
    ) -> Result<Response<Self::HandleWebSocketStream>, Status> {
        Err(Status::unimplemented("no sockets"))
    }
}
