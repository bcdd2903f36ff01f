"""Attacks on the API and the compiler, while another principal, the administrator and a repository use them."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.attack import api_attacks
from tests.attack.api_attacks import ATTACKS, Aim
from tests.attack.arena import GOOD, Arena
from tests.patience import PATIENCE_S, wait_until

pytestmark = pytest.mark.slow


class ApiArena(Arena):
    """An arena whose API needs tokens on TCP."""

    def write_config(self, repositories: str = "", agents: str = "") -> None:
        """Writes the configuration without `open`."""
        super().write_config(repositories, agents)
        self.config.write_text(self.config.read_text().replace("open = true\n", ""))

    def api(self, method: str, path: str, **options: object) -> httpx.Response:
        """Sends a request over the unix socket, as the administrator."""
        return self.api_by_socket(method, path, **options)

    def viewer(self, name: str) -> str:
        """Creates a token for a viewer."""
        return str(self.api("POST", "/v1/tokens", json={"role": "viewer", "name": name}).json()["secret"])

    def aim(self, count: int = 300) -> Aim:
        """What the attacks need to know; they have a viewer's token."""
        return Aim(host="127.0.0.1", port=self.api_port, token=self.viewer("greedy"), count=count)

    def others_are_served(self, rounds: int = 5) -> None:
        """Checks that another viewer, the administrator and a run are served."""
        token = self.viewer("other")
        with self.client_elsewhere(token) as other:
            for _ in range(rounds):
                # A connection of its own for each request: the attacks must not keep it from getting one.
                with self.client_elsewhere(token) as newcomer:
                    answered = newcomer.get("/v1/status")
                assert answered.status_code == 200, answered.text
                assert self.api("GET", "/v1/status").status_code == 200
                checked = other.post("/v1/validate", content=GOOD, headers={"Content-Type": "application/yaml"})
                assert checked.status_code == 200, checked.text
        assert self.wait_for(self.start(GOOD))["conclusion"] == "success"

    def client_elsewhere(self, token: str) -> httpx.Client:
        """A client at another address: at the limit of one address, its connections make place for each other."""
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.api_port}",
            headers={"Authorization": f"Bearer {token}"},
            transport=httpx.HTTPTransport(local_address="127.0.0.2"),
            timeout=PATIENCE_S,
        )


@pytest.fixture
def api_arena(tmp_path: Path) -> Iterator[ApiArena]:
    """A daemon that watches a repository, and an agent."""
    made = ApiArena(tmp_path)
    try:
        yield made
    finally:
        made.close()


def sent(process: subprocess.Popen[bytes]) -> None:
    """Waits until the attack has opened or sent everything once."""
    assert process.stdout is not None
    assert process.stdout.readline() == b"sent\n"


def test_attacks_on_the_api_keep_nobody_out(api_arena: ApiArena) -> None:
    """All of them at once: others on TCP, the unix socket and runs are served, and no request gets two answers."""
    api_arena.start_daemon()
    api_arena.add_agent("web-1", "web")
    with contextlib.ExitStack() as attacks:
        aim = api_arena.aim()
        running = [attacks.enter_context(api_attacks.attack(name, aim)) for name in ATTACKS]
        for process in running:
            sent(process)
        api_arena.others_are_served()
        assert all(process.poll() is None for process in running)


def test_silent_connections_leave_descriptors_for_the_log(api_arena: ApiArena) -> None:
    """A daemon with 1,024 descriptors and 1,200 silent connections still writes its log and serves everyone."""
    api_arena._wrapper = ["prlimit", "--nofile=1024:1024"]
    api_arena.start_daemon()
    api_arena._wrapper = []
    api_arena.add_agent("web-1", "web")
    with api_attacks.attack("silent_connections", api_arena.aim(1_200)) as process:
        sent(process)
        api_arena.others_are_served()
    assert "limit of 1024 open files leaves 320 TCP connections" in api_arena.log.read_text()


def test_validations_that_take_long_delay_nobody(api_arena: ApiArena) -> None:
    """While 60 slow validations wait, a push is compiled and runs, and so does a workflow that is sent."""
    clone = api_arena.make_repository()
    api_arena.start_daemon()
    api_arena.add_agent("web-1", "web")
    with api_attacks.attack("slow_validations", api_arena.aim(60)) as process:
        sent(process)
        numbers = itertools.count()
        for _ in range(3):
            files = {f"workflows/w{next(numbers)}.yml": f"on: push\n{GOOD}" for _ in range(10)}
            commit = api_arena.push(clone, files)
            wait_until(lambda commit=commit: _runs_of(api_arena, commit) >= 10, "the push to start its runs")  # type: ignore[misc]
        api_arena.others_are_served()


def _runs_of(arena: ApiArena, commit: str) -> int:
    rows = arena.api("GET", "/v1/runs", params={"limit": 100}).json()["runs"]
    return sum(row["revision"] == commit for row in rows)
