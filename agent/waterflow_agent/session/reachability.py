"""Why a server cannot be reached: its name, its port, or its key, each in a sentence of its own.

ZeroMQ reports all of these as a connection that was closed. Names are therefore resolved here before a connection is made, and
after a failed one a plain TCP connection shows what the system says about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import threading

from waterflow_agent import addresses

#: A firewall that drops packets is noticed after this time.
CONNECT_S_MAX = 5.0

KEY_DIFFERS = (
    "the handshake failed: the server's key differs from the one that this agent has, or the server has just stopped. If its "
    "key was rotated and the old one has expired, or if it was set up again, enroll this agent again with a new join token"
)
NO_SERVER = (
    "the handshake failed: what answers there is not a port of waterflowd for agents, or waterflowd is just stopping; check "
    "the port: by default 7233, and 7234 for enrollment"
)


async def resolution_problem(endpoint: str) -> str:
    """Why the host name in the endpoint has no address; "" if it has one."""
    host = addresses.host_of(endpoint).strip("[]")
    if _is_numeric(host):
        return ""
    try:
        await _resolved(host, addresses.port_of(endpoint))
    except OSError as error:
        reason = error.strerror or str(error)
        return f'cannot resolve the host name "{host}": {reason}; check the address of the server, and DNS'
    return ""


async def connection_problem(endpoint: str) -> str:
    """Why the endpoint accepts no connection, or that it does not keep one."""
    host, port = addresses.host_of(endpoint).strip("[]"), addresses.port_of(endpoint)
    place = f"port {port} of {host}"
    try:
        async with asyncio.timeout(CONNECT_S_MAX):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"no answer from {place}: check the address, the port, and firewalls in between"
    except ConnectionRefusedError:
        return f"connection refused: nothing listens on {place}; check the port, and that waterflowd runs there"
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        return f"cannot connect to {place}: {reason}; check the address of the server"
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return f"{place} closed the connection at once: waterflowd is starting or stopping, or limits its connections"


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def _resolved(host: str, port: int) -> None:
    """Raises `OSError` for a name without an address. In a daemon thread: a slow resolver must not delay the agent's end."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[None] = loop.create_future()

    def deliver(error: OSError | None) -> None:
        if found.done():
            return
        if error is None:
            found.set_result(None)
        else:
            found.set_exception(error)

    def resolve() -> None:
        failure: OSError | None = None
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            failure = error
        except UnicodeError:
            failure = OSError("it is not a valid host name")
        with contextlib.suppress(RuntimeError):
            # The loop may have ended meanwhile.
            loop.call_soon_threadsafe(deliver, failure)

    threading.Thread(target=resolve, name="resolver", daemon=True).start()
    await found
