"""The budget of file descriptors."""

from __future__ import annotations

import pytest

from waterflowd.app import file_descriptors


@pytest.mark.parametrize(("limit", "connections"), [(64, 16), (1_024, 320), (1_216, 512), (65_536, 512)])
def test_a_low_limit_leaves_fewer_connections(limit: int, connections: int) -> None:
    """The log, the children and the unix socket keep their share."""
    assert file_descriptors.connections_max(limit, wanted=512, reserved=448) == connections
