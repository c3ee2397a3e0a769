"""The door of every verb: keys are taken off the environment on the way in, errors become sentences on the way out."""

from __future__ import annotations

import io
import os
import platform
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import typer
from pydantic import SecretStr

from rlm_nb import config
from rlm_nb.cli.streams import tell
from rlm_nb.errors import ConfigError, RLMError
from rlm_nb.kernel import environment

EXPECTED, USAGE, SURPRISE = 1, 2, 70


@dataclass(frozen=True)
class Keys:
    """The keys that were set, by variable name; no other place in this process has them by now."""

    secrets: Mapping[str, SecretStr]

    def redact(self, text: str) -> str:
        """The text with the name of each key in place of the key, and without the logins of URLs."""
        for name, secret in self.secrets.items():
            value = secret.get_secret_value()
            if len(value) >= 8:  # a shorter one is no key, and may be a part of any word
                text = text.replace(value, f"[{name}]")
        return config.without_login(text)


@contextmanager
def door(verbose: bool = False) -> Iterator[Keys]:
    """Do a verb's work inside: it is given the keys, and ends with the right exit code whatever it raises.

    Args:
        verbose: Whether an error that we expect comes with its traceback, too.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed; whoever prints should not have to know
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal has no characters for
    keys = Keys({})
    try:
        keys = Keys(config.secrets())
        environment.hide(config.KEYS)
        yield keys
    except typer.BadParameter:  # typer says this one, with the usage
        raise
    except RLMError as error:
        if verbose:
            tell(keys.redact(traceback.format_exc()))
        tell(keys.redact(f"Error: {error}"))
        sys.exit(USAGE if isinstance(error, ConfigError) else EXPECTED)
    except Exception:  # noqa: BLE001 - the one handler for what nobody foresaw
        tell(keys.redact(traceback.format_exc()))
        # The lines above are code, and what an exception says: neither arguments nor the task nor settings.
        tell(f"rlm-nb {version('rlm-nb')}, Python {platform.python_version()}, {platform.platform()}")
        tell("Error: this should not have happened. Please report it, with the lines above.")
        sys.exit(SURPRISE)
