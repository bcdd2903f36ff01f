"""A rollout over every server of a group, while the daemon and an agent are killed during each batch.

Each server's step reports its start, waits for a signal, and reports its end, so the test knows the state at each kill. At the
end the marker file shows what ran where, how often and in which order.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.acceptance.cluster import jobs_of
from tests.attack.arena import Arena
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class RollOut:
    """Servers of the group `web`, the marker file, and the folder whose files let steps continue."""

    def __init__(self, arena: Arena, servers: int) -> None:
        self.arena = arena
        self.servers = [f"web-{number}" for number in range(1, servers + 1)]
        self.place = arena.folder / "place"
        self.place.mkdir()
        for name in self.servers:
            arena.configure_agent(name, "web")
        for name in self.servers:
            arena.spawn_agent(name)
        wait_until(lambda: arena.connected() == set(self.servers), "the servers to be connected")

    def start(self, label: str, runs_on: str) -> str:
        """Starts a rollout; its steps continue when a file `LABEL-SERVER` holds their exit code."""
        return self.arena.start(f"""jobs:
  roll:
    runs-on: {{group: web, target: each, {runs_on}}}
    steps:
      - run: |
          echo "$WATERFLOW_AGENT begin" >> {self.place}/{label}
          while test ! -e {self.place}/{label}-$WATERFLOW_AGENT; do sleep 0.05; done
          echo "$WATERFLOW_AGENT end" >> {self.place}/{label}
          exit $(cat {self.place}/{label}-$WATERFLOW_AGENT)
""")

    def tell(self, label: str, servers: list[str], exit_code: int = 0) -> None:
        """Lets the steps on these servers end."""
        for server in servers:
            fresh = self.place / "fresh"
            fresh.write_text(str(exit_code))
            fresh.rename(self.place / f"{label}-{server}")

    def marks(self, label: str, word: str) -> list[str]:
        """Returns the servers that have started, or ended, in order."""
        path = self.place / label
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[0] for line in lines if line.endswith(f" {word}")]

    def wait_for_begin(self, label: str, servers: list[str]) -> None:
        """Waits until all of these servers have started."""
        try:
            wait_until(lambda: set(servers) <= set(self.marks(label, "begin")), f"{servers} to begin")
        except AssertionError as error:
            run = self.arena.api("GET", "/v1/runs", params={"limit": 1}).json()["runs"][0]["id"]
            reasons = {
                name: (job["status"], job["reason"]["text"]) for name, job in jobs_of(self.arena.run(run)).items()
            }
            agents = [(row["name"], row["status"], row["slots_busy"]) for row in self.arena.agent_rows()]
            raise AssertionError(f"{error}: {reasons} {agents} {self.arena.events(run)[-5:]}") from None

    def restart_daemon(self) -> None:
        """Kills the daemon with `kill -9`, and starts a new one."""
        self.arena.kill_daemon()
        self.arena.start_daemon()

    def expansion(self, run: str) -> list[str]:
        """Returns the servers that the rollout expanded to; the log must record this exactly once."""
        (event,) = [event for event in self.arena.events(run) if event["type"] == "job-expanded"]
        return [instance["agent_name"] for instance in event["instances"]]


def _check(roll: RollOut, label: str, run: str, batches: list[list[str]]) -> None:
    """Checks that every server ran once, in its batch, and that the list of servers never changed."""
    servers = [server for batch in batches for server in batch]
    assert Counter(roll.marks(label, "begin")) == Counter(servers) == Counter(roll.marks(label, "end"))
    lines = (roll.place / label).read_text().splitlines()
    for batch in batches:
        mine, lines = lines[: 2 * len(batch)], lines[2 * len(batch) :]
        assert {line.split()[0] for line in mine} == set(batch), "batches mixed"
    events = roll.arena.events(run)
    dispatched = Counter((event["job"], event["attempt"]) for event in events if event["type"] == "attempt-dispatched")
    assert set(dispatched.values()) == {1}
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def roll_out_under_fire(roll: RollOut, batches: list[list[str]], spelling: str) -> None:
    """Kills the daemon and an agent in every batch, while some steps end; a server joins in the meantime."""
    run = roll.start("fire", f"batch: {spelling}")
    for number, batch in enumerate(batches):
        roll.wait_for_begin("fire", batch)
        assert set(roll.marks("fire", "begin")) == {server for done in batches[: number + 1] for server in done}
        early = batch[: len(batch) // 2 or 1]
        roll.arena.kill_daemon()
        roll.tell("fire", early)
        wait_until(lambda early=early: set(early) <= set(roll.marks("fire", "end")), "them to end by themselves")  # type: ignore[misc]
        roll.arena.kill_agent(batch[-1])
        roll.arena.start_daemon()
        roll.arena.start_agent(batch[-1])
        if number == 0:
            roll.arena.add_agent("web-99", "web")
        roll.tell("fire", batch)
    found = roll.arena.wait_for(run)

    assert found["conclusion"] == "success", found
    assert roll.expansion(run) == [server for batch in batches for server in batch]
    _check(roll, "fire", run, batches)


def halt_under_fire(roll: RollOut, first: list[str], never: list[str]) -> None:
    """Two servers fail while the daemon is down and one may: the rollout halts, and stays halted after another kill."""
    run = roll.start("halt", f"batch: {len(first)}, max-failures: 1")
    roll.wait_for_begin("halt", first)
    roll.arena.kill_daemon()
    roll.tell("halt", first[:2], exit_code=1)
    wait_until(lambda: len(roll.marks("halt", "end")) == 2, "them to fail by themselves")
    roll.arena.start_daemon()

    def jobs() -> dict[str, dict[str, Any]]:
        return jobs_of(roll.arena.run(run))

    wait_until(lambda: any(event["type"] == "job-halted" for event in roll.arena.events(run)), "the halt")
    roll.restart_daemon()
    roll.tell("halt", first[2:])
    found = roll.arena.wait_for(run)

    assert found["conclusion"] == "failure"
    ended = jobs()
    assert [ended[f"roll[{server}]"]["conclusion"] for server in first] == ["failure"] * 2 + ["success"] * (
        len(first) - 2
    )
    assert {ended[f"roll[{server}]"]["reason"]["code"] for server in never} == {"halted"}
    _check(roll, "halt", run, [first])


def test_a_rollout_with_kills_in_each_batch_runs_no_server_twice(empty_arena: Arena) -> None:
    """Despite kills, the server list stays, batches run in order, each server runs once, and a halt persists."""
    empty_arena.start_daemon()
    roll = RollOut(empty_arena, 4)
    names = roll.servers
    roll_out_under_fire(roll, [names[:2], names[2:]], "2")
    halt_under_fire(roll, names[:2], [*names[2:], "web-99"])


def test_ten_servers_in_three_batches(empty_arena: Arena) -> None:
    """The same holds for growing batches: one server, three, and the other six."""
    empty_arena.start_daemon()
    roll = RollOut(empty_arena, 10)
    names = roll.servers
    roll_out_under_fire(roll, [names[:1], names[1:4], names[4:]], "[1, 3, 100%]")
    halt_under_fire(roll, names[:5], [*names[5:], "web-99"])
