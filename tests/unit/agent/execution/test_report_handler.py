"""Reports of the step runner: lazy starts, repeated exits, refusals, and its attempts after a restart."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.agent.core_harness import CoreBench, attempt, exited
from waterflow_agent.attempts import Outcome
from waterflow_agent.execution import report_handler
from waterflow_agent.execution.process_steps import attempt_name
from waterflow_agent.runner.reports import HeldStep, HeldSteps, RequestRefused, StepExited, StepStarted
from waterflow_agent.state.secret_store import SecretStore
from waterflow_agent.wire import messages
from waterflow_agent.wire.session import Received


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[CoreBench]:
    """A settled core without attempts."""
    bench = CoreBench(tmp_path)
    bench.settle()
    yield bench
    await bench.close()


async def test_a_start_is_reported_only_for_attempts_that_keep_running(bench: CoreBench) -> None:
    """An attempt that ends at once has a result and no `Started`."""
    bench.offer(attempt(1), run="true")
    bench.offer(attempt(2), run="sleep 60")
    bench.report(StepStarted(attempt_name(attempt(1)), 1, 5), StepStarted(attempt_name(attempt(2)), 2, 6))
    bench.report(StepExited(attempt_name(attempt(1)), exited()))

    bench.clock.advance(report_handler.STARTED_DELAY_MS)
    await bench.until(lambda: any(isinstance(message, messages.Started) for message in bench.link.sent))

    started = [message for message in bench.link.sent if isinstance(message, messages.Started)]
    assert started == [messages.Started(attempt(2), 6)]


async def test_a_start_is_repeated_after_a_runner_shutdown(bench: CoreBench) -> None:
    """The attempt has no result yet."""
    bench.offer(attempt(), run="true")
    name = attempt_name(attempt())

    bench.report(RequestRefused(name, "start: the runner is stopping"))

    await bench.until(lambda: bench.runner.started == [name, name])
    assert bench.link.results() == []


async def test_an_attempt_is_lost_when_its_name_was_used_before(bench: CoreBench) -> None:
    """Something may have run under that name, so it is neither started again nor reported as refused."""
    bench.offer(attempt(), run="true")

    bench.report(RequestRefused(attempt_name(attempt()), "start: this name was used before"))

    assert [result.outcome for result in bench.link.results()] == [Outcome.LOST]


async def test_only_started_attempts_are_lost_when_the_runner_restarts_empty(bench: CoreBench) -> None:
    """A requested start without an answer is repeated by the runner client."""
    bench.offer(attempt(1), run="true")
    bench.offer(attempt(2), run="true")
    bench.report(StepStarted(attempt_name(attempt(2)), 1, 5))

    bench.report(HeldSteps(()))

    assert [(result.key, result.outcome) for result in bench.link.results()] == [(attempt(2), Outcome.LOST)]


async def test_steps_missing_from_the_journal_are_stopped_and_forgotten(bench: CoreBench) -> None:
    """Running ones are stopped, and forgotten when they have exited."""
    running = HeldStep(name="a", state="running", pid=1, at=1, output_bytes=0, result=None)
    ended = HeldStep(name="b", state="ended", pid=None, at=1, output_bytes=0, result=exited())

    bench.report(HeldSteps((running, ended)))
    bench.report(StepExited("a", exited("cancelled", None)))

    assert bench.runner.cancelled == ["a"]
    assert bench.runner.forgotten == ["b", "a"]


async def test_a_repeated_exit_changes_nothing(bench: CoreBench) -> None:
    """The first result is final."""
    bench.offer(attempt(), run="true")
    bench.report(StepExited(attempt_name(attempt()), exited()))
    bench.report(StepExited(attempt_name(attempt()), exited(exit_code=1)))

    assert [result.exit_code for result in bench.link.results()] == [0]


@pytest.mark.parametrize("kept", [b"", b"kept\n"])
async def test_lost_output_is_marked_even_if_the_runner_could_not_mark_it(bench: CoreBench, kept: bytes) -> None:
    """On a full disk the spool ends too early, and a line in the log counts the missing bytes."""
    bench.offer(attempt(), run="true")
    result = bench.spool(kept)
    lost = dataclasses.replace(result, output_bytes=len(kept) + 70, output_dropped=70)

    bench.report(StepExited(attempt_name(attempt()), lost))
    await bench.until(bench.link.results)

    output = bench.output()
    assert output == kept + b"\n[waterflow: 70 bytes of output were dropped here]\n"
    assert [end.output_bytes for end in bench.link.results()] == [len(output)]


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_restarted_agent_masks_attempts_of_the_earlier_process(tmp_path: Path, is_known: bool) -> None:
    """It needs the secrets; without them it withholds the output, and a success without its outputs becomes a failure."""
    memory = tmp_path / "memory"
    first = CoreBench(tmp_path, SecretStore(memory))
    first.settle()
    first.offer(attempt(), secrets=("s3cret",), run="true")
    (next(iter((tmp_path / "steps").iterdir())) / "output").write_text("a=s3cret\n")
    result = first.spool(b"printed s3cret\n")
    await first.close()
    assert b"s3cret" not in first.journal_bytes()
    if not is_known:
        shutil.rmtree(memory)

    second = CoreBench(tmp_path, SecretStore(memory))
    second.core.restore()
    held = HeldStep(
        name=first.runner.started[0], state="ended", pid=None, at=None, output_bytes=result.output_bytes, result=result
    )
    second.report(HeldSteps((held,)))

    (end,) = second.link.results()
    output = second.output()
    if is_known:
        assert (end.outcome, end.outputs) == (Outcome.SUCCESS, {"a": "***"})
        assert output == b"printed ***\n"
    else:
        assert (end.outcome, end.outputs) == (Outcome.FAILURE, {})
        assert output.startswith(b"waterflow: the agent no longer knows the secrets of this attempt")
    assert end.output_bytes == len(output)
    second.receive(Received(acknowledged=[end], loose=[messages.OutputAck(attempt(), end.output_bytes)]))
    assert not memory.exists()
    await second.close()


async def test_later_steps_mask_what_an_earlier_step_of_the_job_has_masked(tmp_path: Path) -> None:
    """Also after a restart of the agent, until the daemon releases the job; neither journal nor messages contain the value."""
    memory = tmp_path / "memory"
    first = CoreBench(tmp_path, SecretStore(memory))
    first.settle()
    first.offer(attempt(1), run="true")
    (next(iter((tmp_path / "steps").iterdir())) / "output").write_text("token=hunter22\n")
    first.report(StepExited(first.runner.started[-1], first.spool(b"::add-mask::hunter22\nhunter22\n")))
    (end,) = first.link.results()
    sent = first.output()
    assert end.outputs == {"token": "***"}
    assert sent.startswith(b"::add-mask::***\n***\nwaterflow: these outputs and variables contain a masked value")
    assert b"in its place: token; a file in $RUNNER_TEMP" in sent
    assert end.output_bytes == len(sent)
    first.receive(Received(acknowledged=[end], loose=[messages.OutputAck(attempt(1), end.output_bytes)]))
    await first.close()
    assert b"hunter22" not in first.journal_bytes()

    second = CoreBench(tmp_path, SecretStore(memory))
    second.settle()
    second.offer(attempt(2), run="true")
    second.report(StepExited(second.runner.started[-1], second.spool(b"again hunter22\n")))
    assert second.output() == b"again ***\n"
    second.receive(Received(numbered=[(2, messages.Release("run", "job"))]))
    second.offer(attempt(3), run="true")
    second.report(StepExited(second.runner.started[-1], second.spool(b"hunter22\n")))
    assert second.output().endswith(b"hunter22\n")
    await second.close()


async def test_an_attempt_that_masks_a_value_sends_the_same_log_after_a_restart(tmp_path: Path) -> None:
    """Its log is read again from the spool, with the commands in it."""
    first = CoreBench(tmp_path, SecretStore(None))
    first.settle()
    first.offer(attempt(), run="true")
    first.report(StepExited(first.runner.started[-1], first.spool(b"::add-mask::hunter22\n::error::hunter22\n")))
    (end,) = first.link.results()
    await first.close()

    second = CoreBench(tmp_path, SecretStore(None))
    second.settle()

    sent = second.output()
    assert sent == b"::add-mask::***\n##[error]***\n"
    assert end.output_bytes == len(sent)
    await second.close()


async def test_marked_lines_are_listed_in_the_result(bench: CoreBench) -> None:
    """The first ten of each kind, masked also by what the step masks later; groups and plain lines are not listed."""
    bench.offer(attempt(), run="true")
    lines = b"##[error]plain\n::group::g\n::notice file=a::hunter22 " + b"x" * 400 + b"%0Anext\n"
    lines += b"".join(b"::error::%d\n" % number for number in range(12)) + b"::add-mask::hunter22\n"
    bench.report(StepExited(attempt_name(attempt()), bench.spool(lines)))

    (end,) = bench.link.results()
    notice, *errors = end.annotations
    assert notice.startswith("##[notice]a: *** xxx")
    assert len(notice) <= 300
    assert errors == [f"##[error]{number}" for number in range(10)]
