"""The magics in JupyterLab and in Notebook, in a real browser."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.conftest import Seen
from tests.browser.lab import PATIENCE, Lab
from tests.browser.test_report import PAYLOADS
from tests.jupyter.conftest import write_script
from tests.whole_runs.conftest import cell

SOON = 1000 * PATIENCE


def test_a_task_runs_in_a_cell(lab: Lab, seen: Seen) -> None:
    """The tree grows while it runs, the answer comes, and a link opens the agent's notebook in a tab."""
    script = {
        "root": [cell("x = rlm_query('Help')"), cell("import time; time.sleep(1)", "FINAL('It is **done**.')")],
        "root.1": [cell("FINAL('helped')")],
    }
    model = write_script(lab.folder / "task.yaml", script)
    lab.write("task.ipynb", "%load_ext rlm_nb", f"%%rlm -m {model}\nHelp everybody.", "_rlm.answer.text")
    notebook = lab.open(seen.page, "task.ipynb")
    notebook.run(0)
    output = notebook.run(1)
    expect(output.get_by_text("runs", exact=False).first).to_be_visible(timeout=SOON)
    expect(output.locator("strong", has_text="done")).to_be_visible(timeout=SOON)
    expect(output.get_by_role("link", name="root.1")).to_be_visible()
    expect(notebook.run(2)).to_contain_text("It is **done**.", timeout=SOON)
    output.get_by_role("link", name="root.1", exact=True).click()
    expect(seen.page.locator(".lm-TabBar-tab", has_text="root.1.ipynb")).to_be_visible(timeout=SOON)
    expect(seen.page.get_by_role("heading", name="Agent root.1")).to_be_visible(timeout=SOON)


def test_what_models_write_does_nothing(lab: Lab, seen: Seen) -> None:
    """In prose, code, outputs, errors and answers, while it runs and when it is proposed."""
    hostile = "\n\n".join(PAYLOADS)
    code = f"payloads = {PAYLOADS!r}\nprint(*payloads)\nimport time; time.sleep(1)"
    root = [f"{hostile}\n\n```python\n{code}\n```", f"```python\nFINAL({hostile!r})\n```"]
    model = write_script(lab.folder / "hostile.yaml", {"root": root})
    lab.write("hostile.ipynb", "%load_ext rlm_nb", f"%%rlm -m {model}\n{hostile}", f"%%rlm_step -m {model}\nGo.")
    notebook = lab.open(seen.page, "hostile.ipynb")
    notebook.run(0)
    expect(notebook.run(1)).to_contain_text("completed: The agent called FINAL.", timeout=SOON)
    expect(notebook.run(2)).to_contain_text("iteration 1", timeout=SOON)
    links = [link.get_attribute("href") for link in notebook.output(1).locator("a[href]").all()]
    assert links
    assert [link for link in links if not re.search(r"(^|/)runs/[^/]+/root.ipynb", link or "")] == []
    assert seen.page.evaluate("window.ran") is None
    assert [one for one in seen.said if "127.0.0.1:9/" in one or "dialog" in one or "window" in one] == []
    assert [one for one in seen.requests if "elsewhere" in one] == []


def test_a_cell_is_proposed_edited_and_run_by_hand(lab: Lab, seen: Seen) -> None:
    """It stands below the magic; Shift-Enter runs it here, and the next step tells the model what came of it."""
    root = ["I print it.\n\n```python\nprint(mine)\n```", cell("FINAL(mine)")]
    model = write_script(lab.folder / "step.yaml", {"root": root})
    lab.write(
        "step.ipynb", "%load_ext rlm_nb\nmine = 20", f"%%rlm_step -m {model}\nPrint it.", "%rlm_step", "%rlm_step"
    )
    notebook = lab.open(seen.page, "step.ipynb")
    notebook.run(0)
    expect(notebook.run(1)).to_contain_text("I print it.", timeout=SOON)
    expect(notebook.cells).to_have_count(5, timeout=SOON)
    assert notebook.source(2) == "print(mine)"
    notebook.cells.nth(2).locator(".cm-content").click()
    seen.page.keyboard.press("Control+End")
    seen.page.keyboard.type("; mine += 1")
    seen.page.keyboard.press("Shift+Enter")
    expect(notebook.output(2)).to_contain_text("20", timeout=SOON)
    notebook.run(3)
    expect(notebook.cells).to_have_count(6, timeout=SOON)
    assert notebook.source(4) == "FINAL(mine)"
    notebook.run(4)
    expect(notebook.run(5)).to_contain_text("completed: The agent called FINAL.", timeout=SOON)
    expect(notebook.output(5)).to_contain_text("21")


def test_the_stop_button_ends_the_run(lab: Lab, seen: Seen) -> None:
    """With what there is; the kernel goes on."""
    model = write_script(
        lab.folder / "long.yaml",
        {"root": [cell("answer = 'so far'; print('be' + 'gun'); import time; time.sleep(600)")]},
    )
    lab.write("long.ipynb", "%load_ext rlm_nb", f"%%rlm -m {model}\nWait.", "print(_rlm.status, _rlm.answer.text)")
    notebook = lab.open(seen.page, "long.ipynb")
    notebook.run(0)
    output = notebook.run(1)
    expect(output).to_contain_text("begun", timeout=SOON)
    seen.page.locator('.jp-NotebookPanel-toolbar [data-jp-item-name="interrupt"]').click()
    expect(output).to_contain_text("partial: The run was stopped: interrupted by the user.", timeout=SOON)
    expect(notebook.run(2)).to_contain_text("partial so far", timeout=SOON)


def test_a_conversation_with_the_agent_kernel(lab: Lab, seen: Seen) -> None:
    """Iterations stream into the output of a task; the interrupt ends it, and the next cell goes on."""
    root = [
        "I count.\n\n```python\nanswer = 40\n```",
        cell("print('be' + 'gun'); import time; time.sleep(600)"),
        cell("FINAL(answer + 2)"),
    ]
    model = write_script(lab.folder / "talk.yaml", {"root": root})
    lab.write("talk.ipynb", f"%model {model}", "Count.", "Go on.", "%tree", kernel="rlm-agent")
    notebook = lab.open(seen.page, "talk.ipynb")
    expect(notebook.run(0)).to_contain_text("scripted:", timeout=SOON)
    output = notebook.run(1)
    expect(output.get_by_role("heading", name="Iteration 1")).to_be_visible(timeout=SOON)
    expect(output).to_contain_text("begun", timeout=SOON)
    seen.page.locator('.jp-NotebookPanel-toolbar [data-jp-item-name="interrupt"]').click()
    expect(output).to_contain_text("stopped; the next cell goes on with what there is", timeout=SOON)
    output = notebook.run(2)
    expect(output.locator("pre", has_text="42").first).to_be_visible(timeout=SOON)
    expect(output).not_to_contain_text("between turns")
    expect(notebook.run(3)).to_contain_text("root.ipynb", timeout=SOON)


def test_in_notebook_7(lab: Lab, seen: Seen) -> None:
    """The same server shows the same in Jupyter Notebook."""
    model = write_script(lab.folder / "seven.yaml", {"root": [cell("FINAL('seven')")]})
    lab.write("seven.ipynb", "%load_ext rlm_nb", f"%%rlm -m {model}\nCount.")
    notebook = lab.open(seen.page, "seven.ipynb", view="notebooks")
    notebook.run(0)
    output = notebook.run(1)
    expect(output).to_contain_text("completed: The agent called FINAL.", timeout=SOON)
    expect(output.get_by_role("link", name="root", exact=True)).to_be_visible()
