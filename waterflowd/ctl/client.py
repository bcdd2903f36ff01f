"""The API's client: requests, pages and streams that survive a restart of the daemon.

Rules of this file: the only place that imports httpx, and only when the first request is made. Every way in which a request
can fail becomes a `Failure` with its exit code. A stream that breaks is taken up again where it broke, for `PATIENCE_S`.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from waterflowd import __version__
from waterflowd.ctl.failures import Refused, Unreachable
from waterflowd.ctl.settings import Settings

if TYPE_CHECKING:
    import httpx

#: How long a stream waits for a daemon that went away: a restart, an upgrade.
PATIENCE_S = 300.0
_PAUSE_S = 0.5
_CONNECT_S = 5.0
#: Longer than the API's heartbeats.
_READ_S = 60.0
#: A connection over which nothing is said is asked by the system whether its other end is still there: gone after a minute.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


class Client:
    """Talks to one daemon."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._http: httpx.Client | None = None

    def _client(self) -> httpx.Client:
        if self._http is None:
            import httpx

            headers = {"User-Agent": f"waterflowctl/{__version__}"}
            if self.settings.token:
                headers["Authorization"] = f"Bearer {self.settings.token}"
            path = self.settings.socket
            if path is not None:
                self._try_socket(path)
            self._http = httpx.Client(
                transport=httpx.HTTPTransport(uds=path)
                if path is not None
                else httpx.HTTPTransport(socket_options=_KEEPALIVE),
                base_url="http://localhost" if path is not None else self.settings.server,
                headers=headers,
                timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S),
            )
        return self._http

    def _try_socket(self, path: str) -> None:
        """Looks whether anybody listens there, since httpx leaves the socket of a failed try open."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_CONNECT_S)
            try:
                probe.connect(path)
            except OSError as error:
                raise self._unreachable(error) from None

    def close(self) -> None:
        """Closes the connections."""
        if self._http is not None:
            self._http.close()

    def get(self, path: str, /, **parameters: Any) -> Any:
        """The JSON at `path`; parameters that are None are left out."""
        return self._ask("GET", path, parameters, {}, None)

    def post(self, path: str, content: dict[str, Any] | None = None, /, **parameters: Any) -> Any:
        """Posts JSON and gives the answer's JSON."""
        body = json.dumps(content or {}).encode()
        return self._ask("POST", path, parameters, {"Content-Type": "application/json"}, body)

    def wait(self, path: str, /, **parameters: Any) -> Any:
        """Posts what is answered when it is done, however long that takes: how long it may take is the daemon's to say."""
        import httpx

        timeout = httpx.Timeout(None, connect=_CONNECT_S)
        return self._ask("POST", path, parameters, {"Content-Type": "application/json"}, b"{}", timeout=timeout)

    def start(self, path: str, content: dict[str, Any], /, **parameters: Any) -> Any:
        """Posts a start under a key of its own, so that it can be tried again when the answer was lost."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        body = json.dumps(content).encode()
        try:
            return self._ask("POST", path, parameters, headers, body)
        except Unreachable:
            time.sleep(_PAUSE_S)
            return self._ask("POST", path, parameters, headers, body)

    def _ask(
        self,
        method: str,
        path: str,
        parameters: dict[str, Any],
        headers: dict[str, str],
        body: bytes | None,
        *,
        timeout: httpx.Timeout | None = None,
    ) -> Any:
        import httpx

        chosen = {name: value for name, value in parameters.items() if value is not None}
        try:
            client = self._client()
            timeout = timeout or client.timeout
            response = client.request(method, path, params=chosen, headers=headers, content=body, timeout=timeout)
        except httpx.InvalidURL as error:
            raise Unreachable(f"{self.settings.server!r} is no address: {error}", _NEXT) from None
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if response.status_code >= 400:
            raise refused(response.status_code, response.content)
        return json.loads(response.content) if response.content else None

    def pages(self, path: str, key: str, limit: int | None = None, /, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Rows of a list over all its pages, at most `limit`."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = 100 if left is None else min(left, 100)
            answered = self.get(path, limit=size, cursor=cursor, **parameters)
            yield from answered[key]
            if left is not None:
                left -= len(answered[key])
            cursor = answered["next"]
            if cursor is None:
                return

    def lines(self, path: str, /, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Objects of an NDJSON answer."""
        import httpx

        chosen = {name: value for name, value in parameters.items() if value is not None}
        headers = {"Accept": "application/x-ndjson"}
        try:
            with self._client().stream("GET", path, params=chosen, headers=headers) as response:
                if response.status_code >= 400:
                    raise refused(response.status_code, response.read())
                for line in response.iter_lines():
                    if line:
                        yield json.loads(line)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def follow(
        self, path: str, on_lost: Callable[[str], None], /, **parameters: Any
    ) -> Iterator[dict[str, Any] | None]:
        """Items of a stream of server-sent events until its end; None for a heartbeat.

        A broken connection is taken up again after the last item; `on_lost` is told once per break.
        """
        import httpx

        chosen = {name: value for name, value in parameters.items() if value is not None} | {"follow": "true"}
        last: str | None = None
        lost_since: float | None = None
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last is not None else {})
            problem = "the daemon has ended the stream"
            try:
                with self._client().stream("GET", path, params=chosen, headers=headers) as response:
                    if response.status_code >= 400:
                        raise refused(response.status_code, response.read())
                    for identity, kind, content in _events(response.iter_lines()):
                        lost_since = None
                        if kind == "end":
                            return
                        last = identity or last
                        yield json.loads(content) if content else None
            except httpx.TransportError as error:
                problem = str(self._unreachable(error).message)
            except Refused as error:
                # Restarting daemons say 503 for a moment.
                if error.status != 503:
                    raise
                problem = str(error.message)
            if lost_since is None:
                lost_since = time.monotonic()
                on_lost(problem)
            elif time.monotonic() - lost_since > PATIENCE_S:
                raise Unreachable(problem, _NEXT)
            time.sleep(_PAUSE_S)

    def _unreachable(self, error: Exception) -> Unreachable:
        text = str(error) or type(error).__name__
        if "Permission denied" in text:
            return Unreachable(
                f"this user may not use {self.settings.server} ({text})",
                "sudo waterflowctl status, or --server http://HOST:PORT with WATERFLOW_TOKEN",
            )
        if "without sending" in text or "disconnected" in text:
            return Unreachable(f"the connection to {self.settings.server} broke off", _NEXT)
        return Unreachable(f"no daemon answers at {self.settings.server} ({text})", _NEXT)


_NEXT = "systemctl status waterflowd, or say where it is: waterflowctl --server http://HOST:PORT status"


def refused(status: int, content: bytes) -> Refused:
    """What a problem document becomes."""
    try:
        problem = json.loads(content)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    following = ""
    if status == 401:
        following = "export WATERFLOW_TOKEN=wf_... (an admin makes one: waterflowctl tokens create --role runner)"
    elif status == 403:
        following = "waterflowctl tokens create --role ... (as an admin)"
    elif status == 422:
        following = "repair the file, then: waterflowctl validate FILE"
    return Refused(status, problem, following)


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str, str]]:
    """(id, kind, data) of each server-sent event; a comment gives an empty one."""
    identity = kind = content = ""
    for line in lines:
        if not line:
            if content or kind:
                yield identity, kind, content
            identity = kind = content = ""
        elif line.startswith(":"):
            yield "", "", ""
        else:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "id":
                identity = value
            elif field == "event":
                kind = value
            elif field == "data":
                content = content + "\n" + value if content else value


def run_path(run: str, rest: str = "") -> str:
    """The address of a run, whatever the user typed."""
    return f"/v1/runs/{quote(run, safe='')}{rest}"
