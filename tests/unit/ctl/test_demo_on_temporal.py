"""The development server of the demo: where it is, and what its namespace has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from waterflowd.ctl.demo.temporal import SEARCH_ATTRIBUTES, DevelopmentServer
from waterflowd.ctl.failures import Failure
from waterflowd.temporal import messages


def test_the_demo_s_namespace_has_what_the_daemon_looks_for() -> None:
    """The command line does not import the engine, so it has its own list."""
    assert SEARCH_ATTRIBUTES == messages.SEARCH_ATTRIBUTES


def test_without_the_development_dependencies_the_demo_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is no part of Waterflow's packages."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(Failure) as failed:
        DevelopmentServer(tmp_path)
    assert "make demo ENGINE=temporal" in failed.value.next_step
