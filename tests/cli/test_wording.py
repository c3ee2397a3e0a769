from __future__ import annotations

import pytest

from rlm_nb.cli.wording import code_headline, head, outputs_text, tokens
from rlm_nb.records import Usage


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("# look around\nimport os\nfrom pathlib import Path\n\nprint(os.listdir())", "print(os.listdir())"),
        ("import os", "import os"),
        ("# nothing", ""),
        ("", ""),
        ("important = 1", "important = 1"),
    ],
)
def test_a_cell_is_told_by_its_first_act(code: str, line: str) -> None:
    """Comments say little and imports less."""
    assert code_headline(code) == line


def test_a_head_says_what_it_leaves_out() -> None:
    """A line is never spent on saying that one more line follows."""
    assert head("1\n2\n3", lines=2) == ["1", "2", "3"]
    assert head("1\n2\n3\n4", lines=2) == ["1", "2", "… 2 more lines"]


def test_outputs_as_text() -> None:
    """Streams, results, errors, and a word for what has no text."""
    outputs = (
        {"output_type": "stream", "name": "stdout", "text": ["a\n", "b\n"]},
        {"output_type": "execute_result", "data": {"text/plain": "42"}, "metadata": {}, "execution_count": 1},
        {"output_type": "display_data", "data": {"image/png": "…"}, "metadata": {}},
        {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": []},
    )
    assert outputs_text(outputs) == "a\nb\n42\n[image/png]\nKeyError: 'x'"


def test_tokens_are_told_in_four_figures_at_most() -> None:
    """Read and written together, large counts in thousands and millions."""
    counts = [Usage(n, 1, 1, 1) for n in (0, 996, 12_345, 1_200_000)]
    assert [tokens(usage) for usage in counts] == ["3", "999", "12.3k", "1.2M"]
