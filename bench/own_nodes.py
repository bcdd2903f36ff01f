"""Nodes in the agent alone: how soon an own node's new version is noticed, and the cost of a node without a process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench.figures import Latencies, Row
from waterflow_agent.checkout.file_requests import FileRequests
from waterflow_agent.checkout.service import CheckoutService
from waterflow_agent.checkout.tree_store import TreeStore
from waterflow_agent.clock import Clock
from waterflow_agent.core import Core
from waterflow_agent.execution.process_steps import ProcessSteps
from waterflow_agent.execution.runner_client import RunnerClient
from waterflow_agent.execution.step_directories import StepDirectories
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.keys import KeyPair
from waterflow_agent.nodes.own.catalog import NODES_MAX, NodeCatalog
from waterflow_agent.runner import reports
from waterflow_agent.session.dealer import SocketFactory
from waterflow_agent.session.link import Link
from waterflow_agent.session.server_keys import ServerKeys
from waterflow_agent.state.journal import Journal
from waterflow_agent.state.ledger import Ledger
from waterflow_agent.testing import task_id
from waterflow_agent.wire import messages
from waterflow_agent.wire.session import Received

ROUNDS = 200
STEPS = 2_000
#: A class in a file of typical size.
SOURCE = (
    "from waterflow_agent.nodes.node import Node\n\n\nclass Own(Node):\n    ...\n" + "# what it does, and why\n" * 500
)


def own_nodes(folder: Path) -> list[Row]:
    """Changes one file in a full node path, and runs the node `log` through executor, ledger and journal."""
    (folder / "agent").mkdir()
    changes, looks = _reload(folder / "nodes")
    log_ms = asyncio.run(_log(folder / "agent"))
    return [
        Row(
            "an own node's new version is noticed and hashed, p50",
            f"{changes.median_ms:.2f} ms",
            "5 ms",
            changes.median_ms <= 5,
            f"of {NODES_MAX} nodes of {len(SOURCE) >> 10} KiB; p99 {changes.quantile_ms(0.99):.2f} ms;"
            f" a look without news, once a second, {looks.median_ms:.2f} ms",
        ),
        Row("the node log on the agent, mean", f"{log_ms:.3f} ms", "0.3 ms", log_ms <= 0.3, "with the journal's write"),
    ]


def _reload(root: Path) -> tuple[Latencies, Latencies]:
    root.joinpath("bench").mkdir(parents=True)
    paths = [root / "bench" / f"n{number}.py" for number in range(NODES_MAX)]
    for path in paths:
        path.write_text(SOURCE)
    catalog = NodeCatalog([str(root)])
    assert len(list(catalog.changed())) == NODES_MAX
    changes, looks = Latencies(), Latencies()
    for number in range(ROUNDS):
        new = root / "new"
        new.write_text(f"{SOURCE}# {number}\n")
        new.rename(paths[number % NODES_MAX])
        for latencies, count in ((changes, 1), (looks, 0)):
            began = time.perf_counter()
            found = list(catalog.changed())
            latencies.add(time.perf_counter() - began)
            assert len(found) == count
    return changes, looks


async def _log(data_dir: Path) -> float:
    workspaces = WorkingDirectories(data_dir / "work", Clock())
    directories = StepDirectories(data_dir / "steps", workspaces.discard)
    steps = ProcessSteps(RunnerClient(data_dir, starts_runner=False), workspaces, directories)
    ledger = Ledger(boot_id="boot", instance="instance", slots=STEPS)
    journal = Journal(data_dir / "journal")
    store = TreeStore(data_dir / "trees", 1 << 20, workspaces.discard)
    checkouts = CheckoutService(store, FileRequests(lambda request: None), workspaces)
    link = Link(
        endpoint="",
        sockets=SocketFactory(KeyPair(public="", secret="")),
        server_keys=ServerKeys(""),
        new_token=str,
        clock=Clock(),
    )
    core = Core(ledger=ledger, journal=journal, steps=steps, checkouts=checkouts, sender=link)
    core.restore()
    core.reports.on_reports([reports.HeldSteps(())])
    began = time.perf_counter()
    for number in range(STEPS):
        core.session.on_received(
            Received(numbered=[(number + 1, messages.Offer(_task(number)))], loose=[], acknowledged=[])
        )
    took = time.perf_counter() - began
    await core.close()
    journal.close()
    return took * 1000 / STEPS


def _task(number: int) -> messages.Task:
    return messages.Task(
        key=task_id("01BENCH", "job", f"step{number}", 1, 1), node="log", params={"message": "hello"}, env={},
        step_name="step", working_directory=None, timeout_ms=60_000, stop_signal="SIGTERM", grace_ms=1_000,
        output_bytes_max=1 << 20, boot_id="boot", instance="instance",
    )  # fmt: skip
