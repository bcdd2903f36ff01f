"""The bare loop: the highest rate of steps that two Python processes can reach here without a workflow engine.

A server (asyncio) has a CURVE ROUTER socket, and a worker process has one DEALER socket and answers immediately. For
each answer the server appends two events of typical size to LMDB, in one synced transaction for all answers received
so far, on a separate thread. Only then does it send the next step. Other figures are shares of this rate, measured in
the same run.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import lmdb
import msgspec
import zmq
import zmq.auth.asyncio

from bench.figures import Latencies

#: An event of the size of a step's result.
EVENT = {
    "type": "attempt-finished",
    "at": 1_764_000_000_000,
    "job": "build",
    "step": "compile-42",
    "attempt": 1,
    "outcome": "success",
    "exit_code": 0,
    "reason": {"code": "succeeded", "text": "succeeded"},
    "outputs": {"artifact": "sha256:9f86d081884c7d65"},
}
_STOP = b"stop"


def _answer(endpoint: str, server_key: bytes) -> None:
    """The worker process: sends every step back."""
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
    dealer.curve_serverkey = server_key
    dealer.connect(endpoint)
    dealer.send(b"hello")
    while (step := dealer.recv()) != _STOP:
        dealer.send(step)
    context.destroy(linger=0)


class _Log:
    """Appends events with ascending keys. They are on disk when `append` returns."""

    def __init__(self, folder: str) -> None:
        self.environment = lmdb.open(folder, map_size=8 << 30)
        self._position = 0
        self._encode = msgspec.msgpack.Encoder().encode

    def append(self, count: int) -> None:
        with self.environment.begin(write=True) as transaction:
            for _ in range(count):
                self._position += 1
                transaction.put(self._position.to_bytes(8, "big"), self._encode(EVENT), append=True)


async def _serve(runs: int, seconds: float, folder: str) -> Latencies:
    context = zmq.Context()
    gate = zmq.auth.asyncio.AsyncioAuthenticator(context)
    gate.start()
    gate.configure_curve(domain="*", location=zmq.auth.CURVE_ALLOW_ANY)
    router = context.socket(zmq.ROUTER)
    public, router.curve_secretkey = zmq.curve_keypair()
    router.curve_server = True
    port = router.bind_to_random_port("tcp://127.0.0.1")
    worker = multiprocessing.get_context("spawn").Process(target=_answer, args=(f"tcp://127.0.0.1:{port}", public))
    worker.start()
    while not router.poll(10):  # noqa: ASYNC110  the authenticator needs the loop
        await asyncio.sleep(0.01)
    peer, _ = router.recv_multipart()
    log, thread, loop = _Log(folder), ThreadPoolExecutor(1), asyncio.get_running_loop()
    answers: list[bytes] = []
    arrived = asyncio.Event()

    def drain() -> None:
        try:
            while True:
                answers.append(router.recv_multipart(zmq.DONTWAIT)[1])
        except zmq.Again:
            if answers:
                arrived.set()

    loop.add_reader(router.fileno(), drain)
    start = time.perf_counter()
    sent = dict.fromkeys(map(str, range(runs)), start)
    for run in sent:
        router.send_multipart([peer, run.encode()])
    figures = Latencies()
    while time.perf_counter() - start < seconds:
        drain()
        await arrived.wait()
        arrived.clear()
        batch, answers[:] = list(answers), []
        await loop.run_in_executor(thread, log.append, 2 * len(batch))
        now = time.perf_counter()
        for answer in batch:
            run = answer.decode()
            figures.add(now - sent[run])
            sent[run] = now
            router.send_multipart([peer, answer], zmq.DONTWAIT)
    figures.seconds = time.perf_counter() - start
    router.send_multipart([peer, _STOP])
    worker.join(5)
    loop.remove_reader(router.fileno())
    gate.stop()
    thread.shutdown()
    log.environment.close()
    context.destroy(linger=0)
    return figures


def measure(runs: int, seconds: float) -> Latencies:
    """Steps and their latencies with `runs` sequential runs at once."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_serve(runs, seconds, folder))
