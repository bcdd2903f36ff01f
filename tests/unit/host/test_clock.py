"""The log's clock never goes backwards: not with the wall clock, not across a restart, not with a damaged file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from waterflow_agent.clock import Clock
from waterflowd.host import clock as clock_module
from waterflowd.host.clock import LogClock


class Machine(Clock):
    """The machine's clocks, set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.boot = 50_000
        self.wall = 1_700_000_000_000
        self._boot_id = tmp_path / "boot_id"
        self.reboot("one", 50_000)
        monkeypatch.setattr(clock_module, "_BOOT_ID", self._boot_id)

    def boot_ms(self) -> int:
        return self.boot

    def wall_ms(self) -> int:
        return self.wall

    def reboot(self, boot_id: str, boot_ms: int = 10) -> None:
        self._boot_id.write_text(boot_id + "\n")
        self.boot = boot_ms


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clock.json"


def test_the_first_start_shows_the_wall_clock(machine: Machine, path: Path) -> None:
    """Afterwards it advances with the boot clock."""
    clock = LogClock(path, 0, machine)
    assert clock.now() == machine.wall
    machine.boot += 5
    assert clock.now() == machine.wall + 5


@pytest.mark.parametrize("jump_ms", [-86_400_000, 86_400_000])
def test_a_jump_of_the_wall_clock_changes_nothing(machine: Machine, path: Path, jump_ms: int) -> None:
    """This holds while the daemon runs and across a restart within one boot."""
    clock = LogClock(path, 0, machine)
    before = clock.now()
    machine.wall += jump_ms
    assert clock.now() == before
    machine.boot += 1_000
    assert LogClock(path, before, machine).now() == before + 1_000


def test_time_in_suspend_counts(machine: Machine, path: Path) -> None:
    """The boot clock advances during suspend, and so does the log's clock."""
    clock = LogClock(path, 0, machine)
    before = clock.now()
    machine.boot += 3_600_000
    assert clock.now() == before + 3_600_000


def test_a_reboot_adds_the_difference_of_the_wall_clock(machine: Machine, path: Path) -> None:
    """A sleep of thirty days survives a reboot."""
    before = LogClock(path, 0, machine).now()
    machine.reboot("two")
    machine.wall += 600_000
    assert LogClock(path, before, machine).now() == before + 600_000


def test_a_reboot_into_the_past_does_not_go_back(machine: Machine, path: Path) -> None:
    """The last logged time is a lower bound of the clock."""
    before = LogClock(path, 0, machine).now()
    machine.reboot("two")
    machine.wall -= 10 * 86_400_000
    clock = LogClock(path, before, machine)
    assert clock.now() == before
    machine.boot += 7
    assert clock.now() == before + 7


def test_a_log_that_is_ahead_sets_the_clock(machine: Machine, path: Path) -> None:
    """This happens, for example, after restoring a log from another machine within the same boot."""
    LogClock(path, 0, machine)
    ahead = machine.wall + 1_000_000
    assert LogClock(path, ahead, machine).now() == ahead
    assert LogClock(path, 0, machine).now() == ahead


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '{"boot_id": "one"}',
        '{"boot_id": "one", "offset_ms": null}',
        '{"boot_id": "one", "offset_ms": "x"}',
        '{"boot_id": "one", "offset_ms": 1e400}',
        '{"boot_id": "one", "offset_ms": NaN}',
        '{"boot_id": "one", "offset_ms": ' + "9" * 30 + "}",
        '{"boot_id": "one", "offset_ms": -' + "9" * 30 + "}",
        "\x00" * 100,
    ],
)
def test_a_damaged_file_is_replaced(machine: Machine, path: Path, content: str) -> None:
    """The log and the wall clock are sufficient to replace it."""
    path.write_text(content)
    assert LogClock(path, 5, machine).now() == machine.wall
    assert json.loads(path.read_text())["boot_id"] == "one"


def test_random_bytes_are_a_damaged_file_too(machine: Machine, path: Path) -> None:
    """They do not prevent the start."""
    path.write_bytes(b"\xff\xfe\x00")
    assert LogClock(path, 5, machine).now() == machine.wall


def test_a_full_disk_does_not_prevent_the_start(machine: Machine, path: Path) -> None:
    """Without its file the clock is still correct: the next start continues after the last logged time."""
    path.with_suffix(".new").mkdir()
    clock = LogClock(path, 0, machine)
    assert clock.now() == machine.wall
    machine.boot += 9
    assert LogClock(path, clock.now(), machine).now() == machine.wall + 9


def test_the_real_clocks_are_read(tmp_path: Path) -> None:
    """On a real machine two consecutive readings never go backwards."""
    clock = LogClock(tmp_path / "clock.json", 0)
    first = clock.now()
    assert first > 1_700_000_000_000
    assert clock.now() >= first
