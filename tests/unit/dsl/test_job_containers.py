"""`container` and `services` become the first step of a job."""

from __future__ import annotations

from tests.unit.dsl.conftest import Language
from waterflow_agent.nodes import schema
from waterflowd.engine.rules.containers import SCRIPT_NODES
from waterflowd.model.plan import CONTAINERS_NODE, SETUP_STEP


def test_a_job_with_containers_begins_with_the_step_that_starts_them(language: Language) -> None:
    """The step has the keys as written, and the secrets that they and the job's variables name."""
    job = language.job(
        "runs-on: g, env: {J: '${{ secrets.OF_JOB }}'}, container: 'node:22', services: {db: {image: 'db:1', ports: [5432],"
        " env: {P: '${{ secrets.OF_SERVICE }}'}, credentials: {username: u, password: '${{ secrets.REGISTRY }}'}}}"
    )
    first, second = job.steps
    assert (first.id, first.node, second.node) == (SETUP_STEP, CONTAINERS_NODE, "shell")
    assert first.params["container"] == {"image": "node:22"}
    assert first.params["services"] == {
        "db": {
            "image": "db:1",
            "ports": ["5432"],
            "env": {"P": "${{ secrets.OF_SERVICE }}"},
            "credentials": {"username": "u", "password": "${{ secrets.REGISTRY }}"},
        }
    }
    assert first.secrets == ("OF_JOB", "OF_SERVICE", "REGISTRY")


def test_the_first_step_also_gives_conditions_their_server(language: Language) -> None:
    """There is only one such step."""
    plan = language.plan("jobs: {j: {runs-on: g, container: x, steps: [{if: runner.os == 'Linux', run: x}]}}")
    job = plan.jobs[0]
    assert [step.node for step in job.steps] == [CONTAINERS_NODE, "shell"]


def test_ports_of_services_can_be_used_in_steps(language: Language) -> None:
    """With a number or a text, as on GitHub."""
    language.plan(
        "jobs: {j: {runs-on: g, services: {db: x}, steps: ["
        "{run: 'echo ${{ job.services.db.ports[5432] }} ${{ job.container.id }}',"
        " env: {A: \"${{ job.services.db.ports['5432'] }}\"}}]}}"
    )


def test_the_nodes_that_run_in_the_container_are_those_with_a_script() -> None:
    """The engine may not read the nodes' schema, so its list is compared with it here."""
    scripts = {name for name, node in schema.BUILT_IN.items() if node.runs_in is schema.RunsIn.PROCESS}
    assert scripts == SCRIPT_NODES
