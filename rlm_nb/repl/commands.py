"""Runs `!command` where cells have no terminals: IPython's own way to do it needs one."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys


def need_no_terminal() -> None:
    """If this process cannot open a terminal, let IPython run commands without one, from now on."""
    try:
        for end in os.openpty():
            os.close(end)
    except OSError:
        from ipykernel import zmqshell

        zmqshell.system = run


def run(command: str) -> int:
    """Run a command in the shell, and print what it puts out as it comes; returns its exit code."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with subprocess.Popen(
        command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        try:
            while data := os.read(process.stdout.fileno(), 1 << 16):
                sys.stdout.write(decoder.decode(data))
                sys.stdout.flush()
            sys.stdout.write(decoder.decode(b"", final=True))
        except BaseException:
            process.kill()
            raise
    return process.returncode
