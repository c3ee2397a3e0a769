"""What rlm-nb adds to a Jupyter server: what its panel in JupyterLab asks for."""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "rlm_nb.server"}]


def _load_jupyter_server_extension(app: Any) -> None:
    """Answer the panel, behind the server's own authentication."""
    from rlm_nb.server.handlers import handlers

    app.web_app.add_handlers(".*$", handlers(app.web_app.settings["base_url"]))
