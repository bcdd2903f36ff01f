"""The secret sources on the daemon's host: their order, and values that are refused."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.secrets.local_sources import LocalSources
from waterflowd.secrets.values import BYTES_MAX as VALUE_BYTES_MAX


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Returns a secrets file."""
    path = tmp_path / "secrets.toml"
    path.write_text('deploy-key = "of the file"\nonly_file = "file"\n')
    path.chmod(0o600)
    return path


def with_credentials(tmp_path: Path, file: Path | None = None, **variables: str) -> LocalSources:
    """Returns all sources; `deploy-key` and `only-credential` are systemd credentials."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "secret.deploy-key").write_text("of systemd\n")
    (directory / "secret.only-credential").write_text("two\nlines\n")
    (directory / "tls-key").write_text("not for workflows")
    return LocalSources("S_", file, {"CREDENTIALS_DIRECTORY": str(directory), **variables}, "secret.")


def test_the_first_source_with_the_name_wins(tmp_path: Path, file: Path) -> None:
    """The order is environment, systemd credentials, file."""
    secrets = with_credentials(tmp_path, file, S_DEPLOY_KEY="of the environment")
    assert secrets.get("DEPLOY_KEY") == "of the environment"

    (tmp_path / "credentials").rename(tmp_path / "moved")
    assert secrets.get("only_file") == "file"
    (tmp_path / "moved").rename(tmp_path / "credentials")

    secrets = LocalSources("S_", file, {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}, "secret.")
    assert secrets.get("Deploy_Key") == "of systemd"
    assert secrets.get("ONLY_CREDENTIAL") == "two\nlines"
    assert LocalSources("S_", file, {}, "secret.").get("deploy_key") == "of the file"
    assert secrets.get("missing") is None


def test_credentials_without_the_prefix_are_not_secrets(tmp_path: Path) -> None:
    """If no prefix is configured, no credential is a secret."""
    secrets = with_credentials(tmp_path)
    assert secrets.get("tls_key") is None
    assert secrets.get("..") is None
    none = LocalSources("S_", None, {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}, "")
    assert none.get("secret.deploy-key") is None


def test_a_changed_file_is_read_again(file: Path) -> None:
    """The new value is used from the next task on."""
    secrets = LocalSources("", file, {})
    assert secrets.get("only-file") == "file"
    file.write_text('only-file = "a newer one"\n')
    os.utime(file, (1, 1))
    assert secrets.get("only-file") == "a newer one"


def test_a_file_that_others_can_read_is_not_used(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, without a value, and `check` fails."""
    file.chmod(0o640)
    secrets = LocalSources("", file, {})
    with caplog.at_level(logging.ERROR):
        assert secrets.get("only-file") is None
        assert secrets.get("only-file") is None
    with pytest.raises(Rejected, match="WF622"):
        secrets.check()
    assert len(caplog.records) == 1
    assert "chmod 600" in caplog.text


@pytest.mark.parametrize("content", ['only-file = "s3cret', 'only-file = ["s3cret"]', 'a = "s3cret" b'])
def test_an_invalid_file_is_reported_without_its_values(
    file: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The parser's message could quote a line, so it is not used."""
    file.write_text(content)
    with caplog.at_level(logging.ERROR):
        assert LocalSources("", file, {}).get("only-file") is None
    assert "WF622" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("value", ["x" * (VALUE_BYTES_MAX + 1), "a\0b", "of a variable that is no text: \udcff"])
def test_a_value_that_no_step_could_receive_is_not_used(
    tmp_path: Path, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the secret and the reason."""
    secrets = with_credentials(tmp_path, S_ODD=value)
    with caplog.at_level(logging.ERROR):
        assert secrets.get("ODD") is None
    assert "secret ODD " in caplog.text
    assert value not in caplog.text
