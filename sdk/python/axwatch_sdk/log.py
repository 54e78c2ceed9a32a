"""What a plugin and its jobs have to say: log entries of a reply, within bounds, and the process's own log."""

from __future__ import annotations

import contextvars
import json
import logging
import os
import sys
import threading
from datetime import datetime, timezone
from typing import Dict, List, Mapping

from ._proto import plugin_pb2
from ._text import cut
from .failure import chain

# Entries of one attempt.
_ENTRIES_MAX = 1_000
# Bytes of one message.
_MESSAGE_BYTES_MAX = 64 * 1024
# Bytes of all messages: a reply has 8 MiB, of which results take most.
_BYTES_MAX = 1024 * 1024

LEVELS = ("debug", "info", "warn", "error")


class JobLog:
    """The log of one attempt."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: List[plugin_pb2.JobLogEntry] = []
        self._bytes = 0
        self._left_out = 0

    def add(self, level: str, message: str) -> None:
        """Adds an entry, or counts it when there is no room left."""
        if level not in LEVELS:
            raise ValueError(f"level {level!r} is none of {', '.join(LEVELS)}")
        entry = _entry(level, cut(message, _MESSAGE_BYTES_MAX))
        bytes_added = len(entry.message.encode())
        with self._lock:
            if len(self._entries) >= _ENTRIES_MAX or self._bytes + bytes_added > _BYTES_MAX:
                self._left_out += 1
                return
            self._bytes += bytes_added
            self._entries.append(entry)

    def to_wire(self) -> List[plugin_pb2.JobLogEntry]:
        """The entries, the last of which says how many there were no room for."""
        with self._lock:
            entries = list(self._entries)
            if self._left_out:
                entries.append(_entry("warn", f"{self._left_out} more log entries were left out"))
            return entries


def _entry(level: str, message: str) -> plugin_pb2.JobLogEntry:
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return plugin_pb2.JobLogEntry(timestamp=now, level=level, message=message)


#: What is said along with each line of the process's log while a job runs in this thread.
job_fields: contextvars.ContextVar[Mapping[str, object]] = contextvars.ContextVar("axwatch_job", default={})

_LEVEL_NAMES = {"WARNING": "warn", "CRITICAL": "error"}
_WANTED = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "warning": logging.WARNING, "error": logging.ERROR}


class JsonLines(logging.Formatter):
    """A JSON object a line, which is what a host reads best: `level`, `message`, and the job's fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: Dict[str, object] = {
            "level": _LEVEL_NAMES.get(record.levelname, record.levelname.lower()),
            "message": record.getMessage(),
        }
        if record.name not in ("root", "axwatch"):
            entry["logger"] = record.name
        entry.update(job_fields.get())
        if record.exc_info and record.exc_info[1] is not None:
            entry["error"] = chain(record.exc_info[1])
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def install() -> None:
    """Sends what `logging` gets to standard error, from level `LOG_LEVEL` (info) up.

    Does nothing when the author has installed a handler of his own.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root.addHandler(handler)
    wanted = os.environ.get("LOG_LEVEL", "info").lower()
    root.setLevel(_WANTED.get(wanted, logging.INFO))
