"""JSON as nbformat writes it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rlm_nb.notebook.indented import dumps


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        (),
        "",
        'quoted "text"\\ \x00\x1f\x7f\u2028é😀\ud800\n',
        [True, False, None, 0, -1, 10**30, 1.5, -0.0, 1e300, 5e-324],
        {"b": [{}, [], {"": [[]]}], "a": {"z": 1, "é": {"y": [1, "x", ["\n"]]}}},
        {"empty": {"list": [], "dict": {}, "tuple": ()}, "nested": [[1, [2, [3]]]]},
        ["line\n"] * 3,
    ],
    ids=repr,
)
def test_it_is_what_the_standard_library_writes(value: Any) -> None:
    """To the byte."""
    options: dict[str, Any] = {"indent": 1, "sort_keys": True, "ensure_ascii": False, "separators": (",", ": ")}
    assert dumps(value) == json.dumps(value, **options)


@pytest.mark.parametrize(
    ("value", "error"), [(float("nan"), ValueError), ([float("inf")], ValueError), ({1j}, TypeError)]
)
def test_what_json_cannot_hold(value: Any, error: type[Exception]) -> None:
    """It raises, as the standard library does."""
    with pytest.raises(error):
        dumps({"a": value})
