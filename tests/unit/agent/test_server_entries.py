"""The caches that a server keeps: what they may take of its disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from waterflow_agent.artifacts import content
from waterflow_agent.caches.server_entries import ServerEntries
from waterflow_agent.errors import Rejected
from waterflow_agent.machine import RESERVED_BYTES
from waterflow_agent.wire.messages import BeginCache, CacheOrigin

ORIGIN = CacheOrigin("scope", ("refs/heads/main",))


def test_a_disk_that_fills_up_while_an_entry_is_saved_keeps_its_reserve(tmp_path: Path) -> None:
    """Steps and the agent itself need it; the entry is not made."""
    free = 2 * RESERVED_BYTES
    entries = ServerEntries(tmp_path, 1 << 40, 1_000, lambda _: free)
    block = b"x" * 1_000
    assert entries.begin(ORIGIN, BeginCache("key", bytes(32), 1, len(block)))
    entries.store("maker", content.digest_of(block), block)

    free = RESERVED_BYTES - 1

    with pytest.raises(Rejected, match="MiB are free") as refused:
        entries.store("maker", content.digest_of(b"y"), b"y")
    assert refused.value.code == "WF302"
