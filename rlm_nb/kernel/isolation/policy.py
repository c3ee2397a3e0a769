"""What a kernel may reach, as plain data: made by the controller, sent to where the kernel begins, and obeyed there."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

Level = Literal["ns", "bwrap", "landlock", "none"]
"""`ns`: namespaces, Landlock and seccomp; `bwrap`: the same, but that bubblewrap makes the namespaces; `landlock`: the
latter two, and no connections at all; `none`."""

Network = Literal["none", "loopback", "host"]

VARIABLE = "RLM_ISOLATION"
"""The environment variable in which a supervisor that is started cold finds the policy."""

SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
    "/etc/alternatives",
    "/etc/ca-certificates.conf",
    "/etc/fonts",
    "/etc/gitconfig",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
    "/sys/devices/system/cpu",
)
"""What programs need of the system in order to run; those that are there."""

NAMES = ("/etc/resolv.conf", "/etc/pki/ca-trust", "/etc/ca-certificates")
"""What else they need to find others by name, where there is a network."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_PARTS = ("bin", "lib", "lib32", "lib64", "libexec", "include", "share", "etc", "ssl", "pyvenv.cfg")
"""What of a Python's prefix is Python: `python -m venv .` makes a folder with other things in it a prefix."""


@dataclass(frozen=True)
class Canaries:
    """What must be out of reach: planted by the controller, tried by a process that has been confined.

    Args:
        secret: A file that must not be read.
        path: A file that must not be made.
        socket: A unix socket that must not be talked to.
        abstract: The same, by a name without a file.
        port: A TCP port on the loopback interface, likewise; `None` where there is a network.
    """

    secret: str
    path: str
    socket: str
    abstract: str
    port: int | None


@dataclass(frozen=True)
class Policy:
    """What one kernel may reach.

    Args:
        level: By what means all else is kept from it.
        network: What it may connect to: nobody, itself, or whom everybody on this machine may.
        read: Files and folders that it may read; those that are not there are left out.
        write: Folders that it may change, too.
        listed: Folders of which it may read the names, and those below, where there are no namespaces.
        bubblewrap: Where this program is, at level `bwrap`; empty where there is none.
        memory: Bytes that its `/tmp` and its `/dev/shm` may take, each; `None` for what the system allows.
        canaries: What is tried before anything else runs; nothing is, without.
    """

    level: Level = "none"
    network: Network = "none"
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    bubblewrap: str = ""
    memory: int | None = None
    canaries: Canaries | None = None

    @property
    def apart(self) -> bool:
        """Whether it is in a world of its own, in which there is nothing else."""
        return self.level in ("ns", "bwrap")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """What `as_text` has written."""
        values: dict[str, Any] = json.loads(text)
        canaries = values.pop("canaries")
        values |= {name: tuple(values[name]) for name in ("read", "write", "listed")}
        return cls(**values, canaries=Canaries(**canaries) if canaries else None)

    def as_text(self) -> str:
        """For another process."""
        canaries = vars(self.canaries) if self.canaries else None
        return json.dumps({**vars(self), "canaries": canaries})


def readable(network: Network) -> tuple[str, ...]:
    """What every kernel may read: the system's programs and libraries, this Python with its packages, and rlm-nb."""
    return (*SYSTEM, *(NAMES if network == "host" else ()), *python())


@cache
def python() -> tuple[str, ...]:
    """Where this Python is, with what is installed in it. Not what its packages lead to by links in `.pth` files."""
    prefixes = dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix))
    found = [str(Path(prefix, part)) for prefix in prefixes for part in _PARTS]
    found += [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [str(Path(sys.executable).parent), str(Path(os.path.realpath(sys.executable)).parent)]
    found.append(str(Path(__file__).parents[2]))  # this package, which need not be among them
    return tuple(dict.fromkeys(path for path in found if os.path.lexists(path)))


@cache
def searched() -> tuple[str, ...]:
    """The folder that rlm-nb is in, when that is a checkout: Python looks through it for the package."""
    folder = str(Path(__file__).parents[3])
    return () if folder in {sysconfig.get_paths()[name] for name in ("purelib", "platlib")} else (folder,)


def without_repeats(paths: Iterable[str | Path]) -> tuple[str, ...]:
    """Absolute paths, each once, in order."""
    return tuple(dict.fromkeys(os.path.abspath(path) for path in paths))  # noqa: PTH100 - links are kept
