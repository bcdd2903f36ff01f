"""A complete agent with a real runner, against a daemon that follows a script, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests import living
from tests.acceptance.cluster import is_running
from tests.patience import PATIENCE_S
from waterflow_agent.agent import Agent
from waterflow_agent.attempts import Outcome
from waterflow_agent.config import Config
from waterflow_agent.testing import ScriptedDaemon, end_runner, enrolled, runner_pids
from waterflow_agent.wire.messages import AttemptState


class Bench:
    """A data directory with its daemon, and an agent in this process or in a child process."""

    def __init__(self, data_dir: Path, daemon: ScriptedDaemon) -> None:
        self.data_dir = data_dir
        self.daemon = daemon
        self.markers = data_dir.parent / "markers"
        self._agent: Agent | None = None
        self._task: asyncio.Task[None] | None = None
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *, slots: int = 4) -> None:
        """Starts an agent in this process, and waits for its session."""
        hellos = len(self.daemon.hellos)
        self._agent = Agent(Config(name="bench", data_dir=str(self.data_dir), slots=slots))
        self._task = asyncio.create_task(self._agent.run())
        opened = asyncio.create_task(self.daemon.session_opened(hellos + 1))
        await asyncio.wait({self._task, opened}, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            opened.cancel()
            self._task.result()
        await opened

    async def start_process(self, *options: str, log: Path | None = None) -> None:
        """Starts an agent in a child process, and waits for its session; its own log goes to `log`."""
        hellos = len(self.daemon.hellos)
        command = [sys.executable, "-m", "waterflow_agent", "run", "--data-dir", str(self.data_dir), "--name", "bench"]
        with contextlib.ExitStack() as files:
            stderr = None if log is None else files.enter_context(log.open("ab"))
            self.process = await asyncio.create_subprocess_exec(*command, *options, cwd="/", stderr=stderr)
        await self.daemon.session_opened(hellos + 1)

    async def kill(self) -> None:
        """Kills the agent's process."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        if self._agent is not None and self._task is not None:
            self._agent.stop()
            await self._task
            self._agent = None
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()

    def marker(self, name: str) -> list[str]:
        """Returns the lines that steps have written to this file."""
        path = self.markers / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Yields a daemon, and the data directory of an agent that is enrolled there."""
    async with ScriptedDaemon() as daemon:
        bench = Bench(tmp_path / "agent", daemon)
        bench.markers.mkdir()
        enrolled(bench.data_dir, daemon)
        try:
            yield bench
        finally:
            await bench.stop()
            await end_runner(bench.data_dir)


async def eventually(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        # What is waited for happens in other processes, so there is no event to wait on.
        while not is_true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def go_on(gate: Path, line: str) -> None:
    """Writes a line for a step that reads from the pipe; the event loop, with an agent, runs until the step reads."""
    await asyncio.to_thread(gate.write_text, line)


async def test_result_and_output_of_a_script_arrive(bench: Bench) -> None:
    """A shell step's exit code, outputs, environment and both streams reach the daemon."""
    await bench.start()
    script = """
        echo to stdout; echo to stderr >&2
        echo "name=value" >> "$WATERFLOW_OUTPUT"
        printf 'text<<EOF\\none\\ntwo\\nEOF\\n' >> "$GITHUB_OUTPUT"
        echo "LATER=yes" >> "$WATERFLOW_ENV"
        echo "PATH=/evil" >> "$WATERFLOW_ENV"
        exit 3
    """

    finished, output = await bench.daemon.run(bench.daemon.task(1, run=script))

    assert (finished.outcome, finished.exit_code, finished.reason_code) == (Outcome.FAILURE, 3, "exit-code")
    assert finished.outputs == {"name": "value", "text": "one\ntwo"}
    assert finished.env == {"LATER": "yes"}
    assert b"to stdout\n" in output
    assert b"to stderr\n" in output
    assert b"PATH in WATERFLOW_ENV is ignored" in output


