"""Whether the steps of an agent can use a Docker engine: when it is asked, as whom, and what is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from waterflow_agent.execution.docker_engine import INTERVAL_S, DockerEngineMonitor
from waterflow_agent.execution.sharing import UserCommands
from waterflow_agent.execution.step_policy import Account
from waterflow_agent.runner.reports import StepResult, StepSpec
from waterflow_agent.runner.spool import SpoolWriter
from waterflow_agent.testing import FakeClock
from waterflow_agent.wire.messages import DockerEngine

OTHER = Account("deploy", 12345, "/home/deploy")
DENIED = "user waterflow-step may not use the socket"


class ScriptedRunner:
    """Runs no command: what it prints, and whether it succeeds, depends on its user only."""

    def __init__(self, root: Path) -> None:
        self.root = root
        #: The last line of each user's command, and its exit code.
        self.ends: dict[str | None, tuple[str, int]] = {None: ("28.5.1", 0)}
        self.users: list[str | None] = []

    def directory(self, name: str) -> Path:
        return self.root / name

    async def run_command(self, spec: StepSpec) -> StepResult:
        printed, code = self.ends[spec.user]
        self.users.append(spec.user)
        self.directory(spec.name).mkdir(parents=True)
        spool = SpoolWriter(str(self.directory(spec.name) / "output"), 1 << 20)
        spool.append(1, memoryview(f"{printed}\n".encode()), 1)
        spool.close(1)
        return StepResult(
            exit_code=code,
            signal=None,
            reason="exited",
            started_at=1,
            finished_at=2,
            output_bytes=len(printed) + 1,
            output_dropped=0,
        )

    def forget(self, name: str) -> None:
        return


class Bench:
    """A monitor, whose engine is a file where a socket would be."""

    def __init__(self, root: Path, *accounts: Account | None) -> None:
        self.socket = root / "d.sock"
        self.runner = ScriptedRunner(root / "commands")
        self.clock = FakeClock()
        environment = {"DOCKER_HOST": f"unix://{self.socket}"}
        self.monitor = DockerEngineMonitor(
            UserCommands(self.runner), lambda: accounts or (None,), environment, self.clock
        )

    async def found(self, after_s: float = 0) -> DockerEngine:
        """Returns what is reported after this time and another look."""
        self.clock.advance(round(after_s * 1000))
        await self.monitor.refresh()
        return self.monitor.found


async def test_a_server_without_a_socket_has_no_engine_and_starts_no_process(tmp_path: Path) -> None:
    """Most servers have none, so that costs nothing there."""
    bench = Bench(tmp_path)
    assert bench.monitor.found.problem

    for _ in range(3):
        found = await bench.found(after_s=INTERVAL_S)

    assert found == DockerEngine("", f"no Docker engine at unix://{bench.socket}")
    assert bench.runner.users == []


async def test_an_engine_that_answers_is_asked_once_a_minute(tmp_path: Path) -> None:
    """A look at its socket between costs no process."""
    bench = Bench(tmp_path)
    bench.socket.touch()
    assert await bench.found() == DockerEngine("28.5.1")
    for _ in range(10):
        await bench.found(after_s=5)
    assert len(bench.runner.users) == 1

    bench.runner.ends[None] = ("the Docker engine does not answer", 1)
    assert await bench.found(after_s=10) == DockerEngine("", "the Docker engine does not answer")


async def test_an_engine_that_stops_or_starts_is_noticed_at_the_next_look(tmp_path: Path) -> None:
    """It removes its socket, and makes a new one."""
    bench = Bench(tmp_path)
    bench.socket.touch()
    await bench.found()

    bench.socket.unlink()
    stopped = await bench.found(after_s=1)
    assert "no Docker engine" in stopped.problem

    bench.runner.ends[None] = ("29.0.0", 0)
    bench.socket.touch()
    assert await bench.found(after_s=1) == DockerEngine("29.0.0")


async def test_an_engine_that_does_not_answer_is_asked_again_soon_and_then_rarely(tmp_path: Path) -> None:
    """It may be starting; one that never answers costs no more than one that does."""
    bench = Bench(tmp_path)
    bench.runner.ends[None] = ("the Docker engine does not answer", 1)
    bench.socket.touch()
    asked_at = []
    for second in range(200):
        before = len(bench.runner.users)
        await bench.found(after_s=1)
        if len(bench.runner.users) > before:
            asked_at.append(second)

    assert asked_at[:6] == [0, 2, 6, 14, 30, 62]
    assert asked_at[6:] == [122, 182]


async def test_an_engine_that_one_of_the_users_of_steps_can_use_is_reported(tmp_path: Path) -> None:
    """Groups may have users of their own; if none can use it, the problem is that of the default user."""
    bench = Bench(tmp_path, None, OTHER)
    bench.socket.touch()
    bench.runner.ends = {None: (DENIED, 1), "deploy": ("28.5.1", 0)}
    assert await bench.found() == DockerEngine("28.5.1")
    assert bench.runner.users == [None, "deploy"]

    bench.runner.ends["deploy"] = ("user deploy may not use the socket", 1)
    assert await bench.found(after_s=INTERVAL_S) == DockerEngine("", DENIED)


async def test_a_long_problem_is_cut(tmp_path: Path) -> None:
    """It becomes a part of the reasons of runs, and the daemon refuses a longer one."""
    bench = Bench(tmp_path)
    bench.socket.touch()
    bench.runner.ends[None] = ("x" * 5000, 1)

    found = await bench.found()

    assert found.problem == "x" * 200


@pytest.mark.parametrize("accounts", [(), (OTHER, None)])
async def test_an_engine_at_another_kind_of_address_is_asked_by_time_only(
    tmp_path: Path, accounts: tuple[Account | None, ...]
) -> None:
    """There is no file to look at."""
    bench = Bench(tmp_path)
    monitor = DockerEngineMonitor(
        UserCommands(bench.runner), lambda: accounts, {"DOCKER_HOST": "tcp://127.0.0.1:1"}, bench.clock
    )
    bench.runner.ends["deploy"] = ("28.5.1", 0)
    for _ in range(3):
        await monitor.refresh()
        bench.clock.advance(500)

    assert monitor.found == (
        DockerEngine("28.5.1") if accounts else DockerEngine("", "steps have no user on this server")
    )
    assert len(bench.runner.users) == len(accounts[:1])
