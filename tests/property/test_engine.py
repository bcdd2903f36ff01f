"""The engine with random plans and events: recovery equals the live path, completed parts stay completed, every run ends."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from waterflowd.engine import commands, events, fold, outstanding
from waterflowd.engine.fold.evolve import evolve
from waterflowd.engine.rules import approvals
from waterflowd.engine.state.runs import Run
from waterflowd.model.statuses import FAILURES, AttemptStatus, Conclusion, Outcome, Status
from waterflowd.testing.scenario import RUN, Scenario, dump

_CONDITIONS = ["", "always()", "failure()", "cancelled()", "success() || failure()", "needs.j0.result == 'success'"]
_CONCURRENCY = ["deploy", "{group: deploy, queue: latest}", "{group: deploy, queue: reject}", "{group: d, limit: 2}"]
_RUNS_ON = ["web", "db", "nowhere", "{group: web, labels: {zone: a}}"]
_EACH = [
    "{group: web, target: each}",
    "{group: web, target: each, batch: [1, 50%], pause: 90s}",
    "{group: web, target: each, max-parallel: 1, max-failures: 0, offline: skip}",
    "{group: db, target: each, offline: wait, wait-minutes: 1}",
    "all-servers",
]
#: Another file of the repository, which jobs call.
_FILES = {
    "workflows/callee.yml": """
on: {workflow_call: {inputs: {n: {type: number}}, outputs: {o: {value: "${{ jobs.inner.outputs.o }}"}}}}
jobs:
  inner:
    runs-on: web
    outputs: {o: "${{ inputs.n }}"}
    steps: [{run: work}, {run: tidy, if: always()}]
  again:
    needs: inner
    strategy: {matrix: {x: [1, 2]}}
    runs-on: web
    steps: [{run: work}]
""",
    "workflows/other.yml": "jobs: {a: {runs-on: web, steps: [{run: work}]}}",
    "steps/own/step.yml": """
