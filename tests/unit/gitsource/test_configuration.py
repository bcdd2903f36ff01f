"""The configuration of remotes, and the errors of `check-config`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from dulwich.repo import Repo

from waterflow_agent.errors import Rejected
from waterflowd.app import config
from waterflowd.app.cli import main
from waterflowd.gitsource.remote import credentials


def written(directory: Path, *lines: str) -> Path:
    file = directory / "waterflowd.toml"
    file.write_text("\n".join(["[[repositories]]", 'name = "ops"', *lines]))
    return file


def test_every_key_of_a_remote_is_used(tmp_path: Path) -> None:
    """Each key reaches the source."""
    file = written(
        tmp_path,
        'url = "git@host:ops.git"',
        'ssh-key-file = "/k"',
        'known-hosts-file = "/h"',
        'credentials-file = "/c"',
        'ca-file = "/a"',
        "allow-http = true",
        'fetch-timeout = "30s"',
        "fetch-max-bytes = 2000000",
    )
    [found] = config.load(file, environment={}).repository_settings
    assert (found.ssh_key_file, found.known_hosts_file, found.credentials_file, found.ca_file) == (
        "/k",
        "/h",
        "/c",
        "/a",
    )
    assert (found.allow_http, found.fetch_timeout_ms, found.fetch_bytes_max) == (True, 30_000, 2_000_000)


@pytest.mark.parametrize("line", ['fetch-timeout = "soon"', "fetch-max-bytes = 1", "fetch-max-bytes = -1"])
def test_invalid_limits_are_refused(tmp_path: Path, line: str) -> None:
    """The error names the key."""
    with pytest.raises(Rejected, match=line.split()[0]):
        config.load(written(tmp_path, 'url = "https://host/ops.git"', line), environment={})


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['url = "https://ada:geheim@host/ops.git"'], "credentials-file"),
        (['url = "git@host:ops.git"'], "ssh-key-file"),
        (['url = "http://host/ops.git"'], "use https"),
        (['url = "ext::sh"'], "remote helpers"),
    ],
)
def test_check_config_reports_what_cannot_work(tmp_path: Path, lines: list[str], words: str) -> None:
    """It reports problems before the daemon is started, and does not need the secret."""
    done = CliRunner().invoke(main, ["check-config", "--config", str(written(tmp_path, *lines))])
    assert done.exit_code == 2
    assert words in done.output
    assert "geheim" not in done.output


def test_check_config_tolerates_a_repository_that_cannot_be_read_now(tmp_path: Path) -> None:
    """The configuration is valid; what cannot be checked is named, and the other repositories are checked."""
    empty = tmp_path / "empty.git"
    Repo.init_bare(str(empty), mkdir=True).close()
    file = written(
        tmp_path, f'url = "{tmp_path}/gone.git"', "[[repositories]]", 'name = "empty"', f'url = "{empty}"', ""
    )
    done = CliRunner().invoke(main, ["check-config", "--config", str(file)])
    assert done.exit_code == 0, done.output
    _, gone, other = done.output.splitlines()
    assert gone.startswith('repository "ops" cannot be read now: ')
    assert "does not exist [WF503]" in gone
    assert other == 'repository "empty": no workflows'


def test_the_variable_of_a_repository_is_its_name_in_capitals() -> None:
    """Underscores replace characters that a shell does not accept."""
    assert credentials.variable("ops-web.v2") == "WATERFLOWD_GIT_TOKEN_OPS_WEB_V2"
