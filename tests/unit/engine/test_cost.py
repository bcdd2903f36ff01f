"""The cost of an event does not grow with its run. The cost is the number of executed lines of the engine, not time."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator

import pytest

from tests.executed_lines import ExecutedLines
from waterflowd import engine
from waterflowd.engine import Run, commands, inputs, step
from waterflowd.engine.state.runs import Job
from waterflowd.model.ids import AgentId, JobId, RunId, StepId
from waterflowd.model.plan import BlockPlan, JobPlan, MatrixPlan, Plan, StepPlan, StrategyPlan
from waterflowd.model.records import Trigger, TriggerKind
from waterflowd.model.statuses import Outcome

ENGINE = engine.__path__[0]
AT = 1_700_000_000_000
AGENT = AgentId("SHA256:one")


class Feeder:
    """A run whose attempts get slots at once and succeed in order."""

    def __init__(self, plan: Plan) -> None:
        self.run = Run(RunId("01J00000000000000000000000"), plan)
        self.open: deque[commands.SendTask] = deque()
        self.events = 0
        start = inputs.StartRun(
            plan_hash="0",
            number=1,
            trigger=Trigger(kind=TriggerKind.CLI),
            repository=None,
            revision=None,
            inputs={},
            vars={},
        )
        self.feed(start)

    def feed(self, first_input: inputs.Input) -> None:
        waiting: deque[inputs.Input] = deque([first_input])
        while waiting:
            progress = step(self.run, waiting.popleft(), AT)
            self.events += len(progress.events)
            for command in progress.commands:
                if isinstance(command, commands.RequestSlot):
                    waiting.append(placed(command))
                elif isinstance(command, commands.SendTask):
                    self.open.append(command)

    def finish_one(self) -> None:
        task = self.open.popleft()
        self.feed(
            inputs.TaskFinished(
                job=task.job,
                step=task.step,
                attempt=task.attempt,
                epoch=task.epoch,
                agent=task.agent,
                outcome=Outcome.SUCCESS,
                exit_code=0,
                outputs={},
                env={},
                started_at=AT,
                finished_at=AT,
            )
        )

    def costs(self, count: int) -> Iterator[int]:
        """Returns the number of lines for each of the next results, including everything that follows from it."""
        for _ in range(count):
            with ExecutedLines(ENGINE) as lines:
                self.finish_one()
            yield lines.count


def placed(command: commands.RequestSlot) -> inputs.SlotGranted:
    return inputs.SlotGranted(
        job=command.job,
        step=command.step,
        attempt=command.attempt,
        epoch=1,
        agent=AGENT,
        agent_name="one",
        boot_id="boot-1",
        facts={},
    )


def work(name: str = "work") -> StepPlan:
    return StepPlan(id=StepId(name), is_named=True, name=name, node="shell", params={"run": "true"})


def loop(passes: int, parallel: int, body: int = 1) -> StepPlan:
    steps = tuple(work(f"w{number}") for number in range(body))
    return StepPlan(
        id=StepId("loop"),
        name="loop",
        node="loop",
        params={"items": list(range(passes)), "max-parallel": parallel},
        blocks=(BlockPlan(name="steps", steps=steps),),
    )


def plan(*steps: StepPlan, instances: int = 0) -> Plan:
    strategy = StrategyPlan(matrix=MatrixPlan(dimensions={"x": list(range(instances))})) if instances else None
    job = JobPlan(id=JobId("a"), name="a", group="web", strategy=strategy, steps=steps)
    return Plan(name="w", path="workflows/w.yml", jobs=(job,))


SHAPES = {
    "passes one after the other": lambda size: plan(loop(size, 1)),
    "passes at the same time": lambda size: plan(loop(size, size)),
    "steps of a pass": lambda size: plan(loop(2, 2, size // 2)),
    "steps of a job": lambda size: plan(*(work(f"s{number}") for number in range(min(size, 2_000)))),
    "instances with loops": lambda size: plan(loop(max(6, size // 256), 1), instances=min(256, size // 2)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cost_of_an_event_does_not_depend_on_the_size_of_the_run(shape: str) -> None:
    """Halfway through runs of about 10, 1,000 and 10,000 steps of any shape, the number of lines is the same."""
    found: dict[int, float] = {}
    for size in (10, 1_000, 10_000):
        feeder = Feeder(SHAPES[shape](size))
        for _ in range(min(size // 3, 150)):
            feeder.finish_one()
        found[size] = statistics.median(feeder.costs(3))
    assert found[1_000] <= 1.2 * found[10] + 10, found
    assert found[10_000] <= 1.2 * found[10] + 10, found


def test_starting_a_wide_loop_costs_linear_time() -> None:
    """An event that starts many parts has a cost proportional to their number, not to its square."""
    lines: dict[int, int] = {}
    for size in (100, 1_000):
        feeder = Feeder(plan(work(), loop(size, size)))
        with ExecutedLines(ENGINE) as counted:
            feeder.finish_one()
        lines[size] = counted.count
        assert len(feeder.open) == size
    assert lines[1_000] <= 13 * lines[100]


def jobs_at_work(run: Run) -> list[Job]:
    return [job for job in run.jobs if job.blocks]


def test_ended_blocks_are_not_inspected_again() -> None:
    """Blocks that have ended are not inspected by later events."""
    feeder = Feeder(plan(loop(1_000, 4)))
    for _ in range(990):
        feeder.finish_one()
    (job,) = jobs_at_work(feeder.run)
    assert len(job.blocks) <= 5
    assert len(feeder.open) == 4
