"""Texts within bounds."""

from __future__ import annotations


def cut(text: str, bytes_max: int) -> str:
    """The beginning of a text that has at most so many bytes of UTF-8, without half a character.

    What is no text at all, such as half of a surrogate pair, becomes a question mark: it cannot travel.
    """
    encoded = text.encode("utf-8", "replace")
    return encoded[:bytes_max].decode("utf-8", "ignore")
