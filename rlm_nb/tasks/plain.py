"""Whatever a task returns, in a form that JSON has: in bounded time, and without iterating over what may not end."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections import deque
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from datetime import date, time, timedelta
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from rlm_nb.records import JSON

DEEPEST = 100
"""Levels of a value that keep their form; what is below is text. Readers of JSON, too, refuse it at some depth."""

PARTS = 250_000
"""Parts of a value that keep their form: one that holds itself many times over would be endless in JSON."""

LONGEST = 10_000
"""Characters of the text of what has no form in JSON."""

WIDEST = 4096
"""Bits of the largest whole number: Python writes no more than 4,300 digits, and others read fewer."""


def plain(value: Any) -> JSON:
    """The value as JSON has it; what has no form there as its text, of `LONGEST` characters at most."""
    return _Form().of(value, ())


def text(value: object) -> str:
    """What `str` gives, bounded, without lone surrogates; for a value that refuses, that it does."""
    try:
        # The text of a container may be far longer than what it holds.
        whole = reprlib.repr(value) if isinstance(value, dict | list | tuple | set | frozenset | deque) else str(value)
    except Exception as error:  # noqa: BLE001 - its own code, which may raise anything
        if isinstance(value, int):
            return hex(value)[:LONGEST]
        return f"<{type(value).__name__}, whose text cannot be had: {type(error).__name__}>"
    whole = _encodable(whole)
    return whole if len(whole) <= LONGEST else f"{whole[:LONGEST]}… ({len(whole):,} characters)"


class _Form:
    """One value, while it is given its form."""

    def __init__(self) -> None:
        self._left = PARTS

    def of(self, value: Any, above: tuple[int, ...]) -> JSON:
        self._left -= 1
        if self._left < 0 or len(above) >= DEEPEST or id(value) in above:
            return text(value) if self._left >= 0 else "… (the rest is left out: too many parts)"
        try:
            return self._form(value, (*above, id(value)))
        except Exception:  # noqa: BLE001 - its own code, which may raise anything
            return text(value)

    def _form(self, value: Any, above: tuple[int, ...]) -> JSON:
        match value:
            case None | bool():
                return value
            case Enum():
                return self.of(value.value, above)
            case int():
                return int(value) if value.bit_length() <= WIDEST else text(value)
            case float():
                return float(value) if math.isfinite(value) else _NAMES.get(float(value), "NaN")
            case str():
                return _encodable(value)
            case bytes() | bytearray():
                return bytes(value).decode("utf-8", "backslashreplace")
            case dict():
                return {self._key(key): self.of(item, above) for key, item in self._some(list(value.items()))}
            case list() | tuple() | set() | frozenset() | deque() | KeysView() | ValuesView() | ItemsView():
                return [self.of(item, above) for item in self._some(list(value))]
            case BaseModel():
                return self.of(value.model_dump(), above)
            case date() | time() | timedelta():
                form: JSON = to_jsonable_python(value)
                return form
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: self.of(getattr(value, field.name), above) for field in dataclasses.fields(value)}
        return text(value)

    def _some(self, items: list[Any]) -> Iterator[Any]:
        """The items; when there are too many parts, one more, which is text, and no further."""
        for item in items:
            yield item
            if self._left < 0:
                return

    def _key(self, key: Any) -> str:
        form = self.of(key, ())
        if isinstance(form, str):
            return form
        return text(key) if isinstance(form, dict | list) else str(form)


_NAMES = {math.inf: "Infinity", -math.inf: "-Infinity"}


def _encodable(text: str) -> str:
    return str(text).encode("utf-8", "backslashreplace").decode()
