"""Which cache entry a step gets."""

from __future__ import annotations

import pytest

from waterflow_agent.caches.matching import best_first

#: Key and time, in the order in which they were saved.
SAVED = [("npm-1", 10), ("npm-22", 30), ("npm-2", 20), ("npm-3", 30), ("go-1", 40)]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["npm-2"], ["npm-2", "npm-22"]),
        (["npm-4", "npm-"], ["npm-3", "npm-22", "npm-2", "npm-1"]),
        (["npm-1", "go-"], ["npm-1", "go-1"]),
        (["rust-"], []),
    ],
    ids=["exactly the key, then one that begins with it", "the newest first", "keys in their order", "none"],
)
def test_the_entry_that_fits_best_comes_first(keys: list[str], expected: list[str]) -> None:
    """Of two that were saved in the same millisecond, the later one."""
    found = best_first(SAVED, keys, lambda entry: entry[0], lambda entry: entry[1])

    assert [key for key, _ in found] == expected
