"""What a step of a job leaves behind: it runs until the job ends, whatever happens to the agent, and no longer."""

from __future__ import annotations

import os
import signal

import pytest

from tests.integration.agent.test_runner import Bench, bench, eventually, is_alive, marked
from waterflow_agent.clock import Clock
from waterflow_agent.runner import reports
from waterflow_agent.runner.spool import STDOUT

__all__ = ["bench"]

JOB = "/jobs/run/job"
#: Waits until the process with this number has become the program that it starts.
BECOMES_SLEEP = 'until [ "$(cat /proc/{}/comm)" = sleep ]; do sleep 0.01; done'
#: Each starts a process that continues, and prints its number.
DETACHED = [
    *(
        f"{start} & echo $!; {BECOMES_SLEEP.format('$!')}"
        for start in ("sleep 300 >/dev/null 2>&1", "sleep 300", "nohup sleep 300 >/dev/null 2>&1")
    ),
    "setsid --fork bash -c 'echo $$; echo $$ > pid; exec sleep 300 >/dev/null 2>&1 </dev/null'; "
    f"until [ -s pid ]; do sleep 0.01; done; {BECOMES_SLEEP.format('$(cat pid)')}",
]


async def left(bench: Bench, name: str, script: str, **fields: object) -> tuple[reports.StepResult, int]:
    """Runs a step that leaves one process behind. Returns its result and the number of that process."""
    result = await bench.run(name, script, **({"job": JOB} | fields))
    return result, int(bench.output(name, STDOUT).split()[0])


async def ended(bench: Bench, job: str = JOB) -> reports.JobEnded:
    report = await bench.until(lambda report: isinstance(report, reports.JobEnded) and report.job == job)
    assert isinstance(report, reports.JobEnded)
    return report


@pytest.mark.parametrize("script", DETACHED)
async def test_a_process_runs_until_its_job_ends(bench: Bench, script: str) -> None:
    """The step is reported at its end and names the process; further steps do not end it; the end of the job does."""
    result, pid = await left(bench, "a", script)

    assert (result.reason, result.exit_code) == ("exited", 0)
    assert [(one.pid, one.name) for one in result.left] == [(pid, "sleep")]
    assert result.left_count == 1
    assert result.left[0].age_ms >= 0
    await bench.run("b", "exit 0", job=JOB)
    await bench.run("c", "exit 0")
    bench.client.end_job("/jobs/run/other")
    assert (await ended(bench, "/jobs/run/other")).processes == ()
    assert is_alive(pid)

    bench.client.end_job(JOB)

    assert [(one.pid, one.name) for one in (await ended(bench)).processes] == [(pid, "sleep")]
    assert not is_alive(pid)


async def test_a_step_that_fails_leaves_its_processes_too(bench: Bench) -> None:
    """The later steps of the job may look at what is running."""
    result, pid = await left(bench, "a", f"{DETACHED[0]}; exit 3")

    assert (result.exit_code, result.left_count) == (3, 1)
    assert is_alive(pid)
    bench.client.end_job(JOB)
    await ended(bench)
    assert not is_alive(pid)


async def test_a_deaf_process_is_killed_after_the_grace_period(bench: Bench) -> None:
    """It gets the stop signal first, also when it is stopped itself."""
    deaf = 'trap "echo stopped >> said" TERM; echo $$; exec >/dev/null 2>&1; touch ready; while :; do sleep 0.1; done'
    script = f"bash -c '{deaf}' & until [ -e ready ]; do sleep 0.01; done"
    _, pid = await left(bench, "a", script, grace_ms=2_000)

    bench.client.end_job(JOB)
    await ended(bench)

    assert not is_alive(pid)
    assert (bench.data_dir / "said").read_text() == "stopped\n"


async def test_what_a_process_prints_after_its_step_is_dropped_and_does_not_stop_it(bench: Bench) -> None:
    """More than its pipe holds; the output of the step stays as it was reported."""
    flood = (
        "(echo $BASHPID; touch began; while [ ! -e go ]; do sleep 0.01; done; head -c 1000000 /dev/zero; "
        "echo done > told; sleep 300) & until [ -e began ]; do sleep 0.01; done"
    )
    result, pid = await left(bench, "a", flood)
    before = bench.output("a", STDOUT)

    (bench.data_dir / "go").touch()
    await eventually(lambda: (bench.data_dir / "told").exists())

    assert bench.output("a", STDOUT) == before
    assert result.output_bytes == len(before)
    assert is_alive(pid)
    bench.client.end_job(JOB)
    await ended(bench)
    assert not is_alive(pid)


