"""The panel of JupyterLab, with runs that go on."""

from __future__ import annotations

import re
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir
from playwright.sync_api import Locator, Page, expect

from rlm_nb import control
from rlm_nb.notebook.reader import read
from rlm_nb.notebook.tree import everyone, tree
from rlm_nb.records import BY_A_PERSON
from tests.browser.conftest import Seen
from tests.browser.lab import PATIENCE, Lab
from tests.browser.test_report import PAYLOADS
from tests.whole_runs.conftest import Shell, cell, until

SOON = 1000 * PATIENCE
FOREVER = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.05)"


def panel(page: Page, lab: Lab) -> Locator:
    """The panel, opened as a person does."""
    page.goto(f"{lab.url}lab?token={lab.token}&reset")
    page.locator(".jp-SideBar .lm-TabBar-tab[data-id='rlm-nb-runs']").click(timeout=SOON)
    return page.locator("#rlm-nb-runs")


def test_a_run_is_started_approved_edited_and_read(lab: Lab, seen: Seen, tmp_path: Path) -> None:
    """With what hostile models say shown as text, and a notebook that opens at a click."""
    hostile = "\n\n".join(PAYLOADS)
    root = [
        f"{hostile}\n\n{cell('x = 1')}",
        cell("import os; os.remove('README.md')"),
        cell(f"FINAL([x, os.path.exists('README.md') if 'os' in globals() else True, {PAYLOADS[0]!r}])"),
    ]
    model = Shell(tmp_path).script({"root": root})
    shown = panel(seen.page, lab)
    shown.get_by_text("Start a run on this folder").click()
    shown.get_by_label("Task").fill(f"Look around {PAYLOADS[1]}")
    shown.get_by_label("Model").fill(model)
    shown.get_by_label("At most").fill("0.75")
    shown.get_by_label("Ask me before cells run").check()
    shown.get_by_role("button", name="Start", exact=True).click()
    waits = shown.get_by_role("group", name="root waits")
    expect(waits).to_contain_text("iteration 1", timeout=SOON)
    expect(shown.get_by_role("meter", name="money")).to_have_attribute("aria-valuemax", "0.75")
    waits.get_by_text("What it says").click()
    expect(waits.locator("pre")).to_contain_text(PAYLOADS[0])
    assert waits.locator("pre *").count() == 0
    waits.get_by_label("Cell 1").fill("x = 42")
    waits.get_by_role("button", name="Run as edited").click()
    expect(waits).to_contain_text("iteration 2", timeout=SOON)
    waits.get_by_label("Say").fill("Keep it.")
    waits.get_by_role("button", name="Do not run").click()
    expect(waits).to_contain_text("iteration 3", timeout=SOON)
    waits.get_by_role("button", name="Run", exact=True).click()
    expect(waits).to_have_count(0, timeout=SOON)
    expect(shown.locator("header .rlm-Status")).to_have_attribute("data-status", "completed", timeout=SOON)
    expect(shown.locator(".rlm-Agent")).to_contain_text("3 iterations")
    shown.get_by_role("button", name="root", exact=True).click()
    expect(seen.page.locator(".lm-TabBar-tab", has_text="root.ipynb").first).to_be_visible(timeout=SOON)
    recorded = read(next(lab.folder.glob("runs/*/root.ipynb")))
    assert recorded.outcome is not None
    assert recorded.outcome.answer.value == [42, True, PAYLOADS[0]]
    assert "Keep it." in recorded.iterations[2].message
    assert seen.page.evaluate("window.ran") is None
    assert shown.locator("img, script, iframe, svg, a").count() == 0
    assert [one for one in seen.said if one[:5] in ("dialo", "windo")] == []


