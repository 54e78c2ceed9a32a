"""One job, as its handler gets it, and what a handler may answer."""

from __future__ import annotations

import json
import threading
from typing import Any, Callable, Iterable, List, Optional, Tuple, Union

from ._proto import plugin_pb2
from .claim import Attestation, Claim, Terms
from .config import Config
from .failure import Permanent
from .host import Attempt, Host
from .log import JobLog

_MISSING = object()


class Done:
    """A job that was done.

    `result`: what came of it, any bytes; a host keeps 1 MiB. `json` instead: any value that has a JSON; one
    that has none makes the job fail for good. `cost`: what it cost, in the unit of the host's budgets.
    """

    def __init__(self, result: Union[bytes, str] = b"", *, json: Any = _MISSING, cost: float = 0.0) -> None:
        self.result = result.encode("utf-8", "replace") if isinstance(result, str) else bytes(result)
        if json is not _MISSING:
            self.result = _to_json(json)
        self.cost = float(cost)

    def __repr__(self) -> str:
        return f"Done({self.result!r}, cost={self.cost})"


def _to_json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Permanent(f"result: no JSON: {error}") from None


class Job:
    """One attempt at a job. It may be handed to other threads, which `is_cancelled` tells when to stop."""

    def __init__(
        self,
        request: plugin_pb2.ExecuteJobRequest,
        config: Config,
        host: Host,
        tell_progress: Optional[Callable[[str, str, int, Tuple[int, int]], None]] = None,
    ) -> None:
        #: Its id: the same on every attempt, so that what was done once need not be done again.
        self.id: str = request.job_id
        #: Which of the plugin's handlers is meant.
        self.handler: str = request.handler_name
        #: Which attempt this is, from 1; 0 from a host that does not say.
        self.attempt: int = max(request.attempt, 0)
        #: The watcher that fired, as it is shown (`greet-authors`); none for a job that no watcher made.
        self.watcher: Optional[str] = request.watcher or None
        #: Which revision of the watcher fired.
        self.revision: int = request.revision
        #: How long the host waits for this attempt, in seconds.
        self.deadline: Optional[float] = float(request.timeout_secs) if request.timeout_secs > 0 else None
        #: What the job is about: a claim as JSON for a fire, any bytes otherwise.
        self.payload: bytes = request.payload
        #: The plugin's own table of `am.toml`, as it was when the attempt began.
        self.config = config
        #: The host, for what is not done on behalf of this job.
        self.host = host
        self._params: bytes = request.params
        self._attempt = Attempt(self.id, self.attempt)
        self._stopped = threading.Event()
        self._log = JobLog()
        self._progress: Optional[Tuple[int, int]] = None
        self._tell_progress = tell_progress

    @property
    def attestation(self) -> Attestation:
        """The claim that made the watcher fire. `Permanent` when the payload is something else."""
        try:
            return Attestation.from_payload(self.payload)
        except (ValueError, RecursionError) as error:
            raise Permanent(f"payload: no attestation: {error}") from None

    def payload_json(self) -> Any:
        """The payload, read as JSON. `Permanent`, which says what is wrong with it."""
        try:
            return json.loads(self.payload)
        except (ValueError, RecursionError) as error:
            raise Permanent(f"payload: not what {self.handler} takes: {error}") from None

    @property
    def params(self) -> Any:
        """The parameters of the watcher that fired, a dictionary; an empty one when there are none."""
        try:
            return json.loads(self._params or b"{}")
        except (ValueError, RecursionError) as error:
            raise Permanent(f"params: not what {self.handler} takes: {error}") from None

    def attest(self, claim: Claim) -> Attestation:
        """Makes a claim on behalf of this job, and answers with it as it stands in the log.

        A later attempt that makes the same claim makes no second one. Let an error pass, so that the next
        attempt tries: this one cannot know whether its claim stands, and a second call of the same attempt
        counts as a second claim.

        `Permanent` for a claim that cannot stand, `Retry` when the host is away.
        """
        return self.host._attest(claim, self._attempt)

    def attest_all(self, claims: Iterable[Claim]) -> int:
        """Makes many claims on behalf of this job, in order and in batches that a host takes; each batch
        stands or falls as a whole. Answers how many of them now stand, those that stood before included.

        As `attest`, with which claim it was, counted from 0. Batches before it stand.
        """
        return self.host._attest_all(claims, self._attempt)

    def query(
        self,
        ax: str = "",
        *,
        subjects: Terms = (),
        predicates: Terms = (),
        contexts: Terms = (),
        actors: Terms = (),
        limit: Optional[int] = None,
        between: Optional[Tuple[int, int]] = None,
    ) -> List[Attestation]:
        """Finds claims, newest first. See `Host.query`."""
        lists = (subjects, predicates, contexts, actors)
        return list(self.host._find(self._attempt, ax, *lists, limit=limit, between=between))

    def exists(self, id: str) -> bool:
        """Whether a claim with this id is in the log."""
        return self.host._exists(id, self._attempt)

    def progress(self, current: int, total: int = 0) -> None:
        """How far the job is. Costs nothing: the host hears of it twice a second where it listens, and in
        the reply. The wire counts to 2³¹−1, and what is beyond stays there."""
        self._progress = (_clamped(current), _clamped(total))
        if self._tell_progress is not None and not self._attempt.is_over.is_set():
            self._tell_progress(self.id, self.handler, self.attempt, self._progress)

    def log(self, level: str, message: object) -> None:
        """Adds a line to the job's log (`debug`, `info`, `warn`, `error`), which travels with the reply:
        1,000 entries, 64 KiB each and 1 MiB in all. What must be seen at once, or from an attempt that never
        answers, belongs into `logging`."""
        self._log.add(level, str(message))

    def info(self, message: object) -> None:
        """`log` at level `info`."""
        self.log("info", message)

    def warn(self, message: object) -> None:
        """`log` at level `warn`."""
        self.log("warn", message)

    def error(self, message: object) -> None:
        """`log` at level `error`."""
        self.log("error", message)

    def is_cancelled(self) -> bool:
        """Whether nobody waits for this attempt any more: the host gave up on it, or it has ended, or the
        process is about to. Nothing in Python ends a thread from outside, so what takes long should ask."""
        return self._stopped.is_set()

    def wait_cancelled(self, seconds: float) -> bool:
        """Sleeps for so long, or until `is_cancelled`, and answers that."""
        return self._stopped.wait(seconds)

    def _end(self) -> None:
        """From now on nobody waits for it, and what it asks of the host is `Cancelled`."""
        self._attempt.end()
        self._stopped.set()

    def _process_ends(self) -> None:
        """It may still finish, and should."""
        self._stopped.set()

    def __repr__(self) -> str:
        return f"Job(id={self.id!r}, handler={self.handler!r}, attempt={self.attempt})"


def _clamped(number: int) -> int:
    return max(0, min(int(number), 2**31 - 1))
