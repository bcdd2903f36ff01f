"""A real agent whose `log` node records the instant of each call, to measure the time between steps in microseconds.

Times in the log are whole milliseconds. On SIGTERM, the instants (perf_counter_ns) are written to the file that
BENCH_INSTANTS names.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from waterflow_agent.cli import main
from waterflow_agent.nodes import instant, schema
from waterflow_agent.nodes.outcome import NodeResult

_instants: list[int] = []


def _install() -> None:
    real = instant.run

    def noted(parameters: schema.Parameters) -> NodeResult:
        _instants.append(time.perf_counter_ns())
        return real(parameters)

    instant.run = noted


if __name__ == "__main__":
    _install()
    try:
        main()
    finally:
        Path(os.environ["BENCH_INSTANTS"]).write_text("\n".join(map(str, _instants)))
