"""Which users root's configuration allows for steps."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

import pytest

from waterflow_agent.runner.users import UserRefused, Users

#: Users that every machine has.
USERS = ("daemon", "bin", "nobody")


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A configuration that allows none of the users."""
    if os.geteuid() != 0:
        pytest.skip("needs root: only then steps can run as another user")
    file = tmp_path / "agent.toml"
    file.write_text("slots = 2\n")
    return file


def allowed(configuration: Path) -> list[str]:
    """Returns the users that steps may run as."""
    users = Users(str(configuration))
    found = []
    for name in USERS:
        with contextlib.suppress(UserRefused):
            user = users.find(name)
            assert user is not None
            assert user.uid == pwd.getpwnam(name).pw_uid
            found.append(name)
    return found


@pytest.mark.root
def test_the_file_allows_users_and_is_read_again(configuration: Path) -> None:
    """By any of the three keys, without a restart."""
    assert allowed(configuration) == []
    with pytest.raises(UserRefused, match=f"add it to step-users in {configuration}"):
        Users(str(configuration)).find("daemon")
    configuration.write_text('step-user = "daemon"\nstep-users = ["bin"]\ngroup-users = { db = "nobody" }\n')
    assert allowed(configuration) == ["daemon", "bin", "nobody"]
    configuration.unlink()
    assert allowed(configuration) == []


@pytest.mark.root
@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("STEP_USER", "daemon", ["daemon"]),
        ("STEP_USERS", "daemon, nobody", ["daemon", "nobody"]),
        ("GROUP_USERS", "db=bin,web=nobody", ["bin", "nobody"]),
        ("STEP_USERS", '["daemon", "nobody"]', ["daemon", "nobody"]),
        ("GROUP_USERS", '{db = "bin"}', ["bin"]),
        ("GROUP_USERS", '{"db": "bin"}', ["bin"]),
        ("STEP_USERS", "[daemon", []),
        ("STEP_USERS", "", []),
    ],
)
def test_the_environment_of_the_unit_allows_users(
    configuration: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: list[str]
) -> None:
    """As the file does, because root writes both."""
    monkeypatch.setenv(f"WATERFLOW_AGENT_{variable}", value)

    assert allowed(configuration) == expected
