"""The ways into a long text, where whoever writes a task looks for them; `rlm_nb/context_access` has them."""

from rlm_nb.context_access import (
    Context,
    SearchMatch,
    context_around_match,
    context_chunks,
    context_head,
    context_search,
    context_slice,
    context_tail,
)

__all__ = [
    "Context",
    "SearchMatch",
    "context_around_match",
    "context_chunks",
    "context_head",
    "context_search",
    "context_slice",
    "context_tail",
]
