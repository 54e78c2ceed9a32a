"""Why a job is not done, in the three words that a host understands: again, later, never.

A handler raises one of these. Any other exception counts as `Retry`, with its whole chain of causes.
"""

from __future__ import annotations

import math
from typing import Optional


class Failure(Exception):
    """Why a job is not done. Raise `Retry`, `NotNow` or `Permanent`."""

    def __init__(self, reason: object) -> None:
        super().__init__(str(reason))

    @property
    def reason(self) -> str:
        """What is wrong, for people."""
        return str(self.args[0])

    def at(self, place: str) -> "Failure":
        """The same failure, with where it happened before its reason: `where: reason`."""
        return type(self)(f"{place}: {self.reason}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__ and self.args == getattr(other, "args", None)

    __hash__ = Exception.__hash__


class Retry(Failure):
    """Something that may be gone the next time.

    The host tries again, later and later, and gives up after a number of attempts or a day.
    """


class NotNow(Failure):
    """Nothing is wrong, it is only too early or too much. Counts as no attempt."""

    def __init__(self, reason: object, after: Optional[float] = None) -> None:
        """`after`: when to ask again, in seconds, at most a day. Without it the host decides, and sends
        this plugin fewer jobs at a time."""
        if after is not None and not math.isfinite(after):
            raise ValueError(f"NotNow: after is {after}; it must be a number of seconds, or None")
        super().__init__(reason)
        self.after = after

    def at(self, place: str) -> "NotNow":
        return NotNow(f"{place}: {self.reason}", self.after)


class Permanent(Failure):
    """Trying again would end the same way. The job is a dead letter at once."""


class Cancelled(Retry):
    """Nobody waits for this attempt any more: raised by what a handler asks of its job after that.

    Let it pass: the host has given up on this attempt, and the next comes under the same id.
    """


def chain(error: BaseException) -> str:
    """An error with all that caused it, in one line."""
    text = _words(error)
    seen = {id(error)}
    cause = error.__cause__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        reason = _words(cause)
        # Some errors tell their cause themselves.
        if not text.endswith(reason):
            text = f"{text}: {reason}"
        cause = cause.__cause__
    return text


def _words(error: BaseException) -> str:
    """`KeyError: 'x'` rather than `'x'`: in Python the kind of an error is half of what it says."""
    if isinstance(error, Failure):
        return error.reason
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
