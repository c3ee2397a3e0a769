"""Lets no line of a thread run any more, those that handle exceptions included: the end of what catches everything.

Up to here, an exception that is raised in a thread is one that it may catch. Each version of Python has a way to be
asked before every line; ours answers by raising.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from types import CodeType

MACHINERY = ("<frozen importlib", threading.__file__)
"""Code of Python's own that has to come to its end: locks are let go of in there."""


class Refusal:
    """What ends one thread.

    Args:
        thread: The thread, by its `ident`.
        error: Makes what is raised at each line.
        spared: The file whose lines may run: that of whoever started the thread, and waits for its end.
        is_over: Whether the thread has come to its end, but for those lines.
    """

    def __init__(self, thread: int, error: Callable[[], BaseException], spared: str, is_over: threading.Event) -> None:
        self._thread, self._error, self._spared, self._is_over = thread, error, spared, is_over

    if sys.version_info >= (3, 12):

        def last(self, seconds: float) -> None:
            """Refuse each line for so long."""
            monitoring = sys.monitoring
            tool = next((number for number in (4, 3) if monitoring.get_tool(number) is None), None)
            if tool is None:
                return
            events = monitoring.events.LINE | monitoring.events.JUMP
            monitoring.use_tool_id(tool, "rlm-nb")
            try:
                for event in (monitoring.events.LINE, monitoring.events.JUMP):
                    monitoring.register_callback(tool, event, self._refuse)
                monitoring.set_events(tool, events)
                self._is_over.wait(seconds)
            finally:
                monitoring.set_events(tool, 0)
                monitoring.free_tool_id(tool)

        def _refuse(self, code: CodeType, *place: int) -> None:
            if threading.get_ident() == self._thread:
                self._check(code)

    else:

        def begin(self) -> None:
            """Refuse each line from now on; for the thread itself to call.

            A function that is set with `sys.settrace` is dropped as soon as it raises. Set from C, it is not; and a
            function of C that calls back into Python, and does as it is told there, is the one that tells whether
            something is true.
            """
            asks = ctypes.cast(ctypes.pythonapi.PyObject_IsTrue, ctypes.c_void_p)
            ctypes.pythonapi.PyEval_SetTrace(asks, ctypes.py_object(self))

        def __bool__(self) -> bool:
            self._check(sys._getframe(1).f_code)
            return False

    def _check(self, code: CodeType) -> None:
        if not (self._is_over.is_set() or code.co_filename.startswith((self._spared, *MACHINERY))):
            raise self._error()
