"""A long text that stays outside of prompts, and the functions that look into it.

`functions.py` has the functions, `mapped.py` the text in a file, `searching.py` what finds patterns in both.
"""

from rlm_nb.context_access.functions import (
    TIMEOUT,
    SearchMatch,
    Seen,
    Text,
    context_around_match,
    context_chunks,
    context_head,
    context_search,
    context_slice,
    context_tail,
    listener,
)
from rlm_nb.context_access.mapped import IN_MEMORY, Context

__all__ = [
    "IN_MEMORY",
    "TIMEOUT",
    "Context",
    "SearchMatch",
    "Seen",
    "Text",
    "context_around_match",
    "context_chunks",
    "context_head",
    "context_search",
    "context_slice",
    "context_tail",
    "listener",
]
