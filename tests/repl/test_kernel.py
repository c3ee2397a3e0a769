"""What of a kernel can be looked at without one."""

from __future__ import annotations

import time
from pathlib import Path

import zmq
from jupyter_client.session import Session

from rlm_nb.repl.kernel import Outputs


def test_who_subscribes_while_something_is_sent_is_welcome(tmp_path: Path) -> None:
    """Each of many hears so at once: the socket that sends has news of them, which it tells only once."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as sending, context.socket(zmq.SUB) as listening:
        sending.bind(f"ipc://{tmp_path}/outputs")
        listening.connect(f"ipc://{tmp_path}/outputs")
        outputs = Outputs(sending, session=Session(key=b""))
        outputs.start()
        heard = all(_is_welcome(f"listener-{number}.".encode(), listening, outputs) for number in range(100))
        outputs.stop()
        outputs.close()
    assert heard


def _is_welcome(topic: bytes, listening: zmq.Socket[bytes], outputs: Outputs) -> bool:
    """Whether that is said while more and more is sent."""
    listening.subscribe(topic)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        outputs.send_multipart([b"more"])
        while listening.poll(0):
            if listening.recv_multipart()[0] == topic:
                return True
    return False
