"""What the tests share: a plugin whose handler is what the test says, and waiting for what must come."""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Optional, TypeVar

from axwatch_sdk import Job, Plugin
from axwatch_sdk.testing import TestJob

#: How long anything that has to happen may take on a busy machine, in seconds.
PATIENCE = 60.0

#: The program `axwatch` that somebody wants tested, who wants no test skipped.
NAMED = os.environ.get("AXWATCH_BIN")

T = TypeVar("T")


def scripted(work: Callable[[Job], Any], **about: Any) -> Plugin:
    """A plugin `scripted` with one handler, `scripted.work`."""
    plugin = Plugin("scripted", "1.2.3", "does what a test says", author="a test", license="MIT", **about)
    plugin.add_handler("scripted.work", work)
    return plugin


def job() -> TestJob:
    """A job for it."""
    return TestJob("scripted.work")


def until(what: str, look: Callable[[], Optional[T]]) -> T:
    """Looks until there is an answer. `what` says in words what is waited for."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE} s: {what}")
        time.sleep(0.01)
