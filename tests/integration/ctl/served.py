"""Serves an in-memory API behind a real server, for tests of the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Thread

from click.testing import CliRunner, Result

from tests.patience import PATIENCE_S
from waterflowd.admin.ports import RepositoryRow
from waterflowd.api.server import ApiServer
from waterflowd.ctl.main import cli
from waterflowd.testing.api import ApiHarness
from waterflowd.testing.awaiting import until

HELLO = """\
name: hello
inputs:
  who: {default: you}
jobs:
  greet:
    runs-on: web
    steps:
      - name: "Say \\e]0;pwn\\a hello"
        run: print hello
"""


class Server:
    """An in-memory API, served from a separate thread, since the command line blocks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = asyncio.new_event_loop()
        self.harness: ApiHarness | None = None
        self._stop: asyncio.Event | None = None
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Server:
        self._up = asyncio.run_coroutine_threadsafe
        self._thread.start()
        self.call(self._wait_up())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._stop is not None
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        async with ApiHarness(is_open=False, listen="127.0.0.1:0") as harness:
            harness.connect("web-1", "web")
            harness.repositories.files["workflows/hello.yml"] = HELLO.encode()
            harness.repositories.repositories.append(RepositoryRow(name="ops", url="/r", is_ready=True, text="applied"))
            server = ApiServer(harness.api, "127.0.0.1:0", self.path)
            await server.start()
            self.port = server.port
            self.harness = harness
            await self._stop.wait()
            await server.stop()

    async def _wait_up(self) -> None:
        await until(lambda: self.harness is not None)

    def call(self, coroutine: object) -> object:
        """Runs something in the server's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)  # type: ignore[arg-type]

    def ctl(self, *arguments: str, **environment: str) -> Result:
        """Runs one command over the unix socket."""
        return CliRunner().invoke(cli, ["--server", f"unix:{self.path}", *arguments], env=environment)

    async def release_all(self) -> None:
        """Lets every held attempt finish."""
        assert self.harness is not None
        for key in await self.harness.held():
            self.harness.fleet.release(key)


def started_id(result: Result) -> str:
    return result.output.partition(": ")[2].split()[0]
