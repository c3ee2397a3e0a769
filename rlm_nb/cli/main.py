"""The `rlm-nb` command: every verb, listed once."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typer


def main() -> None:
    """Read the command line, do what it says, and exit with the code that `rlm-nb run --help` explains."""
    try:
        app()()
    except KeyboardInterrupt:  # while the imports below still run: later ones are met by typer, with the same code
        sys.exit(130)


def app() -> typer.Typer:
    """The command line, without its having been run.

    Nothing is imported until here, so that Ctrl-C finds `main` at its post, and the verbs import what they need when
    they are called, so that `--help` is there at once.
    """
    import typer

    from rlm_nb.cli.apply import apply
    from rlm_nb.cli.attach import attach
    from rlm_nb.cli.budget import budget
    from rlm_nb.cli.clean import clean
    from rlm_nb.cli.diff import diff
    from rlm_nb.cli.doctor import doctor
    from rlm_nb.cli.fork import fork
    from rlm_nb.cli.init import init
    from rlm_nb.cli.kernelspec import commands as kernelspec
    from rlm_nb.cli.lab import lab
    from rlm_nb.cli.list_runs import runs
    from rlm_nb.cli.replay import replay
    from rlm_nb.cli.report import report
    from rlm_nb.cli.resume import resume
    from rlm_nb.cli.run import EXIT_CODES, run
    from rlm_nb.cli.show import show
    from rlm_nb.cli.step import step
    from rlm_nb.cli.task import task
    from rlm_nb.cli.tree import tree

    commands = typer.Typer(
        name="rlm-nb",
        help="Agents whose REPL is a real IPython kernel and whose run is a real notebook.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,  # it would print the values of local variables
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @commands.callback()
    def options(
        version: bool = typer.Option(False, "--version", help="Print the version and exit.", callback=_version),
    ) -> None:
        """Agents whose REPL is a real IPython kernel and whose run is a real notebook."""

    commands.command(epilog=EXIT_CODES)(run)
    commands.command(epilog=EXIT_CODES)(step)
    commands.command(epilog=EXIT_CODES)(resume)
    commands.command(epilog=EXIT_CODES)(fork)
    commands.command()(replay)
    commands.command()(runs)
    commands.command()(show)
    commands.command()(tree)
    commands.command()(report)
    commands.command()(lab)
    commands.command()(attach)
    commands.command()(diff)
    commands.command()(apply)
    commands.command()(clean)
    commands.command()(budget)
    commands.command(epilog=EXIT_CODES)(task)
    commands.command()(init)
    commands.command()(doctor)
    commands.add_typer(kernelspec, name="kernelspec")
    return commands


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from rlm_nb.cli.streams import write

        write(f"rlm-nb {version('rlm-nb')}")
        sys.exit(0)
