"""Restart and size: how soon a daemon with a long history is ready, and how much memory the processes use when idle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench.figures import Row
from tests.acceptance.cluster import Cluster
from tests.patience import wait_until
from waterflowd.app import bootstrap
from waterflowd.dsl import compile_workflow
from waterflowd.engine import Run, commands, inputs, step
from waterflowd.host.run_summary import summary
from waterflowd.model import ids, plan
from waterflowd.model.ids import AgentId
from waterflowd.model.records import Batch, StreamAppend, Trigger, TriggerKind
from waterflowd.model.statuses import Outcome
from waterflowd.store.opening import open_store

STEPS = 5
BOOT_ID = "boot"
_AGENT = AgentId("SHA256:" + "A" * 43)


def history(
    plan_hash: str, compiled: plan.Plan, number: int, at: int, *, is_open: bool, agent: AgentId = _AGENT
) -> tuple[Run, list[object]]:
    """A run and its events from the engine: with all steps done, or, if open, with the last one running on `agent`."""
    run = Run(ids.run_id(at, number), compiled)
    start = inputs.StartRun(
        plan_hash=plan_hash,
        number=number,
        trigger=Trigger(kind=TriggerKind.API, by="bench"),
        repository=None,
        revision=None,
        inputs={},
        vars={},
    )
    progress = step(run, start, at)
    happened: list[object] = list(progress.events)
    waiting = list(progress.commands)
    done = 0
    while waiting:
        command = waiting.pop(0)
        if isinstance(command, commands.RequestSlot):
            names: dict[str, Any] = {"job": command.job, "step": command.step, "attempt": command.attempt, "epoch": 1}
            next_input: inputs.Input = inputs.SlotGranted(
                **names, agent=agent, agent_name="bench", boot_id=BOOT_ID, facts={"hostname": "bench"}
            )
        elif isinstance(command, commands.SendTask):
            if is_open and done == STEPS - 1:
                break
            done += 1
            names = {"job": command.job, "step": command.step, "attempt": command.attempt, "epoch": 1}
            next_input = inputs.TaskFinished(
                **names, agent=agent, outcome=Outcome.SUCCESS, exit_code=0, started_at=at, finished_at=at
            )
        else:
            continue
        progress = step(run, next_input, at)
        happened += progress.events
        waiting += progress.commands
    return run, happened


def past() -> bytes:
    """The encoded plan of the generated runs."""
    lines = "\n".join("      - {uses: log, with: {message: x}}" for _ in range(STEPS))
    source = f"name: past\njobs:\n  one:\n    runs-on: web\n    steps:\n{lines}\n"
    content = compile_workflow("past.yml", source.encode()).plan
    assert content is not None
    return content


def fill(data_dir: Path, finished: int, opened: int) -> int:
    """Writes a log with that many finished and open runs. Returns the number of events of an open run."""
    content = past()
    compiled, plan_hash = plan.decode(content), plan.content_hash(content)
    at = time.time_ns() // 1_000_000 - 10_000_000
    events_of_open = 0
    import asyncio

    async def write() -> None:
        nonlocal events_of_open
        with open_store(data_dir, bootstrap.UNIONS) as store:
            batch = Batch(appends=[], plans={plan_hash: content}, summaries=[], keys={}, counters={})
            for number in range(finished + opened):
                run, happened = history(plan_hash, compiled, number + 1, at + number, is_open=number >= finished)
                events_of_open = len(happened)
                batch.appends.append(
                    StreamAppend(stream=ids.run_stream(run.id), expected=0, at=at + number, events=happened)
                )
                batch.summaries.append(summary(run))
                if len(batch.appends) == 500:
                    await store.log.append(batch)
                    batch = Batch(appends=[], plans={}, summaries=[], keys={}, counters={})
            if batch.appends:
                await store.log.append(batch)

    asyncio.run(write())
    return events_of_open


def anonymous_mb(pid: int) -> float:
    """RssAnon of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no RssAnon")


def ready(folder: Path, finished: int = 100_000, opened: int = 1_000) -> list[Row]:
    """Time from the start of the process until `/ready` succeeds, with a long history."""
    cluster = Cluster(folder)
    count = fill(folder / "daemon", finished, opened)
    try:
        began = time.perf_counter()
        cluster.start_daemon()
        took = time.perf_counter() - began
        memory = anonymous_mb(cluster.daemon_pid)
    finally:
        cluster.close()
    return [
        Row(
            f"ready with {finished:,} finished and {opened:,} open runs of {count} events",
            f"{took:.2f} s",
            "3 s",
            took <= 3,
            f"RssAnon then {memory:.0f} MB",
        )
    ]


def many_open(folder: Path) -> list[Row]:
    """Time from the start of the process until `/ready` succeeds, with 10,000 open runs."""
    return [
        Row(row.name, row.measured, "5 s", float(row.measured.split()[0]) <= 5, row.note)
        for row in ready(folder, finished=0, opened=10_000)
    ]


def output(folder: Path) -> list[Row]:
    """Growth of the daemon's memory while a step prints 1 GB without a newline."""
    cluster = Cluster(folder)
    try:
        cluster.start_daemon()
        cluster.add_agent("web-1", "web")
        cluster.wait_for(cluster.start("jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: echo warm\n"))
        before = most = anonymous_mb(cluster.daemon_pid)
        began = time.perf_counter()
        run = cluster.start(
            "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: head -c 1G /dev/zero | tr '\\0' a\n"
        )
        while cluster.run(run)["status"] != "completed":
            most = max(most, anonymous_mb(cluster.daemon_pid))
            time.sleep(0.1)
        took = time.perf_counter() - began
        step = cluster.run(run)["jobs"][0]["steps"][0]["attempts"][0]
    finally:
        cluster.close()
    kept = step["output_bytes"] / 2**20
    note = f"in {took:.1f} s; {kept:.0f} MiB kept, {step['output_dropped'] / 2**20:.0f} MiB counted as missing"
    return [
        Row("1 GB of output: daemon's RssAnon grows by", f"{most - before:.0f} MB", "64 MB", most - before <= 64, note)
    ]


def memory(folder: Path) -> list[Row]:
    """Anonymous memory of the idle daemon (with 10,000 finished runs), agent and runner."""
    cluster = Cluster(folder)
    fill(folder / "daemon", 10_000, 0)
    try:
        cluster.start_daemon()
        cluster.add_agent("web-1", "web")
        cluster.wait_for(cluster.start("jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: echo hello\n"))
        time.sleep(3)
        runner = wait_until(lambda: _runner_of(cluster.agent_dir("web-1")), "the runner")
        sizes = [anonymous_mb(pid) for pid in (cluster.daemon_pid, cluster.agent_process("web-1").pid, runner)]
    finally:
        cluster.close()
    goals = (100, 40, 12)
    return [
        Row(f"RssAnon of the {name} at rest", f"{size:.0f} MB", f"{goal} MB", size <= goal)
        for name, size, goal in zip(("daemon (10,000 finished runs)", "agent", "runner"), sizes, goals, strict=True)
    ]


def _runner_of(data_dir: Path) -> int | None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"waterflow_agent.runner" in arguments and str(data_dir).encode() in arguments:
                return int(entry.name)
    return None
