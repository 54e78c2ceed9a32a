"""A plugin under test: run over real gRPC on a port of loopback, against a host in memory.

The host keeps its promises to plugins (tokens, ids that stand for one content, the same claims from every
attempt at a job, batches that stand or fall as a whole), so that a test sees what a plugin really did. No
engine is needed, and nothing fires by itself: a test says which job is to be done, and looks at what came of it.

    with Harness(plugin, {"greeting": "Good day"}) as harness:
        job = TestJob("greet.hello").fire(Claim("ALICE", "author", "GitHub"))
        harness.execute(job).expect_done()
        harness.execute(job.attempt(2)).expect_done()
        assert len(harness.claims()) == 1, "the second attempt makes the same claim"
"""

from __future__ import annotations

import copy
import itertools
import json
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Type, Union
from urllib.parse import urlencode

import grpc

from .._proto import plugin_pb2
from .._service import Service
from .._wire import BODY_BYTES_MAX, CHANNEL_OPTIONS, SERVER_OPTIONS, Client, status_text
from ..claim import Attestation, Claim
from ..failure import Failure, NotNow, Permanent, Retry
from ..http import Response
from ..plugin import Health, Plugin
from .fake_host import TOKEN, FakeHost

__all__ = ["Announced", "Harness", "Outcome", "TestJob"]

_numbers = itertools.count(1)

_FOR_GOOD = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
)


