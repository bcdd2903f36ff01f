"""The daemon's credential for Vault: its sources, their order, and invalid ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.secrets import vault_key


def private(path: Path, content: str) -> Path:
    """Returns a file that only the owner can read."""
    path.touch(mode=0o600)
    path.write_text(content)
    return path


def test_the_order_is_variable_credential_file(tmp_path: Path) -> None:
    """This holds for the token and for the secret id, which do not replace each other."""
    private(tmp_path / "vault-token", "of-the-credential\n")
    file = str(private(tmp_path / "file", "of-the-file\n"))
    directory = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    both = {"WATERFLOWD_VAULT_TOKEN": "of-the-variable", **directory}
    data = tmp_path / "data"
    assert vault_key.reader("token", file, both, data)() == "of-the-variable"
    assert vault_key.reader("token", file, directory, data)() == "of-the-credential"
    assert vault_key.reader("token", file, {}, data)() == "of-the-file"
    assert vault_key.reader("secret-id", file, both, data)() == "of-the-file"
    with pytest.raises(Rejected, match="WATERFLOWD_VAULT_SECRET_ID, the credential vault-secret-id") as raised:
        vault_key.reader("secret-id", "", both, data)()
    assert raised.value.code == "WF622"


@pytest.mark.parametrize("content", ["", "\n", "two words", "two\nlines", "na\u00efve", "esc\x1b"])
def test_a_key_that_is_not_a_valid_header_is_refused_and_not_quoted(tmp_path: Path, content: str) -> None:
    """The HTTP library would quote it in its own error."""
    file = private(tmp_path / "token", f"hvs.{content}" if content.strip() else content)
    with pytest.raises(Rejected, match="does not hold a Vault key") as raised:
        vault_key.reader("token", str(file), {}, tmp_path / "data")()
    assert "hvs." not in str(raised.value)


def test_a_file_in_the_data_directory_or_readable_by_others_is_refused(tmp_path: Path) -> None:
    """Otherwise a backup would include it."""
    (tmp_path / "data").mkdir()
    inside = private(tmp_path / "data" / "token", "hvs.x")
    with pytest.raises(Rejected, match="data directory"):
        vault_key.reader("token", str(inside), {}, tmp_path / "data")()
    outside = private(tmp_path / "token", "hvs.x")
    outside.chmod(0o604)
    with pytest.raises(Rejected, match=r"vault\.token-file: .* can be read by other users"):
        vault_key.reader("token", str(outside), {}, tmp_path / "data")()
