"""`systemd/unit` on a machine without its requirements; `tests/booted` tests it with a real systemd."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from waterflow_agent.attempts import Outcome
from waterflow_agent.testing import run_node

#: The real `systemctl`, on a machine whose systemd cannot be reached.
WITHOUT = """#!/bin/sh
exec unshare --mount sh -c 'mount -t tmpfs none /run && exec {systemctl} "$@"' sh "$@"
"""


@pytest.mark.parametrize("name", ["-H", "--force"])
def test_an_option_is_refused_as_a_unit_name(tmp_path: Path, name: str) -> None:
    """An option is refused before systemctl is called."""
    ended = run_node("systemd/unit", {"name": name, "state": "started"}, directory=tmp_path)
    assert (ended.outcome, ended.exit_code, ended.text) == (Outcome.FAILURE, 1, f'invalid unit name "{name}"')


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"name": "a.service", "state": "up"}, "with.state: unknown value 'up'"),
        ({"name": ""}, "with.name: "),
        ({"state": "started"}, 'missing key "name"'),
        ({"name": "a.service", "enabled": "yes"}, "with.enabled: "),
    ],
)
def test_a_wrong_parameter_is_named(tmp_path: Path, params: dict[str, object], text: str) -> None:
    """Parameters are checked before systemctl is called."""
    ended = run_node("systemd/unit", params, directory=tmp_path)
    assert (ended.outcome, ended.exit_code) == (Outcome.FAILURE, None), ended
    assert text in ended.text


def test_a_missing_systemctl_is_a_permanent_failure(tmp_path: Path) -> None:
    """A missing systemctl is a permanent failure."""
    ended = run_node("systemd/unit", {"name": "a.service"}, directory=tmp_path, env={"PATH": str(tmp_path)})
    assert (ended.exit_code, ended.text) == (1, "program systemctl not found on this server")


@pytest.mark.root
def test_an_unresponsive_systemd_is_a_temporary_failure(tmp_path: Path) -> None:
    """The exit code is 75, and nothing was changed."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        pytest.skip("systemctl is not installed")
    (tmp_path / "systemctl").write_text(WITHOUT.format(systemctl=systemctl))
    (tmp_path / "systemctl").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"}
    ended = run_node("systemd/unit", {"name": "a.service", "state": "started"}, directory=tmp_path, env=env)
    assert (ended.exit_code, ended.text) == (75, "cannot connect to systemd on this server"), ended
