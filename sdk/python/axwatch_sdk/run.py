"""A plugin as a process: its arguments, its port, its log, and its end.

The host starts `PROGRAM --port N`, reads the port from standard output and the log from standard error, and
ends the process with the call Shutdown, SIGTERM and, three seconds later, SIGKILL.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import sys
import threading
from typing import List, NoReturn, Optional, Sequence, Tuple, Union

import grpc

from . import log
from ._service import Service
from .plugin import Plugin

# How long running jobs may still take after a signal. A host kills after 3 s.
_JOBS_WITHIN = 2.0
# How long they and the plugin's last words may take.
_END_WITHIN = 2.4
# How long the last answers may take to leave after that.
_ANSWERS_WITHIN = 0.4

# Exit codes.
_FAILED = 1
_USAGE_ERROR = 2

USAGE = """\
Usage: PLUGIN --port N              listen on port N of 127.0.0.1; 0 for any free one
       PLUGIN --address HOST:PORT   listen there
       PLUGIN --help | --version

A host such as axwatch starts this program, and speaks gRPC with it."""

Address = Tuple[str, int]


class BadArguments(ValueError):
    """What is wrong with the arguments."""


def main(plugin: Plugin, arguments: Optional[Sequence[str]] = None) -> NoReturn:
    """Runs a plugin and ends the process: see `Plugin.serve`."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        wanted = wanted_of(words)
    except BadArguments as error:
        print(f"error: {error}\n\n{USAGE}", file=sys.stderr)
        sys.exit(_USAGE_ERROR)
    if wanted == "help":
        print(f"{plugin.name} {plugin.version}: {plugin.description}\n\n{USAGE}")
        sys.exit(0)
    if wanted == "version":
        print(f"{plugin.name} {plugin.version}")
        sys.exit(0)
    assert not isinstance(wanted, str), "the other two are done"
    _write_by_line()
    log.install()
    code = serve_at(plugin, wanted)
    # Not waiting for threads that a handler blocks, which a regular exit does.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # Who closed it does not want to know.
            pass
    logging.shutdown()
    os._exit(code)


def _write_by_line() -> None:
    """Has each line leave as it is written: to a pipe Python keeps them until some 8 KiB are there."""
    for stream in (sys.stdout, sys.stderr):
        # What somebody has put in its place may be of another kind.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def serve_at(plugin: Plugin, address: Address) -> int:
    """Serves a plugin there until its end, and answers the exit code. Port 0 is any free one."""
    end = _End()
    service = Service(plugin, end.ask)
    server = service.server()
    try:
        port = _listen(server, address)
    except (OSError, RuntimeError) as error:
        print(f"error: cannot listen on {_shown(address)}: {error}", file=sys.stderr)
        return _FAILED
    server.start()
    _say(f"QNTX_PLUGIN_PORT={port}")
    end.wait()
    if end.is_signalled:
        ending = threading.Thread(target=service.end, args=(_JOBS_WITHIN,), daemon=True)
        ending.start()
        ending.join(_END_WITHIN)
        if ending.is_alive():
            logging.getLogger("axwatch").warning("ended before the plugin was ready to")
    # The last answers leave. A host that keeps its connection open does not keep us.
    server.stop(_ANSWERS_WITHIN).wait(2 * _ANSWERS_WITHIN)
    return 0


def _listen(server: grpc.Server, address: Address) -> int:
    # Asked for by ourselves first, for an error that says what is wrong.
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise OSError(error.strerror) from None
    port: int = server.add_insecure_port(_shown(address))
    if port == 0:
        raise OSError("it is taken")
    return port


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _End:
    """What asks for the end of the process: a signal, or the host.

    A pipe, and no lock: a signal may come at any moment, also while this thread holds a lock of its own.
    """

    def __init__(self) -> None:
        self.is_signalled = False
        self._read, self._write = os.pipe()
        # Signals are for the main thread of a process alone.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._caught)
            signal.signal(signal.SIGINT, self._caught)

    def wait(self) -> None:
        """Waits until it is asked for."""
        os.read(self._read, 1)

    def ask(self) -> None:
        """Asks for it."""
        os.write(self._write, b".")

    def _caught(self, number: int, frame: object) -> None:
        self.is_signalled = True
        self.ask()


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError:
        # Who closed it does not want to know.
        pass


def wanted_of(words: List[str]) -> Union[Address, str]:
    """Where to listen, or `help` or `version`. `BadArguments` says what is wrong."""
    found: Optional[Address] = None
    left = iter(words)
    for word in left:
        flag, equals, given = word.partition("=")
        if flag in ("--help", "-h"):
            return "help"
        if flag in ("--version", "-V"):
            return "version"
        if flag not in ("--port", "--address"):
            raise BadArguments(f'unknown argument "{word}"')
        value = given if equals else next(left, None)
        if value is None:
            raise BadArguments(f"{flag} needs a value")
        address = _port(value) if flag == "--port" else _address(value)
        if found is not None:
            raise BadArguments("more than one port or address is given")
        found = address
    if found is None:
        raise BadArguments("no port is given")
    return found


def _port(text: str) -> Address:
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise BadArguments(f'--port "{text}" is no port; it must be a number from 0 to 65535')
    return ("127.0.0.1", int(text))


def _address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    try:
        if not (host and colon and port.isascii() and port.isdigit()):
            raise OSError
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, OverflowError, UnicodeError):
        raise BadArguments(
            f'--address "{text}" is no address; it must be HOST:PORT, such as 127.0.0.1:7000'
        ) from None
    where = found[0][4]
    return (str(where[0]), int(where[1]))
