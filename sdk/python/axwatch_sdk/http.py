"""HTTP under `/api/{plugin}/`: requests that the host passes on, and what a plugin answers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Awaitable, Callable, Dict, List, Mapping, Optional, Tuple, Union
from urllib.parse import parse_qs, unquote

from ._call import called
from ._proto import plugin_pb2

_MISSING = object()


@dataclass(frozen=True)
class Request:
    """A request that came in over HTTP."""

    #: `GET`, `POST` ….
    method: str
    #: Without the plugin's prefix and without the query, decoded: `/hello`.
    path: str
    #: The values of each parameter of the query.
    query: Dict[str, List[str]] = field(default_factory=dict)
    #: The values of each header, by its name in lower case.
    headers: Dict[str, List[str]] = field(default_factory=dict)
    #: Any bytes.
    body: bytes = b""
    #: What stands for each `{name}` of the route's path.
    parts: Dict[str, str] = field(default_factory=dict)

    def header(self, name: str) -> Optional[str]:
        """The first value of a header."""
        values = self.headers.get(name.lower())
        return values[0] if values else None

    def parameter(self, name: str, default: Optional[str] = None) -> Optional[str]:
        """The first value of a parameter of the query."""
        values = self.query.get(name)
        return values[0] if values else default

    def json(self) -> Any:
        """The body, read as JSON. A mistake in it is answered with 400, unless you catch the `ValueError`."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise BadRequest(f"the body is no JSON: {error}") from None

    @staticmethod
    def _from_wire(request: plugin_pb2.HTTPRequest) -> "Request":
        # A path and no address: what follows `//` is no host.
        path, _, query = request.path.partition("?")
        headers: Dict[str, List[str]] = {}
        for header in request.headers:
            headers.setdefault(header.name.lower(), []).extend(header.values)
        return Request(
            method=request.method.upper(),
            path="/" + unquote(path).lstrip("/"),
            query=parse_qs(query, keep_blank_values=True),
            headers=headers,
            body=request.body,
        )


class BadRequest(ValueError):
    """The request is wrong, and says so with status 400."""


class Response:
    """What is answered: a text, bytes, or with `json` any value that has a JSON."""

    def __init__(
        self,
        body: Union[bytes, str] = b"",
        *,
        status: int = 200,
        json: Any = _MISSING,
        headers: Optional[Mapping[str, Union[str, List[str]]]] = None,
        content_type: Optional[str] = None,
    ) -> None:
        self.status = status
        self.headers: Dict[str, List[str]] = {}
        for name, values in (headers or {}).items():
            self.headers[name] = [values] if isinstance(values, str) else list(values)
        if json is not _MISSING:
            self.body = _json_of(json)
            content_type = content_type or "application/json"
        elif isinstance(body, str):
            self.body = body.encode()
            content_type = content_type or "text/plain; charset=utf-8"
        else:
            self.body = bytes(body)
        if content_type and not any(name.lower() == "content-type" for name in self.headers):
            self.headers["Content-Type"] = [content_type]

    def _to_wire(self) -> plugin_pb2.HTTPResponse:
        headers = [plugin_pb2.HTTPHeader(name=name, values=values) for name, values in self.headers.items()]
        return plugin_pb2.HTTPResponse(status_code=self.status, headers=headers, body=self.body)


def _json_of(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


#: What a route's function may return; lists and dictionaries are answered as JSON.
Answer = Union[Response, str, bytes, Dict[str, Any], List[Any], None]


@dataclass(frozen=True)
class Route:
    """A method, a path and what answers there. `{name}` in the path stands for one part of it."""

    method: str
    path: str
    description: str
    function: Callable[[Request], Union[Answer, Awaitable[Answer]]]

    def __post_init__(self) -> None:
        if not self.method.isalpha() or self.method != self.method.upper():
            raise ValueError(f"method {self.method!r}: it must be GET, POST …")
        if not self.path.startswith("/"):
            raise ValueError(f"path {self.path!r}: it must begin with /")

    def match(self, path: str) -> Optional[Dict[str, str]]:
        """What stands for each name of the path; none when it is another path."""
        pieces = re.split(r"\{(\w+)\}", self.path)
        names = pieces[1::2]
        pattern = "([^/]+)".join(re.escape(piece) for piece in pieces[::2])
        found = re.fullmatch(pattern, path)
        return dict(zip(names, found.groups())) if found else None


def answer(routes: List[Route], request: Request) -> Tuple[Response, Optional[Exception]]:
    """What the routes say to a request, and the error of the one that failed."""
    allowed = []
    for route in routes:
        parts = route.match(request.path)
        if parts is None:
            continue
        if request.method not in (route.method, "HEAD" if route.method == "GET" else route.method):
            allowed.append(route.method)
            continue
        filled = Request(request.method, request.path, request.query, request.headers, request.body, parts)
        try:
            return _response(called(route.function, filled)), None
        except BadRequest as error:
            return Response(json={"error": str(error)}, status=400), None
        except Exception as error:
            return Response(json={"error": "the plugin failed; its log says why"}, status=500), error
    if allowed:
        headers = {"Allow": ", ".join(sorted(set(allowed)))}
        return Response(json={"error": f"{request.method} is not served here"}, status=405, headers=headers), None
    return Response(json={"error": f"nothing is served at {request.path}"}, status=404), None


def _response(answered: Answer) -> Response:
    if isinstance(answered, Response):
        return answered
    if answered is None:
        return Response(status=204)
    if isinstance(answered, (str, bytes)):
        return Response(answered)
    return Response(json=answered)
