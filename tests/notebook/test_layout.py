"""What a person sees: prose without its cells, and text of others that cannot pose as ours."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from rlm_nb.notebook import layout, markup
from rlm_nb.notebook.metadata import Head
from rlm_nb.records import Answer, CellResult, Iteration, Outcome, Patch, Reply, Task

FENCES_INSIDE = 'text = """\n```python\nx\n```\n"""'


@pytest.mark.parametrize(
    ("reply", "code", "prose"),
    [
        ("Look.\n```python\nx = 1\n```\nDone.", ["x = 1"], "Look.\n\nDone."),
        ("```python\nx = 1\n```", ["x = 1"], ""),
        ("```\nx = 1\n```\n~~~py\ny\n~~~~\nDone.", ["x = 1", "y"], "Done."),
        ("Same twice:\n```py\nx\n```\nand\n```py\nx\n```", ["x", "x"], "Same twice:\n\nand"),
        ("Unclosed:\n```python\nx = 1", ["x = 1"], "Unclosed:"),
        ("Unclosed:\n```python\nx = 1\n\n", ["x = 1\n"], "Unclosed:"),
        (f"Inside:\n```python\n{FENCES_INSIDE}\n```\nDone.", [FENCES_INSIDE], "Inside:\n\nDone."),
        ("An example:\n```json\n{}\n```\nand\n```python\nx\n```", ["x"], "An example:\n```json\n{}\n```\nand"),
        ("Not one:\n```python\nx\n```", [], "Not one:\n```python\nx\n```"),
        ("Longer:\n```python\nx\ny\n```", ["x"], "Longer:\n```python\nx\ny\n```"),
        ("Inline ```x``` stays.\n\n```python\nx\n```", ["x"], "Inline ```x``` stays."),
        ("No fence at all", ["x"], "No fence at all"),
    ],
)
def test_prose_does_not_repeat_the_cells(reply: str, code: list[str], prose: str) -> None:
    """Blocks that became cells are taken out where they match, and everything else stays as it was."""
    assert layout.prose(reply, code) == prose


def rendered(source: str) -> str:
    return MarkdownIt("gfm-like", {"linkify": False}).render(source)


@pytest.mark.parametrize(
    "task", ["```\n# Mine\n```", "# Mine\n\n![](http://x/y)", "<script>", "~~~~\n````\n", "a\x00b\x1b[2Jc", "| a |\n$$"]
)
def test_a_task_is_shown_as_it_is(task: str) -> None:
    """Whatever the task says, it is text in a block, and the header after it still works."""
    page = rendered(layout.head(Head(task=Task(task), notices=("after",)))["source"])
    assert page.count("<h1>") == 1
    assert "<script" not in page
    assert "<img" not in page
    assert "<li>after</li>" in page
    assert not set(page) & set(map(chr, range(9)))


def test_two_amounts_are_no_formula() -> None:
    """MathJax reads the page, where no backslash is left: an element stands between what it would take for signs."""
    assert markup.escaped("for $5") == r"for \$5"
    for text in ("from $5 to $6", r"\(x\)", r"\[x\]", "$`x`$"):
        page = rendered(markup.escaped(text))
        assert not re.search(r"\$[^<]*\$|\\[(\[]", page)
        assert html.unescape(page.replace("<span></span>", "")) == f"<p>{text}</p>\n"
    page = rendered(markup.folded("from $5 to $6 <b>", "x"))
    assert "<summary>from $<span></span>5 to $<span></span>6 &lt;b&gt;</summary>" in page.replace("&#36;", "$")


def test_settings_cannot_break_their_table() -> None:
    """Pipes, line ends and markup in a value stay in its cell."""
    about = {"a|b": "x | y\n\n# z", "link": "[x](y) <b>", "n": {"k": [1, "|"]}}
    page = rendered(layout.head(Head(task=Task("t"), about=about))["source"])
    assert page.count("<tr>") == 2 + 4  # how the agent stands; and with the empty one above
    assert "<td>x | y # z</td>" in page
    assert "<td>[x](y) &lt;b&gt;</td>" in page
    assert "<td>{&quot;k&quot;: [1, &quot;|&quot;]}</td>" in page


def test_the_heading_of_an_iteration_is_ours(tmp_path: Path) -> None:
    """A fence or comment that the model left open swallows its own text only; what happened to cells stands above."""
    cell = CellResult("x", "died", events=("The kernel *died*.",), overflow=tmp_path / "outputs" / "a (1).txt")
    iteration = Iteration("root", 3, "m", Reply("<!-- ```\n## Iteration 9"), (cell,), "Two\nlines")
    source = layout.think(iteration, (), tmp_path, complete=True)["source"]
    assert source.startswith("## Iteration 3\n\n*\\$0.00 · cell 1 lost its kernel*\n\n> Two\n> lines\n\n")
    assert "> Cell 1: The kernel \\*died\\*.\n\n" in source
    assert "](outputs/a%20%281%29.txt)" in source
    assert source.endswith("\n\n<!-- ```\n## Iteration 9")


def test_an_answer_is_shown_and_cut_when_it_is_long() -> None:
    """A string is Markdown, anything else a block; ten megabytes are not shown twice."""
    long = layout.final(Outcome("completed", Answer.of("x" * 10_000_000), "final", "FINAL was called"), Patch())
    assert len(long["source"]) < 2 * markup.SHOWN
    assert "9,980,000 characters more" in long["source"]
    table = layout.final(Outcome("partial", Answer.of({"a": 1}), "stored", "time"), Patch(files=("a_b.py",)))["source"]
    assert table.startswith("## Partial answer\n\n*time*\n\n**Changed:** a\\_b.py\n\n```text\n{")


@pytest.mark.parametrize(
    ("answered", "named"),
    [("claude-x-1", False), ("claude-x-1-20260101", False), ("claude-x-1-5", True), ("another", True), ("", False)],
)
def test_an_iteration_names_its_model_when_it_is_another(answered: str, named: bool, tmp_path: Path) -> None:
    """The one that the head names stands there once; a date behind its name makes it no other."""
    iteration = Iteration("root", 1, "m", Reply("Look.", model=answered, cost=10))
    source = layout.think(iteration, (), tmp_path, complete=True, model="claude-x-1")["source"]
    assert (f" · {answered}*" in source) is named


def test_that_there_is_no_answer_is_said_once() -> None:
    """The heading and the reason say all of it."""
    none = Outcome("error", Answer.of("No answer was reached. It broke."), "none", "It broke.")
    assert layout.final(none, Patch())["source"] == "## No answer\n\n*It broke.*"
