"""Starting attempts, writing the journal first, checking out files, masking and delivering results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.unit.agent.core_harness import CoreBench, attempt, exited, no_space
from waterflow_agent.attempts import Outcome
from waterflow_agent.checkout.blob_cache import blob_id
from waterflow_agent.checkout.file_list import FileEntry, FileKind, encode
from waterflow_agent.execution.process_steps import attempt_name
from waterflow_agent.runner.reports import HeldStep, HeldSteps, StepExited
from waterflow_agent.state.journal import Journal
from waterflow_agent.state.ledger import Ledger
from waterflow_agent.wire import messages
from waterflow_agent.wire.session import Received


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[CoreBench]:
    """A settled core without attempts."""
    bench = CoreBench(tmp_path)
    bench.settle()
    yield bench
    await bench.close()


async def test_an_attempt_is_journalled_before_the_runner_gets_it(
    bench: CoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's message is acknowledged after both."""
    order: list[str] = []

    def note(owner: object, method: str, name: str) -> None:
        real = getattr(owner, method)

        def noted(argument: object) -> None:
            order.append(name)
            real(argument)

        monkeypatch.setattr(owner, method, noted)

    note(bench.journal, "append", "journal")
    note(bench.runner, "start", "runner")
    note(bench.link, "acknowledge", "acknowledge")

    bench.offer(attempt(), run="true")

    assert order == ["journal", "runner", "acknowledge"]


