"""A small file that processes share: locked, read whole, written whole, in hundredths of a millisecond."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlm_nb.errors import LedgerError

PATIENCE = 60.0
"""Seconds after which a lock that is not given up is an error: its holder is not dead, but stopped."""

POLL = 0.001
"""Seconds between two looks at a lock that another process holds, which it does for less than that."""


class Storage:
    """The file `path`, under the lock `path` + `.lock`.

    The lock is the operating system's and ends with its holder, so it is never removed: unlinking a locked file would
    split its waiters across two inodes. Only the file's name says which of two inodes holds the truth; the other one,
    `path` + `.new`, is where the next text is written.

    Raises:
        LedgerError: The path leads to something else than a file, or nobody may look where it leads.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.path = path.resolve()  # two names of one purse share one lock
            if self.path.exists() and not self.path.is_file():  # a pipe would be waited for
                raise LedgerError(f"{self.path}: is no file")
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            raise LedgerError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        # As texts: an agent takes dozens of steps, and each of these is used in most of them.
        self._name, self._folder = str(self.path), str(self.path.parent)
        self._spare, self._former, self._lock_path = (f"{self._name}.{end}" for end in ("new", "old", "lock"))
        self._threads = _ThreadLock()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the file: threads of a process wait for each other, so that one of them waits for the others.

        Raises:
            LedgerError: Somebody holds the lock and does not go on, or it cannot be had.
        """
        with self._threads.held(self._stuck):
            file = self._lock()
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing it would not do: a fork may have it, too
                os.close(file)

    def _lock(self) -> int:
        """The descriptor that holds the lock. Opened for each step: one of them may not cross a fork."""
        try:
            file = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._wait_for(file)
            except BaseException:
                os.close(file)
                raise
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be locked: {error.strerror}") from None
        return file

    def _wait_for(self, file: int) -> None:
        # The package filelock does the same, and takes longer for it than all the rest of a step: 0.4 of 0.7 ms.
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise self._stuck() from None
                time.sleep(POLL)

    def _stuck(self) -> LedgerError:
        return LedgerError(
            f"{self.path}: locked for {PATIENCE:g} s; a process that shares it is stopped, resume or end it"
        )

    def read(self) -> bytes:
        """The whole file, for whoever holds the lock: without it, what is read may be written over.

        Raises:
            LedgerError: There is none, or it cannot be read.
        """
        try:
            with open(self._name, "rb", buffering=0) as file:
                return file.readall()
        except FileNotFoundError:
            raise LedgerError(f"{self.path}: there is no budget file; create one, or was its run removed?") from None
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be read: {error.strerror}") from None

    def write(self, text: bytes) -> None:
        """Put another text in the file's place, which is whole whenever a process is killed.

        No fsync: a killed process loses nothing that the system has taken, and a power cut ends every holder too; at
        the worst it leaves a damaged file, which is refused, never reset.

        Raises:
            LedgerError: It cannot be written.
        """
        try:
            self._fill_spare(text)
            self._exchange()
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be written: {error.strerror}") from None

    @contextmanager
    def looking(self) -> Iterator[bytes]:
        """The whole file, for whoever only wants to see it, and may not be allowed more than that.

        Raises:
            LedgerError: See `locked` and `read`.
        """
        # Who has ever changed it has made the lock: without one, nobody does, and looking makes none.
        changes = os.path.exists(self._lock_path) and os.access(self._folder, os.W_OK)
        with self.locked() if changes else self._threads.held(self._stuck):
            yield self.read()

    def look(self) -> bytes:
        """What `looking` gives, when nobody minds that it may be changed at once."""
        with self.looking() as text:
            return text

    def rest(self) -> None:
        """Nobody uses the file for now: leave nothing beside it, and have the system bring it to the disk."""
        with self.locked(), suppress(OSError):
            os.unlink(self._spare)
        with suppress(OSError):  # gone, or on a disk without such a thing: what is written is written
            file = os.open(self._name, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def _fill_spare(self, text: bytes) -> None:
        try:
            file = os.open(self._spare, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # that of somebody else in the team
            os.unlink(self._spare)
            file = os.open(self._spare, os.O_RDWR | os.O_CREAT, 0o666)
        with open(file, "wb") as spare:  # by its descriptor, so that it keeps its blocks
            spare.write(text)
            spare.truncate()

    def _exchange(self) -> None:
        """Let both names change places, as far as anybody who has to wait for the lock can tell.

        Renaming a new file over an old one would do, and is the way out where there are no hard links. But ext4 then
        writes the new one to the disk at once, which takes 1 to 4 ms; with inodes that have their blocks already,
        nothing has to be written. Killed in between, the file has one text or the other, and what is left over of the
        names is done away with here.
        """
        with suppress(FileNotFoundError):
            os.unlink(self._former)
        try:
            os.link(self._name, self._former)
        except OSError:  # it does not exist yet, or has no second name here
            os.replace(self._spare, self._name)
            return
        os.replace(self._spare, self._name)
        os.replace(self._former, self._spare)


class _ThreadLock:
    """One thread of this process at a time; a fork begins with a free one."""

    def __init__(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()

    @contextmanager
    def held(self, stuck: Callable[[], LedgerError]) -> Iterator[None]:
        if self._pid != os.getpid():
            self._pid, self._lock = os.getpid(), threading.Lock()
        lock = self._lock
        if not lock.acquire(timeout=PATIENCE):
            raise stuck()
        try:
            yield
        finally:
            lock.release()
