"""`rlm-nb kernelspec`: the kernels of rlm-nb that a Jupyter of another environment offers."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from rlm_nb.cli.streams import tell, write

NAME = "rlm-agent"
"""The kernel that people choose; the others are for rlm-nb itself."""

commands = typer.Typer(
    no_args_is_help=True, help="Install, list or remove the kernel `RLM agent` of Jupyter's launcher."
)

User = Annotated[bool, typer.Option("--user", help="For you, in every Jupyter that you start. This is the default.")]
SysPrefix = Annotated[bool, typer.Option("--sys-prefix", help="In the environment that rlm-nb is installed in.")]


@commands.command()
def install(user: User = False, sys_prefix: SysPrefix = False) -> None:
    """Let a Jupyter outside of this environment offer the kernel; inside of it, it is there already."""
    from rlm_nb.cli.door import door

    with door(), tempfile.TemporaryDirectory(prefix="rlm-spec-") as folder:
        from jupyter_client.kernelspec import KernelSpecManager

        from rlm_nb.kernel.specs import spec_folder

        where = _where(user, sys_prefix)
        made = Path(folder) / NAME
        shutil.copytree(spec_folder(NAME), made)
        spec = json.loads((made / "kernel.json").read_text("utf-8"))
        spec["argv"][0] = sys.executable  # whichever Python comes first on the path of that Jupyter
        (made / "kernel.json").write_text(json.dumps(spec, indent=2) + "\n", "utf-8")
        manager = KernelSpecManager()
        write(str(manager.install_kernel_spec(str(made), NAME, user=where is None, prefix=where)))


@commands.command("list")
def list_specs() -> None:
    """List the kernels of rlm-nb that Jupyter finds: this one, its own, and those of agents that are at work."""
    from rlm_nb.cli.door import door

    with door():
        from jupyter_client.kernelspec import KernelSpecManager

        found = KernelSpecManager().find_kernel_specs()
        names = sorted(name for name in found if name == "rlm" or name.startswith("rlm-"))
        write("\n".join(f"{name}  {found[name]}" for name in names))


@commands.command()
def remove(user: User = False, sys_prefix: SysPrefix = False) -> None:
    """Take away what `install` put there."""
    from rlm_nb.cli.door import door

    with door():
        from jupyter_core.paths import jupyter_data_dir

        from rlm_nb.errors import ConfigError

        where = _where(user, sys_prefix)
        folder = Path(jupyter_data_dir() if where is None else Path(where) / "share" / "jupyter") / "kernels" / NAME
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not there: `rlm-nb kernelspec list` tells where the kernel is installed")
        shutil.rmtree(folder)
        tell(f"removed {folder}")


def _where(user: bool, sys_prefix: bool) -> str | None:
    """The prefix, or `None` for the user's own."""
    if user and sys_prefix:
        raise typer.BadParameter("--user and --sys-prefix are two places: choose one")
    return sys.prefix if sys_prefix else None
