"""The API client: requests, pages, and streams that survive a restart of the daemon.

Rules of this file: only this module imports httpx, and only when the first request is made. Every way in which a request
can fail becomes a `Failure` with its exit code. The first request waits for a daemon that is just starting, for up to
`Settings.wait_s`. A broken stream is resumed where it broke, for up to `RECONNECT_S`.
"""

from __future__ import annotations

import json
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from waterflowd import __version__
from waterflowd.ctl.failures import REFUSED, Failure, Refused, Unreachable
from waterflowd.ctl.settings import Settings

if TYPE_CHECKING:
    import httpx

#: How long a stream waits for a daemon that is restarted or upgraded.
RECONNECT_S = 300.0
_PAUSE_S = 0.5
#: Between tries to reach a daemon that is just starting.
_STARTING_PAUSE_S = 0.1
#: When to say that the command is waiting.
_QUIET_S = 1.0
_CONNECT_S = 5.0
#: The kernel probes an idle connection, and closes it when the other side has been gone for a minute.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
#: Codes of a 422 that is not about a workflow: a repository's URL, and the daemon's configuration.
_OF_THE_DAEMON = ("WF502", "WF620", "WF622")
_JSON = {"Content-Type": "application/json"}
_FIND_DAEMON = (
    "systemctl status waterflowd, or name the daemon's address: waterflowctl --server http://HOST:PORT status"
)


