"""Steps: their rate, and the time from one to the next, with the daemon, the link and real agents."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import httpx

from bench import bare_loop
from bench.figures import Latencies, Row
from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

STEPS = 200
RUNS_AT_ONCE = 100


def no_op(steps: int, until_at: int | None = None) -> str:
    """A workflow with one job of no-op steps. With `until_at` (ms), they start at that time."""
    lines = "\n".join("      - {uses: log, with: {message: x}}" for _ in range(steps))
    if until_at is not None:
        lines = f"      - {{uses: sleep, with: {{until: {until_at}}}}}\n{lines}"
    return f"name: no-op\njobs:\n  one:\n    runs-on: web\n    steps:\n{lines}\n"


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


def _elapsed(run: dict[str, str]) -> float:
    return (_ms(run["completed_at"]) - _ms(run["created_at"])) / 1000


def completed(cluster: Cluster, run: str) -> dict[str, str]:
    """Waits until the run is completed and returns its row. Polls rarely, to put little load on the daemon."""
    while True:
        rows = cluster.api("GET", "/v1/runs?limit=1").json()["runs"]
        if rows[0]["id"] == run and rows[0]["status"] == "completed":
            found: dict[str, str] = rows[0]
            return found
        time.sleep(0.2)


def _log_time(cluster: Cluster) -> int:
    """The current time of the log's clock in ms, taken from the creation of a new run."""
    return _ms(cluster.run(cluster.start(no_op(1)))["created_at"])


def one_run(folder: Path, seconds: float) -> list[Row]:
    """Measures single runs of sequential no-op steps on one agent, one run after the other."""
    bare = bare_loop.measure(1, seconds)
    cluster = Cluster(folder)
    instants = folder / "instants"
    os.environ["BENCH_INSTANTS"] = str(instants)
    try:
        cluster.agent_module = "bench.probe_agent"
        cluster.start_daemon()
        cluster.add_agent("web-1", "web", slots=4)
        workflow, total, count = no_op(STEPS), 0.0, 0
        for number in range(7):
            run = completed(cluster, cluster.start(workflow))
            assert run["conclusion"] == "success", run["reason"]
            if number:
                # The first run only warms up the processes.
                total += _elapsed(run)
                count += STEPS
        cluster.stop_agent("web-1")
    finally:
        cluster.close()
    latencies = latencies_of(instants)
    rate = count / total
    share = rate / bare.per_second
    p50, p99, bare_p99 = latencies.median_ms, latencies.quantile_ms(0.99), bare.quantile_ms(0.99)
    return [
        Row(
            "no-op steps a second, 1 run, 1 agent",
            f"{rate:,.0f} ({share:.2f} of bare)",
            "0.5 of bare",
            share >= 0.5,
            f"bare loop {bare.per_second:,.0f}",
        ),
        Row("step to step, 1 run, p50", f"{p50:.2f} ms", "1.8 ms", p50 <= 1.8, f"bare {bare.median_ms:.2f} ms"),
        Row(
            "step to step, 1 run, p99",
            f"{p99:.2f} ms",
            f"5 x bare = {5 * bare_p99:.1f} ms",
            p99 <= 5 * bare_p99,
            f"bare {bare_p99:.2f} ms",
        ),
    ]


def latencies_of(instants: Path) -> Latencies:
    """Times from one step to the next, without the first run, which only warms up the processes."""
    times = [int(line) for line in instants.read_text().split()]
    latencies = Latencies()
    for begin in range(STEPS, len(times), STEPS):
        for before, after in itertools.pairwise(times[begin : begin + STEPS]):
            latencies.add((after - before) / 1e9)
    return latencies


def _load(cluster: Cluster, stop: threading.Event) -> None:
    """Sends 50 requests and 5 validations per second, evenly spaced."""
    source = (Path(__file__).parents[1] / "examples" / "deploy.yml").read_bytes()
    with httpx.Client(base_url=f"http://127.0.0.1:{cluster.api_port}", timeout=10) as client:
        for number in itertools.count():
            if stop.wait(0.02):
                return
            client.get("/v1/runs?limit=20")
            if number % 10 == 0:
                client.post("/v1/validate", content=source, headers={"content-type": "application/yaml"})


def busy_api(folder: Path) -> list[Row]:
    """Compares the time between steps under 50 API requests and 5 validations per second with that without load."""
    cluster = Cluster(folder)
    os.environ["BENCH_INSTANTS"] = str(folder / "instants")
    p99: list[float] = []
    try:
        cluster.agent_module = "bench.probe_agent"
        cluster.start_daemon()
        cluster.add_agent("web-1", "web")
        for is_busy in (False, True):
            stop = threading.Event()
            load = threading.Thread(target=_load, args=(cluster, stop))
            if is_busy:
                load.start()
            for _ in range(6):
                completed(cluster, cluster.start(no_op(STEPS)))
            stop.set()
            if is_busy:
                load.join()
            cluster.stop_agent("web-1")
            p99.append(latencies_of(folder / "instants").quantile_ms(0.99))
            if not is_busy:
                cluster.start_agent("web-1")
    finally:
        cluster.close()
    at_rest, busy = p99
    goal = f"2 x at rest = {2 * at_rest:.1f} ms"
    return [
        Row(
            "step to step, 1 run, p99, busy API",
            f"{busy:.2f} ms",
            goal,
            busy <= 2 * at_rest,
            f"at rest {at_rest:.2f} ms",
        )
    ]


