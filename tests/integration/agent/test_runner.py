"""Steps as real processes, through the agent's client and a real runner."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.attempts import Outcome
from waterflow_agent.clock import Clock
from waterflow_agent.execution.runner_client import RunnerClient
from waterflow_agent.nodes import exits
from waterflow_agent.runner import reports
from waterflow_agent.runner.spool import MISSING, STDERR, STDOUT, SpoolChunk, SpoolReader

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


class Bench:
    """A client of a runner, with helpers for tests."""

    def __init__(self, data_dir: Path, options: list[str]) -> None:
        self.data_dir = data_dir
        self.options = options
        self.client = self.new_client()
        self.seen: list[reports.RunnerReport] = []

    def new_client(self) -> RunnerClient:
        return RunnerClient(self.data_dir, runner_options=self.options, idle_exit_s=30)

    def start(self, name: str, script: str, **fields: object) -> None:
        """Starts a bash script."""
        spec: dict[str, object] = {"cwd": str(self.data_dir), "env": ENVIRONMENT, "grace_ms": 500} | fields
        self.client.start(reports.StepSpec(name=name, argv=["/bin/bash", "-c", script], **spec))  # type: ignore[arg-type]

    async def until(self, is_it: Callable[[reports.RunnerReport], bool]) -> reports.RunnerReport:
        """Waits for the first report, old or new, for which `is_it` is true."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for report in self.seen:
                    if is_it(report):
                        return report
                self.seen += await self.client.receive()

    async def started(self, name: str) -> reports.StepStarted:
        report = await self.until(lambda report: isinstance(report, reports.StepStarted) and report.name == name)
        assert isinstance(report, reports.StepStarted)
        return report

    async def result(self, name: str) -> reports.StepResult:
        report = await self.until(lambda report: isinstance(report, reports.StepExited) and report.name == name)
        assert isinstance(report, reports.StepExited)
        return report.result

    async def run(self, name: str, script: str, **fields: object) -> reports.StepResult:
        self.start(name, script, **fields)
        return await self.result(name)

    def chunks(self, name: str) -> list[SpoolChunk]:
        """Returns all chunks in the spool."""
        reader = SpoolReader(str(self.client.directory(name) / "output"))
        chunks: list[SpoolChunk] = []
        while more := reader.read(chunks[-1].end if chunks else 0, 1 << 20):
            chunks += more
        return chunks

    def output(self, name: str, stream: int) -> bytes:
        return b"".join(chunk.data for chunk in self.chunks(name) if chunk.stream == stream)

    async def printed(self, name: str, text: bytes) -> None:
        """Waits until the running step has printed `text`."""
        await eventually(lambda: text in self.output(name, STDOUT))

    def runner_pid(self) -> int:
        return runner_pid(self.data_dir)


