from __future__ import annotations

import pytest

from rlm_nb.notebook.wording import duration, headline, money, printable


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
        ("one\r\ntwo\rover", "one\ntwo\nover"),
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


def test_money_is_never_so_rounded_that_a_small_sum_reads_as_nothing() -> None:
    """Cents, and small sums to a hundredth of a cent."""
    assert [money(m) for m in (0, 100, 1_234, 99_999, 5_000_000, 1_234_560_000)] == [
        "$0.00", "$0.0001", "$0.0012", "$0.1000", "$5.00", "$1,234.56",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0s"), (0.42, "0.4s"), (9.94, "9.9s"), (9.96, "10s"), (59.6, "1m00s"), (125.4, "2m05s"), (3599.4, "59m59s"),
     (3600, "1h00m"), (7320, "2h02m"), (100 * 3600, "4d"), (1e308, "more than 1,000 years")],
)  # fmt: skip
def test_durations_read_well(seconds: float, text: str) -> None:
    """Short ones to a tenth, long ones in two units, and what is beyond all measure in words."""
    assert duration(seconds) == text
