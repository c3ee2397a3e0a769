"""A notebook as a page, for nbconvert: `rlm-nb report` uses it, and so does `jupyter nbconvert --to rlm`."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nbconvert.exporters import TemplateExporter
from pygments.formatters import HtmlFormatter
from traitlets import List, Unicode

from rlm_nb.report import inert

TEMPLATES = Path(__file__).parent / "templates"


class PageExporter(TemplateExporter):  # type: ignore[misc]
    """Makes a page that shows what models and cells wrote, and lets none of it act.

    It is no HTMLExporter, because that trusts a notebook's HTML and loads libraries from elsewhere.
    """

    export_from_notebook = "rlm-nb page"
    output_mimetype = "text/html"

    file_extension = Unicode(".html")
    template_name = Unicode("rlm").tag(affects_template=True)
    template_extension = Unicode(".html.j2").tag(affects_environment=True)
    extra_template_basedirs = List(Unicode(), [str(TEMPLATES)]).tag(affects_environment=True)

    pages = List(Unicode(), help="The pages that links may lead to, relative to the page.").tag(config=True)

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        """What the templates call; all of it gives HTML that is safe."""
        yield from super().default_filters()
        yield "safe_text", lambda value: inert.text(str(value))
        yield "safe_code", inert.code
        yield "safe_markdown", partial(_given, inert.markdown, self)
        yield "safe_output", partial(_given, inert.output, self)
        yield "plain", lambda value: html.escape(str(value))
        yield "is_hidden", _is_hidden
        yield "told", _told

    def page(self, template: str, **values: Any) -> str:
        """A page of another kind, in the same clothes."""
        return str(self.environment.get_template(f"{template}.html.j2").render(resources=clothes(), **values))

    def from_notebook_node(self, nb: Any, resources: Any = None, **options: Any) -> tuple[str, Any]:
        """The notebook as a page."""
        made: tuple[str, Any] = super().from_notebook_node(nb, {**(resources or {}), **clothes()}, **options)
        return made


def clothes() -> dict[str, str]:
    """The style of all pages, and the policy that lets nothing else have a say."""
    style = (TEMPLATES / "rlm" / "style.css").read_text("utf-8")
    style += str(HtmlFormatter(style="default").get_style_defs(".highlight"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return {"style": style, "policy": policy}


def _is_hidden(cell: Any) -> bool:
    """Whether the source of a cell is folded away."""
    jupyter = cell["metadata"].get("jupyter")
    return isinstance(jupyter, dict) and jupyter.get("source_hidden") is True


def _told(cell: Any) -> str:
    """What the model was told for the reply in this cell."""
    rlm = cell["metadata"].get("rlm")
    return str(rlm.get("message") or "") if isinstance(rlm, dict) else ""


def _given(make: Any, exporter: PageExporter, value: Any) -> str:
    return str(make(value, frozenset(exporter.pages)))
