"""Variables of a notebook as the context of an agent: a text that it finds in its REPL."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlm_nb.errors import ContextError


def context_of(names: Sequence[str], namespace: Mapping[str, Any]) -> tuple[io.StringIO, str]:
    """The text, and a sentence that tells the agent what it is.

    One variable is its text: a string as it is, a table (whatever has `to_csv`) as CSV, anything else as JSON. Several
    are one JSON object by their names.

    Raises:
        ContextError: There is no such variable, or it has no text that holds all of it.
    """
    missing = [name for name in names if name not in namespace]
    if missing:
        raise ContextError(f"there is no variable {missing[0]!r} in this notebook")
    texts = {name: _text(name, namespace[name]) for name in names}
    if len(texts) == 1:
        ((name, (text, what)),) = texts.items()
        return io.StringIO(text), f"`context` holds the variable `{name}` of the user's notebook: {what}."
    whole = {name: json.loads(text) if what == JSON else text for name, (text, what) in texts.items()}
    each = ", ".join(f"`{name}` ({what})" for name, (_, what) in texts.items())
    said = f"`context` is a JSON object with variables of the user's notebook by their names: {each}."
    return io.StringIO(json.dumps(whole, ensure_ascii=False)), said


TEXT, CSV, JSON = "a text", "a table, as CSV", "its value as JSON"


def _text(name: str, value: Any) -> tuple[str, str]:
    if isinstance(value, str):
        return value, TEXT
    if callable(getattr(value, "to_csv", None)):
        return str(value.to_csv()), CSV
    try:
        return json.dumps(value, ensure_ascii=False, indent=1), JSON
    except (TypeError, ValueError, RecursionError):
        kind = type(value).__name__
        raise ContextError(
            f"{name} is a {kind}, which is neither a text nor a table nor a value that JSON can hold: give a text of it"
        ) from None
