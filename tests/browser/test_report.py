"""What a hostile run can do in a browser that shows its report: nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from rlm_nb.report.exporter import clothes
from tests.browser.conftest import Seen

ELSEWHERE = "http://127.0.0.1:9/elsewhere"

PAYLOADS = [
    "<script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 2'>",
    "<svg onload='window.ran = 3'><script>window.ran = 3</script></svg>",
    "<svg><style><img src=x onerror='window.ran = 4'></style></svg>",
    "<iframe srcdoc='<script>parent.ran = 5</script>'></iframe>",
    f"<iframe src='{ELSEWHERE}'></iframe>",
    f"<meta http-equiv='refresh' content='0;url={ELSEWHERE}'>",
    f"<base href='{ELSEWHERE}/'>",
    f"<style>@import url({ELSEWHERE}); body {{ background: url({ELSEWHERE}) }}</style>",
    f"<link rel=stylesheet href='{ELSEWHERE}'>",
    f"<p style='background: url({ELSEWHERE}); position: fixed'>over</p>",
    f"<img src='{ELSEWHERE}'> ![x]({ELSEWHERE}) <img srcset='{ELSEWHERE} 2x'>",
    "<a id=js href='javascript:window.ran = 6'>a</a> [b](javascript:window.ran=7) [c](JaVa&#x73;cript:window.ran=7)",
    "<a href='data:text/html,<script>window.ran = 8</script>'>d</a> [e](data:text/html;base64,PHNjcmlwdD4=)",
    "<details open ontoggle='window.ran = 9'>t</details> <input autofocus onfocus='window.ran = 10'>",
    f"<form action='{ELSEWHERE}'><button autofocus onfocus='window.ran = 11'>go</button></form>",
    f"<object data='{ELSEWHERE}'></object><embed src='{ELSEWHERE}'><video src='{ELSEWHERE}' autoplay></video>",
    "<noscript><p title=\"</noscript><img src=x onerror='window.ran = 12'>\"></noscript>",
    "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=x onerror='window.ran = 13'&gt;\">",
    "<!--><img src=x onerror='window.ran = 14'>--> <![CDATA[<img src=x onerror='window.ran = 15'>]]>",
    "<textarea></textarea><img src=x onerror='window.ran = 16'> <title></title><xmp><img src=x></xmp>",
    r"$\href{javascript:window.ran = 17}{x}$ \(\unicode{<img src=x onerror='window.ran = 18'>}\) $$\require{html}$$",
    "<b id=policy class='cell markdown' onclick='window.ran = 19'>b</b><plaintext>",
]
"""What a model might write; each sets `window.ran` or asks for something elsewhere, or would if it were clicked."""

CELL = """
from IPython.display import HTML, SVG, Javascript, Latex, Markdown, display
payloads = {payloads!r}
for payload in payloads:
    print(payload)
    print("\\x1b[31;1m" + payload + "\\x1b]8;;javascript:window.ran=20\\x07", file=sys.stderr)
    display(HTML(payload), Markdown(payload), Latex(payload), SVG("<svg xmlns='http://www.w3.org/2000/svg'>"
        "<script>top.ran = 21</script><image href='{elsewhere}' onload='top.ran = 22'/></svg>"))
    display({{"text/plain": payload, payload: payload, "application/x-" + payload: [payload]}}, raw=True)
