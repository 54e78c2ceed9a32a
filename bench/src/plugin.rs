//! The plugin of the benchmarks: a process of its own that answers every job at once.
//!
//! When it is told to, it also notes when which claim reached it: wall time, which both processes of
//! one machine share.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use axwatch_proto::protocol::domain_plugin_service_server::{
    DomainPluginService, DomainPluginServiceServer,
};
use axwatch_proto::protocol::{
    ConfigSchemaResponse, Empty, ExecuteJobRequest, ExecuteJobResponse, GlyphDefResponse,
    HealthResponse, HttpRequest, HttpResponse, InitializeRequest, InitializeResponse,
    MetadataResponse, ParseAxQueryRequest, ParseAxQueryResponse, WatcherRegistration,
    WebSocketMessage,
};
use tonic::codegen::BoxStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::claims::{PREDICATES, predicate};

/// Its configured name.
pub const NAME: &str = "bench";
/// The handler that it answers for.
pub const HANDLER: &str = "act";
/// Asks it to note arrivals from now on.
pub const RECORD: &str = "/record";
/// Asks for the arrivals since it was last asked, as JSON `[[claim id, nanoseconds since 1970], …]`.
pub const ARRIVALS: &str = "/arrivals";

/// Asks when it had its first job: nanoseconds since 1970, 0 before.
pub const FIRST: &str = "/first";

/// Serves until the process is told to go.
///
/// `port_file` gets the port, for whoever wants to call it beside the engine.
///
/// # Errors
/// When the port cannot be bound or the file not written.
pub async fn serve(port: u16, port_file: Option<PathBuf>) -> Result<()> {
    if let Some(file) = port_file {
        std::fs::write(&file, port.to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let service = DomainPluginServiceServer::new(BenchPlugin::default());
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let failed = || format!("cannot serve on {address}");
    let incoming = TcpIncoming::bind(address).with_context(failed)?;
    // As soon as it can be called; without this the host waits two seconds for it.
    println!("QNTX_PLUGIN_PORT={port}");
    let server = tonic::transport::Server::builder().add_service(service);
    server.serve_with_incoming(incoming.with_nodelay(Some(true))).await.with_context(failed)
}

/// Nanoseconds since 1970, by the clock that all processes share.
#[must_use]
pub fn wall_ns() -> u64 {
    let span = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Default)]
struct BenchPlugin {
    records: AtomicBool,
    first_ns: AtomicU64,
    arrivals: Mutex<Vec<(String, u64)>>,
}

impl BenchPlugin {
    fn note(&self, payload: &[u8]) {
        let arrival = (id_of(payload), wall_ns());
        self.arrivals.lock().expect("nobody panics while noting").push(arrival);
    }

    fn take_arrivals(&self) -> Vec<(String, u64)> {
        std::mem::take(&mut *self.arrivals.lock().expect("nobody panics while noting"))
    }
}

/// The id of a claim, without parsing the rest of it: it stands first, and needs no escapes.
fn id_of(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(payload);
    text.split('"').nth(3).unwrap_or_default().to_owned()
}

#[tonic::async_trait]
impl DomainPluginService for BenchPlugin {
    async fn metadata(&self, _: Request<Empty>) -> Result<Response<MetadataResponse>, Status> {
        let name = NAME.to_owned();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Response::new(MetadataResponse { name, version, ..MetadataResponse::default() }))
    }

    async fn initialize(
        &self,
        _: Request<InitializeRequest>,
    ) -> Result<Response<InitializeResponse>, Status> {
        let watchers = (0..PREDICATES).map(|number| WatcherRegistration {
            id: format!("measured-{number}"),
            handler_name: HANDLER.to_owned(),
            predicates: vec![predicate(number)],
            ..WatcherRegistration::default()
        });
        Ok(Response::new(InitializeResponse {
            handler_names: vec![HANDLER.to_owned()],
            watchers: watchers.collect(),
            ..InitializeResponse::default()
        }))
    }

    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn handle_http(
        &self,
        request: Request<HttpRequest>,
    ) -> Result<Response<HttpResponse>, Status> {
        let body = match request.get_ref().path.as_str() {
            RECORD => {
                self.records.store(true, Ordering::Relaxed);
                Vec::new()
            }
            FIRST => self.first_ns.load(Ordering::Relaxed).to_string().into_bytes(),
            ARRIVALS => serde_json::to_vec(&self.take_arrivals()).expect("these are JSON"),
            other => return Err(Status::not_found(other.to_owned())),
        };
        Ok(Response::new(HttpResponse { status_code: 200, headers: Vec::new(), body: body.into() }))
    }

    type HandleWebSocketStream = BoxStream<WebSocketMessage>;

    async fn handle_web_socket(
        &self,
        _: Request<Streaming<WebSocketMessage>>,
    ) -> Result<Response<Self::HandleWebSocketStream>, Status> {
        Err(Status::unimplemented("no browser comes here"))
    }

    async fn health(&self, _: Request<Empty>) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(HealthResponse { healthy: true, ..HealthResponse::default() }))
    }

    async fn config_schema(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<ConfigSchemaResponse>, Status> {
        Err(Status::unimplemented("nothing to configure"))
    }

    async fn register_glyphs(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<GlyphDefResponse>, Status> {
        Err(Status::unimplemented("nothing to show"))
    }

    async fn execute_job(
        &self,
        request: Request<ExecuteJobRequest>,
    ) -> Result<Response<ExecuteJobResponse>, Status> {
        if self.first_ns.load(Ordering::Relaxed) == 0 {
            // Another that is first too was so in the same instant.
            self.first_ns.store(wall_ns(), Ordering::Relaxed);
        }
        if self.records.load(Ordering::Relaxed) {
            self.note(&request.get_ref().payload);
        }
        Ok(Response::new(ExecuteJobResponse { success: true, ..ExecuteJobResponse::default() }))
    }

    async fn parse_ax_query(
        &self,
        _: Request<ParseAxQueryRequest>,
    ) -> Result<Response<ParseAxQueryResponse>, Status> {
        Err(Status::unimplemented("the host parses AX"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::{Actors, Maker};

    #[test]
    fn the_id_is_found_in_a_payload() {
        let claim = Maker::new(3, Actors::OwnId).claim().attestation;
        assert_eq!(id_of(&claim.payload()), claim.id.as_str());
        assert_eq!(id_of(b"no claim"), "");
    }
}