async def eventually(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        # What is waited for happens in other processes, so there is no event to wait on.
        while not is_true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def runner_pid(data_dir: Path) -> int:
    """Returns the process id of the runner, or 0 if it is not running."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                arguments = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
                if b"waterflow_agent.runner" in arguments and os.fsencode(data_dir) in arguments:
                    return int(entry)
    return 0


def is_alive(pid: int) -> bool:
    """Returns whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def children(parent: int) -> list[int]:
    """Returns the children of a process, including exited ones."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path("/proc", entry, "stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[1]) == parent:
                    found.append(int(entry))
    return found


@pytest.fixture(params=["groups", "no-groups"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """A connected client: with control groups if the machine delegates them, and without."""
    bench = Bench(tmp_path, ["--no-cgroup"] if request.param == "no-groups" else [])
    await bench.client.connect()
    try:
        yield bench
    finally:
        await bench.client.close()
        await end_runner(tmp_path)


async def end_runner(data_dir: Path) -> None:
    pid = runner_pid(data_dir)
    if pid:
        # A second SIGTERM stops everything at once, including steps.
        os.kill(pid, signal.SIGTERM)
        await asyncio.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        await eventually(lambda: not is_alive(pid))


async def test_exit_codes_and_signals_are_reported_unchanged(bench: Bench) -> None:
    """The reported exit code or signal is that of the main process."""
    bench.start("zero", "exit 0")
    bench.start("seven", "exit 7")
    bench.start("killed", "kill -KILL $$")

    zero, seven, killed = [await bench.result(name) for name in ("zero", "seven", "killed")]

    assert (zero.reason, zero.exit_code, zero.signal) == ("exited", 0, None)
    assert (seven.reason, seven.exit_code, seven.signal) == ("exited", 7, None)
    assert (killed.reason, killed.exit_code, killed.signal) == ("exited", None, signal.SIGKILL)
    assert zero.started_at is not None
    assert zero.started_at <= zero.finished_at


async def test_a_program_that_cannot_be_started_gives_a_reason(bench: Bench) -> None:
    """The reason is readable and names the program."""
    bench.client.start(reports.StepSpec(name="a", argv=["no-such-program"], cwd="/", env=ENVIRONMENT))
    bench.client.start(reports.StepSpec(name="b", argv=["/bin/true"], cwd="/no/such/place", env=ENVIRONMENT))
    script = bench.data_dir / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o700)
    bench.client.start(reports.StepSpec(name="c", argv=[str(script)], cwd="/", env=ENVIRONMENT))

    a, b, c = [await bench.result(name) for name in "abc"]

    assert {a.reason, b.reason, c.reason} == {"spawn-failed"}
    assert "no-such-program" in str(a.error)
    assert "/no/such/place" in str(b.error)
    assert "interpreter" in str(c.error)


async def test_a_step_inherits_nothing_from_the_runner(bench: Bench) -> None:
    """It has a new session, empty stdin, the requested variables and the mark, default signals, and no other files."""
    script = 'pwd; echo "$A"; env | cut -d= -f1 | sort | xargs; readlink /proc/self/fd/0; ls /proc/self/fd | xargs; '
    script += "grep -E '^Sig(Blk|Ign)' /proc/self/status; ps -o sid= -p $$ | xargs test $$ -eq && echo leads"

    await bench.run("a", script, cwd="/usr", env={"A": "ü b\n", "PATH": "/usr/bin:/bin"})

    lines = bench.output("a", STDOUT).decode().splitlines()
    assert lines[:3] == ["/usr", "ü b", ""]
    assert set(lines[3].split()) == {"A", "PATH", "WATERFLOW_ATTEMPT_DIRECTORY", "PWD", "SHLVL", "_"}
    assert lines[4] == "/dev/null"
    assert lines[5].split() in (["0", "1", "2", "3"], ["0", "1", "2"])
    # The C library reserves two signals (32 and 33) for itself.
    assert [int(line.split()[1], 16) & 0x7FFFFFFF for line in lines[6:8]] == [0, 0]
    assert lines[8] == "leads"


async def test_output_of_both_streams_is_kept_byte_by_byte(bench: Bench) -> None:
    """Binary output arrives unchanged, in order, on its stream."""
    script = r"printf 'a\0\xff\n'; printf 'e\x80' >&2; head -c 300000 /dev/zero | tr '\0' x; printf end"

    result = await bench.run("a", script)

    assert bench.output("a", STDOUT) == b"a\0\xff\n" + b"x" * 300_000 + b"end"
    assert bench.output("a", STDERR) == b"e\x80"
    assert result.output_bytes == 300_009
    offsets = [(chunk.offset, chunk.end) for chunk in bench.chunks("a")]
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(offsets))


async def test_output_is_in_the_spool_while_the_step_runs(bench: Bench) -> None:
    """Output is in the spool as soon as it is printed, not only when the step ends."""
    fifo = bench.data_dir / "fifo"
    os.mkfifo(fifo)
    bench.start("a", f"echo first; read < {fifo}; echo second")
    await bench.printed("a", b"first\n")

    await asyncio.to_thread(fifo.write_text, "go\n")

    await bench.result("a")
    assert bench.output("a", STDOUT) == b"first\nsecond\n"


async def test_a_timeout_kills_a_whole_group_that_ignores_sigterm(bench: Bench) -> None:
    """Processes that ignore the stop signal are killed after the grace period, also those in another session."""
    script = "trap '' TERM; for i in 1 2 3; do sleep 300 & echo $!; done; setsid sleep 300 & echo $!; echo ready; wait"
    for timeout_ms in (300, 3_000, 30_000):
        name = f"a{timeout_ms}"
        result = await bench.run(name, script, timeout_ms=timeout_ms, grace_ms=200)
        printed = bench.output(name, STDOUT)
        if b"ready" in printed:
            break
        # On a busy machine the timeout may come before the script has printed that it ignores the signal.

    pids = [int(line) for line in printed.split() if line.isdigit()]
    assert (result.reason, result.exit_code, result.signal) == ("timed-out", None, signal.SIGKILL)
    assert not any(is_alive(pid) for pid in pids)


async def test_a_cancelled_step_may_clean_up(bench: Bench) -> None:
    """The stop signal is sent first; the exit code after the cleanup is reported, and the reason does not change."""
    bench.start(
        "a", "trap 'echo bye; exit 3' INT; echo ready; while :; do sleep 0.01; done", stop_signal=2, grace_ms=30_000
    )
    await bench.printed("a", b"ready\n")

    bench.client.cancel("a")

    result = await bench.result("a")
    assert (result.reason, result.exit_code) == ("cancelled", 3)
    assert bench.output("a", STDOUT) == b"ready\nbye\n"


async def test_a_forced_cancel_does_not_wait_for_the_grace(bench: Bench) -> None:
    """A step that ignores its stop signal, with ten minutes of grace, is killed at once and reported as cancelled."""
    bench.start("a", "trap '' TERM; echo ready; while :; do sleep 0.01; done", grace_ms=600_000)
    await bench.printed("a", b"ready\n")

    bench.client.cancel("a")
    bench.client.cancel("a", is_forced=True)

    result = await bench.result("a")
    assert (result.reason, result.signal) == ("cancelled", signal.SIGKILL)


async def test_a_suspended_process_is_stopped_too(bench: Bench) -> None:
    """A suspended process is continued so that it can handle the signal."""
    bench.start("a", "echo ready; kill -STOP $$; sleep 300", grace_ms=30_000)
    await bench.printed("a", b"ready\n")

    bench.client.cancel("a")

    assert (await bench.result("a")).reason == "cancelled"


async def test_a_grace_period_of_zero_kills_at_once(bench: Bench) -> None:
    """The only signal is SIGKILL."""
    bench.start("a", "trap 'echo never' TERM; echo ready; while :; do sleep 0.01; done", grace_ms=0)
    await bench.printed("a", b"ready\n")

    bench.client.cancel("a", "timed-out")

    result = await bench.result("a")
    assert (result.reason, result.signal) == ("timed-out", signal.SIGKILL)
    assert b"never" not in bench.output("a", STDOUT)


@pytest.mark.parametrize(
    "detach",
    [
        "setsid sleep 300 &",
        "(setsid sleep 300 &)",
        "sleep 300 &",
        "setsid bash -c 'trap \"\" TERM; sleep 300; sleep 300' &",
    ],
)
async def test_a_daemon_that_keeps_the_output_open_does_not_block_the_step(bench: Bench, detach: str) -> None:
    """The step has the exit code of its main process; remaining processes are stopped before it is reported."""
    result = await bench.run("a", f"{detach}\necho said; exit 5")

    assert (result.reason, result.exit_code) == ("exited", 5)
    assert bench.output("a", STDOUT) == b"said\n"
    mark = f"WATERFLOW_ATTEMPT_DIRECTORY={bench.client.directory('a')}".encode()
    assert marked(mark) == []


async def test_a_fully_detached_daemon_is_killed_with_its_step(bench: Bench) -> None:
    """A daemon (own session, no output, orphaned) does not survive the step."""
    mark = f"WATERFLOW_ATTEMPT_DIRECTORY={bench.client.directory('a')}".encode()

    await bench.run("a", "(setsid sleep 300 </dev/null >/dev/null 2>&1 &); sleep 0.1")

    await eventually(lambda: marked(mark) == [])


def marked(mark: bytes) -> list[int]:
    """Returns the running processes with this mark."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if mark in Path("/proc", entry, "environ").read_bytes().split(b"\0") and is_alive(int(entry)):
                    found.append(int(entry))
    return found


async def test_output_after_the_main_process_exits_is_kept(bench: Bench) -> None:
    """Output of child processes shortly after the main process has exited is kept."""
    # They have one second. A busy machine may use it up, but not ten times in a row.
    for name in (f"a{number}" for number in range(10)):
        await bench.run(name, "exec > >(sleep 0.2; cat); echo late")
        if printed := bench.output(name, STDOUT):
            break

    assert printed == b"late\n"


async def test_a_flood_keeps_both_ends_in_constant_memory(bench: Bench) -> None:
    """Of 100 MB without a newline the first and last part are kept, the gap is counted, and memory does not grow."""
    script = "printf BEGIN; head -c 100000000 /dev/zero | tr '\\0' a; printf END"

    result = await bench.run("a", script, output_bytes_max=1_000_000)

    chunks = bench.chunks("a")
    gap = next(chunk for chunk in chunks if chunk.stream == MISSING)
    assert result.output_bytes == 100_000_008
    assert result.output_dropped == gap.dropped > 98_000_000
    data = bench.output("a", STDOUT)
    assert data.startswith(b"BEGINaaa")
    assert data.endswith(b"aaaEND")
    assert len(data) <= 1_000_000
    assert sum(file.stat().st_size for file in bench.client.directory("a").glob("output*")) < 1_200_000
    assert memory_kib(bench.runner_pid()) <= 12 * 1024


def memory_kib(pid: int) -> int:
    """Returns the private memory of the process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


async def test_a_repeated_start_returns_the_first_state(bench: Bench) -> None:
    """A repeated start returns the state of the first one, both before and after its end."""
    bench.start("a", "echo run >> runs; sleep 0.2")
    bench.start("a", "echo run >> runs; sleep 0.2")
    first = await bench.started("a")
    result = await bench.result("a")

    bench.seen.clear()
    bench.start("a", "echo run >> runs")

    assert await bench.result("a") == result
    assert first.pid > 0
    assert (bench.data_dir / "runs").read_text() == "run\n"


async def test_forget_removes_an_attempt_from_memory_and_disk(bench: Bench) -> None:
    """After `forget` the directory is deleted, and the runner does not know the name."""
    await bench.run("a", "echo x; echo y > $WATERFLOW_ATTEMPT_DIRECTORY/files/output")
    assert bench.client.directory("a").exists()

    bench.client.forget("a")

    assert not bench.client.directory("a").exists()
    bench.client.cancel("a")
    refused = await bench.until(lambda report: isinstance(report, reports.RequestRefused))
    assert isinstance(refused, reports.RequestRefused)
    assert "unknown name" in refused.text


async def test_all_child_processes_are_reaped(bench: Bench) -> None:
    """Main processes and their orphans are reaped."""
    for number in range(20):
        bench.start(f"a{number}", "sleep 0.05 & true")
    for number in range(20):
        await bench.result(f"a{number}")

    runner = bench.runner_pid()
    await eventually(lambda: children(runner) == [])


async def test_many_concurrent_steps_each_get_their_result(bench: Bench) -> None:
    """Each of a few hundred steps gets its own result and output."""
    for number in range(200):
        bench.start(f"a{number}", f"echo {number}; exit {number % 100}")

    for number in range(200):
        assert (await bench.result(f"a{number}")).exit_code == number % 100
        assert bench.output(f"a{number}", STDOUT) == b"%d\n" % number


async def test_a_step_survives_its_agent(bench: Bench) -> None:
    """A new agent finds the running step and gets its result, and the results of steps that ended meanwhile."""
    bench.start("long", "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; exit 4")
    bench.start("short", "while [ ! -e go-short ]; do sleep 0.01; done; exit 6")
    await bench.printed("long", b"one\n")
    await bench.started("short")
    await bench.client.close()
    (bench.data_dir / "go-short").touch()
    record = bench.data_dir / "attempts" / "short" / "record"
    await eventually(lambda: b'"result"' in record.read_bytes())

    bench.client = bench.new_client()
    bench.seen.clear()
    await bench.client.connect()

    held = await bench.until(lambda report: isinstance(report, reports.HeldSteps))
    assert isinstance(held, reports.HeldSteps)
    states = {attempt.name: attempt for attempt in held.attempts}
    assert states["long"].state == "running"
    assert states["short"].state == "ended"
    assert states["short"].result is not None
    assert states["short"].result.exit_code == 6
    (bench.data_dir / "go").touch()
    assert (await bench.result("long")).exit_code == 4
    assert bench.output("long", STDOUT) == b"one\ntwo\n"


async def test_a_newer_agent_takes_over(bench: Bench) -> None:
    """The older agent is informed and does not reconnect."""
    newer = bench.new_client()
    await newer.connect()
    try:
        with pytest.raises(Exception, match="WF342"):
            await bench.until(lambda _: False)

        assert await newer.receive() == [reports.HeldSteps(())]
    finally:
        await newer.close()


INTRUDER = """import os, socket, sys, time
if sys.argv[2] == "detached":
    # An orphan in its own session that does not carry the mark of its step.
    if os.fork():
        os.wait()
        time.sleep(1)
        sys.exit()
    os.setsid()
    if os.fork():
        os._exit(0)
    if "MARKED" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:-1], "again"], {"MARKED": "no"})