def many_runs(folder: Path, seconds: float) -> list[Row]:
    """Measures a hundred concurrent runs of sequential no-op steps on two agents."""
    bare = bare_loop.measure(RUNS_AT_ONCE, seconds)
    cluster = Cluster(folder)
    try:
        cluster.start_daemon()
        for name in ("web-1", "web-2"):
            cluster.add_agent(name, "web", slots=RUNS_AT_ONCE)
        cluster.wait_for(cluster.start(no_op(STEPS)))
        began_at = _log_time(cluster) + 4_000
        workflow = no_op(STEPS, began_at)
        with ThreadPoolExecutor(2) as threads:
            runs = list(threads.map(lambda _: cluster.start(workflow), range(RUNS_AT_ONCE)))
        assert _log_time(cluster) < began_at, "the runs were not started in time"
        time.sleep(5)
        found = [cluster.wait_for(run, 120) for run in runs]
    finally:
        cluster.close()
    assert all(run["conclusion"] == "success" for run in found)
    ended_at = max(_ms(run["completed_at"]) for run in found)
    rate = RUNS_AT_ONCE * STEPS / (ended_at - began_at) * 1000
    share = rate / bare.per_second
    return [
        Row(
            "no-op steps a second, 100 runs, 2 agents",
            f"{rate:,.0f} ({share:.2f} of bare)",
            "0.2 of bare",
            share >= 0.2,
            f"bare loop {bare.per_second:,.0f}",
        )
    ]


def _spawn_limit(seconds: float) -> float:
    """The machine's limit: `sh -c true` with pipes, 16 at a time, with threads and Popen."""

    def one(_: int) -> None:
        subprocess.run(["sh", "-c", "true"], stdin=subprocess.DEVNULL, capture_output=True, check=True)

    began, count = time.perf_counter(), 0
    with ThreadPoolExecutor(16) as threads:
        while time.perf_counter() - began < seconds:
            list(threads.map(one, range(64)))
            count += 64
    return count / (time.perf_counter() - began)


def processes(folder: Path, seconds: float) -> list[Row]:
    """Measures steps that are real processes, 16 at a time on one agent."""
    limit = _spawn_limit(seconds)
    rows = []
    for shell in ("bash", "sh"):
        steps = "\n".join(f"      - {{run: 'true', shell: {shell}}}" for _ in range(60))
        jobs = "\n".join(f"  j{number}:\n    runs-on: web\n    steps:\n{steps}" for number in range(16))
        location = folder / shell
        location.mkdir()
        cluster = Cluster(location)
        try:
            cluster.start_daemon()
            cluster.add_agent("web-1", "web", slots=16)
            run = completed(cluster, cluster.start(f"name: processes\njobs:\n{jobs}\n"))
            assert run["conclusion"] == "success", run["reason"]
        finally:
            cluster.close()
        rate = 16 * 60 / _elapsed(run)
        share = rate / limit
        note = f"`sh -c true` with pipes {limit:,.0f}" + ("; bash is the default shell" if shell == "bash" else "")
        rows.append(
            Row(
                f"`run: true` with {shell}, 16 at once, a second",
                f"{rate:,.0f} ({share:.2f} of spawning)",
                "0.5",
                share >= 0.5,
                note,
            )
        )
    return rows


def push(folder: Path, pushes: int) -> list[Row]:
    """Time from the end of `git push` to the start of the first step's process."""
    cluster = Cluster(folder)
    latencies = Latencies()
    try:
        clone = cluster.make_repository()
        cluster.start_daemon()
        cluster.add_agent("web-1", "web")
        marker = folder / "started"
        for number in range(pushes + 2):
            marker.unlink(missing_ok=True)
            script = f"date +%s%N > {marker}.new; mv {marker}.new {marker} # {number}"
            text = f"jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: {script}\n"
            cluster.push(clone, {"workflows/push.yml": text}, f"push {number}")
            pushed = time.time_ns()
            wait_until(marker.exists, "the step")
            if number > 1:
                latencies.add((int(marker.read_text()) - pushed) / 1e9)
    finally:
        cluster.close()
    p50 = latencies.median_ms
    worst = latencies.quantile_ms(1)
    return [Row("end of `git push` to first step, p50", f"{p50:.0f} ms", "150 ms", p50 <= 150, f"worst {worst:.0f} ms")]


def command_line() -> list[Row]:
    """Wall-clock time of `waterflowctl --help`."""
    latencies = Latencies()
    for _ in range(10):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "waterflowd.ctl", "--help"], capture_output=True, check=True)
        latencies.add(time.perf_counter() - began)
    p50 = latencies.median_ms
    return [Row("`waterflowctl --help`", f"{p50:.0f} ms", "150 ms", p50 <= 150)]