inputs: {n: {default: x}}
outputs: {o: {value: "${{ steps.s.outputs.o }}"}}
steps: [{id: s, run: "work ${{ inputs.n }}"}, {run: tidy, if: always()}]
""",
}


@st.composite
def workflows(draw: st.DrawFn) -> str:
    """Generates small workflows with every feature of the engine."""
    lines = ["jobs:"]
    if draw(st.booleans()):
        lines.insert(0, f"timeout-minutes: {draw(st.sampled_from([1, 30, 600]))}")
    if draw(st.integers(0, 4)) == 0:
        lines.insert(0, f"concurrency: {draw(st.sampled_from(_CONCURRENCY))}")
    for number in range(draw(st.integers(1, 4))):
        lines.append(f"  j{number}:")
        needs = draw(st.lists(st.integers(0, number - 1), unique=True, max_size=2)) if number else []
        if needs:
            lines.append(f"    needs: [{', '.join(f'j{need}' for need in needs)}]")
        condition = draw(st.sampled_from(_CONDITIONS[: 6 if 0 in needs else 5]))
        if condition:
            lines.append(f"    if: {condition}")
        if draw(st.integers(0, 4)) == 0:
            lines.append(f"    concurrency: {draw(st.sampled_from(_CONCURRENCY))}")
        kind = draw(st.sampled_from(["plain", "plain", "matrix", "each", "call"]))
        if kind == "matrix":
            lines.append(f"    strategy: {draw(st.sampled_from(_STRATEGIES))}")
        if kind == "call":
            lines += ["    uses: ./workflows/callee.yml", "    with: {n: 3}"]
            continue
        lines.append(f"    runs-on: {draw(st.sampled_from(_EACH if kind == 'each' else _RUNS_ON))}")
        if draw(st.booleans()):
            lines.append(f"    timeout-minutes: {draw(st.sampled_from([1, 10]))}")
        if draw(st.integers(0, 4)) == 0:
            lines.append("    continue-on-error: true")
        if draw(st.integers(0, 5)) == 0:
            lines.append("    environment: {name: prod, approvers: [alice]}")
        if draw(st.integers(0, 4)) == 0:
            lines.append("    retry: {max-attempts: 2, initial-interval: 30s}")
        lines.append("    steps:")
        for _ in range(draw(st.integers(1, 3))):
            lines += ["      " + line for line in draw(steps())]
    return "\n".join(lines) + "\n"


_STRATEGIES = ["{matrix: {x: [1, 2, 3]}, max-parallel: 2}", "{matrix: {x: [1, 2]}, fail-fast: false}"]


@st.composite
def steps(draw: st.DrawFn, depth: int = 0) -> list[str]:
    """Returns the lines of one step; control-flow steps have nested steps."""
    kinds = ["run", "run", "run", "log", "sleep", "approval", "composite", "workflow/run"]
    if depth < 2:
        kinds += ["loop", "while", "condition", "parallel"]
    kind = draw(st.sampled_from(kinds))
    lines = ["- run: work"] if kind == "run" else [f"- uses: {_NODES.get(kind, kind)}"]
    if kind == "run":
        if draw(st.booleans()):
            lines.append("  retry: {max-attempts: 2, initial-interval: 1s, on: [failure, lost]}")
        lines.append(f"  on-lost: {draw(st.sampled_from(['fail', 'retry', 'hold']))}")
    elif kind == "workflow/run":
        lines += draw(
            st.sampled_from([[], ["  retry: {max-attempts: 2, initial-interval: 1s}"], ["  timeout-minutes: 1"]])
        )
    if kind in _WITH:
        lines.append(f"  with: {draw(st.sampled_from(_WITH[kind]))}")
    elif kind not in ("run", "composite"):
        lines.append("  with:")
        lines += ["    " + line for line in draw(insides(kind, depth))]
    condition = draw(st.sampled_from(["", "", "always()", "failure()"]))
    if condition:
        lines.append(f"  if: {condition}")
    if kind != "sleep" and draw(st.integers(0, 4)) == 0:
        lines.append("  continue-on-error: true")
    if kind in ("loop", "condition", "parallel") and draw(st.integers(0, 4)) == 0:
        lines.append("  timeout-minutes: 1")
    return lines


_NODES = {"while": "loop", "composite": "./steps/own"}
_WITH = {
    "sleep": ["{duration: 90s}"],
    "log": ["{message: hello}"],
    "workflow/run": ["{workflow: other.yml}", "{workflow: other.yml}", "{workflow: other.yml, wait: false}"],
    "approval": ["{approvers: [alice, bob]}", "{minimum: 2, timeout: 1h}", "{timeout: 1m, default: approve}"],
}


@st.composite
def insides(draw: st.DrawFn, kind: str, depth: int) -> list[str]:
    """Returns the parameters of a step that has nested steps."""
    blocks = [
        [line for _ in range(draw(st.integers(1, 2))) for line in draw(steps(depth + 1))]
        for _ in range(2 if kind in ("condition", "parallel") else 1)
    ]
    if kind == "loop":
        items, parallel = draw(st.sampled_from(["[]", "[1]", "[a, b, c]"])), draw(st.integers(1, 2))
        head = [f"items: {items}", f"max-parallel: {parallel}", f"as: i{depth}", "steps:"]
        return [*head, *("  " + line for line in blocks[0])]
    if kind == "while":
        return ["while: loop.index < 2", "max-iterations: 3", "steps:", *("  " + line for line in blocks[0])]
    if kind == "condition":
        head = [f"if: {draw(st.sampled_from(['true', 'false']))}", "then:", *("  " + line for line in blocks[0])]
        return [*head, "else:", *("  " + line for line in blocks[1])]
    return ["branches:", *(("  - " if not at else "    ") + line for block in blocks for at, line in enumerate(block))]


def _open_attempts(run: Run) -> list[str]:
    return [
        f"{job.id}/{step.id}"
        for job in run.jobs
        for step in job.steps_by_id.values()
        if step.last is not None and step.last.is_open
    ]


def _child_runs(run: Run, *, is_started: bool) -> list[str]:
    """Returns the steps whose child run is requested or already started."""
    return [
        f"{job.id}/{step.id}"
        for job in run.jobs
        for step in job.active_steps()
        if step.is_child_run and step.last is not None and step.last.status is AttemptStatus.PENDING
        if (step.last.child_run is not None) is is_started
    ]


def _approvals(run: Run) -> list[str]:
    return [f"{job.id}/{step.id}" if step is not None else job.id for job, step, _ in approvals.pending(run)]


def _act(scenario: Scenario, draw: st.DataObject) -> str:
    """Performs one random action from outside."""
    parts = _open_attempts(scenario.run)
    kinds = ["wait", "connect", "disconnect"]
    if parts:
        kinds += ["finish", "finish", "finish", "started", "lost"]
    requested, started = _child_runs(scenario.run, is_started=False), _child_runs(scenario.run, is_started=True)
    kinds += ["begun", "begun", "refuse", "delay"] if requested else []
    kinds += ["ended", "ended"] if started else []
    waiting = _approvals(scenario.run)
    if waiting:
        kinds += ["approve", "reject"]
    if draw.draw(st.integers(0, 15)) == 0:
        kinds = ["cancel"]
    kind = draw.draw(st.sampled_from(kinds))
    match kind:
        case "wait":
            return f"wait {draw.draw(st.sampled_from(['1s', '2m', '1h', '2d']))}"
        case "connect":
            return draw.draw(st.sampled_from(["connect web-1 web slots=1 zone=a", "connect web-2 web,db slots=2"]))
        case "disconnect":
            return f"disconnect {draw.draw(st.sampled_from(['web-1', 'web-2']))}"
        case "approve" | "reject":
            who = draw.draw(st.sampled_from(["alice", "bob", "mallory"]))
            return f"{kind} {draw.draw(st.sampled_from(waiting))} {who}"
        case "cancel":
            return draw.draw(st.sampled_from(["cancel", "cancel force"]))
        case "begun":
            return (
                f"begun {draw.draw(st.sampled_from(requested))} 01J0000000000000000000000{draw.draw(st.integers(1, 9))}"
            )
        case "refuse" | "delay":
            return (
                f"{kind} {draw.draw(st.sampled_from(requested))} '{draw.draw(st.sampled_from(['cause', 'because']))}'"
            )
        case "ended":
            conclusion = draw.draw(st.sampled_from([conclusion.value for conclusion in Conclusion]))
            return f"ended {draw.draw(st.sampled_from(started))} {conclusion} out.x=1"
        case "finish":
            outcome = draw.draw(st.sampled_from([outcome.value for outcome in Outcome]))
            return f"finish {draw.draw(st.sampled_from(parts))} {outcome}"
        case _:
            return f"{kind} {draw.draw(st.sampled_from(parts))}"


def _drain(scenario: Scenario) -> None:
    """Lets the run end: servers are connected, agents report, and time passes, without manual intervention."""
    scenario.play("connect web-1 web slots=1 zone=a\nconnect web-2 web,db slots=2")
    for _ in range(600):
        parts = _open_attempts(scenario.run)
        if scenario.run.is_completed:
            return
        requested, started = _child_runs(scenario.run, is_started=False), _child_runs(scenario.run, is_started=True)
        if requested:
            scenario.play(f"begun {requested[0]} 01J00000000000000000000001")
        elif started:
            scenario.play(f"ended {started[0]} success")
        else:
            scenario.play(f"finish {parts[0]}" if parts else "wait 12h")
    raise AssertionError(f"the run does not end: {scenario.run.reason}")


@settings(max_examples=120, deadline=None)
@given(workflow=workflows(), draw=st.data(), count=st.integers(0, 25))
def test_recovery_equals_the_live_path_and_every_run_ends(workflow: str, draw: st.DataObject, count: int) -> None:
    """After each input, the fold of the log equals the live run and its outstanding commands (checked by the scenario)."""
    scenario = Scenario(workflow, _FILES)
    scenario.play("start")
    for _ in range(count):
        scenario.play(_act(scenario, draw))
    _drain(scenario)
    ends = [event for event in scenario.history if isinstance(event, events.RunCompleted)]
    assert len(ends) == 1
    for job in scenario.run.jobs:
        assert job.status is Status.COMPLETED
        for step in job.steps_by_id.values():
            assert step.status in (Status.COMPLETED, Status.QUEUED), "no part of an ended job continues"
    _check_counts(scenario.run)
    assert not list(outstanding(scenario.run))
    assert len(scenario.timers) == 0
    assert all(not server.taken for server in scenario.placement.servers.values())
    assert scenario.placement.waiting == 0


def _check_counts(run: Run) -> None:
    """What the row of an ended run counts is what counting its jobs finds."""
    leaves = [job for job in run.jobs if job.children is None or not job.children.jobs]
    failed = [job.id for job in leaves if job.conclusion in FAILURES]
    assert (run.leaves, run.leaves_completed, run.leaves_failed) == (len(leaves), len(leaves), len(failed))
    assert (run.first_failure is None) == (not failed)
    if run.first_failure is not None:
        assert any(run.first_failure.part == job or run.first_failure.part.startswith(f"{job}/") for job in failed)
    used = {attempt.agent_name for job in run.jobs for step in job.steps_by_id.values() for attempt in step.attempts}
    assert set(run.servers) == used - {""}
    assert set(run.groups) <= {"web", "db", "nowhere", "all-servers"}


@settings(max_examples=40, deadline=None)
@given(workflow=workflows(), draw=st.data(), count=st.integers(0, 15))
def test_every_prefix_of_a_log_folds_to_its_state(workflow: str, draw: st.DataObject, count: int) -> None:
    """Every prefix of a run's events is a valid state, whether it is folded at once or event by event."""
    scenario = Scenario(workflow, _FILES)
    scenario.play("start")
    for _ in range(count):
        scenario.play(_act(scenario, draw))
    live = Run(RUN, scenario.plan)
    for position, event in enumerate(scenario.history, 1):
        evolve(live, event)
        assert dump(fold(RUN, scenario.plan, scenario.history[:position])) == dump(live)


