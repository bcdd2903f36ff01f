"""Quotas of repositories: what a bucket allows, how it fills again, and what survives a restart."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.access.repository_quotas import HOUR_MS, QUOTA_MAX, RepositoryLimits, RepositoryQuotas
from waterflowd.model.records import StartRequest, Trigger, TriggerKind

NOW = 1_767_225_600_000
MIB = 1 << 20


def starts(count: int, repository: str | None = "web") -> list[StartRequest]:
    trigger = Trigger(kind=TriggerKind.PUSH)
    return [StartRequest(plan=b"", trigger=trigger, repository=repository)] * count


class Counted:
    """Quotas over counters that survive them."""

    def __init__(self, runs: int = 0, output: int = 0, **own: RepositoryLimits) -> None:
        self.limits = RepositoryLimits(runs_per_hour=runs, output_bytes_per_hour=output)
        self.own = own
        self.counters: dict[str, int] = {}
        self.restart()

    def restart(self) -> None:
        self.quotas = RepositoryQuotas(self.limits, self.own, lambda name: self.counters.get(name, 0))

    def start(self, count: int, now: int, repository: str | None = "web") -> None:
        self.quotas.take_runs(starts(count, repository), now, self.counters)

    def print(self, size: int, now: int, repository: str | None = "web") -> bool:
        """Prints one more log of this size, if it may; returns whether it may."""
        if size > self.quotas.room(repository, 0, now):
            return False
        self.counters |= self.quotas.take_output(repository, size, now)
        return True


def test_an_hours_runs_may_start_at_once_and_then_one_after_the_other() -> None:
    """The refusal names repository, limit, time and key; at that time the next run starts, and no second one."""
    counted = Counted(runs=60)
    for _ in range(60):
        counted.start(1, NOW)
    for _ in range(2):
        with pytest.raises(Rejected) as refused:
            counted.start(1, NOW)
    assert (refused.value.code, refused.value.status, refused.value.after_s) == ("WF531", 429, 60.0)
    assert refused.value.text == (
        'repository "web" has used its quota of 60 runs per hour; the next run may start at 2026-01-01T00:01:00Z; to allow'
        " more, raise runs-per-hour in its quotas, or in [quotas], in waterflowd.toml"
    )
    counted.start(1, NOW + 60_000)
    with pytest.raises(Rejected):
        counted.start(1, NOW + 60_000)
    assert counted.quotas.starts_refused == 3


def test_a_restart_forgets_no_run() -> None:
    """What is used is in the log's counters."""
    counted = Counted(runs=10)
    counted.start(10, NOW)
    counted.restart()
    with pytest.raises(Rejected):
        counted.start(1, NOW)
    counted.start(1, NOW + HOUR_MS // 10)


def test_one_transaction_counts_its_own_starts() -> None:
    """Two pushes in one batch see each other: the counters are not in the log yet."""
    quotas = RepositoryQuotas(RepositoryLimits(runs_per_hour=2))
    counters: dict[str, int] = {}
    quotas.take_runs(starts(2), NOW, counters)
    with pytest.raises(Rejected):
        quotas.take_runs(starts(1), NOW, counters)


def test_a_push_with_more_workflows_than_the_limit_starts_and_delays_the_next_by_an_hour_at_most() -> None:
    """All its workflows start or none, so refusing it would refuse it forever."""
    counted = Counted(runs=10)
    counted.start(500, NOW)
    with pytest.raises(Rejected) as refused:
        counted.start(1, NOW)
    assert refused.value.after_s <= 1.1 * HOUR_MS / 1000
    counted.start(1, NOW + int(1.1 * HOUR_MS))


def test_repositories_do_not_share_a_quota() -> None:
    """Nor do runs of no repository count."""
    counted = Counted(runs=5, shop=RepositoryLimits(runs_per_hour=1))
    counted.start(5, NOW)
    counted.start(5, NOW, "docs")
    counted.start(1, NOW, "shop")
    counted.start(1_000, NOW, None)
    for name in ("web", "docs", "shop"):
        with pytest.raises(Rejected):
            counted.start(1, NOW, name)


def test_a_higher_limit_counts_at_once_and_a_lower_one_locks_no_repository() -> None:
    """After a change of the configuration the repository waits two hours at most."""
    counted = Counted(runs=1_000)
    counted.start(1_000, NOW)
    counted.limits = RepositoryLimits(runs_per_hour=1_100)
    counted.restart()
    counted.start(100, NOW)
    counted.limits = RepositoryLimits(runs_per_hour=1)
    counted.restart()
    with pytest.raises(Rejected):
        counted.start(1, NOW)
    counted.start(1, NOW + 2 * HOUR_MS)


def test_output_of_one_flood_ends_at_half_and_leaves_room_for_small_logs() -> None:
    """A log may grow while it is not larger than what remains."""
    counted = Counted(output=64 * MIB)
    size = 0
    while counted.quotas.room("web", size, NOW) >= 4096:
        counted.counters |= counted.quotas.take_output("web", 4096, NOW)
        size += 4096
    assert size == 32 * MIB
    assert counted.print(MIB, NOW)
    assert counted.print(32 * MIB, NOW, "docs")
    assert counted.print(32 * MIB, NOW, None)
    assert counted.print(32 * MIB, NOW + HOUR_MS)


def test_output_never_exceeds_the_quota_however_many_logs_there_are() -> None:
    """Beside any number of logs of any size."""
    counted = Counted(output=MIB)
    total = 0
    for number in range(20_000):
        size = 1 + number * 37 % 9_000
        total += size if counted.print(size, NOW) else 0
    assert 0.9 * MIB < total <= MIB


def test_a_restart_forgets_one_percent_of_the_output_at_most() -> None:
    """Little is recorded, so that output costs no transactions of the log."""
    counted = Counted(output=100 * MIB)
    recorded = 0
    for _ in range(8_000):
        before = dict(counted.counters)
        assert counted.print(8_192, NOW)
        recorded += counted.counters != before
    used = counted.quotas.uses("web", NOW)[0].used
    counted.restart()
    assert 0 <= used - counted.quotas.uses("web", NOW)[0].used <= MIB
    assert recorded <= 63


@pytest.mark.parametrize("limit", [1, 7, 1_000, QUOTA_MAX])
def test_a_bucket_is_full_again_after_an_hour(limit: int) -> None:
    """Also when it is looked at often, and whatever its size: nothing is lost by rounding."""
    counted = Counted(output=limit)
    counted.counters |= counted.quotas.take_output("web", limit, NOW)
    assert counted.quotas.uses("web", NOW)[0].used == limit
    for step in range(0, HOUR_MS, 977):
        counted.quotas.room("web", 0, NOW + step)
    assert counted.quotas.uses("web", NOW + HOUR_MS + 1)[0].used == 0
    assert all(value < 1 << 63 for value in counted.counters.values())


def test_only_nearly_used_quotas_have_a_text() -> None:
    """The text has the key; `is_exceeded` is what `status` reports as a problem."""
    counted = Counted(runs=10, output=100)
    counted.start(7, NOW)
    assert [use.text for use in counted.quotas.uses("web", NOW)] == ["", ""]
    counted.start(1, NOW)
    runs, output = counted.quotas.uses("web", NOW)
    assert (runs.text, runs.is_exceeded) == ("8 of 10 runs per hour used (runs-per-hour)", False)
    counted.start(2, NOW)
    runs, output = counted.quotas.uses("web", NOW)
    assert runs.text == "10 of 10 runs per hour used (runs-per-hour); the next run may start at 2026-01-01T00:06:00Z"
    assert runs.is_exceeded
    assert counted.quotas.output_was_cut("web", NOW)
    assert not counted.quotas.output_was_cut("web", NOW + 1)
    (_, output) = counted.quotas.uses("web", NOW + 1)
    assert output.is_exceeded
    assert output.text == (
        "output was cut off at 2026-01-01T00:00:00Z; 0% of 100 bytes of output per hour used (output-bytes-per-hour)"
    )
    (_, output) = counted.quotas.uses("web", NOW + 1 + HOUR_MS)
    assert not output.is_exceeded
    assert counted.quotas.uses("docs", NOW)[0].text == ""


def test_without_limits_nothing_is_counted() -> None:
    """0 means no limit."""
    counted = Counted()
    counted.start(10_000, NOW)
    assert counted.print(1 << 60, NOW)
    assert counted.counters == {}
    assert counted.quotas.uses("web", NOW) == []
