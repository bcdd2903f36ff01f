"""A job keeps its working directory on its server until it has ended, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

from tests import living
from tests.acceptance.cluster import World, wait_until

WORKFLOW = """jobs:
  a:
    runs-on: web
    steps:
      - run: echo precious > file
      - uses: sleep
        with: {duration: 3s}
      - run: cat file
"""


def _directories(world: World, run: str) -> list[Path]:
    return [path for name in ("web-1", "web-2") for path in living.found(world.agent_dir(name), f"work/{run}/*")]


def test_a_directory_outlives_its_agent_between_two_steps_and_goes_with_the_job(world: World) -> None:
    """The agent is killed and restarted while the job sleeps, and the next step still finds its file."""
    run = world.start(WORKFLOW)
    wait_until(lambda: "step-sleeping" in [event["type"] for event in world.events(run)], "the sleep")
    name = world.run(run)["jobs"][0]["agent"]
    world.kill_agent(name)
    world.start_agent(name)

    assert world.wait_for(run)["conclusion"] == "success"

    assert world.lines(run, 1) == ["precious"]
    wait_until(lambda: not _directories(world, run), "the directory to go")


def test_a_directory_goes_when_its_agent_comes_back_after_the_job_was_over(world: World) -> None:
    """The message that the job has ended was lost with the connection; it is sent again when the agent reconnects."""
    run = world.start("jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: sleep 600\n")
    wait_until(lambda: world.run(run)["jobs"][0]["status"] == "running", "the job to run")
    name = world.run(run)["jobs"][0]["agent"]
    wait_until(lambda: _directories(world, run), "the directory")
    world.kill_agent(name)
    assert world.api("POST", f"/v1/runs/{run}/cancel", json={"force": True}).status_code in (200, 202)
    assert world.wait_for(run)["conclusion"] == "cancelled"
    assert _directories(world, run)

    world.start_agent(name)

    wait_until(lambda: not _directories(world, run), "the directory to go")
