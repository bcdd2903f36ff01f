"""The message to the service manager that the runner is ready."""

from __future__ import annotations

from pathlib import Path

import pytest

from waterflow_agent.runner import __main__ as runner


def test_a_runner_that_cannot_notify_says_so_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the socket, not the data directory."""
    address = str(tmp_path / "nobody-listens")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    runner._notify_systemd("READY=1")
    assert f"cannot notify the service manager at {address}" in capsys.readouterr().err
