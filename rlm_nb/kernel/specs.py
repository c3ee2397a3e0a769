"""The kernelspecs that come with this package, wherever it was installed."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

from rlm_nb.errors import KernelStartError


@cache
def spec_folder(name: str) -> Path:
    """The folder of the kernelspec `name` that was installed with this very package, whatever else the machine has.

    Raises:
        KernelStartError: There is none.
    """
    for file in metadata.files("rlm-nb") or ():
        if file.match(f"share/jupyter/kernels/{name}/kernel.json"):
            return Path(str(file.locate())).resolve().parent
    raise KernelStartError(f"the kernelspec `{name}` is not installed; reinstall rlm-nb with pip")
