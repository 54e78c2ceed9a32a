"""The gRPC service around a plugin: what a host calls.

In: calls of one host. Out: jobs for the handlers, and what came of them in the host's words. Nothing survives
a crash here, and nothing has to: jobs and watchers are the host's.

Every call has a thread while it is answered. How many of each kind run at once is counted, and stays below the
number of threads: a call of Health never waits for a job.

Not here: arguments, signals and the log of the process (`run`).
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent import futures
from typing import Any, Callable, Dict, Iterator, Optional, Set

import grpc

from . import http, socket
from ._call import called
from ._proto import plugin_pb2
from ._text import cut
from ._wire import SERVER_OPTIONS, serve
from .config import Config
from .failure import Failure, NotNow, Permanent, Retry, chain
from .host import Host, channel
from .job import Done, Job
from .log import job_fields
from .plugin import Declarations, Handler, Health, Plugin, Start
from .progress import Queue

# Bytes of a result, so that the job's log fits beside it into the 8 MiB that a host takes.
_RESULT_BYTES_MAX = 6 * 1024 * 1024
# Bytes of a failure's reason. A host keeps 4 KiB.
_REASON_BYTES_MAX = 64 * 1024
# Seconds of "not now", which travel as 63 bits of milliseconds. A host makes a day of more.
_AFTER_MAX = 2**63 / 1_000
# Bytes of a gRPC status, which travels as a header.
_STATUS_BYTES_MAX = 2 * 1024
# HTTP requests and sockets at once.
_REQUESTS_MAX = 64
_SOCKETS_MAX = 64
# Threads for all other calls.
_SPARE_THREADS = 32
# How long Shutdown waits for the running jobs: a host waits 5 s for all of it.
JOBS_WITHIN = 4.0

_Code = grpc.StatusCode
_log = logging.getLogger("axwatch")


class Status(Exception):
    """A call that is answered with a gRPC status."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = cut(text, _STATUS_BYTES_MAX)


class _Session:
    """What the last Initialize brought."""

    def __init__(self, config: Config, host: Host, queue: Optional[Queue], declared: Declarations) -> None:
        self.config = config
        self.host = host
        self.queue = queue
        self.declared = declared


class _Room:
    """So many at once, and no more."""

    def __init__(self, most: int, what: str) -> None:
        self._places = threading.BoundedSemaphore(most)
        self._full = f"{most} {what} are under way"

    def __enter__(self) -> None:
        if not self._places.acquire(blocking=False):
            raise Status(_Code.RESOURCE_EXHAUSTED, self._full)

    def __exit__(self, *_: object) -> None:
        self._places.release()


