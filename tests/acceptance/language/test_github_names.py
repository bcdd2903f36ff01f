"""GitHub's names in workflows and scripts, with real processes: contexts, variables, paths, and the files of a script."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.cluster import Cluster, run_to_end
from tests.acceptance.conftest import MakeCluster
from tests.patience import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, make_cluster: MakeCluster) -> Iterator[Cluster]:
    """A daemon and one server of the group `web`."""
    made = make_cluster(tmp_path_factory.mktemp("github"))
    try:
        made.start_daemon()
        made.add_agent("web-1", "web")
        yield made
    finally:
        made.close()


VARIABLES = """name: names
inputs: {flag: {type: boolean, default: true}}
jobs:
  build:
    runs-on: web
    strategy: {matrix: {x: [1]}}
    steps:
      - run: |
          for name in RUN_ID RUN_NUMBER RUN_ATTEMPT EVENT_NAME WORKFLOW JOB WORKSPACE OUTPUT ENV PATH STEP_SUMMARY; do
            printenv "GITHUB_$name" > /dev/null || echo "GITHUB_$name is missing"
          done
          echo "$GITHUB_RUN_ID $GITHUB_RUN_NUMBER $GITHUB_EVENT_NAME $GITHUB_WORKFLOW $GITHUB_JOB $RUNNER_OS $RUNNER_NAME"
          echo "$WATERFLOW_RUN_ID $WATERFLOW_RUN_NUMBER $WATERFLOW_EVENT_NAME $WATERFLOW_WORKFLOW"
          echo "$WATERFLOW_OS $WATERFLOW_AGENT"
      - run: echo "${{ github.run_id }} ${{ github.run_number }} ${{ github.event_name }}"
      - run: echo "${{ github.workflow }} ${{ github.job }}"
      - run: echo "${{ runner.os }} ${{ runner.name }} ${{ github.event.inputs.flag }} [${{ github.head_ref }}]"
"""


def test_variables_and_contexts_have_github_s_names(cluster: Cluster) -> None:
    """Both say the same, and each variable has a twin of Waterflow."""
    run, _ = run_to_end(cluster, VARIABLES)

    printed = cluster.lines(run, 6)
    assert printed[0] == f"{run} 1 workflow_dispatch names build Linux web-1"
    assert printed[1:3] == [f"{run} 1 workflow_dispatch names", "Linux web-1"]
    assert printed[3:] == [f"{run} 1 workflow_dispatch", "names build", "Linux web-1 true []"]


PATHS = """jobs:
  build:
    runs-on: web
    env: {SPACE: "${{ github.workspace }}/sub"}
    steps:
      - run: |
          mkdir sub
          [ "${{ github.workspace }}" = "$PWD" ] && [ "$GITHUB_WORKSPACE" = "$PWD" ] && echo workspace
          [ "$SPACE" = "$PWD/sub" ] && echo variable
          [ '${{ runner.temp }}' = "$RUNNER_TEMP" ] && [ "$RUNNER_TEMP" = "$WATERFLOW_TEMP" ] && echo temp
          [ "${{ runner.workspace }}" = "$(dirname "$PWD")" ] && echo parent
          echo kept > ${{ runner.temp }}/note
      - working-directory: ${{ github.workspace }}/sub
        run: basename "$PWD"; cat "$RUNNER_TEMP/note"
      - {uses: log, with: {message: "logged ${{ github.workspace }}/x"}}
"""


def test_paths_of_the_server_are_filled_in(cluster: Cluster) -> None:
    """The directory for temporary files belongs to the job, and is removed with it."""
    run, _ = run_to_end(cluster, PATHS)

    printed = cluster.lines(run, 7)
    work = cluster.agent_dir("web-1") / "work"
    assert printed[:6] == ["workspace", "variable", "temp", "parent", "sub", "kept"]
    assert printed[6] == f"logged {work}/{run}/build/x"
    temp = work / ".temp"
    wait_until(lambda: not list(temp.iterdir()), "the directories for temporary files are removed")


PROGRAMS = """jobs:
  build:
    runs-on: web
    env: {C: job}
    steps:
      - run: |
          mkdir first second
          printf '#!/bin/sh\\necho first\\n' > first/tool
          printf '#!/bin/sh\\necho second\\n' > second/tool
          chmod +x */tool
          echo "$PWD/first" >> "$GITHUB_PATH"
          echo "$PWD/second" >> "$WATERFLOW_PATH"
      - run: tool
      - env: {C: step, D: "${{ env.C }}"}
        run: echo "${{ env.C }} $D"
"""


def test_programs_that_a_step_adds_to_the_path_are_found_by_later_steps(cluster: Cluster) -> None:
    """The last directory comes first. Expressions of a script see the step's own variables; those of its `env` do not."""
    run, _ = run_to_end(cluster, PROGRAMS)

    assert cluster.lines(run, 2) == ["second", "step job"]


SERVER_FIRST = """jobs:
  build:
    runs-on: web
    steps:
      - if: runner.os == 'Linux'
        run: echo linux
      - if: runner.os != 'Linux'
        run: echo other
      - uses: condition
        with:
          if: agent.os == 'linux'
          then: [{run: echo condition}]
"""


def test_a_condition_about_the_server_is_evaluated_on_it(cluster: Cluster) -> None:
    """The job takes its server first, so that the condition of its first step is not about nothing."""
    run, _ = run_to_end(cluster, SERVER_FIRST)

    assert cluster.lines(run, 2) == ["linux", "condition"]
