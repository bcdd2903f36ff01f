"""Which daemons open payloads: those with a cluster in their configuration, and the keys."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from waterflow_agent.errors import Rejected, Stalled
from waterflowd.app import cluster_check
from waterflowd.app.config import Config, TemporalTable
from waterflowd.temporal.sealing.payload_decoder import PayloadDecoder


def configured(tmp_path: Path, engine: str = "log") -> Config:
    keys = tmp_path / "payload.keys"
    keys.write_text("ab" * 32)
    keys.chmod(0o600)
    table = TemporalTable(address="127.0.0.1:7233", payload_keys=str(keys))
    return Config(data_dir=str(tmp_path / "data"), engine=engine, temporal=table)


def test_a_daemon_with_a_cluster_opens_payloads(tmp_path: Path) -> None:
    """With either engine: also while a cluster is prepared, and after a return to the log engine."""
    assert cluster_check.payload_decoder(Config()) is None
    for engine in ("log", "temporal"):
        assert isinstance(cluster_check.payload_decoder(configured(tmp_path, engine)), PayloadDecoder)


def test_a_key_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    """Its path is a mistake in the configuration."""
    config = configured(tmp_path)
    Path(config.temporal.payload_keys).write_text("no key")
    with pytest.raises(Rejected, match="WF622"):
        cluster_check.payload_decoder(config)


def test_without_the_extra_the_log_engine_still_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages do not contain Temporal's client."""
    monkeypatch.delitem(sys.modules, "waterflowd.temporal.sealing.payload_decoder")
    monkeypatch.setitem(sys.modules, "temporalio.api.common.v1", None)
    assert cluster_check.payload_decoder(configured(tmp_path)) is None
    with pytest.raises(Stalled, match="WF801"):
        cluster_check.payload_decoder(configured(tmp_path, "temporal"))
