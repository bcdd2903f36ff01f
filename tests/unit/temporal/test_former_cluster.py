"""The file that says which cluster a data directory belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from waterflow_agent.errors import Stalled
from waterflowd.app import former_cluster
from waterflowd.app.cli import main
from waterflowd.app.config import Config, TemporalTable
from waterflowd.store import layout

TABLE = TemporalTable(address="127.0.0.1:1", namespace="ops", ca="/etc/ca.pem")


async def test_a_data_directory_without_the_file_may_use_every_engine(tmp_path: Path) -> None:
    """Nothing is asked, also with a cluster in the configuration."""
    await former_cluster.check_left(Config(data_dir=str(tmp_path), temporal=TABLE))
    await former_cluster.check_left(Config(data_dir=str(tmp_path), temporal=TABLE), "the id")


async def test_a_daemon_that_stays_asks_nobody(tmp_path: Path) -> None:
    """The namespace counts, not its name and not the address."""
    former_cluster.write(tmp_path, "the id", TABLE)
    await former_cluster.check_left(Config(data_dir=str(tmp_path)), "the id")


@pytest.mark.parametrize("namespace_id", ["", "another id"])
async def test_a_cluster_that_does_not_answer_might_have_open_runs(tmp_path: Path, namespace_id: str) -> None:
    """Its address is that of the file, if the configuration no longer has one."""
    former_cluster.write(tmp_path, "the id", TemporalTable(address="127.0.0.1:1", namespace="ops"))
    with pytest.raises(Stalled, match=r"the namespace ops at 127\.0\.0\.1:1, which cannot be asked .*\[WF815\]"):
        await former_cluster.check_left(Config(data_dir=str(tmp_path)), namespace_id)


async def test_a_certificate_that_is_gone_is_named(tmp_path: Path) -> None:
    """It was named by the configuration, when that still had a cluster."""
    former_cluster.write(tmp_path, "the id", TemporalTable(address="temporal:7233", ca=str(tmp_path / "ca.pem")))
    with pytest.raises(Stalled, match=r"ca\.pem cannot be read: No such file"):
        await former_cluster.check_left(Config(data_dir=str(tmp_path)))


async def test_a_damaged_file_is_no_permission(tmp_path: Path) -> None:
    """A person may remove it, with the command."""
    (tmp_path / layout.CLUSTER_FILE).write_text("{")
    with pytest.raises(Stalled, match=r"cluster\.json.*cannot be read.*forget-cluster.*\[WF815\]"):
        await former_cluster.check_left(Config(data_dir=str(tmp_path)))
    told = CliRunner().invoke(main, ["forget-cluster", "--data-dir", str(tmp_path)])
    assert told.exit_code == 0, told.output
    await former_cluster.check_left(Config(data_dir=str(tmp_path)))


def test_the_file_says_how_to_connect_and_has_no_secret(tmp_path: Path) -> None:
    """It names the files with keys, in which the daemon looks for them."""
    key = tmp_path / "api.key"
    key.write_text("a secret")
    former_cluster.write(tmp_path, "the id", TemporalTable(address="temporal:7233", api_key_file=str(key)))
    known = former_cluster.read(tmp_path)
    assert known is not None
    assert (known.cluster.address, known.cluster.namespace, known.namespace_id) == (
        "temporal:7233",
        "waterflow",
        "the id",
    )
    assert known.cluster.api_key_file == str(key)
    assert "a secret" not in (tmp_path / layout.CLUSTER_FILE).read_text()


async def test_a_directory_that_cannot_be_used_is_reported_by_those_who_open_it(tmp_path: Path) -> None:
    """With their own code and text, with either engine."""
    (tmp_path / "file").touch()
    for data_dir in (tmp_path / "new", tmp_path / "file" / "below"):
        await former_cluster.check_left(Config(data_dir=str(data_dir)))


def test_a_directory_without_a_cluster_has_nothing_to_forget(tmp_path: Path) -> None:
    """The command may be repeated."""
    former_cluster.write(tmp_path, "the id", TABLE)
    for text in ("no longer belongs to the namespace ops at 127.0.0.1:1", "does not belong to a cluster"):
        told = CliRunner().invoke(main, ["forget-cluster", "--data-dir", str(tmp_path)])
        assert told.exit_code == 0
        assert text in told.output
