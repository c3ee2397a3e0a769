"""The kernel process of an agent: `python -I -m rlm_nb.repl.kernel -f CONNECTION_FILE`."""

from __future__ import annotations

from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from traitlets.config import Config

from rlm_nb.repl import extension


class RLMKernel(IPythonKernel):  # type: ignore[misc]
    """An IPython kernel that has the agent's names in it from the start."""

    implementation = "rlm"
    banner = "The REPL of an RLM agent"


class RLMKernelApp(IPKernelApp):  # type: ignore[misc]
    """Starts the kernel without history, colours or anybody's configuration."""

    name = "rlm-kernel"
    kernel_class = RLMKernel

    def load_config_file(self, *args: Any, **kwargs: Any) -> None:
        """Read nothing: what a model is told about its REPL holds on every machine."""
        self.update_config(
            Config(
                HistoryManager={"enabled": False},
                InteractiveShell={"colors": "nocolor", "xmode": "Context"},
            )
        )

    def init_code(self) -> None:
        """Instead of start-up files: the agent's names."""
        extension.load(self.shell)


def main() -> None:
    """Run until shut down."""
    RLMKernelApp.launch_instance()


if __name__ == "__main__":
    main()