def test_an_agent_is_stopped_and_then_the_run(lab: Lab, seen: Seen, repository: Path) -> None:
    """Its parent goes on without it; the tree says how each of them stands, and what it took."""
    (lab.folder / "elsewhere").mkdir()
    shell = Shell(lab.folder / "elsewhere")
    agents = {"root": [cell("rlm_query_batched(['wait'])"), cell(FOREVER)], "root.1": [cell(FOREVER)]}
    shown = panel(seen.page, lab)
    with shell.start(repository, "--model", shell.script(agents), "--runs-dir", lab.folder / "runs") as running:
        name = re.compile("Say hello")
        shown.get_by_role("list", name="Runs").get_by_role("button", name=name).first.click(timeout=SOON)
        run = shown.locator(".rlm-Run")
        child = run.locator(".rlm-Agent").nth(1)
        expect(child).to_contain_text("root.1", timeout=SOON)
        expect(run.get_by_role("button", name="Attach")).to_have_count(2, timeout=SOON)
        [name] = [path.name for path in Path(jupyter_data_dir(), "kernels").glob("rlm-live-*-root.1")]
        kernel = lab.start_kernel(name)
        child.get_by_role("button", name="Stop").click()
        expect(child.locator(".rlm-Status")).to_have_attribute("data-status", "partial", timeout=SOON)
        expect(run.get_by_role("button", name="Attach")).to_have_count(1, timeout=SOON)
        until(lambda: lab.state_of_kernel(kernel) == "dead", 10)
        until(lambda: not list(lab.folder.parent.glob(f"runtime/kernel-{kernel}.json")), 10)
        expect(run.locator(".rlm-Agent").first).to_contain_text("1 iteration", timeout=SOON)
        expect(run.locator("header .rlm-Status")).to_have_attribute("data-status", "running")
        run.get_by_role("button", name="Stop the run").click()
        expect(run.locator("header .rlm-Status")).to_have_attribute("data-status", "partial", timeout=SOON)
        assert running.end().code == 3
    folder = max(lab.folder.glob("runs/*/"), key=lambda path: path.name)
    assert [(node.agent, node.status) for node in everyone(tree(folder))] == [
        ("root", "partial"),
        ("root.1", "partial"),
    ]
    until(lambda: run.get_by_role("button", name="Stop the run").count() == 0)


def test_a_live_agent_is_attached_to_interrupted_and_detached_from(lab: Lab, seen: Seen, repository: Path) -> None:
    """In a console and a notebook; what is run there is recorded, restarting loses nothing, and the agent goes on."""
    (lab.folder / "attached").mkdir()
    shell = Shell(lab.folder / "attached")
    model = shell.script({"root": [cell("x = 20"), cell(FOREVER), cell("FINAL(x + z)")]})
    with shell.start(repository, "--model", model, "--approve-in-lab", "--runs-dir", lab.folder / "runs") as running:
        until(lambda: list(lab.folder.glob("runs/*/.control/root.waiting")))
        run = next(lab.folder.glob("runs/*/.control")).parent
        decide(run, 1)
        shown = panel(seen.page, lab)
        shown.get_by_role("list", name="Runs").get_by_role("button", name=run.name).click(timeout=SOON)
        shown.locator(".rlm-Run").get_by_role("button", name="Attach").click(timeout=SOON)
        console = seen.page.locator(".jp-CodeConsole")
        expect(console.locator(".jp-CodeConsole-banner")).to_contain_text("The REPL of an RLM agent", timeout=SOON)
        console.locator(".jp-CodeConsole-promptCell .cm-content").click()
        seen.page.keyboard.type("z = 22; x + z")
        seen.page.keyboard.press("Shift+Enter")
        expect(console.locator(".jp-OutputArea-output").last).to_contain_text("42", timeout=SOON)
        [name] = [path.name for path in (Path(jupyter_data_dir()) / "kernels").glob("rlm-live-*")]
        lab.write("theirs.ipynb", "print(x, z)", "x + z", kernel=name)
        notebook = lab.open(seen.page, "theirs.ipynb")
        expect(notebook.run(0)).to_contain_text("20 22", timeout=SOON)
        decide(run, 2)
        status = seen.page.locator("#jp-main-statusbar")
        expect(status).to_contain_text("| Busy", timeout=SOON)
        seen.page.locator("[data-command='notebook:interrupt-kernel'], [data-jp-item-name='interrupt']").first.click()
        until(lambda: control.waiting(run) and control.waiting(run)[0]["number"] == 3)
        seen.page.locator("[data-command='notebook:restart-kernel'], [data-jp-item-name='restart']").first.click()
        seen.page.locator(".jp-Dialog button.jp-mod-warn").click(timeout=SOON)
        expect(status).to_contain_text("| Idle", timeout=SOON)
        expect(notebook.run(1)).to_contain_text("42", timeout=SOON)
        lab.shut_down_kernels()
        assert control.waiting(run)
        decide(run, 3)
        assert running.end().code == 0
    recorded = read(run / "root.ipynb")
    assert recorded.outcome is not None
    assert recorded.outcome.answer.value == 42
    assert [one.code for one in recorded.asides] == ["z = 22; x + z", "print(x, z)", "x + z"]
    assert recorded.iterations[1].cells[0].error == BY_A_PERSON


def decide(run: Path, number: int) -> None:
    """Let what is proposed in this iteration run."""
    until(lambda: [one for one in control.waiting(run) if one["number"] == number])
    control.decide(run, "root", str(control.waiting(run)[0]["key"]))
