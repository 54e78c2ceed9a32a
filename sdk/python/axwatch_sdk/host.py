"""The host, as a plugin asks it: claims to make and to find.

One channel for all of a process, which dials when it is first used. What comes back is sorted once, here: a
host that is away or full is `Retry`, a claim or a question that it refuses is `Permanent` with its own words.

Nothing is tried twice here. A repeated call within one attempt would count as another claim of the same
content, so that trying again is for the next attempt.
"""

from __future__ import annotations

import re
import threading
from typing import Any, Iterable, Iterator, List, Optional, Set, Tuple

import grpc

from ._proto import attestation_pb2
from ._wire import CHANNEL_OPTIONS, Client, status_text
from .claim import Attestation, Claim, Terms, _terms
from .failure import Cancelled, Failure, Permanent, Retry

# Claims of one batch. A host takes 10,000.
_BATCH_CLAIMS_MAX = 1_000
# Encoded bytes of one batch, unless a single claim has more. A host takes 16 MiB.
_BATCH_BYTES_MAX = 2 * 1024 * 1024
# What a host begins an error with that is no fault of the request.
_PASSING = ("unavailable:", "resource_exhausted:", "unauthenticated:")
# Statuses that say that the same call would end the same way.
_FOR_GOOD = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
)
_INT32_MAX = 2**31 - 1


