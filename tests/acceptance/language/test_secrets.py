"""Secrets with real processes: the value arrives in the step, and is stored nowhere else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests import living
from tests.acceptance.cluster import Cluster, run_to_end
from tests.patience import wait_until

pytestmark = pytest.mark.slow

OF_FILE = "zebra-4711-of-a-file"
OF_ENVIRONMENT = "walrus-0815-of-the-environment"

WORKFLOW = """jobs:
  use:
    runs-on: web
    env: {TOKEN: "${{ secrets.DEPLOY_TOKEN }}"}
    outputs: {length: "${{ steps.outer.outputs.length }}"}
    steps:
      - id: outer
        env: {HEADER: "Bearer ${{ secrets.API_KEY }}"}
        run: |
          printf %s "$TOKEN" | sha256sum | cut -c 1-64
          printf %s "$HEADER" | sha256sum | cut -c 1-64
          echo "length=${#TOKEN}" >> "$GITHUB_OUTPUT"
          touch PLACE/arrived
          while test ! -e PLACE/go; do sleep 0.05; done
      - uses: loop
        with:
          items: [1, 2]
          steps:
            - env: {INNER: "${{ secrets.API_KEY }}"}
              run: test "$INNER" = "$(echo walrus)-0815-of-the-environment"
"""


def _holds(folder: Path, value: str) -> list[Path]:
    return living.holding(folder, value.encode())


def test_a_secret_reaches_the_step_and_is_stored_nowhere_else(empty_cluster: Cluster, tmp_path: Path) -> None:
    """The value is in no event, log, agent file or process information, neither while the step runs nor afterwards."""
    cluster = empty_cluster
    directory = tmp_path / "place"
    directory.mkdir()
    sources = tmp_path / "secrets.toml"
    sources.write_text(f'deploy-token = "{OF_FILE}"\n')
    sources.chmod(0o600)
    cluster.write_config(f'[secrets]\nfile = "{sources}"\n')
    cluster.daemon_environment["WATERFLOW_SECRET_API_KEY"] = OF_ENVIRONMENT
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")

    run = cluster.start(WORKFLOW.replace("PLACE", str(directory)))
    wait_until((directory / "arrived").exists, "the step to run")
    kept = [
        path
        for value in (OF_FILE, OF_ENVIRONMENT)
        for path in [*_holds(cluster.folder / "daemon", value), *_holds(cluster.agent_dir("web-1"), value)]
    ]
    (directory / "go").touch()
    found = cluster.wait_for(run)

    assert found["conclusion"] == "success", found
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (OF_FILE, f"Bearer {OF_ENVIRONMENT}")]
    assert cluster.lines(run, 2) == digests
    assert found["jobs"][0]["outputs"] == {"length": str(len(OF_FILE))}
    cluster.stop_daemon()
    cluster.stop_agent("web-1")
    for value in (OF_FILE, OF_ENVIRONMENT):
        kept += [path for path in _holds(cluster.folder, value) if path != sources]
    assert not kept


def test_a_secret_without_a_value_fails_the_step_and_a_new_value_needs_no_restart(
    empty_cluster: Cluster, tmp_path: Path
) -> None:
    """The reason names the secret; the file is read again when it changes."""
    cluster = empty_cluster
    sources = tmp_path / "secrets.toml"
    sources.write_text("")
    sources.chmod(0o600)
    cluster.write_config(f'[secrets]\nfile = "{sources}"\n')
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    workflow = 'jobs: {a: {runs-on: web, steps: [{env: {V: "${{ secrets.LATER }}"}, run: "echo ${#V}"}]}}'

    _, jobs = run_to_end(cluster, workflow, conclusion="failure")
    assert jobs["a"]["steps"][0]["reason"]["code"] == "secret-missing"
    assert "LATER" in jobs["a"]["reason"]["text"]
    sources.write_text('later = "four"\n')
    run, _ = run_to_end(cluster, workflow)
    assert cluster.lines(run, 1) == ["4"]