async def test_a_full_disk_starts_nothing_and_loses_no_result(
    bench: CoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offers are refused, results are sent, and the journal is complete again when there is space."""
    bench.offer(attempt(1), run="true")
    with monkeypatch.context() as full:
        full.setattr(bench.journal, "append", no_space)
        full.setattr(bench.journal, "begin", no_space)
        bench.offer(attempt(2), run="true")
        bench.report(StepExited(attempt_name(attempt(1)), exited()))
    bench.offer(attempt(3), run="true")

    outcomes = {result.key: result.outcome for result in bench.link.results()}
    assert outcomes == {attempt(2): Outcome.REFUSED, attempt(1): Outcome.SUCCESS}
    assert bench.runner.started == [attempt_name(attempt(1)), attempt_name(attempt(3))]
    again = Ledger(boot_id="boot", instance="", slots=4)
    again.restore(*bench.journal.read())
    assert again.held() == bench.ledger.held()


async def test_step_files_are_kept_until_the_result_is_journalled(
    bench: CoreBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later process of the agent may need them, so no other step gets the directory before."""
    bench.offer(attempt(1), run="true")
    output = tmp_path / "steps" / "1" / "output"
    output.write_text("a=1\n")
    with monkeypatch.context() as full:
        full.setattr(bench.journal, "append", no_space)
        full.setattr(bench.journal, "begin", no_space)
        bench.report(StepExited(attempt_name(attempt(1)), exited()))

    assert bench.link.results()[0].outputs == {"a": "1"}
    assert output.read_text() == "a=1\n"

    bench.offer(attempt(2), run="true")
    assert output.read_text() == "a=1\n"


async def test_the_directory_of_a_finished_step_is_reused(bench: CoreBench, tmp_path: Path) -> None:
    """This holds after a restart too, even if the daemon has not acknowledged the first result yet."""
    bench.offer(attempt(1), run="true")
    bench.report(StepExited(attempt_name(attempt(1)), exited()))
    bench.offer(attempt(2), run="true")
    bench.journal.close()

    later = CoreBench(tmp_path)
    later.core.restore()
    (tmp_path / "steps" / "1" / "output").write_text("second=yes\n")
    held = tuple(
        HeldStep(name=attempt_name(attempt(number)), state="ended", pid=None, at=1, output_bytes=0, result=exited())
        for number in (1, 2)
    )
    later.receive(Received(acknowledged=[bench.link.results()[0]]))
    later.report(HeldSteps(held))
    later.core.session.on_opened(messages.Welcome("s", 1, 1, "a", [], 6_000, []))

    assert {result.key: result.outputs for result in later.link.results()} == {attempt(2): {"second": "yes"}}
    await later.close()
    bench.journal = Journal(tmp_path / "journal")


async def test_output_of_the_agent_itself_is_truncated(bench: CoreBench) -> None:
    """A node inside the agent has the same output limit, and the dropped bytes are counted."""
    bench.offer(attempt(), message="x" * 5_000)

    (result,) = bench.link.results()
    sent = bench.output()
    assert result.output_dropped == 4_001
    assert result.output_bytes == len(sent)
    assert b"4001 bytes of output were dropped" in sent


async def test_results_are_masked_and_output_is_measured_as_masked(bench: CoreBench, tmp_path: Path) -> None:
    """Output, outputs, environment and reasons are masked; the journal never contains a secret."""
    bench.offer(attempt(1), secrets=("s3cret",), run="true")
    bench.offer(attempt(2), secrets=("s3cret",), message="say s3cret")
    bench.offer(attempt(3), secrets=("s3cret",), outputs={"a": ["<s3cret>"]})
    files = next(iter((tmp_path / "steps").iterdir()))
    (files / "output").write_text("b=(s3cret)\n")
    (files / "env").write_text("C=[s3cret]\n")

    bench.report(StepExited(bench.runner.started[0], bench.spool(b"printed s3cret\n")))

    results = {result.key: result for result in bench.link.results()}
    assert results[attempt(3)].outputs == {"a": ["<***>"]}
    assert (results[attempt(1)].outputs, results[attempt(1)].env) == ({"b": "(***)"}, {"C": "[***]"})
    assert results[attempt(1)].output_bytes == len(b"printed ***\n")
    assert results[attempt(2)].output_bytes == len(b"say ***\n")
    assert sorted(bench.output().splitlines()) == [b"printed ***", b"say ***"]
    assert b"s3cret" not in bench.journal_bytes()


# The files of a job ------------------------------------------------------------------------------------------------------

TREE = messages.Tree("ops", "1", [])
FILE = b"content"


@pytest.fixture
async def waiting(bench: CoreBench) -> CoreBench:
    """A core with an attempt that has requested its job's files."""
    bench.offer(attempt(), run="true", tree=TREE)
    return bench


async def respond(bench: CoreBench, response: messages.FileResponse | None = None) -> None:
    """Answers the newest file request."""
    await bench.until(bench.link.file_requests)
    request = bench.link.file_requests().pop()
    if response is None:
        data = FILE if request.blobs else encode([FileEntry(b"file", FileKind.FILE, blob_id(FILE))])
        response = messages.FileResponse(request.key, request.number, [messages.FileChunk(len(data), data)])
    bench.link.sent.clear()
    bench.receive(Received(loose=[msgspec.structs.replace(response, number=request.number)]))


async def test_a_step_starts_when_the_checkout_is_complete(waiting: CoreBench, tmp_path: Path) -> None:
    """It does not start earlier; the next step of the job starts at once."""
    await respond(waiting)
    assert waiting.runner.started == []
    await respond(waiting)
    await waiting.until(lambda: waiting.runner.started == [attempt_name(attempt())])
    assert (tmp_path / "work/run/job/file").read_bytes() == FILE

    waiting.offer(attempt(2), run="true", tree=TREE)

    assert waiting.runner.started == [attempt_name(attempt()), attempt_name(attempt(2))]


async def test_a_step_that_is_cancelled_while_it_waits_for_files_never_starts(tmp_path: Path) -> None:
    """Its result is sent at once, and files that arrive later are ignored."""
    bench = CoreBench(tmp_path)
    bench.settle()
    bench.offer(attempt(), run="true", tree=TREE)
    await respond(bench)
    await bench.until(bench.link.file_requests)
    request = bench.link.file_requests()[-1]

    bench.receive(Received(numbered=[(2, messages.Cancel(attempt(), False, "enough"))]))

    (end,) = bench.link.results()
    assert end.outcome is Outcome.CANCELLED
    late = messages.FileResponse(request.key, request.number, [messages.FileChunk(len(FILE), FILE)])
    bench.receive(Received(loose=[late]))
    await bench.close()
    assert bench.runner.started == []
    assert not (tmp_path / "work/run/job").exists()


async def test_a_restarted_runner_does_not_end_an_attempt_that_waits_for_files(waiting: CoreBench) -> None:
    """The runner does not know the attempt yet."""
    waiting.report(HeldSteps(()))

    assert waiting.link.results() == []
    await respond(waiting)
    await respond(waiting)
    await waiting.until(lambda: waiting.runner.started)


async def test_a_step_fails_with_the_daemon_s_reason_if_its_files_are_unavailable(waiting: CoreBench) -> None:
    """Nothing of the step runs."""
    await respond(
        waiting, messages.FileResponse(attempt(), 0, [], "WF520", "out: a link to /etc, out of the repository")
    )

    await waiting.until(waiting.link.results)
    (end,) = waiting.link.results()
    assert (end.outcome, end.reason_code) == (Outcome.FAILURE, "node-error")
    assert end.reason_text == "out: a link to /etc, out of the repository"
    assert waiting.runner.started == []


async def test_an_agent_restarted_during_a_checkout_refuses_the_attempt(tmp_path: Path) -> None:
    """Its next process refuses the attempt, so that it is offered again, and finds no partial directory."""
    bench = CoreBench(tmp_path)
    bench.settle()
    bench.offer(attempt(), run="true", tree=TREE)
    await respond(bench)
    await bench.close()

    again = CoreBench(tmp_path)
    again.settle()

    assert [entry.result.outcome for entry in again.ledger if entry.result is not None] == [Outcome.REFUSED]
    assert not (tmp_path / "work/run/job").exists()
    assert not list((tmp_path / "trees/made").iterdir())
    await again.close()