with socket.socket(socket.AF_UNIX) as intruder:
    intruder.connect(sys.argv[1])
    try:
        intruder.sendall(b"\\0\\0\\0\\x13" + b'[{"type":"status"}]')
        answer = intruder.recv(65536)
    except ConnectionError:
        answer = b""
open(sys.argv[1] + ".answer", "wb").write(answer + b".")
"""


@pytest.mark.parametrize("way", ["attached", "detached"])
async def test_a_step_that_connects_to_the_runner_is_refused_and_changes_nothing(bench: Bench, way: str) -> None:
    """The step gets no answer, whether or not it has left its session, and the agent keeps its connection."""
    await bench.run("before", "exit 0")
    script = bench.data_dir / "intruder.py"
    script.write_text(INTRUDER)
    answer = bench.data_dir / "runner.sock.answer"

    bench.start("a", f"python3 {script} {bench.data_dir}/runner.sock {way}; while :; do sleep 0.1; done", grace_ms=0)
    await eventually(answer.exists)
    await eventually(lambda: answer.read_bytes().endswith(b"."))
    bench.client.cancel("a")
    ended = await bench.result("a")

    assert answer.read_bytes() == b"."
    assert ended.reason == "cancelled"
    assert (await bench.run("after", "exit 0")).exit_code == 0


async def test_steps_of_a_killed_runner_are_lost_and_killed(bench: Bench) -> None:
    """Their outcome is unknown: they are killed, and never reported as a success."""
    bench.start("a", "echo $$; (setsid sleep 300 & echo $!); sleep 300 & echo $!; echo ready; wait")
    bench.start("done", "exit 0")
    await bench.result("done")
    await bench.printed("a", b"ready\n")
    pids = [int(line) for line in bench.output("a", STDOUT).split() if line.isdigit()]
    bench.seen.clear()

    os.kill(bench.runner_pid(), signal.SIGKILL)

    held = await bench.until(lambda report: isinstance(report, reports.HeldSteps))
    assert isinstance(held, reports.HeldSteps)
    results = {attempt.name: attempt.result for attempt in held.attempts}
    lost, done = results["a"], results["done"]
    assert lost is not None
    assert done is not None
    assert (lost.reason, lost.exit_code) == ("lost", None)
    assert lost.output_bytes == len(bench.output("a", STDOUT))
    assert (done.reason, done.exit_code) == ("exited", 0)
    assert not any(is_alive(pid) for pid in pids)
    bench.start("a", "echo again >> runs")
    assert (await bench.result("a")).reason == "lost"
    assert not (bench.data_dir / "runs").exists()


async def test_a_runner_on_a_copied_directory_does_not_touch_the_steps_of_the_first(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The records of a cloned server name processes of another runner, which may exist on the same machine."""
    bench.start("a", "echo ready; until test -e go; do sleep 0.02; done; echo end")
    await bench.printed("a", b"ready\n")
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(bench.data_dir / "attempts", copy / "attempts")
    clone = Bench(copy, bench.options)
    try:
        await clone.client.connect()
        held = await clone.until(lambda report: isinstance(report, reports.HeldSteps))
        assert isinstance(held, reports.HeldSteps)
        assert [attempt.result.reason for attempt in held.attempts if attempt.result is not None] == ["lost"]
    finally:
        await clone.client.close()
        await end_runner(copy)

    (bench.data_dir / "go").touch()

    result = await bench.result("a")
    assert (result.reason, result.exit_code) == ("exited", 0)
    assert bench.output("a", STDOUT) == b"ready\nend\n"


async def test_a_stopped_runner_ends_its_steps_as_lost(bench: Bench) -> None:
    """Stopping the service is not a cancel, so the outcome is lost."""
    bench.start("a", "echo ready; sleep 300")
    await bench.printed("a", b"ready\n")
    pid = bench.runner_pid()

    os.kill(pid, signal.SIGTERM)

    result = await bench.result("a")
    assert result.reason == "lost"
    assert "stopped" in str(result.error)
    await eventually(lambda: not is_alive(pid))


async def test_requests_are_kept_until_the_runner_is_back(bench: Bench) -> None:
    """Starts and cancels are kept until the runner has reported about them."""
    os.kill(bench.runner_pid(), signal.SIGKILL)

    result = await bench.run("a", "exit 9")

    assert result.exit_code == 9


async def test_a_full_pipe_to_a_stopped_agent_does_not_block_steps(bench: Bench) -> None:
    """The runner continues while its agent does not read."""
    deadline = time.monotonic() + PATIENCE_S
    for number in range(50):
        bench.start(f"a{number}", "echo x")
    await asyncio.sleep(0)
    paths = [bench.data_dir / "attempts" / f"a{number}" / "record" for number in range(50)]

    # The event loop, and thus the agent, is blocked here.
    while not all(path.exists() and b'"result"' in path.read_bytes() for path in paths):
        assert time.monotonic() < deadline
        os.sched_yield()

    for number in range(50):
        assert (await bench.result(f"a{number}")).exit_code == 0


async def test_a_hidden_daemon_is_killed_through_its_control_group(bench: Bench) -> None:
    """A daemon with another environment can only be found by its group, and is killed before the result is reported."""
    script = (
        "cat /proc/self/cgroup; env -i setsid bash -c 'echo $$ > daemon; exec sleep 300 </dev/null >/dev/null 2>&1' & "
    )
    script += "while [ ! -s daemon ]; do sleep 0.01; done"

    await bench.run("a", script)

    pid = int((bench.data_dir / "daemon").read_text())
    if b"/waterflow-" not in bench.output("a", STDOUT):
        os.kill(pid, signal.SIGKILL)
        pytest.skip("no control group is delegated to this test")
    assert not is_alive(pid)


async def test_steps_never_share_a_control_group(bench: Bench) -> None:
    """Concurrent steps have different groups, and the runner is in another one."""
    for number in range(5):
        bench.start(f"a{number}", "cat /proc/self/cgroup; while [ ! -e go ]; do sleep 0.01; done")
    for number in range(5):
        await bench.printed(f"a{number}", b"\n")
    (bench.data_dir / "go").touch()
    for number in range(5):
        await bench.result(f"a{number}")

    groups = {line for number in range(5) for line in bench.output(f"a{number}", STDOUT).split() if b"/step-" in line}
    assert len(groups) in (0, 5)


async def test_a_step_with_limits_needs_control_groups(bench: Bench) -> None:
    """If limits are not available, a step with limits is not started."""
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 300 & done; echo forked; kill $(jobs -p)"

    result = await bench.run("a", script, pids_max=4)

    assert result.reason == "spawn-failed" or b"forked" not in bench.output("a", STDOUT)


async def test_a_second_runner_on_one_directory_exits(bench: Bench) -> None:
    """It exits with a dedicated status, and the first runner continues."""
    command = [sys.executable, "-m", "waterflow_agent.runner", "--data-dir", str(bench.data_dir)]
    second = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)

    _, errors = await second.communicate()

    assert second.returncode == 3
    assert b"another runner serves" in errors
    assert (await bench.run("a", "exit 0")).exit_code == 0


async def test_the_socket_is_private_and_its_path_may_be_long(tmp_path: Path) -> None:
    """A path beyond the kernel's limit for sockets works too."""
    data_dir = tmp_path / ("x" * 120)
    data_dir.mkdir()
    bench = Bench(data_dir, ["--no-cgroup"])
    try:
        await bench.client.connect()
        assert (await bench.run("a", "exit 2")).exit_code == 2
        assert (data_dir / "runner.sock").stat().st_mode & 0o777 == 0o600
        assert (data_dir / "attempts").stat().st_mode & 0o777 == 0o700
    finally:
        await bench.client.close()
        await end_runner(data_dir)


def boot_ms() -> int:
    return Clock().boot_ms()


async def test_a_step_is_stopped_when_its_lease_ends(bench: Bench) -> None:
    """It is counted from the confirmation, so a later one extends it."""
    bench.client.confirm(boot_ms())
    bench.start("a", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done", lease_ms=60_000)
    await bench.printed("a", b"ready\n")
    bench.client.confirm(boot_ms() - 600_000)
    bench.start("b", "sleep 300", lease_ms=1)

    assert (await bench.result("b")).started_at is None, "an older confirmation changes nothing, and its lease is over"
    bench.start("c", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done", lease_ms=2_000)
    bench.client.confirm(boot_ms())

    result = await bench.result("c")
    assert result.reason == "lease-ended"
    bench.client.cancel("a", is_forced=True)
    assert (await bench.result("a")).reason == "cancelled", "its lease is longer"


async def test_a_runner_without_an_agent_stops_what_has_a_lease(bench: Bench) -> None:
    """The agent may be dead: the lease ends all the same, and the next agent is told. Other steps continue."""
    bench.client.confirm(boot_ms())
    bench.start("a", "sleep 300", lease_ms=2_000)
    bench.start("b", "echo $$; sleep 300")
    started = await bench.started("a")
    await bench.started("b")
    await bench.client.close()

    await eventually(lambda: not is_alive(started.pid))

    bench.client, bench.seen = bench.new_client(), []
    await bench.client.connect()
    report = await bench.until(lambda report: isinstance(report, reports.HeldSteps))
    assert isinstance(report, reports.HeldSteps)
    held = {one.name: one for one in report.attempts}
    result = held["a"].result
    assert result is not None
    assert (result.reason, held["b"].state) == ("lease-ended", "running")
    bench.client.cancel("b", is_forced=True)
    await bench.result("b")


async def test_nothing_with_a_lease_starts_before_a_session_was_confirmed(bench: Bench) -> None:
    """The first agent of a runner has to reach the daemon first; what has not started may be tried again."""
    result = await bench.run("a", "echo started", lease_ms=1_000)

    assert (result.reason, result.started_at) == ("lease-ended", None)
    assert exits.interpret(result).outcome is Outcome.REFUSED
    assert bench.chunks("a") == []