class Attempt:
    """The attempt on whose behalf claims are made, and the calls it has under way, which end with it."""

    def __init__(self, job_id: str = "", attempt: int = 0) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self._lock = threading.Lock()
        self._calls: Set[Any] = set()
        self.is_over = threading.Event()

    def end(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self.is_over.set()
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def check(self) -> None:
        """Raises `Cancelled` once nobody waits for it."""
        if self.is_over.is_set():
            raise Cancelled("the host has given up on this attempt")

    def run(self, call: Any) -> Any:
        """The answer of a call under way, which is cancelled when the attempt ends."""
        with self._lock:
            if not self.is_over.is_set():
                self._calls.add(call)
        try:
            if self.is_over.is_set():
                call.cancel()
            return call.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            self.check()
            raise failure_of_status(error) from None
        finally:
            with self._lock:
                self._calls.discard(call)

    def stream(self, call: Any) -> Iterator[Any]:
        """The answers of a call that has many."""
        with self._lock:
            if not self.is_over.is_set():
                self._calls.add(call)
        try:
            if self.is_over.is_set():
                call.cancel()
            yield from call
        except grpc.RpcError as error:
            self.check()
            raise failure_of_status(error) from None
        finally:
            # Who does not read to the end does not want the rest.
            call.cancel()
            with self._lock:
                self._calls.discard(call)


class Host:
    """The host, for claims and questions that belong to no job.

    Inside a job use `Job.attest` and its neighbours: only claims that name their job are the same claims
    again when the job is tried again.
    """

    def __init__(self, endpoint: str, token: str) -> None:
        self._token = token
        self._channel: Optional[grpc.Channel] = None
        self._store: Optional[Client] = None
        if endpoint:
            self._channel = channel(endpoint)
            self._store = Client(self._channel, "protocol.ATSStoreService")

    def attest(self, claim: Claim) -> Attestation:
        """Makes a claim, and answers with it as it stands in the log.

        `Permanent` for a claim that cannot stand, `Retry` when the host is away.
        """
        return self._attest(claim, Attempt())

    def attest_all(self, claims: Iterable[Claim]) -> int:
        """Makes many claims, in order and in batches that a host takes; each batch stands or falls as a
        whole. Answers how many of them now stand, those that stood before included.

        As `attest`, with which claim it was, counted from 0. Batches before it stand.
        """
        return self._attest_all(claims, Attempt())

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
        """Finds claims, newest first: what AX text asks for, or lists of whole terms that are compared
        exactly (one of each dimension that is named must be there; without any, everything matches).

        `limit`: the newest so many; without it all of it is read into memory. `between`: only claims with a
        timestamp in this range, both ends included, in milliseconds since 1970.

        `Permanent` for a question that is none, `Retry` when the host is away.
        """
        lists = (subjects, predicates, contexts, actors)
        return list(self._find(Attempt(), ax, *lists, limit=limit, between=between))

    def exists(self, id: str) -> bool:
        """Whether a claim with this id is in the log."""
        return self._exists(id, Attempt())

    def _attest(self, claim: Claim, attempt: Attempt) -> Attestation:
        command = _named(claim._command(), attempt)
        request = attestation_pb2.GenerateAttestationRequest(auth_token=self._token, command=command)
        reply = self._call("GenerateAndCreateAttestation", request, attempt)
        if not reply.success:
            raise failure_of_error(reply.error)
        if not reply.HasField("attestation"):
            raise Retry("the host answered without the claim")
        return Attestation._from_wire(reply.attestation)

    def _attest_all(self, claims: Iterable[Claim], attempt: Attempt) -> int:
        commands = []
        # All are looked at before the first is sent.
        for index, claim in enumerate(claims):
            try:
                commands.append(_named(claim._command(), attempt))
            except Failure as failure:
                raise failure.at(f"claims[{index}]") from None
        standing = first = 0
        for batch in batches(commands):
            request = attestation_pb2.BatchGenerateAttestationRequest(auth_token=self._token, commands=batch)
            reply = self._call("BatchGenerateAndCreateAttestations", request, attempt)
            if not reply.success:
                raise failure_of_command(reply.error, first)
            standing += reply.created
            first += len(batch)
        return standing

    def _find(
        self,
        attempt: Attempt,
        ax: str,
        *lists: Terms,
        limit: Optional[int],
        between: Optional[Tuple[int, int]],
    ) -> Iterator[Attestation]:
        # On the wire a limit of 0 would be none.
        if limit is not None and limit <= 0:
            return
        subjects, predicates, contexts, actors = map(_terms, lists)
        # A host would answer the text and pass over the lists.
        if ax and any((subjects, predicates, contexts, actors)):
            raise Permanent("query: AX text and terms together; say the terms in the text")
        filter = attestation_pb2.AttestationFilter(
            subjects=subjects, predicates=predicates, contexts=contexts, actors=actors
        )
        if limit is not None:
            filter.limit = min(limit, _INT32_MAX)
        if between is not None:
            filter.time_start, filter.time_end = between
        request = attestation_pb2.GetAttestationsRequest(auth_token=self._token, filter=filter, ax=ax)
        attempt.check()
        # The stream and not the list, whose replies end at 4 MiB.
        for claim in attempt.stream(self._client()("GetAttestationsStream")(request)):
            yield Attestation._from_wire(claim)

    def _exists(self, id: str, attempt: Attempt) -> bool:
        request = attestation_pb2.AttestationExistsRequest(auth_token=self._token, id=id)
        return bool(self._call("AttestationExists", request, attempt).exists)

    def _call(self, name: str, request: Any, attempt: Attempt) -> Any:
        attempt.check()
        return attempt.run(self._client()(name).future(request))

    def _client(self) -> Client:
        if self._store is None:
            raise Permanent("the host offers no store of claims (no ats_store_endpoint)")
        return self._store

    def __repr__(self) -> str:
        return f"Host(has_store={self._store is not None})"


def _named(command: attestation_pb2.AttestationCommand, attempt: Attempt) -> attestation_pb2.AttestationCommand:
    command.job_id = attempt.job_id
    command.attempt = attempt.attempt
    return command


def channel(endpoint: str) -> grpc.Channel:
    """A channel to `host:port` that dials when it is first used."""
    host, colon, port = endpoint.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise Permanent(f"the host's endpoint {endpoint!r}: it must be host:port")
    return grpc.insecure_channel(endpoint, options=CHANNEL_OPTIONS)


def batches(
    commands: List[attestation_pb2.AttestationCommand],
) -> Iterator[List[attestation_pb2.AttestationCommand]]:
    """Cuts a list into batches, in order."""
    batch: List[attestation_pb2.AttestationCommand] = []
    bytes_so_far = 0
    for command in commands:
        size = command.ByteSize()
        if batch and (len(batch) == _BATCH_CLAIMS_MAX or bytes_so_far + size > _BATCH_BYTES_MAX):
            yield batch
            batch, bytes_so_far = [], 0
        batch.append(command)
        bytes_so_far += size
    if batch:
        yield batch


def failure_of_error(error: str) -> Failure:
    """What a host's `error` means."""
    error = error or "unavailable: the host gave no reason"
    return Retry(error) if error.startswith(_PASSING) else Permanent(error)


def failure_of_command(error: str, first: int) -> Failure:
    """The same of a batch, where the host may say `commands[3]: `, counted within the batch.

    `first` is the number of the batch's first claim among all of them.
    """
    numbered = re.match(r"commands\[(\d+)\]: (.*)", error, re.S)
    if numbered is None:
        return failure_of_error(error)
    return failure_of_error(numbered[2]).at(f"claims[{first + int(numbered[1])}]")


def failure_of_status(error: BaseException) -> Failure:
    """What a gRPC status means."""
    if isinstance(error, grpc.Call):
        if error.code() in _FOR_GOOD:
            return Permanent(error.details() or error.code().name)
        return Retry(f"the host did not answer: {status_text(error)}")
    return Retry("the host did not answer: the call was cancelled")
