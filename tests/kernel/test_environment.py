from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_nb.kernel.environment import allowed

KEY = "sk-ant-planted-0123456789"
# The second process may not be root, to whom everything is open; a change of user closes a process by itself.
COMMON = """
import ctypes, os, sys
from rlm_nb.kernel.environment import hide
def become_nobody():
    if os.getuid() == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
"""
HIDER = """
if sys.argv[1:]:
    become_nobody()
print("ready", flush=True)
sys.stdin.readline()
hide(["ANTHROPIC_API_KEY", "NOT_SET"])
print([name for name in os.environ if "KEY" in name], flush=True)
sys.stdin.readline()
"""
LOOKER = """
become_nobody()
for name in "environ", "mem":
    try:
        open(f"/proc/{sys.argv[1]}/{name}", "rb").close()
        print(name, "opens")
    except PermissionError:
        print(name, "refused")
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the variables of a process in a file")


def test_a_kernel_gets_what_is_harmless() -> None:
    """What is not on the list stays out, whatever it is called."""
    mine = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "TZ": "UTC",
        "TERM": "xterm",
        "HOME": "/home/ada",
        "AWS_SECRET": "x",
        "PYTHONPATH": ".",
    }
    assert allowed(mine) == {"PATH": "/bin", "LC_ALL": "C", "TZ": "UTC", "TERM": "dumb"}
    assert allowed({}) == {"TERM": "dumb"}


@linux
def test_a_hidden_key_is_gone_for_who_already_looks() -> None:
    """The file opened before the key is hidden no longer shows it afterwards; the other variables stand."""
    planted = os.environ | {"A_FIRST": "1", "ANTHROPIC_API_KEY": KEY, "MY_ANTHROPIC_API_KEY": "mine", "Z_LAST": "ü"}
    with _python(HIDER, planted) as hider, Path(f"/proc/{hider.pid}/environ").open("rb") as file:
        before = file.read()
        assert f"\0ANTHROPIC_API_KEY={KEY}\0".encode() in before
        assert _ask(hider) == "['MY_ANTHROPIC_API_KEY']"
        file.seek(0)
        after = file.read()
    assert after == before.replace(KEY.encode(), b"*" * len(KEY))


@linux
def test_nobody_of_the_same_user_can_look_any_more() -> None:
    """After `hide`, neither the variables nor the memory open for another process of that user."""
    look = [sys.executable, "-c", COMMON + LOOKER]
    with _python(HIDER, dict(os.environ), "as nobody") as hider:
        look.append(str(hider.pid))
        assert "environ opens" in subprocess.run(look, capture_output=True, text=True).stdout
        _ask(hider)
        assert subprocess.run(look, capture_output=True, text=True).stdout == "environ refused\nmem refused\n"


def _python(code: str, environ: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMON + code, *arguments]
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().rstrip("\n")