class TestJob:
    """A job to be sent. A new one has an id that no other has, and is at its first attempt.

    Each method answers with a new value.
    """

    __test__ = False  # pytest would take it for a test.

    def __init__(self, handler: str) -> None:
        """For this handler, with an empty payload."""
        self._request = plugin_pb2.ExecuteJobRequest(
            job_id=f"{next(_numbers):032x}", handler_name=handler, attempt=1
        )

    @property
    def id(self) -> str:
        """Its id."""
        return self._request.job_id

    def payload(self, payload: Union[bytes, str]) -> "TestJob":
        """Any bytes."""
        return self._with(payload=payload.encode() if isinstance(payload, str) else payload)

    def payload_json(self, payload: Any) -> "TestJob":
        """A value as JSON."""
        return self.payload(json.dumps(payload))

    def fire(self, claim: Claim) -> "TestJob":
        """The payload of a fire: this claim, with its gaps filled as a host does. The claim itself is not put
        into the log; `Harness.append` does that."""
        given = Attestation._from_wire(FakeHost().give(claim._command()))
        return self.payload_json(given.to_json())

    def params(self, params: Any) -> "TestJob":
        """The parameters of the watcher."""
        return self._with(params=json.dumps(params).encode())

    def attempt(self, attempt: int) -> "TestJob":
        """Which attempt it is, from 1; 0 for a host that does not say."""
        return self._with(attempt=attempt)

    def watcher(self, watcher: str) -> "TestJob":
        """The watcher that fired, as it is shown."""
        return self._with(watcher=watcher)

    def deadline(self, seconds: int) -> "TestJob":
        """How long the plugin is told that the host waits. The harness itself waits for as long as it takes."""
        return self._with(timeout_secs=seconds)

    def _with(self, **fields: Any) -> "TestJob":
        other = copy.copy(self)
        other._request = plugin_pb2.ExecuteJobRequest()
        other._request.CopyFrom(self._request)
        for name, value in fields.items():
            setattr(other._request, name, value)
        return other


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt."""

    #: Why it is not done; none when it is.
    failure: Optional[Failure] = None
    #: What came of it.
    result: bytes = b""
    #: How far it got: current and total.
    progress: Optional[Tuple[int, int]] = None
    #: What it cost.
    cost: float = 0.0
    #: What it had to say: level and message.
    log: List[Tuple[str, str]] = field(default_factory=list)

    def expect_done(self) -> "Outcome":
        """The same, of a job that must be done."""
        if self.failure is not None:
            kind = type(self.failure).__name__
            raise AssertionError(f"the job is not done: {kind}: {self.failure.reason}; log: {self.log}")
        return self

    def expect_failure(self) -> Failure:
        """Why a job is not done that must not be."""
        if self.failure is None:
            raise AssertionError(f"the job is done, with the result {self.result!r}")
        return self.failure

    def result_json(self) -> Any:
        """The result, read as JSON."""
        return json.loads(self.result)


@dataclass(frozen=True)
class Announced:
    """What a plugin said at Initialize."""

    handlers: List[str]
    #: The keys of each are those of `WatcherRegistration` on the wire.
    watchers: List[Dict[str, Any]]
    schedules: List[Dict[str, Any]]
    routes: List[Tuple[str, str]]


class Harness:
    """A plugin that runs beside its test, and the host that it speaks with. Both end with the `with` block."""

    def __init__(
        self, plugin: Plugin, config: Optional[Mapping[str, str]] = None, *, start: bool = True
    ) -> None:
        """Starts a plugin with this table of its own, values as text. What its `on_start` refuses is raised;
        "not now" arrives as `Retry`.

        With `start=False` it waits for `start()`, so that `append`, `answer_ax` and `fail_next_call` can say before
        what its `on_start` finds at the host."""
        self._config = dict(config or {})
        self._host = FakeHost()
        self._host.plugin = plugin.name
        self._host_server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=SERVER_OPTIONS)
        self._host.add_to(self._host_server)
        self._endpoint = f"127.0.0.1:{self._host_server.add_insecure_port('127.0.0.1:0')}"
        self._host_server.start()
        self._plugin_server = Service(plugin).server()
        #: Where the plugin listens, for a test that speaks gRPC itself.
        self.address = f"127.0.0.1:{self._plugin_server.add_insecure_port('127.0.0.1:0')}"
        self._plugin_server.start()
        # Of two of one name the first counts.
        options = [("grpc.max_receive_message_length", BODY_BYTES_MAX), *CHANNEL_OPTIONS]
        self._channel = grpc.insecure_channel(self.address, options=options)
        self._client = Client(self._channel, "protocol.DomainPluginService")
        #: What the plugin said at its last Initialize.
        self.announced = Announced([], [], [], [])
        if not start:
            return
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Starts a plugin that was made with `start=False`. What its `on_start` refuses is raised, and it may be
        started again, as a host does."""
        self.reconfigure(self._config)

    def reconfigure(self, config: Mapping[str, str]) -> None:
        """Initializes the plugin again, as a host does when the configuration changed."""
        request = plugin_pb2.InitializeRequest(
            ats_store_endpoint=self._endpoint, queue_endpoint=self._endpoint, auth_token=TOKEN, config=config
        )
        try:
            reply = self._client("Initialize")(request, wait_for_ready=True)
        except grpc.RpcError as error:
            raise _failure_of_status(error) from None
        self.announced = Announced(
            list(reply.handler_names),
            [_plain(watcher) for watcher in reply.watchers],
            [_plain(schedule) for schedule in reply.schedules],
            [(route.method, route.path) for route in reply.http_routes],
        )

    def execute(self, job: TestJob) -> Outcome:
        """Sends a job and waits for what comes of it."""
        return self.begin(job).outcome()

    def begin(self, job: TestJob) -> "Running":
        """Sends a job and does not wait."""
        self._host.begin(job.id, job._request.attempt)
        return Running(self._client("ExecuteJob").future(job._request))

    def append(self, claim: Claim) -> Attestation:
        """Puts a claim into the log, as if somebody had made it before."""
        return Attestation._from_wire(self._host.give(claim._command()))

    def answer_ax(self, query: str, claims: Iterable[Claim]) -> None:
        """Says what an AX text finds, newest first: the harness does not speak AX. Without this the question
        is refused, with a text that says so."""
        self._host.answer_ax(query, [claim._command() for claim in claims])

    def fail_next_call(self, error: str) -> None:
        """Makes the plugin's next call to the host fail with this error, such as
        `unavailable: the disk is full`. May be called several times for several calls. Live progress is such a
        call too."""
        self._host.fail_next_call(error)

    def claims(self) -> List[Attestation]:
        """The claims that the plugin made, oldest first. One that was made twice under the same id is there
        once."""
        return [Attestation._from_wire(claim) for claim in self._host.made()]

    def progress_of(self, job_id: str) -> List[Tuple[int, int]]:
        """The progress of a job that reached the host while it ran, oldest first."""
        return self._host.progress_of(job_id)

    def health(self) -> Health:
        """Whether the plugin says that it can do its work."""
        said = self._client("Health")(plugin_pb2.Empty())
        return Health(said.healthy, said.message, dict(said.details))

    def request(
        self,
        method: str,
        path: str,
        body: Union[bytes, str] = b"",
        headers: Optional[Mapping[str, str]] = None,
    ) -> Response:
        """Sends an HTTP request: `path` is what follows `/api/{plugin}`, with the query."""
        sent = [plugin_pb2.HTTPHeader(name=name, values=[value]) for name, value in (headers or {}).items()]
        body = body.encode() if isinstance(body, str) else body
        request = plugin_pb2.HTTPRequest(method=method, path=path, headers=sent, body=body)
        reply = self._client("HandleHTTP")(request)
        answered = {header.name: list(header.values) for header in reply.headers}
        return Response(reply.body, status=reply.status_code, headers=answered)

    def socket(
        self,
        frames: Iterable[plugin_pb2.WebSocketMessage],
        query: Optional[Mapping[str, Union[str, Sequence[str]]]] = None,
    ) -> Iterator[plugin_pb2.WebSocketMessage]:
        """Opens a browser socket that sends these frames, CONNECT first; gives what comes back. `query` is put
        behind the path of CONNECT, as a host does."""
        written = urlencode(query or {}, doseq=True)
        answers: Iterator[plugin_pb2.WebSocketMessage] = self._client("HandleWebSocket")(
            _with_query(frames, written) if written else iter(frames)
        )
        return answers

    def shutdown(self) -> None:
        """Calls Shutdown, as a host does before it ends the process."""
        self._client("Shutdown")(plugin_pb2.Empty())

    def close(self) -> None:
        """Ends the plugin and the host."""
        self._channel.close()
        for server in (self._plugin_server, self._host_server):
            server.stop(None).wait(5)

    def __enter__(self) -> "Harness":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: object, trace: object) -> None:
        self.close()


