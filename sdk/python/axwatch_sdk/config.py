"""The plugin's own table of `am.toml`, as the host hands it over."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List, Mapping, Optional, TypeVar, Union

from ._text import cut
from .failure import Permanent

_VALUE_BYTES_SHOWN = 80

T = TypeVar("T")


class _Missing:
    """Stands for "it has to be there"."""


_MISSING = _Missing()


class Config(Mapping[str, str]):
    """The plugin's own table: nested keys joined with dots, scalars as text, lists as JSON.

    As a mapping it has the texts. `string`, `integer`, `number`, `boolean`, `array` and `json` read them as
    what they are to be: the second argument is what counts when nothing is set, and without one the key
    has to be there. What does not do is `Permanent`, with the key, its text and what was expected.

    `repr` shows the keys only, since values may be secrets.
    """

    def __init__(self, entries: Optional[Mapping[str, str]] = None) -> None:
        self._entries: Dict[str, str] = dict(entries or {})

    def string(self, key: str, default: Union[T, _Missing] = _MISSING) -> Union[str, T]:
        """A text."""
        return self._entries[key] if key in self._entries else self._absent(key, default)

    def integer(self, key: str, default: Union[T, _Missing] = _MISSING) -> Union[int, T]:
        """A whole number."""
        if key not in self._entries:
            return self._absent(key, default)
        value = self._read(key, "a whole number")
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, "a whole number")
        return value

    def number(self, key: str, default: Union[T, _Missing] = _MISSING) -> Union[float, T]:
        """A number."""
        if key not in self._entries:
            return self._absent(key, default)
        value = self._read(key, "a number")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong(key, "a number")
        return float(value)

    def boolean(self, key: str, default: Union[T, _Missing] = _MISSING) -> Union[bool, T]:
        """True or false."""
        if key not in self._entries:
            return self._absent(key, default)
        value = self._read(key, "true or false")
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def array(self, key: str, default: Union[T, _Missing] = _MISSING) -> Union[List[Any], T]:
        """A list, such as `hosts = ["a", "b"]`."""
        if key not in self._entries:
            return self._absent(key, default)
        value = self._read(key, "a list")
        if not isinstance(value, list):
            raise self._wrong(key, "a list")
        return value

    def json(self, key: str, default: Union[T, _Missing] = _MISSING) -> Any:
        """Whatever it is, read as JSON."""
        return self._read(key, "JSON") if key in self._entries else self._absent(key, default)

    def with_prefix(self, prefix: str) -> Dict[str, str]:
        """What stands under the keys that begin with this prefix, by the rest of the key, in order."""
        found = sorted(key for key in self._entries if key.startswith(prefix))
        return {key[len(prefix) :]: self._entries[key] for key in found}

    def _read(self, key: str, wanted: str) -> Any:
        try:
            return json.loads(self._entries[key])
        except ValueError:
            raise self._wrong(key, wanted) from None

    def _absent(self, key: str, default: Union[T, _Missing]) -> T:
        if isinstance(default, _Missing):
            raise Permanent(f"config: {key} is not set; set it in the plugin's own table")
        return default

    def _wrong(self, key: str, wanted: str) -> Permanent:
        shown = json.dumps(cut(self._entries[key], _VALUE_BYTES_SHOWN), ensure_ascii=False)
        return Permanent(f"config: {key} = {shown} does not do: it must be {wanted}")

    def __getitem__(self, key: str) -> str:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Config({', '.join(self)})"
