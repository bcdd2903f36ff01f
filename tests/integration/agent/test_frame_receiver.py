"""`waterflow_agent.session.frame_receiver`: real ZeroMQ sockets on both kinds of loops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import uvloop
import zmq

from tests.patience import PATIENCE_S
from waterflow_agent.session.frame_receiver import FrameReceiver

Plain = zmq.Socket[bytes]


@contextmanager
def pair() -> Iterator[tuple[Plain, Plain]]:
    """Two sockets that are connected over TCP."""
    context: zmq.Context[Plain] = zmq.Context()
    one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    try:
        for sock in (one, other):
            sock.setsockopt(zmq.SNDHWM, 0)
            sock.setsockopt(zmq.RCVHWM, 0)
        other.connect(f"tcp://127.0.0.1:{one.bind_to_random_port('tcp://127.0.0.1')}")
        yield one, other
    finally:
        context.destroy(linger=0)


def on_each_loop(test: Callable[[], Awaitable[None]]) -> None:
    """Runs the test on the event loops of the agent and of the daemon."""

    async def patiently() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test()

    asyncio.run(patiently())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(patiently())


def test_nothing_is_missed_while_both_sides_send() -> None:
    """Sending consumes the signal of arrived frames, so the descriptor does not become readable."""
    rounds, at_once = 2_000, 3

    async def test() -> None:
        with pair() as sockets:
            seen = [0, 0]
            done = asyncio.Event()
            arrivals: list[FrameReceiver] = []

            def answer(me: int) -> None:
                seen[me] += 1
                if sum(seen) >= 2 * rounds * at_once:
                    done.set()
                    return
                # Sent in another turn of the loop than the one that reads, as the links do.
                asyncio.get_running_loop().call_soon(say, me)

            def say(me: int) -> None:
                arrivals[me].look()
                sockets[me].send(b"x", zmq.NOBLOCK)

            arrivals += [
                FrameReceiver(sockets[0], lambda parts: answer(0), 16),
                FrameReceiver(sockets[1], lambda parts: answer(1), 16),
            ]
            tasks = [asyncio.create_task(one.run()) for one in arrivals]
            for _ in range(at_once):
                sockets[0].send(b"x")
            arrivals[0].look()
            await done.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    on_each_loop(test)


def test_other_callbacks_run_during_a_flood() -> None:
    """After `turn_max` messages, other callbacks of the loop get a turn."""

    async def test() -> None:
        with pair() as (one, other):
            for number in range(1_000):
                other.send(str(number).encode())
            taken: list[int] = []
            between: list[int] = []
            done = asyncio.Event()
            loop = asyncio.get_running_loop()

            def take(parts: list[zmq.Frame]) -> None:
                taken.append(int(parts[0].bytes))
                if len(taken) % 10 == 1:
                    loop.call_soon(lambda: between.append(len(taken)))
                if len(taken) == 1_000:
                    done.set()

            reading = asyncio.create_task(FrameReceiver(one, take, 10).run())
            await done.wait()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            assert taken == list(range(1_000))
            # Each callback was scheduled in its own turn, and ran before the next one received its messages.
            assert all(after <= 10 * (index + 1) for index, after in enumerate(between))

    on_each_loop(test)


def test_errors_end_the_reading() -> None:
    """Errors of `take` and of the socket are raised by `run`."""

    async def test() -> None:
        with pair() as (one, other):

            def take(parts: list[zmq.Frame]) -> None:
                raise ValueError(parts[0].bytes.decode())

            other.send(b"bad")
            with pytest.raises(ValueError, match="bad"):
                await FrameReceiver(one, take, 10).run()
            # The failed receiver has left nothing on the loop: a second one reads the same socket.
            other.send(b"worse")
            with pytest.raises(ValueError, match="worse"):
                await FrameReceiver(one, take, 10).run()

    on_each_loop(test)
