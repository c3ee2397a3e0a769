"""The cells of a reply: what counts as code, and what only looks like it."""

from __future__ import annotations

import pytest

from rlm_nb.agent.reply import MAX_CELLS, cells


@pytest.mark.parametrize(
    "info", ["python", "py", "python3", "ipython", "repl", "", "Python", "python title=x", "{python}"]
)
@pytest.mark.parametrize("marks", ["```", "~~~", "````"])
def test_fences(info: str, marks: str) -> None:
    """Every fence that a model uses for Python is a cell."""
    parsed = cells(f"First I look.\n\n{marks}{info}\nx = 1\nprint(x)\n{marks}\n\nThen I stop.")
    assert parsed.code == ("x = 1\nprint(x)",)
    assert parsed.fault is None


@pytest.mark.parametrize(
    "code",
    [
        's = """\n```\ncode\n```\n"""\nprint(s)',
        "def f():\n    '''Example::\n\n    ```python\n    f()\n    ```\n    '''\n    return 1",
        "s = 'a ``` b'\nprint(s)",
        'text = f"""\n```\n{1}\n"""',
    ],
)
def test_fences_inside_strings(code: str) -> None:
    """A fence inside a Python string does not end the cell."""
    assert cells(f"```python\n{code}\n```\nDone.").code == (code,)


def test_a_string_that_never_ends_is_the_codes_own_fault() -> None:
    """The cell ends at its fence, and Python will say what is wrong with it."""
    parsed = cells('```python\ns = """\n```\nSome prose.\n')
    assert parsed.code == ('s = """',)


def test_an_unclosed_fence() -> None:
    """A model that forgot the last fence meant the cell; one that was cut off did not finish it."""
    assert cells("```python\nprint(1)\n").code == ("print(1)",)
    cut = cells("```python\nprint(1)\n```\n```python\nprint(", "max_tokens")
    assert cut.code == ("print(1)",)
    assert "cut off in the middle of a cell" in str(cut.fault)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85"])
def test_what_is_no_end_of_a_line(separator: str) -> None:
    """Only a line feed, with a carriage return before it or not, ends a line: Python reads the same text."""
    assert cells(f"```python\r\ns = 'a{separator}b'\r\nprint(s)\r\n```").code == (f"s = 'a{separator}b'\nprint(s)",)


def test_a_reply_of_very_many_fences() -> None:
    """The work grows with the length of the reply, and the number of cells is bounded."""
    in_strings = cells("```python\n" + "s = (\n```\n" * 30_000)
    assert in_strings.code
    one_string = cells('```python\ns = """\n' + "```\n" * 30_000 + '"""\n```')
    assert len(one_string.code) == 1
    many = cells("```python\nx = 1\n```\n" * 1000)
    assert len(many.code) == MAX_CELLS
    assert "Only the first" in str(many.fault)


def test_two_cells_in_order() -> None:
    """Several cells of one reply are all there, in their order."""
    assert cells("```python\na = 1\n```\nand\n```py\nFINAL(a)\n```").code == ("a = 1", "FINAL(a)")


@pytest.mark.parametrize(
    "claim",
    ["Output:\n```\n42\n```", "**Output:**\n\n```text\n42\n```", "```output\n42\n```", "The output:\n~~~\n42\n~~~"],
)
def test_invented_output(claim: str) -> None:
    """What a reply claims that a cell printed is no cell, and what follows rests on it and does not run."""
    parsed = cells(f"```python\nprint(6 * 7)\n```\n{claim}\n```python\nFINAL(42)\n```")
    assert parsed.code == ("print(6 * 7)",)
    assert "made up the output" in str(parsed.fault)


@pytest.mark.parametrize("fence", ["```", "```text", "```output"])
def test_a_quoted_output(fence: str) -> None:
    """A reply that begins by quoting what it has read goes on to its cell."""
    assert cells(f"I saw this output:\n{fence}\n42\n```\nOn I go.\n```python\nFINAL(1)\n```").code == ("FINAL(1)",)


def test_a_reply_that_is_all_invented() -> None:
    """It runs nothing, and is told why."""
    assert "made up the output" in str(cells("Output:\n```\n42\n```").fault)


def test_bare_fences_beside_python() -> None:
    """Where a fence says python, a bare one is an example and not a cell."""
    assert cells("As in\n```\nfoo --bar\n```\nI run\n```python\nx = 1\n```").code == ("x = 1",)


@pytest.mark.parametrize(
    ("text", "stop", "says"),
    [
        ("", "end", "empty"),
        ("  \n", "end", "empty"),
        ("I refuse.", "refusal", "refusal"),
        ("Let me think.", "end", "no ```python cell"),
        ("I will call FINAL(x).", "end", "only when a cell calls it"),
        ("```bash\nls\n```", "end", "'bash' block"),
        ("```python\n\n```", "end", "cell was empty"),
        ("I was about to", "max_tokens", "cut off before"),
    ],
)
def test_replies_without_a_cell(text: str, stop: str, says: str) -> None:
    """A reply that runs nothing gets a sentence that says why."""
    parsed = cells(text, stop)  # type: ignore[arg-type]
    assert parsed.code == ()
    assert says in str(parsed.fault)


def test_nested_markdown() -> None:
    """Python inside a longer fence is a quotation."""
    assert cells("````markdown\n```python\nx\n```\n````\n```python\ny = 1\n```").code == ("y = 1",)


def test_magics_survive() -> None:
    """Cell magics are not Python to the tokenizer, and cells all the same."""
    assert cells('```python\n%%bash\necho "it\'s"\n```').code == ('%%bash\necho "it\'s"',)
