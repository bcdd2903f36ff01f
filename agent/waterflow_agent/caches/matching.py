"""Which cache entry a step gets: the same rule for the daemon and for the caches of a server. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Entry = TypeVar("Entry")


def best_first(
    entries: Iterable[Entry], keys: Sequence[str], key_of: Callable[[Entry], str], saved_at: Callable[[Entry], int]
) -> Iterator[Entry]:
    """Yields the entries that fit, the best first; `entries` are in the order in which they were saved.

    The keys are tried in their order. For each, an entry with exactly this key comes before those whose key begins with it,
    and of these the newest comes first.
    """
    # The sort is stable: of two that were saved in the same millisecond, the later one comes first.
    newest_first = sorted(entries, key=saved_at)
    newest_first.reverse()
    for key in keys:
        yield from [entry for entry in newest_first if key_of(entry) == key]
        yield from [entry for entry in newest_first if key_of(entry) != key and key_of(entry).startswith(key)]
