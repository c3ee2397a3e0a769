from __future__ import annotations

import pytest

from rlm_nb.cli.wording import code_headline, duration, head, headline, money, outputs_text, printable, tokens
from rlm_nb.records import Usage


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nin lines", "plain\ttext\nin lines"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]never ended\nnext line", "\nnext line"),
        ("\x1bcreset", "reset"),
        ("\x9b31mred", "31mred"),
        ("a\x00b\x07c\x08d\x7fe", "abcde"),
        ("one\r\ntwo\rover", "one\ntwoover"),
        ("user\u202etxt.exe", "usertxt.exe"),
        ("é 漢 🙂", "é 漢 🙂"),
        ("[bold]kept[/bold]", "[bold]kept[/bold]"),
    ],
)
def test_what_reaches_a_terminal_cannot_command_it(text: str, shown: str) -> None:
    """Escape sequences and control characters go, all other text stays."""
    assert printable(text) == shown


def test_a_hundred_thousand_escapes_take_no_time() -> None:
    """No input makes the search for escape sequences slow."""
    assert printable("\x1b]" * 100_000) == ""


def test_a_headline_is_one_line() -> None:
    """The first line that says anything, its blanks collapsed."""
    assert headline("\n\n  a   \x1b[2Jtask\tto do \nmore") == "a task to do"
    assert headline("") == ""


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


def test_numbers() -> None:
    """Short, and never so rounded that a small sum reads as nothing."""
    assert [money(m) for m in (0, 100, 1_234, 99_999, 5_000_000, 1_234_560_000)] == [
        "$0.00", "$0.0001", "$0.0012", "$0.1000", "$5.00", "$1,234.56",
    ]  # fmt: skip
    assert [duration(s) for s in (-1, 0.4, 59.9, 60, 3599, 3600)] == ["0s", "0s", "59s", "1m00s", "59m59s", "1h00m"]
    assert [tokens(Usage(input_tokens=n)) for n in (0, 999, 12_345, 1_200_000)] == ["0", "999", "12.3k", "1.2M"]
