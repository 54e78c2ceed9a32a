//! A plugin's server whose answers a test decides.

use std::pin::Pin;

use axwatch_proto::protocol::domain_plugin_service_server::{
    DomainPluginService, DomainPluginServiceServer,
};
use axwatch_proto::protocol::{
    ConfigSchemaResponse, Empty, ExecuteJobRequest, ExecuteJobResponse, GlyphDefResponse,
    HealthResponse, HttpRequest, HttpResponse, InitializeRequest, InitializeResponse,
    MetadataResponse, ParseAxQueryRequest, ParseAxQueryResponse, WebSocketMessage,
};
use futures::Stream;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// What is answered to one kind of request.
pub(super) type Answer<Q, A> =
    Box<dyn Fn(Q) -> BoxFuture<'static, Result<A, Status>> + Send + Sync>;

/// Makes an [`Answer`] of an async closure.
pub(super) fn answer<Q, A, F>(f: impl Fn(Q) -> F + Send + Sync + 'static) -> Answer<Q, A>
where
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    Box::new(move |request| Box::pin(f(request)))
}

pub(super) struct Fake {
    pub(super) metadata: MetadataResponse,
    pub(super) initialize: Answer<InitializeRequest, InitializeResponse>,
    pub(super) execute: Answer<Request<ExecuteJobRequest>, ExecuteJobResponse>,
    pub(super) http: Answer<HttpRequest, HttpResponse>,
    pub(super) socket: Answer<Request<Streaming<WebSocketMessage>>, Frames>,
    pub(super) config_schema: Answer<Empty, ConfigSchemaResponse>,
    pub(super) health: Answer<Empty, HealthResponse>,
}

/// The frames of a socket that a plugin sends.
pub(super) type Frames = Pin<Box<dyn Stream<Item = Result<WebSocketMessage, Status>> + Send>>;

impl Fake {
    /// A plugin with this name that has nothing and does everything.
    pub(super) fn named(name: &str) -> Fake {
        let done = ExecuteJobResponse { success: true, ..Default::default() };
        Fake {
            metadata: MetadataResponse {
                name: name.into(),
                version: "1.2.3".into(),
                ..Default::default()
            },
            initialize: answer(|_| async { Ok(InitializeResponse::default()) }),
            execute: answer(move |_| {
                let done = done.clone();
                async { Ok(done) }
            }),
            http: answer(|_| async { Err(Status::unimplemented("no HTTP")) }),
            socket: answer(|_| async { Err(Status::unimplemented("no sockets")) }),
            config_schema: answer(|_| async { Err(Status::unimplemented("no schema")) }),
            health: answer(|_| async {
                Ok(HealthResponse { healthy: true, ..Default::default() })
            }),
        }
    }

    /// Serves for as long as the process lives, or until this is dropped.
    pub(super) async fn serve(self, listener: TcpListener) {
        // As large as any that the host sends.
        let service = DomainPluginServiceServer::new(self).max_decoding_message_size(256 << 20);
        Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
            .await
            .unwrap();
    }
}

#[tonic::async_trait]
impl DomainPluginService for Fake {
    async fn metadata(&self, _: Request<Empty>) -> Result<Response<MetadataResponse>, Status> {
        Ok(Response::new(self.metadata.clone()))
    }

    async fn initialize(
        &self,
        request: Request<InitializeRequest>,
    ) -> Result<Response<InitializeResponse>, Status> {
        (self.initialize)(request.into_inner()).await.map(Response::new)
    }

    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn handle_http(
        &self,
        request: Request<HttpRequest>,
    ) -> Result<Response<HttpResponse>, Status> {
        (self.http)(request.into_inner()).await.map(Response::new)
    }

    type HandleWebSocketStream = Frames;

    async fn handle_web_socket(
        &self,
        request: Request<Streaming<WebSocketMessage>>,
    ) -> Result<Response<Frames>, Status> {
        (self.socket)(request).await.map(Response::new)
    }

    async fn health(&self, _: Request<Empty>) -> Result<Response<HealthResponse>, Status> {
        (self.health)(Empty {}).await.map(Response::new)
    }

    async fn config_schema(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<ConfigSchemaResponse>, Status> {
        (self.config_schema)(Empty {}).await.map(Response::new)
    }

    async fn register_glyphs(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<GlyphDefResponse>, Status> {
        Err(Status::unimplemented("no glyphs"))
    }

    async fn execute_job(
        &self,
        request: Request<ExecuteJobRequest>,
    ) -> Result<Response<ExecuteJobResponse>, Status> {
        (self.execute)(request).await.map(Response::new)
    }

    async fn parse_ax_query(
        &self,
        _: Request<ParseAxQueryRequest>,
    ) -> Result<Response<ParseAxQueryResponse>, Status> {
        Err(Status::unimplemented("no AX"))
    }
}