@settings(max_examples=60, deadline=None)
@given(workflow=workflows(), draw=st.data(), count=st.integers(1, 20))
def test_each_attempt_is_dispatched_once_and_never_two_of_a_step_at_a_time(
    workflow: str, draw: st.DataObject, count: int
) -> None:
    """G3: an attempt starts at most once, and two attempts of one step never overlap."""
    scenario = Scenario(workflow, _FILES)
    scenario.play("start")
    for _ in range(count):
        scenario.play(_act(scenario, draw))
    _drain(scenario)
    open_now: dict[tuple[str, str], int] = {}
    seen: set[tuple[str, str, int]] = set()
    for event in scenario.history:
        if isinstance(event, events.AttemptDispatched):
            assert (event.job, event.step) not in open_now
            assert (event.job, event.step, event.attempt) not in seen
            seen.add((event.job, event.step, event.attempt))
            open_now[(event.job, event.step)] = event.attempt
        elif isinstance(event, events.AttemptFinished):
            open_now.pop((event.job, event.step), None)
    assert not open_now


def test_commands_are_values() -> None:
    """Equal commands compare equal, so that outstanding commands can be compared."""
    first = commands.CancelSlotRequest(job="a", step="1", attempt=1)  # type: ignore[arg-type]
    assert first == commands.CancelSlotRequest(job="a", step="1", attempt=1)  # type: ignore[arg-type]
