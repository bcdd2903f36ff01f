"""A power failure of the daemon's machine: only flushed data survives on its disk."""

from __future__ import annotations

import functools
import random

import pytest

from tests.attack.arena import Arena
from tests.attack.small_disk import cut_power, small_disk
from tests.chance import IS_FULL, SEED
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(3600 if IS_FULL else 1200)]


@pytest.mark.usefixtures("root")
def test_acknowledged_data_survives_a_power_cut(empty_arena: Arena) -> None:
    """On ext4, acknowledged starts and results survive, each run succeeds, and nothing runs twice."""
    arena = empty_arena
    dice = random.Random(SEED)
    print(f"WATERFLOW_SEED={SEED}")
    total = 0
    with small_disk(arena.folder, "ext4", 64) as directory:
        arena.daemon_dir = directory / "daemon"
        arena.write_config()
        arena.start_daemon()
        for name in ("web-1", "web-2"):
            arena.add_agent(name, "web")
        try:
            for _ in range(40 if IS_FULL else 3):
                answers: dict[str, str | None] = {}
                for _ in range(dice.randint(1, 4)):
                    key = arena.key()
                    answers[key] = arena.post(key)
                first = next(iter(answers.values()))
                if dice.random() < 0.5 and first is not None:
                    # Kill it later, when results have been acknowledged and the other runs are in progress.
                    wait_until(functools.partial(arena.has_ended, first), "the first run to end")
                arena.kill_daemon()
                cut_power(arena.folder)
                arena.start_daemon()
                for key, answered in answers.items():
                    run = arena.post(key)
                    assert run is not None
                    assert answered in (None, run), f"{key} was answered with {answered}, and now {run}"
                    arena.judge.run(run)
                total += len(answers)
                assert arena.count_runs() == total, "a start became two runs, or none"
        finally:
            arena.close()
