"""A host in memory: the store of claims as plugins see it, and the queue as far as progress goes.

It keeps what a host promises its plugins: the token is checked, an id stands for one content, a claim of a job
has an id computed from the job, its content and its ordinal, and a batch stands or falls as a whole. What it
does not have: watchers that fire, and AX.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from typing import Any, Deque, Dict, FrozenSet, Iterator, List, NoReturn, Optional, Sequence, Tuple

import grpc

from .._proto import attestation_pb2, queue_pb2
from .._wire import serve
from ..claim import _plain_struct

#: What a plugin of a harness has to show.
TOKEN = "token-of-the-harness"

_Claim = attestation_pb2.Attestation
_Command = attestation_pb2.AttestationCommand
#: What a claim of a job was counted as, to be taken back when its batch falls.
_Counted = Tuple[str, int, str]


class Refused(Exception):
    """The host's own words."""


class _Entry:
    """A claim of the log; `filled` is what the host filled in, which is never compared."""

    def __init__(self, claim: _Claim, filled: FrozenSet[str], is_plugins: bool) -> None:
        self.claim = claim
        self.filled = filled
        self.is_plugins = is_plugins


class FakeHost:
    """The host of one harness."""

    def __init__(self) -> None:
        self.plugin = ""
        self._lock = threading.Lock()
        self._log: List[_Entry] = []
        self._places: Dict[str, int] = {}
        self._jobs: Dict[str, int] = {}
        self._counted: Dict[_Counted, int] = {}
        self._computed: Dict[Tuple[str, str, int], str] = {}
        self._answers: Dict[str, List[_Claim]] = {}
        self._progress: Dict[str, List[Tuple[int, int]]] = {}
        self._errors: Deque[str] = deque()

    # What a test asks.

    def begin(self, job_id: str, attempt: int) -> None:
        with self._lock:
            self._jobs[job_id] = attempt

    def give(self, command: _Command) -> _Claim:
        with self._lock:
            return self._log[self._append(command, False, [])].claim

    def answer_ax(self, query: str, commands: Sequence[_Command]) -> None:
        claims = [_complete(command, f"answer-{i}", "harness")[0] for i, command in enumerate(commands, 1)]
        with self._lock:
            self._answers[query] = claims

    def fail_next_call(self, error: str) -> None:
        with self._lock:
            self._errors.append(error)

    def made(self) -> List[_Claim]:
        """What the plugin made, oldest first."""
        with self._lock:
            return [entry.claim for entry in self._log if entry.is_plugins]

    def progress_of(self, job_id: str) -> List[Tuple[int, int]]:
        with self._lock:
            return list(self._progress.get(job_id, ()))

    def add_to(self, server: grpc.Server) -> None:
        """Serves what a plugin calls."""
        store = {
            "AttestationExists": self._exists,
            "GenerateAndCreateAttestation": self._generate,
            "BatchGenerateAndCreateAttestations": self._generate_all,
            "GetAttestations": self._get,
            "GetAttestationsStream": self._stream,
        }
        serve(server, "protocol.ATSStoreService", store)
        serve(server, "protocol.QueueService", {"UpdateJob": self._update})

    # What a plugin calls.

    def _exists(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            with self._lock:
                self._admit(request.auth_token)
                return attestation_pb2.AttestationExistsResponse(exists=request.id in self._places)
        except Refused as refused:
            error = str(refused)
        _abort(context, error)

    def _generate(self, request: Any, context: grpc.ServicerContext) -> Any:
        reply = attestation_pb2.GenerateAttestationResponse
        counted: List[_Counted] = []
        with self._lock:
            try:
                self._admit(request.auth_token)
                place = self._append(request.command, True, counted)
                return reply(success=True, attestation=self._log[place].claim)
            except Refused as refused:
                self._take_back(len(self._log), counted)
                return reply(success=False, error=str(refused))

    def _generate_all(self, request: Any, context: grpc.ServicerContext) -> Any:
        reply = attestation_pb2.BatchGenerateAttestationResponse
        counted: List[_Counted] = []
        with self._lock:
            before = len(self._log)
            place = ""
            try:
                self._admit(request.auth_token)
                for index, command in enumerate(request.commands):
                    place = f"commands[{index}]: "
                    self._append(command, True, counted)
                return reply(success=True, created=len(request.commands))
            except Refused as refused:
                self._take_back(before, counted)
                return reply(success=False, error=f"{place}{refused}")

    def _get(self, request: Any, context: grpc.ServicerContext) -> Any:
        reply = attestation_pb2.GetAttestationsResponse
        try:
            return reply(success=True, attestations=self._find(request))
        except Refused as refused:
            return reply(success=False, error=str(refused))

    def _stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[_Claim]:
        try:
            found = self._find(request)
        except Refused as refused:
            error = str(refused)
        else:
            yield from found
            return
        _abort(context, error)

    def _update(self, request: Any, context: grpc.ServicerContext) -> Any:
        reply = queue_pb2.UpdateJobResponse
        try:
            with self._lock:
                self._admit(request.auth_token)
                told = (request.job.progress.current, request.job.progress.total)
                self._progress.setdefault(request.job.id, []).append(told)
                return reply(success=True)
        except Refused as refused:
            return reply(success=False, error=str(refused))

    # How it keeps its promises; with the lock held.

    def _admit(self, token: str) -> None:
        if token != TOKEN:
            raise Refused(
                "unauthenticated: this is not the token of a running plugin process; "
                "use the one from this process's Initialize"
            )
        if self._errors:
            raise Refused(self._errors.popleft())

    def _find(self, request: Any) -> List[_Claim]:
        filter = request.filter
        with self._lock:
            self._admit(request.auth_token)
            if request.ax and request.ax not in self._answers:
                shown = json.dumps(request.ax, ensure_ascii=False)
                raise Refused(
                    f"ax: the harness does not speak AX: say what {shown} finds with Harness.answer_ax"
                )
            if request.ax:
                found = [claim for claim in self._answers[request.ax] if _in_time(filter, claim)]
            else:
                found = [entry.claim for entry in reversed(self._log) if _holds(filter, entry.claim)]
        return found[: filter.limit] if filter.limit > 0 else found

    def _append(self, command: _Command, is_plugins: bool, counted: List[_Counted]) -> int:
        """Answers with the claim's place in the log; what it was counted as goes to `counted`."""
        id = self._id_for(command, counted)
        claim, filled = _complete(command, id, self.plugin)
        place = self._places.get(id)
        if place is not None:
            known = self._log[place]
            if _content(known.claim, known.filled | filled) != _content(claim, known.filled | filled):
                raise Refused(f"attestation {id} is already in the log as seq {known.claim.seq} and differs")
            return place
        place = len(self._log)
        claim.seq = place + 1
        self._log.append(_Entry(claim, filled, is_plugins))
        self._places[id] = place
        return place

    def _id_for(self, command: _Command, counted: List[_Counted]) -> str:
        if command.id:
            return command.id
        if not command.job_id:
            number = len(self._log) + 1
            while f"claim-{number}" in self._places:
                number += 1
            return f"claim-{number}"
        if command.job_id not in self._jobs:
            raise Refused(f'job_id: "{command.job_id}" is not a job of this plugin')
        attempt = command.attempt or self._jobs[command.job_id]
        claim, filled = _complete(command, "", self.plugin)
        content = json.dumps([_content(claim, filled), sorted(filled)])
        key = (command.job_id, attempt, content)
        counted.append(key)
        ordinal = self._counted[key] = self._counted.get(key, 0) + 1
        fresh = f"claim-of-{command.job_id}-{len(self._computed) + 1}"
        return self._computed.setdefault((command.job_id, content, ordinal), fresh)

    def _take_back(self, before: int, counted: List[_Counted]) -> None:
        """Undoes what a batch did before one of its claims was refused."""
        for entry in self._log[before:]:
            del self._places[entry.claim.id]
        del self._log[before:]
        for key in counted:
            self._counted[key] -= 1


def _complete(command: _Command, id: str, source: str) -> Tuple[_Claim, FrozenSet[str]]:
    """Fills the gaps of a claim."""
    given = {
        "timestamp": command.HasField("timestamp"),
        "actors": bool(command.actors),
        "source": bool(command.source),
    }
    now = int(time.time() * 1_000)
    claim = _Claim(
        id=id,
        subjects=command.subjects,
        predicates=command.predicates or ["_"],
        contexts=command.contexts or ["_"],
        actors=command.actors or [id],
        timestamp=command.timestamp if given["timestamp"] else now,
        source=command.source or source,
        created_at=now,
    )
    if command.HasField("attributes"):
        claim.attributes.CopyFrom(command.attributes)
    return claim, frozenset(name for name, is_given in given.items() if not is_given)


def _content(claim: _Claim, without: FrozenSet[str]) -> List[Any]:
    """What a claim says, to be compared."""
    sets = [sorted(set(terms)) for terms in (claim.subjects, claim.predicates, claim.contexts)]
    return [
        *sets,
        [] if "actors" in without else sorted(set(claim.actors)),
        0 if "timestamp" in without else claim.timestamp,
        "" if "source" in without else claim.source,
        json.dumps(_plain_struct(claim.attributes), sort_keys=True),
    ]


def _holds(filter: attestation_pb2.AttestationFilter, claim: _Claim) -> bool:
    """One of each list that is not empty, compared exactly, and the time."""

    def any_of(wanted: Sequence[str], terms: Sequence[str]) -> bool:
        return not wanted or any(term in terms for term in wanted)

    return (
        any_of(filter.subjects, claim.subjects)
        and any_of(filter.predicates, claim.predicates)
        and any_of(filter.contexts, claim.contexts)
        and any_of(filter.actors, claim.actors)
        and _in_time(filter, claim)
    )


def _in_time(filter: attestation_pb2.AttestationFilter, claim: _Claim) -> bool:
    start: Optional[int] = filter.time_start if filter.HasField("time_start") else None
    end: Optional[int] = filter.time_end if filter.HasField("time_end") else None
    return (start is None or claim.timestamp >= start) and (end is None or claim.timestamp <= end)


def _abort(context: grpc.ServicerContext, error: str) -> NoReturn:
    """An error where the reply has no room for one."""
    codes = {
        "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
        "resource_exhausted": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "unavailable": grpc.StatusCode.UNAVAILABLE,
    }
    context.abort(codes.get(error.partition(":")[0], grpc.StatusCode.INVALID_ARGUMENT), error)
    raise AssertionError("abort raises")