async def test_nodes_inside_the_agent_need_no_process(bench: Bench) -> None:
    """`log`, `fail` and `set-outputs` complete at once, with output and result in one frame."""
    await bench.start()
    task = bench.daemon.task

    logged, output = await bench.daemon.run(task(1, node="log", params={"message": "hi"}))
    failed, cause = await bench.daemon.run(task(2, node="fail", params={"message": "no", "exit-code": 7}))
    made, _ = await bench.daemon.run(task(3, node="set-outputs", params={"outputs": {"n": 1, "list": [True]}}))

    assert (logged.outcome, output) == (Outcome.SUCCESS, b"hi\n")
    assert (failed.outcome, failed.exit_code, failed.reason_text, cause) == (Outcome.FAILURE, 7, "no", b"no\n")
    assert made.outputs == {"n": 1, "list": [True]}
    assert ["Finished", "Output"] in bench.daemon.frames
    assert not list((bench.data_dir / "runner" / "attempts").glob("01TEST*"))


async def test_unknown_node_is_refused(bench: Bench) -> None:
    """An unknown node is refused; wrong parameters fail and the message names the field. No process is started."""
    await bench.start()

    unknown, _ = await bench.daemon.run(bench.daemon.task(1, node="no/such"))
    wrong, _ = await bench.daemon.run(bench.daemon.task(2, node="log", params={"message": 3}))

    assert (unknown.outcome, unknown.reason_code) == (Outcome.REFUSED, "refused")
    assert wrong.outcome is Outcome.FAILURE
    assert "with.message: expected text" in wrong.reason_text


async def test_attempt_survives_a_restart_of_the_agent(bench: Bench) -> None:
    """A killed and restarted agent continues with its step: one start, complete output, one result."""
    await bench.start_process()
    gate = bench.markers / "gate"
    os.mkfifo(gate)
    script = f'echo started >> {bench.markers}/ran; echo before; read line < {gate}; echo "after $line"'
    task = bench.daemon.task(1, run=script)
    bench.daemon.offer(task)
    await eventually(lambda: bench.marker("ran"))
    await bench.daemon.until(lambda: bench.daemon.started)

    await bench.kill()
    await bench.start_process()
    held = bench.daemon.hellos[-1].held
    await go_on(gate, "restart\n")
    output = await bench.daemon.output(task.key)

    assert [(one.key, one.state) for one in held] == [(task.key, AttemptState.STARTED)]
    assert output == b"before\nafter restart\n"
    assert (await bench.daemon.result(task.key)).outcome is Outcome.SUCCESS
    assert bench.marker("ran") == ["started"]


async def test_end_without_a_running_agent_is_reported_by_the_next_one(bench: Bench) -> None:
    """A step that ends while no agent is running is reported with its outputs by the next one."""
    await bench.start_process()
    gate = bench.markers / "gate"
    os.mkfifo(gate)
    script = f'echo started >> {bench.markers}/ran; read line < {gate}; echo "x=$line" >> "$WATERFLOW_OUTPUT"; exit 4'
    task = bench.daemon.task(1, run=script)
    bench.daemon.offer(task)
    await eventually(lambda: bench.marker("ran"))

    await bench.kill()
    await go_on(gate, "done\n")
    await bench.start_process()
    finished = await bench.daemon.result(task.key)

    assert (finished.exit_code, finished.outputs) == (4, {"x": "done"})
    assert bench.marker("ran") == ["started"]


