"""What a plugin is: a name, functions that act, and what it says about itself."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any, Awaitable, Callable, Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple, TypeVar, Union

from ._proto import plugin_pb2
from .claim import Terms, _terms
from .config import Config
from .host import Host
from .http import Answer, Request, Route
from .job import Job
from .socket import Socket

_FIRES_PER_SECOND_MAX = 100_000
_PARAMS_BYTES_MAX = 64 * 1024

#: What acts on a job: returns `Done` or nothing when it is done, and raises otherwise.
Handler = Callable[[Job], Any]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Start:
    """What a plugin is started with, or started again when its configuration changed."""

    #: The plugin's own table of `am.toml`.
    config: Config
    #: The host, for claims and questions that belong to no job.
    host: Host


@dataclass(frozen=True)
class Health:
    """Whether a plugin can do its work. A host restarts one that keeps saying that it cannot."""

    is_good: bool = True
    message: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Watcher:
    """What a plugin waits for: each claim that matches becomes a job for one of its handlers."""

    id: str
    handler: str
    ax: str = ""
    subjects: Sequence[str] = ()
    predicates: Sequence[str] = ()
    contexts: Sequence[str] = ()
    actors: Sequence[str] = ()
    max_fires_per_second: int = 0
    params: Optional[Mapping[str, Any]] = None
    max_chain: int = 0
    since: str = ""

    def __post_init__(self) -> None:
        lists = (self.subjects, self.predicates, self.contexts, self.actors)
        if self.ax and any(lists):
            raise ValueError(f"watcher {self.id!r}: AX text and terms together; say the terms in the text")
        if not self.ax and not any(lists):
            raise ValueError(f"watcher {self.id!r} filters on nothing; give it AX text or terms")
        if not 0 <= self.max_fires_per_second <= _FIRES_PER_SECOND_MAX:
            raise ValueError(
                f"watcher {self.id!r}: max_fires_per_second is 1 to {_FIRES_PER_SECOND_MAX}, or 0 for no limit"
            )
        if self.params is not None and not isinstance(self.params, Mapping):
            raise ValueError(f"watcher {self.id!r}: params must be a dictionary")
        if len(self._params_bytes()) > _PARAMS_BYTES_MAX:
            raise ValueError(f"watcher {self.id!r}: params have at most {_PARAMS_BYTES_MAX} bytes of JSON")

    def _params_bytes(self) -> bytes:
        return b"" if self.params is None else json.dumps(self.params, ensure_ascii=False).encode()

    def _to_wire(self) -> plugin_pb2.WatcherRegistration:
        return plugin_pb2.WatcherRegistration(
            id=self.id,
            handler_name=self.handler,
            subjects=self.subjects,
            predicates=self.predicates,
            contexts=self.contexts,
            actors=self.actors,
            max_fires_per_second=self.max_fires_per_second,
            ax=self.ax,
            params=self._params_bytes(),
            max_chain=self.max_chain,
            since=self.since,
        )


@dataclass(frozen=True)
class Schedule:
    """A handler to be run at an interval."""

    handler: str
    every_seconds: int
    is_enabled: bool = True
    description: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.every_seconds < 2**31:
            raise ValueError(f"schedule of {self.handler!r}: every_seconds must be 0 (disabled) or more")

    def _to_wire(self) -> plugin_pb2.ScheduleInfo:
        return plugin_pb2.ScheduleInfo(
            handler_name=self.handler,
            interval_seconds=self.every_seconds,
            enabled_by_default=self.is_enabled,
            description=self.description,
        )


# What a plugin's other functions may be.
_Healthy = Union[Health, bool, None]
_OnRequest = TypeVar("_OnRequest", bound=Callable[[Request], Union[Answer, Awaitable[Answer]]])
_OnSocket = TypeVar("_OnSocket", bound=Callable[[Socket], Optional[Awaitable[None]]])
_OnShutdown = TypeVar("_OnShutdown", bound=Callable[[], Optional[Awaitable[None]]])
_OnStart = TypeVar("_OnStart", bound=Callable[[Start], Optional[Awaitable[None]]])
_OnHealth = TypeVar("_OnHealth", bound=Callable[[], Union[_Healthy, Awaitable[_Healthy]]])

_KINDS = ("string", "number", "boolean", "array")


@dataclass(frozen=True)
class ConfigField:
    """One key of a plugin's own table, for people and for the host's checks before the plugin runs."""

    key: str
    kind: str
    description: str = ""
    default: str = ""
    required: bool = False
    min: str = ""
    max: str = ""
    pattern: str = ""
    element: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"config {self.key!r}: kind {self.kind!r} is none of {', '.join(_KINDS)}")

    def _to_wire(self) -> plugin_pb2.ConfigFieldSchema:
        return plugin_pb2.ConfigFieldSchema(
            type=self.kind,
            description=self.description,
            default_value=self.default,
            required=self.required,
            min_value=self.min,
            max_value=self.max,
            pattern=self.pattern,
            element_type=self.element,
        )


@dataclass
class Declarations:
    """What grows by being declared: what a plugin does, and what it waits for."""

    handlers: Dict[str, Handler] = field(default_factory=dict)
    watchers: List[Tuple[Optional[str], Optional[Handler], Dict[str, Any]]] = field(default_factory=list)
    schedules: List[Tuple[Optional[str], Optional[Handler], Dict[str, Any]]] = field(default_factory=list)
    routes: List[Route] = field(default_factory=list)

    def copy(self) -> "Declarations":
        """The same, to be kept while this one grows."""
        return Declarations(dict(self.handlers), list(self.watchers), list(self.schedules), list(self.routes))


class Plugin:
    """A plugin: what it is called, what it waits for, and what it does.

        plugin = Plugin("greet", "1.0.0", "greets authors")

        @plugin.handler("greet.hello")
        @plugin.watch("authors", "is author of GitHub")
        def hello(job: Job) -> Done:
            author = job.attestation
            job.attest(Claim(author.subject, "greeted", "GitHub"))
            return Done(json=f"Hello, {author.subject}!")

        if __name__ == "__main__":
            plugin.serve()

    The name must be the one under which the plugin is configured. Functions run side by side, each in a
    thread: what changes belongs behind a lock. A function that is `async` runs in a loop of its own.
    """

    def __init__(
        self,
        name: str,
        version: str,
        description: str = "",
        *,
        author: str = "",
        license: str = "",
        protocol: str = ">=0.2",
        jobs_max: int = 256,
    ) -> None:
        """
        `protocol`: which versions of the plugin protocol it speaks, as a semver constraint.

        `jobs_max`: how many jobs run at once; the host is told "not now" of more, and sends fewer.
        """
        if not name:
            raise ValueError("a plugin has a name")
        if jobs_max < 1:
            raise ValueError("jobs_max must be 1 or more")
        self.name = name
        self.version = version
        self.description = description
        self.author = author
        self.license = license
        self.protocol = protocol
        self.jobs_max = jobs_max
        self._declared = Declarations()
        # One `on_start` at a time.
        self._starting = threading.Lock()
        self._fields: Dict[str, ConfigField] = {}
        self._socket: Optional[Callable[[Socket], Optional[Awaitable[None]]]] = None
        self._start: Optional[Callable[[Start], Optional[Awaitable[None]]]] = None
        self._health: Optional[Callable[[], Union[_Healthy, Awaitable[_Healthy]]]] = None
        self._shutdown: Optional[Callable[[], Optional[Awaitable[None]]]] = None

    # What it does.

    def handler(self, name: Optional[str] = None) -> Callable[[F], F]:
        """What is decorated acts on jobs under this name; without one under `PLUGIN.FUNCTION`."""

        def register(function: F) -> F:
            self.add_handler(name or f"{self.name}.{function.__name__}", function)
            return function

        return register

    def add_handler(self, name: str, function: Handler) -> None:
        """The same without a decorator. In `on_start` it adds handlers that depend on the configuration."""
        if not name or "/" in name:
            raise ValueError(f"handler {name!r}: a bare name has no '/', which stands between plugin and handler")
        known = self._declared.handlers.get(name)
        if known is not None and known is not function:
            raise ValueError(f"handler {name!r} is there already")
        self._declared.handlers[name] = function

    def watch(
        self,
        id: str,
        ax: str = "",
        *,
        subjects: Terms = (),
        predicates: Terms = (),
        contexts: Terms = (),
        actors: Terms = (),
        max_fires_per_second: int = 0,
        params: Optional[Mapping[str, Any]] = None,
        max_chain: int = 0,
        since: str = "",
    ) -> Callable[[F], F]:
        """Claims that match become jobs for what is decorated, which is a handler too.

        Either AX text, compared without regard to case, or lists of terms that are compared exactly: one of
        each that is given must be there.

        `id`: among the plugin's own watchers. `max_fires_per_second`: those beyond are late, not lost; 0 is no
        limit. `params`: what each job is to know, a dictionary: `Job.params`. `max_chain`: how often it may
        fire in one chain of claims that cause each other, instead of 4 times. `since`: begins with the claims
        since then instead of the next one, such as `2026-01-01` or `7d`.
        """
        declared = _declared(
            id, ax, subjects, predicates, contexts, actors, max_fires_per_second, params, max_chain, since
        )

        def register(function: F) -> F:
            self._declared.watchers.append((None, function, declared))
            return function

        return register

    def add_watcher(
        self,
        id: str,
        handler: str,
        ax: str = "",
        *,
        subjects: Terms = (),
        predicates: Terms = (),
        contexts: Terms = (),
        actors: Terms = (),
        max_fires_per_second: int = 0,
        params: Optional[Mapping[str, Any]] = None,
        max_chain: int = 0,
        since: str = "",
    ) -> None:
        """As `watch`, for a handler that is called by its name."""
        declared = _declared(
            id, ax, subjects, predicates, contexts, actors, max_fires_per_second, params, max_chain, since
        )
        # In `on_start` it stands instead of the one that was declared before.
        self._declared.watchers = [known for known in self._declared.watchers if known[2]["id"] != id]
        self._declared.watchers.append((handler, None, declared))

    def schedule(self, every_seconds: int, *, enabled: bool = True, description: str = "") -> Callable[[F], F]:
        """What is decorated, which is a handler too, is to be run at this interval."""
        declared: Dict[str, Any] = {"every_seconds": every_seconds, "is_enabled": enabled, "description": description}
        Schedule("", **declared)

        def register(function: F) -> F:
            self._declared.schedules.append((None, function, declared))
            return function

        return register

    def route(self, method: str, path: str, description: str = "") -> Callable[[_OnRequest], _OnRequest]:
        """What is decorated answers `/api/{plugin}{path}`. `{name}` in the path stands for one part of it."""

        def register(function: _OnRequest) -> _OnRequest:
            self._declared.routes.append(Route(method, path, description, function))
            return function

        return register

    def socket(self, function: _OnSocket) -> _OnSocket:
        """What is decorated gets each browser socket that is opened under `/ws/{plugin}`."""
        self._socket = function
        return function

    # What becomes of it.

    def on_start(self, function: _OnStart) -> _OnStart:
        """What is decorated runs before the handlers and watchers are told to the host, and again when the
        configuration changes while the process runs: jobs that start later see the new one. Handlers, watchers,
        schedules and routes that it adds count until it runs the next time, which adds its own.

        Raise to refuse, with a reason that the host shows: `Permanent`, or anything else for what may be gone
        the next time. At a change of the configuration the old one stays.
        """
        self._start = function
        return function

    def on_shutdown(self, function: _OnShutdown) -> _OnShutdown:
        """What is decorated has the last words, after the running jobs have ended or their time is up.
        About a second remains."""
        self._shutdown = function
        return function

    def health(self, function: _OnHealth) -> _OnHealth:
        """What is decorated says whether the plugin can do its work: asked every 10 s."""
        self._health = function
        return function

    def config_field(
        self,
        key: str,
        kind: str,
        description: str = "",
        *,
        default: Any = None,
        required: bool = False,
        min: Optional[float] = None,
        max: Optional[float] = None,
        pattern: str = "",
        element: str = "",
    ) -> None:
        """Says what may stand in the plugin's own table: `kind` is string, number, boolean or array (of
        `element`). The host checks it before the plugin runs, and shows it to people."""

        def shown(value: Any) -> str:
            if value is None or isinstance(value, str):
                return value or ""
            return json.dumps(value, ensure_ascii=False)

        field = ConfigField(
            key, kind, description, shown(default), required, shown(min), shown(max), pattern, element
        )
        self._fields[key] = field

    # How it runs.

    def serve(self, arguments: Optional[Sequence[str]] = None) -> NoReturn:
        """Runs the plugin as the program it is: reads `--port N` or `--address HOST:PORT`, serves, and ends
        the process on SIGTERM, SIGINT or the host's Shutdown.

        Prints `QNTX_PLUGIN_PORT=<port>` on standard output. What `logging` gets goes to standard error, a JSON
        object a line, unless a handler is installed already. What is printed leaves line by line.

        Exit codes: 0 for an orderly end, 1 when it cannot listen, 2 for arguments that do not do.
        """
        from . import run

        run.main(self, arguments)

    # What the host is told.

    def handlers(self) -> List[str]:
        """The names of its handlers."""
        return list(self._declared.handlers)

    def watchers(self) -> List[Watcher]:
        """What it waits for. `ValueError` for one whose function is no handler."""
        known = self._declared.watchers
        named = [(self._name_of(name, function, "watch"), declared) for name, function, declared in known]
        return [Watcher(handler=handler, **declared) for handler, declared in named]

    def schedules(self) -> List[Schedule]:
        """What is to be run at an interval."""
        known = self._declared.schedules
        named = [(self._name_of(name, function, "schedule"), declared) for name, function, declared in known]
        return [Schedule(handler, **declared) for handler, declared in named]

    def _name_of(self, name: Optional[str], function: Optional[Handler], decorator: str) -> str:
        if name is not None:
            return name
        for known, registered in self._declared.handlers.items():
            if registered is function:
                return known
        shown = getattr(function, "__name__", function)
        raise ValueError(f"{shown} has @plugin.{decorator} and is no handler; add @plugin.handler(…)")


def _declared(
    id: str,
    ax: str,
    subjects: Terms,
    predicates: Terms,
    contexts: Terms,
    actors: Terms,
    max_fires_per_second: int,
    params: Optional[Mapping[str, Any]],
    max_chain: int,
    since: str,
) -> Dict[str, Any]:
    """A watcher but for its handler, checked where it is written down."""
    declared: Dict[str, Any] = {
        "id": id,
        "ax": ax,
        "subjects": _terms(subjects),
        "predicates": _terms(predicates),
        "contexts": _terms(contexts),
        "actors": _terms(actors),
        "max_fires_per_second": max_fires_per_second,
        "params": params,
        "max_chain": max_chain,
        "since": since,
    }
    Watcher(handler="", **declared)
    return declared
