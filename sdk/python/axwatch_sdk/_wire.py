"""The calls between a plugin and its host, by their names on the wire.

Written by hand, so that nothing here is bound to a version of grpcio's generated code.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Tuple

import grpc

from ._proto import attestation_pb2, plugin_pb2, queue_pb2

#: Bytes of one message of a host or to it, HTTP bodies apart.
MESSAGE_BYTES_MAX = 17 * 1024 * 1024
#: Bytes of one HTTP body, as high as a host may be configured, and what goes with it.
BODY_BYTES_MAX = 101 * 1024 * 1024

#: How a channel to a host or a plugin is made. They are on this machine, whatever proxy is configured.
CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", BODY_BYTES_MAX),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

#: How a server of ours is made. A port that is taken is an error, not to be shared.
SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", BODY_BYTES_MAX),
    ("grpc.max_send_message_length", BODY_BYTES_MAX),
)

_Method = Tuple[Any, Any, str]

PLUGIN: Dict[str, _Method] = {
    "Metadata": (plugin_pb2.Empty, plugin_pb2.MetadataResponse, "unary"),
    "Initialize": (plugin_pb2.InitializeRequest, plugin_pb2.InitializeResponse, "unary"),
    "Shutdown": (plugin_pb2.Empty, plugin_pb2.Empty, "unary"),
    "HandleHTTP": (plugin_pb2.HTTPRequest, plugin_pb2.HTTPResponse, "unary"),
    "HandleWebSocket": (plugin_pb2.WebSocketMessage, plugin_pb2.WebSocketMessage, "both"),
    "Health": (plugin_pb2.Empty, plugin_pb2.HealthResponse, "unary"),
    "ConfigSchema": (plugin_pb2.Empty, plugin_pb2.ConfigSchemaResponse, "unary"),
    "RegisterGlyphs": (plugin_pb2.Empty, plugin_pb2.GlyphDefResponse, "unary"),
    "ExecuteJob": (plugin_pb2.ExecuteJobRequest, plugin_pb2.ExecuteJobResponse, "unary"),
    "ParseAxQuery": (plugin_pb2.ParseAxQueryRequest, plugin_pb2.ParseAxQueryResponse, "unary"),
}

STORE: Dict[str, _Method] = {
    "AttestationExists": (
        attestation_pb2.AttestationExistsRequest,
        attestation_pb2.AttestationExistsResponse,
        "unary",
    ),
    "GenerateAndCreateAttestation": (
        attestation_pb2.GenerateAttestationRequest,
        attestation_pb2.GenerateAttestationResponse,
        "unary",
    ),
    "BatchGenerateAndCreateAttestations": (
        attestation_pb2.BatchGenerateAttestationRequest,
        attestation_pb2.BatchGenerateAttestationResponse,
        "unary",
    ),
    "GetAttestations": (
        attestation_pb2.GetAttestationsRequest,
        attestation_pb2.GetAttestationsResponse,
        "unary",
    ),
    "GetAttestationsStream": (
        attestation_pb2.GetAttestationsRequest,
        attestation_pb2.Attestation,
        "stream",
    ),
}

QUEUE: Dict[str, _Method] = {
    "UpdateJob": (queue_pb2.UpdateJobRequest, queue_pb2.UpdateJobResponse, "unary"),
}

SERVICES = {
    "protocol.DomainPluginService": PLUGIN,
    "protocol.ATSStoreService": STORE,
    "protocol.QueueService": QUEUE,
}


class Client:
    """The calls of one service over a channel: `client("Metadata")` is what makes them."""

    def __init__(self, channel: grpc.Channel, service: str) -> None:
        self._calls: Dict[str, Any] = {}
        for name, (request, reply, kind) in SERVICES[service].items():
            make = {
                "unary": channel.unary_unary,
                "stream": channel.unary_stream,
                "both": channel.stream_stream,
            }[kind]
            self._calls[name] = make(
                f"/{service}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=reply.FromString,
            )

    def __call__(self, name: str) -> Any:
        return self._calls[name]


def serve(server: grpc.Server, service: str, calls: Dict[str, Callable[..., Any]]) -> None:
    """Adds a service, of which some calls are answered and the rest are UNIMPLEMENTED."""
    handlers: Dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for name, call in calls.items():
        request, reply, kind = SERVICES[service][name]
        make = {
            "unary": grpc.unary_unary_rpc_method_handler,
            "stream": grpc.unary_stream_rpc_method_handler,
            "both": grpc.stream_stream_rpc_method_handler,
        }[kind]
        handlers[name] = make(
            call, request_deserializer=request.FromString, response_serializer=reply.SerializeToString
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


def status_text(error: BaseException) -> str:
    """A status in one line."""
    if not isinstance(error, grpc.Call):
        return str(error)
    return error.details() or error.code().name
