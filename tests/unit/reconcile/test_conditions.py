"""Conditions of a repository."""

from __future__ import annotations

from waterflowd.reconcile.conditions import Conditions, ConditionType


def test_conditions_are_unknown_before_the_first_read() -> None:
    """The status `unknown` differs from true and false."""
    assert {condition.is_true for condition in Conditions(1).all()} == {None}


def test_ready_follows_from_the_others() -> None:
    """The most important condition that is not true gives its code and sentence."""
    conditions = Conditions(1)
    conditions.set(ConditionType.FETCHED, True, "fetched", "read", 2)
    conditions.set(ConditionType.APPLIED, True, "applied", "main is applied at abc", 3)
    conditions.set(ConditionType.FILES_VALID, False, "files-broken", "1 workflow file has errors", 4)
    ready = conditions.get(ConditionType.READY)
    assert (ready.is_true, ready.code, ready.since_at) == (False, "files-broken", 4)
    conditions.set(ConditionType.FILES_VALID, True, "files-valid", "none", 5)
    conditions.set(ConditionType.WATCHING, False, "watch-failed", "no watches left", 6)
    assert conditions.get(ConditionType.READY).is_true


def test_the_time_changes_only_with_status_or_code() -> None:
    """The age of a problem does not depend on how often it is found."""
    conditions = Conditions(1)
    conditions.set(ConditionType.FETCHED, False, "WF503", "gone", 2)
    conditions.set(ConditionType.FETCHED, False, "WF503", "still gone", 9)
    assert conditions.get(ConditionType.FETCHED).since_at == 2
    assert conditions.get(ConditionType.FETCHED).text == "still gone"
