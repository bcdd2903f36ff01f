"""The desk with a runner that does what a test says: full disks, lazy starts, and what only a runner's trouble shows."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.checkout.blob_cache import blob_id
from waterflow_agent.checkout.file_list import FileEntry, FileKind, encode
from waterflow_agent.checkout.file_requests import FileRequests
from waterflow_agent.checkout.service import CheckoutService
from waterflow_agent.checkout.tree_store import TreeStore
from waterflow_agent.config import Config
from waterflow_agent.errors import Retryable
from waterflow_agent.execution.desk import Desk
from waterflow_agent.execution.process_steps import ProcessSteps, attempt_name
from waterflow_agent.execution.step_directories import StepDirectories
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.runner.reports import (
    HeldStep,
    HeldSteps,
    RequestRefused,
    RunnerReport,
    StepExited,
    StepResult,
    StepSpec,
    StepStarted,
)
from waterflow_agent.runner.spool import SpoolWriter
from waterflow_agent.state.journal import Journal
from waterflow_agent.state.ledger import Ledger
from waterflow_agent.state.secret_store import SecretStore
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import Outcome, TaskKey
from waterflow_agent.wire.session import Received


class FakeRunner:
    """Remembers what it was asked for; starts nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.forgotten: list[str] = []

    def directory(self, name: str) -> Path:
        return self.root / name

    def start(self, spec: StepSpec) -> None:
        self.started.append(spec.name)

    def cancel(self, name: str, *, is_forced: bool = False) -> None:
        self.cancelled.append(name)

    def forget(self, name: str) -> None:
        self.forgotten.append(name)

    async def receive(self) -> list[RunnerReport]:
        return []


class FakeLink:
    """Remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[messages.AgentMessage] = []
        self.acknowledged = 0

    def send(self, message: messages.AgentMessage) -> None:
        self.sent.append(message)

    def acknowledge(self, number: int) -> None:
        self.acknowledged = number

    def wake(self) -> None:
        return

    def results(self) -> list[messages.Finished]:
        return [message for message in self.sent if isinstance(message, messages.Finished)]


class Bench:
    """A desk and all around it."""

    def __init__(self, root: Path, book: SecretStore | None = None) -> None:
        self.runner = FakeRunner(root / "attempts")
        self.link = FakeLink()
        self.journal = Journal(root / "journal")
        self.ledger = Ledger(boot_id="boot", instance="instance", slots=4)
        workspaces = WorkingDirectories(root / "work")
        steps = ProcessSteps(self.runner, workspaces, StepDirectories(root / "steps", workspaces.discard), {})
        checkouts = CheckoutService(
            TreeStore(root / "trees", 1 << 20, workspaces.discard), FileRequests(self.link.send), workspaces
        )
        self.desk = Desk(
            config=Config(name="a"),
            ledger=self.ledger,
            journal=self.journal,
            steps=steps,
            checkouts=checkouts,
            book=book,
        )
        self.desk.link = self.link

    def restore(self) -> None:
        self.desk.restore(*self.journal.read())

    def wanted(self) -> list[messages.FileRequest]:
        """The questions for files that were sent."""
        return [message for message in self.link.sent if isinstance(message, messages.FileRequest)]

    def offer(
        self,
        key: TaskKey,
        *,
        secrets: tuple[str, ...] = (),
        tree: messages.Tree | None = None,
        **params: object,
    ) -> None:
        node = "log" if "message" in params else "set-outputs" if "outputs" in params else "shell"
        task = messages.Task(
            key,
            node,
            dict(params),
            {},
            "",
            None,
            1_000,
            "TERM",
            1,
            1_000,
            self.ledger.boot_id,
            self.ledger.instance,
            list(secrets),
            tree,
        )
        self.desk.received(Received(numbered=[(self.link.acknowledged + 1, messages.Offer(task))]))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A desk that is settled and holds nothing."""
    bench = Bench(tmp_path)
    bench.restore()
    bench.desk.on_reports([HeldSteps(())])
    yield bench
    await bench.desk.close()
    bench.journal.close()


