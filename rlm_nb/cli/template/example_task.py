"""A bounded task to begin with: `rlm-nb task FILE --task tasks.example_task:main_points`."""

from __future__ import annotations

from typing import Any

from rlm_nb.tasks import Context, context_chunks, partial, semantic_subcall


def main_points(context: str | Context) -> dict[str, Any]:
    """The main point of each of the first chunks of a text."""
    points: list[dict[str, Any]] = []
    found = {"points": points, "count": 0}
    partial(found)  # whatever limit ends this task, what is in here by then is its result

    # Python narrows the text down. No model sees it as a whole.
    for start, end, chunk in context_chunks(context, 2000, overlap=100):
        # A model reads one bounded chunk.
        point = semantic_subcall("What is the main point of this text? One sentence.", chunk)
        # Python puts the answer together.
        points.append({"start": start, "end": end, "point": point})
        found["count"] = len(points)
        if len(points) == 5:
            break
    return found
