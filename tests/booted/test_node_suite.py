"""The tests of the built-in nodes, run by a step: as the user of steps, in the sandbox of the installed units.

The step runs pytest. So each node has the user, groups, home directory, system calls and file system that it has in a workflow,
and a node that needs what the sandbox denies fails its test.
"""

from __future__ import annotations

import re

import pytest

from tests.booted import root
from tests.booted.machine import Machine
from tests.booted.test_isolation import workflow
from tests.chance import IS_FULL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.timeout(2000),
    pytest.mark.skipif(not IS_FULL, reason="part of `make nightly` (WATERFLOW_SWEEP=full)"),
]

#: The tests of the nodes that run as processes of their own.
SUITE = ("unit/agent/nodes", "integration/nodes", "integration/transfer")
#: These start an agent or a Docker engine, which no step can. `systemd/unit` is tested by `test_nodes.py`.
IGNORED = (
    "integration/nodes/test_compose.py",
    "integration/nodes/test_docker.py",
    "integration/nodes/test_long_running.py",
    "integration/transfer/test_agent.py",
)
#: Some tests mount file systems.
ALLOWED_SKIP = "no file system can be mounted here"
SCRIPT = """cd "$(mktemp --directory)"
PYTHONPATH={suite} /opt/waterflow/bin/python3 -m pytest -q -rs -p no:cacheprovider -m 'not root' \
--rootdir={suite} --config-file={suite}/pyproject.toml {ignored} {paths}
"""
#: The suite takes two minutes on an idle machine.
SUITE_PATIENCE_S = 1_800.0


def test_every_node_works_as_the_user_of_steps(machine: Machine) -> None:
    """All tests that need neither root nor an agent pass within one step, and only tests that mount something are skipped."""
    script = SCRIPT.format(
        suite=root.SUITE,
        ignored=" ".join(f"--ignore={root.SUITE}/tests/{path}" for path in IGNORED),
        paths=" ".join(f"{root.SUITE}/tests/{path}" for path in SUITE),
    )

    run = machine.start(workflow(script))
    found = machine.wait_for(run, SUITE_PATIENCE_S)

    printed = "\n".join(machine.lines(run))
    assert found["conclusion"] == "success", printed
    skipped = [line for line in printed.splitlines() if line.startswith("SKIPPED")]
    assert [line for line in skipped if ALLOWED_SKIP not in line] == []
    (passed,) = re.findall(r"(\d+) passed", printed)
    assert int(passed) > 300, printed
