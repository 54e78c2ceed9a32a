"""Calls of the plugin's own functions, each of which may be `async`."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Awaitable, Callable


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function answers; one that is `async` runs in a loop of its own."""
    answer = function(*arguments)
    if not inspect.isawaitable(answer):
        return answer
    try:
        return asyncio.run(_awaited(answer))
    except asyncio.CancelledError as error:
        # It is no `Exception`, and would pass by those who answer for the function.
        raise RuntimeError("it awaited what was cancelled") from error


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer
