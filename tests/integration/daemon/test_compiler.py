"""The compiler process: it answers, is replaced when it dies, and ends with the daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected
from waterflowd.compiler.process import WAITING_MAX, CompilerProcess
from waterflowd.dsl import compile_workflow

HELLO = b"jobs: {j: {runs-on: g, steps: [{run: echo hello}]}}"
BROKEN = b"jobs: {j: {runs-on: g, needs: k, steps: [{run: echo hello}]}}"


async def until(condition: object, seconds: float = PATIENCE_S) -> None:
    """Waits for a condition, with a deadline."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Returns whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descriptors(pid: int) -> list[str]:
    """Returns the targets of the open descriptors of a process."""
    return [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]


def environment(pid: int) -> bytes:
    """Returns the environment with which a process was started."""
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_the_child_gives_the_same_results_as_the_package() -> None:
    """It returns a plan or diagnostics, in the order of the calls."""
    async with CompilerProcess() as compiler:
        files = [("a.yml", HELLO), ("b.yml", BROKEN), ("c.yml", b"\xff")] * 5
        answers = await asyncio.gather(*(compiler.compile(path, content, client="a") for path, content in files))
        assert answers == [compile_workflow(path, content) for path, content in files]


async def test_a_file_that_is_too_large_is_never_sent() -> None:
    """The answer is the same as the child's, without using the child."""
    compiler = CompilerProcess()
    content = b"x" * (1024 * 1024 + 1)
    assert await compiler.compile("w.yml", content, client="a") == compile_workflow("w.yml", content)
    assert compiler.pid is None


async def test_a_child_that_was_killed_is_replaced() -> None:
    """The next file compiles as usual."""
    async with CompilerProcess() as compiler:
        await compiler.compile("w.yml", HELLO, client="a")
        first = compiler.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert (await compiler.compile("w.yml", HELLO, client="a")).plan is not None
        assert compiler.pid != first


async def test_a_child_that_dies_while_it_compiles_is_replaced() -> None:
    """The file is tried again in the new child."""
    async with CompilerProcess() as compiler:
        await compiler.compile("w.yml", HELLO, client="a")
        first = compiler.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        answer = asyncio.create_task(compiler.compile("w.yml", HELLO, client="a"))
        await asyncio.sleep(0)
        os.kill(first, signal.SIGKILL)
        assert (await answer).plan is not None


async def test_a_child_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is a diagnostic, and the next file compiles."""
    async with CompilerProcess() as compiler:
        await compiler.compile("w.yml", HELLO, client="a")
        first = compiler.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        with monkeypatch.context() as patch:
            # Only for this file: the others may take as long as they need on a busy machine.
            patch.setattr(compiler, "_file_timeout_s", 0.1)
            (error,) = (await compiler.compile("w.yml", HELLO, client="a")).diagnostics
        assert error.code == "WF130"
        assert "took longer" in error.message
        assert not is_alive(first)
        assert (await compiler.compile("w.yml", HELLO, client="a")).plan is not None


async def test_a_child_that_cannot_start_is_a_diagnostic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even an exhausted machine causes no exception."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    async with CompilerProcess() as compiler:
        (error,) = (await compiler.compile("w.yml", HELLO, client="a")).diagnostics
        assert error.code == "WF130"
        assert "cannot start the compiler" in error.message


async def test_a_file_that_needs_too_much_memory_is_a_diagnostic() -> None:
    """The memory of the child is limited."""
    async with CompilerProcess(memory_bytes=1024) as compiler:
        large = b"vars: {a: [" + b"x," * 40_000 + b"]}\n" + HELLO
        (error,) = (await compiler.compile("w.yml", large, client="a")).diagnostics
        assert error.code == "WF130"


async def test_a_cancelled_caller_does_not_affect_the_next_one() -> None:
    """Answers never reach the wrong caller."""
    async with CompilerProcess() as compiler:
        await compiler.compile("w.yml", HELLO, client="a")
        tasks = [asyncio.create_task(compiler.compile("gone.yml", BROKEN, client="a")) for _ in range(5)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        assert (await compiler.compile("w.yml", HELLO, client="a")).plan is not None


async def test_closing_ends_the_child_and_answers_waiting_callers() -> None:
    """No process is left, and no caller hangs."""
    compiler = CompilerProcess()
    await compiler.start()
    await compiler.compile("w.yml", HELLO, client="a")
    pid = compiler.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    waiting = [asyncio.create_task(compiler.compile("w.yml", HELLO, client="a")) for _ in range(3)]
    await asyncio.sleep(0)
    await compiler.close()
    assert {answer.diagnostics[0].code for answer in await asyncio.gather(*waiting)} == {"WF130"}
    assert not is_alive(pid)
    assert (await compiler.compile("w.yml", HELLO, client="a")).diagnostics[0].code == "WF130"


async def test_closing_while_the_child_starts_leaves_nothing() -> None:
    """No exception is raised, either."""
    compiler = CompilerProcess()
    await compiler.start()
    await asyncio.sleep(0)
    await compiler.close()
    assert compiler.pid is None


async def test_the_child_holds_no_descriptor_of_its_parent() -> None:
    """It has only its standard streams, not even an inheritable socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)
        async with CompilerProcess() as compiler:
            await compiler.compile("w.yml", HELLO, client="a")
            assert compiler.pid is not None
            links = descriptors(compiler.pid)
            assert f"socket:[{os.fstat(server.fileno()).st_ino}]" not in links
            assert len(links) == 3


