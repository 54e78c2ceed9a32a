"""Claims: what a plugin wants to have in the log, and what the log holds.

A `Claim` is checked here by the host's own rules and in its words, so that a bad one is found where it was
made; the host decides all the same.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Iterable, List, Mapping, Optional, Union

from google.protobuf import struct_pb2

from ._proto import attestation_pb2
from ._text import cut
from .failure import Permanent

_TERMS_MAX = 100
_TERM_BYTES_MAX = 1_000
_SOURCE_BYTES_MAX = 1_000
_ID_BYTES_MAX = 256
_ATTRIBUTES_BYTES_MAX = 1024 * 1024
# Nested objects and lists in the attributes, the outermost counted. The host takes 64 levels, and what
# decodes its messages stops at 100 nested ones: two around the attributes, three a level.
_ATTRIBUTES_DEPTH_MAX = 33
# Up to here, on both sides of zero, the double of the wire counts whole numbers one by one.
_WHOLE_MAX = 1 << 53
# Timestamps below this are seconds: as milliseconds they would lie before March 1973.
_MILLISECONDS_FROM = 100_000_000_000
# The last millisecond of 9999-12-30, and the last that the log can write.
_TIMESTAMP_MS_MAX = 253_402_207_200_999

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

#: One term, or several.
Terms = Union[str, Iterable[str]]


class Claim:
    """A claim to be made: who says what about whom, in which context.

    `Claim("ALICE", "author", "GitHub")` is `ALICE is author of GitHub`. Each of the dimensions takes a text
    or several: at most 100 terms of 1 to 1,000 bytes. What is left out the host fills in: predicates and
    contexts with `_`, the actor with the claim's own id, the timestamp with now, the source with the
    plugin's name.
    """

    def __init__(
        self,
        subjects: Terms,
        predicates: Terms = (),
        contexts: Terms = (),
        actors: Terms = (),
        *,
        attributes: Optional[Mapping[str, Any]] = None,
        id: Optional[str] = None,
        timestamp: Union[int, datetime] = 0,
        source: str = "",
    ) -> None:
        """
        `attributes`: what else is said, at most 1 MiB of JSON nested 33 levels deep. The wire knows doubles
        only: a whole number beyond 2⁵³ is refused rather than rounded; give it as text.

        `id`: one of your own, 1 to 256 bytes. The same claim again under its id is no second one, whoever
        makes it and whenever; another claim under it is refused. Without one a claim made on behalf of a
        job gets an id computed from the job and its content.

        `timestamp`: when it was so: milliseconds since 1970 or an aware `datetime`; 0 for now.

        `source`: by which program it was found, instead of the plugin's name.
        """
        self.subjects = _terms(subjects)
        self.predicates = _terms(predicates)
        self.contexts = _terms(contexts)
        self.actors = _terms(actors)
        self.attributes: Dict[str, Any] = dict(attributes or {})
        self.id = id
        self.timestamp_ms = _milliseconds(timestamp)
        self.source = source

    def _command(self) -> attestation_pb2.AttestationCommand:
        """The message for a host, or the permanent failure that says why no host would take it."""
        _check_id(self.id)
        if not self.subjects:
            raise Permanent("subjects: at least one is needed")
        for dimension in ("subjects", "predicates", "contexts", "actors"):
            _check_terms(dimension, getattr(self, dimension))
        source_bytes = len(_encoded("source", self.source))
        if source_bytes > _SOURCE_BYTES_MAX:
            raise Permanent(f"source: {source_bytes} bytes; at most {_SOURCE_BYTES_MAX} are allowed")
        _check_timestamp(self.timestamp_ms)
        command = attestation_pb2.AttestationCommand(
            id=self.id or "",
            subjects=self.subjects,
            predicates=self.predicates,
            contexts=self.contexts,
            actors=self.actors,
            source=self.source,
        )
        if self.timestamp_ms:
            command.timestamp = self.timestamp_ms
        if self.attributes:
            command.attributes.CopyFrom(_struct(self.attributes))
        return command

    def __repr__(self) -> str:
        return f"Claim({self.subjects!r}, {self.predicates!r}, {self.contexts!r}, {self.actors!r})"


def _terms(terms: Terms) -> List[str]:
    return [terms] if isinstance(terms, str) else list(terms)


def _milliseconds(timestamp: Union[int, datetime]) -> int:
    if not isinstance(timestamp, datetime):
        return timestamp
    if timestamp.tzinfo is None:
        raise Permanent(f"timestamp: {timestamp.isoformat()} says no time zone; give it one")
    return (timestamp - _EPOCH) // timedelta(milliseconds=1)


def _encoded(field_name: str, text: str) -> bytes:
    if not isinstance(text, str):
        raise Permanent(f"{field_name}: {text!r} is no text")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Permanent(f"{field_name}: no UTF-8: {error}") from None


def _check_id(id: Optional[str]) -> None:
    if id is None:
        return
    if not 1 <= len(_encoded("id", id)) <= _ID_BYTES_MAX:
        rule = "it must have 1 to 256 bytes"
    elif any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in id):
        rule = "it must not hold control characters"
    else:
        return
    raise Permanent(f"id: attestation id {json.dumps(cut(id, 80), ensure_ascii=False)} is not valid: {rule}")


def _check_terms(dimension: str, terms: List[str]) -> None:
    if len(terms) > _TERMS_MAX:
        raise Permanent(f"{dimension}: {len(terms)} terms; at most {_TERMS_MAX} are allowed")
    for index, term in enumerate(terms):
        found = len(_encoded(f"{dimension}[{index}]", term))
        if not 1 <= found <= _TERM_BYTES_MAX:
            raise Permanent(f"{dimension}[{index}]: {found} bytes; a term has 1 to {_TERM_BYTES_MAX}")


def _check_timestamp(ms: int) -> None:
    if ms == 0 or _MILLISECONDS_FROM <= ms <= _TIMESTAMP_MS_MAX:
        return
    if ms < _MILLISECONDS_FROM:
        raise Permanent(f"timestamp: {ms} looks like seconds; it must be milliseconds since 1970, and 0 means now")
    raise Permanent(f"timestamp: {ms} is not in milliseconds since 1970 a time before the year 10000")


def _struct(attributes: Mapping[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    for key, value in attributes.items():
        _encoded("attributes: a key", key)
        struct.fields[key].CopyFrom(_value(key, value, 1))
    found = len(json.dumps(attributes, ensure_ascii=False, separators=(",", ":")).encode())
    if found > _ATTRIBUTES_BYTES_MAX:
        raise Permanent(f"attributes have {found} bytes; at most {_ATTRIBUTES_BYTES_MAX} are allowed")
    return struct


def _value(key: str, value: Any, depth: int) -> struct_pb2.Value:
    """`depth` is how many levels stand around the value."""
    if value is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, str):
        _encoded(f"attributes: {key}", value)
        return struct_pb2.Value(string_value=value)
    if isinstance(value, (int, float)):
        return struct_pb2.Value(number_value=_double(key, value))
    if isinstance(value, (Mapping, list, tuple)) and depth >= _ATTRIBUTES_DEPTH_MAX:
        raise Permanent(f"attributes: {key} nests deeper than {_ATTRIBUTES_DEPTH_MAX} levels")
    if isinstance(value, Mapping):
        inner = struct_pb2.Struct()
        for name, item in value.items():
            _encoded(f"attributes: a key in {key}", name)
            inner.fields[name].CopyFrom(_value(key, item, depth + 1))
        return struct_pb2.Value(struct_value=inner)
    if isinstance(value, (list, tuple)):
        items = struct_pb2.ListValue(values=[_value(key, item, depth + 1) for item in value])
        return struct_pb2.Value(list_value=items)
    raise Permanent(f"attributes: {key} is a {type(value).__name__}, which has no JSON")


def _double(key: str, number: Union[int, float]) -> float:
    if isinstance(number, int) and abs(number) > _WHOLE_MAX:
        raise Permanent(f"attributes: {key} is {number}, which the wire would round; give it as text")
    if not math.isfinite(number):
        raise Permanent(f"attributes: {key} is {number}, which has no JSON")
    return float(number)


@dataclass(frozen=True)
class Attestation:
    """A claim of the log. Its JSON is the payload of a fire."""

    #: Unique in its store.
    id: str
    #: Whom it is about. At least one.
    subjects: List[str]
    #: What is claimed.
    predicates: List[str] = field(default_factory=list)
    #: In which context.
    contexts: List[str] = field(default_factory=list)
    #: Who claims it.
    actors: List[str] = field(default_factory=list)
    #: When it was so, by its author: RFC 3339 in UTC.
    timestamp: str = ""
    #: When it was appended, by the store: RFC 3339 in UTC.
    created_at: str = ""
    #: Which program found it.
    source: str = ""
    #: What else is said.
    attributes: Dict[str, Any] = field(default_factory=dict)
    #: Its number in the log, from 1; 0 in the payload of a fire, which does not say it.
    seq: int = 0

    @property
    def subject(self) -> str:
        """The first subject: most claims have one."""
        return self.subjects[0] if self.subjects else ""

    def to_json(self) -> Dict[str, Any]:
        """As the payload of a fire has it."""
        shown: Dict[str, Any] = {name: getattr(self, name) for name in _PAYLOAD_KEYS}
        if self.attributes:
            shown["attributes"] = self.attributes
        return shown

    @staticmethod
    def from_payload(payload: bytes) -> "Attestation":
        """Reads the payload of a fire. A `ValueError` says why it is none."""
        found = json.loads(payload)
        if not isinstance(found, dict):
            raise ValueError("an attestation is a JSON object")
        known = {name: found[name] for name in (*_PAYLOAD_KEYS, "attributes", "seq") if name in found}
        for name in ("subjects", "predicates", "contexts", "actors"):
            terms = known.get(name, [])
            if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
                raise ValueError(f"{name} is no list of texts")
        for name in ("id", "timestamp", "created_at", "source"):
            if not isinstance(known.get(name, ""), str):
                raise ValueError(f"{name} is no text")
        if not isinstance(known.get("attributes", {}), dict):
            raise ValueError("attributes is no object")
        if not known.get("id") or not known.get("subjects"):
            raise ValueError("an attestation has an id and subjects")
        return Attestation(**known)

    @staticmethod
    def _from_wire(claim: attestation_pb2.Attestation) -> "Attestation":
        return Attestation(
            id=claim.id,
            subjects=list(claim.subjects),
            predicates=list(claim.predicates),
            contexts=list(claim.contexts),
            actors=list(claim.actors),
            timestamp=_rfc3339(claim.timestamp),
            created_at=_rfc3339(claim.created_at),
            source=claim.source,
            attributes=_plain_struct(claim.attributes),
            seq=claim.seq,
        )


_PAYLOAD_KEYS = ("id", "subjects", "predicates", "contexts", "actors", "timestamp", "created_at", "source")


def _rfc3339(ms: int) -> str:
    """As the payload of a fire has it: UTC, milliseconds only when there are some."""
    try:
        time = _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        time = datetime.max.replace(tzinfo=timezone.utc) if ms > 0 else datetime.min.replace(tzinfo=timezone.utc)
    text = time.strftime("%Y-%m-%dT%H:%M:%S").zfill(19)
    return f"{text}.{ms % 1_000:03}Z" if ms % 1_000 else f"{text}Z"


def _plain_struct(struct: struct_pb2.Struct) -> Dict[str, Any]:
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _plain_struct(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        # The wire has doubles only, and 2.0 is how it writes 2.
        return int(number) if number.is_integer() and abs(number) <= _WHOLE_MAX else number
    if kind in ("bool_value", "string_value"):
        return getattr(value, kind)
    return None
