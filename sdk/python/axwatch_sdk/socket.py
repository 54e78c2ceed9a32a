"""Browser sockets under `/ws/{plugin}`: a plugin's end of one."""

from __future__ import annotations

import queue
import threading
from typing import Awaitable, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, Union
from urllib.parse import parse_qs, unquote

from ._call import called
from ._proto import plugin_pb2

_Message = plugin_pb2.WebSocketMessage

# Messages that wait for whoever reads them, each way. Past it the sender waits.
_WAITING_MAX = 64
# From one look at whether the socket still stands to the next, for whoever waits for room.
_LOOK_EVERY = 0.5


class SocketClosed(ConnectionError):
    """The other side is gone."""


class Socket:
    """One browser socket. Iterating gives what the browser sends, until either side closes.

    The host's PING is answered by itself, in turn with the messages: while 64 of them wait to be read, nothing
    more is taken from the host, and a PING behind them has no answer. A host closes a socket that does not answer
    in time, so keep reading, and leave what takes long to another thread.
    """

    def __init__(self, path: str, query: Dict[str, List[str]], headers: Dict[str, str]) -> None:
        #: What stands behind `/ws/{plugin}`, where the host says it: without the query, decoded.
        self.path = path
        #: The first value of each parameter of the query.
        self.query = {name: values[0] for name, values in query.items()}
        #: All values of each parameter of the query, in their order.
        self.query_values = query
        #: What came along with the first frame. `path` is the path with the query as they were written.
        self.headers = headers
        self._incoming: queue.Queue[Optional[bytes]] = queue.Queue(_WAITING_MAX)
        self._outgoing: queue.Queue[Optional[_Message]] = queue.Queue(_WAITING_MAX)
        self._is_over = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            data = self.receive()
            if data is None:
                return
            yield data

    def receive(self, timeout: Optional[float] = None) -> Optional[bytes]:
        """The next message, or none when the socket is closed. `TimeoutError` after so many seconds."""
        waited = 0.0
        while True:
            pause = _LOOK_EVERY if timeout is None else min(_LOOK_EVERY, max(timeout - waited, 0.001))
            try:
                return self._incoming.get(timeout=pause)
            except queue.Empty:
                waited += pause
                if self._is_over.is_set():
                    return None
                if timeout is not None and waited >= timeout:
                    raise TimeoutError("no message from the browser") from None

    def send(self, data: Union[bytes, str]) -> None:
        """Sends a message; waits while the browser does not read. `SocketClosed` when it is gone."""
        data = data.encode() if isinstance(data, str) else bytes(data)
        self._put(_Message(type=_Message.DATA, data=data))

    def close(self) -> None:
        """Closes the socket. What was sent before arrives."""
        try:
            self._put(_Message(type=_Message.CLOSE))
        except SocketClosed:
            pass

    @property
    def is_closed(self) -> bool:
        """Whether the browser is gone."""
        return self._is_over.is_set()

    def _put(self, message: Optional[_Message]) -> None:
        while not self._is_over.is_set():
            try:
                return self._outgoing.put(message, timeout=_LOOK_EVERY)
            except queue.Full:
                pass
        raise SocketClosed("the socket is closed")

    def _end(self) -> None:
        self._is_over.set()
        for waiting in (self._incoming, self._outgoing):
            try:
                waiting.put_nowait(None)
            except queue.Full:
                # Whoever reads it looks at `_is_over` when it is empty.
                pass

    def _read(self, frames: Iterator[_Message]) -> None:
        """Takes what comes in, in a thread of its own. A full queue keeps it from PING too."""
        try:
            for frame in frames:
                if frame.type == _Message.PING:
                    self._put(_Message(type=_Message.PONG, timestamp=frame.timestamp, data=frame.data))
                elif frame.type == _Message.DATA:
                    self._take(frame.data)
                elif frame.type in (_Message.CLOSE, _Message.ERROR):
                    return
        except Exception:
            # However the stream ended: the socket has.
            pass
        finally:
            self._end()

    def _take(self, data: bytes) -> None:
        while not self._is_over.is_set():
            try:
                return self._incoming.put(data, timeout=_LOOK_EVERY)
            except queue.Full:
                pass


def _opened(headers: Dict[str, str], metadata: Iterable[Tuple[str, str]]) -> Socket:
    """A socket as its first frame asks for it."""
    path, _, query = headers.get("path", "").partition("?")
    values = parse_qs(query, keep_blank_values=True)
    if "path" not in headers:
        # A host that does not say it may have put the parameters there; what gRPC puts there is not theirs.
        for name, value in metadata:
            if name != "user-agent":
                values.setdefault(name, []).append(value)
    return Socket(unquote(path), values, headers)


def serve(
    frames: Iterator[_Message],
    metadata: Iterable[Tuple[str, str]],
    function: Callable[[Socket], Optional[Awaitable[None]]],
    failed: Callable[[BaseException], None],
) -> Iterator[_Message]:
    """Runs the plugin's function on a socket, and gives what it sends. `metadata` is that of the call."""
    first = next(frames, None)
    if first is None:
        return
    socket = _opened(dict(first.headers), metadata)
    if first.type == _Message.DATA:
        # A host that does not say CONNECT.
        socket._take(first.data)
    threading.Thread(target=socket._read, args=(frames,), name="axwatch-socket-in", daemon=True).start()

    def run() -> None:
        try:
            called(function, socket)
            socket.close()
        except SocketClosed:
            pass
        except Exception as error:
            failed(error)
            try:
                socket._put(_Message(type=_Message.ERROR, data=b"the plugin failed; its log says why"))
            except SocketClosed:
                pass
        finally:
            # After what was sent: the reader of the queue ends with it.
            try:
                socket._put(None)
            except SocketClosed:
                pass

    threading.Thread(target=run, name="axwatch-socket", daemon=True).start()
    try:
        while True:
            try:
                message = socket._outgoing.get(timeout=_LOOK_EVERY)
            except queue.Empty:
                if socket.is_closed:
                    return
                continue
            if message is None:
                return
            yield message
    finally:
        socket._end()
