"""`make bench`: measures all figures in one run, some of them as a share of what this machine can do at most.

`python -m bench [NAME ...]` measures only the named ones: one-run many-runs busy-api pruning processes push ready many-open
reconnect output masking checkout artifacts memory cli expressions events language transfer own-nodes
run-filters live-pages output-lines web temporal.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import (
    artifacts,
    checkouts,
    events,
    expressions,
    language,
    masking,
    output_lines,
    own_nodes,
    pages,
    reconnect,
    restart,
    retention,
    steps,
    temporal,
    web,
)
from bench.figures import Row, table
from bench.transfer import transfer

SECONDS = 3.0

BENCHES: dict[str, Callable[[Path], list[Row]]] = {
    "one-run": lambda folder: steps.one_run(folder, SECONDS),
    "many-runs": lambda folder: steps.many_runs(folder, SECONDS),
    "busy-api": lambda folder: steps.busy_api(folder),
    "pruning": retention.pruning,
    "processes": lambda folder: steps.processes(folder, SECONDS),
    "push": lambda folder: steps.push(folder, 20),
    "ready": restart.ready,
    "many-open": restart.many_open,
    "reconnect": reconnect.reconnect,
    "output": restart.output,
    "masking": masking.masking,
    "checkout": checkouts.checkouts,
    "artifacts": artifacts.artifacts,
    "memory": restart.memory,
    "cli": lambda folder: steps.command_line(),
    "expressions": lambda folder: expressions.expressions(),
    "language": language.language,
    "events": lambda folder: events.events(),
    "transfer": transfer,
    "own-nodes": own_nodes.own_nodes,
    "run-filters": pages.run_filters,
    "live-pages": pages.live_pages,
    "output-lines": output_lines.output_lines,
    "web": web.web_pages,
    "temporal": temporal.temporal,
}


def main(names: list[str]) -> int:
    """Measures and prints the table. Returns 0 even if goals are missed, and 2 for an unknown name."""
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    # Processes that the benchmark starts in other folders must find its modules, too.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    rows: list[Row] = []
    for name in names or BENCHES:
        print(f"measuring {name} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="waterflow-bench-") as folder:
            rows += BENCHES[name](Path(folder))
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