class Running:
    """A job under way."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def cancel(self) -> None:
        """Gives up on it, as a host does when its time is up."""
        self._call.cancel()

    def outcome(self) -> Outcome:
        """Waits for what comes of it."""
        try:
            return _outcome(self._call.result())
        except grpc.FutureCancelledError:
            return Outcome(Retry("the harness gave up on it"))
        except grpc.RpcError as error:
            return Outcome(_failure_of_status(error))


def _with_query(
    frames: Iterable[plugin_pb2.WebSocketMessage], query: str
) -> Iterator[plugin_pb2.WebSocketMessage]:
    """The same frames, with the query behind the path of the first."""
    for index, frame in enumerate(frames):
        if index == 0:
            given, frame = frame, plugin_pb2.WebSocketMessage()
            frame.CopyFrom(given)
            path = frame.headers.get("path", "/")
            frame.headers["path"] = f"{path}{'&' if '?' in path else '?'}{query}"
        yield frame


def _outcome(reply: plugin_pb2.ExecuteJobResponse) -> Outcome:
    progress = (reply.progress_current, reply.progress_total)
    failure: Optional[Failure] = None
    if not reply.success and reply.permanent:
        failure = Permanent(reply.error)
    elif not reply.success and reply.retry_after_ms > 0:
        failure = NotNow(reply.error, after=reply.retry_after_ms / 1_000)
    elif not reply.success:
        failure = Retry(reply.error)
    log = [(entry.level, entry.message) for entry in reply.log_entries]
    return Outcome(failure, reply.result, progress if progress != (0, 0) else None, reply.cost_actual, log)


def _failure_of_status(error: grpc.RpcError) -> Failure:
    """As a host reads it."""
    assert isinstance(error, grpc.Call), "an error of a call says its code"
    reason = status_text(error)
    if error.code() in _FOR_GOOD:
        return Permanent(reason)
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return NotNow(reason)
    return Retry(reason)


def _plain(message: Any) -> Dict[str, Any]:
    """The fields of a message that say something."""
    found: Dict[str, Any] = {}
    for field_, value in message.ListFields():
        found[field_.name] = value if isinstance(value, (str, bytes, int, float)) else list(value)
    return found