async def test_the_child_sees_no_secrets_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of the daemon are not passed on."""
    monkeypatch.setenv("WATERFLOW_SECRET_X", "very-secret")
    async with CompilerProcess() as compiler:
        await compiler.compile("w.yml", HELLO, client="a")
        assert compiler.pid is not None
        assert b"very-secret" not in environment(compiler.pid)


async def test_the_child_ends_with_its_parent() -> None:
    """This holds even when the parent is killed."""
    script = (
        "import asyncio\n"
        "from waterflowd.compiler.process import CompilerProcess\n"
        "async def main():\n"
        "    compiler = CompilerProcess()\n"
        "    await compiler.start()\n"
        f"    await compiler.compile('w.yml', {HELLO!r}, client='a')\n"
        "    print(compiler.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    try:
        assert parent.stdout is not None
        child = int(await parent.stdout.readline())
        assert is_alive(child)
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: not is_alive(child))


CALLER = b"jobs: {a: {uses: ./lib/a.yml}, s: {runs-on: g, steps: [{uses: ./steps/s}]}}"
FILES: dict[str, bytes] = {
    "lib/a.yml": b"on: workflow_call\njobs: {j: {uses: ./lib/b.yml}}",
    "lib/b.yml": b"on: workflow_call\njobs: {j: {runs-on: g, steps: [{run: echo b}]}}",
    "steps/s/step.yaml": b"steps: [{run: echo s}]",
}


async def test_other_files_are_read_by_the_caller() -> None:
    """The child names missing files until it has all of them; the answer equals that of the package."""
    requested: list[str] = []

    async def files(path: str) -> bytes | None:
        requested.append(path)
        return FILES.get(path)

    async with CompilerProcess() as compiler:
        answer = await compiler.compile("w.yml", CALLER, files, client="a")
        assert answer == compile_workflow("w.yml", CALLER, FILES)
        assert answer.plan is not None
        assert set(answer.files) <= set(requested)
        assert len(requested) == len(set(requested))


async def test_a_failing_reader_affects_only_its_call() -> None:
    """The caller gets the error; the next file compiles."""

    async def files(path: str) -> bytes | None:
        raise ConnectionError(path)

    async with CompilerProcess() as compiler:
        with pytest.raises(ConnectionError):
            await compiler.compile("w.yml", CALLER, files, client="a")
        assert (await compiler.compile("w.yml", HELLO, client="a")).plan is not None


async def test_a_slow_reader_does_not_delay_other_files() -> None:
    """The child is free while a caller reads."""
    may_go_on = asyncio.Event()

    async def files(path: str) -> bytes | None:
        await may_go_on.wait()
        return FILES.get(path)

    async with CompilerProcess() as compiler:
        waiting = asyncio.create_task(compiler.compile("w.yml", CALLER, files, client="a"))
        async with asyncio.timeout(PATIENCE_S):
            assert (await compiler.compile("w.yml", HELLO, client="a")).plan is not None
        may_go_on.set()
        assert (await waiting).plan is not None


# Clients --------------------------------------------------------------------------------------------------------------------

#: Takes far more processor time than the tests below allow for one file.
SLOW = b"env:\n" + b"".join(b" V%d: ${{ %d%s }}\n" % (number, number, b"||1" * 2_000) for number in range(100)) + HELLO


async def test_a_file_that_takes_too_much_processor_time_is_a_diagnostic() -> None:
    """It names the limit; the child is replaced, and the file is not tried a second time."""
    async with CompilerProcess(file_cpu_s=0.2) as compiler:
        await compiler.compile("w.yml", HELLO, client="a")
        first = compiler.pid
        (error,) = (await compiler.compile("w.yml", SLOW, client="a")).diagnostics
        assert error.code == "WF130"
        assert error.message == "compiling this file took more than 0.2 s of processor time, which is the limit"
        assert compiler.pid is None
        assert (await compiler.compile("w.yml", HELLO, client="a")).plan is not None
        assert compiler.pid != first


async def test_the_slow_files_of_one_client_delay_another_by_one_of_them() -> None:
    """The second client's files are all compiled before the first one's next file."""
    async with CompilerProcess(file_cpu_s=0.2) as compiler:
        done: list[str] = []

        async def compile_one(client: str, content: bytes) -> None:
            await compiler.compile("w.yml", content, client=client)
            done.append(client)

        slow = [asyncio.create_task(compile_one("viewer", SLOW)) for _ in range(6)]
        await until(lambda: len(done) == 1)
        push = [asyncio.create_task(compile_one("repository", HELLO)) for _ in range(10)]
        await asyncio.gather(*push)
        assert done.count("viewer") <= 3
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_too_many_files_of_one_client_are_refused() -> None:
    """The answer names the limit; another client's file is compiled."""
    async with CompilerProcess() as compiler:
        await compiler.compile("w.yml", HELLO, client="a")
        assert compiler.pid is not None
        os.kill(compiler.pid, signal.SIGSTOP)
        # One that is being compiled, and those that wait.
        waiting = [asyncio.create_task(compiler.compile("w.yml", HELLO, client="a"))]
        await asyncio.sleep(0)
        await until(lambda: len(compiler._queue) == 0)
        waiting += [asyncio.create_task(compiler.compile("w.yml", HELLO, client="a")) for _ in range(WAITING_MAX)]
        await until(lambda: len(compiler._queue) == WAITING_MAX)
        with pytest.raises(Rejected, match="16 files of yours are already waiting") as refused:
            await compiler.compile("w.yml", HELLO, client="a")
        assert (refused.value.code, refused.value.status) == ("WF609", 429)
        other = asyncio.create_task(compiler.compile("w.yml", HELLO, client="b"))
        os.kill(compiler.pid, signal.SIGCONT)
        assert (await other).plan is not None
        assert all(answer.plan is not None for answer in await asyncio.gather(*waiting))


async def test_the_files_of_a_caller_that_is_gone_are_not_compiled() -> None:
    """They make room for others at once."""
    async with CompilerProcess() as compiler:
        await compiler.compile("w.yml", HELLO, client="a")
        assert compiler.pid is not None
        os.kill(compiler.pid, signal.SIGSTOP)
        tasks = [asyncio.create_task(compiler.compile("w.yml", HELLO, client="a")) for _ in range(10)]
        await until(lambda: len(compiler._queue) == 9)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(compiler._queue) == 0
        os.kill(compiler.pid, signal.SIGCONT)
        assert (await compiler.compile("w.yml", HELLO, client="a")).plan is not None


async def test_a_compiler_for_later_starts_no_process() -> None:
    """Its first file does."""
    async with CompilerProcess(starts_early=False) as compiler:
        await asyncio.sleep(0)
        assert compiler.pid is None
        assert (await compiler.compile("w.yml", HELLO, client="a")).plan is not None
