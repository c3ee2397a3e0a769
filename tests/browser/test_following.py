"""The notebook of an agent at work, open in JupyterLab."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import nbformat
from playwright.sync_api import Page, expect

from rlm_nb.notebook.reader import read
from tests.browser.conftest import Seen
from tests.browser.lab import PATIENCE, Lab
from tests.browser.test_report import PAYLOADS
from tests.whole_runs.conftest import Shell, cell, until

SOON = 1000 * PATIENCE


def show(page: Page, lab: Lab, name: str) -> None:
    """Open a notebook without a kernel of its own."""
    page.goto(f"{lab.url}lab/tree/{name}?token={lab.token}&reset")
    expect(page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=SOON)


def record(*cells: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook with these cells, which says that it is an agent's."""
    language = {"name": "python", "version": platform.python_version(), "mimetype": "text/x-python"}
    language |= {"codemirror_mode": {"name": "ipython", "version": 3}, "file_extension": ".py"}
    language |= {"nbconvert_exporter": "python", "pygments_lexer": "ipython3"}
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    metadata = {"rlm": {"status": "running"}, "kernelspec": kernel, "language_info": language}
    return nbformat.v4.new_notebook(metadata=metadata, cells=list(cells))


def write(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Beside, and then in its place, as a recorder does."""
    beside = path.with_name(".new")
    nbformat.write(notebook, beside)
    beside.replace(path)


def test_a_notebook_grows_while_its_agent_works(lab: Lab, seen: Seen, repository: Path) -> None:
    """Cells, their outputs and the table on top; the document is not dirty, and what models write does nothing."""
    (lab.folder / "work").mkdir()
    shell = Shell(lab.folder / "work")
    gate = lab.folder / "gate"
    wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)"
    hostile = f"from IPython.display import HTML, Markdown\nfor p in {PAYLOADS!r}: display(HTML(p), Markdown(p))"
    final = f"```python\nFINAL({'It is done.'!r})\n```"
    model = shell.script({"root": [cell(wait, "print('through the ' + 'gate')"), cell(hostile), final]})
    with shell.start(repository, "--model", model) as running:
        until(lambda: list(lab.folder.glob("work/here/runs/*/root.ipynb")))
        notebook = next(lab.folder.glob("work/here/runs/*/root.ipynb"))
        until(lambda: "os.path.exists" in notebook.read_text("utf-8"))
        show(seen.page, lab, str(notebook.relative_to(lab.folder)))
        expect(seen.page.get_by_text("while not os.path.exists", exact=False).first).to_be_visible(timeout=SOON)
        assert seen.page.get_by_text("through the gate").count() == 0
        gate.touch()
        expect(seen.page.get_by_text("through the gate").first).to_be_visible(timeout=SOON)
        expect(seen.page.locator(".jp-Notebook").get_by_text("It is done.").last).to_be_attached(timeout=SOON)
        running.end()
    expect(seen.page.locator(".jp-Notebook").get_by_text("completed").first).to_be_attached(timeout=SOON)
    assert seen.page.locator(".jp-mod-dirty").count() == 0
    assert seen.page.evaluate("window.ran") is None
    assert read(notebook).outcome is not None


def test_new_cells_come_within_a_second_and_scroll_nothing(lab: Lab, seen: Seen) -> None:
    """Whoever reads in the middle stays there, whatever is added below or gets longer above."""
    path = lab.folder / "long.ipynb"
    notebook = record()
    for number in range(40):
        markdown = nbformat.v4.new_markdown_cell(f"## Iteration {number}\n\n" + "It goes on.\n\n" * 8)
        notebook.cells.append(markdown)
    write(path, notebook)
    show(seen.page, lab, "long.ipynb")
    text, before = reading_in_the_middle(seen.page)
    took = []
    for number in range(5):
        notebook.cells.append(nbformat.v4.new_code_cell(f"print('new {number}')"))
        write(path, notebook)
        begun = time.monotonic()
        count = len(notebook.cells)
        seen.page.wait_for_function(COUNT, arg=["long.ipynb", count], polling=20, timeout=SOON)
        took.append(time.monotonic() - begun)
    assert min(took) < 1, took  # not each: this machine may be busy
    notebook.cells[0].source += "\n\nMore.\n\n" * 20
    notebook.cells.append(nbformat.v4.new_code_cell("print('last')"))
    write(path, notebook)
    seen.page.wait_for_function(COUNT, arg=["long.ipynb", len(notebook.cells)], polling=20, timeout=SOON)
    seen.page.wait_for_timeout(1500)  # what is rendered late must not move it either
    after = dict(seen.page.evaluate(HEADINGS))
    assert abs(after[text] - before) < 3
    assert seen.page.locator(".jp-mod-dirty").count() == 0


def reading_in_the_middle(page: Page) -> tuple[str, float]:
    """Scroll there, and wait until nothing moves any more: what is further down is only rendered by and by.

    Returns:
        The first heading that is in sight, and how far from the top it is.
    """
    seen: list[tuple[str, float]] = []
    for _ in range(int(2 * PATIENCE)):
        page.evaluate(f"if ({OUTER}.scrollTop < 2000) {OUTER}.scrollTop = 3000")
        page.wait_for_timeout(500)
        before, seen = seen, page.evaluate(HEADINGS)
        if seen and seen == before and page.evaluate(f"{OUTER}.scrollTop") > 2000:
            return seen[0]
    raise AssertionError(seen)


HEADINGS = """[...document.querySelectorAll('.jp-Notebook h2')]
    .map(h => [h.innerText, h.getBoundingClientRect().top]).filter(([_, top]) => 150 < top && top < 800)"""
OUTER = "document.querySelector('.jp-Notebook .jp-WindowedPanel-outer')"

COUNT = """([name, count]) => {
    const widgets = [...window.jupyterapp.shell.widgets('main')];
    const panel = widgets.find(widget => widget.context && widget.context.path.endsWith(name));
    return panel.content.model.cells.length === count;
}"""


def test_others_notebooks_and_what_a_person_changed_stay(lab: Lab, seen: Seen) -> None:
    """Only records of agents are followed, and none over the changes of whoever has it open."""
    plain, agents = record(nbformat.v4.new_code_cell("1")), record(nbformat.v4.new_code_cell("1"))
    del plain.metadata["rlm"]
    write(lab.folder / "plain.ipynb", plain)
    write(lab.folder / "record.ipynb", agents)
    for name, notebook in ("plain.ipynb", plain), ("record.ipynb", agents):
        show(seen.page, lab, name)
        if name == "record.ipynb":
            seen.page.locator(".jp-Notebook .cm-content").first.click()
            seen.page.keyboard.type("2")
            expect(seen.page.locator(".jp-mod-dirty").first).to_be_attached(timeout=SOON)
        notebook.cells.append(nbformat.v4.new_code_cell("new"))
        write(lab.folder / name, notebook)
        seen.page.wait_for_timeout(2000)
        assert seen.page.evaluate(COUNT, [name, 1])