class Service:
    """A plugin as a service of one process."""

    def __init__(self, plugin: Plugin, dismissed: Callable[[], None] = lambda: None) -> None:
        """`dismissed` is called when nothing more is to be done here than to answer what was asked."""
        self._plugin = plugin
        self._dismissed = dismissed
        self._session: Optional[_Session] = None
        self._changed = threading.Condition()
        self._running: Set[Job] = set()
        self._is_closed = False
        self._ending = threading.Lock()
        self._has_ended = False
        self._job_room = _Room(plugin.jobs_max, "jobs")
        self._request_room = _Room(_REQUESTS_MAX, "requests")
        self._socket_room = _Room(_SOCKETS_MAX, "sockets")

    def server(self) -> grpc.Server:
        """A server of this service, that listens nowhere yet."""
        threads = self._plugin.jobs_max + _REQUESTS_MAX + _SOCKETS_MAX + _SPARE_THREADS
        pool = futures.ThreadPoolExecutor(max_workers=threads, thread_name_prefix="axwatch")
        server = grpc.server(pool, options=SERVER_OPTIONS)
        calls: Dict[str, Callable[..., Any]] = {
            "Metadata": _answering(self._metadata),
            "Initialize": _answering(self._initialize),
            "Shutdown": _answering(self._shut_down),
            "Health": _answering(self._health),
            "ExecuteJob": _answering(self._execute),
        }
        # What need not be served is UNIMPLEMENTED, which is how a whole plugin says so.
        if self._plugin._fields:
            calls["ConfigSchema"] = _answering(self._config_schema)
        # Routes may yet come: what starts it may declare some.
        if self._plugin._declared.routes or self._plugin._start is not None:
            calls["HandleHTTP"] = _answering(self._handle_http)
        if self._plugin._socket is not None:
            calls["HandleWebSocket"] = self._handle_socket
        serve(server, "protocol.DomainPluginService", calls)
        return server

    @property
    def running(self) -> int:
        """How many jobs are under way."""
        with self._changed:
            return len(self._running)

    def end(self, jobs_within: float) -> None:
        """Takes no more jobs, waits for those that run, at most this long, and gives the plugin its last
        words, once. Who comes second waits for the first."""
        with self._changed:
            self._is_closed = True
        with self._ending:
            if self._has_ended:
                return
            self._has_ended = True
            deadline = time.monotonic() + jobs_within
            with self._changed:
                self._changed.wait_for(lambda: not self._running, max(deadline - time.monotonic(), 0))
                left = list(self._running)
            if left:
                _log.warning("ending, although jobs are running: %d", len(left))
            for job in left:
                job._process_ends()
            if self._plugin._shutdown is not None:
                try:
                    called(self._plugin._shutdown)
                except Exception:
                    _log.exception("on_shutdown failed")

    # What a host calls.

    def _metadata(self, _: Any, context: grpc.ServicerContext) -> plugin_pb2.MetadataResponse:
        plugin = self._plugin
        return plugin_pb2.MetadataResponse(
            name=plugin.name,
            version=plugin.version,
            qntx_version=plugin.protocol,
            description=plugin.description,
            author=plugin.author,
            license=plugin.license,
        )

    def _initialize(
        self, request: plugin_pb2.InitializeRequest, context: grpc.ServicerContext
    ) -> plugin_pb2.InitializeResponse:
        with self._plugin._starting:
            try:
                return self._start(request)
            except Permanent as failure:
                _log.error("initialize failed: %s", failure.reason)
                raise Status(_Code.FAILED_PRECONDITION, failure.reason) from None
            except Failure as failure:
                _log.error("initialize failed: %s", failure.reason)
                raise Status(_Code.UNAVAILABLE, failure.reason) from None

    def _start(self, request: plugin_pb2.InitializeRequest) -> plugin_pb2.InitializeResponse:
        plugin, token = self._plugin, request.auth_token
        config = Config(request.config)
        host = Host(request.ats_store_endpoint, token)
        queue = Queue(channel(request.queue_endpoint), token) if request.queue_endpoint else None
        before = plugin._declared.copy()
        try:
            if plugin._start is not None:
                try:
                    called(plugin._start, Start(config, host))
                except Failure:
                    raise
                except Exception as error:
                    _log.exception("on_start failed")
                    raise Retry(f"on_start: {chain(error)}") from None
            try:
                watchers = [watcher._to_wire() for watcher in plugin.watchers()]
                schedules = [schedule._to_wire() for schedule in plugin.schedules()]
            except ValueError as mistake:
                raise Permanent(mistake) from None
            declared = plugin._declared
        finally:
            # What `on_start` declared is of this session. The next begins where this one did.
            plugin._declared = before
        former = self._session
        self._session = _Session(config, host, queue, declared)
        if former is not None and former.queue is not None:
            former.queue.close()
        routes = [
            plugin_pb2.RouteInfo(method=route.method, path=route.path, description=route.description)
            for route in declared.routes
        ]
        return plugin_pb2.InitializeResponse(
            handler_names=list(declared.handlers), watchers=watchers, schedules=schedules, http_routes=routes
        )

    def _shut_down(self, _: Any, context: grpc.ServicerContext) -> plugin_pb2.Empty:
        self.end(JOBS_WITHIN)
        self._dismissed()
        return plugin_pb2.Empty()

    def _health(self, _: Any, context: grpc.ServicerContext) -> plugin_pb2.HealthResponse:
        asked = self._plugin._health
        try:
            said = Health() if asked is None else called(asked)
        except Exception as error:
            said = Health(False, chain(error))
        if not isinstance(said, Health):
            said = Health(said is None or bool(said))
        details = {str(key): str(value) for key, value in said.details.items()}
        return plugin_pb2.HealthResponse(healthy=said.is_good, message=said.message, details=details)

    def _config_schema(self, _: Any, context: grpc.ServicerContext) -> plugin_pb2.ConfigSchemaResponse:
        fields = {key: field._to_wire() for key, field in self._plugin._fields.items()}
        return plugin_pb2.ConfigSchemaResponse(fields=fields)

    def _handle_http(
        self, request: plugin_pb2.HTTPRequest, context: grpc.ServicerContext
    ) -> plugin_pb2.HTTPResponse:
        session = self._initialized()
        with self._request_room:
            response, error = http.answer(session.declared.routes, http.Request._from_wire(request))
        if error is not None:
            _log.error("%s %s failed", request.method, request.path, exc_info=error)
        return response._to_wire()

    def _handle_socket(
        self, frames: Iterator[plugin_pb2.WebSocketMessage], context: grpc.ServicerContext
    ) -> Iterator[plugin_pb2.WebSocketMessage]:
        function = self._plugin._socket
        assert function is not None, "it is served only when there is one"
        metadata = [
            (pair[0], pair[1]) for pair in context.invocation_metadata() if isinstance(pair[1], str)
        ]
        try:
            self._initialized()
            with self._socket_room:
                yield from socket.serve(frames, metadata, function, _socket_failed)
        except Status as status:
            context.abort(status.code, status.text)

    def _execute(
        self, request: plugin_pb2.ExecuteJobRequest, context: grpc.ServicerContext
    ) -> plugin_pb2.ExecuteJobResponse:
        session = self._initialized()
        handler = session.declared.handlers.get(request.handler_name)
        if handler is None:
            raise Status(_Code.NOT_FOUND, f'"{request.handler_name}" is no handler of this plugin')
        tell = session.queue.tell if session.queue is not None else None
        job = Job(request, session.config, session.host, tell)
        with self._job_room:
            self._begin(job)
            try:
                # Also called when the host gives up on the call.
                if not context.add_callback(job._end):
                    job._end()
                reply = self._reply(job, handler)
            finally:
                job._end()
                if session.queue is not None:
                    session.queue.forget(job.id)
                with self._changed:
                    self._running.discard(job)
                    self._changed.notify_all()
        reply.plugin_version = self._plugin.version
        return reply

    def _begin(self, job: Job) -> None:
        with self._changed:
            if self._is_closed:
                raise Status(_Code.UNAVAILABLE, "the plugin is shutting down")
            self._running.add(job)

    def _reply(self, job: Job, handler: Handler) -> plugin_pb2.ExecuteJobResponse:
        """What came of a job, in the host's words.

        A permanent failure is `success=false` with `permanent` (field 101), not a gRPC status: a status has
        room for a short text, and neither for the job's log nor for its progress. "Not now" without a time has
        no such choice: RESOURCE_EXHAUSTED is its only form.
        """
        reply = plugin_pb2.ExecuteJobResponse()
        try:
            done = _outcome(job, handler)
            reply.success = True
            reply.cost_actual = done.cost
            if len(done.result) > _RESULT_BYTES_MAX:
                job.warn(
                    f"the result was left out: {len(done.result)} bytes; "
                    f"at most {_RESULT_BYTES_MAX} fit into a reply"
                )
            else:
                reply.result = done.result
        except NotNow as failure:
            if failure.after is None:
                raise Status(_Code.RESOURCE_EXHAUSTED, failure.reason) from None
            # 0 would mean an ordinary failure.
            reply.retry_after_ms = max(1, min(round(min(failure.after, _AFTER_MAX) * 1_000), 2**63 - 1))
            reply.error = cut(failure.reason, _REASON_BYTES_MAX)
        except Failure as failure:
            reply.permanent = isinstance(failure, Permanent)
            reply.error = cut(failure.reason, _REASON_BYTES_MAX)
        if job._progress is not None:
            reply.progress_current, reply.progress_total = job._progress
        reply.log_entries.extend(job._log.to_wire())
        return reply

    def _initialized(self) -> _Session:
        if self._session is None:
            raise Status(_Code.UNAVAILABLE, "not initialized yet")
        return self._session


def _outcome(job: Job, handler: Handler) -> Done:
    """Runs a handler. What it raises is a `Failure`, whatever it was."""
    fields = job_fields.set({"job": job.id, "handler": job.handler, "attempt": job.attempt})
    try:
        answer = called(handler, job)
    except Failure:
        raise
    except BaseException as error:
        _log.error("the handler failed", exc_info=error)
        raise Retry(chain(error)) from None
    finally:
        job_fields.reset(fields)
    if answer is None:
        return Done()
    if isinstance(answer, Done):
        return answer
    if isinstance(answer, Failure):
        raise answer
    found = type(answer).__name__
    raise Permanent(f"the handler returned a {found}; it must be Done(…) or nothing")


def _socket_failed(error: BaseException) -> None:
    _log.error("a socket failed", exc_info=error)


def _answering(call: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[[Any, grpc.ServicerContext], Any]:
    """The same call, with its statuses on the wire."""

    def answered(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return call(request, context)
        except Status as status:
            code, text = status.code, status.text
        context.abort(code, text)

    return answered
