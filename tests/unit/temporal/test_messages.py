"""What the workflow code and a daemon exchange can be decoded on several threads from the beginning."""

from __future__ import annotations

import subprocess
import sys

from tests.patience import PATIENCE_S

#: The first values that a process decodes, on threads that take turns as often as possible.
THREADS = """\
import sys, threading
sys.setswitchinterval(1e-6)
import msgspec
from waterflowd.temporal.workflow import messages

values = [
    messages.TurnResult(facts=[b"x"], commands=[messages.CancelTimer(id="a")], taken=[1], seq=1),
    messages.Begin(inputs=[messages.SignalReceived(number=1, content=b"a")]),
]
begin = threading.Barrier(4)
found = []

def decode(value):
    content = msgspec.msgpack.encode(value)
    begin.wait()
    found.append(msgspec.msgpack.decode(content, type=type(value)) == value)

threads = [threading.Thread(target=decode, args=(value,)) for value in values * 2]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found == [True] * 4
"""


def test_the_first_values_can_be_decoded_on_several_threads() -> None:
    """msgspec crashed the process when a thread decoded a type whose description another one was making (1 of 6 times)."""
    for _ in range(5):
        ended = subprocess.run(
            [sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert ended.returncode == 0, ended.stderr