class Client:
    """Talks to one daemon."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._http: httpx.Client | None = None
        #: Whether the daemon has answered: from then on, a failed connection is reported at once.
        self._is_reached = False

    def _client(self) -> httpx.Client:
        if self._http is None:
            import httpx

            headers = {"User-Agent": f"waterflowctl/{__version__}"}
            if self.settings.token:
                headers["Authorization"] = f"Bearer {self.settings.token}"
            path = self.settings.socket
            self._http = httpx.Client(
                transport=httpx.HTTPTransport(uds=path)
                if path is not None
                else httpx.HTTPTransport(socket_options=_KEEPALIVE),
                base_url="http://localhost" if path is not None else self.settings.server,
                headers=headers,
                timeout=httpx.Timeout(self.settings.answer_s, connect=min(_CONNECT_S, self.settings.answer_s)),
            )
        return self._http

    def _probe_socket(self, path: str) -> None:
        """Check that the unix socket accepts connections; httpx leaks the socket of a failed attempt."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_CONNECT_S)
            try:
                probe.connect(path)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                raise _NotListening(error) from None
            except OSError as error:
                raise self._unreachable(error) from None

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def get(self, path: str, /, **parameters: Any) -> Any:
        """Return the JSON at `path`; parameters that are None are left out."""
        return _json(self._request("GET", path, parameters, {}, None))

    def text(self, path: str, /, **parameters: Any) -> str:
        """Return the text at `path`; parameters that are None are left out."""
        return self._request("GET", path, parameters, {}, None).text

    def post(self, path: str, content: dict[str, Any] | None = None, /, **parameters: Any) -> Any:
        """Post JSON and return the response's JSON."""
        return _json(self._request("POST", path, parameters, _JSON, json.dumps(content or {}).encode()))

    def patch(self, path: str, content: dict[str, Any], /) -> Any:
        """Change what is at `path`, and return it as it is then."""
        return _json(self._request("PATCH", path, {}, _JSON, json.dumps(content).encode()))

    def delete(self, path: str, /, **parameters: Any) -> Any:
        """Delete what is at `path`, and return the response's JSON."""
        return _json(self._request("DELETE", path, parameters, {}, None))

    def wait(self, path: str, /, **parameters: Any) -> Any:
        """Post a request that is answered when the work is done; the daemon limits the time, not the client."""
        import httpx

        timeout = httpx.Timeout(None, connect=_CONNECT_S)
        return _json(self._request("POST", path, parameters, _JSON, b"{}", timeout=timeout))

    def start(self, path: str, content: dict[str, Any], /, **parameters: Any) -> Any:
        """Post a start with an idempotency key, so that it can be sent again if the response was lost."""
        headers = {**_JSON, "Idempotency-Key": uuid.uuid4().hex}
        body = json.dumps(content).encode()
        try:
            return _json(self._request("POST", path, parameters, headers, body))
        except Unreachable:
            time.sleep(_PAUSE_S)
            return _json(self._request("POST", path, parameters, headers, body))

    def _request(
        self,
        method: str,
        path: str,
        parameters: dict[str, Any],
        headers: dict[str, str],
        body: bytes | None,
        *,
        timeout: httpx.Timeout | None = None,
    ) -> httpx.Response:
        import httpx

        try:
            client = self._client()
            response = self._answered(
                lambda: client.request(
                    method,
                    path,
                    params=_present(parameters),
                    headers=headers,
                    content=body,
                    timeout=timeout or client.timeout,
                )
            )
        except httpx.InvalidURL as error:
            raise Unreachable(f"invalid server address {self.settings.server!r}: {error}", _FIND_DAEMON) from None
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if response.status_code >= 400:
            raise refused(response.status_code, response.content)
        return response

    def _answered(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Send the request; while nobody has answered yet, again if nothing listens or the daemon says that it is starting."""
        import httpx

        give_up_at = time.monotonic() + self.settings.wait_s
        say_at = time.monotonic() + _QUIET_S
        while True:
            try:
                if self.settings.socket is not None and not self._is_reached:
                    self._probe_socket(self.settings.socket)
                response = send()
            except (httpx.ConnectError, _NotListening) as error:
                is_starting = isinstance(error, _NotListening) or "refused" in str(error)
                if self._is_reached or not is_starting or time.monotonic() >= give_up_at:
                    if isinstance(error, _NotListening):
                        raise self._unreachable(error.reason) from None
                    raise
            else:
                if self._is_reached or response.status_code != 503 or time.monotonic() >= give_up_at:
                    self._is_reached = True
                    return response
            if time.monotonic() >= say_at:
                click.echo(f"waiting for the daemon at {self.settings.server} ...", err=True)
                say_at = give_up_at + 1
            time.sleep(_STARTING_PAUSE_S)

    def pages(self, path: str, key: str, limit: int | None = None, /, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield the rows of a list over all its pages, at most `limit`."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = 100 if left is None else min(left, 100)
            page = self.get(path, limit=size, cursor=cursor, **parameters)
            yield from page[key]
            if left is not None:
                left -= len(page[key])
            cursor = page["next"]
            if cursor is None:
                return

    def lines(self, path: str, /, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield the objects of an NDJSON response."""
        import httpx

        try:
            with self._client().stream(
                "GET", path, params=_present(parameters), headers={"Accept": "application/x-ndjson"}
            ) as response:
                if response.status_code >= 400:
                    raise refused(response.status_code, response.read())
                rest = b""
                for chunk in response.iter_bytes():
                    # Not `iter_lines`, which also splits at characters that JSON strings may contain, such as U+2028.
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (json.loads(line) for line in lines if line)
                if rest:
                    yield json.loads(rest)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def chunks(self, path: str, /, **parameters: Any) -> Iterator[bytes]:
        """Yield the bytes of a file that supports ranges. A broken connection is continued, for up to `RECONNECT_S`."""
        import httpx

        offset, tag = 0, ""
        lost_since: float | None = None
        while True:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            try:
                with self._client().stream("GET", path, params=_present(parameters), headers=headers) as response:
                    if response.status_code >= 400:
                        raise refused(response.status_code, response.read())
                    if offset and response.headers.get("etag") != tag:
                        raise Failure(REFUSED, "the file was replaced while it was downloaded", "download it again")
                    tag = response.headers.get("etag", "")
                    end = offset + int(response.headers["content-length"])
                    for chunk in response.iter_raw():
                        lost_since = None
                        offset += len(chunk)
                        yield chunk
                    if offset >= end:
                        return
            except httpx.TransportError as error:
                if lost_since is None:
                    lost_since = time.monotonic()
                elif time.monotonic() - lost_since > RECONNECT_S:
                    raise self._unreachable(error) from None
            except Refused as error:
                # A daemon that is starting answers 503 for a moment.
                if error.status != 503 or not offset:
                    raise
            time.sleep(_PAUSE_S)

    def follow(
        self,
        path: str,
        on_lost: Callable[[str], None],
        on_resumed: Callable[[], None] | None = None,
        /,
        **parameters: Any,
    ) -> Iterator[dict[str, Any]]:
        """Yield the items of a stream of server-sent events until its end.

        A broken connection is resumed after the last item; `on_lost` is called once per interruption, and `on_resumed` when the
        stream is open again; with it, each time that happens.
        """
        import httpx
        from httpx_sse import EventSource, SSEError

        last: str | None = None
        lost_since: float | None = None
        is_reported = False
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last is not None else {})
            reason = "the daemon closed the stream"
            opened_at = time.monotonic()
            try:
                with self._client().stream(
                    "GET", path, params=_present(parameters) | {"follow": "true"}, headers=headers
                ) as response:
                    if response.status_code >= 400:
                        raise refused(response.status_code, response.read())
                    if is_reported and on_resumed is not None:
                        on_resumed()
                        is_reported = False
                    for event in EventSource(response).iter_sse():
                        lost_since, is_reported = None, False
                        if event.event == "end":
                            return
                        last = event.id or last
                        if event.data:
                            yield json.loads(event.data)
            except (httpx.TransportError, SSEError) as error:
                reason = self._unreachable(error).message
            except Refused as error:
                # A daemon that is starting answers 503 for a moment.
                if error.status != 503:
                    raise
                reason = error.message
            if lost_since is None or time.monotonic() - opened_at > self.settings.answer_s:
                # A stream that lasted longer than the read timeout had heartbeats, so this is a new interruption.
                lost_since, is_reported = time.monotonic(), False
            elif time.monotonic() - lost_since > RECONNECT_S:
                raise Unreachable(reason, _FIND_DAEMON)
            if not is_reported:
                on_lost(reason)
                is_reported = True
            time.sleep(_PAUSE_S)

    def _unreachable(self, error: Exception) -> Unreachable:
        text = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
        server = self.settings.server
        if "Permission denied" in text:
            return Unreachable(
                f"permission denied for {server}",
                "sudo waterflowctl status, or --server http://HOST:PORT with WATERFLOW_TOKEN",
            )
        if "without sending" in text or "disconnected" in text:
            return Unreachable(f"lost the connection to {server}", _FIND_DAEMON)
        return Unreachable(f"cannot connect to the daemon at {server} ({text})", _FIND_DAEMON)


class _NotListening(Exception):
    """Nothing accepts connections at the unix socket, as while a daemon is starting."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _json(response: httpx.Response) -> Any:
    return json.loads(response.content) if response.content else None


def _present(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def refused(status: int, content: bytes) -> Refused:
    """Make a failure of an error response."""
    try:
        problem = json.loads(content)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    next_step = ""
    if status == 401:
        next_step = "export WATERFLOW_TOKEN=wf_... (an admin creates one: waterflowctl tokens create --role runner)"
    elif status == 403:
        next_step = "ask an admin for a token with the role: waterflowctl tokens create --role ..."
    elif status == 422 and problem.get("errors"):
        next_step = "fix the file, then: waterflowctl validate FILE"
    elif status == 422 and problem.get("code") not in _OF_THE_DAEMON:
        next_step = "waterflowctl workflows (lists the inputs and triggers of each workflow)"
    return Refused(status, problem, next_step)


def run_path(run: str, rest: str = "") -> str:
    """Return the API path of a run, whatever the user typed."""
    return f"/v1/runs/{quote(run, safe='')}{rest}"