async def test_a_cancelled_step_leaves_nothing(bench: Bench) -> None:
    """The same holds for a timeout and for every other end that is not its own."""
    bench.start("a", "sleep 300 & echo $!; wait", job=JOB)
    await bench.printed("a", b"\n")
    pid = int(bench.output("a", STDOUT))
    bench.client.cancel("a")

    result = await bench.result("a")

    assert (result.reason, result.left_count) == ("cancelled", 0)
    assert not is_alive(pid)


async def test_a_new_agent_learns_of_the_jobs_and_can_end_them(bench: Bench) -> None:
    """The processes go on without an agent."""
    _, pid = await left(bench, "a", DETACHED[0])
    bench.client.forget("a")
    await bench.client.close()
    bench.client, bench.seen = bench.new_client(), []

    await bench.client.connect()
    held = await bench.until(lambda report: isinstance(report, reports.HeldSteps))

    assert isinstance(held, reports.HeldSteps)
    assert held.jobs == (JOB,)
    assert is_alive(pid)
    bench.client.end_job(JOB)
    await ended(bench)
    assert not is_alive(pid)


async def test_a_job_whose_processes_have_ended_by_themselves_is_forgotten(bench: Bench) -> None:
    """Nothing is named at its end, and a new agent does not hear of it."""
    _, pid = await left(bench, "a", "sleep 0.5 >/dev/null 2>&1 & echo $!")
    await eventually(lambda: not is_alive(pid))
    bench.client.end_job(JOB)

    assert (await ended(bench)).processes == ()


async def test_a_killed_runner_leaves_no_process_of_a_job(bench: Bench) -> None:
    """Nothing would end them with their job, so the next runner does, also when their step is forgotten."""
    _, pid = await left(bench, "a", DETACHED[3])
    bench.client.forget("a")
    await bench.run("b", "exit 0")
    bench.seen.clear()

    os.kill(bench.runner_pid(), signal.SIGKILL)
    held = await bench.until(lambda report: isinstance(report, reports.HeldSteps))

    assert isinstance(held, reports.HeldSteps)
    assert held.jobs == ()
    assert not is_alive(pid)


async def test_a_stopped_runner_ends_what_steps_have_left(bench: Bench) -> None:
    """It does not exit before they are gone."""
    _, pid = await left(bench, "a", DETACHED[0])
    runner = bench.runner_pid()

    os.kill(runner, signal.SIGTERM)
    await eventually(lambda: not is_alive(runner))

    assert not is_alive(pid)


async def test_an_agent_of_another_release_does_not_replace_a_runner_with_processes_of_jobs(bench: Bench) -> None:
    """The new runner could not end them."""
    _, pid = await left(bench, "a", DETACHED[0])

    bench.client.stop_runner()
    refused = await bench.until(lambda report: isinstance(report, reports.RequestRefused))

    assert isinstance(refused, reports.RequestRefused)
    assert refused.text.startswith("stop: ")
    assert is_alive(pid)
    bench.client.end_job(JOB)
    await ended(bench)


async def test_the_end_of_its_lease_ends_what_a_step_has_left(bench: Bench) -> None:
    """Something else may start elsewhere then."""
    bench.client.confirm(Clock().boot_ms())
    _, pid = await left(bench, "a", DETACHED[0], lease_ms=8_000)

    await eventually(lambda: not is_alive(pid))


async def test_too_many_processes_are_ended_with_their_step(bench: Bench) -> None:
    """The result says how many; what an earlier step has left is not affected."""
    _, pid = await left(bench, "a", DETACHED[0])

    result = await bench.run("b", "for n in {1..260}; do sleep 300 >/dev/null 2>&1 & done; echo $!", job=JOB)

    assert (result.exit_code, result.left_count, result.ended_count) == (0, 0, 260)
    assert marked(f"WATERFLOW_ATTEMPT_DIRECTORY={bench.client.directory('b')}".encode()) == []
    assert is_alive(pid)
    bench.client.end_job(JOB)
    await ended(bench)
    assert not is_alive(pid)


async def test_the_jobs_of_two_runs_are_apart(bench: Bench) -> None:
    """Each ends with its own."""
    _, first = await left(bench, "a", DETACHED[0])
    _, second = await left(bench, "b", DETACHED[0], job="/jobs/other/job")

    bench.client.end_job(JOB)
    await ended(bench)

    assert not is_alive(first)
    assert is_alive(second)


async def test_both_outputs_of_a_joined_step_are_in_order(bench: Bench) -> None:
    """A script writes to both in turns, without a pause."""
    script = "for n in $(seq 2000); do if (( n % 3 )); then echo $n; else echo $n >&2; fi; done"
    await bench.run("a", script, joins_output=True)

    lines = bench.output("a", STDOUT).decode().split()
    assert lines == [str(number) for number in range(1, 2001)]
