"""nbformat and jsonschema, imported without a part that takes two seconds and that nobody here needs.

Where JupyterLab is installed, so is `rfc3987_syntax`, and jsonschema builds its grammar of IRIs whenever it is
imported, lest a schema ask for the format `iri`. Ours do not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _left_out(name: str) -> Iterator[None]:
    """While the block runs, a module that is not loaded yet cannot be found."""
    there = name in sys.modules
    if not there:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not there:
            del sys.modules[name]


with _left_out("rfc3987_syntax"):
    import jsonschema
    import nbformat
    import nbformat.v4.rwbase
    import nbformat.validator

__all__ = ["jsonschema", "nbformat"]