async def test_result_is_kept_until_it_is_acknowledged(bench: Bench) -> None:
    """An unacknowledged result is sent again by the next agent, with its output."""
    await bench.start_process()
    bench.daemon.is_acknowledging = bench.daemon.is_taking_output = False
    task = bench.daemon.task(1, run=f"echo ran >> {bench.markers}/ran; echo printed")
    log = bench.daemon.task(2, node="log", params={"message": "inside"})
    bench.daemon.offer(task, log)
    await bench.daemon.until(lambda: len(bench.daemon.finished) == 2)

    await bench.kill()
    bench.daemon.finished.clear()
    bench.daemon.is_acknowledging = bench.daemon.is_taking_output = True
    await bench.start_process()

    assert {one.state for one in bench.daemon.hellos[-1].held} == {AttemptState.FINISHED}
    assert await bench.daemon.output(task.key) == b"printed\n"
    assert await bench.daemon.output(log.key) == b"inside\n"
    assert bench.marker("ran") == ["ran"]


async def test_acknowledged_results_are_deleted(bench: Bench) -> None:
    """Once the daemon has result and output, the agent keeps nothing of the attempt."""
    await bench.start_process()
    await bench.daemon.run(bench.daemon.task(1, run="echo printed"))
    attempts = bench.data_dir / "runner" / "attempts"
    await eventually(lambda: not list(attempts.glob("01TEST*")))

    await bench.kill()
    await bench.start_process()

    assert bench.daemon.hellos[-1].held == []


async def test_repeated_offer_starts_once(bench: Bench) -> None:
    """The same task twice in a frame, again in a later frame, and again after its end starts one process."""
    await bench.start()
    task = bench.daemon.task(1, run=f"echo ran >> {bench.markers}/ran")
    bench.daemon.offer(task, task)
    bench.daemon.offer(task)
    await bench.daemon.result(task.key)
    bench.daemon.offer(task)

    # A later offer shows that the duplicate was handled.
    await bench.daemon.run(bench.daemon.task(2, node="log", params={"message": "later"}))

    assert bench.marker("ran") == ["ran"]
    assert [finished.key for finished in bench.daemon.finished].count(task.key) == 1


async def test_offer_for_another_start_of_the_agent_is_refused(bench: Bench) -> None:
    """An offer is only valid for one boot and one start of the agent."""
    await bench.start()
    old = bench.daemon.task(1, run="true", instance="another")
    before = bench.daemon.task(2, run="true", boot_id="another")

    refusals = [await bench.daemon.run(old), await bench.daemon.run(before)]

    assert [finished.outcome for finished, _ in refusals] == [Outcome.REFUSED, Outcome.REFUSED]


async def test_more_offers_than_slots_are_refused(bench: Bench) -> None:
    """The agent never runs more attempts than it has slots."""
    await bench.start(slots=1)
    gate = bench.markers / "gate"
    os.mkfifo(gate)
    first = bench.daemon.task(1, run=f"read line < {gate}")
    second = bench.daemon.task(2, run="true")

    bench.daemon.offer(first, second)
    refused = await bench.daemon.result(second.key)
    await go_on(gate, "go\n")
    done = await bench.daemon.result(first.key)

    assert (refused.outcome, done.outcome) == (Outcome.REFUSED, Outcome.SUCCESS)


async def test_cancel_sends_the_stop_signal_and_reports_who_cancelled(bench: Bench) -> None:
    """A cancel sends the stop signal and the result says who cancelled; for an unknown attempt it has no effect."""
    await bench.start()
    script = f'trap "echo caught; exit 9" TERM; echo ready >> {bench.markers}/ran; while :; do sleep 0.05; done'
    task = bench.daemon.task(1, run=script)
    bench.daemon.cancel(bench.daemon.task(77).key)
    bench.daemon.offer(task)
    await eventually(lambda: bench.marker("ran"))

    bench.daemon.cancel(task.key, reason="wanted")
    output = await bench.daemon.output(task.key)
    finished = await bench.daemon.result(task.key)

    assert (finished.outcome, finished.reason_code) == (Outcome.CANCELLED, "cancel-requested")
    assert "wanted" in finished.reason_text
    assert b"caught" in output


async def test_timeout_is_enforced_by_the_agent(bench: Bench) -> None:
    """The agent stops a step that has timed out without the help of the daemon."""
    await bench.start()

    finished, _ = await bench.daemon.run(bench.daemon.task(1, run="sleep 600", timeout_ms=100, grace_ms=100))

    assert (finished.outcome, finished.reason_code) == (Outcome.TIMED_OUT, "timeout")