async def eventually(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        # The desk has timers of its own, and tells nobody when they have fired.
        while not is_true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def key(number: int = 1) -> TaskKey:
    return TaskKey("run", "job", f"s{number}", 1, 1)


def exited(reason: str = "exited", exit_code: int | None = 0) -> StepResult:
    return StepResult(
        exit_code=exit_code, signal=None, reason=reason, started_at=1, finished_at=2, output_bytes=0, output_dropped=0
    )


def no_space(*_: object) -> None:
    raise Retryable("WF302", "no space left", after_s=1)


async def test_journal_has_the_attempt_before_the_runner(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the daemon's message is acknowledged after both."""
    order: list[str] = []

    def note(place: object, method: str, name: str) -> None:
        real = getattr(place, method)

        def noted(argument: object) -> None:
            order.append(name)
            real(argument)

        monkeypatch.setattr(place, method, noted)

    note(bench.journal, "append", "journal")
    note(bench.runner, "start", "runner")
    note(bench.link, "acknowledge", "acknowledge")

    bench.offer(key(), run="true")

    assert order == ["journal", "runner", "acknowledge"]


async def test_full_disk_starts_nothing_and_loses_no_result(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offers are refused, results go out, and the journal is complete again when there is room."""
    bench.offer(key(1), run="true")
    with monkeypatch.context() as full:
        full.setattr(bench.journal, "append", no_space)
        full.setattr(bench.journal, "begin", no_space)
        bench.offer(key(2), run="true")
        bench.desk.on_reports([StepExited(attempt_name(key(1)), exited())])
    bench.offer(key(3), run="true")

    outcomes = {result.key: result.outcome for result in bench.link.results()}
    assert outcomes == {key(2): Outcome.REFUSED, key(1): Outcome.SUCCESS}
    assert bench.runner.started == [attempt_name(key(1)), attempt_name(key(3))]
    _, facts = bench.journal.read()
    again = Ledger(boot_id="boot", instance="", slots=4)
    for fact in facts:
        again.replay(fact)
    assert again.held() == bench.ledger.held()


async def test_start_is_told_only_of_what_goes_on(bench: Bench) -> None:
    """An attempt that ends at once has a result and no `StepStarted`."""
    bench.offer(key(1), run="true")
    bench.offer(key(2), run="sleep 60")
    bench.desk.on_reports([StepStarted(attempt_name(key(1)), 1, 5), StepStarted(attempt_name(key(2)), 2, 6)])
    bench.desk.on_reports([StepExited(attempt_name(key(1)), exited())])

    await eventually(lambda: any(isinstance(message, messages.Started) for message in bench.link.sent))

    assert [message for message in bench.link.sent if isinstance(message, messages.Started)] == [
        messages.Started(key(2), 6)
    ]


async def test_runner_that_is_about_to_end_is_asked_again(bench: Bench) -> None:
    """A start that it refused for that alone is repeated."""
    bench.offer(key(), run="true")
    name = attempt_name(key())

    bench.desk.on_reports([RequestRefused(name, "start: the runner is stopping")])

    await eventually(lambda: bench.runner.started == [name, name])
    assert bench.link.results() == []


async def test_name_that_was_used_before_is_lost(bench: Bench) -> None:
    """Something may have run under it, so it is neither started again nor called refused."""
    bench.offer(key(), run="true")

    bench.desk.on_reports([RequestRefused(attempt_name(key()), "start: this name was used before")])

    assert [result.outcome for result in bench.link.results()] == [Outcome.LOST]


async def test_runner_that_came_back_without_a_start_is_asked_by_its_client(bench: Bench) -> None:
    """What was asked for and not answered yet is left alone; what ran and is unknown now is lost."""
    bench.offer(key(1), run="true")
    bench.offer(key(2), run="true")
    bench.desk.on_reports([StepStarted(attempt_name(key(2)), 1, 5)])

    bench.desk.on_reports([HeldSteps(())])

    assert [(result.key, result.outcome) for result in bench.link.results()] == [(key(2), Outcome.LOST)]


async def test_attempts_of_nobody_are_ended(bench: Bench) -> None:
    """What runs without a journal entry is stopped, what has ended is forgotten."""
    running = HeldStep(name="a", state="running", pid=1, at=1, output_bytes=0, result=None)
    ended = HeldStep(name="b", state="ended", pid=None, at=1, output_bytes=0, result=exited())

    bench.desk.on_reports([HeldSteps((running, ended))])
    bench.desk.on_reports([StepExited("a", exited("cancelled", None))])

    assert bench.runner.cancelled == ["a"]
    assert bench.runner.forgotten == ["b", "a"]


async def test_second_end_of_an_attempt_changes_nothing(bench: Bench) -> None:
    """A report that comes twice is normal."""
    bench.offer(key(), run="true")
    bench.desk.on_reports([StepExited(attempt_name(key()), exited())])
    bench.desk.on_reports([StepExited(attempt_name(key()), exited(exit_code=1))])

    assert [result.exit_code for result in bench.link.results()] == [0]


async def test_files_of_a_step_are_kept_until_the_journal_has_its_result(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the next process of the agent would need is not given to another step before."""
    bench.offer(key(1), run="true")
    output = tmp_path / "steps" / "1" / "output"
    output.write_text("a=1\n")
    with monkeypatch.context() as full:
        full.setattr(bench.journal, "append", no_space)
        full.setattr(bench.journal, "begin", no_space)
        bench.desk.on_reports([StepExited(attempt_name(key(1)), exited())])

    assert bench.link.results()[0].outputs == {"a": "1"}
    assert output.read_text() == "a=1\n"

    bench.offer(key(2), run="true")
    assert output.read_text() == "a=1\n"


async def test_directory_of_a_finished_step_belongs_to_the_next(bench: Bench, tmp_path: Path) -> None:
    """Also for the next process of the agent, when the daemon has not taken the first one's result yet."""
    bench.offer(key(1), run="true")
    bench.desk.on_reports([StepExited(attempt_name(key(1)), exited())])
    bench.offer(key(2), run="true")
    bench.journal.close()

    later = Bench(tmp_path)
    later.restore()
    (tmp_path / "steps" / "1" / "output").write_text("second=yes\n")
    attempts = tuple(
        HeldStep(name=attempt_name(key(number)), state="ended", pid=None, at=1, output_bytes=0, result=exited())
        for number in (1, 2)
    )
    later.desk.received(Received(acknowledged=[bench.link.results()[0]]))
    later.desk.on_reports([HeldSteps(attempts)])
    later.desk.opened(messages.Welcome("s", 1, 1, "a", [], 6_000, []))

    assert {result.key: result.outputs for result in later.link.results()} == {key(2): {"second": "yes"}}
    await later.desk.close()
    later.journal.close()
    bench.journal = Journal(tmp_path / "journal")


async def test_printed_line_over_the_cap_is_cut(bench: Bench) -> None:
    """Also a node inside the agent keeps to the attempt's bound, and counts what it left out."""
    bench.offer(key(), message="x" * 5_000)

    (result,) = bench.link.results()
    bench.desk.fill(0)
    sent = b"".join(
        chunk.data for message in bench.link.sent if isinstance(message, messages.Output) for chunk in message.chunks
    )
    assert result.output_dropped == 4_001
    assert result.output_bytes == len(sent)
    assert b"4001 bytes of output are left out" in sent


def spool(bench: Bench, printed: bytes) -> StepResult:
    """What the only started step has printed, and its end."""
    directory = bench.runner.root / bench.runner.started[-1]
    directory.mkdir(parents=True)
    writer = SpoolWriter(str(directory / "output"), 1_000)
    writer.append(1, memoryview(printed), 1)
    writer.close(1)
    return dataclasses.replace(exited(), output_bytes=len(printed))


def printed(bench: Bench) -> bytes:
    """All that was sent of output."""
    bench.desk.fill(0)
    outputs = [message for message in bench.link.sent if isinstance(message, messages.Output)]
    return b"".join(chunk.data for output in outputs for chunk in output.chunks)


async def test_what_a_step_says_is_masked_and_measured_as_masked(bench: Bench) -> None:
    """Output, outputs, environment and reasons; the journal has never held a value."""
    bench.offer(key(1), secrets=("s3cret",), run="true")
    bench.offer(key(2), secrets=("s3cret",), message="say s3cret")
    bench.offer(key(3), secrets=("s3cret",), outputs={"a": ["<s3cret>"]})
    files = next(iter((bench.runner.root.parent / "steps").iterdir()))
    (files / "output").write_text("b=(s3cret)\n")
    (files / "env").write_text("C=[s3cret]\n")

    bench.desk.on_reports([StepExited(bench.runner.started[0], spool(bench, b"printed s3cret\n"))])

    results = {result.key: result for result in bench.link.results()}
    assert results[key(3)].outputs == {"a": ["<***>"]}
    assert (results[key(1)].outputs, results[key(1)].env) == ({"b": "(***)"}, {"C": "[***]"})
    assert results[key(1)].output_bytes == len(b"printed ***\n")
    assert results[key(2)].output_bytes == len(b"say ***\n")
    assert sorted(printed(bench).splitlines()) == [b"printed ***", b"say ***"]
    assert b"s3cret" not in b"".join(path.read_bytes() for path in (bench.runner.root.parent / "journal").iterdir())


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_later_agent_masks_what_an_earlier_one_started(tmp_path: Path, is_known: bool) -> None:
    """With the values in memory; without them it withholds what it cannot mask, and a success without outputs is none."""
    memory = tmp_path / "memory"
    first = Bench(tmp_path, SecretStore(memory))
    first.restore()
    first.desk.on_reports([HeldSteps(())])
    first.offer(key(), secrets=("s3cret",), run="true")
    (next(iter((tmp_path / "steps").iterdir())) / "output").write_text("a=s3cret\n")
    result = spool(first, b"printed s3cret\n")
    await first.desk.close()
    first.journal.close()
    assert b"s3cret" not in b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir())
    if not is_known:
        shutil.rmtree(memory)

    second = Bench(tmp_path, SecretStore(memory))
    second.restore()
    held = HeldStep(
        name=first.runner.started[0], state="ended", pid=None, at=None, output_bytes=result.output_bytes, result=result
    )
    second.desk.on_reports([HeldSteps((held,))])

    (end,) = second.link.results()
    if is_known:
        assert (end.outcome, end.outputs) == (Outcome.SUCCESS, {"a": "***"})
        assert printed(second) == b"printed ***\n"
    else:
        assert (end.outcome, end.outputs) == (Outcome.FAILURE, {})
        assert printed(second).startswith(b"waterflow: the secrets of this attempt are not known here any more")
    assert end.output_bytes == len(printed(second))
    second.desk.received(Received(acknowledged=[end], loose=[messages.OutputAck(key(), end.output_bytes)]))
    assert not memory.exists()
    await second.desk.close()
    second.journal.close()


# The files of a job ------------------------------------------------------------------------------------------------------

TREE = messages.Tree("ops", "1", [])
FILE = b"content"


def waiting(tmp_path: Path) -> Bench:
    """A desk with an attempt that has asked for its job's files."""
    bench = Bench(tmp_path)
    bench.restore()
    bench.desk.on_reports([HeldSteps(())])
    bench.offer(key(), run="true", tree=TREE)
    return bench


async def answer(bench: Bench, content: messages.FileResponse | None = None) -> None:
    """Answers the newest question for files."""
    await eventually(lambda: bench.wanted())
    wanted = bench.wanted().pop()
    if content is None:
        entries = [FileEntry(b"file", FileKind.FILE, blob_id(FILE))]
        data = FILE if wanted.blobs else encode(entries)
        content = messages.FileResponse(wanted.key, wanted.number, [messages.FileChunk(len(data), data)])
    bench.link.sent.clear()
    bench.desk.received(Received(loose=[msgspec.structs.replace(content, number=wanted.number)]))


async def ended(bench: Bench) -> None:
    await bench.desk.close()
    bench.journal.close()


async def test_a_step_begins_when_its_job_has_its_files(tmp_path: Path) -> None:
    """Not before; the next step of the job begins at once."""
    bench = waiting(tmp_path)
    await answer(bench)
    assert bench.runner.started == []
    await answer(bench)
    await eventually(lambda: bench.runner.started == [attempt_name(key())])
    assert (tmp_path / "work/run/job/file").read_bytes() == FILE
    bench.offer(key(2), run="true", tree=TREE)
    assert bench.runner.started == [attempt_name(key()), attempt_name(key(2))]
    await ended(bench)


async def test_a_step_that_is_cancelled_while_it_waits_for_files_never_begins(tmp_path: Path) -> None:
    """Its end is told at once, and the files that come later are nobody's."""
    bench = waiting(tmp_path)
    await answer(bench)
    await eventually(lambda: bench.wanted())
    wanted = bench.wanted()[-1]
    bench.desk.received(Received(numbered=[(2, messages.Cancel(key(), False, "enough"))]))
    (end,) = bench.link.results()
    assert end.outcome is Outcome.CANCELLED
    bench.desk.received(
        Received(loose=[messages.FileResponse(wanted.key, wanted.number, [messages.FileChunk(len(FILE), FILE)])])
    )
    await asyncio.sleep(0.05)
    assert bench.runner.started == []
    assert not (tmp_path / "work/run/job").exists()
    await ended(bench)


async def test_a_runner_that_came_back_does_not_end_what_waits_for_files(tmp_path: Path) -> None:
    """The runner knows nothing of it yet, and need not."""
    bench = waiting(tmp_path)
    bench.desk.on_reports([HeldSteps(())])
    assert bench.link.results() == []
    await answer(bench)
    await answer(bench)
    await eventually(lambda: bench.runner.started)
    await ended(bench)


async def test_files_that_are_not_to_be_had_fail_the_step_with_the_server_s_words(tmp_path: Path) -> None:
    """Nothing of it ran."""
    bench = waiting(tmp_path)
    await answer(bench, messages.FileResponse(key(), 0, [], "WF520", "out: a link to /etc, out of the repository"))
    await eventually(bench.link.results)
    (end,) = bench.link.results()
    assert (end.outcome, end.reason_code) == (Outcome.FAILURE, "node-error")
    assert end.reason_text == "out: a link to /etc, out of the repository"
    assert bench.runner.started == []
    await ended(bench)


async def test_an_agent_that_ends_while_files_are_on_the_way_says_that_nothing_ran(tmp_path: Path) -> None:
    """Its next process refuses the attempt, so that it is offered again, and finds no half directory."""
    bench = waiting(tmp_path)
    await answer(bench)
    await ended(bench)
    again = Bench(tmp_path)
    again.restore()
    again.desk.on_reports([HeldSteps(())])
    assert [entry.result.outcome for entry in again.ledger if entry.result is not None] == [Outcome.REFUSED]
    assert not (tmp_path / "work/run/job").exists()
    assert not list((tmp_path / "trees/made").iterdir())
    await ended(again)