display(Javascript("window.ran = 23"))
display({{"application/vnd.jupyter.widget-view+json": {{"model_id": payloads[0], "version_major": 2}}}}, raw=True)
display({{"image/png": "iVBORw0KGgo=' onerror='window.ran = 24"}}, raw=True)
Path("<img src=x onerror='window.ran = 25'>.txt").write_text("\\n".join(payloads))
rlm_query(payloads[0] + "\\n" + payloads[1])
raise ValueError(payloads[1])
"""


@pytest.fixture(scope="module")
def report(clean_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run in which everybody writes all of it everywhere."""
    here = tmp_path_factory.mktemp("hostile")
    (here / "source").mkdir()
    (here / "source" / "a.py").touch()
    payloads = "\n\n".join(PAYLOADS)
    cell = CELL.format(payloads=PAYLOADS, elsewhere=ELSEWHERE)
    final = f"```python\nimport sys\nFINAL({payloads!r})\n```"
    root = [f"{payloads}\n\n```python\nimport sys\n{cell}\n```", final]
    (here / "script.yaml").write_text(yaml.safe_dump({"agents": {"root": root, "root.1": [final]}}), "utf-8")
    rlm_nb = [sys.executable, "-m", "rlm_nb"]
    ran = subprocess.run(
        [*rlm_nb, "run", "source", "-p", payloads, "--model", "scripted:script.yaml"],
        cwd=here,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    done = subprocess.run(
        [*rlm_nb, "report", "-o", "out"], cwd=here, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "out/index.html\n", "")
    return here / "out"


FOUND = """() => ({
    ran: window.ran,
    elements: [...document.querySelectorAll("script, iframe, object, embed, base, form, input, button, link, "
        + "video, audio, svg, math, template, noscript, body style, body meta, textarea, xmp, plaintext")]
        .map(e => e.outerHTML),
    attributes: [...document.querySelectorAll("*")].flatMap(e => [...e.attributes])
        .filter(a => /^on|^style$|srcset|action/.test(a.name)).map(a => a.name + "=" + a.value),
    links: [...document.querySelectorAll("[href]")].map(e => e.getAttribute("href")),
    pictures: [...document.querySelectorAll("[src]")].map(e => e.getAttribute("src").slice(0, 11)),
    text: document.body.innerText,
})"""


@pytest.mark.parametrize("policy", [True, False])
@pytest.mark.parametrize("name", ["index", "root", "root.1"])
def test_nothing_runs_and_nothing_is_asked_for(
    name: str, policy: bool, report: Path, seen: Seen, tmp_path: Path
) -> None:
    """Nor does the policy have anything to forbid; it is as quiet without it. What was written is there to be read."""
    path = report / f"{name}.html"
    if not policy:
        page = path.read_text("utf-8")
        path = tmp_path / path.name
        path.write_text(re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page), "utf-8")
    seen.page.goto(path.as_uri())
    for summary in seen.page.locator("summary").all():
        summary.evaluate("e => e.parentElement.open = true")
    found = seen.page.evaluate(FOUND)
    assert found["ran"] is None
    assert found["elements"] == []
    assert found["attributes"] == []
    assert {re.sub("#.*", "", link) for link in found["links"]} <= {"index.html", "root.html", "root.1.html"}
    assert set(found["pictures"]) <= {"data:image/"}
    assert (seen.requests, seen.said) == ([path.as_uri()], [])
    assert seen.page.url == path.as_uri()
    assert "window.ran = 1</script>" in found["text"]


def test_the_policy_alone_would_do(seen: Seen, tmp_path: Path) -> None:
    """The same payloads as they are: with the policy of our pages none gets anywhere, without it most do."""
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    policy = f'<meta http-equiv="Content-Security-Policy" content="{clothes()["policy"]}">'
    payloads = [payload for payload in PAYLOADS if "refresh" not in payload and "plaintext" not in payload]
    path = tmp_path / "page.html"
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        body = "".join(payloads).replace(ELSEWHERE, f"http://127.0.0.1:{server.server_port}/elsewhere")
        outcomes = []
        try:
            for head in (policy, ""):
                path.write_text(f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>", "utf-8")
                seen.page.goto(path.as_uri(), wait_until="load")
                outcomes.append((seen.page.evaluate("window.ran") is None, asked == []))
        finally:
            server.shutdown()
            thread.join()
    assert outcomes == [(True, True), (False, False)]


def test_links_lead_from_page_to_page(report: Path, seen: Seen) -> None:
    """From the first page to an agent's, to its sub-agent's, and back to the cell that asked."""
    seen.page.goto((report / "index.html").as_uri())
    seen.page.get_by_role("link", name="root", exact=True).click()
    seen.page.locator("#it-001-calls-1").get_by_role("link", name="root.1").click()
    assert seen.page.url == f"{(report / 'root.1.html').as_uri()}#head"
    seen.page.locator("#head").get_by_role("link", name="root", exact=True).click()
    assert seen.page.url == f"{(report / 'root.html').as_uri()}#it-001-code-1"
    assert seen.page.locator("#it-001-code-1:target").count() == 1