async def test_lost_runner_makes_the_attempt_lost(bench: Bench) -> None:
    """When the runner is killed, the outcome of its step is unknown, and the remaining processes are killed."""
    await bench.start()
    task = bench.daemon.task(1, run="echo $$; sleep 600")
    bench.daemon.offer(task)
    # Data that the runner has not read is lost when it dies, so wait for the whole line before the kill.
    await bench.daemon.until(lambda: bench.daemon.outputs.get(task.key, b"").endswith(b"\n"))
    step = int(bench.daemon.outputs[task.key])

    os.kill(runner_pids(bench.data_dir)[0], signal.SIGKILL)
    output = await bench.daemon.output(task.key)
    finished = await bench.daemon.result(task.key)
    done, _ = await bench.daemon.run(bench.daemon.task(2, run="true"))

    assert (finished.outcome, finished.reason_code) == (Outcome.LOST, "outcome-unknown")
    assert output == b"%d\n" % step
    assert done.outcome is Outcome.SUCCESS
    await eventually(lambda: not is_running(step))


async def test_reboot_makes_open_attempts_lost(bench: Bench) -> None:
    """An open attempt of an earlier boot that the runner does not know is lost, not refused: it may have run."""
    await bench.start_process()
    gate = bench.markers / "gate"
    os.mkfifo(gate)
    task = bench.daemon.task(1, run=f"echo ran >> {bench.markers}/ran; read line < {gate}")
    bench.daemon.offer(task)
    await eventually(lambda: bench.marker("ran"))
    await bench.kill()
    await end_runner(bench.data_dir)
    _pretend_reboot(bench.data_dir)

    await bench.start_process()
    finished = await bench.daemon.result(task.key)

    assert finished.outcome is Outcome.LOST
    assert bench.marker("ran") == ["ran"]


async def test_reset_opens_a_new_session(bench: Bench) -> None:
    """After a `Reset` the agent sends `Hello` again, and running steps continue."""
    await bench.start()
    gate = bench.markers / "gate"
    os.mkfifo(gate)
    task = bench.daemon.task(1, run=f"echo ran >> {bench.markers}/ran; read line < {gate}; echo done")
    bench.daemon.offer(task)
    await eventually(lambda: bench.marker("ran"))

    bench.daemon.reset()
    await bench.daemon.session_opened(2)
    await go_on(gate, "go\n")

    assert await bench.daemon.output(task.key) == b"done\n"


async def test_attempts_to_forget_are_killed_and_not_reported(bench: Bench) -> None:
    """Attempts that `Welcome` says to forget are killed and never reported."""
    await bench.start_process()
    script = f"echo $$ >> {bench.markers}/ran; sleep 600"
    task = bench.daemon.task(1, run=script)
    bench.daemon.offer(task)
    await eventually(lambda: bench.marker("ran"))
    await bench.kill()

    bench.daemon.forget = [task.key]
    await bench.start_process()
    pid = int(bench.marker("ran")[0])
    await eventually(lambda: not Path(f"/proc/{pid}").exists())
    await bench.daemon.run(bench.daemon.task(2, node="log", params={"message": "later"}))

    assert [finished.key for finished in bench.daemon.finished if finished.key == task.key] == []


async def test_large_output_arrives_complete(bench: Bench) -> None:
    """Output larger than the window arrives in order and complete."""
    await bench.start()
    script = 'for i in $(seq 1 60000); do echo "line $i of a long text"; done'

    finished, output = await bench.daemon.run(bench.daemon.task(1, run=script, output_bytes_max=64 << 20))

    expected = b"".join(b"line %d of a long text\n" % number for number in range(1, 60001))
    assert output == expected
    assert finished.output_dropped == 0


