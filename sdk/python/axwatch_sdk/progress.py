"""Progress that a host hears of while jobs run, where it serves `UpdateJob`.

One thread a process sends the newest progress of each job, at most every half second, so that no handler
waits for it. What is not sent any more when a job ends is in its reply.
"""

from __future__ import annotations

import logging
import threading
from typing import Dict, Optional, Tuple

import grpc

from ._proto import queue_pb2
from ._wire import Client, status_text

# From one report to the next.
_TELL_EVERY = 0.5
# How long the host may take to hear of it.
_TELL_WITHIN = 5.0

_log = logging.getLogger("axwatch")


class Queue:
    """The host's queue, which hears of progress."""

    def __init__(self, channel: grpc.Channel, token: str) -> None:
        self._client = Client(channel, "protocol.QueueService")
        self._token = token
        self._lock = threading.Lock()
        self._news: Dict[str, Tuple[str, int, Tuple[int, int]]] = {}
        self._has_news = threading.Event()
        self._is_over = threading.Event()
        self._has_complained = False
        self._thread: Optional[threading.Thread] = None

    def tell(self, job_id: str, handler: str, attempt: int, progress: Tuple[int, int]) -> None:
        """Notes it, and returns at once."""
        with self._lock:
            self._news[job_id] = (handler, attempt, progress)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="axwatch-progress", daemon=True)
                self._thread.start()
        self._has_news.set()

    def forget(self, job_id: str) -> None:
        """The job has ended, and its reply says the rest."""
        with self._lock:
            self._news.pop(job_id, None)

    def close(self) -> None:
        """Nothing more is told."""
        self._is_over.set()
        self._has_news.set()

    def _run(self) -> None:
        while True:
            self._has_news.wait()
            if self._is_over.is_set():
                return
            self._has_news.clear()
            with self._lock:
                news, self._news = self._news, {}
            for job_id, (handler, attempt, progress) in news.items():
                self._send(job_id, handler, attempt, progress)
            self._is_over.wait(_TELL_EVERY)

    def _send(self, job_id: str, handler: str, attempt: int, progress: Tuple[int, int]) -> None:
        told = queue_pb2.Progress(current=progress[0], total=progress[1])
        job = queue_pb2.Job(id=job_id, handler_name=handler, status="running", progress=told)
        request = queue_pb2.UpdateJobRequest(auth_token=self._token, job=job, attempt=attempt)
        try:
            reply = self._client("UpdateJob")(request, timeout=_TELL_WITHIN)
            problem = "" if reply.success else reply.error
        except grpc.RpcError as error:
            problem = status_text(error)
        # The jobs go on without, and one line says so.
        if problem and not self._has_complained:
            self._has_complained = True
            _log.warning("the host does not hear of progress: %s", problem)
