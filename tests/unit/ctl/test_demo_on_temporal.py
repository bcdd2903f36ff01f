"""The development server of the demo: where it is, and what its namespace has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from tests.tidy import sources
from waterflowd.ctl.demo.temporal import DYNAMIC_CONFIG, SEARCH_ATTRIBUTES, DevelopmentServer
from waterflowd.ctl.failures import Failure
from waterflowd.temporal.workflow import messages


def test_the_demo_s_namespace_has_what_the_daemon_looks_for() -> None:
    """The command line does not import the engine, so it has its own list."""
    assert SEARCH_ATTRIBUTES == messages.SEARCH_ATTRIBUTES


def test_prepared_clusters_have_the_dynamic_configuration_of_the_demo() -> None:
    """The compose file sets it, and the documentation says so to those who operate a cluster."""
    folder = sources.ROOT / "packaging/docker"
    composed = yaml.safe_load((folder / "compose.temporal.yaml").read_text("utf-8"))
    content = yaml.safe_load((folder / composed["configs"]["dynamic-config"]["file"]).read_text("utf-8"))
    assert content == {key: [{"value": int(value)}] for key, value in DYNAMIC_CONFIG.items()}
    [target] = [each["target"] for each in composed["services"]["temporal"]["configs"]]
    assert composed["services"]["temporal"]["environment"]["DYNAMIC_CONFIG_FILE_PATH"] == target
    page = (sources.ROOT / "docs/temporal.md").read_text("utf-8")
    assert [key for key, value in DYNAMIC_CONFIG.items() if f"{key}:\n  - value: {value}\n" not in page] == []


def test_without_the_development_dependencies_the_demo_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is no part of Waterflow's packages."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(Failure) as failed:
        DevelopmentServer(tmp_path)
    assert "make demo ENGINE=temporal" in failed.value.next_step