async def test_output_over_the_limit_is_counted(bench: Bench) -> None:
    """The first and last part of a flood are kept; a line between them and the result count the dropped bytes."""
    await bench.start()
    script = "echo first; head -c 1000000 /dev/zero | tr '\\0' x; echo; echo last"

    finished, output = await bench.daemon.run(bench.daemon.task(1, run=script, output_bytes_max=100_000))

    assert finished.output_dropped > 0
    assert output.startswith(b"first\n")
    assert output.endswith(b"last\n")
    assert b"[waterflow: %d bytes of output were dropped here]" % finished.output_dropped in output
    assert len(output) == finished.output_bytes


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ('rm -f "$WATERFLOW_OUTPUT"; mkfifo "$WATERFLOW_OUTPUT"', "no longer a regular file"),
        ('ln -sf /etc/passwd "$WATERFLOW_OUTPUT"', "cannot read WATERFLOW_OUTPUT"),
        ('ln -sf /dev/zero "$WATERFLOW_OUTPUT"', "cannot read WATERFLOW_OUTPUT"),
        ('head -c 10000000 /dev/zero > "$WATERFLOW_OUTPUT"', "too large"),
        ('truncate -s 10G "$WATERFLOW_OUTPUT"', "too large"),
        ('printf "a=\\377" > "$WATERFLOW_OUTPUT"', "invalid UTF-8"),
        ('echo "no separator" > "$WATERFLOW_OUTPUT"', "line 1: expected name=value"),
        ('printf "ok=1\\na<<END\\ntext\\n" > "$WATERFLOW_OUTPUT"', "line 2: the closing delimiter is missing"),
        ('rm -f "$WATERFLOW_OUTPUT"; mkdir "$WATERFLOW_OUTPUT"', "no longer a regular file"),
    ],
)
async def test_hostile_output_file_fails_the_step(bench: Bench, what: str, message: str) -> None:
    """Whatever a script does to its output file, the step fails with a clear reason and the agent continues."""
    await bench.start()

    finished, output = await bench.daemon.run(bench.daemon.task(1, run=what))
    after, _ = await bench.daemon.run(bench.daemon.task(2, run="true"))

    assert (finished.outcome, finished.reason_code) == (Outcome.FAILURE, "node-error")
    assert message in finished.reason_text
    assert message.encode() in output
    assert finished.outputs == {}
    assert after.outcome is Outcome.SUCCESS


async def test_large_value_is_readable_in_the_script(bench: Bench) -> None:
    """A value too large for the environment is in a shell variable and a file; too many large values fail clearly."""
    await bench.start()
    value = "x" * 150_000 + "\n"
    script = 'echo "${#BIG}"; wc -c < "$BIG_FILE"'

    finished, output = await bench.daemon.run(bench.daemon.task(1, run=script, env={"BIG": value}))
    too_many = {f"V{number}": "y" * 100_000 for number in range(30)}
    failed, _ = await bench.daemon.run(bench.daemon.task(2, run="true", env=too_many))

    assert (finished.outcome, output.split()) == (Outcome.SUCCESS, [b"150001", b"150001"])
    assert failed.outcome is Outcome.FAILURE
    assert "more than a process can have" in failed.reason_text


@pytest.mark.parametrize("where", ["../..", "/", "/etc", "/no/such/place", "missing", "link"])
async def test_working_directory_outside_the_job_is_refused(bench: Bench, where: str) -> None:
    """A directory outside the job's directory, by name or by link, or a missing one fails before the start."""
    await bench.start()
    await bench.daemon.run(bench.daemon.task(1, run="ln -s / link"))

    finished, _ = await bench.daemon.run(
        bench.daemon.task(2, run=f"echo x > {bench.markers}/ran", working_directory=where)
    )

    assert (finished.outcome, finished.reason_code) == (Outcome.FAILURE, "node-error")
    assert "working-directory" in finished.reason_text
    assert bench.marker("ran") == []


