"""The order of all sources, and the effects of one that does not answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.secrets.age import AgeFiles
from waterflowd.secrets.local_sources import LocalSources
from waterflowd.secrets.secret_reader import SecretReader
from waterflowd.secrets.sources import RunRevision, Sources
from waterflowd.secrets.values import BYTES_MAX
from waterflowd.secrets.vault_settings import VaultField
from waterflowd.testing.awaiting import until

COMMIT = RunRevision("ops", "c1")
NOWHERE = RunRevision(None, None)


class Files(AgeFiles):
    """Encrypted files of `ops`, already decrypted."""

    def __init__(self, *, values: dict[str, str] | Exception) -> None:
        self.values = values
        self.read_at: list[tuple[str, str]] = []

    def has(self, repository: str | None) -> bool:
        """See `AgeFiles`."""
        return repository == "ops"

    async def read(self, repository: str, revision: str) -> tuple[dict[str, str], float]:
        """See `AgeFiles`."""
        self.read_at.append((repository, revision))
        if isinstance(self.values, Exception):
            raise self.values
        return self.values, 60.0


class Server:
    """Vault: `both` and `of_vault` are at one path."""

    def __init__(self, values: dict[str, str] | Exception) -> None:
        self.values = values
        self.asked: list[str] = []

    def field(self, name: str) -> VaultField | None:
        """See `Vault`."""
        return VaultField("apps/web", name) if name in ("both", "of_vault", "own") else None

    async def read(self, path: str) -> tuple[dict[str, str], float]:
        """See `Vault`."""
        self.asked.append(path)
        if isinstance(self.values, Exception):
            raise self.values
        return self.values, 60.0

    async def close(self) -> None:
        """See `Vault`."""


def made(files: Files, vault: Server) -> Sources:
    """Returns all sources; the environment has `own`."""
    local = LocalSources("S_", None, {"S_OWN": "of the environment"})
    return Sources(local, SecretReader(600), files, vault)  # type: ignore[arg-type]


async def got(sources: Sources, name: str, commit: RunRevision = COMMIT) -> str | None:
    """Returns the value after everything has been read."""

    def is_read() -> bool:
        try:
            sources.get(name, commit)
        except Retryable:
            return False
        except Rejected:
            pass
        return True

    await until(is_read, PATIENCE_S)
    return sources.get(name, commit)


async def test_the_first_source_with_the_name_wins_and_later_ones_are_not_read() -> None:
    """The order is the daemon's host, Vault, the repository's files."""
    files = Files(values={"own": "f", "both": "f", "of_file": "f"})
    vault = Server({"own": "v", "both": "v", "of_vault": "v"})
    sources = made(files, vault)
    assert await got(sources, "OWN") == "of the environment"
    assert (vault.asked, files.read_at) == ([], [])
    assert await got(sources, "Both") == "v"
    assert await got(sources, "of-vault") == "v"
    assert (vault.asked, files.read_at) == (["apps/web"], [])
    assert await got(sources, "OF_FILE") == "f"
    assert files.read_at == [COMMIT]
    assert await got(sources, "nowhere") is None
    await sources.close()


async def test_the_files_are_available_only_to_runs_of_their_repository() -> None:
    """Runs without a repository or of another repository do not get them."""
    files = Files(values={"of_file": "f"})
    sources = made(files, Server({}))
    assert sources.get("of_file", NOWHERE) is None
    assert sources.get("of_file", RunRevision("web", "c1")) is None
    assert files.read_at == []
    await sources.close()


async def test_a_source_that_does_not_answer_is_not_skipped() -> None:
    """Otherwise the order would change from moment to moment. Names of earlier sources are still available."""
    sources = made(Files(values={"both": "f", "of_file": "f"}), Server(Retryable("WF626", "Vault is sealed")))
    with pytest.raises(Retryable, match="waiting for secret both"):
        sources.get("both", COMMIT)
    assert await got(sources, "of_file") == "f"
    with pytest.raises(Retryable, match="waiting for secret both: Vault is sealed"):
        sources.get("both", COMMIT)
    await sources.close()


async def test_a_failure_names_the_secret_and_keeps_the_code() -> None:
    """The reader then knows which secret to check, and where."""
    sources = made(Files(values=Rejected("WF626", "cannot decrypt x.age")), Server({}))
    with pytest.raises(Rejected, match=r"cannot read secret of_file: cannot decrypt x\.age"):
        await got(sources, "of_file")
    await sources.close()


@pytest.mark.parametrize("value", ["a\0b", "x" * (BYTES_MAX + 1)])
async def test_an_unusable_value_is_reported_without_it(value: str) -> None:
    """This matches the sources on the daemon's host."""
    sources = made(Files(values={"odd": value}), Server({}))
    with pytest.raises(Rejected, match="secret odd ") as raised:
        await got(sources, "odd")
    assert value not in raised.value.text
    await sources.close()


async def test_all_reads_start_at_once_and_missing_secrets_are_reported_first() -> None:
    """A step waits only for its slowest secret, and not at all if one is missing."""
    files, vault = Files(values={"of_file": "f"}), Server({"of_vault": "v"})
    sources = made(files, vault)
    with pytest.raises(Retryable):
        sources.missing(["of_vault", "of_file", "own"], COMMIT)
    await until(lambda: bool(vault.asked and files.read_at), PATIENCE_S)
    await got(sources, "of_file")
    await got(sources, "of_vault")
    assert sources.missing(["of_vault", "of_file", "own"], COMMIT) == []
    assert sources.missing(["of_vault", "of_file", "nowhere"], COMMIT) == ["nowhere"]
    await sources.close()


def test_a_check_reads_every_file(tmp_path: Path) -> None:
    """The test covers the daemon's file; identity files have their own tests."""

    async def read_files(repository: str, revision: str, paths: Sequence[str]) -> dict[str, bytes]:
        return {}

    sources = Sources(LocalSources("", tmp_path / "none"), SecretReader(1), AgeFiles({}, read_files, tmp_path))
    with pytest.raises(Rejected, match="WF622"):
        sources.check()
