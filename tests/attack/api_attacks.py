"""Attacks on the API, each in its own process (attack_process.py).

An attack prints a line when everything is open or sent once, and continues until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import sys
from collections.abc import Awaitable, Callable

import msgspec

from tests.attack import attack_process

#: A file within the limits of the language that takes as long to compile as the compiler allows.
SLOW_FILE = (
    "env:\n"
    + "".join(f" V{number}: ${{{{ {number}{'||1' * 2_000} }}}}\n" for number in range(100))
    + "jobs: {j: {runs-on: web, steps: [{run: 'true'}]}}\n"
)


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """What to attack, and how much of it."""

    host: str
    port: int
    #: The token of a viewer.
    token: str
    #: Connections, streams or requests at a time.
    count: int = 300


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def silent_connections(aim: Aim) -> None:
    """Connections that send nothing, or a part of a request head; one that is closed is opened again."""

    async def hold(number: int) -> None:
        reader, writer = await _open(aim)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Filler: "[: number % 40])
        await reader.read()
        writer.close()

    await _keep(aim.count, hold)


async def hoarded_streams(aim: Aim) -> None:
    """Streams of one viewer, who reads none of them; one that is refused is requested again."""

    async def hold(number: int) -> None:
        reader, writer = await _open(aim)
        writer.write(_head(aim, "GET", "/v1/events?cursor=0") + b"\r\n")
        if b" 200 " in await reader.readline():
            await asyncio.sleep(3600)
        writer.close()

    await _keep(aim.count, hold)


async def unfinished_bodies(aim: Aim) -> None:
    """Requests whose body never ends, for webhooks without a token and for validation with one."""

    async def hold(number: int) -> None:
        reader, writer = await _open(aim)
        path = "/v1/validate" if number % 2 else "/v1/hooks/nothing"
        kind = b"Content-Type: application/yaml\r\n"
        writer.write(_head(aim, "POST", path) + kind + b"Content-Length: 100000\r\n\r\n" + b"x" * 1_000)
        await reader.read()
        writer.close()

    await _keep(aim.count, hold)


async def ambiguous_requests(aim: Aim) -> None:
    """Requests that hide a second one in their body; ends with an error if one of them gets two answers."""

    async def send(number: int) -> None:
        reader, writer = await _open(aim)
        hidden = _head(aim, "GET", "/version") + b"\r\n"
        length = b"Content-Length: %d\r\n" % (5 + len(hidden))
        framing = [length + b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:\r\n chunked\r\n", length * 2][
            number % 3
        ]
        writer.write(_head(aim, "POST", "/v1/validate") + framing + b"\r\n" + b"0\r\n\r\n" + hidden)
        answered = await reader.read()
        writer.close()
        if answered.count(b"HTTP/1.1 ") > 1:
            raise SystemExit(f"two answers: {answered!r}")

    await _keep(min(aim.count, 20), send)


async def slow_validations(aim: Aim) -> None:
    """Validations of a file that takes as long as possible; every second client disconnects at once and comes back."""
    body = SLOW_FILE.encode()

    async def send(number: int) -> None:
        reader, writer = await _open(aim)
        head = _head(aim, "POST", "/v1/validate") + b"Content-Type: application/yaml\r\nConnection: close\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        if number % 2:
            await reader.read()
        writer.close()

    await _keep(min(aim.count, 60), send)


async def _open(aim: Aim) -> Streams:
    return await asyncio.open_connection(aim.host, aim.port)


def _head(aim: Aim, method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {aim.host}:{aim.port}\r\nAuthorization: Bearer {aim.token}\r\n".encode()


async def _keep(count: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Does the work `count` times at a time, again and again, without asking the machine for more than it has."""

    async def repeat(first: int) -> None:
        for number in itertools.count(first):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await work(number)
            await asyncio.sleep(0.2)

    tasks = [asyncio.create_task(repeat(number)) for number in range(count)]
    await asyncio.sleep(1)
    print("sent", flush=True)
    for task in tasks:
        await task


ATTACKS: dict[str, Callable[[Aim], Awaitable[None]]] = {
    attack.__name__: attack
    for attack in (silent_connections, hoarded_streams, unfinished_bodies, ambiguous_requests, slow_validations)
}


#: Runs one of these attacks, see `attack_process.attack`.
attack = functools.partial(attack_process.attack, "tests.attack.api_attacks")


def main(name: str, aim: str) -> None:
    """Runs the attack `name`."""
    attack_process.prepare()

    async def run() -> None:
        await ATTACKS[name](msgspec.json.decode(aim, type=Aim))

    asyncio.run(run())


if __name__ == "__main__":
    main(*sys.argv[1:])