async def test_steps_of_a_job_share_a_directory(bench: Bench) -> None:
    """A step finds files of earlier steps of its job, also in subdirectories."""
    await bench.start()

    await bench.daemon.run(bench.daemon.task(1, run="mkdir sub; echo here > sub/file"))
    _, output = await bench.daemon.run(bench.daemon.task(2, run="cat file", working_directory="sub"))

    assert output == b"here\n"


async def test_stopped_agent_leaves_its_steps_running(bench: Bench) -> None:
    """SIGTERM stops the agent with status 0, and no step is stopped."""
    await bench.start_process()
    gate = bench.markers / "gate"
    os.mkfifo(gate)
    task = bench.daemon.task(
        1, run=f"echo ran >> {bench.markers}/ran; read line < {gate}; echo ended >> {bench.markers}/ran"
    )
    bench.daemon.offer(task)
    await eventually(lambda: bench.marker("ran"))
    assert bench.process is not None

    bench.process.terminate()
    status = await bench.process.wait()
    await go_on(gate, "go\n")
    await eventually(lambda: bench.marker("ran") == ["ran", "ended"])
    await bench.start_process()

    assert status == 0
    assert (await bench.daemon.result(task.key)).outcome is Outcome.SUCCESS


async def test_private_files_have_private_modes(bench: Bench) -> None:
    """Key, journal and server file are readable by this user only, whatever the umask is."""
    before = os.umask(0)
    try:
        await bench.start_process()
        await bench.daemon.run(bench.daemon.task(1, run="true"))
        await bench.kill()
    finally:
        os.umask(before)

    own = [path for path in living.found(bench.data_dir, "**/*") if path.is_file() and "runner" not in path.parts]
    modes = {path: path.stat().st_mode & 0o777 for path in own}

    assert bench.data_dir.stat().st_mode & 0o777 == 0o700
    assert {path.name: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


async def test_no_secret_is_in_the_agents_files(bench: Bench) -> None:
    """A secret from the environment is never in a file of the agent, neither during the step nor afterwards."""
    await bench.start()
    task = bench.daemon.task(
        1, run=f"echo ran >> {bench.markers}/ran; read line < {bench.markers}/gate", env={"TOKEN": "s3cr3t-value"}
    )
    os.mkfifo(bench.markers / "gate")
    bench.daemon.offer(task)
    await eventually(lambda: bench.marker("ran"))

    during = living.holding(bench.data_dir, b"s3cr3t-value")
    await go_on(bench.markers / "gate", "go\n")
    await bench.daemon.result(task.key)

    assert during == []
    assert living.holding(bench.data_dir, b"s3cr3t-value") == []


def _pretend_reboot(data_dir: Path) -> None:
    """Changes the journal to an earlier boot, and the runner's records to a state that a power cut may leave."""
    from waterflow_agent.state.journal import Journal

    journal = Journal(data_dir / "journal")
    _, facts = journal.read()
    journal.begin("an-earlier-boot", [fact for fact in facts if type(fact).__name__ != "Released"])  # type: ignore[misc]
    journal.close()
    for record in (data_dir / "runner" / "attempts").glob("01TEST*/record"):
        record.write_bytes(b"\n")


async def test_the_own_log_has_the_format_of_the_daemons(bench: Bench, tmp_path: Path) -> None:
    """As text by default; as JSON, every line is an object."""
    text, lines = tmp_path / "text.log", tmp_path / "json.log"
    await bench.start_process(log=text)
    await eventually(lambda: ": connected" in text.read_text())
    await bench.stop()
    assert re.search(r"^[0-9T:.-]+Z info    waterflow_agent\.", text.read_text(), re.MULTILINE)

    await bench.start_process("--log-format", "json", log=lines)
    await eventually(lambda: ": connected" in lines.read_text())
    await bench.stop()
    entries = [json.loads(line) for line in lines.read_text().splitlines()]
    assert entries
    assert all({"time", "level", "logger", "message"} <= set(entry) for entry in entries)
